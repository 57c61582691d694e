"""`descend`: exact descent along edges to a certified local minimum.

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
for p parameters. Runs follow one another, at most `DETOURS + 1` without a fall by the share `WORTHWHILE`,
and each only after a fall.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from reluscape.adjacent import examine, way_out
from reluscape.balanced import balanced
from reluscape.certificate import MINIMA, Certificate
from reluscape.descent.causes import causes_of
from reluscape.descent.forecast import forecast_descent
from reluscape.descent.kernel import (
    GOING,
    STALLED,
    UNBOUNDED,
    VERTEX_IS_MINIMUM,
    State,
    run,
    turned,
)
from reluscape.descent.output import OutputProblem, Ray, descent_ways, falling_ray, ways_of
from reluscape.descent.problem import Problem
from reluscape.descent.result import LEAST, Descent, Status
from reluscape.descent.segment import way_down
from reluscape.errors import InputError
from reluscape.landscape import Block
from reluscape.network_output import NetworkOutput
from reluscape.point import Point
from reluscape.progress import UNKNOWN, Stop
from reluscape.proof import certify
from reluscape.tolerances import TOLERANCES
from reluscape.validation import check_columns, check_sizes, check_told, check_whole

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]
Progress = Callable[[str, float], None]
Function = Block | NetworkOutput

RULES = ("long_step", "first_kink")

#: Pivots between two refreshes of the switching values.
BATCH = 128
#: Smallest slope per unit length, relative to the gradient's terms: far above their rounding errors.
SLOPE = 1e-12
#: Smallest pivot relative to normal and edge, as in linear programming codes.
PIVOT = 1e-9
#: Relative error of a predicted slope, of a switching value or of the loss that calls for new edges.
DRIFT = 1e-9
#: Rates below this share of their bound are rounding; so are rises of the loss.
QUIET = 1e-12
#: Spacing of the numbers at one.
EPS = float(np.finfo(float).eps)
#: Zero-length steps in a row before the kinks are shifted.
PATIENCE = 50
#: Shift of the kinks relative to their size, from the first time to the last.
SHIFTS = (1e-9, 1e-8, 1e-7)
#: Parameters below these shares of the largest, or of one, are tried at zero.
SNAPS = (1e-9, 1e-12, 0.0)
#: Share of the first loss, or of the targets, above which a loss is no rounding error of zero.
FIT = 1e-10
#: Share of the first loss below which a batch that could go on is asked whether it fits perfectly.
CLOSE = 1e-3
#: Rebuilds without progress before the descent is called stalled.
REBUILDS = 5
#: Pivots without progress, for each parameter and each pivot of a batch: a plateau takes one for each
#: parameter, a shift at ties some more.
IDLE = 20
#: Batches after which a run without progress has used up its shifts, their ends, and its rebuilds.
LAST_BATCHES = 2 * len(SHIFTS) + REBUILDS + 2
#: Step, relative to the point, after which kinks that were zero have their sides.
TINY_STEP = 1e-9
#: Points at which more kinks meet than edges lead out of, left along another direction, one after the
#: other without a fall of the loss by this share.
DETOURS, WORTHWHILE = 5, 0.01
#: Flat directions along which an end is moved aside, one after the other.
ASIDES = 10
#: Largest block that is moved aside more than once.
ASIDE = 200
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
    function: Function,
    theta: ArrayLike | None = None,
    *,
    rule: str = "long_step",
    max_pivots: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Descent:
    """Descend the L1 loss of one layer, or a network's output, along edges to a certified local minimum.

    Both are continuous and piecewise affine: the loss in the layer's parameters, the output in the
    network's input, which is theta then. From theta the descent goes
    along minus the gradient's part along which all active kinks stay zero, until as many kinks are
    active as there are independent directions (a vertex); then along the steepest falling edge to the
    next vertex, until no edge falls (theory, section 2; Hinz, the Deep ReLU Simplex).

    Args:
        function: A block whose landscape's loss is "l1" without weight decay, or a `NetworkOutput`, for
            which loss means the output and all points lie in its box.
        theta: Start, shape (size,); default: the model's own weights, or the middle of the box. It may
            lie at kinks.
        rule: "long_step" passes kinks while the loss keeps falling; "first_kink" stops at each, as
            published.
        max_pivots: Largest number of pivots; default: no limit.
        seed: Of the shifts that end runs of zero-length steps.
        progress: Told what is being done and the fraction done (of `max_pivots`, else NaN: nobody knows).
            Where it raises `reluscape.progress.Stop`, the pivots taken by then are all there are.

    Returns:
        The path and its end. `status` says how it ended, `certificate` what the end is.

    Cost:
        Per pivot one pass of all samples and O(p^2); memory O(p^2 + samples * kinks). On one thread: so
        the path does not depend on how many there are, and pivots are too small to be shared.

    Guarantees:
        `losses` never rises, and each is the true loss at its point to rounding. Nor does the loss rise
        on the straight way from one point of the path to the next, by more than the share 1e-9 of itself
        and 1e-12 of the first loss, except on the way to the ray of an output that is unbounded; that
        falls forever in exact arithmetic. The end's claim is that of the certificate, whatever the path.

    Raises:
        InputError: Another loss, weight decay, an unknown rule, a column of inputs that is not zero but
            below 1e-50 in size, theta of the wrong shape, outside the box or above 1e50 in size, a
            `max_pivots` that is no whole number of at least 1, a `seed` that is none of at least 0, or a
            `progress` that cannot be called.
    """
    check_descent(function, rule, max_pivots, seed)
    check_told(progress, "progress")
    start: Floats = function.check(theta)
    check_sizes(start, "theta")
    with threadpool_limits(1, user_api="blas"):
        path = _Path(function, _problem(function), start, max_pivots, progress)
        end, certificate = _descended(path, first=rule == "first_kink", seed=seed)
        return path.result(end, certificate)


def _descended(path: _Path, *, first: bool, seed: int) -> tuple[Floats, Certificate]:
    """Take the path to its end; that with its certificate."""
    function, problem, rng = path.function, path.problem, np.random.default_rng(seed)
    if isinstance(function, NetworkOutput) and function.is_affine:
        ways = descent_ways(function, path.start)
        path.follow_ray(falling_ray(function, path.start, ways, path.lowest))
    left, lowest = DETOURS, path.lowest
    while True:
        if problem.size and path.status is None:
            _follow(problem, path, first=first, rng=rng)
        if path.lowest < (1.0 - WORTHWHILE) * lowest:
            left, lowest = DETOURS, path.lowest
        end = path.end()
        way = _way_out(function, end) if path.may_go_on else None
        left -= 1
        if left >= 0 and path.leave(end, way[0] if way is not None and way[1] < 0 else None):
            continue
        end, certificate = _aside(function, end, way) or (end, path.certified(end))
        if left < 0 or not path.leave(end, _shown_way(function, certificate, end)):
            return end, certificate


def _problem(function: Function) -> Problem:
    """The function in the form that the kernel works on."""
    if isinstance(function, NetworkOutput):
        return OutputProblem.of_output(function)
    return Problem.of(function.piecewise)


def check_descent(function: Function, rule: str, max_pivots: int | None, seed: int) -> None:
    """Refuse what is not piecewise affine, and options that make no sense."""
    if not isinstance(function, Block | NetworkOutput):
        raise InputError(
            f"descend needs a Block or a NetworkOutput; received {type(function).__name__}"
        )
    landscape = function.landscape if isinstance(function, Block) else None
    if landscape is None:
        pass
    elif landscape.loss_name != "l1" or landscape.weight_decay > 0:
        raise InputError(
            "descend needs a piecewise-affine loss: loss='l1' and weight_decay=0; received"
            f" loss={landscape.loss_name!r} and weight_decay={landscape.weight_decay:g}"
        )
    else:
        check_columns(landscape.inputs)
    if rule not in RULES:
        raise InputError(f"rule must be one of {', '.join(RULES)}; received {rule!r}")
    if max_pivots is not None:
        check_whole(max_pivots, "max_pivots", 1)
    check_whole(seed, "seed", 0)


def certified_end(function: Function, theta: Floats) -> Certificate:
    """Certificate of a descent's end: in rationals where float64 leaves a small block undecided.

    Slopes of exactly zero (flat edges) are common at vertices, and only rationals see them.
    """
    certificate = certify(function, theta)
    if certificate.claim != "undecided" or function.size > RATIONAL or find_spec("flint") is None:
        return certificate
    exact = certify(function, theta, arithmetic="rational")
    return exact if exact.claim in MINIMA else certificate


def _polished(path: _Path, theta: Floats) -> Floats:
    """Theta with the active kinks, and parameters of rounding size, at zero, unless that raises the loss.

    Where inputs are zero or whole numbers, kinks meet at parameters that are exactly zero and nowhere
    near. An input at a bound of its box is already at its kink, and stays. If possible the loss is not
    above the start's, not even by rounding.
    """
    function, problem, found = path.function, path.problem, []
    settled = problem.settled(theta, path.active)
    for point in (settled, theta):  # kinks that a stalled descent left may not meet
        lengths = np.abs(point * _sizes(function, point))
        size = max(1.0, float(lengths.max(initial=0.0)))
        free = ~_at_bounds(function, point)
        for share in SNAPS:
            moved = _inside(function, np.where(free & (lengths <= share * size), 0.0, point))
            if _is_no_higher(function, moved, theta):
                found.append(moved)
        if found:
            break
    most = function.loss(path.start)
    return next((moved for moved in found if function.loss(moved) <= most), [*found, theta][0])


def _is_no_higher(function: Function, moved: Floats, theta: Floats) -> bool:
    """Whether the loss at one point is that at another or lower, up to rounding."""
    loss = function.loss(theta)
    return function.loss(moved) <= loss + QUIET * abs(loss)


def _around(function: Function, theta: Floats) -> Block:
    """The block whose loss is the function around theta, up to a constant."""
    return function if isinstance(function, Block) else function.around(theta)


def _inside(function: Function, theta: Floats) -> Floats:
    """Theta, or the point of the box next to it."""
    return theta if isinstance(function, Block) else function.inside(theta)


def _at_bounds(function: Function, theta: Floats) -> Bools:
    """Which parameters are at a bound of the box; a block has none."""
    if isinstance(function, Block):
        return np.zeros(len(theta), dtype=np.bool_)
    return np.asarray((theta <= function.lower) | (theta >= function.upper))


def _sizes(function: Function, theta: Floats) -> Floats:
    """Factors on theta that give its balanced columns."""
    even = balanced(function, theta) if isinstance(function, Block) else None
    return np.ones(len(theta)) if even is None else even.sizes


def _reach(function: Function, theta: Floats, direction: Floats) -> float:
    """The step along a direction that is as long as one and theta together, in balanced columns."""
    sizes = _sizes(function, theta)
    length = float(np.linalg.norm(direction * sizes))
    return (1.0 + float(np.linalg.norm(theta * sizes))) / (length or 1.0)


def _longest_fall(path: _Path, theta: Floats, direction: Floats) -> Floats:
    """The step along a direction up to where, in steps that double, the loss falls no more."""
    function, step = path.function, np.zeros_like(direction)
    found = function.loss(theta)
    length = TINY_STEP * _reach(function, theta, direction)
    while np.isfinite(length):
        moved = _inside(function, theta + length * direction)
        loss = function.loss(moved)
        here, there = (path.problem.reduce(point) for point in (theta + step, moved))
        if not (loss < found and way_down(path.problem, here, there, path.slack)[0] >= 1.0):
            break
        found, step = loss, moved - theta
        length *= 2.0
    return step


def _shown_way(function: Function, certificate: Certificate, theta: Floats) -> Floats | None:
    """A direction along which the loss falls at theta, found with its certificate."""
    if certificate.claim == "undecided":
        point = _point_at(function, theta)
        direction = None if point.independent or not point.is_stationary else examine(point)[1]
        if direction is None:
            return None
        return _inward(function, theta, direction / point.block.sizes)
    return certificate.direction if np.array_equal(certificate.theta, theta) else None


def _way_out(function: Function, theta: Floats) -> tuple[Floats, float] | None:
    """A direction out of a point where more kinks meet than the edges of a basis show, and its rate.

    The rate is per unit of length in balanced columns.
    """
    point = _point_at(function, theta)
    way = None if point.independent or not point.is_stationary else way_out(point)
    if way is None:
        return None
    return _inward(function, theta, way[0] / point.block.sizes), way[1]


def _inward(function: Function, theta: Floats, direction: Floats) -> Floats:
    """A direction without what leads out of the box."""
    return direction if isinstance(function, Block) else function.inward(theta, direction)


def _point_at(function: Function, theta: Floats) -> Point:
    """The point in balanced columns."""
    block = _around(function, theta)
    block = balanced(block, theta) or block
    return Point.at(block, theta * block.sizes)


def _aside(
    function: Function, theta: Floats, way: tuple[Floats, float] | None
) -> tuple[Floats, Certificate] | None:
    """A point of the same loss, aside along flat directions, if it is certified.

    Fewer kinks meet there, so its certificate is smaller.
    """
    moved = theta
    for turn in range(ASIDES if function.size <= ASIDE else 1):
        if way is None or way[1] < 0:
            return None
        moved = _halfway(function, moved, way[0])
        if not _is_no_higher(function, moved, theta):
            return None
        found = certify(function, moved) if turn else certified_end(function, moved)
        if found.claim in MINIMA:
            return moved, found
        way = _way_out(function, moved)
    return None


def _halfway(function: Function, theta: Floats, direction: Floats) -> Floats:
    """The point halfway to the next kink along a flat direction.

    A linear program's direction is put exactly along those active kinks that only its rounding moves.
    """
    point = _point_at(function, theta)
    block, way = point.block, direction * point.block.sizes
    lengths = np.linalg.norm(point.normals, axis=1)
    normals = point.normals / np.where(lengths > 0, lengths, 1.0)[:, None]
    still = normals[np.abs(normals @ way) <= TOLERANCES.interior * np.linalg.norm(way)]
    if len(still):
        way = way - np.linalg.lstsq(still, still @ way, rcond=TOLERANCES.independence)[0]
    reach = _reach(function, theta, way / block.sizes)
    pattern = block.pattern(point.theta + TINY_STEP * reach * way)
    rates = block.piecewise.rates(pattern, way)
    values = block.kinks(point.theta)
    ahead = np.where(pattern, rates < 0, rates > 0) & (np.abs(values) > point.bounds)
    times = -values[ahead] / rates[ahead]
    length = min(reach, float(times.min(initial=np.inf)) / 2)
    return _inside(function, theta + length * way / block.sizes)


@dataclass(slots=True)
class _Path:
    """The path so far.

    Attributes:
        function: What is lowered.
        problem: The problem.
        start: The start in the function's parameters.
        limit: Largest number of pivots, or None.
        progress: Told about batches.
        best: Reduced point where the path is.
        lowest: The lowest true loss so far; that of `best` but for the slack.
        status: Set when the descent ends before a vertex without a falling edge.
        first_vertex: Pivot of the first vertex, or -1.
        active: Kinks that are zero at the end.
        ray: The end where the output falls forever, or None.
        shifts: How often kinks were shifted.
        mark: Loss from which the next fall beyond the slack is measured.
        marked: Pivots at its last fall beyond the slack.
    """

    function: Function
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
    ray: Ray | None = None
    shifts: int = 0
    mark: float = field(init=False)
    marked: int = 0

    def __post_init__(self) -> None:
        self.best = self.problem.reduce(self.start)
        self.lowest = self.mark = self.problem.loss_at(self.best)
        self.losses = [self.lowest]
        self.points = [self.best]

    @property
    def fits(self) -> bool:
        """Whether the loss is tiny, and within the residuals' rounding errors of zero, its least value.

        An output has no least value known beforehand.
        """
        if not isinstance(self.function, Block):
            return False
        piecewise = self.problem.piecewise
        theta = self.problem.expand(self.best, self.start)
        bounds = piecewise.rounding_bounds(theta, TOLERANCES.rounding)[0]
        count = piecewise.num_samples
        error = float(bounds[piecewise.groups[-1].start :].sum()) / count
        size = max(self.losses[0], float(np.abs(piecewise.targets).sum()) / count)
        return self.function.loss(theta) <= min(error, FIT * size)

    @property
    def slack(self) -> float:
        """Rises of the loss that may be rounding."""
        return DRIFT * abs(self.lowest) + QUIET * abs(self.losses[0])

    @property
    def is_idle(self) -> bool:
        """Whether more pivots than are allowed have brought no progress."""
        return len(self.lengths) - self.marked > idle_limit(self.problem.size)

    @property
    def left(self) -> int:
        """Pivots that may still be taken in one batch."""
        return BATCH if self.limit is None else min(BATCH, self.limit - len(self.lengths))

    def add(
        self, theta: Floats, loss: float, lengths: Floats, losses: Floats, points: Floats
    ) -> None:
        """Take over a batch of pivots that ends at `theta` with this true loss.

        It is at most the lowest but for the slack: a batch on a plateau ends where it is, not at the
        point of it whose loss is an ulp lower, to which no straight way need lead.
        """
        self.best, self.lowest = theta.copy(), min(self.lowest, loss)
        kept = np.flatnonzero((len(self.lengths) + 1 + np.arange(len(lengths))) % self.stride == 0)
        self.points.extend(points[kept])
        self.lengths.extend(lengths.tolist())
        capped = np.append(self.losses[-1], np.maximum(losses, self.lowest))
        self.losses.extend(np.minimum.accumulate(capped)[1:].tolist())
        while len(self.points) * self.problem.size > PATH and len(self.points) > 2:
            self.points = self.points[::2]
            self.stride *= 2
        if self.lengths:
            self.losses[-1] = self.lowest
            if len(self.lengths) % self.stride == 0:
                self.points[-1] = self.best
        if self.lowest < self.mark - self.slack:
            self.mark, self.marked = self.lowest, len(self.lengths)
        if self.progress is not None:
            share = len(self.lengths) / self.limit if self.limit else UNKNOWN
            end = forecast_descent(self.losses, least=LEAST[self.quantity]).loss
            told = f"pivot {len(self.lengths)}, {self.quantity} {loss:.6g}, will end near {end:.4g}"
            try:
                self.progress(told, share)
            except Stop:
                self.limit = len(self.lengths)

    def stand(self, theta: Floats) -> None:
        """Note that the next batch begins at another point, to which a rebuild has led straight."""
        step = float(np.linalg.norm(theta - self.best))
        if step > TINY_STEP * (1.0 + float(np.linalg.norm(theta))):
            loss = self.problem.loss_at(theta)
            self.add(theta, loss, np.array([step]), np.array([loss]), theta[None])

    @property
    def quantity(self) -> str:
        """What the losses are."""
        return "loss" if isinstance(self.function, Block) else "output"

    def end(self) -> Floats:
        """The end so far, its active kinks put to zero."""
        if self.ray is not None:
            return self.ray.theta
        theta = self.problem.expand(self.best, self.start)
        return _polished(self, theta)

    def certified(self, end: Floats) -> Certificate:
        """What the end is."""
        return certified_end(self.function, end) if self.ray is None else self.ray.certificate

    @property
    def may_go_on(self) -> bool:
        """Whether the descent ended where pivots led no further, and not for another reason."""
        return self.status in (None, Status.stalled)

    def leave(self, end: Floats, direction: Floats | None) -> bool:
        """Go on from the end along a falling direction; whether the loss fell."""
        if direction is None or not self.may_go_on or not self.fall(end, direction):
            return False
        if self.status is Status.stalled:
            self.status = None
        return True

    def fall(self, theta: Floats, direction: Floats) -> bool:
        """Go on along a direction along which the loss falls; whether it did."""
        if isinstance(self.function, NetworkOutput):
            ray = falling_ray(self.function, theta, direction[None], self.lowest)
            if self.follow_ray(ray):
                return True
        return self._step(theta, _longest_fall(self, theta, direction))

    def follow_ray(self, ray: Ray | None) -> bool:
        """End on a ray along which the output falls forever, if there is one."""
        if ray is not None:
            theta = self.problem.expand(self.best, self.start)
            if self._step(theta, ray.theta - theta):
                self.ray, self.status = ray, Status.unbounded
        return self.ray is not None

    def _step(self, theta: Floats, step: Floats) -> bool:
        """Note a step if it lowers the loss; whether it does."""
        best = self.problem.reduce(theta + step)
        loss = self.problem.loss_at(best)
        if not loss < self.lowest:
            return False
        length = float(np.linalg.norm(step))
        self.add(best, loss, np.array([length]), np.array([loss]), best[None])
        return True

    def result(self, theta: Floats, certificate: Certificate) -> Descent:
        """The descent with its end."""
        status = self.status or _CLAIMS.get(certificate.claim, Status.undecided)
        if self.status is None and certificate.claim == "not_stationary":
            status = Status.stalled
        if self.status is Status.stalled and certificate.claim in MINIMA:
            status = _CLAIMS[certificate.claim]
        loss = self.function.loss(theta)
        found = Descent(
            theta=theta,
            loss=loss,
            losses=np.maximum(self.losses, loss),  # rounding errors are none of the path
            step_lengths=np.array(self.lengths),
            vertices=self.problem.expand(np.array(self.points), self.start),
            stride=self.stride,
            first_vertex=self.first_vertex,
            num_pivots=len(self.lengths),
            status=str(status),
            certificate=certificate,
            quantity=self.quantity,
        )
        told = causes_of(
            self.function, self.start, found, enough=self.problem.size, shifts=self.shifts
        )
        return replace(found, causes=told)


def _follow(problem: Problem, path: _Path, *, first: bool, rng: np.random.Generator) -> None:
    """Take batches of pivots until no edge falls, or nothing helps any more; see the module's bound."""
    shift, rounds, rebuilds = None, 0, 0
    if path.progress is not None and not run.signatures:
        path.progress("loading the kernel; its first use compiles it, for up to a minute", 0.0)
    state = problem.state(path.best, _NONE, None)
    while path.status is None:
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
        elif why == GOING and sound and (not path.is_idle or path.left <= 0):
            rebuilds = 0 if path.lowest < before - path.slack else rebuilds
            path.status = Status.max_pivots if path.left <= 0 else None
            continue
        else:
            rebuilds += 1
            path.status = Status.stalled if rebuilds > REBUILDS else None
        state = _rebuilt(problem, state, path, shift)


def idle_limit(size: int) -> int:
    """Pivots without progress, for this many parameters, after which batches count as rebuilds."""
    return IDLE * (size + BATCH)


_NONE = np.empty((0, 2), dtype=np.int64)


def _batch(
    problem: Problem, state: State, path: _Path, shift: Floats | None, *, first: bool
) -> tuple[int, Floats]:
    """Take some pivots and note them; return why they ended, and the switching values there afresh."""
    count = path.left
    lengths, losses = np.zeros(count), np.full(count, np.nan)
    points, before = np.empty((count, problem.size)), state.theta.copy()
    if shift is None:
        path.stand(before)
    scale = float(np.abs(state.pulls).sum(axis=1) @ np.linalg.norm(problem.features, axis=1))
    tolerances = (
        SLOPE * scale, PIVOT, 1e-14 * (1.0 + float(np.linalg.norm(state.theta))), DRIFT * scale, QUIET,
        PATIENCE,
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
    problem: Problem, path: _Path, lengths: Floats, losses: Floats, points: Floats
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


def _rebuilt(problem: Problem, state: State, path: _Path, shift: Floats | None) -> State:
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
