"""A nudged elastic band between two models, as another way to a string below a level."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from reluscape.strings.evolving import evolve, units
from reluscape.strings.finishing import Work

Floats = NDArray[np.float64]

#: Inner beads of the first band.
BEADS = 7


@dataclass(frozen=True, slots=True)
class Band:
    """Beads fall across the band only, and springs along it keep them apart.

    The tangent at a bead points to its higher neighbour; of the gradient, the part across it counts, of
    the springs the part along it. The springs act at once: each bead moves along its tangent by `share`
    of the difference of its distances. Segments that are above the level while no bead is get a new one
    (AutoNEB).

    Attributes:
        share: Of the difference of distances, per step.
    """

    share: float = 0.1

    def force(
        self, rows: torch.Tensor, gradients: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """The gradient without its part along the band."""
        along = _tangents(rows, values)
        return gradients - (gradients * along).sum(1, keepdim=True) * along

    def settle(self, moved: torch.Tensor) -> torch.Tensor:
        """The springs."""
        lengths = (moved[1:] - moved[:-1]).norm(dim=1, keepdim=True)
        pull = 0.5 * self.share * (lengths[1:] - lengths[:-1])
        inner = torch.addcmul(moved[1:-1], pull, units(moved[2:] - moved[:-2]))
        return torch.cat([moved[:1], inner, moved[-1:]])

    def moving(self, values: Floats) -> NDArray[np.bool_]:
        """All of them: it is one band."""
        return np.ones(len(values) - 2, dtype=bool)

    def splits(self, work: Work, values: Floats) -> list[tuple[int, int]]:
        """Segments above the level between beads that are below it."""
        low = values <= work.level
        depths = work.beads.depths
        return [
            (k, 1 + max(depths[k : k + 2]))
            for k in work.beads.rising(work.level)
            if low[k] and low[k + 1]
        ]


def _tangents(rows: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Directions of length one from each inner bead to its higher neighbour, ahead along the band."""
    ahead, back = rows[2:] - rows[1:-1], rows[1:-1] - rows[:-2]
    upward = (values[2:] > values[:-2])[:, None]
    along = torch.where(upward, ahead, back)
    return units(along)


def grow_band(work: Work) -> None:
    """Relax a band from the straight line."""
    first, last = work.beads.thetas[0], work.beads.thetas[-1]
    if len(work.beads.thetas) == 2:
        work.judge.examine(work.beads)
        if not work.beads.above(work.level):
            return
        times = np.linspace(0.0, 1.0, BEADS + 2)[1:-1]
        points = first + times[:, None] * (last - first)
        for point in points[::-1]:
            work.beads.insert([0], point[None], 1)
    evolve(work, Band())
