"""A string as it grows, and how high each of its segments rises."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reluscape.strings.maximum import path_maximum
from reluscape.strings.moving import Moving, is_readable
from reluscape.strings.one_hidden import is_one_hidden
from reluscape.strings.peaks import highest_seen
from reluscape.strings.surface import Surface
from reluscape.train import one_thread

Floats = NDArray[np.float64]

#: Positions inside a segment that are looked at before anything is proved of it, and for its curve.
COARSE = 31
#: Positions of the grid where nothing can be proved.
DENSE = 257
#: Tiers, weakest first.
TIERS = ("sampled", "certified", "exact")
#: A new bead is not put nearer to its neighbours than this share of their distance.
INSIDE = 0.05


class Segment(NamedTuple):
    """How high a segment rises.

    Attributes:
        lower: The largest value seen, at `position`.
        upper: No value is above it; infinite for tier "sampled".
        position: In [0, 1].
        tier: Of the upper bound.
        proved: Whether all was done that can be: False where a few points sufficed to reject it.
    """

    lower: float
    upper: float
    position: float
    tier: str
    proved: bool

    def below(self, level: float) -> bool:
        """Whether the segment counts as below the level."""
        if not self.proved:
            return False
        return (self.lower if self.tier == "sampled" else self.upper) <= level


@dataclass(slots=True)
class Beads:
    """A string under construction.

    Attributes:
        thetas: Points in order.
        depths: When each was inserted.
        segments: What is known of each segment; None for a new one.
    """

    thetas: list[Floats]
    depths: list[int]
    segments: list[Segment | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.segments = self.segments or [None] * (len(self.thetas) - 1)

    def insert(self, places: Iterable[int], points: Floats, depth: int) -> None:
        """Put a bead into each of these segments."""
        for place, point in sorted(zip(places, points, strict=True), key=lambda one: -one[0]):
            self.thetas.insert(place + 1, point)
            self.depths.insert(place + 1, depth)
            self.segments[place : place + 1] = [None, None]

    def move(self, place: int, point: Floats) -> None:
        """Put a bead somewhere else."""
        self.thetas[place] = point
        self.segments[place - 1] = self.segments[place] = None

    def copy(self) -> Beads:
        """The same string, to insert and move beads in."""
        return Beads(list(self.thetas), list(self.depths), list(self.segments))

    def above(self, level: float) -> list[int]:
        """Segments that are not known to be below the level."""
        return [k for k, one in enumerate(self.segments) if one is None or not one.below(level)]

    def rising(self, level: float) -> list[int]:
        """Segments on which more than a level was seen, or not proved to be below; the highest first."""
        found = [
            (-one.lower if one else -np.inf, k)
            for k, one in enumerate(self.segments)
            if one is None or one.lower > level or (one.proved and not one.below(level))
        ]
        return [k for _, k in sorted(found)]

    def starts(self, places: Iterable[int], middle: bool = False) -> Floats:
        """Points inside segments: where they are highest, or their middles."""
        return np.stack([self._inside(place, middle) for place in places])

    def _inside(self, place: int, middle: bool) -> Floats:
        segment = self.segments[place]
        highest = 0.5 if segment is None or middle else segment.position
        t = min(max(highest, INSIDE), 1.0 - INSIDE)
        return self.thetas[place] + t * (self.thetas[place + 1] - self.thetas[place])


class Judge:
    """Tells how high segments rise, with a proof where the landscape allows one.

    Args:
        surface: What is judged.
        level: What segments shall stay below.
        relative_gap: Of certified maxima.
    """

    def __init__(self, surface: Surface, level: float, relative_gap: float) -> None:
        self.surface, self.level, self.relative_gap = surface, level, relative_gap
        readable = is_readable(surface.judge) and not surface.judge.moved.any()
        self.proves = surface.is_loss and readable

    def examine(self, beads: Beads) -> None:
        """Fill in what is not known of a string's segments."""
        self._look(beads)
        for place, segment in enumerate(beads.segments):
            if segment is not None and not segment.proved and segment.lower <= self.level:
                beads.segments[place] = self.prove(
                    beads.thetas[place], beads.thetas[place + 1], self.level
                )

    def glance(self, beads: Beads) -> None:
        """The same from a few points alone, which proves nothing."""
        self._look(beads)

    def settle(self, beads: Beads, curves: Floats) -> None:
        """The same, and proofs also above the level where they are quick: with one hidden layer.

        Of other segments above the level, `curves` (segments, COARSE + 2) is searched for its highest.
        """
        self._look(beads)
        for place, segment in enumerate(beads.segments):
            if segment is None or segment.proved:
                continue
            ends = beads.thetas[place], beads.thetas[place + 1]
            moving = Moving.of(self.surface.judge, *ends) if self.proves else None
            if moving is not None and is_one_hidden(moving):
                beads.segments[place] = self.prove(*ends)
            else:
                beads.segments[place] = self._seen(*ends, _finite(curves[place]), proved=False)

    def seen_above(self, beads: Beads) -> list[int]:
        """Segments on which a value above the level was seen."""
        return [k for k, one in enumerate(beads.segments) if one and one.lower > self.level]

    def curves(self, starts: Floats, stops: Floats) -> Floats:
        """Values at evenly spaced positions, ends included, (segments, COARSE + 2)."""
        times, judge = np.linspace(0.0, 1.0, COARSE + 2), self.surface.judge
        if self.surface.small or not self.proves:
            return self.surface.along(starts, stops, times)
        found = [Moving.of(judge, *ends) for ends in zip(starts, stops, strict=True)]
        if any(moving is None for moving in found):
            return self.surface.along(starts, stops, times)
        self.surface.losses += len(found) * len(
            times
        )  # large layers are faster a few samples at a time
        with one_thread():
            return np.array(
                [[one.loss(float(t)) for t in times] for one in found if one is not None]
            )

    def prove(self, start: Floats, stop: Floats, level: float | None = None) -> Segment:
        """The maximum of a segment, proved if possible: only as far as a level asks, if there is one."""
        if self.proves:
            found = path_maximum(
                self.surface.judge, start, stop, relative_gap=self.relative_gap, level=level
            )
            return Segment(found.lower, found.upper, found.position, found.tier, True)
        times = np.linspace(0.0, 1.0, DENSE)
        values = _finite(self.surface.along(start[None], stop[None], times)[0])
        return self._seen(start, stop, values, proved=True)

    def _seen(self, start: Floats, stop: Floats, values: Floats, *, proved: bool) -> Segment:
        """The highest value seen, from those at evenly spaced positions and searches beside them."""

        def value(t: float) -> float:
            return float(self.surface.along(start[None], stop[None], np.array([t]))[0, 0])

        height, position = highest_seen(value, np.linspace(0.0, 1.0, len(values)), values)
        return Segment(height, np.inf, position, "sampled", proved)

    def _look(self, beads: Beads) -> None:
        """A few points of every unknown segment, all as one batch."""
        unknown = [place for place, one in enumerate(beads.segments) if one is None]
        if not unknown:
            return
        starts = np.stack([beads.thetas[place] for place in unknown])
        stops = np.stack([beads.thetas[place + 1] for place in unknown])
        curves = _finite(self.curves(starts, stops))
        for place, values in zip(unknown, curves, strict=True):
            best = int(np.argmax(values))
            at = best / (COARSE + 1)
            beads.segments[place] = Segment(float(values[best]), np.inf, at, "sampled", False)


def _finite(values: Floats) -> Floats:
    """NaN counts as above every level."""
    return np.where(np.isnan(values), np.inf, values)
