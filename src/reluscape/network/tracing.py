"""Traces a module with ``torch.fx`` and runs the graph once to learn every shape."""

import math
import operator
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn
from torch.nn import functional as F

from reluscape.errors import InputError, UnsupportedModelError

STILL_WORKS: Final = (
    "the sampled tier (loss and gradient of a Landscape, their survey) takes any module"
)


# What the forward of an arbitrary module may raise when it meets symbols in place of tensors, or
# inputs of a wrong shape. NameError is fx's answer to a module that is not registered.
FORWARD_FAILURES: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    RuntimeError,
    TypeError,
    ValueError,
)


class _Entry(nn.Module):
    """Calls the module with the inputs alone, so that its other arguments keep their defaults."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor) -> Any:
        return self.model(inputs)


class _Tracer(fx.Tracer):
    """Traces into every module but the built-in layers; what fails inside becomes a leaf."""

    def __init__(self, *, with_math: bool) -> None:
        super().__init__(autowrap_modules=(math,) if with_math else ())  # type: ignore[arg-type]
        self.failures: dict[str, str] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        inherits = any(type(m).forward is layer.forward for layer in (nn.Linear, nn.BatchNorm1d))
        return inherits or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        known, depth = len(self.graph.nodes), len(self.module_stack)
        try:
            return super().call_module(m, forward, args, kwargs)
        except FORWARD_FAILURES as error:
            self._forget(known, depth)
            name = self.path_of_module(m)
            self.failures[name] = first_line(error)
            return self.create_proxy("call_module", name, args, kwargs)

    def _forget(self, known: int, depth: int) -> None:
        """Drops what a failed forward left behind.

        Nodes that fetch parameters stay: fx keeps them in a cache and hands them out again.
        """
        while len(self.module_stack) > depth:
            self.module_stack.popitem()
        for node in reversed(list(self.graph.nodes)[known:]):
            if node.op != "get_attr":
                self.graph.erase_node(node)


class _ShapeRecorder(fx.Interpreter):
    """Runs a graph and notes the shape and type of every tensor on the way."""

    def __init__(self, entry: nn.Module, graph: fx.Graph) -> None:
        super().__init__(entry, graph=graph)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.dtypes: dict[fx.Node, torch.dtype] = {}
        self.current: fx.Node | None = None

    def run_node(self, n: fx.Node) -> Any:
        self.current = n
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            self.shapes[n] = tuple(value.shape)
            self.dtypes[n] = value.dtype
        return value


#: Types that a call with float64 takes as the float64 numbers that `Tensor.double` makes of them.
_EXACT: Final = {
    torch.float64, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """A traced module with the shapes of one run.

    `fixed` is where the buffers lie that this run has left as they were.
    """

    output: fx.Node
    result: torch.Tensor
    num_samples: int
    modules: Mapping[str, nn.Module]
    shapes: Mapping[fx.Node, tuple[int, ...]]
    dtypes: Mapping[fx.Node, torch.dtype]
    uses: Mapping[int, int]
    failures: Mapping[str, str]
    fixed: frozenset[int]

    def is_fixed(self, tensor: torch.Tensor | None) -> bool:
        """Whether a tensor is a buffer, or a view of one, that is the same at all parameters; finite."""
        if tensor is None or tensor.layout != torch.strided or tensor.dtype not in _EXACT:
            return False
        return _memory(tensor) in self.fixed and bool(torch.isfinite(tensor).all())


def trace_module(module: nn.Module, inputs: torch.Tensor) -> Trace:
    """Traces the module, runs the graph once and checks that it gives one tensor of outputs."""
    entry = _Entry(module)
    before = _versions(entry)
    tracer, graph = _traced(entry)
    if "model" in tracer.failures:
        raise UnsupportedModelError(_untraceable_message(module, tracer.failures["model"]))
    modules = dict(entry.named_modules())
    _check_no_random_function(graph)
    recorder = _ShapeRecorder(entry, graph)
    try:
        result = recorder.run(inputs.clone())
    except FORWARD_FAILURES as error:
        raise InputError(_run_message(recorder.current, modules, inputs, error)) from error
    _check_output(result, len(inputs))
    (returned,) = (node.args[0] for node in graph.nodes if node.op == "output")
    assert isinstance(returned, fx.Node)
    uses = _parameter_uses(entry, graph, modules)
    return Trace(
        returned, result, len(inputs), modules, recorder.shapes, recorder.dtypes, uses,
        tracer.failures, _unchanged(entry, before),
    )  # fmt: skip


def _traced(entry: nn.Module) -> tuple[_Tracer, fx.Graph]:
    """The graph; first without wrapping the functions of `math`: that takes longer than a small trace."""
    tracer = _Tracer(with_math=False)
    graph = tracer.trace(entry)
    if tracer.failures:  # one of them may be a function of `math` that met a symbol
        tracer = _Tracer(with_math=True)
        graph = tracer.trace(entry)
    return tracer, graph


def _versions(entry: nn.Module) -> dict[str, tuple[torch.Tensor, int]]:
    """Buffers by name, and how often each was written to."""
    return {
        name: (one, one._version)
        for name, one in entry.named_buffers(remove_duplicate=False)
        if one.layout == torch.strided and not one.is_inference()
    }


def _unchanged(entry: nn.Module, before: Mapping[str, tuple[torch.Tensor, int]]) -> frozenset[int]:
    """Where the buffers lie that are as they were, as is all else that lies there."""
    after = dict(entry.named_buffers(remove_duplicate=False))
    kept, moved = set[int](), {0}  # 0 is where empty tensors lie
    for name, (one, version) in before.items():
        same = after.get(name) is one and one._version == version
        (kept if same else moved).add(_memory(one))
    return frozenset(kept - moved)


def _memory(tensor: torch.Tensor) -> int:
    """Where a tensor's numbers and those of all its views begin."""
    return tensor.untyped_storage().data_ptr()


def _parameter_uses(
    entry: nn.Module, graph: fx.Graph, modules: Mapping[str, nn.Module]
) -> Counter[int]:
    """How many nodes use each parameter, by the parameter's identity."""
    uses: Counter[int] = Counter()
    for node in graph.nodes:
        if node.op == "call_module":
            uses.update({id(parameter) for parameter in modules[str(node.target)].parameters()})
        elif node.op == "get_attr":
            uses[id(operator.attrgetter(str(node.target))(entry))] += len(value_users(node))
    return uses


DROPOUT_CALLS: Final = {
    F.dropout,
    F.dropout1d,
    F.dropout2d,
    F.dropout3d,
    F.alpha_dropout,
    F.feature_alpha_dropout,
    torch.dropout,
}
_SHAPE_METHODS: Final = {"size", "dim", "ndimension", "numel", "nelement"}
_SHAPE_ATTRIBUTES: Final = {"shape", "ndim", "dtype", "device"}


def as_numpy(values: torch.Tensor) -> NDArray[np.float64]:
    """A tensor's values as a NumPy array."""
    array: NDArray[np.float64] = values.detach().cpu().numpy()
    return array


def value_users(node: fx.Node) -> list[fx.Node]:
    """The nodes that use a node's values, not only its shape."""
    return [user for user in node.users if not reads_shape(user)]


def reads_shape(node: fx.Node) -> bool:
    """Whether a node asks another for its shape, type or device only."""
    if node.op == "call_method":
        return node.target in _SHAPE_METHODS
    return node.target is getattr and node.args[1] in _SHAPE_ATTRIBUTES


def argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """A call's argument, given by position or by name."""
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


def _check_no_random_function(graph: fx.Graph) -> None:
    for node in graph.nodes:
        if node.target not in DROPOUT_CALLS:
            continue
        if argument(node, 2, "training", True) and argument(node, 1, "p", 0.5) != 0:
            raise UnsupportedModelError(
                f"expected a deterministic model, received one whose forward calls "
                f"{call_name(node)} with dropout always active; pass training=self.training"
            )


def _check_output(result: object, num_samples: int) -> None:
    expected = "expected a model that returns one tensor of shape (N,) or (N, outputs)"
    if not isinstance(result, torch.Tensor):
        kind = type(result).__name__.removeprefix("immutable_")  # fx wraps dicts and lists
        raise UnsupportedModelError(
            f"{expected}, received a {kind}; "
            "wrap the model in a module that returns the tensor alone"
        )
    shape = tuple(result.shape)
    if len(shape) not in (1, 2) or shape[0] != num_samples or 0 in shape:
        raise UnsupportedModelError(
            f"{expected}, received shape {shape} for N = {num_samples} samples; "
            "reshape the output in the model's forward"
        )
    if not bool(torch.isfinite(result).all()):
        raise InputError(
            "expected finite outputs, received NaN or infinite values from the model; "
            "check the scale of the inputs and the buffers of its normalisation layers"
        )


def _untraceable_message(module: nn.Module, why: str) -> str:
    hint = "move what is special into a submodule, so that the layers after it can be read"
    if "control flow" in why:
        hint = f"data-dependent control flow in the outermost forward hides the layers: {hint}"
    return (
        f"expected a forward that torch.fx can trace, received {type(module).__name__}, "
        f"where tracing says '{why}'; {hint}; {STILL_WORKS}"
    )


def _run_message(
    node: fx.Node | None, modules: Mapping[str, nn.Module], inputs: torch.Tensor, error: Exception
) -> str:
    where, shape, why = "the model", tuple(inputs.shape), first_line(error)
    if node is not None and node.op == "call_module":
        where = label_of(node, modules)
        layer = modules[str(node.target)]
        if isinstance(layer, nn.Linear) and "shape" in why:
            where = f"{where}, which takes {layer.in_features} features,"
    mend = "give data of the shape that the model was built for"
    if "float" in why.lower() and "double" in why.lower():
        mend = "remove casts to float32 from the forward: the analysis runs in float64"
    return (
        f"expected inputs that the model can run on, received shape {shape}, on which {where} "
        f"fails with '{why}'; {mend}"
    )


def label_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> str:
    """How messages name a node: ``'head.2' (Softmax)`` or ``softmax() in the forward of Model``."""
    if node.op == "call_module":
        kind = type(modules[str(node.target)]).__name__
        name = name_of(node)
        return f"'{name}' ({kind})" if name else f"the model itself ({kind})"
    if node.op == "get_attr":
        return f"the tensor '{name_of(node)}'"
    owners = list(node.meta.get("nn_module_stack", {}).values())
    owner = modules[owners[-1][0]] if owners else None
    return f"{call_name(node)}() in the forward of {type(owner).__name__}"


def name_of(node: fx.Node) -> str:
    """A module's or tensor's qualified name without the entry's prefix; else the call's name."""
    if node.op in ("call_module", "get_attr"):
        return str(node.target).removeprefix("model").removeprefix(".")
    return call_name(node)


def call_name(node: fx.Node) -> str:
    """The name of the function or method that a node calls."""
    return str(getattr(node.target, "__name__", node.target))


def first_line(error: Exception) -> str:
    """An error's first line, or its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
