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
from reluscape.strings.shears import apart


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


SQUARE = [
    {"widths": (3, 3, 3), "bias": False},
    {"widths": (5, 2, 2)},
    {"widths": (2, 2, 5), "loss": "l1"},
    {"widths": (4, 3, 3, 3), "loss": "cross_entropy"},
    {"widths": (2, 3, 2, 4)},
    {"widths": (4, 1, 1), "bias": False},
]


@pytest.mark.parametrize("widths", [(2, 1), (3, 2)])
def test_one_layer_is_joined_by_the_straight_line(widths):
    landscape = landscape_of(widths)
    theta = landscape.theta
    for last in (theta, theta + 1.0):
        found = rs.linear_path(landscape, theta, last)
        assert found.status == "connected"
        assert found.beads[[0, -1]].tobytes() == np.stack([theta, last]).tobytes()


@pytest.mark.parametrize("widths", [(2, 1), (2, 3, 1), (3, 4, 2)])
def test_the_signs_of_zeros_at_both_ends_are_kept(widths):
    landscape = landscape_of(widths)
    rng = np.random.default_rng(0)
    for _ in range(8):
        first = np.round(rng.normal(size=landscape.size))
        last = np.where(rng.random(landscape.size) < 0.5, first, np.round(first / 2))
        last[last == 0] *= rng.choice([-1.0, 1.0], (last == 0).sum())
        found = rs.linear_path(landscape, first, last)
        assert found.beads[0].tobytes() == first.tobytes()
        assert found.beads[-1].tobytes() == last.tobytes()


def product_of(landscape, theta) -> tuple[np.ndarray, np.ndarray]:
    """What the network does, from its weights alone."""
    layers = landscape.module_at(theta)
    product, bias = np.eye(landscape.inputs.shape[1]), np.zeros(landscape.inputs.shape[1])
    for layer in layers:
        weight = layer.weight.detach().numpy()
        own = 0.0 if layer.bias is None else layer.bias.detach().numpy()
        product, bias = weight @ product, weight @ bias + own
    return product, bias


def mirror(module, place) -> None:
    """Change the sign of a hidden unit, which leaves the function as it is."""
    with torch.no_grad():
        module[place].weight[0] *= -1.0
        if module[place].bias is not None:
            module[place].bias[0] *= -1.0
        module[place + 1].weight[:, 0] *= -1.0


@pytest.mark.parametrize("plan", SQUARE, ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_square_factors_of_one_orientation_are_joined(plan, seed):
    """Both orientations are tried: a reflection of a layer's units leaves the function as it is."""
    landscape = landscape_of(**plan)
    shape = {name: plan[name] for name in ("widths", "bias") if name in plan}
    start, module = landscape.theta, linear(**shape, seed=seed + 20)
    found = [rs.linear_path(landscape, start, theta_of(module))]
    narrow = min(plan["widths"][0], plan["widths"][-1])
    for place, width in enumerate(plan["widths"][1:-1]):
        if width == narrow:
            mirror(module, place)
            found.append(rs.linear_path(landscape, start, theta_of(module)))
    constructed = [one for one in found if one.tried == ("a path for linear networks",)]
    assert constructed  # one of the orientations, of all layers together, is the start's
    for one in constructed:
        highest = max(landscape.loss(one.beads[0]), landscape.loss(one.beads[-1]))
        assert one.status == "connected"
        assert one.maximum <= highest * (1 + 1e-8)
        for a, b in pairwise(one.beads):
            for t in np.linspace(0.0, 1.0, 7):
                assert landscape.loss((1 - t) * a + t * b) <= highest * (1 + 2e-9)


def test_shears_keep_the_product_on_their_whole_segments():
    """Of the same function at both ends, the product moves only where the last factor goes down and
    back and its number is changed; before and behind that it is the ends' own."""
    landscape = landscape_of((3, 3, 3), bias=False)
    start, module = landscape.theta, landscape.module_at()
    mix = np.array([[2.0, 1.0, 0.0], [0.0, 1.5, -1.0], [1.0, 0.0, 0.5]])
    assert np.linalg.det(mix) > 0.0
    with torch.no_grad():
        module[0].weight.copy_(torch.from_numpy(mix) @ module[0].weight)
        module[1].weight.copy_(module[1].weight @ torch.from_numpy(np.linalg.inv(mix)))
    found = rs.linear_path(landscape, start, theta_of(module))
    assert found.status == "connected"
    own, _ = product_of(landscape, start)
    kept = 0
    for a, b in pairwise(found.beads):
        if all(np.allclose(product_of(landscape, one)[0], own, rtol=1e-9) for one in (a, b)):
            kept += 1
            for t in np.linspace(0.0, 1.0, 11):
                between, _ = product_of(landscape, (1 - t) * a + t * b)
                np.testing.assert_allclose(between, own, rtol=0, atol=1e-11 * np.abs(own).max())
    assert kept >= 20


def test_two_points_of_one_branch_are_joined_at_the_global_minimum():
    """`a b x` with targets x: along a b = 1 the loss is 0, and no room is left but for rounding."""
    inputs = np.array([[1.0], [2.0]])
    landscape = rs.Landscape(linear((1, 1, 1), bias=False), inputs, inputs)
    found = rs.linear_path(landscape, [1.0, 1.0], [3.0, 1.0 / 3.0])
    assert found.status == "connected"
    assert found.maximum <= found.level == pytest.approx(2.5e-9)
    products = found.beads.prod(axis=1)
    np.testing.assert_allclose(products, 1.0, atol=1e-12)


def test_numbers_too_far_apart_are_told():
    """From (1, 1) to (1e40, 1e-40) the number would have to go through forty decades in tiny steps."""
    inputs = np.array([[1.0], [2.0]])
    landscape = rs.Landscape(linear((1, 1, 1), bias=False), inputs, inputs)
    found = rs.linear_path(landscape, [1.0, 1.0], [1e40, 1e-40])
    assert found.status == "not_found"
    assert "too many steps" in found.tried[0]


def test_branches_of_opposite_orientation_are_not_found():
    """`a b x` with targets x: the level sets below 1 are the two branches of a b = 1."""
    inputs = np.array([[1.0], [2.0]])
    landscape = rs.Landscape(linear((1, 1, 1), bias=False), inputs, inputs)
    found = rs.linear_path(landscape, [1.0, 1.0], [-1.0, -1.0])
    assert found.status == "not_found"
    assert "opposite orientation" in found.tried[0]
    told = " ".join(found.summary().split())
    assert "does not show that there is none" in told
    assert "disconnected" not in told


@pytest.mark.parametrize("swapped", [False, True])
def test_a_product_of_lower_rank_is_turned(swapped):
    """One end has a zero row in its product: its orientation can be changed where the product stays."""
    landscape, flat = landscape_of((3, 3, 3), bias=False), linear((3, 3, 3), bias=False, seed=4)
    other = landscape.module_at()
    with torch.no_grad():
        flat[0].weight[2] = flat[0].weight[0] - flat[0].weight[1]
    statuses = []
    for sign in (1.0, -1.0):
        if sign < 0:
            mirror(other, 0)
        ends = theta_of(flat), theta_of(other)
        found = rs.linear_path(landscape, *(ends[::-1] if swapped else ends))
        statuses.append((found.status, found.tried))
    assert statuses == [("connected", ("a path for linear networks",))] * 2


def test_layers_narrower_than_the_ends_are_not_constructed():
    landscape = landscape_of((3, 2, 3))
    found = rs.linear_path(landscape, landscape.theta, theta_of(linear((3, 2, 3), seed=5)))
    assert "has 2 units, fewer than the 3" in found.tried[0]


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_shears_and_a_number_give_the_matrix(size):
    rng = np.random.default_rng(size)
    for _ in range(5):
        matrix = rng.normal(size=(size, size))
        matrix[0] *= np.sign(np.linalg.det(matrix))
        scale, shears = apart(matrix)
        product = scale * np.eye(size)
        for column, place in shears:
            assert column[place] == 0.0
            factor = np.eye(size)
            factor[:, place] += column
            product = product @ factor
        np.testing.assert_allclose(product, matrix, atol=1e-12)


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
