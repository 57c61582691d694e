"""Segments on which convolutions move: bounds against dense grids of torch's own losses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from nets import dense, randomise, sample
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import reluscape as rs
from reluscape.network import chain, spatial
from reluscape.strings import bounding, moving
from reluscape.strings.judging import Judge
from reluscape.strings.surface import Surface
from reluscape.train import train


class Functional(nn.Module):
    """Pooling and rectifiers as calls, and a reshape by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 3, 2)
        self.head = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = functional.max_pool2d(functional.relu(self.first(x)), 2, stride=1)
        hidden = functional.avg_pool2d(torch.relu(self.second(hidden)), 2)
        hidden = functional.adaptive_avg_pool2d(hidden, 1)
        return self.head(hidden.reshape(hidden.shape[0], -1))


def images(*parts: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Unflatten(1, (1, 6, 6)), *parts)


#: Inputs are 36 numbers, images of 6 x 6.
MODELS = {
    "max pooling": lambda: images(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 2)
    ),
    "overlapping windows": lambda: images(
        nn.Conv2d(1, 2, 3, padding=1), nn.MaxPool2d(3, 2, padding=1, ceil_mode=True), nn.ReLU(),
        nn.Conv2d(2, 3, 2), nn.LeakyReLU(0.2), nn.MaxPool2d(2, 1), nn.Flatten(),
        nn.Linear(12, 2),
    ),
    "stride, dilation, groups": lambda: images(
        nn.Conv2d(1, 4, 3, stride=2, padding=1, bias=False), nn.LeakyReLU(0.1),
        nn.Conv2d(4, 6, 2, dilation=2, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(6, 2),
    ),
    "average pooling": lambda: images(
        nn.Conv2d(1, 3, 3, padding="same"), nn.ReLU(), nn.AvgPool2d(2, padding=1), nn.Dropout2d(),
        nn.Conv2d(3, 2, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, 2),
    ),
    "batch norm": lambda: images(
        nn.BatchNorm2d(1), nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, 2),
    ),
    "one dimension": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 18)), nn.Conv1d(2, 3, 4, stride=2), nn.BatchNorm1d(3), nn.ReLU(),
        nn.MaxPool1d(2), nn.Conv1d(3, 2, 2), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten(),
        nn.Linear(2, 2),
    ),
    "calls": lambda: nn.Sequential(nn.Unflatten(1, (1, 6, 6)), Functional()),
}  # fmt: skip


def landscape_of(name: str, loss: str, *, seed: int, count: int = 6) -> rs.Landscape:
    torch.manual_seed(seed)
    module = MODELS[name]().double()
    inputs, targets = sample(count, 36, 2, loss, seed=seed)
    for _ in range(5):
        module(torch.as_tensor(inputs))
    randomise(module, seed=seed)
    return rs.Landscape(module, inputs, targets, loss=loss, weight_decay=0.01 * seed)


def losses_at(landscape, start, stop, times) -> np.ndarray:
    """Torch's losses at many points of the segment at once."""
    flat, objective = landscape.flat_objective(start)
    way = torch.from_numpy(stop) - flat
    with torch.no_grad():
        many = torch.func.vmap(lambda t: objective(flat + t * way), chunk_size=500)
        return many(torch.from_numpy(times)).numpy()


def check_enclosed(landscape, start, stop, gap=1e-3, points=10_001) -> None:
    losses = losses_at(landscape, start, stop, np.linspace(0.0, 1.0, points))
    found = rs.path_maximum(landscape, start, stop, relative_gap=gap)
    assert found.tier == "certified"
    assert losses.max() <= found.upper <= (1.0 + gap) * found.lower * (1.0 + 1e-9)
    reached = landscape.loss((1.0 - found.position) * start + found.position * stop)
    assert found.lower == pytest.approx(reached, rel=1e-9)
    assert found.lower <= reached


@pytest.mark.parametrize(
    ("loss", "seed"), [("squared", 0), ("squared", 1), ("l1", 0), ("cross_entropy", 1)]
)
@pytest.mark.parametrize("name", MODELS)
def test_no_point_of_a_grid_is_above_the_bound(name, loss, seed):
    landscape = landscape_of(name, loss, seed=seed)
    start, stop = np.random.default_rng(seed).normal(size=(2, landscape.size))
    check_enclosed(landscape, start, (1.0, 0.3)[seed] * stop)


@pytest.mark.parametrize("name", ["max pooling", "overlapping windows"])
def test_degenerate_ends_are_enclosed(name):
    """Through zero; nothing moves; all inputs of a window alike; dead channels; one number moves."""
    landscape = landscape_of(name, "squared", seed=0)
    a, b = np.random.default_rng(0).normal(size=(2, landscape.size))
    (weights,) = (
        p.numel() for key, p in landscape.module_at().named_parameters() if key == "1.weight"
    )
    tied, dead, nudged = a.copy(), a.copy(), a.copy()
    tied[:weights] = 0.0  # every place has its channel's bias
    dead[weights] = -1e3
    nudged[0] += 1.0
    for start, stop in [
        (a, -a),
        (a, a),
        (0 * a, a),
        (tied, b),
        (tied, 2 * tied),
        (dead, dead + b),
        (a, nudged),
    ]:
        check_enclosed(landscape, start, stop, points=1001)  # fmt: skip


def test_a_pooled_maximum_by_hand():
    """One sample (1, -1), weight w, max over both places: |w|, so that the loss is w^2, 4 at w = -2."""
    model = nn.Sequential(nn.Conv1d(1, 1, 1, bias=False), nn.MaxPool1d(2), nn.Flatten()).double()
    landscape = rs.Landscape(model, np.array([[[1.0, -1.0]]]), np.zeros((1, 1)))
    found = rs.path_maximum(landscape, [-2.0], [1.0], relative_gap=1e-6)
    assert found.tier == "certified"
    assert found.position == 0.0
    assert found.lower == pytest.approx(4.0, rel=1e-12)
    assert 4.0 <= found.upper <= 4.0 * (1.0 + 2e-6)


@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
def test_convolutions_of_one_place_are_dense_layers(loss):
    """The same numbers as Linear layers and as 1 x 1 convolutions: the same bounds."""
    plain = dense((3, 5, 4, 2), seed=0)
    parts = [
        nn.Conv2d(one.in_features, one.out_features, 1) if isinstance(one, nn.Linear) else one
        for one in plain
    ]
    spatial_model = nn.Sequential(nn.Unflatten(1, (3, 1, 1)), *parts, nn.Flatten()).double()
    inputs, targets = sample(9, 3, 2, loss, seed=0)
    models = (plain, spatial_model)
    first, second = (rs.Landscape(model, inputs, targets, loss=loss) for model in models)
    ends = np.random.default_rng(0).normal(size=(2, first.size))
    one, other = (rs.path_maximum(landscape, *ends) for landscape in (first, second))
    assert one.tier == other.tier == "certified"
    assert one.upper == pytest.approx(other.upper, rel=1e-12)
    assert one.lower == pytest.approx(other.lower, rel=1e-12)


def test_parts_of_the_samples_change_nothing(monkeypatch):
    """However many samples go through the network at once, and whether a few are looked at first."""
    landscape = landscape_of("max pooling", "cross_entropy", seed=1, count=150)
    ends = np.random.default_rng(0).normal(size=(2, landscape.size))
    whole = rs.path_maximum(landscape, *ends)
    for module in (chain, spatial, bounding, moving):
        monkeypatch.setattr(module, "NUMBERS", 500)
    parts = rs.path_maximum(landscape, *ends)
    assert parts.upper == pytest.approx(whole.upper, rel=1e-12)
    check_enclosed(landscape, *ends, points=1001)


def test_a_network_is_read_once_for_all_segments(monkeypatch):
    landscape = landscape_of("max pooling", "squared", seed=0)
    ends = np.random.default_rng(0).normal(size=(3, landscape.size))
    rs.path_maximum(landscape, ends[0], ends[1])
    monkeypatch.setattr(chain, "read_tail", lambda *_: pytest.fail("read again"))
    assert rs.path_maximum(landscape, ends[1], ends[2]).tier == "certified"


def test_convolutions_that_stay_are_run_once():
    """Where only layers behind them move, those alone are bounded: exactly with one hidden layer."""
    torch.manual_seed(0)
    head = [nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 2)]
    model = images(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), *head)
    inputs, targets = sample(6, 36, 2, "squared", seed=0)
    landscape = rs.Landscape(model, inputs, targets)
    start, stop = np.random.default_rng(0).normal(size=(2, landscape.size))
    stop[:30] = start[:30]
    found = rs.path_maximum(landscape, start, stop)
    assert found.tier == "exact"
    assert losses_at(landscape, start, stop, np.linspace(0.0, 1.0, 1001)).max() <= found.upper
    stop[0] += 1.0
    check_enclosed(landscape, start, stop, points=1001)


class Square(nn.Module):
    """What no number is affine in."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x


def squared(module: nn.Module) -> nn.Module:
    return nn.utils.parametrize.register_parametrization(module, "weight", Square())


class Residual(nn.Module):
    """Joins two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


@pytest.mark.parametrize(
    "part",
    [
        nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"),
        squared(nn.Conv2d(1, 1, 3, padding=1)),
        nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Tanh()),
        nn.ConvTranspose2d(1, 1, 3, padding=1),
        nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1, track_running_stats=False)),
        Residual(),
    ],
    ids=["circular", "re-parametrised", "tanh", "transposed", "own statistics", "residual"],
)
def test_what_is_no_chain_is_sampled(part):
    model = images(part, nn.ReLU(), nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
    inputs, targets = sample(6, 36, 2, "squared", seed=0)
    landscape = rs.Landscape(model.double(), inputs, targets)
    start, stop = np.random.default_rng(0).normal(size=(2, landscape.size))
    assert rs.path_maximum(landscape, start, stop).tier == "sampled"
    before = sum(p.numel() for p in part.parameters())
    stop[:before] = start[:before]
    check_enclosed(landscape, start, stop, points=1001)


@pytest.mark.parametrize(
    "pool", [nn.MaxPool2d(2), nn.MaxPool2d((1, 2)), nn.AdaptiveMaxPool2d((2, 3)), nn.AvgPool2d(2)]
)
def test_images_without_an_axis_of_channels_are_sampled(pool):
    """Torch takes (samples, places, places) for the channels of a single sample."""
    inputs, targets = sample(6, 36, 2, "squared", seed=0)
    width = pool(torch.zeros(1, 4, 9)).numel()
    model = nn.Sequential(
        nn.Linear(36, 36), nn.Unflatten(1, (4, 9)), pool, nn.Flatten(), nn.Linear(width, 2)
    )
    landscape = rs.Landscape(model.double(), inputs, targets)
    start, stop = np.random.default_rng(0).normal(size=(2, landscape.size))
    assert rs.path_maximum(landscape, start, stop).tier == "sampled"
    stop[: 37 * 36] = start[: 37 * 36]
    assert rs.path_maximum(landscape, start, stop).tier == "certified"


def test_scaled_channels_that_are_computed_are_sampled():
    """A batch norm whose weight is a parameter's square is not affine in that parameter."""
    norm = squared(nn.BatchNorm2d(1))
    model = images(nn.Conv2d(1, 1, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    inputs, targets = sample(6, 36, 2, "squared", seed=0)
    landscape = rs.Landscape(model.double(), inputs, targets)
    start, stop = np.random.default_rng(0).normal(size=(2, landscape.size))
    assert rs.path_maximum(landscape, start, stop).tier == "sampled"


def convnet(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    first = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 10)]
    return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), *first).double()


def test_curves_of_large_networks_are_the_losses_of_batches():
    landscape = landscape_of("max pooling", "cross_entropy", seed=0)
    ends = np.random.default_rng(0).normal(size=(2, 3, landscape.size))
    surface = Surface(landscape)
    judge = Judge(surface, 1.0, 1e-3)
    batched, counted = judge.curves(*ends), surface.losses
    surface.small = False
    np.testing.assert_allclose(judge.curves(*ends), batched, rtol=1e-12)
    assert surface.losses == 2 * counted


def test_two_convnets_are_joined_with_a_proof():
    inputs, labels = load_digits(return_X_y=True)
    inputs, labels = inputs[:100] / 16.0, labels[:100]
    models = [convnet(seed) for seed in (0, 1)]
    for seed, model in enumerate(models):
        train(model, inputs, labels, loss="cross_entropy", epochs=40, batch_size=20, rate=0.01,
              seed=seed)  # fmt: skip
    landscape = rs.Landscape(models[0], inputs, labels, loss="cross_entropy")
    found = rs.connect(landscape, *models, 0.2, relative_gap=0.1)
    assert (found.status, found.tier) == ("connected", "certified")
    assert found.straight_lower > 2.0 * 0.2
    for start, stop in zip(found.beads[:-1], found.beads[1:], strict=True):
        assert losses_at(landscape, start, stop, np.linspace(0.0, 1.0, 301)).max() <= 0.2
    checked = rs.verify(found, landscape)
    assert checked.valid, checked.reason
    lowered = rs.verify(replace(found, upper=found.upper * 0.9), landscape)
    assert not lowered.valid
