"""`verify` of a cell's minimum: everything recomputed from network and data, without a solver."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reluscape.certificate import Verification
from reluscape.check_block import RejectedError, require
from reluscape.landscape import Block, Landscape
from reluscape.minima.frozen_cell import FrozenCell
from reluscape.minima.result import SIGNS, CellMinimum, Infeasibility
from reluscape.minima.signs import cover, roots_of
from reluscape.tolerances import TOLERANCES

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

#: Largest depth, relative to a minimiser's length, that rounding may leave open in a negative answer.
LEFT_OPEN = 1e-8
#: Relative difference of losses that is rounding.
SAME = 1e-9


def check_minimum(found: CellMinimum, landscape: Landscape) -> Verification:
    """Check a positive answer by a forward and a backward pass, a negative one by products."""
    try:
        if found.genuine is None:
            return Verification(True, "it claims nothing: the search over signs was given up")
        start = _at(found, landscape, found.start)
        cell = FrozenCell.of(start, start.pattern())
        if found.genuine:
            told = _witness(found, landscape, start, cell)
        else:
            told = _ruled_out(found, start, cell)
    except RejectedError as rejection:
        return Verification(False, str(rejection))
    return Verification(True, f"recomputed from network and data: {told}")


def _at(found: CellMinimum, landscape: Landscape, theta: Floats) -> Block:
    """The block at a point of the result."""
    size = landscape.size if found.layer is None else landscape.block(found.layer).size
    require(theta.shape == (size,) and bool(np.isfinite(theta).all()), "its point is none of this")
    whole = theta
    if found.layer is not None:
        whole = landscape.theta
        whole[landscape.positions(found.layer)] = theta
    return landscape.at(whole).block(0 if found.layer is None else found.layer)


def _witness(found: CellMinimum, landscape: Landscape, start: Block, cell: FrozenCell) -> str:
    """The weights are in the cell, with the signs that are allowed, and the gradient there vanishes."""
    require(found.theta is not None, "it has no weights")
    assert found.theta is not None
    there = _at(found, landscape, found.theta)
    bounds, _, slack = there.piecewise.rounding_bounds(there.theta, TOLERANCES.rounding)
    moving = cell.lengths(np.arange(cell.hidden)) > 0
    inside = cell.sides(None) * there.kinks()[: cell.hidden] > bounds[: cell.hidden]
    require(bool(inside[moving].all()), "its weights are not inside the cell")
    require(bool((np.abs(there.gradient()) <= slack).all()), "the gradient does not vanish")
    if found.layer is None:
        _output_weights(found, landscape, start, there)
    loss = there.loss()
    require(abs(loss - found.loss) <= SAME * (1.0 + abs(loss)), f"its loss is {loss:.6g}")
    if found.bad:
        _lower(found, landscape, loss)
    return f"a genuine minimum of loss {loss:.6g}"


def _output_weights(found: CellMinimum, landscape: Landscape, start: Block, there: Block) -> None:
    """Their signs are allowed, and the gradient by them vanishes."""
    last = there.landscape.block(1)
    units = there.piecewise.width
    weights = last.theta[:units]
    signs = np.sign(weights)
    given = start.landscape.block(1).theta[:units]
    require(found.convention in SIGNS, f"unknown convention {found.convention!r}")
    require(bool(signs.all()), "an output weight is zero")
    agree = [((root == 0) | (root == signs)).all() for root in roots_of(found.convention, given)]
    require(any(agree), f"its output weights have other signs than {found.convention!r} ones")
    require(
        np.array_equal(last.theta[units:], start.landscape.block(1).theta[units:]), "its bias moved"
    )
    slack = last.piecewise.rounding_bounds(last.theta, TOLERANCES.rounding)[2][:units]
    gradient = last.gradient()[:units]
    require(bool((np.abs(gradient) <= slack).all()), "the output weights' gradient does not vanish")


def _lower(found: CellMinimum, landscape: Landscape, loss: float) -> None:
    """A lower loss is attained."""
    require(found.better is not None, "it has no weights of lower loss")
    assert found.better is not None
    lower = _at(found, landscape, found.better).loss()
    require(lower < loss - SAME * (1.0 + abs(loss)), f"its better weights have loss {lower:.6g}")


def _ruled_out(found: CellMinimum, start: Block, cell: FrozenCell) -> str:
    """Every sign choice is ruled out by weights that leave a minimiser no depth."""
    proof = found.infeasibility
    require(proof is not None, "it has no proof")
    assert proof is not None
    _check_shapes(proof, cell, start)
    if found.layer is None:
        given = start.landscape.block(1).theta[: start.piecewise.width]
        require(found.convention in SIGNS, f"unknown convention {found.convention!r}")
        roots = roots_of(found.convention, given)
        require(cover(list(proof.signs), roots), "its parts leave sign choices out")
        cell = cell.summed()
    depth = depth_left(proof, cell)
    require(depth <= LEFT_OPEN, f"minimisers may lie inside by {depth:.3g} of their length")
    return f"no minimiser lies inside the cell by more than rounding ({depth:.2g} of its length)"


def _check_shapes(proof: Infeasibility, cell: FrozenCell, start: Block) -> None:
    """Arrays fit together, all numbers are finite and the weights positive."""
    parts, size = len(proof.outputs), cell.piecewise.num_params
    outputs = cell.piecewise.num_samples * start.landscape.num_outputs
    require(parts > 0, "its proof is empty")
    require(proof.outputs.shape == (parts, outputs), "its proof's outputs have another shape")
    require(proof.directions.shape == (parts, size), "its proof's directions have another shape")
    require(len(proof.signs) == parts, "its proof's signs have another shape")
    same = proof.part.shape == proof.kink.shape == proof.weight.shape
    require(same and proof.part.ndim == 1, "its proof's weights have different lengths")
    numbers = (proof.outputs, proof.directions, proof.weight)
    require(all(np.isfinite(one).all() for one in numbers), "its proof is not finite")
    require(bool((proof.weight > 0).all()), "a weight is not positive")
    inside = (
        (proof.kink >= 0) & (proof.kink < cell.hidden) & (proof.part >= 0) & (proof.part < parts)
    )
    require(bool(inside.all()), "a weight is that of no kink")


def depth_left(proof: Infeasibility, cell: FrozenCell) -> float:
    """How far inside the cell, relative to its length, a minimiser could be for all that is proved.

    Inside the cell each `g_k . q + o_k` is at least its row's length times the depth; their weighted sum
    is `l . y' + sum mu o` at every minimiser but for what `sum mu g - E^T l` and `l - E w` leave, each
    bounded with its rounding errors.
    """
    values, constants = cell.constants()
    targets = np.asarray(cell.piecewise.targets, dtype=np.float64) - constants
    depth = 0.0
    for part, (outputs, direction) in enumerate(zip(proof.outputs, proof.directions, strict=True)):
        here = proof.part == part
        kinks, weights = proof.kink[here], proof.weight[here]
        signs = proof.signs[part] if proof.signs.shape[1] else None
        sides = cell.sides(signs)[kinks]
        lengths = float(weights @ cell.lengths(kinks)) if len(kinks) else 0.0
        if not (lengths > 0 and sides.all()):
            return np.inf
        rows = outputs.reshape(targets.shape)
        gap, error = cell.gap(kinks, weights * sides, rows)
        moved, noise = cell.forward(direction)
        apart = np.linalg.norm(rows - moved) + np.linalg.norm(noise)
        terms = float((rows * targets).sum()) + float((weights * sides) @ values[kinks])
        sizes = float(np.abs(rows * targets).sum()) + float(weights @ np.abs(values[kinks]))
        above = terms + float(apart * np.linalg.norm(targets)) + cell.unit * sizes
        length = float(np.linalg.norm(targets)) or 1.0
        depth = max(depth, (gap + error + max(0.0, above) / length) / lengths)
    return depth
