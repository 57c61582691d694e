"""Whether proofs show least sums, in float64: of squares, and of absolute residuals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reluscape.check_block import require
from reluscape.trees.problem import Problem
from reluscape.trees.proofs import Words

__all__ = ["Absolutes", "Squares"]

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


class Squares:
    """Checks least sums of squares.

    Args:
        problem: The layer.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem, target = problem, problem.layer.residual
        readouts = problem.units.readouts
        norms = np.linalg.norm(problem.columns, axis=0)
        norms[norms == 0] = np.inf  # a column of zeros is never in use
        self._columns = np.ascontiguousarray((problem.columns / norms).T)
        self._errors = problem.reach / norms
        self._right = readouts @ target.T @ self._columns.T
        self._mixing = readouts @ readouts.T
        held = problem.holds_products
        self._products = self._columns @ self._columns.T if held else None

    @property
    def numbers(self) -> int:
        """Numbers of a ray that are at hand at once."""
        most = self._problem.most_rays
        return most if self._products is not None else max(most, self._columns.shape[1])

    def _gram(self, rays: Indices) -> Floats:
        """Products of each cell's or facet's columns (rows, rays, rays)."""
        if self._products is not None:
            return np.asarray(self._products[rays[:, :, None], rays[:, None, :]])
        own = self._columns[rays]
        return np.asarray(own @ own.transpose(0, 2, 1))

    def __call__(self, rays: Indices, owners: Indices, proofs: Words) -> tuple[Floats, Bools]:
        """The sums, of the rays that are told; and where these do not clearly show that they are least.

        Args:
            rays: As `Places.rays` (rows, rays).
            owners: As there.
            proofs: In words (rows, words).
        """
        problem = self._problem
        there, used = rays >= 0, _bits(proofs)
        named = np.pad(there, ((0, 0), (0, used.shape[1] - rays.shape[1])))
        require(not (used & ~named).any(), "a proof names rays that are none")
        used = used[:, : rays.shape[1]]
        error, gram = self._errors[rays], self._gram(rays)
        gram = gram * self._mixing[owners[:, :, None], owners[:, None, :]]
        gram = np.where(there[:, :, None] & there[:, None, :], gram, 0.0)
        right = np.where(there, self._right[owners, rays], 0.0)
        both = used[:, :, None] & used[:, None, :]
        matrix = np.where(both, gram, 0.0) + np.eye(rays.shape[1]) * ~used[:, None, :]
        lengths = _solved(matrix, np.where(used, right, 0.0))
        size = float((problem.layer.residual**2).sum())
        slopes = right - np.einsum("kij,kj->ki", gram, lengths)
        least = size - ((right + slopes) * lengths).sum(axis=1)  # what none in the cell is below
        inside = lengths.clip(min=0.0)
        attained = size - ((2.0 * right - np.einsum("kij,kj->ki", gram, inside)) * inside).sum(
            axis=1
        )
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


class Absolutes:
    """Checks least sums of absolute residuals: a vertex, and slopes from -1 to 1 that balance there.

    Args:
        problem: The layer.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem, self._columns = problem, np.ascontiguousarray(problem.columns.T)

    @property
    def numbers(self) -> int:
        """Numbers of a ray that are at hand at once."""
        return max(self._problem.most_rays, self._problem.layer.residual.size)

    def __call__(self, rays: Indices, owners: Indices, proofs: Words) -> tuple[Floats, Bools]:
        """As `Squares`."""
        problem, readouts, most = self._problem, self._problem.units.readouts, rays.shape[1]
        target, count = problem.layer.residual.ravel(), problem.layer.residual.size
        there = rays >= 0
        design = self._columns[rays][:, :, :, None] * readouts[owners][:, :, None, :]
        design = np.where(there[:, :, None], design.reshape(*rays.shape, count), 0.0).transpose(
            0, 2, 1
        )
        basis = np.where(there, proofs[:, :most].astype(np.int64), count + np.arange(most))
        require(bool(((basis >= 0) & (basis < count + most)).all()), "a proof names what is none")
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
        told = _bits(proofs[:, problem.most_rays :])[:, :count]
        negative = np.where(np.abs(residuals) <= FLAT * scale, told, residuals < 0)
        slopes = np.where(inside[:, :count], 0.0, np.where(negative, -1.0, 1.0))
        balance = _solved(matrix.transpose(0, 2, 1), -np.einsum("kij,ki->kj", design, slopes))
        free = np.where(
            rows, np.abs(balance) - 1.0, -balance / np.maximum(_at(sizes, basis, count), _TINY)
        )
        sure &= (free <= FLAT).all(axis=1)
        total = np.abs(residuals).sum(axis=1)
        pulls = np.where(rows, balance * target[np.where(rows, basis, 0)], 0.0).sum(axis=1)
        sure &= (
            total - (slopes @ target + pulls) <= FLAT * scale
        )  # no sum is less than what slopes pull
        narrow = sure & (problem.narrow[rays] & there).any(axis=1) & (total > MISSED * scale)
        edges = np.abs(np.linalg.inv(matrix[narrow]))
        terms = np.einsum("kj,kjq->kq", sizes[narrow] + problem.reach * there[narrow], edges)
        clear = np.where(rows[narrow], terms <= STEEP, balance[narrow] > CLEAR_ABSOLUTE * terms)
        sure[narrow] = (clear | (basis[narrow] - count >= there[narrow].sum(axis=1)[:, None])).all(
            axis=1
        )
        return total, ~sure


def _bits(proofs: Words) -> Bools:
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


def _at(sizes: Floats, basis: Indices, count: int) -> Floats:
    """Sizes of the rays in a basis, one for its residuals."""
    picked = np.take_along_axis(sizes, np.where(basis < count, 0, basis - count), axis=1)
    return np.where((basis < count) | (picked == 0), 1.0, picked)
