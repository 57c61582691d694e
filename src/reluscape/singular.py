"""Singular value decompositions that do not fail."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def svd(matrix: Floats) -> tuple[Floats, Floats, Floats]:
    """Thin singular value decomposition `matrix = left @ diag(values) @ right`.

    LAPACK's divide and conquer gives up on some matrices (clustered values, of 12,000 samples of MNIST
    for one); then its slower iteration by QR steps is taken.

    Args:
        matrix: Any finite numbers (m, n).

    Returns:
        left (m, k), values descending (k,), right (k, n), where k is the smaller of m and n.
    """
    try:
        left, values, right = scipy.linalg.svd(matrix, full_matrices=False)
    except scipy.linalg.LinAlgError:
        left, values, right = scipy.linalg.svd(matrix, full_matrices=False, lapack_driver="gesvd")
    return left, values, right
