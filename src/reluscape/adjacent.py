"""Minima where the active normals are dependent: linear programs, branched where kinks are concave.

Let g be the gradient of the cell on the negative side of all k active kinks, a_k their normals there, s_k
their slope jumps and c_qk their bends (`Point`). To first order the loss is

    f'(d) = g . d + sum_k s_k max(t_k, 0),    t_q = a_q . d + sum_k c_qk max(t_k, 0),

the second sum over the shallower active kinks of q's sample. Take weights u with `g + sum_k u_k a_k = 0`,
and put `C_k = s_k + sum_q c_qk u_q`. From the deepest kink upwards `C_k max(t_k, 0) >= u_k t_k` wherever
`0 <= u_k <= C_k`; the sum of these is `f'(d) >= 0`. So weights between 0 and C_k show a minimum, however
dependent the normals are; with independent ones u = -mu, and u_k and C_k - u_k are the slopes (theory,
section 7). A kink with C_k < 0 is concave and has no such weight. Where it is known to be on one side,
half of the condition is enough: `u_k <= C_k` where t_k >= 0, `u_k >= 0` where t_k <= 0. So the directions
are split by the sides of concave kinks until every part, a *leaf*, has its weights. At the end of all
splits this is Farkas' lemma: a leaf without weights holds a direction along which the loss falls. Before
any split, concave kinks may be paid for by convex ones through the relations between the normals
(`shares.py`), or the kinks of one unit be taken together along the rays of its cells (`fans.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product

import numpy as np
from numpy.typing import NDArray

from reluscape.arithmetic import Float64, left_inverse, rounded_sizes, split_errors
from reluscape.certificate import AT_CEILING, IN_FAN
from reluscape.coincident import Coincident
from reluscape.dependent import (
    ceilings,
    coefficients,
    crossed,
    crossed_normals,
    relation_errors,
    relation_shift,
)
from reluscape.errors import AnalysisError
from reluscape.exactly import gradient_is_spanned, zero_slopes
from reluscape.falls import falling_directions
from reluscape.fan_weights import TINY, fan_weights
from reluscape.fans import Fan, fans_of, loss_stays, past_rays
from reluscape.integers import FrozenForms
from reluscape.point import Point
from reluscape.shares import find_shares
from reluscape.singular import svd
from reluscape.solvers import LinearProgram, Solution
from reluscape.tolerances import TOLERANCES

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]
Sides = NDArray[np.int8]

#: Kinks that move slower than this share of the fastest are still but for the solver's rounding.
MOVING = 1e-12
#: Largest number of programs for one point, times kinks: some seconds for some hundred kinks.
MAX_PROGRAMS = 10**6
#: Parts without weights after which no direction is looked for in others.
FAILURES = 10


@dataclass(frozen=True, slots=True)
class Leaves:
    """Parts of all directions with the weights that show that the loss falls in none of them.

    Attributes:
        sides: Side of every kink, 1 or -1, or 0 for both, shape (leaves, k), those at their ceilings
            marked (`certificate.split_sides`); together they cover all.
        weights: u, shape (leaves, k).
        margin: The least `u_k` or `C_k - u_k` asked for, after all shares, past its rounding error.
        relations: Shares of concave kinks (`Shares`), shape (k, k), where there is one part; or None.
    """

    sides: Sides
    weights: Floats
    margin: float
    relations: Floats | None = None

    @property
    def strict(self) -> bool:
        """Whether the loss rises in all directions that move a kink."""
        return self.margin > 0


@dataclass(slots=True)
class _Search:
    """The linear programs of one point.

    Variables are u and the least margin per unit of length, which is maximised. Kinks are scaled so that
    normals have length one, the loss so that jumps are one on average: solvers' tolerances are absolute.

    Attributes:
        point: The point, its active kinks without those that are one with an earlier one.
        exact: Weights may be on their bounds but for rounding.
        jumps: s, with the bounds `errors` on their rounding errors.
        bends: c.
        idle: Kinks whose crossing changes nothing.
        same: Which kinks are one.
        ones: For each, the numbers of all kinks that are it, and their groups (`zero_slopes`).
        rounded: Bounds on the errors of the normals.
        sizes: Sums of the absolute jumps of kinks that are one.
        ways: Columns that span the normals' span, in which these are orthonormal columns (params, rank):
            nearly dependent normals would cost the solver its accuracy.
        units: Factors on the program's weights that give u.
        size: Mean change of slope per unit of length; margins far below it are zero.
        least: Margins that exact arithmetic has to decide. Jumps of kinks that are one may cancel.
        far: Stands for no bound: HiGHS corrupts its memory where a row or column of its basis becomes
            free.
        program: The program, its rows: u writes the gradient; u_k; C_k - u_k; the same without margin.
        box: Of the program's variables.
        inverses: `left_inverse` of the kinks with weights.
        spanned: Whether their normals span the gradient.
        solved: Number of programs solved.
        direction: Direction along which the loss falls, once found.
        flat: Direction along which kinks leave zero and the loss stays.
    """

    point: Point
    exact: bool
    jumps: Floats = field(init=False)
    errors: Floats = field(init=False)
    bends: Floats = field(init=False)
    idle: Bools = field(init=False)
    same: Coincident = field(init=False)
    ones: tuple[Indices, list[Indices]] = field(init=False)
    rounded: Floats = field(init=False)
    sizes: Floats = field(init=False)
    ways: Floats = field(init=False)
    units: Floats = field(init=False)
    size: float = field(init=False)
    least: float = field(init=False)
    far: float = field(init=False)
    program: LinearProgram = field(init=False)
    box: Floats = field(init=False)
    inverses: dict[bytes, Floats] = field(default_factory=dict)
    spanned: dict[bytes, bool] = field(default_factory=dict)
    solved: int = 0
    direction: Floats | None = None
    flat: Floats | None = None

    def __post_init__(self) -> None:
        (jumps, errors), bends = self.point.jumps(), self.point.bends()
        self.same = same = _coincident(self.point)
        self.ones = same.members(self.point.active)
        self.jumps, self.errors = same.sums(jumps), same.sums(errors)
        self.sizes, self.bends = same.sums(np.abs(jumps)), same.sums(bends[same.first])
        normals = self.point.normals[same.first]
        self.point = point = replace(
            self.point, active=self.point.active[same.first], normals=normals
        )
        self.rounded = point.block.piecewise.normal_errors(
            point.active, point.pattern, TOLERANCES.rounding
        )
        self.idle = (self.jumps == 0) & (self.errors == 0) & ~self.bends.any(axis=0)
        count = len(normals)
        lengths = np.linalg.norm(normals, axis=1)
        lengths[lengths == 0] = 1.0  # a kink that moves only behind others of its sample
        rank, unit = Float64().rank(normals), normals / lengths[:, None]
        left, values, right = svd(unit)
        self.ways = right[:rank].T / values[:rank]
        scale = float(np.abs(self.jumps * lengths).mean()) or 1.0
        self.units = scale / lengths
        span = np.hstack([left[:, :rank].T, np.zeros((rank, 1))])
        bends = self.bends * lengths / lengths[:, None]
        margin = np.ones((count, 1))
        low = np.hstack([np.eye(count), -margin])
        high = np.hstack([bends.T - np.eye(count), -margin])
        sides = -self.ways.T @ point.gradient / scale
        self.size = scale
        self.least = TOLERANCES.interior * max(scale, float((self.sizes * lengths).mean()))
        largest = float(np.abs(sides).max(initial=0.0) + np.abs(self.jumps / self.units).max())
        self.far = 1e6 * (1.0 + largest)
        self.box = np.append(np.full(count, self.far), 1.0 + largest)
        flush = np.hstack([high[:, :-1], np.zeros((count, 1))])
        self.program = LinearProgram(
            np.vstack([span, low, high, flush]),
            np.concatenate(
                [sides, np.zeros(count), -self.jumps / self.units, np.full(count, -self.far)]
            ),
            self.box,
            np.concatenate([sides, np.full(3 * count, np.inf)]),
        )

    @property
    def concave(self) -> int:
        """Number of kinks that are concave whatever the weights: every leaf has their sides."""
        return int(((self.jumps < -self.errors) & ~self.bends.any(axis=0)).sum())

    def only(self, sides: Sides) -> tuple[Floats, float, Sides] | None:
        """The only weights of independent normals, as where kinks of equal samples are one."""
        normals = self.point.normals
        if not Float64().independent(normals):
            return None
        weights = -Float64().multipliers(normals, self.point.gradient)
        return self._checked(weights, sides, np.zeros_like(self.idle))

    def without_groups(self, sides: Sides) -> tuple[Floats, float, Sides] | None:
        """Weights where all groups of equal samples are left out that can be, if they show a minimum."""
        normals, left = self.point.normals, ~self.same.droppable
        if left.all():
            return None
        weights = np.where(left, 0.0, self.same.balanced_weights())
        gap = self.point.gradient + weights @ normals
        weights[left] = -np.linalg.lstsq(normals[left].T, gap, rcond=None)[0]
        return self._checked(weights, sides, np.zeros_like(self.idle))

    def leaf(self, sides: Sides) -> tuple[Floats, float, Sides] | int | None:
        """Weights of a leaf and their margin; else the kink to split it by, or None for none.

        Where the best margin is zero, directions are flat. Kinks that these move have weights of exactly
        zero if it is to their negative sides, and exactly at their ceilings if to their positive ones;
        the margin is sought among the others.
        """
        zero, silent, top = self.idle.copy(), np.zeros_like(self.idle), np.zeros_like(self.idle)
        while True:
            solution = self._solve(sides, zero, silent, top)
            if solution is None:
                return None
            margin, weights = float(solution.point[-1]), solution.point[:-1] * self.units
            if margin > TOLERANCES.interior:
                return self._checked(weights, sides, zero, top=top)
            rank = self.ways.shape[1]
            duals = solution.multipliers
            below, above, _ = np.split(duals[rank:], 3)
            least = TOLERANCES.interior * duals.max()
            if margin < -TOLERANCES.interior:
                still = (below + above <= MOVING * duals.max()) & ~zero & ~silent & ~top
                self._try(self.ways @ duals[:rank], still)
                torn = np.where(sides == 0, np.minimum(below, above), 0.0)
                return int(torn.argmax()) if torn.max() > least else None
            flat = (below > least) & ~zero
            level, still = self._level(weights, above > least, zero)
            self._lean(self.ways @ duals[:rank], zero)
            more = (above > least) & ~(top | zero | silent | level | flat | still)
            if not flat.any() and not (level & ~silent).any() and not more.any():
                return self._checked(weights, sides, zero, top=top)
            zero, silent = zero | flat | still, silent | level
            top = (top | more) & ~silent

    def _level(self, weights: Floats, tight: Bools, zero: Bools) -> tuple[Bools, Bools]:
        """Kinks without slopes on either side, and those whose weights are zero for that.

        They are those of samples that may be left out of the loss, or bend others that have no weight.
        """
        none = np.zeros_like(tight)
        if not tight.any():
            return none, none
        weights = np.where(
            zero | (np.abs(weights) <= TOLERANCES.interior * self.size), 0.0, weights
        )
        out = self.same.left_out(weights[None], self.sizes, self.jumps, self.bends)[0]
        bends = self.bends != 0
        level = tight & (self.jumps == 0) & (self.errors == 0) & ~bends[weights != 0].any(axis=0)
        return level | out, level | bends[:, level].any(axis=1) | (out & ~self.same.residual)

    def _solve(self, sides: Sides, zero: Bools, silent: Bools, top: Bools) -> Solution | None:
        """Weights with the largest margin among those not held at zero or their ceilings, or left out."""
        rank, count = self.ways.shape[1], len(sides)
        self.solved += 1
        if self.solved * count > MAX_PROGRAMS:
            return None
        held = np.where(zero, 0.0, self.same.balanced_weights() / self.units)
        self.program.fix(np.append(zero | silent, False), np.append(held, 0.0), self.box)
        self.program.set_lower(rank, np.where((sides > 0) | zero | silent, -self.far, 0.0))
        open_ = (sides < 0) | self.idle | silent
        ceiling = -self.jumps / self.units
        self.program.set_lower(rank + count, np.where(open_ | top, -self.far, ceiling))
        self.program.set_lower(rank + 2 * count, np.where(top & ~open_, ceiling, -self.far))
        try:
            solution = self.program.minimise(np.append(np.zeros(count), -1.0))
        except AnalysisError:  # the solver gives up on badly scaled normals
            return None
        return solution if solution.status == "optimal" else None

    def _checked(
        self,
        weights: Floats,
        sides: Sides,
        zero: Bools,
        relations: Floats | None = None,
        top: Bools | None = None,
        fans: Sequence[Fan] = (),
    ) -> tuple[Floats, float, Sides] | None:
        """Weights corrected to write the gradient, their least margin, if that is positive, and sides."""
        point, weights = self.point, np.where(zero, 0.0, weights)
        silent = np.zeros_like(zero)
        top = silent if top is None else top
        if relations is None and not fans:  # what is left out pays for nothing
            silent = self.same.left_out(weights[None], self.sizes, self.jumps, self.bends)[0]
            weights = np.where(silent, self.same.balanced_weights(), weights)
        top = top & ~silent
        kept = (weights != 0) & ~silent & ~top
        gradient, normals = crossed(point.gradient, point.normals, self.jumps, self.bends, top)
        inverse = self._inverse(kept, top, normals)
        some = np.where(top, 0.0, weights)
        some[kept] -= inverse @ (gradient + normals.T @ some)
        some[kept & (some == 0)] = TINY  # a weight of zero would be known to be that
        weights = ceilings(some, self.jumps, self.bends, top)
        error = self._error(top, normals)
        rounded = crossed_normals(self.rounded, 2.0 * np.abs(self.bends), top)
        spread, noise = np.zeros(len(weights)), split_errors(some, normals)
        spread[kept] = rounded_sizes(inverse) @ (error + noise + np.abs(some) @ rounded)
        spread = ceilings(spread, self.errors, np.abs(self.bends), top)
        errors = np.column_stack([spread, self.errors + spread + np.abs(self.bends).T @ spread])
        margins = coefficients(weights, self.jumps, self.bends, relations)
        if relations is not None:
            shift = self._shift(relations)
            if shift is None:
                return None
            errors += relation_errors(relations, shift, self.bends)
        asked = np.column_stack([sides <= 0, sides >= 0]) & (sides != IN_FAN)[:, None]
        rays = self._along_rays(fans, margins, errors, (kept, top))
        if rays is None:
            return None
        level = silent[:, None] | np.column_stack([np.zeros_like(top), top])
        if asked.all() and relations is None and Float64().independent(point.normals):
            at = point.pattern, point.active
            landscape, layer = point.block.landscape, point.block.layer
            level = level | zero_slopes(landscape, layer, at, margins, errors, self.ones)
        past = np.where(level, 0.0, margins - errors)[asked]
        exactly = (margins == 0) & (errors == 0) & (weights == 0)[:, None] | level
        holds = exactly[asked] | (past > 0)
        if self.exact:
            holds |= margins[asked] >= -self.least
        if not holds.all() or not self._spans((kept, silent, top), normals, (gradient, error)):
            return None
        least = float(min(past.min(initial=np.inf), rays.min(initial=np.inf)))
        return weights, least, sides + np.int8(AT_CEILING) * (top & (sides >= 0))

    def _along_rays(
        self, fans: Sequence[Fan], margins: Floats, errors: Floats, kinds: tuple[Bools, Bools]
    ) -> Floats | None:
        """Slopes along the rays of fans past their errors; None where one may be negative."""
        if self.exact:  # for exact arithmetic to decide
            slopes = np.concatenate([np.zeros(0), *(fan.slopes(margins) for fan in fans)])
            return None if (slopes < -self.least).any() else np.zeros(0)
        (kept, top), point = kinds, self.point
        at = self._crossing(top), point.active
        args = at, self.ones[1], kept, list(fans)
        stays = partial(loss_stays, point.block.landscape, point.block.layer, *args)
        return past_rays(list(fans), margins, errors, 1.0, stays)

    def _crossing(self, top: Bools) -> Bools:
        """The pattern with some kinks on their positive sides."""
        pattern = self.point.pattern.copy()
        for kink in np.flatnonzero(top):
            pattern[self.ones[1][kink]] = True
        return pattern

    def by_fans(self) -> Leaves | None:
        """All directions in one part, the kinks of each unit taken together along its cells' rays."""
        point = self.point
        frozen = FrozenForms(point.block.landscape, point.block.layer, point.pattern)
        levels = frozen.levels(point.active)[1]
        fans = fans_of(frozen.kinks(point.active), levels, point.normals, self.bends)
        if not fans:
            return None
        ways = [fan.unit_ways(bias=frozen.bias) for fan in fans]
        sides = np.zeros(len(self.idle), dtype=np.int8)
        sides[np.concatenate([fan.kinks for fan in fans])] = IN_FAN
        both, none = list(zip(fans, ways, strict=True)), np.zeros_like(self.idle)
        found = fan_weights(point.gradient, point.normals, self.jumps, self.bends, both)
        for weights, top in found:
            proved = self._checked(weights, sides, none, top=top, fans=fans)
            if proved is not None:
                return self.leaves([proved[2]], [proved[0]], proved[1], None)
        return None

    def _error(self, top: Bools, normals: Floats) -> Floats:
        """Bounds on the errors of the gradient where some kinks are crossed."""
        if not top.any():
            return self.point.gradient_error
        widest = self.point.block.piecewise.rounding_bounds(
            self.point.theta, TOLERANCES.rounding, widest=True
        )[2]
        return np.asarray(widest + (self.errors * top) @ np.abs(normals))

    def _shift(self, relations: Floats) -> Floats | None:
        """Bounds on the distances of relations to exact ones, if those are certain to exist."""
        point = self.point
        frozen = FrozenForms(point.block.landscape, point.block.layer, point.pattern)
        forms = frozen.kinks(point.active).matrix()
        return relation_shift(relations, point.normals, self.rounded, forms)

    def shared(self) -> Leaves | None:
        """All directions in one part, concave kinks paid for by convex ones."""
        point, none = self.point, np.zeros(len(self.point.active), dtype=np.int8)
        found = find_shares(point.normals, point.gradient, self.jumps, self.bends)
        if found is None:
            return None
        paying = (np.diag(found.relations) < 0)[:, None]
        relations = np.where(paying, found.relations, 0.0)  # others take without giving
        proved = self._checked(found.weights, none, self.idle, relations)
        return self.leaves([none], [proved[0]], proved[1], relations) if proved else None

    def leaves(
        self, sides: list[Sides], weights: list[Floats], margin: float, relations: Floats | None
    ) -> Leaves:
        """Leaves with all active kinks; those that are one with an earlier one have no weights."""
        spread = self.same.spread
        if relations is not None:
            relations = spread(spread(relations).T).T
        return Leaves(spread(np.array(sides)), spread(np.array(weights)), margin, relations)

    def _inverse(self, kept: Bools, top: Bools, normals: Floats) -> Floats:
        """`left_inverse` of some kinks' normals where others are crossed."""
        key = kept.tobytes() + top.tobytes()
        if key not in self.inverses:
            self.inverses[key] = left_inverse(normals[kept])
        return self.inverses[key]

    def _spans(
        self, kinds: tuple[Bools, Bools, Bools], normals: Floats, gradient: tuple[Floats, Floats]
    ) -> bool:
        """Whether some kinks' normals span the exact gradient, samples left out and kinks crossed."""
        (kept, silent, top), point = kinds, self.point
        key = kept.tobytes() + silent.tobytes() + top.tobytes()
        if key not in self.spanned:
            self.spanned[key] = self.exact or gradient_is_spanned(
                point.block.landscape,
                point.block.layer,
                (self._crossing(top), point.active),
                normals,
                (kept, np.flatnonzero(self.same.samples_of(silent))),
                gradient,
            )
        return self.spanned[key]

    def _try(self, direction: Floats, still: Bools) -> None:
        """Keep a direction along which the loss falls.

        The solver leaves kinks that should be still in slow motion, which may cost more than the fall.
        """
        units = self.units[still]
        with np.errstate(over="ignore"):
            normals = self.point.normals[still] / units[:, None]
        if not np.isfinite(normals).all():
            return
        for _ in range(2):
            gap = self._rates(direction)[still] / units
            direction = direction - np.linalg.lstsq(normals, gap, rcond=None)[0]
        length = float(np.linalg.norm(direction))
        if length > 0 and self.rate(direction / length) < -self._noise(direction / length):
            self.direction = direction / length

    def fall(self) -> None:
        """Look for a direction along which the loss falls across the sides of concave kinks."""
        point, ways, lengths = self.point, self.ways, self.size / self.units
        found = falling_directions(
            ways.T @ point.gradient / self.size,
            point.normals @ ways / lengths[:, None],
            self.jumps / self.units,
            self.bends * lengths / lengths[:, None],
            lambda direction: self._rates(ways @ direction),
        )
        while self.direction is None and (direction := next(found, None)) is not None:
            self._try(ways @ direction, np.zeros_like(self.idle))

    def _noise(self, direction: Floats) -> float:
        """Rounding error of f'(d)."""
        unit = (
            TOLERANCES.rounding * self.point.block.piecewise.depth_terms * np.finfo(np.float64).eps
        )
        sizes = np.abs(self.point.normals) @ np.abs(direction)
        slopes = self.errors + unit * np.abs(self.jumps)
        return float(self.point.gradient_error @ np.abs(direction) + slopes @ sizes)

    def _lean(self, direction: Floats, zero: Bools) -> None:
        """Add to the flat direction another, little enough that kinks in motion stay on their sides."""
        whole = direction
        if self.flat is not None:
            normals = self.point.normals[zero]
            moving, more = normals @ self.flat, normals @ direction
            room = np.maximum(-moving, 0.0)
            rising = more > room / 2
            share = float((room[rising] / more[rising]).min(initial=2.0)) / 2
            whole = self.flat + direction * share
        if abs(self.rate(whole)) <= TOLERANCES.interior * self.size * float(np.linalg.norm(whole)):
            self.flat = whole

    def rate(self, direction: Floats) -> float:
        """f'(d)."""
        rates = self._rates(direction)
        return float(self.point.gradient @ direction + self.jumps @ np.maximum(rates, 0.0))

    def _rates(self, direction: Floats) -> Floats:
        """Rates t of the kinks along a direction."""
        straight = self.point.normals @ direction
        rates = straight
        for _ in range(len(self.point.block.piecewise.groups)):
            rates = straight + self.bends @ np.maximum(rates, 0.0)
        return np.asarray(rates)


def _coincident(point: Point) -> Coincident:
    """Which of the active kinks are one."""
    piecewise = point.block.piecewise
    starts = np.array([group.start for group in piecewise.groups])
    widths = np.array([group.units for group in piecewise.groups])
    levels, samples = piecewise.level_of(point.active), piecewise.sample_of(point.active)
    units = (point.active - starts[levels]) % widths[levels]
    kinds = np.cumsum([0, *widths])[levels] + units
    outputs = np.where(levels == len(piecewise.slopes), units, -1)
    bits = point.pattern[starts[-1] :] if piecewise.has_residuals else point.pattern[:0]
    signs = np.where(bits, 1, -1).reshape(piecewise.num_samples, -1)
    return Coincident.of(point.block.landscape, (samples, kinds, outputs), signs)


def examine(point: Point, *, exact: bool = False) -> tuple[Leaves | None, Floats | None]:
    """Leaves that show a minimum to first order, or a unit direction along which the loss falls.

    Both may be None: within rounding, or beyond `max_leaves`. With `exact`, weights that may be on their
    bounds are for exact arithmetic to correct.
    """
    search = _Search(point, exact)
    none = np.zeros(len(search.point.active), dtype=np.int8)
    only = search.only(none)
    if only is not None:
        return search.leaves([none], [only[0]], only[1], None), None
    todo = [none]
    sides: list[Sides] = []
    weights: list[Floats] = []
    margin, failed = np.inf, 0
    while todo:
        if len(sides) + len(todo) > TOLERANCES.max_leaves or failed > FAILURES:
            search.fall()
            return None, search.direction
        here = todo.pop()
        found = search.leaf(here)
        if search.direction is not None:
            return None, search.direction
        if not here.any() and not isinstance(found, tuple):
            fewer = search.without_groups(none)
            if fewer is not None:
                return search.leaves([none], [fewer[0]], fewer[1], None), None
            shared = search.shared() or search.by_fans()
            if shared is not None:
                return shared, None
            search.fall()
            if search.direction is not None or search.concave >= TOLERANCES.max_leaves:
                return None, search.direction
        if found is None:  # no minimum will be shown, but another part may hold a direction
            failed += 1
            continue
        if isinstance(found, int):
            for side in (1, -1):
                todo.append(here.copy())
                todo[-1][found] = side
            continue
        sides.append(found[2])
        weights.append(found[0])
        margin = min(margin, found[1])
    return (None if failed else search.leaves(sides, weights, float(margin), None)), None


def by_fans(point: Point) -> Leaves | None:
    """A leaf that shows a minimum to first order along the rays of each unit's cells, or None."""
    return _Search(point, False).by_fans()


def way_out(point: Point) -> tuple[Floats, float] | None:
    """A direction along which the loss falls, or stays as it is while kinks leave zero; and its rate.

    Where concave kinks (a zero unit's) can all be put on their negative sides, the loss may be flat
    there: the unit is dead, and nothing is left of its kinks.
    """
    search = _Search(point, False)
    concave = np.where(search.jumps < 0, -1, 0).astype(np.int8)
    for sides in (concave, 0 * concave):
        search.leaf(sides)
        if search.direction is not None:
            return search.direction, search.rate(search.direction)
    if search.flat is None or not search.flat.any():
        search.fall()
        return (
            None if search.direction is None else (search.direction, search.rate(search.direction))
        )
    return search.flat / np.linalg.norm(search.flat), 0.0


def common_descent(point: Point) -> tuple[Floats, float] | None:
    """A unit direction along which the loss falls whatever the pattern, and the least slope."""
    gradients, errors = _gradients(point)
    size = gradients.shape[1]
    matrix = np.hstack([-gradients, np.ones((len(gradients), 1))])
    box = np.append(np.ones(size), np.inf)
    program = LinearProgram(matrix, np.zeros(len(gradients)), box)
    try:
        solution = program.minimise(np.append(np.zeros(size), 1.0))
    except AnalysisError:  # the solver gives up on badly scaled gradients
        return None
    norm = np.linalg.norm(solution.point[:size]) if solution.status == "optimal" else 0.0
    if norm == 0:
        return None
    direction = solution.point[:size] / norm
    # twice the errors: the checker also counts what kinks along the direction may add
    noise, slopes = errors @ np.abs(direction), gradients @ direction
    slope = float((slopes + noise).max())
    return (direction, slope) if (slopes + 2 * noise).max() < 0 else None


def _gradients(point: Point) -> tuple[Floats, Floats]:
    """Gradients of all 2^k patterns of the active kinks, and bounds on their rounding errors."""
    piecewise, gradients = point.block.piecewise, []
    for sides in product([False, True], repeat=len(point.active)):
        pattern = point.pattern.copy()
        pattern[point.active] = sides
        gradients.append(piecewise.gradient(point.theta, pattern))
    widest = piecewise.rounding_bounds(point.theta, TOLERANCES.rounding, widest=True)[2]
    errors = np.tile(widest, (len(gradients), 1))
    errors[0] = point.gradient_error  # all kinks negative: the cell of the point's own gradient
    return np.array(gradients), errors
