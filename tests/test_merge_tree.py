"""Merge trees against other solvers, other enumerations, and descents from everywhere."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize, nnls
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree
from torch import nn

from reluscape import Landscape, Study, merge_tree, path_maximum
from reluscape.block import Block
from reluscape.errors import InputError, UnsupportedModelError
from reluscape.train import mlp
from reluscape.trees import values
from reluscape.trees.absolute import least_absolute
from reluscape.trees.nonnegative import is_least, least_squares


def layer(
    samples: int, inputs: int, units: int, seed: int, *, loss: str = "squared", bias: bool = True,
    outputs: int = 1, slope: float = 0.0, signs: list[float] | None = None,
) -> Block:  # fmt: skip
    """The first layer of a random network with one hidden layer."""
    rng = np.random.default_rng(seed)
    rectifier = nn.LeakyReLU(slope) if slope else nn.ReLU()
    model = nn.Sequential(
        nn.Linear(inputs, units, bias=bias), rectifier, nn.Linear(units, outputs)
    ).double()
    weights = rng.uniform(0.5, 2.0, size=(outputs, units)) * (
        rng.choice([-1.0, 1.0], size=(outputs, units)) if signs is None else np.array(signs)
    )
    state = {
        "0.weight": rng.normal(size=(units, inputs)),
        "2.weight": weights,
        "2.bias": 0.3 * rng.normal(size=outputs),
    } | ({"0.bias": rng.normal(size=units)} if bias else {})
    model.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    data = rng.normal(size=(samples, inputs)), rng.normal(size=(samples, outputs))
    return Landscape(model, *data, loss=loss).block(0)


# ---- the small problems ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(30))
def test_least_squares_over_a_cone_are_those_of_another_solver(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, count = rng.integers(1, 12), rng.integers(1, 9)
    design, target = rng.normal(size=(rows, count)), rng.normal(size=rows)
    if seed % 3 == 0:  # dependent columns, zero ones, and opposite ones
        design[:, rng.integers(count)] = 0.0
        design[:, -1] = -design[:, 0]
    gram, right, size = design.T @ design, design.T @ target, target @ target
    solution, factor, trial = np.empty(count), np.empty((count, count)), np.empty(count)
    free, barred = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.bool_)
    value, used = least_squares(
        gram, right, count, size, solution, factor, free, trial, barred
    )  # fmt: skip
    assert is_least(
        gram, right, count, size, value, solution, factor, free, used, trial, barred, False, 1.0
    )
    best = nnls(design, target)[1] ** 2
    assert used == (solution > 0).sum()
    assert (solution >= 0).all()
    assert target @ target + 2 * value == pytest.approx(best, abs=1e-11)
    assert ((target - design @ solution) ** 2).sum() == pytest.approx(best, abs=1e-11)


@pytest.mark.parametrize("seed", range(30))
def test_least_absolute_deviations_over_a_cone_are_those_of_a_linear_program(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, count = rng.integers(1, 20), rng.integers(1, 8)
    design, target = np.maximum(rng.normal(size=(rows, count)), 0.0), rng.normal(size=rows)
    design *= rng.choice([-1.0, 1.0], size=count)
    if seed % 3 == 0:  # ties, residuals that are zero, opposite columns
        design, target = np.round(2 * design) / 2, np.round(target)
    if seed % 5 == 0 and count > 1:
        design[:, 1] = -design[:, 0]
    places, numbers = (count, count), (count,)
    solution = np.empty(numbers)
    value, sure = least_absolute(
        np.ascontiguousarray(design.T), target, rows, count, solution,
        np.empty(numbers, dtype=np.int64), np.empty(places), np.empty(rows), np.empty((count, rows)),
        np.empty(rows), np.empty(rows), np.empty(rows, dtype=np.int64), False, 1.0,
    )  # fmt: skip
    best = linprog(
        np.r_[np.zeros(count), np.ones(rows)],
        A_ub=np.block([[design, -np.eye(rows)], [-design, -np.eye(rows)]]),
        b_ub=np.r_[target, -target],
        bounds=[(0, None)] * (count + rows),
    ).fun
    assert sure
    assert value == pytest.approx(best, abs=1e-9)
    assert np.abs(target - design @ solution).sum() == pytest.approx(best, abs=1e-9)


# ---- the tree against an enumeration that shares nothing with it ------------------------------------


def signs_of_units(features: np.ndarray) -> list[tuple[int, ...]]:
    """Sign vectors of a unit's cells, each shown to be open by a linear program."""
    found = []
    for signs in product((-1, 1), repeat=len(features)):
        rows = np.array(signs)[:, None] * features
        size = features.shape[1]
        answer = linprog(
            np.r_[np.zeros(size), -1.0],
            A_ub=np.c_[-rows, np.ones(len(rows))],
            b_ub=np.zeros(len(rows)),
            bounds=[(-1, 1)] * size + [(None, 1)],
        )
        if -answer.fun > 1e-7:
            found.append(signs)
    return found


def least_loss(block: Block, signs: list[tuple[int, ...]], zero: tuple[int, int] | None) -> float:
    """The least loss over a closed cell, or over one of its facets, as a program in the weights."""
    features = np.c_[block.piecewise.features, np.ones(block.num_samples)]
    maps = block.piecewise.maps[1]
    weights, shift = maps.matrix[0], maps.shift
    active = np.array(signs).T > 0
    design = (active * weights)[:, :, None] * features[:, None, :]
    design = design.reshape(len(features), -1)
    target = block.piecewise.targets[:, 0] - shift
    walls = []
    for unit, own in enumerate(signs):
        for sample, sign in enumerate(own):
            wall = np.zeros((len(signs), features.shape[1]))
            wall[unit] = sign * features[sample]
            walls.append(wall.ravel())
    walls_array = np.array(walls)
    same = [walls_array[zero[0] * len(features) + zero[1]]] if zero is not None else []
    if block.landscape.loss_name == "l1":
        size, count = design.shape[1], len(target)
        answer = linprog(
            np.r_[np.zeros(size), np.ones(count) / count],
            A_ub=np.block([[design, -np.eye(count)], [-design, -np.eye(count)],
                           [-walls_array, np.zeros((len(walls), count))]]),
            b_ub=np.r_[target, -target, np.zeros(len(walls))],
            A_eq=np.c_[np.array(same), np.zeros((1, count))] if same else None,
            b_eq=[0.0] if same else None,
            bounds=[(None, None)] * size + [(0, None)] * count,
        )  # fmt: skip
        return float(answer.fun)
    # least distance: with `w = T u` from an orthogonal basis, `min |E w - f|` over `G w >= 0` by duality
    ridge = 1e-7 * np.eye(design.shape[1])
    left = np.vstack([design, ridge])
    right = np.r_[target, np.zeros(len(ridge))]
    upper = np.linalg.qr(left, mode="r")
    inverse = np.linalg.inv(upper)
    middle = inverse.T @ left.T @ right
    sides = np.vstack([walls_array, *[-one for one in same]]) @ inverse
    dual = nnls(np.vstack([sides.T, -(sides @ middle)]), np.r_[np.zeros(len(middle)), 1.0])
    rest = np.vstack([sides.T, -(sides @ middle)]) @ dual[0] - np.r_[np.zeros(len(middle)), 1.0]
    step = -rest[:-1] / rest[-1] if dual[1] > 1e-12 else np.zeros(len(middle))
    weights_found = inverse @ (middle + step)
    return float(((design @ weights_found - target) ** 2).mean())


def minimax(block: Block) -> tuple[list[float], list[float]]:
    """Losses at which basins begin, and those at which they join, by a spanning tree of all cells."""
    features = np.c_[block.piecewise.features, np.ones(block.num_samples)]
    units = signs_of_units(features)
    cells = list(product(range(len(units)), repeat=block.piecewise.width))
    place = {cell: k for k, cell in enumerate(cells)}
    least = [least_loss(block, [units[c] for c in cell], None) for cell in cells]
    rows, columns, levels = [], [], []
    for cell in cells:
        for unit, own in enumerate(cell):
            for other in range(own + 1, len(units)):
                differ = np.flatnonzero(np.array(units[own]) != np.array(units[other]))
                if len(differ) == 1:
                    near = (*cell[:unit], other, *cell[unit + 1 :])
                    rows.append(place[cell])
                    columns.append(place[near])
                    signs = [units[c] for c in cell]
                    levels.append(least_loss(block, signs, (unit, int(differ[0]))))
    graph = coo_array((np.array(levels) + 1.0, (rows, columns)), shape=(len(cells), len(cells)))
    spanning = minimum_spanning_tree(graph.tocsr()).tocoo()
    component = {k: {k} for k in range(len(cells))}
    ends = []
    for level, a, b in sorted(zip(spanning.data - 1.0, *spanning.coords, strict=True)):
        one, other = component[a], component[b]
        higher = max(min(least[k] for k in one), min(least[k] for k in other))
        if level - higher > 1e-6:
            ends.append((higher, level))
        one |= other
        for k in other:
            component[k] = one
    ends.sort()
    return [min(least), *(birth for birth, _ in ends)], [death for _, death in ends]


@pytest.mark.parametrize(
    ("samples", "inputs", "units", "seed", "loss"),
    [(5, 1, 2, 0, "squared"), (4, 2, 2, 2, "squared"),
     (6, 2, 1, 3, "squared"), (5, 1, 2, 0, "l1"), (4, 2, 2, 1, "l1"), (3, 1, 3, 4, "l1")],
)  # fmt: skip
def test_the_tree_is_that_of_another_enumeration_with_other_programs(
    samples: int, inputs: int, units: int, seed: int, loss: str
) -> None:
    block = layer(samples, inputs, units, seed, loss=loss)
    tree = merge_tree(block, tolerance=1e-6)
    births, deaths = minimax(block)
    np.testing.assert_allclose(tree.losses, births, atol=2e-7)
    known = np.sort(tree.deaths[1:])
    np.testing.assert_allclose(known, np.sort(deaths), atol=2e-7)


# ---- what has to hold whatever the layer ------------------------------------------------------------

CASES = [
    {"samples": 12, "inputs": 1, "units": 2, "seed": 0},
    {"samples": 12, "inputs": 1, "units": 2, "seed": 1, "signs": [1.0, -1.0]},
    {"samples": 8, "inputs": 2, "units": 2, "seed": 2, "signs": [1.0, 1.0]},
    {"samples": 9, "inputs": 1, "units": 3, "seed": 3},
    {"samples": 9, "inputs": 1, "units": 2, "seed": 4, "outputs": 2},
    {"samples": 9, "inputs": 1, "units": 2, "seed": 5, "slope": 0.2},
    {"samples": 9, "inputs": 2, "units": 2, "seed": 6, "bias": False},
    {"samples": 10, "inputs": 1, "units": 2, "seed": 7, "loss": "half_squared"},
    {"samples": 10, "inputs": 1, "units": 2, "seed": 8, "loss": "l1"},
    {"samples": 7, "inputs": 2, "units": 2, "seed": 9, "loss": "l1"},
]


@pytest.mark.parametrize("case", CASES)
def test_minima_and_saddles_have_the_losses_that_are_told(case: dict[str, Any]) -> None:
    block = layer(**case)
    tree = merge_tree(block)
    for k, loss in enumerate(tree.losses):
        assert block.loss(tree.minima[k]) == pytest.approx(loss, abs=1e-12)
        if k:
            assert block.loss(tree.saddles[k]) == pytest.approx(tree.deaths[k], abs=1e-12)
    assert (np.diff(tree.losses) >= 0).all()
    assert (tree.deaths > tree.births).all()
    assert tree.num_failed == 0


@pytest.mark.parametrize("case", CASES)
def test_no_way_from_a_minimum_falls(case: dict[str, Any]) -> None:
    block, rng = layer(**case), np.random.default_rng(0)
    tree = merge_tree(block)
    for k in range(min(len(tree.losses), 20)):
        for _ in range(100):  # so near that not even the smallest basin is left
            near = tree.minima[k] + 1e-7 * rng.normal(size=block.size)
            assert block.loss(near) >= tree.losses[k] - 1e-12


@pytest.mark.parametrize("case", CASES)
def test_every_descent_stands_above_a_minimum_of_the_tree_with_no_barrier_between(
    case: dict[str, Any],
) -> None:
    block, rng = layer(**case), np.random.default_rng(1)
    tree = merge_tree(block)
    for _ in range(6):
        start = 2.0 * rng.normal(size=block.size)
        found = minimize(block.loss, start, method="Nelder-Mead", options={"maxiter": 400})
        assert found.fun >= tree.losses[0] - 1e-12
        reached = [tree.barrier(found.x, theta).level <= found.fun + 1e-9 for theta in tree.minima]
        assert any(reached)


@pytest.mark.parametrize("case", [case for case in CASES if "outputs" not in case])
def test_the_path_of_a_barrier_is_no_higher_than_it_by_another_maximum(
    case: dict[str, Any],
) -> None:
    block = layer(**case)
    tree = merge_tree(block)
    columns = block.landscape.positions(block.layer)

    def whole(theta: np.ndarray) -> np.ndarray:
        point = block.landscape.theta
        point[columns] = theta
        return point

    for k in range(1, min(len(tree.losses), 6)):
        found = tree.barrier(tree.minima[k], tree.minima[0])
        beads = [whole(bead) for bead in found.beads]
        highest = max(path_maximum(block.landscape, a, b).upper for a, b in pairwise(beads))
        assert highest == pytest.approx(found.level, rel=1e-9, abs=1e-12)
        assert found.level >= tree.deaths[k] - 1e-12
        np.testing.assert_array_equal(found.beads[[0, -1]], tree.minima[[k, 0]])
        assert found.losses.max() == found.level
        for before, after in pairwise(pairwise(beads)):  # no bead is passed by below the barrier
            past = path_maximum(block.landscape, before[0], after[1]).upper
            assert past >= found.level * (1 - 1e-9) or block.landscape.loss(after[0]) == found.level


@pytest.mark.parametrize("loss", ["squared", "l1"])
def test_ways_through_many_cells_have_few_beads(loss: str) -> None:
    tree = merge_tree(layer(14, 1, 2, 5, loss=loss))
    counts = [len(tree.barrier(theta, tree.minima[0]).beads) for theta in tree.minima[1:]]
    assert len(counts) > 4
    assert max(counts) <= 12  # the ways cross dozens of facets


@pytest.mark.parametrize("case", CASES)
def test_the_highest_points_of_straight_lines_are_those_of_a_fine_grid(
    case: dict[str, Any],
) -> None:
    own, rng = merge_tree(layer(**case)).layer, np.random.default_rng(0)
    start, ends = rng.normal(size=len(own.theta)), rng.normal(size=(5, len(own.theta)))
    found = own.highest(start, ends)
    for end, highest in zip(ends, found, strict=True):
        losses = [own.value(start + t * (end - start)) for t in np.linspace(0.0, 1.0, 1001)]
        assert max(losses) <= highest + 1e-12
        assert max(losses) == pytest.approx(highest, rel=1e-2)


@pytest.mark.parametrize("case", CASES)
def test_the_order_of_units_and_samples_changes_nothing(case: dict[str, Any]) -> None:
    block = layer(**case)
    tree = merge_tree(block)
    state = {
        name: value.clone() for name, value in block.landscape.module_at().state_dict().items()
    }
    order = np.random.default_rng(0).permutation(case["units"])
    for name in ("0.weight", "0.bias"):
        if name in state:
            state[name] = state[name][order]
    state["2.weight"] = state["2.weight"][:, order]
    model = block.landscape.module_at()
    model.load_state_dict(state)
    rows = np.random.default_rng(1).permutation(case["samples"])
    landscape = block.landscape
    other = merge_tree(
        Landscape(
            model, landscape.inputs[rows], landscape.targets[rows], loss=landscape.loss_name
        ).block(0)
    )
    assert other.num_cells == tree.num_cells
    np.testing.assert_allclose(other.losses, tree.losses, atol=1e-12)
    np.testing.assert_allclose(np.sort(other.deaths[1:]), np.sort(tree.deaths[1:]), atol=1e-12)
    np.testing.assert_array_equal(np.sort(other.multiplicity), np.sort(tree.multiplicity))


def test_units_that_act_alike_have_exchanged_copies_of_every_minimum() -> None:
    block = layer(9, 1, 3, 11, signs=[1.0, 1.0, 1.0])
    tree = merge_tree(block)
    rows = tree.layer.unpack(tree.minima) * block.piecewise.maps[1].matrix[0][:, None]
    for k in range(len(tree.losses)):
        alike = [
            j for j in range(len(tree.losses))
            if np.allclose(tree.losses[j], tree.losses[k], atol=1e-10)
            and np.allclose(np.sort(rows[j].ravel()), np.sort(rows[k].ravel()), atol=1e-6)
        ]  # fmt: skip
        assert tree.multiplicity[k] == len(alike)


def test_samples_that_occur_twice_and_units_that_nothing_reads_change_nothing() -> None:
    block = layer(8, 1, 2, 3)
    landscape = block.landscape
    twice = Landscape(
        landscape.module_at(),
        np.vstack([landscape.inputs] * 2),
        np.vstack([landscape.targets] * 2),
    ).block(0)
    tree, again = merge_tree(block), merge_tree(twice)
    assert again.num_cells == tree.num_cells
    np.testing.assert_allclose(again.losses, tree.losses, atol=1e-12)
    wider = mlp((1, 3, 1), seed=0).double()
    state = landscape.module_at().state_dict()
    with torch.no_grad():
        for name, value in wider.state_dict().items():
            value.zero_()
            value[tuple(slice(0, size) for size in state[name].shape)] = state[name]
    silent = merge_tree(Landscape(wider, landscape.inputs, landscape.targets).block(0))
    assert silent.num_cells == tree.num_cells
    np.testing.assert_allclose(silent.losses, tree.losses, atol=1e-12)


def test_threads_and_a_file_give_the_same_tree(tmp_path: Any) -> None:
    block = layer(14, 1, 2, 5)
    tree, other = merge_tree(block), merge_tree(block, jobs=2)
    read = type(tree).load(tree.save(tmp_path / "tree.nc"))
    for one in (other, read):
        for name in ("minima", "losses", "deaths", "saddles", "joins", "levels", "multiplicity"):
            np.testing.assert_array_equal(getattr(one, name), getattr(tree, name))
    ends = tree.minima[-1], tree.minima[0]
    np.testing.assert_array_equal(read.barrier(*ends).beads, tree.barrier(*ends).beads)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("share", [0.02, 0.3])
def test_below_a_loss_the_tree_is_the_part_of_the_whole_one(
    case: dict[str, Any], share: float
) -> None:
    block = layer(**case)
    tree = merge_tree(block)
    level = float(tree.losses[0] + share * (tree.layer.zero_loss - tree.losses[0]))
    part = merge_tree(block, below=level)
    kept = tree.losses <= level
    deaths = np.where(tree.deaths <= level, tree.deaths, np.inf)[kept]
    np.testing.assert_allclose(part.losses, tree.losses[kept], atol=1e-13)
    np.testing.assert_allclose(np.sort(part.deaths), np.sort(deaths), atol=1e-13)
    assert part.num_pruned > 0
    for k in range(len(part.losses)):
        exact = tree.barrier(part.minima[k], part.minima[0]).level
        found = part.barrier(part.minima[k], part.minima[0]).level
        assert found == pytest.approx(exact, abs=1e-12) if exact <= level else np.isinf(found)


def test_below_the_global_minimum_there_is_nothing() -> None:
    block = layer(10, 1, 2, 0)
    tree = merge_tree(block, below=0.5 * merge_tree(block).losses[0])
    assert len(tree.losses) == 0
    assert "no loss is at most" in tree.summary()


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from test_merge_tree import layer
from reluscape import merge_tree
from reluscape.trees import values
values.CHUNK = 500
told = lambda what, share: print(share if what.startswith("trial") else 0.0, flush=True)
merge_tree(layer(20, 1, 2, 5), store={store!r}, progress=told)
"""


def test_a_killed_run_goes_on_from_its_file_to_the_same_tree(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(values, "CHUNK", 500)
    block, store = layer(20, 1, 2, 5), tmp_path / "tree.sqlite"
    code = KILLED.format(tests=str(Path(__file__).parent), store=str(store))
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    for line in run.stdout:
        if float(line) > 0.3:
            run.kill()
            break
    run.wait()
    run.stdout.close()
    kept = Study(store).standing().done
    assert 0 < kept < 10
    tree = merge_tree(block, store=store)
    whole = merge_tree(block)
    for name in ("minima", "losses", "deaths", "saddles", "joins", "levels", "num_solved"):
        np.testing.assert_array_equal(getattr(tree, name), getattr(whole, name))
    moved = replace(block, theta=block.theta + 1.0)
    again = merge_tree(moved, store=store)  # the layer's own weights do not matter
    np.testing.assert_array_equal(again.minima, tree.minima)
    with pytest.raises(InputError, match=r"keeps another tree: .* give another `store`") as raised:
        merge_tree(layer(20, 1, 2, 6), store=store)
    assert raised.value.__suppress_context__  # its message holds the layer as text
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300 + len(str(store))


@pytest.mark.parametrize("loss", ["squared", "l1"])
@pytest.mark.parametrize("kind", ["exchanged", "one bit", "zeros", "cut", "gone"])
def test_chunks_that_are_not_those_written_are_solved_again(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, kind: str, loss: str
) -> None:
    monkeypatch.setattr(values, "CHUNK", 500)
    block, store = layer(20, 1, 2, 5, loss=loss), tmp_path / "tree.sqlite"
    whole = merge_tree(block, store=store)
    files = sorted(Path(f"{store}.arrays").iterdir())
    rng = np.random.default_rng(0)
    for one, other in zip(files[::2], files[1::2], strict=False):
        content, second = one.read_bytes(), other.read_bytes()
        at = int(rng.integers(len(content) // 2, len(content)))
        flipped = bytes([content[at] ^ 1 << int(rng.integers(8))])
        changed = {
            "exchanged": second,
            "one bit": content[:at] + flipped + content[at + 1 :],
            "zeros": content[: at // 2] + bytes(len(content) - at // 2),
            "cut": content[:at],
        }
        if kind == "exchanged":
            other.write_bytes(content)
        if kind == "gone":
            one.unlink()
        else:
            one.write_bytes(changed[kind])
    again = merge_tree(block, store=store)
    for name in ("minima", "losses", "deaths", "saddles", "joins", "levels", "num_failed", "tier"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
    for name in ("cell_proofs", "facet_proofs", "cell_signs", "facet_signs"):
        assert getattr(again, name).tobytes() == getattr(whole, name).tobytes()


def test_a_store_that_is_no_path_is_one_line() -> None:
    with pytest.raises(InputError, match=r"store must be the path of a file.*received 3"):
        merge_tree(layer(3, 1, 1, 0), store=3)


def test_one_sample_has_one_minimum() -> None:
    tree = merge_tree(layer(1, 1, 1, 0, signs=[1.0]))
    assert tree.num_cells == 2
    assert len(tree.losses) == 1


def test_what_cannot_be_done_is_refused() -> None:
    with pytest.raises(InputError, match="max_cells must allow"):
        merge_tree(layer(30, 2, 3, 0))
    deep = Landscape(mlp((2, 3, 3, 1), seed=0), np.ones((4, 2)), np.ones((4, 1)))
    with pytest.raises(UnsupportedModelError, match="one ReLU and one linear layer"):
        merge_tree(deep.block(0))
    decay = Landscape(mlp((2, 3, 1), seed=0), np.ones((4, 2)), np.ones((4, 1)), weight_decay=0.1)
    with pytest.raises(InputError, match="weight_decay=0"):
        merge_tree(decay.block(0))
    labels = Landscape(
        mlp((2, 3, 2), seed=0), np.ones((4, 2)), np.array([0, 1, 0, 1]), loss="cross_entropy"
    )
    with pytest.raises(UnsupportedModelError, match="cross_entropy"):
        merge_tree(labels.block(0))
    with pytest.raises(InputError, match=r"block must be a layer .* received Landscape"):
        merge_tree(decay)  # type: ignore[arg-type]
    told: list[dict[str, Any]] = [
        {"tolerance": -1.0}, {"tolerance": "a"}, {"tolerance": np.inf}, {"below": np.nan},
        {"below": "x"}, {"below": None}, {"jobs": 1.5}, {"jobs": "2"}, {"jobs": 0},
    ]  # fmt: skip
    for options in told:
        with pytest.raises(InputError, match=f"{next(iter(options))} must be a "):
            merge_tree(layer(4, 1, 1, 0), **options)


def test_the_readmes_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    passage = text[text.index("## The whole landscape of a small layer") :]
    (code,) = re.findall(r"```python\n(.*?)```", passage[: passage.index("\n## ", 3)], re.DOTALL)
    exec(code, {})
    told = capsys.readouterr().out
    assert "1,600 cells, 3,200 facets" in told
    assert "valid=True" in told


def test_of_many_minimisers_one_inside_is_given() -> None:
    block = layer(9, 1, 3, 3, signs=[1.0, 1.0, -1.0])
    tree = merge_tree(block)
    inside = 0
    for theta in tree.minima:
        rows = tree.layer.unpack(theta)
        values = np.abs(tree.features @ rows.T) / np.abs(rows).max(initial=1e-12)
        inside += values.min() > 1e-6
        assert block.gradient(theta).shape == theta.shape
    units = tree.layer.unpack(tree.minima)
    dead = (tree.features @ units.transpose(0, 2, 1) <= 0).all(axis=1)
    assert inside > 3
    assert not (dead & (np.abs(units).max(axis=2) == 0)).any()
