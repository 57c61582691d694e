"""Beads on the hyperplanes between their neighbours: against SciPy's root finder and closed forms."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nets import dense
from numpy.typing import NDArray
from scipy.optimize import root
from torch import nn

import reluscape as rs
from reluscape.strings.constrained import Equidistant, equidistant
from reluscape.strings.judging import Beads, Segment
from reluscape.strings.surface import Surface
from reluscape.strings.training import Schedule, train_below
from reluscape.train import mlp, train

LEVEL = 0.05
X = np.linspace(0.0, 1.0, 25)[:, None]
CUBIC = 8 * X**3 - 10 * X**2 + 3 * X


def steps(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.norm(np.diff(rows, axis=0), axis=1))


def bent(rows: int, size: int, noise: float, seed: int) -> NDArray[np.float64]:
    """A string near a circle, its beads not quite evenly far."""
    rng = np.random.default_rng(seed)
    angles = np.linspace(0.0, 2.0, rows)
    string = np.zeros((rows, size))
    string[:, 0], string[:, 1] = np.cos(angles), np.sin(angles)
    return string + noise * rng.standard_normal((rows, size)) / (rows * size**0.5)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("rows", "size"), [(3, 2), (4, 3), (12, 2), (30, 50)])
def test_rows_move_along_the_string_to_where_a_root_finder_puts_them(
    rows: int, size: int, seed: int
) -> None:
    string = bent(rows, size, 0.05, seed)
    found = equidistant(torch.tensor(string)).numpy()
    along = string[2:] - string[:-2]
    along /= np.linalg.norm(along, axis=1, keepdims=True)

    def uneven(shifts: NDArray[np.float64]) -> NDArray[np.float64]:
        moved = string.copy()
        moved[1:-1] += shifts[:, None] * along
        return np.diff(steps(moved))

    expected = root(uneven, np.zeros(rows - 2), options={"xtol": 1e-13})
    moved = string.copy()
    moved[1:-1] += expected.x[:, None] * along
    np.testing.assert_allclose(np.diff(steps(moved)), 0.0, atol=1e-12)
    np.testing.assert_allclose(found, moved, atol=1e-9)
    assert found[[0, -1]].tobytes() == string[[0, -1]].tobytes()


@pytest.mark.parametrize("seed", range(20))
def test_uneven_and_folded_strings_are_evened_too(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = np.cumsum(rng.standard_normal((9, 4)) * 10.0 ** rng.uniform(-3, 1, (9, 1)), axis=0)
    found = equidistant(torch.tensor(rows)).numpy()
    np.testing.assert_allclose(steps(found), steps(found)[0], rtol=1e-11)
    assert found[[0, -1]].tobytes() == rows[[0, -1]].tobytes()
    assert steps(found).sum() <= 1.5 * steps(rows).sum()


def test_even_rows_stay_where_they_are() -> None:
    line = np.linspace(0.0, 1.0, 9)[:, None] * np.array([3.0, -4.0])
    np.testing.assert_allclose(equidistant(torch.tensor(line)).numpy(), line, atol=1e-15)
    same = np.ones((5, 3))  # from a model to itself
    np.testing.assert_array_equal(equidistant(torch.tensor(same)).numpy(), same)
    lost = bent(6, 3, 0.0, 0)
    lost[2] = np.nan  # a training that failed ends as one, not in an error
    assert np.isnan(equidistant(torch.tensor(lost)).numpy()).any()


@pytest.mark.parametrize("spring", [0.0, 0.3])
def test_a_step_falls_across_the_string_only(spring: float) -> None:
    rng = np.random.default_rng(0)
    rows, gradients = torch.tensor(bent(7, 5, 1.0, 3)), torch.tensor(rng.standard_normal((5, 5)))
    force = Equidistant(0.1, spring).force(rows, gradients, torch.zeros(7))
    across = rows[2:] - rows[:-2]
    np.testing.assert_allclose((force * across).sum(1).numpy(), 0.0, atol=1e-14)
    free = Equidistant(0.1, 0.0).force(rows, gradients, torch.zeros(7))
    pull = (force - free).numpy()  # towards the middle of the neighbours, where these are as far
    evened = equidistant(rows)
    middle = 0.5 * (evened[2:] + evened[:-2])
    back = Equidistant(0.1, spring).force(evened, torch.zeros_like(gradients), torch.zeros(7))
    away = (evened[1:-1] - middle).numpy()
    reach = np.linalg.norm((evened[1:-1] - evened[:-2]).numpy(), axis=1, keepdims=True)
    np.testing.assert_allclose(back.numpy(), spring * 2.0 * away / reach, atol=1e-9)
    assert (np.abs(pull).max() > 0.0) == (spring > 0.0)


def _parameters(module: torch.nn.Module) -> NDArray[np.float64]:
    return np.concatenate([p.detach().numpy().ravel() for p in module.parameters()])


@cache
def ends() -> tuple[rs.Landscape, NDArray[np.float64]]:
    """Four networks on the cubic below LEVEL."""
    landscape = rs.Landscape(dense((1, 6, 6, 1), seed=0), X, CUBIC, loss="squared")
    starts = np.stack([_parameters(dense((1, 6, 6, 1), seed=k)) for k in range(12)])
    trained = train_below(Surface(landscape), starts, 0.9 * LEVEL, Schedule(max_steps=2000))
    return landscape, trained.thetas[trained.reached][:4]


@pytest.mark.parametrize("pair", [(0, 1), (2, 3)])
@pytest.mark.parametrize("spring", [0.0, 0.03])
@pytest.mark.parametrize("max_steps", [30, 1000])
def test_beads_of_a_constrained_string_are_equally_far(
    pair: tuple[int, int], spring: float, max_steps: int
) -> None:
    landscape, thetas = ends()
    found = rs.connect(
        landscape, thetas[pair[0]], thetas[pair[1]], LEVEL, method="constrained", spring=spring,
        schedule=Schedule(max_steps=max_steps),
    )  # fmt: skip
    distances = steps(found.beads)
    assert found.num_beads >= 4
    np.testing.assert_allclose(distances, distances[0], rtol=1e-10)
    assert found.depth <= (found.num_beads - 1).bit_length()
    assert found.status == "connected" or max_steps == 30


def test_a_string_of_another_method_is_evened_as_it_goes_on() -> None:
    landscape, thetas = ends()
    few, more = Schedule(max_steps=3), Schedule(max_steps=1000)
    first = rs.connect(landscape, *thetas[:2], LEVEL, schedule=few, max_depth=2)
    assert first.status == "not_found"
    assert steps(first.beads).max() > 1.01 * steps(first.beads).min()
    found = rs.connect(
        landscape, *thetas[:2], LEVEL, method="constrained", start=first, schedule=more
    )
    np.testing.assert_allclose(steps(found.beads), steps(found.beads)[0], rtol=1e-10)
    assert found.status == "connected"


def test_a_string_below_the_level_is_evened_all_the_same() -> None:
    landscape, thetas = ends()
    first = rs.connect(landscape, *thetas[:2], LEVEL)
    assert first.status == "connected"
    assert steps(first.beads).max() > 1.01 * steps(first.beads).min()
    found = rs.connect(landscape, *thetas[:2], LEVEL, method="constrained", start=first)
    np.testing.assert_allclose(steps(found.beads), steps(found.beads)[0], rtol=1e-10)
    again = rs.connect(landscape, *thetas[:2], LEVEL, method="constrained", start=found)
    assert again.beads.tobytes() == found.beads.tobytes()


class Ring(nn.Module):
    """Its loss is lowest on a circle around zero."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.0 * x[:, :1] + self.w.square().sum().sqrt()


def ring(offset: float) -> rs.Landscape:
    return rs.Landscape(Ring(), np.ones((3, 1)), np.full((3, 1), 1.0 + offset), loss="squared")


@pytest.mark.parametrize("offset", [0.1, 0.4])
@pytest.mark.parametrize("above", [1.001, 1.01, 1.04, 1.06, 1.2])
def test_segments_little_above_the_level_are_split_too(offset: float, above: float) -> None:
    landscape = ring(offset)
    a, b = np.array([[1.0, 0.0], [np.cos(0.3), np.sin(0.3)]])
    level = above * landscape.loss(a)
    assert landscape.loss(0.5 * (a + b)) > landscape.loss(a)
    found = rs.connect(landscape, a, b, level, method="constrained", spring=0.0)
    assert found.status == "connected", found.tried


def test_segments_are_split_where_a_bead_rests_below_the_level() -> None:
    """It stands above the goal, so that it goes on falling: but that may bring nothing more."""
    segments = [
        Segment(0.9, 0.9, 0.5, "certified", True), Segment(1.007, 1.02, 0.5, "certified", True),
        Segment(1.008, 1.02, 0.5, "certified", True),
    ]  # fmt: skip
    beads = Beads([np.full(2, float(k)) for k in range(4)], [0, 1, 1, 0], segments)
    work: Any = SimpleNamespace(beads=beads, level=1.0)
    rule = Equidistant(0.95, 0.0)
    assert rule.splits(work, np.array([0.5, 0.9, 0.97, 0.5])) == [(2, 2), (1, 3)]
    assert rule.splits(work, np.array([0.5, 0.9, 1.001, 0.5])) == []


@pytest.mark.parametrize("method", ["greedy", "constrained"])
def test_beads_are_trained_to_what_the_ends_have(method: str) -> None:
    """Where there is hardly less, a share of the level is not to be had."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2))
    y = np.abs(x).sum(axis=1, keepdims=True) + rng.normal(size=(200, 1))
    models = [mlp((2, 8, 1), seed=k) for k in (0, 1)]
    for seed, model in enumerate(models):
        train(model, x, y, loss="squared", epochs=300, batch_size=50, rate=0.01, seed=seed)
    landscape = rs.Landscape(models[0], x, y)
    level = 1.01 * max(rs.Landscape(model, x, y).loss() for model in models)
    found = rs.connect(landscape, *models, level, method=method)
    assert found.status == "connected", found.tried


@pytest.mark.parametrize("method", ["constrained", "band"])
@pytest.mark.parametrize("steps", [1, 5, 12])
def test_a_string_takes_no_more_steps_than_asked(method: str, steps: int) -> None:
    landscape, thetas = ends()
    level = 1.05 * max(landscape.loss(theta) for theta in thetas[:2])
    found = rs.connect(
        landscape, *thetas[:2], level, method=method, schedule=Schedule(max_steps=steps)
    )
    assert found.status == "not_found"
    assert f"after {steps} steps" in found.tried[-1]


@pytest.mark.parametrize("method", ["constrained", "band"])
def test_a_string_of_very_many_beads_gets_no_more(method: str) -> None:
    landscape = ring(0.0)
    angles = 0.5 * np.arange(270)
    beads = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    start = rs.Unfinished(
        level=0.001, beads=beads, depths=np.r_[0, np.ones(268, int), 0], method="greedy", seed=0,
        kind="loss", objective="squared", weight_decay=0.0, gradients=0, losses=0, seconds=0.0,
    )  # fmt: skip
    found = rs.connect(
        landscape, beads[0], beads[-1], 0.001, method=method, start=start,
        schedule=Schedule(max_steps=20),
    )  # fmt: skip
    assert found.num_beads == 270


@pytest.mark.parametrize("method", ["greedy", "constrained", "bezier", "band"])
def test_steps_may_be_of_some_samples(method: str) -> None:
    landscape, thetas = ends()
    kinds = [
        rs.connect(
            landscape, *thetas[:2], LEVEL, method=method,
            schedule=Schedule(max_steps=20, batch_size=size),
        ).beads.tobytes()
        for size in (None, len(X), 4)
    ]  # fmt: skip
    assert kinds[0] == kinds[1] != kinds[2]


@pytest.mark.parametrize("max_depth", [1, 2, 3])
@pytest.mark.parametrize("above", [1.02, 1.05, 1.1])
def test_a_constrained_string_has_no_more_segments_than_as_many_halvings(
    max_depth: int, above: float
) -> None:
    landscape, thetas = ends()
    level = above * max(landscape.loss(theta) for theta in thetas[:2])
    found = rs.connect(
        landscape, *thetas[:2], level, method="constrained", max_depth=max_depth,
        schedule=Schedule(max_steps=100),
    )  # fmt: skip
    assert found.num_beads - 1 <= 2**max_depth
    assert found.depth <= max_depth
