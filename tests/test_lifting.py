"""Entries of solutions that are exactly zero, against solutions that the systems are made from."""

from __future__ import annotations

from fractions import Fraction
from math import lcm

import numpy as np
import pytest

from reluscape import lifting
from reluscape.lifting import PRIME, zero_entries


def system(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kinks of one unit and of several, small integers or of 70 bits; multipliers, many of them zero."""
    rng = np.random.default_rng(seed)
    width, columns = int(rng.integers(1, 5)), int(rng.integers(2, 20))
    count = int(rng.integers(1, width * columns + 1))
    bits = int(rng.choice([3, 8, 25, 70]))
    inputs = integers(rng, (count, columns), int(rng.choice([3, bits])))
    units = integers(rng, (count, width), bits) * (rng.random((count, width)) < 0.7)
    alone = rng.random(count) < 0.5
    units[alone] = np.eye(width, dtype=int).astype(object)[rng.integers(0, width, alone.sum())]
    mu = [Fraction(int(rng.integers(-99, 100)), int(rng.integers(1, 9))) for _ in range(count)]
    mu = [0 * one if zero else one for one, zero in zip(mu, rng.random(count) < 0.5, strict=True)]
    return units, inputs, np.array(mu, dtype=object)


def integers(rng: np.random.Generator, shape: tuple[int, ...], bits: int) -> np.ndarray:
    """Random integers of some bits, as Python's."""
    words = [
        int.from_bytes(rng.bytes(9)) % (2 << bits) - (1 << bits) for _ in range(np.prod(shape))
    ]
    return np.array(words, dtype=object).reshape(shape)


def gradient_of(units: np.ndarray, inputs: np.ndarray, mu: np.ndarray) -> np.ndarray:
    """What the multipliers write, up to a factor that makes it integer."""
    common = lcm(*(Fraction(one).denominator for one in mu))
    whole = np.array([int(one * common) for one in mu], dtype=object)
    return np.array((units * whole[:, None]).T @ inputs)


def is_independent(units: np.ndarray, inputs: np.ndarray) -> bool:
    """Whether the rows are so, well enough for floats to see it."""
    rows = (units[:, :, None] * inputs[:, None, :]).reshape(len(units), -1).astype(float)
    lengths = np.linalg.norm(rows, axis=1)
    if not lengths.all():
        return False
    return bool(np.linalg.svd(rows / lengths[:, None])[1].min() > 1e-6)


def test_exactly_the_planted_zeros_are_found() -> None:
    seen = 0
    for seed in range(200):
        units, inputs, mu = system(seed)
        if not is_independent(units, inputs):
            continue
        asked = np.random.default_rng(seed).random(len(mu)) < 0.8
        found = zero_entries(units, inputs, gradient_of(units, inputs, mu), asked)
        assert np.array_equal(found, asked & (mu == 0)), seed
        seen += int(found.sum())
    assert seen > 300


@pytest.mark.parametrize(
    "small", [PRIME, PRIME**3, Fraction(1, 10**30), Fraction(PRIME**2, 3), -(PRIME**5)]
)
def test_what_is_nearly_zero_to_floats_or_to_the_prime_is_not_zero(small: Fraction | int) -> None:
    rng = np.random.default_rng(0)
    units, inputs = integers(rng, (30, 3), 20), integers(rng, (30, 12), 20)
    mu = np.array([Fraction(k % 3) for k in range(30)], dtype=object)
    mu[3] = Fraction(small)
    found = zero_entries(units, inputs, gradient_of(units, inputs, mu), np.ones(30, dtype=bool))
    assert np.array_equal(found, mu == 0)
    assert not found[3]


def test_dependent_rows_say_nothing() -> None:
    rng = np.random.default_rng(0)
    units, inputs = integers(rng, (6, 2), 8), integers(rng, (6, 4), 8)
    units[5], inputs[5] = 2 * units[4], 3 * inputs[4]
    mu = np.array([Fraction(0), *[Fraction(1)] * 5], dtype=object)
    asked = np.ones(6, dtype=bool)
    assert not zero_entries(units, inputs, gradient_of(units, inputs, mu), asked).any()
    units, inputs = integers(rng, (9, 2), 8), integers(rng, (9, 4), 8)  # more rows than columns
    assert not zero_entries(units, inputs, np.zeros((2, 4), dtype=object), asked[[0] * 9]).any()


def test_what_takes_too_long_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    units, inputs, mu = system(2)
    assert is_independent(units, inputs)
    arguments = units, inputs, gradient_of(units, inputs, mu), np.ones(len(mu), dtype=bool)
    assert zero_entries(*arguments).any()
    monkeypatch.setattr(lifting, "MAX_LIFTING", 10)
    assert not zero_entries(*arguments).any()
