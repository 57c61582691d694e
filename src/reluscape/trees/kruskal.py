"""Kruskal's algorithm over facets between cells, compiled."""

from __future__ import annotations

from reluscape.compiled import bare, unlocked


@bare
def ends_of(edge, units, cells, facets, pairs):
    """The two cells of a facet, by their numbers.

    Facet `(unit, facet, others)` has the number `unit F C^(K-1) + facet C^(K-1) + others`, where `others`
    are the other units' cells as digits to base C, the first unit's the highest.
    """
    rest = cells ** (units - 1)
    unit = edge // (facets * rest)
    facet = edge // rest % facets
    others = edge % rest
    low = cells ** (units - 1 - unit)
    base = others // low * low * cells + others % low
    return base + pairs[facet, 0] * low, base + pairs[facet, 1] * low


@bare
def write_ends(edges, units, cells, facets, pairs, ends):
    """Write the two cells of each facet (edges, 2)."""
    for k in range(len(edges)):
        ends[k] = ends_of(edges[k], units, cells, facets, pairs)


@bare
def root_of(parent, cell):
    """The cell that stands for the component, with the way to it halved."""
    while parent[cell] != cell:
        parent[cell] = parent[parent[cell]]
        cell = parent[cell]
    return cell


@bare
def lower_of(one, other, values):
    """Of two cells the one with the lower minimum, of equal ones the first."""
    if values[other] < values[one] or (values[other] == values[one] and other < one):
        return other
    return one


@bare
def join(order, values, levels, shape, pairs, tolerance, basin, parent, bottom, deaths):
    """Join basins at the levels of their facets, lowest first.

    Args:
        order: Facets of a spanning tree of the basins, by ascending level.
        values: Minimum of each cell (cells,).
        levels: Minimum of each facet (facets,).
        shape: Units, cells of a unit, facets of a unit.
        pairs: Cells of a unit's facets (facets, 2).
        tolerance: Minima that end within this of their loss are none.
        basin: Of each cell (cells,).
        parent: Whom each basin has joined, or itself (basins,).
        bottom: The lowest cell of each basin (basins,).
        deaths: Written: minima that ended: cell, facet, and the lower minimum's cell (basins - 1, 3).

    Returns:
        Number of rows in `deaths`.
    """
    ended = 0
    for edge in order:
        first, second = ends_of(edge, shape[0], shape[1], shape[2], pairs)
        first, second = root_of(parent, basin[first]), root_of(parent, basin[second])
        other = lower_of(bottom[first], bottom[second], values)
        one = bottom[first] + bottom[second] - other
        if levels[edge] - values[one] > tolerance:  # `one` ends here, `other` goes on
            deaths[ended, 0], deaths[ended, 1], deaths[ended, 2] = one, edge, other
            ended += 1
        parent[first] = second
        bottom[second] = other
    return ended


@bare
def sorted_code(code, units, cells, groups, digits):
    """The cell in which those of units that act alike ascend; `digits` is room to work in (units,)."""
    for k in range(units - 1, -1, -1):
        digits[k] = code % cells
        code //= cells
    for k in range(units):
        for j in range(k):
            if groups[j] == groups[k] and digits[j] > digits[k]:
                digits[j], digits[k] = digits[k], digits[j]
    for k in range(units):
        code = code * cells + digits[k]
    return code


@unlocked
def unite_alike(joins, levels, start, loss, slack, shape, pairs, groups, digits, parent):
    """Join cells, those that differ by an exchange of units taken as one, from join `start` on.

    Args:
        joins: Facets by ascending level.
        levels: Their levels.
        start: The first that is not done yet.
        loss: Joins are done while they are within `slack` of this.
        slack: As `tolerance` of `join`.
        shape: Units, cells of a unit, facets of a unit.
        pairs: Cells of a unit's facets (facets, 2).
        groups: Of the units, a number that those that act alike share (units,).
        digits: Room to work in (units,).
        parent: Components (cells,).

    Returns:
        The first join that is not done.
    """
    while start < len(joins) and levels[start] - loss <= slack:
        first, second = ends_of(joins[start], shape[0], shape[1], shape[2], pairs)
        first = root_of(parent, sorted_code(first, shape[0], shape[1], groups, digits))
        second = root_of(parent, sorted_code(second, shape[0], shape[1], groups, digits))
        parent[first] = second
        start += 1
    return start
