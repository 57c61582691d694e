"""How deep inside a cell minimisers can be, for all that a proof of their absence shows.

The weights mu of a proof and the normals g of the cell's kinks, turned to be positive inside, give

    sum_k mu_k depth_k |g_k|  <=  sum_k mu_k (g_k . q + o_k)  <=  what the proof leaves open,

where the right side is known at every minimiser q but for rounding, and but for what is left of
`gap = sum_k mu_k g_k - E^T l`, which counts by the length of q. Depths are therefore told by length: that
of q, or, where it is longer, the length that the targets or the kinks' offsets ask of parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reluscape.minima.entropy import moved_at_most
from reluscape.minima.frozen_cell import FrozenCell, Products
from reluscape.minima.result import Infeasibility
from reluscape.minima.turning import depth_for_all_signs

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

#: Largest depth, by length, that rounding may leave open in a negative answer.
LEFT_OPEN = 1e-8
#: How many times as long as a known minimiser those have to be that a negative answer may be silent on.
REACH = 1e3


class Left(NamedTuple):
    """What a proof leaves open.

    Attributes:
        depth: Largest depth, by length, of a minimiser inside the cell.
        reach: Length of the minimisers that this is about, by that of the known one; infinite for all.
    """

    depth: float
    reach: float

    @property
    def nothing(self) -> bool:
        """Whether what is left is rounding."""
        return self.depth <= LEFT_OPEN and self.reach >= REACH


@dataclass(frozen=True, slots=True)
class Part:
    """What a proof says of one part of the sign choices.

    Attributes:
        kinks: With positive mu.
        amounts: Their mu, negative for kinks that are negative inside the cell.
        lengths: Lengths of their normals in scaled columns.
        rows: l (samples, outputs).
        direction: w (params,).
        point: The known minimiser, where the loss needs one.
        gap: Length of `sum mu g - E^T l` in scaled columns, rounding errors included.
        zero: Products at zero parameters.
    """

    kinks: Indices
    amounts: Floats
    lengths: Floats
    rows: Floats
    direction: Floats
    point: Floats
    gap: float
    zero: Products

    def targets(self, cell: FrozenCell) -> Floats:
        """What `E q` has to reach (samples, outputs)."""
        return np.asarray(cell.piecewise.targets, dtype=np.float64) - self.zero.outputs

    def least_length(self, cell: FrozenCell, reach: float) -> float:
        """Length at which `E q` can be as long as `reach`, or at which a kink can be crossed."""
        away = np.abs(self.zero.values[self.kinks]) / self.lengths
        norm = cell.norm
        return max(reach / norm if norm else 0.0, float(away.max())) or 1.0

    def offsets(self, cell: FrozenCell) -> float:
        """`sum mu o`, rounded up."""
        values, errors = self.zero.values[self.kinks], self.zero.value_errors[self.kinks]
        sizes = float(np.abs(self.amounts) @ (np.abs(values) * cell.unit + errors))
        return float(self.amounts @ values) + sizes

    def against_targets(self, cell: FrozenCell) -> float:
        """`l . y`, rounded up."""
        terms = np.abs(self.rows) * (
            self.zero.output_errors + cell.unit * np.abs(self.targets(cell))
        )
        return float((self.rows * self.targets(cell)).sum() + terms.sum())


def depth_left(proof: Infeasibility, cell: FrozenCell) -> Left:
    """How deep inside the cell minimisers can be for all that is proved."""
    if len(proof.turns):
        return Left(depth_for_all_signs(proof, cell), np.inf)
    if cell.piecewise.loss.name == "cross_entropy" and not len(proof.kink):
        return Left(0.0 if falls_forever(proof, cell) else np.inf, np.inf)
    zero = cell.forward(np.zeros(cell.piecewise.num_params))
    parts = [_depth_of(proof, part, cell, zero) for part in range(len(proof.outputs))]
    return Left(max(one.depth for one in parts), min(one.reach for one in parts))


def _depth_of(proof: Infeasibility, number: int, cell: FrozenCell, zero: Products) -> Left:
    """The same of one part of the sign choices."""
    here = proof.part == number
    kinks, weights = proof.kink[here], proof.weight[here]
    sides = cell.sides(proof.signs[number] if proof.signs.shape[1] else None)[kinks]
    lengths = cell.lengths(kinks)
    if not (len(kinks) and sides.all() and lengths.all()):
        return Left(np.inf, np.inf)
    rows = proof.outputs[number].reshape(cell.piecewise.num_samples, -1)
    amounts, direction = weights * sides, proof.directions[number]
    gap = sum(cell.gap(kinks, amounts, rows))
    part = Part(kinks, amounts, lengths, rows, direction, proof.point, gap, zero)
    rise, reach = OPEN[cell.piecewise.loss.name](cell, part)
    return Left(rise / float(weights @ lengths), reach)


def _of_squares(cell: FrozenCell, part: Part) -> Left:
    """`sum mu (g . q + o) = gap . q + l . E q + sum mu o`, and `l . E q = l . y` where l = E w.

    That is because `E^T (E q - y) = 0`; what l is beside E w counts by the residuals, at most |y| long.
    """
    moved = cell.forward(part.direction, linear=True)
    apart = float(np.linalg.norm(part.rows - moved.outputs) + np.linalg.norm(moved.output_errors))
    reach = float(np.linalg.norm(part.targets(cell)))
    above = part.against_targets(cell) + part.offsets(cell) + apart * reach
    return Left(part.gap + max(0.0, above) / part.least_length(cell, reach), np.inf)


def _of_deviations(cell: FrozenCell, part: Part) -> Left:
    """A minimiser's sum of absolute residuals is that of a known point, and where |l| <= 1 at least l's.

    That is `l . (E q - y) = sum mu (g . q + o) - gap . q - l . y - sum mu o`.

    l holds a number for every sample, so the gap is rounding of all of them, however small mu is. Where
    that leaves something open, and what is known is negative, only minimisers far out are left: none if
    E's least singular value keeps all that are as good as the known one from being so long.
    """
    if not (np.abs(part.rows) <= 1.0).all():
        return Left(np.inf, np.inf)
    there, targets = cell.forward(part.point), np.asarray(cell.piecewise.targets, dtype=np.float64)
    attained = float((np.abs(there.outputs - targets) + there.output_errors).sum())
    attained *= 1.0 + cell.unit
    above = attained + part.against_targets(cell) + part.offsets(cell)
    reach = float(np.linalg.norm(part.targets(cell)))
    least = part.least_length(cell, reach)
    left = part.gap + max(0.0, above) / least
    if above >= 0 or left <= LEFT_OPEN * float(np.abs(part.amounts) @ part.lengths):
        return Left(left, np.inf)
    rest = cell.rest(part.kinks, part.amounts, part.rows)
    value = cell.least_singular_value(np.abs(rest[0]) + rest[1])
    farthest = reach + float(np.linalg.norm(part.zero.output_errors)) + attained
    if above * value + part.gap * farthest < 0:
        return Left(0.0, np.inf)
    known = max(float(np.linalg.norm(cell.sizes * part.point)), least)
    return Left(0.0, -above / part.gap / known)


def _of_entropies(cell: FrozenCell, part: Part) -> Left:
    """Minimisers have a known one's outputs but for a common shift, and but for what it lacks."""
    there = cell.forward(part.point)
    values, errors = there.values[part.kinks], there.value_errors[part.kinks]
    length = max(float(np.linalg.norm(cell.sizes * part.point)), part.least_length(cell, 0.0))
    above = moved_at_most(cell, part.point, part.rows, part.direction, length)
    above += float(part.amounts @ values)
    above += float(np.abs(part.amounts) @ (np.abs(values) * cell.unit + errors))
    return Left(2.0 * part.gap + max(0.0, above) / length, np.inf)  # both points may be as long


def is_least(dual: Floats, theta: Floats, cell: FrozenCell) -> str:
    """Why zero is no subgradient of a frozen L1 loss at a point, up to rounding; empty if it is one.

    Subgradients are E^T l with l_i the sign of residual i, and any number from -1 to 1 where it is zero,
    which is asked up to rounding errors of the point as long as it is.
    """
    there = cell.forward(theta)
    if dual.shape != (there.outputs.size,) or not (np.abs(dual) <= 1.0).all():
        return "its dual solution is beyond its bounds"
    rows = dual.reshape(there.outputs.shape)
    gap, error = cell.gap(np.empty(0, dtype=np.int64), np.empty(0), rows)
    residuals = there.outputs - np.asarray(cell.piecewise.targets, dtype=np.float64)
    length = float(np.linalg.norm(cell.sizes * theta))
    errors = there.output_errors + cell.unit * (np.abs(residuals) + length * cell.norms[:, None])
    if not (np.abs(residuals) - rows * residuals <= 2.0 * errors).all():
        return "its dual solution has other signs than the residuals"
    return "" if gap <= error else "its dual solution leaves a slope"


OPEN = {
    "squared": _of_squares,
    "half_squared": _of_squares,
    "l1": _of_deviations,
    "cross_entropy": _of_entropies,
}


def falls_forever(proof: Infeasibility, cell: FrozenCell) -> bool:
    """Whether no sample's own output loses to another along the direction, and some gain."""
    moved = cell.forward(proof.directions[0], linear=True)
    rates, noise = moved.outputs, moved.output_errors
    own = np.arange(len(rates)), cell.piecewise.targets
    gains = rates[own][:, None] - rates
    slack = noise[own][:, None] + noise
    gains[own] = np.inf
    return bool(
        (gains >= -slack).all() and (gains[np.isfinite(gains)] > slack[np.isfinite(gains)]).any()
    )
