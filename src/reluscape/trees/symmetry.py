"""Which minima differ by an exchange of units that act alike."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

from reluscape.trees.kruskal import root_of, unite
from reluscape.trees.problem import Problem

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


def multiplicities(
    problem: Problem, cells: Indices, bottoms: Floats, joins: Indices, levels: Floats
) -> Indices:
    """How many of the minima are exchanges of each, itself among them (minima,).

    An exchange of units takes a minimum's cell to a cell of its image, which may be another one of the
    image's cells than is listed: so cells are joined up to the minimum's own loss first.

    Args:
        problem: The layer.
        cells: A cell of each minimum, by ascending loss.
        bottoms: Their losses, with what rounding errors may add.
        joins: Facets of the spanning tree of all cells, by ascending level.
        levels: Their levels.
    """
    orders = _orders(problem.units.groups)
    units, size, facets = problem.shape
    if len(orders) == 1:
        return np.ones(len(cells), dtype=np.int64)
    parent = np.arange(problem.num_cells)
    counts, done = np.empty(len(cells), dtype=np.int64), 0
    powers = size ** np.arange(units - 1, -1, -1)
    for place, cell in enumerate(cells):
        upto = int(np.searchsorted(levels, bottoms[place], side="right"))
        unite(joins, done, upto, units, size, facets, problem.pairs, parent)
        done = max(done, upto)
        digits = cell // powers % size
        images = {int(digits[list(order)] @ powers) for order in orders}
        counts[place] = len({root_of(parent, image) for image in images})
    return counts


def _orders(groups: Indices) -> list[tuple[int, ...]]:
    """All exchanges of units that act alike."""
    alike = [np.flatnonzero(groups == first).tolist() for first in np.unique(groups)]
    return [sum(choice, ()) for choice in product(*(permutations(one) for one in alike))]
