"""Least absolute deviations over a cone, compiled: `min sum_i |y_i - D_i . l|` over `l >= 0`.

The simplex method on the vertices in which as many residuals or variables are zero as there are
variables: along an edge all residuals are passed that change their sign before the sum rises again
(Barrodale and Roberts, 1973).
"""

from __future__ import annotations

from reluscape.compiled import bare

#: Slopes within this share of `sum_i |D_ij|` of zero are rounding errors.
FLAT = 1e-11
#: Rates below this share of the sizes behind them are rounding errors of zero.
STILL = 1e-12
#: Slopes along an edge within this share of the terms behind them of zero may be zero.
ZERO = 1e-13
#: Terms behind an edge's slope over its length from which on they have lost too many digits.
STEEP = 1e5
#: Lengths of columns over the target's from which on residuals have; and those of rays, times
#: the samples', from which on columns have.
LONG, FAR = 1e4, 1e5
#: Share of the target by which residuals of the basis may differ from zero, and the minimum be missed.
PLACED, MISSED = 1e-12, 1e-11
#: Steps of length zero after which edges are tried at random, which ends every cycle.
STUCK = 20


@bare
def least_absolute(
    design, target, rows, count, solution, basis, inverse, signs, rates, residuals, narrow, reach
):
    """Minimise over the first `count` variables.

    Args:
        design: D (rows, count).
        target: y (rows,).
        rows: Number of rows.
        count: Number of variables.
        solution: Written: the minimiser (count,).
        basis: Written: what is zero there: rows, and `rows + j` for variables (count,).
        inverse: Scratch: edges, in which one of these rises and the others stay (count, count).
        signs: Scratch: of the residuals `y - D l`, 0 for those in the basis (rows,).
        rates: Scratch (rows,).
        residuals: Scratch (rows,).
        narrow: Whether columns that seem dependent may be nearly so (`Problem.narrow`).
        reach: Length of the samples (`Problem.reach`).

    Returns:
        The minimum, and whether it is least but for `MISSED`. That is not known where rounding errors
        kept the search from ending, or where columns are too long or too nearly dependent.
    """
    for j in range(count):
        solution[j], basis[j] = 0.0, rows + j
        for k in range(count):
            inverse[j, k] = 1.0 if j == k else 0.0
    for i in range(rows):
        residuals[i] = target[i]
        signs[i] = 1.0 if target[i] >= 0 else -1.0
    still, seed = 0, 12345
    for _ in range(50 * (count + rows) + 100):
        seed = (1103515245 * seed + 12345) & 0x7FFFFFFF
        edge, up = _steepest(
            design, rows, count, basis, inverse, signs, seed if still > STUCK else 0
        )
        if edge < 0:
            total, size = _sum(residuals, rows), _sum(target, rows)
            sure = _is_placed(design, rows, count, solution, basis, residuals, size, reach)
            if sure and narrow and total > MISSED * size:
                sure = _is_least(design, rows, count, basis, inverse, signs, reach)
            return total, sure
        length = _pass(
            design, target, rows, count, solution, basis, inverse, signs, rates, residuals, edge, up
        )
        if length < 0.0:
            return _sum(residuals, rows), False
        still = still + 1 if length == 0.0 else 0
    return _sum(residuals, rows), False


@bare
def _is_placed(design, rows, count, solution, basis, residuals, size, reach):
    """Whether the basis is zero, and no column so long that rounding errors of residuals matter."""
    for k in range(count):
        if basis[k] < rows and abs(residuals[basis[k]]) > PLACED * size:
            return False
    for j in range(count):
        length = reach * LONG / FAR
        for i in range(rows):
            length += abs(design[i, j])
        if length * solution[j] > LONG * size:
            return False
    return True


@bare
def _is_least(design, rows, count, basis, inverse, signs, reach):
    """Whether the sum clearly rises along every edge on which a variable does."""
    for q in range(count):
        slope = scale = 0.0
        for i in range(rows):
            for j in range(count):
                term = design[i, j] * inverse[j, q]
                slope -= signs[i] * term
                scale += abs(term)
        for j in range(count):
            scale += reach * abs(inverse[j, q])
        if basis[q] < rows:
            if scale > STEEP:
                return False
        elif scale > 0.0 and slope <= ZERO * scale:
            return False
    return True


@bare
def _steepest(design, rows, count, basis, inverse, signs, seed):
    """The edge along which the sum falls most for its length, and its side; -1 where none does."""
    best, edge, up = 0.0, -1, 1.0
    for offset in range(count):
        q = (offset + seed) % count
        slope = scale = length = 0.0
        for j in range(count):
            length += inverse[j, q] ** 2
        for i in range(rows):
            rate = _rate(design, inverse, i, q, count)
            slope += signs[i] * rate
            scale += abs(rate)
        own = 1.0 if basis[q] < rows else 0.0
        scale, length = scale + own, length**0.5
        for side in range(1 if own == 0.0 else 2):
            sign = 1.0 if side == 0 else -1.0
            falls = sign * slope + own
            if falls < -FLAT * scale and falls / length < best:
                best, edge, up = falls / length, q, sign
                if seed:
                    return edge, up
    return edge, up


@bare
def _rate(design, inverse, row, edge, count):
    """Rate at which a residual rises along an edge; zero where it is so but for rounding."""
    rate = size = 0.0
    for j in range(count):
        term = design[row, j] * inverse[j, edge]
        rate -= term
        size += abs(term)
    return rate if abs(rate) > STILL * size else 0.0


@bare
def _pass(design, target, rows, count, solution, basis, inverse, signs, rates, residuals, edge, up):
    """Go along an edge to where the sum is least, and change the basis; the step's length."""
    slope = 1.0 if basis[edge] < rows else 0.0
    for i in range(rows):
        rates[i] = up * _rate(design, inverse, i, edge, count) if signs[i] != 0.0 else 0.0
        slope += signs[i] * rates[i]
    wall, limit = -1, 1e300
    for j in range(count):
        rate = up * inverse[j, edge]
        ahead = rate < -STILL and -solution[j] / rate < limit
        if ahead and not _is_basic(basis, count, rows + j):
            wall, limit = rows + j, max(-solution[j] / rate, 0.0)
    entering, length = -1, 0.0
    while slope < 0.0:
        entering, length = wall, limit
        for i in range(rows):
            if signs[i] * rates[i] < 0.0:
                place = max(-residuals[i] / rates[i], 0.0)
                tie = place == length and 0 <= entering < rows
                if place < length or (tie and abs(rates[i]) < abs(rates[entering])):
                    entering, length = i, place
        if entering < 0:
            return -1.0
        if entering >= rows:
            break
        slope += 2.0 * abs(rates[entering])
        signs[entering] = -signs[entering]
    if entering < 0:
        return -1.0
    leaving = basis[edge]
    if leaving < rows:
        signs[leaving] = up
    _exchange(design, rows, count, basis, inverse, edge, entering)
    if entering < rows:
        signs[entering] = 0.0
    _place(design, target, rows, count, solution, basis, inverse, residuals)
    return length


@bare
def _is_basic(basis, count, what):
    """Whether something is zero by the basis."""
    found = False
    for k in range(count):
        found |= basis[k] == what
    return found


@bare
def _exchange(design, rows, count, basis, inverse, edge, entering):
    """Put something into the basis in place of what belongs to an edge."""
    pivot = _product(design, rows, count, inverse, entering, edge)
    for j in range(count):
        inverse[j, edge] /= pivot
    for k in range(count):
        if k != edge:
            share = _product(design, rows, count, inverse, entering, k)
            for j in range(count):
                before, change = inverse[j, k], share * inverse[j, edge]
                rest = before - change
                noise = abs(rest) <= STILL * (abs(before) + abs(change))
                inverse[j, k] = 0.0 if noise else rest
    basis[edge] = entering


@bare
def _product(design, rows, count, inverse, what, edge):
    """Rate at which a residual or a variable rises along an edge."""
    if what >= rows:
        return inverse[what - rows, edge]
    return _rate(design, inverse, what, edge, count)


@bare
def _place(design, target, rows, count, solution, basis, inverse, residuals):
    """The vertex of the basis, and the residuals there."""
    for j in range(count):
        solution[j] = 0.0
    for k in range(count):
        if basis[k] < rows:
            for j in range(count):
                solution[j] -= inverse[j, k] * target[basis[k]]
    for k in range(count):
        if basis[k] >= rows:
            solution[basis[k] - rows] = 0.0
    for j in range(count):
        solution[j] = max(solution[j], 0.0)
    for i in range(rows):
        rest = target[i]
        for j in range(count):
            rest -= design[i, j] * solution[j]
        residuals[i] = rest


@bare
def _sum(residuals, rows):
    """The sum of absolute residuals."""
    total = 0.0
    for i in range(rows):
        total += abs(residuals[i])
    return total
