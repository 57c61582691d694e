"""The highest value seen along a segment: a grid, and searches where it may rise between its points."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

__all__ = ["highest_seen"]

Floats = NDArray[np.float64]

#: Searches on one segment.
MOST = 3
#: Where a search ends, in spacings of the grid; a kink is missed by its slope times this.
NEAR = 1e-9
#: A rise that is not searched for, relative to the highest value.
SAME = 1e-12


def highest_seen(
    value: Callable[[float], float], times: Floats, values: Floats
) -> tuple[float, float]:
    """The highest value of an evenly spaced grid and of searches beside its points, and its position.

    A function that is concave around a point of the grid rises above it by no more than it falls from
    there to one of its neighbours. Searched are the highest points by that measure, as long as it
    exceeds what was seen: 15 to 50 evaluations each. Peaks narrower than the grid stay unseen.

    Args:
        value: The value at a position; NaN counts as above every level.
        times: Positions of the grid (points,).
        values: It at these, without NaN (points,).
    """
    best = int(values.argmax())
    height, position = float(values[best]), float(times[best])
    spacing = float(times[1] - times[0])
    for reach, place in _rising(values):
        if not height < np.inf or reach <= height + SAME * abs(height):
            break
        found, at = _peak(value, float(times[place]), spacing)
        if found > height:
            height, position = found, at
    return height, position


def _rising(values: Floats) -> list[tuple[float, int]]:
    """Points above which the values may rise, and how far: the highest first, `MOST` of them."""
    before, after = np.append(values[1], values[:-1]), np.append(values[1:], values[-2])
    with np.errstate(invalid="ignore"):  # infinite values are not searched
        falls = values - np.minimum(before, after)
        reach = values + falls
        # at an end, by the line through the two points that come next
        reach[[0, -1]] = 2.0 * values[[1, -2]] - values[[2, -3]]
    top = (values >= np.maximum(before, after)) & (falls > 0.0)
    places = sorted(np.flatnonzero(top).tolist(), key=lambda k: (-reach[k], k))
    return [(float(reach[k]), k) for k in places[:MOST]]


def _peak(value: Callable[[float], float], centre: float, spacing: float) -> tuple[float, float]:
    """The highest value that a search finds less than a spacing from a point of [0, 1], and where.

    Positions are counted from that point, so that they are told apart far below the grid's spacing.
    """

    def fallen(steps: float) -> float:
        found = value(centre + steps * spacing)
        return -np.inf if np.isnan(found) else -found

    bounds = max(-1.0, -centre / spacing), min(1.0, (1.0 - centre) / spacing)
    with np.errstate(all="ignore"):  # it fits parabolas through infinite values, too
        near = minimize_scalar(fallen, bounds=bounds, method="bounded", options={"xatol": NEAR})
    return -float(near.fun), min(max(centre + float(near.x) * spacing, 0.0), 1.0)
