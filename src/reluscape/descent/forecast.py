"""Where a path of losses will end, from what has been seen of it.

The losses f_0 >= f_1 >= ... of a descent approach their end roughly exponentially (Hinz, section II.1).
Then the decreases d_k = f_{k-1} - f_k decay at the same rate, and what is still to come is their tail.
The rate is read off decreases, not off losses: their centre of mass needs no guess of the end and does
not mind that most of the fall comes in few pivots.

Step lengths are not used: multiplying what is to come by a power (1/4, 1/2, 1) of their trend, the mean
of the last quarter of them over that of the quarter before, lowered no error on the paths of `REACH`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

from reluscape.errors import InputError
from reluscape.results import Result
from reluscape.validation import as_array, check_share, check_whole

if TYPE_CHECKING:
    import plotly.graph_objects as go

Floats = NDArray[np.float64]

#: Last shares of the path on each of which an exponential is fitted.
WINDOWS = (3 / 4, 1 / 2, 1 / 3, 1 / 4, 1 / 6, 1 / 8)
#: Fewest decreases in a window.
FEWEST = 8
#: Smallest rate times window length that a window can tell from no decay; of 0.1, 0.3, 0.5 and 1 the one
#: that did best at half of the paths of `REACH`.
SLOWEST = 0.5
#: How far below the forecast's scale the interval reaches: covers 95 % of the ends at 1/4, 1/2 and 3/4
#: of 310 paths of Hinz's setting (seeds 0-99, 1000-1149 with long steps, 1000-1059 with first kinks),
#: none of which is among the instances that `reproduce hinz` runs.
REACH = 2.0
#: Least share of the whole fall so far that may still come, as far as the interval is concerned.
RESERVE = 0.01
#: Standard errors of a level by which the fall over a window must exceed it: three of a difference.
CLEAR = 4.2
#: Largest size of a loss: sums over 1e17 of them stay in float64's range.
LARGEST = 1e290
#: Means of a noisy curve, as many at most.
BLOCKS = 64


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Forecast(Result):
    """The loss at which a path will end.

    Attributes:
        loss: The forecast.
        interval: Where the end lies in about 95 of 100 cases, shape (2,). Calibrated, not guaranteed.
        seen: Number of losses that it rests on.
    """

    loss: float
    interval: Floats
    seen: int

    def summary(self) -> str:
        """The forecast with its interval."""
        low, high = self.interval
        return (
            f"will end at {self.loss:.6g} (95 %: {low:.6g} to {high:.6g}; {self.seen} losses seen)"
        )

    def plot(self) -> go.Figure:
        """The forecast with its interval, at the number of losses that it rests on."""
        from reluscape.descent.charts import forecast_figure

        return forecast_figure(self)


@dataclass(slots=True)
class Forecaster:
    """Says during a descent where it will end, no lower than `least` (-inf for a network's output).

    Example:
        >>> online = Forecaster()
        >>> for k in range(60):
        ...     online.add(2.0 + 0.5**k)
        >>> round(online.forecast().loss, 9)
        2.0
    """

    losses: list[float] = field(default_factory=list)
    least: float = 0.0

    def __post_init__(self) -> None:
        self.losses = _checked(self.losses).tolist() if len(self.losses) else []
        if not isinstance(self.least, (int, float)) or not self.least < np.inf:
            raise InputError(
                f"least must be a number, -inf where it is unknown; received {self.least!r}"
            )

    def add(self, loss: float) -> None:
        """Take in the loss after one more pivot.

        Raises:
            InputError: The loss is not a finite number, or above 1e290.
        """
        self.losses.append(float(_checked([loss])[0]))

    def forecast(self) -> Forecast:
        """Where a descent with these losses will end; costs one pass over them.

        Raises:
            InputError: No loss yet, or a loss that rises.
        """
        return forecast_descent(np.array(self.losses), least=self.least)


def forecast_descent(losses: ArrayLike, *, least: float = 0.0) -> Forecast:
    """The loss at which a descent ends, from the losses seen so far.

    For each window of the last m decreases, w in `WINDOWS`, the geometric sequence d_k ~ exp(-rate k)
    with the same sum and the same centre of mass has the tail

        R_w = d exp(-rate) / (1 - exp(-rate)),   d the sequence's last member.

    The forecast is f_n - (mean over w of sqrt(R_w))^2, which lies between the windows' arithmetic and
    geometric mean: a mean of magnitudes that one short window without any decrease cannot bring to 0.
    The interval is [f_n - 2 (R + h + f / 100), f_n] with R the forecast's own tail, h the fall over the
    last half of the pivots and f over all of them.

    Args:
        losses: Loss at the start and after every pivot, shape (seen,); none above the one before.
        least: What the losses cannot fall below; -inf where that is unknown, as for a network's output.

    Returns:
        The forecast, no lower than `least`.

    Guarantees:
        Exact for f_k = c + a exp(-rate k) where `rate` times the shortest window is at least `SLOWEST`.
        The interval's upper end, the last loss, is certain; the lower one covers what paths like those
        it was calibrated on do, more often than 95 % late in a path and less often early.

    Raises:
        InputError: No loss, or a loss that is not finite, above 1e290, or rises.
    """
    seen = _checked(losses)
    if (np.diff(seen) > 0).any():
        raise InputError("losses of a descent never rise; give noisy ones to forecast_losses")
    remaining = _remaining(-np.diff(seen), np.inf, 0.0)
    return _result(seen, remaining, 0.0, len(seen), least)


def forecast_at(losses: Floats, fraction: float, *, least: float = 0.0) -> Forecast:
    """The forecast from `losses[: ceil(fraction * pivots) + 1]` of a path, and nothing else.

    Raises:
        InputError: `fraction` is not between 0 and 1.
    """
    fraction = check_share(fraction, "fraction")
    seen = losses[: ceil(fraction * (len(losses) - 1)) + 1]
    return forecast_descent(seen, least=least)


def forecast_losses(losses: ArrayLike, *, horizon: int | None = None) -> Forecast:
    """The loss level to which a noisy curve, such as that of stochastic gradient descent, falls.

    The curve is cut into at most 64 equal blocks, and the fit of `forecast_descent` made on their
    means, on windows where the fall exceeds three times the noise of a difference of means; what is to
    come is the tail's first `horizon` steps.

    Args:
        losses: Training losses in order, shape (seen,).
        horizon: Steps that are still to come; default: without end.

    Returns:
        The forecast of the level after these steps: a mean, to which a single noisy loss does not keep.
        The interval is that of `forecast_descent`, widened by twice the noise of a mean. It is not
        calibrated on training curves: `reluscape reproduce hinz` reports what it covers of some. A rate
        schedule that changes what the curve does cannot be foreseen.

    Raises:
        InputError: No loss, one that is not finite or above 1e290, or a `horizon` that is no whole
            number of at least 0.
    """
    seen = _checked(losses)
    if horizon is not None:
        check_whole(horizon, "horizon", 0)
    size = -(-len(seen) // BLOCKS)
    blocks = len(seen) // size
    means = seen[len(seen) - blocks * size :].reshape(blocks, size).mean(axis=1)
    left = np.inf if horizon is None else (horizon + (size - 1) / 2) / size
    bends = np.abs(np.diff(means, 2))  # of white noise: a normal's with 6 times its variance
    noise = float(np.median(bends)) / (0.6745 * 6.0**0.5) if len(bends) else 0.0
    remaining = _remaining(-np.diff(means), left, noise)
    return _result(means, remaining, noise, len(seen))


def _checked(losses: ArrayLike) -> Floats:
    """Losses as an array."""
    seen = as_array(losses, "losses").astype(np.float64)
    if seen.ndim != 1 or not len(seen):
        raise InputError(f"expected at least one loss, in one row; received shape {seen.shape}")
    if not np.isfinite(seen).all():
        bad = np.flatnonzero(~np.isfinite(seen))
        raise InputError(
            f"losses must be finite; received {len(bad)} NaN or infinite, first at place {bad[0]}:"
            " leave out what came after training diverged"
        )
    largest = float(np.abs(seen).max())
    if largest > LARGEST:
        raise InputError(
            f"losses must be at most {LARGEST:.0e} in size; received {largest:.3g}: rescale them"
        )
    return seen


def _result(
    levels: Floats, remaining: float, noise: float, seen: int, least: float = 0.0
) -> Forecast:
    """The forecast and its interval from what remains."""
    last, count = float(levels[-1]), len(levels) - 1
    half = max(float(levels[count - count // 2]) - last, 0.0)
    whole = max(float(levels[0]) - last, 0.0)
    reach = REACH * (remaining + half + RESERVE * whole + noise)
    least = least if last >= least else -np.inf
    interval = np.array([max(last - reach, least), last + REACH * noise])
    return Forecast(max(last - remaining, least), interval, seen)


def _remaining(decreases: Floats, horizon: float, noise: float) -> float:
    """What is still to come after these decreases within `horizon` more of them.

    Windows on which the fall does not stand out from the noise of the levels say nothing.
    """
    count = len(decreases)
    lengths = [min(max(int(share * count), FEWEST), count) for share in WINDOWS]
    windows = [decreases[count - length :] for length in lengths if count]
    telling = [window for window in windows if window.sum() >= CLEAR * noise]
    tails = [_tail(window, horizon) for window in telling]
    return float(np.mean(np.sqrt(tails))) ** 2 if tails else 0.0


def _tail(decreases: Floats, horizon: float) -> float:
    """Tail of the geometric sequence with the sum and the centre of mass of these decreases."""
    count, total = len(decreases), float(decreases.sum())
    if total <= 0.0:
        return 0.0
    centre = float(decreases @ np.arange(count)[::-1]) / total  # steps before the last one
    rate = _rate(centre, count)
    last = total * np.expm1(-rate) / np.expm1(-rate * count) * np.exp(-rate * (count - 1))
    return float(last * np.exp(-rate) * np.expm1(-rate * horizon) / np.expm1(-rate))


def _rate(centre: float, count: int) -> float:
    """Rate at which `sum k exp(rate k) / sum exp(rate k)` over k < count is `centre`.

    At least `SLOWEST` per window, which stands for all slower ones and for rising sequences.
    """

    def excess(rate: float) -> float:
        return float(count / -np.expm1(-rate * count) - 1.0 / -np.expm1(-rate) - centre)

    slowest, fastest = SLOWEST / count, 50.0
    if excess(slowest) >= 0.0:
        return slowest
    return fastest if excess(fastest) <= 0.0 else float(brentq(excess, slowest, fastest))
