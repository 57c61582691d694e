"""Which entries of the solution of a linear system of integers are exactly zero, by lifting.

By Cramer's rule the entry z of the solution of `x M = b` is a quotient of integer determinants,
`det_z / det`. Where a prime q does not divide det, and x_z vanishes modulo q^t, so does det_z; and
where q^t exceeds Hadamard's bound on det_z, that is zero. The digits of x to the base q follow one from
another with one inverse of M modulo q (Dixon, Numerische Mathematik 40, 1982).
"""

from __future__ import annotations

from math import gcd, log2
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lu_factor, qr

from reluscape.integers import hadamard_bits

Array = NDArray[Any]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

#: A prime: sums of `MAX_ORDER` products of two remainders, or of one and a limb, are exact in float64.
PRIME = 2097143
LIMB = 20
MAX_ORDER = 2048

#: Largest number of multiplications in one lifting, some ten seconds.
MAX_LIFTING = 5 * 10**9

#: Order below which an inverse is found row by row.
SMALL = 32

#: Pivots of the scaled rows below which they are not told from dependent ones.
INDEPENDENT = 1e-9


def zero_entries(units: Array, inputs: Array, gradient: Array, asked: Bools) -> Bools:
    """Which asked entries of mu in `sum_k mu_k units_k (x) inputs_k = gradient` are exactly zero.

    None of them is said to be so where that takes too long, or where the rows may be dependent.

    Args:
        units: Integers (k, width).
        inputs: Integers (k, columns).
        gradient: Integers (width, columns), in the rows' span.
        asked: The entries (k,).
    """
    found = np.zeros(len(units), dtype=np.bool_)
    system = _system(units, inputs, gradient)
    if system is None:
        return found
    matrix, right, order = system
    bits = hadamard_bits(matrix, len(matrix)) + hadamard_bits(right[None], 1)
    steps, limbs = int(bits / log2(PRIME)) + 2, _limbs(matrix)
    if steps * matrix.size * (1 + len(limbs)) > MAX_LIFTING:
        return found
    inverse = _inverse((matrix % PRIME).astype(np.float64))
    if inverse is None:
        return found
    left = asked[order]
    for _ in range(steps):
        digits = np.mod((right % PRIME).astype(np.float64) @ inverse, PRIME)
        left = left & (digits == 0)
        if not left.any():
            break
        for place, limb in enumerate(limbs):
            right = right - ((digits @ limb).astype(np.int64).astype(object) << LIMB * place)
        right = right // PRIME
    found[order] = left
    return found


def is_spanned(units: Array, inputs: Array, gradient: Array) -> bool:
    """Whether `units_k (x) inputs_k` are certain to span a gradient; all as in `zero_entries`.

    Independent rows among them are completed by unit vectors, which must have no part in it.
    """
    if not len(units):
        return not gradient.any()
    rows = (_rounded(units)[:, :, None] * _rounded(inputs)[:, None, :]).reshape(len(units), -1)
    triangle, order = qr(rows.T, mode="r", pivoting=True)
    diagonal = np.abs(np.diag(triangle))
    kept = order[: int((diagonal > INDEPENDENT).sum())]
    left = np.sort(qr(rows[kept], mode="r", pivoting=True)[1][len(kept) :])
    width, columns = gradient.shape
    ways = [np.eye(size, dtype=np.intp).astype(object) for size in (width, columns)]
    units = np.vstack([units[kept], ways[0][left // columns]])
    inputs = np.vstack([inputs[kept], ways[1][left % columns]])
    others = np.arange(len(units)) >= len(kept)
    return bool(zero_entries(units, inputs, gradient, others)[others].all())


def _system(
    units: Array, inputs: Array, gradient: Array
) -> tuple[Array, Array, NDArray[np.intp]] | None:
    """As many independent columns as rows, no leading minor zero; the right side; the rows' order.

    Rows and columns are scaled so that entries are small: kinks of one unit only have no more to say of
    it than that, so what the others have in common is no part of its columns.
    """
    size, width = units.shape
    if not 0 < size <= min(MAX_ORDER, gradient.size):
        return None
    floats = (_rounded(units)[:, :, None] * _rounded(inputs)[:, None, :]).reshape(size, -1)
    several = np.count_nonzero(units, axis=1) > 1
    common = [gcd(*units[several, a], *gradient[a]) or 1 for a in range(width)]
    scales = np.array(common, dtype=object)
    units = np.where(several[:, None], units // scales, np.sign(units))
    rows = _primitive(units)[:, :, None] * _primitive(inputs)[:, None, :]
    rows, right = rows.reshape(size, -1), (gradient // scales[:, None]).ravel()
    triangle, columns = qr(floats, mode="r", pivoting=True)
    if np.abs(np.diag(triangle)).min() < INDEPENDENT:
        return None
    columns, order = columns[:size], np.arange(size)
    for place, pivot in enumerate(lu_factor(floats[:, columns])[1]):
        order[[place, pivot]] = order[[pivot, place]]
    return rows[np.ix_(order, columns)], right[columns], order


def _rounded(rows: Array) -> Floats:
    """Rows of length one, or of zeros."""
    largest = np.abs(rows).max(axis=1)[:, None]
    floats = (rows / np.where(largest > 0, largest, 1)).astype(np.float64)
    return np.asarray(floats / np.maximum(np.linalg.norm(floats, axis=1)[:, None], 1.0))


def _primitive(rows: Array) -> Array:
    """Rows without common factors."""
    factors = np.array([gcd(*row) or 1 for row in rows.tolist()], dtype=object)
    return np.asarray(rows // factors[:, None])


def _limbs(matrix: Array) -> list[Floats]:
    """The matrix to the base `2^LIMB`, lowest first, the last with a sign."""
    found = []
    while (np.abs(matrix) >> LIMB).any():
        found.append((matrix & ((1 << LIMB) - 1)).astype(np.float64))
        matrix = matrix >> LIMB
    return [*found, matrix.astype(np.float64)]


def _inverse(matrix: Floats) -> Floats | None:
    """Inverse modulo `PRIME` of a matrix of remainders, or None where a leading minor is zero."""
    size = len(matrix)
    if size <= SMALL:
        return _small_inverse(matrix)
    half = size // 2
    a, b, c, d = (
        matrix[:half, :half],
        matrix[:half, half:],
        matrix[half:, :half],
        matrix[half:, half:],
    )
    first = _inverse(a)
    if first is None:
        return None
    across, down = np.mod(first @ b, PRIME), np.mod(c @ first, PRIME)
    last = _inverse(np.mod(d - np.mod(c @ across, PRIME), PRIME))
    if last is None:
        return None
    corner = np.mod(across @ last, PRIME)
    top = np.mod(first + np.mod(corner @ down, PRIME), PRIME)
    bottom = np.mod(-np.mod(last @ down, PRIME), PRIME)
    return np.block([[top, np.mod(-corner, PRIME)], [bottom, last]])


def _small_inverse(matrix: Floats) -> Floats | None:
    """The same by elimination."""
    size = len(matrix)
    wide = np.hstack([matrix, np.eye(size)])
    for k in range(size):
        if wide[k, k] == 0:
            return None
        wide[k] = np.mod(wide[k] * pow(int(wide[k, k]), -1, PRIME), PRIME)
        others = np.arange(size) != k
        wide[others] = np.mod(wide[others] - np.outer(wide[others, k], wide[k]), PRIME)
    return wide[:, size:]
