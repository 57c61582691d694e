"""Greedy Dynamic String Sampling (Freeman and Bruna, section 3.1), one depth at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from reluscape.strings.finishing import Work
from reluscape.strings.judging import Beads
from reluscape.strings.training import Trained, train_below

Floats = NDArray[np.float64]

#: Starts for a bead that does not get below the goal: where the segment is highest, its middle, and
#: points around it, at a distance of this share of the segment's length.
STARTS, AROUND = 4, 0.1


def grow_greedily(work: Work) -> None:
    """Insert a bead into every segment above the level, train them, and go on with both halves.

    The published procedure goes into one half and returns; here all open segments of a depth are
    trained as one batch, so that both halves are always solved. A string to go on from counts with its
    depth: kept between two depths, it ends as if its search had never been stopped.
    """
    mend(work)
    for depth in range(1 + max(work.beads.depths), work.max_depth + 1):
        work.tell("judging")
        work.judge.examine(work.beads)
        places = work.beads.above(work.level)
        if not places:
            return
        trained = train_into(work, places, depth)
        work.beads.insert(places, trained.thetas, depth)
        if trained.stopped:
            raise KeyboardInterrupt
        stuck = int((~trained.reached).sum())
        if stuck:
            work.tried.append(
                f"depth {depth}: {stuck} of {len(places)} beads stayed above {work.goal:.6g} from"
                f" {STARTS} starts of up to {work.schedule.max_steps} steps each; the lowest of them"
                f" at {trained.values[~trained.reached].min():.6g}"
            )
            return
    work.tell("judging")
    work.judge.examine(work.beads)
    left = len(work.beads.above(work.level))
    if left:
        work.tried.append(
            f"depth {work.max_depth} was reached with {left} segment{'s' * (left != 1)} above the level"
        )


def mend(work: Work) -> None:
    """Train the beads of an earlier search that are still above the goal."""
    beads = work.beads
    inner = np.arange(1, len(beads.thetas) - 1)
    if not len(inner):
        return
    values = work.surface.values(np.stack(beads.thetas[1:-1]))
    high = inner[values > work.level]
    if len(high):
        starts = np.stack([beads.thetas[place] for place in high])
        shown = partial(_tell, work, partial(_moved, beads, high))
        trained = train_below(work.surface, starts, work.goal, work.schedule, tell=shown)
        work.beads = _moved(beads, high, trained)
        if trained.stopped:
            raise KeyboardInterrupt


def _moved(beads: Beads, places: NDArray[np.intp], trained: Trained) -> Beads:
    """The string with these of its beads where training has brought them."""
    found = beads.copy()
    for place, theta in zip(places, trained.thetas, strict=True):
        found.move(int(place), theta)
    return found


def train_into(work: Work, places: list[int], depth: int) -> Trained:
    """A trained bead for each of these segments; those that fail start again elsewhere."""
    starts = work.beads.starts(places, work.middle)
    inserted = partial(_inserted, work.beads, places, depth)
    shown = partial(_tell, work, inserted)
    best = train_below(work.surface, starts, work.goal, work.schedule, tell=shown)
    rng = np.random.default_rng((work.seed, depth))
    for attempt in range(1, STARTS):
        failed = np.flatnonzero(~best.reached)
        if not len(failed) or best.stopped:
            break
        starts = _elsewhere(work, [places[k] for k in failed], attempt, rng)
        shown = partial(_tell, work, partial(inserted, earlier=best, failed=failed))
        again = train_below(work.surface, starts, work.goal, work.schedule, tell=shown)
        best = _better(best, again, failed)
    return best


def _inserted(
    beads: Beads,
    places: list[int],
    depth: int,
    trained: Trained,
    earlier: Trained | None = None,
    failed: NDArray[np.intp] | None = None,
) -> Beads:
    """The string with new beads as training, and an earlier attempt, have brought them so far."""
    if earlier is not None and failed is not None:
        trained = _better(earlier, trained, failed)
    found = beads.copy()
    found.insert(places, trained.thetas, depth)
    return found


def _elsewhere(work: Work, places: list[int], attempt: int, rng: np.random.Generator) -> Floats:
    """The middles of segments, or points around them."""
    middles = work.beads.starts(places, middle=True)
    if attempt == 1 and not work.middle:
        return middles
    thetas = work.beads.thetas
    lengths = np.array([np.linalg.norm(thetas[k + 1] - thetas[k]) for k in places])
    noise = rng.normal(size=middles.shape) / middles.shape[1] ** 0.5
    return np.asarray(middles + AROUND * lengths[:, None] * noise)


def _better(best: Trained, again: Trained, places: NDArray[np.intp]) -> Trained:
    """The lower one of two attempts at some beads."""
    lower = again.values < best.values[places]
    kept = places[lower]
    thetas, values, reached = best.thetas.copy(), best.values.copy(), best.reached.copy()
    steps = best.steps.copy()
    thetas[kept], values[kept] = again.thetas[lower], again.values[lower]
    reached[kept] = again.reached[lower]
    steps[places] += again.steps
    return Trained(thetas, values, reached, steps, again.stopped)


def _tell(work: Work, drafted: Callable[[Trained], Beads], left: int, trained: Trained) -> None:
    """Show and keep a string whose beads are in training."""
    work.tell(f"training {left} bead{'s' * (left != 1)}", lambda: drafted(trained))
