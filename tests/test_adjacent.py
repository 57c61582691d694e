"""Dependent active kinks: doubling all samples leaves the loss as it is, but LIKQ fails at every kink.

So the certificate of the doubled data, which examines all adjacent cells, must say what the single
one says, which rests on slopes: the two share no argument.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
from test_certify import block_of, random_certificates, random_instances

import reluscape as rs
from reluscape.certificate import MINIMA

Pair = tuple[rs.Certificate, rs.Certificate, rs.Landscape]


@cache
def pairs() -> tuple[Pair, ...]:
    """Certificates at 1 to 4 active kinks, as they are and with every sample twice."""
    found = []
    for (instance, _), single in zip(random_instances(), random_certificates(), strict=True):
        stationary = single.rest_norm < 1e-9 and single.claim != "undecided"
        if not stationary or not 0 < len(single.active_kinks) <= 4:
            continue
        rows = np.repeat(np.arange(len(instance.inputs)), 2)
        doubled = replace(instance, inputs=instance.inputs[rows], targets=instance.targets[rows])
        block = block_of(doubled)
        found.append((single, rs.certify(block), block.landscape))
    return tuple(found)


def test_doubling_the_samples_changes_no_verdict() -> None:
    agreed = 0
    for single, double, _ in pairs():
        assert len(double.active_kinks) == 2 * len(single.active_kinks)
        if double.claim == "undecided":
            continue
        assert (double.claim in MINIMA) == (single.claim in MINIMA), (single, double)
        if double.claim == "strict_local_minimum":
            assert single.claim == "strict_local_minimum"
        agreed += 1
    assert agreed >= 40


def test_strict_minima_stay_strict() -> None:
    strict = [double for single, double, _ in pairs() if single.claim == "strict_local_minimum"]
    assert sum(double.claim == "strict_local_minimum" for double in strict) >= 0.9 * len(strict)
    assert len(strict) >= 20


def test_verify_accepts_them() -> None:
    for _, double, landscape in pairs():
        verdict = rs.verify(double, landscape)
        assert verdict.valid, (double, verdict)


def test_verify_rejects_forged_multipliers() -> None:
    cases = [pair for pair in pairs() if pair[1].cells.size]
    for _, double, landscape in cases[:20]:
        forged = (
            replace(double, cells=-double.cells - 1.0),
            replace(double, cells=double.cells + 1e-6),
            replace(double, cells=double.cells[:-1]),
            replace(double, cells=double.cells[::-1].copy()),
        )
        different = [f for f in forged if not np.array_equal(f.cells, double.cells)]
        assert not any(rs.verify(f.signed(), landscape).valid for f in different[:3])
    assert len(cases) >= 20
