"""Breakpoints of piecewise-affine values on the straight way between two points.

Along a segment of a block's parameters every switching value is continuous and piecewise affine in the
position t in [0, 1]. Layer by layer, the positions at which one of the layer's kinks is zero join the
breakpoints of the layers before; between two of them everything is affine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def refined(times: Floats, values: Floats) -> tuple[Floats, Floats]:
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
