"""The merge trees that a survey grows: which samples, what is written, and why there is none."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import assert_nothing_overflows
from test_cli import invoke
from test_survey import files_below, ready

from reluscape import Landscape, MergeTree, merge_tree, tree_size
from reluscape.data import Data
from reluscape.report import build_sections, render
from reluscape.survey import Survey, load_survey, survey
from reluscape.survey_tree import most_samples, unit_cells
from reluscape.train import mlp
from reluscape.trees.layer import Layer


def waves(num_samples: int = 60, inputs: int = 1, seed: int = 0) -> Data:
    x = np.random.default_rng(seed).uniform(-2.0, 2.0, size=(num_samples, inputs))
    return Data(x, np.sin(3.0 * x.sum(axis=1, keepdims=True)), "waves")


@pytest.fixture(scope="module")
def surveyed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Survey, Path]:
    """Two models, their trees on 15 of 60 samples: cells of a layer up to 30 ** 2 are allowed."""
    data, out = waves(), tmp_path_factory.mktemp("tree")
    np.savez(out / "mine.npz", x=data.inputs, y=data.targets)
    subjects = [ready(mlp((1, 2, 1), seed=seed), f"seed {seed}") for seed in (0, 1)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reluscape.survey_tree.MAX_CELLS", 950)
        found = survey(
            subjects, data, loss="squared", tree=True, out=out / "r",
            data_options=["--data", str(out / "mine.npz")],
        )  # fmt: skip
    return found, out / "r"


def test_the_record_is_that_of_a_tree_of_the_samples_it_names(
    surveyed: tuple[Survey, Path],
) -> None:
    found, out = surveyed
    data = waves()
    for seed, model in enumerate(found.models):
        told, other = model.layers[0].tree, model.layers[1].tree
        assert told is not None
        assert other is None
        assert len(told.samples) == 15
        rows = told.samples
        block = Landscape(mlp((1, 2, 1), seed=seed), data.inputs[rows], data.targets[rows]).block(0)
        tree = merge_tree(block)
        for name in ("losses", "births", "deaths", "parents", "multiplicity", "minima"):
            np.testing.assert_array_equal(getattr(told, name), getattr(tree, name))
        np.testing.assert_array_equal(MergeTree.load(out / told.file).joins, tree.joins)
        assert (told.num_cells, told.num_facets) == (900, 1800)


def test_the_pages_commands_check_the_tree_and_find_it_again(
    surveyed: tuple[Survey, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, out = surveyed
    monkeypatch.chdir(out)
    (section,) = [one for one in build_sections(found) if one.key == "tree"]
    assert len(section.commands) == 4
    check, again = section.commands[:2]
    result = invoke(*shlex.split(check)[1:])
    assert result.exit_code == 0, result.output
    assert result.output.startswith("valid")
    result = invoke(*shlex.split(again)[1:])
    assert result.exit_code == 0, result.output
    told = found.models[0].layers[0].tree
    assert told is not None
    first, second = MergeTree.load(told.file), MergeTree.load("again/merge_tree.nc")
    np.testing.assert_array_equal(first.features, second.features)
    np.testing.assert_array_equal(first.minima, second.minima)


def test_the_page_made_of_the_file_is_the_page(surveyed: tuple[Survey, Path]) -> None:
    found, out = surveyed
    loaded = load_survey(out / "results.nc")
    assert render(loaded) == render(found) == (out / "report.html").read_text("utf-8")
    (section,) = [one for one in build_sections(loaded) if one.key == "tree"]
    keys = [figure.key for figure in section.figures]
    assert len(set(keys)) == len(keys) == 6
    assert section.verdict.count("\n") == 1
    assert "15 of 60 samples" in section.remarks[0]


def test_without_the_option_there_is_no_tree(tmp_path: Path) -> None:
    found = survey([ready(mlp((1, 2, 1), seed=0))], waves(10), loss="squared", out=tmp_path)
    assert found.models[0].layers[0].tree is None
    assert not [name for name in files_below(tmp_path) if name.startswith("trees")]
    assert "tree" not in [section.key for section in build_sections(found)]


@pytest.mark.parametrize("loss", ["squared", "l1"])
def test_all_samples_are_taken_if_they_fit(loss: str) -> None:
    found = survey([ready(mlp((1, 2, 1), seed=0))], waves(12), loss=loss, tree=True)
    told = found.models[0].layers[0].tree
    assert told is not None
    assert told.samples.tolist() == list(range(12))
    (section,) = [one for one in build_sections(found) if one.key == "tree"]
    assert "on all samples" in section.remarks[0]


@pytest.mark.parametrize(("inputs", "units"), [(1, 1), (1, 2), (2, 2), (3, 2), (6, 3)])
def test_no_more_samples_fit(inputs: int, units: int) -> None:
    data, limit = waves(40, inputs), 2_000

    def cells(count: int) -> int:
        picked = np.sort(np.random.default_rng(3).choice(40, count, replace=False))
        landscape = Landscape(model, data.inputs[picked], data.targets[picked])
        return tree_size(landscape.block(0)).num_cells

    model = mlp((inputs, units, 1), seed=0)
    layer = Layer.of(Landscape(model, data.inputs, data.targets).block(0))
    most = most_samples(layer, limit, 3)
    assert cells(most) <= limit
    assert most == 40 or cells(most + 1) > limit


def test_cells_of_a_unit_are_counted_without_finding_them() -> None:
    x = np.arange(6.0)[:, None]
    ones = np.ones_like(x)
    assert unit_cells(np.hstack([x, ones])) == (12, 12)
    assert unit_cells(np.vstack([np.hstack([x, ones])] * 2)) == (12, 12)  # samples that occur twice
    assert unit_cells(np.eye(3)) == (8, 6)
    assert unit_cells(np.zeros((4, 2))) == (1, 0)


NOTES: list[tuple[tuple[int, ...], dict[str, Any], str]] = [
    ((10, 16, 1), {}, "32 cells of each of 16 units, together more than the 200,000"),
    ((10, 16, 1), {}, "goes through unless told otherwise is --samples 1"),
    ((10, 64, 1), {}, "not even one sample has few enough"),
    ((1, 2, 1), {"weight_decay": 0.1}, "weight_decay=0"),
    ((1, 2, 2), {"loss": "cross_entropy"}, "received 'cross_entropy'"),
]


@pytest.mark.parametrize(("widths", "options", "told"), NOTES)
def test_why_there_is_no_tree(widths: tuple[int, ...], options: dict[str, Any], told: str) -> None:
    data = waves(8, widths[0])
    if "loss" in options:
        data = Data(data.inputs, np.arange(8) % 2, "classes", classes=("a", "b"))
    options = {"loss": "squared"} | options
    found = survey([ready(mlp(widths, seed=0))], data, tree=True, **options)
    layer = found.models[0].layers[0]
    assert layer.tree is None
    assert [note for note in layer.notes if re.search(re.escape(told), note)]
    assert "tree" not in [section.key for section in build_sections(found)]


def test_a_layer_that_is_not_surveyed_has_no_tree() -> None:
    found = survey([ready(mlp((1, 2, 1), seed=0))], waves(8), loss="squared", tree=True, layer=1)
    assert "is not among those surveyed" in found.models[0].notes[-1]


def test_ctrl_c_while_it_grows_leaves_the_rest(tmp_path: Path) -> None:
    def stop(what: str, fraction: float) -> None:
        assert 0 <= fraction <= 1
        if "merge tree, " in what:
            raise KeyboardInterrupt

    found = survey(
        [ready(mlp((1, 2, 1), seed=0))], waves(8), loss="squared", tree=True, out=tmp_path,
        progress=stop,
    )  # fmt: skip
    assert not found.complete
    assert found.models[0].layers[0].verdict is not None
    assert found.models[0].layers[0].tree is None
    assert (tmp_path / "report.html").is_file()


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_draws(surveyed: tuple[Survey, Path], browser: Any, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto((surveyed[1] / "report.html").as_uri() + "#tree")
    page.wait_for_selector("#tree .js-plotly-plot .main-svg")
    assert page.locator("#tree .js-plotly-plot").count() == 6
    assert not problems
    assert_nothing_overflows(page, width)
    page.close()


def test_trees_are_exact_where_they_are_asked_for_and_small(tmp_path: Path) -> None:
    data, out = waves(9), tmp_path / "r"
    np.savez(tmp_path / "mine.npz", x=data.inputs, y=data.targets)
    found = survey(
        [ready(mlp((1, 2, 1), seed=0))], data, loss="l1", tree=True, arithmetic="rational", out=out,
        data_options=["--data", str(tmp_path / "mine.npz")],
    )  # fmt: skip
    told = found.models[0].layers[0].tree
    assert told is not None
    assert (told.arithmetic, told.tier) == ("rational", "exact")
    assert MergeTree.load(out / told.file).tier == "exact"
    read = load_survey(out / "results.nc").models[0].layers[0].tree
    assert read is not None
    assert read.tier == "exact"
    (section,) = [one for one in build_sections(found) if one.key == "tree"]
    assert "--arithmetic rational" in section.commands[1]
    assert any("exact" in line for line in section.method)


def test_a_tree_that_is_too_large_for_rationals_says_so() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reluscape.survey_tree.MAX_CELLS_EXACT", 50)
        found = survey(
            [ready(mlp((1, 2, 1), seed=0))], waves(9), loss="squared", tree=True,
            arithmetic="rational",
        )  # fmt: skip
    layer = found.models[0].layers[0]
    assert layer.tree is not None
    assert layer.tree.tier == "certified"
    assert any("too large for rational arithmetic" in note for note in layer.notes)
