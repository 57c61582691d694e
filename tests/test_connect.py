"""Strings between models: against grids of losses in plain torch, closed forms and hand-made problems."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import dense, loss_of, sample
from numpy.typing import NDArray
from oracles import sequential
from torch import nn

import reluscape as rs
from reluscape.errors import InputError
from reluscape.progress import Stop
from reluscape.strings.judging import Beads
from reluscape.strings.keeping import Keeper
from reluscape.strings.pair import Pair
from reluscape.strings.surface import Surface
from reluscape.strings.training import Schedule, train_below
from reluscape.strings.usual import usual_level

METHODS = ("greedy", "constrained", "bezier", "band")
X = np.linspace(0.0, 1.0, 25)[:, None]
CUBIC = 8 * X**3 - 10 * X**2 + 3 * X


def flat(module: nn.Module) -> np.ndarray:
    return np.concatenate([p.detach().numpy().ravel() for p in module.parameters()])


def grid_losses(
    module: nn.Module, loss: str, inputs: np.ndarray, targets: np.ndarray, a, b, points: int = 400
) -> np.ndarray:
    """Losses on a segment by running the module with its parameters replaced."""
    found = []
    for t in np.linspace(0.0, 1.0, points):
        vector = torch.as_tensor((1 - t) * a + t * b)
        torch.nn.utils.vector_to_parameters(vector, module.parameters())
        with torch.no_grad():
            outputs = module(torch.as_tensor(inputs))
        if loss == "cross_entropy":
            found.append(float(nn.functional.cross_entropy(outputs, torch.as_tensor(targets))))
        else:
            found.append(float(((outputs - torch.as_tensor(targets)) ** 2).sum(1).mean()))
    return np.array(found)


def trained(widths: tuple[int, ...], goal: float, seeds: tuple[int, int]) -> list[np.ndarray]:
    """Two networks on the cubic below a loss, by torch's own optimiser."""
    found = []
    for seed in seeds:
        module = dense(widths, seed=seed)
        optimiser = torch.optim.Adam(module.parameters(), lr=0.02)
        for _ in range(3000):
            value = ((module(torch.as_tensor(X)) - torch.as_tensor(CUBIC)) ** 2).mean()
            if value.item() <= goal:
                break
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
        assert value.item() <= goal
        found.append(flat(module))
    return found


@cache
def cubic() -> tuple[rs.Landscape, np.ndarray, np.ndarray]:
    """Two wide networks that fit the cubic, between which the straight line fails."""
    a, b = trained((1, 12, 1), 0.018, (0, 1))
    return rs.Landscape(dense((1, 12, 1), seed=0), X, CUBIC), a, b


LEVEL = 0.02


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks are trained on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def joined(method: str) -> rs.Connection:
    landscape, a, b = cubic()
    return rs.connect(landscape, a, b, LEVEL, method=method, schedule=Schedule(max_steps=3000))


# ---- strings below a level ---------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_string_stays_below_its_level_on_a_grid(method: str) -> None:
    _, a, b = cubic()
    found = joined(method)
    assert found.status == "connected"
    assert found.tier == "exact"
    assert found.beads[0].tobytes() == a.tobytes()
    assert found.beads[-1].tobytes() == b.tobytes()
    module = dense((1, 12, 1), seed=0)
    highest = []
    for k in range(found.num_beads - 1):
        losses = grid_losses(module, "squared", X, CUBIC, *found.beads[k : k + 2])
        assert losses.max() <= found.upper[k] <= LEVEL
        assert found.lower[k] <= found.upper[k]
        highest.append(losses.max())
    assert found.maximum == found.upper.max() >= max(highest)
    straight = grid_losses(module, "squared", X, CUBIC, a, b)
    assert straight.max() > 2 * LEVEL  # what the string avoids
    assert straight.max() <= found.straight_upper
    assert found.straight_lower == pytest.approx(straight.max(), rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_measures_are_those_of_the_beads(method: str) -> None:
    found = joined(method)
    steps = [
        np.linalg.norm(found.beads[k + 1] - found.beads[k]) for k in range(found.num_beads - 1)
    ]
    distance = np.linalg.norm(found.beads[-1] - found.beads[0])
    assert found.normalized_length == pytest.approx(sum(steps) / distance, rel=1e-12)
    columns = np.r_[0:12, 24:36]  # weights of both layers; between them 12 biases, at the end one
    weights = found.beads[:, columns]
    steps = [np.linalg.norm(weights[k + 1] - weights[k]) for k in range(found.num_beads - 1)]
    distance = np.linalg.norm(weights[-1] - weights[0])
    assert found.normalized_length_weights == pytest.approx(sum(steps) / distance, rel=1e-12)
    ends = max(found.values[0], found.values[-1])
    assert found.barrier == pytest.approx(found.maximum - ends)
    assert found.linear_barrier == pytest.approx(found.straight_lower - ends)
    assert found.depths[0] == found.depths[-1] == 0
    assert found.depth == found.depths.max() >= 1
    landscape, _, _ = cubic()
    pairs = zip(found.beads[:-1], found.beads[1:], strict=True)
    crossed = [rs.cells_crossed(landscape, a, b) - 1 for a, b in pairs]
    assert found.cells(landscape) == 1 + sum(crossed) > found.num_beads


def test_values_at_beads_and_curves_are_losses() -> None:
    landscape, _, _ = cubic()
    found = joined("greedy")
    losses = [landscape.loss(bead) for bead in found.beads]
    np.testing.assert_allclose(found.values, losses, rtol=1e-12)
    points = found.curve.shape[1]
    for k, t in ((0, 5), (found.num_beads - 2, points - 1)):
        at = found.beads[k] + t / (points - 1) * (found.beads[k + 1] - found.beads[k])
        assert found.curve[k, t] == pytest.approx(landscape.loss(at), rel=1e-9)
    middle = 0.5 * (found.beads[0] + found.beads[-1])
    assert found.straight[points // 2] == pytest.approx(landscape.loss(middle), rel=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_bytes(method: str) -> None:
    landscape, a, b = cubic()
    again = rs.connect(landscape, a, b, LEVEL, method=method, schedule=Schedule(max_steps=3000))
    assert again.beads.tobytes() == joined(method).beads.tobytes()
    assert again.upper.tobytes() == joined(method).upper.tobytes()


@pytest.mark.parametrize("method", METHODS)
def test_a_connection_is_saved_and_loaded(method: str, tmp_path: Path) -> None:
    found = joined(method)
    back = rs.Connection.load(found.save(tmp_path / "string.nc"))
    for name in found.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(back, name), getattr(found, name), err_msg=name)
    assert replace(back, level=1e308).plot().data  # beyond it there is no power of ten
    figure = back.plot()
    assert {trace.name for trace in figure.data} == {"string", "straight line", "level", "beads"}
    dots = next(trace for trace in figure.data if trace.name == "beads")
    np.testing.assert_array_equal(dots.y, found.values)
    assert dots.x[0] == 0.0
    assert dots.x[-1] == pytest.approx(1.0)
    assert "connected: loss at most" in back.summary()
    assert "\n" not in repr(back)


def test_a_valley_round_a_hill_is_found() -> None:
    """One sample (1, 1), f = w2 w1 x with y = 1: the minima w1 w2 = 1 in two quadrants.

    From (1, 1) to (4, 1/4) the straight line rises to t = 1/2: (2.5 * 0.625 - 1)^2 = 0.316.
    """
    module = sequential([np.array([[1.0]]), np.array([[1.0]])], [None, None], 0.0)
    landscape = rs.Landscape(module, np.array([[1.0]]), np.array([[1.0]]))
    found = rs.connect(landscape, [1.0, 1.0], [4.0, 0.25], 0.01)
    assert found.status == "connected"
    assert found.tier == "exact"
    assert found.straight_lower == pytest.approx((2.5 * 0.625 - 1.0) ** 2, rel=1e-9)
    products = found.beads[:, 0] * found.beads[:, 1]
    assert np.abs(products - 1.0).max() <= 0.1


def test_a_straight_line_below_the_level_is_kept() -> None:
    landscape, a, b = cubic()
    found = rs.connect(landscape, a, b, 10.0)
    assert (found.num_beads, found.depth, found.gradients) == (2, 0, 0)
    assert found.normalized_length == 1.0
    assert found.status == "connected"
    same = rs.connect(landscape, a, a, LEVEL)
    assert (same.status, same.normalized_length) == ("connected", 1.0)


@pytest.mark.parametrize("method", ["bezier", "band"])
def test_depth_is_limited_whatever_the_method(method: str) -> None:
    landscape, a, b = cubic()
    short = Schedule(max_steps=100)
    found = rs.connect(landscape, a, b, LEVEL, method=method, max_depth=1, schedule=short)
    assert found.depth == 1


def test_a_level_within_rounding_of_an_end_is_refused() -> None:
    """No maximum is proved below the very loss that is computed there."""
    landscape, a, _ = cubic()
    level = landscape.loss(a)
    with pytest.raises(InputError, match=r"received 0\.0179.*, and theta_a has 0\.0179"):
        rs.connect(landscape, a, a, level * (1 + 1e-14))
    assert rs.connect(landscape, a, a, level * (1 + 1e-9)).status == "connected"


def test_the_usual_level_of_perfect_fits_leaves_room_for_rounding() -> None:
    landscape, a, _ = permuted()
    assert landscape.loss(a) < 1e-30
    level, _ = usual_level(landscape, [landscape.module_at(a)] * 2)
    assert level < 1e-8
    assert rs.connect(landscape, a, a, level).status == "connected"


def test_the_usual_level_is_about_the_line_that_is_to_be_avoided() -> None:
    """With its units swapped back, the second network is the first: nothing rises between them."""
    landscape, a, b = permuted()
    models = [landscape.module_at(a), landscape.module_at(b)]
    assert usual_level(landscape, models)[0] > 0.01
    assert usual_level(landscape, models, match_units=True)[0] < 1e-8


@pytest.mark.parametrize("loss", ["cross_entropy", "l1"])
def test_other_losses_are_certified(loss: str) -> None:
    inputs, targets = sample(30, 2, 2, loss, seed=3)
    landscape = rs.Landscape(dense((2, 5, 2), seed=0), inputs, targets, loss=loss)
    starts = np.stack([flat(dense((2, 5, 2), seed=k)) for k in (0, 1)])
    ends = train_below(Surface(landscape), starts, 0.0, Schedule(max_steps=200)).thetas
    level = 1.1 * max(landscape.loss(end) for end in ends)
    found = rs.connect(landscape, *ends, level)
    assert found.straight_lower > level
    assert found.status == "connected"
    assert found.tier in ("certified", "exact")
    for a, b in zip(found.beads[:-1], found.beads[1:], strict=True):
        module = dense((2, 5, 2), seed=0)
        for t in np.linspace(0.0, 1.0, 60):
            vector = torch.as_tensor((1 - t) * a + t * b)
            torch.nn.utils.vector_to_parameters(vector, module.parameters())
            with torch.no_grad():
                value = loss_of(loss, module(torch.as_tensor(inputs)), targets)
            assert float(value) <= level


# ---- failure is not found ----------------------------------------------------------------------


def permuted() -> tuple[rs.Landscape, np.ndarray, np.ndarray]:
    """A 2-3-2 network that maps {x1, x2, x3} to {x2, x3, x1}, and itself with two units swapped.

    Every unit is active on one sample only and carries its target, exactly fitted.
    """
    angles = np.pi / 2 + 2 * np.pi / 3 * np.arange(3)
    points = np.column_stack([np.cos(angles), np.sin(angles)])
    targets = points[[1, 2, 0]]
    module = sequential([points, targets.T], [None, None], 0.0)
    swapped = sequential([points[[1, 0, 2]], targets[[1, 0, 2]].T], [None, None], 0.0)
    landscape = rs.Landscape(module, points, targets)
    return landscape, flat(module), flat(swapped)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_not_found_is_not_called_disconnected(method: str) -> None:
    landscape, a, b = permuted()
    assert landscape.loss(a) < 1e-30
    assert landscape.loss(b) < 1e-30
    found = rs.connect(
        landscape, a, b, 0.01, method=method, max_depth=4, schedule=Schedule(max_steps=60)
    )
    assert found.status == "not_found"
    assert (found.tier, found.maximum) == ("exact", found.upper.max())
    assert found.upper.max() >= found.lower.max() > 0.01
    assert found.tried
    told = " ".join([found.summary(), *found.tried, repr(found)]).lower()
    assert "disconnect" not in told
    assert "does not show that there is none" in told
    assert found.beads[0].tobytes() == a.tobytes()
    assert found.beads[-1].tobytes() == b.tobytes()


def test_matching_the_units_joins_the_swapped_network() -> None:
    landscape, a, b = permuted()
    found = rs.connect(landscape, a, b, 0.01, match_units=True)
    assert found.status == "connected"
    assert found.matched
    assert found.beads[-1].tobytes() == a.tobytes()  # the swap undone is the same network
    assert found.unmatched_lower > 0.01
    assert "permuted" in found.summary()


def test_a_search_goes_on_from_where_it_ended(tmp_path: Path) -> None:
    landscape, a, b = cubic()
    short = rs.connect(landscape, a, b, LEVEL, max_depth=1)
    assert short.status == "not_found"
    assert any("depth 1 was reached" in line for line in short.tried)
    kept = rs.Connection.load(short.save(tmp_path / "short.nc"))
    found = rs.connect(landscape, a, b, LEVEL, start=kept)
    assert found.status == "connected"
    rows = {row.tobytes() for row in found.beads}
    assert all(row.tobytes() in rows for row in short.beads)
    assert found.depth > 1
    assert found.gradients > short.gradients > 0
    assert found.losses > short.losses
    assert found.seconds > short.seconds
    assert found.tried[0] == "gone on from a string of 3 beads that was there before"
    with pytest.raises(InputError, match="between other models"):
        rs.connect(landscape, b, a, LEVEL, start=kept)


@pytest.mark.parametrize(
    "change",
    [
        lambda beads, depths: {"depths": depths[:2]},
        lambda beads, depths: {"depths": np.append(depths, 0)},
        lambda beads, depths: {"depths": -depths},
        lambda beads, depths: {"depths": 1.0 * depths},
        lambda beads, depths: {"beads": beads[:0], "depths": depths[:0]},
        lambda beads, depths: {"beads": beads[:1], "depths": depths[:1]},
        lambda beads, depths: {"beads": beads[:, :5]},
        lambda beads, depths: {"beads": np.where(np.eye(*beads.shape, 3) > 0, np.nan, beads)},
    ],
)
def test_strings_put_together_wrongly_are_not_gone_on_from(change: Any) -> None:
    landscape, a, b = cubic()
    beads, depths = np.stack([a, 0.5 * (a + b), b]), np.array([0, 1, 0])
    kept = rs.Unfinished(LEVEL, beads, depths, "greedy", 0, "loss", "squared", 0.0, 0, 0, 0.0)
    with pytest.raises(InputError, match="start must have"):
        rs.connect(landscape, a, b, LEVEL, start=replace(kept, **change(beads, depths)))
    changed = kept.to_dataset().assign_attrs(level="low")
    with pytest.raises(InputError, match="expected a float as field 'level'"):
        rs.Unfinished.from_dataset(changed)
    with pytest.raises(InputError, match="received Unfinished"):
        rs.verify(kept, landscape)  # type: ignore[arg-type]


class Killed(Exception):
    """Ends a search as a kill would: nothing is tidied up."""


def killed_at(landscape, a, b, file: Path, told: Callable[[str], bool]) -> rs.Unfinished:
    """What is left in the file of a search that is killed once this is told."""

    def kill(what: str, fraction: float) -> None:
        if told(what):
            raise Killed

    with pytest.raises(Killed):
        rs.connect(landscape, a, b, LEVEL, keep=file, progress=kill)
    return rs.Unfinished.load(file)


def test_killed_between_two_depths_a_search_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    landscape, a, b = cubic()
    whole = rs.connect(landscape, a, b, LEVEL)
    kept = killed_at(landscape, a, b, tmp_path / "kept.nc", lambda what: "depth 1, worst" in what)
    assert (kept.level, kept.method, kept.depths.max()) == (LEVEL, "greedy", 1)
    assert len(kept.beads) < whole.num_beads
    found = rs.connect(landscape, a, b, LEVEL, start=kept)
    assert found.beads.tobytes() == whole.beads.tobytes()
    np.testing.assert_array_equal(found.depths, whole.depths)


def test_killed_in_training_no_step_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    landscape, a, b = cubic()
    monkeypatch.setattr("reluscape.strings.keeping.SECONDS", -1.0)
    monkeypatch.setattr("reluscape.strings.keeping.SHARE", -1.0)
    steps: list[str] = []

    def later(what: str) -> bool:
        steps.extend([what] * what.startswith("training"))
        return len(steps) == 20

    kept = killed_at(landscape, a, b, tmp_path / "kept.nc", later)
    assert len(kept.beads) == 3
    losses = [landscape.loss(row) for row in kept.beads]
    start = max(landscape.loss(a + t * (b - a)) for t in np.linspace(0.05, 0.95, 31))
    assert max(losses) < 0.9 * start
    found, again = (rs.connect(landscape, a, b, LEVEL, start=kept) for _ in range(2))
    assert found.status == "connected"
    assert found.beads.tobytes() == again.beads.tobytes()


def test_beads_to_go_on_from_have_as_many_starts_as_new_ones(tmp_path: Path) -> None:
    landscape, a, b = cubic()
    found = rs.connect(landscape, a, b, LEVEL, max_depth=1)
    dead = landscape.theta
    dead[:12], dead[12:24] = (
        0.0,
        -10.0,
    )  # no unit is ever on, and only the output bias has a gradient
    string = replace(found, beads=np.stack([a, dead, b]), depths=np.array([0, 1, 0]))
    again = rs.connect(landscape, a, b, LEVEL, start=string)
    assert again.status == "connected"


def test_a_string_is_written_at_new_depths_and_when_it_is_time(tmp_path: Path) -> None:
    now = [0.0]
    file = tmp_path / "kept.nc"
    surface = Surface(cubic()[0])
    keeper = Keeper(file, surface, 1.0, "greedy", 0, 0.0, clock=lambda: now[0])

    def written(beads: Beads, draft: bool = False) -> bool:
        file.unlink(missing_ok=True)
        keeper.offer_draft(lambda: beads) if draft else keeper.offer(beads)
        return file.exists()

    points = [np.zeros(2), np.ones(2)]
    flat, deep = Beads(points, [0, 0]), Beads([*points, np.ones(2)], [0, 1, 0])
    assert not written(flat)
    assert written(deep)
    assert not written(deep)
    now[0] = 9.9
    assert not written(deep, draft=True)
    now[0] = 10.1
    assert written(deep, draft=True)
    assert not written(deep, draft=True)
    now[0] = 30.0
    assert written(deep)
    np.testing.assert_array_equal(rs.Unfinished.load(file).depths, [0, 1, 0])


@pytest.mark.parametrize("file", ["", 3, "folder", "mine.csv", "/proc/none/kept.nc"])
def test_files_that_cannot_be_kept_are_refused_at_once(
    file: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "mine.csv").write_text("1,2\n")
    with pytest.raises(InputError, match="keep must be"):
        rs.connect(*cubic(), LEVEL, keep=file, progress=lambda *_: pytest.fail("it has begun"))
    assert (tmp_path / "mine.csv").read_text() == "1,2\n"


def test_a_string_that_cannot_be_written_any_more_does_not_end_the_search(tmp_path: Path) -> None:
    file = tmp_path / "kept.nc"

    def taken(what: str, fraction: float) -> None:
        file.mkdir(exist_ok=True)  # a folder in the file's place

    with pytest.warns(UserWarning, match="could not be kept in"):
        found = rs.connect(*cubic(), LEVEL, keep=file, progress=taken)
    assert found.status == "connected"


@pytest.mark.parametrize("method", METHODS)
def test_a_stop_keeps_the_string(method: str) -> None:
    landscape, a, b = cubic()
    calls = []

    def stop(what: str, fraction: float) -> None:
        calls.append(what)
        if len(calls) == 2:
            raise Stop

    found = rs.connect(landscape, a, b, 0.0181, method=method, progress=stop)
    assert found.tried[-1] == "stopped before the end"
    assert found.status == "not_found"
    assert found.beads[0].tobytes() == a.tobytes()
    assert found.beads[-1].tobytes() == b.tobytes()
    assert any("beads" in what and "worst segment" in what for what in calls)


# ---- batches -----------------------------------------------------------------------------------


def test_beads_trained_as_a_batch_and_one_by_one_are_the_same() -> None:
    landscape, a, b = cubic()
    starts = a + np.linspace(0.2, 0.8, 5)[:, None] * (b - a)
    schedule = Schedule(max_steps=30)
    together = train_below(Surface(landscape), starts, 0.03, schedule)
    alone = [train_below(Surface(landscape), one[None], 0.03, schedule) for one in starts]
    plain = train_below(Surface(landscape, batched=False), starts, 0.03, schedule)
    for other in (replace_all(alone), plain):
        np.testing.assert_allclose(together.thetas, other.thetas, rtol=1e-9, atol=1e-11)
        np.testing.assert_array_equal(together.steps, other.steps)
        np.testing.assert_array_equal(together.reached, other.reached)


def replace_all(parts):
    """Trainings of one bead each as one."""
    first = parts[0]
    names = ("thetas", "values", "reached", "steps")
    return replace(first, **{n: np.concatenate([getattr(p, n) for p in parts]) for n in names})


def test_training_is_adam() -> None:
    """The path of a bead is that of torch.optim.Adam until it is below the goal."""
    landscape, a, b = cubic()
    start = 0.5 * (a + b)
    module = landscape.module_at(start)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.01)
    goal = 0.02
    for _ in range(49):  # no rate is halved before
        value = ((module(torch.as_tensor(X)) - torch.as_tensor(CUBIC)) ** 2).mean()
        if value.item() <= goal:
            break
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    found = train_below(Surface(landscape), start[None], goal, Schedule(max_steps=49))
    assert found.reached[0] == (value.item() <= goal)
    np.testing.assert_allclose(found.thetas[0], flat(module), rtol=1e-8, atol=1e-10)


class Looping(nn.Module):
    """A model whose forward asks for a value, which no batch of models can answer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.layer(x)
        return out if self.layer.weight.sum().item() > -1e9 else -out


def test_a_model_that_cannot_be_batched_is_trained_one_by_one() -> None:
    landscape = rs.Landscape(Looping(), X, CUBIC)
    surface = Surface(landscape)
    assert "item" in surface.unbatched
    rows = np.array([[1.0, 0.0], [2.0, 1.0]])
    losses, gradients = surface.slopes(torch.as_tensor(rows))
    np.testing.assert_allclose(losses, [landscape.loss(row) for row in rows], rtol=1e-12)
    np.testing.assert_allclose(gradients, [landscape.gradient(row) for row in rows], rtol=1e-12)
    least = landscape.loss([0.0, float(CUBIC.mean())])
    found = rs.connect(landscape, [1.0, -0.5], [-1.0, 0.5], least + 1.0)
    assert found.status == "connected"
    assert found.tier == "sampled"
    assert found.unbatched == surface.unbatched


class Reader(nn.Module):
    """A small recurrent network over rows of the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(1, 3, batch_first=True)
        self.head = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.cell(x[:, :, None])[0][:, -1])


def convolved() -> nn.Module:
    parts = [nn.Conv1d(1, 2, 2), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(4, 1)]
    return nn.Sequential(nn.Unflatten(1, (1, 6)), *parts)


@pytest.mark.parametrize(("make", "tier"), [(Reader, "sampled"), (convolved, "certified")])
def test_any_module_is_trained_in_batches_or_one_by_one(make, tier) -> None:
    inputs, targets = sample(20, 6, 1, "squared", seed=0)
    torch.manual_seed(0)
    ends = [flat(make().double()) for _ in range(2)]
    landscape = rs.Landscape(make().double(), inputs, targets)
    surface = Surface(landscape)
    losses, gradients = surface.slopes(torch.as_tensor(np.stack(ends)))
    np.testing.assert_allclose(losses, [landscape.loss(end) for end in ends], rtol=1e-10)
    expected = [landscape.gradient(end) for end in ends]
    np.testing.assert_allclose(gradients, expected, rtol=1e-9, atol=1e-12)
    found = rs.connect(landscape, *ends, 1.01 * max(landscape.loss(end) for end in ends))
    assert found.status == "connected"
    assert found.tier == tier


def test_large_batches_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    landscape, a, b = cubic()
    rows = a + np.linspace(0, 1, 7)[:, None] * (b - a)
    whole = Surface(landscape).slopes(torch.as_tensor(rows))
    monkeypatch.setattr("reluscape.strings.surface.LARGEST_BATCH", {"cpu": 2000})
    surface = Surface(landscape)
    sizes = []

    def recorded(function: Any, part: torch.Tensor) -> torch.Tensor:
        sizes.append(len(part))
        return torch.func.vmap(function)(part)

    with monkeypatch.context() as patched:  # activations of a part are freed before the next
        patched.setattr(surface, "_map", recorded)
        cut = surface.slopes(torch.as_tensor(rows))
    assert sum(sizes) == 7
    assert 1 < max(sizes) < 7
    for one, other in zip(whole, cut, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(surface.values(rows), [landscape.loss(row) for row in rows])
    along = surface.along(rows[:2], rows[2:4], np.array([0.0, 0.25, 1.0]))
    middle = 0.75 * rows[1] + 0.25 * rows[3]
    assert along[1, 1] == pytest.approx(landscape.loss(middle))
    assert along.shape == (2, 3)
    monkeypatch.setattr("reluscape.strings.surface.LARGEST_BATCH", {"cpu": 1})  # one at a time
    np.testing.assert_allclose(
        Surface(landscape).along(rows[:2], rows[2:4], np.array([0.0, 0.25, 1.0])), along
    )


def test_minibatches_cover_all_samples() -> None:
    landscape, a, b = cubic()
    surface = Surface(landscape, seed=4)
    batches = surface.batches(10)
    parts = [surface.slopes(torch.as_tensor(a[None]), batch) for batch in batches]
    sizes = np.array([10, 10, 5])
    mean = sum(size * gradient for size, (_, gradient) in zip(sizes, parts, strict=True)) / 25
    np.testing.assert_allclose(mean[0], landscape.gradient(a), rtol=1e-9, atol=1e-12)
    found = rs.connect(landscape, a, b, LEVEL, schedule=Schedule(batch_size=10), alpha=0.9)
    assert found.status == "connected"


# ---- metrics, statistics -----------------------------------------------------------------------


def blobs(seed: int, count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    centres = 2.0 * np.array([[1.0, 0.0], [-0.5, 0.9], [-0.5, -0.9]])
    return centres[labels] + 0.5 * rng.normal(size=(count, 2)), labels


def classifiers(make, seeds, inputs, labels, steps: int = 150) -> list[nn.Module]:
    models = []
    for seed in seeds:
        torch.manual_seed(seed)
        module = make().double()
        optimiser = torch.optim.Adam(module.parameters(), lr=0.05)
        for _ in range(steps):
            value = nn.functional.cross_entropy(
                module(torch.as_tensor(inputs)), torch.as_tensor(labels)
            )
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
        models.append(module.eval())
    return models


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 3))


def wrong(module: nn.Module, theta: np.ndarray, inputs: np.ndarray, labels: np.ndarray) -> float:
    torch.nn.utils.vector_to_parameters(torch.as_tensor(theta), module.parameters())
    with torch.no_grad():
        return float((module(torch.as_tensor(inputs)).argmax(1).numpy() != labels).mean())


@pytest.mark.parametrize("kind", ["error_rate", "function", "landscape"])
def test_a_string_below_a_level_of_something_else(kind: str) -> None:
    inputs, labels = blobs(0)
    models = classifiers(plain, (2, 3), inputs, labels)
    landscape = rs.Landscape(models[0], inputs, labels, loss="cross_entropy")
    test = rs.Landscape(models[0], *blobs(1), loss="cross_entropy")
    metric = {
        "error_rate": "error_rate",
        "function": lambda outputs, targets: (outputs.argmax(1) != targets).mean(),
        "landscape": test,
    }[kind]
    ends = [flat(model) for model in models]
    if kind == "landscape":
        level = 1.5 * max(test.loss(end) for end in ends)
    else:
        level = 0.02 + max(wrong(plain().double(), end, inputs, labels) for end in ends)
    found = rs.connect(landscape, *ends, level, metric=metric)
    assert found.status == "connected"
    assert found.straight_lower > level
    assert found.tier == ("certified" if kind == "landscape" else "sampled")
    worst = []
    for a, b in zip(found.beads[:-1], found.beads[1:], strict=True):
        points = a + np.linspace(0, 1, 257)[:, None] * (b - a)
        if kind == "landscape":
            worst += [test.loss(point) for point in points[::16]]
        else:
            worst += [wrong(plain().double(), point, inputs, labels) for point in points]
    assert max(worst) <= level
    if kind != "landscape":
        assert found.maximum == pytest.approx(max(worst))
        assert np.isinf(found.upper).all()
        assert "seen on a grid" in found.summary()


def test_beads_are_trained_below_a_negative_level() -> None:
    inputs, labels = blobs(0)
    models = classifiers(plain, (2, 3), inputs, labels)
    landscape = rs.Landscape(models[0], inputs, labels, loss="cross_entropy")

    def lost(outputs: NDArray[np.float64], targets: NDArray[np.generic]) -> float:
        return -float((outputs.argmax(1) == targets).mean())

    ends = [flat(model) for model in models]
    level = 0.02 - 1 + max(wrong(plain().double(), end, inputs, labels) for end in ends)
    found = rs.connect(landscape, *ends, level, metric=lost, alpha=0.5)
    assert found.status == "connected"
    assert found.num_beads > 2
    assert found.maximum <= level < 0


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def test_running_statistics_follow_the_string() -> None:
    inputs, labels = blobs(2)
    models = classifiers(normed, (0, 1), inputs, labels)
    landscape = rs.Landscape(models[0], inputs, labels, loss="cross_entropy")
    criterion = nn.CrossEntropyLoss()
    wanted = torch.as_tensor(labels)
    level = 1.5 * max(criterion(m(torch.as_tensor(inputs)), wanted).item() for m in models)
    found = rs.connect(landscape, models[0], models[1].state_dict(), level)
    assert found.status == "connected"
    assert found.tier == "sampled"
    assert found.straight_lower > level >= found.maximum
    for model, bead in ((models[0], 0), (models[1], -1)):
        state = found.state(landscape, bead)
        for name, value in model.state_dict().items():
            assert torch.equal(state[name].to(value.dtype), value), name
    module = normed().double().eval()
    middle = found.num_beads // 2
    assert 0 < middle < found.num_beads - 1
    module.load_state_dict(found.state(landscape, middle))
    value = float(criterion(module(torch.as_tensor(inputs)), wanted).detach())
    assert value == pytest.approx(found.values[middle], rel=1e-9)
    module.train()  # the statistics of the data, at a point between two beads
    points = found.curve.shape[1]
    at = found.beads[0] + 3 / (points - 1) * (found.beads[1] - found.beads[0])
    torch.nn.utils.vector_to_parameters(torch.as_tensor(at), module.parameters())
    value = float(criterion(module(torch.as_tensor(inputs)), wanted).detach())
    assert found.curve[0, 3] == pytest.approx(value, rel=1e-9)


def test_a_string_has_its_values_on_its_own_data_and_between_its_own_statistics_only() -> None:
    inputs, labels = blobs(2)
    models = classifiers(normed, (0, 1), inputs, labels)
    landscape = rs.Landscape(models[0], inputs, labels, loss="cross_entropy")
    found = rs.connect(landscape, *models, 5.0, match_units=True)

    def pair(match_units: bool = True) -> Pair:
        return Pair.of(landscape, *models, metric=None, match_units=match_units)

    assert pair().has_ends(found)
    assert pair().has_values(found)
    assert not pair(False).has_ends(found)
    other = rs.Landscape(models[0], inputs, labels[::-1].copy(), loss="cross_entropy")
    assert not Pair.of(other, *models, metric=None, match_units=True).has_values(found)
    models[1][1].running_mean += 1.0
    assert not pair().has_values(found)


def test_loss_on_other_data_uses_the_training_data_s_statistics() -> None:
    inputs, labels = blobs(2)
    models = classifiers(normed, (0, 1), inputs, labels)
    landscape = rs.Landscape(models[0], inputs, labels, loss="cross_entropy")
    others, answers = blobs(3)
    test = rs.Landscape(models[0], others, answers, loss="cross_entropy")
    found = rs.connect(landscape, *models, 5.0, metric=test)
    assert found.tier == "sampled"
    module = normed().double()
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d):
            norm.momentum = 1.0
    torch.nn.utils.vector_to_parameters(torch.as_tensor(found.beads[0]), module.parameters())
    module(torch.as_tensor(inputs))
    module[1].running_var *= (len(inputs) - 1) / len(inputs)  # torch keeps the unbiased one
    outputs = module.eval()(torch.as_tensor(others))
    value = float(nn.functional.cross_entropy(outputs, torch.as_tensor(answers)).detach())
    assert found.values[0] == pytest.approx(value, rel=1e-9)
    checked = rs.verify(found, landscape, metric=test)
    assert checked.valid, checked.reason
    assert "landscape of these" in rs.verify(found, test).reason
    assert not rs.verify(found, test.at(found.beads[0]), metric=test).valid


@pytest.mark.parametrize("metric", [None, "error_rate"])
def test_ends_have_to_be_below_the_level_by_their_own_statistics(metric: str | None) -> None:
    inputs, labels = blobs(2)
    models = classifiers(normed, (0, 1), inputs, labels, steps=40)
    models[0][1].running_mean += 3.0
    landscape = rs.Landscape(models[0], inputs, labels, loss="cross_entropy")
    outputs = models[0](torch.as_tensor(inputs)).detach()
    right = torch.as_tensor(labels)
    own = {
        None: float(nn.functional.cross_entropy(outputs, right)),
        "error_rate": float((outputs.argmax(1) != right).double().mean()),
    }[metric]
    with pytest.raises(InputError, match=f"theta_a has {own:.6}"):
        rs.connect(landscape, *models, 0.9 * own, metric=metric)
    assert usual_level(landscape, models, metric)[1][0] == pytest.approx(own)


# ---- many models -------------------------------------------------------------------------------


def test_a_spanning_tree_takes_the_lowest_strings() -> None:
    """f = w x on x = 1, y = 0 with weight w: the loss w^2 is convex, so that a string's height is that
    of its higher end; with a hill max(...) it would not be. Four points: 0, 1, -2, 3."""
    landscape = rs.Landscape(nn.Linear(1, 1, bias=False).double(), np.array([[1.0]]), [0.0])
    tree = rs.spanning_tree(landscape, [[0.0], [1.0], [-2.0], [3.0]])
    np.testing.assert_allclose(tree.values, [0.0, 1.0, 4.0, 9.0])
    assert sorted(tree.heights) == pytest.approx([1.0, 4.0, 9.0])
    assert tree.pass_between(1, 2) == pytest.approx(4.0)
    assert tree.pass_between(3, 0) == pytest.approx(9.0)
    assert tree.pass_between(2, 2) == pytest.approx(4.0)
    for other in (-1, 4, "0"):
        with pytest.raises(InputError, match=r"models must lie in 0\.\.3"):
            tree.pass_between(0, other)
    assert tree.components(4.5) == [[0, 1, 2]]
    assert tree.components(0.5) == [[0]]
    assert tree.tier in ("exact", "certified")


def test_a_spanning_tree_of_strings(tmp_path: Path) -> None:
    landscape, a, b = cubic()
    low = rs.spanning_tree(landscape, [a, b], join=lambda u, v: rs.connect(landscape, u, v, LEVEL))
    high = rs.spanning_tree(landscape, [a, b])
    assert low.heights[0] <= LEVEL < high.heights[0]
    back = rs.SpanningTree.load(low.save(tmp_path / "tree.nc"))
    np.testing.assert_array_equal(back.maxima, low.maxima)
    assert back.strings[0].beads.tobytes() == low.strings[0].beads.tobytes()


# ---- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"level": 1e-6}, "level must be at least the loss of both ends"),
        ({"method": "straight"}, "method must be one of"),
        ({"level": "0.1"}, "level must be a finite number; received '0.1'"),
        ({"level": np.inf}, "level must be a finite number"),
        ({"method": ["greedy"]}, "method must be one of"),
        ({"metric": 3}, "metric must be None"),
        ({"metric": lambda outputs, _: outputs}, "metric must return one number"),
        ({"schedule": 5}, "schedule must be a Schedule; received 5"),
        ({"spring": "1"}, "spring must be"),
        ({"metric": "error_rate"}, "error_rate needs class indices"),
        ({"spring": -1.0}, "spring must be"),
        ({"relative_gap": 0}, "relative_gap must be a positive number"),
        ({"alpha": 2.0}, "alpha must be"),
        ({"start": 3}, "start must be a Connection"),
        ({"theta_a": np.zeros(3)}, "theta must have shape"),
        ({"theta_a": {"other": torch.zeros(1)}}, "theta_a does not fit"),
    ],
)
def test_wrong_options_are_told(change: dict, message: str) -> None:
    landscape, a, b = cubic()
    options = {"theta_a": a, "theta_b": b, "level": LEVEL} | change
    with pytest.raises(InputError, match=message):
        rs.connect(landscape, **options)


def test_wrong_schedules_and_metrics_are_told() -> None:
    landscape, _, _ = cubic()
    for options in ({"rate": 0.0}, {"max_steps": 0}, {"batch_size": 0}):
        with pytest.raises(InputError):
            Schedule(**options)
    with pytest.raises(InputError, match="same model"):
        Surface(landscape, rs.Landscape(dense((1, 2, 1), seed=0), X, CUBIC))
    with pytest.raises(InputError, match="two models"):
        rs.spanning_tree(landscape, [landscape.theta])
    with pytest.raises(InputError, match="bead must lie"):
        joined("greedy").state(landscape, 99)


# ---- verification ------------------------------------------------------------------------------


def test_a_string_file_is_verified(tmp_path: Path) -> None:
    landscape, _, _ = cubic()
    for method in METHODS:
        checked = rs.verify(joined(method).save(tmp_path / f"{method}.nc"), landscape)
        assert checked.valid, checked.reason
        assert "connected: loss at most" in checked.reason
    _, a, b = cubic()
    failed = rs.connect(landscape, a, b, LEVEL, max_depth=1)
    checked = rs.verify(failed, landscape)
    assert checked.valid
    assert "does not show that there is none" in checked.reason


def test_strings_of_metrics_and_statistics_are_verified() -> None:
    inputs, labels = blobs(2)
    models = classifiers(normed, (0, 1), inputs, labels)
    landscape = rs.Landscape(models[0], inputs, labels, loss="cross_entropy")
    found = rs.connect(landscape, models[0], models[1], 0.05)
    assert found.buffers.shape == (found.num_beads, 17)  # two times 8 statistics and a counter
    assert rs.verify(found, landscape).valid
    assert not rs.verify(replace(found, buffers=found.buffers[:, :0]), landscape).valid
    assert found.num_beads > 2
    wrong = rs.connect(landscape, *models, 0.9, metric="error_rate", start=found)
    assert rs.verify(wrong, landscape).valid
    for one in (found, wrong):
        buffers = one.buffers.copy()
        buffers[1, 0] += 1e-3
        reason = rs.verify(replace(one, buffers=buffers), landscape).reason
        assert "running statistics of bead 1 are not those of the data" in reason

    def largest(outputs: NDArray[np.float64], targets: NDArray[np.generic]) -> float:
        return float(np.abs(outputs).max())

    own = rs.connect(landscape, models[0], models[1], 1e3, metric=largest)
    assert "give verify that metric" in rs.verify(own, landscape).reason
    assert rs.verify(own, landscape, metric=largest).valid
    certificate = rs.certify(landscape.block(-1))
    with pytest.raises(
        InputError, match="metric is for a Connection or a tree of them; received one with a certif"
    ):
        rs.verify(certificate, landscape, metric=largest)


def test_tampered_strings_are_rejected() -> None:
    landscape, a, b = cubic()
    found = joined("greedy")
    failed = rs.connect(landscape, a, b, LEVEL, max_depth=1)
    moved = found.beads.copy()
    moved[2, 3] += 1e-3
    raised, lowered = found.upper.copy(), found.lower.copy()
    raised[1] *= 0.9
    lowered[1] *= 1.01
    for wrong in (
        replace(found, beads=moved),
        replace(found, beads=found.beads[:, :-1]),
        replace(found, upper=raised),
        replace(found, lower=lowered),
        replace(found, maximum=found.maximum * 0.99),
        replace(found, level=found.maximum * 0.99),
        replace(found, tier="sampled"),
        replace(found, normalized_length=1.0),
        replace(found, straight=found.straight * 0.5),
        replace(found, status="certain"),
        replace(found, objective="l1"),
        replace(found, weight_decay=0.1),
        replace(failed, status="connected"),
        replace(failed, status="connected", upper=np.full_like(failed.upper, LEVEL)),
    ):
        checked = rs.verify(wrong, landscape)
        assert not checked.valid
        assert checked.reason
    other = rs.Landscape(dense((1, 12, 1), seed=0), X, CUBIC + 0.01)
    assert not rs.verify(found, other).valid


@pytest.mark.parametrize("level", [1e12, -1e12])
def test_a_stated_level_does_not_widen_what_is_accepted(level: float) -> None:
    landscape, a, b = cubic()
    found = rs.connect(landscape, a, b, 10.0)
    zeros = {name: np.zeros_like(getattr(found, name)) for name in ("values", "curve", "straight")}
    forged = replace(found, **zeros, level=level, maximum=1e-3, lower=np.zeros(1),
                     upper=np.full(1, 1e-3), straight_lower=0.0, straight_upper=1e-3)  # fmt: skip
    if level < 0:
        unknown = {"tier": "sampled", "tiers": ("sampled",), "upper": np.full(1, np.inf)}
        forged = replace(forged, **unknown, status="not_found", lower=np.full(1, 1e-3))
    assert "values at beads" in rs.verify(forged, landscape).reason
    nothing = replace(found, values=np.full(2, np.nan))
    assert "values at beads" in rs.verify(nothing, landscape).reason


def test_a_model_and_itself_at_its_own_loss_are_verified() -> None:
    inputs, targets = sample(20, 2, 1, "squared", seed=0)
    module = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
    landscape = rs.Landscape(module, inputs, targets)
    for seed in range(4):  # (1 - t) a + t a is not always a
        a = np.random.default_rng(seed).normal(size=landscape.size)
        found = rs.connect(landscape, a, a, landscape.loss(a))
        assert found.status == "connected"
        checked = rs.verify(found, landscape)
        assert checked.valid, checked.reason


class Undefined(nn.Module):
    """NaN where the product of its factors is negative."""

    def __init__(self) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.ones(2))
        self.layer = nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factors.prod().log() * self.layer(x)


@pytest.mark.parametrize("method", METHODS)
def test_a_path_across_what_has_no_loss_is_told_and_verified(method: str) -> None:
    landscape = rs.Landscape(Undefined(), X, CUBIC)
    a, b = np.array([1.0, 2.0, 0.1, 0.0]), np.array([-2.0, -1.0, 0.1, 0.0])
    slopes = Surface(landscape).slopes(torch.as_tensor(np.stack([a, 0.5 * (a + b)])))[1].numpy()
    np.testing.assert_allclose(slopes, [landscape.gradient(a), np.zeros(4)])
    short = Schedule(max_steps=20)
    found = rs.connect(landscape, a, b, 50.0, max_depth=2, method=method, schedule=short)
    assert found.status == "not_found"
    assert found.lower.max() == np.inf
    checked = rs.verify(found, landscape)
    assert checked.valid, checked.reason
    assert not rs.verify(replace(found, lower=np.minimum(found.lower, 9.0)), landscape).valid


@pytest.mark.parametrize("other", [nn.Tanh(), nn.LeakyReLU(0.3)])
def test_an_end_with_another_forward_is_refused(other: nn.Module) -> None:
    """Its weights would be taken into the first model's forward."""
    first, last = dense((1, 3, 1), seed=0), dense((1, 3, 1), seed=1)
    landscape = rs.Landscape(first, X, CUBIC)
    assert rs.connect(landscape, first, last, 50.0).status == "connected"
    last[1] = other
    with pytest.raises(InputError, match="theta_b must be a model with the landscape's forward"):
        rs.connect(landscape, first, last, 50.0)
