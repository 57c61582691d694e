"""The first-order picture of a block at one point, by the independent evaluation.

Used to check every certificate and to prove the exact ones; float64 proofs have their own, faster
arithmetic (`piecewise.py`), so a float64 certificate is computed twice by unrelated code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape import enclosure
from reluscape.arithmetic import (
    Float64,
    Rational,
    meeting_point,
    multiplier_errors,
    split_errors,
)
from reluscape.certificate import (
    Claim,
    claim_of_slopes,
    sign,
    strictly_curved,
)
from reluscape.dependent import Cells, claim_of_cells
from reluscape.exactly import rest_is_zero, zero_slopes
from reluscape.frozen import FrozenBlock, Rows
from reluscape.integers import kinks_meet, outputs_span_at_most
from reluscape.landscape import Landscape
from reluscape.nearby import (
    column_sizes,
    distance_to_stationary,
    in_theta_order,
    radius_of,
    scales_of,
)
from reluscape.tolerances import TOLERANCES

Array = NDArray[Any]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]

_NO_SLOPES = np.empty((0, 2))

#: Factor on bounds of rounding errors within which a kink may count as zero or not.
DOUBT = 2.0


@dataclass(frozen=True, slots=True)
class Local:
    """A point of a block with its active kinks.

    Attributes:
        landscape: The landscape.
        layer: Name of the block's layer.
        numbers: The arithmetic.
        block: The evaluation.
        theta: The point, in the evaluation's arithmetic.
        bits: Pattern (samples, switches), active kinks as negative.
        active: Active kinks' numbers.
        values: Switching values (samples, switches).
        errors: Bounds on their rounding errors; zero in exact arithmetic.
        normals: Normals of the active kinks (k, params).
        gradient: Gradient of the adjacent cell (params,).
        pull_errors: Bounds on the rounding errors of the loss's slopes by the outputs (samples, outputs);
            none in exact arithmetic.
        gradient_error: Bound on the gradient's rounding error.
        widest_error: The same for the gradient of any adjacent cell.
        flat: Whether the outputs do not depend on theta in this cell at all.
        sway: Largest change of any sample's outputs per unit of theta (float64 only).
        clearance: Distance to the nearest kink that is not listed, nor zero for certain (float64 only).
        crossed: What `jumps_and_bends` and `jump_errors` tell, once that has been asked.
        spreads: Bounds on the errors of multipliers, once they have been asked for.
        spanned: Whether some normals span the gradient, once that has been asked for.
    """

    landscape: Landscape
    layer: str
    numbers: Float64 | Rational
    block: FrozenBlock
    theta: Array
    bits: Bools
    active: Indices
    values: Array
    errors: Array
    normals: Array
    gradient: Array
    pull_errors: Array
    gradient_error: Array
    widest_error: Array
    flat: bool
    sway: float
    clearance: float
    crossed: list[tuple[Array, Array, Array]] = field(default_factory=list)
    spreads: dict[bytes, Array] = field(default_factory=dict)
    spanned: dict[bytes, bool] = field(default_factory=dict)

    @classmethod
    def at(
        cls,
        landscape: Landscape,
        layer: str,
        arithmetic: Float64 | Rational,
        theta: Array,
        pattern: Bools,
        active: Indices,
    ) -> Local:
        """Evaluate the block at `theta` with the given pattern."""
        block = FrozenBlock(landscape, layer, arithmetic)
        bits = block.bits_of(pattern)
        samples, switches = block.place(active)
        size = len(theta)
        normals = arithmetic.array(np.zeros((len(active), size)))
        gradient = arithmetic.array(np.zeros(size))
        errors, pull_errors, gradient_error, widest_error = _rounding(
            landscape, layer, arithmetic, theta, bits, active
        )
        listed = np.zeros(bits.shape, dtype=np.bool_)
        listed[samples, switches] = True
        values, flat, sway, clearance = [], True, 0.0, float("inf")
        for rows in block.chunks():
            part = block.evaluate(theta, bits[rows], rows)
            values.append(part.values)
            slope = block.output_slope(part.outputs, bits[rows], rows)
            gradient = gradient + block.spread(_pull(part.output_jacobians, slope), rows)
            flat = flat and not _moves(part.output_jacobians, block, rows)
            if not arithmetic.exact:
                sway = max(sway, _sway(block, part, rows))
                near = np.where(listed[rows], np.inf, errors[rows] / DOUBT)
                clearance = min(clearance, _clearance(block, part, rows, near))
            here = np.flatnonzero((samples >= rows[0]) & (samples <= rows[-1]))
            normals[here] = block.wide(
                part.jacobians[samples[here] - rows[0], switches[here]], samples[here]
            )
        gradient = gradient + block.weight_decay * theta
        return cls(
            landscape,
            layer,
            arithmetic,
            block,
            theta,
            bits,
            active,
            np.concatenate(values),
            errors,
            normals,
            gradient,
            pull_errors,
            gradient_error,
            widest_error,
            flat,
            sway,
            clearance,
        )

    # ---- which kinks are at zero -------------------------------------------------------------

    def contradiction(self, scale: float = 1) -> str:
        """Say which kink contradicts the pattern or the list of active kinks; "" if none does."""
        samples, switches = self.block.place(self.active)
        listed = np.zeros(self.bits.shape, dtype=np.bool_)
        listed[samples, switches] = True
        if self.bits[listed].any():
            return "an active kink is not marked negative in the pattern"
        inside = np.where(self.bits, self.values, -self.values)
        if (inside[~listed] < -scale * self.errors[~listed]).any():
            return "a kink has the other sign at the point"
        if (np.abs(self.values[listed]) > scale * self.errors[listed]).any():
            return "a kink listed as active is not zero at the point"
        missing = ~listed & (np.abs(self.values) <= self.errors / scale)
        for sample in np.flatnonzero(missing.any(axis=1)):
            if not set(np.flatnonzero(missing[sample])) <= self.voids(int(sample), scale):
                return "a kink that is zero at the point is missing from the active ones"
        return ""

    def voids(self, sample: int, scale: float = 1) -> set[int]:
        """The kinks at zero of one sample that have no say, whatever the sides of the others.

        Such a kink is constant nearby (its normal vanishes in every pattern of the others), or crossing
        it changes neither the outputs' Jacobian nor the normal of another kink at zero in any of them.
        Only those matter that lead to the kink or that it leads to, and are not constant because nothing
        reaches them with all at zero on. Beyond `max_active` of them the patterns are too many, and the
        kink has a say.
        """
        zero = np.abs(self.values[sample]) <= self.errors[sample] / scale
        zero[self._of_sample(sample)] = True
        kinks = np.flatnonzero(zero)
        if not self.block.bias and not self.block.features[sample].astype(bool).any():
            return set(kinks.tolist())
        if len(kinks) <= TOLERANCES.max_active:
            return self._void_among(sample, kinks)
        moving = kinks[self._reached(sample, kinks)]
        leads, found = self.block.leads(), set(kinks.tolist()) - set(moving.tolist())
        kinks = moving
        for kink in kinks.tolist():
            related = kinks[leads[kink, kinks] | leads[kinks, kink] | (kinks == kink)]
            if len(related) <= TOLERANCES.max_active:
                found |= self._void_among(sample, related) & {kink}
        return found

    def _reached(self, sample: int, kinks: Indices) -> Bools:
        """Which of a sample's kinks change with theta in some pattern: by paths with all of them on."""
        plain = Float64()
        block = FrozenBlock(self.landscape, self.layer, plain, absolute=True)
        bits = self.bits[sample][None].copy()
        bits[:, kinks] = True
        part = block.evaluate(plain.array(np.zeros(len(self.theta))), bits, np.array([sample]))
        return np.asarray(part.jacobians[0, kinks].any(axis=1))

    def _void_among(self, sample: int, kinks: Indices) -> set[int]:
        """Those of some kinks at zero that have no say in any pattern of these, the others off."""
        sides = np.array(list(product([False, True], repeat=len(kinks))), dtype=np.bool_)
        bits = np.repeat(self.bits[sample][None], len(sides), axis=0)
        bits[:, kinks] = sides
        part = self.block.evaluate(self.theta, bits, np.full(len(sides), sample))
        normals = part.jacobians[:, kinks]
        found = set()
        for place, kink in enumerate(kinks.tolist()):
            low, high = np.flatnonzero(~sides[:, place]), np.flatnonzero(sides[:, place])
            others = np.arange(len(kinks)) != place
            moved = (part.output_jacobians[low] != part.output_jacobians[high]).any()
            bent = (normals[low][:, others] != normals[high][:, others]).any()
            silent = kink < self.block.switches and not moved and not bent
            if silent or not normals[:, place].astype(bool).any():
                found.add(kink)
        return found

    # ---- slopes ------------------------------------------------------------------------------

    def slopes(self, multipliers: Array) -> Array:
        """Slopes into the negative and positive side of each active kink, shape (k, 2)."""
        jumps, bends = self.jumps_and_bends()
        return np.column_stack([-multipliers, multipliers + jumps - bends.T @ multipliers])

    def jumps_and_bends(self) -> tuple[Array, Array]:
        """Slope jump of each active kink (k,), and changes of deeper normals in multiples of its own.

        Each kink is crossed in turn: in the neighbouring cell of its sample both the gradient and the
        deeper normals change by multiples of its normal. `bends[q, k]` is that of q's normal. A kink
        that moves only behind others of its sample is crossed where they are.
        """
        if not self.crossed:
            self.crossed.append(self._crossings())
        return self.crossed[0][:2]

    def jump_errors(self) -> Array:
        """Bounds on what rounding the loss's slopes by the outputs makes of the jumps (k,)."""
        self.jumps_and_bends()
        return self.crossed[0][2]

    def _crossings(self) -> tuple[Array, Array, Array]:
        """Jumps, bends, and errors of jumps, computed."""
        count = len(self.active)
        jumps, errors = self.numbers.array(np.zeros((2, count)))
        bends = self.numbers.array(np.zeros((count, count)))
        samples, switches = self.block.place(self.active)
        for sample in np.unique(samples):
            mine = np.flatnonzero(samples == sample)
            for k in mine:
                before, base = self._moving(sample, switches[k], switches[mine])
                normal = base.jacobians[0, switches[k]]
                if not normal.astype(bool).any():
                    continue
                flips = [*before, switches[k]]
                across, square = self.flipped(sample, flips), normal @ normal
                change = self.sample_gradient(across, sample, flips)
                change = change - self.sample_gradient(base, sample, before)
                jumps[k] = normal @ change / square
                pulls = (across.output_jacobians[0] - base.output_jacobians[0]) @ normal / square
                if not self.numbers.exact:
                    errors[k] = np.abs(pulls) @ self.pull_errors[sample]
                bent = across.jacobians[0, switches[mine]] - base.jacobians[0, switches[mine]]
                bends[mine, k] = bent @ normal / square
        return jumps, bends, errors

    def _moving(self, sample: int, switch: int, others: Indices) -> tuple[list[int], Rows]:
        """The fewest flips of shallower active kinks with which a kink's normal is not zero."""
        part = self.flipped(sample, [])
        if part.jacobians[0, switch].astype(bool).any():
            return [], part
        above = others[self.block.leads()[others, switch]][: TOLERANCES.max_active]
        for count in range(1, len(above) + 1):
            for flips in combinations(above.tolist(), count):
                part = self.flipped(sample, flips)
                if part.jacobians[0, switch].astype(bool).any():
                    return list(flips), part
        return [], part

    def slope_errors(self, multipliers: Array) -> Array:
        """Bounds on the slopes' rounding errors, shape (k, 2); zero in exact arithmetic."""
        if self.numbers.exact or len(self.active) == 0:
            return self.numbers.array(np.zeros((len(self.active), 2)))
        spread = self._spread(multipliers)
        jumps, bends = self.jumps_and_bends()
        size = np.abs(multipliers)
        terms = size + np.abs(jumps) + np.abs(bends).T @ size
        noise = TOLERANCES.rounding * self.block.terms * np.finfo(float).eps
        wide = spread + noise * terms + self.jump_errors() + np.abs(bends).T @ spread
        return np.column_stack([spread, wide])

    def _spread(self, multipliers: Array) -> Array:
        """Bounds on the multipliers' rounding errors."""
        key = multipliers.tobytes()
        if key not in self.spreads:
            errors = self.normal_errors(), self.gradient, self.gradient_error
            self.spreads[key] = multiplier_errors(multipliers, self.normals, *errors)
        return self.spreads[key]

    def _decided(self, multipliers: Array, scale: float) -> tuple[Array, Array]:
        """Slopes and `scale` times their errors; slopes that are zero for certain have none."""
        slopes, errors = self.slopes(multipliers), self.slope_errors(multipliers)
        if self.numbers.exact:
            return slopes, errors
        errors = scale * errors
        at = self.block.vector_of(self.bits), self.active
        zero = zero_slopes(self.landscape, self.layer, at, slopes, errors)
        slopes[zero] = errors[zero] = 0.0
        return slopes, errors

    def directional_derivative(self, direction: Array) -> Any:
        """One-sided derivative of the loss along `direction`: kinks at zero follow their rate's sign."""
        total = self.block.weight_decay * (self.theta @ direction)
        samples, switches = self.block.place(self.active)
        smooth = self.gradient - self.block.weight_decay * self.theta
        total = total + smooth @ direction
        for sample in np.unique(samples):
            base = self.flipped(sample, [])
            rate = self.block.rate_of(direction, int(sample))
            flips: list[int] = []
            for switch in sorted(switches[samples == sample]):
                if self.flipped(sample, flips).jacobians[0, switch] @ rate > 0:
                    flips.append(int(switch))
            if flips:
                across = self.flipped(sample, flips)
                change = self.sample_gradient(across, sample, flips) - self.sample_gradient(
                    base, sample, []
                )
                total = total + change @ rate
        return total

    # ---- the claim ---------------------------------------------------------------------------

    def rest(self, multipliers: Array) -> Array:
        """Part of the gradient that the multipliers leave."""
        return self.gradient - self.normals.T @ multipliers if len(self.active) else self.gradient

    def rest_error(self, multipliers: Array, sizes: Array | float = 1.0) -> float:
        """Bound on the rounding error of `||sizes * rest||` in float64."""
        split = float(np.linalg.norm(sizes * split_errors(multipliers, self.normals)))
        return float(np.linalg.norm(sizes * self.gradient_error)) + split

    def split_error(self, multipliers: Array) -> float:
        """Bound on the rounding error of a sum of normals with these multipliers."""
        return float(np.linalg.norm(split_errors(multipliers, self.normals)))

    def normal_errors(self) -> Array:
        """Bounds on the rounding errors of the normals in float64: those of sums over paths."""
        block = FrozenBlock(self.landscape, self.layer, self.numbers, absolute=True)
        samples, switches = block.place(self.active)
        part = block.evaluate(np.abs(self.theta), self.bits[samples], samples)
        sizes = part.jacobians[np.arange(len(samples)), switches]
        unit = TOLERANCES.rounding * block.terms * float(np.finfo(np.float64).eps)
        return np.asarray(unit * block.wide(sizes, samples))

    def claim(
        self, multipliers: Array, scale: float = 1.0, cells: Cells | None = None
    ) -> tuple[Claim, float, Array]:
        """Return the claim that holds here, the curvature it uses (or NaN), and the slopes.

        Args:
            multipliers: mu with `gradient - normals^T mu` orthogonal to the normals.
            scale: Factor on the rounding bounds.
            cells: Weights of dependent active kinks (`Certificate.cells`).
        """
        exact = self.numbers.exact
        if exact and self.block.loss == "cross_entropy":
            return self._enclosed_claim(cells)
        rest = self.rest(multipliers)
        length = rest @ rest if exact else float(np.linalg.norm(rest))
        if length > (0 if exact else scale * self.rest_error(multipliers)):
            return "not_stationary", float("nan"), _NO_SLOPES
        return self._stationary_claim(multipliers, scale, cells)

    def _enclosed_claim(self, cells: Cells | None) -> tuple[Claim, float, Array]:
        """The claim where gradients are balls, with slopes that hold in all of the point's radius."""
        assert isinstance(self.numbers, Rational)
        multipliers = self.numbers.multipliers(self.normals, self.gradient)
        radius = self.stationary_radius(multipliers)
        if radius is None:
            rest = self.rest(multipliers)
            return "not_stationary" if rest @ rest > 0 else "undecided", float("nan"), _NO_SLOPES
        pattern = self.block.vector_of(self.bits)
        box = enclosure.boxed(self.numbers, self.theta, radius) if radius else self.theta
        around = Local.at(self.landscape, self.layer, self.numbers, box, pattern, self.active)
        multipliers = self.numbers.multipliers(around.normals, around.gradient)
        return around._stationary_claim(multipliers, 1.0, cells)

    def _stationary_claim(
        self, multipliers: Array, scale: float, cells: Cells | None
    ) -> tuple[Claim, float, Array]:
        """The claim where the rest vanishes: by slopes, or by cells where the normals are dependent."""
        if cells is not None or not self.numbers.independent(self.normals):
            claim, curvature = claim_of_cells(self, multipliers, scale, cells)
            return claim, curvature, _NO_SLOPES
        slopes, errors = self._decided(multipliers, scale)
        signs = [
            (sign(low, e), sign(high, f))
            for (low, high), (e, f) in zip(slopes, errors, strict=True)
        ]
        claim = claim_of_slopes(signs, strict=False, constant=False)
        if claim in ("not_stationary", "undecided"):
            return claim, float("nan"), slopes
        if not self.numbers.exact and self.stationary_radius(multipliers) is None:
            return "undecided", float("nan"), slopes
        if claim == "saddle":
            return claim, float("nan"), slopes
        if self._constant(signs):
            return "plateau", float("nan"), slopes
        strict, curvature = self._strictness(signs)
        return claim_of_slopes(signs, strict=strict, constant=False), curvature, slopes

    def strict_all_round(self) -> tuple[bool, float]:
        """Strictness where all multipliers of all patterns are positive, and the curvature."""
        if not self.numbers.exact:
            pattern = self.block.vector_of(self.bits)
            rank = len(self.theta) - self.numbers.complement(self.normals).shape[1]
            if not kinks_meet(self.landscape, self.layer, pattern, self.active, rank):
                return False, float("nan")
        if self.block.weight_decay > 0:
            return True, float(self.block.weight_decay)
        basis = self.numbers.complement(self.normals)
        if basis.shape[1] == 0:
            return True, float("inf")
        if self.block.loss == "l1":
            return False, float("nan")
        return self._definite([0] * len(self.active))

    def stationary_radius(self, multipliers: Array) -> float | None:
        """Radius within which an exact stationary point is proved; None where none is.

        It has the same pattern: no other kink can be zero where the active ones are exactly zero.
        Zero where the rest vanishes exactly: in exact arithmetic, at a vertex, where nothing depends
        on theta, and for the piecewise-affine loss when exact sums say so.
        """
        if isinstance(self.numbers, Rational):
            if self.block.loss != "cross_entropy" or self._rest_is_zero(multipliers):
                return 0.0
            return enclosure.stationary_radius(
                self.block, self.theta, self.bits, self.normals, self.gradient
            )
        if not self.keeps_pattern():
            return None
        basis = self.numbers.complement(self.normals)
        free = basis.shape[1]
        if free == 0:
            return 0.0
        if self.block.loss == "l1" and self.block.weight_decay == 0:
            pattern = self.block.vector_of(self.bits)
            rank = len(self.theta) - free
            zero = rest_is_zero(self.landscape, self.layer, pattern, self.active, rank)
            return 0.0 if zero else None
        distance = self._distance_to_stationary(multipliers, free)
        transcendental = self.block.loss == "cross_entropy"
        scale = 1.0 + float(np.linalg.norm(self.theta))
        return radius_of(
            distance,
            quadratic=not transcendental,
            sway=self.sway,
            clearance=self.clearance,
            scale=scale,
        )

    def keeps_pattern(self) -> bool:
        """Whether no other kink is zero, or of the other sign, where the active ones are exactly zero.

        Those that are zero here and not listed have no say.
        """
        active = self.block.place(self.active)
        distance, changes = meeting_point(self.normals, self.values[active], self.errors[active])
        if distance <= self.clearance:
            return True
        for rows in self.block.chunks():
            part = self.block.evaluate(self.theta, self.bits[rows], rows)
            norms = _lengths(self.block, rows)[:, None] * np.sqrt((part.jacobians**2).sum(axis=2))
            values, errors = np.abs(part.values), self.errors[rows]
            near = (norms > 0) & (values > errors / DOUBT) & (values <= distance * norms)
            here = active[0] - rows[0], active[1]
            inside = (here[0] >= 0) & (here[0] < len(rows))
            near[here[0][inside], here[1][inside]] = False
            sample, switch = np.nonzero(near)
            normals = self.block.wide(part.jacobians[sample, switch], rows[sample])
            if not (changes(normals) < (values - errors)[near]).all():
                return False
        return True

    def _rest_is_zero(self, multipliers: Array) -> bool:
        """Whether the exact rest vanishes, by its numbers or because the normals span everything."""
        spanned = len(self.active) == len(self.theta) and self.numbers.independent(self.normals)
        return spanned or all(bool(entry == 0) for entry in self.rest(multipliers))

    def _distance_to_stationary(self, multipliers: Array, free: int) -> float | None:
        """Distance to the exact minimiser among `free` directions along which no active kink moves."""

        def flat_beyond(curved: int) -> bool:
            pattern, limit = self.block.vector_of(self.bits), len(self.theta) - free + curved
            return self.block.weight_decay == 0 and outputs_span_at_most(
                self.landscape, self.layer, pattern, self.active, limit
            )

        if self.flat and self.block.weight_decay == 0:
            return 0.0 if flat_beyond(0) else None
        if free > TOLERANCES.max_dense:
            return None
        scales = self._scales()
        basis = self.numbers.complement(self.normals * scales)
        if basis.shape[1] != free:
            return None
        noise = TOLERANCES.rounding * len(self.active) * np.finfo(float).eps
        error = self.gradient_error + noise * (np.abs(multipliers) @ np.abs(self.normals))
        return distance_to_stationary(
            self.block.hessian(self.theta, self.bits, scales[:, None] * basis),
            basis.T @ (scales * self.rest(multipliers)),
            np.abs(basis.T) @ (scales * error),
            scales,
            basis,
            flat_beyond,
        )

    def _scales(self) -> Array:
        """Units for the parameters in which their effects on the outputs are alike (`scales_of`)."""
        block = FrozenBlock(self.landscape, self.layer, self.numbers, absolute=True)
        parts = [
            np.abs(block.evaluate(np.abs(self.theta), self.bits[rows], rows).output_jacobians)
            for rows in block.chunks()
        ]
        ones = np.ones((len(block.features), int(block.bias)))
        inputs = np.hstack([block.features, ones])
        sizes = in_theta_order(column_sizes(np.concatenate(parts), inputs), bias=block.bias)
        decay = self.landscape.weight_decay
        return scales_of(sizes, self.block.loss, len(block.features), decay)

    def _strictness(self, signs: Sequence[tuple[int | None, int | None]]) -> tuple[bool, float]:
        """Whether a minimum with these slopes is strict, and the curvature that shows it."""
        if self.block.weight_decay > 0:
            return True, float(self.numbers.floats(np.array([self.block.weight_decay]))[0])
        if self.block.loss == "l1":
            return len(self.active) == len(self.theta) and not any(
                0 in pair for pair in signs
            ), float("nan")
        if len(self.theta) - len(self.active) > TOLERANCES.max_dense:
            return False, float("nan")
        return strictly_curved(signs, self._definite)

    def _definite(self, sides: Sequence[int]) -> tuple[bool, float]:
        """Whether the Hessian is positive definite in the cell and directions that `sides` names."""
        bits = self.bits.copy()
        samples, switches = self.block.place(self.active)
        crossed = np.array(sides, dtype=np.intp) == 1
        bits[samples[crossed], switches[crossed]] = True
        kept = np.flatnonzero(np.array(sides, dtype=np.intp) == 0)
        rows = self.numbers.array(np.zeros((len(kept), len(self.theta))))
        for row, k in enumerate(kept):
            part = self.block.evaluate(self.theta, bits[samples[k]][None], samples[k : k + 1])
            rows[row] = self.block.wide(part.jacobians[:, switches[k]], samples[k : k + 1])[0]
        basis = self.numbers.complement(rows)
        if basis.shape[1] == 0:
            return True, float("inf")
        return self.numbers.smallest_eigenvalue(self.block.hessian(self.theta, bits, basis))

    def _constant(self, signs: Sequence[tuple[int | None, int | None]]) -> bool:
        """Whether the loss is constant around the point."""
        if self.block.weight_decay > 0:
            return False
        if self.block.loss == "l1":
            return all(pair == (0, 0) for pair in signs)
        return len(self.active) == 0 and self.flat

    # ---- one sample --------------------------------------------------------------------------

    def _of_sample(self, sample: int) -> Indices:
        """Switches of the active kinks of a sample."""
        samples, switches = self.block.place(self.active)
        return np.asarray(switches[samples == sample])

    def flipped(self, sample: int, switches: Sequence[int]) -> Rows:
        """Evaluate one sample with some of its switches on the positive side."""
        bits = self.bits[sample].copy()
        bits[list(switches)] = True
        return self.block.evaluate(self.theta, bits[None], np.array([sample]))

    def sample_gradient(self, part: Rows, sample: int, flips: Sequence[int]) -> Array:
        """Derivative of the loss by one sample's z, in the cell with `flips` crossed."""
        bits = self.bits[sample].copy()
        bits[list(flips)] = True
        slope = self.block.output_slope(part.outputs, bits[None], np.array([sample]))
        return np.asarray(_pull(part.output_jacobians, slope)[0])


def _pull(jacobians: Array, slope: Array) -> Array:
    """`J_i^T slope_i` for every sample."""
    return np.asarray((jacobians * slope[:, :, None]).sum(axis=1))


def _moves(jacobians: Array, block: FrozenBlock, rows: Indices) -> bool:
    """Whether any output of these samples depends on theta."""
    alive = jacobians.astype(bool).any(axis=(1, 2))
    inputs = block.features[rows].astype(bool).any(axis=1) | block.bias
    return bool((alive & inputs).any())


def _lengths(block: FrozenBlock, rows: Indices) -> Array:
    """Euclidean lengths of the samples' inputs, the bias's one included."""
    return np.asarray(np.sqrt((block.features[rows] ** 2).sum(axis=1) + block.bias))


def _sway(block: FrozenBlock, part: Rows, rows: Indices) -> float:
    """Largest change of these samples' outputs per unit of theta."""
    sizes = np.sqrt((part.output_jacobians**2).sum(axis=(1, 2)))
    return float((sizes * _lengths(block, rows)).max(initial=0.0))


def _clearance(block: FrozenBlock, part: Rows, rows: Indices, near: Array) -> float:
    """Distance to the nearest of these samples' kinks that is farther than `near` and not constant."""
    norms = np.sqrt((part.jacobians**2).sum(axis=2)) * _lengths(block, rows)[:, None]
    counted = (norms > 0) & (np.abs(part.values) > near)
    return float((np.abs(part.values[counted]) / norms[counted]).min(initial=np.inf))


def _rounding(
    landscape: Landscape,
    layer: str,
    arithmetic: Float64 | Rational,
    theta: Array,
    bits: Bools,
    active: Indices,
) -> tuple[Array, Array, Array, Array]:
    """Bounds on the errors of switching values, slopes by outputs, gradient and any adjacent gradient."""
    if arithmetic.exact:
        zero, none = arithmetic.array(np.zeros(len(theta))), np.zeros((len(bits), 0))
        return arithmetic.array(np.zeros(bits.shape)), none, zero, zero
    block = FrozenBlock(landscape, layer, arithmetic, absolute=True)
    plain = FrozenBlock(landscape, layer, arithmetic)
    wide = bits.copy()
    samples, switches = block.place(active)
    wide[samples, switches] = True
    unit = TOLERANCES.rounding * block.terms * float(np.finfo(np.float64).eps)
    size = np.abs(theta)
    errors, pulls, gradient = [], [], unit * landscape.weight_decay * size
    widest = gradient
    for rows in block.chunks():
        part = block.evaluate(size, wide[rows], rows)
        values = part.values.copy()
        if block.residuals:
            values[:, block.switches :] = part.outputs + block.targets[rows]
        errors.append(unit * values)
        outputs = plain.evaluate(theta, bits[rows], rows).outputs
        slope = np.abs(plain.output_slope(outputs, bits[rows], rows))
        slope = unit * slope + _slope_error(plain, outputs, unit * part.outputs, len(bits))
        pulls.append(slope)
        sides = block.evaluate(size, bits[rows], rows).output_jacobians
        gradient = gradient + block.spread(_pull(sides, slope), rows)
        widest = widest + block.spread(_pull(part.output_jacobians, slope), rows)
    return np.concatenate(errors), np.concatenate(pulls), gradient, widest


def _slope_error(block: FrozenBlock, outputs: Array, errors: Array, count: int) -> Array:
    """Error of the loss's slope from errors of the outputs."""
    if block.loss == "l1":
        return np.zeros_like(outputs)
    if block.loss == "cross_entropy":
        shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        p = shifted / shifted.sum(axis=1, keepdims=True)
        widest = errors.max(axis=1, keepdims=True) + 8 * np.finfo(float).eps
        others = p @ (1.0 - np.eye(p.shape[1]))
        moved = p * others * np.expm1(2.0 * widest)
        return np.asarray((moved + np.finfo(float).tiny) / count)
    return errors * (2.0 if block.loss == "squared" else 1.0) / count
