"""The page of `reluscape tree`: the landscape of a layer as its merge tree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reluscape.report.grown import TreeSurvey
from reluscape.report.page import fill
from reluscape.report.section import Cell, Figure, Section, Table
from reluscape.report.wording import count, number, several, share
from reluscape.trees import figures
from reluscape.trees.result import MergeTree

__all__ = ["FILE", "MINIMA", "Grown", "minimum_name", "render_tree", "tree_section"]

#: What is drawn.
Drawn = MergeTree | TreeSurvey

#: The tree, beside the page, and the folder of the minima's weights.
FILE, MINIMA = "merge_tree.nc", "minima"
#: Minima beyond which the table and the weights' files leave off.
LISTED = 50
#: Digits of losses, many of which are close.
DIGITS = 7
COLUMNS = ("minimum", "loss", "joins", "at", "barrier", "exchanges of units")
CERTIFICATE = "by its own certificate"


@dataclass(frozen=True, slots=True)
class Grown:
    """What the page says besides the tree.

    Attributes:
        layer: Name of the layer.
        data: Name of the data.
        where: Loss and minimum of the basin that the model's own weights lie in, in words.
        check: The command that checks the tree, in the page's folder.
        again: The command that finds it again, in the page's folder.
        version: Of reluscape.
        seed: Of the samples that were drawn.
        name: Of the model, on a page that has several.
        claims: What the certificates of the lowest minima say, where these have files.
        certificate: The command that checks the first of these, in the page's folder.
    """

    layer: str
    data: str
    where: str
    check: str
    again: str
    version: str
    seed: int
    name: str = ""
    claims: tuple[str, ...] = ()
    certificate: str = ""


def minimum_name(minimum: int, ending: str = "safetensors") -> str:
    """File of a minimum's weights, or of its certificate, which is "json"."""
    return f"{MINIMA}/{minimum:03d}.{ending}"


def render_tree(tree: MergeTree, about: Grown) -> str:
    """The page as a text: one HTML file with everything inside; all texts are escaped."""
    section = tree_section([(tree, about)])
    return fill("merge_tree.html.j2", sections=[section], tree=tree, about=about)


def tree_section(trees: Sequence[tuple[Drawn, Grown]], *, listed: int = LISTED) -> Section:
    """One or more trees as a section of a page.

    Args:
        trees: Each with what there is to say besides.
        listed: Minima of each tree beyond which the table leaves off.
    """
    weights = (
        "Every minimum listed is a weights file of its own, for load_state_dict of the module, with its "
        "block certificate: slopes at the point show what verify of the tree shows by all cells. Where "
        "that is undecided, slopes are within rounding errors of zero; the tree shows that minimum, too."
    )
    return Section(
        key="tree",
        title="All minima of the layer, and the levels at which they join",
        verdict="\n".join(f"{_named(about)}{_verdict(tree)}" for tree, about in trees),
        remarks=tuple(f"{_named(about)}{about.where}" for _, about in trees if about.where),
        figures=tuple(
            figure
            for place, (tree, about) in enumerate(trees)
            for figure in _figures(tree, about, "" if place == 0 else f"-{place + 1}")
        ),
        tables=tuple(_minima(tree, about, listed) for tree, about in trees),
        method=tuple(line for tree, about in trees for line in _counts(tree, about))
        + _method(trees[0][0]),
        check=(
            "verify enumerates the cells again, shows the least loss of every cell and facet to be "
            "least, and finds the tree by another algorithm.",
            *([weights] if any(about.claims for _, about in trees) else []),
        ),
        commands=tuple(
            command
            for _, about in trees
            for command in (about.check, about.certificate if about.claims else "", about.again)
            if command
        ),
    )


def _named(about: Grown) -> str:
    """What begins a sentence about one of several models."""
    return f"{about.name}: " if about.name else ""


def _verdict(tree: Drawn) -> str:
    """How many minima there are, and how bad."""
    if not len(tree.losses):
        return f"No weights of the layer have a loss of at most {number(tree.below)}."
    found, best = len(figures.distinct(tree)), number(float(tree.losses[0]))
    within = "" if math.isinf(tree.below) else f" with a loss of at most {number(tree.below)}"
    if found == 1 and not within:
        return f"Every local minimum is global: loss {best}."
    worse = tree.losses > tree.losses[0] + tree.tolerance * tree.layer.zero_loss
    ends = tree.deaths[np.isfinite(tree.deaths)]
    worst, top = _apart(float(tree.losses[-1]), float(ends.max(initial=-math.inf)))
    joined = f" All are joined at {top}." if len(ends) and not within else ""
    alike = "" if found == len(tree.losses) else f", {found} but for exchanges of units"
    others = "none is worse"
    if worse.any():
        others = f"{share(float(worse.mean()))} are worse, the worst {worst}"
    return (
        f"{several(len(tree.losses), 'local minimum', 'local minima')}{within}{alike}. The global one "
        f"has loss {best}; {others}.{joined}"
    )


def _apart(one: float, other: float) -> tuple[str, str]:
    """Two numbers with as many digits as tell one from the other, up to those of the table."""
    for digits in range(3, DIGITS + 1):
        told = number(one, digits), number(other, digits)
        if told[0] != told[1]:
            break
    return told


def _figures(tree: Drawn, about: Grown, suffix: str) -> tuple[Figure, ...]:
    found, whose = [], _named(about)
    if len(tree.losses) > 1:
        left = len(tree.losses) - figures.BRANCHES
        some = f" The {count(left)} least persistent minima are left out." if left > 0 else ""
        found.append(
            Figure(
                f"branches{suffix}",
                f"{whose}The disconnectivity graph: each dot is a local minimum, its line ends where its "
                "basin joins that of a lower one. Between two dots, the highest point of the way "
                f"along the lines is the barrier between them.{some}",
                figures.disconnectivity(tree),
            )
        )
    if np.isfinite(tree.deaths).any():
        found.append(
            Figure(
                f"persistence{suffix}",
                f"{whose}Each local minimum but the global one: its loss, and how far above that the "
                "lowest way to a lower minimum has to rise.",
                figures.persistence(tree),
            )
        )
    inputs = tree.features.shape[1] - tree.bias
    if len(tree.losses) and inputs == 1 and tree.residual.shape[1] == 1:
        caption = (
            f"{whose}What the networks at the lowest minima put out, over the data, both without the "
            "output's bias; one of those that differ by an exchange of units."
        )
        found.append(Figure(f"networks{suffix}", caption, figures.networks(tree)))
    return tuple(found)


def _minima(tree: Drawn, about: Grown, listed: int) -> Table:
    """A line for each of the lowest minima."""
    rows = []
    for k in range(min(len(tree.losses), listed)):
        last = not np.isfinite(tree.deaths[k])
        barrier = float(tree.deaths[k] - tree.losses[k])
        rows.append(
            (
                Cell(f"{k:03d}", file=minimum_name(k) if about.claims else ""),
                Cell(number(float(tree.losses[k]), digits=DIGITS), tier=tree.tier, numeric=True),
                Cell("" if last else f"{tree.parents[k]:03d}", numeric=True),
                Cell("" if last else number(float(tree.deaths[k]), digits=DIGITS), numeric=True),
                Cell("" if last else number(barrier), numeric=True),
                Cell(count(int(tree.multiplicity[k])), numeric=True),
                *(
                    Cell(claim.replace("_", " "), file=minimum_name(k, "json"))
                    for claim in about.claims[k : k + 1]
                ),
            )
        )
    left = len(tree.losses) > listed
    columns = (*COLUMNS, CERTIFICATE) if about.claims else COLUMNS
    some = f", the lowest {listed} of {count(len(tree.losses))}" if left else ""
    return Table(f"{_named(about)}Local minima{some}", columns, tuple(rows))


def _counts(tree: Drawn, about: Grown) -> tuple[str, ...]:
    """How much was gone through."""
    problems = "least squares" if tree.loss != "l1" else "least absolute deviations"
    pruned = (
        (
            f"{count(tree.num_pruned)} cells were not gone through: bounds for bundles of cells "
            f"show that all their losses are above {number(tree.below)}.",
        )
        if tree.num_pruned
        else ()
    )
    failed = (
        (
            f"Float64 does not tell the least loss in {several(tree.num_failed, 'problem')}: samples are "
            "nearly equal. The tree is what was found.",
        )
        if tree.num_failed
        else ()
    )
    return (
        f"{_named(about)}The layer has {count(tree.num_cells)} activation cells with "
        f"{count(tree.num_facets)} facets between them. On each the loss is convex, and its least value "
        f"is a problem of {problems}: {count(tree.num_solved)} were solved, the others are the same by "
        "an exchange of units.",
        *pruned,
        *failed,
    )


def _method(tree: Drawn) -> tuple[str, ...]:
    """How it was obtained."""
    return (
        "Two cells are joined below a level if and only if the least loss on their common facet is below "
        "it, so the facets in the order of their least losses (Kruskal's algorithm) give every minimum "
        "and every barrier of the whole landscape.",
        f"Minima that join a lower one within {number(tree.tolerance)} of the loss of zero weights are "
        "none."
        if tree.tolerance
        else "Least losses are exact and compared exactly, and rounded once.",
    )
