"""Activation cells of a block: the polyhedra of theta on which every kink keeps its sign."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from reluscape.block import Block
from reluscape.errors import InputError
from reluscape.polyhedron import (
    coincident_with,
    facet_point,
    find_facets,
    first_of_coincident,
    largest_ball,
)
from reluscape.results import Result
from reluscape.tolerances import TOLERANCES
from reluscape.validation import check_theta

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]

#: Rounds in which a step into a neighbouring cell may be shortened; each halves it at least.
_MAX_HALVINGS = 30

#: Largest dense constraint matrix (kinks x params) that facets and balls may form: 1.6 GB.
MAX_CONSTRAINT_ENTRIES = 2 * 10**8


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Facets(Result):
    """The irredundant description of a cell: `normals @ theta + offsets >= 0`.

    Attributes:
        normals: Unit inward normals, shape (facets, params); slack is distance.
        offsets: Shape (facets,).
        kinks: The kink behind each facet, shape (facets,); of coincident kinks the first.
        witnesses: A point in the relative interior of each facet, shape (facets, params).
    """

    normals: Floats
    offsets: Floats
    kinks: Indices
    witnesses: Floats

    def plot(self) -> go.Figure:
        """Share of facets per kink number, as a strip."""
        figure = go.Figure(go.Histogram(x=self.kinks))
        return figure.update_layout(xaxis_title="kink", yaxis_title="facets")


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Chord(Result):
    """Lengths of the cell along directions through a point.

    Attributes:
        length: Chord lengths in units of theta for unit directions, shape (directions,); infinite
            where the chord is open on a side.
        angle: `length / ||theta||`, which does not change when the weights are rescaled.
        open_fraction: Share of the directions whose chord is open.
    """

    length: Floats
    angle: Floats
    open_fraction: float

    @property
    def mean_length(self) -> float:
        """Mean over the closed chords (open ones are left out, as in Liu); NaN when all are open."""
        closed = self.length[np.isfinite(self.length)]
        return float(closed.mean()) if closed.size else float("nan")

    def plot(self) -> go.Figure:
        """Histogram of the closed chords' lengths."""
        figure = go.Figure(go.Histogram(x=self.length[np.isfinite(self.length)]))
        return figure.update_layout(xaxis_title="chord length", yaxis_title="directions")


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One activation cell of a block.

    Attributes:
        block: The block.
        pattern: Signs of the kinks, shape (num_kinks,), True where positive.
        reference: A point of the closed cell.
    """

    block: Block = field(repr=False)
    pattern: Bools = field(repr=False)
    reference: Floats = field(repr=False)

    def contains(self, theta: ArrayLike) -> bool:
        """Whether `theta` lies in the closed cell: no kink has the opposite sign there."""
        values = self.block.kinks(theta)
        return bool(np.where(self.pattern, values >= 0, values <= 0).all())

    def facets(self) -> Facets:
        """Find the facets: the kinks that bound the cell, none of them redundant.

        Rays from an interior point hit facets; every kink that no ray hit is decided by a linear
        program over the facets known so far (Clarkson's method), whose solution, where it cuts the
        kink, leads a further ray to a new facet. Coincident kinks count once.

        Cost: one linear program in `params` variables per kink; for a single hidden layer the units
        separate and the programs have `inputs + 1` variables.

        Raises:
            InputError: The pattern has no cell with an interior, or the constraint matrix is larger
                than `MAX_CONSTRAINT_ENTRIES` (use `num_facets_seen` for a lower bound by rays).
        """
        parts = list(self._parts())
        base = self.reference.copy()
        shapes = [self._shape_of(kinks, columns) for kinks, columns in parts]
        for (_, columns), shape in zip(parts, shapes, strict=True):
            base[columns] = shape[3]
        found = [
            self._facets_of(shape, columns, base)
            for (_, columns), shape in zip(parts, shapes, strict=True)
        ]
        if not found:
            empty = np.empty((0, self.block.size))
            return Facets(empty, np.empty(0), np.empty(0, dtype=np.intp), empty)
        fields = [np.concatenate(part) for part in zip(*found, strict=True)]
        order = np.argsort(fields[2], kind="stable")
        return Facets(*(field[order] for field in fields))

    def chebyshev_ball(self, *, box: float | None = None) -> tuple[Floats, float]:
        """Centre and radius of the largest ball inside the cell.

        A cell of the first layer with its bias is a cone and holds balls of any size: the radius is
        then infinite and the centre that of the largest ball within `|theta_j| <= max(1,
        max|reference|)`. Pass `box` to ask for the largest ball within `|theta_j| <= box`.

        Raises:
            InputError: The pattern has no cell with an interior.
        """
        normals, offsets, _ = self._constraints(np.arange(self.block.num_kinks))
        size = self.block.size
        half = (
            max(1.0, float(np.abs(self.reference).max(initial=0.0))) if box is None else float(box)
        )
        if len(normals) == 0:
            return (self.reference.copy(), np.inf) if box is None else (np.zeros(size), half)
        if box is None:
            opening = largest_ball(normals, np.zeros(len(normals)), 1.0)[1]
            if opening <= TOLERANCES.interior:
                half = np.inf
        center, radius = largest_ball(normals, offsets, half)
        if radius <= 0:
            raise InputError(_EMPTY)
        return center[:size], radius if box is not None or np.isinf(half) else np.inf

    def chord(self, theta: ArrayLike, directions: ArrayLike) -> Chord:
        """Measure the cell along each direction through `theta`, both ways.

        Args:
            theta: A point of the cell.
            directions: Shape (directions, params); scaled to unit length.
        """
        point = self._inside(theta)
        rows = _check_directions(directions, self.block.size)
        values = self.block.piecewise.frozen(self.pattern, point)[0]
        lengths = np.array([sum(self._exits(values, row)) for row in rows])
        norm = float(np.linalg.norm(point))
        angles = lengths / norm if norm > 0 else np.full(len(rows), np.inf)
        return Chord(lengths, angles, float(np.isinf(lengths).mean()))

    def nearest_kink(self, theta: ArrayLike | None = None) -> tuple[float, int]:
        """Exact Euclidean distance from a point of the cell to its boundary, and the kink there.

        Returns:
            (infinity, -1) when the cell has no boundary.
        """
        point = self._inside(self.reference if theta is None else theta)
        return self.block.piecewise.clearance(point, self.pattern, np.empty(0, dtype=np.intp))

    def num_facets_seen(self, theta: ArrayLike, rays: int, *, seed: int) -> int:
        """Number of different kinks that random rays from `theta` hit first.

        Each is a facet (with probability one), so this is a lower bound on the number of facets; it
        costs one forward product per ray and no linear program.
        """
        point = self._inside(theta)
        rng = np.random.default_rng(seed)
        values = self.block.piecewise.frozen(self.pattern, point)[0]
        seen: set[int] = set()
        for _ in range(rays):
            times = self._times(values, rng.normal(size=self.block.size))
            for side in times:
                if side.size and np.isfinite(side.min()):
                    seen.add(int(np.argmin(side)))
        normals, offsets, _ = self._constraints(np.array(sorted(seen), dtype=np.intp))
        return len(first_of_coincident(normals, offsets))

    def neighbour(self, kink: int) -> Cell:
        """Return the cell across the facet of `kink`.

        The kinks that coincide with it (duplicate samples, for instance) flip with it; in the generic
        case it flips alone.

        Raises:
            InputError: The kink does not bound this cell.
        """
        self.block.describe_kink(kink)
        normals, offsets, kinks = self._constraints(np.arange(self.block.num_kinks))
        row = np.flatnonzero(kinks == kink)
        witness = None
        if row.size:
            same = coincident_with(normals, offsets, int(row[0]))
            witness = facet_point(normals, offsets, same)
        if witness is None:
            raise InputError(
                f"kink must bound the cell; kink {kink} ({self.block.describe_kink(kink)}) does"
                " not: choose one of cell.facets().kinks"
            )
        beyond = self.pattern.copy()
        beyond[kinks[same]] ^= True
        point = self._step_beyond(beyond, witness, -normals[row[0]])
        values, bounds = self.block.kinks(point), self._rounding(point)
        return Cell(self.block, values > bounds, point)

    # ---- private -----------------------------------------------------------------------------

    def _step_beyond(self, pattern: Bools, witness: Floats, outward: Floats) -> Floats:
        """A point of the next cell: half of the way from the facet to whatever comes next.

        Kinks that were constant in this cell may move in the next, and move others; so the point's
        true cell is asked whether it reaches back to the facet, and the step halved until it does.
        """
        values = self.block.piecewise.frozen(pattern, witness)[0]
        times = Cell(self.block, pattern, witness)._times(values, outward)[0]
        ahead = float(times[np.abs(values) > self._rounding(witness)].min(initial=np.inf))
        step = 0.5 * ahead if np.isfinite(ahead) else 1.0
        for _ in range(_MAX_HALVINGS):
            point = np.asarray(witness + step * outward)
            there = Cell(self.block, self.block.kinks(point) > self._rounding(point), point)
            values = self.block.piecewise.frozen(there.pattern, point)[0]
            back = there._times(values, -outward)[0]
            reach = float(back[np.abs(values) > self._rounding(point)].min(initial=np.inf))
            if reach >= step * (1.0 - TOLERANCES.interior):
                break
            step = 0.5 * (step - reach)
        return point

    def _rounding(self, theta: Floats) -> Floats:
        """Bounds on the switching values' rounding errors."""
        return self.block.piecewise.rounding_bounds(theta, TOLERANCES.rounding)[0]

    def _inside(self, theta: ArrayLike) -> Floats:
        """Return `theta` as a vector, or raise when it lies outside the cell."""
        point = check_theta(theta, self.block.size)
        if not self.contains(point):
            raise InputError(
                "theta must lie in the cell; some kinks have another sign there: use"
                " block.cell(theta)"
            )
        return point

    def _times(self, values: Floats, direction: Floats) -> tuple[Floats, Floats]:
        """Times at which each kink is met along +direction and -direction; infinite if never."""
        rates = self.block.piecewise.rates(self.pattern, direction)
        inward = np.where(self.pattern, rates, -rates)
        slack = np.abs(values)
        with np.errstate(divide="ignore", invalid="ignore"):
            forward = np.where(inward < 0, slack / -inward, np.inf)
            backward = np.where(inward > 0, slack / inward, np.inf)
        return forward, backward

    def _exits(self, values: Floats, direction: Floats) -> tuple[float, float]:
        """Distances to the boundary along +direction and -direction."""
        forward, backward = self._times(values, direction)
        return float(forward.min(initial=np.inf)), float(backward.min(initial=np.inf))

    def _parts(self) -> Iterator[tuple[Indices, Indices]]:
        """Kinks and parameters that separate from the rest: one part per unit where possible."""
        piecewise = self.block.piecewise
        groups = self.block.kink_groups
        first = piecewise.maps[0].matrix
        if len(groups) != 1 or (first is not None and first.ndim == 2):
            if groups:
                yield np.arange(self.block.num_kinks), np.arange(self.block.size)
            return
        inputs = piecewise.features.shape[1]
        for unit in range(piecewise.width):
            weight = np.arange(unit * inputs, (unit + 1) * inputs)
            bias = [piecewise.width * inputs + unit] if piecewise.bias else []
            yield (
                np.arange(unit, self.block.num_kinks, piecewise.width),
                np.append(weight, bias).astype(np.intp),
            )

    def _constraints(
        self, kinks: Indices, columns: Indices | None = None
    ) -> tuple[Floats, Floats, Indices]:
        """Unit inward normals, offsets and numbers of the given kinks that are not constant."""
        size = self.block.size
        wide = len(kinks) * size
        if columns is None and wide > MAX_CONSTRAINT_ENTRIES:
            raise InputError(
                f"the cell's {len(kinks)} x {size} constraint matrix must have at most"
                f" {MAX_CONSTRAINT_ENTRIES} entries: use chord, nearest_kink or num_facets_seen"
            )
        piecewise = self.block.piecewise
        offsets = piecewise.frozen(self.pattern, np.zeros(size))[0][kinks]
        step = max(1, len(kinks) if columns is None else 10**7 // size)
        rows = [
            piecewise.normals(kinks[i : i + step], self.pattern) for i in range(0, len(kinks), step)
        ]
        rows = [r if columns is None else r[:, columns] for r in rows]
        width = size if columns is None else len(columns)
        normals = np.vstack([np.empty((0, width)), *rows])
        lengths = np.linalg.norm(normals, axis=1)
        moving = lengths > 0
        signs = np.where(self.pattern[kinks], 1.0, -1.0)
        still = signs[~moving] * offsets[~moving]
        if (still < -self._rounding(self.reference)[kinks][~moving]).any():
            raise InputError(_EMPTY)
        scale = signs[moving] / lengths[moving]
        return normals[moving] * scale[:, None], offsets[moving] * scale, kinks[moving]

    def _shape_of(self, kinks: Indices, columns: Indices) -> tuple[Floats, Floats, Indices, Floats]:
        """Constraints among `kinks`, which depend on `columns` only, and a strictly interior point."""
        whole = len(columns) == self.block.size
        normals, offsets, numbers = self._constraints(kinks, None if whole else columns)
        inside = self.reference[columns]
        if len(normals) and (normals @ inside + offsets).min() <= TOLERANCES.interior:
            inside, radius = largest_ball(normals, offsets, 1.0 + float(np.abs(inside).max()))
            if radius <= 0:
                raise InputError(_EMPTY)
        return normals, offsets, numbers, inside

    def _facets_of(
        self, shape: tuple[Floats, Floats, Indices, Floats], columns: Indices, base: Floats
    ) -> tuple[Floats, Floats, Indices, Floats]:
        """Facets of one part, with witnesses that agree with `base` in all other parameters."""
        normals, offsets, numbers, inside = shape
        rows, points = find_facets(normals, offsets, inside)
        wide_normals = np.zeros((len(rows), self.block.size))
        wide_points = np.tile(base, (len(rows), 1))
        wide_normals[:, columns], wide_points[:, columns] = normals[rows], points
        return wide_normals, offsets[rows], numbers[rows], wide_points


_EMPTY = (
    "pattern must belong to a cell with an interior; no theta has these signs: take the pattern from"
    " block.pattern(theta)"
)


def _check_directions(directions: ArrayLike, size: int) -> Floats:
    """Directions as unit rows, or raise InputError."""
    rows = np.atleast_2d(np.asarray(directions, dtype=np.float64))
    if rows.ndim != 2 or rows.shape[1] != size:
        raise InputError(f"directions must have shape (directions, {size}); received {rows.shape}")
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(rows).all() or (norms == 0).any():
        raise InputError("directions must be finite and non-zero")
    return np.asarray(rows / norms)
