"""`verify` of a connection's values: along its segments and on the straight line, one point at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from reluscape.check_block import require
from reluscape.landscape import Landscape
from reluscape.strings.check_statistics import with_statistics
from reluscape.strings.connection import Connection
from reluscape.strings.ends import on_own_statistics
from reluscape.strings.maximum import path_maximum
from reluscape.strings.moving import Moving
from reluscape.strings.surface import Metric

__all__ = ["LOSSES", "ROUNDING", "SAME", "TIERS", "String", "height_of"]

Floats = NDArray[np.float64]

#: Difference of equal numbers from two ways to sum, relative to them or to the level.
SAME = 1e-9
#: The same relative to the largest number that was computed: of sums that cancel, only rounding is left.
ROUNDING = 64.0 * float(np.finfo(np.float64).eps)
#: Points of the grid on which a sampled segment is looked at again; the ends are among them.
POINTS = 257
#: What the largest value of a straight line may be stated above what a proof leaves, relative to it.
GAP = 1e-3
TIERS = ("sampled", "certified", "exact")
LOSSES = ("loss", "other loss")


@dataclass(frozen=True, slots=True)
class String:
    """A path and what is judged on it, one point at a time.

    Attributes:
        found: What is stated.
        judge: The landscape whose maxima are stated.
        height: The judged value at a point.
        height_on: The same of a landscape and a point of it.
        values: It at the beads.
        slack: Difference of numbers that are the same; what is stated cannot widen it.
    """

    found: Connection
    judge: Landscape
    height: Callable[[Floats], float]
    height_on: Callable[[Landscape, Floats], float]
    values: Floats
    slack: float

    @classmethod
    def of(
        cls, found: Connection, landscape: Landscape, trained_on: Landscape, metric: Metric | None
    ) -> String:
        """With the statistics of batches at each point, where the path has its own."""
        judge, height = landscape, height_of(found, landscape, metric)
        if found.buffers.shape[1] and found.kind == "other loss":
            known = trained_on is not landscape
            require(
                known,
                "its running statistics are of other data: give verify the landscape of these, and this"
                " one as its metric",
            )
            height = with_statistics(landscape, trained_on)
        elif found.buffers.shape[1]:
            judge = on_own_statistics(landscape)
            height = height_of(found, judge, metric)
        values = np.array([height(bead) for bead in found.beads])
        zero = [height(np.zeros(landscape.size))] if found.kind in LOSSES else []
        size = _size(np.array([*values, *zero]))
        slack = SAME * min(abs(found.level), size) + ROUNDING * size

        def height_on(one: Landscape, theta: Floats) -> float:
            return height_of(found, one, metric)(theta)

        return cls(found, judge, height, height_on, values, slack)

    def check_values(self) -> None:
        """The values at beads, along the segments and on the straight line."""
        found, beads = self.found, self.found.beads
        self._same(found.values, self.values, "values at beads")
        times = np.linspace(0.0, 1.0, found.curve.shape[1])
        for k, curve in enumerate(found.curve):
            self._same(curve, self._along(beads[k], beads[k + 1], times), f"values on segment {k}")
        self._same(
            found.straight, self._along(beads[0], beads[-1], times), "values on the straight line"
        )

    def check_segments(self) -> None:
        """The largest value of each segment, and that none is larger."""
        found = self.found
        for k, tier in enumerate(found.tiers):
            start, stop, lower = found.beads[k], found.beads[k + 1], float(found.lower[k])
            value = highest(self._along(start, stop, found.positions[k : k + 1]))
            rounding = self._rounding(start, stop, value, tier)
            slack = self._slack(value)
            there = lower == value or value - rounding - slack <= lower <= value + slack
            require(there, f"where segment {k} is said to be highest, the value is {value:.6g}")
            seen = highest(found.curve[k])
            require(seen <= lower + rounding + slack, f"segment {k} rises to {seen:.6g}")
            upper = float(found.upper[k])
            if tier == "sampled" and found.status == "connected":
                values = self._look(start, stop, lower, upper, f"segment {k}")
                top = self._searched(start, stop, int(values.argmax()))
                require(top <= lower + self._slack(top), f"segment {k} rises to {top:.6g}")
            elif tier == "sampled":
                require(upper == math.inf, f"segment {k} is bounded without a proof")
            else:
                self._prove(start, stop, lower, upper, tier, f"segment {k}")

    def check_straight(self) -> None:
        """The same of the straight line between the ends, which need not be below the level."""
        found, tier = self.found, self.found.straight_tier
        start, stop, lower = found.beads[0], found.beads[-1], found.straight_lower
        if len(found.tiers) == 1:
            told = (float(lower), float(found.straight_upper), tier)
            same = told == (float(found.lower[0]), float(found.upper[0]), found.tiers[0])
            require(same, "its straight line is its path, and told in another way")
            return
        seen = highest(found.straight)
        rounding = self._rounding(start, stop, seen, tier)
        require(seen <= lower + rounding + self._slack(seen), "its straight line rises further")
        if tier == "sampled":
            values = self._look(start, stop, lower, found.straight_upper, "its straight line")
            top = highest(values)
            if lower > top:
                beside = (self._searched(start, stop, k) for k in _local_maxima(values))
                top = max(top, *beside)
        else:
            top = self._prove(start, stop, lower, found.straight_upper, tier, "its straight line")
        if tier == "certified" and lower > seen:  # as far as was asked is too far to tell
            top = path_maximum(self.judge, start, stop, relative_gap=GAP).upper
        require(lower <= top + self._slack(top), "its straight line rises less")

    def _rounding(self, start: Floats, stop: Floats, value: float, tier: str) -> float:
        """What a proved maximum is stated below the value that was computed."""
        if tier == "sampled":
            return 0.0
        moving = Moving.of(self.judge, start, stop)
        require(moving is not None, f"there is no tier {tier!r} for this network")
        assert moving is not None
        return value - moving.lowest(value)

    def _look(self, start: Floats, stop: Floats, lower: float, upper: float, name: str) -> Floats:
        """A grid on which a sampled segment is nowhere higher than what is said to have been seen."""
        require(upper == math.inf, f"{name} is bounded without a proof")
        values = self._along(start, stop, np.linspace(0.0, 1.0, POINTS))
        fine = highest(values)
        require(fine <= lower + self._slack(fine), f"{name} rises to {fine:.6g}")
        return values

    def _searched(self, start: Floats, stop: Floats, place: int) -> float:
        """The largest value that a search finds between the neighbours of a point of that grid."""

        def depth(steps: float) -> float:
            t = min(max((place + steps) / (POINTS - 1), 0.0), 1.0)
            return -highest(self._along(start, stop, np.array([t])))

        bounds = (-float(place > 0), float(place < POINTS - 1))
        with np.errstate(all="ignore"):  # it fits parabolas through infinite values, too
            near = minimize_scalar(depth, bounds=bounds, method="bounded", options={"xatol": SAME})
        return -float(near.fun)

    def _prove(
        self, start: Floats, stop: Floats, lower: float, upper: float, tier: str, name: str
    ) -> float:
        """An upper bound on the largest value of a segment that is at most the stated one."""
        require(self.found.kind in LOSSES, f"{name}: nothing bounds {self.found.kind}")
        require(lower <= upper < math.inf, f"{name} has no bound")
        gap = max(upper / lower - 1.0, SAME) if lower > 0.0 else 1.0
        proved = path_maximum(self.judge, start, stop, relative_gap=gap, level=upper)
        known = TIERS.index(proved.tier) >= TIERS.index(tier)
        require(known, f"{name} is {proved.tier}, not {tier}")
        require(
            proved.upper <= upper + self._slack(upper),
            f"{name} is only known below {proved.upper:.9g}",
        )
        return proved.upper

    def _along(self, start: Floats, stop: Floats, times: Floats) -> Floats:
        """The judged value at points of a straight segment."""
        return np.array([self.height((1.0 - t) * start + t * stop) for t in times])

    def _slack(self, size: float) -> float:
        """How far numbers of this size may be apart."""
        return max(self.slack, SAME * abs(size)) if math.isfinite(size) else self.slack

    def is_same(self, stated: float, value: float, share: float) -> bool:
        """Whether a stated value is one that was computed, to a share of it or to rounding."""
        if np.isnan(value):
            return bool(np.isnan(stated))
        near = abs(stated - value) <= max(self._slack(value), share * abs(value))
        return stated == value or near

    def _same(self, stated: Floats, value: Floats, name: str) -> None:
        """Numbers that have to agree."""
        slack = self._slack(_size(value))
        with np.errstate(invalid="ignore"):  # infinite numbers are equal or not
            near = np.abs(stated - value) <= slack
        same = near | (stated == value) | (np.isnan(stated) & np.isnan(value))
        require(bool(same.all()), f"its {name} come out otherwise")


def _local_maxima(values: Floats) -> list[int]:
    """Points that are no lower than their neighbours."""
    low = np.array([-np.inf])
    before, after = np.concatenate([low, values[:-1]]), np.concatenate([values[1:], low])
    return np.flatnonzero((values >= before) & (values >= after)).tolist()


def highest(values: Floats) -> float:
    """The largest of some values; NaN counts as above every level."""
    return math.inf if np.isnan(values).any() else float(values.max())


def _size(values: Floats) -> float:
    """The largest finite number, without its sign."""
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))


def height_of(
    found: Connection, landscape: Landscape, metric: Metric | None
) -> Callable[[Floats], float]:
    """The judged value on a landscape: its loss, or a metric of its outputs and targets."""
    if found.kind in LOSSES:
        return landscape.loss
    known = found.kind == "error_rate" or callable(metric)
    require(
        known,
        f"it is about {found.kind!r}: give verify that metric",
    )
    return _by_outputs(landscape, metric if callable(metric) else _error_rate)


def _by_outputs(landscape: Landscape, metric: Metric) -> Callable[[Floats], float]:
    """A metric of a landscape's outputs and targets."""

    def height(theta: Floats) -> float:
        outputs = landscape.outputs_of(torch.tensor(theta)).detach().cpu().numpy()
        return float(metric(outputs, landscape.targets))

    return height


def _error_rate(outputs: Floats, targets: NDArray[np.generic]) -> float:
    """The share of samples whose largest output is another class's."""
    wrong = np.argmax(outputs, axis=1) != targets
    return float(np.mean(wrong | np.isnan(outputs).any(axis=1)))
