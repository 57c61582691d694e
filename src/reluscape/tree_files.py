"""The folder of a merge tree: the tree, its lowest minima as weights, and its page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from reluscape.block import Block
from reluscape.errors import InputError
from reluscape.further import certify_further
from reluscape.landscape import Landscape
from reluscape.report.branches import FILE, LISTED, MINIMA, Grown, minimum_name, render_tree
from reluscape.report.wording import number
from reluscape.results import check_writable, write_then_rename
from reluscape.trees.result import MergeTree
from reluscape.weights import write_state

__all__ = ["SAMPLES", "TreeFolder", "drawn", "standing"]

#: The samples that a tree is of, where these are not all.
SAMPLES = "samples.npz"
#: Endings of a minimum's files: its weights, and their certificate.
ENDINGS = "safetensors", "json"
#: Share of the loss of zero weights by which rounding may lift a way.
ROUNDING = 1e-12


def drawn(num_samples: int, count: int, seed: int) -> NDArray[np.int64]:
    """Numbers of random samples, ascending; of all, if there are no more than `count`."""
    if count >= num_samples:
        return np.arange(num_samples)
    return np.sort(np.random.default_rng(seed).choice(num_samples, count, replace=False))


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
    level = rise <= ROUNDING * found.layer.zero_loss
    way = "without rising" if level else f"over a barrier {number(rise)} above its loss"
    return f"The model has loss {number(loss)}; from there the global minimum can be reached {way}."


@dataclass(frozen=True, slots=True)
class TreeFolder:
    """Writes each file whole or not at all, and removes what an earlier tree has left.

    Attributes:
        path: The folder.
        given: Files that the tree is made from, which stay as they are.
    """

    path: Path
    given: Sequence[Path] = ()

    def check(self, samples: bool) -> None:
        """Refuse a folder that cannot be written to, or where other files would be lost.

        Args:
            samples: Whether the tree is of some of the samples, which will be written.

        Raises:
            InputError: No such folder, or files under names of the tree's that no tree here has written.
        """
        minima, own = self.path / MINIMA, self.path / SAMPLES
        named = {file for ending in ENDINGS for file in minima.glob(f"[0-9]*.{ending}")}
        others = named - set(self._minima())
        lost = [file for file in self.given if file.resolve().parent == minima.resolve()]
        if samples and own.exists() and (self._is_given(own) or not _is_drawn(own)):
            lost.append(own)
        for file in (*lost, *sorted(others)):
            raise InputError(f"the tree's files would be written over {file}: give another --out")
        check_writable(self.path, minima)

    def write_samples(self, landscape: Landscape, samples: NDArray[np.int64]) -> Path:
        """Write the samples that the tree is of, for what is asked of its minima later."""
        target = self.path / SAMPLES
        values = {"x": landscape.inputs, "y": landscape.targets, "samples": samples}

        def write(file: Path) -> None:
            with open(file, "wb") as stream:
                np.savez(stream, allow_pickle=False, **values)

        write_then_rename(target, write)
        return target

    def write(
        self, found: MergeTree, landscape: Landscape, layer: str, about: Grown, samples: bool
    ) -> list[Path]:
        """Write the tree, its lowest minima and their certificates and, last, the page that links all."""
        minima = range(min(len(found.losses), LISTED))
        for file in set(self._minima()) - set(self._files(minima)):
            file.unlink(missing_ok=True)
        own = self.path / SAMPLES
        if not samples and not self._is_given(own) and _is_drawn(own):
            own.unlink()
        files, claims = [found.save(self.path / FILE)], []
        columns, theta = landscape.positions(layer), landscape.theta
        for minimum in minima:
            theta[columns] = found.minima[minimum]
            there = landscape.at(theta)
            files.append(self.path / minimum_name(minimum))
            write_then_rename(files[-1], partial(write_state, state=there.state()))
            block = there.block(layer)
            certificate = certify_further(block, block.theta)
            claims.append(certificate.claim)
            files.append(certificate.save(self.path / minimum_name(minimum, "json")))
        page = render_tree(found, replace(about, claims=tuple(claims))).encode()
        files.append(self.path / "report.html")
        write_then_rename(files[-1], lambda file: file.write_bytes(page))
        return files

    def _minima(self) -> list[Path]:
        """Files of the minima of the tree that is here; none where there is none that can be read."""
        try:
            count = len(MergeTree.load(self.path / FILE).losses)
        except InputError:
            return []
        return self._files(range(min(count, LISTED)))

    def _files(self, minima: range) -> list[Path]:
        return [
            self.path / minimum_name(minimum, ending) for minimum in minima for ending in ENDINGS
        ]

    def _is_given(self, file: Path) -> bool:
        return file.resolve() in {one.resolve() for one in self.given}


def _is_drawn(file: Path) -> bool:
    """Whether a file was written by `write_samples`."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return set(arrays.files) == {"x", "y", "samples"}
    except (OSError, ValueError, AttributeError, BadZipFile):
        return False
