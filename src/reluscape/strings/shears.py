"""Matrices of positive determinant as products of shears and one positive number.

Beside a hidden layer of n units a factor W becomes W S, and the factor behind it S^-1 V. For a shear
S = I + u e_j' with u_j = 0 both move straight and their product stays the same on the whole segment:
W (I + t u e_j') (I - t u e_j') V = W V, since (u e_j')^2 = 0. A positive number cannot be reached so:
straight moves that keep a product of full rank keep the determinant.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Shear", "apart"]

Floats = NDArray[np.float64]
#: A column u and its place j: the matrix I + u e_j', with u_j = 0.
Shear = tuple[Floats, int]


def apart(matrix: Floats) -> tuple[float, list[Shear]]:
    """A number d > 0 and shears S_1, S_2, ... such that the matrix is d S_1 S_2 ...

    By its QR decomposition: Givens rotations of at most a right angle, each of three shears with entries
    of at most one; a diagonal of determinant 1, two entries at a time by four shears; and the columns of
    a triangular matrix with ones on its diagonal.

    Args:
        matrix: Of positive determinant (n, n).
    """
    size = len(matrix)
    scale = float(np.exp(np.linalg.slogdet(matrix)[1] / size))
    turned, triangle = np.linalg.qr(matrix / scale)
    signs = np.where(triangle.diagonal() < 0, -1.0, 1.0)
    turned, triangle = turned * signs, signs[:, None] * triangle
    diagonal = triangle.diagonal().copy()
    unit = triangle / diagonal[:, None]
    columns = [(np.where(np.arange(size) < j, unit[:, j], 0.0), j) for j in range(1, size)]
    return scale, [*_rotation(turned), *_diagonal(diagonal), *columns[::-1]]


def _rotation(turned: Floats) -> list[Shear]:
    """An orthogonal matrix of determinant 1."""
    rest, found, size = turned.copy(), list[Shear](), len(turned)
    for j in range(size - 1):
        for i in range(j + 1, size):
            angle = float(np.arctan2(rest[i, j], rest[j, j]))
            c, s = np.cos(angle), np.sin(angle)
            rest[[j, i]] = np.array([[c, s], [-s, c]]) @ rest[[j, i]]
            for part in (0.5 * angle, 0.5 * angle):  # no part above a right angle
                found += _turn(size, j, i, part)
    return found


def _turn(size: int, j: int, i: int, angle: float) -> list[Shear]:
    """The rotation [[c, -s], [s, c]] of two coordinates."""
    tangent, sine = -np.tan(0.5 * angle), np.sin(angle)
    return [_shear(size, j, i, tangent), _shear(size, i, j, sine), _shear(size, j, i, tangent)]


def _diagonal(diagonal: Floats) -> list[Shear]:
    """A diagonal matrix of positive entries with product 1."""
    size, found, product = len(diagonal), list[Shear](), 1.0
    for k in range(size - 1):
        product *= float(diagonal[k])
        root = np.sqrt(product)  # diag(a, 1/a) at the places k and k + 1
        found += [
            _shear(size, k + 1, k, (product - 1.0) / product / root),
            _shear(size, k, k + 1, -root),
            _shear(size, k + 1, k, (1.0 / product - 1.0) * root),
            _shear(size, k, k + 1, 1.0 / root),
        ]
    return found


def _shear(size: int, row: int, column: int, amount: float) -> Shear:
    """One entry beside the diagonal."""
    entries = np.zeros(size)
    entries[row] = amount
    return entries, column
