"""Exact descent from a trained model's weights, one layer or all in turn."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from reluscape.arithmetic import arithmetic_called
from reluscape.block import Block
from reluscape.certificate import MINIMA, Certificate, fields_from_json, to_json
from reluscape.descent.density import Density
from reluscape.descent.forecast import Forecast, forecast_at
from reluscape.descent.loop import check_descent, descend
from reluscape.descent.phases import Phases, find_phases
from reluscape.descent.result import Descent, Status
from reluscape.errors import InputError, ReluscapeError
from reluscape.further import certify_further
from reluscape.landscape import Landscape, check_landscape
from reluscape.progress import UNKNOWN
from reluscape.proof import certify
from reluscape.results import Result, netcdf, write_then_rename
from reluscape.validation import check_told, check_whole

if TYPE_CHECKING:
    import plotly.graph_objects as go

Floats = NDArray[np.float64]
Progress = Callable[[str, float], None]

#: A sweep over the layers that lowers the loss by a smaller share, its rounding, ends the descent.
GAIN = 1e-15
#: Fall of the loss, far above its rounding, for which a sweep's step is lengthened once more.
LONGER = 1e-12
#: Pivots of a first descent from which the density along it is measured: it costs some 200 of them.
DENSE = 500
#: Sweeps after which a polish ends if nobody says otherwise: some tens are usual, hundreds occur.
MAX_SWEEPS = 1000
#: Mark of a saved file's format.
FORMAT = "reluscape polish 1"


class Ending(StrEnum):
    """Why a polish ended."""

    settled = "settled"
    max_pivots = "max_pivots"
    max_sweeps = "max_sweeps"
    interrupted = "interrupted"
    failed = "failed"


#: What is said of a polish that has not settled.
_UNSETTLED = {
    Ending.max_pivots: "not settled: a layer's last descent used up its pivots (max_pivots)",
    Ending.max_sweeps: "not settled: the sweeps are used up (max_sweeps), and the loss was still falling",
    Ending.interrupted: "not settled: it was interrupted",
    Ending.failed: "not settled: an error ended it",
}


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Leg(Result):
    """One layer's descent in a polish: `Descent` without its points.

    Attributes:
        layer: The layer's name.
        sweep: Number of the sweep, from 1.
        losses: Loss at the start and after every pivot, shape (num_pivots + 1,); never rises.
        step_lengths: Length of every pivot's step, shape (num_pivots,).
        distances: Distance to this descent's end, at the start and after every pivot.
        first_vertex: Pivot at which the first vertex was reached; -1 if none was.
        status: How the descent ended (`Status`).
        density_pivots: Pivots at which the ways to the next kink were measured, shape (points,).
        ways: These ways in random directions, shape (points, directions); none for short descents.
        causes: Everything degenerate that the descent met, a sentence each.
    """

    layer: str
    sweep: int
    losses: Floats
    step_lengths: Floats
    distances: Floats
    first_vertex: int
    status: str
    density_pivots: NDArray[np.int64]
    ways: Floats
    causes: tuple[str, ...] = ()

    @classmethod
    def of(cls, descent: Descent, block: Block, sweep: int, status: str) -> Leg:
        """What is kept of a descent of `block`."""
        long = sweep == 1 and descent.num_pivots >= DENSE
        density = descent.density(block) if long else Density(np.zeros(0, int), np.zeros((0, 0)))
        return cls(
            layer=block.layer,
            sweep=sweep,
            losses=descent.losses,
            step_lengths=descent.step_lengths,
            distances=descent.distances(),
            first_vertex=descent.first_vertex,
            status=status,
            density_pivots=density.pivots,
            ways=density.ways,
            causes=descent.causes,
        )

    @property
    def num_pivots(self) -> int:
        """Number of pivots."""
        return len(self.step_lengths)

    @property
    def density(self) -> Density:
        """Ways to the next kink along this descent; without points for a short one."""
        return Density(self.density_pivots, self.ways)

    def plot(self) -> go.Figure:
        """Loss above its end, step lengths, their running mean and the distance to the end."""
        from reluscape.descent.charts import path_figure

        return path_figure(self.losses, self.step_lengths, self.distances, self.phases())

    def phases(self) -> Phases:
        """The exponential and the fine-tuning phase, and their rates (`find_phases`)."""
        return find_phases(self.losses, self.step_lengths, self.distances, self.first_vertex)

    def forecast(self, fraction: float) -> Forecast:
        """This descent's final loss as the first `fraction` of its pivots foretells it."""
        return forecast_at(self.losses, fraction)


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Polish(Result):
    """Weights after exact descent.

    Attributes:
        theta: The weights of all layers, in `model.parameters()` order, shape (params,).
        start: Loss before.
        loss: Loss after, in float64.
        loss_float32: Loss of the same model with weights and inputs rounded to float32, in float32:
            what a float32 module gives that the weights are loaded into.
        sweeps: Number of sweeps over the layers, the last perhaps incomplete.
        ending: Why it ended: "settled" (no layer's descent lowers the loss any more), "max_pivots"
            (a layer's last descent used them up), "max_sweeps", "interrupted" or "failed".
        layers: Names of the layers that were to be descended.
        legs: Every descent in its order.
        certificates: What every layer's block is at the end, by name; after an interruption none, or
            those that were made by then.
        failure: The error that ended it, or kept a layer from being certified; empty if there was none.
        landscape: The landscape at the end; None for a result read from a file.
    """

    theta: Floats
    start: float
    loss: float
    loss_float32: float
    sweeps: int
    ending: str
    layers: tuple[str, ...]
    legs: tuple[Leg, ...]
    certificates: dict[str, Certificate]
    failure: str = ""
    landscape: Landscape | None = None

    @property
    def certified(self) -> bool:
        """Whether every layer ends at a certified minimum of its block."""
        found = [self.certificates.get(layer) for layer in self.layers]
        return all(certificate is not None and certificate.claim in MINIMA for certificate in found)

    @property
    def num_pivots(self) -> int:
        """Number of pivots of all descents."""
        return sum(leg.num_pivots for leg in self.legs)

    @property
    def fall(self) -> float:
        """Share of the loss that was removed, between 0 and 1."""
        return max(1.0 - self.loss / self.start, 0.0) if self.start else 0.0

    def legs_of(self, layer: str) -> tuple[Leg, ...]:
        """The descents of one layer, first to last."""
        return tuple(leg for leg in self.legs if leg.layer == layer)

    def __repr__(self) -> str:
        """One line: losses, sweeps and how it ended."""
        return (
            f"Polish(loss {self.start:.6g} -> {self.loss:.6g}, {self.num_pivots} pivots,"
            f" {self.sweeps} sweeps, {len(self.certificates)} certificates, {self.ending})"
        )

    def causes_of(self, layer: str) -> tuple[str, ...]:
        """Everything degenerate that a layer's last descent met; none where none was begun."""
        legs = self.legs_of(layer)
        return legs[-1].causes if legs else ()

    def summary(self) -> str:
        """Loss before and after, what every layer is at, and what its last descent met."""
        lines = [f"loss {self.start:.6g} -> {self.loss:.6g} ({self.fall:.2%} lower)"]
        for name in self.layers:
            certificate, legs = self.certificates.get(name), self.legs_of(name)
            last = f"last: {legs[-1].num_pivots}, {legs[-1].status}" if legs else "none begun"
            pivots = sum(leg.num_pivots for leg in legs)
            what = certificate.sentence() if certificate else f"layer {name!r}: no certificate"
            lines.append(f"  {what} ({pivots} pivots; {last})")
            lines += [f"    {cause}" for cause in self.causes_of(name)]
        if self.ending != Ending.settled:
            why = ": ".join(filter(None, (_UNSETTLED[Ending(self.ending)], self.failure)))
            lines.append(f"  {why}; go on from these weights")
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """The loss along all descents."""
        from reluscape.descent.charts import polish_figure

        return polish_figure(self)

    def to_dataset(self) -> xr.Dataset:
        """Weights and numbers as an xarray dataset, the certificates as JSON; without the paths."""
        numbers = ("start", "loss", "loss_float32", "sweeps", "ending")
        texts = {name: to_json(certificate) for name, certificate in self.certificates.items()}
        attributes = {name: getattr(self, name) for name in numbers}
        attributes |= {"format": FORMAT, "certificates": json.dumps(texts)}
        attributes |= {"layers": json.dumps(self.layers), "failure": json.dumps(self.failure)}
        return xr.Dataset({"theta": ("params", self.theta)}, attrs=attributes)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write everything but the landscape to a NetCDF file, one group for each descent."""
        target = Path(path)
        groups = {f"/leg_{place}": leg.to_dataset() for place, leg in enumerate(self.legs)}
        tree = xr.DataTree.from_dict({"/": self.to_dataset()} | groups)
        content = netcdf(tree)
        write_then_rename(target, lambda file: file.write_bytes(content))
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str], landscape: Landscape | None = None) -> Self:
        """Read what `save` wrote.

        Args:
            path: The file.
            landscape: The same model on the same data, at any weights: it is moved to the saved ones
                and becomes the result's landscape.

        Raises:
            InputError: Another file, or a landscape of another size.
        """
        try:
            with xr.open_datatree(path, engine="h5netcdf", decode_cf=False) as tree:
                groups = {name: tree[name].to_dataset().load() for name in tree.groups}
        except (OSError, ValueError) as error:
            raise InputError(f"expected a saved Polish; could not read {path}: {error}") from error
        root = groups["/"]
        if root.attrs.get("format") != FORMAT:
            raise InputError(f"expected a file with the mark {FORMAT!r}; {path} has none")
        texts = json.loads(root.attrs["certificates"])
        theta = np.asarray(root["theta"].values)
        return cls(
            theta=theta,
            **{name: float(root.attrs[name]) for name in ("start", "loss", "loss_float32")},
            sweeps=int(root.attrs["sweeps"]),
            ending=str(root.attrs["ending"]),
            layers=tuple(json.loads(root.attrs["layers"])),
            legs=tuple(Leg.from_dataset(groups[f"/leg_{k}"]) for k in range(len(groups) - 1)),
            certificates={name: Certificate(**fields_from_json(r)) for name, r in texts.items()},
            failure=json.loads(root.attrs.get("failure", '""')),
            landscape=None if landscape is None else landscape.at(theta),
        )


def polish(
    landscape: Landscape,
    layers: Sequence[str | int] | None = None,
    *,
    rule: str = "long_step",
    max_pivots: int | None = None,
    max_sweeps: int = MAX_SWEEPS,
    arithmetic: str = "float64",
    seed: int = 0,
    progress: Progress | None = None,
    keep: Callable[[Landscape], None] | None = None,
) -> Polish:
    """Descend the L1 loss layer by layer until no layer's descent lowers it any more.

    After each sweep over several layers the step of the whole sweep is lengthened as long as the loss
    falls, because layers in turn zigzag along valleys that none of them follows.

    Args:
        landscape: Loss "l1", without weight decay.
        layers: Names or indices; default: all layers in turn, from the first to the last.
        rule: Of the descents: "long_step" or "first_kink".
        max_pivots: Largest number of pivots of one layer's descent.
        max_sweeps: Largest number of sweeps over the layers; where it is reached, `ending` says so.
        arithmetic: Of the certificates: "float64", with rationals where it leaves a layer of at most
            60 parameters undecided, or "rational" for every layer that is small enough for it.
        seed: Of the descents.
        progress: Told what is being done; the fraction is NaN where nobody knows it.
        keep: Called with the landscape as it is after every descent that lowered the loss, so that
            long work can be kept.

    Returns:
        The weights and what every layer's block is there. With several layers the end is a minimum of
        every block, each with all others fixed, which need not be one of all layers at once. Ctrl-C
        ends it with what was done by then, without certificates, which may take long; so does a
        `progress` that raises `reluscape.progress.Stop`, which keeps the pivots of the descent in
        progress too. So does an error after the first descent, which is then told in `failure`.

    Raises:
        InputError: What `descend` raises, no layer, a `max_sweeps` that is no whole number of at least 1,
            or rational arithmetic without python-flint.
        Exception: What `progress` or `keep` raise.
    """
    names = _checked(landscape, layers, rule, max_pivots, max_sweeps, arithmetic, seed)
    check_told(progress, "progress")
    check_told(keep, "keep")
    watch = _Watch(progress, keep, len(names) == 1)
    work = _Work(landscape, rule, max_pivots, seed, watch)
    try:
        work.run(names, max_sweeps)
        work.certify(names, arithmetic)
    except KeyboardInterrupt:
        work.ending = Ending.interrupted
    here = work.here
    return Polish(
        theta=here.theta,
        start=work.start,
        loss=here.loss(),
        loss_float32=loss_float32(here),
        sweeps=work.sweep,
        ending=str(work.ending),
        layers=tuple(names),
        legs=tuple(work.legs),
        certificates=work.certificates,
        failure=work.failure,
        landscape=here,
    )


def _checked(
    landscape: Landscape,
    layers: Sequence[str | int] | None,
    rule: str,
    max_pivots: int | None,
    max_sweeps: int,
    arithmetic: str,
    seed: int,
) -> list[str]:
    """The layers' names; whatever cannot be worked with is refused before any work."""
    check_landscape(landscape, "polish")
    if layers is not None and (isinstance(layers, str) or not isinstance(layers, Iterable)):
        raise InputError(
            f"layers must be a list of names or indices; received {layers!r}: pass [{layers!r}]"
        )
    blocks = [landscape.block(one) for one in (landscape.layers if layers is None else layers)]
    if not blocks:
        raise InputError("expected at least one layer to descend; received none")
    check_descent(blocks[0], rule, max_pivots, seed)
    check_whole(max_sweeps, "max_sweeps", 1)
    arithmetic_called(arithmetic)
    return list(dict.fromkeys(block.layer for block in blocks))


def loss_float32(landscape: Landscape) -> float:
    """L1 loss that the model gives in float32, with weights and inputs rounded to it."""
    module = landscape.module_at().float().cpu()
    inputs = torch.from_numpy(landscape.inputs)
    with torch.no_grad():
        outputs = module(inputs.float() if inputs.is_floating_point() else inputs)
    errors = outputs.double().cpu().numpy().reshape(landscape.targets.shape) - landscape.targets
    return float(np.abs(errors).sum() / landscape.num_samples)


def _certified(block: Block, arithmetic: str) -> Certificate:
    """The certificate of a block's own point."""
    if arithmetic == "rational":
        try:
            return certify(block, arithmetic=arithmetic)
        except InputError:  # too large for it
            return certify(block)
    return certify_further(block, block.theta)


@dataclass(slots=True)
class _Watch:
    """What the caller wants to be told: progress and weights; whether it asked to stop, or failed."""

    progress: Progress | None
    keep: Callable[[Landscape], None] | None
    alone: bool
    stopped: bool = False
    raised: Exception | None = None

    def of(self, layer: str, sweep: int) -> Progress | None:
        """The progress of one descent; what is left of many descents nobody knows."""
        if self.progress is None:
            return None
        where = f"layer {layer!r}" if self.alone else f"sweep {sweep}, layer {layer!r}"
        return lambda what, fraction: self.tell(f"{where}, {what}", fraction)

    def tell(self, what: str, fraction: float) -> None:
        """Say what is being done."""
        if self.progress is not None:
            self._call(self.progress, what, fraction if self.alone else UNKNOWN)

    def moved(self, here: Landscape) -> None:
        """Hand over lower weights."""
        if self.keep is not None:
            self._call(self.keep, here)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            function(*arguments)
        except KeyboardInterrupt:
            self.stopped = True
            raise
        except Exception as error:
            self.raised = error
            raise


@dataclass(slots=True)
class _Work:
    """A polish in progress; whatever ends it, `here` are the weights so far."""

    here: Landscape
    rule: str
    max_pivots: int | None
    seed: int
    watch: _Watch
    start: float = field(init=False)
    loss: float = field(init=False)
    sweep: int = 0
    ending: Ending = Ending.interrupted
    failure: str = ""
    legs: list[Leg] = field(default_factory=list)
    certificates: dict[str, Certificate] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.start = self.loss = self.here.loss()

    def run(self, names: list[str], max_sweeps: int) -> None:
        """Sweep over the layers until nothing falls any more."""
        with self.guarded():
            self.ending = self.swept(names, max_sweeps)

    def certify(self, names: list[str], arithmetic: str) -> None:
        """Certify every layer, unless the caller asked to stop."""
        for name in () if self.watch.stopped else names:
            self.watch.tell(f"certifying layer {name!r}", UNKNOWN)
            with self.guarded():
                self.certificates[name] = _certified(self.here.block(name), arithmetic)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Note what goes wrong, so that hours of descents are not lost.

        What goes wrong in the first descent, or in the caller's own functions, is raised.
        """
        try:
            yield
        except Exception as error:
            if not self.legs or error is self.watch.raised:
                raise
            known = isinstance(error, ReluscapeError)
            self.failure = str(error) if known else f"{type(error).__name__}: {error}"
            self.ending = Ending.failed

    def swept(self, names: list[str], max_sweeps: int) -> Ending:
        """Sweep; return why no more."""
        while self.sweep < max_sweeps:
            self.sweep += 1
            before, since = self.loss, self.here.theta
            for name in names:
                self.descend(name)
                if self.watch.stopped:
                    return Ending.interrupted
            if len(names) > 1:
                self.lengthen(self.here.theta - since)
            if len(names) == 1 or not self.loss < before * (1.0 - GAIN):
                used = any(leg.status == Status.max_pivots for leg in self.legs[-len(names) :])
                return Ending.max_pivots if used else Ending.settled
        return Ending.max_sweeps

    def lengthen(self, sweep: Floats) -> None:
        """Go on along a whole sweep's step, doubled as long as the loss falls (Hooke and Jeeves 1961).

        Layers in turn zigzag along valleys that no layer's edges follow, ever more slowly. No step is
        longer than the weights: rescaling two layers costs nothing, and must not lead to infinity.
        """
        theta, length = self.here.theta, 1.0
        lowest, found = self.loss, None
        longest = float(np.linalg.norm(theta)) / (float(np.linalg.norm(sweep)) or np.inf)
        while length <= longest:
            loss = self.here.loss(theta + length * sweep)
            if not loss < lowest * (1.0 - LONGER):
                break
            lowest, found = loss, theta + length * sweep
            length *= 2.0
        if found is not None:
            self.move(found, lowest)

    def move(self, theta: Floats, loss: float) -> None:
        """Take over weights that lower the loss."""
        self.here, self.loss = self.here.at(theta), loss
        self.watch.moved(self.here)

    def descend(self, name: str) -> None:
        """Descend one layer and move to the end."""
        block = self.here.block(name)
        found = descend(
            block,
            rule=self.rule,
            max_pivots=self.max_pivots,
            seed=self.seed,
            progress=self.watch.of(name, self.sweep),
        )
        cut = self.watch.stopped and found.status == Status.max_pivots
        self.legs.append(
            Leg.of(found, block, self.sweep, str(Status.interrupted) if cut else found.status)
        )
        theta = self.here.theta
        theta[self.here.positions(name)] = found.theta
        loss = self.here.loss(theta)
        if loss < self.loss:
            self.move(theta, loss)
