"""How cells join, against a plain Kruskal over sorted facets; and what the sweep leaves to threads."""

from __future__ import annotations

from itertools import product
from threading import get_ident
from typing import Any

import numpy as np
import pytest
from test_merge_tree import layer

from reluscape import merge_tree, verify
from reluscape.errors import InputError
from reluscape.trees import joining, problem
from reluscape.trees.joining import ascending, join_cells
from reluscape.trees.layer import Layer
from reluscape.trees.problem import Problem
from reluscape.trees.threads import Threads
from reluscape.trees.values import Values

SAME = ("minima", "losses", "deaths", "saddles", "parents", "joins", "levels", "multiplicity")


def problem_of(**shape: Any) -> Problem:
    return Problem.of(Layer.of(layer(**shape)), None)


def ends_of(own: Problem) -> np.ndarray:
    """The two cells of every facet, facets in the order of their numbers."""
    units, cells, facets = own.shape
    found = []
    for unit, facet in product(range(units), range(facets)):
        for others in product(range(cells), repeat=units - 1):
            both = [(*others[:unit], int(end), *others[unit:]) for end in own.pairs[facet]]
            found.append([int(np.ravel_multi_index(one, (cells,) * units)) for one in both])
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def plain(
    ends: np.ndarray, cells: np.ndarray, levels: np.ndarray, tolerance: float, below: float
) -> tuple[list[int], list[list[int]], set[int]]:
    """What `Joined` holds, by lists of cells and a stable sort."""
    basin = {cell: [cell] for cell in range(len(cells))}
    joins, ended = [], []
    for edge in np.argsort(levels, kind="stable").tolist():
        one, other = (basin[cell] for cell in ends[edge].tolist())
        if levels[edge] > below or one is other:
            continue
        joins.append(edge)
        first, second = (min(both, key=lambda c: (cells[c], c)) for both in (one, other))
        first, second = sorted((first, second), key=lambda c: (cells[c], c))
        if levels[edge] - cells[second] > tolerance:
            ended.append([second, edge, first])
        one.extend(other)
        for cell in other:
            basin[cell] = one
    lowest = {min(own, key=lambda c: (cells[c], c)) for own in basin.values()}
    return joins, ended, {cell for cell in lowest if cells[cell] <= below}


def landscape(
    kind: int, ends: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Least losses of cells, and of facets."""
    if kind == 0:  # few values: almost everything is tied
        cells = rng.integers(0, 6, count).astype(np.float64)
        return cells, np.maximum(cells[ends].max(axis=1), rng.integers(0, 8, len(ends)))
    cells = rng.random(count)
    above = cells[ends].max(axis=1)
    if kind == 1:  # most cells end at a facet, as those of a layer do
        return cells, above + rng.random(len(ends)) * (rng.random(len(ends)) < 0.3)
    if kind == 2:  # the same, with rounding errors
        return cells, above + 1e-3 * rng.normal(size=len(ends))
    return cells, rng.random(len(ends))  # facets may lie below their cells


@pytest.mark.parametrize("seed", range(40))
def test_cells_join_as_in_a_plain_kruskal(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if seed % 8 > 5:  # as where there are more facets than four bytes number
        monkeypatch.setattr(joining, "_kind", lambda problem: np.int64)
    rng = np.random.default_rng(seed)
    units = int(rng.integers(1, 4))
    own = problem_of(
        samples=int(rng.integers(1, 8 if units < 3 else 4)), inputs=int(rng.integers(1, 3)),
        units=units, seed=seed, bias=bool(rng.integers(2)),
    )  # fmt: skip
    ends = ends_of(own)
    cells, levels = landscape(seed % 4, ends, own.num_cells, rng)
    tolerance = (0.0, 0.3, 1e-3, 2.0)[rng.integers(4)]
    below = np.inf
    if seed % 3 == 0:
        below = float(np.quantile(levels, 0.5))
        cells[cells > below + 0.5] = np.inf
        levels[np.isinf(cells[ends]).any(axis=1)] = np.inf
    joins, ended, roots = plain(ends, cells, levels, tolerance, own.layer.limit(below))
    none = np.empty((0, 1), dtype=np.uint8)
    with Threads.start(1 + seed % 3) as threads:
        found = join_cells(own, Values(cells, levels, none, none, 0), tolerance, below, threads)
    assert found.joins.tolist() == joins
    assert found.ended.tolist() == ended
    assert sorted(found.roots.tolist()) == sorted(roots)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_equal_levels_are_sorted_by_their_facets(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "SORTED", 10)
    rng = np.random.default_rng(count)
    for values in (1, 5, 1000):
        levels = rng.integers(0, values, 3000).astype(np.float64)
        edges = np.flatnonzero(rng.random(3000) < 0.7)
        with Threads.start(count) as threads:
            found = ascending(edges, levels, threads)
        np.testing.assert_array_equal(found, edges[np.argsort(levels[edges], kind="stable")])


@pytest.mark.parametrize(
    "shape",
    [{"samples": 9, "inputs": 1, "units": 3, "signs": [1.0, 1.0, 1.0]},
     {"samples": 7, "inputs": 2, "units": 2, "signs": [1.0, 1.0], "loss": "l1"},
     {"samples": 40, "inputs": 1, "units": 2, "signs": [1.0, -1.0]}],
)  # fmt: skip
def test_three_threads_give_the_tree_of_one(shape: dict[str, Any]) -> None:
    block = layer(seed=4, **shape)
    one, three = merge_tree(block), merge_tree(block, jobs=3)
    for name in (*SAME, "cell_proofs", "facet_proofs"):
        np.testing.assert_array_equal(getattr(three, name), getattr(one, name))


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_in_a_thread_is_told(count: int) -> None:
    def fails(start: int, _: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), Threads.start(count) as threads:
        threads.over(100, fails)


def test_one_thread_is_the_caller() -> None:
    with Threads.start(1) as threads:
        ran = threads.over(100, lambda *_: get_ident())
        ran += threads.pool.map(lambda _: get_ident(), range(3))
    assert set(ran) == {get_ident()}


# ---- rays -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_a_facets_rays_are_those_of_both_cells(seed: int) -> None:
    own = problem_of(samples=9, inputs=1 + seed % 3, units=1, seed=seed, bias=seed % 2 == 0)

    def rays(starts: np.ndarray, values: np.ndarray, place: int) -> list[int]:
        return values[starts[place] : starts[place + 1]].tolist()

    for facet, (one, other) in enumerate(own.pairs.tolist()):
        both = set(rays(own.starts, own.rays, one)) & set(rays(own.starts, own.rays, other))
        assert rays(own.facet_starts, own.facet_rays, facet) == sorted(both)


@pytest.mark.parametrize("loss", ["squared", "l1"])
def test_without_all_products_the_tree_is_the_same(
    loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = layer(8, 2, 2, 1, loss=loss)
    held = merge_tree(block)
    monkeypatch.setattr(problem, "HELD", 1)
    other = merge_tree(block)
    np.testing.assert_allclose(other.losses, held.losses, atol=1e-12)
    np.testing.assert_allclose(other.deaths, held.deaths, atol=1e-12)
    assert verify(other, block.landscape).valid


def test_one_unit_of_more_samples_than_have_products_that_fit() -> None:
    block = layer(130, 2, 1, 0)  # 16,770 rays
    tree = merge_tree(block)
    assert tree.num_cells == 2 * (1 + 129 + 129 * 128 // 2)
    for theta, loss in zip(tree.minima, tree.losses, strict=True):
        assert block.loss(theta) == pytest.approx(loss, abs=1e-12)


def test_rays_whose_columns_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problem, "MAX_BYTES", 10_000)
    with pytest.raises(InputError, match=r"30 samples, .* up to 870 rays in 3 dimensions"):
        merge_tree(layer(30, 2, 1, 0))
