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
from reluscape.monitor.monitor import ConvexityMonitor
from reluscape.monitor.trajectory import Trajectory
from reluscape.progress import Progress, Stop
from reluscape.weights import read_state

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt")


#: Why a file is left out that a `Stop` came before.
INTERRUPTED = "interrupted before"


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
        checkpoints: A folder, or files in order. A folder's weights files are taken in the order of the
            last number of their names if all that fit have different ones, which are then the `steps`;
            otherwise in the order of their names.
        landscape: Of the same model on its training data.
        crossings: Whether to count the kinks crossed between checkpoints.
        rate: The time that one `step` takes: the learning rate times the training steps that it stands
            for. Without it `times` are NaN and there is no `decay`.
        watch: Further numbers by name, each a function of the model.
        progress: Told what is being done and the fraction done; if it raises `Stop`, the checkpoints so
            far are the trajectory.

    Cost: about four forward and a backward pass per checkpoint, in float64; each file is read twice.

    Raises:
        InputError: No weights files, none that fits the landscape's model, or a file of a list that does
            not exist.
    """
    if rate is not None and not 0.0 < rate < math.inf:
        raise InputError(f"rate must be a positive number; received {rate!r}")
    told = progress or _silent
    model = landscape.module_at()
    paths, skipped = _fitting(_files(checkpoints), model, told)
    numbered = _numbered(paths, isinstance(checkpoints, (str, os.PathLike)))
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


def _files(
    checkpoints: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
) -> list[Path]:
    """Weights files, those of a folder by name."""
    if not isinstance(checkpoints, (str, os.PathLike)):
        found = [Path(one) for one in checkpoints]
        missing = [str(path) for path in found if not path.is_file()]
        if not found or missing:
            received = f"{missing[0]} is no file" if missing else "received none"
            raise InputError(f"expected at least one checkpoint; {received}")
        return found
    folder = Path(checkpoints)
    if not folder.is_dir():
        raise InputError(f"expected a folder of checkpoints; {folder} is none")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        raise InputError(f"expected checkpoints ({', '.join(SUFFIXES)}) in {folder}; it has none")
    return found


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


def _numbered(paths: Sequence[Path], by_name: bool) -> list[tuple[int, Path]]:
    """The files with the numbers of their steps, in order."""
    numbers = [re.findall(r"\d+", path.stem) for path in paths]
    steps = [int(one[-1]) if one else -1 for one in numbers]
    if not by_name or min(steps) < 0 or len(set(steps)) < len(steps):
        return list(enumerate(paths))
    return sorted(zip(steps, paths, strict=True))


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
