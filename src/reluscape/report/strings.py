"""Strings between two models in words: what a page says of one, wherever it stands."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from reluscape.digits import rounded_up
from reluscape.report.wording import count, number, several

#: Difference of equal numbers, relative to them, as `verify` takes it.
SAME = 1e-9

__all__ = [
    "CHECK",
    "TIERS",
    "StringLike",
    "caption",
    "heights",
    "kind_of",
    "measures",
    "method",
    "rise",
    "unmatched",
    "verdict",
]

TIERS = {
    "exact": "maximised on every piece of every segment; rounding errors are included",
    "certified": "proved by bounds on parts of every segment; rounding errors are included",
    "sampled": "seen at the points of a grid; nothing is proved of what lies between them",
}
CHECK = (
    "verify takes nothing of the file on trust: the ends have to be the given weights bit for bit, and "
    "values, lengths and the maximum of every segment are computed again."
)


class StringLike(Protocol):
    """What the wording needs to know of a string; see `Connection`."""

    @property
    def status(self) -> str:
        """Whether a path below the level is known: "connected" or "not_found"."""

    @property
    def tier(self) -> str:
        """Its weakest tier."""

    @property
    def tiers(self) -> tuple[str, ...]:
        """Those of its segments."""

    @property
    def kind(self) -> str:
        """What is judged."""

    @property
    def method(self) -> str:
        """How it was found."""

    @property
    def level(self) -> float:
        """What is not to be exceeded."""

    @property
    def highest(self) -> float:
        """How high it rises."""

    @property
    def values(self) -> NDArray[np.float64]:
        """The value at each of its models."""

    @property
    def straight_lower(self) -> float:
        """What was seen on the straight line."""

    @property
    def unmatched_lower(self) -> float | None:
        """The same before units were matched."""

    @property
    def normalized_length(self) -> float:
        """Length over the distance of the ends."""

    @property
    def normalized_length_weights(self) -> float:
        """The same without biases."""

    @property
    def num_beads(self) -> int:
        """Models on it."""

    @property
    def depth(self) -> int:
        """Divisions one after the other."""

    @property
    def gradients(self) -> int:
        """Gradients evaluated."""

    @property
    def losses(self) -> int:
        """Values evaluated."""


def kind_of(found: StringLike) -> str:
    """What is held below the level, in words."""
    return found.kind.replace("_", " ")


def verdict(found: StringLike) -> str:
    """The answer in a sentence or two."""
    kind, (level, top) = kind_of(found), heights(found)
    beads = several(found.num_beads, "model")
    straight = f"the straight line between them rises to {number(found.straight_lower)}"
    if found.status == "not_found":
        return (
            f"No path below {level} was found, which does not show that there is none. "
            f"The best string, of {beads}, rises to {top}; {straight}."
        )
    if found.tier == "sampled":
        return (
            f"Connected as far as a grid shows: along a string of {beads} no {kind} above {top} was "
            f"seen, and the level is {level}; {straight}."
        )
    return (
        f"Connected: along a string of {beads} the {kind} is at most {top}, and the level is {level}; "
        f"{straight}."
    )


def heights(found: StringLike) -> tuple[str, str]:
    """Level and height; what is below the level is so in the digits that are shown."""
    both = found.level, found.highest
    if found.status == "connected":
        both = rounded_up(found.level, 3), rounded_up(found.highest, 3)
    return number(both[0]), number(both[1])


def rise(height: float, worse: float) -> str:
    """A height over that of the worse end; 0 where the difference is of rounding errors."""
    return number(height - worse if abs(height - worse) > SAME * abs(worse) else 0.0)


def unmatched(found: StringLike) -> str:
    """What the matching of units did to the straight line."""
    return f"In its own order of units the straight line rises to {number(found.unmatched_lower)}."


def caption(found: StringLike) -> str:
    """Under the figure of a string."""
    return (
        f"{kind_of(found).capitalize()} along the string and along the straight line, each by share of "
        "its own length. Dots are the models of the string; the dashed line is the level."
    )


def measures(found: StringLike, cells: int | None) -> list[tuple[str, str, str]]:
    """Quantities, their values, and how they are known."""
    kind, (level, top) = kind_of(found), heights(found)
    worse = float(max(found.values[0], found.values[-1]))
    return [
        (f"level of the {kind}", level, ""),
        (f"{kind} of the two ends", f"{number(found.values[0])}, {number(found.values[-1])}", ""),
        ("highest on the string", top, found.tier),
        ("highest on the straight line, at least", number(found.straight_lower), ""),
        ("the string above the worse end", rise(found.highest, worse), ""),
        ("the straight line above it, at least", rise(found.straight_lower, worse), ""),
        ("length over distance of the ends", f"{found.normalized_length:.4f}", ""),
        ("the same without biases", f"{found.normalized_length_weights:.4f}", ""),
        ("models on the string, ends included", count(found.num_beads), ""),
        ("depth", count(found.depth), ""),
        ("activation cells passed through", count(cells), ""),
        ("gradients evaluated", count(found.gradients), ""),
        ("values evaluated", count(found.losses), ""),
    ]


METHODS = {
    "greedy": "Dynamic String Sampling: a segment that rises above the level gets a new model where it "
    "is highest, which is trained until it is below the level; its two halves are segments again. All "
    "models of a depth are trained as one batch.",
    "constrained": "Dynamic String Sampling, constrained: all models move together, each "
    "as far from the one before as from the next, and new ones are put where the string is too high.",
    "bezier": "A quadratic Bezier curve, trained at random positions, and models on it.",
    "band": "A nudged elastic band: models move down across the band and are kept apart along it.",
}


def method(found: StringLike) -> tuple[str, ...]:
    """How it was obtained."""
    proof = (
        "No segment that is exact or certified rises above its bound: outputs are followed along the "
        "segment with their rounding errors, not looked at on a grid."
    )
    grid = (
        "A segment that is sampled was looked at on a grid of 257 points, or of 33 where these sufficed "
        "to see it above the level, and searched beside the highest. There is no proof for this network "
        "or for this value."
    )
    return (
        METHODS.get(found.method, f"Method: {found.method}."),
        *((proof,) if {*found.tiers} - {"sampled"} else ()),
        *((grid,) if "sampled" in found.tiers else ()),
        "The straight line is between the string's ends. Lengths are Euclidean, of all parameters.",
    )
