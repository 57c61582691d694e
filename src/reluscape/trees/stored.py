"""Chunks of a merge tree as trials of a study: over processes or a cluster, resumable."""

from __future__ import annotations

import math
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np

from reluscape.errors import AnalysisError, DamagedStudyError, InputError, OtherStudyError
from reluscape.progress import Progress
from reluscape.study.code import name_of
from reluscape.study.store import Store, files_of
from reluscape.study.study import Study
from reluscape.trees import values
from reluscape.trees.layer import Layer
from reluscape.trees.problem import Problem
from reluscape.trees.proofs import Proofs
from reluscape.trees.pruning import pruned
from reluscape.trees.stubborn import Stubborn
from reluscape.trees.sweep import Table
from reluscape.trees.threads import Threads
from reluscape.trees.values import (
    Chunk,
    Solved,
    Values,
    chunks,
    gathered,
    room_for,
    solve_chunk,
)


def stored_values(
    problem: Problem,
    table: Table,
    path: Path,
    threads: Threads,
    *,
    below: float = math.inf,
    dask: str | None = None,
    progress: Progress | None = None,
) -> Values:
    """The least loss of all cells and facets; what the study at `path` lacks is solved.

    As many processes solve them as there are threads. Chunks that failed or whose arrays are gone are
    solved again.

    Raises:
        InputError: As `Study.run`; the file is of another layer, data or `below`, or damaged.
        AnalysisError: A chunk failed, as where its process was killed again and again.
    """
    still = replace(problem.given, theta=np.zeros_like(problem.given.theta))  # it does not matter
    layer, study = packed(still), Study(path)
    told = {"layer": layer} | ({"below": below} if math.isfinite(below) else {})
    work = [told | chunk._asdict() for chunk in chunks(problem, values.CHUNK)]
    with _explained(path):
        standing = study.run(
            solve_trial, work, jobs=threads.count, dask=dask, retry=True, progress=progress
        )
        if standing.done < len(work):
            raise AnalysisError(
                f"{len(work) - standing.done} of {len(work)} chunks of the tree failed:"
                f" see `reluscape study show {path}`"
            )
        return gathered(problem, table, _read(study), room_for(problem), threads)


def remove_chunks(path: Path) -> None:
    """Remove a file of a tree's chunks, with all that belongs to it.

    What keeps something else, cannot be read or is in use stays as it is.
    """
    with suppress(InputError):
        with Store(path, writable=False) as store:
            plan = store.plan()
        if plan is None or plan.function != name_of(solve_trial):
            return
        with Store(path, writable=True):  # no other process has it
            pass
        for file in files_of(path):  # the arrays behind the file that refers to them
            if file.is_dir():
                rmtree(file)
            else:
                file.unlink(missing_ok=True)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """A store that keeps other chunks, or is damaged, as one line that says how to go on."""
    try:
        yield
    except OtherStudyError:
        why = "another tree: of another layer, other data or another `below`, or begun by another version"
        raise InputError(f"{path} keeps {why}. {_remove(path)}") from None  # that shows the layer
    except DamagedStudyError as error:
        raise InputError(
            f"the chunks of the tree cannot be read: {path} is damaged. {_remove(path)}"
        ) from error


def _remove(path: Path) -> str:
    """How to begin again."""
    names = ", ".join(file.name for file in files_of(path))
    folder = path.resolve().parent
    return f"To begin again remove {names} from {folder}, or give another `store` (--out)"


def solve_trial(parameters: dict[str, Any], seed: int) -> dict[str, Any]:
    """One chunk; nothing is drawn at random."""
    problem, table, stubborn = _problem(parameters["layer"], parameters.get("below", math.inf))
    chunk = Chunk(parameters["kind"], parameters["start"], parameters["stop"])
    found = solve_chunk(problem, table, chunk, stubborn=stubborn)
    proofs = {"bases": found.proofs.bases, "signs": found.proofs.signs}
    return {"sums": found.sums, "failed": found.failed} | proofs


def packed(layer: Layer) -> str:
    """A layer as text, so that a trial needs no file."""
    buffer = BytesIO()
    parts = {part.name: np.asarray(getattr(layer, part.name)) for part in fields(Layer)}
    np.savez(buffer, allow_pickle=False, **parts)
    return b64encode(buffer.getvalue()).decode()


def unpacked(text: str) -> Layer:
    """The inverse of `packed`."""
    with np.load(BytesIO(b64decode(text)), allow_pickle=False) as file:
        return Layer(
            **{name: file[name] if file[name].ndim else file[name].item() for name in file.files}
        )


@lru_cache(maxsize=1)
def _problem(layer: str, below: float) -> tuple[Problem, Table, Stubborn]:
    """The problem of a process's trials, which are all of one layer."""
    problem = Problem.of(unpacked(layer), None)
    table = pruned(problem, below).table
    return problem, table, Stubborn(problem, table)


def _read(study: Study) -> Iterator[tuple[Chunk, Solved]]:
    """All chunks of a study."""
    failed = study.records().set_index(["kind", "start"])["failed"]
    arrays = zip(*map(study.arrays, ("sums", "bases", "signs")), strict=True)
    for (parameters, sums), (_, bases), (_, signs) in arrays:
        chunk = Chunk(parameters["kind"], parameters["start"], parameters["stop"])
        yield chunk, Solved(sums, Proofs(bases, signs), int(failed.loc[(chunk.kind, chunk.start)]))
