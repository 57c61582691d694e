"""What a survey says of two models of one shape: strings between them below a level."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pages import assert_nothing_is_cut, assert_nothing_overflows
from safetensors.torch import load_file
from test_cli import invoke
from torch import nn

from reluscape import survey_pair
from reluscape.data import Data
from reluscape.report import build_sections, render
from reluscape.report.pairs import PairSurvey, StringSurvey
from reluscape.strings.connection import Connection
from reluscape.survey import Subject, Survey, load_survey, survey
from reluscape.train import mlp, train

WIDTHS = (2, 8, 1)


def corners() -> Data:
    x = np.random.default_rng(0).normal(size=(40, 2))
    return Data(x, np.abs(x).sum(axis=1, keepdims=True), "drawn")


@cache
def trained(seed: int, widths: tuple[int, ...]) -> nn.Module:
    """Trained on the corners once, for all tests."""
    model, data = mlp(widths, seed=seed), corners()
    fit: dict[str, Any] = {"epochs": 300, "batch_size": 20, "rate": 0.01, "seed": seed}
    train(model, data.inputs, data.targets, loss="squared", **fit)
    return model


def taught(seed: int, widths: tuple[int, ...] = WIDTHS) -> Subject:
    return Subject(f"seed {seed}", lambda _: (deepcopy(trained(seed, widths)), None))


@pytest.fixture(scope="module")
def surveyed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Survey, Path]:
    data, out = corners(), tmp_path_factory.mktemp("pair")
    np.savez(out / "mine.npz", x=data.inputs, y=data.targets)
    options = ["--data", str(out / "mine.npz")]
    subjects = [taught(seed) for seed in (0, 1)]
    return survey(subjects, data, loss="squared", out=out / "r", data_options=options), out / "r"


def loss_by_torch(theta: np.ndarray) -> float:
    """By another way than the landscape's: weights put into a plain module."""
    data, model = corners(), mlp(WIDTHS, seed=9)
    nn.utils.vector_to_parameters(torch.from_numpy(theta), model.parameters())
    with torch.no_grad():
        error = model(torch.from_numpy(data.inputs)) - torch.from_numpy(data.targets)
    return float(error.square().sum(dim=1).mean())


def weights_of(out: Path, name: str) -> np.ndarray:
    model = mlp(WIDTHS, seed=9)
    model.load_state_dict(load_file(out / "weights" / name))
    return np.concatenate([p.detach().numpy().ravel() for p in model.parameters()])


def test_both_strings_hold_on_a_grid_and_their_straight_lines_too(
    surveyed: tuple[Survey, Path],
) -> None:
    found, out = surveyed
    assert found.pair is not None
    assert [one.matched for one in found.pair.strings] == [False, True]
    for one in found.pair.strings:
        assert (one.status, one.tier) == ("connected", "exact")
        beads = Connection.load(out / one.file).beads
        assert len(beads) == one.num_beads
        heights = [
            max(loss_by_torch((1 - t) * a + t * b) for t in np.linspace(0, 1, 200))
            for a, b in pairwise(beads)
        ]
        assert max(heights) <= one.highest <= one.level
        line = [loss_by_torch((1 - t) * beads[0] + t * beads[-1]) for t in np.linspace(0, 1, 400)]
        assert one.straight_lower == pytest.approx(max(line), rel=1e-3)
        ends = max(line[0], line[-1])
        assert one.linear_barrier == pytest.approx(one.straight_lower - ends, rel=1e-6, abs=1e-12)
        length = np.linalg.norm(np.diff(beads, axis=0), axis=1).sum()
        expected = length / np.linalg.norm(beads[-1] - beads[0])
        assert one.normalized_length == pytest.approx(expected)
    plain, matched = found.pair.strings
    assert matched.unmatched_lower == pytest.approx(plain.straight_lower, rel=1e-3)


def test_the_strings_end_at_the_saved_weights_or_at_their_units_permuted(
    surveyed: tuple[Survey, Path],
) -> None:
    found, out = surveyed
    plain, matched = (Connection.load(out / one.file).beads for one in found.pair.strings)
    first, last = (weights_of(out, f"{k}-seed-{k - 1}.safetensors") for k in (1, 2))
    for beads in (plain, matched):
        np.testing.assert_array_equal(beads[0], first)
    np.testing.assert_array_equal(plain[-1], last)
    np.testing.assert_array_equal(np.sort(matched[-1]), np.sort(last))
    assert loss_by_torch(matched[-1]) == pytest.approx(loss_by_torch(last), rel=1e-12)


def test_the_pages_commands_accept_the_paths(
    surveyed: tuple[Survey, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, out = surveyed
    (section,) = (one for one in build_sections(found) if one.key == "pair")
    monkeypatch.chdir(out)
    assert len(section.commands) == 2
    for command in section.commands:
        result = invoke(*shlex.split(command)[1:])
        assert result.exit_code == 0, result.output
        assert "valid: recomputed from network and data: connected" in result.stdout


def test_page_and_terminal_tell_the_answer(surveyed: tuple[Survey, Path]) -> None:
    found, out = surveyed
    page = (out / "report.html").read_text("utf-8")
    for part in ("Units as they are: connected: along a string of", "Hidden units matched: connected",
                 "the straight line between them rises to", "activation cells passed through",
                 'href="connections/matched.nc"', "plus a tenth of what the straight line"):  # fmt: skip
        assert part in page
    assert re.search(r"seed 0 and seed 1: connected below 0\.\d+.* \(at most", found.verdicts[-1])
    (section,) = (one for one in build_sections(found) if one.key == "pair")
    for figure, one in zip(section.figures, found.pair.strings, strict=True):
        string, straight, level, beads = figure.figure.data
        assert max(string.y) == pytest.approx(np.max(one.curve))
        assert len(straight.y) == len(one.straight)
        assert set(level.y) == {one.level}
        assert len(beads.x) == one.num_beads


def test_results_read_back_and_equal_arguments_give_equal_ones(
    surveyed: tuple[Survey, Path], tmp_path: Path
) -> None:
    found, out = surveyed
    loaded = load_survey(out / "results.nc")
    assert render(loaded) == render(found)
    data = corners()
    options = ["--data", str(out.parent / "mine.npz")]
    again = out.parent / "again"
    survey([taught(k) for k in (0, 1)], data, loss="squared", out=again, data_options=options)
    for file in ("report.html", "results.nc"):
        assert (again / file).read_bytes() == (out / file).read_bytes()


def test_not_found_is_never_worded_as_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_pair, "MAX_DEPTH", 1)
    monkeypatch.setattr(survey_pair, "MAX_STEPS", 1)
    monkeypatch.setattr("reluscape.strings.usual.SHARE", 0.0)  # the lowest level that there is
    data = corners()
    found = survey([taught(seed) for seed in (0, 1)], data, loss="squared")
    plain = found.pair.strings[0]
    assert plain.status == "not_found"
    assert plain.highest > plain.level
    page = render(found)
    assert "which does not show that there is none" in page
    assert "disconnected" not in page[page.index("<main>") :]


def test_what_is_too_large_says_what_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_pair, "MAX_STRING_WORK", 1)
    data = corners()
    found = survey([taught(seed) for seed in (0, 1)], data, loss="squared")
    assert found.pair.strings == ()
    why = "too large for a short survey; `reluscape connect` does it"
    assert found.verdicts[-1] == f"seed 0 and seed 1: no string: {why}"
    (section,) = (one for one in build_sections(found) if one.key == "pair")
    assert why in section.verdict
    assert section.commands == ()


def test_models_of_other_shapes_have_no_section() -> None:
    data = corners()
    subjects = [taught(0), taught(1, (2, 5, 1))]
    found = survey(subjects, data, loss="squared")
    assert found.pair is None
    assert "pair" not in [one.key for one in build_sections(found)]


def test_a_model_with_another_forward_is_not_joined() -> None:
    data = corners()

    def smooth(_: Callable[[str, float], None]) -> tuple[nn.Module, None]:
        return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double(), None

    found = survey([taught(0), Subject("smooth", smooth)], data, loss="squared")
    assert found.pair.strings == ()
    assert "smooth must be a model with the landscape's forward" in found.pair.notes[0]


class Branched(nn.Module):
    """Its hidden values are used twice, so that units cannot be matched."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.last = nn.Linear(2, 2).double(), nn.Linear(2, 1).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.first(x))
        return self.last(hidden + torch.tanh(hidden))


@pytest.mark.parametrize(
    ("tier", "height"),
    [("sampled", "rises to 2.15, seen on a grid"), ("exact", "at most 2.16; exact")],
)
def test_a_bound_is_rounded_up_and_what_a_grid_shows_is_no_bound(tier: str, height: str) -> None:
    line = {"highest": 2.1534, "straight_lower": 2.1534, "level": 2.3, "tier": tier}
    string = StringSurvey(status="connected", **line)
    told = PairSurvey(("a", "b"), strings=(string,)).line
    assert told == f"a and b: connected below 2.30 ({height}; the straight line rises to 2.15)"


def test_units_that_cannot_be_matched_leave_the_other_string() -> None:
    subjects = [Subject(f"b{k}", lambda _, k=k: (Branched(k), None)) for k in (0, 1)]
    found = survey(subjects, corners(), loss="squared")
    (only,) = found.pair.strings
    assert not only.matched
    assert only.tier == "sampled"
    assert "matched units: units can be matched in chains" in found.pair.notes[0]
    assert "Matched units: units can be matched" in render(found)


class Centred(nn.Module):
    """With a normaliser of its own, or with one that state dicts leave out."""

    def __init__(self, seed: int, mean: float | int, persistent: bool) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = mlp(WIDTHS, seed=seed)
        self.register_buffer("mean", torch.full((2,), mean), persistent=persistent)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x - self.mean)


def test_models_with_buffers_that_cannot_move_are_not_joined_and_the_page_says_why(
    tmp_path: Path,
) -> None:
    subjects = [
        Subject(f"c{k}", lambda _, k=k: (Centred(k, k, persistent=True), None))  # whole numbers
        for k in (0, 1)
    ]
    found = survey(subjects, corners(), loss="squared", out=tmp_path)
    assert found.complete
    assert found.pair.strings == ()
    assert "c0 and c1: no string: c1 must have the landscape's buffers" in found.verdicts[-1]
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "others in 'mean', which forward reads" in page.replace("&#39;", "'")


def test_models_whose_state_dicts_leave_out_a_buffer_are_joined() -> None:
    subjects = [
        Subject(f"c{k}", lambda _, k=k: (Centred(k, 0.5, persistent=False), None)) for k in (0, 1)
    ]
    found = survey(subjects, corners(), loss="squared")
    assert found.pair.strings[0].tier == "exact"


@pytest.mark.parametrize("step", [0, 1])
def test_what_breaks_down_between_the_two_does_not_cost_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """As an error that a user's module raises."""
    join = survey_pair.Models.join

    def broken(self: Any, *args: Any, match_units: bool, **search: Any) -> Connection:
        if match_units is bool(step):
            raise RuntimeError("forward\n failed")
        return join(self, *args, match_units=match_units, **search)

    monkeypatch.setattr(survey_pair.Models, "join", broken)
    data = corners()
    subjects = [taught(seed) for seed in (0, 1)]
    found = survey(subjects, data, loss="squared", out=tmp_path)
    assert found.complete
    assert found.pair.notes == ("RuntimeError: forward failed",)
    assert [one.matched for one in found.pair.strings] == [False] * step
    assert "RuntimeError: forward failed" in (tmp_path / "report.html").read_text("utf-8")


@pytest.mark.parametrize("when", ["training", "counting cells"])
def test_ctrl_c_between_the_two_keeps_what_was_found(tmp_path: Path, when: str) -> None:
    seen: list[str] = []

    def stop(what: str, _: float) -> None:
        seen.append(what)
        if what.startswith("between the two: ") and when in what:
            raise KeyboardInterrupt

    data = corners()
    subjects = [taught(seed) for seed in (0, 1)]
    found = survey(subjects, data, loss="squared", out=tmp_path, progress=stop)
    assert when in seen[-1]
    assert not found.complete
    assert [model.complete for model in found.models] == [True, True]
    assert "<strong>Incomplete.</strong>" in (tmp_path / "report.html").read_text("utf-8")
    for one in found.pair.strings if found.pair else ():
        assert (tmp_path / one.file).is_file()


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_the_section_draws(surveyed: tuple[Survey, Path], browser: Any, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((surveyed[1] / "report.html").as_uri())
    page.wait_for_selector("#string-matched svg.main-svg")
    assert errors == []
    assert_nothing_overflows(page, width)
    if width > 1000:
        assert_nothing_is_cut(page)
    page.close()
