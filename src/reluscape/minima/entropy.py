"""How far the outputs of a cross-entropy's minimisers can be from those of a point that nearly is one.

Write `F(q) = 1/N sum_i phi(E_i q)`, phi the log-sum-exp less the own class's output, p its softmax at
the known point q0 and `d = q - q0` to a minimiser q. The third derivative is a third cumulant, at most
`range(v) Var_p(u)` for directions v, u, u; so along d the curvature changes by at most a factor `exp(R)`,
R the largest range of an `E_i d` (generalised self-concordance; F. Bach, Self-concordant analysis for
logistic regression, 2010). With `delta^2 = d^T H d = 1/N sum_i Var_p(E_i d)`:

    R <= kappa delta,  kappa^2 = N max_i (1/p_a + 1/p_b)   for the two least likely classes of sample i;
    l . E d <= |l| delta,  |l|^2 = N sum l^2 / p           for l with rows that add up to zero;
    delta^2 (1 - exp(-R)) / R <= -F'(q0) . d.

The gradient is `E^T s`, s the slopes at q0 as computed, and E^T times their errors e: its product with d
is at most `|E^T s| |d| + |e| delta`. Where kappa |e| <= 1/4 this leaves, with |d| <= 2 L,

    kappa delta <= 1  and  delta^2 <= 5.1 |e|^2 + 6.4 |E^T s| L,  or  delta <= 5.3 kappa |E^T s| L.

In the first case one Newton step, l = B E w with B the curvature at q0, does better than `|l| delta`:
because `w^T E^T s(q) = 0` at a minimiser, `l . E d` is `-w^T F'(q0)` but for `delta^2` times the largest
range of an `E_i w`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from reluscape.minima.frozen_cell import EPS, FrozenCell, Products

Floats = NDArray[np.float64]


def moved_at_most(
    cell: FrozenCell, point: Floats, rows: Floats, direction: Floats, length: float
) -> float:
    """Bound on `l . E (q - point)` for all minimisers q.

    Args:
        cell: The cell.
        point: A point that nearly is a minimiser (params,).
        rows: l (samples, outputs).
        direction: w (params,), with `l = B E w` as nearly as it may be.
        length: L: of the point and of q in scaled columns. What is returned grows no faster than L.
    """
    there, moved = cell.forward(point), cell.forward(direction, linear=True)
    widest = float(there.output_errors.max(initial=0.0)) + 8 * EPS
    known = softmax(there.outputs, axis=1)
    least = known * np.exp(-2.0 * widest)
    common = np.abs(rows.sum(axis=1)) > cell.unit * np.abs(rows).sum(axis=1)
    if not least.all() or common.any():
        return np.inf
    steep, errors = _slopes(cell, there)
    kappa, lost = _range(least), _dual(errors, least)
    if not kappa * lost <= 0.25:
        return np.inf
    near = 5.1 * lost**2 + 6.4 * steep * length
    spread = np.ptp(moved.outputs, axis=1) + 2.0 * moved.output_errors.max(axis=1, initial=0.0)
    most = float(spread.max(initial=0.0))
    newton = float(np.linalg.norm(cell.sizes * direction)) * steep
    newton += float(spread @ errors.sum(axis=1)) + most * near
    newton += _beside(cell, rows, known, least, moved, np.expm1(2.0 * widest) * most) * float(
        np.sqrt(near)
    )
    return max(newton, 5.3 * kappa * _dual(rows, least) * steep * length)


def _slopes(cell: FrozenCell, there: Products) -> tuple[float, Floats]:
    """|E^T s| with its rounding error, and the errors of s."""
    loss, none = cell.piecewise.loss, np.empty(0, dtype=np.int64)
    slopes = loss.slope(there.outputs, cell.piecewise.targets)
    errors = loss.slope_error(there.outputs, there.output_errors) + cell.unit * np.abs(slopes)
    return sum(cell.gap(none, np.empty(0), slopes)), errors


def _range(shares: Floats) -> float:
    """Kappa: the largest range of a sample's outputs by the curvature's length."""
    if shares.shape[1] < 2:
        return 0.0
    least = np.partition(shares, 1, axis=1)[:, :2]
    return float(np.sqrt((len(shares) * (1.0 / least).sum(axis=1)).max()))


def _dual(rows: Floats, shares: Floats) -> float:
    """|l|: the most that `l . E d` can be by the curvature's length of d."""
    return float(np.sqrt((len(rows) * rows**2 / shares).sum()))


def _beside(
    cell: FrozenCell, rows: Floats, known: Floats, least: Floats, moved: Products, blurred: float
) -> float:
    """|l - B E w|; `blurred` is what the errors of p make of B, by the range of E w."""
    centred = moved.outputs - (known * moved.outputs).sum(axis=1, keepdims=True)
    apart = _dual(rows - known * centred / len(rows), least)
    rounding = cell.unit * float(np.ptp(moved.outputs, axis=1).max(initial=0.0))
    return apart + 3.0 * (blurred + rounding) + 2.0 * float(moved.output_errors.max(initial=0.0))
