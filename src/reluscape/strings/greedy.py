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
    if not mend(work):
        return
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
        stuck = trained.values > work.level
        if stuck.any():
            work.tried.append(_told_stuck(work, f"depth {depth}", trained, stuck))
            return
    work.tell("judging")
    work.judge.examine(work.beads)
    left = len(work.beads.above(work.level))
    if left:
        work.tried.append(
            f"depth {work.max_depth} was reached with {left} segment{'s' * (left != 1)} above the level"
        )


def mend(work: Work) -> bool:
    """Train the beads of an earlier search that are above the level; whether all are below it now."""
    thetas = np.stack(work.beads.thetas)
    high = 1 + np.flatnonzero(work.surface.values(thetas)[1:-1] > work.level)
    if not len(high):
        return True
    around = thetas[high - 1], thetas[high + 1]
    moved = partial(_moved, work.beads, high)
    trained = _train(work, thetas[high], around, moved, depth=0, middle=False)
    work.beads = moved(trained)
    if trained.stopped:
        raise KeyboardInterrupt
    stuck = trained.values > work.level
    if stuck.any():
        work.tried.append(_told_stuck(work, "what was there before", trained, stuck))
    return not stuck.any()


def train_into(work: Work, places: list[int], depth: int) -> Trained:
    """A trained bead for each of these segments."""
    starts = work.beads.starts(places, work.middle)
    thetas, left = np.stack(work.beads.thetas), np.array(places)
    around = thetas[left], thetas[left + 1]
    inserted = partial(_inserted, work.beads, places, depth)
    return _train(work, starts, around, inserted, depth=depth, middle=work.middle)


def _train(
    work: Work,
    starts: Floats,
    around: tuple[Floats, Floats],
    drafted: Callable[[Trained], Beads],
    *,
    depth: int,
    middle: bool,
) -> Trained:
    """Beads trained from their starts; those that fail start again elsewhere between two points.

    Args:
        work: The search.
        starts: Where they start (beads, params).
        around: The points on both sides of each, (beads, params) both.
        drafted: The string with these beads.
        depth: For the seed of random points.
        middle: Whether they start in the middle between those points.
    """
    shown = partial(_tell, work, drafted)
    best = train_below(work.surface, starts, work.goal, work.schedule, tell=shown)
    rng = np.random.default_rng((work.seed, depth))
    for attempt in range(1, STARTS):
        failed = np.flatnonzero(~best.reached)
        if not len(failed) or best.stopped:
            break
        first, last = (points[failed] for points in around)
        trained = ~work.surface.landscape.moved
        starts = _elsewhere(first, last, None if attempt == 1 and not middle else rng, trained)
        shown = partial(_tell, work, partial(_with_earlier, drafted, best, failed))
        again = train_below(work.surface, starts, work.goal, work.schedule, tell=shown)
        best = _better(best, again, failed)
    return best


def _elsewhere(
    first: Floats, last: Floats, rng: np.random.Generator | None, trained: NDArray[np.bool_]
) -> Floats:
    """The middles between points, or points around them, random in the coordinates that are trained."""
    middles = first + 0.5 * (last - first)
    if rng is None:
        return middles
    lengths = np.linalg.norm((last - first)[:, trained], axis=1)
    noise = rng.normal(size=middles.shape) * trained / trained.sum() ** 0.5
    return np.asarray(middles + AROUND * lengths[:, None] * noise)


def _moved(beads: Beads, places: NDArray[np.intp], trained: Trained) -> Beads:
    """The string with these of its beads where training has brought them."""
    found = beads.copy()
    for place, theta in zip(places, trained.thetas, strict=True):
        found.move(int(place), theta)
    return found


def _inserted(beads: Beads, places: list[int], depth: int, trained: Trained) -> Beads:
    """The string with new beads where training has brought them."""
    found = beads.copy()
    found.insert(places, trained.thetas, depth)
    return found


def _with_earlier(
    drafted: Callable[[Trained], Beads], earlier: Trained, failed: NDArray[np.intp], again: Trained
) -> Beads:
    """The string with the better of an earlier attempt and one that goes on."""
    return drafted(_better(earlier, again, failed))


def _told_stuck(work: Work, where: str, trained: Trained, stuck: NDArray[np.bool_]) -> str:
    """How high beads stayed."""
    return (
        f"{where}: {int(stuck.sum())} of {len(stuck)} beads stayed above {work.level:.6g} from"
        f" {STARTS} starts of up to {work.schedule.max_steps} steps each; the lowest of them at"
        f" {trained.values[stuck].min():.6g}"
    )


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
