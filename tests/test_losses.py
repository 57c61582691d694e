"""The four losses against autograd, their formulas and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nets import LOSSES, loss_of

from reluscape import losses as package
from reluscape.errors import InputError
from reluscape.losses import make_loss
from reluscape.validation import check_targets


def draw(loss: str, seed: int, samples: int = 6, outputs: int = 3, scale: float = 1.0):
    rng = np.random.default_rng(seed)
    values = scale * rng.normal(size=(samples, outputs))
    if loss == "cross_entropy":
        return values, rng.integers(0, outputs, size=samples)
    return values, rng.normal(size=(samples, outputs))


def test_the_four_losses_by_hand():
    outputs, targets = np.array([[1.0, 2.0], [3.0, -1.0]]), np.array([[0.0, 4.0], [3.0, 0.0]])
    assert make_loss("squared").value(outputs, targets) == (1 + 4 + 0 + 1) / 2
    assert make_loss("half_squared").value(outputs, targets) == (1 + 4 + 0 + 1) / 4
    assert make_loss("l1").value(outputs, targets) == (1 + 2 + 0 + 1) / 2
    expected = (np.log(1 + np.e) + np.log(1 + np.exp(-4.0))) / 2
    found = make_loss("cross_entropy").value(outputs, np.array([0, 0]))
    assert found == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", LOSSES)
def test_value_slope_and_curvature_are_torchs(name, seed):
    outputs, targets = draw(name, seed)
    loss = make_loss(name)
    assert loss.name == name
    tensor = torch.tensor(outputs, requires_grad=True)
    value = loss_of(name, tensor, targets)
    assert loss.value(outputs, targets) == pytest.approx(value.item(), rel=1e-13)
    slope = torch.autograd.grad(value, tensor)[0].numpy()
    np.testing.assert_allclose(loss.slope(outputs, targets), slope, atol=1e-14)
    hessian = torch.autograd.functional.hessian(
        lambda f: loss_of(name, f, targets), torch.tensor(outputs)
    ).numpy()
    curvature = loss.curvature(outputs)
    assert curvature.shape == (6, 3, 3)
    for one in range(6):
        np.testing.assert_allclose(curvature[one], hessian[one, :, one], atol=1e-14)


@pytest.mark.parametrize("name", LOSSES)
def test_slope_is_the_finite_difference(name):
    outputs, targets = draw(name, 9)
    step = 1e-6 * np.random.default_rng(0).normal(size=outputs.shape)
    loss = make_loss(name)
    rise = loss.value(outputs + step, targets) - loss.value(outputs - step, targets)
    assert (loss.slope(outputs, targets) * 2 * step).sum() == pytest.approx(rise, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("size", [1e-12, 1e-4, 1.0])
def test_slope_error_bounds_the_slopes_change(name, size):
    rng = np.random.default_rng(3)
    loss = make_loss(name)
    widest = 0.0
    for seed in range(30):
        outputs, targets = draw(name, seed, scale=3.0)
        errors = size * rng.random(outputs.shape) * rng.integers(0, 2, size=outputs.shape)
        signs = rng.choice([-1.0, 1.0], size=outputs.shape)
        moved = outputs + errors * signs
        if name == "l1" and ((moved > targets) != (outputs > targets)).any():
            continue  # its slope is constant on a cell only
        bound = loss.slope_error(outputs, errors)
        change = np.abs(loss.slope(moved, targets) - loss.slope(outputs, targets))
        assert (change <= bound + 2e-15).all()
        widest = max(widest, float((change / (bound + 1e-300)).max()))
    assert widest > 0.05 or name == "l1"


def test_slope_error_of_the_l1_loss_is_zero():
    assert not make_loss("l1").slope_error(np.ones((2, 2)), np.ones((2, 2))).any()


def test_l1_slope_at_a_zero_residual_is_that_of_the_side_below():
    slope = make_loss("l1").slope(np.array([[1.0], [2.0]]), np.array([[1.0], [1.0]]))
    np.testing.assert_array_equal(slope, [[-0.5], [0.5]])


def test_cross_entropy_does_not_overflow():
    outputs, targets = np.array([[1e4, -1e4], [-1e4, 1e4]]), np.array([0, 0])
    loss = make_loss("cross_entropy")
    assert loss.value(outputs, targets) == pytest.approx(1e4)
    np.testing.assert_allclose(loss.slope(outputs, targets), [[0, 0], [-0.5, 0.5]])
    assert np.isfinite(loss.curvature(outputs)).all()


@pytest.mark.parametrize("name", ["mse", "", "Squared", None])
def test_an_unknown_loss_lists_the_known(name):
    with pytest.raises(InputError, match="squared, half_squared, l1, cross_entropy; received"):
        make_loss(name)


def test_the_list_of_losses():
    assert package.LOSSES == LOSSES


@pytest.mark.parametrize("name", ["squared", "half_squared", "l1"])
def test_numbers_become_float64_of_the_outputs_shape(name):
    for targets in (np.array([1, 2, 3]), np.array([[1.0], [2.0], [3.0]], dtype=np.float32)):
        checked = check_targets(name, targets, (3, 1))
        assert checked.dtype == np.float64
        np.testing.assert_array_equal(checked, [[1.0], [2.0], [3.0]])


@pytest.mark.parametrize(
    "targets",
    [
        np.array([0, 2, 1], dtype=np.int8),
        np.array([[0], [2], [1]], dtype=np.uint64),
        np.array([0.0, 2.0, 1.0]),
    ],
)
def test_labels_become_int64(targets):
    checked = check_targets("cross_entropy", targets, (3, 3))
    assert checked.dtype == np.int64
    np.testing.assert_array_equal(checked, [0, 2, 1])


@pytest.mark.parametrize(
    ("name", "targets", "shape", "match"),
    [
        ("squared", np.zeros(2), (3, 1), "3 inputs and 2 targets"),
        ("squared", np.zeros((3, 2)), (3, 1), r"must have shape \(3, 1\)"),
        ("l1", np.zeros(3), (3, 2), r"must have shape \(3, 2\)"),
        ("l1", np.array([0.0, np.nan, 1.0]), (3, 1), "finite; received 1 NaN"),
        ("half_squared", np.array([0.0, np.inf, -np.inf]), (3, 1), "finite; received 2 NaN"),
        ("squared", np.array(["a", "b", "c"]), (3, 1), "real numbers"),
        ("squared", np.array([1j, 2, 3]), (3, 1), "real numbers"),
        ("cross_entropy", np.zeros(3, dtype=int), (3, 1), "at least 2 outputs"),
        ("cross_entropy", np.zeros((3, 2), dtype=int), (3, 2), r"argmax\(1\)"),
        ("cross_entropy", np.array([0.5, 0.0, 1.0]), (3, 2), "integer class indices"),
        ("cross_entropy", np.array([np.nan, 0.0, 1.0]), (3, 2), "integer class indices"),
        ("cross_entropy", np.array([0.0, np.inf, 1.0]), (3, 2), "class indices"),
        ("cross_entropy", np.array([0, 1, 2]), (3, 2), r"0\.\.1 for 2 outputs; received 0\.\.2"),
        ("cross_entropy", np.array([-1, 1, 0]), (3, 2), r"received -1\.\.1"),
        ("cross_entropy", np.array([0, 1, 2**64 - 1], dtype=np.uint64), (3, 2), "class indices"),
        ("cross_entropy", np.array(["a", "b", "c"]), (3, 2), "integer class indices"),
    ],
)
def test_unfit_targets_raise_one_line(name, targets, shape, match):
    with pytest.raises(InputError, match=match) as caught:
        check_targets(name, targets, shape)
    assert "\n" not in str(caught.value)
