"""How large a merge tree is and how long it will take, before it is begun."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import numpy as np
import plotly.graph_objects as go

from reluscape.block import Block
from reluscape.results import Result
from reluscape.trees.layer import Layer
from reluscape.trees.problem import Problem
from reluscape.trees.products import table_of
from reluscape.trees.values import SHARE, Chunk, solve_chunk

#: Cells and facets that are tried, in so many places.
TRIED, PLACES = 400, 8
#: Cells and facets that can be numbered.
LARGEST = 2**53


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class TreeSize(Result):
    """What a merge tree takes.

    Attributes:
        num_cells: Cells of the layer, exactly.
        num_facets: Facets between them, exactly.
        unit_cells: Cells of one unit.
        seconds: About how long one thread will take, from some of the cells and facets.
        bytes: About how much memory at most: less where units act alike.
    """

    num_cells: int
    num_facets: int
    unit_cells: int
    seconds: float
    bytes: int

    def summary(self) -> str:
        """The sizes in a sentence."""
        return (
            f"{self.num_cells:,} cells and {self.num_facets:,} facets: about {self.seconds:.2g} s on one"
            f" core once compiled, and {max(1, round(self.bytes / 2**20)):,} MiB"
        )

    def plot(self) -> go.Figure:
        """Cells and facets as bars."""
        from reluscape.report.charts import Series, bars

        counts = [self.num_cells, self.num_facets]
        return bars([Series("", np.array(["cells", "facets"]), np.array(counts))], "", "how many")


def tree_size(block: Block) -> TreeSize:
    """Count a layer's cells, and estimate what `merge_tree` will take for them.

    Cost: that of the cells of one unit, and of some thousand small problems.

    Raises:
        InputError: As `merge_tree`, but for the number of cells.
        UnsupportedModelError: As `merge_tree`.

    Example:
        >>> import numpy as np
        >>> from reluscape import Landscape
        >>> from reluscape.train import mlp
        >>> x = np.linspace(-1, 1, 20)[:, None]
        >>> size = tree_size(Landscape(mlp((1, 2, 1), seed=0), x, x**2).block(0))
        >>> size.num_cells, size.num_facets
        (1600, 3200)
    """
    return size_of(Problem.of(Layer.of(block), None))


def size_of(problem: Problem) -> TreeSize:
    """The size of a problem's tree."""
    seconds, signed = _tried(problem)
    cells, facets = problem.num_cells, problem.num_facets
    products = problem.columns.shape[1] ** 2 if problem.holds_products else 0
    numbers = 6 * cells + 2 * facets + products
    basis = problem.proof_words - problem.sign_words
    proofs = basis * problem.proof_kind.itemsize * (cells + facets)
    signs = round(8 * (1 + problem.sign_words) * signed)
    chunk = 8 * problem.proof_words * min(SHARE, cells + facets)  # at work, before it is kept
    return TreeSize(cells, facets, problem.shape[1], seconds, 8 * numbers + proofs + signs + chunk)


def _tried(problem: Problem) -> tuple[float, float]:
    """About how long one thread takes, and how many proofs have signs, from some of all parts."""
    table, seconds, signed = table_of(problem), 0.0, 0.0
    counts = {"cells": problem.num_cells, "facets": problem.num_facets}
    if sum(counts.values()) > LARGEST:  # the first cells must do
        counts = {"cells": sum(counts.values())}
    for kind, count in counts.items():
        parts = _parts(kind, min(count, LARGEST))
        for _ in range(2):  # the first time it may be compiled, and what is seldom needed be loaded
            start = perf_counter()
            solved = [solve_chunk(problem, table, part) for part in parts]
        share = count / max(sum(part.stop - part.start for part in parts), 1)
        seconds += (perf_counter() - start) * share
        signed += sum(len(one.proofs.signs) for one in solved) * share
    return seconds, signed


def _parts(kind: str, count: int) -> list[Chunk]:
    """Some of them, evenly spread."""
    starts = np.unique(np.linspace(0, max(count - TRIED, 0), PLACES).astype(int)).tolist()
    return [Chunk(kind, start, min(start + TRIED, count)) for start in starts]
