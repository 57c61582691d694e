"""`reluscape study ...` on an experiment of the user's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from reluscape import cli
from reluscape.study import execution

EXPERIMENT = """
import numpy as np

def walk(parameters, seed):
    if parameters.get("width") == 3:
        raise ValueError("three is too many")
    steps = np.random.default_rng(seed).normal(size=parameters.get("width", 2))
    return {"end": steps.sum(), "path": steps.cumsum()}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_experiment.py").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def run(*more: object, jobs: int = 1) -> Result:
    options = ("--trials", 5, "--jobs", jobs, "--set", "width=2,4")
    return invoke("study", "run", "own_experiment:walk", "runs.sqlite", *options, *more)


@pytest.mark.parametrize("command", ["", "run", "resume", "show", "export", "plot"])
def test_help_has_an_example(command: str) -> None:
    result = invoke("study", *command.split(), "--help")
    assert result.exit_code == 0
    assert f"Example: reluscape study {command or 'run'}" in result.stdout


def test_run_show_export_and_plot(folder: Path) -> None:
    done = run()
    assert done.exit_code == 0, done.output
    assert "10 trials: 10 done" in done.stdout
    shown = json.loads(invoke("study", "show", "runs.sqlite", "--json").stdout)
    assert shown["done"] == shown["planned"] == 10
    assert shown["statistics"]["end"]["count"] == 10
    exported = invoke(
        "study", "export", "runs.sqlite", "--csv", "runs.csv", "--parquet", "runs.parquet"
    )
    assert exported.exit_code == 0, exported.output
    csv, parquet = pd.read_csv("runs.csv"), pd.read_parquet("runs.parquet")
    assert list(csv["width"]) == list(parquet["width"]) == [2] * 5 + [4] * 5
    assert csv["end"].tolist() == pytest.approx(parquet["end"].tolist())
    assert invoke("study", "plot", "runs.sqlite", "--out", "end.html").exit_code == 0
    page = (folder / "end.html").read_text()
    assert "end against width" in page
    assert 'name="viewport"' in page
    assert 'src="http' not in page


def test_processes_of_a_module_in_the_current_folder(folder: Path) -> None:
    assert "10 done" in run(jobs=2).stdout


def test_values_of_every_kind(folder: Path) -> None:
    (folder / "kinds.py").write_text(
        "def f(parameters, seed):\n    return {'n': len(str(parameters))}"
    )
    options = ("--set", "a=1,2.5,null,true", "--set", "b=[1,2],[3]", "--set", "c=plain,text")
    shown = invoke("study", "run", "kinds:f", "k.sqlite", "--jobs", 1, *options, "--json")
    assert json.loads(shown.stdout)["done"] == 4 * 2 * 2
    assert invoke("study", "plot", "k.sqlite", "--x", "a").exit_code == 0
    assert "None" in (folder / "study.html").read_text()


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_experiments_print_does_not_get_into_the_json(folder: Path, jobs: int) -> None:
    (folder / "loud.py").write_text(
        "import os\ndef f(parameters, seed):\n    print('hello', flush=True)\n"
        "    os.write(1, b'from C')\n    return {'x': 1}\n"
    )
    command = ["study", "run", "loud:f", "loud.sqlite", "--jobs", str(jobs), "--json"]
    told = subprocess.run(
        [sys.executable, "-m", "reluscape", *command], capture_output=True, text=True, check=True
    )
    assert json.loads(told.stdout)["done"] == 1
    assert "hello" in told.stderr
    assert "from C" in told.stderr


def test_resume_and_fork(folder: Path) -> None:
    run()
    assert "10 done" in invoke("study", "resume", "runs.sqlite", "--jobs", 1).stdout
    refused = invoke(
        "study", "run", "own_experiment:walk", "runs.sqlite", "--set", "width=5", "--jobs", 1
    )
    assert refused.exit_code == 2
    assert "--fork" in refused.stderr
    assert refused.stderr.count("\n") == 1
    forked = invoke(
        "study",
        "run",
        "own_experiment:walk",
        "runs.sqlite",
        "--set",
        "width=5",
        "--jobs",
        1,
        "--fork",
    )
    assert "runs-fork1.sqlite" in forked.stdout


def test_failures_are_counted_and_told(folder: Path) -> None:
    result = invoke(
        "study", "run", "own_experiment:walk", "bad.sqlite", "--set", "width=3", "--jobs", 1
    )
    assert "1 x ValueError: three is too many" in result.stdout
    assert result.exit_code == 1
    assert result.stderr.endswith("none of the 1 trials gave a record\n")
    assert invoke("study", "show", "bad.sqlite").exit_code == 0
    both = ("own_experiment:walk", "bad.sqlite", "--set", "width=3,4", "--jobs", 1, "--fork")
    assert invoke("study", "run", *both).exit_code == 0


def test_showing_loads_no_numerical_library(folder: Path) -> None:
    run()
    code = "from reluscape.cli import app; app(['study', 'show', 'runs.sqlite'])"
    tried = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True
    )
    assert "10 done" in tried.stdout
    loaded = {line.rpartition("|")[2].strip() for line in tried.stderr.splitlines()}
    assert "reluscape.study.store" in loaded
    assert not loaded & {"numpy", "pandas", "torch", "joblib", "distributed", "xarray", "plotly"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("run", "own_experiment", "a.sqlite"), "module:function"),
        (("run", "own_experiment:nothing", "a.sqlite"), "nothing"),
        (("run", "no_such_module:f", "a.sqlite"), "no_such_module"),
        (("run", ":f", "a.sqlite"), "module:function"),
        (("run", "raising:f", "a.sqlite"), "OSError: one two"),
        (("run", "leaving:f", "a.sqlite"), "SystemExit: 3"),
        (("run", "own_experiment:walk", "a.sqlite", "--dask", ""), "address of a Dask scheduler"),
        (("run", "own_experiment:walk", "a.sqlite", "--set", "width"), "NAME=VALUE"),
        (("run", "own_experiment:walk", "a.sqlite", "--set", "width=2,3,2"), '{"width": 2} twice'),
        (("run", "own_experiment:walk", "a.sqlite", "--set", "width=2,"), "NAME=VALUE"),
        (("run", "own_experiment:walk", "a.sqlite", "--set", "a=1", "--set", "a=2"), "once"),
        (("run", "own_experiment:walk", "a.sqlite", "--jobs", 0), "jobs"),
        (("run", "own_experiment:walk", "no/../own_experiment.py"), "not a database"),
        (("run", "own_experiment:walk", "/proc/a.sqlite"), "that can be written"),
        (("run", "own_experiment:walk", "/dev/null"), "a folder or a device"),
        (("run", "own_experiment:walk", "no"), "a folder or a device"),
        (("run", "own_experiment:walk", "a.sqlite", "--dask", "tcp://127.0.0.1:1"), "Dask scheduler"),
        (("show", "none.sqlite"), "found none"),
        (("export", "none.sqlite"), "--csv"),
        (("export", "none.sqlite", "--csv", "a.txt"), ".csv"),
        (("resume", "own_experiment.py"), "not a database"),
    ],
)  # fmt: skip
def test_refusals_are_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...], expected: str
) -> None:
    (folder / "no").mkdir()
    (folder / "raising.py").write_text("raise OSError('one\\n  two')")
    (folder / "leaving.py").write_text("raise SystemExit(3)")
    monkeypatch.setattr(execution, "CONNECTING", 1.0)
    result = invoke("study", *arguments)
    assert result.exit_code == 2, result.output
    assert expected in result.stderr
    assert result.stderr.count("\n") == 1


def test_plots_of_what_is_not_there(folder: Path) -> None:
    run()
    for options in (("--y", "nothing"), ("--x", "nothing")):
        result = invoke("study", "plot", "runs.sqlite", *options)
        assert result.exit_code == 2
        assert "expected one of" in result.stderr
