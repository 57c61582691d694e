"""Reads one graph node at a time, from the output back to the first that is no readable layer."""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from reluscape.network.layers import Affine, Floats, Layer, Rectifier, Scale
from reluscape.network.tracing import (
    DROPOUT_CALLS,
    Trace,
    argument,
    as_numpy,
    call_name,
    label_of,
    name_of,
    value_users,
)

_RELU_CALLS: Final = {F.relu, torch.relu, torch.relu_, "relu", "relu_"}
_LEAKY_CALLS: Final = {F.leaky_relu, F.leaky_relu_}
_RESHAPE_CALLS: Final = {
    *(torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, torch.unflatten),
    *("flatten", "reshape", "squeeze", "unsqueeze", "unflatten", "view", "reshape_as", "view_as"),
}
_COPY_CALLS: Final = {torch.clone, "clone", "contiguous", "to", "type", "float", "double", "cpu"}
_SOFTMAX_NAMES: Final = {"softmax", "logsoftmax"}
_ADDITION_NAMES: Final = {"add", "iadd", "cat", "concat"}


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A readable node: its layer (None if it only reshapes) and the node that feeds it."""

    node: fx.Node
    source: fx.Node
    layer: Any


#: Reads a node of a further kind; None where it is of no such kind.
Reader = Callable[[fx.Node, fx.Node, "Trace"], Any]


class Obstacle(Exception):
    """A node that cannot be read: its label, why, and what its user may do about it."""

    def __init__(self, node: fx.Node, trace: Trace, why: str, hint: str | None = None) -> None:
        super().__init__(why)
        self.label = label_of(node, trace.modules)
        self.why = why
        self.hint = hint or "end the model with Linear and ReLU layers after it"


def walk_back(trace: Trace, further: Reader | None = None) -> tuple[list[Step], Obstacle | None]:
    """The readable steps before the output, in forward order, and what stopped the walk.

    `further` reads nodes of other kinds than `Layer` has.
    """
    steps: list[Step] = []
    node = trace.output
    while node.op != "placeholder":
        try:
            step = _read_node(node, trace, further)
        except Obstacle as obstacle:
            return steps[::-1], obstacle
        steps.append(step)
        node = step.source
    return steps[::-1], None


def _read_node(node: fx.Node, trace: Trace, further: Reader | None) -> Step:
    """One node as a layer or a reshape, or raises what stands in the way."""
    users = len(value_users(node))
    if users > 1:
        why = f"has an output that is used {users} times (a residual connection or a branch)"
        raise Obstacle(node, trace, why)
    source = _source(node)
    if not isinstance(source, fx.Node):
        raise _unknown(node, trace)
    layer = None if further is None else further(node, source, trace)
    if layer is None:
        read = _read_module if node.op == "call_module" else _read_call
        layer = read(node, source, trace)
    return Step(node, source, layer)


def _source(node: fx.Node) -> Any:
    """What feeds a node: the first argument, but for numbers and tensors of the module before it."""
    given = [one for one in node.args if isinstance(one, fx.Node) and one.op != "get_attr"]
    return given[0] if given else argument(node, 0, "input")


def _read_module(node: fx.Node, source: fx.Node, trace: Trace) -> Layer | None:
    module, name = trace.modules[str(node.target)], name_of(node)
    if isinstance(module, torch.jit.ScriptModule):
        raise _unknown(node, trace)
    forward = type(module).forward
    if forward is nn.Linear.forward:
        return read_linear(node, source, trace)
    if isinstance(module, _BatchNorm):
        return _read_batch_norm(node, source, trace)
    if forward is nn.ReLU.forward:
        return Rectifier(0.0, name)
    if forward is nn.LeakyReLU.forward:
        return Rectifier(float(module.negative_slope), name)  # type: ignore[arg-type]
    if isinstance(module, _DropoutNd) and not (module.training and module.p > 0):
        return None
    if forward is nn.Identity.forward:
        return None
    if forward in (nn.Flatten.forward, nn.Unflatten.forward):
        _check_reshape(node, source, trace)
        return None
    raise _unknown(node, trace)


def read_linear(node: fx.Node, source: fx.Node, trace: Trace, *, fixed: bool = False) -> Affine:
    """An ``nn.Linear``; with `fixed`, also one whose weight or bias is a buffer."""
    weight, bias = plain_numbers(node, trace, fixed=fixed)
    shape = trace.shapes.get(source, ())
    if len(shape) != 2 or shape[0] != trace.num_samples:
        why = f"is applied to a tensor of shape {shape}, not (samples, features)"
        raise Obstacle(node, trace, why)
    return Affine(weight, bias, name_of(node))


def plain_numbers(node: fx.Node, trace: Trace, *, fixed: bool) -> tuple[Floats, Floats | None]:
    """Weight and bias of a module that owns them and is used once; with `fixed`, also its buffers."""
    module = trace.modules[str(node.target)]
    plain: dict[str, torch.Tensor | None] = {**module._parameters}
    if fixed:
        plain |= {name: one for name, one in module._buffers.items() if trace.is_fixed(one)}
    weight, bias = plain.get("weight"), plain.get("bias")
    if weight is None or (bias is None and module.bias is not None):
        why = "has numbers that are buffers or computed from other parameters (weight norm, pruning, …)"
        raise Obstacle(node, trace, why, "make them plain parameters (remove the hook)")
    _check_used_once(node, trace)
    return as_numpy(weight), None if bias is None else as_numpy(bias)


def _check_used_once(node: fx.Node, trace: Trace) -> None:
    """Makes sure that nothing else depends on a module's weight and bias."""
    module = trace.modules[str(node.target)]
    uses = max(trace.uses[id(value)] for value in (module.weight, module.bias))
    if uses > 1:
        why = f"shares its weights: they are used {uses} times in the forward"
        raise Obstacle(node, trace, why, "give each use its own copy of the layer")


def _read_batch_norm(node: fx.Node, source: fx.Node, trace: Trace) -> Scale:
    module = trace.modules[str(node.target)]
    if not isinstance(module, nn.BatchNorm1d):
        raise _unknown(node, trace)
    check_norm(node, trace)
    if len(trace.shapes.get(source, ())) != 2:
        raise Obstacle(node, trace, f"is applied to a tensor of shape {trace.shapes.get(source)}")
    return Scale(*folded(module), name_of(node))


def check_norm(node: fx.Node, trace: Trace) -> None:
    """Makes sure that a batch norm is the same for all samples, and its weights its own."""
    module = trace.modules[str(node.target)]
    if module.running_mean is None or module.running_var is None or module.training:
        why = "has no running statistics, so that a sample's output depends on the whole batch"
        raise Obstacle(node, trace, why, "train it with track_running_stats=True, use eval mode")
    _check_used_once(node, trace)


def folded(module: Any, places: int = 1) -> tuple[Floats, Floats]:
    """What a batch norm multiplies by and adds, for channels of so many places."""
    scale = (module.running_var + module.eps).rsqrt()
    if module.weight is not None:
        scale = scale * module.weight
    shift = -module.running_mean * scale
    if module.bias is not None:
        shift = shift + module.bias
    return np.repeat(as_numpy(scale), places), np.repeat(as_numpy(shift), places)


def _read_call(node: fx.Node, source: fx.Node, trace: Trace) -> Layer | None:
    call = node.target
    if call in _RELU_CALLS:
        return Rectifier(0.0, node.name)
    if call in _LEAKY_CALLS:
        slope = argument(node, 1, "negative_slope", 0.01)
        if isinstance(slope, (int, float)):
            return Rectifier(float(slope), node.name)
    if call in DROPOUT_CALLS:
        return None  # trace_module has refused those that are on
    if call in _RESHAPE_CALLS or (call is operator.getitem and _is_slicing(node)):
        _check_reshape(node, source, trace)
        return None
    if call in _COPY_CALLS and trace.dtypes.get(node) == torch.float64:
        return None
    if call in _COPY_CALLS:
        why = f"casts to {trace.dtypes.get(node)}, while exact analyses need float64 throughout"
        raise Obstacle(node, trace, why, "remove the cast")
    raise _unknown(node, trace)


def _check_reshape(node: fx.Node, source: fx.Node, trace: Trace) -> None:
    """Makes sure that the samples stay the rows; row-major order then makes it the identity."""
    before, after = trace.shapes.get(source, ()), trace.shapes.get(node, ())
    rows = before[:1] == after[:1] == (trace.num_samples,)
    if not rows or math.prod(before) != math.prod(after):
        why = f"turns shape {before} into {after}, which does not keep one row per sample"
        raise Obstacle(node, trace, why)


def _is_slicing(node: fx.Node) -> bool:
    """Whether an index holds only slices, integers, None and ``...``, which keep the order."""
    index = node.args[1]
    parts = index if isinstance(index, tuple) else (index,)
    return all(isinstance(part, (slice, int, type(None), type(...))) for part in parts)


def _unknown(node: fx.Node, trace: Trace) -> Obstacle:
    """The obstacle of a node that is no readable layer, with the advice that fits its kind."""
    name = call_name(node).lower().replace("_", "")
    if str(node.target) in trace.failures:
        why = f"has a forward that cannot be traced ({trace.failures[str(node.target)]})"
        return Obstacle(node, trace, why)
    why = "is not a readable affine or ReLU layer"
    if node.op == "call_module":
        name = type(trace.modules[str(node.target)]).__name__.lower()
    if name in _SOFTMAX_NAMES:
        return Obstacle(node, trace, why, "give logits: the cross_entropy loss applies softmax")
    if name in _ADDITION_NAMES and len(node.all_input_nodes) > 1:
        return Obstacle(node, trace, "joins two branches (a residual connection)")
    if "dropout" in name:
        return Obstacle(node, trace, "drops units at random", "put the model into eval mode")
    return Obstacle(node, trace, why)
