"""Two Gaussians on a line: the mass, mean position and mean label of their mixture on intervals.

Nothing here cancels or underflows: logarithms of masses, and a formula for each kind of interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import erfcx, expit, ndtr

from reluscape.errors import InputError
from reluscape.validation import LARGEST, as_array

Floats = NDArray[np.float64]

#: Stands for the logarithm of no mass: below that of any interval with a width, and still a number.
NOTHING = -1e300
#: Nodes on [-1/2, 1/2] and weights: exact to rounding for exp(-u) and all flatter Gaussians.
_NODES, _WEIGHTS = (half / 2.0 for half in np.polynomial.legendre.leggauss(10))
_ROOT = np.sqrt(2.0 * np.pi)


@dataclass(frozen=True, slots=True)
class Mixture:
    """Two Gaussians with one standard deviation, in the order of the arguments' pairs."""

    means: Floats
    sd: float
    priors: Floats
    labels: Floats


class Moments(NamedTuple):
    """Log mass, mean position and mean label of the mixture on intervals; of one shape."""

    log_mass: Floats
    position: Floats
    label: Floats


def mass_of(lower: Floats, upper: Floats, mixture: Mixture) -> Floats:
    """Probability of one sample in each interval."""
    return np.minimum(np.exp(moments(lower, upper, mixture).log_mass), 1.0)


def mass_of_union(lower: Floats, upper: Floats, mixture: Mixture) -> Floats:
    """Probability of one sample in the union of the last axis' intervals, cut into disjoint pieces."""
    order = np.argsort(lower, axis=-1)
    begin, end = np.take_along_axis(lower, order, -1), np.take_along_axis(upper, order, -1)
    reached = np.maximum.accumulate(end, axis=-1)
    begin[..., 1:] = np.maximum(begin[..., 1:], reached[..., :-1])
    return np.asarray(mass_of(begin, np.maximum(begin, end), mixture).sum(axis=-1))


def moments(lower: Floats, upper: Floats, mixture: Mixture) -> Moments:
    """Moments of the mixture on [lower, upper], each bound possibly infinite (equations 20 to 22)."""
    logs, positions = zip(
        *(truncated(lower, upper, mean, mixture.sd) for mean in mixture.means), strict=True
    )
    first, second = (log + np.log(p) for log, p in zip(logs, mixture.priors, strict=True))
    share = expit(first - second)
    position = share * positions[0] + (1.0 - share) * positions[1]
    label = share * mixture.labels[0] + (1.0 - share) * mixture.labels[1]
    return Moments(np.maximum(np.logaddexp(first, second), NOTHING), position, label)


def truncated(lower: Floats, upper: Floats, mean: float, sd: float) -> tuple[Floats, Floats]:
    """Log mass and mean of one Gaussian on intervals, each by the formula without cancellation.

    Intervals are turned so that they lie to the right of the Gaussian's mean for the most part.
    """
    a, b = (lower - mean) / sd, (upper - mean) / sd
    turned = a + b < 0
    a, b = np.where(turned, -b, a), np.where(turned, -a, b)
    width = (upper - lower) / sd
    narrow = width * (1.0 + (a + b)) < 1.0
    tail = ~narrow & (a >= 0)
    log_mass, centre = np.empty_like(a), np.empty_like(a)
    cases = ((narrow, _narrow), (tail, _tail), (~narrow & ~tail, _central))
    for where, formula in cases:
        log_mass[where], centre[where] = formula(a[where], b[where], width[where])
    centre = np.clip(centre, a, b)
    return np.maximum(log_mass, NOTHING), mean + sd * np.where(turned, -centre, centre)


def _narrow(a: Floats, b: Floats, width: Floats) -> tuple[Floats, Floats]:
    """Of the standard normal on intervals where its density hardly changes: Gauss-Legendre."""
    middle = 0.5 * (a + b)
    step = width[:, None] * _NODES
    density = np.exp(-step * (middle[:, None] + 0.5 * step)) * _WEIGHTS
    total = density.sum(axis=-1)
    log_width = np.full_like(width, NOTHING)
    np.log(width, out=log_width, where=width > 0)
    log_mass = log_width + np.log(total / _ROOT) - 0.5 * middle**2
    return log_mass, middle + (density * step).sum(axis=-1) / total


def _tail(a: Floats, b: Floats, width: Floats) -> tuple[Floats, Floats]:
    """Of the standard normal on intervals to the right of 0, with exp(-a^2 / 2) taken out."""
    fall = width * 0.5 * (a + b)
    scaled = 0.5 * (erfcx(a / np.sqrt(2.0)) - np.exp(-fall) * erfcx(b / np.sqrt(2.0)))
    return np.log(scaled) - 0.5 * a**2, -np.expm1(-fall) / (_ROOT * scaled)


def _central(a: Floats, b: Floats, width: Floats) -> tuple[Floats, Floats]:
    """Of the standard normal on wide intervals around 0."""
    mass = ndtr(b) - ndtr(a)
    return np.log(mass), (np.exp(-0.5 * a**2) - np.exp(-0.5 * b**2)) / (_ROOT * mass)


def check_mixture(means: ArrayLike, sd: float, priors: ArrayLike, labels: ArrayLike) -> Mixture:
    """The two Gaussians."""
    pairs = {"means": means, "priors": priors, "labels": labels}
    arrays = {name: check_finite(pair, name) for name, pair in pairs.items()}
    for name, array in arrays.items():
        if array.shape != (2,):
            raise InputError(f"{name} must be two numbers; received shape {array.shape}")
    scale = check_finite(sd if np.ndim(sd) else [sd], "sd")
    if scale.shape != (1,) or not scale[0] >= 1.0 / LARGEST:
        raise InputError(f"sd must be a positive number; received {sd!r}")
    shares = arrays["priors"]
    if not (shares > 0).all() or abs(shares.sum() - 1.0) > 1e-9:
        raise InputError(
            f"priors must be positive and add up to 1; received {shares.tolist()}: divide them by"
            " their sum"
        )
    return Mixture(arrays["means"], float(scale[0]), shares, arrays["labels"])


def check_finite(values: ArrayLike, name: str) -> Floats:
    """Numbers within the range of what can be squared, with at least one axis and entry."""
    array = as_array(values, name).astype(np.float64)
    if array.ndim == 0 or array.size == 0:
        raise InputError(f"{name} must hold at least one number; received shape {array.shape}")
    if not (np.abs(array) <= LARGEST).all():
        bad = array[~(np.abs(array) <= LARGEST)]
        raise InputError(
            f"{name} must be finite and at most {LARGEST:.0e} in size; received {len(bad)} that"
            f" are not, first {bad[0]}"
        )
    return array
