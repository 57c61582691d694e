"""The least loss of every cell and of every facet between two cells."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reluscape.progress import Progress
from reluscape.trees.problem import Problem
from reluscape.trees.sweep import (
    Scratch,
    Table,
    copy_cells,
    copy_facets,
    solve_cells,
    solve_facets,
)

Floats = NDArray[np.float64]

#: Cells or facets that are gone through at once.
CHUNK = 100_000


class Chunk(NamedTuple):
    """Some of the cells or of the facets.

    Attributes:
        kind: "cells" or "facets".
        start: The first.
        stop: Behind the last.
    """

    kind: str
    start: int
    stop: int


class Solved(NamedTuple):
    """Least sums of a chunk.

    Attributes:
        sums: NaN for those that are the same as another's (stop - start,).
        solved: How many were solved.
        failed: How many of these rounding errors kept from being shown to be least.
    """

    sums: Floats
    solved: int
    failed: int


@dataclass(frozen=True, slots=True)
class Values:
    """The least losses.

    Attributes:
        cells: Of the cells, infinite where a bound showed it to be of no interest (cells,).
        facets: Of the facets, the same (facets,).
        solved: Problems that were solved; the rest is the same by exchange of units.
        failed: Those in which rounding errors kept the search from ending: their values are attained,
            and not shown to be least.
    """

    cells: Floats
    facets: Floats
    solved: int
    failed: int


def chunks(problem: Problem) -> Iterator[Chunk]:
    """All cells and all facets."""
    for kind, count in (("cells", problem.num_cells), ("facets", problem.num_facets)):
        for start in range(0, count, CHUNK):
            yield Chunk(kind, start, min(start + CHUNK, count))


def solve_chunk(problem: Problem, table: Table, chunk: Chunk) -> Solved:
    """The least sums of a chunk."""
    sums = np.empty(chunk.stop - chunk.start)
    sweep = solve_cells if chunk.kind == "cells" else solve_facets
    return Solved(sums, *sweep(table, Scratch.of(problem), chunk.start, chunk.stop, sums))


def least_values(
    problem: Problem, table: Table, *, jobs: int = 1, progress: Progress | None = None
) -> Values:
    """The least loss of all cells and facets, in so many threads."""
    work = list(chunks(problem))
    with ThreadPoolExecutor(jobs) as pool:
        try:
            found = pool.map(lambda chunk: solve_chunk(problem, table, chunk), work)
            return gathered(problem, table, zip(work, found, strict=True), progress)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def gathered(
    problem: Problem,
    table: Table,
    found: Iterator[tuple[Chunk, Solved]],
    progress: Progress | None = None,
) -> Values:
    """Chunks put together."""
    sums = {"cells": np.empty(problem.num_cells), "facets": np.empty(problem.num_facets)}
    whole, done, solved, failed = problem.num_cells + problem.num_facets, 0, 0, 0
    for chunk, part in found:
        sums[chunk.kind][chunk.start : chunk.stop] = part.sums
        solved, failed = solved + part.solved, failed + part.failed
        done += len(part.sums)
        if progress is not None:
            progress(chunk.kind, done / whole)
    scratch = Scratch.of(problem)
    copy_cells(table, scratch, sums["cells"])
    copy_facets(table, scratch, sums["facets"])
    for values in sums.values():
        values *= problem.layer.scale
    return Values(sums["cells"], sums["facets"], solved, failed)
