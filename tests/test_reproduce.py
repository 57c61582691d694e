"""`reproduce`: the table, the page in a browser, resuming and interruption."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from pages import assert_nothing_overflows
from typer.testing import CliRunner, Result

from reluscape import cli, cli_study, reproduce
from reluscape.errors import InputError
from reluscape.papers.paper import SCALES, Comparison, Experiment, Paper, PaperFigure
from reluscape.study import Study


def dice(parameters: dict[str, Any], seed: int) -> dict[str, Any]:
    if parameters["sides"] == 13:
        raise ValueError("no thirteen")
    return {"mean": np.random.default_rng(seed).integers(1, parameters["sides"] + 1, 100).mean()}


def compared(study: Study) -> tuple[Comparison, ...]:
    mean = float(study.records()["mean"].mean())
    return (
        Comparison("mean of <b>dice</b>", 3.75, 0.5, mean, mean - 0.1, mean + 0.1, 400, "pips"),
        Comparison("out of reach", 9.0, 0.0, mean, mean - 0.1, mean + 0.1, 400, note="A note."),
    )


def figures(study: Study) -> tuple[PaperFigure, ...]:
    return (PaperFigure("dice", "Ours.", "none.", go.Figure(go.Scatter(x=[1, 2], y=[3, 4]))),)


def paper(*sides: int) -> Paper:
    points = [{"sides": number} for number in sides]
    experiment = Experiment(
        "throws", "Throws", ("Protocol.",), dice, lambda *_: points, compared, figures
    )
    return Paper("mine", "Nobody, Dice", (experiment,))


@pytest.fixture
def papers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Paper]:
    known = {"mine": paper(6, 7)}
    monkeypatch.setattr(reproduce, "_paper", known.__getitem__)
    return known


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_papers_and_scales_of_the_command_line_are_the_librarys() -> None:
    assert {name.value for name in cli_study.PaperName} == set(reproduce.PAPERS)
    assert tuple(name.value for name in cli_study.ScaleName) == SCALES
    for name in reproduce.PAPERS:
        found = reproduce._paper(name)
        assert found.key == name
        for experiment in found.experiments:
            assert experiment.points("smoke", None) != experiment.points("paper", None)
            assert len(experiment.points("smoke", 1)) == 1
            assert sum(point["runs"] for point in experiment.points("small", 15)) == 15


def test_table_and_page_state_every_comparison(papers: dict[str, Paper], tmp_path: Path) -> None:
    result = reproduce.reproduce("mine", tmp_path)
    assert result.complete
    text = result.summary()
    assert "published" in text
    assert text.count("\n") == 6
    assert text.endswith("A note.")
    with result.table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["agrees"] for row in rows] == ["True", "False"]
    assert float(rows[0]["ours"]) == result.comparisons[0][0].ours
    page = result.report.read_text()
    assert "mean of &lt;b&gt;dice" in page
    assert "1 of 2 published numbers agree with ours." in page
    assert "A note." in page
    assert "<strong>Incomplete.</strong>" not in page
    study = result.standings[0].path
    assert study.parent == tmp_path
    assert f"reluscape study show {study}" in page
    assert f"--csv {study.with_suffix('.csv')}" in page


def test_one_draw_is_too_few_to_disagree(papers: dict[str, Paper], tmp_path: Path) -> None:
    mine = papers["mine"]

    def one_draw(study: Study) -> tuple[Comparison, ...]:
        near, far = compared(study)
        return tuple(replace(row, low=np.nan, high=np.nan, trials=1) for row in (near, far))

    papers["mine"] = replace(mine, experiments=(replace(mine.experiments[0], compare=one_draw),))
    result = reproduce.reproduce("mine", tmp_path)
    first, second = result.comparisons[0]
    assert [reproduce.row_of(row)[-1] for row in (first, second)] == ["yes", "too few runs"]
    told = "1 of 2 published numbers agree with ours; too few runs to tell of 1."
    assert told in result.report.read_text()
    with result.table.open(newline="") as file:
        assert [row["agrees"] for row in csv.DictReader(file)] == ["True", ""]


def test_every_size_has_its_own_study(papers: dict[str, Paper], tmp_path: Path) -> None:
    sizes = [("smoke", None), ("small", None), ("smoke", 5), ("small", 5), ("small", 6)]
    paths = set()
    for scale, trials in sizes:
        result = reproduce.reproduce("mine", tmp_path, scale=scale, trials=trials)
        paths.add(result.standings[0].path)
    assert len(paths) == 5


def test_the_same_call_goes_on_and_gives_the_same_bytes(
    papers: dict[str, Paper], tmp_path: Path
) -> None:
    first = reproduce.reproduce("mine", tmp_path)
    before = (first.report.read_bytes(), first.table.read_bytes())
    second = reproduce.reproduce("mine", tmp_path)
    assert (second.report.read_bytes(), second.table.read_bytes()) == before
    assert second.standings[0].seconds == first.standings[0].seconds  # nothing ran again


def test_other_parameters_need_a_fork(papers: dict[str, Paper], tmp_path: Path) -> None:
    reproduce.reproduce("mine", tmp_path)
    papers["mine"] = paper(6, 8)
    with pytest.raises(InputError, match="--fork"):
        reproduce.reproduce("mine", tmp_path)
    assert reproduce.reproduce("mine", tmp_path, fork=True).complete


def test_failed_trials_are_told(papers: dict[str, Paper], tmp_path: Path) -> None:
    papers["mine"] = paper(6, 13)
    result = reproduce.reproduce("mine", tmp_path)
    assert result.complete
    assert "no thirteen" in result.summary()
    papers["mine"] = paper(13)
    alone = reproduce.reproduce("mine", tmp_path / "alone")
    assert alone.comparisons == ((),)
    assert "No trial has a record yet." in alone.report.read_text()


def stopped(parameters: dict[str, Any], seed: int) -> dict[str, Any]:
    if parameters["sides"] == 7:
        raise KeyboardInterrupt
    return dice(parameters, seed)


def test_ctrl_c_in_a_fork_tells_of_the_fork(papers: dict[str, Paper], tmp_path: Path) -> None:
    whole = reproduce.reproduce("mine", tmp_path)
    mine = papers["mine"]
    stopping = replace(mine.experiments[0], function=stopped)
    papers["mine"] = replace(mine, experiments=(stopping,))
    result = reproduce.reproduce("mine", tmp_path, seed=1, fork=True)
    assert whole.complete
    assert not result.complete
    assert (result.standings[0].seed, result.standings[0].done) == (1, 1)
    assert result.standings[0].path != whole.standings[0].path


def test_ctrl_c_leaves_a_page_of_what_was_done(papers: dict[str, Paper], tmp_path: Path) -> None:
    mine = papers["mine"]
    stopping = replace(mine.experiments[0], function=stopped)
    papers["mine"] = replace(mine, experiments=(stopping,))
    result = reproduce.reproduce("mine", tmp_path)
    assert not result.complete
    assert "<strong>Incomplete.</strong>" in result.report.read_text()
    assert len(result.comparisons[0]) == 2


def at_once(parameters: dict[str, Any], seed: int) -> dict[str, Any]:
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", reproduce.PAPERS)
def test_ctrl_c_before_the_last_experiment_tells_what_was_done(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = reproduce._paper(name)
    first, last = found.experiments[0], paper(6, 7).experiments[0]
    stopping = replace(found, experiments=(last, replace(first, function=at_once), last))
    monkeypatch.setattr(reproduce, "_paper", {name: stopping}.__getitem__)
    interrupted = invoke("reproduce", name, "--scale", "smoke", "--jobs", 1, "--out", tmp_path)
    assert interrupted.exit_code == 130, interrupted.output
    assert "3.75 pips" in interrupted.stdout
    assert f"{first.title}\nNo trial has a record yet." in interrupted.stdout
    assert "Not begun: Throws." in interrupted.stdout
    assert "Not begun: Throws." in (tmp_path / f"{name}.html").read_text()


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("nobody", {}, "expected one of the papers freeman, hinz, liu, milne"),
        ("milne", {"scale": "huge"}, "scale must be one of smoke, small, paper"),
        ("milne", {"trials": 0}, "trials must be at least 1"),
        ("milne", {"jobs": 0}, "jobs must be a whole number of at least 1"),
    ],
)
def test_bad_options(name: str, options: dict[str, Any], expected: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=expected):
        reproduce.reproduce(name, tmp_path, **options)


# --- the command --------------------------------------------------------------------------------


def test_command_prints_table_and_json(tmp_path: Path) -> None:
    arguments = ("reproduce", "milne", "--scale", "smoke", "--jobs", 1, "--out", tmp_path)
    plain, as_json = invoke(*arguments), invoke(*arguments, "--json")
    assert plain.exit_code == as_json.exit_code == 0
    assert "87.2 %" in plain.stdout
    found = json.loads(as_json.stdout)
    assert found["complete"]
    assert [row["published"] for row in found["rows"]] == [87.2, 22.3, None, None]
    assert Path(found["report"]).is_file()


def test_an_experiment_without_any_record_exits_with_1(
    papers: dict[str, Paper], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(papers, "milne", paper(13))
    result = invoke("reproduce", "milne", "--jobs", 1, "--out", tmp_path)
    assert result.exit_code == 1
    assert "no thirteen" in result.stdout
    assert "all its trials failed" in result.stderr


def test_interrupting_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "reluscape", "reproduce", "milne", "--scale", "small"]
    process = subprocess.Popen(
        [*command, "--jobs", "1", "--out", str(tmp_path)], stderr=subprocess.PIPE, text=True
    )
    store = tmp_path / "milne-toy-small.sqlite"
    limit = time.monotonic() + 60
    while time.monotonic() < limit and not list(tmp_path.glob("*.arrays/*.nc")):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert 0 < Study(store).standing().done < 10
    assert "<strong>Incomplete.</strong>" in (tmp_path / "milne.html").read_text()


def right(page: Any, column: str) -> float:
    """Right edge of a column of the first table."""
    box = page.get_by_role("columnheader", name=column).first.bounding_box()
    return float(box["x"] + box["width"])


@pytest.mark.browser
def test_page_in_a_browser(browser: Any, tmp_path: Path) -> None:
    result = reproduce.reproduce("milne", tmp_path, scale="smoke")
    requests: list[str] = []
    troubles: list[str] = []
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.goto(result.report.as_uri())
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.reload()
        for plot in page.query_selector_all(".plot"):
            assert plot.query_selector(".trace") is not None
        assert len(page.query_selector_all(".plot")) == 2
        assert_nothing_overflows(page, width)
        for column in ("quantity", "published", "ours"):
            assert right(page, column) <= width, column
    page.evaluate("document.querySelector('.scroll').scrollLeft = 1000")
    for column in ("quantity", "agrees?"):  # the first column stays, the last comes into sight
        assert 0 < right(page, column) <= 390, column
    assert set(requests) == {result.report.as_uri()}
    assert troubles == []
    page.close()
