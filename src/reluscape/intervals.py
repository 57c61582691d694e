"""Intervals for means, standard deviations and shares."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, binomtest, bootstrap

Floats = NDArray[np.float64]

#: Number of values above which resampling costs seconds and adds nothing.
MANY = 2000
#: Standard errors on either side of an estimate that a 95 % interval spans.
Z95 = 1.959963984540054


def bootstrap_interval(
    values: Floats, statistic: Callable[..., object], *, level: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """A statistic with its bootstrap interval (bias-corrected and accelerated, 2,000 resamples).

    Args:
        values: Shape (trials,).
        statistic: Of one sample along `axis`, such as `np.mean`.
        level: Confidence.
        seed: Of the resampling.

    Returns:
        (statistic, low, high). Fewer than three values, or equal ones, give the statistic alone, or
        NaN where it has none.
    """
    found = float(np.asarray(statistic(values, axis=-1))) if len(values) else float("nan")
    if len(values) < 3 or (values == values[0]).all():
        return found, found, found
    result = bootstrap(
        (values,),
        statistic,
        n_resamples=2000,
        confidence_level=level,
        rng=np.random.default_rng(seed),
        batch=max(1, 10**7 // len(values)),
    )
    interval = result.confidence_interval
    return found, float(interval.low), float(interval.high)


def mean_interval(values: Floats, *, seed: int = 0) -> tuple[float, float, float]:
    """Mean with its 95 % interval: bootstrap, or the normal one above `MANY` values, where they agree."""
    if len(values) <= MANY:
        return bootstrap_interval(values, np.mean, seed=seed)
    mean, half = float(values.mean()), Z95 * float(values.std(ddof=1)) / len(values) ** 0.5
    return mean, mean - half, mean + half


def median_interval(values: Floats, *, level: float = 0.95) -> tuple[float, float, float]:
    """Median with its interval between order statistics: exact whatever the distribution.

    Returns:
        (median, low, high); low and high are NaN where there are too few values for the level (fewer
        than six for 95 %): n of them lie on both sides of the median with probability 1 - 2^(1 - n).
    """
    ranked, count = np.sort(values), len(values)
    median = float(np.median(values)) if count else float("nan")
    below = int(binom.ppf((1.0 - level) / 2.0, count, 0.5)) - 1
    if below < 0:
        return median, float("nan"), float("nan")
    return median, float(ranked[below]), float(ranked[count - 1 - below])


def share_interval(
    successes: int, trials: int, *, level: float = 0.95
) -> tuple[float, float, float]:
    """A share with its exact binomial interval (Clopper and Pearson), which holds for few trials too."""
    if trials == 0:
        return float("nan"), 0.0, 1.0
    interval = binomtest(successes, trials).proportion_ci(level, method="exact")
    return successes / trials, float(interval.low), float(interval.high)
