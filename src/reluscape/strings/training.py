"""Train many beads at once, each until it is below the goal or out of steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from reluscape.errors import InputError
from reluscape.strings.surface import Surface
from reluscape.validation import check_whole

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: Decay of Adam's two averages, and what keeps its quotient finite (Kingma and Ba, 2015).
FIRST, SECOND, TINY = 0.9, 0.999, 1e-8
#: Steps without a new best value after which a bead's rate is halved, and halvings before it is given up.
PATIENCE, HALVINGS = 50, 8
#: Steps between looks at a judged value that is not the loss being trained on.
EVERY = 10


@dataclass(frozen=True, slots=True)
class Schedule:
    """How beads are trained.

    Attributes:
        rate: Adam's step size; halved for a bead that makes no progress.
        max_steps: Of one bead; of the whole string where all beads move together, which is then to last
            for beads that are inserted late: "constrained", "bezier" and "band".
        batch_size: Samples of a step; None for all.
    """

    rate: float = 0.01
    max_steps: int = 1000
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if not self.rate > 0 or not np.isfinite(self.rate):
            raise InputError(f"rate must be a positive number; received {self.rate!r}")
        check_whole(self.max_steps, "max_steps", 1)
        if self.batch_size is not None:
            check_whole(self.batch_size, "batch_size", 1)


@dataclass(frozen=True, slots=True)
class Trained:
    """Beads after training.

    Attributes:
        thetas: Where each stands: the first point below the goal, else the best seen, (beads, params).
        values: The judged value there (beads,).
        reached: Whether it is below the goal (beads,).
        steps: Steps that each took (beads,).
        stopped: Whether the training was asked to end.
    """

    thetas: Floats
    values: Floats
    reached: Bools
    steps: NDArray[np.int64]
    stopped: bool = False


class Adam:
    """Adam on the rows of a matrix, each with its own rate and count; rows come and go."""

    def __init__(self, shape: tuple[int, int], rate: float, device: torch.device) -> None:
        self.first = torch.zeros(shape, dtype=torch.float64, device=device)
        self.second = torch.zeros_like(self.first)
        self.rates = torch.full((shape[0], 1), rate, dtype=torch.float64, device=device)
        self.counts = torch.zeros_like(self.rates)

    def step(self, gradients: torch.Tensor) -> torch.Tensor:
        """What to subtract from the rows."""
        self.counts += 1.0
        self.first.lerp_(gradients, 1.0 - FIRST)
        self.second.mul_(SECOND).addcmul_(gradients, gradients, value=1.0 - SECOND)
        mean = self.first / (1.0 - FIRST**self.counts)
        size = (self.second / (1.0 - SECOND**self.counts)).sqrt() + TINY
        change: torch.Tensor = self.rates * mean / size
        return change

    def keep(self, rows: torch.Tensor) -> None:
        """Forget all other rows."""
        self.first, self.second = self.first[rows], self.second[rows]
        self.rates, self.counts = self.rates[rows], self.counts[rows]


def train_below(
    surface: Surface,
    starts: Floats,
    goal: float,
    schedule: Schedule,
    *,
    tell: Callable[[int, Trained], None] = lambda left, so_far: None,
) -> Trained:
    """Train the rows of `starts` (beads, params) until their judged values are at most `goal`.

    One step evaluates the gradients of all beads that are still above the goal as one batch. A row's
    path does not depend on the others but for rounding.

    Args:
        surface: Loss and judged value.
        starts: Where beads start.
        goal: What their judged values shall not exceed.
        schedule: Rate, steps and samples per step.
        tell: Called at every step with the number of beads left, and with all as they stand: arrays that
            change with the next step.
    """
    run = _Run(surface, starts, schedule)
    stopped = False
    try:
        for step in range(schedule.max_steps):
            tell(len(run.active), run.so_far(goal))
            if not run.advance(step, goal):
                break
    except KeyboardInterrupt:  # between two steps, or within one: the best points stand
        stopped = True
    return run.result(goal, stopped)


class _Run:
    """The state of one training: what is active, and the best of each bead."""

    def __init__(self, surface: Surface, starts: Floats, schedule: Schedule) -> None:
        self.surface, self.schedule = surface, schedule
        self.rows = torch.tensor(starts, device=surface.device)
        self.active = np.arange(len(starts))
        self.best = starts.copy()
        self.values = np.full(len(starts), np.inf)
        self.steps = np.zeros(len(starts), dtype=np.int64)
        self.stale = np.zeros(len(starts), dtype=np.int64)
        self.halved = np.zeros(len(starts), dtype=np.int64)
        shape = (starts.shape[0], starts.shape[1])
        self.adam = Adam(shape, schedule.rate, surface.device)
        self.batches = surface.batches(schedule.batch_size)
        self.direct = len(self.batches) == 1 and surface.trains_on_judged

    def advance(self, step: int, goal: float) -> bool:
        """One step of all active beads; False when none is left."""
        looked = self.direct or step % EVERY == 0
        if not self.direct and looked:
            self._look(self.surface.values(self.rows.cpu().numpy()), goal)
            if not len(self.active):
                return False
        losses, gradients = self.surface.slopes(self.rows, self.batches[step % len(self.batches)])
        if self.direct:
            kept = self._look(losses.cpu().numpy(), goal)
            if not len(self.active):
                return False
            gradients = gradients[kept]
        self.rows = self.rows - self.adam.step(gradients)
        self.steps[self.active] += 1
        return True

    def result(self, goal: float, stopped: bool) -> Trained:
        """The beads as they stand; those still active are judged once more."""
        if len(self.active):
            self._look(self.surface.values(self.rows.cpu().numpy()), goal)
        return self.so_far(goal, stopped)

    def so_far(self, goal: float, stopped: bool = False) -> Trained:
        """The beads as they were judged last."""
        return Trained(self.best, self.values, self.values <= goal, self.steps, stopped)

    def _look(self, values: Floats, goal: float) -> torch.Tensor:
        """Take note of the active beads' values; let those go that are done or beyond hope."""
        better = values < self.values[self.active]
        points = self.rows.cpu().numpy()
        self.best[self.active[better]] = points[better]
        self.values[self.active[better]] = values[better]
        self.stale[self.active] = np.where(better, 0, self.stale[self.active] + 1)
        self._halve()
        staying = (self.values[self.active] > goal) & (self.halved[self.active] < HALVINGS)
        kept = torch.from_numpy(np.flatnonzero(staying)).to(self.rows.device)
        if not staying.all():
            self.active = self.active[staying]
            self.rows = self.rows[kept]
            self.adam.keep(kept)
        return kept

    def _halve(self) -> None:
        """Halve the rates of beads without progress, and put them back where they were best."""
        patience = PATIENCE if self.direct else max(1, PATIENCE // EVERY) * len(self.batches)
        stuck = self.stale[self.active] >= patience
        if stuck.any():
            where = torch.from_numpy(np.flatnonzero(stuck)).to(self.rows.device)
            self.adam.rates[where] *= 0.5
            self.rows[where] = torch.as_tensor(
                self.best[self.active[stuck]], device=self.rows.device
            )
            self.stale[self.active[stuck]] = 0
            self.halved[self.active[stuck]] += 1
