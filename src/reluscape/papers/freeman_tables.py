"""Comparison and figures of `reproduce freeman`: length and beads against level, published and ours."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from scipy.stats import spearmanr

from reluscape.papers.freeman_published import CURVES
from reluscape.papers.paper import Comparison, PaperFigure, over_draws
from reluscape.report.charts import Series, trails
from reluscape.study import Study

Floats = NDArray[np.float64]

NOTE = (
    "Of the published means neither the number of pairs nor their scatter is told: 'agrees' counts how"
    " much a single pair of ours scatters as the published number's own error, so a number may agree"
    " and lie outside our interval. Beads count both ends; lengths are over weights, without biases."
)
#: Pairs below which no interval is told: beads are few whole numbers, whose scatter is then unknown.
FEWEST = 5
_UNCONNECTED = "{} of {} pairs were not connected and do not count; that shows no disconnection."


class Measured(NamedTuple):
    """Pairs of one setting at one level.

    Attributes:
        point: The trial's parameters.
        beads: Of each pair, NaN where no path was found (pairs,).
        lengths: Normalised (pairs,).
    """

    point: dict[str, Any]
    beads: Floats
    lengths: Floats

    @property
    def level(self) -> float:
        """The level of the pairs."""
        return float(self.point["level"])


def spread(points: list[dict[str, Any]], runs: int | None) -> list[dict[str, Any]]:
    """The points with the runs (pairs) asked for spread over them, if any are."""
    if runs is None:
        return points
    shares = [(runs + len(points) - 1 - place) // len(points) for place in range(len(points))]
    return [
        point | {"runs": share} for point, share in zip(points, shares, strict=True) if share > 0
    ]


def measured(study: Study, prefix: str = "") -> list[Measured]:
    """All trials by level, the trials of one setting joined; `prefix` "own_" is `connect`'s search."""
    settings: dict[str, Measured] = {}
    lengths = study.arrays(f"{prefix}length")
    for (point, beads), (_, length) in zip(study.arrays(f"{prefix}beads"), lengths, strict=True):
        key = repr(sorted((k, v) for k, v in point.items() if k != "pair"))
        before = settings.get(key, Measured(point, np.zeros(0), np.zeros(0)))
        joined = np.append(before.beads, beads), np.append(before.lengths, length)
        settings[key] = Measured(point, *joined)
    return sorted(settings.values(), key=lambda one: one.level)


def rows_of(one: Measured, name: str, task: str, told: bool) -> list[Comparison]:
    """Length and beads of a setting at its level; `told` sets the published numbers beside them."""
    published = CURVES[task].at(one.level) if told else None
    rows = []
    for place, (what, values) in enumerate((("length", one.lengths), ("beads", one.beads))):
        known = values[np.isfinite(values)]
        lost = len(values) - len(known)
        note = " ".join([
            *([NOTE] if published else []),
            *([_UNCONNECTED.format(lost, len(values))] if lost else []),
        ])  # fmt: skip
        mean, low, high, scatter = over_draws(known) if len(known) else (np.nan,) * 4
        if len(known) < FEWEST:
            low = high = np.nan
        theirs = published[place] if published else None
        rows.append(Comparison(
            f"{name}, level {one.level:g}: {what}", theirs, scatter if published else 0.0,
            mean, low, high, len(known), "", note,
        ))  # fmt: skip
    return rows


def trend_rows(found: list[Measured], name: str) -> list[Comparison]:
    """The claim: longer and more beaded as the level falls, as Spearman's correlation over pairs."""
    if len({one.level for one in found}) < 3:
        return []
    rows = []
    for what, parts in (
        ("length", [one.lengths for one in found]), ("beads", [one.beads for one in found])
    ):  # fmt: skip
        levels = np.concatenate(
            [np.full(len(p), m.level) for p, m in zip(parts, found, strict=True)]
        )
        values = np.concatenate(parts)
        known = np.isfinite(values)
        rho = spearmanr(levels[known], values[known]).statistic if known.sum() > 2 else np.nan
        count = int(known.sum())
        low, high = fisher(rho, count)
        quantity = f"{name}: rank correlation of {what} and level"
        rows.append(Comparison(quantity, None, 0.0, float(rho), low, high, count))
    return rows


def fisher(rho: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a rank correlation, by Fisher's transformation."""
    if count < 4 or not abs(rho) < 1.0:
        return float("nan"), float("nan")
    half = 1.96 * 1.03 / (count - 3) ** 0.5
    return float(np.tanh(np.arctanh(rho) - half)), float(np.tanh(np.arctanh(rho) + half))


def curves(
    series: list[tuple[str, list[Measured]]], task: str, x_title: str, key: str, published: str
) -> tuple[PaperFigure, ...]:
    """Length and beads against level, the published curve first."""
    pairs = max((len(one.beads) for _, found in series for one in found), default=0)
    return tuple(
        PaperFigure(
            f"freeman-{key}-{what}",
            f"{title} against level, means over the connected of up to {pairs} pairs.",
            published,
            _figure(series, task, what, x_title, title),
        )
        for what, title in (("lengths", "Normalised length"), ("beads", "Beads"))
    )


def _figure(
    series: list[tuple[str, list[Measured]]], task: str, what: str, x_title: str, title: str
) -> go.Figure:
    """One of the two."""
    told = CURVES[task]
    lines = [Series("published", np.array(told.levels), np.array(getattr(told, what)))]
    for name, found in series:
        if found:
            means = [_mean(getattr(one, what)) for one in found]
            lines.append(Series(name, np.array([one.level for one in found]), np.array(means)))
    figure = trails(lines, x_title, title, log=what == "beads", dots=True)
    return figure.update_xaxes(type="log")


def _mean(values: Floats) -> float:
    """Mean of those that are known."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def chosen(found: list[Measured], **wanted: Any) -> list[Measured]:
    """Those with these parameters."""
    return [one for one in found if all(one.point.get(k) == v for k, v in wanted.items())]
