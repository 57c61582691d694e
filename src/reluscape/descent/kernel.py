"""The compiled part of vertex descent: edges, events and the basis update.

Layout, with N samples, w units of the block, r reduced inputs, p = w r parameters and K kinks per
sample (hidden units level by level, then residuals): `values`, `bits`, `rates` and `place` are (N, K);
`place[i, c]` is the row of the basis that holds kink c of sample i, or -1. `edges[k]` is the edge d_k of
basis row k: along it every other active kink stays zero and kink k grows at rate one (`edges` is the
transposed inverse of the active normals). Rows without a kink are *free*: orthonormal directions along
which all active kinks stay zero (phase 1).

Names follow theory, section 2: mu = edges @ gradient, the slope of kink k's edge into the current side s
is s mu_k, across it is jump_k - s mu_k - bend_k.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Why a run of pivots came back to Python.
GOING, VERTEX_IS_MINIMUM, UNBOUNDED, TROUBLE, STALLED, FLAT = range(6)


class Chain(NamedTuple):
    """The network behind the block: maps A_0..A_m dense, flattened one after the other.

    Attributes:
        sizes: w, units of each level, outputs (levels + 2,).
        starts: Offset of each map in `weights` (levels + 1,).
        columns: First column of each level's kinks, and of the residuals (levels + 1,).
        weights: All matrices, row-major.
        slopes: Slope of each rectifier on its negative side (levels,).
        weight: Weight of a residual's absolute value in the loss, or of an output.
        residuals: Whether outputs enter by their residuals' absolute values (else linearly).
    """

    sizes: NDArray[np.int64]
    starts: NDArray[np.int64]
    columns: NDArray[np.int64]
    weights: Floats
    slopes: Floats
    weight: float
    residuals: bool


class State(NamedTuple):
    """Arrays that a run of pivots changes in place (see the module's docstring).

    Attributes:
        theta: (p,).
        values: Switching values.
        bits: 1 where a kink is on its positive side; an active one is on the current cell's side.
        place: Row of the basis, or -1.
        samples: Sample of each basis row, -1 for a free row, -2 for one that never leaves (p,).
        kinks: Kink of each basis row within its sample (p,).
        edges: (p, p).
        norms: Lengths of the edges (p,).
        mu: (p,).
        jumps: Slope jump of each basis row's kink (p,).
        pulls: Derivative of the loss by each sample's z in the current cell (N, w).
        gradient: (p,).
        loss: The loss (1,).
    """

    theta: Floats
    values: Floats
    bits: NDArray[np.uint8]
    place: NDArray[np.int64]
    samples: NDArray[np.int64]
    kinks: NDArray[np.int64]
    edges: Floats
    norms: Floats
    mu: Floats
    jumps: Floats
    pulls: Floats
    gradient: Floats
    loss: Floats


@njit(cache=True)
def _level_of(chain, kink):
    """Level of a kink's column; the number of levels for a residual."""
    level = 0
    while level + 1 < len(chain.columns) and kink >= chain.columns[level + 1]:
        level += 1
    return level


@njit(cache=True)
def _times(chain, level, before, after):
    """After = A_level before."""
    rows, columns, start = chain.sizes[level + 1], chain.sizes[level], chain.starts[level]
    for a in range(rows):
        total = 0.0
        base = start + a * columns
        for b in range(columns):
            total += chain.weights[base + b] * before[b]
        after[a] = total


@njit(cache=True)
def _back(chain, level, after, before):
    """Before = A_level^T after."""
    rows, columns, start = chain.sizes[level + 1], chain.sizes[level], chain.starts[level]
    for b in range(columns):
        before[b] = 0.0
    for a in range(rows):
        if after[a] != 0.0:
            base = start + a * columns
            for b in range(columns):
                before[b] += chain.weights[base + b] * after[a]


@njit(cache=True)
def _onward(chain, bits, level, found, one, two):
    """Rates `found` of the kinks from a level on, given those of its inputs in `one`; the loss's rate."""
    levels = len(chain.slopes)
    for here in range(level, levels):
        _times(chain, here, one, two)
        column = chain.columns[here]
        for a in range(chain.sizes[here + 1]):
            found[column + a] = two[a]
            one[a] = two[a] if bits[column + a] else two[a] * chain.slopes[here]
    _times(chain, levels, one, two)
    total, column = 0.0, chain.columns[levels]
    for a in range(chain.sizes[levels + 1]):
        if chain.residuals:
            found[column + a] = two[a]
            total += two[a] if bits[column + a] else -two[a]
        else:
            total += two[a]
    return total * chain.weight


@njit(cache=True)
def _homeward(chain, bits, level, pull, one, two):
    """Derivative by z of what has the derivatives `one` by the switching values of a level."""
    for here in range(level, -1, -1):
        _back(chain, here, one, two)
        if here:
            column = chain.columns[here - 1]
            for a in range(chain.sizes[here]):
                one[a] = two[a] if bits[column + a] else two[a] * chain.slopes[here - 1]
    for a in range(chain.sizes[0]):
        pull[a] = two[a]


@njit(cache=True)
def sample_rates(chain, bits, dz, rates, one, two):
    """Rates of one sample's kinks along a direction that moves z by dz; return the loss's rate."""
    for a in range(chain.sizes[0]):
        one[a] = dz[a]
    return _onward(chain, bits, 0, rates, one, two)


@njit(cache=True)
def sample_pull(chain, bits, pull, one, two):
    """Derivative of the loss by one sample's z."""
    levels = len(chain.slopes)
    column = chain.columns[levels]
    for a in range(chain.sizes[levels + 1]):
        positive = not chain.residuals or bits[column + a]
        one[a] = chain.weight if positive else -chain.weight
    _homeward(chain, bits, levels, pull, one, two)


@njit(cache=True)
def all_pulls(chain, bits, pulls):
    """`sample_pull` of every sample."""
    one, two = np.empty(chain.sizes.max()), np.empty(chain.sizes.max())
    for sample in range(len(pulls)):
        sample_pull(chain, bits[sample], pulls[sample], one, two)


@njit(cache=True)
def all_normals(chain, bits, active, pulls):
    """`sample_normal` of the kinks (sample, kink) in the rows of `active`."""
    one, two = np.empty(chain.sizes.max()), np.empty(chain.sizes.max())
    for k in range(len(active)):
        sample_normal(chain, bits[active[k, 0]], active[k, 1], pulls[k], one, two)


@njit(cache=True)
def sample_normal(chain, bits, kink, pull, one, two):
    """Derivative of one kink's switching value by its sample's z."""
    level = _level_of(chain, kink)
    for a in range(chain.sizes[level + 1]):
        one[a] = 0.0
    one[kink - chain.columns[level]] = 1.0
    _homeward(chain, bits, level, pull, one, two)


@njit(cache=True)
def sample_jump(chain, bits, kink, pushed, one, two):
    """Slope jump of a kink, and in `pushed` the change of deeper normals in multiples of its own."""
    level = _level_of(chain, kink)
    for column in range(len(pushed)):
        pushed[column] = 0.0
    if level == len(chain.slopes):
        return 2.0 * chain.weight
    for a in range(chain.sizes[level + 1]):
        one[a] = 0.0
    one[kink - chain.columns[level]] = 1.0 - chain.slopes[level]
    return _onward(chain, bits, level + 1, pushed, one, two)


@njit(cache=True)
def _first_event(values, bits, rates, place, noise):
    """Time and kink of one sample's next switch, active kinks aside; infinity for none.

    Rates within `noise` are zero: those of duplicates and of other kinks that depend on active ones.
    """
    best, which = np.inf, -1
    for c in range(len(values)):
        rate = rates[c]
        if place[c] < 0 and (rate < -noise if bits[c] else rate > noise):
            time = max(0.0, -values[c] / rate)
            if time < best:
                best, which = time, c
    return best, which


@njit(cache=True)
def _bend(chain, state, sample, kink, pushed, one, two):
    """Jump of an active kink, and sum of mu_q times the bend of every deeper active kink q."""
    jump = sample_jump(chain, state.bits[sample], kink, pushed, one, two)
    bend = 0.0
    for c in range(len(pushed)):
        if pushed[c] != 0.0 and state.place[sample, c] >= 0:
            bend += pushed[c] * state.mu[state.place[sample, c]]
    return jump, bend


@njit(cache=True)
def choose_edge(chain, state, tolerance, pushed, one, two):
    """The steepest falling edge: (row, side, slope), row -1 if none falls."""
    best, row, side, slope = 0.0, -1, 0.0, 0.0
    for k in range(len(state.mu)):
        sample = state.samples[k]
        if sample < 0:
            continue
        jump, bend = _bend(chain, state, sample, state.kinks[k], pushed, one, two)
        state.jumps[k] = jump
        here = 1.0 if state.bits[sample, state.kinks[k]] else -1.0
        for step in (here, -here):
            found = here * state.mu[k] if step == here else jump - here * state.mu[k] - bend
            steep = found / state.norms[k]
            if steep < best and steep < -tolerance:
                best, row, side, slope = steep, k, step, found
    return row, side, slope


@njit(cache=True)
def free_direction(state, direction):
    """Minus the gradient's part along the free rows; return its squared length."""
    size = 0.0
    direction[:] = 0.0
    for k in range(len(state.mu)):
        if state.samples[k] == -1:
            size += state.mu[k] ** 2
            for j in range(len(direction)):
                direction[j] -= state.mu[k] * state.edges[k, j]
    return size


@njit(cache=True)
def cross(chain, state, row, pushed, one, two):
    """Put an active kink on the other side: its edge bends with the deeper normals of its sample."""
    sample, kink = state.samples[row], state.kinks[row]
    sample_jump(chain, state.bits[sample], kink, pushed, one, two)
    sign = -1.0 if state.bits[sample, kink] else 1.0
    for c in range(len(pushed)):
        q = state.place[sample, c]
        if pushed[c] != 0.0 and q >= 0:
            for j in range(len(state.theta)):
                state.edges[row, j] -= sign * pushed[c] * state.edges[q, j]
    state.bits[sample, kink] = 1 - state.bits[sample, kink]


@njit(cache=True)
def leave_freely(state, smallest, direction):
    """Direction of phase 1, of length one: (a free row or -1, slope)."""
    size = np.sqrt(free_direction(state, direction))
    if size > smallest:
        direction /= size
        return -1, -size
    row = -1  # nothing to gain: walk along any free row to a kink
    for k in range(len(state.mu)):
        if state.samples[k] == -1:
            row = k
    direction[:] = state.edges[row]
    return row, state.mu[row]


@njit(cache=True)
def leave_vertex(chain, state, smallest, direction, pushed, one, two):
    """Steepest edge of a vertex, its kink set free: (row, sample of a crossed kink, slope), or -1."""
    row, side, slope = choose_edge(chain, state, smallest, pushed, one, two)
    if row < 0:
        return -1, -1, slope
    sample, kink = state.samples[row], state.kinks[row]
    crosses = (side > 0) != (state.bits[sample, kink] > 0)
    if crosses:
        cross(chain, state, row, pushed, one, two)
    direction[:] = side * state.edges[row]
    state.place[sample, kink] = -1
    return row, sample if crosses else -1, slope


@njit(cache=True)
def all_rates(chain, features, state, direction, dz, rates, slopes, one, two):
    """Rates of all kinks along a direction, and every sample's share of the loss's rate."""
    units, inputs = chain.sizes[0], features.shape[1]
    dz[:] = np.dot(features, direction.reshape(units, inputs).T)
    total = 0.0
    for i in range(len(features)):
        slopes[i] = sample_rates(chain, state.bits[i], dz[i], rates[i], one, two)
        total += slopes[i]
    return total


@njit(cache=True)
def move(
    chain, state, dz, rates, slopes, times, events, since, changed, total, tolerance, noise, first,
    spare, one, two,
):  # fmt: skip
    """Go along a direction until the loss stops falling: (step, sample, kink, slope), sample -1: never.

    Passing a kink changes only its own sample's rates. A kink with a deeper active kink of its sample
    behind it blocks the way: passing it would move that one off zero.
    """
    count = len(slopes)
    for i in range(count):
        times[i], events[i] = _first_event(
            state.values[i], state.bits[i], rates[i], state.place[i], noise[i]
        )
        since[i], changed[i] = 0.0, 0
    now, fall = 0.0, 0.0
    while True:
        i = np.argmin(times)
        time, kink = times[i], events[i]
        if time == np.inf:
            return np.inf, -1, -1, total
        fall += total * (time - now)
        now = time
        state.bits[i, kink] = 1 - state.bits[i, kink]
        slope = sample_rates(chain, state.bits[i], dz[i], spare, one, two)
        blocked = first
        for c in range(len(spare)):
            if state.place[i, c] >= 0 and abs(spare[c] - rates[i, c]) > noise[i]:
                blocked = True
        if blocked or total + slope - slopes[i] >= -tolerance:
            state.bits[i, kink] = 1 - state.bits[i, kink]
            state.loss[0] += fall
            return now, i, kink, total
        total += slope - slopes[i]
        slopes[i], changed[i] = slope, 1
        for c in range(len(spare)):
            state.values[i, c] += rates[i, c] * (now - since[i])
            rates[i, c] = spare[c]
        state.values[i, kink] = 0.0
        since[i] = now
        times[i], events[i] = _first_event(
            state.values[i], state.bits[i], rates[i], state.place[i], noise[i]
        )
        times[i] += now


@njit(cache=True)
def arrive(chain, features, state, direction, rates, since, changed, step, pull, one, two):
    """Update point, values, and the gradient of the samples whose pattern has changed."""
    inputs = features.shape[1]
    state.theta[:] += step * direction
    for i in range(len(features)):
        left = step - since[i]
        for c in range(state.values.shape[1]):
            if state.place[i, c] < 0:
                state.values[i, c] += rates[i, c] * left
        if changed[i]:
            sample_pull(chain, state.bits[i], pull, one, two)
            for a in range(len(pull)):
                change = pull[a] - state.pulls[i, a]
                if change != 0.0:
                    for b in range(inputs):
                        state.gradient[a * inputs + b] += change * features[i, b]
                state.pulls[i, a] = pull[a]


@njit(cache=True)
def normal_of(chain, features, state, sample, kink, pull, normal, one, two):
    """Normal of a kink in theta's order."""
    inputs = features.shape[1]
    sample_normal(chain, state.bits[sample], kink, pull, one, two)
    for a in range(len(pull)):
        for b in range(inputs):
            normal[a * inputs + b] = pull[a] * features[sample, b]


@njit(cache=True, fastmath=True)
def exchange(edges, row, alpha, gradient, norms, mu):
    """Replace a basis row by the kink with products `alpha`: one pass that renews mu and norms too."""
    size = len(alpha)
    pivot = edges[row] / alpha[row]
    for k in range(size):
        factor = 0.0 if k == row else alpha[k]
        length, product = 0.0, 0.0
        for j in range(size):
            value = edges[k, j] - factor * pivot[j]
            edges[k, j] = value
            length += value * value
            product += value * gradient[j]
        norms[k], mu[k] = np.sqrt(length), product
    edges[row] = pivot
    norms[row] = np.sqrt(np.dot(pivot, pivot))
    mu[row] = np.dot(pivot, gradient)


@njit(cache=True)
def gather_free(state, alpha):
    """Rotate the free rows so that the entering kink moves along one of them only; return that row."""
    target, size = -1, 0.0
    for k in range(len(alpha)):
        if state.samples[k] == -1:
            size += alpha[k] ** 2
            if target < 0 or abs(alpha[k]) > abs(alpha[target]):
                target = k
    size = np.sqrt(size)
    if target < 0 or size == 0.0:
        return -1
    # Householder: v = alpha + sign |alpha| e_target; rows -= 2 v (v . rows) / (v . v)
    sign = 1.0 if alpha[target] >= 0 else -1.0
    head = alpha[target] + sign * size
    scale = 1.0 / (size * abs(head))
    mixed = head * state.edges[target]
    for k in range(len(alpha)):
        if state.samples[k] == -1 and k != target:
            mixed += alpha[k] * state.edges[k]
    for k in range(len(alpha)):
        if state.samples[k] == -1:
            weight = (head if k == target else alpha[k]) * scale
            state.edges[k] -= weight * mixed
            alpha[k] = 0.0
    alpha[target] = -sign * size
    return target


@njit(cache=True)
def run(chain, features, reach, state, pivots, tolerances, first, lengths, losses, path):
    """Take up to `pivots` steps; return (why it ended, steps taken, step before which a vertex was met).

    Args:
        chain: The network.
        features: Reduced inputs (N, r).
        reach: Bounds on the rates of each sample's kinks along a direction of length one (N,).
        state: The state, changed in place.
        pivots: Largest number of steps.
        tolerances: Smallest slope per unit length; smallest relative pivot; length that counts as zero;
            largest error of a predicted slope per unit length; rates that count as zero relative to
            `reach`; zero-length steps in a row that are a stall.
        first: Stop every step at its first kink.
        lengths: Step lengths (pivots,).
        losses: Loss after every step (pivots,).
        path: Point after every step (pivots, p), or (0, p) for none.
    """
    count, kinks = state.values.shape
    widest = chain.sizes.max()
    one, two, pull = np.empty(widest), np.empty(widest), np.empty(chain.sizes[0])
    pushed, spare = np.empty(kinks), np.empty(kinks)
    dz, rates = np.empty((count, chain.sizes[0])), np.empty((count, kinks))
    slopes, times, since = np.empty(count), np.empty(count), np.empty(count)
    events, changed = np.empty(count, np.int64), np.empty(count, np.uint8)
    direction, normal = np.empty(len(state.theta)), np.empty(len(state.theta))
    smallest, least_pivot, zero, mismatch, quiet, patience = tolerances
    idle, vertex = 0, -1
    for done in range(pivots):
        free = False
        for k in range(len(state.mu)):
            free |= state.samples[k] == -1
        if not free and vertex < 0:
            vertex = done
        if free:
            row, expected = leave_freely(state, smallest, direction)
            crossed = -1
        else:
            row, crossed, expected = leave_vertex(
                chain, state, smallest, direction, pushed, one, two
            )
            if row < 0:
                return VERTEX_IS_MINIMUM, done, vertex
        total = all_rates(chain, features, state, direction, dz, rates, slopes, one, two)
        length = np.sqrt(np.dot(direction, direction))
        if abs(total - expected) > mismatch * length:
            return TROUBLE, done, vertex
        bound, noise = smallest * length, (quiet * length) * reach
        step, sample, kink, total = move(
            chain, state, dz, rates, slopes, times, events, since, changed, total, bound, noise,
            first, spare, one, two,
        )  # fmt: skip
        if sample < 0 and free and expected >= -bound:  # no kink this way: try the other
            direction *= -1.0
            total = all_rates(chain, features, state, direction, dz, rates, slopes, one, two)
            step, sample, kink, total = move(
                chain, state, dz, rates, slopes, times, events, since, changed, total, bound, noise,
                first, spare, one, two,
            )  # fmt: skip
            if sample < 0:
                state.samples[row] = -2  # nothing depends on this direction
                continue
        if sample < 0:
            return UNBOUNDED, done, vertex
        if crossed >= 0:
            changed[crossed] = 1
        arrive(chain, features, state, direction, rates, since, changed, step, pull, one, two)
        state.values[sample, kink] = 0.0
        normal_of(chain, features, state, sample, kink, pull, normal, one, two)
        alpha = np.dot(state.edges, normal)
        if free:
            row = gather_free(state, alpha)
        size = np.sqrt(np.dot(normal, normal))
        span = np.sqrt(np.dot(state.edges[row], state.edges[row])) if row >= 0 else 1.0
        if row < 0 or abs(alpha[row]) <= least_pivot * size * span:
            if not free:
                state.samples[row] = -1
            return TROUBLE, done, vertex
        exchange(state.edges, row, alpha, state.gradient, state.norms, state.mu)
        state.samples[row], state.kinks[row] = sample, kink
        state.place[sample, kink] = row
        lengths[done], losses[done] = step * length, state.loss[0]
        if len(path):
            path[done] = state.theta
        idle = idle + 1 if step * length <= zero and not free else 0
        if idle >= patience:
            return STALLED, done + 1, vertex
    return GOING, pivots, vertex
