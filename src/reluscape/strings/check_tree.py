"""`verify` of a spanning tree: every string of it measured again, and the tree from their heights."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np

from reluscape.certificate import Verification
from reluscape.check_block import RejectedError, require
from reluscape.digits import rounded_up
from reluscape.landscape import Landscape
from reluscape.strings.check import check_connection
from reluscape.strings.check_ends import why_other_end
from reluscape.strings.check_values import ROUNDING, SAME, TIERS
from reluscape.strings.connection import Connection
from reluscape.strings.ends import on_own_statistics
from reluscape.strings.spanning import SpanningTree
from reluscape.strings.surface import Metric

__all__ = ["check_tree"]


def check_tree(
    tree: SpanningTree, landscape: Landscape, metric: str | Metric | Landscape | None = None
) -> Verification:
    """Measure every string again (`check_connection`), and see that the tree is the least of them.

    A tree is one of least heights exactly if no pair's string is lower than the highest edge on the way
    between the two through the tree. That is compared, not searched for.

    Cost: that of `check_connection` for each pair, and pairs * models^2 comparisons.
    """
    try:
        _shapes(tree, landscape)
        for (a, b), found in zip(_pairs(tree), tree.strings, strict=True):
            where = f"string {a}-{b}"
            checked = check_connection(found, landscape, metric)
            require(checked.valid, f"{where}: {checked.reason}")
            _ends(tree, found, landscape, a, b)
            require(
                tree.maxima[a, b] == tree.maxima[b, a] == found.highest, f"{where} is not as high"
            )
        _least(tree)
    except RejectedError as rejection:
        return Verification(False, str(rejection))
    except (TypeError, ValueError, IndexError, AttributeError) as error:  # a field of another type
        return Verification(False, f"it is no spanning tree: {error}")
    how = "on grids, which prove nothing" if tree.tier == "sampled" else tree.tier
    return Verification(
        True,
        f"recomputed from network and data: {len(tree.strings)} strings between {len(tree.values)}"
        f" models, the highest of the tree at most {rounded_up(tree.heights.max()):.6g} ({how})",
    )


def _pairs(tree: SpanningTree) -> list[tuple[int, int]]:
    return list(combinations(range(len(tree.values)), 2))


def _shapes(tree: SpanningTree, landscape: Landscape) -> None:
    """Everything is of the size that it has to be."""
    count = len(tree.values)
    require(count >= 2 and tree.thetas.shape == (count, landscape.size), "its models do not fit")
    require(tree.maxima.shape == (count, count), "its heights are not one for each pair")
    require(len(tree.strings) == len(_pairs(tree)), "its strings are not one for each pair")
    require(tree.edges.shape == (count - 1, 2), "its edges are none of a tree")
    inside = (tree.edges >= 0).all() and (tree.edges < count).all()
    inside &= (tree.edges[:, 0] != tree.edges[:, 1]).all()
    require(bool(inside) and tree.heights.shape == (count - 1,), "its edges are none of a tree")
    require(np.array_equal(tree.maxima.diagonal(), tree.values), "its values are told twice")
    tier = min((tree.string(a, b).tier for a, b in tree.edges.tolist()), key=TIERS.index)
    require(tree.tier == tier, f"its tier is {tier!r}")


def _ends(tree: SpanningTree, found: Connection, landscape: Landscape, a: int, b: int) -> None:
    """The string begins at one model and ends at the other, or at its units in another order."""
    require(np.array_equal(found.beads[0], tree.thetas[a]), f"string {a}-{b} begins elsewhere")
    zero = landscape.loss(np.zeros(landscape.size))
    slack = SAME * abs(found.highest) + ROUNDING * (zero if np.isfinite(zero) else 0.0)
    ends = np.abs(found.values[[0, -1]] - tree.values[[a, b]])
    require(bool((ends <= slack).all()), f"models {a} and {b} have other values")
    if not found.matched:
        require(np.array_equal(found.beads[-1], tree.thetas[b]), f"string {a}-{b} ends elsewhere")
        return
    if found.buffers.shape[
        1
    ]:  # a tree tells no running statistics; those of the data stand for them
        found, landscape = (
            replace(found, buffers=found.buffers[:, :0]),
            on_own_statistics(landscape),
        )
    other = why_other_end(found, landscape, landscape.module_at(tree.thetas[b]))
    require(not other, f"string {a}-{b}: {other}")


def _least(tree: SpanningTree) -> None:
    """The edges join all models, and no string is lower than the way through them."""
    firsts, lasts = tree.edges.T
    require(np.array_equal(tree.maxima[firsts, lasts], tree.heights), "its heights are others")
    for a, b in _pairs(tree):
        through = tree.pass_between(a, b)
        require(through > -np.inf, f"its edges do not join {a} and {b}")
        lowest = through <= tree.maxima[a, b]
        require(lowest, f"the string {a}-{b} is lower than the way through the tree")
