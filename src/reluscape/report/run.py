"""Section: the convexity of the loss along a run, of a `Trajectory`."""

from __future__ import annotations

import shlex

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from reluscape.errors import InputError
from reluscape.monitor.chart import CLIPPED, trajectory_figure
from reluscape.monitor.trajectory import Decay, Trajectory
from reluscape.report.charts import Series, trails
from reluscape.report.section import Cell, Figure, Section, Table
from reluscape.report.wording import NONE, count, number, several, share

Floats = NDArray[np.float64]
#: Checkpoints up to which each has a line in the table.
LISTED = 60
COLUMNS = ("step", "loss", "squared gradient", "second derivative", "kinks", "region")


def run_section(run: Trajectory, commands: tuple[str, ...]) -> Section:
    """What the checkpoints show, and what follows from it."""
    return Section(
        key="run",
        title="The loss along the run",
        verdict=_verdict(run),
        figures=tuple(_figures(run)),
        tables=(_facts(run), *_left_out(run), *_each(run)),
        method=_method(run),
        check=("convexity reads the checkpoints and computes all of it again.",),
        commands=commands,
    )


def _verdict(run: Trajectory) -> str:
    """Where the convex phase begins."""
    seen = f"At {several(len(run.steps), 'checkpoint')}, "
    if run.stationary.all():
        return f"{seen}the gradient is zero: the loss has no curvature along it."
    one = "one with a gradient" if run.stationary.any() else "one"
    if run.onset is None:
        known = np.isfinite(run.curvatures[~run.stationary][-1])
        why = "" if known else ": it has no second derivative there"
        return f"{seen}no convex phase: the loss is not convex along its gradient at the last {one}{why}."
    where = f"at every {one}" if run.start == 0 else f"from step {count(run.onset)} on"
    return f"{seen}the loss is convex along its gradient {where}{_fall(run)}."


def _fall(run: Trajectory) -> str:
    """How much of the loss's fall that is."""
    if run.rose:
        return "; from the first to the last it did not fall"
    if run.start == 0 or np.isnan(run.loss_fraction):
        return ""
    return f", which is {share(run.loss_fraction)} of its fall"


def _facts(run: Trajectory) -> Table:
    """What else was recorded, and what follows from it."""
    rows = [("loss, first and last", f"{number(run.losses[0])} → {number(run.losses[-1])}")]
    if run.start is not None:
        rows += [
            ("share of the loss's fall in the convex phase", share(run.loss_fraction)),
            ("second derivative there, 10th percentile", number(run.percentile())),
            ("second derivative there, median", number(run.percentile(50))),
        ]
    if run.stationary.any():
        rows.append(("checkpoints with a gradient of zero", _of(run.stationary.astype(float))))
    if np.isfinite(run.crossed).any():
        rows.append(("kinks between checkpoints, median", number(float(np.nanmedian(run.crossed)))))
    rows += [
        (f"checkpoints in the {name} region of certified convexity", _of(values))
        for name, values in (("paper's", run.in_region), ("sharper", run.in_sharp_region))
        if np.isfinite(values).any()
    ]
    decay = _decay(run)
    if decay is not None:
        rows += [
            ("least rate of the squared gradient's fall, Lemma 8", number(decay.rate)),
            ("checkpoints that keep to it", share(decay.kept)),
        ]
    told = tuple(
        (Cell(name), Cell(value, numeric=True), Cell("", tier="sampled")) for name, value in rows
    )
    return Table("What the checkpoints show", ("quantity", "value", "how it is known"), told)


def _of(values: Floats) -> str:
    return f"{count(int(np.nansum(values)))} of {count(len(values))}"


def _left_out(run: Trajectory) -> tuple[Table, ...]:
    """Files that are no part of the run."""
    if not run.skipped:
        return ()
    rows = tuple(tuple(map(Cell, line.split(": ", 1))) for line in run.skipped)
    return (Table("Files that were left out", ("file", "why"), rows),)


def _decay(run: Trajectory) -> Decay | None:
    """The gradient's decay within the convex phase, where there is one of two records and times."""
    try:
        decay = run.decay()
    except InputError:
        return None
    return decay if len(decay.times) > 1 and np.isfinite(decay.bound).all() else None


# ---- figures and table -------------------------------------------------------------------------


def _figures(run: Trajectory) -> list[Figure]:
    """The curves; of a single checkpoint none."""
    if len(run.steps) < 2:
        return []
    inside = bool(np.nansum(run.in_sharp_region))
    clipped = bool((run.curvatures < CLIPPED).any())
    caption = (
        "Loss, and its second derivative along the gradient over the gradient's square."
        + (" Right of the dashed line it is positive." if run.start else "")
        + (" Marked: where norms alone show that the loss is convex." if inside else "")
        + (f" What is below {number(CLIPPED)} is drawn there." if clipped else "")
    )
    found = [Figure("trajectory", caption, trajectory_figure(run))]
    decay = _decay(run)
    if decay is not None:
        caption = (
            "Squared gradient in the convex phase: the run, gradient flow with the curvatures recorded, "
            "and the estimate of Lemma 8 with the least of them so far."
        )
        found.append(Figure("decay", caption, decay.plot()))
    if np.isfinite(run.crossed).any():
        caption = (
            "Kinks between one checkpoint and the next: switching values that changed their sign."
        )
        found.append(Figure("crossed", caption, _crossed(run)))
    return found


def _crossed(run: Trajectory) -> go.Figure:
    steps = run.steps.astype(np.float64)
    series = [Series("kinks", steps[1:], run.crossed[1:])]
    return trails(series, "step", "kinks crossed", log=False, dots=True)


def _each(run: Trajectory) -> tuple[Table, ...]:
    """A line for every checkpoint, if they are few."""
    if len(run.steps) > LISTED:
        return ()
    rows = tuple(_row(run, place) for place in range(len(run.steps)))
    return (Table("The checkpoints", COLUMNS, rows),)


def _row(run: Trajectory, place: int) -> tuple[Cell, ...]:
    crossed = run.crossed[place]
    numbers = (run.losses, run.squared_gradients, run.curvatures)
    return (
        Cell(count(int(run.steps[place]))),
        *(Cell(number(float(one[place])), numeric=True) for one in numbers),
        Cell(NONE if np.isnan(crossed) else count(int(crossed)), numeric=True),
        Cell(_region(run.in_region[place], run.in_sharp_region[place])),
    )


def _region(paper: float, sharp: float) -> str:
    """The smaller of the regions in which it lies: the paper's is part of the sharper."""
    if np.isnan(paper):
        return NONE
    return "paper's" if paper else "sharper" if sharp else "outside"


def _method(run: Trajectory) -> tuple[str, ...]:
    """How it was obtained."""
    return (
        "At each checkpoint the gradient g is that of the loss on all samples, weight decay included, "
        "and the second derivative that along it, 2 gᵀHg / |g|², with all switches frozen. All of this "
        "is sampled: it is said of the checkpoints, and nothing of what lies between them.",
        "The convex phase is what comes after the last checkpoint at which that is not positive. The "
        "share of the loss's fall is what the loss falls within it over what it falls in all. Where the "
        "gradient is zero there is no such derivative: those checkpoints are passed over.",
        *(
            (
                "A checkpoint lies in a region where the bound from the norms of its layers is positive "
                "(see below): then the loss is strongly convex along every direction on its piece. The "
                "paper's region is part of the sharper one.",
            )
            if np.isfinite(run.in_region).any()
            else ()
        ),
        *(
            ("Time is the number in a file's name times the rate that was given.",)
            if len(run.times) > 1 and np.isfinite(run.times).all()
            else ("The gradient's decay by Lemma 8 needs the size of a step: --rate.",)
        ),
    )


def command(options: str, folder: str, rate: float | None) -> str:
    """How to get the page again."""
    given = f" --rate {rate!r}" if rate is not None else ""
    return f"reluscape convexity {options} --checkpoints {shlex.quote(folder)}{given}"
