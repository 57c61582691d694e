"""Segments and strings of networks with layers that are buffers: against plain torch and merge trees."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

import reluscape as rs
from reluscape.strings.training import Schedule

Floats = NDArray[np.float64]
Forward = Callable[["Written", torch.Tensor], torch.Tensor]

SAMPLES, HIDDEN = 7, 4


class Written(nn.Module):
    """A trained layer of rectifiers, and behind it what a function makes of buffers."""

    def __init__(self, forward: Forward, outputs: int) -> None:
        super().__init__()
        self.first = nn.Linear(2, HIDDEN)
        self.register_buffer("weight", torch.randn(outputs, HIDDEN))
        self.register_buffer("bias", torch.randn(outputs))
        self.register_buffer("scale", 0.5 + torch.rand(outputs))
        self.register_buffer("row", torch.randn(HIDDEN))
        self.register_buffer("one", torch.tensor(1.5))
        self.register_buffer("mask", torch.tensor([True, False, True, True]))
        self.register_buffer("count", torch.tensor([3, -2, 1, 5])[:outputs])
        self.written = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.written(self, torch.relu(self.first(x)))


def fixed(layer: nn.Module, *names: str) -> nn.Module:
    """The layer with some of its parameters as buffers."""
    for name in names:
        value = getattr(layer, name).detach().clone()
        delattr(layer, name)
        layer.register_buffer(name, value)
    return layer


def sequence(last: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(2, HIDDEN), nn.ReLU(), last)


def through(s: Any, h: torch.Tensor) -> torch.Tensor:
    return F.linear(h, s.weight, s.bias)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "buffers": lambda: sequence(fixed(nn.Linear(HIDDEN, 2), "weight", "bias")),
    "weight alone": lambda: sequence(fixed(nn.Linear(HIDDEN, 2), "weight")),
    "bias alone": lambda: sequence(fixed(nn.Linear(HIDDEN, 2), "bias")),
    "no bias": lambda: sequence(fixed(nn.Linear(HIDDEN, 2, bias=False), "weight")),
}

CALLS: dict[str, Forward] = {
    "linear": through,
    "linear, named": lambda s, h: F.linear(h, weight=s.weight, bias=s.bias),
    "linear without bias": lambda s, h: F.linear(h, s.weight),
    "product": lambda s, h: h @ s.weight.T + s.bias,
    "transposed": lambda s, h: torch.matmul(h, s.weight.t()),
    "method": lambda s, h: h.mm(s.weight.T).add(s.bias),
    "a vector": lambda s, h: h @ s.row,
    "a part": lambda s, h: h @ s.weight[0],
    "normaliser": lambda s, h: (F.linear(h, s.weight) - s.bias) / s.scale,
    "inverse": lambda s, h: through(s, h) * s.scale + s.bias,
    "the other way round": lambda s, h: s.bias - s.scale * through(s, h),
    "Python's numbers": lambda s, h: 1 - 2.5 * through(s, h) / 3,
    "a vector, scaled": lambda s, h: (h @ s.row) * s.one - s.one,
    "units scaled first": lambda s, h: F.linear(h * s.row, s.weight),
    "units left out": lambda s, h: F.linear(h * s.mask, s.weight),
    "a mean": lambda s, h: through(s, h) / s.count,
    "whole numbers": lambda s, h: s.count - through(s, h) * s.count,
    "units turned": lambda s, h: F.linear(torch.relu(s.row - h), s.weight),
}

#: Written as one product, which is a layer like another.
ONE_CALL = {"linear", "linear, named", "linear without bias", "transposed", "a vector", "a part"}


def landscape_of(
    module: nn.Module, loss: str = "squared", decay: float = 0.0, inputs: Floats | None = None
) -> rs.Landscape:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(SAMPLES, 2)) if inputs is None else inputs
    with torch.no_grad():
        outputs = copy.deepcopy(module).double()(torch.from_numpy(inputs))
    targets = rng.normal(size=tuple(outputs.shape))
    return rs.Landscape(module, inputs, targets, loss=loss, weight_decay=decay)


def losses(
    module: nn.Module, landscape: rs.Landscape, ends: Floats, times: Floats, decay: float
) -> Floats:
    """Losses along a segment by torch alone; only parameters move and decay."""
    module = copy.deepcopy(module).double().eval()
    inputs, targets = torch.from_numpy(landscape.inputs), torch.from_numpy(landscape.targets)
    shapes = [(name, p.shape) for name, p in module.named_parameters()]
    start, stop = torch.from_numpy(ends)

    def loss(t: torch.Tensor) -> torch.Tensor:
        theta = (1.0 - t) * start + t * stop
        parts = torch.split(theta, [shape.numel() for _, shape in shapes])
        own = {n: part.view(shape) for (n, shape), part in zip(shapes, parts, strict=True)}
        outputs = torch.func.functional_call(module, own, (inputs,)).reshape(len(inputs), -1)
        apart = outputs - targets
        value = apart.abs() if landscape.loss_name == "l1" else apart**2
        return value.sum() / len(inputs) + 0.5 * decay * (theta**2).sum()

    with torch.no_grad():
        parts = np.array_split(times, 20)
        return np.concatenate([torch.func.vmap(loss)(torch.from_numpy(p)).numpy() for p in parts])


def check_segments(module: nn.Module, tier: str, loss: str, inputs: Floats | None = None) -> None:
    """No point of 10^5 is above the bound, and the bound is as near as it says."""
    decay = 0.1
    landscape = landscape_of(module, loss, decay, inputs)
    assert landscape.size == sum(p.numel() for p in module.parameters())
    rng, times = np.random.default_rng(1), np.linspace(0.0, 1.0, 100_001)
    for size in (0.5, 3.0):
        ends = size * rng.normal(size=(2, landscape.size))
        found = rs.path_maximum(landscape, *ends)
        highest = losses(module, landscape, ends, times, decay).max()
        assert found.tier == tier
        assert highest * (1 - 1e-12) <= found.upper <= found.lower * (1 + 1.001e-3)
        assert found.lower <= highest * (1 + 1e-6)


@pytest.mark.parametrize("loss", ["squared", "l1"])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_buffers_are_exact(name: str, loss: str) -> None:
    torch.manual_seed(0)
    check_segments(LAYERS[name](), "exact", loss)


@pytest.mark.parametrize("loss", ["squared", "l1"])
@pytest.mark.parametrize("outputs", [1, HIDDEN])
@pytest.mark.parametrize("name", CALLS)
def test_calls_with_buffers_are_certified(name: str, outputs: int, loss: str) -> None:
    torch.manual_seed(0)
    module = Written(CALLS[name], outputs)
    check_segments(module, "exact" if name in ONE_CALL else "certified", loss)


def deep(name: str) -> nn.Module:
    """Fixed layers between trained ones."""
    if name == "linear":
        middle: list[nn.Module] = [fixed(nn.Linear(3, 3), "weight", "bias"), nn.ReLU()]
    elif name == "calls":
        middle = [Written(lambda s, h: (h * s.row) @ s.weight.T + s.bias, 3), nn.LeakyReLU(0.1)]
        return nn.Sequential(*middle, nn.Linear(3, 2))
    else:
        norm = fixed(nn.BatchNorm1d(3), "weight", "bias").eval()
        middle = [norm, nn.ReLU(), nn.Linear(3, 3), nn.ReLU()]
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), *middle, nn.Linear(3, 2))


@pytest.mark.parametrize("name", ["linear", "calls", "norm"])
def test_fixed_layers_between_trained_ones_are_certified(name: str) -> None:
    torch.manual_seed(0)
    check_segments(deep(name), "certified", "squared")


def test_convolutions_of_buffers_are_certified() -> None:
    torch.manual_seed(0)
    kernels = fixed(nn.Conv1d(2, 3, 2), "weight", "bias")
    module = nn.Sequential(
        nn.Conv1d(1, 2, 2), nn.ReLU(), kernels, nn.MaxPool1d(2), nn.Flatten(), nn.Linear(6, 1)
    )
    check_segments(module, "certified", "squared", np.random.default_rng(2).normal(size=(5, 1, 6)))


# ---- what is not fixed -------------------------------------------------------------------------


class Recomputed(Written):
    """Writes a function of its parameter, the same at both ends, into its buffer before it reads it."""

    def __init__(self, forward: Forward = through) -> None:
        super().__init__(forward, 1)
        self.angle = nn.Parameter(torch.ones(()))
        self.bias.fill_(1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.bias.copy_(self.angle**2 * torch.ones(1, dtype=torch.float64))
        return super().forward(x)


def recompute(module: Any, arguments: Any) -> None:
    with torch.no_grad():
        module.bias.copy_(module.angle**2)


def hooked() -> nn.Module:
    """Does the same in a hook, which no trace shows."""
    last = fixed(nn.Linear(HIDDEN, 1), "weight", "bias")
    last.angle = nn.Parameter(torch.ones(1))
    last.bias.fill_(1.0)
    last.register_forward_pre_hook(recompute)
    return sequence(last)


class InParts(Recomputed):
    """Writes into its buffer by another one of the same memory."""

    def __init__(self) -> None:
        super().__init__(lambda s, h: F.linear(h, s.weight, s.both[1:]))
        self.register_buffer("both", torch.ones(2, dtype=torch.float64))
        self.register_buffer("bias", self.both[1:])


def with_nothing_finite() -> nn.Module:
    module = Written(lambda s, h: F.linear(torch.relu(h + s.row), s.weight), 1)
    module.row[0] = -torch.inf
    return module


def trained_scale() -> nn.Module:
    module = Written(lambda s, h: through(s, h) * s.trained, 1)
    module.trained = nn.Parameter(torch.ones(1))
    return module


MOVING: dict[str, Callable[[], nn.Module]] = {
    "recomputed": Recomputed,
    "recomputed by a hook": hooked,
    "recomputed in parts": InParts,
    "infinite": with_nothing_finite,
    "a parameter": trained_scale,
    "computed": lambda: Written(lambda s, h: h @ (2.0 * s.weight).T, 1),
    "a residual": lambda: Written(lambda s, h: h + F.linear(h, s.weight), HIDDEN),
    "a divisor": lambda: Written(lambda s, h: s.one / (1.0 + h), 1),
    "weights by the data": lambda: Written(lambda s, h: F.linear(s.row[None], h).T, 1),
    "a square": lambda: Written(lambda s, h: h * h, 1),
    "a sum of some": lambda: Written(lambda s, h: torch.add(h, s.row, alpha=2), 1),
}


@pytest.mark.parametrize("name", MOVING)
def test_what_may_move_is_sampled(name: str) -> None:
    torch.manual_seed(0)
    module = MOVING[name]()
    landscape = landscape_of(module)
    ends = np.random.default_rng(1).normal(size=(2, landscape.size))
    own = dict(zip([n for n, _ in module.named_parameters()], places(module), strict=True))
    for name_of, where in own.items():
        if "angle" in name_of:  # the same function at both ends, and another between them
            ends[:, where] = [[-1.0], [1.0]]
    found = rs.path_maximum(landscape, *ends)
    assert found.tier == "sampled"
    assert found.upper == np.inf


def places(module: nn.Module) -> list[slice]:
    stops = np.cumsum([0, *(p.numel() for p in module.parameters())])
    return [slice(int(a), int(b)) for a, b in pairwise(stops)]


@pytest.mark.parametrize("shape", [(HIDDEN, HIDDEN), (HIDDEN, 1)])
def test_numbers_of_their_own_for_each_sample_are_sampled(shape: tuple[int, int]) -> None:
    """As many samples as units, so that sizes do not tell them apart."""
    torch.manual_seed(0)
    module = Written(lambda s, h: F.linear(h + s.each, s.weight), 1)
    module.register_buffer("each", torch.randn(shape))
    landscape = landscape_of(module, inputs=np.random.default_rng(3).normal(size=(HIDDEN, 2)))
    ends = np.random.default_rng(1).normal(size=(2, landscape.size))
    assert rs.path_maximum(landscape, *ends).tier == "sampled"


@pytest.mark.parametrize("name", ["buffers", "linear"])
def test_buffers_in_which_the_ends_differ_are_sampled(name: str) -> None:
    torch.manual_seed(0)
    a = LAYERS[name]() if name in LAYERS else Written(CALLS[name], 1)
    b, alike = copy.deepcopy(a), copy.deepcopy(a)
    with torch.no_grad():
        for end in (b, alike):
            next(end.parameters()).add_(0.3)
        next(end for key, end in b.named_buffers() if key.endswith("weight")).add_(1.0)
    landscape = landscape_of(a)
    level = 1.0 + max(landscape_at(landscape, end).loss() for end in (a, b, alike))
    other = rs.connect(landscape, a, b, level, schedule=Schedule(max_steps=20), max_depth=2)
    same = rs.connect(landscape, a, alike, level, schedule=Schedule(max_steps=20), max_depth=2)
    assert other.tier == "sampled"
    assert same.tier == "exact"


def landscape_at(landscape: rs.Landscape, module: nn.Module) -> rs.Landscape:
    return rs.Landscape(module, landscape.inputs, landscape.targets)


# ---- barriers of trees -------------------------------------------------------------------------


class Product(nn.Module):
    """Fixed output weights."""

    def __init__(self, signs: Floats, how: str) -> None:
        super().__init__()
        self.register_buffer("signs", torch.as_tensor(signs))
        self.register_buffer("zero", torch.zeros(1))
        self.shifted = how == "sum"

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        found = h @ self.signs.T
        return found + self.zero if self.shifted else found


def alone(signs: Floats, how: str) -> nn.Module:
    """A layer that is trained alone, in front of fixed weights."""
    module = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        module[2].weight.copy_(torch.as_tensor(signs))
    if how == "buffers":
        fixed(module[2], "weight")
    if how in ("product", "sum"):
        module[2] = Product(signs, how)
    return module


def test_proved_strings_are_not_below_the_barrier_of_the_tree() -> None:
    short, count = Schedule(max_steps=40), 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        inputs, targets = rng.normal(size=(5, 1)), rng.normal(size=(5, 1))
        signs, loss = rng.choice([-1.0, 1.0], size=(1, 2)), ("squared", "l1")[seed % 2]
        tree = rs.merge_tree(rs.Landscape(alone(signs, ""), inputs, targets, loss=loss).block(0))
        above = np.where(np.isfinite(tree.deaths), tree.deaths - tree.losses, -1.0)
        k = int(above.argmax())
        if above[k] <= 0.0 or k == 0:
            continue
        count += 1
        ends = tree.minima[k], tree.minima[0]
        barrier = tree.barrier(*ends)
        kinds = ("buffers", "exact"), ("product", "exact"), ("sum", "certified")
        for how, tier in kinds if seed % 5 == 0 else kinds[:1]:
            landscape = rs.Landscape(alone(signs, how), inputs, targets, loss=loss)
            string = rs.connect(
                landscape, *ends, 1.001 * barrier.level, max_depth=3, schedule=short
            )
            assert string.maximum >= (1.0 - 1e-9) * barrier.level, (seed, how)
            assert string.tier == tier or (string.status == "not_found" and how == "sum")
            assert seed % 5 or rs.verify(string, landscape).valid
            tops = [
                rs.path_maximum(landscape, a, b, relative_gap=1e-6).upper
                for a, b in pairwise(barrier.beads)
            ]
            assert max(tops) == pytest.approx(barrier.level, rel=1e-5, abs=1e-9)
    assert count >= 50
