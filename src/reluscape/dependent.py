"""Claims at dependent active kinks, checked: the weights of `adjacent.py` as products, without a solver.

With g, a_k, s_k, c_qk as there, weights u that write the gradient, `g + sum_k u_k a_k = 0`, between zero
and `C_k = s_k + sum_q c_qk u_q`, show that the loss falls in no direction; in a part of the directions in
which kink k has one side only, one of its two bounds is enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reluscape.arithmetic import Rational, left_inverse_sizes, split_errors
from reluscape.certificate import Claim, cover_all
from reluscape.exactly import gradient_is_spanned
from reluscape.tolerances import TOLERANCES

if TYPE_CHECKING:
    from reluscape.local import Local

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Cells:
    """Parts of the directions with the weights that show a minimum (`Certificate.cells`, `.sides`)."""

    sides: NDArray[np.int8]
    weights: Array


def claim_of_cells(
    local: Local, multipliers: Array, scale: float, cells: Cells | None
) -> tuple[Claim, float]:
    """The claim where the active normals are dependent, and the curvature it uses."""
    if cells is None or not cover_all(cells.sides):
        return "undecided", float("nan")
    if not (local.numbers.exact or local.stationary_radius(multipliers) is not None):
        return "undecided", float("nan")
    if local.numbers.exact:
        corrected = exact_cells(local, cells)
        near = 1e-9 * (1.0 + np.abs(cells.weights))
        if (
            corrected is None
            or (np.abs(local.numbers.floats(corrected) - cells.weights) > near).any()
        ):
            return "undecided", float("nan")
        cells = Cells(cells.sides, corrected)
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
    jumps, bends = local.jumps_and_bends()
    gaps = local.gradient + cells.weights @ local.normals
    found = np.stack([cells.weights, jumps + cells.weights @ bends - cells.weights], axis=2)
    asked = np.stack([cells.sides <= 0, cells.sides >= 0], axis=2)
    if local.numbers.exact:
        return None if any(bool(entry != 0) for entry in gaps.ravel()) else found[asked]
    spread = _spread(local, cells.weights, gaps, scale)
    if spread is None:
        return None
    noise = TOLERANCES.rounding * local.block.terms * np.finfo(float).eps
    wide = spread + spread @ np.abs(bends) + noise * np.abs(found).sum(axis=2)
    errors = np.stack([spread, wide], axis=2)
    exactly = (found == 0) & (errors == 0) & (cells.weights == 0)[:, :, None]
    left = np.where(exactly | (found > scale * errors), found - scale * errors, -np.inf)
    return np.asarray(left[asked])


def _spread(local: Local, weights: Array, gaps: Array, scale: float) -> Array | None:
    """Bounds on the weights' errors; None where they are not certain to write the exact gradient.

    Weights of zero are exact: the others' normals must then span the gradient alone.
    """
    spread = np.zeros(weights.shape)
    for pattern in np.unique(weights != 0, axis=0):
        here = np.flatnonzero(((weights != 0) == pattern).all(axis=1))
        for gap, row in zip(gaps[here], weights[here], strict=True):
            split = 2 * float(np.linalg.norm(local.gradient_error)) + local.split_error(row)
            if not np.linalg.norm(gap) <= max(1.0, scale) * split:
                return None
        if not gradient_is_spanned(
            local.landscape,
            local.layer,
            (local.theta, local.block.vector_of(local.bits), local.active),
            local.normals,
            pattern,
            (local.gradient, local.gradient_error),
        ):
            return None
        errors = local.gradient_error + split_errors(weights[here], local.normals)
        errors = errors + np.abs(gaps[here])
        spread[np.ix_(here, pattern)] = errors @ left_inverse_sizes(local.normals[pattern]).T
    return spread


def exact_cells(local: Local, cells: Cells) -> Array | None:
    """Exact weights next to the given floats, or None.

    Weights that are at a bound but for rounding are put on it, the others corrected so that they
    write the gradient exactly. A gradient that is a ball lies in the normals' span because the point
    is stationary.
    """
    numbers, found = local.numbers, []
    assert isinstance(numbers, Rational)
    jumps, bends = local.jumps_and_bends()
    rank = numbers.independent_rank(local.normals)
    deepest_first = np.argsort(-local.block.place(local.active)[1], kind="stable")
    for side, weights in zip(cells.sides, cells.weights, strict=True):
        exact, tiny = numbers.array(weights), 1e-12 * np.abs(weights).max(initial=0.0)
        free = np.ones(len(weights), dtype=np.bool_)
        for k in deepest_first:
            ceiling = jumps[k] + bends[:, k] @ exact
            for bound, open_side in ((0 * exact[k], 1), (ceiling, -1)):
                off = numbers.floats(np.array([bound - exact[k]], dtype=object))[0]
                if side[k] != open_side and abs(off) <= tiny and free[k]:
                    exact[k], free[k] = bound, False
        kept = np.flatnonzero(free)
        change = numbers.multipliers(local.normals[kept], -local.gradient - local.normals.T @ exact)
        exact[kept] = exact[kept] + change
        gap = local.gradient + local.normals.T @ exact
        spanning = numbers.independent_rank(local.normals[kept]) == rank
        if not spanning and not all(bool(entry == 0) for entry in gap):
            return None  # a ball around zero is not zero
        found.append(exact)
    exact = np.array(found, dtype=object)
    left = margins(local, Cells(cells.sides, exact))
    return exact if left is not None and all(bool(entry >= 0) for entry in left) else None


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
