"""The exact maximum along a segment of a network with one hidden layer, all of whose layers move.

Switching values are affine in t, so that between its kinks a sample's residuals are quadratics of t,
and its squared loss is a quartic; its L1 loss is a quadratic once the residuals' roots are breakpoints
too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reluscape.network import Affine, Rectifier
from reluscape.network.chain import Link
from reluscape.network.fixed import Fixed
from reluscape.strings.events import events_of
from reluscape.strings.moving import Moving
from reluscape.strings.sweep import maximum_of_sum

Floats = NDArray[np.float64]

_EPS = float(np.finfo(np.float64).eps)


class Peak(NamedTuple):
    """The largest value found.

    Attributes:
        value: The largest value.
        position: Where it is taken.
        upper: No value is larger.
    """

    value: float
    position: float
    upper: float


def is_one_hidden(moving: Moving) -> bool:
    """Whether the loss is piecewise a quartic or a quadratic: one hidden layer, no cross-entropy."""
    kinds = [type(_map_of(layer)) for layer in moving.first]
    known = kinds == [Affine, Rectifier, Affine]
    return known and moving.landscape.loss_name != "cross_entropy"


def _map_of(layer: Link) -> object:
    """A layer, or what it is at all parameters."""
    return layer.layer if isinstance(layer, Fixed) else layer


def exact_peak(moving: Moving, known: Peak) -> Peak:
    """The maximum over the segment; `known` is a value that is attained.

    With N samples, K hidden units and d outputs there are at most NK kinks, each with one update of a
    quartic: O(N K (d + log NK)) beside two forward passes, 2 d N K more breakpoints for the L1 loss.
    """
    rectifier = moving.first[1]
    first, last = (_map_of(links[2]) for links in (moving.first, moving.last))
    assert isinstance(rectifier, Rectifier)
    assert isinstance(first, Affine)
    assert isinstance(last, Affine)
    targets = np.asarray(moving.landscape.targets, dtype=np.float64)
    absolute = moving.landscape.loss_name == "l1"
    biases = [np.zeros(len(a.weight)) + a.shift for a in (first, last)]
    start, times, changes, drift, slack = events_of(
        moving.inputs,
        np.stack([first.weight, last.weight]),
        np.stack(biases),
        targets,
        rectifier.slope,
        absolute,
    )
    share = (0.5 if moving.landscape.loss_name == "half_squared" else 1.0) / len(targets)
    a, b, c = moving.decay / share
    start[1, :3] += [a, 2.0 * (b - a), a - 2.0 * b + c]
    best = np.array([known.value / share, known.position, 0.0])
    order = np.argsort(times, kind="stable")
    largest = maximum_of_sum(start, times, changes, order, best, 64.0 * _EPS * best[0])
    upper = share * (best[2] + slack + 64.0 * _EPS * largest)
    return Peak(share * best[0], best[1], moving.highest(upper, drift))
