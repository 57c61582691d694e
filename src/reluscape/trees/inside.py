"""The middle of a cell's minimisers, where they are many, in rational arithmetic."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reluscape.arithmetic import Rational
from reluscape.solvers import LinearProgram
from reluscape.trees.deepest import MOST, SMALL

Array = NDArray[Any]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def exact_middle(gram: Array, right: Array, lengths: Array, numbers: Rational) -> Array:
    """As `middle`, exactly a minimiser of `l . gram l - 2 right . l` over `l >= 0`.

    Args:
        gram: Products of the rays' columns (rays, rays).
        right: Their products with the target (rays,).
        lengths: A minimiser (rays,).
        numbers: The arithmetic.
    """
    if not len(lengths):
        return lengths
    usable = np.flatnonzero(right - gram @ lengths == 0)
    scale = float(np.sqrt(numbers.floats(right @ lengths))) or 1.0
    while len(usable):
        flat = numbers.complement(gram[np.ix_(usable, usable)])
        if not flat.shape[1]:
            break
        sizes = np.sqrt(numbers.floats(gram[usable, usable]))
        sizes[sizes == 0] = 1.0
        free = numbers.floats(flat) * sizes[:, None]
        norms = np.linalg.norm(free, axis=0)
        found = _deepest(free / norms, numbers.floats(lengths[usable]) * sizes, scale)
        if not found.positive.all():
            usable = usable[found.positive]
            continue
        moved = lengths.copy()
        moved[usable] = lengths[usable] + flat @ numbers.array(found.step / norms)
        return moved if all(moved >= 0) else lengths
    return lengths


class _Deep(NamedTuple):
    """The step to a point far inside, and which lengths are positive there."""

    step: Floats
    positive: Bools


def _deepest(free: Floats, own: Floats, scale: float) -> _Deep:
    """Of `own + free z >= 0`, a z whose least length is the largest, of those that can be positive."""
    own, count, every = own / scale, free.shape[1], np.ones(len(own), dtype=np.bool_)
    step = _least_length(free, own, every)
    positive = own + free @ step >= SMALL
    if not positive.all():
        counted = np.append(np.zeros(count), -np.ones(len(own)))
        step = _solved(free, own, np.eye(len(own)), counted, 10.0 * SMALL)
        positive = own + free @ step >= SMALL
        step = _least_length(free, own, positive)
    return _Deep(scale * step, positive)


def _least_length(free: Floats, own: Floats, which: Bools) -> Floats:
    """Make the least of some lengths as large as it can be, up to `MOST`."""
    cost = np.append(np.zeros(free.shape[1]), -1.0)
    return _solved(free, own, which[:, None].astype(np.float64), cost, MOST)


def _solved(free: Floats, own: Floats, taken: Floats, cost: Floats, most: float) -> Floats:
    """The z of least `cost . (z, t)` with `own + free z` at least zero and `taken t`, `t <= most`."""
    count, extra = free.shape[1], taken.shape[1]
    program = LinearProgram(
        np.block([[free, -taken], [free, np.zeros_like(taken)]]),
        np.concatenate([-own, -own]),
        np.append(np.full(count, np.inf), np.full(extra, most)),
        least=np.append(np.full(count, -np.inf), np.zeros(extra)),
    )
    found = program.minimise(cost)
    return found.point[:count] if found.status == "optimal" else np.zeros(count)
