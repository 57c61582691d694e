"""What proves least losses is small, comes back as it was written, and may not be changed."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scipy.optimize import linprog
from test_merge_tree import layer

from reluscape import Landscape, MergeTree, merge_tree, tree_size, verify
from reluscape.block import Block
from reluscape.errors import InputError
from reluscape.trees.layer import Layer
from reluscape.trees.problem import Problem
from reluscape.trees.proofs import Proofs, Stack, bits_of, words_of
from reluscape.trees.sweep import digits_of

COUNTS = [1, 63, 64, 65, 158]


@pytest.mark.parametrize("count", COUNTS)
def test_bits_stand_in_words_from_the_lowest_on(count: int) -> None:
    bits = np.random.default_rng(count).random(count) < 0.5
    bits[-1] = True
    words = words_of(bits)
    assert words.dtype == np.uint64
    number = sum(word << 64 * place for place, word in enumerate(words.tolist()))
    assert [number >> place & 1 for place in range(64 * len(words))] == [
        *bits.astype(int).tolist(), *[0] * (64 * len(words) - count)
    ]  # fmt: skip
    assert bits_of(words, count).tolist() == bits.tolist()


@pytest.mark.parametrize("loss", ["squared", "l1"])
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("samples", [1, 21, 22, 64, 65])
def test_words_come_back_from_all_parts_that_they_were_kept_in(
    samples: int, outputs: int, loss: str
) -> None:
    own = layer(samples, 1, 2, samples, outputs=outputs, loss=loss)
    problem, rng = Problem.of(Layer.of(own), None), np.random.default_rng(samples)
    basis = problem.proof_words - problem.sign_words
    assert problem.sign_words == (-(-samples * outputs // 64) if loss == "l1" else 0)
    words = np.zeros((50, problem.proof_words), dtype=np.uint64)
    most = samples * outputs + problem.most_rays if loss == "l1" else 2**problem.most_rays
    words[:, :basis] = rng.integers(0, most, size=(50, basis))
    for row in rng.choice(50, 9, replace=False):  # few have signs
        words[row, basis:] = words_of(rng.random(samples * outputs) < 0.5)[: problem.sign_words]
    ends = [0, 17, 18, 30, 50]
    stack = Stack(problem, 60)
    for start, stop in rng.permutation(list(pairwise(ends))).tolist():
        stack.add(start, stop, Proofs.kept(problem, words[start:stop]))
    whole = stack.whole()
    assert whole.bases.shape == (50, basis)
    assert len(whole.signs) == words[:, basis:].any(axis=1).sum() <= 9
    for start, stop in ((0, 50), (0, 1), (13, 31), (50, 50)):
        assert np.array_equal(whole.words(problem, start, stop), words[start:stop])
    assert np.array_equal(whole.words(problem, 0, 50), words)


def test_numbers_of_a_basis_take_one_byte_or_two() -> None:
    for samples, outputs, size in ((158, 1, 1), (252, 1, 1), (253, 1, 2), (158, 2, 2)):
        own = layer(samples, 1, 2, 0, outputs=outputs, loss="l1")
        problem = Problem.of(Layer.of(own), None)
        assert problem.most_rays == 4
        kept = Proofs.none(problem).bases
        assert (kept.shape[1], kept.dtype.itemsize) == (4, size)


@pytest.mark.parametrize(("samples", "units"), [(158, 2), (107, 3)])
def test_the_absolute_loss_takes_at_most_150_bytes_for_a_cell(samples: int, units: int) -> None:
    size = tree_size(layer(samples, 1, units, 0, loss="l1"))
    assert size.num_cells == (2 * samples) ** units
    assert 80 * size.num_cells < size.bytes < 150 * size.num_cells


# ---- vertices at which more is zero than has to be --------------------------------------------------


def tied(seed: int, outputs: int) -> Block:
    """Samples that occur twice, and whole targets: residuals are zero together."""
    rng = np.random.default_rng(seed)
    landscape = layer(9, 1, 2, seed, loss="l1", outputs=outputs).landscape
    x = rng.integers(-3, 4, size=landscape.inputs.shape) / 2
    y = rng.integers(0, 2, size=landscape.targets.shape).astype(np.float64)
    model = landscape.module_at()
    model[2].bias.data[:] = 0.0
    return Landscape(model, x, y, loss="l1").block(0)


TIED = [(2, 1), (3, 1), (0, 2), (2, 2)]


@pytest.fixture(scope="module", params=TIED)
def grown(request: pytest.FixtureRequest) -> tuple[MergeTree, Landscape]:
    block = tied(*request.param)
    return merge_tree(block), block.landscape


def test_where_nothing_ties_no_signs_are_kept() -> None:
    tree = merge_tree(layer(30, 1, 2, 0, loss="l1", outputs=2))
    assert len(tree.cell_proofs) + len(tree.facet_proofs) == tree.num_solved
    assert len(tree.cell_signs) == len(tree.facet_signs) == 0


def test_least_sums_where_residuals_tie_are_those_of_a_linear_program(
    grown: tuple[MergeTree, Landscape],
) -> None:
    tree, landscape = grown
    assert len(tree.cell_signs) > 10
    found = verify(tree, landscape)
    assert found.valid, found.reason
    problem = Problem.of(tree.layer, None)
    units, cells, _ = problem.shape
    least = []
    for code in range(problem.num_cells):
        digits = np.empty(units, dtype=np.int64)
        digits_of(code, units, cells, digits)
        design = np.hstack([
            (problem.columns[:, own][:, None] * readout[:, None]).reshape(-1, len(own))
            for own, readout in zip(problem.rays_of(digits, -1, -1), problem.units.readouts, strict=True)
        ])  # fmt: skip
        rows, count = design.shape
        least.append(
            linprog(
                np.r_[np.zeros(count), np.ones(rows)],
                A_ub=np.block([[design, -np.eye(rows)], [-design, -np.eye(rows)]]),
                b_ub=np.r_[tree.residual.ravel(), -tree.residual.ravel()],
                bounds=[(0, None)] * (count + rows),
            ).fun
        )
    assert problem.layer.scale * min(least) == pytest.approx(tree.losses[0], abs=1e-12)
    codes = tree.cells @ cells ** np.arange(units - 1, -1, -1)
    told = problem.layer.scale * np.array(least)[codes]
    np.testing.assert_allclose(tree.losses, told, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["cell", "facet"])
def test_signs_that_are_left_out_or_turned_are_missed(
    grown: tuple[MergeTree, Landscape], kind: str
) -> None:
    tree, landscape = grown
    name, signs = f"{kind}_signs", getattr(tree, f"{kind}_signs")
    needed = 0
    for row in range(0, len(signs), 4):
        without = replace(tree, **{name: np.delete(signs, row, axis=0)})
        turned = signs.copy()
        turned[row, 1:] = ~turned[row, 1:]
        found = [verify(forged, landscape) for forged in (without, replace(tree, **{name: turned}))]
        assert all(one.valid or "not the least one" in one.reason for one in found)
        needed += not any(one.valid for one in found)
    assert needed > 0.7 * len(range(0, len(signs), 4))  # in the others, slopes balance either way


@pytest.mark.parametrize("kind", ["cell", "facet"])
def test_another_basis_is_rejected_or_has_the_same_sum(
    grown: tuple[MergeTree, Landscape], kind: str
) -> None:
    tree, landscape = grown
    rng, name, rejected = np.random.default_rng(1), f"{kind}_proofs", 0
    for _ in range(40):
        proofs = getattr(tree, name).copy()
        place = rng.integers(len(proofs)), rng.integers(2)  # every cell has two rays at least
        other = rng.integers(tree.residual.size + proofs.shape[1])
        proofs[place] = (proofs[place] + 1) % 255 if proofs[place] == other else other
        rejected += not verify(replace(tree, **{name: proofs}), landscape).valid
    assert rejected > 25


def test_signs_of_no_proof_or_of_another_layer_are_rejected(
    grown: tuple[MergeTree, Landscape],
) -> None:
    tree, landscape = grown
    signs = tree.cell_signs
    beyond, behind = signs.copy(), signs.copy()
    beyond[-1, 0] = len(tree.cell_proofs)
    behind[-1, 0] = 2**63
    forged: list[Any] = [
        beyond, behind, signs[::-1], signs[[0, *range(len(signs))]], signs[:, :-1], signs[0],
        np.hstack([signs, signs[:, 1:]]), signs.astype(np.float64),
    ]  # fmt: skip
    for changed in forged:
        found = verify(replace(tree, cell_signs=changed), landscape)
        assert not found.valid
        assert "\n" not in found.reason
    huge = tree.cell_proofs.astype(np.uint64)
    huge[0, 0] = 2**64 - 1
    assert not verify(replace(tree, cell_proofs=huge), landscape).valid


def test_signs_are_the_same_in_a_file_a_store_and_parts(
    grown: tuple[MergeTree, Landscape], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, landscape = grown
    read = MergeTree.load(tree.save(tmp_path / "tree.nc"))
    monkeypatch.setattr("reluscape.trees.values.CHUNK", 37)
    stored = merge_tree(landscape.block(0), store=tmp_path / "study.sqlite")
    for other in (read, stored):
        for kind in ("cell", "facet", "bundle"):
            for name in (f"{kind}_proofs", f"{kind}_signs"):
                one, two = getattr(tree, name), getattr(other, name)
                assert one.dtype == two.dtype
                assert np.array_equal(one, two)
    assert verify(read, landscape).valid
    monkeypatch.setattr("reluscape.trees.check_sums.MANY", 11)
    monkeypatch.setattr("reluscape.trees.check_sums.BATCH", 400)
    assert verify(stored, landscape).valid


def test_below_a_level_bounds_keep_their_signs(grown: tuple[MergeTree, Landscape]) -> None:
    tree, landscape = grown
    part = merge_tree(landscape.block(0), below=float(tree.losses[0]))
    assert len(part.bundle_proofs)
    found = verify(part, landscape)
    assert found.valid, found.reason
    changed = replace(part, bundle_signs=np.array([[len(part.bundle_proofs), 1]], dtype=np.uint64))
    assert not verify(changed, landscape).valid


@pytest.mark.parametrize(("seed", "outputs"), TIED)
def test_rationals_tell_the_same_signs(seed: int, outputs: int) -> None:
    pytest.importorskip("flint", reason="rational arithmetic needs python-flint")
    block = tied(seed, outputs)
    tree, exact = merge_tree(block), merge_tree(block, arithmetic="rational")
    np.testing.assert_allclose(tree.losses[0], exact.losses[0], rtol=0, atol=1e-12)
    found = verify(exact, block.landscape)
    assert found.valid, found.reason
    rejected = 0
    for row in range(0, len(exact.facet_signs), 9):
        without = np.delete(exact.facet_signs, row, axis=0)
        rejected += not verify(replace(exact, facet_signs=without), block.landscape).valid
    assert rejected > 0


def test_signs_count_in_what_a_tree_takes() -> None:
    block = tied(2, 2)
    tree, size = merge_tree(block), tree_size(block)
    kept = [
        getattr(tree, f"{kind}_{part}")
        for kind in ("cell", "facet")
        for part in ("proofs", "signs")
    ]
    problem, count = Problem.of(tree.layer, None), tree.num_cells + tree.num_facets
    numbers = 8 * (6 * tree.num_cells + 2 * tree.num_facets + len(problem.cones.rays) ** 2)
    numbers += 8 * problem.proof_words * count  # at work
    numbers += problem.columns.nbytes
    assert size.bytes == numbers + sum(part.nbytes for part in kept)


@pytest.mark.parametrize(("inputs", "samples"), [(1, 1000), (2, 100), (3, 40), (4, 20)])
def test_finding_the_cells_counts_in_what_a_tree_takes(inputs: int, samples: int) -> None:
    """By what NumPy's arrays take at once, which leaves out compiled code's tables."""
    own = layer(samples, inputs, 1, 0)
    size = tree_size(own)
    tracemalloc.start()
    try:
        Problem.of(Layer.of(own), None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0.3 * size.bytes < peak < 1.2 * size.bytes


def test_rational_trees_have_a_size_of_their_own() -> None:
    pytest.importorskip("flint", reason="rational arithmetic needs python-flint")
    own = layer(10, 1, 2, 0)
    size, exact = tree_size(own), tree_size(own, arithmetic="rational")
    assert (size.num_cells, size.num_facets) == (exact.num_cells, exact.num_facets) == (400, 800)
    assert exact.seconds > 20 * size.seconds
    with pytest.raises(InputError, match="arithmetic"):
        tree_size(own, arithmetic="exact")
    with pytest.raises(InputError, match="20,000"):
        tree_size(layer(100, 1, 2, 0), arithmetic="rational")
