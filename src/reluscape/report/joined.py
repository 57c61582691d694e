"""The page of `reluscape connect`: the path between two models, and every model on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reluscape.report.page import fill
from reluscape.report.section import Cell, Figure, Section, Table
from reluscape.report.wording import count, number, several
from reluscape.strings.connection import Connection

__all__ = ["BEADS", "FILE", "Joined", "bead_name", "render_connection"]

#: The path, beside the page, and the folder of its models.
FILE, BEADS = "connection.nc", "beads"
TIERS = {
    "exact": "maximised on every piece of every segment; rounding errors are included",
    "certified": "proved by bounds on parts of every segment; rounding errors are included",
    "sampled": "seen at the points of a grid; nothing is proved of what lies between them",
}
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


def kind_of(found: Connection) -> str:
    """What is held below the level, in words."""
    return found.kind.replace("_", " ")


def _section(found: Connection, about: Joined) -> Section:
    return Section(
        key="connection",
        title="Whether they are connected below the level",
        verdict=_verdict(found),
        remarks=_remarks(found, about),
        figures=_figures(found),
        tables=(_measures(found, about), _beads(found)),
        method=_method(found),
        check=(
            "verify takes nothing of the file on trust: the ends have to be the given weights bit for "
            "bit, and values, lengths and the maximum of every segment are computed again.",
            "Every bead is a weights file of its own, for load_state_dict of the module; "
            "module.double() first keeps every digit.",
        ),
        commands=(about.check, about.again),
    )


def _verdict(found: Connection) -> str:
    """The answer in a sentence or two."""
    kind, level, top = kind_of(found), number(found.level), number(found.maximum)
    beads = several(found.num_beads, "model")
    straight = f"the straight line between them rises to {number(found.straight_lower)}"
    if found.status == "not_found":
        best = number(max(found.maximum, float(found.lower.max())))
        return (
            f"No path below {level} was found, which does not show that there is none. "
            f"The best string, of {beads}, rises to {best}; {straight}."
        )
    if found.tier == "sampled":
        return (
            f"Connected as far as a grid shows: along a string of {beads} no {kind} above {top} was "
            f"seen, and the level is {level}; {straight}."
        )
    return (
        f"Connected: along a string of {beads} the {kind} is at most {top}, and the level is {level}; "
        f"{straight}."
    )


def _remarks(found: Connection, about: Joined) -> tuple[str, ...]:
    """Where the level comes from, and what was done on the way."""
    told = [f"The level: {about.why}."]
    if np.array_equal(found.beads[0], found.beads[-1]):
        told.append("Both ends are the same point.")
    if found.matched:
        told.append(
            "The hidden units of the second model were permuted first: the string ends at that permuted "
            "model, which computes the same function. In its own order of units the straight line rises "
            f"to {number(found.unmatched_lower)}."
        )
    if found.buffers.shape[1]:
        told.append(
            "Between the ends, running statistics are those of the data at each model; the ends keep "
            "their own."
        )
    return (*told, *(f"{line[:1].upper()}{line[1:]}." for line in found.tried))


def _figures(found: Connection) -> tuple[Figure, ...]:
    kind = kind_of(found)
    caption = (
        f"{kind.capitalize()} along the string and along the straight line, each by share of its own "
        "length. Dots are the models of the string; the dashed line is the level."
    )
    return (Figure("string", caption, found.plot()),)


def _measures(found: Connection, about: Joined) -> Table:
    """What was measured, and how it is known."""
    kind = kind_of(found)
    top = found.maximum if found.status == "connected" else max(found.maximum, found.lower.max())
    rows = [
        (f"level of the {kind}", number(found.level), ""),
        (f"{kind} of the two ends", f"{number(found.values[0])}, {number(found.values[-1])}", ""),
        ("highest on the string", number(float(top)), found.tier),
        ("highest on the straight line, at least", number(found.straight_lower), ""),
        ("the string above the worse end", number(float(top - found.values[[0, -1]].max())), ""),
        ("the straight line above it, at least", number(found.linear_barrier), ""),
        ("length over distance of the ends", f"{found.normalized_length:.4f}", ""),
        ("the same without biases", f"{found.normalized_length_weights:.4f}", ""),
        ("models on the string, ends included", count(found.num_beads), ""),
        ("depth", count(found.depth), ""),
        ("activation cells passed through", count(about.cells), ""),
        ("gradients evaluated", count(found.gradients), ""),
        ("values evaluated", count(found.losses), ""),
        ("seconds", number(found.seconds), ""),
    ]
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


METHODS = {
    "greedy": "Dynamic String Sampling: a segment that rises above the level gets a new model where it "
    "is highest, which is trained until it is below the level; its two halves are segments again. All "
    "models of a depth are trained as one batch.",
    "constrained": "Dynamic String Sampling, constrained: all models move together, each on the "
    "hyperplane between its neighbours, and new ones are put where the string is too high.",
    "bezier": "A quadratic Bezier curve, trained at random positions, and models on it.",
    "band": "A nudged elastic band: models move down across the band and are kept apart along it.",
}


def _method(found: Connection) -> tuple[str, ...]:
    """How it was obtained."""
    proof = (
        "No segment that is exact or certified rises above its bound: outputs are followed along the "
        "segment with their rounding errors, not looked at on a grid."
    )
    grid = (
        "A segment that is sampled was looked at on a grid of 257 points, or of 33 where these sufficed "
        "to see it above the level. There is no proof for this network or for this value."
    )
    return (
        METHODS.get(found.method, f"Method: {found.method}."),
        *((proof,) if {*found.tiers} - {"sampled"} else ()),
        *((grid,) if "sampled" in found.tiers else ()),
        "The straight line is between the string's ends. Lengths are Euclidean, of all parameters.",
        *(
            (f"Models were trained one after the other: {found.unbatched}.",)
            if found.unbatched
            else ()
        ),
    )
