"""Exact descent from a trained model's weights, one layer or all in turn."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from reluscape.certificate import MINIMA, Certificate, fields_from_json, to_json
from reluscape.descent.density import Density
from reluscape.descent.forecast import Forecast, forecast_at
from reluscape.descent.loop import certified_end, descend
from reluscape.descent.phases import Phases, find_phases
from reluscape.descent.result import Descent, Status
from reluscape.errors import InputError
from reluscape.landscape import Block, Landscape
from reluscape.progress import UNKNOWN
from reluscape.proof import certify
from reluscape.results import Result, write_then_rename

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
#: Mark of a saved file's format.
FORMAT = "reluscape polish 1"


class Ending(StrEnum):
    """Why a polish ended."""

    settled = "settled"
    max_pivots = "max_pivots"
    max_sweeps = "max_sweeps"
    interrupted = "interrupted"


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
            (a layer's last descent used them up), "max_sweeps" or "interrupted".
        layers: Names of the layers that were to be descended.
        legs: Every descent in its order.
        certificates: What every layer's block is at the end, by name; none after an interruption.
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
        """Share of the loss that was removed."""
        return 1.0 - self.loss / self.start if self.start else 0.0

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
            lines.append(f"  not settled ({self.ending}): go on from these weights")
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
        attributes["layers"] = json.dumps(self.layers)
        return xr.Dataset({"theta": ("params", self.theta)}, attrs=attributes)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write everything but the landscape to a NetCDF file, one group for each descent."""
        target = Path(path)
        groups = {f"/leg_{place}": leg.to_dataset() for place, leg in enumerate(self.legs)}
        tree = xr.DataTree.from_dict({"/": self.to_dataset()} | groups)
        write_then_rename(target, lambda file: tree.to_netcdf(file, engine="h5netcdf"))
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
            landscape=None if landscape is None else landscape.at(theta),
        )


def polish(
    landscape: Landscape,
    layers: Sequence[str | int] | None = None,
    *,
    rule: str = "long_step",
    max_pivots: int | None = None,
    max_sweeps: int = 100,
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
        max_sweeps: Largest number of sweeps over the layers.
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
        progress too.

    Raises:
        InputError: What `descend` raises, no layer, or `max_sweeps` below one.
    """
    wanted = landscape.layers if layers is None else layers
    names = list(dict.fromkeys(landscape.block(layer).layer for layer in wanted))
    if not names:
        raise InputError("expected at least one layer to descend; received none")
    if max_sweeps < 1:
        raise InputError(f"max_sweeps must be at least 1; received {max_sweeps}")
    watch = _Watch(progress, len(names) == 1)
    work = _Work(landscape, rule, max_pivots, seed, watch, keep)
    ending = Ending.interrupted
    try:
        ending = work.run(names, max_sweeps)
    except KeyboardInterrupt:
        watch.stopped = True
    here = work.here
    certified = () if watch.stopped else names
    certificates = {name: _certified(here.block(name), arithmetic) for name in certified}
    return Polish(
        theta=here.theta,
        start=work.start,
        loss=here.loss(),
        loss_float32=loss_float32(here),
        sweeps=work.sweep,
        ending=str(ending),
        layers=tuple(names),
        legs=tuple(work.legs),
        certificates=certificates,
        landscape=here,
    )


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
    return certified_end(block, block.theta)


@dataclass(slots=True)
class _Watch:
    """Progress of the descents, and whether it asked to stop."""

    progress: Progress | None
    alone: bool
    stopped: bool = False

    def of(self, layer: str, sweep: int) -> Progress | None:
        """The progress of one descent; what is left of many descents nobody knows."""
        if self.progress is None:
            return None
        where = f"layer {layer!r}" if self.alone else f"sweep {sweep}, layer {layer!r}"
        return lambda what, fraction: self._tell(f"{where}, {what}", fraction)

    def _tell(self, what: str, fraction: float) -> None:
        assert self.progress is not None
        try:
            self.progress(what, fraction if self.alone else UNKNOWN)
        except KeyboardInterrupt:
            self.stopped = True
            raise


@dataclass(slots=True)
class _Work:
    """A polish in progress; whatever ends it, `here` are the weights so far."""

    here: Landscape
    rule: str
    max_pivots: int | None
    seed: int
    watch: _Watch
    keep: Callable[[Landscape], None] | None
    start: float = field(init=False)
    loss: float = field(init=False)
    sweep: int = 0
    legs: list[Leg] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start = self.loss = self.here.loss()

    def run(self, names: list[str], max_sweeps: int) -> Ending:
        """Sweep over the layers until nothing falls any more."""
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
        theta, length, found = self.here.theta, 1.0, None
        longest = float(np.linalg.norm(theta)) / (float(np.linalg.norm(sweep)) or np.inf)
        while length <= longest:
            loss = self.here.loss(theta + length * sweep)
            if not loss < self.loss * (1.0 - LONGER):
                break
            self.loss, found = loss, theta + length * sweep
            length *= 2.0
        if found is not None:
            self.move(found)

    def move(self, theta: Floats) -> None:
        """Take over weights that lower the loss."""
        self.here = self.here.at(theta)
        if self.keep is not None:
            self.keep(self.here)

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
        if found.loss < self.loss:
            theta = self.here.theta
            theta[self.here.positions(name)] = found.theta
            self.loss = found.loss
            self.move(theta)
