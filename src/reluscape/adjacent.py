"""Minima where the active normals are dependent: every adjacent cell examined.

Where LIKQ fails, the slopes of single kinks do not decide. But whatever the normals, the loss is to
first order `g_S . d` in the cone `C_S = {d : sigma_k a_k^S . d >= 0}` of every sign pattern S of the k
active kinks, with g_S the gradient and a_k^S the normals in that pattern. So the point is a minimum
to first order iff `g_S . d >= 0` on every C_S, that is (Farkas) iff `g_S = sum_k lambda_k sigma_k a_k^S`
with lambda >= 0 for all 2^k patterns. A linear program finds the multipliers; to check them needs only
their products. Duplicate samples at a kink are the common case.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from reluscape.arithmetic import left_inverse_sizes
from reluscape.errors import AnalysisError
from reluscape.point import Point
from reluscape.solvers import LinearProgram
from reluscape.tolerances import TOLERANCES

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Adjacent:
    """The patterns of the active kinks, in the order of `itertools.product([False, True])`.

    Attributes:
        gradients: g_S, shape (patterns, params).
        rows: Inward normals sigma_k a_k^S, shape (patterns, k, params).
        errors: Bounds on the gradients' rounding errors, shape (patterns, params).
    """

    gradients: Floats
    rows: Floats
    errors: Floats

    @classmethod
    def of(cls, point: Point) -> Adjacent:
        """Gradient and normals in every pattern of the point's active kinks."""
        piecewise = point.block.piecewise
        gradients, rows = [], []
        for sides in product([False, True], repeat=len(point.active)):
            pattern = point.pattern.copy()
            pattern[point.active] = sides
            gradients.append(piecewise.gradient(point.theta, pattern))
            signs = np.where(sides, 1.0, -1.0)[:, None]
            rows.append(signs * piecewise.normals(point.active, pattern))
        widest = piecewise.rounding_bounds(point.theta, TOLERANCES.rounding, widest=True)[2]
        errors = np.tile(widest, (len(gradients), 1))
        errors[0] = point.gradient_error  # all kinks negative: the cell of the point's own gradient
        return cls(np.array(gradients), np.array(rows), errors)

    def multipliers(self) -> tuple[Floats, Floats] | None:
        """Farkas multipliers (patterns, k), as positive as possible, with bounds on their errors.

        None where some pattern has none: the loss falls somewhere in it, or rounding hides that. A
        gradient that is zero by structure has the multipliers zero, without error.
        """
        found, errors = [], []
        for gradient, rows, error in zip(self.gradients, self.rows, self.errors, strict=True):
            guess = _most_positive(rows, gradient)
            vanishing = not gradient.any() and not error.any()
            if vanishing and (guess is None or guess.min() < TOLERANCES.interior):
                found.append(np.zeros(len(rows)))
                errors.append(np.zeros(len(rows)))
                continue
            if guess is None:
                return None
            inverse = np.linalg.pinv(rows.T, rcond=TOLERANCES.independence)
            found.append(guess + inverse @ (gradient - rows.T @ guess))
            errors.append(left_inverse_sizes(rows) @ error)
        return np.array(found), np.array(errors)

    def common_descent(self) -> tuple[Floats, float] | None:
        """A unit direction along which the loss falls whatever the pattern, and the least slope."""
        size = self.gradients.shape[1]
        matrix = np.hstack([-self.gradients, np.ones((len(self.gradients), 1))])
        box = np.append(np.ones(size), np.inf)
        program = LinearProgram(matrix, np.zeros(len(self.gradients)), box)
        try:
            solution = program.minimise(np.append(np.zeros(size), 1.0))
        except AnalysisError:  # the solver gives up on badly scaled gradients
            return None
        norm = np.linalg.norm(solution.point[:size]) if solution.status == "optimal" else 0.0
        if norm == 0:
            return None
        direction = solution.point[:size] / norm
        slope = float((self.gradients @ direction + self.errors @ np.abs(direction)).max())
        return (direction, slope) if slope < 0 else None


def _most_positive(rows: Floats, gradient: Floats) -> Floats | None:
    """Lambda with `rows^T lambda = gradient` and its least entry as large as can be, or None."""
    count, size = rows.shape
    equations = np.hstack([rows.T, np.zeros((size, 1))])
    bounds = np.hstack([np.eye(count), -np.ones((count, 1))])
    matrix = np.vstack([equations, bounds])
    lower = np.append(gradient, np.zeros(count))
    upper = np.append(gradient, np.full(count, np.inf))
    limit = 1.0 + float(np.abs(gradient).max(initial=0.0))  # the least entry may grow forever
    program = LinearProgram(matrix, lower, np.append(np.full(count, np.inf), limit), upper)
    try:
        solution = program.minimise(np.append(np.zeros(count), -1.0))
    except AnalysisError:
        return None
    return solution.point[:count] if solution.status == "optimal" else None
