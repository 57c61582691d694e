"""Least losses of cells and facets from their proofs, in NumPy and many at once.

What float64 does not clearly show is decided in rational arithmetic, one by one.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reluscape.check_block import RejectedError, require
from reluscape.errors import AnalysisError, InputError
from reluscape.trees.check_least import Absolutes, Squares
from reluscape.trees.check_places import Places
from reluscape.trees.problem import Problem
from reluscape.trees.proofs import Proofs, Words

if TYPE_CHECKING:
    from reluscape.trees.rational import Exact

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]

#: Cells or facets that are gone through at once, and numbers in the arrays of a batch of these.
MANY, BATCH = 10**6, 4 * 10**6
#: What is said of another number of proofs.
OTHER = "it proves the least losses of another number of {}"


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
    count = problem.num_cells if kind == "cells" else problem.num_facets
    least, chosen, done = np.full(count, np.inf), np.empty(count, dtype=np.bool_), 0
    check_proofs(problem, proofs)
    shown = _Shown(problem)
    for start in range(0, count, MANY):
        codes = np.arange(start, min(start + MANY, count))
        places = Places.of(problem, kind, codes)
        chosen[codes] = places.own(problem)
        rows = np.flatnonzero(chosen[codes] & places.open(problem, bundle, alive))
        require(done + len(rows) <= len(proofs.bases), OTHER.format(kind))
        least[codes[rows]] = shown.sums(places[rows], proofs, done)
        done += len(rows)
    require(done == len(proofs.bases), OTHER.format(kind))
    copied = np.flatnonzero(~chosen)
    for start in range(0, len(copied), MANY):
        codes = copied[start : start + MANY]
        least[codes] = least[Places.of(problem, kind, codes).sources(problem)]
    return problem.layer.scale * least


class _Shown:
    """Least sums by their proofs.

    Args:
        problem: The layer.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem, self._exactly = problem, _Exactly(problem)
        self._check = Absolutes(problem) if problem.layer.is_l1 else Squares(problem)
        self._step = max(1, BATCH // (problem.most_rays * self._check.numbers))

    def sums(self, places: Places, proofs: Proofs, first: int) -> Floats:
        """Of some cells or facets, whose proofs begin at the first.

        Raises:
            RejectedError: A proof is none.
        """
        sums = np.empty(len(places.unit))
        for start in range(0, len(sums), self._step):
            part = slice(start, min(start + self._step, len(sums)))
            rays, owners = places[part].rays(self._problem)
            told = proofs.words(self._problem, first + part.start, first + part.stop)
            sums[part], doubtful = self._check(rays, owners, told)
            for row in np.flatnonzero(doubtful).tolist():
                own = rays[row] >= 0
                sums[start + row] = self._exactly(rays[row, own], owners[row, own], told[row])
        return sums


def check_proofs(problem: Problem, proofs: Proofs) -> None:
    """See that proofs are of such a layer, and signs told at most once for one.

    Raises:
        RejectedError: They are not.
    """
    widths = proofs.bases.shape[1], proofs.signs.shape[1] - 1
    own = problem.proof_words - problem.sign_words, problem.sign_words
    require(widths == own, "its proofs are those of another layer")
    rows, count = proofs.signs[:, 0], len(proofs.bases)
    require(bool((rows < count).all() and (rows[1:] > rows[:-1]).all()), "signs are told of none")


class _Exactly:
    """Least sums of single cells and facets by their proofs, in rational arithmetic."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem

    @cached_property
    def _exact(self) -> Exact:
        from reluscape.trees.rational import Exact

        return Exact(self._problem)

    def __call__(self, rays: Indices, owners: Indices, proof: Words) -> float:
        """The least sum, rounded.

        Raises:
            RejectedError: The proof is none, or rational arithmetic cannot tell.
        """
        try:
            value = self._exact.proved(rays, owners, proof)
        except (AnalysisError, InputError) as error:
            raise RejectedError(f"float64 does not tell a least loss: {error}") from error
        return float(self._exact.numbers.floats(np.array([value]))[0])
