"""Certificates of the whole landscape: all layers at once.

At a point where no kink is active the loss is smooth, and gradient and Hessian decide what they can.
Elsewhere, and for a network whose body is a black box, a single layer whose block descends shows that
the point is no minimum; the converse needs all layers and stays undecided.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reluscape.arithmetic import Float64, Rational, eigenvalue_margin
from reluscape.certificate import Certificate, Claim, hash_data, hash_network, pack_pattern
from reluscape.errors import UnsupportedModelError
from reluscape.jets import exact_verdict
from reluscape.landscape import Landscape
from reluscape.point import Point
from reluscape.proof import certify
from reluscape.tolerances import TOLERANCES
from reluscape.validation import check_theta
from reluscape.whole import (
    all_layers_rest,
    gradient_error,
    gradient_norm,
    gradient_of,
    is_differentiable,
    is_minimum_up_to_symmetry,
    is_stationary,
    output_is_constant,
    products_radius,
    stationary_radius,
)

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def certify_landscape(
    landscape: Landscape, theta: ArrayLike | None, numbers: Float64 | Rational
) -> Certificate:
    """Certificate for all parameters at `theta` (default: the model's own)."""
    here = landscape if theta is None else landscape.at(check_theta(theta, landscape.size))
    if here.reading is None:
        raise UnsupportedModelError(str(here.unreadable))
    if not is_differentiable(here):
        return _by_blocks(landscape, here, numbers)
    near = _resolved(here)
    moved = float(np.linalg.norm(near.theta - here.theta))
    if gradient_norm(near) > gradient_error(near):
        if numbers.exact:
            return _by_blocks(landscape, here, numbers)
        return _sloping(landscape, near)
    if isinstance(numbers, Rational):
        return _exact(landscape, near, moved, numbers)
    return _stationary(landscape, near, moved)


# ---- the certificates ------------------------------------------------------------------------------


def _resolved(landscape: Landscape) -> Landscape:
    """Move to the exact stationary point when Newton's method finds it within reach."""
    if landscape.size > TOLERANCES.max_dense:
        return landscape
    reach = TOLERANCES.resolve * (1.0 + float(np.linalg.norm(landscape.theta)))
    best, norm = landscape, gradient_norm(landscape)
    for _ in range(3):
        if norm <= gradient_error(best) or norm > reach * max(1.0, norm_bound(best)):
            break
        step = np.linalg.pinv(best.hessian(), rcond=1e-13, hermitian=True) @ gradient_of(best)
        if not np.linalg.norm(best.theta - step - landscape.theta) <= reach:
            break  # also where the step overflows
        moved = best.at(best.theta - step)
        if not is_differentiable(moved) or gradient_norm(moved) >= norm:
            break
        best, norm = moved, gradient_norm(moved)
    return best if norm <= gradient_error(best) else landscape


def norm_bound(landscape: Landscape) -> float:
    """An upper bound on the scale of the Hessian, from the blocks' traces."""
    total = landscape.weight_decay
    for name in landscape.layers:
        block = landscape.block(name)
        total += block.piecewise.hessian_trace(block.theta, block.pattern())
    return 10.0 * total + 1.0


def _exact(landscape: Landscape, here: Landscape, moved: float, numbers: Rational) -> Certificate:
    """Certificate in rational arithmetic at a point whose gradient is zero to rounding."""
    if output_is_constant(here):
        return _write(landscape, here, "plateau", _DEAD, moved=moved, arithmetic=numbers.name)
    with numbers.precision():
        verdict = exact_verdict(here, numbers)
    return _write(
        landscape,
        here,
        verdict.claim,
        verdict.reason,
        margin=verdict.margin,
        direction=verdict.direction,
        curvature=verdict.curvature,
        moved=moved,
        radius=verdict.radius,
        arithmetic=numbers.name,
    )


def _sloping(landscape: Landscape, here: Landscape) -> Certificate:
    """Certificate at a differentiable point with a nonzero gradient."""
    gradient, error = gradient_of(here), gradient_error(here)
    norm = float(np.linalg.norm(gradient))
    reason = (
        f"no kink is active and the gradient has length {norm:.3g} (rounding error at most"
        f" {error:.1e})"
    )
    return _write(
        landscape, here, "not_stationary", reason, margin=norm - error, direction=-gradient / norm
    )


def _stationary(landscape: Landscape, here: Landscape, moved: float) -> Certificate:
    """Certificate at a differentiable stationary point."""
    if output_is_constant(here):
        return _write(
            landscape,
            here,
            "plateau",
            _DEAD,
            moved=moved,
        )
    if here.size > TOLERANCES.max_dense:
        radius = products_radius(here)
        if radius is not None:
            return _write(landscape, here, "local_minimum", _CONVEX, moved=moved, radius=radius)
        return _write(
            landscape,
            here,
            "undecided",
            f"the gradient vanishes; the Hessian of {here.size} parameters is too large to examine",
            moved=moved,
        )
    hessian = here.hessian()
    values, vectors = np.linalg.eigh(hessian)
    margin, smallest = eigenvalue_margin(values), float(values[0])
    if smallest < -margin and not is_stationary(here, hessian):
        reason = (
            f"the gradient is zero to rounding and the Hessian has the negative eigenvalue"
            f" {smallest:.3g}, but no exact stationary point is proved nearby"
        )
        return _write(landscape, here, "undecided", reason, moved=moved)
    if smallest < -margin:
        return _write(
            landscape,
            here,
            "saddle",
            f"the gradient vanishes and the Hessian has the negative eigenvalue {smallest:.3g}",
            margin=-smallest - margin,
            direction=vectors[:, 0],
            curvature=smallest,
            moved=moved,
        )
    claim, reason, radius = _minimum(here, hessian, values)
    margin = smallest - margin if claim == "strict_local_minimum" else 0.0
    return _write(
        landscape,
        here,
        claim,
        reason,
        margin=margin,
        curvature=None if claim == "undecided" else smallest,
        moved=moved,
        radius=radius,
    )


def _minimum(here: Landscape, hessian: Floats, values: Floats) -> tuple[Claim, str, float]:
    """Claim, reason and radius at a stationary point without negative curvature."""
    smallest = float(values[0])
    radius = stationary_radius(here, hessian)
    if radius is not None and smallest > eigenvalue_margin(values):
        reason = f"the gradient vanishes and the Hessian's smallest eigenvalue is {smallest:.3g}"
        return "strict_local_minimum", reason, radius
    by_products = products_radius(here)
    if by_products is not None:
        return "local_minimum", _CONVEX, by_products
    if radius is not None and is_minimum_up_to_symmetry(here, values):
        reason = (
            "the gradient vanishes and the Hessian is positive on all but the directions along"
            " which symmetry or dead units leave the loss unchanged"
        )
        return "local_minimum", reason, radius
    reason = (
        f"the gradient is zero to rounding and the Hessian singular (smallest eigenvalue"
        f" {smallest:.1e}); second order does not decide, see the verdict of every block"
    )
    return "undecided", reason, 0.0


_DEAD = "a layer is dead on all samples and nothing behind it has a bias: the output is constant"

_CONVEX = (
    "one hidden layer, one output, all output weights nonzero: the loss is convex in the products"
    " of incoming and outgoing weights, and its gradient vanishes"
)


def _by_blocks(landscape: Landscape, here: Landscape, numbers: Float64 | Rational) -> Certificate:
    """Certificate on the evidence of the layer that shows most: not stationary, else a saddle."""
    found = [certify(here.block(name), arithmetic=numbers.name) for name in here.layers]
    for claim in ("not_stationary", "saddle"):
        descending = [c for c in found if c.claim == claim]
        # a saddle asserts that no other layer has a slope, which a black box may
        if descending and (claim == "not_stationary" or all_layers_rest(here)):
            return _lift(landscape, here, max(descending, key=lambda c: c.margin))
    why = (
        "the body of the network is a black box"
        if here.reading and here.reading.opaque
        else "some kink is active, or the point is stationary"
    )
    verdicts = ", ".join(f"{c.layer!r}: {c.claim}" for c in found)
    return _write(
        landscape,
        here,
        "undecided",
        f"{why}, and no single layer decides for all ({verdicts})",
        arithmetic=numbers.name,
    )


def _lift(landscape: Landscape, here: Landscape, certificate: Certificate) -> Certificate:
    """Restate a block's descent for all parameters."""
    block = here.block(certificate.layer)
    theta = here.theta
    theta[here.positions(certificate.layer)] = certificate.theta
    assert certificate.direction is not None
    return Certificate(
        **{
            **{name: getattr(certificate, name) for name in Certificate.__slots__},
            "scope": "landscape_by_block",
            "theta": theta,
            "direction": block.embed(certificate.direction),
            "reason": f"layer {certificate.layer!r} alone descends: {certificate.reason}",
            "network_hash": hash_network(landscape),
        }
    ).signed()


def _write(
    landscape: Landscape,
    here: Landscape,
    claim: Claim,
    reason: str,
    *,
    margin: float = 0.0,
    direction: Floats | None = None,
    curvature: float | None = None,
    moved: float = 0.0,
    radius: float = 0.0,
    arithmetic: str = "float64",
) -> Certificate:
    """Assemble a certificate of all layers at once."""
    first = here.block(0)
    point = Point.at(first, first.theta)
    norm = gradient_norm(here)
    return Certificate(
        claim=claim,
        tier="exact" if arithmetic == "rational" else "certified",
        margin=margin,
        direction=direction,
        reason=reason,
        arithmetic=arithmetic,
        scope="landscape",
        layer=first.layer,
        loss=here.loss_name,
        weight_decay=here.weight_decay,
        theta=here.theta,
        moved=moved,
        radius=radius,
        pattern=pack_pattern(point.pattern),
        num_kinks=first.num_kinks,
        active_kinks=point.active,
        multipliers=np.zeros(len(point.active)),
        slopes=np.empty((0, 2)),
        cells=np.empty((0, len(point.active))),
        sides=(),
        shares=np.empty((0, 3)),
        gradient_norm=norm,
        rest_norm=norm,
        curvature=curvature,
        exact_theta=(),
        exact_multipliers=(),
        network_hash=hash_network(landscape),
        data_hash=hash_data(landscape),
    ).signed()
