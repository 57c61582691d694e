"""Section: the data and the models."""

from reluscape.report.charts import Series, curves
from reluscape.report.findings import ModelSurvey, Survey
from reluscape.report.section import Cell, Figure, Section, Table
from reluscape.report.wording import count, listed, number, several

ORDER = 10
LOSSES = {
    "squared": "the mean over samples of the squared error, 1/N Σ‖·‖²",
    "half_squared": "half the mean over samples of the squared error, 1/(2N) Σ‖·‖²",
    "l1": "the mean over samples of the absolute error, 1/N Σ|·|",
    "cross_entropy": "the mean cross-entropy in nats",
}


def section(survey: Survey) -> Section:
    """Data, models, loss, and the training curve where there is a record of it."""
    return Section(
        key="subject",
        title="Data and model",
        verdict=_verdict(survey),
        remarks=tuple(note for model in survey.models for note in _notes(model)),
        figures=_figures(survey),
        tables=(_data_table(survey), _model_table(survey)),
        method=(
            f"The loss is {LOSSES.get(survey.loss_name, survey.loss_name)}{_decay(survey)}. It and "
            "its gradient are computed in float64 on all samples, with the model in evaluation "
            "mode. The gradient norm is the Euclidean norm over all parameters.",
            _training(survey),
        ),
        check=(
            "Every number of this page is in results.nc, a NetCDF file with one group per model "
            "and layer. The weights that were analysed are in the weights folder.",
        ),
        commands=(
            'python -c "from reluscape.survey import load_survey; '
            "print(load_survey('results.nc').summary())\"",
        ),
    )


def _verdict(survey: Survey) -> str:
    data = survey.data
    sizes = [count(model.num_params) for model in survey.models if model.num_params is not None]
    each = " each" if len(set(sizes)) == 1 and len(survey.models) > 1 else ""
    told = listed(list(dict.fromkeys(sizes)) if each else sizes or ["an unknown number of"])
    return (
        f"{several(len(survey.models), 'model')} with {told} parameters{each} on "
        f"{several(data.num_samples, 'sample')} of {data.name}, judged by "
        f"{survey.loss_name.replace('_', '-')} loss{_decay(survey)}."
    )


def _decay(survey: Survey) -> str:
    if survey.weight_decay == 0:
        return ", without weight decay"
    return f", with weight decay {number(survey.weight_decay)}"


def _notes(model: ModelSurvey) -> list[str]:
    return [f"{model.name}: {note}" for note in model.notes]


def _training(survey: Survey) -> str:
    told = [f"{at.name}: {at.description.rstrip('.')}." for at in survey.models if at.description]
    return " ".join(told) or "There is no record of how the models were trained."


def _figures(survey: Survey) -> tuple[Figure, ...]:
    recorded = [model for model in survey.models if model.losses.size]
    if not recorded:
        return ()
    series = [Series(at.name, range(1, at.losses.size + 1), at.losses) for at in recorded]
    caption = (
        "Training loss per step, on the samples of that step, on a logarithmic axis. Long runs "
        "are averaged over equal stretches of steps."
    )
    return (Figure("training-loss", caption, curves(series, "training step", "loss")),)


def _data_table(survey: Survey) -> Table:
    data = survey.data
    facts = [
        ("samples", count(data.num_samples)),
        ("input of one sample", data.input_shape),
        ("target", data.task),
        ("standardised", "yes" if data.standardised else "no, as loaded"),
    ]
    if data.classes:
        facts.insert(3, ("classes", listed(data.classes)))
    facts += [("note", note) for note in data.notes]
    rows = tuple((Cell(name), Cell(value)) for name, value in facts)
    return Table(f"The data: {data.name}", ("fact", "value"), rows)


def _model_table(survey: Survey) -> Table:
    columns = ("model", "parameters", "readable layers", "hidden units", "loss", "gradient norm")
    rows = tuple(
        (
            Cell(model.name),
            Cell(count(model.num_params), numeric=True),
            Cell(count(len(model.layers)), numeric=True),
            Cell(count(sum(layer.activity.size for layer in model.layers)), numeric=True),
            Cell(number(model.loss), numeric=True),
            Cell(number(model.gradient_norm), numeric=True),
        )
        for model in survey.models
    )
    return Table("The models where training stopped", columns, rows)
