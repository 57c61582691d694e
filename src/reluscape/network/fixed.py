"""Affine maps whose numbers are no parameters: buffers that no run changes, and Python's numbers."""

import math
import operator
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional as F

from reluscape.network.layers import Affine, Floats, Scale
from reluscape.network.nodes import Obstacle, read_linear
from reluscape.network.tracing import Trace, argument, as_numpy, name_of

_PRODUCTS: Final = {operator.matmul, torch.matmul, torch.mm, "matmul", "mm"}
_SIMPLE: Final[Mapping[Any, str]] = {
    call: kind
    for kind, calls in {
        "add": (operator.add, torch.add, "add"),
        "sub": (operator.sub, torch.sub, "sub"),
        "mul": (operator.mul, torch.mul, "mul"),
        "div": (operator.truediv, torch.div, "div"),
    }.items()
    for call in calls
}


@dataclass(frozen=True, slots=True)
class Fixed:
    """A layer that is the same wherever the parameters are.

    Attributes:
        layer: The map.
    """

    layer: Affine | Scale

    @property
    def terms(self) -> int:
        """Terms of one sum."""
        return self.layer.terms

    def __call__(self, values: Floats) -> Floats:
        """Maps (..., in) to (..., out)."""
        return self.layer(values)

    def sizes(self, before: Floats) -> Floats:
        """Sums of absolute terms behind the outputs, from those behind the inputs."""
        return self.layer.sizes(before)


def read_fixed(node: fx.Node, source: fx.Node, trace: Trace) -> Affine | Fixed | None:
    """A `Linear` whose numbers may be buffers, or a call by fixed numbers; None where it is neither."""
    if node.op == "call_module":
        linear = type(trace.modules[str(node.target)]).forward is nn.Linear.forward
        return read_linear(node, source, trace, fixed=True) if linear else None
    shape, kind = trace.shapes.get(source, ()), _SIMPLE.get(node.target)
    if shape[:1] != (trace.num_samples,) or trace.dtypes.get(node) != torch.float64:
        return None
    if kind is not None:
        return _read_simple(node, kind, source, trace)
    if node.args[:1] != (source,) or len(shape) != 2:
        return None
    if node.target is F.linear:
        given = [argument(node, place, name) for place, name in ((1, "weight"), (2, "bias"))]
        weight, bias = (None if one is None else _constant(one, node, trace) for one in given)
        return _affine(node, weight, bias)
    if node.target in _PRODUCTS and len(node.args) == 2 and not node.kwargs:
        return _affine(node, _constant(node.args[1], node, trace).T, None)
    return None


def _affine(node: fx.Node, weight: Floats | None, bias: Floats | None) -> Fixed | None:
    """A product with a matrix, or with a vector, whose outputs have no axis of their own."""
    if weight is None or weight.ndim not in (1, 2):
        return None
    rows = np.atleast_2d(weight)
    if bias is not None:
        bias = np.broadcast_to(bias, (len(rows),))
    return Fixed(Affine(rows, bias, name_of(node)))


def _read_simple(node: fx.Node, kind: str, source: fx.Node, trace: Trace) -> Fixed | None:
    """A sum, difference, product or quotient, with one number for all samples."""
    shape, first = trace.shapes[source], node.args[0] is source
    if len(node.args) != 2 or node.kwargs or trace.shapes[node] != shape:
        return None
    number = _constant(node.args[1 if first else 0], node, trace)
    width = math.prod(shape[1:])
    row = len(shape) == 2 and number.shape[-1:] == (number.size,) == (width,)
    if not row and number.size > 1:
        return None
    if kind == "div" and not (first and np.abs(number).min() > sys.float_info.min):
        return None
    scale, shift = np.ones(width), np.zeros(width)
    if kind == "mul":
        scale *= number.ravel()
    elif kind == "div":
        scale /= number.ravel()
    else:
        shift += -number.ravel() if kind == "sub" and first else number.ravel()
        scale *= -1.0 if kind == "sub" and not first else 1.0
    return Fixed(Scale(scale, shift, name_of(node)))


def _constant(given: Any, node: fx.Node, trace: Trace) -> Floats:
    """The numbers of an argument, or raises that these may move."""
    if isinstance(given, int | float) and math.isfinite(given):
        return np.array(float(given))
    if isinstance(given, fx.Node) and given.op == "get_attr":
        tensor = operator.attrgetter(str(given.target))(trace.modules[""])
        if trace.is_fixed(tensor):
            return as_numpy(tensor.double())
    raise Obstacle(node, trace, "takes numbers that are not known to be fixed")
