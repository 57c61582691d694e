"""How far the loss falls on the straight way between two points, from all its breakpoints.

Between two breakpoints the loss is affine, so its rises and falls on the way are those from breakpoint to
breakpoint, and no grid is needed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reluscape.breakpoints import refined
from reluscape.descent.problem import Problem

Floats = NDArray[np.float64]


def way_down(problem: Problem, start: Floats, stop: Floats, slack: float) -> tuple[float, float]:
    """The lowest point on the segment between two reduced points before the loss rises by the slack.

    Cost: a forward pass for each breakpoint of the sample that has most, and an interpolation at all
    breakpoints for each sample that has any.

    Returns:
        Its position, 0 at the start and 1 at the stop, the last of several; and its loss, up to rounding.
    """
    at, losses = losses_between(problem, start, stop)
    rises = losses > np.minimum.accumulate(losses) + slack
    before = int(np.argmax(rises)) if rises.any() else len(losses)
    lowest = losses[:before].min()
    place = int(np.flatnonzero(losses[:before] <= lowest + (0.0 if rises.any() else slack))[-1])
    return float(at[place]), float(losses[place])


def losses_between(problem: Problem, start: Floats, stop: Floats) -> tuple[Floats, Floats]:
    """All breakpoints on the segment between two reduced points, both ends among them, and the losses."""
    times, parts = _parts(problem, start, stop)
    bent = (np.diff(times, axis=1) > 0).sum(axis=1) > 1
    at = np.unique(times[bent]) if bent.any() else np.array([0.0, 1.0])
    first, last = parts[~bent, 0].sum(), parts[~bent, -1].sum()
    total = first + at * (last - first)
    for own, values in zip(times[bent], parts[bent], strict=True):
        total += np.interp(at, own, values)
    return at, total


def _parts(problem: Problem, start: Floats, stop: Floats) -> tuple[Floats, Floats]:
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
