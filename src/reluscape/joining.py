"""The models that `reluscape connect` joins, from their files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from reluscape.data import Data
from reluscape.models import load_model
from reluscape.strings.models import Models
from reluscape.subjects import landscape_of

__all__ = ["read_models"]


def read_models(
    files: list[Path],
    factory: str | None,
    data: Data,
    loss: str | None,
    weight_decay: float,
    kind: str,
    level: float | None,
    match_units: bool,
) -> Models:
    """Read the models, and call them by their files without the endings, or whole where these are equal.

    Raises:
        InputError: A file that cannot be read, models of different shapes or above the level.
    """
    modules = [load_model(file, factory) for file in files]
    landscape = landscape_of(modules[0], data, loss, weight_decay)
    names = list(map(str, files))
    found = Models.of(names, modules, landscape, kind=kind, level=level, match_units=match_units)
    stems = tuple(file.stem for file in files)
    return replace(found, names=stems) if len(set(stems)) == len(stems) else found
