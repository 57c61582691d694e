"""The check of a proof for all signs of the output weights (`at_once.py`), without a solver.

For signs s the parts' outputs and weights, times the s of their units, add up to a Farkas vector: kink k
of unit j has the weight `s_j sum_m s_m nu_mk`, which is at least `nu_jk - sum_{m != j} |nu_mk|`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reluscape.minima.frozen_cell import EPS, FrozenCell
from reluscape.minima.result import Infeasibility

Floats = NDArray[np.float64]


def depth_for_all_signs(proof: Infeasibility, cell: FrozenCell) -> float:
    """How far inside the cell, relative to its length, a minimiser could be for all that is proved.

    The parts' rounding errors and what they leave open add up in the worst way.

    Args:
        proof: Its parts have signs 0, and `turns`.
        cell: In the variables R of a landscape.
    """
    left = _least_weights(proof, cell)
    if left is None:
        return np.inf
    kinks = np.flatnonzero(left)
    lengths = float(left[kinks] @ cell.lengths(kinks))
    sides = cell.sides(None)
    zero = cell.forward(np.zeros(cell.piecewise.num_params))
    targets = np.asarray(cell.piecewise.targets, dtype=np.float64) - zero.outputs
    size = float(np.linalg.norm(targets))
    length = size / cell.norm if size > 0 and cell.norm > 0 else 1.0
    above = 0.0
    for part, (outputs, direction) in enumerate(zip(proof.outputs, proof.directions, strict=True)):
        here = proof.part == part
        rows, kinks = outputs.reshape(targets.shape), proof.kink[here]
        gap, error = cell.gap(kinks, proof.weight[here] * sides[kinks], rows)
        there = cell.forward(direction, linear=True)
        apart = float(np.linalg.norm(rows - there.outputs) + np.linalg.norm(there.output_errors))
        terms = abs(float((rows * targets).sum())) + float(
            (np.abs(rows) * (zero.output_errors + cell.unit * np.abs(targets))).sum()
        )
        above += gap + error + (apart * size + terms) / length
    return above / lengths if lengths > 0 else np.inf


def _least_weights(proof: Infeasibility, cell: FrozenCell) -> Floats | None:
    """What every kink's weight is at least, for any signs; None where that may be negative."""
    units = cell.piecewise.width
    own = np.full(units, -1)
    if proof.turns.shape != (len(proof.outputs),) or len(np.unique(proof.turns)) < len(proof.turns):
        return None
    if not ((proof.turns >= 0) & (proof.turns < units)).all():
        return None
    own[proof.turns] = np.arange(len(proof.turns))
    mine = proof.part == own[proof.kink % units]
    least, others = np.zeros(cell.hidden), np.zeros(cell.hidden)
    np.add.at(least, proof.kink[mine], proof.weight[mine])
    np.add.at(others, proof.kink[~mine], np.abs(proof.weight[~mine]))
    least -= others
    rounding = len(proof.turns) * EPS * others
    return least if (least >= rounding).all() else None
