"""Single problems that float64 does not decide, in rational arithmetic."""

from __future__ import annotations

from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reluscape.errors import AnalysisError, InputError
from reluscape.trees.problem import Problem
from reluscape.trees.sweep import Scratch, Table, digits_of, gather, others_of, solve

if TYPE_CHECKING:
    from reluscape.trees.rational import Exact

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Words = NDArray[np.uint64]


class Stubborn:
    """Solves cells and facets exactly, or takes the search's word where that cannot be.

    It cannot without python-flint, and where samples are so close that float64 sees other cells than
    there are. What rays put out is found in rational arithmetic once and kept. One thread is served after
    the other: rational arithmetic lets none run beside it anyway.
    """

    def __init__(self, problem: Problem, table: Table) -> None:
        self._problem, self._table, self._lock = problem, table, Lock()
        self._scratch = Scratch.of(problem)

    @cached_property
    def _exact(self) -> Exact | None:
        from reluscape.trees.rational import Exact

        try:
            return Exact(self._problem, self._table)
        except InputError:  # python-flint is not installed
            return None

    @property
    def known(self) -> int:
        """Rays of which it is known what they put out."""
        return self._exact.columns.known if self._exact is not None else 0

    def solve(self, kind: str, code: int) -> tuple[float, Words, bool]:
        """The least sum of a cell or facet, what proves it, and whether it does."""
        with self._lock:
            return self._solved(kind, code)

    def _solved(self, kind: str, code: int) -> tuple[float, Words, bool]:
        if self._exact is not None:
            try:
                found = self._exact.least(kind, code)
                value = self._exact.numbers.floats(np.array([found.value]))[0]
                return float(value), self._exact.proof(found), True
            except AnalysisError:  # other cells
                pass
        layer, (design, lengths) = self._problem.layer, self._rough(kind, code)
        rest = layer.residual.ravel() - design @ lengths
        proof = np.zeros(self._problem.proof_words, dtype=np.uint64)
        return float((np.abs(rest) if layer.is_l1 else rest**2).sum()), proof, False

    def exactly(self, kind: str, code: int) -> Floats | None:
        """The layer's parameters at the least point, rounded once; None where that cannot be."""
        if self._exact is None:
            return None
        try:
            return self._exact.theta(kind, code)
        except AnalysisError:  # other cells
            return None

    def theta(self, kind: str, code: int) -> Floats:
        """The layer's parameters at the least point, or near it."""
        found = self.exactly(kind, code)
        if found is not None:
            return found
        _, lengths = self._rough(kind, code)
        rays, owners = (own[: len(lengths)] for own in (self._scratch.rays, self._scratch.owners))
        return np.asarray(self._problem.thetas(rays[None], owners[None], lengths[None])[0])

    def _rough(self, kind: str, code: int) -> tuple[Floats, Floats]:
        """What the rays of a cell or facet put out (rows, rays), and lengths near the least point."""
        units, cells, facets = self._table.shape.tolist()
        unit = facet = -1
        if kind == "cells":
            digits_of(code, units, cells, self._scratch.digits)
        else:
            rest = cells ** (units - 1)
            unit, facet = code // (facets * rest), code // rest % facets
            others_of(code % rest, unit, units, cells, self._scratch.digits)
        count = gather(self._table, self._scratch, unit, facet)
        rays, owners = self._scratch.rays[:count], self._scratch.owners[:count]
        columns, readouts = self._problem.columns[:, rays], self._problem.units.readouts[owners]
        design = (columns[:, None, :] * readouts.T).reshape(-1, count)
        guess = np.empty(self._problem.proof_words, dtype=np.uint64)
        solve(self._table, self._scratch, unit, facet, guess)
        return design, self._scratch.solution[:count].copy()
