"""Which minima differ by an exchange of units that act alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reluscape.trees.kruskal import root_of, sorted_code, unite_alike
from reluscape.trees.problem import Problem

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


def multiplicities(
    problem: Problem, cells: Indices, losses: Floats, slack: float, joins: Indices, facets: Floats
) -> Indices:
    """How many of the minima are exchanges of each, itself among them (minima,).

    A minimum is what lies below its loss and is joined with it, its basin. Cells that differ by an
    exchange of units that act alike are taken as one: two minima of one loss are exchanges of each other
    if and only if their basins are then joined. For a way between two of the joined ones is the image of
    a way that begins in the first and ends in some exchange of the second.

    Args:
        problem: The layer.
        cells: A cell of each minimum, by ascending loss.
        losses: Their losses.
        slack: Levels this much above a loss still join what is one minimum, as in `join`.
        joins: Facets of the spanning tree of all cells, by ascending level.
        facets: Levels of all facets.

    Returns:
        Their numbers.

    Cost: one pass over the joins, with a sort of the units for each.
    """
    groups, found = problem.units.groups, np.ones(len(cells), dtype=np.int64)
    if len(np.unique(groups)) == len(groups) or not len(cells):
        return found
    shape, parent, digits = np.array(problem.shape), np.arange(problem.num_cells), groups.copy()
    levels = facets.take(joins)
    starts = np.flatnonzero(np.diff(losses, prepend=-np.inf) > 0)
    done = 0
    for start, stop in zip(starts, np.append(starts[1:], len(cells)), strict=True):
        done = unite_alike(
            joins, levels, done, losses[start], slack, shape, problem.pairs, groups, digits,
            parent,
        )  # fmt: skip
        roots = [
            root_of(parent, sorted_code(cell, shape[0], shape[1], groups, digits))
            for cell in cells[start:stop].tolist()
        ]
        _, which, counts = np.unique(roots, return_inverse=True, return_counts=True)
        found[start:stop] = counts[which]
    return found
