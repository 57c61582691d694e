"""`descend`: exact descent along edges to a certified local minimum.

The kernel takes pivots by the hundred. After each batch the switching values are computed afresh: where
they have drifted, or the true loss is not the predicted one, the state is rebuilt from the last good
point. Runs of zero-length steps, which many kinks at one point can make endless, are left by shifting
the inactive kinks by tiny random amounts; the shift is taken back before the end is certified.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reluscape.adjacent import way_out
from reluscape.certificate import MINIMA, Certificate
from reluscape.descent.forecast import forecast_descent
from reluscape.descent.kernel import (
    GOING,
    STALLED,
    VERTEX_IS_MINIMUM,
    State,
    run,
)
from reluscape.descent.problem import Problem
from reluscape.descent.result import Descent, Status
from reluscape.errors import InputError
from reluscape.landscape import Block
from reluscape.point import Point
from reluscape.proof import certify
from reluscape.tolerances import TOLERANCES

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Progress = Callable[[str, float], None]

RULES = ("long_step", "first_kink")

#: Pivots between two refreshes of the switching values.
BATCH = 64
#: Smallest slope per unit length, relative to the gradient's terms: far above their rounding errors.
SLOPE = 1e-12
#: Smallest pivot relative to normal and edge, as in linear programming codes.
PIVOT = 1e-9
#: Relative error of a predicted slope, of a switching value or of the loss that calls for new edges.
DRIFT = 1e-9
#: Rates below this share of their bound are rounding.
QUIET = 1e-12
#: Zero-length steps in a row before the kinks are shifted.
PATIENCE = 50
#: Shift of the kinks relative to their size, from the first time to the last.
SHIFTS = (1e-9, 1e-8, 1e-7)
#: Share of the first loss below which a batch that could go on is asked whether it fits perfectly.
CLOSE = 1e-3
#: Rebuilds without progress before the descent is called stalled.
REBUILDS = 5
#: Step, relative to the point, after which kinks that were zero have their sides.
TINY_STEP = 1e-9
#: Points at which more kinks meet than edges lead out of, left along another direction.
DETOURS = 5
#: Weights below this share of the largest are rounding errors of zero.
SNAP = 1e-12
#: Largest block that is certified in rationals where float64 is undecided.
RATIONAL = 60
#: Numbers kept of the path, 64 MB.
PATH = 8 * 10**6

_CLAIMS = {
    "strict_local_minimum": Status.strict_minimum,
    "local_minimum": Status.minimum,
    "plateau": Status.plateau,
    "saddle": Status.saddle,
}


def descend(
    function: Block,
    theta: ArrayLike | None = None,
    *,
    rule: str = "long_step",
    max_pivots: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Descent:
    """Descend the L1 loss of one layer along edges to a certified local minimum.

    The loss is continuous and piecewise affine in the layer's parameters. From theta the descent goes
    along minus the gradient's part along which all active kinks stay zero, until as many kinks are
    active as there are independent directions (a vertex); then along the steepest falling edge to the
    next vertex, until no edge falls (theory, section 2; Hinz, the Deep ReLU Simplex).

    Args:
        function: The block; its landscape's loss is "l1" without weight decay.
        theta: Start, shape (size,); default: the model's own weights. It may lie at kinks.
        rule: "long_step" passes kinks while the loss keeps falling; "first_kink" stops at each, as
            published.
        max_pivots: Largest number of pivots; default: no limit.
        seed: Of the shifts that end runs of zero-length steps.
        progress: Told what is being done and the fraction done (of `max_pivots`, else 0).

    Returns:
        The path and its end. `status` says how it ended, `certificate` what the end is.

    Cost:
        Per pivot one pass of all samples and O(p^2); memory O(p^2 + samples * kinks).

    Guarantees:
        `losses` never rises; the end's claim is that of the certificate, whatever the path.

    Raises:
        InputError: Another loss, weight decay, an unknown rule, theta of the wrong shape, or a
            `max_pivots` below one.
    """
    _check(function, rule, max_pivots)
    start: Floats = function.check(theta)
    problem = Problem.of(function.piecewise)
    path = _Path(problem, start, max_pivots, progress)
    rng = np.random.default_rng(seed)
    for _ in range(DETOURS):
        if problem.size:
            _follow(problem, path, first=rule == "first_kink", rng=rng)
        end, certificate = path.end(function)
        settled = path.status is not None or certificate.claim in MINIMA
        way = None if settled else _way_out(function, end)
        if way is None:
            break
        if way[1] == 0.0:
            end, certificate = _aside(function, end, certificate, way[0])
            break
        if not path.fall(function, end, way[0]):
            break
    return path.result(function, end, certificate)


def _check(function: Block, rule: str, max_pivots: int | None) -> None:
    """Refuse what is not piecewise affine."""
    if not isinstance(function, Block):
        raise InputError(f"descend needs a Block; received {type(function).__name__}")
    landscape = function.landscape
    if landscape.loss_name != "l1" or landscape.weight_decay > 0:
        raise InputError(
            "descend needs a piecewise-affine loss: loss='l1' and weight_decay=0; received"
            f" loss={landscape.loss_name!r} and weight_decay={landscape.weight_decay:g}"
        )
    if rule not in RULES:
        raise InputError(f"rule must be one of {', '.join(RULES)}; received {rule!r}")
    if max_pivots is not None and max_pivots < 1:
        raise InputError(f"max_pivots must be at least 1; received {max_pivots}")


def certified_end(block: Block, theta: Floats) -> Certificate:
    """Certificate of a descent's end: in rationals where float64 leaves a small block undecided.

    Slopes of exactly zero (flat edges) are common at vertices, and only rationals see them.
    """
    certificate = certify(block, theta)
    if certificate.claim != "undecided" or block.size > RATIONAL or find_spec("flint") is None:
        return certificate
    exact = certify(block, theta, arithmetic="rational")
    return exact if exact.claim in MINIMA else certificate


def _polished(block: Block, theta: Floats, active: Indices) -> Floats:
    """Theta moved to where the active kinks are zero to the last bits, unless that raises the loss.

    Units that are zero but for rounding become exactly so: all their kinks meet there.
    """
    piecewise, moved = block.piecewise, theta.copy()
    for _ in range(2 if len(active) else 0):
        values = piecewise.forward(moved)[0]
        pattern = values > 0
        pattern[active] = False
        normals = piecewise.normals(active, pattern)
        moved = moved - np.linalg.lstsq(normals, values[active], rcond=None)[0]
    weight, bias = piecewise.unpack(moved)
    sizes = np.abs(weight).max(axis=1, initial=0.0)
    if bias is not None:
        sizes = np.maximum(sizes, np.abs(bias))
    zero = sizes <= SNAP * sizes.max(initial=0.0)
    for part in (weight, bias):
        if part is not None:
            part[zero] = 0.0  # views of `moved`
    return moved if block.loss(moved) <= block.loss(theta) * (1.0 + DRIFT) else theta


def _longest_fall(block: Block, theta: Floats, direction: Floats) -> Floats:
    """The step along a direction up to where, in steps that double, the loss falls no more."""
    found, step = block.loss(theta), np.zeros_like(direction)
    length = TINY_STEP * (1.0 + float(np.linalg.norm(theta)))
    while (loss := block.loss(theta + length * direction)) < found:
        found, step = loss, length * direction
        length *= 2.0
    return step


def _way_out(block: Block, theta: Floats) -> tuple[Floats, float] | None:
    """A direction out of a point where more kinks meet than the edges of a basis show, and its rate."""
    point = Point.at(block, theta)
    return None if point.independent or not point.is_stationary else way_out(point)


def _aside(
    block: Block, theta: Floats, certificate: Certificate, direction: Floats
) -> tuple[Floats, Certificate]:
    """A point of the same loss, halfway to the next kink along a flat direction, if it is certified."""
    point = Point.at(block, theta)
    size = 1.0 + float(np.linalg.norm(theta))
    pattern = block.pattern(theta + TINY_STEP * size * direction)
    rates = block.piecewise.rates(pattern, direction)
    values = block.kinks(theta)
    ahead = np.where(pattern, rates < 0, rates > 0) & (np.abs(values) > point.bounds)
    times = -values[ahead] / rates[ahead]
    moved = theta + direction * min(size, float(times.min(initial=np.inf)) / 2)
    if block.loss(moved) <= block.loss(theta) * (1.0 + DRIFT):
        found = certified_end(block, moved)
        if found.claim in MINIMA:
            return moved, found
    return theta, certificate


@dataclass(slots=True)
class _Path:
    """The path so far.

    Attributes:
        problem: The problem.
        start: The start in the block's parameters.
        limit: Largest number of pivots, or None.
        progress: Told about batches.
        best: Reduced point of the lowest true loss.
        lowest: That loss.
        status: Set when the descent ends before a vertex without a falling edge.
        first_vertex: Pivot of the first vertex, or -1.
        active: Kinks that are zero at the end.
    """

    problem: Problem
    start: Floats
    limit: int | None
    progress: Progress | None
    best: Floats = field(init=False)
    lowest: float = field(init=False)
    losses: list[float] = field(init=False)
    lengths: list[float] = field(default_factory=list)
    points: list[Floats] = field(init=False)
    stride: int = 1
    status: Status | None = None
    first_vertex: int = -1
    active: Indices = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def __post_init__(self) -> None:
        self.best = self.problem.reduce(self.start)
        self.lowest = self.problem.loss(self.problem.values(self.best, None))
        self.losses = [self.lowest]
        self.points = [self.best]

    @property
    def fits(self) -> bool:
        """Whether the loss is within the residuals' rounding errors of zero, its least value."""
        piecewise = self.problem.piecewise
        theta = self.problem.expand(self.best, self.start)
        bounds = piecewise.rounding_bounds(theta, TOLERANCES.rounding)[0]
        error = float(bounds[piecewise.groups[-1].start :].sum()) / piecewise.num_samples
        return self.lowest <= error

    @property
    def left(self) -> int:
        """Pivots that may still be taken in one batch."""
        return BATCH if self.limit is None else min(BATCH, self.limit - len(self.lengths))

    def add(
        self, theta: Floats, loss: float, lengths: Floats, losses: Floats, points: Floats
    ) -> None:
        """Take over a batch of pivots that ends at `theta` with this true loss.

        Predicted losses are clipped to the lowest true one, which they may miss while kinks are shifted.
        """
        if loss <= self.lowest:
            self.best, self.lowest = theta.copy(), loss
        for length, found, point in zip(lengths.tolist(), losses.tolist(), points, strict=True):
            self.lengths.append(length)
            self.losses.append(min(max(found, self.lowest), self.losses[-1]))
            if len(self.lengths) % self.stride == 0:
                self.points.append(point.copy())
        while len(self.points) * self.problem.size > PATH and len(self.points) > 2:
            self.points = self.points[::2]
            self.stride *= 2
        if self.lengths:
            self.losses[-1] = self.lowest
        if self.progress is not None:
            share = len(self.lengths) / self.limit if self.limit else 0.0
            end = forecast_descent(self.losses).loss
            told = f"pivot {len(self.lengths)}, loss {loss:.6g}, will end near {end:.4g}"
            self.progress(told, share)

    def end(self, block: Block) -> tuple[Floats, Certificate]:
        """The end so far, its active kinks put to zero, and what it is."""
        theta = _polished(block, self.problem.expand(self.best, self.start), self.active)
        return theta, certified_end(block, theta)

    def fall(self, block: Block, theta: Floats, direction: Floats) -> bool:
        """Go on along a direction along which the loss falls; whether it did."""
        step = _longest_fall(block, theta, direction)
        loss = block.loss(theta + step)
        if not loss < self.lowest:
            return False
        self.best = self.problem.reduce(theta + step)
        length = float(np.linalg.norm(step))
        self.add(self.best, loss, np.array([length]), np.array([loss]), self.best[None])
        return True

    def result(self, block: Block, theta: Floats, certificate: Certificate) -> Descent:
        """The descent with its end."""
        status = self.status or _CLAIMS.get(certificate.claim, Status.undecided)
        if self.status is None and certificate.claim == "not_stationary":
            status = Status.stalled
        return Descent(
            theta=theta,
            loss=block.loss(theta),
            losses=np.array(self.losses),
            step_lengths=np.array(self.lengths),
            vertices=self.problem.expand(np.array(self.points), self.start),
            stride=self.stride,
            first_vertex=self.first_vertex,
            num_pivots=len(self.lengths),
            status=str(status),
            certificate=certificate,
        )


def _follow(problem: Problem, path: _Path, *, first: bool, rng: np.random.Generator) -> None:
    """Take batches of pivots until no edge falls, or nothing helps any more."""
    shift, rounds, rebuilds = None, 0, 0
    if path.progress is not None and not run.signatures:
        path.progress("loading the kernel; its first use compiles it, for up to a minute", 0.0)
    state = problem.state(path.best, _NONE, None)
    while path.status is None:
        why = _batch(problem, state, path, shift, first=first)
        if (why != GOING or path.lowest <= CLOSE * path.losses[0]) and path.fits:
            path.status = Status.perfect_fit
            break
        sound = _is_sound(problem, state, shift, rng)
        at_vertex = why == VERTEX_IS_MINIMUM and sound and shift is None
        if rounds < len(SHIFTS) and (why == STALLED or (at_vertex and _is_degenerate(state))):
            shift = _shifted(problem, state, SHIFTS[rounds], rng)
            rounds += 1
        elif at_vertex:
            path.active = problem.kinks_of(state)
            break
        elif why == VERTEX_IS_MINIMUM and sound:
            shift = None
        elif why == GOING and sound:
            rebuilds = 0
            path.status = Status.max_pivots if path.left <= 0 else None
            continue
        else:
            rebuilds += 1
            path.status = Status.stalled if rebuilds > REBUILDS else None
        state = _rebuilt(problem, state, path, shift)


_NONE = np.empty((0, 2), dtype=np.int64)


def _batch(
    problem: Problem, state: State, path: _Path, shift: Floats | None, *, first: bool
) -> int:
    """Take some pivots and note them; return why they ended."""
    count = path.left
    lengths, losses = np.empty(count), np.empty(count)
    points = np.empty((count, problem.size))
    scale = float(np.abs(state.pulls).sum(axis=1) @ np.linalg.norm(problem.features, axis=1))
    tolerances = (
        SLOPE * scale, PIVOT, 1e-14 * (1.0 + float(np.linalg.norm(state.theta))), DRIFT * scale, QUIET,
        PATIENCE,
    )  # fmt: skip
    why, taken, vertex = run(
        problem.chain, problem.features, problem.reach, state, count, tolerances, first, lengths,
        losses, points,
    )  # fmt: skip
    if vertex >= 0 and path.first_vertex < 0:
        path.first_vertex = len(path.lengths) + vertex
    true = problem.loss(problem.values(state.theta, None))
    path.add(state.theta, true, lengths[:taken], losses[:taken], points[:taken])
    return int(why)


def _is_sound(
    problem: Problem, state: State, shift: Floats | None, rng: np.random.Generator
) -> bool:
    """Whether values, loss and a few edges are what a fresh computation gives; refreshes the values."""
    values = problem.values(state.theta, shift)
    inactive = state.place < 0
    size = 1.0 + float(np.abs(values).max(initial=0.0))
    drift = float(np.abs(values - state.values).max(initial=0.0))
    if not drift <= DRIFT * size:
        return False
    wrong = inactive & ((values > 0) != (state.bits > 0)) & (np.abs(values) > DRIFT * size)
    state.values[inactive] = values[inactive]
    active = np.flatnonzero(state.samples >= 0)
    rows = rng.choice(active, size=min(3, len(active)), replace=False)
    normals = problem.normals(state.bits, np.column_stack([state.samples, state.kinks])[rows])
    products = normals @ state.edges.T
    products[np.arange(len(rows)), rows] -= 1.0
    lengths = np.linalg.norm(normals, axis=1)[:, None] * state.norms
    return not wrong.any() and bool((np.abs(products) <= 1e-7 * (1.0 + lengths)).all())


def _rebuilt(problem: Problem, state: State, path: _Path, shift: Floats | None) -> State:
    """A fresh state at the current point and active kinks, or at the best point so far."""
    active = np.flatnonzero(state.samples >= 0)
    kinks = np.column_stack([state.samples, state.kinks])[active]
    fresh = problem.state(state.theta, kinks, shift, state.bits)
    true = problem.loss(problem.values(fresh.theta, None))
    slack = 1e-9 * (1.0 + path.lowest) if shift is None else np.inf
    if true <= path.lowest + slack:
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
