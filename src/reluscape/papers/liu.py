"""Liu, Understanding global loss landscape of one-hidden-layer ReLU networks, part 2: tables and figures.

Whether cells of random weights hold a genuine minimum, under three conventions for the signs of output
weights side by side; what gradient descent does there; how long cells are; and the 1-D theory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.errors import InputError
from reluscape.intervals import Z95, mean_interval, median_interval, wilson_interval
from reluscape.papers.liu_data import PATTERNS, file_of, fingerprint
from reluscape.papers.liu_theory import THEORY
from reluscape.papers.liu_trials import (
    COLUMNS,
    CROSSED,
    LIMIT,
    TRAPPED,
    chords,
    gaussian,
    images,
)
from reluscape.papers.paper import Comparison, Experiment, Paper, PaperFigure, Scale, over_draws
from reluscape.study import Study

Floats = NDArray[np.float64]

#: Tables I to III: features, units, samples.
GAUSSIAN = {"1": (3, 10, 2000), "2": (3, 20, 2000), "3": (10, 50, 400)}
BIASES = (20, 3, 0, -3, -20)
#: Published for each bias: genuine %, continuous %, mean P_g, activated %.
TABLES: dict[str, tuple[tuple[float, float, float, float], ...]] = {
    "1": ((0, 100, 0.50, 100), (0, 60, 0.98, 91.27), (0, 3, 0.92, 50.66), (0, 86, 0.96, 8.04),
          (100, 100, 0, 0)),
    "2": ((0, 100, 0.51, 100), (0, 91, 0.99, 91.67), (0, 9, 0.97, 50.23), (0, 98, 0.99, 7.93),
          (100, 100, 0, 0)),
    "3": ((0, 100, 0.48, 100), (0, 100, 0.77, 81.99), (0, 100, 0.73, 49.33), (0, 100, 0.77, 18.38),
          (100, 100, 0, 0)),
}  # fmt: skip
#: Tables IV and V: last bias, activated %, draws; all genuine, trapped: 0, 0, 0, 0, 100; continuous: 100.
IMAGES = {"mnist": (-50, (98.70, 62.96, 52.19, 37.00, 0.0), 100),
          "cifar": (-80, (86.38, 57.09, 49.94, 42.47, 0.0), 10)}  # fmt: skip
#: Measured before for the same images, given and free signs, for each bias.
EARLIER = {"mnist": ((99, 100), (57, 100), (29, 93), (7, 50), (100, 100)),
           "cifar": ((99, 100), (67, 96), (47, 94), (28, 76), (97, 100))}  # fmt: skip
#: Table VI by number of samples: source, features, published.
CHORDS = {2000: (("gaussian", 3, 0.009), ("gaussian", 10, 0.009), ("gaussian", 100, 0.034),
                 ("gaussian", 300, 0.068), ("mnist", 784, 0.366), ("cifar", 1024, 3.374)),
          200: (("gaussian", 3, 0.094), ("gaussian", 10, 0.093), ("gaussian", 100, 0.351),
                ("gaussian", 300, 0.678), ("mnist", 784, 2.687), ("cifar", 1024, 6.443))}  # fmt: skip
NAMES = {"gaussian": "Gaussian", "mnist": "MNIST", "cifar": "CIFAR-10"}

#: Data sets, draws of the weights on each, and data sets of table III with a linear program.
_SIZES: dict[Scale, tuple[int, int, int]] = {
    "smoke": (1, 2, 0), "small": (4, 5, 1), "paper": (10, 10, 10),
}  # fmt: skip
#: Draws, and steps of a descent, for images; blocks of weight vectors, and vectors, for chords.
_DRAWS: dict[Scale, tuple[int, int]] = {
    "smoke": (2, 200),
    "small": (20, 2000),
    "paper": (100, 20_000),
}
_VECTORS: dict[Scale, tuple[int, int]] = {"smoke": (1, 4), "small": (4, 10), "paper": (20, 50)}

#: Values below which the bootstrap's interval of a mean is too narrow; Student's t is taken.
FEW = 30

_NO_PROOF = (
    "A descent that leaves its cell proves nothing about it: many of these cells hold a genuine minimum"
    " under the descent's own signs (the row for given signs)."
)


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
        datasets, each, programs = _SIZES[scale]
        found = []
        for dataset in range(datasets):
            for bias in BIASES:
                easy = units <= 20 or abs(bias) == 20
                sizes = {"features": features, "units": units, "samples": samples}
                asked = {"programs": 1000 if easy else int(dataset < programs), "search": easy}
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


# ---- what is published, and its own error ---------------------------------------------------------


def _share(
    quantity: str, values: Floats, published: float | None, draws: int, note: str
) -> Comparison:
    """A share of draws in percent; the published one's error is that of as many draws as it had."""
    share, low, high = wilson_interval(int(values.sum()), len(values))
    error = 0.0
    if published is not None:
        ends = wilson_interval(round(published * draws / 100), draws)[1:]
        error = 100 * (ends[1] - ends[0]) / (2 * Z95)
    found = (100 * share, 100 * low, 100 * high)
    return Comparison(quantity, published, error, *found, len(values), "%", note)


def _mean(
    quantity: str, values: Floats, published: float, draws: int, *, unit: str, rounding: float
) -> Comparison:
    """A mean over draws; the published one's error is that of as many draws, and of its digits."""
    mean, low, high, scatter = over_draws(values)
    if len(values) >= FEW:
        mean, low, high = mean_interval(values)
    error = float(np.hypot(scatter / draws**0.5, rounding / 3**0.5))
    return Comparison(quantity, published, error, mean, low, high, len(values), unit)


def _gap(quantity: str, sets: list[Floats], published: float) -> Comparison:
    """P_g over data sets; the paper had one, so how much one data set scatters is its error too."""
    means = np.array([one.mean() for one in sets])
    mean, low, high, scatter = over_draws(means)
    within = float(np.mean([one.var(ddof=1) if len(one) > 1 else 0.0 for one in sets]))
    least = min(map(len, sets))
    between = max(0.0, scatter**2 - within / least)
    error = float((between + within / 100 + 0.005**2 / 3) ** 0.5)
    runs = sum(map(len, sets))
    note = f"P_g, number of data sets: {len(sets)}; the scatter of one is the paper's own error."
    return Comparison(quantity, published, error, mean, low, high, runs, "", note)


def _by(study: Study, name: str, *keys: str) -> dict[tuple[Any, ...], list[Floats]]:
    """Arrays of the trials, by some of their parameters."""
    found: dict[tuple[Any, ...], list[Floats]] = {}
    for parameters, array in study.arrays(name):
        found.setdefault(tuple(parameters.get(key) for key in keys), []).append(array)
    return found


def _genuine(
    where: str, draws: Floats, published: float, count: int, earlier: tuple[float, float] | None
) -> list[Comparison]:
    """The three conventions side by side, of the draws that were decided."""
    rows = []
    for place, name in enumerate(COLUMNS[:3]):
        known = draws[:, place][np.isfinite(draws[:, place])]
        notes = []
        if earlier is not None and name != "uniform":
            notes.append(f"{where}, {name} signs: {earlier[place - 1]:g} % when measured before.")
        if left := len(draws) - len(known):
            notes.append(
                f"{where}: {left} of {len(draws)} draws are left undecided for {name} signs."
            )
        if len(known):
            value = published if name == "uniform" else None
            said = f"{where}: genuine, {name} signs"
            rows.append(_share(said, known, value, count, " ".join(notes)))
        else:
            rows[-1] = replace(rows[-1], note=" ".join([rows[-1].note, *notes]).strip())
    return rows


# ---- tables ---------------------------------------------------------------------------------------


def _compare_gaussian(table: str) -> Any:
    """Published numbers of tables I to III beside ours."""

    def compare(study: Study) -> tuple[Comparison, ...]:
        rows: list[Comparison] = []
        found = _by(study, "draws", "bias")
        for bias, (genuine, continuous, gap, active) in zip(BIASES, TABLES[table], strict=True):
            if (sets := found.get((bias,))) is None:
                continue
            draws, where = np.concatenate(sets), f"bias {bias}"
            rows += _genuine(where, draws, genuine, 100, None)
            rows += [
                _share(f"{where}: continuous", draws[:, 3], continuous, 100, ""),
                _gap(f"{where}: mean P_g", [one[:, 4] for one in sets], gap),
                _mean(
                    f"{where}: activated", 100 * draws[:, 5], active, 100, unit="%", rounding=0.005
                ),
            ]
        return tuple(rows)

    return compare


def _compare_images(source: str) -> Any:
    """Published numbers of tables IV and V beside ours."""
    last, activated, count = IMAGES[source]

    def compare(study: Study) -> tuple[Comparison, ...]:
        rows: list[Comparison] = []
        draws, ends = _by(study, "draws", "bias"), _by(study, "ends", "bias")
        for place, bias in enumerate((*BIASES[:4], last)):
            if (bias,) not in draws:
                continue
            here, end = np.concatenate(draws[bias,]), np.concatenate(ends[bias,])[:, 0]
            where, value = f"bias {bias}", 100.0 * (bias == last)
            rows += _genuine(where, here, value, count, EARLIER[source][place])
            rows += [
                _share(f"{where}: continuous", here[:, 3], 100.0, count, ""),
                _share(f"{where}: trapped in its cell", end == TRAPPED, value, count, _NO_PROOF),
                _share(f"{where}: descent left its cell", end == CROSSED, None, count, ""),
                _share(f"{where}: neither before the step limit", end == LIMIT, None, count, ""),
                _mean(
                    f"{where}: activated",
                    100 * here[:, 5],
                    activated[place],
                    count,
                    unit="%",
                    rounding=0.005,
                ),
            ]
        return tuple(rows)

    return compare


def _compare_chords(study: Study) -> tuple[Comparison, ...]:
    """Table VI beside ours, with the scale-free angle."""
    rows: list[Comparison] = []
    found = _by(study, "chords", "source", "features", "samples")
    for samples, published in CHORDS.items():
        for source, features, value in published:
            where = f"{NAMES[source]} (d = {features}), N = {samples}"
            if sets := found.get((source, features, samples)):
                rows += _chord_rows(where, np.concatenate(sets), value)
    return tuple(rows)


def _chord_rows(where: str, values: Floats, published: float) -> list[Comparison]:
    """Mean and median longest chord, and angle, of the cells closed in all directions tried."""
    closed = values[np.isfinite(values[:, 0])]
    if len(closed) < 1:
        return []
    note = f"{where}: {len(values) - len(closed)} of {len(values)} cells are open and left out."
    note = note if len(closed) < len(values) else ""
    length = _mean(f"{where}: longest chord", closed[:, 0], published, 1000, unit="", rounding=5e-4)
    angle = _mean(f"{where}: chord / |w|", closed[:, 1], 0.0, 1000, unit="", rounding=0.0)
    middle = Comparison(
        f"{where}: median of the longest chords",
        None,
        0.0,
        *median_interval(closed[:, 0]),
        len(closed),
    )
    return [replace(length, note=note), replace(angle, published=None, published_error=0.0), middle]


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
    " kink. Answers are those of cell_minimum, each with its proof; where the fitted values, which all"
    " minimisers share, have a sign that no active unit may contribute, that is the proof. Nothing is"
    " published for given and free signs."
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
            "Between biases 20 and -20 one linear program for given signs takes seconds and is solved for"
            " a few draws (none at scale smoke, 1 and 10 at small and paper); free signs are left"
            " undecided: the programs stay feasible until some 15 to 20 of the 50 units have a sign, so"
            " that a proof would have to go through some 2^15 parts.",
        )
    return Experiment(
        key=f"table{table}",
        title=f"Table {numeral}: Gaussian data, d = {features}, K = {units}, N = {samples}",
        protocol=protocol,
        function=gaussian,
        points=_tables(table),
        compare=_compare_gaussian(table),
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
            f" ({', '.join(f'{s} at scale {n}' for n, (_, s) in _DRAWS.items())}). {_NO_PROOF}",
        ),
        function=images,
        points=_images(source, folder, sha256),
        compare=_compare_images(source),
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
        compare=_compare_chords,
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
