"""What an answer tells beside its verdict, recomputed: active kinks, kind, loss of the minimisers.

Kinds, and losses without a minimum inside, follow from singular values of E. Where these take long they
are not computed: such a kind, and a squared loss of a cell without a minimum, are told and not proved.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reluscape.block import Block
from reluscape.check_block import require
from reluscape.minima.depth import is_least
from reluscape.minima.frozen_cell import FrozenCell
from reluscape.minima.result import METHODS, CellMinimum
from reluscape.singular import svd
from reluscape.tolerances import TOLERANCES

Floats = NDArray[np.float64]

#: Multiplications up to which E is decomposed: a tenth of a second.
CHEAP = 1e8
#: Shares of E's largest singular value above which another is not rounding, and below which it is.
SURELY, HARDLY = 1e-8, 1e-13
#: Relative difference of losses that is rounding.
SAME = 1e-9


def check_told(found: CellMinimum, start: Block, cell: FrozenCell) -> None:
    """Reject an answer whose lesser fields are not those of its cell.

    Args:
        found: The answer.
        start: The block at the point that was asked about.
        cell: Its cell; that of a whole landscape with all output weights one.
    """
    require(found.method in METHODS, f"unknown method {found.method!r}")
    require(not found.reason, "it says why it is open, and is not")
    require(found.genuine or found.theta is None, "it has weights for a minimum that is none")
    require(not found.genuine or found.infeasibility is None, "it has a proof against itself")
    signed = bool(found.genuine and found.layer is None)
    require((found.signs is not None) == signed, "its signs are those of nothing")
    everywhere = np.isinf(found.reach) or (not found.genuine and found.layer is not None)
    require(everywhere, "it is about all minimisers")
    absolute = found.objective == "l1"
    require((found.dual is not None) == absolute, "its dual solution is that of another loss")
    require(found.layer is None or found.convention == "block", "its convention is none of a block")
    few, many = zero_kinks(start, start.theta, cell, 0.5, 2.0)
    require(few <= found.active <= many, f"{many} kinks are zero at its point")
    _check_kind(found, cell)
    if not found.genuine:
        _check_loss(found, cell)


def zero_kinks(block: Block, theta: Floats, cell: FrozenCell, *factors: float) -> list[int]:
    """Numbers of kinks that move on a point's cell and are zero there, up to so much of rounding."""
    values = np.abs(block.kinks(theta)[: cell.hidden])
    bounds = block.piecewise.rounding_bounds(theta, TOLERANCES.rounding)[0][: cell.hidden]
    moving = cell.lengths(np.arange(cell.hidden)) > 0
    return [int((values <= factor * bounds)[moving].sum()) for factor in factors]


def _check_kind(found: CellMinimum, cell: FrozenCell) -> None:
    """A unique minimiser needs independent columns of E, and independent columns make it unique."""
    require(found.kind in ("unique", "continuous", "plateau"), f"unknown kind {found.kind!r}")
    if np.isnan(found.loss):
        return  # of minimisers that are not there
    size, rows = cell.piecewise.num_params, cell.piecewise.num_samples * cell.num_outputs
    require(
        (found.kind == "plateau") == (cell.norm == 0.0), "it is a plateau or none, not as it says"
    )
    if rows < size:
        require(found.kind != "unique", "there are fewer outputs than parameters")
    if rows < size or not _is_cheap(cell):
        return
    matrix = cell.derivatives()
    if found.objective == "cross_entropy":
        stack = matrix.reshape(cell.piecewise.num_samples, -1, size)
        matrix = (stack - stack.mean(axis=1, keepdims=True)).reshape(matrix.shape)
    elif found.dual is not None:
        matrix = matrix[np.abs(found.dual) < 1.0]
    matrix = np.asarray(np.linalg.qr(matrix, mode="r"))
    if found.kind == "unique":
        require(_rank(_even(matrix), HARDLY) == size, "its minimisers are more than one")
    elif found.kind == "continuous":
        require(_rank(matrix, SURELY) < size, "its minimiser is unique")


def loss_size(block: Block) -> float:
    """The loss at zero parameters, of which a share of `SAME` is rounding; one where that is zero."""
    return block.loss(np.zeros(block.size)) or 1.0


def _check_loss(found: CellMinimum, cell: FrozenCell) -> None:
    """The loss of minimisers that are outside the cell; NaN where a proof shows that there are none."""
    proof = found.infeasibility
    assert proof is not None
    loss, targets = cell.piecewise.loss, cell.piecewise.targets
    falls = found.objective == "cross_entropy" and not len(proof.kink)
    require(
        np.isnan(found.loss) == falls, "it has a loss where there is none, or none where there is"
    )
    if falls:
        return
    if len(proof.point):
        there = cell.forward(proof.point)
        least = most = loss.value(there.outputs, targets)
        if found.dual is not None:
            why = is_least(found.dual, proof.point, cell)
            require(not why, why)
    elif _is_cheap(cell):
        least, most = _squares(cell)
    else:
        return
    at_zero = loss.value(cell.forward(np.zeros(cell.piecewise.num_params)).outputs, targets)
    close = least - SAME * at_zero <= found.loss <= most + SAME * at_zero
    require(close, f"the minimisers' loss is {most:.6g}")


def _is_cheap(cell: FrozenCell) -> bool:
    """Whether E is decomposed in no time."""
    rows, size = cell.piecewise.num_samples * cell.num_outputs, cell.piecewise.num_params
    return rows * size * min(rows, size) <= CHEAP


def _squares(cell: FrozenCell) -> tuple[float, float]:
    """The least squared loss, by all directions that may have an effect and by those that surely do."""
    loss, outputs = cell.piecewise.loss, cell.forward(np.zeros(cell.piecewise.num_params)).outputs
    wanted = np.asarray(cell.piecewise.targets, dtype=np.float64) - outputs
    # lengths of E q - y are those of the triangle's columns
    columns = np.hstack([cell.derivatives(), wanted.reshape(-1, 1)])
    triangle = np.asarray(np.linalg.qr(columns, mode="r"))
    matrix, last = triangle[:, :-1], triangle[:, -1]
    found = []
    for columns, share in ((_even(matrix), HARDLY), (matrix, SURELY)):
        left, values, _ = svd(columns)
        left = left[:, values > share * values.max(initial=0.0)]
        rest = np.zeros(wanted.size)
        rest[: len(last)] = last - left @ (left.T @ last)
        found.append(loss.value(rest.reshape(wanted.shape), np.zeros_like(wanted)))
    return found[0], found[1]


def _rank(matrix: Floats, share: float) -> int:
    """Number of singular values above a share of the largest."""
    values = np.linalg.svd(matrix, compute_uv=False) if len(matrix) else np.zeros(0)
    return int((values > share * values.max(initial=0.0)).sum())


def _even(matrix: Floats) -> Floats:
    """The columns at length one."""
    lengths = np.linalg.norm(matrix, axis=0)
    return matrix / np.where(lengths > 0, lengths, 1.0)
