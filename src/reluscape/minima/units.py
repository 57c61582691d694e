"""One hidden layer seen unit by unit: the minimisers of a cell's squared loss in `R_j = z_j w_j`.

With the pattern frozen the outputs are `f_i = sum_j D_ij R_j . x_i` (D_ij = 1, or the rectifier's slope
on its negative side), and the loss is convex in R. Everything depends on R through the row space of the
inputs only, samples that occur twice count once, and units with one pattern act as one: those of one
sign have the sum of their R in the same cone, and with both signs that sum may be anything. What is left
is `E q = y` in the least-squares sense for the groups of units, each in at most rank X coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, lapack

from reluscape.landscape import Landscape
from reluscape.minima.result import Kind
from reluscape.piecewise import Piecewise
from reluscape.singular import svd

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]

#: Singular values below this share of the largest are rounding errors of zero.
RANK = 1e-11
#: Rounding errors of scores, in units of the inputs' condition.
NOISE = 16.0
#: Share of the targets' squares below which a loss above the least possible one is rounding.
FIT = 1e-12
#: Reciprocal condition of the inputs' Gram matrix above which they are independent.
INDEPENDENT = 1e-13


def row_space(piecewise: Piecewise) -> tuple[Floats, Floats, Floats, Floats]:
    """A layer's inputs `[X, 1]` in coordinates of their row space, columns scaled to length one.

    Returns:
        The inputs (samples, inputs + bias); orthonormal scores (samples, rank); a unit's weights by its
        part of q (inputs + bias, rank); and that part by its weights, of the same shape.
    """
    features = piecewise.features
    if piecewise.bias:
        features = np.hstack([features, np.ones((len(features), 1))])
    sizes = np.linalg.norm(features, axis=0)
    sizes[sizes == 0] = 1.0
    left, values, right = svd(features / sizes)
    rank = int((values > RANK * values.max(initial=0.0)).sum())
    back = (right[:rank] / sizes).T / values[:rank]
    return features, left[:, :rank], back, (right[:rank] * sizes).T * values[:rank]


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """The first layer's inputs with the bias's ones: the distinct ones that are not zero.

    Attributes:
        features: The distinct inputs, each column over its length; shape (distinct, params).
        lengths: Their lengths (distinct,).
        sizes: Lengths of the columns over all samples, 1 for zero columns (params,).
        counts: How many samples there are of each (distinct,).
        rows: One sample of each (distinct,).
        group: Which of them each sample is, -1 for inputs of zero (samples,).
    """

    features: Floats
    lengths: Floats
    sizes: Floats
    counts: Floats
    rows: Indices
    group: Indices

    @classmethod
    def of(cls, features: Floats) -> Samples:
        """Find the samples with equal inputs."""
        sizes = np.linalg.norm(features, axis=0)
        sizes[sizes == 0] = 1.0
        scaled = features / sizes
        _, rows, group = np.unique(_as_bytes(features), return_index=True, return_inverse=True)
        zero = ~features[rows].any(axis=1)
        number = np.where(zero, -1, np.cumsum(~zero) - 1)[group]
        rows = rows[~zero]
        counts = np.bincount(number[number >= 0], minlength=len(rows)).astype(np.float64)
        return cls(scaled[rows], np.linalg.norm(scaled[rows], axis=1), sizes, counts, rows, number)

    def means(self, targets: Floats) -> tuple[Floats, float]:
        """Mean targets of each input, and the sum of squares that no function of the inputs removes.

        Inputs of zero have outputs that no weights change. Targets that cancel but for the rounding of
        their sum have the mean zero: its sign would be that of the rounding.
        """
        inside = self.group >= 0
        number, some = self.group[inside], targets[inside]
        means = np.bincount(number, some, minlength=len(self.rows)) / self.counts
        sizes = np.bincount(number, np.abs(some), minlength=len(self.rows))
        noise = np.where(self.counts > 1, np.finfo(np.float64).eps * sizes, 0.0)
        means = np.where(np.abs(means) <= noise, 0.0, means)
        rest = float(((some - means[number]) ** 2).sum() + (targets[~inside] ** 2).sum())
        return means, rest

    def spread(self, values: Floats) -> Floats:
        """Values of the distinct inputs for all samples, zero for inputs of zero."""
        return np.where(self.group >= 0, np.append(values, 0.0)[self.group], 0.0)


def _as_bytes(features: Floats) -> NDArray[np.void]:
    """Rows as single values that can be compared; -0.0 is 0.0."""
    rows = np.ascontiguousarray(features + 0.0)
    return rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()


@lru_cache(maxsize=4)
def samples_of(landscape: Landscape) -> Samples:
    """The samples of a landscape; computed once, because many points are asked about the same data."""
    piecewise = landscape.block(0).piecewise
    features = piecewise.features
    if piecewise.bias:
        features = np.hstack([features, np.ones((len(features), 1))])
    return Samples.of(features)


@lru_cache(maxsize=4)
def gram_of(samples: Samples) -> Any | None:
    """Cholesky factor of the Gram matrix of the distinct inputs at length one.

    None where they are dependent, or too nearly so to say.
    """
    if not 0 < len(samples.features) <= samples.features.shape[1]:
        return None
    rows = samples.features / samples.lengths[:, None]
    products = rows @ rows.T
    try:
        factor = cho_factor(products)
    except LinAlgError:
        return None
    size = float(np.abs(products).sum(axis=0).max())
    return factor if lapack.dpocon(factor[0], size)[0] >= INDEPENDENT else None


@lru_cache(maxsize=4)
def scores_of(samples: Samples) -> tuple[Floats, Floats, float]:
    """Orthonormal scores C of the distinct inputs, `x_i . w = C_i . q`, and scaled weights by q.

    The last number is what rounding may have moved C by: columns that are nearly constant leave scores
    that are differences of almost equal numbers.
    """
    if not len(samples.features):
        return np.empty((0, 0)), np.empty((samples.features.shape[1], 0)), 0.0
    left, values, right = svd(samples.features)
    rank = int((values > RANK * values[0]).sum())
    noise = NOISE * float(np.finfo(np.float64).eps * values[0] / values[rank - 1])
    return left[:, :rank], right[:rank].T / values[:rank], noise


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """A cell of the first layer of a one-hidden-layer network with one output.

    Attributes:
        samples: The inputs.
        targets: What the units' contributions must add up to for each input (distinct,).
        rest: Sum of squared residuals that is left whatever they are.
        pattern: Which units are active on which inputs (distinct, units).
        weights: The units' weights in the scaled columns (units, params).
        outputs: Their output weights (units,).
        slope: Of the rectifier on its negative side.
    """

    samples: Samples
    targets: Floats
    rest: float
    pattern: Bools
    weights: Floats
    outputs: Floats
    slope: float

    @property
    def factors(self) -> Floats:
        """D: what each unit passes on of its switching values (distinct, units)."""
        return np.where(self.pattern, 1.0, self.slope)

    @property
    def sides(self) -> Floats:
        """Signs of the switching values in the cell (distinct, units)."""
        return np.where(self.pattern, 1.0, -1.0)

    @property
    def turns(self) -> Floats:
        """Sign of a unit's contribution to each output where its output weight is positive."""
        return np.sign(self.factors) * self.sides

    def kind(self, rank: int) -> Kind:
        """What the minimisers are, from the rank of the outputs' derivatives."""
        if not self.factors.any():
            return "plateau"
        return "unique" if rank == self.weights.size else "continuous"

    @property
    def negligible(self) -> float:
        """Squares that are rounding beside those of the targets."""
        return FIT * (float(self.samples.counts @ self.targets**2) + self.rest)

    def plain(self, squares: float) -> float:
        """Squares without what is rounding of zero."""
        return squares if squares > self.negligible else 0.0


@dataclass(frozen=True, slots=True)
class Leaf:
    """A part of the sign choices without a minimiser inside the cell; see `Infeasibility`.

    Attributes:
        signs: Signs that it is about, 0 for both (units,).
        weights: mu (distinct, units).
        outputs: l of each distinct input's samples, together (distinct,).
        directions: w (units, params) in the scaled columns.
        clause: Whether one input alone shows it.
        turns: Where several leaves are one proof for all signs, the unit whose sign this one turns with.
    """

    signs: NDArray[np.int8]
    weights: Floats
    outputs: Floats
    directions: Floats
    clause: bool
    turns: int | None = None

    @property
    def of_one_side(self) -> bool:
        """Whether one side of one pattern's cell shows it, which all minimisers are beyond alike."""
        return self.turns is None and int(self.weights.any(axis=1).sum()) == 1
