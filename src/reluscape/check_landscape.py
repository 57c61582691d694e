"""The checks of a certificate about all layers at once.

Gradients and curvatures are recomputed in forward mode (Jacobian-vector products), while the proof
used reverse mode; a claim that rests on one layer's block is checked as that block's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.func import jvp

from reluscape.arithmetic import Float64, Rational, eigenvalue_margin
from reluscape.certificate import MINIMA, Certificate, unpack_pattern
from reluscape.check_block import AGREEMENT, RejectedError, check_block, check_silent, require
from reluscape.errors import InputError
from reluscape.jets import exact_verdict
from reluscape.landscape import Landscape
from reluscape.point import Point
from reluscape.tolerances import TOLERANCES
from reluscape.whole import (
    all_layers_rest,
    gradient_error,
    gradient_of,
    is_differentiable,
    is_minimum_up_to_symmetry,
    is_stationary,
    output_is_constant,
    products_radius,
    stationary_radius,
)

Floats = NDArray[np.float64]


def check_landscape(
    certificate: Certificate, landscape: Landscape, numbers: Float64 | Rational
) -> None:
    """Recompute everything that a certificate states about all layers at once."""
    require(
        certificate.theta.shape == (landscape.size,),
        f"its point has {certificate.theta.size} parameters, the network {landscape.size}",
    )
    here = landscape.at(certificate.theta)
    if certificate.scope == "landscape_by_block":
        _check_evidence(certificate, here, numbers)
        return
    require(
        here.layers and certificate.layer == here.layers[0],
        f"the network's first readable layer is not {certificate.layer!r}",
    )
    _check_point(certificate, here)
    _check_unused(certificate)
    if certificate.claim == "undecided":
        check_silent(certificate)
        require(certificate.curvature is None, "it claims nothing, but gives a curvature")
        return
    require(
        is_differentiable(here) and certificate.active_kinks.size == 0,
        "a kink is active at its point, so gradient and Hessian do not decide",
    )
    if certificate.claim == "plateau":
        _check_plateau(certificate, here)
    elif isinstance(numbers, Rational):
        _check_exact(certificate, here, numbers)
    elif certificate.claim == "not_stationary":
        _check_slope(certificate, here)
    else:
        _check_vanishing(here)
        _check_second_order(certificate, here)


def _check_point(certificate: Certificate, here: Landscape) -> None:
    """What every certificate tells of its point, undecided ones too."""
    first = here.block(0)
    require(
        certificate.num_kinks == first.num_kinks,
        f"it counts {certificate.num_kinks} kinks, the network has {first.num_kinks}",
    )
    try:
        pattern = unpack_pattern(certificate.pattern, certificate.num_kinks)
    except InputError as error:
        raise RejectedError(str(error)) from error
    point = Point.at(first, first.theta)
    require(np.array_equal(pattern, point.pattern), "its pattern is not that of its point")
    same = np.array_equal(certificate.active_kinks, point.active)
    require(same, "its active kinks are not those of its point")
    norm = float(np.linalg.norm(gradient_of(here)))
    require(
        abs(certificate.gradient_norm - norm) <= AGREEMENT * norm + 4 * gradient_error(here),
        "its gradient norm is not the one computed",
    )
    require(
        certificate.rest_norm == certificate.gradient_norm, "its rest norm is not its gradient norm"
    )


def _check_vanishing(here: Landscape) -> None:
    """The gradient is zero to rounding, by forward mode where that is cheap."""
    small = here.size <= TOLERANCES.max_dense
    length = np.linalg.norm(_forward_gradient(here) if small else gradient_of(here))
    require(length <= 2 * gradient_error(here), "the gradient does not vanish at its point")


def _check_exact(certificate: Certificate, here: Landscape, numbers: Rational) -> None:
    """A claim decided once more in rational arithmetic and balls, along the stated direction."""
    if certificate.direction is not None:
        _check_direction(certificate)
    verdict = exact_verdict(here, numbers, certificate.direction)
    require(verdict.claim == certificate.claim, f"recomputed: {verdict.claim!r}")
    agree = abs(certificate.margin - verdict.margin) <= AGREEMENT * verdict.margin
    require(agree, "its margin is not the one computed")
    stated, found = certificate.curvature, verdict.curvature
    same = stated is found or (stated is not None and found is not None and _close(stated, found))
    require(same, "its curvature is not the one computed")
    require((certificate.direction is None) == (verdict.direction is None), "its direction is odd")
    close = verdict.radius / 4 <= certificate.radius <= 4 * verdict.radius
    require(close, "its radius is not the one computed")


def _check_direction(certificate: Certificate) -> None:
    """A unit vector over all parameters."""
    direction = certificate.direction
    require(
        direction is not None and direction.shape == certificate.theta.shape,
        "its direction has another length than its point",
    )
    assert direction is not None
    require(abs(np.linalg.norm(direction) - 1) <= AGREEMENT, "its direction is not of unit length")


def _close(stated: float, computed: float) -> bool:
    """Whether two eigenvalues agree to `AGREEMENT`, relative to one or to their size."""
    return abs(stated - computed) <= AGREEMENT * max(abs(computed), AGREEMENT)


def _check_unused(certificate: Certificate) -> None:
    """Fields that only a block's certificate uses are neutral."""
    used = [certificate.multipliers.any(), certificate.slopes.size, certificate.cells.size]
    used += [
        certificate.shares.size,
        len(certificate.sides),
        len(certificate.exact_theta),
        len(certificate.exact_multipliers),
    ]
    require(not any(used), "it fills fields that a claim about all layers does not use")
    minimum = certificate.claim in MINIMA
    require(minimum or certificate.radius == 0, "only minima come with a radius")


def _check_evidence(certificate: Certificate, here: Landscape, numbers: Float64 | Rational) -> None:
    """Check a claim that rests on one layer as that layer's claim."""
    require(
        certificate.layer in here.layers, f"the network has no readable layer {certificate.layer!r}"
    )
    require(
        certificate.claim in ("not_stationary", "saddle"), "one layer alone can only show a descent"
    )
    stationary = certificate.claim == "not_stationary" or all_layers_rest(here)
    require(stationary, "another layer, or a black box, may have a slope: no saddle is shown")
    require(
        certificate.direction is not None
        and certificate.direction.shape == certificate.theta.shape,
        "its direction has another length than its point",
    )
    positions = here.positions(certificate.layer)
    assert certificate.direction is not None
    require(
        not np.delete(certificate.direction, positions).any(),
        "its direction leaves the layer that it names",
    )
    part = replace(
        certificate,
        scope="block",
        theta=certificate.theta[positions],
        direction=certificate.direction[positions],
    )
    check_block(part, here, part.theta, numbers)


def _check_slope(certificate: Certificate, here: Landscape) -> None:
    """A descent along the stated unit direction, steep enough, by one Jacobian-vector product."""
    _check_direction(certificate)
    direction = certificate.direction
    assert direction is not None
    theta, objective = here.flat_objective()
    slope = float(jvp(objective, (theta,), (torch.from_numpy(direction).to(theta),))[1])
    require(slope < -gradient_error(here) / 2, "the loss does not fall along its direction")
    least = -slope * (1 - AGREEMENT) - 4 * gradient_error(here)
    require(
        max(0.0, least) <= certificate.margin <= -slope * (1 + AGREEMENT),
        "its margin is not the slope along its direction",
    )
    require(certificate.curvature is None, "a slope needs no curvature")


def _check_plateau(certificate: Certificate, here: Landscape) -> None:
    """A constant output."""
    require(output_is_constant(here), "no dead layer makes the output constant")
    bare = certificate.direction is None and certificate.curvature is None
    require(bare and certificate.margin == certificate.radius == 0, "a plateau has no numbers")


def _check_second_order(certificate: Certificate, here: Landscape) -> None:
    """Claims at a stationary point, by curvature, or by structure where there are too many parameters."""
    if certificate.curvature is None:
        require(
            certificate.claim == "local_minimum" and _by_products(certificate, here),
            "it gives no curvature, and no minimum is proved by convexity in products",
        )
        require(here.size > TOLERANCES.max_dense, "it leaves out the curvature")
        require(certificate.margin == 0, "it states an unproved margin")
        return
    require(here.size <= TOLERANCES.max_dense, "its Hessian is too large to examine")
    hessian = _hessian(here)
    values = np.linalg.eigvalsh(hessian)
    margin = eigenvalue_margin(values)
    require(
        abs(certificate.curvature - values[0]) <= AGREEMENT * abs(values[0]) + margin,
        "its curvature is not the one computed",
    )
    if certificate.claim == "saddle":
        require(is_stationary(here, hessian), "no exact stationary point is proved near its point")
        _check_saddle(certificate, hessian)
    else:
        _check_minimum(certificate, here, hessian, values)
    require(
        (certificate.direction is not None) == (certificate.claim == "saddle"),
        "only a saddle comes with a descent direction here",
    )


def _check_minimum(
    certificate: Certificate, here: Landscape, hessian: Floats, values: NDArray[np.floating[Any]]
) -> None:
    """A minimum by curvature, by convexity in products, or up to symmetry."""
    margin, radius = eigenvalue_margin(values), stationary_radius(here, hessian)
    known = {"strict_local_minimum", "local_minimum"}
    require(certificate.claim in known, f"second order does not give {certificate.claim!r}")
    require(values[0] >= -2 * margin, "the Hessian has a negative eigenvalue")
    proved = _is_near(radius, certificate.radius)
    if certificate.claim == "strict_local_minimum":
        require(proved, "no exact stationary point is proved within its radius")
        require(values[0] > margin / 2, f"the Hessian's smallest eigenvalue is {values[0]:.3g}")
        least = values[0] * (1 - AGREEMENT) - 4 * margin
        within = max(0.0, least) <= certificate.margin <= values[0] * (1 + AGREEMENT)
        require(within, "its margin is not the smallest eigenvalue")
        return
    require(certificate.margin == 0, "its margin is not zero, where some direction is flat")
    symmetric = proved and is_minimum_up_to_symmetry(here, values)
    explained = symmetric or _by_products(certificate, here)
    require(explained, "no exact minimum is proved within its radius, by symmetry or convexity")


def _by_products(certificate: Certificate, here: Landscape) -> bool:
    """Whether convexity in products proves a minimum within the stated radius."""
    return _is_near(products_radius(here), certificate.radius)


def _is_near(radius: float | None, stated: float) -> bool:
    """Whether a stated radius is the computed one, up to the order in which bounds are added."""
    return radius is not None and radius / 4 <= stated <= 4 * radius


def _check_saddle(certificate: Certificate, hessian: Floats) -> None:
    """Negative curvature along the stated unit direction."""
    _check_direction(certificate)
    direction = certificate.direction
    assert direction is not None
    bend = float(direction @ (hessian @ direction))
    least = -bend * (1 - AGREEMENT) - 4 * eigenvalue_margin(np.linalg.eigvalsh(hessian))
    require(
        bend < 0 and max(0.0, least) <= certificate.margin <= -bend * (1 + AGREEMENT),
        "the loss does not bend down along its direction by its margin",
    )


def _forward_gradient(landscape: Landscape) -> Floats:
    """Gradient by forward mode: one Jacobian-vector product per parameter, in batches."""
    theta, objective = landscape.flat_objective()
    eye = torch.eye(len(theta), dtype=theta.dtype, device=theta.device)
    slopes = torch.vmap(lambda row: jvp(objective, (theta,), (row,))[1], chunk_size=64)(eye)
    return np.asarray(slopes.cpu().numpy())


def _hessian(landscape: Landscape) -> Floats:
    """Hessian by forward over reverse mode."""
    theta, objective = landscape.flat_objective()
    eye = torch.eye(len(theta), dtype=theta.dtype, device=theta.device)

    def times(direction: torch.Tensor) -> torch.Tensor:
        column: torch.Tensor = jvp(torch.func.grad(objective), (theta,), (direction,))[1]
        return column

    return np.asarray(torch.stack([times(row) for row in eye]).cpu().numpy())
