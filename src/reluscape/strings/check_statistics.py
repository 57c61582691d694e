"""`verify` of running statistics: those of the models of a path, from the data once more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from reluscape.check_block import require
from reluscape.landscape import Landscape
from reluscape.strings.buffers import norms_of, numbers_of, statistics_of
from reluscape.strings.connection import Connection
from reluscape.strings.ends import on_own_statistics, statistics_apart

__all__ = ["check_statistics", "with_statistics"]

Floats = NDArray[np.float64]

#: Difference of equal averages from two ways to sum, relative to the sizes of what is averaged.
SAME = 1e-9


def check_statistics(found: Connection, trained_on: Landscape) -> None:
    """Between the ends running statistics are those of the data; other buffers are the landscape's."""
    module, seen, start = trained_on.module_at(), _Entering.of(trained_on), 0
    running = statistics_of(module)
    entering = [seen(bead) for bead in found.beads]
    for name, buffer in module.named_buffers():
        own = np.asarray(numbers_of(buffer), dtype=np.float64).ravel()
        stated = found.buffers[:, start : start + own.size]
        start += own.size
        if name not in running:
            same = all(np.array_equal(row, own, equal_nan=True) for row in stated)
            require(same, f"its buffers {name!r} are not the network's")
            continue
        for k in range(1, found.num_beads - 1):
            right, size = entering[k].get(name, (own, 0.0))
            near = bool((np.abs(stated[k] - right) <= SAME * size).all())
            require(near, f"the running statistics of bead {k} are not those of the data: {name}")
    for k in range(1, found.num_beads - 1):
        means = {name: torch.from_numpy(values) for name, (values, _) in entering[k].items()}
        apart = statistics_apart(trained_on, found.beads[k], means)
        require(
            not apart, f"with its running statistics bead {k} has other outputs, by {apart:.2g}"
        )


@dataclass(frozen=True, slots=True)
class _Entering:
    """What enters each batch norm, in a model that takes its statistics from the data.

    Attributes:
        module: That model; its parameters are those of the last point.
        inputs: Of the data.
        norms: Batch norms with running statistics, by name.
    """

    module: nn.Module
    inputs: torch.Tensor
    norms: tuple[str, ...]

    @classmethod
    def of(cls, landscape: Landscape) -> _Entering:
        """Of a landscape's data."""
        norms = tuple(norms_of(landscape.module_at()))
        device = landscape.flat_objective()[0].device
        inputs = torch.as_tensor(landscape.inputs, device=device)
        return cls(on_own_statistics(landscape).module_at(), inputs, norms)

    def __call__(self, theta: Floats) -> dict[str, tuple[Floats, Floats]]:
        """Running means and variances at a point by name, and sizes of what they are sums of."""
        found: dict[str, tuple[Floats, Floats]] = {}

        def see(name: str, _: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            once = f"{name}.running_mean" not in found
            require(once, f"batch norm {name!r} is used twice, and has one running mean")
            entering = next(iter((*inputs, *named.values())))
            values = np.moveaxis(entering.numpy(force=True), 1, 0)
            columns = values.reshape(len(values), -1)
            square = np.mean(columns**2, axis=1)
            found[f"{name}.running_mean"] = columns.mean(axis=1), np.sqrt(square)
            found[f"{name}.running_var"] = columns.var(axis=1), square

        hooks = [
            self.module.get_submodule(name).register_forward_pre_hook(
                partial(see, name), with_kwargs=True
            )
            for name in self.norms
        ]
        vector = torch.as_tensor(theta, device=self.inputs.device)
        nn.utils.vector_to_parameters(vector, self.module.parameters())
        with torch.no_grad():
            self.module(self.inputs)
        for hook in hooks:
            hook.remove()
        return found


def with_statistics(landscape: Landscape, trained_on: Landscape) -> Callable[[Floats], float]:
    """A landscape's loss with running statistics from another one's data."""
    seen = _Entering.of(trained_on)

    def height(theta: Floats) -> float:
        statistics = {
            name: torch.as_tensor(values, device=seen.inputs.device)
            for name, (values, _) in seen(theta).items()
        }
        with torch.no_grad():
            state = dict(seen.module.named_parameters()) | statistics
            return float(landscape.loss_of(state))

    return height
