"""Basins of a layer's landscape: cells linked across their lowest facets, compiled.

A cell's lowest facet, of equal levels the first, is in the minimum spanning tree (Boruvka). Where its
level is the cell's own minimum, as it is for all but the few cells that hold a minimum inside, no minimum
ends there, in whatever order facets come: the cell can be linked with the one behind it beforehand. So it
is with basins of linked cells. Kruskal's algorithm has then nothing left to do but for facets between the
few basins that are linked with no other.
"""

from __future__ import annotations

import numpy as np

from reluscape.compiled import bare, unlocked
from reluscape.trees.kruskal import lower_of, root_of

#: Most equal levels that are sorted by insertion.
FEW = 16


@unlocked
def find_lowest(start, stop, levels, highest, shape, pairs, least, lowest, parent):
    """Write the lowest facet of cells whose first unit is in one of its cells `start .. stop`.

    Of equal levels it is the first: a cell's facets are gone through by their numbers.

    Args:
        start: The first of the first unit's cells.
        stop: Behind the last.
        levels: Minimum of each facet (facets,).
        highest: Facets above this are none.
        shape: Units, cells of a unit, facets of a unit.
        pairs: Cells of a unit's facets (facets, 2).
        least: Written: level of the lowest facet, infinite if there is none (cells,).
        lowest: Written: that facet, or -1 (cells,).
        parent: Written: the cell behind it (cells,).
    """
    units, cells, facets = shape[0], shape[1], shape[2]
    rest = cells ** (units - 1)
    for cell in range(start * rest, stop * rest):
        least[cell], lowest[cell] = np.inf, -1
    for unit in range(units):
        low = cells ** (units - 1 - unit)
        for facet in range(facets):
            edges = (unit * facets + facet) * rest
            for side in range(2):
                own, other = pairs[facet, side], pairs[facet, 1 - side]
                if unit == 0:
                    first, last = 0, 1 if start <= own < stop else 0
                else:
                    first, last = start * cells ** (unit - 1), stop * cells ** (unit - 1)
                for high in range(first, last):
                    edge, cell = edges + high * low, (high * cells + own) * low
                    for k in range(low):
                        level = levels[edge + k]
                        if level < least[cell + k] and level <= highest:
                            least[cell + k] = level
                            lowest[cell + k] = edge + k
                            parent[cell + k] = cell + k + (other - own) * low


@unlocked
def link(start, stop, lowest, least, values, tolerance, parent):
    """Keep the links of cells `start .. stop` across their lowest facets only where no minimum can end.

    When its lowest facet comes, a cell is still alone. With a minimum within `tolerance` of that level it
    does not end there, nor does a higher one that it meets. Of two cells that would be linked across one
    facet, the first is not.

    Args:
        start: The first cell.
        stop: Behind the last.
        lowest: Lowest facet of each cell, or -1 (cells,).
        least: Its level (cells,).
        values: Minimum of each cell (cells,).
        tolerance: As for `join`.
        parent: The cell behind that facet; written: the cell itself where it is not linked (cells,).
    """
    for cell in range(start, stop):
        other, edge = parent[cell], lowest[cell]
        if edge >= 0 and least[cell] - values[cell] <= tolerance:
            mutual = lowest[other] == edge and least[cell] - values[other] <= tolerance
            if not mutual or other < cell:
                continue
        parent[cell] = cell


@unlocked
def leap(start, stop, parent, further):
    """Write the parents' parents of cells `start .. stop`; whether any of them is another one."""
    moved = False
    for cell in range(start, stop):
        further[cell] = parent[parent[cell]]
        moved |= further[cell] != parent[cell]
    return moved


@bare
def settle(basin, number, values, lowest, marks, bottom):
    """Number the basins that the links have made.

    Args:
        basin: The cell that each cell is linked with in the end; written: its number (cells,).
        number: Of these cells (cells,).
        values: Minimum of each cell (cells,).
        lowest: Lowest facet of each cell (cells,).
        marks: Written: True for the facets of the links (facets,).
        bottom: These cells; written: the lowest cell of each basin (basins,).
    """
    for cell in range(len(basin)):
        own = number[basin[cell]]
        if basin[cell] != cell:
            marks[lowest[cell]] = True
            bottom[own] = lower_of(bottom[own], cell, values)
        basin[cell] = own


@unlocked
def between(start, stop, levels, highest, shape, pairs, basin, starts, edges, own, ends):
    """Count or write the facets between two basins.

    Args:
        start: The first of a unit's facets, those of all units one unit after the other.
        stop: Behind the last.
        levels: Minimum of each facet (facets,).
        highest: Facets above this are none.
        shape: Units, cells of a unit, facets of a unit.
        pairs: Cells of a unit's facets (facets, 2).
        basin: Of each cell (cells,).
        starts: Where those of each of a unit's facets begin in `edges`; written where that is empty: at
            the place behind, how many they are (units * unit facets + 1,).
        edges: Written: their numbers, ascending.
        own: Written: their levels (edges,).
        ends: Written: the basins on their sides (edges, 2).
    """
    units, cells, facets = shape[0], shape[1], shape[2]
    rest = cells ** (units - 1)
    for row in range(start, stop):
        facet, low = row % facets, cells ** (units - 1 - row // facets)
        one, other = pairs[facet, 0] * low, pairs[facet, 1] * low
        edge, place = row * rest, starts[row] if len(edges) else 0
        for base in range(0, rest * cells, low * cells):
            for cell in range(base, base + low):
                first, second = basin[cell + one], basin[cell + other]
                if first != second and levels[edge] <= highest:
                    if len(edges):
                        edges[place], own[place] = edge, levels[edge]
                        ends[place, 0], ends[place, 1] = first, second
                    place += 1
                edge += 1
        if not len(edges):
            starts[row + 1] = place


@bare
def _lower(place, level, ends, lowest, least):
    """Make a facet the lowest around its basins, where it is."""
    for side in range(2):
        basin = ends[place, side]
        if lowest[basin] < 0 or level < least[basin]:
            lowest[basin], least[basin] = place, level


@unlocked
def find_lowest_between(start, stop, levels, ends, lowest, least):
    """Write the lowest of facets `start .. stop` around each basin, of equal levels the first.

    Args:
        start: The first facet.
        stop: Behind the last.
        levels: Their levels (facets,).
        ends: The basins on their sides (facets, 2).
        lowest: Written: its place; at first -1 (basins,).
        least: Written: its level (basins,).
    """
    for place in range(start, stop):
        _lower(place, levels[place], ends, lowest, least)


@bare
def link_basins(lowest, least, edges, ends, values, tolerance, bottom, parent, live, met):
    """Link basins across their lowest facets where no minimum can end, as `link` does for cells.

    Args:
        lowest: From each thread the place in `edges` of a basin's lowest facet, or -1; written: -1
            (threads, basins).
        least: The level of that facet (threads, basins).
        edges: Facets between basins, by their numbers.
        ends: The basins on their sides (facets, 2).
        values: Minimum of each cell (cells,).
        tolerance: As for `join`.
        bottom: The lowest cell of each basin (basins,).
        parent: Whom each basin has joined, or itself; written (basins,).
        live: Basins that have joined none; written: those that have not then, in front (live,).
        met: Written: facets of the links (live,).

    Returns:
        Number of links.
    """
    links = 0
    for own in live:
        best, level = np.int64(-1), np.inf
        for thread in range(len(lowest)):
            known = lowest[thread, own]
            if known >= 0 and (best < 0 or least[thread, own] < level):
                best, level = known, least[thread, own]
            lowest[thread, own] = -1
        if best < 0 or level - values[bottom[own]] > tolerance:
            continue
        other = ends[best, 0] + ends[best, 1] - own
        root = root_of(parent, other)
        if root == own:  # the other one is linked across the same facet
            continue
        parent[own] = root
        bottom[root] = lower_of(bottom[root], bottom[own], values)
        met[links] = edges[best]
        links += 1
    left = 0
    for own in live:
        parent[own] = root_of(parent, own)
        if parent[own] == own:
            live[left] = own
            left += 1
    return links


@unlocked
def drop_inner(start, stop, edges, levels, ends, parent, lowest, least):
    """Of facets `start .. stop` move those between two basins still to the front; how many.

    Of these, the lowest around each basin are found, as by `find_lowest_between`.
    """
    left = start
    for place in range(start, stop):
        first, second = parent[ends[place, 0]], parent[ends[place, 1]]
        if first != second:
            edges[left], levels[left] = edges[place], levels[place]
            ends[left, 0], ends[left, 1] = first, second
            _lower(left, levels[left], ends, lowest, least)
            left += 1
    return left - start


@unlocked
def count_between(start, stop, levels, cuts, counts):
    """Count of edges `start .. stop` those between levels.

    Args:
        start: The first edge.
        stop: Behind the last.
        levels: Of the edges (edges,).
        cuts: Least levels of all parts but the first, ascending (parts - 1,).
        counts: Written: how many are in each part (parts,).
    """
    for place in range(start, stop):
        counts[_part_of(levels[place], cuts)] += 1


@unlocked
def spread(start, stop, edges, levels, cuts, places, into, keys):
    """Write edges `start .. stop` and their levels where those of their part begin.

    Args:
        start: The first edge.
        stop: Behind the last.
        edges: Numbers (edges,).
        levels: Of the edges (edges,).
        cuts: As for `count_between`.
        places: Where those of each part begin; written (parts,).
        into: Written: their numbers (edges,).
        keys: Written: their levels (edges,).
    """
    for place in range(start, stop):
        part = _part_of(levels[place], cuts)
        into[places[part]], keys[places[part]] = edges[place], levels[place]
        places[part] += 1


@bare
def _part_of(level, cuts):
    """Number of cuts up to a level; there are few."""
    part = 0
    for cut in cuts:
        part += level >= cut
    return part


@unlocked
def sort_ties(keys, order, runs):
    """Sort the places of equal keys, but for those of more than `FEW`, which are told.

    Args:
        keys: What is sorted (keys,).
        order: Places by ascending key (keys,); written.
        runs: Written: beginning and end in `order` of the places of many equal keys (keys // FEW, 2).

    Returns:
        Number of runs.
    """
    count = start = 0
    for stop in range(1, len(order) + 1):
        if stop < len(order) and keys[order[stop]] == keys[order[start]]:
            continue
        if stop - start > FEW:
            runs[count, 0], runs[count, 1] = start, stop
            count += 1
        else:
            for k in range(start + 1, stop):
                own, at = order[k], k
                while at > start and order[at - 1] > own:
                    order[at] = order[at - 1]
                    at -= 1
                order[at] = own
        start = stop
    return count
