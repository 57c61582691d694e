"""The highest loss on a segment against fine grids of torch's losses, refined around the best points."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import dense, sample

import reluscape as rs
from reluscape.errors import InputError
from reluscape.strings import bounding


def landscape_of(widths, loss, *, seed=0, count=8, bias=True, slope=0.0, decay=0.0) -> rs.Landscape:
    inputs, targets = sample(count, widths[0], widths[-1], loss, seed=seed)
    module = dense(widths, seed=seed, bias=bias, slope=slope)
    return rs.Landscape(module, inputs, targets, loss=loss, weight_decay=decay)


def ends_of(landscape, seed, size=1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    start, stop = rng.normal(size=(2, landscape.size))
    return size * start, size * stop


def losses_at(landscape, start, stop, times) -> np.ndarray:
    """Torch's losses at many points of the segment at once."""
    flat, objective = landscape.flat_objective(start)
    way = torch.from_numpy(stop) - flat
    with torch.no_grad():
        many = torch.func.vmap(lambda t: objective(flat + t * way))
        parts = np.array_split(times, max(1, len(times) // 5000))
        return np.concatenate([many(torch.from_numpy(part)).numpy() for part in parts])


def sought(landscape, start, stop, points) -> tuple[float, float]:
    """The largest loss of a grid, and that of ever finer ones around its best points."""
    times = np.linspace(0.0, 1.0, points)
    losses = losses_at(landscape, start, stop, times)
    largest = [losses.max()]
    for best in np.argsort(losses)[-3:]:
        center, width = times[best], times[1]
        while width > 1e-14:
            near = np.clip(center + width * np.linspace(-1.0, 1.0, 101), 0.0, 1.0)
            values = losses_at(landscape, start, stop, near)
            center, width = near[values.argmax()], width / 40.0
            largest.append(values.max())
    return float(losses.max()), float(max(largest))


PLANS = [
    {"widths": (2, 3, 1)},
    {"widths": (1, 5, 2), "bias": False},
    {"widths": (3, 6, 2), "slope": 0.25, "decay": 0.3},
    {"widths": (2, 4, 1), "slope": -0.5},
]


@pytest.mark.parametrize("loss", ["squared", "half_squared", "l1"])
@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("points", [501, pytest.param(100_001, marks=pytest.mark.slow)])
def test_one_hidden_layer_is_exact(plan, loss, points):
    for seed in range(18):
        landscape = landscape_of(**plan, loss=loss, seed=seed)
        start, stop = ends_of(landscape, seed, size=(0.5, 1.0, 20.0)[seed % 3])
        found = rs.path_maximum(landscape, start, stop)
        grid, searched = sought(landscape, start, stop, points)
        assert found.tier == "exact"
        assert found.upper >= grid
        assert found.lower <= found.upper <= found.lower * (1 + 1e-10)
        assert found.lower == pytest.approx(searched, rel=1e-9)
        reached = landscape.loss((1 - found.position) * start + found.position * stop)
        assert reached == pytest.approx(found.lower, rel=1e-11)
        assert found.num_cells == rs.cells_crossed(landscape, start, stop)


DEEP = [
    {"widths": (2, 5, 2), "loss": "cross_entropy"},
    {"widths": (3, 6, 2), "loss": "cross_entropy", "slope": 0.25, "decay": 0.1},
    {"widths": (2, 5, 4, 2), "loss": "squared"},
    {"widths": (2, 5, 4, 3), "loss": "cross_entropy", "decay": 0.1},
    {"widths": (2, 5, 4, 1), "loss": "l1", "slope": 0.25},
    {"widths": (2, 5, 4, 4, 1), "loss": "half_squared", "bias": False},
    {"widths": (2, 6, 5, 5, 2), "loss": "l1"},
    {"widths": (2, 5, 5, 4, 4, 2), "loss": "squared"},
    {"widths": (2, 2), "loss": "cross_entropy"},
    {"widths": (2, 3), "loss": "squared"},
]


@pytest.mark.parametrize("plan", DEEP, ids=str)
def test_deep_networks_are_enclosed_to_the_gap(plan):
    for seed in range(3):
        landscape = landscape_of(**plan, seed=seed)
        start, stop = ends_of(landscape, seed, size=(0.5, 1.0, 4.0)[seed % 3])
        grid, searched = sought(landscape, start, stop, 501)
        for gap in (1e-1, 1e-3):
            found = rs.path_maximum(landscape, start, stop, relative_gap=gap)
            assert found.tier == "certified"
            assert found.upper >= searched >= grid
            assert found.lower <= searched * (1 + 1e-12)
            assert found.upper <= found.lower * (1 + gap) * (1 + 1e-9)


def test_a_level_is_decided_and_no_more():
    landscape = landscape_of((2, 5, 4, 2), "squared", seed=1)
    start, stop = ends_of(landscape, 1)
    largest = sought(landscape, start, stop, 501)[1]
    above = rs.path_maximum(landscape, start, stop, relative_gap=1e-9, level=1.05 * largest)
    below = rs.path_maximum(landscape, start, stop, relative_gap=1e-9, level=0.95 * largest)
    assert largest <= above.upper <= 1.05 * largest
    assert 0.95 * largest < below.lower <= largest * (1 + 1e-12) <= below.upper


def test_a_level_just_above_the_maximum_is_decided_whatever_the_gap():
    for seed in range(4):
        landscape = landscape_of((2, 5, 4, 2), "squared", seed=seed)
        start, stop = ends_of(landscape, seed)
        level = (1.0 + 1e-7) * sought(landscape, start, stop, 501)[1]
        assert rs.path_maximum(landscape, start, stop, relative_gap=0.1, level=level).upper <= level


def test_parts_run_out_with_a_larger_gap(monkeypatch):
    landscape = landscape_of((2, 5, 5, 4, 2), "squared", seed=2)
    start, stop = ends_of(landscape, 2)
    fine = rs.path_maximum(landscape, start, stop, relative_gap=1e-6)
    monkeypatch.setattr(bounding, "MAX_PARTS", 5)
    coarse = rs.path_maximum(landscape, start, stop, relative_gap=1e-6)
    searched = sought(landscape, start, stop, 201)[1]
    assert searched <= fine.upper <= (1 + 1.1e-6) * fine.lower < coarse.upper
    assert coarse.lower <= searched * (1 + 1e-12)


def test_batches_of_samples_change_nothing(monkeypatch):
    landscape = landscape_of((2, 5, 5, 4, 2), "cross_entropy", seed=2, count=23)
    ends = ends_of(landscape, 2)
    whole = rs.path_maximum(landscape, *ends)
    monkeypatch.setattr(bounding, "NUMBERS", 200)
    parts = rs.path_maximum(landscape, *ends)
    assert parts.upper == pytest.approx(whole.upper, rel=1e-12)


def test_deep_rectifiers_that_are_not_convex_are_sampled():
    landscape = landscape_of((2, 4, 3, 1), "squared", slope=2.0)
    found = rs.path_maximum(landscape, *ends_of(landscape, 0))
    assert found.tier == "sampled"


def test_the_readable_end_of_a_network_is_enough_where_nothing_before_it_moves():
    module = torch.nn.Sequential(
        torch.nn.Linear(2, 4), torch.nn.Tanh(), *dense((4, 5, 3, 1), seed=0)
    )
    inputs, targets = sample(8, 2, 1, "squared", seed=0)
    landscape = rs.Landscape(module, inputs, targets)
    start, stop = ends_of(landscape, 0)
    stop[:12] = start[:12]
    found = rs.path_maximum(landscape, start, stop)
    assert found.tier == "certified"
    assert found.lower <= sought(landscape, start, stop, 501)[1] <= found.upper
    stop[0] += 1.0
    assert rs.path_maximum(landscape, start, stop).tier == "sampled"


@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
def test_batch_norm_moves_with_its_scales_and_shifts(loss):
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Linear(2, 5), torch.nn.BatchNorm1d(5), torch.nn.ReLU(), torch.nn.Linear(5, 2)
    )
    inputs, targets = sample(30, 2, 2, loss, seed=0)
    for _ in range(50):
        module(torch.as_tensor(inputs, dtype=torch.float32))
    landscape = rs.Landscape(module, inputs, targets, loss=loss)
    start, stop = ends_of(landscape, 0)
    found = rs.path_maximum(landscape, start, stop)
    searched = sought(landscape, start, stop, 501)[1]
    assert found.tier == "certified"
    assert found.lower <= searched * (1 + 1e-12) <= found.upper <= 1.0011 * found.lower


def duplicates(landscape):
    """The same landscape of samples that occur four times, with coinciding kinks."""
    rows = np.repeat(np.arange(2), 4)
    module, inputs, targets = landscape.module_at(), landscape.inputs, landscape.targets
    return rs.Landscape(module, inputs[rows], targets[rows], loss=landscape.loss_name)


def single(landscape):
    """The same landscape of one sample."""
    module, inputs, targets = landscape.module_at(), landscape.inputs[:1], landscape.targets[:1]
    return rs.Landscape(module, inputs, targets, loss=landscape.loss_name)


@pytest.mark.parametrize("loss", ["squared", "l1", "cross_entropy"])
@pytest.mark.parametrize("widths", [(2, 4, 3), (2, 4, 4, 3)])
@pytest.mark.parametrize(
    "change", [None, duplicates, single], ids=["plain", "duplicates", "single"]
)
def test_degenerate_ends_are_enclosed(widths, loss, change):
    """Through zero, where all kinks meet; nothing or one number moving; dead units; any scale."""
    landscape = landscape_of(widths, loss, seed=3)
    landscape = landscape if change is None else change(landscape)
    a, b = ends_of(landscape, 3)
    dead = np.where(np.arange(landscape.size) < 12, 0.0, a)
    dead[8:12] = -1.0
    nudged = a + np.eye(landscape.size)[0]
    pairs = [(a, -a), (0 * a, 0 * a), (0 * a, a), (a, nudged), (dead, 2 * dead)]
    for start, stop in [*pairs, *((size * a, size * b) for size in (1e-8, 1e6))]:
        found = rs.path_maximum(landscape, start, stop)
        searched = sought(landscape, start, stop, 201)[1]
        assert found.lower <= searched * (1 + 1e-12)
        assert searched <= found.upper <= 1.0011 * found.lower


def test_a_perfect_fit_is_known_to_rounding():
    landscape = landscape_of((2, 4, 3), "squared")
    fitted = rs.Landscape(landscape.module_at(), landscape.inputs, landscape.outputs())
    found = rs.path_maximum(fitted, fitted.theta, fitted.theta)
    assert 0.0 <= found.lower <= found.upper < 1e-24


def test_a_quartic_by_hand():
    """One sample x = 1, target 0, no kink on the way: f = (1 + t)(2 - t), largest at t = 1/2."""
    landscape = landscape_of((1, 1, 1), "squared", count=1, bias=False)
    own = rs.Landscape(landscape.module_at(), np.ones((1, 1)), np.zeros((1, 1)))
    found = rs.path_maximum(own, [1.0, 2.0], [2.0, 1.0])
    assert found.position == pytest.approx(0.5, abs=1e-7)
    assert found.lower == pytest.approx(2.25**2, rel=1e-12)
    assert found.upper == pytest.approx(2.25**2, rel=1e-12)


def test_a_segment_of_no_length():
    landscape = landscape_of((2, 3, 1), "squared")
    found = rs.path_maximum(landscape, landscape.theta, landscape.theta)
    assert found.lower == pytest.approx(landscape.loss(), rel=1e-12)
    assert found.lower <= landscape.loss() <= found.upper
    assert found.num_cells == 1


def test_what_is_not_readable_is_sampled():
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    inputs, targets = sample(8, 2, 1, "squared", seed=0)
    landscape = rs.Landscape(module, inputs, targets)
    start, stop = ends_of(landscape, 0)
    found = rs.path_maximum(landscape, start, stop)
    assert found.tier == "sampled"
    assert (found.tier, found.upper) == ("sampled", np.inf)
    assert found.num_cells == -1
    assert found.lower == pytest.approx(sought(landscape, start, stop, 1001)[1], rel=1e-9)
    assert "sampled" in found.summary()


def test_refusals_say_what_was_expected():
    landscape = landscape_of((2, 3, 1), "squared")
    theta = landscape.theta
    with pytest.raises(InputError, match="shape"):
        rs.path_maximum(landscape, theta[:-1], theta)
    with pytest.raises(InputError, match="finite"):
        rs.path_maximum(landscape, theta, np.full_like(theta, np.nan))
    for gap in (0.0, -1.0, np.inf, np.nan, True, "small"):
        with pytest.raises(InputError, match="relative_gap"):
            rs.path_maximum(landscape, theta, theta, relative_gap=gap)
    for level in (np.nan, np.inf, True, "low"):
        with pytest.raises(InputError, match="level must be a finite number"):
            rs.path_maximum(landscape, theta, theta, level=level)


def test_the_readmes_example_runs(capsys):
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (code,) = (
        one for one in re.findall(r"```python\n(.*?)```", text, re.S) if "match_units" in one
    )
    exec(code, scope := {})
    assert scope["found"].tier == "certified"
    assert scope["matched"].distance < scope["matched"].distance_before
    assert capsys.readouterr().out.startswith("largest loss")


def test_results_are_saved_and_drawn(tmp_path):
    landscape = landscape_of((2, 3, 1), "squared")
    found = rs.path_maximum(landscape, *ends_of(landscape, 0))
    loaded = rs.PathMaximum.load(found.save(tmp_path / "maximum.nc"))
    assert repr(loaded) == repr(found)
    np.testing.assert_array_equal(loaded.losses, found.losses)
    np.testing.assert_array_equal(found.plot().data[0].y, found.losses)
    assert "exact" in found.summary()


@pytest.mark.parametrize(
    ("hidden", "loss", "scale"), [(1, "squared", 1e80), (1, "l1", 1e160), (2, "l1", 1e160)]
)
def test_what_overflows_is_not_bounded(hidden: int, loss: str, scale: float) -> None:
    """At the ends the factors' product is of the order of 1; between them it overflows."""
    module = dense((1,) * (hidden + 2), bias=False, seed=0)
    landscape = rs.Landscape(module, np.ones((1, 1)), np.zeros((1, 1)), loss=loss)
    a = np.full(hidden + 1, 1 / scale)
    b = a.copy()
    a[0] = b[-1] = scale
    with np.errstate(all="ignore"):
        found = rs.path_maximum(landscape, a, b)
    assert (found.tier, found.upper) == ("sampled", np.inf)


class Reused(torch.nn.Module):
    """A layer that is read holds a parameter which the part before it uses."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = torch.nn.Linear(2, 3), torch.nn.Linear(3, 1)
        self.layer.gain = torch.nn.Parameter(torch.ones(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.layer(torch.cos(x * self.layer.gain))))


class Normed(torch.nn.Module):
    """A batch norm in the readable end, and before it the same one or one of the same weight."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(2, 3), torch.nn.Linear(3, 3)
        self.late = self.early = torch.nn.BatchNorm1d(3)
        if tied:
            self.early = torch.nn.BatchNorm1d(3)
            self.early.weight = self.late.weight
        self.out = torch.nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.cos(3.0 * self.early(self.first(x)))
        return self.out(torch.relu(self.late(self.second(hidden))))


@pytest.mark.parametrize(
    ("module", "shared"),
    [
        (Reused(), "layer.gain"),
        (Normed(tied=False), "late.weight"),
        (Normed(tied=True), "late.weight"),
    ],
    ids=["a further parameter", "one norm twice", "norms of one weight"],
)
def test_a_parameter_is_read_only_as_what_its_layer_reads(module, shared) -> None:
    """The part before it is even in the parameter: its sign changes no features, its size does."""
    first, last = copy.deepcopy(module).eval(), module.eval()
    with torch.no_grad():
        for model, sign in ((first, 1.0), (last, -1.0)):
            if isinstance(model, Normed):
                model.early.bias.zero_()
            model.get_parameter(shared).mul_(sign)
    landscape = rs.Landscape(first, *sample(8, 2, 1, "squared", seed=0))
    stop = torch.nn.utils.parameters_to_vector(last.parameters()).detach().double()
    assert rs.path_maximum(landscape, landscape.theta, stop.numpy()).tier == "sampled"
