"""Section: how much exact descent still removes from each layer."""

import shlex

import numpy as np

from reluscape.report.charts import Series, trails
from reluscape.report.findings import LayerSurvey, ModelSurvey, Survey
from reluscape.report.section import Cell, Figure, Section, Table
from reluscape.report.wording import NONE, count, number, share, verdict_phrase

ORDER = 40
COLUMNS = ("layer", "lower by", "its end", "loss after", "pivots", "status", "certificate")


def section(survey: Survey) -> Section | None:
    """Loss before and after exact descent of each layer alone; none without an L1 loss."""
    models = [model for model in survey.models if any(map(_was_descended, model.layers))]
    if not models:
        return None
    return Section(
        key="lowered",
        title="How far down exact descent goes",
        verdict="\n".join(_verdict(model) for model in models),
        figures=tuple(_figure(model, place) for place, model in enumerate(models)),
        tables=tuple(_table(model) for model in models),
        method=(
            "With all other layers held fixed the L1 loss of one layer is continuous and piecewise "
            "affine. From where training stopped the descent goes along edges of its pieces, from "
            "vertex to vertex, until no edge falls. Each layer is descended alone and from the same "
            "weights, so what is removed does not add up.",
            "A short survey takes as many pivots as some seconds allow. Where they are used up, the "
            "end is lower still.",
            *_meanings(models),
            *_met(models),
        ),
        check=(
            "Each end has a certificate, which verify checks with the surveyed weights. descend goes "
            "all the way, over all layers in turn, and saves the weights.",
        ),
        commands=tuple(_commands(survey, models)),
    )


def _was_descended(layer: LayerSurvey) -> bool:
    return bool(layer.descent_losses.size)


def _verdict(model: ModelSurvey) -> str:
    found = [layer for layer in model.layers if layer.descent_fall is not None]
    most = max(found, key=lambda layer: layer.descent_fall or 0.0)
    fall = most.descent_fall or 0.0
    if fall <= 0.0:
        return f"{model.name}: exact descent of any one layer removes nothing from the loss."
    bound = "at least " if most.descent_status in ("max_pivots", "stalled") else ""
    rest = f", more than that of any other of {len(found)} layers" if len(found) > 1 else ""
    return (
        f"{model.name}: exact descent of layer {most.label} alone still removes {bound}"
        f"{share(fall)} of the loss{rest}."
    )


def _figure(model: ModelSurvey, place: int) -> Figure:
    series = [
        Series(f"layer {layer.label}", np.arange(layer.descent_losses.size), layer.descent_losses)
        for layer in model.layers
        if _was_descended(layer)
    ]
    caption = f"{model.name}: the loss along exact descent of each layer alone."
    figure = trails(series, "pivot", "loss", log=False)
    return Figure(f"descents-{place + 1}", caption, figure)


def _table(model: ModelSurvey) -> Table:
    caption = f"{model.name}: exact descent of each layer alone"
    return Table(caption, COLUMNS, tuple(_row(layer) for layer in model.layers))


def _row(layer: LayerSurvey) -> tuple[Cell, ...]:
    losses, end = layer.descent_losses, layer.descent_end
    tier = end.tier if end is not None and end.claim != "undecided" else ""
    return (
        Cell(f"layer {layer.label}"),
        Cell(share(layer.descent_fall), numeric=True),
        Cell(verdict_phrase(end) if end else NONE, tier=tier),
        Cell(number(losses[-1]) if losses.size else NONE, numeric=True),
        Cell(count(losses.size - 1) if losses.size else NONE, numeric=True),
        Cell(layer.descent_status.replace("_", " ") or NONE),
        Cell("JSON", file=end.file) if end and end.file else Cell(NONE),
    )


def _meanings(models: list[ModelSurvey]) -> list[str]:
    """What the statuses that occur mean."""
    from reluscape.descent.result import MEANING, Status  # behind a compiler: not for every page

    found = [layer.descent_status for model in models for layer in model.layers]
    return [
        f"{status.replace('_', ' ')}: {MEANING[Status(status)]}."
        for status in dict.fromkeys(found)
        if status
    ]


def _met(models: list[ModelSurvey]) -> list[str]:
    """What is degenerate about a layer, its start or its end."""
    return [
        f"{model.name}, layer {layer.label}, met: {'; '.join(layer.descent_causes)}."
        for model in models
        for layer in model.layers
        if layer.descent_causes
    ]


def _commands(survey: Survey, models: list[ModelSurvey]) -> list[str]:
    checks = [
        f"reluscape verify {shlex.quote(layer.descent_end.file)} {model.options} "
        f"{survey.data.options} --loss l1"
        for model in models
        for layer in model.layers
        if layer.descent_end is not None and layer.descent_end.file
    ]
    wholes = [
        f"reluscape descend {model.options} {survey.data.options} --layers all --out descended"
        for model in models
    ]
    return [*checks, *wholes]
