"""Hyperplanes through the origin in coordinates in which their normals are white."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape import rays
from reluscape.singular import svd
from reluscape.tolerances import TOLERANCES

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]

#: Rounds of scaling rows and columns in turn.
_ROUNDS = 8

#: Condition numbers that differ by this factor are those of badly and of well scaled columns.
_FAR = 30.0

_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class Frame:
    """Hyperplanes in coordinates u, `w = basis u`, in which they are white.

    Attributes:
        rows: Unit rows that differ (hyperplanes, rank).
        basis: Shape (params, rank).
        error: Of each row, but for a small factor.
        first: For each sample the first one with the same hyperplane, -1 for rows of zeros (samples,).
        place: Row of each sample, -1 for none (samples,).
        flipped: Whether the sample is a negative multiple of its row (samples,).
    """

    rows: Floats
    basis: Floats
    error: float
    first: Indices
    place: Indices
    flipped: Bools


def frame_of(features: Floats) -> Frame:
    """Scale columns and rows, span the rows' space, whiten, and join multiples."""
    moving = np.flatnonzero(features.any(axis=1))
    sizes, unit, spread = _scaled(features[moving])
    lowest = TOLERANCES.rounding * max(unit.shape) * _EPS * spread.max(initial=0.0)
    white = whitened_frame(unit, int((spread > lowest).sum()), _EPS)
    first, place = np.full(len(features), -1), np.full(len(features), -1)
    flipped = np.zeros(len(features), dtype=np.bool_)
    first[moving], place[moving] = moving[white.first], white.place
    flipped[moving], basis = white.flipped, sizes[:, None] * white.basis
    return replace(white, first=first, place=place, flipped=flipped, basis=basis)


def whitened_frame(unit: Floats, rank: int, error: float) -> Frame:
    """The frame of unit rows of known rank, given the error of each row."""
    _, spread, right = svd(unit)
    basis = right[:rank].T / spread[:rank]
    rows = unit_rows(unit @ basis)
    if rank:
        error *= float(spread[0] / spread[rank - 1])
    first, flipped = np.empty(len(rows), dtype=np.int64), np.empty(len(rows), dtype=np.bool_)
    rays.same_hyperplanes(rows, TOLERANCES.rounding * rank * error, first, flipped)
    leaders, place = np.unique(first, return_inverse=True)
    return Frame(rows[leaders], basis, error, first, place, flipped)


def _scaled(features: Floats) -> tuple[Floats, Floats, Floats]:
    """Factors on the columns, the unit rows of the product, and its singular values.

    Medians of the columns replace their largest entries where the rows are then far better conditioned.
    """
    best, least = None, np.inf
    for middle in (np.nanmax, _nanmedian):
        sizes = _sizes(features, middle)
        unit = unit_rows(features * sizes)
        spread: Floats = np.asarray(np.linalg.svd(unit, compute_uv=False))
        lowest = float(spread[spread > _EPS * spread[:1]].min(initial=np.inf))
        condition = float(spread.max(initial=0.0)) / lowest
        if best is None or condition < least / _FAR:
            best, least = (sizes, unit, spread), condition
    assert best is not None
    return best


def _sizes(features: Floats, middle: Callable[..., Any]) -> Floats:
    """Powers of two for the columns: after these and scaled rows, the `middle` entries are near one.

    Zeros do not count. Medians undo any units of rows and columns; largest entries do not heed what is
    rounding error beside a column's other entries.
    """
    sizes = np.zeros(features.shape[1])
    if not len(features):
        return np.ones_like(sizes)
    logs = np.full(features.shape, np.nan)
    np.log2(np.abs(features), where=features != 0, out=logs)
    there = features.any(axis=0)
    for _ in range(_ROUNDS):
        rows = middle(logs + sizes, axis=1, keepdims=True)
        sizes[there] = -middle(logs[:, there] - rows, axis=0)
    return np.asarray(np.ldexp(1.0, np.rint(sizes).astype(np.int64)))


def _nanmedian(values: Floats, axis: int, keepdims: bool = False) -> Floats:
    """As NumPy's, which goes through rows of few numbers one by one."""
    ordered = np.sort(values, axis=axis)  # NaN come last
    count = np.count_nonzero(~np.isnan(values), axis=axis, keepdims=True)
    low, high = (np.take_along_axis(ordered, at // 2, axis) for at in (count - 1, count))
    middle = (low + high) / 2
    return middle if keepdims else np.squeeze(middle, axis)


def unit_rows(rows: Floats) -> Floats:
    """Rows scaled to length one; rows of zeros stay so."""
    largest = np.abs(rows).max(axis=1, initial=0.0, keepdims=True)
    scaled = rows / np.where(largest > 0, largest, 1.0)
    lengths = np.linalg.norm(scaled, axis=1, keepdims=True)
    return np.asarray(scaled / np.maximum(lengths, 0.5))
