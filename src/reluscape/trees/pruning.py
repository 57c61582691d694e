"""Lower bounds for whole groups of cells, so that those above a loss of interest are passed over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reluscape.trees.bundles import ROUNDING, bundles
from reluscape.trees.problem import Problem
from reluscape.trees.products import table_of
from reluscape.trees.proofs import Proofs
from reluscape.trees.sweep import Scratch, Table, copy_cells
from reluscape.trees.threads import Threads
from reluscape.trees.values import Chunk, solve_chunk


@dataclass(frozen=True, slots=True)
class Pruned:
    """A problem's table, closed where no loss is of interest.

    Attributes:
        table: The table.
        proofs: What proves the bounds of the bundles, as of cells; none where everything is of interest.
    """

    table: Table
    proofs: Proofs


def pruned(problem: Problem, below: float, threads: Threads | None = None) -> Pruned:
    """Leave out what is shown to have no loss of at most `below`.

    A unit whose weights may be any sum of rays of several cells can do all that it can do in each of
    them, and more: so the least loss over bundles of cells, one bundle for each unit, is a lower bound on
    those of all cells in them.
    """
    table = table_of(problem, threads)
    if not np.isfinite(below):
        return Pruned(table, Proofs.none(problem))
    bundle, coarse = bundles(problem)
    grouped = table._replace(
        shape=np.array(coarse.shape),
        starts=coarse.starts,
        rays=coarse.rays,
        bundle=np.zeros(coarse.shape[1], dtype=np.int64),
    )
    found = solve_chunk(coarse, grouped, Chunk("cells", 0, coarse.num_cells))
    sums, layer = found.sums, problem.layer
    copy_cells(grouped, Scratch.of(coarse), 0, len(sums), sums)
    alive = layer.scale * sums <= below + ROUNDING * layer.zero_loss
    return Pruned(table._replace(bundles=coarse.shape[1], bundle=bundle, alive=alive), found.proofs)
