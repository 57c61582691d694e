"""Liu's tables: batched trials against plain loops, published numbers, images, the docs' witness."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from reluscape import cli, reproduce
from reluscape.errors import InputError
from reluscape.landscape import Landscape
from reluscape.minima.find import cell_minimum
from reluscape.papers import liu, liu_data, liu_tables, liu_theory, liu_trials
from reluscape.train import mlp

SMALL = {"features": 3, "units": 10, "samples": 2000, "programs": 9, "search": 9, "dataset": 0}


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


# --- cells ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "units", "bias"), [(40, 4, 0), (40, 4, 2), (12, 3, 0), (30, 2, -2)]
)
def test_fitted_values_rule_out_only_what_has_no_minimum(
    samples: int, units: int, bias: float
) -> None:
    """The shortcut agrees with `cell_minimum` under each convention, and so does `continuous`."""
    inputs, labels = liu_trials.samples_of(2, samples, 0)
    landscape = liu_trials._landscape(units, inputs, labels)
    rng, ruled, every = np.random.default_rng(5), 0, dict.fromkeys(liu_trials.CONVENTIONS, True)
    for _ in range(8):
        weights, outputs = liu_trials.draw(rng, units, 2, bias)
        least = liu_trials.LeastSquares.of(inputs, labels, weights)
        theta = liu_trials.theta_of(weights, outputs)
        found = [cell_minimum(landscape, theta, signs=one) for one in liu_trials.CONVENTIONS]
        out = least.ruled_out(outputs)
        assert not any(one.genuine for one, gone in zip(found, out, strict=True) if gone)
        ruled += sum(out)
        short, rejected = liu_trials.decide(landscape, theta, out, every)
        assert rejected == 0
        assert list(short) == [float(one.genuine) for one in found if one.genuine is not None]
        assert least.continuous == (found[0].kind != "unique")
        loss = float(((least.fitted - labels) ** 2).mean())
        assert loss == pytest.approx(found[0].loss, abs=1e-9)
    assert ruled > 0


def test_what_is_not_asked_stays_undecided() -> None:
    inputs, labels = liu_trials.samples_of(2, 30, 0)
    weights, outputs = liu_trials.draw(np.random.default_rng(0), 3, 2, 20)
    landscape, theta = (
        liu_trials._landscape(3, inputs, labels),
        liu_trials.theta_of(weights, outputs),
    )
    asked: Any = {"uniform": True, "given": False, "free": False}
    found, rejected = liu_trials.decide(landscape, theta, (True, True, True), asked)
    np.testing.assert_array_equal(found, [0.0, np.nan, np.nan])
    assert rejected == 0


def test_gap_is_the_largest_share_of_samples_between() -> None:
    """By hand: at bias 20 every unit is the fit's K-th part, so the gap is where the fit is negative."""
    inputs, labels = liu_trials.samples_of(3, 2000, 0)
    weights, _ = liu_trials.draw(np.random.default_rng(0), 10, 3, 20)
    least = liu_trials.LeastSquares.of(inputs, labels, weights)
    rows = liu_trials.augmented(inputs)
    fit = rows @ np.linalg.lstsq(rows, labels, rcond=None)[0]
    assert least.gap == (fit <= 0).mean()
    weights[:, -1] -= 60
    dead = liu_trials.LeastSquares.of(inputs, labels, weights)
    assert (dead.gap, dead.continuous, dead.pattern.any()) == (0.0, True, False)


# --- descents ------------------------------------------------------------------------------------


def by_loop(
    rows: np.ndarray, labels: np.ndarray, weights: np.ndarray, outputs: np.ndarray, steps: int
) -> tuple[int, int]:
    """The paper's descent in weights, one run at a time (23, 24)."""
    w, z, n = weights.copy(), outputs.copy(), len(labels)
    for step in range(steps + 1):
        active = rows @ w.T > 0
        residual = (active * (rows @ w.T)) @ z - labels
        by_product = 2 / n * (residual[:, None] * active).T @ rows
        by_w, by_z = by_product * z[:, None], (by_product * w).sum(axis=1)
        if np.sqrt((by_w**2).sum() + (by_z**2).sum()) < liu_trials.THRESHOLD:
            return liu_trials.TRAPPED, step
        if step == steps:
            return liu_trials.LIMIT, steps
        w, z = w - liu_trials.STEP * by_w, z - liu_trials.STEP * by_z
        if ((rows @ w.T > 0) != active).any():
            return liu_trials.CROSSED, step + 1
    raise AssertionError("unreachable")


@pytest.mark.parametrize(("bias", "step"), [(0.0, 1e-4), (4.0, 1e-3), (-1.5, 1e-2)])
def test_batched_descents_are_a_plain_loops(
    bias: float, step: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liu_trials, "STEP", step)
    inputs, labels = liu_trials.samples_of(2, 8, 3)
    rows, rng = liu_trials.augmented(inputs), np.random.default_rng(1)
    drawn = [liu_trials.draw(rng, 2, 2, bias) for _ in range(30)]
    values = np.stack([rows @ weights.T for weights, _ in drawn])
    outputs = np.stack([one for _, one in drawn])
    found = liu_trials.descend_in_cell(rows @ rows.T, labels, values, outputs, 400)
    expected = [by_loop(rows, labels, *one, 400) for one in drawn]
    np.testing.assert_array_equal(found, expected)
    assert len(set(found[:, 0])) > 1


# --- chords --------------------------------------------------------------------------------------


def test_longest_chords_are_those_of_cells() -> None:
    inputs, labels = liu_trials.samples_of(3, 25, 0)
    rng = np.random.default_rng(2)
    weights, directions = rng.uniform(-0.5, 0.5, (12, 4)), rng.uniform(-1, 1, (250, 4))
    found = liu_trials.longest_chords(liu_trials.augmented(inputs), weights, directions)
    block = Landscape(mlp((3, 1, 1), seed=0), inputs, labels[:, None]).block(0)
    expected = [block.cell(one).chord(one, directions).length.max() for one in weights]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert np.isinf(found).any()
    assert np.isfinite(found).any()


# --- published numbers ---------------------------------------------------------------------------


def test_two_draws_that_differ_speak_against_no_share() -> None:
    for published in (3.0, 50.0, 91.0):
        row = liu_tables._share("continuous", np.array([1.0, 0.0]), published, 100, "")
        assert row.low < published < row.high
        assert row.agrees
    assert not liu_tables._share("continuous", np.ones(20), 60.0, 100, "").agrees


@pytest.mark.paper
def test_table_one_at_small_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Activated, uniform, continuous and P_g; and the bias's own unit of variance, which they need."""
    table = replace(liu.PAPER, experiments=liu.PAPER.experiments[:1])
    monkeypatch.setattr(reproduce, "_paper", lambda name: table)
    result = reproduce.reproduce("liu", tmp_path, scale="small")
    rows = {row.quantity: row for row in result.comparisons[0]}
    published = {name: row for name, row in rows.items() if row.published is not None}
    assert len(published) == 4 * len(liu.BIASES)
    assert [name for name, row in published.items() if not row.agrees] == []
    for name in ("given", "free"):
        assert rows[f"bias 20: genuine, {name} signs"].ours > 80
        assert rows[f"bias 3: genuine, {name} signs"].ours < 20
        assert rows[f"bias 3: genuine, {name} signs"].published is None


def test_activated_share_needs_the_biass_own_variance() -> None:
    """P(w.x + b > 0) at d = 3 and bias 3: 91.95 %, and 93.8 % were the bias exactly 3."""
    found = liu_trials.gaussian(SMALL | {"bias": 3, "runs": 0}, 0)
    assert found["draws"].shape == (0,)
    inputs, _ = liu_trials.samples_of(3, 2000, 0)
    weights, _ = liu_trials.draw(np.random.default_rng(0), 4000, 3, 3)
    rows = liu_trials.augmented(inputs)
    assert 100 * (rows @ weights.T > 0).mean() == pytest.approx(91.95, abs=0.7)
    weights[:, -1] = 3
    assert 100 * (rows @ weights.T > 0).mean() == pytest.approx(93.8, abs=0.7)


def test_probabilities_are_those_of_draws() -> None:
    for panel in liu_theory.PANELS:
        found = liu_theory.curve({"panel": panel, "runs": 1500}, 4)
        assert found["empty"] == pytest.approx(found["expected"], abs=0.05), panel
        assert found["inside"] == pytest.approx(found["union"], abs=0.006), panel
        shifts, paper, union, own = found["curve"]
        assert (union <= paper + 1e-12).all()
        assert (paper <= own + 1e-12).all()
        assert len(shifts) == liu_theory.NUM_SHIFTS


# --- images --------------------------------------------------------------------------------------


def pictures(source: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Bytes like a data set's, with labels 0 to 3 in turn."""
    rng = np.random.default_rng(7)
    images = rng.integers(0, 256, (count, *liu_data.SHAPES[source]), dtype=np.uint8)
    return images, (np.arange(count) % 4).astype(np.uint8)


def write_npz(folder: Path, count: int = 420) -> None:
    for source, name in (("mnist", "mnist_train.npz"), ("cifar", "cifar_train.npz")):
        images, labels = pictures(source, count)
        np.savez(folder / name, x=images, y=labels)


def write_binary(folder: Path, *, packed: bool) -> None:
    images, labels = pictures("mnist", 420)
    for name, array, axes in (("images-idx3", images, 3), ("labels-idx1", labels, 1)):
        lengths = np.array(array.shape, dtype=">u4").tobytes()
        content = bytes([0, 0, 8, axes]) + lengths + array.tobytes()
        end = ".gz" if packed else ""
        path = folder / f"train-{name}-ubyte{end}"
        path.write_bytes(gzip.compress(content) if packed else content)
    images, labels = pictures("cifar", 420)
    flat = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    (folder / "data_batch_1.bin").write_bytes(np.hstack([labels[:, None], flat]).tobytes())


@pytest.mark.parametrize("packed", [False, True])
def test_binary_files_are_the_npz(tmp_path: Path, packed: bool) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    write_npz(tmp_path / "a")
    write_binary(tmp_path / "b", packed=packed)
    for source in liu_data.SHAPES:
        first, second = (liu_data.fingerprint(str(tmp_path / name), source) for name in "ab")
        assert first == second
        inputs, labels = liu_data.pair_of(str(tmp_path / "b"), source, first[0])
        images, classes = pictures(source, 420)
        assert inputs.shape == (200, images[0].size // (3 if source == "cifar" else 1))
        assert (labels == np.repeat([1, -1], 100)).all()
        one = images[classes == 1][3] / 255
        grey = one @ [0.2989, 0.5870, 0.1140] if source == "cifar" else one
        np.testing.assert_allclose(inputs[103], grey.ravel())


def test_tables_of_images_from_a_folder(tmp_path: Path) -> None:
    write_npz(tmp_path)
    out = tmp_path / "out"
    result = reproduce.reproduce("liu", out, scale="smoke", trials=2, data_dir=tmp_path)
    keys = [experiment.key for experiment in result.paper.experiments]
    assert keys == ["table1", "table2", "table3", "table4", "table5", "table6", "theory"]
    assert "The MNIST file has 420 images" in result.summary()
    for rows in result.comparisons[3:5]:
        said = {row.quantity: row for row in rows}
        ends = ("trapped in its cell", "descent left its cell", "neither before the step limit")
        assert sum(said[f"bias 20: {end}"].ours for end in ends) == pytest.approx(100)
        assert "proves nothing" in said["bias 20: trapped in its cell"].note
        assert said["bias 20: genuine, uniform signs"].ours == 0
        assert said["bias 20: genuine, free signs"].ours == 100
    page = result.report.read_text()
    assert "Table V: CIFAR-10" in page


def test_images_that_have_changed_are_noticed(tmp_path: Path) -> None:
    write_npz(tmp_path)
    with pytest.raises(InputError, match="have changed"):
        liu_data.pair_of(str(tmp_path), "mnist", "0" * 64)


def damaged(folder: Path, what: str) -> Path:
    """A folder that cannot be used."""
    if what == "missing":
        return folder / "nowhere"
    if what == "pickled":
        np.savez(folder / "mnist_train.npz", x=np.array([{}, {}], dtype=object), y=np.arange(2))
    elif what == "short":
        np.savez(folder / "mnist_train.npz", x=pictures("mnist", 40)[0], y=pictures("mnist", 40)[1])
    elif what == "floats":
        np.savez(folder / "mnist_train.npz", x=np.zeros((300, 28, 28)), y=np.arange(300) % 2)
    elif what == "shape":
        np.savez(folder / "mnist_train.npz", x=np.zeros((300, 9), np.uint8), y=np.arange(300) % 2)
    elif what == "magic":
        (folder / "train-images-idx3-ubyte").write_bytes(b"not an IDX file at all")
    elif what == "cut":
        write_binary(folder, packed=False)
        path = folder / "train-images-idx3-ubyte"
        path.write_bytes(path.read_bytes()[:-5])
    elif what == "packed":
        (folder / "train-images-idx3-ubyte.gz").write_bytes(b"not gzip")
    elif what == "lonely":
        write_binary(folder, packed=False)
        (folder / "train-labels-idx1-ubyte").unlink()
    elif what == "batch":
        (folder / "data_batch_1.bin").write_bytes(b"12345")
    return folder


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("missing", "expected a folder with images"),
        ("empty", "has no MNIST or CIFAR-10 images"),
        ("pickled", "pickled objects, which are never loaded"),
        ("short", "must hold 100 images of label 0; received 10"),
        ("floats", "must hold bytes"),
        ("shape", "as many labels as images"),
        ("magic", "is no IDX file"),
        ("cut", "must hold 329280 values; received 329275"),
        ("packed", "cannot be read"),
        ("lonely", "cannot be read"),
        ("batch", "must be a batch of 3073 bytes each"),
    ],
)
def test_bad_folders_are_one_line(what: str, expected: str, tmp_path: Path) -> None:
    folder = damaged(tmp_path, what)
    result = invoke("reproduce", "liu", "--out", tmp_path / "out", "--data-dir", folder)
    assert result.exit_code == 2
    assert expected in result.stderr
    assert result.stderr.strip().count("\n") == 0


def test_papers_without_data_say_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="hinz has no experiment that needs data"):
        reproduce.reproduce("hinz", tmp_path, data_dir=tmp_path)


# --- the command and the docs --------------------------------------------------------------------


def test_smallest_run_of_the_command(tmp_path: Path) -> None:
    arguments = ("reproduce", "liu", "--scale", "smoke", "--jobs", 1, "--out", tmp_path)
    first = invoke(*arguments)
    assert first.exit_code == 0, first.output
    assert "Tables IV and V and the rows of table VI for images are left out" in first.stdout
    assert "2 of 2 draws were not asked or are undecided for free signs" in first.stdout
    before = (tmp_path / "liu.csv").read_bytes()
    again = invoke(*arguments, "--json")
    assert (tmp_path / "liu.csv").read_bytes() == before
    rows = {row["quantity"]: row for row in json.loads(again.stdout)["rows"]}
    assert rows["Gaussian (d = 3), N = 2000: chord / |w|"]["published"] is None
    assert rows["Gaussian (d = 3), N = 2000: longest chord"]["published"] == 0.009
    page = (tmp_path / "liu.html").read_text()
    for text in ("Table III", "liu-theory-2e", "give --data-dir FOLDER", "first half is -1"):
        assert text in page


def test_witness_of_the_docs_is_one() -> None:
    """The code blocks of docs/liu.md run as they stand, with NumPy alone."""
    page = (Path(__file__).parents[1] / "docs" / "liu.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/liu.md", "exec"), names)
    inputs, z, w = names["x"][:, :-1], names["z"], names["w"]
    landscape = liu_trials._landscape(10, inputs, names["y"])
    theta = liu_trials.theta_of(w, z)
    assert np.abs(landscape.gradient(theta)[:-1]).max() < 1e-12
    uniform, free = (cell_minimum(landscape, theta, signs=s) for s in ("uniform", "free"))  # type: ignore[arg-type]
    assert (uniform.genuine, free.genuine) == (False, True)
    assert free.loss == pytest.approx(names["loss"])
    searched = cell_minimum(landscape, theta, search=10)
    assert searched.bad
    assert searched.better_loss < 0.495 < searched.loss
    model = landscape.module_at()
    torch.nn.utils.vector_to_parameters(torch.from_numpy(searched.better), model.parameters())
    with torch.no_grad():
        residuals = model(torch.from_numpy(inputs))[:, 0].numpy() - names["y"]
    assert (residuals**2).mean() == pytest.approx(searched.better_loss)
