"""Whether points of a merge tree are what they are told to be, but for rounding their coordinates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.tolerances import TOLERANCES
from reluscape.trees.kruskal import write_ends
from reluscape.trees.problem import Problem

__all__ = ["SAME", "are_inside", "attained", "cells_beside", "misplaced", "on_kinks"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Bools = NDArray[np.bool_]

#: Share of the loss of zero weights, and of a sample's and a unit's lengths, up to which losses and
#: outputs are the same.
SAME = 1e-9
#: Share of the loss of zero weights that rounding a point's coordinates may change at most in float64:
#: what moves by more is no longer told by a point.
SHOWN = 1e-2
#: Share of lengths, or of terms, up to which switching values are rounding errors of zero.
ROUNDED = TOLERANCES.rounding * float(np.finfo(np.float64).eps)
#: Points that are looked at together.
TOGETHER = 1000


def attained(problem: Problem, points: Floats) -> tuple[Floats, Floats]:
    """Losses at points, and what rounding their coordinates may have changed: not all, in float64."""
    layer = problem.given
    with np.errstate(over="ignore", invalid="ignore"):
        parts = [(layer.values(own), layer.rounding(own)) for own in _parts(points)]
    values, errors = (np.concatenate(found) for found in zip(*parts, strict=True))
    return values, errors if problem.exact else np.minimum(errors, SHOWN * layer.zero_loss)


def are_inside(problem: Problem, thetas: Floats, cells: Indices, share: float = SAME) -> Bools:
    """Which points of the balanced layer lie in the closed cells of these cells of the units.

    Args:
        problem: The layer's.
        thetas: The points (points, params).
        cells: The units' cells for each (points, units).
        share: Of a sample's and a unit's lengths, that may be rounding errors.
    """
    found = []
    for points, own in zip(_parts(thetas), _parts(cells), strict=True):
        values, errors = _values(problem, points, share)
        sides = problem.cones.cells.unpack(own.ravel()).reshape(values.shape)
        found.append((np.where(sides, values, -values) >= -errors).all(axis=(1, 2)))
    return np.concatenate(found)


def on_kinks(problem: Problem, thetas: Floats) -> Floats:
    """Points of the balanced layer, moved onto the kinks on which they lie but for rounding errors.

    A point is a sum over rays, and has rounding errors of its largest weights. Where a sample has no part
    in these, its switching value is of small weights, next to which such errors are no longer small.
    """
    if problem.exact:  # each coordinate is rounded once
        return thetas
    features, rows = problem.layer.features, problem.layer.unpack(thetas).copy()
    for start, points in zip(range(0, len(thetas), TOGETHER), _parts(thetas), strict=False):
        values, errors = _values(problem, points, ROUNDED)
        own = np.abs(rows[start : start + TOGETHER, problem.units.order])
        on = np.abs(values) <= errors
        off = (on & (np.abs(values) > ROUNDED * (own @ np.abs(features).T))).any(axis=-1)
        for point, place in np.argwhere(off).tolist():
            row = rows[start + point, problem.units.order[place]]
            kinks = features[on[point, place]]
            row -= np.linalg.lstsq(kinks, kinks @ row, rcond=None)[0]
    return problem.layer.pack(rows)


def _parts(rows: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Some rows at a time, at least once."""
    return (rows[at : at + TOGETHER] for at in range(0, max(len(rows), 1), TOGETHER))


def _values(problem: Problem, thetas: Floats, share: float) -> tuple[Floats, Floats]:
    """Of the samples at the units that are read, and what may be rounding (..., units, samples)."""
    features, rows = (
        problem.layer.features,
        problem.layer.unpack(thetas)[..., problem.units.order, :],
    )
    lengths = np.linalg.norm(features, axis=1) * np.linalg.norm(rows, axis=-1)[..., None]
    return rows @ features.T, share * lengths


def cells_beside(problem: Problem, facets: Indices) -> Indices:
    """The units' cells on one side of facets (facets, units)."""
    units, count, doors = problem.shape
    ends = np.empty((len(facets), 2), dtype=np.int64)
    write_ends(facets, units, count, doors, problem.pairs, ends)
    return np.asarray(ends[:, :1] // count ** np.arange(units - 1, -1, -1) % count)


def misplaced(problem: Problem, points: Floats, cells: Indices, losses: Floats) -> int:
    """How many points are not where they should be, or have not the losses that are told.

    Args:
        problem: The layer's.
        points: Of the given layer (points, params).
        cells: The units' cells at these (points, units).
        losses: As told (points,).
    """
    slack = SAME * max(problem.layer.zero_loss, float(np.finfo(np.float64).tiny))
    values, errors = attained(problem, points)
    right = np.abs(values - losses) <= slack + errors
    return int((~(right & are_inside(problem, problem.inward(points), cells))).sum())
