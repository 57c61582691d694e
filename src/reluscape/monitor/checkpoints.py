"""A folder of checkpoints as a trajectory."""

from __future__ import annotations

import copy
import math
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from reluscape.errors import InputError
from reluscape.landscape import Landscape
from reluscape.models import load_model
from reluscape.monitor.monitor import ConvexityMonitor
from reluscape.monitor.trajectory import Trajectory
from reluscape.progress import Progress, Stop
from reluscape.weights import read_state

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt")
#: The largest step.
MOST = 2**62

#: Why a file is left out that a `Stop` came before.
INTERRUPTED = "interrupted before"
#: And one that could stand anywhere in the run.
UNNUMBERED = "no number in its name says where it belongs"


def trajectory_of(
    checkpoints: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    landscape: Landscape,
    *,
    crossings: bool = True,
    rate: float | None = None,
    watch: Mapping[str, Callable[[nn.Module], float]] | None = None,
    progress: Progress | None = None,
) -> Trajectory:
    """The convexity of a landscape along its gradient at each of a run's checkpoints.

    What lies between two checkpoints is not looked at: `onset` and `loss_fraction` are those of the
    checkpoints. Files that cannot be read, or do not fit the landscape's model, are left out and named
    in `skipped`.

    Args:
        checkpoints: A folder, or files in order. A folder's weights files are taken by the whole numbers
            in their names, compared from the left; those without any are left out, and of those with
            the same ones all but the first. The last number is the `steps`' if it grows from file to
            file; otherwise, as in a list, they count from 0.
        landscape: Of the same model on its training data.
        crossings: Whether to count the kinks crossed between checkpoints.
        rate: The time that one `step` takes: the learning rate times the training steps that it stands
            for. Without it `times` are NaN and there is no `decay`. Of a folder it needs such numbers.
        watch: Further numbers by name, each a function of the model.
        progress: Told what is being done and the fraction done; if it raises `Stop`, the checkpoints so
            far are the trajectory.

    Cost: about four forward and a backward pass per checkpoint, in float64; each file is read twice.

    Raises:
        InputError: No weights files, none with a number, none that fits the landscape's model, or a file
            of a list that does not exist; a rate without numbers that grow.
    """
    if rate is not None and not 0.0 < rate < math.inf:
        raise InputError(f"rate must be a positive number; received {rate!r}")
    told = progress or _silent
    model = landscape.module_at()
    if isinstance(checkpoints, (str, os.PathLike)):
        paths, skipped = _in_order(Path(checkpoints))
        paths, unfit = _fitting(paths, model, told)
        paths, twice = _without_copies(paths)
        numbered, skipped = _numbered(paths, rate), [*skipped, *unfit, *twice]
    else:
        paths, skipped = _fitting(_listed(checkpoints), model, told)
        numbered = list(enumerate(paths))
    monitor = ConvexityMonitor(landscape, crossings=crossings, watch=watch)
    for place, (number, path) in enumerate(numbered):
        try:
            told(f"reading {path.name}", place / len(numbered))
        except Stop:
            if not place:
                raise
            later = len(numbered) - place - 1
            skipped.append(f"{path.name}{f' and {later} later' if later else ''}: {INTERRUPTED}")
            break
        monitor.step(_loaded(model, path), number=number)
    found = monitor.result()
    times = found.times if rate is None else rate * (found.steps - found.steps[0])
    return replace(found, times=times, share=math.nan, skipped=tuple(skipped))


def _silent(what: str, fraction: float) -> None:
    """Progress that nobody watches."""


def last_of(folder: Path, factory: str | None = None) -> Path:
    """The last of a folder's checkpoints that a model can be made of, as `load_model` makes it.

    Raises:
        InputError: None can; it says what is wrong with the last.
    """
    failed: InputError | None = None
    for path in reversed(_in_order(folder)[0]):
        try:
            load_model(path, factory)
        except InputError as error:
            failed = failed or error
        else:
            return path
    assert failed is not None
    raise failed


def _listed(checkpoints: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Files that there are."""
    found = [Path(one) for one in checkpoints]
    missing = [str(path) for path in found if not path.is_file()]
    if not found or missing:
        received = f"{missing[0]} is no file" if missing else "received none"
        raise InputError(f"expected at least one checkpoint; {received}")
    return found


def _in_order(folder: Path) -> tuple[list[Path], list[str]]:
    """A folder's weights files by the numbers in their names, and why the others are left out."""
    if not folder.is_dir():
        raise InputError(f"expected a folder of checkpoints; {folder} is none")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        raise InputError(f"expected checkpoints ({', '.join(SUFFIXES)}) in {folder}; it has none")
    numbered = [path for path in found if _numbers(path)]
    if not numbered:
        raise InputError(
            f"expected checkpoints with numbers in their names, as step-100.pt; {folder} has"
            f" {_some([path.name for path in found])}: rename them"
        )
    rest = [f"{path.name}: {UNNUMBERED}" for path in found if not _numbers(path)]
    return sorted(numbered, key=lambda path: (_numbers(path), len(path.name))), rest


def _numbers(path: Path) -> tuple[int, ...]:
    """The whole numbers in a name; a loss of 0.25 is none."""
    found = re.findall(r"\d+(?:\.\d+)*", path.stem)
    return tuple(int(one) for one in found if "." not in one)


def _without_copies(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """The first of those with the same numbers, as of a best one kept twice."""
    first: dict[tuple[int, ...], Path] = {}
    for path in paths:
        first.setdefault(_numbers(path), path)
    others = [path for path in paths if first[_numbers(path)] != path]
    return [*first.values()], [
        f"{path.name}: it has the numbers of {first[_numbers(path)].name}" for path in others
    ]


def _numbered(paths: Sequence[Path], rate: float | None) -> list[tuple[int, Path]]:
    """The files with the numbers of their steps."""
    steps = [_numbers(path)[-1] for path in paths]
    falling = [k for k in range(1, len(steps)) if steps[k - 1] >= steps[k]]
    if not falling and steps[-1] <= MOST:
        return list(zip(steps, paths, strict=True))
    if rate is not None:
        k = falling[0] if falling else len(paths) - 1
        raise InputError(
            "rate takes the time from the last number in the files' names, which must grow from each to"
            f" the next; {paths[k].name} comes after {paths[k - 1].name}: rename them or leave out rate"
        )
    return list(enumerate(paths))


def _fitting(
    paths: Sequence[Path], model: nn.Module, told: Progress
) -> tuple[list[Path], list[str]]:
    """Those that can be loaded, and why the others cannot."""
    fitting, skipped = [], []
    for path in paths:
        told(f"looking at {path.name}", 0.0)
        try:
            _loaded(model, path)
        except InputError as error:
            skipped.append(f"{path.name}: {_brief(str(error), path)}")
        else:
            fitting.append(path)
    if not fitting:
        raise InputError(f"expected checkpoints of the landscape's model; {skipped[0]}")
    return fitting, skipped


def _brief(error: str, path: Path) -> str:
    """What is wrong with a file whose name has been said."""
    return error.removeprefix(str(path)).lstrip(": ")


def _loaded(model: nn.Module, path: Path) -> nn.Module:
    """The model with a file's weights."""
    state, own = read_state(path), model.state_dict()
    for names, what in ((own.keys() - state, "lacks"), (state.keys() - own, "has besides")):
        if names:
            raise InputError(f"{path} does not fit the landscape's model: it {what} {_some(names)}")
    for name, value in own.items():
        if state[name].shape != value.shape:
            shapes = f"{tuple(state[name].shape)}, not {tuple(value.shape)}"
            raise InputError(
                f"{path} does not fit the landscape's model: {name} has shape {shapes}"
            )
    module = copy.deepcopy(model)
    module.load_state_dict(state)
    return module


def _some(names: Collection[str]) -> str:
    """A few of them."""
    shown = sorted(names)[:3]
    return ", ".join([*shown, *([f"and {len(names) - 3} more"] if len(names) > 3 else [])])
