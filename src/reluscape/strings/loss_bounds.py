"""Polynomials above a loss whose outputs are polynomials of t but for a radius."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import binom, logsumexp

from reluscape.strings.moving import Moving

if TYPE_CHECKING:
    from reluscape.strings.bounding import Enclosure

Floats = NDArray[np.float64]


def loss_above(
    moving: Moving,
    outputs: Enclosure,
    left: float,
    right: float,
    rows: slice | NDArray[np.intp] = slice(None),
) -> float:
    """The largest Bernstein coefficient on [left, right] of a polynomial above the loss of samples."""
    targets, name = np.asarray(moving.landscape.targets)[rows], moving.landscape.loss_name
    if name == "cross_entropy":
        above = _entropies(outputs, targets)
    else:
        residuals = outputs.center - targets[:, None]
        above = (_sizes if name == "l1" else _squares)(residuals, outputs)
        above *= 0.5 if name == "half_squared" else 1.0
    return float((above / len(targets)).max() + _decay(moving, left, right))


def _sizes(residuals: Floats, outputs: Enclosure) -> Floats:
    """Coefficients above the sum of absolute residuals: those of sizes are above the size."""
    return np.asarray(np.abs(residuals).sum(axis=(0, 2)) + outputs.radius.sum(axis=(0, 2)))


def _squares(residuals: Floats, outputs: Enclosure) -> Floats:
    """Coefficients above the sum of squares: `(c + r)^2 <= c^2 + 2 |c| r + r^2`, as products."""
    degree = residuals.shape[1] - 1
    some = np.abs(residuals[outputs.rows])
    inner = _inner(residuals, residuals)
    inner += 2.0 * _inner(some, outputs.radius) + _inner(outputs.radius, outputs.radius)
    weights = binom(degree, np.arange(degree + 1))
    inner *= weights[:, None] * weights
    sums = [np.trace(inner[::-1], offset=k) for k in range(-degree, degree + 1)]
    return np.asarray(sums / binom(2 * degree, np.arange(2 * degree + 1)))


def _inner(first: Floats, second: Floats) -> Floats:
    """Inner products of coefficients over samples and outputs (degree + 1, degree + 1)."""
    flat = [part.transpose(1, 0, 2).reshape(part.shape[1], -1) for part in (first, second)]
    return np.asarray(flat[0] @ flat[1].T)


def _entropies(outputs: Enclosure, labels: NDArray[np.int64]) -> Floats:
    """Coefficients above the sum of `log(1 + sum_j exp(f_j - f_y))`, convex in the outputs (Jensen)."""
    own = np.broadcast_to(labels[:, None, None], (*outputs.center.shape[:2], 1))
    margins = outputs.center - np.take_along_axis(outputs.center, own, axis=2)
    rows = outputs.rows
    margins[rows] += outputs.radius + np.take_along_axis(outputs.radius, own[rows], axis=2)
    np.put_along_axis(margins, own, -np.inf, axis=2)
    return np.asarray(np.logaddexp(0.0, logsumexp(margins, axis=2)).sum(axis=0))


def _decay(moving: Moving, left: float, right: float) -> float:
    """The largest weight decay on [left, right]: at an end, for it is convex."""
    a, b, c = moving.decay
    return float(max((1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c for t in (left, right)))
