"""Samples with equal inputs: their kinks are one, and where their terms cancel they may be left out.

Every kink of such samples is the same function of theta, residuals where the targets are equal, too: to
first order the loss sees one kink with the sum of their slope jumps. And what a group of them adds to the
L1 loss is a convex function of the outputs alone, `sum_j |f - y_j|`. Where zero is among its slopes it is
at its least, and a minimum of the loss without the group is one with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.landscape import Landscape

Array = NDArray[Any]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]

#: Sums of slopes this near to zero, relative to their terms, may be that exactly.
NEARLY = 1e-9


@dataclass(frozen=True, slots=True)
class Coincident:
    """The active kinks of a point that are different functions, m of k, and their groups of samples.

    Attributes:
        first: The first active kink that is each function, ascending (m,).
        merging: Entry (m, k) is one where active kink k is that function.
        groups: The functions' groups (m,).
        residual: Which are residuals (m,).
        pulls: Of residuals, the sum of their group's `sign(f - y_j)` on the negative side, else 0 (m,).
        droppable: Which are of groups among whose slopes zero is (m,).
        group_of: Group of every sample.
    """

    first: Indices
    merging: Array
    groups: Indices
    residual: Bools
    pulls: Array
    droppable: Bools
    group_of: Indices

    @classmethod
    def of(
        cls, landscape: Landscape, kinks: tuple[Indices, Indices, Indices], signs: Array
    ) -> Coincident:
        """Compare the active kinks.

        Args:
            landscape: The landscape.
            kinks: The active kinks' samples, which of their sample's kinks they are, and the outputs of
                those that are residuals, -1 for others; each (k,).
            signs: Signs of all residuals, active ones negative (samples, outputs); without columns for
                other losses than L1.
        """
        assert landscape.reading is not None
        samples, kinds, outputs = kinks
        inputs = landscape.reading.features.reshape(landscape.num_samples, -1)
        group_of = np.unique(inputs, axis=0, return_inverse=True)[1].ravel()
        residual = outputs >= 0
        target = np.zeros(len(samples))
        if residual.any():
            target[residual] = landscape.targets[samples[residual], outputs[residual]]
        keys = np.column_stack([group_of[samples], kinds, target])
        _, first, function = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(first)
        merging = (function.ravel() == order[:, None]).astype(np.intp)
        first = first[order]
        pulls = np.zeros((group_of.max(initial=-1) + 1, signs.shape[1]), dtype=np.intp)
        np.add.at(pulls, group_of, signs.astype(np.intp))
        zero = np.zeros_like(pulls)
        np.add.at(zero, (group_of[samples[residual]], outputs[residual]), 1)
        droppable = (np.abs(pulls + zero) <= zero).all(axis=1) & bool(signs.shape[1])
        groups, mine = group_of[samples[first]], residual[first]
        pull = np.zeros(len(first), dtype=np.intp)
        pull[mine] = pulls[groups[mine], outputs[first][mine]]
        return cls(first, merging, groups, mine, pull, droppable[groups], group_of)

    def left_out(self, weights: Array, sizes: Array, jumps: Array, bends: Array) -> Bools:
        """Kinks (parts, m) of groups that may be left out of the loss, by their weights.

        Those of the residuals say with which slopes zero is the sum; those of the other kinks must be
        zero. A group is left out where a kink has no slope on its positive side, which rounding alone
        does not tell.

        Args:
            weights: u (parts, m).
            sizes: Sums of the absolute jumps that were merged (m,).
            jumps: s (m,).
            bends: c (m, m).
        """
        balance = self.pulls + len(self.group_of) * weights  # a residual's jump is 2 / samples
        flat = np.abs(jumps + weights @ bends - weights) <= NEARLY * sizes
        fits = np.where(self.residual, np.abs(balance) <= NEARLY, weights == 0) & self.droppable
        member = self.groups == np.unique(self.groups)[:, None]
        needs = (flat & fits) @ member.T
        return np.asarray((~(~fits @ member.T) & needs) @ member)

    def sums(self, values: Array) -> Array:
        """Sums (..., m) of what kinks that are one have, (..., k)."""
        if len(self.first) == self.merging.shape[1]:
            return values
        rows = self.merging.astype(np.bool_)
        return np.stack([values[..., row].sum(axis=-1) for row in rows], axis=-1)

    def spread(self, values: Array) -> Array:
        """What functions have (..., m), given to the first of their kinks, zero for others (..., k)."""
        found = np.empty((*values.shape[:-1], self.merging.shape[1]), dtype=values.dtype)
        found[...] = 0 * values[..., :1]  # the arithmetic's own zero
        found[..., self.first] = values
        return found

    def members(self, active: Indices) -> tuple[Indices, list[Indices]]:
        """Groups of the functions, and the numbers of the active kinks that are each."""
        return self.groups, [active[row] for row in self.merging.astype(np.bool_)]

    def balanced_weights(self) -> Array:
        """Weights of kinks of groups that are left out (m,)."""
        return np.where(self.residual, -self.pulls / len(self.group_of), 0.0)

    def samples_of(self, kinks: Bools) -> Bools:
        """Samples of the groups of some kinks."""
        return np.isin(self.group_of, self.groups[kinks])
