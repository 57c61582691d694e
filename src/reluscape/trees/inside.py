"""The middle of a cell's minimisers, where they are many."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reluscape.solvers import LinearProgram

Floats = NDArray[np.float64]

#: Slopes below this share of `|column| |target|` are rounding errors of zero.
FLAT = 1e-9
#: Singular values below this share of the largest one are too.
RANK = 1e-10
#: Share of the target's square by which the sum may change on the way.
SAME = 1e-13


def middle(design: Floats, target: Floats, lengths: Floats) -> Floats:
    """A minimiser of `|target - design l|^2` over `l >= 0` as far inside as others are.

    Minimisers put out the same, and only rays along which the sum is flat can be in use. Of these, the
    least length is made as large as it can be, up to the largest length that there is.

    Args:
        design: What the rays put out (rows, rays).
        target: What is to be put out (rows,).
        lengths: A minimiser (rays,).
    """
    sizes, size = np.linalg.norm(design, axis=0), float(np.linalg.norm(target))
    rest = target - design @ lengths
    usable = (lengths > 0) | (np.abs(design.T @ rest) <= FLAT * sizes * size)
    columns = design[:, usable] / np.where(sizes[usable] > 0, sizes[usable], 1.0)
    _, values, right = np.linalg.svd(columns, full_matrices=True)
    rank = int((values > RANK * values.max(initial=0.0)).sum())
    free = right[rank:].T
    if not free.shape[1]:
        return lengths
    units = np.where(sizes[usable] > 0, sizes[usable], 1.0)
    own, count = lengths[usable] * units, free.shape[1]
    largest = float(own.max(initial=0.0)) or 1.0
    program = LinearProgram(
        np.hstack([free, -np.ones((len(own), 1))]),
        -own,
        np.full(count + 1, np.inf),
        least=np.append(np.full(count, -np.inf), 0.0),
    )
    program.set_box(
        np.append(np.full(count, -np.inf), 0.0), np.append(np.full(count, np.inf), largest)
    )
    found = program.minimise(np.append(np.zeros(count), -1.0))
    if found.status != "optimal":
        return lengths
    moved = lengths.copy()
    moved[usable] = np.maximum(own + free @ found.point[:count], 0.0) / units
    change = float(((target - design @ moved) ** 2).sum()) - float(rest @ rest)
    return moved if abs(change) <= SAME * size**2 else lengths
