"""Least squares over cones from nearly parallel columns, against fractions over all sets of columns."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from gauss import solved
from torch import nn

from reluscape import Landscape, merge_tree, verify
from reluscape.trees import exact_columns, size, values
from reluscape.trees.by_columns import least_by_columns
from reluscape.trees.exact_ray import exact_ray
from reluscape.trees.layer import Layer
from reluscape.trees.nonnegative import is_least, least_squares
from reluscape.trees.problem import Problem
from reluscape.trees.products import table_of
from reluscape.trees.stubborn import Stubborn
from reluscape.trees.threads import Threads
from reluscape.trees.values import least_values

Exact = list[Fraction]


def least(design: np.ndarray, target: np.ndarray) -> Fraction:
    """The least square over the cone: of all sets of columns, the best whose lengths are positive."""
    columns = [[Fraction(value) for value in row] for row in design.tolist()]
    wanted = [Fraction(value) for value in target.tolist()]
    best = sum((value * value for value in wanted), Fraction(0))
    for used in range(1, len(columns) + 1):
        for chosen in combinations(columns, used):
            gram = [[product(one, other) for other in chosen] for one in chosen]
            lengths = solved(gram, [product(one, wanted) for one in chosen])
            if lengths is not None and min(lengths) >= 0:
                made = [product(lengths, list(row)) for row in zip(*chosen, strict=True)]
                left = [a - b for a, b in zip(wanted, made, strict=True)]
                best = min(best, product(left, left))
    return best


def product(one: Exact, other: Exact) -> Fraction:
    return sum((a * b for a, b in zip(one, other, strict=True)), Fraction(0))


def nearly_parallel(seed: int, gap: float) -> tuple[np.ndarray, np.ndarray]:
    """Columns (4, 6), two of which nearly take each other away, and a target that wants them to."""
    rng = np.random.default_rng(seed)
    design, target = rng.normal(size=(4, 6)), rng.normal(size=6)
    design[1] = -design[0] + gap * rng.normal(size=6)
    if seed % 2:
        design[3] = 0.5 * design[2] + gap * rng.normal(size=6)
    return design, target


def by_products(design: np.ndarray, target: np.ndarray) -> tuple[float, bool]:
    """The least square as products have it, and whether they tell it."""
    count, size = len(design), float(target @ target)
    gram, right, reach = design @ design.T, design @ target, float(np.linalg.norm(design))
    solution, factor, free = np.empty(count), np.empty((count, count)), np.empty(count, np.int64)
    room: tuple[Any, ...] = np.empty(count), np.empty(count, np.bool_)
    value, used = least_squares(gram, right, count, size, solution, factor, free, *room)
    told = is_least(
        gram, right, count, size, value, solution, factor, free, used, *room, False, reach
    )
    return size + 2.0 * value, bool(told)


@pytest.mark.parametrize("gap", [1.0, 1e-2, 1e-4, 1e-6, 1e-8, 1e-10])
@pytest.mark.parametrize("seed", range(12))
def test_what_is_told_is_least_among_all_sets_of_columns(seed: int, gap: float) -> None:
    design, target = nearly_parallel(seed, gap)
    exact, size = float(least(design, target)), float(target @ target)
    reach = float(np.linalg.norm(design))
    starts = (
        np.zeros(4),
        np.ones(4),
        np.array([0.0, 1e3, 0.0, 1.0]),
        np.array([1e11, 1.0, 1e10, 0.0]),
    )
    for start in starts:
        lengths, free = start.copy(), np.empty(4, dtype=np.int64)
        found, used, told = least_by_columns(design, target, reach, lengths, free)
        if not told:
            continue
        assert found == pytest.approx(exact, abs=1e-10 * size)
        assert ((target - lengths @ design) ** 2).sum() == pytest.approx(found, abs=1e-12 * size)
        assert (lengths >= 0).all()
        np.testing.assert_array_equal(np.sort(free[:used]), np.flatnonzero(lengths))
        np.testing.assert_array_equal(np.sort(free), np.arange(4))


def test_columns_tell_most_of_what_products_do_not() -> None:
    told = []
    for seed in range(12):
        for gap in (1e-4, 1e-5, 1e-6):
            design, target = nearly_parallel(seed, gap)
            if not by_products(design, target)[1]:
                room = np.zeros(4), np.empty(4, dtype=np.int64)
                told.append(least_by_columns(design, target, np.linalg.norm(design), *room)[2])
    assert len(told) > 10
    assert np.mean(told) > 0.5


def test_lengths_beyond_what_columns_tell_are_not_told() -> None:
    design = np.array([[1.0, 0.0], [-1.0, 1e-8]])
    found, _, told = least_by_columns(
        design, np.array([0.0, 1.0]), 2.0, np.zeros(2), np.empty(2, dtype=np.int64)
    )
    assert found == pytest.approx(0.0, abs=1e-6)
    assert not told


def test_no_cell_of_a_layer_with_many_minima_needs_rational_arithmetic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(3)
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    model[2].weight.data = torch.tensor([[1.0, -1.5]], dtype=torch.float64)
    block = Landscape(model, rng.normal(size=(14, 2)), rng.normal(size=(14, 1))).block(0)

    def refused(*told: Any) -> None:
        raise AssertionError("solved in rational arithmetic")

    monkeypatch.setattr(Stubborn, "solve", refused)
    tree = merge_tree(block)
    assert len(tree.losses) > 20
    assert tree.num_failed == 0
    assert verify(tree, block.landscape).valid


def nearly_equal() -> Problem:
    """A layer of two units and eight samples, two of them nearly equal."""
    rng = np.random.default_rng(5)
    inputs = rng.normal(size=(8, 1))
    inputs[1] = inputs[0] + 1e-9
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    model[2].weight.data = torch.tensor([[1.0, -1.5]], dtype=torch.float64)
    return Problem.of(Layer.of(Landscape(model, inputs, rng.normal(size=(8, 1))).block(0)), None)


def test_what_a_ray_puts_out_is_found_once_for_all_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, found = nearly_equal(), list[int]()

    def counted(problem: Problem, ray: int, *told: Any) -> Any:
        found.append(ray)
        return exact_ray(problem, ray, *told)

    monkeypatch.setattr(exact_columns, "exact_ray", counted)
    monkeypatch.setattr(values, "SHARE", 20)
    with Threads.start(1) as threads:
        least_values(problem, table_of(problem), threads)
    assert len(found) > 5
    assert len(found) == len(set(found))


def test_columns_that_are_forgotten_are_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = nearly_equal()
    with Threads.start(1) as threads:
        known = least_values(problem, table_of(problem), threads)
        monkeypatch.setattr(exact_columns, "HELD", 0)
        again = least_values(problem, table_of(problem), threads)
    np.testing.assert_array_equal(again.cells, known.cells)
    np.testing.assert_array_equal(again.facets, known.facets)


def test_what_float64_does_not_decide_is_counted_for_the_estimate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem, solved = nearly_equal(), Counter[str]()
    table, solve = table_of(problem), Stubborn.solve

    def counted(self: Stubborn, kind: str, code: int) -> Any:
        solved[kind] += 1
        return solve(self, kind, code)

    monkeypatch.setattr(Stubborn, "solve", counted)
    with Threads.start(1) as threads:
        least_values(problem, table, threads)
    for kind, count in (("cells", problem.num_cells), ("facets", problem.num_facets)):
        seen = size._seen(problem, table, kind, count, 1e-9)
        assert seen.undecided == len(seen.codes) == solved[kind] > 0


@pytest.mark.parametrize(("count", "places"), [(5, 3), (100, 7), (10**9, 12)])
def test_places_of_an_estimate_are_apart(count: int, places: int) -> None:
    parts = size._parts("cells", count, places, 4)
    ends = [end for part in parts for end in (part.start, part.stop)]
    assert ends == sorted(ends)
    assert ends[0] >= 0
    assert ends[-1] <= count
    assert len(parts) == (1 if count <= 4 * places else places)
