"""A point of a block in float64: its active kinks, its gradient split along their normals, its slopes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.arithmetic import Float64, multiplier_errors
from reluscape.block import Block
from reluscape.exactly import zero_slopes
from reluscape.singular import svd
from reluscape.tolerances import TOLERANCES

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """A point of a block in float64: its active kinks and its gradient, split along their normals.

    Attributes:
        block: The block.
        theta: The point.
        pattern: Its pattern, active kinks as negative.
        bounds: Bounds on the switching values' rounding errors.
        active: Active kinks that have a say, ascending.
        normals: Their normals (k, params).
        independent: Whether LIKQ holds.
        gradient: Gradient of the adjacent cell.
        gradient_error: Bound on its rounding error, entry by entry.
        multipliers: mu (k,).
        spread: Bounds on their errors (k,).
        rest: Part of the gradient outside the span of the normals.
        sensitivities: Slope jumps' sensitivities at every level (see `Piecewise.sensitivities`).
        sensitivity_errors: Bounds on their rounding errors.
    """

    block: Block
    theta: Floats
    pattern: Bools
    bounds: Floats
    active: Indices
    normals: Floats
    independent: bool
    gradient: Floats
    gradient_error: Floats
    multipliers: Floats
    spread: Floats
    rest: Floats
    sensitivities: list[Floats]
    sensitivity_errors: list[Floats]

    @classmethod
    def at(cls, block: Block, theta: Floats) -> Point:
        """Find the active kinks at `theta` and split the gradient."""
        piecewise = block.piecewise
        values, outputs = piecewise.forward(theta)
        bounds, sensitivity_errors, gradient_error = piecewise.rounding_bounds(
            theta, TOLERANCES.rounding
        )
        zero = np.abs(values) <= bounds
        pattern = (values > 0) & ~zero
        active = _with_a_say(block, pattern, np.flatnonzero(zero))
        sensitivities = piecewise.sensitivities(pattern, piecewise.output_slope(pattern, outputs))
        gradient = piecewise.assemble(sensitivities[0]) + block.landscape.weight_decay * theta
        normals = piecewise.normals(active, pattern)
        float64 = Float64()
        independent = float64.independent(normals)
        if independent:
            multipliers = float64.multipliers(normals, gradient)
            spread = multiplier_errors(
                multipliers,
                normals,
                piecewise.normal_errors(active, pattern, TOLERANCES.rounding),
                gradient,
                gradient_error,
            )
        else:
            multipliers = _least_squares(normals, gradient)
            spread = np.full(len(active), np.inf)
        rest = gradient - normals.T @ multipliers
        return cls(
            block=block,
            theta=theta,
            pattern=pattern,
            bounds=bounds,
            active=active,
            normals=normals,
            independent=independent,
            gradient=gradient,
            gradient_error=gradient_error,
            multipliers=multipliers,
            spread=spread,
            rest=rest,
            sensitivities=sensitivities,
            sensitivity_errors=sensitivity_errors,
        )

    @property
    def rest_errors(self) -> Floats:
        """Bounds on the rounding errors of the rest: the gradient's and that of the split."""
        split = TOLERANCES.rounding * len(self.active) * float(np.finfo(np.float64).eps)
        return self.gradient_error + split * (np.abs(self.multipliers) @ np.abs(self.normals))

    @property
    def rest_error(self) -> float:
        """Bound on the rounding error of `||rest||`."""
        return float(np.linalg.norm(self.rest_errors))

    @property
    def is_stationary(self) -> bool:
        """Whether the rest vanishes within its error."""
        return float(np.linalg.norm(self.rest)) <= self.rest_error

    def bends(self) -> Floats:
        """Matrix C with `a_q' = a_q + C[q, k] a_k` when kink k is crossed to its positive side."""
        piecewise = self.block.piecewise
        return _bends(self.block, self.active, piecewise.push(self.active, self.pattern))

    def slopes(self) -> tuple[Floats, Floats]:
        """Slopes into the negative and positive side of every active kink, and their errors, (k, 2).

        Slopes that are zero for certain have no error.
        """
        jumps, wide = self.jumps()
        bends, piecewise = self.bends(), self.block.piecewise
        noise = TOLERANCES.rounding * piecewise.depth_terms * float(np.finfo(np.float64).eps)
        size = np.abs(self.multipliers)
        across = self.multipliers + jumps - bends.T @ self.multipliers
        wide = wide + noise * (size + np.abs(jumps) + np.abs(bends).T @ size)
        wide = wide + self.spread + np.abs(bends).T @ self.spread
        slopes = np.column_stack([-self.multipliers, across])
        errors = np.column_stack([self.spread, wide])
        if self.independent:
            at = self.pattern, self.active
            zero = zero_slopes(self.block.landscape, self.block.layer, at, slopes, errors)
            slopes[zero] = errors[zero] = 0.0
        return slopes, errors

    def descent(self) -> tuple[Floats, float]:
        """Unit direction of steepest descent along the active kinks, and a lower bound of the fall.

        A rest that is small beside the multipliers is no such direction after rounding: off the kinks
        by 1e-16, it rises by 1e-16 of their multipliers. Projected twice, it is as close to them as
        floats can be, and `slack` bounds what is left.
        """
        away = self.rest
        if len(self.active):
            span = svd(self.normals)[2][: Float64().rank(self.normals)]
            if self.independent:
                span = np.linalg.qr(self.normals.T)[0].T
            for _ in range(2):
                away = away - span.T @ (span @ away)
        length = float(np.linalg.norm(away))
        if length == 0.0:
            return away, 0.0
        direction = -away / length
        noise = TOLERANCES.rounding * float(np.finfo(np.float64).eps) * np.abs(self.rest)
        slope = float(self.rest @ direction + (self.rest_errors + noise) @ np.abs(direction))
        return direction, -slope - self.slack(direction, np.ones(len(self.active), dtype=np.bool_))

    def slack(self, direction: Floats, still: Bools) -> float:
        """Bound on what active kinks that should not move along `direction` add to the loss's slope.

        With r_k the rate of kink k, true up to rounding, and C the bends, its rate behind the bent
        kinks before it is `R_k = r_k + sum_j C_kj max(R_j, 0)`, and the slope that of the rest plus
        `sum_k mu_k r_k + s_k max(R_k, 0)` with the slope jumps s_k.

        Args:
            direction: A unit vector.
            still: Which active kinks should not move, behind those that do, shape (k,).
        """
        if not still.any():
            return 0.0
        jumps, errors = self.jumps()
        unit = TOLERANCES.rounding * self.block.piecewise.depth_terms * np.finfo(np.float64).eps
        rates, bends = self.normals @ direction, self.bends()
        noise = unit * (np.abs(self.normals) @ np.abs(direction))
        crossed = np.where(still, 0.0, np.maximum(rates, 0.0))
        rates = (
            np.abs(rates + bends @ crossed) + noise + np.abs(bends) @ np.where(still, 0.0, noise)
        )
        rates, bends = np.where(still, rates, 0.0), np.abs(bends)
        moving, more = rates, bends @ rates
        while more.any():  # ends: bends lead from a level to deeper ones
            moving, more = moving + more, bends @ more
        return float(np.abs(self.multipliers) @ rates + (np.abs(jumps) + errors) @ moving)

    def jumps(self) -> tuple[Floats, Floats]:
        """Slope jumps s_k of the active kinks and bounds on their errors."""
        piecewise = self.block.piecewise
        jumps, errors = np.zeros(len(self.active)), np.zeros(len(self.active))
        levels = piecewise.level_of(self.active)
        for level, group in enumerate(piecewise.groups):
            here = np.flatnonzero(levels == level)
            if level == len(piecewise.slopes):
                jumps[here] = 2.0 / piecewise.num_samples
                continue
            place = np.divmod(self.active[here] - group.start, group.units)
            step = 1.0 - piecewise.slopes[level]
            jumps[here] = step * self.sensitivities[level + 1][place]
            errors[here] = abs(step) * self.sensitivity_errors[level + 1][place]
        return jumps, errors

    def edges(self) -> tuple[Floats, Floats]:
        """Unit directions into the negative and the positive side of every active kink, (k, params) each.

        Along an edge all other active kinks stay zero; those of the same sample bend when the kink is
        crossed, which changes the edge into the positive side.
        """
        straight = np.asarray(np.linalg.pinv(self.normals), dtype=np.float64)
        bent = straight - straight @ self.bends()
        return _unit(-straight.T), _unit(bent.T)


def _least_squares(normals: Floats, gradient: Floats) -> Floats:
    """Multipliers that split the gradient along dependent normals of any lengths.

    Directions that the normals, scaled to length one, span only below the tolerance of independence are
    none: the rest is then orthogonal to each normal relative to its own length.
    """
    lengths = np.linalg.norm(normals, axis=1)
    lengths[lengths == 0] = 1.0
    scaled = normals.T / lengths
    return np.asarray(np.linalg.lstsq(scaled, gradient, rcond=TOLERANCES.independence)[0] / lengths)


def _unit(rows: NDArray[np.floating[Any]]) -> Floats:
    """Rows of length one."""
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _with_a_say(block: Block, pattern: Bools, zero: Indices) -> Indices:
    """Drop kinks at zero that are constant around the point or whose crossing changes nothing."""
    piecewise = block.piecewise
    if len(zero) == 0:
        return zero
    pushed = piecewise.push(zero, pattern)
    bends = _bends(block, zero, pushed) != 0
    residual = piecewise.level_of(zero) == len(piecewise.slopes)
    outputs = pushed[-1]
    silent = ~residual & ~bends.any(axis=0)
    if outputs is not None:
        silent &= ~outputs.any(axis=1)
    moving = (piecewise.normals(zero, pattern) != 0).any(axis=1)
    for q in np.argsort(piecewise.level_of(zero), kind="stable"):
        moving[q] |= (bends[q] & moving).any()
    return np.asarray(zero[~silent & moving])


def _bends(block: Block, kinks: Indices, pushed: Sequence[Floats | None]) -> Floats:
    """C[q, k]: change of kink q's normal, in multiples of kink k's, when k is crossed upwards."""
    piecewise = block.piecewise
    samples, levels = piecewise.sample_of(kinks), piecewise.level_of(kinks)
    matrix = np.zeros((len(kinks), len(kinks)))
    for level, group in enumerate(piecewise.groups):
        rows = pushed[level] if level < len(pushed) else None
        if rows is None:
            continue
        for q in np.flatnonzero(levels == level):
            above = np.flatnonzero((samples == samples[q]) & (levels < level))
            step = np.array([1.0 - piecewise.slopes[m] for m in levels[above]])
            matrix[q, above] = step * rows[above, (kinks[q] - group.start) % group.units]
    return matrix


def resolved(point: Point) -> Point:
    """Move to the exact stationary point of the cell and active set when it is next to `point`."""
    smooth = point.block.landscape.loss_name != "l1" or point.block.landscape.weight_decay > 0
    reach = TOLERANCES.resolve * (1.0 + float(np.linalg.norm(point.theta)))
    best = point
    for _ in range(4 if smooth and point.independent else 0):
        if best.is_stationary or not _is_near(best, reach):
            break
        step = _newton_step(best)
        if not np.linalg.norm(best.theta + step - point.theta) <= reach:  # nor where it overflows
            return point
        moved = Point.at(point.block, best.theta + step)
        if not np.array_equal(moved.active, point.active) or np.linalg.norm(
            moved.rest
        ) >= np.linalg.norm(best.rest):
            break
        best = moved
    return best if best.is_stationary else point


def _is_near(point: Point, reach: float) -> bool:
    """Whether a Newton step shorter than `reach` is possible and affordable at all."""
    trace = (
        point.block.piecewise.hessian_trace(point.theta, point.pattern)
        + point.block.landscape.weight_decay
    )
    affordable = point.block.size - len(point.active) <= TOLERANCES.max_dense
    return affordable and float(np.linalg.norm(point.rest)) <= trace * reach


def _newton_step(point: Point) -> Floats:
    """Newton step to the minimiser of the cell's loss where all active kinks are zero."""
    piecewise = point.block.piecewise
    correction = np.zeros(point.block.size)
    if len(point.active):
        values = piecewise.forward(point.theta)[0][point.active]
        correction = -np.linalg.pinv(point.normals) @ values
    basis = Float64().complement(point.normals)
    hessian = piecewise.hessian(point.theta, point.pattern, basis)
    inverse = np.linalg.pinv(hessian, rcond=1e-13, hermitian=True)
    return np.asarray(correction - basis @ (inverse @ (basis.T @ point.rest)))
