"""The figure of a connection: the value along the string, the straight line beside it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from reluscape.report.charts import COLOURS, MUTED, Series, trails

Floats = NDArray[np.float64]

#: Largest over smallest value beyond which the axis is logarithmic.
SPREAD = 20.0


class Drawn(Protocol):
    """What is drawn of a string."""

    @property
    def kind(self) -> str:
        """What is judged."""

    @property
    def level(self) -> float:
        """What is not to be exceeded."""

    @property
    def values(self) -> Floats:
        """The value at each bead."""

    @property
    def curve(self) -> Floats:
        """Values at evenly spaced positions on each segment."""

    @property
    def straight(self) -> Floats:
        """Values at evenly spaced positions on the straight line."""

    def arc(self) -> Floats:
        """Length up to each bead."""


def connection_figure(found: Drawn) -> go.Figure:
    """Both curves by share of their own length, the beads as dots, the level as a dashed line."""
    arc = found.arc() / max(float(found.arc()[-1]), float(np.finfo(float).tiny))
    inside = np.linspace(0.0, 1.0, found.curve.shape[1])
    along = (arc[:-1, None] + inside * np.diff(arc)[:, None]).ravel()
    line = np.linspace(0.0, 1.0, len(found.straight))
    series = [
        Series("string", along, found.curve.ravel()),
        Series("straight line", line, found.straight),
        Series("level", [0.0, 1.0], [found.level, found.level]),
    ]
    heights = np.concatenate([np.ravel(one.y) for one in series])
    title = found.kind.replace("_", " ")
    figure = trails(series, "share of the length", title, log=is_spread(heights))
    figure.data[2].line.update(dash="dash", color=MUTED)
    marker = {"color": COLOURS[0], "size": 6}
    figure.add_scatter(x=arc, y=found.values, mode="markers", name="beads", marker=marker)
    return figure


def is_spread(heights: Floats) -> bool:
    """Whether heights want a logarithmic axis."""
    return bool(heights.min() > 0.0 and heights.max() > SPREAD * heights.min())
