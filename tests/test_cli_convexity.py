"""`reluscape convexity`, its page, and the section of a survey."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pages import assert_nothing_is_cut, assert_nothing_overflows
from safetensors.torch import save_file
from test_cli import files, invoke, refusal
from test_monitor import by_hand
from torch import nn

import reluscape as rs
from reluscape.cli_convexity import _record
from reluscape.digits import rounded_down, rounded_up
from reluscape.monitor.trajectory import Trajectory
from reluscape.progress import Stop
from reluscape.report import ConvexitySurvey, DataSummary, ModelSurvey, Survey, load_survey
from reluscape.report.run import run_section
from reluscape.report.section import Section
from reluscape.report.sections.convexity import LABELS, section
from reluscape.train import mlp


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A network on a slope, one near zero weights, and one without biases."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3))
    np.savez(tmp_path / "mine.npz", x=x, y=np.sin(x[:, 0]))
    model = mlp((3, 5, 4, 1), seed=2)
    save_file(model.state_dict(), tmp_path / "mlp.safetensors")
    small = {name: 0.01 * value for name, value in model.state_dict().items()}
    save_file(small, tmp_path / "small.safetensors")
    torch.manual_seed(0)
    bare = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 1, bias=False))
    save_file(bare.state_dict(), tmp_path / "bare.safetensors")
    return tmp_path


def subject(folder: Path, weights: str = "mlp") -> tuple[object, ...]:
    return ("--weights", folder / f"{weights}.safetensors", "--data", folder / "mine.npz")


def of(folder: Path, weights: str = "mlp", decay: float = 0.1) -> rs.Convexity:
    """The library's own answer."""
    state = {k: v.double() for k, v in _load(folder / f"{weights}.safetensors").items()}
    widths = [state[name].shape[1] for name in state if name.endswith("weight")] + [1]
    model = mlp(tuple(widths), seed=0).double()
    model.load_state_dict(state)
    with np.load(folder / "mine.npz") as data:
        return rs.convexity(rs.Landscape(model, data["x"], data["y"], weight_decay=decay))


def _load(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def test_the_numbers_are_the_librarys(mine: Path) -> None:
    result = invoke("convexity", *subject(mine), "--weight-decay", 0.1, "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout, parse_constant=lambda name: pytest.fail(name))
    found = of(mine)
    for name in (*LABELS, "covering_decay", "paper_covering_decay", "loss"):
        assert record[name] == pytest.approx(getattr(found, name), rel=1e-9)
    assert record["convex"] is found.is_convex is False
    assert record["in_region"] is False
    assert record["lowest_minimum"] is None  # there are biases
    assert record["files"] == []


def test_the_terminal_tells_the_verdict_first(mine: Path) -> None:
    told = invoke("convexity", *subject(mine), "--weight-decay", 0.1).stdout
    assert told.startswith("with its switches frozen, the loss is not convex here")
    assert told == of(mine).summary() + "\n"
    told = invoke("convexity", *subject(mine, "small"), "--weight-decay", 50).stdout
    assert "is strongly convex here" in told
    assert told.count("(certified)") == 3
    told = invoke("convexity", *subject(mine, "bare"), "--weight-decay", 50).stdout
    assert "without biases, no local minimum but zero has a loss below" in told
    assert "unless zero, this point is no local minimum" in told


def test_out_holds_the_result_and_a_page(mine: Path) -> None:
    given = (*subject(mine, "small"), "--weight-decay", 50, "--out", mine / "r")
    result = invoke("convexity", *given)
    assert result.exit_code == 0, result.output
    assert files(mine / "r") == {"convexity.nc", "report.html"}
    assert f"written: {mine / 'r' / 'report.html'}" in result.stdout
    found = rs.Convexity.load(mine / "r" / "convexity.nc")
    assert repr(found) == repr(of(mine, "small", 50.0))
    page = (mine / "r" / "report.html").read_text()
    command = "reluscape convexity --weights ../small.safetensors --data ../mine.npz --loss squared"
    assert f"{command} --weight-decay 50.0" in page
    assert "reluscape verify convexity.nc --weights ../small.safetensors" in page


def test_verify_checks_the_file(mine: Path) -> None:
    assert invoke("convexity", *subject(mine), "--weight-decay", 0.5, "--out", mine).exit_code == 0
    told = invoke("verify", mine / "convexity.nc", *subject(mine))  # loss and decay are the file's
    assert told.exit_code == 0, told.output
    assert told.stdout.startswith(
        "valid: recomputed from network and data: with its switches frozen"
    )
    other = invoke("verify", mine / "convexity.nc", *subject(mine), "--weight-decay", 0.1)
    assert other.exit_code == 1
    assert other.stdout == "rejected: it is about weight decay 0.5, not 0.1\n"
    smaller = invoke("verify", mine / "convexity.nc", *subject(mine, "small"))
    assert smaller.exit_code == 1
    assert "about other weights" in smaller.stdout
    changed = replace(rs.Convexity.load(mine / "convexity.nc"), weight_decay=-1.0)
    changed.save(mine / "changed.nc")
    assert "no such weight decay" in invoke("verify", mine / "changed.nc", *subject(mine)).stdout


def test_bad_input_is_one_line(mine: Path) -> None:
    assert "affine on every piece" in refusal("convexity", *subject(mine), "--loss", "l1")
    assert "give --weights or --model, and --data" in refusal("convexity")
    (mine / "file").write_text("")
    assert "can be written to" in refusal("convexity", *subject(mine), "--out", mine / "file" / "r")


# ---- the section -------------------------------------------------------------------------------


def surveyed(one: ConvexitySurvey, decay: float = 0.1) -> Survey:
    data = DataSummary("mine", 40, options="--data mine.npz")
    model = ModelSurvey("net", options="--weights a.safetensors", convexity=one)
    return Survey(data, "squared", decay, seed=0, models=(model,), version="0.1.0")


def record(**more: Any) -> ConvexitySurvey:
    values: dict[str, Any] = {
        "method": "dense", "convex": False, "exact": -0.5, "error": 1e-12, "paper_bound": -9.0,
        "sharp_bound": -3.0, "data_bound": -1.0, "weight_decay": 0.1, "covering_decay": 4.0,
        "paper_covering_decay": 12.0, "num_active_kinks": 0,
    }  # fmt: skip
    return ConvexitySurvey(**(values | more))


def test_a_record_of_a_result_leaves_out_what_is_not_known(mine: Path, tmp_path: Path) -> None:
    found = ConvexitySurvey.of(of(mine))
    assert found.lowest_minimum is None
    assert found.exact == of(mine).exact
    survey = surveyed(found)
    survey.save(tmp_path / "results.nc")
    assert load_survey(tmp_path / "results.nc").models[0].convexity == found


def test_the_section_says_what_is_shown_and_by_what() -> None:
    def verdict(**more: Any) -> str:
        shown = section(surveyed(record(**more)))
        assert shown is not None
        return shown.verdict

    assert "is not convex here: along some direction its curvature is −0.500" in verdict()
    inside = verdict(convex=True, exact=0.09, data_bound=0.05, sharp_bound=0.02)
    assert "strongly convex here, and the sharper bound is enough" in inside
    assert "no direction has a curvature below 0.0500" in inside
    assert "norms do not show it" in verdict(convex=True, exact=0.09)
    open_ = verdict(convex=None, exact=0.09, method="lanczos", error=1e-9)
    assert "is undecided" in open_
    assert "no direction" not in open_
    kinks = verdict(convex=None, exact=0.09, num_active_kinks=2)
    assert "For one choice of their signs the smallest curvature is 0.0900" in kinks


def test_thresholds_are_rounded_to_the_side_on_which_they_hold() -> None:
    shown = section(
        surveyed(
            record(
                lowest_minimum=0.725835, covering_decay=3.0912, paper_covering_decay=1234.5,
                data_bound=0.0999, convex=True, exact=0.4,
            )
        )
    )  # fmt: skip
    assert shown is not None
    (line,) = [line for line in shown.remarks if "loss below" in line]
    assert "loss below 0.725," in line
    (line,) = [line for line in shown.remarks if "all global minimisers" in line]
    assert "decay of 3.10 all" in line
    assert "above 1240 where" in line
    assert "no direction has a curvature below 0.0999." in shown.verdict
    shown = section(surveyed(record(data_bound=0.09998, convex=True, exact=0.4)))
    assert shown is not None
    assert "no direction has a curvature below 0.0999." in shown.verdict
    shown = section(surveyed(record(convex=True, exact=0.2, error=1e-9)))
    assert shown is not None
    assert "no direction has a curvature below 0.199." in shown.verdict
    shown = section(surveyed(record(lowest_minimum=float("inf"))))
    assert shown is not None
    assert any("no local minimum but zero weights." in line for line in shown.remarks)


def test_no_minimum_at_all_is_infinite_in_json_and_not_unknown() -> None:
    net = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 1, bias=False))
    at = rs.Landscape(net, np.zeros((4, 2)), np.ones(4), weight_decay=0.5)
    found = rs.convexity(at)
    told = json.loads(json.dumps(_record(found)), parse_constant=lambda name: pytest.fail(name))
    assert float(told["lowest_minimum"]) == math.inf
    assert "there is no local minimum but zero" in found.summary()


@pytest.mark.parametrize(("value", "low", "high"), [
    (0.725835, 0.7258, 0.7259), (-0.725835, -0.7259, -0.7258), (0.1, 0.1, 0.1),
    (2.0**-1, 0.5, 0.5), (0.0, 0.0, 0.0), (9.99999e10, 9.999e10, 1e11), (5e-324, 5e-324, 5e-324),
])  # fmt: skip
def test_few_digits_err_on_the_safe_side(value: float, low: float, high: float) -> None:
    assert rounded_down(value, 4) == low
    assert rounded_up(value, 4) == high
    assert low <= value <= high


def test_the_section_shows_the_records_numbers() -> None:
    shown = section(surveyed(record(lowest_minimum=0.02, num_active_kinks=3)))
    assert shown is not None
    (figure,) = shown.figures
    assert [*figure.figure.data[0].x] == pytest.approx([9.1, 3.1, 1.1, 0.6])
    (line,) = figure.figure.layout.shapes
    assert line.x0 == 0.1
    (table,) = shown.tables
    assert [row[1].text for row in table.rows] == ["−9.00", "−3.00", "−1.00", "−0.500"]
    assert [row[2].text for row in table.rows] == ["no", "no", "no", "refutes it"]
    assert [row[3].tier for row in table.rows] == ["certified"] * 3 + [""]
    remarks = " ".join(shown.remarks)
    assert "Above a weight decay of 4.00" in remarks
    assert "no local minimum but zero weights with a loss below 0.0200" in remarks
    assert "3\u00a0switching values" in remarks
    assert shown.commands == (
        "reluscape convexity --weights a.safetensors --data mine.npz --loss squared --weight-decay 0.1",
    )


def test_lanczos_is_never_called_certified() -> None:
    one = record(method="lanczos", convex=None, exact=0.05, paper_bound=None, sharp_bound=None,
                 data_bound=None, covering_decay=None, reason="a Conv2d")  # fmt: skip
    shown = section(surveyed(one))
    assert shown is not None
    (table,) = shown.tables
    assert [row[2].text for row in table.rows] == ["–", "–", "–", "no"]
    assert table.rows[3][3].text.startswith("Lanczos, from above")
    assert not any(cell.tier for row in table.rows for cell in row)
    assert "not certified" in " ".join(shown.method)
    assert "There are no bounds: a Conv2d." in shown.remarks[0]
    assert shown.figures == ()


def test_there_is_no_section_where_it_was_not_asked() -> None:
    data = DataSummary("mine", 40)
    assert section(Survey(data, "l1", 0.0, seed=0, models=(ModelSurvey("net"),))) is None


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_draws(mine: Path, browser: Any, width: int) -> None:
    invoke("convexity", *subject(mine), "--weight-decay", 0.1, "--out", mine / "r")
    page = browser.new_page(viewport={"width": width, "height": 900})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((mine / "r" / "report.html").as_uri())
    page.wait_for_selector("#convexity svg.main-svg")
    assert errors == []
    assert_nothing_is_cut(page)
    assert_nothing_overflows(page, width)
    page.close()


def wide_state() -> dict[str, torch.Tensor]:
    return mlp((3, 6, 4, 1), seed=0).state_dict()


def shrinking(folder: Path) -> tuple[object, ...]:
    """A run of weights that shrink towards zero, where weight decay makes the loss convex."""
    state = _load(folder / "mlp.safetensors")
    (folder / "run").mkdir()
    for step, size in enumerate((1.5, 1.0, 0.3, 0.05)):
        shrunk = {name: size * value for name, value in state.items()}
        save_file(shrunk, folder / "run" / f"step-{10 * step}.safetensors")
    return (*subject(folder), "--weight-decay", 0.5, "--checkpoints", folder / "run")


def test_a_folder_of_checkpoints_is_a_run(mine: Path) -> None:
    given = shrinking(mine)
    result = invoke("convexity", *given, "--rate", 0.5, "--out", mine / "out", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)["trajectory"]
    loaded = rs.Trajectory.load(mine / "out" / "trajectory.nc")
    assert told["steps"] == loaded.steps.tolist() == [0, 10, 20, 30]
    assert loaded.times.tolist() == [0.0, 5.0, 10.0, 15.0]
    assert told["second_derivatives"][-1] > 0
    assert told["onset"] == loaded.onset
    assert told["in_region"] == loaded.in_region.tolist()
    assert told["kinks_crossed"][0] is None
    assert told["left_out"] == []
    assert files(mine / "out") == {"convexity.nc", "report.html", "trajectory.nc"}
    assert str(mine / "out" / "trajectory.nc") in json.loads(result.stdout)["files"]
    page = (mine / "out" / "report.html").read_text()
    assert 'id="trajectory"' in page
    assert "--checkpoints ../run --rate 0.5" in page
    plain = invoke("convexity", *given)
    assert loaded.summary().splitlines()[0] in plain.stdout


def test_the_last_checkpoint_is_the_model_where_none_is_named(mine: Path) -> None:
    """The last that can be read: here the one before a file that is broken and one that diverged."""
    shrinking(mine)
    last = mine / "run" / "step-30.safetensors"
    (mine / "run" / "step-40.safetensors").write_bytes(last.read_bytes()[:100])
    bad = {name: torch.full_like(one, torch.nan) for name, one in _load(last).items()}
    save_file(bad, mine / "run" / "step-50.safetensors")
    given = ("--data", mine / "mine.npz", "--weight-decay", 0.5, "--checkpoints", mine / "run")
    result = invoke("convexity", *given, "--out", mine / "out")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("The last checkpoint, step-30.safetensors:\n")
    assert rs.Trajectory.load(mine / "out" / "trajectory.nc").steps.tolist() == [0, 10, 20, 30]
    assert "NaN" in result.stdout
    page = (mine / "out" / "report.html").read_text()
    assert "The last checkpoint, step-30.safetensors: with its switches frozen" in page
    assert "verify convexity.nc --weights ../run/step-30.safetensors" in page
    checked = invoke("verify", mine / "out" / "convexity.nc", *given[:2], "--weights", last)
    assert checked.exit_code == 0, checked.output
    for name in ("step-0", "step-10", "step-20", "step-30"):
        (mine / "run" / f"{name}.safetensors").unlink()
    assert "step-50" in refusal("convexity", *given)


def test_a_models_code_takes_the_last_checkpoint(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrinking(mine)
    (mine / "mine_model.py").write_text(
        "from reluscape.train import mlp\ndef made(): return mlp((3, 5, 4, 1), seed=7)\n"
    )
    monkeypatch.chdir(mine)
    given = ("--data", "mine.npz", "--weight-decay", 0.5, "--checkpoints", "run", "--json")
    coded = invoke("convexity", *given, "--model", "mine_model:made")
    assert coded.exit_code == 0, coded.output
    found = json.loads(coded.stdout)
    assert found["trajectory"]["losses"][-1] == pytest.approx(found["loss"])


def test_files_that_are_no_checkpoints_are_left_out_and_named(mine: Path) -> None:
    given = shrinking(mine)
    whole = (mine / "run" / "step-20.safetensors").read_bytes()
    (mine / "run" / "step-25.safetensors").write_bytes(whole[:100])
    save_file(nn.Linear(3, 3).state_dict(), mine / "run" / "other-3.safetensors")
    save_file(wide_state(), mine / "run" / "last.safetensors")
    save_file(wide_state(), mine / "run" / "wide-7.safetensors")
    result = invoke("convexity", *given, "--out", mine / "out")
    assert result.exit_code == 0, result.output
    loaded = rs.Trajectory.load(mine / "out" / "trajectory.nc")
    assert loaded.steps.tolist() == [0, 10, 20, 30]  # numbers of those that fit
    names = [line.split(": ")[0] for line in loaded.skipped]
    assert names == [f"{name}.safetensors" for name in ("last", "other-3", "wide-7", "step-25")]
    assert "no number in its name" in loaded.skipped[0]
    assert "it lacks" in loaded.skipped[1]
    assert "has shape (6, 3), not (5, 3)" in loaded.skipped[2]
    assert "not a complete" in loaded.skipped[3]
    for line in loaded.skipped:
        assert f"left out: {line}" in result.stdout
    page = (mine / "out" / "report.html").read_text()
    assert "Files that were left out" in page


def test_an_interrupted_reading_has_its_page(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopping(text: str, done: float) -> None:
        if text == "reading step-30.safetensors":
            raise Stop

    monkeypatch.setattr("reluscape.progress.stoppable", lambda *_: nullcontext(stopping))
    result = invoke("convexity", *shrinking(mine), "--out", mine / "out")
    assert result.exit_code == 130
    assert "step-30.safetensors: interrupted before" in result.stdout
    assert files(mine / "out") == {"convexity.nc", "report.html", "trajectory.nc"}
    assert rs.Trajectory.load(mine / "out" / "trajectory.nc").steps.tolist() == [0, 10, 20]


def test_a_rate_is_one_of_checkpoints(mine: Path) -> None:
    assert "--rate is a positive number" in refusal("convexity", *subject(mine), "--rate", 0.1)
    wrong = (*shrinking(mine), "--rate", -1.0)
    assert "received -1.0" in refusal("convexity", *wrong)


# ---- the section on a run ------------------------------------------------------------------------


def shown_of(run: Trajectory) -> Section:
    return run_section(run, ("reluscape convexity",))


def facts(run: Trajectory) -> dict[str, str]:
    return {row[0].text: row[1].text for row in shown_of(run).tables[0].rows}


def test_the_section_on_a_run_shows_its_numbers() -> None:
    run = by_hand([5.0, 4.0, 3.0, 2.0, 1.0], [-30.0, -1.0, 2.0, 4.0, 6.0])
    inside = np.array([0.0, 0.0, 0.0, 0.0, 1.0]), np.array([0.0, 0.0, 0.0, 1.0, 1.0])
    run = replace(run, in_region=inside[0], in_sharp_region=inside[1])
    run = replace(
        run, crossed=np.array([np.nan, 3.0, 1.0, 2.0, 0.0]), skipped=("a.pt: broken: it",)
    )
    shown = shown_of(run)
    assert (
        "convex along its gradient from step 20 on, which is 50.0\u202f% of its fall"
        in shown.verdict
    )
    keys = [figure.key for figure in shown.figures]
    assert keys == ["trajectory", "decay", "crossed"]
    assert "below −10.0 is drawn there" in shown.figures[0].caption
    _, _, sharp, paper = shown.figures[0].figure.data
    assert ([*paper.x], [*sharp.x]) == ([40.0], [30.0, 40.0])
    assert [*sharp.y] == [4.0, 6.0]
    assert [*shown.figures[2].figure.data[0].y] == [3.0, 1.0, 2.0, 0.0]
    told = facts(run)
    assert told["second derivative there, median"] == "4.00"
    assert told["kinks between checkpoints, median"] == "1.50"
    assert told["checkpoints in the sharper region of certified convexity"] == "2 of 5"
    _, left_out, each = shown.tables
    assert [cell.text for cell in left_out.rows[0]] == ["a.pt", "broken: it"]
    assert [row[5].text for row in each.rows] == ["outside"] * 3 + ["sharper", "paper's"]
    assert all(row[2].tier == "sampled" for row in shown.tables[0].rows)


def test_the_section_on_a_run_leaves_out_what_is_not_known() -> None:
    run = by_hand([5.0, 4.0], [1.0, -1.0], rate=np.nan)
    shown = shown_of(run)
    assert "no convex phase" in shown.verdict
    assert [figure.key for figure in shown.figures] == ["trajectory"]
    assert facts(run) == {"loss, first and last": "5.00 → 4.00"}
    assert any("--rate" in line for line in shown.method)
    one = shown_of(by_hand([5.0], [np.nan]))
    assert one.figures == ()
    assert "it has no second derivative there" in one.verdict
    assert "at every one" in shown_of(by_hand([2.0, 1.0], [1.0, 1.0])).verdict
    nan = np.nan
    ended = by_hand([2.0, 1.0, 1.0], [1.0, 2.0, nan], [1.0, 1.0, 0.0])
    assert "at every one with a gradient." in shown_of(ended).verdict
    assert facts(ended)["checkpoints with a gradient of zero"] == "1 of 3"
    assert "gradient is zero" in shown_of(by_hand([2.0], [nan], [0.0])).verdict
    bent = by_hand([2.0, 1.0, 1.0], [1.0, -2.0, nan], [1.0, 1.0, 0.0])
    assert shown_of(bent).verdict.endswith("at the last one with a gradient.")
    rising = shown_of(by_hand([1.0, 2.0, 3.0], [-1.0, 1.0, 1.0]))
    assert "from step 10 on; from the first to the last it did not fall." in rising.verdict
    every = shown_of(by_hand([1.0, 2.0], [1.0, 1.0]))
    assert "every one; from the first to the last it did not fall." in every.verdict
    many = shown_of(by_hand([1.0] * 100, [1.0] * 100))
    assert [table.caption for table in many.tables] == ["What the checkpoints show"]


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_of_a_run_draws(mine: Path, browser: Any, width: int) -> None:
    invoke("convexity", *shrinking(mine), "--rate", 0.1, "--out", mine / "r")
    page = browser.new_page(viewport={"width": width, "height": 900})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((mine / "r" / "report.html").as_uri())
    page.wait_for_selector("#trajectory svg.main-svg")
    page.wait_for_selector("#crossed svg.main-svg")
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    whole = page.inner_text("#run pre")  # wrapped between its words, with nothing put in
    assert whole.endswith("--weight-decay 0.5 --checkpoints ../run --rate 0.1")
    assert errors == []
    assert_nothing_is_cut(page)
    assert_nothing_overflows(page, width)
    page.close()


def test_a_folder_without_checkpoints_is_refused(mine: Path) -> None:
    (mine / "empty").mkdir()
    refusal("convexity", *subject(mine), "--checkpoints", mine / "empty")
