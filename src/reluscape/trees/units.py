"""The units of a layer, which of them act alike, and which nearly so."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from reluscape.errors import InputError

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

#: Distance of directions of output weights, or of one and another's opposite, that float64 tells apart.
APART = 1e-9

#: Most sets of units of which it is told how nearly their output weights depend on each other.
SUBSETS = 50_000

_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class Units:
    """The units of a layer, those that act alike beside each other.

    A unit with output weights v puts out `v relu(w . x)`, which is that of `v / |v|` at `|v| w`: units
    whose output weights have one direction differ in nothing but the scale of their weights.

    Attributes:
        order: Numbers of the units that are read, alike ones together (units,).
        sizes: |v| of these (units,).
        readouts: v / |v| of these (units, outputs).
        groups: Number of the first unit that acts alike (units,).
        silent: Units that nothing reads.
    """

    order: Indices
    sizes: Floats
    readouts: Floats
    groups: Indices
    silent: Indices

    @classmethod
    def of(cls, weights: Floats) -> Units:
        """The units of output weights (outputs, units)."""
        sizes = np.linalg.norm(weights, axis=0)
        read = np.flatnonzero(sizes > 0)
        directions = weights[:, read].T / sizes[read, None]
        close = _gaps(directions, directions) <= _rounding(weights)
        first = close.argmax(axis=1) if len(read) else read
        order = np.argsort(first, kind="stable")
        groups = np.searchsorted(first[order], first[order])
        return cls(
            read[order], sizes[read[order]], directions[first[order]], groups,
            np.flatnonzero(sizes == 0),
        )  # fmt: skip


def check_apart(weights: Floats) -> None:
    """Refuse output weights (outputs, units) that float64 does not tell apart, but rationals do.

    Raises:
        InputError: Two units' are nearly parallel.
    """
    read = np.flatnonzero(np.linalg.norm(weights, axis=0) > 0)
    directions = weights[:, read].T / np.linalg.norm(weights[:, read], axis=0)[:, None]
    gaps = np.minimum(_gaps(directions, directions), _gaps(directions, -directions))
    near = np.argwhere((gaps > _rounding(weights)) & (gaps < APART))
    if len(near):
        one, other = (int(read[k]) for k in near[0])
        raise InputError(
            f"the output weights of units {one} and {other} are parallel but for"
            f" {gaps[tuple(near[0])]:.1g} of their length, which float64 does not tell apart: use"
            " arithmetic='rational', or make them parallel"
        )


def least_angle(readouts: Floats, slope: float) -> float:
    """How nearly what units put out may depend on each other without doing so; 1 where that is not near.

    Columns may depend on each other for what samples there are, and for what the units make of them:
    where some output weights nearly lie in the span of others, or where a rectifier is nearly linear,
    nearly an absolute value, or nearly zero on one side.

    Args:
        readouts: Output weights, of length one (units, outputs).
        slope: The rectifier's slope on the negative side.

    Returns:
        The least singular value of some units' output weights that is not zero but for rounding, times
        that slope's distance from 0, 1 and -1 if it is none of them; zero where there are too many units
        and outputs to tell.
    """
    bends = [abs(abs(slope) - exact) for exact in (0.0, 1.0)]
    distinct = np.unique(readouts, axis=0)
    count, outputs = distinct.shape
    sizes = range(2, min(count, outputs) + 1)
    if sum(comb(count, size) for size in sizes) > SUBSETS:
        return 0.0
    least = 1.0
    for size in sizes:
        some = distinct[list(combinations(range(count), size))]
        values = np.linalg.svd(some, compute_uv=False)[:, -1]
        least = float(values[values > _rounding(readouts.T)].min(initial=least))
    return least * (min(bends) if all(bends) else 1.0)


def _gaps(ones: Floats, others: Floats) -> Floats:
    """Distances of rows from rows."""
    return np.asarray(np.linalg.norm(ones[:, None] - others, axis=2))


def _rounding(weights: Floats) -> float:
    """What rounding makes of the distance of equal directions."""
    return float(8.0 * _EPS * len(weights) ** 0.5)
