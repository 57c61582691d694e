"""One affine layer of a landscape, with all else fixed.

From that layer on, the network must be readable as affine and ReLU layers, and everything about the block
is exact piecewise arithmetic in NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reluscape.affine import fold
from reluscape.errors import InputError, UnsupportedModelError
from reluscape.losses import make_loss
from reluscape.network import Affine, Reading, Rectifier
from reluscape.piecewise import CellLoss, KinkGroup, Piecewise
from reluscape.validation import check_theta

if TYPE_CHECKING:
    from reluscape.cell import Cell
    from reluscape.landscape import Landscape

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """The parameters of one affine layer, with all other layers fixed.

    The loss is continuous in `theta` and, on each activation cell (a polyhedron of theta on which all
    kinks keep their sign), affine (L1), convex quadratic (squared) or convex smooth (cross-entropy).

    Attributes:
        landscape: The landscape it belongs to.
        layer: Name of the layer.
        index: Its index among the readable affine layers.
        piecewise: The block's arithmetic.
        theta: The layer's weight, row-major, then its bias; shape (params,). Read-only.
        sizes: Factors on the landscape's parameters that give this block's (params,): all one, but in
            balanced columns.
    """

    landscape: Landscape
    layer: str
    index: int
    piecewise: Piecewise = field(repr=False)
    theta: Floats = field(repr=False)
    sizes: Floats = field(repr=False)

    @classmethod
    def of(cls, landscape: Landscape, reading: Reading, name: str) -> Block:
        """Build the block of the layer called `name`."""
        if landscape.is_shared(name):
            raise UnsupportedModelError(
                f"layer {name!r} must own its weight; received one shared with another layer: give"
                " each its own copy"
            )
        layers = reading.network.layers
        position = next(
            i for i, layer in enumerate(layers) if isinstance(layer, Affine) and layer.name == name
        )
        affine = layers[position]
        assert isinstance(affine, Affine)
        features, magnitudes = _features(reading, position)
        theta = _flatten(affine)
        theta.flags.writeable = False
        rest = np.delete(landscape.theta, landscape.positions(name))
        maps, slopes = fold(layers[position + 1 :])
        piecewise = Piecewise(
            features=features,
            magnitudes=magnitudes,
            width=len(affine.weight),
            bias=affine.bias is not None,
            maps=maps,
            slopes=slopes,
            labels=_labels(reading, position, len(maps)),
            loss=make_loss(landscape.loss_name),
            targets=landscape.targets,
            weight_decay=landscape.weight_decay,
            other_decay=0.5 * landscape.weight_decay * float(rest @ rest),
            depth_terms=sum(
                layer.weight.shape[1] + 2 for layer in layers if isinstance(layer, Affine)
            ),
        )
        index, sizes = reading.network.names.index(name), np.ones(len(theta))
        return cls(landscape, name, index, piecewise, theta, sizes)

    @property
    def size(self) -> int:
        """Number of parameters."""
        return self.piecewise.num_params

    @property
    def num_samples(self) -> int:
        """Number of samples."""
        return self.piecewise.num_samples

    @property
    def num_kinks(self) -> int:
        """Number of kinks: hidden switching values and, for the L1 loss, residuals."""
        return self.piecewise.num_kinks

    @property
    def kink_groups(self) -> tuple[KinkGroup, ...]:
        """The kinks' numbering: one group per rectifier, then the residuals for the L1 loss."""
        return self.piecewise.groups

    def loss(self, theta: ArrayLike | None = None) -> float:
        """Loss at `theta` (default: the model's own weights), equal to the landscape's there."""
        return self.piecewise.value(self.check(theta))

    def gradient(self, theta: ArrayLike | None = None) -> Floats:
        """Gradient of the cell of `pattern(theta)`, shape (params,).

        It is the gradient of the loss where no kink is active; at a kink it is the gradient of one
        adjacent cell, the one on whose side all active kinks are negative.
        Cost: one forward and one backward pass through the layers from this one on.
        """
        return self.piecewise.gradient(self.check(theta))

    def kinks(self, theta: ArrayLike | None = None) -> Floats:
        """Switching values, shape (num_kinks,), in the order of `kink_groups`."""
        return self.piecewise.forward(self.check(theta))[0]

    def pattern(self, theta: ArrayLike | None = None) -> Bools:
        """Signs of the kinks, True where positive, shape (num_kinks,)."""
        return self.kinks(theta) > 0

    def cell(self, theta: ArrayLike | None = None) -> Cell:
        """The activation cell around `theta`."""
        from reluscape.cell import Cell  # cell builds on blocks

        point = self.check(theta)
        return Cell(self, self.pattern(point), point)

    def restrict(self, pattern: Bools) -> CellLoss:
        """The loss on the cell of `pattern` as an explicit affine (L1) or quadratic (squared) map.

        Raises:
            InputError: For the cross-entropy, which is neither, or a pattern of the wrong shape.
        """
        return self.piecewise.restrict(self.check_pattern(pattern))

    def describe_kink(self, kink: int) -> str:
        """Name a kink: its sample, layer and unit."""
        for group in self.kink_groups:
            if group.start <= kink < group.stop:
                sample, unit = divmod(kink - group.start, group.units)
                return (
                    f"sample {sample}, {group.label},"
                    f" {'output' if group.label == 'residual' else 'unit'} {unit}"
                )
        raise InputError(f"kink must lie in 0..{self.num_kinks - 1}; received {kink}")

    def embed(self, direction: Floats) -> Floats:
        """Write a direction of the block as a direction of the whole landscape."""
        whole = np.zeros(self.landscape.size)
        whole[self.landscape.positions(self.layer)] = direction
        return whole

    def check(self, theta: ArrayLike | None) -> Floats:
        """Return `theta` as a float64 vector of the block's size, or the block's own."""
        return self.theta if theta is None else check_theta(theta, self.size)

    def check_pattern(self, pattern: ArrayLike) -> Bools:
        """Return `pattern` as a boolean vector with one entry per kink."""
        bits = np.asarray(pattern)
        if bits.dtype != np.bool_ or bits.shape != (self.num_kinks,):
            raise InputError(
                f"pattern must be boolean of shape ({self.num_kinks},); received {bits.dtype} of"
                f" shape {bits.shape}"
            )
        return bits

    def __repr__(self) -> str:
        """One line: layer and sizes."""
        return (
            f"Block({self.layer!r}, {self.size} parameters, {self.num_kinks} kinks,"
            f" loss={self.landscape.loss_name!r})"
        )


def _flatten(affine: Affine) -> Floats:
    """Weight row-major, then bias."""
    parts = [affine.weight.ravel()] + ([] if affine.bias is None else [affine.bias])
    return np.concatenate(parts)


def _features(reading: Reading, position: int) -> tuple[Floats, Floats]:
    """Inputs of the layer at `position` and the sums of absolute terms behind them."""
    hidden, sizes = reading.features, np.abs(reading.features)
    for layer in reading.network.layers[:position]:
        hidden, sizes = layer(hidden), layer.sizes(sizes)
    return hidden, sizes


def _labels(reading: Reading, position: int, count: int) -> tuple[str, ...]:
    """Labels of the kink groups: the affine layer whose outputs switch, then 'residual'."""
    labels, last, plain = [], "", True
    for layer in reading.network.layers[position:]:
        if isinstance(layer, Affine):
            last, plain = layer.name, True
        elif isinstance(layer, Rectifier) and plain:
            labels.append(f"layer {last}")
            plain = False
        elif not isinstance(layer, Rectifier):
            plain = True
    return (*labels[: count - 1], "residual")
