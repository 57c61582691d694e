"""The tables of `reproduce liu`: published numbers, and ours beside them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.intervals import Z95, mean_interval, median_interval, share_interval
from reluscape.papers.liu_trials import COLUMNS, CROSSED, LIMIT, TRAPPED
from reluscape.papers.paper import Comparison, over_draws
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
#: Values below which the bootstrap's interval of a mean is too narrow; Student's t is taken.
FEW = 30

NO_PROOF = (
    "A descent that leaves its cell proves nothing about it: many of these cells hold a genuine minimum"
    " under the descent's own signs (the row for given signs)."
)


# ---- what is published, and its own error ---------------------------------------------------------


def _share(
    quantity: str, values: Floats, published: float | None, draws: int, note: str
) -> Comparison:
    """A share of draws in percent; the published one's error is that of as many draws as it had."""
    share, low, high = share_interval(int(values.sum()), len(values))
    error = 0.0
    if published is not None:
        ends = share_interval(round(published * draws / 100), draws)[1:]
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
                f"{where}: {left} of {len(draws)} draws were not asked or are undecided for {name}"
                " signs."
            )
        if len(known):
            value = published if name == "uniform" else None
            said = f"{where}: genuine, {name} signs"
            rows.append(_share(said, known, value, count, " ".join(notes)))
        else:
            rows[-1] = replace(rows[-1], note=" ".join([rows[-1].note, *notes]).strip())
    return rows


# ---- tables ---------------------------------------------------------------------------------------


def _verified(study: Study, rows: list[Comparison]) -> tuple[Comparison, ...]:
    """The rows, the first with a note on answers that the check without a solver did not accept."""
    rejected = int(study.records()["unverified"].fillna(0).sum())
    if rejected and rows:
        text = (
            f"{rejected} answers of cell_minimum were not accepted by the check without a solver."
        )
        rows[0] = replace(rows[0], note=f"{rows[0].note} {text}".strip())
    return tuple(rows)


def compare_gaussian(table: str) -> Any:
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
        return _verified(study, rows)

    return compare


def compare_images(source: str) -> Any:
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
                _share(f"{where}: trapped in its cell", end == TRAPPED, value, count, NO_PROOF),
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
        return _verified(study, rows)

    return compare


def compare_chords(study: Study) -> tuple[Comparison, ...]:
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
