"""A module as a chain of affine layers, rectifiers, convolutions and pooling, all of which may move."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from reluscape.errors import UnsupportedModelError
from reluscape.network.fixed import Fixed, read_fixed
from reluscape.network.layers import Affine, Floats, Reading, Rectifier, Scale, rounding_bounds
from reluscape.network.nodes import folded
from reluscape.network.reading import deviation, read_tail, run
from reluscape.network.spatial import Convolution, Maximum, Mean, read_spatial
from reluscape.network.tracing import Trace, as_numpy

Bools = NDArray[np.bool_]

#: Values of a layer that are held at once; 2^20 are 8 MB.
NUMBERS = 2**20
#: A layer with numbers, in which it is affine.
Numbered = Affine | Scale | Convolution
Link = Numbered | Fixed | Rectifier | Mean | Maximum
Links = tuple[Link, ...]
Pair = Callable[[Floats], tuple[Floats, ...]]


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """The readable tail of a module.

    Attributes:
        links: Its layers; the first one has numbers.
        features: What enters it (samples, inputs).
        hidden: Which parameters of the module its features may depend on (params,).
    """

    links: Links
    features: Floats
    hidden: Bools

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the layers that have numbers, in order."""
        return tuple(link.name for link in self.links if isinstance(link, Numbered))

    def links_of(self, model: nn.Module) -> Links:
        """Its layers in a copy of the module with other parameters."""
        return tuple(_renewed(link, model) for link in self.links)

    def features_of(self, model: nn.Module, inputs: torch.Tensor) -> Floats:
        """What enters it in a copy of the module."""
        with torch.no_grad():
            features = run(model, model.get_submodule(self.names[0]), inputs)[0]
        return features.reshape(len(features), -1)


def read_chains(
    reading: Reading | None, module: nn.Module, inputs: torch.Tensor
) -> tuple[Chain, ...]:
    """The tails of a module that are chains: what `read_network` found, then the longest one.

    To what `read_network` reads come Conv1d to Conv3d with zeros around their inputs, AvgPool, MaxPool,
    AdaptiveAvgPool, BatchNorm of channels in eval mode, and layers, products and sums whose numbers are
    buffers. That is checked alike: the chain has to give the module's own outputs. Layers whose numbers
    are computed from parameters are in neither. Costs two runs of the module, none where all of it was
    read.
    """
    found: list[tuple[Links, Floats, tuple[str, ...]]] = []
    if reading is not None:
        found.append((reading.network.layers, reading.features, reading.opaque))
    if reading is None or reading.opaque:
        with suppress(UnsupportedModelError):
            tail = read_tail(module, inputs, Numbered, _read_further)
            features = tail.features.reshape(len(inputs), -1)
            links = _pooled_first(tail.layers)
            if gives(links, features, tail.output):
                found.append((links, features, tail.opaque))
    chains = [
        Chain(links, features, _hidden(links, opaque, module)) for links, features, opaque in found
    ]
    return tuple(chain for chain in chains if _is_plain(chain, module))


def _read_further(node: fx.Node, source: fx.Node, trace: Trace) -> Link | None:
    """A node as a layer that `read_network` does not read; None where it is none of these."""
    found = read_spatial(node, source, trace)
    return read_fixed(node, source, trace) if found is None else found


def _pooled_first(links: Links) -> Links:
    """Rising rectifiers behind the max pooling that follows them: the same values, and fewer of them."""
    found = list(links)
    for k, (one, after) in enumerate(pairwise(links)):
        if isinstance(one, Rectifier) and one.slope >= 0.0 and isinstance(after, Maximum):
            found[k : k + 2] = [after, one]
    return tuple(found)


def _hidden(links: Links, opaque: tuple[str, ...], module: nn.Module) -> Bools:
    """Which parameters no layer that is read holds as its numbers, where others run before (params,).

    What one layer reads nothing else does: a parameter may have further names, but no further uses.
    """
    owners = [module.get_submodule(link.name) for link in links if isinstance(link, Numbered)]
    read = {id(number) for owner in owners for number in (owner.weight, owner.bias)}
    parameters = list(module.parameters())
    hidden = [bool(opaque) and id(one) not in read for one in parameters]
    return np.repeat(hidden, [one.numel() for one in parameters])


def _is_plain(chain: Chain, module: nn.Module) -> bool:
    """Whether a chain's numbers are parameters themselves or buffers, not computed from any."""
    owned = [module.get_submodule(name) for name in chain.names]
    return all({**one._buffers, **one._parameters}.get("weight") is one.weight for one in owned)


def gives(links: Links, features: Floats, output: Floats) -> bool:
    """Whether layers give these outputs but for rounding errors of both."""
    values = in_parts(lambda rows: through(links, rows), links, features)
    error, bound = deviation(values, output)
    if error > bound:
        rounding = in_parts(lambda rows: rounding_bounds(links, rows), links, features)
        error, bound = deviation(values, output, 2.0 * rounding)
    return error <= bound


def through(links: Links, values: Floats) -> Floats:
    """The outputs of some samples."""
    for link in links:
        values = link(values)
    return values


def in_parts(function: Callable[[Floats], Floats], links: Links, features: Floats) -> Floats:
    """A function of samples, at so many at a time that layers hold `NUMBERS` values."""
    rows = max(1, NUMBERS // widest(links, features))
    parts = range(0, len(features), rows)
    return np.concatenate([function(features[at : at + rows]) for at in parts])


def widest(links: Links, features: Floats) -> int:
    """The largest number of values that one sample has anywhere."""
    values = features[:1]
    return max(int((values := link(values)).shape[1]) for link in links)


def combined(links: Iterable[Links], function: Callable[..., Floats]) -> Links:
    """A chain whose numbers are a function of those of others of the same kind."""
    return tuple(_combined(same, function) for same in zip(*links, strict=True))


def both(first: Numbered, last: Numbered) -> Pair:
    """Products with the numbers of two layers of one kind, where possible as one."""
    if isinstance(first, Scale) or (isinstance(first, Convolution) and first.groups > 1):
        return lambda values: (first.linear(values), last.linear(values))
    assert not isinstance(last, Scale)
    joined = replace(first, weight=np.concatenate([first.weight, last.weight]), bias=None)
    return lambda values: tuple(np.split(joined.linear(values), 2, axis=-1))


def absolute(layer: Numbered) -> Numbered:
    """The layer with absolute numbers."""
    found = _combined((layer,), np.abs)
    assert isinstance(found, Numbered)
    return found


def _combined(same: tuple[Link, ...], function: Callable[..., Floats]) -> Link:
    first = same[0]
    if not isinstance(first, Numbered):
        return first
    names = ("scale", "shift") if isinstance(first, Scale) else ("weight", "bias")
    given = {name: [getattr(link, name) for link in same] for name in names}
    numbers: dict[str, Any] = {
        name: function(*values) for name, values in given.items() if values[0] is not None
    }
    return replace(first, **numbers)


def _renewed(link: Link, model: nn.Module) -> Link:
    """A layer with the numbers of a copy of its module."""
    if not isinstance(link, Numbered):
        return link
    module = model.get_submodule(link.name)
    if isinstance(link, Scale):
        places = link.scale.size // len(module.running_mean)  # type: ignore[arg-type]
        with torch.no_grad():
            return Scale(*folded(module, places), link.name)
    numbers = (module.weight, module.bias)
    weight, bias = (None if one is None else as_numpy(one) for one in numbers)  # type: ignore[arg-type]
    return replace(link, weight=weight, bias=bias)
