"""Directions along which a ReLU network's output does not change, by structure alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import qr

from reluscape.landscape import Landscape
from reluscape.network import Affine, Rectifier, Scale

Array = NDArray[Any]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]


def generators(landscape: Landscape, theta: Array) -> Array:
    """Columns that span the flat directions at a differentiable point of the landscape's own cell.

    Three kinds: parameters that nothing reads because units are dead on every sample; for every
    live hidden unit, scaling its incoming weights up and its outgoing weights down (`relu(c z) =
    c relu(z)` for c > 0); and for the cross-entropy, adding the same to all logits. Along their
    flows the loss is constant. With weight decay there are none.

    Args:
        landscape: Fully readable, without batch norm, no kink active.
        theta: The point, in any arithmetic, with the landscape's own pattern; shape (params,).
    """
    if landscape.weight_decay > 0:
        return np.zeros((landscape.size, 0), dtype=theta.dtype)
    layers = _stages(landscape)
    alive = _alive_units(landscape, landscape.block(0).pattern())
    live_in = [np.ones(layers[0][0].weight.shape[1], dtype=np.bool_), *alive]
    read = _read_units(layers, alive)
    columns = [
        _unused(landscape, layers, live_in, read),
        _rescalings(landscape, layers, read, theta),
        _shifts(landscape, layers),
    ]
    return np.hstack([part.astype(theta.dtype) for part in columns])


def independent_part(columns: NDArray[np.float64]) -> tuple[Indices, Indices]:
    """Rows and columns of a nonsingular square part, as large as the matrix's rank, by pivoting.

    For flat directions: moving the other coordinates crosses all of them once.
    """
    if not columns.size:
        return np.empty(0, dtype=np.intp), np.empty(0, dtype=np.intp)
    triangle, order = qr(columns, mode="r", pivoting=True)
    sizes = np.abs(np.diag(triangle))
    chosen = order[: (sizes > 1e-10 * max(1.0, sizes[0])).sum()]
    if not len(chosen):
        return chosen, chosen
    rows = qr(columns[:, chosen].T, mode="r", pivoting=True)[1]
    return rows[: len(chosen)], chosen


def flat_dimension(landscape: Landscape) -> int:
    """Number of independent flat directions at the landscape's own point."""
    return len(independent_part(generators(landscape, landscape.theta))[0])


def is_plain(landscape: Landscape) -> bool:
    """Whether the whole network is read, without batch norm, so that structure tells all."""
    reading = landscape.reading
    return (
        reading is not None
        and not reading.opaque
        and not any(isinstance(layer, Scale) for layer in reading.network.layers)
    )


def _stages(landscape: Landscape) -> list[tuple[Affine, float | None]]:
    """Affine layers with the slope of the rectifier that follows (None for none)."""
    assert landscape.reading is not None
    stages: list[tuple[Affine, float | None]] = []
    for layer in landscape.reading.network.layers:
        if isinstance(layer, Affine):
            stages.append((layer, None))
        elif isinstance(layer, Rectifier):
            affine, before = stages[-1]
            slope = (
                layer.slope if before is None else before * layer.slope if before >= 0 else before
            )
            stages[-1] = (affine, slope)
    return stages


def _alive_units(landscape: Landscape, pattern: Bools) -> list[Bools]:
    """For every affine layer, which of its units pass a signal on some sample."""
    groups = iter(landscape.block(0).kink_groups)
    alive = []
    for affine, slope in _stages(landscape):
        units = np.ones(len(affine.weight), dtype=np.bool_)
        if slope is not None:
            group = next(groups)
            if slope == 0.0:
                signs = pattern[group.start : group.stop].reshape(-1, group.units)
                units = np.asarray(signs.any(axis=0))
        alive.append(units)
    return alive


def _read_units(
    layers: Sequence[tuple[Affine, float | None]], alive: Sequence[Bools]
) -> list[Bools]:
    """For every affine layer, which of its units reach the output through live units."""
    read: list[Bools] = [alive[-1]]
    for units in alive[-2::-1]:
        read.append(units if read[-1].any() else np.zeros_like(units))
    return read[::-1]


def _unused(
    landscape: Landscape,
    layers: Sequence[tuple[Affine, float | None]],
    live_in: Sequence[Bools],
    read: Sequence[Bools],
) -> Array:
    """Unit vectors of the parameters that do not reach the output."""
    chosen = []
    for (affine, _), inputs, units in zip(layers, live_in, read, strict=False):
        used = [(units[:, None] & inputs[None, :]).ravel()]
        used += [] if affine.bias is None else [units]
        chosen.append(landscape.positions(affine.name)[~np.concatenate(used)])
    return np.eye(landscape.size, dtype=np.intp)[:, np.concatenate(chosen)]


def _rescalings(
    landscape: Landscape,
    layers: Sequence[tuple[Affine, float | None]],
    read: Sequence[Bools],
    theta: Array,
) -> Array:
    """One direction per live hidden unit: incoming weights up, outgoing weights down."""
    rows = []
    for (before, slope), (after, _), units in zip(layers[:-1], layers[1:], read[:-1], strict=True):
        if slope is None:
            continue
        into, out = landscape.positions(before.name), landscape.positions(after.name)
        count, inputs = before.weight.shape
        outgoing = out[: after.weight.size].reshape(after.weight.shape)
        for unit in np.flatnonzero(units):
            row = np.zeros(landscape.size, dtype=theta.dtype)
            incoming = into[unit * inputs : (unit + 1) * inputs]
            if before.bias is not None:
                incoming = np.append(incoming, into[count * inputs + unit])
            row[incoming] = theta[incoming]
            row[outgoing[:, unit]] = -theta[outgoing[:, unit]]
            rows.append(row)
    return np.array(rows, dtype=theta.dtype).reshape(len(rows), landscape.size).T


def _shifts(landscape: Landscape, layers: Sequence[tuple[Affine, float | None]]) -> Array:
    """For the cross-entropy: the same change in the weights of all logits, or in their biases."""
    last, slope = layers[-1]
    if landscape.loss_name != "cross_entropy" or slope is not None:
        return np.empty((landscape.size, 0))
    outputs, inputs = last.weight.shape
    positions = landscape.positions(last.name)
    columns = np.zeros((landscape.size, inputs + (last.bias is not None)), dtype=np.intp)
    for column in range(inputs):
        columns[positions[column : outputs * inputs : inputs], column] = 1
    if last.bias is not None:
        columns[positions[outputs * inputs :], inputs] = 1
    return columns
