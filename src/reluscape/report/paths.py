"""Along which paths exact descents went: the section of their page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from reluscape.descent.phases import FLAT, NO_FALL, WINDOW, Phases, running_mean
from reluscape.descent.polish import Leg
from reluscape.report.about import About
from reluscape.report.charts import Series, band, trails
from reluscape.report.section import Cell, Figure, Section, Table
from reluscape.report.wording import (
    NONE,
    count,
    listed,
    number,
    several,
    share,
)

#: Fewest pivots of a descent whose forecasts are drawn.
LONG = 100
#: Shares of the path from which its end is forecast.
SHARES = np.arange(1, 21) / 20
PHASE_COLUMNS = (
    "layer and phase",
    "loss halves every",
    "steps halve every",
    "distance halves every",
    "pivots",
)  # fmt: skip


def paths_section(legs: Sequence[Leg], about: About) -> Section:
    """Phases, figures and forecasts of the descents whose paths are drawn."""
    phases = [leg.phases() for leg in legs]
    rows = [
        row for leg, found in zip(legs, phases, strict=True) for row in _rows(leg, found, about)
    ]
    return Section(
        key="paths",
        title="The paths",
        verdict="\n".join(
            _path_verdict(leg, found, about) for leg, found in zip(legs, phases, strict=True)
        ),
        figures=(
            *_path_figures(legs, phases, about),
            *_forecast_figure(legs, about),
            *_density_figure(legs, about),
        ),
        tables=(Table("Phases of these descents", PHASE_COLUMNS, tuple(rows)),) if rows else (),
        method=(
            "For each layer the descent that removed most is shown. In the exponential phase the "
            "loss above its end, the running mean of the step lengths and the distance to the end "
            "all fall roughly exponentially; in the fine-tuning phase that follows the loss falls more "
            "slowly (Hinz). The split is the one at which broken lines through the three "
            "logarithms fit best. The last tenth of the path is left out, where loss and distance "
            "are forced to zero; with what is left the phases need not look exponential.",
            f"Step lengths are averaged over the last {WINDOW} pivots. Lengths and distances are "
            "Euclidean, in the layer's parameters. Where a rate's 95 % interval reaches zero, or the "
            f"fall over the whole phase is below {share(FLAT)}, there is {NO_FALL}. A loss above its end "
            "by rounding alone has no rate.",
            "A forecast sees the losses up to its share of the path and nothing else. Its interval "
            "was calibrated on random networks to hold the end in 95 of 100 cases: not guaranteed.",
            "The way to the next kink is the median over random directions of the distance from a "
            "vertex to the next kink, those that meet at the vertex aside. Where it is short, kinks "
            "and vertices lie densely.",
        ),
        check=(
            "Losses, step lengths, distances and ways are in results.nc, one group for each "
            "descent.",
        ),
        commands=(
            "python -c \"import reluscape; print(reluscape.Polish.load('results.nc')"
            '.legs[0].phases().summary())"',
        ),
    )  # fmt: skip


def _path_verdict(leg: Leg, phases: Phases, about: About) -> str:
    """The phases of a path in a sentence."""
    where = f"Layer {about.label(leg.layer)}, sweep {leg.sweep}: {several(leg.num_pivots, 'pivot')}"
    vertex = f", the first vertex after {count(leg.first_vertex)}" if leg.first_vertex >= 0 else ""
    if not np.isfinite(phases.rates).any():
        return f"{where}{vertex}; too short for phases."
    halving = _halving(phases, 0, 0)
    fall = f" (the loss above its end {_spelled(halving)})" if halving else ""
    if phases.split >= phases.last:
        return f"{where}{vertex}; one phase from there to the end{fall}."
    fine = _halving(phases, 0, 1)
    slower = f" ({_spelled(fine)})" if fine else ""
    return (
        f"{where}{vertex}; an exponential phase up to pivot {count(phases.split)}{fall}, then "
        f"fine-tuning{slower}."
    )


def _spelled(halving: str) -> str:
    return "does not clearly fall" if halving == NO_FALL else f"halves every {halving}"


def _halving(phases: Phases, series: int, phase: int) -> str:
    """Pivots in which a series halves; empty where there is no rate."""
    rate = phases.rates[series, phase]
    if not np.isfinite(rate):
        return ""
    if not phases.falls(series, phase):
        return NO_FALL
    pivots = float(np.log(2.0) / rate)
    return several(round(pivots), "pivot") if pivots >= 1.5 else f"{number(pivots, 2)} pivots"


def _rows(leg: Leg, phases: Phases, about: About) -> list[tuple[Cell, ...]]:
    """A row for each phase that there is."""
    first = "exponential" if phases.split < phases.last else "one phase"
    parts = ((first, phases.first, phases.split), ("fine-tuning", phases.split, phases.last))
    return [
        (
            Cell(f"layer {about.label(leg.layer)}, {name}"),
            *(Cell(_halving(phases, series, phase) or NONE, numeric=True) for series in range(3)),
            Cell(f"{count(begin)} to {count(end)}", numeric=True),
        )
        for phase, (name, begin, end) in enumerate(parts)
        if begin < end
    ]


def _path_figures(
    legs: Sequence[Leg], phases: Sequence[Phases], about: About
) -> tuple[Figure, ...]:
    """Loss above the end, running mean of the steps and distance to the end."""
    marks = [found.split if found.split < found.last else None for found in phases]
    told = " A dashed line is where the exponential phase ends." if any(marks) else ""
    parts: tuple[tuple[str, str, str, Callable[[Leg], np.ndarray]], ...] = (
        ("path-loss", "loss above its end", "The loss above that of the end.", _above),
        (
            "path-steps",
            f"mean of {WINDOW} steps",
            f"Running mean of {WINDOW} step lengths.",
            lambda leg: np.append(np.nan, running_mean(leg.step_lengths)),
        ),
        (
            "path-distance",
            "distance to the end",
            "Distance to the end of the descent, in the layer's parameters.",
            lambda leg: leg.distances,
        ),
    )
    figures = []
    for key, title, caption, values in parts:
        series = [
            Series(f"layer {about.label(leg.layer)}", np.arange(leg.num_pivots + 1), _shown(values(leg)))
            for leg in legs
        ]  # fmt: skip
        if any(np.isfinite(one.y).any() for one in series):
            figures.append(Figure(key, caption + told, trails(series, "pivot", title, marks=marks)))
    return tuple(figures)


def _above(leg: Leg) -> np.ndarray:
    """Loss above the end."""
    return np.asarray(leg.losses - leg.losses[-1])


def _shown(values: np.ndarray) -> np.ndarray:
    """Values for a logarithmic axis."""
    return np.where(values > 0, values, np.nan)


def _forecast_figure(legs: Sequence[Leg], about: About) -> tuple[Figure, ...]:
    """What shares of the longest path foretell of its end."""
    leg = max(legs, key=lambda leg: leg.num_pivots)
    if leg.num_pivots < LONG:
        return ()
    found = [leg.forecast(float(part)) for part in SHARES]
    low, high = np.array([forecast.interval for forecast in found]).T
    middle = np.array([forecast.loss for forecast in found])
    end = float(leg.losses[-1])
    figure = band(
        100 * SHARES, middle, low, high, end, "share of the path seen, %", "loss at the end"
    )
    caption = (
        f"What the first part of the descent of layer {about.label(leg.layer)} foretells of the "
        "loss at its end (dashed), with the interval that holds it in about 95 of 100 cases."
    )
    return (Figure("forecast", caption, figure),)


def _density_figure(legs: Sequence[Leg], about: About) -> tuple[Figure, ...]:
    """Median way to the next kink along the paths."""
    dense = [leg for leg in legs if leg.density_pivots.size]
    if not dense:
        return ()
    series = [
        Series(
            f"layer {about.label(leg.layer)}",
            leg.density_pivots,
            np.where(np.isfinite(leg.density.medians), leg.density.medians, np.nan),
        )
        for leg in dense
    ]
    figure = trails(series, "pivot", "way to the next kink")
    figure.update_traces(mode="lines+markers")
    where = listed([f"layer {about.label(leg.layer)}" for leg in dense])
    caption = (
        f"Median way from the path of {where} to the next kink in random directions, in the "
        "layer's parameters: the shorter, the more densely vertices lie."
    )
    return (Figure("density", caption, figure),)
