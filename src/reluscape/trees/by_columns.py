"""Least squares over a cone from its columns, compiled: where their products have lost too many digits.

Lawson and Hanson's active set method as in `nonnegative`, with an orthogonal basis of the free columns in
place of a factor of their products, whose lengths and distances have lost twice the digits.
"""

from __future__ import annotations

import numpy as np

from reluscape.compiled import bare, counted
from reluscape.trees.orthogonal import (
    orthogonalise,
    product_of,
    solve_upper,
    write_rest,
    write_units,
)

#: Slopes below this share of `|column| |target|` are rounding errors of zero.
FLAT = 1e-13
#: What of two columns of length one lies outside of those before, one after the other: where the product
#: is below this, for each length of the samples over the column's, the second may be a rounding error of
#: zero, which grows with one over the first.
BLURRED = 1e-14
#: Slopes of such columns up to this share of `|column| |target|` are what zero may be.
ZERO = 1e-11
#: Share of the target's square by which the minimum may be missed.
MISSED = 1e-11
#: Lengths of rays, times the samples' over the target's, from which on columns have lost too many digits.
FAR = 1e5


@counted
def least_by_columns(design, target, reach, lengths, free):
    """Minimise `|target - l design|^2` over `l >= 0`.

    Args:
        design: What the rays put out, none of them narrow (rays, rows).
        target: What is to be put out (rows,).
        reach: Length of the samples (`Problem.reach`).
        lengths: Where the search begins, unless they are huge; written: the minimiser (rays,).
        free: Written: the rays in use, and behind them the others (rays,).

    Returns:
        The minimum, the number of rays in use, and whether it is least but for `MISSED`. That is not told
        where lengths are huge, where columns in use may depend on each other, and where another depends
        on them so nearly that its slope does not tell whether it matters.
    """
    count, rows, size = len(design), len(target), np.sqrt(product_of(target, target))
    units, sizes, rest = np.empty(design.shape), np.empty(count), np.empty(rows)
    write_units(design, sizes, units)
    work, upper = np.empty((count + 1, rows)), np.empty((count, count + 1))
    order, change = np.arange(count + 1), np.empty(count)
    for k in range(count):  # from so far away, steps keep too few digits
        if reach * lengths[k] > FAR * size:
            lengths[k] = 0.0
    barred, entering = np.zeros(count, dtype=np.bool_), -1
    used = _gathered(lengths, order, count)
    for _ in range(10 * count + 10):
        work[:count] = units
        write_rest(design, target, lengths, work[count])
        if orthogonalise(work, order, 0, used, count + 1, upper, 0.0) < used:
            break
        solve_upper(upper, order, used, count, change)
        if not _step(change, sizes, order, used, lengths):
            if entering >= 0 and lengths[entering] <= 0.0:
                barred[entering] = True
            used = _gathered(lengths, order, used)
            continue
        write_rest(design, target, lengths, rest)
        entering, sure = _next(units, sizes, work, upper, rest, size, order, used, barred, reach)
        least = product_of(rest, rest)
        if entering < 0:
            for k in range(count):
                free[k] = order[k]
                sure &= reach * lengths[k] <= FAR * size
            return least, used, sure
        for k in range(used, count):
            if order[k] == entering:
                order[k], order[used] = order[used], entering
        used += 1
    return size**2, 0, False


@bare
def _gathered(lengths, order, count):
    """Of `order[:count]`, move those that are in use to the front; how many."""
    used = 0
    for k in range(count):
        ray = order[k]
        if lengths[ray] > 0.0:
            order[k], order[used] = order[used], ray
            used += 1
    return used


@bare
def _step(change, sizes, order, used, lengths):
    """Go to the minimum of the rays in use, or to where the first of them is none more; whether there."""
    share, blocked = 1.0, -1
    for k in range(used):
        now = lengths[order[k]]
        there = now + change[k] / sizes[order[k]]
        if there <= 0.0 and (blocked < 0 or now < share * (now - there)):
            share, blocked = now / (now - there) if now > 0.0 else 0.0, order[k]
    for k in range(used):
        ray = order[k]
        lengths[ray] = max(lengths[ray] + share * change[k] / sizes[ray], 0.0)
    if blocked >= 0:
        lengths[blocked] = 0.0
    return blocked < 0


@bare
def _next(units, sizes, work, upper, rest, size, order, used, barred, reach):
    """The ray along which the sum falls fastest, -1 where along none; and if so, whether that is told.

    Args:
        units: The columns, of length one (rays, rows).
        sizes: Their lengths (rays,).
        work: As `orthogonalise` has left it for the rays in use.
        upper: As it has.
        rest: What is left of the target (rows,).
        size: The target's length.
        order: The rays in use, and behind them the others.
        used: How many are in use.
        barred: Rays that left as soon as they entered, by rounding errors (rays,).
        reach: As of `least_by_columns`.
    """
    narrowest, best, entering, sure = 1.0, FLAT, -1, True
    for k in range(used):
        share = upper[k, order[k]]
        sure &= share * narrowest > BLURRED * reach / sizes[order[k]]
        narrowest = min(narrowest, share)
    fitted = product_of(rest, rest) <= MISSED * size**2
    for k in range(used, len(units)):
        ray = order[k]
        slope = product_of(units[ray], rest) / size
        apart = np.sqrt(product_of(work[ray], work[ray]))
        if apart * narrowest <= BLURRED * reach / sizes[ray]:
            sure &= fitted or slope <= ZERO
            continue
        sure &= fitted or slope <= 0.0 or slope**2 <= MISSED * apart**2
        if slope > best and not barred[ray]:
            best, entering = slope, ray
    return entering, sure
