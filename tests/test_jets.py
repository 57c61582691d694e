"""Exact derivatives against autograd, and exact claims about the whole landscape."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nets import LOSSES, dense, sample
from problems import WHOLE
from test_certify import landscape_of
from test_exact_landscape import objective_of

import reluscape as rs
from reluscape.arithmetic import Rational
from reluscape.jets import Jets


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("slope", [0.0, 0.25])
def test_the_derivatives_are_autograds(loss: str, slope: float) -> None:
    data = sample(70, 2, 2, loss, seed=1)
    model = dense((2, 2, 2, 2), seed=4, slope=slope)
    landscape = rs.Landscape(model, *data, loss=loss, weight_decay=0.125)
    numbers = Rational()
    jets = Jets(landscape, numbers, numbers.array(landscape.theta))
    theta, objective = torch.from_numpy(landscape.theta), objective_of(model, *data, loss, 0.125)
    first = torch.autograd.functional.jacobian(objective, theta)
    second = torch.autograd.functional.hessian(objective, theta)
    assert jets.certain
    np.testing.assert_allclose(numbers.floats(jets.gradient()), first, atol=1e-12)
    np.testing.assert_allclose(numbers.floats(jets.hessian()), second, atol=1e-12)


@pytest.mark.parametrize("problem", WHOLE, ids=lambda problem: problem.name)
def test_rational_claims_about_all_layers(problem) -> None:
    landscape = landscape_of(problem)
    exact, fast = rs.certify(landscape, arithmetic="rational"), rs.certify(landscape)
    assert exact.tier == "exact"
    assert rs.verify(exact, landscape).valid
    assert exact.claim in problem.claims
    assert exact.claim in {fast.claim, "undecided"}
