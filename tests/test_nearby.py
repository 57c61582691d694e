"""Points that look like minima in float64 and are none: never claimed, and certificates still verify."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from nets import dense
from torch import nn

import reluscape as rs
from reluscape.certificate import MINIMA
from reluscape.exactly import rest_is_zero
from reluscape.majorant import Majorant


def linear(weight: list[list[float]], bias: list[float] | None = None) -> nn.Sequential:
    layer = nn.Linear(len(weight[0]), len(weight), bias=bias is not None).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight, dtype=torch.float64))
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias, dtype=torch.float64))
    return nn.Sequential(layer)


def separable(weight: float) -> rs.Landscape:
    """Two classes apart: the loss falls along the weights for ever, to zero only at infinity."""
    inputs = np.array([[1.0], [-1.0], [2.0]])
    model = linear([[weight], [-weight]])
    return rs.Landscape(model, inputs, np.array([0, 1, 0]), loss="cross_entropy")


@pytest.mark.parametrize("weight", [1.0, 6.0, 12.0, 20.0, 100.0, 180.0, 400.0])
def test_separable_data_have_no_minimum(weight: float) -> None:
    landscape = separable(weight)
    for subject in (landscape, landscape.block(0)):
        certificate = rs.certify(subject)
        assert certificate.claim in {"not_stationary", "undecided"}
        assert rs.verify(certificate, landscape).valid
    if weight <= 100.0:
        assert rs.certify(landscape.block(0)).claim == "not_stationary"


def test_large_inputs_do_not_hide_a_small_slope() -> None:
    inputs = np.array([[1e4], [-1e4], [2.0], [-2.0]])
    for weight in (3.5, 6.0):
        model = linear([[weight], [-weight]])
        targets = np.array([0, 1, 0, 1])
        landscape = rs.Landscape(model, inputs, targets, loss="cross_entropy")
        assert rs.certify(landscape.block(0)).claim == "not_stationary"


def test_decay_below_rounding_moves_the_minimum_far_away() -> None:
    """(w + b - 1)^2 + tiny (w^2 + b^2) has its one stationary point at w = b = 1/2."""
    model = linear([[1.0]], [0.0])
    data = np.array([[1.0], [1.0]]), np.array([1.0, 1.0])
    landscape = rs.Landscape(model, *data, weight_decay=1e-16)
    assert rs.certify(landscape.block(0)).claim == "undecided"
    assert rs.certify(landscape.block(0), arithmetic="rational").claim == "not_stationary"


def test_nearly_collinear_least_squares() -> None:
    """Strictly convex, its minimiser 1000 away along a direction of curvature 1e-19."""
    model = linear([[1.0]], [1023.0 + 2.0**-21])
    inputs, targets = np.array([[1.0], [1.0 + 2.0**-30]]), np.array([1024.0, 1024.0 + 2.0**-20])
    landscape = rs.Landscape(model, inputs, targets)
    assert rs.certify(landscape.block(0)).claim not in MINIMA


def test_nearly_collinear_least_squares_behind_a_rectifier() -> None:
    """The same with all layers free: convex in products, but with no minimum near."""
    first, last = linear([[1.0]], [1023.0 + 2.0**-21]), linear([[1.0]])
    inputs, targets = np.array([[1.0], [1.0 + 2.0**-30]]), np.array([1024.0, 1024.0 + 2.0**-20])
    landscape = rs.Landscape(nn.Sequential(first, nn.ReLU(), last), inputs, targets)
    assert rs.certify(landscape).claim not in MINIMA


@pytest.mark.parametrize("bias", [False, True])
def test_convex_in_products_finds_the_least_squares_fit(bias: bool) -> None:
    """Two units alike: singular beyond symmetry, but a fit of least squares all the same."""
    inputs = np.array([[1.0], [2.0], [3.0]])
    first = linear([[1.0], [1.0]])
    last = linear([[0.5, 0.5]], [0.0] if bias else None)
    targets = np.array([1.0, 2.5, 2.5]) if not bias else np.array([1.25, 1.5, 3.25])
    slope = (inputs[:, 0] @ targets) / (inputs[:, 0] @ inputs[:, 0])
    if bias:
        slope = 1.0
        assert np.polyfit(inputs[:, 0], targets, 1) == pytest.approx([1.0, 0.0])
    with torch.no_grad():
        first[0].weight.fill_(slope)
    landscape = rs.Landscape(nn.Sequential(first, nn.ReLU(), last), inputs, targets)
    certificate = rs.certify(landscape)
    assert certificate.claim == "local_minimum"
    assert rs.verify(certificate, landscape).valid
    forged = replace(certificate, radius=1e-30 + 100 * certificate.radius).signed()
    assert not rs.verify(forged, landscape).valid


def test_l1_gradient_that_only_rounds_to_zero() -> None:
    """0.1 + 0.2 - 0.3 is zero in no float, so the loss falls; 0.5 + 0.25 - 0.75 is zero."""
    targets = np.full(3, -5.0)
    for inputs, exactly in (([0.1, 0.2, -0.3], False), ([0.5, 0.25, -0.75], True)):
        landscape = rs.Landscape(linear([[1.0]]), np.array(inputs)[:, None], targets, loss="l1")
        block = landscape.block(0)
        none = np.empty(0, dtype=np.intp)
        assert rest_is_zero(landscape, "0", block.theta, block.pattern(), none, 0) is exactly
        certificate = rs.certify(block)
        assert certificate.claim == ("plateau" if exactly else "undecided")
        assert rs.verify(certificate, landscape).valid


@pytest.mark.parametrize("scale", [1e-2, 1e-3])
def test_saddle_node_just_missed(scale: float) -> None:
    """Three equal weights under decay a hair above the fold: no stationary point, small gradient."""
    fold = 4.0 ** (-1.0 / 3.0)
    weight = scale * (fold + 1e-7)
    parts = [nn.Linear(1, 1, bias=False).double() for _ in range(3)]
    with torch.no_grad():
        for part in parts:
            part.weight.fill_(weight)
    decay = 2.0 * fold * 0.75 / scale**2 * (1.0 + 1e-14)
    inputs = np.array([[1.0 / scale**3]])
    landscape = rs.Landscape(nn.Sequential(*parts), inputs, np.array([1.0]), weight_decay=decay)
    assert rs.certify(landscape).claim not in MINIMA


@pytest.mark.parametrize("loss", ["squared", "half_squared", "l1", "cross_entropy"])
def test_the_majorant_bounds_the_hessians_change(loss: str) -> None:
    rng = np.random.default_rng(3)
    inputs = rng.normal(size=(15, 2))
    targets = rng.integers(0, 2, 15) if loss == "cross_entropy" else rng.normal(size=(15, 2))
    landscape = rs.Landscape(dense((2, 3, 3, 2), seed=1), inputs, targets, loss=loss)
    theta, kinks = landscape.theta, landscape.block(0).kinks()
    start = landscape.hessian()
    for radius in (1e-6, 1e-4):
        bounds = Majorant.within(landscape, radius)
        for _ in range(10):
            step = rng.normal(size=theta.size)
            step *= radius / np.linalg.norm(step)
            there = landscape.at(theta + step)
            if not np.array_equal(there.block(0).pattern(), kinks > 0):
                continue
            change = np.linalg.norm(there.hessian() - start, ord=2)
            assert change <= bounds.hessian_lipschitz * radius
            moved = np.abs(there.block(0).kinks() - kinks).max()
            assert moved <= bounds.kink_speed * radius * (1 + 1e-9)
