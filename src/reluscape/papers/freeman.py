"""Freeman and Bruna, "Topology and geometry of deep rectified network optimization landscapes".

Lengths and beads of strings between pairs of trained networks against the level. The polynomials are
here; images, which need data, and the language model are those of `freeman_images`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from reluscape.papers.freeman_images import LANGUAGE, with_images
from reluscape.papers.freeman_published import CURVES
from reluscape.papers.freeman_tables import chosen, curves, measured, rows_of, spread, trend_rows
from reluscape.papers.freeman_trials import pairs_at_level
from reluscape.papers.paper import Comparison, Experiment, Paper, PaperFigure, Scale
from reluscape.study import Study

#: The network of each task's script; the draft's has ReLUs.
SCRIPT = {"quadratic": "bare", "cubic": "sigmoid"}
#: How the scripts search.
AS_PUBLISHED = {"samples": 200, "rate": 1e-3, "accept": 1.1, "alpha": 0.95, "always": True}

#: Levels and pairs.
_LEVELS: dict[str, dict[Scale, tuple[float, ...]]] = {
    "quadratic": {"smoke": (0.1, 0.125), "small": (0.01, 0.025, 0.05, 0.125)},
    "cubic": {"smoke": (0.164, 0.168), "small": (0.05, 0.1, 0.15, 0.168)},
}
_PAIRS: dict[Scale, int] = {"smoke": 2, "small": 10, "paper": 10}
#: Of these, how many `connect` is asked about, pair by pair.
_OWN_PAIRS: dict[Scale, int] = {"smoke": 1, "small": 3, "paper": 10}

#: What is switched, one at a time, at one level of each task.
SWITCHED = {"quadratic": 0.05, "cubic": 0.1}
SWITCHES: dict[str, dict[str, Any]] = {
    "as the scripts": {},
    "accepted at the level": {"accept": 1.0},
    "beads trained to the level": {"alpha": 1.0},
    "no bead between accepted ends": {"always": False},
    "ten times the rate": {"rate": 1e-2},
    "2,000 samples": {"samples": 2000},
    "sigmoids with biases": {"network": "sigmoid"},
    "sigmoids without biases, output too": {"network": "bare"},
    "ReLU with biases": {"network": "relu"},
}


def _points(task: str) -> Callable[[Scale, int | None], Sequence[dict[str, Any]]]:
    """Levels of a task, in the script's network and in the draft's."""

    def points(scale: Scale, runs: int | None) -> Sequence[dict[str, Any]]:
        levels = _LEVELS[task].get(scale, CURVES[task].levels)
        shared = {"task": task, "runs": _PAIRS[scale]} | AS_PUBLISHED
        found = [
            shared | {"network": name, "level": level, "own": own}
            for level in sorted(levels, reverse=True)
            for name, own in ((SCRIPT[task], 0), ("relu", _OWN_PAIRS[scale]))
        ]
        return spread(found, runs)

    return points


def _switch_points(scale: Scale, runs: int | None) -> Sequence[dict[str, Any]]:
    """Every switch at one level of each task."""
    switches = SWITCHES if scale != "smoke" else {"as the scripts": {}}
    tasks = SWITCHED if scale != "smoke" else {"cubic": 0.164}
    found = [
        {"task": task, "level": level, "runs": _PAIRS[scale], "network": SCRIPT[task], "own": 0}
        | AS_PUBLISHED | switch | {"switch": name}
        for task, level in tasks.items()
        for name, switch in switches.items()
        if switch.get("network") != SCRIPT[task]
    ]  # fmt: skip
    return spread(found, runs)


def _compare(task: str) -> Callable[[Study], tuple[Comparison, ...]]:
    """Both networks at all levels, `connect`'s strings, and the trend of each."""

    def compare(study: Study) -> tuple[Comparison, ...]:
        rows: list[Comparison] = []
        for name, found in _series(study, task):
            told = name == _NAMES[SCRIPT[task]]
            for one in found:
                rows += rows_of(one, name, task, told)
            rows += trend_rows(found, name)
        return (*rows, *_proved_rows(study))

    return compare


#: Names of networks, and of the search.
_NAMES = {
    "bare": "scripts' network (sigmoid, no biases)",
    "sigmoid": "scripts' network (sigmoid)",
    "relu": "ReLU, scripts' acceptance",
}
_OWN = "ReLU, certified at the level"


def _series(study: Study, task: str) -> list[tuple[str, list[Any]]]:
    """What is compared: both networks by the scripts' search, and `connect` on the draft's."""
    found = measured(study)
    names = (SCRIPT[task], "relu")
    scripts = [(_NAMES[name], chosen(found, network=name)) for name in names]
    return [*scripts, (_OWN, measured(study, "own_"))]


def _proved_rows(study: Study) -> list[Comparison]:
    """How high the paths that the scripts' rule accepts are certified to rise."""
    heights = [(point["level"], values) for point, values in study.arrays("proved")]
    rows = []
    for level, values in sorted(heights, key=lambda one: one[0]):
        known = values[np.isfinite(values)]
        if len(known):
            quantity = f"ReLU, level {level:g}: highest certified maximum of a path, over the level"
            nan = float("nan")
            rows.append(Comparison(quantity, None, 0.0, known.max(), nan, nan, len(known)))
    return rows


def _compare_switches(study: Study) -> tuple[Comparison, ...]:
    """Each switch beside the published numbers."""
    rows: list[Comparison] = []
    for one in sorted(measured(study), key=lambda one: str(one.point["task"])):
        task, name = one.point["task"], one.point["switch"]
        rows += rows_of(one, f"{task}, {name}", task, True)
    return tuple(rows)


def _figures(task: str) -> Callable[[Study], tuple[PaperFigure, ...]]:
    """Both curves over the published ones."""
    published = f"the later publication's curves of the {task} task, here as the first line."

    def figures(study: Study) -> tuple[PaperFigure, ...]:
        return curves(_series(study, task), task, "level (mean absolute error)", task, published)

    return figures


_PROTOCOL = (
    "Pairs of 1-4-4-1 networks, trained from weights uniform in [-1, 1] and standard normal biases by"
    " Adam at rate 0.001 with all samples, until the mean absolute error is below the level.",
    "The scripts' search: a bead in the middle of the pair, and of every segment whose highest of 100"
    " values exceeds 1.1 times the level, trained to 0.95 times the level; at most ten depths. All"
    " segments that are open at a depth, over all pairs, are one batch.",
    "The certified search is `connect`: beads where segments are highest, and every segment proved to"
    " stay at or below the level itself; its straight line may suffice, which makes two beads.",
    "Ours: 200 points evenly spaced in [0, 1] (the scripts draw 10,000); 20,000 steps at most, and a"
    " network whose best loss falls by less than 1e-4 of itself in 2,000 is given up and drawn again"
    " (the scripts go on for ever).",
)
_NETWORKS = {
    "quadratic": "The quadratic's script has sigmoids, a sigmoid on the output as well, and adds no"
    " biases; the draft speaks of ReLUs, for which no numbers are published.",
    "cubic": "The cubic's script has sigmoids, biases and a linear output; the draft speaks of ReLUs,"
    " for which no numbers are published. The best constant has the error 0.158.",
}


def _experiment(task: str) -> Experiment:
    """One polynomial."""
    return Experiment(
        key=task,
        title=f"The {task} task: length and beads against level",
        protocol=(*_PROTOCOL, _NETWORKS[task]),
        function=pairs_at_level,
        points=_points(task),
        compare=_compare(task),
        figures=_figures(task),
    )


_SWITCHES = Experiment(
    key="switches",
    title="What the protocol's choices change",
    protocol=(*_PROTOCOL, "One choice is changed at a time, at one level of each task."),
    function=pairs_at_level,
    points=_switch_points,
    compare=_compare_switches,
    figures=lambda study: (),
)

PAPER = Paper(
    "freeman",
    "C. D. Freeman and J. Bruna, Topology and geometry of deep rectified network optimization"
    " landscapes",
    (*map(_experiment, SCRIPT), _SWITCHES, LANGUAGE),
    notes=(
        "The convolutional networks on MNIST and CIFAR-10 are left out: give --data-dir FOLDER with MNIST"
        " (IDX files, or mnist_train_*.npz and mnist_test_*.npz with x and y) or CIFAR-10"
        " (data_batch_*.bin and test_batch.bin, or cifar10_train_*.npz and cifar10_test_*.npz). Nothing"
        " is fetched.",
    ),
)

PAPER = replace(PAPER, with_data=lambda folder: with_images(PAPER, folder))
