"""How high a segment is seen to rise where nothing is proved: peaks between the points of a grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import reluscape as rs
from reluscape.strings.peaks import highest_seen
from reluscape.strings.training import Schedule

Floats = NDArray[np.float64]
TIMES = np.linspace(0.0, 1.0, 33)


def tent(t: float, at: float, rise: float, fall: float) -> float:
    """A kink of height 1 at a position."""
    return 1.0 - (rise * (at - t) if t < at else fall * (t - at))


#: Functions on [0, 1] with where they are highest and how high.
PEAKS: dict[str, tuple[Callable[[float], float], float, float]] = {
    "smooth": (lambda t: 1.0 - (t - 0.51) ** 2, 0.51, 1.0),
    "a kink": (lambda t: tent(t, 0.3771, 4.0, 1.0), 0.3771, 1.0),
    "a steep kink next to a point": (lambda t: tent(t, 0.5 + 1e-5, 9.0, 900.0), 0.5 + 1e-5, 1.0),
    "next to the start": (lambda t: tent(t, 0.004, 50.0, 3.0), 0.004, 1.0),
    "next to the end": (lambda t: tent(t, 0.997, 2.0, 80.0), 0.997, 1.0),
    "at the start": (lambda t: 2.0 - t, 0.0, 2.0),
    "lower on the grid than another": (
        lambda t: max(tent(t, 0.25, 1.0, 1.0) - 0.02, tent(t, 0.703, 1.5, 1.5)), 0.703, 1.0,
    ),
    "negative": (lambda t: -3.0 - abs(t - 0.21), 0.21, -3.0),
}  # fmt: skip


@pytest.mark.parametrize("name", PEAKS)
def test_a_peak_between_points_is_found(name: str) -> None:
    function, position, height = PEAKS[name]
    asked: list[float] = []

    def value(t: float) -> float:
        asked.append(t)
        return function(t)

    found = highest_seen(value, TIMES, np.array([function(t) for t in TIMES]))
    assert found == pytest.approx((height, position), abs=1e-8)
    assert found[0] == pytest.approx(height, rel=1e-9)
    assert function(found[1]) == found[0]
    assert all(0.0 <= t <= 1.0 for t in asked)
    assert len(asked) <= 150


def test_what_does_not_rise_between_points_is_not_searched() -> None:
    def refused(t: float) -> float:
        raise AssertionError(t)

    for values in (
        np.zeros(33),
        TIMES,
        TIMES[::-1],
        (TIMES - 0.5) ** 2,
        np.where(TIMES < 0.5, 1.0, np.inf),
    ):
        height, position = highest_seen(refused, TIMES, values)
        assert height == values.max() == values[round(32 * position)]


def test_values_that_are_no_numbers_are_above_every_level() -> None:
    def value(t: float) -> float:
        return float("nan") if 0.50 < t < 0.53 else tent(t, 0.515, 1.0, 1.0)

    assert (
        highest_seen(value, TIMES, np.array([tent(t, 0.515, 1.0, 1.0) for t in TIMES]))[0] == np.inf
    )


class Alone(nn.Module):
    """Rectifiers whose output weights are no parameters, written as a sum that no proof reads."""

    def __init__(self, inputs: int, signs: Floats) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, signs.shape[1])
        self.register_buffer("signs", torch.as_tensor(signs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (torch.relu(self.first(x))[:, None] * self.signs).sum(dim=2)


def basins(seed: int) -> tuple[rs.Landscape, Floats, Floats, float] | None:
    """Such a landscape, the minimum of its tree that lasts longest, the global one, and their barrier."""
    rng = np.random.default_rng(seed)
    inputs, targets = rng.normal(size=(5, 1)), rng.normal(size=(5, 1))
    signs, loss = rng.choice([-1.0, 1.0], size=(1, 2)), ("squared", "l1")[seed % 2]
    module = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        module[2].weight.copy_(torch.as_tensor(signs))
    tree = rs.merge_tree(rs.Landscape(module, inputs, targets, loss=loss).block(0))
    above = np.where(np.isfinite(tree.deaths), tree.deaths - tree.losses, -1.0)
    k = int(above.argmax())
    if above[k] <= 0.0 or k == 0:
        return None
    landscape = rs.Landscape(Alone(1, signs).double(), inputs, targets, loss=loss)
    level = tree.barrier(tree.minima[k], tree.minima[0]).level
    return landscape, tree.minima[k], tree.minima[0], float(level)


def test_sampled_strings_do_not_pass_below_the_barrier_of_the_tree() -> None:
    short, count = Schedule(max_steps=40), 0
    for seed in range(100):
        found = basins(seed)
        if found is None:
            continue
        landscape, start, stop, barrier = found
        for method in ("greedy", "bezier"):
            string = rs.connect(
                landscape, start, stop, 1.001 * barrier, method=method, max_depth=3, schedule=short
            )
            assert string.tier == "sampled"
            assert string.maximum >= (1.0 - 1e-9) * barrier, (seed, method)
        count += 1
    assert count >= 50


class Tent(nn.Module):
    """|1 - |w - 0.5013||, whose loss has its peak between the points of a grid from 0 to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (1.0 - (self.weight - 0.5013).abs()).abs() * x


def test_a_path_is_not_connected_below_a_level_that_it_passes_between_points() -> None:
    landscape = rs.Landscape(Tent(), np.ones((1, 1)), np.zeros((1, 1)))
    grid = max(landscape.loss([t]) for t in np.linspace(0.0, 1.0, 257))
    assert grid < 0.9995
    found = rs.connect(landscape, [0.0], [1.0], 0.9995, max_depth=2, schedule=Schedule(max_steps=5))
    assert found.status == "not_found"
    assert found.maximum == pytest.approx(1.0, rel=1e-9)
    assert found.straight_lower == pytest.approx(1.0, rel=1e-9)
    assert rs.verify(found, landscape).valid
    above = rs.connect(landscape, [0.0], [1.0], 1.0005)
    assert (above.status, above.tier) == ("connected", "sampled")
    assert above.maximum == pytest.approx(1.0, rel=1e-9)
    assert above.positions[0] == pytest.approx(0.5013, abs=1e-9)
    assert rs.verify(above, landscape).valid
    seen = np.array([landscape.loss([128 / 256])])
    lower = {"lower": seen, "positions": np.array([0.5]), "maximum": float(seen[0])}
    grid_alone = replace(above, **lower, straight_lower=float(seen[0]))
    assert "segment 0 rises to 1" in rs.verify(grid_alone, landscape).reason
