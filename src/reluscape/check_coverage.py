"""What `convexity` says of minimisers, checked by the inequalities of `coverage` on a grid."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reluscape.check_block import require
from reluscape.check_curvature import FACTORS, Passes, carried_norms

Floats = NDArray[np.float64]

#: Relative difference of roots that are the same; the grid's largest value is within its square.
NEAR = 1e-6
#: Points of the grid.
POINTS = 20_001


@dataclass(frozen=True, slots=True)
class _Case:
    """`E^2 <= k l^q` for the loss l, samples no longer than `reach`, and M, the loss of zero weights."""

    hidden: int
    constants: int
    reach: float
    factor: float
    power: int
    zero: float

    def demand(self, decay: float, loss: float) -> float:
        """The largest of `k r^2 (loss - decay s / 2)^q (c + s)^(H - 1)` over s, on a grid."""
        if not self.reach:  # the samples are zero
            return 0.0
        s = np.linspace(0.0, 2.0 * loss / decay, POINTS)
        left = np.maximum(loss - decay * s / 2.0, 0.0) ** self.power
        values = left * (self.constants + s) ** (self.hidden - 1)
        best = float(values.max())
        if 0 < (place := int(values.argmax())) < POINTS - 1:  # the parabola through three points
            low, high = values[place - 1], values[place + 1]
            best += float((high - low) ** 2 / (8.0 * (2.0 * best - low - high)))
        return self.factor * self.reach**2 * best


def covers(decay: float, paper: float, passes: Passes, features: Floats, zero: float) -> None:
    """Just above these decays, and not just below, all global minimisers lie in the regions."""
    cases = _cases(passes, features, zero)
    longest, h = cases[0], cases[0].hidden
    if h == 0 or not longest.zero or not longest.reach:
        for name, value in (("covering_decay", decay), ("paper_covering_decay", paper)):
            require(value == 0.0, f"its {name} is 0")
        return

    def covered(at: float) -> bool:
        sizes = (h**2 / (h + 1) ** (h - 1) * one.demand(at, one.zero) for one in cases)
        return bool(min(sizes) < at**2)

    def covered_by_paper(at: float) -> bool:
        norms = float(longest.constants > 0) + 2.0 * longest.zero / at
        loss = longest.factor * longest.zero**longest.power
        return bool((h * (h + 1) * longest.reach) ** 2 * loss * norms ** (h - 1) < at**2)

    stated = (("covering_decay", decay, covered), ("paper_covering_decay", paper, covered_by_paper))
    for name, value, condition in stated:
        require(math.isfinite(value) and value > 0.0, f"its {name} is none")
        require(condition(value * (1.0 + NEAR)), f"its {name} covers not all global minimisers")
        require(not condition(value * (1.0 - NEAR)), f"its {name} is larger than it need be")


def no_minimum_below(loss: float, decay: float, passes: Passes, features: Floats) -> None:
    """Just below this loss no local minimum but zero can exist, just above one can."""

    def excluded(at: float) -> bool:
        cases = _cases(passes, features, loss)  # the loss of zero weights is not asked
        return any(
            one.demand(decay, at) / (one.hidden + 1) ** (one.hidden - 1) < decay**2 for one in cases
        )

    if math.isinf(loss):
        still = any(one.reach**2 == 0.0 for one in _cases(passes, features, loss))
        require(still and loss > 0, "its lowest_minimum is finite")
        return
    require(loss > 0.0 and excluded(loss * (1.0 - NEAR)), "its lowest_minimum excludes too much")
    require(not excluded(loss * (1.0 + NEAR)), "its lowest_minimum excludes more")


def _cases(passes: Passes, features: Floats, zero: float) -> tuple[_Case, _Case]:
    """With the longest sample, and with the root mean square of all."""
    biased = [k for k, bias in enumerate(passes.biases) if bias is not None]
    squares = (features**2).sum(axis=1) + float(len(biased) > 0)
    fixed = [norm for k, norm in enumerate(carried_norms(passes)) if not passes.movable[k]]
    gain = math.prod(passes.gains) * math.prod(fixed)
    rest = len(passes.moving) - 1, sum(k < max(biased, default=0) for k in passes.moving)
    factor = 2.0 if passes.loss == "cross_entropy" else 4.0 * FACTORS[passes.loss]
    power = 2 if passes.loss == "cross_entropy" else 1
    return (
        _Case(*rest, gain * math.sqrt(float(squares.max())), factor, power, zero),
        _Case(*rest, gain * math.sqrt(float(squares.mean())), factor, 1, zero),
    )
