"""Section: how convex the loss is with its switches frozen, by bounds and exactly."""

import math
import shlex

from reluscape.digits import rounded_down, rounded_up
from reluscape.report.charts import Series, dots_to
from reluscape.report.findings import ConvexitySurvey, ModelSurvey, Survey
from reluscape.report.section import Cell, Figure, Section, Table
from reluscape.report.wording import NONE, number, several

ORDER = 37
COLUMNS = ("lower bound or value", "smallest curvature", "shows convexity", "how it is known")
#: Significant digits that are shown.
DIGITS = 3
#: The numbers, weakest first, by the record's names.
LABELS = {
    "paper_bound": "paper's bound",
    "sharp_bound": "sharper bound",
    "data_bound": "data's bound",
    "exact": "exact value",
}


def section(survey: Survey) -> Section | None:
    """The bounds and the value of the smallest eigenvalue; none where it was not asked."""
    found = [(model, model.convexity) for model in survey.models if model.convexity is not None]
    if not found:
        return None
    return Section(
        key="convexity",
        title="Whether the loss is convex here",
        verdict="\n".join(f"{model.name}: {_verdict(one)}" for model, one in found),
        figures=_figures(found),
        tables=tuple(_table(model, one) for model, one in found),
        remarks=tuple(f"{model.name}: {line}" for model, one in found for line in _remarks(one)),
        method=_method([one for _, one in found]),
        check=(
            "verify takes the bounds from their definition again, and multiplies the direction that "
            "bends down most by the Hessian, without the code that found either. That no direction "
            "bends down further it proves by a factorisation where the whole Hessian was formed and is "
            "formed again in seconds; else that is told. convexity computes all of it again.",
        ),
        commands=tuple(line for model, one in found for line in _commands(survey, model, one)),
    )


def _verdict(one: ConvexitySurvey) -> str:
    """Whether it is convex, and what shows it."""
    value = number(one.exact)
    if one.convex is None and one.num_active_kinks:
        return (
            "whether the loss is strongly convex here, its switches frozen, is undecided: switching "
            f"values are zero. For one choice of their signs the smallest curvature is {value}."
        )
    if one.convex is None:
        return (
            f"whether the loss is strongly convex here, its switches frozen, is undecided. Its smallest "
            f"curvature is about {value} or less."
        )
    if not one.convex:
        return (
            "with its switches frozen the loss is not convex here: along some direction its curvature "
            f"is {value}."
        )
    shown = [name for name in LABELS if name != "exact" and (getattr(one, name) or 0.0) > 0.0]
    if shown:
        return (
            f"with its switches frozen the loss is strongly convex here, and the {LABELS[shown[0]]} is "
            f"enough to show it: no direction has a curvature below {_least(getattr(one, shown[-1]))}."
        )
    return (
        "with its switches frozen the loss is strongly convex here: no direction has a curvature below "
        f"{_least((one.exact or 0.0) - (one.error or 0.0))}. The bounds from the layers' norms do not"
        " show it."
    )


def _remarks(one: ConvexitySurvey) -> list[str]:
    """What else follows, and what limits it."""
    told = [f"There are no bounds: {one.reason}."] if one.reason else []
    if one.covering_decay:
        told.append(
            f"Above a weight decay of {_enough(one.covering_decay)} all global minimisers lie where the "
            f"data's bound is positive, above {_enough(one.paper_covering_decay)} where the paper's is; "
            f"here it is {number(one.weight_decay)}."
        )
    if one.lowest_minimum is not None:
        what = "critical point" if one.linear else "local minimum"
        below = f" with a loss below {_least(one.lowest_minimum)}, nor anywhere in these regions"
        told.append(
            f"Without biases there is no {what} but zero weights"
            f"{'' if math.isinf(one.lowest_minimum) else below}."
        )
    if one.num_active_kinks:
        zero = several(one.num_active_kinks, "switching value")
        held = "" if one.reason else " The bounds hold on every piece that meets here."
        told.append(
            f"Zero to rounding: {zero}.{held} The exact value is that of one choice of their signs."
        )
    return told


def _least(value: float | None) -> str:
    """A lower bound."""
    return number(None if value is None else rounded_down(value, DIGITS), DIGITS)


def _enough(value: float | None) -> str:
    """What suffices."""
    return number(None if value is None else rounded_up(value, DIGITS), DIGITS)


def _method(found: list[ConvexitySurvey]) -> tuple[str, ...]:
    """How it was obtained."""
    lanczos = any(one.method == "lanczos" for one in found)
    return (
        "With the sign of every switching value kept, the loss is a smooth function of all parameters "
        "together. Its smallest curvature is the smallest eigenvalue of its Hessian, weight decay "
        "included: where it is positive, the loss is strongly convex near the point on the piece of "
        "parameter space that the point is in. That says nothing about other pieces.",
        "The bounds are certified: spectral norms, outputs and slopes are raised by their rounding "
        "errors. The paper's takes the largest norm of any layer, the sharper one those of all layers, "
        "and the data's each sample's activations and slopes, which may cancel (Milne, Piecewise strong "
        "convexity of neural networks, 2019; biases, several outputs, batch norm and the cross-entropy "
        "are extensions). Without weight decay a bound is never positive.",
        *(
            (
                "Lanczos gives the curvature along one direction: the smallest may be below it, and it "
                "is not certified. The residual says how nearly the direction is an eigenvector.",
            )
            if lanczos
            else ()
        ),
    )


def _figures(found: list[tuple[ModelSurvey, ConvexitySurvey]]) -> tuple[Figure, ...]:
    """How far each number is below the weight decay, where there are bounds."""
    series, level = [], 0.0
    for model, one in found:
        gaps = {label: _gap(one, name) for name, label in LABELS.items()}
        shown = {label: gap for label, gap in gaps.items() if gap is not None and gap > 0}
        if one.data_bound is not None and shown:
            series.append(Series(model.name, list(shown.values()), list(shown)))
            level = one.weight_decay or 0.0
    if not series:
        return ()
    caption = "How far the curvature may fall below the weight decay, by each bound, and does fall."
    if level > 0:
        caption += " Left of the dashed line the loss is strongly convex."
    chart = dots_to(series, "below the weight decay by", level)
    return (Figure("convexity", caption, chart),)


def _gap(one: ConvexitySurvey, name: str) -> float | None:
    value = getattr(one, name)
    return None if value is None else (one.weight_decay or 0.0) - value


def _table(model: ModelSurvey, one: ConvexitySurvey) -> Table:
    rows = tuple(_row(one, name) for name in LABELS)
    return Table(f"{model.name}: smallest curvature, its switches frozen", COLUMNS, rows)


def _row(one: ConvexitySurvey, name: str) -> tuple[Cell, ...]:
    value = getattr(one, name)
    if name != "exact":
        shows = NONE if value is None else "yes" if value > 0 else "no"
        known = Cell(NONE) if value is None else Cell("norms", tier="certified")
        return Cell(LABELS[name]), Cell(_least(value), numeric=True), Cell(shows), known
    shows = {True: "yes", False: "refutes it", None: "no"}[one.convex]
    how = f"whole Hessian, within {number(one.error)}"
    if one.method == "lanczos":
        how = f"Lanczos, from above; residual {number(one.error)}"
        shows = "refutes it" if one.convex is False else "no"
    return Cell(LABELS[name]), Cell(number(value), numeric=True), Cell(shows), Cell(how)


def _commands(survey: Survey, model: ModelSurvey, one: ConvexitySurvey) -> list[str]:
    options = f"{model.options} {survey.data.options}"
    decay = f" --weight-decay {survey.weight_decay!r}" if survey.weight_decay else ""
    again = f"reluscape convexity {options} --loss {survey.loss_name}{decay}"
    return [*([f"reluscape verify {shlex.quote(one.file)} {options}"] if one.file else []), again]
