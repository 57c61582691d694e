"""The command line: a thin skin over the library.

Nothing heavy is imported before a command runs, so that ``--help`` answers at once. Results go to
stdout, progress and errors to stderr. Exit codes: 0 done, 1 a failed analysis or a rejected
certificate, 2 usage and bad input, 130 after Ctrl-C.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from reluscape import (
    __version__,
    cli_connect,
    cli_convexity,
    cli_descend,
    cli_minima,
    cli_study,
    cli_tree,
    cli_verify,
)
from reluscape.cli_options import (
    WEIGHTS,
    Arithmetic,
    DataName,
    Decay,
    Json,
    Loss,
    LossName,
    Model,
    Standardise,
    Target,
    Weights,
    checked_decay,
    complain,
    data_options,
    landscape_from,
    layers_called,
)
from reluscape.errors import AnalysisError, InputError, ReluscapeError

if TYPE_CHECKING:
    from reluscape.certificate import Certificate

__all__ = ["app", "main"]


# Typer has no public name for what it raises on wrong usage, and moved it between versions.
_UsageError: type[Any] = typer.BadParameter.__mro__[1]


class _Commands(TyperGroup):
    """Turns the failures that users can mend into one line and an exit code."""

    def main(self, *args: Any, **settings: Any) -> Any:
        try:
            code = super().main(*args, **{**settings, "standalone_mode": False})
        except _UsageError as error:
            complain(f"error: {_usage(error)}")
            code = 2
        sys.exit(code)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args:
            typer.echo(ctx.get_help(), err=True)
            raise typer.Exit(2)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            written = ctx.obj or ["nothing"]
            complain(f"interrupted; written by then: {', '.join(written)}")
            raise typer.Exit(130) from None
        except ReluscapeError as error:
            complain(f"error: {error}")
            raise typer.Exit(1 if isinstance(error, AnalysisError) else 2) from error
        except BrokenPipeError:
            raise
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            written = f"; written by then: {', '.join(ctx.obj)}" if ctx.obj else ""
            what = f"{place}{error.strerror or error}"
            complain(f"error: {what}: choose another place or make room{written}")
            raise typer.Exit(2) from error
        except MemoryError as error:
            complain("error: not enough memory: use fewer samples or a smaller model")
            raise typer.Exit(1) from error


app = typer.Typer(
    name="reluscape",
    cls=_Commands,
    help="Exact and certified answers about the loss landscape of a ReLU network on its data.",
    epilog="Example: reluscape survey",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


ArithmeticOption = Annotated[
    Arithmetic, typer.Option("--arithmetic", help="float64 with margins, or exact rationals.")
]


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"reluscape {__version__}")
        raise typer.Exit


@app.callback()
def _start(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    ctx.obj = []  # what has been written so far, for the message after Ctrl-C


@app.command(epilog="Example: reluscape survey --weights mlp.safetensors --data mine.npz --out r/")
def survey(
    ctx: typer.Context,
    weights: Annotated[
        list[Path] | None, typer.Option("--weights", help=f"{WEIGHTS} Give it twice for two.")
    ] = None,
    model: Model = None,
    data: DataName = None,
    target: Target = None,
    standardise: Standardise = False,
    loss: Loss = None,
    weight_decay: Decay = 0.0,
    layer: Annotated[
        str | None,
        typer.Option(help="Survey only this layer: its name, or its index (from 0 or -1)."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report, results and certificates.")] = (
        Path("reluscape-report")
    ),
    seed: Annotated[
        int, typer.Option(min=0, max=2**31, help="Seed of training and of random probes.")
    ] = 0,
    arithmetic: ArithmeticOption = Arithmetic.float64,
    tree: Annotated[
        bool,
        typer.Option(
            "--tree",
            help="Also find all minima of the layer before the output, on as many random samples as"
            " have few enough activation cells.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Say where training stopped, for one or two models, in a report.

    Without a model, trains two small ReLU networks of neighbouring seeds first, on scikit-learn's
    digits unless --data says otherwise. Ctrl-C leaves a report of what was done.
    """
    if data is None and (weights or model):
        raise InputError("a model needs its training data: give --data")
    from reluscape.data import load_data
    from reluscape.progress import shown
    from reluscape.subjects import choose
    from reluscape.survey import survey as run

    loaded = load_data(data or "digits", target=target, standardise=standardise)
    if layer is not None and not weights and model is None:
        _check_layer_to_train(layer)
    choice = choose(weights or [], model, loaded, loss and loss.value, weight_decay, seed)
    if not as_json:
        typer.echo(f"{loaded.summary()}\nloss: {choice.loss} ({choice.why})")
    ctx.obj.append(f"whole files in {out}, if any")
    with shown() as progress:
        result = run(
            choice.subjects,
            loaded,
            loss=choice.loss,
            weight_decay=weight_decay,
            layer=layer,
            out=out,
            seed=seed,
            arithmetic=arithmetic.value,
            tree=tree,
            data_options=data_options(data or "digits", target, standardise),
            progress=progress,
        )
    report = out / "report.html"
    if as_json:
        record = {"complete": result.complete, "loss": choice.loss, "report": str(report)}
        files = {"results": str(out / "results.nc"), "certificates": str(out / "certificates")}
        typer.echo(json.dumps(record | files | {"verdicts": list(result.verdicts)}))
    else:
        typer.echo("\n".join(["", *result.verdicts, "", f"report: {report}"]))
    if not result.complete:
        complain(f"interrupted: an incomplete report of what was done is in {out}")
        raise typer.Exit(130)


@app.command(epilog="Example: reluscape certify --weights mlp.pt --data mine.npz --out cert.json")
def certify(
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
        typer.Option(help="A layer's name or index, or 'all'; default: the whole network."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="FILE.json for the certificate, or a folder.")
    ] = None,
    arithmetic: ArithmeticOption = Arithmetic.float64,
    as_json: Json = False,
) -> None:
    """Decide what kind of point a model stands at, with a certificate that can be checked."""
    if layer == "all" and out is not None and out.suffix == ".json":
        raise InputError(f"--layer all makes several certificates: give a folder, not {out}")
    landscape = landscape_from(data, target, standardise, weights, model, loss, weight_decay)
    from reluscape.progress import shown
    from reluscape.proof import certify as run

    places = layers_called(landscape, layer)
    found: list[tuple[Certificate, Path | None]] = []
    with shown() as progress:
        for turn, place in enumerate(places):
            progress(f"certifying {place or 'the whole network'}", turn / len(places))
            point = landscape if place is None else landscape.block(place)
            certificate = run(point, arithmetic=arithmetic.value)
            path = out and _certificate_path(out, place)
            if path is not None:
                certificate.save(path)
                ctx.obj.append(str(path))
            found.append((certificate, path))
    if as_json:
        typer.echo(json.dumps({"certificates": [_certificate_record(*item) for item in found]}))
        return
    for certificate, path in found:
        typer.echo(certificate.summary())
        if path is not None:
            typer.echo(f"  certificate: {path}")


@app.command(epilog="Example: reluscape verify cert.json --weights mlp.pt --data mine.npz")
def verify(
    certificate: Annotated[
        Path,
        typer.Argument(
            help="The certificate's JSON file, or a .nc file of minima, convexity, connect or tree."
        ),
    ],
    data: DataName = None,
    weights: Annotated[
        list[Path] | None,
        typer.Option("--weights", help=f"{WEIGHTS} Give all models of a connection."),
    ] = None,
    model: Model = None,
    target: Target = None,
    standardise: Standardise = False,
    loss: Loss = None,
    weight_decay: Annotated[
        float | None,
        typer.Option(callback=checked_decay, help="Default: as the certificate says."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a certificate against the model and data, without a solver.

    Loss and weight decay are those of the certificate unless given. Exit 0: valid, 1: rejected.
    """
    if not certificate.is_file():
        found = "a folder" if certificate.is_dir() else "none"
        raise InputError(f"expected a certificate file, found {found} at {certificate}")
    given = weights or []
    first = given[0] if given else None
    valid, reason = _verdict(
        certificate, (data, target, standardise, first, model), loss, weight_decay, given[1:]
    )
    if as_json:
        typer.echo(json.dumps({"valid": valid, "reason": reason, "file": str(certificate)}))
    else:
        typer.echo(f"{'valid' if valid else 'rejected'}: {reason}")
    raise typer.Exit(0 if valid else 1)


app.command(
    epilog="Example: reluscape descend --weights mlp.safetensors --data mine.npz --layers all --out r/"
    "\n\nTo go on: the same with --weights r/polished.safetensors"
)(cli_descend.descend)
app.command(epilog="Example: reluscape minima --weights mlp.safetensors --data mine.npz --out r/")(
    cli_minima.minima
)
app.command(
    epilog="Example: reluscape convexity --weights mlp.safetensors --data mine.npz --weight-decay 0.1"
)(cli_convexity.convexity)
app.command(
    epilog="Example: reluscape connect a.safetensors b.safetensors --data digits --level 0.1 --out c/"
)(cli_connect.connect)
app.command(
    epilog="Example: reluscape tree --weights mlp.safetensors --data mine.npz --samples 20 --out t/"
)(cli_tree.tree)
app.command(epilog="Example: reluscape reproduce milne --scale small --out r/")(cli_study.reproduce)
app.add_typer(cli_study.study, name="study")


def main() -> None:
    """Entry point of the ``reluscape`` command."""
    app(prog_name="reluscape")


def _verdict(
    path: Path,
    subject: tuple[str | None, str | None, bool, Path | None, str | None],
    loss: LossName | None,
    weight_decay: float | None,
    further: list[Path],
) -> tuple[bool, str]:
    """Whether the certificate holds, and why or why not; a malformed one is rejected."""
    from reluscape.certificate import Certificate
    from reluscape.verification import is_netcdf
    from reluscape.verification import verify as run

    if is_netcdf(path):
        return cli_verify.result_verdict(path, subject, loss, weight_decay, further)
    try:
        claimed = Certificate.load(path)
    except InputError as error:
        return False, str(error)
    cli_verify.only_one(further)
    if claimed.loss not in list(LossName) or not claimed.weight_decay >= 0:
        return False, f"no such loss or weight decay: {claimed.loss!r}, {claimed.weight_decay}"
    decay = claimed.weight_decay if weight_decay is None else weight_decay
    landscape = landscape_from(*subject, loss or LossName(claimed.loss), decay)
    result = run(claimed, landscape)
    return result.valid, result.reason


def _check_layer_to_train(layer: str) -> None:
    """Refuse a layer that the small networks will not have, before they are trained."""
    import numpy as np

    from reluscape.landscape import Landscape
    from reluscape.subjects import HIDDEN
    from reluscape.train import mlp

    shape = mlp((1, *HIDDEN, 1), seed=0)
    layers_called(Landscape(shape, np.zeros((2, 1)), np.zeros((2, 1))), layer)


def _certificate_path(out: Path, layer: str | None) -> Path:
    if out.suffix == ".json":
        return out
    from reluscape.results import certificate_name

    return out / certificate_name(layer)


def _certificate_record(certificate: Certificate, path: Path | None) -> dict[str, Any]:
    return {
        "claim": str(certificate.claim),
        "tier": str(certificate.tier),
        "margin": certificate.margin,
        "reason": certificate.reason,
        "layer": certificate.layer,
        "gradient_norm": certificate.gradient_norm,
        "active_kinks": len(certificate.active_kinks),
        "file": None if path is None else str(path),
    }


def _usage(error: Any) -> str:
    """What is wrong with the command line, what was received, and where to read on."""
    text = str(error.format_message()).replace("Value error, ", "").rstrip(".")
    found: list[dict[str, Any]] = getattr(error.__cause__, "errors", list)()
    received = found[0].get("input") if found else None
    if received is not None and repr(received) not in text:
        text += f"; received {received!r}"
    where = f" (see {error.ctx.command_path} --help)" if error.ctx is not None else ""
    return text + where
