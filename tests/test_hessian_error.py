"""Bounds on the rounding errors of a computed Hessian, beside the same one in sixty digits."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from test_convexity import sequential
from torch import nn

import reluscape as rs
from reluscape.hessian import HessianProduct
from reluscape.hessian_error import Absolute, entries_error, network_sizes

Numbers = list[Decimal]


@pytest.fixture(autouse=True)
def sixty_digits() -> Iterator[None]:
    with localcontext() as context:
        context.prec = 60
        yield


def decimals(values: np.ndarray) -> Numbers:
    return [Decimal(float(value)) for value in np.ravel(values)]


def hessian_of_two_layers(
    theta: np.ndarray, units: int, x: np.ndarray, y: np.ndarray, factor: str
) -> list[Numbers]:
    """Of `factor / N sum (f - y)^2` with `f = sum_u v_u max(w_u . x + b_u, 0) + c`, one output."""
    width, number = x.shape[1], decimals(theta)
    w = [number[u * width : (u + 1) * width] for u in range(units)]
    b = number[units * width : units * (width + 1)]
    v, c = number[units * (width + 1) : -1], number[-1]
    size = len(number)
    total = [[Decimal(0)] * size for _ in range(size)]
    for inputs, target in zip(x, decimals(y), strict=True):
        a = [*decimals(inputs), Decimal(1)]
        rows = [[*w[u], b[u]] for u in range(units)]
        z = [sum(p * q for p, q in zip(row, a, strict=True)) for row in rows]
        on = [Decimal(int(value > 0)) for value in z]
        error = sum(v[u] * on[u] * z[u] for u in range(units)) + c - target
        places = [[*range(u * width, (u + 1) * width), units * width + u] for u in range(units)]
        slope = [Decimal(0)] * size
        slope[-1] = Decimal(1)
        bent: dict[tuple[int, int], Decimal] = {}
        for u in range(units):
            out = units * (width + 1) + u
            slope[out] = on[u] * z[u]
            for at, value in zip(places[u], a, strict=True):
                slope[at] = v[u] * on[u] * value
                bent[at, out] = bent[out, at] = error * on[u] * value
        scale = 2 * Decimal(factor) / len(x)
        for i in range(size):
            for j in range(size):
                term = slope[i] * slope[j] + bent.get((i, j), Decimal(0))
                total[i][j] += scale * term
    return total


def distance(found: np.ndarray, exact: list[Numbers]) -> float:
    rows = zip(found, exact, strict=True)
    off = [[float(Decimal(float(a)) - b) for a, b in zip(*row, strict=True)] for row in rows]
    return float(np.linalg.norm(np.array(off), 2))


def bound(landscape: rs.Landscape) -> float:
    assert landscape.reading is not None
    return entries_error(landscape, landscape.reading.network, 1)


def test_the_hessian_of_two_layers_is_as_near_as_it_says() -> None:
    rng = np.random.default_rng(4)
    ratios = []
    for trial in range(28):
        units, width, samples = 2, 2, 2
        wild = trial % 2
        net = sequential([width, units, 1], [True, True], 0.0, 1.0)
        theta = rng.normal(size=units * (width + 2) + 1)
        theta *= 10.0 ** (wild * rng.integers(-5, 6, len(theta)))
        x = rng.normal(size=(samples, width)) * 10.0 ** (wild * rng.integers(-3, 4))
        name, factor = (("squared", "1"), ("half_squared", "0.5"))[trial % 4 // 2]
        at = rs.Landscape(net, x, np.zeros(samples), loss=name).at(theta)
        y = at.outputs() * (1.0 + 1e-15 * rng.normal(size=(samples, 1)))  # residuals of rounding
        landscape = rs.Landscape(at.module_at(), x, y, loss=name)
        off = distance(landscape.hessian(), hessian_of_two_layers(theta, units, x, y, factor))
        assert off <= bound(landscape)
        if not wild:
            assert bound(landscape) < 1e-11 * np.linalg.norm(landscape.hessian(), 2)
        ratios.append(off / bound(landscape))
    assert max(ratios) > 1e-3  # not for nothing


def test_the_hessian_of_a_cross_entropy_is_as_near_as_it_says() -> None:
    """Outputs that cancel to eight digits: the probabilities have no more than eight right ones."""
    rng = np.random.default_rng(5)
    ratios = []
    for _ in range(20):
        x = rng.normal(size=(1, 2))
        weight = 1e8 * rng.normal(size=(3, 1)) * np.array([[x[0, 1], -x[0, 0]]])
        weight += rng.normal(size=(3, 2))
        layer = nn.Linear(2, 3, bias=False).double()
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight))
        landscape = rs.Landscape(layer, x, [1], loss="cross_entropy")
        a, w = decimals(x), decimals(weight)
        odds = [(w[2 * k] * a[0] + w[2 * k + 1] * a[1]).exp() for k in range(3)]
        p = [one / sum(odds) for one in odds]
        exact = [
            [p[i] * ((i == j) - p[j]) * a[m] * a[n] for j in range(3) for n in range(2)]
            for i in range(3)
            for m in range(2)
        ]
        off = distance(landscape.hessian(), exact)
        assert off <= bound(landscape)
        ratios.append(off / bound(landscape))
    assert max(ratios) > 1e-5


@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
def test_absolute_terms_bound_the_entries(loss: str) -> None:
    """B bounds every entry; batches make no difference."""
    rng = np.random.default_rng(6)
    torch.manual_seed(6)
    net = sequential([3, 4, 3, 2], [True, False, True], -1.5, 1.0)
    y = rng.integers(0, 2, 7) if loss == "cross_entropy" else rng.normal(size=(7, 2))
    landscape = rs.Landscape(net, rng.normal(size=(7, 3)), y, loss=loss)
    assert landscape.reading is not None
    absolute = Absolute.of(landscape, landscape.reading.network)
    assert absolute.size == landscape.size
    terms = HessianProduct(absolute, 3).dense()
    np.testing.assert_allclose(terms, HessianProduct(absolute, 7).dense())
    assert (np.abs(landscape.hessian()) <= terms).all()
    outputs = network_sizes(landscape.reading.network, landscape.reading.features)
    assert (np.abs(landscape.outputs()) <= outputs).all()


class Convolution(nn.Module):
    """`v max(w x, 0) + b` with a layer that is not read."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv1d(1, 1, 1, bias=False), nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.body(x[:, None, :])).flatten(1))


@pytest.mark.parametrize("model", [sequential([1, 1, 1], [False, True], 0.0, 1.0), Convolution()])
def test_a_sign_that_rounding_makes_is_no_verdict(model: nn.Module) -> None:
    """The residual 2^-24 - 2^-22 is lost beside a bias of 2^30: the true value is +1.04e-8."""
    theta, decay = np.array([1.0, 1.0 + 2.0**-24, 2.0**30]), 7e-8
    target = 2.0**30 + 1.0 + 2.0**-22
    residual = 2.0**-24 - 2.0**-22
    slope = np.array([theta[1], 1.0, 1.0])
    hessian = np.outer(slope, slope) + residual * np.eye(3)[[1, 0, 2]] * [1, 1, 0]
    true = np.linalg.eigvalsh(hessian)[0] + decay
    assert true == pytest.approx(1.04e-8, rel=0.01)
    landscape = rs.Landscape(model, [[1.0]], [[target]], loss="half_squared", weight_decay=decay)
    found = rs.convexity(landscape, theta)
    assert abs(found.exact - true) <= found.error
    assert found.is_convex is None
    plain = rs.convexity(landscape, [1.0, 1.0, 3.0])
    assert plain.is_convex is False  # the residual is 2^30 there
