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
from reluscape.minima.turning import depth_for_all_signs
from reluscape.minima.units import samples_of
from reluscape.tolerances import TOLERANCES

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

#: Largest depth, relative to a minimiser's length, that rounding may leave open in a negative answer.
LEFT_OPEN = 1e-8
#: How much longer than others a minimiser must be to be out of the question.
REACH = 1e3
#: Depths below this are all the same.
TINY = 1e-12
#: Rounding of a stated margin.
SLACK = 1.0 + 1e-6
#: Relative difference of losses that is rounding.
SAME = 1e-9


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
    except RejectedError as rejection:
        return Verification(False, str(rejection))
    return Verification(True, f"recomputed from network and data: {told}")


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
        _least(found, there, cell)
    else:
        gradient = np.abs(there.gradient())
        require(bool((gradient <= slack).all()), "the gradient does not vanish")
    if found.layer is None:
        _output_weights(found, landscape, start, there)
    loss = there.loss()
    require(abs(loss - found.loss) <= SAME * (1.0 + abs(loss)), f"its loss is {loss:.6g}")
    distance = (
        unit_distance(there, there.theta)
        if found.layer is None
        else block_distance(there, there.theta, cell)
    )
    require(0.0 < found.margin <= SLACK * distance, "its margin is none")
    require(found.bad in (True, False, None), "it is bad in no known way")
    if found.bad:
        _lower(found, landscape, loss)
    if found.bad is False and (found.layer is None or moving.any()):  # else the cell is everything
        least = _least_possible(found, landscape, there)
        require(loss <= least + SAME * (1.0 + abs(loss)), "a lower loss is not ruled out")
    return f"a genuine minimum of loss {loss:.6g}"


def _least(found: CellMinimum, there: Block, cell: FrozenCell) -> None:
    """No loss of the frozen network is lower: `|E q - y| >= l . (E q - y) = -l . y` where E^T l = 0."""
    targets = np.asarray(cell.piecewise.targets, dtype=np.float64) - cell.constants()[1]
    dual = found.dual
    require(dual is not None and dual.shape == (targets.size,), "it has no dual solution")
    assert dual is not None
    require(bool((np.abs(dual) <= 1.0).all()), "its dual solution is beyond its bounds")
    none = np.empty(0, dtype=np.int64)
    gap, error = cell.gap(none, np.empty(0), dual.reshape(targets.shape))
    length = float(np.linalg.norm(cell.sizes * there.theta))
    least = -float((dual.reshape(targets.shape) * targets).sum()) - (gap + error) * length
    size = float(np.abs(targets).sum())
    loss = there.loss() * len(targets)
    require(
        loss <= least + LEFT_OPEN * size, f"no proof that a loss below {loss:.6g} is impossible"
    )


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
    require(lower < loss - SAME * (1.0 + abs(loss)), f"its better weights have loss {lower:.6g}")


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
    depth = depth_left(proof, cell)
    require(found.bad is False, "a cell without a minimum holds no bad one")
    require(depth <= SLACK * found.margin + TINY, "it leaves more open than it says")
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
    require(bool((proof.weight > 0).all()) or len(proof.turns) > 0, "a weight is not positive")
    inside = (
        (proof.kink >= 0) & (proof.kink < cell.hidden) & (proof.part >= 0) & (proof.part < parts)
    )
    require(bool(inside.all()), "a weight is that of no kink")


def depth_left(proof: Infeasibility, cell: FrozenCell) -> float:
    """How far inside the cell, relative to its length, a minimiser could be for all that is proved.

    Inside the cell each `g_k . q + o_k` is at least its row's length times the depth; what their weighted
    sum is at every minimiser is known but for rounding (`SUMS`), and for what is left of
    `sum mu g - E^T l` times its length. For the L1 loss, whose l has a rounding error for every sample,
    a part leaves nothing where only minimisers `REACH` times as long as the targets could be inside.
    """
    if len(proof.turns):
        return depth_for_all_signs(proof, cell)
    name = cell.piecewise.loss.name
    if name == "cross_entropy" and not len(proof.kink):
        return 0.0 if _falls_forever(proof, cell) else np.inf
    depth = 0.0
    for part, (outputs, direction) in enumerate(zip(proof.outputs, proof.directions, strict=True)):
        here = proof.part == part
        kinks, weights = proof.kink[here], proof.weight[here]
        sides = cell.sides(proof.signs[part] if proof.signs.shape[1] else None)[kinks]
        lengths = float(weights @ cell.lengths(kinks)) if len(kinks) else 0.0
        if not (lengths > 0 and sides.all()):
            return np.inf
        rows = outputs.reshape(cell.piecewise.num_samples, -1)
        gap, error = cell.gap(kinks, weights * sides, rows)
        values = cell.constants()[0][kinks]
        above, length = SUMS[name](cell, rows, direction, (kinks, weights * sides, values))
        beyond = name == "l1" and gap <= error and -above >= REACH * length * (gap + error)
        if not beyond:
            depth = max(depth, (gap + error + max(0.0, above) / length) / lengths)
    return depth


Weighted = tuple[Indices, Floats, Floats]


def _of_squares(
    cell: FrozenCell, rows: Floats, direction: Floats, sides: Weighted
) -> tuple[float, float]:
    """Bound on `sum mu (g . q + o) = l . y + sum mu o` at minimisers, where l = E w; and their scale."""
    targets = np.asarray(cell.piecewise.targets, dtype=np.float64) - cell.constants()[1]
    _, weights, values = sides
    moved, noise = cell.forward(direction)
    apart = float(np.linalg.norm(rows - moved) + np.linalg.norm(noise))
    terms = float((rows * targets).sum()) + float(weights @ values)
    sizes = float(np.abs(rows * targets).sum()) + float(np.abs(weights) @ np.abs(values))
    length = float(np.linalg.norm(targets)) or 1.0
    return terms + apart * length + cell.unit * sizes, length


def _of_deviations(
    cell: FrozenCell, rows: Floats, direction: Floats, sides: Weighted
) -> tuple[float, float]:
    """The same for sums of absolute values, by what a known point attains.

    With |l| <= 1 every loss is at least `l . (E q - y) = sum mu (g . q + o) - l . y - sum mu o`.
    """
    targets = np.asarray(cell.piecewise.targets, dtype=np.float64) - cell.constants()[1]
    if not (np.abs(rows) <= 1.0).all():
        return np.inf, 1.0
    _, weights, values = sides
    moved, noise = cell.forward(direction)
    attained = float(np.abs(moved - targets).sum() + noise.sum())
    terms = attained + float((rows * targets).sum()) + float(weights @ values)
    sizes = attained + float(np.abs(rows * targets).sum() + np.abs(weights) @ np.abs(values))
    return terms + cell.unit * sizes, float(np.linalg.norm(targets)) or 1.0


def _of_entropies(
    cell: FrozenCell, rows: Floats, direction: Floats, sides: Weighted
) -> tuple[float, float]:
    """The same for cross-entropies: all minimisers have a known one's outputs up to a common shift."""
    kinks, weights, values = sides
    outputs, constants = cell.forward(direction)[0], cell.constants()[1]
    slope = cell.piecewise.loss.slope(outputs + constants, cell.piecewise.targets)
    none = np.empty(0, dtype=np.int64)
    gap, error = cell.gap(none, np.empty(0), slope)
    first = cell.piecewise.loss.slope(constants, cell.piecewise.targets)
    start = cell.gap(none, np.empty(0), first)[0]
    common = float(np.abs(rows.sum(axis=1)).max(initial=0.0))
    if gap > error + SAME * start or common > SAME * float(np.abs(rows).max(initial=0.0)):
        return np.inf, 1.0
    there = cell.piecewise.frozen(cell.pattern, direction, linear=True)[0][kinks]
    terms = weights @ (there + values)
    sizes = np.abs(weights) @ (np.abs(there) + np.abs(values))
    length = float(np.linalg.norm(cell.sizes * direction)) or 1.0
    return float(terms + cell.unit * sizes), length


SUMS = {
    "squared": _of_squares,
    "half_squared": _of_squares,
    "l1": _of_deviations,
    "cross_entropy": _of_entropies,
}


def _falls_forever(proof: Infeasibility, cell: FrozenCell) -> bool:
    """Whether no sample's own output loses to another along the direction, and some gain."""
    rates, noise = cell.forward(proof.directions[0])
    own = np.arange(len(rates)), cell.piecewise.targets
    gains = rates[own][:, None] - rates
    slack = noise[own][:, None] + noise
    gains[own] = np.inf
    return bool(
        (gains >= -slack).all() and (gains[np.isfinite(gains)] > slack[np.isfinite(gains)]).any()
    )
