"""The frozen network behind a block, compiled: one sample's rates, pulls, normals and jumps.

A sample's K kinks are numbered level by level, residuals last. `bits[i, c]` is 1 where kink c of sample i
is on its positive side. `one` and `two` are scratch vectors as wide as the widest level.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reluscape.compiled import bare, counted

Floats = NDArray[np.float64]


class Chain(NamedTuple):
    """The network behind the block: maps A_0..A_m dense, flattened one after the other.

    Attributes:
        sizes: w, units of each level, outputs (levels + 2,).
        starts: Offset of each map in `weights` (levels + 1,).
        columns: First column of each level's kinks, and of the residuals (levels + 1,).
        weights: All matrices, row-major.
        slopes: Slope of each rectifier on its negative side (levels,).
        weight: Weight of a residual's absolute value in the loss, or of an output.
        residuals: Whether outputs enter by their residuals' absolute values (else linearly).
        diagonal: Whether each map is a square diagonal matrix (levels + 1,).
    """

    sizes: NDArray[np.int64]
    starts: NDArray[np.int64]
    columns: NDArray[np.int64]
    weights: Floats
    slopes: Floats
    weight: float
    residuals: bool
    diagonal: NDArray[np.bool_]


@bare
def level_of(chain, kink):
    """Level of a kink's column; the number of levels for a residual."""
    level = 0
    while level + 1 < len(chain.columns) and kink >= chain.columns[level + 1]:
        level += 1
    return level


@bare
def deeper(chain, kink):
    """First column of the kinks behind a kink's level."""
    level = level_of(chain, kink)
    return chain.columns[level] + chain.sizes[level + 1]


@bare
def _times(chain, level, before, after):
    """After = A_level before."""
    rows, columns, start = chain.sizes[level + 1], chain.sizes[level], chain.starts[level]
    weights, diagonal = chain.weights, chain.diagonal[level]
    for a in range(rows):
        base = start + a * columns
        if diagonal:
            after[a] = weights[base + a] * before[a]
            continue
        total = 0.0
        for b in range(columns):
            total += weights[base + b] * before[b]
        after[a] = total


@bare
def _back(chain, level, after, before):
    """Before = A_level^T after."""
    rows, columns, start = chain.sizes[level + 1], chain.sizes[level], chain.starts[level]
    weights, diagonal = chain.weights, chain.diagonal[level]
    for b in range(columns):
        before[b] = 0.0
    for a in range(rows):
        base = start + a * columns
        if diagonal:
            before[a] = weights[base + a] * after[a]
        elif after[a] != 0.0:
            for b in range(columns):
                before[b] += weights[base + b] * after[a]


@bare
def _onward(chain, bits, i, level, found, one, two):
    """Rates `found` of the kinks from a level on, given those of its inputs in `one`; the loss's rate."""
    sizes, columns, slopes, residuals = chain.sizes, chain.columns, chain.slopes, chain.residuals
    levels = len(slopes)
    for here in range(level, levels):
        _times(chain, here, one, two)
        column, slope = columns[here], slopes[here]
        for a in range(sizes[here + 1]):
            found[column + a] = two[a]
            one[a] = two[a] if bits[i, column + a] else two[a] * slope
    _times(chain, levels, one, two)
    total, column = 0.0, columns[levels]
    for a in range(sizes[levels + 1]):
        if residuals:
            found[column + a] = two[a]
            total += two[a] if bits[i, column + a] else -two[a]
        else:
            total += two[a]
    return total * chain.weight


@bare
def _homeward(chain, bits, i, level, pull, one, two):
    """Derivative by z of what has the derivatives `one` by the switching values of a level."""
    sizes, columns, slopes = chain.sizes, chain.columns, chain.slopes
    for here in range(level, -1, -1):
        _back(chain, here, one, two)
        if here:
            column, slope = columns[here - 1], slopes[here - 1]
            for a in range(sizes[here]):
                one[a] = two[a] if bits[i, column + a] else two[a] * slope
    for a in range(sizes[0]):
        pull[a] = two[a]


@bare
def rates_behind(chain, bits, i, kink, rates, found, one, two):
    """Rates `found` of the sample's kinks behind a kink's level, given the others; the loss's rate."""
    level = level_of(chain, kink)
    start, units, total = chain.columns[level], chain.sizes[level + 1], 0.0
    if level == len(chain.slopes):
        for c in range(start, start + units):
            total += rates[i, c] if bits[i, c] else -rates[i, c]
        return total * chain.weight
    slope = chain.slopes[level]
    for a in range(units):
        one[a] = rates[i, start + a] * (1.0 if bits[i, start + a] else slope)
    return _onward(chain, bits, i, level + 1, found, one, two)


@bare
def sample_pull(chain, bits, i, pull, one, two):
    """Derivative of the loss by one sample's z."""
    levels = len(chain.slopes)
    column, weight, residuals = chain.columns[levels], chain.weight, chain.residuals
    for a in range(chain.sizes[levels + 1]):
        one[a] = weight if not residuals or bits[i, column + a] else -weight
    _homeward(chain, bits, i, levels, pull, one, two)


@bare
def sample_normal(chain, bits, i, kink, pull, one, two):
    """Derivative of one kink's switching value by its sample's z."""
    level = level_of(chain, kink)
    for a in range(chain.sizes[level + 1]):
        one[a] = 0.0
    one[kink - chain.columns[level]] = 1.0
    _homeward(chain, bits, i, level, pull, one, two)


@bare
def sample_jump(chain, bits, i, kink, pushed, one, two):
    """Slope jump of a kink, and in `pushed` the change of deeper normals in multiples of its own."""
    level = level_of(chain, kink)
    for column in range(len(pushed)):
        pushed[column] = 0.0
    if level == len(chain.slopes):
        return 2.0 * chain.weight
    for a in range(chain.sizes[level + 1]):
        one[a] = 0.0
    one[kink - chain.columns[level]] = 1.0 - chain.slopes[level]
    return _onward(chain, bits, i, level + 1, pushed, one, two)


@counted
def all_pulls(chain, by_kink, pulls):
    """`sample_pull` of every sample, the bits turned (K, N): so one sample is no type of its own."""
    bits = by_kink.T
    one, two = np.empty(chain.sizes.max()), np.empty(chain.sizes.max())
    for i in range(len(pulls)):
        sample_pull(chain, bits, i, pulls[i], one, two)


@counted
def all_normals(chain, by_kink, active, pulls):
    """`sample_normal` of the kinks (sample, kink) in the rows of `active`, the bits turned (K, N)."""
    bits = by_kink.T
    one, two = np.empty(chain.sizes.max()), np.empty(chain.sizes.max())
    for k in range(len(active)):
        sample_normal(chain, bits, active[k, 0], active[k, 1], pulls[k], one, two)


@counted
def _spread(chain, level, before, after):
    """After = A_level before, for all samples: (units, N) each."""
    rows, columns, start = chain.sizes[level + 1], chain.sizes[level], chain.starts[level]
    matrix = chain.weights[start : start + rows * columns].reshape(rows, columns)
    if not chain.diagonal[level]:
        np.dot(matrix, before, after)
        return
    for a in range(rows):
        for i in range(after.shape[1]):
            after[a, i] = matrix[a, a] * before[a, i]


@bare
def _rectify(bits, slope, before, after):
    """After = before where the bit is set, else slope times before: (units, N) each."""
    for a in range(len(before)):
        for i in range(before.shape[1]):
            after[a, i] = before[a, i] * (1.0 if bits[a, i] else slope)


@bare
def _loss_rates(chain, bits, outputs, slopes):
    """Every sample's share of the loss's rate from its outputs' rates (outputs, N); their sum."""
    slopes[:] = 0.0
    for a in range(len(outputs)):
        for i in range(len(slopes)):
            up = not chain.residuals or bits[a, i]
            slopes[i] += outputs[a, i] * (chain.weight if up else -chain.weight)
    return slopes.sum()


@counted
def all_rates(chain, features, bits, direction, rates, slopes, hidden, outputs):
    """Rates of all kinks along a direction, and every sample's share of the loss's rate; its sum.

    Kinks come first: `bits` and `rates` are (K, N), the scratch `hidden` and `outputs` (units, N).
    """
    units, levels = chain.sizes[0], len(chain.slopes)
    one = hidden[:units]
    np.dot(direction.reshape(units, features.shape[1]), features.T, one)
    for level in range(levels):
        start, stop = chain.columns[level], chain.columns[level] + chain.sizes[level + 1]
        _spread(chain, level, one, rates[start:stop])
        one = hidden[: stop - start]
        _rectify(bits[start:stop], chain.slopes[level], rates[start:stop], one)
    last = rates[chain.columns[levels] :] if chain.residuals else outputs
    _spread(chain, levels, one, last)
    return _loss_rates(chain, bits[chain.columns[levels] :], last, slopes)
