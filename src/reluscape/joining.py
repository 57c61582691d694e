"""The models that `reluscape connect` joins: their landscape, level, and strings between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from reluscape.crossing import cells_crossed
from reluscape.data import Data
from reluscape.errors import InputError
from reluscape.landscape import Landscape
from reluscape.models import load_model
from reluscape.progress import Progress, Stop
from reluscape.strings.connecting import connect
from reluscape.strings.connection import Connection
from reluscape.strings.spanning import SpanningTree, spanning_tree
from reluscape.strings.usual import flat, usual_level
from reluscape.subjects import landscape_of

__all__ = ["Models", "read_models"]

DEFAULT = (
    "the worst model's {kind} plus a tenth of what the straight line rises above it, and at least 1.1"
    " times the worst model's"
)


@dataclass(frozen=True, slots=True)
class Models:
    """Models of one shape on their data.

    Attributes:
        files: Where they were read from.
        modules: The models.
        landscape: Of the first one.
        kind: What is held below the level: "loss" or "error_rate".
        values: It at each of them.
        level: What strings shall stay below.
        why: Where the level comes from.
    """

    files: tuple[Path, ...]
    modules: tuple[nn.Module, ...]
    landscape: Landscape
    kind: str
    values: tuple[float, ...]
    level: float
    why: str

    @property
    def metric(self) -> str | None:
        """As `connect` takes it."""
        return None if self.kind == "loss" else self.kind

    @property
    def names(self) -> tuple[str, ...]:
        """What they are called: the files without their endings, or whole where these are equal."""
        stems = tuple(file.stem for file in self.files)
        return stems if len(set(stems)) == len(stems) else tuple(map(str, self.files))

    def join(self, a: int, b: int, progress: Progress, **search: Any) -> Connection:
        """The string between two of them."""
        ends = self.modules[a], self.modules[b]
        options = {"metric": self.metric, "progress": progress} | search
        return connect(self.landscape, *ends, self.level, **options)

    def cells(self, found: Connection, progress: Progress) -> int | None:
        """Activation cells on a string; None where they cannot be counted, or after Ctrl-C."""
        if found.buffers.shape[1]:  # other statistics at each point: no cells of one network
            return None
        count, segments = 1, found.num_beads - 1
        try:
            for k in range(segments):
                progress("counting cells", k / segments)
                count += cells_crossed(self.landscape, found.beads[k], found.beads[k + 1]) - 1
        except (InputError, Stop):
            return None
        return count

    def tree(self, found: Mapping[tuple[int, int], Connection]) -> SpanningTree:
        """The tree of the lowest strings, given one for each pair in the order of `combinations`."""
        strings = iter(found.values())
        thetas = [flat(self.landscape, module) for module in self.modules]
        return spanning_tree(self.landscape, thetas, join=lambda *_: next(strings))


def read_models(
    files: list[Path],
    factory: str | None,
    data: Data,
    loss: str | None,
    weight_decay: float,
    kind: str,
    level: float | None,
) -> Models:
    """Read the models, and check that they are of one shape and below the level.

    Raises:
        InputError: A file that cannot be read, models of different shapes or above the level.
    """
    modules = tuple(load_model(file, factory) for file in files)
    landscape = landscape_of(modules[0], data, loss, weight_decay)
    for file, module in zip(files, modules, strict=True):
        try:
            landscape.state_of(module)
        except InputError as error:
            raise InputError(f"{file} is no model of the shape of {files[0]}: {error}") from error
    usual, values = usual_level(landscape, modules, None if kind == "loss" else kind)
    worst = int(np.argmax(values))
    if level is not None and not level >= values[worst]:
        raise InputError(
            f"expected a level of at least the {kind.replace('_', ' ')} of all models; received"
            f" {level:g}, and {files[worst]} has {values[worst]:.6g}: raise --level, or train further"
        )
    why = "as asked" if level is not None else DEFAULT.format(kind=kind.replace("_", " "))
    chosen = usual if level is None else level
    return Models(tuple(files), modules, landscape, kind, values, chosen, why)
