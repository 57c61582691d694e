"""The trainer: reproducible, honest about its loss, stopped cleanly."""

import numpy as np
import pytest
import torch
from torch import nn

from reluscape.errors import AnalysisError, InputError
from reluscape.train import Training, mlp, train

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))
LABELS = (X[:, 0] > 0).astype(np.int64)
VALUES = np.hstack([X[:, :1] - X[:, 1:2], np.abs(X[:, 2:])])


def run(model: nn.Module, **changes: object) -> Training:
    options = {"loss": "squared", "epochs": 3, "batch_size": 16, "rate": 0.01, "seed": 5}
    options |= changes
    return train(model, X, VALUES, **options)  # type: ignore[arg-type]


def flat(model: nn.Module) -> np.ndarray:
    return np.concatenate([p.detach().numpy().ravel() for p in model.parameters()])


def test_mlp_layers_and_seed() -> None:
    model = mlp((3, 5, 4, 2), seed=1)
    assert [type(layer).__name__ for layer in model] == [
        "Linear",
        "ReLU",
        "Linear",
        "ReLU",
        "Linear",
    ]
    assert all(p.dtype == torch.float64 for p in model.parameters())
    assert np.abs(flat(model)[:15]).max() <= 3**-0.5
    assert np.abs(flat(model)[:15]).max() > 0.3
    np.testing.assert_array_equal(flat(model), flat(mlp((3, 5, 4, 2), seed=1)))
    assert (flat(model) != flat(mlp((3, 5, 4, 2), seed=2))).all()
    assert sum(p.ndim for p in mlp((3, 5, 2), seed=0, bias=False).parameters()) == 4


@pytest.mark.parametrize("widths", [(), (3,), (3, 0, 1)])
def test_mlp_refuses_widths(widths: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="at least two widths"):
        mlp(widths, seed=0)


def test_same_seed_same_bytes_and_no_global_random_state() -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state()
    results = []
    for _ in range(2):
        model = nn.Sequential(mlp((3, 8, 8), seed=0), nn.Dropout(0.5), mlp((8, 2), seed=1))
        results.append(run(model))
    assert torch.equal(torch.get_rng_state(), before)
    assert results[0].thetas.tobytes() == results[1].thetas.tobytes()
    assert results[0].losses.tobytes() == results[1].losses.tobytes()
    other = run(nn.Sequential(mlp((3, 8, 2), seed=0)), seed=6)
    assert other.thetas.tobytes() != run(mlp((3, 8, 2), seed=0)).thetas.tobytes()


def test_thetas_are_the_last_vectors_in_order() -> None:
    model = mlp((3, 4, 2), seed=0)
    start = flat(model)
    training = run(model)
    assert (training.steps, training.completed, training.seed) == (9, True, 5)
    assert training.thetas.shape == (10, len(start))  # the start and nine steps
    np.testing.assert_array_equal(training.thetas[0], start)
    np.testing.assert_array_equal(training.thetas[-1], flat(model))
    short = run(mlp((3, 4, 2), seed=0), keep=4)
    np.testing.assert_array_equal(short.thetas, training.thetas[-4:])


@pytest.mark.parametrize("loss", ["squared", "half_squared", "l1", "cross_entropy"])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_recorded_loss_is_the_definition(loss: str, decay: float) -> None:
    model = mlp((3, 4, 2), seed=0)
    theta = flat(model)
    with torch.no_grad():
        out = model(torch.from_numpy(X)).numpy()
    expected = {
        "squared": np.sum((out - VALUES) ** 2) / 40,
        "half_squared": np.sum((out - VALUES) ** 2) / 80,
        "l1": np.sum(np.abs(out - VALUES)) / 40,
        "cross_entropy": np.mean(
            [np.log(np.exp(o).sum()) - o[k] for o, k in zip(out, LABELS, strict=True)]
        ),
    }[loss] + decay / 2 * float(theta @ theta)
    targets = LABELS if loss == "cross_entropy" else VALUES
    training = train(
        model, X, targets, loss=loss, weight_decay=decay, epochs=1, batch_size=99, rate=0.1, seed=0
    )
    assert training.losses.shape == (1,)
    assert training.losses[0] == pytest.approx(expected, rel=1e-13)


def test_training_lowers_the_loss_and_reports_progress() -> None:
    seen: list[tuple[str, float]] = []
    training = run(
        mlp((3, 16, 2), seed=0),
        epochs=100,
        rate=0.02,
        progress=lambda what, at: seen.append((what, at)),
    )
    assert training.losses[-3:].mean() < 0.2 * training.losses[:3].mean()
    fractions = [at for _, at in seen]
    assert {what for what, _ in seen} == {"training"}
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert "Adam, rate 0.02, batches of 16, squared" in repr(training)


def test_interrupt_keeps_the_last_finished_step() -> None:
    model = mlp((3, 4, 2), seed=0).eval()

    def stop(_: str, fraction: float) -> None:
        if fraction > 0.5:
            raise KeyboardInterrupt

    training = run(model, progress=stop)
    whole = run(mlp((3, 4, 2), seed=0))
    assert not training.completed
    assert training.steps == 5
    np.testing.assert_array_equal(training.thetas, whole.thetas[:6])
    np.testing.assert_array_equal(flat(model), training.thetas[-1])
    assert not model.training


def test_divergence_names_the_step_and_the_rate() -> None:
    with pytest.raises(AnalysisError, match=r"at step \d+: lower the rate \(it was 1e\+200\)"):
        run(mlp((3, 4, 2), seed=0), rate=1e200, epochs=5)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"loss": "hinge"}, "a loss among"),
        ({"epochs": 0}, "at least 1"),
        ({"batch_size": 0}, "at least 1"),
        ({"rate": float("nan")}, "positive rate"),
        ({"weight_decay": -1.0}, "weight decay"),
    ],
)
def test_bad_options(changes: dict[str, object], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        run(mlp((3, 4, 2), seed=0), **changes)
