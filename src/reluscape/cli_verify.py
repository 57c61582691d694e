"""What the command `verify` needs to check a file of `minima`, `convexity`, `connect` or `tree`."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from reluscape.cli_options import LossName, landscape_from
from reluscape.errors import InputError

if TYPE_CHECKING:
    from reluscape.landscape import Landscape
    from reluscape.strings.connection import Connection
    from reluscape.strings.spanning import SpanningTree
    from reluscape.verification import Claim

__all__ = ["only_one", "result_verdict"]


def only_one(further: list[Path]) -> None:
    """Refuse further weights where one model is meant."""
    if further:
        raise InputError(
            f"expected one weights file; received {1 + len(further)}: more are the models of a connection"
            " or a tree"
        )


def result_verdict(
    path: Path,
    subject: tuple[str | None, str | None, bool, Path | None, str | None],
    loss: LossName | None,
    weight_decay: float | None,
    further: list[Path],
) -> tuple[bool, str]:
    """Whether a result's file holds, and why or why not; it has to be about these weights."""
    from reluscape.strings.connection import Connection
    from reluscape.strings.spanning import SpanningTree
    from reluscape.trees.check import samples_of
    from reluscape.trees.result import MergeTree
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
    if not isinstance(claimed, Connection | SpanningTree):
        only_one(further)
    landscape = landscape_from(*subject, loss or LossName(claimed.objective), decay)
    if isinstance(claimed, MergeTree):
        landscape = samples_of(claimed, landscape)
    if isinstance(claimed, Connection):
        other = _other_end(claimed, landscape, further, subject[-1])
        if other:
            return False, other
    if isinstance(claimed, SpanningTree):
        other = _other_models(claimed, landscape, further, subject[-1])
        if other:
            return False, other
    result = verify(claimed, landscape)
    if result.valid and not _is_of(claimed, landscape):
        return False, "it is about other weights: give those that it was made from"
    return result.valid, result.reason


def _other_end(
    found: Connection, landscape: Landscape, further: list[Path], factory: str | None
) -> str:
    """Why the path does not end at the second model; empty where it does."""
    from reluscape.models import load_model
    from reluscape.strings.check_ends import why_other_end

    if len(further) != 1:
        raise InputError(
            f"a connection has two ends; received {1 + len(further)} weights files: give --weights twice,"
            " in the order of connect"
        )
    return why_other_end(found, landscape, load_model(further[0], factory))


def _other_models(
    found: SpanningTree, landscape: Landscape, further: list[Path], factory: str | None
) -> str:
    """Why the tree is not of these models; empty where it is."""
    import numpy as np

    from reluscape.models import load_model
    from reluscape.strings.check_ends import begins_at, why_other_end
    from reluscape.strings.usual import flat

    if len(further) != len(found.values) - 1:
        raise InputError(
            f"a tree of {len(found.values)} models; received {1 + len(further)} weights files: give"
            " --weights for each, in the order of connect"
        )
    models = [landscape.module_at(), *(load_model(file, factory) for file in further)]
    for place, model in enumerate(models):
        if not np.array_equal(flat(landscape, model), found.thetas[place]):
            return f"model {place} has other weights: give --weights in the order of connect"
    for (a, b), string in zip(combinations(range(len(models)), 2), found.strings, strict=True):
        if not begins_at(string, landscape, models[a]):
            return f"string {a}-{b}: it begins at other weights"
        other = why_other_end(string, landscape, models[b])
        if other:
            return f"string {a}-{b}: {other}"
    return ""


def _is_of(found: Claim, landscape: Landscape) -> bool:
    """Whether the result is about the landscape's own weights."""
    import numpy as np

    from reluscape.convex import Convexity
    from reluscape.strings.check_ends import begins_at
    from reluscape.strings.connection import Connection
    from reluscape.strings.spanning import SpanningTree
    from reluscape.trees.result import MergeTree

    if isinstance(found, Connection):
        return begins_at(found, landscape, landscape.module_at())
    if isinstance(found, SpanningTree):
        return np.array_equal(found.thetas[0], landscape.theta)
    if isinstance(found, Convexity):
        return np.array_equal(found.theta, landscape.theta)
    if isinstance(found, MergeTree):  # the check compares the layer's weights and the output's
        return True
    subject = landscape if found.layer is None else landscape.block(found.layer)
    return np.array_equal(found.start, subject.theta)
