"""The search over signs of output weights: parts of the choices are ruled out, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reluscape.minima.units import Leaf
from reluscape.progress import UNKNOWN, Progress, Stop

Floats = NDArray[np.float64]
Choice = NDArray[np.int8]

#: Parts of the choices that are looked at before the search is given up.
MAX_PARTS = 20_000


@dataclass(frozen=True, slots=True)
class Witness:
    """A minimiser inside the cell.

    Attributes:
        signs: Signs of the output weights (units,), none of them 0.
        weights: R (units, params) in the scaled columns.
        near: Whether it is the one nearest to the cell's own weights.
    """

    signs: Choice
    weights: Floats
    near: bool = False


@dataclass(frozen=True, slots=True)
class Split:
    """Nothing is decided before this unit has a sign; `first` is the one to try first."""

    unit: int
    first: int


@dataclass(frozen=True, slots=True)
class Clauses:
    """What each input asks of the signs: a contribution of its value's sign, of both if it is zero.

    Attributes:
        turns: Signs of the units' contributions where output weights are positive, 0 for none
            (inputs, units).
        wanted: Signs of the values that contributions must add up to, 0 for both (inputs,).
        asking: Inputs that ask (inputs,).
    """

    turns: Floats
    wanted: Floats
    asking: NDArray[np.bool_]

    def told(self, signs: Choice) -> Told:
        """What some signs leave to be asked."""
        given = self.turns * signs
        undecided = (self.turns != 0) & (signs == 0)
        lacks = {
            side: self.asking & (self.wanted != -side) & ~(given == side).any(axis=1)
            for side in (1.0, -1.0)
        }
        return Told(undecided, undecided.sum(axis=1), lacks)


@dataclass(frozen=True, slots=True)
class Told:
    """Clauses under some signs.

    Attributes:
        undecided: Which units without a sign contribute (inputs, units).
        count: How many of them (inputs,).
        lacks: By sign, the inputs that still ask for a contribution of it.
    """

    undecided: NDArray[np.bool_]
    count: NDArray[np.intp]
    lacks: dict[float, NDArray[np.bool_]]

    def broken(self, amounts: Floats) -> tuple[int, float] | None:
        """The input of largest amount that asks for a sign which no unit can contribute, and the sign."""
        found = [
            np.where(lacking & (self.count == 0), amounts, -1.0) for lacking in self.lacks.values()
        ]
        worst = max(zip(found, self.lacks, strict=True), key=lambda one: one[0].max(initial=-1.0))
        return (int(worst[0].argmax()), worst[1]) if worst[0].max(initial=-1.0) >= 0 else None

    def forced(self) -> tuple[int, int, float] | None:
        """The input that has fewest units left to ask, one of these, and the sign it asks for."""
        lacking = self.lacks[1.0] | self.lacks[-1.0]
        if not lacking.any():
            return None
        sample = int(np.argmin(np.where(lacking, self.count, np.iinfo(np.intp).max)))
        unit = int(np.flatnonzero(self.undecided[sample])[0])
        return sample, unit, 1.0 if self.lacks[1.0][sample] else -1.0


Test = Callable[[Choice], Witness | Leaf | Split | Sequence[Leaf]]


@dataclass(slots=True)
class Watch:
    """Tells how far a search has come.

    Attributes:
        progress: Told, where there is one.
        parts: Parts looked at so far.
    """

    progress: Progress | None = None
    parts: int = 0

    def tell(self) -> None:
        """Say so; nobody knows how many parts are left."""
        if self.progress is not None:
            many = f", part {self.parts} of the sign choices" if self.parts > 1 else ""
            self.progress(f"minima of the cell{many}", UNKNOWN)


def search(
    roots: Sequence[Choice], test: Test, watch: Watch
) -> tuple[Witness | None, list[Leaf], int]:
    """Go through sign choices, those of the first root first.

    Args:
        roots: Signs to begin with, 0 where both are allowed.
        test: What is known of all choices that agree with some signs.
        watch: Counts the parts; a `Stop` of its progress gives the search up.

    Returns:
        A witness, or the leaves that rule out all choices (neither where the search was given up), and
        the number of parts looked at.
    """
    todo = list(reversed(roots))
    leaves: list[Leaf] = []
    while todo:
        if watch.parts >= MAX_PARTS:
            return None, [], watch.parts
        here, watch.parts = todo.pop(), watch.parts + 1
        try:
            watch.tell()
            found = test(here)
        except Stop:
            return None, [], watch.parts
        if isinstance(found, Witness):
            return found, [], watch.parts
        if not isinstance(found, Split):
            leaves += [found] if isinstance(found, Leaf) else found
            continue
        for sign in (-found.first, found.first):
            todo.append(here.copy())
            todo[-1][found.unit] = sign
    return None, leaves, watch.parts


def cover(leaves: Sequence[Choice], roots: Sequence[Choice]) -> bool:
    """Whether every sign choice of the roots agrees with some leaf, without going through all."""
    todo = list(roots)
    while todo:
        here = todo.pop()
        agree = [leaf for leaf in leaves if not (leaf * here < 0).any()]
        if any(((leaf == 0) | (leaf == here)).all() for leaf in agree):
            continue
        asked = [np.flatnonzero((leaf != 0) & (here == 0)) for leaf in agree]
        if not asked:
            return False
        unit = int(min(asked, key=len)[0])
        for sign in (-1, 1):
            todo.append(here.copy())
            todo[-1][unit] = sign
    return True


def roots_of(convention: str, given: Floats) -> list[Choice]:
    """The sign choices that a convention allows, 0 where both are.

    Args:
        convention: "free", "given" or "uniform".
        given: The output weights (units,).
    """
    ones = np.ones(len(given), dtype=np.int8)
    if convention == "free":
        return [0 * ones]
    return [np.sign(given).astype(np.int8)] if convention == "given" else [ones, -ones]
