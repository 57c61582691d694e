"""The figure of a descent: loss, step lengths and distance to the end against the pivot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from reluscape.descent.phases import WINDOW, running_mean

if TYPE_CHECKING:
    from reluscape.descent.result import Descent

Floats = NDArray[np.float64]


def path_figure(descent: Descent) -> go.Figure:
    """Loss above its end, step length with its running mean, and distance to the end, log scales.

    A dashed line is where the exponential phase ends.
    """
    titles = (
        f"{descent.quantity} above its end",
        f"step lengths, and their mean over {WINDOW}",
        "distance to the end",
    )
    figure = make_subplots(3, 1, shared_xaxes=True, subplot_titles=titles, vertical_spacing=0.08)
    pivots = np.arange(1, descent.num_pivots + 1)
    above = descent.losses - descent.losses[-1]
    figure.add_scatter(
        x=np.arange(len(above)), y=_positive(above), name=descent.quantity, row=1, col=1
    )
    lengths = _positive(descent.step_lengths)
    figure.add_scatter(x=pivots, y=lengths, name="step", mode="markers", row=2, col=1)
    mean = _positive(running_mean(descent.step_lengths))
    figure.add_scatter(x=pivots, y=mean, name="mean", row=2, col=1)
    distance = np.linalg.norm(descent.vertices - descent.theta, axis=1)
    places = descent.stride * np.arange(len(distance))
    figure.add_scatter(x=places, y=_positive(distance), name="distance", row=3, col=1)
    figure.update_yaxes(type="log", exponentformat="power").update_xaxes(
        title_text="pivot", row=3, col=1
    )
    phases = descent.phases()
    if phases.split < phases.last:
        figure.add_vline(x=phases.split, line={"dash": "dash", "width": 1})
    return figure.update_layout(showlegend=False, height=720)


def _positive(values: Floats) -> Floats:
    """Values for a logarithmic axis: gaps where there is nothing to show."""
    return np.where(values > 0, values, np.nan)
