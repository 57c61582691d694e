"""The highest loss on the straight way between two points of a landscape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from reluscape.crossing import cells_crossed
from reluscape.digits import rounded_down, rounded_up
from reluscape.errors import InputError
from reluscape.landscape import Landscape, check_landscape
from reluscape.results import Result
from reluscape.strings.bounding import can_bound, certified_peak
from reluscape.strings.moving import Moving, at
from reluscape.strings.one_hidden import Peak, exact_peak, is_one_hidden
from reluscape.strings.peaks import highest_seen
from reluscape.train import one_thread
from reluscape.validation import check_number, check_theta

__all__ = ["PathMaximum", "path_maximum"]

Floats = NDArray[np.float64]

#: Points of the grid where a maximum is proved, and where the grid is all there is.
FEW, MANY = 33, 257


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class PathMaximum(Result):
    """The largest loss on a segment, `lower <= max_t loss(theta_a + t (theta_b - theta_a)) <= upper`.

    Attributes:
        lower: The loss at `position`, less its rounding errors.
        upper: No point of the segment has a larger loss; infinite for tier "sampled".
        position: t in [0, 1] where the largest loss was found.
        num_cells: Cells that the segment passes through, as `cells_crossed` counts them; -1 if unknown.
        tier: "exact": maximised on every piece, so that the bounds are apart by rounding errors only.
            "certified": the bounds are proved, rounding errors included. "sampled": a grid and searches
            beside its highest points, which prove nothing about the points in between.
        times: Where the loss was evaluated, ascending (points,).
        losses: What it is there (points,).
    """

    lower: float
    upper: float
    position: float
    num_cells: int
    tier: str
    times: Floats
    losses: Floats

    def summary(self) -> str:
        """The bounds in a sentence."""
        where = f"at t = {self.position:.6g}"
        if self.tier == "sampled":
            return (
                f"largest loss found: {self.lower:.6g} {where} (sampled: {len(self.times)} points)"
            )
        low, top = rounded_down(self.lower, 9), rounded_up(self.upper, 9)
        return f"largest loss: {low:.9g} to {top:.9g}, {where} ({self.tier})"

    def plot(self) -> go.Figure:
        """The loss along the segment and the bounds on its maximum."""
        from reluscape.report.charts import Series, trails

        figure = trails([Series("loss", self.times, self.losses)], "t", "loss", log=False)
        if np.isfinite(self.upper):
            figure.add_hline(y=self.upper, line={"dash": "dot"}, annotation_text="upper bound")
        return figure


def path_maximum(
    landscape: Landscape,
    theta_a: ArrayLike,
    theta_b: ArrayLike,
    *,
    relative_gap: float = 1e-3,
    level: float | None = None,
) -> PathMaximum:
    """The largest loss on the straight segment between two points, weight decay included.

        max over t in [0, 1] of loss((1 - t) theta_a + t theta_b)

    Args:
        landscape: The landscape; buffers (running statistics) are its own for all t.
        theta_a: Start, shape (params,).
        theta_b: End, shape (params,).
        relative_gap: How far `upper` may lie above `lower`, relative to `lower`, for tier "certified".
        level: For tier "certified", stop as soon as the maximum is proved to be at most this, or to be
            larger, whatever the gap.

    Returns:
        The bounds. Tier "exact" for one hidden layer (no cross-entropy, nothing between its layers but
        the rectifier): all layers move, residuals are quadratics of t between kinks, and every piece's
        quartic (squared loss) or quadratic (L1) is maximised. Tier "certified" for all other chains of
        affine layers, convolutions with zeros around their inputs, average and max pooling, batch norm
        and ReLU or LeakyReLU (slope between 0 and 1), and for the end of others that is such a chain
        where nothing before it moves. Layers of a chain may have buffers in place of parameters, or be
        written as `F.linear`, products, sums and quotients with buffers or numbers: these stay. Outputs
        are enclosed between polynomials on parts of the segment, and parts are halved until the bounds
        are within the gap, or there are 10,000 of them: then the gap is larger than was asked for. Both
        include the rounding errors of float64, to first order, as if no unit were off: of large weights
        behind units that are, they may be most of the bound.
        Tier "sampled", a grid of 257 points and searches beside its highest, for the rest: other
        activations, residual connections, re-parametrised layers, and where numbers overflow.

    Cost: exact, two forward passes and O(log) for each of the at most `samples * units` kinks: 0.1 s for
    1,000 samples and 50 units. Certified, O(samples * units^2 * depth^2) for a part of the segment: at
    1,000 samples, layers of 50 units and a gap of 1e-3 between trained models 30 to 80 parts, on one core
    0.3 to 0.4 s for two hidden layers, 0.8 to 1.2 s for three and 1.4 to 2.1 s for four; a third of that
    for a level a fifth above the maximum. Parts grow with the inverse square root of the gap.
    Convolutions are applied to coefficients, never written out as matrices: 1 s for a part with 1,000
    MNIST images, 5 x 5 kernels, 8 and 16 channels; 8 to 16 s for a level, 30 s for a gap of 1e-3.

    Raises:
        InputError: Points of the wrong shape or not finite; a gap that is not a positive number; a level
            that is not a number.

    Example:
        >>> import numpy as np
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
        >>> landscape = Landscape(model, np.ones((1, 1)), np.zeros((1, 1)))
        >>> found = path_maximum(landscape, [1.0, 2.0], [2.0, 1.0])  # ((1 + t) (2 - t))^2
        >>> print(f"{found.upper:.4f} at {found.position:.4f}, {found.tier}")
        5.0625 at 0.5000, exact

    Source: Freeman and Bruna, algorithm 1, line 7, which asks for a stationary position or takes 1/2.
    """
    check_landscape(landscape, "path_maximum")
    start, stop = (check_theta(theta, landscape.size) for theta in (theta_a, theta_b))
    check_gap(relative_gap)
    if level is not None:
        check_number(level, "level")
    with one_thread():  # a few samples at a time: several threads would wait for each other
        return _found(landscape, start, stop, relative_gap, level)


def check_gap(relative_gap: object) -> None:
    """Refuse gaps that no proof closes."""
    if check_number(relative_gap, "relative_gap", 0.0) == 0.0:
        raise InputError(f"relative_gap must be a positive number; received {relative_gap!r}")


def _found(
    landscape: Landscape, start: Floats, stop: Floats, relative_gap: float, level: float | None
) -> PathMaximum:
    """The bounds by the best tier that there is."""
    moving = Moving.of(landscape, start, stop)
    exact = moving is not None and is_one_hidden(moving)
    if moving is None or not (exact or can_bound(moving)):
        return _seen(landscape, start, stop)
    times, losses, found = _sampled(moving.loss, FEW, search=level is None)
    peak = (
        exact_peak(moving, found) if exact else certified_peak(moving, found, relative_gap, level)
    )
    if peak.upper == np.inf:  # an overflow
        return _seen(landscape, start, stop)
    position = peak.position if moving.loss(peak.position) >= found.value else found.position
    lower = moving.lowest(moving.loss(position))
    upper, cells = max(peak.upper, lower), _num_cells(moving) if exact else -1
    return PathMaximum(
        lower, upper, position, cells, "exact" if exact else "certified", times, losses
    )


def _seen(landscape: Landscape, start: Floats, stop: Floats) -> PathMaximum:
    """What a grid shows."""
    times, losses, found = _sampled(lambda t: landscape.loss(at(start, stop, t)), MANY)
    return PathMaximum(found.value, np.inf, found.position, -1, "sampled", times, losses)


def _sampled(
    loss: Callable[[float], float], points: int, *, search: bool = True
) -> tuple[Floats, Floats, Peak]:
    """Losses on a grid, and the largest value of it or of searches beside its points."""
    times = np.linspace(0.0, 1.0, points)
    losses = np.array([loss(float(t)) for t in times])
    losses[np.isnan(losses)] = np.inf  # above every level
    best = int(losses.argmax())
    value, position = float(losses[best]), float(times[best])
    if search:
        value, position = highest_seen(loss, times, losses)
    return times, losses, Peak(value, position, np.inf)


def _num_cells(moving: Moving) -> int:
    """Cells that the segment passes through, where all of the network is read."""
    reading = moving.landscape.reading
    if reading is None or reading.opaque:
        return -1
    return cells_crossed(moving.landscape, moving.start, moving.stop)
