"""What a merge tree is made of: one layer, as arrays that are saved beside its result."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.block import Block
from reluscape.errors import InputError, UnsupportedModelError

Floats = NDArray[np.float64]

#: Rounding errors of an output, for each term of its sums, over the sum of their sizes: of the sum, and
#: of the parameters.
ROUNDING = 2.0 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer with one rectifier and one linear layer behind it.

    Outputs are `shift + weights rho(W x + b)`, with `rho(u) = max(u, slope u)` on its negative side.

    Attributes:
        features: The layer's inputs, and a column of ones for a bias (samples, inputs + bias).
        weights: Output weights (outputs, units).
        residual: Targets without the output bias (samples, outputs).
        slope: The rectifier's, on the negative side.
        loss: "squared", "half_squared" or "l1".
        theta: The layer's own parameters (params,).
        bias: Whether it has biases.
    """

    features: Floats
    weights: Floats
    residual: Floats
    slope: float
    loss: str
    theta: Floats
    bias: bool

    @classmethod
    def of(cls, block: Block) -> Layer:
        """Read a block.

        Raises:
            UnsupportedModelError: Another structure, or another loss.
            InputError: Weight decay, or something else than a block.
        """
        if not isinstance(block, Block):
            raise InputError(
                "block must be a layer of a landscape, landscape.block(layer); received"
                f" {type(block).__name__}"
            )
        piecewise = block.piecewise
        maps = piecewise.maps
        if len(maps) != 2 or maps[0].matrix is not None or maps[0].shift is not None:
            raise UnsupportedModelError(
                "merge_tree needs a layer with one ReLU and one linear layer behind it; behind"
                f" {block.layer!r} there are {len(maps) - 1} rectifiers, or something else between"
            )
        if piecewise.loss.name == "cross_entropy":
            raise UnsupportedModelError(
                "merge_tree needs loss 'squared', 'half_squared' or 'l1', whose minima over cells are"
                " found exactly; received 'cross_entropy'"
            )
        if piecewise.weight_decay:
            raise InputError(f"merge_tree needs weight_decay=0; received {piecewise.weight_decay}")
        matrix = np.ones(piecewise.width) if maps[1].matrix is None else maps[1].matrix
        weights = np.diag(matrix) if matrix.ndim == 1 else matrix
        features: Floats = piecewise.features
        if piecewise.bias:
            features = np.hstack([features, np.ones((len(features), 1))])
        targets: NDArray[Any] = np.asarray(piecewise.targets, dtype=np.float64)
        residual = targets if maps[1].shift is None else targets - maps[1].shift
        return cls(
            features, weights, residual, piecewise.slopes[0], piecewise.loss.name,
            block.theta.copy(), piecewise.bias,
        )  # fmt: skip

    @property
    def is_l1(self) -> bool:
        """Whether the loss is that of absolute values."""
        return self.loss == "l1"

    @property
    def scale(self) -> float:
        """The loss is this times a sum of squares or of absolute values."""
        return (0.5 if self.loss == "half_squared" else 1.0) / len(self.features)

    @property
    def zero_loss(self) -> float:
        """The loss where all units put out zero: the unit in which losses are compared."""
        return float(self._loss_of(self.residual))

    def unlike(self, other: Layer) -> list[str]:
        """Names of what differs from another layer."""
        pairs = [
            (part.name, getattr(self, part.name), getattr(other, part.name))
            for part in fields(Layer)
        ]
        return [name for name, own, theirs in pairs if not np.array_equal(own, theirs)]

    def limit(self, below: float) -> float:
        """A loss of interest, with what rounding errors may add to one that is equal to it."""
        return below + 1e-12 * self.zero_loss

    def unpack(self, theta: Floats) -> Floats:
        """Weights and biases of each unit, (..., units, inputs + bias)."""
        units, inputs = self.weights.shape[1], self.features.shape[1] - self.bias
        weight = theta[..., : units * inputs].reshape(*theta.shape[:-1], units, inputs)
        if not self.bias:
            return weight
        return np.concatenate([weight, theta[..., units * inputs :, None]], axis=-1)

    def pack(self, rows: Floats) -> Floats:
        """The inverse of `unpack`."""
        *shape, units, inputs = rows.shape
        if not self.bias:
            return rows.reshape(*shape, units * inputs)
        weight = rows[..., :-1].reshape(*shape, units * (inputs - 1))
        return np.concatenate([weight, rows[..., -1]], axis=-1)

    def value(self, theta: Floats) -> float:
        """The loss at the layer's parameters."""
        return float(self.values(theta))

    def values(self, thetas: Floats) -> Floats:
        """The losses at parameters (..., params)."""
        return self._loss_of(self._left(thetas))

    def rounding(self, thetas: Floats) -> Floats:
        """By how much losses at parameters (..., params) may differ from those before these were rounded.

        Where outputs are differences of huge ones, that is noticeable. Rounding errors in the loss
        itself are of that size, too.
        """
        rows = np.abs(self.unpack(thetas)).swapaxes(-1, -2)
        terms = np.abs(self.features) @ rows @ np.abs(self.weights).T
        error = ROUNDING * (self.features.shape[1] + self.weights.shape[1]) * terms
        if not self.is_l1:
            error = (2.0 * np.abs(self._left(thetas)) + error) * error
        return np.asarray(self.scale * error.sum(axis=(-2, -1)))

    def _left(self, theta: Floats) -> Floats:
        """Targets less outputs (..., samples, outputs)."""
        values = self.features @ self.unpack(theta).swapaxes(-1, -2)
        hidden = np.where(values > 0, values, self.slope * values)
        return self.residual - hidden @ self.weights.T

    def highest(self, start: Floats, ends: Floats) -> Floats:
        """The largest loss on each straight line from a point (params,) to others (ends, params).

        Between the points of a line at which units change sides the loss is convex, so it is one of these
        points', or of the line's ends.

        Returns:
            Shape (ends,).
        """
        values, steps = (self.features @ self.unpack(one).swapaxes(-1, -2) for one in (start, ends))
        steps = steps - values
        with np.errstate(divide="ignore", invalid="ignore"):
            times = np.reshape(-values / steps, (len(ends), values.size))
        times = np.where((times > 0) & (times < 1), times, 0.0)
        times = np.hstack([times, np.ones((len(ends), 1))])
        hidden = values + times[:, :, None, None] * steps[:, None]
        hidden = np.where(hidden > 0, hidden, self.slope * hidden)
        residual = self.residual - hidden @ self.weights.T
        terms = np.abs(residual) if self.is_l1 else residual**2
        found = self.scale * terms.sum(axis=(2, 3)).max(axis=1)
        return np.asarray(np.maximum(found, self.value(start)))

    def _loss_of(self, residual: Floats) -> Floats:
        terms = np.abs(residual) if self.is_l1 else residual**2
        return np.asarray(self.scale * terms.sum(axis=(-2, -1)))
