"""The constrained, breadth-first variant of Dynamic String Sampling (Freeman and Bruna, section 6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import solve_banded

from reluscape.strings.evolving import evolve, settle, units
from reluscape.strings.finishing import Work

Floats = NDArray[np.float64]

#: A segment is split where it rises above (1 + this) times the highest bead of the string.
TOLERANCE = 0.05
#: Squared distances between beads are equal up to this share of their mean.
EVEN = 1e-12
#: Steps of Newton's method, which takes 2 to 5.
NEWTON = 20
#: Times that beads are put at even places along the string before Newton's method is given up.
SPREADS = 500


@dataclass(frozen=True, slots=True)
class Equidistant:
    """Beads move on the hyperplanes between their neighbours; a spring may hold them near these.

        l(theta_i) + spring (|theta_(i-1) - theta_i| + |theta_(i+1) - theta_i|),
        |theta_i - theta_(i-1)| = |theta_i - theta_(i+1)|   for all inner beads at once

    Each step falls across the string only, and is followed by one along it that makes all distances
    equal again, as hyperplanes turn when neighbours move. Beads below the goal follow, but do not fall.

    Attributes:
        goal: Beads below it fall no further.
        spring: zeta >= 0.
    """

    goal: float
    spring: float

    def force(
        self, rows: torch.Tensor, gradients: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """The gradient of loss and spring, without its part across the hyperplane."""
        back, ahead = rows[1:-1] - rows[:-2], rows[1:-1] - rows[2:]
        pull = self.spring * (units(back) + units(ahead))
        across = units(rows[2:] - rows[:-2])
        force = gradients + pull
        return force - (force * across).sum(1, keepdim=True) * across

    def settle(self, moved: torch.Tensor) -> torch.Tensor:
        """Along the string to where all distances are equal."""
        return equidistant(moved)

    def moving(self, values: Floats) -> NDArray[np.bool_]:
        """Beads above the goal."""
        return np.asarray(values[1:-1] > self.goal)

    def splits(self, work: Work, values: Floats) -> list[tuple[int, int]]:
        """Segments that rise above the string's own level; where no bead is above the level, above that.

        As beads have no place of their own, a depth is that of as many halvings of a straight line.
        """
        beads = work.beads
        places = beads.rising(max(work.level, (1.0 + TOLERANCE) * float(values.max())))
        if not places and values.max() <= work.level:
            places = beads.rising(work.level)
        count = len(beads.segments)
        return [(place, (count + more).bit_length()) for more, place in enumerate(places)]


def equidistant(rows: torch.Tensor) -> torch.Tensor:
    """A string whose beads are all as far from the one before as from the one behind; its ends stay.

    Inner rows are moved by s_i along u_i, the direction between their neighbours, until the distances

        |theta_(i+1) + s_(i+1) u_(i+1) - theta_i - s_i u_i|

    are equal to a relative 1e-12: Newton's method on tridiagonal systems, one unknown a row. Where that
    does not end near by (uneven rows, a folded string), they are first put at even places along the
    string, which also cuts its corners, and which is repeated until it does, 500 times at most.
    """
    for _ in range(SPREADS if len(rows) > 2 else 0):
        shifted = _shifted(rows)
        if shifted is not None:
            return shifted
        rows = _spread(rows)
    return rows


def _shifted(rows: torch.Tensor) -> torch.Tensor | None:
    """The rows moved along the string to equal distances; None where Newton's method does not end."""
    along = torch.zeros_like(rows)
    along[1:-1] = units(rows[2:] - rows[:-2])
    steps = rows[1:] - rows[:-1]
    pairs = ((steps, steps), (steps, along[1:]), (steps, along[:-1]), (along[1:], along[:-1]))
    squares, ahead, behind, turns = ((one * two).sum(1).cpu().numpy() for one, two in pairs)
    shifts, unit = np.zeros(len(rows)), squares.mean()
    for _ in range(NEWTON):
        low, high = shifts[:-1], shifts[1:]
        by_high = 2.0 * (ahead + high - low * turns)  # derivatives of squared distances
        by_low = 2.0 * (low - behind - high * turns)
        now = squares + high * (ahead + 0.5 * by_high) + low * (0.5 * by_low - behind)
        uneven = now[:-1] - now[1:]
        if np.abs(uneven).max() <= EVEN * unit:
            return rows + torch.from_numpy(shifts).to(rows.device)[:, None] * along
        bands = np.zeros((3, len(uneven)))
        bands[0, 1:] = -by_high[1:-1]
        bands[1] = by_high[:-1] - by_low[1:]
        bands[2, :-1] = by_low[1:-1]
        try:
            shifts[1:-1] -= solve_banded((1, 1), bands, uneven)
        except (np.linalg.LinAlgError, ValueError):  # singular, or no longer finite
            return None
        if np.abs(shifts).max() > unit**0.5:
            return None
    return None


def _spread(rows: torch.Tensor) -> torch.Tensor:
    """As many rows at even places along the string of these, by its length."""
    steps = rows[1:] - rows[:-1]
    lengths = steps.norm(dim=1).cpu().numpy()
    marks = np.concatenate([[0.0], np.cumsum(lengths)])
    places = np.linspace(0.0, marks[-1], len(rows))[1:-1]
    before = np.clip(np.searchsorted(marks, places, side="right") - 1, 0, len(steps) - 1)
    shares = (places - marks[before]) / np.where(lengths[before] > 0, lengths[before], 1.0)
    chosen = torch.from_numpy(before).to(rows.device)
    inner = rows[chosen] + torch.from_numpy(shares).to(rows.device)[:, None] * steps[chosen]
    return torch.cat([rows[:1], inner, rows[-1:]])


def grow_constrained(work: Work) -> None:
    """Let the whole string fall from the straight line, and split it where it rises between beads."""
    rule = Equidistant(work.goal, work.spring)
    settle(work, rule)  # a string gone on from may be another method's
    evolve(work, rule)
