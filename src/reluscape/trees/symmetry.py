"""Which minima differ by an exchange of units that act alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reluscape.trees.kruskal import root_of, unite
from reluscape.trees.problem import Problem

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


def multiplicities(
    problem: Problem, cells: Indices, losses: Floats, slack: float, joins: Indices, levels: Floats
) -> Indices:
    """How many of the minima are exchanges of each, itself among them (minima,).

    Exchanges of two neighbouring units make all others. One takes a minimum's cell to a cell of its
    image, which may be another one of the image's cells than is listed: so cells are joined up to the
    minimum's own loss first.

    Args:
        problem: The layer.
        cells: A cell of each minimum, by ascending loss.
        losses: Their losses.
        slack: What rounding errors may add to a loss.
        joins: Facets of the spanning tree of all cells, by ascending level.
        levels: Their levels.
    """
    groups = problem.units.groups
    swaps = [k for k in range(1, len(groups)) if groups[k] == groups[k - 1]]
    units, size, facets = problem.shape
    alike = np.arange(len(cells))
    if swaps:
        parent, done = np.arange(problem.num_cells), 0
        powers = size ** np.arange(units - 1, -1, -1)
        for place, cell in enumerate(cells.tolist()):
            upto = int(np.searchsorted(levels, losses[place] + slack, side="right"))
            unite(joins, done, upto, units, size, facets, problem.pairs, parent)
            done = max(done, upto)
            digits = cell // powers % size
            ends = np.searchsorted(losses, [losses[place] - slack, losses[place] + slack])
            near = {
                root_of(parent, cells[k]): k
                for k in range(ends[0], int(ends[1]) + 1)
                if k < len(cells)
            }
            for k in swaps:
                step = int(digits[k] - digits[k - 1])
                image = cell + step * int(powers[k - 1] - powers[k])
                other = near.get(root_of(parent, image), place)
                alike[root_of(alike, other)] = root_of(alike, place)
    roots = np.array([root_of(alike, k) for k in range(len(cells))], dtype=np.int64)
    return np.asarray(np.bincount(roots, minlength=len(cells))[roots], dtype=np.int64)
