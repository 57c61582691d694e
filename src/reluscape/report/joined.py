"""The page of `reluscape connect`: the path between two models, and every model on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reluscape.report.page import fill
from reluscape.report.section import Cell, Figure, Section, Table
from reluscape.report.strings import (
    CHECK,
    TIERS,
    caption,
    kind_of,
    measures,
    method,
    unmatched,
    verdict,
)
from reluscape.report.wording import count, number
from reluscape.strings.connection import Connection

__all__ = ["BEADS", "FILE", "Joined", "bead_name", "render_connection"]

#: The path, beside the page, and the folder of its models.
FILE, BEADS = "connection.nc", "beads"
COLUMNS = ("bead", "depth", "value", "way so far", "highest until the next")
#: Beads beyond which the table leaves off.
LISTED = 200


@dataclass(frozen=True, slots=True)
class Joined:
    """What the page says besides the path.

    Attributes:
        names: The two models.
        data: Name of the data.
        num_samples: Samples of it.
        why: Where the level comes from.
        cells: Activation cells on the path; None where they were not counted.
        check: The command that checks the path, in the page's folder.
        again: The command that finds it again, in the page's folder.
        version: Of reluscape.
    """

    names: tuple[str, str]
    data: str
    num_samples: int
    why: str
    cells: int | None
    check: str
    again: str
    version: str


def bead_name(bead: int) -> str:
    """File of a bead's weights."""
    return f"{BEADS}/{bead:03d}.safetensors"


def render_connection(found: Connection, about: Joined) -> str:
    """The page as a text: one HTML file with everything inside; all texts are escaped."""
    used = dict.fromkeys(found.tiers)
    return fill(
        "connection.html.j2",
        sections=[_section(found, about)],
        found=found,
        about=about,
        kind=kind_of(found),
        params=found.beads.shape[1],
        tiers={tier: TIERS[tier] for tier in used},
    )


def _section(found: Connection, about: Joined) -> Section:
    return Section(
        key="connection",
        title="Whether they are connected below the level",
        verdict=verdict(found),
        remarks=_remarks(found, about),
        figures=_figures(found),
        tables=(_measures(found, about), _beads(found)),
        method=(*method(found), *_one_by_one(found)),
        check=(
            CHECK,
            "Every bead is a weights file of its own, for load_state_dict of the module; "
            "module.double() first keeps every digit.",
        ),
        commands=(about.check, about.again),
    )


def _remarks(found: Connection, about: Joined) -> tuple[str, ...]:
    """Where the level comes from, and what was done on the way."""
    told = [f"The level: {about.why}."]
    if np.array_equal(found.beads[0], found.beads[-1]):
        told.append("Both ends are the same point.")
    if found.matched:
        told.append(
            "The hidden units of the second model were permuted first: the string ends at that permuted "
            f"model, which computes the same function. {unmatched(found)}"
        )
    return (*told, *(f"{line[:1].upper()}{line[1:]}." for line in found.tried))


def _figures(found: Connection) -> tuple[Figure, ...]:
    return (Figure("string", caption(found), found.plot()),)


def _measures(found: Connection, about: Joined) -> Table:
    """What was measured, and how it is known."""
    rows = [*measures(found, about.cells), ("seconds", number(found.seconds), "")]
    told = tuple((Cell(name), Cell(value, tier=tier, numeric=True)) for name, value, tier in rows)
    return Table("What the path shows", ("quantity", "value"), told)


def _beads(found: Connection) -> Table:
    """A line for each model of the string, if they are not too many."""
    arc = found.arc() / max(float(found.arc()[-1]), float(np.finfo(float).tiny))
    shown = range(min(found.num_beads, LISTED))
    rows = tuple(_bead(found, place, float(arc[place])) for place in shown)
    left = f", the first {LISTED} of {count(found.num_beads)}" if len(arc) > LISTED else ""
    return Table(f"The models of the string{left}", COLUMNS, rows)


def _bead(found: Connection, place: int, way: float) -> tuple[Cell, ...]:
    file = bead_name(place)
    cells = (
        Cell(f"{place:03d}", file=file),
        Cell(count(int(found.depths[place])), numeric=True),
        Cell(number(float(found.values[place])), numeric=True),
        Cell(f"{way:.3f}", numeric=True),
    )
    if place == found.num_beads - 1:
        return (*cells, Cell("", numeric=True))
    tier = found.tiers[place]
    top = found.lower[place] if tier == "sampled" else found.upper[place]
    return (*cells, Cell(number(float(top)), tier=tier, numeric=True))


def _one_by_one(found: Connection) -> tuple[str, ...]:
    """Why there was no batch."""
    if not found.unbatched:
        return ()
    return (f"Models were trained one after the other: {found.unbatched}.",)
