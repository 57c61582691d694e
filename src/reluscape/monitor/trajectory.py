"""What a monitor recorded along a training run, and what follows from it (Milne, section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reluscape.errors import InputError
from reluscape.results import Result

if TYPE_CHECKING:
    import plotly.graph_objects as go

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Decay(Result):
    """How fast the squared gradient had to fall, and how fast it fell (Milne, Lemma 8).

    Along gradient flow `d/dt |g|^2 = -c(t) |g|^2` with `c = 2 g^T H g / |g|^2`, so on one piece

        |g(t)|^2 <= |g(0)|^2 exp(-C t),  C <= c on [0, t],   and   |g(t)|^2 = |g(0)|^2 exp(-int c).

    A run is no flow: steps are finite, batches change, and at kinks the gradient jumps. So this is a
    comparison with what was recorded between the steps (sampled), not a bound on the run.

    Attributes:
        times: Since the start of the phase, steps times their sizes, shape (records,).
        rates: c as recorded, shape (records,).
        observed: `|g(t)|^2`, shape (records,).
    """

    times: Floats
    rates: Floats
    observed: Floats

    @property
    def bound(self) -> Floats:
        """`|g(0)|^2 exp(-C t)` with C the least c recorded up to t; it grows where C < 0."""
        return self._after(self._owed())

    @property
    def flow(self) -> Floats:
        """`|g(0)|^2 exp(-int c)`, by the trapezium rule."""
        means = 0.5 * (self.rates[1:] + self.rates[:-1])
        return self._after(np.concatenate([[0.0], np.cumsum(means * np.diff(self.times))]))

    @property
    def rate(self) -> float:
        """C over the whole phase; NaN without a second record."""
        if len(self.times) < 2 or self.times[-1] <= 0.0:
            return float("nan")
        return float(self.rates.min())

    @property
    def kept(self) -> float:
        """Share of the records at which the squared gradient is no larger than the bound.

        By logarithms: the bound itself may be too small, or too large, for a float.
        """
        with np.errstate(divide="ignore"):
            fallen = np.log(self.observed[0]) - np.log(self.observed)
        return float((fallen >= self._owed() - ROUNDING).mean())

    def _owed(self) -> Floats:
        """C t."""
        return np.asarray(np.minimum.accumulate(self.rates) * self.times)

    def _after(self, fallen: Floats) -> Floats:
        """The squared gradient after its logarithm has fallen by so much."""
        with np.errstate(over="ignore", under="ignore"):
            return np.asarray(self.observed[0] * np.exp(-fallen))

    def plot(self) -> go.Figure:
        """The three curves on a logarithmic scale."""
        from reluscape.report.charts import Series, trails

        named = (("Lemma 8", self.bound), ("gradient flow", self.flow), ("run", self.observed))
        return trails(
            [Series(name, self.times, y) for name, y in named], "time", "squared gradient"
        )


#: Rounding error of logarithms and exponents, relative error of the gradient, that `Decay.kept` forgives.
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Trajectory(Result):
    """A training run as a monitor saw it; everything here is *sampled*: said of the records alone.

    Attributes:
        steps: Number of the training step of each record, from 0, shape (records,).
        times: Sum of the step sizes before it, NaN where none were told, shape (records,).
        losses: gamma, weight decay included, shape (records,).
        squared_gradients: `|g|^2`, shape (records,).
        curvatures: The normalised second derivative `gamma'' / |g|^2 = 2 g^T H g / |g|^2`; NaN where the
            gradient is zero or not finite, shape (records,).
        crossed: Rectifiers' inputs on the batch whose sign is another than at the record before: so
            many kinks, at least, lie between; NaN where nobody counted, shape (records,).
        in_region: 1 where the weights lie in the paper's region U(lambda, 0), 0 where not, by the norms
            of the layers and the loss (see `reluscape.convexity`); NaN where the monitor has no
            `Landscape`, where norms do not bound its network (`reluscape.convex.why_unbounded` says why),
            and of an L1 loss, shape (records,).
        in_sharp_region: The same of the sharper region, shape (records,).
        extras: Names of what else was watched.
        watched: Its values, shape (records, extras).
        weight_decay: lambda.
        batch: "fixed", "own" (each step's own batch) or "landscape".
        share: Share of the time between the first and the last call that the monitor took; NaN of
            checkpoints.
        skipped: Checkpoints that were left out, each as `file: reason`.
    """

    steps: Indices
    times: Floats
    losses: Floats
    squared_gradients: Floats
    curvatures: Floats
    crossed: Floats
    in_region: Floats
    in_sharp_region: Floats
    extras: tuple[str, ...]
    watched: Floats
    weight_decay: float
    batch: str
    share: float
    skipped: tuple[str, ...] = ()

    @property
    def stationary(self) -> NDArray[np.bool_]:
        """Records at which the gradient is zero: they have no second derivative along it."""
        return np.asarray(np.isfinite(self.losses) & (self.squared_gradients == 0.0))

    @property
    def start(self) -> int | None:
        """Record at which the convex phase begins: from it on all curvatures are positive.

        Stationary records have none and are passed over; one that is not finite ends a phase.
        """
        known = ~self.stationary
        outside = np.flatnonzero(known & ~(self.curvatures > 0.0))
        known[: outside[-1] + 1 if len(outside) else 0] = False
        return int(known.argmax()) if known.any() else None

    @property
    def onset(self) -> int | None:
        """t0, the step of that record; None where the last curvature is not positive."""
        return None if self.start is None else int(self.steps[self.start])

    @property
    def loss_fraction(self) -> float:
        """`(gamma(t0) - gamma(t1)) / (gamma(0) - gamma(t1))`; 0 without a convex phase.

        NaN where the loss did not fall or is not finite.
        """
        last = self.losses[-1]
        fall = float(self.losses[0] - last)
        if not (np.isfinite(fall) and fall > 0.0):
            return float("nan")
        return 0.0 if self.start is None else float((self.losses[self.start] - last) / fall)

    @property
    def rose(self) -> bool:
        """Whether the loss is no lower at the last record than at the first."""
        return len(self.losses) > 1 and bool(self.losses[0] <= self.losses[-1])

    def percentile(self, share: float = 10.0) -> float:
        """Percentile of the curvatures within the convex phase; NaN without one."""
        if not 0.0 <= share <= 100.0:
            raise InputError(f"share must be between 0 and 100; received {share!r}")
        if self.start is None:
            return float("nan")
        return float(np.nanpercentile(self.curvatures[self.start :], share))

    def decay(self, first: int | None = None) -> Decay:
        """The gradient's decay from record `first` on (default: the convex phase's first).

        Stationary records after it are left out.

        Raises:
            InputError: No step sizes were told, no convex phase, or no such record or a stationary one.
        """
        first = self.start if first is None else first
        if first is None or not 0 <= first < len(self.steps):
            raise InputError(
                f"expected a record between 0 and {len(self.steps) - 1} to start from; received"
                f" {first} (None: there is no convex phase): give first"
            )
        if self.stationary[first]:
            raise InputError(f"the gradient is zero at record {first}: start from another")
        kept = first + np.flatnonzero(~self.stationary[first:])
        times = self.times[kept] - self.times[first]
        if np.isnan(times).any():
            raise InputError("expected step sizes: give the monitor rate= or its optimizer")
        return Decay(times, self.curvatures[kept], self.squared_gradients[kept])

    def watched_values(self, name: str) -> Floats:
        """Values of what else was watched, shape (records,).

        Raises:
            InputError: Nothing of that name was.
        """
        if name not in self.extras:
            raise InputError(
                f"expected one of {', '.join(self.extras) or 'none'}; received {name!r}"
            )
        return np.asarray(self.watched[:, self.extras.index(name)])

    def summary(self) -> str:
        """Where the convex phase begins, and how convex it is, in a few lines."""
        found = f"{len(self.steps)} records of steps {self.steps[0]} to {self.steps[-1]} (sampled)"
        lines = [f"{found}; loss {self.losses[0]:.6g} -> {self.losses[-1]:.6g}"]
        lines += self._phase()
        lines += [self._flaw(name, bad) for name, bad in self._flaws() if bad.any()]
        if np.isfinite(self.crossed).any():
            lines.append(f"kinks crossed between records: median {np.nanmedian(self.crossed):.0f}")
        lines += [self._inside()] if np.isfinite(self.in_region).any() else []
        lines += [
            f"{name}: mean {np.nanmean(values):.4g}"
            for name, values in zip(self.extras, self.watched.T, strict=True)
        ]
        lines += [f"left out: {line}" for line in self.skipped]
        if np.isfinite(self.share):
            lines.append(f"the monitor took {100 * self.share:.0f} % of the time")
        return "\n".join(lines)

    def _phase(self) -> list[str]:
        """The convex phase in a line or two."""
        if self.stationary.all():
            return ["no convex phase: the gradient is zero throughout"]
        if self.start is None:
            return ["no convex phase: the last second derivative is not positive"]
        told = ""
        if np.isfinite(self.loss_fraction):
            told = f": {100 * self.loss_fraction:.1f} % of the loss's fall"
        elif self.rose:
            told = "; the loss did not fall"
        return [
            f"convex along the gradient from step {self.onset} on{told}",
            f"normalised second derivative there: 10th percentile {self.percentile():.4g},"
            f" median {self.percentile(50):.4g}",
        ]

    def _inside(self) -> str:
        """How many records lie in the regions of certified convexity."""
        regions = (("the paper's", self.in_region), ("the sharper", self.in_sharp_region))
        told = [f"{np.nansum(values):.0f} in {name} one" for name, values in regions]
        return f"records in the region of certified convexity: {', '.join(told)}"

    def _flaws(self) -> tuple[tuple[str, NDArray[np.bool_]], ...]:
        """Records without a second derivative, by reason."""
        finite = np.isfinite(self.losses) & np.isfinite(self.squared_gradients)
        return (
            ("loss or gradient not finite", ~finite),
            ("gradient zero, so that nothing is said of convexity", self.stationary),
        )

    def _flaw(self, name: str, bad: NDArray[np.bool_]) -> str:
        """How often and from which step on."""
        count = int(bad.sum())
        records = f"{count} record{'' if count == 1 else 's'}"
        return f"{name}: {records}, first at step {self.steps[bad.argmax()]}"

    def plot(self) -> go.Figure:
        """Loss and normalised second derivative by step; a dashed line where the convex phase begins."""
        from reluscape.monitor.chart import trajectory_figure

        return trajectory_figure(self)
