"""Experiments of `reproduce freeman` on images, which need data, and on generated text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reluscape.papers.freeman_large import pair_at_level
from reluscape.papers.freeman_tables import Measured, curves, measured, rows_of, trend_rows
from reluscape.papers.milne_data import fingerprint, sources_in
from reluscape.papers.paper import Comparison, Experiment, Paper, PaperFigure, Scale
from reluscape.study import Study

#: Levels, pairs, training and test rows.
Size = tuple[tuple[float, ...], int, int, int]
_SIZES: dict[str, dict[Scale, Size]] = {
    "mnist": {
        "smoke": ((15.0,), 1, 2_000, 500),
        "small": ((4.0, 8.0), 3, 10_000, 1_000),
        "paper": ((1.0, 1.5, 2.0, 4.0), 10, 60_000, 10_000),
    },
    "cifar": {
        "smoke": ((80.0,), 1, 1_000, 200),
        "small": ((60.0, 70.0), 3, 4_000, 1_000),
        "paper": ((50.0, 55.0, 60.0, 70.0), 10, 4_000, 1_000),
    },
    "language": {
        "smoke": ((25.0,), 1, 2_000, 100),
        "small": ((5.0, 8.0, 20.0), 3, 5_000, 200),
        "paper": ((4.0, 4.5, 5.0, 6.0, 8.0, 12.0, 20.0), 10, 20_000, 500),
    },
}
#: The scripts' acceptance and depth; rates and steps are ours, for networks and data of this size.
_RULES: dict[str, dict[str, Any]] = {
    "mnist": {"accept": 1.02, "rate": 1e-3, "steps": 6_000},
    "cifar": {"accept": 1.1, "rate": 1e-3, "steps": 2_000},
    "language": {"accept": 1.1, "rate": 5e-3, "steps": 3_000},
}
_SHARED = {"alpha": 0.98, "every": 20, "depth": 10}
_TITLES = {
    "mnist": "A convolutional network on MNIST: length and beads against test error",
    "cifar": "A convolutional network on a subset of CIFAR-10: length and beads against test error",
    "language": "A small language model on generated text, a stand-in for the Penn Treebank",
}
_NAMES = {"mnist": "narrow network", "cifar": "narrow network", "language": "stand-in"}
_AXES = {"mnist": "test error, %", "cifar": "test error, %", "language": "test perplexity"}
_REDUCED = "The published network is wider and was trained on all images."

_SEARCH = (
    "Two networks of different seeds, each trained by Adam on batches of 100 until its test value is"
    " below the level, are joined as in the authors' script: a bead in the middle, trained to 0.98 times"
    " the level; new beads in the middles of segments on which one of 20 values exceeds {accept:g} times"
    " the level. A grid proves nothing: these paths are sampled."
)
_IMAGES = (
    "Published: two 5 x 5 convolutions of 32 and 64 channels, a linear layer of 1,024 and dropout"
    " (MNIST), local response normalisation and two linear layers (CIFAR-10); all training images. Here:"
    " 8 and 16 channels and a linear layer of 64, neither dropout nor normalisation; rate 0.001; the test"
    " value looked at every 20 steps rather than after an epoch. Sizes: {sizes}."
)
_TEXT = (
    "Published: two layers of 200 LSTM units on the Penn Treebank, perplexities from 135. Here: two"
    " layers of 24 on sentences of a random grammar with 50 words, whose best prediction has a perplexity"
    " of 3.5. Only the trend can be compared, no number. Sizes: {sizes}."
)


def _points(task: str, known: dict[str, Any]) -> Callable[[Scale, int | None], Sequence[Any]]:
    """One trial for every level and pair."""

    def points(scale: Scale, runs: int | None) -> Sequence[dict[str, Any]]:
        levels, pairs, samples, tests = _SIZES[task][scale]
        shared = {"task": task, "samples": samples, "tests": tests, "runs": 1}
        shared |= _SHARED | _RULES[task] | known
        found = [
            shared | {"level": level, "pair": pair}
            for pair in range(pairs if runs is None else runs)
            for level in sorted(levels, reverse=True)
        ]
        return found[:runs]

    return points


def _compare(task: str) -> Callable[[Study], tuple[Comparison, ...]]:
    """Length and beads at all levels, the straight line, and the trend."""

    def compare(study: Study) -> tuple[Comparison, ...]:
        rows: list[Comparison] = []
        found = measured(study)
        for one in found:
            told = rows_of(one, _NAMES[task], task, task != "language")
            rows += [
                replace(row, note=f"{row.note} {_REDUCED}") if row.published else row
                for row in told
            ]
            rows.append(_straight(study, one))
        return (*rows, *trend_rows(found, _NAMES[task]))

    return compare


def _straight(study: Study, one: Measured) -> Comparison:
    """The median height of the straight line between the pairs."""
    records = study.records()
    heights = records[(records["status"] == "done") & (records["level"] == one.level)]["straight"]
    nan = float("nan")
    quantity = f"level {one.level:g}: the straight line's highest value, median"
    return Comparison(quantity, None, 0.0, float(heights.median()), nan, nan, len(heights))


def _figures(task: str) -> Callable[[Study], tuple[PaperFigure, ...]]:
    """Both curves over the published ones."""
    published = "the later publication's curves, here as the first line" + (
        "; of another text, at other perplexities." if task == "language" else "."
    )

    def figures(study: Study) -> tuple[PaperFigure, ...]:
        series = [(_NAMES[task], measured(study))]
        return curves(series, task, _AXES[task], task, published)

    return figures


def _experiment(task: str, known: dict[str, Any]) -> Experiment:
    """One of the three."""
    sizes = "; ".join(
        f"{scale}: {samples:,} training and {tests:,} test {'sentences' if not known else 'images'},"
        f" {pairs} pairs"
        for scale, (_, pairs, samples, tests) in _SIZES[task].items()
    )
    text = _IMAGES if known else _TEXT
    return Experiment(
        key=task if task != "cifar" else "cifar-subset",
        title=_TITLES[task],
        protocol=(_SEARCH.format(**_RULES[task]), text.format(sizes=sizes)),
        function=pair_at_level,
        points=_points(task, known),
        compare=_compare(task),
        figures=_figures(task),
    )


LANGUAGE = _experiment("language", {})


def with_images(paper: Paper, folder: Path) -> Paper:
    """The paper with the experiments whose images are in a folder.

    Raises:
        InputError: Neither MNIST nor CIFAR-10 is there.
    """
    place, there = sources_in(folder)
    found = [
        _experiment(source, {"folder": place, "sha256": fingerprint(place, source)})
        for source in there
    ]
    notes = tuple(
        f"{name} images are not in {folder}: its experiment is left out."
        for source, name in (("mnist", "MNIST"), ("cifar", "CIFAR-10"))
        if source not in there
    )
    return replace(paper, experiments=(*paper.experiments, *found), notes=notes)
