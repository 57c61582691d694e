"""What proves least losses, in as few bytes as it needs.

A least sum of absolute values is that of a vertex. What is zero there determines it, and the vertex the
signs of all residuals but of those that are zero besides: where there are such, some have to count as
negative for the slopes to balance. These alone are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.trees.problem import Problem

Bools = NDArray[np.bool_]
Words = NDArray[np.uint64]
Whole = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, slots=True)
class Proofs:
    """What proves the least losses of cells or of facets.

    Attributes:
        bases: For each that was solved, ascending, the rays in use as bits or, for the absolute loss,
            what is zero: residuals and, behind them, rays (solved, numbers).
        signs: For the absolute loss: some rows of `bases`, ascending, and behind each as bits those
            residuals that count as negative although they may be zero (told, 1 + words).
    """

    bases: Whole
    signs: Words

    @classmethod
    def of(cls, tree: Any, kind: str) -> Proofs:
        """Those of a tree's "cell", "facet" or "bundle"."""
        return cls(getattr(tree, f"{kind}_proofs"), getattr(tree, f"{kind}_signs"))

    @classmethod
    def kept(cls, problem: Problem, words: Words) -> Proofs:
        """From words as the search writes them (solved, proof words)."""
        count = problem.proof_words - problem.sign_words
        signs = words[:, count:]
        told = np.flatnonzero(signs.any(axis=1))
        rows = told.astype(np.uint64)[:, None]
        return cls(words[:, :count].astype(problem.proof_kind), np.hstack([rows, signs[told]]))

    @classmethod
    def none(cls, problem: Problem) -> Proofs:
        """Of nothing."""
        return cls.kept(problem, np.empty((0, problem.proof_words), dtype=np.uint64))

    def fields(self, kind: str) -> dict[str, Any]:
        """As a tree has them."""
        return {f"{kind}_proofs": self.bases, f"{kind}_signs": self.signs}

    def words(self, problem: Problem, start: int, stop: int) -> Words:
        """Some, as the search has written them (stop - start, proof words)."""
        count = self.bases.shape[1]
        found = np.zeros((stop - start, problem.proof_words), dtype=np.uint64)
        found[:, :count] = self.bases[start:stop]
        rows = self.signs[:, 0].astype(np.int64)
        first, last = np.searchsorted(rows, [start, stop])
        found[rows[first:last] - start, count:] = self.signs[first:last, 1:]
        return found


class Stack:
    """Proofs of parts, one behind the other.

    Room for all is taken at once, and used as parts come: if they were put together in the end, memory
    would hold them twice.

    Args:
        problem: The layer.
        most: Most proofs that there may be.
    """

    def __init__(self, problem: Problem, most: int) -> None:
        none = Proofs.none(problem)
        self._bases = np.empty((most, none.bases.shape[1]), dtype=none.bases.dtype)
        self._signs, self._count = [none.signs], 0
        self._next, self._waiting = 0, dict[int, tuple[int, Proofs]]()

    def add(self, start: int, stop: int, part: Proofs) -> None:
        """Take those of cells or facets `start .. stop`; they wait until all before them are there."""
        self._waiting[start] = stop, part
        while self._next in self._waiting:
            self._next, part = self._waiting.pop(self._next)
            place, self._count = self._count, self._count + len(part.bases)
            self._bases[place : self._count] = part.bases
            rows = part.signs[:, :1] + np.uint64(place)
            self._signs.append(np.hstack([rows, part.signs[:, 1:]]))

    def whole(self) -> Proofs:
        """All that have come."""
        return Proofs(self._bases[: self._count], np.concatenate(self._signs))


def words_of(bits: Bools) -> Words:
    """Bits in words, the lowest first."""
    padded = np.pad(bits, (0, -len(bits) % 64))
    return np.packbits(padded, bitorder="little").view("<u8").astype(np.uint64)


def bits_of(words: Whole, count: int) -> Bools:
    """The first so many bits of words."""
    packed = words.astype("<u8").view(np.uint8)
    return np.unpackbits(packed, count=count, bitorder="little").astype(np.bool_)
