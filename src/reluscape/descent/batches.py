"""The pivots of `descend`, in batches: refreshed, rebuilt, and shifted where too many kinks meet.

The kernel takes pivots by the hundred. After each batch the switching values are computed afresh: where
they have drifted, or the true loss is not the predicted one, the state is rebuilt from the last good
point. Runs of zero-length steps, which many kinks at one point can make endless, are left by shifting
the inactive kinks by tiny random amounts; the shift is taken back before the end is certified.

No run is endless. The kernel counts zero-length pivots: `PATIENCE` in a row end a batch, and the kinks
are shifted, at most `len(SHIFTS)` times; shifts of a continuous distribution make ties impossible with
probability one, so that every pivot beyond a plateau then lowers the shifted loss. What rounding may
still undo is bounded by two counters that only a fall of the true loss by more than its `slack` sets
back: at most `REBUILDS` rebuilds, and at most `idle_limit` pivots, after which each batch counts as a
rebuild. After the last such fall a run hence ends within `idle_limit(p) + BATCH * LAST_BATCHES` pivots
for p parameters.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reluscape.descent.kernel import (
    GOING,
    STALLED,
    UNBOUNDED,
    VERTEX_IS_MINIMUM,
    State,
    run,
    turned,
)
from reluscape.descent.output import OutputProblem, falling_ray, ways_of
from reluscape.descent.path import DRIFT, QUIET, Path
from reluscape.descent.problem import Problem
from reluscape.descent.result import Status
from reluscape.descent.segment import way_down

Floats = NDArray[np.float64]

#: Smallest slope per unit length, relative to the gradient's terms: far above their rounding errors.
SLOPE = 1e-12
#: Smallest pivot relative to normal and edge, as in linear programming codes.
PIVOT = 1e-9
#: Spacing of the numbers at one.
EPS = float(np.finfo(float).eps)
#: Zero-length steps in a row before the kinks are shifted.
PATIENCE = 50
#: Shift of the kinks relative to their size, from the first time to the last.
SHIFTS = (1e-9, 1e-8, 1e-7)
#: Share of the first loss below which a batch that could go on is asked whether it fits perfectly.
CLOSE = 1e-3
#: Rebuilds without progress before the descent is called stalled.
REBUILDS = 5
#: Batches after which a run without progress has used up its shifts, their ends, and its rebuilds.
LAST_BATCHES = 2 * len(SHIFTS) + REBUILDS + 2


def follow(problem: Problem, path: Path, *, first: bool, rng: np.random.Generator) -> None:
    """Take batches of pivots until no edge falls, or nothing helps any more; see the module's bound."""
    shift, rounds, rebuilds = None, 0, 0
    if path.progress is not None and not run.signatures:
        path.tell("loading the kernel; its first use compiles it, for up to a minute")
    state = problem.state(path.best, _NONE, None)
    while path.status is None:
        if not path.left:
            path.status = Status.max_pivots
            break
        before = path.lowest
        why, values = _batch(problem, state, path, shift, first=first)
        if (why != GOING or path.lowest <= CLOSE * path.losses[0]) and path.fits:
            path.status = Status.perfect_fit
            break
        if why == UNBOUNDED and isinstance(problem, OutputProblem):
            theta = problem.expand(state.theta, path.start)
            ways = ways_of(problem, state)
            if path.follow_ray(falling_ray(problem.function, theta, ways, path.lowest)):
                break
        sound = _is_sound(problem, state, values, rng)
        at_vertex = why == VERTEX_IS_MINIMUM and sound and shift is None
        if rounds < len(SHIFTS) and (why == STALLED or (at_vertex and _is_degenerate(state))):
            shift = _shifted(problem, state, SHIFTS[rounds], rng)
            rounds += 1
            path.shifts += 1
        elif at_vertex:
            path.active = problem.kinks_of(state)
            break
        elif why == VERTEX_IS_MINIMUM and sound:
            shift = None
        elif why == GOING and sound and not path.is_idle:
            rebuilds = 0 if path.lowest < before - path.slack else rebuilds
            continue
        else:
            rebuilds += 1
            path.status = Status.stalled if rebuilds > REBUILDS else None
        state = _rebuilt(problem, state, path, shift)


_NONE = np.empty((0, 2), dtype=np.int64)


def _batch(
    problem: Problem, state: State, path: Path, shift: Floats | None, *, first: bool
) -> tuple[int, Floats]:
    """Take some pivots and note them; return why they ended, and the switching values there afresh."""
    before = state.theta.copy()
    if shift is None:
        path.stand(before)
    count = path.left
    lengths, losses = np.zeros(count), np.full(count, np.nan)
    points = np.empty((count, problem.size))
    scale = float(np.abs(state.pulls).sum(axis=1) @ np.linalg.norm(problem.features, axis=1))
    tolerances = (
        SLOPE * scale, PIVOT, 1e-14 * path.size, DRIFT * scale, QUIET, PATIENCE,
    )  # fmt: skip
    why, taken, vertex = run(
        problem.chain, problem.features, problem.reach, turned(state), count, tolerances, first, lengths,
        losses, points,
    )  # fmt: skip
    if vertex >= 0 and path.first_vertex < 0:
        path.first_vertex = len(path.lengths) + vertex
    for k in np.flatnonzero(np.isnan(losses[:taken])):  # no step: nothing depends on a direction
        losses[k] = losses[k - 1] if k else path.losses[-1]
        points[k] = points[k - 1] if k else before
    lengths, losses, points = lengths[:taken], losses[:taken], points[:taken]
    values = problem.values(state.theta, None)
    theta, true = state.theta, problem.loss(values)
    missed = abs(losses[-1] - true) if taken else 0.0
    risen = losses.max(initial=-np.inf) - path.lowest
    noise = _noise(problem, points).max(initial=0.0)
    if shift is not None or not max(missed, risen, noise) <= path.slack:
        theta, true = _keep_lower(problem, path, lengths, losses, points)
    elif not taken and way_down(problem, path.best, theta, path.slack)[0] < 1.0:
        theta, true = path.best, path.lowest  # where shifted kinks have led to over higher points
    path.add(theta, true, lengths, losses, points)
    return int(why), values if shift is None else problem.values(state.theta, shift)


def _noise(problem: Problem, points: Floats) -> Floats:
    """Rounding errors of the losses at reduced points."""
    return np.asarray(EPS * problem.reach.mean() * np.linalg.norm(points, axis=1))


def _keep_lower(
    problem: Problem, path: Path, lengths: Floats, losses: Floats, points: Floats
) -> tuple[Floats, float]:
    """Put the true path down in the place of the predicted one, whose kinks were shifted or have drifted.

    From the last point kept it goes straight towards each pivot's, as far as the loss falls; where it
    does not, towards the place on the pivot's edge from which on it is lower. Far out, where losses are
    lost in rounding, a point is lower if it is so by more.

    Returns:
        The last point kept, and its loss.
    """
    theta, lowest, before = path.best, path.lowest, path.best
    noise, slack = _noise(problem, points), path.slack
    for k, point in enumerate(points.copy()):
        least = lowest if noise[k] <= slack else lowest - noise[k]
        reached, loss = _reached(problem, theta, point, slack)
        if loss > least and before is not theta and problem.loss_at(point) < least:
            crossed = _crossed(problem, before, point, lowest)
            aside, there = _reached(problem, theta, crossed, slack)
            if there <= lowest and aside is crossed:
                theta, lowest = points[k - 1], losses[k - 1] = aside, there
                reached, loss = _reached(problem, theta, point, slack)
        if loss <= min(least, lowest):
            theta, lowest = reached, loss
        before = point
        losses[k], points[k] = lowest, theta
    lengths[:] = np.linalg.norm(np.diff(points, axis=0, prepend=path.best[None]), axis=1)
    return theta, lowest


def _reached(problem: Problem, start: Floats, stop: Floats, slack: float) -> tuple[Floats, float]:
    """The point on the straight way up to which the loss falls, and its loss."""
    share, _ = way_down(problem, start, stop, slack)
    point = stop if share >= 1.0 else start + share * (stop - start)
    return point, problem.loss_at(point)


def _crossed(problem: Problem, start: Floats, stop: Floats, most: float) -> Floats:
    """The place on an edge from a higher to a lower point from which on it is not above a loss."""
    above, below = problem.loss_at(start) - most, most - problem.loss_at(stop)
    share = 1.01 * above / (above + below) if above > 0 else 0.0
    return np.asarray(start + min(share, 1.0) * (stop - start))


def _is_sound(problem: Problem, state: State, values: Floats, rng: np.random.Generator) -> bool:
    """Whether values and a few edges are what a fresh computation gives; refreshes the values."""
    inactive = state.place < 0
    size = 1.0 + float(np.abs(values).max(initial=0.0))
    drift = float(np.abs(values - state.values).max(initial=0.0))
    if not drift <= DRIFT * size:
        return False
    wrong = inactive & ((values > 0) != (state.bits > 0)) & (np.abs(values) > DRIFT * size)
    np.copyto(state.values, values, where=inactive)
    active = np.flatnonzero(state.samples >= 0)
    rows = rng.choice(active, size=min(3, len(active)), replace=False)
    normals = problem.normals(state.bits, np.column_stack([state.samples, state.kinks])[rows])
    products = normals @ state.edges.T
    products[np.arange(len(rows)), rows] -= 1.0
    lengths = np.linalg.norm(normals, axis=1)[:, None] * state.norms
    return not wrong.any() and bool((np.abs(products) <= 1e-7 * (1.0 + lengths)).all())


def _rebuilt(problem: Problem, state: State, path: Path, shift: Floats | None) -> State:
    """A fresh state at the current point and active kinks, or at the best point so far."""
    active = np.flatnonzero(state.samples >= 0)
    kinks = np.column_stack([state.samples, state.kinks])[active]
    fresh = problem.state(state.theta, kinks, shift, state.bits)
    true = problem.loss_at(fresh.theta)
    most = path.lowest + path.slack
    if true <= most and way_down(problem, path.best, fresh.theta, path.slack)[0] >= 1.0:
        return fresh
    return problem.state(path.best, _NONE, shift)


def _is_degenerate(state: State) -> bool:
    """Whether more kinks are zero than the basis holds: its edges are then not all there are."""
    size = 1.0 + np.abs(state.values).mean(axis=0)
    return bool(((np.abs(state.values) <= DRIFT * size) & (state.place < 0)).any())


def _shifted(problem: Problem, state: State, size: float, rng: np.random.Generator) -> Floats:
    """Random shifts of all inactive kinks; the active ones stay where they are."""
    values = problem.values(state.theta, None)
    scale = size * (1.0 + np.abs(values).mean(axis=0))
    shift = rng.uniform(0.5, 1.0, values.shape) * rng.choice([-1.0, 1.0], values.shape) * scale
    shift[state.place >= 0] = 0.0
    return np.asarray(shift)
