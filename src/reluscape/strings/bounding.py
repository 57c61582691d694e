"""Bounds on the loss over parts of a segment, for networks of any depth, all layers moving.

On a part [left, right] of the segment the values of a layer are polynomials of t, sample by sample, as
long as no kink before it turns. They are held by their Bernstein coefficients. A unit that may turn on
the part lies between two polynomials: above, the rectified coefficients (a rectifier is convex, and
Bernstein's weights make averages); below, one of the rectifier's two lines. The distance is of the
order of the part's length, and so is the share of such units: the bound converges quadratically, and
halving the parts that it leaves open proves a maximum (branch and bound).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reluscape import bernstein
from reluscape.network import Affine, Rectifier, Scale
from reluscape.strings.loss_bounds import loss_above
from reluscape.strings.moving import Moving
from reluscape.strings.one_hidden import Peak

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

#: Parts after which no more are halved.
MAX_PARTS = 10_000
#: Numbers in the coefficients of one layer, beyond which samples are taken in batches.
_NUMBERS = 4 * 10**6


def can_bound(moving: Moving) -> bool:
    """Whether all rectifiers are convex and rising, slopes between 0 and 1."""
    slopes = [layer.slope for layer in moving.first.layers if isinstance(layer, Rectifier)]
    return all(0.0 <= slope <= 1.0 for slope in slopes)


def certified_peak(moving: Moving, known: Peak, relative_gap: float, level: float | None) -> Peak:
    """The maximum to within a gap, or the side of a level that it lies on.

    Args:
        moving: The segment.
        known: A value that is attained.
        relative_gap: Parts are halved until their bounds are within this of the value.
        level: Parts below it are not halved, and none is once a value above it is known.

    Cost: for each part a forward pass with degree + 1 coefficients for two networks, of the samples that
    have a kink in the part of which it is a half.
    """
    lower, position, upper = known.value, known.position, 0.0
    floor = -np.inf if level is None else level
    parts, count = [_Part.whole(moving)], 0
    while parts:
        part = parts.pop()
        count += 1
        bound, middle = moving.highest(part.bound(moving)), 0.5 * (part.left + part.right)
        rounding = moving.highest(moving.highest(lower))  # no bound can be expected to be below it
        enough = bound <= max((1.0 + relative_gap) * lower, rounding, floor)
        last = not part.left < middle < part.right or count + len(parts) >= MAX_PARTS
        if enough or last or (level is not None and moving.lowest(lower) > level):
            upper = max(upper, bound)
            continue
        value = moving.loss(middle)
        if value > lower:
            lower, position = value, middle
        parts += part.halves(moving, middle)
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


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of the segment.

    Attributes:
        left: Where it begins.
        right: Where it ends.
        outputs: The outputs on it (samples, ...).
    """

    left: float
    right: float
    outputs: Enclosure

    @classmethod
    def whole(cls, moving: Moving) -> _Part:
        """All of the segment."""
        return cls(0.0, 1.0, _outputs(moving, np.arange(len(moving.features)), 0.0, 1.0))

    def bound(self, moving: Moving) -> float:
        """No computed loss on it is larger."""
        return loss_above(moving, self.outputs, self.left, self.right)

    def halves(self, moving: Moving, middle: float) -> list[_Part]:
        """Both halves: what is a polynomial is so on them, the other samples pass the network again."""
        share = (middle - self.left) / (self.right - self.left)
        at = np.full(len(self.outputs.center), share)
        intervals = (self.left, middle), (middle, self.right)
        halves = []
        for ends, center in zip(intervals, bernstein.parted(self.outputs.center, at), strict=True):
            new = _outputs(moving, self.outputs.rows, *ends)
            center[self.outputs.rows] = new.center
            outputs = Enclosure(center, self.outputs.rows[new.rows], new.radius)
            halves.append(_Part(*ends, outputs))
        return halves


def _outputs(moving: Moving, rows: Indices, left: float, right: float) -> Enclosure:
    """The outputs of some samples on [left, right]; the enclosure's rows are numbers among these."""
    layers = [
        (_between(before, behind, left), _between(before, behind, right))
        for before, behind in zip(moving.first.layers[1:], moving.last.layers[1:], strict=True)
    ]
    widest = max(len(layer.weight) for layer in moving.first.affine)
    batch = max(1, _NUMBERS // (widest * (len(layers) + 2)))
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


Layer = Affine | Scale | Rectifier


def _forward(
    moving: Moving, layers: list[tuple[Layer, Layer]], rows: Indices, left: float, right: float
) -> Enclosure:
    """The outputs of a batch of samples."""
    first, last = (values[rows] for values in moving.inputs)
    center = np.stack([(1.0 - t) * first + t * last for t in (left, right)], axis=1)
    found = Enclosure(center, np.empty(0, dtype=np.intp), np.empty((0, *center.shape[1:])))
    for before, behind in layers:
        if isinstance(before, Rectifier):
            found = _rectified(found, before.slope)
        else:
            assert not isinstance(behind, Rectifier)
            found = _moved(found, before, behind)
    return found


def _between(a: Layer, b: Layer, t: float) -> Layer:
    """The layer at t."""
    if isinstance(a, Scale) and isinstance(b, Scale):
        return Scale((1 - t) * a.scale + t * b.scale, (1 - t) * a.shift + t * b.shift, a.name)
    if isinstance(a, Affine) and isinstance(b, Affine):
        bias = None if a.bias is None or b.bias is None else (1 - t) * a.bias + t * b.bias
        return Affine((1 - t) * a.weight + t * b.weight, bias, a.name)
    return a


def _moved(found: Enclosure, first: Affine | Scale, last: Affine | Scale) -> Enclosure:
    """Behind an affine layer that is `first` at the part's left end and `last` at its right."""
    center = bernstein.times(first.linear(found.center), last.linear(found.center))
    radius = bernstein.times(*(_absolute(layer).linear(found.radius) for layer in (first, last)))
    share = (np.arange(center.shape[1]) / (center.shape[1] - 1)).reshape(-1, 1)
    center += (1.0 - share) * _shift(first) + share * _shift(last)
    return Enclosure(center, found.rows, radius)


def _rectified(found: Enclosure, slope: float) -> Enclosure:
    """Behind a rectifier: units that may turn get a radius, the others keep theirs."""
    below, above = found.center, found.center
    if len(found.rows):
        below, above = below.copy(), above.copy()
        below[found.rows] -= found.radius
        above[found.rows] += found.radius
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


def _absolute(layer: Affine | Scale) -> Affine | Scale:
    """The layer with absolute numbers and nothing added."""
    if isinstance(layer, Scale):
        return Scale(np.abs(layer.scale), np.zeros(layer.shift.shape), layer.name)
    return Affine(np.abs(layer.weight), None, layer.name)


def _shift(layer: Affine | Scale) -> Floats | float:
    """What the layer adds."""
    if isinstance(layer, Scale):
        return layer.shift
    return 0.0 if layer.bias is None else layer.bias
