"""Pictures of a merge tree: its branches, its persistence, and the networks at its minima."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from reluscape.report.charts import COLOURS, MUTED, figure, log_axis, x_axis, y_axis

if TYPE_CHECKING:
    from reluscape.report.branches import Drawn

Floats = NDArray[np.float64]

#: Minima beyond which the least persistent are left out of the branches.
BRANCHES = 200
#: Width of the branches on a phone, and most and least of a dot, in pixels.
WIDTH, LARGEST, SMALLEST = 300.0, 7.0, 3.0
#: Networks that are drawn.
NETWORKS = 6
#: Barriers below this share of the highest one are off the axis.
LOWEST = 1e-10
#: Losses below this share of the highest one are taken for zero.
ZERO = 1e-6


def disconnectivity(tree: Drawn) -> go.Figure:
    """The disconnectivity graph: every minimum's line from its loss up to where it joins a lower one.

    At most `BRANCHES` minima, the most persistent ones; the others' lines would join these.
    """
    shown = most_persistent(tree)
    places = _places(tree, shown)
    top = _top(tree, shown)
    x: list[float | None] = []
    y: list[float | None] = []
    for k in shown.tolist():
        end = float(tree.deaths[k]) if np.isfinite(tree.deaths[k]) else top
        x += [places[k], places[k]]
        y += [float(tree.losses[k]), end]
        if np.isfinite(tree.deaths[k]):
            x.append(places[int(tree.parents[k])])
            y.append(end)
        x.append(None)
        y.append(None)
    lines = {"type": "scatter", "mode": "lines", "x": x, "y": y, "hoverinfo": "skip"}
    size = min(LARGEST, max(SMALLEST, WIDTH / max(len(shown), 1)))  # as wide as there is room
    dots = {
        "type": "scatter", "mode": "markers",
        "x": [places[k] for k in shown.tolist()], "y": tree.losses[shown],
        "marker": {"color": np.where(shown == 0, COLOURS[1], COLOURS[0]),
                   "size": np.where(shown == 0, LARGEST, size)},
        "text": [f"minimum {k}" for k in shown.tolist()],
        "hovertemplate": "%{text}: loss %{y:.6g}<extra></extra>",
    }  # fmt: skip
    across = x_axis("") | {"showticklabels": False, "ticks": "", "showgrid": False}
    line = {"color": COLOURS[0], "width": 0.2 * size}
    up = y_axis("loss") | _levels_axis(tree.losses[shown], top)
    return figure([lines | {"line": line}, dots], {"xaxis": across, "yaxis": up}, 420, 1)


def persistence(tree: Drawn) -> go.Figure:
    """The persistence of each minimum, the barrier to a lower one above its loss, by its loss."""
    known = np.flatnonzero(np.isfinite(tree.deaths))
    heights = tree.deaths[known] - tree.births[known]
    dots = {
        "type": "scatter", "mode": "markers", "x": tree.births[known], "y": heights,
        "marker": {"color": COLOURS[0], "size": 7, "opacity": 0.7},
        "text": [f"minimum {k}" for k in known.tolist()],
        "hovertemplate": "%{text}: loss %{x:.6g}, barrier %{y:.3g}<extra></extra>",
    }  # fmt: skip
    highest = float(heights.max(initial=0.0))
    axes = {
        "xaxis": x_axis("loss of the minimum") | _births_axis(tree.births[known]),
        "yaxis": y_axis("barrier above it") | log_axis(heights[heights >= LOWEST * highest]),
    }
    return figure([dots], axes, 340, 1)


def networks(tree: Drawn) -> go.Figure:
    """What the networks at the lowest minima put out, over the data, for one input and one output.

    One of those that differ by an exchange of units.
    """
    inputs, targets = tree.features[:, 0], tree.residual[:, 0]
    margin = 0.05 * max(float(np.ptp(inputs)), 1e-12)
    grid = np.linspace(inputs.min() - margin, inputs.max() + margin, 600)
    data = {
        "type": "scatter", "mode": "markers", "x": inputs, "y": targets, "name": "data",
        "marker": {"color": MUTED, "size": 7},
    }  # fmt: skip
    traces: list[dict[str, Any]] = [data]
    for place, k in enumerate(distinct(tree)[:NETWORKS]):
        rows = tree.layer.unpack(tree.minima[k])
        features = np.stack([grid, np.ones_like(grid)], axis=1)[:, : rows.shape[1]]
        values = features @ rows.T
        outputs = np.where(values > 0, values, tree.slope * values) @ tree.weights[0]
        dash = ("solid", "dash", "dot")[place // len(COLOURS) % 3]
        look = {"color": COLOURS[place % len(COLOURS)], "width": 1.8, "dash": dash}
        name = f"minimum {k}: {tree.losses[k]:.4g}"
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": grid,
                "y": outputs,
                "name": name,
                "line": look,
            }
        )
    axes = {"xaxis": x_axis("input"), "yaxis": y_axis("output without its bias")}
    return figure(traces, axes, 400, len(traces), 70)


def _levels_axis(losses: Floats, top: float) -> dict[str, Any]:
    """A logarithmic axis where losses up to `top` differ by factors, but are not zero to rounding."""
    low, high = float(losses.min(initial=np.inf)), float(losses.max(initial=top))
    return log_axis(np.array([low, high])) if ZERO * high < low < 0.1 * high else {}


def _births_axis(births: Floats) -> dict[str, Any]:
    """An axis for losses of minima; around a single loss it would begin below zero."""
    low, high = float(births.min(initial=np.inf)), float(births.max(initial=0.0))
    alone = 0.0 < high <= low * (1.0 + 1e-9)
    return {"range": [0.0, 2.0 * high]} if alone else _levels_axis(births, 0.0)


def most_persistent(tree: Drawn) -> NDArray[np.int64]:
    """Minima that are shown, ascending: a minimum's parent is at least as persistent."""
    order = np.argsort(-(tree.deaths - tree.births), kind="stable")
    return np.sort(order[:BRANCHES])


def distinct(tree: Drawn) -> list[int]:
    """Minima of which none is another one's exchange of units, but for different ones of equal losses."""
    found: list[int] = []
    left: dict[tuple[float, int], int] = {}
    for k, alike in enumerate(zip(tree.losses.tolist(), tree.multiplicity.tolist(), strict=True)):
        if left.get(alike, 0) == 0:
            found.append(k)
            left[alike] = alike[1]
        left[alike] -= 1
    return found


def _places(tree: Drawn, shown: NDArray[np.int64]) -> dict[int, float]:
    """Where each minimum's line stands: beside its parent's, those that join it first next to it."""
    children: dict[int, list[int]] = {k: [] for k in shown.tolist()}
    roots: list[int] = []
    for k in shown.tolist():
        (children[int(tree.parents[k])] if tree.parents[k] >= 0 else roots).append(k)
    for several in children.values():
        several.sort(key=lambda k: -tree.deaths[k])
    places: dict[int, float] = {}
    stack = roots[::-1]
    while stack:
        k = stack.pop()
        places[k] = float(len(places))
        stack += children[k]
    return places


def _top(tree: Drawn, shown: NDArray[np.int64]) -> float:
    """Where the lines end that join no other."""
    ends = tree.deaths[shown][np.isfinite(tree.deaths[shown])]
    highest = float(max(ends.max(initial=tree.losses[0]), tree.losses[shown].max()))
    return highest + 0.08 * max(highest - float(tree.losses[0]), 1e-12)
