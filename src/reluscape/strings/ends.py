"""The two models that a string joins: their parameters, and their buffers where they have some."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn
from torch.func import functional_call

from reluscape.errors import InputError
from reluscape.landscape import Landscape
from reluscape.strings.buffers import State, norms_of, same_numbers
from reluscape.strings.carried import check_buffers, with_module
from reluscape.strings.surface import Metric, Surface
from reluscape.validation import check_theta, tied_names

Floats = NDArray[np.float64]
#: Outputs of one function differ by no more, relative to the largest.
SAME = 1e-9
#: The same by two ways to batch norm's statistics: rounding shows where means are large.
NORMED = 1e-6
#: A model: its flat parameters, the module, or its state dict.
End = ArrayLike | nn.Module | Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Model:
    """One end.

    Attributes:
        theta: Its parameters (params,).
        state: Parameters and buffers; None where only parameters were given.
    """

    theta: Floats
    state: State | None


def read_end(landscape: Landscape, end: End, name: str) -> Model:
    """Parameters and buffers of an end in the landscape's order.

    Raises:
        InputError: A model of another shape, with another forward, with other buffers that cannot move
            along a path, or with entries that are not finite; batch norms whose running statistics would
            not be those of what enters them.
    """
    if isinstance(end, Mapping):
        end = _loaded(landscape, end, name)
    if not isinstance(end, nn.Module):
        return Model(check_theta(end, landscape.size), None)
    state = landscape.state_of(end)
    check_buffers([landscape], state, name)
    apart = outputs_apart(landscape, state, end)
    if apart:
        raise InputError(
            f"{name} must be a model with the landscape's forward; received one of the same shapes whose"
            f" outputs differ by {apart:.2g} from those of the landscape's model with its weights"
        )
    parts = [state[key].cpu().numpy().ravel() for key, _ in end.named_parameters()]
    theta = check_theta(np.concatenate(parts), landscape.size)
    if has_statistics(landscape):
        check_norms(with_state(landscape, state), theta, name)
    return Model(theta, state)


def _loaded(landscape: Landscape, end: Mapping[str, torch.Tensor], name: str) -> nn.Module:
    """The landscape's model with a state dict, all of it."""
    module = landscape.module_at()
    try:
        module.load_state_dict(dict(end))
    except RuntimeError as error:
        lines = " ".join(str(error).split())[:300]
        raise InputError(f"{name} does not fit the landscape's model: {lines}") from error
    for key, value in module.state_dict().items():
        given = end.get(key)
        if not isinstance(given, torch.Tensor):  # what PyTorch lets be missing, or is no tensor
            continue
        if not same_numbers(value, given.to(value.device, value.dtype)):
            raise InputError(
                f"{name} does not fit the landscape's model: {key!r} is one with another of its tensors,"
                " and the two were given different values"
            )
    return module


def outputs_apart(landscape: Landscape, state: State, module: nn.Module) -> float:
    """How far a module's outputs are from those of the landscape's model at a state; 0 for rounding."""
    return _apart(with_state(landscape, state), with_module(landscape, module))


def _apart(one: Landscape, other: Landscape, share: float = SAME) -> float:
    """How far the outputs of two models are from each other; 0 for rounding."""
    return _off(one.outputs(), other.outputs(), share)


def _off(found: Floats, outputs: Floats, share: float = SAME) -> float:
    """The same of two matrices of outputs."""
    apart = float(np.abs(found - outputs).max())
    return 0.0 if apart <= share * float(np.abs(outputs).max()) else apart


def check_norms(landscape: Landscape, theta: Floats, name: str) -> None:
    """Refuse a model in which estimated running statistics are not those that batch norm itself takes.

    So it is where a batch norm runs twice, as it has one mean for all of its uses, and where its module
    is not called with what is normalised: it changes its input first, or is called by `forward`.
    """
    try:
        vector = torch.tensor(theta, device=landscape.flat_objective()[0].device)
        with torch.no_grad():
            apart = statistics_apart(landscape, theta, Statistics(landscape)(vector))
    except InputError as error:
        raise InputError(
            f"{name} must run with batch norm by the data's own statistics, as on a path; {error}"
        ) from error
    if apart:
        raise InputError(
            f"{name} must use each batch norm once, as a module that is called with what it normalises;"
            f" received a model whose outputs in eval mode, with running statistics from the data, differ"
            f" by {apart:.2g} from those by the data's own: give each use a batch norm of its own"
        )


def statistics_apart(landscape: Landscape, theta: Floats, statistics: State) -> float:
    """How far outputs with running statistics are from those by the data's own; 0 for rounding."""
    module = landscape.module_at(theta)
    buffers = dict(module.named_buffers())
    if any(buffers[key].shape != value.shape for key, value in statistics.items()):
        return float("inf")
    with torch.no_grad():
        for key, value in statistics.items():
            buffers[key].copy_(value)
    other = with_module(landscape, on_own_statistics(landscape).module_at(theta))
    return _apart(with_module(landscape, module), other, NORMED)


def has_statistics(landscape: Landscape) -> bool:
    """Whether the model keeps running statistics of batches."""
    return bool(norms_of(landscape.module_at()))


def on_own_statistics(landscape: Landscape) -> Landscape:
    """The landscape with batch norm by the statistics of its own data, which follow the parameters."""
    module = landscape.module_at()
    for norm in norms_of(module).values():
        norm.track_running_stats = False
        norm.running_mean = norm.running_var = norm.num_batches_tracked = None
    return with_module(landscape, module)


def landscape_of_end(landscape: Landscape, end: Model) -> Landscape:
    """The landscape of an end's own model."""
    return landscape.at(end.theta) if end.state is None else with_state(landscape, end.state)


def outputs_off(landscape: Landscape, point: Floats, own: Landscape) -> float:
    """How far outputs at a point are from those of that point's own model; 0 for rounding."""
    device = landscape.flat_objective()[0].device
    with torch.no_grad():
        found = landscape.outputs_of(torch.tensor(point, device=device)).numpy(force=True)
    return _off(found, own.outputs())


def with_state(landscape: Landscape, state: State) -> Landscape:
    """The landscape of a model's own parameters and buffers, as `Landscape.state_of` has them."""
    module = landscape.module_at()
    own = dict(module.named_parameters()) | dict(module.named_buffers())
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)
    return with_module(landscape, module)


def own_value(landscape: Landscape, end: Model, metric: str | Metric | Landscape | None) -> float:
    """An end's judged value with its own running statistics."""
    judge, metric = (metric, None) if isinstance(metric, Landscape) else (landscape, metric)
    own = landscape_of_end(judge, end)
    return float(Surface(own, metric, batched=False).values(end.theta[None])[0])


class Statistics:
    """Running statistics that a model would have at any parameters, from a landscape's data.

    Means and variances over samples (and places) of what enters each batch norm, the variance divided by
    their number: with them, eval mode gives the outputs of batch norm by the data's own statistics.
    """

    def __init__(self, landscape: Landscape) -> None:
        own, self._norms = on_own_statistics(landscape), list(norms_of(landscape.module_at()))
        self._module = own.module_at()
        vector = own.flat_objective()[0]
        self._inputs = torch.as_tensor(own.inputs, device=vector.device)
        shapes = {key: p.shape for key, p in self._module.named_parameters()}
        self._shapes: dict[str, torch.Size] = shapes

    def named(self, vector: torch.Tensor) -> State:
        """A flat vector as named parameters."""
        sizes = [shape.numel() for shape in self._shapes.values()]
        parts = zip(self._shapes.items(), torch.split(vector, sizes), strict=True)
        return {key: part.view(shape) for (key, shape), part in parts}

    def __call__(self, vector: torch.Tensor) -> State:
        """Running means and variances by name, differentiable by the parameters."""
        found: State = {}
        names = {module: key for key, module in self._module.named_modules()}

        def see(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            entering = next(iter((*inputs, *named.values())))
            axes = [axis for axis in range(entering.ndim) if axis != 1]
            found[f"{names[module]}.running_mean"] = entering.mean(axes)
            found[f"{names[module]}.running_var"] = entering.var(axes, unbiased=False)

        norms = [self._module.get_submodule(name) for name in self._norms]
        hooks = [norm.register_forward_pre_hook(see, with_kwargs=True) for norm in norms]
        try:
            state = self.named(vector)
            tied = {name: state[first] for name, first in tied_names(self._module).items()}
            functional_call(self._module, state | tied, (self._inputs,), tie_weights=False)
        finally:
            for hook in hooks:
                hook.remove()
        return found

    def loss_on(self, judge: Landscape) -> Callable[[torch.Tensor], torch.Tensor]:
        """The loss on other data, with statistics from these."""
        return lambda vector: judge.loss_of(self.named(vector) | self(vector))


def statistics_between(landscape: Landscape, thetas: Floats) -> list[State]:
    """Running means and variances at all points of a string but its ends."""
    statistics, device = Statistics(landscape), landscape.flat_objective()[0].device
    with torch.no_grad():
        return [statistics(torch.tensor(theta, device=device)) for theta in thetas[1:-1]]
