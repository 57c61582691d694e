"""The survey: what it measures, what it writes, and what Ctrl-C and bad folders leave behind."""

import json
import shlex
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import nn

import reluscape.survey as survey_module
from reluscape.data import Data
from reluscape.errors import InputError, UnsupportedModelError
from reluscape.landscape import Landscape
from reluscape.minima.result import CellMinimum
from reluscape.models import load_model
from reluscape.report import build_sections
from reluscape.survey import Subject, Survey, load_survey, survey
from reluscape.train import Training, mlp, train
from reluscape.verification import verify

STEPS = ["building", "certificate of the whole network", "chords", "facets", "largest ball"]


def regression(num_samples: int = 24, shape: tuple[int, ...] = (3,), seed: int = 0) -> Data:
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(num_samples, *shape))
    targets = rng.normal(size=(num_samples, 1))
    return Data(inputs, targets, "drawn")


def ready(module: nn.Module, name: str = "net") -> Subject:
    return Subject(name, lambda _: (module.double(), None))


def taught(data: Data, widths: tuple[int, ...], name: str = "taught", seed: int = 0) -> Subject:
    def build(progress: Callable[[str, float], None]) -> tuple[nn.Module, Training]:
        model = mlp(widths, seed=seed)
        record = train(
            model,
            data.inputs,
            data.targets,
            loss="squared",
            epochs=20,
            batch_size=8,
            rate=0.05,
            seed=seed,
            keep=6,
            progress=progress,
        )
        return model, record

    return Subject(name, build)


def relu_signs(model: nn.Sequential, inputs: np.ndarray) -> list[np.ndarray]:
    values, signs = torch.from_numpy(inputs), []
    with torch.no_grad():
        for part in model:
            if isinstance(part, nn.ReLU):
                signs.append((values > 0).numpy())
            values = part(values)
    return signs


# ---- what is measured ------------------------------------------------------------------------


def test_gradients_and_activity_are_those_of_the_module() -> None:
    data, model = regression(), mlp((3, 5, 4, 1), seed=3)
    found = survey([ready(model)], data, loss="squared").models[0]
    error = model(torch.from_numpy(data.inputs)) - torch.from_numpy(data.targets)
    loss = error.square().sum(dim=1).mean()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert found.loss == pytest.approx(loss.item(), rel=1e-12)
    for place, layer in enumerate(found.layers):
        expected = torch.cat([g.ravel() for g in gradients[2 * place : 2 * place + 2]]).norm()
        assert layer.gradient_norm == pytest.approx(expected.item(), rel=1e-9)
    for layer, signs in zip(found.layers, relu_signs(model, data.inputs), strict=False):
        assert np.array_equal(layer.activity, signs.mean(axis=0))
    assert found.layers[2].activity.size == 0
    assert found.layers[2].num_kinks == 0
    assert found.layers[2].nearest_distance == np.inf


def test_the_cell_of_a_hidden_layer_is_that_of_its_hyperplanes() -> None:
    data, model = regression(12, (2,)), mlp((2, 3, 1), seed=1)
    layer = survey([ready(model)], data, loss="squared").models[0].layers[0]
    rows = np.hstack([data.inputs, np.ones((12, 1))])
    theta = np.hstack([model[0].weight.detach().numpy(), model[0].bias.detach().numpy()[:, None]])
    distances = np.abs(rows @ theta.T) / np.linalg.norm(rows, axis=1)[:, None]
    assert layer.nearest_distance == pytest.approx(distances.min(), rel=1e-12)
    sample, unit = np.unravel_index(distances.argmin(), distances.shape)
    assert layer.nearest_kink == f"sample {sample}, layer 0, unit {unit}"
    count = sum(num_facets(rows * np.sign(rows @ weights)[:, None]) for weights in theta)
    assert (layer.num_facets, layer.all_facets) == (count, True)
    assert layer.radius == np.inf


def num_facets(normals: np.ndarray) -> int:
    """Rows of `normals @ x >= 0` that can be violated alone: one linear program each."""
    count = 0
    for row in range(len(normals)):
        others = np.delete(normals, row, axis=0)
        solved = linprog(
            normals[row], A_ub=-others, b_ub=np.zeros(len(others)), bounds=[(-1, 1)] * 3
        )
        count += solved.fun < -1e-9
    return count


def test_chords_end_where_a_sign_changes() -> None:
    data, model = regression(12, (2,)), mlp((2, 3, 1), seed=1)
    layer = survey([ready(model)], data, loss="squared", seed=5).models[0].layers[0]
    directions = np.random.default_rng((5, 0, 0)).normal(size=(200, 9))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    rows = np.hstack([data.inputs, np.ones((12, 1))])
    theta = np.hstack([model[0].weight.detach().numpy(), model[0].bias.detach().numpy()[:, None]])
    for direction, length in zip(directions[:20], layer.chord_lengths, strict=False):
        steps = np.hstack([direction[:6].reshape(3, 2), direction[6:, None]])
        times = -(rows @ theta.T) / (rows @ steps.T)
        ahead, behind = times[times > 0], -times[times < 0]
        expected = ahead.min(initial=np.inf) + behind.min(initial=np.inf)
        assert length == pytest.approx(expected, rel=1e-9)
    norm = np.linalg.norm(theta)
    closed = np.isfinite(layer.chord_lengths)
    assert np.allclose(layer.chord_angles[closed] * norm, layer.chord_lengths[closed])


def test_flips_are_counted_between_the_last_steps() -> None:
    data = regression()
    subject = taught(data, (3, 5, 4, 1))
    found = survey([subject], data, loss="squared").models[0]
    model, record = subject.build(lambda what, fraction: None)
    patterns = []
    for theta in record.thetas:
        nn.utils.vector_to_parameters(torch.from_numpy(theta), model.parameters())
        patterns.append(np.concatenate([s.ravel() for s in relu_signs(model, data.inputs)]))
    expected = [(a != b).sum() for a, b in pairwise(patterns)]
    assert found.flips.tolist() == expected
    assert sum(expected) > 0
    assert found.num_switches == 24 * 9
    assert np.array_equal(found.losses, record.losses)


def test_large_cells_are_bounded_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reluscape.survey_steps.MAX_FACET_WORK", (1, 1))
    monkeypatch.setattr("reluscape.survey_steps.MAX_BALL_WORK", 1)
    data, model = regression(12, (2,)), mlp((2, 3, 1), seed=1)
    bounded = survey([ready(model)], data, loss="squared").models[0].layers[0]
    monkeypatch.undo()
    exact = survey([ready(model)], data, loss="squared").models[0].layers[0]
    assert not bounded.all_facets
    assert 0 < bounded.num_facets <= exact.num_facets
    assert bounded.radius is None


# ---- modules that are read in part or not at all ---------------------------------------------


def test_an_opaque_body_leaves_its_head_to_analyse() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv1d(1, 2, 2), nn.Tanh(), nn.Flatten())
    model = nn.Sequential(body, nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 1))
    found = survey([ready(model)], regression(10, (1, 4)), loss="l1").models[0]
    assert [layer.name for layer in found.layers] == ["1", "3"]
    assert found.opaque
    assert found.opaque_reason
    assert found.layers[0].verdict is not None
    assert found.complete


def test_an_unreadable_module_keeps_loss_and_gradient() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1), nn.Softplus())
    data = regression(10)
    found = survey([ready(model)], data, loss="squared")
    (only,) = found.models
    assert only.unreadable
    assert only.layers == ()
    assert only.loss > 0
    assert only.gradient_norm > 0
    assert found.complete
    with pytest.raises(UnsupportedModelError):
        survey([ready(model)], data, loss="squared", layer="0")


def test_images_are_flattened_for_a_linear_layer() -> None:
    data = regression(10, (2, 3))
    found = survey([ready(mlp((6, 4, 1), seed=0))], data, loss="squared")
    assert found.models[0].loss > 0
    assert found.data.input_shape == "2 × 3 numbers"


def test_one_layer_can_be_asked_for() -> None:
    data = regression(10)
    found = survey([ready(mlp((3, 4, 4, 1), seed=0))], data, loss="squared", layer=-2)
    assert [layer.name for layer in found.models[0].layers] == ["2"]
    with pytest.raises(InputError, match="nowhere"):
        survey([ready(mlp((3, 4, 1), seed=0))], data, loss="squared", layer="nowhere")


# ---- what is written -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Survey, Path, Data]:
    data = regression()
    out = tmp_path_factory.mktemp("survey") / "new" / "folder"
    subjects = [taught(data, (3, 5, 4, 1), "first"), taught(data, (3, 4, 1), "Second net", 1)]
    return survey(subjects, data, loss="squared", out=out), out, data


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_every_file_is_there_and_nothing_else(written: tuple[Survey, Path, Data]) -> None:
    _, out, _ = written
    first = [f"certificates/1-first{part}.json" for part in ("", "-1-0", "-2-2", "-3-4")]
    second = [f"certificates/2-second-net{part}.json" for part in ("", "-1-0", "-2-2")]
    asked = [f"1-first{part}" for part in ("-1-0", "-2-2", "-3-4")]
    asked += [f"2-second-net-{part}" for part in ("free", "given", "uniform", "1-0", "2-2")]
    minima = [f"minima/{name}.nc" for name in asked]
    weights = ["weights/1-first.safetensors", "weights/2-second-net.safetensors"]
    whole = ["report.html", "results.nc"]
    curved = ["convexity/1-first.nc", "convexity/2-second-net.nc"]
    assert files_below(out) == sorted([*first, *second, *minima, *curved, *weights, *whole])


# PyTorch's own forward-mode AD imports code that it has deprecated.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_certificates_hold_for_the_saved_weights(written: tuple[Survey, Path, Data]) -> None:
    found, out, data = written
    for model in found.models:
        weights = out / shlex.split(model.options)[1]
        landscape = Landscape(load_model(weights, None), data.inputs, data.targets, loss="squared")
        assert landscape.loss() == model.loss
        for verdict in (model.verdict, *(layer.verdict for layer in model.layers)):
            assert json.loads((out / verdict.file).read_text())["claim"] == verdict.claim
            result = verify(out / verdict.file, landscape)
            assert result.valid, result.reason
        assert model.convexity is not None
        result = verify(out / model.convexity.file, landscape)
        assert result.valid, result.reason


def test_minima_of_cells_hold_for_the_saved_weights(written: tuple[Survey, Path, Data]) -> None:
    found, out, data = written
    assert [len(model.minima) for model in found.models] == [0, 3]
    for model in found.models:
        weights = out / shlex.split(model.options)[1]
        landscape = Landscape(load_model(weights, None), data.inputs, data.targets, loss="squared")
        for one in (*model.minima, *(layer.minimum for layer in model.layers)):
            assert one is not None
            answer = CellMinimum.load(out / one.file)
            assert (answer.genuine, answer.loss) == (one.genuine, one.loss)
            assert verify(out / one.file, landscape).valid
            assert one.loss <= model.loss
        assert model.layers[-1].minimum.genuine  # least squares: its cell is the whole space
    page = (out / "report.html").read_text("utf-8")
    assert "output weights of any signs" in page
    assert "minima/2-second-net-free.nc --weights weights/2-second-net.safetensors" in page


def test_minima_that_are_not_asked_for_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    data, subjects = regression(), [ready(mlp((3, 4, 1), seed=0))]
    decayed = survey(subjects, data, loss="squared", weight_decay=0.1)
    assert decayed.models[0].minima == ()
    assert "not asked of a loss with weight decay" in decayed.models[0].notes[0]
    monkeypatch.setattr("reluscape.survey_steps.MAX_MINIMUM_WORK", 1)
    large = survey(subjects, data, loss="squared").models[0]
    assert large.layers[0].minimum is None
    assert [note.count("`reluscape minima` does it") for note in large.notes] == [1, 1, 1]
    assert "`reluscape minima` does it" in large.layers[0].notes[0]
    keys = [section.key for section in build_sections(decayed)]
    assert "minima" not in keys


def test_results_read_back(written: tuple[Survey, Path, Data]) -> None:
    found, out, _ = written
    loaded = load_survey(out / "results.nc")
    assert loaded.complete
    assert loaded.verdicts == found.verdicts
    assert loaded.models[1].minima == found.models[1].minima
    assert loaded.models[0].layers[1].minimum == found.models[0].layers[1].minimum
    assert np.array_equal(
        loaded.models[1].layers[0].chord_lengths, found.models[1].layers[0].chord_lengths
    )


def test_the_same_seed_gives_the_same_bytes(
    written: tuple[Survey, Path, Data], tmp_path: Path
) -> None:
    _, out, data = written
    subjects = [taught(data, (3, 5, 4, 1), "first"), taught(data, (3, 4, 1), "Second net", 1)]
    survey(subjects, data, loss="squared", out=tmp_path)
    for file in files_below(out):
        assert (tmp_path / file).read_bytes() == (out / file).read_bytes(), file


def test_commands_name_the_data_from_the_reports_folder(tmp_path: Path) -> None:
    data, file = regression(10), tmp_path / "my data.npz"
    np.savez(file, x=data.inputs, y=data.targets)
    subjects = [ready(mlp((3, 2, 1), seed=0))]
    options = ["--data", str(file), "--standardise"]
    out = tmp_path / "deep" / "out"
    found = survey(subjects, data, loss="squared", out=out, data_options=options)
    assert found.data.options == "--data '../../my data.npz' --standardise"


# ---- Ctrl-C and bad arguments ----------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
def test_ctrl_c_leaves_a_report_of_what_was_done(tmp_path: Path, step: str) -> None:
    data = regression(10)

    def stop(what: str, fraction: float) -> None:
        assert 0 <= fraction <= 1
        if what.startswith("b: ") and step in what:
            raise KeyboardInterrupt

    subjects = [ready(mlp((3, 4, 1), seed=0), "a"), ready(mlp((3, 4, 1), seed=1), "b")]
    found = survey(subjects, data, loss="squared", out=tmp_path, progress=stop)
    assert not found.complete
    assert [model.complete for model in found.models] == [True, False]
    assert not load_survey(tmp_path / "results.nc").complete
    assert "<strong>Incomplete.</strong>" in (tmp_path / "report.html").read_text("utf-8")
    assert not [file for file in files_below(tmp_path) if file.endswith(".tmp")]
    linked = [at.verdict.file for at in found.models[0].layers]
    assert all((tmp_path / file).is_file() for file in linked)


def test_ctrl_c_in_training_keeps_the_weights_it_reached(tmp_path: Path) -> None:
    data = regression()
    subject = taught(data, (3, 4, 1))

    def stop(what: str, fraction: float) -> None:
        if "training" in what and fraction > 0.2:
            raise KeyboardInterrupt

    found = survey([subject], data, loss="squared", out=tmp_path, progress=stop)
    (model,) = found.models
    assert not found.complete
    assert 0 < model.losses.size < 60
    assert model.loss is not None
    assert (tmp_path / "weights" / "1-taught.safetensors").is_file()


def test_a_folder_that_cannot_be_written_is_found_out_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    def never(_: Any) -> tuple[nn.Module, None]:
        raise AssertionError("the model was built before the folder was checked")

    with pytest.raises(InputError, match="out must be a folder that can be written to"):
        survey([Subject("x", never)], regression(), loss="squared", out=tmp_path / "file" / "out")


def test_bad_input_leaves_nothing_behind(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    for out in (kept, tmp_path / "new" / "folder"):
        with pytest.raises(InputError):
            survey([ready(mlp((7, 4, 1), seed=0))], regression(), loss="squared", out=out)
    assert list(tmp_path.rglob("*")) == [kept]


def test_what_can_be_refused_at_once_is(tmp_path: Path) -> None:
    def never(_: Any) -> tuple[nn.Module, None]:
        raise AssertionError("the model was built before the arguments were checked")

    with pytest.raises(InputError, match="arithmetic must be"):
        survey([Subject("x", never)], regression(), loss="l1", arithmetic="real", out=tmp_path)
    with pytest.raises(InputError, match="File name too long"):
        survey([Subject("x", never)], regression(), loss="l1", out=tmp_path / "a" / ("b" * 300))
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_layer_is_refused_before_any_certificate(tmp_path: Path) -> None:
    seen: list[str] = []
    with pytest.raises(InputError, match="received 'nowhere'"):
        survey(
            [ready(mlp((3, 4, 1), seed=0))],
            regression(),
            loss="squared",
            layer="nowhere",
            out=tmp_path / "r",
            progress=lambda what, _: seen.append(what),
        )
    assert seen == ["net: building"]
    assert not (tmp_path / "r").exists()


def test_a_layer_may_be_an_index_in_text_and_names_win() -> None:
    data, model = regression(10), mlp((3, 4, 4, 1), seed=0)  # layers "0", "2" and "4"
    for text, expected in (("-3", "0"), ("1", "2"), ("2", "2"), ("4", "4")):
        found = survey([ready(model)], data, loss="squared", layer=text)
        assert [layer.name for layer in found.models[0].layers] == [expected]


def test_what_is_too_large_for_rationals_is_certified_in_float64(tmp_path: Path) -> None:
    pytest.importorskip("flint", reason="rational arithmetic needs python-flint")
    model = mlp((3, 70, 1), seed=0)  # 280 parameters, more than exact arithmetic takes, and 71
    found = survey(
        [ready(model)], regression(6), loss="l1", out=tmp_path, arithmetic="rational"
    ).models[0]
    note = "too large for rational arithmetic: certified in float64"
    assert [layer.notes for layer in found.layers] == [(note,), ()]
    for layer, expected in zip(found.layers, ("float64", "rational"), strict=True):
        assert layer.verdict is not None
        written = json.loads((tmp_path / layer.verdict.file).read_text())
        assert written["arithmetic"] == expected
    assert note in (tmp_path / "report.html").read_text("utf-8")


def test_subjects_need_different_names() -> None:
    twice = [ready(mlp((3, 2, 1), seed=k), "same") for k in (0, 1)]
    with pytest.raises(InputError, match="different names"):
        survey(twice, regression(), loss="squared")
    with pytest.raises(InputError, match="at least one"):
        survey([], regression(), loss="squared")


def test_ctrl_c_while_writing_does_not_cost_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = survey_module._write, []

    def interrupted_once(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 1:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(survey_module, "_write", interrupted_once)
    result = survey([ready(mlp((3, 4, 1), seed=0))], regression(), loss="squared", out=tmp_path)
    assert result.complete
    assert (tmp_path / "report.html").is_file()
