"""Models from weights files and factories.

A weights file holds a *state dict*: names and tensors, no code. The shape of a plain network of
Linear layers (and BatchNorm1d where the names fix its place) follows from it; what lies between
the Linear layers does not, and ReLU is assumed. Any other model needs ``module:factory``.
"""

from __future__ import annotations

import itertools
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from reluscape import factory as factories
from reluscape.errors import InputError
from reluscape.validation import copied
from reluscape.weights import keeps_order, read_state

__all__ = ["InferredMLP", "load_model", "num_outputs", "takes_flat_inputs"]

_PER_UNIT = ("running_mean", "running_var", "weight", "bias")
_MAX_KINDS = 8  # differently named layers whose orders are searched through
_MEND = "give the model's code with --model module:factory"


class InferredMLP(nn.Module):
    """Linear (and BatchNorm1d) layers under the names of a weights file, with ReLU between them."""

    def __init__(self, layers: Mapping[str, nn.Module], rectified: frozenset[str]) -> None:
        """Put each layer at its dotted name; a ReLU follows those in ``rectified``."""
        super().__init__()
        self.layer_names = tuple(layers)
        self.rectified = rectified
        for name, layer in layers.items():
            *parents, last = name.split(".")
            owner: nn.Module = self
            for parent in parents:
                if parent not in owner._modules:
                    owner.add_module(parent, nn.Module())
                owner = owner.get_submodule(parent)
            owner.add_module(last, layer)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map (N, inputs) to (N, outputs)."""
        for name in self.layer_names:
            features = self.get_submodule(name)(features)
            if name in self.rectified:
                features = torch.relu(features)
        return features

    @property
    def widths(self) -> tuple[int, ...]:
        """Inputs, hidden widths, outputs."""
        linear = [m for m in map(self.get_submodule, self.layer_names) if isinstance(m, nn.Linear)]
        return (linear[0].in_features, *(layer.out_features for layer in linear))


@dataclass(frozen=True, slots=True)
class _Group:
    """The tensors of one layer in a state dict."""

    name: str
    tensors: dict[str, torch.Tensor]

    @property
    def is_linear(self) -> bool:
        weight = self.tensors.get("weight")
        return weight is not None and weight.ndim == 2 and set(self.tensors) <= {"weight", "bias"}

    @property
    def is_batch_norm(self) -> bool:
        parts = {*_PER_UNIT, "num_batches_tracked"}
        if not {"running_mean", "running_var"} <= set(self.tensors) <= parts:
            return False
        shape = self.tensors["running_mean"].shape
        alike = all(t.shape == shape for part, t in self.tensors.items() if part in _PER_UNIT)
        return alike and len(shape) == 1 and ("weight" in self.tensors) == ("bias" in self.tensors)

    @property
    def widths(self) -> tuple[int, int]:
        """Features in and out."""
        if self.is_linear:
            fan_out, fan_in = self.tensors["weight"].shape
            return fan_in, fan_out
        size = len(self.tensors["running_mean"])
        return size, size


def load_model(weights: Path | None, factory: str | None) -> nn.Module:
    """Build a float64 model in eval mode.

    Args:
        weights: ``.safetensors``, or ``.pt``/``.pth`` with a state dict (pickled modules are never
            loaded). Alone, it must belong to a plain network of Linear layers with ReLU between.
        factory: ``module:factory``; alone, its own weights are used.

    Returns:
        A module of the caller's own; a module object named by ``factory`` is copied.

    Raises:
        InputError: the file or factory cannot be read, or the two do not fit together.
    """
    if factory is not None:
        model = _from_factory(factory)
        if weights is not None:
            _load_into(model, read_state(weights, _masks(model)), f"{weights}", factory)
    elif weights is not None:
        model = _infer(read_state(weights), weights, in_order=keeps_order(weights))
    else:
        raise InputError("expected a weights file or a module:factory, got neither")
    return model.double().eval()


def num_outputs(model: nn.Module, inputs: np.ndarray) -> int:
    """The number of outputs of ``model`` on rows shaped like those of ``inputs``.

    Raises:
        InputError: the model does not run on them, or returns no tensor with a row per sample.
    """
    rows = torch.as_tensor(inputs[:2])
    expected = _first_linear(model)
    if isinstance(model, InferredMLP) and expected != inputs.shape[1:]:
        raise InputError(
            f"the model takes {model.widths[0]} features but the data has shape "
            f"{tuple(inputs.shape[1:])} per sample: use the data it was trained on"
        )
    try:
        with torch.no_grad():
            outputs = model(rows)
    # A forward is the user's code and may raise anything on inputs of the wrong shape.
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise InputError(
            f"the model does not run on inputs of shape {tuple(rows.shape)} "
            f"({type(error).__name__}: {text}): use data of the shape it was trained on"
        ) from error
    if not isinstance(outputs, torch.Tensor) or outputs.ndim not in (1, 2) or len(outputs) != 2:
        shape = (
            tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        )
        raise InputError(
            f"expected the model to return one row of outputs per sample, got {shape} "
            "for 2 samples: return a tensor (samples, outputs)"
        )
    return 1 if outputs.ndim == 1 else outputs.shape[1]


def takes_flat_inputs(model: nn.Module, inputs: np.ndarray) -> bool:
    """Whether the first layer with weights is a Linear on the flattened shape of one sample."""
    size = int(np.prod(inputs.shape[1:]))
    return inputs.ndim > 2 and _first_linear(model) == (size,)


def _first_linear(model: nn.Module) -> tuple[int, ...]:
    for module in model.modules():
        if any(True for _ in module.parameters(recurse=False)):
            return (module.in_features,) if isinstance(module, nn.Linear) else ()
    return ()


def _from_factory(source: str) -> nn.Module:
    model = factories.build(source)
    if not isinstance(model, nn.Module):
        raise InputError(f"{source} must give a torch.nn.Module, got {type(model).__name__}")
    return copied(model)


def _masks(model: nn.Module) -> set[str]:
    """Buffers that may hold infinite entries: all but running statistics."""
    buffers = {name for name, _ in model.named_buffers()}
    return {name for name in buffers if not name.endswith(("running_mean", "running_var"))}


def _load_into(model: nn.Module, state: dict[str, torch.Tensor], weights: str, source: str) -> None:
    own = model.state_dict()
    places = {_place(own[name], name): name for name in own.keys() & state}
    for name in own.keys() - state:  # safetensors keeps one name of tensors that are one
        known = places.get(_place(own[name], name))
        if known is not None:
            state[name] = state[known]
    # Files from before PyTorch 1.0 lack this counter, which eval mode does not use.
    needed = {name for name in own if not name.endswith("num_batches_tracked")}
    problems = {
        "missing": sorted(needed - set(state)),
        "unexpected": sorted(set(state) - set(own)),
        "of another shape": sorted(
            f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
            for name in set(own) & set(state)
            if own[name].shape != state[name].shape
        ),
        "of another type": sorted(
            f"{name} {state[name].dtype} for {own[name].dtype}"
            for name in set(own) & set(state)
            if own[name].is_floating_point() != state[name].is_floating_point()
        ),
    }
    found = [f"{kind}: {_shorten(names)}" for kind, names in problems.items() if names]
    if found:
        raise InputError(f"{weights} does not fit the model of {source}; {'; '.join(found)}")
    model.double().load_state_dict(state, strict=False)


def _place(tensor: torch.Tensor, name: str) -> tuple[object, ...]:
    """Where a tensor's numbers are, the same for tensors that are one; its name where that is nowhere."""
    stored = tensor.layout == torch.strided and not is_lazy(tensor) and tensor.data_ptr() != 0
    return (tensor.data_ptr(), tensor.shape) if stored else (name,)


def _shorten(names: list[str]) -> str:
    rest = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + rest


def _infer(state: Mapping[str, torch.Tensor], path: Path, *, in_order: bool) -> InferredMLP:
    """The plain network whose state dict this is, if it is one."""
    for name, tensor in state.items():
        if not tensor.is_floating_point() and not name.endswith("num_batches_tracked"):
            raise InputError(f"{path}: {name} is {tensor.dtype}; expected float weights: {_MEND}")
    groups = _groups(state, path)
    linear = [group for group in groups if group.is_linear]
    if not linear:
        raise InputError(f"{path} holds no Linear layer: {_MEND}")
    norms = [group for group in groups if group.is_batch_norm]
    if norms:
        order, rectified = _place_by_index(groups, path)
    else:
        order = linear if in_order and _chains(linear) else _only_order(linear, path)
        _check_gaps(order, path)
        rectified = frozenset(group.name for group in order[:-1])
    try:
        return InferredMLP({group.name: _layer(group) for group in order}, rectified)
    except (KeyError, AttributeError) as error:
        raise InputError(
            f"{path} has layer names that PyTorch reserves ({error}): {_MEND}"
        ) from error


def _groups(state: Mapping[str, torch.Tensor], path: Path) -> list[_Group]:
    tensors: OrderedDict[str, dict[str, torch.Tensor]] = OrderedDict()
    for key, tensor in state.items():
        name, _, part = key.rpartition(".")
        tensors.setdefault(name or "linear", {})[part] = tensor
    groups = [_Group(name, parts) for name, parts in tensors.items()]
    for group in groups:
        if not (group.is_linear or group.is_batch_norm) or 0 in group.widths:
            shapes = ", ".join(f"{part} {tuple(t.shape)}" for part, t in group.tensors.items())
            raise InputError(
                f"{path} is not a plain network of Linear layers: "
                f"{group.name!r} has {shapes}; {_MEND}"
            )
        bias = group.tensors.get("bias")
        if bias is not None and bias.shape != (group.widths[1],):
            raise InputError(f"{path}: the bias of {group.name!r} does not fit its weight; {_MEND}")
    return groups


def _chains(groups: list[_Group]) -> bool:
    pairs = itertools.pairwise(groups)
    return all(first.widths[1] == second.widths[0] for first, second in pairs)


def _only_order(groups: list[_Group], path: Path) -> list[_Group]:
    """The one order in which outputs fit inputs and layers with numbered names stay sorted."""
    queues: dict[str, list[_Group]] = {}
    for group in sorted(groups, key=lambda group: _natural(group.name)):
        queues.setdefault(re.sub(r"\d+", "#", group.name), []).append(group)
    (only, *others) = queues.values()
    order: list[_Group] | None = only if _chains(only) else None
    other = None
    if others:
        search = _orders([only, *others], None) if len(others) < _MAX_KINDS else iter(())
        order, other = next(search, None), next(search, None)
    names = _shorten([f"{g.name} {g.widths[0]}->{g.widths[1]}" for g in groups])
    if order is None:
        raise InputError(f"{path}: the layers {names} do not follow one another; {_MEND}")
    if other is not None:
        raise InputError(f"{path}: the layers {names} fit in more than one order; {_MEND}")
    return order


def _orders(queues: list[list[_Group]], width: int | None) -> Iterator[list[_Group]]:
    if not any(queues):
        yield []
    for k, queue in enumerate(queues):
        if queue and width in (None, queue[0].widths[0]):
            rest = [*queues[:k], queue[1:], *queues[k + 1 :]]
            for tail in _orders(rest, queue[0].widths[1]):
                yield [queue[0], *tail]


def _natural(name: str) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _check_gaps(order: list[_Group], path: Path) -> None:
    """Refuse a Sequential in which two Linear layers touch: nothing lies between them."""
    for first, second in itertools.pairwise(order):
        if (
            first.name.isdigit()
            and second.name.isdigit()
            and int(second.name) - int(first.name) < 2
        ):
            raise InputError(
                f"{path}: layers {first.name} and {second.name} of a Sequential touch, so that no "
                f"ReLU can be between them; {_MEND}"
            )


def _place_by_index(groups: list[_Group], path: Path) -> tuple[list[_Group], frozenset[str]]:
    """Order and ReLU places of a Sequential with BatchNorm1d, from the gaps in its numbering.

    Between two Linear layers exactly one number must be free: the ReLU's.
    """
    places = [group.name.rpartition(".") for group in groups]
    indexed = all(number.isdigit() for _, _, number in places)
    order = sorted(groups, key=lambda group: _natural(group.name))
    if not indexed or len({parent for parent, _, _ in places}) != 1 or not _chains(order):
        raise InputError(f"{path} has BatchNorm1d layers with no place in a Sequential; {_MEND}")
    numbers = [int(group.name.rpartition(".")[2]) for group in order]
    rectified: list[str] = []
    free, wanted = 0, 0  # free numbers since the last Linear; before the first there is no ReLU
    for k, group in enumerate(order):
        gap = numbers[k] - numbers[k - 1] - 1 if k else 0
        free += gap
        rectified += [order[k - 1].name] if gap else []
        if group.is_linear and free == wanted:
            free, wanted = 0, 1
        elif group.is_linear or free > wanted:
            break
    else:
        if free == 0:
            return order, frozenset(rectified)
    raise InputError(
        f"{path} has BatchNorm1d layers that may stand before or after the ReLU: "
        f"the numbering must leave one place between two Linear layers; {_MEND}"
    )


def _layer(group: _Group) -> nn.Module:
    fan_in, fan_out = group.widths
    bias = "bias" in group.tensors
    layer: nn.Module
    with torch.random.fork_rng(devices=[]):  # the layer draws a start that the file replaces
        if group.is_linear:
            layer = nn.Linear(fan_in, fan_out, bias=bias, dtype=torch.float64)
        else:
            layer = nn.BatchNorm1d(fan_in, affine=bias, dtype=torch.float64)
    layer.load_state_dict(group.tensors, strict=False)
    return layer
