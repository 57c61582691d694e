"""The command `minima`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from enum import StrEnum
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
    landscape_from,
    layers_called,
)
from reluscape.errors import AnalysisError, InputError

if TYPE_CHECKING:
    from reluscape.landscape import Landscape
    from reluscape.minima.result import CellMinimum
    from reluscape.minima_files import Question

__all__ = ["minima"]


class SignsName(StrEnum):
    """The sign conventions, or all of them; a test keeps them equal to the library's."""

    free = "free"
    given = "given"
    uniform = "uniform"
    all = "all"


#: The conventions in the order in which they are asked: the one of many choices last.
ASKED = ("given", "uniform", "free")

#: Titles of the table's columns; the first is that of what was asked.
COLUMNS = ("genuine minimum", "minimisers' loss", "loss now", "kind", "bad", "found by")

#: In place of an answer after Ctrl-C.
STOPPED = "interrupted"

ABOUT = {
    "free": "free: output weights of any signs",
    "given": "given: output weights of the model's signs",
    "uniform": "uniform: output weights of one sign",
}


def minima(
    ctx: typer.Context,
    data: DataName = None,
    weights: Weights = None,
    model: Model = None,
    target: Target = None,
    standardise: Standardise = False,
    loss: Loss = None,
    weight_decay: Decay = 0.0,
    layer: Annotated[
        str | None,
        typer.Option(
            help="A layer's name or index, or 'all'; default: the whole network where it has one hidden"
            " layer, one output and a squared loss, else all layers."
        ),
    ] = None,
    signs: Annotated[
        SignsName | None,
        typer.Option(
            help="Signs that the output weights of a whole network may have.  [default: all]"
        ),
    ] = None,
    search: Annotated[
        int,
        typer.Option(
            min=0, help="Descents that look for a lower loss, where it is not known otherwise."
        ),
    ] = 10,
    seed: Annotated[int, typer.Option(min=0, max=2**31, help="Seed of these descents.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the answers with their proofs, and the minima as weights."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say whether the activation cell that a model stands in holds a genuine minimum of the loss.

    With every sign of every hidden unit kept, the loss has minimisers; they are genuine where they lie
    inside the cell, and bad where a lower loss is attained elsewhere. OUT holds minimum-SIGNS.nc or
    layer-NAME.nc, which `reluscape verify` checks, and, where there is a minimum, its weights beside it
    (.safetensors); better-*.safetensors has a lower loss.
    """
    if layer is not None and signs is not None:
        raise InputError(f"--signs is about a whole network: leave it or --layer {layer} out")
    if weight_decay > 0:
        raise InputError(
            f"expected a loss without weight decay; received --weight-decay {weight_decay:g}: leave it"
            " out to ask about the loss itself"
        )
    landscape = landscape_from(data, target, standardise, weights, model, loss, weight_decay)
    from reluscape.minima_files import MinimaFolder, questions, why_not_whole

    why = why_not_whole(landscape) if layer is None else ""
    if why and signs is not None:
        raise InputError(f"--signs does not apply: {why}; leave it out to ask about every layer")
    asked = questions(landscape, layers_called(landscape, "all" if why else layer), _signs(signs))
    if not asked:
        landscape.block(0)  # says why no layer can be read
    folder = None if out is None else MinimaFolder(out, landscape)
    if folder is not None:
        folder.check()
    found = _answers(ctx, asked, folder, (search, seed))
    if as_json:
        typer.echo(json.dumps(_record(landscape, found, why)))
    else:
        typer.echo("\n".join(_told(landscape, found, why, search)))
    if any(answer == STOPPED for _, answer, _ in found):
        typer.echo("interrupted: the answers so far are above", err=True)
        raise typer.Exit(130)


Answer = tuple["Question", "CellMinimum | str", list[Path]]


def _signs(signs: SignsName | None) -> tuple[Any, ...]:
    """The conventions to ask under."""
    return ASKED if signs in (None, SignsName.all) else (signs.value,)


def _waiting() -> None:  # in a signal handler: no buffers
    os.write(2, b"stopping at the next step; Ctrl-C again to stop at once\n")


def _answers(
    ctx: typer.Context, asked: Sequence[Question], folder: Any, search: tuple[int, int]
) -> list[Answer]:
    """Answer one question after the other; of several, those that cannot be answered say why."""
    from reluscape.progress import UNKNOWN, Stop, shown, stoppable

    found: list[Answer] = []
    with shown() as plain, stoppable(plain, _waiting) as progress:
        for turn, question in enumerate(asked):

            def told(what: str, _: float, name: str = question.name, done: int = turn) -> None:
                progress(f"{name}: {what}", done / len(asked) or UNKNOWN)

            try:
                told("minima of the cell", 0.0)
                answer = question.answer(*search, told)
                if answer.genuine is None:  # perhaps because it was stopped
                    told("minima of the cell", 0.0)
            except Stop:
                found.append((question, STOPPED, []))
                continue
            except (InputError, AnalysisError) as error:
                if len(asked) == 1:
                    raise
                found.append((question, str(error), []))
                continue
            files = [] if folder is None else folder.write(answer)
            ctx.obj.extend(map(str, files))
            found.append((question, answer, files))
    return found


def _told(landscape: Landscape, found: Sequence[Answer], why: str, search: int) -> list[str]:
    """The answers as a table, what they mean, and where they are."""
    from reluscape.report.wording import aligned

    whole = found[0][0].layer is None
    lines = [f"every layer alone, the others fixed: {why}", ""] if why else []
    now = landscape.loss()
    rows: list[tuple[str, ...]] = [("output weights" if whole else "layer", *COLUMNS)]
    rows += [_row(question, answer, now) for question, answer, _ in found]
    lines += [aligned(rows), ""]
    lines += [f"  {ABOUT[question.signs]}" for question, _, _ in found if whole]
    for question, answer, files in found:
        lines += [f"  {question.name}: {text}" for text in _remarks(answer, search)]
        lines += [f"  written: {file}" for file in files]
    return lines if lines[-1] else lines[:-1]


def _row(question: Question, answer: CellMinimum | str, now: float) -> tuple[str, ...]:
    """One row of the table."""
    name = question.signs if question.layer is None else question.layer
    if isinstance(answer, str):
        return (name, "not answered", "-", f"{now:.6g}", "-", "-", "-")
    falls = math.isnan(answer.loss)
    return (
        name,
        {True: "yes", False: "no", None: "undecided"}[answer.genuine],
        "falls forever" if falls else f"{answer.loss:.6g}",
        f"{now:.6g}",
        "-" if falls else answer.kind,
        "-" if not answer.genuine else {True: "yes", False: "no", None: "unknown"}[answer.bad],
        answer.method,
    )


def _remarks(answer: CellMinimum | str, search: int) -> list[str]:
    """What the table does not say."""
    if isinstance(answer, str):
        return [answer]
    lines = []
    if answer.genuine is None:
        lines.append(f"undecided because {answer.reason}")
    if answer.genuine is False and math.isfinite(answer.reach):
        lines.append(
            f"minimisers {answer.reach:.2g} times as far out as a known one are not ruled out"
        )
    if answer.genuine and math.isfinite(answer.margin):
        lines.append(f"nearest kink {answer.margin:.2g} of the weights' length away")
    if answer.bad:
        lines.append(f"bad: a lower loss is attained elsewhere, {answer.better_loss:.6g}")
    if answer.genuine and answer.bad is None:
        lines.append(f"not known whether it is bad: none of {search} descents found a lower loss")
    if answer.active:
        lines.append(f"{answer.active} kinks are zero at the weights and count as negative")
    return lines


def _record(landscape: Landscape, found: Sequence[Answer], why: str) -> dict[str, Any]:
    """The answers as one JSON object; null for what is not finite or not there."""
    return {
        "objective": landscape.loss_name,
        "loss": landscape.loss(),
        "layers_because": why or None,
        "minima": [_answer_record(*one) for one in found],
    }


def _answer_record(
    question: Question, answer: CellMinimum | str, files: list[Path]
) -> dict[str, Any]:
    place = {
        "layer": question.layer,
        "convention": "block" if question.layer is not None else question.signs,
    }
    if isinstance(answer, str):
        return place | {"error": answer}
    signs = None if answer.signs is None else answer.signs.tolist()
    return place | {
        "genuine": answer.genuine,
        "kind": answer.kind,
        "loss": _finite(answer.loss),
        "bad": answer.bad,
        "better_loss": _finite(answer.better_loss),
        "signs": signs,
        "method": answer.method,
        "margin": _finite(answer.margin),
        "reach": _finite(answer.reach),
        "reason": answer.reason or None,
        "active_kinks": answer.active,
        "files": [str(file) for file in files],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
