"""`verify` takes nothing of a merge tree on trust."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq
from test_merge_tree import CASES, layer

from reluscape import Landscape, MergeTree, merge_tree, verify


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("share", [np.inf, 0.2])
def test_trees_pass(case: dict[str, Any], share: float) -> None:
    block = layer(**case)
    least, zero = 0.0, merge_tree(block).layer.zero_loss
    tree = merge_tree(block, below=least + share * zero)
    found = verify(tree, block.landscape)
    assert found.valid, found.reason


@pytest.fixture(scope="module", params=["squared", "l1"])
def grown(request: pytest.FixtureRequest) -> tuple[MergeTree, Landscape]:
    block = layer(9, 1, 3, 3, loss=request.param, signs=[1.0, 1.0, -1.0])
    return merge_tree(block), block.landscape


def test_cells_without_proofs_of_their_own_are_told(grown: tuple[MergeTree, Landscape]) -> None:
    tree, landscape = grown
    others = f"(the others of {tree.num_cells:,} and {tree.num_facets:,} are exchanges of units"
    assert others in verify(tree, landscape).reason
    different = layer(9, 1, 2, 3, signs=[1.0, -1.0])
    assert "others" not in verify(merge_tree(different), different.landscape).reason
    below = merge_tree(different, below=0.9 * float(merge_tree(different).losses[0]))
    assert below.num_pruned
    others = f"(the others of {below.num_cells:,} and {below.num_facets:,} are above"
    assert others in verify(below, different.landscape).reason


def moved(values: np.ndarray, place: int, by: float = 1e-5) -> np.ndarray:
    changed = values.copy()
    changed.flat[place] += by
    return changed


def test_every_forged_field_is_rejected(grown: tuple[MergeTree, Landscape]) -> None:
    tree, landscape = grown
    assert len(tree.losses) > 3
    last = len(tree.losses) - 1
    forged: dict[str, Any] = {
        "minima": moved(tree.minima, 1, 0.1),
        "losses": moved(tree.losses, last),
        "births": moved(tree.births, 0),
        "deaths": moved(tree.deaths, last, 1e-3),
        "saddles": moved(tree.saddles, tree.saddles.size - 1, 0.1),
        "parents": moved(tree.parents, last, 1.0) % len(tree.losses),
        "cells": tree.cells[::-1].copy(),
        "num_cells": tree.num_cells + 1,
        "num_facets": tree.num_facets - 1,
        "num_pruned": 1,
        "num_failed": 1,
        "joins": tree.joins[::-1].copy(),
        "levels": moved(tree.levels, 0, -1e-3),
        "below": 0.5,
        "features": moved(tree.features, 0),
        "weights": moved(tree.weights, 0),
        "residual": moved(tree.residual, 0),
        "slope": 0.5,
        "loss": "half_squared",
        "theta": moved(tree.theta, 0),
        "bias": not tree.bias,
        "block": "2",
        "cell_proofs": tree.cell_proofs[:-1],
        "facet_proofs": tree.facet_proofs[1:],
    }
    for name, value in forged.items():
        found = verify(replace(tree, **{name: value}), landscape)
        assert not found.valid, name
        assert "\n" not in found.reason


@pytest.mark.parametrize("name", ["cell_proofs", "facet_proofs"])
def test_a_proof_of_another_point_is_rejected_or_proves_the_same(
    grown: tuple[MergeTree, Landscape], name: str
) -> None:
    tree, landscape = grown
    rng, proofs, rejected = np.random.default_rng(0), getattr(tree, name), 0
    for _ in range(20):
        changed = proofs.copy()
        place = tuple(rng.integers(size) for size in changed.shape)
        changed[place] = rng.integers(0, np.iinfo(changed.dtype).max)
        found = verify(replace(tree, **{name: changed}), landscape)
        rejected += not found.valid
        assert "\n" not in found.reason
    assert rejected >= 4  # the others changed what is not read, or stood for the same


def test_a_minimum_that_is_left_out_or_put_in_is_found(grown: tuple[MergeTree, Landscape]) -> None:
    tree, landscape = grown
    rows = ("minima", "losses", "births", "deaths", "saddles", "parents", "multiplicity", "cells")
    last = len(tree.losses) - 1
    assert last not in tree.parents
    fewer = replace(tree, **{name: getattr(tree, name)[:last] for name in rows})
    found = verify(fewer, landscape)
    assert not found.valid
    assert "missing" in found.reason
    twice = np.r_[np.arange(last + 1), last]
    more = replace(tree, **{name: getattr(tree, name)[twice] for name in rows})
    assert not verify(more, landscape).valid


def test_a_tolerance_is_told_and_kept(grown: tuple[MergeTree, Landscape]) -> None:
    tree, landscape = grown
    zero = tree.layer.zero_loss
    lasting = np.sort(tree.deaths - tree.losses) / zero
    assert "end within 1e-09 of the loss" in verify(tree, landscape).reason
    coarse = merge_tree(landscape.block(0), tolerance=lasting[:2].mean())  # NumPy's own float
    told = verify(coarse, landscape)
    assert told.valid, told.reason
    assert f"end within {coarse.tolerance:g} of the loss" in told.reason
    for forged in (1.5 * lasting[0], 1e9, -1.0, np.inf, np.nan):
        found = verify(replace(tree, tolerance=float(forged)), landscape)
        assert not found.valid
        assert "tolerance" in found.reason
    alone = merge_tree(landscape.block(0), tolerance=1e9)
    assert len(alone.losses) == 1
    assert (
        "1 minimum that follows from them (those that end within 1e+09 of"
        in verify(alone, landscape).reason
    )


def test_a_tree_of_other_samples_or_weights_is_rejected(grown: tuple[MergeTree, Landscape]) -> None:
    tree, landscape = grown
    other = landscape.at(landscape.theta * 1.01)
    assert not verify(tree, other).valid
    assert not verify(tree, landscape.of_samples(np.arange(8))).valid


def test_points_and_facets_of_other_places_are_rejected(
    grown: tuple[MergeTree, Landscape],
) -> None:
    tree, landscape = grown
    twins = np.flatnonzero(np.abs(np.diff(tree.losses)) < 1e-12)
    assert len(twins)
    order = np.arange(len(tree.losses))
    order[[twins[0], twins[0] + 1]] = order[[twins[0] + 1, twins[0]]]
    last = tree.saddles.copy()
    last[-1] = tree.saddles[1]
    twice = tree.joins.copy()
    twice[0] = twice[1]
    forged: dict[str, Any] = {
        "minima": tree.minima[order],
        "saddles": np.nan_to_num(tree.saddles, nan=7.0),
        "joins": twice,
        "num_solved": tree.num_solved + 1,
    }
    for name, value in forged.items():
        assert not verify(replace(tree, **{name: value}), landscape).valid, name
    assert not verify(replace(tree, joins=tree.joins.astype(float)), landscape).valid


@pytest.mark.parametrize("loss", ["squared", "l1"])
@pytest.mark.parametrize("seed", range(6))
def test_samples_at_zero_and_on_axes_make_no_columns_of_rounding_errors(
    seed: int, loss: str
) -> None:
    rng = np.random.default_rng(seed)
    units, inputs = (1, 2) if seed % 2 else (2, 1 + seed % 3)
    block = layer(4 if inputs > 1 and units > 1 else 6, inputs, units, seed, loss=loss)
    landscape = block.landscape
    x = rng.integers(-2, 3, size=landscape.inputs.shape).astype(float)
    x[0] = 0.0
    block = Landscape(landscape.module_at(), x, landscape.targets, loss=loss).block(0)
    tree = merge_tree(block)
    found = verify(tree, block.landscape)
    assert found.valid, found.reason
    for theta, told in zip(tree.minima, tree.losses, strict=True):
        assert block.loss(theta) == pytest.approx(told, abs=1e-11)
    if loss == "squared":
        exact = merge_tree(block, arithmetic="rational")
        np.testing.assert_allclose(tree.losses[0], exact.losses[0], atol=1e-11)
        known = [np.sort(one.deaths[1:] - one.births[1:])[::-1] for one in (tree, exact)]
        count = min(map(len, known))
        np.testing.assert_allclose(known[0][:count], known[1][:count], atol=1e-9)


def test_below_a_level_of_the_tree_itself() -> None:
    for seed in range(6):
        block = layer(8, 1, 2, seed)
        whole = merge_tree(block)
        for level in (whole.losses[0], whole.losses[-1], *whole.deaths[1:3]):
            tree = merge_tree(block, below=float(level))
            found = verify(tree, block.landscape)
            assert found.valid, found.reason
            assert len(tree.losses) == (whole.losses <= level + 1e-12).sum()


def test_a_layer_that_nothing_reads_passes_with_the_absolute_loss() -> None:
    block = layer(5, 1, 2, 0, loss="l1", signs=[0.0, 0.0])
    found = verify(merge_tree(block), block.landscape)
    assert found.valid, found.reason


@pytest.mark.parametrize("loss", ["squared", "l1"])
def test_a_layer_whose_inputs_are_all_zero_passes(loss: str) -> None:
    block = layer(2, 1, 2, 0, loss=loss, bias=False)
    landscape = block.landscape
    flat = Landscape(landscape.module_at(), np.zeros((2, 1)), landscape.targets, loss=loss)
    tree = merge_tree(flat.block(0))
    assert (tree.num_cells, len(tree.losses)) == (1, 1)
    found = verify(tree, flat)
    assert found.valid, found.reason


def test_a_saddle_elsewhere_at_its_level_is_rejected(grown: tuple[MergeTree, Landscape]) -> None:
    """On a wall of the lowest minimum's basin, inside a cell."""
    tree, landscape = grown
    last = 1 + int(np.argmax(tree.deaths[1:] - tree.losses[1:]))
    start, along = tree.minima[0], np.random.default_rng(5).normal(size=tree.minima.shape[1])

    def rise(length: float) -> float:
        return tree.layer.value(start + length * along) - float(tree.deaths[last])

    saddles = tree.saddles.copy()
    saddles[last] = start + brentq(rise, 0.0, 1e3, xtol=1e-15, rtol=1e-15) * along
    reason = verify(replace(tree, saddles=saddles), landscape).reason
    assert reason == f"minimum {last} has a saddle elsewhere"


@pytest.mark.parametrize("loss", ["squared", "l1"])
@pytest.mark.parametrize("signs", [[1.0, -1.0], [1.0, 1.0]])
def test_every_other_parent_is_rejected(signs: list[float], loss: str) -> None:
    """Also one that has itself joined a lower minimum before, and lies in the basin by then."""
    block = layer(9, 1, 2, 4, signs=signs, loss=loss)
    tree, tried = merge_tree(block), 0
    for minimum, parent in enumerate(tree.parents.tolist()):
        for other in {*range(-1, len(tree.losses))} - {parent}:
            parents = tree.parents.copy()
            parents[minimum] = other
            found = verify(replace(tree, parents=parents), block.landscape)
            assert not found.valid, (minimum, parent, other)
            tried += tree.deaths[other] < tree.deaths[minimum] < np.inf
    assert tried


def test_a_saddle_of_another_minimum_at_the_same_level_is_rejected(
    grown: tuple[MergeTree, Landscape],
) -> None:
    """Exchanges of units end at one level, each across a facet of its own."""
    tree, landscape = grown
    twins = [
        (one, other)
        for one, other in combinations(range(1, len(tree.losses)), 2)
        if abs(tree.deaths[one] - tree.deaths[other]) < 1e-9
        and np.abs(tree.saddles[one] - tree.saddles[other]).max() > 1e-3
    ]
    assert twins
    for one, other in twins[:10]:
        saddles = tree.saddles.copy()
        saddles[[one, other]] = saddles[[other, one]]
        reason = verify(replace(tree, saddles=saddles), landscape).reason
        assert reason.endswith("has a saddle elsewhere")


@pytest.mark.parametrize("far", [1e6, 1e12, 1e15, 1e16, 1e17])
def test_a_minimum_so_far_out_that_rounding_is_all_there_is_is_rejected(
    grown: tuple[MergeTree, Landscape], far: float
) -> None:
    """Two units of opposite output weights cancel there, but for rounding errors."""
    tree, landscape = grown
    rows = tree.layer.unpack(tree.minima[0]).copy()
    rows[1:] = rows[1:].mean(axis=0) + far * np.array([1.0, 0.3])
    minima = tree.minima.copy()
    minima[0] = tree.layer.pack(rows)
    assert not verify(replace(tree, minima=minima), landscape).valid
