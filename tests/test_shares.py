"""Concave kinks paid for by convex ones, against rays of arrangements, probing and forgeries."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from nets import dense
from torch import nn

import reluscape as rs
from reluscape.certificate import pack_shares, unpack_shares
from reluscape.errors import InputError
from reluscape.shares import find_shares


def rate(normals: np.ndarray, jumps: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """`sum_k s_k max(a_k . d, 0)` along some directions (rows)."""
    return np.maximum(directions @ normals.T, 0.0) @ jumps


def arrangement(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kinks in the plane, some concave, with the rays between which their sum is linear."""
    rng = np.random.default_rng(seed)
    normals = rng.normal(size=(int(rng.integers(5, 30)), 2))
    jumps = rng.choice([1.0, 1.0, 1.0, -1.0], len(normals)) * rng.uniform(0.2, 1.0, len(normals))
    across = np.column_stack([-normals[:, 1], normals[:, 0]])
    return normals, jumps, np.vstack([across, -across])


def test_shares_are_found_only_where_the_loss_falls_in_no_direction() -> None:
    """In the plane the least rate is on one of finitely many rays."""
    found, falling = 0, 0
    for seed in range(120):
        normals, jumps, rays = arrangement(seed)
        gradient = 0.1 * normals.T @ np.random.default_rng(seed).normal(size=len(normals))
        least = (rays @ gradient + rate(normals, jumps, rays)).min()
        shares = find_shares(normals, gradient, jumps, np.zeros((len(jumps), len(jumps))))
        falling += least < -1e-9
        if shares is not None:
            found += 1
            assert least >= -1e-9, seed
    assert found > 12
    assert falling > 12


def test_shares_are_what_they_say() -> None:
    """Weights write the gradient, relations vanish, and what they leave bounds the rate from below."""
    for seed in range(120):
        normals, jumps, _ = arrangement(seed)
        shares = find_shares(normals, np.zeros(2), jumps, np.zeros((len(jumps), len(jumps))))
        if shares is None:
            continue
        weights, relations = shares.weights, shares.relations
        np.testing.assert_allclose(normals.T @ weights, 0.0, atol=1e-12)
        np.testing.assert_allclose(relations @ normals, 0.0, atol=1e-12)
        amounts = -np.diag(relations)
        assert (amounts >= 0).all()
        others = relations + np.diag(amounts)
        low = weights - np.maximum(-others, 0).sum(axis=0)
        high = jumps - weights + amounts - np.maximum(others, 0).sum(axis=0)
        assert min(low.min(), high.min()) >= -1e-12
        directions = np.random.default_rng(seed).normal(size=(1000, 2))
        moves = directions @ normals.T
        bound = np.maximum(moves, 0) @ high + np.maximum(-moves, 0) @ low
        assert (rate(normals, jumps, directions) >= bound - 1e-9).all()


def zero_unit(count: int, dims: int, *, heavier: float = 1.0, seed: int = 0) -> rs.Landscape:
    """A unit of weight zero; the inputs of its concave kinks are means of three of convex ones.

    By Jensen's inequality the loss falls in no direction as long as a concave kink weighs no more than
    its three convex ones together; `heavier` of the outputs' weight makes it more.
    """
    rng = np.random.default_rng(seed)
    convex = rng.normal(size=(count, 3, dims))
    concave = convex.mean(axis=1)
    inputs = np.vstack([convex.reshape(-1, dims), *[concave] * int(heavier)])
    model = nn.Sequential(nn.Linear(dims, 1), nn.ReLU(), nn.Linear(1, 1)).double()
    with torch.no_grad():
        for value in model.parameters():
            value.zero_()
        model[2].weight.fill_(1.0)
    targets = np.where(np.arange(len(inputs)) < 3 * count, -1.0, 1.0)[:, None]
    return rs.Landscape(model, inputs, targets, loss="l1")


@cache
def certified(count: int, dims: int, arithmetic: str = "float64") -> rs.Certificate:
    landscape = zero_unit(count, dims)
    return rs.certify(landscape.block(0), arithmetic=arithmetic)


@pytest.mark.parametrize(
    ("count", "dims", "arithmetic"),
    [(12, 2, "float64"), (40, 4, "float64"), (12, 2, "rational")],
)
def test_a_unit_at_zero_is_a_minimum(count: int, dims: int, arithmetic: str) -> None:
    landscape, found = zero_unit(count, dims), certified(count, dims, arithmetic)
    assert found.claim == "local_minimum"
    assert len(found.shares) > count
    assert rs.verify(found, landscape).valid
    block = landscape.block(0)
    steps = np.random.default_rng(1).normal(size=(2000, block.size))
    assert all(block.loss(block.theta + step) >= block.loss() for step in steps)


def test_where_concave_kinks_weigh_more_nothing_is_claimed() -> None:
    """Ten times the concave samples: the loss falls, and that must never be called a minimum."""
    landscape = zero_unit(20, 2, heavier=10.0)
    block = landscape.block(0)
    steps = np.random.default_rng(1).normal(size=(2000, block.size))
    assert min(block.loss(block.theta + 1e-3 * step) for step in steps) < block.loss()
    found = rs.certify(block)
    assert found.claim in ("undecided", "not_stationary", "saddle")
    assert not found.shares.size


def test_a_certificate_with_shares_survives_its_file(tmp_path) -> None:
    found = certified(12, 2)
    again = rs.Certificate.load(found.save(tmp_path / "c.json"))
    np.testing.assert_array_equal(again.shares, found.shares)
    assert rs.verify(again, zero_unit(12, 2)).valid


@pytest.mark.parametrize("arithmetic", ["float64", "rational"])
def test_forged_shares_are_rejected(arithmetic: str) -> None:
    landscape, found = zero_unit(12, 2), certified(12, 2, arithmetic)
    shares = found.shares
    kinks = len(found.active_kinks)
    own = shares[:, 0] == shares[:, 1]
    forged = {
        "none": shares[:0],
        "fewer": shares[1:],
        "more": np.vstack([shares, shares[-1:]]),
        "other": np.where(own[:, None], shares, shares * [1, 1, 1 + 1e-6]),
        "twice": np.where(own[:, None], shares * [1, 1, 2], shares),
        "turned": shares * [1, 1, -1],
        "free": shares[own],
        "unordered": shares[::-1],
        "beyond": shares + np.array([0, kinks, 0]),
        "between": shares + np.array([0.5, 0, 0]),
        "nan": shares * [1, 1, np.nan],
        "huge": shares * [1, 1, 1e150],
    }
    for name, wrong in forged.items():
        assert not rs.verify(replace(found, shares=wrong).signed(), landscape).valid, name


def test_shares_where_no_claim_needs_them_are_rejected() -> None:
    landscape = zero_unit(12, 2)
    found = certified(12, 2)
    heavier = zero_unit(20, 2, heavier=10.0)
    for about, honest in (
        (landscape, rs.certify(landscape.block(1))),
        (heavier, rs.certify(heavier.block(0))),
        (landscape, rs.certify(landscape)),
    ):
        forged = replace(honest, shares=found.shares)
        assert not rs.verify(forged.signed(), about).valid


def test_packing_shares_is_reversible() -> None:
    relations = np.array([[-1.0, 0.5, 0.0], [0.0, 0.0, 0.0], [0.25, 0.0, -2.0]])
    packed = pack_shares(relations)
    np.testing.assert_array_equal(unpack_shares(packed, 3), relations)
    np.testing.assert_array_equal(unpack_shares(pack_shares(None), 3), np.zeros((3, 3)))
    with pytest.raises(InputError, match="ascending"):
        unpack_shares(packed[[1, 0, 2, 3]], 3)
    with pytest.raises(InputError, match="places"):
        unpack_shares(packed, 2)
    with pytest.raises(InputError, match="positive amount"):
        unpack_shares(np.array([[0.0, 0.0, 1.0]]), 3)


def test_a_deep_unit_that_a_descent_brings_to_zero() -> None:
    """Hundreds of a deep unit's kinks may meet at the end: which of several, rounding decides."""
    widths, seed, count = (4, 5, 4, 2, 1), 79, 500
    rng = np.random.default_rng(seed)
    model = dense(widths, seed=seed)
    layers = [part for part in model.modules() if isinstance(part, nn.Linear)]
    with torch.no_grad():
        for size, layer in zip((20, 1, 1, 1), layers, strict=True):
            for value in layer.parameters():
                value.copy_(torch.from_numpy(rng.uniform(-size, size, tuple(value.shape))))
    rng = np.random.default_rng(seed)
    inputs, targets = rng.uniform(-3, 3, (count, 4)), rng.uniform(-3, 3, (count, 1))
    landscape = rs.Landscape(model, inputs, targets, loss="l1")
    block = landscape.block(0)
    end = rs.descend(block)
    assert end.status in ("minimum", "strict_minimum")
    assert rs.verify(end.certificate, landscape).valid
    for size in (1e-6, 1e-4, 1e-2):
        for step in size * np.random.default_rng(2).normal(size=(300, block.size)):
            assert block.loss(end.theta + step) >= end.loss * (1 - 1e-12)
