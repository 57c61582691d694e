"""A string whose search goes on, kept in a file: what is lost when the process is killed is seconds."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.errors import InputError
from reluscape.results import Result, check_writable
from reluscape.strings.judging import Beads
from reluscape.strings.surface import Surface

__all__ = ["Keeper", "Unfinished"]

#: Seconds between two writings, and how many times longer than a writing takes, at least.
SECONDS, SHARE = 10.0, 20.0


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Unfinished(Result):
    """A string as it was while `connect` worked on it: to go on from, and no statement about a path.

    Attributes:
        level: What its search was to stay below.
        beads: Its points in order, the given ends included (beads, params); with buffers that move along
            among them, where the module has them (beads, params + moving buffers).
        depths: When each was inserted (beads,).
        method: How it was being laid.
        seed: Of every random choice.
        kind: What is judged: "loss", "other loss" or a metric's name.
        objective: Loss of the judged landscape.
        weight_decay: Its lambda.
        gradients: Gradients evaluated so far.
        losses: Values evaluated so far without a gradient.
        seconds: Wall time so far.
    """

    level: float
    beads: NDArray[np.float64]
    depths: NDArray[np.int64]
    method: str
    seed: int
    kind: str
    objective: str
    weight_decay: float
    gradients: int
    losses: int
    seconds: float


def check_keep(keep: str | os.PathLike[str]) -> Path:
    """The file, or InputError where there cannot be one, or where it is one of another kind."""
    if not isinstance(keep, str | os.PathLike) or Path(keep).is_dir():
        raise InputError(f"keep must be the path of a file; received {keep!r}")
    if Path(keep).exists():
        try:
            Unfinished.load(keep)
        except InputError as error:
            raise InputError(
                "keep must be a new file, or one that an earlier search has kept; received"
                f" {str(keep)!r}, which is neither: give another name, or remove it"
            ) from error
    try:
        check_writable(Path(keep).parent)
    except InputError as error:
        raise InputError(
            f"keep must be a file that can be written; received {str(keep)!r} ({error.__cause__})"
        ) from error
    return Path(keep)


class Keeper:
    """Writes a string under construction to a file: at each new depth, and now and then.

    What cannot be written, as on a full disk, is warned of and tried again when it is time; the search
    goes on.

    Args:
        path: The file; it is always whole.
        surface: Of the search.
        level: Its level.
        method: Its method.
        seed: Its seed.
        began: When it began, by the clock.
        clock: Seconds.
    """

    def __init__(
        self,
        path: Path,
        surface: Surface,
        level: float,
        method: str,
        seed: int,
        began: float,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._path, self._surface, self._began, self._clock = path, surface, began, clock
        self._told: dict[str, Any] = {"level": level, "method": method, "seed": seed}
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
        judge = self._surface.judge
        so_far = Unfinished(
            **self._told,
            beads=np.stack(beads.thetas),
            depths=np.array(beads.depths, dtype=np.int64),
            kind=self._surface.kind,
            objective=judge.loss_name,
            weight_decay=judge.weight_decay,
            gradients=self._surface.gradients,
            losses=self._surface.losses,
            seconds=began - self._began,
        )
        try:
            so_far.save(self._path)
        except OSError as error:
            warnings.warn(
                f"the string so far could not be kept in {self._path}: {error}", stacklevel=2
            )
        now = self._clock()
        self._next = now + max(SECONDS, SHARE * (now - began))
