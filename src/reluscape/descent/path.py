"""A path of `descend`: its points and losses, how its end is tidied, and how it goes on from there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from reluscape.balanced import balanced
from reluscape.block import Block
from reluscape.certificate import MINIMA, Certificate
from reluscape.descent.causes import causes_of
from reluscape.descent.forecast import forecast_descent
from reluscape.descent.output import Ray, falling_ray
from reluscape.descent.problem import Problem
from reluscape.descent.result import LEAST, Descent, Status
from reluscape.descent.segment import way_down
from reluscape.further import certify_further
from reluscape.network_output import NetworkOutput
from reluscape.progress import UNKNOWN, Stop
from reluscape.proof import certify
from reluscape.tolerances import TOLERANCES

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]
Progress = Callable[[str, float], None]
Function = Block | NetworkOutput

#: Pivots between two refreshes of the switching values.
BATCH = 128
#: Relative error of a predicted slope, of a switching value or of the loss that calls for new edges.
DRIFT = 1e-9
#: Rates below this share of their bound are rounding; so are rises of the loss.
QUIET = 1e-12
#: Parameters below these shares of the largest, or of one, are tried at zero.
SNAPS = (1e-9, 1e-12, 0.0)
#: Share of the first loss, or of the targets, above which a loss is no rounding error of zero.
FIT = 1e-10
#: Pivots without progress, for each parameter and each pivot of a batch: a plateau takes one for each
#: parameter, a shift at ties some more.
IDLE = 20
#: Step, relative to the point, after which kinks that were zero have their sides.
TINY_STEP = 1e-9
#: Numbers kept of the path, 64 MB.
PATH = 8 * 10**6

#: Ends with a name.
CLAIMS = {
    "strict_local_minimum": Status.strict_minimum,
    "local_minimum": Status.minimum,
    "plateau": Status.plateau,
    "saddle": Status.saddle,
}


@dataclass(slots=True)
class Path:
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
        given_up: Pivots taken to ends that were given up.
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
    given_up: int = 0

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
        piecewise = self.function.piecewise
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
        if self.limit is None:
            return BATCH
        return max(0, min(BATCH, self.limit - len(self.lengths)))

    @property
    def size(self) -> float:
        """Length of the start or of the point, whichever is larger; one at zero."""
        return max(float(np.linalg.norm(one)) for one in (self.points[0], self.best)) or 1.0

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
            end = forecast_descent(self.losses, least=LEAST[self.quantity]).loss
            self.tell(
                f"pivot {len(self.lengths)}, {self.quantity} {loss:.6g}, will end near {end:.4g}"
            )

    def tell(self, told: str) -> None:
        """Tell what is being done, and end the path here if that is asked for."""
        if self.progress is None:
            return
        whole = self.given_up + (self.limit or 0)
        try:
            share = (self.given_up + len(self.lengths)) / whole if self.limit else UNKNOWN
            self.progress(told, share)
        except Stop:
            self.limit = len(self.lengths)

    def stand(self, theta: Floats) -> None:
        """Note that the next batch begins at another point, to which a rebuild has led straight."""
        step = float(np.linalg.norm(theta - self.best))
        if step > TINY_STEP * self.size and self.left:
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
        return polished(self, theta)

    def certified(self, end: Floats) -> Certificate:
        """What the end is; that of a branch, of which there are several, in float64."""
        if self.ray is not None:
            return self.ray.certificate
        return (certify if self.given_up else certify_further)(self.function, end)

    @property
    def may_go_on(self) -> bool:
        """Whether the descent ended where pivots led no further, and not for another reason."""
        return self.status in (None, Status.stalled)

    def leave(self, end: Floats, direction: Floats | None) -> bool:
        """Go on from the end along a falling direction; whether the loss fell."""
        if direction is None or not self.may_go_on:
            return False
        if not self.left:
            self.status = Status.max_pivots
        if not self.left or not self.fall(end, direction):
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
        if ray is not None and self.left:
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

    def branch(self, loss: float) -> Path:
        """A path that begins as this one does, as far as its points' losses are not below a value."""
        kept = len(self.points) - 1
        while kept and self.losses[kept * self.stride] < loss:
            kept -= 1
        pivots = kept * self.stride
        branch = Path(self.function, self.problem, self.start, self.limit, self.progress)
        branch.points, branch.stride = self.points[: kept + 1], self.stride
        branch.losses, branch.lengths = self.losses[: pivots + 1], self.lengths[:pivots]
        branch.best, branch.lowest = branch.points[-1], branch.losses[-1]
        branch.mark, branch.marked = branch.lowest, pivots
        branch.first_vertex = self.first_vertex if self.first_vertex < pivots else -1
        branch.shifts, branch.given_up = self.shifts, self.given_up + len(self.lengths) - pivots
        if self.limit is not None:
            branch.limit = max(pivots, self.limit - branch.given_up)
        return branch

    def result(self, theta: Floats, certificate: Certificate) -> Descent:
        """The descent with its end."""
        status = self.status or CLAIMS.get(certificate.claim, Status.undecided)
        if self.status is None and certificate.claim == "not_stationary":
            status = Status.stalled
        if self.status is Status.stalled and certificate.claim in MINIMA:
            status = CLAIMS[certificate.claim]
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
            self.function,
            self.start,
            found,
            enough=self.problem.size,
            shifts=self.shifts,
            given_up=self.given_up,
        )
        return replace(found, causes=told)


def idle_limit(size: int) -> int:
    """Pivots without progress, for this many parameters, after which batches count as rebuilds."""
    return IDLE * (size + BATCH)


def polished(path: Path, theta: Floats) -> Floats:
    """Theta with the active kinks, and parameters of rounding size, at zero, unless that raises the loss.

    Where inputs are zero or whole numbers, kinks meet at parameters that are exactly zero and nowhere
    near. An input at a bound of its box is already at its kink, and stays. If possible the loss is not
    above the start's, not even by rounding.
    """
    function, problem, found = path.function, path.problem, []
    settled = problem.settled(theta, path.active)
    for point in (settled, theta):  # kinks that a stalled descent left may not meet
        lengths = np.abs(point * sizes_of(function, point))
        size = max(1.0, float(lengths.max(initial=0.0)))
        free = ~_at_bounds(function, point)
        for share in SNAPS:
            moved = inside(function, np.where(free & (lengths <= share * size), 0.0, point))
            if is_no_higher(function, moved, theta):
                found.append(moved)
        if found:
            break
    most = function.loss(path.start)
    return next((moved for moved in found if function.loss(moved) <= most), [*found, theta][0])


def is_no_higher(function: Function, moved: Floats, theta: Floats) -> bool:
    """Whether the loss at one point is that at another or lower, up to rounding."""
    loss = function.loss(theta)
    return function.loss(moved) <= loss + QUIET * abs(loss)


def around(function: Function, theta: Floats) -> Block:
    """The block whose loss is the function around theta, up to a constant."""
    return function if isinstance(function, Block) else function.around(theta)


def inside(function: Function, theta: Floats) -> Floats:
    """Theta, or the point of the box next to it."""
    return theta if isinstance(function, Block) else function.inside(theta)


def _at_bounds(function: Function, theta: Floats) -> Bools:
    """Which parameters are at a bound of the box; a block has none."""
    if isinstance(function, Block):
        return np.zeros(len(theta), dtype=np.bool_)
    return np.asarray((theta <= function.lower) | (theta >= function.upper))


def sizes_of(function: Function, theta: Floats) -> Floats:
    """Factors on theta that give its balanced columns."""
    even = balanced(function, theta) if isinstance(function, Block) else None
    return np.ones(len(theta)) if even is None else even.sizes


def reach_of(function: Function, theta: Floats, direction: Floats) -> float:
    """The step along a direction that is as long as one and theta together, in balanced columns."""
    sizes = sizes_of(function, theta)
    length = float(np.linalg.norm(direction * sizes))
    return (1.0 + float(np.linalg.norm(theta * sizes))) / (length or 1.0)


def _longest_fall(path: Path, theta: Floats, direction: Floats) -> Floats:
    """The step along a direction up to where, in steps that double, the loss falls no more."""
    function, step = path.function, np.zeros_like(direction)
    found = function.loss(theta)
    length = TINY_STEP * reach_of(function, theta, direction)
    while np.isfinite(length):
        moved = inside(function, theta + length * direction)
        loss = function.loss(moved)
        here, there = (path.problem.reduce(point) for point in (theta + step, moved))
        if not (loss < found and way_down(path.problem, here, there, path.slack)[0] >= 1.0):
            break
        found, step = loss, moved - theta
        length *= 2.0
    return step
