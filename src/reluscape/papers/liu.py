"""Liu, Understanding global loss landscape of one-hidden-layer ReLU networks, part 2: tables and figures.

Whether cells of random weights hold a genuine minimum, under three conventions for the signs of output
weights side by side; what gradient descent does there; how long cells are; and the 1-D theory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reluscape.errors import InputError
from reluscape.papers.liu_data import PATTERNS, file_of, fingerprint
from reluscape.papers.liu_tables import (
    BIASES,
    CHORDS,
    GAUSSIAN,
    IMAGES,
    NAMES,
    NO_PROOF,
    compare_chords,
    compare_gaussian,
    compare_images,
)
from reluscape.papers.liu_theory import THEORY
from reluscape.papers.liu_trials import chords, gaussian, images
from reluscape.papers.paper import Experiment, Paper, PaperFigure, Scale
from reluscape.study import Study

#: Data sets, draws of the weights on each, and data sets of table III asked about free signs.
_SIZES: dict[Scale, tuple[int, int, int]] = {
    "smoke": (1, 2, 0), "small": (4, 5, 0), "paper": (10, 10, 10),
}  # fmt: skip
#: Draws, and steps of a descent, for images; blocks of weight vectors, and vectors, for chords.
_DRAWS: dict[Scale, tuple[int, int]] = {
    "smoke": (2, 200),
    "small": (20, 2000),
    "paper": (100, 20_000),
}
_VECTORS: dict[Scale, tuple[int, int]] = {"smoke": (1, 4), "small": (4, 10), "paper": (20, 50)}


# ---- points --------------------------------------------------------------------------------------


def _spread(points: Sequence[dict[str, Any]], each: int, runs: int | None) -> list[dict[str, Any]]:
    """Points with their runs: `each` of them, or those asked for, spread over the first points."""
    counts = [each] * len(points)
    if runs is not None:
        counts = [(runs + len(points) - 1 - place) // len(points) for place in range(len(points))]
    return [one | {"runs": count} for one, count in zip(points, counts, strict=True) if count]


def _tables(table: str) -> Any:
    """Points of a Gaussian table."""
    features, units, samples = GAUSSIAN[table]

    def points(scale: Scale, runs: int | None) -> Sequence[dict[str, Any]]:
        datasets, each, searches = _SIZES[scale]
        found = []
        for dataset in range(datasets):
            for bias in BIASES:
                easy = units <= 20 or abs(bias) == 20
                sizes = {"features": features, "units": units, "samples": samples}
                asked = {
                    "programs": 1000 if easy or scale != "smoke" else 0,
                    "search": 1000 if easy else int(dataset < searches),
                }
                found.append(sizes | asked | {"bias": bias, "dataset": dataset})
        return _spread(found, each, runs)

    return points


def _images(source: str, folder: str, sha256: str) -> Any:
    """Points of an image table: ten draws each, so that descents go together."""
    known = {"source": source, "folder": folder, "sha256": sha256, "units": 10}

    def points(scale: Scale, runs: int | None) -> Sequence[dict[str, Any]]:
        draws, steps = _DRAWS[scale]
        each = min(draws, 10)
        blocks = range(draws // each)
        biases = (*BIASES[:4], IMAGES[source][0])
        found = [known | {"bias": b, "steps": steps, "block": k} for k in blocks for b in biases]
        return _spread(found, each, runs)

    return points


def _chords(sources: Sequence[dict[str, Any]]) -> Any:
    """Points of table VI for some sources."""

    def points(scale: Scale, runs: int | None) -> Sequence[dict[str, Any]]:
        blocks, each = _VECTORS[scale]
        sizes = [(one, samples) for samples in CHORDS for one in sources]
        found = [
            one | {"samples": samples, "dataset": k}
            for k in range(blocks)
            for one, samples in sizes
        ]
        return _spread(found, each, runs)

    return points


def _no_figures(study: Study) -> tuple[PaperFigure, ...]:
    """The paper shows tables only."""
    return ()


# ---- the paper ------------------------------------------------------------------------------------

_WEIGHTS = (
    "Weights are standard normal, the bias's weight among them, and the bias is then added to it: the"
    " paper draws w with its bias and 'sets appropriate biases'. Without that extra unit of variance"
    " 93.8 % of states are active at d = 3 and bias 3 (published: 91.27 and 91.67; with it 91.95) and"
    " 6.2 % at -3 (8.04 and 7.93; 8.03). By symmetry exactly half of all states are active at bias 0,"
    " whatever the data; 49.33 (table III) and 52.19 (table IV) lie three standard errors of 100 draws"
    " off it."
)
_SIGNS = (
    "Signs of output weights: uniform, all 1 or all -1, which is what inequality (9) asks for and"
    " reproduces the published column; given, the signs of random output weights, fixed; free, any, which"
    " is the true question about the cell, because output weights may change sign without crossing a"
    " kink. Answers are those of cell_minimum, each checked without a solver; where the fitted values,"
    " which all minimisers share, have a sign that no active unit may contribute, that is the proof."
    " Nothing is published for given and free signs."
)


def _gaussian_experiment(table: str) -> Experiment:
    """One of the tables I to III."""
    features, units, samples = GAUSSIAN[table]
    numeral = {"1": "I", "2": "II", "3": "III"}[table]
    protocol: tuple[str, ...] = (
        "Half of the samples have mean 1 on the first axis and label 1, half -1 and -1; identity"
        " covariance; output bias 0. New weights in every draw, several data sets with as many draws"
        " each. The paper seems to have had one data set per table: at bias 20 all units' gaps are the"
        " same number of the data, and 0.50, 0.51, 0.48 lie within one data set's scatter (0.006 with"
        " 2,000 samples, 0.013 with 400), but 0.48 is 15 standard errors off a mean over 100.",
        _WEIGHTS,
        _SIGNS,
        "P_g: the largest, over units, share of samples on which R*_j itself (A^+ y, all z_j = 1) has"
        " another activation than w_j. With the better sign of each unit it would be 0.36 at table I,"
        " bias 3 (published 0.98), and with random signs at least 0.5 at bias 20 (published 0.48).",
    )
    if units > 20:
        protocol += (
            "Between biases 20 and -20 free signs are asked about for 10 draws at scale paper: one"
            " proof for all 2^50 of them takes half a minute. Given ones are left out at scale smoke.",
        )
    return Experiment(
        key=f"table{table}",
        title=f"Table {numeral}: Gaussian data, d = {features}, K = {units}, N = {samples}",
        protocol=protocol,
        function=gaussian,
        points=_tables(table),
        compare=compare_gaussian(table),
        figures=_no_figures,
    )


def _image_experiment(source: str, folder: str, sha256: str) -> Experiment:
    """Table IV or V."""
    mnist = source == "mnist"
    what = "MNIST, zeros and ones" if mnist else "CIFAR-10, aeroplanes and automobiles in grey"
    grey = "" if mnist else " Grey is 0.2989 red + 0.5870 green + 0.1140 blue, not rounded."
    return Experiment(
        key="table4" if mnist else "table5",
        title=f"Table {'IV' if mnist else 'V'}: {what}, K = 10, N = 200",
        protocol=(
            "The first 100 training images of each class, pixels in [0, 1], labels 1 and -1; output"
            f" bias 0.{grey}",
            _WEIGHTS,
            _SIGNS,
            "Descent: all weights move by -1e-6 times the gradient, until a kink is crossed, or the"
            " gradient by all weights is shorter than 1e-3 inside the cell (trapped), or the step limit"
            f" ({', '.join(f'{s} at scale {n}' for n, (_, s) in _DRAWS.items())}). {NO_PROOF}",
        ),
        function=images,
        points=_images(source, folder, sha256),
        compare=compare_images(source),
        figures=_no_figures,
    )


_CHORD_PROTOCOL = (
    "Weight vectors with their bias uniform in [-1/2, 1/2]; 10 d directions uniform in a cube and scaled"
    " to length one, shared by the vectors of a block; the longest chord through each vector, both ways"
    " until a sample's hyperplane is met. Cells that are open in any direction tried are left out.",
    "Cells of one unit are cones, so no chord is a diameter, and its length is proportional to the weight"
    " vector's: the range of the weights, which the paper does not tell, decides the number. The range"
    " here reproduces the Gaussian rows. The angle chord / |w| does not depend on it.",
    "A cell that is nearly open along some direction has a chord of any length, so where cells are wide"
    " (images, d = 3) a few of 1,000 vectors make up most of the mean, and neither mean says much; the"
    " median does.",
)


def _chord_experiment(key: str, title: str, sources: Sequence[dict[str, Any]]) -> Experiment:
    """Table VI for some sources."""
    return Experiment(
        key=key,
        title=title,
        protocol=_CHORD_PROTOCOL,
        function=chords,
        points=_chords(sources),
        compare=compare_chords,
        figures=_no_figures,
    )


_GAUSSIAN_CHORDS = [{"source": "gaussian", "features": features} for features in (3, 10, 100, 300)]

PAPER = Paper(
    "liu",
    "B. Liu, Understanding global loss landscape of one-hidden-layer ReLU networks, part 2: experiments"
    " and analysis",
    (
        *map(_gaussian_experiment, GAUSSIAN),
        _chord_experiment("table6", "Table VI: longest chords of cells", _GAUSSIAN_CHORDS),
        THEORY,
    ),
    notes=(
        "Tables IV and V and the rows of table VI for images are left out: give --data-dir FOLDER with"
        " MNIST (train-images-idx3-ubyte and train-labels-idx1-ubyte, or an .npz with x and y) and"
        " CIFAR-10 (data_batch_1.bin of the binary version, or an .npz). Nothing is fetched.",
    ),
)


def _with_images(folder: Path) -> Paper:
    """The paper with the tables whose images are in a folder."""
    place = str(folder.resolve())
    there = [source for source in IMAGES if file_of(place, source) is not None]
    if not there:
        looked = ", ".join(PATTERNS["mnist"] + PATTERNS["cifar"])
        raise InputError(f"{folder} has no MNIST or CIFAR-10 images: expected one of {looked}")
    known = {source: fingerprint(place, source) for source in there}
    sources = [
        {"source": source, "features": features, "folder": place, "sha256": known[source][0]}
        for source, features, _ in CHORDS[2000]
        if source in known and known[source][1] >= max(CHORDS)
    ]
    tables = [_image_experiment(source, place, known[source][0]) for source in there]
    notes = [
        f"The {NAMES[source]} file has {count} images: no rows of table VI, which need 2,000."
        for source, (_, count) in known.items()
        if count < max(CHORDS)
    ]
    lacking = [NAMES[source] for source in IMAGES if source not in there]
    notes += [f"{name} images are not in {folder}: its tables are left out." for name in lacking]
    title = "Table VI: longest chords of cells of images, the first 2,000 or 200 of all classes"
    chord = [_chord_experiment("table6-images", title, sources)] if sources else []
    *others, theory = PAPER.experiments
    found = (*others[:3], *tables, *others[3:], *chord, theory)
    return replace(PAPER, experiments=found, notes=tuple(notes))


PAPER = replace(PAPER, with_data=_with_images)
