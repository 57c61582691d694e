"""Checks a merge tree in rational arithmetic: nothing is searched for, and no rounding forgiven."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.check_block import require
from reluscape.trees.check_sums import OTHER, check_proofs
from reluscape.trees.check_symmetry import check_multiplicity
from reluscape.trees.kruskal import ends_of
from reluscape.trees.problem import Problem
from reluscape.trees.proofs import Proofs
from reluscape.trees.rational import Exact, alike
from reluscape.trees.result import MergeTree

__all__ = ["ExactValues"]

Array = NDArray[Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ExactValues:
    """Exact least losses.

    Attributes:
        exact: The problem in rationals.
        cells: Of all cells (cells,).
        facets: Of all facets (facets,).
    """

    exact: Exact
    cells: Array
    facets: Array

    @classmethod
    def of(cls, tree: MergeTree, problem: Problem) -> ExactValues:
        """By their proofs, and that exactly those give the tree's births and deaths.

        Raises:
            RejectedError: A proof is none, or other births and deaths follow.
        """
        require(
            tree.tolerance == 0 and tree.below == np.inf,
            "an exact tree has no tolerance and no end",
        )
        exact = Exact(problem)
        cells = _proved(exact, "cells", Proofs.of(tree, "cell"))
        facets = _proved(exact, "facets", Proofs.of(tree, "facet"))
        floats = exact.numbers.floats
        ours = sorted(
            (floats(birth).item(), np.inf if death is None else floats(death).item())
            for birth, death in _pairs(problem, cells, facets)
        )
        told = sorted(zip(tree.losses.tolist(), tree.deaths.tolist(), strict=True))
        require(ours == told, "its births and deaths are not the exact ones")
        return cls(exact, cells, facets)

    def floats(self, values: Array) -> Floats:
        """Exact numbers, rounded."""
        return self.exact.numbers.floats(values)

    def check_multiplicity(self, tree: MergeTree) -> None:
        """That exchanges of units make so many minima of each, by exact levels.

        Raises:
            RejectedError: They make another number, or minima do not ascend.
        """
        problem = self.exact.problem
        units, count, unit_facets = problem.shape
        codes = tree.cells @ count ** np.arange(units - 1, -1, -1)
        births = self.cells[codes]
        require(
            all(one <= other for one, other in pairwise(births)), "its exact losses do not ascend"
        )
        order = sorted(range(len(self.facets)), key=lambda k: self.facets[k])
        ends = [ends_of(edge, units, count, unit_facets, problem.pairs) for edge in order]
        groups = alike(problem.layer.weights, problem.units.order)
        problem = replace(problem, units=replace(problem.units, groups=groups))
        levels = self.facets[np.array(order, dtype=np.int64)]
        check_multiplicity(tree, problem, births, np.reshape(ends, (-1, 2)), levels, 0)


def _proved(exact: Exact, kind: str, proofs: Proofs) -> Array:
    """Least losses, each by its proof."""
    problem = exact.problem
    count = problem.num_cells if kind == "cells" else problem.num_facets
    check_proofs(problem, proofs)
    require(len(proofs.bases) == count, OTHER.format(kind))
    values, words = np.empty(count, dtype=object), proofs.words(problem, 0, count)
    for code in range(count):
        values[code] = exact.scale * exact.proved(*exact.gathered(kind, code), words[code])
    return values


def _pairs(problem: Problem, cells: Array, facets: Array) -> list[tuple[Any, Any]]:
    """Exact births and deaths of all basins that last, None for those that do not end."""
    units, count, unit_facets = problem.shape
    above, lowest = list(range(len(cells))), cells.tolist()

    def root(cell: int) -> int:
        while above[cell] != cell:
            above[cell] = above[above[cell]]
            cell = above[cell]
        return cell

    found: list[tuple[Any, Any]] = []
    for edge in sorted(range(len(facets)), key=lambda k: facets[k]):
        ends = ends_of(edge, units, count, unit_facets, problem.pairs)
        first, second = sorted((root(end) for end in ends), key=lambda cell: lowest[cell])
        if first == second:
            continue
        above[second] = first
        if lowest[second] < facets[edge]:
            found.append((lowest[second], facets[edge]))
    return found + [(lowest[cell], None) for cell in range(len(cells)) if above[cell] == cell]
