"""The 1-D Gaussian theory: how probably a cell of K units holds a genuine minimum in their locations.

Unit k contributes `x - h_k` where `n_k (x - h_k) > 0`: its location h_k moves, its normal n_k = ±1 and
its output weight z_k = n_k stay. A sample (x, y) is drawn from one of two Gaussians, each with a label.
On the cell of the current locations, that is with the activations I_k(x) frozen, the expected loss

    E (sum_k I_k(x) (x - h_k) - y)^2

is convex in h, and its minimiser h* solves F h = f (equation 11). The locations cut the line into
regions; region j has mass p_j, c_j active units, mean x_j and mean label y_j, so that the loss is, up to
a constant, `sum_j p_j (s_j - t_j)^2` with t_j = c_j x_j - y_j and s_j the sum of the active h_k. From one
region to the next only the unit between them switches: `n_k h_k = s_(j+1) - s_j`. Of all s exactly those
with v·s = 0 belong to some h, v_j counting the negative normals that end there less those that begin.
So F never has to be formed: projecting t on this hyperplane costs O(K) and does not lose digits where
masses differ by hundreds of orders of magnitude.

Source: B. Liu, Understanding global loss landscape of one-hidden-layer ReLU networks, part 2,
section III.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax, xlog1py

from reluscape.errors import InputError
from reluscape.mixture import (
    NOTHING,
    Mixture,
    check_finite,
    check_mixture,
    mass_of,
    mass_of_union,
    moments,
)
from reluscape.results import Result
from reluscape.validation import as_array, check_whole

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class MinimumProbability(Result):
    """How probably the cells of given locations hold a genuine minimum (Liu, part 2, section III).

    The leading axes are those of the locations; units are the last axis, in the order given.

    Attributes:
        probability: The paper's P_t = (1 - gap)^N, shape (...,). Never below `probability_union`.
        probability_union: (1 - gap_union)^N: exactly the probability that none of N independent samples
            lies between a unit and its optimal location, shape (...,).
        gap: The paper's P_g, the largest of a unit's gaps, shape (...,): a lower bound on `gap_union`.
        gap_union: Probability of one sample in the union of the gaps, shape (...,).
        gaps: Probability of one sample between a unit and its optimal location, shape (..., units).
        optimal: Optimal locations h*, shape (..., units).
        locations: The locations h, shape (..., units).
        normals: ±1, shape (units,).
        unique: Whether h* is the only minimiser, shape (...,).
        num_samples: N.
    """

    probability: Floats
    probability_union: Floats
    gap: Floats
    gap_union: Floats
    gaps: Floats
    optimal: Floats
    locations: Floats
    normals: Floats
    unique: Bools
    num_samples: int

    @property
    def unit_probability(self) -> Floats:
        """(1 - gaps)^N: that no sample lies in a unit's own gap, shape (..., units)."""
        return none_of(self.num_samples, self.gaps)

    def plot(self) -> go.Figure:
        """Optimal against current locations; a unit on the diagonal is at its optimum."""
        at, best = self.locations.ravel(), self.optimal.ravel()
        ends = [float(at.min()), float(at.max())]
        figure = go.Figure(
            [
                go.Scatter(x=at, y=best, mode="markers", name="units", text=self.gaps.ravel()),
                go.Scatter(x=ends, y=ends, mode="lines", name="no gap"),
            ]
        )
        return figure.update_layout(xaxis_title="location", yaxis_title="optimal location")


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class ProbabilityCurve(Result):
    """The probabilities of `MinimumProbability` while units are shifted.

    Attributes:
        shifts: Shape (shifts,).
        probability: The paper's P_t, shape (shifts,).
        probability_union: That no sample lies in any gap, shape (shifts,).
        unit_probability: That no sample lies in a unit's own gap, shape (shifts, units).
    """

    shifts: Floats
    probability: Floats
    probability_union: Floats
    unit_probability: Floats

    def plot(self) -> go.Figure:
        """Both probabilities over the shift."""
        figure = go.Figure(
            [
                go.Scatter(x=self.shifts, y=self.probability, name="largest gap"),
                go.Scatter(x=self.shifts, y=self.probability_union, name="all gaps"),
            ]
        )
        return figure.update_layout(xaxis_title="shift", yaxis_title="probability of a minimum")


def expected_minimum_probability(
    locations: ArrayLike,
    normals: ArrayLike,
    *,
    num_samples: int = 100,
    means: ArrayLike = (1.0, -1.0),
    sd: float = 1.0,
    priors: ArrayLike = (0.5, 0.5),
    labels: ArrayLike = (1.0, -1.0),
) -> MinimumProbability:
    """Probability that the cell of these locations holds a genuine minimum, by the theory.

    With h* the minimiser of the expected loss on the cell (equations 11 to 16) and g_k the interval
    between h_k and its optimum, a sample lies in g_k with probability `gaps[k]` (equation 20), and

        P_t = (1 - max_k gaps[k])^N     (17, 18),      (1 - P(x in g_1 u ... u g_K))^N     (all gaps).

    Where F is singular (units of one normal at one place; two places at which units of both normals
    meet) the minimisers are many. Taken is the one with the least change from the current locations,
    to which gradient descent on the cell leads: it leaves alone what the loss does not depend on.

    Args:
        locations: x-coordinates of the units, shape (..., units).
        normals: ±1 for each unit, shape (units,): +1 where it is active to its right.
        num_samples: N.
        means: Of the two Gaussians, shape (2,).
        sd: Their standard deviation.
        priors: Their probabilities, shape (2,).
        labels: Their labels, shape (2,).

    Returns:
        Probabilities, gaps and optimal locations for every set of locations.

    Guarantees:
        Masses keep 11 digits up to 40 standard deviations, and results are finite up to locations of
        1e50. What is computed is that no sample lies in the gaps, which says little of the samples' own
        loss: its minimiser differs from h* by O(1/sqrt(N)), while cells are O(1/N) wide. One unit and
        100 samples: at its best location 0.732 P_t is 0.997, and 25 % of draws have a minimum in the
        cell, a share that falls as 1/sqrt(N); at location 3 P_t is 0.04, and 41 % of draws have one.

    Cost: O(units log units) per set of locations; one dense least-squares problem more where
        locations coincide.

    Raises:
        InputError: Numbers that are not finite or of the wrong shape, normals other than ±1, fewer than
            one sample, `sd` that is not positive, or priors that are not.

    Example:
        >>> result = expected_minimum_probability([1.5, 0.0], [1, -1])
        >>> result.optimal.round(4)
        array([ 1.1743, -0.4839])
        >>> result.gaps.round(4)
        array([0.0655, 0.117 ])
    """
    mixture = check_mixture(means, sd, priors, labels)
    places = check_finite(locations, "locations")
    signs = _check_normals(normals, places)
    count = check_whole(num_samples, "num_samples", 1)
    optimal, unique = _optimal(places, signs, mixture)
    lower, upper = np.minimum(places, optimal), np.maximum(places, optimal)
    gaps = mass_of(lower, upper, mixture)
    gap = gaps.max(axis=-1)
    union = np.clip(mass_of_union(lower, upper, mixture), gap, 1.0)
    return MinimumProbability(
        probability=none_of(count, gap),
        probability_union=none_of(count, union),
        gap=np.asarray(gap),
        gap_union=np.asarray(union),
        gaps=gaps,
        optimal=optimal,
        locations=places,
        normals=signs,
        unique=unique,
        num_samples=count,
    )


def probability_curve(
    locations: ArrayLike,
    normals: ArrayLike,
    shifts: ArrayLike,
    *,
    moved: ArrayLike | None = None,
    num_samples: int = 100,
    means: ArrayLike = (1.0, -1.0),
    sd: float = 1.0,
    priors: ArrayLike = (0.5, 0.5),
    labels: ArrayLike = (1.0, -1.0),
) -> ProbabilityCurve:
    """`expected_minimum_probability` while some units are shifted together (figures 2(d) and 3).

    Args:
        locations: Of the units before they are shifted, shape (units,).
        normals: ±1 for each unit, shape (units,).
        shifts: Added to the locations, shape (shifts,).
        moved: Numbers of the units that are shifted; default: all.
        num_samples: N.
        means: Of the two Gaussians, shape (2,).
        sd: Their standard deviation.
        priors: Their probabilities, shape (2,).
        labels: Their labels, shape (2,).

    Raises:
        InputError: As `expected_minimum_probability`, or `moved` names a unit that is not there.
    """
    start, by = check_finite(locations, "locations"), check_finite(shifts, "shifts")
    if start.ndim != 1 or by.ndim != 1:
        raise InputError(
            "locations and shifts must be one row of numbers each; received shapes"
            f" {start.shape} and {by.shape}"
        )
    step = _moving(moved, len(start))
    result = expected_minimum_probability(
        start + by[:, None] * step,
        normals,
        num_samples=num_samples,
        means=means,
        sd=sd,
        priors=priors,
        labels=labels,
    )
    return ProbabilityCurve(
        by, result.probability, result.probability_union, result.unit_probability
    )


def none_of(count: int, probability: Floats) -> Floats:
    """(1 - probability)^count, without loss of digits for small probabilities."""
    return np.asarray(np.exp(xlog1py(count, -probability)))


# ---- optimal locations -------------------------------------------------------------------------


def _optimal(places: Floats, signs: Floats, mixture: Mixture) -> tuple[Floats, Bools]:
    """Minimiser of the expected loss on the cell, and whether it is the only one."""
    order = np.argsort(places, axis=-1, kind="stable")
    ordered, normals = np.take_along_axis(places, order, -1), signs[order]
    log_mass, sums = _region_sums(ordered, normals, mixture)
    best = normals * np.diff(sums, axis=-1)
    empty = log_mass <= NOTHING
    unique = np.asarray(~empty.any(axis=-1))
    for row in np.argwhere(~unique):
        at = tuple(row)
        best[at], unique[at] = _least_change(ordered[at], normals[at], sums[at], ~empty[at])
    optimal = np.empty_like(best)
    np.put_along_axis(optimal, order, best, -1)
    return optimal, unique


def _region_sums(ordered: Floats, normals: Floats, mixture: Mixture) -> tuple[Floats, Floats]:
    """Log masses of the regions, and the sums s of active locations that are optimal there.

    The projection of t on v·s = 0 in the metric of the masses is t - (v·t) v / p / sum(v^2 / p), and
    v has entries -1, 0 and 1; what has to give is nearly all in the region with the least mass.
    """
    edge = np.full((*ordered.shape[:-1], 1), np.inf)
    lower, upper = np.append(-edge, ordered, axis=-1), np.append(ordered, edge, axis=-1)
    found = moments(lower, upper, mixture)
    negative = np.zeros((*ordered.shape[:-1], ordered.shape[-1] + 2))
    negative[..., 1:-1] = normals < 0
    negative[..., 0] = 1.0
    ties = -np.diff(negative, axis=-1)
    targets = _num_active(normals) * found.position - found.label
    share = softmax(np.where(ties != 0, -found.log_mass, -np.inf), axis=-1)
    excess = (ties * targets).sum(axis=-1, keepdims=True)
    return found.log_mass, targets - excess * ties * share


def _num_active(normals: Floats) -> Floats:
    """Number of active units in each region, from the normals in the order of the locations."""
    leftmost = (normals < 0).sum(axis=-1, keepdims=True)
    return np.append(leftmost, leftmost + np.cumsum(normals, axis=-1), axis=-1)


def _least_change(
    ordered: Floats, normals: Floats, sums: Floats, filled: Bools
) -> tuple[Floats, bool]:
    """Locations next to `ordered` with the optimal sums in all regions that are not empty."""
    units = np.arange(len(ordered))
    regions = np.flatnonzero(filled)[:, None]
    active = np.where(normals > 0, regions > units, regions <= units).astype(np.float64)
    change, _, rank, _ = np.linalg.lstsq(active, sums[filled] - active @ ordered, rcond=None)
    return ordered + change, bool(rank == len(ordered))


# ---- what comes in -----------------------------------------------------------------------------


def _check_normals(normals: ArrayLike, places: Floats) -> Floats:
    """Normals, one for each unit."""
    signs = check_finite(normals, "normals")
    if signs.shape != places.shape[-1:]:
        raise InputError(
            "normals must have one entry for each unit, the last axis of locations; received"
            f" shapes {signs.shape} and {places.shape}"
        )
    if not (np.abs(signs) == 1.0).all():
        raise InputError(f"normals must be 1 or -1; received {signs[np.abs(signs) != 1.0][0]}")
    return signs


def _moving(moved: ArrayLike | None, units: int) -> Floats:
    """1 for the units that are shifted, 0 for the others."""
    if moved is None:
        return np.ones(units)
    numbers = np.atleast_1d(as_array(moved, "moved"))
    whole = numbers.dtype.kind in "iu" and numbers.ndim == 1
    if not whole or not ((numbers >= 0) & (numbers < units)).all():
        raise InputError(f"moved must be numbers of units below {units}; received {moved!r}")
    step = np.zeros(units)
    step[numbers] = 1.0
    return step
