"""What `merge_tree` finds."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order

from reluscape.errors import InputError
from reluscape.report.wording import several
from reluscape.results import Result
from reluscape.trees.barrier import Barrier, shortened
from reluscape.trees.kruskal import write_ends
from reluscape.trees.layer import Layer
from reluscape.trees.problem import Problem
from reluscape.trees.proofs import Whole, Words
from reluscape.trees.tiers import tier_of
from reluscape.validation import check_theta

if TYPE_CHECKING:
    from reluscape.block import Block
    from reluscape.certificate import Certificate

__all__ = ["MergeTree"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

#: Why least losses or points are not told, and what is done about it.
UNTOLD = "samples are nearly equal: use arithmetic='rational', or make them equal"
#: Minima that a summary lists.
LISTED = 6


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class MergeTree(Result):
    """All local minima of a layer, and how their basins join as the level rises.

    Minima ascend by loss. They are those whose persistence, `deaths - births`, is above `tolerance` times
    the loss of a layer that puts out zero. A minimum may be a whole set of points (a plateau, a flat
    valley) across several cells. One of them is given, inside the set and with few kinks active, as far
    as up to 32 of its cells show. There `certify` says by itself of nearly all that they are minima
    (`certificates`; docs/tree.md); where it is undecided, the proofs of this tree hold none the less.

    Attributes:
        minima: A minimiser of each, shape (minima, params).
        losses: Their losses, ascending; the first is the global minimum's, shape (minima,).
        births: The same as `losses`.
        deaths: Level at which the minimum's basin joins that of a lower one; infinite for the global
            minimum, shape (minima,).
        saddles: Where it does so: the least point of a facet, shape (minima, params); NaN for the global
            minimum.
        parents: The lower minimum whose basin it joins; -1 for the global one, shape (minima,).
        multiplicity: Minima that differ from it by an exchange of units that act alike, itself among
            them, shape (minima,).
        cells: Cells of the units that are read, by their numbers in `enumerate_cells`, for each minimum
            (in rational arithmetic by numbers of their own where that sees other cells), shape
            (minima, units).
        num_cells: Cells of the layer.
        num_facets: Facets between them.
        num_solved: Problems that were solved; the others are the same by an exchange of units.
        num_failed: Problems whose least losses are not proved: float64 does not tell them, and rational
            arithmetic is not there (without python-flint) or does not see the same cells. And how often
            samples that are nearly equal or on one hyperplane are taken as if they were, and minima and
            saddles that do not lie in their cells or attain their losses for that reason. Then the tree
            is no more than what was found (`tier` is "sampled"), and `verify` does not accept it.
        num_pruned: Cells that were passed over, as their least loss is shown to be above `below`.
        below: As given; infinite where everything was gone through.
        tolerance: As given.
        arithmetic: "float64", or "rational": then losses and levels are exact ones rounded, and minima,
            ties and joins are those of the exact ones.
        joins: Facets at which basins met, by ascending level: the minimum spanning tree of all cells,
            shape (cells - 1,).
        levels: Their levels.
        cell_proofs: What proves the least losses of cells: for each cell that was solved, ascending, the
            rays that its minimiser is made of as bits or, for the absolute loss, what is zero there
            (residuals and, behind them, rays). Shape (solved cells, numbers).
        cell_signs: For the absolute loss: rows of `cell_proofs`, ascending, where more residuals are zero
            than these, and behind each row as bits which of all residuals count as negative if they are
            zero. The others' signs are those at the minimiser. Shape (such cells, 1 + words).
        facet_proofs, facet_signs: The same of the facets.
        bundle_proofs, bundle_signs: The same of the bundles whose bounds show what is above `below`.
        block: Name of the layer.
        features, weights, residual, slope, loss, theta, bias: The layer, as in `Layer`.
    """

    minima: Floats
    losses: Floats
    births: Floats
    deaths: Floats
    saddles: Floats
    parents: Indices
    multiplicity: Indices
    cells: Indices
    num_cells: int
    num_facets: int
    num_solved: int
    num_failed: int
    num_pruned: int
    below: float
    tolerance: float
    arithmetic: str
    joins: Indices
    levels: Floats
    cell_proofs: Whole
    cell_signs: Words
    facet_proofs: Whole
    facet_signs: Words
    bundle_proofs: Whole
    bundle_signs: Words
    block: str
    features: Floats
    weights: Floats
    residual: Floats
    slope: float
    loss: str
    theta: Floats
    bias: bool

    @property
    def layer(self) -> Layer:
        """The layer whose tree it is."""
        return Layer(**{part.name: getattr(self, part.name) for part in fields(Layer)})

    def problem(self) -> Problem:
        """The layer's problem, found anew in the tree's arithmetic.

        Raises:
            InputError: Rational arithmetic is not there, or not for so many cells.
            AnalysisError: The samples' cells cannot be told in float64.
        """
        return Problem.of(self.layer, None, exact=self.arithmetic == "rational")

    @property
    def tier(self) -> str:
        """How it is known: "exact", "certified", or "sampled" where something is not told."""
        return tier_of(self.arithmetic, self.num_failed)

    @property
    def objective(self) -> str:
        """The loss's name, as results of other kinds call it."""
        return self.loss

    def summary(self) -> str:
        """Cells, minima and the lowest of them in a few lines."""
        told = f"{self.num_cells:,} cells, {self.num_facets:,} facets"
        if self.num_pruned:
            told += f" ({self.num_pruned:,} cells shown to lie above {self.below:.6g})"
        if not len(self.losses):
            return f"{told}: no loss is at most {self.below:.9g}"
        lines = [
            f"{told}: {several(len(self.losses), 'local minimum', 'local minima')} ({self.tier})",
            f"global minimum: loss {self.losses[0]:.9g}",
        ]
        for k in range(1, min(len(self.losses), LISTED)):
            joins = (
                f"joins minimum {self.parents[k]} at {self.deaths[k]:.9g}"
                if self.parents[k] >= 0
                else f"joins none up to {self.below:.9g}"
            )
            lines.append(f"minimum {k}: loss {self.losses[k]:.9g}, {joins}")
        if self.num_failed:
            lines.append(f"{self.num_failed:,} least losses or points are not told: {UNTOLD}")
        if len(self.losses) > LISTED:
            lines.append(f"... {len(self.losses) - LISTED} more")
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """The disconnectivity graph."""
        from reluscape.trees.figures import disconnectivity

        return disconnectivity(self)

    def certificates(self, block: Block) -> list[Certificate]:
        """What `certify` says of each minimum: the block certificate, by slopes at the point.

        It has nothing to do with the tree's own proofs, which are about all cells. In float64, and where
        that leaves it undecided in rational arithmetic (up to 60 parameters, with python-flint).

        Args:
            block: The layer that the tree is of.

        Returns:
            A certificate for each minimum, for `verify` with the block's landscape.

        Cost: as `certify`, some milliseconds each; in rational arithmetic up to seconds.

        Raises:
            InputError: Another layer, or other samples.
        """
        from reluscape.further import certify_further  # solves; what only reads need not

        for name in Layer.of(block).unlike(self.layer):
            if name != "theta":  # the tree is the same wherever the layer is
                raise InputError(
                    f"block must be the layer that the tree is of; its {name} is not the tree's: give"
                    " the same network, samples and loss"
                )
        return [certify_further(block, theta) for theta in self.minima]

    def barrier(self, theta_a: ArrayLike, theta_b: ArrayLike) -> Barrier:
        """The least level below which two points are joined.

        Args:
            theta_a: The layer's parameters, shape (params,).
            theta_b: As theta_a.

        Returns:
            The level, exact but for rounding: the largest of the losses of the two points and of the
            facets' least losses on the way, which are the tree's. And a path that attains it, but for
            what rounding its beads changes.

        Cost: one pass over the spanning tree, and one least squares problem for each facet on the way, as
        well as the losses of straight lines between these.

        Raises:
            InputError: Points of the wrong shape or not finite.
        """
        size = len(self.layer.theta)
        ends = [check_theta(theta, size) for theta in (theta_a, theta_b)]
        problem = self.problem()
        way = self._way(problem, *(problem.cell_of(theta) for theta in ends))
        if way is None:
            return Barrier(math.inf, np.empty((0, size)), np.empty(0))
        saddles = problem.outward(_least_points(problem, self.joins[way]))
        losses = [self.layer.value(end) for end in ends]
        losses[1:1] = self.levels[
            way
        ].tolist()  # proved: at points, rounding of huge weights would show
        beads = np.stack([ends[0], *saddles, ends[1]])
        return shortened(self.layer, beads, np.array(losses))

    def _way(self, problem: Problem, first: int, last: int) -> list[int] | None:
        """Joins on the spanning tree's way between two cells; None where there is none."""
        units, cells, facets = problem.shape
        ends = np.empty((len(self.joins), 2), dtype=np.int64)
        write_ends(self.joins, units, cells, facets, problem.pairs, ends)
        numbers = np.arange(1, len(ends) + 1)
        graph = coo_array((numbers, ends.T), shape=(self.num_cells, self.num_cells)).tocsr()
        _, before = breadth_first_order(graph, first, directed=False)
        if first != last and before[last] < 0:
            return None
        found, cell = [], last
        while cell != first:
            back = int(before[cell])
            found.append(int(max(graph[cell, back], graph[back, cell])) - 1)
            cell = back
        return found[::-1]


def _least_points(problem: Problem, facets: Indices) -> Floats:
    """Least points of facets, exact ones where the cells are."""
    if problem.exact is not None:
        from reluscape.trees.rational import Exact

        return Exact(problem).of_facets(facets.tolist())
    from reluscape.trees.minimisers import Minimisers  # solves; what only reads need not
    from reluscape.trees.products import table_of
    from reluscape.trees.threads import Threads

    with Threads.start(1) as threads:
        return Minimisers.of(problem, table_of(problem), threads).of_facets(facets)
