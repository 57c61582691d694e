"""Figures 2 and 3 of `reproduce liu`: the 1-D Gaussian theory, and draws of samples beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from reluscape.gaussian import expected_minimum_probability, probability_curve
from reluscape.intervals import share_interval
from reluscape.papers.paper import Comparison, Experiment, PaperFigure, Scale
from reluscape.study import Study

Floats = NDArray[np.float64]

#: Samples, as published.
SAMPLES = 100
#: Panels: locations, normals, units that move (all where empty), and the range they move over.
PANELS: dict[str, tuple[list[float], list[int], list[int], tuple[float, float]]] = {
    "2d": ([0.0, 0.0], [1, -1], [0], (0.0, 6.0)),
    "3a": ([-0.05, 0.0, 0.05, 0.1], [-1, -1, 1, 1], [3], (-0.1, 6.0)),
    "3b": ([-0.05, 0.0, 0.05, 0.1], [-1, -1, 1, 1], [], (-6.0, 6.0)),
    "3c": (list(np.linspace(-3, 3, 60)), [-1] * 30 + [1] * 30, [], (-9.0, 9.0)),
    "3d": (list(np.linspace(-3, 3, 200)), [-1] * 100 + [1] * 100, [], (-9.0, 9.0)),
}
#: Published in words and pictures.
PUBLISHED = {
    "2d": "figure 2(d): a peak near the minimum of the empirical loss, and 1 far from the data.",
    "2e": "figure 2(e): the tensor product of the probabilities of the two units.",
    "3a": "figure 3(a), the rightmost of 4 units shifted.",
    "3b": "figure 3(b), 4 units shifted together.",
    "3c": "figure 3(c), 60 units on [-3, 3] shifted together.",
    "3d": "figure 3(d), 200 units on [-3, 3] shifted together.",
}
NUM_SHIFTS = 301

_RUNS: dict[Scale, int] = {"smoke": 200, "small": 2000, "paper": 5000}


def curve(parameters: dict[str, Any], seed: int) -> dict[str, Any]:
    """One panel's curves, and draws of samples at one place.

    Args:
        parameters: `panel` and `runs` (draws of 100 samples).
        seed: Of the samples.

    Returns:
        `curve` (4, shifts): shift, the paper's P_t, the probability that no sample lies in any gap, and
        that none lies in the first moved unit's own. Numbers, where the last is nearest 1/2: the share
        of draws that leave that gap `empty` and its `expected` value, the share of samples `inside` any
        gap and that of the `union`; and the `most` that P_t and the unit's own probability come to.
    """
    panel = parameters["panel"]
    places, normals, moved, ends = PANELS[panel]
    shifts = np.linspace(*ends, NUM_SHIFTS)
    found = probability_curve(places, normals, shifts, moved=moved or None, num_samples=SAMPLES)
    first = moved[0] if moved else 0
    own = found.unit_probability[:, first]
    curves = np.stack([shifts, found.probability, found.probability_union, own])
    place = int(np.argmin(np.abs(own - 0.5)))
    at = np.array(places)
    at[moved or slice(None)] += shifts[place]
    empty, inside = gaps_drawn(at, normals, first, parameters["runs"], seed)
    union = expected_minimum_probability(at, normals, num_samples=SAMPLES).gap_union
    return {
        "shift": float(shifts[place]), "empty": empty, "inside": inside, "expected": float(own[place]),
        "union": float(union), "most_paper": float(found.probability.max()),
        "most_own": float(own.max()), "curve": curves,
    }  # fmt: skip


def gaps_drawn(
    places: Floats, normals: Sequence[int], unit: int, runs: int, seed: int
) -> tuple[float, float]:
    """Share of draws of 100 samples that leave a unit's gap empty, and of samples in any unit's gap."""
    optimal = expected_minimum_probability(places, normals, num_samples=SAMPLES).optimal
    low, high = np.minimum(places, optimal), np.maximum(places, optimal)
    rng, empty, inside = np.random.default_rng(seed), 0, 0
    for _ in range(runs):
        drawn = rng.normal(size=(SAMPLES, 1)) + rng.choice([-1.0, 1.0], size=(SAMPLES, 1))
        between = (drawn > low) & (drawn < high)
        empty += not between[:, unit].any()
        inside += int(between.any(axis=1).sum())
    return empty / runs, inside / (runs * SAMPLES)


def _points(scale: Scale, runs: int | None) -> Sequence[dict[str, Any]]:
    """One point per panel."""
    names = list(PANELS)
    total = _RUNS[scale] * len(names) if runs is None else runs
    counts = [(total + len(names) - 1 - place) // len(names) for place in range(len(names))]
    return [{"panel": n, "runs": c} for n, c in zip(names, counts, strict=True) if c]


def _compare(study: Study) -> tuple[Comparison, ...]:
    """The formula's probability and the share of draws, less it."""
    records = study.records()
    rows = []
    for row in records[records["status"] == "done"].to_dict("records"):
        runs, panel = int(row["runs"]), row["panel"]
        percent = {
            name: f"{100 * row[name]:.4g} %"
            for name in ("expected", "union", "most_paper", "most_own")
        }
        note = (
            f"Figure {panel}, at shift {row['shift']:.3g}: the formulas give {percent['expected']} of"
            " draws without a sample in the first moved unit's gap, and"
            f" {percent['union']} of samples in any gap. Over all shifts P_t is at most"
            f" {percent['most_paper']}, the first moved unit's own probability {percent['most_own']}."
        )
        rows += [
            _less(f"figure {panel}: draws that leave the unit's gap empty, less the formula",
                  row["empty"], runs, row["expected"], note),
            _less(f"figure {panel}: samples in any gap, less the formula",
                  row["inside"], runs * SAMPLES, row["union"], note),
        ]  # fmt: skip
    return tuple(rows)


def _less(quantity: str, share: float, count: int, expected: float, note: str) -> Comparison:
    """A share less what the formula gives."""
    low, high = share_interval(round(share * count), count)[1:]
    ends = 100 * (low - expected), 100 * (high - expected)
    return Comparison(quantity, None, 0.0, 100 * (share - expected), *ends, count, "%", note)


def _figures(study: Study) -> tuple[PaperFigure, ...]:
    """The curves, and the product of two units' probabilities."""
    curves = {parameters["panel"]: found for parameters, found in study.arrays("curve")}
    figures = [
        PaperFigure(f"liu-theory-{panel}", _CAPTION, PUBLISHED[panel], _lines(curves[panel]))
        for panel in PANELS
        if panel in curves
    ]
    caption = (
        "Both units move: the product of the probabilities that no sample lies in a unit's own gap"
        f" (largest P_t: {_grid()[3].max():.2g}, from the larger of the two gaps)."
    )
    heat = PaperFigure("liu-theory-2e", caption, PUBLISHED["2e"], _heat())
    return (*figures[:1], heat, *figures[1:])


_CAPTION = (
    f"Probability of a minimum, N = {SAMPLES}: the paper's P_t, from the largest gap; exactly, that no"
    " sample lies in any gap; and, dotted, that none lies in the first moved unit's own."
)


def _lines(values: Floats) -> go.Figure:
    """P_t, the exact probability and that of the moved unit alone."""
    names = ("P_t, largest gap", "no sample in any gap", "first moved unit's own gap")
    dashes = ("solid", "dash", "dot")
    traces = [
        go.Scatter(x=values[0], y=y, mode="lines", name=name, line={"dash": dash})
        for y, name, dash in zip(values[1:], names, dashes, strict=True)
    ]
    return go.Figure(traces).update_layout(
        height=360,
        margin={"t": 20, "r": 20},
        xaxis_title="shift",
        yaxis_title="probability",
        legend={"orientation": "h", "y": -0.25},
    )


def _grid() -> tuple[Floats, Floats, Floats, Floats]:
    """Places of the two units, the product of their own probabilities, and P_t."""
    x, y = np.linspace(0.0, 6.0, 121), np.linspace(-6.0, 0.0, 121)
    both = np.stack(np.meshgrid(x, y), axis=-1)
    found = expected_minimum_probability(both, [1, -1], num_samples=SAMPLES)
    return x, y, found.unit_probability.prod(axis=-1), found.probability


def _heat() -> go.Figure:
    """The product over both places."""
    x, y, product, _ = _grid()
    figure = go.Figure(go.Heatmap(x=x, y=y, z=product, zmin=0.0, zmax=1.0))
    return figure.update_layout(
        height=380,
        margin={"t": 20, "r": 20},
        xaxis_title="first unit",
        yaxis_title="second unit",
    )


THEORY = Experiment(
    key="theory",
    title="Figures 2 and 3: probability of a minimum in one dimension",
    protocol=(
        "Two Gaussians of means 1 and -1 and standard deviation 1, 100 samples. At one place"
        " per panel draws of samples test the formulas.",
        "Figure 2(d) as it is described can only be the moved unit's own probability: the fixed unit at 0"
        " alone has a gap of 11.7 % of the mass, so that P_t is at most 4e-6 everywhere. Figure 2(e) is"
        " in the same way the product of both units' own probabilities, as its text says.",
        "Figures 3(c) and 3(d) leave the normals open: the first half is -1, as in 3(a) and 3(b).",
    ),
    function=curve,
    points=_points,
    compare=_compare,
    figures=_figures,
)
