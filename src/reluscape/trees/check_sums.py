"""Least losses of cells and facets from their proofs, in NumPy and many at once."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from reluscape.check_block import RejectedError, require
from reluscape.trees.problem import Problem, Proofs

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]

#: Slopes below this share of `|column| |target|` are not negative.
FLAT = 1e-9
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
    least = np.full(len(chosen), np.inf)
    step = max(1, BATCH // (problem.most_rays * max(problem.most_rays, _rows(problem))))
    for start in range(0, len(codes), step):
        part = codes[start : start + step]
        rays, owners = places.rays(problem, part)
        check = _absolutes if problem.layer.is_l1 else _squares
        least[part] = check(problem, rays, owners, proofs[start : start + step])
    copied = np.flatnonzero(~chosen)
    least[copied] = least[places.sources(problem, copied)]
    return problem.layer.scale * least


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


def _squares(problem: Problem, rays: Indices, owners: Indices, proofs: Proofs) -> Floats:
    """Least sums of squares: of the rays that are told, and falling along none of the others."""
    there, used = rays >= 0, _bits(proofs)
    named = np.pad(there, ((0, 0), (0, used.shape[1] - rays.shape[1])))
    require(not (used & ~named).any(), "a proof names rays that are none")
    used = used[:, : rays.shape[1]]
    readouts, target = problem.units.readouts, problem.layer.residual
    columns = problem.columns / np.maximum(np.linalg.norm(problem.columns, axis=0), _TINY)
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
    wrong = (slopes > FLAT * np.sqrt(size)).any(axis=1) | (attained - least > FLAT * size)
    for row in np.flatnonzero(wrong).tolist():  # products have lost too much
        own = there[row]
        design = (columns[:, rays[row, own]][:, None, :] * readouts[owners[row, own]].T).reshape(
            target.size, -1
        )
        attained[row] = _square(design, target.ravel(), used[row, own])
    return np.asarray(attained.clip(min=0.0))


def _products(problem: Problem, columns: Floats, rays: Indices) -> Floats:
    """Products of each cell's or facet's columns (rows, rays, rays)."""
    if problem.holds_products:
        return np.asarray((columns.T @ columns)[rays[:, :, None], rays[:, None, :]])
    own = columns.T[rays]
    return np.asarray(own @ own.transpose(0, 2, 1))


def _square(design: Floats, target: Floats, used: Bools) -> float:
    """The least sum of squares of one cell or facet, from its columns."""
    lengths = np.zeros(len(used))
    lengths[used] = np.linalg.lstsq(design[:, used], target, rcond=None)[0]
    rest, size = target - design @ lengths, float(np.linalg.norm(target))
    falls = float((design.T @ rest).max(initial=0.0))
    require(falls <= FLAT * size, "a loss is not the least one of its cell or facet")
    inside = target - design @ lengths.clip(min=0.0)
    attained, least = float(inside @ inside), float(rest @ rest)
    require(attained - least <= FLAT * size**2, "a minimiser is not in its cell")
    return attained


def _bits(proofs: Proofs) -> Bools:
    """Words as bits, the lowest first."""
    words = np.ascontiguousarray(proofs.astype("<u8")).view(np.uint8)
    return np.unpackbits(words, axis=1, bitorder="little").astype(np.bool_)


def _solved(matrices: Floats, right: Floats) -> Floats:
    """Solutions of linear equations, one for each row."""
    try:
        return np.asarray(np.linalg.solve(matrices, right[:, :, None])[:, :, 0])
    except np.linalg.LinAlgError as error:
        raise RejectedError("a proof is made of what depends on each other") from error


def _absolutes(problem: Problem, rays: Indices, owners: Indices, proofs: Proofs) -> Floats:
    """Least sums of absolute residuals: a vertex, and slopes between -1 and 1 that balance there."""
    layer, readouts, most = problem.layer, problem.units.readouts, problem.most_rays
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
    scale = float(np.abs(target).sum())
    sizes = np.abs(design).sum(axis=1)
    require(bool((lengths * sizes >= -FLAT * scale).all()), "a proof's point lies outside")
    lengths = lengths.clip(min=0.0)
    residuals = target - np.einsum("kij,kj->ki", design, lengths)
    inside = np.zeros((len(rays), count + 1), dtype=np.bool_)
    np.put_along_axis(inside, np.where(rows, basis, count), True, axis=1)
    slopes = np.where(inside[:, :count], 0.0, np.where(proofs[:, most:] > 0, 1.0, -1.0))
    wrong = (slopes * residuals < -FLAT * scale).any()
    require(not wrong, "a residual has another sign")
    balance = _solved(matrix.transpose(0, 2, 1), -np.einsum("kij,ki->kj", design, slopes))
    free = np.where(
        rows, np.abs(balance) - 1.0, -balance / np.maximum(_at(sizes, basis, count), _TINY)
    )
    require(bool((free <= FLAT).all()), "a loss is not the least one of its cell or facet")
    return np.asarray(np.abs(residuals).sum(axis=1))


def _at(sizes: Floats, basis: Indices, count: int) -> Floats:
    """Sizes of the rays in a basis, one for its residuals."""
    picked = np.take_along_axis(sizes, np.where(basis < count, 0, basis - count), axis=1)
    return np.where((basis < count) | (picked == 0), 1.0, picked)
