"""Minima that are whole sets of points: where in them a minimum is given."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from reluscape.trees.problem import Problem
from reluscape.trees.threads import Threads
from reluscape.trees.values import Values

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

#: A cell's least point: active kinks, loss, parameters. One that is found: kinks, when, cell, parameters.
Seen = tuple[int, float, Floats]
Found = tuple[int, int, int, Floats]
#: Asks for the least points of cells.
Search = Generator[list[int], list[Seen], Found]

#: Cells of a minimum that are looked at, and minima that are gone through at once.
CELLS, TOGETHER = 32, 1024
#: Points that are looked at below which threads are not worth it.
FEW = 256
#: Levels that differ by less are the same, in the loss of zero weights; so are losses of points.
SAME, ROUNDING = 1e-12, 1e-14
#: Switching values below this share of their terms are zero.
ZERO = 1e-9


class LeastPoints(Protocol):
    """Finds the least point of a cells and facets."""

    def of_cells(self, cells: Any) -> Floats:
        """The layer's parameters at cells' least points, inside a cell if there are several."""

    def of_facets(self, edges: Any) -> Floats:
        """The same of facets."""


@dataclass(frozen=True, slots=True)
class Flats:
    """Goes through the cells that a minimum has points in.

    A minimum may be a set of points that spans several cells, and be a mere corner of that set in some
    of them. At a corner more kinks are active than elsewhere in the set, and along the set they have no
    slope: `certify` then cannot tell a minimum from a saddle. In the midst of the set it mostly can.

    Attributes:
        problem: The layer.
        points: Finds the least points.
        ranks: Least losses, or their places in the order of all.
        highest: The level up to which cells are joined at all.
        threads: What looks at points.
    """

    problem: Problem
    points: LeastPoints
    ranks: Values
    highest: float
    threads: Threads
    _doors: dict[int, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for facet, (one, other) in enumerate(self.problem.pairs.tolist()):
            self._doors[one].append((facet, other))
            self._doors[other].append((facet, one))

    def inside(self, cells: Indices, slack: float) -> tuple[Floats, Indices]:
        """Points of minima at which few kinks are active, and their cells.

        Args:
            cells: A cell of each minimum.
            slack: By how much levels may differ that are the same.

        Cost: some small least squares and linear programs, in up to `CELLS` cells of each.
        """
        points, places = np.empty((len(cells), len(self.problem.layer.theta))), cells.copy()
        same = ROUNDING * self.problem.layer.zero_loss
        for start in range(0, len(cells), TOGETHER):
            searches = [
                self._search(cell, slack, same) for cell in cells[start : start + TOGETHER].tolist()
            ]
            for k, (_, _, place, point) in enumerate(self._together(searches), start):
                points[k], places[k] = point, place
        return points, places

    def _together(self, searches: list[Search]) -> list[Found]:
        """What searches return: in each round, the cells that all of them ask for are solved at once."""
        found: dict[int, Found] = {}
        answers: dict[int, Any] = dict.fromkeys(range(len(searches)))
        while answers:
            asked: dict[int, list[int]] = {}
            for k, answer in answers.items():
                try:
                    asked[k] = searches[k].send(answer)
                except StopIteration as end:
                    found[k] = end.value
            seen = iter(self._seen([cell for cells in asked.values() for cell in cells]))
            answers = {k: list(islice(seen, len(cells))) for k, cells in asked.items()}
        return [found[k] for k in range(len(searches))]

    def _search(self, cell: int, slack: float, same: float) -> Search:
        """The point of a minimum with the fewest active kinks; asks for cells."""
        level = min(self.ranks.cells[cell] + slack, self.highest)
        ((active, loss, point),) = yield [cell]
        least = loss + same
        best = (active, 0, cell, point)
        known, open_ = [cell], [best]
        while open_ and best[0]:  # from where the fewest are active, on to the cells next to it
            first = len(known)
            for other in self._next_to(heapq.heappop(open_)[2], level):
                if other not in known and len(known) < CELLS:
                    known.append(other)
            for k, (active, loss, point) in enumerate((yield known[first:]), first):
                if loss <= least:
                    found = (active, k, known[k], point)
                    heapq.heappush(open_, found)
                    best = min(best, found)
        return best

    def _seen(self, cells: list[int]) -> Iterable[Seen]:
        """Least points of cells: how many kinks are active there, their losses, and the points."""
        points = self.points.of_cells(cells)

        def look(start: int, stop: int) -> Iterator[tuple[int, float]]:
            own = points[start:stop]
            losses = self.problem.layer.values(own)
            return zip(self._active(own).tolist(), losses.tolist(), strict=True)

        told = chain.from_iterable(self.threads.over(len(points), look, least=FEW))
        return ((*one, point) for one, point in zip(told, points, strict=True))

    def _active(self, thetas: Floats) -> Indices:
        """How many kinks are active at points."""
        features = self.problem.layer.features
        features = features[features.any(axis=1)]
        rows = self.problem.layer.unpack(thetas)[:, self.problem.units.order].swapaxes(-1, -2)
        values, sizes = np.abs(features @ rows), np.abs(features) @ np.abs(rows)
        return np.asarray((values <= ZERO * sizes).sum(axis=(-2, -1)))

    def _next_to(self, cell: int, level: float) -> Iterator[int]:
        """Cells that are joined with one across a facet, up to a level."""
        units, count, facets = self.problem.shape
        for unit in range(units):
            low = count ** (units - 1 - unit)
            own, others = cell // low % count, cell // (low * count) * low + cell % low
            for facet, beyond in self._doors[own]:
                edge = (unit * facets + facet) * count ** (units - 1) + others
                if self.ranks.facets[edge] <= level:
                    yield cell + (beyond - own) * low
