"""Bounds on the loss over parts of a segment, for networks of any depth, all layers moving.

On a part [left, right] of the segment the values of a layer are polynomials of t, sample by sample, as
long as no kink before it turns. They are held by their Bernstein coefficients. A unit that may turn on
the part lies between two polynomials: above, the rectified coefficients (a rectifier is convex, and
Bernstein's weights make averages); below, one of the rectifier's two lines. The distance is of the
order of the part's length, and so is the share of such units: the bound converges quadratically, and
halving the parts that it leaves open proves a maximum (branch and bound).

Max pooling is convex and rising as well: above are the largest coefficients of a window, below any of
its inputs. The one with the largest middle is taken, so that nothing is lost where one input is the
largest on all of the part. Convolutions are applied to coefficients as they are to images.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from reluscape import bernstein
from reluscape.network import Rectifier
from reluscape.network.chain import NUMBERS, Link, Numbered, Pair, absolute, both
from reluscape.network.fixed import Fixed
from reluscape.network.spatial import Maximum, Mean
from reluscape.strings.loss_bounds import loss_above
from reluscape.strings.moving import Moving
from reluscape.strings.one_hidden import Peak

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

#: Parts after which no more are halved.
MAX_PARTS = 10_000
#: Samples that tell whether a part has to be halved.
FEW_SAMPLES = 64


def can_bound(moving: Moving) -> bool:
    """Whether all rectifiers are convex and rising, slopes between 0 and 1."""
    slopes = [layer.slope for layer in moving.first if isinstance(layer, Rectifier)]
    return all(0.0 <= slope <= 1.0 for slope in slopes)


def certified_peak(moving: Moving, known: Peak, relative_gap: float, level: float | None) -> Peak:
    """The maximum to within a gap, or the side of a level that it lies on.

    Args:
        moving: The segment.
        known: A value that is attained.
        relative_gap: Parts are halved until their bounds are within this of the value.
        level: Instead, parts are halved until they are below it, and none is once a value above it is
            known.

    Cost: for each part a forward pass with degree + 1 coefficients for two networks, of the samples that
    have a kink in the part of which it is a half.
    """
    lower, position, upper = known.value, known.position, 0.0
    loss = cache(moving.loss)
    parts, count = [_Part(0.0, 1.0, np.arange(len(moving.features)), None)], 0
    while parts:
        part = parts.pop()
        count += 1
        highest = max((part.left, part.middle, part.right), key=loss)
        if loss(highest) > lower:
            lower, position = loss(highest), highest
        rounding = moving.highest(moving.highest(lower))  # no bound can be expected to be below it
        asked = level if level is not None and lower <= level else (1.0 + relative_gap) * lower
        goal = max(asked, rounding)
        last = not part.left < part.middle < part.right or count + len(parts) >= MAX_PARTS
        last = last or (level is not None and moving.lowest(lower) > level)
        if not last and loss(highest) + part.seems_apart(moving) > goal:
            parts += part.halves(None)
            continue
        outputs = part.outputs(moving)
        bound = moving.highest(loss_above(moving, outputs, part.left, part.right))
        if bound == np.inf:  # an overflow, which halving may never end
            return Peak(lower, position, np.inf)
        if last or bound <= goal:
            upper = max(upper, bound)
        else:
            parts += part.halves(outputs)
    return Peak(lower, position, upper)


@dataclass(frozen=True, slots=True)
class Enclosure:
    """Values between `center` and, of some samples, `center - radius` and `center + radius`.

    Attributes:
        center: Bernstein coefficients (samples, degree + 1, units).
        rows: Samples that have a radius (rows,).
        radius: Its coefficients, not negative (rows, degree + 1, units).
    """

    center: Floats
    rows: Indices
    radius: Floats

    def bounds(self) -> tuple[Floats, Floats]:
        """Coefficients below and above (samples, degree + 1, units)."""
        below, above = self.center, self.center
        if len(self.rows):
            below, above = below.copy(), above.copy()
            below[self.rows] -= self.radius
            above[self.rows] += self.radius
        return below, above


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of the segment.

    Attributes:
        left: Where it begins.
        right: Where it ends.
        rows: Samples whose outputs are not known.
        center: Coefficients of the others' outputs (samples, degree + 1, outputs), or None.
    """

    left: float
    right: float
    rows: Indices
    center: Floats | None

    @property
    def middle(self) -> float:
        """Where it is halved."""
        return 0.5 * (self.left + self.right)

    def seems_apart(self, moving: Moving) -> float:
        """How far its bound seems to lie above the loss, by a few samples; 0 where all are quick.

        That proves nothing, but halving a part is cheaper than a bound that turns out too large.
        """
        if self.center is not None or len(self.rows) < 2 * FEW_SAMPLES:
            return 0.0
        rows = self.rows[:: len(self.rows) // FEW_SAMPLES]
        outputs = _outputs(moving, rows, self.left, self.right)
        above = loss_above(moving, outputs, self.left, self.right, rows)
        return above - max(moving.loss(t, rows) for t in (self.left, self.middle, self.right))

    def outputs(self, moving: Moving) -> Enclosure:
        """The outputs on it."""
        new = _outputs(moving, self.rows, self.left, self.right)
        if self.center is None:
            return new
        center = self.center.copy()
        center[self.rows] = new.center
        return Enclosure(center, self.rows[new.rows], new.radius)

    def halves(self, outputs: Enclosure | None) -> list[_Part]:
        """Both halves: what is a polynomial is so on them, the other samples pass the network again."""
        intervals = (self.left, self.middle), (self.middle, self.right)
        if outputs is None or len(outputs.rows) == len(outputs.center):
            return [_Part(*ends, self.rows, None) for ends in intervals]
        share = (self.middle - self.left) / (self.right - self.left)
        parted = bernstein.parted(outputs.center, np.full(len(outputs.center), share))
        return [
            _Part(*ends, outputs.rows, center)
            for ends, center in zip(intervals, parted, strict=True)
        ]


def _outputs(moving: Moving, rows: Indices, left: float, right: float) -> Enclosure:
    """The outputs of some samples on [left, right]; the enclosure's rows are numbers among these."""
    ends = moving.at(left), moving.at(right)
    layers = [_between(*pair) for pair in list(zip(*ends, strict=True))[1:]]
    batch = max(1, NUMBERS // (moving.widest * (len(layers) + 2)))
    found = [
        _forward(moving, layers, rows[k : k + batch], left, right)
        for k in range(0, max(len(rows), 1), batch)
    ]
    starts = batch * np.arange(len(found))
    return Enclosure(
        np.concatenate([one.center for one in found]),
        np.concatenate([start + one.rows for start, one in zip(starts, found, strict=True)]),
        np.concatenate([one.radius for one in found]),
    )


@dataclass(frozen=True, slots=True)
class _Between:
    """A layer with numbers on a part of the segment.

    Attributes:
        first: At its left end.
        last: At its right end.
        values: Products with the numbers of both.
        sizes: Products with the absolute numbers of both.
    """

    first: Numbered
    last: Numbered
    values: Pair
    sizes: Pair


#: A layer on a part of the segment.
_Layer = _Between | Fixed | Rectifier | Mean | Maximum


def _between(first: Link, last: Link) -> _Layer:
    """A layer from its ends."""
    if isinstance(first, Numbered) and isinstance(last, Numbered):
        return _Between(first, last, both(first, last), both(absolute(first), absolute(last)))
    assert not isinstance(first, Numbered)
    return first


def _forward(
    moving: Moving,
    layers: list[_Layer],
    rows: Indices,
    left: float,
    right: float,
) -> Enclosure:
    """The outputs of a batch of samples."""
    first, last = moving.entering(rows)
    center = np.stack([(1.0 - t) * first + t * last for t in (left, right)], axis=1)
    found = Enclosure(center, np.empty(0, dtype=np.intp), np.empty((0, *center.shape[1:])))
    for layer in layers:
        if isinstance(layer, Rectifier):
            found = _rectified(found, layer.slope)
        elif isinstance(layer, Maximum):
            found = _pooled(found, layer)
        elif isinstance(layer, Mean):
            found = Enclosure(layer(found.center), found.rows, layer(found.radius))
        elif isinstance(layer, Fixed):
            radius = absolute(layer.layer).linear(found.radius)
            found = Enclosure(layer(found.center), found.rows, radius)
        else:
            found = _moved(found, layer)
    return found


def _moved(found: Enclosure, layer: _Between) -> Enclosure:
    """Behind a layer whose numbers are affine on the part."""
    center = bernstein.times(*layer.values(found.center))
    share = (np.arange(center.shape[1]) / (center.shape[1] - 1)).reshape(-1, 1)
    center += (1.0 - share) * layer.first.shift + share * layer.last.shift
    return Enclosure(center, found.rows, bernstein.times(*layer.sizes(found.radius)))


def _pooled(found: Enclosure, layer: Maximum) -> Enclosure:
    """Behind the largest of a window: above, the largest coefficients; below, one input's polynomial."""
    below, above = found.bounds()
    chosen = layer.largest(below.sum(axis=1))[:, None]
    center, own = (np.take_along_axis(part, chosen, axis=2) for part in (found.center, above))
    rise = 0.5 * (layer(above) - own)
    rows = np.union1d(found.rows, np.flatnonzero(rise.any(axis=(1, 2))))
    radius = rise[rows]
    kept = np.take_along_axis(found.radius, chosen[found.rows], axis=2)
    radius[np.searchsorted(rows, found.rows)] += kept
    return Enclosure(center + rise, rows, radius)


def _rectified(found: Enclosure, slope: float) -> Enclosure:
    """Behind a rectifier: units that may turn get a radius, the others keep theirs."""
    below, above = found.bounds()
    positive, negative = below.min(axis=1) >= 0, above.max(axis=1) <= 0
    factor = np.where(positive, 1.0, slope)[:, None]
    center = factor * found.center
    samples, units = np.nonzero(~(positive | negative))
    rows = np.union1d(found.rows, samples)
    radius = np.zeros((len(rows), *center.shape[1:]))
    radius[np.searchsorted(rows, found.rows)] = factor[found.rows] * found.radius
    low, high = below[samples, :, units], above[samples, :, units]
    line = np.where(low.sum(axis=1) > 0, 1.0, slope)[:, None]
    low, high = line * low, np.maximum(high, slope * high)
    center[samples, :, units] = 0.5 * (low + high)
    radius[np.searchsorted(rows, samples), :, units] = 0.5 * (high - low)
    return Enclosure(center, rows, radius)
