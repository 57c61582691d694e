"""Genuine minima of cells against all sign vectors, each with a linear program written independently."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import Instance
from scipy.optimize import linprog, minimize
from torch import nn

import reluscape as rs
from reluscape.errors import InputError, UnsupportedModelError
from reluscape.minima import central, programs
from reluscape.minima.programs import Programs
from reluscape.minima.result import SIGNS, CellMinimum, Infeasibility
from reluscape.minima.signs import cover
from reluscape.progress import Stop

KINDS = ("normal", "integers", "twice", "contradictions", "scales", "low rank")
#: Margin of the oracle's programs that is no rounding.
MARGIN = 1e-7


def inputs_of(kind: str, samples: int, inputs: int, rng: np.random.Generator) -> np.ndarray:
    x = rng.normal(size=(samples, inputs))
    if kind == "integers":
        return rng.integers(-2, 3, (samples, inputs)).astype(float)
    if kind in ("twice", "contradictions"):
        return np.repeat(x, 2, axis=0)[:samples]
    if kind == "scales":
        return x * 10.0 ** rng.integers(-3, 4, inputs)
    return x @ np.outer(x[0], x[0]) if kind == "low rank" else x


@dataclass(frozen=True)
class Case:
    """A one-hidden-layer network with its data."""

    instance: Instance
    told: str

    @property
    def landscape(self) -> rs.Landscape:
        made = self.instance
        return rs.Landscape(made.module(), made.inputs, made.targets)


@cache
def case(seed: int) -> Case:
    rng = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    samples, inputs, units = (int(n) for n in rng.integers((1, 1, 1), (9, 4, 4)))
    x = inputs_of(kind, samples, inputs, rng)
    y = rng.choice([-1.0, 1.0], samples) if rng.random() < 0.6 else rng.integers(-1.0, 2, samples)
    whole = kind == "integers"
    draw = (
        (lambda *s: rng.integers(-1, 2, s).astype(float))
        if whole
        else lambda *s: rng.normal(size=s)
    )
    weights = [draw(units, inputs), draw(1, units)]
    biases = [draw(units) if rng.random() < 0.7 else None, draw(1)]
    if rng.random() < 0.2:
        weights[0][-1] = weights[0][0]
        if biases[0] is not None:
            biases[0][-1] = biases[0][0]
    if rng.random() < 0.15 and biases[0] is not None:
        biases[0][0] = -1e3
    slope = float(rng.choice([0.0, 0.0, 0.1]))
    instance = Instance(
        tuple(weights), tuple(biases), slope, x, np.asarray(y, dtype=float)[:, None], "squared", 0
    )
    return Case(instance, f"seed {seed}: {kind}, {samples} samples, {units} units, slope {slope}")


def deepest(instance: Instance, signs: tuple[float, ...]) -> float:
    """Largest margin of a minimiser of the frozen loss, by one program in R of all units."""
    x = instance.inputs
    if instance.biases[0] is not None:
        x = np.hstack([x, np.ones((len(x), 1))])
    weight = instance.weights[0]
    if instance.biases[0] is not None:
        weight = np.hstack([weight, instance.biases[0][:, None]])
    pattern = x @ weight.T > 0
    sizes = np.linalg.norm(x, axis=0)
    x = x / np.where(sizes > 0, sizes, 1.0)
    factors, sides = np.where(pattern, 1.0, instance.slope), np.where(pattern, 1.0, -1.0)
    matrix = np.hstack([factors[:, [j]] * x for j in range(len(weight))])
    wanted = instance.targets[:, 0] - instance.biases[1][0]
    fitted = matrix @ np.linalg.lstsq(matrix, wanted, rcond=1e-11)[0]
    rows = np.zeros((0, matrix.shape[1]))
    for j in range(len(weight)):
        lengths = np.linalg.norm(x, axis=1)
        some = signs[j] * sides[lengths > 0][:, [j]] * x[lengths > 0] / lengths[lengths > 0, None]
        place = np.zeros((1, len(weight)))
        place[0, j] = 1.0
        rows = np.vstack([rows, np.kron(place, some)])
    if not len(rows):
        return 1.0
    result = linprog(
        np.append(np.zeros(matrix.shape[1]), -1.0),
        A_ub=np.hstack([-rows, np.ones((len(rows), 1))]),
        b_ub=np.zeros(len(rows)),
        A_eq=np.hstack([matrix, np.zeros((len(matrix), 1))]),
        b_eq=fitted,
        bounds=[(None, None)] * matrix.shape[1] + [(None, 1.0)],
    )
    assert result.status == 0, result.message
    return float(result.x[-1])


def allowed(convention: str, given: np.ndarray) -> list[tuple[float, ...]]:
    """All sign vectors of a convention."""
    if convention == "free":
        return list(product((1.0, -1.0), repeat=len(given)))
    if convention == "given":
        return [tuple(np.sign(given))]
    return [(1.0,) * len(given), (-1.0,) * len(given)]


#: Behind the first 80, some of which a closed form says that there is no minimum, which is rare.
ALL = (*range(80), 87, 114, 122)


@cache
def answers(seed: int) -> dict[str, CellMinimum]:
    """Answers under all conventions that apply."""
    made, landscape = case(seed), case(seed).landscape
    some = [c for c in SIGNS if c != "given" or made.instance.weights[1].all()]
    return {convention: rs.cell_minimum(landscape, signs=convention) for convention in some}


@pytest.mark.parametrize("convention", SIGNS)
def test_answers_are_those_of_all_sign_vectors(convention: str) -> None:
    """83 networks under each convention: routes by closed form, sign check, programs and searches."""
    seen: Counter[object] = Counter()
    for seed in ALL:
        made = case(seed)
        if convention in answers(seed):
            found = answers(seed)[convention]
            margins = [
                deepest(made.instance, s) for s in allowed(convention, made.instance.weights[1][0])
            ]
            assert found.genuine == (max(margins) > MARGIN), (made.told, found)
            verdict = rs.verify(found, made.landscape)
            assert verdict.valid, (made.told, verdict)
            seen[found.method, found.genuine] += 1
    routes = {method for method, _ in seen}
    assert routes >= {"closed form", "linear program", "sign check"}
    assert all(seen["closed form", genuine] >= 3 for genuine in (True, False))
    assert all(
        sum(seen[route, genuine] for route in routes - {"closed form"}) >= 10
        for genuine in (True, False)
    )


def test_witnesses_survive_a_forward_and_a_backward_pass_of_torch() -> None:
    """Same pattern, gradient zero but for the fixed output bias, and no lower loss nearby."""
    for seed in ALL[::4]:
        landscape = case(seed).landscape
        for convention, found in answers(seed).items():
            if not found.genuine:
                continue
            gradient = landscape.gradient(found.theta)
            fixed = landscape.positions(landscape.layers[1])[len(found.signs) :]
            gradient[fixed] = 0.0
            size = 1.0 + np.abs(found.theta).max() * (1.0 + np.abs(landscape.inputs).max() ** 2)
            assert np.abs(gradient).max() <= 1e-11 * size**2, (seed, convention)
            first = landscape.positions(landscape.layers[0])
            block = landscape.block(0)
            values = block.kinks(found.theta[first])
            still = np.abs(landscape.inputs).sum(axis=1) == 0 if not block.piecewise.bias else None
            same = (values > 0) == block.pattern()
            assert same.all() if still is None else same.reshape(len(still), -1)[~still].all()
            assert landscape.loss(found.theta) == pytest.approx(found.loss, rel=1e-9, abs=1e-12)


def test_bad_minima_have_weights_of_lower_loss() -> None:
    bad = 0
    for seed in ALL:
        for found in answers(seed).values():
            if found.bad:
                lower = case(seed).landscape.loss(found.better)
                assert lower == pytest.approx(found.better_loss, abs=1e-12)
                assert lower < found.loss
                bad += 1
            if found.bad is False and found.genuine:
                assert found.loss <= least_possible(case(seed).instance) + 1e-9
    assert bad >= 10


def test_lower_losses_are_found_by_descents_and_hold_in_torch() -> None:
    """Every `better` is sent through the module; the output bias is that of the question."""
    open_before, bad = 0, 0
    for seed in ALL[::2]:
        made, landscape = case(seed).instance, case(seed).landscape
        for convention, before in answers(seed).items():
            if not before.genuine or before.bad is not None:
                continue
            found = rs.cell_minimum(landscape, signs=convention, search=6, seed=seed)
            assert rs.verify(found, landscape).valid, (seed, convention)
            open_before += 1
            if found.bad:
                assert forward_loss(made.module(), found.better, made.inputs, made.targets) == (
                    pytest.approx(found.better_loss, rel=1e-9, abs=1e-12)
                )
                assert found.better_loss < found.loss - 1e-9
                assert found.better[-1] == found.start[-1]
                moved = replace(found, better=np.append(found.better[:-1], found.start[-1] + 1e-9))
                assert not rs.verify(moved, landscape).valid
                bad += 1
            assert (found.theta == before.theta).all()
    assert bad >= open_before / 3 >= 10


def forward_loss(module: nn.Module, theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    """Plain PyTorch's mean squared error at parameters."""
    nn.utils.vector_to_parameters(torch.from_numpy(theta), module.parameters())
    with torch.no_grad():
        return float(((module(torch.from_numpy(x)) - torch.from_numpy(y)) ** 2).sum() / len(x))


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_the_linear_cell_of_a_table_is_bad(scale: float) -> None:
    """Liu's table I, bias 20: all units active are one linear function, and ten units bend."""
    rng = np.random.default_rng(0)
    y = np.repeat([1.0, -1.0], 1000)
    x = scale * (rng.normal(size=(2000, 3)) + np.outer(y, [1.0, 0.0, 0.0]))
    weights = rng.normal(size=(10, 3)) / scale
    instance = Instance(
        (weights, np.tile([1.0, -1.0], 5)[None]), (20.0 + rng.normal(size=10), None), 0.0,
        x, y[:, None], "squared", 0,
    )  # fmt: skip
    landscape = rs.Landscape(instance.module(), x, y)
    assert rs.cell_minimum(landscape).bad is None
    found = rs.cell_minimum(landscape, search=2)
    design = np.column_stack([x, np.ones(2000)])
    linear = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    assert found.loss == pytest.approx(((linear - y) ** 2).mean())
    assert (found.genuine, found.bad) == (True, True)
    assert forward_loss(instance.module(), found.better, x, y[:, None]) < found.loss - 0.03
    again = rs.cell_minimum(landscape, search=2)
    assert again.better.tobytes() == found.better.tobytes()
    assert rs.cell_minimum(landscape, search=2, seed=1).better.tobytes() != found.better.tobytes()
    with pytest.raises(InputError, match="search must be a whole number of at least 0"):
        rs.cell_minimum(landscape, search=-1)


def least_possible(instance: Instance) -> float:
    """Loss of the best function of the inputs at all (and of inputs of zero without bias, a constant)."""
    groups: dict[bytes, list[float]] = {}
    for row, target in zip(instance.inputs + 0.0, instance.targets[:, 0], strict=True):
        groups.setdefault(row.tobytes(), []).append(float(target))
    total = 0.0
    for row, targets in groups.items():
        fixed = instance.biases[0] is None and not np.frombuffer(row).any()
        best = instance.biases[1][0] if fixed else np.mean(targets)
        total += float(((np.array(targets) - best) ** 2).sum())
    return total / len(instance.inputs)


def test_another_point_is_asked_about_with_its_own_output_bias() -> None:
    """The model's own bias has no say in the cell of another theta, nor in the proof about it."""
    negative = 0
    for seed in ALL[::4]:
        landscape, found = case(seed).landscape, answers(seed)["free"]
        moved = landscape.theta
        moved[-1] += 0.5  # the output bias comes last
        elsewhere = landscape.at(moved)
        again = rs.cell_minimum(elsewhere, landscape.theta)
        assert again.genuine == found.genuine
        assert rs.verify(again, elsewhere).valid
        negative += found.genuine is False
    assert negative >= 5


# ---- blocks -----------------------------------------------------------------------------------------


def frozen(block: rs.Block) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Hidden kinks `G theta + g` and outputs `E theta + e` with the pattern frozen, column by column."""
    piecewise, pattern = block.piecewise, block.pattern()
    hidden = block.kink_groups[-1].start if block.landscape.loss_name == "l1" else block.num_kinks
    values, outputs = piecewise.frozen(pattern, np.zeros(block.size))
    columns = [piecewise.frozen(pattern, unit) for unit in np.eye(block.size)]
    kinks = np.array([v - values for v, _ in columns]).T[:hidden]
    derivatives = np.array([(o - outputs).ravel() for _, o in columns]).T
    return kinks, values[:hidden], derivatives, outputs


def deepest_of_block(block: rs.Block) -> float:
    """Largest margin of a minimiser of the frozen loss inside the cell, -inf if there is none."""
    kinks, values, derivatives, outputs = frozen(block)
    sides = np.where(block.pattern()[: len(values)], 1.0, -1.0)
    lengths = np.linalg.norm(kinks, axis=1)
    moving = lengths > 1e-12
    rows = (sides[:, None] * kinks)[moving] / lengths[moving, None]
    starts = (sides * values)[moving] / lengths[moving]
    size, landscape = block.size, block.landscape
    inside = np.hstack([-rows, np.ones((len(rows), 1))])
    if landscape.loss_name == "l1":
        return least_deviations_inside(inside, starts, derivatives, landscape.targets - outputs)
    if landscape.loss_name == "cross_entropy":
        equal, wanted = entropy_minimiser(derivatives, outputs, landscape.targets)
    else:
        equal, wanted = derivatives, (landscape.targets - outputs).ravel()
        wanted = equal @ np.linalg.lstsq(equal, wanted, rcond=None)[0]
    if wanted is None:
        return -np.inf
    result = linprog(
        np.append(np.zeros(size), -1.0),
        A_ub=inside,
        b_ub=starts,
        A_eq=np.hstack([equal, np.zeros((len(equal), 1))]),
        b_eq=wanted,
        bounds=[(None, None)] * size + [(None, 1.0)],
    )
    return float(result.x[-1]) if result.status == 0 else -np.inf


def least_deviations_inside(
    inside: np.ndarray, starts: np.ndarray, derivatives: np.ndarray, targets: np.ndarray
) -> float:
    """The L1 loss: a program for the least loss, and one for the margin at no more than that."""
    wanted, (count, size) = targets.ravel(), derivatives.shape
    eye = np.eye(count)
    free = [(None, None)] * size + [(0.0, None)] * count
    both = np.vstack([np.hstack([derivatives, -eye]), np.hstack([-derivatives, -eye])])
    ends = np.append(wanted, -wanted)
    cost = np.append(np.zeros(size), np.ones(count))
    least = linprog(cost, A_ub=both, b_ub=ends, bounds=free).fun
    rows = [
        np.hstack([both, np.zeros((2 * count, 1))]),
        np.hstack([inside[:, :-1], np.zeros((len(inside), count)), inside[:, -1:]]),
        np.append(cost, 0.0)[None],
    ]
    result = linprog(
        np.append(0 * cost, -1.0),
        A_ub=np.vstack(rows),
        b_ub=np.concatenate([ends, starts, [least + 1e-9 * (1.0 + least)]]),
        bounds=[*free, (None, 1.0)],
    )
    return float(result.x[-1]) if result.status == 0 else -np.inf


def entropy_minimiser(
    derivatives: np.ndarray, outputs: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Centred outputs of all minimisers, or None if the loss falls forever along some direction."""
    samples, classes = outputs.shape
    centred = np.kron(np.eye(samples), np.eye(classes) - 1.0 / classes) @ derivatives
    own = derivatives[np.arange(samples) * classes + labels]
    gains = np.repeat(own, classes, axis=0) - derivatives
    size = derivatives.shape[1]
    found = linprog(
        -gains.sum(axis=0), A_ub=-gains, b_ub=np.zeros(len(gains)), bounds=[(-1.0, 1.0)] * size
    )
    if -found.fun > MARGIN:
        return centred, None

    def loss(q: np.ndarray) -> tuple[float, np.ndarray]:
        logits = (derivatives @ q).reshape(samples, classes) + outputs
        logits = logits - logits.max(axis=1, keepdims=True)
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        rows = np.arange(samples)
        value = -np.log(shares[rows, labels]).sum()
        shares[rows, labels] -= 1.0
        return value, derivatives.T @ shares.ravel()

    q = np.zeros(size)
    for _ in range(3):
        q = minimize(loss, q, jac=True, method="BFGS", options={"gtol": 1e-12, "maxiter": 5000}).x
    return centred, centred @ q


def block_case(seed: int) -> rs.Block:
    rng = np.random.default_rng(seed)
    depth, samples = int(rng.integers(1, 4)), int(rng.integers(1, 12))
    widths = [int(width) for width in rng.integers(1, 4, depth + 2)]
    loss = ("squared", "half_squared", "l1", "cross_entropy")[seed % 4]
    if loss == "cross_entropy":
        widths[-1] = max(2, widths[-1])
    x = rng.normal(size=(samples, widths[0]))
    if rng.random() < 0.2:
        x = np.repeat(x, 2, axis=0)[:samples]
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b, bias=bool(rng.random() < 0.8)), nn.ReLU()]
    model = nn.Sequential(*layers[:-1]).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(rng.normal(size=tuple(parameter.shape))))
    y = rng.normal(size=(samples, widths[-1]))
    if loss == "cross_entropy":
        y = rng.integers(0, widths[-1], samples)
    return rs.Landscape(model, x, y, loss=loss).block(int(rng.integers(0, depth + 1)))


BLOCKS = range(80)


@cache
def block_answer(seed: int) -> tuple[rs.Block, CellMinimum]:
    block = block_case(seed)
    return block, rs.cell_minimum(block)


def test_blocks_of_any_layer_and_loss_are_answered_as_by_programs() -> None:
    seen: Counter[tuple[str, bool | None]] = Counter()
    for seed in BLOCKS:
        block, found = block_answer(seed)
        assert found.genuine == (deepest_of_block(block) > MARGIN), (seed, found)
        verdict = rs.verify(found, block.landscape)
        assert verdict.valid, (seed, found, verdict)
        seen[block.landscape.loss_name, found.genuine] += 1
    losses = ("squared", "half_squared", "l1", "cross_entropy")
    assert all(seen[loss, genuine] >= 4 for loss in losses for genuine in (True, False))


def test_bad_minima_of_blocks_have_weights_of_lower_loss() -> None:
    seen: Counter[tuple[str, bool | None]] = Counter()
    for seed in range(60):
        block = block_case(seed)
        found = rs.cell_minimum(block, search=4)
        if not found.genuine:
            continue
        name = block.landscape.loss_name
        seen[name, found.bad] += 1
        assert rs.verify(found, block.landscape).valid, (seed, found)
        if found.bad:
            whole = block.landscape.theta
            whole[block.landscape.positions(block.layer)] = found.better
            lower = torch_loss(block.landscape.module_at(whole), block.landscape)
            assert lower == pytest.approx(found.better_loss, rel=1e-9, abs=1e-12)
            assert lower < found.loss - 1e-9
    assert all(seen[loss, True] >= 1 for loss in ("squared", "half_squared", "l1", "cross_entropy"))


def torch_loss(module: nn.Module, landscape: rs.Landscape) -> float:
    """A module's loss on a landscape's data, by PyTorch's own functions."""
    y = torch.from_numpy(landscape.targets)
    with torch.no_grad():
        outputs = module(torch.from_numpy(landscape.inputs))
        if landscape.loss_name == "cross_entropy":
            return float(nn.functional.cross_entropy(outputs, y))
        rest = outputs - y
        total = rest.abs().sum() if landscape.loss_name == "l1" else (rest**2).sum()
        return float(total / len(y) * (0.5 if landscape.loss_name == "half_squared" else 1.0))


def test_minima_of_a_last_layer_are_never_bad() -> None:
    """The loss is convex in it: nothing is lower, which `verify` accepts for this layer alone."""
    checked = refused = 0
    for seed in range(24):
        last = block_case(seed).landscape.block(-1)
        found = rs.cell_minimum(last)
        if found.genuine:
            assert found.bad is False
            assert rs.verify(found, last.landscape).valid, seed
            checked += found.loss > 0.01
        first = block_case(seed).landscape.block(0)
        found = rs.cell_minimum(first)
        if found.genuine and found.bad is None:
            claim = replace(found, bad=False)
            assert not rs.verify(claim, first.landscape).valid
            refused += 1
    assert min(checked, refused) >= 4, (checked, refused)


def test_a_blocks_witness_is_certified_as_a_minimum() -> None:
    """`certify` knows nothing of cells' minima: it re-solves the point from its own multipliers."""
    certified = 0
    for seed in BLOCKS:
        block, found = block_answer(seed)
        if found.genuine and block.landscape.loss_name in ("squared", "half_squared"):
            claim = rs.certify(block, found.theta).claim
            assert claim in ("strict_local_minimum", "local_minimum", "plateau", "undecided"), seed
            certified += claim != "undecided"
    assert certified >= 15


# ---- interior points, and one proof for all signs -----------------------------------------------------


@pytest.fixture
def interior(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small cells go the way of those with many variables and units."""
    monkeypatch.setattr(central, "MANY", -1)
    monkeypatch.setattr(programs, "MANY", -1)
    monkeypatch.setattr(programs, "CHOICES", 2)


@pytest.fixture
def programs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is decided without a program."""
    monkeypatch.setattr(Programs, "by_constants", lambda self, signs: None)
    monkeypatch.setattr(Programs, "near_by", lambda self, signs: None)


def methods_that_agree_with_all_sign_vectors() -> Counter[tuple[str, bool | None]]:
    """How 42 networks were answered, with free and with given signs, as all sign vectors are."""
    seen: Counter[tuple[str, bool | None]] = Counter()
    for seed in ALL[::2]:
        made = case(seed)
        for convention in ("free", "given"):
            if convention == "given" and not made.instance.weights[1].all():
                continue
            found = rs.cell_minimum(made.landscape, signs=convention)
            choices = allowed(convention, made.instance.weights[1][0])
            inside = max(deepest(made.instance, signs) for signs in choices) > MARGIN
            assert found.genuine == inside, (made.told, found)
            assert rs.verify(found, made.landscape).valid, made.told
            seen[found.method, found.genuine] += 1
    return seen


@pytest.mark.usefixtures("interior", "programs_only")
def test_interior_points_answer_as_all_sign_vectors_do() -> None:
    seen = methods_that_agree_with_all_sign_vectors()
    assert seen["signs at once", False] >= 1
    assert seen["linear program", True] >= 4


@pytest.mark.usefixtures("interior")
def test_what_is_the_same_at_all_minimisers_answers_as_all_sign_vectors_do() -> None:
    seen = methods_that_agree_with_all_sign_vectors()
    assert seen["sign check", False] >= 4
    assert seen["nearest minimum", True] >= 1


@pytest.mark.usefixtures("interior")
def test_a_cell_whose_own_weights_are_a_minimum_is_answered_by_them() -> None:
    methods = set()
    for seed in ALL[::4]:
        made = case(seed)
        module, inputs = made.instance.module(), made.instance.inputs
        targets = module(torch.as_tensor(inputs)).detach().numpy()
        planted = rs.Landscape(module, inputs, targets)
        if not (made.instance.weights[1].all() and np.abs(planted.block(0).kinks()).min() > 1e-6):
            continue
        found = rs.cell_minimum(planted, signs="given")
        assert found.genuine, made.told
        assert found.loss < 1e-20 * max(1.0, float((targets**2).mean()))
        assert rs.verify(found, planted).valid, made.told
        methods.add(found.method)
    assert "nearest minimum" in methods


def test_labels_that_cancel_leave_no_minimum_of_their_roundings_sign() -> None:
    """Six equal inputs whose labels add up to zero: the only minimiser is zero, on the kink."""
    module = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
    for weight in module.parameters():
        nn.init.ones_(weight)
    rng = np.random.default_rng(0)
    for _ in range(8):
        labels = rng.normal(size=3)
        labels = rng.permutation(np.concatenate([labels, -labels]))
        once = rs.Landscape(module.double(), np.ones((6, 1)), labels)
        inputs = np.repeat([[1.0], [2.0]], 6, axis=0)
        twice = rs.Landscape(module, inputs, np.concatenate([labels, labels]))
        for landscape in (once, twice):
            for signs in SIGNS:
                found = rs.cell_minimum(landscape, signs=signs)
                assert found.genuine is False
                assert rs.verify(found, landscape).valid


def test_answers_about_nearly_equal_inputs_pass_their_check_or_are_open() -> None:
    seen: Counter[bool | None] = Counter()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        inputs = 1.0 + 10.0 ** rng.uniform(-9, -3) * rng.normal(size=(8, 4))
        landscape = wide(seed, 2, 8, 4)
        landscape = rs.Landscape(landscape.module_at(), inputs, landscape.targets)
        for signs in SIGNS:
            found = rs.cell_minimum(landscape, signs=signs)
            assert found.genuine is None or rs.verify(found, landscape).valid
            seen[found.genuine] += 1
    assert seen[True] >= 3
    assert seen[False] >= 3


def polygon(seed: int) -> rs.Landscape:
    """A unit for each corner of a polygon, which fits it, and one unit that is active everywhere.

    Pairs of equal points inside have labels that cancel, so that the last unit is to be zero.
    """
    rng = np.random.default_rng(seed)
    corners = 40
    angles = 2 * np.pi * np.arange(corners) / corners
    points = np.column_stack([np.cos(angles), np.sin(angles)])
    inside = np.repeat(0.4 * rng.uniform(-1, 1, (25, 2)), 2, axis=0)
    module = nn.Sequential(
        nn.Linear(2, corners + 1), nn.ReLU(), nn.Linear(corners + 1, 1, bias=False)
    ).double()
    with torch.no_grad():
        module[0].weight[:] = torch.tensor(np.vstack([0.1 * rng.normal(size=(1, 2)), points]))
        edge = np.full(corners, -np.cos(np.pi / corners / 2))
        module[0].bias[:] = torch.tensor(np.append(rng.uniform(0.5, 2), edge))
        module[2].weight[:] = torch.tensor(rng.uniform(0.5, 2, (1, corners + 1)))
        inputs = np.vstack([points, inside])
        hidden = module[0](torch.tensor(inputs)).relu()[:, 1:]
        targets = (hidden @ module[2].weight[0, 1:]).numpy()
    return rs.Landscape(
        module, inputs, targets + np.append(np.zeros(corners), np.tile([1.0, -1.0], 25))
    )


@pytest.mark.parametrize("seed", [1, 12])
def test_a_unit_that_ought_to_be_zero_is_no_minimum_of_its_rounding(seed: int) -> None:
    landscape = polygon(seed)
    for signs in SIGNS:
        found = rs.cell_minimum(landscape, signs=signs)
        assert found.genuine is False
        assert rs.verify(found, landscape).valid


def wide(seed: int, units: int, samples: int, inputs: int) -> rs.Landscape:
    """Gaussian data with labels of -1 and 1, and default weights."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(inputs, units), nn.ReLU(), nn.Linear(units, 1)).double()
    return rs.Landscape(
        model, rng.normal(size=(samples, inputs)), rng.choice([-1.0, 1.0], (samples, 1))
    )


def test_far_fewer_samples_than_weights_leave_a_minimum_under_nearly_any_signs() -> None:
    landscape = wide(0, 20, 100, 30)
    for signs in ("free", "given"):
        found = rs.cell_minimum(landscape, signs=signs)
        assert found.genuine
        assert rs.verify(found, landscape).valid


@pytest.mark.usefixtures("interior", "programs_only")
def test_forged_proofs_for_all_signs_are_rejected(tmp_path: Path) -> None:
    landscape = wide(0, 12, 44, 3)
    found = rs.cell_minimum(landscape)
    proof = found.infeasibility
    assert (found.genuine, found.method) == (False, "signs at once")
    assert rs.verify(found.save(tmp_path / "none.nc"), landscape).valid
    own = proof.turns[proof.part] == proof.kink % 12
    forgeries = [
        forged(found, weight=np.where(own, 0.5 * proof.weight, proof.weight)),
        forged(found, weight=np.where(own, -proof.weight, proof.weight)),
        forged(found, weight=np.where(own, proof.weight, 1.01 * proof.weight)),
        forged(found, outputs=1.01 * proof.outputs),
        forged(found, outputs=proof.outputs + 0.01),
        forged(found, directions=0 * proof.directions),
        forged(found, turns=proof.turns[::-1].copy()),
        forged(found, turns=0 * proof.turns),
        forged(found, turns=proof.turns + 12),
        forged(found, turns=proof.turns[:-1]),
        forged(found, turns=proof.turns[:0]),
        forged(found, part=np.zeros_like(proof.part)),
    ]
    for place, one in enumerate(forgeries):
        assert not rs.verify(one, landscape).valid, place


# ---- progress ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("interior", "programs_only")
def test_a_search_that_is_stopped_leaves_the_answer_open() -> None:
    told: list[float] = []

    def stop(what: str, fraction: float) -> None:
        told.append(fraction)
        if len(told) == 5:
            raise Stop

    landscape = wide(0, 12, 44, 3)
    found = rs.cell_minimum(landscape, progress=stop)
    assert (found.genuine, len(told)) == (None, 5)
    assert rs.verify(found, landscape).reason.startswith("it claims nothing")
    assert rs.cell_minimum(landscape.block(0), progress=stop).genuine is False
    assert len(told) > 5


@pytest.mark.parametrize("loss", ["squared", "l1"])
def test_a_layers_programs_are_told_and_may_be_stopped(loss: str) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    parts = (nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
    block = rs.Landscape(
        nn.Sequential(*parts).double(),
        rng.normal(size=(12, 6)),
        rng.normal(size=(12, 3)),
        loss=loss,
    ).block(0)
    told: list[str] = []
    assert rs.cell_minimum(block, progress=lambda what, _: told.append(what)).genuine is False
    assert set(told) == {"minima of the cell"}
    assert len(told) > 1

    def stop(what: str, fraction: float) -> None:
        raise Stop

    found = rs.cell_minimum(block, progress=stop)
    assert (found.genuine, found.reason) == (None, "it was stopped")
    assert "it was stopped" in found.summary()
    assert rs.verify(found, block.landscape).reason.startswith("it claims nothing")


# ---- proofs that are none ---------------------------------------------------------------------------


def negative() -> tuple[rs.Landscape, CellMinimum]:
    for seed in ALL:
        found = answers(seed).get("uniform")
        if found is not None and found.genuine is False and len(found.start) > 6:
            return case(seed).landscape, found
    raise AssertionError("no negative answer among the cases")


def forged(found: CellMinimum, **changes: object) -> CellMinimum:
    """The result with changed fields of its proof."""
    return replace(found, infeasibility=replace(found.infeasibility, **changes))


def test_forged_proofs_are_rejected() -> None:
    landscape, found = negative()
    proof = found.infeasibility
    assert rs.verify(found, landscape).valid
    forgeries = [
        forged(found, outputs=proof.outputs + 0.01),
        forged(found, directions=0 * proof.directions),
        forged(found, weight=-proof.weight),
        forged(found, weight=proof.weight * 1.01),
        forged(found, weight=np.full_like(proof.weight, np.nan)),
        forged(found, kink=proof.kink + 1000),
        forged(
            found, signs=proof.signs[:1], outputs=proof.outputs[:1], directions=proof.directions[:1]
        ),
        forged(found, signs=-proof.signs),
        replace(found, infeasibility=None),
        replace(found, convention="any"),
        replace(found, genuine=True, theta=found.start),
        replace(found, genuine=True),
        replace(found, start=-found.start),
        replace(found, objective="l1"),
        replace(found, start=None),
        replace(found, bad=True),
    ]
    for place, one in enumerate(forgeries):
        assert not rs.verify(one, landscape).valid, place


def test_a_proof_with_a_gap_is_rejected_however_long_the_minimiser() -> None:
    """t in [1000, 1001] with a bias: the minimiser is a thousand times as long as the targets."""
    rng = np.random.default_rng(0)
    t = 1e3 + rng.uniform(0, 1, 50)
    y = 2.0 * (t - 1e3) + 1.0 + 0.1 * rng.normal(size=50)
    instance = Instance(
        (np.ones((1, 1)), np.ones((1, 1))), (np.zeros(1), np.zeros(1)), 0.0, t[:, None], y[:, None],
        "squared", 0,
    )  # fmt: skip
    landscape = rs.Landscape(instance.module(), t[:, None], y)
    found = rs.cell_minimum(landscape, signs="given")
    assert found.genuine
    assert rs.verify(found, landscape).valid
    rows = np.column_stack([t, np.ones(50)])
    sizes = np.linalg.norm(rows, axis=0)
    rows = rows / sizes
    q = np.linalg.lstsq(rows, y, rcond=None)[0]
    length = np.linalg.norm(y)
    ratio = np.linalg.norm(q) / length
    assert ratio > 1000
    gap = 2.0 * (q @ rows[0]) / length / (ratio - 1000.0) * q / np.linalg.norm(q)
    direction = np.linalg.solve(rows.T @ rows, rows[0] - gap)
    proof = Infeasibility(
        np.ones((1, 1), dtype=np.int8), (rows @ direction)[None], (direction / sizes)[None],
        np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64), np.ones(1),
    )  # fmt: skip
    forgery = replace(
        found, genuine=False, theta=None, signs=None, infeasibility=proof, margin=0.0, bad=False
    )
    assert not rs.verify(forgery, landscape).valid


def test_forged_witnesses_are_rejected() -> None:
    seed = next(s for s in ALL if answers(s)["free"].bad)
    landscape, found = case(seed).landscape, answers(seed)["free"]
    assert rs.verify(found, landscape).valid
    forgeries = [
        replace(found, theta=found.theta * 1.001),
        replace(found, theta=-found.theta),
        replace(found, theta=None),
        replace(found, theta=found.theta[:-1]),
        replace(found, loss=found.loss / 2),
        replace(found, better=found.theta),
        replace(found, genuine=False),
        replace(found, signs=-found.signs),
        replace(found, margin=2.0 * found.margin),
        replace(found, bad=False),
        replace(found, convention="uniform" if len(set(found.signs)) > 1 else "none"),
    ]
    for place, one in enumerate(forgeries):
        assert not rs.verify(one, landscape).valid, place


@pytest.mark.parametrize(
    ("leaves", "covered"),
    [
        ([[1, 0], [-1, 0]], True),
        ([[1, 0], [-1, 1]], False),
        ([[1, 1], [1, -1], [-1, 0]], True),
        ([[0, 0]], True),
        ([[0, 1], [1, -1]], False),
    ],
)
def test_leaves_must_cover_all_signs(leaves: list[list[int]], covered: bool) -> None:
    given = [np.array(leaf, dtype=np.int8) for leaf in leaves]
    assert cover(given, [np.zeros(2, dtype=np.int8)]) is covered


def test_results_come_back_from_their_files(tmp_path: Path) -> None:
    landscape, found = negative()
    path = found.save(tmp_path / "none.nc")
    again = CellMinimum.load(path)
    assert rs.verify(path, landscape).valid
    assert again.summary() == found.summary()
    np.testing.assert_array_equal(again.infeasibility.weight, found.infeasibility.weight)
    path.write_bytes(path.read_bytes()[:500])
    assert not rs.verify(path, landscape).valid


# ---- known answers ----------------------------------------------------------------------------------


def small(
    weights: list[list[float]], outputs: list[float], x: np.ndarray, y: list[float]
) -> rs.Landscape:
    """A network without biases."""
    first, last = np.array(weights), np.array([outputs])
    instance = Instance((first, last), (None, None), 0.0, x, np.array(y)[:, None], "squared", 0)
    return rs.Landscape(instance.module(), x, y)


def test_contradicting_duplicates_are_fitted_at_their_mean() -> None:
    """x = 1 with targets 1, 1, -2: R = 0 is on the boundary; with targets 1, 1, 1 R = 1 is inside."""
    x = np.ones((3, 1))
    found = rs.cell_minimum(small([[1.0]], [1.0], x, [1.0, 1.0, -2.0]))
    assert (found.genuine, found.loss, found.kind) == (False, pytest.approx(2.0), "unique")
    found = rs.cell_minimum(small([[1.0]], [1.0], x, [1.0, 1.0, 1.0]))
    assert (found.genuine, found.bad) == (True, False)


def test_a_dead_network_is_a_plateau_and_a_bad_one() -> None:
    x = np.array([[1.0, 0.0], [0.0, 1.0]])
    found = rs.cell_minimum(small([[-1.0, -1.0], [-2.0, -1.0]], [1.0, 1.0], x, [1.0, -1.0]))
    assert (found.genuine, found.kind, found.bad, found.loss) == (True, "plateau", True, 1.0)
    assert found.better_loss < 1e-20


def test_a_point_on_a_cells_boundary_is_said_to_be_there() -> None:
    """A kink that is zero counts as negative, and opposite inputs that both are zero have no cell."""
    x = np.array([[1.0, 0.0], [-1.0, 0.0]])
    found = rs.cell_minimum(small([[0.0, 1.0]], [1.0], x, [1.0, 1.0]))
    assert (found.genuine, found.active) == (False, 2)
    assert "2 kinks are zero" in found.summary()


def test_refusals_say_what_to_do() -> None:
    x = np.array([[1.0], [2.0]])
    landscape = small([[1.0]], [0.0], x, [1.0, 1.0])
    with pytest.raises(InputError, match="unit 0: use signs='free'"):
        rs.cell_minimum(landscape, signs="given")
    with pytest.raises(InputError, match="signs must be one of free, given, uniform"):
        rs.cell_minimum(landscape, signs="all")
    deep = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    with pytest.raises(UnsupportedModelError, match="pass a block instead"):
        rs.cell_minimum(rs.Landscape(deep, x, np.ones(2)))
    decayed = rs.Landscape(deep, x, np.ones(2), weight_decay=0.1)
    for subject in (decayed, decayed.block(0)):
        with pytest.raises(InputError, match="weight"):
            rs.cell_minimum(subject)
    with pytest.raises(InputError, match="needs a Landscape or a Block"):
        rs.cell_minimum("model")
    with pytest.raises(InputError, match="theta must have shape"):
        rs.cell_minimum(landscape, np.zeros(3))
