"""The folder of a merge tree: the tree, its lowest minima as weights, and its page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reluscape.landscape import Block, Landscape
from reluscape.report.branches import FILE, LISTED, MINIMA, Grown, minimum_name, render_tree
from reluscape.report.wording import number
from reluscape.results import check_writable, write_then_rename
from reluscape.trees.result import MergeTree
from reluscape.weights import write_state

__all__ = ["SAMPLES", "TreeFolder", "drawn", "some_samples", "standing"]

#: The samples that a tree is of, where these are not all.
SAMPLES = "samples.npz"


def drawn(num_samples: int, count: int, seed: int) -> NDArray[np.int64]:
    """Numbers of random samples, ascending; of all, if there are no more than `count`."""
    if count >= num_samples:
        return np.arange(num_samples)
    return np.sort(np.random.default_rng(seed).choice(num_samples, count, replace=False))


def some_samples(landscape: Landscape, count: int | None, seed: int) -> Landscape:
    """The landscape of random samples, in their own order; of all, if there are no more than `count`."""
    if count is None or count >= landscape.num_samples:
        return landscape
    return landscape.of_samples(drawn(landscape.num_samples, count, seed))


def standing(found: MergeTree, block: Block) -> str:
    """How far the model's own weights are from the minima."""
    loss = block.loss()
    if not len(found.losses) or loss > found.below:
        return f"The model has loss {number(loss)}."
    barrier = found.barrier(block.theta, found.minima[0])
    rise = barrier.level - loss
    if math.isinf(rise):
        return (
            f"The model has loss {number(loss)}; no way to the global minimum stays below"
            f" {number(found.below)}."
        )
    way = "without rising" if rise <= 0 else f"over a barrier {number(rise)} above its loss"
    return f"The model has loss {number(loss)}; from there the global minimum can be reached {way}."


@dataclass(frozen=True, slots=True)
class TreeFolder:
    """Writes each file whole or not at all.

    Attributes:
        path: The folder.
    """

    path: Path

    def check(self) -> None:
        """Refuse a folder that cannot be written to, before any work is done."""
        check_writable(self.path, self.path / MINIMA)

    def write_samples(self, landscape: Landscape) -> Path:
        """Write the samples that the tree is of, for what is asked of its minima later."""
        target = self.path / SAMPLES
        values = {"x": landscape.inputs, "y": landscape.targets}

        def write(file: Path) -> None:
            with open(file, "wb") as stream:
                np.savez(stream, allow_pickle=False, **values)

        write_then_rename(target, write)
        return target

    def write(self, found: MergeTree, landscape: Landscape, layer: str, about: Grown) -> list[Path]:
        """Write the tree, its lowest minima and, last, the page that links them."""
        files = [found.save(self.path / FILE)]
        columns, theta = landscape.positions(layer), landscape.theta
        for minimum in range(min(len(found.losses), LISTED)):
            theta[columns] = found.minima[minimum]
            files.append(self.path / minimum_name(minimum))
            state = landscape.at(theta).state()
            write_then_rename(files[-1], partial(write_state, state=state))
        page = render_tree(found, about).encode()
        files.append(self.path / "report.html")
        write_then_rename(files[-1], lambda file: file.write_bytes(page))
        return files
