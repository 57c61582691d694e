"""Exact zeros for the piecewise-affine loss, decided with the standard library's fractions.

The L1 loss has finitely many gradients, each a sum of products of the floats at hand. Whether one
lies exactly in the span of the active normals is a finite question that no rounding bound answers.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.arithmetic import Float64, spanned_by_structure
from reluscape.frozen import FrozenBlock
from reluscape.landscape import Landscape

Array = NDArray[Any]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]

#: Largest number of multiplications of fractions, about a minute.
MAX_OPERATIONS = 2 * 10**7


class Fractions:
    """Number system of `fractions.Fraction`, for evaluations only."""

    exact = True

    def array(self, values: Array) -> Array:
        """The exact rationals that the floats are."""
        floats = np.asarray(values, dtype=np.float64)
        out = np.empty(floats.shape, dtype=object)
        out.ravel()[:] = [Fraction(value) for value in floats.ravel().tolist()]
        return out

    def exp(self, values: Array) -> Array:
        """Refuse: no fraction is an exponential."""
        raise ArithmeticError("exponentials are not rational")


def rest_is_zero(
    landscape: Landscape, layer: str, theta: Array, pattern: Bools, active: Indices, rank: int
) -> bool:
    """Whether the L1 loss's gradient lies exactly in the span of the active kinks' normals.

    False also where the sums are too long to be added up exactly. They need not be where the normals,
    of this rank, span all that any gradient can: sums of units times inputs.
    """
    numbers = Fractions()
    block = FrozenBlock(landscape, layer, numbers)
    if rank >= block.width * _num_directions(block.features, bias=block.bias):
        return True
    depth = [block.width, *block.widths, block.outputs]
    work = len(block.features) * sum(block.width * a * b for a, b in pairwise(depth))
    if work + len(active) ** 2 * len(theta) > MAX_OPERATIONS:
        return False
    bits = block.bits_of(pattern)
    samples, switches = block.place(active)
    point = numbers.array(theta)
    gradient, normals = numbers.array(np.zeros(len(theta))), []
    for rows in block.chunks():
        part = block.evaluate(point, bits[rows], rows)
        slope = block.output_slope(part.outputs, bits[rows], rows)
        units = (part.output_jacobians * slope[:, :, None]).sum(axis=1)
        gradient = gradient + block.spread(units, rows)
        here = np.flatnonzero((samples >= rows[0]) & (samples <= rows[-1]))
        normals.append(
            block.wide(part.jacobians[samples[here] - rows[0], switches[here]], samples[here])
        )
    return _spans(np.vstack(normals), gradient)


def gradient_is_spanned(
    landscape: Landscape,
    layer: str,
    at: tuple[Array, Bools, Indices],
    normals: Array,
    kept: Bools,
    gradient: tuple[Array, Array],
) -> bool:
    """Whether the normals of some active kinks are certain to span the gradient that all span.

    Args:
        landscape: The landscape.
        layer: The block's layer.
        at: Point, pattern and active kinks.
        normals: The active kinks' normals.
        kept: Which of them are to span it.
        gradient: The gradient in float64 and the bounds on its rounding errors.
    """
    if kept.all() or spanned_by_structure(normals, kept, *gradient):
        return True
    theta, pattern, active = at
    rank = Float64().rank(normals[kept])
    if rank == len(theta):
        return True
    exact = landscape.loss_name == "l1" and landscape.weight_decay == 0
    return exact and rest_is_zero(landscape, layer, theta, pattern, active[kept], rank)


def _num_directions(inputs: Array, *, bias: bool) -> int:
    """Upper bound on the rank of the inputs: their distinct columns that are not zero."""
    columns = {tuple(column) for column in inputs.T}
    constant = any(len(set(column)) == 1 and column[0] != 0 for column in columns)
    return sum(any(column) for column in columns) + (bias and not constant)


def _spans(rows: Array, vector: Array) -> bool:
    """Whether `vector` is a combination of `rows`, by exact elimination."""
    rest, pivots = vector.copy(), list(rows.copy())
    while pivots:
        row = pivots.pop()
        column = next((j for j, entry in enumerate(row) if entry != 0), None)
        if column is None:
            continue
        row = row / row[column]
        pivots = [other - other[column] * row for other in pivots]
        rest = rest - rest[column] * row
    return not any(entry != 0 for entry in rest)
