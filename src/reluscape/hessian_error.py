"""How far rounding may carry the Hessian that differentiating twice computes in float64.

An entry is a sum of products along paths through the network: forward, backward, and both
differentiated. Each factor and each addition on the way is rounded, n of them one behind the other, so
that to first order the error is at most `n eps` times the same sum with absolute values everywhere
(Higham, Accuracy and Stability of Numerical Algorithms, section 3.1). With F the outputs of the network
of absolute weights, on absolute inputs, these sums are the entries of

    B = mean_n t_n [F'_n^T S_n F'_n + s_n . F''_n] + lambda,

with bounds S_n and s_n on the terms behind the loss's second and first derivative, and t_n = 1, but for
the cross-entropy, whose probabilities change by twice the change of the outputs, relatively. B is not
negative, so that its largest eigenvalue, hence the error's, is at most `max_i (B x)_i / x_i` for every
positive x (Collatz 1942); x is improved by a few products.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from reluscape.hessian import HessianProduct
from reluscape.kinks import Passed, forward
from reluscape.landscape import Landscape
from reluscape.network import Affine, Network, Rectifier
from reluscape.tolerances import TOLERANCES

__all__ = ["entries_error", "entries_estimate"]

Floats = NDArray[np.float64]
EPS = float(np.finfo(np.float64).eps)

#: Products that x is improved by, and what is left to its smallest components.
PRODUCTS, LEAST = 6, 1e-3
#: Changes of the weights for an estimate.
CHANGES = 4


def entries_error(landscape: Landscape, network: Network, batch: int) -> float:
    """A bound on the norm of the error of the landscape's Hessian, for a network that is read.

    Args:
        landscape: Its reading has no parts that are not read.
        network: Its affine layers and rectifiers; batch norm is `unfolded`.
        batch: Samples at once.

    Cost: a pass in NumPy and six products with a Hessian of this network's size.
    """
    subject = Absolute.of(landscape, network)
    product = HessianProduct(subject, batch)
    x, largest = np.ones(subject.size), np.inf
    for _ in range(PRODUCTS):
        image = product(x)
        largest = min(largest, float((image / x).max()))
        if not image.max() > 0.0:
            break
        x = image / image.max() + LEAST
    widths = sum(sum(layer.weight.shape) + 8 for layer in network.affine)
    additions = 2 * widths + landscape.num_samples + 32
    return additions * EPS * (largest + landscape.weight_decay)


def entries_estimate(landscape: Landscape, direction: Floats, batch: int) -> float:
    """An estimate of the error of `v^T H v` for any module: how it changes with the weights' last digits.

    Cost: as many products with the Hessian as it changes the weights, four.
    """
    rng, theta = np.random.default_rng(0), landscape.theta
    value = float(direction @ HessianProduct(landscape, batch)(direction))
    changes = []
    for _ in range(CHANGES):
        moved = theta * (1.0 + EPS * rng.choice([-1.0, 1.0], landscape.size))
        product = HessianProduct(landscape, batch, moved)
        changes.append(abs(float(direction @ product(direction)) - value))
    return TOLERANCES.rounding * max(changes)


@dataclass(frozen=True, slots=True)
class Absolute:
    """A function of absolute weights with the Hessian B, without the weight decay.

    Attributes:
        network: The layers, of which all numbers count as parameters.
        inputs: |a_n|, shape (samples, inputs).
        factors: What each rectifier may multiply by, (samples, units) each.
        bends: Factors of `S_n`: `S_n = diag(d_n) + r_n r_n^T`, both (samples, outputs).
        slopes: `s_n` without what the outputs F contribute, (samples, outputs).
        pull: What F is multiplied by in s_n.
        weights: `t_n`, shape (samples,).
    """

    network: Network
    inputs: Floats
    factors: tuple[Floats, ...]
    bends: tuple[Floats, Floats]
    slopes: Floats
    pull: float
    weights: Floats

    @classmethod
    def of(cls, landscape: Landscape, network: Network) -> Absolute:
        """Of a landscape at its own point."""
        assert landscape.reading is not None
        features = landscape.reading.features
        passed = list(forward(network, features))
        factors = tuple(_factor(at) for at in passed if isinstance(at.layer, Rectifier))
        last = passed[-1]
        outputs = last.layer(last.values)
        weights = np.ones(len(features))
        if landscape.loss_name != "cross_entropy":
            twice = 2.0 if landscape.loss_name == "squared" else 1.0
            bends = np.full_like(outputs, twice), np.zeros_like(outputs)
            slopes, pull = twice * np.abs(landscape.targets), twice
        else:
            chances, rows = softmax(outputs, axis=1), np.arange(len(outputs))
            chances[rows, landscape.targets] = 0.0
            others = chances.sum(axis=1, keepdims=True)
            shares = chances / np.maximum(others, np.finfo(float).tiny)
            shares[rows, landscape.targets] = 1.0
            slopes, pull = others * shares, 0.0
            bends = slopes, np.sqrt(3.0 * others) * shares
            weights = 1.0 + 6.0 * network_sizes(network, features).max(axis=1)
        return cls(network, np.abs(features), factors, bends, slopes, pull, weights)

    @property
    def size(self) -> int:
        """Numbers in all layers."""
        return sum(part.size for part in self._parts())

    @property
    def num_samples(self) -> int:
        """Number of samples."""
        return len(self.inputs)

    def flat_objective(
        self, theta: Floats | None = None, rows: slice = slice(None)
    ) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
        """The absolute weights, and some samples' share of the function."""
        del theta  # there is one point
        flat = torch.from_numpy(np.concatenate([part.ravel() for part in self._parts()]))
        return flat, lambda vector: self._value(vector, rows)

    def _parts(self) -> list[Floats]:
        """Absolute weights and biases of all layers."""
        every = [(layer.weight, layer.bias) for layer in self.network.affine]
        return [np.abs(part) for pair in every for part in pair if part is not None]

    def _value(self, vector: torch.Tensor, rows: slice) -> torch.Tensor:
        outputs = self._outputs(vector, rows)
        here = outputs.detach()
        slopes = torch.from_numpy(self.slopes[rows]) + self.pull * here
        diagonal, row = (torch.from_numpy(part[rows]) for part in self.bends)
        off = outputs - here
        bent = (diagonal * off**2).sum(dim=1) + (row * off).sum(dim=1) ** 2
        each = 0.5 * bent + (slopes * outputs).sum(dim=1)
        return (torch.from_numpy(self.weights[rows]) * each).sum() / self.num_samples

    def _outputs(self, vector: torch.Tensor, rows: slice) -> torch.Tensor:
        """F, (samples, outputs)."""
        parts = iter(torch.split(vector, [part.size for part in self._parts()]))
        factors = iter(self.factors)
        values = torch.from_numpy(self.inputs[rows])
        for layer in self.network.layers:
            if isinstance(layer, Affine):
                values = values @ next(parts).view(layer.weight.shape).T
                values = values if layer.bias is None else values + next(parts)
            else:
                values = values * torch.from_numpy(next(factors)[rows])
        return values


def _factor(at: Passed) -> Floats:
    """What a rectifier may multiply by, in absolute value."""
    assert isinstance(at.layer, Rectifier)
    low = abs(at.layer.slope)
    return np.where(at.unsettled, max(1.0, low), np.where(at.values > 0, 1.0, low))


def network_sizes(network: Network, features: Floats) -> Floats:
    """Sums of absolute terms behind the outputs."""
    sizes = np.abs(features)
    for layer in network.layers:
        sizes = layer.sizes(sizes)
    return sizes
