"""As many directions as distinct inputs: every switching value is free, and signs are all that matters.

With rank X equal to the number of distinct inputs, `u_ij = R_j . x_i` may be anything. The minimisers fit
every input on which some unit is active, so a cell holds one inside for signs s if and only if each such
input has a contribution of its target's sign (both signs, where the target is zero). Over free signs this
is a satisfiability problem with one clause for each input (theory, section 3; Liu, section II).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve

from reluscape.minima.signs import Choice, Clauses, Split, Witness
from reluscape.minima.units import Leaf, Units, gram_of

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Closed:
    """A cell of independent distinct inputs.

    Attributes:
        units: The cell.
        gram: Cholesky factor of the Gram matrix of the distinct inputs at length one.
        turns: `Units.turns`.
        loud: Whether any unit contributes (distinct,).
    """

    units: Units
    gram: Any
    turns: Floats
    loud: NDArray[np.bool_]

    @classmethod
    def of(cls, units: Units) -> Closed | None:
        """The cell, or None where the inputs are not independent, or too nearly dependent to say."""
        gram = gram_of(units.samples)
        turns = units.turns
        return None if gram is None else cls(units, gram, turns, np.asarray(turns.any(axis=1)))

    def method(self, witness: Witness | None, leaves: Sequence[Leaf], parts: int) -> str:
        """How the answer was found, whatever it is."""
        return "closed form"

    @property
    def clear(self) -> bool:
        """Whether the minimisers' loss is accurate: it always is."""
        return True

    @property
    def rank(self) -> int:
        """Rank of the outputs' derivatives."""
        return int(self.loud.sum())

    @property
    def squares(self) -> float:
        """Sum of the squared residuals of inputs on which no unit is active."""
        return float((self.units.samples.counts * self.units.targets**2)[~self.loud].sum())

    def test(self, signs: Choice) -> Witness | Leaf | Split:
        """What the clauses say of all choices that agree with these signs."""
        told = Clauses(self.turns, np.sign(self.units.targets), self.loud).told(signs)
        if (broken := told.broken(np.abs(self.units.targets))) is not None:
            return self.leaf(broken[0], -broken[1], signs)
        if (forced := told.forced()) is None:
            return self.witness(signs)
        sample, unit, side = forced
        return Split(unit, int(side * self.turns[sample, unit]))

    def witness(self, signs: Choice) -> Witness:
        """Weights whose contributions add up to the targets, each as far from zero as it can be."""
        signs = np.where(signs == 0, 1, signs).astype(np.int8)
        contributions = self.turns * signs
        amounts = np.abs(self.units.targets)
        amounts = np.maximum(amounts, amounts.mean() or 1.0)
        lead = np.where(self.units.targets >= 0, 1.0, -1.0)
        with_ = (contributions == lead[:, None]).sum(axis=1)
        against = (contributions == -lead[:, None]).sum(axis=1)
        total = np.abs(self.units.targets) + against * amounts
        share = np.where(with_ > 0, total / np.maximum(with_, 1), amounts)
        factors, sides = (
            np.abs(self.units.factors),
            self.units.sides,
        )
        sizes = np.where(contributions == lead[:, None], share[:, None], amounts[:, None])
        values = signs * sides * sizes / np.where(factors > 0, factors, 1.0)
        return Witness(signs, self.solve(values))

    def solve(self, values: Floats) -> Floats:
        """The least R (units, params) with these `R_j . x_i` (distinct, units)."""
        rows, lengths = self.units.samples.features, self.units.samples.lengths[:, None]
        found = rows.T @ (cho_solve(self.gram, values / lengths, check_finite=False) / lengths)
        rest = (values - rows @ found) / lengths
        found += rows.T @ (cho_solve(self.gram, rest, check_finite=False) / lengths)
        return np.asarray(found.T)

    def leaf(self, sample: int, side: float, signs: Choice) -> Leaf:
        """Why an input with contributions of one sign only, not its target's, rules out the signs."""
        given = self.turns[sample] * signs
        factors = self.units.factors[sample]
        weights, outputs = np.zeros(self.turns.shape), np.zeros(len(self.turns))
        weights[sample] = np.where(given == side, np.abs(factors), 0.0)
        outputs[sample] = side
        unit = int(np.argmax(np.abs(factors)))
        values = np.zeros((len(self.turns), 1))
        values[sample] = side / self.units.samples.counts[sample] / factors[unit]
        directions = np.zeros(self.units.weights.shape)
        directions[unit] = self.solve(values)[0]
        return Leaf(signs.copy(), weights, outputs, directions, clause=True)
