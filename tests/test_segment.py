"""The largest loss on a segment against a fine grid and a search around its best points."""

from __future__ import annotations

import fuzz
import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import nn

import reluscape as rs
from reluscape.descent.output import OutputProblem
from reluscape.descent.problem import Problem
from reluscape.descent.segment import highest_between

GRID = np.linspace(0.0, 1.0, 4001)


def sought(loss, start: np.ndarray, stop: np.ndarray) -> float:
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
def test_it_is_the_largest_loss_of_random_segments(size: float) -> None:
    for seed in range(40):
        instance = fuzz.draw(seed).instance
        rng = np.random.default_rng(seed)
        start = instance.theta
        stop = start + size * rng.normal(size=start.size)
        problem = Problem.of(fuzz.block_of(instance).piecewise)
        here = highest_between(problem, problem.reduce(start), problem.reduce(stop))
        there = sought(lambda rows, made=instance: fuzz.losses(made, rows), start, stop)
        assert here == pytest.approx(there, rel=1e-9, abs=1e-12), seed


def test_the_peak_of_a_hat_between_two_low_ends_is_found() -> None:
    """relu(x + 1) - 2 relu(x) + relu(x - 1) is 0 at -2 and at 2, and 1 at 0."""
    model = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.ones(3, 1))
        model[0].bias.copy_(torch.tensor([1.0, 0.0, -1.0]))
        model[2].weight.copy_(torch.tensor([[1.0, -2.0, 1.0]]))
        model[2].bias.zero_()
    problem = OutputProblem.of_output(rs.NetworkOutput(model, lower=[-2.0], upper=[2.0]))
    for start, stop, highest in ((-2.0, 2.0, 1.0), (-2.0, -0.5, 0.5), (0.25, 2.0, 0.75)):
        assert highest_between(problem, np.array([start]), np.array([stop])) == highest
