"""Which rays the cells and facets of a layer have, in NumPy and many at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reluscape.trees.problem import Problem

__all__ = ["Places"]

Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Places:
    """Which cells of the units some cells or facets belong to.

    Attributes:
        cells_of: Of each unit, -1 for the unit that a facet is one of (places, units).
        unit: That unit, -1 for cells (places,).
        facet: Its facet, -1 for cells (places,).
    """

    cells_of: Indices
    unit: Indices
    facet: Indices

    @classmethod
    def of(cls, problem: Problem, kind: str, codes: Indices) -> Places:
        """Of these "cells" or "facets", by their numbers."""
        units, count, facets = problem.shape
        if kind == "cells":
            none = np.full(len(codes), -1)
            return cls(_digits(codes, units, count), none, none)
        rest = count ** max(units - 1, 0)
        unit, facet = codes // (max(facets, 1) * rest), codes // rest % max(facets, 1)
        others = _digits(codes % rest, units - 1, count)
        found = np.full((len(codes), units), -1)
        for k in range(units):
            rows = unit == k
            found[rows] = np.insert(others[rows], k, -1, axis=1)
        return cls(found, unit, facet)

    def __getitem__(self, rows: Indices | slice) -> Places:
        """Some of them."""
        return Places(self.cells_of[rows], self.unit[rows], self.facet[rows])

    def own(self, problem: Problem) -> Bools:
        """Those that are solved for themselves: cells of units that act alike ascend."""
        groups = problem.units.groups
        found = np.ones(len(self.unit), dtype=np.bool_)
        for first in np.unique(groups):
            members = np.flatnonzero(groups == first)
            among = np.isin(self.unit, members)
            found &= ~among | (self.unit == first)
            found &= (np.diff(self.cells_of[:, members], axis=1) >= 0).all(axis=1)
        return found

    def open(self, problem: Problem, bundle: Indices, alive: Bools) -> Bools:
        """Those that may have a loss of interest; facets where both cells may."""
        count = int(bundle.max(initial=0)) + 1
        powers = count ** np.arange(problem.shape[0] - 1, -1, -1)
        if (self.unit < 0).all():
            return np.asarray(alive[bundle[self.cells_of] @ powers])
        found = np.ones(len(self.unit), dtype=np.bool_)
        rows = np.arange(len(self.unit))
        for side in (0, 1):
            cells = self.cells_of.copy()
            cells[rows, self.unit] = problem.pairs[self.facet, side]
            found &= alive[bundle[cells] @ powers]
        return found

    def sources(self, problem: Problem) -> Indices:
        """Those that have the same least losses and are solved for themselves."""
        units, count, facets = problem.shape
        groups, cells = problem.units.groups, self.cells_of.copy()
        for first in np.unique(groups):
            members = np.flatnonzero(groups == first)
            cells[:, members] = np.sort(cells[:, members], axis=1)  # a facet's -1 comes first
        if (self.unit < 0).all():
            return np.asarray(cells @ count ** np.arange(units - 1, -1, -1))
        unit = groups[self.unit]
        rest = count ** (units - 1)
        others = np.zeros(len(cells), dtype=np.int64)
        for k in range(units):
            others = np.where(unit == k, others, others * count + cells[:, k])
        return np.asarray((unit * facets + self.facet) * rest + others)

    def rays(self, problem: Problem) -> tuple[Indices, Indices]:
        """Their rays, -1 behind the last, and the units that they are of (places, rays)."""
        none = np.empty((len(self.unit), 0), dtype=np.int64)
        parts, owners = [none], [none]
        for k in range(problem.shape[0]):
            own, there = self.cells_of[:, k], self.unit == k
            found = _listed(problem.starts, problem.rays, np.where(there, 0, own))
            if there.any():
                found[there] = -1
                facets = _listed(problem.facet_starts, problem.facet_rays, self.facet[there])
                found[there, : facets.shape[1]] = facets
            parts.append(found)
            owners.append(np.full(found.shape, k))
        rays, units = np.hstack(parts), np.hstack(owners)
        order = np.argsort(rays < 0, axis=1, kind="stable")[:, : problem.most_rays]
        return np.take_along_axis(rays, order, axis=1), np.take_along_axis(units, order, axis=1)


def _digits(codes: Indices, units: int, count: int) -> Indices:
    """Digits to a base, the highest first (codes, units)."""
    powers = count ** np.arange(units - 1, -1, -1)
    return np.asarray(codes[:, None] // powers % count, dtype=np.int64)


def _listed(starts: Indices, values: Indices, lists: Indices) -> Indices:
    """Some of many lists as rows, -1 behind the last."""
    counts = np.diff(starts)
    steps = np.arange(int(counts.max(initial=0)))
    inside = steps < counts[lists][:, None]
    found = np.full(inside.shape, -1)
    found[inside] = values[(starts[lists][:, None] + steps)[inside]]
    return found
