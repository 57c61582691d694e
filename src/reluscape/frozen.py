"""An independent evaluation of a block, in float64 or exact rationals, for proofs and their checks.

Everything here is computed from the raw network and data by carrying each sample's values and
Jacobians forward through the layers, one pattern per sample; nothing is shared with the fast
arithmetic of `piecewise.py`, so that agreement between the two means something.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.arithmetic import Evaluating
from reluscape.errors import InputError
from reluscape.landscape import Landscape
from reluscape.network import Affine, Rectifier, Scale

Array = NDArray[Any]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]

_CHUNK = 2 * 10**7


@dataclass(frozen=True, slots=True)
class Rows:
    """Some samples of the frozen network: switching values, outputs and their Jacobians by z.

    Shapes: values (rows, switches), outputs (rows, outputs), jacobians (rows, switches, width) and
    output_jacobians (rows, outputs, width); z is the block's own output.
    """

    values: Array
    outputs: Array
    jacobians: Array
    output_jacobians: Array


class FrozenBlock:
    """A block evaluated sample by sample with given patterns.

    Patterns are boolean matrices (samples, switches), the switches of a sample in the order of the
    layers and, for the L1 loss, its residuals last. `bits_of` and `place` translate kink numbers.

    Args:
        landscape: The landscape; its network must be readable from the layer on.
        layer: Name of the layer.
        arithmetic: float64 or rational.
        absolute: Replace weights, inputs and targets by their absolute values, which gives the sums
            of absolute terms that rounding bounds need.
    """

    def __init__(
        self,
        landscape: Landscape,
        layer: str,
        arithmetic: Evaluating,
        *,
        absolute: bool = False,
    ) -> None:
        reading = landscape.reading
        if reading is None or layer not in landscape.layers:
            raise InputError(f"layer must be one of {landscape.layers}; received {layer!r}")
        self.arithmetic = arithmetic
        self.loss = landscape.loss_name
        self.weight_decay = arithmetic.array(np.array(landscape.weight_decay))[()]
        layers = reading.network.layers
        position = next(
            i for i, part in enumerate(layers) if isinstance(part, Affine) and part.name == layer
        )
        own = layers[position]
        assert isinstance(own, Affine)
        self.width, self.bias = len(own.weight), own.bias is not None
        self._absolute = absolute
        self._tail = [self._convert(part) for part in merge_rectifiers(layers[position + 1 :])]
        self.features = self._features(reading.features, layers[:position])
        self.targets = (
            landscape.targets if self.loss == "cross_entropy" else self._number(landscape.targets)
        )
        self.terms = sum(part.weight.shape[1] + 2 for part in layers if isinstance(part, Affine))
        self.widths, self.outputs = self._tail_widths()
        self.switches = sum(self.widths)
        self.residuals = self.outputs if self.loss == "l1" else 0

    # ---- kink numbers ------------------------------------------------------------------------

    @property
    def num_kinks(self) -> int:
        """Number of kinks of the block."""
        return len(self.features) * (self.switches + self.residuals)

    def place(self, kinks: Indices) -> tuple[Indices, Indices]:
        """Sample and switch of each kink number."""
        samples, switches = np.empty(len(kinks), dtype=np.intp), np.empty(len(kinks), dtype=np.intp)
        start, column, count = 0, 0, len(self.features)
        for width in [*self.widths, self.residuals]:
            here = (kinks >= start) & (kinks < start + count * width)
            samples[here], units = np.divmod(kinks[here] - start, max(width, 1))
            switches[here] = column + units
            start, column = start + count * width, column + width
        return samples, switches

    def numbers_of(self, places: Indices) -> Indices:
        """Kink numbers, ascending, of (sample, switch) pairs."""
        return np.sort(self.bits_of(np.arange(self.num_kinks))[places[:, 0], places[:, 1]])

    def vector_of(self, matrix: Array) -> Array:
        """Inverse of `bits_of`."""
        vector = np.empty(self.num_kinks, dtype=matrix.dtype)
        vector[self.bits_of(np.arange(self.num_kinks))] = matrix
        return vector

    def bits_of(self, vector: Array) -> Array:
        """Rearrange a vector over kinks into a (samples, switches) matrix."""
        count, start, parts = len(self.features), 0, []
        for width in [*self.widths, self.residuals]:
            parts.append(vector[start : start + count * width].reshape(count, width))
            start += count * width
        return np.hstack(parts)

    def leads(self) -> Bools:
        """Whether weights that are not zero lead from a sample's switch to another, (switches, switches).

        Residuals, where they are kinks, come last.
        """
        total = sum(self.widths) + self.residuals
        found = np.zeros((total, total), dtype=np.bool_)
        reached, column = np.zeros((self.width, 0)), 0
        for kind, first, _ in self._tail:
            if kind is Rectifier:
                units = len(reached)
                found[:column, column : column + units] = reached.T > 0
                reached, column = np.hstack([reached, np.eye(units)]), column + units
            elif kind is Affine:
                reached = np.minimum((first != 0).astype(np.float64) @ reached, 1.0)
            else:
                reached = reached * (first != 0)[:, None]
        found[:column, column:] = reached.T > 0 if self.residuals else False
        return found

    # ---- evaluation --------------------------------------------------------------------------

    def evaluate(self, theta: Array, bits: Bools, rows: Indices) -> Rows:
        """Evaluate the samples `rows` at theta with the patterns `bits` (one row each)."""
        z = self.outputs_of_block(theta, rows)
        jacobian = np.broadcast_to(
            self._number(np.eye(self.width)), (len(rows), self.width, self.width)
        )
        values, jacobians, column = [], [], 0
        for kind, first, second in self._tail:
            if kind is Rectifier:
                values.append(z)
                jacobians.append(jacobian)
                active = first[bits[:, column : column + z.shape[1]].astype(np.intp)]
                column += z.shape[1]
                z, jacobian = z * active, jacobian * active[:, :, None]
            elif kind is Affine:
                z, jacobian = z @ first.T + second, np.matmul(first, jacobian)
            else:
                z, jacobian = z * first + second, jacobian * first[:, None]
        if self.residuals:
            values.append(z - self.targets[rows])
            jacobians.append(jacobian)
        empty = np.empty((len(rows), 0, self.width), dtype=jacobian.dtype)
        stacked = np.concatenate([empty[:, :, 0], *values], axis=1) if values else empty[:, :, 0]
        return Rows(stacked, z, np.concatenate([empty, *jacobians], axis=1), jacobian)

    def outputs_of_block(self, theta: Array, rows: Indices) -> Array:
        """The block's own outputs z for the samples `rows`."""
        inputs = self.features.shape[1]
        weight = theta[: self.width * inputs].reshape(self.width, inputs)
        z = self.features[rows] @ weight.T
        return z + theta[self.width * inputs :] if self.bias else z

    def rate_of(self, direction: Array, sample: int) -> Array:
        """Rate of one sample's z along a direction of theta."""
        return np.asarray(self.outputs_of_block(direction, np.array([sample]))[0])

    def chunks(self) -> list[Indices]:
        """Samples in pieces whose Jacobians stay below 160 MB."""
        step = max(1, _CHUNK // (self.width * (self.switches + self.outputs + self.width)))
        count = len(self.features)
        return [np.arange(start, min(start + step, count)) for start in range(0, count, step)]

    def output_slope(self, outputs: Array, bits: Bools, rows: Indices) -> Array:
        """Derivative of the mean loss by the outputs; L1 signs from the pattern's residual bits."""
        count = len(self.features)
        if self.loss == "l1":
            signs = self.arithmetic.array(np.array([-1.0, 1.0]))
            return signs[bits[:, self.switches :].astype(np.intp)] / count
        if self.loss == "cross_entropy":
            shifted = self.arithmetic.exp(outputs - outputs.max(axis=1, keepdims=True))
            here = np.arange(len(rows)), self.targets[rows]
            total = shifted.sum(axis=1)
            shifted[here] = shifted[here] * 0
            shifted[here] = -shifted.sum(axis=1)
            return np.asarray(shifted / total[:, None] / count)
        difference = outputs - self.targets[rows]
        return np.asarray(difference * 2 / count if self.loss == "squared" else difference / count)

    def spread(self, units: Array, rows: Indices) -> Array:
        """Sum over samples of `units_i (x) x~_i` in theta's order."""
        weight = (units.T @ self.features[rows]).ravel()
        return np.concatenate([weight, units.sum(axis=0)]) if self.bias else weight

    def wide(self, units: Array, rows: Indices) -> Array:
        """Rows `units_k (x) x~_{rows[k]}` in theta's order, shape (k, params)."""
        weight = (units[:, :, None] * self.features[rows][:, None, :]).reshape(
            len(rows), self.width * self.features.shape[1]
        )
        return np.hstack([weight, units]) if self.bias else weight

    def curvature(self, outputs: Array) -> Array:
        """Second derivative of the mean loss by each sample's outputs."""
        count, width = len(self.features), outputs.shape[1]
        if self.loss == "cross_entropy":
            shifted = self.arithmetic.exp(outputs - outputs.max(axis=1, keepdims=True))
            p = shifted / shifted.sum(axis=1, keepdims=True)
            return np.asarray(
                (np.eye(width, dtype=int) * p[:, None, :] - p[:, :, None] * p[:, None, :]) / count
            )
        scale = {"squared": 2.0, "half_squared": 1.0, "l1": 0.0}[self.loss]
        single = self.arithmetic.array(np.eye(width) * scale) / count
        return np.broadcast_to(single, (len(outputs), width, width))

    def hessian(self, theta: Array, bits: Bools, basis: Array) -> Array:
        """Hessian on the cell in the columns of `basis`, weight decay included."""
        size = basis.shape[1]
        total = self.arithmetic.array(np.zeros((size, size)))
        for rows in self.chunks():
            part = self.evaluate(theta, bits[rows], rows)
            outputs = part.outputs.shape[1]
            step = max(1, _CHUNK // (outputs * len(basis)))
            for start in range(0, len(rows), step):
                here = slice(start, min(start + step, len(rows)))
                units = part.output_jacobians[here]
                flat = (
                    self.wide(units.reshape(-1, self.width), np.repeat(rows[here], outputs)) @ basis
                )
                inner = self.curvature(part.outputs[here])
                bent = np.matmul(inner, flat.reshape(-1, outputs, size))
                total = total + flat.T @ bent.reshape(-1, size)
        return np.asarray(total + self.weight_decay * (basis.T @ basis))

    # ---- private -----------------------------------------------------------------------------

    def _number(self, values: Array) -> Array:
        """Float64 values in this arithmetic, absolute ones where asked for."""
        return self.arithmetic.array(np.abs(values) if self._absolute else values)

    def _convert(self, part: Affine | Scale | Rectifier) -> tuple[type, Array, Array]:
        """A layer as (kind, matrix or scale or slopes, shift), its numbers in this arithmetic."""
        if isinstance(part, Affine):
            shift = np.zeros(len(part.weight)) if part.bias is None else part.bias
            return Affine, self._number(part.weight), self._number(shift)
        if isinstance(part, Scale):
            return Scale, self._number(part.scale), self._number(part.shift)
        slopes = self._number(np.array([part.slope, 1.0]))
        return Rectifier, slopes, slopes

    def _features(self, inputs: Array, layers: Sequence[Affine | Scale | Rectifier]) -> Array:
        """The block's inputs: the earlier layers evaluated in this arithmetic."""
        h = self._number(inputs)
        for kind, first, second in map(self._convert, layers):
            if kind is Affine:
                h = h @ first.T + second
            elif kind is Scale:
                h = h * first + second
            else:
                h = h * first[(h > 0).astype(np.intp)]
        return h

    def _tail_widths(self) -> tuple[list[int], int]:
        """Units of each rectifier, and the number of outputs."""
        width, widths = self.width, []
        for kind, first, _ in self._tail:
            if kind is Rectifier:
                widths.append(width)
            elif kind is Affine:
                width = len(first)
        return widths, width


def merge_rectifiers(
    layers: Sequence[Affine | Scale | Rectifier],
) -> list[Affine | Scale | Rectifier]:
    """Join neighbouring rectifiers, whose kinks coincide, into one."""
    merged: list[Affine | Scale | Rectifier] = []
    for part in layers:
        before = merged[-1] if merged else None
        if isinstance(part, Rectifier) and isinstance(before, Rectifier):
            slope = before.slope * part.slope if before.slope >= 0 else before.slope
            merged[-1] = Rectifier(slope, before.name)
        else:
            merged.append(part)
    return merged
