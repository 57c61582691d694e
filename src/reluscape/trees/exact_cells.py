"""The cells of one unit in rational arithmetic: exact rays, and that float64 found all of them."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from reluscape.arithmetic import Rational
from reluscape.errors import AnalysisError
from reluscape.tolerances import TOLERANCES
from reluscape.trees.problem import ZERO, Problem

__all__ = ["check_cells", "exact_ray"]

Array = NDArray[Any]
Indices = NDArray[np.int64]


def exact_ray(
    problem: Problem, ray: int, features: Array, outside: Array, numbers: Rational, strict: bool
) -> tuple[Array, Array]:
    """The null vector of the hyperplanes that contain a ray, with the signs that float64 sees.

    Args:
        problem: The layer's.
        ray: The ray's number.
        features: Exact (samples, params).
        outside: Exact null vectors of these, one in each row.
        numbers: The arithmetic.
        strict: Whether hyperplanes that pass the ray within float64's rounding errors have to contain it.
            If not, those do that place it best, and the others' samples are taken as zero.

    Returns:
        The vector, and the samples' values there.

    Raises:
        AnalysisError: Float64 sees other hyperplanes through the ray than there are.
    """
    floats = problem.layer.features
    rounding = TOLERANCES.rounding * floats.shape[1] * float(np.finfo(np.float64).eps)
    values = floats @ problem.cones.rays[ray]  # of length one
    sizes = np.linalg.norm(floats, axis=1)
    signs = np.where(np.abs(values) <= rounding * sizes, 0, np.sign(values)).astype(int)
    zero = np.flatnonzero(signs == 0)
    if not strict and len(zero):  # one of nearly equal ones: between two, the angle is rounding
        normals = floats[zero] / np.where(sizes[zero] > 0, sizes[zero], 1.0)[:, None]
        zero = zero[scipy.linalg.qr(normals.T, mode="r", pivoting=True)[1]]
    planes = np.vstack([outside, features[zero]])
    if not strict:
        planes = planes[numbers.independent_rows(planes)[: floats.shape[1] - 1]]
    null = numbers.complement(planes)
    if null.shape[1] != 1:
        raise AnalysisError("float64 does not tell the rays of these samples' cells apart")
    vector = null[:, 0]
    exact = features @ vector
    if not strict:
        away = np.abs(numbers.floats(exact[zero])) / np.linalg.norm(numbers.floats(vector))
        if (away > ZERO * sizes[zero]).any():
            raise AnalysisError("float64 does not tell the rays of these samples' cells apart")
        exact[zero] = 0 * exact[zero]
    if sum(int(sign) * value for sign, value in zip(signs, exact, strict=True)) < 0:
        vector, exact = -vector, -exact
    if [int(value > 0) - int(value < 0) for value in exact] != signs.tolist():
        raise AnalysisError("float64 does not tell the cells of these samples apart")
    return vector, exact


def check_cells(problem: Problem, features: Array, values: Array, numbers: Rational) -> None:
    """See that the cells, their rays and their facets are all that there are.

    Every line in which hyperplanes meet has to be among the rays, every cell has to have those rays whose
    signs are its own or zero, and behind each of its facets there has to be another cell: cells are
    joined by facets, so that none is missing.

    Args:
        problem: The layer's.
        features: Exact (samples, params).
        values: Of the samples at the exact rays (samples, rays).
        numbers: The arithmetic.

    Raises:
        AnalysisError: One is missing, or too many are there.
    """
    planes = _planes(features)
    signs = (values > 0).astype(int) - (values < 0).astype(int)
    rank = numbers.independent_rank(features)
    if _num_lines(features, planes, rank, numbers) != values.shape[1] // 2:
        raise AnalysisError("float64 does not find all rays of these samples' cells")
    patterns = np.where(problem.cones.cells.unpack(), 1, -1)
    places = {tuple(pattern): cell for cell, pattern in enumerate(patterns.tolist())}
    pairs = set()
    for cell, pattern in enumerate(patterns):
        own = np.flatnonzero((signs * pattern[:, None] >= 0).all(axis=0))
        if own.tolist() != problem.rays[problem.starts[cell] : problem.starts[cell + 1]].tolist():
            raise AnalysisError("float64 does not find the rays of these samples' cells")
        for plane in planes:
            inside = own[signs[plane[0], own] == 0]
            if len(inside) < rank - 1 or numbers.independent_rank(values[:, inside]) < rank - 1:
                continue
            beyond = pattern.copy()
            beyond[plane] *= -1
            pairs.add(frozenset((cell, places.get(tuple(beyond.tolist()), -1))))
    if pairs != {frozenset(pair) for pair in problem.pairs.tolist()}:
        raise AnalysisError("float64 does not find all cells of these samples")


def _planes(features: Array) -> list[list[int]]:
    """Samples of each hyperplane: those whose features are multiples of each other and not zero."""
    found: dict[tuple[Any, ...], list[int]] = {}
    for sample, row in enumerate(features):
        first = next((value for value in row if value != 0), None)
        if first is not None:
            found.setdefault(tuple(row / first), []).append(sample)
    return list(found.values())


def _num_lines(features: Array, planes: list[list[int]], rank: int, numbers: Rational) -> int:
    """Lines in which hyperplanes meet, within the span of their normals."""
    if rank == 0:
        return 0
    outside, found = numbers.complement(features).T, set()
    for chosen in combinations([plane[0] for plane in planes], rank - 1):
        null = numbers.complement(np.vstack([features[list(chosen)], outside]))
        if null.shape[1] == 1:
            vector = null[:, 0]
            found.add(tuple(vector / next(value for value in vector if value != 0)))
    return len(found)
