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
    point = _raised(dictionary, np.ones(count), MOST)
    positive = point >= SMALL
    if positive.all():
        return point
    for k in range(count):
        if not positive[k]:
            only = np.zeros(count)
            only[k] = 1.0
            positive |= _raised(dictionary, only, 10.0 * SMALL) >= SMALL
    return _raised(dictionary, positive.astype(np.float64), MOST)


@counted
def _raised(dictionary, which, most):
    """Lengths of at least zero, those among `which` at least t, with t as large as can be up to `most`.

    In `l - t which` and t, all at least zero, a simplex method lowers `most - t`; by Bland's rule, as
    nearly all vertices are degenerate.
    """
    basic, others = dictionary.shape[0], dictionary.shape[1]  # t is the last of the others
    rows = np.zeros((basic + 1, others + 1))
    rows[1:, : others - 1] = dictionary[:, :-1]
    rows[1:, others - 1] = dictionary[:, :-1] @ which[basic:] - which[:basic]
    rows[1:, others] = dictionary[:, -1]
    rows[0, others - 1], rows[0, others] = -1.0, most
    names = np.arange(basic + 1 + others)
    for _ in range(PIVOTS):
        enter = _entering(rows, names)
        if enter < 0:
            break
        leave = _leaving(rows, names, enter)
        _pivot(rows, leave, enter)
        names[leave], names[basic + 1 + enter] = names[basic + 1 + enter], names[leave]
        if leave == 0:
            break
    values = np.zeros(basic + 1 + others)
    values[names[: basic + 1]] = rows[:, others]
    return values[1:-1] + values[-1] * which


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
