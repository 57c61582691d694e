"""The way down on a segment, against a fine grid, a search around its best points and closed forms."""

from __future__ import annotations

from collections.abc import Callable

import fuzz
import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import nn

import reluscape as rs
from reluscape.descent.output import OutputProblem
from reluscape.descent.problem import Problem
from reluscape.descent.segment import losses_between, way_down

GRID = np.linspace(0.0, 1.0, 4001)
Losses = Callable[[np.ndarray], np.ndarray]


def highest(loss: Losses, start: np.ndarray, stop: np.ndarray) -> float:
    """The largest loss that a grid and searches between its best points and their neighbours find."""
    on_grid = loss(start + GRID[:, None] * (stop - start))
    found = [float(on_grid.max())]
    for k in np.argsort(on_grid)[-3:]:
        low, high = GRID[max(k - 1, 0)], GRID[min(k + 1, len(GRID) - 1)]
        best = minimize_scalar(
            lambda t: -float(loss((start + t * (stop - start))[None])[0]),
            bounds=(low, high), method="bounded", options={"xatol": 1e-13},
        )  # fmt: skip
        found.append(-float(best.fun))
    return max(found)


@pytest.mark.parametrize("size", [1e-6, 1.0, 30.0])
def test_losses_at_breakpoints_are_those_of_random_segments(size: float) -> None:
    for seed in range(20):
        instance = fuzz.draw(seed).instance
        rng = np.random.default_rng(seed)
        start = instance.theta
        stop = start + size * rng.normal(size=start.size)
        problem = Problem.of(fuzz.block_of(instance).piecewise)
        at, losses = losses_between(problem, problem.reduce(start), problem.reduce(stop))
        there = fuzz.losses(instance, start + at[:, None] * (stop - start))
        np.testing.assert_allclose(losses, there, rtol=1e-9, atol=1e-12)
        sought = highest(lambda rows, made=instance: fuzz.losses(made, rows), start, stop)
        assert losses.max() == pytest.approx(sought, rel=1e-9, abs=1e-12), seed


def test_a_way_down_ends_where_the_loss_begins_to_rise() -> None:
    """Against the losses on a fine grid: none rises before, and right after there is a rise."""
    ended = 0
    for seed in range(30):
        instance = fuzz.draw(seed).instance
        rng = np.random.default_rng(seed)
        start = instance.theta
        stop = start - 3.0 * fuzz.block_of(instance).gradient() + rng.normal(size=start.size)
        problem = Problem.of(fuzz.block_of(instance).piecewise)
        slack = 1e-9
        share, loss = way_down(problem, problem.reduce(start), problem.reduce(stop), slack)
        before = fuzz.losses(instance, start + share * GRID[:, None] * (stop - start))
        assert (before <= np.minimum.accumulate(before) + 2 * slack).all()
        assert loss == pytest.approx(before[-1], rel=1e-9, abs=1e-12)
        assert loss <= before.min() + 2 * slack
        if share < 1.0:
            after = fuzz.losses(
                instance, start + (share + (1 - share) * GRID[:, None]) * (stop - start)
            )
            first = int(np.argmax(np.abs(after - after[0]) > 2 * slack))
            assert after[first] > after[0]
            ended += share > 0.0
    assert ended >= 5


def test_a_hat_stops_the_way_on_its_near_side() -> None:
    """relu(x + 1) - 2 relu(x) + relu(x - 1) is 0 at -2 and at 2, and 1 at 0."""
    model = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.ones(3, 1))
        model[0].bias.copy_(torch.tensor([1.0, 0.0, -1.0]))
        model[2].weight.copy_(torch.tensor([[1.0, -2.0, 1.0]]))
        model[2].bias.zero_()
    problem = OutputProblem.of_output(rs.NetworkOutput(model, lower=[-2.0], upper=[2.0]))
    for start, stop, end in (
        (-2.0, 2.0, (0.25, 0.0)),
        (0.0, 2.0, (1.0, 0.0)),
        (-0.5, 2.0, (0.0, 0.5)),
    ):
        assert way_down(problem, np.array([start]), np.array([stop]), 1e-9) == end
