"""Exact cells of samples that float64 does not tell apart, against counts by deletion and restriction."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from test_tree_refused import block_of

from reluscape import enumerate_cells, merge_tree, verify
from reluscape.errors import AnalysisError, InputError

pytest.importorskip("flint", reason="rational arithmetic needs python-flint")

Row = list[Fraction]


def count_regions(rows: list[Row]) -> int:
    """Regions of central hyperplanes: those without the last, and those that it is cut into."""
    rows = [row for row in rows if any(row)]
    if not rows:
        return 1
    *others, last = rows
    if any(parallel(last, row) for row in others):
        return count_regions(others)
    pivot = next(k for k, value in enumerate(last) if value)
    cut = [
        [value - row[pivot] / last[pivot] * at for value, at in zip(row, last, strict=True)]
        for row in others
    ]
    return count_regions(others) + count_regions(cut)


def parallel(one: Row, other: Row) -> bool:
    """Whether all minors are zero."""
    pairs = list(zip(one, other, strict=True))
    return all(a * d == b * c for k, (a, b) in enumerate(pairs) for c, d in pairs[:k])


def fractions(features: np.ndarray) -> list[Row]:
    return [[Fraction(value) for value in row] for row in features.tolist()]


def nearly(kind: str, gap: float, seed: int) -> np.ndarray:
    """Four samples of three inputs that float64 hardly tells, or does not."""
    x = np.random.default_rng(seed).normal(size=(4, 3))
    if kind == "parallel":
        x[1] = x[0] * (1.7 + gap)
    elif kind == "equal":
        x[1] = x[0] * (1.0 + gap * np.array([1.0, -1.0, 0.5]))
    elif kind == "dependent":
        x[2] = 0.3 * x[0] - 0.9 * x[1] + gap
    elif kind == "opposite":
        x[1], x[3] = -x[0] * (1.0 + gap), x[2] * gap
    return x


KINDS = ["parallel", "equal", "dependent", "opposite"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gap", [0.0, 1e-15, 1e-13, 1e-11, 1e-9])
def test_they_are_as_many_as_there_are(kind: str, gap: float) -> None:
    for seed in range(3):
        x = nearly(kind, gap, seed)
        block = block_of(x, np.arange(4.0)[:, None], [[1.0]], bias=False)
        tree = merge_tree(block, arithmetic="rational")
        assert tree.num_cells == count_regions(fractions(x))
        found = verify(tree, block.landscape)
        assert found.valid, found.reason


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", ["squared", "l1"])
def test_each_minimum_is_least_over_its_exact_cell(kind: str, loss: str) -> None:
    """Of points drawn in all cells around one, whose signs are told exactly, none is lower."""
    x = nearly(kind, 1e-12, 5)
    rng = np.random.default_rng(0)
    block = block_of(x, rng.normal(size=(4, 1)), [[1.0]], loss, bias=False)
    tree = merge_tree(block, arithmetic="rational")
    assert tree.tier == "exact"
    for scale in (1.0, 1e-3, 1e-6):
        for theta in tree.minima[0] + scale * rng.normal(size=(300, 3)):
            assert block.loss(theta) >= tree.losses[0] - 1e-12 * tree.layer.zero_loss


def test_they_have_float64s_numbers_where_that_sees_the_same() -> None:
    rng = np.random.default_rng(1)
    for samples, inputs in ((6, 1), (5, 2), (4, 3)):
        x = rng.normal(size=(samples, inputs))
        block = block_of(x, rng.normal(size=(samples, 1)), [[1.0]], bias=True)
        exact, tree = merge_tree(block, arithmetic="rational"), merge_tree(block)
        assert exact.num_cells == tree.num_cells
        patterns = enumerate_cells(tree.features).unpack(exact.cells[:, 0])
        values = tree.features @ tree.layer.unpack(exact.minima)[:, 0].T
        sure = np.abs(values) > 1e-9
        np.testing.assert_array_equal((values > 0)[sure], patterns.T[sure])


def test_samples_that_float64_refuses_have_an_exact_tree() -> None:
    refused = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=3) + 1e-12 * rng.normal(size=(4, 3))
        block = block_of(x, rng.normal(size=(4, 1)), [[1.0]])
        tree = merge_tree(block, arithmetic="rational")
        assert tree.num_cells == count_regions(fractions(tree.features))
        assert verify(tree, block.landscape).valid
        try:
            merge_tree(block)
        except AnalysisError:
            refused += 1
    assert refused > 0


def test_more_lines_than_are_gone_through_are_refused() -> None:
    x = np.random.default_rng(0).normal(size=(150, 4))
    block = block_of(x, np.ones((150, 1)), [[1.0]], bias=False)
    with pytest.raises(InputError, match="meet in up to 100,000 lines"):
        merge_tree(block, arithmetic="rational", max_cells=10**9)


def test_it_has_no_more_cells_than_are_allowed() -> None:
    block = block_of(np.arange(1.0, 9.0)[:, None], np.ones((8, 1)), [[1.0]])
    with pytest.raises(InputError, match=r"up to 10 cells; the layer has 11 or more"):
        merge_tree(block, arithmetic="rational", max_cells=10)
