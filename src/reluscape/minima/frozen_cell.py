"""A cell as the solver-free check sees it: products with the frozen network, and their rounding errors.

For a landscape the variables are `R_j = z_j w_j`: the first layer of the network whose output weights are
all one, with each unit's cell turned over where its output weight is negative.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reluscape.affine import AffineMap
from reluscape.block import Block
from reluscape.piecewise import Piecewise
from reluscape.tolerances import TOLERANCES

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]

EPS = float(np.finfo(np.float64).eps)
#: Samples that are added up plainly.
CHUNK = 64


class Products(NamedTuple):
    """What the frozen network makes of parameters, or of a direction.

    Attributes:
        values: Hidden switching values (hidden,).
        outputs: Outputs (samples, outputs).
        value_errors: Bounds on the values' rounding errors.
        output_errors: And on the outputs'.
    """

    values: Floats
    outputs: Floats
    value_errors: Floats
    output_errors: Floats


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

    def forward(self, theta: Floats, *, linear: bool = False) -> Products:
        """Switching values and outputs of the frozen network with bounds on their rounding errors.

        Args:
            theta: Parameters, or with `linear` a direction.
            linear: Leave the constants out: `E theta` for outputs.
        """
        values, outputs = self.piecewise.frozen(self.pattern, theta, linear=linear)
        sizes, most = self._absolute.frozen(self.pattern, np.abs(theta), linear=linear)
        hidden = slice(self.hidden)
        return Products(values[hidden], outputs, self.unit * sizes[hidden], self.unit * most)

    def derivatives(self, *, absolute: bool = False) -> Floats:
        """E in scaled columns, or the sums of absolute terms behind it (samples * outputs, params).

        Cost: memory for all these numbers.
        """
        piecewise = self._absolute if absolute else self.piecewise
        rows = np.repeat(np.arange(piecewise.num_samples), self.num_outputs)
        units = piecewise.output_jacobian(self.pattern).reshape(len(rows), -1)
        return piecewise.outer(units, rows) / self.sizes

    def least_singular_value(self, rest: Floats) -> float:
        """A number that no singular value of E in scaled columns is below; not positive where none is.

        Columns that are zero, and zero in `rest` (params,), too, are left out.
        """
        matrix, errors = self.derivatives(), self.unit * self.derivatives(absolute=True)
        used = errors.any(axis=0) | (rest != 0)
        matrix, errors = matrix[:, used], errors[:, used]
        if matrix.shape[0] < matrix.shape[1] or not matrix.size:
            return 0.0
        values = np.linalg.svd(matrix, compute_uv=False)
        noise = len(matrix) * EPS * float(values[0]) + float(np.linalg.norm(errors))
        return float(values[-1]) - noise

    @property
    def norm(self) -> float:
        """A number that E in scaled columns stretches no vector by more than (its Frobenius norm)."""
        return float(np.linalg.norm(self.norms))

    @property
    def norms(self) -> Floats:
        """The same of each sample's rows of E (samples,)."""
        units = (self.piecewise.output_jacobian(self.pattern) ** 2).sum(axis=(1, 2))
        return np.asarray(np.sqrt(units * self._rows))

    @property
    def num_outputs(self) -> int:
        """Outputs of a sample."""
        piecewise = self.piecewise
        width = piecewise.width
        for step in piecewise.maps:
            width = step.width_after(width)
        return width

    @property
    def _absolute(self) -> Piecewise:
        """The network of absolute values, which carries rounding errors."""
        return replace(
            self.piecewise,
            features=self.piecewise.magnitudes,
            maps=tuple(step.absolute() for step in self.piecewise.maps),
            slopes=tuple(map(abs, self.piecewise.slopes)),
        )

    @property
    def _rows(self) -> Floats:
        """Squares of the lengths of the inputs in scaled columns (samples,)."""
        piecewise = self.piecewise
        columns = self.sizes[: piecewise.features.shape[1]]
        rows = ((piecewise.features / columns) ** 2).sum(axis=1)
        return np.asarray(rows + piecewise.bias / piecewise.num_samples)

    def gap(self, kinks: Indices, amounts: Floats, outputs: Floats) -> tuple[float, float]:
        """Length of `sum_k amounts_k a_k - E^T outputs` in scaled columns, and its rounding error."""
        gap, error = self.rest(kinks, amounts, outputs)
        return float(np.linalg.norm(gap)), float(np.linalg.norm(error))

    def rest(self, kinks: Indices, amounts: Floats, outputs: Floats) -> tuple[Floats, Floats]:
        """`sum_k amounts_k a_k - E^T outputs` in scaled columns, and bounds on its rounding errors."""
        piecewise = self.piecewise
        pulled = piecewise.pull_back(kinks, self.pattern) * amounts[:, None]
        sizes = piecewise.pull_back(kinks, self.pattern, absolute=True) * np.abs(amounts)[:, None]
        rows = piecewise.sample_of(kinks)
        units = -piecewise.sensitivities(self.pattern, outputs)[0]
        most = np.array(self._absolute.sensitivities(self.pattern, np.abs(outputs))[0])
        np.add.at(units, rows, pulled)
        np.add.at(most, rows, sizes)
        error = self._unit_of_sums * piecewise.assemble(most, piecewise.magnitudes)
        return self._summed_up(units) / self.sizes, error / self.sizes

    def _summed_up(self, units: Floats) -> Floats:
        """Sum `units_i (x) x~_i` over the samples, in theta's order; rounded as if there were few.

        What is lost between the sums of `CHUNK` samples is kept and added at the end.
        """
        total, lost = np.zeros(self.piecewise.num_params), np.zeros(self.piecewise.num_params)
        for start in range(0, len(units), CHUNK):
            here = slice(start, start + CHUNK)
            some = self.piecewise.assemble(units[here], self.piecewise.features[here])
            after = total + some
            used = after - total
            lost += (total - (after - used)) + (some - used)
            total = after
        return np.asarray(total + lost)

    @property
    def _unit_of_sums(self) -> float:
        """The same as `unit` of such a sum."""
        terms = min(CHUNK, len(self.piecewise.features))
        return TOLERANCES.rounding * (self.piecewise.depth_terms + terms) * EPS

    def lengths(self, kinks: Indices) -> Floats:
        """Lengths of kinks' normals in scaled columns."""
        piecewise = self.piecewise
        units = np.linalg.norm(piecewise.pull_back(kinks, self.pattern), axis=1)
        return np.asarray(units * np.sqrt(self._rows[piecewise.sample_of(kinks)]))
