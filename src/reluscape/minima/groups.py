"""Groups of units with one pattern, and the minimisers of the squared loss in their coordinates.

With orthonormal scores C of the distinct inputs (`x_i . w = C_i . q`), group g contributes `D_g C q_g`.
Of q_g only its part in the row space of `D_g C` reaches the outputs; the rest moves the switching values
of samples on which the group is silent. In orthonormal coordinates of the first part, all groups' outputs
are `U a`, and the minimisers of `|w - U a|` are `a = a* + N v` with any v.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from reluscape.minima.deepest import Sides
from reluscape.minima.units import RANK, Units, scores_of
from reluscape.singular import svd

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]

#: Share of the targets below which minimisers' lengths are no scale.
SMALL = 1e-2
#: Coordinates up to which a singular value decomposition is taken of U, not an eigenvalue one of U^T U.
DENSE = 2000
#: Share of its coefficients that free directions move a side by, to be constant up to rounding; the
#: second one, coarser, of the squares that are cheap to form.
CONSTANT, COARSE = 1e-10, 1e-6
#: Share of U's largest singular value at which others are zero but for rounding, and of its largest
#: square at which the eigenvalue decomposition of U^T U no longer says.
SINGULAR, SQUARES = 1e-10, 1e-9
#: Solutions by the squares of U, each of what the last one left.
REFINEMENTS = 4


@dataclass(frozen=True, slots=True)
class Group:
    """Units with one pattern.

    Attributes:
        units: Their numbers.
        sides: Signs of their switching values (distinct,).
        seen: q by the coordinates a: `q = seen a + silent b` (rank, coordinates).
        silent: Directions of q without an effect on any output (rank, silent).
        part: The group's coordinates among all.
    """

    units: Indices
    sides: Floats
    seen: Floats
    silent: Floats
    part: slice


@dataclass(frozen=True, slots=True)
class Groups:
    """All minimisers of the squared loss on a cell.

    Attributes:
        scores: C (distinct, rank).
        lengths: Lengths of C's rows (distinct,).
        back: Weights in the scaled columns by q (params, rank).
        groups: Groups of units that are not silent on all samples.
        outputs: U (distinct, coordinates), rows times the roots of the counts.
        axes: Right singular vectors of U that are not its null space (coordinates, rank).
        stretches: Squares of their singular values (rank,).
        best: a* (coordinates,).
        free: N (coordinates, k).
        squares: Sum of the squared residuals of distinct inputs.
        size: Length that a minimiser may be expected to have.
        clear: Whether the scores are accurate, so that no part of the outputs is lost in their rounding.
    """

    scores: Floats
    lengths: Floats
    back: Floats
    groups: tuple[Group, ...]
    outputs: Floats
    axes: Floats
    stretches: Floats
    best: Floats
    free: Floats
    squares: float
    size: float
    clear: bool

    @classmethod
    def of(cls, units: Units) -> Groups:
        """Reduce a cell.

        Cost: a singular value decomposition of the inputs for each group, and one of U.
        """
        left, back, noise = scores_of(units.samples)
        roots, factors, sides = np.sqrt(units.samples.counts), units.factors, units.sides
        alive = np.flatnonzero(factors.any(axis=0))
        _, number = np.unique(_columns(units.pattern[:, alive]), return_inverse=True)
        groups, parts, start = [], [], 0
        for one in range(number.max(initial=-1) + 1):
            members = alive[number.ravel() == one]
            scaled = (roots * factors[:, members[0]])[:, None] * left
            outputs, values, rows = _whole(scaled, max(RANK, noise))
            rank = len(values)
            stop = start + rank
            seen, silent = rows[:rank].T / values, rows[rank:].T
            groups.append(Group(members, sides[:, members[0]], seen, silent, slice(start, stop)))
            parts.append(outputs)
            start = stop
        together = np.hstack([np.empty((len(left), 0)), *parts])
        axes, stretches, free = _decomposed(together)
        wanted = roots * units.targets
        best = _solved(together, axes, stretches, together.T @ wanted)
        squares = float(((wanted - together @ best) ** 2).sum())
        lengths = np.linalg.norm(left, axis=1)
        size = max(float(np.linalg.norm(best)), SMALL * float(np.linalg.norm(wanted))) or 1.0
        return cls(
            left, lengths, back, tuple(groups), together, axes, stretches, best, free, squares, size,
            noise <= RANK,
        )  # fmt: skip

    @property
    def fitted(self) -> Floats:
        """Outputs of all minimisers, times the roots of the counts (distinct,)."""
        return np.asarray(self.outputs @ self.best)

    def combination(self, pull: Floats) -> Floats:
        """Coordinates m without a part in the null space, and `U^T U m = pull` where that can be."""
        return _solved(self.outputs, self.axes, self.stretches, pull)

    @property
    def num_free(self) -> int:
        """Number of directions in which a minimiser is free for all groups together."""
        return int(self.free.shape[1])

    @property
    def rank(self) -> int:
        """Rank of the outputs' derivatives by all units' weights."""
        return len(self.best) - self.num_free

    @property
    def variables(self) -> int:
        """Numbers that a minimiser is free in: v, then each group's b."""
        return self.offset(len(self.groups))

    def offset(self, place: int) -> int:
        """Where a group's b begins among the variables."""
        return self.num_free + sum(int(one.silent.shape[1]) for one in self.groups[:place])

    def point(self, place: int, variables: Floats) -> Floats:
        """Q of a group (rank,)."""
        group, start = self.groups[place], self.offset(place)
        moved = self.best[group.part] + self.free[group.part] @ variables[: self.free.shape[1]]
        silent = variables[start : start + group.silent.shape[1]]
        return np.asarray(group.seen @ moved + group.silent @ silent)

    def nearest(self, points: Sequence[Floats]) -> list[Floats]:
        """The minimiser nearest to some q of each group, by the outputs' coordinates."""
        along = [(group.seen / (group.seen**2).sum(axis=0)).T @ q
                 for group, q in zip(self.groups, points, strict=True)]  # fmt: skip
        before = np.concatenate([np.empty(0), *along])
        moved = self.combination(self.outputs.T @ (self.fitted - self.outputs @ before))
        return [q + group.seen @ moved[group.part]
                for group, q in zip(self.groups, points, strict=True)]  # fmt: skip

    def depths(self, place: int, q: Floats) -> Floats:
        """Depths of a group's q in its cone for positive output weights (distinct,)."""
        return np.asarray(self.groups[place].sides * (self.scores @ q) / self.lengths)

    def constant(self, place: int) -> tuple[Indices, Floats]:
        """Sides of a group that have one depth at all minimisers, and it, for positive output weights.

        The clearest ones come first.

        Cost: two products of the scores with square matrices.
        """
        group = self.groups[place]
        moving = np.hstack([group.seen @ self.free[group.part], group.silent])
        size = float(np.linalg.norm(group.seen, 2)) or 1.0
        squares = ((self.scores @ (moving @ moving.T)) * self.scores).sum(axis=1)
        some = np.flatnonzero(squares <= (COARSE * size * self.lengths) ** 2)
        moved = np.linalg.norm(self.scores[some] @ moving, axis=1)
        depths = group.sides[some] * (self.scores[some] @ (group.seen @ self.best[group.part]))
        kept = (moved <= CONSTANT * size * self.lengths[some]) & (np.abs(depths) > moved)
        order = np.argsort(moved[kept] / np.abs(depths[kept]), kind="stable")
        return some[kept][order], (depths / self.lengths[some])[kept][order]

    def sides_of(self, place: int, sign: float) -> Sides:
        """The sides of a group's cone where its output weights have this sign."""
        group, start = self.groups[place], self.offset(place)
        turned = sign * group.sides / self.lengths
        count = self.free.shape[1]

        def rows(chosen: Indices) -> Floats:
            found = np.zeros((len(chosen), self.variables))
            scores = turned[chosen, None] * self.scores[chosen]
            found[:, :count] = scores @ group.seen @ self.free[group.part]
            found[:, start : start + group.silent.shape[1]] = scores @ group.silent
            return found

        return Sides(lambda x: turned * (self.scores @ self.point(place, x)), rows)


def _columns(pattern: Bools) -> NDArray[np.void]:
    """Columns of signs as single values that can be compared."""
    packed = np.ascontiguousarray(np.packbits(pattern, axis=0).T)
    return packed.view(np.dtype((np.void, packed.shape[1]))).ravel()


def _whole(rows: Floats, least: float) -> tuple[Floats, Floats, Floats]:
    """Singular value decomposition without zeros but for rounding, and right rows that span all."""
    left, values, right = svd(rows)
    rank = int((values > least * values.max(initial=0.0)).sum())
    if len(right) < rows.shape[1] and rank < rows.shape[1]:
        right = np.vstack([right[:rank], _complement(right[:rank])])
    return left[:, :rank], values[:rank], right


def _complement(rows: Floats) -> Floats:
    """Orthonormal rows that span what the given ones leave."""
    return np.asarray(np.linalg.qr(rows.T, mode="complete")[0][:, len(rows) :].T)


def _decomposed(matrix: Floats) -> tuple[Floats, Floats, Floats]:
    """Right singular vectors, squares of the singular values, and the null space."""
    samples, size = matrix.shape
    if size == 0:
        return np.empty((0, 0)), np.empty(0), np.empty((0, 0))
    if size <= DENSE or samples < size:
        _, values, right = svd(matrix)
        rank = int((values > SINGULAR * values.max(initial=0.0)).sum())
        rest = _complement(right[:rank]) if rank < size else np.empty((0, size))
        return right[:rank].T, values[:rank] ** 2, rest.T
    squares, vectors = eigh(matrix.T @ matrix, driver="evd")
    most = float(squares.max(initial=0.0))
    clear, unclear = vectors[:, squares > SQUARES * most], vectors[:, squares <= SQUARES * most]
    _, values, right = svd(matrix @ unclear)  # which squaring has cost half the digits
    turned, kept = unclear @ right.T, values > SINGULAR * most**0.5
    axes = np.hstack([clear, turned[:, kept]])
    return axes, np.append(squares[squares > SQUARES * most], values[kept] ** 2), turned[:, ~kept]


def _solved(matrix: Floats, axes: Floats, stretches: Floats, pull: Floats) -> Floats:
    """Solve `U^T U m = pull` on the axes; refined, because squaring U squares its condition."""
    found = np.zeros(len(pull))
    for _ in range(REFINEMENTS):
        found += axes @ ((axes.T @ (pull - matrix.T @ (matrix @ found))) / stretches)
    return found
