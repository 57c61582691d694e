"""A unit's cells in bundles, whose units can do all that those of their cells can."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from reluscape.singular import svd
from reluscape.trees.problem import Problem

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

#: Most cells of a unit that are bounded together.
BUNDLE = 8
#: What rounding may take from a bound, in the loss of a layer that puts out zero.
ROUNDING = 1e-9


def bundles(problem: Problem) -> tuple[Indices, Problem]:
    """The bundle of each of a unit's cells, and the problem of which the bundles are the cells."""
    bundle = _bundles(problem.cones.cells.points)
    members = [
        np.unique(np.concatenate([_rays(problem, cell) for cell in np.flatnonzero(own).tolist()]))
        for own in bundle == np.arange(bundle.max(initial=0) + 1)[:, None]
    ]
    starts = np.concatenate([[0], np.cumsum([len(own) for own in members])])
    return bundle, replace(
        problem,
        pairs=np.empty((0, 2), dtype=np.int64),
        starts=starts,
        rays=np.concatenate(members).astype(np.int64),
    )


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
