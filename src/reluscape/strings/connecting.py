"""`connect`: a string of models between two trained ones that stays below a level."""

from __future__ import annotations

import os
from time import perf_counter
from typing import Any

from reluscape.errors import InputError
from reluscape.landscape import Landscape, check_landscape
from reluscape.progress import Progress
from reluscape.strings.band import grow_band
from reluscape.strings.bezier import grow_bezier
from reluscape.strings.connection import Connection
from reluscape.strings.constrained import grow_constrained
from reluscape.strings.ends import End, read_end
from reluscape.strings.finishing import Work, finish
from reluscape.strings.greedy import grow_greedily
from reluscape.strings.judging import Judge
from reluscape.strings.keeping import Keeper, Unfinished, check_keep
from reluscape.strings.maximum import check_gap
from reluscape.strings.pair import Pair
from reluscape.strings.surface import Metric, suited
from reluscape.strings.training import Schedule
from reluscape.validation import check_number, check_share, check_told, check_whole

#: What `tried` says where Ctrl-C ended a search.
STOPPED = "stopped before the end"

METHODS = {
    "greedy": grow_greedily,
    "constrained": grow_constrained,
    "bezier": grow_bezier,
    "band": grow_band,
}


def connect(
    landscape: Landscape,
    theta_a: End,
    theta_b: End,
    level: float,
    *,
    method: str = "greedy",
    match_units: bool = False,
    metric: str | Metric | Landscape | None = None,
    max_depth: int = 10,
    alpha: float = 0.95,
    middle: bool = False,
    spring: float = 0.03,
    draws: int = 1,
    schedule: Schedule | None = None,
    batched: bool = True,
    relative_gap: float = 1e-3,
    start: Connection | Unfinished | None = None,
    keep: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    seed: int = 0,
) -> Connection:
    """Look for a path between two models on which the loss stays at or below a level.

        gamma(0) = theta_a,   gamma(1) = theta_b,   loss(gamma(t)) <= level for all t

    The path is a string of models ("beads") joined by straight segments. Dynamic String Sampling inserts
    beads where it is too high and trains them to `alpha * level`, until all segments are below the level.

    Args:
        landscape: Any module; its loss is what beads are trained on.
        theta_a: One model: flat parameters, which have the landscape's buffers, a module, or its state
            dict; these keep their own. Between the ends, running statistics (batch norm) are those of the
            landscape's data at each point, as if re-estimated there. Of other buffers in which the models
            differ, those of floating point on which outputs depend (statistics of instance norms, vectors
            of spectral norms, input normalisers) move linearly on each segment and are not trained;
            those on which they do not (counters) are the landscape's between the ends.
        theta_b: The other one.
        level: At least the value at both ends; where paths are proved, with its rounding errors.
        method: "greedy": beads go into segments one depth at a time and are trained freely.
            "constrained": all beads move together, each as far from the one before as from the next.
            "bezier": a quadratic Bezier curve; "band": a nudged elastic band; both to compare with.
        match_units: Permute the second model's hidden units first so that they fit the first one's; the
            path then ends at that permuted model, which computes the same function.
        metric: What is held below the level instead of the loss: "error_rate", a function of outputs and
            targets, or a landscape of the same model on other data.
        max_depth: How often a segment may be divided, one after the other; the first beads of a curve and
            a band, 7 at once, count as one division; a constrained string is of at most 2^max_depth.
        alpha: Beads are trained to this share of the level, of a negative one to all of it; but to no
            less than the higher end has, as there may be no less.
        middle: Greedy beads start in the middle of their segment, not where it is highest.
        spring: Of the constrained variant, in units of loss per length.
        draws: Positions on the Bezier curve in one step.
        schedule: Rate, steps and samples per step of the training.
        batched: False trains beads one after the other.
        relative_gap: Of certified maxima.
        start: A connection between the same ends to go on from, or an `Unfinished` one; its depths, and
            what it took, count.
        keep: A file for the string so far, an `Unfinished`, for a process that may be killed: written at
            each new depth and about every ten seconds, in place of an earlier one, and left there. A
            file of another kind is refused.
        progress: Told the number of beads, the depth and the worst segment.
        seed: Of every random choice; the same seed gives the same bytes on one machine.

    Returns:
        What was found; "not_found" does not say that there is no path. A `Stop` or Ctrl-C ends the search
        with the string as it is.

    Cost: each step of training evaluates one gradient for each bead that is still above its goal, all of
    them as one batch; each new segment 33 losses and, once these are below the level, the proof that it
    is (`path_maximum`), or a grid of 257 losses and up to three searches beside its highest, of 15 to 50
    each, where there is none. A batch saves what a step costs beside arithmetic: much for small models,
    nothing where one of them keeps the processor busy.

    Raises:
        InputError: Ends of another shape, with buffers that cannot move (masks and other whole numbers,
            sparse ones, those of compiled code) and are not the landscape's, or above the level; batch
            norms whose running statistics would not be those of what enters them; an option out of range,
            or a file to keep the string in that cannot be written.

    Example:
        >>> import numpy as np
        >>> from torch import nn
        >>> line = nn.Linear(1, 1, bias=False)
        >>> found = connect(Landscape(line, np.array([[1.0]]), [0.0]), [-1.0], [1.0], 1.5)
        >>> found.status, found.tier, found.num_beads
        ('connected', 'certified', 2)

    Reference: Freeman and Bruna, Topology and geometry of half-rectified network optimization (2017).
    """
    check_landscape(landscape, "connect")
    began = perf_counter()
    level = check_number(level, "level")
    file = None if keep is None else check_keep(keep)
    schedule = schedule or Schedule()
    _check(method, spring, progress, relative_gap, start, schedule)
    with suited(landscape):
        pair = Pair.of(landscape, theta_a, theta_b, metric=metric, match_units=match_units)
        beads = pair.first_beads(start)
        surface = pair.surface(batched, seed)
        judge = Judge(surface, level, relative_gap)
        highest = pair.check_level(judge)
        tried = pair.remarks()
        if start is not None:  # its cost is this one's, too
            surface.gradients += start.gradients
            surface.losses += start.losses
            began -= start.seconds
            tried.append(f"gone on from a string of {len(start.beads)} beads that was there before")
        work = Work(
            surface=surface,
            judge=judge,
            beads=beads,
            goal=min(max(check_share(alpha, "alpha") * level, highest), level),
            schedule=schedule,
            max_depth=check_whole(max_depth, "max_depth", 1),
            middle=middle,
            spring=spring,
            draws=check_whole(draws, "draws", 1),
            seed=check_whole(seed, "seed", 0),
            progress=progress,
            keeper=None if file is None else Keeper(file, surface, level, method, seed, began),
            tried=tried,
        )
        try:
            METHODS[method](work)
        except KeyboardInterrupt:  # Stop is one
            work.tried.append(STOPPED)
        extra: dict[str, Any] = {}
        if match_units:
            given = pair.point_of(read_end(landscape, theta_b, "theta_b"))
            unmatched = work.judge.prove(pair.points[0], given).lower
            extra = {"matched": True, "unmatched_lower": unmatched}
        return pair.told(finish(work, method, began, **extra))


def _check(
    method: str,
    spring: float,
    progress: object,
    relative_gap: float,
    start: object,
    schedule: object,
) -> None:
    """Refuse options out of range."""
    if not isinstance(method, str) or method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}; received {method!r}")
    check_number(spring, "spring", 0.0)
    check_gap(relative_gap)
    if not isinstance(schedule, Schedule):
        raise InputError(f"schedule must be a Schedule; received {schedule!r}")
    given = start is None or isinstance(start, Connection | Unfinished)
    if not given or (start is not None and method == "bezier"):
        raise InputError(
            "start must be a Connection or an Unfinished one to go on from, with any method but 'bezier';"
            " received"
            f" {type(start).__name__} with method {method!r}"
        )
    check_told(progress, "progress")
