"""A piecewise-affine function in the form that the compiled kernel works on.

The block's parameters are seen in coordinates of the row space of its inputs: `theta = scores @ basis`
with orthonormal rows, so that directions on which no kink and no output depends (constant zero or
duplicate columns, fewer samples than inputs) do not occur. They keep what they had at the start.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import qr, solve_triangular

from reluscape.descent.chain import Chain, all_normals, all_pulls
from reluscape.descent.kernel import State
from reluscape.piecewise import Piecewise
from reluscape.singular import svd

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

#: Singular values of the inputs below this share of the largest count as zero: sqrt(eps), because
#: directions seen only through rounding are no directions of the data.
RANK = float(np.finfo(float).eps) ** 0.5

#: Diagonal of the pivoted triangle of the unit normals from which they count as independent.
INDEPENDENT = 1e-9

#: Features below this share of what cancels in them are rounding errors of zero.
NOISE = 4.0 * float(np.finfo(float).eps)

#: A move of the active kinks after which no second one is needed.
TINY = 1e-13


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """A block's L1 loss in reduced coordinates.

    Attributes:
        piecewise: The block.
        chain: Its network for the kernel.
        sizes: Lengths of the input columns, 1 for zero ones (inputs + bias,).
        basis: Orthonormal rows that span the row space of the inputs over `sizes` (r, inputs + bias).
        features: Inputs in that basis, scaled by `scale` (N, r).
        scale: Factors on the scores; the features then have root mean square one in every direction.
        reach: Bound on the rates of each sample's kinks along a direction of length one (N,).
        unit: Power of two next to the targets' mean size, in which residuals are counted: the kernel's
            tolerances take values to be of size one.
    """

    piecewise: Piecewise
    chain: Chain
    sizes: Floats
    basis: Floats
    features: Floats
    scale: Floats
    reach: Floats
    unit: float

    @classmethod
    def of(cls, piecewise: Piecewise) -> Problem:
        """Reduce a block's inputs and flatten its maps."""
        inputs = piecewise.features
        if piecewise.bias:
            inputs = np.hstack([inputs, np.ones((len(inputs), 1))])
        sizes = np.linalg.norm(inputs, axis=0)
        sizes[sizes == 0] = 1.0
        inputs = inputs / sizes
        _, values, right = svd(inputs)
        rank = int((values > RANK * values.max(initial=0.0)).sum())
        scale = values[:rank] / len(inputs) ** 0.5
        features = inputs @ right[:rank].T
        features[np.abs(features) <= NOISE * np.linalg.norm(inputs, axis=1)[:, None]] = 0.0
        features /= scale
        unit = _unit(piecewise)
        reach = _growth(piecewise, unit) * np.linalg.norm(features, axis=1)
        chain = chain_of(piecewise, unit)
        return cls(piecewise, chain, sizes, right[:rank], features, scale, reach, unit)

    @property
    def size(self) -> int:
        """Number of reduced parameters."""
        return self.piecewise.width * int(self.features.shape[1])

    def reduce(self, theta: Floats) -> Floats:
        """Reduced coordinates of theta."""
        return np.asarray((self._rows(theta) * self.sizes @ self.basis.T * self.scale).ravel())

    def expand(self, reduced: Floats, start: Floats) -> Floats:
        """Theta with these reduced coordinates; what they do not determine is as in `start`.

        One point (size,) or several (points, size).
        """
        change = np.atleast_2d(reduced - self.reduce(start))
        change = change.reshape(len(change), self.piecewise.width, len(self.scale))
        rows = self._rows(start) + change / self.scale @ self.basis / self.sizes
        inputs = rows.shape[2] - self.piecewise.bias
        weights = rows[:, :, :inputs].reshape(len(rows), -1)
        theta = np.hstack([weights, rows[:, :, inputs:].reshape(len(rows), -1)])
        return theta if reduced.ndim == 2 else theta[0]

    def _rows(self, theta: Floats) -> Floats:
        """Weights and bias of each unit in one row."""
        weight, bias = self.piecewise.unpack(theta)
        return weight if bias is None else np.hstack([weight, bias[:, None]])

    def settled(self, theta: Floats, active: Indices) -> Floats:
        """Theta moved to where the active kinks are zero to the last bits."""
        return settle(self.piecewise, theta, active)

    def values(self, reduced: Floats, shift: Floats | None) -> Floats:
        """Switching values (N, K) at a reduced point, each shifted by `shift` where that is given.

        The samples of one kink are side by side in memory, as the kernel has them.
        """
        piecewise, chain = self.piecewise, self.chain
        hidden = self.features @ reduced.reshape(piecewise.width, -1).T
        values = np.empty((int(chain.columns[-1] + chain.sizes[-1]), len(hidden))).T
        for level, step in enumerate(piecewise.maps):
            columns = slice(chain.columns[level], chain.columns[level] + chain.sizes[level + 1])
            before = values[:, columns]
            before[:] = step(hidden)
            if level == len(piecewise.slopes):
                before -= piecewise.targets
                before /= self.unit
            if shift is not None:
                before += shift[:, columns]
            if level < len(piecewise.slopes):
                hidden = np.where(before > 0, before, piecewise.slopes[level] * before)
        return values

    def outputs(self, hidden: Floats) -> Floats:
        """The residuals from the last rectifier's outputs (N, points, units)."""
        targets = np.asarray(self.piecewise.targets, dtype=np.float64)
        return np.asarray((self.piecewise.maps[-1](hidden) - targets[:, None]) / self.unit)

    def loss_at(self, reduced: Floats) -> float:
        """The loss at a reduced point."""
        return self.loss(self.values(reduced, None))

    def loss(self, values: Floats) -> float:
        """The loss from the switching values."""
        residuals = values[:, int(self.chain.columns[-1]) :]
        return float(np.abs(residuals).sum() * self.chain.weight)

    def state(
        self,
        reduced: Floats,
        active: Indices,
        shift: Floats | None,
        bits: NDArray[np.uint8] | None = None,
    ) -> State:
        """A fresh state near a reduced point, exactly where the active kinks are zero.

        Args:
            reduced: The point (size,).
            active: Rows (sample, kink) that shall be zero; dependent ones are left out.
            shift: Shifts of the switching values, or None.
            bits: Sides of the active kinks; default: as the values say.
        """
        size, chain = self.size, self.chain
        values = self.values(reduced, shift)
        pattern = (values > 0).astype(np.uint8)
        if bits is not None:
            pattern[active[:, 0], active[:, 1]] = bits[active[:, 0], active[:, 1]]
        for _ in range(4):
            active, edges = _edges(active, self.normals(pattern, active), size)
            count = len(active)
            off = values[active[:, 0], active[:, 1]]
            reduced = reduced - off @ edges[:count]
            values = self.values(reduced, shift)
            listed = np.zeros(values.shape, dtype=np.bool_, order="F")
            listed[active[:, 0], active[:, 1]] = True
            # edges hold for one pattern: where moving has changed it, they are computed anew
            found = np.where(listed, pattern, values > 0).astype(np.uint8)
            settled = np.array_equal(found, pattern) and np.abs(off).max(initial=0.0) <= TINY
            pattern = found
            if settled:
                break
        else:
            active, edges = _edges(active, self.normals(pattern, active), size)
            count = len(active)
        place = np.full(values.shape, -1, dtype=np.int64, order="F")
        place[active[:, 0], active[:, 1]] = np.arange(count)
        values[listed] = 0.0
        samples, kinks = np.full(size, -1, dtype=np.int64), np.zeros(size, dtype=np.int64)
        samples[:count], kinks[:count] = active.T
        pulls = np.empty((len(values), self.piecewise.width))
        all_pulls(chain, pattern.T, pulls)
        gradient = np.ascontiguousarray((pulls.T @ self.features).ravel())
        return State(
            reduced.copy(), values, pattern, place, samples, kinks, edges,
            np.linalg.norm(edges, axis=1), edges @ gradient, np.zeros(size), pulls, gradient,
            np.array([self.loss(values)]),
        )  # fmt: skip

    def kinks_of(self, state: State) -> Indices:
        """Numbers, as the block counts them, of the active kinks."""
        found, column = [], 0
        for group in self.piecewise.groups:
            samples, units = np.nonzero(state.place[:, column : column + group.units] >= 0)
            found.append(group.start + samples * group.units + units)
            column += group.units
        return np.concatenate(found)

    def normals(self, bits: NDArray[np.uint8], active: Indices) -> Floats:
        """Normals of kinks (sample, kink) under a pattern, shape (k, size)."""
        units = np.empty((len(active), self.piecewise.width))
        all_normals(self.chain, bits.T, active, units)
        rows = units[:, :, None] * self.features[active[:, 0]][:, None, :]
        return np.asarray(rows.reshape(len(active), self.size))


def _edges(active: Indices, normals: Floats, size: int) -> tuple[Indices, Floats]:
    """The independent ones among the active kinks, and their edges.

    The edges are d_k with a_q . d_k = [q = k] (rows of the pseudo-inverse), then an orthonormal basis
    of the normals' null space.
    """
    if len(active) == 0:
        return active, np.eye(size)
    lengths = np.linalg.norm(normals, axis=1)
    scaled = normals / np.where(lengths > 0, lengths, 1.0)[:, None]
    q, r, order = qr(scaled.T, pivoting=True)
    diagonal = np.abs(np.diag(r))
    count = int((diagonal > INDEPENDENT).sum())
    kept = order[:count]
    inverse = solve_triangular(r[:count, :count], np.eye(count), trans="T")
    edges = (q[:, :count] @ inverse).T / lengths[kept][:, None]
    return active[kept], np.ascontiguousarray(np.vstack([edges, q[:, count:].T]))


def settle(piecewise: Piecewise, theta: Floats, active: Indices) -> Floats:
    """A block's parameters moved to where some kinks are zero to the last bits."""
    moved = theta.copy()
    for _ in range(2 if len(active) else 0):
        values = piecewise.forward(moved)[0]
        pattern = values > 0
        pattern[active] = False
        normals = piecewise.normals(active, pattern)
        moved = moved - np.linalg.lstsq(normals, values[active], rcond=None)[0]
    return moved


def _unit(piecewise: Piecewise) -> float:
    """`Problem.unit`; one where all targets are zero."""
    mean = float(np.abs(piecewise.targets).mean()) if piecewise.has_residuals else 0.0
    return float(2.0 ** np.round(np.log2(mean))) if mean > 0 else 1.0


def _growth(piecewise: Piecewise, unit: float) -> float:
    """Bound on the length of any switching value's derivative by its sample's z."""
    growth, largest = 1.0, 1.0
    for dense in matrices_of(piecewise, unit):
        growth *= float(np.linalg.norm(dense, ord=2))
        largest = max(largest, growth)
    return largest


def matrices_of(piecewise: Piecewise, unit: float = 1.0) -> list[Floats]:
    """The block's maps as dense matrices, what follows the last in some unit."""
    matrices: list[Floats] = []
    width = piecewise.width
    for step in piecewise.maps:
        matrix = np.eye(width) if step.matrix is None else step.matrix
        matrices.append(np.diag(matrix) if matrix.ndim == 1 else matrix)
        width = len(matrix)
    matrices[-1] = matrices[-1] / unit
    return matrices


def chain_of(piecewise: Piecewise, unit: float = 1.0) -> Chain:
    """The block's maps in one array, residuals in some unit."""
    matrices = matrices_of(piecewise, unit)
    sizes = [piecewise.width, *(len(matrix) for matrix in matrices)]
    areas = [matrix.size for matrix in matrices]
    return Chain(
        np.array(sizes, dtype=np.int64),
        np.cumsum([0, *areas[:-1]], dtype=np.int64),
        np.cumsum([0, *sizes[1:-1]], dtype=np.int64),
        np.concatenate([matrix.ravel() for matrix in matrices]),
        np.array(piecewise.slopes, dtype=np.float64),
        unit / piecewise.num_samples,
        True,
        np.array([_is_diagonal(matrix) for matrix in matrices]),
    )


def _is_diagonal(matrix: Floats) -> bool:
    """Whether a matrix is square and diagonal."""
    square = matrix.shape[0] == matrix.shape[1]
    return square and np.array_equal(matrix, np.diag(np.diagonal(matrix)))
