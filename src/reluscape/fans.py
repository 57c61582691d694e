"""Fans: the cells around a point in the weights of one unit, by their rays.

Kinks whose rates depend on one unit's weights alone, and linearly, cut the directions of these weights
into cones, a fan. To first order a loss is linear on each cone, so it is non-negative on all of them if
and only if it is on their rays: lines in which `rank - 1` independent hyperplanes meet, both ways.
Weights u that write the gradient leave `f'(d) = sum_k u_k max(-t_k, 0) + (C_k - u_k) max(t_k, 0)`
(`adjacent.py`). Each unit's own sum is non-negative where it is so on the rays, however many of its kinks
are concave, and then so is the sum of all units. Rays are found in integers: kinks that a ray does
not move are known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from math import comb, gcd, isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.integers import (
    MAX_PRODUCTS,
    Forms,
    FrozenForms,
    dependent_rows,
    kinks_meet,
    rank_at_most,
)
from reluscape.landscape import Landscape
from reluscape.tolerances import TOLERANCES

Array = NDArray[Any]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]

#: Lines of one unit, in which hyperplanes meet, and products of integers that are made to find them: some
#: tenths of a second.
MAX_LINES, MAX_WORK = 5000, 2_000_000
#: Share of a normal's length that rounding may make of a rate along a ray of length one.
CLOSE = 1e-9


@dataclass(frozen=True, slots=True)
class Fan:
    """The rays of one unit's cells around a point.

    Attributes:
        kinks: Places of its kinks among the active ones (m,).
        ways: The rays' directions, integers (rays, units, inputs), a bias among the inputs.
        rates: Rates of its kinks along the rays, per unit of length (rays, m): zeros are exact.
    """

    kinks: Indices
    ways: Array
    rates: Floats

    def slopes(self, coefficients: Array) -> Array:
        """`sum_k low_k max(-t_k, 0) + high_k max(t_k, 0)` along the rays, from (k, 2) of all kinks."""
        low, high = coefficients[self.kinks].T
        return np.asarray(np.maximum(-self.rates, 0.0) @ low + np.maximum(self.rates, 0.0) @ high)

    def exact(self, coefficients: Array, normals: Array, *, bias: bool) -> Array:
        """`slopes` in rational arithmetic, in which the normals are given; not per unit of length."""
        low, high = coefficients[self.kinks].T
        rates = self.directions(bias=bias) @ normals[self.kinks].T
        up, zero = rates > 0, 0 * rates
        return np.asarray(np.where(up, zero, -rates) @ low + np.where(up, rates, zero) @ high)

    def directions(self, *, bias: bool) -> Array:
        """The rays' directions in theta's order, integers (rays, params)."""
        count = len(self.ways)
        if not bias:
            return self.ways.reshape(count, -1)
        return np.hstack([self.ways[:, :, :-1].reshape(count, -1), self.ways[:, :, -1]])

    def unit_ways(self, *, bias: bool) -> Floats:
        """`directions` of length one."""
        ways = self.directions(bias=bias)
        found = (ways / np.abs(ways).max(axis=1, keepdims=True)).astype(np.float64)
        return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))

    def fits(self, normals: Floats, *, bias: bool) -> bool:
        """Whether the rates are those of the normals, as far as float64 tells."""
        own = normals[self.kinks]
        apart = np.abs(self.unit_ways(bias=bias) @ own.T - self.rates)
        return bool((apart <= CLOSE * np.linalg.norm(own, axis=1)).all())

    def errors(self, coefficients: Floats, errors: Floats) -> Floats:
        """Bounds on the errors of `slopes`."""
        unit = TOLERANCES.rounding * len(self.kinks) * float(np.finfo(np.float64).eps)
        return np.asarray(self.slopes(errors) + unit * self.slopes(np.abs(coefficients)))


def fans_of(
    forms: Forms, levels: Indices, normals: Floats, bends: Array, among: Bools | None = None
) -> list[Fan]:
    """The fans of units whose lines are at most `MAX_LINES`, from at most `MAX_WORK` products.

    Args:
        forms: Of the active kinks, in integers.
        levels: Rectifiers that these belong to.
        normals: Their normals in float64 (k, params).
        bends: c.
        among: Only units that have one of these kinks (k,).

    Cost: minors of `rank - 1` rows for each line, `rank 2^rank` products.
    """
    straight = (levels == 0) & ~bends.astype(bool).any(axis=1)
    single = forms.units.astype(bool).sum(axis=1) == 1
    owner = forms.units.astype(bool).argmax(axis=1)
    found = []
    asked = straight & single if among is None else straight & single & among
    for unit in np.unique(owner[asked]).tolist():
        kinks = np.flatnonzero(straight & single & (owner == unit))
        rows = forms.inputs[forms.owners[kinks]] * forms.units[kinks, unit][:, None]
        lines = _lines(rows) if rows.astype(bool).any() else None
        if lines is None:
            continue
        ways = np.zeros((len(lines), forms.units.shape[1], rows.shape[1]), dtype=object)
        ways[:, unit] = lines
        longest = np.argmax((rows * rows).sum(axis=1))
        length = _length(rows[longest])
        size = float(np.linalg.norm(normals[kinks[longest]]))
        products, lengths = lines @ rows.T, [_length(line) for line in lines]
        rates = [
            [size * ((product << 128) / (length * own)) for product in line]
            for line, own in zip(products.tolist(), lengths, strict=True)
        ]
        found.append(Fan(kinks, ways, np.array(rates)))
    return found


def _length(row: Array) -> int:
    """Length of a row of integers, times 2^64."""
    return isqrt(int((row * row).sum()) << 128)


def _lines(rows: Array) -> Array | None:
    """Directions of all rays, both ways, of some rows' hyperplanes; None where they take too long."""
    rows = _different(rows)
    columns = _independent_columns(rows)
    rank = len(columns)
    count = comb(len(rows), rank - 1)
    if count > MAX_LINES or count * rank * 2**rank > MAX_WORK:
        return None
    chosen = np.array(list(combinations(range(len(rows)), rank - 1)), dtype=np.intp)
    minors = _cross(rows[:, columns][chosen])
    lines = _different(minors[minors.astype(bool).any(axis=1)])
    wide = np.zeros((2 * len(lines), rows.shape[1]), dtype=object)
    wide[:, columns] = np.vstack([lines, -lines])
    return wide


def _different(rows: Array) -> Array:
    """Different rows up to factors, of either sign, without common ones; none of zeros."""
    found: dict[tuple[int, ...], None] = {}
    for row in rows[rows.astype(bool).any(axis=1)].tolist():
        common = gcd(*row) * (1 if next(entry for entry in row if entry) > 0 else -1)
        found[tuple(entry // common for entry in row)] = None
    return np.array(list(found), dtype=object).reshape(len(found), rows.shape[1])


def _independent_columns(rows: Array) -> list[int]:
    """Columns that span all, exactly."""
    left, found = [[Fraction(entry) for entry in row] for row in rows.tolist()], []
    for column in range(rows.shape[1]):
        pivot = next((row for row in left if row[column]), None)
        if pivot is None:
            continue
        left = [
            [a - row[column] / pivot[column] * b for a, b in zip(row, pivot, strict=True)]
            for row in left
            if row is not pivot
        ]
        found.append(column)
    return found


def _cross(rows: Array) -> Array:
    """Of sets of n - 1 rows of length n, what is orthogonal to them: their minors (sets, n).

    Minors of the first rows are found from those of one row less, for all sets of columns.
    """
    sets, count, size = rows.shape
    minors: dict[tuple[int, ...], Array] = {(): np.ones(sets, dtype=np.intp).astype(object)}
    for row in range(count):
        minors = {
            own: sum(
                (-1) ** (row + place)
                * rows[:, row, column]
                * minors[own[:place] + own[place + 1 :]]
                for place, column in enumerate(own)
            )
            for own in combinations(range(size), row + 1)
        }
    rest = [tuple(column for column in range(size) if column != left) for left in range(size)]
    return np.stack([(-1) ** left * minors[own] for left, own in enumerate(rest)], axis=1)


def past_rays(
    fans: list[Fan],
    coefficients: Floats,
    errors: Floats,
    scale: float,
    stays: Callable[[list[Bools]], bool],
) -> Floats | None:
    """Slopes along all rays past `scale` rounding errors, zero where the loss stays for certain.

    Args:
        fans: The fans.
        coefficients: Of `max(-t_k, 0)` and `max(t_k, 0)` (k, 2).
        errors: Bounds on their errors.
        scale: Factor on these.
        stays: Whether the slope along some rays of each fan is exactly zero.

    Returns:
        None where along a ray the loss may fall.
    """
    margins, doubtful = [np.zeros(0)], []
    for fan in fans:
        slopes, noise = fan.slopes(coefficients), fan.errors(coefficients, errors)
        if (slopes < -max(1.0, scale) * noise).any():
            return None
        clear = (slopes > scale * noise) | ((slopes == 0) & (noise == 0))
        margins.append(np.where(clear, slopes - scale * noise, 0.0))
        doubtful.append(~clear)
    if any(one.any() for one in doubtful) and not stays(doubtful):
        return None
    return np.concatenate(margins)


def loss_stays(
    landscape: Landscape,
    layer: str,
    at: tuple[Bools, Indices],
    members: list[Indices],
    kept: Bools,
    fans: list[Fan],
    which: list[Bools],
) -> bool:
    """Whether the slopes of f' along some rays are exactly zero, decided in integers.

    A unit's sum along a ray r is what the loss's slopes e by the outputs, and the weights of the kinks
    that are in no fan, make of the changes along r. Where some direction d changes these by as much, in
    the cell on the negative side of all kinks, and moves no kink of a fan that has a weight, it is
    `g . d + sum_k u_k a_k . d = 0`. The L1 loss's e are known; those of squared losses are outputs less
    targets, linear in theta, on which the active kinks are zero: what vanishes by that counts, too.

    Args:
        landscape: The landscape.
        layer: The block's layer.
        at: Pattern and active kinks.
        members: The numbers of all kinks that each of these is.
        kept: Which of them have weights, that write the gradient exactly.
        fans: The fans.
        which: Their rays.
    """
    pattern, active = at
    base = FrozenForms(landscape, layer, pattern)
    doubtful = sum(int(rays.sum()) for rays in which)
    if base.work() * (1 + doubtful) > MAX_PRODUCTS or landscape.weight_decay > 0:
        return False
    changes, wanted = _changes(base, landscape.loss_name, active[kept]), []
    still = np.zeros(len(active), dtype=np.bool_)
    still[np.concatenate([fan.kinks for fan in fans])] = True
    for fan, rays in zip(fans, which, strict=True):
        for ray in np.flatnonzero(rays):
            there = pattern.copy()
            for kink in fan.kinks[fan.rates[ray] > 0]:
                there[members[kink]] = True
            frozen = FrozenForms(landscape, layer, there)
            change = _changes(frozen, landscape.loss_name, active[kept]) @ fan.ways[ray].ravel()
            change[len(changes) - int(kept.sum()) :][still[kept]] = 0
            wanted.append(change)
    told, vanishing = np.column_stack([changes, *wanted]), np.zeros((0, len(changes)), dtype=object)
    if (
        landscape.loss_name in ("squared", "half_squared")
        and changes.size * base.num_params <= MAX_PRODUCTS
        and kinks_meet(landscape, layer, pattern, active, _rank(base.kinks(active).matrix()))
    ):
        told, vanishing = _by_parameters(base, told, active)
    known, wanted_there = told[:, : base.num_params], told[:, base.num_params :]
    span = np.column_stack([known, vanishing.T])
    return rank_at_most(np.column_stack([span, wanted_there]), _rank(span))


def _rank(matrix: Array) -> int:
    """A lower bound of a rank."""
    return dependent_rows(matrix)[1]


def _changes(frozen: FrozenForms, loss: str, kinks: Indices) -> Array:
    """Derivatives, in integers, of what the loss depends on and of some kinks, these last.

    Those of the L1 loss itself, whose slopes by the outputs are known; of other losses all outputs.
    """
    if loss == "l1":
        none = np.zeros(0, dtype=np.intp)
        return np.vstack([frozen.gradient(none), frozen.kinks(kinks).matrix()])
    if loss == "cross_entropy":
        return frozen.outputs_and(kinks).matrix()
    return np.vstack([frozen.residuals_of_all().matrix(), frozen.kinks(kinks).matrix()])


def _by_parameters(base: FrozenForms, told: Array, active: Indices) -> tuple[Array, Array]:
    """Sums over residuals and weights (residuals + weights, sums) as sums over parameters and weights.

    And, in rows, those that vanish because the active kinks are zero.
    """
    residuals, kinks = base.residuals_of_all(), base.kinks(active)
    affine, zero = (
        np.column_stack([forms.matrix(), forms.constants]) for forms in (residuals, kinks)
    )
    count = len(affine)
    none = np.zeros((len(zero), len(told) - count), dtype=np.intp).astype(object)
    return np.vstack([affine.T @ told[:count], told[count:]]), np.hstack([zero, none])
