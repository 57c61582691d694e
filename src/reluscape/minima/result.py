"""What `cell_minimum` returns: whether a cell holds a genuine minimum, and what shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from reluscape.results import Result

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Kind = Literal["unique", "continuous", "plateau"]
Signs = Literal["free", "given", "uniform"]

SIGNS: tuple[Signs, ...] = ("free", "given", "uniform")


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Infeasibility(Result):
    """Why no minimiser of the cell's loss lies inside the cell: one Farkas vector for each sign choice.

    Every minimiser solves `E^T (E q - y) = 0`, where E holds the outputs' derivatives by the parameters
    with the pattern frozen, and lies inside the cell if `g_k . q > -o_k` for the cell's constraints. A
    part of the sign choices is ruled out by weights mu_k >= 0, not all zero, a vector l over the outputs
    and a direction w with

        sum_k mu_k g_k = E^T l,   l = E w,   l . y + sum_k mu_k o_k <= 0,

    because `sum_k mu_k (g_k . q + o_k)` is positive inside the cell, and equal to the last line's left
    side at every minimiser.

    Attributes:
        signs: Signs of the output weights that each part is about, 0 where both are (parts, units);
            no columns for a block.
        outputs: l, shape (parts, samples * outputs).
        directions: w, shape (parts, params), in the parameters' order of the block.
        part: Part of each positive mu_k, shape (entries,).
        kink: Kink (sample-major) that it belongs to (entries,).
        weight: mu_k (entries,).
    """

    signs: NDArray[np.int8]
    outputs: Floats
    directions: Floats
    part: Indices
    kink: Indices
    weight: Floats

    def plot(self) -> go.Figure:
        """Weights of the first part's kinks, the largest first."""
        first = np.sort(self.weight[self.part == 0])[::-1]
        figure = go.Figure(go.Bar(y=first))
        return figure.update_layout(xaxis_title="kink, by weight", yaxis_title="weight")


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class CellMinimum(Result):
    """Whether the loss attains its minimum over an activation cell inside it.

    Attributes:
        genuine: Whether it does for some allowed signs; None where the search over signs was given up.
        kind: What the minimisers of the cell's loss are, inside the cell or not: "unique", "continuous"
            (an affine space of them) or "plateau" (no unit is active: every point is one).
        loss: Their loss; NaN where a cross-entropy falls forever and has none.
        bad: True where a lower loss is known, attained at `better`; False where none is lower, or the
            cell holds no minimum; None where neither is known.
        theta: A minimiser inside the cell, as the landscape's (or the block's) parameters; or None.
        signs: Signs of its output weights (units,); None without one, and for a block.
        method: "sign check", "closed form", "linear program" or "sign search".
        infeasibility: Why there is none, if there is none.
        margin: With a minimiser, its least distance to a kink, over the length of its unit's weights (a
            block: of theta); without, the largest that a minimiser inside the cell could still have,
            which is rounding.
        convention: Which signs were allowed: "free", "given" or "uniform"; "block" for a block.
        layer: The block's layer; None for a landscape.
        start: The point whose cell it is.
        active: Number of kinks that are zero at `start`; they count as negative.
        better: Parameters of lower loss where `bad`, else None.
        better_loss: Their loss; NaN without.
        dual: For a block's L1 loss, l with `E^T l = 0` and `|l| <= 1`: no loss of the frozen network is
            below `-l . y / samples`.
    """

    genuine: bool | None
    kind: Kind
    loss: float
    bad: bool | None
    theta: Floats | None
    signs: NDArray[np.int8] | None
    method: str
    infeasibility: Infeasibility | None
    margin: float
    convention: str
    layer: str | None
    start: Floats
    active: int = 0
    better: Floats | None = None
    better_loss: float = float("nan")
    dual: Floats | None = None
