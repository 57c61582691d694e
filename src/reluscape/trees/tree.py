"""`merge_tree`: all minima of a small layer's landscape, and the levels at which they join."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order

from reluscape.errors import InputError
from reluscape.landscape import Block
from reluscape.progress import Progress
from reluscape.report.wording import several
from reluscape.results import Result
from reluscape.study.study import workers
from reluscape.trees.barrier import Barrier
from reluscape.trees.kruskal import join, write_ends
from reluscape.trees.layer import Layer
from reluscape.trees.minimisers import Minimisers
from reluscape.trees.problem import Problem
from reluscape.trees.pruning import pruned_table
from reluscape.trees.symmetry import multiplicities
from reluscape.trees.values import Values, least_values
from reluscape.validation import check_theta, check_whole

__all__ = ["MergeTree", "merge_tree"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

#: Minima that a summary lists.
LISTED = 6


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class MergeTree(Result):
    """All local minima of a layer, and how their basins join as the level rises.

    Minima ascend by loss. A minimum may be a whole set of points (a plateau, a flat valley): one of
    them is given. Minima are those whose persistence, `deaths - births`, is above `tolerance` times the
    loss of a layer that puts out zero.

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
        cells: Cells of the units that are read, by their numbers in `enumerate_cells`, for each minimum,
            shape (minima, units).
        num_cells: Cells of the layer.
        num_facets: Facets between them.
        num_solved: Problems that were solved; the others are the same by an exchange of units.
        num_failed: Problems whose solution rounding errors kept from being shown to be least.
        num_pruned: Cells that were passed over, as their least loss is shown to be above `below`.
        below: As given; infinite where everything was gone through.
        tolerance: As given.
        joins: Facets at which basins met, by ascending level: the minimum spanning tree of all cells,
            shape (cells - 1,).
        levels: Their levels.
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
    joins: Indices
    levels: Floats
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

    def summary(self) -> str:
        """Cells, minima and the lowest of them in a few lines."""
        told = f"{self.num_cells:,} cells, {self.num_facets:,} facets"
        if self.num_pruned:
            told += f" ({self.num_pruned:,} cells shown to lie above {self.below:.6g})"
        if not len(self.losses):
            return f"{told}: no loss is at most {self.below:.9g}"
        lines = [
            f"{told}: {several(len(self.losses), 'local minimum', 'local minima')}",
            f"global minimum: loss {self.losses[0]:.9g}",
        ]
        for k in range(1, min(len(self.losses), LISTED)):
            joins = (
                f"joins minimum {self.parents[k]} at {self.deaths[k]:.9g}"
                if self.parents[k] >= 0
                else f"joins none up to {self.below:.9g}"
            )
            lines.append(f"minimum {k}: loss {self.losses[k]:.9g}, {joins}")
        if len(self.losses) > LISTED:
            lines.append(f"... {len(self.losses) - LISTED} more")
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """The disconnectivity graph."""
        from reluscape.trees.figures import disconnectivity

        return disconnectivity(self)

    def barrier(self, theta_a: ArrayLike, theta_b: ArrayLike) -> Barrier:
        """The least level below which two points are joined.

        Args:
            theta_a: The layer's parameters, shape (params,).
            theta_b: As theta_a.

        Returns:
            The level, exact but for rounding, and a path that attains it.

        Cost: one pass over the spanning tree, and one least squares problem for each facet on the way.

        Raises:
            InputError: Points of the wrong shape or not finite.
        """
        size = len(self.layer.theta)
        ends = [check_theta(theta, size) for theta in (theta_a, theta_b)]
        problem = Problem.of(self.layer, None)
        way = self._way(problem, *(problem.cell_of(theta) for theta in ends))
        if way is None:
            return Barrier(math.inf, np.empty((0, size)), np.empty(0))
        minimisers = Minimisers.of(problem)
        beads = np.stack([ends[0], *(minimisers.of_facet(edge) for edge in way), ends[1]])
        losses = np.array([self.layer.value(bead) for bead in beads])
        return Barrier(float(losses.max()), beads, losses)

    def _way(self, problem: Problem, first: int, last: int) -> list[int] | None:
        """Facets on the spanning tree's way between two cells; None where there is none."""
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
            found.append(int(self.joins[max(graph[cell, back], graph[back, cell]) - 1]))
            cell = back
        return found[::-1]


def merge_tree(
    block: Block,
    *,
    max_cells: int = 10_000_000,
    jobs: int = 1,
    tolerance: float = 1e-9,
    store: str | os.PathLike[str] | None = None,
    dask: str | None = None,
    below: float = math.inf,
    progress: Progress | None = None,
) -> MergeTree:
    """All local minima of a layer's landscape, the global one, and the barrier between any two.

    For the first layer of a one-hidden-layer network with fixed output weights (or any layer with one
    rectifier and one linear layer behind it), squared or absolute loss. The loss is convex on each cell,
    so what lies below a level is connected inside a cell, and two cells with a common facet are connected
    below a level if and only if the facet's least loss is below it. So Kruskal's algorithm over the
    facets, with their least losses as levels, gives the merge tree of the whole landscape.

    On a cell, weights are combinations `w_k = sum_r l_kr ray_r` with `l >= 0`, and outputs are
    `sum l_kr v_k rho(X ray_r)`: a least squares problem (or one of absolute deviations) over `l >= 0` in
    as many variables as the cell has rays, all of whose products are known beforehand.

    Args:
        block: The layer; any input dimension, any number of outputs.
        max_cells: Most cells of the layer that are gone through.
        jobs: Threads, or processes with `store`; -1 for one per core. The tree is the same.
        tolerance: Minima whose basins join a lower one within this of their loss, relative to the loss of
            a layer that puts out zero, are none.
        store: A study's file, in which what is solved is kept: after any interruption, the same call goes
            on from there.
        dask: Address of a Dask scheduler, with `store`, in place of processes.
        below: Only what lies below this loss is of interest: groups of cells whose least loss is shown to
            be above it are passed over, and basins that do not join below it keep infinite deaths.
        progress: Called with a label and the share done.

    Returns:
        The tree. Losses and levels are attained by the points that are given, and least but for rounding
        errors: float64 with columns that depend on each other to 1e-12 taken as dependent.

    Cost: about a microsecond for each cell and facet with two inputs and two units; 8 bytes for each
    cell, 16 for each facet and 16 for each join.

    Raises:
        InputError: More cells than `max_cells`; weight decay; a tolerance that is negative.
        UnsupportedModelError: Another structure behind the layer, or the cross-entropy.
        AnalysisError: The samples' cells cannot be told in float64.

    Source: none; Kruskal's algorithm over convex pieces.

    Example:
        >>> import numpy as np, torch
        >>> from torch import nn
        >>> from reluscape import Landscape
        >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
        >>> _ = nn.init.ones_(model[2].weight)
        >>> inputs = np.array([[1.0], [-1.0]])
        >>> tree = merge_tree(Landscape(model, inputs, np.array([[1.0], [2.0]])).block(0))
        >>> print(tree.minima.ravel(), tree.losses, tree.deaths)  # doctest: +NORMALIZE_WHITESPACE
        [-2.  1.] [0.5 2. ] [inf 2.5]
    """
    most = check_whole(max_cells, "max_cells", 1)
    if not 0 <= tolerance < np.inf:
        raise InputError(f"tolerance must be a number of at least zero; received {tolerance!r}")
    problem = Problem.of(Layer.of(block), most, progress)
    if math.isnan(below):
        raise InputError("below must be a number; received NaN")
    values = _values(problem, jobs, store, dask, below, progress)
    slack = tolerance * problem.layer.zero_loss
    return _tree(problem, values, _joined(problem, values, slack, below), tolerance, below)


def _values(
    problem: Problem,
    jobs: int,
    store: str | os.PathLike[str] | None,
    dask: str | None,
    below: float,
    progress: Progress | None,
) -> Values:
    """The least losses, from threads or from a study."""
    table = pruned_table(problem, below)
    if store is not None:
        from reluscape.trees.stored import stored_values

        return stored_values(
            problem, table, Path(store), below=below, jobs=jobs, dask=dask, progress=progress
        )
    if dask is not None:
        raise InputError("dask needs store, the file in which chunks are kept: give both")
    return least_values(problem, table, jobs=workers(jobs), progress=progress)


class Joined(NamedTuple):
    """How basins join.

    Attributes:
        joins: Facets at which they meet, by ascending level.
        ended: Minima that end: cell, facet, cell of the lower minimum (minima, 3).
        roots: Cells of the minima that do not (roots,).
    """

    joins: Indices
    ended: Indices
    roots: Indices


def _joined(problem: Problem, values: Values, tolerance: float, below: float) -> Joined:
    """Kruskal's algorithm over the facets."""
    cells = problem.num_cells
    order = np.flatnonzero(values.facets <= below)
    order = order[np.argsort(values.facets[order], kind="stable")]
    joins, ended = np.empty(cells - 1, dtype=np.int64), np.empty((cells - 1, 3), dtype=np.int64)
    parent, lowest = np.arange(cells), np.arange(cells)
    met, lost = join(
        order, values.cells, values.facets, problem.shape, problem.pairs, tolerance, parent,
        lowest, joins, ended,
    )  # fmt: skip
    roots = lowest[parent == np.arange(cells)]
    return Joined(joins[:met].copy(), ended[:lost].copy(), roots[values.cells[roots] <= below])


def _tree(
    problem: Problem, values: Values, joined: Joined, tolerance: float, below: float
) -> MergeTree:
    """The result: minima by ascending loss, each where it ends."""
    cells = np.append(joined.ended[:, 0], joined.roots)
    ends = np.arange(len(cells)) < len(joined.ended)
    order = np.lexsort((cells, ends, values.cells[cells]))
    cells, losses = cells[order], values.cells[cells[order]]
    whose = dict(zip(cells.tolist(), range(len(cells)), strict=True))
    minimisers, levels = Minimisers.of(problem), values.facets[joined.joins]
    deaths, parents = np.full(len(cells), np.inf), np.full(len(cells), -1, dtype=np.int64)
    size = len(problem.layer.theta)
    saddles = np.full((len(cells), size), np.nan)
    for cell, edge, lower in joined.ended.tolist():
        k = whose[cell]
        deaths[k], parents[k] = values.facets[edge], whose[lower]
        saddles[k] = minimisers.of_facet(edge)
    units, unit_cells, _ = problem.shape
    powers = unit_cells ** np.arange(units - 1, -1, -1)
    bottoms = losses + tolerance * problem.layer.zero_loss
    return MergeTree(
        minima=np.array([minimisers.of_cell(cell) for cell in cells.tolist()]).reshape(-1, size),
        losses=losses,
        births=losses,
        deaths=deaths,
        saddles=saddles,
        parents=parents,
        multiplicity=multiplicities(problem, cells, bottoms, joined.joins, levels),
        cells=cells[:, None] // powers % unit_cells,
        num_cells=problem.num_cells,
        num_facets=problem.num_facets,
        num_solved=values.solved,
        num_failed=values.failed,
        num_pruned=int(np.isinf(values.cells).sum()),
        below=below,
        tolerance=tolerance,
        joins=joined.joins,
        levels=levels,
        **{part.name: getattr(problem.layer, part.name) for part in fields(Layer)},
    )
