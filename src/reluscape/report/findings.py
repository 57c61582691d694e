"""What a survey found, as plain records, and their NetCDF file.

The records are nested: a :class:`Survey` holds one :class:`ModelSurvey` per model, which holds one
:class:`LayerSurvey` per readable affine layer. In the file each record is a group
(``/model_0/layer_1``): arrays and numbers are variables with a long name and a unit, texts and
flags are attributes. A number that was not computed is absent from the file and ``None`` (or an
empty array) in the record.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import xarray as xr

from reluscape.errors import InputError
from reluscape.report.fields import a_number, a_series, no_values
from reluscape.report.grown import TreeSurvey
from reluscape.report.pairs import PairSurvey, StringSurvey
from reluscape.report.wording import share, verdict_line
from reluscape.results import netcdf, write_then_rename

if TYPE_CHECKING:
    from reluscape.convex import Convexity

Record = TypeVar("Record")
FORMAT = "reluscape survey 1"
#: Fields with records, which have groups of their own.
NESTED = ("models", "layers", "minima", "minimum", "verdict", "descent_end", "convexity", "data",
          "pair", "strings", "tree")  # fmt: skip
#: What the group of one record of several is called.
ONE_OF = {"models": "model", "layers": "layer", "minima": "minimum", "strings": "string"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one certificate says; the certificate itself is the file named here.

    Attributes:
        claim: One of the six claims of :func:`reluscape.certify.certify`.
        tier: ``exact``, ``certified`` or ``sampled``.
        reason: The certificate's own sentence for its claim.
        file: Where the certificate is, relative to the report; empty if it was not written.
        margin: The certificate's margin; what it measures depends on the claim.
        moved: Distance from the surveyed weights to the certified point.
        gradient_norm: Euclidean norm of the gradient at the certified point.
        num_active_kinks: Number of switching values that are zero there.
    """

    claim: str
    tier: str
    reason: str = ""
    file: str = ""
    margin: float | None = a_number("margin of the certificate")
    moved: float | None = a_number("distance to the certified point", "parameter")
    gradient_norm: float | None = a_number("norm of the gradient at the certified point")
    num_active_kinks: int | None = a_number("switching values that are zero at the point")


@dataclass(frozen=True, slots=True)
class MinimumSurvey:
    """Whether the cell where training stopped holds a genuine minimum; the proof is the file named here.

    Attributes:
        convention: Signs that the output weights may have, ``free``, ``given`` or ``uniform``; ``block``
            for one layer alone.
        genuine: Whether it holds one; None where that is undecided.
        kind: What the minimisers of the cell's loss are: ``unique``, ``continuous`` or ``plateau``.
        method: How it was found.
        bad: Whether a lower loss is known; None where that is not known.
        file: The answer with its proof, relative to the report; empty if it was not written.
        loss: Loss of the cell's minimisers; NaN where it falls forever.
        margin: Distance of the minimum to the nearest kink over the length of its weights; without a
            minimum, what rounding leaves open.
        better_loss: The lower loss that is known, if one is.
        num_active_kinks: Switching values that are zero at the point and count as negative.
        reach: Without a minimum, how long minimisers this is about, over the length of a known one; None
            where it is about all.
    """

    convention: str
    genuine: bool | None = None
    kind: str = ""
    method: str = ""
    bad: bool | None = None
    file: str = ""
    loss: float | None = a_number("loss of the cell's minimisers", "loss")
    margin: float | None = a_number("distance to the nearest kink over the length of the weights")
    better_loss: float | None = a_number("a lower loss that is known", "loss")
    num_active_kinks: int | None = a_number("switching values that are zero at the point")
    reach: float | None = a_number(
        "length of the minimisers that are ruled out, over a known one's"
    )


@dataclass(frozen=True, slots=True)
class ConvexitySurvey:
    """How convex the loss is at the point with its switches frozen, of a `reluscape.Convexity`.

    Attributes:
        method: How the smallest eigenvalue was found, ``dense`` or ``lanczos``.
        convex: Whether the loss is strongly convex there; None where that is undecided.
        reason: Why there are no bounds; empty where there are.
        linear: Whether no rectifier bends anything.
        file: The result, relative to the report; empty if it was not written.
        exact: The smallest eigenvalue of the Hessian.
        error: Its error, or for Lanczos the residual.
        paper_bound: Lower bounds on it, weakest first; None where the network is not read.
        sharp_bound: The second.
        data_bound: The third.
        weight_decay: Factor of half the squared norm of the parameters in the loss.
        covering_decay: The one above which all global minimisers lie where the third is positive.
        paper_covering_decay: The same for the paper's region.
        lowest_minimum: Loss below which no local minimum but zero exists; None where there are biases.
        num_active_kinks: Switching values that are zero to rounding.
    """

    method: str
    convex: bool | None = None
    reason: str = ""
    linear: bool = False
    file: str = ""
    exact: float | None = a_number("smallest eigenvalue of the Hessian", "loss/parameter^2")
    error: float | None = a_number("its error, or the residual", "loss/parameter^2")
    paper_bound: float | None = a_number("the paper's lower bound on it", "loss/parameter^2")
    sharp_bound: float | None = a_number("sharper lower bound", "loss/parameter^2")
    data_bound: float | None = a_number("lower bound with the data", "loss/parameter^2")
    weight_decay: float | None = a_number("weight decay", "loss/parameter^2")
    covering_decay: float | None = a_number("weight decay that covers all global minimisers")
    paper_covering_decay: float | None = a_number("the same for the paper's region")
    lowest_minimum: float | None = a_number("loss below which no local minimum but zero is", "loss")
    num_active_kinks: int | None = a_number("switching values that are zero to rounding")

    @classmethod
    def of(cls, found: Convexity, file: str = "") -> ConvexitySurvey:
        """The record of a result, and the file that it is in."""
        numbers = ("exact", "error", "paper_bound", "sharp_bound", "data_bound", "weight_decay",
                   "covering_decay", "paper_covering_decay", "lowest_minimum")  # fmt: skip
        told = {name: getattr(found, name) for name in numbers}
        return cls(
            found.method,
            found.is_convex,
            found.reason,
            found.linear,
            file,
            **{name: None if math.isnan(value) else value for name, value in told.items()},
            num_active_kinks=found.active_kinks,
        )


@dataclass(frozen=True, slots=True, eq=False)
class LayerSurvey:
    """What is known of one affine layer's block: that layer's parameters, all others fixed.

    Attributes:
        name: Qualified name of the layer in its module.
        index: Place among the readable affine layers, from 0.
        num_params: Number of parameters of the layer.
        num_kinks: Number of switching values that this layer's parameters move.
        verdict: The block's certificate in short; None if there is none.
        gradient_norm: Norm of the loss gradient in this layer's parameters.
        num_active_kinks: Switching values that are zero where training stopped.
        nearest_distance: Distance to the nearest kink in parameter space; inf without kinks.
        nearest_kink: That kink in words.
        activity: (units,) share of samples on which each hidden unit after the layer is active;
            empty where no ReLU follows.
        chord_lengths: (directions,) length of the cell along random lines through the point.
        chord_angles: (directions,) the same divided by the norm of the layer's parameters.
        num_facets: Facets of the cell: their number, or a lower bound.
        all_facets: Whether ``num_facets`` counts all facets, by linear programs in float64.
        radius: Radius of the largest ball in the cell; inf for an unbounded one.
        minimum: Whether its cell holds a genuine minimum; None if that was not asked.
        descent_losses: (pivots + 1,) loss along exact descent of this layer alone, from where training
            stopped; empty where there was none.
        descent_status: How that descent ended, a `reluscape.descent.Status`.
        descent_causes: Everything degenerate that it met, a sentence each.
        descent_end: What its end is.
        tree: Its minima on some of the samples; None if that was not asked or cannot be.
        notes: Sentences on what could not be computed here, and why.
    """

    name: str
    index: int
    num_params: int = a_number("parameters of the layer")
    num_kinks: int | None = a_number("switching values that the layer moves")
    verdict: Verdict | None = None
    gradient_norm: float | None = a_number("norm of the gradient in the layer", "loss/parameter")
    num_active_kinks: int | None = a_number("switching values that are zero")
    nearest_distance: float | None = a_number("distance to the nearest kink", "parameter")
    nearest_kink: str = ""
    activity: np.ndarray = field(
        default_factory=no_values,
        metadata=a_series("unit", "share of samples on which the unit is active"),
    )
    chord_lengths: np.ndarray = field(
        default_factory=no_values,
        metadata=a_series("direction", "length of the cell along a line", "parameter"),
    )
    chord_angles: np.ndarray = field(
        default_factory=no_values,
        metadata=a_series("direction", "length of the chord over the norm of theta"),
    )
    num_facets: int | None = a_number("facets of the cell")
    all_facets: bool = False
    radius: float | None = a_number("radius of the largest ball in the cell", "parameter")
    minimum: MinimumSurvey | None = None
    descent_losses: np.ndarray = field(
        default_factory=no_values,
        metadata=a_series("descent_step", "loss along exact descent of this layer", "loss"),
    )
    descent_status: str = ""
    descent_causes: tuple[str, ...] = ()
    descent_end: Verdict | None = None
    tree: TreeSurvey | None = None
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The layer's place and name in a few characters: ``1 (hidden.0)``."""
        return f"{self.index + 1} ({self.name})" if self.name else f"{self.index + 1}"

    @property
    def descent_fall(self) -> float | None:
        """Share of the loss that exact descent of this layer removed; None where there was none."""
        if not self.descent_losses.size:
            return None
        start = float(self.descent_losses[0])
        return 1.0 - float(self.descent_losses[-1]) / start if start else 0.0

    @property
    def dead_share(self) -> float | None:
        """Share of hidden units that are inactive on every sample; None without hidden units."""
        return float(np.mean(self.activity == 0)) if self.activity.size else None

    @property
    def always_share(self) -> float | None:
        """Share of hidden units that are active on every sample; None without hidden units."""
        return float(np.mean(self.activity == 1)) if self.activity.size else None


@dataclass(frozen=True, slots=True, eq=False)
class ModelSurvey:
    """What is known of one model.

    Attributes:
        name: What the report calls it.
        description: How it was trained or where it came from, in words.
        options: Command-line options that load it again, for the commands in the report.
        num_params: Number of parameters; None while the model is not built.
        loss: The loss where training stopped.
        gradient_norm: Norm of its gradient in all parameters.
        verdict: The whole network's certificate in short; None if there is none.
        minima: Whether the cell holds a genuine minimum of the whole network, one record for each sign
            convention; none where that does not apply.
        convexity: How convex the loss is with its switches frozen; None if that was not asked.
        layers: One record per readable affine layer, first to last.
        losses: (steps,) training loss per step; empty without a record of the training.
        flips: (kept steps - 1,) hidden switching signs that changed in each of the last steps.
        num_switches: Number of hidden switching signs in all.
        unreadable: Why no part of the module can be read as affine and ReLU layers; else empty.
        opaque: Parts that run before the first readable layer as a black box.
        opaque_reason: Why they are one.
        notes: Sentences on what could not be done, and why.
        complete: Whether every step was finished.
    """

    name: str
    description: str = ""
    options: str = ""
    num_params: int | None = a_number("parameters")
    loss: float | None = a_number("loss where training stopped", "loss")
    gradient_norm: float | None = a_number("norm of the gradient", "loss/parameter")
    verdict: Verdict | None = None
    minima: tuple[MinimumSurvey, ...] = ()
    convexity: ConvexitySurvey | None = None
    layers: tuple[LayerSurvey, ...] = ()
    losses: np.ndarray = field(
        default_factory=no_values,
        metadata=a_series("training_step", "loss before the step", "loss"),
    )
    flips: np.ndarray = field(
        default_factory=no_values,
        metadata=a_series("last_step", "switching signs that changed", "1"),
    )
    num_switches: int | None = a_number("hidden switching signs")
    unreadable: str = ""
    opaque: tuple[str, ...] = ()
    opaque_reason: str = ""
    notes: tuple[str, ...] = ()
    complete: bool = False

    @property
    def steps_in_cell(self) -> int:
        """Number of training steps at the very end that flipped no switching sign."""
        moved = np.flatnonzero(self.flips)
        return int(self.flips.size - (moved[-1] + 1 if moved.size else 0))


@dataclass(frozen=True, slots=True)
class DataSummary:
    """The data of a survey in words and counts.

    Attributes:
        name: Name or file of the data.
        num_samples: Number of samples.
        input_shape: Shape of one sample's input.
        task: What the targets are, in words.
        classes: Names of the classes; empty for a regression.
        standardised: Whether the inputs were standardised.
        notes: Sentences on constant columns, duplicates and the like.
        options: Command-line options that load the data again.
    """

    name: str
    num_samples: int = a_number("samples")
    input_shape: str = ""
    task: str = ""
    classes: tuple[str, ...] = ()
    standardised: bool = False
    notes: tuple[str, ...] = ()
    options: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """The results of one survey.

    Attributes:
        data: The data in short.
        loss_name: Name of the loss.
        weight_decay: Factor of half the squared norm of the parameters in the loss.
        arithmetic: Arithmetic of the certificates.
        seed: Seed of every random choice of the analyses.
        models: One record per model.
        complete: False if the survey was interrupted.
        version: Version of the package that made it.
        pair: What lies between two models of one shape; None where there are none.
    """

    data: DataSummary
    loss_name: str
    weight_decay: float = a_number("weight decay")
    arithmetic: str = "float64"
    seed: int = a_number("seed")
    models: tuple[ModelSurvey, ...] = ()
    complete: bool = False
    version: str = ""
    pair: PairSurvey | None = None

    @property
    def verdicts(self) -> tuple[str, ...]:
        """One line for each model's whole network and each of its layers, and one for what joins two."""
        lines = [line for model in self.models for line in _model_verdicts(model)]
        return (*lines, *((self.pair.line,) if self.pair else ()))

    def summary(self) -> str:
        """A few lines: the verdicts, and whether the survey was interrupted."""
        ending = () if self.complete else ("incomplete: the survey was interrupted",)
        return "\n".join((*self.verdicts, *ending))

    def save(self, path: str | Path) -> None:
        """Write the records as one NetCDF file; :func:`load_survey` reads it back."""
        tree = xr.DataTree.from_dict(_groups(self, "/"))
        content = netcdf(tree)
        write_then_rename(Path(path), lambda file: file.write_bytes(content))


def load_survey(path: str | Path) -> Survey:
    """Read a survey that :meth:`Survey.save` wrote.

    Args:
        path: The NetCDF file, usually ``OUT/results.nc``.

    Raises:
        InputError: The file is missing or was not written by a survey.
    """
    try:
        with xr.open_datatree(path, engine="h5netcdf") as tree:
            found = {group: tree[group].to_dataset().load() for group in tree.groups}
    except (OSError, ValueError) as error:
        raise InputError(f"expected the results.nc of a survey, got {path}: {error}") from error
    if found["/"].attrs.get("format") != FORMAT:
        raise InputError(
            f"expected results in the format {FORMAT!r}, got {path} without that mark; "
            "run `reluscape survey` to make one"
        )
    models = (_read_model(found, group) for group in _children(found, "/", "model"))
    data = _read(DataSummary, found["/data"])
    pair = _read_pair(found) if "/pair" in found else None
    return _read(Survey, found["/"], data=data, models=tuple(models), pair=pair)


def _model_verdicts(model: ModelSurvey) -> list[str]:
    lines = [verdict_line(f"{model.name}, whole network", model.verdict)]
    return lines + [_layer_verdict(model, layer) for layer in model.layers]


def _layer_verdict(model: ModelSurvey, layer: LayerSurvey) -> str:
    line = verdict_line(f"{model.name}, layer {layer.label}", layer.verdict)
    if layer.descent_fall is None:
        return line
    return f"{line}; exact descent removes {share(layer.descent_fall)} of the loss"


#: Records that stand alone in their field.
ONE = Verdict | MinimumSurvey | ConvexitySurvey | DataSummary | PairSurvey | TreeSurvey


def _groups(record: Any, group: str) -> dict[str, xr.Dataset]:
    """The record's own dataset and those of the records inside it, by group."""
    found = {group: _dataset(record)}
    if group == "/":
        found[group].attrs["format"] = FORMAT
    for item in fields(record):
        value = getattr(record, item.name)
        stem = group.rstrip("/")
        if isinstance(value, ONE):
            found |= _groups(value, f"{stem}/{item.name}")
        elif item.name in ONE_OF and not item.metadata:
            for place, part in enumerate(value):
                found |= _groups(part, f"{stem}/{ONE_OF[item.name]}_{place}")
    return found


def _dataset(record: Any) -> xr.Dataset:
    variables: dict[str, xr.Variable] = {}
    attributes: dict[str, str] = {}
    for item in fields(record):
        value = getattr(record, item.name)
        if (item.name in NESTED and not item.metadata) or _is_empty(value):
            continue
        if item.metadata:
            about = {key: item.metadata[key] for key in ("long_name", "units")}
            variables[item.name] = xr.Variable(item.metadata.get("dims", ()), value, about)
        else:
            attributes[item.name] = json.dumps(value) if not isinstance(value, str) else value
    return xr.Dataset(variables, attrs=attributes)


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, np.ndarray | str | tuple) and len(value) == 0)


def _read_model(found: Mapping[str, xr.Dataset], group: str) -> ModelSurvey:
    layers = tuple(
        _read(
            LayerSurvey,
            found[place],
            verdict=_read_one(Verdict, found, f"{place}/verdict"),
            minimum=_read_one(MinimumSurvey, found, f"{place}/minimum"),
            descent_end=_read_one(Verdict, found, f"{place}/descent_end"),
            tree=_read_one(TreeSurvey, found, f"{place}/tree"),
        )
        for place in _children(found, group, "layer")
    )
    minima = tuple(
        _read(MinimumSurvey, found[place]) for place in _children(found, group, "minimum")
    )
    verdict = _read_one(Verdict, found, f"{group}/verdict")
    convexity = _read_one(ConvexitySurvey, found, f"{group}/convexity")
    whole = {"minima": minima, "verdict": verdict, "convexity": convexity}
    return _read(ModelSurvey, found[group], layers=layers, **whole)


def _read_pair(found: Mapping[str, xr.Dataset]) -> PairSurvey:
    strings = (_read(StringSurvey, found[place]) for place in _children(found, "/pair", "string"))
    return _read(PairSurvey, found["/pair"], strings=tuple(strings))


def _read_one(kind: type[Record], found: Mapping[str, xr.Dataset], place: str) -> Record | None:
    return _read(kind, found[place]) if place in found else None


def _children(found: Mapping[str, xr.Dataset], group: str, kind: str) -> list[str]:
    stem = f"{group.rstrip('/')}/{kind}_"
    places = [name for name in found if name.startswith(stem) and name[len(stem) :].isdigit()]
    return sorted(places, key=lambda name: int(name[len(stem) :]))


def _read(kind: type[Record], dataset: xr.Dataset, **nested: Any) -> Record:
    values = {
        item.name: _value(item, dataset)
        for item in fields(kind)  # type: ignore[arg-type]
        if item.name in dataset or item.name in dataset.attrs
    }
    return kind(**(values | nested))


def _value(item: Field[Any], dataset: xr.Dataset) -> Any:
    if item.name in dataset:
        values = dataset[item.name].values
        return values if values.ndim else values.item()
    text = dataset.attrs[item.name]
    value = text if item.type == "str" else json.loads(text)
    return tuple(value) if isinstance(value, list) else value
