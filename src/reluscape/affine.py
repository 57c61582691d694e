"""Affine maps between rectifiers, and folding a chain of layers into them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reluscape.network import Affine, Rectifier, Scale

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class AffineMap:
    """`h -> M h + shift`; `matrix` is None (identity), a diagonal (n,) or dense (out, in)."""

    matrix: Floats | None = None
    shift: Floats | None = None

    def linear(self, rows: Floats) -> Floats:
        """Apply M to every row."""
        if self.matrix is None:
            return rows
        return rows * self.matrix if self.matrix.ndim == 1 else rows @ self.matrix.T

    def __call__(self, rows: Floats) -> Floats:
        """Apply the map to every row."""
        moved = self.linear(rows)
        return moved if self.shift is None else moved + self.shift

    def adjoint(self, rows: Floats) -> Floats:
        """Apply M^T to every row."""
        if self.matrix is None:
            return rows
        return rows * self.matrix if self.matrix.ndim == 1 else rows @ self.matrix

    def then(self, matrix: Floats, shift: Floats | None) -> AffineMap:
        """Compose: this map first, then `matrix` (diagonal or dense) and `shift`."""
        after = AffineMap(matrix, shift)
        moved = None if self.shift is None else after(self.shift[None])[0]
        moved = shift if self.shift is None else moved
        if self.matrix is None:
            return AffineMap(matrix, moved)
        if self.matrix.ndim == 1:
            return AffineMap(matrix * self.matrix, moved)
        return AffineMap(
            matrix[:, None] * self.matrix if matrix.ndim == 1 else matrix @ self.matrix, moved
        )

    def absolute(self) -> AffineMap:
        """The map of absolute values, which propagates magnitudes and error bounds."""
        matrix = None if self.matrix is None else np.abs(self.matrix)
        return AffineMap(matrix, None if self.shift is None else np.abs(self.shift))

    def width_after(self, width: int) -> int:
        """Number of outputs for `width` inputs."""
        return len(self.matrix) if self.matrix is not None else width


def fold(
    layers: Sequence[Affine | Scale | Rectifier],
) -> tuple[tuple[AffineMap, ...], tuple[float, ...]]:
    """Fold the layers after a block into maps A_0..A_m and the rectifiers' slopes between them.

    Neighbouring rectifiers are one rectifier: `rho_b(rho_a(u))` has slope `a b`, or `a` where a < 0.
    """
    maps: list[AffineMap] = []
    slopes: list[float] = []
    current = AffineMap()
    for layer in layers:
        if isinstance(layer, Affine):
            current = current.then(layer.weight, layer.bias)
        elif isinstance(layer, Scale):
            current = current.then(layer.scale, layer.shift)
        elif slopes and current.matrix is None and current.shift is None:
            slopes[-1] = slopes[-1] * layer.slope if slopes[-1] >= 0 else slopes[-1]
        else:
            maps.append(current)
            slopes.append(layer.slope)
            current = AffineMap()
    return (*maps, current), tuple(slopes)
