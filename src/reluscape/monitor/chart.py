"""The figure of a trajectory: loss above, normalised second derivative below."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from reluscape.report.charts import COLOURS, MUTED, Series, trails

if TYPE_CHECKING:
    from reluscape.monitor.trajectory import Trajectory

#: Below this, values are drawn as if they were this: as in the published figures.
CLIPPED = -10.0
#: Records up to which each is a dot, and how many are marked as lying in a region.
DOTS, MARKS = 60, 300


def trajectory_figure(trajectory: Trajectory) -> go.Figure:
    """Both curves over the same steps; those in a region of certified convexity are marked below.

    The loss is on a logarithmic axis unless it is negative somewhere.
    """
    onset = trajectory.onset
    marks = [float(onset)] if onset is not None and trajectory.start else []
    steps, dots = trajectory.steps.astype(np.float64), len(trajectory.steps) <= DOTS
    losses = [Series("loss", steps, trajectory.losses)]
    positive = not (trajectory.losses < 0.0).any()
    above = trails(losses, "step", "loss", log=positive, marks=marks, dots=dots)
    values = np.maximum(trajectory.curvatures, CLIPPED)
    title = "normalised second derivative"
    below = trails([Series(title, steps, values)], "step", title, log=False, marks=marks, dots=dots)
    figure = _stacked(above, below)
    for trace in _inside(trajectory, steps, values):
        figure.add_trace(trace).update_layout(showlegend=True)
    return figure


def _inside(
    trajectory: Trajectory, steps: NDArray[np.float64], values: NDArray[np.float64]
) -> Iterator[go.Scatter]:
    """Marks on the lower curve where the weights lie in each region."""
    regions = (
        ("in the sharper region", trajectory.in_sharp_region, "square-open", 9),
        ("in the paper's region", trajectory.in_region, "diamond", 6),
    )
    for place, (name, inside, symbol, size) in enumerate(regions):
        if shown := np.flatnonzero(inside > 0).tolist():
            shown = shown[:: -(-len(shown) // MARKS)]
            marker = {"symbol": symbol, "size": size, "color": COLOURS[2 + place]}
            yield go.Scatter(
                x=steps[shown],
                y=values[shown],
                yaxis="y2",
                name=name,
                mode="markers",
                marker=marker,
            )


def _stacked(above: go.Figure, below: go.Figure) -> go.Figure:
    """Two figures with one horizontal axis, one above the other."""
    above.data[0].showlegend = False
    lower = below.data[0].update(
        showlegend=False,
        yaxis="y2",
        line={"color": COLOURS[1], "width": 1.2},
        marker={"color": COLOURS[1]},
    )
    figure = go.Figure(above).add_trace(lower)
    zero = {"zeroline": True, "zerolinecolor": MUTED, "zerolinewidth": 1}
    return figure.update_layout(
        height=560,
        yaxis={"domain": [0.56, 1.0]},
        yaxis2=below.layout.yaxis.to_plotly_json() | {"domain": [0.0, 0.46], "anchor": "x"} | zero,
        xaxis={"anchor": "y2"},
    )
