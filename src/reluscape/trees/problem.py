"""A block whose units are alike but for their output weights, in rays of one unit's cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import comb
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reluscape.arrangement import Cones, enumerate_cones
from reluscape.errors import AnalysisError, InputError
from reluscape.progress import Progress
from reluscape.tolerances import TOLERANCES
from reluscape.trees.balance import Balance
from reluscape.trees.layer import Layer
from reluscape.trees.sharp_rays import doubtful, sharp_rays
from reluscape.trees.units import Units, least_angle

if TYPE_CHECKING:
    from reluscape.trees.exact_cells import ExactCells

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Bools = NDArray[np.bool_]

#: Rays of two or more units up to which all their products are held: 2 GB.
HELD = 16_000
#: Bytes that the columns of a unit's rays may take.
MAX_BYTES = 2**31

#: Rays are narrow if a sample that is not zero there is within this share of the longest sample's length,
#: times what nearly dependent units make of it (`least_angle`).
NARROW = 1e-6
#: Values at rays that the search calls zero are rounding errors up to this share of a sample's length.
ZERO = 1e-12
#: What to do where float64 does not tell cells.
NEARLY = (
    "some are equal, parallel or dependent but for rounding errors; use arithmetic='rational', make them"
    " so exactly, or leave some out"
)

_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class Problem:
    """A layer's loss in the rays of its units' cells.

    On a cell every unit's weights are `w_k = sum_r l_kr ray_r / |v_k|` with `l >= 0`, over the rays of
    its cell, and a unit's output at a ray is the same from all cells around it. So outputs are
    `shift + sum_kr l_kr readout_k relu(X ray_r)`, and of the samples nothing is needed but the products
    of these columns with each other and with the targets.

    Attributes:
        layer: The layer, its inputs in units in which columns are of about one size.
        given: The layer as it was given.
        balance: The units.
        units: Its units.
        cones: The cells of one unit.
        pairs: Cells on both sides of each facet of a unit (facets, 2).
        starts: Of each cell in `rays` (cells + 1,).
        rays: Rays of each cell, one cell after the other.
        facet_starts: Of each facet in `facet_rays` (facets + 1,).
        facet_rays: Rays of each facet.
        columns: What a unit of output weight one puts out at each ray (samples, rays).
        narrow: Rays at which a sample is nearly zero, but not quite: next to its hyperplane, or short;
            all of them where what units put out is nearly dependent (rays,). That is where float64 may
            take what is nearly dependent for dependent.
        exact: The cells, where they were found in rational arithmetic.
    """

    layer: Layer
    given: Layer
    balance: Balance
    units: Units
    cones: Cones
    pairs: Indices
    starts: Indices
    rays: Indices
    facet_starts: Indices
    facet_rays: Indices
    columns: Floats
    narrow: Bools
    exact: ExactCells | None

    @classmethod
    def of(
        cls,
        layer: Layer,
        max_cells: int | None,
        progress: Progress | None = None,
        *,
        exact: bool = False,
    ) -> Problem:
        """Find the cells of a layer's units, in float64 or exactly.

        Raises:
            InputError: More cells of the layer than `max_cells` or, exactly, than that is for; columns
                of inputs that cannot be balanced.
            AnalysisError: Samples so nearly equal or parallel that float64 does not tell their cells.
        """
        balance = Balance.of(layer.features)
        given, layer = layer, replace(layer, features=balance.balanced(layer.features))
        units, features, seen = Units.of(layer.weights), layer.features, None
        _check_unit(features)
        if exact:
            from reluscape.trees.exact_cells import ExactCells  # needs python-flint

            seen = ExactCells.of(features, len(units.order), max_cells)
            cones = seen.cones(features)
        else:
            cones = enumerate_cones(features, progress=progress)
            if not len(cones.cells):
                raise AnalysisError(
                    f"the search found no cell of the {len(features)} samples: {NEARLY}"
                )
            cones = replace(cones, rays=sharp_rays(features, cones))
        _check_count(len(cones.cells), len(units.order), max_cells)
        contacts = cones.cells.contacts()
        starts, rays = _grouped(cones.corners, len(cones.cells))
        facet_starts, facet_rays = _shared(contacts.cells, starts, rays)
        values = _values(features, cones) if seen is None else seen.floats()
        longest = np.linalg.norm(features, axis=1).max(initial=0.0)
        nearby = np.abs(values) * least_angle(units.readouts, layer.slope) < NARROW * longest
        narrow = (nearby & (cones.signs != 0)).any(axis=1)
        columns = np.where(values > 0, values, layer.slope * values).T
        return cls(
            layer, given, balance, units, cones, contacts.cells, starts, rays, facet_starts,
            facet_rays, columns, narrow, seen,
        )  # fmt: skip

    def doubts(self) -> int:
        """How often float64 takes samples as equal, or as on one hyperplane, that are so only nearly."""
        return 0 if self.exact else doubtful(self.layer.features, self.cones)

    @property
    def reach(self) -> float:
        """Length of all samples' features together; columns have rounding errors of this times eps."""
        return float(np.linalg.norm(self.layer.features))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Units that are read, cells of a unit, facets of a unit."""
        return len(self.units.order), len(self.starts) - 1, len(self.pairs)

    @property
    def most_rays(self) -> int:
        """Rays of the cell that has most, at least one."""
        return max(1, self.shape[0] * int(np.diff(self.starts).max(initial=1)))

    @property
    def holds_products(self) -> bool:
        """Whether all products of rays are held: one unit needs few, and of many rays they are many."""
        return self.shape[0] > 1 and self.columns.shape[1] <= HELD

    @property
    def proof_words(self) -> int:
        """Words in which the search writes what proves a least loss: a basis, and signs."""
        basis = self.most_rays if self.layer.is_l1 else -(-self.most_rays // 64)
        return basis + self.sign_words

    @property
    def sign_words(self) -> int:
        """Words of these that have a bit for each residual."""
        return -(-self.layer.residual.size // 64) if self.layer.is_l1 else 0

    @property
    def proof_kind(self) -> np.dtype[Any]:
        """The smallest whole numbers that hold a basis."""
        if self.layer.is_l1:
            return np.min_scalar_type(self.layer.residual.size + self.most_rays - 1)
        return np.min_scalar_type(2 ** min(self.most_rays, 64) - 1)

    @property
    def num_cells(self) -> int:
        """Cells of the layer."""
        units, cells, _ = self.shape
        return int(cells**units)

    @property
    def num_facets(self) -> int:
        """Facets between the layer's cells."""
        units, cells, facets = self.shape
        return units * facets * cells ** (units - 1) if units else 0

    def rays_of(self, digits: Indices, unit: int, facet: int) -> list[Indices]:
        """Rays of each unit at a cell, or at a facet of one unit's.

        Args:
            digits: Cells of the units.
            unit: The unit that the facet is one of, -1 for a cell.
            facet: Its number among the unit's.
        """
        return [
            self.facet_rays[self.facet_starts[facet] : self.facet_starts[facet + 1]]
            if k == unit
            else self.rays[self.starts[digits[k]] : self.starts[digits[k] + 1]]
            for k in range(self.shape[0])
        ]

    def cell_of(self, theta: Floats) -> int:
        """A closed cell in which the given layer's parameters lie.

        Raises:
            AnalysisError: None does, as far as float64 tells.
        """
        rows, signs, code = self.given.unpack(theta), self.cones.cells.unpack(), 0
        features = self.given.features
        rounding = TOLERANCES.rounding * features.shape[1] * _EPS
        for unit in self.units.order:
            values, sizes = features @ rows[unit], np.abs(features) @ np.abs(rows[unit])
            sure = np.abs(values) > rounding * sizes
            fits = (signs[:, sure] == (values[sure] > 0)).all(axis=1)
            if not fits.any():
                raise AnalysisError(f"unit {unit} lies in a cell that is too narrow for float64")
            code = code * len(signs) + int(fits.argmax())
        return code

    def inward(self, thetas: Floats) -> Floats:
        """Parameters of the balanced layer, from those of the given one (..., params)."""
        rows, read = self.layer.unpack(thetas).copy(), self.units.order
        rows[..., read, :] = self.balance.inward(rows[..., read, :])
        return self.layer.pack(rows)

    def outward(self, thetas: Floats) -> Floats:
        """Parameters of the given layer, from those of the balanced one (..., params).

        Raises:
            AnalysisError: Float64 does not hold them.
        """
        rows, read = self.layer.unpack(thetas).copy(), self.units.order
        rows[..., read, :] = self.balance.outward(rows[..., read, :])
        return self.layer.pack(rows)

    def thetas(self, rays: Indices, owners: Indices, lengths: Floats) -> Floats:
        """The layer's parameters at points in cells; what rounding makes of zeros is zero.

        Args:
            rays: Of all units, -1 where there is none (points, rays).
            owners: The units that they are of (points, rays).
            lengths: One for each of these (points, rays).
        """
        rows = np.tile(self.layer.unpack(self.layer.theta), (len(rays), 1, 1))
        columns = np.abs(self.layer.features).max(axis=0, initial=0.0)
        least = _EPS * np.abs(self.layer.residual).max(initial=0.0)
        directions = np.vstack([self.cones.rays, np.zeros_like(columns)])[rays]
        for k, (unit, size) in enumerate(zip(self.units.order, self.units.sizes, strict=True)):
            part = np.where(owners == k, lengths, 0.0)[:, None]
            row, terms = (part @ directions)[:, 0], (part @ np.abs(directions))[:, 0] * columns
            terms = terms.sum(axis=1, keepdims=True)
            row[np.abs(row) * columns <= TOLERANCES.rounding * _EPS * terms] = 0.0
            row[np.abs(row) @ columns <= least] = 0.0  # a unit whose outputs change no residual
            rows[:, unit] = row / size
        return self.layer.pack(rows)


def _check_count(cells: int, units: int, max_cells: int | None) -> None:
    """Refuse more cells of a layer than are allowed."""
    if max_cells is not None and cells**units > max_cells:
        raise InputError(
            f"max_cells must allow the layer's {cells**units:,} cells, {cells:,} of each of {units}"
            f" units; received {max_cells:,}: take fewer samples or units, or raise it"
        )


def _values(features: Floats, cones: Cones) -> Floats:
    """Of the samples at the rays (rays, samples), zero where the search knows them to be."""
    # the search knows which kinks contain a ray; what rounding makes of them would be columns, and so
    # would that of samples which it takes as multiples of each other
    first, place = cones.cells.first, np.arange(len(features))
    joined = np.flatnonzero((first >= 0) & (first != place))
    own, others = features[joined], features[first[joined]]
    features = features.copy()
    factors = (own * others).sum(axis=1) / (others**2).sum(axis=1)
    features[joined] = factors[:, None] * others
    sides, outputs = cones.signs, cones.rays @ features.T
    lengths, (on, of) = np.linalg.norm(features, axis=1), np.nonzero(sides == 0)
    if (np.abs(outputs[on, of]) > ZERO * lengths[of]).any():
        raise AnalysisError(f"rays of cells do not lie on the samples' hyperplanes: {NEARLY}")
    return np.where(sides * outputs > 0, outputs, 0.0)


def _check_unit(features: Floats) -> None:
    """Refuse a unit whose rays' columns are more than memory holds, before they are found."""
    distinct = len(np.unique(features[features.any(axis=1)], axis=0))
    rank = int(np.linalg.matrix_rank(features)) if features.size else 0
    lines = 2 * comb(distinct, max(rank - 1, 0))  # fewer, if samples are not in general position
    if 8 * lines * len(features) > MAX_BYTES:
        raise InputError(
            f"what a unit puts out at the rays of its cells must take at most {MAX_BYTES:,} bytes;"
            f" {len(features):,} samples, {distinct:,} of them distinct, have up to {lines:,} rays in"
            f" {rank} dimensions: take fewer samples"
        )


def _grouped(corners: Indices, cells: int) -> tuple[Indices, Indices]:
    """Starts of the cells' rays, and the rays."""
    counts = np.bincount(corners[:, 0], minlength=cells)
    return np.concatenate([[0], np.cumsum(counts)]), np.ascontiguousarray(corners[:, 1])


def _shared(pairs: Indices, starts: Indices, rays: Indices) -> tuple[Indices, Indices]:
    """Starts of the facets' rays, those that both cells have, and the rays, ascending."""
    counts, base = np.diff(starts), int(rays.max(initial=0)) + 1
    ends = np.cumsum(counts[pairs[:, 0]])
    facets = np.repeat(np.arange(len(pairs)), counts[pairs[:, 0]])
    places = np.arange(len(facets)) + (starts[pairs[:, 0]] + counts[pairs[:, 0]] - ends)[facets]
    cells = np.repeat(np.arange(len(counts)), counts)
    both = np.isin(pairs[facets, 1] * base + rays[places], cells * base + rays)
    found = np.sort(facets[both] * base + rays[places[both]])
    return np.searchsorted(found, np.arange(len(pairs) + 1) * base), found % base
