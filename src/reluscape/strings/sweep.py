"""Sums of many piecewise polynomials on [0, 1]: their maximum, from one sweep over all breakpoints.

Each sample's loss is a polynomial of t between its own breakpoints. At a breakpoint the sum of all
changes by the difference of that sample's polynomials, which is added to running coefficients. They
are sums of pairs of floats (Dekker, A floating-point technique for extending the available precision),
so that hundreds of thousands of additions leave an error of one.
"""

from __future__ import annotations

import numpy as np

from reluscape.compiled import bare, counted

_EPS = float(np.finfo(np.float64).eps)
#: Coefficients of a quartic.
QUARTIC = 5
#: Halvings of a piece: its length has 52 bits.
_DEPTH = 60


@bare
def add(high, low, value):
    """Add a float to a sum of two."""
    total = high + value
    part = total - high
    low += (high - (total - part)) + (value - part)
    return total, low


@bare
def _bernstein(poly, left, length, out):
    """Bernstein coefficients on [left, left + length] of coefficients by powers of t."""
    for k in range(QUARTIC):
        out[k] = poly[k]
    for step in range(QUARTIC - 1):  # powers of t - left, by Horner
        for k in range(QUARTIC - 2, step - 1, -1):
            out[k] += left * out[k + 1]
    scale = 1.0
    for k in range(QUARTIC):
        out[k] *= scale
        scale *= length
    out[1] /= 4.0
    out[2] /= 6.0
    out[3] /= 4.0
    for step in range(QUARTIC - 1):  # running sums of differences
        for k in range(QUARTIC - 1, step, -1):
            out[k] += out[k - 1]


@bare
def _halve(stack, top):
    """Replace the coefficients on top by those of their right half, and put the left half above."""
    for k in range(QUARTIC):
        stack[top + 1, k] = stack[top, k]
    for step in range(1, QUARTIC):
        for k in range(QUARTIC - step):
            stack[top, k] = 0.5 * (stack[top, k] + stack[top, k + 1])
        stack[top + 1, step] = stack[top, 0]


@bare
def _raise_to(stack, ends, left, right, best, slack):
    """Raise the largest value known to that of the piece on the stack, to within `slack`.

    Args:
        stack: Room for coefficients (depth, 5); the piece's are the first.
        ends: Room for their intervals (depth, 2).
        left: Where the piece begins.
        right: Where it ends.
        best: Largest value so far, its position, and a bound on all values so far (3,).
        slack: Largest difference of value and bound that is accepted.
    """
    top = 0
    ends[0, 0], ends[0, 1] = left, right
    while top >= 0:
        bound = -np.inf
        for k in range(QUARTIC):
            bound = max(bound, stack[top, k])
            if not np.isfinite(stack[top, k]):  # an overflow, which no halving ends
                best[2] = np.inf
                return
        for end in range(2):
            value = stack[top, (QUARTIC - 1) * end]
            if value > best[0]:
                best[0], best[1] = value, ends[top, end]
        middle = 0.5 * (ends[top, 0] + ends[top, 1])
        if (
            bound <= best[0] + slack
            or top + 2 >= _DEPTH
            or not ends[top, 0] < middle < ends[top, 1]
        ):
            best[2] = max(best[2], bound)
            top -= 1
            continue
        _halve(stack, top)
        ends[top + 1, 0], ends[top + 1, 1] = ends[top, 0], middle
        ends[top, 0] = middle
        top += 1


@counted
def maximum_of_sum(start, times, changes, order, best, slack):
    """Largest value of a piecewise quartic.

    Args:
        start: Coefficients by powers of t at t = 0, as two terms (2, 5).
        times: Breakpoints in [0, 1] (events,).
        changes: What is added to the coefficients behind each of them (events, 5).
        order: Places of the breakpoints in ascending order (events,).
        best: A value that is attained, its position, and room for the bound (3,); raised in place.
        slack: How far the bound may lie above the value.

    Returns:
        Largest sum of the coefficients' sizes, for rounding errors.
    """
    high, low = start[0].copy(), start[1].copy()
    stack, ends = np.empty((_DEPTH, QUARTIC)), np.empty((_DEPTH, 2))
    left, largest = 0.0, 0.0
    best[2] = best[0]
    for place in range(len(order) + 1):
        right = times[order[place]] if place < len(order) else 1.0
        if right > left:
            size = 0.0
            for k in range(QUARTIC):
                total = high[k] + low[k]
                low[k] += high[k] - total
                high[k] = total
                size += abs(total)
            largest = max(largest, size)
            _bernstein(high, left, right - left, stack[0])
            _raise_to(stack, ends, left, right, best, slack)
            left = right
        if place < len(order):
            for k in range(QUARTIC):
                high[k], low[k] = add(high[k], low[k], changes[order[place], k])
    return largest
