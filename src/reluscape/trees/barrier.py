"""The lowest way between two points, through cells and over facets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from reluscape.results import Result
from reluscape.trees.layer import Layer

Floats = NDArray[np.float64]

#: Straight lines that are gone along at once.
LINES = 64


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Barrier(Result):
    """The least level below which two points are joined, and a path that attains it.

    Attributes:
        level: `min over paths of max over the path of loss`; infinite where a tree that was made `below`
            some loss does not join the points.
        beads: Corners of a path on which no loss is larger: the first point, some least points of facets
            that the lowest way crosses, in order, and the second point. Shape (beads, params).
        losses: At the beads, of facets' least points as the tree tells them, shape (beads,); the largest
            is `level`.
    """

    level: float
    beads: Floats
    losses: Floats

    def summary(self) -> str:
        """Level and length in a sentence."""
        if not len(self.beads):
            return "no path below the loss at which the tree ends"
        ends = max(self.losses[0], self.losses[-1])
        return (
            f"barrier {self.level:.9g}, {self.level - ends:.3g} above the higher end, along"
            f" {len(self.beads)} beads"
        )

    def plot(self) -> go.Figure:
        """Losses at the beads, by the way's length."""
        from reluscape.report.charts import Series, trails

        steps = np.linalg.norm(np.diff(self.beads, axis=0), axis=1)
        length = np.concatenate([[0.0], np.cumsum(steps)])[: len(self.beads)]
        return trails([Series("loss", length, self.losses)], "length", "loss", log=False)


def shortened(layer: Layer, beads: Floats, losses: Floats) -> Barrier:
    """Leave out beads of a path, as far as straight lines past them are no higher than the path.

    From each bead the line goes to the last one that it gets to; the highest bead stays.

    Args:
        layer: The layer.
        beads: Two in a row lie in one closed cell, where the loss is convex (beads, params).
        losses: At the beads.
    """
    level, kept, end = float(losses.max()), [0], len(beads) - 1
    top = int(losses.argmax())
    while kept[-1] < end:
        kept.append(_last_below(layer, beads, level, kept[-1], top if kept[-1] < top else end))
    return Barrier(level, beads[kept], losses[kept])


def _last_below(layer: Layer, beads: Floats, level: float, start: int, last: int) -> int:
    """The last bead, up to a given one, to which the straight line from another is below a level."""
    for stop in range(last + 1, start + 2, -LINES):
        first = max(stop - LINES, start + 2)
        below = np.flatnonzero(layer.highest(beads[start], beads[first:stop]) <= level)
        if len(below):
            return first + int(below[-1])
    return start + 1
