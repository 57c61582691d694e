"""The merge tree of a surveyed layer, on as many random samples as a short survey has time for."""

from __future__ import annotations

from math import comb

import numpy as np
from numpy.typing import NDArray

from reluscape.block import Block
from reluscape.errors import AnalysisError, InputError
from reluscape.progress import Progress
from reluscape.report.grown import TreeSurvey
from reluscape.tree_files import drawn, standing
from reluscape.trees.layer import Layer
from reluscape.trees.result import MergeTree
from reluscape.trees.units import Units

__all__ = ["FEWEST", "NO_LAYER", "grown", "most_samples", "unit_cells"]

Floats = NDArray[np.float64]

#: Cells of a layer and rays of its units' cells that a short survey goes through: some seconds. Least
#: absolute deviations take about four times as long as least squares, and rational arithmetic a hundred
#: times or more. Measured, not derived.
MAX_CELLS = 200_000
MAX_CELLS_L1 = 50_000
MAX_CELLS_EXACT = 5_000
MAX_RAYS = 2_000

#: What is noted of a model where the layer is missing.
NO_LAYER = (
    "merge tree: the readable layer before the output, if there is one, is not among those surveyed"
)

#: What is noted of a tree that was asked for in rational arithmetic and is too large for it.
TOO_LARGE = "merge tree: too large for rational arithmetic in a short survey: certified in float64"

#: Samples below which a tree says too little about a layer, unless there are no more.
FEWEST = 5


def grown(
    block: Block, seed: int, file: str, arithmetic: str, progress: Progress
) -> tuple[TreeSurvey, MergeTree, tuple[str, ...]]:
    """The tree of a layer on the most random samples that a short survey has time for.

    Args:
        block: The layer, on all samples.
        seed: Of the samples.
        file: Where the tree will be written.
        arithmetic: As of `merge_tree`; "float64" is taken where too few samples fit the other.
        progress: As of `merge_tree`.

    Returns:
        What the survey says of the tree, the tree, and remarks.

    Raises:
        AnalysisError: Fewer than `FEWEST` samples fit, or weight decay.
        UnsupportedModelError: As `merge_tree`.
    """
    from reluscape.trees.tree import merge_tree  # its kernels' compiler takes a second to import

    try:
        layer = Layer.of(block)
        limit = MAX_CELLS_L1 if layer.is_l1 else MAX_CELLS
        fewest, remarks = min(FEWEST, block.num_samples), list[str]()
        count = most_samples(layer, MAX_CELLS_EXACT, seed) if arithmetic == "rational" else 0
        if count < fewest:
            remarks += [TOO_LARGE] if arithmetic == "rational" else []
            arithmetic, count = "float64", most_samples(layer, limit, seed)
        if count < fewest:
            raise AnalysisError(_too_large(layer, limit, seed))
        samples = drawn(block.num_samples, count, seed)
        own = block.landscape.of_samples(samples).block(block.layer)
        tree = merge_tree(own, arithmetic=arithmetic, progress=progress)
    except InputError as error:
        raise AnalysisError(str(error)) from error
    return TreeSurvey.of(tree, samples, file, standing(tree, own)), tree, tuple(remarks)


def most_samples(layer: Layer, limit: int, seed: int) -> int:
    """Random samples up to which a layer has at most so many cells, counted in general position.

    That is exact but where more hyperplanes meet than have to, as on a grid: there cells are fewer.
    """
    units, whole = len(Units.of(layer.weights).order), len(layer.features)

    def fits(count: int) -> bool:
        features = layer.features[drawn(whole, count, seed)]
        cells, rays = unit_cells(features)
        return rays <= MAX_RAYS and cells**units <= limit

    if fits(whole):
        return whole
    fitting, above = 0, whole
    while above - fitting > 1:
        middle = (fitting + above) // 2
        fitting, above = (middle, above) if fits(middle) else (fitting, middle)
    return fitting


def unit_cells(features: Floats) -> tuple[int, int]:
    """Cells of one unit, and rays of these, if its hyperplanes are in general position.

    Of m hyperplanes through zero in r dimensions, `2 sum_{i < r} C(m - 1, i)` and `2 C(m, r - 1)`.
    """
    planes = len(np.unique(features[features.any(axis=1)], axis=0))
    if not planes:
        return 1, 0
    rank = int(np.linalg.matrix_rank(features))
    return 2 * sum(comb(planes - 1, i) for i in range(rank)), 2 * comb(planes, rank - 1)


def _too_large(layer: Layer, limit: int, seed: int) -> str:
    """Why there is no tree, and what there may be."""
    from reluscape.trees.tree import MAX_CELLS as MOST

    units = len(Units.of(layer.weights).order)
    cells, _ = unit_cells(layer.features[drawn(len(layer.features), FEWEST, seed)])
    most = most_samples(layer, MOST, seed)
    other = (
        f"the most that `reluscape tree` goes through unless told otherwise is --samples {most}"
        if most
        else "not even one sample has few enough for `reluscape tree`"
    )
    return (
        f"{FEWEST} samples make up to {cells:,} cells of each of {units:,} units, together more than the"
        f" {limit:,} of a short survey; {other}"
    )
