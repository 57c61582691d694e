"""Whether points of a merge tree are what they are told to be, but for rounding their coordinates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reluscape.trees.kruskal import ends_of
from reluscape.trees.layer import Layer
from reluscape.trees.problem import Problem

__all__ = ["SAME", "attained", "cells_beside", "fits", "is_inside", "misplaced"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Bools = NDArray[np.bool_]

#: Share of the loss of zero weights, and of a sample's and a unit's lengths, up to which losses and
#: outputs are the same.
SAME = 1e-9


def attained(layer: Layer, points: Floats) -> tuple[Floats, Floats]:
    """Losses at points, and what rounding their coordinates may have changed."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.array([layer.value(theta) for theta in points])
        errors = np.array([layer.rounding(theta) for theta in points])
    return values, errors


def fits(problem: Problem, theta: Floats) -> list[Bools]:
    """Of each unit that is read, the closed cells that hold a point of the balanced layer (cells,)."""
    values, errors = _values(problem, theta, SAME)
    signs = problem.cones.cells.unpack()
    return [
        (signs[:, sure] == (own[sure] > 0)).all(axis=1)
        for own, sure in zip(values, np.abs(values) > errors, strict=True)
    ]


def is_inside(problem: Problem, theta: Floats, cells: Indices, share: float = SAME) -> bool:
    """Whether the closed cell of these cells of the units holds a point of the balanced layer.

    Args:
        problem: The layer's.
        theta: The point.
        cells: The units' cells (units,).
        share: Of a sample's and a unit's lengths, that may be rounding errors.
    """
    values, errors = _values(problem, theta, share)
    sides = np.where(problem.cones.cells.unpack(cells), 1.0, -1.0)
    return bool((sides * values >= -errors).all())


def _values(problem: Problem, theta: Floats, share: float) -> tuple[Floats, Floats]:
    """Of the samples at the units that are read, and what may be rounding errors (units, samples)."""
    features, rows = problem.layer.features, problem.layer.unpack(theta)[problem.units.order]
    lengths = np.linalg.norm(features, axis=1) * np.linalg.norm(rows, axis=1)[:, None]
    return rows @ features.T, share * lengths


def cells_beside(problem: Problem, facets: Indices) -> Indices:
    """The units' cells on one side of facets (facets, units)."""
    units, count, doors = problem.shape
    sides = [ends_of(facet, units, count, doors, problem.pairs)[0] for facet in facets.tolist()]
    codes = np.array(sides, dtype=np.int64)
    return np.asarray(codes[:, None] // count ** np.arange(units - 1, -1, -1) % count)


def misplaced(
    problem: Problem, minima: Floats, cells: Indices, losses: Floats,
    saddles: Floats, facets: Indices, deaths: Floats,
) -> int:  # fmt: skip
    """How many points are not where they should be, or have not the losses that are told.

    Args:
        problem: The layer's.
        minima: Of the given layer (minima, params).
        cells: The units' cells at these (minima, units).
        losses: As told (minima,).
        saddles: Of the given layer (saddles, params).
        facets: The facets whose they are (saddles,).
        deaths: As told (saddles,).
    """
    slack = SAME * max(problem.layer.zero_loss, float(np.finfo(np.float64).tiny))
    count = 0
    told = (minima, losses, cells), (saddles, deaths, cells_beside(problem, facets))
    for points, levels, places in told:
        values, errors = attained(problem.given, points)
        lost = ~(np.abs(values - levels) <= slack + errors)
        for k, (theta, own) in enumerate(zip(problem.inward(points), places, strict=True)):
            lost[k] |= not is_inside(problem, theta, own)
        count += int(lost.sum())
    return count
