"""Slopes that are exactly zero, against vertices solved in fractions (`fuzz.exact_slopes`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import fuzz
import numpy as np
import pytest
from oracles import Instance

import reluscape as rs
from reluscape.certificate import sign
from reluscape.point import Point

SHAPES = ((2, 2, 1), (3, 2, 1), (2, 2, 2), (2, 2, 2, 1), (3, 3, 1), (4, 2, 2, 1))


def images(seed: int, *, standardise: bool) -> Instance:
    """A plain column and some of grey levels, seldom not zero; a network; targets that are labels."""
    rng = np.random.default_rng(seed)
    widths = SHAPES[seed % len(SHAPES)]
    samples = int(rng.integers(8, 30))
    inputs = rng.normal(size=(samples, widths[0]))
    rare = rng.random((samples, widths[0] - 1)) < 2.0 / samples
    inputs[:, 1:] = np.where(rare, rng.integers(1, 5, rare.shape) / 4, 0.0)
    if standardise:
        inputs = (inputs - inputs.mean(axis=0)) / np.maximum(inputs.std(axis=0), 0.1)
    pairs = list(zip(widths[1:], widths, strict=False))
    weights = tuple(rng.normal(size=pair) for pair in pairs)
    biases = tuple(rng.normal(size=pair[0]) for pair in pairs)
    targets = np.where(rng.random((samples, widths[-1])) < 0.5, 1.0, -1.0)
    return Instance(weights, biases, 0.0, inputs, targets, "l1", 0)


def together(seed: int, *, standardise: bool) -> Instance:
    """Units that are on for most samples, whose multipliers no unit's own columns decide."""
    rng = np.random.default_rng(seed)
    widths = ((1, 2, 1), (2, 2, 1), (2, 3, 1), (3, 2, 1), (1, 3, 1), (1, 3, 2, 1))[seed % 6]
    samples = int(rng.integers(8, 24))
    inputs = rng.normal(size=(samples, widths[0])) * (1.0 if standardise else 100.0)
    pairs = list(zip(widths[1:], widths, strict=False))
    weights = [rng.normal(size=pair) for pair in pairs]
    biases = [rng.normal(size=pair[0]) for pair in pairs]
    biases[0] += 2.0
    weights[0] /= np.abs(inputs).mean()
    targets = rng.normal(size=(samples, widths[-1]))
    return Instance(tuple(weights), tuple(biases), 0.0, inputs, targets, "l1", 0)


def numbers_of(instance: Instance, kinks: list[tuple[int, int, int]]) -> list[int]:
    """The package's numbers of (layer, sample, unit)."""
    samples, block = len(instance.inputs), instance.block
    sizes = [samples * len(weight) for weight in instance.weights[block:]]
    starts = np.cumsum([0, *sizes])
    return [
        int(starts[layer - block]) + sample * len(instance.weights[layer]) + unit
        for layer, sample, unit in kinks
    ]


def compared(
    seed: int, *, standardise: bool, maker: Callable[..., Instance] = images
) -> Counter[str]:
    """How the signs of float64's slopes compare with the exact ones."""
    made = maker(seed, standardise=standardise)
    block = fuzz.block_of(made)
    theta = rs.descend(block).theta
    end, point = made.at(theta), Point.at(block, theta)
    kinks = fuzz.active(end)
    ordered = sorted(zip(numbers_of(end, kinks), kinks, strict=True))
    vertex = [number for number, _ in ordered] == point.active.tolist()
    if not vertex or len(kinks) != theta.size or not point.independent:
        return Counter()
    exact = fuzz.exact_slopes(end, [kink for _, kink in ordered])
    if exact is None:
        return Counter()
    slopes, errors = point.slopes()
    found: Counter[str] = Counter()
    for value, error, true in zip(
        slopes[:, ::-1].ravel(), errors[:, ::-1].ravel(), exact, strict=True
    ):
        told = sign(value, error)
        assert told in (None, sign(true, 0)), (value, error, true)
        found["zero" if true == 0 else "other", "unsure" if told is None else "told"] += 1
    certificate = rs.certify(block, theta)
    if certificate.claim != "undecided":
        assert rs.verify(certificate, block.landscape).valid
    assert (certificate.claim in ("local_minimum", "strict_local_minimum")) <= (min(exact) >= 0)
    assert (certificate.claim == "strict_local_minimum") <= (min(exact) > 0)
    return found


@pytest.mark.parametrize("standardise", [False, True])
def test_signs_of_slopes_are_those_in_fractions(standardise: bool) -> None:
    found: Counter[str] = Counter()
    for seed in range(19):
        found += compared(seed, standardise=standardise)
    assert found["other", "told"] > 12
    assert found["zero", "told"] > 2
    assert found["zero", "unsure"] <= found["zero", "told"] // 10


@pytest.mark.parametrize("standardise", [False, True])
def test_slopes_of_units_that_go_together_are_decided(standardise: bool) -> None:
    found: Counter[str] = Counter()
    for seed in range(14):
        found += compared(seed, standardise=standardise, maker=together)
    assert found["zero", "told"] > 3
    assert found["zero", "unsure"] <= found["zero", "told"] // 10
