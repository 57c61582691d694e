"""Certificates of the whole landscape: all layers at once.

At a point where no kink is active the loss is smooth, and gradient and Hessian decide what they can.
Elsewhere, and for a network whose body is a black box, a single layer whose block descends shows that
the point is no minimum; the converse needs all layers and stays undecided.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reluscape.arithmetic import Float64, Rational, eigenvalue_margin
from reluscape.certificate import Certificate, Claim, hash_data, hash_network, pack_pattern
from reluscape.errors import UnsupportedModelError
from reluscape.jets import exact_verdict, is_exactly_stationary
from reluscape.landscape import Landscape
from reluscape.majorant import Majorant
from reluscape.network import Affine
from reluscape.point import Point
from reluscape.proof import certify
from reluscape.symmetry import flat_directions, is_plain
from reluscape.tolerances import TOLERANCES
from reluscape.validation import check_theta

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
    near = here if numbers.exact else _resolved(here)
    if gradient_norm(near) > gradient_error(near):
        if numbers.exact:
            return _by_blocks(landscape, here, numbers)
        return _sloping(landscape, near)
    if isinstance(numbers, Rational):
        return _exact(landscape, here, numbers)
    moved = float(np.linalg.norm(near.theta - here.theta))
    return _stationary(landscape, near, moved)


# ---- what prover and checker both ask of a point --------------------------------------------------


def is_differentiable(landscape: Landscape) -> bool:
    """Whether the whole network is readable and no kink is within rounding of zero."""
    reading = landscape.reading
    if reading is None or reading.opaque:
        return False
    first = landscape.block(0)
    values = first.kinks()
    bounds = first.piecewise.rounding_bounds(first.theta, TOLERANCES.rounding)[0]
    return bool((np.abs(values) > bounds).all())


def gradient_of(landscape: Landscape) -> Floats:
    """Gradient over all parameters: the blocks' own, autograd's for batch norm's parameters."""
    gradient = landscape.gradient()
    for name in landscape.layers:
        gradient[landscape.positions(name)] = landscape.block(name).gradient()
    return gradient


def gradient_norm(landscape: Landscape) -> float:
    """Length of the gradient over all parameters."""
    return float(np.linalg.norm(gradient_of(landscape)))


def all_layers_rest(landscape: Landscape) -> bool:
    """Whether every layer is readable and its gradient lies in the span of its active normals."""
    if landscape.reading is None or landscape.reading.opaque or not is_plain(landscape):
        return False
    blocks = [landscape.block(name) for name in landscape.layers]
    return all(Point.at(block, block.theta).is_stationary for block in blocks)


def gradient_errors(landscape: Landscape) -> Floats:
    """Bounds on the gradient's rounding errors: the blocks', and the largest one for batch norm."""
    errors = np.full(landscape.size, -1.0)
    for name in landscape.layers:
        block = landscape.block(name)
        errors[landscape.positions(name)] = block.piecewise.rounding_bounds(
            block.theta, TOLERANCES.rounding
        )[2]
    errors[errors < 0] = errors.max(initial=0.0)
    return errors


def gradient_error(landscape: Landscape) -> float:
    """Bound on the rounding error of the gradient's length."""
    return float(np.linalg.norm(gradient_errors(landscape)))


def stationary_radius(landscape: Landscape, hessian: Floats) -> float | None:
    """Radius within which an exact stationary point is proved, or None.

    Newton's method from the point converges to one within 2 eta (Kantorovich) when
    `L eta / m <= 1/2`: eta the Newton step's length, m the least curvature in absolute value, L the
    Lipschitz constant of the Hessian, and no kink in between. Flat directions must be explained by
    structure; the argument then holds across them.
    """
    if not is_plain(landscape):
        return None
    flat = 0
    if landscape.weight_decay == 0:
        flat = flat_directions(landscape, landscape.block(0).pattern()).shape[1]
    values, vectors = np.linalg.eigh(hessian)
    curved = np.abs(values) > eigenvalue_margin(values)
    if curved.sum() != len(values) - flat:
        return None
    if flat == len(values):
        return 0.0
    error = np.abs(vectors.T) @ gradient_errors(landscape)
    step = (np.abs(vectors.T @ gradient_of(landscape)) + error)[curved] / values[curved]
    radius = 2.0 * float(np.linalg.norm(step))
    bounds = Majorant.within(landscape, radius)
    least = float(np.abs(values[curved]).min()) - eigenvalue_margin(values)
    if bounds.hessian_lipschitz * radius > least:
        return None
    first = landscape.block(0)
    limits = first.piecewise.rounding_bounds(first.theta, TOLERANCES.rounding)[0]
    clear = np.abs(first.kinks()) - limits > bounds.kink_speed * radius
    return radius if clear.all() else None


def is_stationary(landscape: Landscape, hessian: Floats) -> bool:
    """Whether the gradient vanishes here (to the last bit) or at a proved point nearby."""
    return not gradient_of(landscape).any() or stationary_radius(landscape, hessian) is not None


def convex_in_products(landscape: Landscape) -> bool:
    """Whether the loss is convex in the products R_j = z_j w_j, and theta maps openly onto them.

    One hidden layer, one output, no weight decay, all output weights nonzero: then a differentiable
    stationary point is a minimum over its whole cell in R, hence a local minimum in theta.
    """
    if not is_plain(landscape) or landscape.weight_decay > 0 or landscape.reading is None:
        return False
    affine = landscape.reading.network.affine
    hidden = len(landscape.block(0).kink_groups) - (landscape.loss_name == "l1")
    return (
        len(affine) == 2
        and hidden == 1
        and len(affine[1].weight) == 1
        and bool((affine[1].weight != 0).all())
    )


def output_is_constant(landscape: Landscape) -> bool:
    """Whether a layer dead on all samples, with no bias behind it, makes the output constant nearby."""
    if not is_plain(landscape) or landscape.weight_decay > 0 or landscape.reading is None:
        return False
    pattern = landscape.block(0).pattern()
    groups = list(landscape.block(0).kink_groups)
    affine = [layer for layer in landscape.reading.network.layers if isinstance(layer, Affine)]
    for group in groups:
        behind = (
            affine[1 + [layer.name for layer in affine].index(group.label.removeprefix("layer ")) :]
            if group.label != "residual"
            else []
        )
        dead = not pattern[group.start : group.stop].any()
        if (
            group.label != "residual"
            and dead
            and _is_relu(landscape, groups.index(group))
            and all(layer.bias is None for layer in behind)
        ):
            return True
    return False


def _is_relu(landscape: Landscape, level: int) -> bool:
    """Whether the rectifier at `level` of the first block is a plain ReLU."""
    return landscape.block(0).piecewise.slopes[level] == 0.0


def is_minimum_up_to_symmetry(landscape: Landscape, eigenvalues: NDArray[np.floating[Any]]) -> bool:
    """Whether the Hessian is positive on all but the flat directions that structure explains.

    Then the critical points form a manifold through the point, the loss is constant along it and
    rises across it (Morse-Bott), so the point is a local minimum, not a strict one.
    """
    if not is_plain(landscape) or landscape.weight_decay > 0:
        return False
    flat = flat_directions(landscape, landscape.block(0).pattern()).shape[1]
    return bool((eigenvalues > eigenvalue_margin(eigenvalues)).sum() == len(eigenvalues) - flat)


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


def _exact(landscape: Landscape, here: Landscape, numbers: Rational) -> Certificate:
    """Certificate in rational arithmetic at a point whose gradient is zero to rounding."""
    if output_is_constant(here):
        return _write(landscape, here, "plateau", _DEAD, arithmetic=numbers.name)
    verdict = exact_verdict(here, numbers)
    claim, reason = verdict.claim, verdict.reason
    if claim == "undecided" and is_exactly_stationary(here, numbers) and convex_in_products(here):
        claim, reason = "local_minimum", _CONVEX
    return _write(
        landscape,
        here,
        claim,
        reason,
        margin=verdict.margin,
        direction=verdict.direction,
        curvature=verdict.curvature,
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
        if convex_in_products(here):
            return _write(landscape, here, "local_minimum", _CONVEX, moved=moved)
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
        curvature=smallest,
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
    if convex_in_products(here):
        return "local_minimum", _CONVEX, 0.0
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
        gradient_norm=norm,
        rest_norm=norm,
        curvature=curvature,
        exact_theta=(),
        exact_multipliers=(),
        network_hash=hash_network(landscape),
        data_hash=hash_data(landscape),
    ).signed()
