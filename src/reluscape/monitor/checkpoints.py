"""A folder of checkpoints as a trajectory."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import nn

from reluscape.errors import InputError
from reluscape.landscape import Landscape
from reluscape.monitor.monitor import ConvexityMonitor
from reluscape.monitor.trajectory import Trajectory
from reluscape.weights import read_state

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt")

Progress = Callable[[str, float], None]


def trajectory_of(
    checkpoints: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    landscape: Landscape,
    *,
    crossings: bool = True,
    watch: Mapping[str, Callable[[nn.Module], float]] | None = None,
    progress: Progress | None = None,
) -> Trajectory:
    """The convexity of a landscape along its gradient at each of a run's checkpoints.

    What lies between two checkpoints is not looked at: `onset` and `loss_fraction` are those of the
    checkpoints, and step sizes are unknown.

    Args:
        checkpoints: A folder, or files in order. A folder's weights files are taken in the order of the
            last number of their names if all have different ones, which are then the `steps`; otherwise
            in the order of their names.
        landscape: Of the same model on its training data.
        crossings: Whether to count the kinks crossed between checkpoints.
        watch: Further numbers by name, each a function of the model.
        progress: Told what is being done and the fraction done.

    Cost: about four forward and a backward pass per checkpoint, in float64.

    Raises:
        InputError: No weights files, or one that does not fit the landscape's model.
    """
    numbered = _files(checkpoints)
    monitor = ConvexityMonitor(landscape, crossings=crossings, watch=watch)
    model = landscape.module_at()
    for place, (number, path) in enumerate(numbered):
        if progress is not None:
            progress(f"reading {path.name}", place / len(numbered))
        monitor.step(_loaded(model, path), number=number)
    return monitor.result()


def _files(
    checkpoints: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
) -> list[tuple[int, Path]]:
    """Weights files with the numbers of their steps, in order."""
    if not isinstance(checkpoints, (str, os.PathLike)):
        found = [Path(one) for one in checkpoints]
        if not found:
            raise InputError("expected at least one checkpoint; received none")
        return list(enumerate(found))
    folder = Path(checkpoints)
    if not folder.is_dir():
        raise InputError(f"expected a folder of checkpoints; {folder} is none")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        raise InputError(f"expected checkpoints ({', '.join(SUFFIXES)}) in {folder}; it has none")
    numbers = [re.findall(r"\d+", path.stem) for path in found]
    steps = [int(one[-1]) if one else -1 for one in numbers]
    if min(steps) < 0 or len(set(steps)) < len(steps):
        return list(enumerate(found))
    return sorted(zip(steps, found, strict=True))


def _loaded(model: nn.Module, path: Path) -> nn.Module:
    """The model with a file's weights."""
    state = read_state(path)
    module = copy.deepcopy(model)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        lines = " ".join(str(error).split())
        raise InputError(f"{path} does not fit the landscape's model: {lines[:300]}") from error
    return module
