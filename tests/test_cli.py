"""The command line: what it prints, what it writes, and how it refuses."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner, Result

from reluscape import cli, losses, progress
from reluscape.train import mlp

RNG = np.random.default_rng(3)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def refusal(*arguments: object, code: int = 2) -> str:
    result = invoke(*arguments)
    assert result.exit_code == code, result.output
    assert "report" not in result.stdout
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    x = RNG.normal(size=(30, 3))
    np.savez(tmp_path / "mine.npz", x=x, y=np.sin(x[:, 0]))
    save_file(mlp((3, 4, 1), seed=2).state_dict(), tmp_path / "mlp.safetensors")
    torch.save(mlp((3, 4, 1), seed=3).state_dict(), tmp_path / "other.pt")
    return tmp_path


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# --- help and start -----------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["", "survey", "certify", "verify", "minima", "convexity"])
def test_help_has_an_example(command: str) -> None:
    result = invoke(*command.split(), "--help")
    assert result.exit_code == 0
    assert f"Example: reluscape {command or 'survey'}" in result.stdout


def test_version() -> None:
    assert re.fullmatch(r"reluscape \d+\.\d+\.\d+\n", invoke("--version").stdout)


def test_nothing_heavy_is_imported_at_start() -> None:
    heavy = "{'torch', 'numpy', 'scipy', 'sklearn', 'xarray', 'plotly'}"
    code = f"import sys, reluscape.cli; sys.exit(str({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "set()"


def test_losses_are_those_of_the_library() -> None:
    assert tuple(cli.LossName) == losses.LOSSES


# --- the main job -------------------------------------------------------------------------------


def test_survey_of_saved_weights(mine: Path) -> None:
    out = mine / "r"
    result = invoke(
        "survey", "--weights", mine / "mlp.safetensors", "--data", mine / "mine.npz", "--out", out
    )
    assert result.exit_code == 0, result.output
    assert "loss: squared (the default for regression targets)" in result.stdout
    assert f"report: {out / 'report.html'}" in result.stdout
    assert "whole network" in result.stdout
    written = files(out)
    assert {"report.html", "results.nc"} <= written
    assert sum(name.startswith("certificates/") for name in written) == 3
    assert not any(name.endswith(".tmp") for name in written)


def test_survey_of_two_models_as_json(mine: Path) -> None:
    result = invoke(
        "survey",
        *("--weights", mine / "mlp.safetensors", "--weights", mine / "other.pt"),
        *("--data", mine / "mine.npz", "--loss", "l1", "--out", mine / "r", "--json"),
    )
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["complete"] is True
    assert record["loss"] == "l1"
    assert Path(record["report"]).is_file()
    assert len(record["verdicts"]) == 7  # two models, each as a whole and two layers, and the pair


def test_survey_trains_two_networks_without_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reluscape.subjects.STEPS", 200)
    x = np.random.default_rng(0).normal(size=(40, 2))
    np.savez(tmp_path / "a.npz", x=x, y=(x[:, 0] > 0).astype(int))
    result = invoke("survey", "--data", tmp_path / "a.npz", "--out", tmp_path / "r", "--seed", 4)
    assert result.exit_code == 0, result.output
    assert "loss: cross_entropy (the default for class labels)" in result.stdout
    assert "seed 4, whole network" in result.stdout
    assert "seed 5, whole network" in result.stdout


def test_survey_flattens_images_for_a_plain_network(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 255, size=(20, 2, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(20) % 2)
    torch.save(mlp((6, 3, 2), seed=0).state_dict(), tmp_path / "w.pt")
    options = ("--weights", tmp_path / "w.pt", "--data", tmp_path / "a.npz")
    result = invoke("survey", *options, "--out", tmp_path / "r")
    assert result.exit_code == 0, result.output


def test_survey_of_a_factory_and_of_regression(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
import torch
from torch import nn
def small():
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(), nn.Linear(4, 1))
    for p in model.parameters():
        nn.init.normal_(p, generator=generator)
    return model
"""
    (mine / "cli_models_of_test.py").write_text(code)
    monkeypatch.chdir(mine)
    options = ("--data", "mine.npz", "--out", "r", "--layer", "0")
    result = invoke("survey", "--model", "cli_models_of_test:small", *options)
    assert result.exit_code == 0, result.output
    assert "cli_models_of_test:small, whole network" in result.stdout
    monkeypatch.setattr("reluscape.subjects.STEPS", 100)
    trained = invoke("survey", "--data", "mine.npz", "--out", "t")
    assert trained.exit_code == 0, trained.output
    assert "seed 1, whole network" in trained.stdout


def test_two_classes_and_one_output_use_squared(mine: Path) -> None:
    np.savez(mine / "two.npz", x=RNG.normal(size=(9, 3)), y=np.arange(9) % 2)
    options = ("--weights", mine / "mlp.safetensors", "--data", mine / "two.npz")
    result = invoke("survey", *options, "--out", mine / "r")
    assert "loss: squared (the default for one output)" in result.stdout
    assert result.exit_code == 0


def test_diverged_training_is_a_failed_analysis(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reluscape.subjects.RATE", 1e200)
    options = ("--data", mine / "mine.npz", "--out", mine / "r")
    assert "lower the rate" in refusal("survey", *options, code=1)


# --- certify and verify -------------------------------------------------------------------------


def test_certify_then_verify(mine: Path) -> None:
    subject = ("--weights", mine / "mlp.safetensors", "--data", mine / "mine.npz")
    made = invoke(
        *("certify", *subject, "--layer", "all", "--out", mine / "certs"),
        *("--loss", "l1", "--weight-decay", "0.01"),
    )
    assert made.exit_code == 0, made.output
    assert files(mine / "certs") == {"layer-0.json", "layer-2.json"}
    good = invoke("verify", mine / "certs" / "layer-0.json", *subject)
    assert good.exit_code == 0, good.output
    assert good.stdout.startswith("valid: ")
    other = ("--weights", mine / "other.pt", "--data", mine / "mine.npz")
    bad = invoke("verify", mine / "certs" / "layer-0.json", *other)
    assert bad.exit_code == 1
    assert bad.stdout.startswith("rejected: ")
    record = json.loads(invoke("verify", mine / "certs" / "layer-0.json", *other, "--json").stdout)
    assert record["valid"] is False


@pytest.mark.parametrize(
    "change", [{"loss": "hinge"}, {"weight_decay": -1.0}, {"claim": "best"}, {"theta": "x"}]
)
def test_verify_rejects_what_is_no_certificate(mine: Path, change: dict[str, object]) -> None:
    subject = ("--weights", mine / "mlp.safetensors", "--data", mine / "mine.npz")
    file = mine / "c.json"
    assert invoke("certify", *subject, "--out", file).exit_code == 0
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    result = invoke("verify", file, *subject)
    assert result.exit_code == 1
    assert result.stdout.startswith("rejected: ")


def test_certify_json_is_one_object(mine: Path) -> None:
    subject = ("--weights", mine / "mlp.safetensors", "--data", mine / "mine.npz")
    result = invoke("certify", *subject, "--json")
    (record,) = json.loads(result.stdout)["certificates"]
    assert record["file"] is None
    assert record["claim"] in ("not_stationary", "undecided")


def test_certificate_options_that_do_not_go_together(mine: Path) -> None:
    subject = ("--weights", mine / "mlp.safetensors", "--data", mine / "mine.npz")
    text = refusal("certify", *subject, "--layer", "all", "--out", mine / "c.json")
    assert "give a folder" in text
    assert "layer must be one of '0', '2'" in refusal("certify", *subject, "--layer", "fc9")
    assert "give --weights or --model, and --data" in refusal("certify")
    assert "found none at" in refusal("verify", mine / "no.json", *subject)


# --- bad input ----------------------------------------------------------------------------------

X = np.arange(12.0).reshape(4, 3)
Y = np.array([0.5, 1, 2, 3])
BAD_DATA = {
    "nan": ({"x": np.where(X == 4, np.nan, X), "y": Y}, "(nan) at row 1, column 1"),
    "inf": ({"x": X, "y": np.where(Y == 2, np.inf, Y)}, "(inf) at row 2"),
    "empty": ({"x": X[:0], "y": Y[:0]}, "0 samples"),
    "one sample": ({"x": X[:1], "y": Y[:1]}, "expected at least 2 samples"),
    "lengths": ({"x": X, "y": Y[:3]}, "4 samples in x but 3 in y"),
    "features": ({"x": X[:, :2], "y": Y}, "takes 3 features"),
    "labels": ({"x": X, "y": np.uint64(2**63) + np.arange(4, dtype=np.uint64)}, "overflow"),
    "pickled": ({"x": X.astype(object), "y": Y}, "pickled objects"),
    "keys": ({"inputs": X, "y": Y}, "lacks x"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_is_one_line_and_writes_nothing(mine: Path, case: str) -> None:
    arrays, expected = BAD_DATA[case]
    np.savez(mine / "bad.npz", **arrays)  # type: ignore[arg-type]
    options = ("--weights", mine / "mlp.safetensors", "--data", mine / "bad.npz")
    assert expected in refusal("survey", *options, "--out", mine / "r")
    assert not (mine / "r").exists()
    assert expected in refusal("certify", *options, "--out", mine / "r")
    assert not (mine / "r").exists()


def test_bad_files(mine: Path) -> None:
    good = ("--data", mine / "mine.npz", "--out", mine / "r")
    torch.save(nn.Sequential(nn.Linear(3, 1)), mine / "module.pt")
    assert "pickled objects" in refusal("survey", "--weights", mine / "module.pt", *good)
    assert "does not exist" in refusal("survey", "--weights", mine / "no.pt", *good)
    assert "got the folder" in refusal("survey", "--weights", mine, *good)
    torch.save(nn.Conv1d(1, 1, 1).state_dict(), mine / "conv.pt")
    assert "--model module:factory" in refusal("survey", "--weights", mine / "conv.pt", *good)
    (mine / "cut.npz").write_bytes((mine / "mine.npz").read_bytes()[:200])
    weights = ("--weights", mine / "mlp.safetensors", "--out", mine / "r")
    assert "not a complete .npz" in refusal("survey", *weights, "--data", mine / "cut.npz")
    assert "did you mean digits" in refusal("survey", *weights, "--data", "digit")
    assert "give --data" in refusal("survey", *weights)
    assert not (mine / "r").exists()


def test_labels_that_the_model_lacks(mine: Path) -> None:
    np.savez(mine / "labels.npz", x=X, y=np.array([0, 1, 2, 3]))
    torch.save(mlp((3, 4, 3), seed=0).state_dict(), mine / "three.pt")
    options = ("--weights", mine / "three.pt", "--data", mine / "labels.npz")
    text = refusal("survey", *options, "--loss", "cross_entropy", "--out", mine / "r")
    assert "the class label 3 but the model has 3 outputs" in text


def test_unwritable_output(mine: Path) -> None:
    subject = ("--weights", mine / "mlp.safetensors", "--data", mine / "mine.npz")
    (mine / "file").write_text("")
    below = mine / "file" / "r"  # below a regular file nobody can write, not even root
    assert str(below) in refusal("survey", *subject, "--out", below)
    assert "choose another place" in refusal("certify", *subject, "--out", below)


def test_a_full_disk_is_told_with_the_folder(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("reluscape.survey.write_then_rename", full)
    subject = ("--weights", mine / "mlp.safetensors", "--data", mine / "mine.npz")
    result = invoke("survey", *subject, "--out", mine / "r")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: No space left on device: choose another place or make room; "
        f"written by then: whole files in {mine / 'r'}, if any\n"
    )


def test_weights_given_twice_or_three_times(mine: Path) -> None:
    file, data = mine / "mlp.safetensors", ("--data", mine / "mine.npz")
    assert "given twice" in refusal("survey", "--weights", file, "--weights", file, *data)
    assert "one or two models" in refusal("survey", *["--weights", file] * 3, *data)


USAGE = {
    "--loss hinge": "'--loss': 'hinge' is not one of 'squared'",
    "--weight-decay -1": "expected a finite weight decay of at least 0, got -1.0",
    "--weight-decay nan": "expected a finite weight decay of at least 0, got nan",
    "--weight-decay inf": "expected a finite weight decay of at least 0, got inf",
    "--seed x": "valid integer",
    "--seed -3": "greater than or equal to 0; received '-3'",
    "--seed": "requires an argument",
    "--frobnicate": "No such option: --frobnicate",
    "more": "unexpected extra argument",
}


@pytest.mark.parametrize("options", USAGE)
def test_usage_errors_are_one_line(options: str) -> None:
    text = refusal("survey", *options.split())
    assert USAGE[options] in text
    assert "Value error" not in text


def test_usage_errors_of_commands() -> None:
    assert "No such command 'certifi'. Did you mean 'certify'" in refusal("certifi")
    assert "No such option" in refusal("--nonsense")
    assert "Missing argument 'certificate' (see " in refusal("verify")
    assert "weight decay" in refusal("verify", "c.json", "--weight-decay", "nan")
    bare = invoke()
    assert bare.exit_code == 2
    assert bare.stdout == ""
    assert "Example: reluscape survey" in bare.stderr


def test_the_installed_command_refuses_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "reluscape", "survey", "--loss", "hinge"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_a_layer_is_a_name_or_an_index(mine: Path) -> None:
    subject = ("--weights", mine / "mlp.safetensors", "--data", mine / "mine.npz", "--json")

    def certified(layer: object) -> str:
        result = invoke("certify", *subject, "--layer", layer)
        assert result.exit_code == 0, result.output
        return str(json.loads(result.stdout)["certificates"][0]["layer"])

    assert [certified(layer) for layer in ("0", "2", "-1", "-2", "1")] == ["0", "2", "2", "0", "2"]
    text = refusal("certify", *subject, "--layer", "7")
    assert "layer must be an index in 0..1 or one of '0', '2'; received 7" in text
    out = mine / "r"
    assert invoke("survey", *subject, "--layer", "-1", "--out", out).exit_code == 0
    assert {name for name in files(out) if "mlp-2" in name} == {
        "certificates/1-mlp-2-2.json",
        "minima/1-mlp-2-2.nc",
    }
    assert not any("mlp-1" in name for name in files(out))


@pytest.mark.parametrize("layer", ["nope", "9", "-4"])
def test_a_wrong_layer_leaves_nothing_behind(mine: Path, layer: str) -> None:
    out = ("--out", mine / "new" / "r", "--layer", layer)
    subject = ("--weights", mine / "mlp.safetensors", "--data", mine / "mine.npz")
    assert "layer must be" in refusal("survey", *subject, *out)
    assert not (mine / "new").exists()


def test_a_wrong_layer_is_refused_before_training(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("trained for a layer that there is not")

    monkeypatch.setattr("reluscape.subjects.train", never)
    options = ("--data", mine / "mine.npz", "--out", mine / "r")
    assert "'0', '2', '4'" in refusal("survey", *options, "--layer", "fc9")
    assert not (mine / "r").exists()


def test_too_large_for_rational_arithmetic(mine: Path) -> None:
    pytest.importorskip("flint", reason="rational arithmetic needs python-flint")
    torch.save(mlp((3, 70, 1), seed=0).state_dict(), mine / "wide.pt")
    subject = ("--weights", mine / "wide.pt", "--data", mine / "mine.npz")
    rational = ("--arithmetic", "rational", "--loss", "l1")
    text = refusal("certify", *subject, *rational, "--layer", "0")
    assert "up to 200 parameters; layer '0' has 280" in text
    assert "operations" not in text
    result = invoke("survey", *subject, *rational, "--out", mine / "r")
    assert result.exit_code == 0, result.output


def test_constant_columns_and_duplicates_work(mine: Path) -> None:
    x = np.ones((6, 3))
    x[:, 0] = [1, 1, 2, 3, 4, 5]
    np.savez(mine / "odd.npz", x=x, y=np.array([0.0, 1, 2, 3, 4, 5]))
    options = ("--weights", mine / "mlp.safetensors", "--data", mine / "odd.npz")
    result = invoke("survey", *options, "--standardise", "--out", mine / "r")
    assert result.exit_code == 0, result.output
    assert "2 of 3 input columns are constant." in result.stdout
    assert "1 samples repeat the inputs of an earlier sample." in result.stdout
    assert "2 constant columns only centred" in result.stdout


# --- progress and interruption ------------------------------------------------------------------


def test_plain_progress_is_a_line_every_few_seconds() -> None:
    stream, now = io.StringIO(), 0.0
    report = progress._lines(stream, clock=lambda: now)
    for now in range(21):  # the clock reads the loop variable
        report("training", now / 20)
    assert stream.getvalue().splitlines() == [
        "training: 25%, about 15 s left",
        "training: 50%, about 10 s left",
        "training: 75%, about 5 s left",
        "training: 100%, about 0 s left",
    ]


def test_bar_on_a_terminal_takes_texts_with_brackets() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with progress.shown(stream) as report:
        report("[/] of [bold]model", 0.5)
    assert "[/] of [bold]model" in stream.getvalue()


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT to another process")
def test_ctrl_c_leaves_an_incomplete_report(tmp_path: Path) -> None:
    out = tmp_path / "r"
    process = subprocess.Popen(
        [sys.executable, "-m", "reluscape", "survey", "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(2)]  # the data is read, training begins
    time.sleep(1.0)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=90)
    assert "digits" in lines[0]
    assert process.returncode == 130, errors
    assert "interrupted: an incomplete report of what was done is in" in errors
    assert "Traceback" not in errors
    assert {"report.html", "results.nc"} <= files(out)
    assert not any(name.endswith(".tmp") for name in files(out))


def test_ctrl_c_before_anything_is_written(monkeypatch: pytest.MonkeyPatch, mine: Path) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("reluscape.subjects.load_model", stop)
    options = ("--weights", mine / "mlp.safetensors", "--data", mine / "mine.npz")
    result = invoke("survey", *options, "--out", mine / "r")
    assert result.exit_code == 130
    assert result.stderr == "interrupted; written by then: nothing\n"


# --- the published subset, where it is ------------------------------------------------------------

SUBSETS = Path(os.environ.get("RELUSCAPE_DATA", Path(__file__).parents[2] / "shared" / "data"))
MNIST = SUBSETS / "mnist_train_first100_zeros_ones.npz"


@pytest.mark.skipif(not MNIST.is_file(), reason="set RELUSCAPE_DATA to the folder of subsets")
def test_survey_of_weights_on_mnist_zeros_and_ones(tmp_path: Path) -> None:
    state = mlp((784, 6, 2), seed=0).state_dict()
    save_file(state, tmp_path / "mlp.safetensors")
    out = tmp_path / "r"
    arguments = ("--weights", tmp_path / "mlp.safetensors", "--data", MNIST, "--out", out)
    result = invoke("survey", *arguments, "--standardise", "--json")
    assert result.exit_code == 0, result.output
    assert (out / "report.html").is_file()
    for certificate in (out / "certificates").iterdir():
        checked = invoke("verify", certificate, *arguments[:4], "--standardise")
        assert checked.exit_code == 0, checked.output
