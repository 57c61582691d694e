"""Every tolerance of the exact and certified tiers, with its origin, in one frozen object."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class Tolerances:
    """Numbers that decide what float64 may call zero, positive or independent.

    Attributes:
        rounding: Factor on the first-order rounding bound `n eps sum|terms|` of a computed sum of n
            products. The bound itself is rigorous for one evaluation at factor 1; a point that was
            itself computed (a vertex, a minimiser) carries a few such errors, hence 16.
        independence: The active normals, scaled to length one, count as independent when their
            smallest singular value exceeds this. sqrt(eps): multipliers then keep half their digits.
        resolve: A point is re-solved from its active set when the exact stationary point lies within
            this distance, relative to `1 + ||theta||`. sqrt(eps): half of float64's digits, which
            is where descent methods that compare losses stall.
        existence: A minimum is claimed at a numerically stationary point only when an exact one is
            proved within this distance, relative to `1 + ||theta||`: eps^(1/4), so that losses
            differ by less than about sqrt(eps) of the curvature times it.
        eigenvalue: Factor on `params * eps * ||H||`, the backward error of a symmetric eigensolver.
        max_dense: Largest number of parameters for which a dense Hessian is formed
            (2000^2 numbers are 32 MB, one eigendecomposition takes seconds).
        max_active: Largest number of active kinks all of whose sides are gone through (2^10 patterns).
        max_leaves: Largest number of parts into which the directions at dependent active kinks are
            split, each with its linear program.
        interior: A cell is non-empty when a unit box's worth of directions has more than this
            margin to every kink; linear programs are solved to 1e-9, hence a hundred times that.
    """

    rounding: float = 16.0
    independence: float = _EPS**0.5
    resolve: float = _EPS**0.5
    existence: float = _EPS**0.25
    eigenvalue: float = 16.0
    max_dense: int = 2000
    max_active: int = 10
    max_leaves: int = 100
    interior: float = 1e-7


#: The tolerances in force.
TOLERANCES = Tolerances()
