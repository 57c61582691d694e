"""Dynamic String Sampling as the authors' scripts run it, for many pairs of models at once.

`connect` is the library's own search; this is the published one, kept as it was so that its choices
can be switched: a bead in the middle of every segment that is not accepted, one always between the
ends, all trained from there by Adam at one rate, and acceptance on a grid at more than the level.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
#: Trains points (beads, params) to a goal: where they end, and whether they reached it.
Train = Callable[[Floats, float], tuple[Floats, NDArray[np.bool_]]]
#: Highest values on segments from rows of one matrix to rows of another (segments,).
Highest = Callable[[Floats, Floats], Floats]


@dataclass(frozen=True, slots=True)
class Rules:
    """What the scripts fix.

    Attributes:
        alpha: Beads are trained to this share of the level.
        accept: A segment is accepted where it stays at or below this multiple of the level.
        always: Whether a bead is put between the ends even where their segment is accepted.
        max_depth: Times that a segment between the ends and the first bead is split.
    """

    alpha: float = 0.95
    accept: float = 1.1
    always: bool = True
    max_depth: int = 10


@dataclass(slots=True)
class String:
    """A path between two models under construction.

    Attributes:
        beads: Its points in order (beads, params).
        open: For each segment, whether it is still to be split.
        failed: Whether a bead did not reach its goal, so that the search has ended.
    """

    beads: list[Floats]
    open: list[bool]
    failed: bool = False

    @property
    def connected(self) -> bool:
        """Whether every segment was accepted."""
        return not any(self.open)

    def normalised_length(self, counted: NDArray[np.bool_]) -> float:
        """Length over the distance of the ends, in the parameters that are counted."""
        points = np.stack(self.beads)[:, counted]
        length = np.linalg.norm(np.diff(points, axis=0), axis=1).sum()
        return float(length / np.linalg.norm(points[-1] - points[0]))


def sample_strings(
    firsts: Floats, lasts: Floats, level: float, rules: Rules, train: Train, highest: Highest
) -> list[String]:
    """Strings between pairs of models, rows of `firsts` and `lasts` (pairs, params).

    All beads of a depth, over all pairs, are trained as one batch. A string whose beads do not reach
    their goal, or that is open at the largest depth, stays not connected: that says nothing of
    whether another path exists.
    """
    strings = [String([a, b], [True]) for a, b in zip(firsts, lasts, strict=True)]
    if not rules.always:
        _accept(strings, level * rules.accept, highest)
    for _ in range(rules.max_depth + 1):
        places = _places(strings)
        if not places:
            break
        starts = np.stack([_middle(string, at) for string, at in places])
        ends, reached = train(starts, rules.alpha * level)
        for (string, at), bead, done in zip(places[::-1], ends[::-1], reached[::-1], strict=True):
            string.beads.insert(at + 1, bead)
            string.open[at : at + 1] = [True, True]
            string.failed |= not done
        _accept(strings, level * rules.accept, highest)
    return strings


def _places(strings: list[String]) -> list[tuple[String, int]]:
    """Segments to be split."""
    return [
        (string, at)
        for string in strings
        if not string.failed
        for at, is_open in enumerate(string.open)
        if is_open
    ]


def _middle(string: String, at: int) -> Floats:
    """Halfway between a bead and the next."""
    return 0.5 * (string.beads[at] + string.beads[at + 1])


def _accept(strings: list[String], bound: float, highest: Highest) -> None:
    """Close the segments that stay below the bound."""
    places = _places(strings)
    if not places:
        return
    starts = np.stack([string.beads[at] for string, at in places])
    stops = np.stack([string.beads[at + 1] for string, at in places])
    for (string, at), value in zip(places, highest(starts, stops), strict=True):
        string.open[at] = not value <= bound
