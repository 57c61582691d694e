"""A cell as the solver-free check sees it: products with the frozen network, and their rounding errors.

For a landscape the variables are `R_j = z_j w_j`: the first layer of the network whose output weights are
all one, with each unit's cell turned over where its output weight is negative.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from reluscape.affine import AffineMap
from reluscape.landscape import Block
from reluscape.piecewise import Piecewise
from reluscape.tolerances import TOLERANCES

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]

EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class FrozenCell:
    """Products with a frozen network.

    Attributes:
        piecewise: The block.
        pattern: Signs of all its kinks; those of residuals are not looked at.
        sizes: Lengths of the columns of `[X, 1]`, 1 for zero ones, for each parameter (params,).
        hidden: Number of kinks that bound the cell: all but residuals.
    """

    piecewise: Piecewise
    pattern: Bools
    sizes: Floats
    hidden: int

    @classmethod
    def of(cls, block: Block, pattern: Bools) -> FrozenCell:
        """The cell of a block with this pattern."""
        piecewise = block.piecewise
        columns = np.linalg.norm(piecewise.features, axis=0)
        columns[columns == 0] = 1.0
        ones = np.full(piecewise.width * piecewise.bias, float(len(piecewise.features)) ** 0.5)
        sizes = np.append(np.tile(columns, piecewise.width), ones)
        groups = piecewise.groups[: len(piecewise.slopes)]
        return cls(piecewise, pattern, sizes, groups[-1].stop if groups else 0)

    def summed(self, bias: Floats) -> FrozenCell:
        """The same cell in the variables R of a landscape: all output weights one, and an output bias."""
        shift = bias if len(bias) else None
        first, ones = self.piecewise.maps[0], AffineMap(np.ones((1, self.piecewise.width)), shift)
        return replace(self, piecewise=replace(self.piecewise, maps=(first, ones)))

    def sides(self, signs: NDArray[np.int8] | None) -> Floats:
        """Which way each hidden kink is positive inside the cell (hidden,)."""
        sides = np.where(self.pattern[: self.hidden], 1.0, -1.0)
        if signs is None:
            return sides
        return np.asarray((sides.reshape(-1, len(signs)) * signs).ravel(), dtype=np.float64)

    @property
    def unit(self) -> float:
        """Relative rounding error of a sum of products."""
        return (
            TOLERANCES.rounding * (self.piecewise.depth_terms + len(self.piecewise.features)) * EPS
        )

    def constants(self) -> tuple[Floats, Floats]:
        """Hidden switching values and outputs at zero parameters."""
        values, outputs = self.piecewise.frozen(self.pattern, np.zeros(self.piecewise.num_params))
        return values[: self.hidden], outputs

    def forward(self, direction: Floats) -> tuple[Floats, Floats]:
        """E times a direction (samples, outputs), and bounds on its rounding errors."""
        outputs = self.piecewise.frozen(self.pattern, direction, linear=True)[1]
        absolute = replace(
            self.piecewise,
            features=self.piecewise.magnitudes,
            maps=tuple(step.absolute() for step in self.piecewise.maps),
            slopes=tuple(map(abs, self.piecewise.slopes)),
        )
        sizes = absolute.frozen(self.pattern, np.abs(direction), linear=True)[1]
        return outputs, self.unit * sizes

    def gap(self, kinks: Indices, amounts: Floats, outputs: Floats) -> tuple[float, float]:
        """Length of `sum_k amounts_k a_k - E^T outputs` in scaled columns, and its rounding error."""
        piecewise = self.piecewise
        pulled = piecewise.pull_back(kinks, self.pattern) * amounts[:, None]
        sizes = piecewise.pull_back(kinks, self.pattern, absolute=True) * np.abs(amounts)[:, None]
        rows = piecewise.sample_of(kinks)
        units = -piecewise.sensitivities(self.pattern, outputs)[0]
        most = _absolute(piecewise, self.pattern, np.abs(outputs))
        np.add.at(units, rows, pulled)
        np.add.at(most, rows, sizes)
        error = self.unit * piecewise.assemble(most, piecewise.magnitudes)
        gap = piecewise.assemble(units)
        return float(np.linalg.norm(gap / self.sizes)), float(np.linalg.norm(error / self.sizes))

    def lengths(self, kinks: Indices) -> Floats:
        """Lengths of kinks' normals in scaled columns."""
        piecewise = self.piecewise
        columns = self.sizes[: piecewise.features.shape[1]]
        rows = ((piecewise.features / columns) ** 2).sum(axis=1) + piecewise.bias / len(
            piecewise.features
        )
        units = np.linalg.norm(piecewise.pull_back(kinks, self.pattern), axis=1)
        return np.asarray(units * np.sqrt(rows[piecewise.sample_of(kinks)]))


def _absolute(piecewise: Piecewise, pattern: Bools, outputs: Floats) -> Floats:
    """`sensitivities` by z in absolute values."""
    back = piecewise.maps[-1].absolute().adjoint(outputs)
    for step, active in zip(
        piecewise.maps[-2::-1], piecewise.activations(pattern)[::-1], strict=True
    ):
        back = step.absolute().adjoint(back * np.abs(active))
    return np.array(back)
