"""A network's output over a box against torch, vertex enumeration, linear programs and probing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import dense
from scipy.optimize import linprog
from torch import nn

import reluscape as rs
from reluscape.descent import Status
from reluscape.errors import InputError, UnsupportedModelError

MINIMA = ("strict_minimum", "minimum", "plateau")
RULES = ("long_step", "first_kink")


def outputs(model: nn.Module, points: np.ndarray) -> np.ndarray:
    """What torch says, one number per row."""
    with torch.no_grad():
        return model(torch.tensor(np.atleast_2d(points))).numpy().ravel()


def probed(model: nn.Module, function: rs.NetworkOutput, theta: np.ndarray) -> float:
    """Lowest of 10,000 outputs around theta in the box, less the output there."""
    rng = np.random.default_rng(1)
    steps = rng.normal(size=(10_000, theta.size)) * 10.0 ** rng.uniform(-8, -4, (10_000, 1))
    steps *= rng.random(steps.shape) < 0.6
    near = np.clip(theta + steps, function.lower, function.upper)
    return float(outputs(model, near).min() - outputs(model, theta)[0])


def check(model: nn.Module, function: rs.NetworkOutput, descent: rs.Descent) -> None:
    """What holds of every descent of an output."""
    assert descent.quantity == "output"
    assert (np.diff(descent.losses) <= 0).all()
    assert len(descent.step_lengths) == descent.num_pivots == len(descent.losses) - 1
    points = np.vstack([descent.vertices, descent.theta])
    assert (points >= function.lower).all()
    assert (points <= function.upper).all()
    size = 1.0 + np.abs(descent.losses).max()
    assert descent.loss == pytest.approx(outputs(model, descent.theta)[0], rel=1e-12, abs=1e-12)
    assert descent.loss == pytest.approx(descent.losses[-1], rel=1e-9, abs=1e-9)
    if descent.stride == 1:
        np.testing.assert_allclose(
            outputs(model, descent.vertices), descent.losses, atol=1e-6 * size
        )
    assert rs.verify(descent.certificate, function).valid
    if descent.status in MINIMA:
        assert probed(model, function, descent.theta) >= -1e-12 * size
    if descent.status == "unbounded":
        falls(model, function, descent)


def falls(model: nn.Module, function: rs.NetworkOutput, descent: rs.Descent) -> None:
    """The output falls along the certificate's direction, in torch too, by its margin per unit."""
    way, margin = descent.certificate.direction, descent.certificate.margin
    assert np.linalg.norm(way) == pytest.approx(1.0)
    assert function.falls_forever(descent.theta, way)
    lengths = np.array([0.0, 1.0, 1e3, 1e6])
    points = descent.theta + lengths[:, None] * way
    assert (points >= function.lower).all()
    assert (points <= function.upper).all()
    found = outputs(model, points)
    np.testing.assert_allclose(found[0] - found[1:], margin * lengths[1:], rtol=1e-5, atol=1e-6)


# --- what it is ---------------------------------------------------------------------------------


def images() -> nn.Module:
    """Batch norm, flattening and nested parts before the layers."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(),
        nn.BatchNorm1d(12),
        nn.Sequential(nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 5), nn.BatchNorm1d(5)),
        nn.LeakyReLU(0.1),
        nn.Linear(5, 1),
    ).double()
    for _ in range(3):
        model(torch.randn(20, 12, dtype=torch.float64) + 1.0)
    return model.eval()


@pytest.mark.parametrize(
    ("model", "shape"),
    [(dense((3, 4, 1), seed=0), (3,)), (dense((3, 4, 3, 2, 1), seed=1, slope=0.2), (3,)),
     (dense((2, 1), seed=2), (2,)), (images(), (3, 4)), (images(), (12,))],
)  # fmt: skip
def test_values_and_gradients_are_those_of_torch(model: nn.Module, shape: tuple[int, ...]) -> None:
    function = rs.NetworkOutput(model, lower=np.full(shape, -2.0), upper=2.0)
    assert function.shape == shape
    rng = np.random.default_rng(0)
    for _ in range(20):
        point = rng.uniform(-2, 2, function.size)
        leaf = torch.tensor(point.reshape(1, *shape), requires_grad=True)
        value = model(leaf).sum()
        value.backward()
        assert function.loss(point) == pytest.approx(value.item(), rel=1e-12)
        np.testing.assert_allclose(
            function.gradient(point), leaf.grad.numpy().ravel(), rtol=1e-9, atol=1e-12
        )
        block = function.around(point)
        np.testing.assert_allclose(
            block.gradient(point), leaf.grad.numpy().ravel(), rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("slope", [0.0, 0.1, 1.0, 1.5, -0.5, -1.0])
@pytest.mark.parametrize("widths", [(2, 1), (2, 3, 1), (2, 3, 4, 1)])
def test_around_a_point_the_loss_is_the_output_and_rises_outside(
    widths: tuple[int, ...], slope: float
) -> None:
    model = dense(widths, seed=3, slope=slope)
    function = rs.NetworkOutput(model, lower=[-1.0, 0.5], upper=[np.inf, 0.5])
    for point in ([-1.0, 0.5], [0.3, 0.5], [4.0, 0.5]):
        theta = np.array(point)
        block = function.around(theta)
        for moved in (theta, theta + np.array([1e-4, 0.0])):
            change = outputs(model, moved)[0] - outputs(model, theta)[0]
            assert block.loss(moved) - block.loss(theta) == pytest.approx(change, abs=1e-12)
        for step in ([0.0, 1e-4], [0.0, -1e-4]):
            assert block.loss(theta + step) > block.loss(theta)
    assert function.around([-1.0, 0.5]).loss([-1.0 - 1e-4, 0.5]) > function.around(
        [-1.0, 0.5]
    ).loss([-1.0, 0.5])


def test_defaults_and_names() -> None:
    model = dense((4, 3, 1), seed=0)
    function = rs.NetworkOutput(
        model, lower=[-1.0, -np.inf, 2.0, -np.inf], upper=[3.0, -5.0, np.inf, np.inf]
    )
    np.testing.assert_array_equal(function.theta, [1.0, -5.0, 2.0, 0.0])
    assert function.size == 4
    assert repr(function) == "NetworkOutput(4 inputs, 1 bounded on both sides, 2 layers)"
    assert function.loss() == outputs(model, function.theta)[0]
    with pytest.raises(AttributeError):
        function.lower = 3.0
    with pytest.raises(ValueError, match="read-only"):
        function.lower[0] = 3.0


def test_neither_the_model_nor_torchs_random_numbers_are_touched() -> None:
    model = dense((3, 4, 1), seed=0).float().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    rs.descend(rs.NetworkOutput(model, lower=-1, upper=1))
    assert torch.rand(1) == expected
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Residual(nn.Module):
    """A skip connection, which no chain of layers is."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 2), nn.Linear(2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Not readable."""
        return self.last(x + self.first(x).relu())


@pytest.mark.parametrize(
    ("model", "lower", "upper", "expected"),
    [
        (dense((2, 3, 2), seed=0), 0, 1, "must have one output"),
        (dense((2, 1), seed=0), np.nan, 1, r"lower must not be NaN; received 1 NaN of 1 values"),
        (dense((2, 1), seed=0), 1, 0, "not above upper"),
        (dense((2, 1), seed=0), [0, 2], [1, 1], r"at \(1,\)"),
        (dense((2, 1), seed=0), np.inf, np.inf, "finite or -inf"),
        (dense((2, 1), seed=0), [0, 0, 0], 1, "must accept inputs of shape"),
        (dense((2, 1), seed=0), [0, 0, 0], [1, 1], "must have the input's shape"),
        (dense((2, 1), seed=0), np.empty(0), 1, "at least one input"),
        (dense((2, 1), seed=0), 0, 1e60, "upper must be at most"),
        (dense((2, 1), seed=0), "low", 1, "lower must be real numbers"),
        (nn.ReLU(), 0, 1, "without a Linear layer"),
        ("model", 0, 1, "must be a torch.nn.Module"),
        (Residual(), 0, 1, "readable as affine and ReLU layers"),
        (nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1)), 0, 1, "readable as affine"),
    ],
)
def test_what_cannot_be_used_is_refused(
    model: nn.Module, lower: object, upper: object, expected: str
) -> None:
    with pytest.raises(InputError, match=expected) as caught:
        rs.NetworkOutput(model, lower=lower, upper=upper)
    assert "\n" not in str(caught.value)


def test_unreadable_models_are_unsupported() -> None:
    with pytest.raises(UnsupportedModelError):
        rs.NetworkOutput(Residual(), lower=0, upper=1)


def test_points_outside_are_refused() -> None:
    function = rs.NetworkOutput(dense((2, 3, 1), seed=0), lower=0, upper=1)
    for use in (rs.descend, rs.certify):
        with pytest.raises(InputError, match=r"in the box; received 1\.5 for input 1"):
            use(function, [0.5, 1.5])
        with pytest.raises(InputError, match="theta must have shape"):
            use(function, [0.5])


# --- minima against other methods ---------------------------------------------------------------


def vertices_of(model: nn.Sequential, lower: Sequence[float], upper: Sequence[float]) -> np.ndarray:
    """All points of a box in the plane where two kinks or sides of it meet; one hidden layer."""
    lines = [(row, -shift) for row, shift in zip(
        model[0].weight.detach().numpy(), model[0].bias.detach().numpy(), strict=True)]  # fmt: skip
    for axis in range(2):
        lines += [(np.eye(2)[axis], side[axis]) for side in (lower, upper)]
    found = []
    for (a, b), (c, d) in combinations(lines, 2):
        matrix = np.array([a, c])
        if abs(np.linalg.det(matrix)) > 1e-12:
            point = np.linalg.solve(matrix, [b, d])
            if (point >= np.array(lower) - 1e-9).all() and (point <= np.array(upper) + 1e-9).all():
                found.append(np.clip(point, lower, upper))
    return np.array(found)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(2))
def test_in_the_plane_the_ends_are_the_enumerated_minima(seed: int, rule: str) -> None:
    """The least of all vertices is the global minimum, and every strict end is one of the vertices."""
    model = dense((2, 8, 1), seed=seed)
    lower, upper = [-2.0, -1.0], [1.0, 2.0]
    function = rs.NetworkOutput(model, lower=lower, upper=upper)
    vertices = vertices_of(model, lower, upper)
    values = outputs(model, vertices)
    starts = np.random.default_rng(seed).uniform(lower, upper, (8, 2))
    ends = [rs.descend(function, start, rule=rule) for start in starts]
    for end in ends:
        check(model, function, end)
        assert end.status in MINIMA
        if end.status == "strict_minimum":
            assert np.abs(vertices - end.theta).max(axis=1).min() < 1e-9
    assert min(end.loss for end in ends) == pytest.approx(values.min(), abs=1e-9)


@pytest.mark.parametrize("widths", [(1, 6, 1), (1, 5, 5, 1), (1, 4, 4, 4, 1)])
def test_on_a_line_no_grid_point_beside_an_end_is_lower(widths: tuple[int, ...]) -> None:
    model = dense(widths, seed=4)
    function = rs.NetworkOutput(model, lower=-3, upper=3)
    grid = np.linspace(-3, 3, 60_001)
    values = outputs(model, grid[:, None])
    ends = [rs.descend(function, [start]) for start in np.linspace(-3, 3, 9)]
    for end in ends:
        assert end.status in MINIMA
        check(model, function, end)
    slack = np.abs(np.diff(values)).max()
    assert min(end.loss for end in ends) <= values.min() + 1e-12
    assert min(end.loss for end in ends) >= values.min() - slack


@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (0.0, np.inf)])
@pytest.mark.parametrize("widths", [(3, 6, 1), (4, 6, 5, 1), (8, 7, 6, 5, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_convex_networks_end_at_the_linear_programs_minimum(
    seed: int, widths: tuple[int, ...], bounds: tuple[float, float]
) -> None:
    """With weights >= 0 behind the first layer the output is convex: h >= W h_before + b, h >= 0."""
    model = dense(widths, seed=seed)
    layers = [part for part in model if isinstance(part, nn.Linear)]
    with torch.no_grad():
        for layer in layers[1:]:
            layer.weight.abs_()
    size, hidden = widths[0], list(widths[1:-1])
    total, rows, sides = size + sum(hidden), [], []
    for place, (layer, width) in enumerate(zip(layers, hidden, strict=False)):
        block = np.zeros((width, total))
        before = width_before(place, size, hidden)
        block[:, before[0] : before[1]] = layer.weight.detach().numpy()
        block[:, before[1] : before[1] + width] = -np.eye(width)
        rows.append(block)
        sides.append(-layer.bias.detach().numpy())
    cost = np.zeros(total)
    cost[total - hidden[-1] :] = layers[-1].weight.detach().numpy()[0]
    limits = [(bounds[0], None if np.isinf(bounds[1]) else bounds[1])] * size
    program = linprog(
        cost, np.vstack(rows), np.concatenate(sides), bounds=limits + [(0, None)] * sum(hidden)
    )
    least = program.fun + layers[-1].bias.item()
    function = rs.NetworkOutput(model, lower=bounds[0], upper=bounds[1])
    for start in (None, np.random.default_rng(seed).uniform(0, 1, size)):
        descent = rs.descend(function, start)
        check(model, function, descent)
        assert descent.status in MINIMA
        assert descent.loss == pytest.approx(least, abs=1e-9)


def width_before(place: int, size: int, hidden: list[int]) -> tuple[int, int]:
    """Columns of what a layer reads."""
    ends = np.cumsum([0, size, *hidden])
    return int(ends[place]), int(ends[place + 1])


@pytest.mark.parametrize("slope", [0.0, 0.1])
@pytest.mark.parametrize("seed", range(6))
def test_deep_networks_end_at_minima_that_probing_cannot_beat(seed: int, slope: float) -> None:
    """Three hidden layers and one sample: kinks of consecutive layers bend each other's edges."""
    model = dense((5, 12, 12, 8, 1), seed=seed, slope=slope)
    function = rs.NetworkOutput(model, lower=-2, upper=2)
    start = np.random.default_rng(seed).uniform(-2, 2, 5)
    ends = {rule: rs.descend(function, start, rule=rule) for rule in RULES}
    for end in ends.values():
        check(model, function, end)
        assert end.status in MINIMA
        assert end.loss < outputs(model, start)[0]


def test_in_many_dimensions_most_inputs_end_at_bounds() -> None:
    model = dense((40, 30, 20, 1), seed=1)
    function = rs.NetworkOutput(model, lower=0, upper=1)
    descent = rs.descend(function)
    check(model, function, descent)
    assert descent.status == "strict_minimum"
    assert descent.first_vertex == 40
    assert np.isin(descent.theta, (0.0, 1.0)).sum() >= 20


def test_corners() -> None:
    """Weights > 0 everywhere: the output grows with every input, and one corner is the only minimum."""
    model = dense((3, 4, 4, 1), seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_().add_(0.1)
    function = rs.NetworkOutput(model, lower=[0.0, -0.01, 1.0], upper=2.0)
    descent = rs.descend(function, [2.0, 2.0, 2.0])
    check(model, function, descent)
    assert descent.status == "strict_minimum"
    np.testing.assert_array_equal(descent.theta, function.lower)
    assert len(descent.certificate.active_kinks) == 3
    assert rs.certify(function, function.upper).claim == "not_stationary"


@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_fixed_inputs_stay_where_they_are(slope: float) -> None:
    """The same minimum as that of a network without them, its first bias moved."""
    model = dense((4, 6, 5, 1), seed=2, slope=slope)
    fixed = np.array([0.3, -0.7])
    function = rs.NetworkOutput(
        model, lower=[-1.0, fixed[0], fixed[1], -1.0], upper=[1.0, fixed[0], fixed[1], 1.0]
    )
    descent = rs.descend(function)
    check(model, function, descent)
    np.testing.assert_array_equal(descent.theta[1:3], fixed)
    smaller = dense((2, 6, 5, 1), seed=2, slope=slope)
    with torch.no_grad():
        for own, other in zip(smaller.parameters(), model.parameters(), strict=True):
            own.copy_(other[:, [0, 3]] if own.shape != other.shape else other)
        smaller[0].bias.add_(model[0].weight[:, 1:3] @ torch.from_numpy(fixed))
    again = rs.descend(rs.NetworkOutput(smaller, lower=-1, upper=1))
    np.testing.assert_allclose(again.theta, descent.theta[[0, 3]], atol=1e-9)
    assert again.status == descent.status
    assert again.loss == pytest.approx(descent.loss, abs=1e-12)


def test_all_inputs_fixed_is_a_minimum_at_once() -> None:
    model = dense((3, 4, 1), seed=0)
    function = rs.NetworkOutput(model, lower=0.5, upper=0.5)
    descent = rs.descend(function)
    check(model, function, descent)
    assert (descent.status, descent.num_pivots) == ("strict_minimum", 0)


def test_dead_networks_are_plateaus() -> None:
    model = dense((3, 4, 1), seed=0)
    with torch.no_grad():
        model[0].bias.fill_(-1e3)
    function = rs.NetworkOutput(model, lower=-1, upper=1)
    assert rs.certify(function).claim == "plateau"
    descent = rs.descend(function)
    check(model, function, descent)
    assert descent.status in ("plateau", "minimum")
    assert descent.loss == model[2].bias.item()
    unread = dense((3, 4, 1), seed=0)
    with torch.no_grad():
        unread[2].weight.zero_()
    free = rs.NetworkOutput(unread, lower=-np.inf, upper=np.inf)
    assert rs.descend(free).status == "plateau"


# --- rays ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(4))
def test_outputs_that_fall_forever_are_named_with_their_ray(seed: int, rule: str) -> None:
    """The output is concave and its last units alive; no ray moves an input bounded on both sides."""
    model = dense((4, 8, 6, 1), seed=seed)
    with torch.no_grad():
        for part in (model[2].weight, model[2].bias, model[4].weight):
            part.abs_()
        model[4].weight.neg_()
    function = rs.NetworkOutput(
        model, lower=[-1.0, -1.0, 0.0, -np.inf], upper=[1.0, 1.0, np.inf, np.inf]
    )
    descent = rs.descend(function, rule=rule)
    check(model, function, descent)
    assert descent.status == "unbounded"
    assert (descent.certificate.direction[:2] == 0).all()
    assert descent.certificate.claim == "not_stationary"
    assert "falls forever" in descent.summary()
    closed = rs.NetworkOutput(model, lower=[-1.0, -1.0, 0.0, -9.0], upper=[1.0, 1.0, 9.0, 9.0])
    assert rs.descend(closed, rule=rule).status in MINIMA


def test_a_ray_is_refused_where_a_unit_still_switches_or_a_bound_is_ahead() -> None:
    """f(x) = relu(x - 1) - relu(x) falls from 0 to 1 and is -1 from then on."""
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        for value, entries in zip(
            model.parameters(), ([[1.0], [1.0]], [-1.0, 0.0], [[1.0, -1.0]], [0.0]), strict=True
        ):
            value.copy_(torch.tensor(entries))
    function = rs.NetworkOutput(model, lower=-np.inf, upper=np.inf)
    assert not function.falls_forever([0.5], [1.0])
    assert not function.falls_forever([2.0], [1.0])
    descent = rs.descend(function, [0.5])
    check(model, function, descent)
    assert descent.status == "minimum"
    assert descent.loss == -1.0
    steeper = rs.NetworkOutput(nn.Sequential(model, nn.Linear(1, 1)), lower=-np.inf, upper=4)
    assert not steeper.falls_forever([0.5], [1.0])


@pytest.mark.parametrize("seed", range(12))
def test_corners_of_boxes_of_any_size_are_minima(seed: int) -> None:
    """Bounds from 1e-14 to 1e6 in size: w . x is least where each input is at the bound that w says."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(1, 3))
    low, high = -(10.0 ** rng.integers(-14, 7, 3)), 10.0 ** rng.integers(-14, 7, 3)
    model = nn.Sequential(nn.Linear(3, 1, bias=False, dtype=torch.float64))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(weight))
    descent = rs.descend(rs.NetworkOutput(model, lower=low, upper=high))
    np.testing.assert_array_equal(descent.theta, np.where(weight[0] > 0, low, high))
    assert descent.status == "strict_minimum"


@pytest.mark.parametrize("rule", RULES)
def test_affine_networks(rule: str) -> None:
    """Two layers without a rectifier: the minimum is the corner that the signs of the slopes name."""
    model = nn.Sequential(*[p for p in dense((3, 4, 1), seed=1) if not isinstance(p, nn.ReLU)])
    slopes = (model[1].weight @ model[0].weight).detach().numpy()[0]
    function = rs.NetworkOutput(model, lower=-1.0, upper=[2.0, 3.0, 4.0])
    descent = rs.descend(function, rule=rule)
    check(model, function, descent)
    assert descent.status == "strict_minimum"
    np.testing.assert_array_equal(
        descent.theta, np.where(slopes > 0, function.lower, function.upper)
    )
    unbounded = rs.descend(rs.NetworkOutput(model, lower=-np.inf, upper=np.inf), rule=rule)
    assert unbounded.status == "unbounded"
    np.testing.assert_allclose(
        unbounded.certificate.direction, -slopes / np.linalg.norm(slopes), atol=1e-12
    )


# --- certificates -------------------------------------------------------------------------------


@pytest.mark.parametrize("arithmetic", ["float64", "rational"])
@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_certificates_say_what_the_output_does(slope: float, arithmetic: str) -> None:
    """Off minima the direction stays in the box, and the output falls along it by the margin."""
    pytest.importorskip("flint")
    claims = set()
    for seed in range(4):
        model = dense((3, 4, 3, 1), seed=seed, slope=slope)
        function = rs.NetworkOutput(model, lower=-1, upper=1)
        rng = np.random.default_rng(seed)
        end = rs.descend(function).theta
        for theta in (end, np.sign(rng.normal(size=3)), rng.uniform(-1, 1, 3)):
            certificate = rs.certify(function, theta, arithmetic=arithmetic)
            claims.add(certificate.claim)
            assert rs.verify(certificate, function).valid
            way = certificate.direction
            if way is None:
                assert probed(model, function, theta) >= -1e-12
                continue
            moved = theta + 1e-7 * way
            assert (np.abs(moved) <= 1.0).all()
            fall = (outputs(model, theta)[0] - outputs(model, moved)[0]) / 1e-7
            assert fall == pytest.approx(certificate.margin, rel=1e-3, abs=1e-6)
    assert {"not_stationary", "strict_local_minimum"} <= claims


@pytest.fixture(name="descended", scope="module")
def _descended() -> tuple[rs.NetworkOutput, rs.Descent]:
    """A function and its descent to an inner and outer vertex of the box."""
    model = dense((4, 8, 6, 1), seed=0)
    function = rs.NetworkOutput(model, lower=-1, upper=1)
    return function, rs.descend(function)


def test_descents_and_certificates_are_saved(
    descended: tuple[rs.NetworkOutput, rs.Descent], tmp_path: Path
) -> None:
    function, descent = descended
    again = rs.Descent.load(descent.save(tmp_path / "path.nc"))
    np.testing.assert_array_equal(again.vertices, descent.vertices)
    assert (again.loss, again.status, again.quantity) == (descent.loss, descent.status, "output")
    path = descent.certificate.save(tmp_path / "end.json")
    assert rs.verify(path, function).valid
    assert rs.verify(again.certificate, function).valid


def test_tampered_certificates_are_rejected(
    descended: tuple[rs.NetworkOutput, rs.Descent],
) -> None:
    function, descent = descended
    certificate = descent.certificate
    assert certificate.claim == "strict_local_minimum"
    assert "digest" in rs.verify(replace(certificate, margin=9.0), function).reason
    changes = {
        "theta": [certificate.theta * 0.9, certificate.theta * 3.0, certificate.theta[:2]],
        "claim": ["plateau", "not_stationary", "saddle"],
        "margin": [certificate.margin * 2],
        "slopes": [certificate.slopes + 0.5],
        "multipliers": [certificate.multipliers + 0.5],
        "scope": ["landscape"],
        "layer": ["0"],
        "direction": [np.eye(4)[0]],
    }
    for name, values in changes.items():
        for value in values:
            forged = replace(certificate, **{name: value}, digest="").signed()
            assert not rs.verify(forged, function).valid, name


def test_certificates_of_other_functions_are_rejected(
    descended: tuple[rs.NetworkOutput, rs.Descent],
) -> None:
    _, descent = descended
    model = dense((4, 8, 6, 1), seed=0)
    for lower, upper in ((-1, 2), (-2, 1), (-1, np.inf), (-np.inf, 1), (-3, -2)):
        other = rs.NetworkOutput(model, lower=lower, upper=upper)
        assert not rs.verify(descent.certificate, other).valid
    assert rs.verify(descent.certificate, rs.NetworkOutput(model, lower=-1, upper=1)).valid
    moved = dense((4, 8, 6, 1), seed=1)
    assert not rs.verify(descent.certificate, rs.NetworkOutput(moved, lower=-1, upper=1)).valid
    landscape = rs.Landscape(model, np.ones((1, 4)), np.ones((1, 1)), loss="l1")
    assert not rs.verify(descent.certificate, landscape).valid
    whole = rs.certify(landscape)
    assert not rs.verify(whole, rs.NetworkOutput(model, lower=-1, upper=1)).valid
    with pytest.raises(InputError, match="the NetworkOutput"):
        rs.verify(descent.certificate, model)


# --- the path -----------------------------------------------------------------------------------


def test_the_path_is_told_with_outputs_that_may_be_negative() -> None:
    model = dense((12, 20, 10, 1), seed=1)
    with torch.no_grad():
        model[-1].bias.fill_(-5.0)
    function = rs.NetworkOutput(model, lower=-1, upper=1)
    told: list[str] = []
    descent = rs.descend(
        function, rule="first_kink", progress=lambda what, share: told.append(what)
    )
    check(model, function, descent)
    assert descent.losses[-1] < -5.0
    assert any("output -" in what for what in told)
    assert f"output {descent.losses[0]:.6g} -> {descent.loss:.6g} (" in descent.summary()
    assert "%" not in descent.summary().splitlines()[0]
    half = descent.forecast(0.5)
    assert half.loss <= half.interval[1] <= 0.0
    crossing = replace(descent, losses=descent.losses - descent.losses[len(descent.losses) // 2])
    assert crossing.forecast(0.5).loss < 0.0  # a loss would be held at zero
    figure = descent.plot()
    assert figure.layout.annotations[0].text == "output above its end"
    assert np.isfinite(np.array(figure.data[0].y, dtype=float)).any()
    assert descent.phases().last <= descent.num_pivots


def test_going_on_and_the_same_seed() -> None:
    model = dense((6, 12, 10, 1), seed=3)
    function = rs.NetworkOutput(model, lower=-1, upper=1)
    first = rs.descend(function, max_pivots=3)
    assert (first.status, first.num_pivots) == ("max_pivots", 3)
    second = rs.descend(function, first.theta)
    assert second.loss < first.loss
    assert second.status in MINIMA
    third = rs.descend(function, second.theta)
    np.testing.assert_allclose(third.theta, second.theta, atol=1e-12)
    ends = [rs.descend(function, seed=7) for _ in range(2)]
    assert ends[0].theta.tobytes() == ends[1].theta.tobytes()
    assert ends[0].losses.tobytes() == ends[1].losses.tobytes()
    assert ends[0].certificate.digest == ends[1].certificate.digest


def drawn(seed: int) -> tuple[nn.Module, rs.NetworkOutput, np.ndarray | None]:
    """A random network of depth 1-4 with 1-8 inputs, its bounds and a start."""
    rng = np.random.default_rng(seed)
    depth, size = int(rng.integers(1, 5)), int(rng.integers(1, 9))
    widths = (size, *rng.integers(1, 9, size=depth).tolist(), 1)
    slope = float(rng.choice([0.0, 0.0, 0.0, 0.01, 0.2, 1.5, -1.0]))
    model = dense(widths, seed=seed, slope=slope)
    kind = str(rng.choice(["box", "none", "mixed", "fixed", "whole"]))
    lower, upper = np.full(size, -np.inf), np.full(size, np.inf)
    if kind in ("box", "whole"):
        lower, upper = -rng.uniform(0.1, 3, size), rng.uniform(0.1, 3, size)
    if kind == "whole":  # small integers, so that ties abound
        lower, upper = np.floor(lower), np.ceil(upper)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.round(2 * parameter))
    if kind in ("mixed", "fixed"):
        lower = np.where(rng.random(size) < 0.6, -rng.uniform(0.1, 3, size), -np.inf)
        upper = np.where(rng.random(size) < 0.6, rng.uniform(0.1, 3, size), np.inf)
    if kind == "fixed":
        still = rng.random(size) < 0.4
        lower, upper = np.where(still, 0.3, lower), np.where(still, 0.3, upper)
    function = rs.NetworkOutput(model, lower=lower, upper=upper)
    inside = np.clip(rng.normal(size=size), lower, upper)
    return model, function, inside if rng.random() < 0.7 else None


@pytest.mark.parametrize("seeds", [range(10), pytest.param(range(10, 320), marks=pytest.mark.slow)])
def test_random_networks_end_with_claims_that_hold(seeds: range) -> None:
    ends = []
    for seed in seeds:
        model, function, start = drawn(seed)
        for rule in RULES:
            descent = rs.descend(function, start, rule=rule, max_pivots=5000)
            check(model, function, descent)
            assert descent.status in set(Status)
            ends.append(descent.status)
    settled = sum(end in (*MINIMA, "unbounded") for end in ends)
    assert settled >= 0.95 * len(ends)


def ternary(seed: int) -> tuple[nn.Module, rs.NetworkOutput]:
    """Weights among -2, -1, 0 and 1, bounds among small integers: duplicate, dead and parallel units."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 7))
    widths = (size, *rng.integers(1, 7, size=int(rng.integers(1, 5))).tolist(), 1)
    model = dense(widths, seed=seed, slope=float(rng.choice([0.0, 0.0, 0.5, -1.0, 2.0])))
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = rng.choice([-2.0, -1.0, 0.0, 1.0, 1.0], size=tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(drawn))
    lower = np.where(rng.random(size) < 0.5, -rng.integers(0, 3, size), -np.inf)
    upper = np.where(rng.random(size) < 0.5, rng.integers(0, 3, size), np.inf)
    return model, rs.NetworkOutput(model, lower=lower, upper=upper)


@pytest.mark.parametrize("seeds", [range(15), pytest.param(range(15, 300), marks=pytest.mark.slow)])
def test_small_integer_weights_end_with_claims_that_hold(seeds: range) -> None:
    ends = []
    for seed in seeds:
        model, function = ternary(seed)
        descent = rs.descend(function)
        check(model, function, descent)
        ends.append(descent.status)
    settled = sum(end in (*MINIMA, "unbounded") for end in ends)
    assert settled >= 0.9 * len(ends)


def test_silent_kinks_beside_many_bounds_do_not_spoil_a_certificate() -> None:
    """Twelve bounds are active, and a unit that nothing reads is zero as well: it has no say."""
    model = dense((12, 3, 2, 1), seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
        model[0].weight[0] = 0.0
        model[0].bias[0] = 0.0
        model[2].weight[:, 0] = 0.0
        model[2].weight[0] = 0.0
        model[2].bias[0] = 0.0
        model[4].weight[0, 0] = 0.0
    function = rs.NetworkOutput(model, lower=0, upper=1)
    certificate = rs.certify(function, np.zeros(12))
    assert certificate.claim == "strict_local_minimum"
    assert rs.verify(certificate, function).valid


# ---- density -------------------------------------------------------------------------------------


def test_density_is_the_way_to_the_next_unit_that_switches() -> None:
    """Against the units' signs on a fine grid, computed from the weights alone."""
    model = dense((3, 6, 5, 1), seed=4)
    function = rs.NetworkOutput(model, lower=[-1, -1, 0.25], upper=[1, 1, 0.25])
    descent = rs.descend(function)
    density = descent.density(function, shares=[0.0, 1.0], num_directions=20, seed=3)
    assert density.ways.shape == (2, 20)
    directions = np.random.default_rng(3).normal(size=(20, 3))
    directions[:, 2] = 0.0  # a fixed input stays where it is
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    grid = np.linspace(1e-6, 5.0, 20001)
    for row, pivot in enumerate(density.pivots):
        for way, direction in zip(density.ways[row], directions, strict=True):
            points = torch.tensor(descent.vertices[pivot] + grid[:, None] * direction)
            with torch.no_grad():
                signs = torch.hstack([model[:1](points) > 0, model[:3](points) > 0]).numpy()
            changed = (signs != signs[0]).any(axis=1)
            first = grid[np.argmax(changed)] if changed.any() else np.inf
            assert way == pytest.approx(first, abs=1e-3) or (way >= 5.0 and first == np.inf)
    with pytest.raises(InputError, match="of size 3; received NetworkOutput"):
        descent.density(rs.NetworkOutput(dense((2, 3, 1), seed=0), lower=0, upper=1))


def test_density_without_a_unit_is_endless() -> None:
    function = rs.NetworkOutput(dense((2, 1), seed=0), lower=0, upper=1)
    assert np.isinf(rs.descend(function).density(function).ways).all()
