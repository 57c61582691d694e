"""Rays of a central arrangement of hyperplanes and the cells around them, compiled.

The hyperplanes `{u : y_j . u = 0}` are given by unit rows y_j (hyperplanes, rank) that span the space.
A ray is a line in which `rank - 1` independent hyperplanes meet. A depth-first search chooses rows one
after the other; behind each choice a Householder reflection turns the chosen row into the first axis,
which is then left out, so that `coordinates[k]` holds all rows (and the axes, below them) projected onto
the orthogonal complement of the k rows chosen so far. At the end one coordinate is left: every row's
product with the ray, and the ray itself.

`level[j]` is the number of chosen rows on which row j depends, `FREE` if it is independent of all.
Row j depends on the chosen ones where its projection is within its error. Errors grow as the rows are
projected: that of the chosen row s turns its direction by `error_s / |s|`, which moves the projection of
row j by `|y_j|` times as much. Times the volume that the chosen rows span, the error of row j is that of
one row times the sum of the volumes of all rows but one, whichever of them were chosen.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reluscape.compiled import bare

Floats = NDArray[np.float64]

#: Level of a row that is independent of the chosen ones.
FREE = 1 << 30
ONE, ALL = np.uint64(1), np.uint64(0xFFFFFFFFFFFFFFFF)
_MULTIPLIER, _SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(29)


class Table(NamedTuple):
    """Cells by their signs, in open addressing; antipodal cells share an entry.

    Attributes:
        slots: Cell number behind each hash, or -1; a power of two of them.
        words: Signs of each cell, 64 hyperplanes a word, the first hyperplane's positive (cells, words).
        sums: Sum of the unit rays of each cell (cells, rank).
        used: Number of cells (1,).
        key: Scratch (words,).
        lines: A direction of each ray; of no length where rays are not kept (rays, rank).
        line_signs: Signs of the hyperplanes' rows on it, 0 where they contain it (rays, hyperplanes).
        corners: Cells and the rays that they have, counted from one, negative for the opposite
            directions (corners, 2).
        kept: Numbers of lines and of corners (2,).
    """

    slots: NDArray[np.int64]
    words: NDArray[np.uint64]
    sums: Floats
    used: NDArray[np.int64]
    key: NDArray[np.uint64]
    lines: Floats
    line_signs: NDArray[np.int8]
    corners: NDArray[np.int64]
    kept: NDArray[np.int64]


class Search(NamedTuple):
    """State of the search for rays.

    Attributes:
        coordinates: Rows and then axes in what is left of the space (rank, hyperplanes + rank, rank).
        lengths: Of the rows, so far (rank, hyperplanes).
        errors: Of the rows, so far; lengths up to `factor` times these are zero (rank, hyperplanes).
        level: Chosen rows on which each row depends (hyperplanes,).
        chosen: Chosen rows, ascending (rank,).
        factor: Factor on errors.
    """

    coordinates: Floats
    lengths: Floats
    errors: Floats
    level: NDArray[np.int64]
    chosen: NDArray[np.int64]
    factor: float


@bare
def same_hyperplanes(rows, tolerance, first, flipped):
    """For each unit row the first that is its multiple, and whether the factor is negative."""
    count, rank = rows.shape
    for i in range(count):
        first[i], flipped[i] = i, False
        for j in range(i):
            if first[j] != j:
                continue
            along = gap = 0.0
            for k in range(rank):
                along += rows[i, k] * rows[j, k]
            sign = -1.0 if along < 0 else 1.0
            for k in range(rank):
                gap += (rows[i, k] - sign * rows[j, k]) ** 2
            if gap <= tolerance * tolerance:
                first[i], flipped[i] = j, along < 0
                break


@bare
def rays_from(search, first, table, simple_signs, signs, rays):
    """Enter the cells around every ray whose first chosen row is `first`.

    Each ray is met once, by the first independent rows among those that contain it. Rays that lie in more
    than `rank - 1` hyperplanes are only written down, with the signs of all rows (0: contains the ray).

    Returns:
        The number of rays written to `signs` and `rays`, or -1 if the table is full.
    """
    chosen, level = search.chosen, search.level
    hyperplanes, last = len(level), search.coordinates.shape[0] - 2
    found, depth = np.int64(0), np.int64(0)  # for literals all would be compiled once more
    chosen[0] = first
    while True:
        row = chosen[depth]
        if row >= hyperplanes or (depth == 0 and row > first):
            depth -= 1
            if depth < 0:
                return found
            chosen[depth] += 1
            continue
        if level[row] <= depth or not _choose(search, depth):
            chosen[depth] += 1
        elif depth < last:
            depth += 1
            chosen[depth] = row + 1
        else:
            if _write_ray(search, table.key, signs, rays, found):
                if not _enter_corners(table, search, simple_signs, signs, rays, found):
                    return -1
            else:
                found += 1
            chosen[depth] += 1


@bare
def _choose(search, depth):
    """Project onto the complement of one more row; False where an earlier row does the same."""
    here, then = search.coordinates[depth], search.coordinates[depth + 1]
    lengths, errors = search.lengths, search.errors
    level, row = search.level, search.chosen[depth]
    hyperplanes, width = len(level), search.coordinates.shape[0] - depth
    length = lengths[depth, row]
    turn = errors[depth, row] / length
    head = here[row, 0] + (length if here[row, 0] >= 0 else -length)
    scale = 1.0 / (length * abs(head))
    for i in range(len(here)):
        along = head * here[i, 0]
        for k in range(1, width):
            along += here[row, k] * here[i, k]
        along *= scale
        size = 0.0
        for k in range(1, width):
            value = here[i, k] - along * here[row, k]
            then[i, k - 1] = value
            size += value * value
        if i < hyperplanes and level[i] > depth:
            level[i] = FREE
            lengths[depth + 1, i] = size**0.5
            errors[depth + 1, i] = errors[depth, i] + turn * lengths[depth, i]
            if i == row or lengths[depth + 1, i] <= search.factor * errors[depth + 1, i]:
                level[i] = depth + 1
                if i < row:
                    return False
    return True


@bare
def _write_ray(search, key, signs, rays, place):
    """Write the ray, its signs and its key; whether just `rank - 1` hyperplanes contain it."""
    values, level = search.coordinates[-1], search.level
    hyperplanes, rank = len(level), search.coordinates.shape[0]
    for k in range(rank):
        rays[place, k] = values[hyperplanes + k, 0]
    containing = 0
    for i in range(len(key)):
        key[i] = 0
    for i in range(hyperplanes):
        if level[i] < FREE:
            signs[place, i] = 0
            containing += 1
        elif values[i, 0] > 0:
            signs[place, i] = 1
            key[i >> 6] |= ONE << np.uint64(i & 63)
        else:
            signs[place, i] = -1
    return containing == rank - 1


@bare
def _enter_corners(table, search, before, signs, rays, place):
    """Enter the `2^(rank - 1)` cells around a ray; its key has zeros for the chosen rows."""
    rank, chosen, key = search.coordinates.shape[0], search.chosen, table.key
    _keep_line(table, signs, rays, place)
    for i in range(len(key)):
        before[i] = key[i]
    for corner in range(1 << (rank - 1)):
        for i in range(len(key)):
            key[i] = before[i]
        for k in range(rank - 1):
            if corner >> k & 1:
                key[chosen[k] >> 6] |= ONE << np.uint64(chosen[k] & 63)
        if not _enter(table, len(search.level), rays, place):
            return False
    return True


@bare
def enter_local(table, signs, rays, place, containing, local):
    """Enter the cells around a ray, given the signs `local` (cells, rows) of the rows `containing` it."""
    key, hyperplanes = table.key, signs.shape[1]
    _keep_line(table, signs, rays, place)
    for cell in range(len(local)):
        for i in range(len(key)):
            key[i] = 0
        for i in range(hyperplanes):
            if signs[place, i] > 0:
                key[i >> 6] |= ONE << np.uint64(i & 63)
        for k in range(len(containing)):
            if local[cell, k]:
                key[containing[k] >> 6] |= ONE << np.uint64(containing[k] & 63)
        if not _enter(table, hyperplanes, rays, place):
            return False
    return True


@bare
def _enter(table, hyperplanes, rays, place):
    """Add a ray to the cell of the key, which is entered if new; False where there is no room."""
    key, sign = table.key, 1.0
    if not key[0] & ONE:  # its antipode stands for it
        sign = -1.0
        for i in range(len(key)):
            key[i] = ~key[i]
        rest = hyperplanes & 63
        if rest:
            key[len(key) - 1] &= ALL >> np.uint64(64 - rest)
    slot = _slot(table, _code(key))
    cell = table.slots[slot]
    if cell < 0:
        cell = table.used[0]
        if cell == len(table.words):
            return False
        table.slots[slot] = cell
        table.used[0] = cell + 1
        for i in range(len(key)):
            table.words[cell, i] = key[i]
        for k in range(rays.shape[1]):
            table.sums[cell, k] = 0.0
    for k in range(rays.shape[1]):
        table.sums[cell, k] += sign * rays[place, k]
    if len(table.corners):
        corner = table.kept[1]
        table.corners[corner, 0] = cell
        table.corners[corner, 1] = table.kept[0] if sign > 0 else -table.kept[0]
        table.kept[1] = corner + 1
    return True


@bare
def _keep_line(table, signs, rays, place):
    """Write a ray's direction and signs down, if rays are kept."""
    if len(table.lines):
        for k in range(rays.shape[1]):
            table.lines[table.kept[0], k] = rays[place, k]
        for i in range(signs.shape[1]):
            table.line_signs[table.kept[0], i] = signs[place, i]
    table.kept[0] += 1


@bare
def _factor(word):
    """What a word of a key is multiplied by: odd, and of no simple relation to those of others."""
    mixed = np.uint64(word + 1) * _MULTIPLIER
    return (mixed ^ mixed >> _SHIFT) * _MULTIPLIER | ONE


@bare
def _code(key):
    """A sum over the key's words: where one hyperplane changes, so does one term."""
    code = np.uint64(0)
    for i in range(len(key)):
        code += key[i] * _factor(i)
    return code


@bare
def _slot(table, code):
    """The slot of the key with this code, or the empty one where it belongs."""
    key, words, slots = table.key, table.words, table.slots
    code = (code ^ code >> _SHIFT) * _MULTIPLIER
    code ^= code >> _SHIFT
    mask = np.uint64(len(slots) - 1)
    slot = code & mask
    while True:
        cell = slots[slot]
        if cell < 0:
            return slot
        same = True
        for i in range(len(key)):
            if words[cell, i] != key[i]:
                same = False
                break
        if same:
            return slot
        slot = (slot + ONE) & mask


@bare
def fill_slots(table):
    """Enter all rows of `words`, which differ, into the slots."""
    for cell in range(len(table.words)):
        for i in range(len(table.key)):
            table.key[i] = table.words[cell, i]
        table.slots[_slot(table, _code(table.key))] = cell


@bare
def adjacent_cells(table, hyperplanes, pairs, kinks):
    """Write the pairs of cells whose keys differ in one hyperplane alone, the negative side first."""
    found, key = 0, table.key
    for cell in range(len(table.words)):
        for i in range(len(key)):
            key[i] = table.words[cell, i]
        code = _code(key)
        for j in range(hyperplanes):
            bit = ONE << np.uint64(j & 63)
            if key[j >> 6] & bit:
                continue
            key[j >> 6] |= bit
            other = table.slots[_slot(table, code + bit * _factor(j >> 6))]
            if other >= 0:
                pairs[found, 0], pairs[found, 1], kinks[found] = cell, other, j
                found += 1
            key[j >> 6] ^= bit
    return found


@bare
def least_margins(values, sizes, signs, margins):
    """Write each point's least value over its size, on the side that is claimed.

    Args:
        values: Rows' values at points (points, rows).
        sizes: Of their terms (points, rows).
        signs: The claimed signs of the values (points, rows).
        margins: Written: not positive where a sign is not the one that is claimed, NaN where one of them
            is (points,).
    """
    for point in range(len(values)):
        least = np.inf
        for row in range(values.shape[1]):
            value, size = values[point, row], sizes[point, row]
            share = (value if signs[point, row] else -value) / (size if size > 0.0 else 1.0)
            if not share >= least:
                least = share
                if np.isnan(share):
                    break
        margins[point] = least
