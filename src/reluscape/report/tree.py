"""The page of `reluscape connect` of more than two models: the tree of the lowest passes between them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from reluscape.report.page import fill
from reluscape.report.section import Cell, Figure, Section, Table
from reluscape.report.strings import CHECK, TIERS, heights, method, rise
from reluscape.report.wording import count, listed, number, several
from reluscape.strings.connection import Connection
from reluscape.strings.spanning import SpanningTree
from reluscape.strings.tree_chart import disconnectivity, heights_map

__all__ = ["FILE", "Grown", "folder_of", "render_tree"]

#: The tree, beside the page.
FILE = "tree.nc"
COLUMNS = (
    "models", "found", "highest", "above the worse end", "straight line above it", "length", "beads",
    "depth", "cells",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Grown:
    """What the page says besides the tree.

    Attributes:
        names: The models.
        data: Name of the data.
        num_samples: Samples of it.
        why: Where the level comes from.
        cells: Activation cells on the string of each pair; None where they were not counted.
        check: The command that checks the tree, in the page's folder.
        again: The command that finds it again, in the page's folder.
        version: Of reluscape.
    """

    names: tuple[str, ...]
    data: str
    num_samples: int
    why: str
    cells: tuple[int | None, ...]
    check: str
    again: str
    version: str


def folder_of(a: int, b: int) -> str:
    """Folder of a pair, beside the page."""
    return f"{a:03d}-{b:03d}"


def render_tree(tree: SpanningTree, about: Grown) -> str:
    """The page as a text: one HTML file with everything inside; all texts are escaped."""
    used = dict.fromkeys(one.tier for one in tree.strings)
    return fill(
        "tree.html.j2",
        sections=[_section(tree, about)],
        tree=tree,
        about=about,
        params=tree.thetas.shape[1],
        seed=tree.strings[0].seed,
        tiers={tier: TIERS[tier] for tier in used},
    )


def _section(tree: SpanningTree, about: Grown) -> Section:
    return Section(
        key="tree",
        title="Which of them are connected below the level",
        verdict=_verdict(tree, about),
        remarks=_remarks(tree, about),
        figures=_figures(tree, about),
        tables=(
            _edges(tree, about, inside=True),
            *((_edges(tree, about, inside=False),) if len(tree.values) > 2 else ()),
            _models(tree, about),
        ),
        method=(
            *_method(tree),
            *dict.fromkeys(line for one in tree.strings for line in method(one)),
        ),
        check=(
            CHECK,
            "Of the tree it sees that no pair's string is lower than the way through the tree.",
        ),
        commands=(about.check, about.again),
    )


def _verdict(tree: SpanningTree, about: Grown) -> str:
    """Who is joined below the level, and how far up the rest is."""
    level, groups = heights(tree.strings[0])[0], _groups(tree)
    passes = [tree.string(a, b) for a, b in tree.edges.tolist()]
    below = [one.tier for one in passes if one.status == "connected"]
    seen = " as far as grids show" if "sampled" in below else ""
    top = heights(max(passes, key=lambda one: one.highest))[1]
    if len(groups) == 1:
        return (
            f"All {count(len(tree.values))} models are connected below {level}{seen}: the highest pass "
            f"of their tree is {'' if seen else 'at most '}{top}."
        )
    told = [listed([about.names[k] for k in group]) for group in groups if len(group) > 1]
    known = "".join(f"Connected below {level}{seen}: {group}. " for group in told)
    return (
        f"{known}Between the {count(len(groups))} groups of models no path below {level} was found, "
        f"which does not show that there is none; the highest pass of the tree is {top}."
    )


def _groups(tree: SpanningTree) -> list[list[int]]:
    """Models that are connected by strings below the level, in one or more steps."""
    pairs = combinations(range(len(tree.values)), 2)
    known = np.zeros(tree.maxima.shape)
    for (a, b), one in zip(pairs, tree.strings, strict=True):
        known[a, b] = one.status == "connected"
    labels = connected_components(known, directed=False)[1]
    return [np.flatnonzero(labels == label).tolist() for label in range(int(labels.max()) + 1)]


def _remarks(tree: SpanningTree, about: Grown) -> tuple[str, ...]:
    told = [
        f"The level: {about.why}.",
        "The highest edge on the way between two models through the tree is the lowest pass that any way "
        "through all strings found has. There may be lower ones: a search ends as soon as its string is "
        "below the level.",
    ]
    if tree.strings[0].matched:
        told.append(
            "The hidden units of the second model of each pair were permuted first: its string ends at "
            "that permuted model, which computes the same function."
        )
    return tuple(told)


def _figures(tree: SpanningTree, about: Grown) -> tuple[Figure, ...]:
    known = tree.values, tree.edges, tree.heights
    graph = disconnectivity(*known, about.names, tree.strings[0].level)
    return (
        Figure(
            "tree-passes",
            "Every model at its loss (dots); from there up to the height at which the tree joins it with "
            "others. The dashed line is the level. Places from left to right mean nothing.",
            graph,
        ),
        Figure(
            "tree-pairs",
            "How high each pair's string rises (below the diagonal) and its straight line (above it).",
            heights_map(tree.maxima, _straight(tree), about.names),
        ),
    )


def _straight(tree: SpanningTree) -> NDArray[np.float64]:
    """How high the straight line of each pair rises."""
    heights = np.zeros(tree.maxima.shape)
    for (a, b), one in zip(combinations(range(len(heights)), 2), tree.strings, strict=True):
        heights[a, b] = one.straight_lower
    return heights


def _edges(tree: SpanningTree, about: Grown, *, inside: bool) -> Table:
    """A row for each pair that is in the tree, or is not, the lowest first."""
    edges = set(map(tuple, tree.edges.tolist()))
    pairs = list(combinations(range(len(tree.values)), 2))
    chosen = [
        (one.highest, k, pair)
        for k, (pair, one) in enumerate(zip(pairs, tree.strings, strict=True))
        if (pair in edges or pair[::-1] in edges) == inside
    ]
    rows = tuple(
        _row(tree.strings[k], pair, about, about.cells[k]) for _, k, pair in sorted(chosen)
    )
    caption = "The passes of the tree, lowest first" if inside else "The other pairs"
    return Table(caption, COLUMNS, rows)


def _row(
    one: Connection, pair: tuple[int, int], about: Grown, cells: int | None
) -> tuple[Cell, ...]:
    a, b = pair
    worse = float(max(one.values[0], one.values[-1]))
    return (
        Cell(f"{about.names[a]} – {about.names[b]}", file=f"{folder_of(a, b)}/report.html"),
        Cell(one.status.replace("_", " ")),
        Cell(heights(one)[1], tier=one.tier, numeric=True),
        Cell(rise(one.highest, worse), numeric=True),
        Cell(rise(one.straight_lower, worse), numeric=True),
        Cell(f"{one.normalized_length:.4f}", numeric=True),
        Cell(count(one.num_beads), numeric=True),
        Cell(count(one.depth), numeric=True),
        Cell(count(cells), numeric=True),
    )


def _models(tree: SpanningTree, about: Grown) -> Table:
    """Each model with its loss, and the pass by which the tree leaves it."""
    rows = []
    for k, name in enumerate(about.names):
        touching = (tree.edges == k).any(axis=1)
        nearest = int(np.argmin(np.where(touching, tree.heights, np.inf)))
        other = int(tree.edges[nearest].sum()) - k
        rows.append(
            (
                Cell(name),
                Cell(number(float(tree.values[k])), numeric=True),
                Cell(heights(tree.string(k, other))[1], numeric=True),
                Cell(about.names[other]),
            )
        )
    return Table("The models", ("model", "loss", "its lowest pass", "to"), tuple(rows))


def _method(tree: SpanningTree) -> tuple[str, ...]:
    pairs = several(len(tree.strings), "pair")
    return (
        f"A string was looked for between each of {pairs} of models, below one level. Of their heights "
        "the tree is the minimum spanning tree: it joins all models by the lowest passes.",
    )
