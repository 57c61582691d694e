"""Brute force for stationarity at kinks, and random instances that sit exactly on them.

Nothing here is shared with the package: networks are lists of arrays, one-sided derivatives come
from propagating a tangent through the layers (at a zero the rectifier acts on the tangent itself),
and a minimum is decided by a linear programme on every adjacent sign pattern, with no use of the
separability that the package's test rests on.

A frozen pattern is exact on its closed cone, also where that cone has no interior: the rectifier
applied to a zero tangent is zero on either side. So empty cones need no special treatment.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import least_squares, linprog
from torch import nn

Kink = tuple[int, int, int]  # (layer, sample, unit); the residuals count as the last layer
ACTIVE = 1e-9  # switching values of the instances are exact zeros or at least 1/64
DECIDED = 1e-6  # signs are asked for only where they are this far from zero


@dataclass(frozen=True)
class Instance:
    """One block of a network on data: everything fixed but layer `block`."""

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray | None, ...]
    slope: float
    inputs: np.ndarray
    targets: np.ndarray
    loss: str
    block: int
    decay: float = 0.0

    @property
    def theta(self) -> np.ndarray:
        """Return the block's weight, row-major, then its bias if it has one."""
        weight, bias = self.weights[self.block], self.biases[self.block]
        return weight.ravel() if bias is None else np.concatenate([weight.ravel(), bias])

    def at(self, theta: np.ndarray) -> Instance:
        """Return the same instance with the block's parameters replaced."""
        weight = self.weights[self.block]
        weights, biases = list(self.weights), list(self.biases)
        weights[self.block] = theta[: weight.size].reshape(weight.shape)
        if biases[self.block] is not None:
            biases[self.block] = theta[weight.size :]
        return replace(self, weights=tuple(weights), biases=tuple(biases))

    def module(self) -> nn.Sequential:
        """Return the network as the torch module the package is given."""
        return sequential(self.weights, self.biases, self.slope)


def sequential(
    weights: Sequence[np.ndarray], biases: Sequence[np.ndarray | None], slope: float = 0.0
) -> nn.Sequential:
    """Build Linear, rectifier, ..., Linear in float64 from arrays."""
    parts: list[nn.Module] = []
    for weight, bias in zip(weights, biases, strict=True):
        matrix = torch.as_tensor(np.array(weight), dtype=torch.float64)
        layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=bias is not None).double()
        with torch.no_grad():
            layer.weight.copy_(matrix)
            if bias is not None:
                layer.bias.copy_(torch.as_tensor(np.array(bias), dtype=torch.float64))
        parts += [layer, nn.LeakyReLU(slope) if slope else nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def switching(instance: Instance) -> list[np.ndarray]:
    """Return the pre-activations of every layer; the last entry is the output."""
    values, hidden = [], instance.inputs
    for weight, bias in zip(instance.weights, instance.biases, strict=True):
        value = hidden @ weight.T + (0.0 if bias is None else bias)
        values.append(value)
        hidden = np.where(value > 0, value, instance.slope * value)
    return values


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the row-wise softmax."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def loss_value(instance: Instance, theta: np.ndarray | None = None) -> float:
    """Return the true loss, with the decay of the block's own parameters."""
    here = instance if theta is None else instance.at(theta)
    output, count = switching(here)[-1], len(here.inputs)
    penalty = 0.5 * here.decay * float(here.theta @ here.theta)
    if here.loss == "cross_entropy":
        top = output.max(axis=1)
        total = top + np.log(np.exp(output - top[:, None]).sum(axis=1))
        return float((total - output[np.arange(count), here.targets]).mean()) + penalty
    residual = output - here.targets
    if here.loss == "l1":
        return float(np.abs(residual).sum()) / count + penalty
    scale = 1.0 if here.loss == "squared" else 0.5
    return scale * float((residual**2).sum()) / count + penalty


def output_gradient(instance: Instance, output: np.ndarray) -> np.ndarray:
    """Return d loss / d output; zero at residuals of the L1 loss that are zero."""
    count = len(instance.inputs)
    if instance.loss == "cross_entropy":
        return (softmax(output) - np.eye(output.shape[1])[instance.targets]) / count
    residual = output - instance.targets
    if instance.loss == "l1":
        return np.where(np.abs(residual) > ACTIVE, np.sign(residual), 0.0) / count
    return (2.0 if instance.loss == "squared" else 1.0) * residual / count


def directional(
    instance: Instance, direction: np.ndarray, values: list[np.ndarray] | None = None
) -> float:
    """Return the one-sided derivative f'(theta; direction) by propagating the tangent."""
    values, theta = values or switching(instance), instance.theta
    moved = instance.at(direction)
    hidden = instance.inputs
    for value in values[: instance.block]:
        hidden = np.where(value > 0, value, instance.slope * value)
    bias = moved.biases[instance.block]
    tangent = hidden @ moved.weights[instance.block].T + (0.0 if bias is None else bias)
    for layer in range(instance.block + 1, len(values)):
        value, slope = values[layer - 1], instance.slope
        at_zero = np.where(tangent > 0, tangent, slope * tangent)
        bent = np.where(value > 0, tangent, slope * tangent)
        bent = np.where(np.abs(value) <= ACTIVE, at_zero, bent)
        tangent = bent @ instance.weights[layer].T
    rate = float((output_gradient(instance, values[-1]) * tangent).sum())
    if instance.loss == "l1":
        zero = np.abs(values[-1] - instance.targets) <= ACTIVE
        rate += float(np.abs(tangent[zero]).sum()) / len(instance.inputs)
    return rate + instance.decay * float(theta @ direction)


def frozen_tangents(
    instance: Instance, sides: dict[Kink, int], values: list[np.ndarray] | None = None
) -> list[np.ndarray]:
    """Return d(pre-activation)/d(theta) per layer, (samples, units, params), pattern frozen.

    `values` are those of `switching`, for callers that ask about many patterns of one point.
    """
    values, weight = values or switching(instance), instance.weights[instance.block]
    hidden = instance.inputs
    for value in values[: instance.block]:
        hidden = np.where(value > 0, value, instance.slope * value)
    units, width = weight.shape
    first = np.zeros((len(hidden), units, instance.theta.size))
    for unit in range(units):
        first[:, unit, unit * width : (unit + 1) * width] = hidden
        if instance.biases[instance.block] is not None:
            first[:, unit, units * width + unit] = 1.0
    tangents: list[np.ndarray] = [np.zeros(0)] * instance.block + [first]
    for layer in range(instance.block + 1, len(values)):
        on = values[layer - 1] > 0
        for (where, sample, unit), side in sides.items():
            if where == layer - 1:
                on[sample, unit] = side > 0
        bent = np.where(on, 1.0, instance.slope)[:, :, None] * tangents[-1]
        tangents.append(np.einsum("uk,skp->sup", instance.weights[layer], bent))
    return tangents


def active_kinks(instance: Instance, at: list[np.ndarray] | None = None) -> list[Kink]:
    """Return the kinks that are zero here and are not constant in the block."""
    at = at or switching(instance)
    values = list(at)
    if instance.loss == "l1":
        values[-1] = values[-1] - instance.targets
    last = len(values) if instance.loss == "l1" else len(values) - 1
    zero = [
        (layer, int(sample), int(unit))
        for layer in range(instance.block, last)
        for sample, unit in np.argwhere(np.abs(values[layer]) <= ACTIVE)
    ]
    moving: set[Kink] = set()
    for sides in itertools.islice(patterns(zero), 64):
        tangents = frozen_tangents(instance, sides, at)
        moving |= {kink for kink in zero if np.abs(tangents[kink[0]][kink[1:]]).max() > 0}
    return [kink for kink in zero if kink in moving]


def patterns(kinks: Sequence[Kink]) -> Iterator[dict[Kink, int]]:
    """Yield every assignment of a side to every active kink."""
    for signs in itertools.product((1, -1), repeat=len(kinks)):
        yield dict(zip(kinks, signs, strict=True))


def frozen_gradient(
    instance: Instance, sides: dict[Kink, int], values: list[np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return (gradient, normals of the active kinks) of the adjacent cell with these sides."""
    values = values or switching(instance)
    tangents, last = frozen_tangents(instance, sides, values), len(instance.weights) - 1
    rates = output_gradient(instance, values[-1])
    for (layer, sample, unit), side in sides.items():
        if layer == last:
            rates[sample, unit] = side / len(instance.inputs)
    gradient = np.einsum("so,sop->p", rates, tangents[-1]) + instance.decay * instance.theta
    normals = [tangents[layer][sample, unit] for layer, sample, unit in sides]
    return gradient, np.array(normals).reshape(len(sides), instance.theta.size)


def frozen_hessian(instance: Instance, sides: dict[Kink, int]) -> np.ndarray:
    """Return the Hessian of the loss on one adjacent cell."""
    tangent = frozen_tangents(instance, sides)[-1]
    output, count = switching(instance)[-1], len(instance.inputs)
    if instance.loss == "l1":
        curvature = np.zeros((count, output.shape[1], output.shape[1]))
    elif instance.loss == "cross_entropy":
        share = softmax(output)
        curvature = np.einsum("so,oq->soq", share, np.eye(output.shape[1]))
        curvature = curvature - np.einsum("so,sq->soq", share, share)
    else:
        scale = 2.0 if instance.loss == "squared" else 1.0
        curvature = np.broadcast_to(scale * np.eye(output.shape[1]), (count, *output.shape[1:] * 2))
    hessian = np.einsum("sop,soq,sqr->pr", tangent, curvature, tangent) / count
    return hessian + instance.decay * np.eye(instance.theta.size)


def null_space(matrix: np.ndarray, size: int) -> np.ndarray:
    """Return an orthonormal basis (size, m) of the null space."""
    if matrix.size == 0:
        return np.eye(size)
    _, values, rows = np.linalg.svd(matrix)
    return rows[int((values > 1e-9 * values[0]).sum()) :].T if values[0] > 0 else np.eye(size)


@dataclass(frozen=True)
class Brute:
    """What exhaustive search says about a point."""

    kinks: tuple[Kink, ...]
    independent: bool  # the active normals are independent on every adjacent pattern
    worst: float  # the smallest one-sided derivative over the unit box
    across: float  # the smallest derivative at unit summed distance from the active kinks
    curvature: float  # the smallest Hessian eigenvalue along the active kinks
    rest: float  # size of the gradient outside the span of the active normals
    slopes: np.ndarray  # (kinks, 2): one-sided derivative along each bent edge, up and down
    decayed: bool = False  # weight decay makes the loss strictly convex on every cell

    @property
    def minimum(self) -> bool:
        """Whether no direction descends to first order (each cell is convex, so a minimum)."""
        return self.worst > -1e-9

    @property
    def strict(self) -> bool:
        """Whether the loss rises in every direction."""
        rising = self.across > DECIDED and self.curvature > DECIDED
        return self.minimum and (rising or self.decayed)

    @property
    def clear(self) -> bool:
        """Whether every sign the claim needs is far from rounding."""
        signs = np.concatenate([self.slopes.ravel(), [self.rest, self.curvature]])
        signs = signs[np.isfinite(signs)]
        return self.independent and bool(
            ((np.abs(signs) > DECIDED) | (np.abs(signs) < 1e-12)).all()
        )

    @property
    def zero_slope(self) -> bool:
        """Whether a bent edge is flat to first order."""
        return bool((np.abs(self.slopes) <= DECIDED).any())

    @property
    def claim(self) -> str:
        """The claim the definitions give, where the normals are independent."""
        up, down = self.slopes.T
        low, high = np.minimum(up, down), np.maximum(up, down)
        if self.rest > DECIDED or ((low < -DECIDED) & (high > DECIDED)).any():
            return "not_stationary"
        if (low < -DECIDED).any():
            return "saddle"
        return "strict_local_minimum" if self.strict else "local_minimum"


def brute_force(instance: Instance, *, programmes: bool = True) -> Brute:
    """Search all adjacent sign patterns of the instance's point."""
    values, size = switching(instance), instance.theta.size
    kinks = active_kinks(instance, values)
    worst, across = 0.0, np.inf
    cells = {
        tuple(sides.values()): frozen_gradient(instance, sides, values) for sides in patterns(kinks)
    }
    every = np.array([normals for _, normals in cells.values()])
    independent = not kinks or bool((np.linalg.matrix_rank(every, tol=1e-9) == len(kinks)).all())
    for sides, (gradient, normals) in cells.items():
        if programmes and worst > -DECIDED:  # one descent is enough
            rows = np.array(sides).reshape(-1, 1) * normals
            worst = min(worst, least(gradient, rows, size))
            if worst > -1e-9:
                across = min(across, least_across(gradient, rows))
    gradient, normals = cells[(1,) * len(kinks)]
    along = null_space(normals, size)
    hessian = along.T @ frozen_hessian(instance, dict.fromkeys(kinks, 1)) @ along
    return Brute(
        kinks=tuple(kinks),
        independent=independent,
        worst=worst,
        across=across,
        curvature=float(np.linalg.eigvalsh(hessian)[0]) if along.size else np.inf,
        rest=float(np.linalg.norm(along.T @ gradient)) if along.size else 0.0,
        slopes=edge_slopes(instance, cells, values) if independent else np.zeros((0, 2)),
        decayed=instance.decay > 0,
    )


def least(gradient: np.ndarray, rows: np.ndarray, size: int) -> float:
    """Minimise gradient . d over the cone {rows d >= 0} inside the unit box."""
    bounds = (-1.0, 1.0)
    limits = {"A_ub": -rows, "b_ub": np.zeros(len(rows))} if len(rows) else {}
    answer = linprog(gradient, bounds=[bounds] * size, method="highs", **limits)
    assert answer.status == 0, answer.message
    return float(answer.fun)


def least_across(gradient: np.ndarray, rows: np.ndarray) -> float:
    """Minimise gradient . d over the cone at unit summed distance from its facets."""
    if not len(rows):
        return np.inf
    answer = linprog(
        gradient,
        A_ub=-rows,
        b_ub=np.zeros(len(rows)),
        A_eq=rows.sum(axis=0)[None],
        b_eq=[1.0],
        bounds=(None, None),
        method="highs",
    )
    # 2: this cone has no interior and constrains nothing; 3 or 4: falls without bound
    return float(answer.fun) if answer.status == 0 else (np.inf if answer.status == 2 else -np.inf)


def edge_slopes(
    instance: Instance,
    cells: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]],
    values: list[np.ndarray],
) -> np.ndarray:
    """Return the one-sided derivatives along the 2k bent edges, measured on the true tangents."""
    slopes = np.zeros((len(next(iter(cells))), 2))
    for index, column in np.ndindex(slopes.shape):
        goal = np.zeros(len(slopes))
        goal[index] = side = 1 - 2 * column
        _, normals = cells[(*(1,) * index, side, *(1,) * (len(slopes) - index - 1))]
        edge = np.linalg.lstsq(normals, goal, rcond=None)[0]
        slopes[index, column] = directional(instance, edge, values)
    return slopes


def probe(instance: Instance, rng: np.random.Generator, count: int = 200) -> float:
    """Return the lowest change of the true loss over random steps, relative to the step."""
    start, theta, lowest = loss_value(instance), instance.theta, np.inf
    for radius in (1e-3, 1e-5):
        for direction in rng.standard_normal((count, theta.size)):
            step = radius * direction / np.linalg.norm(direction)
            lowest = min(lowest, (loss_value(instance, theta + step) - start) / radius)
    return lowest


# --- random instances ---------------------------------------------------------------------------


def dyadic(rng: np.random.Generator, shape: tuple[int, ...], limit: int = 4) -> np.ndarray:
    """Return nonzero multiples of 1/2, so that all products below stay exact in float64."""
    return rng.integers(1, limit + 1, shape) * rng.choice([-0.5, 0.5], shape)


@dataclass(frozen=True)
class Plan:
    """What a random instance should look like."""

    loss: str
    hidden: tuple[int, ...]
    block: int
    num_kinks: int
    bent: bool = False
    slope: float = 0.0
    features: int = 1
    outputs: int = 1
    samples: int = 8
    bias: bool = True  # of the block
    decay: float = 0.0


def random_instance(rng: np.random.Generator, plan: Plan, wish: str) -> Instance | None:
    """Draw an instance on `plan.num_kinks` kinks; `wish` is a claim, or "any" for no fitting.

    Returns None where the draw has other kinks, dependent normals or no fit of the wish.
    """
    instance = on_hidden_kinks(rng, plan)
    if instance is None:
        return None
    for _ in range(12):
        fitted = fit(rng, instance, plan, wish)
        if fitted is None:
            return None
        answer = brute_force(fitted, programmes=False)
        expected_hidden = sum(layer < len(plan.hidden) for layer, _, _ in answer.kinks)
        if not answer.clear or expected_hidden != plan.num_kinks:
            continue
        answer = replace(answer, across=float(answer.slopes.min(initial=np.inf)))
        if wish in ("any", answer.claim):
            return fitted
    return None


def on_hidden_kinks(rng: np.random.Generator, plan: Plan) -> Instance | None:
    """Draw a network and move biases so that chosen switching values are exact zeros."""
    widths = [plan.features, *plan.hidden, plan.outputs]
    weights = tuple(dyadic(rng, (b, a), 3) for a, b in itertools.pairwise(widths))
    biases = tuple(dyadic(rng, (b,)) for b in widths[1:])
    if not plan.bias:
        biases = tuple(None if k == plan.block else b for k, b in enumerate(biases))
    grid = np.concatenate([np.arange(-9, 0), np.arange(1, 10)]) / 2.0
    inputs = np.stack([rng.permutation(grid)[: plan.samples] for _ in range(plan.features)], axis=1)
    targets = np.zeros((plan.samples, plan.outputs))
    instance = Instance(
        weights, biases, plan.slope, inputs, targets, plan.loss, plan.block, plan.decay
    )
    for layer, sample, unit in choose_kinks(rng, plan):
        bias = instance.biases[layer]
        assert bias is not None
        bias[unit] -= switching(instance)[layer][sample, unit]
    hidden = switching(instance)[plan.block : -1]
    zeros = sum(int((np.abs(value) < 1 / 64).sum()) for value in hidden)
    return instance if zeros == plan.num_kinks else None


def choose_kinks(rng: np.random.Generator, plan: Plan) -> list[Kink]:
    """Choose distinct units downstream of the block, in layer order, and a sample for each."""
    first = plan.block if plan.bias else plan.block + 1  # a kink is placed by its layer's bias
    units = [(k, u) for k in range(first, len(plan.hidden)) for u in range(plan.hidden[k])]
    chosen = sorted(units[k] for k in rng.permutation(len(units))[: plan.num_kinks])
    samples = rng.permutation(plan.samples)[: plan.num_kinks]
    if plan.bent:
        chosen = [(k, int(rng.integers(plan.hidden[k]))) for k in (first, first + 1)]
        chosen += [unit for unit in units if unit not in chosen][: plan.num_kinks - 2]
        samples[1] = samples[0]
        pairs = sorted(zip(chosen, samples, strict=True))
        return [(layer, int(sample), unit) for (layer, unit), sample in pairs]
    return [(layer, int(s), unit) for (layer, unit), s in zip(chosen, samples, strict=True)]


def fit(rng: np.random.Generator, instance: Instance, plan: Plan, wish: str) -> Instance | None:
    """Choose the targets, or for cross-entropy the output layer, so that rest = 0."""
    if plan.loss == "cross_entropy":
        targets = rng.integers(0, plan.outputs, plan.samples)
        labelled = replace(instance, targets=targets)
        return labelled if wish == "any" else fit_output(rng, labelled)
    output = switching(instance)[-1]
    if plan.loss == "l1":
        return fit_vertex(rng, instance, output)
    kinks = active_kinks(instance)
    sides = dict.fromkeys(kinks, 1)
    _, normals = frozen_gradient(instance, sides)
    along = null_space(normals, instance.theta.size)
    tangent = frozen_tangents(instance, sides)[-1].reshape(-1, instance.theta.size)
    if wish == "any":
        return replace(instance, targets=output + dyadic(rng, output.shape))
    scale = (2.0 if plan.loss == "squared" else 1.0) / plan.samples
    pull = -plan.decay * along.T @ instance.theta / scale
    balance = (tangent @ along).T
    particular = np.linalg.lstsq(balance, pull, rcond=None)[0]
    if np.abs(balance @ particular - pull).max(initial=0.0) > 1e-12:
        return None
    free = null_space(balance, output.size)
    # the slope jump of a kink grows with its sample's residual: vary how much these weigh
    loud = np.ones(output.shape)
    loud[[sample for _, sample, _ in kinks]] = rng.choice([1.0, 10.0])
    drawn = loud.ravel() * rng.standard_normal(output.size)
    residual = particular + free @ (free.T @ drawn)
    return replace(instance, targets=output - residual.reshape(output.shape))


def fit_vertex(rng: np.random.Generator, instance: Instance, output: np.ndarray) -> Instance:
    """Set as many residuals to zero as make the point a vertex; the rest get random signs."""
    targets = output + dyadic(rng, output.shape)
    missing = instance.theta.size - len(active_kinks(replace(instance, targets=targets)))
    for index in rng.permutation(output.size)[:missing]:
        targets.flat[index] = output.flat[index]
    return replace(instance, targets=targets)


def fit_output(rng: np.random.Generator, instance: Instance) -> Instance | None:
    """Solve for output weights that put the gradient in the span of the active normals."""
    last = len(instance.weights) - 1
    shape = instance.weights[last].shape

    def with_output(vector: np.ndarray) -> Instance:
        weight = vector[: shape[0] * shape[1]].reshape(shape)
        return replace(
            instance,
            weights=(*instance.weights[:last], weight),
            biases=(*instance.biases[:last], vector[weight.size :]),
        )

    sides = dict.fromkeys(active_kinks(instance), 1)
    _, normals = frozen_gradient(instance, sides)
    along = null_space(normals, instance.theta.size)

    def rest(vector: np.ndarray) -> np.ndarray:
        return along.T @ frozen_gradient(with_output(vector), sides)[0]

    start = rng.standard_normal(shape[0] * shape[1] + shape[0])
    answer = least_squares(rest, start, xtol=3e-16, ftol=3e-16, gtol=3e-16)
    small = np.abs(answer.fun).max(initial=0.0) < 1e-13
    vector = answer.x
    if not small or np.abs(vector).max() > 20 or np.abs(vector[: shape[0] * shape[1]]).min() < 0.05:
        return None
    return with_output(vector)


PLANS = (
    Plan("squared", (2,), 0, 1),
    Plan("squared", (2, 2), 0, 2, bent=True),
    Plan("squared", (2, 2), 0, 3, bent=True),
    Plan("squared", (2, 2, 2), 1, 2, bent=True, samples=10),
    Plan("squared", (2, 2, 2), 0, 2, bent=True, features=2, samples=12, outputs=2),
    Plan("half_squared", (3, 2), 0, 2, bent=True, slope=0.25, samples=10),
    Plan("half_squared", (2, 3, 2), 0, 2, bent=True, bias=False),
    Plan("squared", (2, 2), 0, 2, bent=True, decay=0.5),
    Plan("l1", (2,), 0, 1),
    Plan("l1", (2, 2), 0, 2, bent=True),
    Plan("l1", (2, 2), 0, 3, bent=True),
    Plan("l1", (3, 2, 2), 0, 2, bias=False, bent=True),
    Plan("l1", (2, 2), 0, 1, bias=False),
    Plan("l1", (2, 2), 1, 1, slope=0.5),
    Plan("cross_entropy", (2, 2), 0, 2, bent=True, outputs=2),
    Plan("cross_entropy", (3,), 0, 1, outputs=3),
    Plan("cross_entropy", (2, 3), 0, 2, bent=True, outputs=2, decay=0.0625),
)
