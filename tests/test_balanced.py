"""Blocks whose input columns differ by orders of magnitude: the claims are those of the plain columns.

Multiplying a column by 2^e and its weights by 2^-e changes nothing that plain arithmetic sees: minima are
found in plain columns, moved to uneven ones, and certified there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import fuzz
import numpy as np
import pytest
from oracles import Instance
from sklearn.datasets import load_diabetes, load_wine

import reluscape as rs
from reluscape.balanced import balanced
from reluscape.certificate import MINIMA, Certificate
from reluscape.data import load_data
from reluscape.train import mlp

SHAPES = ((2, 2, 1), (3, 2, 1), (3, 2, 2), (2, 3, 2, 1), (4, 2, 2, 1))
SEEDS = range(20)


def plain(seed: int, *, samples: int = 16) -> Instance:
    """A random network and data; every third block is a deeper layer's."""
    rng = np.random.default_rng(seed)
    widths = SHAPES[seed % len(SHAPES)]
    pairs = list(zip(widths[1:], widths, strict=False))
    weights = tuple(rng.normal(size=pair) for pair in pairs)
    bias = seed % 4 > 0
    biases = tuple(rng.normal(size=pair[0]) if bias else None for pair in pairs)
    inputs, targets = (rng.normal(size=(samples, width)) for width in (widths[0], widths[-1]))
    return Instance(weights, biases, 0.0, inputs, targets, "l1", int(seed % 3 == 0))


def factors_of(instance: Instance, seed: int) -> np.ndarray:
    """Powers of two between 2^-12 and 2^12, one for each input of the block."""
    count = instance.weights[instance.block].shape[1]
    powers = np.random.default_rng(seed).integers(-12, 13, count)
    powers[0] = 12 if seed % 2 else -12
    return np.exp2(powers)


def uneven(instance: Instance, factors: np.ndarray) -> Instance:
    """The same function, the inputs of the block times the factors and its weights over them."""
    block, weights, biases = instance.block, list(instance.weights), list(instance.biases)
    weights[block] = weights[block] / factors
    if block == 0:
        return replace(instance, inputs=instance.inputs * factors, weights=tuple(weights))
    weights[block - 1] = weights[block - 1] * factors[:, None]
    bias = biases[block - 1]
    biases[block - 1] = None if bias is None else bias * factors
    return replace(instance, weights=tuple(weights), biases=tuple(biases))


def scale_of(instance: Instance, factors: np.ndarray) -> np.ndarray:
    """What the block's parameters are multiplied by in uneven columns."""
    units, bias = len(factors), instance.biases[instance.block]
    rows = np.tile(1.0 / factors, len(instance.weights[instance.block]))
    assert len(rows) % units == 0
    return rows if bias is None else np.append(rows, np.ones(len(bias)))


@cache
def ended(seed: int) -> tuple[Instance, rs.Descent]:
    """A plain instance and its descent."""
    instance = plain(seed)
    return instance, rs.descend(fuzz.block_of(instance))


def never_falls(instance: Instance, theta: np.ndarray, scale: np.ndarray, seed: int) -> bool:
    """Whether the loss falls along no random direction, nor along any edge, in plain NumPy."""
    rng = np.random.default_rng(seed)
    ways = fuzz.directions(instance.at(theta), 400, rng) * scale
    here = fuzz.losses(instance, theta[None])[0]
    rates = fuzz.slopes(instance.at(theta), ways)
    near = fuzz.losses(instance, theta + 1e-6 * ways)
    return bool((rates >= -1e-9).all() and (near >= here - 1e-13).all())


# --- the columns ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_balanced_columns_are_the_same_function_bit_by_bit(seed: int) -> None:
    instance = plain(seed)
    rough = uneven(instance, factors_of(instance, seed))
    block = fuzz.block_of(rough)
    even = balanced(block, rough.theta)
    assert even is not None
    theta = rough.theta * even.sizes
    np.testing.assert_array_equal(even.theta, theta)
    np.testing.assert_array_equal(even.kinks(theta), block.kinks(rough.theta))
    np.testing.assert_array_equal(even.gradient(theta) * even.sizes, block.gradient(rough.theta))
    assert even.loss(theta) == block.loss(rough.theta)
    assert set(np.frexp(even.sizes)[0]) == {0.5}
    lengths = np.sqrt((even.piecewise.features**2).mean(axis=0))
    assert (lengths[lengths > 0] <= 1.5).all()
    assert (lengths[lengths > 0] >= 0.7).all()


def test_other_blocks_are_left_as_they_are() -> None:
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(20, 2)), rng.normal(size=(20, 1))
    module = plain(0).module()
    steep = inputs * [1.0, 2.0**9]

    def found(columns: np.ndarray, **options: object) -> rs.Block | None:
        block = rs.Landscape(module, columns, targets, **options).block(0)
        return balanced(block, block.theta)

    assert found(inputs, loss="l1") is None
    assert found(steep, loss="l1") is not None
    assert found(steep, loss="squared") is None
    assert found(steep, loss="l1", weight_decay=0.1) is None
    assert found(inputs * [0.0, 1.0], loss="l1") is None
    block = rs.Landscape(module, steep, targets, loss="l1").block(0)
    assert balanced(block, np.full(block.size, 3e307)) is None
    assert found(inputs * [1e-320, 1.0], loss="l1") is None


# --- what is claimed ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_minima_are_claimed_and_accepted_in_any_columns(seed: int) -> None:
    instance, descent = ended(seed)
    factors = factors_of(instance, seed)
    rough, scale = uneven(instance, factors), scale_of(instance, factors)
    block, theta = fuzz.block_of(rough), descent.theta * scale
    for arithmetic in ("float64", "rational"):
        expected = rs.certify(fuzz.block_of(instance), descent.theta, arithmetic=arithmetic)
        certificate = rs.certify(block, theta, arithmetic=arithmetic)
        if expected.claim not in MINIMA:
            continue
        assert certificate.claim == expected.claim
        answer = rs.verify(certificate, block.landscape)
        assert answer.valid, answer.reason
        assert never_falls(rough, certificate.theta, scale, seed)
        np.testing.assert_allclose(certificate.theta, theta, rtol=1e-9, atol=1e-9 * scale.max())


def test_most_random_descents_end_at_minima() -> None:
    claims = Counter(ended(seed)[1].certificate.claim in MINIMA for seed in SEEDS)
    assert claims[True] >= len(SEEDS) - 2


@pytest.mark.parametrize("seed", SEEDS)
def test_descents_in_uneven_columns_end_at_minima(seed: int) -> None:
    instance = plain(seed)
    rough = uneven(instance, factors_of(instance, seed))
    descent = rs.descend(fuzz.block_of(rough))
    case = fuzz.Case(seed, rough, rough.theta, "long_step", "uneven")
    assert fuzz.judge(case, descent, probes=200) == []
    assert rs.verify(descent.certificate, fuzz.block_of(rough).landscape).valid
    if ended(seed)[1].certificate.claim in MINIMA:
        assert descent.certificate.claim in MINIMA


# --- forgeries ------------------------------------------------------------------------------------


def forged(certificate: Certificate, **fields: object) -> Certificate:
    return replace(certificate, **fields).signed()


def first_times(values: np.ndarray, factor: float) -> np.ndarray:
    out = values.copy()
    out.flat[0] *= factor
    return out


FORGERIES: dict[str, Callable[[Certificate], Certificate]] = {
    "multiplier": lambda c: forged(c, multipliers=first_times(c.multipliers, 1.001)),
    "slope": lambda c: forged(c, slopes=first_times(c.slopes, 1.01)),
    "margin": lambda c: forged(c, margin=1.1 * c.margin + 1e-3),
    "gradient norm": lambda c: forged(c, gradient_norm=1.001 * c.gradient_norm),
    "rest norm": lambda c: forged(c, rest_norm=c.gradient_norm),
    "radius": lambda c: forged(c, radius=1e-3),
    "claim": lambda c: forged(c, claim="plateau"),
    "kink": lambda c: forged(
        c, active_kinks=c.active_kinks[1:], multipliers=c.multipliers[1:], slopes=c.slopes[1:]
    ),
    "point": lambda c: forged(c, theta=c.theta * (1 + 1e-9)),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_forged_minima_in_uneven_columns_are_rejected(what: str) -> None:
    looked = 0
    for seed in SEEDS:
        instance, descent = ended(seed)
        factors = factors_of(instance, seed)
        block = fuzz.block_of(uneven(instance, factors))
        certificate = rs.certify(block, descent.theta * scale_of(instance, factors))
        if certificate.claim == "strict_local_minimum" and certificate.slopes.size:
            assert not rs.verify(FORGERIES[what](certificate), block.landscape).valid
            looked += 1
    assert looked > 5


@pytest.mark.parametrize("seed", SEEDS)
def test_no_other_point_is_accepted_as_a_minimum(seed: int) -> None:
    """A point from which the loss falls, its certificate's claim replaced."""
    instance = plain(seed)
    rough = uneven(instance, factors_of(instance, seed))
    block = fuzz.block_of(rough)
    descent = rs.descend(block, max_pivots=3)
    certificate = rs.certify(block, descent.vertices[1])
    if certificate.claim in MINIMA:
        return
    for claim in MINIMA:
        false = forged(certificate, claim=claim, direction=None, margin=0.0)
        assert not rs.verify(false, block.landscape).valid


# --- real data ------------------------------------------------------------------------------------

RAW = {
    "wine": lambda: load_wine(return_X_y=True),
    "diabetes": lambda: load_diabetes(return_X_y=True, scaled=False),
    "diabetes of length one": lambda: load_diabetes(return_X_y=True),
}


@pytest.mark.parametrize("name", RAW)
def test_raw_data_descend_to_certified_minima(name: str) -> None:
    inputs, targets = RAW[name]()
    rng = np.random.default_rng(0)
    width = inputs.shape[1]
    weights = tuple(rng.uniform(-1, 1, shape) / shape[1] ** 0.5 for shape in ((8, width), (1, 8)))
    biases = tuple(rng.uniform(-1, 1, len(weight)) / width**0.5 for weight in weights)
    sides = targets[:, None].astype(float)
    instance = Instance(weights, biases, 0.0, inputs, sides, "l1", 0)
    block = fuzz.block_of(instance)
    descent = rs.descend(block)
    assert descent.status in ("minimum", "strict_minimum")
    answer = rs.verify(descent.certificate, block.landscape)
    assert answer.valid, answer.reason
    scale = np.append(np.tile(1.0 / np.abs(inputs).max(axis=0), 8), np.ones(8))
    ways = rng.normal(size=(300, block.size)) * scale
    here = fuzz.losses(instance, descent.theta[None])[0]
    for radius in (1e-6, 1e-3):
        assert fuzz.losses(instance, descent.theta + radius * ways).min() >= here


@pytest.mark.parametrize("name", ["diabetes", "breast_cancer"])
def test_nearly_dependent_kinks_do_not_hide_that_others_are_far(name: str) -> None:
    """The point where active kinks are exactly zero may be far, and others hardly change on the way."""
    data = load_data(name, standardise=False)
    targets = np.asarray(data.targets, dtype=float)[:, None]
    model = mlp((data.inputs.shape[1], 8, 1), seed=0)
    landscape = rs.Landscape(model, data.inputs, targets, loss="l1")
    descent = rs.descend(landscape.block(0))
    assert descent.status in ("minimum", "strict_minimum")
    assert rs.verify(descent.certificate, landscape).valid


@pytest.mark.slow
def test_ends_at_which_many_kinks_meet_are_left_along_several_flat_directions() -> None:
    inputs, targets = load_wine(return_X_y=True)
    module = mlp((13, 8, 8, 1), seed=0)
    landscape = rs.Landscape(module, inputs, targets[:, None].astype(float), loss="l1")
    descent = rs.descend(landscape.block(1))
    assert descent.status in ("minimum", "strict_minimum")
    assert rs.verify(descent.certificate, landscape).valid
