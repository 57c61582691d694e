"""Points built to deceive: claims that were once false, and forgeries that were once accepted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from nets import dense
from torch import nn

import reluscape as rs
from reluscape.certificate import MINIMA
from reluscape.errors import InputError


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


# --- forged and extreme numbers ------------------------------------------------------------------


def on_duplicates() -> rs.Landscape:
    """|w| on two equal samples and |5 w - 10|: at zero the loss falls."""
    model = nn.Linear(1, 1, bias=False).double()
    torch.nn.init.zeros_(model.weight)
    inputs, targets = np.array([[1.0], [1.0], [5.0]]), np.array([[0.0], [0.0], [10.0]])
    return rs.Landscape(model, inputs, targets, loss="l1")


@pytest.mark.parametrize("size", [1e3, 1e8, 1e13, 1e16, 1e50, 1e99, 1e200, np.inf, np.nan])
@pytest.mark.parametrize("small", [0.1, None])
@pytest.mark.parametrize("arithmetic", ["float64", "rational"])
def test_large_weights_do_not_hide_a_gradient(
    size: float, small: float | None, arithmetic: str
) -> None:
    landscape = on_duplicates()
    found = rs.certify(landscape.block(0), arithmetic=arithmetic)
    assert found.claim == "not_stationary"
    other = size if small is None else small
    forged = replace(
        found, claim="strict_local_minimum", direction=None, slopes=np.empty((0, 2)), margin=0.1,
        sides=("+0", "-0"), cells=np.array([[-size, other], [size, -other if small is None else other]]),
    )  # fmt: skip
    assert not rs.verify(forged.signed(), landscape).valid


@pytest.mark.parametrize("name", ["multipliers", "theta", "slopes", "cells"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e307])
def test_numbers_beyond_use_are_rejected(name: str, value: float) -> None:
    landscape = on_duplicates()
    for arithmetic in ("float64", "rational"):
        found = rs.certify(landscape.block(0), arithmetic=arithmetic)
        forged = replace(found, **{name: np.full(getattr(found, name).shape or (1,), value)})
        if getattr(forged, name).size:
            assert not rs.verify(forged.signed(), landscape).valid


def test_other_spellings_and_types_are_rejected() -> None:
    landscape = on_duplicates()
    found = rs.certify(landscape.block(0), arithmetic="rational")
    whole = rs.certify(landscape)
    for forged, about in [
        (replace(found, pattern=found.pattern.upper() + " "), landscape),
        (replace(found, exact_theta=tuple(" " + text for text in found.exact_theta)), landscape),
        (replace(found, direction=0.5), landscape),
        (replace(whole, sides=("a",)), landscape),
    ]:
        assert not rs.verify(forged.signed(), about).valid


def test_certificates_of_rounded_decimals_are_accepted() -> None:
    """Residuals and curvatures that are zero but for rounding."""
    hinge = dense((2, 2, 1), seed=0)
    set_layers(hinge, [[[0, 0], [-0.2, -0.1]], [[0.6, -0.6]]], [[0, 0], [0.0030000000000000005]])
    inputs = np.array([[0, 0.2], [-0.2, 0.2], [0, -0.2]])
    targets = np.array([[0], [-0.009000000000000001], [-0.009000000000000001]])
    landscape = rs.Landscape(hinge, inputs, targets, loss="squared")
    assert rs.verify(rs.certify(landscape.block(0)), landscape).valid


def set_layers(model: nn.Module, weights: list, biases: list) -> None:
    """Replace the weights of a module's linear layers."""
    layers = [part for part in model.modules() if isinstance(part, nn.Linear)]
    with torch.no_grad():
        for layer, weight, bias in zip(layers, weights, biases, strict=True):
            layer.weight.copy_(torch.tensor(weight, dtype=torch.float64))
            layer.bias.copy_(torch.tensor(bias, dtype=torch.float64))


@pytest.mark.parametrize("scale", [1e60, 1e160, 1e200])
def test_data_beyond_float64s_squares_are_refused(scale: float) -> None:
    inputs = np.random.default_rng(0).normal(size=(9, 3)) * scale
    with pytest.raises(InputError, match="rescale"):
        rs.Landscape(dense((3, 4, 1), seed=0), inputs, np.zeros((9, 1)), loss="squared")
