"""A level to ask for where nobody has said one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from reluscape.errors import InputError
from reluscape.landscape import Landscape, check_landscape
from reluscape.strings.carried import Carried
from reluscape.strings.ends import has_statistics, on_own_statistics, own_value, read_end
from reluscape.strings.pair import matched
from reluscape.strings.surface import Metric, Surface, suited

#: Of what the straight line rises above the worse end, and of that end's own value.
SHARE, ABOVE = 0.1, 1.1
#: What rounding may add, relative to the loss of zero parameters.
ROUNDING = 1e-9
#: Points on a straight line.
POINTS = 33


def usual_level(
    landscape: Landscape,
    models: Sequence[nn.Module],
    metric: str | Metric | None = None,
    *,
    match_units: bool = False,
) -> tuple[float, tuple[float, ...]]:
    """A level between models, and the value of each of them.

        level = max(1.1 w, w + 0.1 (s - w), w + 1e-9 z)

    with the worst model's value w, the largest one s at 33 points of each straight line between two of
    them, and the loss z of zero parameters, next to which rounding errors are small (0 for a metric): a
    string below it has no more than a tenth of the straight line's barrier. With `match_units`, each
    line ends at the second model with its hidden units permuted to fit the first one's.

    Raises:
        InputError: A model of another shape, forward or buffers.
    """
    check_landscape(landscape, "usual_level")
    with suited(landscape):
        return _level(landscape, models, metric, match_units)


def _level(
    landscape: Landscape,
    models: Sequence[nn.Module],
    metric: str | Metric | None,
    match_units: bool,
) -> tuple[float, tuple[float, ...]]:
    """`usual_level` in whatever threads there are."""
    read = [read_end(landscape, model, "model") for model in models]
    carried = Carried.between([landscape], [end.state for end in read])
    points = np.stack([carried.at(end.theta, end.state) for end in read])
    floating = has_statistics(landscape)
    surface = Surface(on_own_statistics(carried.wide) if floating else carried.wide, metric)
    values = surface.values(points)
    if floating:  # an end also has to be below the level by its own statistics
        values = np.maximum(values, [own_value(landscape, end, metric) for end in read])
    pairs = list(combinations(range(len(models)), 2))
    stops = points[[b for _, b in pairs]]
    if match_units:
        ends = [matched(landscape, read[a], read[b]) for a, b in pairs]
        stops = np.stack([carried.at(end.theta, end.state) for end in ends])
    times = np.linspace(0.0, 1.0, POINTS)
    straight = surface.along(points[[a for a, _ in pairs]], stops, times)
    worst, highest = float(values.max()), float(np.nanmax(straight))
    if not np.isfinite(worst):
        raise InputError(f"models must have a finite {surface.kind}; received {values.tolist()}")
    scale = 0.0 if metric else float(np.nan_to_num(surface.values(0.0 * points[:1])[0], posinf=0.0))
    level = max(ABOVE * worst, worst + SHARE * (highest - worst), worst + ROUNDING * scale)
    return float(level), tuple(values.tolist())


def flat(landscape: Landscape, model: nn.Module) -> NDArray[np.float64]:
    """Parameters in the landscape's order."""
    state = landscape.state_of(model)
    names = [name for name, _ in landscape.module_at().named_parameters()]
    return np.asarray(torch.cat([state[name].reshape(-1) for name in names]).cpu().numpy())
