"""A network with batch norm as affine layers, some of which have no parameters.

In eval mode batch norm is `gamma * (z - m) / s + beta` with fixed statistics m and s. So it is two affine
layers: one that is fixed, `diag(1/s)` and `-m/s`, and, where it has parameters, one of weight
`diag(gamma)` and bias beta. Moves of gamma are moves of that weight's diagonal, and as long as
the diagonal's Frobenius norm: what bounds the curvature along all moves of a weight bounds that along
these.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from reluscape.landscape import Landscape
from reluscape.network import Affine, Network, Rectifier, Scale

__all__ = ["Unfolded", "unfolded"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Unfolded:
    """A network of affine layers and rectifiers.

    Attributes:
        network: Those layers.
        movable: Of each affine layer whether it has parameters, those of the module with its name.
        diagonal: Of each affine layer whether only its weight's diagonal is a parameter.
    """

    network: Network
    movable: tuple[bool, ...]
    diagonal: tuple[bool, ...]

    def outputs_at_zero(self, samples: int) -> Floats:
        """Outputs where all parameters are zero: what is fixed behind the last of them makes of zeros."""
        affine = self.network.affine
        last = affine[max(k for k, moves in enumerate(self.movable) if moves)]
        values = np.zeros((samples, len(last.weight)))
        for layer in self.network.layers[self.network.layers.index(last) + 1 :]:
            values = layer(values)
        return values


def unfolded(landscape: Landscape) -> Unfolded:
    """The landscape's network, which is read completely."""
    assert landscape.reading is not None
    network = landscape.reading.network
    if not any(isinstance(layer, Scale) for layer in network.layers):
        every = len(network.affine)
        return Unfolded(network, (True,) * every, (False,) * every)
    modules = dict(landscape.module_at().named_modules())
    layers: list[Affine | Rectifier] = []
    kinds: list[tuple[bool, bool]] = []
    for layer in network.layers:
        if not isinstance(layer, Scale):
            layers.append(layer)
            kinds += [(True, False)] * isinstance(layer, Affine)
            continue
        for part, kind in _parts(modules[layer.name], layer.name):
            layers.append(part)
            kinds.append(kind)
    movable, diagonal = zip(*kinds, strict=True)
    return Unfolded(Network(tuple(layers)), movable, diagonal)


def _parts(module: nn.Module, name: str) -> Iterator[tuple[Affine, tuple[bool, bool]]]:
    """The fixed layer of a batch norm, and that of its parameters."""
    assert isinstance(module, nn.BatchNorm1d)
    assert module.running_mean is not None
    assert module.running_var is not None
    scale = (module.running_var + module.eps).rsqrt()
    yield Affine(_matrix(scale), _numbers(-module.running_mean * scale), name), (False, True)
    if module.affine:
        yield Affine(_matrix(module.weight), _numbers(module.bias), name), (True, True)


def _matrix(diagonal: torch.Tensor) -> Floats:
    return np.diag(_numbers(diagonal))


def _numbers(values: torch.Tensor) -> Floats:
    return values.detach().cpu().numpy().astype(np.float64)
