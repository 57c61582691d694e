"""The immutable layers, the chain of them, and what reading a module returns."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def _frozen(values: Any) -> Floats:
    """A float64 copy that nobody can write to."""
    array = np.array(values, dtype=np.float64)
    array.setflags(write=False)
    return array


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """One ``nn.Linear``: ``x @ weight.T + bias``.

    Attributes:
        weight: (out, in) float64, read-only.
        bias: (out,) float64, read-only, or None.
        name: the layer's qualified name in the module; empty if the module is the layer.
    """

    weight: Floats
    bias: Floats | None
    name: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", _frozen(self.weight))
        if self.bias is not None:
            object.__setattr__(self, "bias", _frozen(self.bias))

    def __call__(self, values: Floats) -> Floats:
        """Maps (N, in) to (N, out)."""
        product = self.linear(values)
        return product if self.bias is None else product + self.bias

    @property
    def terms(self) -> int:
        """Terms of one sum."""
        return int(self.weight.shape[1])

    @property
    def shift(self) -> Floats | float:
        """What is added to the sums of products."""
        return 0.0 if self.bias is None else self.bias

    def linear(self, values: Floats) -> Floats:
        """The same without the bias."""
        return np.asarray(values @ self.weight.T)

    def sizes(self, before: Floats) -> Floats:
        """Sums of absolute terms behind the outputs, from those behind the inputs."""
        product: Floats = before @ np.abs(self.weight).T
        return product if self.bias is None else product + np.abs(self.bias)

    def __repr__(self) -> str:
        outputs, inputs = self.weight.shape
        return f"Affine({self.name!r}, {inputs} -> {outputs}, bias={self.bias is not None})"


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """A ``BatchNorm1d`` in eval mode, folded: ``x * scale + shift``, both (n,) float64, read-only.

    With running mean m, running variance v, weight g and bias b: ``scale = g / sqrt(v + eps)``
    and ``shift = b - m * scale``.
    """

    scale: Floats
    shift: Floats
    name: str
    terms: ClassVar[int] = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", _frozen(self.scale))
        object.__setattr__(self, "shift", _frozen(self.shift))

    def __call__(self, values: Floats) -> Floats:
        """Maps (N, n) to (N, n)."""
        return self.linear(values) + self.shift

    def linear(self, values: Floats) -> Floats:
        """The same without the shift."""
        return values * self.scale

    def sizes(self, before: Floats) -> Floats:
        """Sums of absolute terms behind the outputs, from those behind the inputs."""
        return before * np.abs(self.scale) + np.abs(self.shift)

    def __repr__(self) -> str:
        return f"Scale({self.name!r}, {self.scale.size})"


@dataclass(frozen=True, slots=True)
class Rectifier:
    """``x`` where ``x > 0``, else ``slope * x``: a ReLU (slope 0) or a LeakyReLU."""

    slope: float
    name: str
    terms: ClassVar[int] = 0

    def __call__(self, values: Floats) -> Floats:
        """Maps any shape to the same shape."""
        return np.where(values > 0, values, self.slope * values)

    def sizes(self, before: Floats) -> Floats:
        """Sums of absolute terms behind the outputs, from those behind the inputs."""
        return before * max(1.0, abs(self.slope))


Layer = Affine | Scale | Rectifier


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A chain of layers that starts with an affine one; calling it maps (N, n0) to (N, n_out).

    In balanced columns that layer's inputs are scaled first.
    """

    layers: tuple[Layer, ...]

    @property
    def affine(self) -> tuple[Affine, ...]:
        """The affine layers, in order."""
        return tuple(layer for layer in self.layers if isinstance(layer, Affine))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the affine layers, in order."""
        return tuple(layer.name for layer in self.affine)

    @property
    def num_inputs(self) -> int:
        """Number of features that the first layer takes."""
        return int(self.affine[0].weight.shape[1])

    @property
    def num_outputs(self) -> int:
        """Number of outputs of the last affine layer."""
        return int(self.affine[-1].weight.shape[0])

    def __call__(self, features: Floats) -> Floats:
        """The network's output in NumPy float64; (N, num_inputs) to (N, num_outputs)."""
        values = features
        for layer in self.layers:
            values = layer(values)
        return values

    def rounding_bounds(self, features: Floats) -> Floats:
        """Bounds on the float64 rounding errors of the output, shape (N, num_outputs)."""
        return rounding_bounds(self.layers, features)

    def __repr__(self) -> str:
        widths = [self.num_inputs, *(layer.weight.shape[0] for layer in self.affine)]
        return f"Network({' -> '.join(map(str, widths))}, {len(self.layers)} layers)"


def rounding_bounds(layers: Iterable[Any], features: Floats) -> Floats:
    """Bounds on the float64 rounding errors of the output of layers one after the other.

    To first order `n eps sum |terms|`, where n is the number of additions one after the other and
    the absolute terms go through all layers (Higham, Accuracy and Stability of Numerical
    Algorithms, section 3.1): in whatever order the sums are formed.
    """
    sizes, additions = np.abs(features), 0
    for layer in layers:
        sizes = layer.sizes(sizes)
        additions += layer.terms + 2
    return np.asarray(additions * np.finfo(np.float64).eps * sizes)


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What ``read_network`` found.

    Attributes:
        network: the readable tail of the module.
        features: (N, n0) float64, read-only: the input of the tail's first affine layer.
        opaque: names of the parts before it, run once as a black box; empty if the whole module
            is readable (reshaping the inputs does not count).
        reason: why those parts are not read; None if there are none.
    """

    network: Network
    features: Floats
    opaque: tuple[str, ...]
    reason: str | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", _frozen(self.features))

    def __repr__(self) -> str:
        return f"Reading({self.network!r}, opaque={len(self.opaque)}, reason={self.reason!r})"
