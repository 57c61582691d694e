"""Polyhedra `{x : normals @ x + offsets >= 0}` with unit normals: facets, balls, coincident rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reluscape.solvers import LinearProgram
from reluscape.tolerances import TOLERANCES

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]


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
    keep = first_of_coincident(normals, offsets)
    rows, limits = normals[keep], offsets[keep]
    slack = rows @ inside + limits
    known = _shoot(rows, slack, inside, -rows)
    program = LinearProgram(rows[list(known)], -limits[list(known)], np.full(len(inside), np.inf))
    for row in range(len(rows)):
        while row not in known:
            point = _point_beyond(program, rows[row], limits[row])
            if point is None:
                break
            hits = _shoot(rows, slack, inside, (point - inside)[None])
            fresh = {hit: at for hit, at in hits.items() if hit not in known}
            if not fresh:  # the ray met several kinks at once
                own = facet_point(rows, limits, np.arange(len(rows)) == row)
                if own is None:
                    break
                fresh = {row: own}
            for hit in fresh:
                program.add_row(rows[hit], -limits[hit])
            known |= fresh
    order = sorted(known)
    return keep[order], np.array([known[r] for r in order]).reshape(len(order), len(inside))


def _point_beyond(program: LinearProgram, row: Floats, limit: float) -> Floats | None:
    """A point that satisfies the program but violates `row . x + limit >= 0`, or None: redundant."""
    program.add_row(row, -limit - 1.0)
    solution = program.minimise(row)
    program.drop_last_row()
    if solution.status != "optimal" or solution.value + limit >= -TOLERANCES.interior:
        return None
    return solution.point


def _shoot(rows: Floats, slack: Floats, inside: Floats, directions: Floats) -> dict[int, Floats]:
    """First rows that rays from `inside` hit alone, each with its hit point."""
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
        clear = np.isfinite(time) & (times.min(axis=1) > time * (1 + TOLERANCES.interior))
        for i in np.flatnonzero(clear):
            found.setdefault(int(first[i]), inside + time[i] * block[i])
    return found


def first_of_coincident(normals: Floats, offsets: Floats) -> Indices:
    """Row numbers without repetitions of the same half-space (equal to about 10 digits)."""
    keys = np.round(np.hstack([normals, offsets[:, None]]), 10) + 0.0
    return np.sort(np.unique(keys, axis=0, return_index=True)[1])


def coincident_with(normals: Floats, offsets: Floats, row: int) -> Bools:
    """Rows that bound the same half-space as `row`."""
    gap = np.abs(normals - normals[row]).max(axis=1) + np.abs(offsets - offsets[row])
    return np.asarray(gap <= 1e-10 * (1.0 + abs(float(offsets[row]))))


def facet_point(normals: Floats, offsets: Floats, same: Bools) -> Floats | None:
    """A point on the hyperplane of the rows `same` with a margin to all others, or None."""
    row = int(np.argmax(same))
    others = normals[~same]
    size = normals.shape[1]
    matrix = np.vstack(
        [np.append(normals[row], 0.0), np.hstack([others, -np.ones((len(others), 1))])]
    )
    lower = -np.append(offsets[row], offsets[~same])
    upper = np.append(lower[0], np.full(len(others), np.inf))
    program = LinearProgram(matrix, lower, np.append(np.full(size, np.inf), 1.0), upper)
    solution = program.minimise(np.append(np.zeros(size), -1.0))
    if solution.status != "optimal" or -solution.value <= TOLERANCES.interior:
        return None
    return solution.point[:size]


def largest_ball(normals: Floats, offsets: Floats, half: float) -> tuple[Floats, float]:
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
