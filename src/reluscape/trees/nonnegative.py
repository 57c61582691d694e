"""Least squares over a cone, compiled: `min 1/2 l^T H l - b . l` over `l >= 0`, for few variables.

Lawson and Hanson's active set method on the normal equations, with a Cholesky factor of the variables
that are free. H is a Gram matrix: it may be singular, and a variable that depends on the free ones stays
out, as its column lowers nothing that they do not.
"""

from __future__ import annotations

from reluscape.compiled import bare

#: Gradients below this share of `|column| |target|` are rounding errors of zero.
FLAT = 1e-13
#: Squared distances from the free columns below this share of the column's square keep it out.
DEPENDENT = 1e-12
#: Below this, they may be rounding errors of zero.
UNSEEN = 1e-13
#: Shares of two columns' squares that lie outside of those before, one after the other: where their
#: product is below this, the second may be a rounding error of zero, which grows with one over the first.
BLURRED = 1e-14
#: Slopes of such columns within this share of `|column| |target|` of zero are what zero may be.
ZERO = 1e-11
#: Rounding errors of a column of length one, for each length of the samples over the column's.
ERROR = 2e-15
#: Share of the target's square by which the minimum may be missed.
MISSED = 1e-11
#: Lengths of columns over the target's from which on products have lost too many digits; and those of
#: rays, times the samples', from which on columns have.
LONG, FAR = 300.0, 1e5


@bare
def least_squares(gram, right, count, size, solution, factor, free, trial, barred):
    """Minimise over the first `count` variables.

    Args:
        gram: H (count, count), its upper left part used.
        right: b (count,).
        count: Number of variables.
        size: Square of the target's length, the unit of what is zero.
        solution: Written: the minimiser (count,).
        factor: Scratch (count, count).
        free: Scratch and written: numbers of the free variables (count,).
        trial: Scratch and written: how fast the function falls along the other columns (count,).
        barred: Scratch and written: variables that left as soon as they entered, by rounding errors, and
            zero columns (count,).

    Returns:
        The minimum, and the number of free variables.
    """
    used = 0
    for j in range(count):
        solution[j] = 0.0
        barred[j] = gram[j, j] <= 0.0
    for _ in range(10 * count + 10):
        best, entering = 0.0, -1
        for j in range(count):
            if solution[j] > 0.0 or barred[j]:
                continue
            slope = right[j]
            for k in range(used):
                slope -= gram[j, free[k]] * solution[free[k]]
            trial[j] = slope
            scaled = slope / gram[j, j] ** 0.5
            if scaled <= best or scaled <= FLAT * size**0.5:
                continue
            free[used] = j
            if _extend(gram, free, factor, used):
                best, entering = scaled, j
        if entering < 0:
            return _value(gram, right, solution, free, used), used
        free[used] = entering
        _extend(gram, free, factor, used)
        used = _descend(gram, right, solution, factor, free, trial, used + 1)
        if solution[entering] <= 0.0:
            barred[entering] = True
    return _value(gram, right, solution, free, used), used


@bare
def is_least(
    gram, right, count, size, value, solution, factor, free, used, trial, barred, narrow, reach
):
    """Whether what `least_squares` has found is the minimum but for `MISSED`, as far as products tell.

    It is not told where the search did not end, where lengths are huge, where free columns may depend on
    each other, or where another depends on them so nearly that products do not tell whether it matters.

    Args:
        gram: As of `least_squares`, as what follows.
        right: As there.
        count: As there.
        size: As there.
        value: The minimum that it has found.
        solution: As it has left it.
        factor: As it has left it; what is behind the free variables is scratch.
        free: As it has left it.
        used: Number of free variables.
        trial: As it has left it.
        barred: As it has left it.
        narrow: Whether columns that seem dependent may be nearly so (`Problem.narrow`).
        reach: Length of the samples (`Problem.reach`).
    """
    tilt, held = (reach * LONG / FAR) ** 2, used
    narrowest = 1.0
    for k in range(used):
        j = free[k]
        share = factor[k, k] ** 2 / gram[j, j]
        if share * narrowest <= BLURRED:
            return False
        narrowest = min(narrowest, share)
        if (gram[j, j] + tilt) * solution[j] ** 2 > LONG**2 * size:
            return False
    if size + 2.0 * value <= MISSED * size:
        return True
    for j in range(count):
        if solution[j] > 0.0 or gram[j, j] <= 0.0:
            continue
        if not (barred[j] or trial[j] > 0.0 or narrow):
            continue
        slope = right[j]
        for k in range(used):
            slope -= gram[j, free[k]] * solution[free[k]]
        scaled = slope / (gram[j, j] * size) ** 0.5
        if narrow:
            scaled += ERROR * reach / gram[j, j] ** 0.5
        if scaled <= -0.1 * ZERO:
            continue
        free[held] = j
        kept = _extend(gram, free, factor, held)
        rest = 1.0
        for k in range(held):
            rest -= factor[held, k] ** 2 / gram[j, j]
        if narrow and rest <= 1e3 * UNSEEN:
            return False
        if rest <= UNSEEN:
            if scaled > ZERO:
                return False
        elif scaled > 0.0 and scaled * scaled > MISSED * rest:
            return False
        if kept and narrow:  # several together may do what none does alone
            held += 1
    return True


@bare
def _extend(gram, free, factor, place):
    """Write the factor's row of the free variable at `place`; False if it depends on those before."""
    new = free[place]
    rest = gram[new, new]
    for i in range(place):
        entry = gram[new, free[i]]
        for k in range(i):
            entry -= factor[place, k] * factor[i, k]
        entry /= factor[i, i]
        factor[place, i] = entry
        rest -= entry * entry
    if rest <= DEPENDENT * gram[new, new]:
        return False
    factor[place, place] = rest**0.5
    return True


@bare
def _descend(gram, right, solution, factor, free, trial, used):
    """Go to the free variables' minimum; those that reach zero on the way are free no more."""
    while True:
        for i in range(used):  # forward, then backward
            entry = right[free[i]]
            for k in range(i):
                entry -= factor[i, k] * trial[k]
            trial[i] = entry / factor[i, i]
        for i in range(used - 1, -1, -1):
            entry = trial[i]
            for k in range(i + 1, used):
                entry -= factor[k, i] * trial[k]
            trial[i] = entry / factor[i, i]
        share, blocked = 1.0, -1
        for i in range(used):
            if trial[i] <= 0.0:
                now = solution[free[i]]
                here = now / (now - trial[i]) if now > 0.0 else 0.0
                if here < share or blocked < 0:
                    share, blocked = here, i
        if blocked < 0:
            for i in range(used):
                solution[free[i]] = trial[i]
            return used
        kept = 0
        for i in range(used):
            j = free[i]
            solution[j] += share * (trial[i] - solution[j])
            if i == blocked or solution[j] <= 0.0:
                solution[j] = 0.0
            else:
                free[kept] = j
                kept += 1
        used = kept
        for i in range(used):
            _extend(gram, free, factor, i)


@bare
def _value(gram, right, solution, free, used):
    """The function at the solution."""
    total = 0.0
    for i in range(used):
        j = free[i]
        bend = 0.0
        for k in range(used):
            bend += gram[j, free[k]] * solution[free[k]]
        total += solution[j] * (0.5 * bend - right[j])
    return total
