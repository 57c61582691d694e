"""Exact claims about the whole landscape at a differentiable point, by second-order jets.

Along `theta + t d` with the switches frozen every layer's output is a polynomial in t; its value and
first two derivatives go forward through the layers,

    z = W h + b,   z' = W h' + D h + e,   z'' = W h'' + 2 D h',

and give `d^T H d` exactly in rational arithmetic. The Hessian follows by polarisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.arithmetic import Rational
from reluscape.certificate import Claim
from reluscape.landscape import Landscape
from reluscape.local import Local
from reluscape.network import Affine, Rectifier
from reluscape.symmetry import flat_directions, is_plain

Array = NDArray[Any]

#: Largest samples x params^3, the multiplications behind an exact Hessian: about a minute.
MAX_WORK = 3 * 10**7


class Jets:
    """Second derivatives of a landscape at its model's own parameters.

    Args:
        landscape: Read completely, without batch norm; squared or L1 loss; no kink active.
        numbers: Rational arithmetic.
    """

    def __init__(self, landscape: Landscape, numbers: Rational) -> None:
        assert landscape.reading is not None
        self._numbers = numbers
        self._landscape = landscape
        self._features = numbers.array(landscape.reading.features)
        self._targets = numbers.array(landscape.targets)
        self._decay = numbers.array(np.array(landscape.weight_decay))[()]
        self._layers = [self._convert(layer) for layer in landscape.reading.network.layers]

    def along(self, direction: Array) -> Any:
        """`d^T H d` for one direction over all parameters."""
        value, first, second = self._features, self._features * 0, self._features * 0
        for weight, bias, positions in self._layers:
            if positions is None:
                active = weight[(value > 0).astype(np.intp)]
                value, first, second = value * active, first * active, second * active
                continue
            move = direction[positions[: weight.size]].reshape(weight.shape)
            shift = direction[positions[weight.size :]] if len(positions) > weight.size else 0
            second = second @ weight.T + 2 * (first @ move.T)
            first = first @ weight.T + value @ move.T + shift
            value = value @ weight.T + bias
        residual, count = value - self._targets, len(value)
        if self._landscape.loss_name == "l1":
            total = (second * np.where(residual > 0, 1, -1)).sum() / count
        else:
            scale = 2 if self._landscape.loss_name == "squared" else 1
            total = scale * (first * first + residual * second).sum() / count
        return total + self._decay * (direction @ direction)

    def hessian(self) -> Array:
        """The exact Hessian, shape (params, params)."""
        size = self._landscape.size
        units = self._numbers.array(np.eye(size))
        matrix = self._numbers.array(np.zeros((size, size)))
        for i in range(size):
            matrix[i, i] = self.along(units[i])
        for i in range(size):
            for j in range(i):
                both = self.along(units[i] + units[j])
                matrix[i, j] = matrix[j, i] = (both - matrix[i, i] - matrix[j, j]) / 2
        return matrix

    def _convert(self, layer: Any) -> tuple[Array, Array, Array | None]:
        """(weight, bias, positions in theta) of an affine layer; (slopes, slopes, None) else."""
        if isinstance(layer, Rectifier):
            slopes = self._numbers.array(np.array([layer.slope, 1.0]))
            return slopes, slopes, None
        assert isinstance(layer, Affine)
        bias = np.zeros(len(layer.weight)) if layer.bias is None else layer.bias
        positions = self._landscape.positions(layer.name)
        return self._numbers.array(layer.weight), self._numbers.array(bias), positions


@dataclass(frozen=True, slots=True)
class ExactVerdict:
    """Claim at an exactly stationary point, its reason and the numbers it rests on."""

    claim: Claim
    reason: str
    margin: float = 0.0
    direction: NDArray[np.float64] | None = None
    curvature: float | None = None


def exact_verdict(landscape: Landscape, numbers: Rational) -> ExactVerdict:
    """Decide in rational arithmetic what the model's own parameters are, all layers at once."""
    work = landscape.num_samples * landscape.size**3
    if not is_plain(landscape) or landscape.loss_name == "cross_entropy" or work > MAX_WORK:
        reason = (
            "exact second derivatives are for networks that are read completely, squared or L1 loss"
            f" and samples x params^3 up to {MAX_WORK:.0e}; certify the blocks, or use float64"
        )
        return ExactVerdict("undecided", reason)
    if not is_exactly_stationary(landscape, numbers):
        return ExactVerdict("undecided", "the gradient is zero to rounding, but not exactly")
    jets = Jets(landscape, numbers)
    hessian = jets.hessian()
    values, vectors = np.linalg.eigh(numbers.floats(hessian))
    semidefinite, rank = inertia(hessian)
    curvature = float(values[0])
    if not semidefinite:
        bend = jets.along(numbers.array(vectors[:, 0]))
        if bend >= 0:
            return ExactVerdict("undecided", "the negative curvature is too small for a direction")
        margin = -float(numbers.floats(np.array([bend], dtype=object))[0])
        reason = "the gradient vanishes exactly and the Hessian is exactly not semidefinite"
        return ExactVerdict("saddle", reason, margin, vectors[:, 0], curvature)
    if rank == landscape.size:
        reason = "the gradient vanishes exactly and the Hessian is exactly positive definite"
        return ExactVerdict("strict_local_minimum", reason, max(0.0, curvature), None, curvature)
    flat = 0
    if landscape.weight_decay == 0:
        flat = flat_directions(landscape, landscape.block(0).pattern()).shape[1]
    if rank == landscape.size - flat:
        reason = "the gradient vanishes exactly; the Hessian is flat along symmetries only"
        return ExactVerdict("local_minimum", reason, 0.0, None, curvature)
    return ExactVerdict("undecided", "the gradient vanishes exactly, but the Hessian is singular")


def is_exactly_stationary(landscape: Landscape, numbers: Rational) -> bool:
    """Whether no kink is at zero and the gradient vanishes exactly, in every layer."""
    for name in landscape.layers:
        block = landscape.block(name)
        empty = np.empty(0, dtype=np.intp)
        point = numbers.array(block.theta)
        local = Local.at(landscape, name, numbers, point, block.pattern(), empty)
        if (local.values == 0).any() or any(entry != 0 for entry in local.gradient):
            return False
    return True


def inertia(matrix: Array) -> tuple[bool, int]:
    """Whether a symmetric rational matrix is positive semidefinite, and then its rank.

    Gaussian elimination with diagonal pivots: semidefinite matrices never show a negative pivot, and
    vanish altogether once no positive one is left.
    """
    rest, rank = matrix.copy(), 0
    while len(rest):
        diagonal = list(np.diag(rest))
        if any(entry < 0 for entry in diagonal):
            return False, rank
        pivot = next((k for k, entry in enumerate(diagonal) if entry > 0), None)
        if pivot is None:
            return not any(entry != 0 for entry in rest.ravel()), rank
        row = rest[pivot]
        reduced = rest - np.outer(rest[:, pivot] / row[pivot], row)
        rest = np.delete(np.delete(reduced, pivot, axis=0), pivot, axis=1)
        rank += 1
    return True, rank
