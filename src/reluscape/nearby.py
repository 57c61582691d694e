"""Is there an exact stationary point next to a numerically stationary one?

A gradient within rounding error of zero proves nothing by itself: on separable data the cross-entropy
falls forever, ever more slowly. On a cell the loss is convex, so with curvature at least m along the
directions in question, a gradient part of length e puts the minimiser within e / m (within 2 e / m
where the curvature may halve on the way). Directions without visible curvature must be flat exactly:
nearly dependent or tiny inputs hide curvature from rounding, and a slope with it. Parameters are
measured in units in which their effects on the outputs are alike, so that tiny inputs are not lost.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from reluscape.arithmetic import eigenvalue_margin
from reluscape.tolerances import TOLERANCES

Floats = NDArray[np.float64]

#: Factors `d^2 loss / d output^2 <= factor / samples`.
CURVATURES = {"squared": 2.0, "half_squared": 1.0, "cross_entropy": 1.0, "l1": 0.0}

#: Column sizes are held within these, so that no product of two overflows or underflows.
_SMALLEST, _LARGEST = 1e-70, 1e70


def column_sizes(units: Floats, inputs: Floats) -> Floats:
    """Lengths of the columns of the rows `units_i (x) inputs_i`, in theta's order.

    Args:
        units: Absolute derivatives (or sums of absolute terms) of the outputs by each sample's z,
            shape (samples, outputs, width).
        inputs: Absolute inputs, the bias's ones last where there is a bias, shape (samples, columns).
    """
    per_unit = units.max(axis=(0, 1), initial=0.0)
    per_input = inputs.max(axis=0, initial=0.0)
    left = units / np.where(per_unit > 0, per_unit, 1.0)
    right = inputs / np.where(per_input > 0, per_input, 1.0)
    lengths = np.sqrt((left**2).sum(axis=1).T @ right**2)
    return np.asarray(lengths * per_unit[:, None] * per_input)


def in_theta_order(sizes: Floats, *, bias: bool) -> Floats:
    """Entries (units, columns) as theta lists them: all weights, then all biases."""
    if not bias:
        return sizes.ravel()
    return np.concatenate([sizes[:, :-1].ravel(), sizes[:, -1]])


def scales_of(sizes: Floats, loss: str, samples: int, weight_decay: float) -> Floats:
    """Units d for the parameters, in which no entry of the Hessian exceeds one.

    In coordinates t with `theta = d t`, an entry of the Hessian's diagonal is at most
    `d_j^2 (c / samples sizes_j^2 + weight_decay)`. Where the sizes are of sums of absolute terms, a
    column that is left over from cancellation stays small, as its rounding errors do.
    """
    curved = np.hypot((CURVATURES[loss] / samples) ** 0.5 * sizes, weight_decay**0.5)
    return np.asarray(1.0 / np.where(curved > 0, np.clip(curved, _SMALLEST, _LARGEST), 1.0))


def distance_to_stationary(
    hessian: Floats,
    gradient: Floats,
    error: Floats,
    scales: Floats,
    basis: Floats,
    flat_beyond: Callable[[int], bool],
) -> float | None:
    """Bound on the distance to the stationary point of a quadratic with this Hessian.

    With the Hessian known to m and its least curvature l > 4 m, the solution x of `H x = g` in H's
    range obeys `||x|| <= ||step|| + (m / l + m / (l - 2 m)) ||x||`: the first fraction is the error
    along the computed curved directions, the second (Davis and Kahan) how far H's range is turned out
    of them.

    Args:
        hessian: In the coordinates s of `theta + scales * (basis s)`; positive semidefinite up to
            rounding, its entries at most one, shape (n, n).
        gradient: In the same coordinates, shape (n,).
        error: Bounds on its entries' errors, shape (n,).
        scales: Shape (params,).
        basis: Orthonormal columns, shape (params, n).
        flat_beyond: Whether all but so many directions are exactly flat.

    Returns:
        The bound, in theta's own coordinates, or None where a direction shows no curvature and is not
        flat for certain.
    """
    if len(hessian) == 0:
        return 0.0
    values, vectors = np.linalg.eigh(hessian)
    margin = eigenvalue_margin(np.append(values, 1.0))
    curved = values > 4.0 * margin
    if not curved.all() and not flat_beyond(int(curved.sum())):
        return None
    if not curved.any():
        return 0.0
    vectors, values = vectors[:, curved], values[curved]
    step = (np.abs(vectors.T @ gradient) + np.abs(vectors.T) @ error) / values
    length, least = float(np.linalg.norm(step)), float(values.min())
    lost = margin / least + margin / (least - 2.0 * margin)
    whole, widest = length / (1.0 - lost), float(scales.max())
    reach = np.abs(scales[:, None] * (basis @ vectors)) @ step
    return min(widest * whole, float(np.linalg.norm(reach)) + widest * (whole - length))


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
