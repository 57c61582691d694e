"""The second derivative of a loss along its gradient, by two backward passes.

Gradient flow `W' = -g(W)` changes the loss `gamma(t) = l(W(t))` with `gamma'' = 2 g^T H g`; divided by
`|g|^2` it is the rate at which `|g|^2` falls (Milne, equations 16 to 19). Autograd's Hessian H is that
with all switches of the rectifiers frozen, which is the Hessian of the piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from reluscape.errors import AnalysisError, InputError


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
    g0 and a second `h g`; `2 g^T H g / |g|^2 = 2 g^T (h g) / |g|^2 + 2 lambda`. Neither touches `.grad`.

    Args:
        loss: A scalar with its graph, which is freed.
        parameters: What to differentiate by, at least one.
        weight_decay: lambda.
        keep: Given g0, without its graph.

    Cost: about two forward and four backward passes' arithmetic beyond the forward pass.

    Raises:
        InputError: The loss is no scalar, or does not depend on the parameters.
        AnalysisError: Something in the model has no second derivative in PyTorch.
    """
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        received = tuple(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise InputError(f"the loss must be a tensor with one number; received {received}")
    if not loss.requires_grad:
        raise InputError("the loss must depend on parameters that require a gradient: it does not")
    slopes = torch.autograd.grad(loss.reshape(()), parameters, create_graph=True, allow_unused=True)
    if keep is not None:
        keep([None if slope is None else slope.detach() for slope in slopes])
    _refuse_once_differentiable(slopes)
    with torch.no_grad():
        gradient = [_plus(s, p, weight_decay) for s, p in zip(slopes, parameters, strict=True)]
        squares = _dot(parameters, parameters) if weight_decay else torch.zeros(())
        square = _dot(gradient, gradient)
    bent = _twice(slopes, parameters, gradient)
    total = loss.detach().double().reshape(()) + 0.5 * weight_decay * squares.to(loss.device)
    value, size, product = torch.stack([total, square, _dot(gradient, bent)]).tolist()
    curvature = 2.0 * product / size + 2.0 * weight_decay if size > 0.0 else float("nan")
    return AlongGradient(value, size, curvature)


def _plus(slope: torch.Tensor | None, parameter: torch.Tensor, decay: float) -> torch.Tensor:
    """A slope with that of the weight decay."""
    if slope is None:
        return decay * parameter
    return slope + decay * parameter if decay else slope.detach()


def _twice(
    slopes: Sequence[torch.Tensor | None],
    parameters: Sequence[torch.Tensor],
    gradient: Sequence[torch.Tensor],
) -> Sequence[torch.Tensor]:
    """The Hessian times the gradient; slopes that are constant have none."""
    pairs = zip(slopes, gradient, strict=True)
    bending = [(s, g) for s, g in pairs if s is not None and s.requires_grad]
    if not bending:
        return [torch.zeros_like(p) for p in parameters]
    ends, weights = zip(*bending, strict=True)
    try:
        return torch.autograd.grad(
            ends,
            parameters,
            grad_outputs=weights,
            allow_unused=True,
            materialize_grads=True,
        )
    except RuntimeError as error:
        line = str(error).strip().splitlines()[0]
        raise AnalysisError(
            f"the loss has no second derivative in PyTorch ({line}): replace that operation, or turn"
            " off the fused kernel or compilation that hides its definition"
        ) from error


def _refuse_once_differentiable(slopes: Sequence[torch.Tensor | None]) -> None:
    """Raise where autograd would pass over a function that is differentiable once, and say nothing."""
    reached: set[Any] = set()
    ahead: list[Any] = [slope.grad_fn for slope in slopes if slope is not None]
    while ahead:
        node = ahead.pop()
        if node is None or node in reached:
            continue
        reached.add(node)
        if "Error" in node.name():
            raise AnalysisError(
                "the loss has no second derivative in PyTorch (a function in it is marked with"
                " once_differentiable): replace that function"
            )
        ahead += [before for before, _ in node.next_functions]


def _dot(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> torch.Tensor:
    """Inner product: of each pair in its own precision, at least float32, summed in float64."""
    pairs = (
        (a.detach().reshape(-1), b.detach().reshape(-1)) for a, b in zip(left, right, strict=True)
    )
    wide = ((a.float(), b.float()) if a.element_size() < 4 else (a, b) for a, b in pairs)
    return torch.stack([torch.dot(a, b).double() for a, b in wide]).sum()


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Let the model be evaluated without a trace.

    Buffers (running statistics) are copies for the time being, the random generators of the CPU and of
    the model's CUDA devices go on from where they were, and gradients are recorded whatever the caller's
    mode. Attention and recurrent layers take kernels that can be differentiated twice.
    """
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    buffers = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    copies = {id(buffer): buffer.clone() for _, _, buffer in buffers}
    try:
        for module, name, buffer in buffers:
            module._buffers[name] = copies[id(buffer)]
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
        for module, name, buffer in buffers:
            module._buffers[name] = buffer


class Sides(TorchFunctionMode):
    """Records on which side of zero each input of a rectifier lies, while it is entered.

    It sees `nn.ReLU` and `nn.LeakyReLU` as well as the functions, in place or not.

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
        torch.nn.functional.leaky_relu_,
    }
)
