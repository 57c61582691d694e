"""Is there an exact stationary point next to a numerically stationary one?

A gradient within rounding error of zero proves nothing by itself: on separable data the cross-entropy
falls forever, ever more slowly. On a cell the loss is convex, so with curvature at least m along the
directions in question, a gradient part of length e puts the minimiser within e / m (within 2 e / m
where the curvature may halve on the way). Directions of no curvature must be flat by structure.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.arithmetic import eigenvalue_margin
from reluscape.tolerances import TOLERANCES

Floats = NDArray[np.float64]


def distance_to_stationary(
    hessian: Floats, gradient: Floats, error: Floats, rank: int | None
) -> float | None:
    """Bound on the distance to the stationary point of a quadratic with this Hessian.

    Args:
        hessian: Positive semidefinite up to rounding, shape (n, n).
        gradient: Shape (n,).
        error: Bounds on its entries' errors, shape (n,).
        rank: Number of directions that must be curved, all others being flat by structure; None
            where flat directions need no proof (a sum of squares attains its minimum).

    Returns:
        The bound, or None where curvature that should be there is lost in rounding.
    """
    if len(hessian) == 0:
        return 0.0
    values, vectors = np.linalg.eigh(hessian)
    curved = values > eigenvalue_margin(values)
    if rank is not None and curved.sum() != rank:
        return None
    size = np.abs(vectors.T @ gradient) + np.abs(vectors.T) @ error
    return float(np.linalg.norm(size[curved] / values[curved]))


def rank_of(matrix: NDArray[Any]) -> int:
    """Number of eigenvalues of a positive semidefinite matrix above rounding."""
    if len(matrix) == 0:
        return 0
    values = np.linalg.eigvalsh(matrix)
    return int((values > eigenvalue_margin(values)).sum())


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
