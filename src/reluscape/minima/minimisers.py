"""All minimisers of a block's frozen loss: those of a convex function of `E q`, for each of the losses.

With the pattern frozen the loss is convex on the whole parameter space, and a minimum over the cell that
lies inside it is one of the whole space (theory, section 3). The minimisers of

    squared        |E q - y|^2         are  q* + N v,  N spanning the null space of E;
    L1             |E q - y|_1         are those that agree in sign with one solution l of its dual,
                                       max -l . y  with  E^T l = 0, |l| <= 1:  r_i = 0 where |l_i| < 1,
                                       l_i r_i >= 0 where |l_i| = 1;
    cross-entropy                      are  q* + N v,  N spanning the null space of E without what is
                                       common to a sample's outputs; there are none if the loss falls
                                       forever along some direction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve, qr
from scipy.optimize import OptimizeResult, minimize

from reluscape.losses import CrossEntropyLoss
from reluscape.minima.deepest import Sides
from reluscape.singular import svd
from reluscape.solvers import LinearProgram

Floats = NDArray[np.float64]

#: Singular values below this share of the largest are rounding errors of zero.
NULL = 1e-10
#: Likewise those of a product of a matrix with itself.
GRAM = 1e-12
#: Dual variables nearer to their bounds than this are at them: linear programs are solved to 1e-9.
BOUND = 1e-7
#: Newton steps, and those until it is asked whether there is a minimiser at all.
STEPS = 200
FEW = 40
#: Least shares of a class that are looked at, and how much more than rounding shows something.
CLEAR = 1e-4
SAFE = 10.0
#: Steps of the descent before, and the least gain over the largest rate that is no rounding.
DESCENT = 300
GAIN = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Minimisers:
    """`point + free v`, as far as the closed sides allow.

    Attributes:
        point: A minimiser q (size,); where there is none, the point that the search ended at.
        free: Directions (size, variables).
        closed: Sides that v must not leave, over their lengths, or None.
        dual: l of the L1 loss at `point` (samples * outputs,), else empty.
        falling: A direction along which the loss falls forever (size,), or None.
    """

    point: Floats
    free: Floats
    closed: Sides | None
    dual: Floats
    falling: Floats | None


def squared(matrix: Floats, targets: Floats) -> Minimisers:
    """Least squares."""
    inverse, free = pseudo_inverse(matrix)
    point = inverse @ targets
    point += inverse @ (targets - matrix @ point)
    return Minimisers(point, free, None, np.empty(0), None)


def absolute(matrix: Floats, targets: Floats) -> Minimisers:
    """Least absolute deviations, through the dual linear program."""
    rows, size = matrix.shape
    lengths = np.linalg.norm(matrix, axis=0)
    lengths[lengths == 0] = 1.0
    program = LinearProgram(
        (matrix / lengths).T, np.zeros(size), np.ones(rows), upper=np.zeros(size)
    )
    solution = program.minimise(targets)
    dual = np.clip(solution.point, -1.0, 1.0)
    point = -solution.multipliers / lengths if size else np.empty(0)
    if np.abs(matrix @ -point - targets).sum() < np.abs(matrix @ point - targets).sum():
        point = -point
    tight = np.abs(dual) < 1.0 - BOUND
    inverse, free = pseudo_inverse(matrix[tight])
    dual = np.where(tight, dual, np.sign(dual))
    for _ in range(2):  # what the solver's tolerance has left
        dual[tight] -= inverse.T @ (matrix.T @ dual)
        point = point + inverse @ (targets[tight] - matrix[tight] @ point)
    dual = np.clip(dual, -1.0, 1.0)
    signs, some = np.sign(dual[~tight]), matrix[~tight]
    sizes = np.linalg.norm(some, axis=1)
    sizes[sizes == 0] = 1.0
    scaled, start = signs / sizes, some @ point - targets[~tight]
    moved = some @ free
    closed = Sides(
        lambda v: scaled * (start + moved @ v),
        lambda chosen: scaled[chosen, None] * moved[chosen],
        open=False,
    )
    return Minimisers(point, free, closed, dual, None)


def cross_entropy(matrix: Floats, constants: Floats, labels: NDArray[np.int64]) -> Minimisers:
    """Newton's method where it ends; else a linear program says whether some direction falls forever.

    A descent comes first: where it separates all samples' own outputs, its direction does fall forever.

    Args:
        matrix: E (samples * outputs, size).
        constants: Outputs at q = 0 (samples, outputs).
        labels: Classes (samples,).
    """
    samples, outputs = constants.shape
    stack = matrix.reshape(samples, outputs, -1)
    centred = (stack - stack.mean(axis=1, keepdims=True)).reshape(matrix.shape)
    falls, start = _descended(matrix, constants, labels)
    if not falls:
        _, free = pseudo_inverse(centred)
        basis = _complement(free)
        reduced = matrix @ basis
        point = _newton(reduced, constants, labels, basis.T @ start, FEW)
        held = _held(reduced, constants, labels, point)
        if held or (falling := _falls_forever(stack, labels)) is None:
            if not held:
                point = _newton(reduced, constants, labels, point, STEPS)
            return Minimisers(basis @ point, free, None, np.empty(0), None)
        start = falling
    none = np.empty((len(start), 0))
    return Minimisers(np.zeros(len(start)), none, None, np.empty(0), start)


def _descended(matrix: Floats, constants: Floats, labels: NDArray[np.int64]) -> tuple[bool, Floats]:
    """A point of low loss; where it says so, one along which every sample's own output gains.

    Cost: up to `DESCENT` products with the matrix and its transpose.
    """
    loss, shape = CrossEntropyLoss(), constants.shape
    seen = np.abs(matrix).sum(axis=1).reshape(shape).any(axis=1)  # others' outputs are constant
    own = np.arange(shape[0]), labels

    def gain(q: Floats) -> float:
        rates = (matrix @ q).reshape(shape)
        gains = rates[own][:, None] - rates
        gains[own] = np.inf
        return float(gains[seen].min(initial=np.inf)) / (float(np.abs(rates).max()) or np.inf)

    def value(q: Floats) -> tuple[float, Floats]:
        outputs = constants + (matrix @ q).reshape(shape)
        return loss.value(outputs, labels), matrix.T @ loss.slope(outputs, labels).ravel()

    def look(intermediate_result: OptimizeResult) -> None:
        if gain(intermediate_result.x) > GAIN:
            raise StopIteration

    options = {"maxiter": DESCENT, "gtol": 0.0, "ftol": 0.0}
    point = minimize(
        value,
        np.zeros(matrix.shape[1]),
        jac=True,
        method="L-BFGS-B",
        callback=look,
        options=options,
    ).x
    return bool(seen.any()) and gain(point) > GAIN, np.asarray(point)


def _newton(
    matrix: Floats, constants: Floats, labels: NDArray[np.int64], point: Floats, steps: int
) -> Floats:
    """Minimiser of the mean cross-entropy: Newton steps from a point, halved until the loss falls.

    Where the loss falls no more for rounding, whole steps are taken while the gradient still shrinks.
    """
    loss = CrossEntropyLoss()
    stack = matrix.reshape(*constants.shape, -1)

    def at(q: Floats) -> Floats:
        return constants + (matrix @ q).reshape(constants.shape)

    for _ in range(steps):
        outputs = at(point)
        gradient = matrix.T @ loss.slope(outputs, labels).ravel()
        bent = np.matmul(loss.curvature(outputs), stack).reshape(matrix.shape)
        step = _solved(matrix.T @ bent, -gradient)
        value, length = loss.value(outputs, labels), 1.0
        while length > NULL and not loss.value(at(point + length * step), labels) < value:
            length /= 2
        if length <= NULL:
            after = matrix.T @ loss.slope(at(point + step), labels).ravel()
            if not np.linalg.norm(after) < np.linalg.norm(gradient):
                break
            length = 1.0
        point = point + length * step
    return point


def _held(matrix: Floats, constants: Floats, labels: NDArray[np.int64], point: Floats) -> bool:
    """Whether what a point's gradient lacks shows that along no direction the loss falls forever.

    With p_k the share of a sample's other class and a_k the gain on it, `sum_k p_k a_k . d = -N g . d`,
    so that no gain along a falling d, of length one, is more than `N |g| / p_k`. Those of the larger
    shares have then to be long along every direction, which contradicts it.

    Cost: a product of the matrix with itself.
    """
    loss, samples = CrossEntropyLoss(), len(constants)
    slope = loss.slope(constants + (matrix @ point).reshape(constants.shape), labels) * samples
    gradient = float(np.linalg.norm(matrix.T @ slope.ravel()))
    shares, own = slope.copy(), (np.arange(samples), labels)
    shares[own] = 0.0
    stack = matrix.reshape(*constants.shape, -1)
    rows = (stack[own][:, None, :] - stack)[shares > CLEAR]
    if not matrix.shape[1]:
        return True
    if len(rows) < matrix.shape[1]:
        return False
    squares = np.linalg.eigvalsh(rows.T @ rows)  # good to eps of the largest
    least = max((gradient / CLEAR * SAFE) ** 2 * len(rows), GRAM * squares[-1])
    return bool(squares[0] > least)


def _solved(matrix: Floats, ends: Floats) -> Floats:
    """Solution of symmetric equations, the least one where they are singular."""
    try:
        return np.asarray(cho_solve(cho_factor(matrix), ends))
    except LinAlgError:
        return np.asarray(np.linalg.lstsq(matrix, ends, rcond=NULL**2)[0])


def _falls_forever(stack: Floats, labels: NDArray[np.int64]) -> Floats | None:
    """A direction along which no sample's own output loses to another, and some gain.

    Cost: one linear program with a row for each sample and other class.
    """
    samples, outputs, size = stack.shape
    own = stack[np.arange(samples), labels][:, None, :]
    others = np.delete(np.arange(samples * outputs), np.arange(samples) * outputs + labels)
    rows = (own - stack).reshape(samples * outputs, size)[others]
    lengths = np.linalg.norm(rows, axis=1)
    rows = rows[lengths > 0] / lengths[lengths > 0, None]
    if not len(rows):
        return None
    program = LinearProgram(rows, np.zeros(len(rows)), np.ones(size))
    solution = program.minimise(-rows.sum(axis=0))
    return solution.point if -solution.value > BOUND * len(rows) ** 0.5 else None


def pseudo_inverse(matrix: Floats) -> tuple[Floats, Floats]:
    """Pseudo-inverse and an orthonormal basis of the null space."""
    rows, size = matrix.shape
    if rows == 0 or size == 0:
        return np.zeros((size, rows)), np.eye(size)
    left, values, right = svd(matrix)
    rank = int((values > NULL * max(values[0], np.finfo(float).tiny)).sum())
    return (right[:rank].T / values[:rank]) @ left[:, :rank].T, _complement(right[:rank].T)


def _complement(columns: Floats) -> Floats:
    """Orthonormal columns that span what the given orthonormal ones leave."""
    size, count = columns.shape
    if count == 0:
        return np.eye(size)
    return np.asarray(qr(columns, mode="full")[0][:, count:])
