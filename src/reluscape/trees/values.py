"""The least loss of every cell and of every facet between two cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reluscape.progress import Progress
from reluscape.trees.problem import Problem
from reluscape.trees.proofs import Proofs, Stack, Words
from reluscape.trees.stubborn import Stubborn
from reluscape.trees.sweep import (
    Scratch,
    Table,
    copy_cells,
    copy_facets,
    solve_cells,
    solve_facets,
)
from reluscape.trees.threads import Threads

Floats = NDArray[np.float64]

#: Cells or facets that are gone through at once by a process of a study, and at most by a thread.
CHUNK, SHARE = 100_000, 40_000
#: Into how many parts threads cut them at least.
PARTS = 32


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
        proofs: What proves those that were solved.
        failed: How many of these are not shown to be least.
    """

    sums: Floats
    proofs: Proofs
    failed: int


@dataclass(frozen=True, slots=True)
class Values:
    """The least losses.

    Attributes:
        cells: Of the cells, infinite where a bound showed it to be of no interest (cells,).
        facets: Of the facets, the same (facets,).
        cell_proofs: What proves those that were solved.
        facet_proofs: The same of the facets.
        failed: Those that neither float64 nor rational arithmetic tells: their values are attained, and
            not shown to be least. And `Problem.doubts`.
    """

    cells: Floats
    facets: Floats
    cell_proofs: Proofs
    facet_proofs: Proofs
    failed: int

    @property
    def solved(self) -> int:
        """Problems that were solved; the rest is the same by exchange of units."""
        return len(self.cell_proofs.bases) + len(self.facet_proofs.bases)


def chunks(problem: Problem, size: int) -> Iterator[Chunk]:
    """All cells and all facets, so many at once."""
    for kind, count in (("cells", problem.num_cells), ("facets", problem.num_facets)):
        for start in range(0, count, size):
            yield Chunk(kind, start, min(start + size, count))


def solve_chunk(
    problem: Problem,
    table: Table,
    chunk: Chunk,
    room: Floats | None = None,
    stubborn: Stubborn | None = None,
) -> Solved:
    """The least sums of a chunk, written to `room` if there is any (stop - start,).

    Where float64 does not decide on some, `stubborn` does, which keeps what it knows of rays: chunks of
    one problem should share it.
    """
    sums = np.empty(chunk.stop - chunk.start) if room is None else room
    words = swept(problem, table, chunk, sums)
    stubborn, failed = stubborn or Stubborn(problem, table), 0
    for place in np.flatnonzero(sums < 0).tolist():
        sums[place], words[place], told = stubborn.solve(chunk.kind, chunk.start + place)
        failed += not told
    return Solved(sums, Proofs.kept(problem, words[np.isfinite(sums)]), failed)


def swept(problem: Problem, table: Table, chunk: Chunk, sums: Floats) -> Words:
    """What float64 tells of a chunk: writes its least sums, -1 where it does not decide; their proofs."""
    words = np.empty((len(sums), problem.proof_words), dtype=np.uint64)
    sweep = solve_cells if chunk.kind == "cells" else solve_facets
    sweep(table, Scratch.of(problem), chunk.start, chunk.stop, sums, words)
    return words


def least_values(
    problem: Problem, table: Table, threads: Threads, progress: Progress | None = None
) -> Values:
    """The least loss of all cells and facets."""
    size = min(SHARE, (problem.num_cells + problem.num_facets) // PARTS + 1)
    work = list(chunks(problem, size))
    sums, stubborn = room_for(problem), Stubborn(problem, table)

    def solved(chunk: Chunk) -> Solved:
        room = sums[chunk.kind][chunk.start : chunk.stop]
        return solve_chunk(problem, table, chunk, room, stubborn)

    found = zip(work, threads.pool.map(solved, work), strict=True)
    return gathered(problem, table, found, sums, threads, progress)


def room_for(problem: Problem) -> dict[str, Floats]:
    """Arrays for the least sums of all cells and of all facets."""
    return {"cells": np.empty(problem.num_cells), "facets": np.empty(problem.num_facets)}


def gathered(
    problem: Problem,
    table: Table,
    found: Iterator[tuple[Chunk, Solved]],
    sums: dict[str, Floats],
    threads: Threads,
    progress: Progress | None = None,
) -> Values:
    """Chunks put together in `sums`, from where their own may be views."""
    proofs = {kind: Stack(problem, len(values)) for kind, values in sums.items()}
    whole, done, failed = problem.num_cells + problem.num_facets, 0, 0
    for chunk, part in found:
        if not np.may_share_memory(sums[chunk.kind], part.sums):
            sums[chunk.kind][chunk.start : chunk.stop] = part.sums
        proofs[chunk.kind].add(chunk.start, chunk.stop, part.proofs)
        failed, done = failed + part.failed, done + len(part.sums)
        if progress is not None:
            progress(chunk.kind, done / whole)
    if len(set(problem.units.groups.tolist())) < len(problem.units.groups):
        for copy, values in ((copy_cells, sums["cells"]), (copy_facets, sums["facets"])):
            threads.over(len(values), _copied, problem, table, copy, values)
    for values in sums.values():
        threads.over(len(values), _scale, values, problem.layer.scale)
    cells, facets = (proofs[kind].whole() for kind in ("cells", "facets"))
    return Values(sums["cells"], sums["facets"], cells, facets, failed)


def _scale(start: int, stop: int, values: Floats, factor: float) -> None:
    """Multiply some."""
    values[start:stop] *= factor


def _copied(
    start: int, stop: int, problem: Problem, table: Table, copy: Any, values: Floats
) -> None:
    """Fill in what is the same as another's, in room of its own."""
    copy(table, Scratch.of(problem), start, stop, values)
