"""Points that look like minima in float64 and are none: never claimed, and certificates still verify."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from nets import dense
from numpy.typing import NDArray
from torch import nn

import reluscape as rs
from reluscape.arithmetic import Rational
from reluscape.certificate import MINIMA
from reluscape.exactly import rest_is_zero
from reluscape.integers import Dyadic, kinks_meet, rank_at_most, rank_bound
from reluscape.majorant import Majorant
from reluscape.point import Point
from reluscape.whole import products_radius


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
        assert rest_is_zero(landscape, "0", block.pattern(), none, 0) is exactly
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


def fits(columns: list[list[float]], start: list[float], bias: float | None = None) -> rs.Landscape:
    """Least squares whose residuals (2, 1, -3) at `start` are orthogonal to ones, not to what varies."""
    model = linear([start], None if bias is None else [bias])
    return rs.Landscape(model, np.array(columns).T, np.array([0.0, 1.0, 5.0]))


TINY_COLUMNS = {
    "two scales": lambda: fits([[1e8, 1e8, 1e8], [0.0, 1e-8, 2e-8]], [2e-8, 0.0]),
    "tiny": lambda: fits([[1.0, 1.0, 1.0], [1e-15, 2e-15, 3e-15]], [2.0, 0.0]),
    "tinier": lambda: fits([[1.0, 1.0, 1.0], [0.0, 1e-16, 2e-16]], [2.0, 0.0]),
    "underflow": lambda: fits([[1.0, 1.0, 1.0], [0.0, 1e-170, 2e-170]], [2.0, 0.0]),
    "nearly equal": lambda: fits([[1.0] * 3, [1.0, 1.0 + 2.0**-50, 1.0 - 2.0**-50]], [2.0, 0.0]),
    "bias": lambda: fits([[1.0, 1.0 + 2.0**-50, 1.0 - 2.0**-50]], [0.0], 2.0),
}


@pytest.mark.parametrize("name", TINY_COLUMNS)
def test_least_squares_falls_along_nearly_dependent_columns(name: str) -> None:
    """X^T r vanishes for the constant column and for no other, however small that one's part."""
    landscape = TINY_COLUMNS[name]()
    certificate = rs.certify(landscape.block(0))
    assert certificate.claim in {"not_stationary", "undecided"}
    assert rs.verify(certificate, landscape).valid
    if name != "underflow":  # the solution lies 1e170 away, beyond floats' squares
        assert rs.certify(landscape.block(0), arithmetic="rational").claim == "not_stationary"


def test_cross_entropy_falls_along_a_tiny_column() -> None:
    inputs = np.array([[1.0, 0.0], [1.0, 1e-16], [1.0, -1e-16], [1.0, 1e-16]])
    model = linear([[0.0, 0.0], [0.0, 0.0]])
    landscape = rs.Landscape(model, inputs, np.array([0, 1, 0, 1]), loss="cross_entropy")
    certificate = rs.certify(landscape.block(0))
    assert certificate.claim in {"not_stationary", "undecided"}
    assert rs.verify(certificate, landscape).valid
    assert rs.certify(landscape.block(0), arithmetic="rational").claim == "not_stationary"


@pytest.mark.parametrize("tiny", [1e-14, 1e-16, 1e-170])
def test_products_fall_along_a_tiny_column(tiny: float) -> None:
    inputs = np.array([[1.0, 0.0], [1.0, tiny], [1.0, 2.0 * tiny]])
    model = nn.Sequential(linear([[2.0, 0.0]]), nn.ReLU(), linear([[1.0]]))
    landscape = rs.Landscape(model, inputs, np.array([0.0, 1.0, 5.0]))
    certificate = rs.certify(landscape)
    assert certificate.claim in {"not_stationary", "undecided"}
    assert rs.verify(certificate, landscape).valid


def test_badly_scaled_columns_with_an_exact_fit_are_certified() -> None:
    """Columns (1e8, 1e8, 2e8) and (1e-8, 0, -1e-8): weights (2^-20, 2^20) solve the normal equations."""
    inputs = np.array([[2.0**27, 2.0**-27], [2.0**27, 0.0], [2.0**28, -(2.0**-27)]])
    theta, orthogonal = np.array([2.0**-20, 2.0**20]), np.array([1.0, -3.0, 1.0])
    assert not (inputs.T @ orthogonal).any()
    landscape = rs.Landscape(linear([theta.tolist()]), inputs, inputs @ theta + orthogonal)
    certificate = rs.certify(landscape.block(0))
    assert certificate.claim in MINIMA
    assert rs.verify(certificate, landscape).valid


def _flat_by_structure() -> dict[str, tuple[NDArray[np.float64], int]]:
    """Inputs (for weights all one), and the dimension that they span."""
    rng = np.random.default_rng(5)
    columns = rng.normal(size=(30, 3))
    more = np.column_stack([columns, np.zeros(30), columns[:, 0], columns[:, 1] * 4.0])
    counts = rng.integers(0, 17, size=(30, 3)).astype(np.float64)
    return {
        "zero, equal and proportional columns": (more, 3),
        "a sum of columns": (np.column_stack([counts, counts.sum(axis=1)]), 3),
        "more columns than samples": (rng.normal(size=(4, 9)), 4),
        "equal samples": (np.repeat(rng.normal(size=(3, 5)), 2, axis=0), 3),
    }


@pytest.mark.parametrize("name", _flat_by_structure())
@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
def test_exactly_flat_directions_do_not_hinder(name: str, loss: str) -> None:
    inputs, rank = _flat_by_structure()[name]
    assert np.linalg.matrix_rank(inputs) == rank
    if loss == "squared":
        landscape = rs.Landscape(linear([[1.0] * inputs.shape[1]]), inputs, inputs.sum(axis=1))
    else:
        inputs, targets = np.vstack([inputs, inputs]), np.repeat([0, 1], len(inputs))
        model = linear([[1.0] * inputs.shape[1]] * 2)
        landscape = rs.Landscape(model, inputs, targets, loss=loss)
    certificate = rs.certify(landscape.block(0))
    assert certificate.claim == "local_minimum"
    assert rs.verify(certificate, landscape).valid


@pytest.mark.parametrize("seed", range(20))
def test_exact_ranks_are_those_of_fractions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, columns, rank = rng.integers(1, 8, 3)
    left, right = rng.normal(size=(rows, rank)), rng.integers(-3, 4, size=(rank, columns))
    whole = Dyadic.of(left).whole @ right.astype(object)
    exact = len(Rational().row_basis(Rational().array(left) @ Rational().array(1.0 * right)))
    assert rank_bound(whole) == exact
    for limit in range(8):
        assert rank_at_most(whole, limit) is (exact <= limit)


def test_a_rank_that_one_prime_misses() -> None:
    """diag(1, p) has rank one modulo p = 2^31 - 1 and rank two in truth."""
    matrix = np.array([[1, 0], [0, 1 + (2**31 - 1)]], dtype=object)
    matrix = matrix @ np.array([[1, 1], [1, 1]], dtype=object) + np.diag([0, 2**31 - 1]).astype(
        object
    )
    assert int(np.linalg.det(matrix.astype(float))) != 0
    assert not rank_at_most(matrix, 1)


def test_a_rectifier_behind_the_output_is_no_product() -> None:
    """f = leaky(w x + b) with all outputs negative: the bias's slope is 1/4, not one."""
    inputs = np.array([[1.0], [2.0], [3.0]])
    first, last = linear([[1.0]]), linear([[1.0]], [-8.0])
    model = nn.Sequential(first, last, nn.LeakyReLU(0.25))
    targets = model(torch.from_numpy(inputs)).detach().numpy()
    landscape = rs.Landscape(model, inputs, targets)
    assert products_radius(landscape) is None


SMALL_DECAYS = [1e-3, 2.0**-20, 1e-9, 1e-12, 1e-14]


@pytest.mark.parametrize("decay", SMALL_DECAYS)
def test_a_rest_beside_large_multipliers_verifies(decay: float) -> None:
    """|w_1 + w_2 - 3/2| + decay / 2 ||w||^2 at (1, 1/2): falls along (-1, 1) by decay / sqrt 8."""
    model = linear([[1.0, 0.5]])
    data = np.array([[1.0, 1.0]]), np.array([1.5])
    landscape = rs.Landscape(model, *data, loss="l1", weight_decay=decay)
    certificate = rs.certify(landscape.block(0))
    assert rs.verify(certificate, landscape).valid
    if decay >= 1e-9:
        assert certificate.claim == "not_stationary"
        assert certificate.direction == pytest.approx([-(0.5**0.5), 0.5**0.5])
    if certificate.claim == "not_stationary":
        assert 0.0 < certificate.margin <= decay / 8.0**0.5


@pytest.mark.parametrize("big", [1.0, 1e3, 1e6, 1e8])
def test_a_large_active_kink_beside_a_tiny_rest(big: float) -> None:
    inputs = np.array([[big / 3.0, big * 0.7], [0.1, 0.1], [0.2, 0.1], [-0.3, -0.2]])
    landscape = rs.Landscape(
        linear([[0.0, 0.0]]), inputs, np.array([0.0, -1.0, -1.0, -1.0]), loss="l1"
    )
    certificate = rs.certify(landscape.block(0))
    assert certificate.claim in {"not_stationary", "undecided"}
    assert rs.verify(certificate, landscape).valid


@pytest.mark.parametrize("gap", [0.0, 2.0**-52])
def test_kinks_that_only_rounding_brings_together(gap: float) -> None:
    """(|w - 1| + |w - 1 - gap|) / 2 is flat on [1, 1 + gap]."""
    data = np.array([[1.0], [1.0]]), np.array([1.0, 1.0 + gap])
    landscape = rs.Landscape(linear([[1.0]]), *data, loss="l1")
    certificate = rs.certify(landscape.block(0))
    assert certificate.claim == ("local_minimum" if gap else "strict_local_minimum")
    assert rs.verify(certificate, landscape).valid


def test_proportional_kinks_meet() -> None:
    """(|w - 1| + |3 w - 3|) / 2: dependent normals, one exact zero."""
    landscape = rs.Landscape(
        linear([[1.0]]), np.array([[1.0], [3.0]]), np.array([1.0, 3.0]), loss="l1"
    )
    assert rs.certify(landscape.block(0)).claim == "strict_local_minimum"


@pytest.mark.parametrize("shift", [0.0, 2.0**-52])
def test_hidden_kinks_meet_exactly_or_not(shift: float) -> None:
    """relu(w + 1), relu(w + 1 + shift) in the second layer of a network, at w = -1."""
    model = nn.Sequential(linear([[-1.0]]), linear([[1.0], [1.0]], [1.0, 1.0 + shift]), nn.ReLU())
    landscape = rs.Landscape(model, np.array([[1.0]]), np.zeros((1, 2)))
    block = landscape.block(0)
    point = Point.at(block, block.theta)
    kinks = np.arange(2)
    assert kinks_meet(landscape, block.layer, point.pattern, kinks, 1) is (shift == 0.0)
