"""Section: the cell each layer stopped in, and the cells that training crossed at its end."""

import numpy as np

from reluscape.report.charts import Series, bars, boxes
from reluscape.report.findings import LayerSurvey, ModelSurvey, Survey
from reluscape.report.section import Cell, Figure, Section, Table
from reluscape.report.wording import NO_BREAK, NONE, count, number, several, share

ORDER = 30
COLUMNS = (
    "layer",
    "kinks",
    "facets",
    "median chord",
    "chord / ‖θ‖",
    "open lines",
    "radius",
)


def section(survey: Survey) -> Section:
    """Facets, chords and radius of each layer's cell; switching signs flipped per step."""
    return Section(
        key="cell",
        title="The cell it is in",
        verdict="\n".join(_verdict(model) for model in survey.models),
        figures=(*_chords(survey), *_flips(survey)),
        tables=tuple(_table(model) for model in survey.models if model.layers),
        method=(
            "A cell is the set of a layer's parameters for which no switching value changes its "
            "sign; it is bounded by facets, one per kink that can be reached without crossing "
            "another first. A plain number counts all facets: one linear program per kink says "
            "whether it is one. The solver works in float64 with tolerances near 1e-9, so the "
            "count is computed, not proved. Those marked sampled are the different kinks that "
            "random rays from the point meet first, so there are at least that many.",
            "A chord is the piece of a random line through the point that lies in the cell. "
            "Divided by the norm ‖θ‖ of the layer's parameters it does not depend on their scale. "
            "An open line meets no kink on at least one side, and its chord has no end. "
            "The radius is that of the largest ball in the cell. It is unbounded where the cell "
            "opens towards infinity; a first layer's cells in a network with one hidden layer "
            "are cones, for instance, and hold balls of any size. A dash stands where the "
            "problem was too large to solve here.",
            "For the last training steps the parameters were kept, and the switching signs of all "
            "hidden units on all samples were compared from step to step.",
        ),
        check=(
            "Chord lengths and facets are in results.nc, one value per direction. The directions "
            f"come from seed {survey.seed}, so the same survey gives the same numbers.",
        ),
        commands=("python -c \"import xarray; print(xarray.open_datatree('results.nc'))\"",),
    )


def _verdict(model: ModelSurvey) -> str:
    return f"{model.name}: {_moves(model)}{_narrowest(model)}."


def _moves(model: ModelSurvey) -> str:
    steps = model.flips.size
    if not steps:
        return "there is no record of its last training steps"
    if model.steps_in_cell == steps:
        return f"each of the last {several(steps, 'training step')} stayed in the cell"
    moved = int(np.count_nonzero(model.flips))
    median = float(np.median(model.flips))
    told = count(int(median)) if median == int(median) else number(median)
    return (
        f"{moved} of the last {several(steps, 'training step')} left the cell they began in, "
        f"with a median of {told} of {several(model.num_switches or 0, 'switching sign')} "
        "flipped per step"
    )


def _narrowest(model: ModelSurvey) -> str:
    medians = [(_median(layer.chord_lengths), layer) for layer in model.layers]
    known = [(value, layer.label) for value, layer in medians if value is not None]
    finite = [pair for pair in known if np.isfinite(pair[0])]
    if not finite:
        return ""
    value, label = min(finite)
    return f"; its narrowest cell is that of layer {label}, with a median chord of {number(value)}"


def _median(values: np.ndarray) -> float | None:
    return float(np.median(values)) if values.size else None


def _chords(survey: Survey) -> tuple[Figure, ...]:
    series = []
    for model in survey.models:
        pairs = [
            (value, layer.label)
            for layer in model.layers
            for value in layer.chord_lengths[np.isfinite(layer.chord_lengths)].tolist()
        ]
        if pairs:
            values, labels = zip(*pairs, strict=True)
            series.append(Series(model.name, values, labels))
    if not series:
        return ()
    caption = (
        "Length of each layer's cell along random lines through the point: the box spans the "
        "middle half, the line in it is the median, the whiskers reach to the most distant "
        "values within one and a half box lengths. Endless chords are left out; the table has "
        "their share."
    )
    figure = boxes(series, "chord length (parameter units)")
    return (Figure("chords", caption, figure),)


def _flips(survey: Survey) -> tuple[Figure, ...]:
    series = [
        Series(model.name, np.arange(-model.flips.size + 1, 1), model.flips)
        for model in survey.models
        if model.flips.size
    ]
    if not series:
        return ()
    caption = (
        "Switching signs of hidden units that flipped in each of the last training steps; 0 is "
        "the last one. A step with no bar stayed in its cell."
    )
    figure = bars(series, "training step, counted from the last", "signs flipped")
    return (Figure("flips", caption, figure),)


def _table(model: ModelSurvey) -> Table:
    rows = tuple(_row(layer) for layer in model.layers)
    return Table(f"{model.name}: the cell of each layer's block", COLUMNS, rows)


def _row(layer: LayerSurvey) -> tuple[Cell, ...]:
    lengths = layer.chord_lengths
    open_lines = float(np.mean(~np.isfinite(lengths))) if lengths.size else None
    return (
        Cell(layer.label),
        Cell(count(layer.num_kinks), numeric=True),
        _facets(layer),
        Cell(number(_median(lengths)), numeric=True),
        Cell(number(_median(layer.chord_angles)), numeric=True),
        Cell(share(open_lines), numeric=True),
        Cell(_radius(layer), numeric=True),
    )


def _facets(layer: LayerSurvey) -> Cell:
    if layer.num_facets is None:
        return Cell(NONE, numeric=True)
    if layer.all_facets:
        return Cell(count(layer.num_facets), numeric=True)
    text = f"at least{NO_BREAK}{count(layer.num_facets)}"
    return Cell(text, tier="sampled", numeric=True)


def _radius(layer: LayerSurvey) -> str:
    if layer.radius is not None and np.isinf(layer.radius):
        return "unbounded"
    return number(layer.radius)
