"""The folder of a connection: the path, its models as weights, and its page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from reluscape.errors import InputError
from reluscape.landscape import Landscape
from reluscape.report.joined import BEADS, FILE, Joined, bead_name, render_connection
from reluscape.report.tree import FILE as TREE
from reluscape.report.tree import Grown, render_tree
from reluscape.results import check_writable, write_then_rename
from reluscape.strings.connection import Connection
from reluscape.strings.keeping import Unfinished
from reluscape.strings.spanning import SpanningTree
from reluscape.weights import write_state

__all__ = ["ConnectionFolder", "check_tree", "write_tree"]


def check_tree(folder: Path) -> None:
    """Refuse to put a tree of many models where a connection of two is."""
    if (folder / FILE).exists():
        raise InputError(f"{folder} holds a connection of two models: give another --out")


def write_tree(tree: SpanningTree, about: Grown, folder: Path) -> list[Path]:
    """Write the tree and its page into the folder of its pairs."""
    page = render_tree(tree, about).encode()
    files = [tree.save(folder / TREE), folder / "report.html"]
    write_then_rename(files[-1], lambda file: file.write_bytes(page))
    return files


@dataclass(frozen=True, slots=True)
class ConnectionFolder:
    """Writes each file whole or not at all.

    Attributes:
        path: The folder.
    """

    path: Path

    def check(self, given: Sequence[Path]) -> None:
        """Refuse a folder that cannot be written to, or where other files would be lost.

        Args:
            given: The weights that are joined.

        Raises:
            InputError: No such folder, weights in that of the beads that no connection here has, or a
                tree of many models.
        """
        if (self.path / TREE).exists():
            raise InputError(
                f"{self.path} holds the tree of more than two models: give another --out"
            )
        beads, count = self.path / BEADS, self._num_beads()
        known = {self.path / bead_name(bead) for bead in range(count)}
        inside = [file for file in given if file.resolve().parent == beads.resolve()]
        for file in (*inside, *sorted(set(beads.glob("[0-9]*.safetensors")) - known)):
            raise InputError(
                f"the models of the string would be written over {file}: give another --out"
            )
        check_writable(self.path, beads)

    @property
    def unfinished(self) -> Path:
        """Where the string is kept while it grows; gone once the connection is written."""
        return self.path / "unfinished.nc"

    def before(self) -> Connection | Unfinished | None:
        """What was found there before; where a search was killed, what it had found.

        Raises:
            InputError: A file that cannot be read.
        """
        if self.unfinished.exists():
            return Unfinished.load(self.unfinished)
        file = self.path / FILE
        return Connection.load(file) if file.exists() else None

    def write(self, found: Connection, landscape: Landscape, about: Joined) -> list[Path]:
        """Write the path, its beads and, last, the page that links them."""
        for bead in range(found.num_beads, self._num_beads()):  # of a longer string
            (self.path / bead_name(bead)).unlink(missing_ok=True)
        files = [found.save(self.path / FILE)]
        for bead in range(found.num_beads):
            files.append(self.path / bead_name(bead))
            state = {name: one.cpu().numpy() for name, one in found.state(landscape, bead).items()}
            write_then_rename(files[-1], partial(write_state, state=state))
        page = render_connection(found, about).encode()
        files.append(self.path / "report.html")
        write_then_rename(files[-1], lambda file: file.write_bytes(page))
        self.forget()
        return files

    def forget(self) -> None:
        """Drop what a search that was killed has left."""
        self.unfinished.unlink(missing_ok=True)

    def _num_beads(self) -> int:
        """Those of the connection that is here; none where there is none that can be read."""
        try:
            return Connection.load(self.path / FILE).num_beads
        except InputError:
            return 0
