"""Section: where training stopped, for the whole network and for each layer."""

import math
import shlex

from reluscape.report.charts import Series, dots, histograms
from reluscape.report.findings import LayerSurvey, ModelSurvey, Survey, Verdict
from reluscape.report.section import Cell, Figure, Section, Table
from reluscape.report.wording import (
    NO_BREAK,
    NONE,
    count,
    moved_phrase,
    number,
    share,
    tally,
    verdict_phrase,
)

ORDER = 20
COLUMNS = (
    "part",
    "verdict",
    "gradient norm",
    "kinks at zero",
    "nearest kink",
    "dead units",
    "always active",
    "file",
)


def section(survey: Survey) -> Section:
    """Verdicts with what they rest on: gradients, kinks at and near the point, unit activity."""
    return Section(
        key="stopped",
        title="Where training stopped",
        verdict="\n".join(_verdict(model) for model in survey.models),
        figures=_figures(survey),
        tables=tuple(_table(model) for model in survey.models if model.num_params is not None),
        method=_method(survey),
        check=(
            "Each certificate is a small JSON file that holds the claim, the point, the signs of "
            "the switching values, the numbers that prove the claim, and hashes of network and "
            "data. verify recomputes all of it from the raw network and data and calls no solver; "
            "run it in the folder of this page.",
        ),
        commands=tuple(_commands(survey)),
    )


def _verdict(model: ModelSurvey) -> str:
    whole = f"{model.name} as a whole: {verdict_phrase(model.verdict)}"
    found = [verdict_phrase(layer.verdict) for layer in model.layers if layer.verdict is not None]
    if not found:
        return f"{whole}; no layer has a certificate."
    return f"{whole}; layer by layer, with all else held fixed: {tally(found)}."


def _figures(survey: Survey) -> tuple[Figure, ...]:
    models = [model for model in survey.models if model.layers]
    norms = [
        Series(at.name, *_pairs((layer.label, layer.gradient_norm) for layer in at.layers))
        for at in models
    ]
    distances = [
        Series(at.name, *_pairs((layer.label, layer.nearest_distance) for layer in at.layers))
        for at in models
    ]
    figures = []
    if any(len(one.x) for one in norms):
        caption = (
            "Norm of the loss gradient in each layer's own parameters. A layer at a stationary "
            "point would be at zero, off the left end of the logarithmic axis."
        )
        figures.append(Figure("gradient-norms", caption, dots(norms, "gradient norm")))
    if any(0 < value < float("inf") for one in distances for value in one.x):
        caption = (
            "How far each layer's parameters can move, in the shortest direction, before one "
            "switching value changes its sign. Layers without kinks have no dot."
        )
        figure = dots(distances, "distance to the nearest kink (parameter units)")
        figures.append(Figure("nearest-kinks", caption, figure))
    return (*figures, *_activity(models))


def _pairs(values: object) -> tuple[list[float], list[str]]:
    known = [(label, value) for label, value in values if value is not None]  # type: ignore[attr-defined]
    return [value for _, value in known], [label for label, _ in known]


def _activity(models: list[ModelSurvey]) -> tuple[Figure, ...]:
    rows: dict[str, list[Series]] = {}
    for model in models:
        for layer in model.layers:
            if layer.activity.size:
                series = Series(model.name, layer.activity, ())
                rows.setdefault(f"after layer {layer.label}", []).append(series)
    if not rows:
        return ()
    caption = (
        "How many hidden units are active on which share of the samples. The bars that stand "
        "apart at the two ends are the units that are dead on every sample and those that are "
        "always active."
    )
    figure = histograms(list(rows.items()), "samples on which the unit is active")
    return (Figure("unit-activity", caption, figure),)


def _table(model: ModelSurvey) -> Table:
    whole = (
        Cell("whole network"),
        _claim(model.verdict),
        Cell(number(model.gradient_norm), numeric=True),
        Cell(count(model.verdict.num_active_kinks) if model.verdict else NONE, numeric=True),
        Cell(_nearest(model), numeric=True),
        *(Cell(NONE, numeric=True) for _ in range(2)),
        _file(model.verdict),
    )
    rows = (whole, *(_row(layer) for layer in model.layers))
    return Table(f"{model.name}: verdicts and what they rest on", COLUMNS, rows)


def _nearest(model: ModelSurvey) -> str:
    """All parameters together reach a kink at least as soon as those of one layer."""
    known = [at.nearest_distance for at in model.layers if at.nearest_distance is not None]
    nearest = min(known, default=math.inf)
    if not math.isfinite(nearest):
        return NONE
    return f"at most{NO_BREAK}{number(nearest)}" if nearest else number(nearest)


def _row(layer: LayerSurvey) -> tuple[Cell, ...]:
    return (
        Cell(f"layer {layer.label}"),
        _claim(layer.verdict),
        Cell(number(layer.gradient_norm), numeric=True),
        Cell(count(layer.num_active_kinks), numeric=True),
        Cell(_distance(layer), numeric=True),
        Cell(share(layer.dead_share), numeric=True),
        Cell(share(layer.always_share), numeric=True),
        _file(layer.verdict),
    )


def _distance(layer: LayerSurvey) -> str:
    return "no kinks" if layer.num_kinks == 0 else number(layer.nearest_distance)


def _claim(verdict: Verdict | None) -> Cell:
    if verdict is None:
        return Cell(verdict_phrase(verdict))
    return Cell(f"{verdict_phrase(verdict)}{moved_phrase(verdict)}", tier=verdict.tier)


def _file(verdict: Verdict | None) -> Cell:
    if verdict is None or not verdict.file:
        return Cell(NONE)
    return Cell("JSON", file=verdict.file)


def _method(survey: Survey) -> tuple[str, ...]:
    reasons = [
        f"{model.name}, {part}: {verdict.reason}"
        for model in survey.models
        for part, verdict in _verdicts(model)
        if verdict.reason
    ]
    return (
        "A layer's block is that layer's parameters with all others held fixed. On it the loss is "
        "piecewise smooth and convex on each piece, so the gradient on one side and the slopes "
        "across the kinks at the point decide whether it is a local minimum. The whole network "
        "has no such pieces; there the gradient, and where it vanishes the Hessian, decide.",
        f"Certificates were made in {survey.arithmetic} arithmetic. What falls inside its margins "
        "is called undecided. A verdict speaks of small changes only: no local minimum here is "
        "claimed to be the lowest, and a layer's minimum is not one of the whole network.",
        "A kink is a switching value: the input of one ReLU for one sample"
        + (", or one residual" if survey.loss_name == "l1" else "")
        + ". A unit is dead if it is inactive on every sample of these data, and always active if "
        "it is active on every one.",
        *reasons,
    )


def _verdicts(model: ModelSurvey) -> list[tuple[str, Verdict]]:
    parts = [("whole network", model.verdict)]
    parts += [(f"layer {layer.label}", layer.verdict) for layer in model.layers]
    return [(part, verdict) for part, verdict in parts if verdict is not None]


def _commands(survey: Survey) -> list[str]:
    options = f"{survey.data.options} --loss {survey.loss_name}".strip()
    if survey.weight_decay:
        options += f" --weight-decay {survey.weight_decay!r}"
    return [
        f"reluscape verify {shlex.quote(verdict.file)} {model.options} {options}".replace("  ", " ")
        for model in survey.models
        for _, verdict in _verdicts(model)
        if verdict.file
    ]
