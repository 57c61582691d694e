"""The steps of a survey: each measures one thing and returns it by its names in the record."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from reluscape.block import Block
from reluscape.certificate import Certificate
from reluscape.convex import Convexity, convexity
from reluscape.errors import AnalysisError, InputError
from reluscape.landscape import Landscape
from reluscape.network import Affine, Reading, Rectifier, read_network
from reluscape.proof import certify
from reluscape.train import Training

if TYPE_CHECKING:
    from reluscape.descent import Descent
    from reluscape.minima.result import CellMinimum
    from reluscape.minima_files import Question

Bools = NDArray[np.bool_]
Found = dict[str, Any]

#: Facets are counted up to this many kinks times parameters: a few seconds on one core. The first
#: number is for blocks whose units separate (one hidden layer from the block on), the second for
#: all others, whose linear programs hold all parameters at once. Measured, not derived.
MAX_FACET_WORK = (1_000_000, 50_000)
#: The largest ball is one linear program with all kinks; likewise measured.
MAX_BALL_WORK = 500_000
NUM_DIRECTIONS = 200
NUM_RAYS = 400

#: Pivots of exact descent that a short survey takes: so many that they cost this much work, some
#: seconds a layer, and no more than that.
DESCENT_WORK = 6e8
MAX_PIVOTS = 5000
#: Largest layer that it descends: the edges of a vertex fill the square of this.
MAX_DESCENT_SIZE = 3000

#: A cell's minimum is looked for where it takes about this many multiplications: some seconds. Linear
#: programs of the losses and over the coordinates that the outputs leave open cost several times as
#: much, and those over all units of a whole network very much more. Measured, not derived.
MAX_MINIMUM_WORK = 3e9
MINIMUM_COST = {"squared": 1, "half_squared": 1, "cross_entropy": 5, "l1": 10}
OPEN_COST = 5
UNITS_COST = 1000

#: The smallest eigenvalue of the Hessian is looked for up to this many samples times parameters: some
#: seconds. The whole Hessian is formed up to the second number of parameters. Measured, not derived.
MAX_CURVATURE_WORK = 5e7
MAX_CURVATURE_DENSE = 500

#: What is noted of a certificate that was asked for in rational arithmetic and is too large for it.
TOO_LARGE = "too large for rational arithmetic: certified in float64"


def asked_layer(layer: int | str, names: Sequence[str]) -> int | str:
    """Return `layer` as `Landscape.block` takes it: a text that names none may be an index."""
    if isinstance(layer, str) and layer not in names and re.fullmatch(r"[+-]?[0-9]{1,9}", layer):
        return int(layer)
    return layer


def certified(point: Block | Landscape, arithmetic: str) -> tuple[Certificate, tuple[str, ...]]:
    """Certify a point, in float64 where it is too large for rational arithmetic, with a note."""
    try:
        return certify(point, arithmetic=arithmetic), ()
    except InputError:
        if arithmetic == "float64":
            raise
        return certify(point), (TOO_LARGE,)


def _switches(reading: Reading) -> list[tuple[str, Bools]]:
    """The affine layer before each rectifier, and (samples, units) signs of its inputs.

    A rectifier that directly follows another switches with it and is left out.
    """
    found: list[tuple[str, Bools]] = []
    values, name, rectified = reading.features, "", False
    for layer in reading.network.layers:
        if isinstance(layer, Rectifier) and not rectified:
            found.append((name, values > 0))
        name = layer.name if isinstance(layer, Affine) else name
        rectified = isinstance(layer, Rectifier)
        values = layer(values)
    return found


def unit_activity(reading: Reading) -> dict[str, np.ndarray]:
    """(units,) share of samples on which each hidden unit is active, by the layer before it."""
    return {name: signs.mean(axis=0) for name, signs in reversed(_switches(reading))}


def flips(landscape: Landscape, training: Training) -> Found:
    """Switching signs that changed in each of the last training steps, and their number in all."""
    inputs = torch.as_tensor(landscape.inputs)
    before: Bools | None = None
    changed, size = [], 0
    for theta in training.thetas:
        switches = _switches(read_network(landscape.module_at(theta), inputs))
        signs = np.concatenate([np.zeros(0, np.bool_), *(part.ravel() for _, part in switches)])
        if before is not None:
            changed.append(int((signs != before).sum()))
        before, size = signs, signs.size
    return {"flips": np.array(changed, dtype=np.int64), "num_switches": size}


def at_point(block: Block) -> Found:
    """Sizes, gradient, kinks that are zero, and the nearest kink."""
    distance, kink = block.cell().nearest_kink(block.theta)
    return {
        "num_params": block.size,
        "num_kinks": block.num_kinks,
        "gradient_norm": float(np.linalg.norm(block.gradient())),
        "num_active_kinks": int((block.kinks() == 0).sum()),
        "nearest_distance": distance,
        "nearest_kink": block.describe_kink(kink) if kink >= 0 else "",
    }


def chords(block: Block, seed: tuple[int, ...]) -> Found:
    """Chords of the cell along random lines through the point."""
    directions = np.random.default_rng(seed).normal(size=(NUM_DIRECTIONS, block.size))
    chord = block.cell().chord(block.theta, directions)
    return {"chord_lengths": chord.length, "chord_angles": chord.angle}


def facets(block: Block, seed: tuple[int, ...]) -> Found:
    """The number of facets, or how many random rays find where counting would take long."""
    cell = block.cell()
    limit = MAX_FACET_WORK[0 if len(block.kink_groups) == 1 else 1]
    if block.num_kinks * block.size <= limit:
        try:
            return {"num_facets": len(cell.facets().kinks), "all_facets": True}
        except InputError as error:
            raise AnalysisError(str(error)) from error
    ray_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    return {"num_facets": cell.num_facets_seen(block.theta, NUM_RAYS, seed=ray_seed)}


def radius(block: Block) -> Found:
    """The radius of the largest ball in the cell, where finding it is quick."""
    if block.num_kinks == 0:
        return {"radius": np.inf}
    if block.num_kinks * block.size > MAX_BALL_WORK:
        return {}
    try:
        return {"radius": block.cell().chebyshev_ball()[1]}
    except InputError as error:
        raise AnalysisError(str(error)) from error


def minimum_work(question: Question) -> float:
    """Multiplications that finding the minimum of a cell takes, very roughly."""
    whole = question.layer is None
    block = (
        question.subject.block(0) if isinstance(question.subject, Landscape) else question.subject
    )
    inputs = block.size // block.piecewise.width
    columns = block.piecewise.width * min(block.num_samples, inputs)
    rows = block.num_samples * block.landscape.num_outputs
    solved = MINIMUM_COST[block.landscape.loss_name] * rows * columns**2
    open_columns = max(0, columns - rows)
    if not whole:
        return float(solved + OPEN_COST * block.num_kinks * open_columns**2)
    closed = block.num_samples <= inputs
    return float(solved * (UNITS_COST if open_columns and not closed else 1))


def minimum(question: Question, seed: int) -> CellMinimum | None:
    """Whether the cell holds a genuine minimum; None if it takes more than a short survey allows."""
    if minimum_work(question) > MAX_MINIMUM_WORK:
        return None
    from reluscape.minima_files import SEARCH

    return question.answer(SEARCH, seed)


def curvature(landscape: Landscape, seed: int) -> Convexity | None:
    """How convex the loss is; None if it takes more than a short survey allows."""
    if landscape.num_samples * landscape.size > MAX_CURVATURE_WORK:
        return None
    return convexity(landscape, seed=seed, max_dense=MAX_CURVATURE_DENSE)


def pivots_for(block: Block) -> int:
    """Pivots of exact descent that a short survey takes; 0 for a layer that is too large."""
    if block.size > MAX_DESCENT_SIZE:
        return 0
    work = block.num_kinks * block.piecewise.width + block.num_samples * block.size + block.size**2
    return max(1, min(MAX_PIVOTS, int(DESCENT_WORK / work)))


def lowered(block: Block, seed: int, progress: Callable[[str, float], None]) -> Descent | None:
    """Exact descent of one layer alone, as far as a short survey goes; None if it is too large."""
    from reluscape.descent import descend  # its kernel's compiler takes a second to import

    pivots = pivots_for(block)
    return descend(block, max_pivots=pivots, seed=seed, progress=progress) if pivots else None
