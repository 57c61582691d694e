"""Least squares over a cone in rational arithmetic, and the check of such points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.arithmetic import Rational
from reluscape.check_block import require

__all__ = ["Least", "checked_squares", "exact_squares"]

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Least:
    """The least point of a cell or facet.

    Attributes:
        value: Sum of squares or of absolute values there, exact.
        lengths: Of the cell's rays, exact.
        proof: What is in use: places of rays; or, for absolute values, what is zero.
        signs: For absolute values, of the residuals.
    """

    value: Any
    lengths: Array
    proof: list[int]
    signs: list[int]


def exact_squares(
    gram: Array, right: Array, size: Any, guess: list[int], numbers: Rational
) -> Least:
    """Minimise `size - 2 right . l + l . gram l` over `l >= 0`, exactly.

    Lawson and Hanson's active set method. A ray along which the sum falls does not depend on those in
    use, so every system is regular, and every pivot lowers the sum: it ends.

    Args:
        gram: Products of the rays' columns (rays, rays).
        right: Their products with the target (rays,).
        size: The target's square.
        guess: Rays that may be in use at the least point.
        numbers: The arithmetic.

    Returns:
        The least point.
    """
    support, lengths = _started(gram, right, guess, numbers)
    while True:
        slopes = right - gram[:, support] @ lengths if support else right.copy()
        slopes[support] = 0
        entering = max(range(len(right)), key=lambda k: slopes[k], default=-1)
        if entering < 0 or slopes[entering] <= 0:
            value = size - (right[support] @ lengths if support else 0)
            whole = numbers.array(np.zeros(len(right)))
            whole[support] = lengths
            return Least(value, whole, support, [])
        support, lengths = _pivoted(gram, right, [*support, entering], lengths, numbers)


def _started(
    gram: Array, right: Array, guess: list[int], numbers: Rational
) -> tuple[list[int], Array]:
    """The guess, if its point exists and lies inside; else zero."""
    if guess and numbers.independent(gram[np.ix_(guess, guess)]):
        lengths = numbers.solve(gram[np.ix_(guess, guess)], right[guess])
        if all(lengths > 0):
            return guess, lengths
    return [], numbers.array(np.zeros(0))


def _pivoted(
    gram: Array, right: Array, support: list[int], lengths: Array, numbers: Rational
) -> tuple[list[int], Array]:
    """Go to the least point over a larger set of rays, which drops those whose length gets to zero."""
    lengths = np.append(lengths, numbers.array(np.zeros(1)))
    while True:
        there = numbers.solve(gram[np.ix_(support, support)], right[support])
        leaving = [k for k in range(len(support)) if there[k] <= 0]
        if not leaving:
            return support, there
        steps = [lengths[k] / (lengths[k] - there[k]) for k in leaving]
        lengths = lengths + min(steps) * (there - lengths)
        kept = [k for k in range(len(support)) if lengths[k] > 0]
        support, lengths = [support[k] for k in kept], lengths[kept]


def checked_squares(
    gram: Array, right: Array, size: Any, support: list[int], numbers: Rational
) -> Any:
    """The sum at the stationary point of some rays, which has to be least.

    Raises:
        RejectedError: It is not.
    """
    if not support:
        require(all(right <= 0), "a least point is none: the loss falls along a ray")
        return size
    require(support[-1] < len(right), "a least point is made of rays that its cell does not have")
    own = gram[np.ix_(support, support)]
    require(numbers.independent(own), "a least point is not told by its rays")
    lengths = numbers.solve(own, right[support])
    require(all(lengths >= 0), "a least point lies outside its cell")
    slopes = right - gram[:, support] @ lengths
    require(all(slopes <= 0), "a least point is none: the loss falls along a ray")
    return size - right[support] @ lengths
