"""Exact certificates of a block: the point re-solved from its active set, every sign decided.

The floats of network and data are taken as the exact rationals that they are. Starting from the
float64 picture of the point, its active kinks are put to exactly zero and, for a squared loss at a
numerically stationary point, the stationarity equations of the cell are solved exactly. The
cross-entropy is transcendental: its slopes are enclosed in balls of 256 bits, which decide
everything that is not exactly zero.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.arithmetic import Rational
from reluscape.certificate import Certificate, Claim, claim_of_slopes, sign
from reluscape.errors import InputError
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
#: Largest layer whose curvature is worth eliminating exactly.
MAX_PARAMS = 200


def certify_exact(point: Point, asked: Floats, numbers: Rational) -> Certificate:
    """Certify in rational arithmetic what float64 sees as `point`; `asked` is the user's own point."""
    _check_cost(point)
    with numbers.precision():
        local = _solve(point, numbers)
        if local is None:
            return write(
                point,
                "undecided",
                "no exact point with this active set lies next to the given one",
                0.0,
                **_evidence(point, None, numbers),
            )
        multipliers = _multipliers(local, numbers)
        claim, curvature, slopes = local.claim(multipliers)
        if claim == "not_stationary" and len(slopes) == 0 and _is_beside(point):
            claim = "undecided"  # the exact stationary point is next to this one, and not rational
        return _write(point, asked, local, multipliers, claim, curvature, slopes, numbers)


def _is_beside(point: Point) -> bool:
    """Whether a stationary point that is no rational one may lie next to the point."""
    return point.is_stationary and point.block.landscape.loss_name == "cross_entropy"


def _solve(point: Point, numbers: Rational) -> Local | None:
    """Move to the exact point of the active set; follow the exact signs until they agree."""
    landscape, layer = point.block.landscape, point.block.layer
    theta, pattern, active = numbers.array(point.theta), point.pattern, point.active
    for _ in range(6):
        local = Local.at(landscape, layer, numbers, theta, pattern, active)
        values = local.values[local.block.place(active)]
        settled = not any(bool(value != 0) for value in values)
        if settled or not numbers.independent(local.normals):
            pattern, active, changed = _exact_pattern(local)
            if not changed and not _wants_minimiser(point, local, numbers):
                return local
            if changed:
                continue
        step = _step(point, local, values, numbers)
        if step is None or float(np.linalg.norm(numbers.floats(step))) > 2 * TOLERANCES.resolve * (
            1 + float(np.linalg.norm(point.theta))
        ):
            return local if settled else None
        theta = theta + step
    return None


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
    keep = [
        not widest.is_void(int(s), int(w)) for s, w in zip(*local.block.place(every), strict=True)
    ]
    active = every[np.array(keep, dtype=np.bool_)]
    changed = bool((bits != local.bits)[~zero].any()) or not np.array_equal(active, local.active)
    return local.block.vector_of(bits), active, changed


def _wants_minimiser(point: Point, local: Local, numbers: Rational) -> bool:
    """Whether the stationarity equations remain to be solved exactly at this point."""
    quadratic = local.block.loss in ("squared", "half_squared") or (
        local.block.loss == "l1" and local.block.weight_decay > 0
    )
    if not quadratic or not point.is_stationary or not numbers.independent(local.normals):
        return False
    return any(bool(entry != 0) for entry in local.rest(_multipliers(local, numbers)))


def _step(point: Point, local: Local, values: Array, numbers: Rational) -> Array | None:
    """Exact step to the active set and, at a numerically stationary point, to the cell's minimiser."""
    count, size = local.normals.shape
    try:
        if not _wants_minimiser(point, local, numbers):
            return local.normals.T @ numbers.solve(local.normals @ local.normals.T, -values)
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


def _write(
    point: Point,
    asked: Floats,
    local: Local,
    multipliers: Array,
    claim: Claim,
    curvature: float,
    slopes: Array,
    numbers: Rational,
) -> Certificate:
    """Certificate of an exact claim."""
    rest = numbers.floats(local.rest(multipliers))
    evidence = _evidence(point, local, numbers, multipliers)
    floats = numbers.floats(slopes).reshape(-1, 2)
    at = evidence.pop("at")
    moved = float(np.linalg.norm(at.theta - asked))
    if claim in ("not_stationary", "saddle"):
        direction = (
            -rest / np.linalg.norm(rest)
            if len(slopes) == 0
            else _steepest(at, slopes, floats, claim)
        )
        slope = local.directional_derivative(numbers.array(direction))
        margin = -float(numbers.floats(np.array([slope], dtype=object))[0])
        reason = (
            "the exact gradient leaves the span of the active kinks"
            if len(slopes) == 0
            else "the loss falls along an exact edge"
        )
        return write(
            at, claim, reason, moved, margin=margin, direction=direction, slopes=floats, **evidence
        )
    margin = 0.0
    if claim == "strict_local_minimum":
        margin = max(
            0.0,
            min([*floats.ravel(), *([curvature] if np.isfinite(curvature) else [])], default=0.0),
        )
    return write(
        at,
        claim,
        _why(local, claim),
        moved,
        margin=margin,
        slopes=floats,
        curvature=curvature,
        **evidence,
    )


def _evidence(
    point: Point, local: Local | None, numbers: Rational, multipliers: Array | None = None
) -> dict[str, Any]:
    """Fields that every exact certificate has, and the float64 image of the exact point as `at`."""
    if local is None or multipliers is None:
        theta, mu = numbers.array(point.theta), numbers.array(point.multipliers)
        return {
            "arithmetic": "rational",
            "tier": "exact",
            "exact_theta": numbers.texts(theta),
            "exact_multipliers": numbers.texts(mu),
        }
    at = replace(
        point,
        theta=numbers.floats(local.theta),
        pattern=local.block.vector_of(local.bits),
        active=local.active,
        normals=numbers.floats(local.normals),
        gradient=numbers.floats(local.gradient),
        multipliers=numbers.floats(multipliers),
        rest=numbers.floats(local.rest(multipliers)),
    )
    texts = (numbers.texts(local.theta), numbers.texts(multipliers))
    return {
        "arithmetic": "rational",
        "tier": "exact",
        "exact_theta": texts[0],
        "exact_multipliers": texts[1],
        "at": at,
    }


def _steepest(at: Point, slopes: Array, floats: Floats, claim: Claim) -> Floats:
    """Unit direction of the steepest falling edge that shows the claim."""
    edges = []
    for k, pair in enumerate(slopes):
        signs = [sign(value, 0) for value in pair]
        if claim_of_slopes([(signs[0], signs[1])], strict=False, constant=False) != claim:
            continue
        for column, side in enumerate((-1, 1)):
            if signs[column] == -1:
                direction = at.edge(k, side)
                edges.append(
                    (floats[k, column] * abs(float(at.normals[k] @ direction)), k, side, direction)
                )
    steepest: Floats = min(edges, key=lambda edge: edge[0])[3]
    return steepest


def _why(local: Local, claim: Claim) -> str:
    """One sentence for a claim without a descent direction."""
    if claim == "undecided" and not local.numbers.independent(local.normals):
        return (
            f"the normals of the {len(local.active)} active kinks are exactly dependent (LIKQ"
            " fails)"
        )
    if claim == "undecided":
        return (
            "a ball of the cross-entropy's slopes holds zero: its stationarity is no rational"
            " equation"
        )
    if claim == "plateau":
        return "the loss does not depend on the layer's weights around the point"
    return "solved and checked exactly: rest zero, no slope negative" + (
        ", all decided strictly" if claim == "strict_local_minimum" else ""
    )


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
        if point.block.landscape.loss_name in ("l1", "cross_entropy")
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
