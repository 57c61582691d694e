"""Hinz on the layer-wise L1 loss of ReLU networks: paths of vertices to a local minimum.

The paper shows three figures of one representative run and gives no numbers. Ours are the statistics of
many: how runs end, what the two phases' rates are, and how well the final loss is foretold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from reluscape.intervals import median_interval, share_interval
from reluscape.papers.hinz_trials import FRACTIONS, PLACES, RULES, descents, training
from reluscape.papers.paper import Comparison, Experiment, Paper, PaperFigure, Scale
from reluscape.report.charts import Series, curves, trails
from reluscape.study import Study

Floats = NDArray[np.float64]

#: The published network, and ours: its depth and widths varied, and the layer. The second but last is the
#: original program's example.
WIDTHS = (4, 5, 4, 3, 2, 1)
SHAPES = (
    ((4, 5, 1), 0),
    ((4, 5, 4, 1), 0),
    ((4, 8, 6, 4, 1), 0),
    ((4, 5, 4, 2), 0),
    (WIDTHS, 1),
    (WIDTHS, 2),
)
#: Data sets, rates and epochs of the training runs.
RUNS = (("wine", 0.05, 80), ("breast_cancer", 0.05, 30), ("digits", 0.05, 15))

_SIZES: dict[Scale, tuple[int, int, int]] = {
    "smoke": (2, 2, 2),
    "small": (12, 6, 6),
    "paper": (100, 60, 30),
}
_NAMES = {"first_kink": "first kink", "long_step": "long steps", "sgd": "training"}
_NO_NUMBERS = "The paper publishes no numbers: the column is empty, and nothing can agree."
#: Shares of a path that the table shows.
_SHOWN = (0.25, 0.5, 0.75)


# ---- points -------------------------------------------------------------------------------------


def _instances(scale: Scale, runs: int | None) -> Sequence[dict[str, Any]]:
    """Instances of the published setting."""
    count = _SIZES[scale][0] if runs is None else runs
    shape = {"widths": list(WIDTHS), "layer": 0, "runs": 1}
    return [shape | {"instance": number} for number in range(count)]


def _shapes(scale: Scale, runs: int | None) -> Sequence[dict[str, Any]]:
    """Instances of other shapes, in turn."""
    count = _SIZES[scale][1] if runs is None else runs
    chosen = (SHAPES[number % len(SHAPES)] for number in range(count))
    return [
        {"widths": list(widths), "layer": layer, "runs": 1, "instance": number}
        for number, (widths, layer) in enumerate(chosen)
    ]


def _trainings(scale: Scale, runs: int | None) -> Sequence[dict[str, Any]]:
    """Training runs on the data sets, in turn."""
    count = _SIZES[scale][2] if runs is None else runs
    chosen = (RUNS[number % len(RUNS)] for number in range(count))
    return [
        {"data": name, "rate": rate, "epochs": epochs, "runs": 1, "instance": number}
        for number, (name, rate, epochs) in enumerate(chosen)
    ]


# ---- tables -------------------------------------------------------------------------------------


def _row(quantity: str, found: tuple[float, float, float], runs: int, unit: str = "") -> Comparison:
    """A number of ours beside none of the paper's."""
    return Comparison(quantity, None, 0.0, *found, runs, unit, _NO_NUMBERS)


def _share(quantity: str, values: Iterable[Any]) -> Comparison:
    """A share of runs with its interval."""
    known = [bool(value) for value in values]
    share, low, high = share_interval(sum(known), len(known))
    return _row(quantity, (100 * share, 100 * low, 100 * high), len(known), "%")


def _median(quantity: str, values: Floats, unit: str = "") -> Comparison:
    """A median over runs with its interval; runs without a value do not count."""
    known = values[np.isfinite(values)]
    return _row(quantity, median_interval(known), len(known), unit)


def _compare_instances(study: Study) -> tuple[Comparison, ...]:
    """Ends, pivots, phases and forecasts of the published setting."""
    records = _done(study)
    rows = [_share("starts on a plateau", records["plateau_start"])]
    for rule in RULES:
        rows += _ends(records, rule)
    ratio = records["pivots_long_step"] / records["pivots_first_kink"]
    moving = ratio[~records["plateau_start"].astype(bool)].to_numpy(dtype=np.float64)
    rows.append(_median("pivots, long steps / first kink", moving))
    rows += _rates(records)
    rows.append(_median("way to the next kink, end / a tenth of the path", _thinning(study)))
    for rule in RULES:
        rows += _forecasts(study, rule)
    return tuple(rows)


def _compare_shapes(study: Study) -> tuple[Comparison, ...]:
    """Ends and pivots of every shape, and the forecasts over all of them."""
    records = _done(study)
    rows = []
    names = records["widths"].map(lambda widths: "-".join(map(str, widths)))
    for widths, layer in SHAPES:
        name = "-".join(map(str, widths))
        part = records[(names == name) & (records["layer"] == layer)]
        if part.empty:
            continue
        name = f"{name}, layer {layer}"
        ends = part["certified_long_step"].astype(bool)
        rows.append(_share(f"{name}: certified minimum or plateau, long steps", ends))
        for rule in RULES:
            pivots = part[f"pivots_{rule}"].to_numpy(dtype=np.float64)
            rows.append(_median(f"{name}: pivots, {_NAMES[rule]}", pivots))
    for rule in RULES:
        rows += _forecasts(study, rule)
    return tuple(rows)


def _compare_trainings(study: Study) -> tuple[Comparison, ...]:
    """Forecasts of the last epoch's mean loss."""
    return tuple(_forecasts(study, "sgd"))


def _done(study: Study) -> Any:
    """Records of the trials that are done."""
    records = study.records()
    return records[records["status"] == "done"]


def _ends(records: Any, rule: str) -> list[Comparison]:
    """How the runs of a rule ended."""
    name = _NAMES[rule]
    return [
        _share(f"ends at a certified minimum or plateau, {name}", records[f"certified_{rule}"]),
        _share(f"ends undecided, {name}", records[f"undecided_{rule}"]),
        _median(f"pivots, {name}", records[f"pivots_{rule}"].to_numpy(dtype=np.float64)),
        _median(f"final loss, {name}", records[f"loss_{rule}"].to_numpy(dtype=np.float64)),
    ]


def _rates(records: Any) -> list[Comparison]:
    """Rates of the phases with first-kink steps, per 1,000 pivots."""
    if "exponential_share" not in records:
        return []
    known = records["exponential_share"].notna()
    shares = records["exponential_share"][known].to_numpy(dtype=np.float64)
    rows = [
        _share("paths with a fine-tuning phase", shares < 1.0),
        _median("exponential phase, share of the path", 100 * shares, "%"),
    ]
    words = {"loss": "loss above its end", "step": "mean of 40 steps", "distance": "distance"}
    for phase, title in (("exponential", "exponential"), ("fine", "fine-tuning")):
        for name, word in words.items():
            rates = 1000 * records[f"{phase}_{name}"].to_numpy(dtype=np.float64)
            rows.append(_median(f"{title} phase: rate of the {word} per 1000 pivots", rates))
            falls = records[f"{phase}_{name}_falls"][np.isfinite(rates)]
            rows.append(_share(f"{title} phase: the {word} falls (its interval says)", falls))
    return rows


def _thinning(study: Study) -> Floats:
    """Ways to the next kink at the end relative to those after a tenth of the path."""
    ways = [values for _, values in study.arrays("clearances")]
    return np.array([way[-1] / way[0] for way in ways if way[0] > 0])


def _forecasts(study: Study, rule: str) -> list[Comparison]:
    """Median relative errors of ours and its rivals, and the interval's coverage, at three shares.

    The fit is the one with the lowest median at that share, chosen with hindsight.
    """
    errors = [values for _, values in study.arrays(f"errors_{rule}")]
    covered = [values for _, values in study.arrays(f"covered_{rule}")]
    rows = []
    for share in _SHOWN if errors else ():
        place = FRACTIONS.index(share)
        where = f"{_NAMES[rule]}, {share:.0%} seen"
        values = 100 * np.stack(errors)[:, :, place]
        best = 2 + int(np.argmin(np.nanmedian(values[:, 2:], axis=0)))
        for row, predictor in ((0, "forecast"), (1, "last value"), (best, "best exponential fit")):
            name = f"error of the final loss, {where}: {predictor}"
            rows.append(_median(name, values[:, row], "%"))
        rows.append(_share(f"95 % intervals that hold it, {where}", [c[place] for c in covered]))
    return rows


# ---- figures ------------------------------------------------------------------------------------


def _figures(study: Study) -> tuple[PaperFigure, ...]:
    """Figures 2 to 4 of the paper for three representative runs, and the errors of the forecasts."""
    drawn = _representatives(study)
    marks = [None if np.isnan(split) else split for _, split in drawn]
    told = " A dashed line is where a run's exponential phase ends." if any(marks) else ""
    found = []
    for row, (key, title, published) in enumerate(_PUBLISHED, start=1):
        series = [Series(f"{path[0, -1]:.0f} pivots", path[0], path[row]) for path, _ in drawn]
        caption = (
            f"{title.capitalize()} with first-kink steps; the runs at the quartiles of length."
        )
        if series:
            figure = trails(series, "pivot", title, marks=marks)
            found.append(PaperFigure(f"hinz-layerwise-{key}", caption + told, published, figure))
    return (*found, *_error_figures(study, "layerwise", RULES), *_density_figures(study))


_PUBLISHED = (
    ("loss", "training loss", "Figure 2: non-increasing, roughly exponential, then slower."),
    (
        "steps",
        "running mean of 40 step lengths",
        "Figure 3: falls roughly exponentially in the exponential phase, then without a system.",
    ),
    (
        "distance",
        "distance to the final vertex",
        "Figure 4: falls roughly exponentially in the exponential phase, then without a system.",
    ),
)


def _representatives(study: Study) -> list[tuple[Floats, float]]:
    """The paths at the quartiles of the number of pivots, and where their exponential phases end."""
    paths = [values for _, values in study.arrays("path")]
    splits = [float(values[0]) for _, values in study.arrays("split")]
    ranked = sorted(zip(paths, splits, strict=True), key=lambda pair: float(pair[0][0, -1]))
    places = dict.fromkeys(round(share * (len(ranked) - 1)) for share in _SHOWN)
    return [ranked[place] for place in places] if ranked else []


def _error_figures(study: Study, key: str, rules: Sequence[str]) -> tuple[PaperFigure, ...]:
    """Median error of every predictor against the share of the path seen."""
    found = []
    for rule in rules:
        errors = [values for _, values in study.arrays(f"errors_{rule}")]
        if errors:
            caption = (
                f"Median relative error of the final loss, {_NAMES[rule]}, {len(errors)} paths."
            )
            found.append(
                PaperFigure(f"hinz-{key}-{rule}", caption, "none.", _error_figure(np.stack(errors)))
            )
    return tuple(found)


def _error_figure(errors: Floats) -> go.Figure:
    """Ours, the last value, and the fit that does best at each share."""
    medians, shares = 100 * np.nanmedian(errors, axis=0), 100 * np.array(FRACTIONS)
    series = [
        Series("forecast", shares, medians[0]),
        Series("last value", shares, medians[1]),
        Series("best exponential fit", shares, medians[2:].min(axis=0)),
    ]
    return curves(series, "share of the path seen, %", "median error of the final loss, %")


def _density_figures(study: Study) -> tuple[PaperFigure, ...]:
    """Median way to the next kink along the path."""
    ways = [values for _, values in study.arrays("clearances")]
    if not ways:
        return ()
    x, y = 100 * np.array(PLACES), np.median(np.stack(ways), axis=0)
    figure = curves([Series("", x, y)], "share of the path, %", "way to the next kink")
    caption = (
        "Median way from a vertex to the next kink in random directions: the inverse of density."
    )
    said = "no figure; in the paper's words the vertex density increases towards the minimum."
    return (PaperFigure("hinz-layerwise-density", caption, said, figure),)


def _figures_of(key: str, *rules: str) -> Any:
    """The figures of an experiment that has only forecasts."""
    return lambda study: _error_figures(study, key, rules)


_FORECAST = (
    "Forecast: the final loss from the first share of the pivots alone (reluscape.descent.forecast)."
    " Its rivals are the last value seen and least-squares fits of c + a exp(-rate k) to all values, to"
    " the last half and to the last 40, of which the one with the lowest median error counts, chosen with"
    " hindsight. Errors are relative to the final loss, medians over paths. Paths on which the loss never"
    " fell are left out. Intervals of medians are exact, by order statistics."
)

PAPER = Paper(
    "hinz",
    "P. Hinz, on the layer-wise L1 loss landscape of ReLU networks: paths of vertices to local minima",
    (
        Experiment(
            key="layerwise",
            title="First layer of a 4-5-4-3-2-1 network: paths of vertices to a local minimum",
            protocol=(
                "25 first-layer parameters uniform in [-20, 20]; other layers uniform in [-1, 1]; 500"
                " samples with inputs and targets uniform in [-3, 3]; L1 loss, here the mean instead of"
                " the sum. Every instance is descended with first-kink steps, as published, and with"
                " long steps, from the same start. A start is on a plateau if the gradient is zero.",
                "Phases are those of the first-kink path: from the first vertex on, the split at which"
                " broken lines through the logarithms of loss above its end, running mean of 40 step"
                " lengths and distance to the end fit best, if the loss falls more slowly after it. The"
                " last tenth, where two of them are forced to zero, is left out.",
                _FORECAST,
            ),
            function=descents,
            points=_instances,
            compare=_compare_instances,
            figures=_figures,
        ),
        Experiment(
            key="shapes",
            title="Other depths, widths and layers",
            protocol=(
                "As above; in the paper results were similar with other depths and widths. An upper"
                " layer's inputs are what the layers below make of the data.",
                _FORECAST,
            ),
            function=descents,
            points=_shapes,
            compare=_compare_shapes,
            figures=_figures_of("shapes", *RULES),
        ),
        Experiment(
            key="training",
            title="The paper's outlook: forecasts of training by stochastic gradient descent",
            protocol=(
                "Plain stochastic gradient descent, batches of 32, on the cross-entropy of two hidden"
                " layers of 16 units, for the built-in data sets. Foretold is the mean loss of the last"
                " epoch, by predictors that know the number of steps.",
            ),
            function=training,
            points=_trainings,
            compare=_compare_trainings,
            figures=_figures_of("training", "sgd"),
        ),
    ),
)
