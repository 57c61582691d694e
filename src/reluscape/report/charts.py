"""The look that all figures of a report share, and the kinds of chart its sections draw."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

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
    figure = go.Figure()
    heights = []
    for place, one in enumerate(series):
        x, y = _thinned(np.asarray(one.x, float), np.asarray(one.y, float))
        line = {"color": _colour(place), "width": 1.6, "dash": ("solid", "dot")[place % 2]}
        figure.add_scatter(x=x, y=y, name=plain(one.name), mode="lines", line=line)
        heights.append(y)
    _style(figure, x_title, y_title, 340, len(series))
    return figure.update_yaxes(**_log_axis(np.concatenate(heights)))


def dots(series: Sequence[Series], x_title: str) -> go.Figure:
    """One dot per layer and model on a logarithmic axis; ``y`` holds the layers' labels."""
    figure = go.Figure()
    labels = _labels(series)
    for place, one in enumerate(series):
        x = np.asarray(one.x, float)
        shown = np.isfinite(x) & (x > 0)
        shift = 0.26 * (place - (len(series) - 1) / 2)
        rows = np.array([labels.index(str(label)) + shift for label in one.y])
        marker = {"color": _colour(place), "symbol": SYMBOLS[place % 4], "size": 10}
        style = {"mode": "markers", "marker": marker, "hovertemplate": "%{x:.3g}"}
        figure.add_scatter(x=x[shown], y=rows[shown], name=plain(one.name), **style)
    _style(figure, x_title, "", _rows_height(labels), len(series))
    values = np.concatenate([np.asarray(one.x, float) for one in series])
    return figure.update_xaxes(**_log_axis(values)).update_yaxes(**_label_axis(labels))


def boxes(series: Sequence[Series], x_title: str) -> go.Figure:
    """Box plots of samples on a logarithmic axis; ``x`` and ``y`` pair values with labels."""
    figure = go.Figure()
    labels = _labels(series)
    for place, one in enumerate(series):
        shift = 0.34 * (place - (len(series) - 1) / 2)
        rows = [labels.index(str(label)) + shift for label in one.y]
        figure.add_box(
            x=np.asarray(one.x, float),
            y=rows,
            name=plain(one.name),
            orientation="h",
            width=0.26,
            boxpoints=False,
            line={"color": _colour(place), "width": 1.5},
            fillcolor="#ffffff",
        )
    _style(figure, x_title, "", _rows_height(labels, 44), len(series))
    values = np.concatenate([np.asarray(one.x, float) for one in series])
    return figure.update_xaxes(**_log_axis(values)).update_yaxes(**_label_axis(labels))


def bars(series: Sequence[Series], x_title: str, y_title: str) -> go.Figure:
    """Bars side by side, one colour per model."""
    figure = go.Figure()
    for place, one in enumerate(series):
        figure.add_bar(x=one.x, y=one.y, name=plain(one.name), marker_color=_colour(place))
    _style(figure, x_title, y_title, 300, len(series))
    return figure.update_yaxes(rangemode="tozero", tickformat=",d")


def histograms(rows: Sequence[tuple[str, Sequence[Series]]], x_title: str) -> go.Figure:
    """One row of bars per label: how many values fall in each twentieth of 0 to 100 %.

    Values of exactly 0 and exactly 1 have bars of their own at the two ends.
    """
    titles = [plain(label) for label, _ in rows]
    figure = make_subplots(
        len(rows), 1, True, subplot_titles=titles, vertical_spacing=0.3 / len(rows)
    )
    names: dict[str, int] = {}
    for place, (_, series) in enumerate(rows):
        for one in series:
            seen = one.name in names
            colour = _colour(names.setdefault(one.name, len(names)))
            centres, counts = activity_bins(np.asarray(one.x, float))
            trace = go.Bar(x=centres, y=counts, name=plain(one.name), marker_color=colour)
            trace.update(legendgroup=one.name, showlegend=not seen)
            figure.add_trace(trace, row=place + 1, col=1)
    _style(figure, "", "units", 100 + 130 * len(rows), len(names))
    figure.update_layout(margin_t=60 if len(names) > 1 else 30)
    figure.update_xaxes(
        range=[-6, 106],
        tickvals=[-2.5, 25, 50, 75, 102.5],
        ticktext=["none", "25 %", "50 %", "75 %", "all"],
    )
    figure.update_xaxes(title_text=x_title, row=len(rows), col=1)
    figure.update_annotations(x=0, xanchor="left", font={"size": 13, "color": INK})
    return figure.update_yaxes(rangemode="tozero", tickformat=",d", nticks=4)


def shares(values: np.ndarray, x_title: str, y_title: str) -> go.Figure:
    """How many shares fall in each twentieth of 0 to 100 %."""
    counts, edges = np.histogram(values, bins=20, range=(0.0, 1.0))
    figure = go.Figure()
    figure.add_bar(x=50 * (edges[1:] + edges[:-1]), y=counts, width=5, marker_color=COLOURS[0])
    _style(figure, x_title, y_title, 300, 1)
    figure.update_layout(bargap=0.04)
    figure.update_xaxes(range=[-1, 101], ticksuffix=" %")
    return figure.update_yaxes(rangemode="tozero", tickformat=",d")


def threshold_curve(
    x: np.ndarray, y: np.ndarray, level: float, x_title: str, y_title: str
) -> go.Figure:
    """One line on a logarithmic vertical axis, and a dashed one at `level`."""
    figure = curves([Series("", x, y)], x_title, y_title)
    figure.add_hline(y=level, line={"dash": "dash", "color": COLOURS[1], "width": 1.4})
    return figure.update_yaxes(**_log_axis(np.append(y, level)))


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


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def _labels(series: Sequence[Series]) -> list[str]:
    return list(dict.fromkeys(str(label) for one in series for label in one.y))


def _rows_height(labels: Sequence[str], row: int = 34) -> int:
    return 120 + row * max(len(labels), 2)


def _log_axis(values: np.ndarray) -> dict[str, object]:
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
    ticks = [factor * 10.0**power for power in powers for factor in factors]
    inside = [tick for tick in ticks if low <= np.log10(tick) <= high]
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


def _style(figure: go.Figure, x_title: str, y_title: str, height: int, num_series: int) -> None:
    """Give a figure the look of the page."""
    figure.update_layout(
        template="none",
        height=height,
        autosize=True,
        margin={"l": 8, "r": 14, "t": 44 if num_series > 1 else 16, "b": 8},
        font={"family": FONT, "size": 13, "color": INK},
        paper_bgcolor="#ffffff",
        plot_bgcolor="#ffffff",
        showlegend=num_series > 1,
        legend={"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top"},
        dragmode=False,
        hoverlabel={"bgcolor": "#ffffff", "font": {"color": INK}},
        bargap=0.15,
    )
    line = {"gridcolor": GRID, "linecolor": MUTED, "zeroline": False, "automargin": True}
    figure.update_xaxes(**line, showline=True, ticks="outside", tickcolor=MUTED, fixedrange=True)
    figure.update_yaxes(**line, fixedrange=True)
    titles = {"font": {"size": 13, "color": MUTED}, "standoff": 8}
    figure.update_xaxes(title={"text": x_title, **titles})
    figure.update_yaxes(title={"text": y_title, **titles})
