"""From factors to positive multiples of them, at points where the loss leaves room for it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from reluscape.landscape import Landscape

__all__ = ["rescaled"]

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

#: The product rises by at most this share in one step.
WIDEST = 0.25
#: Steps for all factors beyond which it is left.
MOST = 2000
#: Iterations of the way down.
DOWN = 200


def rescaled(
    landscape: Landscape,
    begin: Floats,
    end: Floats,
    weights: list[Indices],
    free: Indices,
    scales: dict[int, float],
    level: float,
) -> list[Floats] | None:
    """Points from `begin` to `end`, which differ in one factor and by positive multiples of some others.

    While a factor grows by r and `W_1` shrinks by it, each straight, the product is at most
    (1 + r)^2 / (4 r) times what it was, and not less. The loss is convex in that number, so that it is
    below the level if it is so for the largest. Before, `W_1` and the last bias go straight to where the
    loss is low.

    Args:
        landscape: Of the loss.
        begin: With multiples of `end`'s factors at the places of `scales`.
        end: With the factors that shall be there.
        weights: Positions in `begin` of each factor.
        free: Those of `W_1` and the last bias, in which the outputs are affine.
        scales: The multiples.
        level: What is not to be exceeded.

    Returns:
        The points, without both ends; None if they would be too many.
    """
    if not scales:
        return []
    other = begin.copy()  # the function of the end
    other[free] = end[free]
    other[weights[0]] /= np.prod(list(scales.values()))
    high = min(begin, other, key=landscape.loss)
    low, step = _room(landscape, high, _lowered(landscape, high, free), weights[0], level)
    counts = {
        place: int(np.ceil(abs(np.log(scale)) / np.log(step))) if step > 1.0 else MOST + 1
        for place, scale in scales.items()
    }
    if sum(counts.values()) > MOST:
        return None
    points = [low]
    for place, scale in scales.items():
        points += _along(points[-1], end, weights[place], weights[0], scale, counts[place])
    return points


def _along(
    start: Floats, end: Floats, factor: Indices, last: Indices, scale: float, count: int
) -> list[Floats]:
    """Points on which a factor goes to that of `end`, and `W_1` keeps the product."""
    points = []
    for k in range(1, count + 1):
        share, point = k / count, start.copy()
        point[factor] = end[factor] * scale ** (1.0 - share)
        point[last] = start[last] * scale**share
        points.append(point)
    return points


def _lowered(landscape: Landscape, theta: Floats, free: Indices) -> Floats:
    """A point of lower loss, other coordinates held, or the same; the loss is convex in the free ones."""

    def loss(values: Floats) -> tuple[float, Floats]:
        point = theta.copy()
        point[free] = values
        return landscape.loss(point), landscape.gradient(point)[free]

    found = minimize(loss, theta[free], jac=True, method="L-BFGS-B", options={"maxiter": DOWN})
    low = theta.copy()
    low[free] = found.x
    return low if landscape.loss(low) < landscape.loss(theta) else theta


def _room(
    landscape: Landscape, high: Floats, low: Floats, last: Indices, level: float
) -> tuple[Floats, float]:
    """A point on the way down with as long a step as there is, and no further down than that needs."""
    widest = _step(landscape, low, last, level)
    for share in 0.5 ** np.arange(10.0, 0.0, -1.0):
        point = high + share * (low - high)
        if _step(landscape, point, last, level) >= widest:
            return point, widest
    return low, widest


def _step(landscape: Landscape, theta: Floats, last: Indices, level: float) -> float:
    """The largest r tried for which the loss stays below the level; 1 if there is none."""
    share = WIDEST
    while share > 1e-12:
        point = theta.copy()
        point[last] *= 1.0 + share
        if landscape.loss(point) <= level:
            return float(1.0 + 2.0 * share + 2.0 * np.sqrt(share * (1.0 + share)))
        share *= 0.5
    return 1.0
