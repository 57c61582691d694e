"""Least points of single cells and facets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reluscape.trees.problem import Problem
from reluscape.trees.sweep import Scratch, Table, digits_of, others_of, solve, table_of

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Minimisers:
    """Finds the least point of a cell or a facet."""

    problem: Problem
    table: Table
    scratch: Scratch

    @classmethod
    def of(cls, problem: Problem) -> Minimisers:
        """For the cells of a problem."""
        return cls(problem, table_of(problem), Scratch.of(problem))

    def of_cell(self, cell: int) -> Floats:
        """The layer's parameters (params,) at a cell's least point."""
        units, cells, _ = self.problem.shape
        digits_of(cell, units, cells, self.scratch.digits)
        return self._found(-1, -1)

    def of_facet(self, edge: int) -> Floats:
        """The same of a facet."""
        units, cells, facets = self.problem.shape
        rest = cells ** (units - 1)
        unit, facet = edge // (facets * rest), edge // rest % facets
        others_of(edge % rest, unit, units, cells, self.scratch.digits)
        return self._found(unit, facet)

    def _found(self, unit: int, facet: int) -> Floats:
        """The parameters that the rays and their lengths make."""
        proof = np.empty(self.problem.proof_words, dtype=np.uint64)
        solve(self.table, self.scratch, unit, facet, proof)
        rays = self.problem.rays_of(self.scratch.digits, unit, facet)
        count = sum(len(own) for own in rays)
        return self.problem.theta(rays, self.scratch.solution[:count])
