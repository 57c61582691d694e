"""`certify`: decide what a point of a block, or of the whole landscape, is, and write it down.

The float64 proof uses the fast arithmetic of `piecewise.py` and dense linear algebra; the rational
one re-solves the point exactly from its active set. Only where active kinks are dependent a solver
proposes multipliers (`adjacent.py`), which are then checked as products.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reluscape.adjacent import Leaves, by_fans, common_descent, examine
from reluscape.arithmetic import (
    Float64,
    Rational,
    arithmetic_called,
    eigenvalue_margin,
    meeting_point,
)
from reluscape.balanced import balanced
from reluscape.block import Block
from reluscape.certificate import (
    IN_FAN,
    MINIMA,
    Certificate,
    Claim,
    claim_of_slopes,
    hash_data,
    hash_network,
    pack_pattern,
    pack_shares,
    pack_sides,
    sign,
    strictly_curved,
)
from reluscape.check_block import RejectedError, check_block
from reluscape.errors import InputError
from reluscape.exactly import rest_is_zero
from reluscape.integers import kinks_meet, outputs_span_at_most
from reluscape.landscape import Landscape
from reluscape.nearby import distance_to_stationary, radius_of
from reluscape.network_output import NetworkOutput
from reluscape.point import Point, resolved
from reluscape.tolerances import TOLERANCES

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]
#: Numbers in the normals of kinks next to active ones that are looked at one by one, 160 MB.
MAX_NEAR = 2 * 10**7

Signs = list[tuple[int | None, int | None]]


def certify(
    block_or_landscape: Block | Landscape | NetworkOutput,
    theta: ArrayLike | None = None,
    *,
    arithmetic: str = "float64",
) -> Certificate:
    """Certify what `theta` is: a minimum (strict or not), a saddle, a plateau, or not stationary.

    At a point of a block where the normals a_k of the active kinks are independent (LIKQ), write the
    gradient of one adjacent cell as `g = sum mu_k a_k + rest`. The point is a local minimum of the
    block iff `rest = 0` and both slopes of every active kink are >= 0; deeper kinks of the same
    sample bend when a kink is crossed, and the slopes take that into account. For all layers at once
    the claim rests on gradient and Hessian at a differentiable point, or on a block that descends.

    A point that lies within `1e-8 (1 + ||theta||)` of the exact stationary point of its cell and
    active set is certified as that point (`moved` says how far away it is): numerically converged
    is not exactly stationary, but next to it.

    Minima of the L1 loss do not depend on the units of a layer's inputs: with columns of very
    different size they are shown, and by `verify` checked, in columns brought to about the same size
    by powers of two, an exact change; all that the certificate says is of the given columns.

    Args:
        block_or_landscape: What to certify: one layer, all others fixed, all layers at once, or a
            network's output over a box, which its claims call the loss.
        theta: The point, shape (size,); default: the model's own weights, or the middle of the box.
        arithmetic: "float64" (margins from rounding bounds; what falls inside is undecided) or
            "rational" (inputs taken as the exact rationals that the floats are, the point re-solved
            exactly from its active set, every sign exact; needs python-flint, and time).

    Returns:
        A certificate; `verify` checks it against the landscape without a solver.

    Cost:
        float64: O(samples) passes, O(k^2 params) for k active kinks, O(params^3) only where a
        Hessian must be examined. Rational: practical up to some 60 parameters and 1000 samples.

    Raises:
        InputError: theta of the wrong shape or outside the box, or rational arithmetic without
            python-flint.
        UnsupportedModelError: No part of the model is readable as affine and ReLU layers.

    Example:
        >>> import numpy as np
        >>> from torch import nn
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(layer.weight, 1.0)
        >>> landscape = Landscape(layer, np.array([[1.0], [2.0]]), np.array([1.0, 2.0]))
        >>> certify(landscape.block(0)).claim
        'strict_local_minimum'
    """
    numbers = arithmetic_called(arithmetic)
    if isinstance(block_or_landscape, Block):
        return _certify_block(block_or_landscape, block_or_landscape.check(theta), numbers)
    if isinstance(block_or_landscape, Landscape):
        from reluscape.proof_landscape import certify_landscape  # builds on block certificates

        return certify_landscape(block_or_landscape, theta, numbers)
    if isinstance(block_or_landscape, NetworkOutput):
        from reluscape.proof_output import certify_output  # builds on block certificates

        return certify_output(
            block_or_landscape, theta, lambda block, point: _certify_block(block, point, numbers)
        )
    raise InputError(
        "certify needs a Block, a Landscape or a NetworkOutput; received"
        f" {type(block_or_landscape).__name__}"
    )


def _certify_block(block: Block, theta: Floats, numbers: Float64 | Rational) -> Certificate:
    """Certificate of one block in either arithmetic; minima are looked for in balanced columns first."""
    even = balanced(block, theta)
    if even is not None:
        certificate = _certify_in_columns(even, theta * even.sizes, numbers)
        if certificate.claim in MINIMA:
            return certificate
    return _certify_in_columns(block, theta, numbers)


def _certify_in_columns(block: Block, theta: Floats, numbers: Float64 | Rational) -> Certificate:
    """Certificate of one block, every decision taken in its own columns."""
    point = Point.at(block, theta)
    point = resolved(point)
    moved = float(np.linalg.norm((point.theta - theta) / block.sizes))
    if isinstance(numbers, Rational):
        from reluscape.proof_exact import certify_exact  # needs the optional python-flint

        return certify_exact(point, theta, numbers)
    return _float64_certificate(point, moved)


# ---- the float64 certificate -------------------------------------------------------------------------


def _float64_certificate(point: Point, moved: float) -> Certificate:
    """Decide the claim at `point` in float64."""
    rest = float(np.linalg.norm(point.rest))
    if rest > point.rest_error:
        return _sloping(point, rest, moved)
    if not point.independent:
        return _dependent(point, moved)
    slopes, errors = point.slopes()
    signs: Signs = [
        (sign(low, e), sign(high, f)) for (low, high), (e, f) in zip(slopes, errors, strict=True)
    ]
    claim = claim_of_slopes(signs, strict=False, constant=False)
    if claim == "undecided":
        return _level(point, signs, slopes, moved)
    radius = 0.0 if claim == "not_stationary" else _stationary_radius(point)
    if radius is None:
        reason = (
            f"the gradient outside the active kinks, {rest:.3g} long, lies within its rounding"
            f" error of {point.rest_error:.1e}, but no exact stationary point is proved nearby"
        )
        return write(point, "undecided", reason, moved, slopes=slopes)
    if claim in ("not_stationary", "saddle"):
        return _descending(point, slopes, errors, signs, claim, moved)
    return _minimum(point, slopes, errors, signs, moved, radius)


def _sloping(point: Point, rest: float, moved: float) -> Certificate:
    """Certificate where the gradient leaves the span of the active kinks."""
    reason = (
        f"the gradient has a part of length {rest:.3g} outside the span of {len(point.active)}"
        f" active kinks (rounding error at most {point.rest_error:.1e})"
    )
    direction, fall = point.descent()
    if fall > 0:
        return write(point, "not_stationary", reason, moved, margin=fall, direction=direction)
    reason += (
        ", but along no direction of floats does the loss fall for certain: steep kinks are near"
    )
    return write(point, "undecided", reason, moved)


def _dependent(point: Point, moved: float) -> Certificate:
    """Certificate where LIKQ fails: by weights for all directions, or by one that falls."""
    failing = f"the normals of the {len(point.active)} active kinks are dependent (LIKQ fails)"
    radius = _stationary_radius(point)
    if radius is None:
        reason = f"{failing}, and no exact stationary point is proved nearby"
        return write(point, "undecided", reason, moved)
    leaves, _ = examine(point)
    if leaves is not None:
        return _resting(point, leaves, failing, moved, radius)
    few = len(point.active) <= TOLERANCES.max_active
    descent = common_descent(point) if few else None
    if descent is not None:
        reason = f"{failing}, and the loss falls along one direction in all adjacent patterns"
        direction, slope = descent
        return write(point, "not_stationary", reason, moved, margin=-slope, direction=direction)
    reason = f"{failing}, and neither a minimum nor a descent is shown"
    return write(point, "undecided", reason, moved)


def _level(point: Point, signs: Signs, slopes: Floats, moved: float) -> Certificate:
    """Certificate where float64 does not tell the signs of slopes: flat ones may be shown in fans."""
    radius = _stationary_radius(point)
    leaves = None if radius is None else by_fans(point)
    if leaves is None or radius is None:
        return write(point, "undecided", _why_undecided(signs), moved, slopes=slopes)
    return _resting(point, leaves, "some slopes are zero up to rounding", moved, radius)


def _resting(
    point: Point, leaves: Leaves, failing: str, moved: float, radius: float
) -> Certificate:
    """Certificate of a minimum by weights; `failing` is what slopes do not show it for."""
    strict, curvature = _is_strict_all_round(point) if leaves.strict else (False, float("nan"))
    parts = "" if len(leaves.sides) == 1 else f" (in {len(leaves.sides)} parts)"
    if leaves.relations is not None:
        parts = " (the concave ones paid for by the others)"
    fans = bool((leaves.sides == IN_FAN).any())
    if fans:
        parts = " (by the rays of each unit's cells)"
    how = "rises" if leaves.strict else "does not fall"
    found = write(
        point,
        "strict_local_minimum" if strict else "local_minimum",
        f"{failing}, but along all directions that move a kink{parts} the loss {how}",
        moved,
        margin=min(leaves.margin, curvature if strict else np.inf),
        cells=leaves,
        curvature=curvature,
        radius=radius,
    )
    if fans and not _holds(found, point):
        return write(point, "undecided", f"{failing}, and a ray is flat up to rounding", moved)
    return found


def _holds(certificate: Certificate, point: Point) -> bool:
    """Whether `verify` will say the same: it bounds errors along rays in another way."""
    try:
        check_block(certificate, point.block.landscape, certificate.theta, Float64())
    except RejectedError:
        return False
    return True


def _is_strict_all_round(point: Point) -> tuple[bool, float]:
    """Strictness where the loss rises in all directions that move a kink, and the curvature.

    Kinks that only rounding brings together leave a small cell between them, where the loss may be flat.
    """
    landscape, layer = point.block.landscape, point.block.layer
    rank = Float64().rank(point.normals)
    if not kinks_meet(landscape, layer, point.pattern, point.active, rank):
        return False, float("nan")
    if landscape.weight_decay > 0:
        return True, landscape.weight_decay
    if rank == point.block.size:
        return True, float("inf")
    if landscape.loss_name == "l1":
        return False, float("nan")
    return _definite(point, [0] * len(point.active))


def _stationary_radius(point: Point) -> float | None:
    """Radius within which an exact stationary point of the cell and active set is proved.

    It has the same pattern: no other kink can be zero where the active ones are exactly zero.
    Zero where the rest vanishes exactly: at a vertex, where nothing depends on theta, and for the
    piecewise-affine loss when exact sums say so.
    """
    piecewise, landscape = point.block.piecewise, point.block.landscape
    rank = Float64().rank(point.normals)
    free = point.block.size - rank
    if not _keeps_pattern(point):
        return None
    if free == 0:
        return 0.0
    if landscape.loss_name == "l1" and landscape.weight_decay == 0:
        zero = rest_is_zero(landscape, point.block.layer, point.pattern, point.active, rank)
        return 0.0 if zero else None
    distance = _distance_to_stationary(point, rank)
    at_zero = np.flatnonzero(np.abs(piecewise.forward(point.theta)[0]) <= point.bounds)
    return radius_of(
        distance,
        quadratic=landscape.loss_name != "cross_entropy",
        sway=piecewise.sway(point.pattern),
        clearance=piecewise.clearance(point.theta, point.pattern, at_zero)[0],
        scale=1.0 + float(np.linalg.norm(point.theta)),
    )


def _keeps_pattern(point: Point) -> bool:
    """Whether no other kink is zero, or of the other sign, where the active ones are exactly zero."""
    piecewise = point.block.piecewise
    values = piecewise.forward(point.theta)[0]
    active = values[point.active], point.bounds[point.active]
    distance, changes = meeting_point(point.normals, *active)
    near = (piecewise.distances(point.theta, point.pattern) <= distance) & (
        np.abs(values) > point.bounds
    )
    kinks = np.flatnonzero(near)
    if len(kinks) * point.block.size > MAX_NEAR:
        return False
    moves = 2.0 * changes(piecewise.normals(kinks, point.pattern))
    return bool((moves < np.abs(values[kinks]) - point.bounds[kinks]).all())


def _distance_to_stationary(point: Point, rank: int) -> float | None:
    """Distance to the exact minimiser of the cell's loss where all active kinks are zero, or None.

    Args:
        point: The point.
        rank: Rank of its normals.
    """
    piecewise, landscape = point.block.piecewise, point.block.landscape

    def flat_beyond(curved: int) -> bool:
        return landscape.weight_decay == 0 and outputs_span_at_most(
            landscape, point.block.layer, point.pattern, point.active, rank + curved
        )

    free = point.block.size - rank
    if landscape.weight_decay == 0 and not piecewise.output_jacobian(point.pattern).any():
        return 0.0 if flat_beyond(0) else None  # no Hessian to form, however many parameters
    if free > TOLERANCES.max_dense:
        return None
    scales = piecewise.scales(point.pattern)
    basis = Float64().complement(point.normals * scales)
    if basis.shape[1] != free:  # dependent in one measure of the parameters, not in the other
        return None
    return distance_to_stationary(
        piecewise.hessian(point.theta, point.pattern, scales[:, None] * basis),
        basis.T @ (scales * point.rest),
        np.abs(basis.T) @ (scales * point.rest_errors),
        scales,
        basis,
        flat_beyond,
    )


def _why_undecided(signs: Signs) -> str:
    """One sentence for slopes within float64's error of zero."""
    hidden = sum(None in pair for pair in signs)
    falling = (
        " (the loss falls along another edge, so the point is no minimum)"
        if any(-1 in pair for pair in signs)
        else ""
    )
    return (
        f"{hidden} kinks have a slope within float64's error of zero{falling}; rational arithmetic"
        " decides them"
    )


def _descending(
    point: Point, slopes: Floats, errors: Floats, signs: Signs, claim: Claim, moved: float
) -> Certificate:
    """Certificate for a stationary rest with a negative slope: steepest such edge as direction."""
    wanted = [
        k
        for k, pair in enumerate(signs)
        if ({-1, 1} == set(pair) if claim == "not_stationary" else -1 in pair)
    ]
    directions = point.edges()
    edges = []
    for k in wanted:
        for column, side in enumerate((-1, 1)):
            if signs[k][column] == -1:
                direction = directions[column][k]
                rate = abs(float(point.normals[k] @ direction))
                edges.append((rate * (slopes[k, column] + errors[k, column]), k, side, direction))
    slope, k, side, direction = min(edges, key=lambda edge: edge[0])
    slope += point.slack(direction, np.arange(len(signs)) != k)
    if slope >= 0:
        reason = "a falling edge is too close to steep kinks: its slope is lost in rounding"
        return write(point, "undecided", reason, moved, slopes=slopes)
    where = point.block.describe_kink(int(point.active[k]))
    reason = (
        f"the loss falls along the edge into the {'positive' if side > 0 else 'negative'} side of"
        f" the kink of {where}, slope {slope:.3g} per unit step"
    )
    return write(point, claim, reason, moved, margin=-slope, direction=direction, slopes=slopes)


def _minimum(
    point: Point, slopes: Floats, errors: Floats, signs: Signs, moved: float, radius: float
) -> Certificate:
    """Certificate for a point where no slope is negative."""
    landscape, piecewise = point.block.landscape, point.block.piecewise
    strict, curvature = False, float("nan")
    constant = landscape.weight_decay == 0 and _is_constant(
        point, signs, piecewise.output_jacobian(point.pattern)
    )
    if landscape.weight_decay > 0:
        strict, curvature = True, landscape.weight_decay
    elif landscape.loss_name == "l1":
        strict = len(point.active) == point.block.size and not any(0 in pair for pair in signs)
    elif not constant and point.block.size - len(point.active) <= TOLERANCES.max_dense:
        strict, curvature = strictly_curved(signs, lambda sides: _definite(point, sides))
    claim = claim_of_slopes(signs, strict=strict, constant=constant)
    margins = [*(slopes - errors).ravel()]
    if strict and np.isfinite(curvature):
        margins.append(curvature)
    margin = max(0.0, float(min(margins, default=0.0)))
    return write(
        point,
        claim,
        _why_minimum(point, claim, curvature),
        moved,
        margin=margin,
        slopes=slopes,
        curvature=curvature,
        radius=radius,
    )


def _is_constant(point: Point, signs: Signs, jacobian: Floats) -> bool:
    """Whether the loss is constant around a point without decay where no slope is negative."""
    if point.block.landscape.loss_name == "l1":
        return all(pair == (0, 0) for pair in signs)
    alive = jacobian.any(axis=(1, 2)) & (
        point.block.piecewise.features.any(axis=1) | point.block.piecewise.bias
    )
    return len(point.active) == 0 and not alive.any()


def _why_minimum(point: Point, claim: Claim, curvature: float) -> str:
    """One sentence for a minimum or plateau."""
    kinks = (
        f"all {2 * len(point.active)} slopes at {len(point.active)} active kinks are positive"
        if len(point.active)
        else "no kink is active"
    )
    if claim == "plateau":
        return "the loss does not depend on the layer's weights around the point"
    if claim == "strict_local_minimum":
        rest = (
            f", and the smallest curvature left is {curvature:.3g}"
            if np.isfinite(curvature)
            else ""
        )
        return f"the gradient vanishes outside the active kinks, {kinks}{rest}"
    if point.block.size - len(point.active) > TOLERANCES.max_dense:
        return (
            "the gradient vanishes outside the active kinks and no slope is negative; strictness"
            f" was not examined for {point.block.size} parameters"
        )
    return (
        "the gradient vanishes outside the active kinks and no slope is negative; some direction is"
        " flat"
    )


def _definite(point: Point, sides: Sequence[int]) -> tuple[bool, float]:
    """Whether the Hessian is positive definite in the cell and directions that `sides` names."""
    piecewise = point.block.piecewise
    choice = np.array(sides, dtype=np.intp)
    pattern = point.pattern.copy()
    pattern[point.active[choice == 1]] = True
    basis = Float64().complement(piecewise.normals(point.active[choice == 0], pattern))
    if basis.shape[1] == 0:
        return True, float("inf")
    values = np.linalg.eigvalsh(piecewise.hessian(point.theta, pattern, basis))
    return bool(values[0] > eigenvalue_margin(values)), float(values[0])


def write(point: Point, claim: Claim, reason: str, moved: float, **evidence: Any) -> Certificate:
    """Assemble a block's certificate, its point and norms in the landscape's own columns.

    Raises:
        InputError: Gradients or slopes that overflow.
    """
    landscape, sizes = point.block.landscape, point.block.sizes
    vectors = sizes * point.gradient, sizes * point.rest, point.multipliers
    gradient_norm, rest_norm, size = (float(np.linalg.norm(vector)) for vector in vectors)
    if not np.isfinite([gradient_norm, rest_norm, size]).all():
        raise InputError(
            f"the gradient of layer {point.block.layer!r} must be within float64's range; received"
            " numbers whose squares overflow: rescale the data (--standardise)"
        )
    curvature = evidence.get("curvature") if claim == "strict_local_minimum" else None
    slopes, cells = evidence.get("slopes"), evidence.get("cells")
    return Certificate(
        claim=claim,
        tier=evidence.get("tier", "certified"),
        margin=float(evidence.get("margin", 0.0)),
        direction=evidence.get("direction"),
        reason=reason,
        arithmetic=evidence.get("arithmetic", "float64"),
        scope="block",
        layer=point.block.layer,
        loss=landscape.loss_name,
        weight_decay=landscape.weight_decay,
        theta=point.theta / sizes,
        moved=moved,
        radius=float(evidence.get("radius", 0.0)),
        pattern=pack_pattern(point.pattern),
        num_kinks=point.block.num_kinks,
        active_kinks=point.active,
        multipliers=point.multipliers,
        slopes=np.empty((0, 2)) if slopes is None else slopes,
        cells=np.empty((0, len(point.active))) if cells is None else cells.weights,
        sides=() if cells is None else pack_sides(cells.sides),
        shares=pack_shares(None if cells is None else cells.relations),
        gradient_norm=gradient_norm,
        rest_norm=rest_norm,
        curvature=float(curvature) if curvature is not None and np.isfinite(curvature) else None,
        exact_theta=evidence.get("exact_theta", ()),
        exact_multipliers=evidence.get("exact_multipliers", ()),
        network_hash=hash_network(landscape),
        data_hash=hash_data(landscape),
    ).signed()
