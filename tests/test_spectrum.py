"""Spectra beside dense Hessians of plain functional networks."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from test_convexity import Case, case, sequential
from torch import nn

import reluscape as rs


def large() -> Case:
    """Some 300 parameters, eigenvalues from negative ones to a few that stand out."""
    rng = np.random.default_rng(1)
    torch.manual_seed(1)
    x = rng.normal(size=(30, 12))
    model = sequential([12, 12, 8, 3], [True, True, True], 0.0, 1.5)
    return Case(model, x, rng.integers(0, 3, 30), "cross_entropy", 0.01, 0.0)


@pytest.fixture(scope="module")
def pair() -> tuple[rs.Spectrum, np.ndarray]:
    pytest.importorskip("hessian_eigenthings", reason="the extra spectrum is not installed")
    one = large()
    return rs.spectrum(one.landscape(), k=6, max_dense=0, seed=3), one.hessian()


@pytest.mark.parametrize("seed", range(1, 30))
def test_the_dense_spectrum_is_that_of_the_written_out_hessian(seed: int) -> None:
    one = case(seed)
    found = rs.spectrum(one.landscape())
    values = np.linalg.eigvalsh(one.hessian())
    scale = max(1.0, np.abs(values).max())
    np.testing.assert_allclose(found.eigenvalues, values, atol=1e-12 * scale)
    assert found.errors.max() < 1e-10 * scale
    assert found.trace == pytest.approx(values.sum(), abs=1e-11 * scale)
    assert found.method == "dense"
    assert found.kinks_checked


def test_the_dense_density_is_a_mean_of_gaussians_at_the_eigenvalues() -> None:
    one = large()
    found = rs.spectrum(one.landscape(), steps=50)
    values = np.linalg.eigvalsh(one.hessian())
    assert found.bandwidth == pytest.approx((values[-1] - values[0]) / 50)
    steps = np.diff(found.grid)
    for level in (found.grid[200], found.grid[700]):
        below = found.grid <= level
        share = (found.density[below] * steps[0]).sum()
        expected = np.mean(
            [torch.special.ndtr(torch.tensor((level - v) / found.bandwidth)) for v in values]
        )
        assert share == pytest.approx(expected, abs=0.02)
    assert not found.density_error.any()


def test_lanczos_has_both_ends_of_the_spectrum(pair: tuple[rs.Spectrum, np.ndarray]) -> None:
    found, hessian = pair
    values = np.linalg.eigvalsh(hessian)
    assert found.method == "lanczos"
    np.testing.assert_allclose(found.eigenvalues[:6], values[:6], atol=1e-6)
    np.testing.assert_allclose(found.eigenvalues[6:], values[-6:], atol=1e-6)
    assert found.errors.max() < 1e-5


def test_random_vectors_estimate_the_trace_and_the_density(
    pair: tuple[rs.Spectrum, np.ndarray],
) -> None:
    found, hessian = pair
    assert 0 < found.trace_error < 0.2 * abs(found.trace)
    assert abs(found.trace - hessian.trace()) < 5 * found.trace_error
    exact = rs.spectrum(large().landscape())
    there = np.interp(found.grid, exact.grid, exact.density)
    assert np.trapezoid(found.density, found.grid) == pytest.approx(1.0, abs=1e-3)
    assert np.abs(found.density - there).max() < 0.05 * there.max() + 5 * found.density_error.max()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("max_dense", [0, 2000])
def test_a_hessian_of_zeros_has_a_spectrum(max_dense: int) -> None:
    if not max_dense:
        pytest.importorskip("hessian_eigenthings", reason="the extra spectrum is not installed")
    net = sequential([3, 9, 9, 1], [False, False, False], 0.0, 1.0)
    with torch.no_grad():
        net[2].weight.abs_().neg_()
    x = np.random.default_rng(1).uniform(0.1, 1.0, (20, 3))
    found = rs.spectrum(rs.Landscape(net, x, np.ones(20)), max_dense=max_dense)
    assert not found.eigenvalues.any()
    assert found.trace == 0.0
    assert np.isfinite(found.density).all()
    assert np.trapezoid(found.density, found.grid) == pytest.approx(1.0, abs=1e-2)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("width", [1, 2, 33])
def test_no_eigenvalue_is_told_twice(width: int) -> None:
    """Both ends together are no more than all there are."""
    x = np.random.default_rng(2).normal(size=(40, width))
    landscape = rs.Landscape(nn.Linear(width, 1, bias=False), x, np.zeros(40))
    found = rs.spectrum(landscape, k=20, max_dense=0)
    values = np.linalg.eigvalsh(2.0 * x.T @ x / 40)
    np.testing.assert_allclose(found.eigenvalues, values, atol=1e-12)


def test_eigenvalues_of_a_multiple_of_the_identity_ascend() -> None:
    pytest.importorskip("hessian_eigenthings", reason="the extra spectrum is not installed")
    net = sequential([3, 9, 9, 1], [False, False, False], 0.0, 1.0)
    with torch.no_grad():
        net[2].weight.abs_().neg_()
    x = np.random.default_rng(1).uniform(0.1, 1.0, (20, 3))
    landscape = rs.Landscape(net, x, np.ones(20), weight_decay=0.3)
    found = rs.spectrum(landscape, k=5, max_dense=0)
    assert (np.diff(found.eigenvalues) >= 0).all()
    np.testing.assert_allclose(found.eigenvalues, np.full(10, 0.3), rtol=1e-12)


def test_equal_seeds_give_equal_numbers(pair: tuple[rs.Spectrum, np.ndarray]) -> None:
    again = rs.spectrum(large().landscape(), k=6, max_dense=0, seed=3)
    for name in ("eigenvalues", "density", "density_error"):
        np.testing.assert_array_equal(getattr(again, name), getattr(pair[0], name))
    assert again.trace == pair[0].trace


def test_without_the_extra_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hessian_eigenthings", None)
    with pytest.raises(rs.InputError, match=r"pip install 'reluscape\[spectrum\]'"):
        rs.spectrum(large().landscape(), max_dense=0)


def test_it_refuses_where_the_hessian_says_nothing() -> None:
    x = np.array([[1.0, 2.0], [0.5, 1.0]])
    with pytest.raises(rs.InputError, match="affine on every piece"):
        rs.spectrum(rs.Landscape(nn.Linear(2, 1), x, [0.0, 1.0], loss="l1"))
    net = sequential([2, 2, 1], [True, True], 0.0, 1.0)
    at_a_kink = np.array([1.0, -0.5, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0])
    landscape = rs.Landscape(net, x, [0.0, 1.0])
    with pytest.raises(rs.InputError, match="2 kinks that are zero"):
        rs.spectrum(landscape, at_a_kink)
    at_a_kink[4] = 1e-3
    assert rs.spectrum(landscape, at_a_kink).size == 9


def test_switching_values_that_nothing_moves_are_no_kinks() -> None:
    """A sample of zeros enters a layer without biases: its unit is zero whatever the weights."""
    net = sequential([2, 2, 1], [False, True], 0.0, 1.0)
    landscape = rs.Landscape(net, [[0.0, 0.0], [1.0, 2.0]], [0.0, 1.0])
    assert rs.spectrum(landscape).kinks_checked
    assert rs.convexity(landscape).active_kinks == 0


def test_a_module_that_is_not_read_says_that_kinks_are_unknown() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1), nn.Softplus())
    landscape = rs.Landscape(net, np.ones((4, 2)), np.zeros(4))
    found = rs.spectrum(landscape)
    assert not found.kinks_checked
    assert "the model is not read completely" in found.summary()
    np.testing.assert_allclose(
        found.eigenvalues, np.linalg.eigvalsh(landscape.hessian()), atol=1e-12
    )


class Convolution(nn.Module):
    """A layer that is not read, on whose kinks zero patches lie where its bias is zero."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.body = nn.Conv1d(1, 2, 3, padding=1, bias=bias)
        self.head = nn.Linear(12, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(nn.functional.relu(self.body(x[:, None, :])).flatten(1))


def test_kinks_of_parts_that_are_not_read_are_refused() -> None:
    torch.manual_seed(2)
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(20, 6)), rng.normal(size=20)
    x[:, :4] = 0.0  # patches 0 to 2 hold nothing else
    landscape = rs.Landscape(Convolution(bias=True), x, y, weight_decay=0.1)
    theta = landscape.theta
    theta[6:8] = 0.0
    sides = [rs.spectrum(landscape, theta + side * 1e-6 * np.eye(len(theta))[6:8].sum(axis=0))
             for side in (-1.0, 1.0)]  # fmt: skip
    least = [side.eigenvalues[0] for side in sides]
    assert abs(least[0] - least[1]) > 1e-3
    with pytest.raises(rs.InputError, match="120 kinks"):
        rs.spectrum(landscape, theta)
    found = rs.convexity(landscape, theta)
    assert found.active_kinks == 120
    assert found.is_convex is None
    assert "kinks other than rectifiers' may be active" in found.summary()


def test_without_a_bias_zero_patches_lie_on_no_kink() -> None:
    """No small change of the weights moves what is zero there."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(20, 6)), rng.normal(size=20)
    x[:, :4] = 0.0
    landscape = rs.Landscape(Convolution(bias=False), x, y)
    found = rs.spectrum(landscape)
    assert not found.kinks_checked
    assert rs.convexity(landscape).active_kinks == 0
    np.testing.assert_allclose(
        found.eigenvalues, np.linalg.eigvalsh(landscape.hessian()), atol=1e-12
    )


def test_kinks_of_parts_that_are_not_read_are_found_at_zero_weights_as_well() -> None:
    landscape = rs.Landscape(Convolution(bias=True), np.ones((3, 6)), np.ones(3))
    with pytest.raises(rs.InputError, match="36 kinks"):
        rs.spectrum(landscape, np.zeros(landscape.size))


def test_options_are_checked_and_results_saved(tmp_path: object) -> None:
    landscape = case(1).landscape()
    for options in ({"k": 0}, {"seed": -1}, {"probes": 1}, {"steps": 1}, {"max_dense": -1}):
        with pytest.raises(rs.InputError, match=next(iter(options))):
            rs.spectrum(landscape, **options)
    found = rs.spectrum(landscape)
    found.save(f"{tmp_path}/s.nc")
    loaded = rs.Spectrum.load(f"{tmp_path}/s.nc")
    np.testing.assert_array_equal(loaded.density, found.density)
    assert repr(loaded) == repr(found)
    assert "trace" in found.summary()
    drawn = found.plot().data
    np.testing.assert_array_equal(drawn[2].y, found.density)
    np.testing.assert_array_equal(drawn[3].x, found.eigenvalues)
