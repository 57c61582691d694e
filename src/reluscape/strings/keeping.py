"""A string whose search goes on, kept in a file: what is lost when the process is killed is seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from reluscape.results import Result
from reluscape.strings.judging import Beads

__all__ = ["Keeper", "Unfinished"]

#: Seconds between two writings, and how many times longer than a writing takes, at least.
SECONDS, SHARE = 10.0, 20.0


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Unfinished(Result):
    """A string as it was while `connect` worked on it: to go on from, and no statement about a path.

    Attributes:
        level: What its search was to stay below.
        beads: Its points in order, the given ends included (beads, params).
        depths: When each was inserted (beads,).
        method: How it was being laid.
        seed: Of every random choice.
    """

    level: float
    beads: NDArray[np.float64]
    depths: NDArray[np.int64]
    method: str
    seed: int


class Keeper:
    """Writes a string under construction to a file: at each new depth, and now and then.

    Args:
        path: The file; it is always whole.
        level: Of the search.
        method: Its method.
        seed: Its seed.
        clock: Seconds.
    """

    def __init__(
        self,
        path: Path,
        level: float,
        method: str,
        seed: int,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._path, self._level, self._method, self._seed = path, level, method, seed
        self._clock = clock
        self._next = clock() + SECONDS
        self._depth = 0

    def offer(self, beads: Beads) -> None:
        """A string as it stands: written if it is deeper than before, or if it is time."""
        if max(beads.depths) > self._depth or self._clock() >= self._next:
            self._depth = max(beads.depths)
            self._write(beads)

    def offer_draft(self, beads: Callable[[], Beads]) -> None:
        """A string whose beads are in training: written if it is time."""
        if self._clock() >= self._next:
            self._write(beads())

    def _write(self, beads: Beads) -> None:
        began = self._clock()
        depths = np.array(beads.depths, dtype=np.int64)
        thetas = np.stack(beads.thetas)
        Unfinished(self._level, thetas, depths, self._method, self._seed).save(self._path)
        now = self._clock()
        self._next = now + max(SECONDS, SHARE * (now - began))
