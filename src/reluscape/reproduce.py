"""`reproduce`: run a paper's experiments and set the published numbers beside ours."""

from __future__ import annotations

import csv
import importlib
import os
import shlex
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reluscape import __version__
from reluscape.errors import InputError
from reluscape.papers.paper import SCALES, Comparison, Experiment, Paper, Scale
from reluscape.report.page import fill
from reluscape.report.section import Cell, Figure, Section, Table
from reluscape.report.wording import NONE, aligned, number
from reluscape.results import write_then_rename
from reluscape.study import Standing, Study
from reluscape.study.store import NoPlanError

Progress = Callable[[str, float], None]

#: Papers with a file in `reluscape.papers`.
PAPERS = ("freeman", "hinz", "liu", "milne")

COLUMNS = ("quantity", "published", "ours", "95 % interval", "runs", "agrees?")

#: Columns of numbers.
NUMERIC = (1, 2, 4)

#: In place of a table.
NO_RECORD = "No trial has a record yet."


@dataclass(frozen=True, slots=True)
class Reproduction:
    """Published numbers beside ours.

    Attributes:
        paper: The paper.
        scale: "smoke", "small" or "paper".
        seed: Seed of the studies.
        standings: Where the study of each experiment stands.
        comparisons: For each experiment, its published numbers beside ours.
        complete: Whether every trial was run.
        report: The page.
        table: The table as CSV.
    """

    paper: Paper
    scale: Scale
    seed: int
    standings: tuple[Standing, ...]
    comparisons: tuple[tuple[Comparison, ...], ...]
    complete: bool
    report: Path
    table: Path

    @property
    def begun(self) -> tuple[Experiment, ...]:
        """The experiments that have a standing; Ctrl-C leaves out those that were still to come."""
        return self.paper.experiments[: len(self.standings)]

    @property
    def not_begun(self) -> tuple[str, ...]:
        """A sentence on every experiment that was still to come."""
        later = self.paper.experiments[len(self.standings) :]
        return tuple(f"Not begun: {experiment.title}." for experiment in later)

    def summary(self) -> str:
        """The table *published | ours | 95 % interval | runs | agrees?* as text, for every experiment."""
        parts = [f"{self.paper.citation} (scale {self.scale}, seed {self.seed})"]
        for experiment, standing, rows in zip(
            self.begun, self.standings, self.comparisons, strict=True
        ):
            table = aligned([COLUMNS, *(row_of(row) for row in rows)]) if rows else NO_RECORD
            parts += ["", experiment.title, table, *_notes(rows)]
            if standing.failed or standing.lost:
                parts.append(standing.summary())
        notes = (*self.not_begun, *self.paper.notes)
        parts += ["", *notes] if notes else []
        return "\n".join(parts)


def reproduce(
    name: str,
    out: str | os.PathLike[str],
    *,
    scale: Scale = "small",
    trials: int | None = None,
    seed: int = 0,
    jobs: int = 1,
    dask: str | None = None,
    fork: bool = False,
    data_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Reproduction:
    """Run a paper's experiments through `Study` and compare with what was published.

    Args:
        name: One of `PAPERS`.
        out: Folder for the studies, the table and the page; the same call goes on where one stopped.
        scale: "smoke" (seconds), "small" (a minute, several with `data_dir`), "paper" (the published
            size or more).
        trials: Runs per experiment, instead of the scale's.
        seed: Seed of the studies.
        jobs: Local processes.
        dask: Address of a Dask scheduler instead.
        fork: Start new study files where parameters or code have changed.
        data_dir: Folder with the data sets that some experiments need; without it these are left out.
        progress: Told what is being done and the fraction done.

    Returns:
        The comparison. After Ctrl-C it rests on the trials done until then and is marked incomplete.

    Raises:
        InputError: No such paper, scale or data, or what `Study.run` raises.
    """
    paper = _with_data(_paper(name), data_dir)
    if scale not in SCALES:
        raise InputError(f"scale must be one of {', '.join(SCALES)}; received {scale!r}")
    if trials is not None and trials < 1:
        raise InputError(f"trials must be at least 1; received {trials}")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    standings: list[Standing] = []
    for experiment in paper.experiments:
        study = Study(folder / f"{paper.key}-{experiment.key}-{_size(scale, trials)}.sqlite")
        points = experiment.points(scale, trials)
        options: dict[str, Any] = {"seed": seed, "jobs": jobs, "dask": dask, "fork": fork}
        try:
            standings.append(study.run(experiment.function, points, progress=progress, **options))
        except KeyboardInterrupt:
            if fork:
                study = study.forked(experiment.function, points, seed=seed)
            with suppress(NoPlanError):  # none is stored yet: nothing to tell of
                standings.append(study.standing())
                break
            raise
    return _written(paper, scale, seed, tuple(standings), folder)


def _size(scale: Scale, trials: int | None) -> str:
    """What tells the studies of different sizes apart."""
    return scale if trials is None else f"{scale}-{trials}"


def _paper(name: str) -> Paper:
    """The paper's file."""
    if name not in PAPERS:
        raise InputError(f"expected one of the papers {', '.join(PAPERS)}; received {name!r}")
    paper: Paper = importlib.import_module(f"reluscape.papers.{name}").PAPER
    return paper


def _with_data(paper: Paper, data_dir: str | os.PathLike[str] | None) -> Paper:
    """The paper with the experiments that need data, where a folder is given."""
    if data_dir is None:
        return paper
    if paper.with_data is None:
        raise InputError(f"{paper.key} has no experiment that needs data: drop --data-dir")
    return paper.with_data(Path(data_dir))


def _written(
    paper: Paper, scale: Scale, seed: int, standings: tuple[Standing, ...], folder: Path
) -> Reproduction:
    """Compare, and write table and page."""
    begun = paper.experiments[: len(standings)]
    studies = [Study(standing.path) for standing in standings]
    usable = [standing.done > 0 for standing in standings]
    comparisons = [
        experiment.compare(study) if has_records else ()
        for experiment, study, has_records in zip(begun, studies, usable, strict=True)
    ]
    complete = len(begun) == len(paper.experiments) and all(s.complete for s in standings)
    result = Reproduction(
        paper=paper,
        scale=scale,
        seed=seed,
        standings=standings,
        comparisons=tuple(comparisons),
        complete=complete,
        report=folder / f"{paper.key}.html",
        table=folder / f"{paper.key}.csv",
    )
    sections = [
        _section(paper, *item) for item in zip(begun, studies, standings, comparisons, strict=True)
    ]
    page = fill("reproduction.html.j2", sections=sections, result=result, version=__version__)
    write_then_rename(result.report, lambda path: path.write_text(page, encoding="utf-8"))
    write_then_rename(result.table, lambda path: _write_csv(path, result))
    return result


def _section(
    paper: Paper,
    experiment: Experiment,
    study: Study,
    standing: Standing,
    rows: tuple[Comparison, ...],
) -> Section:
    """One experiment on the page."""
    figures = experiment.figures(study) if rows else ()
    table = study.path.with_suffix(".csv")
    cells = tuple(
        tuple(Cell(text, numeric=column in NUMERIC) for column, text in enumerate(row_of(row)))
        for row in rows
    )
    return Section(
        key=f"{paper.key}-{experiment.key}",
        title=experiment.title,
        verdict=_verdict(rows),
        remarks=tuple(_notes(rows)),
        figures=tuple(
            Figure(f.key, f"{f.caption} Published: {f.published}", f.figure) for f in figures
        ),
        tables=(Table("Published and ours", COLUMNS, cells),) if rows else (),
        method=experiment.protocol,
        check=(
            f"{standing.done} of {standing.planned} trials are done, {standing.failed + standing.lost}"
            " failed. Every trial with its seed, record, package versions and code version is in the"
            " study file; its digest does not depend on the number of processes.",
        ),
        commands=(
            shlex.join(["reluscape", "study", "show", str(study.path)]),
            shlex.join(["reluscape", "study", "export", str(study.path), "--csv", str(table)]),
        ),
    )


def _verdict(rows: tuple[Comparison, ...]) -> str:
    """How many published numbers agree with ours."""
    if not rows:
        return NO_RECORD
    published = [agreement(row) for row in rows if row.published is not None]
    if not published:
        return "No numbers are published; the table holds ours."
    if not any(row.comparable for row in rows):
        return "The published numbers are those of another size: nothing is compared."
    told = f"{published.count(True)} of {len(published)} published numbers agree with ours"
    untold = published.count(None)
    return f"{told}; too few runs to tell of {untold}." if untold else f"{told}."


def agreement(row: Comparison) -> bool | None:
    """Whether ours agrees with what is published; None where that is not to be told.

    That is without a published number, with one of another size, or with too few runs.
    Without an interval a difference says nothing, least of all disagreement.
    """
    return None if row.interval is None and not row.agrees else row.agrees


def row_of(row: Comparison) -> tuple[str, ...]:
    """A comparison as the texts of a table's row."""
    unit = f" {row.unit}" if row.unit else ""
    untold = "too few runs" if row.comparable else "another size"
    untold = NONE if row.published is None else untold
    return (
        row.quantity,
        NONE if row.published is None else f"{number(row.published)}{unit}",
        f"{number(row.ours)}{unit}",
        NONE if row.interval is None else " to ".join(map(number, row.interval)),
        f"{row.trials}",
        {True: "yes", False: "no", None: untold}[agreement(row)],
    )


def _notes(rows: tuple[Comparison, ...]) -> list[str]:
    """What to know about the comparisons, each once."""
    return list(dict.fromkeys(text for row in rows for text in row.remarks))


def _write_csv(path: Path, result: Reproduction) -> None:
    """The table with all digits."""
    fields = ("quantity", "unit", "published", "published_error", "ours")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        told = ("low", "high", "runs", "comparable", "agrees", "note")
        writer.writerow(["experiment", *fields, *told])
        for experiment, rows in zip(result.begun, result.comparisons, strict=True):
            for row in rows:
                values = [getattr(row, field) for field in fields]
                ends = row.interval or (None, None)
                judged = (row.trials, row.comparable, agreement(row), " ".join(row.remarks))
                writer.writerow([experiment.key, *values, *ends, *judged])
