"""How closely kinks, and with them vertices, lie along a path.

From a vertex v in a direction u of length one, the way to the next kink is the length of the cell that u
enters: the largest t at which no switching value that is not zero at v has changed its sign. Where kinks
are hyperplanes at random places with a rate per unit length, ways are exponential and their median is
log(2) over that rate; along a descent the rate grows (Hinz: "the vertex density increases").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reluscape.errors import InputError
from reluscape.network import Rectifier
from reluscape.network_output import NetworkOutput
from reluscape.results import Result
from reluscape.validation import as_array, check_whole

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from reluscape.block import Block

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

#: Shares of the path at which it is measured, and in how many directions, if nothing is said.
SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)
NUM_DIRECTIONS = 40
#: Step relative to the point that leaves the kinks which meet there: above their rounding errors.
OFF = 1e-7


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Density(Result):
    """Ways to the next kink from points of a path.

    Attributes:
        pivots: Pivots after which the points were reached, shape (points,).
        ways: Length of the way to the next kink, in the block's parameters or the output's inputs; inf
            where there is none, shape (points, directions). In random directions: sampled, no bound on
            other directions.
    """

    pivots: Indices
    ways: Floats

    @property
    def medians(self) -> Floats:
        """Median way at each point, shape (points,)."""
        return np.asarray(np.median(self.ways, axis=1))

    @property
    def rates(self) -> Floats:
        """Kinks per unit length: log(2) over the median way, shape (points,)."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(2.0) / self.medians)

    def summary(self) -> str:
        """Median way and rate at each point, a line each."""
        lines = [
            f"after {pivot} pivots: {way:.3g} to the next kink, {rate:.3g} kinks per unit length"
            for pivot, way, rate in zip(self.pivots, self.medians, self.rates, strict=True)
        ]
        return "\n".join([f"median of {self.ways.shape[1]} random directions", *lines])

    def plot(self) -> go.Figure:
        """Median way with its quartiles against the pivot, on a logarithmic scale."""
        from reluscape.descent.charts import density_figure

        return density_figure(self)


def places_of(shares: Sequence[float], count: int) -> Indices:
    """Places among `count` points at shares of the path."""
    wanted = as_array(shares, "shares").astype(np.float64)
    if wanted.ndim != 1 or not len(wanted) or not ((wanted >= 0) & (wanted <= 1)).all():
        raise InputError(f"shares must lie between 0 and 1, at least one; received {shares!r}")
    return (wanted * (count - 1)).astype(np.int64)


def ways_from(
    points: Floats, function: Block | NetworkOutput, num_directions: int, seed: int
) -> Floats:
    """Ways to the next kink from each point in random directions, shape (points, directions).

    Inputs of an output that its bounds fix stay fixed; otherwise its box has no sides here.
    """
    if getattr(function, "size", None) != points.shape[1]:
        raise InputError(
            "expected the block or the output that was descended, of size"
            f" {points.shape[1]}; received {function!r}"
        )
    check_whole(num_directions, "num_directions", 1)
    check_whole(seed, "seed", 0)
    directions = np.random.default_rng(seed).normal(size=(num_directions, function.size))
    if isinstance(function, NetworkOutput):
        directions[:, function.lower == function.upper] = 0.0
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    directions /= np.where(lengths > 0, lengths, 1.0)
    ways = [[way(function, point, direction) for direction in directions] for point in points]
    return np.array(ways)


def way(function: Block | NetworkOutput, point: Floats, direction: Floats) -> float:
    """Length of the way along a direction of length one to the next kink; inf without one.

    Kinks that are zero at the point do not count.
    """
    off = OFF * (1.0 + float(np.linalg.norm(point)))
    values, rates = _switching(function, point + off * direction, direction)
    ahead = np.where(values > 0, rates < 0, rates > 0)
    return off + float((-values[ahead] / rates[ahead]).min(initial=np.inf))


def _switching(
    function: Block | NetworkOutput, point: Floats, direction: Floats
) -> tuple[Floats, Floats]:
    """Switching values at a point, and their rates along a direction in its cell."""
    if not isinstance(function, NetworkOutput):
        values = function.kinks(point)
        return values, function.piecewise.rates(values > 0, direction)
    value, rate = point, direction
    found: list[tuple[Floats, Floats]] = []
    for part in function.layers:
        if isinstance(part, Rectifier):
            found.append((value, rate))
            value, rate = part(value), rate * np.where(value > 0, 1.0, part.slope)
        else:
            value, rate = part(value[None])[0], part.linear(rate[None])[0]
    both = np.hstack([np.stack(pair) for pair in found]) if found else np.empty((2, 0))
    return both[0], both[1]
