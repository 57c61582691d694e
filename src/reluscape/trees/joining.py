"""The order in which cells join, as their minima and those of their facets have it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reluscape.trees.basins import between, find_lowest, leap, link, link_basins, settle
from reluscape.trees.kruskal import join
from reluscape.trees.problem import Problem
from reluscape.trees.threads import Threads
from reluscape.trees.values import Values

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Bools = NDArray[np.bool_]

#: Most facets that one thread sorts alone.
SORTED = 10_000


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


def join_cells(
    problem: Problem, values: Values, tolerance: float, below: float, jobs: int = 1
) -> Joined:
    """Kruskal's algorithm over the facets, in so many threads.

    The result is the same as that of sorting all facets, ties in the order of their numbers included.

    Args:
        problem: The layer.
        values: Least losses.
        tolerance: Minima that end within this of their loss are none.
        below: Facets above this loss join nothing.
        jobs: Threads.
    """
    with Threads.start(jobs) as threads:
        return _joined(problem, values, tolerance, problem.layer.limit(below), threads)


def _joined(
    problem: Problem, values: Values, tolerance: float, highest: float, threads: Threads
) -> Joined:
    """The same up to a level."""
    marks = np.zeros(problem.num_facets, dtype=np.bool_)
    basin, bottom = _basins(problem, values, tolerance, highest, marks, threads)
    parent, left = np.arange(len(bottom)), _between(problem, values, highest, basin, threads)
    links, left = _merged(left, values, tolerance, bottom, parent)
    joins, _ = _merged(left, values, np.inf, bottom.copy(), parent.copy())
    ended = np.empty((len(joins), 3), dtype=np.int64)
    lost = join(
        ascending(np.sort(joins), values.facets), values.cells, values.facets, problem.shape,
        problem.pairs, tolerance, basin, parent, bottom, ended,
    )  # fmt: skip
    marks[links] = marks[joins] = True
    roots = bottom[parent == np.arange(len(parent))]
    return Joined(
        ascending(np.flatnonzero(marks), values.facets, threads), ended[:lost],
        roots[values.cells[roots] <= highest],
    )  # fmt: skip


def _basins(
    problem: Problem, values: Values, tolerance: float, highest: float, marks: Bools,
    threads: Threads,
) -> tuple[Indices, Indices]:  # fmt: skip
    """The basin that each cell is linked into, and the lowest cell of each basin."""
    cells, shape, pairs = problem.num_cells, problem.shape, problem.pairs
    least, lowest = np.full(cells, np.inf), np.full(cells, -1)
    basin, further = np.empty(cells, dtype=np.int64), np.empty(cells, dtype=np.int64)
    threads.over(
        shape[1] if shape[0] else 0, find_lowest, values.facets, highest, shape, pairs, least,
        lowest, basin,
    )  # fmt: skip
    threads.over(cells, link, lowest, least, values.cells, tolerance, basin)
    while any(threads.over(cells, leap, basin, further)):
        basin, further = further, basin
    bottom = np.flatnonzero(basin == np.arange(cells))
    further[bottom] = np.arange(len(bottom))
    settle(basin, further, values.cells, lowest, marks, bottom)
    return basin, bottom


def _between(
    problem: Problem, values: Values, highest: float, basin: Indices, threads: Threads
) -> tuple[Indices, Indices]:
    """Facets between two basins, by their numbers, and these basins."""
    units, cells, facets = problem.shape
    rest = cells ** max(units - 1, 0)

    def kept(start: int, stop: int) -> tuple[Indices, Indices]:
        found, ends = (np.empty(((stop - start) * rest, *more), np.int64) for more in ((), (2,)))
        count = between(
            start, stop, values.facets, highest, problem.shape, problem.pairs, basin, found, ends
        )
        return found[:count].copy(), ends[:count].copy()

    parts = threads.over(units * facets, kept)
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _merged(
    between: tuple[Indices, Indices], values: Values, tolerance: float, bottom: Indices,
    parent: Indices,
) -> tuple[Indices, tuple[Indices, Indices]]:  # fmt: skip
    """Facets of links between basins, and what is left between the basins that these make."""
    (edges, ends), found, links = between, [np.empty(0, dtype=np.int64)], 1
    lowest, met = np.full(len(parent), -1), np.empty(len(parent), dtype=np.int64)
    while links:
        links, left = link_basins(
            edges, ends, values.facets, values.cells, tolerance, bottom, lowest, parent, met
        )
        found.append(met[:links].copy())
        edges, ends = edges[:left], ends[:left]
    return np.concatenate(found), (edges, ends)


def ascending(edges: Indices, levels: Floats, threads: Threads | None = None) -> Indices:
    """Facets by ascending level, equal ones by their numbers.

    Args:
        edges: Facets, by their numbers.
        levels: Minimum of each facet (facets,).
        threads: What sorts; this one alone by default.
    """
    known = levels[edges]
    if threads is None or threads.count == 1 or len(edges) < SORTED:
        return np.asarray(edges[_order(known)])
    cuts = np.quantile(known[:: len(known) // SORTED + 1], np.linspace(0, 1, threads.count + 1))
    cuts[0], cuts[-1] = -np.inf, np.inf

    def part(low: float, high: float) -> Indices:
        own = np.flatnonzero((known >= low) & (known < high))
        return np.asarray(edges[own[_order(known[own])]])

    return np.concatenate(list(threads.pool.map(part, cuts[:-1], cuts[1:])))


def _order(keys: Floats) -> Indices:
    """What sorts keys and keeps equal ones in order.

    NumPy's fastest sort does not keep it: equal keys are sorted once more, by their places.
    """
    order = np.argsort(keys)
    known = keys[order]
    equal = np.zeros(len(order) + 1, dtype=np.bool_)
    equal[1:-1] = known[1:] == known[:-1]
    tied = np.flatnonzero(equal[1:] | equal[:-1])
    runs = np.cumsum(~equal[:-1])[tied]
    order[tied] = np.sort(runs * len(order) + order[tied]) % len(order)
    return np.asarray(order)
