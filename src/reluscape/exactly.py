"""Exact zeros for the piecewise-affine loss, decided in integers.

The L1 loss has finitely many gradients, each a sum of products of the floats at hand. Whether one
lies exactly in the span of the active normals is a finite question that no rounding bound answers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.arithmetic import Float64, spanned_by_structure
from reluscape.integers import MAX_PRODUCTS, FrozenForms, rank_at_most
from reluscape.landscape import Landscape

Array = NDArray[Any]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]


def rest_is_zero(
    landscape: Landscape, layer: str, pattern: Bools, active: Indices, rank: int
) -> bool:
    """Whether the L1 loss's gradient lies exactly in the span of the active kinks' normals.

    False also where the sums are too long to be added up exactly. They need not be where the normals,
    of this rank, span all that any gradient can: sums of units times inputs.
    """
    frozen = FrozenForms(landscape, layer, pattern)
    if rank >= frozen.width * _num_directions(frozen.features, bias=frozen.bias):
        return True
    if frozen.work() > MAX_PRODUCTS:
        return False
    gradient, normals = frozen.gradient(), frozen.kinks(active).matrix()
    return not gradient.any() or rank_at_most(np.vstack([normals, gradient]), rank)


def gradient_is_spanned(
    landscape: Landscape,
    layer: str,
    at: tuple[Bools, Indices],
    normals: Array,
    kept: Bools,
    gradient: tuple[Array, Array],
) -> bool:
    """Whether the normals of some active kinks are certain to span the gradient that all span.

    Args:
        landscape: The landscape.
        layer: The block's layer.
        at: Pattern and active kinks.
        normals: The active kinks' normals.
        kept: Which of them are to span it.
        gradient: The gradient in float64 and the bounds on its rounding errors.
    """
    if kept.all() or spanned_by_structure(normals, kept, *gradient):
        return True
    pattern, active = at
    rank = Float64().rank(normals[kept])
    if rank == normals.shape[1]:
        return True
    exact = landscape.loss_name == "l1" and landscape.weight_decay == 0
    return exact and rest_is_zero(landscape, layer, pattern, active[kept], rank)


def _num_directions(inputs: Array, *, bias: bool) -> int:
    """Upper bound on the rank of the inputs: their distinct columns that are not zero."""
    columns = {tuple(column) for column in inputs.T}
    constant = any(len(set(column)) == 1 and column[0] != 0 for column in columns)
    return sum(any(column) for column in columns) + (bias and not constant)
