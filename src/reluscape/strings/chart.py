"""The figure of a connection: the value along the string, the straight line beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from reluscape.report.charts import COLOURS, Series, trails

if TYPE_CHECKING:
    from reluscape.strings.connection import Connection


def connection_figure(found: Connection) -> go.Figure:
    """Both curves by share of their own length, the beads as dots, the level as a dashed line."""
    arc = found.arc() / max(float(found.arc()[-1]), float(np.finfo(float).tiny))
    inside = np.linspace(0.0, 1.0, found.curve.shape[1])
    along = (arc[:-1, None] + inside * np.diff(arc)[:, None]).ravel()
    line = np.linspace(0.0, 1.0, len(found.straight))
    series = [
        Series("string", along, found.curve.ravel()),
        Series("straight", line, found.straight),
    ]
    figure = trails(series, "share of the length", found.kind, log=False)
    figure.add_scatter(
        x=arc, y=found.values, mode="markers", name="beads", marker={"color": COLOURS[0], "size": 6}
    )
    figure.add_hline(y=found.level, line={"dash": "dash", "width": 1})
    return figure
