"""The largest loss on the straight way between two points, from all its breakpoints.

Along a segment of a block's parameters every switching value is continuous and piecewise affine in the
position t in [0, 1]. Layer by layer, the positions at which one of the layer's kinks is zero join the
breakpoints of the layers before; between two of them everything is affine. So the largest loss is that
at an end or at a breakpoint, and no grid is needed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reluscape.breakpoints import refined
from reluscape.descent.problem import Problem

Floats = NDArray[np.float64]


def highest_between(problem: Problem, start: Floats, stop: Floats) -> float:
    """Largest loss on the segment between two reduced points, up to rounding.

    Cost: a forward pass for each breakpoint of the sample that has most, and an interpolation at all
    breakpoints for each sample that has any.
    """
    times, losses = _losses(problem, start, stop)
    bent = (np.diff(times, axis=1) > 0).sum(axis=1) > 1
    at = np.unique(times[bent]) if bent.any() else np.array([0.0, 1.0])
    first, last = losses[~bent, 0].sum(), losses[~bent, -1].sum()
    total = first + at * (last - first)
    for own, values in zip(times[bent], losses[bent], strict=True):
        total += np.interp(at, own, values)
    return float(total.max())


def _losses(problem: Problem, start: Floats, stop: Floats) -> tuple[Floats, Floats]:
    """Each sample's breakpoints on the segment and its part of the loss there, (N, breakpoints)."""
    piecewise = problem.piecewise
    ends = [problem.features @ point.reshape(piecewise.width, -1).T for point in (start, stop)]
    hidden = np.stack(ends, axis=1)
    times = np.tile([0.0, 1.0], (len(hidden), 1))
    for step, slope in zip(piecewise.maps, piecewise.slopes, strict=False):
        times, before = refined(times, step(hidden))
        hidden = np.where(before > 0, before, slope * before)
    times, outputs = refined(times, problem.outputs(hidden))
    amounts = problem.chain.weight * np.abs(outputs) if problem.chain.residuals else outputs
    return times, amounts.sum(axis=2)
