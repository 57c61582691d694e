"""Cells on a segment against a fine grid of torch's patterns and bisection between its points."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from nets import Layer, dense, sample
from scipy.interpolate import BPoly
from torch import nn

import reluscape as rs
from reluscape import bernstein
from reluscape.errors import InputError

PLANS = [
    {"widths": (2, 3, 1)},
    {"widths": (2, 3, 1), "bias": False},
    {"widths": (2, 3, 2, 2)},
    {"widths": (2, 3, 2, 2), "bias": False},
    {"widths": (2, 3, 3, 2), "slope": 0.25},
    {"widths": (2, 3, 2, 2), "position": 2},
    {"widths": (2, 3, 2, 2), "position": 4},
    {"widths": (1, 4, 3, 2, 1)},
]


def layer_of(widths, *, position=0, loss="l1", bias=True, slope=0.0, seed=0, count=5) -> Layer:
    inputs, targets = sample(count, widths[0], widths[-1], loss, seed=seed)
    return Layer(dense(widths, seed=seed, bias=bias, slope=slope), position, inputs, targets, loss)


def block_of(layer: Layer) -> rs.Block:
    return rs.Landscape(layer.module, layer.inputs, layer.targets, loss=layer.loss).block(
        layer.name
    )


def sought(pattern, start: np.ndarray, stop: np.ndarray, points: int = 400) -> int:
    """One more than the changes of the pattern that a grid and bisection down to 1e-9 find."""

    def at(t: float) -> bytes:
        return np.asarray(pattern(start + t * (stop - start))).tobytes()

    def changes(low: float, first: bytes, high: float, last: bytes) -> int:
        if first == last:
            return 0
        if high - low < 1e-9:
            return 1
        middle = 0.5 * (low + high)
        own = at(middle)
        return changes(low, first, middle, own) + changes(middle, own, high, last)

    grid = np.linspace(1e-9, 1.0 - 1e-9, points).tolist()
    seen = [at(t) for t in grid]
    pieces = zip(grid[:-1], seen[:-1], grid[1:], seen[1:], strict=True)
    return 1 + sum(changes(*piece) for piece in pieces)


@pytest.mark.parametrize("loss", ["l1", "squared"])
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_cells_of_a_block_are_those_of_grid_and_bisection(plan, loss):
    if loss == "squared" and plan.get("position") == 4:
        pytest.skip("the last layer has no kinks")
    for seed in range(2):
        layer = layer_of(**plan, loss=loss, seed=seed)
        rng = np.random.default_rng(seed)
        block, start = block_of(layer), layer.theta
        stop = start + rng.choice([0.1, 3.0]) * rng.normal(size=start.size)
        found = rs.cells_crossed(block, start, stop)
        assert found == sought(layer.pattern, start, stop), seed
        assert found == rs.cells_crossed(block, stop, start)


@pytest.mark.parametrize("seed", range(4))
def test_cells_of_a_landscape_with_one_hidden_layer(seed):
    """All layers move; residuals are no kinks of a landscape."""
    layer = layer_of((2, 4, 2), seed=seed, loss="l1", count=8)
    landscape = rs.Landscape(layer.module, layer.inputs, layer.targets, loss="l1")
    start, rng = landscape.theta, np.random.default_rng(seed)
    stop = rng.normal(size=start.size)

    def pattern(theta: np.ndarray) -> np.ndarray:
        first = landscape.module_at(theta)[0]
        with torch.no_grad():
            return first(torch.from_numpy(layer.inputs)).numpy() > 0

    assert rs.cells_crossed(landscape, start, stop) == sought(pattern, start, stop)


def test_a_segment_without_length_lies_in_one_cell():
    block = block_of(layer_of((2, 3, 2, 1)))
    assert rs.cells_crossed(block, block.theta, block.theta) == 1


def hat(inputs: list[float], loss: str = "squared") -> rs.Block:
    """One unit of one input without a bias, at the inputs."""
    module = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)).double()
    with torch.no_grad():
        module[0].weight.fill_(1.0)
        module[0].bias.zero_()
        module[2].weight.fill_(1.0)
        module[2].bias.zero_()
    column = np.array(inputs)[:, None]
    return rs.Landscape(module, column, np.ones_like(column), loss=loss).block(0)


def test_coincident_kinks_are_crossed_at_once():
    """Bias from -1 to 1: `x + b` changes its sign at `b = -x`, at 0.1 and 0.3 twice."""
    block = hat([0.1, 0.3, 0.3, 0.1, -0.7])
    assert rs.cells_crossed(block, [1.0, -1.0], [1.0, 1.0]) == 4
    # through the origin of the weights all kinks change at once
    assert rs.cells_crossed(block, [1.0, 0.5], [-1.0, -0.5]) == 2
    # x w + b = (1 - 2 t)(x + 0.5) up to rounding in 0.1 / 3
    assert rs.cells_crossed(block, [0.1 / 3, 0.05 / 3], [-0.1, -0.05]) == 2


def test_crossings_at_the_ends_are_outside():
    block = hat([0.1, 0.3])
    assert rs.cells_crossed(block, [1.0, -0.1], [1.0, -0.3]) == 1
    assert rs.cells_crossed(block, [1.0, -0.1], [1.0, -0.2]) == 1
    assert rs.cells_crossed(block, [1.0, -0.05], [1.0, -0.3]) == 2


def test_a_kink_that_touches_zero_and_one_that_stays_there_cross_nothing():
    """The residual relu(x w + b) - 1 stays at zero on the way along `0.5 w + b = 1`."""
    block = hat([0.5], loss="l1")
    assert rs.cells_crossed(block, [2.0, 0.0], [0.0, 1.0]) == 1
    assert rs.cells_crossed(block, [2.0, 1.0], [0.0, 0.0]) == 2
    flat = hat([0.0, 1.0])
    assert rs.cells_crossed(flat, [1.0, 0.0], [2.0, 0.0]) == 1


def test_a_deeper_kink_that_wakes_with_its_unit_is_crossed_with_it():
    """Without later biases a silent unit leaves the layer after it at exactly zero."""
    module = nn.Sequential(
        nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1)
    ).double()
    block = rs.Landscape(module, np.array([[1.0]]), np.array([[1.0]])).block(0)
    assert rs.cells_crossed(block, [-1.0, 0.0], [1.0, 0.3]) == 2


def test_permuting_and_repeating_samples_changes_nothing():
    layer = layer_of((2, 3, 2, 1), count=6)
    rows = [3, 1, 0, 2, 5, 4, 1, 1]
    start = layer.theta
    stop = np.random.default_rng(0).normal(size=start.size)
    more = Layer(layer.module, 0, layer.inputs[rows], layer.targets[rows], layer.loss)
    assert rs.cells_crossed(block_of(more), start, stop) == rs.cells_crossed(
        block_of(layer), start, stop
    )


def test_linear_networks_are_one_cell_and_what_cannot_be_read_is_refused():
    inputs, targets = sample(4, 2, 1, "squared", seed=0)
    linear = rs.Landscape(nn.Linear(2, 1), inputs, targets)
    assert rs.cells_crossed(linear, linear.theta, -linear.theta) == 1
    smooth = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), *dense((2, 2, 1), seed=0))
    opaque = rs.Landscape(smooth, inputs, targets)
    with pytest.raises(InputError, match=r"readable as a whole.*Tanh.*block"):
        rs.cells_crossed(opaque, opaque.theta, -opaque.theta)
    deep = rs.Landscape(dense((2, 2, 2, 1), seed=0), inputs, targets)
    with pytest.raises(InputError, match=r"theta must have shape \(6,\)"):
        rs.cells_crossed(deep.block(0), [0.0], deep.block(0).theta)


# ---- all layers of deeper networks -------------------------------------------------------------------


def patterns_of(landscape: rs.Landscape):
    """Signs of all rectifiers' inputs at parameters, part by part of the module."""
    module = landscape.module_at()

    def pattern(theta: np.ndarray) -> np.ndarray:
        hidden, signs, place = landscape.inputs, [], 0
        for part in module:
            own = []
            for parameter in part.parameters():
                own.append(theta[place : place + parameter.numel()].reshape(parameter.shape))
                place += parameter.numel()
            if isinstance(part, nn.Linear):
                hidden = hidden @ own[0].T + sum(own[1:])
            elif isinstance(part, nn.BatchNorm1d):
                mean, variance = part.running_mean.numpy(), part.running_var.numpy()
                hidden = (hidden - mean) / np.sqrt(variance + part.eps) * own[0] + own[1]
            else:
                signs.append(hidden.ravel() > 0)
                hidden = np.where(hidden > 0, hidden, getattr(part, "negative_slope", 0.0) * hidden)
        return np.concatenate(signs)

    return pattern


@pytest.mark.parametrize("plan", [(2, 3, 2, 1), (1, 3, 3, 2), (3, 2, 2, 2, 1)], ids=str)
@pytest.mark.parametrize("slope", [0.0, 0.25])
def test_cells_of_deeper_landscapes_are_those_of_grid_and_bisection(plan, slope):
    """Without biases whole layers die for a while, and the layers behind them with them."""
    most = 0
    for seed in range(6):
        inputs, targets = sample(5, plan[0], plan[-1], "squared", seed=seed)
        module = dense(plan, seed=seed, bias=seed % 2 == 0, slope=slope)
        landscape = rs.Landscape(module, inputs, targets)
        start = landscape.theta
        stop = 100.0 ** (seed % 3 == 2) * np.random.default_rng(seed).normal(size=start.size)
        found = rs.cells_crossed(landscape, start, stop)
        assert found == sought(patterns_of(landscape), start, stop), seed
        assert found == rs.cells_crossed(landscape, stop, start)
        most = max(most, found)
    assert most >= 12


Numbers = list[list[Fraction]]


def rational_pattern(
    ends: list[list[tuple[Numbers, list[Fraction]]]], inputs: Numbers, t: Fraction
) -> list[bool]:
    """Signs of the rectifiers' inputs in rational arithmetic."""
    layers = []
    for (first, one), (last, other) in zip(*ends, strict=True):
        weight = [
            [(1 - t) * a + t * b for a, b in zip(*r, strict=True)]
            for r in zip(first, last, strict=True)
        ]
        layers.append((weight, [(1 - t) * a + t * b for a, b in zip(one, other, strict=True)]))
    signs = []
    for row in inputs:
        hidden = row
        for weight, bias in layers[:-1]:
            values = [
                sum(a * b for a, b in zip(line, hidden, strict=True)) + c
                for line, c in zip(weight, bias, strict=True)
            ]
            signs += [value > 0 for value in values]
            hidden = [max(value, Fraction(0)) for value in values]
    return signs


@pytest.mark.parametrize("widths", [(1, 3, 1), (2, 2, 2, 1), (1, 2, 2, 2, 1)], ids=str)
def test_cells_of_landscapes_are_those_of_rational_bisection(widths):
    """Parameters are whole numbers, so that many kinks change at once."""
    most = 0
    for seed in range(3):
        rng = np.random.default_rng(seed)
        inputs = rng.integers(-2, 3, size=(3, widths[0]))
        landscape = rs.Landscape(dense(widths, seed=0), inputs.astype(float), np.zeros(3))
        points = [rng.integers(-3, 4, size=landscape.size) for _ in range(2)]
        ends = []
        for point in points:
            module, layers = landscape.module_at(point.astype(float)), []
            for part in module[::2]:
                weight = [[Fraction(v) for v in row] for row in part.weight.tolist()]
                layers.append((weight, [Fraction(v) for v in part.bias.tolist()]))
            ends.append(layers)
        rows = [[Fraction(int(v)) for v in row] for row in inputs]

        def at(t: Fraction, ends=ends, rows=rows) -> list[bool]:
            return rational_pattern(ends, rows, t)

        def changes(low, first, high, last, at=at) -> int:
            if first == last:
                return 0
            if high - low < Fraction(1, 2**30):
                return 1
            middle = (low + high) / 2
            own = at(middle)
            return changes(low, first, middle, own, at) + changes(middle, own, high, last, at)

        grid = [Fraction(k, 211) + Fraction(1, 7919) for k in range(211)]
        grid = [Fraction(1, 2**40), *grid, 1 - Fraction(1, 2**40)]
        seen = [at(t) for t in grid]
        pieces = zip(grid[:-1], seen[:-1], grid[1:], seen[1:], strict=True)
        expected = 1 + sum(changes(*piece) for piece in pieces)
        found = rs.cells_crossed(landscape, *(point.astype(float) for point in points))
        assert found == expected, seed
        most = max(most, found)
    assert most >= 4


@pytest.mark.parametrize(
    ("bias", "cells"), [(-0.2, 3), (-0.36, 1), (-0.35, 3), (-0.1, 1), (-0.5, 1)]
)
def test_a_deeper_kink_may_be_crossed_twice(bias, cells):
    """`u(t) = (t + 0.1) (1.1 - t) + bias` is 0.11 + bias at the ends and 0.36 + bias in the middle."""
    module = nn.Sequential(
        nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)
    ).double()
    landscape = rs.Landscape(module, np.ones((1, 1)), np.ones((1, 1)))
    start, stop = [0.1, 1.1, bias, 1.0, 0.0], [1.1, 0.1, bias, 1.0, 0.0]
    assert rs.cells_crossed(landscape, start, stop) == cells


def test_batch_norm_and_layers_without_a_rectifier_between_them_move_too():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2),
        nn.BatchNorm1d(2), nn.ReLU(), nn.Linear(2, 1),
    ).double()  # fmt: skip
    with torch.no_grad():
        module(torch.randn(50, 2, dtype=torch.float64))
    inputs, targets = sample(6, 2, 1, "squared", seed=1)
    landscape = rs.Landscape(module.eval(), inputs, targets)
    start = landscape.theta
    for seed in range(3):
        stop = 2.0 * np.random.default_rng(seed).normal(size=start.size)
        found = rs.cells_crossed(landscape, start, stop)
        assert found == sought(patterns_of(landscape), start, stop)
        assert found > 5


def test_normalised_weights_are_no_straight_way():
    module = dense((2, 3, 2, 1), seed=0)
    nn.utils.parametrizations.weight_norm(module[0])
    inputs, targets = sample(4, 2, 1, "squared", seed=0)
    landscape = rs.Landscape(module, inputs, targets)
    stop = np.random.default_rng(0).normal(size=landscape.size)
    with pytest.raises(InputError, match=r"readable as a whole"):
        rs.cells_crossed(landscape, landscape.theta, stop)


def test_bernstein_coefficients_are_those_of_the_polynomial():
    rng = np.random.default_rng(0)
    for degree in range(5):
        coefficients = rng.normal(size=(4, degree + 1, 2))
        begin = rng.uniform(0.0, 0.4, 4)
        end = rng.uniform(0.6, 1.0, 4)
        s = 0.3
        part = BPoly(
            np.moveaxis(bernstein.restricted(coefficients, begin, end), 1, 0)[:, None], [0, 1]
        )
        whole = BPoly(np.moveaxis(coefficients, 1, 0)[:, None], [0, 1])
        for piece in range(4):
            there = begin[piece] + s * (end[piece] - begin[piece])
            np.testing.assert_allclose(part(s)[piece], whole(there)[piece], rtol=1e-12, atol=1e-13)
        ends = rng.normal(size=2)
        product = bernstein.times(ends[0] * coefficients, ends[1] * coefficients)
        times = BPoly(np.moveaxis(product, 1, 0)[:, None], [0, 1])
        factor = (1 - s) * ends[0] + s * ends[1]
        np.testing.assert_allclose(times(s), factor * whole(s), rtol=1e-12, atol=1e-13)


def test_signs_of_polynomials_with_known_roots():
    """`(s - a)(s - b)(s - c)`, with roots between 0 and 1, one of them double in the second."""
    roots = np.array([[0.1, 0.4, 0.9], [0.3, 0.3, 0.7], [0.2, 0.5, 0.5 + 1e-6]])
    rows = []
    for own in roots:
        a, b, c = (np.array([-r, 1.0 - r]) for r in own)
        products = [a[i] * b[j] * c[k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]
        degree = [i + j + k for i in (0, 1) for j in (0, 1) for k in (0, 1)]
        rows.append(np.bincount(degree, products) / [1, 3, 3, 1])
    leaves = bernstein.signs(np.array(rows), np.full((3, 4), 1e-15))
    for which, own in enumerate(([-1, 1, -1, 1], [-1, 1], [-1, 1, -1, 1])):
        here = np.flatnonzero((leaves.which == which) & (leaves.sign != 0))
        here = here[np.argsort(leaves.left[here])]
        signs = leaves.sign[here]
        change = np.flatnonzero(np.diff(signs, prepend=0.0))
        assert signs[change].tolist() == own
        ends = leaves.right[here][change[1:] - 1], leaves.left[here][change[1:]]
        known = np.sort(roots[which])[-len(own) + 1 :] if which != 1 else np.array([0.7])
        assert ((ends[0] <= known) & (known <= ends[1])).all()
        parts = leaves.which == which
        assert (leaves.right - leaves.left)[parts].sum() == pytest.approx(1.0)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_landscape_of_which_one_layer_moves_is_that_layers_block(position):
    """Affine switching values by another route; layers before the one that moves cross nothing."""
    layer = layer_of((2, 6, 5, 4, 1), loss="squared", count=20)
    landscape = rs.Landscape(layer.module, layer.inputs, layer.targets)
    block = landscape.block(position)
    stop = 3.0 * np.random.default_rng(position).normal(size=block.size)
    moved = landscape.theta
    moved[landscape.positions(block.layer)] = stop
    found = rs.cells_crossed(landscape, landscape.theta, moved)
    assert found == rs.cells_crossed(block, block.theta, stop)
    assert found > 20
