"""Polishing trained networks: every layer at a certified minimum, weights that load again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import dense
from sklearn.datasets import load_diabetes, load_digits, load_wine
from torch import nn
from typer.testing import CliRunner

import reluscape as rs
from reluscape import cli, cli_descend
from reluscape.descent.polish import MAX_SWEEPS
from reluscape.weights import read_state


def landscape(widths: tuple[int, ...], *, seed: int = 0, samples: int = 60) -> rs.Landscape:
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(samples, widths[0]))
    targets = np.sin(inputs @ rng.normal(size=(widths[0], widths[-1])))
    return rs.Landscape(dense(widths, seed=seed), inputs, targets, loss="l1")


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_no_layer_can_be_lowered_any_more(seed: int) -> None:
    """Nothing falls by more than rounding; what other layers' descents have put to zero stays zero to
    rounding only, and more kinks than a layer can hold independent, so not every block is certified."""
    start = landscape((3, 4, 3, 1), seed=seed)
    result = rs.polish(start, max_sweeps=300)
    assert result.sweeps < 300
    assert result.loss < result.start == start.loss()
    assert set(result.certificates) == set(start.layers)
    for certificate in result.certificates.values():
        assert rs.verify(certificate, result.landscape).valid
    again = rs.polish(result.landscape)
    assert again.loss >= result.loss * (1 - 1e-9)
    rng = np.random.default_rng(0)
    for layer in start.layers:
        block = result.landscape.block(layer)
        steps = 1e-5 * rng.normal(size=(300, block.size))
        assert min(block.loss(block.theta + step) for step in steps) >= result.loss - 1e-12


def test_one_layer_ends_certified() -> None:
    start = landscape((3, 4, 1), seed=3)
    result = rs.polish(start, [0])
    assert result.certified
    assert rs.verify(result.certificates["0"], result.landscape).valid
    assert not rs.verify(result.certificates["0"], start).valid  # it is about the final weights


def test_the_start_is_left_alone() -> None:
    start = landscape((3, 4, 1))
    before = start.theta
    rs.polish(start, [0])
    np.testing.assert_array_equal(start.theta, before)


REAL = {
    "digits": lambda: (load_digits().data[:400], load_digits().target[:400] % 2),
    "diabetes": lambda: load_diabetes(return_X_y=True, scaled=False),
    "wine": lambda: load_wine(return_X_y=True),
}


@pytest.mark.parametrize("name", REAL)
def test_real_data_as_they_are(name: str) -> None:
    """Constant pixels, integer ties, columns of very different size: a status and no rise, always."""
    inputs, targets = REAL[name]()
    model = dense((inputs.shape[1], 3, 1), seed=1)
    first = model[0]
    with torch.no_grad():
        first.weight.div_(torch.as_tensor(np.abs(inputs).max()) * inputs.shape[1] ** 0.5)
    start = rs.Landscape(model, inputs, targets.astype(float), loss="l1")
    descent = rs.descend(start.block(0), max_pivots=1500)
    assert (np.diff(descent.losses) <= 0).all()
    assert descent.loss < start.loss()
    assert descent.status in {"strict_minimum", "minimum", "undecided", "max_pivots"}
    assert rs.verify(descent.certificate, start).valid


def test_command_writes_weights_that_load_and_certificates_that_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    torch.save(model.state_dict(), "mlp.pt")
    rng = np.random.default_rng(2)
    inputs = rng.normal(size=(40, 2))
    np.savez("mine.npz", x=inputs, y=np.abs(inputs[:, 0]))
    arguments = ["descend", "--weights", "mlp.pt", "--data", "mine.npz", "--layers", "all"]
    result = CliRunner().invoke(cli.app, [*arguments, "--out", "r", "--json"])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["loss"] < record["start"]
    model.double().load_state_dict(read_state(Path("r/polished.safetensors")))
    outputs = model(torch.tensor(inputs)).detach().numpy()[:, 0]
    assert np.abs(outputs - np.abs(inputs[:, 0])).mean() == pytest.approx(record["loss"])
    for file in Path("r").glob("*.json"):
        checked = CliRunner().invoke(
            cli.app,
            ["verify", str(file), "--weights", "r/polished.safetensors", "--data", "mine.npz"],
        )
        assert checked.exit_code == 0, checked.output
    assert len(list(Path("r").glob("*.json"))) == 2


def test_command_help_has_an_example() -> None:
    result = CliRunner().invoke(cli.app, ["descend", "--help"])
    assert "Example: reluscape descend" in result.stdout


# ---- what goes wrong on the way ------------------------------------------------------------------


def break_off(after: int, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Make every descent but the first `after` ones raise."""
    from reluscape.descent import polish

    taken: list[str] = []

    def descend(block: rs.Block, **options: object) -> rs.Descent:
        taken.append(block.layer)
        if len(taken) > after:
            raise error
        return rs.descend(block, **options)

    monkeypatch.setattr(sys.modules[polish.__module__], "descend", descend)


@pytest.mark.parametrize(
    ("error", "told"),
    [(rs.AnalysisError("it broke"), "it broke"), (IndexError("3"), "IndexError: 3")],
)
def test_an_error_on_the_way_keeps_what_was_done(
    error: Exception, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    break_off(4, monkeypatch, error)
    result = rs.polish(landscape((3, 4, 3, 1)))
    assert (result.ending, result.failure) == ("failed", told)
    assert len(result.legs) == 4
    assert result.loss < result.start
    for certificate in result.certificates.values():
        assert rs.verify(certificate, result.landscape).valid
    assert f"an error ended it: {told}; go on from these weights" in result.summary()
    again = rs.Polish.load(result.save(tmp_path / "results.nc"))
    assert (again.failure, again.ending) == (told, "failed")


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, full_disk: Any) -> None:
    result = rs.polish(landscape((1, 3, 1)), [0])
    earlier = result.save(tmp_path / "results.nc").read_bytes()
    with (
        full_disk(len(earlier) // 2),
        pytest.raises(OSError, match=r"File too large: .*results\.nc'"),
    ):
        result.save(tmp_path / "results.nc")
    assert (tmp_path / "results.nc").read_bytes() == earlier
    assert [path.name for path in tmp_path.iterdir()] == ["results.nc"]


def test_an_error_before_anything_is_done_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    break_off(0, monkeypatch, rs.AnalysisError("it broke"))
    with pytest.raises(rs.AnalysisError, match="it broke"):
        rs.polish(landscape((3, 4, 1)))


def test_a_layer_that_cannot_be_certified_costs_its_certificate_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from reluscape.descent import polish

    module = sys.modules[polish.__module__]
    plain = module._certified

    def certified(block: rs.Block, arithmetic: str) -> rs.Certificate:
        if block.layer == "0":
            raise rs.AnalysisError("no memory")
        return plain(block, arithmetic)

    monkeypatch.setattr(module, "_certified", certified)
    result = rs.polish(landscape((3, 4, 1)), max_sweeps=1)
    assert (result.ending, result.failure) == ("failed", "no memory")
    assert set(result.certificates) == {"2"}
    assert not result.certified


@pytest.mark.parametrize("name", ["progress", "keep"])
def test_errors_of_the_callers_own_functions_are_raised(name: str) -> None:
    calls: list[object] = []

    def raises(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 3:
            raise RuntimeError("my own")

    with pytest.raises(RuntimeError, match="my own"):
        rs.polish(landscape((3, 4, 3, 1)), **{name: raises})


def test_command_keeps_what_was_done_before_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    torch.save(model.state_dict(), "mlp.pt")
    inputs = np.random.default_rng(2).normal(size=(40, 2))
    np.savez("mine.npz", x=inputs, y=np.abs(inputs[:, 0]))
    common = ["--data", "mine.npz", "--layers", "all", "--out", "r", "--json"]
    with monkeypatch.context() as patch:
        break_off(3, patch, rs.AnalysisError("it broke"))
        first = CliRunner().invoke(cli.app, ["descend", "--weights", "mlp.pt", *common])
    assert first.exit_code == 1
    last = first.stderr.splitlines()[-1]
    assert last.startswith("error: it broke; what was reached is kept: the same command")
    record = json.loads(first.stdout)
    assert (record["complete"], record["failure"]) == (False, "it broke")
    assert "An error stopped the descent: it broke." in Path("r/report.html").read_text()
    onward = ["descend", "--weights", "r/polished.safetensors", *common]
    second = CliRunner().invoke(cli.app, onward)
    assert second.exit_code == 0, second.output
    assert json.loads(second.stdout)["start"] == pytest.approx(record["loss"], rel=1e-12)


# ---- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"layers": "0"}, r"layers must be a list of names or indices; received '0': pass \['0'\]"),
        ({"layers": 0}, r"layers must be a list .* pass \[0\]"),
        ({"layers": [7]}, "layer must be an index"),
        ({"rule": "longstep"}, "rule must be one of"),
        ({"max_pivots": 1.5}, r"max_pivots must be a whole number of at least 1; received 1\.5"),
        ({"max_sweeps": 2.5}, "max_sweeps must be a whole number"),
        ({"max_sweeps": True}, "max_sweeps must be a whole number"),
        ({"seed": -1}, "seed must be a whole number of at least 0; received -1"),
        ({"seed": "a"}, "seed must be a whole number"),
        ({"arithmetic": "exact"}, "arithmetic"),
        ({"progress": 3}, "progress must be a function or None; received 3"),
        ({"keep": "a"}, "keep must be a function"),
    ],
)
def test_bad_options_are_refused_before_any_work(
    options: dict[str, object], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off(0, monkeypatch, AssertionError())
    with pytest.raises(rs.InputError, match=expected):
        rs.polish(landscape((3, 4, 1)), **options)
    with pytest.raises(
        rs.InputError, match="polish needs a Landscape, all layers at once; received Block"
    ):
        rs.polish(landscape((3, 4, 1)).block(0))


@pytest.mark.parametrize(
    ("layers", "names"),
    [("0,4", ("0", "4")), ("4, 0", ("4", "0")), ("-1", ("4",)), ("0,0", ("0",))],
)
def test_command_takes_several_layers(
    layers: str, names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
    torch.save(model.state_dict(), "mlp.pt")
    inputs = np.random.default_rng(2).normal(size=(20, 2))
    np.savez("mine.npz", x=inputs, y=np.abs(inputs[:, 0]))
    common = ["descend", "--weights", "mlp.pt", "--data", "mine.npz", "--max-sweeps", "2"]
    result = CliRunner().invoke(cli.app, [*common, "--layers", layers, "--json"])
    assert result.exit_code == 0, result.output
    assert tuple(json.loads(result.stdout)["claims"]) == names
    wrong = CliRunner().invoke(cli.app, [*common, "--layers", "0,9"])
    assert wrong.exit_code == 2
    assert "received 9" in wrong.stderr


def test_the_command_sweeps_as_often_as_the_library() -> None:
    from inspect import signature

    for function in (rs.polish, cli_descend.descend):
        assert signature(function).parameters["max_sweeps"].default == MAX_SWEEPS
