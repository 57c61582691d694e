"""Exact second derivatives against autograd, and exact inertia against eigenvalues."""

from __future__ import annotations

import numpy as np
import pytest
from nets import dense
from problems import WHOLE
from test_certify import landscape_of

import reluscape as rs
from reluscape.arithmetic import Rational
from reluscape.jets import Jets, inertia


@pytest.mark.parametrize("loss", ["squared", "half_squared", "l1"])
@pytest.mark.parametrize("slope", [0.0, 0.25])
def test_the_hessian_is_autograds(loss: str, slope: float) -> None:
    rng = np.random.default_rng(2)
    data = rng.normal(size=(5, 2)), rng.normal(size=(5, 2))
    model = dense((2, 2, 2, 2), seed=4, slope=slope)
    landscape = rs.Landscape(model, *data, loss=loss, weight_decay=0.125)
    numbers = Rational()
    hessian = numbers.floats(Jets(landscape, numbers).hessian())
    np.testing.assert_allclose(hessian, landscape.hessian(), atol=1e-12)


def test_inertia_is_that_of_the_eigenvalues() -> None:
    rng = np.random.default_rng(0)
    numbers = Rational()
    for _ in range(60):
        size, rank = int(rng.integers(1, 6)), int(rng.integers(0, 6))
        factor = rng.integers(-3, 4, size=(size, rank)).astype(float)
        signs = np.diag(rng.choice([1.0, 1.0, 1.0, -1.0], size=rank))
        matrix = factor @ signs @ factor.T
        values = np.linalg.eigvalsh(matrix)
        semidefinite, found = inertia(numbers.array(matrix))
        assert semidefinite == bool((values > -1e-9).all())
        if semidefinite:
            assert found == int((values > 1e-9).sum())


@pytest.mark.parametrize("problem", WHOLE, ids=lambda problem: problem.name)
def test_rational_claims_about_all_layers(problem) -> None:
    landscape = landscape_of(problem)
    exact, fast = rs.certify(landscape, arithmetic="rational"), rs.certify(landscape)
    assert exact.tier == "exact"
    assert rs.verify(exact, landscape).valid
    if problem.loss != "cross_entropy":
        assert exact.claim in problem.claims
    assert exact.claim in {fast.claim, "undecided"}
