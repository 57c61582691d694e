"""Rays that float64 has found, in rational arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from reluscape.arithmetic import Rational
from reluscape.errors import AnalysisError
from reluscape.tolerances import TOLERANCES
from reluscape.trees.problem import ZERO, Problem

__all__ = ["exact_ray"]

Array = NDArray[Any]


def exact_ray(
    problem: Problem, ray: int, features: Array, outside: Array, numbers: Rational
) -> tuple[Array, Array]:
    """The null vector of the hyperplanes that place a ray best, with the signs that float64 sees.

    Other hyperplanes that pass the ray within float64's rounding errors are taken to contain it.

    Args:
        problem: The layer's.
        ray: The ray's number.
        features: Exact (samples, params).
        outside: Exact null vectors of these, one in each row.
        numbers: The arithmetic.

    Returns:
        The vector, and the samples' values there.

    Raises:
        AnalysisError: Float64 does not tell which hyperplanes these are.
    """
    floats = problem.layer.features
    rounding = TOLERANCES.rounding * floats.shape[1] * float(np.finfo(np.float64).eps)
    values = floats @ problem.cones.rays[ray]  # of length one
    sizes = np.linalg.norm(floats, axis=1)
    signs = np.where(np.abs(values) <= rounding * sizes, 0, np.sign(values)).astype(int)
    zero = np.flatnonzero(signs == 0)
    if len(zero):  # one of nearly equal ones: between two, the angle is rounding
        normals = floats[zero] / np.where(sizes[zero] > 0, sizes[zero], 1.0)[:, None]
        zero = zero[scipy.linalg.qr(normals.T, mode="r", pivoting=True)[1]]
    planes = np.vstack([outside, features[zero]])
    planes = planes[numbers.independent_rows(planes)[: floats.shape[1] - 1]]
    null = numbers.complement(planes)
    if null.shape[1] != 1:
        raise AnalysisError("float64 does not tell the rays of these samples' cells apart")
    vector = null[:, 0]
    exact = features @ vector
    away = np.abs(numbers.floats(exact[zero])) / np.linalg.norm(numbers.floats(vector))
    if (away > ZERO * sizes[zero]).any():
        raise AnalysisError("float64 does not tell the rays of these samples' cells apart")
    exact[zero] = 0 * exact[zero]
    nothing, farthest = 0 * exact[0], int(np.abs(values).argmax())
    if signs[farthest] * exact[farthest] < nothing:
        vector, exact = -vector, -exact
    if not np.array_equal((exact > nothing).astype(int) - (exact < nothing), signs):
        raise AnalysisError("float64 does not tell the cells of these samples apart")
    return vector, exact
