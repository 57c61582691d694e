"""Merge trees in rational arithmetic against fractions, all active sets, and another union of cells."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import cache
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
import torch
from gauss import solved
from test_merge_tree import layer

from reluscape import Landscape, MergeTree, merge_tree, verify
from reluscape.check_block import RejectedError
from reluscape.errors import InputError
from reluscape.train import mlp

pytest.importorskip("flint", reason="rational arithmetic needs python-flint")

Row = list[Fraction]


def block_of(x: list[float], y: list[float], readouts: list[float], loss: str = "squared") -> Any:
    """One input, a bias, one output without a bias, on these samples."""
    model = mlp((1, len(readouts), 1), seed=0).double()
    with torch.no_grad():
        model[2].weight.copy_(torch.tensor([readouts], dtype=torch.float64))
        model[2].bias.zero_()
    data = [np.array(values, dtype=np.float64)[:, None] for values in (x, y)]
    return Landscape(model, *data, loss=loss).block(0)


# ---- the oracle: one input and a bias, so that a unit's rays lie around a circle ----------------------


def dot(a: Row, b: Row) -> Fraction:
    return sum((p * q for p, q in zip(a, b, strict=True)), Fraction(0))


def least(columns: list[Row], target: Row) -> Fraction:
    """The least sum of squares over nonnegative lengths, by all active sets."""
    best = dot(target, target)
    for size in range(1, len(columns) + 1):
        for chosen in combinations(columns, size):
            gram = [[dot(a, b) for b in chosen] for a in chosen]
            right = [dot(a, target) for a in chosen]
            lengths = solved(gram, right)
            if lengths is not None and min(lengths) >= 0:
                best = min(best, dot(target, target) - dot(lengths, right))
    return best


def least_absolute(columns: list[Row], target: Row) -> Fraction:
    """The least sum of absolute residuals over nonnegative lengths, by all vertices."""
    count, rows = len(columns), [list(row) for row in zip(*columns, strict=True)]
    axes = [[Fraction(int(j == k)) for j in range(count)] for k in range(count)]
    planes = [*zip(rows, target, strict=False), *((axis, Fraction(0)) for axis in axes)]
    best = sum((abs(value) for value in target), Fraction(0))
    for chosen in combinations(planes, count):
        lengths = solved([list(row) for row, _ in chosen], [value for _, value in chosen])
        if lengths is not None and (not lengths or min(lengths) >= 0):
            left = (abs(y - dot(row, lengths)) for row, y in zip(rows, target, strict=False))
            best = min(best, sum(left, Fraction(0))) if rows else best
    return best


def pairs_by_fractions(
    x: list[float], y: list[float], readouts: list[float], loss: str = "squared"
) -> list[tuple[float, float]]:
    """Births and deaths, exact and then rounded once, ascending."""
    places, target = [Fraction(value) for value in x], [Fraction(value) for value in y]
    lines = [(Fraction(1), -value) for value in sorted(set(places), reverse=True)]
    rays = lines + [(-w, -b) for w, b in lines]  # around the circle: -x, the angle, ascends
    count, units = len(rays), len(readouts)
    outputs = [[max(w * value + b, Fraction(0)) for value in places] for w, b in rays]

    @cache
    def value(*sides: tuple[int, ...]) -> Fraction:
        columns = [
            [Fraction(readouts[unit]) * one for one in outputs[ray]]
            for unit, own in enumerate(sides)
            for ray in own
        ]
        return (least_absolute if loss == "l1" else least)(columns, target) / len(x)

    def around(cell: int) -> tuple[int, ...]:
        return cell, (cell + 1) % count

    lowest = {cell: value(*map(around, cell)) for cell in product(range(count), repeat=units)}
    edges = []
    for cell in lowest:
        for unit in range(units):
            other = tuple((c + 1) % count if k == unit else c for k, c in enumerate(cell))
            shared = [around(c) for c in cell]
            shared[unit] = (other[unit],)
            edges.append((value(*shared), cell, other))
    group = {cell: cell for cell in lowest}

    def root(cell: tuple[int, ...]) -> tuple[int, ...]:
        while group[cell] != cell:
            cell = group[cell]
        return cell

    found = []
    for level, one, other in sorted(edges):
        low, high = sorted((root(one), root(other)), key=lambda cell: lowest[cell])
        if low != high:
            group[high] = low
            if lowest[high] < level:
                found.append((float(lowest[high]), float(level)))
    found += [(float(low), np.inf) for cell, low in lowest.items() if root(cell) == cell]
    return sorted(found)


EXACT: list[tuple[list[float], list[float], list[float]]] = [
    ([0, 1, 2], [1, 0, 1], [1]),
    ([-2, -1, 0, 1, 2], [2, 1, 0, 1, 2], [1, 1]),  # its minima are mirrored: exact ties
    ([-1, 0, 1], [1, -1, 1], [1, -1]),
    ([-2, -1, 1, 2], [1, -1, -1, 1], [2, -3]),
    ([0, 1, 3, 4], [0, 2, 2, 0], [1, 2]),  # units alike but for their scale
    ([0, 0, 1, 2], [1, -1, 0, 3], [1, -1]),  # a sample with two targets
    ([-3, -1, 0, 2], [0, 0, 0, 0], [1, -1]),  # nothing to fit
    ([0.1, 0.3, 0.7, 1.9], [0.2, -0.1, 0.4, 0.05], [0.3, -0.7]),
]


@pytest.mark.parametrize("loss", ["squared", "l1"])
@pytest.mark.parametrize(("x", "y", "readouts"), EXACT)
def test_births_and_deaths_are_those_of_fractions_to_the_last_digit(
    x: list[float], y: list[float], readouts: list[float], loss: str
) -> None:
    block = block_of(x, y, readouts, loss)
    tree = merge_tree(block, arithmetic="rational")
    ours = sorted(zip(tree.losses.tolist(), tree.deaths.tolist(), strict=True))
    assert ours == pairs_by_fractions(x, y, readouts, loss)
    assert verify(tree, block.landscape).valid


@pytest.mark.parametrize("loss", ["squared", "l1"])
@pytest.mark.parametrize("seed", range(6))
def test_random_whole_numbers(seed: int, loss: str) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.integers(-3, 4, size=(2, 4)).astype(float).tolist()
    readouts = rng.choice([-2.0, -1.0, 1.0, 2.0], size=2).tolist()
    tree = merge_tree(block_of(x, y, readouts, loss), arithmetic="rational")
    ours = sorted(zip(tree.losses.tolist(), tree.deaths.tolist(), strict=True))
    assert ours == pairs_by_fractions(x, y, readouts, loss)


def test_mirrored_minima_tie_exactly() -> None:
    tree = merge_tree(block_of(*EXACT[1][:2], [1.0, 2.0]), arithmetic="rational")
    images = {tuple(sorted(tree.losses[tree.losses == loss])) for loss in tree.losses}
    assert all(len(image) % 2 == 0 or image[0] == tree.losses[0] for image in images)
    assert tree.tolerance == 0.0


# ---- one least point -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_pivots_end_at_the_least_point_whatever_the_guess(seed: int) -> None:
    from reluscape.arithmetic import Rational
    from reluscape.trees.exact_squares import exact_squares

    rng, numbers = np.random.default_rng(seed), Rational()
    columns = rng.integers(-2, 3, size=(4, 5))  # five columns of four numbers depend on each other
    target = rng.integers(-3, 4, size=4)
    guess = np.flatnonzero(rng.integers(0, 2, size=5)).tolist()
    found = exact_squares(
        numbers.array(columns.T @ columns), numbers.array(columns.T @ target),
        numbers.array(np.array([target @ target]))[0], guess, numbers,
    )  # fmt: skip
    as_rows = [[Fraction(int(value)) for value in column] for column in columns.T]
    expected = least(as_rows, [Fraction(int(value)) for value in target])
    assert Fraction(int(found.value.p), int(found.value.q)) == expected
    assert all(found.lengths >= 0)


@pytest.mark.parametrize("seed", range(40))
def test_blands_rule_ends_at_the_least_deviations_whatever_the_guess(seed: int) -> None:
    from reluscape.arithmetic import Rational
    from reluscape.trees.exact_absolute import checked_absolute, exact_absolute

    rng, numbers = np.random.default_rng(seed), Rational()
    rows, count = 5, int(rng.integers(1, 4))
    design, target = rng.integers(-2, 3, size=(rows, count)), rng.integers(-2, 3, size=rows)
    guess = rng.choice(rows + count, size=count, replace=bool(seed % 2)).tolist()
    signs = rng.choice([-1, 1], size=rows).tolist()
    exact = numbers.array(design), numbers.array(target)
    found = exact_absolute(*exact, guess, signs, numbers)
    columns = [[Fraction(int(value)) for value in column] for column in design.T]
    expected = least_absolute(columns, [Fraction(int(value)) for value in target])
    assert Fraction(int(found.value.p), int(found.value.q)) == expected
    assert checked_absolute(*exact, found.proof, found.signs, numbers) == found.value
    for place in range(rows + count):
        for k in range(count):
            other = [place if j == k else own for j, own in enumerate(found.proof)]
            try:
                assert checked_absolute(*exact, other, found.signs, numbers) == found.value
            except RejectedError:
                continue


# ---- against float64, and what is written --------------------------------------------------------------

CASES: list[dict[str, Any]] = [
    {"samples": 8, "inputs": 1, "units": 2, "seed": 1, "signs": [1.0, -1.0]},
    {"samples": 5, "inputs": 1, "units": 3, "seed": 3, "signs": [1.0, 1.0, -1.0]},
    {"samples": 4, "inputs": 2, "units": 2, "seed": 2, "signs": [1.0, -1.0]},
    {"samples": 6, "inputs": 2, "units": 2, "seed": 6, "bias": False},
    {"samples": 6, "inputs": 1, "units": 2, "seed": 4, "outputs": 2},
    {"samples": 6, "inputs": 1, "units": 2, "seed": 5, "slope": 0.2},
    {"samples": 3, "inputs": 5, "units": 2, "seed": 5},
    {"samples": 6, "inputs": 1, "units": 2, "seed": 7, "loss": "half_squared"},
    {"samples": 8, "inputs": 1, "units": 2, "seed": 8, "loss": "l1"},
    {"samples": 4, "inputs": 2, "units": 2, "seed": 2, "outputs": 2, "loss": "l1"},
]


@pytest.mark.parametrize("case", CASES)
def test_it_is_float64s_tree_without_its_errors(case: dict[str, Any]) -> None:
    block = layer(**case)
    tree, other = merge_tree(block, arithmetic="rational"), merge_tree(block)
    assert (tree.tier, other.tier) == ("exact", "certified")
    assert "(exact)" in tree.summary()
    np.testing.assert_allclose(tree.losses, other.losses, atol=1e-12)
    np.testing.assert_allclose(np.sort(tree.deaths), np.sort(other.deaths), atol=1e-12)
    np.testing.assert_array_equal(np.sort(tree.multiplicity), np.sort(other.multiplicity))
    for k in range(len(tree.losses)):
        assert block.loss(tree.minima[k]) == pytest.approx(tree.losses[k], abs=1e-13)
        if k:
            assert block.loss(tree.saddles[k]) == pytest.approx(tree.deaths[k], abs=1e-13)
    found = verify(tree, block.landscape)
    assert found.valid, found.reason


def test_it_is_the_same_after_a_file(tmp_path: Any) -> None:
    tree = merge_tree(layer(**CASES[0]), arithmetic="rational")
    read = MergeTree.load(tree.save(tmp_path / "tree.nc"))
    assert (read.arithmetic, read.tier) == ("rational", "exact")
    assert verify(read, layer(**CASES[0]).landscape).valid


def test_verify_forgives_no_rounding() -> None:
    block = layer(**CASES[0])
    tree = merge_tree(block, arithmetic="rational")
    last = len(tree.losses) - 1
    assert last > 0

    def next_up(values: np.ndarray) -> np.ndarray:
        changed = values.copy()
        changed[last] = np.nextafter(changed[last], np.inf)
        return changed

    forged: list[dict[str, Any]] = [
        {"losses": next_up(tree.losses), "births": next_up(tree.births)},
        {"deaths": next_up(tree.deaths)},
        {"tolerance": 1e-9},
        {"arithmetic": "decimal"},
        {"cell_proofs": tree.cell_proofs[:-1]},
        {"facet_proofs": tree.facet_proofs ^ 1},
        {"cell_proofs": tree.cell_proofs | 128},
    ]
    for fields in forged:
        assert not verify(replace(tree, **fields), block.landscape).valid, fields


def test_what_rational_arithmetic_does_not_do_is_refused(tmp_path: Any) -> None:
    block = layer(**CASES[0])
    for options in ({"tolerance": 1e-9}, {"store": tmp_path / "s.sqlite"}, {"below": 1.0}):
        with pytest.raises(InputError, match="takes no tolerance, store, dask or below"):
            merge_tree(block, arithmetic="rational", **options)
    with pytest.raises(InputError, match=r"up to 20,000 cells; the layer has 21,952 or more"):
        merge_tree(layer(15, 1, 3, 0), arithmetic="rational")
    with pytest.raises(InputError, match="arithmetic must be"):
        merge_tree(block, arithmetic="decimal")


@pytest.mark.parametrize("arithmetic", ["float64", "rational"])
@pytest.mark.parametrize("silent", ["outputs", "inputs"])
def test_layers_without_a_say_have_one_minimum(arithmetic: str, silent: str) -> None:
    model = mlp((1, 2, 1), seed=0).double()
    model[0] = torch.nn.Linear(1, 2, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model[2].bias.zero_()
        if silent == "outputs":
            model[2].weight.zero_()
    x = np.zeros((3, 1)) if silent == "inputs" else np.arange(3.0)[:, None]
    block = Landscape(model, x, np.array([[1.0], [2.0], [0.0]])).block(0)
    tree = merge_tree(block, arithmetic=arithmetic)
    assert (tree.num_cells, tree.num_facets) == (1, 0)
    assert tree.losses.tolist() == pytest.approx([5.0 / 3.0])
    assert verify(tree, block.landscape).valid
