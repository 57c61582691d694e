"""Least points of cells and facets, compiled: from their columns, and inside where they are many."""

from __future__ import annotations

import numpy as np

from reluscape.compiled import counted, unlocked
from reluscape.trees.deepest import deepest
from reluscape.trees.orthogonal import (
    orthogonalise,
    product_of,
    solve_upper,
    write_rest,
    write_units,
)
from reluscape.trees.sweep import NONE, digits_of, gather, others_of, solve

#: Slopes below this share of `|column| |target|` are rounding errors of zero.
FLAT = 1e-9
#: What is left of columns of length one that others span: where products tell, and in rounding errors.
RANK, LEFT = 1e-10, 1e-14
#: Share of the target's square by which the sum may change on the way.
SAME = 1e-13


@unlocked
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
    units, cells, doors = table.shape[0], table.shape[1], table.shape[2]
    rest = cells ** (units - 1)
    for place in range(len(codes)):
        code, unit, facet = codes[place], NONE, NONE
        if facets:
            unit, facet = code // (doors * rest), code // rest % doors
            others_of(code % rest, unit, units, cells, scratch.digits)
        else:
            digits_of(code, units, cells, scratch.digits)
        told[place] = solve(table, scratch, unit, facet, proof) >= 0
        if told[place]:
            count = gather(table, scratch, unit, facet)
            found = lengths[place, :count]
            for k in range(count):
                rays[place, k], owners[place, k] = scratch.rays[k], scratch.owners[k]
                found[k] = scratch.solution[k]
            fitted = proof[: count if table.absolute else 0]
            _improve(
                table.columns, table.readouts, table.targets, rays[place, :count],
                owners[place, :count], table.absolute, fitted, not (facets or table.absolute), found,
            )  # fmt: skip


@counted
def _improve(columns, readouts, targets, rays, owners, absolute, fitted, inside, lengths):
    """Solve for a least point anew, and go inside.

    Args:
        columns: As in `Table`.
        readouts: As in `Table`.
        targets: As in `Table`.
        rays: The cell's or facet's (rays,).
        owners: The units that they are of (rays,).
        absolute: Whether the loss is that of absolute values.
        fitted: Then the samples and outputs that are fitted exactly are among these.
        inside: Whether to go inside.
        lengths: Written (rays,).
    """
    count, outputs = len(rays), readouts.shape[1]
    rows, used = np.empty(len(targets), dtype=np.int64), 0
    for row in range(len(targets)):
        taken = not absolute
        for k in range(len(fitted)):
            taken |= fitted[k] == row
        if taken:
            rows[used] = row
            used += 1
    design, target = np.empty((count, used)), np.empty(used)
    for i in range(used):
        sample, output = rows[i] // outputs, rows[i] % outputs
        target[i] = targets[rows[i]]
        for k in range(count):
            design[k, i] = columns[rays[k], sample] * readouts[owners[k], output]
    refine(design, target, lengths)
    if inside:
        move_inside(design, target, lengths)


@counted
def refine(columns, target, lengths):
    """Solve for a least point anew from the columns: their products, or pivots, have lost digits.

    Lengths that put out no more than rounding errors of the target are zero: at a unit of nearly no
    weights kinks would not be where they meet.

    Args:
        columns: What the rays put out (rays, rows).
        target: What is to be put out (rows,).
        lengths: Near the least point, and zero where it is; written (rays,).
    """
    count, sizes = len(columns), np.empty(len(columns))
    work = np.empty((count + 1, len(target)))
    upper, order = np.zeros((count, count + 1)), np.empty(count + 1, dtype=np.int64)
    write_units(columns, sizes, work)
    write_rest(columns, target, lengths, work[count])
    used = 0
    for ray in range(count):
        if lengths[ray] > 0.0:
            order[used] = ray
            used += 1
    order[used] = count
    rank = orthogonalise(work, order, 0, used, used + 1, upper, LEFT * max(work.shape[1], count))
    change, size = np.empty(count), np.sqrt(product_of(target, target))
    solve_upper(upper, order, rank, count, change)
    for k in range(rank):
        ray = order[k]
        lengths[ray] = max(lengths[ray] + change[k] / sizes[ray], 0.0)
        if lengths[ray] * sizes[ray] <= LEFT * size:
            lengths[ray] = 0.0


@counted
def move_inside(columns, target, lengths):
    """Go to a minimiser of `|target - l columns|^2` over `l >= 0` as far inside as others are.

    Minimisers put out the same, and only rays along which the sum is flat can be in use. Of these, the
    least length is made as large as it can be, up to a tenth of what all together put out (beyond that,
    weights only grow); rays that no minimiser uses are left out of that.

    Args:
        columns: What the rays put out (rays, rows).
        target: What is to be put out (rows,).
        lengths: A minimiser; the columns that it uses are independent; written (rays,).
    """
    count, size, rest = len(columns), np.sqrt(product_of(target, target)), np.empty(len(target))
    sizes, work = np.empty(count), np.empty(columns.shape)
    write_rest(columns, target, lengths, rest)
    write_units(columns, sizes, work)
    order, first, usable = np.empty(count, dtype=np.int64), 0, 0
    for ray in range(count):
        if lengths[ray] > 0.0:
            order[first] = ray
            first += 1
    usable = first
    for ray in range(count):
        if not lengths[ray] > 0.0 and abs(product_of(work[ray], rest)) <= FLAT * size:
            order[usable] = ray
            usable += 1
    if size == 0.0 or usable == first:
        return
    upper = np.zeros((usable, count))
    rank = orthogonalise(work, order, 0, first, usable, upper, RANK)
    if rank < first:
        return
    rank = orthogonalise(work, order, rank, usable, usable, upper, RANK)
    if rank == usable:
        return
    scale = 0.0
    for i in range(len(target)):
        scale += (target[i] - rest[i]) ** 2
    scale = np.sqrt(scale) if scale > 0.0 else size
    # what basic lengths are: sums of the others, and what is there where these are zero
    dictionary, share = np.empty((rank, usable - rank + 1)), np.empty(rank)
    for j in range(usable - rank):
        solve_upper(upper, order, rank, order[rank + j], share)
        for k in range(rank):
            dictionary[k, j] = -share[k]
    for k in range(rank):
        dictionary[k, usable - rank] = lengths[order[k]] * sizes[order[k]] / scale
    point, moved, left = deepest(dictionary), lengths.copy(), np.empty(len(target))
    for k in range(usable):
        moved[order[k]] = max(point[k], 0.0) * scale / sizes[order[k]]
    write_rest(columns, target, moved, left)
    if abs(product_of(left, left) - product_of(rest, rest)) <= SAME * size**2:
        for k in range(count):
            lengths[k] = moved[k]
