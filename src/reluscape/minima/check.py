"""`verify` of a cell's minimum: everything recomputed from network and data, without a solver."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from reluscape.block import Block
from reluscape.certificate import Verification
from reluscape.check_block import RejectedError, require
from reluscape.landscape import Landscape
from reluscape.minima.depth import LEFT_OPEN, REACH, depth_left, is_least
from reluscape.minima.frozen_cell import FrozenCell
from reluscape.minima.result import SIGNS, CellMinimum, Infeasibility
from reluscape.minima.signs import cover, roots_of
from reluscape.minima.told import SAME, check_told, loss_size
from reluscape.minima.units import samples_of
from reluscape.tolerances import TOLERANCES

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

#: Depths below this are all the same.
TINY = 1e-12
#: Losses whose proofs need no known minimiser.
SQUARES = ("squared", "half_squared")
#: Rounding of a stated margin.
SLACK = 1.0 + 1e-6


def check_minimum(found: CellMinimum, landscape: Landscape) -> Verification:
    """Check a positive answer by a forward and a backward pass, a negative one by products."""
    try:
        if found.genuine is None:
            return Verification(True, "it claims nothing: the answer is left open")
        told = landscape.loss_name
        require(found.objective == told, f"it is about the loss {found.objective!r}, not {told!r}")
        start = _at(found, landscape, found.start)
        cell = FrozenCell.of(start, start.pattern())
        if found.genuine:
            told = _witness(found, landscape, start, cell)
        else:
            told = _ruled_out(found, start, cell)
        if found.layer is None:
            cell = cell.summed(start.landscape.block(1).theta[start.piecewise.width :])
        check_told(found, start, cell)
    except RejectedError as rejection:
        return Verification(False, str(rejection))
    except (TypeError, IndexError, AttributeError) as error:  # a field is of another type
        return Verification(False, f"it is not an answer of cell_minimum: {error}")
    return Verification(True, f"recomputed from network and data: {told}")


def checked(found: CellMinimum, landscape: Landscape) -> CellMinimum:
    """The answer if `check_minimum` accepts it, else an open one that says why."""
    verdict = check_minimum(found, landscape)
    if verdict.valid:
        return found
    return replace(
        found,
        genuine=None,
        bad=None,
        theta=None,
        signs=None,
        infeasibility=None,
        margin=float("nan"),
        dual=None,
        better=None,
        better_loss=float("nan"),
        reason=f"what was found does not pass the check: {verdict.reason}",
    )


def _at(found: CellMinimum, landscape: Landscape, theta: Floats) -> Block:
    """The block at a point of the result."""
    size = landscape.size if found.layer is None else landscape.block(found.layer).size
    fits = isinstance(theta, np.ndarray) and theta.shape == (size,)
    require(fits and bool(np.isfinite(theta).all()), "its point is none of this")
    whole = theta
    if found.layer is not None:
        whole = landscape.theta
        whole[landscape.positions(found.layer)] = theta
    return landscape.at(whole).block(0 if found.layer is None else found.layer)


def _witness(found: CellMinimum, landscape: Landscape, start: Block, cell: FrozenCell) -> str:
    """The weights are in the cell, with the signs that are allowed, and nothing near is lower."""
    require(found.theta is not None, "it has no weights")
    assert found.theta is not None
    there = _at(found, landscape, found.theta)
    bounds, _, slack = there.piecewise.rounding_bounds(there.theta, TOLERANCES.rounding)
    moving = cell.lengths(np.arange(cell.hidden)) > 0
    inside = cell.sides(None) * there.kinks()[: cell.hidden] > bounds[: cell.hidden]
    require(bool(inside[moving].all()), "its weights are not inside the cell")
    if landscape.loss_name == "l1":
        require(found.dual is not None, "it has no dual solution")
        assert found.dual is not None
        why = is_least(found.dual, there.theta, cell)
        require(not why, why)
    else:
        gradient = np.abs(there.gradient())
        require(bool((gradient <= slack).all()), "the gradient does not vanish")
    if found.layer is None:
        require(_all_heard(there, slack), "a unit's outputs are rounding errors of the targets")
        _output_weights(found, landscape, start, there)
    loss, rounding = there.loss(), SAME * loss_size(there)
    require(abs(loss - found.loss) <= rounding, f"its loss is {loss:.6g}")
    distance = (
        unit_distance(there, there.theta)
        if found.layer is None
        else block_distance(there, there.theta, cell)
    )
    require(0.0 < found.margin <= SLACK * distance, "its margin is none")
    require(found.bad in (True, False, None), "it is bad in no known way")
    nothing = found.better is None and np.isnan(found.better_loss)
    require(found.bad or nothing, "it has weights of lower loss and is not bad")
    if found.bad:
        _lower(found, landscape, loss)
    if found.bad is False and (found.layer is None or moving.any()):  # else the cell is everything
        least = _least_possible(found, landscape, there)
        require(loss <= least + rounding, "a lower loss is not ruled out")
    return f"a genuine minimum of loss {loss:.6g}"


def _all_heard(there: Block, slack: Floats) -> bool:
    """Whether the gradient would be seen to change without any one of the active units.

    A unit whose weights ought to be zero has the pattern of its rounding errors.

    Args:
        there: The first layer at the witness.
        slack: Rounding errors of the gradient by its parameters (params,).
    """
    piecewise = there.piecewise
    weights = there.landscape.block(1).theta[: piecewise.width]
    values = there.kinks().reshape(-1, piecewise.width)
    slopes = np.where(values > 0, 1.0, piecewise.slopes[0])
    factor = (1.0 if there.landscape.loss_name == "half_squared" else 2.0) / len(values)
    without = factor * slopes**2 * values * weights**2
    seen = np.abs(piecewise.assemble(without)) > slack
    some, bias = piecewise.unpack(seen.astype(np.float64))
    heard = some.any(axis=1) if bias is None else some.any(axis=1) | (bias > 0)
    return bool((heard | ~without.any(axis=0)).all())


def block_distance(there: Block, theta: Floats, cell: FrozenCell) -> float:
    """Least distance of a block's parameters to a hidden kink that moves, over their length."""
    distances = there.piecewise.distances(theta, cell.pattern)[: cell.hidden]
    moving = distances[cell.lengths(np.arange(cell.hidden)) > 0]
    return float(moving.min(initial=np.inf)) / (float(np.linalg.norm(theta)) or 1.0)


def unit_distance(there: Block, theta: Floats) -> float:
    """Least distance of a unit's weights to a kink, over their length."""
    piecewise = there.piecewise
    weight, bias = piecewise.unpack(theta)
    units = weight if bias is None else np.hstack([weight, bias[:, None]])
    lengths = np.sqrt((piecewise.features**2).sum(axis=1) + piecewise.bias)
    values = np.abs(there.kinks(theta)).reshape(len(lengths), -1)[lengths > 0]
    values = values / lengths[lengths > 0, None] / np.linalg.norm(units, axis=1)
    return float(values.min(initial=np.inf))


def _least_possible(found: CellMinimum, landscape: Landscape, there: Block) -> float:
    """A loss that no weights can be below: that of the best function of the inputs, or zero."""
    if found.layer is not None:
        return 0.0
    targets = np.asarray(landscape.targets, dtype=np.float64)[:, 0]
    bias = there.landscape.block(1).theta[there.piecewise.width :].sum()
    least = samples_of(landscape).means(targets - bias)[1] / len(targets)
    return 0.5 * least if landscape.loss_name == "half_squared" else least


def _output_weights(found: CellMinimum, landscape: Landscape, start: Block, there: Block) -> None:
    """Their signs are allowed, and the gradient by them vanishes."""
    last = there.landscape.block(1)
    units = there.piecewise.width
    weights = last.theta[:units]
    signs = np.sign(weights)
    given = start.landscape.block(1).theta[:units]
    require(found.convention in SIGNS, f"unknown convention {found.convention!r}")
    require(bool(signs.all()), "an output weight is zero")
    told = found.signs is not None and np.array_equal(found.signs, signs)
    require(told, "its signs are not those of its output weights")
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
    there = _at(found, landscape, found.better)
    if found.layer is None:
        bias = landscape.positions(landscape.layers[1])[there.piecewise.width :]
        require(np.array_equal(found.better[bias], found.start[bias]), "its better bias moved")
    lower = there.loss()
    rounding = SAME * loss_size(there)
    close, below = abs(lower - found.better_loss) <= rounding, lower < loss - rounding
    require(close and below, f"its better weights have loss {lower:.6g}")


def _ruled_out(found: CellMinimum, start: Block, cell: FrozenCell) -> str:
    """Every sign choice is ruled out by weights that leave a minimiser no depth."""
    proof = found.infeasibility
    require(proof is not None, "it has no proof")
    assert proof is not None
    _check_shapes(proof, cell, start)
    require(found.layer is None or not len(proof.turns), "a layer's proof turns with no signs")
    if found.layer is None:
        last, units = start.landscape.block(1).theta, start.piecewise.width
        require(found.convention in SIGNS, f"unknown convention {found.convention!r}")
        roots = roots_of(found.convention, last[:units])
        covered = len(proof.turns) or cover(list(proof.signs), roots)
        require(bool(covered), "its parts leave sign choices out")
        cell = cell.summed(last[units:])
    left = depth_left(proof, cell)
    nothing = found.better is None and np.isnan(found.better_loss)
    require(found.bad is False and nothing, "a cell without a minimum holds no bad one")
    require(left.depth <= SLACK * found.margin + TINY, "it leaves more open than it says")
    require(found.reach <= SLACK * left.reach, "it is about longer minimisers than it shows")
    deep = f"minimisers may lie inside by {left.depth:.3g} of their length"
    require(found.margin <= SLACK * LEFT_OPEN, deep)
    silent = f"it is silent beyond {left.reach:.3g} times the length of a known minimiser"
    require(found.reach >= REACH, silent)
    far = "" if np.isinf(found.reach) else f" up to {found.reach:.2g} times as long as a known one"
    deep = f"by more than rounding ({left.depth:.2g} of its length)"
    return f"no minimiser{far} lies inside the cell {deep}"


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
    fits = proof.point.shape in ((0,), (size,))
    needless = cell.piecewise.loss.name in SQUARES or not len(proof.kink)
    require(fits and (needless or len(proof.point)), "its proof has no known minimiser")
    numbers = (proof.outputs, proof.directions, proof.weight, proof.point)
    require(all(np.isfinite(one).all() for one in numbers), "its proof is not finite")
    require(bool((proof.weight > 0).all()) or len(proof.turns) > 0, "a weight is not positive")
    inside = (
        (proof.kink >= 0) & (proof.kink < cell.hidden) & (proof.part >= 0) & (proof.part < parts)
    )
    require(bool(inside.all()), "a weight is that of no kink")
