"""`verify` of buffers: running statistics of a path's models, from the data once more, and others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from reluscape.check_block import require
from reluscape.landscape import Landscape
from reluscape.strings.buffers import (
    flat_buffers,
    is_in_script,
    norms_of,
    places_of,
    read_buffers,
    statistics_of,
)
from reluscape.strings.carried import Carried
from reluscape.strings.connection import Connection
from reluscape.strings.ends import has_statistics, on_own_statistics, statistics_apart

__all__ = ["widened", "with_statistics"]

Floats = NDArray[np.float64]

#: Difference of equal averages from two ways to sum, relative to the sizes of what is averaged.
SAME = 1e-9


def widened(
    found: Connection, landscape: Landscape, trained_on: Landscape
) -> tuple[Connection, Landscape, Landscape]:
    """A path with the buffers that move along among its coordinates, and both landscapes over these.

    Between the ends running statistics are those of the data, and all others are the landscape's.
    """
    if not found.buffers.shape[1]:
        return found, landscape, trained_on
    carried = Carried.of(trained_on, _moving(found, trained_on, landscape))
    wide = replace(found, beads=carried.joined(found.beads, found.buffers))
    if has_statistics(trained_on):
        _check_running(wide, trained_on, carried.wide)
    else:
        wide = replace(wide, buffers=found.buffers[:, :0])
    judge = carried.wide if trained_on is landscape else carried.on(landscape)
    return wide, judge, carried.wide


def _moving(found: Connection, trained_on: Landscape, judge: Landscape) -> set[str]:
    """Names of the buffers that move along the path: those that outputs read, and that can."""
    module, moving = trained_on.module_at(), set[str]()
    running, read = statistics_of(module), read_buffers(trained_on) | read_buffers(judge)
    places, own = places_of(module), flat_buffers(trained_on)
    for name, buffer in module.named_buffers():
        here = places[name]
        stated = found.buffers[:, here]
        same = [np.array_equal(row, own[here], equal_nan=True) for row in stated]
        if name in running or all(same):
            continue
        if name not in read:  # the ends' own, and the network's of the search between them
            same = [np.array_equal(row, stated[1], equal_nan=True) for row in stated[1:-1]]
            whole = buffer.is_floating_point() or np.array_equal(np.rint(stated), stated)
            require(all(same) and whole, f"its buffers {name!r} are none of a path")
            continue
        movable = buffer.is_floating_point() and not is_in_script(module, name)
        movable = movable and buffer.layout == torch.strided and bool(np.isfinite(stated).all())
        require(movable, f"its buffers {name!r} are not the network's, and cannot move")
        moving.add(name)
    return moving


def _check_running(found: Connection, trained_on: Landscape, wide: Landscape) -> None:
    """Between the ends running statistics are those of the data."""
    module, seen = trained_on.module_at(), _Entering.of(wide)
    entering = [seen(bead) for bead in found.beads]
    at = places_of(module)
    for name in sorted(statistics_of(module)):
        stated = found.buffers[:, at[name]]
        for k in range(1, found.num_beads - 1):
            right, size = entering[k].get(name, (stated[1], 0.0))  # counted batches: any model's
            near = bool((np.abs(stated[k] - right) <= SAME * size).all())
            require(near, f"the running statistics of bead {k} are not those of the data: {name}")
    for k in range(1, found.num_beads - 1):
        means = {name: torch.from_numpy(values) for name, (values, _) in entering[k].items()}
        apart = statistics_apart(wide, found.beads[k], means)
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
