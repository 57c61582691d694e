"""Frozen-pattern arithmetic against autograd, finite differences and exact rationals."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from nets import LOSSES, Layer, dense, sample
from torch import nn

from reluscape.affine import AffineMap, fold
from reluscape.block import Block
from reluscape.errors import InputError
from reluscape.landscape import Landscape
from reluscape.network import Affine, Rectifier, Scale


def block_of(layer: Layer, decay: float = 0.0) -> Block:
    landscape = Landscape(
        layer.module, layer.inputs, layer.targets, loss=layer.loss, weight_decay=decay
    )
    return landscape.block(layer.name)


def random_layer(seed: int, loss: str, *, position=None, bias=True, slope=0.0) -> Layer:
    """A block of a 2-3-3-2 network, in turn the first, second and last layer."""
    inputs, targets = sample(5, 2, 2, loss, seed=seed)
    position = 2 * (seed % 3) if position is None else position
    return Layer(
        dense((2, 3, 3, 2), seed=seed, bias=bias, slope=slope), position, inputs, targets, loss
    )


def varied() -> list:
    """Blocks of every depth and loss, with and without biases, ReLU and leaky."""
    return [
        pytest.param(
            random_layer(seed, loss, bias=seed % 2 == 0, slope=(0.0, 0.2)[seed % 4 // 2]),
            id=f"{loss}-{seed}",
        )
        for loss in LOSSES
        for seed in range(6)
    ]


def within_the_cell(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """A point of theta's cell: a random step, shrunk until torch's pattern is theta's."""
    theta, step = layer.theta, rng.normal(size=layer.theta.size)
    while (layer.pattern(theta + step) != layer.pattern(theta)).any():
        step *= 0.7
    return theta + step


# --- frozen patterns -----------------------------------------------------------------------------


@pytest.mark.parametrize("layer", varied())
def test_the_frozen_map_is_the_network_on_the_cell(layer):
    block, rng = block_of(layer), np.random.default_rng(0)
    pattern = block.pattern()
    np.testing.assert_array_equal(pattern, layer.pattern(layer.theta))
    for _ in range(5):
        point = within_the_cell(layer, rng)
        values, outputs = block.piecewise.frozen(pattern, point)
        np.testing.assert_allclose(values, layer.kinks(point), atol=1e-13)
        np.testing.assert_allclose(
            outputs, layer.parts(torch.from_numpy(point))[1].detach(), atol=1e-13
        )


@pytest.mark.parametrize("layer", varied())
def test_the_frozen_map_is_affine_beyond_the_cell(layer):
    block, rng = block_of(layer), np.random.default_rng(1)
    pattern, normals = block.pattern(), layer.normals(layer.theta)
    for _ in range(3):
        step = 10.0 * rng.normal(size=block.size)
        values = block.piecewise.frozen(pattern, layer.theta + step)[0]
        expected = layer.kinks(layer.theta) + normals @ step
        np.testing.assert_allclose(values, expected, atol=1e-11)


@pytest.mark.parametrize("layer", varied())
def test_rates_are_finite_differences(layer):
    block, rng = block_of(layer), np.random.default_rng(2)
    for _ in range(3):
        point = within_the_cell(layer, rng)
        change = layer.kinks(point) - layer.kinks(layer.theta)
        rates = block.piecewise.rates(block.pattern(), point - layer.theta)
        np.testing.assert_allclose(rates, change, atol=1e-13)


@pytest.mark.parametrize("layer", varied())
def test_normals_are_autograds_kink_by_kink(layer):
    block = block_of(layer)
    expected = layer.normals(layer.theta)
    every = np.arange(block.num_kinks)
    np.testing.assert_allclose(
        block.piecewise.normals(every, block.pattern()), expected, atol=1e-13
    )
    some = np.random.default_rng(3).permutation(every)[:7]
    np.testing.assert_allclose(
        block.piecewise.normals(some, block.pattern()), expected[some], atol=1e-13
    )


@pytest.mark.parametrize("layer", varied())
def test_the_gradient_of_a_chosen_pattern_is_that_of_its_cell(layer):
    """At theta, the gradient of another cell's map: autograd there plus the Hessian's change."""
    block, rng = block_of(layer, decay=0.1), np.random.default_rng(4)
    other = layer.theta + 0.5 * rng.normal(size=block.size)
    pattern = layer.pattern(other)
    expected = layer.gradient(other)
    if layer.loss in ("squared", "half_squared"):
        expected = expected + layer.hessian(other) @ (layer.theta - other)
    found = block.piecewise.gradient(layer.theta, pattern)
    if layer.loss != "cross_entropy":
        np.testing.assert_allclose(found, expected + 0.1 * layer.theta, atol=1e-11)
    own = block.piecewise.gradient(other, pattern)
    np.testing.assert_allclose(own, layer.gradient(other) + 0.1 * other, atol=1e-12)


@pytest.mark.parametrize("layer", varied())
def test_sensitivities_are_autograds_derivatives_by_the_layers_outputs(layer):
    block = block_of(layer)
    weight = block.piecewise.unpack(block.theta)[0]
    np.testing.assert_array_equal(weight, layer.module[layer.position].weight.detach().numpy())
    pattern = block.pattern()
    outputs = block.piecewise.frozen(pattern, block.theta)[1]
    slope = block.piecewise.output_slope(pattern, outputs)
    by_z = block.piecewise.sensitivities(pattern, slope)[0]
    gradient = layer.gradient(layer.theta)
    own = layer.module[layer.position]
    if own.bias is not None:
        np.testing.assert_allclose(by_z.sum(axis=0), gradient[own.weight.numel() :], atol=1e-13)
    features = block.piecewise.features
    np.testing.assert_allclose(
        (by_z.T @ features).ravel(), gradient[: own.weight.numel()], atol=1e-13
    )


# --- the loss on a cell --------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("layer", [p for p in varied() if "cross" not in p.id])
def test_restrict_is_the_networks_loss_on_the_cell(layer, decay):
    block, rng = block_of(layer, decay), np.random.default_rng(5)
    inside = block.restrict(block.pattern())
    landscape = block.landscape
    for _ in range(5):
        point = within_the_cell(layer, rng)
        whole = landscape.theta
        whole[landscape.positions(layer.name)] = point
        expected = layer.value(point) + 0.5 * decay * float(whole @ whole)
        assert inside(point) == pytest.approx(expected, rel=1e-11)
        gradient = (
            inside.linear if inside.hessian is None else inside.linear + inside.hessian @ point
        )
        np.testing.assert_allclose(gradient, layer.gradient(point) + decay * point, atol=1e-11)


def test_restrict_of_the_l1_loss_is_affine():
    block = block_of(random_layer(0, "l1"))
    assert block.restrict(block.pattern()).hessian is None


def test_restrict_of_the_cross_entropy_raises():
    block = block_of(random_layer(0, "cross_entropy"))
    with pytest.raises(InputError, match="neither affine nor quadratic"):
        block.restrict(block.pattern())


@pytest.mark.parametrize("layer", varied())
def test_hessian_is_autograds_and_its_trace_too(layer):
    block = block_of(layer, decay=0.2)
    expected = layer.hessian(layer.theta)
    found = block.piecewise.hessian(block.theta, block.pattern())
    np.testing.assert_allclose(found, expected + 0.2 * np.eye(block.size), atol=1e-12)
    trace = block.piecewise.hessian_trace(block.theta, block.pattern())
    assert trace == pytest.approx(np.trace(expected), abs=1e-12)
    basis = np.random.default_rng(6).normal(size=(block.size, 3))
    reduced = block.piecewise.hessian(block.theta, block.pattern(), basis)
    np.testing.assert_allclose(reduced, basis.T @ found @ basis, atol=1e-10)
    if layer.loss in ("squared", "half_squared"):
        np.testing.assert_allclose(block.restrict(block.pattern()).hessian, found, atol=1e-13)


# --- deeper derivatives --------------------------------------------------------------------------


@pytest.mark.parametrize("slope", [0.0, 0.2])
@pytest.mark.parametrize("position", [0, 2])
def test_push_is_the_derivative_of_deeper_values_by_a_kinks_output(position, slope):
    layer = random_layer(1, "squared", position=position, slope=slope)
    block = block_of(layer)
    kinks = np.arange(block.num_kinks)
    pushed = block.piecewise.push(kinks, block.pattern())
    assert pushed[0] is None
    parts = list(layer.module)[position + 1 :]
    for kink, level, i in zip(
        kinks, block.piecewise.level_of(kinks), block.piecewise.sample_of(kinks), strict=True
    ):
        group = block.kink_groups[level]
        unit = (kink - group.start) % group.units
        row = torch.from_numpy(layer.inputs[i])
        for part in list(layer.module)[: position + 2 + 2 * level]:
            row = part(row)
        row = row.detach()
        deeper = parts[2 * level + 1 :]
        for above in range(level + 1, len(pushed)):
            chain = nn.Sequential(*deeper[: 2 * (above - level) - 1])
            slopes = torch.autograd.functional.jacobian(chain, row)[:, unit]
            np.testing.assert_allclose(pushed[above][kink], slopes, atol=1e-13)
        for above in range(1, level + 1):
            assert not pushed[above][kink].any()


# --- folding -------------------------------------------------------------------------------------


def run(maps, slopes, rows):
    for step, slope in zip(maps, slopes, strict=False):
        before = step(rows)
        rows = np.where(before > 0, before, slope * before)
    return maps[-1](rows)


@pytest.mark.parametrize("seed", range(40))
def test_folding_layers_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    width, layers = 3, []
    for _ in range(int(rng.integers(0, 8))):
        kind = rng.integers(4)
        if kind == 0:
            out = int(rng.integers(1, 5))
            bias = rng.normal(size=out) if rng.random() < 0.5 else None
            layers.append(Affine(rng.normal(size=(out, width)), bias, "a"))
            width = out
        elif kind == 1:
            layers.append(Scale(rng.normal(size=width), rng.normal(size=width), "s"))
        else:
            layers.append(Rectifier(float(rng.choice([0.0, 0.1, -0.5, 2.0])), "r"))
    maps, slopes = fold(layers)
    assert len(maps) == len(slopes) + 1
    rows = rng.normal(size=(50, 3))
    expected = rows
    for layer in layers:
        expected = layer(expected)
    np.testing.assert_allclose(run(maps, slopes, rows), expected, atol=1e-12)
    signs = [isinstance(layer, Rectifier) for layer in layers]
    runs = sum(here and not before for here, before in zip(signs, [False, *signs], strict=False))
    assert len(slopes) == runs


@pytest.mark.parametrize(
    "matrix", [None, np.array([2.0, -3.0]), np.array([[1.0, 2.0], [0.5, -4.0]])]
)
def test_the_adjoint_of_a_map_is_its_transpose(matrix):
    step, rng = AffineMap(matrix, np.array([1.0, -1.0])), np.random.default_rng(0)
    x, y = rng.normal(size=(2, 4, 2))
    np.testing.assert_allclose(
        (step.linear(x) * y).sum(axis=1), (x * step.adjoint(y)).sum(axis=1), atol=1e-13
    )
    np.testing.assert_allclose(step(x) - step.linear(x), np.tile([1.0, -1.0], (4, 1)), atol=1e-14)


# --- rounding bounds -----------------------------------------------------------------------------


Rows = list[list[Fraction]]


def exponential(x: Fraction) -> Fraction:
    """exp(x) for x <= 0 by halving and a Taylor series, to about 50 digits."""
    halvings = 0
    while abs(x) > 1:
        x, halvings = x / 2, halvings + 1
    term = total = Fraction(1)
    for n in range(1, 45):
        term = Fraction(int(term * x / n * 10**60), 10**60)
        total += term
    for _ in range(halvings):
        total = Fraction(int(total * total * 10**60), 10**60)
    return total


def fractions(tensor) -> list:
    return [
        [Fraction(x) for x in row] if isinstance(row, list) else Fraction(row)
        for row in tensor.tolist()
    ]


def exact_slope(loss: str, outputs: Rows, targets: np.ndarray) -> Rows:
    """Derivative of the loss by the outputs."""
    count = len(outputs)
    if loss == "cross_entropy":
        slopes = []
        for row, label in zip(outputs, targets.tolist(), strict=True):
            powers = [exponential(x - max(row)) for x in row]
            slopes.append([(p / sum(powers) - (j == label)) / count for j, p in enumerate(powers)])
        return slopes
    gaps = differences(outputs, fractions(targets))
    if loss == "l1":
        return [[Fraction(1 if r > 0 else -1, count) for r in row] for row in gaps]
    return [[(2 if loss == "squared" else 1) * r / count for r in row] for row in gaps]


def differences(first: Rows, second: Rows) -> Rows:
    return [[a - b for a, b in zip(x, y, strict=True)] for x, y in zip(first, second, strict=True)]


class Exact:
    """One block in rational arithmetic, on the floats that the module holds, by the definitions."""

    def __init__(self, layer: Layer):
        self.position = layer.position
        rows, levels, self.tape = fractions(layer.inputs), [], []
        for place, part in enumerate(layer.module):
            if place == layer.position:
                self.features = rows
            if isinstance(part, nn.Linear):
                rows = self.affine(rows, part)
            else:
                if place > layer.position:
                    levels.append(rows)
                slope = Fraction(getattr(part, "negative_slope", 0.0))
                self.tape.append([[1 if x > 0 else slope for x in row] for row in rows])
                rows = [[x if x > 0 else slope * x for x in row] for row in rows]
        if layer.loss == "l1":
            levels.append(differences(rows, fractions(layer.targets)))
        self.values = [x for level in levels for row in level for x in row]
        self.by_z = self.pull_back(exact_slope(layer.loss, rows, layer.targets))
        self.gradient = self.contract(layer.module[layer.position].bias is not None)

    def affine(self, rows: Rows, part: nn.Linear) -> Rows:
        weight = fractions(part.weight)
        bias = [Fraction(0)] * len(weight) if part.bias is None else fractions(part.bias)
        self.tape.append(weight)
        return [
            [
                b + sum(w * x for w, x in zip(line, row, strict=True))
                for line, b in zip(weight, bias, strict=True)
            ]
            for row in rows
        ]

    def pull_back(self, back: Rows) -> Rows:
        """Reverse through the parts after the block: Linear at even places, rectifiers at odd."""
        for place in range(len(self.tape) - 1, self.position, -1):
            content = self.tape[place]
            if place % 2 == 0:
                columns = list(zip(*content, strict=True))
                back = [
                    [sum(b * w for b, w in zip(row, column, strict=True)) for column in columns]
                    for row in back
                ]
            else:
                back = [
                    [b * a for b, a in zip(row, active, strict=True)]
                    for row, active in zip(back, content, strict=True)
                ]
        return back

    def contract(self, bias: bool) -> list[Fraction]:
        """Sum the outer products with the block's inputs."""
        units = list(zip(*self.by_z, strict=True))
        inputs = list(zip(*self.features, strict=True))
        total = [sum(b * x for b, x in zip(u, f, strict=True)) for u in units for f in inputs]
        return total + [sum(unit) for unit in units if bias]


def errors(computed: np.ndarray, exact: list[Fraction]) -> np.ndarray:
    return np.array(
        [float(abs(Fraction(float(c)) - e)) for c, e in zip(computed.ravel(), exact, strict=True)]
    )


def stretched(seed: int, loss: str) -> Layer:
    """Numbers of very different sizes, so that sums cancel."""
    layer = random_layer(seed, loss, bias=seed % 2 == 0, slope=(0.0, 0.3)[seed % 4 // 2])
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in layer.module.parameters():
            parameter.mul_(torch.from_numpy(10.0 ** rng.integers(-3, 4, size=parameter.shape)))
    return layer


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("build", [random_layer, stretched])
@pytest.mark.parametrize("seed", range(12))
def test_rounding_bounds_hold_against_exact_rationals(seed, build, loss):
    layer = build(seed, loss)
    block, exact = block_of(layer), Exact(layer)
    piecewise = block.piecewise
    values, outputs = piecewise.forward(block.theta)
    value_bounds, sensitivity_bounds, gradient_bounds = piecewise.rounding_bounds(block.theta, 1.0)
    assert (errors(values, exact.values) <= value_bounds).all()
    assert (value_bounds <= 1e-9 * (1.0 + piecewise_size(layer))).all()
    pattern = values > 0
    if [v > 0 for v in exact.values] != pattern.tolist():
        return  # a sign that float64 cannot tell: the gradient is another cell's
    found = piecewise.gradient(block.theta)
    # the oracle's own exponentials are right to 1e-50
    assert (errors(found, exact.gradient) <= gradient_bounds + 1e-40).all()
    by_z = piecewise.sensitivities(pattern, piecewise.output_slope(pattern, outputs))[0]
    flat = [x for row in exact.by_z for x in row]
    assert (errors(by_z, flat) <= sensitivity_bounds[0].ravel() + 1e-40).all()


def piecewise_size(layer: Layer) -> float:
    """Size of the numbers that pass through the network, with absolute values everywhere."""
    rows = np.abs(layer.inputs)
    for part in layer.module:
        if isinstance(part, nn.Linear):
            shift = 0.0 if part.bias is None else np.abs(part.bias.detach().numpy())
            rows = rows @ np.abs(part.weight.detach().numpy()).T + shift
    return float(max(rows.max(), np.abs(layer.targets).max()))


def test_bounds_grow_with_the_factor():
    block = block_of(random_layer(1, "l1"))
    one = block.piecewise.rounding_bounds(block.theta, 1.0)
    ten = block.piecewise.rounding_bounds(block.theta, 10.0)
    np.testing.assert_allclose(ten[0], 10 * one[0], rtol=1e-9)
    assert (ten[2] >= one[2]).all()


def test_bounds_are_zero_where_numbers_are_zero_by_structure_and_only_there():
    """Unit 0 is dead on both samples, input 1 is zero: exact zeros. Unit 1 cancels: not exact."""
    module = dense((2, 2, 1), seed=0)
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[-1.0, 0.0], [3.0, 1.0]]))
        module[0].bias.copy_(torch.tensor([0.0, -3.0]))
    layer = Layer(module, 0, np.array([[1.0, 0.0], [2.0, 0.0]]), np.ones((2, 1)), "squared")
    block = block_of(layer)
    values, _, gradient = block.piecewise.rounding_bounds(block.theta, 1.0)
    np.testing.assert_array_equal(layer.kinks(layer.theta), [-1.0, 0.0, -2.0, 3.0])
    assert (values > 0).all()
    # weights of unit 0: dead; second inputs: zero data
    np.testing.assert_array_equal(gradient[[0, 1, 3, 4]], 0.0)
    assert (gradient[[2, 5]] > 0).all()
    found = block.gradient()
    np.testing.assert_array_equal(found[[0, 1, 3, 4]], 0.0)


def test_kinks_that_are_zero_by_structure_have_a_zero_bound():
    """Without biases a dead layer leaves all that follows exactly zero."""
    module = dense((2, 2, 2, 1), seed=0, bias=False)
    with torch.no_grad():
        module[0].weight.copy_(-torch.eye(2))
    layer = Layer(module, 0, np.array([[1.0, 2.0], [-1.0, 3.0]]), np.ones((2, 1)), "squared")
    block = block_of(layer)
    bounds = block.piecewise.rounding_bounds(block.theta, 1.0)[0]
    start = block.kink_groups[1].start
    np.testing.assert_array_equal(bounds[start : start + 2], 0.0)
    assert (bounds[:start] > 0).all()
    assert (bounds[start + 2 :] > 0).all()
