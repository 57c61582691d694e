"""A layer with one rectifier and one output behind it: its squared loss, unit by unit.

With the output weights z fixed, `R_j = z_j w_j` only scales each unit, so the question about the layer
alone is that about R with the signs of z (`units.py`), which needs no matrix of all derivatives.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reluscape.block import Block
from reluscape.minima.check import block_distance
from reluscape.minima.closed import Closed
from reluscape.minima.depth import LEFT_OPEN, depth_left
from reluscape.minima.frozen_cell import FrozenCell
from reluscape.minima.programs import Programs
from reluscape.minima.result import CellMinimum, Infeasibility
from reluscape.minima.signs import Watch, search
from reluscape.minima.told import zero_kinks
from reluscape.minima.units import Leaf, Samples, Units
from reluscape.nearby import in_theta_order
from reluscape.progress import Progress

Floats = NDArray[np.float64]


def readout_minimum(block: Block, start: Floats, progress: Progress | None) -> CellMinimum | None:
    """`cell_minimum` of such a block; None for any other, or where an output weight is zero."""
    piecewise = block.piecewise
    squared = block.landscape.loss_name in ("squared", "half_squared")
    if not squared or len(piecewise.maps) != 2 or piecewise.maps[0].matrix is not None:
        return None
    last = piecewise.maps[1]
    if last.matrix is None or last.matrix.shape != (1, piecewise.width) or not last.matrix.all():
        return None
    outputs = last.matrix[0]
    units = _units(block, start, outputs)
    watch = Watch(progress)
    route = Closed.of(units) or Programs.of(units, free=False, watch=watch)
    witness, leaves, parts = search([np.sign(outputs).astype(np.int8)], route.test, watch)
    cell = FrozenCell.of(block, block.pattern(start))
    theta, proof, margin = None, None, float("nan")
    if witness is not None:
        theta = in_theta_order(
            witness.weights / units.samples.sizes / outputs[:, None], bias=piecewise.bias
        )
        margin = block_distance(block, theta, cell)
    elif leaves:
        proof = _proof(block, leaves[0], units)
        margin = depth_left(proof, cell).depth
    factor = 0.5 if block.landscape.loss_name == "half_squared" else 1.0
    loss = factor * (units.plain(route.squares) + units.rest) / piecewise.num_samples
    genuine = True if theta is not None else False if margin <= LEFT_OPEN else None
    moving = cell.lengths(np.arange(cell.hidden)) > 0
    least = route.squares + units.rest <= units.negligible or not moving.any()
    return CellMinimum(
        genuine=genuine,
        kind=units.kind(route.rank),
        loss=loss,
        bad=False if genuine is False or least else None,
        theta=theta,
        signs=None,
        method=route.method(witness, leaves, parts),
        infeasibility=proof,
        margin=margin,
        convention="block",
        layer=block.layer,
        objective=block.landscape.loss_name,
        start=start,
        active=zero_kinks(block, start, cell, 1.0)[0],
    )


def _units(block: Block, start: Floats, outputs: Floats) -> Units:
    """The block's cell unit by unit."""
    piecewise = block.piecewise
    weight, bias = piecewise.unpack(start)
    features = piecewise.features
    if bias is not None:
        features = np.hstack([features, np.ones((len(features), 1))])
        weight = np.hstack([weight, bias[:, None]])
    samples, shift = Samples.of(features), piecewise.maps[1].shift
    targets = np.asarray(piecewise.targets, dtype=np.float64)[:, 0]
    means, rest = samples.means(targets - (0.0 if shift is None else shift[0]))
    pattern = block.pattern(start).reshape(piecewise.num_samples, -1)[samples.rows]
    return Units(
        samples, means, rest, pattern, weight * samples.sizes, outputs, piecewise.slopes[0]
    )


def _proof(block: Block, leaf: Leaf, units: Units) -> Infeasibility:
    """A leaf's weights for w in place of R: unit j's rows are `z_j` times as long."""
    samples, count = units.samples, len(units.outputs)
    rows, columns = np.nonzero(leaf.weights)
    directions = leaf.directions / samples.sizes / units.outputs[:, None]
    return Infeasibility(
        signs=np.empty((1, 0), dtype=np.int8),
        outputs=samples.spread(leaf.outputs / samples.counts)[None],
        directions=in_theta_order(directions, bias=block.piecewise.bias)[None],
        part=np.zeros(len(rows), dtype=np.int64),
        kink=samples.rows[rows] * count + columns,
        weight=leaf.weights[rows, columns] * np.abs(units.outputs[columns]),
    )
