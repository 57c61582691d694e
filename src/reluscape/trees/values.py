"""The least loss of every cell and of every facet between two cells."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reluscape.progress import Progress
from reluscape.trees.problem import Problem, Proofs
from reluscape.trees.stubborn import Stubborn
from reluscape.trees.sweep import (
    Scratch,
    Table,
    copy_cells,
    copy_facets,
    solve_cells,
    solve_facets,
)

Floats = NDArray[np.float64]

#: Cells or facets that are gone through at once, and into how many parts threads cut them at least.
CHUNK, PARTS = 100_000, 32


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
        proofs: What proves them, one row for each that was solved (solved, words).
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
        cell_proofs: What proves those that were solved, ascending, as in `MergeTree` (solved, words).
        facet_proofs: The same of the facets.
        failed: Those that neither float64 nor rational arithmetic tells: their values are attained, and
            not shown to be least.
    """

    cells: Floats
    facets: Floats
    cell_proofs: Proofs
    facet_proofs: Proofs
    failed: int

    @property
    def solved(self) -> int:
        """Problems that were solved; the rest is the same by exchange of units."""
        return len(self.cell_proofs) + len(self.facet_proofs)


def chunks(problem: Problem, size: int) -> Iterator[Chunk]:
    """All cells and all facets, so many at once."""
    for kind, count in (("cells", problem.num_cells), ("facets", problem.num_facets)):
        for start in range(0, count, size):
            yield Chunk(kind, start, min(start + size, count))


def solve_chunk(problem: Problem, table: Table, chunk: Chunk) -> Solved:
    """The least sums of a chunk."""
    count = chunk.stop - chunk.start
    sums = np.empty(count)
    proofs = np.empty((count, problem.proof_words), dtype=np.uint64)
    sweep = solve_cells if chunk.kind == "cells" else solve_facets
    sweep(table, Scratch.of(problem), chunk.start, chunk.stop, sums, proofs)
    failed = np.flatnonzero(sums < 0)
    if len(failed):
        again = Stubborn(problem, table)
        for place in failed.tolist():
            sums[place], proofs[place] = again.solve(chunk.kind, chunk.start + place)
    kept = proofs[np.isfinite(sums)].astype(problem.proof_kind)
    return Solved(sums, kept, again.failed if len(failed) else 0)


def least_values(
    problem: Problem, table: Table, *, jobs: int = 1, progress: Progress | None = None
) -> Values:
    """The least loss of all cells and facets, in so many threads."""
    size = min(CHUNK, (problem.num_cells + problem.num_facets) // PARTS + 1)
    work = list(chunks(problem, size))
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
    proofs: dict[str, dict[int, Proofs]] = {"cells": {}, "facets": {}}
    whole, done, failed = problem.num_cells + problem.num_facets, 0, 0
    for chunk, part in found:
        sums[chunk.kind][chunk.start : chunk.stop] = part.sums
        proofs[chunk.kind][chunk.start] = part.proofs
        failed, done = failed + part.failed, done + len(part.sums)
        if progress is not None:
            progress(chunk.kind, done / whole)
    scratch = Scratch.of(problem)
    copy_cells(table, scratch, sums["cells"])
    copy_facets(table, scratch, sums["facets"])
    for values in sums.values():
        values *= problem.layer.scale
    stacked = {kind: _stacked(problem, parts) for kind, parts in proofs.items()}
    return Values(sums["cells"], sums["facets"], stacked["cells"], stacked["facets"], failed)


def _stacked(problem: Problem, parts: dict[int, Proofs]) -> Proofs:
    """Proofs of all chunks in the order of what they are of."""
    if not parts:
        return np.empty((0, problem.proof_words), dtype=problem.proof_kind)
    return np.concatenate([parts[start] for start in sorted(parts)])
