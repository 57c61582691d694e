"""A merge tree in rational arithmetic: every least loss and every comparison exact, for small layers.

The floats of the layer are taken as the exact rationals that they are, and its cells and rays are those
of these. What float64 uses at a cell's least point is a guess: the point is solved for exactly, and exact
pivots go on from there until the loss falls along no ray.
Joins are found on the ranks of all exact least losses, so that ties are ties.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.arithmetic import Rational
from reluscape.progress import Progress
from reluscape.trees.exact_absolute import checked_absolute, exact_absolute
from reluscape.trees.exact_columns import ExactColumns
from reluscape.trees.exact_squares import Least, checked_squares, exact_squares
from reluscape.trees.inside import exact_middle
from reluscape.trees.problem import Problem
from reluscape.trees.products import table_of
from reluscape.trees.proofs import Proofs, Words, bits_of, words_of
from reluscape.trees.sweep import Scratch, Table, digits_of, gather, others_of, solve

__all__ = ["Exact", "alike", "ranked"]

Array = NDArray[Any]
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


def alike(weights: Floats, order: Indices) -> Indices:
    """Of each unit that is read, the first whose output weights are a positive multiple of its own."""
    numbers = Rational()
    exact = numbers.array(weights[:, order].T)
    groups = np.arange(len(order))
    for k, own in enumerate(exact):
        for j in range(k):
            at = int(np.flatnonzero(own != 0)[0])
            other = exact[j]
            if other[at] * own[at] > 0 and all(other * own[at] == own * other[at]):
                groups[k] = groups[j]
                break
    return groups


def ranked(cells: Array, facets: Array) -> tuple[Floats, Floats]:
    """Places of least losses in the order of all that there are; equal ones have one place."""
    places = {value: k for k, value in enumerate(sorted({*cells.tolist(), *facets.tolist()}))}
    first, second = (
        np.array([places[value] for value in values.tolist()], dtype=np.float64)
        for values in (cells, facets)
    )
    return first, second


class Exact:
    """The problem of a layer in rationals: least points of its cells and facets.

    Args:
        problem: The layer's.
        table: Of other cells of its units, as of bundles.

    Attributes:
        problem: The layer's.
        columns: What its rays put out.
        numbers: The arithmetic.
        scale: The loss is this times a sum of squares or of absolute values.
    """

    def __init__(self, problem: Problem, table: Table | None = None) -> None:
        self.problem, self.columns = problem, ExactColumns(problem)
        self.numbers = self.columns.numbers
        halves = 2.0 if problem.layer.loss == "half_squared" else 1.0
        self.scale = 1 / (self.numbers.array(np.array([halves]))[0] * len(problem.layer.features))
        self._table = table_of(problem) if table is None else table
        self._scratch = Scratch.of(problem)

    def all_of(self, kind: str, progress: Progress | None) -> tuple[Array, Proofs]:
        """Least losses, exact, and what proves them, of all cells or facets."""
        problem = self.problem
        count = problem.num_cells if kind == "cells" else problem.num_facets
        values = np.empty(count, dtype=object)
        words = np.zeros((count, problem.proof_words), dtype=np.uint64)
        for code in range(count):
            found = self.least(kind, code)
            values[code], words[code] = self.scale * found.value, self.proof(found)
            if progress is not None and code % 100 == 0:
                progress(f"exact {kind}", code / count)
        return values, Proofs.kept(problem, words)

    def least(self, kind: str, code: int) -> Least:
        """The least point of a cell or facet."""
        guess = np.zeros(self.problem.proof_words, dtype=np.uint64)
        solve(self._table, self._scratch, *self._go_to(kind, code), guess)
        rays, owners = self.gathered(kind, code)
        if self.problem.layer.is_l1:
            basis, signs = named(self.problem, guess, len(rays))
            design = self.columns.design(rays, owners)
            return exact_absolute(design, self.columns.target, basis, signs, self.numbers)
        gram, right = self.columns.gram(rays, owners), self.columns.right(rays, owners)
        return exact_squares(gram, right, self.columns.size, used(guess), self.numbers)

    def proof(self, found: Least) -> Words:
        """What proves a least point, in words as the search writes them."""
        proof = np.zeros(self.problem.proof_words, dtype=np.uint64)
        if self.problem.layer.is_l1:
            proof[: len(found.proof)] = found.proof
            proof[self.problem.most_rays :] = words_of(np.array(found.signs) < 0)
            return proof
        for ray in found.proof:
            proof[ray >> 6] |= np.uint64(1) << np.uint64(ray & 63)
        return proof

    def proved(self, rays: Indices, owners: Indices, proof: Words) -> Any:
        """The least sum over the cell of some units' rays, by its proof.

        Raises:
            RejectedError: The proof is none.
        """
        if self.problem.layer.is_l1:
            basis, signs = named(self.problem, proof, len(rays))
            design = self.columns.design(rays, owners)
            return checked_absolute(design, self.columns.target, basis, signs, self.numbers)
        gram, right = self.columns.gram(rays, owners), self.columns.right(rays, owners)
        return checked_squares(gram, right, self.columns.size, used(proof), self.numbers)

    def gathered(self, kind: str, code: int) -> tuple[Indices, Indices]:
        """The rays of a cell or facet, and the units that they are of."""
        count = gather(self._table, self._scratch, *self._go_to(kind, code))
        return self._scratch.rays[:count].copy(), self._scratch.owners[:count].copy()

    def _go_to(self, kind: str, code: int) -> tuple[int, int]:
        """Write the units' cells; the unit that a facet is one of and its facet, -1 for a cell."""
        units, cells, facets = self._table.shape.tolist()
        digits = self._scratch.digits
        if kind == "cells":
            digits_of(code, units, cells, digits)
            return -1, -1
        rest = cells ** (units - 1)
        unit, facet = code // (facets * rest), code // rest % facets
        others_of(code % rest, unit, units, cells, digits)
        return unit, facet

    def theta(self, kind: str, code: int) -> Floats:
        """The layer's parameters at a least point, rounded; inside a cell, if there are several."""
        rays, owners = self.gathered(kind, code)
        own = [rays[owners == unit] for unit in range(self.problem.shape[0])]
        lengths, columns = self.least(kind, code).lengths, self.columns
        if kind == "cells" and columns.size > 0 and not self.problem.layer.is_l1:
            gram, right = columns.gram(rays, owners), columns.right(rays, owners)
            lengths = exact_middle(gram, right, lengths, self.numbers)
        return columns.theta(own, lengths)

    def of_cells(self, cells: Iterable[int]) -> Floats:
        """As `Minimisers.of_cells`."""
        return self._stacked("cells", cells)

    def of_facets(self, edges: Iterable[int]) -> Floats:
        """As `Minimisers.of_facets`."""
        return self._stacked("facets", edges)

    def _stacked(self, kind: str, codes: Iterable[int]) -> Floats:
        found = [self.theta(kind, code) for code in codes]
        return np.array(found).reshape(-1, len(self.problem.layer.theta))


def named(problem: Problem, proof: Words, count: int) -> tuple[list[int], list[int]]:
    """What a proof of a least sum of absolute values says is zero, and residuals' signs if they are."""
    negative = bits_of(proof[problem.most_rays :], problem.layer.residual.size)
    return proof[:count].tolist(), np.where(negative, -1, 1).tolist()


def used(proof: Words) -> list[int]:
    """Rays that a proof says are in use."""
    return [
        64 * word + bit
        for word, bits in enumerate(proof.tolist())
        for bit in range(64)
        if bits >> bit & 1
    ]
