"""Layers on channels and places: convolutions and pooling, and which nodes of a graph they are.

Like all layers they take a row of numbers for each sample: its channels and places, row-major.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn
from torch.nn import functional as F

from reluscape.network.layers import Floats, Scale, _frozen
from reluscape.network.nodes import Obstacle, check_norm, folded, plain_numbers
from reluscape.network.tracing import Trace, name_of

_CONVOLUTIONS: Final = {
    nn.Conv1d.forward: F.conv1d,
    nn.Conv2d.forward: F.conv2d,
    nn.Conv3d.forward: F.conv3d,
}
_MEANS: Final = {
    *(nn.AvgPool1d.forward, nn.AvgPool2d.forward, nn.AvgPool3d.forward),
    *(nn.AdaptiveAvgPool1d.forward, nn.AdaptiveAvgPool2d.forward, nn.AdaptiveAvgPool3d.forward),
}
_MEAN_CALLS: Final = {
    *(F.avg_pool1d, F.avg_pool2d, F.avg_pool3d),
    *(F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
}
_MAXIMA: Final = {
    nn.MaxPool1d.forward: F.max_pool1d,
    nn.MaxPool2d.forward: F.max_pool2d,
    nn.MaxPool3d.forward: F.max_pool3d,
}
_ADAPTIVE: Final = {
    nn.AdaptiveMaxPool1d.forward: F.adaptive_max_pool1d,
    nn.AdaptiveMaxPool2d.forward: F.adaptive_max_pool2d,
    nn.AdaptiveMaxPool3d.forward: F.adaptive_max_pool3d,
}
_MAXIMUM_CALLS: Final = {*_MAXIMA.values(), *_ADAPTIVE.values()}
_POOLED: Final = ("AvgPool", "MaxPool", "AdaptiveAvgPool", "AdaptiveMaxPool")
_CALLED: Final = ("avg_pool", "max_pool", "adaptive_avg_pool", "adaptive_max_pool")
#: How many axes the places of a layer's inputs have; torch takes inputs of one axis less for one sample.
_AXES: Final[dict[Any, int]] = {
    **{getattr(nn, f"{kind}{n}d").forward: n for kind in ("Conv", *_POOLED) for n in (1, 2, 3)},
    **{getattr(F, f"{kind}{n}d"): n for kind in _CALLED for n in (1, 2, 3)},
}
_WINDOW: Final = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")

#: Numbers that a convolution takes at once: its outputs and their sums of products stay in the cache.
NUMBERS = 2**15

Call = Callable[..., Any]
Shape = tuple[int, ...]


def _on_places(call: Call, values: Floats, shape: Shape) -> Floats:
    """A call on (samples, *shape) of rows with any axes before; a few at a time, which is faster."""
    rows = torch.from_numpy(np.ascontiguousarray(values)).reshape(-1, *shape)
    with torch.no_grad():
        parts = [call(part) for part in torch.split(rows, max(1, NUMBERS // math.prod(shape)))]
    found = torch.cat(parts).flatten(1).numpy()
    return np.asarray(found.reshape(*values.shape[:-1], found.shape[1]))


@dataclass(frozen=True, slots=True, eq=False)
class Convolution:
    """One ``nn.Conv1d``, ``nn.Conv2d`` or ``nn.Conv3d``, zeros around its inputs.

    Attributes:
        weight: (out channels, in channels / groups, *kernel) float64, read-only.
        bias: (out channels,) float64, read-only, or None.
        name: the layer's qualified name in the module.
        call: the convolution of torch with its stride, padding, dilation and groups.
        shape: of the inputs, (in channels, *places).
        places: number of places of one channel of the outputs.
        groups: number of groups of channels that do not mix.
    """

    weight: Floats
    bias: Floats | None
    name: str
    call: Call
    shape: Shape
    places: int
    groups: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", _frozen(self.weight))
        if self.bias is not None:
            object.__setattr__(self, "bias", _frozen(self.bias))

    @property
    def terms(self) -> int:
        """Number of products in one sum."""
        return math.prod(self.weight.shape[1:])

    @property
    def shift(self) -> Floats | float:
        """What is added to the sums of products."""
        return 0.0 if self.bias is None else np.repeat(self.bias, self.places)

    def __call__(self, values: Floats) -> Floats:
        """Maps (N, in) to (N, out)."""
        return self.linear(values) + self.shift

    def linear(self, values: Floats) -> Floats:
        """The same without the bias."""
        weight = torch.tensor(self.weight)
        return _on_places(lambda rows: self.call(rows, weight), values, self.shape)

    def sizes(self, before: Floats) -> Floats:
        """Sums of absolute terms behind the outputs, from those behind the inputs."""
        weight = torch.tensor(np.abs(self.weight))
        sums = _on_places(lambda rows: self.call(rows, weight), before, self.shape)
        return sums + np.abs(self.shift)


@dataclass(frozen=True, slots=True, eq=False)
class Mean:
    """Averages over windows of places.

    Attributes:
        call: torch's average pooling with its windows.
        shape: of the inputs, (channels, *places).
        name: the layer's qualified name, or the call's.
    """

    call: Call
    shape: Shape
    name: str

    @property
    def terms(self) -> int:
        """Number of terms of one sum at most."""
        return math.prod(self.shape[1:])

    def __call__(self, values: Floats) -> Floats:
        """Maps (..., in) to (..., out)."""
        return _on_places(self.call, values, self.shape)

    def sizes(self, before: Floats) -> Floats:
        """Sums of absolute terms behind the outputs, from those behind the inputs."""
        return self(before)


@dataclass(frozen=True, slots=True, eq=False)
class Maximum:
    """The largest values in windows of places.

    Attributes:
        call: torch's max pooling with its windows, which also gives the places of the largest.
        shape: of the inputs, (channels, *places).
        name: the layer's qualified name, or the call's.
    """

    call: Call
    shape: Shape
    name: str
    terms: ClassVar[int] = 0

    def __call__(self, values: Floats) -> Floats:
        """Maps (..., in) to (..., out)."""
        return _on_places(lambda rows: self.call(rows)[0], values, self.shape)

    def largest(self, values: Floats) -> NDArray[np.intp]:
        """Which of its inputs each output is: maps (..., in) to numbers (..., out)."""
        offsets = math.prod(self.shape[1:]) * torch.arange(self.shape[0])

        def places(rows: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.call(rows)[1]
            return found + offsets.reshape(-1, *[1] * (found.ndim - 2))

        return np.asarray(_on_places(places, values, self.shape), dtype=np.intp)

    def sizes(self, before: Floats) -> Floats:
        """Sums of absolute terms behind the outputs, from those behind the inputs."""
        return self(before)


Spatial = Convolution | Mean | Maximum


def read_spatial(node: fx.Node, source: fx.Node, trace: Trace) -> Spatial | Scale | None:
    """A node as a layer on channels and places; None where it is none that is known."""
    shape = trace.shapes.get(source, ())
    if len(shape) < 3 or shape[0] != trace.num_samples:
        return None
    module = trace.modules[str(node.target)] if node.op == "call_module" else None
    forward: Any = node.target if module is None else type(module).forward
    if len(shape) != 2 + _AXES.get(forward, len(shape) - 2):
        return None
    if module is None:
        return _read_call(node, shape[1:])
    name = name_of(node)
    if forward in _CONVOLUTIONS:
        return _read_convolution(node, trace, shape[1:])
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
        check_norm(node, trace)
        return Scale(*folded(module, math.prod(shape[2:])), name)
    if forward in _MEANS and getattr(module, "divisor_override", None) is None:
        return Mean(module, shape[1:], name)
    if forward in _MAXIMA and not module.return_indices:
        window = {key: getattr(module, key) for key in _WINDOW}
        return _maximum(partial(_MAXIMA[forward], **window), shape[1:], name)
    if forward in _ADAPTIVE and not module.return_indices:
        size = module.output_size
        return _maximum(partial(_ADAPTIVE[forward], output_size=size), shape[1:], name)
    return None


def _read_convolution(node: fx.Node, trace: Trace, shape: Shape) -> Convolution:
    module: Any = trace.modules[str(node.target)]
    weight, bias = plain_numbers(node, trace, fixed=True)
    if module.padding_mode != "zeros":
        raise Obstacle(node, trace, f"pads its inputs by {module.padding_mode!r}, not with zeros")
    names = ("stride", "padding", "dilation", "groups")
    call = partial(
        _CONVOLUTIONS[type(module).forward], **{key: getattr(module, key) for key in names}
    )
    places = math.prod(trace.shapes[node][2:])
    return Convolution(weight, bias, name_of(node), call, shape, places, module.groups)


def _read_call(node: fx.Node, shape: Shape) -> Spatial | None:
    arguments, named = node.args[1:], dict(node.kwargs)
    if any(isinstance(one, fx.Node) for one in (*arguments, *named.values())):
        return None
    overridden = named.pop("divisor_override", None) is not None or len(arguments) > 5
    if node.target in _MEAN_CALLS and not overridden:
        return Mean(_again(node, named), shape, node.name)
    with_places = named.pop("return_indices", False) or len(arguments) > 5
    if node.target in _MAXIMUM_CALLS and not with_places:
        return _maximum(_again(node, named), shape, node.name)
    return None


def _again(node: fx.Node, named: dict[str, Any]) -> Call:
    """A node's call of other values."""
    call: Any = node.target
    return lambda rows, **more: call(rows, *node.args[1:], **named, **more)


def _maximum(call: Call, shape: Shape, name: str) -> Maximum | None:
    """The layer; None where a window has no input, so that its largest is none of them."""
    layer = Maximum(partial(call, return_indices=True), shape, name)
    some = layer(np.zeros((1, math.prod(shape))))
    return layer if np.isfinite(some).all() else None
