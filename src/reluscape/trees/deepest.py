"""Lengths of rays whose least is as large as can be, compiled: small linear programs by hand."""

from __future__ import annotations

import numpy as np

from reluscape.compiled import bare, counted

#: Share of what is put out below which a length counts as zero, well above rounding errors.
SMALL = 1e-5
#: Share of it up to which lengths are made larger.
MOST = 0.1
#: Entries of a dictionary that are zero but for rounding errors, and pivots after which it is left.
ZERO, PIVOTS = 1e-10, 1000


@counted
def deepest(dictionary):
    """Lengths whose least is the largest, of those that can be positive.

    Args:
        dictionary: Basic lengths as sums of the others, and their values where these are zero
            (basic, others + 1).
    """
    count = dictionary.shape[0] + dictionary.shape[1] - 1
    which, only, point = np.ones(count), np.zeros(count), np.empty(count)
    _raise(dictionary, which, MOST, point)
    if _least(point) >= SMALL:
        return point
    for k in range(count):
        which[k] = point[k] >= SMALL
    for k in range(count):
        if which[k] == 0.0:
            only[k] = 1.0
            _raise(dictionary, only, 10.0 * SMALL, point)
            only[k] = 0.0
            for i in range(count):
                if point[i] >= SMALL:
                    which[i] = 1.0
    _raise(dictionary, which, MOST, point)
    return point


@bare
def _least(point):
    """The least number."""
    least = np.inf
    for k in range(len(point)):
        least = min(least, point[k])
    return least


@counted
def _raise(dictionary, which, most, point):
    """Write lengths of at least zero, of these `which` at least t, and t as large as can be, to `most`.

    In `l - t which` and t, all at least zero, a simplex method lowers `most - t`; by Bland's rule, as
    nearly all vertices are degenerate.
    """
    basic, others = dictionary.shape[0], dictionary.shape[1]  # t is the last of the others
    rows, names = np.zeros((basic + 1, others + 1)), np.arange(basic + 1 + others)
    rows[0, others - 1], rows[0, others] = -1.0, most
    for i in range(basic):
        rows[i + 1, others - 1] = -which[i]
        for k in range(others - 1):
            rows[i + 1, k] = dictionary[i, k]
            rows[i + 1, others - 1] += dictionary[i, k] * which[basic + k]
        rows[i + 1, others] = dictionary[i, others - 1]
    for _ in range(PIVOTS):
        enter = _entering(rows, names)
        if enter < 0 or names[0] != 0:
            break
        leave = _leaving(rows, names, enter)
        _pivot(rows, leave, enter)
        names[leave], names[basic + 1 + enter] = names[basic + 1 + enter], names[leave]
    raised = 0.0
    for i in range(len(point)):
        point[i] = 0.0
    for row in range(basic + 1):
        if names[row] == basic + others:
            raised = rows[row, others]
        elif names[row] > 0:
            point[names[row] - 1] = rows[row, others]
    for i in range(len(point)):
        point[i] += raised * which[i]


@bare
def _entering(rows, names):
    """Of the columns along which the first row falls, the first by name; -1 if there is none."""
    found = -1
    for k in range(rows.shape[1] - 1):
        if rows[0, k] < -ZERO and (found < 0 or names[len(rows) + k] < names[len(rows) + found]):
            found = k
    return found


@bare
def _leaving(rows, names, enter):
    """The row that is zero first along a column; of several, the first by name."""
    found, least = 0, np.inf
    for k in range(len(rows)):
        if rows[k, enter] < -ZERO:
            ratio = max(rows[k, -1], 0.0) / -rows[k, enter]
            if ratio < least or (ratio == least and names[k] < names[found]):
                found, least = k, ratio
    return found


@bare
def _pivot(rows, leave, enter):
    """Exchange a row's variable and a column's."""
    share = 1.0 / rows[leave, enter]
    for k in range(rows.shape[1]):
        rows[leave, k] *= -share
    rows[leave, enter] = share
    for i in range(len(rows)):
        if i != leave:
            factor = rows[i, enter]
            rows[i, enter] = 0.0
            for k in range(rows.shape[1]):
                rows[i, k] += factor * rows[leave, k]
