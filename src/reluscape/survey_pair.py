"""The last step of a survey of two models: strings between them below a level."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from reluscape.errors import InputError, ReluscapeError
from reluscape.landscape import Landscape
from reluscape.report.pairs import PairSurvey, StringSurvey
from reluscape.strings.connecting import STOPPED
from reluscape.strings.connection import Connection
from reluscape.strings.models import Models
from reluscape.strings.training import Schedule

__all__ = ["FILES", "Step", "between", "of_one_shape", "stopped"]

#: Where the paths are written: with the units as they are, and matched.
FILES = ("connections/as-they-are.nc", "connections/matched.nc")

#: Two models are joined up to this many samples times parameters, by strings of at most 2^6 segments
#: whose models are trained for so many steps: some seconds, and at worst a minute. Measured, not derived.
MAX_STRING_WORK = 5e6
MAX_DEPTH = 6
MAX_STEPS = 300

TOO_LARGE = "too large for a short survey; `reluscape connect` does it"

#: What is known after a step, and the path to keep with it.
Step = tuple[PairSurvey, Connection | None]


def of_one_shape(first: Landscape, last: Landscape) -> bool:
    """Whether a straight line between the two models makes sense."""
    try:
        first.state_of(last.module_at())
    except InputError:
        return False
    return True


def stopped(found: Connection | None) -> bool:
    """Whether Ctrl-C ended the search."""
    return found is not None and STOPPED in found.tried


def between(
    landscapes: tuple[Landscape, Landscape],
    about: PairSurvey,
    *,
    seed: int,
    progress: Callable[[str], None],
) -> Iterator[Step]:
    """Strings between two models, first as they are, then with matched units; each as it is found.

    Whatever breaks down, a model's own forward included, is a note: the other sections are worth a page.

    Args:
        landscapes: Theirs.
        about: Names and options.
        seed: Of the searches.
        progress: Told what is being done.
    """
    known = about
    try:
        for known, found in _strings(landscapes, about, seed, progress):
            yield known, found
    except Exception as error:  # of any kind that a user's module raises
        said = " ".join(str(error).split())[:300]
        yield replace(known, notes=(*known.notes, f"{type(error).__name__}: {said}")), None


def _strings(
    landscapes: tuple[Landscape, Landscape],
    about: PairSurvey,
    seed: int,
    progress: Callable[[str], None],
) -> Iterator[Step]:
    """The same, without regard to what breaks down."""
    landscape = landscapes[0]
    if landscape.num_samples * landscape.size > MAX_STRING_WORK:
        yield replace(about, notes=(TOO_LARGE,)), None
        return

    def told(what: str, fraction: float) -> None:
        progress(what)

    try:
        models = Models.of(about.names, [one.module_at() for one in landscapes], landscape)
    except InputError as error:  # a loss that is not finite, other buffers
        yield replace(about, notes=(str(error),)), None
        return
    about = replace(about, why=models.why)
    short: dict[str, Any] = {"max_depth": MAX_DEPTH, "schedule": Schedule(max_steps=MAX_STEPS)}
    for matched, file in zip((False, True), FILES, strict=True):
        try:
            found = models.join(0, 1, told, match_units=matched, seed=seed, **short)
        except ReluscapeError as error:
            what = "matched units" if matched else "a string"
            about = replace(about, notes=(*about.notes, f"{what}: {error}"))
            yield about, None
            continue
        cells = None if stopped(found) else models.cells(found, told)
        record = StringSurvey.of(found, cells, file)
        about = replace(about, strings=(*about.strings, record))
        yield about, found
