"""Where in a set of points a minimum is given."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, nnls
from test_merge_tree import layer
from torch import nn

from reluscape import Block, InputError, Landscape, MergeTree, certify, merge_tree, verify
from reluscape.certificate import MINIMA
from reluscape.trees.inside import exact_middle
from reluscape.trees.points import move_inside, refine

DRAWS: list[dict[str, Any]] = [
    {"samples": samples, "inputs": inputs, "units": units, "seed": seed, "loss": loss}
    for loss in ("squared", "l1")
    for samples, inputs, units in ((4, 1, 2), (7, 1, 2), (4, 2, 2), (6, 1, 3))
    for seed in range(4)
]


def claims(block: Block, tree: MergeTree) -> Counter[str]:
    return Counter(certify(block, theta).claim for theta in tree.minima)


def test_the_block_certificate_says_of_all_minima_that_they_are() -> None:
    found: Counter[str] = Counter()
    for draw in DRAWS:
        block = layer(**draw)
        found += claims(block, merge_tree(block))
    assert (
        found["local_minimum"] + found["strict_local_minimum"] + found["undecided"] == found.total()
    )
    assert found["undecided"] <= 0.02 * found.total()
    assert found.total() > 100


def block_of(x: Any, y: Any, weights: Any, loss: str = "squared") -> Block:
    """The first layer of a network with these samples and output weights, and no output bias."""
    x, y, weights = (np.array(numbers, dtype=float) for numbers in (x, y, weights))
    model = nn.Sequential(
        nn.Linear(x.shape[1], weights.shape[1]),
        nn.ReLU(),
        nn.Linear(*weights.shape[::-1], bias=False),
    ).double()
    model[2].weight.data = torch.from_numpy(weights)
    return Landscape(model, x, y, loss=loss).block(0)


#: Minima on grids at which a unit is zero, has weights far below the others, or slopes vanish.
ON_GRIDS = [
    (
        [[0.5, 0], [-0.5, 2], [-0.5, 0.5], [0.5, 0.5], [0, 0.5], [0.5, 1.5], [-2, -0.5]],
        [[1, -1], [-2, -1], [0, 0], [-1, 0], [-2, 1], [-1, -2], [-1, 0]],
        [[-0.12282838369104884], [-0.02415328501819421]],
    ),
    (
        [[-1.5], [-1.5], [-0.5], [0.0], [0.5], [-1.0]],
        [[3.0], [1.0], [0.0], [2.0], [1.0], [0.0]],
        [[-0.36772508877326127, -0.11667082976782113, 0.7877017035214982]],
    ),
    (
        [[0.5], [0.0], [0.5], [0.0], [-1.0], [-0.5], [0.5], [1.0]],
        [[0.0], [1.0], [0.0], [0.0], [0.0], [0.0], [0.0], [1.0]],
        [[-0.6791867023609549, 0.7307578065137493, 0.6310651431789512]],
    ),
]


@pytest.mark.parametrize("given", ON_GRIDS)
def test_on_grids_each_minimum_has_a_certificate(given: Any) -> None:
    pytest.importorskip("flint", reason="rational arithmetic needs python-flint")
    block = block_of(*given)
    tree = merge_tree(block)
    found = tree.certificates(block)
    assert len(found) == len(tree.losses) > 1
    for certificate, theta in zip(found, tree.minima, strict=True):
        assert certificate.claim in MINIMA, certificate.reason
        np.testing.assert_allclose(certificate.theta, theta, atol=1e-8)
        told = verify(certificate, block.landscape)
        assert told.valid, told.reason


def test_weights_far_below_the_others_are_as_exact() -> None:
    block = block_of(*ON_GRIDS[0])
    tree = merge_tree(block)
    (row,) = tree.layer.unpack(tree.minima[1])
    terms = tree.features[0] * row  # of the first sample, 4000 times below the largest weight
    assert 0 < np.abs(terms).max() < np.abs(row).max() / 1000
    assert abs(terms.sum()) <= 4e-16 * np.abs(terms).max()


def test_a_unit_that_changes_no_residual_is_zero() -> None:
    block = block_of(*ON_GRIDS[1])
    tree = merge_tree(block)
    for theta in tree.minima:
        rows = tree.layer.unpack(theta)
        assert not ((np.abs(rows) < 1e-15) & (rows != 0)).any()


#: A unit that is zero, so that all its kinks are active, beside one whose weights are solved for.
AT_ZERO = [
    (
        [[0.5, 1.5, 2], [1, 0, 0.5], [-0.5, 1, -1], [-0.5, 1, 0.5], [1, -2, 1], [1, 2, 0.5],
         [0, 1, -0.5]],
        [[-1], [-1], [1], [0], [0], [-1], [0]],
        [[0.2551470019017936, 0.29182501623539653]],
    ),
    (
        [[0, 0, 0.5], [-2, -1, 1], [0, 1, -1.5], [-1, 0.5, 0.5], [0, 0.5, -2], [-0.5, -0.5, 2.5],
         [-0.5, 0.5, 1], [-0.5, -1.5, 0.5]],
        [[-1], [0], [-1], [2], [0], [-1], [0], [-1]],
        [[0.9039216837371716, 1.5046206461842302]],
    ),
]  # fmt: skip


@pytest.mark.parametrize("given", AT_ZERO)
def test_stationary_points_of_dependent_kinks_are_solved_for_exactly(given: Any) -> None:
    pytest.importorskip("flint", reason="rational arithmetic needs python-flint")
    block = block_of(*given)
    theta = merge_tree(block).minima[0]
    found = certify(block, theta, arithmetic="rational")
    assert found.claim == "local_minimum", found.reason
    assert 0 < found.moved < 1e-10 * np.abs(theta).max()
    told = verify(found, block.landscape)
    assert told.valid, told.reason


def test_jumps_of_equal_samples_that_cancel_exactly_are_decided_exactly() -> None:
    """At the mean of the targets, kinks of a unit that is zero are one, whose jump is none."""
    pytest.importorskip("flint", reason="rational arithmetic needs python-flint")
    model = nn.Sequential(
        nn.Linear(1, 2, bias=False), nn.LeakyReLU(0.5), nn.Linear(2, 1, bias=False)
    ).double()
    model[2].weight.data = torch.tensor([[0.7, 0.3]], dtype=torch.float64)
    block = Landscape(model, np.ones((3, 1)), np.array([[0.1], [0.4], [1.9]])).block(0)
    found = certify(block, [0.8 / 0.7, 0.0], arithmetic="rational")
    assert found.claim == "local_minimum", found.reason
    told = verify(found, block.landscape)
    assert told.valid, told.reason


def test_a_curvature_within_the_eigensolvers_error_is_told_as_zero() -> None:
    """Columns of sizes whose squares are 1e24 apart: exactly definite, and float64 does not see it."""
    pytest.importorskip("flint", reason="rational arithmetic needs python-flint")
    rng = np.random.default_rng(1)
    x = rng.normal(size=(9, 3)) * np.array([1e-6, 1.0, 1e6])
    block = block_of(x, rng.normal(size=(9, 1)), [[1.0]])
    found = [certify(block, theta, arithmetic="rational") for theta in merge_tree(block).minima]
    strict = [one for one in found if one.claim == "strict_local_minimum"]
    assert any(one.curvature == 0 for one in strict)
    for certificate in strict:
        assert certificate.curvature is not None
        assert 0 <= certificate.margin <= certificate.curvature
        told = verify(certificate, block.landscape)
        assert told.valid, told.reason


def test_certificates_are_of_the_trees_own_layer() -> None:
    block, other = (layer(5, 1, 2, seed) for seed in range(2))
    with pytest.raises(InputError, match=r"its features is not the tree's: give the same network"):
        merge_tree(block).certificates(other)


@pytest.mark.parametrize("seed", range(4))
def test_the_same_in_rational_arithmetic(seed: int) -> None:
    pytest.importorskip("flint", reason="rational arithmetic needs python-flint")
    block = layer(5, 1, 2, seed)
    tree = merge_tree(block, arithmetic="rational")
    assert set(claims(block, tree)) <= {"local_minimum", "strict_local_minimum"}
    values = [block.loss(theta) for theta in tree.minima]
    np.testing.assert_allclose(values, tree.losses, atol=1e-13)
    told = verify(tree, block.landscape)
    assert told.valid, told.reason


def active(tree: MergeTree, theta: np.ndarray) -> int:
    """Kinks that are active at a point."""
    rows = tree.layer.unpack(theta)
    values, sizes = tree.features @ rows.T, np.abs(tree.features) @ np.abs(rows.T)
    return int((np.abs(values) <= 1e-9 * sizes).sum())


@pytest.mark.parametrize("seed", range(8))
def test_nowhere_near_in_the_set_are_fewer_kinks_active(seed: int) -> None:
    """Steps along which all outputs stay as they are lead to no point with fewer active kinks."""
    block = layer(6, 1, 2, seed, signs=[1.0, -1.0])
    tree, rng = merge_tree(block), np.random.default_rng(seed)
    zero = tree.layer.zero_loss
    for theta, told in zip(tree.minima, tree.losses, strict=True):
        fewest = active(tree, theta)
        rows = tree.layer.unpack(theta)
        if fewest == 0:
            continue
        for signs in product((False, True), repeat=fewest):
            values = tree.features @ rows.T
            zeros = np.abs(values) <= 1e-9 * (np.abs(tree.features) @ np.abs(rows.T))
            on = values > 0
            on[zeros] = signs
            moves = (on[:, :, None] * tree.features[:, None, :] * tree.weights[0][:, None]).reshape(
                len(values), -1
            )
            _, sizes, right = np.linalg.svd(moves)
            flat = right[int((sizes > 1e-10).sum()) :]
            for _ in range(20):
                step = (rng.normal(size=len(flat)) @ flat).reshape(rows.shape)
                point = tree.layer.pack(rows + 1e-4 * step)
                if tree.layer.value(point) <= told + 1e-15 * zero:
                    assert active(tree, point) >= fewest


def test_rays_that_no_minimiser_uses_are_left_out() -> None:
    """Of `l1 + l2 + l3 = 1, l4 + l5 = 0` only l4 = l5 = 0: the others are a tenth or more."""
    design = np.array([[1.0, 1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0, 1.0]])
    target, corner = np.array([1.0, 0.0]), np.array([1.0, 0.0, 0.0, 0.0, 0.0])
    found = corner.copy()
    move_inside(design.T.copy(), target, found)
    assert found[:3].min() >= 0.1 - 1e-9
    np.testing.assert_allclose(design @ found, target, atol=1e-9)


@pytest.mark.parametrize("seed", range(40))
def test_the_middle_is_as_deep_as_a_linear_program_finds(seed: int) -> None:
    """Of minimisers with dependent columns, in rays that stay zero, and in ones that need not."""
    rng = np.random.default_rng(seed)
    rows, count = 6, int(rng.integers(4, 10))
    design = rng.integers(-1, 3, size=(rows, 4)) @ rng.integers(-1, 3, size=(4, count))
    design = design.astype(float)
    corner, rest = nnls(design, rng.normal(size=rows))[0], rng.normal(size=rows)
    rest -= design @ np.linalg.lstsq(design, rest, rcond=None)[0]  # no ray has a slope
    target, sizes = design @ corner + 0.1 * rest, np.linalg.norm(design, axis=0)
    sizes[sizes == 0] = 1.0
    scale = float(np.linalg.norm(design @ corner)) or float(np.linalg.norm(target))
    found = corner.copy()
    move_inside(design.T.copy(), target, found)
    found *= sizes / scale
    units = design / sizes
    np.testing.assert_allclose(units @ found, design @ corner / scale, atol=1e-9)
    assert (found >= 0).all()
    fits = {"A_eq": units, "b_eq": design @ corner / scale}
    wide = (0, 1 + float((corner * sizes).max()) / scale)
    most = [-linprog(-one, bounds=wide, **fits).fun for one in np.eye(count)]
    used = (np.array(most) > 1e-6).astype(float)
    deepest = linprog(
        np.append(np.zeros(count), -1.0), bounds=[(0, None)] * count + [(0, 0.1)],
        A_eq=np.column_stack([units, np.zeros(rows)]), b_eq=fits["b_eq"],
        A_ub=np.column_stack([-np.diag(used), used]), b_ub=np.zeros(count),
    )  # fmt: skip
    assert found[used > 0].min(initial=0.1) == pytest.approx(-deepest.fun, abs=1e-8)


@pytest.mark.parametrize("seed", range(20))
def test_least_points_are_solved_for_anew_from_their_columns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    design, target = rng.normal(size=(9, 5)), rng.normal(size=9)
    best = nnls(design, target)[0]
    rough = best * (1.0 + 1e-3 * rng.normal(size=5))
    refine(design.T.copy(), target, rough)
    np.testing.assert_allclose(rough, best, atol=1e-12)


def test_the_exact_middle_is_a_minimiser_to_the_last_digit() -> None:
    flint = pytest.importorskip("flint", reason="rational arithmetic needs python-flint")
    from reluscape.arithmetic import Rational

    numbers = Rational()
    design = np.array([[1.0, 2.0, 3.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0, 3.0, 0.0]])
    columns = numbers.array(design)
    gram, right = columns.T @ columns, columns.T @ numbers.array(np.array([0.7, 0.0]))
    corner = numbers.array(np.zeros(6))
    corner[1] = numbers.array(np.array([0.7]))[0] / 2
    found = exact_middle(gram, right, corner, numbers)
    assert all(isinstance(one, flint.fmpq) for one in found)
    lengths = [Fraction(int(one.p), int(one.q)) for one in found]
    assert sum(k * one for k, one in zip((1, 2, 3), lengths[:3], strict=True)) == Fraction(0.7)
    assert lengths[3] == lengths[4] == 0
    assert min(*lengths[:3], lengths[5]) > Fraction(1, 100)


@pytest.mark.parametrize("seed", [48, 55, 115, 141])
def test_weights_that_are_zero_are_zero_and_no_rounding_errors(seed: int) -> None:
    """Samples at zero in an input have kinks where another weight is zero, and exactly so."""
    rng = np.random.default_rng(seed)
    block = layer(5, 2, 2, seed, loss=("squared", "l1")[seed % 2], signs=[1.0, -1.0])
    x = rng.integers(-2, 3, size=(5, 2)).astype(float)
    x[0] = 0.0
    subject = Landscape(
        block.landscape.module_at(), x, rng.integers(-2, 3, size=(5, 1)).astype(float)
    )
    tree = merge_tree(subject.block(0))
    small = np.abs(tree.minima)
    assert not ((small > 0) & (small < 1e-13)).any()
    assert "not_stationary" not in claims(subject.block(0), tree)
