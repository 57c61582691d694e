"""A quadratic Bézier curve trained at random positions, as another way to a string below a level."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from reluscape.strings.finishing import Work
from reluscape.strings.judging import Beads
from reluscape.strings.training import Adam

Floats = NDArray[np.float64]

#: Segments of the string that first stands for the curve; halvings of those that are above the level.
PIECES, HALVINGS = 8, 4
#: Steps between looks at the curve.
EVERY = 25


def grow_bezier(work: Work) -> None:
    """Train the curve's middle point at random positions, `work.draws` of them in each step.

        phi(t) = (1 - t)^2 theta_a + 2 t (1 - t) c + t^2 theta_b,   minimise E_t loss(phi(t)) over c

    The result is the string through points of the curve, not the curve, and that is what is judged.
    Source: Garipov, Izmailov, Podoprikhin, Vetrov and Wilson, Loss surfaces, mode connectivity, and fast
    ensembling of DNNs (2018).
    """
    surface = work.surface
    ends = [torch.tensor(work.beads.thetas[k], device=surface.device) for k in (0, -1)]
    middle = (0.5 * (ends[0] + ends[1]))[None]
    adam = Adam((1, middle.shape[1]), work.schedule.rate, surface.device)
    batches = surface.batches(work.schedule.batch_size)
    generator = np.random.default_rng(work.seed)
    for step in range(work.schedule.max_steps + 1):
        if step % EVERY == 0 or step == work.schedule.max_steps:
            work.beads = _string(work, middle[0].cpu().numpy())
            work.tell(f"step {step}")
            if not work.beads.above(work.level):
                return
        if step == work.schedule.max_steps:
            break
        times = torch.tensor(generator.random((work.draws, 1)), device=surface.device)
        weights = 2.0 * times * (1.0 - times)
        points = (1.0 - times) ** 2 * ends[0] + weights * middle + times**2 * ends[1]
        _, gradients = surface.slopes(points, batches[step % len(batches)])
        middle = middle - adam.step((weights * gradients).mean(0, keepdim=True))
    work.tried.append(f"the curve was above the level after {work.schedule.max_steps} steps")


def _string(work: Work, middle: Floats) -> Beads:
    """Points of the curve, closer together where the string through them is above the level."""
    first, last = work.beads.thetas[0], work.beads.thetas[-1]

    def point(t: float) -> Floats:
        return np.asarray((1.0 - t) ** 2 * first + 2.0 * t * (1.0 - t) * middle + t**2 * last)

    times = [k / PIECES for k in range(PIECES + 1)]
    beads = Beads([first, *map(point, times[1:-1]), last], [0, *[1] * (PIECES - 1), 0])
    for depth in range(2, min(HALVINGS + 1, work.max_depth) + 1):
        work.judge.glance(beads)
        places = work.judge.seen_above(beads)
        if not places:
            break
        if work.surface.values(np.stack(beads.thetas)).max() > work.level:
            return beads
        for place in reversed(places):
            times.insert(place + 1, 0.5 * (times[place] + times[place + 1]))
            beads.insert([place], point(times[place + 1])[None], depth)
    work.judge.examine(beads)
    return beads
