"""`reluscape minima`: what it says, what it writes, and how `verify` takes it."""

import inspect
import json
import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_cli import files, invoke, refusal
from torch import nn

from reluscape import progress
from reluscape.cli_minima import ASKED, SignsName, minima
from reluscape.minima.result import SIGNS, CellMinimum
from reluscape.minima_files import SEARCH
from reluscape.train import mlp

LOSSES = {"squared": nn.functional.mse_loss, "cross_entropy": nn.functional.cross_entropy}


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A network whose cell holds a minimum with free signs: 10 samples of 12 inputs, and others."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(10, 12))
    np.savez(tmp_path / "wide.npz", x=x, y=np.sin(x[:, 0]))
    save_file(mlp((12, 4, 1), seed=2).state_dict(), tmp_path / "wide.safetensors")
    x = rng.normal(size=(40, 3))
    np.savez(tmp_path / "mine.npz", x=x, y=np.sin(x[:, 0]))
    np.savez(tmp_path / "classes.npz", x=x, y=rng.integers(0, 3, 40))
    save_file(mlp((3, 6, 6, 1), seed=2).state_dict(), tmp_path / "deep.safetensors")
    save_file(mlp((3, 6, 3), seed=2).state_dict(), tmp_path / "classifier.safetensors")
    return tmp_path


def subject(folder: Path, weights: str, data: str) -> tuple[object, ...]:
    return ("--weights", folder / f"{weights}.safetensors", "--data", folder / f"{data}.npz")


def wide(folder: Path) -> tuple[object, ...]:
    return subject(folder, "wide", "wide")


def signs_of(model: nn.Sequential, x: torch.Tensor) -> list[torch.Tensor]:
    found = []
    for part in model:
        if isinstance(part, nn.ReLU):
            found.append(x > 0)
        x = part(x)
    return found


def gradients(model: nn.Sequential, data: Path, loss: str) -> tuple[float, list[torch.Tensor]]:
    """Plain PyTorch's loss and gradients."""
    with np.load(data) as file:
        x, y = torch.from_numpy(file["x"]), torch.from_numpy(file["y"])
    outputs = model(x)
    value = LOSSES[loss](outputs, y[:, None] if loss == "squared" else y)
    return value.item(), list(torch.autograd.grad(value, list(model.parameters())))


def test_conventions_are_those_of_the_library() -> None:
    assert tuple(SignsName) == (*SIGNS, "all")
    assert sorted(ASKED) == sorted(SIGNS)
    assert ASKED[-1] == "free"  # the only one that may have to go through many choices


def test_the_search_is_that_of_the_survey() -> None:
    assert inspect.signature(minima).parameters["search"].default == SEARCH


def test_bad_minima_are_told_with_the_loss_that_shows_it(mine: Path) -> None:
    """All four units active everywhere are one linear function, which four units surpass."""
    state = load_file(mine / "deep.safetensors")
    state = {"0.weight": state["0.weight"][:4].clone(), "0.bias": torch.full((4,), 50.0)}
    state |= {"2.weight": torch.tensor([[1.0, -1.0, 1.0, -1.0]]), "2.bias": torch.zeros(1)}
    save_file(state, mine / "linear.safetensors")
    given = (*subject(mine, "linear", "mine"), "--signs", "free")
    result = invoke("minima", *given, "--out", mine / "r")
    assert "bad: a lower loss is attained elsewhere, " in result.stdout
    assert invoke("verify", mine / "r" / "minimum-free.nc", *given[:-2]).exit_code == 0
    model = mlp((3, 4, 1), seed=0).double()
    losses = {}
    for name in ("minimum", "better"):
        model.load_state_dict(load_file(mine / "r" / f"{name}-free.safetensors"))
        losses[name] = gradients(model, mine / "mine.npz", "squared")[0]
    (record,) = json.loads(invoke("minima", *given, "--json").stdout)["minima"]
    assert (record["bad"], record["loss"]) == (True, pytest.approx(losses["minimum"]))
    assert record["better_loss"] == pytest.approx(losses["better"])
    assert losses["better"] < losses["minimum"]
    result = invoke("minima", *given, "--search", 0)
    assert "not known whether it is bad: none of 0 descents" in result.stdout


def test_a_whole_network_under_each_convention(mine: Path) -> None:
    result = invoke("minima", *wide(mine), "--out", mine / "r")
    assert result.exit_code == 0, result.output
    title, *rows = (line.split() for line in result.stdout.splitlines()[:4])
    assert title[:4] == ["output", "weights", "genuine", "minimum"]
    assert [row[:2] for row in rows] == [["given", "no"], ["uniform", "no"], ["free", "yes"]]
    assert f"written: {mine / 'r' / 'minimum-free.safetensors'}" in result.stdout
    answers = {f"minimum-{signs}.nc" for signs in SIGNS}
    assert files(mine / "r") == answers | {"minimum-free.safetensors", "better-free.safetensors"}
    for name in answers:
        checked = invoke("verify", mine / "r" / name, *wide(mine))
        assert checked.exit_code == 0, checked.output
        assert checked.stdout.startswith("valid: recomputed")


def test_the_minimum_holds_in_plain_pytorch(mine: Path) -> None:
    """Loaded into the user's module: the same signs, a gradient of zero, and a lower loss elsewhere."""
    assert invoke("minima", *wide(mine), "--signs", "free", "--out", mine / "r").exit_code == 0
    answer = CellMinimum.load(mine / "r" / "minimum-free.nc")
    model, start = mlp((12, 4, 1), seed=0).double(), mlp((12, 4, 1), seed=0).double()
    start.load_state_dict(load_file(mine / "wide.safetensors"))
    model.load_state_dict(load_file(mine / "r" / "minimum-free.safetensors"))
    loss, found = gradients(model, mine / "wide.npz", "squared")
    assert loss == pytest.approx(answer.loss, rel=1e-9)
    assert max(float(one.abs().max()) for one in found[:3]) < 1e-12  # all but the output bias
    x = torch.from_numpy(np.load(mine / "wide.npz")["x"])
    pairs = zip(signs_of(model, x), signs_of(start, x), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    model.load_state_dict(load_file(mine / "r" / "better-free.safetensors"))
    assert gradients(model, mine / "wide.npz", "squared")[0] < loss


@pytest.mark.parametrize(
    ("weights", "data", "widths", "loss"),
    [
        ("deep", "mine", (3, 6, 6, 1), "squared"),
        ("classifier", "classes", (3, 6, 3), "cross_entropy"),
    ],
)
def test_layers_where_the_whole_cannot_be_asked(
    mine: Path, weights: str, data: str, widths: tuple[int, ...], loss: str
) -> None:
    given = subject(mine, weights, data)
    result = invoke("minima", *given, "--out", mine / "r")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("every layer alone, the others fixed: output weights can be")
    names = [str(2 * place) for place in range(len(widths) - 1)]
    assert {f"layer-{name}.nc" for name in names} <= files(mine / "r")
    for name in names:
        checked = invoke("verify", mine / "r" / f"layer-{name}.nc", *given)
        assert checked.exit_code == 0, checked.output
    model = mlp(widths, seed=0).double()
    model.load_state_dict(load_file(mine / "r" / f"layer-{names[-1]}.safetensors"))
    found = gradients(model, mine / f"{data}.npz", loss)[1]
    assert max(float(one.abs().max()) for one in found[-2:]) < 1e-10


def test_one_layer_and_json(mine: Path) -> None:
    result = invoke("minima", *wide(mine), "--layer", "0", "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    (only,) = record["minima"]
    assert (only["layer"], only["convention"], only["files"]) == ("0", "block", [])
    assert only["loss"] <= record["loss"]
    everything = json.loads(invoke("minima", *wide(mine), "--json").stdout)
    assert [one["genuine"] for one in everything["minima"]] == [False, False, True]
    assert everything["minima"][2]["signs"] is not None
    assert everything["layers_because"] is None


def test_json_has_no_numbers_that_json_lacks(mine: Path) -> None:
    given = subject(mine, "classifier", "classes")
    np.savez(mine / "classes.npz", x=np.eye(3), y=np.arange(3))  # separable: the loss falls forever
    result = invoke("minima", *given, "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout, parse_constant=lambda name: pytest.fail(name))
    assert [one["loss"] for one in record["minima"]][-1] is None
    assert "falls forever" in invoke("minima", *given).stdout


def test_verify_rejects_other_weights_and_changed_files(mine: Path) -> None:
    assert invoke("minima", *wide(mine), "--out", mine / "r").exit_code == 0
    file = mine / "r" / "minimum-free.nc"

    def rejected(*arguments: object) -> str:
        result = invoke("verify", *arguments)
        assert result.exit_code == 1, result.output
        assert result.stdout.startswith("rejected: ")
        assert result.stdout.count("\n") == 1
        return result.stdout

    save_file(mlp((12, 4, 1), seed=5).state_dict(), mine / "other.safetensors")
    assert "other weights" in rejected(file, *subject(mine, "other", "wide"))
    assert "the loss 'squared'" in rejected(file, *wide(mine), "--loss", "half_squared")
    assert "no weight decay" in rejected(file, *wide(mine), "--weight-decay", "0.1")
    answer = CellMinimum.load(file)
    for change in (
        {"loss": 0.0},
        {"objective": "hinge"},
        {"layer": "9"},
        {"theta": 2 * answer.theta},
    ):
        changed(answer, **change).save(mine / "changed.nc")
        rejected(mine / "changed.nc", *wide(mine))
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:8], whole[:8] + b"0" * 500):
        (mine / "cut.nc").write_bytes(content)
        assert "expected a NetCDF file" in rejected(mine / "cut.nc", *wide(mine))


def changed(answer: CellMinimum, **change: object) -> CellMinimum:
    from dataclasses import replace

    return replace(answer, **change)  # type: ignore[arg-type]


def test_bad_input_is_one_line(mine: Path) -> None:
    given = wide(mine)
    assert "leave it or --layer 0 out" in refusal(
        "minima", *given, "--layer", "0", "--signs", "free"
    )
    assert "without weight decay" in refusal("minima", *given, "--weight-decay", "0.1")
    deep = subject(mine, "deep", "mine")
    assert "one hidden layer and one output" in refusal("minima", *deep, "--signs", "given")
    assert "layer must be one of" in refusal("minima", *given, "--layer", "fc9")
    assert "give --weights or --model, and --data" in refusal("minima")
    assert "'--signs': 'some' is not one of" in refusal("minima", *given, "--signs", "some")
    (mine / "file").write_text("")
    assert "can be written to" in refusal("minima", *given, "--out", mine / "file" / "r")


def test_output_weights_of_zero_have_no_given_signs(mine: Path) -> None:
    state = load_file(mine / "wide.safetensors")
    state["2.weight"][0, 1] = 0.0
    save_file(state, mine / "wide.safetensors")
    assert "not zero; received zero for unit 1" in refusal(
        "minima", *wide(mine), "--signs", "given"
    )
    result = invoke("minima", *wide(mine), "--json")
    assert result.exit_code == 0, result.output
    given, uniform, free = json.loads(result.stdout)["minima"]
    assert free["genuine"] is not None
    assert uniform["genuine"] is not None
    assert "received zero for unit 1" in given["error"]
    assert "not answered" in invoke("minima", *wide(mine)).stdout


def test_a_module_that_cannot_be_read_says_so(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
from torch import nn
def smooth():
    return nn.Sequential(nn.Linear(12, 2), nn.Tanh(), nn.Linear(2, 1), nn.Softplus())
"""
    (mine / "minima_models_of_test.py").write_text(code)
    monkeypatch.chdir(mine)
    refusal("minima", "--model", "minima_models_of_test:smooth", "--data", "wide.npz")


def test_kinks_at_zero_are_told(mine: Path) -> None:
    state = load_file(mine / "wide.safetensors")
    state["0.weight"][0], state["0.bias"][0] = 0.0, 0.0
    save_file(state, mine / "wide.safetensors")
    result = invoke("minima", *wide(mine), "--signs", "free")
    assert result.exit_code == 0, result.output
    assert "10 kinks are zero at the weights and count as negative" in result.stdout
    assert math.isfinite(json.loads(invoke("minima", *wide(mine), "--json").stdout)["loss"])


@pytest.mark.parametrize("place", [0, 1, 2])
def test_ctrl_c_leaves_the_answers_so_far(
    place: int, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pressed: list[str] = []

    @contextmanager
    def pressing() -> Iterator[progress.Progress]:
        def watch(what: str, fraction: float) -> None:
            if what.startswith(ASKED[place]) and not pressed:
                pressed.append(what)
                signal.raise_signal(signal.SIGINT)

        yield watch

    monkeypatch.setattr(progress, "shown", pressing)
    stopped = invoke("minima", *wide(mine), "--out", tmp_path / "r", "--json")
    assert stopped.exit_code == 130, stopped.output
    answers = json.loads(stopped.stdout)["minima"]
    assert [one.get("error") for one in answers] == [None] * place + ["interrupted"] * (3 - place)
    assert all(Path(file).is_file() for one in answers[:place] for file in one["files"])
    assert len(list((tmp_path / "r").glob("*.nc"))) == place
