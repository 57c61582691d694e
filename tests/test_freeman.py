"""Freeman and Bruna's experiments: the search written out, the networks by autograd, the tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reluscape.errors import InputError
from reluscape.papers import freeman, freeman_images, freeman_nets, freeman_tables, freeman_trials
from reluscape.papers.freeman_large import Language, convnet, pair_at_level
from reluscape.papers.freeman_published import CURVES
from reluscape.papers.freeman_strings import Rules, sample_strings
from reluscape.papers.freeman_text import WORDS, generated_text
from reluscape.papers.milne_data import fingerprint
from reluscape.reproduce import reproduce
from reluscape.study import Study

NETWORKS = [("quadratic", "bare"), ("cubic", "sigmoid"), ("cubic", "relu")]


# ---- the search ----------------------------------------------------------------------------------


def height(theta: np.ndarray) -> float:
    """A ridge around the origin of the plane."""
    return float(np.exp(-(theta**2).sum()))


def outwards(starts: np.ndarray, goal: float) -> tuple[np.ndarray, np.ndarray]:
    """Straight away from the origin, or upwards from it, until the ridge is below the goal."""
    radius = 1.01 * np.sqrt(-np.log(goal))
    ends = []
    for start in starts:
        norm = np.linalg.norm(start)
        unit = start / norm if norm > 0 else np.array([0.0, 1.0])
        ends.append(start if norm >= radius else radius * unit)
    return np.array(ends), np.ones(len(ends), dtype=bool)


def highest(starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    times = np.arange(100) / 100
    return np.array([
        max(height(a + t * (b - a)) for t in times) for a, b in zip(starts, stops, strict=True)
    ])  # fmt: skip


def by_recursion(a: np.ndarray, b: np.ndarray, level: float, depth: int) -> list[np.ndarray]:
    """The published procedure, both halves solved: beads after `a` up to `b`."""
    (middle,), _ = outwards(((a + b) / 2)[None], 0.95 * level)
    found = []
    for one, other in ((a, middle), (middle, b)):
        low = highest(one[None], other[None])[0] <= 1.1 * level
        found += [other] if low or depth == 0 else by_recursion(one, other, level, depth - 1)
    return found


def test_the_search_is_the_published_recursion() -> None:
    angle = np.linspace(0.0, np.pi, 4)
    firsts = np.tile([3.0, 0.0], (4, 1))
    lasts = 3.0 * np.stack([np.cos(angle), np.sin(angle)], axis=1) + [0.0, 1e-3]
    level = 1e-3
    strings = sample_strings(firsts, lasts, level, Rules(), outwards, highest)
    for a, b, string in zip(firsts, lasts, strings, strict=True):
        np.testing.assert_allclose(string.beads, [a, *by_recursion(a, b, level, 10)])
        assert string.connected
    assert len(strings[0].beads) == 3  # always one between
    assert len(strings[-1].beads) > 5
    round_the_ridge = strings[-1].normalised_length(np.array([True, True]))
    assert 1.2 < round_the_ridge < np.pi / 2 * 1.2


def test_rules_are_switched_one_by_one() -> None:
    first, last = np.array([[3.0, 0.0]]), np.array([[3.0, 0.5]])
    rules = Rules(always=False)
    (string,) = sample_strings(first, last, 1e-3, rules, outwards, highest)
    assert len(string.beads) == 2
    far = -first + [[0.0, 1e-3]]
    (shallow,) = sample_strings(first, far, 1e-3, Rules(max_depth=0), outwards, highest)
    assert len(shallow.beads) == 3
    assert not shallow.connected

    def refused(starts: np.ndarray, goal: float) -> tuple[np.ndarray, np.ndarray]:
        return starts, np.zeros(len(starts), dtype=bool)

    (failed,) = sample_strings(first, far, 1e-3, Rules(), refused, highest)
    assert failed.failed
    assert len(failed.beads) == 3


# ---- the networks --------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "name"), NETWORKS)
def test_batched_losses_and_gradients_are_the_modules(task: str, name: str) -> None:
    own = freeman_nets.landscape(task, name, 30)
    batch = freeman_nets.Batch(own)
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(5, own.size)))
    losses, gradients = batch.slopes(rows)
    x = (np.arange(30) + 0.5) / 30
    y = {"quadratic": 0.5 * x**2 + 0.25 * x + 0.1, "cubic": 8 * x**3 - 10 * x**2 + 3 * x}[task]
    for row, loss, gradient in zip(rows, losses, gradients, strict=True):
        module = freeman_nets.network(task, name)
        torch.nn.utils.vector_to_parameters(row, module.parameters())
        expected = (module(torch.from_numpy(x[:, None]))[:, 0] - torch.from_numpy(y)).abs().mean()
        assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-12)
        expected.backward()
        flat = torch.cat([p.grad.reshape(-1) for p in module.parameters()])
        np.testing.assert_allclose(gradient, flat, atol=1e-12)
    along = batch.along(rows[:2].numpy(), rows[2:4].numpy(), np.array([0.0, 0.25]))
    between = 0.75 * rows[1] + 0.25 * rows[3]
    assert along[1, 1] == pytest.approx(own.loss(between.numpy()))


def test_the_quadratic_scripts_network_has_no_biases() -> None:
    own = freeman_nets.landscape("quadratic", "bare", 10)
    assert own.size == 4 + 16 + 4
    steep = own.module_at(100.0 * np.random.default_rng(0).normal(size=own.size))
    outputs = steep(torch.from_numpy(own.inputs)).detach().numpy()
    assert ((outputs >= 0) & (outputs <= 1)).all()
    weights = freeman_nets.is_weight(freeman_nets.landscape("cubic", "relu", 10))
    assert weights.sum() == 24
    assert len(weights) == 33


def test_training_is_adam_until_the_goal() -> None:
    own = freeman_nets.landscape("cubic", "sigmoid", 20)
    batch = freeman_nets.Batch(own)
    starts = np.random.default_rng(1).normal(size=(2, own.size))
    ends, reached = freeman_nets.train_to(batch, starts, 0.16, rate=0.01)
    for start, end, is_there in zip(starts, ends, reached, strict=True):
        assert is_there
        module = freeman_nets.network("cubic", "sigmoid")
        torch.nn.utils.vector_to_parameters(torch.from_numpy(start), module.parameters())
        optimiser = torch.optim.Adam(module.parameters(), lr=0.01)
        x, y = torch.from_numpy(own.inputs), torch.from_numpy(own.targets)
        while (loss := (module(x) - y).abs().mean()) >= 0.16:
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        found = torch.nn.utils.parameters_to_vector(module.parameters()).detach()
        # a step moves by up to 0.01; where Adam's small constant stands is the difference
        np.testing.assert_allclose(end, found, rtol=0, atol=2e-4)


def test_networks_that_put_out_a_constant_are_given_up() -> None:
    batch = freeman_nets.Batch(freeman_nets.landscape("cubic", "relu", 20))
    dead = np.full((1, 33), -1.0)
    _, reached = freeman_nets.train_to(batch, dead, 0.1, rate=0.01)
    assert not reached[0]


# ---- tables --------------------------------------------------------------------------------------


def test_published_numbers() -> None:
    assert {name: len(curve.levels) for name, curve in CURVES.items()} == {
        "quadratic": 10, "cubic": 9, "mnist": 7, "cifar": 7, "language": 6,
    }  # fmt: skip
    for curve in CURVES.values():
        assert len(curve.levels) == len(curve.lengths) == len(curve.beads)
        assert list(curve.levels) == sorted(curve.levels)
    assert CURVES["quadratic"].at(0.001) == (1.86, 62.4)
    assert CURVES["quadratic"].at(0.125) == (1.27, 4.0)
    assert CURVES["cubic"].at(0.158) == (2.54, 3.4)
    assert CURVES["mnist"].at(0.7) == (1.071, 7.1)
    assert CURVES["mnist"].at(0.9) is None
    for task, known in (("quadratic", CURVES["quadratic"]), ("cubic", CURVES["cubic"])):
        levels = {p["level"] for p in freeman._points(task)("paper", None)}
        assert levels == set(known.levels)


def made_up(parameters: dict[str, Any], seed: int) -> dict[str, Any]:
    beads = parameters["base"] + np.arange(5.0)
    return {"beads": np.append(beads, np.nan), "length": np.append(1.0 + beads / 100, np.nan)}


def test_rows_count_the_scatter_of_pairs_and_leave_out_the_unconnected(tmp_path: Path) -> None:
    study = Study(tmp_path / "made.sqlite")
    points = [{"level": level, "base": base} for level, base in ((0.1, 5.0), (0.05, 20.0))]
    study.run(made_up, points)
    low, high = freeman_tables.measured(study)
    assert (low.level, high.level) == (0.05, 0.1)
    length, beads = freeman_tables.rows_of(high, "ours", "cubic", told=True)
    assert (length.published, beads.published) == (1.38, 7.6)
    assert beads.ours == 7.0
    assert beads.published_error == pytest.approx(np.std([5, 6, 7, 8, 9], ddof=1))
    assert beads.trials == 5
    assert beads.agrees
    assert not length.agrees
    assert "1 of 6 pairs were not connected" in beads.note
    assert freeman_tables.rows_of(low, "ours", "cubic", told=False)[1].published is None
    few = low._replace(beads=low.beads[:2], lengths=low.lengths[:2])
    assert freeman_tables.rows_of(few, "ours", "cubic", told=True)[0].interval is None


def test_trend_is_the_rank_correlation_with_the_level(tmp_path: Path) -> None:
    study = Study(tmp_path / "made.sqlite")
    bases = ((0.1, 5.0), (0.05, 20.0), (0.02, 40.0))
    study.run(made_up, [{"level": level, "base": base} for level, base in bases])
    length, beads = freeman_tables.trend_rows(freeman_tables.measured(study), "ours")
    assert beads.ours < -0.9
    assert length.low < length.ours < length.high < 0
    assert beads.trials == 15


# ---- images and text -----------------------------------------------------------------------------


def test_generated_text_is_a_grammar() -> None:
    text = generated_text(400)
    np.testing.assert_array_equal(text, generated_text(400))
    assert text.min() >= 0
    assert text.max() < WORDS
    followers: dict[tuple[int, int], set[int]] = {}
    for sentence in text:
        for before, word, after in zip(sentence, sentence[1:], sentence[2:], strict=False):
            followers.setdefault((int(word), int(before) % 5), set()).add(int(after))
    assert max(map(len, followers.values())) == 4


def test_a_pair_of_language_models_is_joined() -> None:
    parameters = {
        "task": "language", "level": 40.0, "samples": 200, "tests": 50, "rate": 0.01, "every": 10,
        "steps": 400, "accept": 1.1, "alpha": 0.98, "depth": 4,
    }  # fmt: skip
    found = pair_at_level(parameters, seed=0)
    assert (found["ends"] < 40.0).all()
    assert found["beads"][0] >= 3
    assert 1.0 <= found["length"][0] < 3.0
    hopeless = pair_at_level(parameters | {"level": 1.5, "steps": 20}, seed=0)
    assert np.isnan(hopeless["beads"][0])
    assert hopeless["reached"] == 0.0


def test_shapes_of_the_larger_networks() -> None:
    assert convnet(1, 28)(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert convnet(3, 32)(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    words = torch.zeros(2, 7, dtype=torch.int64)
    assert Language(WORDS, 8)(words).shape == (2, 7, WORDS)


def folder_of(place: Path, *, cifar: bool = True) -> Path:
    """Small sets in the layout of the real ones: one bright row a class."""
    rng = np.random.default_rng(0)
    shapes = {"mnist": (28, 28)} | ({"cifar10": (32, 32, 3)} if cifar else {})
    for name, shape in shapes.items():
        for part, count in (("train_000", 300), ("test_100", 100)):
            y = rng.integers(0, 10, count).astype(np.uint8)
            x = rng.integers(0, 60, (count, *shape)).astype(np.uint8)
            x[np.arange(count), y] += 150
            np.savez(place / f"{name}_{part}.npz", x=x, y=y)
    return place


@pytest.mark.parametrize("source", ["mnist", "cifar"])
def test_a_pair_of_convolutional_networks_is_joined(source: str, tmp_path: Path) -> None:
    place = folder_of(tmp_path)
    parameters = {
        "task": source, "level": 30.0, "samples": 120, "tests": 60, "rate": 0.003, "every": 5,
        "steps": 200, "accept": 1.1, "alpha": 0.98, "depth": 5, "folder": str(place),
        "sha256": fingerprint(str(place), source),
    }  # fmt: skip
    found = pair_at_level(parameters, seed=0)
    assert (found["ends"] < 30.0).all()
    assert found["beads"][0] >= 3
    with pytest.raises(InputError, match="have changed since"):
        pair_at_level(parameters | {"sha256": "0"}, seed=0)


def test_experiments_on_images_need_a_folder_with_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no MNIST or CIFAR-10 images"):
        freeman_images.with_images(freeman.PAPER, tmp_path)
    paper = freeman.PAPER.with_data(folder_of(tmp_path, cifar=False))
    keys = [experiment.key for experiment in paper.experiments]
    assert keys == ["quadratic", "cubic", "switches", "language", "mnist"]
    assert "CIFAR-10 images are not in" in paper.notes[0]
    for experiment in paper.experiments:
        assert sum(point["runs"] for point in experiment.points("small", 15)) == 15


# ---- the command ---------------------------------------------------------------------------------


def test_pairs_at_a_level_are_below_it_and_joined() -> None:
    parameters = {"task": "cubic", "network": "relu", "level": 0.2, "runs": 2, "samples": 40}
    found = freeman_trials.pairs_at_level(
        parameters | freeman.AS_PUBLISHED | {"samples": 40, "rate": 0.01, "own": 1}, seed=0
    )
    assert (found["beads"] >= 3).all()
    assert (found["length"] >= 1.0 - 1e-12).all()
    assert found["own_proved"] == 1.0
    assert found["proved"][0] <= 1.2


@pytest.mark.paper
def test_smoke_run(tmp_path: Path) -> None:
    result = reproduce("freeman", tmp_path, scale="smoke", trials=1, jobs=1)
    assert result.complete
    text = result.summary()
    assert "The cubic task" in text
    assert "--data-dir" in text
    assert not any(standing.failed for standing in result.standings)
    page = result.report.read_text()
    for key in ("quadratic-lengths", "quadratic-beads", "cubic-beads", "language-lengths"):
        assert f"freeman-{key}" in page


@pytest.mark.paper
def test_the_published_curve_of_the_cubic(tmp_path: Path) -> None:
    """Ten pairs at the level above which straight lines suffice, and below it."""
    study = Study(tmp_path / "cubic.sqlite")
    points = freeman._points("cubic")("small", None)
    wanted = [p for p in points if p["network"] == "sigmoid" and p["level"] in (0.1, 0.168)]
    study.run(freeman_trials.pairs_at_level, wanted, jobs=1)
    low, high = freeman_tables.measured(study)
    for one in (low, high):
        assert np.isfinite(one.beads).all()
        for row in freeman_tables.rows_of(one, "ours", "cubic", told=True):
            assert row.agrees
    assert low.beads.mean() > 1.5 * high.beads.mean()
    assert low.lengths.mean() > high.lengths.mean()
