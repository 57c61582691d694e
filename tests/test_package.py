"""The package from outside: its names, what importing it costs, and the examples in its docs."""

from __future__ import annotations

import doctest
import importlib
import importlib.resources
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import reluscape
from reluscape.errors import AnalysisError, InputError, ReluscapeError, UnsupportedModelError

PUBLIC = [
    "AnalysisError",
    "Barrier",
    "Block",
    "Cell",
    "CellMinimum",
    "Certificate",
    "Chord",
    "Connection",
    "Contacts",
    "Convexity",
    "ConvexityMonitor",
    "Decay",
    "Descent",
    "Facets",
    "Forecast",
    "Forecaster",
    "InputError",
    "Landscape",
    "MatchedUnits",
    "MergeTree",
    "MinimumProbability",
    "NetworkOutput",
    "PathMaximum",
    "Phases",
    "Polish",
    "ReluscapeError",
    "Schedule",
    "SpanningTree",
    "Spectrum",
    "Study",
    "Trajectory",
    "TreeSize",
    "Unfinished",
    "UnitCells",
    "UnsupportedModelError",
    "Verification",
    "cell_minimum",
    "cells_crossed",
    "certify",
    "connect",
    "convexity",
    "count_cells",
    "descend",
    "enumerate_cells",
    "expected_minimum_probability",
    "forecast_losses",
    "linear_path",
    "match_units",
    "merge_tree",
    "path_maximum",
    "polish",
    "spanning_tree",
    "spectrum",
    "tensorboard_sink",
    "trajectory_of",
    "tree_size",
    "verify",
]


def test_public_names_are_pinned_and_all_there():
    assert list(reluscape.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(reluscape, name).__name__ == name
        assert getattr(reluscape, name).__doc__
    assert set(PUBLIC) <= set(dir(reluscape))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = reluscape.nothing


def test_the_version_is_the_distributions():
    assert reluscape.__version__ == metadata.version("reluscape")


def imported_after(*statements: str) -> list[set[str]]:
    """The modules of one fresh process after each of the statements: importing torch is slow."""
    code = "import sys\n" + "".join(f"{line}\nprint(*sys.modules)\n" for line in statements)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [set(line.split()) for line in run.stdout.splitlines()]


def test_importing_the_package_imports_nothing_heavy():
    heavy = {"torch", "numpy", "scipy", "plotly", "xarray", "sklearn", "highspy"}
    package, program = imported_after("import reluscape", "import reluscape.cli")
    assert not heavy & package
    assert not {"torch", "scipy", "plotly", "xarray", "sklearn"} & program


def test_public_names_import_on_first_use_and_verification_no_solver():
    bare, error, verification, landscape = imported_after(
        "import reluscape",
        "reluscape.InputError",
        "from reluscape import verify",
        "reluscape.Landscape",
    )
    assert "reluscape.errors" in error - bare
    assert "torch" not in error
    assert {"torch", "reluscape.verification"} <= verification
    assert not {"highspy", "reluscape.solvers", "reluscape.proof"} & verification
    assert "reluscape.landscape" in landscape


def test_the_tree_of_errors():
    assert issubclass(InputError, ReluscapeError)
    assert issubclass(InputError, ValueError)
    assert issubclass(UnsupportedModelError, InputError)
    assert issubclass(AnalysisError, ReluscapeError)
    assert not issubclass(AnalysisError, InputError)


@pytest.mark.parametrize(
    "name",
    [
        "landscape",
        "proof",
        "network_output",
        "descent.forecast",
        "arrangement",
        "gaussian",
        "minima.find",
        "convex",
        "spectra",
        "monitor.monitor",
        "strings.maximum",
        "strings.connecting",
    ],
)
def test_examples_in_docstrings_run(name):
    module = importlib.import_module(f"reluscape.{name}")
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0


def test_the_package_is_marked_as_typed():
    files = {str(file) for file in importlib.resources.files(reluscape).iterdir()}
    assert any(file.endswith("py.typed") for file in files)


INNER = "from reluscape.compiled import bare\n@bare\ndef one(x):\n    return x + {}\n"
OUTER = INNER.replace("one", "two").format("one(x)").replace("\n", "\nfrom inner import one\n", 1)


def test_what_is_compiled_follows_the_files_of_what_it_calls(tmp_path: Path) -> None:
    """Numba's own cache looks at the file of the caller alone."""
    (tmp_path / "outer.py").write_text(OUTER)
    code = "from outer import two; print(two(1.0), sum(two.stats.cache_hits.values()))"
    told = []
    for number in (1.0, 1.0, 25.0):
        inner = tmp_path / "inner.py"
        if not inner.exists() or str(number) not in inner.read_text():
            inner.write_text(INNER.format(number))
        paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        run = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": paths, "NUMBA_CACHE_DIR": str(tmp_path / "cache")},
        )  # fmt: skip
        told.append(run.stdout.split())
    assert told == [["3.0", "0"], ["3.0", "1"], ["27.0", "0"]]
