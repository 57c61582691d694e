"""What the command line's options name: data sets and the models to look at."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from reluscape.data import Data
from reluscape.errors import InputError
from reluscape.landscape import Landscape
from reluscape.models import InferredMLP, load_model, num_outputs, takes_flat_inputs
from reluscape.survey import Subject
from reluscape.train import Training, mlp, train

__all__ = ["Choice", "choose", "landscape_of", "loaded", "trained"]

HIDDEN = (16, 16)
STEPS = 3000
BATCH = 64
RATE = 0.003


@dataclass(frozen=True, slots=True)
class Choice:
    """Subjects of a survey with the loss that fits them, and why that loss."""

    subjects: tuple[Subject, ...]
    loss: str
    why: str


def choose(
    weights: Sequence[Path],
    model: str | None,
    data: Data,
    loss: str | None,
    weight_decay: float,
    seed: int,
) -> Choice:
    """The models that the options name, or two small networks trained from neighbouring seeds.

    Raises:
        InputError: more than two weights files, one twice, or models that do not fit the data.
    """
    if not math.isfinite(weight_decay):
        raise InputError(f"expected a finite weight decay, got {weight_decay}")
    if not weights and model is None:
        name, why = (loss, "as asked") if loss else _loss_for(data, None)
        return Choice(
            tuple(trained(data, name, weight_decay, seed=k) for k in (seed, seed + 1)), name, why
        )
    if len(weights) > 2:
        raise InputError(f"a survey takes one or two models, got {len(weights)} weights files")
    if len({path.resolve() for path in weights}) < len(weights):
        raise InputError(f"the weights file {weights[0]} is given twice: name two different ones")
    files: list[Path | None] = [*weights] or [None]
    modules = [load_model(path, model) for path in files]
    name, why = (loss, "as asked") if loss else _loss_for(data, _outputs(modules[0], data))
    for module in modules:
        data.targets_for(name, _outputs(module, data))
    stems = [path.stem for path in weights] or [str(model)]
    names = stems if len(set(stems)) == len(stems) else [str(path) for path in weights]
    subjects = [
        loaded(module, title, model, path)
        for module, title, path in zip(modules, names, files, strict=True)
    ]
    return Choice(tuple(subjects), name, why)


def loaded(module: nn.Module, name: str, model: str | None, weights: Path | None) -> Subject:
    """A subject that is there already."""
    source = f"weights {weights}" if weights else "weights of its own"
    if isinstance(module, InferredMLP):
        shape = "-".join(str(width) for width in module.widths)
        description = (
            f"{source}, read as a {shape} network with ReLU between its Linear layers "
            "(a weights file does not name the activation)"
        )
    else:
        description = f"built by {model}, {source}"
    options = f"--model {model}" if model else ""
    return Subject(name, lambda _: (module, None), options=options, description=description)


def trained(data: Data, loss: str, weight_decay: float, *, seed: int) -> Subject:
    """A subject that is trained when its turn comes: two hidden layers of 16 units, Adam."""
    flat = data.flattened()
    outputs = len(data.classes) or data.targets.shape[1]
    if data.classes and loss != "cross_entropy" and outputs == 2:
        outputs = 1
    targets = flat.targets_for(loss, outputs)
    epochs = max(1, STEPS // math.ceil(data.num_samples / BATCH))

    def build(progress: Callable[[str, float], None]) -> tuple[nn.Module, Training]:
        model = mlp((flat.inputs.shape[1], *HIDDEN, outputs), seed=seed)
        if not data.classes:
            _start_at(model, targets)
        record = train(
            model,
            flat.inputs,
            targets,
            loss=loss,
            weight_decay=weight_decay,
            epochs=epochs,
            batch_size=BATCH,
            rate=RATE,
            seed=seed,
            progress=progress,
        )
        return model, record

    return Subject(f"seed {seed}", build)


def landscape_of(module: nn.Module, data: Data, loss: str | None, weight_decay: float) -> Landscape:
    """The landscape of a model; the loss is chosen by the targets where it is not given."""
    data = data.flattened() if takes_flat_inputs(module, data.inputs) else data
    outputs = num_outputs(module, data.inputs)
    name = loss or _loss_for(data, outputs)[0]
    targets = data.targets_for(name, outputs)
    return Landscape(module, data.inputs, targets, loss=name, weight_decay=weight_decay)


def _outputs(module: nn.Module, data: Data) -> int:
    data = data.flattened() if takes_flat_inputs(module, data.inputs) else data
    return num_outputs(module, data.inputs)


def _loss_for(data: Data, outputs: int | None) -> tuple[str, str]:
    if not data.classes:
        return "squared", "the default for regression targets"
    if outputs is None or outputs > max(1, int(data.targets.max())):
        return "cross_entropy", "the default for class labels"
    return "squared", "the default for one output"


def _start_at(model: nn.Sequential, targets: np.ndarray) -> None:
    """Scale the last layer to the spread of the targets and centre it, so that Adam need not."""
    last = model[-1]
    with torch.no_grad():
        spread = torch.from_numpy(np.maximum(targets.std(axis=0), 1e-12))
        last.weight.mul_(spread[:, None])  # type: ignore[operator]
        last.bias.copy_(torch.from_numpy(targets.mean(axis=0)))  # type: ignore[operator]
