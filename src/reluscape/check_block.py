"""The checks of a block's certificate: everything that it states, recomputed.

The recomputation is that of `local.py`, from the raw network and data and the certificate's own point,
pattern and multipliers; a solver is never called.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.arithmetic import Float64, Rational
from reluscape.balanced import balanced
from reluscape.block import Block
from reluscape.certificate import (
    MINIMA,
    Certificate,
    unpack_pattern,
    unpack_shares,
    unpack_sides,
)
from reluscape.dependent import Cells, exact_cells, falls_in_all_patterns, margins
from reluscape.enclosure import NEGLIGIBLE
from reluscape.errors import InputError
from reluscape.landscape import Landscape
from reluscape.local import DOUBT, Local
from reluscape.tolerances import TOLERANCES

Floats = NDArray[np.float64]
Array = NDArray[Any]

#: Relative agreement asked of recomputed norms, margins and curvatures, which pass through
#: differently ordered sums and an eigensolver.
AGREEMENT = 1e-6

#: A ball that may hold zero has a midpoint of no meaning, this far off at most.
TINY = 2.0**-100

#: Factors on the rounding bounds under which a recomputed claim may agree: prover and checker sum in
#: different orders, so a number at the edge of its margin may fall on either side.
SCALES = (1.0, 0.5, 2.0)


class RejectedError(Exception):
    """A certificate does not hold; the message says why."""


def require(condition: object, reason: str) -> None:
    """Reject the certificate with `reason` unless the condition holds."""
    if not condition:
        raise RejectedError(reason)


def check_block(
    certificate: Certificate, landscape: Landscape, theta: Floats, numbers: Float64 | Rational
) -> None:
    """Recompute everything that a certificate states about its layer's block at `theta`."""
    require(
        certificate.layer in landscape.layers,
        f"the network has no readable layer {certificate.layer!r}",
    )
    block = landscape.block(certificate.layer)
    require(
        theta.shape == (block.size,),
        f"its point has {theta.size} parameters, the layer {block.size}",
    )
    require(
        certificate.num_kinks == block.num_kinks,
        f"it counts {certificate.num_kinks} kinks, the layer has {block.num_kinks}",
    )
    even = balanced(block, theta) if certificate.claim in MINIMA else None
    if even is not None:
        with suppress(RejectedError):  # a minimum in either columns is one
            return _check_in_columns(certificate, even, theta, numbers)
    _check_in_columns(certificate, block, theta, numbers)


def _check_in_columns(
    certificate: Certificate, block: Block, theta: Floats, numbers: Float64 | Rational
) -> None:
    """Recompute everything in the columns of a block; `theta` is in the landscape's."""
    local, multipliers = _picture(certificate, block, theta, numbers)
    contradiction = local.contradiction() if numbers.exact else local.contradiction(DOUBT)
    require(not contradiction, contradiction)
    _check_norms(certificate, local, multipliers, block.sizes)
    _check_split(local, multipliers)
    cells = _cells(certificate)
    dependent = not numbers.independent(local.normals)
    needed = certificate.claim in MINIMA and (dependent or "*" in "".join(certificate.sides))
    require(needed or cells is None, "it gives cells that its claim does not use")
    if certificate.claim == "undecided":
        check_silent(certificate)
        require(certificate.curvature is None, "it claims nothing")
        if certificate.slopes.size:
            require(numbers.exact or numbers.independent(local.normals), "it claims nothing")
            _check_slopes(certificate, local, multipliers, local.slopes(multipliers))
        return
    _check_radius(certificate, local, multipliers)
    _check_claim(certificate, local, multipliers)
    _check_direction(certificate, local, multipliers)


def check_silent(certificate: Certificate) -> None:
    """An undecided certificate states no evidence for any claim."""
    bare = certificate.direction is None and not certificate.sides
    bare = bare and not certificate.cells.size and not certificate.shares.size
    require(bare and certificate.margin == 0 and certificate.radius == 0, "it claims nothing")


def _picture(
    certificate: Certificate, block: Block, theta: Floats, numbers: Float64 | Rational
) -> tuple[Local, Array]:
    """The local picture at the certified point, and the multipliers, in the right arithmetic."""
    active = certificate.active_kinks
    inside = active.size == 0 or (active.min() >= 0 and active.max() < certificate.num_kinks)
    require(
        inside and (np.diff(active) > 0).all(), "its active kinks are not ascending kink numbers"
    )
    require(
        certificate.multipliers.shape == active.shape,
        "it does not give one multiplier per active kink",
    )
    try:
        pattern = unpack_pattern(certificate.pattern, certificate.num_kinks)
        if isinstance(numbers, Rational):
            point, multipliers = (
                numbers.parse(certificate.exact_theta),
                numbers.parse(certificate.exact_multipliers),
            )
            written = numbers.texts(point), numbers.texts(multipliers)
            require(
                written == (certificate.exact_theta, certificate.exact_multipliers),
                "its fractions are not written in lowest terms",
            )
            require(
                point.shape == theta.shape and np.array_equal(numbers.floats(point), theta),
                "its exact point is not its point",
            )
            require(
                multipliers.shape == active.shape,
                "it does not give one exact multiplier per active kink",
            )
            require(
                np.array_equal(numbers.floats(multipliers), certificate.multipliers),
                "its exact multipliers are not its multipliers",
            )
        else:
            require(
                not certificate.exact_theta and not certificate.exact_multipliers,
                "float64 certificates hold no exact numbers",
            )
            point, multipliers = theta, certificate.multipliers
    except InputError as error:
        raise RejectedError(str(error)) from error
    point = point * numbers.array(block.sizes)
    return Local.at(block.landscape, block.layer, numbers, point, pattern, active), multipliers


def _check_norms(certificate: Certificate, local: Local, multipliers: Array, sizes: Floats) -> None:
    """The lengths of the gradient and its rest in the landscape's own columns."""
    numbers = local.numbers
    lengths = [
        float(np.linalg.norm(sizes * numbers.floats(vector)))
        for vector in (local.gradient, local.rest(multipliers))
    ]
    noise = 0.0 if numbers.exact else 4.0 * local.rest_error(multipliers, sizes)
    require(
        _agree(certificate.gradient_norm, lengths[0], noise),
        "its gradient norm is not the one computed",
    )
    require(
        _agree(certificate.rest_norm, lengths[1], noise), "its rest norm is not the one computed"
    )


def _check_split(local: Local, multipliers: Array) -> None:
    """The rest is orthogonal to the active kinks' normals."""
    numbers = local.numbers
    rest = local.rest(multipliers)
    lengths = [float(np.linalg.norm(numbers.floats(vector))) for vector in (local.gradient, rest)]
    along = numbers.floats(local.normals @ rest)
    sizes = np.linalg.norm(numbers.floats(local.normals), axis=1)
    if numbers.exact:  # of the cross-entropy's balls the certificate holds the midpoints
        bound = NEGLIGIBLE * lengths[0] if local.block.loss == "cross_entropy" else 0.0
    else:
        bound = 2.0 * local.rest_error(multipliers) + AGREEMENT * lengths[1]
    require(
        (np.abs(along) <= sizes * bound).all(),
        "its multipliers do not split the gradient along the active kinks' normals",
    )


def _check_radius(certificate: Certificate, local: Local, multipliers: Array) -> None:
    """The radius within which the exact point lies: not below what is proved, nor far above."""
    if certificate.claim not in MINIMA:
        require(certificate.radius == 0, "only minima come with a radius")
        return
    radius = local.stationary_radius(multipliers)
    require(radius is not None, "no exact stationary point is proved next to its point")
    assert radius is not None
    # the bound is a sum of rounding bounds, which prover and checker add up in different orders
    close = radius / 4 <= certificate.radius <= 4 * radius
    require(close, "its radius is not the one computed")


def _check_claim(certificate: Certificate, local: Local, multipliers: Array) -> None:
    """The claim, its slopes, curvature and margin."""
    if certificate.claim == "not_stationary" and _falls_all_round(certificate, local, multipliers):
        return
    scales = (1.0,) if local.numbers.exact else SCALES
    cells = _cells(certificate)
    found, curvature, slopes = local.claim(multipliers, scales[0], cells)
    for scale in scales[1:]:
        if found == certificate.claim:
            break
        found, curvature, slopes = local.claim(multipliers, scale, cells)
    require(found == certificate.claim, f"it claims {certificate.claim!r}; recomputed: {found!r}")
    strict = certificate.claim == "strict_local_minimum"
    curvature = curvature if strict else float("nan")
    expected = _check_slopes(certificate, local, multipliers, slopes)
    stated = certificate.curvature
    require(
        (stated is None) == (not np.isfinite(curvature)), "its curvature is not the one computed"
    )
    if stated is not None:
        require(
            _agree(stated, curvature, AGREEMENT * abs(curvature)),
            "its curvature is not the one computed",
        )
    if certificate.direction is None:
        least = [curvature] if np.isfinite(curvature) else []
        least += [float(expected.min())] if expected.size else []
        noise = _noise(local, multipliers)
        if cells is not None:
            least.append(_least_margin(cells, local, 0.0))
            noise = least[-1] - _least_margin(cells, local, 4.0)
        computed = min(least, default=0.0)
        require(
            _is_margin(certificate.margin, computed, noise), "its margin is not the one computed"
        )


def _cells(certificate: Certificate) -> Cells | None:
    """The stated parts of the directions with their weights, or None for none."""
    shape = (len(certificate.sides), len(certificate.active_kinks))
    require(certificate.cells.shape == shape, "it does not give sides for all its cells")
    try:
        sides = unpack_sides(certificate.sides, shape[1])
    except InputError as error:
        raise RejectedError(str(error)) from error
    relations = None
    if certificate.shares.size:
        require(len(sides) == 1, "it gives shares that its claim does not use")
        try:
            relations = unpack_shares(certificate.shares, shape[1])
        except InputError as error:
            raise RejectedError(str(error)) from error
    return Cells(sides, certificate.cells, relations) if len(sides) else None


def _least_margin(cells: Cells, local: Local, scale: float) -> float:
    """The least margin of the weights in all parts, past some rounding errors."""
    used = exact_cells(local, cells) if local.numbers.exact else cells
    found = None if used is None else margins(local, used, scale)
    require(found is not None, "its weights do not write the gradient")
    assert found is not None
    return float(local.numbers.floats(found).min())


def _check_slopes(
    certificate: Certificate, local: Local, multipliers: Array, slopes: Array
) -> Floats:
    """The stated slopes are the computed ones, which are returned in float64."""
    expected = local.numbers.floats(slopes)
    shape = certificate.slopes.shape == expected.shape
    require(shape, "it does not give two slopes per active kink")
    if not len(expected):
        return expected
    errors = local.numbers.floats(local.slope_errors(multipliers))
    gap = np.abs(certificate.slopes - expected)
    close = gap <= 2 * errors + AGREEMENT * np.abs(expected) + _cancelled(local)
    require(close.all(), "its slopes are not the ones computed")
    return expected


def _cancelled(local: Local) -> Floats:
    """Rounding errors of slopes whose terms cancel: those of the gradients they are differences of."""
    if local.numbers.exact:
        return np.full((len(local.active), 1), TINY)
    squares = (local.normals**2).sum(axis=1)
    squares[squares == 0] = np.inf
    return np.asarray(2 * (np.abs(local.normals) @ local.widest_error / squares)[:, None] + TINY)


def _falls_all_round(certificate: Certificate, local: Local, multipliers: Array) -> bool:
    """Whether dependent active kinks leave a rest of zero, and the direction falls in all patterns."""
    numbers = local.numbers
    if numbers.independent(local.normals) or certificate.direction is None:
        return False
    shape = certificate.direction.shape == local.theta.shape
    plain = certificate.slopes.size == 0 and certificate.curvature is None
    if not shape or not plain:
        return False
    rest = local.rest(multipliers)
    if not numbers.exact and np.linalg.norm(rest) > 2 * local.rest_error(multipliers):
        return False
    return falls_in_all_patterns(local, numbers.array(certificate.direction))


def _check_direction(certificate: Certificate, local: Local, multipliers: Array) -> None:
    """A descent claim needs a unit direction along which the loss falls by the margin; others none."""
    descends = certificate.claim in ("not_stationary", "saddle")
    require(
        (certificate.direction is not None) == descends,
        "only not_stationary and saddle come with a descent direction",
    )
    if certificate.direction is None:
        return
    direction = certificate.direction
    require(
        direction.shape == (len(local.theta),), "its direction has another length than its point"
    )
    require(
        _agree(float(np.linalg.norm(direction)), 1.0, 0.0), "its direction is not of unit length"
    )
    numbers = local.numbers
    slope = local.directional_derivative(numbers.array(direction))
    hidden = _hidden_slope(local, multipliers, direction)
    require(
        bool(slope < (-hidden / 4 if hidden else 0)), "the loss does not fall along its direction"
    )
    dtype = object if numbers.exact else float
    slope = float(numbers.floats(np.array([slope], dtype=dtype))[0])
    require(
        _is_margin(certificate.margin, -slope, _noise(local, multipliers) + 4 * hidden),
        "its margin is not the slope along its direction",
    )


def _hidden_slope(local: Local, multipliers: Array, direction: Floats) -> float:
    """What kinks that lie along `direction`, up to rounding, may add to the slope computed there.

    Floats put a direction some 1e-16 off a kink, on either side, which adds as much of its slopes.
    """
    if local.numbers.exact or len(local.active) == 0:
        return 0.0
    sizes = np.abs(local.normals) @ np.abs(direction)
    rates = np.abs(local.normals @ direction)
    unit = TOLERANCES.rounding * local.block.terms * float(np.finfo(float).eps)
    rates = unit * sizes + np.where(rates <= TOLERANCES.independence * sizes, rates, 0.0)
    steep = np.abs(local.slopes(multipliers)).sum(axis=1) + np.abs(multipliers)
    return float(rates @ steep)


def _agree(stated: float, computed: float, noise: float) -> bool:
    """Whether two floats agree to `AGREEMENT`, or within a bound on their noise."""
    return abs(stated - computed) <= AGREEMENT * abs(computed) + noise


def _noise(local: Local, multipliers: Array) -> float:
    """How far below the computed number a margin may lie: the error bounds that it has given up."""
    if local.numbers.exact:
        return 0.0
    if not local.numbers.independent(local.normals):
        return np.inf  # the least of many patterns' numbers, less their largest errors
    slopes = local.slope_errors(multipliers).max(axis=1, initial=0.0)
    lengths = np.linalg.norm(local.normals, axis=1)
    worst = float((slopes * np.maximum(lengths, 1.0)).max(initial=0.0))
    return 4.0 * (local.rest_error(multipliers) + worst)


def _is_margin(stated: float, computed: float, noise: float) -> bool:
    """Whether a margin is the computed number less no more than its error bounds, and not negative.

    A claim holds only where the error is smaller than the number, so margins are never negative.
    """
    slack = AGREEMENT * abs(computed)
    return max(0.0, computed - noise - slack) <= stated <= computed + slack + 1e-300
