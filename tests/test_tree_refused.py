"""What float64 does not tell is refused, and `verify` rejects it: nothing false is called certified."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from reluscape import Landscape, MergeTree, merge_tree, verify
from reluscape.block import Block
from reluscape.errors import AnalysisError, InputError


def block_of(x, y, readouts, loss: str = "squared", bias: bool = True) -> Block:
    """The first layer of a network with these output weights (outputs, units)."""
    inputs, targets, weights = (np.asarray(one, dtype=np.float64) for one in (x, y, readouts))
    model = nn.Sequential(
        nn.Linear(inputs.shape[1], weights.shape[1], bias=bias), nn.ReLU(),
        nn.Linear(weights.shape[1], weights.shape[0]),
    ).double()  # fmt: skip
    with torch.no_grad():
        model[2].weight.copy_(torch.from_numpy(weights))
        model[2].bias.zero_()
    return Landscape(model, inputs, targets, loss=loss).block(0)


@pytest.mark.parametrize(("gap", "count", "inputs"), [(1e-12, 4, 3), (3e-13, 3, 2), (1e-13, 3, 2)])
def test_samples_that_the_search_loses_make_no_empty_tree(
    gap: float, count: int, inputs: int
) -> None:
    told = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=inputs) + gap * rng.normal(size=(count, inputs))
        try:
            tree = merge_tree(block_of(x, rng.normal(size=(count, 1)), [[1.0]]))
        except AnalysisError as error:
            told += "equal, parallel or dependent but for rounding" in str(error)
        else:
            assert tree.num_cells > 0
            assert len(tree.losses) > 0
    assert told > 0


def opposite(gap: float, loss: str) -> Block:
    """Two outputs, and two units of nearly opposite output weights."""
    y = [[0.0, 1.0], [0.2, 0.5], [0.7, 1.0]]
    return block_of([[-1.0], [0.3], [1.0]], y, [[1.0, -1.0], [0.4, -0.4 + gap]], loss)


@pytest.mark.parametrize("loss", ["squared", "l1"])
@pytest.mark.parametrize("gap", [1e-10, 1e-11, 1e-13])
def test_output_weights_that_are_nearly_parallel_are_left_to_rationals(
    gap: float, loss: str
) -> None:
    with pytest.raises(InputError, match="units 0 and 1 are parallel but for"):
        merge_tree(opposite(gap, loss))


@pytest.mark.parametrize("gap", [1e-7, 1e-8])
def test_output_weights_that_float64_tells_apart_are_as_in_rationals(gap: float) -> None:
    pytest.importorskip("flint", reason="rational arithmetic needs python-flint")
    block = opposite(gap, "squared")
    tree, exact = merge_tree(block), merge_tree(block, arithmetic="rational")
    assert tree.losses[0] == pytest.approx(exact.losses[0], abs=1e-9)
    assert merge_tree(opposite(0.0, "squared")).losses[0] > tree.losses[0] + 0.1


@pytest.mark.parametrize("seed", range(12))
def test_parallel_samples_beside_a_small_one_have_points_that_attain_their_losses(
    seed: int,
) -> None:
    pytest.importorskip("flint", reason="rational arithmetic needs python-flint")
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4, 3))
    x[1] = rng.uniform(0.5, 3.0) * x[0]  # parallel but for rounding
    x[2] *= 10.0 ** rng.uniform(-9, -6)
    block = block_of(x, rng.normal(size=(4, 1)), [[1.0, -1.0]], bias=False)
    tree = merge_tree(block)
    values = [block.loss(theta) for theta in tree.minima]
    np.testing.assert_allclose(values, tree.losses, atol=1e-5 * tree.layer.zero_loss)
    found = verify(tree, block.landscape)
    assert found.valid, found.reason


def some_tree() -> tuple[MergeTree, Landscape]:
    rng = np.random.default_rng(3)
    block = block_of(rng.uniform(-1, 1, (6, 1)), rng.normal(size=(6, 1)), [[1.0, -1.0]])
    return merge_tree(block), block.landscape


@pytest.mark.parametrize("huge", [1e200, 1e300, np.inf, np.nan])
@pytest.mark.parametrize("name", ["minima", "saddles"])
def test_points_of_no_finite_loss_are_rejected(name: str, huge: float) -> None:
    tree, landscape = some_tree()
    assert verify(tree, landscape).valid
    points = getattr(tree, name).copy()
    points[np.flatnonzero(np.isfinite(points).all(axis=1))[0], 0] = huge
    assert not verify(replace(tree, **{name: points}), landscape).valid


@pytest.mark.parametrize("name", ["losses", "births", "deaths", "levels", "joins", "minima"])
def test_arrays_of_another_length_are_rejected_in_words(name: str) -> None:
    tree, landscape = some_tree()
    assert len(tree.losses) > 1
    for changed in (getattr(tree, name)[:-1], getattr(tree, name)[None]):
        found = verify(replace(tree, **{name: changed}), landscape)
        assert not found.valid
        assert found.reason


@pytest.mark.parametrize("name", ["cell_proofs", "facet_proofs"])
def test_proofs_of_another_kind_are_rejected_in_words(name: str) -> None:
    tree, landscape = some_tree()
    found = verify(replace(tree, **{name: getattr(tree, name).astype(np.float64)}), landscape)
    assert not found.valid
    assert "whole numbers" in found.reason
