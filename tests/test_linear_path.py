"""Paths of linear networks: the ends bit for bit, the product by hand, losses on grids."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from nets import randomise, sample
from torch import nn

import reluscape as rs
from reluscape.errors import InputError, UnsupportedModelError


def linear(widths, *, seed=0, bias=True) -> nn.Sequential:
    parts = [nn.Linear(a, b, bias=bias).double() for a, b in pairwise(widths)]
    module = nn.Sequential(*parts)
    randomise(module, seed=seed)
    return module


def landscape_of(widths, loss="squared", *, bias=True, count=20) -> rs.Landscape:
    inputs, targets = sample(count, widths[0], widths[-1], loss, seed=1)
    return rs.Landscape(linear(widths, bias=bias), inputs, targets, loss=loss)


def theta_of(module) -> np.ndarray:
    return np.concatenate([p.detach().numpy().ravel() for p in module.parameters()])


def outputs_at(landscape, theta) -> np.ndarray:
    return landscape.module_at(theta)(torch.from_numpy(landscape.inputs)).detach().numpy()


PLANS = [
    {"widths": (5, 3, 2)},
    {"widths": (5, 3, 2), "loss": "l1"},
    {"widths": (2, 3, 5), "loss": "cross_entropy"},
    {"widths": (3, 4, 3), "bias": False},
    {"widths": (5, 3, 4, 2), "loss": "cross_entropy", "bias": False},
    {"widths": (2, 6, 3, 7)},
    {"widths": (4, 3, 5, 4, 2)},
    {"widths": (3, 2)},
]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_the_path_stays_below_its_higher_end(plan):
    landscape = landscape_of(**plan)
    shape = {name: plan[name] for name in ("widths", "bias") if name in plan}
    start, stop = landscape.theta, theta_of(linear(**shape, seed=5))
    found = rs.linear_path(landscape, start, stop)
    highest = max(landscape.loss(start), landscape.loss(stop))
    assert found.status == "connected"
    assert found.tier in ("certified", "exact")
    assert found.maximum <= highest * (1 + 1e-8)
    np.testing.assert_array_equal(found.beads[0], start)
    np.testing.assert_array_equal(found.beads[-1], stop)
    for a, b in pairwise(found.beads):
        for t in np.linspace(0.0, 1.0, 5):
            assert landscape.loss((1 - t) * a + t * b) <= highest * (1 + 1e-9)


@pytest.mark.parametrize("widths", [(5, 3, 2), (2, 4, 5), (5, 4, 4, 2)], ids=str)
def test_outputs_change_on_one_segment_only_and_straight(widths):
    landscape = landscape_of(widths)
    stop = theta_of(linear(widths, seed=7))
    beads = rs.linear_path(landscape, landscape.theta, stop).beads
    outputs = np.stack([outputs_at(landscape, bead) for bead in beads])
    steps = np.abs(np.diff(outputs, axis=0)).max(axis=(1, 2))
    assert (steps > 1e-9).sum() == 1
    place = int(steps.argmax())
    middle = outputs_at(landscape, 0.5 * (beads[place] + beads[place + 1]))
    np.testing.assert_allclose(middle, 0.5 * (outputs[0] + outputs[-1]), atol=1e-9)


@pytest.mark.parametrize("zero", [0, 1, 2], ids=lambda layer: f"layer {layer} zero")
def test_factors_without_full_rank_are_left_through_null_spaces(zero):
    landscape = landscape_of((4, 3, 5, 2))
    module = linear((4, 3, 5, 2), seed=3)
    with torch.no_grad():
        module[zero].weight.zero_()
        module[2 - zero].weight[0] = 0.0
    found = rs.linear_path(landscape, theta_of(module), landscape.theta)
    back = rs.linear_path(landscape, landscape.theta, theta_of(module))
    assert found.status == back.status == "connected"


def test_equal_ends_are_a_path():
    landscape = landscape_of((4, 3, 2))
    found = rs.linear_path(landscape, landscape.theta, landscape.theta)
    assert found.status == "connected"


def test_layers_as_narrow_as_the_ends_are_not_found():
    """`a b x` with targets x: the level sets below 1 are the two branches of a b = 1."""
    module = linear((1, 1, 1), bias=False)
    inputs = np.array([[1.0], [2.0]])
    landscape = rs.Landscape(module, inputs, inputs)
    found = rs.linear_path(landscape, [1.0, 1.0], [-1.0, -1.0])
    assert found.status == "not_found"
    assert "not more than the 1" in found.tried[0]
    assert "does not show that there is none" in " ".join(found.summary().split())


def test_what_is_not_linear_is_refused():
    rectified = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    inputs, targets = sample(5, 3, 2, "squared", seed=0)
    landscape = rs.Landscape(rectified, inputs, targets)
    with pytest.raises(UnsupportedModelError, match="linear layers only"):
        rs.linear_path(landscape, landscape.theta, landscape.theta)
    decayed = rs.Landscape(linear((3, 4, 2)), inputs, targets, weight_decay=0.1)
    with pytest.raises(InputError, match="weight decay"):
        rs.linear_path(decayed, decayed.theta, decayed.theta)
    lacking = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False))
    landscape = rs.Landscape(lacking, inputs, targets)
    with pytest.raises(InputError, match="bias"):
        rs.linear_path(landscape, landscape.theta, landscape.theta)
