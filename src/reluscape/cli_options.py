"""Options that several commands share, and what they name."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reluscape.errors import InputError

if TYPE_CHECKING:
    from torch.nn import Module

    from reluscape.landscape import Landscape

__all__ = [
    "DATA", "MODEL", "WEIGHTS", "Arithmetic", "Dask", "DataName", "Decay", "Json", "Loss", "LossName",
    "Model", "Standardise", "Target", "Weights", "as_option", "checked_decay", "complain",
    "data_options", "landscape_from", "layers_called", "module_from",
]  # fmt: skip


class Arithmetic(StrEnum):
    """Arithmetic of certificates and trees."""

    float64 = "float64"
    rational = "rational"


class LossName(StrEnum):
    """The losses; a test keeps them equal to the library's."""

    squared = "squared"
    half_squared = "half_squared"
    l1 = "l1"
    cross_entropy = "cross_entropy"


def checked_decay(value: float | None) -> float | None:
    """A weight decay that makes sense, or none."""
    if value is not None and not 0 <= value < math.inf:
        raise InputError(f"expected a finite weight decay of at least 0, got {value}")
    return value


WEIGHTS = "Weights: .safetensors, or .pt with a state dict (read without running code)."
MODEL = "module:factory that builds the model; needed unless it is a plain ReLU network."
DATA = "digits, diabetes, breast_cancer, wine, FILE.npz, FILE.csv or module:factory."

Weights = Annotated[Path | None, typer.Option("--weights", help=WEIGHTS)]
Model = Annotated[str | None, typer.Option("--model", help=MODEL)]
DataName = Annotated[str | None, typer.Option("--data", help=DATA)]
Target = Annotated[
    str | None, typer.Option(help="Target column of a .csv: name or index (default: the last).")
]
Standardise = Annotated[
    bool, typer.Option("--standardise", help="Bring each input column to mean 0 and variance 1.")
]
Loss = Annotated[
    LossName | None,
    typer.Option(help="Default: cross_entropy for class labels, squared for other targets."),
]
Decay = Annotated[
    float,
    typer.Option(
        "--weight-decay",
        callback=checked_decay,
        help="Adds this times half the squared norm; at least 0.",
    ),
]
Dask = Annotated[
    str | None,
    typer.Option("--dask", metavar="ADDRESS", help="Dask scheduler, such as tcp://host:8786."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def as_option(name: str, value: object) -> list[str]:
    """An option as it is given on a command line; nothing where there is no value."""
    return [] if value is None else [name, str(value)]


def data_options(data: str, target: str | None, standardise: bool) -> list[str]:
    """The options that name data."""
    return ["--data", data, *as_option("--target", target), *["--standardise"] * standardise]


def landscape_from(
    data: str | None,
    target: str | None,
    standardise: bool,
    weights: Path | None,
    model: str | None,
    loss: LossName | None,
    weight_decay: float,
) -> Landscape:
    """The landscape of the model and data that the options name."""
    return module_from(data, target, standardise, weights, model, loss, weight_decay)[1]


def module_from(
    data: str | None,
    target: str | None,
    standardise: bool,
    weights: Path | None,
    model: str | None,
    loss: LossName | None,
    weight_decay: float,
) -> tuple[Module, Landscape]:
    """The model that the options name, and its landscape."""
    if data is None or (weights is None and model is None):
        raise InputError("expected a model and its data: give --weights or --model, and --data")
    from reluscape.data import load_data
    from reluscape.models import load_model
    from reluscape.subjects import landscape_of

    loaded = load_data(data, target=target, standardise=standardise)
    module = load_model(weights, model)
    return module, landscape_of(module, loaded, loss and loss.value, weight_decay)


def layers_called(landscape: Landscape, layer: str | None) -> tuple[str | None, ...]:
    """The layers that an option names; None is the whole network."""
    from reluscape.survey_steps import asked_layer

    if layer is None:
        return (None,)
    if layer == "all":
        return landscape.layers
    return (landscape.block(asked_layer(layer, landscape.layers)).layer,)


def complain(text: str) -> None:
    """Write a line to stderr."""
    typer.echo(" ".join(text.split()), err=True)
