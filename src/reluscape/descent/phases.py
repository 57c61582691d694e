"""The two phases of a descent and their rates (Hinz, section II).

Hinz sees an exponential phase, in which the loss, the running mean of the step lengths and the distance
to the end all fall roughly exponentially, and then a fine-tuning phase, in which the loss falls more
slowly and the other two do as they like.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from reluscape.results import Result

if TYPE_CHECKING:
    import plotly.graph_objects as go

Floats = NDArray[np.float64]

#: Length of the running mean of step lengths, as published.
WINDOW = 40
#: What has a rate, in the order of the rows of `Phases.rates`.
SERIES = ("loss", "step", "distance")
#: Last share of the path that no line is fitted to: loss and distance are forced to zero at its end.
FORCED = 0.1
#: Places at which the exponential phase may end.
BREAKS = 80
#: Equal stretches whose means a rate is fitted to.
STRETCHES = 40
#: Fewest pivots of a phase.
SHORTEST = 20
#: Share of the losses below which they are above the end by rounding alone, as along a descent.
QUIET = 1e-12
#: Least fall over a whole phase that is one: a slower one would halve in no fewer than 69 such phases.
FLAT = 0.01
#: Said of a series that does not fall in a phase, or not for certain.
NO_FALL = "no clear fall"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Phases(Result):
    """Where the phases of a descent are, and how fast things fall in them.

    Attributes:
        first: Pivot at which the exponential phase begins: the first vertex.
        split: Pivot at which it ends and the fine-tuning phase begins; `last` if there is none.
        last: Last pivot that was looked at.
        rates: Fall of the natural logarithm per pivot of the loss above its end, of the running mean of
            40 step lengths (from vertex to vertex) and of the distance to the end, in the two phases,
            shape (3, 2). Negative where it rises, NaN for a phase of fewer than 20 pivots, or where the
            loss is above its end by rounding alone.
        intervals: Their 95 % intervals, shape (3, 2, 2).
    """

    first: int
    split: int
    last: int
    rates: Floats
    intervals: Floats

    def summary(self) -> str:
        """Both phases, a line each."""
        parts = (("exponential", self.first, self.split), ("fine-tuning", self.split, self.last))
        return "\n".join(
            f"{name}: "
            + (f"pivots {begin} to {end}" if begin < end else "none")
            + self._rates_of(phase)
            for phase, (name, begin, end) in enumerate(parts)
        )

    def plot(self) -> go.Figure:
        """The rates of the three series in both phases, with their intervals."""
        from reluscape.descent.charts import rates_figure

        return rates_figure(self)

    def falls(self, series: int, phase: int) -> bool:
        """Whether a series clearly falls in a phase.

        The interval of its rate is above zero, and the fall over all of the phase at least 1 %: where
        nothing moves, a rate of 1e-14 with an interval as narrow is rounding.
        """
        pivots = (self.split - self.first, self.last - self.split)[phase]
        rate, low = self.rates[series, phase], self.intervals[series, phase, 0]
        return bool(low > 0 and rate * pivots >= FLAT)

    def _rates_of(self, phase: int) -> str:
        """Rates of a phase with intervals, in words."""
        return "".join(
            f"; {name} {f'{rate:.3g}' if self.falls(series, phase) else NO_FALL}"
            f" ({low:.3g} to {high:.3g})"
            for series, (name, rate, (low, high)) in enumerate(
                zip(SERIES, self.rates[:, phase], self.intervals[:, phase], strict=True)
            )
            if np.isfinite(rate)
        )


def find_phases(losses: Floats, step_lengths: Floats, distances: Floats, first: int) -> Phases:
    """Split a path where its exponential decay stops.

    With y the logarithms of the three series, each standardised, the split b minimises the squared
    error of the broken lines

        y(k) = alpha + beta k + gamma max(k - b, 0),   first <= k <= last,

    with one b for all three, among those at which the loss falls before and more slowly after
    (beta < 0 < gamma for the loss). Where there is none, everything is the exponential phase.

    Args:
        losses: At the start and after every pivot, shape (pivots + 1,); the last is the end.
        step_lengths: Of every pivot, shape (pivots,).
        distances: To the end, at the start and after every pivot, shape (pivots + 1,).
        first: Pivot of the first vertex; -1 (none) for the start.

    Returns:
        The phases and their rates. The last tenth of the path is left out, where loss above the end
        and distance are forced to zero. A rate's interval treats what is left of 40 stretches' means
        about the line as an autoregression of order one: it covers less often than 95 % where a
        phase is not a line at all.
    """
    count = len(step_lengths)
    first = max(first, 0)
    last = max(int((1.0 - FORCED) * count), min(first, count))
    steps = running_mean(step_lengths[first:])
    above = losses - losses[-1]
    above = np.where(above > QUIET * np.abs(losses).max(), above, 0.0)
    series = np.stack([
        _logarithms(above)[first : last + 1],
        _logarithms(np.concatenate([steps[:1] if len(steps) else [0.0], steps]))[: last + 1 - first],
        _logarithms(distances)[first : last + 1],
    ])  # fmt: skip
    split = first + _split(series) if last - first >= 2 * SHORTEST else last
    rates = np.full((len(SERIES), 2, 3), np.nan)
    for row, values in enumerate(series):
        for phase, (begin, end) in enumerate(((first, split), (split, last))):
            if end - begin >= SHORTEST:
                rates[row, phase] = decay_rate(values[begin - first : end - first + 1])
    return Phases(first, split, last, rates[..., 0], rates[..., 1:])


def running_mean(values: Floats, window: int = WINDOW) -> Floats:
    """Mean of the last `window` values at every place, of all so far at the first ones."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts))


def decay_rate(logarithms: Floats) -> tuple[float, float, float]:
    """Fall per place of a line through logarithms, with its 95 % interval.

    The values' means over at most 40 equal stretches are fitted by least squares. Neighbouring
    residuals are correlated with coefficient r, so m of them count as m (1 - r) / (1 + r).

    Args:
        logarithms: Shape (places,); infinite and NaN ones are left out.

    Returns:
        (rate, low, high); all NaN for fewer than four stretches.
    """
    size = -(-len(logarithms) // STRETCHES)
    parts = [logarithms[begin : begin + size] for begin in range(0, len(logarithms), size)]
    kept = [(place, part[np.isfinite(part)]) for place, part in enumerate(parts[:-1])]
    places = np.array([place * size for place, part in kept if len(part)], dtype=np.float64)
    means = np.array([part.mean() for _, part in kept if len(part)])
    count = len(means)
    if count < 4:
        return np.nan, np.nan, np.nan
    centred = places - places.mean()
    slope = float(centred @ means / (centred @ centred))
    rest = means - means.mean() - slope * centred
    square = float(rest @ rest)
    share = float(rest[1:] @ rest[:-1]) / square if square > 0 else 0.0
    inflation = (1.0 + min(max(share, 0.0), 0.95)) / (1.0 - min(max(share, 0.0), 0.95))
    freedom = max(count / inflation - 2.0, 1.0)
    error = (square / freedom / (centred @ centred)) ** 0.5
    half = float(student.ppf(0.975, freedom) * error)
    return -slope, -slope - half, -slope + half


def _logarithms(values: Floats) -> Floats:
    """Natural logarithms; NaN where there is none."""
    return np.log(np.where(values > 0, values, np.nan))


def _split(series: Floats) -> int:
    """Place of the break with the least squared error at which the loss begins to fall more slowly."""
    count = int(series.shape[1])
    known = np.isfinite(series).all(axis=0)
    places = np.flatnonzero(known).astype(np.float64)
    best, least = count - 1, np.inf
    if len(places) < 2 * SHORTEST:
        return best
    values = series[:, known]
    spread = values.std(axis=1, keepdims=True)
    values = (values - values.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1.0)
    for split in np.unique(np.linspace(SHORTEST, count - 1 - SHORTEST, BREAKS).astype(int)):
        hinge = np.maximum(places - split, 0.0)
        design = np.column_stack([np.ones_like(places), places, hinge])
        lines = np.linalg.lstsq(design, values.T, rcond=None)[0]
        error = float(((values.T - design @ lines) ** 2).sum())
        if lines[1, 0] < 0.0 < lines[2, 0] and error < least:
            best, least = int(split), error
    return best
