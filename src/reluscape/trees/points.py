"""Least points of cells and facets, compiled: from their columns, and inside where they are many."""

from __future__ import annotations

import numpy as np

from reluscape.compiled import counted
from reluscape.trees.deepest import deepest
from reluscape.trees.sweep import NONE, digits_of, gather, others_of, solve

#: Slopes below this share of `|column| |target|` are rounding errors of zero.
FLAT = 1e-9
#: What is left of columns of length one that others span: where products tell, and in rounding errors.
RANK, LEFT = 1e-10, 1e-14
#: Share of the target's square by which the sum may change on the way.
SAME = 1e-13


@counted
def least_points(table, scratch, codes, facets, proof, rays, owners, lengths, told):
    """Write the least points of cells or facets.

    Args:
        table: The problem.
        scratch: Room to work in.
        codes: Numbers of the cells or facets (codes,).
        facets: Whether they are facets.
        proof: Room to work in.
        rays: Written: the rays of each (codes, most rays).
        owners: Written: the units that they are of (codes, most rays).
        lengths: Written: how much there is of each (codes, most rays).
        told: Written: whether float64 tells it (codes,).
    """
    units, cells, facets_of_unit = table.shape
    rest = cells ** (units - 1)
    for place, code in enumerate(codes):
        unit = facet = NONE
        if facets:
            unit, facet = code // (facets_of_unit * rest), code // rest % facets_of_unit
            others_of(code % rest, unit, units, cells, scratch.digits)
        else:
            digits_of(code, units, cells, scratch.digits)
        told[place] = solve(table, scratch, unit, facet, proof) >= 0
        if told[place]:
            count = gather(table, scratch, unit, facet)
            columns, found = _columns(table, scratch, count), scratch.solution[:count].copy()
            if table.absolute:  # it fits these samples exactly
                fitted = proof[:count][proof[:count] < len(table.targets)].astype(np.int64)
                found = refined(
                    np.ascontiguousarray(columns[:, fitted]), table.targets[fitted], found
                )
            else:
                found = refined(columns, table.targets, found)
                if not facets:
                    found = middle(columns, table.targets, found)
            rays[place, :count] = scratch.rays[:count]
            owners[place, :count] = scratch.owners[:count]
            lengths[place, :count] = found


@counted
def _columns(table, scratch, count):
    """What the rays that were gathered put out (rays, samples * outputs)."""
    outputs = table.readouts.shape[1]
    columns = np.empty((count, len(table.targets)))
    for k in range(count):
        readout = table.readouts[scratch.owners[k]]
        for output in range(outputs):
            columns[k, output::outputs] = readout[output] * table.columns[scratch.rays[k]]
    return columns


@counted
def refined(columns, target, lengths):
    """The same least point from the columns: their products, or pivots, have lost digits.

    Args:
        columns: What the rays put out (rays, rows).
        target: What is to be put out (rows,).
        lengths: Near the least point, and zero where it is (rays,).
    """
    used = np.flatnonzero(lengths > 0)
    count, sizes = len(used), _sizes(columns)
    work = np.empty((count + 1, len(target)))
    for k in range(count):
        work[k] = columns[used[k]] / sizes[used[k]]
    work[count] = target - lengths @ columns
    upper, order = np.zeros((count, count + 1)), np.arange(count + 1)
    rank = _orthogonal(work, order, 0, count, upper, LEFT * max(work.shape))
    change = _solved(upper, order, rank, upper[:, count])
    better = lengths.copy()
    for k in range(rank):
        ray = used[order[k]]
        better[ray] = max(lengths[ray] + change[k] / sizes[ray], 0.0)
    return better


@counted
def middle(columns, target, lengths):
    """A minimiser of `|target - l columns|^2` over `l >= 0` as far inside as others are.

    Minimisers put out the same, and only rays along which the sum is flat can be in use. Of these, the
    least length is made as large as it can be, up to a tenth of what all together put out (beyond that,
    weights only grow); rays that no minimiser uses are left out of that.

    Args:
        columns: What the rays put out (rays, rows).
        target: What is to be put out (rows,).
        lengths: A minimiser; the columns that it uses are independent (rays,).
    """
    rest = target - lengths @ columns
    sizes, size = _sizes(columns), np.sqrt(target @ target)
    slopes = np.abs(columns @ rest)
    used = lengths > 0
    flat = ~used & (slopes <= FLAT * sizes * size)
    if size == 0.0 or not flat.any():
        return lengths
    order = np.concatenate((np.flatnonzero(used), np.flatnonzero(flat)))
    first, count = used.sum(), len(order)
    work, upper = columns / sizes.reshape(-1, 1), np.zeros((count, len(columns)))
    rank = _orthogonal(work, order, 0, first, upper, RANK)
    if rank < first:
        return lengths
    rank = _orthogonal(work, order, rank, count, upper, RANK)
    if rank == count:
        return lengths
    put_out = target - rest
    scale = np.sqrt(put_out @ put_out)
    scale = scale if scale > 0.0 else size
    dictionary = np.empty((rank, count - rank + 1))  # what basic lengths are, in the others
    for k in range(count - rank):
        dictionary[:, k] = -_solved(upper, order, rank, upper[:, order[rank + k]])
    dictionary[:, -1] = (lengths * sizes)[order[:rank]] / scale
    moved = lengths.copy()
    moved[order] = np.maximum(deepest(dictionary), 0.0) * scale / sizes[order]
    left = target - moved @ columns
    return moved if abs(left @ left - rest @ rest) <= SAME * size**2 else lengths


@counted
def _sizes(columns):
    """Lengths of the columns, one for those that are zero."""
    sizes = np.sqrt((columns**2).sum(axis=1))
    return np.where(sizes > 0.0, sizes, 1.0)


@counted
def _orthogonal(work, order, done, stop, upper, cut):
    """Make rows `order[done:]` of `work` orthogonal to the longest of `order[done:stop]`, one by one.

    Args:
        work: Written: the rows of this basis have length one.
        order: Written: those of the basis come first.
        done: How many there are.
        stop: Behind the last that may become one.
        upper: Written: shares of the basis in the rows (basis, rows).
        cut: Length from which on what is left is a rounding error.

    Returns:
        How many there are then.
    """
    while done < stop:
        best, longest = done, -1.0
        for k in range(done, stop):
            length = work[order[k]] @ work[order[k]]
            if length > longest:
                best, longest = k, length
        longest = np.sqrt(longest)
        if longest <= cut:
            break
        order[done], order[best] = order[best], order[done]
        pivot = order[done]
        work[pivot] /= longest
        upper[done, pivot] = longest
        for other in order[done + 1 :]:
            share = work[pivot] @ work[other]
            upper[done, other] = share
            work[other] -= share * work[pivot]
        done += 1
    return done


@counted
def _solved(upper, order, rank, right):
    """The combination of a basis's rows with given shares."""
    found = right[:rank].copy()
    for i in range(rank - 1, -1, -1):
        for k in range(i + 1, rank):
            found[i] -= upper[i, order[k]] * found[k]
        found[i] /= upper[i, order[i]]
    return found
