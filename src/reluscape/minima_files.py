"""What is asked about the minima of a model's cells, and the files of the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reluscape.block import Block
from reluscape.errors import InputError, UnsupportedModelError
from reluscape.landscape import Landscape
from reluscape.minima.find import cell_minimum, check_whole
from reluscape.minima.result import SIGNS, CellMinimum, Signs
from reluscape.progress import Progress
from reluscape.results import certificate_name, check_writable, write_then_rename
from reluscape.weights import write_state

__all__ = ["SEARCH", "MinimaFolder", "Question", "minimum_name", "questions", "why_not_whole"]

#: Descents that look for a lower loss than a minimum's, where nothing else is asked for.
SEARCH = 10


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to ask: of the whole network under a sign convention, or of a layer's block.

    Attributes:
        subject: The landscape or the block.
        signs: The convention; says nothing for a block.
    """

    subject: Landscape | Block
    signs: Signs = "free"

    @property
    def layer(self) -> str | None:
        """The block's layer; None for the whole network."""
        return self.subject.layer if isinstance(self.subject, Block) else None

    @property
    def name(self) -> str:
        """The layer or the convention, for a heading."""
        return self.signs if self.layer is None else f"layer {self.layer}"

    def answer(self, search: int, seed: int, progress: Progress | None = None) -> CellMinimum:
        """Whether the cell holds a genuine minimum, and by so many descents whether it is a bad one."""
        return cell_minimum(
            self.subject, signs=self.signs, search=search, seed=seed, progress=progress
        )


def why_not_whole(landscape: Landscape) -> str:
    """Why the question does not apply to the whole network, in words; empty where it does."""
    try:
        check_whole(landscape)
    except UnsupportedModelError:
        return "output weights can be free only for one hidden layer and one output"
    except InputError:
        if landscape.weight_decay > 0:
            return "the loss has weight decay"
        return (
            f"output weights can be free only for the squared loss, not for {landscape.loss_name}"
        )
    return ""


def questions(
    landscape: Landscape, layers: Sequence[str | None], signs: Sequence[Signs] = SIGNS
) -> list[Question]:
    """One question for each layer, and one for each convention where a layer is None."""
    found = []
    for layer in layers:
        if layer is None:
            found += [Question(landscape, convention) for convention in signs]
        else:
            found.append(Question(landscape.block(layer)))
    return found


def minimum_name(layer: str | None, convention: str) -> str:
    """File name of an answer, without its ending."""
    return f"minimum-{convention}" if layer is None else Path(certificate_name(layer)).stem


@dataclass(frozen=True, slots=True)
class MinimaFolder:
    """Writes each file whole or not at all.

    Attributes:
        path: The folder.
        landscape: The model that was asked about.
    """

    path: Path
    landscape: Landscape

    def check(self) -> None:
        """Refuse a folder that cannot be written to, before any work is done."""
        check_writable(self.path)

    def write(self, found: CellMinimum) -> list[Path]:
        """Write an answer, and the weights that show it under the names of the user's module."""
        stem = minimum_name(found.layer, found.convention)
        files = [found.save(self.path / f"{stem}.nc")]
        better = f"better-{stem.removeprefix('minimum-')}"
        for name, theta in ((stem, found.theta), (better, found.better)):
            if theta is not None:
                files.append(self.path / f"{name}.safetensors")
                state = self._at(found.layer, theta).state()
                write_then_rename(files[-1], partial(write_state, state=state))
        return files

    def _at(self, layer: str | None, theta: NDArray[np.float64]) -> Landscape:
        """The model with all parameters, or only those of a layer, moved."""
        if layer is None:
            return self.landscape.at(theta)
        whole = self.landscape.theta
        whole[self.landscape.positions(layer)] = theta
        return self.landscape.at(whole)
