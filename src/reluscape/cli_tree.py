"""The command `tree`."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reluscape import __version__
from reluscape.cli_options import (
    Arithmetic,
    Dask,
    DataName,
    Json,
    LossName,
    Model,
    Standardise,
    Target,
    Weights,
    as_option,
    data_options,
    landscape_from,
    layers_called,
)
from reluscape.errors import InputError

if TYPE_CHECKING:
    from reluscape.block import Block
    from reluscape.report.branches import Grown
    from reluscape.trees.tree import MergeTree

__all__ = ["tree"]


class ConvexLoss(StrEnum):
    """The losses whose minima over cells are found exactly."""

    squared = "squared"
    half_squared = "half_squared"
    l1 = "l1"


#: Seconds of work from which on it is kept on the way, and where.
KEPT, CHUNKS = 10.0, "chunks.sqlite"


def tree(
    ctx: typer.Context,
    data: DataName = None,
    weights: Weights = None,
    model: Model = None,
    target: Target = None,
    standardise: Standardise = False,
    loss: Annotated[
        ConvexLoss, typer.Option(help="Class labels become a column each, or -1 and 1 for two.")
    ] = ConvexLoss.squared,
    layer: Annotated[
        str,
        typer.Option(
            help="The layer's name or index; it has to be the last one before the output."
        ),
    ] = "0",
    samples: Annotated[
        int | None, typer.Option(min=1, help="Random samples to take.  [default: all]")
    ] = None,
    max_cells: Annotated[
        int, typer.Option(min=1, help="Most activation cells that are gone through.")
    ] = 10_000_000,
    below: Annotated[
        float | None,
        typer.Option(help="Leave out what lies above this loss.  [default: everything]"),
    ] = None,
    arithmetic: Annotated[
        Arithmetic,
        typer.Option(help="float64, or exact rationals: up to 20,000 cells."),
    ] = Arithmetic.float64,
    jobs: Annotated[int, typer.Option(help="Threads or processes; -1 for one per core.")] = -1,
    dask: Dask = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31, help="Seed of the samples taken.")] = 0,
    out: Annotated[
        Path, typer.Option(help="Folder for the page, the tree, and the minima as weights.")
    ] = Path("reluscape-tree"),
    as_json: Json = False,
) -> None:
    """Find all local minima of a small layer, and the levels at which their basins join.

    For the first layer of a network with one hidden layer, output weights held fixed: every activation
    cell and every facet between two is gone through, so nothing is missed. OUT holds merge_tree.nc,
    which `reluscape verify` checks, report.html, the lowest minima as weights with their block
    certificates, minima/000.safetensors and 000.json and so on, and samples.npz where the samples are not
    all. What takes longer than ten seconds is kept in OUT/chunks.sqlite until the tree is written: the
    same command goes on from there. What an earlier tree has left in OUT is written over or removed. The
    very first tree on a machine waits half a minute for compiling.
    """
    objective = LossName(loss.value)
    landscape = landscape_from(data, target, standardise, weights, model, objective, 0.0)
    from reluscape.progress import shown
    from reluscape.results import options_from
    from reluscape.tree_files import SAMPLES, TreeFolder, drawn
    from reluscape.trees.size import tree_size
    from reluscape.trees.stored import remove_chunks
    from reluscape.trees.tree import merge_tree
    from reluscape.validation import check_number

    some = samples is not None and samples < landscape.num_samples
    taken = drawn(landscape.num_samples, samples or landscape.num_samples, seed)
    landscape = landscape.of_samples(taken) if some else landscape
    (name,) = layers_called(landscape, layer)
    assert name is not None
    block = landscape.block(name)
    folder = TreeFolder(out, [Path(str(one)) for one in (data, weights) if one is not None])
    folder.check(some)
    if below is not None:
        check_number(below, "--below")
    size = tree_size(block, arithmetic=arithmetic.value)
    if size.num_cells > max_cells:
        raise InputError(
            f"--max-cells must allow {size.summary()}; received {max_cells:,}: raise it, or take fewer"
            " --samples"
        )
    typer.echo(size.summary(), err=True)
    exact = arithmetic is Arithmetic.rational
    long = dask is not None or (size.seconds > KEPT and not exact)
    with shown() as progress, _told(out / CHUNKS, ctx.obj):
        found = merge_tree(
            block,
            max_cells=max_cells,
            arithmetic=arithmetic.value,
            jobs=jobs,
            dask=dask,
            store=out / CHUNKS if long else None,
            below=math.inf if below is None else below,
            progress=progress,
        )
    named = data_options(str(data), target, standardise)
    if some:
        ctx.obj.append(str(folder.write_samples(landscape, taken)))
        named = ["--data", str(out / SAMPLES)]
    own = options_from(as_option("--weights", weights), out)
    others = [*as_option("--model", model), *named, "--loss", landscape.loss_name]
    subject = own, options_from(others, out)
    search = ["--layer", name, *as_option("--below", below)]
    search += ["--arithmetic", arithmetic.value] if exact else []
    about = _about(found, block, subject, search, Path(str(data)).name, seed)
    ctx.obj.extend(map(str, folder.write(found, landscape, name, about, some)))
    remove_chunks(out / CHUNKS)
    if as_json:
        typer.echo(json.dumps(_record(found, name) | {"files": ctx.obj}))
    else:
        told = [f"layer {name!r}: {found.summary()}", f"  {about.where}", f"  written: {out}"]
        typer.echo("\n".join(told))


@contextmanager
def _told(chunks: Path, written: list[str]) -> Iterator[None]:
    """Chunks that an interrupted search leaves are among what was written."""
    try:
        yield
    except KeyboardInterrupt:
        written += [str(chunks)] if chunks.exists() else []
        raise


def _about(
    found: MergeTree,
    block: Block,
    subject: tuple[list[str], list[str]],
    search: list[str],
    data: str,
    seed: int,
) -> Grown:
    """What the page says besides the tree; `subject` is the model's weights, and all else."""
    from reluscape.report.branches import FILE, Grown, minimum_name
    from reluscape.tree_files import standing

    own, others = subject
    first = [minimum_name(0, "json"), "--weights", minimum_name(0)]
    return Grown(
        layer=block.layer,
        data=data,
        where=standing(found, block),
        check=shlex.join(["reluscape", "verify", FILE, *own, *others]),
        certificate=shlex.join(["reluscape", "verify", *first, *others]),
        again=shlex.join(["reluscape", "tree", *own, *others, *search, "--out", "again"]),
        version=__version__,
        seed=seed,
    )


def _record(found: MergeTree, layer: str) -> dict[str, Any]:
    """The tree as one JSON object; null where a minimum joins no other."""
    minima = [
        {
            "loss": float(found.losses[k]),
            "death": float(found.deaths[k]) if math.isfinite(found.deaths[k]) else None,
            "parent": int(found.parents[k]) if found.parents[k] >= 0 else None,
            "multiplicity": int(found.multiplicity[k]),
        }
        for k in range(len(found.losses))
    ]
    return {
        "layer": layer,
        "tier": found.tier,
        "objective": found.loss,
        "cells": found.num_cells,
        "facets": found.num_facets,
        "solved": found.num_solved,
        "failed": found.num_failed,
        "pruned": found.num_pruned,
        "below": found.below if math.isfinite(found.below) else None,
        "minima": minima,
    }
