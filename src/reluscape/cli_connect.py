"""The command `connect`."""

from __future__ import annotations

import json
import math
import os
import shlex
from dataclasses import replace
from enum import StrEnum
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from reluscape import __version__
from reluscape.cli_options import (
    WEIGHTS,
    DataName,
    Decay,
    Json,
    Loss,
    Model,
    Standardise,
    Target,
    as_option,
    data_options,
)
from reluscape.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reluscape.connection_files import ConnectionFolder
    from reluscape.progress import Progress
    from reluscape.report.joined import Joined
    from reluscape.report.tree import Grown
    from reluscape.strings.connection import Connection
    from reluscape.strings.keeping import Unfinished
    from reluscape.strings.models import Models
    from reluscape.strings.spanning import SpanningTree

__all__ = ["connect"]


class Method(StrEnum):
    """Ways to lay a string; a test keeps them equal to the library's."""

    greedy = "greedy"
    constrained = "constrained"
    bezier = "bezier"
    band = "band"


class Metric(StrEnum):
    """What is held below the level."""

    loss = "loss"
    error_rate = "error_rate"


LEVEL = (
    "What shall not be exceeded on the path.  [default: the worst model's value plus a tenth of what the"
    " straight line rises above it, at least 1.1 times the worst model's]"
)


def connect(
    ctx: typer.Context,
    files: Annotated[
        list[Path], typer.Argument(metavar="A B...", help=f"Two models, or more. {WEIGHTS}")
    ],
    data: DataName = None,
    model: Model = None,
    target: Target = None,
    standardise: Standardise = False,
    loss: Loss = None,
    weight_decay: Decay = 0.0,
    level: Annotated[float | None, typer.Option(help=LEVEL)] = None,
    metric: Annotated[Metric, typer.Option(help="What is held below the level.")] = Metric.loss,
    method: Annotated[Method, typer.Option(help="How the string is laid.")] = Method.greedy,
    match: Annotated[
        bool,
        typer.Option("--match/--no-match", help="First permute B's hidden units to fit A's."),
    ] = False,
    max_depth: Annotated[
        int, typer.Option(min=1, help="How often a segment may be divided, one time after another.")
    ] = 10,
    max_steps: Annotated[
        int,
        typer.Option(
            min=1,
            help="Training steps of one model of the string; by other methods than greedy of all of it.",
        ),
    ] = 1000,
    seed: Annotated[int, typer.Option(min=0, max=2**31, help="Seed of every random choice.")] = 0,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on from the strings in OUT, also of a killed search. Of two models: at its level, if"
            " none is given.",
        ),
    ] = False,
    out: Annotated[
        Path, typer.Option(help="Folder for the page, the path, and each of its models as weights.")
    ] = Path("reluscape-connection"),
    as_json: Json = False,
) -> None:
    """Look for a path between two trained models along which the loss stays below a level.

    The path is a string of models joined by straight segments; the maximum of each segment is proved
    where the network can be read. OUT holds connection.nc, which `reluscape verify` checks, report.html,
    and the models of the string, beads/000.safetensors and so on. Not to find a path is an answer, too,
    with status 0: it does not say that there is none. The first Ctrl-C keeps the string as it is, and a
    search that is killed leaves OUT/unfinished.nc: --resume goes on from both, by any method but bezier,
    and begins anew where nothing is left.

    With more than two models OUT has a folder for each pair, such as 000-001, and the tree of the lowest
    passes between them: report.html and tree.nc, which `reluscape verify` checks with all the models.
    With --resume, pairs whose search has ended are taken over.

        reluscape connect a.safetensors b.safetensors --data digits --level 0.1 --out c/
    """
    _check(files, data, level, metric, method, resume)
    assert data is not None
    from reluscape.connection_files import ConnectionFolder, check_tree
    from reluscape.data import load_data
    from reluscape.joining import read_models
    from reluscape.progress import shown, stoppable
    from reluscape.resuming import before_between
    from reluscape.strings.connecting import STOPPED
    from reluscape.strings.training import Schedule

    folder = ConnectionFolder(out)
    pairs = [folder] if len(files) == 2 else [one for _, _, one in _folders(len(files), out)]
    for one in pairs:
        one.check(files)
    if len(files) > 2:
        check_tree(out)
    loaded = load_data(data, target=target, standardise=standardise)
    named = loss and loss.value
    models = read_models(files, model, loaded, named, weight_decay, metric.value, level, match)
    before = None
    if resume and len(files) == 2:
        before = before_between(folder, models, 0, 1, match)
        _check_before(before, folder)
    if before is not None and level is None:
        _check_kind(before, models)
        models = replace(models, level=before.level, why="that of the string gone on from")
    if not resume:
        for one in pairs:
            one.forget()
    search: dict[str, Any] = {
        "method": method.value,
        "match_units": match,
        "max_depth": max_depth,
        "seed": seed,
    }
    schedule = Schedule(max_steps=max_steps)
    about = _About(
        subject=[*data_options(data, target, standardise), *as_option("--model", model)],
        search=["--loss", models.landscape.loss_name, "--weight-decay", repr(weight_decay),
                "--metric", metric.value, "--method", method.value, *["--match"] * match,
                "--max-depth", str(max_depth), "--max-steps", str(max_steps), "--seed", str(seed)],
        files=list(map(str, files)),
        models=models,
    )  # fmt: skip
    with shown() as plain, stoppable(plain, _waiting) as progress:
        if len(files) > 2:
            _tree(ctx, about, out, search | {"schedule": schedule}, progress, as_json, resume)
            return
        search |= {"start": before, "schedule": schedule, "keep": folder.unfinished}
        found = models.join(0, 1, progress, **search)
        cells = models.cells(found, progress)
        written = folder.write(found, models.landscape, about.page(0, 1, cells, folder.path))
        ctx.obj.extend(map(str, written))
    if as_json:
        typer.echo(json.dumps(_record(found, cells, models) | {"files": ctx.obj}))
    else:
        typer.echo("\n".join(_told(found, cells, models, out)))
    if STOPPED in found.tried:
        _interrupted(out, method.value)


def _interrupted(out: Path, method: str) -> NoReturn:
    """Say how to go on."""
    command = "another --method" if method == "bezier" else "the same command"
    typer.echo(f"interrupted: {command} with --resume goes on from {out}", err=True)
    raise typer.Exit(130)


def _check(
    files: list[Path],
    data: str | None,
    level: float | None,
    metric: Metric,
    method: Method,
    resume: bool,
) -> None:
    """Refuse what cannot be meant."""
    if data is None:
        raise InputError("models need the data that their loss is of: give --data")
    if level is not None and not math.isfinite(level):
        raise InputError(f"expected a finite --level; received {level}")
    if len(files) < 2:
        raise InputError(f"expected two weights files; received {len(files)}: name both models")
    if len(files) > 2 and metric is not Metric.loss:
        raise InputError(
            f"--metric is for two models; received {len(files)}: leave it out, or connect two at a time"
        )
    if resume and method is Method.bezier:
        raise InputError(
            "--resume goes on by any method but bezier, which lays all of a curve at once: give another"
            " --method, or leave --resume out"
        )


def _check_before(before: Connection | Unfinished | None, folder: ConnectionFolder) -> None:
    """Say that there is nothing to go on from; refuse to lose what is between other models."""
    if before is not None:
        return
    if folder.before() is not None:
        raise InputError(
            f"expected a string between these models in {folder.path}; received a connection between"
            " other models, or with other --match: leave --resume out"
        )
    typer.echo(f"nothing to go on from in {folder.path}: a new search", err=True)


def _check_kind(before: Connection | Unfinished, models: Models) -> None:
    """Refuse to take over a level that was one of something else."""
    landscape = models.landscape
    now = (models.kind, landscape.loss_name, landscape.weight_decay)
    then = (before.kind, before.objective, before.weight_decay)
    if now != then:
        names = ("metric", "loss", "weight decay")
        said = [
            ", ".join(f"{n} {v}" for n, v in zip(names, one, strict=True)) for one in (then, now)
        ]
        raise InputError(
            f"the string gone on from has its level for {said[0]}; received {said[1]}: give --level"
        )


def _folders(count: int, out: Path) -> Iterator[tuple[int, int, ConnectionFolder]]:
    """Each pair of more than two models, and its folder."""
    from reluscape.connection_files import ConnectionFolder
    from reluscape.report.tree import folder_of

    for a, b in combinations(range(count), 2):
        yield a, b, ConnectionFolder(out / folder_of(a, b))


def _waiting() -> None:  # in a signal handler: no buffers
    os.write(2, b"stopping with the string as it is; Ctrl-C again to stop at once\n")


class _About:
    """The options of a run as a page repeats them.

    Attributes:
        subject: Those of data and model.
        search: All others but the level and the folder.
        files: The weights.
        models: What they name.
    """

    def __init__(
        self, subject: list[str], search: list[str], files: list[str], models: Models
    ) -> None:
        self.subject, self.search, self.files, self.models = subject, search, files, models

    def page(self, a: int, b: int, cells: int | None, folder: Path) -> Joined:
        """What the page on two of the models says besides their path."""
        from reluscape.report.joined import FILE, Joined

        models = self.models
        check, again = self._commands((a, b), folder, FILE)
        return Joined(
            names=(models.names[a], models.names[b]),
            data=Path(self.subject[1]).name,
            num_samples=models.landscape.num_samples,
            why=models.why,
            cells=cells,
            check=check,
            again=again,
            version=__version__,
        )

    def tree_page(self, cells: list[int | None], folder: Path) -> Grown:
        """What the page on all of the models says besides their tree."""
        from reluscape.report.tree import FILE, Grown

        check, again = self._commands(range(len(self.files)), folder, FILE)
        return Grown(
            names=self.models.names,
            data=Path(self.subject[1]).name,
            num_samples=self.models.landscape.num_samples,
            why=self.models.why,
            cells=tuple(cells),
            check=check,
            again=again,
            version=__version__,
        )

    def _commands(self, places: Sequence[int], folder: Path, file: str) -> tuple[str, str]:
        """How to check what is between some of the models, and how to find it again."""
        from reluscape.results import options_from

        subject = options_from(self.subject, folder)
        files = options_from([self.files[k] for k in places], folder)
        weights = [part for one in files for part in ("--weights", one)]
        level = ["--level", repr(self.models.level)]
        check = _line("verify", file, *weights, *subject)
        return check, _line("connect", *files, *subject, *self.search, *level, "--out", "again")


def _line(*parts: str) -> str:
    return shlex.join(["reluscape", *parts])


def _told(found: Connection, cells: int | None, models: Models, out: Path) -> list[str]:
    """What was found, and where it is."""
    lines = [f"{models.names[0]} and {models.names[1]}: {found.summary()}"]
    if cells is not None:
        lines.append(f"  {cells} activation cells on the way")
    lines.append(f"  the level: {models.why}")
    lines.append(f"  written: {out / 'connection.nc'}, report.html and {found.num_beads} beads")
    return lines


def _record(found: Connection, cells: int | None, models: Models) -> dict[str, Any]:
    """The path as one JSON object; null for what is not known."""
    plain = (
        "status", "tier", "level", "maximum", "barrier", "linear_barrier", "straight_lower",
        "straight_upper", "straight_tier", "unmatched_lower", "normalized_length",
        "normalized_length_weights", "depth", "kind", "objective", "weight_decay", "method", "matched",
        "gradients", "losses", "seconds", "unbatched", "seed", "num_beads",
    )  # fmt: skip
    told = {name: getattr(found, name) for name in plain}
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in told.items()
    }
    values = [float(found.values[k]) for k in (0, -1)]
    more = {"values": values, "cells": cells, "tried": list(found.tried), "level_is": models.why}
    return finite | more


# ---- more than two models ------------------------------------------------------------------------


def _tree(
    ctx: typer.Context,
    about: _About,
    out: Path,
    search: dict[str, Any],
    progress: Progress,
    as_json: bool,
    resume: bool,
) -> None:
    """A string for each pair, and the tree of the lowest of them."""
    from reluscape.connection_files import write_tree
    from reluscape.resuming import before_between, taken_over
    from reluscape.strings.connecting import STOPPED

    models, found, records, counted = about.models, {}, [], []
    for a, b, folder in _folders(len(models.modules), out):
        before = before_between(folder, models, a, b, search["match_units"]) if resume else None
        one = taken_over(before, models, a, b, search)
        if one is None:
            one = models.join(a, b, progress, start=before, keep=folder.unfinished, **search)
        cells = models.cells(one, progress)
        counted.append(cells)
        ctx.obj.extend(
            map(str, folder.write(one, models.landscape, about.page(a, b, cells, folder.path)))
        )
        found[a, b] = one
        names = [models.names[a], models.names[b]]
        records.append({"models": names, "folder": str(folder.path)} | _record(one, cells, models))
    tree = models.tree(found)
    ctx.obj.extend(map(str, write_tree(tree, about.tree_page(counted, out), out)))
    if as_json:
        edges = [[models.names[k] for k in edge] for edge in tree.edges.tolist()]
        told = {"level": models.level, "tree": edges, "heights": tree.heights.tolist()}
        typer.echo(json.dumps(told | {"pairs": records, "files": ctx.obj}))
    else:
        typer.echo(
            "\n".join(
                [
                    *_table(found, tree, models),
                    "",
                    f"  written: {out / 'report.html'}, tree.nc and a folder for each pair",
                ]
            )
        )
    if any(STOPPED in one.tried for one in found.values()):
        _interrupted(out, search["method"])


def _table(
    found: dict[tuple[int, int], Connection], tree: SpanningTree, models: Models
) -> list[str]:
    """A row for each pair; those of the tree are marked."""
    from reluscape.report.wording import aligned

    edges = set(map(tuple, tree.edges.tolist()))
    rows = [("models", "", "found", "highest", "how", "straight line", "beads", "in the tree")]
    for (a, b), one in found.items():
        rows.append(
            (models.names[a], models.names[b], one.status, f"{one.highest:.6g}", one.tier,
             f"{one.straight_lower:.6g}", str(one.num_beads), "yes" if (a, b) in edges else "")
        )  # fmt: skip
    lines = [f"level {models.level:.6g}: {models.why}", aligned(rows)]
    if any(one.status == "not_found" for one in found.values()):
        lines.append("  not_found does not show that there is no path")
    return lines
