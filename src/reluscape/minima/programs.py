"""Signs decided by linear programs over the minimisers, in the coordinates of `groups.py`.

Parts of the sign choices leave units undecided, and these are then not asked to be in their cells: what
has no minimiser without them has none with them (branch and bound; theory, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from reluscape.minima.at_once import for_all_signs
from reluscape.minima.central import MANY, Central
from reluscape.minima.deepest import SHALLOW, Deepest, Sides, deepest
from reluscape.minima.groups import Groups
from reluscape.minima.signs import Choice, Clauses, Split, Watch, Witness
from reluscape.minima.units import Leaf, Units

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]

#: Outputs at minimisers below this share of the largest may be rounding errors of zero.
ZERO = 1e-8
#: Units from which on one proof for all signs is looked for before any part of them is.
CHOICES = 8
#: What the minimiser nearest to the cell's own weights is called.
NEAREST = "nearest minimum"
#: Signs turned over, for each unit, until a guess is taken as it is.
FLIPS = 4
#: Least side of a unit's weights, over their and the input's length, at which they are inside their cell.
INSIDE = 1e-9


@dataclass(frozen=True, slots=True)
class Programs:
    """A cell whose minimisers are found by linear programs.

    Attributes:
        units: The cell.
        groups: Its minimisers.
        own: The units' weights, as q (units, rank).
        inside: For each unit a point q of its cell of length one, NaN where it has no interior
            (units, rank).
        empty: For each unit weights that show that, or zeros (units, distinct).
        constant: For each group the sides that have one depth at all minimisers, and the depths.
        free: Whether groups may take both signs.
        watch: Told at each step of a long program.
        near: Whether the minimiser nearest to the cell's own weights is tried first.
    """

    units: Units
    groups: Groups
    own: Floats
    inside: Floats
    empty: Floats
    constant: tuple[tuple[Indices, Floats], ...]
    free: bool
    watch: Watch
    near: bool = True

    @classmethod
    def of(cls, units: Units, *, free: bool, watch: Watch) -> Programs:
        """Reduce a cell, and find out whether its units' cells have interiors."""
        groups = Groups.of(units)
        sides = units.sides
        inside, empty = (
            np.full((sides.shape[1], groups.scores.shape[1]), np.nan),
            np.zeros(sides.T.shape),
        )
        own = np.asarray(
            np.linalg.lstsq(groups.back, units.weights.T, rcond=None)[0].T, dtype=np.float64
        )
        for unit, q in enumerate(own):
            size = float(np.linalg.norm(q))
            turned = sides[:, unit] / groups.lengths
            if (
                size > 0
                and float((turned * (groups.scores @ q)).min(initial=np.inf)) > INSIDE * size
            ):
                inside[unit] = q / size
                continue
            cone = _cone(turned, groups.scores)
            found = deepest([cone], groups.scores.shape[1], 1.0, watch)
            if found.depth > SHALLOW:
                inside[unit] = found.point / np.linalg.norm(found.point)
            else:
                empty[unit] = found.weights[0] / groups.lengths
        constant = tuple(map(groups.constant, range(len(groups.groups))))
        return cls(units, groups, own, inside, empty, constant, free, watch)

    def method(self, witness: Witness | None, leaves: Sequence[Leaf], parts: int) -> str:
        """How the answer was found, from what rules signs out and the number of parts looked at."""
        if witness is not None and witness.near:
            return NEAREST
        if leaves and all(leaf.clause for leaf in leaves):
            return "sign clauses"
        if leaves and all(leaf.clause or leaf.of_one_side for leaf in leaves):
            return "sign check"
        if leaves and leaves[0].turns is not None:
            return "signs at once"
        if parts > 1:
            return "sign search"
        return "linear program" if self.groups.variables else "sign check"

    @property
    def clear(self) -> bool:
        """Whether the minimisers' loss is accurate."""
        return self.groups.clear

    @property
    def rank(self) -> int:
        """Rank of the outputs' derivatives."""
        return self.groups.rank

    @property
    def squares(self) -> float:
        """Sum of the squared residuals that the minimisers leave."""
        return self.groups.squares

    def test(self, signs: Choice) -> Witness | Leaf | Split | list[Leaf]:
        """What the linear program says of all choices that agree with these signs."""
        for unit in np.flatnonzero(self.empty.any(axis=1)):
            if signs[unit] == 0:
                return Split(int(unit), 1)
            weights = np.zeros(self.units.pattern.shape)
            weights[:, unit] = self.empty[unit]
            return self.leaf(signs, weights, clause=False)
        if self.near and self.groups.variables > MANY:
            nearest = self.near_by(signs)
            if nearest is not None:
                return nearest
        early = self.by_clauses(signs)
        if isinstance(early, Leaf):
            return early
        if (known := self.by_constants(signs)) is not None:
            return known
        if not signs.any() and self.groups.variables > MANY:
            tried = self.by_program(self.guess())
            if isinstance(tried, Witness):
                return tried
            if leaves := self.at_once(signs):
                return leaves
        return early or self.by_program(signs)

    def by_program(self, signs: Choice) -> Witness | Leaf | Split:
        """What a linear program says of them."""
        chosen = [(place, sign) for place in range(len(self.groups.groups))
                  if (sign := self.sign_of(place, signs)) in (-1, 1)]  # fmt: skip
        cap = self.groups.size
        sides = [self.groups.sides_of(place, float(sign)) for place, sign in chosen]
        found = self.central(chosen) or deepest(sides, self.groups.variables, cap, self.watch)
        if found.depth <= SHALLOW * cap:
            return self.shown(signs, chosen, found)
        points = [self.groups.point(place, found.point) for place in range(len(self.groups.groups))]
        return self.undecided(signs, found) or self.witness(signs, points)

    def near_by(self, signs: Choice) -> Witness | None:
        """The minimiser nearest to the cell's own weights, if it is inside."""
        turned = np.where(signs == 0, self.units.outputs, signs * np.abs(self.units.outputs))
        own = self.own * turned[:, None]
        points = self.groups.nearest([own[one.units].sum(axis=0) for one in self.groups.groups])
        for place, q in enumerate(points):
            sign, depths = self.sign_of(place, signs), self.groups.depths(place, q)
            least = INSIDE * float(np.linalg.norm(q))
            plus, minus = bool(depths.min() > least), bool(-depths.max() > least)
            if sign is not None and not ((plus and sign >= 0) or (minus and sign <= 0)):
                return None
        return replace(self.witness(signs, points), near=True)

    def central(self, chosen: list[tuple[int, int]]) -> Deepest | None:
        """What interior points find, where they are worth it."""
        central = Central.of(self.groups, chosen, self.inside)
        return None if central is None else central.deepest(self.watch)

    def at_once(self, signs: Choice) -> list[Leaf]:
        """One proof for all signs, where there are too many to go through."""
        if len(signs) < CHOICES:
            return []
        found = for_all_signs(self.groups, self.inside, self.watch)
        if found is None:
            return []
        units = [int(self.groups.groups[place].units[0]) for place in found[0]]
        leaves = []
        for unit, part in zip(units, found[1], strict=True):
            weights = np.zeros(self.units.pattern.shape)
            weights[:, units] = part / self.groups.lengths[:, None]
            leaf = self.leaf(np.ones_like(signs), weights, clause=False)
            leaves.append(replace(leaf, signs=signs.copy(), turns=unit))
        return leaves

    def guess(self) -> Choice:
        """The model's own signs, with as few as may be turned over for the outputs at minimisers."""
        fitted = self.groups.fitted / self.units.samples.counts**0.5
        clear = np.abs(fitted) > ZERO * float(np.abs(fitted).max(initial=0.0))
        helps = (self.units.turns * np.sign(fitted)[:, None])[clear]
        helps = helps[helps.any(axis=1)]
        signs, last = np.where(self.units.outputs < 0, -1.0, 1.0), -1
        for _ in range(FLIPS * len(signs)):
            supported = (helps * signs > 0).sum(axis=1)
            if supported.all():
                break
            lacking = (supported[:, None] <= helps * signs).sum(axis=0)
            if last >= 0:
                lacking[last] = len(helps) + 1
            last = int(lacking.argmin())
            signs[last] = -signs[last]
        return signs.astype(np.int8)

    def by_clauses(self, signs: Choice) -> Leaf | Split | None:
        """What the outputs at minimisers, which are all the same, ask of the signs without a program."""
        fitted = self.groups.fitted / self.units.samples.counts**0.5
        size = float(np.abs(fitted).max(initial=0.0))
        turns = self.units.turns
        asking = turns.any(axis=1) & (np.abs(fitted) > ZERO * size)
        told = Clauses(turns, np.sign(fitted), asking).told(signs)
        if (broken := told.broken(np.abs(fitted))) is not None:
            weights = np.zeros(turns.shape)
            weights[broken[0]] = np.abs(self.units.factors[broken[0]])
            return self.leaf(signs, weights, clause=True)
        forced = told.forced()
        if forced is None or told.count[forced[0]] > 1:
            return None
        sample, unit, side = forced
        return Split(unit, int(side * turns[sample, unit]))

    def by_constants(self, signs: Choice) -> Leaf | Split | None:
        """What the sides that are the same at all minimisers ask of the signs without a program."""
        split = None
        for place, (sides, depths) in enumerate(self.constant):
            sign, unit = self.sign_of(place, signs), int(self.groups.groups[place].units[0])
            if sign is None:
                continue
            wrong = np.flatnonzero(depths * sign < 0)
            if len(wrong):
                weights = np.zeros(self.units.pattern.shape)
                side = sides[wrong[0]]
                weights[side, self.groups.groups[place].units] = 1.0 / self.groups.lengths[side]
                return self.leaf(signs, weights, clause=False)
            if sign == 0 and len(depths) and split is None:
                split = Split(unit, 1 if depths[0] > 0 else -1)
        return split

    def sign_of(self, place: int, signs: Choice) -> int | None:
        """The one sign of a group's units, 0 where any is still to be chosen, None for both."""
        members = signs[self.groups.groups[place].units]
        if (members > 0).any() and (members < 0).any():
            return None
        if not members.all():
            return None if self.free and len(members) > 1 else 0
        return int(members[0])

    def undecided(self, signs: Choice, found: Deepest) -> Split | None:
        """The unit without a sign that is furthest from both its cones, if any is in neither."""
        worst, split = -SHALLOW, None
        for place, group in enumerate(self.groups.groups):
            if self.sign_of(place, signs) != 0:
                continue
            depths = self.groups.sides_of(place, 1.0).depths(found.point)
            size = float(np.linalg.norm(self.groups.point(place, found.point))) or 1.0
            plus, minus = float(depths.min()) / size, float(-depths.max()) / size
            if split is None and max(plus, minus) > SHALLOW:
                continue
            if split is None or max(plus, minus) < worst:
                worst = max(plus, minus)
                split = Split(int(group.units[0]), 1 if plus >= minus else -1)
        return split

    def shown(self, signs: Choice, chosen: list[tuple[int, int]], found: Deepest) -> Leaf:
        """The leaf of a program without a positive depth."""
        weights = np.zeros(self.units.pattern.shape)
        for (place, _), one in zip(chosen, found.weights, strict=True):
            weights[:, self.groups.groups[place].units] = (one / self.groups.lengths)[:, None]
        return self.leaf(signs, weights, clause=False)

    def leaf(self, signs: Choice, weights: Floats, *, clause: bool) -> Leaf:
        """Complete the weights by the outputs and the direction that they stand for."""
        groups, pull = self.groups, np.zeros(len(self.groups.best))
        for group in groups.groups:
            unit = group.units[0]
            turned = signs[unit] * group.sides * weights[:, unit]
            pull[group.part] = (groups.scores.T @ turned) @ group.seen
        moved = groups.combination(pull)
        outputs = groups.outputs @ moved
        directions = np.zeros(self.units.weights.shape)
        for group in groups.groups:
            directions[group.units[0]] = groups.back @ (group.seen @ moved[group.part])
        outputs = outputs * self.units.samples.counts**0.5
        return Leaf(signs.copy(), weights, outputs, directions, clause)

    def witness(self, signs: Choice, points: Sequence[Floats]) -> Witness:
        """Weights of all units from each group's q at a minimiser."""
        full, groups = signs.copy(), self.groups
        found = np.where(np.isnan(self.inside), 0.0, self.inside)
        for place, group in enumerate(groups.groups):
            q, members = points[place], group.units
            sign = self.sign_of(place, signs)
            if sign is None:
                todo = members[signs[members] == 0]
                full[todo] = np.where(np.arange(len(todo)) % 2, -1, 1)
                if not (full[members] < 0).any() or not (full[members] > 0).any():
                    full[todo[-1]] = -full[members[0]] if len(todo) else full[members[0]]
                found[members] = self.shares(group.sides, q, full[members], self.inside[members])
                continue
            if sign == 0:
                depths = groups.depths(place, q)
                sign = 1 if depths.min() > -depths.max() else -1
                full[members] = sign
            found[members] = q / len(members)
        dead = np.setdiff1d(
            np.arange(len(full)),
            np.concatenate([np.empty(0, dtype=np.intp), *(g.units for g in groups.groups)]),
        )
        own = self.units.outputs[dead]
        full[dead] = np.where(full[dead] == 0, np.where(own < 0, -1, 1), full[dead])
        found[dead] *= full[dead, None]
        return Witness(full, found @ groups.back.T)

    def shares(self, sides: Floats, total: Floats, signs: Choice, inside: Floats) -> Floats:
        """Split a group's q among units of both signs, each well inside its cone."""
        plus = signs > 0
        middle = inside.mean(axis=0)
        turned = sides / self.groups.lengths
        depth, off = turned * (self.groups.scores @ middle), turned * (self.groups.scores @ total)
        amount = max(self.groups.size, 2.0 * float((-off / depth).max(initial=0.0)))
        found = np.where(plus[:, None], 0.0, -amount * middle)
        share = total + amount * float((~plus).sum()) * middle
        found[plus] = share / plus.sum()
        return found


def _cone(turned: Floats, scores: Floats) -> Sides:
    """The sides of a unit's cell."""
    return Sides(
        lambda x: turned * (scores @ x), lambda chosen: turned[chosen, None] * scores[chosen]
    )
