"""Merge trees of nearly equal samples against rational arithmetic, which sees them as they are."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from test_tree_rational import block_of
from torch import nn

from reluscape import Landscape, MergeTree, certify, merge_tree, verify
from reluscape.block import Block
from reluscape.errors import AnalysisError, InputError
from reluscape.trees.units import least_angle

pytest.importorskip("flint", reason="rational arithmetic needs python-flint")

LOSSES = ["squared", "l1"]


def step(gap: float, loss: str) -> Block:
    """A step between two samples, which two units fit with slopes of one over the gap."""
    x = [-1.0, -0.5, 0.1, 0.1 + gap, 0.6, 1.0]
    return block_of(x, [0.0, 0.0, 0.0, 1.0, 1.0, 1.0], [1.0, -1.0], loss)


def lasting(tree: MergeTree, least: float) -> list[tuple[float, float]]:
    """Births and deaths of minima that persist, and the global one's birth."""
    kept = (tree.deaths - tree.births > least) & np.isfinite(tree.deaths)
    pairs = zip(tree.births[kept].tolist(), tree.deaths[kept].tolist(), strict=True)
    return [(float(tree.losses[0]), 0.0), *sorted(pairs)]


def assert_exact(block: Block) -> MergeTree:
    """The tree in float64 is the exact one, and `verify` accepts both."""
    tree, exact = merge_tree(block), merge_tree(block, arithmetic="rational")
    assert tree.num_failed == 0
    assert tree.tier == "certified"
    unit = tree.layer.zero_loss
    np.testing.assert_allclose(
        lasting(tree, 1e-7 * unit), lasting(exact, 1e-7 * unit), rtol=0, atol=1e-9 * unit
    )
    for one in (tree, exact):
        found = verify(one, block.landscape)
        assert found.valid, found.reason
        for theta, told in zip(one.minima, one.losses, strict=True):
            huge = 1e-15 * float(np.abs(theta).max())
            assert block.loss(theta) == pytest.approx(told, abs=1e-10 * unit + 20 * huge)
    return tree


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("digits", range(3, 14, 2))
def test_a_step_is_fitted_however_steep_it_is(digits: int, loss: str) -> None:
    tree = assert_exact(step(10.0**-digits, loss))
    assert tree.losses[0] == pytest.approx(0.0, abs=1e-10)
    assert np.abs(tree.minima[0]).max() > 0.1 * 10.0**digits


def nearby(seed: int, loss: str) -> Block:
    """Samples that are nearly equal, nearly on one line, or nearly zero."""
    rng = np.random.default_rng(seed)
    inputs, gap = int(rng.integers(1, 3)), 10.0 ** -rng.uniform(3, 12.5)
    x = rng.normal(size=(5 if inputs == 1 else 4, inputs))
    kind = seed % 4
    if kind == 0:
        x[1] = x[0] + gap * rng.normal(size=inputs)
    elif kind == 1:
        x[1], x[3] = x[0] + gap, x[2] - gap**0.5
    elif kind == 2:
        x[2] = x[0] + 0.7 * (x[1] - x[0]) + gap * rng.normal(size=inputs)
    else:
        x[0] *= gap
    model = nn.Sequential(nn.Linear(inputs, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        model[2].weight.copy_(torch.tensor([[1.0, -1.5]]))
        model[2].bias.zero_()
    return Landscape(model, x, rng.normal(size=(len(x), 1)), loss=loss).block(0)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("seed", range(5))
def test_nearly_equal_samples_give_the_exact_tree(seed: int, loss: str) -> None:
    assert_exact(nearby(seed, loss))


def test_three_samples_that_are_nearly_equal() -> None:
    for gap, loss in product((1e-4, 1e-8, 1e-12), LOSSES):
        x = [0.3, 0.3 + gap, 0.3 - 1.7 * gap, 1.0, -1.0]
        assert_exact(block_of(x, [1.0, -1.0, 0.5, 2.0, 0.0], [1.0, -0.7], loss))


def test_a_draw_that_needs_lengths_of_thousands() -> None:
    rng = np.random.default_rng(194)
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    with torch.no_grad():
        model[2].weight.copy_(torch.from_numpy(rng.choice([-1.0, 1.0], size=(1, 3))))
        model[2].bias.zero_()
    data = rng.normal(size=(4, 2)), rng.normal(size=(4, 1))
    block = Landscape(model, *data).block(0)
    tree = merge_tree(block)
    assert tree.num_failed == 0
    found = verify(tree, block.landscape)
    assert found.valid, found.reason


@pytest.mark.parametrize("loss", LOSSES)
def test_samples_that_float64_does_not_tell_apart_are_one(loss: str) -> None:
    block, equal = step(2.0**-50, loss), step(0.0, loss)
    tree, other = merge_tree(block), merge_tree(equal)
    assert tree.num_cells == other.num_cells
    np.testing.assert_allclose(tree.losses, other.losses, atol=1e-12)
    assert verify(tree, block.landscape).valid


@pytest.mark.parametrize("digits", [8, 11, 13])
def test_a_proof_without_a_nearly_dependent_ray_is_rejected(digits: int) -> None:
    """Float64 alone would see no slope along it: its column is within rounding errors of the others."""
    block = step(10.0**-digits, "squared")
    tree = merge_tree(block)
    row = int(tree.cells[0] @ [12, 1])  # a unit of six samples has twelve cells
    assert tree.num_cells == 12**2
    used = int(tree.cell_proofs[row, 0])
    rejected = 0
    for ray in range(used.bit_length()):
        if used >> ray & 1:
            proofs = tree.cell_proofs.copy()
            proofs[row, 0] = used & ~(1 << ray)
            rejected += not verify(replace(tree, cell_proofs=proofs), block.landscape).valid
    assert rejected == used.bit_count() > 1


@pytest.mark.parametrize("loss", LOSSES)
def test_without_rationals_the_tree_says_that_it_is_not_proved(
    loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any) -> None:
        raise InputError("rational arithmetic needs python-flint")

    monkeypatch.setattr("reluscape.trees.exact_columns.Rational", missing)
    block = step(1e-9, loss)
    tree = merge_tree(block)
    assert tree.num_failed > 0
    assert tree.tier == "sampled"
    assert f"{tree.num_failed} least losses or points are not told" in tree.summary()
    found = verify(tree, block.landscape)
    assert not found.valid
    assert "as it says" in found.reason
    assert merge_tree(step(0.1, loss)).tier == "certified"


def test_rays_between_nearly_equal_hyperplanes_keep_their_digits() -> None:
    from reluscape.arrangement import enumerate_cones
    from reluscape.trees.sharp_rays import sharp_rays

    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 2))
    x[1] = x[0] + 1e-9 * rng.normal(size=2)
    features = np.hstack([x, np.ones((5, 1))])
    cones = enumerate_cones(features)
    rays, moved = sharp_rays(features, cones), 0.0
    for ray, was, signs in zip(rays, cones.rays, cones.signs, strict=True):
        a, b = ([Fraction(value) for value in row] for row in features[signs == 0].tolist())
        cross = [
            a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]
        ]  # fmt: skip
        largest = max(map(abs, cross))
        exact = np.array([float(value / largest) for value in cross])
        exact *= np.sign(exact @ ray) / np.linalg.norm(exact)
        np.testing.assert_allclose(ray, exact, atol=1e-15)
        moved = max(moved, float(np.abs(ray - was).max()))
    assert moved > 1e-10  # as they were found, they were not as good


def drawn(seed: int) -> Block:
    """Samples that are equal, parallel or dependent up to gaps from 1e-9 to 1e-15."""
    rng = np.random.default_rng(seed)
    inputs, bias = int(rng.integers(1, 4)), bool(rng.random() < 0.5)
    bias |= inputs == 1
    x, gap = rng.normal(size=(6 - inputs, inputs)), 10.0 ** -rng.uniform(9, 15)
    kind = seed % 4
    if kind == 0:
        x[:, 0] = 1.0 + gap * rng.normal(size=len(x))
    elif kind == 1:
        x[1:3] = x[0] + gap * rng.normal(size=(2, inputs))
    elif kind == 2:
        x[1], x[-1] = -x[0] * (1.0 + gap), x[-1] * gap
    else:
        x[2] = x[0] + 0.4 * (x[1] - x[0]) + gap * rng.normal(size=inputs)
    model = nn.Sequential(nn.Linear(inputs, 2, bias=bias), nn.ReLU(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        model[2].weight.copy_(torch.tensor([[1.0, -1.3]]))
        model[2].bias.zero_()
    y = rng.normal(size=(len(x), 1))
    return Landscape(model, x, y, loss=LOSSES[seed // 4 % 2]).block(0)


def test_what_is_certified_is_accepted_and_exact_where_the_cells_are() -> None:
    tiers = []
    for seed in range(16):
        block = drawn(seed)
        exact = merge_tree(block, arithmetic="rational")
        found = verify(exact, block.landscape)
        assert found.valid, (seed, found.reason)
        try:
            tree = merge_tree(block)
        except AnalysisError:
            tiers.append("refused")
            continue
        found, unit = verify(tree, block.landscape), tree.layer.zero_loss
        assert found.valid == (tree.tier == "certified"), (seed, found.reason)
        tiers.append(tree.tier)
        if tree.tier == "certified" and tree.num_cells == exact.num_cells:
            ours, theirs = (np.sort(lasting(one, 1e-7 * unit), axis=0) for one in (tree, exact))
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9 * unit)
    assert tiers.count("certified") > 7
    assert "sampled" in tiers


def test_samples_apart_by_more_than_their_rounding_are_not_taken_as_equal_unsaid() -> None:
    x = np.array([[1.0, 2.0], [-0.5, 0.3], [0.2, -1.0]])
    y = np.array([[1.0], [0.0], [2.0], [-1.0]])
    for gap, told in ((0.0, True), (2.0**-52, True), (1e-14, False)):
        inputs = np.vstack([x, x[:1] * [1.0, 1.0 + gap]])
        model = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1)).double()
        block = Landscape(model, inputs, y).block(0)
        tree = merge_tree(block)
        assert (tree.tier == "certified") == told
        assert verify(tree, block.landscape).valid == told
        assert told or not verify(replace(tree, num_failed=0), block.landscape).valid


def test_decimal_grids_are_on_their_hyperplanes() -> None:
    """Tenths are no binary fractions: lines through three of them are such but for rounding."""
    x = 0.1 * np.array([[i, j] for i in range(3) for j in range(3)]) + 0.7
    model = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1)).double()
    block = Landscape(model, x, np.arange(9.0)[:, None]).block(0)
    whole = Landscape(model, np.rint(10.0 * x), np.arange(9.0)[:, None]).block(0)
    tree = merge_tree(block)
    assert tree.tier == "certified"
    assert tree.num_cells == merge_tree(whole).num_cells
    assert verify(tree, block.landscape).valid


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("digits", [6, 9, 11, 12, 13])
def test_barriers_between_huge_weights_are_the_exact_ones(digits: int, loss: str) -> None:
    block = step(10.0**-digits, loss)
    tree, exact = merge_tree(block), merge_tree(block, arithmetic="rational")
    unit, rng = tree.layer.zero_loss, np.random.default_rng(digits)
    far = exact.layer.unpack(rng.normal(size=4) * 10.0**digits)
    for start in (exact.layer.pack(far), tree.minima[-1], rng.normal(size=4)):
        ours, theirs = (one.barrier(start, exact.minima[0]) for one in (tree, exact))
        rounding = sum(tree.layer.rounding(end) for end in (start, exact.minima[0]))
        assert ours.level == pytest.approx(theirs.level, rel=1e-9, abs=1e-9 * unit + rounding)
        assert ours.level >= max(ours.losses[0], ours.losses[-1])
        for bead, told in zip(ours.beads, ours.losses, strict=True):
            apart = abs(block.loss(bead) - told)
            assert apart <= 1e-9 * max(unit, told) + tree.layer.rounding(bead)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_level_of_a_barrier_is_that_at_which_the_tree_joins(loss: str) -> None:
    """From a minimum to the one that it joins, also where weights of 1e12 blur the points' losses."""
    tree = merge_tree(step(1e-12, loss))
    assert len(tree.losses) > 1
    for k in range(1, len(tree.losses)):
        level = tree.barrier(tree.minima[k], tree.minima[0]).level
        assert level >= tree.deaths[k] - 1e-12 * tree.layer.zero_loss


@pytest.mark.parametrize("inputs", [1, 2])
def test_small_entries_of_rays_keep_their_digits(inputs: int) -> None:
    """Inputs of thousands beside the ones of a bias: a kink's value is the difference of equal terms."""
    from reluscape.arrangement import enumerate_cones
    from reluscape.trees.sharp_rays import sharp_rays

    for seed in range(40):
        x = 1e3 * np.random.default_rng(seed).normal(size=(6, inputs))
        features = np.hstack([x, np.ones((6, 1))])
        cones = enumerate_cones(features)
        rays = sharp_rays(features, cones)
        values, terms = rays @ features.T, np.abs(rays) @ np.abs(features).T
        assert (np.abs(values) <= 1e-15 * terms)[cones.signs == 0].all()
        np.testing.assert_allclose(rays, cones.rays, atol=1e-13)


def test_certificates_see_the_kinks_of_minima_also_where_inputs_are_large() -> None:
    for seed in (498, 790):
        rng = np.random.default_rng(seed)
        inputs = int(rng.integers(1, 3))
        x = 1e3 * rng.normal(size=(7 if inputs == 1 else 5, inputs))
        y, signs = rng.normal(size=(len(x), 1)), rng.choice([-1.0, 1.0], size=(1, 2))
        model = nn.Sequential(nn.Linear(inputs, 2), nn.ReLU(), nn.Linear(2, 1)).double()
        with torch.no_grad():
            model[2].weight.copy_(torch.from_numpy(signs))
            model[2].bias.zero_()
        block = Landscape(model, x, y, loss="l1").block(0)
        claims = {certify(block, theta).claim for theta in merge_tree(block).minima}
        assert claims <= {"local_minimum", "strict_local_minimum"}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("seed", range(6))
def test_multiples_but_for_rounding_are_multiples(seed: int, loss: str) -> None:
    """What is left of them would be fitted by weights of 1e16; equal samples are the oracle."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=5)
    inputs[1] = inputs[0]
    others = inputs.tolist(), rng.normal(size=5).tolist(), rng.choice([-1.0, 1.0], size=2).tolist()
    known = merge_tree(block_of(*others, loss), arithmetic="rational")
    inputs[1] = np.nextafter(inputs[1], 9.0)
    block = block_of(inputs.tolist(), *others[1:], loss)
    tree = merge_tree(block)
    assert tree.num_cells == known.num_cells
    kept = known.deaths - known.losses > 1e-8 * known.layer.zero_loss
    np.testing.assert_allclose(tree.losses, known.losses[kept], atol=1e-9)
    np.testing.assert_allclose(tree.deaths, known.deaths[kept], atol=1e-9)
    assert np.abs(tree.minima).max() < 1e6
    assert verify(tree, block.landscape).valid


def nearly_dependent(kind: str, seed: int) -> Block:
    """A layer whose units put out what is nearly dependent: for their output weights, or their slope."""
    rng = np.random.default_rng(seed)
    gap, across = 10.0 ** -rng.uniform(4, 8.5), 10.0 ** -rng.uniform(0, 5)
    one = rng.normal(size=2)
    one /= np.linalg.norm(one)
    other, count, slope = np.array([-one[1], one[0]]), 3, 0.0
    weights = np.column_stack([one, -one - gap * other])
    if kind == "float32":
        weights = np.column_stack([one, -3.3 * one]).astype(np.float32).astype(np.float64)
    targets = np.outer(rng.normal(size=3), one) + across * np.outer(rng.normal(size=3), other)
    if kind == "three":
        weights, count = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, gap**1.4]]), 2
        weights *= rng.choice([1.0, -1.0], size=3)
        targets = rng.normal(size=(2, 3)) * [1.0, 1.0, across]
    if kind == "slope":
        weights, count = rng.normal(size=(1, 2)), 4
        slope, targets = float(rng.choice([1, -1]) * (1 - gap)), rng.normal(size=(4, 1))
    model = nn.Sequential(
        nn.Linear(1, weights.shape[1]), nn.LeakyReLU(slope) if slope else nn.ReLU(),
        nn.Linear(weights.shape[1], len(weights)),
    ).double()  # fmt: skip
    model[2].weight.data = torch.from_numpy(weights)
    nn.init.zeros_(model[2].bias)
    return Landscape(model, rng.normal(size=(count, 1)), targets).block(0)


@pytest.mark.parametrize(
    ("kind", "seed"),
    [("pair", 5), ("pair", 15), ("float32", 23), ("float32", 37), ("three", 1), ("three", 20),
     ("slope", 4), ("slope", 28)],
)  # fmt: skip
def test_units_that_put_out_what_is_nearly_dependent(kind: str, seed: int) -> None:
    assert_exact(nearly_dependent(kind, seed))


def test_how_nearly_units_depend_on_each_other() -> None:
    one, other = np.array([1.0, 0.0]), np.array([np.cos(1e-3), np.sin(1e-3)])
    least = np.sqrt(1.0 - np.cos(1e-3))  # of the matrix [[1, cos], [cos, 1]]
    assert least_angle(np.array([one, other]), 0.0) == pytest.approx(least, rel=1e-6)
    assert least_angle(np.array([one, -other]), 1.0) == pytest.approx(least, rel=1e-6)
    assert least_angle(np.array([one, other]), -0.75) == pytest.approx(0.25 * least, rel=1e-6)
    assert least_angle(np.array([one, one, -one]), 0.0) == 1.0
    assert least_angle(np.eye(3), 0.01) == pytest.approx(0.01)
    many = np.random.default_rng(0).normal(size=(24, 12))
    assert least_angle(many / np.linalg.norm(many, axis=1, keepdims=True), 0.0) == 0.0


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("seed", range(4))
def test_ties_among_samples_that_span_less_than_the_weights(seed: int, loss: str) -> None:
    """Fewer samples than inputs, some of them on a line, or all of one more layer with little rank."""
    rng = np.random.default_rng(seed)
    x = np.zeros((5, 6))
    x[1, 0], x[2, 0], x[3, 1] = 1.0, 2.0, 1.0
    x[4] = x[1:4].sum(axis=0) if seed % 2 else x[3] * (1 + 1e-15)
    x = x @ rng.integers(-2, 3, size=(6, 6)) if seed > 1 else x
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 1), nn.ReLU(), nn.Linear(1, 1)).double()
    tree = assert_exact(Landscape(model, x, rng.normal(size=(5, 1)), loss=loss).block(0))
    assert len(tree.losses)
