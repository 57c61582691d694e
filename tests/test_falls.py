"""Falling directions across concave kinks, against the rays of arrangements in the plane and probing."""

from __future__ import annotations

import numpy as np
from test_shares import arrangement, rate

from reluscape.falls import falling_directions


def found(gradient: np.ndarray, normals: np.ndarray, jumps: np.ndarray) -> list[np.ndarray]:
    """All directions, for kinks that do not bend each other."""
    none = np.zeros((len(jumps), len(jumps)))
    return list(falling_directions(gradient, normals, jumps, none, lambda d: normals @ d))


def test_the_loss_falls_along_all_that_are_found_and_some_are_where_it_falls() -> None:
    """In the plane the least rate is on one of finitely many rays."""
    falling = rising = 0
    for seed in range(75):
        normals, jumps, rays = arrangement(seed)
        gradient = 0.1 * normals.T @ np.random.default_rng(seed).normal(size=len(normals))
        least = (rays @ gradient + rate(normals, jumps, rays)).min()
        directions = found(gradient, normals, jumps)
        if directions:
            ways = np.array(directions)
            assert (ways @ gradient + rate(normals, jumps, ways) < 0).all(), seed
        if least > 1e-9 or (jumps > 0).all():
            assert not directions, seed
            rising += 1
        elif least < -1e-6:
            falling += bool(directions)
            assert directions, seed
    assert rising > 10
    assert falling > 25


def test_they_are_found_where_few_random_directions_fall() -> None:
    """Kinks whose sum rises on all sides but a narrow valley, in five dimensions."""
    rng, hit = np.random.default_rng(0), 0
    for _ in range(20):
        normals = rng.normal(size=(80, 5))
        jumps = np.full(80, 0.2)
        valley = rng.normal(size=5)
        jumps[normals @ valley > 1.2 * np.linalg.norm(valley)] = -0.6
        ways = rng.normal(size=(2000, 5))
        falls = np.mean(rate(normals, jumps, ways) < 0)
        directions = found(np.zeros(5), normals, jumps)
        assert all(rate(normals, jumps, way[None])[0] < 0 for way in directions)
        hit += bool(directions) and falls < 0.2
    assert hit > 5
