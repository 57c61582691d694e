"""`reluscape connect`, `reluscape verify` of its file, and its page."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pages import assert_nothing_overflows
from safetensors.torch import load_file, save_file
from test_cli import files, invoke, refusal
from torch import nn

import reluscape as rs
from reluscape import cli_connect
from reluscape.connection_files import ConnectionFolder
from reluscape.report.joined import Joined, render_connection
from reluscape.strings.check_ends import begins_at
from reluscape.strings.connecting import METHODS
from reluscape.strings.models import Models
from reluscape.strings.usual import usual_level
from reluscape.train import mlp, train

LEVEL = 0.05
ENDS = ("a.safetensors", "b.safetensors")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three networks of different seeds on the same data, and a string between the first two."""
    folder = tmp_path_factory.mktemp("connect")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 2))
    y = np.abs(x).sum(axis=1, keepdims=True)
    np.savez(folder / "mine.npz", x=x, y=y)
    for seed, name in enumerate("abc"):
        model = mlp((2, 8, 1), seed=seed)
        train(model, x, y, loss="squared", epochs=300, batch_size=20, rate=0.01, seed=seed)
        save_file(model.state_dict(), folder / f"{name}.safetensors")
    result = connect(folder, "--level", LEVEL, "--out", folder / "c")
    assert result.exit_code == 0, result.output
    return folder


def connect(folder: Path, *options: object, ends: tuple[str, ...] = ENDS) -> Any:
    return invoke("connect", *(folder / end for end in ends), *data(folder), *options)


def refused(folder: Path, *options: object, ends: tuple[str, ...] = ENDS) -> str:
    return refusal("connect", *(folder / end for end in ends), *data(folder), *options)


def data(folder: Path) -> tuple[object, ...]:
    return "--data", folder / "mine.npz"


def verify(folder: Path, path: Path, *ends: str) -> Any:
    given = [one for end in ends or ENDS for one in ("--weights", folder / end)]
    return invoke("verify", path, *given, *data(folder))


def landscape_at(folder: Path, name: str = "a") -> rs.Landscape:
    model = mlp((2, 8, 1), seed=0)
    model.load_state_dict(load_file(folder / f"{name}.safetensors"))
    with np.load(folder / "mine.npz") as held:
        return rs.Landscape(model, held["x"], held["y"])


def found_in(folder: Path) -> rs.Connection:
    return rs.Connection.load(folder / "connection.nc")


# ---- what is found -----------------------------------------------------------------------------


def test_a_string_below_the_level_is_found_where_the_straight_line_fails(trained: Path) -> None:
    found = found_in(trained / "c")
    assert found.status == "connected"
    assert found.tier == "exact"
    assert found.maximum <= LEVEL < found.straight_lower
    landscape = landscape_at(trained)
    for start, stop in zip(found.beads[:-1], found.beads[1:], strict=True):
        losses = [landscape.loss(start + t * (stop - start)) for t in np.linspace(0, 1, 400)]
        assert max(losses) <= LEVEL


def test_every_bead_loads_into_the_module_and_the_ends_are_the_files(trained: Path) -> None:
    found, landscape = found_in(trained / "c"), landscape_at(trained)
    beads = {f"beads/{k:03d}.safetensors" for k in range(found.num_beads)}
    assert files(trained / "c") == beads | {"connection.nc", "report.html"}
    module = mlp((2, 8, 1), seed=9)
    for k, name in enumerate(sorted(beads)):
        module.load_state_dict(load_file(trained / "c" / name))
        flat = torch.cat([p.detach().ravel() for p in module.parameters()]).numpy()
        np.testing.assert_array_equal(flat, found.beads[k])
        assert landscape.loss(flat) == pytest.approx(found.values[k], rel=1e-9)
    for place, name in ((0, "a"), (-1, "b")):
        np.testing.assert_array_equal(found.beads[place], landscape_at(trained, name).theta)


def test_the_record_is_the_files(trained: Path) -> None:
    result = connect(trained, "--level", LEVEL, "--out", trained / "json", "--json")
    record = json.loads(result.stdout, parse_constant=lambda name: pytest.fail(name))
    found = found_in(trained / "json")
    for name in ("status", "tier", "maximum", "linear_barrier", "normalized_length", "gradients"):
        assert record[name] == getattr(found, name)
    assert record["num_beads"] == found.num_beads
    assert record["cells"] == found.cells(landscape_at(trained))
    assert record["unmatched_lower"] is None
    assert {str(trained / "json" / name) for name in files(trained / "json")} == set(
        record["files"]
    )


def test_the_terminal_tells_barriers_lengths_and_cost(trained: Path) -> None:
    told = connect(trained, "--level", LEVEL, "--out", trained / "told").stdout
    assert told.startswith("a and b: connected: loss at most ")
    for part in ("(exact), level 0.05", "straight line rises to", "barrier", "beads, depth",
                 "without biases", "gradients", "activation cells", "the level: as asked"):  # fmt: skip
        assert part in told


def test_not_found_is_never_worded_as_disconnected(trained: Path) -> None:
    out = trained / "none"
    options = ("--level", 0.011, "--max-depth", 1, "--max-steps", 2, "--out", out)
    result = connect(trained, *options)
    assert result.exit_code == 0, result.output
    assert found_in(out).status == "not_found"
    page = (out / "report.html").read_text()
    told = page[page.index("<main>") :]
    for text in (result.stdout, told):
        assert "does not show that there is none" in text
        assert "disconnected" not in text
        assert "not connected" not in text
    checked = verify(trained, out / "connection.nc")
    assert checked.exit_code == 0
    assert "does not show that there is none" in checked.stdout


def test_the_default_level_is_a_tenth_of_the_straight_lines_rise(trained: Path) -> None:
    out = trained / "default"
    assert connect(trained, "--max-depth", 1, "--max-steps", 1, "--out", out).exit_code == 0
    found, landscape = found_in(out), landscape_at(trained)
    line = [
        landscape.loss(found.beads[0] * (1 - t) + found.beads[-1] * t) for t in np.arange(33) / 32
    ]
    worst = max(line[0], line[-1])
    assert found.level == pytest.approx(max(1.1 * worst, worst + 0.1 * (max(line) - worst)))
    module = landscape.module_at()
    level, values = usual_level(landscape, [module, module])
    assert level == pytest.approx(1.1 * values[0])


def test_a_model_is_connected_with_itself(trained: Path) -> None:
    out = trained / "same"
    result = connect(trained, "--out", out, ends=("a.safetensors", "a.safetensors"))
    assert result.exit_code == 0, result.output
    found = found_in(out)
    assert (found.status, found.num_beads, found.normalized_length) == ("connected", 2, 1.0)
    assert verify(trained, out / "connection.nc", "a.safetensors", "a.safetensors").exit_code == 0


def test_match_makes_a_permuted_model_the_same_point(trained: Path) -> None:
    state = load_file(trained / "a.safetensors")
    order = torch.tensor([1, 0, 2, 3, 4, 5, 7, 6])
    swapped = {name: state[name][order] for name in ("0.weight", "0.bias")}
    swapped |= {"2.weight": state["2.weight"][:, order].contiguous(), "2.bias": state["2.bias"]}
    save_file(swapped, trained / "swapped.safetensors")
    ends, out = ("a.safetensors", "swapped.safetensors"), trained / "matched"
    assert connect(trained, "--match", "--out", out, ends=ends).exit_code == 0
    found = found_in(out)
    assert found.matched
    np.testing.assert_array_equal(found.beads[0], found.beads[-1])
    assert found.unmatched_lower > found.straight_lower
    assert verify(trained, out / "connection.nc", *ends).exit_code == 0
    other = verify(trained, out / "connection.nc", "a.safetensors", "b.safetensors")
    assert other.exit_code == 1
    assert "whatever the order of their units" in other.stdout


def test_of_three_models_the_tree_has_the_lowest_strings(trained: Path) -> None:
    out = trained / "three"
    ends = (*ENDS, "c.safetensors")
    result = connect(trained, "--level", 0.2, "--out", out, "--json", ends=ends)
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    heights = {tuple(pair["models"]): pair["maximum"] for pair in record["pairs"]}
    assert set(heights) == {("a", "b"), ("a", "c"), ("b", "c")}
    lowest = sorted(heights, key=heights.__getitem__)[:2]
    assert sorted(map(tuple, record["tree"])) == sorted(lowest)
    for pair in ("000-001", "000-002", "001-002"):
        assert {"connection.nc", "report.html"} <= files(out / pair)
    assert (
        verify(
            trained, out / "001-002" / "connection.nc", "b.safetensors", "c.safetensors"
        ).exit_code
        == 0
    )
    table = connect(trained, "--level", 0.2, "--out", out, ends=ends).stdout
    assert table.count("yes") == 2


def test_the_choices_are_the_librarys() -> None:
    assert list(cli_connect.Method) == list(METHODS)


# ---- Ctrl-C and going on -----------------------------------------------------------------------


def test_ctrl_c_keeps_the_string_and_resume_goes_on(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def pressing(text: str, _: float) -> None:
        if "training" in text and not asked:
            asked.append(text)
            os.kill(os.getpid(), signal.SIGINT)

    class Shown:
        def __enter__(self) -> Any:
            return pressing

        def __exit__(self, *_: object) -> None:
            pass

    out = trained / "stopped"
    with monkeypatch.context() as patched:
        patched.setattr("reluscape.progress.shown", Shown)
        result = connect(trained, "--level", LEVEL, "--out", out)
    assert asked
    assert result.exit_code == 130, result.output
    assert "--resume goes on" in result.stderr
    before = found_in(out)
    assert before.status == "not_found"
    assert "stopped before the end" in before.tried
    assert verify(trained, out / "connection.nc").exit_code == 0
    told = refused(trained, "--out", out, "--resume", "--weight-decay", 0.1)
    assert "loss squared, weight decay 0.0; received" in told
    assert told.endswith("weight decay 0.1: give --level\n")
    result = connect(trained, "--out", out, "--resume")
    assert result.exit_code == 0, result.output
    after = found_in(out)
    assert (after.status, after.level) == ("connected", LEVEL)
    assert "that of the string gone on from" in result.stdout


KILLED = """
import os, signal, sys
from reluscape.strings.keeping import Keeper

write = Keeper._write

def written_and_killed(self, beads):
    write(self, beads)
    os.kill(os.getpid(), signal.SIGKILL)

Keeper._write = written_and_killed
from reluscape.cli import main
main()
"""


def test_killed_outright_a_search_goes_on_and_ends_as_if_it_had_not_been(trained: Path) -> None:
    out = trained / "killed"
    options = [*(trained / end for end in ENDS), *data(trained), "--out", out, "--seed", 0]
    command = [sys.executable, "-c", KILLED, "connect", *map(str, options), "--level", str(LEVEL)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert {name for name in files(out) if name.endswith(".nc")} == {"unfinished.nc"}
    result = connect(trained, "--out", out, "--resume")
    assert result.exit_code == 0, result.output
    found, whole = found_in(out), found_in(trained / "c")
    assert (found.status, found.level) == ("connected", LEVEL)
    assert found.beads.tobytes() == whole.beads.tobytes()
    assert "unfinished.nc" not in files(out)


def test_a_new_search_forgets_one_that_was_killed(trained: Path) -> None:
    out = trained / "new"
    out.mkdir()
    (out / "unfinished.nc").write_bytes(b"of another search")
    assert "cut or changed" in refused(trained, "--out", out, "--resume")
    assert connect(trained, "--level", 100.0, "--out", out).exit_code == 0
    assert "unfinished.nc" not in files(out)


def test_where_nothing_is_left_resume_begins_anew(trained: Path) -> None:
    out = trained / "fresh"
    result = connect(trained, "--level", LEVEL, "--out", out, "--resume")
    assert result.exit_code == 0, result.output
    assert f"nothing to go on from in {out}: a new search" in result.stderr
    assert found_in(out).beads.tobytes() == found_in(trained / "c").beads.tobytes()


def test_a_killed_tree_takes_over_what_is_done_and_goes_on(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, ends = trained / "tree", (*ENDS, "c.safetensors")
    options = ("--level", LEVEL, "--out", out)
    assert connect(trained, *options, ends=ends).exit_code == 0
    whole = rs.SpanningTree.load(out / "tree.nc")
    unfinished_again(out / "000-002")
    shutil.rmtree(out / "001-002")
    searched: list[Any] = []
    join = Models.join

    def joined(self: Models, a: int, b: int, progress: Any, **search: Any) -> rs.Connection:
        searched.append((a, b, type(search["start"])))
        return join(self, a, b, progress, **search)

    monkeypatch.setattr(Models, "join", joined)
    assert connect(trained, *options, "--resume", ends=ends).exit_code == 0
    assert searched == [(0, 2, rs.Unfinished), (1, 2, type(None))]
    again = rs.SpanningTree.load(out / "tree.nc")
    for one, other in zip(whole.strings, again.strings, strict=True):
        assert one.beads.tobytes() == other.beads.tobytes()
    assert verify(trained, out / "tree.nc", *ends).exit_code == 0
    with np.load(trained / "mine.npz") as held:
        np.savez(trained / "other.npz", x=held["x"], y=held["y"] + 1e-6)
    for other in (("--data", trained / "other.npz"), ("--seed", 1)):
        searched.clear()
        connect(trained, *options, "--resume", *other, ends=ends)
        assert [start for *_, start in searched] == [rs.Connection] * 3


def unfinished_again(folder: Path) -> None:
    """Turn a finished string into what a kill right before its end would have left."""
    found = found_in(folder)
    names = {one.name for one in fields(rs.Unfinished)}
    rs.Unfinished(**{name: getattr(found, name) for name in names}).save(folder / "unfinished.nc")
    (folder / "connection.nc").unlink()
    shutil.rmtree(folder / "beads")


def test_a_shorter_string_leaves_no_bead_of_a_longer_one(trained: Path) -> None:
    out = trained / "again"
    connect(trained, "--level", LEVEL, "--out", out)
    connect(trained, "--level", 100.0, "--out", out)
    assert found_in(out).num_beads == 2
    assert {name for name in files(out) if "beads" in name} == {
        "beads/000.safetensors",
        "beads/001.safetensors",
    }


@pytest.mark.parametrize("ends", [("000", "001"), ("../a", "../b")])
def test_weights_of_others_are_not_written_over(trained: Path, ends: tuple[str, str]) -> None:
    beads = trained / "others" / "beads"
    beads.mkdir(parents=True, exist_ok=True)
    names = {"000": "a", "001": "b", "007": "c"}
    for name, of in names.items():
        (beads / f"{name}.safetensors").write_bytes((trained / f"{of}.safetensors").read_bytes())
    told = refused(
        trained, "--level", 100.0, "--out", beads.parent,
        ends=tuple(f"others/beads/{end}.safetensors" for end in ends),
    )  # fmt: skip
    assert "would be written over" in told
    for name, of in names.items():
        copied = (beads / f"{name}.safetensors").read_bytes()
        assert copied == (trained / f"{of}.safetensors").read_bytes()


# ---- bad input ---------------------------------------------------------------------------------


def test_a_level_below_an_end_names_the_file(trained: Path) -> None:
    told = refused(trained, "--level", 1e-9)
    assert "expected a level of at least the loss of all models" in told
    assert ".safetensors has" in told
    assert "expected a finite --level" in refused(trained, "--level", "nan")


def test_models_of_other_shapes_are_refused_by_name(trained: Path) -> None:
    save_file(mlp((2, 9, 1), seed=0).state_dict(), trained / "wide.safetensors")
    told = refused(trained, ends=("a.safetensors", "wide.safetensors"))
    assert "wide.safetensors is no model of the shape of" in told


def test_files_that_cannot_be_used_are_told(trained: Path) -> None:
    assert "does not exist" in refused(trained, ends=("a.safetensors", "none.safetensors"))
    state = load_file(trained / "a.safetensors")
    state["0.weight"][0, 0] = float("nan")
    save_file(state, trained / "nan.safetensors")
    assert "NaN or infinite" in refused(trained, ends=("a.safetensors", "nan.safetensors"))
    assert "received 1: name both" in refused(trained, ends=("a.safetensors",))
    assert "give --data" in refusal("connect", *(trained / end for end in ENDS))
    bezier = refused(trained, "--resume", "--method", "bezier", "--out", trained / "c")
    assert "any method but bezier" in bezier
    three = (*ENDS, "c.safetensors")
    assert "for two models; received 3" in refused(trained, "--metric", "error_rate", ends=three)
    assert "error_rate needs class indices" in refused(trained, "--metric", "error_rate")


def test_a_string_of_other_models_is_not_gone_on_from(trained: Path) -> None:
    ends = ("a.safetensors", "c.safetensors")
    for level in (("--level", 1.0), ()):
        told = refused(trained, "--resume", "--out", trained / "c", *level, ends=ends)
        assert "a connection between other models" in told


# ---- the page ----------------------------------------------------------------------------------


def test_the_page_has_its_commands_and_escapes_what_files_say(trained: Path) -> None:
    page = (trained / "c" / "report.html").read_text()
    again = "reluscape connect ../a.safetensors ../b.safetensors --data ../mine.npz"
    assert again in page
    assert "reluscape verify connection.nc --weights ../a.safetensors --weights ../b" in page
    evil = "<script>alert(1)</script>"
    about = Joined((evil, evil), evil, 3, evil, None, evil, evil, evil)
    found = replace(found_in(trained / "c"), kind=evil, tried=(evil,), method=evil, unbatched=evil)
    told = render_connection(found, about)
    assert evil not in told[told.index("<main>") :]
    assert "&lt;script&gt;" in told


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_draws(trained: Path, browser: Any, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((trained / "c" / "report.html").as_uri())
    page.wait_for_selector("#string svg.main-svg")
    assert errors == []
    assert_nothing_overflows(page, width)
    page.close()


def test_the_readmes_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    passage = text[text.index("## Connected models") :]
    (code,) = re.findall(r"```python\n(.*?)```", passage[: passage.index("\n## ", 3)], re.DOTALL)
    scope: dict[str, Any] = {}
    exec(code, scope)
    found = scope["found"]
    assert (found.status, found.tier) == ("connected", "exact")
    assert found.num_beads > 2
    assert "valid=True" in capsys.readouterr().out


# ---- verify ------------------------------------------------------------------------------------


def test_verify_asks_for_both_ends(trained: Path) -> None:
    path = trained / "c" / "connection.nc"
    told = verify(trained, path)
    assert told.exit_code == 0, told.output
    assert told.stdout.startswith(
        "valid: recomputed from network and data: connected: loss at most"
    )
    one = refusal("verify", path, "--weights", trained / "a.safetensors", *data(trained))
    assert "give --weights twice" in one
    for ends in (("a", "c"), ("b", "a"), ("c", "b")):
        wrong = verify(trained, path, *(f"{end}.safetensors" for end in ends))
        assert wrong.exit_code == 1
        assert "other weights" in wrong.stdout


def test_verify_takes_two_weights_of_a_connection_only(trained: Path) -> None:
    certificate = trained / "cert.json"
    given = ("--weights", trained / "a.safetensors", *data(trained))
    assert invoke("certify", *given, "--layer", "0", "--out", certificate).exit_code == 0
    two = refusal("verify", certificate, "--weights", trained / "b.safetensors", *given)
    assert "more are the models of a connection or a tree" in two


def test_what_is_no_file_of_a_connection_is_named(trained: Path) -> None:
    (trained / "empty.nc").write_bytes(b"")
    told = verify(trained, trained / "empty.nc")
    assert told.exit_code == 1
    assert "empty.nc" in told.stdout
    given = ("--weights", trained / "a.safetensors", *data(trained))
    assert "found a folder at" in refusal("verify", trained / "c", *given)


def test_a_bound_is_never_shown_below_itself(trained: Path) -> None:
    found = replace(found_in(trained / "c"), maximum=0.04000000001)
    assert "at most 0.0400001 (exact)" in found.summary()


def test_a_file_with_changed_bytes_is_rejected(trained: Path) -> None:
    content = bytearray((trained / "c" / "connection.nc").read_bytes())
    content[len(content) // 2] ^= 1
    (trained / "changed.nc").write_bytes(bytes(content))
    told = verify(trained, trained / "changed.nc")
    assert told.exit_code == 1
    assert "its digest does not match" in told.stdout


def moved(name: str, place: Any, by: float) -> Any:
    """A change of one entry."""

    def change(found: rs.Connection) -> Any:
        values = getattr(found, name).copy()
        values[place] += by
        return values

    return change


CHANGES: list[tuple[str, Any]] = [
    ("status", lambda one: "not_found"),
    ("status", lambda one: "proved"),
    ("tier", lambda one: "certified"),
    ("level", lambda one: 0.9 * one.maximum),
    ("level", lambda one: float("nan")),
    ("maximum", lambda one: 0.999 * one.maximum),
    ("maximum", lambda one: float("nan")),
    ("beads", moved("beads", (1, 0), 1e-3)),
    ("beads", moved("beads", (0, 0), 1e-3)),
    ("beads", moved("beads", (-1, 0), float("nan"))),
    ("beads", lambda one: one.beads[:, 1:]),
    ("beads", lambda one: one.beads[:-1]),
    ("values", moved("values", 1, 1e-4)),
    ("values", lambda one: one.values[1:]),
    ("depths", moved("depths", 0, 1)),
    ("depths", moved("depths", 1, -9)),
    ("lower", moved("lower", 0, 1e-5)),
    ("lower", moved("lower", 0, -1e-5)),
    ("upper", lambda one: np.minimum(one.upper, 0.99 * one.lower)),
    ("upper", lambda one: 1.01 * one.upper),
    ("upper", lambda one: np.full_like(one.upper, np.nan)),
    ("positions", lambda one: 0.5 * one.positions + 0.2),
    ("positions", moved("positions", 0, 2.0)),
    ("tiers", lambda one: ("certain", *one.tiers[1:])),
    ("tiers", lambda one: ("sampled", *one.tiers[1:])),
    ("tiers", lambda one: one.tiers[1:]),
    ("curve", moved("curve", (0, 5), 1e-4)),
    ("curve", lambda one: one.curve[:, :1]),
    ("straight", moved("straight", 5, 1e-4)),
    ("straight_lower", lambda one: 0.9 * one.straight_lower),
    ("straight_lower", lambda one: 1.1 * one.straight_lower),
    ("straight_upper", lambda one: 0.9 * one.straight_upper),
    ("straight_upper", lambda one: float("inf")),
    ("straight_tier", lambda one: "sampled"),
    ("straight_tier", lambda one: "sure"),
    ("normalized_length", lambda one: 1.0),
    ("normalized_length_weights", lambda one: 1.0),
    ("kind", lambda one: "error_rate"),
    ("kind", lambda one: "accuracy"),
    ("objective", lambda one: "l1"),
    ("weight_decay", lambda one: 0.1),
    ("gradients", lambda one: -1),
    ("losses", lambda one: -1),
    ("seconds", lambda one: float("nan")),
    ("seed", lambda one: -1),
    ("buffers", lambda one: np.zeros((len(one.beads), 3))),
    ("matched", lambda one: True),
    ("unmatched_lower", lambda one: one.straight_lower),
]  # fmt: skip
#: How the path was found, which nothing can prove.
TOLD = {"method", "unbatched", "tried"}


@pytest.mark.parametrize(("name", "change"), CHANGES)
def test_a_changed_field_is_rejected(trained: Path, name: str, change: Any) -> None:
    found, landscape = found_in(trained / "c"), landscape_at(trained)
    verdict = rs.verify(replace(found, **{name: change(found)}), landscape)
    assert not verdict.valid, verdict.reason


def test_every_field_is_changed_or_told() -> None:
    assert {name for name, _ in CHANGES} | TOLD == {field.name for field in fields(rs.Connection)}


def test_fields_of_other_types_are_rejected(trained: Path) -> None:
    landscape, b = landscape_at(trained), landscape_at(trained, "b")
    found = rs.connect(landscape, landscape.theta, b.theta, 100.0)
    assert rs.verify(found, landscape).valid
    for field in fields(rs.Connection):
        if field.name in TOLD:
            continue
        for other in (None, "x", np.zeros(0), ()):
            verdict = rs.verify(replace(found, **{field.name: other}), landscape)
            assert not verdict.valid, (field.name, other)


def test_a_weaker_statement_is_still_true(trained: Path) -> None:
    found, landscape = found_in(trained / "c"), landscape_at(trained)
    assert rs.verify(replace(found, level=2 * found.level), landscape).valid


def test_other_data_and_networks_are_rejected(trained: Path) -> None:
    found, landscape = found_in(trained / "c"), landscape_at(trained)
    other = rs.Landscape(landscape.module_at(), landscape.inputs + 1.0, landscape.targets)
    assert not rs.verify(found, other).valid
    wide = rs.Landscape(mlp((2, 9, 1), seed=0), landscape.inputs, landscape.targets)
    assert "no path of models with" in rs.verify(found, wide).reason
    output = rs.NetworkOutput(landscape.module_at(), lower=-1.0, upper=1.0)
    assert "not about a network's output" in rs.verify(found, output).reason


class Normed(nn.Sequential):
    """With running statistics."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        super().__init__(nn.Linear(2, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 1))


def test_running_statistics_go_along_and_are_checked() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 2))
    y = np.abs(x).sum(axis=1, keepdims=True)
    models = [Normed(seed).double() for seed in (0, 1)]
    for model in models:
        model.train()
        train(model, x, y, loss="squared", epochs=300, batch_size=40, rate=0.02, seed=0)
    landscape = rs.Landscape(models[0], x, y)
    level = usual_level(landscape, models)[0]
    found = rs.connect(landscape, models[0], models[1], level)
    assert found.num_beads > 2
    verdict = rs.verify(found, landscape)
    assert verdict.valid, verdict.reason
    assert "as far as a grid shows, which proves nothing" in verdict.reason
    assert begins_at(found, landscape, models[0])
    buffers = found.buffers.copy()
    buffers[0, 0] += 1e-2
    assert not begins_at(replace(found, buffers=buffers), landscape, models[0])
    buffers = found.buffers.copy()
    buffers[1, 0] += 1e-2
    wrong = rs.verify(replace(found, buffers=buffers), landscape)
    assert "the running statistics of bead 1 are not" in wrong.reason
    for bead in (0, -1):
        state = models[bead].state_dict()
        for name, value in found.state(landscape, bead).items():
            assert torch.equal(value, state[name]), name


def test_error_rates_and_other_losses_are_checked() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(60, 2))
    labels = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
    models = [mlp((2, 8, 2), seed=seed) for seed in (0, 1)]
    for model in models:
        train(model, x, labels, loss="cross_entropy", epochs=100, batch_size=20, rate=0.02, seed=0)
    landscape = rs.Landscape(models[0], x, labels, loss="cross_entropy")
    found = rs.connect(landscape, *models, 0.3, metric="error_rate")
    verdict = rs.verify(found, landscape)
    assert verdict.valid, verdict.reason
    assert "error_rate rises to" in verdict.reason
    worse = found.curve.copy()
    worse[0, 3] += 1 / 60
    assert not rs.verify(replace(found, curve=worse), landscape).valid
    test = rs.Landscape(models[0], x + 0.05, labels, loss="cross_entropy")
    other = rs.connect(landscape, *models, usual_level(test, models)[0], metric=test)
    assert rs.verify(other, test).valid
    assert not rs.verify(other, landscape).valid


CODE = """
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self, centred):
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(2, 4), nn.Linear(4, 4), nn.Linear(4, 1)
        self.again = nn.Linear(4, 4)
        self.again.weight = self.middle.weight
        self.register_buffer("mean", torch.zeros(2), persistent=centred)

    def forward(self, x):
        hidden = torch.relu(self.middle(torch.relu(self.first(x - self.mean))))
        return self.last(torch.relu(self.again(hidden)))

def tied():
    return Model(False)

def centred():
    return Model(True)

def rounded():
    model = Model(True)
    model.mean = model.mean.long()
    return model
"""


def test_models_that_share_weights_or_have_other_buffers_are_joined_unless_these_cannot_move(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "connect_models_of_test.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    import connect_models_of_test as code

    for name in ("tied", "centred", "rounded"):
        for seed in (0, 1):
            torch.manual_seed(seed)
            model = getattr(code, name)()
            model.mean += seed * (name != "tied")
            torch.save(model.state_dict(), tmp_path / f"{name}{seed}.pt")

    def given(name: str) -> tuple[object, ...]:
        return (*data(trained), "--model", f"connect_models_of_test:{name}")

    with np.load(trained / "mine.npz") as held:
        x, y = (torch.as_tensor(held[key]) for key in "xy")
    for name in ("tied", "centred"):
        ends, folder = [tmp_path / f"{name}{seed}.pt" for seed in (0, 1)], tmp_path / name
        out = ("--level", 50.0, "--method", "bezier", "--out", folder)
        result = invoke("connect", *ends, *given(name), *out)
        assert result.exit_code == 0, result.output
        assert ("move along with the weights" in result.output) is (name == "centred")
        weights = [one for end in ends for one in ("--weights", end)]
        checked = invoke("verify", folder / "connection.nc", *weights, *given(name))
        assert checked.exit_code == 0, checked.output
        found, module = found_in(folder), getattr(code, name)().double()
        for k in range(found.num_beads):
            module.load_state_dict(load_file(folder / "beads" / f"{k:03d}.safetensors"))
            loss = float((module(x) - y).detach().square().sum(1).mean())
            assert loss == pytest.approx(found.values[k], rel=1e-9)
    others = [tmp_path / f"rounded{seed}.pt" for seed in (0, 1)]
    told = refusal("connect", *others, *given("rounded"), "--out", tmp_path / "d")
    assert "rounded1.pt must have the landscape's buffers where these cannot move" in told
    assert "received others in 'mean'" in told


def test_the_folder_is_refused_before_any_work(trained: Path) -> None:
    (trained / "file").write_text("")
    told = refused(trained, "--out", trained / "file" / "c")
    assert "out must be a folder that can be written to" in told
    assert ConnectionFolder(trained / "c").before().status == "connected"


def test_strings_and_trees_are_not_mixed_in_one_folder(trained: Path) -> None:
    ends = ("a.safetensors", "b.safetensors", "c.safetensors")
    short = ("--max-depth", 1, "--max-steps", 1, "--level", 20.0)
    for first, second, message in (
        (2, 3, "a connection of two models"),
        (3, 2, "the tree of more"),
    ):
        out = trained / f"mixed{first}"
        assert connect(trained, *short, "--out", out, ends=ends[:first]).exit_code == 0
        before = (out / "report.html").read_bytes()
        refused = connect(trained, *short, "--out", out, ends=ends[:second])
        assert refused.exit_code == 2
        assert message in refused.output
        assert (out / "report.html").read_bytes() == before
