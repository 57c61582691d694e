"""What the command `verify` needs to check a file of `minima`, `convexity` or `connect`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from reluscape.cli_options import LossName, landscape_from

if TYPE_CHECKING:
    from reluscape.landscape import Landscape
    from reluscape.verification import Claim

__all__ = ["result_verdict"]


def result_verdict(
    path: Path,
    subject: tuple[str | None, str | None, bool, Path | None, str | None],
    loss: LossName | None,
    weight_decay: float | None,
) -> tuple[bool, str]:
    """Whether a result's file holds, and why or why not; it has to be about these weights."""
    from reluscape.verification import load_claim, verify

    claimed = load_claim(path)
    if isinstance(claimed, str):
        return False, claimed
    if claimed.objective not in list(LossName):
        return False, f"no such loss: {claimed.objective!r}"
    stated = getattr(claimed, "weight_decay", 0.0)
    if not 0.0 <= stated < math.inf:
        return False, f"no such weight decay: {stated}"
    decay = stated if weight_decay is None else weight_decay
    landscape = landscape_from(*subject, loss or LossName(claimed.objective), decay)
    result = verify(claimed, landscape)
    if result.valid and not _is_of(claimed, landscape):
        return False, "it is about other weights: give those that it was made from"
    return result.valid, result.reason


def _is_of(found: Claim, landscape: Landscape) -> bool:
    """Whether the result is about the landscape's own weights; of a string they are a bead."""
    import numpy as np

    from reluscape.convex import Convexity
    from reluscape.strings.connection import Connection

    if isinstance(found, Connection):
        return any(np.array_equal(bead, landscape.theta) for bead in found.beads)
    if isinstance(found, Convexity):
        return np.array_equal(found.theta, landscape.theta)
    subject = landscape if found.layer is None else landscape.block(found.layer)
    return np.array_equal(found.start, subject.theta)
