"""What a survey of two models found between them, as plain records."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reluscape.report.fields import a_number, a_series, no_values
from reluscape.report.strings import heights
from reluscape.report.wording import number

if TYPE_CHECKING:
    from reluscape.strings.connection import Connection

__all__ = ["PairSurvey", "StringSurvey"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class StringSurvey:
    """A string between two models, of a `reluscape.Connection`; the path itself is the file named here.

    Attributes:
        status: ``connected`` or ``not_found``.
        tier: The weakest tier of its segments.
        kind: What is held below the level.
        method: How it was found.
        matched: Whether the second model's hidden units were permuted before.
        tiers: Of the segments, each once.
        tried: What was done, and why it ended.
        file: The path, relative to the report; empty if it was not written.
        level: What is not to be exceeded.
        highest: How high it rises: the proved bound, or what was seen.
        straight_lower: Largest value seen on the straight line between its ends.
        unmatched_lower: The same to the second model in its own order; None where nothing was permuted.
        linear_barrier: What the straight line rises, at least, above the worse end.
        normalized_length: Length over the distance of the ends.
        normalized_length_weights: The same without biases.
        num_beads: Models on it, its ends included.
        depth: How often a segment was divided, one time after another.
        cells: Activation cells on it; None where they were not counted.
        gradients: Gradients evaluated.
        losses: Values evaluated.
        values: (beads,) value at each model.
        steps: (segments,) lengths of its segments.
        curve: (segments, positions) values at evenly spaced positions on each segment.
        straight: (positions,) the same on the straight line.
    """

    status: str
    tier: str
    kind: str = ""
    method: str = ""
    matched: bool = False
    tiers: tuple[str, ...] = ()
    tried: tuple[str, ...] = ()
    file: str = ""
    level: float = a_number("what is not to be exceeded")
    highest: float = a_number("how high the string rises")
    straight_lower: float = a_number("largest value seen on the straight line")
    unmatched_lower: float | None = a_number("the same before units were matched")
    linear_barrier: float = a_number("rise of the straight line above the worse end")
    normalized_length: float = a_number("length over the distance of the ends")
    normalized_length_weights: float = a_number("the same without biases")
    num_beads: int = a_number("models on the string")
    depth: int = a_number("divisions one after the other")
    cells: int | None = a_number("activation cells on the string")
    gradients: int = a_number("gradients evaluated")
    losses: int = a_number("values evaluated")
    values: Floats = field(
        default_factory=no_values, metadata=a_series("bead", "value at each model of the string")
    )
    steps: Floats = field(
        default_factory=no_values, metadata=a_series("segment", "length of a segment", "parameter")
    )
    curve: Floats = field(
        default_factory=no_values,
        metadata=a_series(("segment", "position"), "value at evenly spaced positions"),
    )
    straight: Floats = field(
        default_factory=no_values, metadata=a_series("position", "value on the straight line")
    )

    @classmethod
    def of(cls, found: Connection, cells: int | None, file: str) -> StringSurvey:
        """The record of a result, the cells on it, and the file that it is in."""
        told = {
            name: getattr(found, name)
            for name in (
                "status", "tier", "kind", "method", "matched", "tried", "level", "highest",
                "straight_lower", "linear_barrier", "normalized_length", "normalized_length_weights",
                "num_beads", "depth", "gradients", "losses", "values", "curve", "straight",
            )
        }  # fmt: skip
        before = found.unmatched_lower
        return cls(
            **told,
            tiers=tuple(dict.fromkeys(found.tiers)),
            file=file,
            unmatched_lower=None if math.isnan(before) else before,
            cells=cells,
            steps=np.diff(found.arc()),
        )

    def arc(self) -> Floats:
        """Length of the string up to each of its models (beads,)."""
        return np.concatenate([[0.0], np.cumsum(self.steps)])


@dataclass(frozen=True, slots=True, eq=False)
class PairSurvey:
    """Strings between the two models of a survey.

    Attributes:
        names: The models.
        why: Where the level comes from.
        options: Command-line options that load both again, for the commands in the report.
        strings: What was found, first with the units as they are, then with matched ones.
        notes: Sentences on what was not done, and why.
    """

    names: tuple[str, ...]
    why: str = ""
    options: str = ""
    strings: tuple[StringSurvey, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> StringSurvey:
        """The string that is connected, or rises least."""
        return min(self.strings, key=lambda one: (one.status != "connected", one.highest))

    @property
    def line(self) -> str:
        """The best answer in one line for the terminal."""
        pair = " and ".join(self.names)
        if not self.strings:
            return f"{pair}: no string: {'; '.join(self.notes)}"
        best = self.best
        (level, top), grid = heights(best), best.tier == "sampled"
        how = "seen on a grid" if grid else best.tier
        how += f"; the straight line rises to {number(best.straight_lower)}"
        if best.status != "connected":
            return (
                f"{pair}: no path below {level} was found, which does not show that there"
                f" is none; the best string rises to {top} ({how})"
            )
        units = ", hidden units matched" if best.matched else ""
        height = f"rises to {number(best.highest)}," if grid else f"at most {top};"
        return f"{pair}: connected below {level}{units} ({height} {how})"
