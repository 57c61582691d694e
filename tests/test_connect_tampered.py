"""`verify` of heights that were changed: of segments, and of the straight line between the ends."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import reluscape as rs
from reluscape.strings.training import Schedule

X = np.random.default_rng(0).normal(size=(40, 3))
Y = np.abs(X).sum(axis=1, keepdims=True)
#: Kinds of networks, by the tier of their strings.
ACTIVATIONS = {"certified": nn.ReLU, "sampled": nn.Tanh}


@cache
def models(tier: str) -> tuple[rs.Landscape, tuple[nn.Module, nn.Module]]:
    """Two trained networks of two hidden layers."""
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        layers = [nn.Linear(3, 8), ACTIVATIONS[tier](), nn.Linear(8, 8), ACTIVATIONS[tier]()]
        module = nn.Sequential(*layers, nn.Linear(8, 1)).double()
        optimiser = torch.optim.Adam(module.parameters(), lr=0.02)
        for _ in range(200):
            optimiser.zero_grad()
            (module(torch.as_tensor(X)) - torch.as_tensor(Y)).square().mean().backward()
            optimiser.step()
        found.append(module)
    return rs.Landscape(found[0], X, Y), (found[0], found[1])


def worse(tier: str) -> float:
    """Loss of the worse end."""
    return max(rs.Landscape(end, X, Y).loss() for end in models(tier)[1])


@cache
def connected(tier: str) -> rs.Connection:
    """A string of several segments."""
    landscape, ends = models(tier)
    found = rs.connect(landscape, *ends, 1.5 * worse(tier))
    assert (found.status, found.tier) == ("connected", tier)
    assert found.num_beads > 2
    return found


@cache
def straight(tier: str) -> rs.Connection:
    """A string that is the straight line."""
    landscape, ends = models(tier)
    found = rs.connect(landscape, *ends, 50.0)
    assert (found.status, found.tier, found.num_beads) == ("connected", tier, 2)
    return found


@cache
def failed(tier: str) -> rs.Connection:
    """A string that stays above its level."""
    landscape, ends = models(tier)
    short = Schedule(max_steps=2)
    found = rs.connect(landscape, *ends, 1.1 * worse(tier), max_depth=2, schedule=short)
    assert (found.status, found.tier) == ("not_found", "sampled")
    return found


def coarser(found: rs.Connection) -> rs.Connection:
    """Looked at in the beads alone, where it is lowest."""
    curve, line = found.curve[:, [0, -1]], found.straight[[0, -1]]
    told: dict[str, Any] = {
        "curve": curve, "straight": line, "straight_lower": float(line.max()),
        "straight_upper": np.inf, "straight_tier": "sampled",
    }  # fmt: skip
    if found.status == "not_found":
        ends = np.where(curve[:, 0] >= curve[:, 1], 0.0, 1.0)
        told |= {"lower": curve.max(axis=1), "positions": ends, "maximum": float(curve.max())}
    return replace(found, **told)


def higher(found: rs.Connection, factor: float, upper: float = 1.0) -> rs.Connection:
    """With a straight line that is said to rise further."""
    upper *= found.straight_upper
    return replace(found, straight_lower=factor * found.straight_lower, straight_upper=upper)


@pytest.mark.parametrize("tier", ACTIVATIONS)
@pytest.mark.parametrize("make", [connected, straight, failed])
def test_what_was_not_changed_is_valid(make: Any, tier: str) -> None:
    checked = rs.verify(make(tier), models(tier)[0])
    assert checked.valid, checked.reason


@pytest.mark.parametrize("tier", ACTIVATIONS)
@pytest.mark.parametrize("make", [connected, straight, failed])
@pytest.mark.parametrize(
    "change",
    [coarser, partial(higher, factor=1.01), partial(higher, factor=1.01, upper=2.0),
     partial(higher, factor=0.99)],
)  # fmt: skip
def test_changed_heights_are_rejected(make: Any, tier: str, change: Any) -> None:
    assert not rs.verify(change(make(tier)), models(tier)[0]).valid


def test_a_straight_line_cannot_be_called_sampled_to_be_lower() -> None:
    landscape, _ = models("certified")
    found = connected("certified")
    line = replace(found, straight_tier="sampled", straight_upper=np.inf)
    assert rs.verify(line, landscape).valid  # what is proved may also be said to have been seen
    for factor in (0.99, 1.01):
        assert not rs.verify(higher(line, factor), landscape).valid


def test_a_sampled_path_is_looked_at_between_the_points_of_its_curve() -> None:
    found, (landscape, _) = straight("sampled"), models("sampled")
    best, seen = int(found.curve[0].argmax()), float(found.curve[0].max())
    assert seen < (1.0 - 1e-6) * found.maximum
    told: dict[str, Any] = {
        "lower": np.array([seen]), "positions": np.array([best / (found.curve.shape[1] - 1)]),
        "maximum": seen, "straight_lower": seen,
    }  # fmt: skip
    assert "segment 0 rises to" in rs.verify(replace(found, **told), landscape).reason
