"""The main job: everything one command can say about one or two trained models.

For each model: its loss and gradient, a certificate for the whole network and for each readable
layer, and the geometry of the cell that each layer stopped in; between two models of one shape,
strings below a level. What cannot be said is recorded with its reason. The results are one NetCDF
file, certificates and weights as files beside it, and one HTML page.
"""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from torch import nn

from reluscape import __version__
from reluscape.arithmetic import arithmetic_called
from reluscape.block import Block
from reluscape.certificate import Certificate
from reluscape.check_convexity import check_found
from reluscape.convex import Convexity
from reluscape.data import Data
from reluscape.errors import AnalysisError, InputError, ReluscapeError, UnsupportedModelError
from reluscape.landscape import Landscape
from reluscape.minima.result import CellMinimum
from reluscape.minima_files import Question, questions, why_not_whole
from reluscape.models import num_outputs, takes_flat_inputs
from reluscape.report import render
from reluscape.report.findings import (
    ConvexitySurvey,
    DataSummary,
    LayerSurvey,
    MinimumSurvey,
    ModelSurvey,
    Survey,
    Verdict,
    load_survey,
)
from reluscape.report.pairs import PairSurvey
from reluscape.results import check_writable, options_from, write_then_rename
from reluscape.strings.connection import Connection
from reluscape.survey_pair import between, of_one_shape, stopped
from reluscape.survey_steps import (
    asked_layer,
    at_point,
    certified,
    chords,
    curvature,
    facets,
    flips,
    lowered,
    minimum,
    radius,
    unit_activity,
)
from reluscape.survey_tree import NO_LAYER, grown
from reluscape.train import Training
from reluscape.trees.result import MergeTree
from reluscape.weights import write_state

__all__ = ["Subject", "Survey", "load_survey", "survey"]

Progress = Callable[[str, float], None]
log = logging.getLogger(__name__)

_BUILD_SHARE = 0.4
PLACES = ("certificates", "minima", "convexity", "connections", "trees", "weights")

TOO_LARGE_FOR_MINIMA = "too large for a short survey; `reluscape minima` does it"


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to survey.

    Attributes:
        name: What the report calls it; names of the subjects of one survey differ.
        build: Trains or loads it when its turn comes, and returns the module with the record of
            its training, or None where there is none.
        options: Options that the command line needs besides the saved weights to build the module
            again, such as ``--model package:factory``; empty for a plain ReLU network.
        description: Where the model comes from, if it has no record of its training.
    """

    name: str
    build: Callable[[Progress], tuple[nn.Module, Training | None]]
    options: str = ""
    description: str = ""


def survey(
    subjects: Sequence[Subject],
    data: Data,
    *,
    loss: str,
    weight_decay: float = 0.0,
    layer: int | str | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    arithmetic: str = "float64",
    tree: bool = False,
    data_options: Sequence[str] = (),
    progress: Progress | None = None,
) -> Survey:
    """Survey one or more models on their data; write the report if there is a folder for it.

    Ctrl-C at any time ends the survey: what was done by then is written and marked incomplete.
    Equal arguments give equal results and an equal report; files in ``connections/`` also tell how long
    their search took.

    Args:
        subjects: The models, built one after the other.
        data: Inputs and targets; images are flattened for a model that starts with a Linear.
        loss: ``squared``, ``half_squared``, ``l1`` or ``cross_entropy``.
        weight_decay: Factor of ``‖theta‖²/2`` in the loss.
        layer: Survey only this layer's block: a name, or an index among the readable layers; a
            text that names no layer may be an index too.
        out: Folder for ``report.html``, ``results.nc``, ``certificates/``, ``minima/``,
            ``convexity/``, ``connections/``, ``trees/`` and ``weights/``.
        seed: Seed of the random directions and rays, and of the samples of trees.
        arithmetic: ``float64`` or ``rational``, for the certificates and trees; what is too large for
            rational arithmetic is certified in float64, with a note.
        tree: Whether to find all minima of each model's layer before its output, on as many random
            samples as have few enough cells (`merge_tree`).
        data_options: Command-line options that load the data again, for the commands in the
            report; by default those of its name.
        progress: Called with what is being done and the fraction done.

    Returns:
        The results. ``complete`` is False after Ctrl-C.

    Raises:
        InputError: Data, models and options do not fit, or ``out`` cannot be written to. Nothing
            is written then.
    """
    names = [subject.name for subject in subjects]
    if not names or len(set(names)) < len(names):
        raise InputError(f"subjects must be at least one, with different names; received {names}")
    arithmetic_called(arithmetic)  # refuses what there is not
    folder = None if out is None else Path(out)
    if folder is not None:
        check_writable(folder, *_places(folder))
    notebook = _Notebook()
    task = _Task(
        data, loss, weight_decay, layer, seed, arithmetic, tree, progress or _silent, notebook
    )
    complete = True
    try:
        for place, subject in enumerate(subjects):
            task.run(subject, place, len(subjects))
        task.join()
    except (KeyboardInterrupt, _Interrupted):
        log.info("interrupted")
        complete = False
    summary = _summarise(data, data_options, folder)
    result = Survey(
        summary,
        loss,
        weight_decay=weight_decay,
        arithmetic=arithmetic,
        seed=seed,
        models=tuple(notebook.models),
        pair=notebook.pair,
        complete=complete,
        version=__version__,
    )
    if folder is not None:
        try:
            _write(result, notebook, folder)
        except KeyboardInterrupt:  # the work is done: one Ctrl-C does not cost its report
            _write(result, notebook, folder)
    return result


class _Interrupted(Exception):
    """The training was interrupted, so the survey ends with what is known."""


@dataclass(slots=True)
class _Notebook:
    """What has been found so far; Ctrl-C leaves it whole."""

    models: list[ModelSurvey] = field(default_factory=list)
    certificates: dict[str, Certificate] = field(default_factory=dict)
    results: dict[str, CellMinimum | Convexity | Connection | MergeTree] = field(
        default_factory=dict
    )
    pair: PairSurvey | None = None
    weights: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def model(self, **found: Any) -> None:
        """Add to what is known of the current model."""
        self.models[-1] = replace(self.models[-1], **found)

    def layer(self, **found: Any) -> None:
        """Add to what is known of the current layer."""
        *done, current = self.models[-1].layers
        self.model(layers=(*done, replace(current, **found)))

    def verdict(self, certificate: Certificate, file: str) -> Verdict:
        """Keep a certificate for writing, and return what it says."""
        self.certificates[file] = certificate
        return Verdict(
            claim=str(certificate.claim),
            tier=str(certificate.tier),
            reason=certificate.reason,
            file=file,
            margin=certificate.margin,
            moved=certificate.moved,
            gradient_norm=certificate.gradient_norm,
            num_active_kinks=len(certificate.active_kinks),
        )

    def minimum(self, found: CellMinimum, file: str) -> MinimumSurvey:
        """Keep an answer about a cell's minimum for writing, and return what it says."""
        self.results[file] = found
        names = ("convention", "genuine", "kind", "method", "bad", "loss", "margin")
        told = {name: getattr(found, name) for name in names}
        told["better_loss"] = found.better_loss if found.bad else None
        told["reach"] = found.reach if np.isfinite(found.reach) else None
        return MinimumSurvey(**told, file=file, num_active_kinks=found.active)


@dataclass(slots=True)
class _Task:
    """One survey in progress: its settings, and where it stands."""

    data: Data
    loss: str
    weight_decay: float
    layer: int | str | None
    seed: int
    arithmetic: str
    tree: bool
    progress: Progress
    notebook: _Notebook
    start: float = 0.0
    span: float = 1.0
    landscapes: list[Landscape] = field(default_factory=list)

    def run(self, subject: Subject, place: int, total: int) -> None:
        """Build one model and take every step on it."""
        self.start, self.span = place / total, 1 / total
        stem = f"{place + 1}-{_slug(subject.name)}"
        self.notebook.models.append(ModelSurvey(subject.name, description=subject.description))
        module, training = self._build(subject)
        landscape = self._landscape(module)
        names = self._names(landscape)
        self.notebook.weights[f"weights/{stem}.safetensors"] = landscape.state()
        options = f"{subject.options} --weights weights/{stem}.safetensors".strip()
        self.notebook.model(options=options, **_first_facts(landscape))
        if training is not None and not training.completed:
            self.notebook.model(notes=("the training was interrupted",))
            raise _Interrupted
        self._whole(landscape, training, stem)
        self._layers(landscape, names, place, stem)
        if self.tree and not set(landscape.layers[-2:-1]) & set(names):
            self.notebook.model(notes=(*self.notebook.models[-1].notes, NO_LAYER))
        self.notebook.model(complete=True)
        self.landscapes.append(landscape)

    def join(self) -> None:
        """Look for strings between two models of one shape."""
        if len(self.landscapes) != 2 or not of_one_shape(*self.landscapes):
            return
        first, last = self.landscapes
        names = tuple(model.name for model in self.notebook.models)
        weights = shlex.split(self.notebook.models[1].options)[-2:]
        options = f"{self.notebook.models[0].options} {shlex.join(weights)}"

        def progress(what: str) -> None:
            self.progress(f"between the two: {what}", 1.0)

        about = PairSurvey(names, options=options)
        for pair, found in between((first, last), about, seed=self.seed, progress=progress):
            self.notebook.pair = pair
            if found is not None:
                self.notebook.results[pair.strings[-1].file] = found
            if stopped(found):
                raise _Interrupted

    def _build(self, subject: Subject) -> tuple[nn.Module, Training | None]:
        def report(what: str, fraction: float) -> None:
            told = f"{subject.name}: {what}"
            self.progress(told, self.start + self.span * _BUILD_SHARE * fraction)

        report("building", 0.0)
        module, training = subject.build(report)
        if training is not None:
            self.notebook.model(description=training.description, losses=training.losses)
        return module, training

    def _landscape(self, module: nn.Module) -> Landscape:
        data = self.data.flattened() if takes_flat_inputs(module, self.data.inputs) else self.data
        targets = data.targets_for(self.loss, num_outputs(module, data.inputs))
        return Landscape(
            module, data.inputs, targets, loss=self.loss, weight_decay=self.weight_decay
        )

    def _names(self, landscape: Landscape) -> tuple[str, ...]:
        """The layers to survey; raises InputError for one that the model lacks."""
        if self.layer is None:
            return landscape.layers
        return (landscape.block(asked_layer(self.layer, landscape.layers)).layer,)

    def _whole(self, landscape: Landscape, training: Training | None, stem: str) -> None:
        note = self.notebook.model

        def verdict() -> dict[str, Any]:
            certificate, remarks = certified(landscape, self.arithmetic)
            told = self.notebook.verdict(certificate, f"certificates/{stem}.json")
            return {"verdict": told, "notes": (*self.notebook.models[-1].notes, *remarks)}

        self._step("certificate of the whole network", 0.0, verdict, note)
        self._step("minima of the cell", 0.03, lambda: self._minima(landscape, stem), note)
        self._step("convexity", 0.04, lambda: self._convexity(landscape, stem), note)
        if training is not None and landscape.reading is not None:
            self._step("switching signs", 0.05, lambda: flips(landscape, training), note)

    def _layers(self, landscape: Landscape, names: tuple[str, ...], place: int, stem: str) -> None:
        activity = {} if landscape.reading is None else unit_activity(landscape.reading)
        for turn, name in enumerate(names):
            index = landscape.layers.index(name)
            record = LayerSurvey(name, index, activity=activity.get(name, np.zeros(0)))
            self.notebook.model(layers=(*self.notebook.models[-1].layers, record))
            begin = 0.1 + 0.9 * turn / len(names)
            try:
                block = landscape.block(name)
            except UnsupportedModelError as error:
                self.notebook.layer(notes=(str(error),))
                continue
            seed = (self.seed, place, index)
            self._layer(block, f"{stem}-{index + 1}-{_slug(name)}", seed, begin, 0.9 / len(names))

    def _layer(
        self, block: Block, stem: str, seed: tuple[int, ...], begin: float, span: float
    ) -> None:
        def verdict() -> dict[str, Any]:
            certificate, remarks = certified(block, self.arithmetic)
            told = self.notebook.verdict(certificate, f"certificates/{stem}.json")
            notes = self.notebook.models[-1].layers[-1].notes
            return {"verdict": told, "notes": (*notes, *remarks)}

        steps: list[tuple[str, Callable[[], dict[str, Any]]]] = [
            ("gradient and kinks", lambda: at_point(block)),
            ("certificate", verdict),
            ("chords", lambda: chords(block, seed)),
            ("facets", lambda: facets(block, seed)),
            ("largest ball", lambda: radius(block)),
            ("minimum of the cell", lambda: self._minimum(block, stem)),
        ]
        if self.loss == "l1" and not self.weight_decay:  # the loss is piecewise affine
            at = begin + 0.8 * span
            steps.append(("exact descent", lambda: self._lowered(block, stem, at)))
        if self.tree and block.layer in block.landscape.layers[-2:-1]:
            steps.append(("merge tree", lambda: self._tree(block, stem, begin + 0.9 * span)))
        for turn, (what, work) in enumerate(steps):
            at = begin + span * turn / len(steps)
            self._step(what, at, work, self.notebook.layer, f"layer {block.layer}, ")

    def _minima(self, landscape: Landscape, stem: str) -> dict[str, Any]:
        """Whether the cell holds a genuine minimum of the whole network, where that can be asked."""
        notes = self.notebook.models[-1].notes
        if self.weight_decay:
            return {"notes": (*notes, "minima of cells: not asked of a loss with weight decay")}
        if why_not_whole(landscape):
            return {}
        told: list[MinimumSurvey] = []
        remarks = []
        for question in questions(landscape, (None,)):
            try:
                found = minimum(question, self.seed)
            except InputError as error:
                remarks.append(f"minimum with {question.name} signs: {error}")
                continue
            if found is None:
                remarks.append(f"minimum with {question.name} signs: {TOO_LARGE_FOR_MINIMA}")
            else:
                told.append(self.notebook.minimum(found, f"minima/{stem}-{question.name}.nc"))
        return {"minima": tuple(told), "notes": (*notes, *remarks)}

    def _convexity(self, landscape: Landscape, stem: str) -> dict[str, Any]:
        """How convex the loss is with its switches frozen, of a loss that is curved."""
        if self.loss == "l1":
            return {}
        found = curvature(landscape, self.seed)
        if found is None:
            note = "convexity: too large for a short survey; `reluscape convexity` does it"
            return {"notes": (*self.notebook.models[-1].notes, note)}
        check_found(found, landscape)
        file = f"convexity/{stem}.nc"
        self.notebook.results[file] = found
        return {"convexity": ConvexitySurvey.of(found, file)}

    def _minimum(self, block: Block, stem: str) -> dict[str, Any]:
        """Whether a layer's cell holds a genuine minimum."""
        if self.weight_decay:
            return {}
        try:
            found = minimum(Question(block), self.seed)
        except InputError as error:
            raise AnalysisError(str(error)) from error
        if found is None:
            notes = self.notebook.models[-1].layers[-1].notes
            return {"notes": (*notes, f"minimum of the cell: {TOO_LARGE_FOR_MINIMA}")}
        return {"minimum": self.notebook.minimum(found, f"minima/{stem}.nc")}

    def _lowered(self, block: Block, stem: str, at: float) -> dict[str, Any]:
        """What exact descent of this layer alone still removes, as far as a short survey goes."""
        model = self.notebook.models[-1]
        where = self.start + self.span * (_BUILD_SHARE + (1 - _BUILD_SHARE) * at)

        def progress(what: str, fraction: float) -> None:
            self.progress(f"{model.name}: layer {block.layer}, exact descent, {what}", where)

        found = lowered(block, self.seed, progress)
        if found is None:
            note = "exact descent: too large for a short survey; `reluscape descend` does it"
            return {"notes": (*model.layers[-1].notes, note)}
        told = self.notebook.verdict(found.certificate, f"certificates/{stem}-descended.json")
        return {
            "descent_losses": found.losses,
            "descent_status": found.status,
            "descent_causes": found.causes,
            "descent_end": told,
        }

    def _tree(self, block: Block, stem: str, at: float) -> dict[str, Any]:
        """All minima of a layer, on as many samples as a short survey has time for."""
        model, file = self.notebook.models[-1], f"trees/{stem}.nc"
        where = self.start + self.span * (_BUILD_SHARE + (1 - _BUILD_SHARE) * at)

        def progress(what: str, fraction: float) -> None:
            self.progress(f"{model.name}: layer {block.layer}, merge tree, {what}", where)

        told, tree, remarks = grown(block, self.seed, file, self.arithmetic, progress)
        self.notebook.results[file] = tree
        return {"tree": told, "notes": (*model.layers[-1].notes, *remarks)}

    def _step(
        self,
        what: str,
        fraction: float,
        work: Callable[[], dict[str, Any]],
        note: Callable[..., None],
        where: str = "",
    ) -> None:
        """Take one step; one that breaks down is noted with its reason and the rest goes on."""
        model = self.notebook.models[-1]
        done = _BUILD_SHARE + (1 - _BUILD_SHARE) * fraction
        self.progress(f"{model.name}: {where}{what}", self.start + self.span * done)
        began = perf_counter()
        try:
            note(**work())
        except (AnalysisError, UnsupportedModelError) as error:
            self._broken(what, error, note)
        log.info("%s: %s%s took %.3f s", model.name, where, what, perf_counter() - began)

    def _broken(self, what: str, error: ReluscapeError, note: Callable[..., None]) -> None:
        model = self.notebook.models[-1]
        record = model if note == self.notebook.model else model.layers[-1]
        note(notes=(*record.notes, f"{what}: {error}"))


def _silent(what: str, fraction: float) -> None:
    """Progress that nobody watches."""


def _slug(text: str) -> str:
    """A text as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "model"


def _places(folder: Path) -> tuple[Path, ...]:
    """The folders of a survey's files."""
    return tuple(folder / name for name in PLACES)


def _summarise(data: Data, options: Sequence[str], folder: Path | None) -> DataSummary:
    shape = " × ".join(str(size) for size in data.inputs.shape[1:])
    columns = 1 if data.targets.ndim == 1 else data.targets.shape[1]
    task = f"{len(data.classes)} classes" if data.classes else f"{columns} numbers (regression)"
    given = list(options) or ["--data", data.name, *(["--standardise"] * data.standardised)]
    moved = options_from(given, folder)  # the report's commands run in its own folder
    return DataSummary(
        data.name,
        data.num_samples,
        input_shape=f"{shape} numbers",
        task=task,
        classes=data.classes,
        standardised=data.standardised,
        notes=data.notes,
        options=shlex.join(moved),
    )


def _first_facts(landscape: Landscape) -> dict[str, Any]:
    reading = landscape.reading
    return {
        "num_params": landscape.size,
        "loss": landscape.loss(),
        "gradient_norm": float(np.linalg.norm(landscape.gradient())),
        "unreadable": landscape.unreadable or "",
        "opaque": () if reading is None else reading.opaque,
        "opaque_reason": "" if reading is None else reading.reason or "",
    }


def _write(result: Survey, notebook: _Notebook, folder: Path) -> None:
    """Write every file under a temporary name first, the report last, since it links the others."""
    for place in (folder, *_places(folder)):
        place.mkdir(parents=True, exist_ok=True)
    for file, certificate in notebook.certificates.items():
        write_then_rename(folder / file, certificate.save)
    for file, found in notebook.results.items():
        write_then_rename(folder / file, found.save)
    for file, state in notebook.weights.items():
        write_then_rename(folder / file, partial(write_state, state=state))
    result.save(folder / "results.nc")
    write_then_rename(folder / "report.html", _writer(render(result).encode()))


def _writer(content: bytes) -> Callable[[Path], int]:
    """What writes these bytes to a path."""
    return lambda path: path.write_bytes(content)
