"""The middle of a cell's minimisers, where they are many."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reluscape.arithmetic import Rational
from reluscape.solvers import LinearProgram

Array = NDArray[Any]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: Slopes below this share of `|column| |target|` are rounding errors of zero.
FLAT = 1e-9
#: Singular values below this share of the largest one are too.
RANK = 1e-10
#: Share of the target's square by which the sum may change on the way.
SAME = 1e-13
#: Share of what is put out below which a length counts as zero, well above the programs' tolerance.
SMALL = 1e-5
#: Share of it up to which lengths are made larger.
MOST = 0.1


def middle(design: Floats, target: Floats, lengths: Floats) -> Floats:
    """A minimiser of `|target - design l|^2` over `l >= 0` as far inside as others are.

    Minimisers put out the same, and only rays along which the sum is flat can be in use. Of these, the
    least length is made as large as it can be, up to a tenth of what all together put out (beyond that,
    weights only grow); rays that no minimiser uses are left out of that.

    Args:
        design: What the rays put out (rows, rays).
        target: What is to be put out (rows,).
        lengths: A minimiser (rays,).
    """
    sizes, size = np.linalg.norm(design, axis=0), float(np.linalg.norm(target))
    if size == 0.0:
        return lengths
    units = np.where(sizes > 0, sizes, 1.0)
    rest = target - design @ lengths
    usable = (lengths > 0) | (np.abs(design.T @ rest) <= FLAT * sizes * size)
    columns = np.linalg.qr(design[:, usable] / units[usable], mode="r")
    _, values, right = np.linalg.svd(columns, full_matrices=True)
    free = right[int((values > RANK * values.max(initial=0.0)).sum()) :].T
    if not free.shape[1]:
        return lengths
    own = lengths[usable] * units[usable]
    moved, scale = lengths.copy(), float(np.linalg.norm(target - rest)) or size
    moved[usable] = np.maximum(own + free @ _deepest(free, own, scale).step, 0.0) / units[usable]
    change = float(((target - design @ moved) ** 2).sum()) - float(rest @ rest)
    return moved if abs(change) <= SAME * size**2 else lengths


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
