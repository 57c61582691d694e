"""The largest loss on the straight way between two points, from all its breakpoints.

Along a segment of a block's parameters every switching value is continuous and piecewise affine in the
position t in [0, 1]. Layer by layer, the positions at which one of the layer's kinks is zero join the
breakpoints of the layers before; between two of them everything is affine. So the largest loss is that
at an end or at a breakpoint, and no grid is needed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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
        times, before = _refined(times, step(hidden))
        hidden = np.where(before > 0, before, slope * before)
    times, outputs = _refined(times, problem.outputs(hidden))
    amounts = problem.chain.weight * np.abs(outputs) if problem.chain.residuals else outputs
    return times, amounts.sum(axis=2)


def _refined(times: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Insert the positions at which values, affine between two breakpoints, change their sign.

    Args:
        times: Ascending breakpoints of each sample (N, m); the last may occur several times.
        values: The values there (N, m, units).
    """
    left, right = values[:, :-1], values[:, 1:]
    crossing = ((left < 0) & (right > 0)) | ((left > 0) & (right < 0))
    samples, pieces, units = np.nonzero(crossing)
    counts = np.bincount(samples, minlength=len(times))
    if not len(samples):
        return times, values
    here, there = left[samples, pieces], right[samples, pieces]
    rows = np.arange(len(samples))
    share = here[rows, units] / (here[rows, units] - there[rows, units])
    met = here + share[:, None] * (there - here)
    met[rows, units] = 0.0
    start, stop = times[samples, pieces], times[samples, pieces + 1]
    column = times.shape[1] + rows - np.repeat(np.cumsum(counts) - counts, counts)
    shape = (len(times), times.shape[1] + int(counts.max()))
    all_times = np.full(shape, 1.0)
    all_values = np.repeat(values[:, -1:], shape[1], axis=1)
    all_times[:, : times.shape[1]], all_values[:, : times.shape[1]] = times, values
    all_times[samples, column] = np.clip(start + share * (stop - start), start, stop)
    all_values[samples, column] = met
    order = np.argsort(all_times, axis=1, kind="stable")
    return (
        np.take_along_axis(all_times, order, axis=1),
        np.take_along_axis(all_values, order[:, :, None], axis=1),
    )
