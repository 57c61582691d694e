"""Kinks of one unit taken together along rays, against a linear program in every cell around a point."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import cache
from itertools import combinations, product

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from sympy import Matrix
from torch import nn

import reluscape as rs
from reluscape.fan_weights import fan_weights
from reluscape.fans import _lines, fans_of, loss_stays
from reluscape.integers import Forms, FrozenForms

MINIMA = ("strict_local_minimum", "local_minimum", "plateau")


def draw(seed: int) -> rs.Block:
    """Small layers: with and without bias, one and two outputs, samples that occur twice, on grids."""
    rng = np.random.default_rng(seed)
    inputs, units = int(rng.integers(1, 3)), int(rng.integers(1, 4))
    count = int(rng.integers(2, 9 if units < 3 else 6))
    outputs, bias = int(rng.choice([1, 1, 2])), bool(rng.integers(2))
    x, y = rng.normal(size=(count, inputs)), rng.normal(size=(count, outputs))
    if seed % 3 == 1:
        x = rng.integers(-2, 3, size=x.shape).astype(float)
    if seed % 3 == 2:
        x[rng.integers(count, size=count // 2)] = x[rng.integers(count, size=count // 2)]
    if seed % 4 == 0:
        y = np.sign(y)
    weights = (
        rng.normal(size=(outputs, units)) if seed % 2 else rng.choice([-1.0, 1.0], (outputs, units))
    )
    torch.manual_seed(seed)
    hidden, head = nn.Linear(inputs, units, bias=bias), nn.Linear(units, outputs, bias=False)
    model = nn.Sequential(hidden, nn.ReLU(), head).double()
    with torch.no_grad():
        model[2].weight.copy_(torch.tensor(weights))
    return rs.Landscape(model, x, y, loss=("squared", "l1")[seed // 4 % 2]).block(0)


def lowest(tree: rs.MergeTree, theta: np.ndarray) -> float:
    """The least slope of the loss in any cell around a point, over steps of at most one."""
    layer = tree.layer
    x, v, rows = layer.features, layer.weights, layer.unpack(theta)
    (count, size), (outputs, units) = x.shape, v.shape
    z = x @ rows.T
    zero = np.abs(z) <= 1e-9 * (np.abs(x) @ np.abs(rows.T))
    rest = (np.where(zero, 0.0, z.clip(min=0.0)) @ v.T - layer.residual).ravel()
    fitted = np.abs(rest) <= 1e-9
    rng, seen, least = np.random.default_rng(0), set(), 0.0
    for _ in range(60):
        on = np.where(zero, x @ rng.normal(size=rows.shape).T > 0, z > 0)
        if on.tobytes() in seen:
            continue
        seen.add(on.tobytes())
        moves = np.einsum("ik,jk,ic->ijkc", on * 1.0, v, x).reshape(count * outputs, -1)
        sides = [
            (-1 if on[i, k] else 1) * np.kron(np.eye(units)[k], x[i]) for i, k in np.argwhere(zero)
        ]
        cell = np.array(sides).reshape(-1, units * size)
        extra = int(fitted.sum()) if layer.is_l1 else 0
        slopes = np.where(fitted, 0.0, np.sign(rest)) if layer.is_l1 else 2.0 * rest
        cost = np.append(slopes @ moves, np.ones(extra)) / count
        own = moves[fitted] if layer.is_l1 else moves[:0]
        bounds = np.vstack(
            [
                np.hstack([cell, np.zeros((len(cell), extra))]),
                np.hstack([own, -np.eye(extra)]), np.hstack([-own, -np.eye(extra)]),
            ]
        )  # fmt: skip
        box = [(-1, 1)] * (units * size) + [(0, None)] * extra
        found = linprog(cost, A_ub=bounds, b_ub=np.zeros(len(bounds)), bounds=box)
        least = min(least, found.fun)
    return least


@cache
def trees() -> list[tuple[rs.Block, rs.MergeTree]]:
    found = []
    for seed in range(80):
        block = draw(seed)
        if rs.tree_size(block).num_cells <= 3000:
            found.append((block, rs.merge_tree(block)))
    return found


def test_every_minimum_of_a_tree_is_decided_and_checked() -> None:
    minima = fans = 0
    for block, tree in trees():
        for theta in tree.minima[:4]:
            found = rs.certify(block, theta)
            assert found.claim in MINIMA, found.summary()
            told = rs.verify(found, block.landscape)
            assert told.valid, told.reason
            minima += 1
            fans += "*" in "".join(found.sides)
    assert minima > 100
    assert fans > 5


def test_nothing_that_falls_is_said_to_be_a_minimum() -> None:
    """Saddles, units put to zero, and all units at zero."""
    claimed = falling = 0
    for block, tree in trees()[::2]:
        rows = tree.layer.unpack(tree.minima[-1]).copy()
        rows[0] = 0.0
        points = [tree.layer.pack(rows), 0.0 * tree.minima[0]]
        points += list(tree.saddles[np.isfinite(tree.saddles).all(axis=1)][:1])
        for theta in points:
            found = rs.certify(block, theta)
            assert rs.verify(found, block.landscape).valid
            slope = lowest(tree, found.theta)
            falling += slope < -1e-6
            if found.claim in MINIMA:
                claimed += 1
                assert slope > -1e-7, found.summary()
    assert claimed > 5
    assert falling > 20


@pytest.mark.parametrize("seed", range(20))
def test_weights_are_found_if_and_only_if_no_cell_falls(seed: int) -> None:
    """Kinks of one unit in the plane or in space, the loss with jumps of both signs."""
    rng = np.random.default_rng(seed)
    size, count = 2 + seed % 2, 5
    rows = rng.integers(-3, 4, size=(count, size))
    rows = rows[rows.any(axis=1)]
    jumps = rng.normal(size=len(rows)) + 0.5
    gradient = -0.5 * jumps @ rows + 0.3 * rng.normal(size=len(rows)) @ rows
    units = np.ones((len(rows), 1), dtype=int).astype(object)
    places = np.arange(len(rows))
    forms = Forms(units, places, rows.astype(object), 0 * units[:, 0])
    none = np.zeros((len(rows), len(rows)))
    fans = fans_of(forms, 0 * places, rows.astype(float), none)
    ways = [fan.unit_ways(bias=False) for fan in fans]
    found = fan_weights(
        gradient, rows.astype(float), jumps, none, list(zip(fans, ways, strict=True))
    )
    least = 0.0
    for signs in product([-1, 1], repeat=len(rows)):
        up = (np.array(signs) > 0) * jumps
        sides = -np.array(signs)[:, None] * rows
        cell = linprog(gradient + up @ rows, sides, np.zeros(len(rows)), bounds=[(-1, 1)] * size)
        least = min(least, cell.fun)
    slopes = [
        fan.slopes(np.column_stack([weights, jumps - weights])).min()
        for weights, _ in found
        for fan in fans
    ]
    np.testing.assert_equal(bool(slopes) and min(slopes) > -1e-9, least > -1e-7)


def with_a_fan() -> tuple[rs.Block, rs.Certificate]:
    for block, tree in trees():
        for theta in tree.minima[:4]:
            found = rs.certify(block, theta)
            if "*" in "".join(found.sides):
                return block, found
    raise AssertionError


def test_forged_fans_are_rejected(tmp_path) -> None:
    block, found = with_a_fan()
    assert rs.verify(rs.Certificate.load(found.save(tmp_path / "fan.json")), block.landscape).valid
    marked = found.sides[0].index("*")
    forgeries = [
        {"cells": found.cells + 1e-3},
        {"sides": (found.sides[0][:marked] + "+" + found.sides[0][marked + 1 :],)},
        {"sides": (found.sides[0].replace("*", "0"),)},
        {"sides": found.sides * 2, "cells": np.vstack([found.cells] * 2)},
        {"margin": found.margin + 1e-3},
        {"claim": "strict_local_minimum" if found.claim == "local_minimum" else "local_minimum"},
    ]
    for false in forgeries:
        forged = replace(found, **false).signed()
        assert not rs.verify(forged, block.landscape).valid, false


def test_a_fan_does_not_make_a_saddle_a_minimum() -> None:
    """A unit at zero: x = 1 and x = -1 with residuals of opposite signs. One way the loss falls."""
    model = nn.Sequential(
        nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False)
    ).double()
    nn.init.ones_(model[2].weight)
    inputs = np.array([[1.0], [-1.0], [2.0]])
    rises, falls = (
        rs.Landscape(model, inputs, np.array(targets)[:, None]).block(0)
        for targets in ((0.2, -1.0, -1.0), (1.0, -1.0, 1.0))
    )
    told = []
    for block in (rises, falls):
        found = rs.certify(block, [0.0])
        fan = {"sides": ("***",), "cells": np.zeros((1, 3)), "shares": np.empty((0, 3))}
        said = {
            "claim": "strict_local_minimum",
            "margin": 2 / 3,
            "direction": None,
            "curvature": None,
        }
        forged = replace(found, **fan, **said, slopes=np.empty((0, 2))).signed()
        told.append(rs.verify(forged, block.landscape).valid)
    assert told == [True, False]


@pytest.mark.parametrize("seed", range(3))
def test_the_same_in_rational_arithmetic(seed: int) -> None:
    pytest.importorskip("flint", reason="rational arithmetic needs python-flint")
    model = nn.Sequential(
        nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False)
    ).double()
    nn.init.ones_(model[2].weight)
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(9, 1)), rng.normal(size=(9, 1))
    block = rs.Landscape(model, x, y, loss="l1").block(0)
    for theta in rs.merge_tree(block).minima:
        found = rs.certify(block, theta, arithmetic="rational")
        assert found.claim in MINIMA
        assert rs.verify(found, block.landscape).valid


def test_only_what_outputs_show_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two units of output weight one: at zero, one can take over the other's part, or it cannot."""
    model = nn.Sequential(
        nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False)
    ).double()
    nn.init.ones_(model[2].weight)
    landscape = rs.Landscape(model, np.array([[1.0], [-1.0]]), np.array([[2.0], [3.0]]))
    active = np.array([1, 3])  # of the second unit, the first one's weight is positive
    pattern = np.array([True, False, False, False])
    rows = np.array([[1], [-1]], dtype=object)
    units = np.array([[0, 1], [0, 1]], dtype=object)
    normals = np.array([[0.0, 1.0], [0.0, -1.0]])
    fans = fans_of(
        Forms(units, np.arange(2), rows, 0 * rows[:, 0]), np.zeros(2, int), normals, 0 * normals
    )
    members, kept = [active[:1], active[1:]], np.zeros(2, dtype=bool)
    ways = fans[0].unit_ways(bias=False)[:, 1]
    for way, stays in ((1.0, True), (-1.0, False)):
        which = [ways == way]
        told = landscape, "0", (pattern, active), members, kept, fans, which
        assert loss_stays(*told) == stays
        if stays:  # the layer's forms are made once for the point and once for each ray
            work = FrozenForms(landscape, "0", pattern).work()
            monkeypatch.setattr("reluscape.fans.MAX_PRODUCTS", 2 * work - 1)
            assert not loss_stays(*told)
            monkeypatch.undo()


def lowest_slope(model: nn.Module, x: np.ndarray, y: np.ndarray, loss: str) -> float:
    """The least slope at zero weights of two parameters, by small steps all round."""
    angles = np.linspace(0.0, 2.0 * np.pi, 4001)
    ways = 1e-5 * np.stack([np.cos(angles), np.sin(angles)])
    head, tail = (model[k].weight.detach().numpy() for k in (1, 3))
    hidden = np.maximum(head[None, :, :] * (x @ ways)[:, None, :], 0.0)
    rest = np.einsum("ok,nkd->nod", tail, hidden) - y[:, :, None]
    values = (np.abs(rest) if loss == "l1" else rest**2).sum(axis=1).mean(axis=0)
    at = np.abs(y).sum(axis=1).mean() if loss == "l1" else (y**2).sum(axis=1).mean()
    return float((values - at).min() / 1e-5)


@pytest.mark.parametrize("loss", ["squared", "l1"])
def test_kinks_of_one_unit_may_have_normals_of_different_lengths(loss: str) -> None:
    """A unit that feeds several rectifiers with factors of its own."""
    fans = 0
    for seed in (*range(60), 167):
        rng = np.random.default_rng(seed)
        factors = rng.choice([1.0, -1, 8, -8], size=(2, 1))
        last = rng.choice([1.0, -1.0], size=(1, 2))
        x = rng.integers(-3, 4, size=(3, 2)).astype(float)
        y = rng.integers(-2, 3, size=(3, 1)).astype(float)
        model = nn.Sequential(
            nn.Linear(2, 1, bias=False), nn.Linear(1, 2, bias=False), nn.ReLU(),
            nn.Linear(2, 1, bias=False),
        ).double()  # fmt: skip
        with torch.no_grad():
            model[1].weight.copy_(torch.tensor(factors))
            model[3].weight.copy_(torch.tensor(last))
        landscape = rs.Landscape(model, x, y, loss=loss)
        found = rs.certify(landscape.block(0), np.zeros(2))
        assert rs.verify(found, landscape).valid
        if found.claim in MINIMA:
            assert lowest_slope(model, x, y, loss) > -1e-3, seed
            fans += "*" in "".join(found.sides)
    assert fans > 0


@pytest.mark.parametrize(("count", "size"), [(1, 1), (4, 2), (6, 3), (6, 4), (7, 6), (10, 10)])
def test_lines_are_those_of_a_null_space_and_found_without_going_through_permutations(
    count: int, size: int
) -> None:
    """Each set of one hyperplane less than there are dimensions, by SymPy's exact elimination."""
    rng = np.random.default_rng(count)
    rows = rng.integers(-4, 5, size=(count, size)).astype(object)
    rows[0, 0] = 3
    found = _lines(rows)
    assert found is not None
    seen = {tuple(Fraction(int(entry), max(map(abs, line))) for entry in line) for line in found}
    wanted = set()
    for chosen in combinations(range(count), size - 1):
        null = Matrix(size - 1, size, lambda i, j, own=chosen: int(rows[own[i], j])).nullspace()
        if len(null) == 1:
            line = [Fraction(int(entry.p), int(entry.q)) for entry in null[0]]
            longest = max(map(abs, line))
            wanted |= {tuple(sign * entry / longest for entry in line) for sign in (1, -1)}
    assert seen == wanted


def test_too_many_lines_are_not_looked_at() -> None:
    rng = np.random.default_rng(0)
    for shape in ((200, 3), (30, 30), (40, 8)):
        assert _lines(rng.integers(-99, 99, size=shape).astype(object)) is None


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [4, 10])
def test_what_is_written_by_rays_is_accepted(size: int, seed: int) -> None:
    """One unit that fits a sample, one of zeros: flat slopes at up to twenty kinks."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(size, size)), -rng.uniform(0.1, 1.0, size=(size, 1))
    weights = np.linalg.solve(x, np.where(np.arange(size) < 1, 1.0, -1.0))
    y[0] = (x @ weights)[0]
    model = nn.Sequential(
        nn.Linear(size, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False)
    ).double()
    nn.init.ones_(model[2].weight)
    landscape = rs.Landscape(model, x, y)
    found = rs.certify(landscape.block(0), np.append(weights, 0.0 * weights))
    assert rs.verify(found, landscape).valid
    assert found.claim in (MINIMA if size == 4 else (*MINIMA, "undecided"))
