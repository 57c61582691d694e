"""One layer alone: does its frozen loss attain its minimum inside a cell of its hidden kinks?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from reluscape.block import Block
from reluscape.errors import InputError
from reluscape.losses import CrossEntropyLoss
from reluscape.minima.check import block_distance
from reluscape.minima.deepest import SHALLOW, Deepest, Sides, deepest
from reluscape.minima.depth import Left, depth_left
from reluscape.minima.frozen_cell import FrozenCell
from reluscape.minima.minimisers import (
    BOUND,
    Minimisers,
    absolute,
    cross_entropy,
    pseudo_inverse,
    squared,
)
from reluscape.minima.result import CellMinimum, Infeasibility, Kind
from reluscape.minima.signs import Watch
from reluscape.minima.told import zero_kinks
from reluscape.minima.units import row_space
from reluscape.nearby import in_theta_order
from reluscape.progress import Progress, Stop

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]

#: Largest matrix of the outputs' derivatives: 1.6 GB.
MAX_ENTRIES = 2 * 10**8
#: Largest one that is formed to settle a minimiser: about a second.
SMALL = 10**7
#: Scores below this share of what cancels in them are rounding errors of zero.
NOISE = 4.0 * float(np.finfo(float).eps)
#: Share of the loss at zero parameters below which a loss is rounding of zero, its least value.
FIT = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Frozen:
    """A block's cell in coordinates of the row space of the layer's inputs.

    Attributes:
        block: The block.
        cell: Its cell.
        start: The point that is asked about (params,).
        scores: Orthonormal scores of the inputs `[X, 1]` (samples, rank).
        back: Weights of a unit by its part of q (inputs + bias, rank).
        forth: q's part of a unit by its weights (inputs + bias, rank).
        derivatives: E (samples * outputs, units * rank).
        constants: Outputs at zero parameters (samples, outputs).
        moving: Hidden kinks that are not constant on the cell.
        lengths: Lengths of their normals in q.
    """

    block: Block
    cell: FrozenCell
    start: Floats
    scores: Floats
    back: Floats
    forth: Floats
    derivatives: Floats
    constants: Floats
    moving: Indices
    lengths: Floats

    @classmethod
    def of(cls, block: Block, start: Floats) -> Frozen:
        """Freeze a block at the pattern of a point."""
        piecewise, cell = block.piecewise, FrozenCell.of(block, block.pattern(start))
        features, scores, back, forth = row_space(piecewise)
        scores[np.abs(scores) <= NOISE * np.linalg.norm(scores, axis=1)[:, None]] = 0.0
        scores[~features.any(axis=1)] = 0.0  # these samples' kinks are constant
        jacobian = piecewise.output_jacobian(cell.pattern)
        (samples, outputs, units), rank = jacobian.shape, scores.shape[1]
        if samples * outputs * units * rank > MAX_ENTRIES:
            raise InputError(
                f"cell_minimum of a block needs {samples * outputs} x {units * rank} derivatives, at most"
                f" {MAX_ENTRIES} numbers: take fewer samples"
            )
        derivatives = np.einsum("now,nr->nowr", jacobian, scores)
        kinks = np.arange(cell.hidden)
        lengths = np.linalg.norm(piecewise.pull_back(kinks, cell.pattern), axis=1)
        lengths = lengths * np.linalg.norm(scores, axis=1)[piecewise.sample_of(kinks)]
        moving = np.flatnonzero(lengths > 0)
        return cls(
            block, cell, start, scores, back, forth, derivatives.reshape(samples * outputs, units * rank),
            cell.forward(np.zeros(block.size)).outputs, moving, lengths[moving],
        )  # fmt: skip

    def expand(self, q: Floats) -> Floats:
        """The block's parameters at q; what no input sees is zero."""
        piecewise = self.block.piecewise
        return in_theta_order(q.reshape(piecewise.width, -1) @ self.back.T, bias=piecewise.bias)

    @property
    def own(self) -> Floats:
        """The start in these coordinates."""
        weight, bias = self.block.piecewise.unpack(self.start)
        rows = weight if bias is None else np.hstack([weight, bias[:, None]])
        return np.asarray((rows @ self.forth).ravel())

    def unseen(self) -> Floats:
        """The part of the start that no input sees, which changes nothing (params,)."""
        return self.start - self.expand(self.own)

    def sides(self, found: Minimisers) -> Sides:
        """The hidden kinks' sides along the minimisers."""
        piecewise, pattern = self.block.piecewise, self.cell.pattern
        turned = self.cell.sides(None)[self.moving] / self.lengths
        offsets = turned * self.cell.forward(np.zeros(self.block.size)).values[self.moving]

        def depths(v: Floats) -> Floats:
            theta = self.expand(found.point + found.free @ v)
            values = piecewise.frozen(pattern, theta, linear=True)[0]
            return np.asarray(turned * values[self.moving] + offsets)

        def rows(chosen: Indices) -> Floats:
            kinks = self.moving[chosen]
            units = piecewise.pull_back(kinks, pattern) * turned[chosen, None]
            scores = self.scores[piecewise.sample_of(kinks)]
            normals = (units[:, :, None] * scores[:, None, :]).reshape(len(kinks), len(found.point))
            return np.asarray(normals @ found.free)

        return Sides(depths, rows)


def block_minimum(block: Block, start: Floats, progress: Progress | None) -> CellMinimum:
    """`cell_minimum` of a block; open where the progress raises `Stop`."""
    frozen = Frozen.of(block, start)
    found = _minimisers(frozen)
    if found.falling is not None:
        proof = _falling_proof(frozen, found.falling)
        return _result(frozen, found, None, proof, Left(0.0, np.inf))
    sources = [frozen.sides(found)] + ([] if found.closed is None else [found.closed])
    cap = max(float(np.linalg.norm(found.point)), float(np.linalg.norm(frozen.own))) or 1.0
    try:
        deep = deepest(sources, found.free.shape[1], cap, Watch(progress))
    except Stop:
        return _result(frozen, found, None, None, Left(np.nan, np.nan))
    if deep.depth > SHALLOW * cap:
        theta = frozen.expand(found.point + found.free @ deep.point) + frozen.unseen()
        theta = _settled(frozen, found.dual, theta)
        left = Left(block_distance(block, theta, frozen.cell), np.inf)
        return _result(frozen, found, theta, None, left)
    proof = _proof(frozen, found, deep)
    return _result(frozen, found, None, proof, depth_left(proof, frozen.cell))


def _minimisers(frozen: Frozen) -> Minimisers:
    """All minimisers of the frozen loss."""
    landscape, matrix = frozen.block.landscape, frozen.derivatives
    targets = frozen.block.piecewise.targets
    if landscape.loss_name == "cross_entropy":
        return cross_entropy(matrix, frozen.constants, targets)
    wanted = (np.asarray(targets, dtype=np.float64) - frozen.constants).ravel()
    return absolute(matrix, wanted) if landscape.loss_name == "l1" else squared(matrix, wanted)


def settled(block: Block, theta: Floats) -> Floats | None:
    """A minimiser of the squared loss, settled on the cell it is in; None for very large blocks."""
    piecewise = block.piecewise
    if piecewise.num_samples * block.landscape.num_outputs * block.size > SMALL:
        return None
    return _settled(Frozen.of(block, theta), np.empty(0), theta)


def _settled(frozen: Frozen, dual: Floats, theta: Floats) -> Floats:
    """A minimiser without what far-out coordinates have lost to rounding."""
    block, matrix = frozen.block, frozen.derivatives
    name, targets = block.landscape.loss_name, block.piecewise.targets
    outputs = block.piecewise.frozen(frozen.cell.pattern, theta)[1]
    if name == "cross_entropy":
        inverse = pseudo_inverse(_curved(matrix, outputs))[0]
        inverse = -(inverse @ inverse.T) @ matrix.T
    else:
        free = np.abs(dual) < 1.0 if name == "l1" else np.ones(len(matrix), dtype=np.bool_)
        inverse = np.zeros(matrix.T.shape)
        inverse[:, free] = pseudo_inverse(matrix[free])[0]
    for _ in range(2):
        outputs = block.piecewise.frozen(frozen.cell.pattern, theta)[1]
        slopes = block.piecewise.loss.slope(outputs, targets)
        rest = slopes if name == "cross_entropy" else targets - outputs
        theta = theta + frozen.expand(inverse @ rest.ravel())
    return theta


def _curved(matrix: Floats, outputs: Floats) -> Floats:
    """M with `M^T M = E^T B E`, B the curvature of the cross-entropy at some outputs."""
    shares = softmax(outputs, axis=1)[:, :, None]
    stack = matrix.reshape(*outputs.shape, -1)
    centred = stack - (shares * stack).sum(axis=1, keepdims=True)
    return np.asarray((np.sqrt(shares / len(outputs)) * centred).reshape(matrix.shape))


def _proof(frozen: Frozen, found: Minimisers, deep: Deepest) -> Infeasibility:
    """The program's weights with the outputs and the direction that they stand for."""
    weights = deep.weights[0] / frozen.lengths
    chosen = np.flatnonzero(weights)
    kinks = frozen.moving[chosen]
    units = frozen.block.piecewise.pull_back(kinks, frozen.cell.pattern)
    units *= (weights * frozen.cell.sides(None)[frozen.moving])[chosen, None]
    scores = frozen.scores[frozen.block.piecewise.sample_of(kinks)]
    pull = np.einsum("ku,kr->ur", units, scores).ravel()
    amounts = weights[chosen]
    matrix, name = frozen.derivatives, frozen.block.landscape.loss_name
    point, direction = frozen.expand(found.point), np.zeros(len(found.point))
    if name == "l1":
        outputs, share = _below(matrix, found, pull, deep)
        amounts = share * amounts
    elif name == "cross_entropy":
        outputs, direction = _newton_step(frozen, point, pull)
    else:
        inverse, point = pseudo_inverse(matrix)[0], np.empty(0)
        outputs = inverse.T @ pull
        direction = inverse @ outputs
    return Infeasibility(
        signs=np.empty((1, 0), dtype=np.int8),
        outputs=outputs[None],
        directions=frozen.expand(direction)[None],
        part=np.zeros(len(kinks), dtype=np.int64),
        kink=kinks,
        weight=amounts,
        point=point,
    )


def _newton_step(frozen: Frozen, point: Floats, pull: Floats) -> tuple[Floats, Floats]:
    """L = B E w with `E^T l` the pull, and w; B is the cross-entropy's curvature at the point."""
    matrix, loss = frozen.derivatives, CrossEntropyLoss()
    outputs = frozen.block.piecewise.frozen(frozen.cell.pattern, point)[1]
    inverse = pseudo_inverse(_curved(matrix, outputs))[0]
    curvature, direction = loss.curvature(outputs), np.zeros(matrix.shape[1])

    def bent(q: Floats) -> Floats:
        moved = (matrix @ q).reshape(outputs.shape)
        return np.asarray(np.matmul(curvature, moved[:, :, None]).ravel())

    for _ in range(3):  # twice for what rounding has left
        rest = pull - matrix.T @ bent(direction)
        direction = direction + inverse @ (inverse.T @ rest)
    rows = bent(direction).reshape(outputs.shape)
    return (rows - rows.mean(axis=1, keepdims=True)).ravel(), direction


def _below(matrix: Floats, found: Minimisers, pull: Floats, deep: Deepest) -> tuple[Floats, float]:
    """L with |l| <= 1 and `E^T l` the pull times a share of it: the dual moved towards the kinks."""
    tight = np.abs(found.dual) < 1.0 - BOUND
    signs, sizes = np.sign(found.dual[~tight]), np.linalg.norm(matrix[~tight], axis=1)
    sizes[sizes == 0] = 1.0
    moved = np.zeros(len(found.dual))
    moved[~tight] = -signs * deep.weights[1] / sizes
    rest = pull - matrix[~tight].T @ moved[~tight]
    moved[tight] = pseudo_inverse(matrix[tight])[0].T @ rest
    dual = np.where(tight, found.dual, np.sign(found.dual))
    room = np.where(tight, 1.0 - np.abs(dual), 1.0)
    sizes = np.abs(moved)
    share = 0.5 * float((room[sizes > 0] / sizes[sizes > 0]).min(initial=1.0))
    return np.clip(dual + share * moved, -1.0, 1.0), share


def _falling_proof(frozen: Frozen, direction: Floats) -> Infeasibility:
    """The direction along which the cross-entropy falls forever."""
    none = np.empty(0, dtype=np.int64)
    return Infeasibility(
        signs=np.empty((1, 0), dtype=np.int8),
        outputs=(frozen.derivatives @ direction)[None],
        directions=frozen.expand(direction)[None],
        part=none,
        kink=none,
        weight=np.empty(0),
    )


def _result(
    frozen: Frozen,
    found: Minimisers,
    theta: Floats | None,
    proof: Infeasibility | None,
    left: Left,
) -> CellMinimum:
    """The answer, with what can be said of the loss."""
    block = frozen.block
    at = frozen.expand(found.point) if theta is None else theta
    loss = block.piecewise.loss.value(
        block.piecewise.frozen(frozen.cell.pattern, at)[1], block.piecewise.targets
    )
    loss = float("nan") if found.falling is not None else loss
    least = block.landscape.loss_name != "cross_entropy" and loss <= FIT * (
        1.0 + block.loss(0 * at)
    )
    least = least or not len(frozen.moving)  # the loss is convex in the layer
    return CellMinimum(
        genuine=True if theta is not None else False if left.nothing else None,
        kind=_kind(frozen, found),
        loss=loss,
        bad=False if least or (theta is None and left.nothing) else None,
        theta=theta,
        signs=None,
        method="sign check"
        if found.falling is None and not found.free.shape[1]
        else "linear program",
        infeasibility=proof,
        margin=left.depth,
        reach=left.reach,
        convention="block",
        layer=block.layer,
        objective=block.landscape.loss_name,
        start=frozen.start,
        active=zero_kinks(block, frozen.start, frozen.cell, 1.0)[0],
        dual=found.dual if len(found.dual) else None,
    )


def _kind(frozen: Frozen, found: Minimisers) -> Kind:
    """What the minimisers are; those of the L1 loss may be one where sides leave them no room."""
    if not frozen.derivatives.any():
        return "plateau"
    whole = frozen.derivatives.shape[1] == frozen.block.size
    return "unique" if whole and not found.free.shape[1] else "continuous"
