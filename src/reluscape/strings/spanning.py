"""Many models and the barriers between them: the tree of lowest passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree

from reluscape.errors import InputError
from reluscape.landscape import Landscape
from reluscape.progress import Progress
from reluscape.results import Result
from reluscape.strings.connection import Connection
from reluscape.strings.judging import TIERS, Judge
from reluscape.strings.surface import Surface
from reluscape.validation import check_theta

Floats = NDArray[np.float64]
#: A string between two models, such as `lambda a, b: connect(landscape, a, b, level)`.
Join = Callable[[Floats, Floats], Connection]


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class SpanningTree(Result):
    """Models joined by the strings that rise least.

    Between any two models, the highest edge on the way through the tree is the lowest that any way
    through all known strings has: `pass_between`. It bounds the true barrier from above only.

    Attributes:
        thetas: The models (models, params).
        values: The loss of each (models,).
        maxima: How high the string of each pair rises, symmetric, the values on the diagonal; infinite
            where no finite string is known (models, models).
        edges: Pairs of the tree (models - 1, 2).
        heights: `maxima` on them (models - 1,).
        tier: The weakest of the strings: "exact", "certified" or "sampled".
    """

    thetas: Floats
    values: Floats
    maxima: Floats
    edges: NDArray[np.int64]
    heights: Floats
    tier: str

    def pass_between(self, a: int, b: int) -> float:
        """Height of the lowest known way from one model to another; its own value for the same."""
        highest = np.full(len(self.values), -np.inf)
        highest[a] = self.values[a]
        for _ in self.edges:  # a way has at most as many edges as the tree
            for (u, v), height in zip(self.edges, self.heights, strict=True):
                for at, to in ((u, v), (v, u)):
                    if np.isneginf(highest[to]) and not np.isneginf(highest[at]):
                        highest[to] = max(highest[at], height)
        return float(highest[b])

    def components(self, level: float) -> list[list[int]]:
        """Models that are joined by known strings at or below a level; those above it are left out."""
        groups = [{k} for k in range(len(self.values)) if self.values[k] <= level]
        for (u, v), height in zip(self.edges, self.heights, strict=True):
            if height <= level:
                joined = [group for group in groups if u in group or v in group]
                groups = [g for g in groups if g not in joined] + [set().union(*joined)]
        return sorted(sorted(group) for group in groups)

    def plot(self) -> go.Figure:
        """How high each pair's string rises."""
        figure = go.Figure(go.Heatmap(z=self.maxima, colorbar={"title": "highest loss"}))
        return figure.update_layout(xaxis_title="model", yaxis_title="model")


def spanning_tree(
    landscape: Landscape,
    thetas: Sequence[ArrayLike],
    *,
    join: Join | None = None,
    progress: Progress | None = None,
) -> SpanningTree:
    """The minimum spanning tree of models, each pair weighted by how high its string rises.

    Args:
        landscape: Theirs.
        thetas: At least two models, each (params,).
        join: Makes the string between two of them, such as `lambda a, b: connect(landscape, a, b,
            level)`; default: the straight segment.
        progress: Told of the pairs.

    Cost: one string for each pair.

    Raises:
        InputError: Fewer than two models, or one of another shape.
    """
    models = [check_theta(theta, landscape.size) for theta in thetas]
    if len(models) < 2:
        raise InputError(f"thetas must hold at least two models; received {len(models)}")
    surface = Surface(landscape)
    count, tiers = len(models), []
    maxima = np.diag(surface.values(np.stack(models)))
    judge = Judge(surface, np.inf, 1e-3)
    pairs = list(combinations(range(count), 2))
    for done, (a, b) in enumerate(pairs):
        if progress is not None:
            progress(f"models {a} and {b}", done / len(pairs))
        height, tier = _height(judge, models[a], models[b], join)
        maxima[a, b] = maxima[b, a] = height
        tiers.append(tier)
    edges = _tree(maxima)
    return SpanningTree(
        thetas=np.stack(models),
        values=maxima.diagonal().copy(),
        maxima=maxima,
        edges=edges,
        heights=maxima[edges[:, 0], edges[:, 1]],
        tier=min(tiers, key=TIERS.index),
    )


def _height(judge: Judge, first: Floats, last: Floats, join: Join | None) -> tuple[float, str]:
    """How high a pair's string rises, and how that is known."""
    if join is not None:
        found = join(first, last)
        return found.maximum, found.tier
    segment = judge.prove(first, last)
    return (segment.lower if segment.tier == "sampled" else segment.upper), segment.tier


def _tree(maxima: Floats) -> NDArray[np.int64]:
    """Edges of the tree; ranks instead of heights, because scipy takes a zero for no edge."""
    rows, columns = np.triu_indices(len(maxima), 1)
    order = np.argsort(maxima[rows, columns], kind="stable")
    ranks = np.empty(len(order))
    ranks[order] = np.arange(1.0, len(order) + 1.0)
    found = minimum_spanning_tree(coo_array((ranks, (rows, columns)), shape=maxima.shape)).tocoo()
    return np.array(
        sorted(zip(found.row.tolist(), found.col.tolist(), strict=True)), dtype=np.int64
    )
