"""Claims where an earlier layer cancels, so that normals and residuals are rounded."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

import reluscape as rs
from reluscape.arithmetic import Float64
from reluscape.certificate import IN_FAN, unpack_pattern
from reluscape.dependent import Cells, _coincident, margins
from reluscape.local import Local
from reluscape.point import Point

MINIMA = ("strict_local_minimum", "local_minimum", "plateau")


def linear(weight: np.ndarray, bias: np.ndarray | None = None) -> nn.Linear:
    """A layer with these weights."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias))
    return layer


def cancelling(seed: int) -> tuple[rs.Block, np.ndarray, Fraction]:
    """A unit behind a layer that takes large numbers from each other; its point, and its least slope."""
    rng = np.random.default_rng(seed)
    large = 1e6 * float(rng.uniform(1, 2))
    off = large * float(rng.uniform(0.3, 0.9))
    raw = np.array([[1, 1e-5, 0], [-1, 0, 0], [1, 0, 0], [0, 1, 2], [0, 0, 1]], dtype=np.float64)
    x = np.column_stack([raw[:, 0], (raw[:, 1] + off) / large, raw[:, 2]])
    first, shift = np.diag([1.0, large, 1.0]), np.array([0.0, -off, 0.0])
    hidden = x @ first + shift
    share = np.linalg.solve(hidden[:2, :2].T, hidden[3, :2])
    outputs = np.array([[0, 0], [0, 0], [0, 0], [2, 1], [1, 0]], dtype=np.float64)
    rest = np.zeros((5, 2))
    rest[:, 0] = [share[0] * (1 + 3e-6), 3 * abs(share[1]), -0.1 * abs(share[0]), -1, 1.5]
    rest[4, 1] = 1.0
    y = outputs - rest
    model = nn.Sequential(
        linear(first, shift), linear(np.zeros((1, 3))),
        linear(np.ones((2, 1)), np.array([0.0, -1.0])), nn.ReLU(), linear(np.eye(2)),
    )  # fmt: skip
    block, theta = rs.Landscape(model, x, y).block(1), np.array([0.0, 0.0, 1.0])
    rows = [[Fraction(value) for value in row] for row in hidden.tolist()]
    for own, given in zip(rows, x.tolist(), strict=True):
        own[1] = Fraction(large) * Fraction(given[1]) - Fraction(off)
    exact = [
        [Fraction(a) - Fraction(b) for a, b in zip(*pair, strict=True)]
        for pair in zip(outputs.tolist(), y.tolist(), strict=True)
    ]

    def slope(direction: list[Fraction]) -> Fraction:
        found = Fraction(0)
        for sample, (own, (one, other)) in enumerate(zip(rows, exact, strict=True)):
            change = sum(a * b for a, b in zip(own, direction, strict=True))
            found += one * (change if sample > 2 else max(change, Fraction(0)))
            if sample > 2:
                found += other * (max(change, Fraction(0)) if sample == 4 else change)
        return found * 2 / 5

    ways = [
        [side * -rows[k][1] / rows[k][0], Fraction(side), -side * rows[4][1]]
        for k in range(3)
        for side in (1, -1)
    ]
    return block, theta, min(slope(way) for way in ways)


def test_rounded_normals_make_no_minimum_of_what_falls() -> None:
    falling = 0
    for seed in range(30):
        block, theta, slope = cancelling(seed)
        if slope < -1e-12:
            falling += 1
            certificate = rs.certify(block, theta)
            assert not (certificate.claim in MINIMA and np.array_equal(certificate.theta, theta))
    assert falling > 5


def test_large_weights_on_normals_that_depend_but_for_rounding_are_rejected() -> None:
    """The relation between two normals is rounded: weights of 1e9 write any gradient by it."""
    large, slope = 1e6 / 3, 0.25
    x = np.array([[1.0 + 1e-6], [1.0 + 3.3e-6]])
    other = 1.0 + slope * 1e-3
    model = nn.Sequential(
        linear(np.array([[large]]), np.array([1 / 7 - large])), nn.ReLU(), linear(np.zeros((1, 1))),
        linear(np.array([[1.0], [-1.0]])), nn.LeakyReLU(slope),
        linear(np.array([[slope * other - 1e-3, other]])),
    )  # fmt: skip
    landscape = rs.Landscape(model, x, np.array([[-1.0], [-1.0]]))
    block = landscape.block(1)
    certificate = rs.certify(block, np.zeros(1))
    assert certificate.claim not in MINIMA
    at = Point.at(block, certificate.theta)
    weights = np.zeros((1, 4))
    weights[0, 0] = 1e9
    weights[0, 2] = -(at.gradient[0] + weights[0, 0] * at.normals[0, 0]) / at.normals[2, 0]
    forged = replace(
        certificate, claim="strict_local_minimum", direction=None, cells=weights, sides=("****",),
        shares=np.empty((0, 3)), slopes=np.empty((0, 2)), margin=0.006011, curvature=None, radius=0.0,
    ).signed()  # fmt: skip
    found = rs.verify(forged, landscape)
    assert not found.valid
    assert "recomputed: 'undecided'" in found.reason


@pytest.mark.parametrize("seed", range(6))
def test_jumps_that_rounding_of_residuals_hides_show_no_strict_minimum(seed: int) -> None:
    """Three samples alike: residuals of 1e-3, beside outputs of 1e7, sum to zero but for rounding."""
    rng = np.random.default_rng(seed)
    near, large = float(rng.uniform(0.05, 0.2)), 1e8 * float(rng.uniform(1, 2))
    x = np.array([[near], [near], [near], [-1.0], [-1.0]])
    fitted = large * near
    y = np.array([[fitted + 1e-3], [fitted - 3e-4], [fitted - 7e-4], [-1.0], [-1.0]])
    model = nn.Sequential(linear(np.zeros((2, 1))), nn.ReLU(), linear(np.ones((1, 2))))
    landscape = rs.Landscape(model, x, y)
    found = rs.certify(landscape.block(0), np.array([large, 0.0]))
    pattern = unpack_pattern(found.pattern, found.num_kinks)
    at = landscape, "0", Float64(), found.theta, pattern, found.active_kinks
    local, count = Local.at(*at), len(found.active_kinks)
    sides = np.zeros((1, count), dtype=np.int8)
    sides[0, _coincident(local).first] = IN_FAN
    left = margins(local, Cells(sides, np.zeros((1, count))))
    assert left is None or not (left > 0).all()


def test_targets_far_below_ones_do_not_end_in_an_error_of_linear_algebra() -> None:
    x = np.array([[3.0, 0.0], [0.0, -2.0], [2.0, 1.0], [-1.0, 1.0]])
    y = 1e-136 * np.array([[1.0], [2.0], [3.0], [0.0]])
    model = nn.Sequential(
        linear(np.zeros((2, 2))), nn.ReLU(), linear(1e-176 * np.array([[1.0, -2.0]]), np.zeros(1))
    )
    block = rs.Landscape(model, x, y, loss="half_squared", weight_decay=0.01).block(0)
    assert rs.certify(block, np.zeros(4)).claim in (*MINIMA, "undecided")
