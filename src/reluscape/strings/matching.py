"""Which hidden units of one model correspond to which of another: permutations by linear assignment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from torch import nn

from reluscape.errors import InputError, UnsupportedModelError
from reluscape.landscape import Landscape, check_landscape
from reluscape.results import Result
from reluscape.strings.units import Units, units_of
from reluscape.tolerances import TOLERANCES
from reluscape.validation import check_theta

__all__ = ["MatchedUnits", "match_units"]

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
State = dict[str, Floats]

#: Rounds after which the assignment is taken as it is; each lowers the distance, most end in ten.
MAX_ROUNDS = 100


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class MatchedUnits(Result):
    """A model whose hidden units were permuted to lie close to another's.

    Attributes:
        theta: The permuted parameters, of the same function as before (params,).
        buffers: Its buffers, permuted along, in the order of `module.buffers()` (buffers,).
        permutations: For each hidden layer, which unit stands at each place now.
        layers: Names of these layers.
        rounds: Passes over all layers until no permutation changed.
        distance: Between the models' parameters, now.
        distance_before: As it was.
        change: Largest difference of the outputs before and after, of rounding errors.
    """

    theta: Floats
    buffers: Floats
    permutations: tuple[tuple[int, ...], ...]
    layers: tuple[str, ...]
    rounds: int
    distance: float
    distance_before: float
    change: float

    def summary(self) -> str:
        """The distances and how many units moved."""
        moved = [sum(k != p for k, p in enumerate(one)) for one in self.permutations]
        units = ", ".join(
            f"{many} of {len(one)} in {name!r}"
            for many, one, name in zip(moved, self.permutations, self.layers, strict=True)
        )
        return (
            f"distance {self.distance_before:.6g} -> {self.distance:.6g} after {self.rounds} rounds;"
            f" units moved: {units or 'there are none'}"
        )

    def plot(self) -> go.Figure:
        """Where each unit went, one curve for a layer."""
        figure = go.Figure()
        for name, one in zip(self.layers, self.permutations, strict=True):
            figure.add_scatter(x=list(range(len(one))), y=list(one), mode="markers", name=name)
        return figure.update_layout(xaxis_title="place", yaxis_title="unit before")


def match_units(
    landscape: Landscape,
    theta_a: ArrayLike,
    theta_b: ArrayLike,
    *,
    buffers: ArrayLike | None = None,
) -> MatchedUnits:
    """Permute the hidden units of a model B so that its parameters come close to those of A.

        min over permutations P_1 .. P_L of || theta_a - P theta_b ||

    Layer by layer the best permutation given those of its neighbours is a linear assignment, on the
    inner products of the units' weights in and out, biases and batch norm parameters; layers are passed
    again and again until none changes. That is a local optimum: the problem for all layers at once is
    hard. Units are not rescaled.

    Args:
        landscape: Chains of Linear and convolutional layers, batch norms, pooling and activations.
        theta_a: The model that stays, shape (params,).
        theta_b: The model whose units are permuted, shape (params,).
        buffers: B's buffers, flat, in the order of `module.buffers()`; default: the landscape's own.
            Running statistics move with their units, so that B's function is the same with the buffers
            of the result, and not with the landscape's.

    Cost: for a hidden layer of K units O(K^2 * weights of a unit + K^3) in each round.

    Raises:
        InputError: Points of the wrong shape or not finite, buffers of the wrong shape.
        UnsupportedModelError: Models that are no such chain: branches, shared weights, normalisation of
            other kinds, attention.

    Source: Ainsworth, Hayase and Srinivasa, Git Re-Basin, section 3.2.
    """
    check_landscape(landscape, "match_units")
    thetas = [check_theta(theta, landscape.size) for theta in (theta_a, theta_b)]
    inputs = torch.from_numpy(landscape.inputs)
    modules = [landscape.module_at(theta).cpu() for theta in thetas]
    _load_buffers(modules[1], buffers)
    chain = units_of(modules[1], inputs)
    first, last = (
        {name: p.detach().numpy().copy() for name, p in module.named_parameters()}
        for module in modules
    )
    orders, rounds = _assigned(chain, first, last)
    return _result(modules, chain, orders, rounds, inputs, thetas)


def _assigned(chain: tuple[Units, ...], first: State, last: State) -> tuple[list[Indices], int]:
    """The permutation of each layer, and the number of rounds; `last` is permuted in place."""
    orders = [np.arange(units.count) for units in chain]
    rounds, changed = 0, True
    while changed and rounds < MAX_ROUNDS:
        rounds, changed = rounds + 1, False
        for place, units in enumerate(chain):
            likeness = _likeness(units, first, last)
            order = linear_sum_assignment(likeness, maximize=True)[1]
            gain = likeness[np.arange(len(order)), order].sum() - np.trace(likeness)
            if gain > TOLERANCES.rounding * np.finfo(np.float64).eps * np.abs(likeness).sum():
                orders[place], changed = orders[place][order], True
                _permute(units, last, order)
    return orders, rounds


def _likeness(units: Units, first: State, last: State) -> Floats:
    """Inner products of all that belongs to a unit of A and to one of B (units, units)."""
    total = np.zeros((units.count, units.count))
    for name, axis in _belongings(units, first):
        rows = [_by_unit(state[name], axis, units.count) for state in (first, last)]
        total += rows[0] @ rows[1].T
    return total


def _belongings(units: Units, state: State) -> list[tuple[str, int]]:
    """Names of the parameters or buffers that have entries for each unit, and their axis."""
    owners = [units.layer, *units.norms]
    found = [(f"{owner}.{kind}".removeprefix("."), 0) for owner in owners for kind in _KINDS]
    return [(name, axis) for name, axis in [*found, (f"{units.reader}.weight", 1)] if name in state]


_KINDS = ("weight", "bias", "running_mean", "running_var")


def _by_unit(values: Floats, axis: int, count: int) -> Floats:
    """Entries as (units, entries of a unit); a channel's places follow each other."""
    return np.moveaxis(values, axis, 0).reshape(count, -1)


def _permute(units: Units, state: State, order: Indices) -> None:
    """Put unit `order[k]` in place k, in all that belongs to it."""
    for name, axis in _belongings(units, state):
        values = np.moveaxis(state[name], axis, 0)
        blocks = values.reshape(units.count, -1, *values.shape[1:])
        moved = blocks[order].reshape(values.shape)
        state[name] = np.ascontiguousarray(np.moveaxis(moved, 0, axis))


def _load_buffers(module: nn.Module, buffers: ArrayLike | None) -> None:
    """Write a flat vector into a module's buffers."""
    if buffers is None:
        return
    own = list(module.buffers())
    size, vector, start = sum(buffer.numel() for buffer in own), np.asarray(buffers, float), 0
    if vector.shape != (size,):
        raise InputError(f"buffers must have shape ({size},); received {vector.shape}")
    for buffer in own:
        part = torch.from_numpy(vector[start : start + buffer.numel()])
        buffer.copy_(part.reshape(buffer.shape))
        start += buffer.numel()


def _result(
    modules: list[nn.Module],
    chain: tuple[Units, ...],
    orders: list[Indices],
    rounds: int,
    inputs: torch.Tensor,
    thetas: list[Floats],
) -> MatchedUnits:
    """The permuted model, after a look at whether it still gives B's outputs."""
    module = modules[1]
    with torch.no_grad():
        before = module(inputs)
        state = {name: value.numpy().copy() for name, value in module.state_dict().items()}
        for units, order in zip(chain, orders, strict=True):
            _permute(units, state, order)
        module.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
        change = float((module(inputs) - before).abs().max())
    if not change <= TOLERANCES.resolve * max(1.0, float(before.abs().max())):
        raise UnsupportedModelError(
            f"permuting units must not change the outputs; they changed by {change:.3g}: the model's"
            " units are not kept apart between its layers, connect without matching"
        )
    theta = _flat(module.parameters())
    return MatchedUnits(
        theta=theta,
        buffers=_flat(module.buffers()),
        permutations=tuple(tuple(order.tolist()) for order in orders),
        layers=tuple(units.layer for units in chain),
        rounds=rounds,
        distance=float(np.linalg.norm(thetas[0] - theta)),
        distance_before=float(np.linalg.norm(thetas[0] - thetas[1])),
        change=change,
    )


def _flat(tensors: Iterable[torch.Tensor]) -> Floats:
    """All numbers of some tensors."""
    parts = [tensor.detach().numpy().astype(np.float64).ravel() for tensor in tensors]
    return np.concatenate([np.empty(0), *parts])
