"""Reads a module: trace, walk back, run once more, check that the chain gives its output."""

from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import fx, nn
from torch.nn.parameter import UninitializedParameter

from reluscape.errors import InputError, UnsupportedModelError
from reluscape.network.layers import Affine, Floats, Network, Reading
from reluscape.network.nodes import Obstacle, Reader, Step, walk_back
from reluscape.network.tracing import (
    STILL_WORKS,
    Trace,
    as_numpy,
    name_of,
    trace_module,
)

READ_BACK_TOLERANCE: Final = 1e-12
"""Largest read-back error, relative to max(1, largest output), where rounding errors are smaller."""


def read_network(module: nn.Module, inputs: torch.Tensor) -> Reading:
    """Reads the longest affine-and-rectifier tail of a module.

    Readable are Linear, ReLU, LeakyReLU, Flatten, Identity, Dropout and BatchNorm1d (both in eval
    mode), their functional forms, and reshapes that keep samples as rows, in any nesting of
    ``Sequential`` and traceable ``forward`` methods.

    Args:
        module: float64 and in eval mode; left unchanged.
        inputs: float64, N rows.

    Returns:
        A reading whose network, applied to its features, gives the module's output within
        1e-12 · max(1, max|output|), or within the rounding errors that both may have where large
        terms cancel. This is checked on these inputs each time.
        Costs two runs of the module.

    Raises:
        InputError: the weights or outputs are not finite, or the module cannot run on the inputs.
        UnsupportedModelError: no tail is readable, or reading it back fails.
    """
    _check_weights(module)
    tail = read_tail(module, inputs, Affine)
    reading = Reading(Network(tail.layers), tail.features, tail.opaque, tail.reason)
    _check_read_back(reading, tail.output)
    return reading


class Tail(NamedTuple):
    """The end of a module from its first readable layer with numbers on.

    Attributes:
        layers: Its layers.
        features: What enters them, in the shape that the first one takes.
        output: What the module puts out (N, outputs).
        opaque: Names of the parts before.
        reason: Why these are not read.
    """

    layers: tuple[Any, ...]
    features: Floats
    output: Floats
    opaque: tuple[str, ...]
    reason: str | None


def read_tail(
    module: nn.Module, inputs: torch.Tensor, kinds: Any, further: Reader | None = None
) -> Tail:
    """Reads the longest tail that begins with a layer of some kinds; nothing is read back."""
    with torch.no_grad():
        trace = trace_module(module, inputs)
        steps, obstacle = walk_back(trace, further)
        start = next((k for k, step in enumerate(steps) if isinstance(step.layer, kinds)), None)
        if start is None:
            raise UnsupportedModelError(_no_tail_message(module, obstacle))
        features, output = run(module, trace.modules[str(steps[start].node.target)], inputs)
    layers = tuple(step.layer for step in steps[start:] if step.layer is not None)
    _check_deterministic(trace, output)
    opaque = _opaque_part(trace, steps[start], steps[:start], obstacle)
    return Tail(layers, features, output, *opaque)


def run(module: nn.Module, first: nn.Module, inputs: torch.Tensor) -> tuple[Floats, Floats]:
    """One real run: the input of the first readable layer, and the output as (N, outputs)."""
    seen: list[Floats] = []

    def remember(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        (values,) = (*arguments, *keywords.values())
        seen.append(as_numpy(values).copy())

    handle = first.register_forward_pre_hook(remember, with_kwargs=True)
    try:
        output = module(inputs.clone())
    finally:
        handle.remove()
    if len(seen) != 1:
        raise UnsupportedModelError(
            "expected a model that does the same on every run, received one that called its first "
            f"readable layer {len(seen)} times on the second; remove random or stateful branches"
        )
    return seen[0], as_numpy(output).reshape(len(inputs), -1)


def _opaque_part(
    trace: Trace, start: Step, before: list[Step], obstacle: Obstacle | None
) -> tuple[tuple[str, ...], str | None]:
    """The names of what runs before the first affine layer, and why it is not read."""
    reshapes = {step.node for step in before if step.layer is None}
    found: set[fx.Node] = set()
    pending = [start.source]
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending.extend(node.all_input_nodes)
    parts = [
        node
        for node in start.node.graph.nodes
        if node in found - reshapes
        and node.op != "placeholder"
        and (node.op == "call_module" or node in trace.shapes)
    ]
    if not parts:
        return (), None
    names = tuple(dict.fromkeys(name_of(node) for node in parts))
    if obstacle is not None:
        return names, f"{obstacle.label} {obstacle.why}"
    return names, f"{', '.join(names)} runs before the first Linear"


def _check_weights(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise InputError(
                f"expected weights with values, received a lazy layer's empty parameter '{name}'; "
                "run the model once on its data first"
            )
        bad = parameter.numel() - int(torch.isfinite(parameter).sum())
        if bad:
            raise InputError(
                f"expected finite weights, received {bad} NaN or infinite of {parameter.numel()} "
                f"in parameter '{name}'; load weights from before training diverged"
            )


def _check_deterministic(trace: Trace, output: Floats) -> None:
    error, bound = deviation(as_numpy(trace.result).reshape(output.shape), output)
    if not error <= bound:
        raise UnsupportedModelError(
            f"expected a deterministic model, received outputs that differ by {error:.1e} between "
            f"two runs on the same inputs; switch dropout and other noise off in eval mode"
        )


def _check_read_back(reading: Reading, output: Floats) -> None:
    network, features = reading.network, reading.features
    rounding = 2.0 * network.rounding_bounds(features)  # both have rounding errors
    error, bound = deviation(network(features), output, rounding)
    if not error <= bound:
        raise UnsupportedModelError(
            f"expected the layers {', '.join(map(repr, reading.network.names))} to reproduce the "
            f"model's output within {bound:.1e}, received a difference of {error:.1e}; remove "
            f"forward hooks and casts to float32; {STILL_WORKS}"
        )


def deviation(
    values: Floats, output: Floats, rounding: Floats | float = 0.0
) -> tuple[float, float]:
    """The difference that exceeds what is accepted by most, and what is accepted there."""
    least = READ_BACK_TOLERANCE * max(1.0, float(np.abs(output).max()))
    errors = np.abs(values - output)
    bounds = np.broadcast_to(np.maximum(least, rounding), errors.shape)
    worst = np.unravel_index(np.argmax(errors / bounds), errors.shape)
    return float(errors[worst]), float(bounds[worst])


def _no_tail_message(module: nn.Module, obstacle: Obstacle | None) -> str:
    expected = "expected a model that ends in Linear and ReLU layers"
    if obstacle is None:
        return f"{expected}, received a {type(module).__name__} without any Linear; {STILL_WORKS}"
    return f"{expected}, but {obstacle.label} {obstacle.why}; {obstacle.hint}; {STILL_WORKS}"
