"""Progress on stderr: a bar with the time left on a terminal, else a plain line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

__all__ = ["Progress", "shown"]

Progress = Callable[[str, float], None]

SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def shown(stream: TextIO | None = None) -> Iterator[Progress]:
    """Yield a function that takes what is being done and the fraction done, and shows both.

    Args:
        stream: where to; stderr by default.
    """
    stream = sys.stderr if stream is None else stream
    if stream.isatty():
        with _bar(stream) as progress:
            yield progress
    else:
        yield _lines(stream)


@contextmanager
def _bar(stream: TextIO) -> Iterator[Progress]:
    from rich import progress as rich_progress
    from rich.console import Console

    bar = rich_progress.Progress(
        rich_progress.TextColumn("{task.description}", markup=False),
        rich_progress.BarColumn(),
        rich_progress.TaskProgressColumn(),
        rich_progress.TimeRemainingColumn(),
        console=Console(file=stream),
        transient=True,
    )
    with bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda what, fraction: bar.update(task, description=what, completed=fraction)


def _lines(stream: TextIO, clock: Callable[[], float] = time.monotonic) -> Progress:
    start = last = clock()

    def progress(what: str, fraction: float) -> None:
        nonlocal last
        now = clock()
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            left = f", about {_spell((now - start) * (1 / fraction - 1))} left" if fraction else ""
            stream.write(f"{what}: {fraction:.0%}{left}\n")
            stream.flush()

    return progress


def _spell(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
