"""Small random networks in plain torch, and what torch says about one layer of them.

Nothing here is shared with the package: switching values come from running the module part by part
with one layer's weights replaced, derivatives from autograd, losses from their formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional

LOSSES = ("squared", "half_squared", "l1", "cross_entropy")
RECTIFIERS = (nn.ReLU, nn.LeakyReLU)


def dense(
    widths: Sequence[int], *, seed: int, bias: bool = True, slope: float = 0.0
) -> nn.Sequential:
    """Return Linear, rectifier, ..., Linear in float64 with normal weights and biases."""
    parts: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        parts += [nn.Linear(inputs, outputs, bias=bias).double()]
        parts += [nn.LeakyReLU(slope) if slope else nn.ReLU()]
    module = nn.Sequential(*parts[:-1])
    randomise(module, seed=seed)
    return module


def randomise(module: nn.Module, *, seed: int) -> None:
    """Draw all parameters: weights with variance 2 / inputs, biases with deviation 1/2."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            scale = (2.0 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.5
            draw = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(scale * draw)


def sample(
    count: int, inputs: int, outputs: int, loss: str, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return normal inputs, and targets that fit the loss."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, inputs))
    if loss == "cross_entropy":
        return features, rng.integers(0, outputs, size=count)
    return features, rng.normal(size=(count, outputs))


def loss_of(loss: str, outputs: torch.Tensor, targets: np.ndarray) -> torch.Tensor:
    """Return the loss, written out sample by sample."""
    total = torch.zeros((), dtype=torch.float64)
    for row, target in zip(outputs, targets, strict=True):
        if loss == "cross_entropy":
            total = total + torch.log(torch.exp(row - row[int(target)]).sum())
        else:
            gap = row - torch.as_tensor(np.atleast_1d(target), dtype=torch.float64)
            total = total + (gap.abs().sum() if loss == "l1" else (gap**2).sum())
    return total / len(outputs) * (0.5 if loss == "half_squared" else 1.0)


@dataclass(frozen=True)
class Layer:
    """One Linear layer (number `position` of a Sequential) with everything else fixed."""

    module: nn.Sequential
    position: int
    inputs: np.ndarray
    targets: np.ndarray
    loss: str

    @property
    def name(self) -> str:
        """Name of the layer in the module."""
        return str(self.position)

    @property
    def theta(self) -> np.ndarray:
        """The layer's weight, row-major, then its bias."""
        own = self.module[self.position]
        return np.concatenate([p.detach().numpy().ravel() for p in own.parameters()])

    def parts(self, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the switching values (sample-major, residuals last for L1) and the outputs."""
        hidden, found = torch.from_numpy(self.inputs), []
        for place, part in enumerate(self.module):
            joined = place > 0 and isinstance(self.module[place - 1], RECTIFIERS)
            if place > self.position and isinstance(part, RECTIFIERS) and not joined:
                found.append(hidden.reshape(-1))
            if place == self.position:
                weight = theta[: part.weight.numel()].reshape(part.weight.shape)
                bias = None if part.bias is None else theta[part.weight.numel() :]
                hidden = functional.linear(hidden, weight, bias)
            else:
                hidden = part(hidden)
        if self.loss == "l1":
            found.append((hidden - torch.from_numpy(self.targets)).reshape(-1))
        return torch.cat([torch.empty(0, dtype=torch.float64), *found]), hidden

    def kinks(self, theta: np.ndarray) -> np.ndarray:
        """Switching values at theta."""
        with torch.no_grad():
            return self.parts(torch.tensor(theta))[0].numpy()

    def pattern(self, theta: np.ndarray) -> np.ndarray:
        """Signs of the switching values at theta."""
        return self.kinks(theta) > 0

    def normals(self, theta: np.ndarray) -> np.ndarray:
        """Autograd's derivative of every switching value by theta, (kinks, params)."""
        return jacobian(lambda vector: self.parts(vector)[0], theta)

    def value(self, theta: np.ndarray) -> float:
        """Loss at theta, without weight decay."""
        with torch.no_grad():
            return float(loss_of(self.loss, self.parts(torch.tensor(theta))[1], self.targets))

    def gradient(self, theta: np.ndarray) -> np.ndarray:
        """Autograd's derivative of the loss by theta."""
        vector = torch.tensor(theta, requires_grad=True)
        loss = loss_of(self.loss, self.parts(vector)[1], self.targets)
        return torch.autograd.grad(loss, vector)[0].numpy()

    def hessian(self, theta: np.ndarray) -> np.ndarray:
        """Autograd's dense Hessian of the loss by theta."""
        return torch.autograd.functional.hessian(
            lambda vector: loss_of(self.loss, self.parts(vector)[1], self.targets),
            torch.tensor(theta),
        ).numpy()


def jacobian(function: Callable[[torch.Tensor], torch.Tensor], theta: np.ndarray) -> np.ndarray:
    """Return autograd's Jacobian; an empty one where the function has no entries."""
    vector = torch.tensor(theta)
    if function(vector).numel() == 0:
        return np.empty((0, len(theta)))
    return torch.autograd.functional.jacobian(function, vector, vectorize=True).numpy()
