"""Claims at dependent active kinks, checked: the weights of `adjacent.py` as products, without a solver.

With g, a_k, s_k, c_qk as there, weights u that write the gradient, `g + sum_k u_k a_k = 0`, between zero
and `C_k = s_k + sum_q c_qk u_q`, show that the loss falls in no direction; in a part of the directions in
which kink k has one side only, one of its two bounds is enough. In one part of all directions, kinks
beyond their bounds may be paid for by others through relations between the normals (`shares.py`).
Or only the sum of one unit's terms is non-negative, along all rays of its cells (`fans.py`).
Where directions without a slope move a kink to its negative side only, u_k is exactly zero; to its
positive side only, exactly C_k: then the kink is crossed, and the others' weights write the gradient
of the cell across it.
Kinks of samples with equal inputs are one, and the first of them has its weights; where the terms of such
samples cancel, or one is fitted exactly and nothing pulls at it, they may be left out (`coincident.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reluscape.arithmetic import Float64, Rational, left_inverse_sizes, split_errors
from reluscape.certificate import AT_CEILING, IN_FAN, Claim, cover_all, split_sides
from reluscape.coincident import Coincident
from reluscape.exactly import gradient_is_spanned, zero_slopes
from reluscape.fans import Fan, fans_of, loss_stays, past_rays
from reluscape.integers import FrozenForms, rank_at_most
from reluscape.tolerances import TOLERANCES

if TYPE_CHECKING:
    from reluscape.local import Local

Array = NDArray[Any]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Cells:
    """Parts of the directions with the weights that show a minimum (`Certificate.cells`, `.sides`).

    Attributes:
        sides: Sides of the kinks in each part (parts, k), those at their ceilings marked (`split_sides`).
        weights: u (parts, k).
        relations: Where there is one part: row q is zero or a relation r with `r_q < 0` (k, k), or None.
    """

    sides: NDArray[np.int8]
    weights: Array
    relations: Array | None = None


def coefficients(weights: Array, jumps: Array, bends: Array, relations: Array | None) -> Array:
    """Coefficients of max(-t_k, 0) and max(t_k, 0) in the loss (..., k, 2), after all shares."""
    low, high = weights, jumps + weights @ bends - weights
    if relations is not None:
        amounts = -np.diag(relations)
        others = relations + np.diag(amounts)
        low = low - _positive(-others).sum(axis=0)
        high = high + amounts - _positive(others).sum(axis=0)
        bent = bends.astype(bool).any(axis=0)
        pushed = -combined(relations, bends[:, bent])
        high[..., bent] = high[..., bent] - _positive(pushed).sum(axis=0)
    return np.stack([low, high], axis=-1)


def crossed(
    gradient: Array, normals: Array, jumps: Array, bends: Array, top: Bools
) -> tuple[Array, Array]:
    """Gradient and normals where some of the kinks are on their positive sides."""
    rows = crossed_normals(normals, bends, top)
    return gradient + (jumps * top) @ rows, rows


def crossed_normals(normals: Array, bends: Array, top: Bools) -> Array:
    """Normals where some of the kinks are on their positive sides."""
    across, rows = bends * top, normals
    for _ in range(len(normals) if across.any() else 0):
        before, rows = rows, normals + across @ rows
        if (before == rows).all():
            break
    return rows


def ceilings(weights: Array, jumps: Array, bends: Array, top: Bools) -> Array:
    """The weights with those of some kinks at their ceilings, deeper kinks first."""
    for _ in range(len(weights) if top.any() else 0):
        before, weights = weights, np.where(top, jumps + weights @ bends, weights)
        if (before == weights).all():
            break
    return weights


def relation_errors(relations: Array, shift: Array, bends: Array) -> Array:
    """Bounds on the coefficients' errors (k, 2) where relations are exact but for `shift`.

    A share whose sign is certain enters one coefficient only.
    """
    size = np.abs(relations)
    noise = TOLERANCES.rounding * len(size) * np.finfo(float).eps
    wide = shift + noise * size
    unsure = size <= shift
    paid = (relations > 0) | np.eye(len(size), dtype=np.bool_)
    low = np.where(~paid | unsure, wide, 0.0).sum(axis=0)
    high = np.where(paid | unsure, wide, 0.0).sum(axis=0)
    return np.column_stack([low, high + combined(wide, np.abs(bends)).sum(axis=0)])


def relation_shift(
    relations: Array, normals: Array, normal_errors: Array, forms: Array
) -> Array | None:
    """Bounds on the distances of relations to exact ones, or None where those are not certain to exist.

    What a relation leaves lies in the exact span of its own normals. They write it where they span no
    more exactly than in float64.

    Args:
        relations: Rows r with `sum_i r_i a_i = 0` but for rounding (k, k).
        normals: a.
        normal_errors: Bounds on their errors.
        forms: The normals in integers, row by row up to factors.
    """
    shift = np.zeros(relations.shape)
    for row, relation in zip(shift, relations, strict=True):
        there = np.flatnonzero(relation)
        if len(there) == 0:
            continue
        mine, share = normals[there], relation[there]
        if not rank_at_most(forms[there], Float64().rank(mine)):
            return None
        gap, noise = np.abs(share @ mine), split_errors(share, mine)
        noise = noise + np.abs(share) @ normal_errors[there]
        if np.linalg.norm(gap) > np.linalg.norm(noise):
            return None
        row[there] = left_inverse_sizes(mine) @ (gap + noise)
    return shift


def combined(relations: Array, rows: Array) -> Array:
    """`relations @ rows` without the relations' zeros, which cost as much as other rationals."""
    found = np.zeros((len(relations), rows.shape[1]), dtype=rows.dtype)
    for row, relation in zip(found, relations, strict=True):
        there = np.flatnonzero(relation)
        if len(there):
            row[:] = relation[there] @ rows[there]
    return found


def _positive(values: Array) -> Array:
    """The positive parts, of floats or rationals."""
    return np.where(values > 0, values, 0 * values)


def claim_of_cells(
    local: Local, multipliers: Array, scale: float, cells: Cells | None
) -> tuple[Claim, float]:
    """The claim where the active normals are dependent, and the curvature it uses."""
    if cells is None or not cover_all(split_sides(cells.sides[:, _coincident(local).first])[0]):
        return "undecided", float("nan")
    if not (local.numbers.exact or local.stationary_radius(multipliers) is not None):
        return "undecided", float("nan")
    if local.numbers.exact:
        corrected = exact_cells(local, cells)
        if corrected is None or not _are_near(local, cells, corrected):
            return "undecided", float("nan")
        cells = corrected
    left = margins(local, cells, scale)
    if left is None or not (left >= 0).all():
        return "undecided", float("nan")
    if not (left > 0).all():
        return "local_minimum", float("nan")
    strict, curvature = local.strict_all_round()
    return ("strict_local_minimum" if strict else "local_minimum"), curvature


def margins(local: Local, cells: Cells, scale: float = 1.0) -> Array | None:
    """What the weights leave to their bounds in all parts, past `scale` rounding errors, as a list.

    None where weights do not write the gradient. In float64 a margin of zero that may be a rounded
    one counts as negative.
    """
    merged = _merged(local, cells)
    if merged is None:
        return None
    ones = local.active
    local, cells, same, sizes = merged
    jumps, bends = local.jumps_and_bends()
    weights, silent = cells.weights, np.zeros(cells.weights.shape, dtype=np.bool_)
    fans = _fans(local, cells)
    if fans is None:
        return None
    plain = cells.relations is None and not fans
    if plain and not local.numbers.exact:  # what is left out pays for nothing
        silent = same.left_out(weights, sizes, jumps, bends)
        weights = np.where(silent, same.balanced_weights(), weights)
    sides, top = split_sides(cells.sides)
    top = top & ~silent
    found = coefficients(weights, jumps, bends, cells.relations)
    asked = np.stack([sides <= 0, sides >= 0], axis=2) & (cells.sides != IN_FAN)[:, :, None]
    if local.numbers.exact:
        gaps = local.gradient + weights @ local.normals
        if cells.relations is not None:
            gaps = np.vstack([gaps, combined(cells.relations, local.normals)])
        if any(bool(entry != 0) for entry in gaps.ravel()):
            return None
        bias = local.block.bias
        along = [fan.exact(found[0], local.normals, bias=bias) for fan in fans]
        return np.concatenate([found[asked], *along])
    if top.any() and cells.relations is not None:
        return None
    noise = TOLERANCES.rounding * local.block.terms * np.finfo(float).eps
    terms = sizes + np.abs(weights) @ (np.abs(bends) + np.eye(len(bends)))
    rounded = noise * terms + local.jump_errors()
    spread = _spread(local, weights, (silent, top, same, same.members(ones)[1]), noise, scale)
    if spread is None:
        return None
    spread = _at_ceilings(spread, np.abs(found[:, :, 1]) + rounded, bends, top)
    wide = spread + spread @ np.abs(bends) + rounded
    errors = np.stack([spread, wide], axis=2)
    if cells.relations is not None:
        shift = _shift(local, cells.relations)
        if shift is None:
            return None
        errors = errors + relation_errors(cells.relations, shift, bends)
    exactly = (found == 0) & (errors == 0) & (weights == 0)[:, :, None]
    left = np.where(exactly | (found > scale * errors), found - scale * errors, -np.inf)
    level = silent[:, :, None] | np.stack([np.zeros_like(top), top], axis=2)
    at = local.block.vector_of(local.bits), local.active
    members = same.members(ones)[1]
    args = (_crossing(at[0], members, top[0]), at[1]), members, (weights != 0)[0] & ~top[0], fans
    stays = partial(loss_stays, local.landscape, local.layer, *args)
    rays = past_rays(fans, found[0], errors[0], scale, stays)
    if rays is None:
        return None
    if asked.all() and cells.relations is None and local.numbers.independent(local.normals):
        slopes = found[0], max(1.0, scale) * errors[0], same.members(ones)
        level = level | zero_slopes(local.landscape, local.layer, at, *slopes)
    return np.concatenate([np.where(level, 0.0, left)[asked], rays])


def _at_ceilings(spread: Array, off: Array, bends: Array, top: Bools) -> Array:
    """Errors of weights (parts, k): those at their ceilings have the ceilings' and are `off` these."""
    for _ in range(len(bends) if top.any() else 0):
        before, spread = spread, np.where(top, off + spread @ np.abs(bends), spread)
        if (before == spread).all():
            break
    return spread


def _fans(local: Local, cells: Cells) -> list[Fan] | None:
    """The fans whose kinks are taken together; None where these are not whole fans of a single part."""
    marked = (cells.sides == IN_FAN).any(axis=0)
    if not marked.any():
        return []
    if len(cells.sides) > 1 or cells.relations is not None:
        return None
    if not np.isin(cells.sides, [0, AT_CEILING, IN_FAN]).all():
        return None
    pattern = local.block.vector_of(local.bits)
    frozen = FrozenForms(local.landscape, local.layer, pattern)
    levels = frozen.levels(local.active)[1]
    normals = local.numbers.floats(local.normals)
    bends = local.jumps_and_bends()[1]
    every = fans_of(frozen.kinks(local.active), levels, normals, bends, marked)
    fans = [fan for fan in every if marked[fan.kinks].all()]
    whole = sum(len(fan.kinks) for fan in fans) == int(marked.sum())
    bias = local.block.bias
    fits = all(fan.fits(normals, bias=bias) for fan in fans)
    return fans if whole and fits else None


def _coincident(local: Local) -> Coincident:
    """Which of the active kinks are one."""
    block = local.block
    samples, switches = block.place(local.active)
    outputs = np.where(switches >= block.switches, switches - block.switches, -1)
    signs = np.where(local.bits[:, block.switches :], 1, -1)
    return Coincident.of(local.landscape, (samples, switches, outputs), signs)


def _merged(local: Local, cells: Cells) -> tuple[Local, Cells, Coincident, Array] | None:
    """The picture and the weights with one kink for those that are one, and these jumps' absolute sums.

    None where others than the first of them have weights or sides.
    """
    same = _coincident(local)
    jumps, bends = local.jumps_and_bends()
    sizes = same.sums(np.abs(jumps))
    first, gone = same.first, np.delete(np.arange(len(local.active)), same.first)
    if not len(gone):
        return local, cells, same, sizes
    relations = cells.relations
    given = [cells.sides[:, gone], cells.weights[:, gone]]
    if relations is not None:
        given += [relations[gone], relations[:, gone]]
        relations = relations[np.ix_(first, first)]
    if any(bool(entry != 0) for part in given for entry in part.ravel()):
        return None
    crossed = same.sums(jumps), same.sums(bends[first]), same.sums(local.jump_errors())
    normals = local.normals[first]
    one = replace(local, active=local.active[first], normals=normals, crossed=[crossed], spreads={})
    return one, Cells(cells.sides[:, first], cells.weights[:, first], relations), same, sizes


def _shift(local: Local, relations: Array) -> Array | None:
    """`relation_shift` at a point."""
    pattern = local.block.vector_of(local.bits)
    forms = FrozenForms(local.landscape, local.layer, pattern).kinks(local.active).matrix()
    return relation_shift(relations, local.normals, local.normal_errors(), forms)


def _spread(
    local: Local,
    weights: Array,
    kinds: tuple[Bools, Bools, Coincident, list[Indices]],
    noise: float,
    scale: float,
) -> Array | None:
    """Bounds on the weights' errors; None where they are not certain to write the exact gradient.

    Weights of zero are exact: the others' normals must then span the gradient alone; likewise where
    samples are left out, or kinks are at their ceilings. These have no bounds here.

    Args:
        local: The point.
        weights: u (parts, k).
        kinds: Which kinks are of samples left out (parts, k), which at their ceilings (parts, k), which
            are one, and the numbers of all that each is.
        noise: Relative rounding error of jumps.
        scale: Factor on the rounding errors.
    """
    silent, top, same, members = kinds
    jumps, bends = local.jumps_and_bends()
    spread, plain = np.zeros(weights.shape), local.normal_errors()
    marks = np.hstack([(weights != 0) & ~silent & ~top, silent, top])
    for mark in np.unique(marks, axis=0):
        kept, out, up = np.split(mark, 3)
        here = np.flatnonzero((marks == mark).all(axis=1))
        gradient, normals = crossed(local.gradient, local.normals, jumps, bends, up)
        error = local.gradient_error
        if up.any():
            error = local.widest_error + noise * (np.abs(jumps) * up) @ np.abs(normals)
        some = np.where(up, 0.0, weights[here])
        gaps = gradient + some @ normals
        for gap, row in zip(gaps, some, strict=True):
            split = 2 * float(np.linalg.norm(error))
            split += float(np.linalg.norm(split_errors(row, normals)))
            if not np.linalg.norm(gap) <= max(1.0, scale) * split:
                return None
        pattern = _crossing(local.block.vector_of(local.bits), members, up)
        at = pattern, np.flatnonzero(same.samples_of(out))
        if not _is_spanned(local, at, (kept, normals), (gradient, error)):
            return None
        errors = error + split_errors(some, normals) + np.abs(gaps)
        # bends have errors of at most those of normals: twice their size stands for both
        errors = errors + np.abs(some) @ crossed_normals(plain, 2.0 * np.abs(bends), up)
        spread[np.ix_(here, kept)] = errors @ left_inverse_sizes(normals[kept]).T
    return spread


def _crossing(pattern: Bools, members: list[Indices], top: Bools) -> Bools:
    """A pattern with some kinks, each of several that are one, on their positive sides."""
    across = pattern.copy()
    for kink in np.flatnonzero(top):
        across[members[kink]] = True
    return across


def _is_spanned(
    local: Local,
    at: tuple[Bools, Indices],
    kept: tuple[Bools, Array],
    gradient: tuple[Array, Array],
) -> bool:
    """Whether some normals are certain to span the gradient without some samples; found out once.

    Args:
        local: The point.
        at: The pattern, and the samples that are left out.
        kept: Which normals, and all of them in that pattern.
        gradient: The gradient in that pattern, and bounds on its errors.
    """
    (pattern, silent), (some, normals) = at, kept
    key = some.tobytes() + silent.tobytes() + pattern.tobytes()
    if key not in local.spanned:
        active = local.active
        local.spanned[key] = gradient_is_spanned(
            local.landscape, local.layer, (pattern, active), normals, (some, silent), gradient
        )
    return local.spanned[key]


def exact_cells(local: Local, cells: Cells) -> Cells | None:
    """Exact weights and relations next to the given floats, or None.

    Weights that are at a bound but for rounding are put on it, the others corrected so that they
    write the gradient exactly. A gradient that is a ball lies in the normals' span because the point
    is stationary.
    """
    merged = _merged(local, cells)
    if merged is None:
        return None
    local, cells, same, _ = merged
    numbers, found = local.numbers, []
    assert isinstance(numbers, Rational)
    jumps, bends = local.jumps_and_bends()
    rank = numbers.independent_rank(local.normals)
    deepest_first = np.argsort(-local.block.place(local.active)[1], kind="stable")
    together = (cells.sides == IN_FAN).any(axis=0)
    for side, weights in zip(split_sides(cells.sides)[0], cells.weights, strict=True):
        exact, tiny = numbers.array(weights), 1e-12 * np.abs(weights).max(initial=0.0)
        none, top = np.zeros(len(weights), dtype=np.bool_), np.zeros(len(weights), dtype=np.bool_)
        for k in deepest_first:
            ceiling = jumps[k] + bends[:, k] @ exact
            for bound, open_side, which in ((0 * exact[k], 1, none), (ceiling, -1, top)):
                off = numbers.floats(np.array([bound - exact[k]], dtype=object))[0]
                free = side[k] == open_side or (which is top and together[k])
                if not free and abs(off) <= tiny and not (none[k] or top[k]):
                    exact[k], which[k] = bound, True
        kept = np.flatnonzero(~none & ~top)
        gradient, normals = crossed(local.gradient, local.normals, jumps, bends, top)
        change = numbers.multipliers(normals[kept], -gradient - normals[kept].T @ exact[kept])
        exact[kept] = exact[kept] + change
        exact = ceilings(exact, jumps, bends, top)
        gap = local.gradient + local.normals.T @ exact
        spanning = numbers.independent_rank(normals[kept]) == rank
        if not spanning and not all(bool(entry == 0) for entry in gap):
            return None  # a ball around zero is not zero
        found.append(exact)
    corrected = Cells(cells.sides, np.array(found, dtype=object), _exact_relations(local, cells))
    left = margins(local, corrected)
    if left is None or not all(bool(entry >= 0) for entry in left):
        return None
    sides, weights = same.spread(cells.sides), same.spread(corrected.weights)
    relations = corrected.relations
    if relations is not None:
        relations = same.spread(same.spread(relations).T).T
    return Cells(sides, weights, relations)


def _exact_relations(local: Local, cells: Cells) -> Array | None:
    """Exact relations next to the given floats, between the same kinks."""
    if cells.relations is None:
        return None
    numbers = local.numbers
    assert isinstance(numbers, Rational)
    exact = numbers.array(cells.relations)
    for relation in exact:
        there = np.flatnonzero(relation)
        if len(there):
            rows = local.normals[there]
            relation[there] = relation[there] - numbers.multipliers(rows, relation[there] @ rows)
    return exact


def _are_near(local: Local, cells: Cells, exact: Cells) -> bool:
    """Whether exact weights and relations round to the given floats, but for the last digits."""
    floats = local.numbers.floats
    if (np.abs(floats(exact.weights) - cells.weights) > 1e-9 * (1 + np.abs(cells.weights))).any():
        return False
    if exact.relations is not None and cells.relations is not None:
        off = np.abs(floats(exact.relations) - cells.relations).max(initial=0.0)
        return bool(off <= 1e-12 * np.abs(cells.relations).max(initial=0.0))
    return True


def falls_in_all_patterns(local: Local, direction: Array) -> bool:
    """Whether the loss falls along `direction` in every pattern of dependent active kinks."""
    if len(local.active) > TOLERANCES.max_active:
        return False
    error = local.widest_error @ np.abs(direction) / 2
    return all(bool(g @ direction < -error) for g, _ in _patterns(local))


def _patterns(local: Local) -> Iterator[tuple[Array, Array]]:
    """Gradient and inward normals in every pattern of the active kinks, in binary order."""
    samples, switches = local.block.place(local.active)
    for sides in product([False, True], repeat=len(local.active)):
        gradient, rows = local.gradient.copy(), local.normals.copy()
        up = np.array(sides, dtype=np.bool_)
        for sample in np.unique(samples[up]):
            flips = switches[up & (samples == sample)].tolist()
            base, across = local.flipped(sample, []), local.flipped(sample, flips)
            change = local.sample_gradient(across, sample, flips)
            change = change - local.sample_gradient(base, sample, [])
            gradient = gradient + local.block.wide(change[None], np.array([sample]))[0]
            mine = np.flatnonzero(samples == sample)
            rows[mine] = local.block.wide(across.jacobians[0, switches[mine]], samples[mine])
        rows[~up] = -rows[~up]
        yield gradient, rows
