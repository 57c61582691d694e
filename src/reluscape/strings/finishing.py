"""What a search for a string works on, and its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.progress import UNKNOWN, Progress
from reluscape.strings.connection import Connection, path_lengths
from reluscape.strings.judging import TIERS, Beads, Judge, Segment
from reluscape.strings.keeping import Keeper
from reluscape.strings.surface import Surface
from reluscape.strings.training import Schedule

Floats = NDArray[np.float64]


@dataclass(slots=True)
class Work:
    """One search: its landscape, its string so far, and its options.

    Attributes:
        surface: What beads are trained on and judged by.
        judge: Tells how high segments rise.
        beads: The string.
        goal: What beads are trained to: alpha times the level, or what the higher end has.
        schedule: Of their training.
        max_depth: Beads are inserted at most so many times into what was a segment.
        middle: New beads start in the middle of their segment rather than where it is highest.
        spring: Of the constrained variant.
        draws: Positions in one step of the Bézier curve.
        seed: Of random choices.
        progress: Told of the state.
        keeper: Keeps the string in a file.
        tried: What was done, in sentences.
    """

    surface: Surface
    judge: Judge
    beads: Beads
    goal: float
    schedule: Schedule
    max_depth: int = 10
    middle: bool = False
    spring: float = 0.0
    draws: int = 1
    seed: int = 0
    progress: Progress | None = None
    keeper: Keeper | None = None
    tried: list[str] = field(default_factory=list)

    @property
    def level(self) -> float:
        """What the string shall stay below."""
        return self.judge.level

    def tell(self, what: str, draft: Callable[[], Beads] | None = None) -> None:
        """Keep the string, and show beads, depth and the worst segment.

        Args:
            what: Is being done.
            draft: The string with the beads that are in training.
        """
        if self.keeper is not None and draft is not None:
            self.keeper.offer_draft(draft)
        elif self.keeper is not None:
            self.keeper.offer(self.beads)
        if self.progress is not None:
            known = [one.lower for one in self.beads.segments if one is not None]
            worst = f", worst segment {max(known):.4g} over level {self.level:.4g}" if known else ""
            depth = max(self.beads.depths)
            told = f"{what}: {len(self.beads.thetas)} beads, depth {depth}{worst}"
            self.progress(told, UNKNOWN)


def finish(work: Work, method: str, began: float, **extra: Any) -> Connection:
    """The result of a search, measured."""
    beads, judge, surface = work.beads, work.judge, work.surface
    thetas = np.stack(beads.thetas)
    curves = judge.curves(
        np.vstack([thetas[:-1], thetas[:1]]), np.vstack([thetas[1:], thetas[-1:]])
    )
    judge.settle(beads, curves)
    known = [one for one in beads.segments if one is not None]
    connected = all(one.below(work.level) for one in known)
    straight = known[0] if len(known) == 1 else judge.prove(thetas[0], thetas[-1])
    length, length_weights = path_lengths(surface.landscape, thetas)
    fields: dict[str, Any] = {
        "status": "connected" if connected else "not_found",
        "tier": _weakest(known),
        "level": work.level,
        "maximum": max(_height(one) for one in known),
        "beads": thetas,
        "values": np.append(curves[:-1, 0], curves[-1, -1]),
        "depths": np.array(beads.depths, dtype=np.int64),
        "lower": np.array([one.lower for one in known]),
        "upper": np.array([one.upper for one in known]),
        "positions": np.array([one.position for one in known]),
        "tiers": tuple(one.tier for one in known),
        "curve": curves[:-1],
        "straight": curves[-1],
        "straight_lower": straight.lower,
        "straight_upper": straight.upper,
        "straight_tier": straight.tier,
        "normalized_length": length,
        "normalized_length_weights": length_weights,
        "kind": surface.kind,
        "objective": surface.judge.loss_name,
        "weight_decay": surface.judge.weight_decay,
        "method": method,
        "gradients": surface.gradients,
        "losses": surface.losses,
        "seconds": perf_counter() - began,
        "unbatched": surface.unbatched,
        "seed": work.seed,
        "matched": False,
        "unmatched_lower": float("nan"),
        "tried": tuple(work.tried),
        "buffers": np.zeros((len(thetas), 0)),
    }
    return Connection(**fields | extra)


def _weakest(segments: list[Segment]) -> str:
    """The weakest tier of a string's segments."""
    return min((one.tier for one in segments), key=TIERS.index)


def _height(segment: Segment) -> float:
    """How high a segment rises: the proved bound, or what was seen."""
    return segment.lower if segment.tier == "sampled" else segment.upper
