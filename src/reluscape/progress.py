"""Progress on stderr: a bar with the time left on a terminal, else a plain line now and then.

Where nobody knows how much is left, the fraction is NaN: then the time so far is shown and no percentage.
"""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

__all__ = ["UNKNOWN", "Progress", "Stop", "shown", "stoppable"]

Progress = Callable[[str, float], None]

SECONDS_BETWEEN_LINES = 5.0

#: The fraction done of work whose end nobody knows.
UNKNOWN = math.nan


class Stop(KeyboardInterrupt):
    """Raised by a progress function to end the work where it stands, in good order."""


@contextmanager
def stoppable(progress: Progress, told: Callable[[], None]) -> Iterator[Progress]:
    """Make the first Ctrl-C a `Stop` from the next call of `progress`; the second one is as ever.

    Args:
        progress: What shows progress.
        told: Called at the first Ctrl-C.
    """
    before = signal.getsignal(signal.SIGINT)
    heeded = before not in (None, signal.SIG_IGN)  # as in a background job of a shell
    if not heeded or threading.current_thread() is not threading.main_thread():
        yield progress
        return
    asked = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, before)
        told()

    def watched(what: str, fraction: float) -> None:
        if asked:
            raise Stop
        progress(what, fraction)

    signal.signal(signal.SIGINT, ask)
    try:
        yield watched
    finally:
        signal.signal(signal.SIGINT, before)


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
        rich_progress.TimeElapsedColumn(),
        console=Console(file=stream),
        transient=True,
    )
    with bar:
        known = bar.add_task("starting", total=1.0)
        unknown = bar.add_task("", total=None, visible=False)  # a bar that only moves

        def progress(what: str, fraction: float) -> None:
            told = not math.isnan(fraction)
            bar.update(known, description=what, completed=fraction if told else 0.0, visible=told)
            bar.update(unknown, description=what, visible=not told)

        yield progress


def _lines(stream: TextIO, clock: Callable[[], float] = time.monotonic) -> Progress:
    start = last = clock()

    def progress(what: str, fraction: float) -> None:
        nonlocal last
        now = clock()
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            stream.write(f"{what}: {_standing(fraction, now - start)}\n")
            stream.flush()

    return progress


def _standing(fraction: float, seconds: float) -> str:
    if math.isnan(fraction):
        return f"{_spell(seconds)} so far"
    left = f", about {_spell(seconds * (1 / fraction - 1))} left" if fraction else ""
    return f"{fraction:.0%}{left}"


def _spell(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
