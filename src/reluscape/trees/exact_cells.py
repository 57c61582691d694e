"""The cells of one unit in rational arithmetic: all rays, and all cells that lie between them.

A cell is known by its signs, and its rays are those whose signs are its own or zero. Where these span a
hyperplane they are the rays of a facet, behind which lies the cell with the other sign there. Facets join
all cells, so that a walk across them from any cell comes to each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.arithmetic import Rational
from reluscape.arrangement import Cones, UnitCells, enumerate_cells
from reluscape.errors import AnalysisError, InputError

__all__ = ["MAX_EXACT", "ExactCells"]

Array = NDArray[Any]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Signs = NDArray[np.int8]

#: Cells of a layer up to which rational arithmetic is used: some minutes at most.
MAX_EXACT = 20_000
#: Sets of hyperplanes that may meet in a line, all of which are gone through.
MAX_LINES = 100_000


@dataclass(frozen=True, slots=True)
class ExactCells:
    """The cells of a unit.

    Attributes:
        rays: Exact, the largest entry of each one; the negative of ray r is ray `r + len / 2`
            (rays, params).
        values: Of the samples there, exact (samples, rays).
        patterns: The cells' signs, True where positive (cells, samples).
        first: Of each sample, the first with the same hyperplane, -1 for a row of zeros (samples,).
    """

    rays: Array
    values: Array
    patterns: Bools
    first: NDArray[np.int64]

    @classmethod
    def of(cls, features: Floats, units: int, max_cells: int | None) -> ExactCells:
        """All cells of the exact hyperplanes of some samples (samples, params).

        Args:
            features: The samples.
            units: Units of the layer, which has as many cells as there are choices of one for each.
            max_cells: Most cells that it may have, if less than `MAX_EXACT`.

        Cost: a null vector for each set of `rank - 1` hyperplanes, and one look at each hyperplane of
        each cell, with a rank from four dimensions on.

        Raises:
            InputError: More cells, or too many sets of hyperplanes; python-flint is not installed.
        """
        numbers = Rational()
        exact = numbers.array(features)
        planes, rank = _planes(exact), numbers.independent_rank(exact)
        first = np.full(len(features), -1)
        for plane in planes:
            first[plane] = plane[0]
        lines = _lines(exact, [plane[0] for plane in planes], rank, numbers)
        rays = np.concatenate([lines, -lines])
        values = exact @ rays.T if len(rays) else np.empty((len(exact), 0), dtype=object)
        signs = _signs(values)[[plane[0] for plane in planes]]
        most = MAX_EXACT if max_cells is None else min(max_cells, MAX_EXACT)
        found = _walked(
            signs, values, rank, lambda cells: _check_count(cells, units, most), numbers
        )
        patterns = np.zeros((len(found), len(features)), dtype=np.bool_)
        for k, plane in enumerate(planes):
            side = (
                _signs(exact[plane] @ exact[plane[0]]) > 0
            )  # a negative multiple has the other sign
            patterns[:, plane] = (found[:, k] > 0)[:, None] == side
        return cls(rays, values, patterns, first)

    def floats(self) -> Floats:
        """The values at rays of length one, rounded (rays, samples)."""
        numbers = Rational()
        lengths = np.linalg.norm(numbers.floats(self.rays), axis=1)
        return np.asarray((numbers.floats(self.values) / lengths).T)

    def cones(self, features: Floats) -> Cones:
        """As `enumerate_cones`; cells are in the order of `enumerate_cells`, where it sees the same."""
        numbers = Rational()
        signs = _signs(self.values).T
        rays = numbers.floats(self.rays)
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        patterns = _ordered(self.patterns, self.first, features)
        sides = np.where(patterns, 1, -1).astype(np.int8)
        corners = [np.flatnonzero((signs * side >= 0).all(axis=1)) for side in sides]
        inside = np.array([self.rays[own].sum(axis=0) for own in corners if len(own)], dtype=object)
        points = np.zeros((len(patterns), features.shape[1]))
        for cell, point in enumerate(inside):
            points[cell] = numbers.unit(point)
        reached = np.abs(features) @ np.abs(points).T
        share = np.abs(features @ points.T) / np.where(reached > 0, reached, 1.0)
        margins = share[self.first >= 0].min(axis=0, initial=1.0)
        cells = UnitCells(np.packbits(patterns, axis=1), points, margins, self.first)
        numbered = [(cell, ray) for cell, own in enumerate(corners) for ray in own.tolist()]
        return Cones(cells, rays, signs, np.array(numbered, dtype=np.int64).reshape(-1, 2))


def _planes(features: Array) -> list[list[int]]:
    """Samples of each hyperplane: those whose features are multiples of each other and not zero."""
    found: dict[tuple[Any, ...], list[int]] = {}
    for sample, row in enumerate(features):
        first = next((value for value in row if value != 0), None)
        if first is not None:
            found.setdefault(tuple(row / first), []).append(sample)
    return list(found.values())


def _lines(features: Array, planes: list[int], rank: int, numbers: Rational) -> Array:
    """Lines in which hyperplanes meet, within the span of their normals (lines, params)."""
    none = np.empty((0, features.shape[1]), dtype=object)
    if rank == 0:
        return none
    if comb(len(planes), rank - 1) > MAX_LINES:
        raise InputError(
            f"rational arithmetic is for hyperplanes that meet in up to {MAX_LINES:,} lines;"
            f" {len(planes):,} in {rank} dimensions may meet in {comb(len(planes), rank - 1):,}: take"
            " fewer samples, or arithmetic='float64'"
        )
    outside, found = numbers.complement(features).T, {}
    for chosen in combinations(planes, rank - 1):
        null = numbers.complement(np.vstack([features[list(chosen)], outside]))
        if null.shape[1] == 1:
            vector = null[:, 0]
            first = next(value for value in vector if value != 0)
            found[tuple(vector / first)] = vector / max(abs(value) for value in vector)
    return np.array(list(found.values()), dtype=object).reshape(-1, features.shape[1])


def _signs(values: Array) -> Signs:
    """Signs of exact numbers."""
    return np.asarray((values > 0).astype(np.int8) - (values < 0).astype(np.int8))


def _walked(
    signs: Signs, values: Array, rank: int, check: Callable[[int], None], numbers: Rational
) -> Signs:
    """Signs of all cells, from one to the next across facets.

    Args:
        signs: Of the hyperplanes at all rays (hyperplanes, rays).
        values: Of the samples there, exact (samples, rays).
        rank: Dimensions that the hyperplanes' normals span.
        check: Refuses so many cells.
        numbers: The arithmetic.

    Returns:
        Shape (cells, hyperplanes).
    """
    start = np.zeros(len(signs), dtype=np.int8)
    for ray in signs.T:  # next to the first ray, on the side of the second, and so on
        start = np.where(start == 0, ray, start)
    found, open_ = {start.tobytes(): start}, [start]
    while open_:
        pattern = open_.pop()
        own = np.flatnonzero((signs * pattern[:, None] >= 0).all(axis=0))
        zero = signs[:, own] == 0
        for plane in np.flatnonzero(zero.sum(axis=1) >= rank - 1).tolist():
            inside = own[zero[plane]]
            if rank > 3 and numbers.independent_rank(values[:, inside]) < rank - 1:
                continue  # two rays of a cell always are independent
            beyond = pattern.copy()
            beyond[plane] *= -1
            if beyond.tobytes() not in found:
                found[beyond.tobytes()] = beyond
                open_.append(beyond)
        check(len(found))
    return np.array(list(found.values()), dtype=np.int8).reshape(len(found), len(signs))


def _check_count(cells: int, units: int, most: int) -> None:
    """Refuse more cells of a layer than are allowed, or than rational arithmetic is for."""
    if cells**units > most:
        raise InputError(
            f"rational arithmetic is for merge trees of up to {most:,} cells; the layer has"
            f" {cells**units:,} or more: take fewer samples, or arithmetic='float64'"
        )


def _ordered(patterns: Bools, first: NDArray[np.int64], features: Floats) -> Bools:
    """Patterns in the order in which float64 finds them, or else sorted; opposite ones half apart."""
    moving = first >= 0
    try:
        known = enumerate_cells(features).unpack()
    except (AnalysisError, InputError):
        known = np.empty((0, len(first)), dtype=np.bool_)
    if len(known) == len(patterns) and {*map(bytes, known)} == {*map(bytes, patterns)}:
        return known
    half = patterns[patterns[:, moving][:, 0]]
    half = half[np.lexsort(half.T[::-1])[::-1]]
    return np.concatenate([half, ~half & moving])
