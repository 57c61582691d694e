"""Linear programs over many small cones that only a few equations hold together: interior points.

    minimise  c . z   subject to   G_j q_j + F_j z + e_j >= 0,   sum_j B_j q_j + B_z z = b

with blocks q_j of few variables, and two or so variables z that all blocks share. A Newton step
eliminates the blocks one by one and leaves one equation for each row of B, where a simplex method would
have a dense row for each side of each cone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

Floats = NDArray[np.float64]

#: Steps; Mehrotra's method takes 15 to 50.
STEPS = 80
#: Share of the way to the boundary that a step goes.
SHORT = 0.99
#: Share of the first product of slacks and multipliers at which nothing more can be gained.
CLOSED = 1e-13
#: Share of a block's trace that keeps its Cholesky factor from breaking down.
RIDGE = 1e-14


@dataclass(frozen=True, slots=True)
class Cones:
    """The program.

    Attributes:
        sides: G (blocks, sides, size).
        shared: F (blocks, sides, shared).
        equations: B (blocks, rows, size).
        equations_shared: B_z (rows, shared).
        ends: b (rows,).
        cost: c (shared,).
        offsets: e (blocks, sides).
    """

    sides: Floats
    shared: Floats
    equations: Floats
    equations_shared: Floats
    ends: Floats
    cost: Floats
    offsets: Floats

    def slack(self, blocks: Floats, shared: Floats) -> Floats:
        """`G_j q_j + F_j z + e_j` (blocks, sides)."""
        return self.change(blocks, shared) + self.offsets

    def change(self, blocks: Floats, shared: Floats) -> Floats:
        """`G_j q_j + F_j z` (blocks, sides)."""
        return np.asarray(np.matmul(self.sides, blocks[:, :, None])[:, :, 0] + self.shared @ shared)

    def left(self, blocks: Floats, shared: Floats) -> Floats:
        """`b - sum_j B_j q_j - B_z z` (rows,)."""
        here = np.matmul(self.equations, blocks[:, :, None])[:, :, 0].sum(axis=0)
        return np.asarray(self.ends - here - self.equations_shared @ shared)

    def pulls(self, multipliers: Floats, rows: Floats) -> tuple[Floats, Floats]:
        """`B^T l + G^T mu` for the blocks, and `c - B_z^T l - F^T mu` for the shared variables."""
        blocks = np.einsum("jrp,r->jp", self.equations, rows) + np.matmul(
            multipliers[:, None, :], self.sides
        )[:, 0]  # fmt: skip
        shared = self.cost - self.equations_shared.T @ rows
        return blocks, shared - np.einsum("jnz,jn->z", self.shared, multipliers)


@dataclass(frozen=True, slots=True)
class Inside:
    """A strictly interior point of a program and of its dual, which need not solve the equations yet.

    Attributes:
        blocks: q (blocks, size).
        shared: z (shared,).
        slack: s > 0 in place of `G q + F z + e` (blocks, sides).
        rows: l (rows,).
        multipliers: mu > 0 (blocks, sides).
    """

    blocks: Floats
    shared: Floats
    slack: Floats
    rows: Floats
    multipliers: Floats

    @property
    def gap(self) -> float:
        """Mean product of slacks and multipliers."""
        return float((self.slack * self.multipliers).mean())


def interior(
    program: Cones, blocks: Floats, shared: Floats, product: float, enough: Callable[[Inside], bool]
) -> Inside:
    """Follow the central path by Mehrotra's steps until a point is enough, or nothing more is gained.

    Args:
        program: The program.
        blocks: Where to begin; with `shared` inside all sides.
        shared: See `blocks`.
        product: Of each slack and its multiplier, to begin with.
        enough: Asked after each step.

    Cost: for each step blocks x size x rows^2 and rows^3 / 3.
    """
    slack = program.slack(blocks, shared)
    here = Inside(blocks, shared, slack, np.zeros(len(program.ends)), product / slack)
    for _ in range(STEPS):
        try:
            after = _Newton(program, here).step()
        except LinAlgError:
            break
        if not (np.isfinite(after.gap) and after.gap > 0):
            break
        here = after
        if enough(here) or here.gap < CLOSED * product:
            break
    return here


class _Newton:
    """Newton's equations at a point, with everything that both of Mehrotra's steps share."""

    def __init__(self, program: Cones, here: Inside) -> None:
        self.program, self.here = program, here
        self.weights = here.multipliers / here.slack
        turned = program.sides * self.weights[:, :, None]
        bent = np.matmul(turned.transpose(0, 2, 1), program.sides)
        size = bent.shape[1]
        bent[:, range(size), range(size)] += RIDGE * np.trace(bent, axis1=1, axis2=2)[:, None]
        self.lower = np.linalg.cholesky(bent)
        border = np.matmul(turned.transpose(0, 2, 1), program.shared)
        both = np.concatenate([program.equations.transpose(0, 2, 1), border], axis=2)
        self.solved = np.linalg.solve(self.lower, both)
        flat = self.solved.reshape(-1, both.shape[2])
        rows = len(program.ends)
        products = flat.T @ flat
        self.coupled = program.equations_shared - products[:rows, rows:]
        self.factor = cho_factor(products[:rows, :rows])
        self.across = cho_solve(self.factor, self.coupled)
        own = np.einsum("jnz,jn,jny->zy", program.shared, self.weights, program.shared)
        self.small = own - products[rows:, rows:] + self.coupled.T @ self.across
        self.left = program.left(here.blocks, here.shared)
        self.off = program.slack(here.blocks, here.shared) - here.slack
        self.pulls = program.pulls(here.multipliers, here.rows)

    def direction(self, wanted: Floats) -> Inside:
        """The changes that make the products of slacks and multipliers change by `wanted`."""
        program, here = self.program, self.here
        rest = wanted / here.slack - self.weights * self.off
        first = self.pulls[0] + np.matmul(rest[:, None, :], program.sides)[:, 0]
        last = -self.pulls[1] + np.einsum("jnz,jn->z", program.shared, rest)
        half = np.linalg.solve(self.lower, first[:, :, None])[:, :, 0]
        moved = self.solved.reshape(-1, self.solved.shape[2]).T @ half.ravel()
        rows = len(program.ends)
        ends = cho_solve(self.factor, self.left - moved[:rows])
        shared = np.linalg.solve(self.small, last - moved[rows:] + self.coupled.T @ ends)
        lifted = ends - self.across @ shared
        half = half + self.solved @ np.concatenate([lifted, -shared])
        blocks = np.linalg.solve(self.lower.transpose(0, 2, 1), half[:, :, None])[:, :, 0]
        slack = program.change(blocks, shared) + self.off
        return Inside(blocks, shared, slack, lifted, wanted / here.slack - self.weights * slack)

    def step(self) -> Inside:
        """Predict, correct and go most of the way to the boundary."""
        here = self.here
        products = here.slack * here.multipliers
        guess = self.direction(-products)
        ahead, behind = _far(here.slack, guess.slack), _far(here.multipliers, guess.multipliers)
        reached = float(
            ((here.slack + ahead * guess.slack)
             * (here.multipliers + behind * guess.multipliers)).mean()
        )  # fmt: skip
        centre = here.gap * (reached / here.gap) ** 3
        move = self.direction(centre - products - guess.slack * guess.multipliers)
        ahead = SHORT * _far(here.slack, move.slack)
        behind = SHORT * _far(here.multipliers, move.multipliers)
        return Inside(
            here.blocks + ahead * move.blocks,
            here.shared + ahead * move.shared,
            here.slack + ahead * move.slack,
            here.rows + behind * move.rows,
            here.multipliers + behind * move.multipliers,
        )


def _far(here: Floats, move: Floats) -> float:
    """How far a move can go, up to 1, until a number is no longer positive."""
    falls = move < 0
    return float((here[falls] / -move[falls]).min(initial=1.0))
