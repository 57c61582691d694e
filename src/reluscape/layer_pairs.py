"""How much two layers bend the loss together, by each sample's activations and slopes.

This is the matrix A of `reluscape.curvature`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reluscape.kinks import Rounded, product
from reluscape.tolerances import TOLERANCES

__all__ = ["MAX_WORK", "Chain", "by_samples", "rows_of"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
EPS = float(np.finfo(np.float64).eps)
#: Multiplications for two layers that this may take: some tenths of a second. Measured, not derived.
MAX_WORK = 3e8


@dataclass(frozen=True, slots=True)
class Chain:
    """What the bounds need to know of a network besides its data.

    Attributes:
        plain: |W_k|, shape (layers,).
        carried: |V_k|, shape (layers,).
        slopes: Slopes of the rectifiers behind each layer.
        constants: Layers with parameters that hand on the constant 1: those before the last bias.
        biased: Whether any layer has a bias.
        movable: Which of the layers have parameters, shape (layers,); the others are fixed.
    """

    plain: Floats
    carried: Floats
    slopes: tuple[tuple[float, ...], ...]
    constants: int
    biased: bool
    movable: Bools

    @property
    def hidden(self) -> int:
        """H, the number of affine layers with parameters but one."""
        return int(self.movable.sum()) - 1

    @property
    def gains(self) -> Floats:
        """Product of `max(1, |slope|)` over the rectifiers behind each layer, shape (layers,)."""
        return np.array([math.prod(max(1.0, abs(a)) for a in some) for some in self.slopes])

    @property
    def fixed(self) -> float:
        """Product of |V_k| over the layers that are fixed."""
        return float(np.prod(self.carried[~self.movable]))

    @property
    def linear(self) -> bool:
        """Whether no rectifier bends anything."""
        return all(slope == 1.0 for some in self.slopes for slope in some)

    def lengths(self, features: Floats) -> Floats:
        """Lengths of the samples, with the constant where there is a bias, shape (samples,)."""
        return rows_of(features, np.zeros_like(features), self.biased)


def rows_of(values: Floats, errors: Floats, constant: bool = False) -> Floats:
    """Lengths of the rows, at most, with the constant 1 behind them where it is asked for."""
    squares = ((np.abs(values) + errors) ** 2).sum(axis=1) + float(constant)
    return np.asarray(np.sqrt(squares))


def by_samples(
    chain: Chain,
    inputs: Sequence[Rounded],
    gradients: Sequence[Rounded],
    masks: Sequence[Rounded],
    weights: Sequence[Floats],
) -> Floats:
    """A, of the layers with parameters.

    Where switches behind a layer are unsettled, paths from it are too: norms count, or single units.
    """
    moving, gains = np.flatnonzero(chain.movable).tolist(), chain.gains
    scales = [np.diag(one) for one in weights]  # fixed layers are diagonal
    before, behind = [rows_of(*one) for one in inputs], [rows_of(*one) for one in gradients]
    matrix = np.zeros((len(chain.plain),) * 2)
    for place, i in enumerate(moving):
        for j in moving[place + 1 :]:
            between = np.prod(chain.plain[i + 1 : j]) * np.prod(gains[i:j])
            size = between * (behind[j] * before[i]).mean()
            if j == moving[place + 1]:
                size = min(size, _by_units(inputs[i], gradients[j], _scaled(masks, scales, i, j)))
            elif not any(spread.any() for _, spread in masks[i:]):
                passing = [mask for mask, _ in masks[i:j]]
                size = min(size, _by_paths(inputs[i], gradients[j], passing, weights[i + 1 : j]))
            matrix[i, j] = matrix[j, i] = size
    return matrix[np.ix_(chain.movable, chain.movable)]


def _scaled(masks: Sequence[Rounded], scales: Sequence[Floats], i: int, j: int) -> Rounded:
    """What the units between two layers are multiplied by, where all between them is fixed."""
    mask = masks[i]
    for k in range(i + 1, j):
        mask = product(product(mask, (scales[k], np.zeros_like(scales[k]))), masks[k])
    return mask


def _by_units(inputs: Rounded, gradients: Rounded, factors: Rounded) -> float:
    """`max_u |mean_n D_nu g_n h_n^T|` for two layers with the units u between them.

    With columns u of X_j and rows u of X_i the sum over samples is one over units, where samples of
    opposite slopes cancel. Infinite where it takes too many multiplications.
    """
    (h, h_errors), (g, g_errors), (mask, spread) = inputs, gradients, factors
    (samples, width), units, outputs = h.shape, mask.shape[1], g.shape[1]
    if samples * width * units * outputs > MAX_WORK:
        return math.inf
    weighted = (mask[:, :, None] * g[:, None, :]).reshape(samples, -1) / samples
    means = (weighted.T @ h).reshape(units, outputs, width)
    sizes = rows_of(h, h_errors), rows_of(g, g_errors)
    rounding = (samples + 8) * EPS * sizes[0] * sizes[1]
    carried = sizes[0] * rows_of(g_errors, 0 * g) + sizes[1] * rows_of(h_errors, 0 * h)
    off = (np.abs(mask) + spread) * (rounding + carried)[:, None]
    off += spread * (sizes[0] * rows_of(g, 0 * g))[:, None]
    raised = 1.0 + TOLERANCES.eigenvalue * (outputs + width) * EPS
    largest = np.linalg.norm(means, 2, axis=(1, 2)) * raised + off.mean(axis=0)
    return float(largest.max())


def _by_paths(
    inputs: Rounded, gradients: Rounded, masks: Sequence[Floats], weights: Sequence[Floats]
) -> float:
    """|B| for two layers with others between them, where samples of opposite slopes cancel as well.

    Infinite where it takes too many multiplications; where singular values of the means do, they are
    bounded by Frobenius norms.
    """
    (h, h_errors), (g, g_errors) = inputs, gradients
    into, out, outputs, width = masks[-1].shape[1], masks[0].shape[1], g.shape[1], h.shape[1]
    widest = max(outputs * width, *(max(one.shape) for one in weights))
    if len(h) * into * out * widest > MAX_WORK:
        return math.inf
    passing = masks[0][:, :, None] * np.eye(masks[0].shape[1])
    for mask, weight in zip(masks[1:], weights, strict=True):
        passing = mask[:, :, None] * (weight @ passing)
    shape = (out, outputs, width)
    means = np.empty((into, *shape))
    for v in range(into):  # all at once would fill the memory
        weighted = (passing[:, v, :, None] * g[:, None, :]).reshape(len(h), -1) / len(h)
        means[v] = (weighted.T @ h).reshape(shape)
    spectral = means.size * min(outputs, width) <= MAX_WORK / 10
    sizes = np.linalg.norm(means, 2 if spectral else "fro", axis=(2, 3))
    raised = 1.0 + TOLERANCES.eigenvalue * (outputs + width + into + out) * EPS
    most = math.prod(float(np.linalg.norm(one)) for one in weights)
    most *= math.prod(float(np.abs(one).max()) for one in masks)
    lengths = rows_of(h, h_errors), rows_of(g, g_errors)
    additions = len(h) + sum(one.shape[1] for one in weights) + 8
    carried = lengths[0] * rows_of(g_errors, 0 * g) + lengths[1] * rows_of(h_errors, 0 * h)
    slack = most * float((additions * EPS * lengths[0] * lengths[1] + carried).mean())
    return float(np.linalg.norm(sizes, 2) * raised + slack)
