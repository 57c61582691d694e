"""Random blocks with all that can go wrong in them, and what plain NumPy says of their descents.

The judge shares nothing with the package: losses come from a forward pass, slopes from tangents pushed
through the layers, minima from a linear programme on every adjacent pattern where these are few, and
strictness from the vertex solved in fractions.

    python tests/fuzz.py --count 600 --json table.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
from oracles import Instance, frozen_gradient, frozen_tangents, least, patterns, switching

import reluscape as rs
from reluscape.descent import Status

#: Claims of a minimum.
MINIMA = ("strict_local_minimum", "local_minimum", "plateau")
#: Slopes per unit length that are no rounding errors, relative to the loss's size.
SLOPE = 1e-8
#: Switching values within this share of their size are zero.
ACTIVE = 1e-10
#: Largest numbers of active kinks and parameters for all patterns, and for fractions.
ALL_PATTERNS, ALL_PARAMS, FRACTIONS = 7, 16, 14
#: Active kinks whose edges are looked along.
EDGES = 30

Maker = Callable[[np.random.Generator, int, int], np.ndarray]


def beside(rng: np.random.Generator, samples: int, inputs: int, last: float) -> np.ndarray:
    """Normal columns and a constant one."""
    return np.hstack([rng.normal(size=(samples, inputs - 1)), np.full((samples, 1), last)])


def twice(rng: np.random.Generator, samples: int, inputs: int) -> np.ndarray:
    """Every sample twice."""
    return np.repeat(rng.normal(size=(-(-samples // 2), inputs)), 2, axis=0)[:samples]


def rare(rng: np.random.Generator, samples: int, inputs: int) -> np.ndarray:
    """Grey levels as in the corners of images: the columns but the first are seldom not zero."""
    levels = rng.integers(1, 17, (samples, inputs)) / 16
    levels[:, 1:] *= rng.random((samples, inputs - 1)) < 1.5 / samples
    return levels


DATA: dict[str, Maker] = {
    "normal": lambda rng, n, d: rng.normal(size=(n, d)),
    "uniform": lambda rng, n, d: rng.uniform(-3, 3, (n, d)),
    "integers": lambda rng, n, d: rng.integers(-2, 3, (n, d)).astype(float),
    "constant column": lambda rng, n, d: beside(rng, n, d, 1.5),
    "zero column": lambda rng, n, d: beside(rng, n, d, 0.0),
    "duplicate columns": lambda rng, n, d: np.repeat(rng.normal(size=(n, 1)), d, axis=1),
    "duplicate samples": twice,
    "rare pixels": rare,
    "scales": lambda rng, n, d: rng.normal(size=(n, d)) * 10.0 ** rng.integers(-3, 4, d),
}
CHANGES = (
    "none", "none", "none", "zero unit", "dead unit", "all dead", "zero output", "twin units",
    "zero block",
)  # fmt: skip
STARTS = ("own", "own", "own", "at a kink", "a result")
RULES = ("long_step", "first_kink")


@dataclass(frozen=True)
class Case:
    """A block to descend.

    Attributes:
        seed: All there is to it.
        instance: Network, data and layer.
        start: Where the descent starts.
        rule: Its rule.
        told: What is special, in words.
    """

    seed: int
    instance: Instance
    start: np.ndarray
    rule: str
    told: str

    def block(self) -> rs.Block:
        """The block as the package takes it."""
        return block_of(self.instance)


def block_of(instance: Instance) -> rs.Block:
    """The instance's layer in the package."""
    landscape = rs.Landscape(instance.module(), instance.inputs, instance.targets, loss="l1")
    return landscape.block(instance.block)


@dataclass(frozen=True)
class Draw:
    """What a seed chooses, before anything runs.

    Attributes:
        instance: Network, data and layer.
        names: Kind of data, change, start and rule.
        rng: For what is still to be drawn.
    """

    instance: Instance
    names: dict[str, str]
    rng: np.random.Generator

    @property
    def told(self) -> str:
        """In words."""
        made, names = self.instance, self.names
        widths = [made.inputs.shape[1], *(len(weight) for weight in made.weights)]
        return (
            f"{'-'.join(map(str, widths))} layer {made.block}, {len(made.inputs)} samples,"
            f" {names['data']}, {names['change']}, slope {made.slope:g},"
            f" {'no ' if made.biases[0] is None else ''}bias, from {names['start']}, {names['rule']}"
        )


def draw(seed: int) -> Draw:
    """The choices of a seed."""
    rng = np.random.default_rng(seed)
    depth = int(rng.integers(0, 6))
    widths = [int(width) for width in rng.integers(1, 6, depth + 2)]
    widths[-1] = int(rng.choice([1, 1, 2, 3]))
    samples = int(rng.choice([1, 3, 8, 20, 40, 60]))
    data = str(rng.choice(list(DATA)))
    inputs = DATA[data](rng, samples, widths[0])
    targets = rng.normal(size=(samples, widths[-1]))
    if data in ("integers", "rare pixels"):
        targets = np.round(targets)
    weights = [rng.normal(size=(b, a)) * (2 / a) ** 0.5 for a, b in pairwise(widths)]
    bias = rng.random() > 0.2
    biases = [0.5 * rng.normal(size=width) if bias else None for width in widths[1:]]
    layer = int(rng.integers(0, depth + 1))
    change = str(rng.choice(CHANGES))
    _change(change, weights, biases, layer)
    slope = float(rng.choice([0.0, 0.0, 0.0, 0.1]))
    instance = Instance(tuple(weights), tuple(biases), slope, inputs, targets, "l1", layer)
    start, rule = str(rng.choice(STARTS)), str(rng.choice(RULES))
    return Draw(instance, {"data": data, "change": change, "start": start, "rule": rule}, rng)


def case(seed: int) -> Case:
    """The case of a seed."""
    drawn = draw(seed)
    start = _start(drawn.names["start"], drawn.instance, drawn.rng)
    return Case(seed, drawn.instance, start, drawn.names["rule"], drawn.told)


def _change(
    change: str, weights: list[np.ndarray], biases: list[np.ndarray | None], layer: int
) -> None:
    """Make a network degenerate, in place."""
    weight, bias = weights[layer], biases[layer]
    if change in ("zero unit", "zero block"):
        units = slice(0, 1) if change == "zero unit" else slice(None)
        weight[units] = 0.0
        if bias is not None:
            bias[units] = 0.0
    elif change in ("dead unit", "all dead") and bias is not None:
        bias[: 1 if change == "dead unit" else None] = -1e3
    elif change == "zero output":
        weights[-1][:] = 0.0
    elif change == "twin units" and len(weight) > 1:
        weight[1] = weight[0]
        if bias is not None:
            bias[1] = bias[0]


def _start(start: str, instance: Instance, rng: np.random.Generator) -> np.ndarray:
    """Where to start."""
    theta = instance.theta.copy()
    if start == "a result":
        return rs.descend(block_of(instance), max_pivots=int(rng.integers(1, 40))).theta
    if start == "at a kink":
        weight, bias = instance.weights[instance.block], instance.biases[instance.block]
        row = before(instance)[int(rng.integers(len(instance.inputs)))]
        if bias is not None:
            theta[weight.size] = -float(weight[0] @ row)
        elif row.any():
            theta[: len(row)] -= float(weight[0] @ row) / float(row @ row) * row
    return theta


# ---- plain NumPy ----------------------------------------------------------------------------------


def before(instance: Instance) -> np.ndarray:
    """Inputs of the instance's layer."""
    hidden = instance.inputs
    for weight, bias in zip(
        instance.weights[: instance.block], instance.biases[: instance.block], strict=True
    ):
        value = hidden @ weight.T + (0.0 if bias is None else bias)
        hidden = np.where(value > 0, value, instance.slope * value)
    return hidden


def first(instance: Instance, hidden: np.ndarray, thetas: np.ndarray) -> np.ndarray:
    """The layer's values (points, samples, units) at flat points, or their rates along directions."""
    units, inputs = instance.weights[instance.block].shape
    weight = thetas[:, : units * inputs].reshape(-1, units, inputs)
    found = np.einsum("ni,bui->bnu", hidden, weight)
    if instance.biases[instance.block] is not None:
        found = found + thetas[:, None, units * inputs :]
    return found


def losses(instance: Instance, thetas: np.ndarray) -> np.ndarray:
    """The loss at many points (points, params)."""
    value = first(instance, before(instance), thetas)
    for weight, bias in zip(
        instance.weights[instance.block + 1 :], instance.biases[instance.block + 1 :], strict=True
    ):
        hidden = np.where(value > 0, value, instance.slope * value)
        value = hidden @ weight.T + (0.0 if bias is None else bias)
    return np.abs(value - instance.targets).sum(axis=(1, 2)) / len(instance.inputs)


def zeros(instance: Instance) -> list[np.ndarray]:
    """Which switching values are zero, level by level from the layer on, the residuals last."""
    values = switching(instance)[instance.block :]
    values[-1] = values[-1] - instance.targets
    size = 1.0 + max(float(np.abs(value).max()) for value in values)
    return [np.abs(value) <= ACTIVE * size for value in values]


def slopes(instance: Instance, directions: np.ndarray) -> np.ndarray:
    """One-sided derivatives of the loss along directions (directions, params)."""
    values, zero = switching(instance)[instance.block :], zeros(instance)
    rate = first(instance, before(instance), directions)
    for value, null, weight in zip(
        values, zero, instance.weights[instance.block + 1 :], strict=False
    ):
        on = np.where(null, rate > 0, value > 0)
        rate = np.where(on, rate, instance.slope * rate) @ weight.T
    side = np.where(zero[-1], np.sign(rate), np.sign(values[-1] - instance.targets))
    return (side * rate).sum(axis=(1, 2)) / len(instance.inputs)


def active(instance: Instance) -> list[tuple[int, int, int]]:
    """Kinks at zero as (layer, sample, unit), those that are constant in the block left out."""
    zero = [
        (instance.block + level, int(sample), int(unit))
        for level, null in enumerate(zeros(instance))
        for sample, unit in np.argwhere(null)
    ]
    if not zero:
        return []
    up = frozen_tangents(instance, dict.fromkeys(zero, 1))
    down = frozen_tangents(instance, dict.fromkeys(zero, -1))
    return [k for k in zero if up[k[0]][k[1:]].any() or down[k[0]][k[1:]].any()]


def directions(instance: Instance, count: int, rng: np.random.Generator) -> np.ndarray:
    """Dense and sparse random directions, axes, and edges into both sides of every active kink."""
    size = instance.theta.size
    dense = rng.normal(size=(count, size))
    sparse = dense * (rng.random((count, size)) < 2.0 / size)
    rows = [dense[: count // 2], sparse[count // 2 :], np.eye(size), -np.eye(size)]
    kinks = active(instance)
    chosen = rng.permutation(len(kinks) if len(kinks) <= 3 * size else 0)[:EDGES]
    for k in chosen.tolist():
        for side in (1, -1):
            sides = dict.fromkeys(kinks, -1) | {kinks[k]: side}
            normals = frozen_gradient(instance, sides)[1]
            target = np.zeros(len(kinks))
            target[k] = side
            rows.append(np.linalg.lstsq(normals, target, rcond=1e-10)[0][None])
    found = np.vstack(rows)
    lengths = np.linalg.norm(found, axis=1)
    return found[lengths > 0] / lengths[lengths > 0, None]


# ---- the judge ------------------------------------------------------------------------------------


def judge(case: Case, descent: rs.Descent, *, probes: int = 10_000) -> list[str]:
    """What is wrong with a descent, in words; nothing if it is as it claims."""
    instance = case.instance
    end = instance.at(descent.theta)
    found = _path_faults(instance, case.start, descent)
    if descent.status not in set(Status):
        found.append(f"no such status: {descent.status}")
    here = float(losses(instance, descent.theta[None])[0])
    size = 1.0 + float(losses(instance, case.start[None])[0])
    if descent.status == "perfect_fit" and here > 1e-10 * size:
        found.append(f"a perfect fit of loss {here}")
    if descent.certificate.claim not in MINIMA:
        return found
    rng = np.random.default_rng(case.seed)
    steepest = np.inf
    for rows in np.array_split(directions(end, probes, rng), 10):
        steepest = min(steepest, float(slopes(end, rows).min(initial=0.0)))
        for radius in (1e-7, 1e-5, 1e-3):
            lower = losses(instance, descent.theta + radius * rows) < here - 1e-11 * size
            if lower.any() and slopes(end, rows[lower]).min() < -SLOPE * size:
                found.append(f"{descent.certificate.claim}, but lower at a distance of {radius:g}")
    if steepest < -SLOPE * size:
        found.append(f"{descent.certificate.claim}, but a slope of {steepest:.3g}")
    if descent.certificate.claim == "plateau" and not active(end):  # rationals see no kink nearby
        around = slopes(end, directions(end, 100, rng))
        if np.abs(around).max(initial=0.0) > SLOPE * size:
            found.append(f"a plateau, but a slope of {np.abs(around).max():.3g}")
    return found + _pattern_faults(end, descent.certificate.claim, size)


def _path_faults(instance: Instance, start: np.ndarray, descent: rs.Descent) -> list[str]:
    """Rises of the loss: as told, at the points of the path, and between them."""
    found, points = [], descent.vertices
    told = losses(instance, np.vstack([start, descent.theta]))
    size = 1.0 + told[0]
    if (np.diff(descent.losses) > 0).any():
        found.append("the losses rise")
    if abs(told[0] - descent.losses[0]) > 1e-9 * size or abs(told[1] - descent.loss) > 1e-9 * size:
        found.append("the losses are not those of the forward pass")
    if told[1] > told[0] + 1e-12 * size:
        found.append("the end is above the start")
    if len(points) > 1 and descent.stride == 1:
        along, least = points[:-1], losses(instance, points[:-1])
        rise = 0.0
        for share in np.linspace(0.0625, 1.0, 16):
            here = losses(instance, along + share * np.diff(points, axis=0))
            rise = max(rise, float((here - least).max()))
            least = np.minimum(least, here)
        if rise > 3e-9 * size:
            found.append(f"the loss rises by {rise:.3g} on the way")
    return found


def _pattern_faults(end: Instance, claim: str, size: float) -> list[str]:
    """What a programme on every adjacent pattern, and fractions, say against a minimum."""
    kinks, found = active(end), []
    if len(kinks) <= ALL_PATTERNS and end.theta.size <= ALL_PARAMS:
        for sides in patterns(kinks):
            gradient, normals = frozen_gradient(end, sides)
            rows = np.array(list(sides.values())).reshape(-1, 1) * normals
            fall = least(gradient, rows, end.theta.size)
            if fall < -SLOPE * size:
                found.append(f"{claim}, but a programme falls by {fall:.3g}")
                break
    if len(kinks) == end.theta.size <= FRACTIONS:
        exact = exact_slopes(end, kinks)
        if exact is not None and min(exact) < 0:
            found.append(f"{claim}, but in fractions a slope of {float(min(exact)):.3g}")
        if exact is not None and min(exact) == 0 and claim == "strict_local_minimum":
            found.append("strict, but in fractions a slope is zero")
    return found


# ---- fractions ------------------------------------------------------------------------------------


def _fractions(values: np.ndarray) -> np.ndarray:
    """Floats as fractions."""
    found = np.empty(values.shape, dtype=object)
    found.ravel()[:] = [Fraction(float(value)) for value in values.ravel()]
    return found


def _solved(matrix: np.ndarray, sides: np.ndarray) -> np.ndarray | None:
    """Solution of square equations in fractions, or None if they are dependent."""
    rows = np.hstack([matrix, sides])
    size = len(matrix)
    for column in range(size):
        pivot = next((r for r in range(column, size) if rows[r, column] != 0), None)
        if pivot is None:
            return None
        rows[[column, pivot]] = rows[[pivot, column]]
        rows[column] = rows[column] / rows[column, column]
        for r in range(size):
            if r != column and rows[r, column] != 0:
                rows[r] = rows[r] - rows[r, column] * rows[column]
    return rows[:, size:]


@dataclass
class _Exact:
    """The block in fractions, near a vertex."""

    instance: Instance
    kinks: list[tuple[int, int, int]]

    def __post_init__(self) -> None:
        end = self.instance
        self.weights = [_fractions(weight) for weight in end.weights]
        self.biases = [None if bias is None else _fractions(bias) for bias in end.biases]
        hidden = _fractions(end.inputs)
        for layer in range(end.block):
            hidden = self.bent(self.affine(layer, hidden))
        self.hidden, self.slope = hidden, Fraction(end.slope)
        self.targets = _fractions(end.targets)

    def affine(self, layer: int, hidden: np.ndarray) -> np.ndarray:
        """A layer's values."""
        value = hidden.dot(self.weights[layer].T)
        return value if self.biases[layer] is None else value + self.biases[layer]

    def bent(self, value: np.ndarray) -> np.ndarray:
        """The rectifier."""
        slope = Fraction(self.instance.slope)
        return np.where(value > 0, value, slope * value)

    def first(self, theta: np.ndarray) -> np.ndarray:
        """The layer's values at a point, or their rates along a direction."""
        units, inputs = self.weights[self.instance.block].shape
        value = self.hidden.dot(theta[: units * inputs].reshape(units, inputs).T)
        return (
            value
            if self.biases[self.instance.block] is None
            else value + theta[None, units * inputs :]
        )

    def values(self, theta: np.ndarray) -> list[np.ndarray]:
        """Switching values at a point, the residuals last."""
        found = [self.first(theta)]
        for layer in range(self.instance.block + 1, len(self.weights)):
            found.append(self.affine(layer, self.bent(found[-1])))
        found[-1] = found[-1] - self.targets
        return found

    def rates(
        self, direction: np.ndarray, on: Callable[[int, np.ndarray], np.ndarray]
    ) -> list[np.ndarray]:
        """Rates along a direction, `on` telling the pattern of a level from its rates."""
        found = [self.first(direction)]
        for layer in range(self.instance.block + 1, len(self.weights)):
            rate = found[-1]
            bent = np.where(on(layer - 1, rate), rate, self.slope * rate)
            found.append(bent.dot(self.weights[layer].T))
        return found


def exact_slopes(
    end: Instance, kinks: list[tuple[int, int, int]]
) -> list[Fraction] | None:  # one per kink and side
    """Slopes of the 2p bent edges at the exact vertex of p active kinks; None where it is none."""
    exact, size, block = _Exact(end, kinks), end.theta.size, end.block
    theta, units = _fractions(end.theta), np.eye(end.theta.size, dtype=object) * Fraction(1)
    start = exact.values(theta)
    bits = [value > 0 for value in start]

    def normals(side: dict[tuple[int, int, int], int]) -> np.ndarray:
        for (layer, sample, unit), up in side.items():
            bits[layer - block][sample, unit] = up > 0
        columns = [exact.rates(unit, lambda layer, _: bits[layer - block]) for unit in units]
        return np.array([[column[m - block][i, j] for column in columns] for m, i, j in kinks])

    low = dict.fromkeys(kinks, -1)
    off = np.array([[start[m - block][i, j]] for m, i, j in kinks])
    step = _solved(normals(low), off)
    if step is None:
        return None
    theta = theta - step[:, 0]
    values = exact.values(theta)
    listed = [np.zeros(value.shape, dtype=bool) for value in values]
    for m, i, j in kinks:
        listed[m - block][i, j] = True
    if any((value[null] != 0).any() for value, null in zip(values, listed, strict=True)):
        return None  # beyond one linear step: another vertex
    if any((value[~null] == 0).any() for value, null in zip(values, listed, strict=True)):
        return None  # more kinks meet than were seen
    found = []
    for k in range(size):
        for side in (1, -1):
            target = np.full((size, 1), Fraction(0))
            target[k] = Fraction(side)
            edge = _solved(normals(low | {kinks[k]: side}), target)
            if edge is None:
                return None
            rate = exact.rates(
                edge[:, 0],
                lambda layer, rate: np.where(
                    listed[layer - block], rate > 0, values[layer - block] > 0
                ),
            )[-1]
            signs = np.where(listed[-1], np.abs(rate), np.where(values[-1] > 0, rate, -rate))
            found.append(signs.sum())
    return found


# ---- many of them ---------------------------------------------------------------------------------


def run(seed: int, *, probes: int = 10_000, rational: bool = False) -> tuple[str, str, list[str]]:
    """One case: (status, its description, what is wrong)."""
    made = case(seed)
    block = made.block()
    descent = rs.descend(block, made.start, rule=made.rule)
    wrong = judge(made, descent, probes=probes)
    checked = rs.verify(descent.certificate, block.landscape)
    if not checked.valid:
        wrong.append(f"verify: {checked.reason}")
    independent = descent.certificate.cells.size == 0
    if rational and descent.certificate.claim in MINIMA and independent and block.size <= 60:
        exact = rs.certify(block, descent.theta, arithmetic="rational")
        strict = descent.certificate.claim == "strict_local_minimum"
        if exact.claim not in (*MINIMA, "undecided") or (strict and exact.claim == "local_minimum"):
            wrong.append(f"{descent.certificate.claim}, but {exact.claim} in rationals")
    why = f" ({descent.certificate.reason})" if descent.status in UNSURE else ""
    return descent.status, made.told + why, wrong


UNSURE = ("undecided", "stalled", "saddle", "max_pivots")


def main() -> None:
    """Print the statuses, the unsure ends and every wrong claim."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--rational", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    table: Counter[str] = Counter()
    rows = []
    for seed in range(options.first, options.first + options.count):
        start = time.perf_counter()
        try:
            status, told, wrong = run(seed, rational=options.rational)
        except Exception as error:  # a crash is a finding
            status, told, wrong = "crash", case(seed).told, [repr(error)]
        table[status] += 1
        rows.append({"seed": seed, "status": status, "told": told, "wrong": wrong})
        slow = time.perf_counter() - start
        if wrong or status in (*UNSURE, "crash") or slow > 20:
            print(f"{seed} {status} {slow:.1f} s: {told} {wrong or ''}", flush=True)
    print(dict(table))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
