"""The command `convexity`."""

from __future__ import annotations

import json
import math
import os
import shlex
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reluscape.cli_options import (
    DataName,
    Decay,
    Json,
    Loss,
    Model,
    Standardise,
    Target,
    Weights,
    as_option,
    data_options,
    landscape_from,
)
from reluscape.errors import InputError

if TYPE_CHECKING:
    from reluscape.convex import Convexity
    from reluscape.landscape import Landscape
    from reluscape.monitor.trajectory import Trajectory
    from reluscape.report.section import Section

__all__ = ["convexity"]

#: What the page calls the model.
MODEL = "The model"


def convexity(
    ctx: typer.Context,
    data: DataName = None,
    weights: Weights = None,
    model: Model = None,
    target: Target = None,
    standardise: Standardise = False,
    loss: Loss = None,
    weight_decay: Decay = 0.0,
    seed: Annotated[
        int, typer.Option(min=0, max=2**31, help="Seed of the vector that Lanczos starts from.")
    ] = 0,
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a run's weights files: the convexity along it as well. Without --weights the"
            " model is that of the last one."
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            help="With --checkpoints: the learning rate times the training steps that a number in their"
            " names stands for, for the gradient's decay by Lemma 8."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the page, and the numbers as NetCDF.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say how convex the loss is at a model's weights with all its switches frozen.

    The smallest eigenvalue of the Hessian, weight decay included, beside three certified lower bounds
    from the layers' norms; and the weight decay above which all global minimisers lie where the loss is
    piecewise strongly convex. OUT holds convexity.nc and report.html.

    With CHECKPOINTS also the second derivative along the gradient at each of a run's checkpoints, in the
    order of the whole numbers in their names, as epoch-2-step-100.pt: from where on the run is in a
    convex part, how much of the loss's fall that is, and which of them lie in the regions of certified
    convexity. Files that have no number, cannot be read or do not fit are left out and named. OUT then
    holds trajectory.nc, too, and the page its curves. The first Ctrl-C while they are read goes on with
    those so far, a second one stops at once.

        reluscape convexity --checkpoints run/ --data mine.npz --out r/
    """
    if rate is not None and (checkpoints is None or not 0.0 < rate < math.inf):
        without = "" if checkpoints is not None else " without --checkpoints"
        raise InputError(
            f"--rate is a positive number, for --checkpoints; received {rate!r}{without}"
        )
    name = MODEL
    if checkpoints is not None and weights is None and data is not None:
        from reluscape.monitor.checkpoints import last_of

        weights = last_of(checkpoints, model)
        name = f"The last checkpoint, {weights.name}"
    landscape = landscape_from(data, target, standardise, weights, model, loss, weight_decay)
    from reluscape.check_convexity import check_found
    from reluscape.convex import convexity as compute
    from reluscape.monitor.checkpoints import INTERRUPTED, trajectory_of
    from reluscape.progress import UNKNOWN, shown, stoppable
    from reluscape.results import check_writable, options_from

    if out is not None:
        check_writable(out)
    with shown() as progress:
        run = None
        if checkpoints is not None:
            with stoppable(progress, _waiting) as heeding:
                run = trajectory_of(checkpoints, landscape, rate=rate, progress=heeding)
            if out is not None:
                ctx.obj.append(str(run.save(out / "trajectory.nc")))
        progress("smallest eigenvalue of the Hessian", UNKNOWN)
        found = compute(landscape, seed=seed)
        progress("checking it", UNKNOWN)
        check_found(found, landscape)
    if out is not None:
        own = [*as_option("--model", model), *as_option("--weights", weights)]
        named = data_options(str(data), target, standardise)
        subject = shlex.join(options_from(own, out)), shlex.join(options_from(named, out))
        section = None
        if run is not None and checkpoints is not None:
            section = _section(run, " ".join(subject), found, checkpoints, rate, out)
        _write(ctx, found, landscape, (name, str(data)), subject, seed, out, section)
    if as_json:
        told = {} if run is None else {"trajectory": _run_record(run)}
        typer.echo(json.dumps(_record(found) | told | {"files": ctx.obj}))
    else:
        summaries = [found.summary()] if run is None else [found.summary(), run.summary()]
        if name != MODEL:
            summaries.insert(0, f"{name}:")
        typer.echo("\n".join([*summaries, *(f"  written: {file}" for file in ctx.obj)]))
    if run is not None and any(line.endswith(INTERRUPTED) for line in run.skipped):
        typer.echo("interrupted: the checkpoints so far are above", err=True)
        raise typer.Exit(130)


def _waiting() -> None:  # in a signal handler: no buffers
    os.write(2, b"no more checkpoints after this one; Ctrl-C again to stop at once\n")


def _section(
    run: Trajectory,
    options: str,
    found: Convexity,
    checkpoints: Path,
    rate: float | None,
    out: Path,
) -> Section:
    """What the page says of the run."""
    from reluscape.report.run import command, run_section

    decay = f" --weight-decay {found.weight_decay!r}" if found.weight_decay else ""
    told = f"{options} --loss {found.objective}{decay}"
    return run_section(run, (command(told, os.path.relpath(checkpoints, out), rate),))


def _write(
    ctx: typer.Context,
    found: Convexity,
    landscape: Landscape,
    names: tuple[str, str],
    options: tuple[str, str],
    seed: int,
    out: Path,
    run: Section | None,
) -> None:
    """The result and its page, each whole or not at all."""
    from reluscape.report.curved import render_convexity
    from reluscape.results import write_then_rename

    ctx.obj.append(str(found.save(out / "convexity.nc")))
    page = render_convexity(found, landscape, names, options, seed, run).encode()
    write_then_rename(out / "report.html", lambda path: path.write_bytes(page))
    ctx.obj.append(str(out / "report.html"))


def _run_record(run: Trajectory) -> dict[str, Any]:
    """What a run's checkpoints show; null for what is not known."""
    series = {
        "losses": run.losses,
        "second_derivatives": run.curvatures,
        "kinks_crossed": run.crossed,
        "in_region": run.in_region,
        "in_sharp_region": run.in_sharp_region,
    }
    return {
        "steps": run.steps.tolist(),
        **{name: [_known(value) for value in values.tolist()] for name, values in series.items()},
        "onset": run.onset,
        "loss_fraction": _known(run.loss_fraction),
        "percentile": _known(run.percentile()),
        "left_out": list(run.skipped),
    }


def _known(value: float) -> float | None:
    """A number, or null for none."""
    return value if math.isfinite(value) else None


def _record(found: Convexity) -> dict[str, Any]:
    """The result as one JSON object; null for what is not known, a word for what is infinite."""
    left_out = ("theta", "direction")
    names = [item.name for item in fields(found) if item.name not in left_out]
    told = {name: getattr(found, name) for name in names}
    finite = {
        name: _known(value) if isinstance(value, float) else value for name, value in told.items()
    }
    if found.lowest_minimum == math.inf:
        finite["lowest_minimum"] = "Infinity"
    return {"convex": found.is_convex, **finite}
