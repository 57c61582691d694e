"""Points built to deceive: claims that were once false, and forgeries that were once accepted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import reluscape as rs
from reluscape.certificate import MINIMA


def chain(*matrices: list[list[float]]) -> nn.Sequential:
    """Layers without biases and ReLUs between them."""
    parts: list[nn.Module] = []
    for matrix in matrices:
        layer = nn.Linear(len(matrix[0]), len(matrix), bias=False).double()
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(matrix, dtype=torch.float64))
        parts += [layer, nn.ReLU()]
    return nn.Sequential(*parts[:-1])


NESTED = [[[0.0]], [[1.0]], [[1.0]]]


@pytest.mark.parametrize("arithmetic", ["float64", "rational"])
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_nested_kinks_at_zero_hide_no_descent(arithmetic: str, decay: float) -> None:
    """(relu(relu(t)) - 1)^2 at t = 0: crossing either kink alone changes nothing, both together fall."""
    landscape = rs.Landscape(chain(*NESTED), np.array([[1.0]]), np.array([1.0]), weight_decay=decay)
    block = landscape.block(0)
    certificate = rs.certify(block, arithmetic=arithmetic)
    assert block.loss(np.array([0.5])) < block.loss()
    assert certificate.claim not in MINIMA
    assert certificate.active_kinks.tolist() == [0, 1]
    assert rs.verify(certificate, landscape).valid


@pytest.mark.parametrize("arithmetic", ["float64", "rational"])
@pytest.mark.parametrize("claim", ["plateau", "local_minimum"])
def test_nested_kinks_cannot_be_left_out(arithmetic: str, claim: str) -> None:
    landscape = rs.Landscape(chain(*NESTED), np.array([[1.0]]), np.array([1.0]))
    honest = rs.certify(landscape.block(0), arithmetic=arithmetic)
    none = np.empty(0)
    forged = replace(
        honest,
        claim=claim,
        active_kinks=none.astype(np.intp),
        multipliers=none,
        slopes=np.empty((0, 2)),
        cells=np.empty((0, 0)),
        gradient_norm=0.0,
        rest_norm=0.0,
        curvature=0.0 if claim == "local_minimum" else None,
        exact_multipliers=(),
    ).signed()
    assert not rs.verify(forged, landscape).valid


def flat() -> rs.Landscape:
    """L1 with duplicate samples, constant for 0 < w_2 < 1."""
    inputs = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    return rs.Landscape(chain([[0.0, 0.0]]), inputs, np.array([0.0, 0.0, 0.0, 1.0]), loss="l1")


def test_flat_directions_of_dependent_kinks_are_not_strict() -> None:
    landscape = flat()
    honest = rs.certify(landscape.block(0), arithmetic="rational")
    assert honest.claim == "local_minimum"
    cells = np.where(honest.cells == 0, 1e-300, honest.cells)
    forged = replace(
        honest, claim="strict_local_minimum", cells=cells, margin=float(cells.min())
    ).signed()
    assert not rs.verify(forged, landscape).valid


@pytest.mark.parametrize("seed", range(6))
def test_duplicate_samples_agree_with_probing(seed: int) -> None:
    """Random L1 regressions with duplicates at their kinks, probed in all directions."""
    rng = np.random.default_rng(seed)
    inputs = np.repeat(rng.integers(-2, 3, (3, 2)), 2, axis=0).astype(float)
    targets = rng.integers(0, 2, 6).astype(float)
    landscape = rs.Landscape(chain([[0.0, 0.0]]), inputs, targets, loss="l1")
    block = landscape.block(0)
    certificate = rs.certify(block, arithmetic="rational")
    assert rs.verify(certificate, landscape).valid
    angles = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    steps = 1e-3 * np.column_stack([np.cos(angles), np.sin(angles)])
    changes = np.array([block.loss(step) for step in steps]) - block.loss()
    if certificate.claim in MINIMA:
        assert changes.min() >= -1e-15
    if certificate.claim == "strict_local_minimum":
        assert changes.min() > 1e-9
    if certificate.claim in {"not_stationary", "saddle"}:
        assert changes.min() < 0


@pytest.mark.parametrize("weight", [300.0, 800.0, 1e8])
def test_separable_data_far_out_are_certified_without_overflow(weight: float) -> None:
    landscape = rs.Landscape(
        chain([[weight], [-weight]]), np.array([[1.0], [-1.0]]), np.array([0, 1]), loss="cross_entropy"
    )  # fmt: skip
    certificate = rs.certify(landscape.block(0), arithmetic="rational")
    assert certificate.claim == "not_stationary"
    np.testing.assert_allclose(certificate.direction, [np.sqrt(0.5), -np.sqrt(0.5)])
    assert rs.verify(certificate, landscape).valid


def test_descents_too_small_for_a_float_direction_are_undecided() -> None:
    inputs = np.array([[1e3 / 3, 700.0], [0.1, 0.1], [0.2, 0.1], [-0.3, -0.2]])
    targets = -np.array([0.0, 1.0, 1.0, 1.0])
    landscape = rs.Landscape(chain([[0.0, 0.0]]), inputs, targets, loss="l1")
    certificate = rs.certify(landscape.block(0), arithmetic="rational")
    assert certificate.claim == "undecided"
    assert rs.verify(certificate, landscape).valid
