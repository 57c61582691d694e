"""The figures of a spanning tree: where models join, and how high the string of each pair rises."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from reluscape.report.charts import COLOURS, MUTED, Series, plain, trails
from reluscape.report.wording import number
from reluscape.strings.chart import is_spread

__all__ = ["disconnectivity", "heights_map"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
#: Characters of a name on an axis.
LONGEST = 18
#: Of heights; the lowest can be told from what is left out.
SCALE = [[0.0, "#dbe7ef"], [0.5, "#5b95bf"], [1.0, "#08306b"]]


def disconnectivity(
    values: Floats,
    edges: Indices,
    heights: Floats,
    names: Sequence[str],
    level: float | None = None,
    *,
    kind: str = "loss",
) -> go.Figure:
    """Each model at its value; from there up to where the tree joins it with others, and on.

    Args:
        values: Of the models.
        edges: Of the tree.
        heights: Of its edges.
        names: Of the models.
        level: A dashed line.
        kind: What the heights are.
    """
    places = {model: k for k, model in enumerate(_order(len(values), edges, heights))}
    x, y = _branches(values, edges, heights, places)
    series = [Series("passes", x, y)]
    if level is not None:
        series.append(Series("level", [-0.5, len(values) - 0.5], [level, level]))
    known = np.concatenate([values, y[np.isfinite(y)], [] if level is None else [level]])
    figure = trails(series, "", kind, log=is_spread(known))
    if level is not None:
        figure.data[1].line.update(dash="dash", color=MUTED)
    at = [places[model] for model in range(len(values))]
    figure.add_scatter(
        x=at, y=values, mode="markers", name="models", marker={"color": COLOURS[0], "size": 8},
        text=[plain(name) for name in names], hovertemplate="%{text}: %{y:.4g}<extra></extra>",
    )  # fmt: skip
    words = [_short(name) for name in names]
    axis = {"tickvals": at, "ticktext": words, "range": [-0.5, len(values) - 0.5]}
    return figure.update_xaxes(**axis, showgrid=False, zeroline=False)


def heights_map(maxima: Floats, straight: Floats, names: Sequence[str]) -> go.Figure:
    """How high each pair's string rises, below the diagonal, and its straight line, above it."""
    heights = np.tril(maxima, -1) + np.triu(straight, 1)
    np.fill_diagonal(heights, np.nan)
    known = heights[np.isfinite(heights)]
    logs = bool(known.size) and is_spread(known)
    shown = np.log10(heights) if logs else heights
    ticks = np.linspace(np.nanmin(shown), np.nanmax(shown), 4)
    told = [number(10.0**tick if logs else tick, 2) for tick in ticks.tolist()]
    bar = {"tickvals": ticks, "ticktext": told, "thickness": 12, "outlinewidth": 0}
    words, places = [_short(name) for name in names], list(range(len(names)))
    look = {"colorscale": SCALE, "colorbar": bar, "customdata": heights, "hoverongaps": False}
    hover = "%{x}, %{y}: %{customdata:.4g}<extra></extra>"
    figure = trails([], "", "", log=False)
    figure.add_heatmap(z=shown, x=places, y=places, xgap=1, ygap=1, hovertemplate=hover, **look)
    axis = {"tickvals": places, "ticktext": words, "showgrid": False, "zeroline": False}
    return figure.update_xaxes(**axis).update_yaxes(**axis, autorange="reversed")


def _short(name: str) -> str:
    return plain(name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…")


def _rising(edges: Indices, heights: Floats) -> list[tuple[int, int, float]]:
    """Edges of the tree from the lowest to the highest."""
    order = np.argsort(heights, kind="stable")
    return [(int(edges[k, 0]), int(edges[k, 1]), float(heights[k])) for k in order]


def _order(count: int, edges: Indices, heights: Floats) -> list[int]:
    """The models such that those joined by lower edges stand together."""
    group = {model: [model] for model in range(count)}
    for u, v, _ in _rising(edges, heights):
        merged = group[u] + group[v]
        group |= dict.fromkeys(merged, merged)
    return group[0] if count else []


def _branches(
    values: Floats, edges: Indices, heights: Floats, places: dict[int, int]
) -> tuple[Floats, Floats]:
    """Lines up from each side of an edge to its height and across, with gaps between edges."""
    tops = {model: (float(place), float(values[model])) for model, place in places.items()}
    members = {model: [model] for model in places}
    x, y = [np.nan], [np.nan]
    for u, v, height in _rising(edges, heights):
        if not np.isfinite(height):
            break
        (left, low), (right, lower) = tops[u], tops[v]
        x += [left, left, right, right, np.nan]
        y += [low, height, height, lower, np.nan]
        merged = members[u] + members[v]
        members |= dict.fromkeys(merged, merged)
        tops |= dict.fromkeys(merged, (0.5 * (left + right), height))
    return np.array(x), np.array(y)
