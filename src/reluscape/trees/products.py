"""The products of columns that all least squares problems of a layer are made of."""

from __future__ import annotations

from itertools import combinations_with_replacement, pairwise

import numpy as np
from numpy.typing import NDArray

from reluscape.trees.problem import Problem
from reluscape.trees.sweep import Table
from reluscape.trees.threads import Threads

Floats = NDArray[np.float64]

#: Into how many parts rays are cut, for the products of each two parts to be found side by side.
PARTS = 4


def table_of(problem: Problem, threads: Threads | None = None) -> Table:
    """What the compiled search reads, the same whatever the number of threads."""
    columns, readouts = problem.columns, problem.units.readouts
    products = _products(columns, threads) if problem.holds_products else np.empty((0, 0))
    return Table(
        np.array(problem.shape), problem.units.groups, problem.starts, problem.rays,
        problem.facet_starts, problem.facet_rays, problem.pairs, products,
        readouts @ readouts.T, readouts @ problem.layer.residual.T @ columns,
        float((problem.layer.residual**2).sum()), np.ascontiguousarray(columns.T), readouts,
        np.ascontiguousarray(problem.layer.residual).ravel(), problem.layer.is_l1,
        1, np.zeros(problem.shape[1], dtype=np.int64), np.ones(1, dtype=np.bool_), problem.narrow,
        problem.reach,
    )  # fmt: skip


def _products(columns: Floats, threads: Threads | None) -> Floats:
    """Products of columns (rays, rays), in blocks."""
    count = columns.shape[1]
    found, ends = np.empty((count, count)), np.linspace(0, count, PARTS + 1).astype(int)
    parts = [slice(*part) for part in pairwise(ends.tolist())]

    def multiply(one: slice, other: slice) -> None:
        found[one, other] = columns[:, one].T @ columns[:, other]
        found[other, one] = found[one, other].T

    pairs = list(combinations_with_replacement(parts, 2))
    if threads is None:
        for pair in pairs:
            multiply(*pair)
    else:
        threads.each(multiply, pairs)
    return found
