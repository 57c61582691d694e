"""What `descend` returns."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from reluscape.certificate import Certificate, fields_from_json, to_json
from reluscape.descent.density import NUM_DIRECTIONS, SHARES, Density, places_of, ways_from
from reluscape.descent.forecast import Forecast, forecast_at
from reluscape.results import Result

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from reluscape.block import Block
    from reluscape.descent.phases import Phases
    from reluscape.network_output import NetworkOutput

Floats = NDArray[np.float64]


class Status(StrEnum):
    """How a descent ended."""

    strict_minimum = "strict_minimum"
    minimum = "minimum"
    perfect_fit = "perfect_fit"
    plateau = "plateau"
    saddle = "saddle"
    undecided = "undecided"
    unbounded = "unbounded"
    max_pivots = "max_pivots"
    interrupted = "interrupted"
    stalled = "stalled"


#: Cause and remedy of every status.
MEANING = {
    Status.strict_minimum: "a strict local minimum, certified",
    Status.minimum: "a local minimum, certified; some direction is flat: another seed, or a start further"
    " along it, may lead lower (not in a last layer, whose minima are global)",
    Status.perfect_fit: "the loss is zero to rounding, and no loss is lower",
    Status.plateau: "the loss is constant around the point, certified: no weight of this layer matters"
    " here (dead units); start elsewhere",
    Status.saddle: "no single edge falls any more, but the certificate names a direction that does",
    Status.undecided: "no edge falls any more, but neither a minimum nor a way down is proved; the"
    " causes say why; certify in rational arithmetic, or start elsewhere",
    Status.unbounded: "the output falls forever from `theta` along the certificate's direction, in exact"
    " arithmetic: no unit switches any more; give finite bounds",
    Status.max_pivots: "the pivots asked for are used up; go on from where it ended",
    Status.interrupted: "the descent was interrupted; go on from the weights it left",
    Status.stalled: "rebuilding the basis brought no lower loss: ties without end, or digits lost in"
    " rounding; the causes say what was met; standardise the inputs, or start elsewhere",
}


#: Below what the quantities that are lowered cannot fall, as far as is known beforehand.
LEAST = {"loss": 0.0, "output": -np.inf}


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Descent(Result):
    """A path of exact descent and its end.

    Attributes:
        theta: The end, shape (size,).
        loss: Loss there, from a plain forward pass; of a `NetworkOutput` the output, here and below.
        losses: Loss at the start and after every pivot, shape (num_pivots + 1,), to rounding; never
            rises, and none is below `loss`.
        step_lengths: Length of every pivot's step, shape (num_pivots,): for a block in coordinates in
            which its inputs have root mean square one in every direction; for an output in its inputs.
        vertices: Points along the path, every `stride`-th, shape (m, size).
        stride: Pivots between two of them.
        first_vertex: Pivot at which the first vertex was reached (as many active kinks as independent
            directions); -1 if none was.
        num_pivots: Number of pivots.
        status: How it ended (`Status`).
        certificate: What the end is, checkable by `verify`.
        quantity: What was lowered, "loss" or "output".
        causes: Everything degenerate that was met (units that are zero or dead, inputs that are constant
            or equal, samples that occur twice, ties, plateaus, rays), a sentence each, with numbers that
            count from zero; none for an ordinary descent. They explain the status and prove nothing.
    """

    theta: Floats
    loss: float
    losses: Floats
    step_lengths: Floats
    vertices: Floats
    stride: int
    first_vertex: int
    num_pivots: int
    status: str
    certificate: Certificate
    quantity: str = "loss"
    causes: tuple[str, ...] = ()

    def to_dataset(self) -> xr.Dataset:
        """The result as an xarray dataset, the certificate as JSON."""
        text = json.dumps(to_json(self.certificate))
        return Result.to_dataset(replace(self, certificate=cast(Any, text)))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a descent that `save` wrote; raises InputError for any other file."""
        saved = cast(Any, Result.load).__func__(cls, path)
        return cast(
            Self,
            replace(
                saved, certificate=Certificate(**fields_from_json(json.loads(saved.certificate)))
            ),
        )

    def summary(self) -> str:
        """Loss before and after, pivots, the end in words, and its causes."""
        start = float(self.losses[0])
        lower = f"{start - self.loss:.6g}"  # a share of an output says nothing
        if self.quantity == "loss":
            lower = f"{1.0 - self.loss / start if start else 0.0:.1%}"
        return "\n".join([
            f"{self.quantity} {start:.6g} -> {self.loss:.6g} ({lower} lower) in"
            f" {self.num_pivots} pivots, first vertex after {self.first_vertex}",
            f"  {self.status}: {MEANING[Status(self.status)]}",
            *(f"    {cause}" for cause in self.causes),
        ])  # fmt: skip

    def forecast(self, fraction: float) -> Forecast:
        """The final loss as the first `fraction` of the pivots foretells it (`forecast_descent`).

        Args:
            fraction: Share of the pivots that may be looked at, between 0 and 1.

        Returns:
            The forecast from `losses[: ceil(fraction * num_pivots) + 1]` and nothing else; an online
            `Forecaster` fed with these losses says the same.

        Raises:
            InputError: `fraction` is not between 0 and 1.
        """
        return forecast_at(self.losses, fraction, least=LEAST[self.quantity])

    def phases(self) -> Phases:
        """The exponential and the fine-tuning phase, and their rates (`find_phases`)."""
        from reluscape.descent.phases import find_phases

        return find_phases(self.losses, self.step_lengths, self.distances(), self.first_vertex)

    def distances(self) -> Floats:
        """Distance to the end at the start and after every pivot, shape (num_pivots + 1,).

        Between the points that were kept (`stride`) it is interpolated.
        """
        kept = np.linalg.norm(self.vertices - self.theta, axis=1)
        places = self.stride * np.arange(len(kept))
        return np.asarray(np.interp(np.arange(self.num_pivots + 1), places, kept))

    def density(
        self,
        function: Block | NetworkOutput,
        *,
        shares: Sequence[float] = SHARES,
        num_directions: int = NUM_DIRECTIONS,
        seed: int = 0,
    ) -> Density:
        """How far it is from points of the path to the next kink, in random directions.

        Args:
            function: The block or the output that was descended. An output's fixed inputs stay fixed;
                the sides of its box are no kinks.
            shares: Shares of the path, between 0 and 1; the vertex kept next before each is taken.
            num_directions: Random directions at each, the same ones everywhere.
            seed: Of the directions.

        Raises:
            InputError: A function of another size, a share outside 0 to 1, or no direction.
        """
        places = places_of(shares, len(self.vertices))
        ways = ways_from(self.vertices[places], function, num_directions, seed)
        return Density(self.stride * places, ways)

    def plot(self) -> go.Figure:
        """Loss above its end, step lengths, their running mean and the distance to the end."""
        from reluscape.descent.charts import path_figure

        return path_figure(
            self.losses, self.step_lengths, self.distances(), self.phases(), self.quantity
        )
