"""Is there an exact stationary point next to a rational one? Proved in balls, for the cross-entropy.

On a cell the loss is convex, and with curvature at least m on a ball of radius r around theta and a
gradient shorter than m r it has its minimiser inside that ball. Theta is replaced by a box that holds
the ball, so that one evaluation encloses the Hessian, the switching values and, later, the slopes of
every point in it. Which directions are flat is no matter of enclosures: the cross-entropy's Hessian
vanishes exactly where the centred outputs' Jacobian does, which is rational.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, eigh

from reluscape.arithmetic import Rational
from reluscape.frozen import FrozenBlock
from reluscape.tolerances import TOLERANCES

Array = NDArray[Any]
Bools = NDArray[np.bool_]

#: A gradient longer than this is taken at its word; refinement to 256 bits leaves far less.
NEGLIGIBLE = 2.0**-128


def curved_basis(block: FrozenBlock, theta: Array, bits: Bools, normals: Array) -> Array:
    """Columns that span the curved part of the directions along which all active kinks stay zero.

    Args:
        block: The evaluation, in rationals, cross-entropy.
        theta: The point, rational; its outputs' Jacobians depend on the pattern only.
        bits: The pattern, shape (samples, switches).
        normals: Normals of the active kinks, shape (k, params).

    Returns:
        Shape (params, c). What it leaves of the normals' null space is flat: neither loss nor
        gradient depends on it.
    """
    numbers = block.arithmetic
    assert isinstance(numbers, Rational)
    if block.weight_decay > 0:
        return numbers.complement(normals)
    seen = normals
    for rows in block.chunks():
        part = block.evaluate(theta, bits[rows], rows).output_jacobians
        centred = part - part.sum(axis=1, keepdims=True) / part.shape[1]
        units = centred.reshape(-1, block.width)
        seen = numbers.row_basis(
            np.vstack([seen, block.wide(units, np.repeat(rows, part.shape[1]))])
        )
    return numbers.complement(np.vstack([normals, numbers.complement(seen).T]))


def boxed(numbers: Rational, theta: Array, radius: float) -> Array:
    """A box of balls that holds every point within `radius` of theta."""
    return np.asarray(theta + numbers.ball(radius))


def stationary_radius(
    block: FrozenBlock, theta: Array, bits: Bools, normals: Array, gradient: Array
) -> float | None:
    """Radius within which an exact stationary point of the cell and active set is proved, or None.

    Args:
        block: The evaluation, in rationals, cross-entropy.
        theta: The point, rational, its active kinks exactly zero.
        bits: The pattern, shape (samples, switches).
        normals: Normals of the active kinks, shape (k, params).
        gradient: Balls that enclose the cell's gradient at theta, shape (params,).
    """
    numbers = block.arithmetic
    assert isinstance(numbers, Rational)
    basis = curved_basis(block, theta, bits, normals)
    if basis.shape[1] == 0:
        return 0.0
    slope, gram = basis.T @ gradient, basis.T @ basis
    if float(np.linalg.norm(numbers.floats(slope))) > NEGLIGIBLE * (1 + _size(numbers, basis)):
        return None
    least = _least_curvature(numbers, block.hessian(theta, bits, basis), gram) / 2
    if not least > 0:
        return None
    squared = slope @ numbers.inverse(gram) @ slope  # of the gradient's part in the basis' span
    radius = 2.0 * float(numbers.upper(squared)) ** 0.5 / least
    radius = max(radius, float(np.finfo(float).tiny) ** 0.5)
    if not radius <= TOLERANCES.existence * (1.0 + float(np.linalg.norm(numbers.floats(theta)))):
        return None
    box = boxed(numbers, theta, radius)
    bound, width = numbers.array(np.array([least, radius]))
    curved = numbers.is_definite(block.hessian(box, bits, basis) - bound * gram)
    inside = squared < (bound * width) ** 2
    return radius if curved and inside and keeps_pattern(block, theta, box, bits) else None


def keeps_pattern(block: FrozenBlock, theta: Array, box: Array, bits: Bools) -> bool:
    """Whether no kink that is nonzero at theta changes its sign in the box."""
    for rows in block.chunks():
        here = block.evaluate(theta, bits[rows], rows).values
        around = block.evaluate(box, bits[rows], rows).values
        inside = np.where(bits[rows], around, -around)
        if not np.asarray((inside > 0) | (here == 0), dtype=np.bool_).all():
            return False
    return True


def refined(
    block: FrozenBlock, theta: Array, bits: Bools, normals: Array, gradient: Array
) -> Array | None:
    """Theta moved to the stationary point of its cell and active set, to some 200 bits, or None.

    Newton's method with one Hessian in float64; the gradient is enclosed anew in every step, so each
    one adds some eight digits. Every step keeps the active kinks at exactly zero.
    """
    numbers = block.arithmetic
    assert isinstance(numbers, Rational)
    basis = curved_basis(block, theta, bits, normals)
    if basis.shape[1] == 0:
        return theta
    scale = 1.0 + float(np.linalg.norm(numbers.floats(theta)))
    hessian = numbers.floats(block.hessian(theta, bits, basis))
    moved, before = theta, np.inf
    for _ in range(30):
        slope = numbers.floats(basis.T @ gradient)
        size = float(np.linalg.norm(slope))
        if size <= NEGLIGIBLE * NEGLIGIBLE**0.5:
            return moved
        if not size < before / 2:
            return None
        before = size
        try:
            step = np.linalg.solve(hessian, -slope)
        except np.linalg.LinAlgError:
            return None
        if not np.isfinite(step).all():
            return None
        moved = moved + basis @ numbers.array(step)
        distance = float(np.linalg.norm(numbers.floats(moved - theta)))
        if not distance <= 2 * TOLERANCES.resolve * scale:
            return None
        gradient = gradient_of(block, moved, bits)
    return None


def gradient_of(block: FrozenBlock, theta: Array, bits: Bools) -> Array:
    """Enclosure of the cell's gradient, weight decay included."""
    total = block.weight_decay * theta
    for rows in block.chunks():
        part = block.evaluate(theta, bits[rows], rows)
        slope = block.output_slope(part.outputs, bits[rows], rows)
        total = total + block.spread((part.output_jacobians * slope[:, :, None]).sum(axis=1), rows)
    return np.asarray(total)


def _size(numbers: Rational, basis: Array) -> float:
    """Length of a basis as one vector."""
    return float(np.linalg.norm(numbers.floats(basis)))


def _least_curvature(numbers: Rational, hessian: Array, gram: Array) -> float:
    """Smallest eigenvalue of the Hessian per unit of theta, in float64: a guess to be proved."""
    try:
        values = eigh(numbers.floats(hessian), numbers.floats(gram), eigvals_only=True)
    except (LinAlgError, ValueError):
        return 0.0
    return float(values[0])
