"""A network's output as the compiled kernel's problem, and rays along which it falls forever.

The kernel sees one sample with the single input 1, whose layer's weights are the inputs that are not
fixed. Its fences are far steeper than a certificate's, so that no step and no edge leads out of the box:
that takes one whose length is `STEEP` times what it moves across the fence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reluscape.affine import AffineMap, fold
from reluscape.certificate import Certificate
from reluscape.descent.kernel import State
from reluscape.descent.problem import Indices, Problem, chain_of, matrices_of, settle
from reluscape.fences import Layers, fenced, fences_of, lifted
from reluscape.losses import make_loss
from reluscape.network import Affine, Rectifier, Scale
from reluscape.network_output import INPUT, NetworkOutput
from reluscape.piecewise import Piecewise
from reluscape.proof import certify
from reluscape.proof_output import fall_along, with_direction
from reluscape.solvers import LinearProgram

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: How much steeper than need be the fences are; their terms cancel exactly inside the box.
STEEP = 2.0**24
#: Rates of a unit below this share of their terms are rounding.
QUIET = 1e-12
#: Least rate, relative to normal and direction, at which a direction leaves all kinks behind.
MARGIN = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class OutputProblem(Problem):
    """A network's output in its free inputs.

    Attributes:
        function: The output.
        free: Inputs that are not fixed.
        last: The network's own last map.
        own: Columns of the network's own kinks, the fences' left out.
    """

    function: NetworkOutput
    free: Indices
    last: AffineMap
    own: Bools

    @classmethod
    def of_output(cls, function: NetworkOutput) -> OutputProblem:
        """Fix the inputs that are, fence the others, and flatten the network."""
        free = np.flatnonzero(function.lower < function.upper)
        plain = _without_fixed(function, free)
        plain = lifted(plain, function.floor(_lowest_corner(function)))
        fences = fences_of(plain, function.lower[free], function.upper[free], steep=STEEP)
        maps, slopes = fold(fenced(plain, fences, first=True))
        last = fold(plain)[0][-1]
        one = np.ones((1, 1))
        piecewise = Piecewise(
            features=one,
            magnitudes=one,
            width=len(free),
            bias=False,
            maps=maps,
            slopes=slopes,
            labels=tuple(INPUT for _ in maps),
            loss=make_loss("l1"),
            targets=np.zeros((1, 1)),
            weight_decay=0.0,
            other_decay=0.0,
            depth_terms=1,
        )
        chain = chain_of(piecewise)._replace(weight=1.0, residuals=False)
        own = [
            np.arange(group.units) >= group.units - units
            for group, units in zip(piecewise.groups[:-1], _widths(plain, len(free)), strict=True)
        ]
        return cls(
            piecewise, chain, np.ones(1), one, one, np.ones(1), _reach(piecewise) * np.ones(1), 1.0,
            function, free, last, np.concatenate(own),
        )  # fmt: skip

    def reduce(self, theta: Floats) -> Floats:
        """The free inputs."""
        return np.asarray(theta[self.free])

    def expand(self, reduced: Floats, start: Floats) -> Floats:
        """All inputs, in the box, of one point or several."""
        theta = np.broadcast_to(start, (*reduced.shape[:-1], len(start))).copy()
        theta[..., self.free] = reduced
        return self.function.inside(theta)

    def values(self, reduced: Floats, shift: Floats | None) -> Floats:
        """Switching values (1, K), the network's own shifted by `shift`: the box stays where it is."""
        parts, column = [], 0
        hidden = reduced[None]
        for step, slope in zip(self.piecewise.maps, self.piecewise.slopes, strict=False):
            before = step(hidden)
            here = slice(column, column + before.shape[1])
            if shift is not None:
                before = before + shift[:, here] * self.own[here]
            column = here.stop
            parts.append(before)
            hidden = np.where(before > 0, before, slope * before)
        return np.hstack(parts)

    def outputs(self, hidden: Floats) -> Floats:
        """The output from the last rectifier's outputs (1, points, units), without the penalty."""
        return self.last(hidden[..., hidden.shape[-1] - _units_before(self.last) :])

    def loss(self, values: Floats) -> float:
        """The output from the switching values of its last rectifier, without the penalty."""
        slope = self.piecewise.slopes[-1]
        before = values[0, values.shape[1] - _units_before(self.last) :]
        hidden = np.where(before > 0, before, slope * before)
        return float(self.last(hidden[None])[0, 0])

    def loss_at(self, reduced: Floats) -> float:
        """The output at the point of the box next to this one."""
        return self.function.loss(self.expand(reduced, self.function.theta))

    def settled(self, theta: Floats, active: Indices) -> Floats:
        """Theta moved to where the active kinks are zero to the last bits; inputs at bounds are there."""
        moved = self.expand(settle(self.piecewise, self.reduce(theta), active), theta)
        near = QUIET * (1.0 + np.abs(moved))
        for bound in (self.function.lower, self.function.upper):
            moved = np.where(np.abs(moved - bound) <= near, bound, moved)
        return moved


def _without_fixed(function: NetworkOutput, free: Indices) -> Layers:
    """The network as a function of its free inputs."""
    first, *rest = function.layers
    if isinstance(first, Scale):
        first = Affine(np.diag(first.scale), first.shift, first.name)
    assert isinstance(first, Affine)
    fixed = np.setdiff1d(np.arange(function.size), free)
    shift = first.weight[:, fixed] @ function.lower[fixed]
    shift = shift if first.bias is None else shift + first.bias
    return (Affine(first.weight[:, free], shift, first.name), *rest)


def _lowest_corner(function: NetworkOutput) -> Floats:
    """Where an affine output is lowest in its box, infinite sides left out."""
    slopes = function.gradient()
    corner = np.where(slopes > 0, function.lower, function.upper)
    return np.where((slopes == 0) | ~np.isfinite(corner), function.theta, corner)


def _widths(layers: Layers, width: int) -> list[int]:
    """Units of every rectifier."""
    found = []
    for step in fold(layers)[0][:-1]:
        width = step.width_after(width)
        found.append(width)
    return found


def _units_before(step: AffineMap) -> int:
    """Number of inputs of a map that is not the identity."""
    assert step.matrix is not None
    return int(step.matrix.shape[-1])


def _reach(piecewise: Piecewise) -> float:
    """Bound on the length of any switching value's derivative."""
    growth, largest = 1.0, 1.0
    for dense in matrices_of(piecewise)[:-1]:
        growth *= float(np.linalg.norm(dense, ord=2)) if dense.size else 1.0
        largest = max(largest, growth)
    return largest


# ---- rays ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Ray:
    """From `theta` on, the output falls forever along `direction`, in exact arithmetic.

    Attributes:
        theta: Behind the last kink on the way.
        direction: A unit vector within the box.
        certificate: Of `theta`, on the evidence of the direction.
    """

    theta: Floats
    direction: Floats
    certificate: Certificate


def falling_ray(function: NetworkOutput, theta: Floats, ways: Floats, below: float) -> Ray | None:
    """The first of some ways along which the output is shown to fall forever, steepest ones first.

    Args:
        function: The output.
        theta: A point of the box.
        ways: Directions, shape (ways, size).
        below: Level under which the ray is to begin.
    """
    found = []
    for way in ways:
        inside = np.where((way > 0) & np.isfinite(function.upper), 0.0, way)
        inside = np.where((way < 0) & np.isfinite(function.lower), 0.0, inside)
        length = float(np.linalg.norm(inside))
        if length > 0:
            asymptote = _asymptote(function, theta, inside / length)
            if asymptote.rate < 0:
                found.append((asymptote.rate, inside / length, asymptote))
    for _, way, asymptote in sorted(found, key=lambda entry: entry[0]):
        pair = [way, _away_from_kinks(function, way, asymptote)]
        for direction in sorted(pair, key=lambda way: _length(function, theta, way, below)):
            if (ray := _begun(function, theta, direction, below)) is not None:
                return ray
    return None


def ways_of(problem: OutputProblem, state: State) -> Floats:
    """Directions that the kernel may have found without an end: edges, and the free rows' descent."""
    free = state.samples == -1
    down = -(state.mu[free] @ state.edges[free])
    reduced = np.vstack([down, state.edges, -state.edges])
    ways = np.zeros((len(reduced), problem.function.size))
    ways[:, problem.free] = reduced
    return ways


def descent_ways(function: NetworkOutput, theta: Floats) -> Floats:
    """Minus the gradient at theta."""
    return -function.gradient(theta)[None]


@dataclass(frozen=True, slots=True, eq=False)
class _Asymptote:
    """What becomes of the network far out on a ray: with its last pattern, all is affine in theta.

    Attributes:
        values: Every unit's value at the ray's beginning by its last affine form, the output's last.
        rates: Their rates along the ray.
        normals: Their gradients by theta, shape (units + 1, size).
        signs: The units' last sides, 1.0 or -1.0.
    """

    values: Floats
    rates: Floats
    normals: Floats
    signs: Floats

    @property
    def rate(self) -> float:
        """The output's rate."""
        return float(self.rates[-1])

    def length(self, below: float) -> float:
        """Distance behind which no unit switches any more and the output is below a level."""
        late = self.signs * self.values[:-1] < 0
        times = [*(-self.values[:-1][late] / self.rates[:-1][late])]
        return float(max([0.0, (below - self.values[-1]) / self.rate, *times]))


def _asymptote(function: NetworkOutput, theta: Floats, way: Floats) -> _Asymptote:
    """Go through the network with values, rates and gradients; sides are those of the rates."""
    value, normals, size = theta, np.eye(len(theta)), np.abs(way)
    values, slopes, signs = [], [], []
    for part in function.layers:
        if isinstance(part, Rectifier):
            rate = normals @ way
            moves = np.abs(rate) > QUIET * size
            on = np.where(moves, rate > 0, value > 0)
            values.append(value)
            slopes.append(normals)
            signs.append(np.where(on, 1.0, -1.0))
            factor = np.where(on, 1.0, part.slope)
            value, normals, size = value * factor, normals * factor[:, None], size * np.abs(factor)
        else:
            value, normals = part(value[None])[0], _linear(part, normals)
            size = _linear(part, size[:, None], absolute=True)[:, 0]
    stacked = np.vstack([*slopes, normals])
    return _Asymptote(
        np.concatenate([*values, value]),
        stacked @ way,
        stacked,
        np.concatenate([np.empty(0), *signs]),
    )


def _linear(part: Affine | Scale, columns: Floats, *, absolute: bool = False) -> Floats:
    """A layer's matrix, or that of absolute values, times columns."""
    matrix = part.weight if isinstance(part, Affine) else part.scale[:, None]
    matrix = np.abs(matrix) if absolute else matrix
    return np.asarray(matrix @ columns if isinstance(part, Affine) else matrix * columns)


def _away_from_kinks(function: NetworkOutput, way: Floats, at: _Asymptote) -> Floats:
    """The direction that leaves all kinks behind fastest with the same pattern, or the way itself.

    The linear program: maximise t with `sign_k a_k . d >= t |a_k|`, `-g . d >= t |g|` and |d_j| <= 1.
    """
    ahead = ~np.isfinite(function.upper) & (function.lower <= function.upper)
    back = ~np.isfinite(function.lower)
    open_sides = ahead | back
    rows = np.vstack([at.signs[:, None] * at.normals[:-1], -at.normals[-1:]]) * open_sides
    lengths = np.linalg.norm(rows, axis=1)
    kept = lengths > 0
    one_sided = np.eye(len(way))[ahead != back] * np.where(ahead, 1.0, -1.0)[ahead != back][:, None]
    matrix = np.vstack([
        np.hstack([rows[kept] / lengths[kept][:, None], -np.ones((int(kept.sum()), 1))]),
        np.hstack([one_sided, np.zeros((len(one_sided), 1))]),
    ])  # fmt: skip
    program = LinearProgram(matrix, np.zeros(len(matrix)), np.append(open_sides * 1.0, 1.0))
    cost = np.zeros(len(way) + 1)
    cost[-1] = -1.0
    solution = program.minimise(cost)
    if solution.status == "optimal" and -solution.value > MARGIN:
        best = solution.point[:-1]
        best = np.where((best > 0) & ~ahead | (best < 0) & ~back, 0.0, best)
        return np.asarray(best / np.linalg.norm(best))
    return way


def _length(function: NetworkOutput, theta: Floats, way: Floats, below: float) -> float:
    """Distance along a direction at which a ray may begin; infinity for none."""
    at = _asymptote(function, theta, way)
    return max(2.0 * at.length(below), 1.0) if at.rate < 0 else np.inf


def _begun(function: NetworkOutput, theta: Floats, direction: Floats, below: float) -> Ray | None:
    """The ray along a direction from behind the last kink on, where that is proved and certified."""
    length = _length(function, theta, direction, below)
    if not np.isfinite(length):
        return None
    far = function.inside(theta + length * direction)
    if not function.falls_forever(far, direction):
        return None
    certificate = certify(function, far)
    fall = fall_along(function.around(far), far, direction)
    if certificate.claim != "not_stationary" or fall <= 0:
        return None
    why = "the output falls forever along the direction: no unit switches any more on the way"
    return Ray(far, direction, with_direction(certificate, direction, fall, why))
