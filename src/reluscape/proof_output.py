"""Certificates of a network's output over a box: a layer's, with directions kept inside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reluscape.block import Block
from reluscape.certificate import Certificate
from reluscape.network_output import NetworkOutput
from reluscape.point import Point
from reluscape.proof import write
from reluscape.tolerances import TOLERANCES

Floats = NDArray[np.float64]

#: Times that a point is moved to where its certificate re-solves it, and certified there.
ROUNDS = 3


def certify_output(
    function: NetworkOutput,
    theta: ArrayLike | None,
    certify_block: Callable[[Block, Floats], Certificate],
) -> Certificate:
    """Certificate of the output at a point of the box, whose floor follows from the certified point."""
    start = point = function.check(theta)
    for _ in range(ROUNDS):
        block = function.around(point)
        certificate = certify_block(block, point)
        found = certificate.theta
        if function.floor(function.inside(found)) == function.floor(point):
            break
        point = function.inside(found)
    moved = float(np.linalg.norm(found - start))
    if moved != certificate.moved:
        certificate = replace(certificate, moved=moved, digest="").signed()
    return _kept_inside(function, block, certificate)


def with_direction(
    certificate: Certificate, direction: Floats, fall: float, why: str
) -> Certificate:
    """The same certificate of not being stationary, on the evidence of another unit direction."""
    return replace(certificate, direction=direction, margin=fall, reason=why, digest="").signed()


def fall_along(block: Block, theta: Floats, direction: Floats) -> float:
    """A lower bound of the loss's fall per unit along a direction; negative where none is certain.

    Kinks at zero take the side of their rates, which are known up to their rounding errors.
    """
    piecewise = block.piecewise
    values = piecewise.forward(theta)[0]
    zero = np.abs(values) <= piecewise.rounding_bounds(theta, TOLERANCES.rounding)[0]
    unit = TOLERANCES.rounding * piecewise.depth_terms * float(np.finfo(np.float64).eps)
    rate = np.reshape(direction, (1, -1))
    error = np.zeros(rate.shape)
    for step, slope, group in zip(piecewise.maps, piecewise.slopes, piecewise.groups, strict=False):
        sizes = step.absolute()
        error = sizes.linear(error) + unit * sizes.linear(np.abs(rate))
        rate = step.linear(rate)
        here = slice(group.start, group.stop)
        on = np.where(zero[here], rate.ravel() > 0, values[here] > 0)
        rate, error = rate * np.where(on, 1.0, slope), error * max(1.0, abs(slope))
    last = piecewise.maps[-1]
    size = last.absolute().linear(error + unit * np.abs(rate))
    return float(-last.linear(rate)[0, 0] - size[0, 0])


def _kept_inside(function: NetworkOutput, block: Block, certificate: Certificate) -> Certificate:
    """The certificate with its direction's parts that lead out of the box left out.

    The penalised output falls along the direction, and no less along what is left of it, because behind
    a fence the penalty grows faster than the output can fall.
    """
    if certificate.direction is None:
        return certificate
    theta = certificate.theta
    inward = function.inward(theta, certificate.direction)
    length = float(np.linalg.norm(inward))
    if np.array_equal(inward, certificate.direction):
        return certificate
    direction = inward / length if length else inward
    fall = fall_along(block, theta, direction)
    if fall > 0:
        return with_direction(certificate, direction, fall, certificate.reason)
    reason = "the output falls along no direction of floats within the box for certain"
    moved = certificate.moved
    return write(Point.at(block, theta), "undecided", reason, moved)
