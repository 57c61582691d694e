"""`verify` of a convexity: what is true passes, what was changed does not."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_convexity import BOUNDS, Case, Convolutional, case, sequential
from torch import nn

import reluscape as rs
from reluscape.check_convexity import MAX_WORK, ByHand
from reluscape.check_curvature import passes_of
from reluscape.unfolded import unfolded


@pytest.mark.parametrize("start", range(0, 30, 10))
def test_what_was_found_on_random_networks_passes(start: int) -> None:
    for seed in range(start, start + 10):
        landscape = case(seed).landscape()
        for max_dense in (2000, 0)[: 1 + (landscape.size >= 3)]:
            found = rs.convexity(landscape, max_dense=max_dense)
            verdict = rs.verify(found, landscape)
            assert verdict.valid, (seed, verdict.reason)
            assert ("within" in verdict.reason) == (found.method == "dense")


def test_products_by_hand_are_those_of_a_dense_hessian() -> None:
    for seed in range(25):
        one = case(seed)
        here = one.landscape()
        assert here.reading is not None
        passes = passes_of(unfolded(here), here.reading.features, here.targets, one.loss)
        product = ByHand.of(here, passes)
        hessian = np.array([product(row) for row in np.eye(here.size)])
        expected = one.hessian()
        np.testing.assert_allclose(hessian, expected, atol=1e-12 * max(1, np.abs(expected).max()))


# ---- changed fields ----------------------------------------------------------------------------

CHANGES: list[tuple[str, Any, str]] = [
    ("paper_bound", lambda one: one.paper_bound - 1e-3, "paper_bound is"),
    ("paper_bound", lambda one: one.paper_bound + 1e-3, "paper_bound is"),
    ("sharp_bound", lambda one: one.sharp_bound + 1e-4, "sharp_bound is"),
    ("data_bound", lambda one: one.data_bound + 1e-4, "data_bound is"),
    ("data_bound", lambda one: one.data_bound - 1e-4, "data_bound is"),
    ("exact", lambda one: one.exact + 1e-6, "direction has curvature"),
    ("exact", lambda one: one.exact - 1e-6, "direction has curvature"),
    ("error", lambda one: -1.0, "none"),
    ("error", lambda one: np.nan, "another order"),
    ("method", lambda one: "guess", "no known method"),
    ("in_region", lambda one: not one.in_region, "other regions"),
    ("in_sharp_region", lambda one: not one.in_sharp_region, "other regions"),
    ("in_data_region", lambda one: None, "other regions"),
    ("covering_decay", lambda one: 0.99 * one.covering_decay, "covers not all"),
    ("covering_decay", lambda one: 1.01 * one.covering_decay, "larger than it need be"),
    ("paper_covering_decay", lambda one: 0.99 * one.paper_covering_decay, "covers not all"),
    ("paper_covering_decay", lambda one: np.inf, "is none"),
    ("lowest_minimum", lambda one: 1.01 * one.lowest_minimum, "excludes too much"),
    ("lowest_minimum", lambda one: 0.99 * one.lowest_minimum, "excludes more"),
    ("lowest_minimum", lambda one: np.nan, "excludes too much"),
    ("linear", lambda one: True, "linear is False"),
    ("biased", lambda one: True, "biased is False"),
    ("hidden_layers", lambda one: 1, "hidden_layers is 2"),
    ("active_kinks", lambda one: 3, "0 to 0 kinks"),
    ("kinks_checked", lambda one: False, "kinks_checked is True"),
    ("weight_decay", lambda one: 0.25, "weight decay 0.25, not 0.5"),
    ("loss", lambda one: one.loss * (1 + 1e-6), "its loss is"),
    ("objective", lambda one: "squared", "the loss 'squared', not 'half_squared'"),
    ("theta", lambda one: one.theta + 1e-6, "its loss is"),
    ("theta", lambda one: one.theta[1:], "theta is none of this"),
    ("direction", lambda one: np.roll(one.direction, 1), "direction has curvature"),
    ("direction", lambda one: 2.0 * one.direction, "length one"),
    ("direction", lambda one: np.full(one.theta.shape, np.nan), "direction is none"),
    ("reason", lambda one: "no time", "there are bounds"),
]  # fmt: skip


@pytest.fixture(scope="module")
def subject() -> tuple[rs.Landscape, rs.Convexity]:
    """Two hidden layers without biases: every field says something."""
    rng = np.random.default_rng(3)
    torch.manual_seed(1)
    x = rng.normal(size=(20, 3))
    net = sequential([3, 4, 3, 1], [False, False, False], 0.0, 1.0)
    one = Case(net, x, np.sin(x[:, :1]), "half_squared", 0.5, 0.0)
    landscape = one.landscape()
    return landscape, rs.convexity(landscape)


def test_every_field_has_its_change(subject: tuple[rs.Landscape, rs.Convexity]) -> None:
    assert {name for name, _, _ in CHANGES} == set(subject[1].__dataclass_fields__)
    assert rs.verify(subject[1], subject[0]).valid


@pytest.mark.parametrize(("field", "change", "words"), CHANGES)
def test_a_changed_field_is_rejected(
    subject: tuple[rs.Landscape, rs.Convexity], tmp_path: Path, field: str, change: Any, words: str
) -> None:
    landscape, found = subject
    tampered = replace(found, **{field: change(found)})
    verdict = rs.verify(tampered, landscape)
    assert not verdict.valid
    assert words in verdict.reason
    assert "\n" not in verdict.reason
    assert not rs.verify(tampered.save(tmp_path / "one.nc"), landscape).valid


def test_another_eigenvector_is_no_smallest_one(
    subject: tuple[rs.Landscape, rs.Convexity],
) -> None:
    landscape, found = subject
    values, vectors = np.linalg.eigh(landscape.hessian())
    other = replace(found, exact=float(values[1]), direction=vectors[:, 1].copy())
    assert values[1] > values[0] + 1e-6
    assert "eigenvalue is smaller than it says" in rs.verify(other, landscape).reason
    told = rs.verify(
        replace(other, method="lanczos"), landscape
    )  # claims only that it is no larger
    assert told.valid
    assert "or less" in told.reason
    mixed = vectors[:, 0] * np.cos(0.01) + vectors[:, 5] * np.sin(0.01)
    value = float(mixed @ landscape.hessian() @ mixed)
    mixed_up = replace(found, exact=value, direction=mixed, method="lanczos", error=1e-9)
    assert "off an eigenvector" in rs.verify(mixed_up, landscape).reason


def test_that_a_positive_value_of_lanczos_shows_convexity_is_never_said() -> None:
    one = case(0, hidden=1)
    one.decay = 30.0
    landscape = one.landscape()
    dense = rs.convexity(landscape)
    assert dense.in_data_region
    assert "is strongly convex here" in rs.verify(dense, landscape).reason
    large = sequential([60, 40, 1], [True, True], 0.0, 0.5)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(int(MAX_WORK / 2481**2) + 1, 60))
    landscape = rs.Landscape(large, x, x[:, :1], weight_decay=0.5)
    found = rs.convexity(landscape)
    assert found.method == "lanczos"
    claimed = replace(found, method="dense", error=1e-9)
    told = rs.verify(claimed, landscape)
    assert "within" not in told.reason
    assert not told.reason.count("is strongly convex here") or found.in_data_region


# ---- what else there is ------------------------------------------------------------------------


def test_a_file_and_other_weights_and_data(
    subject: tuple[rs.Landscape, rs.Convexity], tmp_path: Path
) -> None:
    landscape, found = subject
    path = found.save(tmp_path / "convexity.nc")
    verdict = rs.verify(path, landscape)
    assert verdict.valid
    assert verdict.reason.startswith("recomputed from network and data: with its switches frozen")
    elsewhere = landscape.at(0.5 * landscape.theta)
    assert rs.verify(path, elsewhere).valid  # it is about its own point
    data = rs.Landscape(landscape.module_at(), landscape.inputs, -landscape.targets,
                        loss="half_squared", weight_decay=0.5)  # fmt: skip
    assert "its loss is" in rs.verify(path, data).reason
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "digest does not match" in rs.verify(path, landscape).reason


def test_networks_without_bounds_are_multiplied_by_pytorch() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 1, 4, 4)), rng.normal(size=(300, 2))
    torch.manual_seed(0)
    landscape = rs.Landscape(Convolutional(), x, y, weight_decay=0.1)
    found = rs.convexity(landscape)
    assert rs.verify(found, landscape).valid
    assert (
        "direction has curvature"
        in rs.verify(replace(found, exact=found.exact + 1e-3), landscape).reason
    )
    for name in (*BOUNDS, "covering_decay", "paper_covering_decay", "lowest_minimum"):
        assert "no reason" in rs.verify(replace(found, **{name: -9.0}), landscape).reason
    for name in ("in_region", "in_sharp_region", "in_data_region", "biased", "linear"):
        assert not rs.verify(replace(found, **{name: True}), landscape).valid
    assert not rs.verify(replace(found, active_kinks=1), landscape).valid
    assert "no bounds: 20 parameters" in rs.verify(replace(found, reason=""), landscape).reason


def test_kinks_that_are_zero_count_as_they_did() -> None:
    net = sequential([2, 2, 1], [True, True], 0.0, 1.0)
    theta = np.array([0.1, 0.2, 1.0, 1.0, -0.1 * 3 - 0.2 * 0.1, 5.0, 1.0, 1.0, 0.0])
    landscape = rs.Landscape(net, [[3.0, 0.1], [1.0, 1.0]], [0.0, 1.0], weight_decay=0.1)
    found = rs.convexity(landscape, theta)
    assert found.active_kinks == 1
    assert rs.verify(found, landscape).valid


def test_a_bound_for_one_choice_of_signs_is_rejected() -> None:
    """With both samples off the bound would be the weight decay; next to it the curvature is -1.17."""
    net = sequential([1, 1, 1], [False, False], 0.0, 1.0)
    landscape = rs.Landscape(
        net, [[1.0], [-1.0]], [[3.0], [3.0]], loss="half_squared", weight_decay=0.1
    )
    found = rs.convexity(landscape, [0.0, 1.0])
    assert rs.verify(found, landscape).valid
    claim = replace(found, data_bound=found.exact, in_data_region=True)
    assert "its data_bound is" in rs.verify(claim, landscape).reason


def test_bounds_at_kinks_of_several_layers_pass() -> None:
    rng = np.random.default_rng(3)
    met = 0
    for trial in range(40):
        slope, biases = (0.0, 0.2, -1.5)[trial % 3], [trial % 2 == 1] * 3
        net = sequential([2, 3, 2, 1], biases, slope, 1.0)
        x = rng.integers(-2, 3, (4, 2)).astype(float)
        landscape = rs.Landscape(net, x, rng.normal(size=(4, 1)), weight_decay=0.5)
        found = rs.convexity(landscape, rng.integers(-1, 2, landscape.size).astype(float))
        met += found.active_kinks > 0
        assert rs.verify(found, landscape).valid, rs.verify(found, landscape).reason
    assert met > 30


def test_a_linear_regression_passes() -> None:
    landscape = rs.Landscape(
        nn.Linear(2, 1), [[1.0, 2.0], [0.5, 1.0]], [1.0, 2.0], weight_decay=0.3
    )
    found = rs.convexity(landscape)
    assert rs.verify(found, landscape).valid
    assert not rs.verify(replace(found, covering_decay=0.1), landscape).valid


def test_fields_of_other_types_are_rejected(
    subject: tuple[rs.Landscape, rs.Convexity],
) -> None:
    landscape, found = subject
    for change in ({"theta": None}, {"exact": "much"}, {"error": None}, {"covering_decay": None}):
        verdict = rs.verify(replace(found, **change), landscape)
        assert not verdict.valid
        assert "\n" not in verdict.reason


# ---- where numbers vanish or overflow ----------------------------------------------------------


def network_of(*weights: list[list[float]], bias: float | None = None) -> nn.Module:
    """Layers of these weights; the first one's biases are all the same, if it has any."""
    layers: list[nn.Module] = []
    for place, rows in enumerate(weights):
        weight = torch.tensor(rows, dtype=torch.float64)
        biased = place == 0 and bias is not None
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=biased, dtype=torch.float64)
        layer.weight.data = weight
        if biased:
            nn.init.constant_(layer.bias, bias or 0.0)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


ZERO = [[0.0, 0.0], [0.0, 0.0]]
DEGENERATE: dict[str, tuple[nn.Module, Any, Any, str, float]] = {
    "dead": (network_of([[1.0, 0.5], [0.2, 1.0]], [[1.0, 2.0]], bias=-9.0),
             [[1.0, 2.0], [0.5, 1.0]], [1.0, 2.0], "squared", 0.0),
    "dead, softmax": (network_of([[0.0, -1.0]], [[1.0], [0.0]], [[-1.0, -2.0], [2.0, 1.0]]),
                      [[0.0, 1.0]], [1], "cross_entropy", 0.0),
    "dead, targets of zero": (network_of([[-2.0, 0.0]], [[0.0], [-2.0]], [[1.0, -2.0]], [[2.0]]),
                              [[1.0, 2.0]], [0.0], "half_squared", 0.1),
    "inputs of zero": (network_of([[-2.0], [-1.0]], [[2.0, -2.0]], [[-1.0]], [[-1.0], [2.0]]),
                       [[0.0]], [0], "cross_entropy", 1.0),
    "zero first layer": (network_of([[0.0]], [[-2.0]]),
                         [[0.0], [-1.0]], [-2.0, -1.0], "half_squared", 0.0),
    "all zero": (network_of(ZERO, ZERO, ZERO), [[1.0, 2.0]], [1], "cross_entropy", 0.0),
}  # fmt: skip


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_networks_pass(name: str) -> None:
    net, x, y, loss, decay = DEGENERATE[name]
    landscape = rs.Landscape(net, np.array(x), np.array(y), loss=loss, weight_decay=decay)
    for max_dense in (2000, 0):
        found = rs.convexity(landscape, max_dense=max_dense)
        verdict = rs.verify(found, landscape)
        assert verdict.valid, verdict.reason
        for change in (1e-6, -1e-2):
            forged = replace(found, sharp_bound=found.sharp_bound + change)
            assert "its sharp_bound is" in rs.verify(forged, landscape).reason


def test_only_inputs_of_zero_exclude_all_minima(
    subject: tuple[rs.Landscape, rs.Convexity],
) -> None:
    forged = replace(subject[1], lowest_minimum=np.inf)
    assert "lowest_minimum is finite" in rs.verify(forged, subject[0]).reason


def test_small_integer_networks_pass() -> None:
    """Kinks, dead units, vanishing Hessians: whatever exact zeros bring."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        classes = 2 if seed % 2 else 1
        widths = [*rng.integers(1, 4, size=2 + seed % 3), classes]
        weights = [rng.integers(-2, 3, (b, a)) for a, b in pairwise(widths)]
        bias = None if seed % 5 else float(rng.integers(-2, 3))
        net = network_of(*(one.astype(float).tolist() for one in weights), bias=bias)
        samples = int(rng.integers(1, 5))
        x = rng.integers(-1, 3, (samples, widths[0])).astype(float)
        y = rng.integers(0, 2, samples)
        loss = "cross_entropy" if classes == 2 else ("squared", "half_squared")[seed % 4 // 2]
        decay = (0.0, 0.1, 1.0)[seed // 2 % 3]
        landscape = rs.Landscape(net, x, y if classes == 2 else y - 1.0, loss=loss,
                                 weight_decay=decay)  # fmt: skip
        for max_dense in (2000, 0):
            verdict = rs.verify(rs.convexity(landscape, max_dense=max_dense), landscape)
            assert verdict.valid, (seed, verdict.reason)


@pytest.mark.parametrize("size", [1.0, 6.0, 30.0, 1000.0])
def test_saturated_softmax_passes(size: float) -> None:
    """Large outputs: probabilities are off by as much as these are rounded."""
    for seed in range(6):
        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        widths = [3, *rng.integers(1, 5, size=1 + seed % 4), 3]
        net = sequential(widths, [bool(seed % 2)] * (len(widths) - 1), 0.0, 1.0)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.mul_(size)
        x = rng.normal(size=(1 + 4 * (seed % 3), 3))
        if seed % 3:  # a kink in the first unit
            x[0] = 0.0
        landscape = rs.Landscape(net, x, rng.integers(0, 3, len(x)), loss="cross_entropy",
                                 weight_decay=0.01 * (seed % 2))  # fmt: skip
        found = rs.convexity(landscape)
        verdict = rs.verify(found, landscape)
        assert verdict.valid, (seed, verdict.reason)


def test_a_larger_error_is_a_weaker_claim(subject: tuple[rs.Landscape, rs.Convexity]) -> None:
    landscape, found = subject
    told = rs.verify(replace(found, error=0.125), landscape)
    assert told.valid
    assert "(within 0.1)" in told.reason
    nothing = rs.verify(replace(found, error=np.inf), landscape)
    assert nothing.valid
    assert "(or less)" in nothing.reason
