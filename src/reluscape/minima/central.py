"""Minimisers inside the cones of many groups, by interior points.

With f the outputs that all minimisers share, groups of signs s ask for q_g in the cone K_g with

    maximise t  subject to  sum_g s_g D_g C q_g = tau f,  sides(q_g) >= t,  tau >= t,  |q| + tau = 1

where |q| is the sum of all sides' means: a bounded program whose optimum is positive if and only if there
is a minimiser inside, and whose multipliers show where there is none that no t > 0 is possible.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reluscape.minima.deepest import SHALLOW, Deepest
from reluscape.minima.groups import Group, Groups
from reluscape.minima.interior import Cones, Inside, interior
from reluscape.minima.signs import Watch
from reluscape.singular import svd

Floats = NDArray[np.float64]

#: Variables above which interior points are faster than simplex steps on dense rows.
MANY = 60
#: Numbers of a Newton step's largest array above which they are not tried: 0.4 GB.
MAX_NUMBERS = 5 * 10**7
#: Singular values below this share of the largest are rounding errors of zero.
RANGE = 1e-10
#: Share of the bound at which t is large enough.
ENOUGH = 0.3
#: To begin with, of slacks and multipliers, over those of the middle.
PRODUCT = 100.0
#: What equations may lack, over t; it is projected away.
EXACT = 1e-9
#: What stationarity may lack, over the multipliers: to stop at, and to be a proof to (`LEFT_OPEN`: 1e-8).
STATIONARY = 1e-12
PROVED = 1e-10


@dataclass(frozen=True, slots=True)
class Central:
    """The program of some groups with signs; the others may be anything.

    Attributes:
        groups: All minimisers.
        chosen: Places of the groups with signs, and the signs.
        basis: What only their outputs can reach, orthonormal (distinct, rows).
        depths: For each of these how deep its `inside` is in its cone (chosen,).
        cones: The program; z is t and tau, the last row the normalisation.
        inside: A point of each cone, of length one (chosen, rank).
    """

    groups: Groups
    chosen: list[tuple[int, int]]
    basis: Floats
    depths: Floats
    cones: Cones
    inside: Floats

    @classmethod
    def of(cls, groups: Groups, chosen: list[tuple[int, int]], inside: Floats) -> Central | None:
        """Set it up; None where few variables or large arrays make another way the better one.

        Args:
            groups: All minimisers.
            chosen: Places of groups and their signs.
            inside: For each unit a point of its cone of length one (units, rank).
        """
        samples, rank = groups.scores.shape
        largest = max(samples, rank) * rank * len(chosen)
        if groups.variables <= MANY or not chosen or largest > MAX_NUMBERS:
            return None
        some = [groups.groups[place] for place, _ in chosen]
        points = inside[[group.units[0] for group in some]]
        cone = np.stack([turned(groups, group) for group in some])
        depths = np.matmul(cone, points[:, :, None])[:, :, 0].min(axis=1)
        cone /= depths[:, None, None]
        basis = across(groups, [place for place, _ in chosen])
        signs = np.array([float(sign) for _, sign in chosen])
        equations = np.stack([
            basis.T @ groups.outputs[:, group.part] @ seen(group) for group in some
        ])  # fmt: skip
        scale = float(np.linalg.norm(equations, axis=(1, 2)).max(initial=0.0)) or 1.0
        fitted = basis.T @ groups.fitted
        size = float(np.linalg.norm(fitted)) or 1.0
        mean = cone.mean(axis=1) / len(some)
        zero = np.zeros((len(some), 1, rank))
        cones = Cones(
            sides=np.concatenate([cone, zero], axis=1),
            shared=np.broadcast_to(
                np.vstack([np.tile([-1.0, 0.0], (samples, 1)), [-1.0, 1.0]]),
                (len(some), samples + 1, 2),
            ),
            equations=np.concatenate(
                [signs[:, None, None] * equations / scale, mean[:, None, :]], axis=1
            ),
            equations_shared=np.vstack(
                [np.column_stack([np.zeros(len(fitted)), -fitted / size]), [0.0, 1.0]]
            ),
            ends=np.append(np.zeros(len(fitted)), 1.0),
            cost=np.array([-1.0, 0.0]),
            offsets=np.zeros((len(some), samples + 1)),
        )
        return cls(groups, chosen, basis, depths, cones, points)

    def deepest(self, watch: Watch) -> Deepest | None:
        """A minimiser well inside, or weights that show that there is none; None where neither is clear.

        The depth is relative to the least deep group's own length.
        """
        start = self.inside.copy()
        tau = 1.0 / (1.0 + float((self.cones.equations[:, -1] * start).sum()))
        start *= tau
        lowest = float(self.cones.slack(start, np.array([0.0, tau])).min())

        def enough(here: Inside) -> bool:
            watch.tell()
            return self.enough(here)

        shared, sides = np.array([0.5 * lowest, tau]), self.cones.offsets.size
        found = interior(self.cones, start, shared, PRODUCT * lowest / sides, enough)
        if found.shared[0] > 0:
            point = self.variables(found.blocks)
            if (depth := self.depth(point)) > SHALLOW:
                return Deepest(point, depth * self.groups.size, ())
        if found.rows[-1] < 0 or self.pulled(found) > PROVED:
            return None
        more = found.rows[-1] / found.multipliers[:, :-1].size
        weights = (found.multipliers[:, :-1] + more) / self.depths[:, None]
        return Deepest(np.zeros(self.groups.variables), 0.0, tuple(weights))

    def enough(self, here: Inside) -> bool:
        """Whether a point shows that t can be positive, or that it cannot."""
        t, bound = float(here.shared[0]), -float(here.rows[-1])
        if t > 0:
            left = np.linalg.norm(self.cones.left(here.blocks, here.shared))
            return t >= ENOUGH * bound and bool(left <= EXACT * t)
        return bound < 0 and self.pulled(here) <= STATIONARY

    def pulled(self, here: Inside) -> float:
        """What is left of the multipliers' pulls, which are to cancel, over the multipliers."""
        weights = here.multipliers[:, :-1] / self.depths[:, None]
        pulls = self.cones.pulls(here.multipliers, here.rows)[0]
        return float(np.linalg.norm(pulls) / weights.sum())

    def variables(self, blocks: Floats) -> Floats:
        """The minimiser of these directions, in the variables of `groups`."""
        groups, lengths = self.groups, np.zeros(len(self.groups.best))
        found = np.zeros(groups.variables)
        signs = np.array([sign for _, sign in self.chosen])
        scaled = signs[:, None] * blocks
        for (place, _), q in zip(self.chosen, scaled, strict=True):
            lengths[groups.groups[place].part] = seen(groups.groups[place]) @ q
        outputs = groups.outputs @ lengths
        fitted = groups.fitted
        rest = np.ones(len(lengths), dtype=np.bool_)
        for place, _ in self.chosen:
            rest[groups.groups[place].part] = False
        there = self.basis.T @ outputs
        square = float(there @ there)
        size = float(there @ (self.basis.T @ fitted)) / square if square > 0 else groups.size
        lengths *= size
        if rest.any():
            lengths[rest] = np.linalg.lstsq(
                groups.outputs[:, rest], fitted - size * outputs, rcond=RANGE
            )[0]
        found[: groups.num_free] = groups.free.T @ (lengths - groups.best)
        for (place, _), q in zip(self.chosen, scaled, strict=True):
            silent, at = groups.groups[place].silent, groups.offset(place)
            found[at : at + silent.shape[1]] = size * (silent.T @ q)
        return found

    def depth(self, variables: Floats) -> float:
        """Least depth of a chosen group in its cone, over its length."""
        found = np.inf
        for place, sign in self.chosen:
            size = float(np.linalg.norm(self.groups.point(place, variables)))
            depths = self.groups.sides_of(place, float(sign)).depths(variables)
            found = min(found, float(depths.min()) / (size or 1.0))
        return found


def turned(groups: Groups, group: Group) -> Floats:
    """The sides of a group's cone, at length one (distinct, rank)."""
    return np.asarray((group.sides / groups.lengths)[:, None] * groups.scores)


def seen(group: Group) -> Floats:
    """A group's coordinates by q (coordinates, rank)."""
    return np.asarray((group.seen / (group.seen**2).sum(axis=0)).T)


def across(groups: Groups, places: list[int]) -> Floats:
    """Orthonormal basis of the outputs of some groups, without what the others can make up for."""
    own = np.zeros(groups.outputs.shape[1], dtype=np.bool_)
    for place in places:
        own[groups.groups[place].part] = True
    rest, some = groups.outputs[:, ~own], groups.outputs[:, own]
    taken = _range(rest)
    return _range(some - taken @ (taken.T @ some))


def _range(matrix: Floats) -> Floats:
    """Orthonormal basis of the columns' span, whose lengths are about one."""
    left, values, _ = svd(matrix)
    return np.asarray(left[:, values > RANGE])
