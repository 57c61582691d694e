"""`merge_tree`: all minima of a small layer's landscape, and the levels at which they join."""

from __future__ import annotations

import math
import os
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from reluscape.arithmetic import arithmetic_called
from reluscape.block import Block
from reluscape.errors import InputError
from reluscape.progress import Progress
from reluscape.study.study import workers
from reluscape.trees.flat import SAME, Flats, LeastPoints
from reluscape.trees.joining import Joined, join_cells
from reluscape.trees.layer import Layer
from reluscape.trees.minimisers import MANY, Minimisers
from reluscape.trees.placed import cells_beside, misplaced, on_kinks
from reluscape.trees.problem import Problem
from reluscape.trees.proofs import Proofs
from reluscape.trees.pruning import pruned
from reluscape.trees.result import MergeTree
from reluscape.trees.sweep import Table
from reluscape.trees.symmetry import multiplicities
from reluscape.trees.threads import Threads
from reluscape.trees.units import check_apart
from reluscape.trees.values import Values, least_values
from reluscape.validation import check_number, check_whole

__all__ = ["MergeTree", "merge_tree"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

#: Persistence of minima that rounding errors may make, over the loss of a layer that puts out zero.
TOLERANCE = 1e-9
#: Most cells that are gone through unless more are allowed.
MAX_CELLS = 10_000_000


def merge_tree(
    block: Block,
    *,
    max_cells: int = MAX_CELLS,
    jobs: int = 1,
    tolerance: float | None = None,
    arithmetic: str = "float64",
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
    facets, with their least losses as levels, gives the merge tree of the whole landscape. Its minima are
    those of basins: points of a plateau with a way down that does not rise first are none, also where all
    points near by are as high.

    On a cell, weights are combinations `w_k = sum_r l_kr ray_r` with `l >= 0`, and outputs are
    `sum l_kr v_k rho(X ray_r)`: a least squares problem (or one of absolute deviations) over `l >= 0` in
    as many variables as the cell has rays, all of whose products are known beforehand.

    Args:
        block: The layer; any input dimension, any number of outputs.
        max_cells: Most cells of the layer that are gone through.
        jobs: Threads, or processes with `store`; -1 for one per core. The tree is the same. With one,
            the default, no other thread is started.
        tolerance: Minima whose basins join a lower one within this of their loss, relative to the loss of
            a layer that puts out zero, are none. By default 1e-9; none with rational arithmetic, where
            every difference is exact.
        arithmetic: "float64", or "rational" for up to 20,000 cells: the floats of the layer's inputs,
            output weights and targets (less the output's bias) are taken as the exact rationals that they
            are. Cells, rays, least points and their optimality are exact, ties are ties, and what is
            returned is rounded once. Up to a millisecond for each cell and facet.
        store: A study's file, in which what is solved is kept: after any interruption, the same call goes
            on from there.
        dask: Address of a Dask scheduler, with `store`, in place of processes.
        below: Only what lies below this loss is of interest: groups of cells whose least loss is shown to
            be above it are passed over, and basins that do not join below it keep infinite deaths.
        progress: Called with a label and the share done.

    Returns:
        The tree. Losses and levels are least, but for rounding errors of 1e-10 of the loss of zero
        weights. Where samples are nearly equal and float64 does not tell a least loss, it is found in
        rational arithmetic. Samples that are equal or on one hyperplane but for rounding their features
        (2e-15 of their size) are taken as equal, or as on it, and output weights of units that are
        multiples of each other but for rounding as exact ones (positive: alike): rational arithmetic
        does neither, and may find lower losses at huge weights. Where they
        are not, but so nearly that float64 does not tell (up to some 1e-14), where points miss their
        losses by more than rounding their coordinates explains or by a hundredth of the loss of zero
        weights, or where python-flint is missing, `num_failed` counts it, and `tier` is "sampled".
        Between samples 1e-12 apart minimisers have weights of 1e12: rounding these changes their losses.

    Cost: one to three microseconds for each cell with two units, its facets included (`benchmarks/
    merge_tree.py`), three to seven times that for the absolute loss of up to 300 samples; 80 to 150 bytes
    for each cell of one or two inputs, 110 to 230 for the absolute loss, and more with more inputs and
    where residuals tie (`tree_size`). Two threads take some three fifths of the time of one: what finds
    the units' cells is serial, as joins are in part. The very first call compiles for half a minute.

    Raises:
        InputError: More cells than `max_cells`, or than rational arithmetic is for; weight decay; a
            tolerance that is negative; options that rational arithmetic does not have; with float64,
            output weights that are parallel up to 1e-9 but not to rounding errors.
        UnsupportedModelError: Another structure behind the layer, or the cross-entropy.
        AnalysisError: The samples' cells cannot be told in float64: rational arithmetic tells them.
            Weights that float64 does not hold.

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
    if tolerance is not None:
        check_number(tolerance, "tolerance", 0.0)
    if not (isinstance(below, float) and below == math.inf):
        check_number(below, "below")
    if not isinstance(store, str | os.PathLike | None):
        raise InputError(f"store must be the path of a file, or None; received {store!r}")
    exact = arithmetic_called(arithmetic).exact
    if exact and (tolerance or store is not None or dask is not None or below < np.inf):
        raise InputError(
            "rational arithmetic takes no tolerance, store, dask or below: it is for small layers,"
            " whole and with exact comparisons"
        )
    problem = Problem.of(Layer.of(block), most, progress, exact=exact)
    if exact:
        return _exact_tree(problem, block.layer, progress)
    check_apart(problem.layer.weights)
    tolerance = TOLERANCE if tolerance is None else tolerance
    slack = tolerance * problem.layer.zero_loss
    # the matrices are small: threads of BLAS would only wait
    with _libraries().limit(limits=1, user_api="blas"), Threads.start(workers(jobs)) as threads:
        known, doubts = pruned(problem, below, threads), threads.pool.submit(problem.doubts)
        values = _values(problem, known.table, threads, store, dask, below, progress)
        values = replace(values, failed=values.failed + doubts.result())
        joined = join_cells(problem, values, slack, below, threads)
        return _tree(
            problem, values, joined, Minimisers.of(problem, known.table, threads), values, slack,
            threads, tolerance=tolerance, below=below, arithmetic="float64", block=block.layer,
            **known.proofs.fields("bundle"),
        )  # fmt: skip


@cache
def _libraries() -> ThreadpoolController:
    """Those whose threads can be told, found once: that takes milliseconds."""
    return ThreadpoolController()


def _exact_tree(problem: Problem, layer: str, progress: Progress | None) -> MergeTree:
    """The tree in rational arithmetic."""
    from reluscape.trees.rational import Exact, alike, ranked

    exact = Exact(problem)
    cells, cell_proofs = exact.all_of("cells", progress)
    facets, facet_proofs = exact.all_of("facets", progress)
    floats = exact.numbers.floats
    values = Values(floats(cells), floats(facets), cell_proofs, facet_proofs, 0)
    places = ranked(cells, facets)
    ranks = replace(values, cells=places[0], facets=places[1])
    groups = alike(problem.layer.weights, problem.units.order)
    problem = replace(problem, units=replace(problem.units, groups=groups))
    with Threads.start(1) as threads:
        joined = join_cells(problem, ranks, 0.0, math.inf, threads)
        return _tree(
            problem, values, joined, exact, ranks, 0.0, threads, tolerance=0.0, below=math.inf,
            arithmetic="rational", block=layer, **Proofs.none(problem).fields("bundle"),
        )  # fmt: skip


def _values(
    problem: Problem,
    table: Table,
    threads: Threads,
    store: str | os.PathLike[str] | None,
    dask: str | None,
    below: float,
    progress: Progress | None,
) -> Values:
    """The least losses, from threads or from a study."""
    if store is not None:
        from reluscape.trees.stored import stored_values

        return stored_values(
            problem, table, Path(store), threads, below=below, dask=dask, progress=progress
        )
    if dask is not None:
        raise InputError("dask needs store, the file in which chunks are kept: give both")
    return least_values(problem, table, threads, progress)


def _tree(
    problem: Problem,
    values: Values,
    joined: Joined,
    minimisers: LeastPoints,
    ranks: Values,
    slack: float,
    threads: Threads,
    **told: Any,
) -> MergeTree:
    """The result: minima by ascending loss, each where it ends.

    Args:
        problem: The layer.
        values: Least losses.
        joined: How basins join.
        minimisers: Finds the points.
        ranks: What decides on the order of least losses.
        slack: Minima that end within this of their loss in that order are none.
        threads: What does what needs nothing of each other.
        told: What else is told of the tree.
    """
    cells = np.append(joined.ended[:, 0], joined.roots)
    ends = np.arange(len(cells)) < len(joined.ended)
    order = np.lexsort((cells, ends, ranks.cells[cells]))
    cells, losses = cells[order], values.cells[cells[order]]
    counting = threads.pool.submit(
        multiplicities, problem, cells, ranks.cells[cells], slack, joined.joins, ranks.facets
    )
    levels = threads.pool.submit(values.facets.take, joined.joins)
    whose = dict(zip(cells.tolist(), range(len(cells)), strict=True))
    deaths, parents = np.full(len(cells), np.inf), np.full(len(cells), -1, dtype=np.int64)
    saddles = np.full((len(cells), len(problem.layer.theta)), np.nan)
    ending = [whose[cell] for cell in joined.ended[:, 0].tolist()]
    deaths[ending] = values.facets[joined.ended[:, 1]]
    parents[ending] = [whose[cell] for cell in joined.ended[:, 2].tolist()]
    edges = joined.ended[:, 1]
    saddles[ending] = problem.outward(minimisers.of_facets(edges))
    flats = Flats(problem, minimisers, ranks, problem.layer.limit(told["below"]), threads)
    alike = min(slack, SAME * problem.layer.zero_loss)
    minima, places = flats.inside(cells, alike)
    minima = problem.outward(on_kinks(problem, minima))
    units, unit_cells, _ = problem.shape
    places = places[:, None] // unit_cells ** np.arange(units - 1, -1, -1) % unit_cells
    beside = cells_beside(problem, edges)
    lost = threads.over(len(cells), _misplaced, problem, minima, places, losses, least=MANY)
    lost += threads.over(
        len(edges), _misplaced, problem, saddles[ending], beside, deaths[ending], least=MANY
    )
    return MergeTree(
        minima=minima,
        losses=losses,
        births=losses,
        deaths=deaths,
        saddles=saddles,
        parents=parents,
        multiplicity=counting.result(),
        cells=places,
        num_cells=problem.num_cells,
        num_facets=problem.num_facets,
        num_solved=values.solved,
        num_failed=values.failed + sum(lost),
        num_pruned=int(np.count_nonzero(np.isinf(values.cells))),
        joins=joined.joins,
        levels=levels.result(),
        **values.cell_proofs.fields("cell"),
        **values.facet_proofs.fields("facet"),
        **told,
        **{part.name: getattr(problem.given, part.name) for part in fields(Layer)},
    )


def _misplaced(
    start: int, stop: int, problem: Problem, points: Floats, cells: Indices, losses: Floats
) -> int:
    """`misplaced` of some points."""
    return misplaced(problem, points[start:stop], cells[start:stop], losses[start:stop])
