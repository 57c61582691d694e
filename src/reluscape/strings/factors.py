"""Ways between two factorisations of matrices that keep the product.

A state is a list of factors `W_1 .. W_K`, whose product is `W_K ... W_1`, with n rows. All matrices in
between have at least n rows. From each end, steps that keep the product lead to a state in which
`W_K ... W_2` has n independent rows; then `W_K`, ..., `W_2` become those of the other end, one after the
other, the factor behind them keeping the product; at last `W_1` goes straight.

What keeps the product is one of three moves: a factor moves in a null space of what is in front of it;
columns of a factor move that meet zero rows behind it; or, beside a layer of exactly n units, where there
are no such columns to spare, two factors move by a shear (`shears`). So the product is the same on the
whole segment. (Freeman and Bruna's own path changes its end: `W^+ W V` is not V.)

Beside a layer of n units `W_K ... W_k` is square. As long as the product has rank n it is invertible, and
its determinant keeps its sign: ends of opposite signs are joined only where one has a product of lower
rank. Shears reach the other end's factor up to a positive number, which is left to the caller.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import qr

from reluscape.strings.shears import Shear, apart

Floats = NDArray[np.float64]
State = list[Floats]

#: Singular values below this, relative to the largest, are zero: products change by less than that.
RANK = 1e-13
#: Directions in which rows are weaker than this, relative to the strongest, are strengthened.
WEAK = 0.1


@dataclass(frozen=True, slots=True)
class Joined:
    """States from both ends that meet but for `W_1` and positive numbers.

    Attributes:
        begin: With the product of the first; `begin[0]` is the first.
        end: With the product of the last; `end[-1]` is the last.
        scales: For places beside layers of n units, by how much `begin[-1]` is `end[0]` there.
        opposite: The place at which the ends are of opposite orientation and are not joined; else 0.
    """

    begin: list[State]
    end: list[State]
    scales: dict[int, float]
    opposite: int = 0


def joined(first: State, last: State) -> Joined:
    """States with the product of `first`, and states with that of `last`, that meet.

    Cost: of the order of K n products of matrices, n small factorisations for each factor, and 4 n^2
    states for each layer of n units.
    """
    begin, end = _strengthened(first), _strengthened(last)
    opposite = _oriented(begin, end)
    if opposite:
        return Joined(begin, end[::-1], {}, opposite)
    goal, upper, scales = end[-1], np.eye(len(first[-1])), {}
    for place in range(len(first) - 1, 0, -1):
        if goal[place].shape[1] > len(upper):
            begin += _replaced(begin[-1], place, goal[place], upper)
        else:
            scale, states = _sheared(begin[-1], place, goal[place], upper)
            begin, scales[place] = begin + states, scale
        upper = upper @ begin[-1][place]
    return Joined(_distinct(begin), _distinct(end)[::-1], scales)


def _oriented(begin: list[State], end: list[State]) -> int:
    """Turn one of both where it can be, until they are of one orientation; the first place that fails."""
    for place in range(len(begin[0]) - 1, 0, -1):
        if _sign(begin[-1], place) == _sign(end[-1], place):
            continue
        for states in (begin, end):
            turned = _turned(states[-1], place)
            if turned is not None:
                states.append(turned)
                break
        else:
            return place
    return 0


def _sign(state: State, place: int) -> float:
    """Of the determinant of `W_K ... W_k`, k the place; 0 where it is not square."""
    upper = np.eye(len(state[-1]))
    for factor in state[: place - 1 : -1]:
        upper = upper @ factor
    return float(np.linalg.slogdet(upper)[0]) if upper.shape[0] == upper.shape[1] else 0.0


def _turned(state: State, place: int) -> State | None:
    """The state with a factor mirrored along a direction that nothing behind it reaches, if any."""
    lower = state[0]
    for factor in state[1:place]:
        lower = factor @ lower
    left, values, _ = np.linalg.svd(lower)
    if values[-1] > RANK * values[0]:
        return None
    unseen = left[:, -1]
    mirrored = state[place] - 2.0 * np.outer(state[place] @ unseen, unseen)
    return _with(state, place, mirrored)


def _sheared(state: State, place: int, goal: Floats, upper: Floats) -> tuple[float, list[State]]:
    """States of one product up to one in which a factor is a positive multiple of another one.

    `upper @ goal` is square and of the orientation of `upper @ state[place]`.
    """
    wanted = np.linalg.solve(upper @ state[place], upper @ goal)
    scale, shears = apart(np.asarray(wanted, dtype=np.float64))
    states = [state]
    for shear in shears:
        states.append(_shifted(states[-1], place, shear))
    return 1.0 / scale, [*states, _with(states[-1], place, goal / scale)]


def _shifted(state: State, place: int, shear: Shear) -> State:
    """The state with a shear between two factors."""
    column, unit = shear
    before, behind = state[place].copy(), state[place - 1].copy()
    before[:, unit] += before @ column
    behind -= np.outer(column, behind[unit])
    return [*state[: place - 1], behind, before, *state[place + 1 :]]


def _strengthened(state: State) -> list[State]:
    """States of one product up to one in which all `W_K ... W_k`, k >= 2, have independent rows."""
    states, upper = [state], np.eye(len(state[-1]))
    for place in range(len(state) - 1, 0, -1):
        now = states[-1]
        left, values, right = np.linalg.svd(upper @ now[place])
        largest = values[0] if values[0] > 0 else 1.0
        rank = int((values > RANK * largest).sum())
        seen, free = right[:rank], right[rank:]
        states.append(_with(now, place - 1, seen.T @ (seen @ now[place - 1])))
        strength = np.zeros(len(left))
        strength[: len(values)] = values
        weak = np.flatnonzero(strength < WEAK * largest)[::-1][: len(free)]
        more = np.linalg.pinv(upper) @ (largest * left[:, weak] @ free[: len(weak)])
        states.append(_with(states[-1], place, now[place] + more))
        upper = upper @ states[-1][place]
    return states


def _replaced(state: State, place: int, goal: Floats, upper: Floats) -> list[State]:
    """States of one product, up to one in which a factor is another one.

    Args:
        state: The state to begin with.
        place: Which factor.
        goal: What it shall be.
        upper: Product of the factors in front of it, with independent rows, and so has `upper @ goal`.
    """
    product = upper @ state[place] @ state[place - 1]
    basis = _independent(upper @ state[place])
    todo, states = _independent(upper @ goal), [state]
    done: list[int] = []
    states.append(_supported(state, place, upper, basis, product))
    while todo:
        factor = states[-1][place].copy()
        free = [unit for unit in range(factor.shape[1]) if unit not in basis]
        ready = [unit for unit in todo if unit in free]
        if ready:
            factor[:, ready] = goal[:, ready]
            columns = upper @ factor
            for unit in ready:
                _enter(unit, basis, done, columns)
                done.append(unit)
            todo = [unit for unit in todo if unit not in ready]
        else:  # all stand in the basis with another column: copies of these take their part
            moved = todo[: len(free)]
            factor[:, free[: len(moved)]] = factor[:, moved]
            for unit, copy in zip(moved, free, strict=False):
                basis[basis.index(unit)] = copy
        states.append(_with(states[-1], place, factor))
        states.append(_supported(states[-1], place, upper, basis, product))
    return [*states, _with(states[-1], place, goal)]


def _independent(columns: Floats) -> list[int]:
    """As many columns as there are rows, independent of each other."""
    return [int(k) for k in qr(columns, mode="r", pivoting=True)[1][: len(columns)]]


def _enter(unit: int, basis: list[int], done: list[int], columns: Floats) -> None:
    """Take a column into the basis, for the one that it depends on most and that is not to stay."""
    shares = np.abs(np.linalg.solve(columns[:, basis], columns[:, unit]))
    shares[[basis.index(kept) for kept in done]] = -1.0
    basis[int(np.argmax(shares))] = unit


def _supported(state: State, place: int, upper: Floats, basis: list[int], product: Floats) -> State:
    """The state whose factor behind `place` has zero rows but for those of the basis."""
    behind = np.zeros(state[place - 1].shape)
    behind[basis] = np.linalg.solve((upper @ state[place])[:, basis], product)
    return _with(state, place - 1, behind)


def _with(state: State, place: int, factor: Floats) -> State:
    """The state with another factor."""
    return [*state[:place], factor, *state[place + 1 :]]


def _distinct(states: list[State]) -> list[State]:
    """States without those that are the same as the one before."""
    kept = states[:1]
    for state in states[1:]:
        if not all(np.array_equal(a, b) for a, b in zip(state, kept[-1], strict=True)):
            kept.append(state)
    return kept
