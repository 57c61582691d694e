"""Buffers along a string: running statistics of batch norms, and all others, which are one model's."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from reluscape.errors import InputError
from reluscape.landscape import Landscape

__all__ = [
    "check_fixed", "flat_buffers", "module_of", "norms_of", "numbers_of", "same_numbers",
    "statistics_of",
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


def flat_buffers(landscape: Landscape, state: State) -> Floats:
    """A state's buffers in the order of `module.buffers()`, as one vector."""
    names = [name for name, _ in landscape.module_at().named_buffers()]
    parts = [np.asarray(numbers_of(state[name]), dtype=np.float64).ravel() for name in names]
    return np.concatenate([np.zeros(0), *parts])


def numbers_of(tensor: torch.Tensor) -> NDArray[Any]:
    """A tensor's entries; of a sparse one, zeros too."""
    dense = tensor.detach() if tensor.layout == torch.strided else tensor.detach().to_dense()
    whole = dense.double() if dense.is_floating_point() else dense
    return np.asarray(whole.numpy(force=True))


def module_of(landscape: Landscape, theta: Floats, buffers: Floats) -> nn.Module:
    """The model with these parameters and running statistics, as `flat_buffers` orders them."""
    module = landscape.module_at(theta)
    running, start = statistics_of(module), 0
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            part = torch.from_numpy(buffers[start : start + buffer.numel()])
            if name in running:
                buffer.copy_(part.view(buffer.shape))
            start += buffer.numel()
    return module


def check_fixed(landscape: Landscape, state: State, name: str) -> None:
    """Refuse a model whose buffers differ from the landscape's, running statistics aside.

    The outputs depend on them, and a path is of models that have all of them in common: the landscape's.
    """
    module = landscape.module_at()
    running = statistics_of(module)
    for key, own in module.named_buffers():
        if key in running or same_numbers(own, state[key]):
            continue
        raise InputError(
            f"{name} must have the landscape's buffers, running statistics of batch norms aside;"
            f" received others in {key!r}, and a path has one for all of its models: give both models"
            " the same, fold it into their weights (parametrizations:"
            " torch.nn.utils.parametrize.remove_parametrizations), or make it a parameter"
        )


def same_numbers(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether tensors are equal; NaN is equal to NaN."""
    return np.array_equal(numbers_of(one), numbers_of(other), equal_nan=True)
