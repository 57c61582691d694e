"""Lower bounds for whole groups of cells, so that those above a loss of interest are passed over."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from reluscape.singular import svd
from reluscape.trees.problem import Problem
from reluscape.trees.sweep import Scratch, Table, copy_cells, solve_cells, table_of

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

#: Most cells of a unit that are bounded together.
BUNDLE = 8
#: What rounding may take from a bound, in the loss of a layer that puts out zero.
ROUNDING = 1e-9


def pruned_table(problem: Problem, below: float) -> Table:
    """The table of a problem, closed where no loss is at most `below`.

    A unit whose weights may be any sum of rays of several cells can do all that it can do in each of
    them, and more: so the least loss over bundles of cells, one bundle for each unit, is a lower bound on
    those of all cells in them.
    """
    table = table_of(problem)
    if not np.isfinite(below):
        return table
    bundle = _bundles(problem.cones.cells.points)
    count = int(bundle.max(initial=0)) + 1
    members = [
        np.unique(
            np.concatenate([_rays(problem, cell) for cell in np.flatnonzero(bundle == k).tolist()])
        )
        for k in range(count)
    ]
    coarse = replace(
        problem,
        starts=np.concatenate([[0], np.cumsum([len(own) for own in members])]),
        rays=np.concatenate(members).astype(np.int64),
    )
    units = problem.shape[0]
    bounds, scratch = np.empty(count**units), Scratch.of(coarse)
    grouped = table._replace(
        shape=np.array([units, count, 0]),
        starts=coarse.starts,
        rays=coarse.rays,
        bundle=np.zeros(count, dtype=np.int64),
    )
    solve_cells(grouped, scratch, 0, len(bounds), bounds)
    copy_cells(grouped, scratch, bounds)
    layer = problem.layer
    alive = layer.scale * bounds <= below + ROUNDING * layer.zero_loss
    return table._replace(bundles=count, bundle=bundle, alive=alive)


def _rays(problem: Problem, cell: int) -> Indices:
    """Rays of one of a unit's cells."""
    return problem.rays[problem.starts[cell] : problem.starts[cell + 1]]


def _bundles(points: Floats) -> Indices:
    """Numbers of bundles of cells that lie near each other, by halving along their widest direction."""
    found, stack, count = np.zeros(len(points), dtype=np.int64), [np.arange(len(points))], 0
    while stack:
        rows = stack.pop()
        if len(rows) <= BUNDLE:
            found[rows], count = count, count + 1
            continue
        spread = points[rows] - points[rows].mean(axis=0)
        order = rows[np.argsort(spread @ svd(spread)[2][0], kind="stable")]
        stack += [order[: len(order) // 2], order[len(order) // 2 :]]
    return found
