"""`verify` of a connection: its path measured again, from nothing but beads, network and data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from reluscape.certificate import Verification
from reluscape.check_block import RejectedError, require
from reluscape.digits import rounded_up
from reluscape.landscape import Landscape
from reluscape.strings.check_statistics import check_statistics, with_statistics
from reluscape.strings.connection import Connection
from reluscape.strings.ends import on_own_statistics, outputs_apart, with_state
from reluscape.strings.maximum import path_maximum
from reluscape.strings.moving import Moving
from reluscape.strings.surface import Metric

Floats = NDArray[np.float64]

#: Difference of equal numbers from two ways to sum, relative to them or to the level.
SAME = 1e-9
#: The same relative to the largest number that was computed: of sums that cancel, only rounding is left.
ROUNDING = 64.0 * float(np.finfo(np.float64).eps)
#: Points of the grid on which a sampled segment is looked at again; the ends are among them.
POINTS = 257
TIERS = ("sampled", "certified", "exact")
LOSSES = ("loss", "other loss")


def check_connection(
    found: Connection,
    landscape: Landscape,
    metric: Metric | None = None,
    *,
    trained_on: Landscape | None = None,
) -> Verification:
    """Measure a path again: values, lengths, and the maximum of every segment.

    Values come from single forward passes, not from the batches of the search; bounds of tier "exact"
    and "certified" from `path_maximum` of each segment, asked for no more than is stated. A sampled
    segment is looked at on a grid of 257 points. What is told, not proved: `method`, `depths` but for
    the ends, `gradients`, `losses`, `seconds`, `unbatched`, `seed`, `tried`, and for `matched` units
    `unmatched_lower`. A statement that was made weaker, such as a higher level, is still true.

    Args:
        found: The connection.
        landscape: Whose loss it is about; for kind "other loss" that other one.
        metric: For a kind that is neither a loss nor "error_rate", the metric.
        trained_on: For kind "other loss" and a model with running statistics, the landscape that beads
            were trained on: between the ends, statistics are those of its data.

    Cost: 33 losses for each segment, and as much as it took to prove its maximum.
    """
    try:
        _shapes(found, landscape)
        _measures(found, landscape)
        string = _String.of(found, landscape, metric, trained_on or landscape)
        string.check_values()
        if found.buffers.shape[1]:
            check_statistics(found, trained_on or landscape)
            _own_statistics(found, landscape, metric)
        string.check_segments()
        string.check_straight()
    except RejectedError as rejection:
        return Verification(False, str(rejection))
    except (TypeError, ValueError, IndexError, AttributeError) as error:  # a field of another type
        return Verification(False, f"it is not an answer of connect: {error}")
    return Verification(True, f"recomputed from network and data: {sentence(found)}")


def sentence(found: Connection) -> str:
    """What is stated of the path."""
    how = "on a grid, which proves nothing" if found.tier == "sampled" else found.tier
    if found.status == "connected" and found.tier == "sampled":
        return (
            f"connected as far as a grid shows, which proves nothing: {found.kind} rises to"
            f" {found.maximum:.6g}, level {found.level:.6g}"
        )
    if found.status == "connected":
        return (
            f"connected: {found.kind} at most {rounded_up(found.maximum):.6g} ({how}), level"
            f" {found.level:.6g}"
        )
    return (
        f"this path rises to {found.highest:.6g} ({how}); none below level"
        f" {found.level:.6g} was found, which does not show that there is none"
    )


# ---- shapes ------------------------------------------------------------------------------------


def _shapes(found: Connection, landscape: Landscape) -> None:
    """Everything is an array or a number of the kind that it has to be."""
    require(
        found.beads.ndim == 2 and len(found.beads) >= 2 and found.beads.shape[1] == landscape.size,
        f"its beads are no path of models with {landscape.size} parameters",
    )
    require(bool(np.isfinite(found.beads).all()), "its beads hold NaN or infinite numbers")
    count, points = len(found.beads), len(found.straight)
    expected = {
        "values": (count,), "depths": (count,), "lower": (count - 1,), "upper": (count - 1,),
        "positions": (count - 1,), "curve": (count - 1, points),
    }  # fmt: skip
    for name, shape in expected.items():
        require(getattr(found, name).shape == shape, f"its {name} are not one for each")
    buffers = sum(buffer.numel() for buffer in landscape.module_at().buffers())
    fitting = found.buffers.shape in ((count, 0), (count, buffers))
    require(fitting, "its buffers do not fit")
    require(points >= 2 and len(found.tiers) == count - 1, "it does not tell all of its segments")
    require({*found.tiers, found.straight_tier} <= set(TIERS), "it has an unknown tier")
    require(bool(((found.positions >= 0) & (found.positions <= 1)).all()), "its positions are none")
    ends = found.depths[[0, -1]]
    require(not ends.any() and bool((found.depths >= 0).all()), "its depths are none")
    counted = (found.gradients, found.losses, found.seconds, found.seed)
    require(all(number >= 0 for number in counted), "its counts are none")
    require(math.isfinite(found.level), "its level is none")
    same = found.objective == landscape.loss_name
    require(same, f"it is about the loss {found.objective!r}, not {landscape.loss_name!r}")
    decay = landscape.weight_decay
    same = found.weight_decay == decay
    require(same, f"it is about weight decay {found.weight_decay!r}, not {decay!r}")


# ---- values ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _String:
    """A path and what is judged on it, one point at a time.

    Attributes:
        found: What is stated.
        judge: The landscape whose maxima are stated.
        height: The judged value at a point.
        values: It at the beads.
        slack: Difference of numbers that are the same; what is stated cannot widen it.
    """

    found: Connection
    judge: Landscape
    height: Callable[[Floats], float]
    values: Floats
    slack: float

    @classmethod
    def of(
        cls, found: Connection, landscape: Landscape, metric: Metric | None, trained_on: Landscape
    ) -> _String:
        """With the statistics of batches at each point, where the path has its own."""
        judge, height = landscape, _height(found, landscape, metric)
        if found.buffers.shape[1] and found.kind == "other loss":
            known = trained_on is not landscape
            require(known, "give check_connection trained_on, whose running statistics it has")
            height = with_statistics(landscape, trained_on)
        elif found.buffers.shape[1]:
            judge = on_own_statistics(landscape)
            height = _height(found, judge, metric)
        values = np.array([height(bead) for bead in found.beads])
        zero = [height(np.zeros(landscape.size))] if found.kind in LOSSES else []
        size = _size(np.array([*values, *zero]))
        slack = SAME * min(abs(found.level), size) + ROUNDING * size
        return cls(found, judge, height, values, slack)

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
            value = _highest(self._along(start, stop, found.positions[k : k + 1]))
            rounding = self._rounding(start, stop, value, tier)
            slack = self._slack(value)
            there = lower == value or value - rounding - slack <= lower <= value + slack
            require(there, f"where segment {k} is said to be highest, the value is {value:.6g}")
            seen = _highest(found.curve[k])
            require(seen <= lower + rounding + slack, f"segment {k} rises to {seen:.6g}")
            if tier == "sampled":
                self._look(start, stop, float(found.upper[k]), f"segment {k}")
            else:
                self._prove(start, stop, lower, float(found.upper[k]), tier, f"segment {k}")

    def check_straight(self) -> None:
        """The same of the straight line between the ends, which need not be below the level."""
        found, tier = self.found, self.found.straight_tier
        start, stop, lower = found.beads[0], found.beads[-1], found.straight_lower
        seen = _highest(found.straight)
        slack = self._slack(seen)
        rounding = self._rounding(start, stop, seen, tier)
        require(seen <= lower + rounding + slack, "its straight line rises further")
        if tier == "sampled":
            require(
                found.straight_upper == math.inf, "its straight line is bounded without a proof"
            )
            highest = _highest(self._along(start, stop, np.linspace(0.0, 1.0, POINTS)))
        else:
            highest = self._prove(start, stop, lower, found.straight_upper, tier, "straight line")
        require(lower <= highest + slack, "its straight line rises less")

    def _rounding(self, start: Floats, stop: Floats, value: float, tier: str) -> float:
        """What a proved maximum is stated below the value that was computed."""
        if tier == "sampled":
            return 0.0
        moving = Moving.of(self.judge, start, stop)
        require(moving is not None, f"there is no tier {tier!r} for this network")
        assert moving is not None
        return value - moving.lowest(value)

    def _look(self, start: Floats, stop: Floats, upper: float, name: str) -> None:
        """A grid on which a sampled segment is nowhere higher than what was seen."""
        require(upper == math.inf, f"{name} is bounded without a proof")
        if self.found.status == "connected":
            fine = _highest(self._along(start, stop, np.linspace(0.0, 1.0, POINTS)))
            below = fine <= self.found.level + self._slack(fine)
            require(below, f"{name} rises to {fine:.6g}")

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

    def _same(self, stated: Floats, value: Floats, name: str) -> None:
        """Numbers that have to agree."""
        slack = self._slack(_size(value))
        with np.errstate(invalid="ignore"):  # infinite numbers are equal or not
            near = np.abs(stated - value) <= slack
        same = near | (stated == value) | (np.isnan(stated) & np.isnan(value))
        require(bool(same.all()), f"its {name} come out otherwise")


def _highest(values: Floats) -> float:
    """The largest of some values; NaN counts as above every level."""
    return math.inf if np.isnan(values).any() else float(values.max())


def _size(values: Floats) -> float:
    """The largest finite number, without its sign."""
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))


def _height(
    found: Connection, landscape: Landscape, metric: Metric | None
) -> Callable[[Floats], float]:
    """The judged value on a landscape: its loss, or a metric of its outputs and targets."""
    if found.kind in LOSSES:
        return landscape.loss
    known = found.kind == "error_rate" or callable(metric)
    require(known, f"it is about {found.kind!r}: give check_connection that metric")
    return _by_outputs(landscape, metric if callable(metric) else _error_rate)


def _by_outputs(landscape: Landscape, metric: Metric) -> Callable[[Floats], float]:
    """A metric of a landscape's outputs and targets."""

    def height(theta: Floats) -> float:
        outputs = landscape.outputs_of(torch.as_tensor(theta)).detach().cpu().numpy()
        return float(metric(outputs, landscape.targets))

    return height


def _error_rate(outputs: Floats, targets: NDArray[np.generic]) -> float:
    """The share of samples whose largest output is another class's."""
    return float(np.mean(np.argmax(outputs, axis=1) != targets))


# ---- what follows from them --------------------------------------------------------------------


def _measures(found: Connection, landscape: Landscape) -> None:
    """Maximum, tier, status and lengths."""
    tier = min(found.tiers, key=TIERS.index)
    require(found.tier == tier, f"its tier is {tier!r}")
    bounded = [one != "sampled" for one in found.tiers]
    heights = np.where(bounded, found.upper, found.lower)
    require(found.maximum == heights.max(), f"its maximum is {heights.max():.6g}")
    require(found.status in ("connected", "not_found"), f"unknown status {found.status!r}")
    below = found.maximum <= found.level
    require(below or found.status == "not_found", "its maximum is above its level")
    missed = found.status == "connected" or not (below and all(bounded))
    require(missed, "it is connected, and says that no path was found")
    before = isinstance(found.matched, bool) and found.matched != math.isnan(found.unmatched_lower)
    require(before, "whether its units were matched is told in two ways")
    names = [(name, p.numel()) for name, p in landscape.module_at().named_parameters()]
    biased = np.repeat([name.split(".")[-1].find("bias") >= 0 for name, _ in names],
                       [size for _, size in names])  # fmt: skip
    whole, weights = _length(found.beads), _length(found.beads[:, ~biased])
    require(_near(found.normalized_length, whole), f"its normalised length is {whole:.6g}")
    near = _near(found.normalized_length_weights, weights)
    require(near, f"its normalised length without biases is {weights:.6g}")


def _near(stated: float, value: float) -> bool:
    return stated == value or abs(stated - value) <= SAME * value


def _length(beads: Floats) -> float:
    """Length of a path over the distance of its ends."""
    steps = [float(np.linalg.norm(b - a)) for a, b in itertools.pairwise(beads)]
    distance, length = float(np.linalg.norm(beads[-1] - beads[0])), math.fsum(steps)
    if distance > 0.0:
        return length / distance
    return math.inf if length > 0.0 else 1.0


# ---- the ends ----------------------------------------------------------------------------------


def _own_statistics(found: Connection, landscape: Landscape, metric: Metric | None) -> None:
    """With its own running statistics, neither end of a connected path is above the level."""
    for k in (0, found.num_beads - 1):
        own = with_state(landscape, found.state(landscape, k))
        value = _height(found, own, metric)(found.beads[k])
        below = found.status != "connected" or value <= found.level
        require(below, f"with its running statistics bead {k} is above the level: {value:.6g}")


def begins_at(found: Connection, landscape: Landscape, model: nn.Module) -> bool:
    """Whether the path begins at a model, with its running statistics."""
    pairs = _pairs(found, landscape, 0, model)
    return all(np.array_equal(begin, one) for begin, one in pairs)


def why_other_end(found: Connection, landscape: Landscape, model: nn.Module) -> str:
    """Why the path does not end at a model, or at its hidden units permuted; empty where it does."""
    pairs = _pairs(found, landscape, found.num_beads - 1, model)
    if not found.matched:
        if not all(np.array_equal(end, one) for end, one in pairs):
            return "it ends at other weights: give --weights in the order of connect"
        return ""
    if not all(np.array_equal(np.sort(end, None), np.sort(one, None)) for end, one in pairs):
        return "it ends at other weights, whatever the order of their units"
    apart = outputs_apart(landscape, found.state(landscape, found.num_beads - 1), model)
    return f"the model that it ends at has other outputs, by {apart:.2g}" if apart else ""


def _pairs(
    found: Connection, landscape: Landscape, bead: int, model: nn.Module
) -> list[tuple[Floats, Floats]]:
    """Parameters and buffers of a bead, each beside a model's."""
    state, given = found.state(landscape, bead), landscape.state_of(model)
    return [(state[name].numpy(force=True), given[name].numpy(force=True)) for name in given]
