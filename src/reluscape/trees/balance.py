"""Columns of inputs in units of their own, so that they are of about one size.

`w . x` is the same for `x_j 2^p_j` and `w_j 2^-p_j`: units of a column are those of its weights, and
neither cells nor losses know of them. Powers of two change no digit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reluscape.errors import AnalysisError, InputError

__all__ = ["Balance"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

#: Powers of two by which columns differ, and by which the largest entry differs from one, up to which
#: they stay as they are.
EVEN, NEAR = 4, 30
#: Rounds of scaling rows and columns in turn.
ROUNDS = 8


@dataclass(frozen=True, slots=True)
class Balance:
    """Powers of two, one for each column.

    Attributes:
        powers: Columns times two to these are of about one size (params,).
    """

    powers: Indices

    @classmethod
    def of(cls, features: Floats) -> Balance:
        """For the inputs of a layer (samples, params); those of about one size stay as they are.

        With rows that are scaled as well, the largest entries of rows and columns are near one. Where
        there are zeros, geometric means are: a row of one entry says nothing about columns, and would
        keep its own as it is. Rows are not scaled in the end, as their residuals would be.
        """
        powers = np.zeros(features.shape[1], dtype=np.int64)
        there = features.any(axis=0)
        rows = features[features.any(axis=1)][:, there]
        if not rows.size:
            return cls(powers)
        logs = np.full(rows.shape, -np.inf)
        np.log2(np.abs(rows), where=rows != 0, out=logs)
        sizes = _by_largest(logs) if np.isfinite(logs).all() else _by_means(logs)
        largest = float((logs + np.rint(sizes)).max())
        if np.ptp(sizes) >= EVEN or abs(largest) >= NEAR:
            powers[there] = np.rint(sizes) - np.floor(largest)
        return cls(powers)

    def balanced(self, features: Floats) -> Floats:
        """The inputs in the new units.

        Raises:
            InputError: Entries of one column are so different that digits are lost.
        """
        found = np.ldexp(features, self.powers)
        if not np.array_equal(np.ldexp(found, -self.powers), features):
            raise InputError(
                "entries of inputs are of such different sizes that float64 does not hold the least where"
                " columns are scaled to one size (underflow): standardise the inputs"
            )
        return np.asarray(found)

    def inward(self, rows: Floats) -> Floats:
        """Weights in the new units (..., params)."""
        return np.asarray(np.ldexp(rows, -self.powers))

    def outward(self, rows: Floats) -> Floats:
        """Weights in the given units (..., params).

        Raises:
            AnalysisError: Float64 does not hold them.
        """
        with np.errstate(over="ignore"):
            found = np.ldexp(rows, self.powers)
        if not np.array_equal(self.inward(found), rows, equal_nan=True):
            raise AnalysisError(
                "weights at a minimum or saddle are beyond what float64 holds, in units of the inputs'"
                f" columns that differ by up to 2^{np.ptp(self.powers)}: rescale the inputs"
            )
        return np.asarray(found)


def _by_largest(logs: Floats) -> Floats:
    """Binary logarithms of factors on columns, after which largest entries are near one (columns,).

    Args:
        logs: Of the entries, minus infinity for zeros (rows, columns).
    """
    sizes = np.zeros(logs.shape[1])
    for _ in range(ROUNDS):
        sizes = -(logs - (logs + sizes).max(axis=1, keepdims=True)).max(axis=0)
    return sizes


def _by_means(logs: Floats) -> Floats:
    """The same of geometric means: least squares of all logarithms, of which zeros have none."""
    there = np.isfinite(logs)
    known = np.where(there, logs, 0.0)
    counts = there.sum(axis=1, keepdims=True)
    inner = np.diag(there.sum(axis=0)) - there.T @ (there / counts)
    outer = (there * (known - known.sum(axis=1, keepdims=True) / counts)).sum(axis=0)
    return np.asarray(-np.linalg.lstsq(inner, outer, rcond=None)[0])
