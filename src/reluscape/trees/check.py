"""Checks a merge tree: every least loss by its proof, and the tree by another algorithm.

Nothing here searches. The minimiser of a cell is solved for from the rays that it is said to be made of
(or, for the absolute loss, from what is said to be zero there), and is least if it falls along no ray:
the loss is convex on the cell. What the tree says follows from the least losses of all cells and facets
by a minimum spanning tree. The cells themselves are enumerated again.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree

from reluscape.check_block import RejectedError, require
from reluscape.errors import ReluscapeError
from reluscape.landscape import Landscape
from reluscape.trees.bundles import ROUNDING, bundles
from reluscape.trees.check_sums import checked_values
from reluscape.trees.check_symmetry import check_multiplicity
from reluscape.trees.layer import Layer
from reluscape.trees.placed import SAME, are_inside, attained
from reluscape.trees.problem import NEARLY, Problem
from reluscape.trees.proofs import Proofs
from reluscape.trees.result import MergeTree
from reluscape.trees.units import check_apart

if TYPE_CHECKING:
    from reluscape.trees.check_exact import ExactValues

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]


def check_merge_tree(tree: MergeTree, landscape: Landscape) -> str:
    """Check all that a tree says about a landscape's layer.

    Returns:
        What was found, in words.

    Raises:
        RejectedError: Something does not come out again, with what it is.
    """
    _check_layer(tree, landscape)
    require(tree.arithmetic in ("float64", "rational"), "its arithmetic is none")
    try:
        problem = tree.problem()
        if tree.arithmetic == "float64":
            check_apart(tree.weights)
    except ReluscapeError as error:
        raise RejectedError(str(error)) from error
    _check_shapes(tree, problem)
    require(
        (tree.num_cells, tree.num_facets) == (problem.num_cells, problem.num_facets),
        "it has another number of cells or facets",
    )
    untold = f"{tree.num_failed:,} least losses or points are not told, as it says"
    require(not tree.num_failed, untold)
    require(not problem.doubts(), f"float64 does not tell its samples' cells: {NEARLY}")
    cells, facets, exact = _values(tree, problem)
    require(int(np.isinf(cells).sum()) == tree.num_pruned, "another number of cells is left out")
    slack = SAME * max(tree.layer.zero_loss, np.finfo(np.float64).tiny)
    _check_minima(tree, problem, cells, slack)
    _check_joins(tree, problem, cells, facets, slack)
    if exact is None:
        ends, same = _ends(problem, tree.joins), tree.tolerance * tree.layer.zero_loss
        check_multiplicity(tree, problem, tree.losses, ends, tree.levels, same)
    else:
        exact.check_multiplicity(tree)
    short = f" (those that end within {tree.tolerance:g} of the loss of zero weights are left out)"
    short = short if tree.tolerance > 0 else ""
    follow = "1 minimum that follows" if len(tree.losses) == 1 else "{} minima that follow"
    return (
        f"the least losses of {len(tree.cell_proofs):,} cells and {len(tree.facet_proofs):,} facets"
        f"{_others(tree, problem)}, and {follow.format(len(tree.losses))} from them{short}"
    )


def _others(tree: MergeTree, problem: Problem) -> str:
    """Why cells have no proofs of their own, where some have none."""
    groups, why = problem.units.groups, []
    if len(np.unique(groups)) < len(groups):
        why.append("exchanges of units that act alike")
    if tree.num_pruned:
        why.append(f"above {tree.below:g}")
    if len(tree.cell_proofs) == tree.num_cells or not why:
        return ""
    return f" (the others of {tree.num_cells:,} and {tree.num_facets:,} are {' or '.join(why)})"


def _values(tree: MergeTree, problem: Problem) -> tuple[Floats, Floats, ExactValues | None]:
    """Least losses of cells and facets, by their proofs; the exact ones, if they are."""
    if tree.arithmetic == "rational":
        from reluscape.trees.check_exact import ExactValues

        exact = ExactValues.of(tree, problem)
        return exact.floats(exact.cells), exact.floats(exact.facets), exact
    require(0 <= tree.tolerance < np.inf, "its tolerance is none")
    bundle, alive = _alive(tree, problem)
    cells = checked_values(problem, "cells", Proofs.of(tree, "cell"), bundle, alive)
    facets = checked_values(problem, "facets", Proofs.of(tree, "facet"), bundle, alive)
    return cells, facets, None


def samples_of(tree: MergeTree, landscape: Landscape) -> Landscape:
    """The landscape of those samples, in order, that a tree is made of; of all, if it has others."""
    try:
        own = Layer.of(landscape.block(tree.block))
    except ReluscapeError:
        return landscape
    told = np.hstack([tree.features, tree.residual])
    known = np.hstack([own.features, own.residual])
    rows, place = [], 0
    for sample, row in enumerate(known):
        if place < len(told) and np.array_equal(row, told[place]):
            rows.append(sample)
            place += 1
    if place < len(told) or place == len(known):
        return landscape
    return landscape.of_samples(np.array(rows))


def _check_layer(tree: MergeTree, landscape: Landscape) -> None:
    """The tree is about this layer and these data."""
    try:
        own = Layer.of(landscape.block(tree.block))
    except ReluscapeError as error:
        raise RejectedError(str(error)) from error
    for name in own.unlike(tree.layer):
        raise RejectedError(f"its {name} is not that of the network and data")


def _alive(tree: MergeTree, problem: Problem) -> tuple[Indices, Bools]:
    """Bundles of a unit's cells, and which of all bundles may have a loss of interest."""
    none = np.zeros(problem.shape[1], dtype=np.int64), np.ones(1, dtype=np.bool_)
    if not np.isfinite(tree.below):
        require(tree.below == np.inf, "it ends at no number")
        return none
    bundle, coarse = bundles(problem)
    own = np.zeros(coarse.shape[1], dtype=np.int64)
    bounds = checked_values(coarse, "cells", Proofs.of(tree, "bundle"), own, none[1])
    return bundle, bounds <= tree.below + ROUNDING * problem.layer.zero_loss


def _check_shapes(tree: MergeTree, problem: Problem) -> None:
    """What is told of minima and joins is told of all of them, in numbers of its kind."""
    require(tree.losses.ndim == 1, "its losses are no row of numbers")
    count, units, size = len(tree.losses), problem.shape[0], len(tree.theta)
    shapes: dict[str, tuple[int, ...]] = {"minima": (count, size), "saddles": (count, size)}
    shapes |= dict.fromkeys(("births", "deaths", "parents", "multiplicity"), (count,))
    shapes["cells"] = (count, units)
    for name, shape in shapes.items():
        require(getattr(tree, name).shape == shape, f"its {name} have another shape")
    for name in ("parents", "multiplicity", "cells", "joins"):
        kind = getattr(tree, name).dtype
        require(np.issubdtype(kind, np.integer), f"its {name} are no whole numbers")
    for kind, part in product(("cell", "facet", "bundle"), ("proofs", "signs")):
        name = f"{kind}_{part}"
        proofs = getattr(tree, name)
        whole = proofs.ndim == 2 and np.issubdtype(proofs.dtype, np.unsignedinteger)
        require(whole, f"its {name} are no whole numbers")
    require(
        tree.levels.ndim == 1 and tree.joins.shape == tree.levels.shape, "its joins have no levels"
    )


def _check_minima(tree: MergeTree, problem: Problem, cells: Floats, slack: float) -> None:
    """Losses are those of the points, and least in their cells."""
    unit_cells = problem.shape[1]
    solved = len(tree.cell_proofs) + len(tree.facet_proofs)
    require(tree.num_solved == solved, "it has another number of problems")
    require(np.array_equal(tree.births, tree.losses), "births are not losses")
    require(bool((np.diff(tree.losses) >= 0).all()), "its losses do not ascend")
    inside = (tree.cells >= 0) & (tree.cells < unit_cells)
    require(bool(inside.all()), "a minimum lies in no cell")
    require(
        _same(cells[_codes(tree, problem)], tree.losses, slack),
        "a minimum's loss is not its cell's",
    )
    values, errors = _finite(problem, tree.minima)
    require(_same(values, tree.losses, slack + errors), "a minimum has another loss")
    placed = are_inside(problem, problem.inward(tree.minima), tree.cells)
    require(bool(placed.all()), "a minimum lies in another cell")
    ends = np.isfinite(tree.deaths)
    require(bool(np.isnan(tree.saddles[~ends]).all()), "a minimum that joins none has a saddle")
    values, errors = _finite(problem, tree.saddles[ends])
    require(_same(values, tree.deaths[ends], slack + errors), "a saddle has another loss")


def _finite(problem: Problem, points: Floats) -> tuple[Floats, Floats]:
    """Losses at points, and what rounding their coordinates may have changed: finite numbers."""
    values, errors = attained(problem, points)
    require(bool(np.isfinite(values + errors).all()), "a minimum or a saddle has no finite loss")
    return values, errors


def _check_joins(
    tree: MergeTree, problem: Problem, cells: Floats, facets: Floats, slack: float
) -> None:
    """Basins join where the tree says, by a spanning tree of its own."""
    inside = (tree.joins >= 0) & (tree.joins < len(facets))
    require(bool(inside.all()), "a facet at which basins join is none")
    require(
        _same(facets[tree.joins], tree.levels, slack), "a level is not the least loss of its facet"
    )
    require(bool((np.diff(tree.levels) >= 0).all()), "its levels do not ascend")
    least = _least_levels(problem, facets, tree.layer.limit(tree.below))
    require(_same(least, tree.levels, slack), "its facets are no minimum spanning tree")
    ends = _ends(problem, tree.joins)
    basins = _Basins(tree, problem, cells, slack)
    met = zip(tree.levels.tolist(), *ends.T.tolist(), strict=True)
    ended = np.array([basins.join(*facet) for facet in met], dtype=np.int64)
    basins.finish()
    _check_saddles(tree, problem, ended[ended >= 0], ends[ended >= 0])


def _check_saddles(tree: MergeTree, problem: Problem, minima: Indices, ends: Indices) -> None:
    """Saddles of minima lie on the facets at which these end, between two cells (minima, 2)."""
    points, (units, count, _) = problem.inward(tree.saddles[minima]), problem.shape
    for side in ends.T:
        cells = side[:, None] // count ** np.arange(units - 1, -1, -1) % count
        for minimum in minima[~are_inside(problem, points, cells)].tolist():
            raise RejectedError(f"minimum {minimum} has a saddle elsewhere")


def _least_levels(problem: Problem, facets: Floats, highest: float) -> Floats:
    """Levels of a minimum spanning tree of all cells, ascending: those of every other one as well."""
    used = np.flatnonzero(facets <= highest)
    used = used[np.argsort(facets[used], kind="stable")]
    if not len(used):
        return np.empty(0)
    shape = (problem.num_cells, problem.num_cells)
    ranks = np.arange(1.0, len(used) + 1)  # weights of zero would be no edges
    graph = coo_array((ranks, tuple(_ends(problem, used).T)), shape=shape).tocsr()
    return facets[used[np.sort(minimum_spanning_tree(graph).data).astype(np.int64) - 1]]


def _ends(problem: Problem, edges: Indices) -> Indices:
    """The cells on both sides of facets (facets, 2)."""
    units, count, unit_facets = problem.shape
    if not len(edges):
        return np.empty((0, 2), dtype=np.int64)
    rest = count ** (units - 1)
    unit, facet, others = edges // (unit_facets * rest), edges // rest % unit_facets, edges % rest
    low = count ** (units - 1 - unit)
    base = others // low * low * count + others % low
    return np.asarray(base[:, None] + problem.pairs[facet] * low[:, None])


class _Basins:
    """Cells that are joined so far, and the first of the tree's minima in each basin."""

    def __init__(self, tree: MergeTree, problem: Problem, cells: Floats, slack: float) -> None:
        self.tree, self.slack = tree, slack
        self.none = len(tree.losses)
        self.limit = tree.tolerance * problem.layer.zero_loss + slack
        self.above = list(range(len(cells)))
        self.lowest = cells.tolist()
        self.oldest = [self.none] * len(cells)
        for minimum, cell in enumerate(_codes(tree, problem).tolist()):
            require(self.oldest[cell] == self.none, "two minima lie in one cell")
            self.oldest[cell] = minimum
        self.left = set(range(self.none))

    def root(self, cell: int) -> int:
        """The cell that stands for a basin."""
        while self.above[cell] != cell:
            self.above[cell] = self.above[self.above[cell]]
            cell = self.above[cell]
        return cell

    def join(self, level: float, one: int, other: int) -> int:
        """Two basins meet: the one with the later minimum of the tree, or with none, ends.

        Returns:
            That minimum, or -1.
        """
        first, second = sorted((self.root(one), self.root(other)), key=lambda c: self.oldest[c])
        require(first != second, "its facets do not join all cells")
        minimum, older = self.oldest[second], self.oldest[first]
        higher = max(self.lowest[first], self.lowest[second])
        self.above[second] = first
        self.lowest[first] = min(self.lowest[first], self.lowest[second])
        missing = minimum == self.none and level - higher > self.limit
        require(not missing, "a minimum is missing")
        if older < self.none:
            self._is_bottom(older, first)
        if minimum == self.none:
            return -1
        self._ends(minimum, level, older)
        return minimum

    def _ends(self, minimum: int, level: float, lower: int) -> None:
        """What is told of a minimum's end is that it joins a lower one at a level."""
        told, parent = self.tree.deaths[minimum], self.tree.parents[minimum]
        require(abs(told - level) <= self.slack, f"minimum {minimum} joins a lower one elsewhere")
        require(parent == lower, f"minimum {minimum} does not join the one that is told")
        lasts = float(told - self.tree.losses[minimum]) + 2.0 * self.slack
        require(lasts >= self.limit, f"minimum {minimum} does not last for the tree's tolerance")
        self.left.discard(minimum)

    def _is_bottom(self, minimum: int, basin: int) -> None:
        rise = float(self.tree.losses[minimum]) - self.lowest[basin]
        require(rise <= self.slack, f"minimum {minimum} is not the lowest of its basin")

    def finish(self) -> None:
        """Those that are left join none."""
        for minimum in self.left:
            alone = self.tree.deaths[minimum] == np.inf and self.tree.parents[minimum] == -1
            require(bool(alone), f"minimum {minimum} joins no lower one")
        for cell, above in enumerate(self.above):
            missing = above == cell and self.oldest[cell] == self.none
            require(
                not (
                    missing
                    and self.lowest[cell] <= self.tree.layer.limit(self.tree.below)
                    and np.isfinite(self.lowest[cell])
                ),
                "a minimum is missing",
            )


def _codes(tree: MergeTree, problem: Problem) -> Indices:
    """Numbers of the minima's cells."""
    units, count, _ = problem.shape
    return np.asarray(tree.cells @ count ** np.arange(units - 1, -1, -1), dtype=np.int64)


def _same(ours: Floats, told: Floats, slack: float | Floats) -> bool:
    """Whether numbers are equal but for rounding; none is where one is NaN."""
    return ours.shape == told.shape and bool((np.abs(ours - told) <= slack).all())
