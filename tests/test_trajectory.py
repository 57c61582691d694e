"""Forecasts and phases: closed forms, coverage on synthetic paths, and no look ahead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from nets import dense

import reluscape as rs
from reluscape.descent.forecast import forecast_descent
from reluscape.descent.phases import decay_rate, find_phases, running_mean
from reluscape.errors import InputError


@cache
def descended() -> rs.Descent:
    rng = np.random.default_rng(2)
    inputs, targets = rng.uniform(-3, 3, (80, 3)), rng.uniform(-3, 3, (80, 1))
    landscape = rs.Landscape(dense((3, 4, 3, 1), seed=2), inputs, targets, loss="l1")
    return rs.descend(landscape.block(0), rule="first_kink")


def ragged(seed: int, pivots: int = 4000) -> np.ndarray:
    """A path whose decreases are random, many of them tiny, and decay at a rate; it ends near 1."""
    rng = np.random.default_rng(seed)
    rate = rng.uniform(3.0, 8.0) / (pivots // 20)
    sizes = rng.exponential(size=pivots) * (rng.random(pivots) < 0.3)
    decreases = sizes * np.exp(-rate * np.arange(pivots))
    return 1.0 + np.append(decreases[::-1].cumsum()[::-1], 0.0) * rng.uniform(0.1, 2.0) * rate


# ---- forecasts of descents -----------------------------------------------------------------------


@pytest.mark.parametrize("end", [0.0, 1.5, 1e-6])
@pytest.mark.parametrize(("rate", "seen"), [(0.05, 100), (0.5, 20), (0.004, 1200), (5.0, 9)])
def test_exponential_is_foretold_exactly(end: float, rate: float, seen: int) -> None:
    """f_k = c + a r^k tends to c."""
    losses = end + 2.0 * np.exp(-rate * np.arange(seen))
    forecast = forecast_descent(losses)
    assert forecast.loss == pytest.approx(end, rel=1e-9, abs=1e-9)
    assert forecast.interval[0] <= end <= forecast.interval[1] == losses[-1]
    assert forecast.seen == seen


def test_a_path_that_does_not_slow_down_goes_on_for_a_while_only() -> None:
    """With d_k = 1 nothing says where the end is: rate 1/2 per window, at most 60 more decreases here.

    The longest window has 60 of the 80 decreases: its tail at rate 1/120 is below
    60 exp(-1/2) / (1 - exp(-1/2)) = 92.5.
    """
    forecast = forecast_descent(np.arange(1000.0, 919.0, -1.0))
    assert 920.0 - 92.5 < forecast.loss < 920.0 - 5.0
    still = forecast_descent(np.full(50, 3.0))
    assert (still.loss, *still.interval) == (3.0, 3.0, 3.0)
    one = forecast_descent([2.0])
    assert (one.loss, *one.interval, one.seen) == (2.0, 2.0, 2.0, 1)


@pytest.mark.parametrize("scale", [1e-6, 0.3, 1e5])
def test_forecast_scales_with_the_losses(scale: float) -> None:
    losses = ragged(1)[:150]
    plain, scaled = forecast_descent(losses), forecast_descent(scale * losses)
    assert scaled.loss == pytest.approx(scale * plain.loss, rel=1e-9)
    np.testing.assert_allclose(scaled.interval, scale * plain.interval, rtol=1e-9)


def test_ragged_paths_are_foretold_and_covered() -> None:
    """Half-way through, ours is nearer to the end than the last value, and the interval holds it."""
    errors, naive, held = [], [], 0
    for seed in range(200):
        losses = ragged(seed)
        forecast = forecast_descent(losses[:101])
        errors.append(abs(forecast.loss - losses[-1]))
        naive.append(losses[100] - losses[-1])
        held += bool(forecast.interval[0] <= losses[-1] <= forecast.interval[1])
    assert np.median(errors) < 0.7 * np.median(naive)
    assert held >= 0.95 * 200


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.75])
def test_forecast_looks_at_its_fraction_only(fraction: float) -> None:
    descent = descended()
    seen = int(np.ceil(fraction * descent.num_pivots)) + 1
    later = descent.losses.copy()
    later[seen:] = np.linspace(later[seen - 1], 0.0, len(later) - seen)
    other = replace(descent, losses=later, loss=0.0, theta=0 * descent.theta, status="plateau")
    ours, theirs = descent.forecast(fraction), other.forecast(fraction)
    assert ours.loss == theirs.loss
    assert (ours.interval == theirs.interval).all()
    assert ours.seen == theirs.seen == seen


def test_online_is_the_same_at_every_pivot() -> None:
    descent, online = descended(), rs.Forecaster()
    for pivot, loss in enumerate(descent.losses):
        online.add(loss)
        if pivot % 20 == 0:
            same = descent.forecast(pivot / descent.num_pivots)
            assert online.forecast().loss == pytest.approx(same.loss, rel=1e-12)
    assert "will end at" in online.forecast().summary()
    whole = descent.forecast(1.0)
    assert whole.interval[0] <= descent.losses[-1] <= whole.interval[1]


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([], "at least one loss"),
        ([1.0, np.nan], "must be finite; received 1 NaN"),
        ([[1.0, 0.5]], "received shape"),
        ([1.0, 1.5], "never rise; give noisy ones to forecast_losses"),
    ],
)
def test_bad_losses(losses: list[float], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        forecast_descent(losses)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: rs.forecast_losses(["a"]),
        lambda: rs.forecast_losses([1.0, 0.9], horizon=1.5),
        lambda: rs.forecast_losses([1.0, 0.9], horizon="a"),
        lambda: rs.forecast_losses([1e308, -1e308]),
        lambda: rs.Forecaster().add("a"),
        lambda: rs.Forecaster().add(np.nan),
        lambda: rs.Forecaster(["a"]),
        lambda: rs.Forecaster(least="a"),
        lambda: rs.Forecaster(least=np.nan),
        lambda: descended().forecast("a"),
        lambda: descended().forecast(np.nan),
    ],
)
def test_what_is_no_number_is_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(InputError, match="received") as caught:
        wrong()
    assert "\n" not in str(caught.value)


def test_a_forecast_shows_its_numbers() -> None:
    forecast = rs.forecast_losses([1.0, 1.0])
    assert repr(forecast) == "Forecast(loss=1, interval=[1, 1], seen=2)"


def test_bad_fractions_and_horizons() -> None:
    with pytest.raises(InputError, match=r"between 0 and 1; received 1\.5"):
        descended().forecast(1.5)
    with pytest.raises(InputError, match="at least one loss"):
        rs.Forecaster().forecast()
    with pytest.raises(InputError, match="horizon must be a whole number of at least 0"):
        rs.forecast_losses([1.0, 0.9], horizon=-1)


# ---- forecasts of noisy curves -------------------------------------------------------------------


@pytest.mark.parametrize("horizon", [0, 7, 500])
def test_horizon_is_the_tails_first_part(horizon: int) -> None:
    losses = 0.2 + np.exp(-0.2 * np.arange(50))
    expected = 0.2 + np.exp(-0.2 * (49 + horizon))
    assert rs.forecast_losses(losses, horizon=horizon).loss == pytest.approx(expected, abs=1e-9)
    assert rs.forecast_losses(losses).loss == pytest.approx(0.2, abs=1e-9)


def test_noisy_curves_are_covered() -> None:
    held, errors = 0, []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        losses = 0.3 + np.exp(-0.004 * np.arange(1000)) + 0.01 * rng.normal(size=1000)
        forecast = rs.forecast_losses(losses, horizon=1000)
        end = 0.3 + np.exp(-0.004 * 1999)
        held += bool(forecast.interval[0] <= end <= forecast.interval[1])
        errors.append(abs(forecast.loss - end))
    assert held >= 0.95 * 200
    assert np.median(errors) < 0.01  # the last level is 0.018 above


def test_a_rising_curve_is_not_foretold_to_fall() -> None:
    forecast = rs.forecast_losses(np.linspace(1.0, 2.0, 64))
    assert forecast.loss == 2.0


# ---- phases --------------------------------------------------------------------------------------


def two_phases(split: int, count: int = 1000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Everything falls by 1 % per pivot up to the split; then the loss by 0.2 %, nothing else."""
    places = np.arange(count + 1)
    early, late = np.minimum(places, split), np.maximum(places - split, 0)
    losses = np.exp(-0.01 * early - 0.002 * late)
    return losses, np.exp(-0.01 * early[1:]), np.exp(-0.01 * early)


@pytest.mark.parametrize("split", [300, 600])
def test_phases_of_broken_exponentials(split: int) -> None:
    losses, steps, distances = two_phases(split)
    losses[-1] = 0.0
    phases = find_phases(losses, steps, distances, 25)
    assert (phases.first, phases.last) == (25, 900)
    assert phases.split == pytest.approx(split, abs=30)
    np.testing.assert_allclose(phases.rates[[0, 2], 0], 0.01, rtol=0.03)
    assert phases.rates[1, 0] == pytest.approx(0.01, rel=0.1)  # a mean of 40 lags behind at first
    assert phases.rates[0, 1] == pytest.approx(0.002, rel=0.1)
    assert phases.rates[2, 1] == pytest.approx(0.0, abs=1e-4)
    text = phases.summary()
    assert text.startswith("exponential: pivots 25 to")
    assert "fine-tuning" in text


def test_a_loss_that_falls_ever_faster_has_one_phase() -> None:
    places = np.arange(501.0)
    losses = np.exp(-0.002 * places - 1e-5 * places**2)
    losses[-1] = 0.0
    phases = find_phases(losses, np.exp(-0.002 * places[1:]), np.exp(-0.002 * places), -1)
    assert phases.first == 0
    assert phases.split == phases.last == 450
    assert np.isfinite(phases.rates[:, 0]).all()
    assert np.isnan(phases.rates[:, 1]).all()


def test_rounding_is_no_fall() -> None:
    """At rest from pivot 300 until a last pivot, but for 1e-13 in all: halving would take 1e15 pivots."""
    places = np.arange(1001.0)
    moved = np.exp(-0.01 * np.minimum(places, 300.0)) * (1.0 - 1e-16 * places)
    losses = moved.copy()
    losses[-1] = 0.0
    phases = find_phases(losses, np.exp(-0.01 * places[1:]), moved, 0)
    assert phases.rates[0, 1] > 0
    assert [phases.falls(0, phase) for phase in (0, 1)] == [True, False]
    first, second = phases.summary().splitlines()
    assert "no clear" not in first
    assert "loss no clear fall (" in second
    assert "step 0.01 (" in second


def test_losses_that_are_their_end_but_for_rounding_have_no_rate() -> None:
    """Above the end by 1e-15 of the loss, as after descents that bring nothing."""
    places = np.arange(201.0)
    losses = 3.0 + 3e-15 * np.exp(-0.05 * places)
    phases = find_phases(losses, np.exp(-0.01 * places[1:]), np.exp(-0.01 * places), 0)
    assert np.isnan(phases.rates[0]).all()
    assert phases.falls(1, 0)


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_intervals_of_rates_cover(correlation: float) -> None:
    held = 0
    for seed in range(200):
        noise = np.random.default_rng(seed).normal(size=400)
        for place in range(1, 400):
            noise[place] += correlation * noise[place - 1]
        rate, low, high = decay_rate(0.3 * noise - 0.01 * np.arange(400))
        assert low < rate < high
        held += bool(low <= 0.01 <= high)
    assert 0.92 * 200 <= held <= 0.995 * 200


def test_phases_of_real_and_of_empty_paths() -> None:
    descent = descended()
    phases = descent.phases()
    assert phases.first == descent.first_vertex
    assert phases.first <= phases.split <= phases.last <= descent.num_pivots
    thinned = replace(descent, vertices=descent.vertices[::4], stride=4).phases()
    np.testing.assert_allclose(thinned.rates[:2], phases.rates[:2], rtol=0.5)
    empty = find_phases(np.ones(1), np.zeros(0), np.zeros(1), -1)
    assert (empty.first, empty.split, empty.last) == (0, 0, 0)
    assert np.isnan(empty.rates).all()
    assert np.isnan(decay_rate(np.zeros(3))).all()


def test_running_mean_is_of_the_last_values() -> None:
    values = np.random.default_rng(0).random(100)
    expected = [values[max(0, place - 39) : place + 1].mean() for place in range(100)]
    np.testing.assert_allclose(running_mean(values), expected)


def test_results_are_saved_and_loaded(tmp_path: Path) -> None:
    forecast, phases = descended().forecast(0.5), descended().phases()
    again = rs.Forecast.load(forecast.save(tmp_path / "forecast.nc"))
    assert (again.loss, again.seen) == (forecast.loss, forecast.seen)
    assert (again.interval == forecast.interval).all()
    loaded = rs.Phases.load(phases.save(tmp_path / "phases.nc"))
    np.testing.assert_array_equal(loaded.rates, phases.rates)
    assert "\n" not in repr(phases)
