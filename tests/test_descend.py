"""Vertex descent against linear programs, probing, independent certificates and named degeneracies."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType

import numba
import numpy as np
import pytest
import torch
from nets import dense
from scipy.optimize import linprog
from torch import nn

import reluscape as rs
from reluscape.descent import Status, batches, chain, kernel, loop, problem
from reluscape.descent import path as paths
from reluscape.errors import InputError
from reluscape.progress import Stop

CERTIFIED = {"strict_minimum", "minimum"}
MINIMA = {"strict_minimum", "minimum", "plateau", "perfect_fit"}


def block(
    widths: tuple[int, ...], *, seed: int, samples: int = 60, layer: int = 0, whole: bool = False
) -> rs.Block:
    """A random network's block; with `whole`, data are small integers, so that ties abound."""
    rng = np.random.default_rng(seed)
    inputs = rng.uniform(-3, 3, (samples, widths[0]))
    targets = rng.uniform(-3, 3, (samples, widths[-1]))
    if whole:
        inputs, targets = np.round(inputs), np.round(targets)
    return rs.Landscape(dense(widths, seed=seed), inputs, targets, loss="l1").block(layer)


def check(descent: rs.Descent, start: rs.Block) -> None:
    """What holds of every descent."""
    assert (np.diff(descent.losses) <= 0).all()
    assert descent.losses[0] == pytest.approx(start.loss(), rel=1e-12)
    assert descent.loss == start.loss(descent.theta)
    assert descent.loss <= descent.losses[-1]  # not even by rounding
    assert "-0.0%" not in descent.summary()
    assert descent.loss == pytest.approx(descent.losses[-1], rel=1e-9, abs=1e-12)
    assert len(descent.step_lengths) == descent.num_pivots == len(descent.losses) - 1
    assert rs.verify(descent.certificate, start.landscape).valid
    assert descent.status in set(Status)


def probed(start: rs.Block, theta: np.ndarray, *, probes: int = 1000) -> float:
    """Lowest loss found around theta, less the loss there."""
    rng = np.random.default_rng(1)
    here, lowest = start.loss(theta), np.inf
    for _ in range(probes):
        step = rng.normal(size=theta.size) * rng.choice([0.0, 1.0], theta.size, p=[0.5, 0.5])
        size = 10.0 ** rng.uniform(-7, -2)
        lowest = min(lowest, start.loss(theta + size * step) - here)
    return lowest


SHAPES = [
    ((3, 1), 0),
    ((3, 4, 1), 0),
    ((3, 4, 1), 1),
    ((2, 3, 2), 0),
    ((4, 5, 4, 2), 0),
    ((4, 5, 4, 2), 1),
    ((3, 3, 3, 3, 1), 0),
    ((3, 3, 3, 3, 1), 2),
    ((4, 4, 3, 3, 2, 1), 0),
    ((4, 4, 3, 3, 2, 2), 1),
]


@cache
def descended(widths: tuple[int, ...], layer: int, seed: int) -> tuple[rs.Block, rs.Descent]:
    """A random block and its descent."""
    start = block(widths, seed=seed, layer=layer)
    return start, rs.descend(start)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("widths", "layer"), SHAPES)
def test_random_networks_end_at_certified_minima(
    widths: tuple[int, ...], layer: int, seed: int
) -> None:
    start, descent = descended(widths, layer, seed)
    check(descent, start)
    assert descent.status in MINIMA | {"undecided"}
    if descent.status in MINIMA:
        assert probed(start, descent.theta) >= -1e-12


def test_few_ends_are_undecided() -> None:
    """Where many kinks meet (zero units, inputs that are zero for several samples) none is claimed."""
    ends = [
        descended(widths, layer, seed)[1].status for widths, layer in SHAPES for seed in range(5)
    ]
    assert ends.count("undecided") <= 0.12 * len(ends)
    assert ends.count("strict_minimum") >= 0.5 * len(ends)


@pytest.mark.parametrize("rule", ["long_step", "first_kink"])
def test_rules_reach_minima(rule: str) -> None:
    start = block((4, 5, 4, 1), seed=3, samples=80)
    descent = rs.descend(start, rule=rule)
    check(descent, start)
    assert descent.status == "strict_minimum"
    assert descent.first_vertex == start.size


def test_long_steps_need_fewer_pivots() -> None:
    pivots = {
        rule: np.median([
            rs.descend(block((4, 5, 4, 1), seed=seed, samples=200), rule=rule).num_pivots
            for seed in range(5)
        ])
        for rule in ("long_step", "first_kink")
    }  # fmt: skip
    assert pivots["long_step"] < 0.5 * pivots["first_kink"]


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_least_absolute_deviations_are_the_linear_programs(seed: int, outputs: int) -> None:
    """Without hidden layers the loss is convex: one program per output gives its minimum."""
    start = block((4, outputs), seed=seed, samples=50)
    inputs = np.hstack([start.landscape.inputs, np.ones((50, 1))])
    best = 0.0
    for targets in start.landscape.targets.T:
        cost = np.concatenate([np.zeros(5), np.full(50, 1 / 50)])
        rows = np.vstack([np.hstack([inputs, -np.eye(50)]), np.hstack([-inputs, -np.eye(50)])])
        sides = np.concatenate([targets, -targets])
        best += linprog(cost, rows, sides, bounds=[(None, None)] * 5 + [(0, None)] * 50).fun
    descent = rs.descend(start)
    check(descent, start)
    assert descent.loss == pytest.approx(best, rel=1e-9)


def interpreted(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A second copy of a compiled module that is not compiled: its lines can be seen running."""
    spec = importlib.util.spec_from_file_location("reluscape.descent.interpreted", module.__file__)
    copy = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(numba.config, "DISABLE_JIT", True)
    spec.loader.exec_module(copy)
    monkeypatch.setattr(numba.config, "DISABLE_JIT", False)
    return copy


@pytest.mark.parametrize("rule", ["long_step", "first_kink"])
@pytest.mark.parametrize("whole", [False, True])
def test_compiled_and_interpreted_kernels_take_the_same_path(
    whole: bool, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the first vertex always; beyond it where no kinks tie, since rounding decides a tie."""
    start = block((3, 3, 2, 1), seed=3, samples=24, whole=whole)
    compiled = rs.descend(start, rule=rule)
    copy = interpreted(chain, monkeypatch)
    for name in ("all_pulls", "all_normals"):
        monkeypatch.setattr(problem, name, getattr(copy, name))
    monkeypatch.setitem(sys.modules, chain.__name__, copy)
    monkeypatch.setattr(batches, "run", interpreted(kernel, monkeypatch).run)
    with np.errstate(divide="ignore", invalid="ignore"):  # as compiled: rates may be zero
        other = rs.descend(start, rule=rule)
    check(other, start)
    assert other.first_vertex == compiled.first_vertex > 0
    same = compiled.first_vertex if whole else None
    np.testing.assert_allclose(other.losses[:same], compiled.losses[:same], rtol=1e-9)
    if not whole:
        np.testing.assert_allclose(other.theta, compiled.theta, atol=1e-9)


# --- where it starts and stops ------------------------------------------------------------------


def test_going_on_from_where_it_stopped() -> None:
    start = block((4, 5, 1), seed=2)
    first = rs.descend(start, max_pivots=30)
    assert first.status == "max_pivots"
    assert first.num_pivots == 30
    check(first, start)
    second = rs.descend(start, first.theta)
    assert second.status == "strict_minimum"
    assert second.loss < first.loss
    third = rs.descend(start, second.theta)
    assert third.status == "strict_minimum"
    np.testing.assert_allclose(third.theta, second.theta, atol=1e-9)


def test_the_same_seed_gives_the_same_bytes() -> None:
    ends = [rs.descend(block((3, 4, 1), seed=5, whole=True), seed=7) for _ in range(2)]
    assert ends[0].theta.tobytes() == ends[1].theta.tobytes()
    assert ends[0].losses.tobytes() == ends[1].losses.tobytes()


def test_path_is_recorded_and_saved(tmp_path: Path) -> None:
    start = block((3, 4, 1), seed=1)
    descent = rs.descend(start)
    assert descent.stride == 1
    np.testing.assert_allclose(descent.vertices[0], start.theta, atol=1e-12)
    steps = np.linalg.norm(np.diff(descent.vertices, axis=0), axis=1)
    assert (steps[descent.step_lengths == 0] < 1e-9).all()
    for vertex, loss in zip(descent.vertices, descent.losses, strict=True):
        assert start.loss(vertex) == pytest.approx(loss, rel=1e-9)
    assert len(descent.plot().data) == 4
    again = rs.Descent.load(descent.save(tmp_path / "path.nc"))
    np.testing.assert_array_equal(again.vertices, descent.vertices)
    assert (again.loss, again.status) == (descent.loss, descent.status)
    assert rs.verify(again.certificate, start.landscape).valid
    assert "strict_minimum" in descent.summary()


# --- degenerate data ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_ties_of_small_integers(seed: int) -> None:
    start = block((4, 5, 1), seed=seed, samples=100, whole=True)
    descent = rs.descend(start)
    check(descent, start)
    assert descent.status in MINIMA | {"undecided"}
    assert probed(start, descent.theta) >= -1e-10


def landscape(
    inputs: np.ndarray, *, seed: int = 0, change: str = "", widths: tuple[int, ...] = ()
) -> rs.Landscape:
    """A 4-unit network on these inputs, some weights of it replaced."""
    widths = widths or (inputs.shape[1], 4, 1)
    model = dense(widths, seed=seed)
    first = next(part for part in model.modules() if isinstance(part, nn.Linear))
    with torch.no_grad():
        if change == "zero unit":
            first.weight[0] = 0.0
            first.bias[0] = 0.0
        elif change == "dead unit":
            first.bias[0] = -1e3
        elif change == "all dead":
            first.bias[:] = -1e3
        elif change == "unread":
            list(model.parameters())[2].zero_()
    targets = np.random.default_rng(seed + 1).normal(size=(len(inputs), 1))
    return rs.Landscape(model, inputs, targets, loss="l1")


DEGENERATE = {
    "zero unit": ("strict_minimum", "unit 0 of layer 0 is zero at the start"),
    "dead unit": ("strict_minimum", "unit 0 of layer 0 is dead at the start (it comes alive)"),
    "constant column": ("minimum", "input 1 of the layer is constant, as the bias's input is"),
    "zero column": ("minimum", "input 1 of the layer is zero on all samples"),
    "duplicate columns": ("minimum", "inputs 0 and 1 of the layer are equal on all samples"),
    "duplicate samples": (
        "minimum",
        "40 samples (0, 1, 2, 3, 4, 5 and 34 more) have the same inputs",
    ),
    "one sample": ("perfect_fit", "span 1 of 4 directions (there is only 1 sample)"),
    "fewer samples than inputs": (
        "perfect_fit",
        "span 3 of 6 directions (there are only 3 samples)",
    ),
}


@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_data_end_with_a_name(case: str) -> None:
    status, cause = DEGENERATE[case]
    inputs = np.random.default_rng(4).normal(size=(40, 3))
    if case == "constant column":
        inputs[:, 1] = 2.0
    elif case == "zero column":
        inputs[:, 1] = 0.0
    elif case == "duplicate columns":
        inputs[:, 1] = inputs[:, 0]
    elif case == "duplicate samples":
        inputs[20:] = inputs[:20]
    elif case == "one sample":
        inputs = inputs[:1]
    elif case == "fewer samples than inputs":
        inputs = np.random.default_rng(4).normal(size=(3, 5))
    start = landscape(inputs, change=case).block(0)
    descent = rs.descend(start)
    check(descent, start)
    assert any(cause in told for told in descent.causes)
    # among ties rounding decides which minimum it is
    allowed = CERTIFIED if status in CERTIFIED else {status}
    assert descent.status in (allowed | {"undecided"} if case == "duplicate samples" else allowed)
    assert descent.loss < start.loss()
    assert probed(start, descent.theta) >= -1e-13


def test_directions_without_data_keep_their_weights() -> None:
    inputs = np.random.default_rng(4).normal(size=(40, 3))
    inputs[:, 1] = 0.0
    start = landscape(inputs).block(0)
    descent = rs.descend(start)
    before, after = (theta[:12].reshape(4, 3)[:, 1] for theta in (start.theta, descent.theta))
    np.testing.assert_allclose(after, before, atol=1e-12)
    assert descent.status == "minimum"


def test_descent_leaves_a_plateau_that_has_an_edge() -> None:
    """All units dead: the loss is constant around the start, and falls beyond the kinks."""
    start = landscape(np.random.default_rng(4).normal(size=(40, 3)), change="all dead").block(0)
    assert rs.certify(start).claim == "plateau"
    descent = rs.descend(start)
    check(descent, start)
    assert descent.status == "strict_minimum"
    assert descent.loss < start.loss()


@pytest.mark.parametrize("seed", range(3))
def test_a_perfect_fit_is_named(seed: int) -> None:
    """Near weights that fit the targets: the loss goes to zero, where far too many kinks meet."""
    rng = np.random.default_rng(seed)
    inputs, fit = rng.normal(size=(60, 3)), np.zeros((6, 3))
    fit[[0, 1, 2, 3], [0, 0, 1, 1]] = [1.0, -1.0, 1.0, -1.0]
    model = dense((3, 6, 1), seed=seed)
    with torch.no_grad():
        model[0].weight.copy_(torch.from_numpy(fit + 0.05 * rng.normal(size=fit.shape)))
        model[0].bias.copy_(torch.from_numpy(0.05 * rng.normal(size=6)))
        model[2].weight.copy_(torch.tensor([[1.0, 1.0, -1.0, 1.0, -1.0, 1.0]]))
        model[2].bias.zero_()
    targets = np.abs(inputs[:, :1]) - inputs[:, 1:2]
    start = rs.Landscape(model, inputs, targets, loss="l1").block(0)
    descent = rs.descend(start)
    check(descent, start)
    assert descent.status == "perfect_fit"
    assert descent.loss < 1e-13


def test_plateau_without_an_edge_is_named() -> None:
    """Nothing reads the layer: the loss is constant everywhere."""
    start = landscape(np.random.default_rng(4).normal(size=(40, 3)), change="unread").block(0)
    descent = rs.descend(start)
    assert descent.status == "plateau"
    assert descent.loss == start.loss()


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"rule": "steepest"}, "rule must be"), ({"max_pivots": 0}, "max_pivots must be"),
     ({"theta": np.zeros(3)}, "theta"),
     ({"theta": np.full(16, 1e200)}, r"theta must be at most 1e\+50 in size; received 1e\+200"),
     ({"progress": 3}, "progress must be a function or None; received 3"),
     ({"max_pivots": 1.5}, r"max_pivots must be a whole number of at least 1; received 1\.5"),
     ({"max_pivots": "3"}, "max_pivots must be a whole number"),
     ({"seed": -1}, "seed must be a whole number of at least 0; received -1"),
     ({"seed": "a"}, "seed must be a whole number"), ({"seed": None}, "seed must be")],
)  # fmt: skip
def test_bad_options(options: dict[str, object], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        rs.descend(block((3, 4, 1), seed=0), **options)


def test_other_losses_are_refused() -> None:
    inputs = np.random.default_rng(0).normal(size=(9, 2))
    for more in ({"loss": "squared"}, {"loss": "l1", "weight_decay": 0.1}):
        model = dense((2, 2, 1), seed=0)
        made = rs.Landscape(model, inputs, np.zeros((9, 1)), **more)
        with pytest.raises(InputError, match="piecewise-affine loss"):
            rs.descend(made.block(0))
    with pytest.raises(InputError, match="needs a Block"):
        rs.descend(made)


def test_tiny_columns_of_inputs_are_refused() -> None:
    """Weights that undo 1e-100 are too large to be verified."""
    inputs = np.random.default_rng(0).normal(size=(9, 2)) * [1.0, 1e-100]
    made = rs.Landscape(dense((2, 2, 1), seed=0), inputs, np.ones((9, 1)), loss="l1")
    with pytest.raises(InputError, match=r"zero or at least 1e-50 in size; .* in column 1: resc"):
        rs.descend(made.block(0))
    made = rs.Landscape(dense((2, 2, 1), seed=0), inputs * [1.0, 0.0], np.ones((9, 1)), loss="l1")
    assert rs.descend(made.block(0)).num_pivots > 0


# --- real data ----------------------------------------------------------------------------------


def test_many_exact_fits_at_one_vertex_are_certified() -> None:
    """Half of the samples lie on one line: hundreds of residuals are zero at the minimum."""
    rng = np.random.default_rng(0)
    inputs = rng.integers(-2, 3, (300, 3)).astype(float)
    targets = inputs @ np.array([[1.0], [2.0], [-1.0]]) + rng.choice(
        [0.0, 0.0, 1.0, -1.0], (300, 1)
    )
    landscape = rs.Landscape(dense((3, 1), seed=0), inputs, targets, loss="l1")
    start = landscape.block(0)
    descent = rs.descend(start)
    check(descent, start)
    assert descent.status == "strict_minimum"
    assert len(descent.certificate.active_kinks) > 100


def test_beside_a_point_of_too_many_kinks_lies_a_certified_one() -> None:
    """Kinks leave zero along a flat direction: the same loss, and few enough are left to certify."""
    rng = np.random.default_rng(51)
    inputs, targets = rng.uniform(-3, 3, (500, 4)), rng.uniform(-3, 3, (500, 1))
    model = dense((4, 5, 4, 3, 2, 1), seed=51)
    draws = np.random.default_rng(51)
    with torch.no_grad():
        for place, part in enumerate(p for p in model.modules() if isinstance(p, nn.Linear)):
            size = 1.0 if place else 20.0
            for value in part.parameters():
                value.copy_(torch.from_numpy(draws.uniform(-size, size, tuple(value.shape))))
    start = rs.Landscape(model, inputs, targets, loss="l1").block(0)
    descent = rs.descend(start)
    check(descent, start)
    assert descent.status == "minimum"
    assert probed(start, descent.theta) >= -1e-12


# --- faults that random blocks have shown (fuzz.py) ----------------------------------------------


def least_absolute(inputs: np.ndarray, targets: np.ndarray, theta: list[float]) -> rs.Block:
    """One linear layer without bias, from given weights."""
    model = nn.Sequential(nn.Linear(inputs.shape[1], 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([theta]))
    return rs.Landscape(model, inputs, targets, loss="l1").block(0)


def test_inputs_that_are_zero_have_features_that_are_zero() -> None:
    """An SVD's are of rounding size, and steps along them without an end."""
    inputs = np.zeros((20, 3))
    inputs[::5] = np.random.default_rng(0).normal(size=(4, 3))
    start = least_absolute(inputs, np.ones((20, 1)), [0.0, 0.0, 0.0])
    made = problem.Problem.of(start.piecewise)
    assert (made.features[~inputs.any(axis=1)] == 0).all()
    np.testing.assert_allclose(
        made.features @ (made.scale * made.basis.T * made.sizes[:, None]).T, inputs, atol=1e-14
    )
    descent = rs.descend(start)
    check(descent, start)
    assert descent.status in MINIMA


def test_inputs_that_are_all_zero_leave_nothing_to_descend() -> None:
    start = least_absolute(np.zeros((5, 3)), np.ones((5, 1)), [1.0, 2.0, 3.0])
    descent = rs.descend(start)
    assert descent.status == "plateau"
    np.testing.assert_array_equal(descent.theta, start.theta)


def test_no_perfect_fit_where_only_rounding_is_large() -> None:
    """Weights of 1e17 hide any residual in their rounding; half of the targets are out of reach."""
    inputs = np.array([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    start = least_absolute(inputs, np.ones((4, 1)), [1e17, -1e17])
    descent = rs.descend(start)
    assert descent.loss >= 0.5
    assert descent.status != "perfect_fit"


@pytest.mark.parametrize("seed", range(6))
def test_losses_of_the_path_are_those_of_its_points(seed: int) -> None:
    """Also where kinks that meet are shifted: losses with shifts are no losses of the network."""
    rng = np.random.default_rng(seed)
    inputs = np.repeat(rng.integers(-2, 3, (20, 3)), 2, axis=0).astype(float)
    targets = np.round(rng.normal(size=(40, 1)))
    start = rs.Landscape(dense((3, 4, 3, 1), seed=seed), inputs, targets, loss="l1").block(seed % 3)
    descent = rs.descend(start)
    check(descent, start)
    assert descent.stride == 1
    found = [start.loss(vertex) for vertex in descent.vertices]
    np.testing.assert_allclose(descent.losses, found, rtol=1e-9, atol=1e-12 * found[0])


@pytest.mark.parametrize("theta", [[0.0, 0.0], [1.0, -2.0]])
def test_weights_that_are_zero_at_the_minimum_become_so(theta: list[float]) -> None:
    """Many samples fit at a weight of exactly zero, and at one of 1e-17 none does."""
    inputs = np.random.default_rng(3).integers(-3, 4, (30, 2)).astype(float)
    targets = np.zeros((30, 1))
    targets[:5] = 1.0
    start = least_absolute(inputs, targets, theta)
    descent = rs.descend(start)
    check(descent, start)
    assert descent.status == "strict_minimum"
    np.testing.assert_array_equal(descent.theta, 0.0)


def test_an_end_that_cannot_be_decided_is_given_up_for_a_lower_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first end of every descent is taken for one that rounding leaves undecided."""
    certified, seen, kept, given = paths.Path.certified, [], 0, 0

    def unsure(path: paths.Path, end: np.ndarray) -> rs.Certificate:
        seen.append(path.lowest)
        found = certified(path, end)
        first = abs(path.lowest - seen[0]) <= 1e-9
        return replace(found, claim="undecided") if first else found

    monkeypatch.setattr(loop, "_aside", lambda *_: None)
    monkeypatch.setattr(loop, "_shown_way", lambda *_: None)
    monkeypatch.setattr(paths.Path, "certified", unsure)
    for seed in range(10):
        seen.clear()
        start = block((3, 4, 3, 1), seed=seed, samples=40)
        descent = rs.descend(start, rule="first_kink")
        if descent.status == "undecided":
            given += 1
            assert 2 <= len(seen) <= len(loop.BACK) + 1
            assert min(seen[1:]) >= seen[0] - 1e-9
            assert descent.loss == pytest.approx(seen[0], rel=1e-9)
        elif descent.status in CERTIFIED:
            kept += 1
            assert descent.loss < seen[0]
            assert rs.verify(descent.certificate, start.landscape).valid
        assert any("led to ends that were neither" in told for told in descent.causes)
        assert (np.diff(descent.losses) <= 0).all()
        assert len(descent.step_lengths) == descent.num_pivots == len(descent.losses) - 1
        losses = [start.loss(theta) for theta in descent.vertices]
        np.testing.assert_allclose(losses, descent.losses[:: descent.stride], rtol=1e-9)
    assert kept > 0
    assert given > 0


def ties(seed: int) -> rs.Block:
    """A block of small integers with a zero unit, whose ends are often left along other directions."""
    rng = np.random.default_rng(seed)
    widths = [int(n) for n in rng.integers(1, 4, int(rng.integers(2, 5)))] + [1]
    start = block(tuple(widths), seed=seed, samples=int(rng.integers(4, 30)), whole=True)
    theta = np.round(2 * start.theta)
    theta[: start.piecewise.features.shape[1]] = 0.0
    return start.landscape.at(start.embed(theta - start.theta) + start.landscape.theta).block(0)


@pytest.mark.parametrize("rule", ["long_step", "first_kink"])
def test_no_pivot_is_taken_beyond_the_limit_or_after_a_stop(rule: str) -> None:
    for seed in range(3):
        start, calls = ties(seed), 0

        def heard(told: str, share: float) -> None:
            nonlocal calls
            calls += 1
            assert np.isnan(share) or 0 <= share <= 1

        whole = rs.descend(start, rule=rule, progress=heard)
        for limit in range(1, min(whole.num_pivots + 2, 20)):
            cut = rs.descend(start, rule=rule, max_pivots=limit, progress=heard)
            assert cut.num_pivots <= limit
            assert (np.diff(cut.losses) <= 0).all()
        for last in range(1, min(calls, 8)):
            seen: list[str] = []

            def stopped(told: str, share: float, last: int = last, seen: list[str] = seen) -> None:
                seen.append(told)
                if len(seen) == last:
                    raise Stop

            cut = rs.descend(start, rule=rule, progress=stopped)
            if not any("ends that were neither" in told for told in cut.causes):
                told = seen[min(last, len(seen)) - 1]
                assert told.startswith(f"pivot {cut.num_pivots},") or not cut.num_pivots


@pytest.mark.parametrize("power", [-38, -30, 36, 50])
def test_the_size_of_the_targets_does_not_matter(power: int) -> None:
    """Powers of two are exact: the same path, but for what is left to the end's certificate."""
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(40, 3)), rng.normal(size=(40, 1))
    ends = []
    for size in (1.0, 2.0**power):
        model = dense((3, 4, 1), seed=0)
        with torch.no_grad():
            model[2].weight *= size
            model[2].bias *= size
        descent = rs.descend(rs.Landscape(model, inputs, size * targets, loss="l1").block(0))
        assert descent.status in CERTIFIED
        ends.append(descent.loss / size)
    assert ends[1] == pytest.approx(ends[0], rel=1e-9)
