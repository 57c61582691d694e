"""`descend`: exact descent along edges to a certified local minimum.

Runs of pivots (`batches.py`) follow one another, at most `DETOURS + 1` without a fall by the share
`WORTHWHILE`, and each only after a fall: where a run's end is no minimum, another direction may lead out
of it. An end that is neither left nor certified is given up for one that a way from further back leads
to, if that is certified and not higher.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from reluscape.adjacent import examine, way_out
from reluscape.balanced import balanced
from reluscape.block import Block
from reluscape.certificate import MINIMA, Certificate
from reluscape.descent.batches import follow
from reluscape.descent.output import OutputProblem, descent_ways, falling_ray
from reluscape.descent.path import (
    CLAIMS,
    TINY_STEP,
    Function,
    Path,
    Progress,
    around,
    inside,
    is_no_higher,
    reach_of,
)
from reluscape.descent.problem import Problem
from reluscape.descent.result import Descent, Status
from reluscape.errors import InputError
from reluscape.network_output import NetworkOutput
from reluscape.point import Point
from reluscape.proof import certify
from reluscape.tolerances import TOLERANCES
from reluscape.validation import check_columns, check_sizes, check_told, check_whole

Floats = NDArray[np.float64]

RULES = ("long_step", "first_kink")

#: Points at which more kinks meet than edges lead out of, left along another direction, one after the
#: other without a fall of the loss by this share.
DETOURS, WORTHWHILE = 5, 0.01
#: Flat directions along which an end is moved aside, one after the other.
ASIDES = 10
#: Largest block that is moved aside more than once, or sent back.
ASIDE = 200
#: How far back, as shares of the loss that the descent removed.
BACK = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1)


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
    next vertex, until no edge falls (theory, section 2; Hinz, the Deep ReLU Simplex). An end of at most
    200 parameters that is neither shown to be a minimum nor left is given up for another that long steps
    from further back lead to, if that one is certified and not higher; `causes` says so.

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
        path = Path(function, _problem(function), start, max_pivots, progress)
        found = path, *_descended(path, first=rule == "first_kink", seed=seed)
        path, end, certificate = _from_further_back(*found, seed=seed)
        return path.result(end, certificate)


def _descended(path: Path, *, first: bool, seed: int) -> tuple[Floats, Certificate]:
    """Take the path to its end; that with its certificate."""
    function, problem, rng = path.function, path.problem, np.random.default_rng(seed)
    if isinstance(function, NetworkOutput) and function.is_affine:
        ways = descent_ways(function, path.start)
        path.follow_ray(falling_ray(function, path.start, ways, path.lowest))
    left, lowest = DETOURS, path.lowest
    while True:
        if problem.size and path.status is None:
            follow(problem, path, first=first, rng=rng)
        if path.lowest < (1.0 - WORTHWHILE) * lowest:
            left, lowest = DETOURS, path.lowest
        end = path.end()
        way = _way_out(function, end) if path.may_go_on else None
        left -= 1
        if left >= 0 and path.leave(end, way[0] if way is not None and way[1] < 0 else None):
            continue
        end, certificate = _aside(path, end, way) or (end, path.certified(end))
        if left < 0 or not path.leave(end, _shown_way(function, certificate, end)):
            return end, certificate


def _from_further_back(
    path: Path, end: Floats, certificate: Certificate, *, seed: int
) -> tuple[Path, Floats, Certificate]:
    """A path that branches off where the loss was higher, if its end is certified and this one is not.

    The branch takes long steps, so that it does not come by the same vertices, and its end is not higher.
    """
    removed, before = path.losses[0] - path.lowest, len(path.lengths)
    if path.function.size > ASIDE or removed <= 0 or certificate.claim in CLAIMS:
        return path, end, certificate
    for share in BACK if path.may_go_on else ():
        branch = path.branch(path.lowest + share * removed)
        if len(branch.lengths) == before:
            continue
        before = len(branch.lengths)
        found = _descended(branch, first=False, seed=seed)
        if found[1].claim in MINIMA and branch.lowest <= path.lowest:
            return branch, *found
        path.given_up = branch.given_up + len(branch.lengths) - len(path.lengths)
        if branch.status is Status.max_pivots:
            path.status = branch.status
            break
    return path, end, certificate


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
    block = around(function, theta)
    block = balanced(block, theta) or block
    return Point.at(block, theta * block.sizes)


def _aside(
    path: Path, theta: Floats, way: tuple[Floats, float] | None
) -> tuple[Floats, Certificate] | None:
    """A point of the same loss, aside along flat directions, if it is certified.

    Fewer kinks meet there, so its certificate is smaller.
    """
    function, moved = path.function, theta
    for turn in range(ASIDES if function.size <= ASIDE else 1):
        if way is None or way[1] < 0:
            return None
        moved = _halfway(function, moved, way[0])
        if not is_no_higher(function, moved, theta):
            return None
        found = certify(function, moved) if turn else path.certified(moved)
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
    reach = reach_of(function, theta, way / block.sizes)
    pattern = block.pattern(point.theta + TINY_STEP * reach * way)
    rates = block.piecewise.rates(pattern, way)
    values = block.kinks(point.theta)
    ahead = np.where(pattern, rates < 0, rates > 0) & (np.abs(values) > point.bounds)
    times = -values[ahead] / rates[ahead]
    length = min(reach, float(times.min(initial=np.inf)) / 2)
    return inside(function, theta + length * way / block.sizes)
