"""A merge tree in rational arithmetic: every least loss and every comparison exact, for small layers.

The floats of the layer are taken as the exact rationals that they are. A ray is the exact null vector of
the hyperplanes that float64 sees it on. The rays that float64 uses at a cell's least point are a guess:
the point is solved for exactly, and exact pivots go on from there until the loss falls along no ray.
Joins are found on the ranks of all exact least losses, so that ties are ties.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.arithmetic import Rational
from reluscape.errors import InputError, UnsupportedModelError
from reluscape.progress import Progress
from reluscape.trees.exact_cells import check_cells, exact_rays
from reluscape.trees.inside import exact_middle
from reluscape.trees.problem import Problem, Proofs
from reluscape.trees.sweep import Scratch, Table, digits_of, others_of, solve, table_of

__all__ = ["MAX_EXACT", "Exact", "alike", "check_exact", "exact_least", "ranked", "used"]

Array = NDArray[Any]
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

#: Cells of a layer up to which rational arithmetic is used: about ten minutes.
MAX_EXACT = 20_000


def check_exact(problem: Problem) -> None:
    """Refuse what rational arithmetic does not do.

    Raises:
        InputError: Too many cells.
        UnsupportedModelError: The absolute loss.
    """
    if problem.layer.is_l1:
        raise UnsupportedModelError(
            "rational arithmetic is for merge trees of a squared loss; received 'l1'"
        )
    if problem.num_cells > MAX_EXACT:
        raise InputError(
            f"rational arithmetic is for merge trees of up to {MAX_EXACT:,} cells; the layer has"
            f" {problem.num_cells:,}: take fewer samples, or arithmetic='float64'"
        )


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


@dataclass(frozen=True, slots=True)
class Least:
    """The least point of a cell or facet.

    Attributes:
        value: Sum of squares there, exact.
        support: Places of the rays in use, among those of the cell.
        lengths: Their lengths, exact and positive.
    """

    value: Any
    support: list[int]
    lengths: Array


class Exact:
    """The problem of a layer in rationals: least points of its cells and facets.

    Attributes:
        problem: The layer's.
        numbers: The arithmetic.
        rays: Exact rays (rays, params).
        size: Sum of the targets' squares.
        scale: The loss is this times a sum of squares.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem, self.numbers = problem, Rational()
        layer, units = problem.layer, problem.units
        features = self.numbers.array(layer.features)
        self.rays = exact_rays(problem, features, self.numbers)
        columns = features @ self.rays.T
        check_cells(problem, features, columns, self.numbers)
        slope = self.numbers.array(np.array([layer.slope]))[0]
        columns = np.where(columns > 0, columns, slope * columns)
        readouts = self.numbers.array(layer.weights[:, units.order].T)
        residual = self.numbers.array(layer.residual)
        self._columns, self._mixing = columns.T.copy(), readouts @ readouts.T
        self._known: dict[tuple[int, int], Any] = {}
        self._right = readouts @ (residual.T @ columns)
        self.size = (residual * residual).sum()
        self.scale = self.numbers.array(np.array([2.0 if layer.loss == "half_squared" else 1.0]))[0]
        self.scale = 1 / (self.scale * len(layer.features))
        self._table, self._scratch = table_of(problem), Scratch.of(problem)

    def all_of(self, kind: str, progress: Progress | None) -> tuple[Array, Proofs]:
        """Least losses, exact, and the rays in use as bits, of all cells or facets."""
        problem = self.problem
        count = problem.num_cells if kind == "cells" else problem.num_facets
        values = np.empty(count, dtype=object)
        proofs = np.zeros((count, problem.proof_words), dtype=np.uint64)
        for code in range(count):
            found, _ = self.least(kind, code)
            values[code] = self.scale * found.value
            for ray in found.support:
                proofs[code, ray >> 6] |= np.uint64(1) << np.uint64(ray & 63)
            if progress is not None and code % 100 == 0:
                progress(f"exact {kind}", code / count)
        return values, proofs.astype(problem.proof_kind)

    def least(self, kind: str, code: int) -> tuple[Least, list[Indices]]:
        """The least point of a cell or facet, and its rays unit after unit."""
        gram, right, rays = self.products(kind, code)
        unit, facet = self._go_to(kind, code)
        guess = _guess(self._table, self._scratch, unit, facet, self.problem.proof_words)
        return exact_least(gram, right, self.size, guess, self.numbers), rays

    def products(self, kind: str, code: int) -> tuple[Array, Array, list[Indices]]:
        """Products of what the rays of a cell or facet put out, and the rays unit after unit."""
        unit, facet = self._go_to(kind, code)
        rays = self.problem.rays_of(self._scratch.digits, unit, facet)
        flat = np.concatenate([*rays, np.empty(0, dtype=np.int64)])
        owners = np.repeat(np.arange(len(rays)), [len(own) for own in rays])
        gram = np.empty((len(flat), len(flat)), dtype=object)
        for i, j in combinations_with_replacement(range(len(flat)), 2):
            product = self._product(flat[i], flat[j])
            gram[i, j] = gram[j, i] = product * self._mixing[owners[i], owners[j]]
        return gram, self._right[owners, flat], rays

    def _product(self, one: int, other: int) -> Any:
        """The product of two rays' columns; of all rays, most are never in one cell."""
        pair = (one, other) if one < other else (other, one)
        if pair not in self._known:
            self._known[pair] = self._columns[one] @ self._columns[other]
        return self._known[pair]

    def _go_to(self, kind: str, code: int) -> tuple[int, int]:
        """Write the units' cells; the unit that a facet is one of and its facet, -1 for a cell."""
        units, cells, facets = self.problem.shape
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
        found, rays = self.least(kind, code)
        rows = self.problem.layer.unpack(self.problem.layer.theta).copy()
        lengths = self.numbers.array(np.zeros(sum(len(own) for own in rays)))
        lengths[found.support] = found.lengths
        if kind == "cells" and self.size > 0:
            gram, right, _ = self.products(kind, code)
            lengths = exact_middle(gram, right, lengths, self.numbers)
        at = 0
        for unit, own in zip(self.problem.units.order, rays, strict=True):
            rows[unit] = 0.0  # of a unit whose cell is everything, and has no rays
            if len(own):
                rows[unit] = self.numbers.floats(lengths[at : at + len(own)] @ self.rays[own])
            at += len(own)
        return self.problem.layer.pack(rows)

    def of_cell(self, cell: int) -> Floats:
        """As `Minimisers.of_cell`."""
        return self.theta("cells", cell)

    def of_facet(self, edge: int) -> Floats:
        """As `Minimisers.of_facet`."""
        return self.theta("facets", edge)


def exact_least(gram: Array, right: Array, size: Any, guess: list[int], numbers: Rational) -> Least:
    """Minimise `size - 2 right . l + l . gram l` over `l >= 0`, exactly.

    Lawson and Hanson's active set method. A ray along which the sum falls does not depend on those in
    use, so every system is regular, and every pivot lowers the sum: it ends.

    Args:
        gram: Products of the rays' columns (rays, rays).
        right: Their products with the target (rays,).
        size: The target's square.
        guess: Rays that may be in use at the least point.
        numbers: The arithmetic.

    Returns:
        The least point.
    """
    support, lengths = _started(gram, right, guess, numbers)
    while True:
        slopes = right - gram[:, support] @ lengths if support else right.copy()
        slopes[support] = 0
        entering = max(range(len(right)), key=lambda k: slopes[k], default=-1)
        if entering < 0 or slopes[entering] <= 0:
            value = size - (right[support] @ lengths if support else 0)
            return Least(value, support, lengths)
        support, lengths = _pivoted(gram, right, [*support, entering], lengths, numbers)


def _started(
    gram: Array, right: Array, guess: list[int], numbers: Rational
) -> tuple[list[int], Array]:
    """The guess, if its point exists and lies inside; else zero."""
    if guess and numbers.independent(gram[np.ix_(guess, guess)]):
        lengths = numbers.solve(gram[np.ix_(guess, guess)], right[guess])
        if all(lengths > 0):
            return guess, lengths
    return [], numbers.array(np.zeros(0))


def _pivoted(
    gram: Array, right: Array, support: list[int], lengths: Array, numbers: Rational
) -> tuple[list[int], Array]:
    """Go to the least point over a larger set of rays, which drops those whose length gets to zero."""
    lengths = np.append(lengths, numbers.array(np.zeros(1)))
    while True:
        there = numbers.solve(gram[np.ix_(support, support)], right[support])
        leaving = [k for k in range(len(support)) if there[k] <= 0]
        if not leaving:
            return support, there
        steps = [lengths[k] / (lengths[k] - there[k]) for k in leaving]
        lengths = lengths + min(steps) * (there - lengths)
        kept = [k for k in range(len(support)) if lengths[k] > 0]
        support, lengths = [support[k] for k in kept], lengths[kept]


def _guess(table: Table, scratch: Scratch, unit: int, facet: int, words: int) -> list[int]:
    """Rays in use by float64; any will do."""
    proof = np.zeros(words, dtype=np.uint64)
    solve(table, scratch, unit, facet, proof)
    return used(proof)


def used(proof: Proofs) -> list[int]:
    """Rays that a proof says are in use."""
    return [
        64 * word + bit
        for word, bits in enumerate(proof.tolist())
        for bit in range(64)
        if bits >> bit & 1
    ]
