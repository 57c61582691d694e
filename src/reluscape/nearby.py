"""Is there an exact stationary point next to a numerically stationary one?

A gradient within rounding error of zero proves nothing by itself: on separable data the cross-entropy
falls forever, ever more slowly. On a cell the loss is convex, so with curvature at least m along the
directions in question, a gradient part of length e puts the minimiser within e / m (within 2 e / m
where the curvature may halve on the way). Directions of no curvature must be flat by structure.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from reluscape.arithmetic import eigenvalue_margin
from reluscape.tolerances import TOLERANCES

Floats = NDArray[np.float64]


def distance_to_stationary(
    hessian: Floats, gradient: Floats, error: Floats, rank: int
) -> float | None:
    """Bound on the distance to the stationary point of a quadratic with this Hessian.

    Args:
        hessian: Positive semidefinite up to rounding, shape (n, n).
        gradient: Shape (n,).
        error: Bounds on its entries' errors, shape (n,).
        rank: Number of directions that must be curved, all others being flat by structure.

    Returns:
        The bound, or None where curvature that should be there is lost in rounding.
    """
    if len(hessian) == 0:
        return 0.0
    values, vectors = np.linalg.eigh(hessian)
    curved = values > eigenvalue_margin(values)
    if curved.sum() != rank:
        return None
    size = np.abs(vectors.T @ gradient) + np.abs(vectors.T) @ error
    return float(np.linalg.norm(size[curved] / values[curved]))


def rank_of(triangle: Floats) -> int:
    """Numerical rank of a matrix from the triangle of its QR factorisation.

    Singular values of the outputs' Jacobian are seen down to rounding, where its square, the
    Hessian, has lost the smaller half of them.
    """
    if triangle.size == 0:
        return 0
    values = np.linalg.svd(triangle, compute_uv=False)
    margin = TOLERANCES.eigenvalue * max(triangle.shape) * float(np.finfo(float).eps)
    return int((values > margin * values[0]).sum())


def triangle_of(blocks: Iterable[Floats], size: int) -> Floats:
    """Triangle R of the QR factorisation of stacked blocks, one block at a time."""
    triangle = np.empty((0, size))
    for block in blocks:
        triangle = np.asarray(np.linalg.qr(np.vstack([triangle, block]), mode="r"))
    return triangle


def radius_of(
    distance: float | None, *, quadratic: bool, sway: float, clearance: float, scale: float
) -> float | None:
    """Radius around the point within which an exact stationary point is proved, or None.

    Args:
        distance: From `distance_to_stationary`.
        quadratic: Whether the curvature is constant on the cell. The cross-entropy's changes along a
            step by at most the factor exp(range of the outputs' change), being generalised
            self-concordant: up to a range of 1/2 it stays above half.
        sway: Largest change of any sample's outputs per unit of theta.
        clearance: Distance to the nearest kink that is not active.
        scale: `1 + ||theta||`.
    """
    if distance is None:
        return None
    radius = distance if quadratic else 2.0 * distance
    steady = quadratic or 2.0 * sway * radius <= 0.5
    near = radius <= TOLERANCES.existence * scale and radius < clearance
    return radius if steady and near else None
