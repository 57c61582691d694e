"""Curvature bounds of networks with batch norm, beside a dense Hessian of the network written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import reluscape as rs
from reluscape.convex import why_unbounded
from reluscape.unfolded import unfolded

SMOOTH = ("squared", "half_squared", "cross_entropy")


def normed(seed: int) -> nn.Sequential:
    """Up to four linear layers; batch norm before or behind rectifiers or at the end."""
    rng = np.random.default_rng([3, seed])
    torch.manual_seed(seed)
    widths = [*rng.integers(1, 5, 2 + seed % 3).tolist(), 2]
    parts: list[nn.Module] = []
    for place in range(len(widths) - 1):
        last = place == len(widths) - 2
        linear = nn.Linear(widths[place], widths[place + 1], bias=bool(rng.integers(2)))
        norm = nn.BatchNorm1d(widths[place + 1], affine=bool(rng.integers(2)))
        rectifier = nn.LeakyReLU(0.3) if seed % 4 == 3 else nn.ReLU()
        order = int(rng.integers(3))
        behind = [[norm, rectifier], [rectifier, norm], [rectifier]][order]
        parts += [linear, *(behind if not last else [norm] * (seed % 3 == 0))]
    if not any(isinstance(part, nn.BatchNorm1d) for part in parts):
        parts.insert(1, nn.BatchNorm1d(widths[1]))
    with torch.no_grad():
        for part in parts:
            if isinstance(part, nn.BatchNorm1d):
                part.running_mean.normal_()  # type: ignore[union-attr]
                part.running_var.uniform_(0.2, 3.0)  # type: ignore[union-attr]
                for parameter in part.parameters():
                    parameter.normal_()
    return nn.Sequential(*parts).double().eval()


def landscape_of(seed: int) -> rs.Landscape:
    rng = np.random.default_rng([5, seed])
    model, loss = normed(seed), SMOOTH[seed % 3]
    samples = int(rng.integers(1, 12))
    x = rng.normal(size=(samples, model[0].in_features))
    y = rng.integers(0, 2, samples) if loss == "cross_entropy" else rng.normal(size=(samples, 2))
    return rs.Landscape(model, x, y, loss=loss, weight_decay=float(rng.uniform(0, 2)))


def hessian(seed: int) -> np.ndarray:
    """The dense Hessian of the loss written out in functions of one flat vector."""
    model, landscape = normed(seed), landscape_of(seed)
    x, y = torch.from_numpy(landscape.inputs), torch.from_numpy(landscape.targets)

    def objective(theta: torch.Tensor) -> torch.Tensor:
        values, at = x, 0

        def take(shape: tuple[int, ...]) -> torch.Tensor:
            nonlocal at
            at += int(np.prod(shape))
            return theta[at - int(np.prod(shape)) : at].view(shape)

        for part in model:
            if isinstance(part, nn.Linear):
                values = values @ take(tuple(part.weight.shape)).T
                values = values if part.bias is None else values + take(tuple(part.bias.shape))
            elif isinstance(part, nn.BatchNorm1d):
                assert part.running_mean is not None
                assert part.running_var is not None
                values = (values - part.running_mean) / torch.sqrt(part.running_var + part.eps)
                if part.affine:
                    width = (values.shape[1],)
                    values = values * take(width) + take(width)
            else:
                slope = part.negative_slope if isinstance(part, nn.LeakyReLU) else 0.0
                values = torch.where(values > 0, values, slope * values)
        if landscape.loss_name == "cross_entropy":
            loss = functional.cross_entropy(values, y)
        else:
            loss = ((values - y) ** 2).sum() / len(x)
            loss = loss / 2 if landscape.loss_name == "half_squared" else loss
        return loss + landscape.weight_decay / 2 * (theta**2).sum()

    return np.asarray(
        torch.autograd.functional.hessian(objective, torch.from_numpy(landscape.theta)).numpy()
    )


@pytest.mark.parametrize("start", range(0, 30, 10))
def test_bounds_hold_in_their_order_with_batch_norm(start: int) -> None:
    for seed in range(start, start + 10):
        landscape = landscape_of(seed)
        found = rs.convexity(landscape)
        values = np.linalg.eigvalsh(hessian(seed))
        margin = 1e-11 * max(1.0, np.abs(values).max())
        assert found.reason == ""
        assert found.exact == pytest.approx(values[0], abs=margin)
        assert found.paper_bound <= found.sharp_bound <= found.data_bound
        assert found.data_bound <= values[0] + 1e-3 * margin
        verdict = rs.verify(found, landscape)
        assert verdict.valid, (seed, verdict.reason)


def test_unfolding_changes_no_output_and_counts_every_parameter() -> None:
    for seed in range(20):
        landscape = landscape_of(seed)
        found = unfolded(landscape)
        outputs = found.network(landscape.inputs)
        np.testing.assert_allclose(outputs, landscape.outputs(), rtol=1e-12, atol=1e-12)
        parts = zip(found.network.affine, found.movable, found.diagonal, strict=True)
        sizes = [
            (len(one.weight) if diagonal else one.weight.size)
            + (0 if one.bias is None else one.bias.size)
            for one, moves, diagonal in parts
            if moves
        ]
        assert sum(sizes) == landscape.size
        at_zero = landscape.at(np.zeros(landscape.size)).outputs()
        np.testing.assert_allclose(found.outputs_at_zero(len(outputs)), at_zero, atol=1e-14)


def test_above_the_covering_decay_weights_of_little_loss_lie_in_the_region() -> None:
    """All weights with a loss of at most that of zeros do, so also the global minimisers."""
    rng = np.random.default_rng(1)
    tried = 0
    for seed in range(8):
        landscape = landscape_of(seed)
        covering = rs.convexity(landscape).covering_decay
        if covering == 0.0:
            continue
        covered = rs.Landscape(
            landscape.module_at(), landscape.inputs, landscape.targets,
            loss=landscape.loss_name, weight_decay=1.01 * covering,
        )  # fmt: skip
        zero = covered.loss(np.zeros(covered.size))
        reach = np.sqrt(2 * zero / covered.weight_decay)
        theta = 0.5 * reach * rng.normal(size=covered.size) / np.sqrt(covered.size)
        for _ in range(12):
            if covered.loss(theta) <= zero:
                tried += 1
                assert rs.convexity(covered, theta).in_data_region
            theta = theta - 0.2 / covered.weight_decay * covered.gradient(theta)
    assert tried > 40


def test_the_covering_decay_has_the_statistics_for_a_factor() -> None:
    """f = v w x / 2 and M = 1: E = 2 l^(1/2) <= 2; the samples are (1, 1) and (2, 1)."""
    norm = nn.BatchNorm1d(1, affine=False, eps=1e-300)
    assert norm.running_var is not None
    norm.running_var.fill_(4.0)
    model = nn.Sequential(nn.Linear(1, 1, bias=False), norm, nn.Linear(1, 1, bias=False))
    found = rs.convexity(rs.Landscape(model, [[1.0], [2.0]], [1.0, -1.0]))
    assert found.hidden_layers == 1
    assert found.covering_decay == pytest.approx(2.0 * 0.5 * np.sqrt((2.0 + 5.0) / 2.0))
    assert found.paper_covering_decay == pytest.approx(2.0 * 0.5 * 2.0 * np.sqrt(5.0))


def test_bounds_are_attained_behind_a_fixed_layer() -> None:
    """f = v w x / 2, at zero: the direction (1, 1) has the curvature -|slope| / 2 + decay."""
    norm = nn.BatchNorm1d(1, affine=False, eps=1e-300)
    assert norm.running_var is not None
    norm.running_var.fill_(4.0)
    model = nn.Sequential(nn.Linear(1, 1, bias=False), norm, nn.Linear(1, 1, bias=False))
    landscape = rs.Landscape(model, [[1.0]], [3.0], loss="half_squared", weight_decay=0.25)
    found = rs.convexity(landscape, np.zeros(2))
    assert found.exact == pytest.approx(0.25 - 1.5)
    assert found.data_bound == pytest.approx(0.25 - 1.5)


def test_what_cannot_be_bounded_is_still_told() -> None:
    norm = nn.BatchNorm1d(3)
    twice = nn.Sequential(nn.Linear(3, 3), norm, nn.Linear(3, 3), norm, nn.Linear(3, 2))
    landscape = rs.Landscape(twice.eval(), np.ones((2, 3)), np.ones((2, 2)))
    assert "share" in why_unbounded(landscape)
    assert np.isnan(rs.convexity(landscape).data_bound)
