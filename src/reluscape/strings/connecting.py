"""`connect`: a string of models between two trained ones that stays below a level."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from reluscape.errors import InputError
from reluscape.landscape import Landscape
from reluscape.progress import Progress
from reluscape.strings.band import grow_band
from reluscape.strings.bezier import grow_bezier
from reluscape.strings.connection import Connection
from reluscape.strings.constrained import grow_constrained
from reluscape.strings.finishing import Work, finish
from reluscape.strings.greedy import grow_greedily
from reluscape.strings.judging import Beads, Judge
from reluscape.strings.surface import Metric, Surface
from reluscape.strings.training import Schedule
from reluscape.validation import check_theta, check_whole

Floats = NDArray[np.float64]
End = ArrayLike | nn.Module | Mapping[str, torch.Tensor]

METHODS = {
    "greedy": grow_greedily,
    "constrained": grow_constrained,
    "bezier": grow_bezier,
    "band": grow_band,
}


def connect(
    landscape: Landscape,
    theta_a: ArrayLike,
    theta_b: ArrayLike,
    level: float,
    *,
    method: str = "greedy",
    metric: str | Metric | Landscape | None = None,
    max_depth: int = 10,
    alpha: float = 0.95,
    schedule: Schedule | None = None,
    middle: bool = False,
    spring: float = 0.0,
    draws: int = 1,
    batched: bool = True,
    relative_gap: float = 1e-3,
    start: Connection | None = None,
    progress: Progress | None = None,
    seed: int = 0,
) -> Connection:
    """Look for a path between two models on which the loss stays at or below a level."""
    began = perf_counter()
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}; received {method!r}")
    first, last = (check_theta(theta, landscape.size) for theta in (theta_a, theta_b))
    surface = Surface(landscape, metric, batched=batched)
    work = Work(
        surface=surface,
        judge=Judge(surface, level, relative_gap),
        beads=Beads([first, last], [0, 0]),
        goal=alpha * level,
        schedule=schedule or Schedule(),
        max_depth=check_whole(max_depth, "max_depth", 1),
        middle=middle,
        spring=spring,
        draws=draws,
        seed=check_whole(seed, "seed", 0),
        progress=progress,
    )
    try:
        METHODS[method](work)
    except KeyboardInterrupt:
        work.tried.append("stopped before the end")
    return finish(work, method, perf_counter() - began)
