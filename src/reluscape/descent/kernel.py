"""The compiled part of vertex descent: edges, events and the basis update.

Layout, with N samples, w units of the block, r reduced inputs, p = w r parameters and K kinks per
sample (hidden units level by level, then residuals): `values`, `bits`, `rates` and `place` are (N, K)
with the samples of one kink side by side in memory; `place[i, c]` is the row of the basis that holds
kink c of sample i, or -1. `edges[k]` is the edge d_k of basis row k: along it every other active kink
stays zero and kink k grows at rate one (`edges` is the transposed inverse of the active normals). Rows
without a kink are *free*: orthonormal directions along which all active kinks stay zero (phase 1).

Names follow theory, section 2: mu = edges @ gradient, the slope of kink k's edge into the current side s
is s mu_k, across it is jump_k - s mu_k - bend_k.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reluscape.compiled import bare, counted
from reluscape.descent.chain import (
    all_rates,
    deeper,
    rates_behind,
    sample_jump,
    sample_normal,
    sample_pull,
)

Floats = NDArray[np.float64]

#: Why a run of pivots came back to Python.
GOING, VERTEX_IS_MINIMUM, UNBOUNDED, TROUBLE, STALLED, FLAT = range(6)

#: Samples whose earliest event is kept together.
GROUP = 32


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


class Work(NamedTuple):
    """Arrays of one pivot.

    Attributes:
        direction: The edge (p,).
        rates: Of the switching values along it, (N, K); zero for active kinks.
        slopes: Every sample's share of the loss's rate (N,).
        noise: Rates that count as zero (N,): those of kinks that depend on active ones.
        times: When each sample's next kink switches (N,).
        spare: Scratch (N,).
        heads: The sample of every group whose kink switches first.
        since: When each sample's values were last brought up to date (N,).
        changed: 1 for samples whose pattern has changed (N,).
        touched: These samples, in the first `filled[0]` places (N,).
        filled: Their number (1,).
        crowd: Number of each sample's active kinks (N,).
        alpha: Products of the edges with the entering kink's normal (p,).
        hidden: Scratch (widest level, N).
        outputs: Scratch (outputs, N).
        pushed: How each basis row's kink bends deeper ones of its sample (p, K).
        found: Scratch (K,).
        pull, one, two: Scratch (widest level,).
    """

    direction: Floats
    rates: Floats
    slopes: Floats
    noise: Floats
    times: Floats
    spare: Floats
    heads: NDArray[np.int64]
    since: Floats
    changed: NDArray[np.uint8]
    touched: NDArray[np.int64]
    filled: NDArray[np.int64]
    crowd: NDArray[np.int64]
    alpha: Floats
    hidden: Floats
    outputs: Floats
    pushed: Floats
    found: Floats
    pull: Floats
    one: Floats
    two: Floats


@counted
def _work(chain, state):
    """Fresh arrays, with the jumps and the crowd of the state's active kinks."""
    (count, kinks), widest = state.values.shape, chain.sizes.max()
    work = Work(
        np.empty(len(state.theta)), np.empty((kinks, count)).T, np.empty(count), np.empty(count),
        np.empty(count), np.empty(count), np.empty((count + GROUP - 1) // GROUP, np.int64),
        np.zeros(count), np.zeros(count, np.uint8), np.empty(count, np.int64), np.zeros(1, np.int64),
        np.zeros(count, np.int64), np.empty(len(state.theta)), np.empty((widest, count)),
        np.empty((chain.sizes[-1], count)), np.empty((len(state.theta), kinks)), np.empty(kinks),
        np.empty(chain.sizes[0]), np.empty(widest), np.empty(widest),
    )  # fmt: skip
    for k in range(len(state.samples)):
        if state.samples[k] >= 0:
            work.crowd[state.samples[k]] += 1
            _renew_jump(chain, state, work, k)
    return work


@bare
def _renew_jump(chain, state, work, row):
    """Slope jump of a row's kink, and how it bends others."""
    sample, kink, pushed = state.samples[row], state.kinks[row], work.pushed[row]
    state.jumps[row] = sample_jump(chain, state.bits, sample, kink, pushed, work.one, work.two)


@bare
def _touch(changed, touched, filled, sample):
    """Note that a sample's pattern has changed."""
    if not changed[sample]:
        changed[sample] = 1
        touched[filled[0]] = sample
        filled[0] += 1


@bare(fastmath=True)
def _length(vector):
    """Euclidean length."""
    total = 0.0
    for j in range(len(vector)):
        total += vector[j] * vector[j]
    return np.sqrt(total)


# ---- choosing an edge ----------------------------------------------------------------------------


@bare
def _bend(place, mu, sample, pushed):
    """Sum of mu_q times the bend of every deeper active kink q of the same sample."""
    bend = 0.0
    for c in range(len(pushed)):
        if pushed[c] != 0.0 and place[sample, c] >= 0:
            bend += pushed[c] * mu[place[sample, c]]
    return bend


@bare
def choose_edge(chain, state, work, tolerance):
    """The steepest falling edge: (row, side, slope), row -1 if none falls."""
    mu, norms, jumps, samples, kinks = (
        state.mu, state.norms, state.jumps, state.samples, state.kinks
    )  # fmt: skip
    bits, place, crowd = state.bits, state.place, work.crowd
    best, row, side, slope = 0.0, -1, 0.0, 0.0
    for k in range(len(mu)):
        sample = samples[k]
        if sample < 0:
            continue
        here = 1.0 if bits[sample, kinks[k]] else -1.0
        into = here * mu[k]
        across = jumps[k] - into
        if crowd[sample] > 1:
            across -= _bend(place, mu, sample, work.pushed[k])
        found = min(into, across)
        steep = found / norms[k]
        if steep < best and steep < -tolerance:
            best, row, slope = steep, k, found
            side = here if into <= across else -here
    return row, side, slope


@bare
def _cross(chain, state, work, row):
    """Put an active kink on the other side: its edge bends with the deeper normals of its sample."""
    sample, kink, pushed = state.samples[row], state.kinks[row], work.pushed[row]
    sign = -1.0 if state.bits[sample, kink] else 1.0
    for c in range(len(pushed)):
        q = state.place[sample, c]
        if pushed[c] != 0.0 and q >= 0:
            for j in range(len(state.theta)):
                state.edges[row, j] -= sign * pushed[c] * state.edges[q, j]
    state.bits[sample, kink] = 1 - state.bits[sample, kink]
    _touch(work.changed, work.touched, work.filled, sample)


@counted
def leave_freely(state, smallest, direction):
    """Direction of phase 1, minus the gradient's part along the free rows: (a free row, slope)."""
    size, row = 0.0, -1
    direction[:] = 0.0
    for k in range(len(state.mu)):
        if state.samples[k] == -1:
            row = k
            size += state.mu[k] ** 2
            for j in range(len(direction)):
                direction[j] -= state.mu[k] * state.edges[k, j]
    size = np.sqrt(size)
    if size > smallest:
        direction /= size
        return row, -size
    direction[:] = state.edges[row]  # nothing to gain: walk along any free row to a kink
    return row, state.mu[row]


@bare
def leave_vertex(chain, state, work, smallest):
    """Steepest edge of a vertex, its kink set free: (row or -1, slope)."""
    row, side, slope = choose_edge(chain, state, work, smallest)
    if row >= 0:
        sample, kink = state.samples[row], state.kinks[row]
        if (side > 0) != (state.bits[sample, kink] > 0):
            _cross(chain, state, work, row)
        for j in range(len(work.direction)):
            work.direction[j] = side * state.edges[row, j]
        state.place[sample, kink] = -1
        work.crowd[sample] -= 1
    return row, slope


# ---- going along it ------------------------------------------------------------------------------


@bare
def rates_along(chain, features, reach, state, work, quiet):
    """Rates along `work.direction`, and what counts as zero: `quiet` times `reach`; the loss's rate."""
    rates = work.rates.T
    total = all_rates(
        chain, features, state.bits.T, work.direction, rates, work.slopes, work.hidden, work.outputs
    )
    for k in range(len(state.samples)):
        if state.samples[k] >= 0 and state.place[state.samples[k], state.kinks[k]] == k:
            rates[state.kinks[k], state.samples[k]] = 0.0
    for i in range(len(reach)):
        work.noise[i] = quiet * reach[i]
    return total


@bare(error_model="numpy")
def _earlier(values, bits, rates, noise, before, times):
    """The times `before`, or those at which one kink of every sample switches if they are earlier.

    Written to another array: a store that depends on a comparison is many times slower than a plain one.
    """
    for i in range(len(times)):
        rate = -rates[i] if bits[i] else rates[i]
        time = -values[i] / rates[i]
        time = time if time > 0.0 else 0.0
        time = time if rate > noise[i] else np.inf
        times[i] = time if time < before[i] else before[i]


@bare
def first_events(state, work):
    """When every sample's next kink switches, and which is the first in every group of samples."""
    values, bits, rates = state.values.T, state.bits.T, work.rates.T
    before, times = work.times, work.spare
    if len(values) % 2:  # the last one is written to `work.times`
        before, times = times, before
    before[:] = np.inf
    for c in range(len(values)):
        _earlier(values[c], bits[c], rates[c], work.noise, before, times)
        before, times = times, before
    for group in range(len(work.heads)):
        _renew_head(work.times, work.heads, group)


@bare
def _first(times):
    """The place of the least time, the first of several."""
    place, least = 0, times[0]
    for k in range(1, len(times)):
        if times[k] < least:
            place, least = k, times[k]
    return place


@bare
def _renew_head(times, heads, group):
    """Find the sample of a group whose kink switches first."""
    start = group * GROUP
    part = times[start : start + GROUP]
    heads[group] = start + _first(part)


@bare(error_model="numpy")
def next_event(values, bits, rates, i, noise):
    """Time, from when its values hold, and kink of one sample's next switch; infinity for none."""
    best, which = np.inf, -1
    for c in range(values.shape[1]):
        rate = rates[i, c]
        if (rate < -noise) if bits[i, c] else (rate > noise):
            time = max(0.0, -values[i, c] / rate)
            if time < best:
                best, which = time, c
    return best, which


@bare
def _earliest(times, heads):
    """The sample whose kink switches first."""
    first, least = 0, np.inf
    for head in heads:
        if times[head] < least:
            first, least = head, times[head]
    return first


@bare
def _is_blocked(place, i, found, start, noise):
    """Whether the rates in `found`, from a column on, move an active kink of the sample off zero."""
    for c in range(start, len(found)):  # noqa: SIM110 - numba has no any()
        if place[i, c] >= 0 and abs(found[c]) > noise:
            return True
    return False


@bare
def _pass_kink(values, place, rates, i, kink, left, found, start):
    """Bring a sample's values up to date at its kink; behind it go its rates in `found`."""
    for c in range(len(found)):
        values[i, c] += rates[i, c] * left
    values[i, kink] = 0.0
    for c in range(start, len(found)):
        rates[i, c] = found[c] if place[i, c] < 0 else 0.0


@bare
def move(chain, state, work, total, tolerance, first):
    """Go along a direction until the loss stops falling: (step, sample, kink), sample -1: never.

    Passing a kink changes only its own sample's rates. A kink with a deeper active kink of its sample
    behind it blocks the way: passing it would move that one off zero.
    """
    values, bits, place = state.values, state.bits, state.place
    rates, slopes, noise, since = work.rates, work.slopes, work.noise, work.since
    times, heads, found = work.times, work.heads, work.found
    changed, touched, one, two = work.changed, work.touched, work.one, work.two
    first_events(state, work)
    now, fall = 0.0, 0.0
    while True:
        i = _earliest(times, heads)
        if times[i] == np.inf:
            return np.inf, -1, -1
        fall += total * (times[i] - now)
        now, kink = times[i], next_event(values, bits, rates, i, noise[i])[1]
        bits[i, kink] = 1 - bits[i, kink]
        slope = rates_behind(chain, bits, i, kink, rates, found, one, two)
        start = deeper(chain, kink)
        change = slope - slopes[i]
        stops = first or total + change >= -tolerance
        if stops or _is_blocked(place, i, found, start, noise[i]):
            bits[i, kink] = 1 - bits[i, kink]
            state.loss[0] += fall
            return now, i, kink
        total += change
        _pass_kink(values, place, rates, i, kink, now - since[i], found, start)
        slopes[i], since[i] = slope, now
        _touch(changed, touched, work.filled, i)
        times[i] = now + next_event(values, bits, rates, i, noise[i])[0]
        _renew_head(times, heads, i // GROUP)


@bare
def arrive(chain, features, state, work, step):
    """Update point, values, and gradient and jumps of the samples whose pattern has changed."""
    values, rates, since = state.values.T, work.rates.T, work.since
    for j in range(len(state.theta)):
        state.theta[j] += step * work.direction[j]
    for c in range(len(values)):
        for i in range(len(since)):
            values[c, i] += rates[c, i] * (step - since[i])
    bits, place, crowd, pulls, gradient = (
        state.bits, state.place, work.crowd, state.pulls, state.gradient
    )  # fmt: skip
    changed, touched, pull, one, two = work.changed, work.touched, work.pull, work.one, work.two
    for position in range(work.filled[0]):
        i = touched[position]
        changed[i], since[i] = 0, 0.0
        sample_pull(chain, bits, i, pull, one, two)
        _renew_gradient(features, gradient, pulls, i, pull)
        for c in range(len(values) if crowd[i] else 0):
            if place[i, c] >= 0:
                _renew_jump(chain, state, work, place[i, c])
    work.filled[0] = 0


@bare
def _renew_gradient(features, gradient, pulls, i, pull):
    """Replace one sample's pull, and with it its part of the gradient."""
    inputs = features.shape[1]
    for a in range(len(pull)):
        change = pull[a] - pulls[i, a]
        if change != 0.0:
            for b in range(inputs):
                gradient[a * inputs + b] += change * features[i, b]
        pulls[i, a] = pull[a]


# ---- the basis -----------------------------------------------------------------------------------


@counted(fastmath=True)
def products(edges, pull, features, alpha):
    """Alpha = edges @ (pull (x) features), from the first unit that pulls to the last."""
    normal = (pull.reshape(len(pull), 1) * features).ravel()
    pulling, inputs = np.flatnonzero(pull), len(features)
    span = slice(pulling[0] * inputs, (pulling[-1] + 1) * inputs) if len(pulling) else slice(0, 0)
    part = normal[span]
    for k in range(len(alpha)):
        edge, total = edges[k, span], 0.0
        for j in range(len(part)):
            total += edge[j] * part[j]
        alpha[k] = total


@counted(fastmath=True)
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
    norms[row] = _length(pivot)
    mu[row] = np.dot(pivot, gradient)


@counted
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
    alpha[target] = head
    mixed = np.zeros(len(alpha))
    for k in range(len(alpha)):
        if state.samples[k] == -1:
            for j in range(len(mixed)):
                mixed[j] += alpha[k] * state.edges[k, j]
    for k in range(len(alpha)):
        if state.samples[k] == -1:
            weight = alpha[k] * scale
            for j in range(len(mixed)):
                state.edges[k, j] -= weight * mixed[j]
            alpha[k] = 0.0
    alpha[target] = -sign * size
    return target


@bare
def enter(chain, features, state, work, row, sample, kink, free, least_pivot):
    """Put a kink into the basis, in the place of `row` or of a free row; whether that is safe."""
    pull = work.pull
    sample_normal(chain, state.bits, sample, kink, pull, work.one, work.two)
    products(state.edges, pull, features[sample], work.alpha)
    if free:
        row = gather_free(state, work.alpha)
    size = _length(pull) * _length(features[sample])
    span = _length(state.edges[row])
    if row < 0 or abs(work.alpha[row]) <= least_pivot * size * span:
        if not free:
            state.samples[row] = -1
        return False
    exchange(state.edges, row, work.alpha, state.gradient, state.norms, state.mu)
    state.samples[row], state.kinks[row] = sample, kink
    state.place[sample, kink] = row
    work.crowd[sample] += 1
    _renew_jump(chain, state, work, row)
    return True


# ---- pivots --------------------------------------------------------------------------------------


@bare
def _go(chain, features, reach, state, work, row, expected, free, tolerances, first):
    """Go along the direction, or back where it meets no kink: (GOING, step, sample, kink), or why not."""
    smallest, _, _, mismatch, quiet, _ = tolerances
    length = _length(work.direction)
    bound = smallest * length
    total = rates_along(chain, features, reach, state, work, quiet * length)
    if abs(total - expected) > mismatch * length:
        return TROUBLE, 0.0, -1, -1
    step, sample, kink = move(chain, state, work, total, bound, first)
    if sample < 0 and free and expected >= -bound and work.filled[0] == 0:
        # no kink this way: try the other
        for j in range(len(work.direction)):
            work.direction[j] = -work.direction[j]
        total = rates_along(chain, features, reach, state, work, quiet * length)
        step, sample, kink = move(chain, state, work, total, bound, first)
        if sample < 0:
            state.samples[row] = -2  # nothing depends on this direction
            return FLAT, 0.0, -1, -1
    return (GOING if sample >= 0 else UNBOUNDED), step, sample, kink


def turned(state: State) -> State:
    """The state for `run`, its matrices (K, N): in one's own order a single sample has another type."""
    return state._replace(values=state.values.T, bits=state.bits.T, place=state.place.T)


@counted
def _turned_back(state):
    """Inverse of `turned`."""
    return State(
        state.theta, state.values.T, state.bits.T, state.place.T, state.samples, state.kinks,
        state.edges, state.norms, state.mu, state.jumps, state.pulls, state.gradient, state.loss,
    )  # fmt: skip


@counted
def run(chain, features, reach, state, pivots, tolerances, first, lengths, losses, path):
    """Take up to `pivots` steps; return (why it ended, steps taken, step before which a vertex was met).

    Args:
        chain: The network.
        features: Reduced inputs (N, r).
        reach: Bounds on the rates of each sample's kinks along a direction of length one (N,).
        state: The state, `turned`, changed in place.
        pivots: Largest number of steps.
        tolerances: Smallest slope per unit length; smallest relative pivot; length that counts as zero;
            largest error of a predicted slope per unit length; rates that count as zero relative to
            `reach`; zero-length steps in a row that are a stall.
        first: Stop every step at its first kink.
        lengths: Step lengths (pivots,).
        losses: Loss after every step (pivots,).
        path: Point after every step (pivots, p), or (0, p) for none.
    """
    smallest, least_pivot, zero, _, _, patience = tolerances
    state = _turned_back(state)
    work = _work(chain, state)
    idle, vertex = 0, -1
    for done in range(pivots):
        free = (state.samples == -1).any()
        if not free and vertex < 0:
            vertex = done
        if free:
            row, expected = leave_freely(state, smallest, work.direction)
        else:
            row, expected = leave_vertex(chain, state, work, smallest)
            if row < 0:
                return VERTEX_IS_MINIMUM, done, vertex
        why, step, sample, kink = _go(
            chain, features, reach, state, work, row, expected, free, tolerances, first
        )
        if why == GOING:
            arrive(chain, features, state, work, step)
            state.values[sample, kink] = 0.0
            if not enter(chain, features, state, work, row, sample, kink, free, least_pivot):
                return TROUBLE, done, vertex
        elif why != FLAT:
            return why, done, vertex
        lengths[done] = step * _length(work.direction)
        losses[done] = state.loss[0]
        if len(path):
            path[done] = state.theta
        idle = idle + 1 if lengths[done] <= zero and not free else 0
        if idle >= patience:
            return STALLED, done + 1, vertex
    return GOING, pivots, vertex
