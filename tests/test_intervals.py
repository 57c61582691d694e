"""Intervals cover as often as they say, and agree with closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from reluscape.intervals import bootstrap_interval, mean_interval, wilson_interval
from reluscape.papers.paper import Comparison, over_draws


def test_bootstrap_interval_of_a_normal_mean() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    mean, low, high = mean_interval(values)
    half = norm.ppf(0.975) * values.std(ddof=1) / 20
    assert mean == values.mean()
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.1 * half)


def test_many_values_get_the_same_interval_without_resampling() -> None:
    values = np.random.default_rng(5).exponential(size=2001)
    few, many = mean_interval(values[:2000]), mean_interval(values)
    np.testing.assert_allclose(few, many, rtol=1e-2)


def test_bootstrap_interval_covers() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for seed in range(100):
        _, low, high = bootstrap_interval(rng.exponential(size=60), np.mean, seed=seed)
        hits += low <= 1.0 <= high
    assert hits >= 86


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0], [3.0] * 9])
def test_too_few_or_equal_values_have_no_interval(values: list[float]) -> None:
    found, low, high = mean_interval(np.array(values))
    np.testing.assert_equal((low, high), (found, found))


def test_wilson_interval_is_the_formula() -> None:
    share, low, high = wilson_interval(7, 50)
    z = norm.ppf(0.975)
    centre = (7 + z * z / 2) / (50 + z * z)
    half = z / (50 + z * z) * np.sqrt(7 * 43 / 50 + z * z / 4)
    assert share == 0.14
    assert (low, high) == pytest.approx((centre - half, centre + half))
    assert wilson_interval(0, 0)[1:] == (0.0, 1.0)


def test_agreement_counts_both_errors() -> None:
    def row(ours: float, low: float, high: float, error: float) -> Comparison:
        return Comparison("q", 10.0, error, ours, low, high, 5)

    assert row(11.0, 10.5, 11.5, 0.5).agrees
    assert not row(11.0, 10.5, 11.5, 0.1).agrees
    assert row(10.4, 9.9, 10.9, 0.0).agrees
    assert not row(10.4, 10.4, 10.4, 0.0).agrees
    assert not row(float("nan"), float("nan"), float("nan"), 1.0).agrees


def test_scatter_over_draws_covers_a_single_draw() -> None:
    values = np.random.default_rng(2).normal(5.0, 3.0, 4000)
    mean, low, high, scatter = over_draws(values)
    assert scatter == pytest.approx(3.0, rel=0.05)
    assert high - low == pytest.approx(2 * 1.96 * 3.0 / np.sqrt(4000), rel=0.05)
    assert low < 5.0 < high
    assert mean == pytest.approx(5.0, abs=0.2)
    mean, low, high, scatter = over_draws(values[:1])
    assert (mean, scatter) == (values[0], 0.0)
    assert np.isnan([low, high]).all()
