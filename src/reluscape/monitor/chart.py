"""The figure of a trajectory: loss above, normalised second derivative below."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from reluscape.report.charts import COLOURS, Series, trails

if TYPE_CHECKING:
    from reluscape.monitor.trajectory import Trajectory

#: Below this, values are drawn as if they were this: as in the published figures.
CLIPPED = -10.0


def trajectory_figure(trajectory: Trajectory) -> go.Figure:
    """Both curves over the same steps."""
    onset = trajectory.onset
    marks = [] if onset is None else [float(onset)]
    steps = trajectory.steps.astype(np.float64)
    above = trails([Series("loss", steps, trajectory.losses)], "step", "loss", marks=marks)
    values = np.maximum(trajectory.curvatures, CLIPPED)
    title = "normalised second derivative"
    below = trails([Series(title, steps, values)], "step", title, log=False, marks=marks)
    return _stacked(above, below)


def _stacked(above: go.Figure, below: go.Figure) -> go.Figure:
    """Two figures with one horizontal axis, one above the other."""
    lower = below.data[0].update(yaxis="y2", line={"color": COLOURS[1], "width": 1.2})
    figure = go.Figure(above).add_trace(lower)
    return figure.update_layout(
        height=560,
        yaxis={"domain": [0.56, 1.0]},
        yaxis2=below.layout.yaxis.to_plotly_json() | {"domain": [0.0, 0.46], "anchor": "x"},
        xaxis={"anchor": "y2"},
    )
