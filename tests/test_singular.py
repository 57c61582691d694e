"""Singular value decompositions, also where LAPACK's first way gives up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg

from reluscape.singular import svd

PLAIN = scipy.linalg.svd


def fails_first(matrix: np.ndarray, **options: Any) -> Any:
    """Divide and conquer never converges."""
    if options.get("lapack_driver", "gesdd") == "gesdd":
        raise scipy.linalg.LinAlgError("SVD did not converge")
    return PLAIN(matrix, **options)


@pytest.mark.parametrize("gives_up", [False, True])
@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (1, 1), (4, 4)])
def test_decompositions_are_thin_and_multiply_to_the_matrix(
    shape: tuple[int, int], gives_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if gives_up:
        monkeypatch.setattr(scipy.linalg, "svd", fails_first)
    matrix = np.random.default_rng(0).normal(size=shape)
    left, values, right = svd(matrix)
    assert left.shape == (shape[0], min(shape))
    assert right.shape == (min(shape), shape[1])
    assert (np.diff(values) <= 0).all()
    np.testing.assert_allclose(left @ np.diag(values) @ right, matrix, atol=1e-14)
    np.testing.assert_allclose(
        values**2, np.sort(np.linalg.eigvalsh(matrix @ matrix.T))[::-1][: len(values)]
    )


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_a_matrix_of_nothing_has_no_values(shape: tuple[int, int]) -> None:
    left, values, right = svd(np.empty(shape))
    assert (left.shape, values.shape, right.shape) == ((shape[0], 0), (0,), (0, shape[1]))
