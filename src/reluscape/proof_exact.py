"""Exact certificates of a block: the point re-solved from its active set, every sign decided.

The floats of network and data are taken as the exact rationals that they are. Starting from the
float64 picture of the point, its active kinks are put to exactly zero and, for a squared loss at a
numerically stationary point, the stationarity equations of the cell are solved exactly. The
cross-entropy is transcendental: its slopes are enclosed in balls of 256 bits, which decide
everything that is not exactly zero, and the point is one next to which an exact stationary point is
proved (`enclosure.py`).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.adjacent import common_descent, examine
from reluscape.arithmetic import Float64, Rational
from reluscape.certificate import MINIMA, Certificate, Claim, claim_of_slopes, sign
from reluscape.dependent import Cells, exact_cells, falls_in_all_patterns, margins
from reluscape.enclosure import refined
from reluscape.errors import InputError
from reluscape.integers import kinks_meet
from reluscape.local import Local
from reluscape.point import Point
from reluscape.proof import write
from reluscape.tolerances import TOLERANCES

Floats = NDArray[np.float64]
Array = NDArray[Any]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]

#: Largest number of exact multiplications behind one evaluation; about ten minutes.
MAX_OPERATIONS = 10**9
#: Exact pivots among kinks that are zero to rounding; each takes a second at 50 parameters.
PIVOTS = 20
#: Largest layer whose curvature is worth eliminating exactly.
MAX_PARAMS = 200


def certify_exact(point: Point, asked: Floats, numbers: Rational) -> Certificate:
    """Certify in rational arithmetic what float64 sees as `point`; `asked` is the user's own point."""
    _check_cost(point)
    with numbers.precision():
        local = _solve(point, numbers)
        if local is None:
            return _unsolved(point, asked, numbers)
        return _decided(point, asked, _refined(point, local), numbers)


def _decided(point: Point, asked: Floats, local: Local, numbers: Rational) -> Certificate:
    """Certificate of what the exact point is, the adjacent cells examined where LIKQ fails."""
    multipliers = _multipliers(local, numbers)
    cells, descent = None, None
    if _has_dependent_kinks(point, local):
        cells, descent = _proposed(point, local)
    claim, curvature, slopes = local.claim(multipliers, cells=cells)
    if claim == "undecided" and descent is not None:
        direction = descent[0]
        if falls_in_all_patterns(local, numbers.array(direction)):
            reason = "the loss falls along one direction in all patterns of dependent active kinks"
            return _descending(
                point, asked, local, multipliers, "not_stationary", reason, direction
            )
    if claim in ("not_stationary", "saddle"):
        at = _image(point, local, multipliers)
        floats = numbers.floats(slopes).reshape(-1, 2)
        if len(slopes) == 0:
            reason = "the exact gradient leaves the span of the active kinks"
            direction = numbers.unit(-local.rest(multipliers))
        else:
            reason = "the loss falls along an exact edge"
            direction = _steepest(at, slopes, floats, claim)
        return _descending(point, asked, local, multipliers, claim, reason, direction, floats)
    return _resting(point, asked, local, multipliers, (claim, curvature, slopes), cells)


def _has_dependent_kinks(point: Point, local: Local) -> bool:
    """Whether the float64 picture of the adjacent cells is that of the exact point, and needed."""
    same = np.array_equal(local.active, point.active)
    return same and not local.numbers.independent(local.normals)


def _proposed(point: Point, local: Local) -> tuple[Cells | None, tuple[Floats, float] | None]:
    """Weights that show a minimum where kinks are dependent, or a direction of descent."""
    leaves, _ = examine(point, exact=True)
    if leaves is not None:
        exact = exact_cells(local, Cells(leaves.sides, leaves.weights, leaves.relations))
        if exact is not None:
            return _rounded(exact, local), None
    few = len(point.active) <= TOLERANCES.max_active
    return None, common_descent(point) if few else None


def _rounded(cells: Cells, local: Local) -> Cells:
    """Exact weights and relations in float64."""
    floats, relations = local.numbers.floats, cells.relations
    rounded = None if relations is None else floats(relations)
    return Cells(cells.sides, floats(cells.weights), rounded)


def _unsolved(point: Point, asked: Floats, numbers: Rational) -> Certificate:
    """Certificate that claims nothing of the given point, whose active kinks have no exact zero."""
    landscape, layer = point.block.landscape, point.block.layer
    theta, none = numbers.array(point.theta), np.empty(0, dtype=np.intp)
    local = Local.at(landscape, layer, numbers, theta, point.pattern, none)
    changed = True
    while changed:  # a level of the network settles the next one
        pattern, active, changed = _exact_pattern(local)
        local = Local.at(landscape, layer, numbers, theta, pattern, active)
    multipliers = _multipliers(local, numbers)
    at = _image(point, local, multipliers)
    return write(
        at,
        "undecided",
        "no exact point with the active kinks that float64 sees lies next to the given one",
        _moved(at, asked),
        **_evidence(at, local, multipliers),
    )


def _refined(point: Point, local: Local) -> Local:
    """The exact point moved to its stationary point's first 200 bits, where that is no rational."""
    if local.block.loss != "cross_entropy" or not point.is_stationary:
        return local
    theta = refined(local.block, local.theta, local.bits, local.normals, local.gradient)
    if theta is None:
        return local
    pattern = local.block.vector_of(local.bits)
    there = Local.at(local.landscape, local.layer, local.numbers, theta, pattern, local.active)
    return local if there.contradiction() else there


def _solve(point: Point, numbers: Rational) -> Local | None:
    """Move to the exact point of the active set; follow the exact signs until they agree."""
    landscape, layer = point.block.landscape, point.block.layer
    theta, pattern, active = numbers.array(point.theta), point.pattern, point.active
    for _ in range(6):
        local = Local.at(landscape, layer, numbers, theta, pattern, active)
        values = local.values[local.block.place(active)]
        settled = not any(bool(value != 0) for value in values)
        nowhere = not settled and not numbers.independent(local.normals) and not _can_meet(point)
        if nowhere and point.is_stationary:
            return _resting_nearby(point, local, numbers)
        if settled or nowhere:
            pattern, active, changed = _exact_pattern(local)
            if not changed and not _wants_minimiser(point, local, numbers):
                return local
            if changed:
                continue
        step = _step(point, local, values, numbers)
        if step is None or not _is_short(point, step, numbers):
            return local if settled else None
        theta = theta + step
    return None


def _resting_nearby(point: Point, local: Local, numbers: Rational) -> Local | None:
    """An exact point beside dependent kinks that are zero to rounding, but nowhere so together.

    The given point stands for those next to it. As many of the kinks as are independent are put to
    exactly zero; where the loss falls along an edge from there that ends at another one, that takes the
    place of the one left. Beside a minimum this ends where no edge falls, elsewhere at one that leads
    beyond all kinks that are zero to rounding. None where no point next to the given one has these kinks
    at zero and a gradient in their span, or where an edge of a loss falls that is not affine.
    """
    near, affine = local.active, local.block.loss == "l1" and not local.block.weight_decay
    active = near[numbers.independent_rows(local.normals)]
    found: Local | None = local
    for _ in range(PIVOTS):
        found = _at_zero(point, found, active, numbers) if found is not None else None
        if found is None or not numbers.independent(found.normals):
            return found
        multipliers = _multipliers(found, numbers)
        claim, _, slopes = found.claim(multipliers)
        if claim not in ("not_stationary", "saddle"):
            return found
        if len(slopes) == 0 or not affine:
            return None
        leaving, side = divmod(int(np.argmin(slopes)), 2)
        edge = _next_along_edge(found, near, leaving, side, numbers)
        if edge is None:
            return found
        found, active = edge
    return None


def _at_zero(point: Point, local: Local, active: Indices, numbers: Rational) -> Local | None:
    """The point next to the given one where these kinks are exactly zero, with its exact signs."""
    given, theta = numbers.array(point.theta), local.theta
    pattern = local.block.vector_of(local.bits)
    pattern[active] = False
    for _ in range(6):
        local = Local.at(local.landscape, local.layer, numbers, theta, pattern, active)
        values = local.values[local.block.place(active)]
        if not any(bool(value != 0) for value in values):
            pattern, zero, changed = _exact_pattern(local)
            if not changed and not _wants_minimiser(point, local, numbers):
                return local
            if changed:
                active = zero if set(active.tolist()) <= set(zero.tolist()) else active
                continue
        step = _step(point, local, values, numbers)
        if step is None or not _is_short(point, theta + step - given, numbers):
            return None
        theta = theta + step
    return None


def _next_along_edge(
    local: Local, near: Indices, leaving: int, side: int, numbers: Rational
) -> tuple[Local, Indices] | None:
    """The first of some kinks on an edge, in the cell entered, and the kinks that are zero there.

    Args:
        local: A vertex with independent active kinks.
        near: The kinks; if the edge ends at none of them, None.
        leaving: Place of the active kink that the edge leaves.
        side: Into its negative (0) or positive (1) side.
        numbers: The arithmetic.
    """
    rows, pattern = local.normals, local.block.vector_of(local.bits)
    rates = numbers.array(np.where(np.arange(len(rows)) == leaving, 1.0 if side else -1.0, 0.0))
    if side:
        rates = rates - local.jumps_and_bends()[1][:, leaving]
        pattern[local.active[leaving]] = True
    square = rows.shape[0] == rows.shape[1]
    way = numbers.solve(rows, rates) if square else rows.T @ numbers.solve(rows @ rows.T, rates)
    entered = Local.at(local.landscape, local.layer, numbers, local.theta, pattern, near)
    values, rates = entered.values[local.block.place(near)], entered.normals @ way
    times = {
        kink: -value / rate
        for kink, value, rate in zip(near.tolist(), values, rates, strict=True)
        if kink not in local.active and value * rate < 0
    }
    if not times:
        return None
    first = min(times, key=lambda kink: times[kink])
    active = np.sort(np.append(np.delete(local.active, leaving), first))
    # its digits would multiply from pivot to pivot; the kinks are put to exactly zero again
    return replace(entered, theta=numbers.shortened(local.theta + times[first] * way)), active


def _can_meet(point: Point) -> bool:
    """Whether dependent kinks that are zero to rounding are so exactly at one point nearby."""
    rank = Float64().rank(point.normals)
    landscape, layer = point.block.landscape, point.block.layer
    return kinks_meet(landscape, layer, point.pattern, point.active, rank)


def _is_short(point: Point, step: Array, numbers: Rational) -> bool:
    """Whether an exact point that is a step away may be what the given one rounds."""
    reach = 2 * TOLERANCES.resolve * (1 + float(np.linalg.norm(point.theta)))
    return math.hypot(*numbers.floats(step)) <= reach


def _exact_pattern(local: Local) -> tuple[Bools, Indices, bool]:
    """Pattern and active kinks by the exact values, and whether they differ from the assumed ones."""
    bits = np.asarray(local.values > 0, dtype=np.bool_)
    zero = np.asarray(local.values == 0, dtype=np.bool_)
    samples, switches = local.block.place(local.active)
    listed = np.zeros(bits.shape, dtype=np.bool_)
    listed[samples, switches] = True
    every = local.block.numbers_of(np.argwhere(zero))
    widest = Local.at(
        local.landscape,
        local.layer,
        local.numbers,
        local.theta,
        local.block.vector_of(bits),
        every,
    )
    samples, switches = local.block.place(every)
    voids = {sample: widest.voids(sample) for sample in set(samples.tolist())}
    keep = [w not in voids[s] for s, w in zip(samples.tolist(), switches.tolist(), strict=True)]
    active = every[np.array(keep, dtype=np.bool_)]
    changed = bool((bits != local.bits)[~zero].any()) or not np.array_equal(active, local.active)
    return local.block.vector_of(bits), active, changed


def _wants_minimiser(point: Point, local: Local, numbers: Rational) -> bool:
    """Whether the stationarity equations remain to be solved exactly at this point."""
    quadratic = local.block.loss in ("squared", "half_squared") or (
        local.block.loss == "l1" and local.block.weight_decay > 0
    )
    if not quadratic or not point.is_stationary:
        return False
    return any(bool(entry != 0) for entry in local.rest(_multipliers(local, numbers)))


def _step(point: Point, local: Local, values: Array, numbers: Rational) -> Array | None:
    """Exact step to the active set and, at a numerically stationary point, to the cell's minimiser."""
    count, size = local.normals.shape
    try:
        if not _wants_minimiser(point, local, numbers):
            kept = numbers.independent_rows(local.normals)
            rows = local.normals[kept]
            return rows.T @ numbers.solve(rows @ rows.T, -values[kept])
        system = numbers.array(np.zeros((size + count, size + count)))
        system[:size, :size] = local.block.hessian(
            local.theta, local.bits, numbers.array(np.eye(size))
        )
        system[:size, size:], system[size:, :size] = local.normals.T, local.normals
        return numbers.solve(system, np.concatenate([-local.gradient, -values]))[:size]
    except InputError:
        return None


def _multipliers(local: Local, numbers: Rational) -> Array:
    """Exact multipliers, least squares where the gradient leaves the span."""
    return numbers.multipliers(local.normals, local.gradient)


def _descending(
    point: Point,
    asked: Floats,
    local: Local,
    multipliers: Array,
    claim: Claim,
    reason: str,
    direction: Floats,
    slopes: Floats | None = None,
) -> Certificate:
    """Certificate of an exact claim with a direction along which the loss falls."""
    numbers = local.numbers
    slope = local.directional_derivative(numbers.array(direction))
    at = _image(point, local, multipliers)
    if not slope < 0:
        return write(
            at,
            "undecided",
            "the loss falls along an exact direction, but along none that float64 can write down",
            _moved(at, asked),
            **_evidence(at, local, multipliers),
        )
    margin = -float(numbers.floats(np.array([slope], dtype=object))[0])
    return write(
        at,
        claim,
        reason,
        _moved(at, asked),
        margin=margin,
        direction=direction,
        slopes=slopes,
        **_evidence(at, local, multipliers),
    )


def _resting(
    point: Point,
    asked: Floats,
    local: Local,
    multipliers: Array,
    found: tuple[Claim, float, Array],
    cells: Cells | None,
) -> Certificate:
    """Certificate of an exact claim without a direction."""
    numbers = local.numbers
    claim, curvature, slopes = found
    floats = numbers.floats(slopes).reshape(-1, 2)
    if claim not in MINIMA or numbers.independent(local.normals):
        cells = None
    margin, radius = 0.0, 0.0
    if claim in MINIMA:
        radius = local.stationary_radius(multipliers) or 0.0
        exact = None if cells is None else exact_cells(local, cells)
        left = None
        if exact is not None:
            left = margins(local, exact)
        least = [*floats.ravel(), *(() if left is None else numbers.floats(left))]
        if claim == "strict_local_minimum" and np.isfinite(curvature):
            least.append(curvature)
        margin = max(0.0, float(min(least, default=0.0)))
    at = _image(point, local, multipliers)
    return write(
        at,
        claim,
        _why(local, claim, radius),
        _moved(at, asked),
        margin=margin,
        slopes=floats,
        cells=cells,
        curvature=curvature,
        radius=radius,
        **_evidence(at, local, multipliers),
    )


def _image(point: Point, local: Local, multipliers: Array) -> Point:
    """The exact point in float64."""
    numbers = local.numbers
    return replace(
        point,
        theta=numbers.floats(local.theta),
        pattern=local.block.vector_of(local.bits),
        active=local.active,
        normals=numbers.floats(local.normals),
        gradient=numbers.floats(local.gradient),
        multipliers=numbers.floats(multipliers),
        rest=numbers.floats(local.rest(multipliers)),
    )


def _moved(at: Point, asked: Floats) -> float:
    """Distance from the point asked about, in the landscape's own columns."""
    return float(np.linalg.norm((at.theta - asked) / at.block.sizes))


def _evidence(at: Point, local: Local, multipliers: Array) -> dict[str, Any]:
    """Fields that every exact certificate has."""
    numbers = local.numbers
    assert isinstance(numbers, Rational)
    return {
        "arithmetic": "rational",
        "tier": "exact",
        "exact_theta": numbers.texts(local.theta / numbers.array(at.block.sizes)),
        "exact_multipliers": numbers.texts(multipliers),
    }


def _steepest(at: Point, slopes: Array, floats: Floats, claim: Claim) -> Floats:
    """Unit direction of the steepest falling edge that shows the claim."""
    edges, directions = [], at.edges()
    for k, pair in enumerate(slopes):
        signs = [sign(value, 0) for value in pair]
        if claim_of_slopes([(signs[0], signs[1])], strict=False, constant=False) != claim:
            continue
        for column, side in enumerate((-1, 1)):
            if signs[column] == -1:
                direction = directions[column][k]
                edges.append(
                    (floats[k, column] * abs(float(at.normals[k] @ direction)), k, side, direction)
                )
    steepest: Floats = min(edges, key=lambda edge: edge[0])[3]
    return steepest


def _why(local: Local, claim: Claim, radius: float) -> str:
    """One sentence for a claim without a descent direction."""
    dependent = (
        f"the normals of the {len(local.active)} active kinks are exactly dependent (LIKQ fails)"
    )
    if claim == "undecided" and not local.numbers.independent(local.normals):
        return dependent
    if claim == "undecided":
        return "a ball of the cross-entropy's slopes holds zero, which more digits cannot decide"
    if claim == "plateau":
        return "the loss does not depend on the layer's weights around the point"
    if not local.numbers.independent(local.normals):
        return f"{dependent}, but the loss falls in no direction"
    how = (
        f"an exact stationary point is proved within {radius:.1e}, no slope there is negative"
        if radius
        else "solved and checked exactly: rest zero, no slope negative"
    )
    return how + (", all decided strictly" if claim == "strict_local_minimum" else "")


def _check_cost(point: Point) -> None:
    """Refuse what exact arithmetic cannot do in reasonable time."""
    piecewise = point.block.piecewise
    units = [group.units for group in piecewise.groups] or [1]
    work = piecewise.num_samples * (
        piecewise.num_params
        + piecewise.width * sum(a * b for a, b in zip(units, [*units[1:], 1], strict=True))
    )
    work += (
        0
        if point.block.landscape.loss_name == "l1"
        else piecewise.num_samples * piecewise.num_params**2
    )
    layer = point.block.layer
    if point.block.size > MAX_PARAMS:
        raise InputError(
            f"rational arithmetic is for layers of up to {MAX_PARAMS} parameters; layer {layer!r}"
            f" has {point.block.size}: use arithmetic='float64'"
        )
    if work > MAX_OPERATIONS:
        raise InputError(
            f"rational arithmetic is for up to {MAX_OPERATIONS:.0e} operations; layer {layer!r}"
            f" needs {work:.1e}: use arithmetic='float64', or fewer samples"
        )
