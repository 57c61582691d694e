"""The hidden units of a network and the parameters that belong to each: what a permutation moves."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Final

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from reluscape.errors import UnsupportedModelError
from reluscape.network.tracing import (
    Trace,
    argument,
    call_name,
    label_of,
    name_of,
    trace_module,
    value_users,
)

#: Layers that treat every unit or channel alike and on its own.
_UNITWISE: Final = {
    *(
        "ReLU",
        "LeakyReLU",
        "ELU",
        "SELU",
        "CELU",
        "GELU",
        "SiLU",
        "Mish",
        "Softplus",
        "Tanh",
        "Sigmoid",
    ),
    *("ReLU6", "Hardtanh", "Hardswish", "Hardsigmoid", "LogSigmoid", "Softsign", "Tanhshrink"),
    *("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "Identity"),
    *(
        f"{kind}Pool{axes}d"
        for kind in ("Max", "Avg", "AdaptiveAvg", "AdaptiveMax")
        for axes in (1, 2, 3)
    ),
    *("Flatten", "Unflatten"),
}
#: The same as functions and methods, by their names without "_".
_CALLS: Final = {
    *(name.lower() for name in _UNITWISE),
    *("reshape", "view", "squeeze", "unsqueeze", "clone", "contiguous", "mean"),
}


@dataclass(frozen=True, slots=True)
class Units:
    """The units (channels) of one hidden layer.

    Attributes:
        layer: The layer that computes them: its weight's rows and its bias.
        norms: Batch norms behind it, with one entry of each parameter and buffer for a unit.
        reader: The layer that reads them: its weight's columns, as many for each unit as a channel has
            places.
        count: Number of units.
    """

    layer: str
    norms: tuple[str, ...]
    reader: str
    count: int


def units_of(module: nn.Module, inputs: torch.Tensor) -> tuple[Units, ...]:
    """The hidden layers of a chain of linear and convolutional layers.

    Raises:
        UnsupportedModelError: Anything else between the first and the last of these layers.
    """
    with torch.no_grad():
        trace = trace_module(module, inputs)
    found: list[Units] = []
    reader, norms = None, list[str]()
    node, behind = trace.output, _behind_layers(trace)
    while node in behind:
        _check_alone(node, trace)
        layer = trace.modules.get(str(node.target)) if node.op == "call_module" else None
        name = name_of(node)
        if isinstance(layer, (nn.Linear, _ConvNd)):
            _check_weights(node, layer, trace)
            if reader is not None:
                found.append(Units(name, tuple(norms[::-1]), *_read_by(reader, node, layer, trace)))
            reader, norms = node, []
        elif isinstance(layer, _BatchNorm):
            norms.append(name)
        elif not _is_unitwise(node, layer):
            raise _refusal(node, trace, "is no layer that treats each unit on its own")
        source = argument(node, 0, "input")
        if not isinstance(source, fx.Node):
            raise _refusal(node, trace, "is not applied to one layer's values")
        node = source
    return tuple(found[::-1])


def _behind_layers(trace: Trace) -> set[fx.Node]:
    """Layers, and all nodes to which one leads: what comes before the first has no units."""
    found = set[fx.Node]()
    for node in trace.output.graph.nodes:
        layer = trace.modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, (nn.Linear, _ConvNd)) or not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def _read_by(
    reader: fx.Node, node: fx.Node, layer: nn.Linear | _ConvNd, trace: Trace
) -> tuple[str, int]:
    """Name of the layer that reads a layer's units, and their number."""
    behind = trace.modules[str(reader.target)]
    assert isinstance(behind, (nn.Linear, _ConvNd))
    inputs, count = behind.weight.shape[1], len(layer.weight)
    if inputs % count:
        raise _refusal(reader, trace, f"reads {inputs} values of the {count} units before it")
    return name_of(reader), count


def _check_alone(node: fx.Node, trace: Trace) -> None:
    """Refuse branches."""
    users = len(value_users(node))
    if users > 1:
        raise _refusal(node, trace, f"has an output that is used {users} times")


def _check_weights(node: fx.Node, layer: nn.Linear | _ConvNd, trace: Trace) -> None:
    """Refuse weights that are not the layer's own, and groups of channels."""
    plain = layer._parameters.get("weight")
    if plain is None or trace.uses[id(plain)] > 1:
        raise _refusal(node, trace, "has weights that are shared or computed from others")
    if isinstance(layer, _ConvNd) and (layer.groups != 1 or layer.transposed):
        raise _refusal(node, trace, "is transposed or has groups of channels")


def _is_unitwise(node: fx.Node, layer: nn.Module | None) -> bool:
    """Whether a node keeps units apart; reshapes are judged by what comes out (`match_units`)."""
    if layer is not None:
        return type(layer).__name__ in _UNITWISE
    if node.target is operator.getitem:
        return False
    return call_name(node).replace("_", "").lower() in _CALLS


def _refusal(node: fx.Node, trace: Trace, why: str) -> UnsupportedModelError:
    """The error for a node."""
    return UnsupportedModelError(
        "units can be matched in chains of linear and convolutional layers with batch norms, pooling and"
        f" activations between them; {label_of(node, trace.modules)} {why}: connect without matching"
    )
