"""Activation cells of a block: the polyhedra of theta on which every kink keeps its sign."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from reluscape.errors import InputError
from reluscape.landscape import Block, check_theta
from reluscape.results import Result
from reluscape.solvers import LinearProgram
from reluscape.tolerances import TOLERANCES

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]

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
        found = [self._facets_of(kinks, columns) for kinks, columns in self._parts()]
        if not found:
            empty = np.empty((0, self.block.size))
            return Facets(empty, np.empty(0), np.empty(0, dtype=np.intp), empty)
        parts = [np.concatenate(part) for part in zip(*found, strict=True)]
        order = np.argsort(parts[2], kind="stable")
        return Facets(*(part[order] for part in parts))

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
        half = max(1.0, float(np.abs(self.reference).max(initial=0.0))) if box is None else float(box)
        if len(normals) == 0:
            return self.reference.copy(), np.inf if box is None else half
        if box is None:
            opening = _largest_ball(normals, np.zeros(len(normals)), 1.0)[1]
            if opening <= TOLERANCES.interior:
                half = np.inf
        center, radius = _largest_ball(normals, offsets, half)
        if radius <= 0:
            raise InputError("pattern must belong to a cell with an interior; no theta has these signs: take the pattern from block.pattern(theta)")
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
        values = self.block.piecewise.frozen(self.pattern, point)[0]
        best, kink = np.inf, -1
        for chunk in self._chunks():
            norms = self._norms(chunk)
            with np.errstate(divide="ignore", invalid="ignore"):
                distances = np.where(norms > 0, np.abs(values[chunk]) / norms, np.inf)
            nearest = int(np.argmin(distances))
            if distances[nearest] < best:
                best, kink = float(distances[nearest]), int(chunk[nearest])
        return best, kink

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
        return len(seen)

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
            same = _coincident(normals, offsets, int(row[0]))
            witness = _facet_point(normals, offsets, same)
        if witness is None:
            raise InputError(f"kink must bound the cell; kink {kink} ({self.block.describe_kink(kink)}) does not: choose one of cell.facets().kinks")
        pattern = self.pattern.copy()
        pattern[kinks[same]] ^= True
        return Cell(self.block, self._settle(pattern, witness, kinks), witness)

    # ---- private -----------------------------------------------------------------------------

    def _settle(self, pattern: Bools, witness: Floats, moving: Indices) -> Bools:
        """Give kinks that were identically zero in this cell the sign they take beyond the facet."""
        values = self.block.piecewise.frozen(self.pattern, witness)[0]
        still = np.setdiff1d(np.arange(self.block.num_kinks), moving)
        loose = still[values[still] == 0.0]
        if loose.size:
            rows = self.block.piecewise.normals(loose, pattern)
            center = Cell(self.block, pattern, witness)._interior_without(loose)
            pattern[loose] = rows @ (center - witness) > 0
        return pattern

    def _interior_without(self, ignored: Indices) -> Floats:
        """An interior point of the cell when the given kinks are ignored."""
        normals, offsets, _ = self._constraints(np.setdiff1d(np.arange(self.block.num_kinks), ignored))
        return _largest_ball(normals, offsets, 1.0 + float(np.abs(self.reference).max()))[0]

    def _inside(self, theta: ArrayLike) -> Floats:
        """Return `theta` as a vector, or raise when it lies outside the cell."""
        point = check_theta(theta, self.block.size)
        if not self.contains(point):
            raise InputError("theta must lie in the cell; some kinks have another sign there: use block.cell(theta)")
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

    def _chunks(self) -> Iterator[Indices]:
        """Kink numbers in pieces that keep pulled-back vectors below 160 MB."""
        step = max(1, int(2e7 // self.block.piecewise.width))
        for start in range(0, self.block.num_kinks, step):
            yield np.arange(start, min(start + step, self.block.num_kinks))

    def _norms(self, kinks: Indices) -> Floats:
        """Euclidean lengths of the kinks' normals."""
        piecewise = self.block.piecewise
        lengths = np.sqrt((piecewise.features**2).sum(axis=1) + piecewise.bias)
        pulled = piecewise.pull_back(kinks, self.pattern)
        return np.asarray(np.linalg.norm(pulled, axis=1) * lengths[piecewise.sample_of(kinks)])

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
            yield np.arange(unit, self.block.num_kinks, piecewise.width), np.append(weight, bias).astype(np.intp)

    def _constraints(self, kinks: Indices, columns: Indices | None = None) -> tuple[Floats, Floats, Indices]:
        """Unit inward normals, offsets and numbers of the given kinks that are not constant."""
        size = self.block.size
        wide = len(kinks) * size
        if columns is None and wide > MAX_CONSTRAINT_ENTRIES:
            raise InputError(f"the cell's {len(kinks)} x {size} constraint matrix must have at most {MAX_CONSTRAINT_ENTRIES} entries: use chord, nearest_kink or num_facets_seen")
        piecewise = self.block.piecewise
        offsets = piecewise.frozen(self.pattern, np.zeros(size))[0][kinks]
        step = len(kinks) if columns is None else max(1, 10**7 // size)
        rows = [piecewise.normals(kinks[i : i + step], self.pattern) for i in range(0, len(kinks), step)]
        normals = np.vstack([r if columns is None else r[:, columns] for r in rows])
        lengths = np.linalg.norm(normals, axis=1)
        moving = lengths > 0
        scale = np.where(self.pattern[kinks], 1.0, -1.0)[moving] / lengths[moving]
        return normals[moving] * scale[:, None], offsets[moving] * scale, kinks[moving]

    def _facets_of(self, kinks: Indices, columns: Indices) -> tuple[Floats, Floats, Indices, Floats]:
        """Facets among `kinks`, which depend only on the parameters in `columns`."""
        whole = len(columns) == self.block.size
        normals, offsets, numbers = self._constraints(kinks, None if whole else columns)
        start = self.reference[columns]
        if len(normals) and (normals @ start + offsets).min() <= TOLERANCES.interior:
            start, radius = _largest_ball(normals, offsets, 1.0 + float(np.abs(start).max()))
            if radius <= 0:
                raise InputError("pattern must belong to a cell with an interior; no theta has these signs: take the pattern from block.pattern(theta)")
        rows, points = find_facets(normals, offsets, start)
        wide_normals = np.zeros((len(rows), self.block.size))
        wide_points = np.tile(self.reference, (len(rows), 1))
        wide_normals[:, columns], wide_points[:, columns] = normals[rows], points
        return wide_normals, offsets[rows], numbers[rows], wide_points


def find_facets(normals: Floats, offsets: Floats, inside: Floats) -> tuple[Indices, Floats]:
    """Irredundant rows of `normals @ x + offsets >= 0` (unit normals), with a point on each facet.

    Args:
        normals: Shape (rows, variables).
        offsets: Shape (rows,).
        inside: A point that satisfies every row strictly.

    Returns:
        Row numbers in ascending order, and the points, shape (facets, variables).
    """
    if len(normals) == 0:
        return np.empty(0, dtype=np.intp), np.empty((0, len(inside)))
    keep = _first_of_coincident(normals, offsets)
    rows, slack = normals[keep], normals[keep] @ inside + offsets[keep]
    known = _shoot(rows, slack, inside, -rows)
    program = LinearProgram(rows[list(known)], -offsets[keep][list(known)], np.full(len(inside), np.inf))
    for row in range(len(rows)):
        while row not in known:
            program.add_row(rows[row], -offsets[keep][row] - 1.0)
            solution = program.minimise(rows[row])
            program.drop_last_row()
            if solution.status != "optimal" or solution.value + offsets[keep][row] >= -TOLERANCES.interior:
                break
            hit = _shoot(rows, slack, inside, (solution.point - inside)[None], ties=True)
            fresh = {r: p for r, p in hit.items() if r not in known}
            if not fresh:
                break
            for new in fresh:
                program.add_row(rows[new], -offsets[keep][new])
            known |= fresh
    order = sorted(known)
    return keep[order], np.array([known[r] for r in order]).reshape(len(order), len(inside))


def _shoot(rows: Floats, slack: Floats, inside: Floats, directions: Floats, *, ties: bool = False) -> dict[int, Floats]:
    """First rows that rays from `inside` hit, each with its hit point; ties are skipped by default."""
    found: dict[int, Floats] = {}
    step = max(1, int(2e7 // len(rows)))
    for start in range(0, len(directions), step):
        block = directions[start : start + step]
        rates = block @ rows.T
        with np.errstate(divide="ignore"):
            times = np.where(rates < 0, slack / -rates, np.inf)
        first = np.argmin(times, axis=1)
        ray = np.arange(len(block))
        time = times[ray, first].copy()
        times[ray, first] = np.inf
        clear = np.isfinite(time) & (ties | (times.min(axis=1) > time * (1 + TOLERANCES.interior)))
        for i in np.flatnonzero(clear):
            found.setdefault(int(first[i]), inside + time[i] * block[i])
    return found


def _first_of_coincident(normals: Floats, offsets: Floats) -> Indices:
    """Row numbers without repetitions of the same half-space (equal to about 10 digits)."""
    keys = np.round(np.hstack([normals, offsets[:, None]]), 10) + 0.0
    return np.sort(np.unique(keys, axis=0, return_index=True)[1])


def _coincident(normals: Floats, offsets: Floats, row: int) -> Bools:
    """Rows that bound the same half-space as `row`."""
    gap = np.abs(normals - normals[row]).max(axis=1) + np.abs(offsets - offsets[row])
    return np.asarray(gap <= 1e-10 * (1.0 + abs(float(offsets[row]))))


def _facet_point(normals: Floats, offsets: Floats, same: Bools) -> Floats | None:
    """A point on the hyperplane of the rows `same` with a margin to all others, or None."""
    row = int(np.argmax(same))
    others = normals[~same]
    size = normals.shape[1]
    matrix = np.vstack([np.append(normals[row], 0.0), np.hstack([others, -np.ones((len(others), 1))])])
    lower = -np.append(offsets[row], offsets[~same])
    upper = np.append(lower[0], np.full(len(others), np.inf))
    program = LinearProgram(matrix, lower, np.append(np.full(size, np.inf), 1.0), upper)
    solution = program.minimise(np.append(np.zeros(size), -1.0))
    if solution.status != "optimal" or -solution.value <= TOLERANCES.interior:
        return None
    return solution.point[:size]


def _largest_ball(normals: Floats, offsets: Floats, half: float) -> tuple[Floats, float]:
    """Centre and radius of the largest ball in `normals @ x + offsets >= 0`, centred within the box.

    The radius is <= 0 where no point satisfies every row strictly.
    """
    size = normals.shape[1]
    matrix = np.hstack([normals, -np.ones((len(normals), 1))])
    lower, box = -offsets, np.append(np.full(size, half), np.inf)
    if np.isfinite(half):
        sides = np.vstack([np.eye(size), -np.eye(size)])
        matrix = np.vstack([matrix, np.hstack([sides, -np.ones((2 * size, 1))])])
        lower = np.append(lower, np.full(2 * size, -half))
    solution = LinearProgram(matrix, lower, box).minimise(np.append(np.zeros(size), -1.0))
    if solution.status != "optimal":
        return np.zeros(size), 0.0
    return solution.point[:size], -solution.value


def _check_directions(directions: ArrayLike, size: int) -> Floats:
    """Directions as unit rows, or raise InputError."""
    rows = np.atleast_2d(np.asarray(directions, dtype=np.float64))
    if rows.ndim != 2 or rows.shape[1] != size:
        raise InputError(f"directions must have shape (directions, {size}); received {rows.shape}")
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(rows).all() or (norms == 0).any():
        raise InputError("directions must be finite and non-zero")
    return rows / norms
