"""Directions along which the loss falls at concave kinks, by linear programs from random starts.

To first order the loss is a difference of convex functions of the direction (`adjacent.py`). Along some
direction its concave kinks, and those that bend others, are on one side each. Taken as linear on all
sides, concave ones bound the loss from above: where the convex function that is left falls, so does the
loss, even where it leaves the sides it was made for. This is the first step of the convex-concave
procedure (Yuille and Rangarajan 2003). It goes on only where bends have broken the bound. A search that
finds nothing says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, eye_array, hstack

from reluscape.dependent import crossed
from reluscape.errors import AnalysisError
from reluscape.solvers import LinearProgram
from reluscape.tolerances import TOLERANCES

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: Random directions to begin with.
STARTS = 20
#: Programs from each.
STEPS = 3


def falling_directions(
    gradient: Floats,
    normals: Floats,
    jumps: Floats,
    bends: Floats,
    rates: Callable[[Floats], Floats],
) -> Iterator[Floats]:
    """Directions, of any length, along which the loss may fall; none where no kink is concave.

    Args:
        gradient: g, shape (params,).
        normals: a, shape (k, params).
        jumps: s.
        bends: c.
        rates: The rates t (k,) of the kinks along a direction.
    """
    linear = (jumps < 0) | bends.any(axis=0)
    if not (jumps < 0).any():
        return
    rng, size = np.random.default_rng(0), len(gradient)
    for _ in range(STARTS):
        direction = rng.normal(size=size)
        for _ in range(STEPS if bends.any() else 1):
            up = linear & (rates(direction) > 0)
            slope, rows = crossed(gradient, normals, jumps, bends, up)
            lowest = _lowest(slope, rows[~linear], jumps[~linear])
            if lowest is None:
                break
            direction = lowest
            yield direction


def _lowest(gradient: Floats, normals: Floats, jumps: Floats) -> Floats | None:
    """Where `g . d + sum_k s_k max(a_k . d, 0)` is least in the box |d_j| <= 1; None where that is 0."""
    count, size = normals.shape
    program = LinearProgram(
        csr_array(hstack([csr_array(-normals), eye_array(count)])),
        np.zeros(count),
        np.append(np.ones(size), np.full(count, np.inf)),
        least=np.append(-np.ones(size), np.zeros(count)),
    )
    try:
        solution = program.minimise(np.append(gradient, jumps))
    except AnalysisError:
        return None
    if solution.status != "optimal" or not solution.value < -TOLERANCES.interior:
        return None
    return solution.point[:size]
