"""The look that all figures of a report share, and the kinds of chart its sections draw."""

import html
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from reluscape.report.wording import THIN, number

INK, MUTED, GRID = "#1d2a33", "#53616c", "#e3e7ea"
COLOURS = ("#1f5f8b", "#b25d16", "#2f6f4f", "#6b4c8a")
SYMBOLS = ("circle", "diamond", "square", "triangle-up")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_CURVE_POINTS = 600
_LABEL = 16
#: What lies lower than this times the largest value is off a logarithmic axis of `trails`.
_DEPTH = 1e-10
_SHARES: Final = {
    "range": [-6, 106],
    "tickvals": [-2.5, 25, 50, 75, 102.5],
    "ticktext": ["none", "25 %", "50 %", "75 %", "all"],
}


@dataclass(frozen=True, slots=True)
class Series:
    """Values of one model: ``x`` against ``y``, or a sample in ``x`` for each label in ``y``."""

    name: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | Sequence[str] | np.ndarray


def plain(text: str) -> str:
    """Text from others as Plotly shows it literally; Plotly reads some HTML in labels."""
    return html.escape(text, quote=False)


def curves(series: Sequence[Series], x_title: str, y_title: str) -> go.Figure:
    """Lines on a logarithmic vertical axis; long ones are averaged over equal stretches."""
    traces, heights = [], []
    for place, one in enumerate(series):
        x, y = _thinned(np.asarray(one.x, float), np.asarray(one.y, float))
        line = {"color": _colour(place), "width": 1.6, "dash": ("solid", "dot")[place % 2]}
        trace = {"type": "scatter", "x": x, "y": y, "name": plain(one.name)}
        traces.append(trace | {"mode": "lines", "line": line})
        heights.append(y)
    axes = {
        "xaxis": x_axis(x_title),
        "yaxis": y_axis(y_title) | log_axis(np.concatenate(heights)),
    }
    return figure(traces, axes, 340, len(series))


def trails(
    series: Sequence[Series],
    x_title: str,
    y_title: str,
    *,
    log: bool = True,
    marks: Sequence[float | None] = (),
    dots: bool = False,
) -> go.Figure:
    """Lines whose points are the series' own: long ones are thinned, none is averaged.

    A NaN is a gap; a logarithmic axis reaches over ten decades. `marks` are places, one or none per
    series, of a dashed line in its colour. `dots` shows the points themselves, too.
    """
    traces, heights = [], [np.zeros(0)]
    for place, one in enumerate(series):
        x, y = np.asarray(one.x, float), np.asarray(one.y, float)
        kept = _telling(y)
        line = {"color": _colour(place), "width": 1.6}
        trace = {"type": "scatter", "x": x[kept], "y": y[kept], "name": plain(one.name)}
        look = {"mode": "lines+markers" if dots else "lines", "line": line, "connectgaps": False}
        traces.append(trace | look | {"marker": {"color": _colour(place), "size": 6}})
        heights.append(y)
    values = np.concatenate(heights)
    values = values[values >= _DEPTH * np.nanmax(values, initial=0.0)]
    vertical = y_axis(y_title) | (log_axis(values) if log else {})
    shapes = [
        {"type": "line", "x0": at, "x1": at, "yref": "paper", "y0": 0, "y1": 1}
        | {"line": {"color": _colour(place), "width": 1.2, "dash": "dash"}}
        for place, at in enumerate(marks)
        if at is not None
    ]
    layout = {"xaxis": x_axis(x_title), "yaxis": vertical, "shapes": shapes}
    return figure(traces, layout, 340, len(series))


def band(
    x: np.ndarray, middle: np.ndarray, low: np.ndarray, high: np.ndarray, level: float,
    x_title: str, y_title: str,
) -> go.Figure:  # fmt: skip
    """A line in the band from `low` to `high`, and a dashed line at `level`."""
    edge: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines",
        "line": {"width": 0},
        "hoverinfo": "skip",
    }
    traces: list[dict[str, Any]] = [
        edge | {"x": x, "y": low, "showlegend": False},
        edge | {"x": x, "y": high, "fill": "tonexty", "fillcolor": "#dbe7ef", "name": "95 %"},
        {"type": "scatter", "x": x, "y": middle, "name": "forecast"}
        | {"mode": "lines+markers", "line": {"color": _colour(0), "width": 1.6}},
        {"type": "scatter", "x": x[[0, -1]], "y": [level, level], "name": "end", "mode": "lines"}
        | {"line": {"color": _colour(1), "width": 1.4, "dash": "dash"}},
    ]
    axes = {"xaxis": x_axis(x_title), "yaxis": y_axis(y_title)}
    return figure(traces, axes, 340, 2)


def dots(series: Sequence[Series], x_title: str) -> go.Figure:
    """One dot per layer and model on a logarithmic axis; ``y`` holds the layers' labels."""
    traces, labels = [], _labels(series)
    for place, one in enumerate(series):
        x = np.asarray(one.x, float)
        shown = np.isfinite(x) & (x > 0)
        shift = 0.26 * (place - (len(series) - 1) / 2)
        rows = np.array([labels.index(str(label)) + shift for label in one.y])
        marker = {"color": _colour(place), "symbol": SYMBOLS[place % 4], "size": 10}
        style = {"mode": "markers", "marker": marker, "hovertemplate": "%{x:.3g}"}
        trace = {"type": "scatter", "x": x[shown], "y": rows[shown], "name": plain(one.name)}
        traces.append(trace | style)
    return figure(traces, _rows_axes(series, labels, x_title), _rows_height(labels), len(series))


def dots_to(series: Sequence[Series], x_title: str, level: float) -> go.Figure:
    """`dots`, and a dashed line at a level if it is positive."""
    drawn = dots(series, x_title)
    if level > 0:
        drawn.add_vline(x=level, line={"dash": "dash", "color": MUTED, "width": 1.4})
        values = np.concatenate([np.asarray(one.x, float) for one in series])
        drawn.update_xaxes(**log_axis(np.append(values, level)))
    return drawn


def boxes(series: Sequence[Series], x_title: str) -> go.Figure:
    """Box plots of samples on a logarithmic axis; ``x`` and ``y`` pair values with labels."""
    traces, labels = [], _labels(series)
    for place, one in enumerate(series):
        shift = 0.34 * (place - (len(series) - 1) / 2)
        trace = {
            "type": "box",
            "x": np.asarray(one.x, float),
            "y": [labels.index(str(label)) + shift for label in one.y],
            "name": plain(one.name),
            "orientation": "h",
            "width": 0.26,
            "boxpoints": False,
            "line": {"color": _colour(place), "width": 1.5},
            "fillcolor": "#ffffff",
        }
        traces.append(trace)
    axes = _rows_axes(series, labels, x_title)
    return figure(traces, axes, _rows_height(labels, 44), len(series))


def bars(series: Sequence[Series], x_title: str, y_title: str) -> go.Figure:
    """Bars side by side, one colour per model."""
    traces = [
        {"type": "bar", "x": one.x, "y": one.y, "name": plain(one.name), "marker": _paint(place)}
        for place, one in enumerate(series)
    ]
    heights = [float(height) for one in series for height in one.y]
    axes = {"xaxis": x_axis(x_title), "yaxis": y_axis(y_title) | _counts(heights)}
    return figure(traces, axes, 300, len(series))


def histograms(rows: Sequence[tuple[str, Sequence[Series]]], x_title: str) -> go.Figure:
    """One row of bars per label: how many values fall in each twentieth of 0 to 100 %.

    Values of exactly 0 and exactly 1 have bars of their own at the two ends.
    """
    titles = [plain(label) for label, _ in rows]
    grid = make_subplots(
        len(rows), 1, True, subplot_titles=titles, vertical_spacing=0.3 / len(rows)
    ).to_dict()["layout"]
    names: dict[str, int] = {}
    traces, axes = [], {}
    for place, (_, series) in enumerate(rows):
        row = str(place + 1) if place else ""
        title = x_title if place == len(rows) - 1 else ""
        axes[f"xaxis{row}"] = grid[f"xaxis{row}"] | x_axis(title) | _SHARES
        heights = [0.0]
        for one in series:
            trace: dict[str, Any] = {"type": "bar", "name": plain(one.name)}
            trace |= {"legendgroup": one.name, "showlegend": one.name not in names}
            trace |= {"marker": _paint(names.setdefault(one.name, len(names)))}
            trace |= dict(zip("xy", activity_bins(np.asarray(one.x, float)), strict=True))
            traces.append(trace | {"xaxis": f"x{row}", "yaxis": f"y{row}"})
            heights += list(trace["y"])
        axes[f"yaxis{row}"] = grid[f"yaxis{row}"] | y_axis("units") | _counts(heights, 3)
    style = {"x": 0, "xanchor": "left", "font": {"size": 13, "color": INK}}
    axes["annotations"] = [note | style for note in grid["annotations"]]
    top = 60 if len(names) > 1 else 30
    return figure(traces, axes, 100 + 130 * len(rows), len(names), top)


def shares(values: np.ndarray, x_title: str, y_title: str) -> go.Figure:
    """How many shares fall in each twentieth of 0 to 100 %."""
    counts, edges = np.histogram(values, bins=20, range=(0.0, 1.0))
    bar = {"type": "bar", "x": 50 * (edges[1:] + edges[:-1]), "y": counts, "width": 5}
    percent = {"range": [-1, 101], "ticksuffix": " %"}
    axes = {"xaxis": x_axis(x_title) | percent, "yaxis": y_axis(y_title) | _counts(counts)}
    return figure([bar | {"marker": _paint(0)}], axes | {"bargap": 0.04}, 300, 1)


def threshold_curve(
    x: np.ndarray, y: np.ndarray, level: float, x_title: str, y_title: str
) -> go.Figure:
    """One line on a logarithmic vertical axis, and a dashed one at `level`."""
    drawn = curves([Series("", x, y)], x_title, y_title)
    drawn.add_hline(y=level, line={"dash": "dash", "color": COLOURS[1], "width": 1.4})
    return drawn.update_yaxes(**log_axis(np.append(y, level)))


def activity_bins(activity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Percentages and unit counts of the bars: 0, twenty open stretches between, and 100."""
    inner = activity[(activity > 0) & (activity < 1)]
    counts, edges = np.histogram(inner, bins=20, range=(0.0, 1.0))
    centres = np.concatenate([[-2.5], 50 * (edges[1:] + edges[:-1]), [102.5]])
    return centres, np.concatenate([[np.sum(activity == 0)], counts, [np.sum(activity == 1)]])


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    stretch = -(-x.size // _CURVE_POINTS)
    if stretch <= 1:
        return x, y
    starts = np.arange(0, x.size, stretch)
    sizes = np.diff(np.append(starts, x.size))
    return np.add.reduceat(x, starts) / sizes, np.add.reduceat(y, starts) / sizes


def _telling(values: np.ndarray) -> np.ndarray:
    """Places of some of the values, ends and gaps among them."""
    gaps = np.flatnonzero(np.isnan(values))
    ends = np.concatenate([[0, len(values) - 1], gaps - 1, gaps, gaps + 1]).astype(int)
    some = np.linspace(0, len(values) - 1, min(len(values), 2 * _CURVE_POINTS)).astype(int)
    kept = np.unique(np.concatenate([ends, some]))
    return np.asarray(kept[(kept >= 0) & (kept < len(values))])


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def _labels(series: Sequence[Series]) -> list[str]:
    return list(dict.fromkeys(str(label) for one in series for label in one.y))


def _rows_height(labels: Sequence[str], row: int = 34) -> int:
    return 120 + row * max(len(labels), 2)


def log_axis(values: np.ndarray) -> dict[str, object]:
    """A logarithmic axis around the positive values, with a few round ticks in words."""
    shown = values[np.isfinite(values) & (values > 0)]
    if not shown.size:
        return {"type": "log"}
    low, high = float(np.log10(shown.min())), float(np.log10(shown.max()))
    margin = max(0.06 * (high - low), 0.15)
    low, high = low - margin, high + margin
    ticks = _round_ticks(low, high)
    words = [number(tick, digits=1).removeprefix(f"1{THIN}×{THIN}") for tick in ticks]
    return {"type": "log", "range": [low, high], "tickvals": ticks, "ticktext": words}


def _round_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between two exponents; with few of them also multiples."""
    powers = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    span = high - low
    many, some = [1, 2, 3, 4, 5, 7], [1, 2, 5]
    factors = many if span < 1 else some if span < 1.4 else [1, 3] if span < 3 else [1]
    ticks = [float(f"{factor}e{power}") for power in powers for factor in factors]
    inside = [tick for tick in ticks if 0.0 < tick < np.inf and low <= np.log10(tick) <= high]
    return inside[:: -(-len(inside) // 6)]


def _label_axis(labels: Sequence[str]) -> dict[str, object]:
    words = [
        plain(label if len(label) <= _LABEL else f"{label[: _LABEL - 1]}…") for label in labels
    ]
    return {
        "tickvals": list(range(len(labels))),
        "ticktext": words,
        "range": [len(labels) - 0.4, -0.6],
        "showgrid": False,
    }


def figure(
    traces: list[dict[str, Any]], layout: dict[str, Any], height: int, num_series: int, top: int = 0
) -> go.Figure:
    """A figure with the look of the page, made at once: Plotly is slow to change one."""
    look = {
        "template": "none",
        "height": height,
        "autosize": True,
        "margin": {"l": 8, "r": 14, "t": top or (44 if num_series > 1 else 16), "b": 8},
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "showlegend": num_series > 1,
        "legend": {"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top"},
        "dragmode": False,
        "hoverlabel": {"bgcolor": "#ffffff", "font": {"color": INK}},
        "bargap": 0.15,
    }
    return go.Figure({"data": traces, "layout": look | layout})


def x_axis(title: str) -> dict[str, Any]:
    """A horizontal axis with its title."""
    return y_axis(title) | {"showline": True, "ticks": "outside", "tickcolor": MUTED}


def y_axis(title: str) -> dict[str, Any]:
    """A vertical axis with its title."""
    line = {"gridcolor": GRID, "linecolor": MUTED, "zeroline": False, "automargin": True}
    words = {"text": title, "font": {"size": 13, "color": MUTED}, "standoff": 8}
    return line | {"fixedrange": True, "title": words}


def _counts(values: Iterable[float], steps: int = 6) -> dict[str, Any]:
    """A scale from zero in at most so many steps of 1, 2 or 5 times a power of ten."""
    largest = max(values, default=0)
    sizes = (factor * 10**power for power in itertools.count() for factor in (1, 2, 5))
    step = next(size for size in sizes if steps * size >= largest)
    return {"rangemode": "tozero", "tickformat": ",d", "tick0": 0, "dtick": step}


def _rows_axes(series: Sequence[Series], labels: Sequence[str], x_title: str) -> dict[str, Any]:
    values = np.concatenate([np.asarray(one.x, float) for one in series])
    across, down = x_axis(x_title) | log_axis(values), y_axis("") | _label_axis(labels)
    return {"xaxis": across, "yaxis": down}


def _paint(place: int) -> dict[str, str]:
    return {"color": _colour(place)}
