"""Section: whether two models are connected below a level."""

from reluscape.report.findings import Survey
from reluscape.report.pairs import PairSurvey, StringSurvey
from reluscape.report.section import Cell, Figure, Section, Table
from reluscape.report.strings import CHECK, caption, measures, method, unmatched, verdict
from reluscape.strings.chart import connection_figure

ORDER = 60


def section(survey: Survey) -> Section | None:
    """Strings between two models of one shape; none for any others."""
    pair = survey.pair
    if pair is None:
        return None
    return Section(
        key="pair",
        title="Whether the two are connected below a level",
        verdict="\n".join(map(_verdict, pair.strings)) or f"{pair.line}.",
        remarks=_remarks(pair),
        figures=tuple(_figure(one) for one in pair.strings),
        tables=(_table(pair),) if pair.strings else (),
        method=_method(pair),
        check=(CHECK,) if pair.strings else (),
        commands=tuple(
            f"reluscape verify {one.file} {pair.options} {survey.data.options} "
            f"--loss {survey.loss_name}"
            for one in pair.strings
        ),
    )


def _name(one: StringSurvey) -> str:
    return "hidden units matched" if one.matched else "units as they are"


def _verdict(one: StringSurvey) -> str:
    return f"{_name(one).capitalize()}: {_lowered(verdict(one))}"


def _lowered(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _remarks(pair: PairSurvey) -> tuple[str, ...]:
    """Where the level comes from, and what was done on the way."""
    told = [f"The level: {pair.why}."] if pair.strings else []
    for one in pair.strings:
        if one.matched:
            told.append(
                f"Matched: the hidden units of {pair.names[1]} are permuted first so that they fit those "
                "of the other, which leaves its function as it is; the string ends at that permuted "
                f"model. {unmatched(one)}"
            )
        told += [f"{_name(one).capitalize()}: {line}." for line in one.tried]
    return (*told, *(f"{note[:1].upper()}{note[1:]}." for note in pair.notes if pair.strings))


def _figure(one: StringSurvey) -> Figure:
    key = "string-matched" if one.matched else "string"
    return Figure(key, f"{_name(one).capitalize()}. {caption(one)}", connection_figure(one))


def _table(pair: PairSurvey) -> Table:
    """A column for each string."""
    columns = [measures(one, one.cells) for one in pair.strings]
    rows = tuple(
        (
            Cell(row[0][0]),
            *(Cell(value, tier=tier, numeric=True) for _, value, tier in row),
        )
        for row in zip(*columns, strict=True)
    )
    files = tuple(Cell("NetCDF", file=one.file, numeric=True) for one in pair.strings)
    caption = f"Between {pair.names[0]} and {pair.names[1]}"
    heads = ("quantity", *map(_name, pair.strings))
    return Table(caption, heads, (*rows, (Cell("the path"), *files)))


def _method(pair: PairSurvey) -> tuple[str, ...]:
    told = dict.fromkeys(line for one in pair.strings for line in method(one))
    return (
        *told,
        "A short survey divides segments a few times and trains the models of a string briefly; "
        "reluscape connect goes on from there, to other levels and by other methods.",
    )
