"""The folder of an exact descent: weights kept on the way, and everything at its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from reluscape.descent.polish import Polish
from reluscape.landscape import Landscape
from reluscape.report.about import About
from reluscape.report.polished import render_polish
from reluscape.results import check_writable, write_then_rename
from reluscape.weights import write_state

__all__ = ["WEIGHTS", "DescentFolder"]

#: File of the polished weights.
WEIGHTS = "polished.safetensors"


@dataclass(frozen=True, slots=True)
class DescentFolder:
    """Writes each file whole or not at all.

    Attributes:
        path: The folder.
        warn: Told why the weights so far could not be kept; the descent goes on then.
    """

    path: Path
    warn: Callable[[str], None]

    @property
    def weights(self) -> Path:
        """File of the polished weights."""
        return self.path / WEIGHTS

    def check(self) -> None:
        """Refuse a folder that cannot be written to, before any work is done."""
        check_writable(self.path)

    def keep(self, landscape: Landscape) -> None:
        """Write the weights so far."""
        try:
            self._write_weights(landscape)
        except OSError as error:
            self.warn(
                f"warning: {self.weights}: {error.strerror or error}: the weights of this descent are"
                " not kept yet, and it goes on; make room"
            )

    def write(self, polish: Polish, about: About) -> list[Path]:
        """Write weights, certificates, results and, last, the page that links them."""
        assert polish.landscape is not None
        self._write_weights(polish.landscape)
        certificates = [self.path / about.files[layer] for layer in polish.certificates]
        for file, certificate in zip(certificates, polish.certificates.values(), strict=True):
            certificate.save(file)
        results, report = self.path / "results.nc", self.path / "report.html"
        polish.save(results)
        page = render_polish(polish, about).encode()
        write_then_rename(report, lambda file: file.write_bytes(page))
        return [self.weights, *certificates, results, report]

    def _write_weights(self, landscape: Landscape) -> None:
        write_then_rename(self.weights, partial(write_state, state=landscape.state()))
