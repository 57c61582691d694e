"""Strings of earlier runs in the folder of a connection: to go on from, or to take over."""

from __future__ import annotations

from typing import Any

from reluscape.connection_files import ConnectionFolder
from reluscape.strings.connecting import STOPPED
from reluscape.strings.connection import Connection
from reluscape.strings.keeping import Unfinished
from reluscape.strings.models import Models

__all__ = ["before_between", "taken_over"]


def before_between(
    folder: ConnectionFolder, models: Models, a: int, b: int, match_units: bool
) -> Connection | Unfinished | None:
    """What a folder holds, if it lies between these two models.

    Raises:
        InputError: A file that cannot be read.
    """
    before = folder.before()
    if before is None:
        return None
    pair = models.pair(a, b, match_units)
    return before if pair.has_ends(before) else None


def taken_over(
    before: Connection | Unfinished | None, models: Models, a: int, b: int, search: dict[str, Any]
) -> Connection | None:
    """The string, if it answers the same question on the same data, by a search that was not stopped."""
    if not isinstance(before, Connection) or STOPPED in before.tried:
        return None
    landscape = models.landscape
    then = (before.level, before.kind, before.objective, before.weight_decay)
    now = (models.level, models.kind, landscape.loss_name, landscape.weight_decay)
    how = {"method": before.method, "seed": before.seed, "match_units": before.matched}
    if then != now or any(search[name] != value for name, value in how.items()):
        return None
    return before if models.pair(a, b, before.matched).has_values(before) else None
