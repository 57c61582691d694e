"""The four losses as functions of the network's outputs.

With outputs `f` of shape (samples, outputs) and N samples::

    squared        1/N  sum ||f_i - y_i||^2
    half_squared   1/2N sum ||f_i - y_i||^2
    l1             1/N  sum |f_ij - y_ij|
    cross_entropy  1/N  sum (logsumexp(f_i) - f_i[y_i])

A loss gives its value, its slope (derivative by the outputs), its curvature (second derivative by
one sample's outputs) and a bound on the slope's error when the outputs carry an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from reluscape.errors import InputError

Floats = NDArray[np.float64]

#: Names of the losses, in the order that help texts list them.
LOSSES = ("squared", "half_squared", "l1", "cross_entropy")


class Loss(Protocol):
    """What an analysis needs to know of a loss; every method is vectorised over samples."""

    @property
    def name(self) -> str:
        """Name in the public contract."""

    def value(self, outputs: Floats, targets: NDArray[Any]) -> float:
        """Mean loss over the samples."""

    def slope(self, outputs: Floats, targets: NDArray[Any]) -> Floats:
        """Derivative of the mean loss by the outputs, shape (samples, outputs)."""

    def slope_error(self, outputs: Floats, errors: Floats) -> Floats:
        """Bound on the slope's error when `outputs` are known up to `errors`."""

    def curvature(self, outputs: Floats) -> Floats:
        """Second derivative by each sample's outputs, shape (samples, outputs, outputs)."""


@dataclass(frozen=True, slots=True)
class SquaredLoss:
    """`scale / N * sum ||f - y||^2`; scale is 1 (squared) or 1/2 (half_squared)."""

    name: str
    scale: float

    def value(self, outputs: Floats, targets: NDArray[Any]) -> float:
        """Mean loss over the samples."""
        residuals = (outputs - targets).ravel()
        return float(self.scale / len(outputs) * (residuals @ residuals))

    def slope(self, outputs: Floats, targets: NDArray[Any]) -> Floats:
        """`2 scale / N (f - y)`."""
        slope: Floats = outputs - targets
        slope *= 2.0 * self.scale / len(outputs)
        return slope

    def slope_error(self, outputs: Floats, errors: Floats) -> Floats:
        """`2 scale / N errors`."""
        return 2.0 * self.scale / len(outputs) * errors

    def curvature(self, outputs: Floats) -> Floats:
        """`2 scale / N` times the identity."""
        samples, width = outputs.shape
        identity = 2.0 * self.scale / samples * np.eye(width)
        return np.broadcast_to(identity, (samples, width, width))


@dataclass(frozen=True, slots=True)
class L1Loss:
    """`1/N sum |f - y|`; at a zero residual the slope is that of the side below (-1/N)."""

    name: str = "l1"

    def value(self, outputs: Floats, targets: NDArray[Any]) -> float:
        """Mean loss over the samples."""
        return float(np.abs(outputs - targets).sum() / len(outputs))

    def slope(self, outputs: Floats, targets: NDArray[Any]) -> Floats:
        """`+1/N` where the residual is positive, `-1/N` elsewhere."""
        return np.where(outputs > targets, 1.0, -1.0) / len(outputs)

    def slope_error(self, outputs: Floats, errors: Floats) -> Floats:
        """Zero: the slope is constant on a cell."""
        return np.zeros_like(outputs)

    def curvature(self, outputs: Floats) -> Floats:
        """Zero: the loss is affine on a cell."""
        samples, width = outputs.shape
        return np.zeros((samples, width, width))


@dataclass(frozen=True, slots=True)
class CrossEntropyLoss:
    """`1/N sum (logsumexp(f_i) - f_i[y_i])` for class indices y."""

    name: str = "cross_entropy"

    def value(self, outputs: Floats, targets: NDArray[Any]) -> float:
        """Mean loss over the samples."""
        rows = np.arange(len(outputs))
        return float(-log_softmax(outputs, axis=1)[rows, targets].mean())

    def slope(self, outputs: Floats, targets: NDArray[Any]) -> Floats:
        """`(softmax(f_i) - e_{y_i}) / N`."""
        slope: Floats = softmax(outputs, axis=1)
        rows = np.arange(len(outputs))
        slope[rows, targets] = 0.0
        slope[rows, targets] = -slope.sum(axis=1)  # p - 1 without cancellation
        slope /= len(outputs)
        return slope

    def slope_error(self, outputs: Floats, errors: Floats) -> Floats:
        """`p (1 - p) (exp(2 max(errors)) - 1) / N`, the most that the softmax p moves.

        The odds of a class change by at most exp(2 max(errors)); the smallest normal number is added
        for what underflow hides.
        """
        p = softmax(outputs, axis=1)
        others = p @ (1.0 - np.eye(p.shape[1]))
        widest = errors.max(axis=1, keepdims=True) + 8 * np.finfo(float).eps
        moved = p * others * np.expm1(2.0 * widest)
        return np.asarray((moved + np.finfo(float).tiny) / len(outputs))

    def curvature(self, outputs: Floats) -> Floats:
        """`(diag(p) - p p^T) / N`."""
        p = softmax(outputs, axis=1)
        return np.asarray(
            (np.eye(p.shape[1]) * p[:, None, :] - p[:, :, None] * p[:, None, :]) / len(p)
        )


def make_loss(name: str) -> Loss:
    """Return the loss called `name`; raise InputError for any other name."""
    if name == "squared":
        return SquaredLoss(name, 1.0)
    if name == "half_squared":
        return SquaredLoss(name, 0.5)
    if name == "l1":
        return L1Loss()
    if name == "cross_entropy":
        return CrossEntropyLoss()
    raise InputError(f"loss must be one of {', '.join(LOSSES)}; received {name!r}")
