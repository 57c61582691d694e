"""Training data: built-in sets, files and factories, checked once at the edge.

A :class:`Data` holds finite float64 inputs and either class indices or float targets. The dtype
of the targets decides: integers, booleans and text are class labels, floats are regression
targets. Integers with very many distinct values (more than 20 and more than N/10) are regression
targets too, and a note says so.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from reluscape import factory
from reluscape.data_files import RawData, read_csv, read_npz
from reluscape.errors import InputError
from reluscape.losses import LOSSES

__all__ = ["BUILT_IN", "Data", "load_data"]

BUILT_IN = ("digits", "diabetes", "breast_cancer", "wine")
_MAX_CLASSES = 65_536  # a label beyond this is taken for a mistake, not for a class index
_FEW_LABELS = 20


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Data:
    """Inputs and targets of a training set.

    Attributes:
        inputs: (N, ...) float64, finite; the first axis counts samples.
        targets: (N,) int64 class indices, or (N, k) float64.
        name: where the data came from, for reports.
        classes: names of the classes by index; empty for regression. May name more classes than
            occur.
        features: column names of two-dimensional inputs, or empty.
        standardised: whether each input column was brought to mean 0 and variance 1.
        notes: plain sentences on what is unusual (constant columns, duplicate samples, ...).
    """

    inputs: np.ndarray
    targets: np.ndarray
    name: str
    classes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    standardised: bool = False
    notes: tuple[str, ...] = ()

    @property
    def num_samples(self) -> int:
        """The number N of samples."""
        return len(self.inputs)

    def __repr__(self) -> str:
        shape = " x ".join(str(n) for n in self.inputs.shape[1:])
        target = (
            f"{len(self.classes)} classes" if self.classes else f"{self.targets.shape[1]} targets"
        )
        return f"Data({self.name}: {self.num_samples} samples of {shape} features, {target})"

    def summary(self) -> str:
        """Name, sizes and notes, one a line."""
        about = repr(self).removeprefix("Data(").removesuffix(")")
        return "\n".join([f"data: {about}", *(f"  {note}" for note in self.notes)])

    def flattened(self) -> Data:
        """The same data with inputs of shape (N, features)."""
        return replace(self, inputs=self.inputs.reshape(self.num_samples, -1))

    def targets_for(self, loss: str, num_outputs: int) -> np.ndarray:
        """The targets in the form that a loss on ``num_outputs`` outputs needs.

        Class labels give int64 indices (N,) for cross_entropy. For the other losses they give
        one-hot rows (N, num_outputs), or, with one output and two classes, -1 and +1 (N, 1).
        Float targets are returned as they are, (N, k).

        Args:
            loss: one of ``losses.LOSSES``.
            num_outputs: columns of the model's output.

        Raises:
            InputError: targets, loss and outputs do not fit together.
        """
        if loss not in LOSSES:
            raise InputError(f"expected a loss among {', '.join(LOSSES)}, got {loss!r}")
        if self.classes:
            return self._class_targets(loss, num_outputs)
        if loss == "cross_entropy":
            raise InputError(
                f"cross_entropy needs class labels, but {self.name} holds regression targets: "
                "use the loss squared or l1, or store labels as integers or text"
            )
        if self.targets.shape[1] != num_outputs:
            raise InputError(
                f"the model has {num_outputs} outputs but {self.name} has "
                f"{self.targets.shape[1]} target columns: they must agree"
            )
        return self.targets

    def _class_targets(self, loss: str, num_outputs: int) -> np.ndarray:
        largest = int(self.targets.max())
        if num_outputs == 1:
            if loss == "cross_entropy":
                raise InputError(
                    "cross_entropy needs one output per class, but the model has 1 output: "
                    "use the loss squared (classes become -1 and +1)"
                )
            return self._signs()
        if largest >= num_outputs:
            raise InputError(
                f"{self.name} has the class label {largest} but the model has {num_outputs} "
                f"outputs, for labels 0 to {num_outputs - 1}: renumber the labels from 0 or use "
                "a model with more outputs"
            )
        return self.targets if loss == "cross_entropy" else np.eye(num_outputs)[self.targets]

    def _signs(self) -> np.ndarray:
        present = np.unique(self.targets)
        if len(self.classes) != 2 and len(present) != 2:
            numbered = self.classes == tuple(map(str, range(len(self.classes))))
            told = ", or store numbers to fit as floats: 3.0, not 3" if numbered else ""
            classes = f"{len(present)} class{'es' * (len(present) != 1)}"
            raise InputError(
                f"the model has 1 output but {self.name} has {classes}; one output "
                f"can tell two apart: use a model with one output per class{told}"
            )
        upper = 1 if len(self.classes) == 2 else present[-1]
        return np.where(self.targets == upper, 1.0, -1.0)[:, None]


def load_data(source: str, *, target: str | None = None, standardise: bool = False) -> Data:
    """Load and check a data set.

    Args:
        source: ``digits``, ``diabetes``, ``breast_cancer``, ``wine``, a ``.npz`` file with the
            keys x and y (never pickled), a ``.csv`` file, or ``module:factory`` returning
            (x, y) or a :class:`Data`.
        target: for ``.csv``: name or index of the target column (default: the last).
        standardise: bring each input column to mean 0 and variance 1 over the samples. Constant
            columns are only centred. Targets are left as they are.

    Raises:
        InputError: nothing is found under ``source``, or what is found cannot be used (values
            that are not finite, fewer than two samples, lengths that differ, labels that are
            not class indices, ...).
    """
    if target is not None and not source.lower().endswith(".csv"):
        raise InputError(f"a target column is for .csv files, but the data is {source}: drop it")
    found = _find(source, target)
    data = found if isinstance(found, Data) else _check(found)
    return _standardised(data) if standardise else data


def _find(source: str, target: str | None) -> RawData | Data:
    suffix = Path(source).suffix.lower()
    if source in BUILT_IN:
        return _built_in(source)
    if suffix == ".npz":
        return read_npz(Path(source))
    if suffix == ".csv":
        return read_csv(Path(source), target)
    if factory.is_factory_name(source):
        return _from_factory(source)
    close = difflib.get_close_matches(source, BUILT_IN, n=1)
    hint = f"did you mean {close[0]}?" if close else f"the names are {', '.join(BUILT_IN)}"
    raise InputError(
        f"expected a data set name, FILE.npz, FILE.csv or module:factory, got {source!r}: {hint}"
    )


def _built_in(name: str) -> RawData:
    from sklearn import datasets  # slow to import, so only when needed

    bunch = getattr(datasets, f"load_{name}")()
    classes = tuple(str(label) for label in getattr(bunch, "target_names", ()))
    scaled = "scikit-learn ships diabetes with each column centred and scaled to norm 1"
    return RawData(
        name,
        bunch.data,
        bunch.target,
        classes=classes,
        features=tuple(bunch.feature_names),
        notes=(scaled + ".",) if name == "diabetes" else (),
    )


def _from_factory(source: str) -> RawData | Data:
    made = factory.build(source)
    if isinstance(made, Data):
        raw = RawData(made.name, made.inputs, made.targets, made.classes, made.features, made.notes)
        return replace(_check(raw), standardised=made.standardised)
    if not isinstance(made, (tuple, list)) or len(made) != 2:
        raise InputError(f"{source} must return (x, y) or a Data, got {type(made).__name__}")
    try:
        x, y = (np.asarray(part) for part in made)
    except (ValueError, TypeError, RuntimeError) as error:
        text = " ".join(str(error).split())[:200]
        raise InputError(f"{source} returned what is no array ({text})") from error
    return RawData(source, x, y)


def _check(raw: RawData) -> Data:
    """Validate arrays and describe what is unusual about them."""
    if raw.x.ndim == 0 or raw.y.ndim == 0:
        raise InputError(f"{raw.name}: expected arrays with one row per sample, got a scalar")
    if len(raw.x) != len(raw.y):
        raise InputError(
            f"{raw.name} has {len(raw.x)} samples in x but {len(raw.y)} in y: "
            "they must pair up row by row"
        )
    if len(raw.x) < 2 or raw.x.size == 0:
        raise InputError(
            f"{raw.name} has {len(raw.x)} sample{'s' * (len(raw.x) != 1)} of shape {raw.x.shape[1:]}: "
            "expected at least 2 samples with at least 1 feature"
        )
    inputs = _as_float(raw.x, f"{raw.name}: x", raw.features)
    inputs = inputs[:, None] if inputs.ndim == 1 else inputs
    targets, classes, label_notes = _read_targets(raw)
    notes = (*raw.notes, *label_notes, *_describe(inputs, targets, classes))
    features = raw.features if len(raw.features) == inputs.shape[1] else ()
    return Data(inputs, targets, raw.name, classes, features, notes=notes)


def _as_float(values: np.ndarray, what: str, columns: Sequence[str] = ()) -> np.ndarray:
    """Finite float64 with -0.0 made 0.0, or an InputError that says where it is not."""
    if values.dtype.kind not in "biuf":
        kind = {"O": "objects", "c": "complex numbers", "U": "text", "S": "bytes"}
        raise InputError(
            f"{what} holds {kind.get(values.dtype.kind, str(values.dtype))}; "
            "expected real numbers: convert it before saving"
        )
    with np.errstate(over="ignore"):
        result = values.astype(np.float64) + 0.0
    bad = ~np.isfinite(result)
    if bad.any():
        first = tuple(int(k) for k in np.argwhere(bad)[0])
        where = f"row {first[0]}"
        if len(first) == 2:
            where += f", column {columns[first[1]]!r}" if columns else f", column {first[1]}"
        elif len(first) > 2:
            where += f", position {first[1:]}"
        raise InputError(
            f"{what} holds {int(bad.sum())} values that are not finite float64 numbers, the "
            f"first ({values[first]}) at {where}, counted from 0: drop or fill these samples"
        )
    return np.asarray(result)


def _read_targets(raw: RawData) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """Targets, class names (empty for regression) and notes."""
    y, what = raw.y, f"{raw.name}: y"
    if y.dtype.kind == "O" and all(isinstance(label, str) for label in y.flat):
        y = y.astype(np.str_)
    if y.ndim == 2 and y.shape[1] == 1 and y.dtype.kind != "f":
        y = y[:, 0]
    if y.dtype.kind in "USb" and y.ndim == 1:
        y = np.char.decode(y, "utf-8", "replace") if y.dtype.kind == "S" else y
        names, targets = np.unique(y, return_inverse=True)
        return targets.astype(np.int64), tuple(str(name) for name in names), ()
    if y.dtype.kind in "iu" and y.ndim == 1:
        distinct = len(np.unique(y))
        if raw.classes or distinct <= max(_FEW_LABELS, len(y) // 10):
            return _read_labels(y, what, raw.classes)
        note = f"The targets are {distinct} distinct integers, read as regression targets."
        return _as_float(y, what)[:, None], (), (note,)
    if y.ndim > 2:
        raise InputError(f"{what} has shape {y.shape}; expected (N,) or (N, outputs)")
    targets = _as_float(y, what)
    if targets.size == 0:
        raise InputError(f"{what} has shape {y.shape}; expected at least one target column")
    return (targets[:, None] if targets.ndim == 1 else targets), (), ()


def _read_labels(
    y: np.ndarray, what: str, names: tuple[str, ...]
) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """Integer labels as class indices: -1 and +1 are renumbered, all else must count from 0."""
    distinct = np.unique(y)
    lowest, highest = int(distinct[0]), int(distinct[-1])
    if (lowest, highest, len(distinct)) == (-1, 1, 2):
        return (y > 0).astype(np.int64), ("-1", "1"), ()
    limit = len(names) or _MAX_CLASSES
    if lowest < 0 or highest >= limit:
        row = int(np.argmax((y < 0) | (y >= limit)))
        cause = " (an overflow?)" if lowest < 0 or highest >= 2**31 else ""
        raise InputError(
            f"{what} holds the label {y[row]}{cause} at row {row}, counted from 0; expected class "
            f"indices 0 to {limit - 1}, or -1 and 1: renumber the classes, or store regression "
            "targets as floats"
        )
    names = names or tuple(str(k) for k in range(max(highest + 1, 2)))
    absent = highest + 1 - len(distinct)
    notes = [f"{absent} of the class indices 0 to {highest} do not occur."] if absent else []
    if len(distinct) == 1:
        notes.append("All samples have the same class.")
    return y.astype(np.int64), names, tuple(notes)


def _describe(inputs: np.ndarray, targets: np.ndarray, classes: Sequence[str]) -> list[str]:
    """Sentences on constant columns, duplicate samples and contradicting targets."""
    flat = inputs.reshape(len(inputs), -1)
    constant = int(np.sum(flat.max(axis=0) == flat.min(axis=0)))
    seen: dict[bytes, bytes] = {}
    duplicates = contradictions = 0
    for row, target in zip(flat, targets, strict=True):
        key, value = row.tobytes(), target.tobytes()
        if key in seen:
            duplicates += 1
            contradictions += value != seen[key]
        else:
            seen[key] = value
    notes = []
    if constant:
        notes.append(f"{constant} of {flat.shape[1]} input columns are constant.")
    if duplicates:
        notes.append(f"{duplicates} samples repeat the inputs of an earlier sample.")
    if contradictions:
        noun = "class label" if classes else "target"
        notes.append(f"{contradictions} of these have another {noun} than the first of their kind.")
    return notes


def _standardised(data: Data) -> Data:
    flat = data.inputs.reshape(data.num_samples, -1)
    constant = flat.max(axis=0) == flat.min(axis=0)
    with np.errstate(over="ignore", invalid="ignore"):
        # A constant column has its own value as mean; the rounded mean would leave a residue.
        centred = flat - np.where(constant, flat[0], flat.mean(axis=0))
        scale = np.where(constant, 1.0, centred.std(axis=0))
        inputs = centred / np.where(scale > 0, scale, 1.0)
    bad = ~(np.isfinite(scale) & np.isfinite(inputs).all(axis=0))
    if bad.any():
        column = int(np.argmax(bad))
        raise InputError(
            f"{data.name}: input column {column} is too large to standardise in float64: "
            "rescale it first"
        )
    note = "Each input column was standardised to mean 0 and variance 1"
    note += f" ({int(constant.sum())} constant columns only centred)." if constant.any() else "."
    shaped = inputs.reshape(data.inputs.shape)
    return replace(data, inputs=shaped, standardised=True, notes=(*data.notes, note))
