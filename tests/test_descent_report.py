"""The report of an exact descent, the files beside it, and what interruptions leave."""

from __future__ import annotations

import errno
import json
import re
import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from nets import dense, loss_of
from pages import assert_nothing_overflows
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner, Result

import reluscape as rs
from reluscape import cli, cli_descend, progress
from reluscape.certificate import to_json
from reluscape.descent.loop import RULES
from reluscape.descent.path import BATCH
from reluscape.descent.polish import loss_float32
from reluscape.report.about import About
from reluscape.report.paths import SHARES
from reluscape.report.polished import polish_sections, render_polish
from reluscape.report.section import Section
from reluscape.train import mlp

HOSTILE = "</script><script>alert(1)</script><img src=http://example.org/x>&\"'{{ 7*7 }}"


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def landscape(widths: tuple[int, ...] = (3, 5, 4, 1), *, samples: int = 60) -> rs.Landscape:
    rng = np.random.default_rng(7)
    inputs = rng.normal(size=(samples, widths[0]))
    targets = np.sin(inputs @ rng.normal(size=(widths[0], widths[-1])))
    return rs.Landscape(dense(widths, seed=3), inputs, targets, loss="l1")


def about(of: rs.Landscape, **more: Any) -> About:
    defaults: dict[str, Any] = {
        "data": "mine.npz",
        "num_samples": of.num_samples,
        "options": "--data ../mine.npz",
        "description": "The model: weights mlp.safetensors.",
        "weights": "polished.safetensors",
        "files": {name: f"layer-{name}.json" for name in of.layers},
        "places": {name: place + 1 for place, name in enumerate(of.layers)},
        "rule": "long_step",
        "seed": 0,
        "version": "0",
    }
    return About(**(defaults | more))


@cache
def polished() -> rs.Polish:
    return rs.polish(landscape(samples=200), max_sweeps=3, max_pivots=700)


@cache
def sections() -> dict[str, Section]:
    return {s.key: s for s in polish_sections(polished(), about(landscape()))}


def figures() -> dict[str, go.Figure]:
    return {f.key: f.figure for s in sections().values() for f in s.figures}


# ---- the page ------------------------------------------------------------------------------------


def test_the_loss_figure_holds_every_loss_of_every_descent() -> None:
    """A trace for each layer, gaps between its descents, pivots counted on."""
    result, before = polished(), 0
    expected: dict[str, list[tuple[float, float]]] = {}
    for leg in result.legs:
        points = expected.setdefault(leg.layer, [])
        points += [(before + k, loss) for k, loss in enumerate(leg.losses.tolist())]
        before += leg.num_pivots
    traces = figures()["descent-loss"].data
    assert len(traces) == 3
    for trace, points in zip(traces, expected.values(), strict=True):
        x, y = np.asarray(trace.x), np.asarray(trace.y)
        shown = list(zip(x[np.isfinite(x)], y[np.isfinite(x)], strict=True))
        assert set(shown) <= set(points)
        assert shown[0] == points[0]
        assert shown[-1] == points[-1]
        assert len(shown) == len(points) or len(shown) >= 1200


def best_legs() -> list[Any]:
    result = polished()
    return [
        max(result.legs_of(name), key=lambda leg: leg.losses[0] - leg.losses[-1])
        for name in result.certificates
    ]


def test_path_figures_are_the_descents_arrays() -> None:
    for key, trace_of in {
        "path-loss": lambda leg: leg.losses - leg.losses[-1],
        "path-distance": lambda leg: leg.distances,
    }.items():
        for leg, trace in zip(best_legs(), figures()[key].data, strict=True):
            values = trace_of(leg)[np.asarray(trace.x).astype(int)]
            np.testing.assert_array_equal(trace.y, np.where(values > 0, values, np.nan))
    for leg, trace in zip(best_legs(), figures()["path-steps"].data, strict=True):
        for pivot, mean in list(zip(trace.x, trace.y, strict=True))[1::50]:
            last = leg.step_lengths[max(int(pivot) - 40, 0) : int(pivot)]
            assert mean == pytest.approx(last.mean()) or not mean > 0


def test_phases_are_marked_where_they_change() -> None:
    splits = [leg.phases() for leg in best_legs()]
    expected = [found.split for found in splits if found.split < found.last]
    assert [shape.x0 for shape in figures()["path-loss"].layout.shapes] == expected


def test_rates_are_told_where_phases_have_them_and_nowhere_else() -> None:
    """A descent that comes to rest, and then takes a last step: sentence, table and summary agree."""
    places = np.arange(1001.0)
    moved = np.exp(-0.01 * np.minimum(places, 300.0)) * (1.0 - 1e-16 * places)
    leg = replace(
        polished().legs[0], losses=np.append(moved[:-1], 0.0), step_lengths=np.exp(-0.01 * places[1:]),
        distances=moved, first_vertex=0, density_pivots=np.zeros(0),
    )  # fmt: skip
    made = replace(polished(), legs=(leg,), start=1.0, loss=0.0)
    paths = {s.key: s for s in polish_sections(made, about(landscape()))}["paths"]
    assert "(the loss above its end halves every" in paths.verdict
    assert "then fine-tuning (does not clearly fall)." in paths.verdict
    early, late = paths.tables[0].rows
    assert "no clear fall" not in [cell.text for cell in early]
    assert [cell.text == "no clear fall" for cell in late[1:4]] == [True, False, True]


def test_forecasts_are_those_of_the_longest_descent() -> None:
    leg = max(best_legs(), key=lambda leg: leg.num_pivots)
    low, high, middle, end = figures()["forecast"].data
    for place, share in enumerate(SHARES):
        forecast = leg.forecast(share)
        assert middle.y[place] == forecast.loss
        assert (low.y[place], high.y[place]) == tuple(forecast.interval)
    assert set(end.y) == {leg.losses[-1]}


def test_tables_say_what_each_layer_is_at() -> None:
    result, table = polished(), sections()["removed"].tables[0]
    assert len(table.rows) == 3
    for row, (name, certificate) in zip(table.rows, result.certificates.items(), strict=True):
        legs = result.legs_of(name)
        assert row[0].text.endswith(f"({name})")
        assert row[2].tier == ("" if certificate.claim == "undecided" else certificate.tier)
        assert row[3].text.replace("\u202f", "") == str(sum(leg.num_pivots for leg in legs))
        assert row[4].text == str(len(legs))
        assert row[7].file == f"layer-{name}.json"
    causes = sections()["removed"].tables[1]
    assert [row[1].text.replace(" ", "_") for row in causes.rows] == [
        result.legs_of(name)[-1].status for name in result.certificates
    ]
    assert [row[3].text for row in causes.rows] == [
        "; ".join(result.causes_of(name)) or "nothing degenerate" for name in result.certificates
    ]


def test_every_section_has_what_a_reader_needs() -> None:
    assert list(sections()) == ["removed", "paths", "weights"]
    for section in sections().values():
        assert section.verdict
        assert section.method
        assert section.check
        assert section.commands
        for table in section.tables:
            assert {len(row) for row in table.rows} == {len(table.columns)}


def test_texts_from_others_are_escaped() -> None:
    result = polished()
    names = dict.fromkeys(result.certificates, HOSTILE)
    hostile = about(landscape(), data=HOSTILE, description=HOSTILE, options=HOSTILE, files=names)
    legs = tuple(replace(leg, layer=HOSTILE, causes=(HOSTILE,)) for leg in result.legs)
    certificate = replace(next(iter(result.certificates.values())), reason=HOSTILE)
    changed = replace(result, legs=legs, layers=(HOSTILE,), certificates={HOSTILE: certificate})
    page = render_polish(changed, hostile)
    assert "<img src=http" not in page
    assert "<script>alert" not in page
    assert not re.search(r"<(?:link|script|img|iframe)[^>]*(?:src|href)=[\"']?(?:https?:)?//", page)


# ---- degenerate paths ----------------------------------------------------------------------------


def fitted() -> rs.Landscape:
    """Targets that are the outputs: the loss is 0 from the start."""
    start = landscape((2, 3, 1))
    return rs.Landscape(start.module_at(), start.inputs, start.outputs(), loss="l1")


def dead() -> rs.Landscape:
    """A first layer whose units are inactive on every sample: nothing to follow there."""
    start = landscape((2, 3, 1))
    module = start.module_at()
    with torch.no_grad():
        module[0].bias.fill_(-100.0)
    return rs.Landscape(module, start.inputs, start.targets, loss="l1")


def settled() -> rs.Landscape:
    """One layer that is at its minimum already."""
    return rs.polish(landscape((2, 3, 1)), [0]).landscape


def few() -> rs.Landscape:
    """Fewer samples than units: fitted in a few pivots."""
    return landscape((2, 12, 1), samples=5)


@pytest.mark.parametrize("case", [fitted, dead, settled, few])
def test_degenerate_paths_give_a_sensible_page(case: Callable[[], rs.Landscape]) -> None:
    start = case()
    result = rs.polish(start, [0])
    found = {s.key: s for s in polish_sections(result, about(start))}
    page = render_polish(result, about(start))
    assert "How far down exact descent" in page
    verdict = {
        fitted: "there was nothing to remove",
        dead: "lowered the loss" if result.loss < result.start else "removed nothing",
        settled: "removed nothing of the loss",
        few: "zero to rounding, and no loss is lower",
    }[case]
    assert verdict in page
    assert ("paths" in found) == (result.start > 0 and result.loss < result.start * (1 - 1e-12))
    assert "nan" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL).lower()


def test_no_pivot_at_all_gives_a_page() -> None:
    leg = replace(
        polished().legs[0],
        losses=np.array([1.0]),
        step_lengths=np.zeros(0),
        distances=np.zeros(1),
        first_vertex=-1,
        status="plateau",
    )
    result = replace(polished(), legs=(leg,), start=1.0, loss=1.0)
    assert "removed nothing of the loss" in render_polish(result, about(landscape()))
    for part in (leg, leg.phases(), leg.forecast(0.5), result):
        assert isinstance(part.plot(), go.Figure)
    none = replace(result, legs=(), certificates={}, ending="interrupted")
    page = render_polish(none, about(landscape()))
    assert "<strong>Incomplete.</strong>" in page
    assert "none was begun" in page


# ---- a polish as a result ------------------------------------------------------------------------


def test_a_polish_saves_and_loads(tmp_path: Path) -> None:
    result = polished()
    result.save(tmp_path / "results.nc")
    again = rs.Polish.load(tmp_path / "results.nc", landscape(samples=200))
    assert repr(again) == repr(result)
    assert "\n" not in repr(result)
    assert again.summary() == result.summary()
    np.testing.assert_array_equal(again.theta, result.theta)
    assert again.landscape.loss() == result.loss
    for one, other in zip(again.legs, result.legs, strict=True):
        assert (one.layer, one.sweep, one.status) == (other.layer, other.sweep, other.status)
        np.testing.assert_array_equal(one.losses, other.losses)
        np.testing.assert_array_equal(one.ways, other.ways)
    for name, certificate in again.certificates.items():
        assert to_json(certificate) == to_json(result.certificates[name])
        assert rs.verify(certificate, again.landscape).valid
    assert rs.Polish.load(tmp_path / "results.nc").landscape is None
    with pytest.raises(rs.InputError, match="could not read"):
        rs.Polish.load(tmp_path / "missing.nc")
    result.legs[0].save(tmp_path / "leg.nc")
    with pytest.raises(rs.InputError, match="has none"):
        rs.Polish.load(tmp_path / "leg.nc")


def test_its_plot_has_all_losses() -> None:
    losses = np.concatenate([np.asarray(trace.y) for trace in polished().plot().data])
    np.testing.assert_array_equal(losses, np.concatenate([leg.losses for leg in polished().legs]))


def test_legs_are_the_descents() -> None:
    start = landscape((3, 4, 1))
    leg = rs.polish(start, [0]).legs[0]
    descent = rs.descend(start.block(0))
    np.testing.assert_array_equal(leg.losses, descent.losses)
    np.testing.assert_array_equal(leg.step_lengths, descent.step_lengths)
    distances = np.linalg.norm(descent.vertices - descent.theta, axis=1)
    np.testing.assert_allclose(leg.distances, distances)
    assert leg.phases().summary() == descent.phases().summary()
    assert leg.forecast(0.5).summary() == descent.forecast(0.5).summary()


@pytest.mark.parametrize(
    ("more", "ending"),
    [({}, "settled"), ({"max_pivots": 3}, "max_pivots"), ({"max_sweeps": 1}, "max_sweeps")],
)
def test_it_says_why_it_ended(more: dict[str, int], ending: str) -> None:
    layers = [0] if ending == "max_pivots" else None
    result = rs.polish(landscape((2, 3, 1), samples=20), layers, **more)
    assert result.ending == ending
    assert ("go on from these weights" in result.summary()) == (ending != "settled")


def test_bad_settings_are_refused() -> None:
    with pytest.raises(rs.InputError, match="at least one layer"):
        rs.polish(landscape(), [])
    with pytest.raises(rs.InputError, match="max_sweeps must be a whole number of at least 1"):
        rs.polish(landscape(), max_sweeps=0)


@pytest.mark.parametrize("size", [3, 40])
def test_rational_certificates_where_the_layer_is_small_enough(size: int) -> None:
    pytest.importorskip("flint")
    start = landscape((5, size, 1), samples=12)
    result = rs.polish(start, [0], arithmetic="rational", max_pivots=4)
    assert result.certificates["0"].arithmetic == ("rational" if size == 3 else "float64")


# ---- density, forecasts and phases ---------------------------------------------------------------


def test_density_is_how_far_the_signs_stay() -> None:
    """Brute force: along each direction the signs of all kinks on a fine grid behind the vertex."""
    block = landscape((2, 3, 1), samples=12).block(0)
    descent = rs.descend(block)
    density = descent.density(block, shares=(0.0, 0.5), num_directions=6, seed=4)
    directions = np.random.default_rng(4).normal(size=(6, block.size))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    assert list(density.pivots) == [0, (len(descent.vertices) - 1) // 2]
    for pivot, ways in zip(density.pivots, density.ways, strict=True):
        vertex = descent.vertices[pivot]
        for direction, way in zip(directions, ways, strict=True):
            grid = np.linspace(1e-5, min(1.5 * way, 50.0), 1500)
            signs = np.array([block.kinks(vertex + t * direction) > 0 for t in grid])
            changed = (signs != signs[0]).any(axis=1)
            first = grid[np.argmax(changed)] if changed.any() else np.inf
            step = grid[1] - grid[0]
            assert first == pytest.approx(way, abs=2 * step + 1e-9) or (
                way > 50.0 and first == np.inf
            )
            inside = vertex + 0.5 * min(way, 1.0) * direction
            chord = block.cell(inside).chord(inside, [direction]).length[0]
            if pivot:  # at the vertex the cell ends; the start is inside its own
                assert chord == pytest.approx(way, rel=1e-4, abs=1e-5)
            else:
                assert chord >= way
    np.testing.assert_allclose(density.rates, np.log(2) / np.median(density.ways, axis=1))


def test_density_saves_plots_and_refuses(tmp_path: Path) -> None:
    block = landscape((2, 3, 1)).block(0)
    descent = rs.descend(block)
    density = descent.density(block)
    again = type(density).load(density.save(tmp_path / "density.nc"))
    np.testing.assert_array_equal(again.ways, density.ways)
    assert len(density.summary().splitlines()) == 6
    np.testing.assert_allclose(density.plot().data[0].x, density.pivots)
    with pytest.raises(rs.InputError, match="shares must lie between 0 and 1"):
        descent.density(block, shares=(0.5, 1.5))
    with pytest.raises(rs.InputError, match="num_directions must be a whole number of at least 1"):
        descent.density(block, num_directions=0)
    with pytest.raises(rs.InputError, match="expected the block or the output that was"):
        descent.density(landscape((3, 4, 1)).block(0))


def test_a_forecast_plots_its_interval() -> None:
    forecast = polished().legs[0].forecast(0.5)
    (point,) = forecast.plot().data
    assert (point.x[0], point.y[0]) == (forecast.seen, forecast.loss)
    assert point.y[0] - point.error_y.arrayminus[0] == pytest.approx(forecast.interval[0])
    assert point.y[0] + point.error_y.array[0] == pytest.approx(forecast.interval[1])


def test_phases_plot_their_rates() -> None:
    phases = polished().legs[0].phases()
    for phase, trace in enumerate(phases.plot().data):
        np.testing.assert_array_equal(trace.y, phases.rates[:, phase])


# ---- the saved weights ---------------------------------------------------------------------------


FACTORY = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU())
        self.head = nn.ModuleDict({"out": nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 1))})

    def forward(self, x):
        return self.head["out"](self.body(x))

def build():
    torch.manual_seed(1)
    net = Net()
    with torch.no_grad():
        net.body[1].running_mean.uniform_(-1, 1)
        net.body[1].running_var.uniform_(0.5, 2)
    return net
"""


def plain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))


@pytest.mark.parametrize("kind", ["plain", "factory"])
def test_saved_weights_give_the_loss_through_plain_torch(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """float32 weights in, float64 out; both losses as told, in the user's own module."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(50, 3)), rng.normal(size=(50, 1))
    np.savez("mine.npz", x=x, y=y)
    torch.manual_seed(0)
    if kind == "plain":
        build: Callable[[], nn.Module] = plain
        save_file(build().state_dict(), "mlp.safetensors")
        model: tuple[str, ...] = ("--weights", "mlp.safetensors")
    else:
        Path("mine_net.py").write_text(FACTORY)
        space: dict[str, Any] = {}
        exec(FACTORY, space)
        build, model = space["build"], ("--model", "mine_net:build")
    result = invoke("descend", *model, "--data", "mine.npz", "--layers", "all", "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["complete"] is True
    folder = Path("reluscape-descent")
    state = load_file(folder / "polished.safetensors")
    weights = [value for name, value in state.items() if "tracked" not in name]
    assert {value.dtype for value in weights} == {torch.float64}
    for dtype, key, error in (
        (torch.float64, "loss", 1e-12),
        (torch.float32, "loss_float32", 1e-7),
    ):
        module = build().eval().to(dtype)
        module.load_state_dict(state)
        with torch.no_grad():
            outputs = module(torch.tensor(x, dtype=dtype)).double()
        assert float(loss_of("l1", outputs, y)) == pytest.approx(record[key], rel=error)
    assert record["loss"] < record["start"]
    assert {Path(file).name for file in record["files"]} == {p.name for p in folder.iterdir()}


@pytest.mark.parametrize("kind", ["plain", "normed", "factory"])
def test_the_pages_commands_run_in_its_folder(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its certificate is verified, and the descent goes on from its weights, batch norm or none."""
    monkeypatch.chdir(tmp_path)
    layers = [nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1)]
    made = nn.Sequential(*layers) if kind == "normed" else plain()
    save_file(made.state_dict(), "mlp.safetensors")
    Path("mine_net.py").write_text(FACTORY)
    model = ("--model", "mine_net:build") if kind == "factory" else ("--weights", "mlp.safetensors")
    rng = np.random.default_rng(5)
    np.savez("mine.npz", x=rng.normal(size=(30, 3)), y=rng.normal(size=30))
    done = invoke("descend", *model, "--data", "mine.npz", "--out", "a/r")
    assert done.exit_code == 0, done.output
    page = Path("a/r/report.html").read_text()
    monkeypatch.chdir("a/r")
    commands = re.findall(r"<code>(reluscape [^<]*)</code>", page)
    assert [command.split()[1] for command in commands] == ["verify", "descend"]
    for command in commands:
        again = invoke(*shlex.split(command.replace("&#39;", "'"))[1:])
        assert again.exit_code == 0, again.output


def test_float32_keeps_whole_inputs() -> None:
    """A body that takes indices: they are not rounded to floats."""

    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.last = nn.Embedding(5, 3), nn.Linear(3, 1)

        def forward(self, index: torch.Tensor) -> torch.Tensor:
            return self.last(self.words(index[:, 0]))

    torch.manual_seed(0)
    start = rs.Landscape(Words(), np.arange(5)[:, None], np.linspace(-1, 1, 5), loss="l1")
    assert loss_float32(start) == pytest.approx(start.loss(), rel=1e-6)


# ---- the command ---------------------------------------------------------------------------------


def test_rules_are_those_of_the_library() -> None:
    assert {str(rule) for rule in cli_descend.Rule} == set(RULES)


@pytest.fixture
def mine(tmp_path: Path) -> tuple[str, ...]:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(25, 2))
    np.savez(tmp_path / "mine.npz", x=x, y=np.sin(x[:, 0]) + x[:, 1])
    save_file(mlp((2, 3, 1), seed=1).state_dict(), tmp_path / "mlp.safetensors")
    data = ("--data", str(tmp_path / "mine.npz"), "--layers", "all")
    return ("descend", "--weights", str(tmp_path / "mlp.safetensors"), *data)


@contextmanager
def interrupting(times: int, call: int, told: list[str]) -> Iterator[progress.Progress]:
    """Progress during which Ctrl-C is pressed so many times at one call."""

    def watch(what: str, fraction: float) -> None:
        told.append(what)
        if len(told) == call:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)

    yield watch


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("call", [1, 3])
def test_ctrl_c_leaves_weights_to_go_on_from(
    times: int, call: int, mine: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(progress, "shown", lambda: interrupting(times, call, told))
    before = signal.getsignal(signal.SIGINT)
    stopped = invoke(*mine, "--out", tmp_path / "r", "--json")
    assert signal.getsignal(signal.SIGINT) is before
    assert stopped.exit_code == 130, stopped.output
    assert "polished.safetensors goes on" in stopped.stderr
    first = json.loads(stopped.stdout)
    assert (first["complete"], first["ending"]) == (False, "interrupted")
    assert "<strong>Incomplete.</strong>" in (tmp_path / "r" / "report.html").read_text()
    assert not list((tmp_path / "r").glob("*.tmp"))
    monkeypatch.undo()
    onward = [*mine, "--weights", str(tmp_path / "r" / "polished.safetensors")]
    onward.remove(mine[2])
    onward.remove("--weights")
    ended = invoke(*onward, "--max-sweeps", 1, "--out", tmp_path / "r", "--json")
    assert ended.exit_code == 0, ended.output
    second = json.loads(ended.stdout)
    assert second["start"] == pytest.approx(first["loss"], rel=1e-12)
    assert second["loss"] <= first["loss"]
    assert second["complete"]


def test_a_stop_keeps_the_pivots_of_the_descent_in_progress() -> None:
    """One layer of several batches, stopped after the second."""
    calls: list[str] = []

    def stop(what: str, fraction: float) -> None:
        calls.append(what)
        assert np.isnan(fraction) or what.startswith("layer '0', loading")
        if sum("pivot" in one for one in calls) == 2:
            raise progress.Stop

    start = landscape((3, 12, 4, 1), samples=400)
    kept: list[rs.Landscape] = []
    result = rs.polish(start, [0], progress=stop, keep=kept.append)
    assert result.ending == result.legs[-1].status == "interrupted"
    assert BATCH < result.num_pivots <= 2 * BATCH
    assert result.loss < result.start
    assert kept[-1].loss() == result.loss
    assert not result.certificates
    assert not result.certified
    assert "layer '0': no certificate" in result.summary()
    page = render_polish(result, about(start))
    assert "no layer has a certificate" in page
    assert "layer-0.json" not in page


def test_close_losses_are_told_apart() -> None:
    result = replace(polished(), start=1.00383, loss=1.00340)
    assert "from 1.0038 to 1.0034" in render_polish(result, about(landscape()))


def test_a_full_disk_warns_on_the_way_and_leaves_what_was_there(
    mine: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "r"
    out.mkdir()
    (out / "polished.safetensors").write_bytes(b"earlier")

    def full(path: Path, state: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("reluscape.descent_files.write_state", full)
    result = invoke(*mine, "--max-sweeps", 1, "--out", out)
    assert result.exit_code == 2
    warned, *_, last = result.stderr.splitlines()
    assert warned.startswith("warning: ")
    assert "No space left on device: the weights of this descent are not kept yet" in warned
    assert last.startswith("error: ")
    assert "No space left on device: choose another place or make room" in last
    assert [path.name for path in out.iterdir()] == ["polished.safetensors"]
    assert (out / "polished.safetensors").read_bytes() == b"earlier"


def test_a_folder_that_cannot_be_written_is_found_out_first(
    mine: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr("reluscape.descent.polish", None)
    result = invoke(*mine, "--out", tmp_path / "file" / "r")
    assert result.exit_code == 2
    assert "out must be a folder that can be written to" in result.stderr


# ---- progress ------------------------------------------------------------------------------------


def test_unknown_fractions_show_the_time_and_no_percentage() -> None:
    import io

    stream, now = io.StringIO(), 0.0
    report = progress._lines(stream, clock=lambda: now)
    now = 6.0
    report("pivot 64, loss 1", progress.UNKNOWN)
    assert stream.getvalue() == "pivot 64, loss 1: 6 s so far\n"

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    with progress.shown(terminal) as shown:
        shown("pivot 64", progress.UNKNOWN)
        shown("pivot 128 of 256", 0.5)
        shown("pivot 192", progress.UNKNOWN)
    (last,) = [line for line in terminal.getvalue().split("\r") if "pivot 192" in line]
    assert "%" not in last


def test_fractions_of_a_descent_are_of_its_limit_or_unknown() -> None:
    found: list[float] = []
    start = landscape((2, 3, 1))
    rs.descend(start.block(0), progress=lambda _, fraction: found.append(fraction))
    assert np.isnan(found[-1])
    found.clear()
    rs.polish(start, [0], max_pivots=10, progress=lambda _, fraction: found.append(fraction))
    assert found[-2] == 1.0  # the last is of the certificate
    assert np.isnan(found[-1])
    found.clear()
    watch = {"progress": lambda _, fraction: found.append(fraction)}
    rs.polish(start, max_pivots=10, max_sweeps=1, **watch)
    assert np.isnan(found).all()


# ---- the survey ----------------------------------------------------------------------------------


def test_a_survey_of_an_l1_loss_says_what_descent_still_removes(
    mine: tuple[str, ...], tmp_path: Path
) -> None:
    from reluscape.report import build_sections, load_survey

    out = tmp_path / "s"
    result = invoke("survey", *mine[1:5], "--loss", "l1", "--out", out)
    assert result.exit_code == 0, result.output
    assert "exact descent removes" in result.stdout
    survey = load_survey(out / "results.nc")
    found = {section.key: section for section in build_sections(survey)}
    assert list(found) == ["subject", "stopped", "cell", "minima", "lowered", "reach"]
    (figure,) = found["lowered"].figures
    data = np.load(tmp_path / "mine.npz")
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    model.load_state_dict(load_file(tmp_path / "mlp.safetensors"))
    start = rs.Landscape(model, data["x"], data["y"], loss="l1")
    for layer, trace in zip(survey.models[0].layers, figure.figure.data, strict=True):
        descent = rs.descend(start.block(layer.name))
        np.testing.assert_allclose(layer.descent_losses, descent.losses, rtol=1e-9)
        np.testing.assert_array_equal(trace.y, layer.descent_losses)
        assert layer.descent_status == descent.status
        assert layer.descent_causes == descent.causes
        told = f"layer {layer.label}, met: {'; '.join(descent.causes)}."
        assert any(told in text for text in found["lowered"].method) == bool(descent.causes)
        certificate = out / layer.descent_end.file
        assert rs.verify(certificate, start).valid
    assert found["lowered"].commands[-1].startswith("reluscape descend --weights weights/")


def test_a_survey_of_another_loss_says_why_not(mine: tuple[str, ...], tmp_path: Path) -> None:
    from reluscape.report import build_sections, load_survey

    result = invoke("survey", *mine[1:5], "--out", tmp_path / "s")
    assert result.exit_code == 0, result.output
    sections = build_sections(load_survey(tmp_path / "s" / "results.nc"))
    assert "lowered" not in [section.key for section in sections]
    limits = [row[0].text for row in sections[-1].tables[0].rows]
    assert "How much exact descent still removes" in limits


def test_a_large_layer_is_left_to_the_command(
    mine: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reluscape.survey_steps.MAX_DESCENT_SIZE", 8)
    monkeypatch.setattr("reluscape.survey_steps.DESCENT_WORK", 500)
    result = invoke("survey", *mine[1:5], "--loss", "l1", "--out", tmp_path / "s")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "s" / "report.html").read_text()
    assert "exact descent: too large for a short survey" in page
    assert "still removes at least" in page


# ---- in a browser --------------------------------------------------------------------------------


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_every_figure_draws(browser: Any, width: int, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(render_polish(polished(), about(landscape())), encoding="utf-8")
    page = browser.new_page()
    troubles: list[str] = []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(path.as_uri())
    plots = page.query_selector_all(".plot")
    assert len(plots) == len(figures()) >= 5
    for plot in plots:
        box = plot.query_selector("svg.main-svg").bounding_box()
        assert min(box["width"], box["height"]) > 100
        assert plot.query_selector(".trace") is not None
    assert_nothing_overflows(page, width)
    assert troubles == []
    page.close()
