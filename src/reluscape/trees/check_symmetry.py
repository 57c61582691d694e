"""Checks how many minima of a merge tree are exchanges of each other, by making the exchanges."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.check_block import require
from reluscape.trees.problem import Problem
from reluscape.trees.result import MergeTree

__all__ = ["check_multiplicity"]

Array = NDArray[Any]
Indices = NDArray[np.int64]


def check_multiplicity(
    tree: MergeTree, problem: Problem, births: Array, ends: Indices, levels: Array, slack: Any
) -> None:
    """Put every minimum's cell through all exchanges of its units, and count the basins that it gets to.

    At a level up to which no minimum of the tree has ended, each of these basins is a minimum of its own.

    Args:
        tree: The tree.
        problem: Its layer, whose `groups` tell which units act alike.
        births: The minima's losses, ascending; exact ones in rational arithmetic (minima,).
        ends: Cells on both sides of the facets at which basins meet, ascending (facets, 2).
        levels: Least losses of these, ascending (facets,).
        slack: What lies no more than this above a minimum's loss is the same minimum.

    Raises:
        RejectedError: It is another number.

    Cost: one pass over the facets, and one look at each exchange of each minimum.
    """
    above = list(range(problem.num_cells))

    def root(cell: int) -> int:
        while above[cell] != cell:
            above[cell] = above[above[cell]]
            cell = above[cell]
        return cell

    powers = problem.shape[1] ** np.arange(problem.shape[0] - 1, -1, -1)
    done = 0
    for minimum, (birth, cells) in enumerate(zip(births, tree.cells, strict=True)):
        while done < len(levels) and levels[done] - birth <= slack:
            above[root(int(ends[done, 0]))] = root(int(ends[done, 1]))
            done += 1
        codes = _exchanges(cells, problem.units.groups) @ powers
        found = len({root(int(code)) for code in codes})
        told = int(tree.multiplicity[minimum])
        require(
            told == found, f"minimum {minimum} has another number of exchanges: {found}, not {told}"
        )


def _exchanges(cells: Indices, groups: Indices) -> Indices:
    """All cells that exchanges make of one (exchanges, units)."""
    found = cells[None, :]
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        orders = np.array(list(_arrangements(sorted(cells[members].tolist()))), dtype=np.int64)
        found = np.repeat(found, len(orders), axis=0)
        found[:, members] = np.tile(orders, (len(found) // len(orders), 1))
    return found


def _arrangements(values: list[int]) -> Iterator[list[int]]:
    """All different orders of some numbers."""
    if not values:
        yield []
    for first in dict.fromkeys(values):
        rest = values.copy()
        rest.remove(first)
        yield from ([first, *others] for others in _arrangements(rest))
