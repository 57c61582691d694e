"""The second derivative and the curvature bounds of a network, written out once more for `verify`.

Nothing here is shared with what finds them (`hessian`, `curvature`): products with the Hessian come from
differentiating the forward and the backward pass by hand, in NumPy, and the bounds are typed from their
definition. The same passes with absolute values everywhere give the sums of absolute terms, and with
them how far rounding may carry the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from reluscape.layer_pairs import MAX_WORK
from reluscape.network import Affine, Rectifier
from reluscape.unfolded import Unfolded

Floats = NDArray[np.float64]
EPS = float(np.finfo(np.float64).eps)
#: `c` of the squared losses `c / N sum |f - y|^2`.
FACTORS = {"squared": 1.0, "half_squared": 0.5}


@dataclass(frozen=True, slots=True)
class Passes:
    """A network's layers and data, with what goes through them.

    Attributes:
        weights: W_k of each affine layer.
        biases: b_k, or None.
        inputs: h_(k-1), with which each is multiplied, (samples, inputs).
        factors: D_k, what the rectifiers behind each multiply by, (samples, units); where a switching
            value counts as zero, the middle of both slopes.
        spreads: How far they are off there, (samples, units).
        gains: The most that they can multiply by, a number for each affine layer.
        outputs: f, (samples, outputs).
        targets: y.
        loss: Name of the loss.
        movable: Of each affine layer whether it has parameters; the others are diagonal.
        diagonal: Of each whether its parameters are its weight's diagonal, and its bias.
        zeros: Least and largest number of switching values that may count as zero.
        absolute: Whether all of this is in absolute values.
        given: Slopes that stand for the loss's own.
    """

    weights: tuple[Floats, ...]
    biases: tuple[Floats | None, ...]
    inputs: tuple[Floats, ...]
    factors: tuple[Floats, ...]
    spreads: tuple[Floats, ...]
    gains: tuple[float, ...]
    outputs: Floats
    targets: NDArray[Any]
    loss: str
    movable: tuple[bool, ...]
    diagonal: tuple[bool, ...]
    zeros: tuple[int, int] = (0, 0)
    absolute: bool = False
    given: Floats | None = None

    @property
    def moving(self) -> list[int]:
        """The layers with parameters."""
        return [k for k, moves in enumerate(self.movable) if moves]

    @property
    def additions(self) -> int:
        """Additions one after the other in a pass forward and back, and over the samples."""
        return 4 * (len(self.outputs) + sum(sum(one.shape) + 3 for one in self.weights))

    def softened(self) -> float:
        """Of absolute passes: how much more the loss's derivatives are off than their terms are rounded.

        Three probabilities multiply each other, and each changes by twice the outputs' change.
        """
        if self.loss != "cross_entropy":
            return 1.0
        last = np.abs(self.inputs[-1]) @ np.abs(self.weights[-1]).T
        last = last if self.biases[-1] is None else last + np.abs(self.biases[-1])
        return 1.0 + 6.0 * self.gains[-1] * float(last.max())

    def mean(self) -> float:
        """The loss without weight decay."""
        if self.loss == "cross_entropy":
            rows = np.arange(len(self.outputs))
            return float(-log_softmax(self.outputs, axis=1)[rows, self.targets].mean())
        return float(FACTORS[self.loss] * (self._residuals() ** 2).sum() / len(self.outputs))

    def slopes(self) -> Floats:
        """Each sample's derivative of its own loss by its outputs."""
        if self.given is not None:
            return self.given
        if self.loss != "cross_entropy":
            return np.asarray(2.0 * FACTORS[self.loss] * self._residuals())
        own: Floats = np.eye(self.outputs.shape[1])[self.targets]
        chances: Floats = softmax(self.outputs, axis=1)
        return chances + own if self.absolute else chances - own

    def bent(self, moved: Floats) -> Floats:
        """How these slopes change when the outputs move."""
        if self.loss != "cross_entropy":
            return 2.0 * FACTORS[self.loss] * moved
        chances: Floats = softmax(self.outputs, axis=1)
        shared: Floats = chances * (chances * moved).sum(axis=1, keepdims=True)
        return chances * moved + shared if self.absolute else chances * moved - shared

    def _residuals(self) -> Floats:
        targets = np.asarray(self.targets, dtype=np.float64)
        return self.outputs + np.abs(targets) if self.absolute else self.outputs - targets


def passes_of(
    found: Unfolded, features: Floats, targets: NDArray[Any], loss: str, most: bool = False
) -> Passes:
    """Go through a network of affine layers and rectifiers.

    Switching values count as zero that one more rounding error may have made of it; with `most`, all
    that may possibly count.
    """
    network = found.network
    weights, biases, inputs, factors, spreads, gains = [], [], [], [], [], []
    values, least, largest, first = features, 0, 0, True
    sizes, still = np.abs(features), features == 0.0
    for layer in network.layers:
        if isinstance(layer, Affine):
            weights.append(np.array(layer.weight))
            biases.append(None if layer.bias is None else np.array(layer.bias))
            inputs.append(values)
            still = np.tile(still.all(axis=1)[:, None] & (layer.bias is None), len(layer.weight))
            terms = np.abs(values) @ np.abs(layer.weight).T
            sizes, values = sizes @ np.abs(layer.weight).T, values @ layer.weight.T
            if layer.bias is not None:
                values, sizes = values + layer.bias, sizes + np.abs(layer.bias)
                terms = terms + np.abs(layer.bias)
            factors.append(np.ones_like(values))
            spreads.append(np.zeros_like(values))
            gains.append(1.0)
            first = True
            continue
        assert isinstance(layer, Rectifier)
        factor = np.where(values > 0, 1.0, layer.slope)
        if layer.slope != 1.0:
            bound = 100.0 * EPS * sum(one.shape[1] + 3 for one in weights) * sizes
            few, many = (~still & (np.abs(values) <= one) for one in (EPS * terms, bound))
            least, largest = least + first * int(few.sum()), largest + first * int(many.sum())
            zero = many if most else few
            still |= (values <= 0) & ~zero & (layer.slope == 0.0)
            factor[zero] = (1.0 + layer.slope) / 2.0
            spread = np.where(zero, abs(1.0 - layer.slope) / 2.0, 0.0)
            wide = (np.abs(factors[-1]) + spreads[-1]) * (np.abs(factor) + spread)
            spreads[-1] = wide - np.abs(factors[-1] * factor)
            first = False
        values, sizes = layer(values), sizes * max(1.0, abs(layer.slope))
        terms = terms * max(1.0, abs(layer.slope))
        factors[-1] = factors[-1] * factor
        gains[-1] *= max(1.0, abs(layer.slope))
    return Passes(
        tuple(weights), tuple(biases), tuple(inputs), tuple(factors), tuple(spreads), tuple(gains),
        values, targets, loss, found.movable, found.diagonal, (least, largest),
    )  # fmt: skip


def absolute(passes: Passes, passing: bool = False) -> Passes:
    """The same passes with sums of absolute terms for their values; the softmax keeps its outputs.

    With `passing`, rectifiers pass on all that they can: what is off may be rounded before.
    """
    values, inputs = np.abs(passes.inputs[0]), []
    parts = zip(passes.factors, passes.spreads, passes.gains, strict=True)
    factors = tuple(
        np.full_like(one, gain) if passing else np.abs(one) + off for one, off, gain in parts
    )
    spreads = tuple(np.zeros_like(one) for one in factors)
    weights = tuple(np.abs(one) for one in passes.weights)
    biases = tuple(None if one is None else np.abs(one) for one in passes.biases)
    for weight, bias, factor in zip(weights, biases, factors, strict=True):
        inputs.append(values)
        values = values @ weight.T
        values = factor * (values if bias is None else values + bias)
    outputs = passes.outputs if passes.loss == "cross_entropy" else values
    return replace(
        passes, weights=weights, biases=biases, inputs=tuple(inputs), factors=factors,
        spreads=spreads, outputs=outputs, absolute=True,
    )  # fmt: skip


def derivatives(passes: Passes) -> tuple[Floats, ...]:
    """g_k: each sample's derivative of its own loss by z_k, first layer to last, (samples, units)."""
    slope, found = passes.slopes() * passes.factors[-1], []
    for weight, factor in zip(passes.weights[:0:-1], passes.factors[-2::-1], strict=True):
        found.append(slope)
        slope = factor * (slope @ weight)
    return (*found, slope)[::-1]


def margins(passes: Passes) -> tuple[Floats, ...]:
    """How far each g_k may be off for other slopes where switching values count as zero."""
    slopes = passes.slopes()
    slope, off = slopes * passes.factors[-1], np.abs(slopes) * passes.spreads[-1]
    found = [off]
    parts = zip(passes.weights[:0:-1], passes.factors[-2::-1], passes.spreads[-2::-1], strict=True)
    for weight, factor, spread in parts:
        slope, off = slope @ weight, off @ np.abs(weight)
        off = (np.abs(factor) + spread) * off + spread * np.abs(slope)
        slope = factor * slope
        found.append(off)
    return tuple(found[::-1])


Moves = Sequence[tuple[Floats, Floats | None]]


def second_derivative(passes: Passes, moves: Moves) -> list[tuple[Floats, Floats | None]]:
    """The Hessian of the mean loss times a direction (X_k, x_k), layer by layer, all as if they moved.

    Differentiate both passes: `dz_k = W_k dh_(k-1) + X_k h_(k-1) + x_k`, and the gradient
    `mean_n g_k h_(k-1)^T` of W_k by the product rule, with
    `dg_k = D_k (W_(k+1)^T dg_(k+1) + X_(k+1)^T g_(k+1))`.
    """
    entering, moved = [], np.zeros_like(passes.inputs[0])
    parts = zip(passes.weights, passes.inputs, passes.factors, moves, strict=True)
    for weight, values, factor, (change, shift) in parts:
        entering.append(moved)
        moved = moved @ weight.T + values @ change.T
        moved = factor * (moved if shift is None else moved + shift)
    slopes, bend = derivatives(passes), passes.bent(moved) * passes.factors[-1]
    found: list[tuple[Floats, Floats | None]] = []
    for k in reversed(range(len(moves))):
        product = bend.T @ passes.inputs[k] + slopes[k].T @ entering[k]
        shift = None if passes.biases[k] is None else bend.sum(axis=0) / len(bend)
        found.append((product / len(bend), shift))
        if k:
            bend = passes.factors[k - 1] * (bend @ passes.weights[k] + slopes[k] @ moves[k][0])
    return found[::-1]


# ---- the bounds --------------------------------------------------------------------------------


def excesses(passes: Passes) -> dict[str, float]:
    """How far the curvature may lie below the weight decay: paper, sharp and data, as defined.

    Of `absolute` passes: what rounding errors of these are in proportion to.
    """
    layers, moving = len(passes.weights), passes.moving
    if (h := len(moving) - 1) == 0:
        return dict.fromkeys(("paper", "sharp", "data"), 0.0)
    last = max((k for k in range(layers) if passes.biases[k] is not None), default=-1)
    plain = [norm(one) for one in passes.weights]
    carried = carried_norms(passes)
    fixed = math.prod(carried[k] for k in range(layers) if k not in moving)
    lengths = np.sqrt((passes.inputs[0] ** 2).sum(axis=1) + float(last >= 0))
    reach = float(lengths.max()) * _typical_slope(passes) * math.prod(passes.gains)
    crossed = np.zeros((layers, layers))
    for j in moving:
        for i in (k for k in moving if k < j):
            before = math.prod(carried[:i])
            crossed[i, j] = before * math.prod(plain[k] for k in range(i + 1, layers) if k != j)
    with_data = _with_data(passes, plain)
    widest = max(carried[k] for k in moving)
    return {
        "paper": reach * h * (h + 1) * fixed * widest ** (h - 1),
        "sharp": reach * largest(crossed + crossed.T),
        "data": largest(with_data + with_data.T),
    }


def carried_norms(passes: Passes) -> list[float]:
    """|V_k| of every layer."""
    last = max((k for k, bias in enumerate(passes.biases) if bias is not None), default=-1)
    parts = zip(passes.weights, passes.biases, strict=True)
    return [norm(_carrying(weight, bias, k, last)) for k, (weight, bias) in enumerate(parts)]


def _with_data(passes: Passes, plain: Sequence[float]) -> Floats:
    """The upper triangle of A, zero where a layer has no parameters."""
    slopes, off, moving = derivatives(passes), margins(passes), passes.moving
    inputs = [
        values if bias is None else np.column_stack([values, np.ones(len(values))])
        for values, bias in zip(passes.inputs, passes.biases, strict=True)
    ]
    found = np.zeros((len(plain), len(plain)))
    for place, j in enumerate(moving):
        size = np.linalg.norm(np.abs(slopes[j]) + off[j], axis=1)
        for i in moving[:place]:
            typical = float((size * np.linalg.norm(inputs[i], axis=1)).mean())
            between = math.prod(plain[i + 1 : j]) * math.prod(passes.gains[i:j])
            found[i, j] = typical * between
        for i in moving[: max(place - 1, 0)]:
            if any(spread.any() for spread in passes.spreads[i:]):
                continue  # paths are unsettled
            found[i, j] = min(found[i, j], _by_path(passes, i, j, slopes[j], inputs[i]))
        if place:
            i = moving[place - 1]
            factor = passes.factors[i]
            wide = np.abs(factor) + passes.spreads[i]
            for k in range(i + 1, j):
                scale = np.diag(passes.weights[k])
                factor = factor * scale * passes.factors[k]
                wide = wide * np.abs(scale) * (np.abs(passes.factors[k]) + passes.spreads[k])
            lengths = np.linalg.norm(inputs[i], axis=1)
            extra = wide * np.linalg.norm(off[j], axis=1)[:, None]
            extra += (wide - np.abs(factor)) * np.linalg.norm(slopes[j], axis=1)[:, None]
            more = (extra * lengths[:, None]).mean(axis=0)
            found[i, j] = min(found[i, j], _by_unit(factor, slopes[j], inputs[i], more))
    return found


def _by_unit(factor: Floats, slope: Floats, values: Floats, more: Floats) -> float:
    """`max_u |mean_n D_nu g_n h_n^T| + more_u`, where finding it takes few enough multiplications."""
    samples, units = factor.shape
    if samples * units * slope.shape[1] * values.shape[1] > MAX_WORK:
        return math.inf
    sums = [norm((factor[:, [u]] * slope).T @ values) for u in range(units)]
    return float((np.array(sums) / len(factor) + more).max())


def _by_path(passes: Passes, i: int, j: int, slope: Floats, values: Floats) -> float:
    """`|B|` with `B_vu = |mean_n M_nvu g_n h_n^T|`, where finding it takes few enough multiplications."""
    first, weights = passes.factors[i], passes.weights[i + 1 : j]
    samples, into = len(first), passes.factors[j - 1].shape[1]
    sizes = into, first.shape[1], slope.shape[1], values.shape[1]
    widest = max(sizes[2] * sizes[3], *(max(weight.shape) for weight in weights))
    if samples * sizes[0] * sizes[1] * widest > MAX_WORK:
        return math.inf
    spectral = math.prod(sizes) * min(sizes[2:]) <= MAX_WORK / 10
    found = np.zeros(sizes[:2])
    for u in range(first.shape[1]):
        reached = np.zeros_like(first)  # what a unit of this layer passes on, sample by sample
        reached[:, u] = first[:, u]
        for k in range(i + 1, j):
            reached = (reached @ passes.weights[k].T) * passes.factors[k]
        for v in range(into):
            mean = (reached[:, [v]] * slope).T @ values / samples
            found[v, u] = norm(mean) if spectral else float(np.linalg.norm(mean))
    return norm(found)


def _typical_slope(passes: Passes) -> float:
    """E."""
    slopes = passes.slopes()
    if passes.loss != "cross_entropy":
        return math.sqrt(float((slopes**2).sum()) / len(slopes))
    mean = float(np.linalg.norm(slopes, axis=1).mean())
    return mean if passes.absolute else max(math.sqrt(2.0) * min(1.0, passes.mean()), mean)


def _carrying(weight: Floats, bias: Floats | None, k: int, last: int) -> Floats:
    """V_k: the layer with the constant 1 behind its inputs and, before the last bias, its outputs."""
    if k > last:
        return weight
    units, width = weight.shape
    matrix = np.zeros((units + (k < last), width + 1))
    matrix[:units, :width] = weight
    matrix[:units, width] = 0.0 if bias is None else bias
    if k < last:
        matrix[units, width] = 1.0
    return matrix


def norm(matrix: Floats) -> float:
    """Spectral norm, from the eigenvalues of the smaller product with the transpose."""
    scale = float(np.abs(matrix).max(initial=0.0))
    if scale == 0.0:
        return 0.0
    scaled = matrix / scale
    square = scaled @ scaled.T if len(matrix) <= matrix.shape[1] else scaled.T @ scaled
    return scale * math.sqrt(largest(square))


def largest(matrix: Floats) -> float:
    """Largest eigenvalue of a symmetric matrix."""
    return float(np.linalg.eigvalsh(matrix)[-1])
