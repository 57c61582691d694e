"""Hinz's experiments: the protocol, the rivals of the forecast, and the command at its smallest."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom
from typer.testing import CliRunner

from reluscape import cli
from reluscape.descent import density, descend
from reluscape.intervals import median_interval
from reluscape.papers import hinz, hinz_trials
from reluscape.reproduce import row_of


def test_instances_are_the_published_ones() -> None:
    block = hinz_trials.instance(hinz.WIDTHS, 0, 7)
    landscape = block.landscape
    assert block.size == 25
    assert landscape.loss_name == "l1"
    assert 15 < np.abs(block.theta).max() <= 20
    others = landscape.theta[25:]
    assert 0.8 < np.abs(others).max() <= 1
    assert landscape.inputs.shape == (500, 4)
    assert 2.9 < np.abs(landscape.inputs).max() <= 3
    assert 2.9 < np.abs(landscape.targets).max() <= 3
    again, other = (hinz_trials.instance(hinz.WIDTHS, 0, seed) for seed in (7, 8))
    assert (again.theta == block.theta).all()
    assert (other.theta != block.theta).all()
    assert np.abs(hinz_trials.instance(hinz.WIDTHS, 1, 7).theta).max() > 10


@pytest.mark.parametrize("ahead", [np.inf, 25.0])
def test_rivals_fit_exponentials(ahead: float) -> None:
    """Their grid of rates is 9 % wide, so they are right to a few percent of the fall to come."""
    values = 0.7 + 2.0 * np.exp(-0.05 * np.arange(60))
    expected = 0.7 + (2.0 * np.exp(-0.05 * (59 + ahead)) if np.isfinite(ahead) else 0.0)
    for found in hinz_trials.fits(values, ahead):
        assert found == pytest.approx(expected, abs=0.1 * (values[-1] - 0.7))
    assert hinz_trials.fitted(np.array([3.0, 2.0])) == 2.0
    assert hinz_trials.fitted(np.linspace(4.0, 1.0, 50)) == 0.0  # clipped


def test_ways_end_at_the_next_kink() -> None:
    """No kink changes its sign before the way's end, one does behind it."""
    block = hinz_trials.instance((4, 3, 1), 0, 3)
    vertex = descend(block, max_pivots=20).theta
    rng = np.random.default_rng(0)
    for direction in rng.normal(size=(10, block.size)):
        direction /= np.linalg.norm(direction)
        way = density.way(block, vertex, direction)
        near, before, behind = (
            block.pattern(vertex + length * direction)
            for length in (1e-6 * (1 + np.linalg.norm(vertex)), 0.99 * way, 1.01 * way + 1e-5)
        )
        if way > 1e-4:
            assert (near == before).all()
        assert (near != behind).any()


def test_median_interval_is_exact() -> None:
    """Order statistics k and n + 1 - k hold the median with probability P(k <= B <= n - k)."""
    for count in (6, 20, 101):
        values = np.random.default_rng(count).permutation(np.arange(1.0, count + 1))
        median, low, high = median_interval(values)
        assert median == np.median(values)
        assert low + high == count + 1
        inside = binom.cdf(high - 1, count, 0.5) - binom.cdf(low - 1, count, 0.5)
        narrower = binom.cdf(high - 2, count, 0.5) - binom.cdf(low, count, 0.5)
        assert inside >= 0.95 > narrower
    assert np.isnan(median_interval(np.zeros(0))).all()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_values_have_no_interval(count: int) -> None:
    """Least and greatest of n hold the median with 1 - 2^(1 - n): 97 % for 6 of them, 94 % for 5."""
    median, *ends = median_interval(np.arange(1.0, count + 1))
    assert median == (count + 1) / 2
    assert np.isnan(ends).all()


def test_a_start_on_a_plateau_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hinz_trials, "SAMPLES", 20)
    seed = next(
        seed
        for seed in range(500)
        if not hinz_trials.instance(hinz.WIDTHS, 0, seed).gradient().any()
    )
    found = hinz_trials.descents({"widths": list(hinz.WIDTHS), "layer": 0}, seed)
    assert found["plateau_start"]
    assert "errors_first_kink" in found or found["plateau_first_kink"]


def test_smallest_run_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hinz_trials, "SAMPLES", 40)
    monkeypatch.setattr(hinz, "RUNS", (("wine", 0.05, 20),))
    arguments = ["reproduce", "hinz", "--trials", "1", "--jobs", "1", "--out", str(tmp_path)]
    result = CliRunner().invoke(cli.app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    rows = {row["quantity"]: row for row in found["rows"]}
    assert {row["published"] for row in found["rows"]} == {None}
    assert {row["agrees"] for row in found["rows"]} == {None}
    assert 0 < rows["pivots, long steps / first kink"]["ours"] < 1
    assert rows["starts on a plateau"]["runs"] == 1
    for rule in ("first kink", "long steps", "training"):
        name = f"error of the final loss, {rule}, 50% seen"
        for predictor in ("forecast", "last value", "best exponential fit"):
            assert 0 <= rows[f"{name}: {predictor}"]["ours"] < np.inf
    assert rows["pivots, long steps"]["interval"] is None
    with Path(found["table"]).open(newline="") as file:
        (written,) = (
            row for row in csv.DictReader(file) if row["quantity"] == "pivots, long steps"
        )
    assert (written["low"], written["high"]) == ("", "")
    assert written["note"].endswith("1 run: no 95 % interval.")
    page = Path(found["report"]).read_text()
    assert "1 run: no 95 % interval." in page
    assert "The paper publishes no numbers" in page
    assert "No numbers are published; the table holds ours." in page
    for key in ("loss", "steps", "distance", "first_kink", "density"):
        assert f"hinz-layerwise-{key}" in page


def test_figures_mark_phases_and_leave_rounding_off_the_axis() -> None:
    """The last distance is rounding of zero: the axis ends at the least of the others."""
    pivots = np.arange(1.0, 101.0)
    path = np.stack([pivots, 2.0 + 1.0 / pivots, 1.0 / pivots, 10.0 / pivots])
    path[3, -1] = 1e-13
    held = {"path": [path, path[:, :50]], "split": [np.array([40.0]), np.array([np.nan])]}
    study: Any = SimpleNamespace(arrays=lambda name: [({}, array) for array in held.get(name, [])])
    loss, steps, distance = hinz._figures(study)
    for figure in (loss, steps, distance):
        assert [shape.x0 for shape in figure.figure.layout.shapes] == [40.0]
        assert "dashed" in figure.caption
    low, high = distance.figure.layout.yaxis.range
    assert -2 < low < -0.6
    assert 1 < high < 1.5


def test_rows_without_a_published_number() -> None:
    row = hinz._row("q", (1.0, 0.5, 1.5), 3, "%")
    assert row.agrees is None
    assert row_of(row) == ("q", "–", "1.00 %", "0.500 to 1.50", "3", "–")
    assert row.remarks == (hinz._NO_NUMBERS,)
    few = hinz._median("q", np.array([1.0, 2.0, np.nan]))
    assert row_of(few) == ("q", "–", "1.50", "–", "2", "–")
    assert few.remarks == (hinz._NO_NUMBERS, "2 runs: no 95 % interval.")
