"""Buffers of models: in one vector, which are running statistics of batch norms, and which are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from reluscape.landscape import Landscape
from reluscape.watching import Watched

__all__ = [
    "State", "buffers_of", "flat_buffers", "is_in_script", "module_of", "norms_of", "numbers_of",
    "other_buffers", "places_of", "read_buffers", "same_numbers", "statistics_of",
]  # fmt: skip

Floats = NDArray[np.float64]
State = dict[str, torch.Tensor]

#: Buffers of a batch norm.
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def norms_of(module: nn.Module) -> dict[str, _BatchNorm]:
    """Batch norms with running statistics, by name."""
    return {
        name: part
        for name, part in module.named_modules()
        if isinstance(part, _BatchNorm) and part.running_mean is not None
    }


def statistics_of(module: nn.Module) -> frozenset[str]:
    """Names of the buffers that hold running statistics of batch norms."""
    return frozenset(
        f"{name}.{kind}".removeprefix(".") for name in norms_of(module) for kind in STATISTICS
    )


def numbers_of(tensor: torch.Tensor) -> NDArray[Any]:
    """A tensor's entries; of a sparse one, zeros too."""
    dense = tensor.detach() if tensor.layout == torch.strided else tensor.detach().to_dense()
    whole = dense.double() if dense.is_floating_point() else dense
    return np.asarray(whole.numpy(force=True))


def same_numbers(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether tensors are equal; NaN is equal to NaN."""
    return np.array_equal(numbers_of(one), numbers_of(other), equal_nan=True)


# ---- as one vector -----------------------------------------------------------------------------


def places_of(module: nn.Module) -> dict[str, slice]:
    """Where each buffer lies in the vector of all of them, in the order of `module.buffers()`."""
    found, start = {}, 0
    for name, buffer in module.named_buffers():
        found[name] = slice(start, start + buffer.numel())
        start = found[name].stop
    return found


def flat_buffers(landscape: Landscape, state: State | None = None) -> Floats:
    """Buffers in that order, as one vector: the landscape's own where a state has none."""
    own = dict(landscape.module_at().named_buffers()) | (state or {})
    parts = [_flat(own[name]) for name in places_of(landscape.module_at())]
    return np.concatenate([np.zeros(0), *parts])


def _flat(buffer: torch.Tensor) -> Floats:
    """A buffer's entries in float64."""
    return np.asarray(numbers_of(buffer).real, dtype=np.float64).ravel()


def buffers_of(landscape: Landscape, vector: Floats) -> State:
    """The buffers of such a vector that are not the landscape's, by name."""
    found, module = {}, landscape.module_at()
    places = places_of(module)
    for name, buffer in module.named_buffers():
        part = vector[places[name]]
        if part.tobytes() != _flat(buffer).tobytes():  # zeros have signs
            found[name] = torch.from_numpy(part.copy()).view(buffer.shape)
    return found


def module_of(landscape: Landscape, theta: Floats, buffers: Floats) -> nn.Module:
    """The model with these parameters and buffers, as `flat_buffers` orders them."""
    module = landscape.module_at(theta)
    own = dict(module.named_buffers())
    with torch.no_grad():
        for name, value in buffers_of(landscape, buffers).items():
            own[name].copy_(value)
    return module


# ---- which differ, and matter ------------------------------------------------------------------


def other_buffers(
    landscapes: Sequence[Landscape], state: State
) -> tuple[frozenset[str], frozenset[str]]:
    """Names of buffers that are not the first landscape's: those that outputs of any read, and others.

    Running statistics of batch norms are left out.
    """
    module = landscapes[0].module_at()
    own, running = dict(module.named_buffers()), statistics_of(module)
    other = {
        name
        for name, buffer in own.items()
        if name not in running and not same_numbers(buffer, state[name])
    }
    read = {name for one in landscapes for name in read_buffers(one)} if other else set[str]()
    return frozenset(other & read), frozenset(other - read)


def read_buffers(landscape: Landscape) -> frozenset[str]:
    """Names of buffers that a forward pass in eval mode looks at, or that one cannot tell of."""
    module = landscape.module_at()
    named = dict(module.named_buffers())
    device = landscape.flat_objective()[0].device
    with torch.no_grad(), Watched(named) as watched:
        module(torch.as_tensor(landscape.inputs, device=device))
    hidden = {name for name in named if is_in_script(module, name)}
    return frozenset(watched.seen | hidden)


def is_in_script(module: nn.Module, name: str) -> bool:
    """Whether a buffer belongs to compiled code, in which nobody sees who reads it."""
    path = name.split(".")[:-1]
    owners = [module.get_submodule(".".join(path[:depth])) for depth in range(len(path) + 1)]
    return any(isinstance(owner, torch.jit.ScriptModule) for owner in owners)
