"""The published scheme of vertex descent, as the baseline of `descent.py`; nothing else uses it.

Hinz's Deep ReLU Simplex, decision for decision as its author's program takes them (Deep ReLU
Programming, arXiv 2011.14895):

- First vertex: from the start along minus the gradient, projected on the active kinks met so far, from
  kink to kink of the starting cell.
- At a vertex: flip the active kinks one after the other, in the order in which they became active.
  After every flip, compute all active normals, their p x p inverse and the gradient afresh, and leave
  along the axis of steepest descent if one falls, to the first kink. The flips add up. When all p
  are flipped and no axis falls, the vertex is a local minimum.
- Positions are checked after every flip: an active kink off zero by 1e-3 ends the run.

What is quicker here than in that program: samples in one batch of small dense products, where it
multiplies block-diagonal matrices of all samples; and one inverse, where it multiplies `inv(A'A) A'`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Kink = tuple[int, int, int]

#: Steps shorter than this are counted as zero, and so many in a row as endless.
ZERO, ENDLESS = 1e-13, 500
#: An active kink this far from zero ends the run, as in the published program.
DIVERGED = 1e-3
#: Steps back of up to this are taken, as in the published program: rounding.
BEHIND = -0.1
#: A direction shorter than this is none, as in the published program.
NO_DIRECTION = 1e-8

OUTCOMES = (
    "minimum", "singular matrix", "dependent kinks", "diverged", "zero-length steps", "no kink ahead",
    "plateau", "> cap",
)  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """First layer of a network of Linear and ReLU layers, mean absolute error.

    Attributes:
        inputs: With a column of ones, shape (N, inputs + 1).
        targets: Shape (N, outputs).
        weights: Of the layers behind the first.
        biases: Theirs.
    """

    inputs: Floats
    targets: Floats
    weights: Sequence[Floats]
    biases: Sequence[Floats]

    def hidden(self, rows: Floats) -> Floats:
        """First-layer values, or their rates, of weights and biases unit by unit."""
        return self.inputs @ rows.reshape(-1, self.inputs.shape[1]).T

    def values(self, theta: Floats, bits: Sequence[Bools]) -> list[Floats]:
        """Switching values, level by level, the pattern frozen."""
        found = [self.hidden(theta)]
        for weight, bias, bit in zip(self.weights, self.biases, bits, strict=False):
            found.append((found[-1] * bit) @ weight.T + bias)
        found[-1] -= self.targets
        return found

    def rates(self, direction: Floats, bits: Sequence[Bools]) -> list[Floats]:
        """Their rates along a direction."""
        found = [self.hidden(direction)]
        for weight, bit in zip(self.weights, bits, strict=False):
            found.append((found[-1] * bit) @ weight.T)
        return found

    def pattern(self, theta: Floats) -> list[Bools]:
        """Signs of the switching values."""
        value, bits = self.hidden(theta), []
        for weight, bias in zip(self.weights, self.biases, strict=True):
            bits.append(value > 0)
            value = np.maximum(value, 0.0) @ weight.T + bias
        return [*bits, value - self.targets > 0]

    def loss(self, theta: Floats) -> float:
        """Mean absolute error."""
        value = self.hidden(theta)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            value = np.maximum(value, 0.0) @ weight.T + bias
        return float(np.abs(value - self.targets).sum() / len(self.inputs))

    def gradient(self, bits: Sequence[Bools]) -> Floats:
        """Of the loss in the cell, flat."""
        pull = np.where(bits[-1], 1.0, -1.0) / len(self.inputs)
        for weight, bit in zip(reversed(self.weights), reversed(bits[:-1]), strict=True):
            pull = (pull @ weight) * bit
        return np.asarray((pull.T @ self.inputs).ravel())

    def normals(self, kinks: Sequence[Kink], bits: Sequence[Bools]) -> Floats:
        """Normals of kinks (level, sample, unit), towards the cell, shape (k, p)."""
        table = np.array(kinks).reshape(-1, 3)
        size = bits[0].shape[1] * self.inputs.shape[1]
        found = np.empty((len(table), size))
        for level in np.unique(table[:, 0]):
            here = np.flatnonzero(table[:, 0] == level)
            samples, units = table[here, 1], table[here, 2]
            pull = np.zeros((len(here), bits[level].shape[1]))
            pull[np.arange(len(here)), units] = np.where(bits[level][samples, units], 1.0, -1.0)
            for below in range(level - 1, -1, -1):
                pull = (pull @ self.weights[below]) * bits[below][samples]
            found[here] = (pull[:, :, None] * self.inputs[samples][:, None, :]).reshape(-1, size)
        return found


@dataclass
class Run:
    """A run of the scheme.

    Attributes:
        problem: The problem.
        theta: Where it is, flat.
        cap: Seconds after which it is stopped.
        bits: The cell's pattern.
        kinks: Active kinks (level, sample, unit), in the order in which they became active.
        outcome: How it ended, one of `OUTCOMES`.
        flips: Flips, each with its inverse.
        path: Points, the start's first.
        seconds: When they were reached.
        total: Time to the end.
    """

    problem: Problem
    theta: Floats
    cap: float
    bits: list[Bools] = field(init=False)
    kinks: list[Kink] = field(default_factory=list)
    outcome: str = ""
    flips: int = 0
    path: list[Floats] = field(init=False)
    seconds: list[float] = field(default_factory=lambda: [0.0])
    total: float = 0.0
    start: float = field(default_factory=time.perf_counter)
    idle: int = 0

    def __post_init__(self) -> None:
        self.bits = self.problem.pattern(self.theta)
        self.path = [self.theta]

    @property
    def pivots(self) -> int:
        """Number of steps."""
        return len(self.path) - 1

    @property
    def losses(self) -> Floats:
        """Loss at the start and after every step."""
        return np.array([self.problem.loss(point) for point in self.path])

    def first_vertex(self) -> str:
        """Go to the first vertex; return why not, or ""."""
        direction = -self.problem.gradient(self.bits)
        axes = np.empty((0, self.theta.size))
        while len(self.kinks) < self.theta.size:
            if np.linalg.norm(direction) < NO_DIRECTION:
                return "dependent kinks" if self.kinks else "plateau"
            if ended := self.step(direction):
                return ended
            normals = self.problem.normals(self.kinks, self.bits)
            axes = added(axes, normals[-1], normals[:-1] @ normals[-1])
            direction = direction - axes.T @ (normals @ direction)
        return ""

    def vertices(self) -> str:
        """Go from vertex to vertex until none is lower; return how it ended."""
        place = 0
        while place < self.theta.size:
            level, sample, unit = self.kinks[place]
            self.bits[level][sample, unit] = not self.bits[level][sample, unit]
            self.flips += 1
            axes = np.linalg.inv(self.problem.normals(self.kinks, self.bits)).T
            gradient = self.problem.gradient(self.bits)
            values = self.problem.values(self.theta, self.bits)
            if max(abs(values[m][i, j]) for m, i, j in self.kinks) > DIVERGED:
                return "diverged"
            if time.perf_counter() - self.start > self.cap:
                return "> cap"
            falls = -(axes @ gradient) / np.linalg.norm(axes, axis=1)
            best = int(np.argmax(falls))
            place += 1
            if falls[best] > 0:
                del self.kinks[best]
                if ended := self.step(axes[best]):
                    return ended
                place = 0
        return "minimum"

    def step(self, direction: Floats) -> str:
        """Go to the first kink, which becomes active; return why not, or ""."""
        step, kink = np.inf, None
        values = self.problem.values(self.theta, self.bits)
        rates = self.problem.rates(direction, self.bits)
        for level, (value, rate, bit) in enumerate(zip(values, rates, self.bits, strict=True)):
            active = [(i, j) for m, i, j in self.kinks if m == level]
            ahead = np.where(bit, rate < 0, rate > 0)
            for place in active:
                ahead[place] = False
            times = np.where(ahead, -value / np.where(ahead, rate, 1.0), np.inf)
            times[times <= BEHIND] = np.inf
            place = np.unravel_index(np.argmin(times), times.shape)
            if times[place] < step:
                step, kink = float(times[place]), (level, int(place[0]), int(place[1]))
        if kink is None:
            return "no kink ahead"
        self.theta = self.theta + step * direction
        self.kinks.append(kink)
        self.path.append(self.theta)
        self.seconds.append(time.perf_counter() - self.start)
        self.idle = self.idle + 1 if abs(step) * np.linalg.norm(direction) < ZERO else 0
        return "zero-length steps" if self.idle >= ENDLESS else ""


def descend(problem: Problem, theta: Floats, *, cap: float) -> Run:
    """Run the scheme from theta (units (inputs + 1),) for about `cap` seconds at most."""
    run = Run(problem, theta, cap)
    try:
        run.outcome = run.first_vertex() or run.vertices()
    except np.linalg.LinAlgError:
        run.outcome = "singular matrix"
    run.total = time.perf_counter() - run.start
    return run


def added(axes: Floats, normal: Floats, products: Floats) -> Floats:
    """The axes with one for another normal, which has these products with the normals so far."""
    across = normal - axes.T @ products
    square = across @ normal
    return np.vstack([axes - np.outer(axes @ normal / square, across), across / square])
