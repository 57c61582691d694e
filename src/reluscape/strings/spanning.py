"""Many models and the barriers between them: the tree of lowest passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from time import perf_counter
from typing import Self

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree

from reluscape.errors import InputError
from reluscape.landscape import Landscape, check_landscape
from reluscape.progress import Progress
from reluscape.results import Result
from reluscape.strings.connection import Connection
from reluscape.strings.finishing import Work, finish
from reluscape.strings.judging import TIERS, Beads, Judge
from reluscape.strings.surface import Surface
from reluscape.strings.training import Schedule
from reluscape.strings.tree_chart import disconnectivity
from reluscape.validation import check_theta, is_index

Floats = NDArray[np.float64]
#: Of the maxima of straight segments.
RELATIVE_GAP = 1e-3
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
        tier: The weakest of the strings on its edges, which join the models: "exact", "certified" or
            "sampled".
        strings: The string of each pair, in the order (0, 1), (0, 2), ..., (1, 2), ...
    """

    thetas: Floats
    values: Floats
    maxima: Floats
    edges: NDArray[np.int64]
    heights: Floats
    tier: str
    strings: tuple[Connection, ...]

    @property
    def objective(self) -> str:
        """Loss of the landscape."""
        return self.strings[0].objective

    @property
    def weight_decay(self) -> float:
        """Its lambda."""
        return self.strings[0].weight_decay

    def string(self, a: int, b: int) -> Connection:
        """The string between two of the models; it begins at the one of the lower number."""
        pairs = combinations(range(len(self.values)), 2)
        return dict(zip(pairs, self.strings, strict=True))[min(a, b), max(a, b)]

    def pass_between(self, a: int, b: int) -> float:
        """Height of the lowest known way from one model to another; its own value for the same.

        Raises:
            InputError: No such model.
        """
        for model in (a, b):
            if not is_index(model) or not 0 <= model < len(self.values):
                last = len(self.values) - 1
                raise InputError(f"models must lie in 0..{last}; received {model!r}")
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

    def summary(self) -> str:
        """The passes of the tree, lowest first, a line each."""
        order = np.argsort(self.heights, kind="stable")
        passes = [
            f"  models {self.edges[k, 0]} and {self.edges[k, 1]}: {self.heights[k]:.6g}"
            for k in order
        ]
        first = f"tree of {len(self.values)} models by the lowest known passes ({self.tier})"
        return "\n".join([first, *passes])

    def plot(self) -> go.Figure:
        """Models at their losses, joined at the heights of their passes (a disconnectivity graph)."""
        names = [f"model {k}" for k in range(len(self.values))]
        return disconnectivity(self.values, self.edges, self.heights, names)

    def to_dataset(self) -> xr.Dataset:
        """Everything, each string with its number in front of its names."""
        own = Result.to_dataset(replace(self, strings=()))
        parts = [own.assign_attrs(strings=len(self.strings))]
        parts += [_numbered(one.to_dataset(), f"string_{k}_") for k, one in enumerate(self.strings)]
        return xr.Dataset(
            {name: one for part in parts for name, one in part.variables.items()},
            attrs={name: one for part in parts for name, one in part.attrs.items()},
        )

    @classmethod
    def from_dataset(cls, dataset: xr.Dataset) -> Self:
        """The inverse."""
        strings = tuple(
            Connection.from_dataset(_part(dataset, f"string_{k}_"))
            for k in range(int(dataset.attrs["strings"]))
        )
        own = super(SpanningTree, cls).from_dataset(dataset.assign_attrs(strings="[]"))
        return replace(own, strings=strings)


def _numbered(dataset: xr.Dataset, prefix: str) -> xr.Dataset:
    """A dataset with something in front of all of its names."""
    names = {str(name): f"{prefix}{name}" for name in (*dataset.variables, *dataset.dims)}
    attributes = {f"{prefix}{name}": value for name, value in dataset.attrs.items()}
    return xr.Dataset(dataset.rename(names).variables, attrs=attributes)


def _part(dataset: xr.Dataset, prefix: str) -> xr.Dataset:
    """What has this in front of its names, without it."""
    kept = {
        str(name).removeprefix(prefix): xr.Variable(
            [str(dim).removeprefix(prefix) for dim in one.dims], one.values, one.attrs
        )
        for name, one in dataset.variables.items()
        if str(name).startswith(prefix)
    }
    attributes = {
        str(name).removeprefix(prefix): value
        for name, value in dataset.attrs.items()
        if str(name).startswith(prefix)
    }
    return xr.Dataset(kept, attrs=attributes)


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
        thetas: At least two models, each (params,), with the landscape's buffers.
        join: Makes the string between two of them, such as `lambda a, b: connect(landscape, a, b,
            level)`; default: the straight segment.
        progress: Told of the pairs.

    Cost: one string for each pair.

    Raises:
        InputError: Fewer than two models, or one of another shape.
    """
    check_landscape(landscape, "spanning_tree")
    models = [check_theta(theta, landscape.size) for theta in thetas]
    if len(models) < 2:
        raise InputError(f"thetas must hold at least two models; received {len(models)}")
    count, strings = len(models), []
    maxima = np.full((count, count), np.inf)
    pairs = list(combinations(range(count), 2))
    for done, (a, b) in enumerate(pairs):
        if progress is not None:
            progress(f"models {a} and {b}", done / len(pairs))
        found = (join or _straight(landscape))(models[a], models[b])
        maxima[a, b] = maxima[b, a] = found.highest
        maxima[a, a], maxima[b, b] = found.values[0], found.values[-1]
        strings.append(found)
    edges = _tree(maxima)
    joined = set(map(tuple, edges.tolist()))
    tiers = [one.tier for pair, one in zip(pairs, strings, strict=True) if pair in joined]
    return SpanningTree(
        thetas=np.stack(models),
        values=maxima.diagonal().copy(),
        maxima=maxima,
        edges=edges,
        heights=maxima[edges[:, 0], edges[:, 1]],
        tier=min(tiers, key=TIERS.index),
        strings=tuple(strings),
    )


def _straight(landscape: Landscape) -> Join:
    """Joins two models by the straight segment, at the level of its own maximum."""

    def join(first: Floats, last: Floats) -> Connection:
        began, surface = perf_counter(), Surface(landscape)
        segment = Judge(surface, np.inf, RELATIVE_GAP).prove(first, last)
        level = segment.lower if segment.tier == "sampled" else segment.upper
        judge, beads = Judge(surface, level, RELATIVE_GAP), Beads([first, last], [0, 0], [segment])
        return finish(Work(surface, judge, beads, level, Schedule()), "straight", began)

    return join


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
