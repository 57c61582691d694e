"""Where kinks change their sign on a segment along which all layers of a network move.

With `theta(t) = (1 - t) theta_a + t theta_b` every layer is affine in t, so that between two changes of
sign before it the switching values of the l-th layer are polynomials of degree l in t. Layer by layer
each sample has its own pieces of [0, 1]: on each the pattern of all layers before is one, and where the
layer's own switching values change their sign the pieces are cut for the layers behind it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reluscape import bernstein
from reluscape.errors import InputError
from reluscape.network import Affine, Network, Rectifier, Scale
from reluscape.tolerances import TOLERANCES

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

_EPS = float(np.finfo(np.float64).eps)
#: Samples at once: so many that a layer's polynomials take about this many numbers if each kink changes
#: its sign once.
_NUMBERS = 2 * 10**6


class Changes(NamedTuple):
    """Changes of sign.

    Attributes:
        left: Where the sign before ends for certain (changes,).
        right: Where the sign behind begins for certain (changes,).
        kinks: Numbers of the kinks, those of a layer together (changes,).
    """

    left: Floats
    right: Floats
    kinks: Indices


def changes_along(first: Network, last: Network, features: Floats) -> Changes:
    """All changes of sign of the rectifiers' inputs between two networks of one shape.

    Args:
        first: The network at t = 0.
        last: The network at t = 1.
        features: Their inputs (samples, inputs).

    Cost: pieces x units x coefficients for each layer, and about 45 halvings of each piece's polynomials
    that change their sign. A sample has one piece more than its kinks' changes of sign so far.
    """
    widest = max(len(layer.weight) for layer in first.affine)
    batch = max(1, _NUMBERS // (widest**2 * (len(first.affine) + 1)))
    found = [Changes(np.empty(0), np.empty(0), np.empty(0, dtype=np.intp))]
    for start in range(0, len(features), batch):
        rows = np.arange(start, min(start + batch, len(features)))
        pieces, number = _Pieces.of(features[rows], rows), 0
        for before, behind in zip(first.layers, last.layers, strict=True):
            if isinstance(before, Rectifier):
                changes, pieces = _rectified(pieces, before.slope)
                units = pieces.values.shape[2]
                found.append(changes._replace(kinks=number + changes.kinks))
                number += len(features) * units
            else:
                assert not isinstance(behind, Rectifier)
                pieces = _moved(pieces, before, behind)
    return Changes(*(np.concatenate(part) for part in zip(*found, strict=True)))


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Values of a layer on pieces of the segment, those of a sample together and in order.

    Attributes:
        rows: Number of each sample of the batch (samples,).
        sample: Place of the piece's sample in the batch (pieces,).
        left: Where the piece begins (pieces,).
        right: Where it ends (pieces,).
        values: Bernstein coefficients (pieces, degree + 1, units).
        sizes: Those of bounds on the sums of absolute terms behind the values, alike.
        errors: Those of bounds on the values' rounding errors, alike.
    """

    rows: Indices
    sample: Indices
    left: Floats
    right: Floats
    values: Floats
    sizes: Floats
    errors: Floats

    @classmethod
    def of(cls, features: Floats, rows: Indices) -> _Pieces:
        """The inputs, which do not move."""
        count, values = len(rows), features[:, None, :]
        ends = np.zeros(count), np.ones(count)
        return cls(rows, np.arange(count), *ends, values, np.abs(values), np.zeros(values.shape))

    def through(self, values: Floats, before: Affine | Scale, behind: Affine | Scale) -> Floats:
        """Coefficients behind the linear part of a layer that moves from one end to the other."""
        ends = before.linear(values), behind.linear(values)
        first, last = (
            (1.0 - t) * ends[0] + t * ends[1]
            for t in (self.left[:, None, None], self.right[:, None, None])
        )
        return bernstein.times(first, last)

    def shifts(self, before: Affine | Scale, behind: Affine | Scale, degree: int) -> Floats:
        """Coefficients of what that layer adds."""
        share = (np.arange(degree + 1) / degree).reshape(-1, 1)
        at = (1.0 - share) * self.left[:, None, None] + share * self.right[:, None, None]
        return np.asarray((1.0 - at) * _shift(before) + at * _shift(behind))


def _moved(pieces: _Pieces, before: Affine | Scale, behind: Affine | Scale) -> _Pieces:
    """Through an affine layer that moves from one end to the other."""
    degree = pieces.values.shape[1]
    sizes_of = _absolute(before), _absolute(behind)
    values = pieces.through(pieces.values, before, behind) + pieces.shifts(before, behind, degree)
    sizes = pieces.through(pieces.sizes, *sizes_of) + pieces.shifts(*sizes_of, degree)
    unit = TOLERANCES.rounding * _EPS * (_num_terms(before) + 2 * (degree + 1))
    errors = pieces.through(pieces.errors, *sizes_of) + unit * sizes
    return replace(pieces, values=values, sizes=sizes, errors=errors)


def _shift(layer: Affine | Scale) -> Floats | float:
    """What the layer adds."""
    if isinstance(layer, Scale):
        return layer.shift
    return 0.0 if layer.bias is None else layer.bias


def _num_terms(layer: Affine | Scale) -> int:
    """Length of the sums behind the layer's values."""
    return layer.weight.shape[1] + 2 if isinstance(layer, Affine) else 2


def _absolute(layer: Affine | Scale) -> Affine | Scale:
    """The layer with absolute numbers."""
    if isinstance(layer, Scale):
        return Scale(np.abs(layer.scale), np.abs(layer.shift), layer.name)
    bias = None if layer.bias is None else np.abs(layer.bias)
    return Affine(np.abs(layer.weight), bias, layer.name)


def _rectified(pieces: _Pieces, slope: float) -> tuple[Changes, _Pieces]:
    """Changes of sign of the values, and the pieces behind the rectifier, cut at them.

    Values within twice their error of zero may have been given either slope.
    """
    changes, first = _changes(pieces)
    cut, parents, signs = _cut(pieces, changes, first)
    length = (pieces.right - pieces.left)[parents]
    begin, end = ((t - pieces.left[parents]) / length for t in (cut.left, cut.right))
    values, sizes, errors = (
        bernstein.restricted(part[parents], begin, np.minimum(end, 1.0))
        for part in (pieces.values, pieces.sizes, pieces.errors)
    )
    most, units = max(1.0, abs(slope)), values.shape[2]
    values = values * np.where(signs > 0, 1.0, slope)[:, None, :]
    numbers = pieces.rows[changes.kinks // units] * units + changes.kinks % units
    return changes._replace(kinks=numbers), replace(
        cut, values=values, sizes=most * sizes, errors=4.0 * most * errors
    )


def _changes(pieces: _Pieces) -> tuple[Changes, Floats]:
    """Changes of sign, sample by sample and unit by unit in order, and first signs (samples, units)."""
    count, degree, units = pieces.values.shape
    samples = len(pieces.rows)
    flat, bounds = (
        part.transpose(0, 2, 1).reshape(count * units, degree)
        for part in (pieces.values, pieces.errors)
    )
    leaves = bernstein.signs(flat, bounds)
    certain = leaves.sign != 0
    piece, unit = np.divmod(leaves.which[certain], units)
    begin, length = pieces.left[piece], (pieces.right - pieces.left)[piece]
    left, right = (begin + t[certain] * length for t in (leaves.left, leaves.right))
    kinks, sign = pieces.sample[piece] * units + unit, leaves.sign[certain]
    order = np.lexsort((left, kinks))
    kinks, sign, left, right = kinks[order], sign[order], left[order], right[order]
    first = -np.ones(samples * units)
    some, place = np.unique(kinks, return_index=True)
    first[some] = sign[place]
    change = np.flatnonzero((kinks[1:] == kinks[:-1]) & (sign[1:] != sign[:-1]))
    changes = Changes(right[change], left[change + 1], kinks[change])
    return changes, first.reshape(samples, units)


def _cut(pieces: _Pieces, changes: Changes, first: Floats) -> tuple[_Pieces, Indices, Floats]:
    """Pieces cut at the changes, the piece that each comes from, and signs (pieces, units)."""
    units, middle = first.shape[1], 0.5 * (changes.left + changes.right)
    old = len(pieces.sample)
    sample = np.concatenate([pieces.sample, changes.kinks // units])
    left = np.concatenate([pieces.left, middle])
    order = np.lexsort((np.arange(len(left)) >= old, left, sample))
    sample, left = sample[order], left[order]
    parents = np.cumsum(order < old) - 1
    turns = np.zeros((len(order), units))
    turned = np.flatnonzero(order >= old)
    turns[turned, changes.kinks[order[turned] - old] % units] = 1.0
    turns = turns.cumsum(axis=0)
    turns -= turns[
        np.searchsorted(sample, sample)
    ]  # a sample's first piece begins at 0 with no change
    signs = first[sample] * (1.0 - 2.0 * (turns % 2))
    right = np.append(left[1:], 1.0)
    right[np.append(sample[1:] != sample[:-1], True)] = 1.0
    long = right > left
    cut = replace(pieces, sample=sample[long], left=left[long], right=right[long])
    return cut, parents[long], signs[long]


def check_affine(first: Network, middle: Network, last: Network) -> None:
    """Refuse networks whose layers are not affine in the parameters, such as re-parametrised ones."""
    for a, b, c in zip(first.layers, middle.layers, last.layers, strict=True):
        if isinstance(b, Rectifier):
            continue
        assert not isinstance(a, Rectifier)
        assert not isinstance(c, Rectifier)
        ends = _numbers(a), _numbers(c)
        apart = np.abs(_numbers(b) - 0.5 * (ends[0] + ends[1])).max()
        if apart > TOLERANCES.resolve * max(np.abs(end).max() for end in ends):
            raise InputError(
                f"layers must be affine in the parameters; layer {b.name!r} is not: call"
                " torch.nn.utils.parametrize.remove_parametrizations first"
            )


def _numbers(layer: Affine | Scale) -> Floats:
    """All numbers of a layer."""
    weight = layer.scale if isinstance(layer, Scale) else layer.weight
    return np.append(weight, _shift(layer))
