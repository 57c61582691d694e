"""What the rays of a layer's cells put out, in rational arithmetic, each when it is asked for."""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.arithmetic import Rational
from reluscape.trees.exact_ray import exact_ray
from reluscape.trees.problem import Problem

__all__ = ["ExactColumns"]

Array = NDArray[Any]
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

#: Numbers of columns that are kept at least, of some 60 bytes each (200 for the absolute loss); as many
#: as half of the layer's cells, where these are more.
HELD = 5_000_000


class ExactColumns:
    """Rays of one unit's cells and their columns in rationals; the floats of the layer are exact.

    Args:
        problem: The layer's. Where its cells were found in float64, so are its rays told from these.

    Attributes:
        problem: The layer's.
        numbers: The arithmetic.
        features: Exact (samples, params).
        target: Exact targets without the output bias (samples * outputs,).
        size: Sum of the targets' squares, or of their absolute values.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem, self.numbers = problem, Rational()
        layer = problem.layer
        self.features = self.numbers.array(layer.features)
        if problem.exact is None:
            self._join_multiples()
        residual = self.numbers.array(layer.residual)
        self.target = residual.ravel()
        self.size = abs(residual).sum() if layer.is_l1 else (residual * residual).sum()
        self._slope = self.numbers.array(np.array([layer.slope]))[0]
        self._readouts = self.numbers.array(layer.weights[:, problem.units.order].T)
        self._mixing = self._readouts @ self._readouts.T
        self._mixed = [self.numbers.whole(row) for row in self._readouts @ residual.T]
        self._outside = self.numbers.complement(self.features).T
        self._rays: dict[int, Array] = {}
        self._columns: dict[int, Array] = {}
        self._whole: dict[int, tuple[Any, Any]] = {}
        self._products: dict[tuple[int, int], Any] = {}
        self._right: dict[tuple[int, int], Any] = {}

    def _join_multiples(self) -> None:
        """Make samples multiples of each other that float64 takes as such: as `problem._values` does."""
        for sample, other in enumerate(self.problem.cones.cells.first.tolist()):
            if other >= 0 and other != sample:
                at = int(np.abs(self.problem.layer.features[other]).argmax())
                factor = self.features[sample, at] / self.features[other, at]
                self.features[sample] = factor * self.features[other]

    @property
    def known(self) -> int:
        """Rays whose columns are kept."""
        return max(len(self._whole), len(self._columns))

    def ray(self, ray: int) -> Array:
        """A ray (params,).

        Raises:
            AnalysisError: Float64 does not tell which hyperplanes it lies on.
        """
        if ray not in self._rays:
            self._rays[ray] = self._seen(ray)[0]
        return self._rays[ray]

    def column(self, ray: int) -> Array:
        """What a unit of output weight one puts out at a ray (samples,)."""
        if ray not in self._columns:
            self._make_room(self._columns)
            self._columns[ray] = self._rectified(ray)
        return self._columns[ray]

    def _rectified(self, ray: int) -> Array:
        _, values = self._seen(ray)
        return np.where(values > 0, values, self._slope * values)

    def _seen(self, ray: int) -> tuple[Array, Array]:
        """A ray, and the samples' values there."""
        exact = self.problem.exact
        if exact is not None:
            return exact.rays[ray], exact.values[:, ray]
        return exact_ray(self.problem, ray, self.features, self._outside, self.numbers)

    def _make_room(self, kept: dict[int, Any]) -> None:
        """Forget all columns where there would be too many."""
        most = max(HELD, self.problem.num_cells // 2)
        if (len(kept) + 1) * len(self.features) > most:
            kept.clear()

    def gram(self, rays: Indices, owners: Indices) -> Array:
        """Products of what the rays of some units put out (rays, rays)."""
        found = np.empty((len(rays), len(rays)), dtype=object)
        flat, units = rays.tolist(), owners.tolist()
        for i, j in combinations_with_replacement(range(len(flat)), 2):
            product = self._product(flat[i], flat[j]) * self._mixing[units[i], units[j]]
            found[i, j] = found[j, i] = product
        return found

    def right(self, rays: Indices, owners: Indices) -> Array:
        """Products of that with the targets (rays,)."""
        found = np.empty(len(rays), dtype=object)
        for place, (unit, ray) in enumerate(zip(owners.tolist(), rays.tolist(), strict=True)):
            if (unit, ray) not in self._right:
                self._right[unit, ray] = self.numbers.product(
                    self._mixed[unit], self._in_whole(ray)
                )
            found[place] = self._right[unit, ray]
        return found

    def design(self, rays: Indices, owners: Indices) -> Array:
        """What the rays of some units put out (samples * outputs, rays)."""
        count, samples = len(rays), len(self.features)
        found = np.empty((samples, self._readouts.shape[1], count), dtype=object)
        for place, (unit, ray) in enumerate(zip(owners.tolist(), rays.tolist(), strict=True)):
            found[:, :, place] = np.outer(self.column(ray), self._readouts[unit])
        return found.reshape(len(self.target), count)

    def theta(self, rays: list[Indices], lengths: Array) -> Floats:
        """The layer's parameters at a point in a cell, rounded once.

        Args:
            rays: Of each unit that is read.
            lengths: One for each of these, unit after unit, exact.
        """
        layer, at = self.problem.layer, 0
        rows = layer.unpack(layer.theta).copy()
        for unit, own in zip(self.problem.units.order, rays, strict=True):
            exact = self.numbers.array(np.zeros(rows.shape[1]))
            for ray, length in zip(own.tolist(), lengths[at : at + len(own)], strict=True):
                if length != 0:
                    exact = exact + length * self.ray(ray)
            rows[unit], at = self.numbers.floats(exact), at + len(own)
        return layer.pack(rows)

    def _product(self, one: int, other: int) -> Any:
        """The product of two rays' columns; of all rays, most are never in one cell."""
        pair = (one, other) if one < other else (other, one)
        if pair not in self._products:
            self._products[pair] = self.numbers.product(*map(self._in_whole, pair))
        return self._products[pair]

    def _in_whole(self, ray: int) -> tuple[Any, Any]:
        """A ray's column, as `Rational.whole`."""
        if ray not in self._whole:
            self._make_room(self._whole)
            self._whole[ray] = self.numbers.whole(self._rectified(ray))
        return self._whole[ray]
