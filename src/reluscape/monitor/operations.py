"""A loss's second derivative along a direction, operation by operation of its graph.

Along `W(t) = W + t v` every operation `y = f(x)` of the loss has `y' = Df x'` and
`y'' = D^2 f[x', x'] + Df x''`. With `delta` the loss's derivative by y, which one backward pass gives,
what the operations bend sums to

    v^T H v = sum over operations of <delta, D^2 f[x', x']>,

so that only first derivatives are carried along, from the parameters to the loss, and nothing goes back
a second time. Products, convolutions, batch norm and what stands between them in most networks have
rules; of any other operation autograd differentiates the backward pass, apart from the rest of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd.graph import GradientEdge, Node

from reluscape.errors import AnalysisError

#: An output of an operation: the operation's node, and which of its outputs.
Edge = tuple[Node, int]
#: The loss's derivatives by an operation's outputs.
Slopes = Mapping[int, torch.Tensor]
#: Derivatives of an operation's inputs along the direction; None for zero.
Tangents = Sequence[torch.Tensor | None]
#: The derivatives of its outputs, and `<delta, D^2 f[x', x']>`, None for zero.
Bent = tuple[Mapping[int, torch.Tensor], torch.Tensor | None]
Rule = Callable[[Any, Slopes, Tangents], Bent]
Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def ordered(root: Node) -> list[Node]:
    """The operations that a node depends on, each after those that it depends on.

    Raises:
        AnalysisError: One of them hides parameters from autograd.
    """
    found: dict[Node, None] = {}
    reached: set[Node] = set()
    ahead = [(root, False)]
    while ahead:
        node, done = ahead.pop()
        if done:
            found[node] = None
        elif node not in reached:
            reached.add(node)
            ahead.append((node, True))
            ahead += [(one, False) for one, _ in _inputs(node) if one not in reached]
    if any(node.name() == "CheckpointFunctionBackward" for node in found):
        raise AnalysisError(
            "a checkpoint with use_reentrant=True hides its parameters: give it use_reentrant=False"
        )
    return list(found)


def outputs(nodes: Sequence[Node], root: Edge) -> list[Edge]:
    """Outputs by which `bending` needs the loss's derivatives."""
    used = dict.fromkeys([root, *(edge for node in nodes for edge in _inputs(node))])
    return [(node, place) for node, place in used if node.name() not in _SLOPELESS]


def bending(
    nodes: Sequence[Node], slopes: dict[Edge, torch.Tensor], tangents: dict[Edge, torch.Tensor]
) -> list[torch.Tensor]:
    """The terms of `v^T H v`.

    Args:
        nodes: As `ordered` gives them.
        slopes: The loss's derivatives by `outputs`; taken out as they are used.
        tangents: The direction v, by the parameters' edges; what is done with is taken out.

    Raises:
        AnalysisError: An operation has no second derivative in PyTorch.
    """
    terms = []
    last = {edge: node for node in nodes for edge in _inputs(node)}
    by_node: dict[Node, dict[int, torch.Tensor]] = {}
    for (node, place), slope in slopes.items():
        by_node.setdefault(node, {})[place] = slope
    slopes.clear()
    for node in nodes:
        delta, name = by_node.pop(node, {}), node.name()
        moved = [tangents.get((one, at)) if one else None for one, at in node.next_functions]
        for edge in _inputs(node):
            if last[edge] is node:
                tangents.pop(edge, None)
        if all(x is None for x in moved) or not (delta or name in _SLOPELESS):
            continue
        ahead, term = _RULES.get(name, _any)(node, delta, moved)
        tangents.update({(node, place): y for place, y in ahead.items()})
        if term is not None:
            terms.append(term)
    return terms


def dot(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Inner product in the tensors' own precision, at least float32, as float64."""
    if left.is_complex():
        left, right = (torch.view_as_real(one.resolve_conj()) for one in (left, right))
    if left.element_size() < 4:
        left, right = left.float(), right.float()
    return torch.dot(left.reshape(-1), right.reshape(-1)).double()


def _inputs(node: Node) -> list[Edge]:
    """The outputs of other operations, or parameters, that an operation takes."""
    return [(one, place) for one, place in node.next_functions if one is not None]


# ---- any operation ------------------------------------------------------------------------------


def _any(node: Node, delta: Slopes, moved: Tangents) -> Bent:
    """Differentiate `d -> Df^T d`, which is linear, by d and by the inputs."""
    pairs = zip(node.next_functions, moved, strict=True)
    at = {GradientEdge(one, place): x for (one, place), x in pairs if one and x is not None}
    d = {place: slope.detach().requires_grad_() for place, slope in delta.items()}
    edges, ends = list(at), [GradientEdge(node, place) for place in d]
    sources: list[Any] = [*d.values(), *edges]
    with _apart(node), _explained():
        with torch.enable_grad():
            back = torch.autograd.grad(
                ends, edges, list(d.values()), create_graph=True, allow_unused=True
            )
        along = [(b, at[e]) for b, e in zip(back, edges, strict=True) if b is not None]
        along = [(b, x) for b, x in along if b.requires_grad or _refuse_constant(b)]
        if not along:
            return {}, None
        found = torch.autograd.grad(
            [b for b, _ in along], sources, [x for _, x in along],
            retain_graph=True, allow_unused=True,
        )  # fmt: skip
    ahead = {place: y for place, y in zip(d, found[: len(d)], strict=True) if y is not None}
    if not ahead:
        raise AnalysisError(_ONCE)
    rest = zip(found[len(d) :], edges, strict=True)
    terms = [dot(bent, at[edge]) for bent, edge in rest if bent is not None]
    return ahead, torch.stack(terms).sum() if terms else None


@contextmanager
def _apart(node: Node) -> Iterator[None]:
    """Let no derivative pass through an operation's inputs, of which one may depend on another."""
    before = {one for one, _ in _inputs(node)} if len(node.next_functions) > 1 else set()
    stops = [one.register_prehook(lambda grads: (None,) * len(grads)) for one in before]
    try:
        yield
    finally:
        for stop in stops:
            stop.remove()


@contextmanager
def _explained() -> Iterator[None]:
    """Autograd's error as this package's."""
    try:
        yield
    except RuntimeError as error:
        line = str(error).strip().splitlines()[0]
        raise AnalysisError(
            f"the loss has no second derivative in PyTorch ({line}): replace that operation, or turn"
            " off the fused kernel or compilation that hides its definition"
        ) from error


def _refuse_constant(back: torch.Tensor) -> bool:
    """A slope that does not depend on d is zero, or its backward pass hides something from autograd."""
    if bool(back.any()):
        raise AnalysisError(_ONCE)
    return False


_ONCE = (
    "the loss has no second derivative in PyTorch (a function in it hides its backward pass, as"
    " once_differentiable does): replace that function"
)


# ---- operations with rules ----------------------------------------------------------------------


def _transposed(node: Any, delta: Slopes, moved: Tangents) -> Bent:
    """`y = x^T`."""
    (x,) = moved
    return {0: x.t()} if x is not None else {}, None


def _reshaped(node: Any, delta: Slopes, moved: Tangents) -> Bent:
    """The same numbers in another shape."""
    (x,) = moved
    return {0: x.reshape(delta[0].shape)} if x is not None else {}, None


def _rectified(node: Any, delta: Slopes, moved: Tangents) -> Bent:
    """Elementwise and piecewise linear: Df is diagonal, and its own transpose."""
    ends = [GradientEdge(node, 0)], [GradientEdge(*edge) for edge in _inputs(node)]
    return {0: torch.autograd.grad(*ends, moved, retain_graph=True)[0]}, None


def _added(node: Any, delta: Slopes, moved: Tangents) -> Bent:
    """`y = a + alpha b`."""
    a, b = moved
    scaled = b if b is None or node._saved_alpha == 1 else node._saved_alpha * b
    return {0: _sum([a, scaled], delta[0])}, None


def _affine(node: Any, delta: Slopes, moved: Tangents) -> Bent:
    """`y = beta b + alpha x W`."""
    if node._saved_alpha != 1 or node._saved_beta != 1:
        return _any(node, delta, moved)
    b, *factors = moved
    return _bilinear(torch.mm, delta, (node._saved_mat1, node._saved_mat2), factors, b)


def _product(function: Product, names: tuple[str, str]) -> Rule:
    """`y = function(a, b)`, bilinear; the names under which the node saves a and b."""

    def rule(node: Any, delta: Slopes, moved: Tangents) -> Bent:
        return _bilinear(function, delta, [getattr(node, name) for name in names], moved)

    return rule


def _convolution(node: Any, delta: Slopes, moved: Tangents) -> Bent:
    """`y = x * w + b`."""

    def product(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        # a weight that requires a gradient keeps PyTorch from XNNPACK, several times slower for batches
        return torch.convolution(
            x, w.detach().requires_grad_(), None,
            node._saved_stride, node._saved_padding, node._saved_dilation,
            node._saved_transposed, node._saved_output_padding, node._saved_groups,
        )  # fmt: skip

    dx, dw, b = moved
    wide = None if b is None else b.reshape(-1, *[1] * (delta[0].ndim - 2))
    x, w = node._saved_input, node._saved_weight
    if dx is None or dw is None or node._saved_groups > 1:
        return _bilinear(product, delta, (x, w), (dx, dw), wide)
    # one convolution with twice the channels takes no longer than two; where they are few, far less
    channels = 1 if node._saved_transposed else 0
    left, bent = product(dx, torch.cat([w.detach(), dw], channels)).chunk(2, 1)
    return {0: _sum([left, product(x, dw), wide], delta[0])}, 2.0 * dot(delta[0], bent)


def _bilinear(
    product: Product,
    delta: Slopes,
    factors: Sequence[torch.Tensor],
    moved: Tangents,
    offset: torch.Tensor | None = None,
) -> Bent:
    """`y = a b`: `y' = a' b + a b'` and `y'' = 2 a' b'`; plus the derivative of an offset."""
    (a, b), (da, db) = factors, moved
    left = None if da is None else product(da, b)
    right = None if db is None else product(a, db)
    term = None if da is None or db is None else 2.0 * dot(delta[0], product(da, db))
    return {0: _sum([left, right, offset], delta[0])}, term


def _sum(parts: Tangents, like: torch.Tensor) -> torch.Tensor:
    """Of those that are not zero, at least one."""
    total, *rest = (part for part in parts if part is not None)
    for part in rest:
        total = total + part
    return total.expand_as(like)


def _normed(node: Any, delta: Slopes, moved: Tangents) -> Bent:
    """Batch norm, by channel: `y = b + w r c` with `c = x - mean(x)` and `r = (mean(c^2) + eps)^(-1/2)`.

    With `v' = 2 mean(c c')` and `v'' = 2 mean(c'^2)`: `r' = -r^3 v' / 2` and
    `r'' = 3 r^5 v'^2 / 4 - r^3 v'' / 2`; so `y' = b' + w r c' + (w r' + w' r) c` and
    `y'' = w (r'' c + 2 r' c') + 2 w' (r c' + r' c)`. In eval mode mean and r are constants.
    """
    x, d = node._saved_input, delta[0]
    channel, axes = (1, -1, *[1] * (x.ndim - 2)), (0, *range(2, x.ndim))
    nothing = torch.zeros(x.shape[1], dtype=x.dtype, device=x.device)
    dx = torch.zeros_like(x) if moved[0] is None else moved[0]
    dw, db = (nothing if one is None else one for one in moved[1:])
    w = nothing + 1.0 if node._saved_weight is None else node._saved_weight.detach()

    def total(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return (left * right).sum(axes)

    if node._saved_training:
        c, r = x - node._saved_result1.view(channel), node._saved_result2
        dc, share = dx - dx.mean(axes, keepdim=True), 2.0 * x.shape[1] / x.numel()
        dv, d2v = share * total(c, dc), share * total(dc, dc)
    else:
        r = torch.rsqrt(node._saved_running_var + node._saved_eps)
        c, dc, dv, d2v = x - node._saved_running_mean.view(channel), dx, nothing, nothing
    dr, d2r = -0.5 * r**3 * dv, 0.75 * r**5 * dv**2 - 0.5 * r**3 * d2v
    by_c, by_dc = total(d, c), total(d, dc)
    term = w * (d2r * by_c + 2.0 * dr * by_dc) + 2.0 * dw * (r * by_dc + dr * by_c)
    y = (w * r).view(channel) * dc + (w * dr + dw * r).view(channel) * c + db.view(channel)
    return {0: y.to(d.dtype)}, term.sum().double()


#: Operations without second derivative whose rule does not look at the slopes either.
_SLOPELESS = frozenset(
    {"torch::autograd::AccumulateGrad", "TBackward0", "ReluBackward0", "LeakyReluBackward0"}
)
_RULES: Mapping[str, Rule] = {
    "AddBackward0": _added,
    "AddmmBackward0": _affine,
    "BmmBackward0": _product(torch.bmm, ("_saved_self", "_saved_mat2")),
    "ConvolutionBackward0": _convolution,
    "LeakyReluBackward0": _rectified,
    "MmBackward0": _product(torch.mm, ("_saved_self", "_saved_mat2")),
    "MulBackward0": _product(torch.mul, ("_saved_self", "_saved_other")),
    "NativeBatchNormBackward0": _normed,
    "ReluBackward0": _rectified,
    "TBackward0": _transposed,
    "UnsafeViewBackward0": _reshaped,
    "ViewBackward0": _reshaped,
}
