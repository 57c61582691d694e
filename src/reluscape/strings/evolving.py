"""Strings whose beads all move together: the loop that the constrained variant and the band share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from reluscape.strings.finishing import Work
from reluscape.strings.judging import Beads
from reluscape.strings.training import Adam

Floats = NDArray[np.float64]

#: Steps between looks at the segments.
ROUND = 10
#: Beads beyond which no segment is split.
MOST = 200


class Rule(Protocol):
    """How the inner beads of a string move; tensors are of its rows, ends included."""

    def force(
        self, rows: torch.Tensor, gradients: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """What takes the gradient's place, for the inner rows."""

    def settle(self, moved: torch.Tensor) -> torch.Tensor:
        """Rows that keep their distances, from rows after a step or with new ones; the ends stay."""

    def moving(self, values: Floats) -> NDArray[np.bool_]:
        """Which inner beads are moved next, from the values of all beads."""

    def splits(self, work: Work, values: Floats) -> list[tuple[int, int]]:
        """Segments that are to get a new bead, the highest first, and how deep these are."""


def units(rows: torch.Tensor) -> torch.Tensor:
    """Rows of length one; zero rows stay zero."""
    lengths = rows.norm(dim=1, keepdim=True)
    return rows / torch.where(lengths > 0, lengths, torch.ones_like(lengths))


@dataclass(slots=True)
class _Memory:
    """Adam's averages for the inner beads, of which some are new."""

    adam: Adam

    def insert(self, places: list[int], rate: float) -> None:
        """Rows of zeros for beads inserted into these segments."""
        old = self.adam
        count = len(old.first) + len(places)
        fresh = Adam((count, old.first.shape[1]), rate, old.first.device)
        kept = np.delete(np.arange(count), np.array(places) + np.arange(len(places)))
        index = torch.from_numpy(kept).to(old.first.device)
        for name in ("first", "second", "rates", "counts"):
            getattr(fresh, name)[index] = getattr(old, name)
        self.adam = fresh


def evolve(work: Work, rule: Rule) -> None:
    """Move all inner beads by a rule until every segment is below the level, or steps are over.

    After each round of steps the segments are judged, and split where the rule says so.
    """
    surface, beads = work.surface, work.beads
    size = len(beads.thetas[0])
    memory = _Memory(Adam((len(beads.thetas) - 2, size), work.schedule.rate, surface.device))
    step, most = 0, work.schedule.max_steps
    while True:
        work.judge.glance(beads)
        if not work.judge.seen_above(beads):
            work.judge.examine(beads)
        work.tell(f"step {step}")
        if not beads.above(work.level):
            return
        values = surface.values(np.stack(beads.thetas))
        splits = [one for one in rule.splits(work, values) if one[1] <= work.max_depth]
        splits = sorted(splits[: max(0, MOST - len(values))])
        if splits:
            _split(beads, splits)
            memory.insert([place for place, _ in splits], work.schedule.rate)
            settle(work, rule)
            values = surface.values(np.stack(beads.thetas))
        if step == most or not (splits or rule.moving(values).any()):
            break
        until = min(step + ROUND, most)
        if _steps(work, rule, memory.adam, values, range(step, until)):
            step = until
    work.judge.examine(beads)
    left = len(beads.above(work.level))
    work.tried.append(
        f"{left} of {len(beads.segments)} segments are above the level after {step} steps of the string"
    )


def settle(work: Work, rule: Rule) -> None:
    """Let the string keep its distances as it stands."""
    rows = torch.tensor(np.stack(work.beads.thetas), device=work.surface.device)
    _place(work.beads, rule.settle(rows))


def _split(beads: Beads, splits: list[tuple[int, int]]) -> None:
    """New beads in the middles of segments."""
    points = beads.starts([place for place, _ in splits], middle=True)
    for (place, depth), point in reversed(list(zip(splits, points, strict=True))):
        beads.insert([place], point[None], depth)


def _steps(work: Work, rule: Rule, adam: Adam, values: Floats, steps: range) -> bool:
    """Steps of the beads that are to move; whether there are any."""
    surface = work.surface
    batches = surface.batches(work.schedule.batch_size)
    moving = np.flatnonzero(rule.moving(values))
    if not len(moving):
        return False
    chosen = torch.from_numpy(moving).to(surface.device)
    rows = torch.tensor(np.stack(work.beads.thetas), device=surface.device)
    heights = torch.tensor(values, device=surface.device)
    for step in steps:
        losses, found = surface.slopes(rows[1 + chosen], batches[step % len(batches)])
        if surface.trains_on_judged and len(batches) == 1:
            heights[1 + chosen] = losses
        gradients = torch.zeros_like(rows[1:-1])
        gradients[chosen] = found
        force = rule.force(rows, gradients, heights)
        force[:, surface.still] = 0.0
        change = torch.zeros_like(gradients)
        change[chosen] = adam.step(force)[chosen]
        rows = rule.settle(torch.cat([rows[:1], rows[1:-1] - change, rows[-1:]]))
    _place(work.beads, rows)
    return True


def _place(beads: Beads, rows: torch.Tensor) -> None:
    """Move the inner beads to these rows."""
    found = rows.cpu().numpy()
    for place in range(1, len(found) - 1):
        if not np.array_equal(found[place], beads.thetas[place]):
            beads.move(place, found[place].copy())
