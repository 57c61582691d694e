"""Single problems that the compiled search did not bring to an end, by general solvers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from reluscape.solvers import LinearProgram
from reluscape.trees.problem import Problem
from reluscape.trees.sweep import Scratch, Table, digits_of, gather, others_of

if TYPE_CHECKING:
    from reluscape.trees.values import Chunk

Floats = NDArray[np.float64]
Words = NDArray[np.uint64]

#: Slopes below this share of `|column| |target|` are rounding errors of zero.
FLAT = 1e-10


class Stubborn:
    """Solves cells or facets again, on the columns themselves and not on their products.

    Attributes:
        failed: Those that were not shown to be least by these either.
    """

    def __init__(self, problem: Problem, table: Table, chunk: Chunk) -> None:
        self.failed = 0
        self._problem, self._table, self._kind = problem, table, chunk.kind
        self._scratch = Scratch.of(problem)

    def solve(self, code: int) -> tuple[float, Words]:
        """The least sum of a cell or facet, and what proves it."""
        design, target = self.design(code), self._problem.layer.residual.ravel()
        if self._problem.layer.is_l1:
            self.failed += 1  # the value is the solver's word
            return self._absolute(design, target), np.zeros(
                self._problem.most_rays + len(target), np.uint64
            )
        lengths = np.linalg.norm(design, axis=0)
        lengths[lengths == 0] = 1.0
        solution = nnls(design / lengths, target)[0]
        rest = target - design @ (solution / lengths)
        slopes = (design / lengths).T @ rest
        self.failed += int(slopes.max(initial=0.0) > FLAT * np.linalg.norm(target))
        proof = np.zeros(-(-self._problem.most_rays // 64), dtype=np.uint64)
        for ray in np.flatnonzero(solution > 0).tolist():
            proof[ray >> 6] |= np.uint64(1) << np.uint64(ray & 63)
        return float(rest @ rest), proof

    def design(self, code: int) -> Floats:
        """What the rays of a cell or facet put out (samples * outputs, rays)."""
        units, cells, facets = self._problem.shape
        unit = facet = -1
        if self._kind == "cells":
            digits_of(code, units, cells, self._scratch.digits)
        else:
            rest = cells ** (units - 1)
            unit, facet = code // (facets * rest), code // rest % facets
            others_of(code % rest, unit, units, cells, self._scratch.digits)
        count = gather(self._table, self._scratch, unit, facet)
        rays, owners = self._scratch.rays[:count], self._scratch.owners[:count]
        columns, readouts = self._problem.columns[:, rays], self._problem.units.readouts[owners]
        return np.asarray((columns[:, None, :] * readouts.T).reshape(-1, count))

    def _absolute(self, design: Floats, target: Floats) -> float:
        """The least sum of absolute residuals, by a linear program."""
        rows, count = design.shape
        both = np.block([[design, np.eye(rows)], [-design, np.eye(rows)]])
        program = LinearProgram(
            both, np.concatenate([target, -target]), np.full(count + rows, np.inf),
            least=np.zeros(count + rows),
        )  # fmt: skip
        cost = np.concatenate([np.zeros(count), np.ones(rows)])
        found = program.minimise(cost)
        solution = np.maximum(found.point[:count], 0.0)
        return float(np.abs(target - design @ solution).sum())
