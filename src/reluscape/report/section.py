"""The parts of a page: sections, tables and figures, free of any markup.

A section is one file in :mod:`reluscape.report.sections` with a number ``ORDER`` and a function
``section(survey) -> Section | None``. All texts are plain; the page escapes them.
"""

from dataclasses import dataclass

import plotly.graph_objects as go


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: What it says.
        tier: ``exact``, ``certified`` or ``sampled`` puts that tag behind the text.
        file: A file to link to, relative to the report.
        numeric: Whether to align it as a number.
    """

    text: str
    tier: str = ""
    file: str = ""
    numeric: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table; the first cell of each row is its heading."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with its caption; ``key`` is unique on the page and names its element."""

    key: str
    caption: str
    figure: go.Figure


@dataclass(frozen=True, slots=True)
class Section:
    """One section of the report.

    Attributes:
        key: Unique name, the section's anchor.
        title: Its heading.
        verdict: What was found, in a sentence; one line per model.
        method: How it was obtained, one paragraph each.
        check: How to check it, one paragraph each.
        commands: Shell commands that check it.
        figures: The figures, most telling first.
        tables: The tables.
        remarks: Short paragraphs between the verdict and the first figure.
    """

    key: str
    title: str
    verdict: str
    method: tuple[str, ...]
    check: tuple[str, ...]
    commands: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    remarks: tuple[str, ...] = ()
