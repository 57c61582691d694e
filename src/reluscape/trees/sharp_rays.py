"""Rays of a unit's cells to float64's last digits, also where samples are nearly equal."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from reluscape.arrangement import Cones

__all__ = ["sharp_rays"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

#: Least singular value of a ray's hyperplanes below which float64 does not place it well.
SHARP = 1e-4


def sharp_rays(features: Floats, cones: Cones) -> Floats:
    """The rays of cells (rays, params), of length one.

    Where the hyperplanes that meet in a ray are nearly the same, it is solved for in fractions: rounding
    errors move it by their share of the angle between these.

    Args:
        features: The layer's inputs (samples, params).
        cones: The cells.
    """
    rays = cones.rays.copy()
    for ray in _blunt(features, cones).tolist():
        planes = features[cones.signs[ray] == 0]
        chosen = scipy.linalg.qr(planes.T, pivoting=True)[2][: features.shape[1] - 1]
        null = _null(planes[chosen])
        if null is not None:
            rays[ray] = null if null @ rays[ray] >= 0 else -null
    return rays


def _blunt(features: Floats, cones: Cones) -> Indices:
    """Rays whose hyperplanes are nearly dependent."""
    params = features.shape[1]
    if params < 3:  # one hyperplane for each
        return np.empty(0, dtype=np.int64)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    normals = features / np.where(lengths > 0, lengths, 1.0)
    zero, found = cones.signs == 0, [np.empty(0, dtype=np.int64)]
    counts = zero.sum(axis=1)
    for count in np.unique(counts[counts >= params - 1]).tolist():
        rays = np.flatnonzero(counts == count)
        planes = normals[np.nonzero(zero[rays])[1].reshape(-1, count)]
        least = np.linalg.svd(planes, compute_uv=False)[:, params - 2]
        found.append(rays[least < SHARP])
    return np.concatenate(found)


def _null(planes: Floats) -> Floats | None:
    """The null vector, of length one, of one hyperplane less than there are dimensions; None if many."""
    rows = [[Fraction(value) for value in row] for row in planes.tolist()]
    pivots: list[int] = []
    for k in range(len(rows)):
        found = [(i, j) for i in range(k, len(rows)) for j, value in enumerate(rows[i]) if value]
        if not found:
            return None
        i, j = found[0]
        rows[k], rows[i] = rows[i], rows[k]
        rows[k] = [value / rows[k][j] for value in rows[k]]
        for other in range(len(rows)):
            if other != k:
                share = rows[other][j]
                rows[other] = [a - share * b for a, b in zip(rows[other], rows[k], strict=True)]
        pivots.append(j)
    (free,) = set(range(planes.shape[1])) - set(pivots)
    null = np.zeros(planes.shape[1])
    null[free] = 1.0
    for row, pivot in zip(rows, pivots, strict=True):
        null[pivot] = -float(row[free])
    return null / np.linalg.norm(null)
