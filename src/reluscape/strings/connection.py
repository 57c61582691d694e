"""A string of models between two ends: how high it rises, how long it is, and what it took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from reluscape.crossing import cells_crossed
from reluscape.digits import rounded_up
from reluscape.errors import InputError
from reluscape.landscape import Landscape
from reluscape.results import Result
from reluscape.strings.buffers import module_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Connection(Result):
    """A piecewise linear path between two models, and the value (loss or metric) along it.

    `status` "connected" states that the value stays at or below `level` on the whole path: proved where
    `tier` is "exact" or "certified", looked at on a grid where it is "sampled". "not_found" states that
    no such path was found, and `tried` by what; it never states that there is none.

    Attributes:
        status: "connected" or "not_found".
        tier: The weakest tier of the segments: "exact", "certified" or "sampled".
        level: What the value shall not exceed.
        maximum: Bound on the value along the path from above; for tier "sampled" the largest one seen.
        beads: Points of the path in order (beads, params); the first and the last are the given ends.
        values: The value at each bead (beads,); where running statistics follow the path, with those of
            the data, at the ends as well.
        depths: When each bead was inserted, 0 for the ends (beads,).
        lower: Largest value seen on each segment (segments,).
        upper: Bound from above on each segment; infinite where its tier is "sampled" (segments,).
        positions: Where on each segment, from 0 to 1, the value `lower` lies (segments,).
        tiers: Of each segment.
        curve: Values at evenly spaced positions on each segment, its ends included (segments, points).
        straight: Values at evenly spaced positions on the straight line between the ends (points,).
        straight_lower: Largest value seen on the straight line.
        straight_upper: Bound on it from above; infinite where `straight_tier` is "sampled".
        straight_tier: Of that bound.
        normalized_length: Length of the path over the distance of its ends; 1 for equal ends.
        normalized_length_weights: The same without biases.
        kind: What is judged: "loss", "other loss" or a metric's name.
        objective: Loss of the judged landscape.
        weight_decay: Its lambda.
        method: How the path was found.
        gradients: Gradients evaluated, one for each bead and step.
        losses: Values evaluated without a gradient, those of this result's own measures included.
        seconds: Wall time.
        unbatched: Why beads were trained one after the other; empty where they were a batch.
        seed: Of every random choice.
        matched: Whether the hidden units of the second model were permuted before: then the last bead is
            that permuted model, which computes the same function.
        unmatched_lower: Largest value seen on the straight line to the second model as it was given;
            NaN where nothing was permuted.
        tried: What was done, and for "not_found" why it ended.
        buffers: Buffers at each bead (beads, buffers), in the order of the module's: those of the ends,
            and between them running statistics of the data at each bead, and others that move linearly
            on each segment or are the landscape's; no columns where none changes on the path.
    """

    status: str
    tier: str
    level: float
    maximum: float
    beads: Floats
    values: Floats
    depths: NDArray[np.int64]
    lower: Floats
    upper: Floats
    positions: Floats
    tiers: tuple[str, ...]
    curve: Floats
    straight: Floats
    straight_lower: float
    straight_upper: float
    straight_tier: str
    normalized_length: float
    normalized_length_weights: float
    kind: str
    objective: str
    weight_decay: float
    method: str
    gradients: int
    losses: int
    seconds: float
    unbatched: str
    seed: int
    matched: bool
    unmatched_lower: float
    tried: tuple[str, ...]
    buffers: Floats

    @property
    def num_beads(self) -> int:
        """Points of the path, its ends included."""
        return len(self.beads)

    @property
    def depth(self) -> int:
        """Depth of the deepest bead."""
        return int(self.depths.max())

    @property
    def highest(self) -> float:
        """How high the path is known to rise: `maximum`, or what was seen above it."""
        return max(self.maximum, float(self.lower.max()))

    @property
    def barrier(self) -> float:
        """What the path rises above the higher of its ends: `maximum` minus that end's value."""
        return max(0.0, self.maximum - float(max(self.values[0], self.values[-1])))

    @property
    def linear_barrier(self) -> float:
        """What the straight line rises, at least, above the higher of its ends."""
        return max(0.0, self.straight_lower - float(max(self.values[0], self.values[-1])))

    def cells(self, landscape: Landscape) -> int:
        """Number of activation cells that the path passes through, as `cells_crossed` counts them.

        Raises:
            InputError: The landscape is not readable as a whole.
        """
        pairs = zip(self.beads[:-1], self.beads[1:], strict=True)
        return 1 + sum(cells_crossed(landscape, a, b) - 1 for a, b in pairs)

    def state(self, landscape: Landscape, bead: int) -> dict[str, torch.Tensor]:
        """Parameters and buffers of a bead, for `load_state_dict` of the user's module.

        Raises:
            InputError: No such bead.
        """
        return dict(self.module(landscape, bead).state_dict())

    def module(self, landscape: Landscape, bead: int) -> nn.Module:
        """The model of a bead, in float64 and eval mode.

        Raises:
            InputError: No such bead.
        """
        if not -len(self.beads) <= bead < len(self.beads):
            raise InputError(f"bead must lie in 0..{len(self.beads) - 1}; received {bead!r}")
        if not self.buffers.shape[1]:
            return landscape.module_at(self.beads[bead])
        return module_of(landscape, self.beads[bead], self.buffers[bead])

    def arc(self) -> Floats:
        """Length of the path up to each bead (beads,)."""
        steps = np.linalg.norm(np.diff(self.beads, axis=0), axis=1)
        return np.concatenate([[0.0], np.cumsum(steps)])

    def summary(self) -> str:
        """Verdict, barriers, measures and cost, in a few lines."""
        name = self.kind
        how = "seen on a grid" if self.tier == "sampled" else self.tier
        if self.status == "connected" and self.tier == "sampled":
            first = (
                f"connected as far as seen on a grid: {name} rises to {self.maximum:.6g}, level"
                f" {self.level:.6g}"
            )
        elif self.status == "connected":
            top = rounded_up(self.maximum)
            first = f"connected: {name} at most {top:.6g} ({how}), level {self.level:.6g}"
        else:
            first = (
                f"no path below level {self.level:.6g} was found, which does not show that there is"
                f" none; {'this' if self.straight_lower < self.highest else 'the best'} rises to"
                f" {self.highest:.6g} ({how})"
            )
        ends = f"{self.values[0]:.6g} and {self.values[-1]:.6g}"
        lines = [
            first,
            f"  ends {ends}; straight line rises to {self.straight_lower:.6g}",
            f"  barrier {self.barrier:.4g}, of the straight line {self.linear_barrier:.4g}",
            f"  {self.num_beads} beads, depth {self.depth}, normalised length"
            f" {self.normalized_length:.4f} ({self.normalized_length_weights:.4f} without biases)",
            f"  {self.method}: {self.gradients} gradients, {self.losses} values,"
            f" {self.seconds:.1f} s",
        ]
        if self.matched:
            lines.append(
                "  the second model's hidden units were permuted before; as they were, the straight"
                f" line rose to {self.unmatched_lower:.6g}"
            )
        return "\n".join([*lines, *(f"  {one}" for one in self.tried)])

    def plot(self) -> go.Figure:
        """The value along the path and along the straight line, by share of the length."""
        from reluscape.strings.chart import connection_figure

        return connection_figure(self)


def path_lengths(landscape: Landscape, beads: Floats) -> tuple[float, float]:
    """Length over the distance of the ends, with all parameters and without biases."""
    names = [(name, p.numel()) for name, p in landscape.module_at().named_parameters()]
    weights = np.concatenate(
        [np.full(size, "bias" not in name.rpartition(".")[2]) for name, size in names]
    )
    return _normalised(beads), _normalised(beads[:, weights])


def _normalised(beads: Floats) -> float:
    """Length of a path over the distance of its ends; 1 where it does not move, infinite for a loop."""
    length = float(np.linalg.norm(np.diff(beads, axis=0), axis=1).sum())
    distance = float(np.linalg.norm(beads[-1] - beads[0]))
    if distance == 0.0:
        return 1.0 if length == 0.0 else float("inf")
    return max(1.0, length / distance)
