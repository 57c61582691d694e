"""The second derivative of a loss along its gradient, by a backward pass and a sweep forward.

Gradient flow `W' = -g(W)` changes the loss `gamma(t) = l(W(t))` with `gamma'' = 2 g^T H g`; divided by
`|g|^2` it is the rate at which `|g|^2` falls (Milne, equations 16 to 19). Autograd's Hessian H is that
with all switches of the rectifiers frozen, which is the Hessian of the piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from reluscape.errors import InputError
from reluscape.monitor.operations import Edge, bending, dot, ordered, outputs

_ZERO = torch.zeros((), dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class AlongGradient:
    """A loss and its derivatives along the gradient at one point.

    Attributes:
        loss: The loss, weight decay included.
        squared_gradient: `|g|^2`.
        curvature: `2 g^T H g / |g|^2`; NaN where the gradient is zero or not finite.
    """

    loss: float
    squared_gradient: float
    curvature: float


def along_gradient(
    loss: torch.Tensor,
    parameters: Sequence[torch.Tensor],
    weight_decay: float = 0.0,
    *,
    keep: Callable[[Sequence[torch.Tensor | None]], None] | None = None,
) -> AlongGradient:
    """Loss, `|g|^2` and `2 g^T H g / |g|^2` of `loss + weight_decay / 2 |parameters|^2`.

    With `h` and `g0` Hessian and gradient of `loss` alone, `g = g0 + lambda W`, one backward pass gives
    g0 and the slopes at every operation; a sweep through the graph then sums `g^T h g` (`operations`),
    and `2 g^T H g / |g|^2 = 2 g^T h g / |g|^2 + 2 lambda`. Neither touches `.grad`.

    Args:
        loss: A scalar with its graph, which is kept.
        parameters: Leaves to differentiate by, at least one.
        weight_decay: lambda.
        keep: Given g0.

    Cost: of affine maps and convolutions, the arithmetic of a backward and three forward passes, beyond
    the forward pass that there was; of other operations up to twice that.

    Raises:
        InputError: The loss is no scalar, or does not depend on the parameters.
        AnalysisError: Something in the model has no second derivative in PyTorch.
    """
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        received = tuple(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise InputError(f"the loss must be a tensor with one number; received {received}")
    if not loss.requires_grad:
        raise InputError("the loss must depend on parameters that require a gradient: it does not")
    root = get_gradient_edge(loss)
    nodes = ordered(root.node)
    own, slopes = _backward(loss, parameters, outputs(nodes, (root.node, root.output_nr)))
    if keep is not None:
        keep(own)
    with torch.no_grad():
        pairs = zip(own, parameters, strict=True)
        gradient = [_plus(slope, p, weight_decay) for slope, p in pairs]
        tangents = {_edge(p): g for p, g in zip(parameters, gradient, strict=True)}
        squares = sum((dot(p, p) for p in parameters), _ZERO) if weight_decay else _ZERO
        square = sum((dot(g, g) for g in gradient), _ZERO)
        product = sum(bending(nodes, slopes, tangents), _ZERO)
        total = loss.detach().double().reshape(()) + 0.5 * weight_decay * squares.to(loss.device)
        value, size, bent = torch.stack([total, square, product.to(square.device)]).tolist()
    curvature = 2.0 * bent / size + 2.0 * weight_decay if size > 0.0 else float("nan")
    return AlongGradient(value, size, curvature)


def _backward(
    loss: torch.Tensor, parameters: Sequence[torch.Tensor], edges: Sequence[Edge]
) -> tuple[Sequence[torch.Tensor | None], dict[Edge, torch.Tensor]]:
    """The loss's derivatives by the parameters and by operations' outputs, where there are any."""
    ends: list[Any] = [*parameters, *(GradientEdge(*edge) for edge in edges)]
    found = torch.autograd.grad(loss, ends, retain_graph=True, allow_unused=True)
    rest = zip(edges, found[len(parameters) :], strict=True)
    return found[: len(parameters)], {edge: slope for edge, slope in rest if slope is not None}


def _edge(parameter: torch.Tensor) -> Edge:
    """A leaf as the operations of a graph see it."""
    found = get_gradient_edge(parameter)
    return found.node, found.output_nr


def _plus(slope: torch.Tensor | None, parameter: torch.Tensor, decay: float) -> torch.Tensor:
    """A slope with that of the weight decay."""
    if slope is None:
        return decay * parameter
    slope = slope.to_dense() if slope.is_sparse else slope
    return slope + decay * parameter if decay else slope


def free(loss: torch.Tensor, parameters: Sequence[torch.Tensor]) -> None:
    """Let go of what a loss's graph saved, as `loss.backward()` does, by a backward pass of nothing."""
    if loss.grad_fn is not None:
        stop = loss.grad_fn.register_prehook(lambda grads: (None,) * len(grads))
        torch.autograd.grad(loss, parameters, allow_unused=True)
        stop.remove()


@contextmanager
def undisturbed(model: nn.Module, batch: Sequence[torch.Tensor] = ()) -> Iterator[None]:
    """Let the model be evaluated without a trace.

    Buffers (running statistics) are copies for the time being, the random generators of the CPU and of
    the model's CUDA devices go on from where they were, and gradients are recorded whatever the caller's
    mode. Attention and recurrent layers take kernels that can be differentiated twice. What the model
    writes into the tensors of its batch is undone.
    """
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    buffers = [(module, dict(module._buffers)) for module in model.modules() if module._buffers]
    copies = deepcopy([mine for _, mine in buffers])  # at once: what shares memory goes on to
    before = [tensor.detach().clone() for tensor in batch]
    try:
        for (module, _), mine in zip(buffers, copies, strict=True):
            module._buffers.update(mine)
        recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
        with (
            torch.random.fork_rng(sorted(one for one in devices if one is not None)),
            torch.inference_mode(False),
            torch.enable_grad(),
            sdpa_kernel(SDPBackend.MATH),
            torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext(),
        ):
            yield
    finally:
        for module, mine in buffers:
            module._buffers.update(mine)
        with torch.no_grad():
            for tensor, values in zip(batch, before, strict=True):
                if not torch.equal(tensor, values):
                    tensor.copy_(values)


class Sides(TorchFunctionMode):
    """Records on which side of zero each input of a rectifier lies, while it is entered.

    It sees `nn.ReLU`, `nn.LeakyReLU` and `nn.PReLU` as well as the functions, in place or not.

    Attributes:
        patterns: One boolean tensor per rectifier and call, in the order of execution.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patterns: list[torch.Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., torch.Tensor],
        types: Sequence[type],
        args: tuple[torch.Tensor, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> torch.Tensor:
        if func in _RECTIFIERS:
            values = args[0] if args else (kwargs or {})["input"]
            self.patterns.append((values.detach() > 0).reshape(-1))
        return func(*args, **(kwargs or {}))

    def pattern(self) -> torch.Tensor:
        """All of them in a row."""
        return torch.cat(self.patterns) if self.patterns else torch.zeros(0, dtype=torch.bool)


_RECTIFIERS = frozenset(
    {
        torch.relu,
        torch.relu_,
        torch.Tensor.relu,
        torch.Tensor.relu_,
        nn.functional.relu,
        nn.functional.leaky_relu,
        torch.prelu,
        nn.functional.prelu,
        torch.nn.functional.leaky_relu_,
    }
)
