"""A small trainer for the ReLU networks that the demonstrations and tests use."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from reluscape.errors import AnalysisError, InputError

__all__ = ["Training", "mlp", "train"]

Objective = Callable[[torch.Tensor, torch.Tensor, Sequence[nn.Parameter]], torch.Tensor]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Training:
    """What a training run did.

    Attributes:
        losses: (steps,) float64, the minibatch objective (loss plus weight decay) before each step.
        thetas: (kept, P) float64, the last parameter vectors in ``model.parameters()`` order;
            the last row is where the model stands. The first may be the start.
        steps: number of finished steps.
        seed: of the order of the samples.
        completed: False if Ctrl-C ended the run early.
        description: one line on the method.
    """

    losses: np.ndarray
    thetas: np.ndarray
    steps: int
    seed: int
    completed: bool
    description: str

    def __repr__(self) -> str:
        state = "completed" if self.completed else "interrupted"
        return f"Training({self.steps} steps, {state}, {self.description})"


def mlp(widths: Sequence[int], *, seed: int, bias: bool = True) -> nn.Sequential:
    """A float64 network of Linear layers with ReLU between them.

    Weights and biases are uniform on ±1/sqrt(fan_in), drawn from ``seed`` alone: the global
    random state is neither read nor changed.

    Args:
        widths: inputs, hidden widths, outputs: (64, 16, 16, 10) has three Linear layers.
        seed: of the draw.
        bias: whether layers have biases.

    Raises:
        InputError: fewer than two widths, or a width below 1.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise InputError(f"expected at least two widths of at least 1, got {tuple(widths)}")
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        with torch.random.fork_rng(devices=[]):  # the layer draws its own start first
            linear = nn.Linear(fan_in, fan_out, bias=bias, dtype=torch.float64)
        with torch.no_grad():
            for parameter in linear.parameters():
                parameter.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def train(
    model: nn.Module,
    inputs: np.ndarray,
    targets: np.ndarray,
    *,
    loss: str,
    weight_decay: float = 0.0,
    epochs: int,
    batch_size: int,
    rate: float,
    seed: int,
    keep: int = 21,
    progress: Callable[[str, float], None] | None = None,
) -> Training:
    """Minimise loss(θ) + weight_decay/2·‖θ‖² by Adam on minibatches, in place on ``model``.

    The losses are those of ``Landscape``, on each minibatch: "squared" mean ‖f(x) - y‖²,
    "half_squared" half of it, "l1" mean Σ|f(x) - y|, "cross_entropy" the mean negative
    log-likelihood of class indices. The same seed gives the same bytes on one machine; the
    global random state is left as it was. Ctrl-C ends the run at the last finished step.

    Args:
        model: trained in its own dtype; left in the mode (train or eval) it came in.
        inputs: (N, ...) float64.
        targets: (N, outputs) float64, or (N,) int64 for cross_entropy.
        loss: one of the four names.
        weight_decay: factor of half the squared norm of all parameters.
        epochs: passes over the data.
        batch_size: samples per step; the last of a pass may be smaller.
        rate: Adam's step size.
        seed: of the order of the samples and of dropout.
        keep: how many parameter vectors to return.
        progress: called with ("training", fraction) after each step.

    Raises:
        InputError: an unknown loss, or a number out of range.
        AnalysisError: the loss is not finite.
    """
    objective = _objective(loss, weight_decay)
    if min(epochs, batch_size, keep) < 1 or not rate > 0:
        raise InputError(
            "expected epochs, batch_size and keep of at least 1 and a positive rate, "
            f"got {epochs}, {batch_size}, {keep} and {rate}"
        )
    parameters = list(model.parameters())
    features = torch.as_tensor(inputs, dtype=parameters[0].dtype)
    wanted = torch.as_tensor(targets)
    wanted = wanted.to(features.dtype) if loss != "cross_entropy" else wanted
    losses: list[float] = []
    thetas: deque[np.ndarray] = deque([_flat(parameters)], maxlen=keep)
    total = epochs * -(-len(features) // batch_size)
    was_training, completed = model.training, True
    model.train()
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(seed)
        optimizer = torch.optim.Adam(parameters, lr=rate)
        try:
            for batch in _batches(len(features), batch_size, epochs, seed):
                value = objective(model(features[batch]), wanted[batch], parameters)
                _check_finite(value, len(losses), rate)
                optimizer.zero_grad()
                torch.autograd.backward(value)
                optimizer.step()
                thetas.append(_flat(parameters))
                losses.append(float(value.detach()))
                if progress is not None:
                    progress("training", len(losses) / total)
        except KeyboardInterrupt:
            completed = False
            _restore(parameters, thetas[-1])
    model.train(was_training)
    decay = f", weight decay {weight_decay:g}" if weight_decay else ""
    return Training(
        np.array(losses),
        np.stack(thetas),
        len(losses),
        seed,
        completed,
        f"Adam, rate {rate:g}, batches of {min(batch_size, len(features))}, {loss}{decay}",
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Small networks train faster on one thread, and rounding then depends on no thread count."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _batches(samples: int, size: int, epochs: int, seed: int) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        yield from torch.split(torch.randperm(samples, generator=generator), size)


def _objective(name: str, weight_decay: float) -> Objective:
    """The loss of a batch plus weight_decay/2 times the squared norm of the parameters."""
    functions: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
        "squared": lambda out, y: (out - y).square().sum(dim=1).mean(),
        "half_squared": lambda out, y: (out - y).square().sum(dim=1).mean() / 2,
        "l1": lambda out, y: (out - y).abs().sum(dim=1).mean(),
        "cross_entropy": nn.functional.cross_entropy,
    }
    if name not in functions:
        raise InputError(f"expected a loss among {', '.join(functions)}, got {name!r}")
    if not 0 <= weight_decay < np.inf:
        raise InputError(f"expected a finite weight decay of at least 0, got {weight_decay}")

    def objective(
        out: torch.Tensor, y: torch.Tensor, parameters: Sequence[nn.Parameter]
    ) -> torch.Tensor:
        value = functions[name](out, y)
        if weight_decay:
            value = (
                value + weight_decay / 2 * torch.stack([p.square().sum() for p in parameters]).sum()
            )
        return value

    return objective


def _check_finite(value: torch.Tensor, step: int, rate: float) -> None:
    if not torch.isfinite(value):
        raise AnalysisError(
            f"the training loss became {float(value.detach())} at step {step}: "
            f"lower the rate (it was {rate:g}) or rescale the data"
        )


def _flat(parameters: Sequence[nn.Parameter]) -> np.ndarray:
    return torch.cat([p.detach().reshape(-1) for p in parameters]).double().numpy().copy()


def _restore(parameters: Sequence[nn.Parameter], theta: np.ndarray) -> None:
    """Put ``theta`` back: Ctrl-C can fall between the updates of two parameters."""
    sizes = [p.numel() for p in parameters]
    with torch.no_grad():
        for p, part in zip(parameters, torch.split(torch.from_numpy(theta), sizes), strict=True):
            p.copy_(part.reshape(p.shape))
