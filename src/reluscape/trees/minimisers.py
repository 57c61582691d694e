"""Least points of single cells and facets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reluscape.trees.inside import middle
from reluscape.trees.problem import Problem, Proofs
from reluscape.trees.stubborn import Stubborn
from reluscape.trees.sweep import Scratch, Table, digits_of, others_of, solve, table_of

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Minimisers:
    """Finds the least point of a cell or a facet."""

    problem: Problem
    table: Table
    scratch: Scratch
    stubborn: Stubborn

    @classmethod
    def of(cls, problem: Problem) -> Minimisers:
        """For the cells of a problem."""
        table = table_of(problem)
        return cls(problem, table, Scratch.of(problem), Stubborn(problem, table))

    def of_cell(self, cell: int) -> Floats:
        """The layer's parameters (params,) at a cell's least point; inside it, if there are several."""
        units, cells, _ = self.problem.shape
        digits_of(cell, units, cells, self.scratch.digits)
        found = self._solved(-1, -1)
        if found is None:
            return self.stubborn.theta("cells", cell)
        rays, lengths = found
        if len(lengths) and not self.problem.layer.is_l1:
            lengths = middle(self._design(rays), self.problem.layer.residual.ravel(), lengths)
        return self.problem.theta(rays, lengths)

    def of_facet(self, edge: int) -> Floats:
        """A facet's least point."""
        units, cells, facets = self.problem.shape
        rest = cells ** (units - 1)
        unit, facet = edge // (facets * rest), edge // rest % facets
        others_of(edge % rest, unit, units, cells, self.scratch.digits)
        found = self._solved(unit, facet)
        if found is None:
            return self.stubborn.theta("facets", edge)
        return self.problem.theta(*found)

    def _solved(self, unit: int, facet: int) -> tuple[list[Indices], Floats] | None:
        """The rays of each unit, and how much there is of each; None where float64 does not tell."""
        proof = np.empty(self.problem.proof_words, dtype=np.uint64)
        if solve(self.table, self.scratch, unit, facet, proof) < 0:
            return None
        rays = self.problem.rays_of(self.scratch.digits, unit, facet)
        lengths = self.scratch.solution[: sum(len(own) for own in rays)].copy()
        return rays, self._refined(rays, lengths, proof)

    def _refined(self, rays: list[Indices], lengths: Floats, proof: Proofs) -> Floats:
        """The same point from the columns: their products, or pivots, have lost digits.

        It fits the targets as well as can be, or those that it fits exactly where the loss is absolute.
        """
        free, target = lengths > 0, self.problem.layer.residual.ravel()
        design = self._design(rays)[:, free]
        if self.problem.layer.is_l1:
            zero = proof[: len(lengths)]
            fitted = zero[zero < len(target)].astype(np.int64)
            design, target = design[fitted], target[fitted]
        if design.size:
            lengths[free] += np.linalg.lstsq(design, target - design @ lengths[free], rcond=None)[0]
        return np.maximum(lengths, 0.0)

    def _design(self, rays: list[Indices]) -> Floats:
        """What rays put out (samples * outputs, rays)."""
        readouts = np.repeat(self.problem.units.readouts, [len(own) for own in rays], axis=0)
        chosen = np.concatenate([np.empty(0, dtype=np.int64), *rays])
        products = self.problem.columns[:, None, chosen] * readouts.T
        return np.asarray(products.reshape(self.problem.layer.residual.size, len(chosen)))
