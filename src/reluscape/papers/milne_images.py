"""Milne's experiments on images: LeNet-5 on MNIST as published, a reduced ResNet-22 on CIFAR-10."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.papers.milne_data import fingerprint, sources_in, train_and_test
from reluscape.papers.milne_trials import training_run
from reluscape.papers.paper import Comparison, Experiment, Paper, PaperFigure, Scale, over_draws
from reluscape.report.charts import Series, shares, trails
from reluscape.report.wording import count, several
from reluscape.study import Study

Floats = NDArray[np.float64]

#: Published mean and standard deviation over runs (table 2), and the number of runs.
LENET = {"accuracy": (97.32, 1.00), "percentile": (21.19, 2.12), "fraction": (0.80, 0.09)}
LENET_RUNS = 100
RESNET = {"accuracy": (84.93, 0.35), "percentile": (8.82, 2.80), "fraction": (1.00, 0.00)}
RESNET_RUNS = 20
QUANTITIES = {
    "accuracy": ("test accuracy", "%"),
    "percentile": ("10th percentile of the normalised second derivative", ""),
    "fraction": ("share of the loss's fall in the convex phase", ""),
}
#: Training images of MNIST: with fewer the run is not the published one.
MNIST = 60_000
#: Runs and training images of LeNet-5; runs, images, epochs, width and `every` of the ResNet.
_LENET: dict[Scale, tuple[int, int]] = {
    "smoke": (1, 2_560),
    "small": (4, MNIST),
    "paper": (100, MNIST),
}
_RESNET: dict[Scale, tuple[int, int, int, int, int]] = {
    "smoke": (1, 256, 2, 2, 1), "small": (2, 1_000, 13, 4, 2), "paper": (20, 50_000, 65, 16, 10),
}  # fmt: skip


# ---- points ---------------------------------------------------------------------------------------


def _lenet_points(known: dict[str, Any]) -> Any:
    """Runs of LeNet-5 at the published protocol."""
    fixed = known | {
        "scaling": "standardised", "width": 0, "epochs": 2, "rate": 0.05, "late": 1.0,
        "decay": 5e-4, "every": 10, "runs": 1,
    }  # fmt: skip

    def points(scale: Scale, runs: int | None) -> Sequence[dict[str, Any]]:
        usual, samples = _LENET[scale]
        instances = range(usual if runs is None else runs)
        return [fixed | {"samples": samples, "instance": number} for number in instances]

    return points


def _resnet_points(known: dict[str, Any]) -> Any:
    """Runs of the ResNet, reduced."""
    fixed = known | {
        "scaling": "standardised", "rate": 0.1, "late": 60 / 65, "decay": 1e-6, "runs": 1,
    }  # fmt: skip

    def points(scale: Scale, runs: int | None) -> Sequence[dict[str, Any]]:
        usual, samples, epochs, width, every = _RESNET[scale]
        instances = range(usual if runs is None else runs)
        sizes = {"samples": samples, "epochs": epochs, "width": width, "every": every}
        return [fixed | sizes | {"instance": number} for number in instances]

    return points


# ---- tables ---------------------------------------------------------------------------------------


def _done(study: Study) -> Any:
    """Records of the trials that are done."""
    records = study.records()
    return records[records["status"] == "done"]


def _row(
    records: Any, name: str, published: float, error: float, note: str, comparable: bool
) -> Comparison:
    """Mean over the runs that have a value."""
    values = records[name].to_numpy(dtype=np.float64)
    known = values[np.isfinite(values)]
    quantity, unit = QUANTITIES[name]
    mean, low, high, _ = over_draws(known) if len(known) else (np.nan,) * 4
    if lacking := len(values) - len(known):
        note = (
            f"Runs without a convex phase, and so without a percentile: {lacking} of {len(values)}."
        )
    return Comparison(
        quantity, published, error, mean, low, high, len(known), unit, note, comparable
    )


def _compare_lenet(available: int) -> Any:
    """Means over runs beside table 2."""

    def compare(study: Study) -> tuple[Comparison, ...]:
        records = _done(study)
        samples = min(int(records["samples"].max()), available)
        whole = samples == MNIST
        note = (
            "The published numbers are means over 100 runs; 'agrees' counts the standard errors of both"
            " means."
            if whole
            else f"Ours saw {count(samples)} of the {count(MNIST)} training images."
        )
        rows = [
            _row(records, name, published, deviation / LENET_RUNS**0.5, note, whole)
            for name, (published, deviation) in LENET.items()
        ]
        return (*rows, *_spreads(records, whole))

    return compare


def _spreads(records: Any, whole: bool) -> tuple[Comparison, ...]:
    """Standard deviations over runs, with their chi-squared intervals."""
    from scipy.stats import chi2

    rows = []
    for name, (_, published) in LENET.items():
        values = records[name].to_numpy(dtype=np.float64)
        values = values[np.isfinite(values)]
        if len(values) < 3 or not whole:
            continue
        free, deviation = len(values) - 1, float(values.std(ddof=1))
        low, high = (deviation * (free / chi2.ppf(share, free)) ** 0.5 for share in (0.975, 0.025))
        quantity, unit = QUANTITIES[name]
        title, error = (
            f"{quantity}: standard deviation over runs",
            published / (2 * LENET_RUNS) ** 0.5,
        )
        rows.append(Comparison(title, published, error, deviation, low, high, len(values), unit))
    return tuple(rows)


def _compare_resnet(study: Study) -> tuple[Comparison, ...]:
    """Means over reduced runs; what is published is for another size."""
    records = _done(study)
    note = "Ours is reduced; the published runs are of all 50,000 images, 65 epochs."
    return tuple(
        _row(records, name, published, deviation / RESNET_RUNS**0.5, note, comparable=False)
        for name, (published, deviation) in RESNET.items()
    )


# ---- figures --------------------------------------------------------------------------------------


def _figures(key: str, published: tuple[str, str]) -> Any:
    """Figure 2 of the paper: the histogram over runs and the curves of one run."""

    def figures(study: Study) -> tuple[PaperFigure, ...]:
        records = _done(study)
        fractions = records["fraction"].to_numpy(dtype=np.float64)
        fractions = fractions[np.isfinite(fractions)]
        names = ("curvature", "loss", "step")
        curvature, loss, step = (next(study.arrays(name))[1] for name in names)
        onset = float(records["onset"].iloc[0])
        mark = onset if onset >= 0 else None
        clipped = [Series("", step, np.maximum(curvature, -10.0))]
        second = trails(clipped, "step", "normalised second derivative", log=False, marks=[mark])
        falling = trails([Series("", step, loss)], "step", "loss", marks=[mark])
        run = "The first run; the convex phase begins at the dashed line."
        if mark is None:
            run = (
                "The first run; without a convex phase: the last second derivative is not positive."
            )
        return (
            PaperFigure(
                f"milne-{key}-fractions",
                f"Share of the loss's fall in the convex phase, {several(len(fractions), 'run')}.",
                published[0],
                shares(fractions, "share of the loss's fall", "runs"),
            ),
            PaperFigure(
                f"milne-{key}-second", f"{run} Clipped at \N{MINUS SIGN}10.", published[1], second
            ),
            PaperFigure(f"milne-{key}-loss", run, "the same figure, the blue curve.", falling),
        )

    return figures


# ---- the paper ------------------------------------------------------------------------------------

_RECORDS = (
    "Each record is about the weights that a step starts from and the step's own batch: the cross-entropy"
    " with its weight decay, and 2 g'Hg / |g|^2. The convex phase begins where the"
    " second derivative is positive for the last time from below; t1 is the last step."
)
_OPEN = (
    "Left open by the paper: how pixels are scaled (here: standardised; with pixels in [0, 1] the"
    " accuracy is 95 % and the percentile 24), whether gamma is the loss of the batch or of all data"
    " (here: of the batch), LeNet-5's variant (here: ReLU, maximum pooling, zero padding, 61,706"
    " parameters) and momentum (here: none)."
)


def _lenet(known: dict[str, Any], available: int) -> Experiment:
    """LeNet-5 on MNIST."""
    return Experiment(
        key="lenet",
        title="LeNet-5 on MNIST: convexity along stochastic gradient descent",
        protocol=(
            "2 epochs, batches of 128, rate 0.05, weight decay 5e-4, cross-entropy, every tenth step"
            " recorded, as in the paper's figure.",
            _RECORDS,
            _OPEN,
        ),
        function=training_run,
        points=_lenet_points(known),
        compare=_compare_lenet(available),
        figures=_figures(
            "lenet",
            (
                "Figure 2, top left, the same histogram over 100 trials, from 0.5 to 1.",
                "Figure 2, top right: negative for a very small amount of time, then consistently larger"
                " than 10.",
            ),
        ),
    )


def _resnet(known: dict[str, Any], available: int) -> Experiment:
    """A reduced ResNet-22 on CIFAR-10."""
    sizes = "; ".join(
        f"{name}: the first {min(samples, available)} images, {epochs} epochs, width {width},"
        f" every {every}. step recorded"
        for name, (_, samples, epochs, width, every) in _RESNET.items()
    )
    return Experiment(
        key="resnet-reduced",
        title="ResNet-22 on CIFAR-10, reduced: the code path, not the published experiment",
        protocol=(
            "Batches of 128, rate 0.1, a fifth of it for the last 5 of 65 epochs or their share, weight"
            f" decay 1e-6, batch norm in train mode. Sizes: {sizes}. No"
            " augmentation. 22 layers: a convolution, nine blocks of two, two projections, a linear"
            " layer.",
            _RECORDS,
        ),
        function=training_run,
        points=_resnet_points(known),
        compare=_compare_resnet,
        figures=_figures(
            "resnet-reduced",
            (
                "Figure 2, middle left: all 20 runs at 1.",
                "Figure 2, middle right: consistently larger than 10.",
            ),
        ),
    )


def with_images(paper: Paper, folder: Path) -> Paper:
    """The paper with the experiments whose images are in a folder.

    Raises:
        InputError: Neither MNIST nor CIFAR-10 is there.
    """
    place, there = sources_in(folder)
    found = []
    for source in there:
        known = {"source": source, "folder": place, "sha256": fingerprint(place, source)}
        available = len(train_and_test(place, source)[0][0])
        found.append((_lenet if source == "mnist" else _resnet)(known, available))
    lacking = {"mnist": "MNIST", "cifar": "CIFAR-10"}
    notes = tuple(
        f"{name} images are not in {folder}: its experiment is left out."
        for source, name in lacking.items()
        if source not in there
    )
    return replace(paper, experiments=(*paper.experiments, *found), notes=notes)
