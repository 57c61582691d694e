"""The straight way between two points of a landscape, as a network whose layers all move."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from reluscape.landscape import Landscape
from reluscape.network import Affine, Network, Rectifier, Scale, read_network

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Moving:
    """`theta(t) = (1 - t) theta_a + t theta_b` of a landscape whose moving layers are all readable.

    Attributes:
        landscape: The landscape.
        start: theta_a (params,).
        stop: theta_b (params,).
        first: The network at t = 0.
        last: The network at t = 1.
        features: Their inputs, which do not move (samples, inputs).
    """

    landscape: Landscape
    start: Floats
    stop: Floats
    first: Network
    last: Network
    features: Floats

    @classmethod
    def of(cls, landscape: Landscape, start: Floats, stop: Floats) -> Moving | None:
        """The way between two points, or None where a part that is not readable moves.

        What is read is affine in the parameters: re-parametrised layers are not read.
        """
        if landscape.reading is None:
            return None
        hidden = ~_read(landscape)
        if landscape.reading.opaque and not np.array_equal(start[hidden], stop[hidden]):
            return None
        inputs = torch.from_numpy(landscape.inputs)
        first, last = (
            read_network(landscape.module_at(point).cpu(), inputs) for point in (start, stop)
        )
        return cls(landscape, start, stop, first.network, last.network, first.features)

    def theta(self, t: float) -> Floats:
        """The point at t; the ends exactly."""
        return at(self.start, self.stop, t)

    def loss(self, t: float) -> float:
        """The landscape's loss there."""
        return self.landscape.loss(self.theta(t))

    @cached_property
    def sizes(self) -> list[Floats]:
        """Sums of absolute terms behind each layer's values, wherever t is: (samples, units) each."""
        values, found = np.abs(self.features), []
        for a, b in zip(self.first.layers, self.last.layers, strict=True):
            values = _largest(a, b).sizes(values)
            found.append(values)
        return found

    @cached_property
    def terms(self) -> list[int]:
        """Lengths of the sums behind each layer's values."""
        layers = self.first.layers
        return [a.weight.shape[1] + 2 if isinstance(a, Affine) else 2 for a in layers]

    @cached_property
    def errors(self) -> Floats:
        """Bounds on rounding errors of the outputs at any t, also by Bernstein coefficients.

        Twice those of sums of products: a unit within its error of zero may be given either slope.
        """
        unit = sum(terms + 4 * layer + 8 for layer, terms in enumerate(self.terms))
        return np.asarray(2.0 * unit * _EPS * self.sizes[-1])

    @cached_property
    def inputs(self) -> Floats:
        """Values of the first layer at both ends, between which they are affine (2, samples, units)."""
        return np.stack([net.layers[0](self.features) for net in (self.first, self.last)])

    @cached_property
    def decay(self) -> Floats:
        """Bernstein coefficients (3,) of the weight decay on [0, 1]."""
        a, b = self.start, self.stop
        return 0.5 * self.landscape.weight_decay * np.array([a @ a, a @ b, b @ b])

    def highest(self, value: float, further: Floats | float = 0.0) -> float:
        """Bound on the loss itself from its value, with outputs wrong by `errors` and `further`."""
        return self._moved(value, self.errors + further, 1.0)

    def lowest(self, value: float) -> float:
        """The same from below, with outputs wrong by `errors` alone."""
        return self._moved(value, self.errors, -1.0)

    def _moved(self, value: float, errors: Floats, side: float) -> float:
        """The farthest that the true loss may lie on one side of `value`."""
        count, name = len(self.features), self.landscape.loss_name
        summing = _EPS * (
            (errors.size + 64.0) * abs(value) + self.landscape.size * self.decay.max()
        )
        if name == "l1":
            apart = float(errors.sum()) / count
        elif name == "cross_entropy":  # log(1 + e^m) has a slope of at most 1, and of its own value
            margins = 2.0 * errors.max(axis=1)
            largest = float(margins.max())
            grown = float(np.expm1(largest)) * value if largest < 500.0 else np.inf
            apart = min(float(margins.sum()) / count, grown)
        else:  # by the triangle inequality for the root of the mean square
            share = 1.0 if name == "squared" else 0.5
            root = np.sqrt(share * float((errors**2).sum()) / count)
            apart = 2.0 * root * np.sqrt(max(value, 0.0)) + root**2
        return float(max(value + side * (apart + summing), 0.0))


def at(start: Floats, stop: Floats, t: float) -> Floats:
    """The point at t of a segment; its ends exactly."""
    return np.asarray(start if t <= 0 else stop if t >= 1 else (1.0 - t) * start + t * stop)


def _read(landscape: Landscape) -> Bools:
    """Which parameters belong to layers that are read (params,)."""
    assert landscape.reading is not None
    layers = landscape.reading.network.layers
    names = {layer.name for layer in layers if not isinstance(layer, Rectifier)}
    return np.concatenate(
        [
            np.full(values.numel(), name.rpartition(".")[0] in names)
            for name, values in landscape.module_at().named_parameters()
        ]
    )


def _largest(
    a: Affine | Scale | Rectifier, b: Affine | Scale | Rectifier
) -> Affine | Scale | Rectifier:
    """The layer with the larger number of both, without signs."""
    if isinstance(a, Affine) and isinstance(b, Affine):
        bias = None
        if a.bias is not None and b.bias is not None:
            bias = np.maximum(np.abs(a.bias), np.abs(b.bias))
        return Affine(np.maximum(np.abs(a.weight), np.abs(b.weight)), bias, a.name)
    if isinstance(a, Scale) and isinstance(b, Scale):
        scale, shift = (
            np.maximum(np.abs(x), np.abs(y)) for x, y in ((a.scale, b.scale), (a.shift, b.shift))
        )
        return Scale(scale, shift, a.name)
    return a
