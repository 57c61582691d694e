"""What a survey says of the merge tree of a layer; `report.branches` draws it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from reluscape.report.fields import a_number, a_series, no_values
from reluscape.trees.layer import Layer
from reluscape.trees.tiers import tier_of

if TYPE_CHECKING:
    from reluscape.trees.result import MergeTree
__all__ = ["TreeSurvey"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class TreeSurvey:
    """The minima of a layer on some of the samples; the tree with its proofs is the file named here.

    Its fields have the names that they have in `MergeTree`.

    Attributes:
        block: Name of the layer.
        loss: Name of the loss.
        bias: Whether the layer has biases.
        arithmetic: "float64", or "rational" for an exact tree.
        file: Where the tree is, relative to the report; empty if it was not written.
        where: Which basin the model's own weights lie in, in words.
        samples: Numbers of the samples that it is of (samples,).
        losses, births: Losses of the minima, ascending (minima,).
        deaths: Levels at which their basins join a lower one's; infinite for the global one (minima,).
        parents: Minima whose basins they join; -1 for the global one (minima,).
        multiplicity: Minima that differ from each by an exchange of units (minima,).
        minima: The layer's parameters (minima, params).
        num_cells: Cells of the layer.
        num_facets: Facets between them.
        num_solved: Least losses that were found; the others are the same by an exchange of units.
        num_failed: Least losses that are not proved.
        tolerance: Persistence that is not counted, over the loss of a layer that puts out zero.
        features, weights, residual, theta, slope: The layer, as in `Layer`.
    """

    block: str
    loss: str
    bias: bool
    arithmetic: str = "float64"
    file: str = ""
    where: str = ""
    samples: NDArray[np.int64] = field(
        default_factory=no_values, metadata=a_series("sample", "number of the sample")
    )
    losses: Floats = field(
        default_factory=no_values, metadata=a_series("minimum", "loss of the minimum", "loss")
    )
    births: Floats = field(
        default_factory=no_values, metadata=a_series("minimum", "level where it begins", "loss")
    )
    deaths: Floats = field(
        default_factory=no_values,
        metadata=a_series("minimum", "level where its basin joins a lower one's", "loss"),
    )
    parents: NDArray[np.int64] = field(
        default_factory=no_values, metadata=a_series("minimum", "minimum whose basin it joins")
    )
    multiplicity: NDArray[np.int64] = field(
        default_factory=no_values, metadata=a_series("minimum", "exchanges of units")
    )
    minima: Floats = field(
        default_factory=no_values,
        metadata=a_series(("minimum", "parameter"), "the layer's parameters", "parameter"),
    )
    num_cells: int = a_number("cells of the layer")
    num_facets: int = a_number("facets between the cells")
    num_solved: int = a_number("least losses that were found")
    num_failed: int = a_number("least losses that are not proved")
    tolerance: float = a_number("persistence that is not counted, over the loss of zero weights")
    features: Floats = field(
        default_factory=no_values,
        metadata=a_series(("sample", "feature"), "inputs of the layer, ones for a bias"),
    )
    weights: Floats = field(
        default_factory=no_values, metadata=a_series(("output", "unit"), "output weights")
    )
    residual: Floats = field(
        default_factory=no_values,
        metadata=a_series(("sample", "output"), "targets without the output's bias"),
    )
    theta: Floats = field(
        default_factory=no_values,
        metadata=a_series("parameter", "the layer's own parameters", "parameter"),
    )
    slope: float = a_number("slope of the rectifier on its negative side")
    #: A survey goes through all cells.
    below: ClassVar[float] = math.inf
    num_pruned: ClassVar[int] = 0

    @classmethod
    def of(cls, tree: MergeTree, samples: NDArray[np.int64], file: str, where: str) -> TreeSurvey:
        """The record of a tree of these samples, and the file that it is in."""
        both = {one.name for one in fields(cls)} & {one.name for one in fields(tree)}
        told = {name: getattr(tree, name) for name in both}
        return cls(**told, samples=samples, file=file, where=where)

    @property
    def tier(self) -> str:
        """As of `MergeTree`."""
        return tier_of(self.arithmetic, self.num_failed)

    @property
    def layer(self) -> Layer:
        """The layer whose tree it is."""
        return Layer(**{part.name: getattr(self, part.name) for part in fields(Layer)})
