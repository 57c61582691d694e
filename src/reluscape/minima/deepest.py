"""The point deepest inside an open polyhedron of very many sides, or weights that show it is empty.

    maximise t  subject to  (a_k . x + b_k) / |row k| >= t,  t <= cap

Sides are few at the solution and many in all, so a working set of them grows by those that the last
solution violates most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reluscape.minima.signs import Watch
from reluscape.solvers import LinearProgram

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

#: Sides that join the working set in one round, from each source.
MORE = 40
#: Share of the relaxation's depth at which a point is deep enough.
ENOUGH = 0.5
#: Depths below this share of the cap are zero: linear programs are solved to 1e-9.
SHALLOW = 1e-8
#: Share of the cap at which the point to start at is deep enough.
PLENTY = 0.05
#: Depths of closed sides above minus this share of the cap are not negative.
CLOSED = 2e-9
#: Half-widths of the variables' box, in units of the cap, one after the other while the box is in the
#: way; finite for the solver's sake.
FAR = (1e2, 1e4, 1e7)


@dataclass(frozen=True, slots=True)
class Sides:
    """A source of sides: those of one unit.

    Attributes:
        depths: The sides' values at a point, over their lengths: (variables,) -> (sides,).
        rows: Coefficients of chosen sides over their lengths: (chosen,) -> (chosen, variables).
        open: Whether the side itself is outside; else its depth only must not be negative.
    """

    depths: Callable[[Floats], Floats]
    rows: Callable[[Indices], Floats]
    open: bool = True


@dataclass(frozen=True, slots=True)
class Deepest:
    """A point and its least depth; at most zero, the weights of the sides that show emptiness.

    Attributes:
        point: The variables.
        depth: Least depth of all sides there.
        weights: For each source the weights of its sides, at most those in the working set positive.
    """

    point: Floats
    depth: float
    weights: tuple[Floats, ...]


def deepest(
    sources: Sequence[Sides], variables: int, cap: float, watch: Watch | None = None
) -> Deepest:
    """Find a point about as deep as any, or one of depth at most zero with weights that prove it.

    Args:
        sources: The sides.
        variables: Number of variables; zero is a point to start at.
        cap: Depth that is deep enough.
        watch: Told before each linear program.

    Cost: some linear programs of `variables` columns and a few times as many rows.
    """
    work = _Working(sources, variables, cap, watch or Watch())
    depth = work.least(work.start, inside=True)
    if depth >= PLENTY * cap and work.least(work.start, inside=False) >= 0.0:
        return Deepest(np.zeros(variables), depth, tuple(np.zeros(len(d)) for d in work.start))
    for far in FAR:
        found = work.solve(far * cap)
        if found.depth > SHALLOW * cap or np.abs(found.point).max(initial=0.0) < 0.99 * far * cap:
            break
    return found


class _Working:
    """The working set of sides, and its linear program."""

    def __init__(self, sources: Sequence[Sides], variables: int, cap: float, watch: Watch) -> None:
        self.sources, self.variables, self.cap, self.watch = sources, variables, cap, watch
        self.start = [source.depths(np.zeros(variables)) for source in sources]
        self.known = [np.zeros(len(one), dtype=np.bool_) for one in self.start]
        self.chosen: list[tuple[int, int]] = []
        self.program = LinearProgram(
            np.empty((0, variables + 1)),
            np.empty(0),
            np.append(np.full(variables, cap), cap),
            least=np.append(np.full(variables, -cap), -cap),
        )
        self.grow(self.start, np.inf, MORE)

    def grow(self, depths: Sequence[Floats], bound: float, most: int) -> bool:
        """Take the least deep sides, if they are less so than a bound; whether there were any."""
        before = len(self.chosen)
        for place, (source, here) in enumerate(zip(self.sources, depths, strict=True)):
            worse = np.where(self.known[place], np.inf, here)
            worst = np.argsort(worse, kind="stable")[:most]
            worst = worst[worse[worst] < (bound if source.open else min(bound, -CLOSED * self.cap))]
            depth = np.full((len(worst), 1), -1.0 if source.open else 0.0)
            rows = np.hstack([source.rows(worst), depth])
            self.program.add_rows(rows, -self.start[place][worst])
            self.chosen.extend((place, int(side)) for side in worst)
            self.known[place][worst] = True
        return len(self.chosen) > before

    def least(self, depths: Sequence[Floats], *, inside: bool) -> float:
        """Least depth of the open sides, or of the others."""
        chosen = [
            d for source, d in zip(self.sources, depths, strict=True) if source.open is inside
        ]
        return min((float(one.min(initial=np.inf)) for one in chosen), default=np.inf)

    def solve(self, far: float) -> Deepest:
        """The deepest point in a box."""
        box = np.append(np.full(self.variables, far), self.cap)
        low = np.append(-box[:-1], -FAR[-1] * self.cap)
        self.program.set_box(low, box)
        while True:
            self.watch.tell()
            solution = self.program.minimise(np.append(np.zeros(self.variables), -1.0))
            point, bound = solution.point[:-1], float(solution.point[-1])
            depths = [source.depths(point) for source in self.sources]
            least = self.least(depths, inside=True)
            if bound <= SHALLOW * self.cap:
                break
            if least >= ENOUGH * bound and self.least(depths, inside=False) >= -CLOSED * self.cap:
                break
            if not self.grow(depths, bound - SHALLOW * self.cap, MORE):
                break
        weights = tuple(np.zeros(len(one)) for one in depths)
        for (place, side), weight in zip(self.chosen, solution.multipliers, strict=True):
            weights[place][side] = max(0.0, float(weight))
        return Deepest(point, min(least, bound), weights)
