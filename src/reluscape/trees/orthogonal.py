"""Columns made orthogonal to each other, compiled; each is a row of an array."""

from __future__ import annotations

import numpy as np

from reluscape.compiled import bare


@bare
def product_of(one, other):
    """Of two vectors."""
    total = 0.0
    for i in range(len(one)):
        total += one[i] * other[i]
    return total


@bare
def write_rest(columns, target, lengths, rest):
    """Write what is left of the target."""
    for i in range(len(target)):
        rest[i] = target[i]
    for k in range(len(columns)):
        if lengths[k] > 0.0:
            for i in range(len(target)):
                rest[i] -= lengths[k] * columns[k, i]


@bare
def write_units(columns, sizes, work):
    """Write the columns' lengths, one for those that are zero, and the columns over these."""
    for k in range(len(columns)):
        size = np.sqrt(product_of(columns[k], columns[k]))
        sizes[k] = size if size > 0.0 else 1.0
        for i in range(columns.shape[1]):
            work[k, i] = columns[k, i] / sizes[k]


@bare
def orthogonalise(work, order, done, stop, count, upper, cut):
    """Make rows `order[done:count]` of `work` orthogonal to the longest of `order[done:stop]`, in turn.

    Args:
        work: Written: the rows of this basis have length one.
        order: Written: those of the basis come first.
        done: How many there are.
        stop: Behind the last that may become one.
        count: Behind the last.
        upper: Written: shares of the basis in the rows (basis, rows).
        cut: Length from which on what is left is a rounding error.

    Returns:
        How many there are then.
    """
    while done < stop:
        best, longest = done, -1.0
        for k in range(done, stop):
            length = np.sqrt(product_of(work[order[k]], work[order[k]]))
            if length > longest:
                best, longest = k, length
        if longest <= cut:
            break
        order[done], order[best] = order[best], order[done]
        pivot = order[done]
        upper[done, pivot] = longest
        for i in range(work.shape[1]):
            work[pivot, i] /= longest
        for k in range(done + 1, count):
            other = order[k]
            share = product_of(work[pivot], work[other])
            upper[done, other] = share
            for i in range(work.shape[1]):
                work[other, i] -= share * work[pivot, i]
        done += 1
    return done


@bare
def solve_upper(upper, order, rank, row, found):
    """Write the combination of a basis's rows that has the shares of a row."""
    for i in range(rank - 1, -1, -1):
        found[i] = upper[i, row]
        for k in range(i + 1, rank):
            found[i] -= upper[i, order[k]] * found[k]
        found[i] /= upper[i, order[i]]
