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
    columns, target, rows, count, solution, basis, inverse, signs, rates, residuals, places, heap,
    narrow, reach,
):  # fmt: skip
    """Minimise over the first `count` variables.

    Args:
        columns: D, a column of it in each row (count, rows).
        target: y (rows,).
        rows: Number of rows of D.
        count: Number of variables.
        solution: Written: the minimiser (count,).
        basis: Written: what is zero there: rows, and `rows + j` for variables (count,).
        inverse: Scratch: edges, in which one of these rises and the others stay (count, count).
        signs: Written: of the residuals `y - D l`, 0 for those in the basis (rows,).
        rates: Scratch: at which residuals rise along the edges (count, rows).
        residuals: Written (rows,).
        places: Scratch: where along an edge residuals are zero (rows,).
        heap: Scratch (rows,).
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
        for k in range(count):
            _write_rates(columns, rows, count, inverse, k, rates[k], places)
        edge, up, falls = _steepest(
            rows, count, basis, inverse, signs, rates, seed if still > STUCK else 0
        )
        if edge < 0:
            total, size = _sum(residuals, rows), _sum(target, rows)
            sure = _is_placed(columns, rows, count, solution, basis, residuals, size, reach)
            if sure and narrow and total > MISSED * size:
                sure = _is_least(columns, rows, count, basis, inverse, signs, reach)
            return total, sure
        entering, length = _pass(
            rows, count, solution, basis, inverse, signs, rates, residuals, places, heap, edge, up,
            falls,
        )  # fmt: skip
        if entering < 0:
            return _sum(residuals, rows), False
        _exchange(rows, count, basis, inverse, signs, rates, edge, up, entering)
        _place(columns, target, rows, count, solution, basis, inverse, residuals)
        still = still + 1 if length == 0.0 else 0
    return _sum(residuals, rows), False


@bare
def _is_placed(columns, rows, count, solution, basis, residuals, size, reach):
    """Whether the basis is zero, and no column so long that rounding errors of residuals matter."""
    for k in range(count):
        if basis[k] < rows and abs(residuals[basis[k]]) > PLACED * size:
            return False
    for j in range(count):
        length = reach * LONG / FAR
        for i in range(rows):
            length += abs(columns[j, i])
        if length * solution[j] > LONG * size:
            return False
    return True


@bare
def _is_least(columns, rows, count, basis, inverse, signs, reach):
    """Whether the sum clearly rises along every edge on which a variable does."""
    for q in range(count):
        slope = scale = 0.0
        for i in range(rows):
            for j in range(count):
                term = columns[j, i] * inverse[j, q]
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
def _write_rates(columns, rows, count, inverse, edge, rates, sizes):
    """Write at which rates residuals rise along an edge; zero where they do but for rounding."""
    for i in range(rows):
        rates[i] = sizes[i] = 0.0
    for j in range(count):
        share = inverse[j, edge]
        if share != 0.0:
            for i in range(rows):
                term = columns[j, i] * share
                rates[i] -= term
                sizes[i] += abs(term)
    for i in range(rows):
        rates[i] = rates[i] if abs(rates[i]) > STILL * sizes[i] else 0.0


@bare
def _steepest(rows, count, basis, inverse, signs, rates, seed):
    """The edge along which the sum falls most for its length, its side and slope; -1 where none does."""
    best, edge, up, slope = 0.0, -1, 1.0, 0.0
    for offset in range(count):
        q = (offset + seed) % count
        rises = scale = length = 0.0
        for j in range(count):
            length += inverse[j, q] ** 2
        for i in range(rows):
            rises += signs[i] * rates[q, i]
            scale += abs(rates[q, i])
        own = 1.0 if basis[q] < rows else 0.0
        scale, length = scale + own, length**0.5
        for side in range(1 if own == 0.0 else 2):
            sign = 1.0 if side == 0 else -1.0
            falls = sign * rises + own
            if falls < -FLAT * scale and falls / length < best:
                best, edge, up, slope = falls / length, q, sign, falls
                if seed:
                    return edge, up, slope
    return edge, up, slope


@bare
def _pass(
    rows, count, solution, basis, inverse, signs, rates, residuals, places, heap, edge, up, slope
):
    """Go along an edge to where the sum is least: what is zero there, -1 if nothing, and how far.

    Signs of the residuals that are passed change.
    """
    wall, limit = -1, 1e300
    for j in range(count):
        rate = up * inverse[j, edge]
        ahead = rate < -STILL and -solution[j] / rate < limit
        if ahead and not _is_basic(basis, count, rows + j):
            wall, limit = rows + j, max(-solution[j] / rate, 0.0)
    size, own = 0, rates[edge]
    for i in range(rows):
        if signs[i] * (up * own[i]) < 0.0:
            places[i] = max(-residuals[i] / (up * own[i]), 0.0)
            if places[i] < limit:
                heap[size] = i
                size += 1
    for k in range(size // 2 - 1, -1, -1):
        _sift(heap, size, places, own, k)
    while size:
        row = heap[0]
        signs[row] = -signs[row]
        slope += 2.0 * abs(own[row])
        if slope >= 0.0:
            return row, places[row]
        size -= 1
        heap[0] = heap[size]
        _sift(heap, size, places, own, 0)
    return wall, limit


@bare
def _sift(heap, size, places, rates, k):
    """Let what stands at a place of a heap sink to where it belongs."""
    row = heap[k]
    while 2 * k + 1 < size:
        below = 2 * k + 1
        if below + 1 < size and _is_before(heap[below + 1], heap[below], places, rates):
            below += 1
        if not _is_before(heap[below], row, places, rates):
            break
        heap[k] = heap[below]
        k = below
    heap[k] = row


@bare
def _is_before(row, other, places, rates):
    """Whether a residual is passed before another one: of those at one place the flattest, or first."""
    if places[row] != places[other]:
        return places[row] < places[other]
    one, two = abs(rates[row]), abs(rates[other])
    return one < two or (one == two and row < other)


@bare
def _is_basic(basis, count, what):
    """Whether something is zero by the basis."""
    found = False
    for k in range(count):
        found |= basis[k] == what
    return found


@bare
def _exchange(rows, count, basis, inverse, signs, rates, edge, up, entering):
    """Put something into the basis in place of what belongs to an edge."""
    pivot = _product(rows, inverse, rates, entering, edge)
    for j in range(count):
        inverse[j, edge] /= pivot
    for k in range(count):
        if k != edge:
            share = _product(rows, inverse, rates, entering, k)
            for j in range(count):
                before, change = inverse[j, k], share * inverse[j, edge]
                rest = before - change
                noise = abs(rest) <= STILL * (abs(before) + abs(change))
                inverse[j, k] = 0.0 if noise else rest
    if basis[edge] < rows:
        signs[basis[edge]] = up
    if entering < rows:
        signs[entering] = 0.0
    basis[edge] = entering


@bare
def _product(rows, inverse, rates, what, edge):
    """Rate at which a residual or a variable rises along an edge."""
    return inverse[what - rows, edge] if what >= rows else rates[edge, what]


@bare
def _place(columns, target, rows, count, solution, basis, inverse, residuals):
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
    for i in range(rows):
        residuals[i] = target[i]
    for j in range(count):
        solution[j] = max(solution[j], 0.0)
        if solution[j] > 0.0:
            for i in range(rows):
                residuals[i] -= columns[j, i] * solution[j]


@bare
def _sum(residuals, rows):
    """The sum of absolute residuals."""
    total = 0.0
    for i in range(rows):
        total += abs(residuals[i])
    return total
