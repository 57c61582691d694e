"""Cells of one unit's weight space: how many there are, and all of them where these are few.

A unit's kinks `w . x_i = 0` are hyperplanes through the origin of its weight space; the cells between
them are cones. Every cell of hyperplanes that span the space is the hull of its rays, lines in which
`rank - 1` independent hyperplanes meet. All rays are found, each with its sign on every hyperplane.
Around a ray lie the `2^(rank - 1)` cells of the hyperplanes that contain it or, where more than
`rank - 1` do, the cells of these in one dimension less, by the same method. A table of signs joins what
different rays tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from reluscape import rays
from reluscape.errors import AnalysisError, InputError
from reluscape.progress import Progress
from reluscape.results import Result
from reluscape.tolerances import TOLERANCES
from reluscape.validation import as_array, check_whole
from reluscape.whitened import Frame, frame_of, unit_rows, whitened_frame

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]
Words = NDArray[np.uint64]
Indices = NDArray[np.int64]

#: Most memory for the cells' signs, in bytes.
MAX_BYTES = 8 * 2**30

#: Numbers in an array of signs or products that is made on the way.
_CHUNK = 10**7

_EPS = float(np.finfo(np.float64).eps)


def count_cells(hyperplanes: int, dimension: int, *, central: bool = True) -> int:
    """Number of cells of hyperplanes in general position, exactly.

    `sum_{i <= d} C(N, i)` for N affine hyperplanes in d dimensions; `2 sum_{i < d} C(N - 1, i)` for
    N >= 1 through the origin, as are the kinks of one unit in its `d = inputs + 1` weights and bias. In
    any other position there are fewer.

    Args:
        hyperplanes: Their number N >= 0.
        dimension: Dimension d >= 0. In dimension 0 there is one cell: a hyperplane is then no more
            than an equation that always or never holds.
        central: Whether all go through the origin.

    Raises:
        InputError: A number that is negative or not whole.

    Source: Zaslavsky, Facing up to arrangements (1975); Liu, section VI.

    Example:
        >>> count_cells(100, 4), count_cells(100, 1), count_cells(3, 2, central=False)
        (323600, 2, 7)
    """
    count = check_whole(hyperplanes, "hyperplanes", 0)
    size = check_whole(dimension, "dimension", 0)
    if not central:
        return sum(comb(count, i) for i in range(size + 1))
    if count == 0 or size == 0:
        return 1
    return 2 * sum(comb(count - 1, i) for i in range(size))


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Contacts(Result):
    """Facets between a unit's cells, each once.

    Attributes:
        cells: The cells on the kink's negative and positive side, shape (facets, 2).
        kinks: The sample whose kink it is, of coincident ones the first, shape (facets,).
    """

    cells: Indices
    kinks: Indices

    def plot(self) -> go.Figure:
        """Histogram of the number of facets per cell."""
        figure = go.Figure(go.Histogram(x=np.bincount(self.cells.ravel())))
        return figure.update_layout(xaxis_title="facets", yaxis_title="cells")


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class UnitCells(Result):
    """All cells of one unit's weight space.

    Cells come in antipodal pairs: cell `c + len / 2` is the negative of cell c. In the first half the
    first sample whose kink is not constant is positive.

    Attributes:
        packed: The cells' signs, eight samples a byte as by `numpy.packbits`, uint8 of shape
            (cells, ceil(samples / 8)).
        points: A strictly interior point of each cell, of length one, shape (cells, params): the
            direction of the sum of its unit rays in coordinates in which the samples are white.
        margins: `min_i |w . x_i| / sum_k |w_k x_ik|` of each interior point w, shape (cells,). It does
            not change with the units of the features, and is what cancellation leaves of a kink's value:
            `w . x_i` has the right sign in float64 in whatever order its terms are added, as every margin
            is above `16 params eps`.
        first: For each sample the first one with the same hyperplane, itself where there is none
            before; -1 where the kink is constant (a row of zeros; its sign is False), shape (samples,).
    """

    packed: Bytes
    points: Floats
    margins: Floats
    first: Indices

    @property
    def num_samples(self) -> int:
        """Number of samples."""
        return len(self.first)

    def __len__(self) -> int:
        """Number of cells."""
        return len(self.packed)

    def unpack(self, cells: Sequence[int] | Indices | slice | None = None) -> Bools:
        """Signs of all cells, or of those chosen, shape (cells, samples), True where positive."""
        rows = self.packed if cells is None else self.packed[cells]
        return np.unpackbits(rows, axis=-1, count=self.num_samples).view(np.bool_)

    def contacts(self) -> Contacts:
        """Find all pairs of cells with a common facet.

        Two cells share a facet if and only if their signs differ in the samples of one hyperplane alone;
        every cell with one such sign flipped is looked up in a table.

        Cost: O(cells * samples) time, no linear program; 24 bytes for each facet.
        """
        kinks = np.unique(self.first[self.first >= 0])
        keys = np.empty((len(self), -(-len(kinks) // 64)), dtype=np.uint64)
        for part in _chunks(len(self), self.num_samples):
            keys[part] = _words(self.unpack(part)[:, kinks])
        table = _table(keys, np.empty((0, 0)))
        rays.fill_slots(table)
        most = len(self) * len(kinks) // 2
        if len(kinks):  # no hyperplane has more cells of its own than in general position
            most = min(most, len(kinks) * count_cells(len(kinks) - 1, self.points.shape[1] - 1))
        pairs, numbers = np.empty((most, 2), dtype=np.int64), np.empty(most, dtype=np.int64)
        found = rays.adjacent_cells(table, len(kinks), pairs, numbers)
        return Contacts(pairs[:found].copy(), kinks[numbers[:found]])

    def plot(self) -> go.Figure:
        """Histogram of the interior points' margins, in decades."""
        figure = go.Figure(go.Histogram(x=np.log10(self.margins)))
        return figure.update_layout(xaxis_title="log10 margin", yaxis_title="cells")


def enumerate_cells(
    features: ArrayLike, *, max_cells: int = 10_000_000, progress: Progress | None = None
) -> UnitCells:
    """Find all cells `{w : sign(w . x_i) = s_i}` of one unit's weight space, with a point inside each.

    In any position: samples that occur twice or are multiples of each other share a hyperplane, rows
    of zeros have none, features of lower rank make cells that contain whole subspaces, and any number
    of hyperplanes may meet in one face.

    What is guaranteed: every cell that is listed exists, as the signs of its interior point are computed
    anew from the features with a margin above rounding. None is listed twice, and the negative of each
    is listed. All cells are listed if any rows (scaled to length one, in coordinates in which they are
    white) either are dependent or span a volume above `16 rank eps` times the condition number of the
    scaled features times the sum of the volumes of all of them but one. This is what float64 resolves:
    elimination by reflections is exact for rows that are changed by a few eps (Higham, Accuracy and
    Stability of Numerical Algorithms, section 19.3), and a change of one row by delta changes a volume
    by at most delta times that of the others. Rows that span less are taken as dependent, so that cells
    that are narrower than rounding are left out.

    Args:
        features: The samples, a column of ones appended for the bias, shape (samples, params).
        max_cells: Most cells that the samples may have in general position.
        progress: Called with a label and the share done.

    Returns:
        The cells. Order and points do not depend on chance.

    Cost: all `C(samples, rank - 1)` sets of rows at O(samples) each, and `2^(rank - 1)` entries in the
    table for each ray; memory of `samples / 8 + 8 params` bytes for each cell, three times while working.

    Raises:
        InputError: More cells than `max_cells`, signs that need more than `MAX_BYTES`, or features that
            are no finite matrix.
        AnalysisError: Rows are so nearly dependent that cells are told apart which are too narrow for an
            interior point in float64, or that decisions about them contradict each other.

    Source: theory of oriented matroids; counts by Zaslavsky (1975); Liu, section VI.

    Example:
        >>> cells = enumerate_cells([[1.0, 1.0], [2.0, 1.0], [2.0, 2.0]])
        >>> len(cells), cells.unpack(0).tolist(), cells.first.tolist()
        (4, [True, True, True], [0, 1, 0])
    """
    matrix = _check_features(features)
    most = check_whole(max_cells, "max_cells", 1)
    frame = frame_of(matrix)
    _check_size(frame, most, len(matrix))
    table = _half_cells(frame, progress)
    return _unit_cells(matrix, frame, table.words, table.sums)


@dataclass(frozen=True, slots=True)
class Cones:
    """The cells of a unit as cones: the hulls of their rays.

    Attributes:
        cells: The cells.
        rays: Directions, of which each cell has those at its edges; the negative of ray r is ray
            `r + len / 2`, shape (rays, params). Weights that no sample reads are left out: the closed
            cell is the hull of its rays and of all directions in which no kink changes.
        signs: Of the samples' kinks on the rays, 0 where the ray lies in the kink's hyperplane, shape
            (rays, samples).
        corners: Cells and their rays, ascending, shape (corners, 2).
    """

    cells: UnitCells
    rays: Floats
    signs: NDArray[np.int8]
    corners: Indices


def enumerate_cones(
    features: ArrayLike, *, max_cells: int = 10_000_000, progress: Progress | None = None
) -> Cones:
    """Find all cells of a unit, as `enumerate_cells` does, with their rays.

    Raises:
        InputError: As `enumerate_cells`.
        AnalysisError: As `enumerate_cells`.
    """
    matrix = _check_features(features)
    frame = frame_of(matrix)
    _check_size(frame, check_whole(max_cells, "max_cells", 1), len(matrix))
    table = _half_cells(frame, progress, keep=True)
    cells = _unit_cells(matrix, frame, table.words, table.sums)
    half, lines = len(table.words), len(table.lines)
    cell, ray = table.corners[:, 0], table.corners[:, 1]
    place = np.where(ray > 0, ray - 1, lines - ray - 1)
    corners = np.stack([cell, place], axis=1)
    opposite = np.stack([cell + half, (place + lines) % max(2 * lines, 1)], axis=1)
    both = np.concatenate([corners, opposite] if len(cells) > half else [corners])
    directions = unit_rows(table.lines @ frame.basis.T)
    order = np.lexsort((both[:, 1], both[:, 0]))
    moving = frame.first >= 0
    signs = np.zeros((lines, len(matrix)), dtype=np.int8)
    signs[:, moving] = table.line_signs[:, frame.place[moving]]
    signs[:, frame.flipped] *= -1
    return Cones(
        cells,
        np.concatenate([directions, -directions]),
        np.concatenate([signs, -signs]),
        both[order],
    )


# ---- the search ---------------------------------------------------------------------------------


def _half_cells(frame: Frame, progress: Progress | None = None, keep: bool = False) -> rays.Table:
    """One of each two antipodal cells: signs of the frame's rows, sums of unit rays; rays if kept."""
    count, rank = frame.rows.shape
    if rank < 2:
        return _line(frame)
    room = count_cells(count, rank) // 2
    lines = comb(count, rank - 1) if keep else 0
    table = _table(
        np.empty((room, -(-count // 64)), dtype=np.uint64),
        np.empty((room, rank)),
        lines,
        count,
    )
    search = _search(frame)
    most = comb(count - 1, rank - 2) + 1  # rays behind one first row, and one to work on
    signs = np.empty((most, count), dtype=np.int8)
    found_rays, scratch = np.empty((most, rank)), np.empty_like(table.key)
    whole = comb(count, rank - 1)
    for first in range(count - rank + 2):
        found = rays.rays_from(search, first, table, scratch, signs, found_rays)
        if found < 0 or not all(
            _enter_degenerate(frame, table, signs, found_rays, ray) for ray in range(found)
        ):
            raise AnalysisError(_TOO_CLOSE.format("more cells found than there can be"))
        if progress is not None:
            progress("cells", 1.0 - comb(count - first - 1, rank - 1) / whole)
    cells, (lines, corners) = int(table.used[0]), table.kept
    return table._replace(
        words=table.words[:cells],
        sums=table.sums[:cells],
        lines=table.lines[:lines],
        line_signs=table.line_signs[:lines],
        corners=table.corners[:corners],
    )


def _line(frame: Frame) -> rays.Table:
    """The cells of a line: both sides of its origin; or all, where nothing turns."""
    count = min(len(frame.rows), 1)
    table = _table(np.ones((1, count), dtype=np.uint64), frame.rows[:, :1].copy())
    return table._replace(
        lines=frame.rows,
        line_signs=np.ones((count, count), dtype=np.int8),
        corners=np.array([[0, 1]] * count, dtype=np.int64).reshape(-1, 2),
    )


def _enter_degenerate(
    frame: Frame, table: rays.Table, signs: NDArray[np.int8], found: Floats, ray: int
) -> bool:
    """Enter the cells around a ray in which many hyperplanes meet: a smaller arrangement's cells."""
    containing = np.flatnonzero(signs[ray] == 0)
    inner = whitened_frame(frame.rows[containing], frame.rows.shape[1] - 1, frame.error)
    half = _samples_signs(inner, _bits(_half_cells(inner).words, len(inner.rows)))
    local = np.vstack([half, ~half])
    return bool(rays.enter_local(table, signs, found, ray, containing, local))


def _search(frame: Frame) -> rays.Search:
    """The search before its first step."""
    count, rank = frame.rows.shape
    coordinates = np.empty((rank, count + rank, rank))
    coordinates[0] = np.vstack([frame.rows, np.eye(rank)])
    lengths, errors = np.ones((rank, count)), np.full((rank, count), rank * frame.error)
    level = np.full(count, rays.FREE, dtype=np.int64)
    chosen = np.zeros(rank, dtype=np.int64)
    return rays.Search(coordinates, lengths, errors, level, chosen, TOLERANCES.rounding)


def _table(words: Words, sums: Floats, lines: int = 0, rows: int = 0) -> rays.Table:
    """A table whose cells have their place in `words`; its slots are empty."""
    slots = np.full(1 << (4 * len(words)).bit_length(), -1, dtype=np.int64)
    key, rank = np.zeros(words.shape[1], dtype=np.uint64), sums.shape[1]
    corners = np.empty((lines << max(rank - 1, 0), 2), dtype=np.int64)
    used, kept = np.zeros(1, dtype=np.int64), np.zeros(2, dtype=np.int64)
    signs = np.empty((lines, rows), dtype=np.int8)
    return rays.Table(slots, words, sums, used, key, np.empty((lines, rank)), signs, corners, kept)


# ---- from words to samples ----------------------------------------------------------------------


def _unit_cells(matrix: Floats, frame: Frame, words: Words, sums: Floats) -> UnitCells:
    """Both halves of the cells, their interior points checked against the features."""
    half, (samples, params) = len(words), matrix.shape
    moving = frame.first >= 0
    cells = 2 * half if moving.any() else half
    packed = np.empty((cells, -(-samples // 8)), dtype=np.uint8)
    points, margins = np.zeros((cells, params)), np.ones(cells)
    for part in _chunks(half if moving.any() else 0, samples):
        signs = _samples_signs(frame, _bits(words[part], len(frame.rows)))
        inside = unit_rows(sums[part] @ frame.basis.T)
        there = slice(part.start + half, part.stop + half)
        packed[part], packed[there] = (
            np.packbits(signs, axis=1),
            np.packbits(~signs & moving, axis=1),
        )
        points[part], points[there] = inside, -inside
        rows = matrix[moving]
        sizes = np.abs(inside) @ np.abs(rows).T
        rays.least_margins(inside @ rows.T, sizes, signs[:, moving], margins[part])
        margins[there] = margins[part]
    narrow = cells - int((margins > TOLERANCES.rounding * params * _EPS).sum())
    if narrow:
        raise AnalysisError(_TOO_CLOSE.format(f"{narrow} of {cells} cells narrower than rounding"))
    if not moving.any():
        packed[:] = 0
    return UnitCells(packed, points, margins, frame.first)


def _samples_signs(frame: Frame, bits: Bools) -> Bools:
    """Signs of all samples (cells, samples) from those of the frame's rows."""
    signs = bits[:, frame.place] ^ frame.flipped
    signs[:, frame.first < 0] = False
    return np.asarray(signs)


def _words(bits: Bools) -> Words:
    """Signs (cells, hyperplanes) packed into words."""
    packed = np.packbits(bits, axis=1, bitorder="little")
    whole = np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8)))
    return np.ascontiguousarray(whole).view("<u8")


def _bits(words: Words, count: int) -> Bools:
    """The inverse of `_words`."""
    packed = np.ascontiguousarray(words.astype("<u8", copy=False)).view(np.uint8)
    return np.unpackbits(packed, axis=1, count=count, bitorder="little").view(np.bool_)


def _chunks(rows: int, width: int) -> Iterator[slice]:
    """Slices of so many rows that arrays of them stay small."""
    step = max(1, _CHUNK // max(1, width))
    return (slice(start, min(rows, start + step)) for start in range(0, rows, step))


# ---- what is refused ----------------------------------------------------------------------------

_TOO_CLOSE = (
    "cells need features that are clearly in general position or clearly degenerate; {} were met:"
    " centre and rescale the features, or round them"
)


def _check_features(features: ArrayLike) -> Floats:
    """Return the features as a finite float64 matrix, or raise InputError."""
    matrix = np.ascontiguousarray(as_array(features, "features").astype(np.float64))
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise InputError(
            "features must have shape (samples, params) with at least one parameter; received"
            f" {matrix.shape}"
        )
    if not np.isfinite(matrix).all():
        bad = int(np.flatnonzero(~np.isfinite(matrix).all(axis=1))[0])
        raise InputError(
            f"features must be finite; received NaN or infinite values, first at sample {bad}:"
            " remove or impute them"
        )
    return matrix


def _check_size(frame: Frame, max_cells: int, samples: int) -> None:
    """Refuse more cells than asked for, or than memory holds."""
    count, rank = frame.rows.shape
    cells = count_cells(count, rank)
    if cells > max_cells:
        raise InputError(
            f"max_cells must allow the {cells} cells of {count} hyperplanes in {rank} dimensions in"
            f" general position; received {max_cells}: take fewer samples or raise max_cells"
        )
    if cells * samples > 8 * MAX_BYTES:
        raise InputError(
            f"the signs of {cells} cells on {samples} samples must take at most {MAX_BYTES} bytes;"
            f" they take {cells * samples // 8}: take fewer samples"
        )
