"""Strings whose beads all move together: the loop that the constrained variant and the band share."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from reluscape.strings.finishing import Work
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

    def settle(self, rows: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
        """Inner rows after a step from `rows` to `moved`, both with ends."""

    def moving(self, values: Floats) -> NDArray[np.bool_]:
        """Which inner beads are moved next, from the values of all beads."""

    def splits(self, work: Work, values: Floats) -> list[int]:
        """Segments that are to get a new bead, if they are not too deep."""


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


def evolve(work: Work, rule: Rule, rounds: int) -> None:
    """Move all inner beads by a rule until every segment is below the level, or rounds are over.

    After each round of steps the segments are judged, and split where the rule says so.
    """
    surface, beads = work.surface, work.beads
    size = len(beads.thetas[0])
    memory = _Memory(Adam((len(beads.thetas) - 2, size), work.schedule.rate, surface.device))
    for number in range(rounds + 1):
        work.judge.examine(beads)
        work.tell(f"round {number}")
        if not beads.above(work.level):
            return
        values = surface.values(np.stack(beads.thetas))
        depths = [max(pair) for pair in pairwise(beads.depths)]
        places = [place for place in rule.splits(work, values) if depths[place] < work.max_depth]
        places = places[: MOST - len(values)]
        if places:
            _split(work, places)
            memory.insert(places, work.schedule.rate)
            values = surface.values(np.stack(beads.thetas))
        if number < rounds:
            _steps(work, rule, memory.adam, values)
    left = len(beads.above(work.level))
    steps = rounds * ROUND
    work.tried.append(
        f"{left} of {len(beads.segments)} segments are above the level after {steps} steps"
    )


def _split(work: Work, places: list[int]) -> None:
    """New beads in the middles of segments, one deeper than the deeper of their neighbours."""
    beads = work.beads
    for place, point in sorted(zip(places, beads.starts(places, middle=True), strict=True),
                               key=lambda one: -one[0]):  # fmt: skip
        depth = 1 + max(beads.depths[place : place + 2])
        beads.insert([place], point[None], depth)


def _steps(work: Work, rule: Rule, adam: Adam, values: Floats) -> None:
    """One round of steps of the beads that are to move."""
    surface = work.surface
    moving = np.flatnonzero(rule.moving(values))
    if not len(moving):
        return
    chosen = torch.from_numpy(moving).to(surface.device)
    rows = torch.tensor(np.stack(work.beads.thetas), device=surface.device)
    heights = torch.tensor(values, device=surface.device)
    for _ in range(ROUND):
        losses, found = surface.slopes(rows[1 + chosen])
        if surface.trains_on_judged:
            heights[1 + chosen] = losses
        gradients = torch.zeros_like(rows[1:-1])
        gradients[chosen] = found
        force = rule.force(rows, gradients, heights)
        change = torch.zeros_like(gradients)
        change[chosen] = adam.step(force)[chosen]
        moved = torch.cat([rows[:1], rows[1:-1] - change, rows[-1:]])
        rows[1 + chosen] = rule.settle(rows, moved)[chosen]
    found_rows = rows.cpu().numpy()
    for place in range(1, len(found_rows) - 1):
        if not np.array_equal(found_rows[place], work.beads.thetas[place]):
            work.beads.move(place, found_rows[place].copy())
