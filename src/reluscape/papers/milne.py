"""Milne, "Piecewise strong convexity of neural networks" (NeurIPS 2019), section 4.

The toy regression: how much of the loss's fall happens inside the region U(lambda) in which the
regularised loss is certified to be piecewise strongly convex. The experiments on images, which need
data, are those of `milne_images`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.papers.milne_images import with_images
from reluscape.papers.paper import Comparison, Experiment, Paper, PaperFigure, Scale, over_draws
from reluscape.report.charts import shares, threshold_curve
from reluscape.report.wording import several
from reluscape.study import Study

Floats = NDArray[np.float64]

#: The published protocol and result.
SAMPLES, UNITS, DECAY, RATE = 100, 2, 0.4, 0.1
PUBLISHED_MEAN, PUBLISHED_SD, PUBLISHED_RUNS = 87.2, 22.3, 1000

#: Gradient descent ends where no run's regularised gradient is longer than this.
CONVERGED = 1e-9
MAX_STEPS = 20_000

#: Data draws and runs on each.
_SIZES: dict[Scale, tuple[int, int]] = {"smoke": (4, 50), "small": (10, 250), "paper": (20, 1000)}


def toy(parameters: dict[str, Any], seed: int) -> dict[str, Any]:
    """Gradient descents on one draw of the data, all at once.

    The network is y(a) = v . relu(w a) with two units and no biases, the target a / 4 at 100 points
    uniform in [-1, 1], the loss l + (lambda / 2) |W|^2 with l = 1/(2N) sum (f - y)^2. With one hidden
    layer U(lambda) is the set l^(1/2) < lambda / (2 sqrt(2) r), r = max |a_i|. The second derivative of
    y is bounded by |X|^2 times the largest eigenvalue of C = [[0, 1], [1, 0]], which is 1 and not
    H(H + 1) = 2: the sharper region l^(1/2) < lambda / (sqrt(2) r). With the residuals e_i in it, the
    region of the data is mean(|e_i| |a_i|) < lambda, which contains both.

    Args:
        parameters: `draw` (number of the data draw) and `runs`.
        seed: Of the initial weights, uniform in +-1/sqrt(fan-in).

    Returns:
        `fraction`, `sharp_fraction`, `data_fraction` (runs,): the loss's fall from the first step inside
        U, the sharper region and the data's to convergence, as a share of its whole fall; 0 where a run
        never enters. `training_loss` (steps,): l along the run that starts highest. Numbers: means, sd,
        share that enters U, steps, thresholds on l.
    """
    inputs = np.random.default_rng([2019, parameters["draw"]]).uniform(-1.0, 1.0, SAMPLES)
    rng = np.random.default_rng(seed)
    first = rng.uniform(-1.0, 1.0, (parameters["runs"], UNITS))
    second = rng.uniform(-1.0, 1.0, (parameters["runs"], UNITS)) / UNITS**0.5
    threshold = (DECAY / (2.0 * 2.0**0.5 * np.abs(inputs).max())) ** 2
    losses, totals, weighted = _descend(inputs, first, second)
    inside = {
        "": losses < threshold, "sharp_": losses < 4.0 * threshold, "data_": weighted < DECAY
    }  # fmt: skip
    fractions = {name: _fraction(totals, entered) for name, entered in inside.items()}
    return {
        "mean": 100.0 * fractions[""].mean(),
        "sharp_mean": 100.0 * fractions["sharp_"].mean(),
        "data_mean": 100.0 * fractions["data_"].mean(),
        "sd": 100.0 * fractions[""].std(),
        "entered": inside[""].any(axis=0).mean(),
        "steps": len(losses) - 1,
        "threshold": threshold,
        "sharp_threshold": 4.0 * threshold,
        "training_loss": losses[:200, losses[0].argmax()],
    } | {f"{name}fraction": values for name, values in fractions.items()}


def _fraction(totals: Floats, entered: NDArray[np.bool_]) -> Floats:
    """Fall of the loss after the first step that is inside, as a share of the whole; (runs,)."""
    entry = np.where(entered.any(axis=0), entered.argmax(axis=0), len(totals) - 1)
    fall = totals[entry, np.arange(len(entry))] - totals[-1]
    return np.asarray(fall / (totals[0] - totals[-1]))


def _descend(inputs: Floats, first: Floats, second: Floats) -> tuple[Floats, Floats, Floats]:
    """Training error, regularised loss and mean |e_i| |a_i| at every step, shape (steps + 1, runs)."""
    losses, totals, weighted = [], [], []
    for _ in range(MAX_STEPS + 1):
        hidden = np.maximum(first[:, :, None] * inputs, 0.0)
        residual = (second[:, :, None] * hidden).sum(axis=1) - inputs / 4.0
        losses.append((residual**2).mean(axis=1) / 2.0)
        weighted.append((np.abs(residual) * np.abs(inputs)).mean(axis=1))
        norms = (first**2).sum(axis=1) + (second**2).sum(axis=1)
        totals.append(losses[-1] + DECAY / 2.0 * norms)
        pull = residual[:, None, :] * second[:, :, None] * inputs * (hidden > 0)
        slopes = (
            pull.mean(axis=2) + DECAY * first,
            (residual[:, None, :] * hidden).mean(axis=2) + DECAY * second,
        )
        if max(np.abs(slope).max() for slope in slopes) <= CONVERGED:
            break
        first, second = first - RATE * slopes[0], second - RATE * slopes[1]
    return np.array(losses), np.array(totals), np.array(weighted)


def _points(scale: Scale, runs: int | None) -> Sequence[dict[str, Any]]:
    """Data draws; the runs asked for are spread over them."""
    draws, each = _SIZES[scale]
    runs = draws * each if runs is None else runs
    draws = min(draws, runs)
    return [{"draw": draw, "runs": (runs + draw) // draws} for draw in range(draws)]


def _compare(study: Study) -> tuple[Comparison, ...]:
    """Mean and standard deviation over the runs of one draw, averaged over draws.

    The paper made one draw of the data; how much one draw scatters is seen in ours, and counts as
    the published numbers' standard error.
    """
    records = study.records()
    records = records[records["status"] == "done"]
    note = (
        f"{len(records)} draws of the data; the paper made one, with {PUBLISHED_RUNS} runs."
        " 'agrees' counts how much a single draw scatters as the published number's own error, so a"
        " number may agree and lie outside our interval."
    )
    rows, runs = [], int(records["runs"].sum())
    for quantity, name, published in (
        ("mean share of the loss's fall inside U", "mean", PUBLISHED_MEAN),
        ("its standard deviation over runs", "sd", PUBLISHED_SD),
        ("mean share inside the sharper region", "sharp_mean", None),
        ("mean share inside the region of the data", "data_mean", None),
    ):
        mean, low, high, scatter = over_draws(records[name].to_numpy(dtype=np.float64))
        error = 0.0 if published is None else scatter
        rows.append(Comparison(quantity, published, error, mean, low, high, runs, "%", note))
    return tuple(rows)


def _figures(study: Study) -> tuple[PaperFigure, ...]:
    """Figure 1 of the paper."""
    fractions = np.concatenate([values for _, values in study.arrays("fraction")])
    curve = next(values for _, values in study.arrays("training_loss"))
    level = float(study.records()["threshold"].iloc[0])
    return (
        PaperFigure(
            "milne-toy-fractions",
            f"Share of the loss's fall inside U, {several(len(fractions), 'run')}.",
            "Figure 1, left, the same histogram over 1000 trials; in the paper's words most trajectories"
            " inhabit U for almost the entire training run.",
            shares(fractions, "share of the loss's fall inside U", "runs"),
        ),
        PaperFigure(
            "milne-toy-loss",
            "Training error of the run that starts highest; below the dashed line it is inside U.",
            "Figure 1, right, the first 100 steps of a run selected to show it entering U, with U's level"
            " dashed.",
            threshold_curve(np.arange(len(curve)), curve, level, "step", "training error"),
        ),
    )


PAPER = Paper(
    "milne",
    "T. Milne, Piecewise strong convexity of neural networks, NeurIPS 2019",
    (
        Experiment(
            key="toy",
            title="Toy regression: training runs through the region of piecewise strong convexity",
            protocol=(
                "Target x/4 at 100 points uniform in [-1, 1]; one hidden layer of 2 ReLU units, no"
                " biases, linear output; weight decay 0.4, rate 0.1, full gradient descent; initial"
                " weights uniform in +-1/sqrt(fan-in). Per run: the fall of the regularised loss from"
                " its first step in U to convergence, as a share of its whole fall.",
                "Sharper region: with one hidden layer the constant H(H + 1) = 2 of U may be 1, the"
                " largest eigenvalue of the matrix of products of the other layers' norms; and r times"
                " the root of twice the training error may be the mean of |residual| |input| (region of"
                " the data).",
                "Left open by the paper: when a run has converged (here: no entry of any gradient above"
                " 1e-9), and how much one draw of the data matters (here: several draws, their scatter"
                " counted as the published number's own error).",
            ),
            function=toy,
            points=_points,
            compare=_compare,
            figures=_figures,
        ),
    ),
    notes=(
        "LeNet-5 on MNIST and the reduced ResNet-22 on CIFAR-10 are left out: give --data-dir FOLDER"
        " with MNIST (IDX files, or mnist_train_*.npz and mnist_test_*.npz with x and y) and CIFAR-10"
        " (data_batch_*.bin and test_batch.bin, or cifar10_train_*.npz and cifar10_test_*.npz)."
        " Nothing is fetched.",
    ),
)

PAPER = replace(PAPER, with_data=lambda folder: with_images(PAPER, folder))
