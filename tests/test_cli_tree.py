"""`reluscape tree`, `reluscape verify` of its file, and its page."""

from __future__ import annotations

import html
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pages import assert_nothing_overflows
from safetensors.torch import load_file, save_file
from test_cli import files, invoke, refusal

from reluscape import Certificate, Landscape, MergeTree, Study, merge_tree
from reluscape.certificate import MINIMA
from reluscape.errors import InputError
from reluscape.train import mlp


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network, its data, and the tree of twelve of the samples."""
    folder = tmp_path_factory.mktemp("tree")
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(-2.0, 2.0, size=(30, 1)), axis=0)
    np.savez(folder / "mine.npz", x=x, y=np.sin(3.0 * x))
    model = mlp((1, 2, 1), seed=0)
    with torch.no_grad():
        model[2].weight.copy_(torch.tensor([[1.0, -1.0]]))
    save_file(model.state_dict(), folder / "mlp.safetensors")
    result = tree(folder, "--samples", 12, "--out", folder / "t")
    assert result.exit_code == 0, result.output
    return folder


def subject(folder: Path) -> tuple[object, ...]:
    return "--weights", folder / "mlp.safetensors", "--data", folder / "mine.npz"


def tree(folder: Path, *options: object) -> Any:
    return invoke("tree", *subject(folder), *options)


def test_what_is_written(grown: Path) -> None:
    found = MergeTree.load(grown / "t" / "merge_tree.nc")
    assert found.features.shape == (12, 2)
    names = [f"minima/{k:03d}.safetensors" for k in range(len(found.losses))]
    certificates = [name.replace("safetensors", "json") for name in names]
    others = {"merge_tree.nc", "report.html", "samples.npz"}
    assert files(grown / "t") == {*names, *certificates, *others}
    own = load_file(grown / "mlp.safetensors")
    for k, name in enumerate(names):
        state = load_file(grown / "t" / name)
        model = mlp((1, 2, 1), seed=0).double()
        model.load_state_dict(state)
        x = torch.from_numpy(found.features[:, :1])
        y = torch.from_numpy(found.residual) + own["2.bias"].double()
        loss = torch.nn.functional.mse_loss(model(x), y).item()
        assert loss == pytest.approx(found.losses[k], abs=1e-12)
        torch.testing.assert_close(state["2.weight"], own["2.weight"].double())


def test_each_minimum_has_a_certificate_of_its_own(grown: Path) -> None:
    found, data = MergeTree.load(grown / "t" / "merge_tree.nc"), grown / "t" / "samples.npz"
    page = (grown / "t" / "report.html").read_text()
    for k, theta in enumerate(found.minima):
        file = grown / "t" / "minima" / f"{k:03d}.json"
        certificate = Certificate.load(file)
        assert certificate.claim in MINIMA
        np.testing.assert_allclose(certificate.theta, theta, atol=1e-8)
        told = invoke(
            "verify", file, "--weights", file.with_suffix(".safetensors"), "--data", data, "--loss",
            "squared",
        )  # fmt: skip
        assert told.exit_code == 0, told.output
        claim = certificate.claim.replace("_", " ")
        assert f'<a href="minima/{k:03d}.json">{claim}</a>' in page


def test_a_full_disk_is_one_line_and_leaves_the_earlier_tree(
    grown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_disk: Any
) -> None:
    out, save = tmp_path / "t", MergeTree.save
    shutil.copytree(grown / "t", out)

    def save_without_room(found: MergeTree, path: Path) -> Path:
        with full_disk(4096):
            return save(found, path)

    monkeypatch.setattr(MergeTree, "save", save_without_room)
    result = tree(grown, "--samples", 12, "--out", out)
    assert result.exit_code == 2
    *_, last = result.stderr.splitlines()
    assert last == (
        f"error: {out / 'merge_tree.nc'}: File too large: choose another place or make room; "
        f"written by then: {out / 'samples.npz'}"
    )
    assert files(out) == files(grown / "t")
    for name in files(out) - {"samples.npz"}:
        assert (out / name).read_bytes() == (grown / "t" / name).read_bytes()


def test_verify_takes_its_file_and_no_other(grown: Path, tmp_path: Path) -> None:
    file = grown / "t" / "merge_tree.nc"
    result = invoke("verify", file, *subject(grown))
    assert result.exit_code == 0, result.output
    assert result.output.startswith("valid")
    other = mlp((1, 2, 1), seed=3)
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    wrong = invoke(
        "verify", file, "--weights", tmp_path / "other.safetensors", "--data", grown / "mine.npz"
    )
    assert wrong.exit_code == 1
    cut = tmp_path / "cut.nc"
    cut.write_bytes(file.read_bytes()[:-100])
    assert invoke("verify", cut, *subject(grown)).exit_code == 1


def test_the_pages_commands_run_in_its_folder(grown: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = html.unescape((grown / "t" / "report.html").read_text())
    monkeypatch.chdir(grown / "t")
    commands = re.findall(r"<code>(reluscape (?:verify|tree) .*?)</code>", page)
    assert len(commands) == 3
    for command in commands:
        result = invoke(*shlex.split(command)[1:])
        assert result.exit_code == 0, result.output
    again = MergeTree.load(grown / "t" / "again" / "merge_tree.nc")
    shutil.rmtree(grown / "t" / "again")
    np.testing.assert_array_equal(again.minima, MergeTree.load("merge_tree.nc").minima)
    state = ("--weights", "minima/000.safetensors", "--data", "samples.npz", "--layer", 0)
    told = invoke("certify", *state, "--loss", "squared", "--out", grown / "certificate.json")
    assert told.exit_code == 0, told.output


def test_json(grown: Path, tmp_path: Path) -> None:
    result = tree(grown, "--samples", 12, "--json", "--out", tmp_path / "t")
    told = json.loads(result.stdout)
    found = MergeTree.load(tmp_path / "t" / "merge_tree.nc")
    assert [one["loss"] for one in told["minima"]] == found.losses.tolist()
    assert told["minima"][0]["death"] is None
    assert (told["cells"], told["below"]) == (found.num_cells, None)


def test_the_size_is_told_before_and_too_many_cells_are_refused(
    grown: Path, tmp_path: Path
) -> None:
    result = tree(grown, "--samples", 12, "--out", tmp_path / "t")
    assert "576 cells and 1,152 facets: about" in result.stderr
    told = refusal("tree", *subject(grown), "--max-cells", 100, "--out", tmp_path / "u")
    assert "--max-cells must allow 3,600 cells and 7,200 facets: about" in told


def test_below(grown: Path, tmp_path: Path) -> None:
    whole = MergeTree.load(grown / "t" / "merge_tree.nc")
    level = float(whole.losses[0] * 1.1)
    out = tmp_path / "t"
    result = tree(grown, "--samples", 12, "--below", level, "--out", out)
    assert result.exit_code == 0, result.output
    assert "shown to lie above" in result.stdout
    assert invoke("verify", out / "merge_tree.nc", *subject(grown)).exit_code == 0
    result = tree(grown, "--samples", 12, "--below", 0.0, "--out", tmp_path / "none")
    assert "no loss is at most 0" in result.stdout


def test_what_is_kept_on_the_way(
    grown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reluscape.cli_tree.KEPT", 0.0)
    out = tmp_path / "t"
    run = Study.run

    def cut(self: Study, function: Any, work: Any, **options: Any) -> Any:
        run(self, function, work, **options)
        raise InputError("cut")

    with monkeypatch.context() as patched:
        patched.setattr(Study, "run", cut)
        assert tree(grown, "--samples", 12, "--jobs", 1, "--out", out).exit_code == 2
    names = {"chunks.sqlite", "chunks.sqlite.arrays", "chunks.sqlite.lock"}
    assert {file.name for file in out.iterdir()} == names
    result = tree(grown, "--samples", 12, "--jobs", 1, "--out", out)
    assert result.exit_code == 0, result.output
    assert not list(out.glob("chunks*"))
    first, second = (MergeTree.load(folder / "merge_tree.nc") for folder in (grown / "t", out))
    np.testing.assert_array_equal(first.minima, second.minima)


def test_what_an_earlier_tree_has_left_is_removed(grown: Path, tmp_path: Path) -> None:
    out = tmp_path / "t"
    assert tree(grown, "--samples", 12, "--out", out).exit_code == 0
    many = len(MergeTree.load(out / "merge_tree.nc").losses)
    (out / "minima" / "notes.txt").write_text("my own")
    (out / "mine.safetensors").write_bytes(b"my own")
    np.savez(tmp_path / "few.npz", x=[[0.0], [1.0], [2.0]], y=[[0.0], [1.0], [0.5]])
    few = ("--weights", grown / "mlp.safetensors", "--data", tmp_path / "few.npz")
    assert invoke("tree", *few, "--out", out).exit_code == 0
    left = len(MergeTree.load(out / "merge_tree.nc").losses)
    assert left < many
    endings = "safetensors", "json"
    names = {f"minima/{k:03d}.{ending}" for k in range(left) for ending in endings}
    own = {"minima/notes.txt", "mine.safetensors"}
    assert files(out) == {*names, *own, "merge_tree.nc", "report.html"}


def test_files_that_no_tree_has_written_stay(grown: Path, tmp_path: Path) -> None:
    def kept(out: Path, file: Path, *options: object) -> None:
        before = file.read_bytes()
        told = refusal("tree", *options, "--out", out)
        assert f"the tree's files would be written over {file}: give another --out" in told
        assert file.read_bytes() == before
        assert not (out / "report.html").exists() or (grown / "t") == out

    fewer = (*subject(grown), "--samples", 8)
    (tmp_path / "a" / "minima").mkdir(parents=True)
    mine = tmp_path / "a" / "minima" / "007.safetensors"
    shutil.copy(grown / "mlp.safetensors", mine)
    kept(tmp_path / "a", mine, *fewer)
    (tmp_path / "b").mkdir()
    data = tmp_path / "b" / "samples.npz"
    shutil.copy(grown / "mine.npz", data)
    kept(tmp_path / "b", data, *fewer)
    kept(tmp_path / "b", data, *fewer[:2], "--data", data, "--samples", 8)
    out = grown / "t"
    start = out / "minima" / "000.safetensors"
    kept(out, start, "--weights", start, *fewer[2:])
    kept(out, out / "samples.npz", *fewer[:2], "--data", out / "samples.npz", "--samples", 8)


def test_samples_that_a_tree_is_made_from_stay_beside_it(grown: Path, tmp_path: Path) -> None:
    out = tmp_path / "t"
    assert tree(grown, "--samples", 8, "--out", out).exit_code == 0
    first = MergeTree.load(out / "merge_tree.nc")
    options = ("--weights", grown / "mlp.safetensors", "--data", out / "samples.npz")
    assert invoke("tree", *options, "--out", out).exit_code == 0
    assert (out / "samples.npz").exists()
    again = MergeTree.load(out / "merge_tree.nc")
    np.testing.assert_array_equal(again.minima, first.minima)
    rows = np.load(out / "samples.npz")["samples"]
    np.testing.assert_array_equal(
        np.load(grown / "mine.npz")["x"][rows], np.load(out / "samples.npz")["x"]
    )


def test_chunks_of_another_tree_are_named_in_one_line(
    grown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reluscape.cli_tree.KEPT", 0.0)
    out = tmp_path / "t"
    keep_chunks(out / "chunks.sqlite")
    result = tree(grown, "--samples", 9, "--jobs", 1, "--out", out)
    assert result.exit_code == 2
    told = result.stderr.splitlines()[-1]
    assert f"{out / 'chunks.sqlite'} keeps another tree: of another layer, other data" in told
    assert "remove chunks.sqlite, chunks.sqlite.arrays, chunks.sqlite.lock" in told
    assert "give another `store` (--out)" in told
    assert "fork" not in told
    assert len(told) < 400 + len(str(out))


def test_after_one_tree_the_folder_takes_another(
    grown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reluscape.cli_tree.KEPT", 0.0)
    out = tmp_path / "t"
    for options in (("--samples", 8), ("--samples", 9), ("--samples", 9, "--loss", "l1")):
        result = tree(grown, *options, "--jobs", 1, "--out", out)
        assert result.exit_code == 0, result.output


def test_a_short_tree_removes_the_chunks_of_another_but_no_other_study(
    grown: Path, tmp_path: Path
) -> None:
    keep_chunks(tmp_path / "t" / "chunks.sqlite")
    assert tree(grown, "--samples", 8, "--out", tmp_path / "t").exit_code == 0
    assert not list((tmp_path / "t").glob("chunks*"))
    mine = tmp_path / "u" / "chunks.sqlite"
    Study(mine).run(nothing_of, {"a": [1, 2]})
    assert tree(grown, "--samples", 8, "--out", tmp_path / "u").exit_code == 0
    assert Study(mine).standing().done == 2


@pytest.mark.parametrize("harm", ["cut file", "no file", "cut arrays", "lost arrays"])
def test_damaged_chunks_say_what_to_remove_and_lost_ones_are_solved_again(
    grown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    monkeypatch.setattr("reluscape.cli_tree.KEPT", 0.0)
    out = tmp_path / "t"
    store, options = out / "chunks.sqlite", ("--samples", 12, "--jobs", 1, "--out", out)
    with monkeypatch.context() as patched:
        patched.setattr("reluscape.trees.stored.remove_chunks", lambda path: None)
        assert tree(grown, *options).exit_code == 0
    arrays = next(iter(sorted((out / "chunks.sqlite.arrays").iterdir())))
    if harm == "cut file":
        store.write_bytes(store.read_bytes()[: store.stat().st_size // 2])
    elif harm == "no file":
        store.write_bytes(b"no database" * 1000)
    elif harm == "cut arrays":
        arrays.write_bytes(arrays.read_bytes()[:100])
    else:
        arrays.unlink()
    result = tree(grown, *options)
    if harm in ("cut file", "no file"):
        assert result.exit_code == 2
        told = result.stderr.splitlines()[-1]
        assert f"{store} is damaged" in told
        assert "remove chunks.sqlite, chunks.sqlite.arrays, chunks.sqlite.lock from" in told
        assert "--retry" not in told
        shutil.rmtree(out / "chunks.sqlite.arrays")
        (out / "chunks.sqlite").unlink()
        (out / "chunks.sqlite.lock").unlink()
        result = tree(grown, *options)
    assert result.exit_code == 0, result.output
    whole = MergeTree.load(grown / "t" / "merge_tree.nc")
    np.testing.assert_array_equal(MergeTree.load(out / "merge_tree.nc").minima, whole.minima)


def nothing_of(parameters: dict[str, Any], seed: int) -> dict[str, Any]:
    """An experiment of no tree."""
    return {"a": parameters["a"]}


def keep_chunks(path: Path) -> None:
    """What a tree that has been cut off leaves."""
    x = np.linspace(-1.0, 1.0, 5)[:, None]
    merge_tree(Landscape(mlp((1, 2, 1), seed=0), x, x**2).block(0), store=path)


def test_rational_arithmetic(grown: Path, tmp_path: Path) -> None:
    pytest.importorskip("flint", reason="rational arithmetic needs python-flint")
    options = ("--samples", 8, "--arithmetic", "rational")
    result = tree(grown, *options, "--out", tmp_path / "t")
    assert result.exit_code == 0, result.output
    found = MergeTree.load(tmp_path / "t" / "merge_tree.nc")
    assert found.tier == "exact"
    check = invoke("verify", tmp_path / "t" / "merge_tree.nc", *subject(grown))
    assert check.output.startswith("valid")
    page = (tmp_path / "t" / "report.html").read_text("utf-8")
    assert "--arithmetic rational" in page
    assert '<span class="tier exact">' in page
    refused = tree(grown, *options, "--below", 1.0, "--out", tmp_path / "u")
    assert refused.exit_code == 2
    assert "takes no tolerance, store, dask or below" in refused.stderr


def test_layers_that_have_no_tree_are_refused(grown: Path, tmp_path: Path) -> None:
    save_file(mlp((1, 2, 2, 1), seed=0).state_dict(), tmp_path / "deep.safetensors")
    told = refusal(
        "tree", "--weights", tmp_path / "deep.safetensors", "--data", grown / "mine.npz",
        "--out", tmp_path / "t",
    )  # fmt: skip
    assert "one ReLU and one linear layer behind it" in told


def test_class_labels_are_fitted_as_numbers(tmp_path: Path) -> None:
    x = np.linspace(-1.0, 1.0, 6)[:, None]
    np.savez(tmp_path / "mine.npz", x=x, y=np.array([0, 1, 1, 0, 1, 0]))
    np.savez(tmp_path / "same.npz", x=x, y=np.array([[-1.0], [1], [1], [-1], [1], [-1]]))
    save_file(mlp((1, 2, 1), seed=0).state_dict(), tmp_path / "mlp.safetensors")
    losses = []
    for name in ("mine.npz", "same.npz"):
        data = tmp_path / name
        options = "--weights", tmp_path / "mlp.safetensors", "--data", data
        result = invoke("tree", *options, "--out", tmp_path / data.stem)
        assert result.exit_code == 0, result.output
        found = tmp_path / data.stem / "merge_tree.nc"
        assert invoke("verify", found, *options, "--loss", "squared").output.startswith("valid")
        losses.append(MergeTree.load(found).losses.tolist())
    assert losses[0] == losses[1]


def test_what_an_interrupted_search_has_kept_is_told(
    grown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, store: Path, **__: object) -> None:
        if kept:
            store.write_bytes(b"")
        raise KeyboardInterrupt

    monkeypatch.setattr("reluscape.cli_tree.KEPT", 0.0)
    monkeypatch.setattr("reluscape.trees.tree.merge_tree", interrupted)
    for kept in (False, True):
        result = tree(grown, "--out", tmp_path)
        assert result.exit_code == 130
        written = tmp_path / "chunks.sqlite" if kept else "nothing"
        assert f"interrupted; written by then: {written}\n" in result.stderr


def test_losses_that_have_no_tree_are_not_offered(grown: Path, tmp_path: Path) -> None:
    told = refusal("tree", *subject(grown), "--loss", "cross_entropy", "--out", tmp_path / "t")
    assert "half_squared" in told


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_draws(grown: Path, browser: Any, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto((grown / "t" / "report.html").as_uri())
    page.wait_for_selector(".js-plotly-plot .main-svg")
    assert page.locator(".js-plotly-plot").count() == 3
    assert not problems
    assert_nothing_overflows(page, width)
    page.close()


def test_at_a_minimum_nothing_has_to_rise_but_by_rounding(grown: Path, tmp_path: Path) -> None:
    found = MergeTree.load(grown / "t" / "merge_tree.nc")
    assert len(found.losses) > 1
    for k in (0, len(found.losses) - 1):
        start = grown / "t" / "minima" / f"{k:03d}.safetensors"
        data = grown / "t" / "samples.npz"
        result = invoke("tree", "--weights", start, "--data", data, "--out", tmp_path / str(k))
        way = "without rising" if k == 0 else "over a barrier"
        assert f"the global minimum can be reached {way}" in result.stdout
