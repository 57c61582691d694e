"""The constrained, breadth-first variant of Dynamic String Sampling (Freeman and Bruna, section 6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from reluscape.strings.evolving import ROUND, evolve, units
from reluscape.strings.finishing import Work

Floats = NDArray[np.float64]

#: A segment is split where it rises above (1 + this) times the highest bead of the string.
TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class Equidistant:
    """Beads move on the hyperplane between their neighbours; a spring may hold them near these.

    All step at once, each to the hyperplane between its neighbours as they stand then, and beads below
    the goal rest: so the distances are equal only about: they may differ by a factor of two where a
    neighbour has moved since.

        l(theta_i) + spring (|theta_(i-1) - theta_i| + |theta_(i+1) - theta_i|),
        |theta_i - theta_(i-1)| = |theta_i - theta_(i+1)|

    Attributes:
        goal: Beads below it rest where they are.
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

    def settle(self, rows: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
        """Back to the hyperplane halfway between the neighbours."""
        across = units(moved[2:] - moved[:-2])
        middle = 0.5 * (moved[2:] + moved[:-2])
        away = ((moved[1:-1] - middle) * across).sum(1, keepdim=True)
        return moved[1:-1] - away * across

    def moving(self, values: Floats) -> NDArray[np.bool_]:
        """Beads above the goal."""
        return np.asarray(values[1:-1] > self.goal)

    def splits(self, work: Work, values: Floats) -> list[int]:
        """Segments that rise above the string's own level."""
        return work.beads.above(max(work.level, (1.0 + TOLERANCE) * float(values.max())))


def grow_constrained(work: Work) -> None:
    """Let the whole string fall from the straight line, and split it where it rises between beads."""
    evolve(work, Equidistant(work.goal, work.spring), -(-work.schedule.max_steps // ROUND))
