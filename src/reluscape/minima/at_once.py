"""One proof for all signs of the output weights: a Farkas vector that turns with them.

Let unit m's part of the proof be l_m = E w_m with l_m . y = 0 and signed weights nu_m of all sides g_ij,

    sum_ij nu_m,ij g_ij = E^T l_m,     nu_j,ij >= sum_{m != j} |nu_m,ij|   for all i and j.

Then for any signs s the vector `l = sum_m s_m l_m` has the weights `s_j sum_m s_m nu_m,ij >= 0` on the
sides `s_j g_ij` that signs s ask for, so no minimiser has them all positive: 2^K choices are ruled out by
K vectors. They are found one by one. With h_j some positive function on unit j's cone, the program

    maximise  h_m(c_m)   subject to   D_m C c_m + sum_j D_j C (c_j - c_j') = 0 modulo y,
                                      h_j(c_j + c_j') <= 1

says how large unit m can be while others, whose signs and sizes up to 1 are free, make up for it. Its
multipliers bound |l_m| on the other cones by beta_mj h_j where it is at least h_m on its own, and if the
matrix of these beta has a spectral radius below one, sums u_m l_m satisfy the inequalities above.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import null_space

from reluscape.minima.central import MAX_NUMBERS, across, seen, turned
from reluscape.minima.groups import Groups
from reluscape.minima.interior import Cones, Inside, interior
from reluscape.minima.signs import Watch

Floats = NDArray[np.float64]

#: How much larger than the others a unit may become.
LARGEST = 4.0
#: Share of a part that has to be left by that bound.
LEFT = 0.05
#: Share of the largest outputs below which a unit's may be rounding.
REACHED = 1e-8
#: What stationarity may lack, and the share of the optimum between it and the bound; the rest of the
#: former is made up for exactly, and of the latter the spectral radius decides.
STATIONARY = 1e-3
CLOSE = 0.5
#: How much larger a unit's own weight has to be than those of the others' parts.
ROOM = 1.0 + 1e-9
#: To begin with, the product of each slack and its multiplier, over the number of units.
PRODUCT = 2.0
#: Sizes of unit m's and of the others' points to begin with.
OWN, OTHERS = 0.5, 0.3


@dataclass(frozen=True, slots=True)
class AtOnce:
    """The cones of units that have a pattern of their own; others may be anything.

    Attributes:
        places: Their groups' places.
        sides: Rows of the cones, the least of which is 1 at the middle (units, distinct, rank).
        scales: What the rows were divided by (units,).
        middle: A point of each cone whose outputs have length one (units, rank).
        shares: Weights of the sides in h, which is 1 there (units, distinct).
        equations: D C in coordinates of what others cannot make up for, modulo y (units, rows, rank).
    """

    places: list[int]
    sides: Floats
    scales: Floats
    middle: Floats
    shares: Floats
    equations: Floats

    @classmethod
    def of(cls, groups: Groups, inside: Floats, places: list[int]) -> AtOnce | None:
        """Set it up; None where the others can make up for everything, or arrays are too large.

        Args:
            groups: All minimisers.
            inside: For each unit a point of its cone of length one (units, rank).
            places: Places of groups of one unit.
        """
        samples, rank = groups.scores.shape
        if len(places) < 2 or 2 * len(places) * samples * rank > MAX_NUMBERS:
            return None
        some = [groups.groups[place] for place in places]
        basis = across(groups, places)
        basis = (
            basis @ null_space((basis.T @ groups.fitted)[None]) if groups.fitted.any() else basis
        )
        equations = np.stack([basis.T @ groups.outputs[:, one.part] @ seen(one) for one in some])
        middle = inside[[one.units[0] for one in some]]
        reached = np.linalg.norm(np.matmul(equations, middle[:, :, None])[:, :, 0], axis=1)
        if not (reached > REACHED * reached.max(initial=0.0)).all():
            return None
        middle = middle / reached[:, None]
        cone = np.stack([turned(groups, one) for one in some])
        depths = np.matmul(cone, middle[:, :, None])[:, :, 0]
        scales = depths.min(axis=1)
        shares = np.broadcast_to((scales / samples)[:, None], depths.shape) / depths
        return cls(places, cone / scales[:, None, None], scales, middle, shares, equations)

    def proof(self, watch: Watch) -> Floats | int | None:
        """Nu (units, distinct, units) for sides of length one; or a unit that others can outdo; or None.

        Units of the smallest outputs come first: these can be outdone.
        """
        count = len(self.places)
        bounds, kept, rows = np.zeros((count, count)), np.ones(count), [np.empty(0)] * count
        nu, beside = np.zeros((count, *self.shares.shape)), np.zeros((count, *self.shares.shape))
        for unit in map(int, np.argsort((self.equations**2).sum(axis=(1, 2)), kind="stable")):
            found = self.part(unit, watch)
            kept[unit] = 1.0 - found.multipliers[unit, -1]
            if kept[unit] < LEFT:
                return unit
            bounds[unit], rows[unit] = (
                found.multipliers[:, -1] / kept[unit],
                -found.rows[:-1] / kept[unit],
            )
            nu[unit], beside[unit] = self.signed(found, unit, kept[unit])
        np.fill_diagonal(bounds, 0.0)
        if np.abs(np.linalg.eigvals(bounds)).max() >= 1.0 - LEFT:
            return None
        amounts = np.linalg.solve(np.eye(count) - bounds.T, np.ones(count))
        parts: list[Floats] = [amount * row for amount, row in zip(amounts, rows, strict=True)]
        own = self.shares + np.tensordot(amounts, beside, axes=1)
        nu *= amounts[:, None, None]
        return self.dominated(np.stack(parts), nu, own)

    def signed(self, found: Inside, unit: int, kept: float) -> tuple[Floats, Floats]:
        """A unit's part: weights of the others' sides, and those that they ask of the own parts.

        The unit's own sides have weights beyond h there, which its part is at least as large as.
        """
        samples = self.shares.shape[1]
        plus, minus = found.multipliers[:, :samples], found.multipliers[:, samples:-1]
        signed, beside = 0.5 * (plus - minus) / kept, 0.5 * (plus + minus) / kept
        signed[unit], beside[unit] = 0.0, plus[unit] / kept
        return signed, beside

    def dominated(self, outputs: Floats, nu: Floats, own: Floats) -> Floats | None:
        """The parts with sums that are exact, if every own weight is then still the larger one.

        Args:
            outputs: l in coordinates of the equations (units, rows).
            nu: Weights of the parts, without each unit's own (units, units, distinct).
            own: Each unit's own (units, distinct).
        """
        for unit, rows in enumerate(outputs):
            nu[unit] = self.exact(nu[unit], np.einsum("jrp,r->jp", self.equations, rows))
            nu[unit, unit] = 0.0
        own = self.exact(own, np.einsum("jrp,jr->jp", self.equations, outputs))
        if not (own > ROOM * np.abs(nu).sum(axis=0)).all():
            return None
        same = np.arange(len(own))
        nu[same, same] = own
        return np.asarray((nu / self.scales[:, None]).transpose(0, 2, 1))

    def exact(self, weights: Floats, wanted: Floats) -> Floats:
        """Weights nearest to given ones whose sums of the sides are exactly these (units, distinct)."""
        for _ in range(2):
            rest = wanted - np.matmul(weights[:, None, :], self.sides)[:, 0]
            grams = np.matmul(self.sides.transpose(0, 2, 1), self.sides)
            moves = np.linalg.solve(grams, rest[:, :, None])
            weights = weights + np.matmul(self.sides, moves)[:, :, 0]
        return weights

    def part(self, unit: int, watch: Watch) -> Inside:
        """The program of a unit, near its optimum."""
        count, samples, rank = self.sides.shape
        mean = np.matmul(self.shares[:, None, :], self.sides)[:, 0]
        sides = np.zeros((count, 2 * samples + 1, 2 * rank))
        sides[:, :samples, :rank] = sides[:, samples:-1, rank:] = self.sides
        sides[:, -1, :rank] = sides[:, -1, rank:] = -mean
        offsets = np.zeros((count, 2 * samples + 1))
        offsets[:, -1] = 1.0
        offsets[unit, -1] = LARGEST
        rows = self.equations.shape[1]
        equations = np.zeros((count, rows + 1, 2 * rank))
        equations[:, :rows, :rank], equations[:, :rows, rank:] = self.equations, -self.equations
        equations[unit, :rows, rank:] = 0.0
        equations[unit, rows, :rank] = mean[unit]
        shared = np.append(np.zeros(rows), -1.0)[:, None]
        program = Cones(
            sides, np.zeros((*offsets.shape, 1)), equations, shared, np.zeros(rows + 1),
            np.array([-1.0]), offsets,
        )  # fmt: skip

        def enough(here: Inside) -> bool:
            watch.tell()
            blocks, last = program.pulls(here.multipliers, here.rows)
            bound, size = float((offsets * here.multipliers).sum()), float(here.shared[0])
            lacks = float(np.linalg.norm(blocks) + np.linalg.norm(last))
            return lacks <= STATIONARY and bound - size <= CLOSE * abs(bound)

        start = OTHERS * np.tile(self.middle, (1, 2))
        start[unit] = np.append(OWN * self.middle[unit], LARGEST * OTHERS * self.middle[unit])
        return interior(program, start, np.array([OWN]), PRODUCT / count, enough)


def for_all_signs(groups: Groups, inside: Floats, watch: Watch) -> tuple[list[int], Floats] | None:
    """Places of groups and nu (places, distinct, places) that rule out all signs; None if not found.

    Cost: a linear program for each unit, and again for all each time that one can be outdone.
    """
    places = [place for place, one in enumerate(groups.groups) if len(one.units) == 1]
    while (program := AtOnce.of(groups, inside, places)) is not None:
        found = program.proof(watch)
        if not isinstance(found, int):
            return None if found is None else (places, found)
        places = [place for unit, place in enumerate(places) if unit != found]
    return None
