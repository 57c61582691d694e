"""The order in which cells join, as their minima and those of their facets have it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reluscape.trees.basins import (
    FEW,
    between,
    count_between,
    drop_inner,
    find_lowest,
    find_lowest_between,
    leap,
    link,
    link_basins,
    settle,
    sort_ties,
    spread,
)
from reluscape.trees.kruskal import join
from reluscape.trees.problem import Problem
from reluscape.trees.threads import Threads
from reluscape.trees.values import Values

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Bools = NDArray[np.bool_]

#: Most facets that are sorted at once if that can be, and into how many parts each thread cuts its share.
SORTED, PARTS = 20_000, 4


class Joined(NamedTuple):
    """How basins join.

    Attributes:
        joins: Facets at which cells meet, by ascending level.
        ended: Minima that end: cell, facet, cell of the lower minimum (minima, 3).
        roots: Cells of the minima that do not (roots,).
    """

    joins: Indices
    ended: Indices
    roots: Indices


class Between(NamedTuple):
    """Facets between two basins.

    Attributes:
        edges: Their numbers (facets,).
        levels: Their levels (facets,).
        ends: The basins on their sides (facets, 2).
    """

    edges: Indices
    levels: Floats
    ends: NDArray[Any]

    @classmethod
    def none(cls, problem: Problem) -> Between:
        """None yet."""
        return cls(np.empty(0, np.int64), np.empty(0), np.empty((0, 2), _kind(problem)))


def join_cells(
    problem: Problem, values: Values, tolerance: float, below: float, threads: Threads
) -> Joined:
    """Kruskal's algorithm over the facets.

    The result is the same as that of sorting all facets, ties in the order of their numbers included.

    Args:
        problem: The layer.
        values: Least losses.
        tolerance: Minima that end within this of their loss are none.
        below: Facets above this loss join nothing.
        threads: What goes through cells and facets.
    """
    highest, marks = problem.layer.limit(below), np.zeros(problem.num_facets, dtype=np.bool_)
    ended, roots = _joined(problem, values, tolerance, highest, marks, threads)
    joins = ascending(np.flatnonzero(marks), values.facets, threads)
    return Joined(joins, ended, roots[values.cells[roots] <= highest])


def _kind(problem: Problem) -> type[np.integer[Any]]:
    """What holds numbers of cells and facets: joining waits for memory more than for anything else."""
    return np.int32 if problem.num_facets < 2**31 else np.int64


def _joined(
    problem: Problem, values: Values, tolerance: float, highest: float, marks: Bools,
    threads: Threads,
) -> tuple[Indices, Indices]:  # fmt: skip
    """Minima that end, and cells of those that do not; the facets of the tree are marked."""
    basin, bottom = _basins(problem, values, tolerance, highest, marks, threads)
    parent, left = np.arange(len(bottom)), _between(problem, values, highest, basin, threads)
    links, left = _merged(left, values, tolerance, bottom, parent, threads)
    joins, _ = _merged(left, values, np.inf, bottom.copy(), parent.copy(), threads)
    marks[links] = marks[joins] = True
    ended = np.empty((len(joins), 3), dtype=np.int64)
    lost = join(
        ascending(np.sort(joins), values.facets), values.cells, values.facets, problem.shape,
        problem.pairs, tolerance, basin, parent, bottom, ended,
    )  # fmt: skip
    return ended[:lost], bottom[parent == np.arange(len(parent))]


def _basins(
    problem: Problem, values: Values, tolerance: float, highest: float, marks: Bools,
    threads: Threads,
) -> tuple[Indices, Indices]:  # fmt: skip
    """The basin that each cell is linked into, and the lowest cell of each basin."""
    cells, shape, pairs = problem.num_cells, problem.shape, problem.pairs
    least = np.empty(cells)
    lowest, basin, further = (np.empty(cells, dtype=_kind(problem)) for _ in range(3))
    if shape[0]:
        threads.over(
            shape[1], find_lowest, values.facets, highest, shape, pairs, least, lowest, basin
        )
    else:
        lowest[:] = -1
    threads.over(cells, link, lowest, least, values.cells, tolerance, basin)
    while any(threads.over(cells, leap, basin, further)):
        basin, further = further, basin
    del least
    bottom = np.flatnonzero(basin == np.arange(cells))
    further[bottom] = np.arange(len(bottom))
    settle(basin, further, values.cells, lowest, marks, bottom)
    return basin, bottom


def _between(
    problem: Problem, values: Values, highest: float, basin: Indices, threads: Threads
) -> Between:
    """Facets between two basins."""
    rows, found = problem.shape[0] * problem.shape[2], Between.none(problem)
    told = values.facets, highest, problem.shape, problem.pairs, basin
    starts = np.zeros(rows + 1, dtype=np.int64)
    threads.over(rows, between, *told, starts, *found)
    starts = np.cumsum(starts)
    found = Between(*(np.empty((starts[-1], *own.shape[1:]), own.dtype) for own in found))
    if starts[-1]:
        threads.over(rows, between, *told, starts, *found)
    return found


def _merged(
    between: Between, values: Values, tolerance: float, bottom: Indices, parent: Indices,
    threads: Threads,
) -> tuple[Indices, Between]:  # fmt: skip
    """Facets of links between basins, and what is left between the basins that these make."""
    edges, levels, ends = between
    live, found = np.flatnonzero(parent == np.arange(len(parent))), [np.empty(0, np.int64)]
    met, lowest = np.empty(len(live), np.int64), np.full((threads.count, len(parent)), -1)
    least = np.empty(lowest.shape)
    parts, around = threads.cut(len(edges)), list(zip(lowest, least, strict=True))
    both = zip(parts, around, strict=True)
    threads.each(find_lowest_between, [(*part, levels, ends, *own) for part, own in both])
    while links := link_basins(
        lowest, least, edges, ends, values.cells, tolerance, bottom, parent, live, met
    ):
        live = live[: len(live) - links]
        found.append(met[:links].copy())
        told = [(*part, *between, parent, *own) for part, own in zip(parts, around, strict=True)]
        left = threads.each(drop_inner, told)
        parts = [(start, start + own) for (start, _), own in zip(parts, left, strict=True)]
    kept = (np.concatenate([own[slice(*part)] for part in parts]) for own in between)
    return np.concatenate(found), Between(*kept)


def ascending(edges: Indices, levels: Floats, threads: Threads | None = None) -> Indices:
    """Facets by ascending level, equal ones by their numbers.

    Args:
        edges: Facets, by their numbers.
        levels: Minimum of each facet (facets,).
        threads: What sorts; by default this one, and all at once.
    """
    known = levels[edges]
    if len(edges) <= SORTED or threads is None:
        return np.asarray(edges[_order(known)])
    parts = min(PARTS * threads.count, len(edges) // SORTED + 1)
    cuts = np.quantile(known[:: len(known) // SORTED], np.arange(1, parts) / parts)
    slices = threads.cut(len(edges))
    counts = np.zeros((len(slices), parts), dtype=np.int64)
    told = list(zip(slices, counts, strict=True))
    threads.each(count_between, [(*part, known, cuts, own) for part, own in told])
    ends = np.cumsum(counts.T).reshape(counts.T.shape)  # part by part, in each as the slices come
    into, keys = np.empty_like(edges), np.empty_like(known)
    told = list(zip(slices, (ends - counts.T).T.copy(), strict=True))
    threads.each(spread, [(*part, edges, known, cuts, own, into, keys) for part, own in told])

    def sort(start: int, stop: int) -> None:
        into[start:stop] = into[start:stop][_order(keys[start:stop])]

    threads.each(sort, list(pairwise([0, *ends[:, -1].tolist()])))
    return into


def _order(keys: Floats) -> Indices:
    """What sorts keys and keeps equal ones in order, which NumPy's fastest sort does not."""
    order = np.argsort(keys)
    runs = np.empty((len(keys) // FEW, 2), dtype=np.int64)
    for start, stop in runs[: sort_ties(keys, order, runs)].tolist():
        order[start:stop].sort()
    return np.asarray(order)
