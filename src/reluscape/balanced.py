"""Input columns brought to about the same size, by powers of two.

Dividing an input column of a layer by 2^e and multiplying the weights of that column by 2^e changes no
product of the two, in floats either, and no claim that a point is a minimum. But ranks, projections and
rounding bounds of columns that differ by orders of magnitude lose the small ones.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from reluscape.block import Block
from reluscape.landscape import Landscape
from reluscape.network import Affine, Network, Reading, Rectifier, Scale

Floats = NDArray[np.float64]

#: Columns are alike where their sizes are two to the power of at most this, up or down.
ALIKE = 2


def balanced(block: Block, theta: Floats) -> Block | None:
    """The block with its input columns, in root mean square, about one, as its bias's ones are.

    Its parameters are `sizes * theta`, with powers of two, and its kinks, patterns and losses the same.
    Cost: one pass of the layers before it.

    Args:
        block: A block in the landscape's own columns.
        theta: The point of interest, in those.

    Returns:
        None where the columns are alike already, theta or the inputs are too large or too small for
        exact products, or the loss is another than L1 without weight decay.
    """
    landscape = block.landscape
    if landscape.loss_name != "l1" or landscape.weight_decay != 0:
        return None
    features = block.piecewise.features
    columns = _sizes(features)
    if np.abs(np.log2(columns)).max(initial=0.0) <= ALIKE:
        return None
    width = block.piecewise.width
    sizes = np.append(np.tile(columns, width), np.ones(width * block.piecewise.bias))
    if not (_is_exact(theta, sizes) and _is_exact(features, 1.0 / columns)):
        return None
    there = _with_columns(landscape, block.layer, columns)
    assert there.reading is not None
    return replace(Block.of(there, there.reading, block.layer), sizes=sizes)


def _sizes(features: Floats) -> Floats:
    """Powers of two next to the columns' root mean squares, one for columns of zeros."""
    with np.errstate(over="ignore"):
        lengths = np.sqrt((features**2).mean(axis=0))
    return np.asarray(np.exp2(np.round(np.log2(np.where(lengths > 0, lengths, 1.0)))))


def _is_exact(values: Floats, factors: Floats) -> bool:
    """Whether multiplying by powers of two loses nothing: no number is rounded, or overflows."""
    with np.errstate(all="ignore"):
        return np.array_equal(values * factors / factors, values)


def _with_columns(landscape: Landscape, layer: str, columns: Floats) -> Landscape:
    """The landscape, read with a layer's inputs over the columns' sizes and its weights times them."""
    reading, found = landscape.reading, copy.copy(landscape)
    assert reading is not None
    layers: list[Affine | Scale | Rectifier] = []
    for part in reading.network.layers:
        if isinstance(part, Affine) and part.name == layer:
            layers.append(Scale(1.0 / columns, np.zeros(len(columns)), ""))
            layers.append(Affine(part.weight * columns, part.bias, layer))
        else:
            layers.append(part)
    found.reading = Reading(
        Network(tuple(layers)), reading.features, reading.opaque, reading.reason
    )
    return found
