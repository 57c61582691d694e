"""Polynomials on intervals by their Bernstein coefficients, many at once.

    p(a + s (b - a)) = sum_k c_k binom(n, k) s^k (1 - s)^(n - k),   0 <= s <= 1

lies between the smallest and the largest c_k, and restricting p to a part of [a, b] takes averages of
coefficients only, so that rounding stays small (Farouki and Rajan, On the numerical condition of
polynomials in Bernstein form). Arrays have the axes (pieces, coefficients, ...).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


class Leaves(NamedTuple):
    """Parts of [0, 1] on which polynomials have one sign, or are zero but for their bounds.

    Attributes:
        which: The polynomial (leaves,).
        left: Where the part begins (leaves,).
        right: Where it ends (leaves,).
        sign: 1 or -1 where it is certain, else 0 (leaves,).
    """

    which: Indices
    left: Floats
    right: Floats
    sign: Floats


def parted(coefficients: Floats, at: Floats) -> tuple[Floats, Floats]:
    """Coefficients on [0, at] and on [at, 1], by de Casteljau's averages; `at` one per piece."""
    share = at.reshape(-1, *[1] * (coefficients.ndim - 1))
    left, right = coefficients.copy(), coefficients.copy()
    for step in range(1, coefficients.shape[1]):
        right[:, :-step] = (1.0 - share) * right[:, :-step] + share * right[:, 1 : 1 - step or None]
        left[:, step] = right[:, 0]
    return left, right


def restricted(coefficients: Floats, left: Floats, right: Floats) -> Floats:
    """Coefficients on [left, right] of [0, 1], one interval of positive length for each piece."""
    return parted(parted(coefficients, right)[0], left / right)[1]


def times(first: Floats, last: Floats) -> Floats:
    """Coefficients of a product with a function that is affine in s.

    Args:
        first: Coefficients times that function's value at 0 (pieces, n + 1, ...).
        last: Coefficients times its value at 1.
    """
    degree = first.shape[1]
    share = (np.arange(degree + 1) / degree).reshape(-1, *[1] * (first.ndim - 2))
    product = np.zeros((len(first), degree + 1, *first.shape[2:]))
    product[:, :-1] = (1.0 - share[:-1]) * first
    product[:, 1:] += share[1:] * last
    return product


def signs(coefficients: Floats, bounds: Floats) -> Leaves:
    """Where polynomials are above their bounds, where below, and where neither.

    An interval is halved until all coefficients are beyond those of the bound on one side, or none is
    more than twice as large. Halving makes them as equal as one likes, so that it ends; the sign is then
    certain, or the polynomial is zero but for the bound.

    Args:
        coefficients: One polynomial a row (polynomials, n + 1).
        bounds: Coefficients of bounds on their errors, not negative, alike.

    Returns:
        The parts, of each polynomial together all of [0, 1], in no order.
    """
    which = np.arange(len(coefficients))
    left, right = np.zeros(len(which)), np.ones(len(which))
    found = []
    while len(which):
        above, below = ((side * coefficients > bounds).all(axis=1) for side in (1.0, -1.0))
        sign = np.asarray(np.where(above, 1.0, np.where(below, -1.0, 0.0)))
        middle = 0.5 * (left + right)
        zero = (np.abs(coefficients) <= 2.0 * bounds).all(axis=1)
        whole = (middle <= left) | (middle >= right)  # no number in between
        done = above | below | zero | whole
        found.append(Leaves(which[done], left[done], right[done], sign[done]))
        on = ~done
        middles = np.full(int(on.sum()), 0.5)
        coefficients, bounds = (
            np.concatenate(parted(part[on], middles)) for part in (coefficients, bounds)
        )
        which = np.tile(which[on], 2)
        left, right = (
            np.concatenate([left[on], middle[on]]),
            np.concatenate([middle[on], right[on]]),
        )
    return Leaves(*(np.concatenate(part) for part in zip(*found, strict=True)))
