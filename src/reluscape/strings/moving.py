"""The straight way between two points of a landscape, as a network whose layers all move."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from reluscape.landscape import Landscape
from reluscape.losses import make_loss
from reluscape.network.chain import (
    NUMBERS,
    Chain,
    Links,
    combined,
    gives,
    in_parts,
    through,
    widest,
)

Floats = NDArray[np.float64]

_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Moving:
    """`theta(t) = (1 - t) theta_a + t theta_b` of a landscape whose moving layers are all readable.

    Attributes:
        landscape: The landscape.
        start: theta_a (params,).
        stop: theta_b (params,).
        first: The layers at t = 0.
        last: The layers at t = 1.
        features: Their inputs, which do not move (samples, inputs).
    """

    landscape: Landscape
    start: Floats
    stop: Floats
    first: Links
    last: Links
    features: Floats

    @classmethod
    def of(cls, landscape: Landscape, start: Floats, stop: Floats) -> Moving | None:
        """The way between two points, or None where a part that is not readable moves.

        What is read is affine in the parameters: re-parametrised layers are not read. The shortest tail
        that holds all that moves is taken; at both ends it has to give the module's own outputs.
        """
        for chain in landscape.chains:
            if np.array_equal(start[chain.hidden], stop[chain.hidden]):
                return cls._along(chain, landscape, start, stop)
        return None

    @classmethod
    def _along(
        cls, chain: Chain, landscape: Landscape, start: Floats, stop: Floats
    ) -> Moving | None:
        """The way of a chain, with other features where parameters lie before it."""
        models = [landscape.module_at(point).cpu() for point in (start, stop)]
        inputs, features = torch.from_numpy(landscape.inputs), chain.features
        if chain.hidden.any():
            features = chain.features_of(models[0], inputs)
        first, last = (chain.links_of(model) for model in models)
        for links, model in ((first, models[0]), (last, models[1])):
            with torch.no_grad():
                output = model(inputs).reshape(len(inputs), -1).numpy()
            if not gives(links, features, output):
                return None
        return cls(landscape, start, stop, first, last, features)

    def theta(self, t: float) -> Floats:
        """The point at t; the ends exactly."""
        return at(self.start, self.stop, t)

    def loss(self, t: float, rows: slice | NDArray[np.intp] = slice(None)) -> float:
        """The landscape's loss there, by the layers; or as if there were only some of the samples."""
        links, theta = self.at(t), self.theta(t)
        outputs = in_parts(lambda some: through(links, some), links, self.features[rows])
        name, targets = self.landscape.loss_name, self.landscape.targets[rows]
        value = make_loss(name).value(outputs, targets)
        return value + 0.5 * self.landscape.weight_decay * float(theta @ theta)

    def at(self, t: float) -> Links:
        """The layers at t."""
        return combined((self.first, self.last), lambda a, b: (1.0 - t) * a + t * b)

    @cached_property
    def widest(self) -> int:
        """The largest number of values that one sample has anywhere."""
        return widest(self.first, self.features)

    @cached_property
    def errors(self) -> Floats:
        """Bounds on rounding errors of the outputs at any t, also by Bernstein coefficients.

        Twice those of sums of products: a unit within its error of zero may be given either slope, and an
        input within its error of the largest may be taken for it.
        """
        largest = combined((self.first, self.last), lambda a, b: np.maximum(np.abs(a), np.abs(b)))
        unit = sum(link.terms + 2 + 4 * layer + 8 for layer, link in enumerate(self.first))
        sizes = in_parts(lambda rows: _sizes(largest, rows), largest, self.features)
        return np.asarray(2.0 * unit * _EPS * sizes)

    @cached_property
    def inputs(self) -> Floats:
        """Values of the first layer at both ends, between which they are affine (2, samples, units)."""
        return self._inputs(slice(None))

    def entering(self, rows: NDArray[np.intp]) -> Floats:
        """The same of some samples; those of all are kept where they are not too large."""
        units = self.first[0](self.features[:1]).size
        if 2 * units * len(self.features) <= 4 * NUMBERS:
            return self.inputs[:, rows]
        return self._inputs(rows)

    def _inputs(self, rows: slice | NDArray[np.intp]) -> Floats:
        features = self.features[rows]
        return np.stack([links[0](features) for links in (self.first, self.last)])

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
        moved = value + side * (apart + summing)
        if np.isnan(moved):  # an overflow: nothing is known
            return np.inf if side > 0 else 0.0
        return float(max(moved, 0.0))


def at(start: Floats, stop: Floats, t: float) -> Floats:
    """The point at t of a segment; its ends exactly."""
    return np.asarray(start if t <= 0 else stop if t >= 1 else (1.0 - t) * start + t * stop)


def _sizes(links: Links, features: Floats) -> Floats:
    """Sums of absolute terms behind the outputs."""
    sizes = np.abs(features)
    for link in links:
        sizes = link.sizes(sizes)
    return sizes


def is_readable(landscape: Landscape) -> bool:
    """Whether every segment of a landscape can be read."""
    return any(not chain.hidden.any() for chain in landscape.chains)
