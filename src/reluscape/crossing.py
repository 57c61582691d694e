"""How many activation cells a segment passes through, from its breakpoints and no grid."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reluscape.block import Block
from reluscape.breakpoints import refined
from reluscape.deep_crossing import changes_along, check_affine
from reluscape.errors import InputError
from reluscape.landscape import Landscape
from reluscape.network import Network, Rectifier
from reluscape.piecewise import Piecewise
from reluscape.tolerances import TOLERANCES
from reluscape.validation import check_theta

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

_EPS = float(np.finfo(np.float64).eps)


def cells_crossed(subject: Block | Landscape, theta_a: ArrayLike, theta_b: ArrayLike) -> int:
    """Number of cells that the open segment from `theta_a` to `theta_b` passes through.

    It is one more than the number of positions t in (0, 1) at which the pattern of
    `theta_a + t (theta_b - theta_a)` changes. For a block these are all kinks of its pattern, residuals
    of the L1 loss included; a block's cells are convex, so that none is met twice. For a landscape all
    layers move; its cells are those of the hidden kinks, and the l-th layer's switching values are
    polynomials of degree l in t between the changes before it, so that a cell may be met again.

    Args:
        subject: A block of any layer, or the landscape of a network that is readable as a whole.
        theta_a: Start, shape (params,).
        theta_b: End, shape (params,).

    Returns:
        The number, at least 1. It is exact but for rounding: every crossing has an interval of positions
        that rounding errors of its switching value allow (16 times the bound of Higham, Accuracy and
        Stability of Numerical Algorithms, section 3.1), and the number of changes is the smallest that
        these intervals allow. So crossings that cannot be told apart are one, a kink that is zero but for
        rounding crosses nothing, and crossings within rounding of an end are outside the segment. A kink
        that is exactly zero for a while counts as negative there, as in `Block.pattern`. Where all layers
        of a deeper network move, roots are isolated by halving until a polynomial's Bernstein
        coefficients are of one sign beyond their rounding errors; one that comes to zero within these
        and goes back, as at a double root, crosses nothing.

    Cost: a forward pass for each breakpoint of the sample that has most; the values of one layer at all
    breakpoints in memory, O(samples * breakpoints of a sample * units). For a deeper landscape with P
    pieces in all, O(P * units^2 * depth) and some 45 halvings of the polynomials that change their sign:
    three seconds for the 58,000 cells of two hidden layers of 50 units and 1,000 samples.

    Raises:
        InputError: Points of the wrong shape. A landscape that is not readable as a whole, or with
            re-parametrised layers: ask for its blocks.

    Source: Liu, section VI, counts cells along straight ways.
    """
    start, stop = (check_theta(theta, subject.size) for theta in (theta_a, theta_b))
    if isinstance(subject, Block):
        return 1 + _num_changes(_crossings(subject.piecewise, start, stop, residuals=True))
    layers = _network(subject).layers
    alone = sum(isinstance(layer, Rectifier) for layer in layers) == 1
    if not (alone and isinstance(layers[1], Rectifier)):
        return 1 + _num_changes(_deep_crossings(subject, start, stop))
    first = subject.block(0)
    columns = subject.positions(first.layer)
    crossings = _crossings(first.piecewise, start[columns], stop[columns], residuals=False)
    return 1 + _num_changes(crossings)


class _Crossings(NamedTuple):
    """Where kinks change their sign on a segment.

    Attributes:
        times: Positions in [0, 1] (crossings,).
        errors: What rounding may have moved them by (crossings,).
        kinks: Whose they are (crossings,).
    """

    times: Floats
    errors: Floats
    kinks: Indices


def _network(landscape: Landscape) -> Network:
    """The landscape's network, if all of it is readable."""
    reading = landscape.reading
    if reading is None or reading.opaque:
        why = landscape.unreadable if reading is None else reading.reason
        raise InputError(
            f"landscape must be that of a network that is readable as a whole; {why}: ask for the cells"
            " of its blocks, landscape.block(layer)"
        )
    return reading.network


def _deep_crossings(landscape: Landscape, start: Floats, stop: Floats) -> _Crossings:
    """All sign changes of hidden kinks where all layers move."""
    networks = [_network(landscape.at(point)) for point in (start, 0.5 * (start + stop), stop)]
    check_affine(*networks)
    assert landscape.reading is not None
    found = changes_along(networks[0], networks[2], landscape.reading.features)
    times, width = 0.5 * (found.left + found.right), 0.5 * (found.right - found.left)
    return _Crossings(times, width + TOLERANCES.rounding * _EPS, found.kinks)


def _crossings(piecewise: Piecewise, start: Floats, stop: Floats, *, residuals: bool) -> _Crossings:
    """All sign changes of the kinks on a segment, layer by layer."""
    hidden = np.stack([_layer(piecewise, point) for point in (start, stop)], axis=1)
    times = np.tile([0.0, 1.0], (len(hidden), 1))
    sizes = _sizes(piecewise, np.maximum(np.abs(start), np.abs(stop)))
    found = [_Crossings(np.empty(0), np.empty(0), np.empty(0, dtype=np.intp))]
    for level, group in enumerate(piecewise.groups):
        values = piecewise.maps[level](hidden)
        if level == len(piecewise.slopes):
            if not residuals:
                break
            values = values - np.asarray(piecewise.targets)[:, None, :]
        times, values = refined(times, values)
        found.append(_sign_changes(times, values, sizes[level], group.start))
        if level < len(piecewise.slopes):
            hidden = np.where(values > 0, values, piecewise.slopes[level] * values)
    return _Crossings(*(np.concatenate(part) for part in zip(*found, strict=True)))


def _layer(piecewise: Piecewise, theta: Floats) -> Floats:
    """The block's own layer at theta, (samples, width)."""
    weight, bias = piecewise.unpack(theta)
    values = piecewise.features @ weight.T
    return np.asarray(values if bias is None else values + bias)


def _sizes(piecewise: Piecewise, theta: Floats) -> list[Floats]:
    """Bounds on rounding errors of all kinks while |parameters| stay below theta >= 0, level by level."""
    unit = TOLERANCES.rounding * piecewise.depth_terms * _EPS
    weight, bias = piecewise.unpack(theta)
    hidden = piecewise.magnitudes @ weight.T + (0.0 if bias is None else bias)
    sizes = []
    for level, step in enumerate(piecewise.maps):
        hidden = step.absolute()(hidden)
        last = level == len(piecewise.slopes)
        own = hidden + np.abs(piecewise.targets) if last and piecewise.has_residuals else hidden
        sizes.append(unit * own)
        if not last:  # either side of the rectifier may be met
            hidden = hidden * max(1.0, abs(piecewise.slopes[level]))
    return sizes


def _sign_changes(times: Floats, values: Floats, bounds: Floats, start: int) -> _Crossings:
    """Breakpoints at which kinks of one group change their sign.

    Args:
        times: Ascending breakpoints of each sample (samples, m).
        values: Switching values there, affine and of one sign in between (samples, m, units).
        bounds: On the values' errors (samples, units).
        start: Number of the group's first kink.
    """
    lengths = np.diff(times, axis=1)
    positive = values[:, :-1] + values[:, 1:] > 0
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        rates = np.abs(np.diff(values, axis=1) / lengths[:, :, None])
    # breakpoints that coincide have pieces of no length between them: the piece before stands for them
    last = np.maximum.accumulate(np.where(lengths > 0, np.arange(lengths.shape[1]), 0), axis=1)
    positive = np.take_along_axis(positive, last[:, :, None], axis=1)
    rates = np.take_along_axis(rates, last[:, :, None], axis=1)
    samples, pieces, units = np.nonzero(positive[:, 1:] != positive[:, :-1])
    steep = np.maximum(rates[samples, pieces, units], rates[samples, pieces + 1, units])
    with np.errstate(divide="ignore", over="ignore"):
        errors = bounds[samples, units] / steep + TOLERANCES.rounding * _EPS
    kinks = start + samples * values.shape[2] + units
    return _Crossings(times[samples, pieces + 1], errors, kinks)


def _num_changes(crossings: _Crossings) -> int:
    """Smallest number of positions inside the segment at which the pattern changes.

    The fewest points that meet all intervals: again and again the first end of an interval that none has
    met yet. Kinks that change an even number of times at one point do not change.
    """
    left, right = crossings.times - crossings.errors, crossings.times + crossings.errors
    inside = np.flatnonzero((left > 0) & (right < 1))
    order = inside[np.argsort(right[inside], kind="stable")]
    groups, point, group = np.empty(len(order), dtype=np.intp), -np.inf, -1
    for place, (low, high) in enumerate(
        zip(left[order].tolist(), right[order].tolist(), strict=True)
    ):
        if low > point:
            point, group = high, group + 1
        groups[place] = group
    pairs, counts = np.unique(
        np.column_stack([groups, crossings.kinks[order]]), axis=0, return_counts=True
    )
    return len(np.unique(pairs[counts % 2 == 1, 0]))
