"""The command `descend`."""

from __future__ import annotations

import json
import os
import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reluscape import __version__
from reluscape.cli_options import (
    Arithmetic,
    DataName,
    Json,
    LossName,
    Model,
    Standardise,
    Target,
    Weights,
    as_option,
    complain,
    data_options,
    layers_called,
    module_from,
)

if TYPE_CHECKING:
    from torch.nn import Module

    from reluscape.descent import Polish
    from reluscape.landscape import Landscape
    from reluscape.report.about import About

__all__ = ["descend"]


class Rule(StrEnum):
    """Rules of a descent; a test keeps them equal to the library's."""

    long_step = "long_step"
    first_kink = "first_kink"


def descend(
    ctx: typer.Context,
    data: DataName = None,
    weights: Weights = None,
    model: Model = None,
    target: Target = None,
    standardise: Standardise = False,
    layer: Annotated[
        str,
        typer.Option(
            "--layer",
            "--layers",
            help="A layer's name or index, several with commas as in 0,2, or 'all'; taken in turn.",
        ),
    ] = "0",
    rule: Annotated[
        Rule, typer.Option(help="Pass kinks while the loss falls, or stop at the first.")
    ] = Rule.long_step,
    max_pivots: Annotated[
        int | None, typer.Option(min=1, help="Largest number of pivots of one descent.")
    ] = None,
    max_sweeps: Annotated[
        int,
        typer.Option(
            min=1, help="Largest number of sweeps over the layers; it is said if reached."
        ),
    ] = 1000,
    arithmetic: Annotated[
        Arithmetic,
        typer.Option(
            help="Of the certificates: float64, and rational where that leaves a layer of at most 60"
            " parameters undecided; or rational for every layer of at most 200."
        ),
    ] = Arithmetic.float64,
    seed: Annotated[int, typer.Option(min=0, max=2**31, help="Seed of the shifts at ties.")] = 0,
    out: Annotated[
        Path, typer.Option(help="Folder for the report, the polished weights and certificates.")
    ] = Path("reluscape-descent"),
    as_json: Json = False,
) -> None:
    """Descend the L1 loss exactly, from a trained model to a certified minimum of its layers.

    The weights so far are written to OUT/polished.safetensors after every layer's descent. The first
    Ctrl-C ends it at the next pivots with a report of what was done, a second one at once. Either way
    the same command with --weights OUT/polished.safetensors goes on.
    """
    from reluscape.descent import polish
    from reluscape.descent_files import DescentFolder
    from reluscape.progress import shown, stoppable

    subject = (data, target, standardise, weights, model)
    module, landscape = module_from(*subject, LossName.l1, 0.0)
    names = _layers_in_turn(landscape, layer)
    folder = DescentFolder(out, complain)
    folder.check()
    about = _about_descent(subject, module, landscape, names, out, rule.value, seed)

    def waiting() -> None:  # in a signal handler: no buffers
        os.write(2, b"stopping at the next pivots; Ctrl-C again to stop at once\n")

    def keep(landscape: Landscape) -> None:
        folder.keep(landscape)
        ctx.obj[:] = [str(folder.weights)]

    with shown() as plain, stoppable(plain, waiting) as progress:
        result = polish(
            landscape,
            names,
            rule=rule.value,
            max_pivots=max_pivots,
            max_sweeps=max_sweeps,
            arithmetic=arithmetic.value,
            seed=seed,
            progress=progress,
            keep=keep,
        )
    try:
        files = folder.write(result, about)
    except KeyboardInterrupt:  # the work is done: one Ctrl-C does not cost its report
        files = folder.write(result, about)
    ctx.obj[:] = map(str, files)
    complete = result.ending not in ("interrupted", "failed")
    if as_json:
        typer.echo(json.dumps(_polish_record(result, complete, out) | {"files": ctx.obj}))
    else:
        typer.echo("\n".join([result.summary(), *(f"  written: {file}" for file in ctx.obj)]))
    if not complete:
        failed = f"error: {result.failure}; what was reached is kept" if result.failure else ""
        what = failed or "interrupted, not certified"
        complain(f"{what}: the same command with --weights {folder.weights} goes on")
        raise typer.Exit(1 if failed else 130)


def _layers_in_turn(landscape: Landscape, layers: str) -> list[str]:
    """The layers to descend, by name: one, several with commas, or all."""
    parts = [layers] if layers in landscape.layers else layers.split(",")
    found = [name for part in parts for name in layers_called(landscape, part.strip())]
    return list(dict.fromkeys(name for name in found if name is not None))


def _about_descent(
    subject: tuple[str | None, str | None, bool, Path | None, str | None],
    module: Module,
    landscape: Landscape,
    layers: list[str],
    out: Path,
    rule: str,
    seed: int,
) -> About:
    """What the page of a descent says of model and data."""
    from reluscape.descent_files import WEIGHTS
    from reluscape.report.about import About
    from reluscape.results import certificate_name, options_from
    from reluscape.subjects import loaded

    data, target, standardise, weights, model = subject
    options = [
        *as_option("--model", model),
        *data_options(data or "", target, standardise),
    ]
    described = loaded(module, "", model, weights).description
    return About(
        data=Path(data or "").name,
        num_samples=landscape.num_samples,
        options=shlex.join(options_from(options, out)),
        description=f"The model: {described}.",
        weights=WEIGHTS,
        files={name: certificate_name(name) for name in layers},
        places={name: place + 1 for place, name in enumerate(landscape.layers)},
        rule=rule,
        seed=seed,
        version=__version__,
    )


def _polish_record(result: Polish, complete: bool, out: Path) -> dict[str, Any]:
    numbers = ("start", "loss", "loss_float32", "sweeps", "ending")
    return {
        "complete": complete,
        **{name: getattr(result, name) for name in numbers},
        "pivots": result.num_pivots,
        "failure": result.failure or None,
        "claims": {name: str(found.claim) for name, found in result.certificates.items()},
        "causes": {name: list(result.causes_of(name)) for name in result.layers},
        "report": str(out / "report.html"),
    }
