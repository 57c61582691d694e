"""Polishing trained networks: every layer at a certified minimum, weights that load again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import dense
from sklearn.datasets import load_diabetes, load_digits, load_wine
from torch import nn
from typer.testing import CliRunner

import reluscape as rs
from reluscape import cli
from reluscape.weights import read_state


def landscape(widths: tuple[int, ...], *, seed: int = 0, samples: int = 60) -> rs.Landscape:
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(samples, widths[0]))
    targets = np.sin(inputs @ rng.normal(size=(widths[0], widths[-1])))
    return rs.Landscape(dense(widths, seed=seed), inputs, targets, loss="l1")


@pytest.mark.parametrize("seed", [1, 2])
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
