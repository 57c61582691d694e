"""Compiled sweeps over all cells and facets, with one small problem for each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reluscape.compiled import bare, unlocked
from reluscape.trees.absolute import least_absolute
from reluscape.trees.by_columns import least_by_columns
from reluscape.trees.nonnegative import is_least, least_squares
from reluscape.trees.problem import Problem

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Words = NDArray[np.uint64]

ONE = np.uint64(1)
#: No unit or facet. A literal in its place would be a type of its own, compiled for once more.
NONE = np.int64(-1)
#: Share of the target up to which the sign of a residual is told: some times more than that up to which
#: who checks a proof reads it.
NEAR = 4e-9


class Table(NamedTuple):
    """What the compiled search reads.

    Attributes:
        shape: Units, cells of a unit, facets of a unit (3,).
        groups: Of the units, the first that acts alike (units,).
        starts, rays: Of a unit's cells.
        facet_starts, facet_rays: Of a unit's facets.
        pairs: Cells of a unit's facets (facets, 2).
        products: Of the rays' columns (rays, rays); empty where they are not held.
        mixing: Of the units' readouts (units, units).
        right: Products of columns and targets (units, rays).
        size: Sum of the targets' squares.
        columns: What a unit of output weight one puts out at each ray (rays, samples).
        readouts: Output weights (units, outputs).
        targets: Targets without the output bias, sample-major (samples * outputs,).
        absolute: Whether the loss is that of absolute values.
        bundles: Number of bundles of a unit's cells.
        bundle: Which one each of a unit's cells is in (cells,).
        alive: Whether cells whose units' cells are in these bundles may have a loss of interest
            (bundles ** units,).
        narrow: As in `Problem` (rays,).
        reach: As in `Problem`.
    """

    shape: Indices
    groups: Indices
    starts: Indices
    rays: Indices
    facet_starts: Indices
    facet_rays: Indices
    pairs: Indices
    products: Floats
    mixing: Floats
    right: Floats
    size: float
    columns: Floats
    readouts: Floats
    targets: Floats
    absolute: bool
    bundles: int
    bundle: Indices
    alive: NDArray[np.bool_]
    narrow: NDArray[np.bool_]
    reach: float


class Scratch(NamedTuple):
    """What the compiled search writes, for each thread of its own."""

    gram: Floats
    right: Floats
    solution: Floats
    factor: Floats
    free: Indices
    trial: Floats
    barred: NDArray[np.bool_]
    rays: Indices
    owners: Indices
    digits: Indices
    design: Floats
    residuals: Floats
    rates: Floats
    signs: Floats
    places: Floats
    heap: Indices

    @classmethod
    def of(cls, problem: Problem) -> Scratch:
        """Room for the largest cell."""
        layer, units, most = problem.layer, problem.shape[0], problem.most_rays
        rows = layer.residual.size
        numbers, places = (most,), (most, most)
        return cls(
            np.empty(places), np.empty(numbers), np.empty(numbers), np.empty(places),
            np.empty(numbers, dtype=np.int64), np.empty(numbers), np.empty(numbers, dtype=np.bool_),
            np.empty(numbers, dtype=np.int64), np.empty(numbers, dtype=np.int64),
            np.empty(max(1, units), dtype=np.int64), np.empty((most, rows)), np.empty(rows),
            np.empty((most, rows)), np.empty(rows), np.empty(rows), np.empty(rows, dtype=np.int64),
        )  # fmt: skip


@unlocked
def solve_cells(table, scratch, start, stop, values, proofs):
    """Write the least sums of cells `start .. stop` and what proves them; how many were solved.

    Of cells that differ by an exchange of units that act alike, the one whose units' cells ascend is
    solved; the others get NaN, and their value from `copy_cells`. Where float64 does not tell whether it
    is least, it is -1, and infinite where the cell is of no interest.

    Args:
        table: The problem.
        scratch: Room to work in.
        start: The first cell.
        stop: Behind the last.
        values: Written (stop - start,).
        proofs: Written: the numbers of the rays in use as bits, or for absolute values what is zero
            (residuals, and behind them rays) and then as bits which of the residuals that are nearly
            zero count as negative (stop - start, words).
    """
    units, cells = table.shape[0], table.shape[1]
    solved = 0
    for code in range(start, stop):
        digits_of(code, units, cells, scratch.digits)
        if not _ascending(scratch.digits, table.groups, units, NONE):
            values[code - start] = np.nan
            continue
        if not _alive(table, scratch, NONE, NONE):
            values[code - start] = np.inf
            continue
        values[code - start] = solve(table, scratch, NONE, NONE, proofs[code - start])
        solved += 1
    return solved


@unlocked
def solve_facets(table, scratch, start, stop, values, proofs):
    """The same of facets `start .. stop`, numbered as in `kruskal`."""
    units, cells, facets = table.shape[0], table.shape[1], table.shape[2]
    rest = cells ** (units - 1)
    solved = 0
    for edge in range(start, stop):
        unit, facet = edge // (facets * rest), edge // rest % facets
        others_of(edge % rest, unit, units, cells, scratch.digits)
        if unit != table.groups[unit] or not _ascending(scratch.digits, table.groups, units, unit):
            values[edge - start] = np.nan
            continue
        one, other = table.pairs[facet, 0], table.pairs[facet, 1]
        if not (_alive(table, scratch, unit, one) and _alive(table, scratch, unit, other)):
            values[edge - start] = np.inf
            continue
        values[edge - start] = solve(table, scratch, unit, facet, proofs[edge - start])
        solved += 1
    return solved


@bare
def _alive(table, scratch, unit, cell):
    """Whether a cell may have a loss of interest; one unit's cell is given, if there is such a unit."""
    code = 0
    for k in range(table.shape[0]):
        own = cell if k == unit else scratch.digits[k]
        code = code * table.bundles + table.bundle[own]
    return table.alive[code]


@unlocked
def copy_cells(table, scratch, start, stop, values):
    """Give cells `start .. stop` the values of those that were solved for them."""
    units, cells = table.shape[0], table.shape[1]
    for code in range(start, stop):
        digits_of(code, units, cells, scratch.digits)
        if not _ascending(scratch.digits, table.groups, units, NONE):
            _sort(scratch.digits, table.groups, units, NONE)
            values[code] = values[_code(scratch.digits, units, cells)]


@unlocked
def copy_facets(table, scratch, start, stop, values):
    """The same of facets."""
    units, cells, facets = table.shape[0], table.shape[1], table.shape[2]
    rest = cells ** (units - 1)
    for edge in range(start, stop):
        unit, facet = edge // (facets * rest), edge // rest % facets
        others_of(edge % rest, unit, units, cells, scratch.digits)
        first = table.groups[unit]
        if unit == first and _ascending(scratch.digits, table.groups, units, unit):
            continue
        for k in range(unit, first, -1):
            scratch.digits[k] = scratch.digits[k - 1]
        _sort(scratch.digits, table.groups, units, first)
        others = _code_without(scratch.digits, units, cells, first)
        values[edge] = values[(first * facets + facet) * rest + others]


@bare
def digits_of(code, units, cells, digits):
    """Cells of the units of a cell."""
    for k in range(units - 1, -1, -1):
        digits[k] = code % cells
        code //= cells


@bare
def others_of(code, unit, units, cells, digits):
    """Cells of the units of a facet, but of the one that it is a facet of."""
    for k in range(units - 1, -1, -1):
        if k != unit:
            digits[k] = code % cells
            code //= cells


@bare
def _code(digits, units, cells):
    """The number of a cell."""
    code = 0
    for k in range(units):
        code = code * cells + digits[k]
    return code


@bare
def _code_without(digits, units, cells, unit):
    """The number of the other units' cells."""
    code = 0
    for k in range(units):
        if k != unit:
            code = code * cells + digits[k]
    return code


@bare
def _ascending(digits, groups, units, without):
    """Whether cells of units that act alike ascend, one unit left out."""
    for k in range(1, units):
        before = k - 1 if k - 1 != without else k - 2
        if k == without or before < 0 or groups[before] != groups[k]:
            continue
        if digits[before] > digits[k]:
            return False
    return True


@bare
def _sort(digits, groups, units, without):
    """Make them ascend."""
    for k in range(1, units):
        if k == without:
            continue
        at = k
        while True:
            before = at - 1 if at - 1 != without else at - 2
            if before < 0 or groups[before] != groups[at] or digits[before] <= digits[at]:
                break
            digits[before], digits[at] = digits[at], digits[before]
            at = before


@bare
def solve(table, scratch, unit, facet, proof):
    """The least sum over the cell of `scratch.digits`, or over a facet of one of its units.

    It is -1 where float64 does not tell whether it is least; then the proof is a guess.
    """
    count = gather(table, scratch, unit, facet)
    if table.absolute:
        return _absolute(table, scratch, count, proof)
    narrow = False
    for i in range(count):
        ray, owner = scratch.rays[i], scratch.owners[i]
        narrow |= table.narrow[ray]
        scratch.right[i] = table.right[owner, ray]
        for j in range(i + 1):
            product = _product(table, ray, scratch.rays[j])
            entry = product * table.mixing[owner, scratch.owners[j]]
            scratch.gram[i, j] = entry
            scratch.gram[j, i] = entry
    value, used = least_squares(
        scratch.gram, scratch.right, count, table.size, scratch.solution, scratch.factor,
        scratch.free, scratch.trial, scratch.barred,
    )  # fmt: skip
    sure = is_least(
        scratch.gram, scratch.right, count, table.size, value, scratch.solution, scratch.factor,
        scratch.free, used, scratch.trial, scratch.barred, narrow, table.reach,
    )  # fmt: skip
    least = max(table.size + 2.0 * value, 0.0)
    if not (sure or narrow):
        _write_design(table, scratch, count)
        least, used, sure = least_by_columns(
            scratch.design[:count], table.targets, table.reach, scratch.solution, scratch.free
        )
    for word in range(len(proof)):
        proof[word] = 0
    for k in range(used):
        ray = scratch.free[k]
        proof[ray >> 6] |= ONE << np.uint64(ray & 63)
    return least if sure else -1.0


@bare
def _product(table, ray, other):
    """Of the columns of two rays."""
    if len(table.products):
        return table.products[ray, other]
    total = 0.0
    for sample in range(table.columns.shape[1]):
        total += table.columns[ray, sample] * table.columns[other, sample]
    return total


@bare
def _absolute(table, scratch, count, proof):
    """The least sum of absolute values over the rays that were gathered."""
    samples, outputs = table.columns.shape[1], table.readouts.shape[1]
    narrow = False
    for i in range(count):
        narrow |= table.narrow[scratch.rays[i]]
    _write_design(table, scratch, count)
    value, sure = least_absolute(
        scratch.design, table.targets, samples * outputs, count, scratch.solution,
        scratch.free, scratch.factor, scratch.signs, scratch.rates, scratch.residuals,
        scratch.places, scratch.heap, narrow, table.reach,
    )  # fmt: skip
    first, size = len(proof) - (samples * outputs + 63) // 64, 0.0
    for word in range(len(proof)):
        proof[word] = scratch.free[word] if word < min(first, count) else 0
    for i in range(samples * outputs):
        size += abs(table.targets[i])
    for i in range(samples * outputs):
        if scratch.signs[i] < 0.0 and abs(scratch.residuals[i]) <= NEAR * size:
            proof[first + (i >> 6)] |= ONE << np.uint64(i & 63)
    return value if sure else -1.0


@bare
def _write_design(table, scratch, count):
    """Write what the rays that were gathered put out."""
    samples, outputs = table.columns.shape[1], table.readouts.shape[1]
    for i in range(count):
        ray, owner = scratch.rays[i], scratch.owners[i]
        for sample in range(samples):
            for output in range(outputs):
                entry = table.columns[ray, sample] * table.readouts[owner, output]
                scratch.design[i, sample * outputs + output] = entry


@bare
def gather(table, scratch, unit, facet):
    """Write the rays of a cell or facet, and whose they are; how many."""
    count = 0
    for k in range(table.shape[0]):
        if k == unit:
            first, last, source = (
                table.facet_starts[facet],
                table.facet_starts[facet + 1],
                table.facet_rays,
            )
        else:
            cell = scratch.digits[k]
            first, last, source = table.starts[cell], table.starts[cell + 1], table.rays
        for place in range(first, last):
            scratch.rays[count] = source[place]
            scratch.owners[count] = k
            count += 1
    return count
