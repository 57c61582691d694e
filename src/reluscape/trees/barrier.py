"""The lowest way between two points, through cells and over facets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from reluscape.results import Result

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Barrier(Result):
    """The least level below which two points are joined, and a path that attains it.

    Attributes:
        level: `min over paths of max over the path of loss`; infinite where a tree that was made `below`
            some loss does not join the points.
        beads: Corners of a path on which no loss is larger: the first point, the facets' minimisers in
            order, the second point. Two in a row lie in one closed cell, where the loss is convex.
            Shape (beads, params).
        losses: At the beads, shape (beads,); the largest is `level`.
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
