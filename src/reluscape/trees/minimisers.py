"""Least points of cells and facets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.trees.placed import are_inside, cells_beside
from reluscape.trees.points import least_points
from reluscape.trees.problem import Problem
from reluscape.trees.stubborn import Stubborn
from reluscape.trees.sweep import Scratch, Table
from reluscape.trees.threads import Threads

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Bools = NDArray[np.bool_]

#: Share of the loss of zero weights that rounding a point's coordinates may change, and share of lengths
#: by which it may lie outside its cell, up to which it is not solved for in rational arithmetic.
BLUR, AWAY = 1e-11, 1e-12
#: Points below which threads are not worth it: where they are compiled, and where they wait for Python.
FEW, MANY = 32, 256


@dataclass(frozen=True, slots=True)
class Minimisers:
    """Finds the least points of cells and facets.

    Attributes:
        problem: The layer.
        table: Of its products.
        threads: What finds them.
        stubborn: What finds those that float64 does not tell.
    """

    problem: Problem
    table: Table
    threads: Threads
    stubborn: Stubborn

    @classmethod
    def of(cls, problem: Problem, table: Table, threads: Threads) -> Minimisers:
        """For the cells of a problem."""
        return cls(problem, table, threads, Stubborn(problem, table))

    def of_cells(self, cells: Any) -> Floats:
        """The layer's parameters at cells' least points; inside a cell, if there are several."""
        return self._of("cells", np.asarray(cells, dtype=np.int64))

    def of_facets(self, edges: Any) -> Floats:
        """Facets' least points."""
        return self._of("facets", np.asarray(edges, dtype=np.int64))

    def _of(self, kind: str, codes: Indices) -> Floats:
        thetas = np.empty((len(codes), len(self.problem.layer.theta)))
        told, blurred = np.empty((2, len(codes)), dtype=np.bool_)

        size = len(codes), self.problem.most_rays
        rays, owners, lengths = np.full(size, -1), np.full(size, -1), np.zeros(size)

        def find(start: int, stop: int) -> None:
            least_points(
                self.table, Scratch.of(self.problem), codes[start:stop], kind == "facets",
                np.empty(self.problem.proof_words, dtype=np.uint64), rays[start:stop],
                owners[start:stop], lengths[start:stop], told[start:stop],
            )  # fmt: skip

        def look(start: int, stop: int) -> None:
            own = slice(start, stop)
            thetas[own] = self.problem.thetas(rays[own], owners[own], lengths[own])
            blurred[own] = self._blurred(kind, codes[own], thetas[own])

        self.threads.over(len(codes), find, least=FEW)
        self.threads.over(len(codes), look, least=MANY)
        for place in np.flatnonzero(~told).tolist():
            thetas[place] = self.stubborn.theta(kind, int(codes[place]))
        for place in np.flatnonzero(told & blurred).tolist():
            found = self.stubborn.exactly(kind, int(codes[place]))
            thetas[place] = thetas[place] if found is None else found
        return thetas

    def _blurred(self, kind: str, codes: Indices, thetas: Floats) -> Bools:
        """Points whose rounding errors show: in their losses, or by which they leave their cells."""
        problem, layer = self.problem, self.problem.layer
        units, count, _ = problem.shape
        digits = codes[:, None] // count ** np.arange(units - 1, -1, -1) % count
        if kind == "facets":
            digits = cells_beside(problem, codes)
        shown = layer.rounding(thetas) > BLUR * layer.zero_loss
        return np.asarray(shown | ~are_inside(problem, thetas, digits, AWAY))
