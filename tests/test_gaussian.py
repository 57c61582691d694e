"""The 1-D Gaussian theory against quadrature, dense systems, closed forms and direct sampling."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import linprog
from scipy.special import log_ndtr
from scipy.stats import norm

from reluscape.errors import InputError
from reluscape.gaussian import (
    MinimumProbability,
    ProbabilityCurve,
    expected_minimum_probability,
    none_of,
    probability_curve,
)
from reluscape.mixture import Mixture, mass_of_union, moments, truncated

PAPER = Mixture(np.array([1.0, -1.0]), 1.0, np.array([0.5, 0.5]), np.array([1.0, -1.0]))
SKEWED = Mixture(np.array([0.7, -1.9]), 0.6, np.array([0.3, 0.7]), np.array([2.0, 0.5]))


def options(mixture: Mixture) -> dict:
    return {
        "means": mixture.means,
        "sd": mixture.sd,
        "priors": mixture.priors,
        "labels": mixture.labels,
    }


def random_units(seed: int, units: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(-2, 2, units), rng.choice([-1.0, 1.0], units)


# ---- oracles -------------------------------------------------------------------------------------


def integral(function, lower: float, upper: float, mixture: Mixture) -> float:
    """Expectation of `function(x, label)` over samples in the interval, by quadrature."""
    total = 0.0
    for mean, prior, label in zip(mixture.means, mixture.priors, mixture.labels, strict=True):
        low, high = max(lower, mean - 12 * mixture.sd), min(upper, mean + 12 * mixture.sd)
        if low < high:

            def term(x, mean=mean, label=label):
                return function(x, label) * norm.pdf(x, mean, mixture.sd)

            total += prior * quad(term, low, high, epsabs=1e-13, epsrel=1e-12, limit=200)[0]
    return total


def dense_system(places, normals, mixture: Mixture) -> tuple[np.ndarray, np.ndarray]:
    """F and f of equations 15 and 16, each entry by quadrature over the regions."""
    cuts = np.concatenate([[-np.inf], np.sort(places), [np.inf]])
    matrix, vector = np.zeros((len(places),) * 2), np.zeros(len(places))
    for low, high in pairwise(cuts):
        inside = np.clip((max(low, -1e3) + min(high, 1e3)) / 2, low, high)
        active = (normals * (inside - places) > 0).astype(float)
        if low == high or not active.any():
            continue
        matrix += np.outer(active, active) * integral(lambda x, y: 1.0, low, high, mixture)
        vector += active * active.sum() * integral(lambda x, y: x, low, high, mixture)
        vector -= active * integral(lambda x, y: y, low, high, mixture)
    return matrix, vector


def draw(rng: np.random.Generator, shape, mixture: Mixture = PAPER):
    """Independent samples and their labels."""
    second = rng.random(shape) < mixture.priors[1]
    x = rng.normal(size=shape) * mixture.sd + mixture.means[second.astype(int)]
    return x, mixture.labels[second.astype(int)]


def no_sample_in_gaps(x: np.ndarray, result: MinimumProbability) -> np.ndarray:
    """Whether each row of samples leaves all gaps free."""
    low = np.minimum(result.locations, result.optimal)
    high = np.maximum(result.locations, result.optimal)
    return ~((x[:, :, None] > low) & (x[:, :, None] < high)).any(axis=(1, 2))


def holds_minimum(places, normals, x, y) -> bool:
    """Whether some minimiser of these samples' own loss lies in the open cell of the locations."""
    active = (normals * (x[:, None] - places) > 0).astype(float)
    target = active.sum(axis=1) * x - y
    found, _, rank, _ = np.linalg.lstsq(active, target, rcond=None)
    below = np.where(x[:, None] < places, x[:, None], -np.inf).max(axis=0)
    above = np.where(x[:, None] > places, x[:, None], np.inf).min(axis=0)
    if rank == len(places):
        return bool(((found > below) & (found < above)).all())
    rows = np.unique(active, axis=0)
    margin = np.ones((len(places), 1))
    low, high = np.isfinite(below), np.isfinite(above)
    eye = np.eye(len(places))
    bounds = np.vstack([np.hstack([-eye, margin])[low], np.hstack([eye, margin])[high]])
    answer = linprog(
        np.append(np.zeros(len(places)), -1.0),
        A_ub=bounds,
        b_ub=np.concatenate([-below[low], above[high]]),
        A_eq=np.hstack([rows, np.zeros((len(rows), 1))]),
        b_eq=rows @ found,
        bounds=[(None, None)] * len(places) + [(None, 1.0)],
    )
    return bool(answer.status == 0 and -answer.fun > 1e-9)


def merged_length_mass(intervals, mixture: Mixture) -> float:
    """Mass of a union of intervals: merged one after the other."""
    merged: list[list[float]] = []
    for low, high in sorted(intervals):
        if merged and low <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], high)
        else:
            merged.append([low, high])
    return sum(integral(lambda x, y: 1.0, low, high, mixture) for low, high in merged)


# ---- masses and means ----------------------------------------------------------------------------


@pytest.mark.parametrize("mixture", [PAPER, SKEWED])
def test_moments_are_those_of_quadrature(mixture):
    rng = np.random.default_rng(0)
    ends = np.sort(rng.uniform(-4, 4, (30, 2)), axis=1)
    ends[0], ends[1], ends[2] = (-np.inf, 0.3), (0.3, np.inf), (1.0, 1.0 + 1e-3)
    found = moments(ends[:, 0], ends[:, 1], mixture)
    for (low, high), log_mass, position, label in zip(ends, *found, strict=True):
        mass = integral(lambda x, y: 1.0, low, high, mixture)
        assert np.exp(log_mass) == pytest.approx(mass, rel=1e-10)
        assert position * mass == pytest.approx(
            integral(lambda x, y: x, low, high, mixture), abs=1e-10
        )
        assert label * mass == pytest.approx(
            integral(lambda x, y: y, low, high, mixture), abs=1e-10
        )


@pytest.mark.parametrize("side", [1.0, -1.0])
@pytest.mark.parametrize("start", [0.0, 0.5, 3.0, 30.0, 40.0, 1e3, 1e6])
@pytest.mark.parametrize("reach", [1e-3, 0.3, 0.999, 1.001, 5.0, np.inf])
def test_moments_in_the_tails_keep_their_digits(start, reach, side):
    """With x = a + u, the density is exp(-a^2/2) exp(-a u - u^2/2): integrate what is left."""
    stop = start + reach / (1.0 + start)
    ends = (start, stop) if side > 0 else (-stop, -start)
    width, scale = stop - start, 1.0 / (1.0 + start)

    def rest(v, power):  # u = scale v
        return v**power * np.exp(-start * scale * v - 0.5 * (scale * v) ** 2)

    top = min(width / scale, 40.0)
    zeroth, first = (quad(rest, 0, top, args=(p,), epsrel=1e-13, epsabs=0)[0] for p in (0, 1))
    log_mass, mean = truncated(np.array([ends[0]]), np.array([ends[1]]), 0.0, 1.0)
    expected = np.log(zeroth * scale / np.sqrt(2 * np.pi)) - start**2 / 2
    assert log_mass[0] == pytest.approx(expected, rel=1e-13, abs=1e-11)
    offset = side * mean[0] - start
    assert offset == pytest.approx(scale * first / zeroth, rel=1e-9, abs=4e-16 * start)


def test_half_lines_agree_with_log_ndtr():
    at = np.array([-60.0, -35.0, -8.0, -1.0, 0.0, 1.0, 8.0])
    log_mass, _ = truncated(np.full(7, -np.inf), at, 0.0, 1.0)
    np.testing.assert_allclose(log_mass, log_ndtr(at), rtol=1e-14, atol=1e-16)


def test_the_regions_have_all_the_mass_and_the_mean():
    cuts = np.concatenate([[-np.inf], np.linspace(-9, 9, 400), [np.inf]])
    found = moments(cuts[:-1], cuts[1:], SKEWED)
    mass = np.exp(found.log_mass)
    assert mass.sum() == pytest.approx(1.0, abs=1e-13)
    assert mass @ found.position == pytest.approx(SKEWED.priors @ SKEWED.means, abs=1e-12)
    assert mass @ found.label == pytest.approx(SKEWED.priors @ SKEWED.labels, abs=1e-12)


# ---- optimal locations ---------------------------------------------------------------------------


@pytest.mark.parametrize("mixture", [PAPER, SKEWED])
@pytest.mark.parametrize("seed", range(6))
def test_optimal_locations_solve_the_dense_system(seed, mixture):
    places, normals = random_units(seed, 2 + seed % 5)
    result = expected_minimum_probability(places, normals, **options(mixture))
    matrix, vector = dense_system(places, normals, mixture)
    np.testing.assert_allclose(matrix @ result.optimal, vector, atol=1e-10)
    np.testing.assert_allclose(result.optimal, np.linalg.solve(matrix, vector), rtol=1e-5)
    assert result.unique


@pytest.mark.parametrize("right", [0.2, 1.5, 6.0])
def test_two_units_have_the_closed_form_of_equation_14(right):
    """On (h, inf): P± = 1 - Φ(h ∓ 1) and P± x̄± = φ(h ∓ 1) ± P±; h* = (Σ P± x̄± - P+ + P-) / Σ P±."""

    def closed(h):
        plus, minus = norm.sf(h - 1), norm.sf(h + 1)
        moments = norm.pdf(h - 1) + plus + norm.pdf(h + 1) - minus
        return (moments - plus + minus) / (plus + minus)

    result = expected_minimum_probability([right, -0.4], [1, -1])
    np.testing.assert_allclose(result.optimal, [closed(right), -closed(0.4)], rtol=1e-12)


@pytest.mark.parametrize(
    ("places", "normals"),
    [
        ([0.5, 0.5, -1.0], [1, 1, -1]),
        ([0.0, 0.0, 1.0, 1.0], [1, -1, 1, -1]),
        ([0.3, 0.3, 0.3, -0.2, 0.9], [-1, -1, 1, 1, -1]),
        ([-0.7, -0.7, -0.7], [-1, -1, -1]),
    ],
)
def test_a_singular_system_is_solved_by_the_least_change(places, normals):
    result = expected_minimum_probability(places, normals)
    matrix, vector = dense_system(np.array(places), np.array(normals), PAPER)
    change = np.linalg.pinv(matrix, rcond=1e-9) @ (vector - matrix @ places)
    assert not result.unique
    np.testing.assert_allclose(result.optimal, places + change, atol=1e-8)


def test_units_that_meet_at_one_place_only_leave_the_system_regular():
    places, normals = np.array([0.0, 0.0, 0.7]), np.array([1.0, -1.0, 1.0])
    result = expected_minimum_probability(places, normals)
    matrix, vector = dense_system(places, normals, PAPER)
    assert result.unique
    np.testing.assert_allclose(result.optimal, np.linalg.solve(matrix, vector), atol=1e-9)


def test_dozens_of_units_satisfy_the_dense_system():
    """Stationarity: the residual does not grow with the condition of F, of 4e3 and more here."""
    places, normals = np.linspace(-3, 3, 60), np.repeat([-1.0, 1.0], 30)
    for shift in (0.0, 1.3):
        result = expected_minimum_probability(places + shift, normals)
        matrix, vector = dense_system(places + shift, normals, PAPER)
        np.testing.assert_allclose(matrix @ result.optimal, vector, atol=1e-9)


# ---- probabilities -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_gaps_and_their_union_are_those_of_quadrature(seed):
    places, normals = random_units(seed, 4)
    result = expected_minimum_probability(places, normals, num_samples=7, **options(SKEWED))
    pairs = [tuple(sorted(p)) for p in zip(places, result.optimal, strict=True)]
    masses = [integral(lambda x, y: 1.0, *pair, SKEWED) for pair in pairs]
    union = merged_length_mass(pairs, SKEWED)
    np.testing.assert_allclose(result.gaps, masses, atol=1e-10)
    np.testing.assert_allclose([result.gap, result.gap_union], [max(masses), union], atol=1e-10)
    assert result.probability == pytest.approx((1 - max(masses)) ** 7, abs=1e-9)
    assert result.probability_union == pytest.approx((1 - union) ** 7, abs=1e-9)


def test_the_papers_probability_is_never_below_the_unions():
    places = np.random.default_rng(3).uniform(-4, 4, (200, 5))
    result = expected_minimum_probability(places, [1, -1, 1, 1, -1])
    assert (result.probability >= result.probability_union).all()
    assert (result.gap <= result.gap_union).all()
    assert (result.gap_union <= np.minimum(result.gaps.sum(axis=-1), 1.0) + 1e-15).all()


def test_unions_of_nested_disjoint_and_equal_intervals():
    low, high = np.array([[-2.0, -1.0, 1.0, 1.0, 3.0]]), np.array([[0.5, 0.0, 2.0, 2.0, 3.0]])
    expected = sum(integral(lambda x, y: 1.0, *i, PAPER) for i in ((-2.0, 0.5), (1.0, 2.0)))
    assert mass_of_union(low, high, PAPER)[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("places", "normals", "count"),
    [
        ([0.8, -0.6], [1, -1], 20),
        ([4.5, -4.0], [1, -1], 100),
        ([0.72, 0.0], [1, -1], 5),
        ([-1.5, -0.5, 0.3, 1.6], [-1, -1, 1, 1], 3),
        ([0.5, 0.0, -0.6], [-1, 1, 1], 3),
    ],
)
def test_the_unions_probability_is_the_share_of_draws_without_a_sample_in_a_gap(
    places, normals, count
):
    """A binomial share of 20,000 draws: within four standard deviations of the exact probability."""
    result = expected_minimum_probability(places, normals, num_samples=count)
    expected = float(result.probability_union)
    assert 0.02 < expected < 0.98
    x, _ = draw(np.random.default_rng(1), (20_000, count))
    share = float(no_sample_in_gaps(x, result).mean())
    assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / 20_000)


def test_a_certain_sample_in_a_gap_and_a_tiny_gap_need_no_special_case():
    probabilities = none_of(10**6, np.array([1.0, 0.0, 1e-18]))
    np.testing.assert_allclose(probabilities, [0.0, 1.0, 1.0 - 1e-12], rtol=1e-15)


@pytest.mark.parametrize("far", [30.0, 40.0, 1e3, 1e8, 1e50])
def test_far_locations_give_finite_answers(far):
    """Right of a far unit x̄ = h + 1 / (h - 1) + ... and all labels are 1: h* is about h - 1."""
    result = expected_minimum_probability([far, -far], [1, -1])
    assert result.probability == 1.0
    if far <= 1e8:
        np.testing.assert_allclose(result.optimal, [far - 1, 1 - far], atol=1.1 / (far - 1))
    for normals in ([1, 1], [-1, 1], [-1, -1]):
        other = expected_minimum_probability([far, -far], normals)
        for values in (other.optimal, other.gaps, other.probability, other.probability_union):
            assert np.isfinite(values).all()


@pytest.mark.parametrize(
    ("means", "sd"),
    [((1e3, -1e3), 1e-3), ((0, 0), 1.0), ((1e50, -1e50), 1e-50), ((1, -1), 1e50), ((5, -5), 0.01)],
)
@pytest.mark.parametrize("normals", [[1, -1], [-1, 1], [1, 1]])
def test_extreme_mixtures_give_finite_answers(means, sd, normals):
    places = [[0.5, -0.5], [1e3, 2e3], [-5.0, 5.0], [1e50, 0.0], [2.0, 2.0]]
    result = expected_minimum_probability(places, normals, means=means, sd=sd)
    for values in (result.optimal, result.gaps, result.probability, result.probability_union):
        assert np.isfinite(values).all()


# ---- invariances ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_permuting_units_permutes_the_answer(seed):
    places, normals = random_units(seed, 5)
    order = np.random.default_rng(seed).permutation(5)
    one = expected_minimum_probability(places, normals)
    two = expected_minimum_probability(places[order], normals[order])
    np.testing.assert_array_equal(one.optimal[order], two.optimal)
    np.testing.assert_array_equal(one.gaps[order], two.gaps)
    assert one.probability_union == pytest.approx(float(two.probability_union), rel=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_reflecting_line_and_labels_reflects_the_answer(seed):
    """x - h becomes -(x - h) with the label: the loss is unchanged, and z = n with it."""
    places, normals = random_units(seed, 5)
    one = expected_minimum_probability(places, normals, **options(SKEWED))
    given = options(SKEWED) | {"means": -SKEWED.means, "labels": -SKEWED.labels}
    two = expected_minimum_probability(-places, -normals, **given)
    np.testing.assert_allclose(two.optimal, -one.optimal, rtol=1e-8)
    np.testing.assert_allclose(two.gaps, one.gaps, atol=1e-9)


def test_scaling_line_labels_and_width_scales_the_locations():
    places, normals = random_units(4, 4)
    one = expected_minimum_probability(places, normals, **options(SKEWED))
    given = options(SKEWED) | {"means": 3 * SKEWED.means, "labels": 3 * SKEWED.labels, "sd": 1.8}
    two = expected_minimum_probability(3 * places, normals, **given)
    np.testing.assert_allclose(two.optimal, 3 * one.optimal, rtol=1e-9)
    np.testing.assert_allclose(two.gaps, one.gaps, atol=1e-10)


def test_a_batch_is_its_rows():
    places = np.random.default_rng(5).uniform(-3, 3, (2, 3, 4))
    places[1, 2, 1] = places[1, 2, 3]
    normals = [1, -1, 1, -1]
    batch = expected_minimum_probability(places, normals)
    assert batch.probability.shape == (2, 3)
    for at in np.ndindex(2, 3):
        one = expected_minimum_probability(places[at], normals)
        np.testing.assert_array_equal(batch.optimal[at], one.optimal)
        assert batch.probability_union[at] == one.probability_union
        assert batch.unique[at] == one.unique


# ---- the paper's figures, and what the probability says -----------------------------------------


def test_figure_2d_shows_the_moved_units_gap_alone():
    """With the second unit at 0, its own gap (-0.48, 0) holds 11.7 % of the mass: P_t < 4e-6.

    The published curve peaks at the best location and tends to 1; so does the moved unit's own.
    """
    curve = probability_curve([0.0, 0.0], [1, -1], np.linspace(0, 6, 601), moved=[0])
    own = curve.unit_probability[:, 0]
    peak = int(np.argmax(own[:200]))
    assert curve.probability.max() < 4e-6
    assert curve.shifts[peak] == pytest.approx(0.73, abs=0.02)
    assert own[peak] > 0.95
    assert own[-1] > 0.999
    assert own[100:300].min() < 1e-3


def test_figure_2e_is_a_product_of_units_with_all_gaps():
    """Side by side the gaps are disjoint, so that 1 - g1 - g2 <= (1 - g1)(1 - g2)."""
    shifts = np.linspace(0, 6, 13)
    grid = np.stack(np.meshgrid(shifts, -shifts, indexing="ij"), axis=-1)
    result = expected_minimum_probability(grid, [1, -1])
    assert (result.probability_union <= result.unit_probability.prod(axis=-1) + 1e-12).all()
    np.testing.assert_allclose(result.probability, result.unit_probability.min(axis=-1))


def share_with_minimum(places, normals, count: int, draws: int) -> float:
    """Share of draws whose own loss has a minimum in the cell of the locations."""
    rng = np.random.default_rng(2)
    places, normals = np.array(places), np.array(normals)
    return float(np.mean([holds_minimum(places, normals, *draw(rng, count)) for _ in range(draws)]))


@pytest.mark.parametrize(
    ("places", "normals", "theory", "share"),
    [
        ([0.732], [1], 0.997, 0.245),
        ([3.0], [1], 0.043, 0.41),
        ([2.0], [1], 0.0007, 0.03),
        ([0.732, -0.732], [1, -1], 0.997, 0.06),
    ],
)
def test_the_theory_is_no_predictor_of_the_samples_own_minima(places, normals, theory, share):
    """Neither an upper nor a lower bound: measured with at least 4000 draws, here 1000."""
    result = expected_minimum_probability(places, normals)
    assert result.probability == pytest.approx(theory, rel=0.03)
    error = np.sqrt(share * (1 - share) / 1000)
    assert share_with_minimum(places, normals, 100, 1000) == pytest.approx(share, abs=4 * error)


def test_far_from_the_data_theory_and_samples_agree_that_there_is_a_minimum():
    assert expected_minimum_probability([6.0], [1]).probability > 0.998
    assert share_with_minimum([6.0], [1], 100, 200) > 0.99


def test_at_the_best_location_the_share_of_draws_with_a_minimum_falls_as_one_over_the_root():
    """0.42, 0.25, 0.13, 0.06 at 25, 100, 400 and 1600 samples: about 2.4 / sqrt(N)."""
    for count in (25, 100, 400):
        share = share_with_minimum([0.732], [1], count, 1000)
        assert share * np.sqrt(count) == pytest.approx(2.35, rel=0.25)


def test_curves_shift_the_units_that_are_named():
    start, normals = [-0.05, 0.0, 0.05, 0.1], [-1, -1, 1, 1]
    curve = probability_curve(start, normals, [0.0, 0.5], moved=[3])
    one = expected_minimum_probability([-0.05, 0.0, 0.05, 0.6], normals)
    assert curve.probability[1] == one.probability
    np.testing.assert_array_equal(curve.unit_probability[1], one.unit_probability)
    both = probability_curve(start, normals, [0.5])
    every = expected_minimum_probability(np.add(start, 0.5), normals)
    assert both.probability_union[0] == every.probability_union


# ---- what comes in and out -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("places", "normals", "given", "message"),
    [
        ([0.0, np.nan], [1, 1], {}, "locations must be finite"),
        ([0.0, np.inf], [1, 1], {}, "locations must be finite"),
        (0.0, [1], {}, "locations must hold at least one number"),
        ([], [], {}, "locations must hold at least one number"),
        ([[0.0], [1.0, 2.0]], [1], {}, "locations must be a rectangular array"),
        (["a"], [1], {}, "locations must be real numbers"),
        ([0.0, 1.0], [1], {}, "normals must have one entry for each unit"),
        ([0.0, 1.0], [1, 0.5], {}, "normals must be 1 or -1; received 0.5"),
        ([0.0], [0], {}, "normals must be 1 or -1"),
        ([0.0], [1], {"num_samples": 0}, "num_samples must be a whole number of at least 1"),
        ([0.0], [1], {"num_samples": 2.5}, "num_samples must be a whole number of at least 1"),
        ([0.0], [1], {"sd": 0.0}, "sd must be a positive number"),
        ([0.0], [1], {"sd": -1.0}, "sd must be a positive number"),
        ([0.0], [1], {"sd": [1.0, 2.0]}, "sd must be a positive number"),
        ([0.0], [1], {"sd": np.nan}, "sd must be finite"),
        ([0.0], [1], {"means": [1.0]}, "means must be two numbers"),
        ([0.0], [1], {"labels": [1.0, np.nan]}, "labels must be finite"),
        ([0.0], [1], {"priors": [0.5, 0.6]}, "priors must be positive and add up to 1"),
        ([0.0], [1], {"priors": [1.0, 0.0]}, "priors must be positive and add up to 1"),
    ],
)
def test_bad_input_is_refused_in_one_line(places, normals, given, message):
    with pytest.raises(InputError, match=message) as caught:
        expected_minimum_probability(places, normals, **given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("moved", [[2], [-1], [0.5], [[0]]])
def test_curves_refuse_units_that_are_not_there(moved):
    with pytest.raises(InputError, match="moved must be numbers of units below 2"):
        probability_curve([0.0, 1.0], [1, 1], [0.0], moved=moved)


def test_curves_refuse_tables():
    with pytest.raises(InputError, match="one row of numbers each"):
        probability_curve([[0.0, 1.0]], [1, 1], [0.0])


@pytest.mark.parametrize("places", [[0.5, -0.5], [[0.5, -0.5], [1.0, 1.0]]])
def test_results_are_saved_and_shown(places, tmp_path):
    result = expected_minimum_probability(places, [1, -1])
    back = MinimumProbability.load(result.save(tmp_path / "result.nc"))
    np.testing.assert_array_equal(back.probability, result.probability)
    np.testing.assert_array_equal(back.unique, result.unique)
    assert back.unit_probability.shape == result.locations.shape
    assert "\n" not in repr(result)
    assert "probability" in result.summary()
    points, line = result.plot().data
    np.testing.assert_array_equal(points.x, result.locations.ravel())
    np.testing.assert_array_equal(points.y, result.optimal.ravel())
    assert line.x == line.y


def test_a_single_probability_is_shown_as_a_number():
    result = expected_minimum_probability([40.0], [1])
    assert "probability=1," in repr(result)
    assert "unique=True" in repr(result)


def test_curves_are_saved_and_drawn(tmp_path):
    curve = probability_curve([0.5, -0.5], [1, -1], [0.0, 0.1, 0.2])
    back = ProbabilityCurve.load(curve.save(tmp_path / "curve.nc"))
    np.testing.assert_array_equal(back.unit_probability, curve.unit_probability)
    largest, union = curve.plot().data
    np.testing.assert_array_equal(largest.y, curve.probability)
    np.testing.assert_array_equal(union.y, curve.probability_union)
