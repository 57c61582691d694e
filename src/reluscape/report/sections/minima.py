"""Section: whether the cell where training stopped holds a genuine minimum."""

import math
import shlex

from reluscape.report.charts import Series, dots
from reluscape.report.findings import MinimumSurvey, ModelSurvey, Survey
from reluscape.report.section import Cell, Figure, Section, Table
from reluscape.report.wording import NONE, listed, number

ORDER = 35
COLUMNS = (
    "asked of",
    "genuine minimum",
    "minimisers' loss",
    "kind",
    "bad",
    "lower loss",
    "margin",
    "found by",
    "proof",
)
SIGNS = {
    "free": "output weights of any signs",
    "given": "output weights of the signs they have",
    "uniform": "output weights of one sign",
}
#: Losses below this share of the loss now are left out of the figure: they are rounding of zero.
FIT = 1e-12

Asked = tuple[str, MinimumSurvey]


def section(survey: Survey) -> Section | None:
    """Answers for the whole network and for each layer; none where nothing was asked."""
    models = [model for model in survey.models if _asked(model)]
    if not models:
        return None
    return Section(
        key="minima",
        title="Whether its cell holds a minimum",
        verdict="\n".join(_verdict(model) for model in models),
        figures=tuple(_figures(models)),
        tables=tuple(_table(model) for model in models),
        method=(
            "While every hidden unit keeps its sign on every sample, the network is the same formula of "
            "its parameters. With all other layers fixed, the loss of that formula is convex in one "
            "layer's parameters. Its minimisers are genuine minima of the network's loss if they lie "
            "inside the cell, where the formula is the network; outside they are none.",
            *_whole_method(models),
            "A cell without a genuine minimum says nothing about other cells: training that moves on may "
            "find one there. A minimum is called bad where a lower loss is attained elsewhere, by other "
            "weights of the same layers. Descents from drawn weights look for one; that they find none "
            "proves nothing.",
            "The margin of a minimum is its distance to the nearest kink over the length of its weights; "
            "results.nc has, where there is none, what rounding leaves open.",
            *_further(models),
        ),
        check=(
            "verify runs no solver. It sends the minimum once forward and backward through the network: "
            "the same signs, a gradient of zero, or for an L1 loss a lower bound that is attained. "
            "Where there is none, it multiplies the proof out that every minimiser is outside. minima "
            "finds all of it again, and with --out saves the minima as weights.",
        ),
        commands=tuple(_commands(survey, models)),
    )


def _asked(model: ModelSurvey) -> list[Asked]:
    """Everything that was answered, with what it was asked of."""
    whole = [(f"all, {one.convention}", one) for one in model.minima]
    layers = [
        (f"layer {layer.label}", layer.minimum)
        for layer in model.layers
        if layer.minimum is not None
    ]
    return [*whole, *layers]


def _verdict(model: ModelSurvey) -> str:
    """What the cell holds, in a sentence for the whole network and one for the layers."""
    whole = [(SIGNS[one.convention], one) for one in model.minima]
    layers = [(at.label, at.minimum) for at in model.layers if at.minimum is not None]
    parts = []
    if whole:
        parts.append(f"its cell holds, for the whole network, {_told(whole, 'with ')}")
    if layers:
        subject = "For one layer alone" if whole else "its cell holds, for one layer alone"
        parts.append(f"{subject}, {_told(layers, 'for layer ')}")
    unasked = [at.label for at in model.layers if at.minimum is None]
    if unasked:
        parts.append(f"There is no answer for layer {listed(unasked)}: see the limits below")
    return f"{model.name}: {'. '.join(parts)}."


def _told(asked: list[Asked], word: str) -> str:
    """For what there is a genuine minimum, bad ones apart, for what none, and what is open."""
    found: dict[str, list[str]] = {}
    for answer in (True, False, None):
        for name, one in asked:
            if one.genuine is answer:
                found.setdefault(_answer(one), []).append(name)
    return "; ".join(f"{text} {word}{listed(names)}" for text, names in found.items())


def _answer(one: MinimumSurvey) -> str:
    """The answer in words."""
    if one.genuine and one.bad:
        lower = number(one.better_loss)
        return f"a genuine minimum, but a bad one (a loss of {lower} is attained elsewhere),"
    return {
        True: "a genuine minimum",
        False: "no genuine minimum",
        None: "one or none, undecided,",
    }[one.genuine]


def _whole_method(models: list[ModelSurvey]) -> list[str]:
    if not any(model.minima for model in models):
        return []
    return [
        "Of a whole network with one hidden layer and a squared loss the same is asked of first layer "
        "and output weights together. The loss then depends on their products alone, which are convex "
        "coordinates, and the signs that the output weights may have decide: free allows any, given "
        "those that they have, uniform one for all. Each answer holds for its convention only. An "
        "output bias is held fixed."
    ]


def _further(models: list[ModelSurvey]) -> list[str]:
    """What words in the tables mean, and which side of a kink was taken, where it matters."""
    found = [one for model in models for _, one in _asked(model)]
    told = []
    if any(one.loss is not None and math.isnan(one.loss) for one in found):
        told.append(
            "Falls forever: along some direction the cross-entropy of the formula falls without end, as "
            "it does on data that the layer can separate, so it has no minimiser."
        )
    if any(one.genuine is None for one in found):
        told.append(
            "Undecided: no minimum was found inside the cell, and none was proved to be absent."
        )
    limits = [one.reach for one in found if one.genuine is False and one.reach is not None]
    if limits:
        told.append(
            f"Minimisers more than {number(min(limits))} times as far out as a known one are not ruled "
            "out: there rounding hides which way an L1 loss goes."
        )
    if any(one.num_active_kinks for one in found):
        told.append("Switching values that are zero where training stopped count as negative.")
    return told


def _figures(models: list[ModelSurvey]) -> list[Figure]:
    """Loss now and loss of the minimisers, where there are several to compare."""
    found = []
    for place, model in enumerate(models):
        now = model.loss or 0.0
        shown = [(label, one.loss) for label, one in _asked(model) if _is_shown(one, now)]
        if len(shown) < 2:
            continue
        labels = [label for label, _ in shown]
        series = [
            Series("where training stopped", [now] * len(labels), labels),
            Series("minimisers of the cell", [loss or 0.0 for _, loss in shown], labels),
        ]
        caption = (
            f"{model.name}: the loss where training stopped, and that of the cell's minimisers, whether "
            "they lie inside the cell or not. No point of the cell has a lower loss than these."
        )
        lower = [
            (label, one.better_loss)
            for label, one in _asked(model)
            if label in labels and one.better_loss is not None and one.better_loss > FIT * now
        ]
        if lower:
            series.append(Series("elsewhere", [loss for _, loss in lower], [at for at, _ in lower]))
            caption += " Elsewhere: the lowest loss that was found in other cells."
        found.append(Figure(f"minima-{place + 1}", caption, dots(series, "loss")))
    return found


def _is_shown(one: MinimumSurvey, now: float) -> bool:
    return one.loss is not None and math.isfinite(one.loss) and one.loss > FIT * now


def _table(model: ModelSurvey) -> Table:
    caption = f"{model.name}: minima of the cell (loss now {number(model.loss)})"
    return Table(caption, COLUMNS, tuple(_row(label, one) for label, one in _asked(model)))


def _row(label: str, one: MinimumSurvey) -> tuple[Cell, ...]:
    words = {True: "yes", False: "no", None: "undecided"}
    falls = one.loss is None or math.isnan(one.loss)
    bad = NONE if not one.genuine else {True: "yes", False: "no", None: "not known"}[one.bad]
    return (
        Cell(label),
        Cell(words[one.genuine], tier="" if one.genuine is None else "certified"),
        Cell("falls forever" if falls else number(one.loss), numeric=True),
        Cell(NONE if falls else one.kind),
        Cell(bad),
        Cell(number(one.better_loss) if one.bad else NONE, numeric=True),
        Cell(number(one.margin) if one.genuine else NONE, numeric=True),
        Cell(one.method),
        Cell("NetCDF", file=one.file) if one.file else Cell(NONE),
    )


def _commands(survey: Survey, models: list[ModelSurvey]) -> list[str]:
    checks = [
        f"reluscape verify {shlex.quote(one.file)} {model.options} {survey.data.options}"
        for model in models
        for _, one in _asked(model)
        if one.file
    ]
    again = [
        f"reluscape minima {model.options} {survey.data.options} --loss {survey.loss_name}{scope} "
        "--out found"
        for model in models
        for scope in ([""] if model.minima else []) + [" --layer all"]
    ]
    return [*checks, *again]
