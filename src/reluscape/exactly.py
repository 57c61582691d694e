"""Exact zeros, decided in integers.

The L1 loss has finitely many gradients, each a sum of products of the floats at hand. Whether one
lies exactly in the span of the active normals is a finite question that no rounding bound answers.
Nor does one say that a slope is zero; but many are, by structure: on inputs that only few samples have,
a kink is often alone.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.arithmetic import Float64, spanned_by_structure
from reluscape.integers import (
    MAX_PRODUCTS,
    FrozenForms,
    dependent_rows,
    rank_at_most,
)
from reluscape.landscape import Landscape
from reluscape.lifting import is_spanned, zero_entries

Array = NDArray[Any]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]


NO_SAMPLES = np.zeros(0, dtype=np.intp)

#: Inputs that so few active kinks have are looked at for relations between their slopes.
SELDOM = 40

#: Largest denominator of a slope of the absolute value that is guessed from rounded ones.
SIMPLE = 64


def rest_is_zero(
    landscape: Landscape,
    layer: str,
    pattern: Bools,
    active: Indices,
    rank: int,
    silent: Indices = NO_SAMPLES,
) -> bool:
    """Whether the L1 loss's gradient lies exactly in the span of the active kinks' normals.

    False also where the sums are too long to be added up exactly. They need not be where the normals,
    of this rank, span all that any gradient can: sums of units times inputs. The samples `silent` are
    left out of the loss; so may be those whose residuals are all among the active kinks, for their parts
    of the gradient are multiples of these normals.
    """
    frozen = FrozenForms(landscape, layer, pattern)
    if rank >= frozen.width * _num_directions(frozen.features, bias=frozen.bias):
        return True
    left_out = np.union1d(silent, frozen.fitted(active))
    if len(left_out) == landscape.num_samples:
        return True
    if frozen.work() > MAX_PRODUCTS:
        return False
    gradient, forms = frozen.gradient(left_out), frozen.kinks(active)
    if not gradient.any() or rank_at_most(np.vstack([forms.matrix(), gradient]), rank):
        return True
    return is_spanned(forms.units, forms.inputs, gradient.reshape(frozen.width, -1))


def gradient_is_spanned(
    landscape: Landscape,
    layer: str,
    at: tuple[Bools, Indices],
    normals: Array,
    kept: tuple[Bools, Indices],
    gradient: tuple[Array, Array],
) -> bool:
    """Whether the normals of some active kinks are certain to span the gradient that all span.

    Args:
        landscape: The landscape.
        layer: The block's layer.
        at: Pattern and active kinks.
        normals: The active kinks' normals.
        kept: Which of them are to span it, and the samples that are left out of the loss.
        gradient: The gradient in float64 and the bounds on its rounding errors.
    """
    spanning, silent = kept
    if not len(silent) and (spanning.all() or spanned_by_structure(normals, spanning, *gradient)):
        return True
    pattern, active = at
    rank = Float64().rank(normals[spanning])
    if rank == normals.shape[1]:
        return True
    exact = landscape.loss_name == "l1" and landscape.weight_decay == 0
    return exact and rest_is_zero(landscape, layer, pattern, active[spanning], rank, silent)


def zero_slopes(
    landscape: Landscape,
    layer: str,
    at: tuple[Bools, Indices],
    slopes: Array,
    errors: Array,
    ones: tuple[Indices, list[Indices]] | None = None,
) -> Bools:
    """Which slopes within their errors of zero are exactly zero for certain, shape (k, 2).

    Where the exact gradient is `g = sum_k mu_k a_k` with independent normals, take any parameters in
    which g vanishes exactly, and the normals of all kinks but those of a set Z. If the normals of Z are
    independent there, `mu_z = 0` for z in Z. A slope into the negative side is -mu_k, one into the
    positive side the same in the cell across the kink, where only the gradient's and deeper normals'
    parts along a_k are others. Crossing kinks of one level of a sample together changes each one's
    slope as crossing it alone does. Another slope of one residual's absolute
    value changes no multiplier but that residual's, so the L1 loss is given slopes with which many
    vanish.

    Args:
        landscape: The landscape.
        layer: The block's layer.
        at: Pattern and active kinks, their normals independent and spanning the gradient of an exact
            stationary point with this pattern.
        slopes: In float64, shape (k, 2).
        errors: Bounds on their rounding errors.
        ones: Where kinks stand for several that are one: their groups of samples, and the numbers of all.
    """
    pattern, active = at
    near, zero = np.abs(slopes) <= errors, np.zeros(slopes.shape, dtype=np.bool_)
    if not near.any() or landscape.weight_decay > 0:
        return zero
    frozen = FrozenForms(landscape, layer, pattern)
    if max(frozen.work(), len(active) * frozen.num_params) > MAX_PRODUCTS:
        return zero
    samples, levels = frozen.levels(active)
    groups, members = ones or (samples, list(active[:, None]))
    alone = np.array([len(kinks) == 1 for kinks in members])
    residuals = frozen.residuals(active) & alone & (slopes > errors).all(axis=1)
    simple, values = _simple_slopes(slopes, errors, residuals)
    put = dict(zip(active[residuals].tolist(), values, strict=True))
    inputs, exact = frozen.inputs_from_commonest(), landscape.loss_name == "l1"
    left, vanishing = near[:, 1], np.zeros(len(near), dtype=np.bool_)
    crossed = vanishing
    while True:
        there = pattern.copy()
        there[[kink for k in np.flatnonzero(crossed) for kink in members[k]]] = True
        frozen = FrozenForms(landscape, layer, there)
        asked, known = near[:, 0] | crossed | simple, vanishing & ~crossed
        gradient, units = frozen.sums(inputs, put), frozen.kinks(active).units
        found = _certain(asked, known, units, inputs[samples], gradient, exact)
        if exact and ones is None and not crossed.any():
            idle = simple & found & np.isin(active, [kink for kink in put if put[kink] == 0])
            outputs = landscape.targets.shape[1]
            zero[_left_alone((samples, levels), idle, found & ~simple, outputs), 1] = True
        zero[found & crossed, 1] = True
        zero[found & ~crossed & near[:, 0], 0] = True
        vanishing = vanishing | (found & ~crossed)  # in all these cells
        left = left & ~crossed & ~zero[:, 1]
        crossed = _shallowest(left, (groups, levels))
        if not crossed.any():
            return zero


def _left_alone(places: tuple[Indices, Indices], idle: Bools, still: Bools, outputs: int) -> Bools:
    """Kinks without slopes on either side: their samples, fitted exactly, have no part in the gradient.

    With slopes of zero in the place of the residuals' absolute values a sample's kinks have no jumps; and
    those whose multipliers are zero, like those of the deeper ones, no slope on the positive side.

    Args:
        places: The kinks' samples and levels, residuals deepest.
        idle: Residuals whose multipliers vanish with a slope of zero.
        still: Other kinks whose multipliers vanish.
        outputs: Number of residuals of a sample.
    """
    samples, levels = places
    found = np.zeros(len(samples), dtype=np.bool_)
    for k in np.flatnonzero(still):
        behind = (samples == samples[k]) & (levels > levels[k])
        found[k] = idle[behind].sum() == outputs and bool((idle | still)[behind].all())
    return found


def _simple_slopes(slopes: Array, errors: Array, residuals: Bools) -> tuple[Bools, list[Fraction]]:
    """Simple slopes of the absolute value with which some residuals' multipliers vanish to rounding.

    Returns:
        For which residuals there is one, and the slopes of all, zero where there is none.
    """
    found, simple = np.zeros(len(slopes), dtype=np.bool_), []
    for k in np.flatnonzero(residuals):
        (low, high), error = slopes[k], errors[k].sum()
        share = Fraction(low / (low + high)).limit_denominator(SIMPLE)
        found[k] = abs(float(share) * (low + high) - low) <= error
        simple.append(2 * share - 1 if found[k] else Fraction(0))
    return found, simple


def _shallowest(kinks: Bools, places: tuple[Indices, Indices]) -> Bools:
    """Those of some kinks that are of their sample's first level among them, by samples and levels."""
    samples, levels = places
    first = np.full(samples.max(initial=0) + 1, np.iinfo(np.intp).max)
    np.minimum.at(first, samples[kinks], levels[kinks])
    return np.asarray(kinks & (levels == first[samples]))


def _certain(
    found: Bools, known: Bools, units: Array, inputs: Array, gradient: Array, exact: bool
) -> Bools:
    """Those of some kinks whose multipliers are zero for certain, and those of which that is known.

    Args:
        found: The kinks.
        known: Those of which it is known.
        units: The normals are `units_k (x) inputs_k`, (k, width) and (k, columns).
        inputs: See units.
        gradient: The gradient, up to a factor, or what is zero where it is (width, columns).
        exact: Whether it is the gradient.
    """
    vanishing = ~gradient.astype(bool)
    live = units.astype(bool)[:, :, None] & inputs.astype(bool)[:, None, :]

    def rows(kinks: Bools, entries: Bools) -> Array:
        places = np.nonzero(entries)
        return np.asarray(units[kinks][:, places[0]] * inputs[kinks][:, places[1]])

    sure = found | known
    while (asked := sure & ~known).any():
        alone = vanishing & ~live[~sure].any(axis=0)
        unsure, _ = dependent_rows(rows(asked, alone))
        if not unsure.any():
            break
        sure = sure.copy()
        sure[np.flatnonzero(asked)[unsure]] = False
    left = found & ~sure
    if not left.any():
        return sure
    seldom = live[~sure].any(axis=1).sum(axis=0) <= SELDOM
    entries = vanishing & seldom & live[left].any(axis=(0, 1))
    among = ~sure & (live & entries).any(axis=(1, 2))
    sure = _split_off(found, sure, among, rows(among, entries), gradient[entries])
    if not exact:
        return sure
    if (found & ~sure).any():
        among = np.flatnonzero(~sure & live.any(axis=(1, 2)))
        zero = zero_entries(units[among], inputs[among], gradient, found[among])
        sure = sure.copy()
        sure[among[zero]] = True
    return sure


def _split_off(found: Bools, sure: Bools, among: Bools, rows: Array, gradient: Array) -> Bools:
    """The sure kinks, and those found among some whose rows no others need to write the gradient.

    Args:
        found: Kinks whose multipliers may be zero.
        sure: Those that are zero for certain.
        among: The other kinks whose normals have entries here.
        rows: Those entries, of the kinks among them.
        gradient: Those of the gradient.
    """
    unsure, rank = dependent_rows(rows)
    free = found[among] & ~unsure
    others = np.vstack([rows[~free], gradient[None]])
    if not free.any() or not rank_at_most(others, rank - int(free.sum())):
        return sure
    sure = sure.copy()
    sure[np.flatnonzero(among)[free]] = True
    return sure


def _num_directions(inputs: Array, *, bias: bool) -> int:
    """Upper bound on the rank of the inputs: their distinct columns that are not zero."""
    columns = {tuple(column) for column in inputs.T}
    constant = any(len(set(column)) == 1 and column[0] != 0 for column in columns)
    return sum(any(column) for column in columns) + (bias and not constant)
