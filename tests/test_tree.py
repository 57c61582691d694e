"""Spanning trees of models: their file, figure and page, and `verify` of them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import randomise
from pages import assert_nothing_is_cut, assert_nothing_overflows
from safetensors.torch import save_file
from scipy.cluster.hierarchy import linkage
from test_cli import files, invoke, refusal
from torch import nn

import reluscape as rs
from reluscape.report.tree import Grown, render_tree
from reluscape.strings.tree_chart import disconnectivity
from reluscape.strings.usual import flat
from reluscape.train import mlp, train

NAMES = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four networks on the same data, and their tree."""
    folder = tmp_path_factory.mktemp("tree")
    x = np.random.default_rng(0).normal(size=(40, 2))
    y = np.abs(x).sum(axis=1, keepdims=True)
    np.savez(folder / "mine.npz", x=x, y=y)
    for seed, name in enumerate(NAMES):
        model = mlp((2, 6, 1), seed=seed)
        train(model, x, y, loss="squared", epochs=200, batch_size=20, rate=0.01, seed=seed)
        save_file(model.state_dict(), folder / f"{name}.safetensors")
    result = connect(folder, "--level", 0.2, "--out", folder / "t")
    assert result.exit_code == 0, result.output
    return folder


def connect(folder: Path, *options: object) -> Any:
    ends = [folder / f"{name}.safetensors" for name in NAMES]
    return invoke("connect", *ends, "--data", folder / "mine.npz", *options)


def verified(folder: Path, names: tuple[str, ...] = NAMES) -> tuple[object, ...]:
    given = [one for name in names for one in ("--weights", folder / f"{name}.safetensors")]
    return "verify", folder / "t" / "tree.nc", *given, "--data", folder / "mine.npz"


def tree_in(folder: Path) -> rs.SpanningTree:
    return rs.SpanningTree.load(folder / "t" / "tree.nc")


def landscape_in(folder: Path) -> rs.Landscape:
    with np.load(folder / "mine.npz") as held:
        return rs.Landscape(mlp((2, 6, 1), seed=0), held["x"], held["y"])


def valley() -> tuple[rs.Landscape, rs.SpanningTree]:
    """The loss w^2: a straight string rises to the square of its end that is further from 0."""
    landscape = rs.Landscape(nn.Linear(1, 1, bias=False).double(), np.array([[1.0]]), [0.0])
    return landscape, rs.spanning_tree(landscape, [[0.0], [1.0], [-2.0], [3.0]])


# ---- the tree ------------------------------------------------------------------------------------


def test_its_heights_are_those_of_single_linkage(grown: Path) -> None:
    tree = tree_in(grown)
    pairs = list(combinations(range(4), 2))
    expected = linkage([tree.string(*pair).highest for pair in pairs], "single")[:, 2]
    np.testing.assert_allclose(np.sort(tree.heights), expected)
    landscape = landscape_in(grown)
    np.testing.assert_allclose(tree.values, [landscape.loss(one) for one in tree.thetas])
    for a, b in pairs:
        beads = tree.string(b, a).beads
        np.testing.assert_array_equal(beads[[0, -1]], tree.thetas[[a, b]])
        for start, stop in pairwise(beads):
            line = [landscape.loss(start + t * (stop - start)) for t in np.linspace(0, 1, 100)]
            assert max(line) <= tree.maxima[a, b]


def test_files_of_many_models_read_back(tmp_path: Path) -> None:
    landscape, _ = valley()
    tree = rs.spanning_tree(landscape, np.linspace(-1.0, 1.0, 6)[:, None])
    back = rs.SpanningTree.load(tree.save(tmp_path / "tree.nc"))
    for name in ("thetas", "values", "maxima", "edges", "heights"):
        np.testing.assert_array_equal(getattr(back, name), getattr(tree, name))
    assert len(back.strings) == 15  # numbers of two digits, too
    for one, other in zip(back.strings, tree.strings, strict=True):
        assert one.summary() == other.summary()
        np.testing.assert_array_equal(one.curve, other.curve)
    assert rs.verify(tmp_path / "tree.nc", landscape).valid


def test_the_figure_joins_models_where_their_passes_are() -> None:
    """0 and 1 meet at 1, -2 joins them at 4, and 3 at 9."""
    _, tree = valley()
    passes, models = tree.plot().data
    heights = np.unique(passes.y[np.isfinite(passes.y)].round(6))
    np.testing.assert_allclose(heights, [0.0, 1.0, 4.0, 9.0])
    np.testing.assert_allclose(models.y, [0.0, 1.0, 4.0, 9.0])
    assert sorted(models.x) == [0, 1, 2, 3]
    assert abs(models.x[0] - models.x[1]) == 1  # what is joined first stands together


def test_models_without_a_finite_pass_stand_alone() -> None:
    edges, heights = np.array([[0, 1], [1, 2]]), np.array([0.5, np.inf])
    figure = disconnectivity(np.array([0.1, 0.2, 0.3]), edges, heights, ["a", "<b>", "c" * 30])
    passes, models = figure.data
    assert np.nanmax(passes.y) == 0.5
    assert len(models.x) == 3
    assert figure.layout.xaxis.ticktext[1] == "&lt;b&gt;"
    assert len(figure.layout.xaxis.ticktext[2]) < 20


# ---- verify --------------------------------------------------------------------------------------


def test_verify_takes_the_tree_with_all_of_its_models(grown: Path) -> None:
    result = invoke(*verified(grown))
    assert result.exit_code == 0, result.output
    assert "valid: recomputed from network and data: 6 strings between 4 models" in result.stdout
    swapped = invoke(*verified(grown, ("a", "c", "b", "d")))
    assert swapped.exit_code == 1
    assert "model 1 has other weights" in swapped.stdout
    assert "a tree of 4 models; received 2" in refusal(*verified(grown, ("a", "b")))


def lifted(tree: rs.SpanningTree) -> rs.SpanningTree:
    """The highest pair's edge for one of the tree's."""
    pairs = list(combinations(range(4), 2))
    high = max(pairs, key=lambda pair: tree.maxima[pair])
    for place in range(3):
        edges = tree.edges.copy()
        edges[place] = high
        other = replace(tree, edges=edges, heights=tree.maxima[edges[:, 0], edges[:, 1]])
        if all(np.isfinite(other.pass_between(0, k)) for k in range(4)):
            return other
    raise AssertionError("the highest pair closes a loop with two others")


TAMPERED: list[tuple[Callable[[rs.SpanningTree], rs.SpanningTree], str]] = [
    (lambda t: replace(t, heights=0.5 * t.heights), "its heights are others"),
    (lambda t: replace(t, maxima=0.5 * t.maxima), "its values are told twice"),
    (lambda t: replace(t, maxima=np.where(np.eye(4), t.maxima, 1.0)), "is not as high"),
    (lambda t: replace(t, edges=t.edges[[0, 0, 0]]), "its heights are others|do not join"),
    (lambda t: replace(t, values=2 * t.values, maxima=t.maxima + np.diag(t.values)), "other values"),
    (lambda t: replace(t, thetas=t.thetas[::-1].copy()), "begins elsewhere"),
    (lambda t: replace(t, strings=t.strings[:-1]), "its strings are not one for each pair"),
    (lambda t: replace(t, strings=t.strings[::-1]), "begins elsewhere|ends elsewhere"),
    (lambda t: replace(t, tier="certified"), "its tier is 'exact'"),
    (lambda t: replace(t, edges=t.edges + 4), "its edges are none"),
    (lambda t: replace(t, edges=0 * t.edges), "its edges are none"),
    (lifted, "is lower than the way through the tree"),
    (
        lambda t: replace(t, strings=(replace(t.strings[0], maximum=1e-9), *t.strings[1:])),
        "string 0-1: its maximum is",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), TAMPERED)
def test_a_changed_tree_is_rejected(
    grown: Path, change: Callable[[rs.SpanningTree], rs.SpanningTree], message: str
) -> None:
    checked = rs.verify(change(tree_in(grown)), landscape_in(grown))
    assert not checked.valid
    assert any(part in checked.reason for part in message.split("|")), checked.reason


def test_matched_trees_are_verified(grown: Path) -> None:
    out = grown / "matched"
    result = connect(grown, "--level", 0.2, "--match", "--out", out, "--json")
    assert result.exit_code == 0, result.output
    assert any(pair["matched"] for pair in json.loads(result.stdout)["pairs"])
    path = out / "tree.nc"
    given = [one for name in NAMES for one in ("--weights", grown / f"{name}.safetensors")]
    checked = invoke("verify", path, *given, "--data", grown / "mine.npz")
    assert checked.exit_code == 0, checked.output


def test_a_matched_tree_with_running_statistics_ends_at_its_models() -> None:
    """The numbers of a model in any order are not yet its hidden units in another order."""
    rng = np.random.default_rng(0)

    def normed(seed: int) -> nn.Sequential:
        model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 1))
        randomise(model.double(), seed=seed)
        model(torch.as_tensor(rng.normal(size=(30, 2))))
        return model.eval()

    first, last = normed(0), normed(2)
    landscape = rs.Landscape(first, rng.normal(size=(20, 2)), rng.normal(size=(20, 1)))
    matched = rs.connect(landscape, first, last, 50.0, match_units=True)
    thetas = [flat(landscape, model) for model in (first, last)]
    assert not np.array_equal(matched.beads[-1], thetas[1])
    checked = rs.verify(rs.spanning_tree(landscape, thetas, join=lambda *_: matched), landscape)
    assert checked.valid, checked.reason
    with torch.no_grad():
        last[0].weight.copy_(last[0].weight.flip(1))
    other = rs.connect(landscape, first, last, 50.0)
    other = replace(other, matched=True, unmatched_lower=other.straight_lower)
    assert np.array_equal(np.sort(other.beads[-1]), np.sort(thetas[1]))
    tree = rs.spanning_tree(landscape, thetas, join=lambda *_: other)
    checked = rs.verify(tree, landscape)
    assert "the model that it ends at has other outputs" in checked.reason


# ---- the page ------------------------------------------------------------------------------------


def test_the_page_has_tree_pairs_and_commands_that_run(
    grown: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {"tree.nc", "report.html", "000-003/report.html"} <= files(grown / "t")
    page, tree = (grown / "t" / "report.html").read_text("utf-8"), tree_in(grown)
    assert "All 4 models are connected below 0.200: the highest pass of their tree is" in page
    for a, b in combinations(range(4), 2):
        assert f'<a href="{a:03d}-{b:03d}/report.html">{NAMES[a]} – {NAMES[b]}</a>' in page
    assert f"{tree.string(0, 1).normalized_length:.4f}" in page
    start = page.index("reluscape verify tree.nc")
    monkeypatch.chdir(grown / "t")
    result = invoke(*shlex.split(page[start : page.index("<", start)])[1:])
    assert result.exit_code == 0, result.output


def told(tree: rs.SpanningTree) -> str:
    names = tuple(f"model {k}" for k in range(len(tree.values)))
    about = Grown(names, "data", 3, "as asked", (None,) * len(tree.strings), "x", "y", "0")
    page = render_tree(tree, about)
    return page[page.index("<main>") :]


def test_groups_without_a_path_are_never_called_disconnected(grown: Path) -> None:
    tree = tree_in(grown)
    kept = [replace(one, status="not_found") for one in tree.strings]
    kept[0] = tree.strings[0]
    page = told(replace(tree, strings=tuple(kept)))
    assert "Connected below 0.200: model 0 and model 1. Between the 3 groups" in page
    assert "does not show that there is none" in page
    assert "disconnected" not in page


def test_models_are_connected_as_surely_as_the_strings_of_the_tree(grown: Path) -> None:
    tree, landscape = tree_in(grown), landscape_in(grown)
    pairs = list(combinations(range(4), 2))
    edges = set(map(tuple, tree.edges.tolist()))

    def with_sampled(inside: bool) -> rs.SpanningTree:
        strings = iter(
            replace(one, tier="sampled") if (pair in edges) == inside else one
            for pair, one in zip(pairs, tree.strings, strict=True)
        )
        return rs.spanning_tree(landscape, tree.thetas, join=lambda *_: next(strings))

    others, own = with_sampled(False), with_sampled(True)
    assert (others.tier, own.tier) == (tree.tier, "sampled")
    assert "as far as grids show" not in told(others)
    assert "connected below 0.200 as far as grids show" in told(own)


def test_names_are_escaped(grown: Path) -> None:
    tree, evil = tree_in(grown), "<script>alert(1)</script>"
    about = Grown((evil,) * 4, evil, 3, evil, (None,) * 6, evil, evil, evil)
    page = render_tree(tree, about)
    assert evil not in page[page.index("<main>") :]


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_draws(grown: Path, browser: Any, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((grown / "t" / "report.html").as_uri())
    page.wait_for_selector("#tree-pairs svg.main-svg")
    assert errors == []
    assert_nothing_overflows(page, width)
    if width > 1000:
        assert_nothing_is_cut(page)
    page.close()


def test_the_level_of_a_string_does_not_widen_its_ends(grown: Path) -> None:
    tree, landscape = tree_in(grown), landscape_in(grown)
    strings = tuple(replace(one, status="connected", level=1e12) for one in tree.strings)
    assert rs.verify(replace(tree, strings=strings), landscape).valid
    maxima = tree.maxima + 1e-3 * np.eye(len(NAMES))
    other = replace(tree, strings=strings, maxima=maxima, values=maxima.diagonal().copy())
    assert "have other values" in rs.verify(other, landscape).reason
