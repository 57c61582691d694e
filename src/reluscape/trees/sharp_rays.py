"""Rays of a unit's cells to float64's last digits, also where samples are nearly equal."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from reluscape.arrangement import Cones
from reluscape.singular import svd
from reluscape.whitened import frame_of

__all__ = ["doubtful", "sharp_rays"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

#: Least singular value of a ray's hyperplanes below which float64 does not place it well.
SHARP = 1e-4
#: Share of the terms of a sample's value at a ray up to which that is a zero's rounding error.
PLACED = 4.0 * float(np.finfo(np.float64).eps)
#: Share of a sample's length by which rounding its features moves it off a hyperplane.
ROUNDED = 8.0 * float(np.finfo(np.float64).eps)


def sharp_rays(features: Floats, cones: Cones) -> Floats:
    """The rays of cells (rays, params), of length one.

    The search finds them in other coordinates, and rounding errors grow on the way back. So they are put
    on their hyperplanes once more. Where these are nearly the same, a ray is solved for in fractions:
    rounding errors move it by their share of the angle between these.

    Args:
        features: The layer's inputs (samples, params).
        cones: The cells.
    """
    rays = _moved(features, cones)
    for ray in _blunt(features, cones).tolist():
        planes = features[cones.signs[ray] == 0]
        chosen = scipy.linalg.qr(planes.T, pivoting=True)[2][: features.shape[1] - 1]
        null = _null(planes[chosen])
        if null is not None:
            rays[ray] = null if null @ rays[ray] >= 0 else -null
    return rays


def doubtful(features: Floats, cones: Cones) -> int:
    """How often samples are taken as equal or dependent that are not but for rounding their features.

    Counted are samples in one hyperplane with others, and lines in which more hyperplanes meet than have
    to.

    Args:
        features: The layer's inputs (samples, params).
        cones: The cells that float64 has found.
    """
    lengths, first = np.linalg.norm(features, axis=1, keepdims=True), cones.cells.first
    normals = features / np.where(lengths > 0, lengths, 1.0)
    joined = np.flatnonzero((first >= 0) & (first != np.arange(len(first))))
    ones, others = normals[joined], normals[first[joined]]
    gaps = np.minimum(np.abs(ones - others).max(axis=1), np.abs(ones + others).max(axis=1))
    count = int((gaps > ROUNDED).sum())
    own = np.flatnonzero(first == np.arange(len(first)))
    rank = frame_of(features).rows.shape[1]
    read = svd(normals[own])[2][:rank]
    unread = np.linalg.qr(read.T, mode="complete")[0][:, rank:].T
    zero = cones.signs[: len(cones.rays) // 2, own] == 0
    for ray in np.flatnonzero(zero.sum(axis=1) >= max(rank, 1)).tolist():
        meeting = own[zero[ray]]
        chosen = scipy.linalg.qr(normals[meeting].T, pivoting=True)[2][: rank - 1]
        null = _null(np.vstack([features[meeting[chosen]], unread]))
        if null is not None:
            count += bool((np.abs(normals[meeting] @ null) > ROUNDED).any())
    return count


def _moved(features: Floats, cones: Cones) -> Floats:
    """The rays, by one of Newton's steps on their hyperplanes where they are off these.

    They are so by rounding errors in small entries, too, which a ray's length does not show: where
    inputs are large beside the ones of a bias, weights are.
    """
    count = len(cones.rays) // 2  # the others are the opposite ones
    rays, lengths = cones.rays[:count].copy(), np.linalg.norm(features, axis=1, keepdims=True)
    normals = features / np.where(lengths > 0, lengths, 1.0)
    zero = (cones.signs[:count] == 0) & (lengths > 0).ravel()
    on, of = np.nonzero(zero)
    products = rays[on] * normals[of]
    away, terms = np.abs(products.sum(axis=1)), np.abs(products).sum(axis=1)
    off, meeting = np.zeros(count, dtype=np.bool_), zero.sum(axis=1)
    off[on[away > PLACED * terms]] = True
    for size in np.unique(meeting[off]).tolist():
        own = np.flatnonzero(off & (meeting == size))
        planes = normals[np.nonzero(zero[own])[1].reshape(-1, size)]
        left = planes @ rays[own][:, :, None]
        rays[own] -= (np.linalg.pinv(planes, rcond=SHARP) @ left)[:, :, 0]
        rays[own] /= np.linalg.norm(rays[own], axis=1, keepdims=True)
    return np.concatenate([rays, -rays])


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
