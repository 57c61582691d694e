"""Curvature bounds beside a dense Hessian of a plain functional network."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn
from torch.nn import functional

import reluscape as rs
from reluscape.convex import why_unbounded
from reluscape.coverage import Setting, covering_decay, paper_decay, smallest_minimum, worst_product
from reluscape.curvature import chain_of
from reluscape.hessian import HessianProduct, least_eigenvalue
from reluscape.kinks import active_kinks
from reluscape.losses import make_loss

SMOOTH = ("squared", "half_squared", "cross_entropy")
BOUNDS = ("paper_bound", "sharp_bound", "data_bound")


@dataclass
class Case:
    """A random network with its data; `slope` is that of its rectifiers, 1 for a linear network."""

    model: nn.Sequential
    x: np.ndarray
    y: np.ndarray
    loss: str
    decay: float
    slope: float

    def landscape(self) -> rs.Landscape:
        return rs.Landscape(self.model, self.x, self.y, loss=self.loss, weight_decay=self.decay)

    def hessian(self) -> np.ndarray:
        """The dense Hessian of the loss written out in functions of one flat vector."""
        flat = torch.cat([p.detach().double().ravel() for p in self.model.parameters()])
        x, y = torch.from_numpy(self.x), torch.from_numpy(self.y)

        def objective(theta: torch.Tensor) -> torch.Tensor:
            hidden, at = x, 0
            linear = [part for part in self.model if isinstance(part, nn.Linear)]
            for place, part in enumerate(linear):
                shape = part.weight.shape
                hidden = hidden @ theta[at : at + shape.numel()].view(shape).T
                at += shape.numel()
                if part.bias is not None:
                    hidden = hidden + theta[at : at + shape[0]]
                    at += shape[0]
                if place < len(linear) - 1:
                    hidden = torch.where(hidden > 0, hidden, self.slope * hidden)
            if self.loss == "cross_entropy":
                value = functional.cross_entropy(hidden, y)
            else:
                value = ((hidden - y) ** 2).sum() / len(x)
                value = value / 2 if self.loss == "half_squared" else value
            return value + self.decay / 2 * (theta**2).sum()

        found = torch.autograd.functional.hessian(objective, flat)
        return np.asarray(found.numpy())


def sequential(widths: list[int], biases: list[bool], slope: float, scale: float) -> nn.Sequential:
    parts: list[nn.Module] = []
    for place, bias in enumerate(biases):
        parts.append(nn.Linear(widths[place], widths[place + 1], bias=bias).double())
        with torch.no_grad():
            for parameter in parts[-1].parameters():
                parameter.mul_(scale)
        if place < len(biases) - 1 and slope != 1.0:
            parts.append(nn.ReLU() if slope == 0.0 else nn.LeakyReLU(slope))
    return nn.Sequential(*parts)


def case(seed: int, hidden: int | None = None) -> Case:
    """H from 1 to 4, widths from 1 to 5; all kinds of biases, slopes, losses and outputs in turn."""
    rng = np.random.default_rng([7, seed])
    torch.manual_seed(seed)
    hidden = 1 + seed % 4 if hidden is None else hidden
    loss = SMOOTH[seed % 3]
    outputs = int(rng.integers(2, 4)) if loss == "cross_entropy" or seed % 2 else 1
    widths = [*rng.integers(1, 6, hidden + 1).tolist(), outputs]
    kind = seed % 5
    biases = [kind == 1 or (kind > 1 and bool(rng.integers(2))) for _ in range(hidden + 1)]
    slope = (0.0, 0.0, 0.2, -0.5, 1.5, 1.0)[seed % 6]
    samples = int(rng.integers(1, 16))
    x = rng.normal(size=(samples, widths[0]))
    targets = rng.integers(0, outputs, samples) if loss == "cross_entropy" else None
    y = rng.normal(size=(samples, outputs)) if targets is None else targets
    scale = float(rng.choice([0.3, 1.0, 3.0]))
    return Case(sequential(widths, biases, slope, scale), x, y, loss, rng.uniform(0, 2), slope)


def chains(found: rs.Convexity) -> list[float]:
    return [getattr(found, name) for name in BOUNDS]


@pytest.mark.parametrize(
    "start",
    [pytest.param(at, marks=[pytest.mark.slow] * (at >= 50)) for at in range(0, 1500, 50)],
)
def test_bounds_hold_in_their_order_on_random_networks(start: int) -> None:
    for seed in range(start, start + 50):
        one = case(seed)
        found = rs.convexity(one.landscape())
        values = np.linalg.eigvalsh(one.hessian())
        margin = 1e-11 * max(1.0, np.abs(values).max())
        assert found.exact == pytest.approx(values[0], abs=margin)
        assert found.reason == ""
        paper, sharp, data = chains(found)
        assert paper <= sharp <= data <= values[0] + 1e-3 * margin
        # the sharper region is (H + 1) times as large in the loss's root
        assert (one.decay - sharp) * (found.hidden_layers + 1) <= (one.decay - paper) * (1 + 1e-9)


def test_bounds_are_attained_where_one_weight_follows_the_other() -> None:
    """f = w v x, l = (w v - y)^2 / 2 at w = v = s: the direction (1, -1) has curvature e + lambda."""
    net = sequential([1, 1, 1], [False, False], 0.0, 1.0)
    landscape = rs.Landscape(net, [[1.0]], [[5.0]], loss="half_squared", weight_decay=0.5)
    found = rs.convexity(landscape, [2.0, 2.0])  # e = -1: eigenvalues 1/2 + 4 +- (4 - 1), less 1
    hessian = np.array([[4.5, 3.0], [3.0, 4.5]])
    assert found.exact == pytest.approx(np.linalg.eigvalsh(hessian)[0])
    assert found.exact == pytest.approx(1.5)
    assert found.data_bound == pytest.approx(0.5 - 1.0)  # it knows the size of e, not its sign
    assert found.sharp_bound == pytest.approx(0.5 - 1.0)
    assert found.paper_bound == pytest.approx(0.5 - 2.0)
    net = sequential([1, 1, 1], [False, False], 1.0, 1.0)
    landscape = rs.Landscape(net, [[1.0]], [[5.0]], loss="half_squared", weight_decay=0.5)
    still = rs.convexity(landscape, [0.0, 0.0])  # e = -5: eigenvalues 1/2 -+ 5
    assert still.exact == pytest.approx(-4.5)
    assert still.data_bound == pytest.approx(-4.5)


def test_samples_of_opposite_slopes_cancel_between_any_two_layers() -> None:
    """f = 2 * 3 * 0.5 x = 3 at x = 1, targets 2 and 4: all second derivatives of f drop out."""
    net = sequential([1, 1, 1, 1], [False] * 3, 1.0, 1.0)
    landscape = rs.Landscape(net, [[1.0], [1.0]], [2.0, 4.0], loss="half_squared", weight_decay=0.5)
    found = rs.convexity(landscape, [2.0, 3.0, 0.5])
    assert found.sharp_bound < -1.0
    assert found.data_bound == pytest.approx(0.5)
    assert found.exact == pytest.approx(0.5)
    uneven = rs.Landscape(net, [[1.0], [1.0]], [2.0, 3.0], loss="half_squared", weight_decay=0.5)
    slope = 0.5  # the mean; moving two of three factors leaves the third
    matrix = slope * np.array([[0.0, 0.5, 3.0], [0.5, 0.0, 2.0], [3.0, 2.0, 0.0]])
    bound = 0.5 - np.linalg.eigvalsh(matrix)[-1]
    assert rs.convexity(uneven, [2.0, 3.0, 0.5]).data_bound == pytest.approx(bound)


def test_a_linear_regression_is_convex_with_the_decay_for_a_constant() -> None:
    one = case(0, hidden=0)
    found = rs.convexity(one.landscape())
    assert chains(found) == [one.decay] * 3
    assert found.exact >= one.decay - 1e-12
    assert (found.covering_decay, found.paper_covering_decay) == (0.0, 0.0)
    assert found.is_convex
    assert "everywhere" in found.sentence()


@pytest.mark.parametrize("seed", range(12))
def test_lanczos_equals_the_dense_eigenvalue(seed: int) -> None:
    one = case(seed)
    product = HessianProduct(one.landscape())
    if product.size <= 3:
        return
    found = least_eigenvalue(product, max_dense=0, seed=seed)
    values = np.linalg.eigvalsh(one.hessian())
    assert found.method == "lanczos"
    assert found.value == pytest.approx(values[0], abs=1e-6)
    assert found.error <= 1e-6 * max(1.0, np.abs(values).max())


def test_lanczos_on_a_network_too_large_for_a_dense_hessian() -> None:
    rng = np.random.default_rng(3)
    torch.manual_seed(3)
    x = rng.normal(size=(40, 60))
    y = rng.integers(0, 3, 40)
    one = Case(sequential([60, 32, 3], [True, True], 0.0, 1.0), x, y, "cross_entropy", 0.01, 0.0)
    found = rs.convexity(one.landscape())
    assert found.method == "lanczos"
    assert found.exact == pytest.approx(np.linalg.eigvalsh(one.hessian())[0], abs=1e-6)
    assert found.data_bound <= found.exact
    assert "an estimate from above" in found.summary()
    again = rs.convexity(one.landscape())
    assert again.exact == found.exact  # the start is drawn from the seed


def test_lanczos_of_a_multiple_of_the_identity() -> None:
    """At zero weights no rectifier passes anything on: only the weight decay bends."""
    net = sequential([2, 3, 1], [False, False], 0.0, 1.0)
    landscape = rs.Landscape(net, [[1.0, 2.0]], [[5.0]], weight_decay=0.25)
    found = rs.convexity(landscape, np.zeros(9), max_dense=0)
    assert found.method == "lanczos"
    assert found.exact == pytest.approx(0.25, rel=1e-14)
    assert np.linalg.norm(found.direction) == pytest.approx(1.0)
    still = rs.Landscape(net, [[1.0, 2.0]], [[5.0]])
    assert rs.convexity(still, np.zeros(9), max_dense=0).exact == 0.0


def test_a_network_that_is_off_has_curvature_zero_with_either_method() -> None:
    rng = np.random.default_rng(1)
    net = sequential([3, 25, 25, 1], [False, False, False], 0.0, 1.0)
    with torch.no_grad():
        net[2].weight.abs_().neg_()
    landscape = rs.Landscape(net, rng.uniform(0.1, 1.0, (20, 3)), rng.normal(size=20))
    for max_dense in (0, 2000):
        found = rs.convexity(landscape, max_dense=max_dense)
        assert (found.exact, found.is_convex) == (0.0, None)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_one_two_or_three_parameters_need_no_lanczos(width: int) -> None:
    x = np.random.default_rng(2).normal(size=(9, width))
    layer = nn.Linear(width, 1, bias=False)
    found = rs.convexity(rs.Landscape(layer, x, np.zeros(9)), max_dense=0)
    assert found.exact == pytest.approx(np.linalg.eigvalsh(2.0 * x.T @ x / 9)[0])


def test_lanczos_of_a_hessian_of_rank_one() -> None:
    x = np.random.default_rng(2).normal(size=(1, 60))
    landscape = rs.Landscape(nn.Linear(60, 1, bias=False), x, [1.0])
    assert rs.convexity(landscape, max_dense=0).exact == pytest.approx(0.0, abs=1e-8)


def test_products_do_not_depend_on_batches() -> None:
    one = case(6)
    landscape = one.landscape()
    vectors = np.random.default_rng(0).normal(size=(3, landscape.size))
    expected = vectors @ one.hessian()
    for batch in (1, 3, 100):
        product = HessianProduct(landscape, batch)
        np.testing.assert_allclose(product.matrix(vectors), expected, atol=1e-12)
        np.testing.assert_allclose(product(vectors[1]), expected[1], atol=1e-12)
        assert product.count == 4


# ---- regions and what they imply ---------------------------------------------------------------


def global_minimum(one: Case, starts: int) -> np.ndarray:
    """The lowest end of descents from many points."""
    landscape = one.landscape()
    rng = np.random.default_rng(5)
    best = (math.inf, np.zeros(landscape.size))
    for _ in range(starts):
        start = rng.normal(size=landscape.size) * rng.choice([0.3, 1.0, 2.0])
        theta = minimize(landscape.loss, start, jac=landscape.gradient, tol=1e-14).x
        for _ in range(300):  # kinks end line searches early
            theta = theta - 0.02 * landscape.gradient(theta)
        best = min(best, (landscape.loss(theta), theta), key=lambda end: end[0])
    return best[1]


def test_above_the_covering_decay_the_best_of_many_descents_lies_in_the_region() -> None:
    rng = np.random.default_rng(11)
    x = rng.uniform(-1, 1, size=(8, 1))
    one = Case(sequential([1, 2, 1], [True, True], 0.0, 1.0), x, x + 1.0, "half_squared", 0.0, 0.0)
    for decay, covered in ((1.02, True), (0.05, False)):
        needed = rs.convexity(one.landscape()).covering_decay
        one.decay = decay * needed
        theta = global_minimum(one, 4)
        found = rs.convexity(one.landscape(), theta)
        assert found.in_data_region is covered
        assert (one.decay > found.covering_decay) is covered
        assert found.paper_covering_decay > found.covering_decay


def test_the_worst_case_of_the_covering_decay_is_the_largest_over_a_grid() -> None:
    for hidden, constants, power in ((1, 0, 1), (2, 0, 1), (3, 2, 1), (4, 4, 2), (2, 1, 2)):
        setting = Setting(hidden, constants, 1.3, 2.0, power, 0.7)
        for decay in (0.1, 1.0, 10.0):
            s = np.linspace(0.0, 2 * 0.7 / decay, 200_001)
            values = (0.7 - decay * s / 2) ** power * (constants + s) ** (hidden - 1)
            assert worst_product(setting, decay) == pytest.approx(values.max(), rel=1e-8)
            assert worst_product(setting, decay) >= values.max() * (1 - 1e-12)


def test_the_papers_covering_decay_is_its_formula() -> None:
    """inf l < lambda^(1 + 1/H) / 2 (H (H + 1) r)^(-2/H), solved for lambda."""
    for hidden in (1, 2, 3):
        setting = Setting(hidden, 0, 1.3, 2.0, 1, 0.7)
        decay = paper_decay(setting)
        level = decay ** (1 + 1 / hidden) / 2 * (hidden * (hidden + 1) * 1.3) ** (-2 / hidden)
        assert level == pytest.approx(0.7)
        assert covering_decay(setting) < decay


@pytest.mark.parametrize("slope", [0.0, 1.0])
@pytest.mark.parametrize("hidden", [1, 2, 3])
def test_without_biases_no_minimum_but_zero_lies_below_the_threshold(
    hidden: int, slope: float
) -> None:
    """f = prod w x on one positive sample: critical points by a root of one polynomial, all w equal.

    With all w = t: lambda t = -e t^H and e = t^(H + 1) - y. The lowest nonzero one over all targets y
    has the threshold for its loss, or lies above it.
    """
    lowest = math.inf
    decay = 0.5
    setting = Setting(hidden, 0, 1.0, 2.0, 1, 1.0)
    for t in np.linspace(0.05, 3.0, 500):
        y = t ** (hidden + 1) + decay * t ** (1 - hidden)
        net = sequential([1] * (hidden + 2), [False] * (hidden + 1), slope, 1.0)
        if t in (0.05, 3.0):
            at = rs.Landscape(net, [[1.0]], [[y]], loss="half_squared", weight_decay=decay)
            assert np.abs(at.gradient([t] * (hidden + 1))).max() < 1e-12
            stated = rs.convexity(at, [t] * (hidden + 1))
            assert stated.loss >= stated.lowest_minimum
            assert not stated.in_data_region
        e = t ** (hidden + 1) - y
        lowest = min(lowest, e**2 / 2 + decay / 2 * (hidden + 1) * t**2)
    threshold = smallest_minimum(setting, decay)
    assert threshold <= lowest * (1 + 1e-12)
    assert threshold == pytest.approx(lowest, rel=0.02)  # nothing better can be said


def test_descents_of_linear_networks_end_at_zero_or_above_the_threshold() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(20, 2))
    ends = []
    for decay in (0.05, 0.4, 1.5):
        net = sequential([2, 2, 1], [False, False], 1.0, 1.0)
        one = Case(net, x, x @ [[1.0], [0.5]], "half_squared", decay, 1.0)
        theta = global_minimum(one, 3)
        found = rs.convexity(one.landscape(), theta)
        assert np.linalg.norm(one.landscape().gradient(theta)) < 1e-5
        zero = float(np.abs(theta).max()) < 1e-4
        assert zero or found.loss >= found.lowest_minimum
        assert zero or found.data_bound < 1e-9  # the end is critical up to 1e-5 only
        ends.append(zero)
        assert found.linear
        assert "no critical point but zero" in found.summary()
    assert ends == [False, False, True]


def test_a_global_minimum_is_zero_above_the_covering_decay_without_biases() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(10, 2))
    one = Case(sequential([2, 3, 1], [False, False], 0.0, 1.0), x, x[:, :1], "squared", 1.0, 0.0)
    one.decay = 1.01 * rs.convexity(one.landscape()).covering_decay
    theta = global_minimum(one, 5)
    assert np.abs(theta).max() < 1e-4


# ---- what is refused, and what is told ---------------------------------------------------------


def test_an_l1_loss_is_refused() -> None:
    landscape = rs.Landscape(nn.Linear(1, 1), [[1.0]], [1.0], loss="l1")
    with pytest.raises(rs.InputError, match="affine on every piece"):
        rs.convexity(landscape)


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(1, 2, 3), nn.Linear(2 * 4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.body(x)).flatten(1))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


@pytest.mark.parametrize(
    ("model", "shape", "word"),
    [
        (Convolutional(), (1, 4, 4), "outside the affine layers"),
        (nn.Sequential(nn.Linear(3, 2), nn.Tanh()), (3,), "Tanh"),
        (Tied(), (2,), "share"),
    ],
)
def test_networks_without_bounds_have_the_exact_value(
    model: nn.Module, shape: tuple[int, ...], word: str
) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, *shape)), rng.normal(size=(9, 2))
    landscape = rs.Landscape(model, x, y, weight_decay=0.1)
    found = rs.convexity(landscape)
    assert word in found.reason
    assert found.reason == why_unbounded(landscape)
    assert all(math.isnan(one) for one in chains(found))
    assert found.in_region is found.in_sharp_region is found.in_data_region is None
    assert found.exact == pytest.approx(np.linalg.eigvalsh(landscape.hessian())[0], abs=1e-9)
    assert "no bounds" in found.summary()
    assert "certified" not in found.summary()


def test_kinks_that_are_zero_to_rounding_are_counted() -> None:
    net = sequential([2, 2, 1], [True, True], 0.0, 1.0)
    theta = np.array([0.1, 0.2, 1.0, 1.0, -0.1 * 3 - 0.2 * 0.1, 5.0, 1.0, 1.0, 0.0])
    landscape = rs.Landscape(net, [[3.0, 0.1], [1.0, 1.0]], [0.0, 1.0])
    assert rs.convexity(landscape, theta).active_kinks == 1
    reading = landscape.at(theta).reading
    assert reading is not None
    assert active_kinks(reading.network, reading.features) == 1
    assert "1 kink is zero" in rs.convexity(landscape, theta).summary()


def all_sides(one: Case) -> list[np.ndarray]:
    """Hessians for every choice of slopes of the switching values that are exactly zero.

    The numbers of the case are small integers, so that all sums are exact.
    """
    linear = [part for part in one.model if isinstance(part, nn.Linear)]
    weights = [part.weight.detach() for part in linear]
    flat = torch.cat([weight.ravel() for weight in weights])
    x, y = torch.from_numpy(one.x), torch.from_numpy(one.y)

    def outputs(theta: torch.Tensor, slopes: list[torch.Tensor]) -> tuple[torch.Tensor, list]:
        hidden, at, seen = x, 0, []
        for place, weight in enumerate(weights):
            hidden = hidden @ theta[at : at + weight.numel()].view(weight.shape).T
            at += weight.numel()
            if place < len(weights) - 1:
                seen.append(hidden)
                positive = torch.where(hidden > 0, 1.0, one.slope)
                hidden = hidden * (slopes[place] if slopes else positive)
        return hidden, seen

    switching = outputs(flat, [])[1]
    zero = torch.cat([(values == 0).ravel() for values in switching])
    found = []
    for choice in itertools.product((1.0, one.slope), repeat=int(zero.sum())):
        every = torch.cat([torch.where(v > 0, 1.0, one.slope).double().ravel() for v in switching])
        every[zero] = torch.tensor(choice, dtype=torch.float64)
        parts = torch.split(every, [values.numel() for values in switching])
        slopes = [part.view(v.shape) for part, v in zip(parts, switching, strict=True)]

        def objective(theta: torch.Tensor, slopes: list[torch.Tensor] = slopes) -> torch.Tensor:
            residual = outputs(theta, slopes)[0] - y
            return (residual**2).sum() / len(x) / 2 + one.decay / 2 * (theta**2).sum()

        found.append(torch.autograd.functional.hessian(objective, flat).numpy())
    return found


def test_at_active_kinks_the_bounds_hold_for_every_choice_of_their_signs() -> None:
    rng = np.random.default_rng(8)
    met = decided = 0
    for trial in range(40):
        widths = [2, 2, *[2] * (trial % 2), 1]
        slope = (0.0, 0.0, 0.5, -1.0, 2.0)[trial % 5]
        one = Case(
            sequential(widths, [False] * (len(widths) - 1), slope, 1.0),
            rng.integers(-2, 3, (2, 2)).astype(float),
            rng.integers(-1, 2, (2, 1)).astype(float),
            "half_squared",
            float(rng.choice([1.0, 8.0])),
            slope,
        )
        with torch.no_grad():
            for parameter in one.model.parameters():
                drawn = rng.integers(-1, 2, tuple(parameter.shape)).astype(float)
                parameter.copy_(torch.from_numpy(drawn))
        sides = all_sides(one)
        found = rs.convexity(one.landscape())
        least = [np.linalg.eigvalsh(side)[0] for side in sides]
        assert found.data_bound <= min(least) + 1e-12
        assert min(abs(found.exact - value) for value in least) < 1e-12
        if max(least) - min(least) > 1e-9:  # those that nothing moves have equal sides
            met += 1
            assert found.active_kinks > 0
            assert found.is_convex in (None, True)
        decided += len(sides) > 1 and bool(found.is_convex)
    assert met > 10
    assert decided > 2


def test_two_ways_of_rounding_a_kink_do_not_pass_for_certainty() -> None:
    """-0.2 (-0.1) - 0.4 (-0.3) + 0.7 (-0.2) is zero, and 2.8e-17 or so in some order of the sum."""
    net = sequential([3, 2, 1], [False, False], 0.0, 1.0)
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[-1, -3, -2], [0, 7, -3]]).double() / 10)
        net[2].weight.fill_(1.0)
    landscape = rs.Landscape(
        net, [[-0.2, -0.4, 0.7]], [[3.0]], loss="half_squared", weight_decay=0.1
    )
    found = rs.convexity(landscape)
    assert found.active_kinks == 1
    assert found.is_convex is None
    assert found.exact == pytest.approx(np.linalg.eigvalsh(landscape.hessian())[0])
    assert found.data_bound < -2.07  # the side on which the unit is on: -2.0707


def test_a_choice_of_signs_that_is_no_piece_is_not_called_convex() -> None:
    """At w = 0 the samples 1 and -1 are never off together; next to it the curvature is -1.17."""
    net = sequential([1, 1, 1], [False, False], 0.0, 1.0)
    landscape = rs.Landscape(
        net, [[1.0], [-1.0]], [[3.0], [3.0]], loss="half_squared", weight_decay=0.1
    )
    for theta in ([0.0, 1.0], [0.0, 0.0]):
        found = rs.convexity(landscape, theta)
        assert found.is_convex is None
        assert found.data_bound < -1.17
        assert not found.in_data_region
        assert "one choice of their signs" in found.summary()


def test_kinks_behind_layers_that_bend_nothing_are_counted() -> None:
    """Zero weights before a layer without biases; a slope of one before the rectifier."""
    x, y = np.ones((2, 2)), np.ones((2, 1))
    plain = nn.Sequential(
        *(nn.Linear(2, 2, bias=False) for _ in range(2)), nn.ReLU(), nn.Linear(2, 1)
    )
    with torch.no_grad():
        plain[0].weight.zero_()
    assert rs.convexity(rs.Landscape(plain, x, y)).active_kinks == 4
    slope = nn.Sequential(
        nn.Linear(2, 2, bias=False), nn.LeakyReLU(1.0), nn.ReLU(), nn.Linear(2, 1)
    )
    with torch.no_grad():
        slope[0].weight.zero_()
    landscape = rs.Landscape(slope, x, y)
    assert rs.convexity(landscape).active_kinks == 4
    with pytest.raises(rs.InputError, match="4 kinks"):
        rs.spectrum(landscape)


def test_constants_are_carried_only_as_far_as_the_last_bias() -> None:
    """No norm is raised to 1 where no bias comes behind."""
    torch.manual_seed(0)
    net = sequential([2, 2, 2, 1], [True, False, False], 0.0, 0.01)
    reading = rs.Landscape(net, np.ones((1, 2)), [1.0]).reading
    assert reading is not None
    chain = chain_of(reading.network)
    assert chain.constants == 0
    assert chain.carried.max() < 0.1
    net[0], net[4] = nn.Linear(2, 2, bias=False).double(), nn.Linear(2, 1).double()
    reading = rs.Landscape(net, np.ones((1, 2)), [1.0]).reading
    assert reading is not None
    assert chain_of(reading.network).constants == 2


def test_what_is_said_of_certified_numbers_is_true_in_the_digits_shown() -> None:
    found = dataclasses.replace(
        rs.convexity(case(0).landscape()), data_bound=0.12345678, covering_decay=2.00000001,
        lowest_minimum=0.72583599,
    )  # fmt: skip
    text = found.summary()
    assert "data's bound: 0.123456 (certified)" in text
    assert "above a weight decay of 2.00001 " in text
    assert "has a loss below 0.725835" in text


def test_the_result_is_saved_and_drawn(tmp_path: object) -> None:
    one = case(1)
    found = rs.convexity(one.landscape())
    path = f"{tmp_path}/one.nc"
    found.save(path)
    assert repr(rs.Convexity.load(path)) == repr(found)
    gaps = [one.decay - value for value in (*chains(found), found.exact)]
    drawn = found.plot().data[0].x
    assert [*drawn] == pytest.approx([gap for gap in gaps if gap > 0])


def test_a_point_and_a_seed_are_checked() -> None:
    landscape = case(1).landscape()
    with pytest.raises(rs.InputError, match="theta must have shape"):
        rs.convexity(landscape, np.zeros(1))
    with pytest.raises(rs.InputError, match="seed"):
        rs.convexity(landscape, seed=-1)
    assert make_loss(landscape.loss_name).name == landscape.loss_name


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_dead_network_is_as_convex_as_its_decay(decay: float) -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1, bias=False)).double()
    nn.init.constant_(net[0].bias, -9.0)
    landscape = rs.Landscape(net, np.eye(2), [[0.0], [0.0]], weight_decay=decay)
    found = rs.convexity(landscape)
    assert found.data_bound == decay
    assert rs.verify(found, landscape).valid
