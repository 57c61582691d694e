"""Intervals cover as often as they say, and agree with closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from reluscape.intervals import bootstrap_interval, mean_interval, share_interval
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


def at_least(successes: int, trials: int, share: float) -> float:
    """Probability of so many successes or more."""
    counts = range(successes, trials + 1)
    return sum(math.comb(trials, k) * share**k * (1 - share) ** (trials - k) for k in counts)


@pytest.mark.parametrize(("successes", "trials"), [(7, 50), (1, 2), (0, 2), (2, 2)])
def test_ends_of_a_shares_interval_are_the_shares_that_are_just_possible(
    successes: int, trials: int
) -> None:
    share, low, high = share_interval(successes, trials)
    assert share == successes / trials
    assert at_least(successes, trials, low) == pytest.approx(0.025) or low == successes == 0
    assert 1 - at_least(successes + 1, trials, high) == pytest.approx(0.025) or high == share == 1


def test_no_trials_leave_a_share_open() -> None:
    assert share_interval(0, 0)[1:] == (0.0, 1.0)


def test_agreement_counts_both_errors() -> None:
    def row(ours: float, low: float, high: float, error: float) -> Comparison:
        return Comparison("q", 10.0, error, ours, low, high, 5)

    assert row(11.0, 10.5, 11.5, 0.5).agrees
    assert not row(11.0, 10.5, 11.5, 0.1).agrees
    assert row(10.4, 9.9, 10.9, 0.0).agrees
    assert not row(10.4, 10.4, 10.4, 0.0).agrees
    assert not row(float("nan"), float("nan"), float("nan"), 1.0).agrees
    assert row(0.0, 0.0, 11.0, 0.0).agrees  # lopsided: the published number lies inside


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
