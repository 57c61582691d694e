"""Least absolute deviations over a cone in rational arithmetic, and the check of such points.

A basis names as many residuals and variables as there are variables, which are zero: a vertex. With a
sign for each other residual it is a basis of the linear program `min sum_i u_i + v_i` over
`D l + u - v = y` and `l, u, v >= 0`: of the others' `u_i` and `v_i`, the one of the sign.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.arithmetic import Rational
from reluscape.check_block import require
from reluscape.trees.exact_squares import Least

__all__ = ["checked_absolute", "exact_absolute"]

Array = NDArray[Any]


class _Vertex:
    """A vertex, and what happens along its edges, along each of which one of the basis rises.

    Attributes:
        edges: One in each column (variables, variables).
        lengths: The point (variables,).
        residuals: `y - D l` (rows,), exactly zero for those of the basis.
    """

    def __init__(self, design: Array, target: Array, basis: list[int], numbers: Rational) -> None:
        rows, count = design.shape
        axes = numbers.array(np.eye(count))
        matrix = np.array(
            [design[place] if place < rows else axes[place - rows] for place in basis],
            dtype=object,
        ).reshape(count, count)
        self.regular = numbers.independent(matrix)
        if self.regular:
            self.edges = numbers.inverse(matrix) if count else matrix
            right = numbers.array(np.zeros(count))
            for k, place in enumerate(basis):
                right[k] = target[place] if place < rows else right[k]
            self.lengths = self.edges @ right if count else right
            self.residuals = target - design @ self.lengths if count else target

    def signs(self, told: list[int]) -> list[int]:
        """The residuals' signs; of those that are zero, what is told."""
        return [
            int(value > 0) - int(value < 0) or sign
            for value, sign in zip(self.residuals, told, strict=True)
        ]

    def slopes(self, design: Array, basis: list[int], signs: list[int]) -> Array:
        """How fast the others' absolute residuals rise along each edge (variables,)."""
        inside = set(basis)
        others = [row for row in range(len(signs)) if row not in inside]
        if not others:
            return 0 * self.lengths
        pull = sum(signs[row] * design[row] for row in others)
        return np.asarray(-(pull @ self.edges))


def exact_absolute(
    design: Array, target: Array, guess: list[int], signs: list[int], numbers: Rational
) -> Least:
    """Minimise `sum_i |y_i - D_i . l|` over `l >= 0`, exactly.

    The simplex method with Bland's rule, which ends.

    Args:
        design: D (rows, variables).
        target: y (rows,).
        guess: What may be zero at the least point: rows, and behind them variables.
        signs: Of residuals that are zero there, 1 or -1; of others any.
        numbers: The arithmetic.

    Returns:
        The least point.
    """
    rows, count = design.shape
    basis, signs = list(guess), list(signs)
    vertex = _Vertex(design, target, basis, numbers) if len(set(guess)) == count else None
    if vertex is None or not vertex.regular or any(vertex.lengths < 0):
        basis = list(range(rows, rows + count))
        vertex = _Vertex(design, target, basis, numbers)
    signs = vertex.signs(signs)
    while True:
        chosen = _entering(vertex.slopes(design, basis, signs), basis, rows)
        if chosen is None:
            return Least(
                sum(abs(vertex.residuals), 0 * numbers.array(np.zeros(1))[0]),
                vertex.lengths,
                basis,
                signs,
            )
        edge, up = chosen
        leaving = _leaving(design, vertex, basis, signs, up * vertex.edges[:, edge])
        if basis[edge] < rows:
            signs[basis[edge]] = -up
        basis[edge] = leaving
        vertex = _Vertex(design, target, basis, numbers)


def _entering(slopes: Array, basis: list[int], rows: int) -> tuple[int, int] | None:
    """The edge with the first variable of the program that lowers the sum, and its side.

    The program's variables are numbered `u` first, then `v`, then `l`.
    """
    found = []
    for edge, place in enumerate(basis):
        if place >= rows:
            if slopes[edge] < 0:
                found.append((place + rows, edge, 1))
            continue
        if 1 - slopes[edge] < 0:  # D l falls, the residual rises: u enters
            found.append((place, edge, -1))
        if 1 + slopes[edge] < 0:
            found.append((place + rows, edge, 1))
    return min(found)[1:] if found else None


def _leaving(design: Array, vertex: _Vertex, basis: list[int], signs: list[int], way: Array) -> int:
    """What gets to zero first: of several, the first variable of the program."""
    rows, inside = len(signs), set(basis)
    rates, found = design @ way, []
    for row in range(rows):
        if row not in inside and signs[row] * rates[row] > 0:
            number = row if signs[row] > 0 else row + rows
            found.append((vertex.residuals[row] / rates[row], number, row))
    for variable, rate in enumerate(way):
        if rows + variable not in inside and rate < 0:
            place = rows + variable
            found.append((-vertex.lengths[variable] / rate, place + rows, place))
    return min(found)[2]


def checked_absolute(
    design: Array, target: Array, basis: list[int], signs: list[int], numbers: Rational
) -> Any:
    """The sum at the vertex of a basis, which has to be least.

    Raises:
        RejectedError: It is not.
    """
    rows, count = design.shape
    require(all(place < rows + count for place in basis), "a proof names what is none")
    vertex = _Vertex(design, target, basis, numbers)
    require(vertex.regular, "a proof is made of what depends on each other")
    require(all(vertex.lengths >= 0), "a proof's point lies outside")
    slopes = vertex.slopes(design, basis, vertex.signs(signs))
    flat = all(
        -1 <= slope <= 1 if place < rows else slope >= 0
        for place, slope in zip(basis, slopes, strict=True)
    )
    require(flat, "a loss is not the least one of its cell or facet")
    return sum(abs(vertex.residuals), 0 * numbers.array(np.zeros(1))[0])
