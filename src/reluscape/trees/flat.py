"""Minima that are whole sets of points: where in them a minimum is given."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from reluscape.trees.problem import Problem
from reluscape.trees.values import Values

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

#: Cells of a minimum that are looked at.
CELLS = 32
#: Levels that differ by less are the same, in the loss of zero weights; so are losses of points.
SAME, ROUNDING = 1e-12, 1e-14
#: Switching values below this share of their terms are zero.
ZERO = 1e-9


class LeastPoints(Protocol):
    """Finds the least point of a cell or a facet."""

    def of_cell(self, cell: int) -> Floats:
        """The layer's parameters at a cell's least point, inside the cell if there are several."""

    def of_facet(self, edge: int) -> Floats:
        """The same of a facet."""


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
    """

    problem: Problem
    points: LeastPoints
    ranks: Values
    highest: float
    _doors: dict[int, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for facet, (one, other) in enumerate(self.problem.pairs.tolist()):
            self._doors[one].append((facet, other))
            self._doors[other].append((facet, one))

    def inside(self, cell: int, slack: float) -> tuple[Floats, int]:
        """A point of a minimum at which few kinks are active, and its cell.

        Args:
            cell: A cell of the minimum.
            slack: By how much levels may differ that are the same.

        Cost: some least squares and linear programs, in up to `CELLS` cells.
        """
        level = min(self.ranks.cells[cell] + slack, self.highest)
        layer, point = self.problem.layer, self.points.of_cell(cell)
        least = layer.value(point) + ROUNDING * layer.zero_loss
        best = (self._active(point), 0, cell, point)
        known, open_ = {cell}, [best]
        while open_ and best[0]:  # from where the fewest are active, on to the cells next to it
            for other in self._next_to(heapq.heappop(open_)[2], level):
                if other in known or len(known) == CELLS:
                    continue
                known.add(other)
                point = self.points.of_cell(other)
                if layer.value(point) <= least:
                    found = (self._active(point), len(known), other, point)
                    heapq.heappush(open_, found)
                    best = min(best, found)
        return best[3], best[2]

    def _active(self, theta: Floats) -> int:
        """How many kinks are active."""
        features = self.problem.layer.features
        rows = self.problem.layer.unpack(theta)[self.problem.units.order]
        values, sizes = np.abs(features @ rows.T), np.abs(features) @ np.abs(rows.T)
        zero = values[features.any(axis=1)] <= ZERO * sizes[features.any(axis=1)]
        return int(zero.sum())

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
