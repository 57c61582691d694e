"""Exact claims about the whole landscape at a differentiable point, in rationals and balls.

With the switches frozen the network is a polynomial in all its parameters. Its derivatives go forward
through the layers z = W h + b as Jacobians J by all parameters, the loss's slope by the outputs goes
backward as the deltas d = s^T df/dz, and the Hessian is

    sum_i J_i^T S_i J_i + sum_i sum_layers (d_i (x) dh_i/dtheta and its transpose),

S the loss's curvature by the outputs; the second part is all there is to f'', because a layer's
output is bilinear in its weights and its inputs.

A trained point is stationary to rounding only. An exact stationary point next to it is proved in
balls: theta is replaced by a box, and one evaluation encloses the Hessian all over it (Krawczyk).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.arithmetic import Rational
from reluscape.certificate import Claim
from reluscape.frozen import FrozenBlock
from reluscape.landscape import Landscape
from reluscape.network import Affine, Rectifier
from reluscape.symmetry import generators, independent_part, is_plain
from reluscape.tolerances import TOLERANCES
from reluscape.whole import convex_in_products

Array = NDArray[Any]
Floats = NDArray[np.float64]

#: Largest samples x params, or for a Hessian (samples x outputs + params) x params^2: these many
#: multiplications take about a minute.
MAX_WORK = 3 * 10**7

_CHUNK = 64

#: Shares of a computed number that are tried as its proved lower bound.
_SHARES = (1.0 - 2.0**-20, 0.5, 0.0)


class Jets:
    """First and second derivatives of a landscape, exact or enclosed.

    Args:
        landscape: Read completely, without batch norm.
        numbers: Rational arithmetic.
        theta: All parameters, shape (params,): rationals for one point, or balls for a box.

    Attributes:
        certain: Whether no kink can be at zero, so that the derivatives are the loss's own. For a box
            this also says that its pattern is that of any point in it.
    """

    def __init__(self, landscape: Landscape, numbers: Rational, theta: Array) -> None:
        assert landscape.reading is not None
        self._numbers, self._theta, self.certain = numbers, theta, True
        self._decay = numbers.array(np.array(landscape.weight_decay))[()]
        self._layers: list[tuple[Array, Array | None, Array]] = []  # see _through and _switch
        value = numbers.array(landscape.reading.features) + theta[0] * 0  # balls where theta is
        for layer in landscape.reading.network.layers:
            if isinstance(layer, Affine):
                value = self._through(layer, landscape.positions(layer.name), value)
            else:
                assert isinstance(layer, Rectifier)
                slopes = numbers.array(np.array([layer.slope, 1.0]))
                active = slopes[self._signs(value).astype(np.intp)]
                self._layers.append((active, None, value))
                value = value * active
        self._read_loss(landscape, value)

    def gradient(self) -> Array:
        """Gradient, shape (params,)."""
        total = self._decay * self._theta
        for delta, (_, positions, value) in zip(self._deltas, self._layers, strict=True):
            if positions is not None:
                units = [(delta.T @ value).ravel(), delta.sum(axis=0)]
                total[positions] += np.concatenate(units)[: len(positions)]
        return total

    def hessian(self) -> Array:
        """Hessian, shape (params, params)."""
        size = len(self._theta)
        total = np.full((size, size), self._theta[0] * 0)
        total[np.diag_indices(size)] += self._decay
        for start in range(0, len(self._slope), _CHUNK):
            self._add_hessian(total, slice(start, start + _CHUNK))
        return total

    def _add_hessian(self, total: Array, rows: slice) -> None:
        """Add the Hessian of some samples' losses; Jacobians have columns for the layers so far."""
        seen = np.empty(0, dtype=np.intp)
        jacobian = np.empty((*self._layers[0][2][rows].shape, 0), dtype=object)
        for delta, (factor, positions, value) in zip(self._deltas, self._layers, strict=True):
            if positions is None:
                jacobian = jacobian * factor[rows][:, :, None]
                continue
            cross = np.tensordot(delta[rows], jacobian, axes=(0, 0)).reshape(factor.size, -1)
            weights = positions[: factor.size]
            total[np.ix_(weights, seen)] += cross
            total[np.ix_(seen, weights)] += cross.T
            own = self._own(factor.shape, value[rows])[:, :, : len(positions)]
            jacobian = np.concatenate([np.matmul(factor, jacobian), own], axis=2)
            seen = np.concatenate([seen, positions])
        bent = np.matmul(self._curvature[rows], jacobian)
        flat = jacobian.reshape(-1, len(seen))
        total[np.ix_(seen, seen)] += flat.T @ bent.reshape(flat.shape)

    def _own(self, shape: tuple[int, ...], value: Array) -> Array:
        """Jacobian of a layer's outputs by its weight (row-major) and bias."""
        units, inputs = shape
        own = np.full((len(value), units, units * inputs + units), self._theta[0] * 0)
        for unit in range(units):
            own[:, unit, unit * inputs : (unit + 1) * inputs] = value
            own[:, unit, units * inputs + unit] += 1
        return own

    def _through(self, layer: Affine, positions: NDArray[np.intp], value: Array) -> Array:
        """Note (weight, positions in theta, inputs) of an affine layer; its outputs."""
        weight = self._theta[positions[: layer.weight.size]].reshape(layer.weight.shape)
        self._layers.append((weight, positions, value))
        after = value @ weight.T
        return after if layer.bias is None else after + self._theta[positions[weight.size :]]

    def _signs(self, values: Array) -> NDArray[np.bool_]:
        """Which values are positive; notes when one of them may be zero."""
        positive = np.asarray(values > 0, dtype=np.bool_)
        self.certain &= bool((positive | np.asarray(values < 0, dtype=np.bool_)).all())
        return positive

    def _read_loss(self, landscape: Landscape, outputs: Array) -> None:
        """Slope and curvature of the loss by the outputs, and the slope by every layer's outputs."""
        block = FrozenBlock(landscape, landscape.layers[-1], self._numbers)
        rows = np.arange(len(outputs))
        bits = np.zeros((len(outputs), block.switches), dtype=np.bool_)
        if block.residuals:
            bits = np.hstack([bits, self._signs(outputs - block.targets)])
        self._slope = block.output_slope(outputs, bits, rows)
        self._curvature = block.curvature(outputs)
        self._deltas: list[Array] = []
        delta = self._slope
        for factor, positions, _ in reversed(self._layers):
            self._deltas.insert(0, delta)
            delta = delta * factor if positions is None else delta @ factor


@dataclass(frozen=True, slots=True)
class ExactVerdict:
    """Claim, its reason and the numbers it rests on."""

    claim: Claim
    reason: str
    margin: float = 0.0
    direction: Floats | None = None
    curvature: float | None = None
    radius: float = 0.0


@dataclass(frozen=True, slots=True)
class _Box:
    """A box around theta with exactly one stationary point in the slice across the flat directions.

    Attributes:
        radius: No point of it is farther from theta.
        across: The coordinates that vary in it; the slice crosses every orbit of the flat directions
            once.
        hessian: Enclosure of the Hessian at all its points, over all coordinates.
    """

    radius: float
    across: NDArray[np.intp]
    hessian: Array


def exact_verdict(
    landscape: Landscape, numbers: Rational, direction: Floats | None = None
) -> ExactVerdict:
    """Decide what a differentiable point with a gradient of zero to rounding is, all layers at once.

    Args:
        landscape: Its own parameters are the point.
        numbers: Rational arithmetic.
        direction: Take this unit direction as the one along which the loss falls, if it does.
    """
    if not is_plain(landscape) or landscape.num_samples * landscape.size > MAX_WORK:
        reason = (
            f"exact gradients are for networks read completely, samples x params to {MAX_WORK:.0e}"
        )
        return ExactVerdict("undecided", reason)
    theta = numbers.array(landscape.theta)
    jets = Jets(landscape, numbers, theta)
    if not jets.certain:
        return ExactVerdict("undecided", "some switching value is exactly zero")
    gradient = jets.gradient()
    rests = all(entry == 0 for entry in gradient)
    verdict = _second_order(landscape, numbers, gradient, rests, direction)
    if verdict.claim == "undecided" and rests and convex_in_products(landscape):
        return ExactVerdict("local_minimum", _CONVEX)
    if verdict.claim == "undecided" and not rests:
        return _falling(landscape, numbers, gradient, direction) or verdict
    return verdict


def _second_order(
    landscape: Landscape,
    numbers: Rational,
    gradient: Array,
    rests: bool,
    direction: Floats | None,
) -> ExactVerdict:
    """Claim about the stationary point at theta (`rests`) or proved next to it, by its Hessian."""
    work = (landscape.num_samples * landscape.num_outputs + landscape.size) * landscape.size**2
    if work > MAX_WORK:
        return ExactVerdict("undecided", f"an exact Hessian would take {work:.0e} multiplications")
    approximate = landscape.hessian()
    box = _stationary_box(landscape, numbers, gradient, rests, approximate)
    if box is None:
        return ExactVerdict("undecided", "no exact stationary point is proved nearby")
    values, vectors = np.linalg.eigh(approximate)
    curvature, where = float(values[0]), "vanishes" if rests else "vanishes at a point nearby"
    down = vectors[:, 0] if direction is None else direction
    bend = numbers.array(down) @ box.hessian @ numbers.array(down)
    if bend < 0:
        reason = f"the gradient {where} and the Hessian is not semidefinite"
        return ExactVerdict("saddle", reason, _below(numbers, -bend), down, curvature)
    if len(box.across) < landscape.size:
        if numbers.is_definite(box.hessian[np.ix_(box.across, box.across)]):
            reason = f"the gradient {where}; the Hessian is flat along symmetries only"
            return ExactVerdict("local_minimum", reason, 0.0, None, curvature, box.radius)
        return ExactVerdict("undecided", f"the gradient {where}, but the Hessian is singular")
    unit = np.eye(landscape.size)
    for margin in sorted({max(0.0, share * curvature) for share in _SHARES}, reverse=True):
        if numbers.is_definite(box.hessian - numbers.array(margin * unit)):
            reason = f"the gradient {where} and the Hessian is positive definite"
            return ExactVerdict("strict_local_minimum", reason, margin, None, curvature, box.radius)
    return ExactVerdict("undecided", f"the gradient {where}, but the Hessian is singular")


def _stationary_box(
    landscape: Landscape,
    numbers: Rational,
    gradient: Array,
    rests: bool,
    approximate: Floats,
) -> _Box | None:
    """Prove a stationary point at theta (`rests`) or next to it, or return None.

    Let the coordinates `across` span a complement of the flat directions, g be the gradient in them,
    H its derivative, and X a box of half-width rho around zero. For any C the map `x - C g(theta + x)`
    takes X into `-C g(theta) + (I - C H(X)) X`, hence into X where `|C g(theta)| <= rho / 4` and
    `|I - C H(X)| <= 1/2`; C is then nonsingular, and the fixed point is a zero of g. The slope along
    flat directions vanishes anyway. They and `across` span everything at every point of the box when
    their part in the other coordinates is nonsingular all over it.
    """
    theta = numbers.array(landscape.theta) + numbers.ball(0.0)
    scale = 1.0 + float(np.linalg.norm(landscape.theta))
    flat = generators(landscape, landscape.theta)
    fixed, chosen = independent_part(flat)
    across = np.setdiff1d(np.arange(landscape.size), fixed)
    square = np.ix_(across, across)
    width = 0.0
    if not rests:
        inverse = _inverse(numbers, approximate[square])
        if inverse is None:
            return None
        step = abs(inverse @ gradient[across])
        width = (
            4.0 * max(map(numbers.upper, step), default=0.0) + float(np.finfo(float).tiny) ** 0.5
        )
    radius = width * len(across) ** 0.5 * (1.0 + 2.0**-50)
    if not radius <= TOLERANCES.existence * scale:
        return None
    theta[across] = theta[across] + numbers.ball(width)
    jets = Jets(landscape, numbers, theta)
    moving = generators(landscape, theta)[np.ix_(fixed, chosen)]
    spanning = _inverse(numbers, flat[np.ix_(fixed, chosen)])
    if not jets.certain or spanning is None or not _near_identity(numbers, spanning @ moving, 1.0):
        return None
    hessian = jets.hessian()
    if rests or _near_identity(numbers, inverse @ hessian[square], 0.5):
        return _Box(radius, across, hessian)
    return None


def _inverse(numbers: Rational, matrix: Floats) -> Array | None:
    """The inverse to rounding, as balls of radius zero; None where it is infinite."""
    try:
        inverse = np.linalg.inv(matrix)
    except np.linalg.LinAlgError:
        return None
    return numbers.array(inverse) + numbers.ball(0.0) if np.isfinite(inverse).all() else None


def _near_identity(numbers: Rational, matrix: Array, limit: float) -> bool:
    """Whether a matrix of balls differs from the identity by less than `limit` in every row's sum."""
    rows = abs(matrix - np.eye(len(matrix), dtype=int)).sum(axis=1)
    return all(numbers.upper(row) < limit for row in rows)


def _falling(
    landscape: Landscape, numbers: Rational, gradient: Array, direction: Floats | None
) -> ExactVerdict | None:
    """A slope at theta that does not vanish within reach, where a stationary point would count as it.

    Below float64's resolution a gradient is nonzero almost everywhere, next to any minimum too; it is
    held against a point only when the loss certainly falls in a whole box around it.
    """
    sizes = [abs(entry) for entry in gradient if entry != 0]
    if not sizes:
        return None
    if direction is None:
        direction = numbers.floats(-gradient / max(sizes))
        direction = direction / np.linalg.norm(direction)
    reach = TOLERANCES.resolve * (1.0 + float(np.linalg.norm(landscape.theta)))
    around = Jets(landscape, numbers, numbers.array(landscape.theta) + numbers.ball(reach))
    downhill = numbers.array(direction)
    if not around.certain or not around.gradient() @ downhill < 0:
        return None
    reason = f"the loss falls along the direction everywhere within {reach:.1e}"
    return ExactVerdict(
        "not_stationary", reason, _below(numbers, -(gradient @ downhill)), direction
    )


def _below(numbers: Rational, value: Any) -> float:
    """A float proved to lie below a positive number, next to it where that can be proved."""
    size = float(numbers.floats(np.array([value]))[0])
    shares = (share * size for share in _SHARES)
    return next(bound for bound in shares if value > numbers.array(np.array(bound))[()])


_CONVEX = (
    "one hidden layer, one output, all output weights nonzero: the loss is convex in the products"
    " of incoming and outgoing weights, and its gradient vanishes exactly"
)
