"""What `cell_minimum` returns: whether a cell holds a genuine minimum, and what shows it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, cast

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import NDArray

from reluscape.results import Result

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Kind = Literal["unique", "continuous", "plateau"]
Signs = Literal["free", "given", "uniform"]

#: How the conventions are told.
WORDS = {
    "free": "output weights of any signs",
    "given": "output weights of the model's signs",
    "uniform": "output weights of one sign",
}
#: What the proof's fields are called in a file.
PROOF = "proof_"

SIGNS: tuple[Signs, ...] = ("free", "given", "uniform")
#: How answers are found.
METHODS = (
    "sign check", "closed form", "nearest minimum", "sign clauses", "linear program", "sign search",
    "signs at once",
)  # fmt: skip


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
        point: For L1 loss and cross-entropy a minimiser (params,), else empty.
        turns: Empty; or, where the proof is one for all signs s, the unit j that each part turns with
            (parts,). The weights of part j, of any signs, are then those for s_j = 1, and as s_j times
            them each kink's sum has the sign of its unit's output weight: `abs(weight)` of a unit's own
            part is at least that of all others together.
    """

    signs: NDArray[np.int8]
    outputs: Floats
    directions: Floats
    part: Indices
    kink: Indices
    weight: Floats
    point: Floats = field(default_factory=lambda: np.empty(0))
    turns: Indices = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def plot(self) -> go.Figure:
        """Weights of the first part's kinks, the largest first."""
        first = np.sort(self.weight[self.part == 0])[::-1]
        figure = go.Figure(go.Bar(y=first))
        return figure.update_layout(xaxis_title="kink, by weight", yaxis_title="weight")


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class CellMinimum(Result):
    """Whether the loss attains its minimum over an activation cell inside it.

    Attributes:
        genuine: Whether it does for some allowed signs; None where that is open, see `reason`. False is
            about minimisers up to `reach`.
        kind: What the minimisers of the cell's loss are, inside the cell or not: "unique", "continuous"
            (an affine space of them) or "plateau" (no unit is active: every point is one).
        loss: Their loss; NaN where a cross-entropy falls forever and has none.
        bad: True where a lower loss is known, attained at `better`; False where none is lower, or the
            cell holds no minimum; None where neither is known, however long a lower one was looked for.
        theta: A minimiser inside the cell, as the landscape's (or the block's) parameters; or None.
        signs: Signs of its output weights (units,); None without one, and for a block.
        method: "sign check" (of what is the same at all minimisers), "closed form", "nearest minimum"
            (to the cell's own weights), "sign clauses" (what the outputs at minimisers ask of the
            signs), "linear program", "sign search" or "signs at once" (one proof for all); told, not
            proved.
        infeasibility: Why there is none, if there is none.
        margin: With a minimiser, its least distance to a kink, over the length of its unit's weights (a
            block: of theta); without, the largest that a minimiser inside the cell could still have,
            which is rounding, over its length (or, if that is longer, over the length that parameters
            need for outputs as large as the targets, or to cross the proof's kinks), in input columns of
            length one.
        reach: Without, how long minimisers this is about, over the length of the proof's known one:
            infinite, all of them, except for an L1 loss that hardly grows where its rounding leaves those
            open that are longer still.
        convention: Which signs were allowed: "free", "given" or "uniform"; "block" for a block.
        layer: The block's layer; None for a landscape.
        objective: The landscape's loss, "squared" and so on.
        start: The point whose cell it is.
        active: Number of kinks that are zero at `start`; they count as negative.
        better: Parameters of lower loss where `bad`, else None; an output bias is the start's.
        better_loss: Their loss; NaN without.
        dual: For a block's L1 loss, l with `E^T l = 0` and `|l| <= 1`: no loss of the frozen network is
            below `-l . y / samples`.
        reason: Why the answer is open; empty where it is not.
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
    objective: str
    start: Floats
    active: int = 0
    better: Floats | None = None
    better_loss: float = float("nan")
    dual: Floats | None = None
    reach: float = float("inf")
    reason: str = ""

    def to_dataset(self) -> xr.Dataset:
        """The result as an xarray dataset, its proof beside it."""
        alone = Result.to_dataset(replace(self, infeasibility=None))
        if self.infeasibility is None:
            return alone
        proof = self.infeasibility.to_dataset()
        names = {name: f"{PROOF}{name}" for name in proof.variables}
        dims = {name: f"{PROOF}{name}" for name in proof.dims}
        return alone.merge(proof.rename(names | dims), combine_attrs="override")

    @classmethod
    def from_dataset(cls, dataset: xr.Dataset) -> Self:
        """The result of a dataset that `to_dataset` made."""
        found = cast(Any, Result.from_dataset).__func__(cls, dataset)
        names = {str(name): str(name)[len(PROOF) :] for name in dataset.variables
                 if str(name).startswith(PROOF)}  # fmt: skip
        if not names:
            return cast(Self, found)
        proof = Infeasibility.from_dataset(dataset[list(names)].rename(names))
        return cast(Self, replace(found, infeasibility=proof))

    def summary(self) -> str:
        """The answer in words, the minimum's loss, and what shows it."""
        return "\n".join([self.sentence(), *self.details()])

    def sentence(self) -> str:
        """The answer in one line."""
        where = "the cell" if self.layer is None else f"the cell of layer {self.layer!r}"
        allowed = "" if self.layer is not None else f" with {WORDS[self.convention]}"
        if self.genuine is None:
            return f"undecided: whether {where} holds a genuine minimum{allowed}"
        if not self.genuine:
            limit = (
                ""
                if np.isinf(self.reach)
                else f" up to {self.reach:.2g} times as far out as a known one"
            )
            return f"{where} holds no genuine minimum{allowed}{limit}"
        told = {True: "bad: a lower loss is known", False: "no loss is lower", None: ""}[self.bad]
        return f"{where} holds a genuine minimum{allowed}{' (' + told + ')' if told else ''}"

    def details(self) -> list[str]:
        """Further lines of the summary."""
        nowhere = bool(np.isnan(self.loss))
        lines = [
            "  the cell's loss falls forever: it has no minimiser"
            if nowhere
            else f"  loss of the cell's minimisers ({self.kind}): {self.loss:.6g}"
        ]
        if self.genuine:
            lines.append(f"  nearest kink: {self.margin:.2g} of the weights' length away")
        if self.bad:
            lines.append(f"  lower loss: {self.better_loss:.6g}")
        if self.genuine is False and not nowhere:
            lines.append(
                f"  none lies inside by more than {self.margin:.1g} of its length (rounding)"
            )
        if self.reason:
            lines.append(f"  undecided because {self.reason}")
        if self.active:
            lines.append(f"  {self.active} kinks are zero at the point and count as negative")
        return [*lines, f"  found by: {self.method}"]

    def plot(self) -> go.Figure:
        """The weights of the proof, or the minimiser beside the point it was asked about."""
        if self.infeasibility is not None:
            return self.infeasibility.plot()
        figure = go.Figure(go.Scatter(y=self.start, mode="markers", name="point"))
        if self.theta is not None:
            figure.add_scatter(y=self.theta, mode="markers", name="minimum")
        return figure.update_layout(xaxis_title="parameter", yaxis_title="value")
