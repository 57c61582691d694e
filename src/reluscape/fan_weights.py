"""Weights that leave no ray of any unit's cells a negative slope, by a linear program (`fans.py`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reluscape.arithmetic import Float64
from reluscape.errors import AnalysisError
from reluscape.fans import Fan
from reluscape.singular import svd
from reluscape.solvers import LinearProgram, Solution
from reluscape.tolerances import TOLERANCES

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]

#: What a unit has to write of the gradient is zero but for rounding below this share of the jumps.
ZERO = 1e-11
#: A weight that is zero to rounding, but not known to be exactly that.
TINY = float(np.finfo(np.float64).tiny)
#: Most programs that are solved: each leaves more slopes at zero, mostly all that there are at once.
ROUNDS = 20


def fan_weights(
    gradient: Floats,
    normals: Floats,
    jumps: Floats,
    bends: Floats,
    fans: list[tuple[Fan, Floats]],
) -> list[tuple[Floats, Bools]]:
    """Weights u (k,) that write the gradient and leave no ray a negative slope, but for rounding.

    Variables are the weights of kinks in no fan and the least margin, which is maximised. What the kinks
    of a fan then have to write of the gradient follows, and its slopes along the rays with it. Where the
    best margin is zero, the slopes that cannot be raised are left at that, and so are weights; the
    margin is sought among the others.

    Args:
        gradient: g.
        normals: a (k, params).
        jumps: s.
        bends: c.
        fans: Fans, and the directions of their rays, of length one (rays, params).

    Returns:
        Weights, and which are exactly at their ceilings (k,): those that are zero to rounding once as
        zeros and once as they are. None where a slope is negative.
    """
    program = _Program.of(gradient, normals, jumps, bends, fans)
    none = np.zeros(len(program.lower), dtype=np.bool_)
    flat = none
    for _ in range(ROUNDS):
        solution = program.solve(flat)
        if solution is None or solution.point[-1] < -TOLERANCES.interior:
            return []
        if solution.point[-1] > TOLERANCES.interior:
            break
        prices = solution.multipliers[len(program.wanted) :]
        more = (prices > TOLERANCES.interior * prices.max(initial=0.0)) & ~flat
        if not more.any():
            break
        flat = flat | more
    else:
        return []
    found = []
    for sparse in (True, False):
        weights, top = program.weights(solution.point[:-1], flat, gradient, normals, sparse=sparse)
        top &= ~bends.any(axis=0)  # those of kinks that bend others are not known
        found.append((np.where(top, jumps, weights), top))
    return found


@dataclass(frozen=True, slots=True)
class _Program:
    """The program, its weights in units with which normals have length one.

    Attributes:
        fans: The fans.
        free: Kinks in no fan.
        units: Factors on the program's weights that give u (free,).
        span: What of the gradient fans cannot write, from the free weights (rows, free).
        wanted: What it has to be (rows,).
        matrix: Slopes along all rays, weights and what these leave to their ceilings (slopes, free).
        lower: Less than which they must not be.
        sizes: Their sizes: margins are relative to these.
        size: Mean size of the jumps.
    """

    fans: list[Fan]
    free: Indices
    units: Floats
    span: Floats
    wanted: Floats
    matrix: Floats
    lower: Floats
    sizes: Floats
    size: float

    @classmethod
    def of(
        cls,
        gradient: Floats,
        normals: Floats,
        jumps: Floats,
        bends: Floats,
        fans: list[tuple[Fan, Floats]],
    ) -> _Program:
        """Set up."""
        taken = np.concatenate([fan.kinks for fan, _ in fans])
        free = np.setdiff1d(np.arange(len(normals)), taken)
        lengths = np.linalg.norm(normals, axis=1)
        lengths[lengths == 0] = 1.0
        size = float(np.abs(jumps * lengths).mean()) or 1.0
        units, rows, right, sizes = size / lengths[free], [], [], []
        for fan, ways in fans:
            up = np.maximum(fan.rates, 0.0)
            rows.append(ways @ normals[free].T + up @ bends[np.ix_(free, fan.kinks)].T)
            right.append(-(ways @ gradient + up @ jumps[fan.kinks]))
            sizes.append(np.abs(fan.rates).sum(axis=1) * size / lengths[fan.kinks].mean())
        eye, own = np.eye(len(free)), bends[np.ix_(free, free)]
        beyond = Float64().complement(normals[taken])
        left, values, across = svd(beyond.T @ (normals[free] * units[:, None]).T)
        rank = int((values > TOLERANCES.independence * max(1.0, values.max(initial=0.0))).sum())
        return cls(
            [fan for fan, _ in fans], free, units, across[:rank],
            -(left[:, :rank].T @ (beyond.T @ gradient)) / values[:rank],
            np.vstack([*rows, eye, own.T - eye]) * units,
            np.concatenate([*right, np.zeros(len(free)), -jumps[free]]),
            np.concatenate([*sizes, units, units]), size,
        )  # fmt: skip

    def solve(self, flat: Bools) -> Solution | None:
        """The largest margin, of what is not flat; None where there is no solution."""
        matrix = np.column_stack([self.matrix / self.sizes[:, None], flat - 1.0])
        span = np.column_stack([self.span, np.zeros(len(self.span))])
        lower = self.lower / self.sizes
        program = LinearProgram(
            np.vstack([span, matrix]),
            np.concatenate([self.wanted, lower]),
            np.append(np.full(len(self.free), np.inf), 1.0),
            np.append(self.wanted, np.full(len(lower), np.inf)),
        )
        try:
            solution = program.minimise(np.append(np.zeros(len(self.free)), -1.0))
        except AnalysisError:
            return None
        return solution if solution.status == "optimal" else None

    def weights(
        self, point: Floats, flat: Bools, gradient: Floats, normals: Floats, *, sparse: bool
    ) -> tuple[Floats, Bools]:
        """All weights, and which are to be at their ceilings.

        With `sparse`, those of a fan are only of kinks that no flat ray on their negative sides moves.
        """
        found, start, top = np.zeros(len(normals)), 0, np.zeros(len(normals), dtype=np.bool_)
        none, top[self.free] = np.split(flat[len(flat) - 2 * len(self.free) :], 2)
        found[self.free] = np.where(none, 0.0, point * self.units)
        for fan in self.fans:
            rates, level = fan.rates, flat[start : start + len(fan.rates)]
            start += len(rates)
            dead = level & (rates <= 0).all(axis=1)
            kinks = fan.kinks[(rates[dead] == 0).all(axis=0)] if sparse else fan.kinks
            own = normals[kinks]
            wanted = -(gradient + found[self.free] @ normals[self.free])
            moved = normals[fan.kinks].any(axis=0)
            if np.abs(wanted[moved]).max() > sparse * ZERO * self.size:
                found[kinks] = np.linalg.lstsq(own.T, np.where(moved, wanted, 0.0), rcond=None)[0]
            if not sparse:
                found[kinks] += np.where(found[kinks] == 0, TINY, 0.0)
        return found, top
