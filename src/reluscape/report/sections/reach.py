"""Section: which exact statements are out of reach, and why."""

from reluscape.report.charts import Series, dots
from reluscape.report.findings import LayerSurvey, ModelSurvey, Survey
from reluscape.report.section import Cell, Figure, Section, Table
from reluscape.report.wording import listed, several

ORDER = 90
COLUMNS = ("statement", "why it is out of reach", "what is said instead")

Limit = tuple[str, str, str]


def section(survey: Survey) -> Section:
    """What this survey could not say exactly, with the reason and the nearest thing it says."""
    limits = {model.name: _limits(model) for model in survey.models}
    tables = [_table(f"{name}: out of reach", rows) for name, rows in limits.items()]
    return Section(
        key="reach",
        title="What is out of reach",
        verdict="\n".join(_verdict(model, limits[model.name]) for model in survey.models),
        figures=_figures(survey),
        tables=(
            _table("For every model", GENERAL + _descent(survey)),
            *(table for table in tables if table.rows),
        ),
        method=(
            "Each analysis states what it needs before it starts. Where the module, the size of "
            "the problem or the point itself does not meet that, the analysis is left out and "
            "listed here; no estimate takes its place unless it is named as one.",
        ),
        check=(
            "The limits follow from the model and the sizes above. A statement that is out of "
            "reach in float64 may be decided in rational arithmetic; one that is out of reach "
            "for the whole network may be decided for one layer.",
        ),
        commands=("reluscape certify --help", "reluscape survey --help"),
    )


GENERAL: tuple[Limit, ...] = (
    (
        "Is it the lowest minimum?",
        "a certificate looks at an arbitrarily small neighbourhood only",
        "whether the point is a local minimum",
    ),
    (
        "The cell of all layers at once: facets, chords, radius",
        "the product of two layers is not linear, so across layers cells are not polyhedra",
        "the cell of each layer with the others held fixed",
    ),
    (
        "How the model does on new data",
        "everything here is about the loss on the given samples",
        "nothing",
    ),
)


def _descent(survey: Survey) -> tuple[Limit, ...]:
    """Why there is no section on exact descent, if there is none."""
    if survey.loss_name == "l1" and not survey.weight_decay:
        return ()
    return (
        (
            "How much exact descent still removes",
            "it follows the edges of a piecewise-affine loss: --loss l1 without weight decay",
            "the gradient, and the direction in which the loss falls",
        ),
    )


def _figures(survey: Survey) -> tuple[Figure, ...]:
    series = []
    for model in survey.models:
        work = [(at.label, at.num_kinks * at.num_params) for at in model.layers if at.num_kinks]
        if work:
            series.append(Series(model.name, [size for _, size in work], [at for at, _ in work]))
    if sum(len(one.y) for one in series) < 3:  # a table says as much
        return ()
    caption = (
        "How large the question of the cell's facets is for each layer: kinks times parameters. "
        "Whether all facets were counted depends on it; the tables above say where they were."
    )
    return (Figure("cell-sizes", caption, dots(series, "kinks × parameters")),)


def _verdict(model: ModelSurvey, limits: list[Limit]) -> str:
    if model.unreadable:
        return (
            f"{model.name}: no exact statement is possible, because the module cannot be read as "
            "affine and ReLU layers; its loss and gradient stand."
        )
    if not limits:
        return f"{model.name}: nothing beyond what is out of reach for every model."
    said = f"{several(len(limits), 'further exact statement')} out of reach"
    if model.opaque:
        return f"{model.name}: {said}; statements are exact from its first readable layer on."
    return f"{model.name}: {said}, listed below with the reasons."


def _limits(model: ModelSurvey) -> list[Limit]:
    limits = [*_module_limits(model), *_verdict_limits(model)]
    limits += _layer_limits(model)
    if model.num_params is not None and not model.flips.size:
        limits.append(
            (
                "How many cells the last training steps crossed",
                "the weights come without a record of the training",
                "nothing; train through reluscape, or keep the last parameter vectors",
            )
        )
    if not model.complete:
        limits.append(("Whatever shows a dash above", "the survey was interrupted", "nothing"))
    return limits


def _module_limits(model: ModelSurvey) -> list[Limit]:
    if model.unreadable:
        instead = "the loss and its gradient on these data"
        return [("Every statement on kinks, cells and minima", model.unreadable, instead)]
    if model.opaque:
        parts = f"it runs as a black box: {listed(model.opaque)}"
        why = f"{parts}. {model.opaque_reason}" if model.opaque_reason else parts
        instead = "exact statements on the readable layers, given their inputs"
        return [("Every statement on what lies before the first readable layer", why, instead)]
    return []


def _verdict_limits(model: ModelSurvey) -> list[Limit]:
    verdicts = [("the whole network", model.verdict)]
    verdicts += [(f"layer {layer.label}", layer.verdict) for layer in model.layers]
    return [
        (f"What kind of point it is for {part}", verdict.reason, "undecided")
        for part, verdict in verdicts
        if verdict is not None and verdict.claim == "undecided"
    ]


def _layer_limits(model: ModelSurvey) -> list[Limit]:
    noted = [
        (f"Layer {layer.label}", note, "what its row above shows")
        for layer in model.layers
        for note in layer.notes
    ]
    uncounted = [at for at in model.layers if at.num_facets is not None and not at.all_facets]
    balls = [at for at in model.layers if at.num_facets is not None and at.radius is None]
    facets, radius = "a lower bound from random rays", "chords along random lines"
    return [
        *noted,
        *_too_large("The number of facets", uncounted, facets),
        *_too_large("The largest ball", balls, radius),
    ]


def _too_large(what: str, layers: list[LayerSurvey], instead: str) -> list[Limit]:
    if not layers:
        return []
    sizes = listed(
        [
            f"{several(at.num_kinks or 0, 'kink')} in {several(at.num_params, 'parameter')}"
            for at in layers
        ]
    )
    where = f"{what} of the cell of layer {listed([at.label for at in layers])}"
    return [(where, f"too large for a short survey: {sizes}", instead)]


def _table(caption: str, rows: list[Limit] | tuple[Limit, ...]) -> Table:
    return Table(caption, COLUMNS, tuple(tuple(Cell(text) for text in row) for row in rows))
