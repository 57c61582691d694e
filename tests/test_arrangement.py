"""A unit's cells against linear programs for all sign vectors, counts in fractions, and sampling."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from itertools import combinations, product
from math import comb

import numpy as np
import pytest
from scipy.optimize import linprog

import reluscape.arrangement as arrangement
from reluscape.arrangement import UnitCells, count_cells, enumerate_cells
from reluscape.errors import AnalysisError, InputError


def gaussian(count: int, params: int, *, seed: int = 0) -> np.ndarray:
    """Normal inputs and a column of ones."""
    rng = np.random.default_rng(seed)
    return np.hstack([rng.normal(size=(count, params - 1)), np.ones((count, 1))])


def grid(points: Iterable[float], inputs: int) -> np.ndarray:
    """All points of a grid, and a column of ones."""
    return np.array([[*point, 1.0] for point in product(points, repeat=inputs)])


def awkward(seed: int, params: int) -> np.ndarray:
    """Eight small integer rows with repetitions, multiples, a sum, and a zero row now and then."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(-2, 3, (4, params)).astype(float)
    more = [rows[0], -3.0 * rows[1], 0.5 * rows[2], rows[0] + rows[3]]
    return rng.permutation(np.vstack([rows, more]))


def signs_by_linear_programs(features: np.ndarray) -> set[tuple[bool, ...]]:
    """Sign vectors with a point that has them, out of all of them.

    A row is positive, or negative, or constant and then not positive; the margin is maximised.
    """
    found, moving = set(), features.any(axis=1)
    size = features.shape[1]
    for signs in product([False, True], repeat=len(features)):
        if any(sign and not moves for sign, moves in zip(signs, moving, strict=True)):
            continue
        inward = np.where(np.array(signs)[moving, None], features[moving], -features[moving])
        answer = linprog(
            np.append(np.zeros(size), -1.0),
            A_ub=np.hstack([-inward, np.ones((len(inward), 1))]), b_ub=np.zeros(len(inward)),
            bounds=[(None, None)] * size + [(0.0, 1.0)],
        )  # fmt: skip
        if -answer.fun > 0.5:
            found.add(signs)
    return found


def exact_count(features: np.ndarray) -> int:
    """Number of cells by deletion and restriction in fractions: r(A) = r(A - H) + r(A on H)."""
    return regions({scaled([Fraction(value) for value in row]) for row in features.tolist()})


def scaled(row: list[Fraction]) -> tuple[Fraction, ...]:
    """The row divided by its first entry that is not zero."""
    head = next((value for value in row if value), Fraction(1))
    return tuple(value / head for value in row)


def regions(rows: set[tuple[Fraction, ...]]) -> int:
    rows = {row for row in rows if any(row)}
    total, before = 1, []
    for row in sorted(rows):  # hyperplane by hyperplane: what it cuts is doubled
        total += regions({on(row, other) for other in before})
        before.append(row)
    return total


def on(row: tuple[Fraction, ...], other: tuple[Fraction, ...]) -> tuple[Fraction, ...]:
    """Another row on the hyperplane of the first, in all coordinates but its first."""
    at = next(k for k, value in enumerate(row) if value)
    rest = [b - other[at] / row[at] * a for a, b in zip(row, other, strict=True)]
    return scaled(rest[:at] + rest[at + 1 :])


def listed(cells: UnitCells) -> set[tuple[bool, ...]]:
    return {tuple(row) for row in cells.unpack().tolist()}


def check(features: np.ndarray, cells: UnitCells) -> None:
    """Whatever the features: no cell twice, its point inside, its negative there, margins as told."""
    signs = cells.unpack()
    assert signs.shape == (len(cells), len(features))
    assert len(listed(cells)) == len(cells)
    values = cells.points @ features.T
    np.testing.assert_array_equal(signs, values > 0)
    moving = features.any(axis=1)
    np.testing.assert_array_equal(cells.first < 0, ~moving)
    if moving.any():
        half = len(cells) // 2
        np.testing.assert_array_equal(signs[:half, moving], ~signs[half:, moving])
        np.testing.assert_array_equal(cells.points[:half], -cells.points[half:])
        assert signs[:half, np.argmax(moving)].all()
        sizes = np.abs(cells.points) @ np.abs(features).T
        margins = np.abs(values[:, moving] / sizes[:, moving]).min(axis=1)
        np.testing.assert_allclose(cells.margins, margins, rtol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(cells.points, axis=1), 1.0)


# ---- counts -------------------------------------------------------------------------------------


def test_counts_are_zaslavskys():
    assert [count_cells(n, 2) for n in range(5)] == [1, 2, 4, 6, 8]
    assert [count_cells(n, 3) for n in range(5)] == [1, 2, 4, 8, 14]
    assert [count_cells(n, 2, central=False) for n in range(5)] == [1, 2, 4, 7, 11]
    assert [count_cells(n, 1) for n in range(4)] == [1, 2, 2, 2]
    assert [count_cells(n, 1, central=False) for n in range(4)] == [1, 2, 3, 4]
    assert [count_cells(n, 0) for n in range(3)] == [1, 1, 1]
    assert count_cells(100, 3) == 9902
    assert count_cells(100, 4) == 323600


@pytest.mark.parametrize("count", [1, 3, 7])
@pytest.mark.parametrize("dimension", [1, 2, 3, 9])
def test_counts_follow_deletion_and_restriction(count, dimension):
    for central in (True, False):
        less, lower = count_cells(count - 1, dimension, central=central), dimension - 1
        # a first hyperplane through the origin cuts the whole space, whose restriction is one cell
        on = count_cells(count - 1, lower, central=central) if lower or not central else count == 1
        assert count_cells(count, dimension, central=central) == less + on


def test_counts_are_exact_where_floats_are_not():
    whole = count_cells(12665, 785)
    assert whole == 2 * sum(comb(12664, i) for i in range(785))
    assert count_cells(500, 500) == 2**500
    assert count_cells(500, 600, central=False) == 2**500


@pytest.mark.parametrize(("hyperplanes", "dimension"), [(-1, 2), (2, -1), (2.5, 2), (True, 2)])
def test_counts_of_nonsense_are_refused(hyperplanes, dimension):
    with pytest.raises(InputError, match="whole number"):
        count_cells(hyperplanes, dimension)


# ---- enumeration --------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "params"), [(7, 1), (7, 2), (8, 3), (8, 4), (7, 5), (9, 3)])
def test_cells_are_those_of_linear_programs(count, params):
    features = gaussian(count, params, seed=params)
    cells = enumerate_cells(features)
    check(features, cells)
    assert listed(cells) == signs_by_linear_programs(features)


@pytest.mark.parametrize("params", [2, 3, 4])
@pytest.mark.parametrize("seed", range(2))
def test_cells_of_awkward_rows_are_those_of_linear_programs(seed, params):
    features = awkward(seed, params)
    cells = enumerate_cells(features)
    check(features, cells)
    assert listed(cells) == signs_by_linear_programs(features)


@pytest.mark.parametrize(
    ("count", "params"), [(100, 2), (100, 3), (40, 4), (20, 5), (14, 7), (9, 12), (65, 3), (64, 3)]
)
def test_as_many_cells_as_the_formula_says(count, params):
    features = gaussian(count, params)
    cells = enumerate_cells(features)
    check(features, cells)
    rank = min(count, params)
    assert len(cells) == count_cells(count, params) == count_cells(count, rank)


@pytest.mark.parametrize(
    ("features", "exact"),
    [
        (grid(range(-3, 4), 2), None),
        (grid(np.linspace(-0.3, 0.7, 6), 2), grid(range(6), 2)),
        (grid(range(3), 3), None),
        (grid([0.1, 0.3, 0.7], 3), grid([1, 3, 7], 3)),
        (grid(range(2), 4), None),
        (1e6 * grid(range(4), 2) @ np.diag([1e-9, 1.0, 1e5]), grid(range(4), 2)),
        (np.vstack([np.eye(5), 1.0 - np.eye(5), np.ones((1, 5))]), None),
        (np.array(list(product((-1.0, 0.0, 1.0), repeat=3))), None),
    ],
    ids=["plane", "decimals", "space", "decimal space", "hypercube", "units", "simplex", "all"],
)
def test_cells_of_grids_are_as_many_as_in_fractions(features, exact):
    """Decimals and other units are nodes of the exact grid but for rounding."""
    cells = enumerate_cells(features)
    check(features, cells)
    kinks = len(np.unique(cells.first[cells.first >= 0]))
    assert len(cells) == exact_count(features if exact is None else exact)
    assert len(cells) < count_cells(kinks, np.linalg.matrix_rank(features))


@pytest.mark.parametrize("seed", range(12))
def test_cells_of_small_integers_are_as_many_as_in_fractions(seed):
    rng = np.random.default_rng(seed)
    params = 2 + seed % 4
    features = rng.integers(-2, 3, ([40, 25, 14, 10][params - 2], params)).astype(float)
    cells = enumerate_cells(features)
    check(features, cells)
    assert len(cells) == exact_count(features)


@pytest.mark.parametrize("params", [3, 4])
def test_no_direction_has_signs_that_are_not_listed(params):
    features = gaussian(30, params, seed=5)
    known = listed(enumerate_cells(features))
    rng = np.random.default_rng(0)
    for _ in range(5):
        signs = rng.normal(size=(4000, params)) @ features.T > 0
        assert {tuple(row) for row in signs.tolist()} <= known


def test_duplicates_and_multiples_share_a_hyperplane():
    single = gaussian(6, 3)
    features = np.vstack([single, single[1], -2.0 * single[2], 1e-30 * single[3], 1e30 * single[0]])
    cells = enumerate_cells(features)
    check(features, cells)
    np.testing.assert_array_equal(cells.first, [0, 1, 2, 3, 4, 5, 1, 2, 3, 0])
    assert len(cells) == count_cells(6, 3)
    signs = cells.unpack()
    np.testing.assert_array_equal(signs[:, 7], ~signs[:, 2])
    np.testing.assert_array_equal(signs[:, [6, 8, 9]], signs[:, [1, 3, 0]])


def test_rows_of_zeros_are_constant_kinks():
    features = gaussian(5, 3)
    features[[0, 3]] = 0.0
    cells = enumerate_cells(features)
    check(features, cells)
    assert len(cells) == count_cells(3, 3) == 8
    assert not cells.unpack()[:, [0, 3]].any()


@pytest.mark.parametrize("features", [np.empty((0, 3)), np.zeros((4, 3))])
def test_without_hyperplanes_there_is_one_cell(features):
    cells = enumerate_cells(features)
    check(features, cells)
    assert len(cells) == 1
    assert cells.margins.tolist() == [1.0]
    assert len(cells.contacts().kinks) == 0


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_features_of_low_rank(rank):
    rng = np.random.default_rng(rank)
    features = rng.normal(size=(12, rank)) @ rng.normal(size=(rank, 5))
    cells = enumerate_cells(features)
    check(features, cells)
    assert len(cells) == count_cells(12, rank)


def test_far_data_in_odd_units_have_the_cells_of_the_centred_ones():
    near = gaussian(20, 4, seed=3)
    far = near @ np.array([[1e-6, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1e8, 0], [1e-3, 500.0, 0, 1]])
    cells = enumerate_cells(far)
    check(far, cells)
    assert listed(cells) == listed(enumerate_cells(near))


def test_the_order_of_samples_changes_nothing_but_the_order():
    features = awkward(1, 4)
    order = np.random.default_rng(0).permutation(len(features))
    here, there = enumerate_cells(features), enumerate_cells(features[order])
    assert {tuple(np.array(row)[order].tolist()) for row in listed(here)} == listed(there)


def test_rounding_does_not_make_cells():
    """Points on a line that does not go through floats, and copies that differ in the last bit."""
    t = np.linspace(0.0, 1.0, 12)
    line = np.column_stack([0.1 + 0.3 * t, 0.7 - 1.1 * t, np.ones(12)])
    cells = enumerate_cells(line)
    check(line, cells)
    assert len(cells) == 24  # the lines through one point: as for 12 points on an axis
    twice = np.vstack([gaussian(6, 3), np.nextafter(gaussian(6, 3), 9.0)])
    assert len(enumerate_cells(twice)) == count_cells(6, 3)


@pytest.mark.parametrize("params", [3, 4])
def test_a_cluster_far_smaller_than_the_data_is_resolved(params):
    """Four of nine points within 1e-7: volumes of 1e-14 and less that are no rounding."""
    rng = np.random.default_rng(params)
    features = gaussian(9, params)
    features[5:, :-1] = features[5, :-1] + 1e-7 * rng.normal(size=(4, params - 1))
    cells = enumerate_cells(features)
    check(features, cells)
    assert len(cells) == count_cells(9, params) == exact_count(features)


def test_cells_too_narrow_for_a_point_are_an_error_and_none_is_made_up():
    """A hundred perturbed cubes around the limit: an error, or signs that their points have."""
    errors = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        features = grid(range(2), 3)
        features[:, :-1] += 10.0 ** rng.integers(-17, -8) * rng.normal(size=(8, 3))
        try:
            cells = enumerate_cells(features)
        except AnalysisError:
            errors += 1
        else:
            check(features, cells)
    assert 0 < errors < 50


# ---- contacts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "features",
    [gaussian(9, 3), awkward(2, 3), awkward(3, 4), gaussian(5, 2), np.ones((2, 1))],
    ids=["general", "awkward", "awkward 4", "plane", "line"],
)
def test_contacts_are_single_flips(features):
    cells = enumerate_cells(features)
    signs, first = cells.unpack(), cells.first
    expected = set()
    for a, b in combinations(range(len(cells)), 2):
        kinks = {int(k) for k in first[signs[a] != signs[b]]}
        if len(kinks) == 1:
            (kink,) = kinks
            expected.add((b, a, kink) if signs[a, kink] else (a, b, kink))
    found = cells.contacts()
    told = list(zip(*found.cells.T.tolist(), found.kinks.tolist(), strict=True))
    assert len(set(told)) == len(told)
    assert set(told) == expected


def test_contacts_in_general_position_are_as_many_as_cells_on_the_hyperplanes():
    found = enumerate_cells(gaussian(30, 4)).contacts()
    assert len(found.kinks) == 30 * count_cells(29, 3)


@pytest.mark.parametrize("features", [grid(range(4), 2), grid(range(3), 3)])
def test_contacts_connect_all_cells(features):
    cells = enumerate_cells(features)
    group = np.arange(len(cells))
    pairs = cells.contacts().cells
    for _ in range(len(cells)):
        lowest = group.copy()
        np.minimum.at(lowest, pairs[:, 0], group[pairs[:, 1]])
        np.minimum.at(lowest, pairs[:, 1], group[pairs[:, 0]])
        if (lowest == group).all():
            break
        group = lowest
    assert (group == 0).all()


# ---- what is refused and told -------------------------------------------------------------------


def test_too_many_cells_are_refused_before_work(monkeypatch):
    with pytest.raises(
        InputError, match=r"323600 cells of 100 hyperplanes in 4 dim.*received 1000"
    ):
        enumerate_cells(gaussian(100, 4), max_cells=1000)
    monkeypatch.setattr(arrangement, "MAX_BYTES", 1000)
    with pytest.raises(InputError, match="at most 1000 bytes"):
        enumerate_cells(gaussian(40, 3))


@pytest.mark.parametrize(
    ("features", "match"),
    [
        (np.ones(3), "shape"),
        (np.ones((3, 0)), "at least one parameter"),
        (np.array([[1.0, np.nan]]), "sample 0"),
        ([["a"]], "real numbers"),
    ],
)
def test_bad_features_are_refused(features, match):
    with pytest.raises(InputError, match=match):
        enumerate_cells(features)


def test_progress_ends_at_one():
    told: list[float] = []
    enumerate_cells(gaussian(10, 3), progress=lambda _, share: told.append(share))
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_results_save_load_and_plot(tmp_path):
    cells = enumerate_cells(gaussian(9, 3))
    again = UnitCells.load(cells.save(tmp_path / "cells.nc"))
    np.testing.assert_array_equal(again.packed, cells.packed)
    np.testing.assert_array_equal(again.points, cells.points)
    np.testing.assert_array_equal(again.unpack([3, 0]), cells.unpack()[[3, 0]])
    assert "\n" not in repr(cells)
    (histogram,) = cells.plot().data
    np.testing.assert_array_equal(histogram.x, np.log10(cells.margins))
    contacts = cells.contacts()
    (histogram,) = contacts.plot().data
    assert sum(histogram.x) == 2 * len(contacts.kinks)
