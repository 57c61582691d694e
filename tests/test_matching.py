"""Matching of units against shuffled copies and all permutations of small layers."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from nets import dense, randomise
from torch import nn

import reluscape as rs
from reluscape.errors import InputError, UnsupportedModelError


def flat(module) -> np.ndarray:
    return np.concatenate([p.detach().double().numpy().ravel() for p in module.parameters()])


def conv_net(seed: int) -> nn.Sequential:
    """Convolutions with batch norm and pooling, flattened with several places a channel."""
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(20, 6),
        nn.BatchNorm1d(6),
        nn.Tanh(),
        nn.Linear(6, 3),
    ).double()
    randomise(module, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for buffer in module.buffers():
        if buffer.is_floating_point():
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return module.eval()


def shuffled(module: nn.Sequential, seed: int) -> None:
    """Permute the hidden units of a convolutional net in place, layer by layer and by hand."""
    rng = np.random.default_rng(seed)
    one, two, three = (torch.from_numpy(rng.permutation(n)) for n in (4, 5, 6))
    with torch.no_grad():
        for layer, rows in ((0, one), (1, one), (4, two), (7, three), (8, three)):
            for tensor in (*module[layer].parameters(), *module[layer].buffers()):
                if tensor.ndim:
                    tensor.copy_(tensor[rows].clone())
        module[4].weight.copy_(module[4].weight[:, one].clone())
        places = (4 * two[:, None] + torch.arange(4)).flatten()
        module[7].weight.copy_(module[7].weight[:, places].clone())
        module[10].weight.copy_(module[10].weight[:, three].clone())


def images(count: int = 7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 1, 8, 8)), rng.integers(0, 3, size=count)


def mlp_landscape(widths, seed=0) -> rs.Landscape:
    rng = np.random.default_rng(seed)
    inputs, targets = rng.normal(size=(6, widths[0])), rng.normal(size=(6, widths[-1]))
    return rs.Landscape(dense(widths, seed=seed), inputs, targets)


@pytest.mark.parametrize("seed", range(5))
def test_a_shuffled_model_is_put_back(seed):
    landscape = mlp_landscape((3, 6, 5, 2), seed)
    module = dense((3, 6, 5, 2), seed=seed)
    rng = np.random.default_rng(seed)
    one, two = rng.permutation(6), rng.permutation(5)
    with torch.no_grad():
        module[0].weight.copy_(module[0].weight[one].clone())
        module[0].bias.copy_(module[0].bias[one].clone())
        module[2].weight.copy_(module[2].weight[two][:, one].clone())
        module[2].bias.copy_(module[2].bias[two].clone())
        module[4].weight.copy_(module[4].weight[:, two].clone())
    found = rs.match_units(landscape, landscape.theta, flat(module))
    np.testing.assert_array_equal(found.theta, landscape.theta)
    assert found.distance == 0.0 < found.distance_before
    assert found.layers == ("0", "2")
    np.testing.assert_array_equal(one[list(found.permutations[0])], np.arange(6))


@pytest.mark.parametrize("seed", range(5))
def test_one_hidden_layer_is_matched_best_of_all(seed):
    landscape = mlp_landscape((2, 4, 2), seed)
    other = dense((2, 4, 2), seed=seed + 100)
    found = rs.match_units(landscape, landscape.theta, flat(other))
    distances = []
    for order in permutations(range(4)):
        rows = list(order)
        parts = [
            other[0].weight[rows],
            other[0].bias[rows],
            other[2].weight[:, rows],
            other[2].bias,
        ]
        moved = np.concatenate([part.detach().numpy().ravel() for part in parts])
        distances.append(np.linalg.norm(landscape.theta - moved))
    assert found.distance == pytest.approx(min(distances), rel=1e-12)
    assert found.distance_before == pytest.approx(distances[0], rel=1e-12)
    at = [landscape.module_at(theta) for theta in (found.theta, flat(other))]
    inputs = torch.from_numpy(landscape.inputs)
    assert torch.allclose(at[0](inputs), at[1](inputs), atol=1e-12)


class Prepared(nn.Module):
    """What is done to the inputs before the first layer has no units: branches are allowed there."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.register_buffer("mean", torch.full((3,), 0.5, dtype=torch.float64))

    def forward(self, x):
        return self.inner((x - self.mean) / (x.std(dim=1, keepdim=True) + 1.0))


def test_inputs_may_be_normalised_before():
    inner = dense((3, 6, 5, 2), seed=0)
    module = Prepared(inner)
    landscape = rs.Landscape(module, np.arange(18.0).reshape(6, 3) ** 2, np.ones((6, 2)))
    order = np.random.default_rng(0).permutation(6)
    start = landscape.theta
    with torch.no_grad():
        inner[0].weight.copy_(inner[0].weight[order].clone())
        inner[0].bias.copy_(inner[0].bias[order].clone())
        inner[2].weight.copy_(inner[2].weight[:, order].clone())
    found = rs.match_units(landscape, start, flat(module))
    np.testing.assert_array_equal(found.theta, start)
    assert found.layers == ("inner.0", "inner.2")


def test_convolutions_carry_batch_norm_and_places_along():
    module = conv_net(0)
    landscape = rs.Landscape(module, *images(), loss="cross_entropy")
    other = conv_net(0)
    shuffled(other, 1)
    inputs = torch.from_numpy(landscape.inputs)
    assert torch.allclose(other(inputs), module(inputs), atol=1e-12)
    buffers = np.concatenate([b.double().numpy().ravel() for b in other.buffers()])
    found = rs.match_units(landscape, landscape.theta, flat(other), buffers=buffers)
    np.testing.assert_array_equal(found.theta, landscape.theta)
    own = np.concatenate([b.double().numpy().ravel() for b in module.buffers()])
    np.testing.assert_array_equal(found.buffers, own)
    assert found.change < 1e-12


def test_matching_lowers_the_distance_of_any_two_convnets():
    landscape = rs.Landscape(conv_net(0), *images(), loss="cross_entropy")
    found = rs.match_units(landscape, landscape.theta, flat(conv_net(1)))
    assert found.distance < found.distance_before
    assert found.change < 1e-12
    assert 1 < found.rounds < 100


class Branched(nn.Module):
    """A residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(2, 2), nn.Linear(2, 1)

    def forward(self, x):
        return self.two(torch.relu(self.one(x)) + x)


@pytest.mark.parametrize(
    "module", [Branched(), nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1))]
)
def test_what_is_no_chain_is_refused(module):
    landscape = rs.Landscape(module, np.ones((3, 2)), np.ones((3, 1)))
    with pytest.raises(UnsupportedModelError, match="connect without matching"):
        rs.match_units(landscape, landscape.theta, landscape.theta)


@pytest.mark.parametrize("pool", [nn.AvgPool1d(3, stride=1, padding=1), nn.MaxPool1d(2)])
def test_units_that_are_mixed_on_the_way_are_refused(pool):
    """Units in pairs as if they were places: averages of neighbours, or fewer values than units."""
    width = 4 if isinstance(pool, nn.AvgPool1d) else 2
    module = nn.Sequential(
        nn.Linear(2, 4), nn.Unflatten(1, (2, 2)), pool, nn.Flatten(), nn.Linear(width, 1)
    ).double()
    landscape = rs.Landscape(module, np.random.default_rng(0).normal(size=(4, 2)), np.ones((4, 1)))
    parts = np.split(landscape.theta, [8, 12, 12 + width])
    other = np.concatenate([np.roll(parts[0], 2), *(np.roll(one, 1) for one in parts[1:])])
    with pytest.raises(UnsupportedModelError, match="connect without matching"):
        rs.match_units(landscape, landscape.theta, other)


def test_wrong_shapes_are_refused():
    landscape = mlp_landscape((2, 3, 1))
    with pytest.raises(InputError, match="shape"):
        rs.match_units(landscape, landscape.theta, landscape.theta[1:])
    with pytest.raises(InputError, match="shape"):
        rs.match_units(landscape, landscape.theta, landscape.theta, buffers=np.ones(2))


def test_results_are_saved_and_drawn(tmp_path):
    landscape = mlp_landscape((2, 4, 3, 1))
    found = rs.match_units(landscape, landscape.theta, flat(dense((2, 4, 3, 1), seed=9)))
    loaded = rs.MatchedUnits.load(found.save(tmp_path / "matched.nc"))
    assert loaded.summary() == found.summary()
    np.testing.assert_array_equal(loaded.theta, found.theta)
    assert tuple(found.plot().data[0].y) == found.permutations[0]
