"""Least losses of cells and facets from their proofs, in NumPy and many at once.

What float64 does not clearly show is decided in rational arithmetic, one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reluscape.check_block import RejectedError, require
from reluscape.errors import AnalysisError, InputError
from reluscape.trees.problem import Problem, Proofs

if TYPE_CHECKING:
    from reluscape.trees.rational import Exact

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]

#: Slopes below this share of `|column| |target|` are not negative.
FLAT = 1e-9
#: Where cells are narrow, they have to be below minus this.
CLEAR, CLEAR_ABSOLUTE = 1e-13, 2e-14
#: Or far enough from what is in use, as a share of their squares, that what they may take from the sum is
#: below this share of that at zero.
UNSEEN, MISSED = 1e-14, 1e-10
#: Rounding errors of a column of length one, for each length of the samples over the column's.
ERROR = 1e-15
#: Lengths of columns over the target's from which on float64 has lost too many digits; and those of
#: rays, times the samples'.
LONG, LONG_ABSOLUTE, FAR = 600.0, 2e4, 3e5
#: Terms behind an edge's slope over its length from which on it has.
STEEP = 1e6
_TINY = float(np.finfo(np.float64).tiny)

#: Numbers in the arrays of a batch.
BATCH = 4 * 10**6


def checked_values(
    problem: Problem, kind: str, proofs: Proofs, bundle: Indices, alive: Bools
) -> Floats:
    """The least loss of every cell or facet; infinite where no loss is of interest.

    Args:
        problem: The layer.
        kind: "cells" or "facets".
        proofs: Of those that are neither another's exchange of units nor of no interest, ascending.
        bundle: Of each of a unit's cells (cells,).
        alive: Whether cells with units in these bundles are of interest (bundles ** units,).

    Raises:
        RejectedError: A proof is none.
    """
    places = _Places.cells(problem) if kind == "cells" else _Places.facets(problem)
    chosen, open_ = places.own(problem), places.open(problem, bundle, alive)
    codes = np.flatnonzero(chosen & open_)
    shape = (len(codes), problem.proof_words)
    require(proofs.shape == shape, f"it proves the least losses of another number of {kind}")
    least, exactly = np.full(len(chosen), np.inf), _Exactly(problem)
    check = _absolutes if problem.layer.is_l1 else _squares
    step = max(1, BATCH // (problem.most_rays * max(problem.most_rays, _rows(problem))))
    for start in range(0, len(codes), step):
        part = codes[start : start + step]
        rays, owners = places.rays(problem, part)
        told = proofs[start : start + step]
        least[part], doubtful = check(problem, rays, owners, told)
        for row in np.flatnonzero(doubtful).tolist():
            own = rays[row] >= 0
            least[part[row]] = exactly(rays[row, own], owners[row, own], told[row])
    copied = np.flatnonzero(~chosen)
    least[copied] = least[places.sources(problem, copied)]
    return problem.layer.scale * least


class _Exactly:
    """Least sums of single cells and facets by their proofs, in rational arithmetic."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem

    @cached_property
    def _exact(self) -> Exact:
        from reluscape.trees.rational import Exact

        return Exact(self._problem)

    def __call__(self, rays: Indices, owners: Indices, proof: Proofs) -> float:
        """The least sum, rounded.

        Raises:
            RejectedError: The proof is none, or rational arithmetic cannot tell.
        """
        try:
            value = self._exact.proved(rays, owners, proof)
        except (AnalysisError, InputError) as error:
            raise RejectedError(f"float64 does not tell a least loss: {error}") from error
        return float(self._exact.numbers.floats(np.array([value]))[0])


def _rows(problem: Problem) -> int:
    """Numbers that a batch has of each column: residuals or, where products are not held, samples."""
    if problem.layer.is_l1:
        return problem.layer.residual.size
    return 1 if problem.holds_products else len(problem.columns)


@dataclass(frozen=True, slots=True)
class _Places:
    """Which cells of the units a cell or facet belongs to.

    Attributes:
        cells: Of each unit, -1 for the unit that a facet is one of (places, units).
        unit: That unit, -1 for cells (places,).
        facet: Its facet, -1 for cells (places,).
    """

    cells_of: Indices
    unit: Indices
    facet: Indices

    @classmethod
    def cells(cls, problem: Problem) -> _Places:
        """All cells."""
        units, count, _ = problem.shape
        codes = np.arange(problem.num_cells)
        none = np.full(len(codes), -1)
        return cls(_digits(codes, units, count), none, none)

    @classmethod
    def facets(cls, problem: Problem) -> _Places:
        """All facets."""
        units, count, facets = problem.shape
        codes, rest = np.arange(problem.num_facets), count ** max(units - 1, 0)
        unit, facet = codes // (max(facets, 1) * rest), codes // rest % max(facets, 1)
        others = _digits(codes % rest, units - 1, count)
        found = np.full((len(codes), units), -1)
        for k in range(units):
            rows = unit == k
            found[rows] = np.insert(others[rows], k, -1, axis=1)
        return cls(found, unit, facet)

    def own(self, problem: Problem) -> Bools:
        """Those that are solved for themselves: cells of units that act alike ascend."""
        groups = problem.units.groups
        found = np.ones(len(self.unit), dtype=np.bool_)
        for first in np.unique(groups):
            members = np.flatnonzero(groups == first)
            among = np.isin(self.unit, members)
            found &= ~among | (self.unit == first)
            found &= (np.diff(self.cells_of[:, members], axis=1) >= 0).all(axis=1)
        return found

    def open(self, problem: Problem, bundle: Indices, alive: Bools) -> Bools:
        """Those that may have a loss of interest; facets where both cells may."""
        count = int(bundle.max(initial=0)) + 1
        powers = count ** np.arange(problem.shape[0] - 1, -1, -1)
        if (self.unit < 0).all():
            return np.asarray(alive[bundle[self.cells_of] @ powers])
        found = np.ones(len(self.unit), dtype=np.bool_)
        rows = np.arange(len(self.unit))
        for side in (0, 1):
            cells = self.cells_of.copy()
            cells[rows, self.unit] = problem.pairs[self.facet, side]
            found &= alive[bundle[cells] @ powers]
        return found

    def sources(self, problem: Problem, rows: Indices) -> Indices:
        """Those that have the same least loss and are solved for themselves."""
        units, count, facets = problem.shape
        groups, cells = problem.units.groups, self.cells_of[rows]
        for first in np.unique(groups):
            members = np.flatnonzero(groups == first)
            cells[:, members] = np.sort(cells[:, members], axis=1)  # a facet's -1 comes first
        if (self.unit[rows] < 0).all():
            return np.asarray(cells @ count ** np.arange(units - 1, -1, -1))
        unit = groups[self.unit[rows]]
        rest = count ** (units - 1)
        others = np.zeros(len(rows), dtype=np.int64)
        for k in range(units):
            others = np.where(unit == k, others, others * count + cells[:, k])
        return np.asarray((unit * facets + self.facet[rows]) * rest + others)

    def rays(self, problem: Problem, rows: Indices) -> tuple[Indices, Indices]:
        """Rays of some, -1 behind the last, and the units that they are of (rows, rays)."""
        cells, facets = (
            _padded(problem.starts, problem.rays),
            _padded(problem.facet_starts, problem.facet_rays),
        )
        none = np.empty((len(rows), 0), dtype=np.int64)
        parts, owners = [none], [none]
        for k in range(problem.shape[0]):
            own = cells[self.cells_of[rows, k]]
            there = self.unit[rows] == k
            if there.any():
                own[there] = -1
                own[there, : facets.shape[1]] = facets[self.facet[rows[there]]]
            parts.append(own)
            owners.append(np.full(own.shape, k))
        rays, units = np.hstack(parts), np.hstack(owners)
        order = np.argsort(rays < 0, axis=1, kind="stable")[:, : problem.most_rays]
        return np.take_along_axis(rays, order, axis=1), np.take_along_axis(units, order, axis=1)


def _digits(codes: Indices, units: int, count: int) -> Indices:
    """Digits to a base, the highest first (codes, units)."""
    powers = count ** np.arange(units - 1, -1, -1)
    return np.asarray(codes[:, None] // powers % count, dtype=np.int64)


def _padded(starts: Indices, values: Indices) -> Indices:
    """Lists of different lengths as rows, -1 behind the last."""
    found = np.full((len(starts) - 1, int(np.diff(starts).max(initial=0))), -1)
    for row, (start, stop) in enumerate(pairwise(starts.tolist())):
        found[row, : stop - start] = values[start:stop]
    return found


def _squares(
    problem: Problem, rays: Indices, owners: Indices, proofs: Proofs
) -> tuple[Floats, Bools]:
    """Least sums of squares, of the rays that are told; and where these do not clearly show it."""
    there, used = rays >= 0, _bits(proofs)
    named = np.pad(there, ((0, 0), (0, used.shape[1] - rays.shape[1])))
    require(not (used & ~named).any(), "a proof names rays that are none")
    used = used[:, : rays.shape[1]]
    readouts, target = problem.units.readouts, problem.layer.residual
    norms = np.linalg.norm(problem.columns, axis=0)
    norms[norms == 0] = np.inf  # a column of zeros is never in use
    columns, error = problem.columns / norms, (problem.reach / norms)[rays]
    gram = _products(problem, columns, rays)
    gram = gram * (readouts @ readouts.T)[owners[:, :, None], owners[:, None, :]]
    gram = np.where(there[:, :, None] & there[:, None, :], gram, 0.0)
    right = np.where(there, (readouts @ target.T @ columns)[owners, rays], 0.0)
    both = used[:, :, None] & used[:, None, :]
    matrix = np.where(both, gram, 0.0) + np.eye(rays.shape[1]) * ~used[:, None, :]
    lengths = _solved(matrix, np.where(used, right, 0.0))
    size = float((target**2).sum())
    slopes = right - np.einsum("kij,kj->ki", gram, lengths)
    least = size - ((right + slopes) * lengths).sum(axis=1)  # what none in the cell is below
    inside = lengths.clip(min=0.0)
    attained = size - ((2.0 * right - np.einsum("kij,kj->ki", gram, inside)) * inside).sum(axis=1)
    sure = (slopes <= FLAT * size**0.5).all(axis=1) & (attained - least <= FLAT * size)
    sure &= (inside * np.maximum(1.0, error * LONG / FAR) <= LONG * size**0.5).all(axis=1)
    narrow = sure & (problem.narrow[rays] & there).any(axis=1) & (attained > MISSED * size)
    if not narrow.any():
        return attained.clip(min=0.0), ~sure
    inverse = np.linalg.inv(matrix[narrow])
    near = np.where(used[narrow][:, :, None], gram[narrow], 0.0)
    squares = np.diagonal(gram[narrow], axis1=1, axis2=2)
    told = np.abs(np.diagonal(inverse, axis1=1, axis2=2)) < 1.0 / UNSEEN  # of those in use
    falls = slopes[narrow] / size**0.5 + ERROR * error[narrow]
    open_ = ~used[narrow] & (squares > 0) & (falls > -CLEAR)
    apart = gram[narrow] - near.transpose(0, 2, 1) @ inverse @ near
    apart = np.where(open_[:, :, None] & open_[:, None, :], apart, 0.0)
    apart += np.eye(rays.shape[1]) * ~open_[:, None, :]
    nearest = np.linalg.eigvalsh(apart)[:, 0]  # of what they leave of each other, too
    gains = np.where(open_, falls.clip(min=0.0), 0.0) ** 2
    small = (nearest > UNSEEN) & (gains.sum(axis=1) <= MISSED * nearest)
    sure[narrow] = small & (told | ~used[narrow]).all(axis=1)
    return attained.clip(min=0.0), ~sure


def _products(problem: Problem, columns: Floats, rays: Indices) -> Floats:
    """Products of each cell's or facet's columns (rows, rays, rays)."""
    if problem.holds_products:
        return np.asarray((columns.T @ columns)[rays[:, :, None], rays[:, None, :]])
    own = columns.T[rays]
    return np.asarray(own @ own.transpose(0, 2, 1))


def _bits(proofs: Proofs) -> Bools:
    """Words as bits, the lowest first."""
    words = np.ascontiguousarray(proofs.astype("<u8")).view(np.uint8)
    return np.unpackbits(words, axis=1, bitorder="little").astype(np.bool_)


def _solved(matrices: Floats, right: Floats) -> Floats:
    """Solutions of linear equations, one for each row; NaN where they have none or many."""
    try:
        return np.asarray(np.linalg.solve(matrices, right[:, :, None])[:, :, 0])
    except np.linalg.LinAlgError:
        if len(matrices) == 1:
            return np.full(right.shape, np.nan)
        half = len(matrices) // 2
        return np.concatenate(
            [_solved(matrices[:half], right[:half]), _solved(matrices[half:], right[half:])]
        )


def _absolutes(
    problem: Problem, rays: Indices, owners: Indices, proofs: Proofs
) -> tuple[Floats, Bools]:
    """Least sums of absolute residuals; and where they are not clearly shown.

    What shows them is a vertex, and slopes between -1 and 1 that balance there.
    """
    layer, readouts, most = problem.layer, problem.units.readouts, rays.shape[1]
    target, count = layer.residual.ravel(), layer.residual.size
    there = rays >= 0
    design = problem.columns.T[rays][:, :, :, None] * readouts[owners][:, :, None, :]
    design = np.where(there[:, :, None], design.reshape(*rays.shape, count), 0.0).transpose(0, 2, 1)
    basis = np.where(there, proofs[:, :most].astype(np.int64), count + np.arange(most))
    require(bool((basis < count + most).all()), "a proof names what is none")
    rows = basis < count
    axes = np.eye(most)[np.where(rows, 0, basis - count)]
    picked = np.take_along_axis(design, np.where(rows, basis, 0)[:, :, None], axis=1)
    matrix = np.where(rows[:, :, None], picked, axes)
    lengths = _solved(matrix, np.where(rows, target[np.where(rows, basis, 0)], 0.0))
    scale, sizes = float(np.abs(target).sum()), np.abs(design).sum(axis=1)
    sure = (lengths * sizes >= -FLAT * scale).all(axis=1)
    most_size = np.maximum(sizes, problem.reach * LONG_ABSOLUTE / FAR)
    sure &= (lengths * most_size <= LONG_ABSOLUTE * scale).all(axis=1)
    lengths = lengths.clip(min=0.0)
    residuals = target - np.einsum("kij,kj->ki", design, lengths)
    inside = np.zeros((len(rays), count + 1), dtype=np.bool_)
    np.put_along_axis(inside, np.where(rows, basis, count), True, axis=1)
    slopes = np.where(
        inside[:, :count], 0.0, np.where(proofs[:, problem.most_rays :] > 0, 1.0, -1.0)
    )
    sure &= (slopes * residuals >= -FLAT * scale).all(axis=1)
    balance = _solved(matrix.transpose(0, 2, 1), -np.einsum("kij,ki->kj", design, slopes))
    free = np.where(
        rows, np.abs(balance) - 1.0, -balance / np.maximum(_at(sizes, basis, count), _TINY)
    )
    sure &= (free <= FLAT).all(axis=1)
    total = np.abs(residuals).sum(axis=1)
    narrow = sure & (problem.narrow[rays] & there).any(axis=1) & (total > MISSED * scale)
    edges = np.abs(np.linalg.inv(matrix[narrow]))
    terms = np.einsum("kj,kjq->kq", sizes[narrow] + problem.reach * there[narrow], edges)
    clear = np.where(rows[narrow], terms <= STEEP, balance[narrow] > CLEAR_ABSOLUTE * terms)
    sure[narrow] = (clear | (basis[narrow] - count >= there[narrow].sum(axis=1)[:, None])).all(
        axis=1
    )
    return total, ~sure


def _at(sizes: Floats, basis: Indices, count: int) -> Floats:
    """Sizes of the rays in a basis, one for its residuals."""
    picked = np.take_along_axis(sizes, np.where(basis < count, 0, basis - count), axis=1)
    return np.where((basis < count) | (picked == 0), 1.0, picked)
