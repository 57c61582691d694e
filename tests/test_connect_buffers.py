"""Strings between models with buffers and shared parameters: against plain torch, loaded by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

import reluscape as rs
from reluscape.errors import InputError
from reluscape.strings import check_values, surface
from reluscape.strings import ends as ends_module
from reluscape.strings.check_ends import begins_at, why_other_end
from reluscape.strings.models import Models
from reluscape.strings.pair import Pair
from reluscape.strings.usual import usual_level

X = np.random.default_rng(0).normal(size=(40, 3))
Y = np.abs(X).sum(axis=1, keepdims=True)
#: Above every string here.
HIGH = 100.0


class Centred(nn.Module):
    """A normaliser of its own before two layers, with batch norm between them or without."""

    def __init__(self, mean: float = 0.5, normed: bool = False) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 1)
        self.norm = nn.BatchNorm1d(8) if normed else nn.Identity()
        self.register_buffer("mean", torch.full((3,), mean))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.norm(self.first(x - self.mean))))


class Masked(nn.Module):
    """Some units are off, by a mask; with batch norm."""

    def __init__(self, off: int = 2) -> None:
        super().__init__()
        self.first, self.last, self.norm = nn.Linear(3, 8), nn.Linear(8, 1), nn.BatchNorm1d(8)
        self.register_buffer("mask", torch.arange(8) >= off)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.norm(self.first(x))) * self.mask)


class Placed(nn.Module):
    """With a buffer that state dicts leave out."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.register_buffer("place", torch.ones(3), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x + self.place)


class NormedTwice(nn.Module):
    """One batch norm, run twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 1)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        once = torch.relu(self.norm(self.first(x)))
        return self.last(torch.relu(self.norm(self.middle(once))))


def bounded() -> nn.Module:
    return nn.Sequential(spectral_norm(nn.Linear(3, 8)), nn.ReLU(), nn.Linear(8, 1))


def by_instance() -> nn.Module:
    norm = nn.InstanceNorm1d(1, track_running_stats=True)
    return nn.Sequential(
        nn.Linear(3, 8), nn.Unflatten(1, (1, 8)), norm, nn.Flatten(), nn.Linear(8, 1)
    )


def twice(*inner: nn.Module) -> nn.Module:
    shared = nn.Linear(6, 6)
    return nn.Sequential(
        nn.Linear(3, 6), *inner, nn.ReLU(), shared, nn.ReLU(), shared, nn.Linear(6, 1)
    )


def tied(*inner: nn.Module) -> nn.Module:
    layers = [nn.Linear(6, 6), nn.Linear(6, 6)]
    layers[1].weight = layers[0].weight
    return nn.Sequential(
        nn.Linear(3, 6), *inner, nn.ReLU(), layers[0], nn.ReLU(), layers[1], nn.Linear(6, 1)
    )


def made(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """In float64 and eval mode, after a few passes that move statistics."""
    torch.manual_seed(seed)
    module = make().double()
    for _ in range(3):
        module(torch.randn(20, 3, dtype=torch.float64))
    return module.eval()


def loss(module: nn.Module) -> float:
    with torch.no_grad():
        return float((module(torch.as_tensor(X)) - torch.as_tensor(Y)).square().sum(1).mean())


# ---- buffers -----------------------------------------------------------------------------------


class Counting(nn.Module):
    """With a counter and a diary that its outputs do not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 1)
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("diary", torch.full((2,), float("nan")))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.steps += 1
            self.diary = torch.stack([x.mean(), x.std()])
        return self.last(torch.relu(self.first(x)))


class Stepped(Counting):
    """Its outputs do depend on the counter."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.steps += torch.randint(1, 9, ())
        return self.last(torch.relu(self.first(x))) * (1 + self.steps)


def generator() -> nn.Module:
    """Spectral norm, batch norm, and an instance norm that keeps statistics."""
    norm = nn.InstanceNorm1d(2, track_running_stats=True)
    first = [spectral_norm(nn.Linear(3, 8)), nn.BatchNorm1d(8), nn.ReLU()]
    return nn.Sequential(*first, nn.Unflatten(1, (2, 4)), norm, nn.Flatten(), nn.Linear(8, 1))


class Shift(nn.Module):
    """A normaliser."""

    def __init__(self, mean: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((3,), mean))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - self.mean


def shifted(mean: float) -> nn.Module:
    return nn.Sequential(
        Shift(mean), nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1)
    )


def compiled(mean: float) -> nn.Module:
    return nn.Sequential(torch.jit.script(Shift(mean)), nn.Linear(3, 1))


MOVING = {
    "in layers": (partial(shifted, 0.0), partial(shifted, 1.0), {"0.mean"}),
    "a normaliser": (partial(Centred, 0.0), partial(Centred, 1.0), {"mean"}),
    "a normaliser and batch norm": (partial(Centred, 0.0, True), partial(Centred, 1.0, True), {"mean"}),
    "spectral norm": (bounded, bounded, {f"0.parametrizations.weight.0._{k}" for k in "uv"}),
    "instance norm": (by_instance, by_instance, {"2.running_mean", "2.running_var"}),
    "all": (generator, generator, {"0.parametrizations.weight.0._u", "0.parametrizations.weight.0._v",
                                   "4.running_mean", "4.running_var"}),
}  # fmt: skip


def columns(module: nn.Module) -> dict[str, slice]:
    """Where each buffer is in the vector of all."""
    stops = np.cumsum([0, *(one.numel() for one in module.buffers())])
    names = [name for name, _ in module.named_buffers()]
    return {name: slice(stops[k], stops[k + 1]) for k, name in enumerate(names)}


def check_ends(found: rs.Connection, landscape: rs.Landscape, make: Any, ends: Any) -> None:
    """Both ends are the given models, bit for bit, and every bead has its value in plain torch."""
    for bead, end in zip((0, -1), ends, strict=True):
        module = make().double().eval()
        module.load_state_dict(found.state(landscape, bead))
        for name, value in module.state_dict().items():
            assert torch.equal(value.nan_to_num(), end.state_dict()[name].nan_to_num()), name
    for bead in range(1, found.num_beads - 1):
        module = make().double().eval()
        module.load_state_dict(found.state(landscape, bead))
        assert loss(module) == pytest.approx(found.values[bead], rel=1e-9)


def moving_pair(kind: str) -> tuple[nn.Module, nn.Module, rs.Landscape, float]:
    """Two trained models, the first one's landscape, and a level that the straight line is above."""
    first, last, _ = MOVING[kind]
    a, b = trained(made(first, 0)), trained(made(last, 5))
    landscape = rs.Landscape(a, X, Y)
    line = rs.connect(landscape, a, b, HIGH)
    low, high = float(line.values.max()), line.straight_lower
    assert high > 1.1 * low
    return a, b, landscape, low + 0.3 * (high - low)


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        *((kind, "greedy") for kind in MOVING),
        *product(["all"], ["constrained", "bezier", "band"]),
    ],
)
def test_buffers_that_outputs_read_move_along(kind: str, method: str) -> None:
    a, b, landscape, level = moving_pair(kind)
    schedule = rs.Schedule(max_steps=20)
    found = rs.connect(landscape, a, b, level, method=method, schedule=schedule, max_depth=3)
    assert found.num_beads > 2
    assert found.tier == "sampled"
    checked = rs.verify(found, landscape)
    assert checked.valid, checked.reason
    check_ends(found, landscape, MOVING[kind][0], (a, b))
    assert begins_at(found, landscape, a)
    assert why_other_end(found, landscape, b) == ""
    places = columns(a)
    for name in MOVING[kind][2]:
        stated = found.buffers[:, places[name]]
        step = stated[-1] - stated[0]
        shares = (stated - stated[0]) @ step / (step @ step)
        np.testing.assert_allclose(stated, stated[0] + shares[:, None] * step, atol=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_moving_buffers_do_not_decay(decay: float) -> None:
    a, b = made(partial(Centred, 30.0), 0), made(partial(Centred, 50.0), 1)
    landscape = rs.Landscape(a, X, Y, weight_decay=decay)
    found = rs.connect(landscape, a, b, 1e6)
    for k, end in enumerate((a, b)):
        size = sum(float(p.detach().square().sum()) for p in end.parameters())
        assert found.values[k] == pytest.approx(loss(end) + 0.5 * decay * size, rel=1e-12)
    assert rs.verify(found, landscape).valid


def test_a_search_with_moving_buffers_goes_on_where_it_was(tmp_path: Path) -> None:
    """Of a finished string and of an unfinished one; with units matched."""
    a, b, landscape, _ = moving_pair("in layers")
    level = 1.05 * max(loss(a), loss(b))
    first = rs.connect(
        landscape,
        a,
        b,
        level,
        max_depth=1,
        keep=tmp_path / "s.nc",
        match_units=True,
    )
    assert first.status == "not_found"
    before = rs.Unfinished.load(tmp_path / "s.nc")
    assert before.beads.shape[1] == landscape.size + 3
    for start in (first, before, rs.Connection.from_dataset(first.to_dataset())):
        found = rs.connect(landscape, a, b, level, start=start, match_units=True)
        assert found.status == "connected"
        assert found.num_beads >= len(start.beads) > 2
        assert rs.verify(found, landscape).valid
        end = found.state(landscape, -1)
        assert torch.equal(end["0.mean"], b.state_dict()["0.mean"])
        assert not torch.equal(end["2.running_mean"], b.state_dict()["2.running_mean"])


def test_the_usual_level_is_of_the_line_with_moving_buffers() -> None:
    a, b, landscape, _ = moving_pair("spectral norm")
    level, values = usual_level(landscape, [a, b])
    line = rs.connect(landscape, a, b, HIGH)
    assert values == pytest.approx((loss(a), loss(b)), rel=1e-9)
    grid = line.straight.max()
    assert level == pytest.approx(max(1.1 * max(values), max(values) + 0.1 * (grid - max(values))))


@pytest.mark.parametrize("match_units", [False, True])
def test_many_models_with_buffers_of_their_own(match_units: bool) -> None:
    """Also where zero weights have no loss, as with spectral norm."""
    make = shifted if match_units else generator
    makes = [partial(make, float(seed)) if match_units else make for seed in range(3)]
    modules = [trained(made(one, seed)) for seed, one in enumerate(makes)]
    for number, one in enumerate(modules):
        one[2 - (not match_units)].num_batches_tracked += number
    landscape = rs.Landscape(modules[0], X, Y)
    models = Models.of("abc", modules, landscape, match_units=match_units)
    found = {
        (a, b): models.join(a, b, lambda *_: None, match_units=match_units, max_depth=2)
        for a, b in combinations(range(3), 2)
    }
    tree = models.tree(found)
    assert rs.verify(tree, landscape).valid
    pair = rs.verify(found[1, 2], rs.Landscape(modules[1], X, Y))
    assert pair.valid, pair.reason
    for module in modules:  # batch norm by the data's own statistics
        for part in module.modules():
            part.train(isinstance(part, nn.BatchNorm1d))
    np.testing.assert_allclose(tree.values, [loss(one) for one in modules], rtol=1e-9)


@pytest.mark.parametrize("kind", ["a normaliser", "all"])
def test_other_data_judge_with_the_buffers_of_each_bead(kind: str) -> None:
    a, b, landscape, level = moving_pair(kind)
    other = rs.Landscape(a, X + 0.1, Y)
    found = rs.connect(
        landscape, a, b, level, metric=other, method="bezier", schedule=rs.Schedule(max_steps=20)
    )
    checked = rs.verify(found, landscape, metric=other)
    assert checked.valid, checked.reason
    for bead in range(1, found.num_beads - 1):
        value = rs.Landscape(found.module(landscape, bead), X + 0.1, Y).loss()
        assert found.values[bead] == pytest.approx(value, rel=1e-9)


def test_changed_moving_buffers_are_rejected() -> None:
    a, b, landscape, level = moving_pair("spectral norm")
    found = rs.connect(landscape, a, b, level, method="bezier", schedule=rs.Schedule(max_steps=20))
    assert rs.verify(found, landscape).valid
    for bead, change in ((2, 0.01), (2, np.nan), (0, 0.01)):
        buffers = found.buffers.copy()
        buffers[bead, 0] += change
        assert not rs.verify(replace(found, buffers=buffers), landscape).valid


def test_buffers_that_outputs_do_not_read_are_the_ends_own() -> None:
    a, b = made(Counting, 0), made(Counting, 1)
    b.train()(torch.ones(4, 3, dtype=torch.float64))
    b.eval()
    assert a.steps != b.steps
    landscape = rs.Landscape(a, X, Y)
    found = rs.connect(landscape, a, b, HIGH, method="bezier")
    assert found.tier != "sampled"
    assert rs.verify(found, landscape).valid
    check_ends(found, landscape, Counting, (a, b))
    assert found.state(landscape, 2)["steps"] == a.steps
    assert why_other_end(found, landscape, b) == ""
    assert not begins_at(found, landscape, b)
    buffers = found.buffers.copy()
    buffers[2, 0] += 1.0
    assert (
        "buffers 'steps' are none" in rs.verify(replace(found, buffers=buffers), landscape).reason
    )


class Unsaved(Centred):
    """State dicts leave its buffer out."""

    def __init__(self, mean: float) -> None:
        super().__init__(mean)
        self.register_buffer("mean", self.mean, persistent=False)


class Sparse(Centred):
    """With a sparse buffer that its outputs do not depend on."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.register_buffer("sparse", (size * torch.eye(3)).to_sparse())


STILL = [
    (partial(Sparse, 1.0), partial(Sparse, 2.0), "sparse", "sparse"),
    (partial(Masked, 2), partial(Masked, 3), "mask", "no finite floating point"),
    (Stepped, Stepped, "steps", "no finite floating point"),
    (partial(Unsaved, 0.0), partial(Unsaved, 1.0), "mean", "left out by state dicts"),
    (partial(compiled, 0.0), partial(compiled, 1.0), "0.mean", "compiled code"),
]


@pytest.mark.parametrize(("first", "last", "name", "why"), STILL)
def test_buffers_that_cannot_move_are_refused_by_name(
    first: Any, last: Any, name: str, why: str
) -> None:
    a, b = made(first, 0), made(last, 1)
    landscape = rs.Landscape(a, X, Y)
    said = f"others in '{name}'.* and they are .*{why}"
    for end in (b, b.state_dict()) if name in b.state_dict() else (b,):
        with pytest.raises(InputError, match=f"theta_b must have .* {said}"):
            rs.connect(landscape, a, end, HIGH)
    with pytest.raises(InputError, match=said):
        usual_level(landscape, [a, b])


class Viewing(Centred):
    """Reads a view of its buffer."""

    def __init__(self, mean: float) -> None:
        super().__init__(mean)
        self._view()

    def _view(self) -> None:
        self.seen = self.mean[:]

    def _apply(self, *args: Any, **options: Any) -> Any:
        found = super()._apply(*args, **options)
        self._view()
        return found

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(x - self.seen)))


class Listing(Centred):
    """Reads what a list holds."""

    def __init__(self, mean: float) -> None:
        super().__init__(mean)
        self.held = [self.mean]

    def _apply(self, *args: Any, **options: Any) -> Any:
        found = super()._apply(*args, **options)
        self.held = [self.mean]
        return found

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(x - self.held[0])))


class Iterating(Centred):
    """Reads whatever buffers there are."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(x - sum(self.buffers()))))


class Choosing(Centred):
    """Reads its buffer for some weights."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.mean[0] * self.last.bias.item() > 0.0:
            x = x - self.mean
        return self.last(torch.relu(self.first(x)))


class HoldingWeights(nn.Module):
    """Its forward reads a parameter from a list."""

    def __init__(self, _: float) -> None:
        super().__init__()
        self.first = nn.Linear(3, 1)
        self.held = [self.first.weight]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.held[0].T


class Keyed(Centred):
    """Reads its buffer from PyTorch's own table of them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(x - self._buffers["mean"])))


@pytest.mark.parametrize("make", [Viewing, Listing, Iterating, HoldingWeights, Keyed])
def test_models_that_read_their_numbers_from_elsewhere_are_refused(make: Any) -> None:
    a, b = made(partial(make, 0.0), 0), made(partial(make, 1.0), 1)
    said = r"follow from its parameters and buffers|same buffers mean: .* \(KeyError: 'mean'\)"
    with pytest.raises(InputError, match=said):
        rs.connect(rs.Landscape(a, X, Y), a, b, HIGH)


def test_verify_computes_each_model_of_a_path_by_itself() -> None:
    """As if the search had taken numbers given from outside for those of the model."""
    a, b = made(partial(Choosing, 0.0), 0), made(partial(Choosing, 1.0), 1)
    landscape = rs.Landscape(a, X, Y)
    found = rs.connect(landscape, a, b, HIGH)
    assert rs.verify(found, landscape).valid
    list_a, list_b = made(partial(Listing, 0.0), 0), made(partial(Listing, 1.0), 1)
    values = [loss(list_a), rs.Landscape(list_a, X, Y).loss(rs.Landscape(list_b, X, Y).theta)]
    forged = replace(found, values=np.array(values))
    assert not rs.verify(forged, rs.Landscape(list_a, X, Y)).valid


class Rescaling(Centred):
    """Uses its buffer for large inputs only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.abs().max() > 5.0:
            x = x / (1.0 + self.mean)
        return self.last(torch.relu(self.first(x)))


def test_what_is_read_on_other_data_only_moves_too() -> None:
    a, b = made(partial(Rescaling, 0.0), 0), made(partial(Rescaling, 1.0), 1)
    landscape, other = rs.Landscape(a, X, Y), rs.Landscape(a, 9.0 * X, Y)
    assert np.abs(X).max() < 5.0
    found = rs.connect(landscape, a, b, 1e4, metric=other)
    right = [rs.Landscape(end, 9.0 * X, Y).loss() for end in (a, b)]
    assert found.values == pytest.approx(right, rel=1e-12)
    assert rs.verify(found, landscape, metric=other).valid


def test_coordinates_are_in_the_order_of_the_module() -> None:
    """Not in that of a set of names, which is another in each process."""

    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 1)
            for k in range(12):
                self.register_buffer(f"shift_{k}", torch.zeros(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x + sum(getattr(self, f"shift_{k}") for k in range(12)))

    a, b = made(Many, 0), made(Many, 1)
    for k in range(12):
        b.get_buffer(f"shift_{k}").fill_(k + 1.0)
    pair = Pair.of(rs.Landscape(a, X, Y), a, b, metric=None, match_units=False)
    assert pair.carried.names == tuple(name for name, _ in a.named_buffers())
    moved = pair.points[1][pair.carried.wide.moved]
    np.testing.assert_array_equal(moved, np.repeat(np.arange(1.0, 13.0), 3))


def test_beads_that_start_again_elsewhere_leave_the_buffers_on_their_line() -> None:
    a, b, landscape, level = moving_pair("in layers")
    low = 1.01 * max(loss(a), loss(b))
    found = rs.connect(landscape, a, b, low, schedule=rs.Schedule(max_steps=2), max_depth=3)
    assert any("starts" in line for line in found.tried)
    means = found.buffers[:, columns(a)["0.mean"]]
    assert np.ptp(means, axis=1).max() < 1e-12
    assert means[1:-1].size > 0
    assert level > low


class Updating(Centred):
    """Changes a buffer in each pass, in eval mode too."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean.mul_(0.5).clamp_(-1.0, 1.0)
        return self.last(torch.relu(self.first(x)))


class Assigning(Centred):
    """The same by an assignment."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean = 0.5 * self.mean
        return self.last(torch.relu(self.first(x)))


@pytest.mark.parametrize("method", ["greedy", "band"])
def test_buffers_that_are_changed_in_every_pass(method: str) -> None:
    a, b = made(partial(Updating, 0.0), 0), made(partial(Updating, 1.0), 1)
    landscape = rs.Landscape(a, X, Y)
    found = rs.connect(landscape, a, b, HIGH, method=method)
    assert rs.verify(found, landscape).valid
    a, b = made(partial(Assigning, 0.0), 0), made(partial(Assigning, 1.0), 1)
    with pytest.raises(InputError, match=r"same buffers mean: .* does not run"):
        rs.connect(rs.Landscape(a, X, Y), a, b, HIGH, method=method)


class Clamping(nn.Module):
    """Writes into its weights in forward, as embeddings with a largest norm do."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.first.weight.clamp_(-0.1, 0.1)
        return self.first(x)


@pytest.mark.parametrize("metric", [None, "largest"])
def test_ends_whose_forward_writes_into_weights_stay_as_they_are(metric: str | None) -> None:
    def largest(outputs: Any, _: Any) -> float:
        return float(np.abs(outputs).max())

    ends = [torch.full((4,), size).numpy().astype(float) for size in (1.0, -1.0)]
    landscape, how = rs.Landscape(Clamping(), X, Y), largest if metric else None
    found = rs.connect(landscape, *ends, 1e3, metric=how)
    before = found.beads.copy()
    rs.verify(found, landscape, metric=how)
    np.testing.assert_array_equal(found.beads, before)
    np.testing.assert_array_equal(found.beads[[0, -1]], ends)


@pytest.mark.filterwarnings("ignore")  # PyTorch's own, of compiling
def test_modules_of_torch_compile_with_batch_norm() -> None:
    def make() -> Any:
        return torch.compile(shifted(0.5), backend="eager")

    a, b = made(make, 0), made(make, 1)
    landscape = rs.Landscape(a, X, Y)
    found = rs.connect(landscape, a, b, HIGH, method="bezier")
    assert rs.verify(found, landscape).valid
    check_ends(found, landscape, make, (a, b))


class Single(Centred):
    """Computes in single precision: a batch of models rounds otherwise."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).float()


def test_single_precision_inside_is_no_other_model() -> None:
    a, b = made(partial(Single, 0.0), 0), made(partial(Single, 1.0), 1)
    landscape = rs.Landscape(a, X, Y)
    assert rs.connect(landscape, a, b, HIGH, metric=rs.Landscape(a, X + 0.1, Y)).num_beads == 2


def test_units_are_matched_beside_buffers_that_are_infinite() -> None:
    a, b = made(partial(shifted, 0.0), 0), made(partial(shifted, 1.0), 1)
    for end in (a, b):
        end[0].register_buffer("best", torch.tensor(float("inf")))
    landscape = rs.Landscape(a, X, Y)
    found = rs.connect(landscape, a, b, HIGH, match_units=True)
    assert rs.verify(found, landscape).valid


def test_outputs_that_are_no_numbers_are_wrong_answers() -> None:
    outputs = np.array([[1.0, 0.0], [np.nan, np.nan], [0.0, np.nan], [0.0, 1.0]])
    for rate in (surface.error_rate, check_values._error_rate):
        assert rate(outputs, np.array([0, 0, 0, 0])) == 0.75


@pytest.mark.filterwarnings("ignore:.torch.nn.utils.spectral_norm. is deprecated")
@pytest.mark.parametrize("method", ["greedy", "bezier"])
def test_spectral_norm_of_the_old_kind(method: str) -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.utils.spectral_norm(nn.Linear(3, 8)), nn.ReLU(), nn.Linear(8, 1))

    a, b = (made(make, seed) for seed in (0, 1))
    with torch.no_grad():
        for end in (a, b):
            end(torch.ones(1, 3, dtype=torch.float64))  # the weight without a gradient
    landscape = rs.Landscape(a, X, Y)
    found = rs.connect(landscape, a, b, HIGH, method=method)
    assert found.status == "connected"
    assert rs.verify(found, landscape).valid
    module = made(make, 2)
    module.load_state_dict(found.state(landscape, -1))
    assert loss(module) == loss(b)


def test_signs_of_zeros_in_buffers_are_the_ends_own() -> None:
    a, b = made(partial(Centred, 0.0), 0), made(partial(Centred, -0.0), 1)
    landscape = rs.Landscape(a, X, Y)
    found = rs.connect(landscape, a, b, HIGH)
    for bead, sign in ((0, False), (1, True)):
        assert bool(torch.signbit(found.state(landscape, bead)["mean"]).all()) is sign


def test_numbers_that_float64_does_not_hold_are_refused_by_name() -> None:
    a, b = made(Counting, 0), made(Counting, 1)
    b.steps = torch.tensor(2**53 + 1)
    with pytest.raises(InputError, match=r"others in 'steps' and they are not held"):
        rs.connect(rs.Landscape(a, X, Y), a, b, HIGH)


@pytest.mark.parametrize("make", [Centred, partial(Centred, 0.5, True), Masked])
def test_ends_with_equal_buffers_are_both_ends_of_the_path(make: Any) -> None:
    a, b = made(make, 0), made(make, 1)
    landscape = rs.Landscape(a, X, Y)
    found = rs.connect(landscape, a, b, HIGH, method="bezier")
    assert found.status == "connected"
    assert found.num_beads > 2
    checked = rs.verify(found, landscape)
    assert checked.valid, checked.reason
    for bead, end in ((0, a), (-1, b)):
        module = make().double().eval()
        module.load_state_dict(found.state(landscape, bead))
        for name, value in module.state_dict().items():
            assert torch.equal(value, end.state_dict()[name]), name
    assert begins_at(found, landscape, a)
    assert why_other_end(found, landscape, b) == ""
    for bead in range(1, found.num_beads - 1):
        module = make().double().eval()
        module.load_state_dict(found.state(landscape, bead))
        assert loss(module) == pytest.approx(found.values[bead], rel=1e-9)
        assert loss(found.module(landscape, bead)) == loss(module)


@pytest.mark.parametrize("bead", [0, 3, -1])
def test_a_changed_mask_is_rejected(bead: int) -> None:
    a, b = made(Masked, 0), made(Masked, 1)
    landscape = rs.Landscape(a, X, Y)
    found = rs.connect(landscape, a, b, HIGH, method="bezier")
    buffers = found.buffers.copy()
    place = [name for name, _ in a.named_buffers()].index("mask")
    at = sum(one.numel() for one in list(a.buffers())[:place])
    assert set(buffers[:, at : at + 8].ravel()) == {0.0, 1.0}
    buffers[bead, at] = 1.0 - buffers[bead, at]
    assert "buffers 'mask'" in rs.verify(replace(found, buffers=buffers), landscape).reason


def test_another_landscape_to_judge_by_has_the_same_buffers() -> None:
    a, b = made(partial(Centred, 0.0), 0), made(partial(Centred, 0.0), 1)
    landscape = rs.Landscape(a, X, Y)
    good, other = (rs.Landscape(made(partial(Centred, m), 0), X + 1.0, Y) for m in (0.0, 1.0))
    assert rs.connect(landscape, a, b, HIGH, metric=good).status == "connected"
    with pytest.raises(InputError, match=r"metric's model must have .* others in 'mean'"):
        rs.connect(landscape, a, b, HIGH, metric=other)


def trained(module: nn.Module) -> nn.Module:
    """By a hundred steps, in train mode; returned in eval mode."""
    module.train()
    adam = torch.optim.Adam(module.parameters(), 0.03)
    for _ in range(100):
        adam.zero_grad()
        (module(torch.from_numpy(X)) - torch.from_numpy(Y)).square().mean().backward()
        adam.step()
    with torch.no_grad():  # statistics of the data themselves
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d):
                part.momentum = 1.0
        module(torch.from_numpy(X))
    return module.eval()


# ---- running statistics that hooks on modules do not see ----------------------------------------


class Called(nn.Module):
    """A batch norm that is run in one of several ways."""

    def __init__(self, norm: nn.Module, run: str) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 8), norm, nn.Linear(8, 1)
        self.run = run

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        entering, norm = self.first(x), self.norm
        if self.run == "by name":
            entering = norm(input=entering)
        elif self.run == "forward":
            entering = norm.forward(entering)
        elif self.run == "functional":
            entering = nn.functional.batch_norm(
                entering, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.training
            )
        elif self.run == "more":
            entering = norm(entering, 3.0)
        elif self.run == "places":
            entering = norm(entering.view(len(x), -1, len(norm.weight))).flatten(1)
        else:
            entering = norm(entering)
        return self.last(torch.relu(entering))


class Scaling(nn.BatchNorm1d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(2.0 * x + 1.0)


class ChannelsLast(nn.BatchNorm1d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


UNSEEN = [
    lambda: Called(nn.BatchNorm1d(8), "forward"),
    lambda: Called(nn.BatchNorm1d(8), "functional"),
    lambda: Called(Scaling(8), ""),
    lambda: Called(ChannelsLast(2), "places"),
]


@pytest.mark.parametrize("make", [*UNSEEN, NormedTwice])
def test_statistics_that_are_not_those_of_what_enters_are_refused(
    make: Callable[[], nn.Module],
) -> None:
    """Loaded, beads would have other losses than they are said to have."""
    a, b = made(make, 0), made(make, 1)
    landscape = rs.Landscape(a, X, Y)
    with pytest.raises(
        InputError, match=r"must use each batch norm once, as a module|must run with batch norm"
    ):
        rs.connect(landscape, a, b, HIGH)
    by_theta = rs.connect(landscape, *(rs.Landscape(m, X, Y).theta for m in (a, b)), HIGH)
    assert rs.verify(by_theta, landscape).valid  # with the landscape's own statistics throughout


@pytest.mark.parametrize("make", [UNSEEN[0], UNSEEN[2], NormedTwice])
def test_verify_rejects_beads_that_have_other_outputs(
    make: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = made(make, 0), made(make, 1)
    landscape = rs.Landscape(a, X, Y)
    monkeypatch.setattr(ends_module, "check_norms", lambda landscape, theta, name: None)
    found = rs.connect(landscape, a, b, HIGH, method="bezier")
    reason = rs.verify(found, landscape).reason
    assert "bead 1 has other outputs" in reason or "'norm' is used twice" in reason


class Untracked(NormedTwice):
    """One batch norm with running statistics beside one without, which is run twice."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6, track_running_stats=False)
        self.first = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6))


class Scaled(nn.BatchNorm1d):
    """With another argument than what is normalised."""

    def forward(self, x: torch.Tensor, scale: float = 2.0) -> torch.Tensor:
        return scale * super().forward(x)


WELL = [
    lambda: Called(nn.BatchNorm1d(8), "by name"),
    lambda: Called(Scaled(8), "more"),
    Untracked,
]


@pytest.mark.parametrize("make", WELL)
def test_batch_norms_that_are_used_well_are_connected(make: Callable[[], nn.Module]) -> None:
    a, b = made(make, 0), made(make, 1)
    landscape = rs.Landscape(a, X, Y)
    found = rs.connect(landscape, a, b, HIGH, method="bezier")
    assert rs.verify(found, landscape).valid
    for bead in range(1, found.num_beads - 1):
        assert loss(found.module(landscape, bead)) == pytest.approx(found.values[bead], rel=1e-9)


@pytest.mark.parametrize("method", ["greedy", "constrained", "bezier", "band"])
def test_a_sample_that_is_left_alone_goes_with_others(method: str) -> None:
    """Batch norm has no variance of one sample."""
    a = trained(made(partial(Centred, 0.5, True), 0))
    b = copy.deepcopy(a)  # and its units in reverse, so that all lines between them rise
    for part in (*b.first.parameters(), *b.norm.parameters(), *list(b.norm.buffers())[:2]):
        part.data = part.data.flip(0)
    b.last.weight.data = b.last.weight.data.flip(1)
    landscape = rs.Landscape(a, X, Y)
    options = {"method": method, "max_depth": 2}
    level = 1.5 * landscape.loss()
    found = rs.connect(
        landscape, a, b, level, schedule=rs.Schedule(max_steps=20, batch_size=13), **options
    )
    assert found.gradients > 0
    assert rs.verify(found, landscape).valid
    with pytest.raises(InputError, match="batch_size must be at least 2 with batch norm"):
        rs.connect(landscape, a, b, level, schedule=rs.Schedule(batch_size=1), **options)


def test_batches_of_one_do_where_a_norm_has_several_values() -> None:
    def make() -> nn.Module:
        places = nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 4, 2), nn.BatchNorm1d(4), nn.Flatten()
        return nn.Sequential(*places, nn.ReLU(), nn.Linear(8, 1))

    a, b = made(make, 0), made(make, 1)
    landscape = rs.Landscape(a, X, Y)
    schedule = rs.Schedule(max_steps=3, batch_size=1)
    assert rs.connect(landscape, a, b, HIGH, method="bezier", schedule=schedule).num_beads > 2


def test_a_large_mean_is_no_misuse_of_batch_norm() -> None:
    """Rounding errors of the mean, over the root of batch norm's epsilon."""
    x = np.hstack([X[:, :2], np.full((len(X), 1), 123456.789)])

    def make() -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))

    landscape = rs.Landscape(made(make, 0), x, Y)
    found = rs.connect(landscape, made(make, 0), made(make, 1), 1e15, method="bezier")
    assert found.status == "connected"


class Graph(nn.Module):
    """With a sparse buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 1)
        self.register_buffer("links", torch.eye(8, dtype=torch.float64).to_sparse())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(torch.sparse.mm(self.links, self.first(x).T).T))


def test_sparse_buffers() -> None:
    a, b = made(Graph, 0), made(Graph, 1)
    landscape = rs.Landscape(a, X, Y)
    found = rs.connect(landscape, a, b, HIGH, method="bezier")
    assert rs.verify(found, landscape).valid
    assert begins_at(found, landscape, a)
    b.links = 2.0 * b.links
    with pytest.raises(InputError, match="others in 'links'"):
        rs.connect(landscape, a, b, HIGH)


def test_fixed_buffers_may_hold_nan() -> None:
    a, b = made(Placed, 0), made(Placed, 1)
    for module in (a, b):
        module.register_buffer("unused", torch.full((2,), torch.nan).double(), persistent=False)
    landscape = rs.Landscape(a, X, Y)
    found = rs.connect(landscape, a, b, HIGH, method="bezier")
    assert begins_at(found, landscape, a)
    assert why_other_end(found, landscape, b) == ""
    assert rs.verify(found, landscape).valid


# ---- shared parameters, and what state dicts leave out -----------------------------------------

SHARED = [
    twice,
    tied,
    Placed,
    lambda: twice(nn.BatchNorm1d(6)),
    lambda: tied(nn.BatchNorm1d(6)),
]


@pytest.mark.parametrize("make", SHARED)
def test_modules_and_state_dicts_are_joined_whatever_they_share(make: Any) -> None:
    a, b = made(make, 0), made(make, 1)
    landscape = rs.Landscape(a, X, Y)
    for first, last in ((a, b), (a.state_dict(), b.state_dict())):
        found = rs.connect(landscape, first, last, HIGH, method="bezier")
        assert found.status == "connected"
        checked = rs.verify(found, landscape)
        assert checked.valid, checked.reason
        assert begins_at(found, landscape, a)
        assert why_other_end(found, landscape, b) == ""
        for bead in range(found.num_beads):
            module = made(make, 2)
            module.load_state_dict(found.state(landscape, bead))
            if 0 < bead < found.num_beads - 1:
                assert loss(module) == pytest.approx(found.values[bead], rel=1e-9)
        assert loss(module) == pytest.approx(loss(b), rel=1e-12)
    values = usual_level(landscape, [a, b])[1]
    for module, value in zip((a, b), values, strict=True):
        assert value >= (1 - 1e-12) * loss(module)  # by its own statistics or the data's


def test_a_state_dict_that_unties_what_is_tied_is_refused() -> None:
    a, b = made(tied, 0), made(tied, 1)
    state = copy.deepcopy(b.state_dict())
    state["4.weight"] = state["4.weight"] + 1.0
    with pytest.raises(InputError, match=r"theta_b .* the two were given different values"):
        rs.connect(rs.Landscape(a, X, Y), a, state, HIGH)
