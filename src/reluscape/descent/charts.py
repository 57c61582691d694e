"""The figures of a descent: its path, phases, forecast and density, and those of a polish."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from reluscape.descent.phases import SERIES, WINDOW, Phases, running_mean

if TYPE_CHECKING:
    from reluscape.descent.density import Density
    from reluscape.descent.forecast import Forecast
    from reluscape.descent.polish import Polish

Floats = NDArray[np.float64]


def path_figure(
    losses: Floats,
    step_lengths: Floats,
    distances: Floats,
    phases: Phases,
    quantity: str = "loss",
) -> go.Figure:
    """Loss above its end, step length with its running mean, and distance to the end, log scales.

    A dashed line is where the exponential phase ends.
    """
    titles = (
        f"{quantity} above its end",
        f"step lengths, and their mean over {WINDOW}",
        "distance to the end",
    )
    figure = make_subplots(3, 1, shared_xaxes=True, subplot_titles=titles, vertical_spacing=0.08)
    pivots = np.arange(len(losses))
    above = losses - losses[-1]
    figure.add_scatter(x=pivots, y=_positive(above), name=quantity, row=1, col=1)
    lengths = _positive(step_lengths)
    figure.add_scatter(x=pivots[1:], y=lengths, name="step", mode="markers", row=2, col=1)
    mean = _positive(running_mean(step_lengths))
    figure.add_scatter(x=pivots[1:], y=mean, name="mean", row=2, col=1)
    figure.add_scatter(x=pivots, y=_positive(distances), name="distance", row=3, col=1)
    figure.update_yaxes(type="log", exponentformat="power").update_xaxes(
        title_text="pivot", row=3, col=1
    )
    if phases.split < phases.last:
        figure.add_vline(x=phases.split, line={"dash": "dash", "width": 1})
    return figure.update_layout(showlegend=False, height=720)


def forecast_figure(forecast: Forecast) -> go.Figure:
    """The foretold end with its interval, at the number of losses seen."""
    low, high = forecast.interval
    up, down = high - forecast.loss, forecast.loss - low
    error = {"type": "data", "array": [up], "arrayminus": [down], "symmetric": False}
    figure = go.Figure()
    figure.add_scatter(
        x=[forecast.seen], y=[forecast.loss], error_y=error, mode="markers", name="forecast"
    )
    return figure.update_layout(xaxis_title="losses seen", yaxis_title="loss at the end")


def rates_figure(phases: Phases) -> go.Figure:
    """Fall of the logarithm per pivot of each series, with its interval, a trace per phase."""
    figure = go.Figure()
    for phase, name in enumerate(("exponential", "fine-tuning")):
        rates, (low, high) = phases.rates[:, phase], phases.intervals[:, phase].T
        error = {"type": "data", "array": high - rates, "arrayminus": rates - low}
        figure.add_scatter(
            x=list(SERIES), y=rates, error_y=error | {"symmetric": False}, mode="markers", name=name
        )
    if not np.isfinite(phases.rates).any():
        figure.add_annotation(text="the path is too short for a rate", showarrow=False)
    return figure.update_layout(xaxis_title="series", yaxis_title="fall of the logarithm per pivot")


def density_figure(density: Density) -> go.Figure:
    """Median way to the next kink and its quartiles against the pivot."""
    low, middle, high = np.quantile(density.ways, (0.25, 0.5, 0.75), axis=1, method="nearest")
    error = {"type": "data", "array": high - middle, "arrayminus": middle - low, "symmetric": False}
    figure = go.Figure()
    figure.add_scatter(x=density.pivots, y=middle, error_y=error, mode="lines+markers", name="way")
    figure.update_yaxes(type="log", exponentformat="power", title_text="way to the next kink")
    return figure.update_xaxes(title_text="pivot")


def polish_figure(polish: Polish) -> go.Figure:
    """The loss along all descents one after the other, a trace for each."""
    figure, before = go.Figure(), 0
    for leg in polish.legs:
        name = f"layer {leg.layer!r}, sweep {leg.sweep}"
        x = before + np.arange(leg.num_pivots + 1)
        figure.add_scatter(x=x, y=leg.losses, name=name, mode="lines")
        before += leg.num_pivots
    return figure.update_layout(xaxis_title="pivot", yaxis_title="loss")


def _positive(values: Floats) -> Floats:
    """Values for a logarithmic axis: gaps where there is nothing to show."""
    return np.where(values > 0, values, np.nan)
