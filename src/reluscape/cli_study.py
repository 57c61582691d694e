"""The commands `reproduce` and `study ...`."""

from __future__ import annotations

import html
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reluscape.cli_options import Dask, Json
from reluscape.errors import InputError

if TYPE_CHECKING:
    from reluscape.study import Standing

__all__ = ["reproduce", "study"]


class PaperName(StrEnum):
    """The papers that can be reproduced; a test keeps them equal to the library's."""

    freeman = "freeman"
    hinz = "hinz"
    liu = "liu"
    milne = "milne"


class ScaleName(StrEnum):
    """Sizes of a reproduction."""

    smoke = "smoke"
    small = "small"
    paper = "paper"


Jobs = Annotated[int, typer.Option(help="Local processes; -1 for one per core.")]
Fork = Annotated[
    bool,
    typer.Option("--fork", help="Start a new file where parameters, seed or code have changed."),
]
Retry = Annotated[
    bool,
    typer.Option("--retry", help="Run trials again that failed, were lost or lack their arrays."),
]
Seed = Annotated[int, typer.Option(min=0, max=2**31, help="Seed of the study.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="The study's file.")]


def reproduce(
    ctx: typer.Context,
    paper: Annotated[PaperName, typer.Argument(help="The paper, by its first author.")],
    scale: Annotated[
        ScaleName,
        typer.Option(
            help="smoke: seconds; small: minutes (freeman: half an hour); paper: the published size."
        ),
    ] = ScaleName.small,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Runs per experiment, instead of the scale's.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for studies, table and page.")] = (
        Path("reproduction")
    ),
    seed: Seed = 0,
    jobs: Jobs = -1,
    dask: Dask = None,
    fork: Fork = False,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder with MNIST and CIFAR-10 files (freeman, liu, milne); what needs them is else"
            " left out."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a paper's experiments and set the published numbers beside ours.

    The same command goes on where an interrupted one stopped. Ctrl-C leaves a table of what was done.
    """
    from reluscape.progress import shown
    from reluscape.reproduce import agreement
    from reluscape.reproduce import reproduce as run

    ctx.obj.append(f"finished trials in {out}; the same command goes on")
    with shown() as progress, _stdout_for_json(as_json):
        result = run(
            paper.value,
            out,
            scale=scale.value,
            trials=trials,
            seed=seed,
            jobs=jobs,
            dask=dask,
            fork=fork,
            data_dir=data_dir,
            progress=progress,
        )
    if as_json:
        rows = [
            {
                "quantity": row.quantity, "unit": row.unit, "published": row.published,
                "ours": row.ours, "interval": row.interval, "agrees": agreement(row),
                "runs": row.trials, "comparable": row.comparable,
            }
            for rows in result.comparisons for row in rows
        ]  # fmt: skip
        files = {"report": str(result.report), "table": str(result.table)}
        typer.echo(json.dumps({"complete": result.complete, "rows": rows} | files))
    else:
        typer.echo(f"{result.summary()}\n\nreport: {result.report}")
    if not result.complete:
        typer.echo("interrupted: the same command goes on", err=True)
        raise typer.Exit(130)
    if not all(result.comparisons):
        typer.echo("error: an experiment has no record, because all its trials failed", err=True)
        raise typer.Exit(1)


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"></head>
<body>{figure}</body></html>
"""

study = typer.Typer(
    help="Run an experiment of your own many times, and look at what came of it.",
    epilog="Example: reluscape study run mine:experiment runs.sqlite --trials 100 --set width=4,8",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@study.command(
    epilog="Example: reluscape study run mine:experiment runs.sqlite --trials 100 --set width=4,8"
)
def run(
    ctx: typer.Context,
    function: Annotated[
        str, typer.Argument(help="module:function, f(parameters, seed) -> record.")
    ],
    file: File,
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=V[,V...]", help="Parameter values; several span a grid."
        ),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials per combination of parameters.")] = 1,
    seed: Seed = 0,
    jobs: Jobs = -1,
    dask: Dask = None,
    fork: Fork = False,
    retry: Retry = False,
    as_json: Json = False,
) -> None:
    """Run what the study lacks; the same command goes on after any interruption."""
    from reluscape.progress import shown
    from reluscape.study import Study
    from reluscape.study.code import load_function

    points = _parameters(values or [])
    _make_folder_importable()
    ctx.obj.append(f"finished trials in {file}; the same command goes on")
    with shown() as progress, _stdout_for_json(as_json):
        standing = Study(file).run(
            load_function(function),
            points,
            trials=trials,
            seed=seed,
            jobs=jobs,
            dask=dask,
            fork=fork,
            retry=retry,
            progress=progress,
        )
    _end(standing, as_json)


@study.command(epilog="Example: reluscape study resume runs.sqlite --jobs 2")
def resume(
    ctx: typer.Context,
    file: File,
    jobs: Jobs = -1,
    dask: Dask = None,
    fork: Fork = False,
    retry: Retry = False,
    as_json: Json = False,
) -> None:
    """Go on with a study as it was planned."""
    from reluscape.progress import shown
    from reluscape.study import Study

    _make_folder_importable()
    ctx.obj.append(f"finished trials in {file}; the same command goes on")
    with shown() as progress, _stdout_for_json(as_json):
        standing = Study(file).resume(
            jobs=jobs, dask=dask, fork=fork, retry=retry, progress=progress
        )
    _end(standing, as_json)


@study.command(epilog="Example: reluscape study show runs.sqlite")
def show(file: File, as_json: Json = False) -> None:
    """Say how many trials are done, what failed and why, and the mean of every number."""
    from reluscape.study import Study

    _tell(Study(file).standing(), as_json)


@study.command(epilog="Example: reluscape study export runs.sqlite --parquet runs.parquet")
def export(
    file: File,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write this .csv file.")] = None,
    parquet: Annotated[
        Path | None, typer.Option("--parquet", help="Write this .parquet file.")
    ] = None,
) -> None:
    """Write all trials as a table: parameters, seed, status and record."""
    from reluscape.study import Study

    if csv is None and parquet is None:
        raise InputError("expected a file to write: give --csv FILE.csv or --parquet FILE.parquet")
    for path, suffix in ((csv, ".csv"), (parquet, ".parquet")):
        if path is not None:
            if path.suffix != suffix:
                raise InputError(f"expected a file name ending in {suffix}; received {path}")
            typer.echo(f"written: {Study(file).export(path)}")


@study.command(
    epilog="Example: reluscape study plot runs.sqlite --y loss --x width --out loss.html"
)
def plot(
    file: File,
    y: Annotated[
        str | None, typer.Option(help="Number of the records; default: the first.")
    ] = None,
    x: Annotated[
        str | None, typer.Option(help="Parameter; default: the first that varies.")
    ] = None,
    out: Annotated[Path, typer.Option(help="HTML file, readable offline.")] = Path("study.html"),
) -> None:
    """Draw a number against a parameter with its 95 % interval, or as a histogram."""
    from reluscape.results import write_then_rename
    from reluscape.study import Study

    figure = Study(file).plot(y, x).to_html(include_plotlyjs=True, full_html=False)
    page = _PAGE.format(title=html.escape(file.name), figure=figure)
    write_then_rename(out, lambda path: path.write_text(page, encoding="utf-8"))
    typer.echo(f"written: {out}")


@contextmanager
def _stdout_for_json(as_json: bool) -> Iterator[None]:
    """Send what experiments print to stderr, in their processes too, if stdout is to hold only JSON."""
    if not as_json:
        yield
        return
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def _make_folder_importable() -> None:
    """Let experiments lie in the current folder; worker processes take over the path."""
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _parameters(texts: list[str]) -> dict[str, list[Any]]:
    """NAME=V,V as names and values; each name once."""
    found = dict(map(_parameter, texts))
    if len(found) < len(texts):
        raise InputError("expected --set once for every name; give several values as NAME=V,V")
    return found


def _parameter(text: str) -> tuple[str, list[Any]]:
    """NAME=V,V as a name and values: JSON (numbers, true, null, "texts", [lists]), or plain texts."""
    name, equals, values = text.partition("=")
    try:
        found: list[Any] = json.loads(f"[{values}]")
    except ValueError:
        found = [_value(value) for value in values.split(",")]
    valid = equals and re.fullmatch(r"[A-Za-z_]\w*", name) and found and "" not in found
    if not valid or any(isinstance(v, str) and v[:1] in "[{" for v in found):
        raise InputError(
            f"expected --set NAME=VALUE or NAME=VALUE,VALUE (a list as NAME=[1,2]); received {text!r}"
        )
    return name, found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _end(standing: Standing, as_json: bool) -> None:
    """Tell of a run, and exit with status 1 where it gave no record at all."""
    _tell(standing, as_json)
    if not standing.done:
        typer.echo(f"error: none of the {standing.planned} trials gave a record", err=True)
        raise typer.Exit(1)


def _tell(standing: Standing, as_json: bool) -> None:
    """Where a study stands, as text or JSON."""
    if not as_json:
        typer.echo(standing.summary())
        return
    names = (
        "function",
        "seed",
        "planned",
        "done",
        "failed",
        "lost",
        "missing",
        "seconds",
        "complete",
    )
    columns = ("count", "mean", "sd", "min", "max")
    record = {name: getattr(standing, name) for name in names}
    record["statistics"] = {
        name: dict(zip(columns, values, strict=True)) for name, *values in standing.statistics
    }
    typer.echo(json.dumps({"file": str(standing.path), **record}))
