"""Landscapes and blocks against formulas written out in torch, hooks and autograd."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import LOSSES, Layer, dense, loss_of, randomise, sample
from torch import nn
from torch.nn.utils import prune

import reluscape
from reluscape import certify, verify
from reluscape.errors import InputError, UnsupportedModelError
from reluscape.landscape import Landscape


def flat(module: nn.Module) -> np.ndarray:
    return np.concatenate([p.detach().double().numpy().ravel() for p in module.parameters()])


def by_torch(module, inputs, targets, loss, decay=0.0):
    """Loss and gradient of a copy of the module in float64 and eval mode."""
    module = copy.deepcopy(module).double().eval()
    outputs = module(torch.from_numpy(np.asarray(inputs, dtype=np.float64)))
    value = loss_of(loss, outputs, targets)
    value = value + decay / 2 * sum((p**2).sum() for p in module.parameters())
    gradients = torch.autograd.grad(value, list(module.parameters()))
    return value.item(), np.concatenate([g.numpy().ravel() for g in gradients])


# --- the whole landscape -------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_and_gradient_are_torchs(loss, decay):
    module = dense((3, 5, 4, 2), seed=1)
    inputs, targets = sample(9, 3, 2, loss, seed=2)
    landscape = Landscape(module, inputs, targets, loss=loss, weight_decay=decay)
    value, gradient = by_torch(module, inputs, targets, loss, decay)
    assert landscape.loss() == pytest.approx(value, rel=1e-13)
    np.testing.assert_allclose(landscape.gradient(), gradient, atol=1e-13)
    theta = np.random.default_rng(3).normal(size=landscape.size)
    torch.nn.utils.vector_to_parameters(torch.from_numpy(theta), module.parameters())
    value, gradient = by_torch(module, inputs, targets, loss, decay)
    assert landscape.loss(theta) == pytest.approx(value, rel=1e-13)
    np.testing.assert_allclose(landscape.gradient(theta), gradient, rtol=1e-12, atol=1e-12)


def test_loss_by_hand_with_decay_on_the_bias_too():
    """f = 2 x + 1 at x = 1, 3 against 2, 8: residuals 1, -1; ||theta||^2 = 5."""
    module = nn.Linear(1, 1)
    with torch.no_grad():
        module.weight.fill_(2.0)
        module.bias.fill_(1.0)
    data = np.array([[1.0], [3.0]]), np.array([2.0, 8.0])
    assert Landscape(module, *data, weight_decay=0.4).loss() == pytest.approx(1.0 + 1.0)
    assert Landscape(module, *data, loss="half_squared").loss() == pytest.approx(0.5)
    assert Landscape(module, *data, loss="l1").loss() == pytest.approx(1.0)
    # d/dw = sum r x = 1 - 3, d/db = 0, and the decay's 0.4 (2, 1)
    gradient = Landscape(module, *data, weight_decay=0.4).gradient()
    np.testing.assert_allclose(gradient, [-2.0 + 0.8, 0.4])


@pytest.mark.parametrize("loss", LOSSES)
def test_hessian_is_autograds(loss):
    module = dense((2, 3, 2), seed=4)
    inputs, targets = sample(5, 2, 2, loss, seed=4)
    landscape = Landscape(module, inputs, targets, loss=loss, weight_decay=0.1)

    def objective(vector):
        w1, b1, w2, b2 = torch.split(vector, [6, 3, 6, 2])
        hidden = torch.relu(torch.from_numpy(inputs) @ w1.view(3, 2).T + b1)
        value = loss_of(loss, hidden @ w2.view(2, 3).T + b2, targets)
        return value + 0.05 * (vector**2).sum()

    expected = torch.autograd.functional.hessian(objective, torch.from_numpy(flat(module)))
    np.testing.assert_allclose(landscape.hessian(), expected.numpy(), atol=1e-12)


def test_theta_is_in_the_order_of_parameters():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(3, 1)
            self.first = nn.Linear(2, 3)

        def forward(self, x):
            return self.last(torch.relu(self.first(x)))

    module = Backwards().double()
    randomise(module, seed=5)
    landscape = Landscape(module, *sample(4, 2, 1, "squared", seed=0))
    np.testing.assert_array_equal(landscape.theta, flat(module))
    assert landscape.layers == ("first", "last")
    block = landscape.block("first")
    np.testing.assert_array_equal(block.theta, landscape.theta[4:])
    np.testing.assert_array_equal(landscape.positions("first"), np.arange(4, 13))
    direction = np.arange(1.0, 10.0)
    np.testing.assert_array_equal(block.embed(direction), np.append(np.zeros(4), direction))


def test_batch_norm_and_dropout_are_in_eval_mode():
    module = nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2)
    ).double()
    randomise(module, seed=6)
    inputs, targets = sample(8, 3, 2, "squared", seed=6)
    module.train()
    module(torch.from_numpy(inputs))  # moves the running statistics
    landscape = Landscape(module, inputs, targets)
    value, gradient = by_torch(module, inputs, targets, "squared")
    assert landscape.loss() == pytest.approx(value, rel=1e-13)
    np.testing.assert_allclose(landscape.gradient(), gradient, atol=1e-12)
    for layer in ("0", "4"):
        assert landscape.block(layer).loss() == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_users_module_is_left_bit_by_bit_as_it_was(training, dtype):
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    module = module.to(dtype).train(training)
    module[0].weight.requires_grad_(False)
    module[3].weight.grad = torch.ones_like(module[3].weight)
    before = copy.deepcopy(module.state_dict())
    inputs, targets = sample(5, 3, 2, "squared", seed=0)
    kept = inputs.copy(), targets.copy()
    landscape = Landscape(module, inputs, targets, weight_decay=0.1)
    landscape.gradient(landscape.theta + 1.0)
    landscape.hessian()
    landscape.block(0).cell().facets()
    landscape.module_at(landscape.theta * 2)
    for name, value in module.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])
    assert all(part.training == training for part in module.modules())
    assert [p.requires_grad for p in module.parameters()] == [False, True, True, True, True, True]
    assert torch.equal(module[3].weight.grad, torch.ones_like(module[3].weight))
    assert module[3].bias.grad is None
    assert not any(part._forward_hooks for part in module.modules())
    np.testing.assert_array_equal(inputs, kept[0])
    np.testing.assert_array_equal(targets, kept[1])


def test_later_changes_of_the_users_module_or_data_do_not_matter():
    module = dense((2, 3, 1), seed=0)
    inputs, targets = sample(4, 2, 1, "squared", seed=0)
    landscape = Landscape(module, inputs, targets)
    value = landscape.loss()
    with torch.no_grad():
        module[0].weight.zero_()
    inputs[:] = 0.0
    targets[:] = 0.0
    assert landscape.loss() == value
    assert landscape.block(0).loss() == pytest.approx(value, rel=1e-14)


def test_frozen_parameters_count_too():
    module = dense((2, 3, 1), seed=0)
    inputs, targets = sample(4, 2, 1, "squared", seed=0)
    expected = by_torch(module, inputs, targets, "squared")
    module[0].requires_grad_(False)
    landscape = Landscape(module, inputs, targets)
    np.testing.assert_allclose(landscape.gradient(), expected[1], atol=1e-13)


def test_a_float32_model_is_taken_as_the_float64_numbers_it_holds():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    inputs, targets = sample(6, 3, 2, "l1", seed=1)
    landscape = Landscape(module, inputs.astype(np.float32), targets.astype(np.float32), loss="l1")
    inputs, targets = inputs.astype(np.float32), targets.astype(np.float32)
    value, gradient = by_torch(module, inputs, targets.astype(np.float64), "l1")
    assert landscape.theta.dtype == np.float64
    assert landscape.loss() == pytest.approx(value, rel=1e-14)
    np.testing.assert_allclose(landscape.gradient(), gradient, atol=1e-14)
    assert landscape.block(0).loss() == pytest.approx(value, rel=1e-13)


@pytest.mark.parametrize(
    "convert",
    [
        torch.tensor,
        lambda a: torch.tensor(a, requires_grad=a.dtype == np.float64),
        np.asfortranarray,
        lambda a: a.tolist(),
    ],
    ids=["tensor", "with grad", "fortran", "list"],
)
def test_data_may_be_tensors_arrays_or_lists(convert):
    module = dense((3, 4, 2), seed=0)
    inputs, targets = sample(6, 3, 2, "cross_entropy", seed=1)
    plain = Landscape(module, inputs, targets, loss="cross_entropy")
    other = Landscape(module, convert(inputs), convert(targets), loss="cross_entropy")
    assert other.loss() == plain.loss()


def test_integer_data_are_numbers():
    module = dense((2, 3, 1), seed=0)
    inputs, targets = np.array([[1, 2], [3, -4]]), np.array([1, 0])
    landscape = Landscape(module, inputs, targets)
    assert landscape.loss() == Landscape(module, inputs.astype(float), targets.astype(float)).loss()


@pytest.mark.parametrize("kind", ["read-only", "reversed", "strided", "list"])
def test_theta_may_be_any_array(kind):
    landscape = Landscape(dense((2, 3, 1), seed=0), *sample(4, 2, 1, "squared", seed=0))
    theta = np.linspace(-1, 1, landscape.size)
    other = theta.copy()
    if kind == "read-only":
        other.flags.writeable = False
    other = {"reversed": theta[::-1].copy()[::-1], "strided": np.repeat(theta, 2)[::2]}.get(
        kind, other
    )
    other = theta.tolist() if kind == "list" else other
    assert landscape.loss(other) == landscape.loss(theta)
    np.testing.assert_array_equal(landscape.gradient(other), landscape.gradient(theta))
    landscape.module_at(other)
    part = landscape.positions("0")
    block = landscape.block(0)
    assert block.loss(np.asarray(other)[part]) == block.loss(theta[part])


def test_a_single_layers_own_theta_fits_its_landscape():
    landscape = Landscape(nn.Linear(2, 1).double(), *sample(4, 2, 1, "squared", seed=0))
    block = landscape.block(0)
    assert landscape.layers == ("",)
    assert landscape.loss(block.theta) == pytest.approx(block.loss(), rel=1e-14)


def test_module_at_and_at_move_the_model():
    landscape = Landscape(
        dense((2, 3, 2), seed=0), *sample(4, 2, 2, "l1", seed=0), loss="l1", weight_decay=0.2
    )
    theta = np.random.default_rng(1).normal(size=landscape.size)
    module = landscape.module_at(theta)
    np.testing.assert_array_equal(flat(module), theta)
    np.testing.assert_array_equal(flat(landscape.module_at()), landscape.theta)
    moved = landscape.at(theta)
    np.testing.assert_array_equal(moved.theta, theta)
    assert moved.loss() == landscape.loss(theta)
    assert (moved.loss_name, moved.weight_decay) == ("l1", 0.2)
    np.testing.assert_array_equal(moved.inputs, landscape.inputs)
    np.testing.assert_array_equal(moved.targets, landscape.targets)
    assert landscape.loss() != moved.loss()


def test_theta_is_a_fresh_array():
    landscape = Landscape(dense((2, 3, 1), seed=0), *sample(4, 2, 1, "squared", seed=0))
    before = landscape.loss()
    landscape.theta[:] = 7.0
    assert landscape.loss() == before
    assert not landscape.block(0).theta.flags.writeable


def test_repr_is_one_line():
    landscape = Landscape(dense((2, 3, 1), seed=0), *sample(4, 2, 1, "squared", seed=0))
    assert repr(landscape) == (
        "Landscape(13 parameters, 4 samples, loss='squared', layers=['0', '2'])"
    )
    assert repr(landscape.block(0)) == "Block('0', 9 parameters, 12 kinks, loss='squared')"
    assert (landscape.num_samples, landscape.num_outputs, landscape.size) == (4, 1, 13)


# --- bad input -----------------------------------------------------------------------------------


class Random(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, x):
        return self.layer(x) + torch.rand(())


class Returns(nn.Module):
    """A model that returns `function(x, layer)`."""

    def __init__(self, function):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.function = function

    def forward(self, x):
        return self.function(x, self.layer)


def spoiled(value):
    module = dense((2, 3, 1), seed=0)
    with torch.no_grad():
        module[2].weight[0, 1] = value
    return module


def overflowing():
    module = nn.Linear(2, 1).double()
    nn.init.constant_(module.weight, 1e308)
    return module


X, Y = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.array([1.0, 2.0, 3.0])
LABELS = np.array([0, 1, 0])


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"inputs": [[1.0, np.nan], [3, 4], [5, 6]]}, "first at sample 0, feature 1"),
        ({"inputs": [[1.0, 2], [np.inf, 4], [5, 6]]}, "first at sample 1, feature 0"),
        ({"inputs": np.empty((0, 2)), "targets": []}, "at least one of each"),
        ({"inputs": np.empty((3, 0))}, "at least one of each"),
        ({"inputs": [1.0, 2.0, 3.0]}, r"shape \(samples, features\)"),
        ({"inputs": 5.0}, r"shape \(samples, features\)"),
        ({"inputs": np.ones((3, 4))}, "its forward failed"),
        ({"inputs": [["a", "b"], ["c", "d"], ["e", "f"]]}, "real numbers"),
        ({"inputs": [[1j, 2], [3, 4], [5, 6]]}, "real numbers"),
        ({"inputs": torch.ones(3, 2, dtype=torch.complex128)}, "real numbers"),
        ({"inputs": [[1.0, 2.0], [3.0]]}, "inputs|data|shape"),
        ({"inputs": [[1.0, None], [3.0, 4.0], [5.0, 6.0]]}, "real numbers"),
        ({"inputs": None}, "real numbers"),
        ({"targets": [1.0, 2.0]}, "3 inputs and 2 targets"),
        ({"targets": [1.0, np.nan, 3.0]}, "targets must be finite"),
        ({"targets": [1.0, np.inf, 3.0]}, "targets must be finite"),
        ({"targets": ["a", "b", "c"]}, "real numbers"),
        ({"targets": np.ones((3, 2))}, r"must have shape \(3, 1\)"),
        ({"targets": 1.0}, "targets"),
        ({"targets": None}, "real numbers"),
        ({"loss": "mse"}, "loss must be one of"),
        ({"loss": "cross_entropy", "targets": LABELS}, "at least 2 outputs"),
        ({"loss": "cross_entropy", "model": nn.Linear(2, 2), "targets": [0, 1, 2]}, r"0\.\.1"),
        ({"loss": "cross_entropy", "model": nn.Linear(2, 2), "targets": [0, -1, 1]}, "-1"),
        ({"loss": "cross_entropy", "model": nn.Linear(2, 2), "targets": [0, 0.5, 1]}, "integer"),
        ({"weight_decay": -0.1}, "weight_decay must be"),
        ({"weight_decay": np.nan}, "weight_decay must be"),
        ({"weight_decay": np.inf}, "weight_decay must be"),
        ({"weight_decay": "much"}, "weight_decay must be"),
        ({"weight_decay": None}, "weight_decay must be"),
        ({"model": nn.Linear}, "not its class"),
        ({"model": {"weight": 1}}, r"torch\.nn\.Module"),
        ({"model": nn.ReLU()}, "parameters"),
        ({"model": spoiled(np.nan)}, r"'2\.weight'"),
        ({"model": spoiled(np.inf)}, r"'2\.weight'"),
        ({"model": overflowing()}, "at most 1e.50"),
        ({"model": Random()}, "deterministic"),
        ({"model": Returns(lambda x, f: f(x)[:, :, None].expand(-1, 1, 2))}, "flatten or pool"),
        ({"model": Returns(lambda x, f: f(x).sum())}, "one row of outputs per sample"),
        ({"model": Returns(lambda x, f: f(x)[:2])}, "one row of outputs per sample"),
        ({"model": Returns(lambda x, f: (f(x), x))}, "received tuple"),
        ({"model": Returns(lambda x, f: f(x.float()))}, "its forward failed"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(changes, match):
    given_ = {"model": dense((2, 3, 1), seed=0), "inputs": X, "targets": Y} | changes
    model, inputs, targets = (given_.pop(name) for name in ("model", "inputs", "targets"))
    with pytest.raises(InputError, match=match) as caught:
        Landscape(model, inputs, targets, **given_)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) > 20


@pytest.mark.parametrize("theta", [np.zeros(3), np.zeros((1, 13)), np.full(13, np.nan), 0.0, "abc"])
def test_bad_theta_is_one_line(theta):
    landscape = Landscape(dense((2, 3, 1), seed=0), X, Y)
    for ask in (landscape.loss, landscape.gradient, landscape.module_at, landscape.at):
        with pytest.raises(InputError, match="theta must"):
            ask(theta)
    block = landscape.block(0)
    for ask in (block.loss, block.gradient, block.kinks, block.pattern, block.cell):
        with pytest.raises(InputError, match="theta must"):
            ask(theta)


# --- blocks --------------------------------------------------------------------------------------


def test_blocks_by_index_name_and_negative_index():
    landscape = Landscape(dense((2, 3, 2, 1), seed=0), X, Y)
    assert landscape.layers == ("0", "2", "4")
    for index, name in enumerate(landscape.layers):
        for key in (index, index - 3, name, np.int64(index)):
            block = landscape.block(key)
            assert (block.layer, block.index) == (name, index)
    assert landscape.block(1).size == 3 * 2 + 2


@pytest.mark.parametrize("layer", [3, -4, True, 1.5, None])
def test_a_wrong_index_names_the_layers(layer):
    with pytest.raises(InputError, match=r"0\.\.2 or one of '0', '2', '4'; received"):
        Landscape(dense((2, 3, 2, 1), seed=0), X, Y).block(layer)


@pytest.mark.parametrize("layer", ["1", "", "head"])
def test_a_wrong_name_names_the_layers(layer):
    with pytest.raises(InputError, match=f"one of '0', '2', '4'; received '{layer}'"):
        Landscape(dense((2, 3, 2, 1), seed=0), X, Y).block(layer)


class Convnet(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))

    def forward(self, x):
        return self.head(self.body(x))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
        self.head = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))

    def forward(self, x):
        return self.head(self.body(x).mean(dim=1))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("build", "shape", "outputs"), [(Convnet, (7, 1, 6, 6), 3), (Transformer, (7, 5, 6), 2)]
)
def test_the_head_of_any_network_is_a_block(build, shape, outputs, loss):
    torch.manual_seed(0)
    rng = np.random.default_rng(1)
    inputs, targets = rng.normal(size=shape), sample(7, 1, outputs, loss, seed=2)[1]
    module = build()
    landscape = Landscape(module, inputs, targets, loss=loss, weight_decay=0.01)
    assert landscape.layers == ("head.0", "head.2")
    for name in landscape.layers:
        block = landscape.block(name)
        assert block.loss() == pytest.approx(landscape.loss(), rel=1e-12)
        moved = landscape.theta
        moved[landscape.positions(name)] = theta = rng.normal(size=block.size)
        assert block.loss(theta) == pytest.approx(landscape.loss(moved), rel=1e-12)
        gradient = landscape.gradient(moved)[landscape.positions(name)]
        np.testing.assert_allclose(block.gradient(theta), gradient, atol=1e-12)
    with pytest.raises(InputError, match="received 'body"):
        landscape.block("body.0")


def test_an_unreadable_model_is_still_a_landscape():
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh()).double()
    inputs, targets = sample(4, 2, 3, "squared", seed=0)
    landscape = Landscape(module, inputs, targets)
    value, gradient = by_torch(module, inputs, targets, "squared")
    assert landscape.loss() == pytest.approx(value, rel=1e-14)
    np.testing.assert_allclose(landscape.gradient(), gradient, atol=1e-14)
    assert landscape.reading is None
    assert landscape.layers == ()
    with pytest.raises(UnsupportedModelError) as caught:
        landscape.block(0)
    assert "\n" not in str(caught.value)


def test_tied_weights_are_refused_as_a_block_but_not_as_a_landscape():
    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    module[2].weight = module[0].weight
    inputs, targets = sample(4, 2, 2, "squared", seed=0)
    landscape = Landscape(module, inputs, targets)
    assert landscape.size == 8
    value, gradient = by_torch(module, inputs, targets, "squared")
    assert landscape.loss() == pytest.approx(value, rel=1e-14)
    np.testing.assert_allclose(landscape.gradient(), gradient, atol=1e-13)
    moved = landscape.at(landscape.theta + 1.0)
    assert moved.size == 8
    for layer in (0, 1):
        with pytest.raises(UnsupportedModelError, match=r"own its weight|shares its weights"):
            landscape.block(layer)


def test_kinks_are_numbered_group_by_group_and_sample_by_sample():
    module = dense((2, 3, 4, 2), seed=3)
    inputs, targets = sample(5, 2, 2, "l1", seed=3)
    caught: dict[int, np.ndarray] = {}
    hooks = [
        module[place].register_forward_hook(
            lambda part, args, output, place=place: caught.update({place: args[0].numpy().copy()})
        )
        for place in (1, 3)
    ]
    with torch.no_grad():
        outputs = module(torch.from_numpy(inputs)).numpy()
    for hook in hooks:
        hook.remove()
    landscape = Landscape(module, inputs, targets, loss="l1")
    block = landscape.block(0)
    values = block.kinks()
    groups = block.kink_groups
    assert [(g.start, g.stop, g.units) for g in groups] == [(0, 15, 3), (15, 35, 4), (35, 45, 2)]
    for group, array in zip(groups, (caught[1], caught[3], outputs - targets), strict=True):
        for i in range(5):
            for unit in range(group.units):
                kink = group.start + i * group.units + unit
                assert values[kink] == pytest.approx(array[i, unit], abs=1e-13)
    np.testing.assert_array_equal(block.pattern(), values > 0)
    assert block.describe_kink(0) == "sample 0, layer 0, unit 0"
    assert block.describe_kink(15 + 4 * 2 + 3) == "sample 2, layer 2, unit 3"
    assert block.describe_kink(35 + 2 * 4 + 1) == "sample 4, residual, output 1"
    assert block.num_kinks == 45
    assert landscape.block(1).num_kinks == 30
    assert landscape.block(2).num_kinks == 10
    assert Landscape(module, inputs, targets).block(2).num_kinks == 0
    for kink in (-1, 45):
        with pytest.raises(InputError, match=r"kink must lie in 0\.\.44"):
            block.describe_kink(kink)


@pytest.mark.parametrize("pattern", [np.ones(9), np.ones(8, dtype=bool), [True], np.ones((9, 1))])
def test_restrict_refuses_what_is_no_pattern(pattern):
    with pytest.raises(InputError, match=r"pattern must be boolean of shape \(9,\)"):
        Landscape(dense((2, 3, 1), seed=0), X, Y).block(0).restrict(pattern)


# --- random architectures ------------------------------------------------------------------------


@st.composite
def networks(draw) -> tuple[Layer, float]:
    """A Sequential of Linear, BatchNorm1d, ReLU and LeakyReLU in any sensible order, with data."""
    seed = draw(st.integers(0, 10**6))
    inputs = width = draw(st.integers(1, 3))
    parts: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 4))):
        out = draw(st.integers(1, 4))
        parts.append(nn.Linear(width, out, bias=draw(st.booleans())))
        width = out
        if draw(st.booleans()):
            parts.append(nn.BatchNorm1d(width))
        for _ in range(draw(st.integers(0, 2))):
            slope = draw(st.sampled_from([0.0, 0.0, 0.1, 0.5, -0.3]))
            parts.append(nn.LeakyReLU(slope) if slope else nn.ReLU())
    loss = draw(st.sampled_from(LOSSES if width > 1 else LOSSES[:3]))
    module = nn.Sequential(*parts).double()
    randomise(module, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for part in module:
        if isinstance(part, nn.BatchNorm1d):
            part.running_mean.copy_(torch.randn(width_of(part), generator=generator))
            part.running_var.copy_(0.5 + torch.rand(width_of(part), generator=generator))
    module.eval()
    linear = [place for place, part in enumerate(module) if isinstance(part, nn.Linear)]
    features, targets = sample(draw(st.integers(1, 6)), inputs, width, loss, seed=seed)
    layer = Layer(module, draw(st.sampled_from(linear)), features, targets, loss)
    return layer, draw(st.sampled_from([0.0, 0.25]))


def width_of(norm: nn.BatchNorm1d) -> int:
    return norm.num_features


@given(networks(), st.integers(0, 100))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_blocks_of_random_architectures_are_torchs(network, seed):
    layer, decay = network
    landscape = Landscape(
        layer.module, layer.inputs, layer.targets, loss=layer.loss, weight_decay=decay
    )
    block = landscape.block(layer.name)
    np.testing.assert_array_equal(block.theta, layer.theta)
    assert block.loss() == pytest.approx(landscape.loss(), rel=1e-12, abs=1e-14)
    theta = np.random.default_rng(seed).normal(size=block.size)
    whole = landscape.theta
    whole[landscape.positions(layer.name)] = theta
    rest = 0.5 * decay * float(whole @ whole)
    assert block.loss(theta) == pytest.approx(landscape.loss(whole), rel=1e-12, abs=1e-14)
    assert block.loss(theta) == pytest.approx(layer.value(theta) + rest, rel=1e-12, abs=1e-14)
    kinks = layer.kinks(theta)
    scale = 1.0 + np.abs(kinks).max(initial=0.0)
    assert block.num_kinks == len(kinks)
    np.testing.assert_allclose(block.kinks(theta), kinks, atol=1e-12 * scale)
    if np.abs(kinks).min(initial=1.0) > 1e-9:
        expected = layer.gradient(theta) + decay * theta
        scale = 1.0 + np.abs(expected).max()
        np.testing.assert_allclose(block.gradient(theta), expected, atol=1e-12 * scale)
        np.testing.assert_allclose(
            landscape.gradient(whole)[landscape.positions(layer.name)],
            expected,
            atol=1e-12 * scale,
        )


def test_a_layer_before_an_unreadable_one_says_why() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    landscape = Landscape(model, np.ones((4, 2)), np.ones(4))
    with pytest.raises(UnsupportedModelError, match=r"'0'.*Tanh.*'2'.*sampled tier"):
        landscape.block("0")


def test_a_saddle_of_the_head_says_nothing_about_a_black_box() -> None:
    """The body may have a slope of its own, so the whole network is not called stationary."""
    head = [nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)]
    model = nn.Sequential(nn.Linear(1, 1), nn.Tanh(), *head).double()
    with torch.no_grad():
        for layer, weight, bias in zip(
            (model[0], head[0], head[2]), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), strict=True
        ):
            layer.weight.fill_(weight)
            layer.bias.fill_(bias)
    landscape = Landscape(model, np.array([[0.0], [0.0]]), np.array([1.0, -1.0]))
    certificate = certify(landscape)
    assert certificate.claim in {"undecided", "not_stationary"}
    assert verify(certificate, landscape).valid


def pruned() -> nn.Module:
    module = dense((3, 4, 1), seed=0)
    prune.random_unstructured(module[0], "weight", 0.5)
    return module


def normed() -> nn.Module:
    with pytest.warns(FutureWarning, match="weight_norm"):
        layer = nn.utils.weight_norm(nn.Linear(3, 4, dtype=torch.float64))
    return nn.Sequential(layer, nn.ReLU(), nn.Linear(4, 1, dtype=torch.float64))


@pytest.mark.parametrize("made", [pruned, normed])
def test_a_module_that_torch_cannot_copy_says_which_weights_and_what_to_do(made):
    module, (inputs, targets) = made(), (np.eye(3), np.arange(3.0))
    with pytest.raises(InputError, match=r"'0\.weight' is computed from other tensors"):
        Landscape(module, inputs, targets)
    if made is pruned:
        prune.remove(module[0], "weight")
        expected = by_torch(module, inputs, targets[:, None], "squared")[0]
        assert Landscape(module, inputs, targets).loss() == pytest.approx(expected, rel=1e-12)


def test_modules_and_weights_that_are_there_twice_are_left_as_they_were() -> None:
    norm, first, last = nn.BatchNorm1d(3), nn.Linear(3, 3), nn.Linear(3, 3)
    last.weight = first.weight
    model = nn.Sequential(first, norm, nn.ReLU(), last, norm, nn.Linear(3, 2)).double().eval()
    rng = np.random.default_rng(0)
    landscape = Landscape(model, rng.normal(size=(5, 3)), rng.normal(size=(5, 2)))
    theta = landscape.theta + 0.1 * rng.normal(size=landscape.size)
    loss = landscape.loss(theta)
    again = landscape.module_at(theta)  # copies what was evaluated
    outputs = again(torch.from_numpy(landscape.inputs)).detach().numpy()
    assert ((outputs - landscape.targets) ** 2).sum(axis=1).mean() == pytest.approx(loss)
    step = 1e-6 * rng.normal(size=landscape.size)
    slope = (landscape.loss(theta + step) - landscape.loss(theta - step)) / 2
    assert landscape.gradient(theta) @ step == pytest.approx(slope, rel=1e-6)


class Hooked(nn.Module):
    """A hook that holds the module it was made with, of which a copy has a copy of the hook."""

    def __init__(self, bound: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.register_buffer("mean", torch.ones(3, dtype=torch.float64))
        self.layer.register_forward_pre_hook(
            self.moved if bound else lambda _, given: (given[0] - self.mean,)
        )

    def moved(self, _: nn.Module, given: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (given[0] - self.mean,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def test_models_whose_copies_read_the_original_are_refused() -> None:
    data = np.ones((5, 3)), np.ones((5, 1))
    assert np.isfinite(Landscape(Hooked(bound=True), *data).loss())
    with pytest.raises(InputError, match="forward of a copy read 'mean' of the model"):
        Landscape(Hooked(bound=False), *data)


def test_modules_that_are_none_of_their_own_are_refused() -> None:
    data, landscape = (np.ones((5, 3)), np.ones((5, 1))), linear_landscape()
    with pytest.raises(InputError, match=r"received a DataParallel: give its \.module"):
        Landscape(nn.DataParallel(nn.Linear(3, 1)), *data)
    for use in (lambda lazy: Landscape(lazy, *data), landscape.state_of):
        with pytest.raises(InputError, match="'weight' is not initialised yet: run"):
            use(nn.LazyLinear(1))


def linear_landscape() -> Landscape:
    return Landscape(nn.Linear(3, 1), np.ones((5, 3)), np.ones((5, 1)))


@pytest.mark.filterwarnings("ignore")  # PyTorch warns of its own scripted modules
def test_models_that_are_compiled_as_a_whole_are_refused() -> None:
    model = nn.Linear(3, 1)
    for compiled in (torch.jit.script(model), torch.jit.trace(model, torch.ones(2, 3))):
        with pytest.raises(InputError, match="compiled as a whole: give the module"):
            Landscape(compiled, np.ones((5, 3)), np.ones((5, 1)))


def test_what_forward_keeps_does_not_stay_in_copies() -> None:
    """Activations, also from a batch of points, and counters of passes in eval mode."""

    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 1)
            self.register_buffer("passes", torch.tensor(0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.kept, self.passes = self.layer(x), self.passes + 1
            return self.kept

    landscape = Landscape(Keeping(), np.ones((5, 3)), np.ones((5, 1)))
    _, objective = landscape.flat_objective()
    torch.func.vmap(objective)(torch.zeros(2, 4, dtype=torch.float64))
    landscape.gradient()
    assert not hasattr(landscape.module_at(), "kept")
    assert landscape.module_at().passes == 0


@pytest.mark.filterwarnings("ignore")  # PyTorch warns of its own scripted modules
def test_scripted_parts_are_not_read() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.ReLU()))
    model = nn.Sequential(scripted, nn.Linear(4, 1))
    landscape = Landscape(model, np.ones((5, 3)), np.ones((5, 1)))
    assert np.isfinite(landscape.loss())
    assert landscape.layers == ("1",)


@pytest.mark.parametrize(
    ("asking", "told"),
    [
        ("path_maximum", ([0.0], [1.0])),
        ("connect", ([0.0], [1.0], 0.5)),
        ("linear_path", ([0.0], [1.0])),
        ("spanning_tree", ([[0.0], [1.0]],)),
        ("match_units", ([0.0], [1.0])),
        ("convexity", ()),
        ("spectrum", ()),
    ],
)
def test_what_needs_all_layers_refuses_a_block(asking: str, told: tuple[Any, ...]) -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
    block = Landscape(model, np.ones((1, 1)), np.zeros((1, 1))).block(0)
    with pytest.raises(InputError, match=f"{asking} needs a Landscape, .*; received Block"):
        getattr(reluscape, asking)(block, *told)
