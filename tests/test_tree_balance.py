"""Columns of inputs in any units: the same cells, losses and points, in float64 and in rationals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tree_refused import block_of

from reluscape import Landscape, MergeTree, merge_tree, verify
from reluscape.block import Block
from reluscape.errors import AnalysisError, InputError
from reluscape.trees.balance import Balance

LOSSES = ["squared", "l1"]


def scaled_blocks(seed: int, powers: list[int], loss: str, bias: bool) -> tuple[Block, Block]:
    """The same samples, and the same with columns times powers of two."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(5, len(powers))), rng.normal(size=(5, 1))
    readouts = [[1.0, -1.3]]
    return (
        block_of(x, y, readouts, loss, bias),
        block_of(np.ldexp(x, powers), y, readouts, loss, bias),
    )


def assert_same(tree: MergeTree, scaled: MergeTree, landscape: Landscape) -> None:
    """The same tree but for rounding, and `verify` accepts the second."""
    least = 1e-7 * tree.layer.zero_loss
    assert scaled.num_cells == tree.num_cells
    assert scaled.num_failed == 0
    for name in ("losses", "deaths"):
        ours, theirs = (
            np.sort(getattr(one, name)[one.deaths - one.births > least]) for one in (tree, scaled)
        )
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-9 * tree.layer.zero_loss)
    found = verify(scaled, landscape)
    assert found.valid, found.reason


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("power", [-50, -20, -5, 5, 20, 50])
def test_columns_in_other_units_change_nothing(power: int, loss: str, bias: bool) -> None:
    for seed in range(3):
        block, other = scaled_blocks(seed, [power, 0], loss, bias)
        tree, scaled = merge_tree(block), merge_tree(other)
        assert_same(tree, scaled, other.landscape)
        values = [other.loss(theta) for theta in scaled.minima]
        np.testing.assert_allclose(values, scaled.losses, atol=1e-9 * tree.layer.zero_loss)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("power", [-57, 57, 80])
def test_zeros_do_not_keep_columns_from_their_units(power: int, loss: str, bias: bool) -> None:
    """Samples that are zero in all columns but one say nothing about the others."""
    for x in ([[1, 2], [-1, 0], [3, 1], [1, 1]], [[0, 1], [3, 0], [0, -2], [2, 1], [-1, 1]]):
        rng = np.random.default_rng(len(x))
        y, readouts = rng.normal(size=(len(x), 1)), [[1.0, -1.3]]
        other = np.ldexp(np.array(x, dtype=np.float64), [power, 0])
        block = block_of(np.array(x, dtype=np.float64), y, readouts, loss, bias=bias)
        scaled = block_of(other, y, readouts, loss, bias=bias)
        assert_same(merge_tree(block), merge_tree(scaled), scaled.landscape)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("power", [-50, 50])
def test_columns_in_other_units_change_no_digit_of_an_exact_tree(power: int, loss: str) -> None:
    pytest.importorskip("flint", reason="rational arithmetic needs python-flint")
    block, other = scaled_blocks(4, [power], loss, True)
    tree, scaled = (merge_tree(one, arithmetic="rational") for one in (block, other))
    np.testing.assert_array_equal(scaled.losses, tree.losses)
    np.testing.assert_array_equal(scaled.deaths, tree.deaths)
    found = verify(scaled, other.landscape)
    assert found.valid, found.reason


@pytest.mark.parametrize("loss", LOSSES)
def test_barriers_are_the_same_in_other_units(loss: str) -> None:
    rng = np.random.default_rng(0)
    block, other = scaled_blocks(1, [40, -40], loss, False)
    tree, scaled = merge_tree(block), merge_tree(other)
    for _ in range(5):
        ends = rng.normal(size=(2, 2, 2))  # two points of two units
        one = tree.barrier(*ends.reshape(2, -1))
        far = scaled.barrier(*np.ldexp(ends, [-40, 40]).reshape(2, -1))
        assert far.level == pytest.approx(one.level, abs=1e-9 * tree.layer.zero_loss)


def test_units_that_nothing_reads_keep_their_weights() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 2)) * [1e12, 1.0], rng.normal(size=(4, 1))
    block = block_of(x, y, [[1.0, 0.0]])
    tree = merge_tree(block)
    rows = tree.layer.unpack(tree.minima)
    np.testing.assert_array_equal(
        rows[:, 1], np.tile(tree.layer.unpack(block.theta)[1], (len(rows), 1))
    )
    assert verify(tree, block.landscape).valid


@pytest.mark.parametrize("loss", LOSSES)
def test_rows_of_very_different_size_are_as_in_rationals(loss: str) -> None:
    pytest.importorskip("flint", reason="rational arithmetic needs python-flint")
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(4, 2)) * 10.0 ** rng.uniform(-9, 9, size=(4, 1))
        block = block_of(x, rng.normal(size=(4, 1)), [[1.0, -1.3]], loss)
        assert_same(merge_tree(block, arithmetic="rational"), merge_tree(block), block.landscape)


def test_columns_that_lose_digits_when_they_are_balanced_are_refused() -> None:
    x = [[1e50, 1e50], [3e-270, 1.0], [1.0, -2.0], [1.0, 3.0]]
    with pytest.raises(InputError, match="underflow"):
        merge_tree(block_of(x, np.ones((4, 1)), [[1.0]], bias=False))


def test_weights_beyond_float64_are_refused_by_name() -> None:
    """A column of 1e-300 needs weights of 1e310 for targets of 1e10."""
    x = np.array([[1.0], [2.0], [-1.0]]) * 1e-300
    with pytest.raises(AnalysisError, match="beyond what float64 holds"):
        merge_tree(block_of(x, [[1e10], [2e10], [0.0]], [[1.0]], bias=False))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-300, 300), min_size=1, max_size=4), st.integers(0, 10**6))
def test_what_is_balanced_is_the_same_in_any_units_and_comes_back(
    powers: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(6, len(powers)))
    scaled = np.ldexp(features, powers)
    own = Balance.of(scaled)
    found = own.balanced(scaled)
    largest = np.abs(found).max(axis=0)
    assert largest.max() <= 2.0**30
    assert largest.max() / largest.min() <= 2.0**12
    rows = rng.normal(size=(3, len(powers)))
    np.testing.assert_array_equal(own.outward(own.inward(rows)), rows)
    products = found @ own.inward(np.ldexp(rows, -np.array(powers))).T
    np.testing.assert_allclose(products, features @ rows.T, rtol=1e-12, atol=1e-12)
