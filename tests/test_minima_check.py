"""`verify` of cells' minima: forged fields, answers in fractions, badly scaled data, changed files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from fractions import Fraction
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import reluscape as rs
from reluscape.minima.check import checked
from reluscape.minima.depth import depth_left
from reluscape.minima.entropy import moved_at_most
from reluscape.minima.frozen_cell import FrozenCell
from reluscape.minima.result import CellMinimum, Infeasibility

LOSSES = ("squared", "half_squared", "l1", "cross_entropy")


def network(widths: list[int], rng: np.random.Generator, biased: float = 0.8) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b, bias=bool(rng.random() < biased)), nn.ReLU()]
    model = nn.Sequential(*layers[:-1]).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(rng.normal(size=tuple(parameter.shape))))
    return model


def block_case(seed: int, loss: str, spread: int = 0) -> rs.Block:
    """A layer of a small network; input columns differ by factors up to 10^(2 spread)."""
    rng = np.random.default_rng(seed)
    samples, widths = (
        int(rng.integers(1, 12)),
        [int(n) for n in rng.integers(1, 4, rng.integers(3, 6))],
    )
    x = rng.normal(size=(samples, widths[0])) * 10.0 ** rng.integers(-spread, spread + 1, widths[0])
    if rng.random() < 0.3 and spread:
        x += 10.0 ** rng.integers(-1, spread)
    if loss == "cross_entropy":
        widths[-1] = max(2, widths[-1])
        y = rng.integers(0, widths[-1], samples)
    else:
        y = rng.normal(size=(samples, widths[-1]))
    landscape = rs.Landscape(network(widths, rng), x, y, loss=loss)
    return landscape.block(int(rng.integers(0, len(widths) - 1)))


def whole_case(seed: int) -> rs.Landscape:
    rng = np.random.default_rng(seed)
    samples, inputs, units = (int(n) for n in rng.integers((2, 1, 1), (9, 4, 4)))
    x = rng.normal(size=(samples, inputs))
    return rs.Landscape(network([inputs, units, 1], rng), x, rng.choice([-1.0, 1.0], samples))


# ---- forgeries --------------------------------------------------------------------------------------


def moved(values: np.ndarray) -> np.ndarray:
    return values + 0.01 * (1.0 + np.abs(values))


def of_result(found: CellMinimum) -> dict[str, CellMinimum]:
    """An answer with each of its fields changed to something that is not so."""
    other: dict[str, object] = {
        "genuine": not found.genuine,
        "kind": "plateau" if found.kind != "plateau" else "unique",
        "loss": 1.01 * found.loss + 0.01,
        "bad": not found.bad if found.genuine else True,
        "method": "by eye",
        "margin": 10.0 * found.margin if found.genuine else 1e-6,
        "convention": "none",
        "layer": "no layer",
        "objective": "l1" if found.objective != "l1" else "squared",
        "start": found.start[:-1],  # another point asks about another cell, and may be right
        "active": found.active + 1,
        "better_loss": found.better_loss + 0.1 if found.bad else 0.0,
        "reach": 2.0 * found.reach if np.isfinite(found.reach) else 1e9,
        "reason": "none",
        "theta": found.start if found.theta is None else moved(found.theta),
        "signs": np.ones(1, dtype=np.int8) if found.signs is None else -found.signs,
        "better": found.start if found.better is None else found.start + 1.0,
        "dual": np.ones(2) if found.dual is None else moved(found.dual),
        "infeasibility": None,
    }
    assert set(other) == {one.name for one in fields(found)}
    if found.kind == "plateau" and found.genuine:
        other["theta"] = found.theta[:-1]  # any other point of the cell is a minimum
    if found.genuine:
        del other["infeasibility"]
    if np.isinf(found.margin):
        del other["margin"]
    if np.isinf(found.reach) and not found.genuine:
        other["reach"] = 1.0
    if np.isnan(found.loss):
        del other["kind"]  # of minimisers that are not there
        other["loss"] = 0.0
    return {name: replace(found, **{name: value}) for name, value in other.items()}


def of_proof(found: CellMinimum) -> dict[str, CellMinimum]:
    """An answer without a minimum, with each field of its proof changed."""
    proof = found.infeasibility
    falls = not len(proof.kink)
    other: dict[str, object] = {
        "signs": np.ones((2, 1), dtype=np.int8),
        "outputs": proof.outputs[:, :-1],
        "directions": np.full_like(proof.directions, np.nan),
        "part": proof.part + 1,
        "kink": proof.kink + 10_000,
        "weight": -proof.weight,
        "point": moved(proof.point) if len(proof.point) else np.zeros(1),
        "turns": np.zeros(len(proof.outputs) + 1, dtype=np.int64),
    }
    assert set(other) == {one.name for one in fields(proof)}
    forged = [{name: value} for name, value in other.items()]
    if falls:
        forged = [one for one in forged if not set(one) & {"part", "kink", "weight", "point"}]
        forged.append({"directions": -proof.directions})
    elif found.objective != "l1":  # the L1 loss's numbers may be smaller ones
        forged += [{"outputs": moved(proof.outputs)}, {"weight": proof.weight * 1.01}]
        forged.append(
            {"directions": 1e6 * moved(proof.directions)}
        )  # small changes leave a proof one
    return {
        f"proof {number}: {name}": replace(found, infeasibility=replace(proof, **one))
        for number, one in enumerate(forged) for name in one
    }  # fmt: skip


def check_forgeries(subject: rs.Landscape, found: CellMinimum) -> None:
    assert rs.verify(found, subject).valid
    forged = of_result(found) | ({} if found.genuine else of_proof(found))
    for name, one in forged.items():
        assert not rs.verify(one, subject).valid, (name, found, found.infeasibility)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_forged_field_of_a_blocks_answer_is_rejected(loss: str) -> None:
    seen: Counter[bool | None] = Counter()
    for seed in range(12):
        block = block_case(seed, loss)
        found = rs.cell_minimum(block)
        if found.loss < 1e-9 or len(block.kinks()) == block.landscape.targets.size * (loss == "l1"):
            continue  # nothing can be asked of a perfect fit's dual, nor of the last layer's kinks
        check_forgeries(block.landscape, found)
        seen[found.genuine] += 1
    assert seen[True] >= 1
    assert seen[False] >= 2


@pytest.mark.parametrize("convention", ["free", "given", "uniform"])
def test_every_forged_field_of_a_networks_answer_is_rejected(convention: str) -> None:
    seen: Counter[bool | None] = Counter()
    for seed in range(7):
        landscape = whole_case(seed)
        found = rs.cell_minimum(landscape, signs=convention)
        if found.loss > 1e-9:
            check_forgeries(landscape, found)
            seen[found.genuine] += 1
    assert seen[True] >= 1
    assert seen[False] >= 2


# ---- answers in fractions ---------------------------------------------------------------------------

Point = tuple[Fraction, Fraction]


def least_vertices(rows: list[Point], targets: list[Fraction]) -> list[Point]:
    """Vertices of the minimisers of `sum |row . q - target|` in two parameters, rows spanning both."""

    def loss(q: Point) -> Fraction:
        return sum(
            (abs(a * q[0] + b * q[1] - y) for (a, b), y in zip(rows, targets, strict=True)),
            Fraction(0),
        )

    found = []
    for i, j in combinations(range(len(rows)), 2):
        (a, b), (c, d) = rows[i], rows[j]
        if (size := a * d - b * c) != 0:
            y, z = targets[i], targets[j]
            found.append(((y * d - b * z) / size, (a * z - c * y) / size))
    least = min(loss(q) for q in found)
    return sorted({q for q in found if loss(q) == least})


def cut(points: list[Point], side: Callable[[Point], Fraction]) -> list[Point]:
    """Points that span what a half-plane leaves of their convex hull (not only its corners)."""
    inside = [p for p in points if side(p) >= 0]
    for p, q in combinations(points, 2):
        s, t = side(p), side(q)
        if s * t < 0:
            share = s / (s - t)
            inside.append((p[0] + share * (q[0] - p[0]), p[1] + share * (q[1] - p[1])))
    return sorted(set(inside))


def holds_least_deviation(x: list[int], y: list[int], weight: tuple[int, int], out: int) -> bool:
    """Whether one unit's cell holds a minimiser of the sum of absolute deviations, exactly."""
    sides = [1 if weight[0] * t + weight[1] > 0 else -1 for t in x]
    rows = [(Fraction(out * t), Fraction(out)) for t, s in zip(x, sides, strict=True) if s > 0]
    targets = [Fraction(v) for v, s in zip(y, sides, strict=True) if s > 0]
    left = least_vertices(rows, targets)
    for t, s in zip(x, sides, strict=True):
        left = cut(left, lambda q, t=t, s=s: s * (q[0] * t + q[1]))
    # their mean is strictly inside wherever any point of the hull is
    count = len(left)
    middle = [sum((q[k] for q in left), Fraction(0)) / max(count, 1) for k in (0, 1)]
    return count > 0 and all(
        s * (middle[0] * t + middle[1]) > 0 for t, s in zip(x, sides, strict=True)
    )


def test_least_deviations_of_integers_are_answered_as_in_fractions() -> None:
    """Ties, minimisers on the boundary and edges of minimisers: all exact in the oracle."""
    rng, seen = np.random.default_rng(0), Counter()
    for _ in range(210):
        x = [int(t) for t in rng.integers(-3, 4, rng.integers(2, 8))]
        y = [int(v) for v in rng.integers(-3, 4, len(x))]
        weight, out = (
            (int(rng.integers(-2, 3)), int(rng.integers(-2, 3))),
            int(rng.choice([-2, -1, 1, 3])),
        )
        values = [weight[0] * t + weight[1] for t in x]
        if 0 in values or len({t for t, v in zip(x, values, strict=True) if v > 0}) < 2:
            continue
        model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1, bias=False)).double()
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), (*weight, out), strict=True):
                parameter.fill_(value)
        landscape = rs.Landscape(
            model, np.array(x, dtype=float)[:, None], np.array(y, dtype=float), loss="l1"
        )
        found = rs.cell_minimum(landscape.block(0))
        assert found.genuine == holds_least_deviation(x, y, weight, out), (x, y, weight, out)
        assert rs.verify(found, landscape).valid
        assert np.isinf(found.reach)
        seen[found.genuine] += 1
    assert seen[True] >= 6
    assert seen[False] >= 20


# ---- how far minimisers can be ----------------------------------------------------------------------


def tilted(seed: int) -> rs.Block:
    """A layer of three classes alone, on data that it does not separate."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(30, 3)), rng.integers(0, 3, 30)
    return rs.Landscape(network([3, 3], rng, 1.0), x, y, loss="cross_entropy").block(0)


def softmaxes(outputs: np.ndarray) -> np.ndarray:
    shares = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def derivatives(block: rs.Block) -> np.ndarray:
    """E on the block's cell, column by column (samples, outputs, params)."""
    pattern = block.pattern()
    columns = [block.piecewise.frozen(pattern, unit, linear=True)[1] for unit in np.eye(block.size)]
    return np.stack(columns, axis=-1)


def entropy_minimiser(block: rs.Block, rows: np.ndarray) -> np.ndarray:
    """Newton's method by least squares, without a line search."""
    labels, q = np.eye(3)[block.landscape.targets], np.zeros(block.size)
    for _ in range(60):
        shares = softmaxes(rows @ q)
        bends = np.einsum("nka,nk,nkb->ab", rows, shares, rows)
        middle = np.einsum("nka,nk->na", rows, shares)
        slope = np.einsum("nka,nk->a", rows, shares - labels)
        q = q - np.linalg.lstsq(bends - middle.T @ middle, slope, rcond=1e-12)[0]
    return q


@pytest.mark.parametrize("away", [1e-7, 1e-5, 1e-3])
def test_outputs_of_entropies_minimisers_are_no_further_than_is_said(away: float) -> None:
    rng = np.random.default_rng(0)
    for seed in range(12):
        block = tilted(seed)
        rows = derivatives(block)
        least = entropy_minimiser(block, rows)
        assert np.linalg.norm(block.gradient(least)) < 1e-14
        point = least + away * rng.normal(size=block.size)
        shares = softmaxes(rows @ point)
        w = rng.normal(size=block.size)
        outputs = rows @ w
        sums = shares * (outputs - (shares * outputs).sum(axis=1, keepdims=True)) / len(rows)
        sums -= sums.mean(axis=1, keepdims=True)
        true = float((sums * (rows @ (least - point))).sum())
        cell = FrozenCell.of(block, block.pattern())
        length = float(np.linalg.norm(cell.sizes * point))
        bound = moved_at_most(cell, point, sums, w, length)
        assert abs(true) <= bound
        assert bound <= 1e6 * away


def test_an_entropys_minimiser_that_is_only_near_is_no_proof() -> None:
    """A minimum just inside a kink, and a proof whose known point is just outside: all else is right."""
    tried = 0
    for seed in range(200):
        block = block_case(seed, "cross_entropy")
        found = rs.cell_minimum(block)
        if not found.genuine or not 1e-6 < found.margin < 1.0:
            continue
        values, cell = block.kinks(found.theta), FrozenCell.of(block, block.pattern(found.theta))
        lengths = cell.lengths(np.arange(len(values)))
        kink = int(
            np.argmin(
                np.where(lengths > 0, np.abs(values) / np.where(lengths > 0, lengths, 1), np.inf)
            )
        )
        normal = block.piecewise.normals(np.array([kink]), cell.pattern)[0]
        past = found.theta - 1.001 * values[kink] / (normal @ normal) * normal
        rows, shares = derivatives(block), softmaxes(block.piecewise.frozen(cell.pattern, past)[1])
        centred = rows - np.einsum("nk,nka->na", shares, rows)[:, None]
        hessian = np.einsum("nka,nk,nkb->ab", centred, shares, centred) / len(rows)
        w = np.linalg.lstsq(hessian, np.sign(values[kink]) * normal, rcond=1e-10)[0]
        if np.linalg.norm(hessian @ w - np.sign(values[kink]) * normal) > 1e-9 * np.linalg.norm(
            normal
        ):
            continue  # the minimisers differ in how far from the kink they are
        outputs = shares * (centred @ w) / len(rows)
        proof = Infeasibility(
            np.empty((1, 0), dtype=np.int8), outputs.reshape(1, -1), w[None], np.zeros(1, dtype=np.int64),
            np.array([kink]), np.ones(1), past,
        )  # fmt: skip
        left = depth_left(proof, cell)
        assert left.depth > 1e-6 * found.margin
        forged = replace(
            found, genuine=False, theta=None, infeasibility=proof, margin=1e-9, bad=False
        )
        assert not rs.verify(forged, block.landscape).valid
        tried += 1
        if tried == 2:
            break
    assert tried == 2


def test_a_negative_for_absolute_values_says_how_far_it_goes() -> None:
    """Units that are linear on all samples leave E without full rank, and the loss hardly grows."""
    limited = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        model = network([5, 6, 4, 3], rng, 1.0)
        x = rng.normal(size=(60, 5)) * 10.0 ** rng.integers(-2, 3, 5)
        landscape = rs.Landscape(model, x, rng.normal(size=(60, 3)), loss="l1")
        found = rs.cell_minimum(landscape.block(1))
        assert rs.verify(found, landscape).valid
        if found.genuine is False and np.isfinite(found.reach):
            assert found.reach >= 1e3
            assert f"up to {found.reach:.2g} times" in found.summary()
            assert f"up to {found.reach:.2g} times" in rs.verify(found, landscape).reason
            for reach in (np.inf, 2.0 * found.reach, 100.0):
                assert not rs.verify(replace(found, reach=reach), landscape).valid
            limited += 1
    assert limited >= 3


# ---- badly scaled data, and answers that would not pass ---------------------------------------------


@pytest.mark.parametrize("loss", LOSSES[1:])
def test_no_answer_is_returned_that_verify_rejects(loss: str) -> None:
    """Input columns from 1e-3 to 1e3: nearly all are answered, and every answer holds."""
    seen: Counter[bool | None] = Counter()
    for seed in range(30):
        block = block_case(seed, loss, spread=3)
        found = rs.cell_minimum(block)
        verdict = rs.verify(found, block.landscape)
        assert verdict.valid, (seed, found, verdict)
        assert (found.genuine is None) == bool(found.reason)
        seen[found.genuine] += 1
    assert seen[None] <= 3
    assert min(seen[True], seen[False]) >= 8


def test_an_answer_that_does_not_pass_is_left_open() -> None:
    landscape, found = next(
        (one, found)
        for one in map(whole_case, range(60))
        if (found := rs.cell_minimum(one)).genuine
    )
    assert checked(found, landscape) is found
    broken = checked(replace(found, theta=1.001 * found.theta), landscape)
    assert (broken.genuine, broken.theta, broken.signs, broken.bad) == (None, None, None, None)
    assert "the gradient does not vanish" in broken.reason
    assert "undecided because what was found does not pass the check" in broken.summary()
    assert rs.verify(broken, landscape).reason == "it claims nothing: the answer is left open"


# ---- files ------------------------------------------------------------------------------------------


def test_changed_bytes_of_an_answers_file_are_one_line_and_nothing_else(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    block = block_case(1, "squared")
    found = rs.cell_minimum(block)
    path = found.save(tmp_path / "minimum.nc")
    assert rs.verify(path, block.landscape).valid
    content, rng = path.read_bytes(), np.random.default_rng(1)
    places = np.concatenate([np.arange(10), rng.integers(0, len(content), 290)])
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        verdict = rs.verify(path, block.landscape)
        assert not verdict.valid
        assert "\n" not in verdict.reason
    path.write_bytes(content[:-40])
    assert not rs.verify(path, block.landscape).valid
    assert capfd.readouterr() == ("", "")


# ---- what our own check must accept -----------------------------------------------------------------


def readout(
    widths: tuple[int, int], x: np.ndarray, y: np.ndarray, seed: int, *, bias: bool
) -> rs.Landscape:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(*widths), nn.ReLU(), nn.Linear(widths[1], 1, bias=bias))
    return rs.Landscape(model.double(), x, y)


def test_exact_fits_of_sparse_inputs_are_minima() -> None:
    """The point that is asked about fits its own outputs: a minimum under the signs that it has."""
    for seed in range(8):
        x = (np.random.default_rng(seed).random((60, 6)) < 0.5) * 1.0
        own = readout((6, 4), x, np.zeros(60), seed, bias=True)
        y = own.outputs()[:, 0]
        landscape = readout((6, 4), x, y, seed, bias=True)
        for subject, signs in (
            (landscape, "free"),
            (landscape, "given"),
            (landscape.block(0), "free"),
        ):
            found = rs.cell_minimum(subject, signs=signs)
            assert found.genuine, (seed, signs, found.reason)
            assert rs.verify(found, landscape).valid


@pytest.mark.parametrize("size", [1e-100, 1e-12, 1e12])
def test_the_size_of_the_targets_does_not_matter(size: float) -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(4, 6)), rng.normal(size=4)
        plain = readout((6, 3), x, y, seed, bias=False)
        scaled = readout((6, 3), x, size * y, seed, bias=False)
        found = rs.cell_minimum(scaled)
        assert found.genuine is rs.cell_minimum(plain).genuine
        assert rs.verify(found, scaled).valid
        if found.genuine:  # a loss that is off by a millionth of that at zero
            forged = replace(found, loss=found.loss + 1e-6 * size**2)
            assert not rs.verify(forged, scaled).valid


def test_minima_at_the_edge_of_rounding_are_left_open_or_pass() -> None:
    seen = set()
    for seed in range(20):
        x = np.random.default_rng(seed).normal(size=(3, 4))
        landscape = readout((4, 2), x, np.array([1e-15, 1.0, -1.0]), seed, bias=False)
        found = rs.cell_minimum(landscape)
        seen.add(found.genuine)
        assert rs.verify(found, landscape).valid
        assert found.genuine is not None or "pass the check" in found.reason
    assert {None, True} <= seen
