"""The monitor against dense Hessians, against itself unplugged, and on sequences made by hand."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import reluscape as rs
from reluscape import ConvexityMonitor, Decay, Landscape, Trajectory, trajectory_of
from reluscape.errors import AnalysisError, InputError
from reluscape.monitor import operations
from reluscape.monitor.along_gradient import along_gradient, undisturbed
from reluscape.progress import Stop

README = Path(__file__).parents[1] / "README.md"


def mlp(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 5), nn.LeakyReLU(), nn.Linear(5, 3)
    )


def convnet(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2), nn.ReLU(),
        nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


def normed(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 3),
    )  # fmt: skip


class Tied(nn.Module):
    """One weight used twice, a parameter that is not used, and one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3))
        self.unused = nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.randn(3), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(x @ self.weight + self.frozen) @ self.weight


def tied(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return Tied()


def attention(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Unflatten(1, (3, 4)),
        nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True),
        nn.Flatten(),
        nn.Linear(12, 3),
    )


def made(*layers: Callable[[], nn.Module]) -> Callable[[int], nn.Module]:
    """A chain whose layers are made after the seed is set."""

    def make(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(*(layer() for layer in layers))

    return make


class Gated(nn.Module):
    """An input that depends on another, one used twice, several outputs, complex numbers, factors."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.randn(3))
        self.gate, self.split = nn.Linear(3, 3), nn.Linear(3, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = functional.silu(torch.add(self.gate(x + self.shift), self.shift, alpha=0.5))
        left, right = self.split(torch.sigmoid(inner) * inner + inner * inner).chunk(2, dim=1)
        mixed = torch.stack([left, right]).softmax(0).unbind()
        waves = torch.fft.rfft(left / (1.5 + torch.tanh(right)), dim=1)
        left = torch.addmm(self.shift, left, self.gate.weight, beta=2.0, alpha=0.5)
        return mixed[0] * left - 0.5 * inner + (waves * waves.conj()).real.sum(1, keepdim=True)


class Recurrent(nn.Module):
    """The last output of a recurrent layer, and an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.table = nn.GRU(2, 3, batch_first=True), nn.Embedding(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        last = self.layer(x.unflatten(1, (3, 2)))[0][:, -1]
        return last @ self.table((x[:, 0] > 0).long()).t()[:, :3]


class Halves(nn.Module):
    """Batch norm and convolutions with some parameters frozen; the first norm is of the data itself."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.BatchNorm2d(2, affine=False)
        self.first, self.second = nn.Conv2d(2, 3, 2), nn.Conv2d(3, 3, 2)
        self.norm, self.last = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.data = nn.BatchNorm2d(2)
        for frozen in (self.first.bias, self.second.weight, self.norm.weight, self.last.bias):
            frozen.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.first(self.data(x) + self.plain(x)))
        return self.last(functional.leaky_relu(self.second(functional.relu(x)))).sum((2, 3))


class Evaluated(nn.Module):
    """Batch norm by running statistics."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        for norm in (m for m in inside.modules() if isinstance(m, nn.BatchNorm2d)):
            nn.init.uniform_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
        self.inside = inside.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inside(x)


CASES: dict[str, tuple[Callable[[int], nn.Module], tuple[int, ...]]] = {
    "gated": (made(Gated), (3,)),
    "recurrent": (made(Recurrent), (6,)),
    "partly frozen": (made(Halves), (2, 4, 4)),
    "batch norm in eval mode": (lambda seed: Evaluated(normed(seed)), (1, 7, 7)),
    "partly frozen, eval": (lambda seed: Evaluated(made(Halves)(seed)), (2, 4, 4)),
    "smooth": (
        made(
            lambda: nn.Linear(3, 4),
            nn.GELU,
            lambda: nn.LayerNorm(4),
            nn.Softplus,
            lambda: nn.Linear(4, 3, bias=False),
        ),
        (3,),
    ),
    "grouped": (
        made(
            lambda: nn.Conv2d(2, 4, 2, groups=2),
            lambda: nn.GroupNorm(2, 4),
            nn.ReLU6,
            lambda: nn.ConvTranspose2d(4, 6, 1),
            lambda: nn.ConvTranspose2d(6, 2, 2, 2, groups=2, output_padding=1),
            lambda: nn.AvgPool2d(2),
            nn.Flatten,
            lambda: nn.Linear(18, 3),
        ),
        (2, 4, 4),
    ),
    "mlp": (mlp, (3,)),
    "convnet": (convnet, (1, 8, 8)),
    "batch norm": (normed, (1, 7, 7)),
    "tied": (tied, (3,)),
    "attention": (attention, (12,)),
}


def batch_for(shape: tuple[int, ...], count: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, *shape).double(), torch.randint(3, (count,))


def dense(
    model: nn.Module, objective: Callable[[torch.Tensor], torch.Tensor], decay: float
) -> tuple[float, float, float]:
    """Loss, squared gradient and 2 g^T H g / |g|^2 by the whole Hessian of the trained parameters."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    values = [p.detach().clone() for p in model.parameters() if p.requires_grad]
    buffers = {name: b.clone() for name, b in model.named_buffers()}

    def flat(vector: torch.Tensor) -> torch.Tensor:
        parts = torch.split(vector, [v.numel() for v in values])
        state = {n: p.view_as(v) for n, p, v in zip(names, parts, values, strict=True)}
        out = torch.func.functional_call(
            model, {**state, **{n: b.clone() for n, b in buffers.items()}}, INPUTS
        )
        return objective(out) + decay / 2 * vector @ vector

    point = torch.cat([v.reshape(-1) for v in values])
    gradient = torch.autograd.functional.jacobian(flat, point)
    hessian = torch.autograd.functional.hessian(flat, point)
    square = float(gradient @ gradient)
    return float(flat(point)), square, float(2 * gradient @ hessian @ gradient / square)


INPUTS: tuple[torch.Tensor, ...] = ()


@pytest.mark.parametrize("case", CASES)
def test_second_derivative_along_the_gradient_is_the_dense_one(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, shape = CASES[case]
    for seed, decay in ((0, 0.0), (1, 0.3)):
        model = make(seed).double()
        x, y = batch_for(shape)
        monkeypatch.setitem(globals(), "INPUTS", (x,))
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            expected = dense(model, lambda out, y=y: functional.cross_entropy(out, y), decay)
        monitor = ConvexityMonitor(nn.CrossEntropyLoss(), weight_decay=decay)
        monitor.step(model, (x, y))
        found = monitor.result()
        np.testing.assert_allclose(found.losses[0], expected[0], rtol=1e-12)
        np.testing.assert_allclose(found.squared_gradients[0], expected[1], rtol=1e-10)
        np.testing.assert_allclose(found.curvatures[0], expected[2], rtol=1e-8, atol=1e-8)


def graph_of(case: str) -> tuple[torch.Tensor, list[nn.Parameter]]:
    """A case's loss, and what to differentiate it by."""
    make, shape = CASES[case]
    model = make(0).double()
    x, y = batch_for(shape)
    with undisturbed(model):
        return functional.cross_entropy(model(x), y), [
            p for p in model.parameters() if p.requires_grad
        ]


@pytest.mark.parametrize("case", CASES)
def test_rules_of_operations_agree_with_autograd(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where an operation bends too little for the dense Hessian's rounding to show it."""
    ruled = along_gradient(*graph_of(case), 0.1)
    monkeypatch.setattr(operations, "_RULES", {})
    monkeypatch.setattr(operations, "_SLOPELESS", {"torch::autograd::AccumulateGrad"})
    plain = along_gradient(*graph_of(case), 0.1)
    assert plain.curvature == pytest.approx(ruled.curvature, rel=1e-10)


def test_every_rule_is_of_an_operation_that_there_is() -> None:
    """A name that PyTorch changes would cost time in silence."""
    met = {node.name() for case in CASES for node in operations.ordered(graph_of(case)[0].grad_fn)}
    assert met >= operations._RULES.keys()
    assert met >= operations._SLOPELESS


@pytest.mark.parametrize("case", CASES)
def test_backward_gives_the_same_record_and_gradients(case: str) -> None:
    make, shape = CASES[case]
    model = make(0).double()
    x, y = batch_for(shape)
    apart, shared = (ConvexityMonitor(nn.CrossEntropyLoss(), weight_decay=0.1) for _ in range(2))
    apart.step(model, (x, y))
    other = copy.deepcopy(model)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        for _ in range(2):  # the second adds to what there is
            functional.cross_entropy(other(x), y).backward()
            shared.backward(model, functional.cross_entropy(model(x), y))
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        assert ours.grad is None or torch.equal(ours.grad, theirs.grad)
    for name in ("losses", "squared_gradients", "curvatures"):
        one, other = (getattr(monitor.result(), name)[0] for monitor in (apart, shared))
        assert one == pytest.approx(other, rel=1e-12)


def test_a_landscape_is_seen_in_eval_mode_with_the_models_statistics() -> None:
    model = normed(1)
    x, y = batch_for((1, 7, 7), 9)
    landscape = Landscape(model, x.numpy(), y.numpy(), loss="cross_entropy", weight_decay=0.2)
    for _ in range(3):
        model(torch.randn(5, 1, 7, 7) + 1.0)  # moves the running statistics
    with torch.no_grad():
        model[0].weight.add_(0.1)
    monitor = ConvexityMonitor(landscape)
    monitor.step(model)
    there = Landscape(model, x.numpy(), y.numpy(), loss="cross_entropy", weight_decay=0.2)
    gradient, hessian = there.gradient(), there.hessian()
    found = monitor.result()
    assert found.losses[0] == pytest.approx(there.loss(), rel=1e-12)
    expected = 2 * gradient @ hessian @ gradient / (gradient @ gradient)
    assert found.curvatures[0] == pytest.approx(expected, rel=1e-8)
    assert found.batch == "landscape"


# ---- the run is not disturbed ---------------------------------------------------------------------


class Restless(nn.Module):
    """Dropout and batch norm with a cumulative average, in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 16)
        self.norm = nn.BatchNorm1d(16, momentum=None)
        self.drop = nn.Dropout(0.4)
        self.second = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.drop(functional.relu(self.norm(self.first(x)))))


def trained(monitor: ConvexityMonitor | None, place: str) -> dict[str, torch.Tensor]:
    """Weights, buffers and the random state after some steps with momentum."""
    torch.manual_seed(11)
    model = Restless().train()
    model.first.bias.requires_grad_(False)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    data = torch.randn(40, 6), torch.randint(3, (40,))
    for step in range(12):
        rows = torch.randperm(40)[:8]
        batch = data[0][rows], data[1][rows]
        if monitor is not None and place == "before":
            monitor.step(model, batch)
        optimiser.zero_grad(set_to_none=step % 2 == 0)
        loss = functional.cross_entropy(model(batch[0]), batch[1])
        if monitor is not None and place == "between":
            monitor.step(model, batch)
        if monitor is not None and place == "backward":
            monitor.backward(model, loss)
        else:
            loss.backward()
        if monitor is not None and place == "after":
            monitor.step(model, batch)
        optimiser.step()
    assert not model.first.bias.requires_grad
    assert model.training
    state = {name: value.clone() for name, value in model.state_dict().items()}
    return state | {"random": torch.get_rng_state()}


@pytest.mark.parametrize(
    ("place", "fixed"),
    [(p, f) for p in ("before", "between", "after") for f in (False, True)] + [("backward", False)],
)
def test_the_monitored_runs_weights_are_the_unmonitored_ones(place: str, fixed: bool) -> None:
    torch.manual_seed(5)
    batch = (torch.randn(9, 6), torch.randint(3, (9,))) if fixed else None
    monitor = ConvexityMonitor(
        nn.CrossEntropyLoss(), batch=batch, crossings=fixed, weight_decay=1e-3
    )
    plain, watched = trained(None, place), trained(monitor, place)
    assert plain.keys() == watched.keys()
    for name, value in plain.items():
        assert torch.equal(value, watched[name]), name
    assert len(monitor.result().steps) == 12


def test_nothing_is_left_behind_by_a_loss_that_fails() -> None:
    model = Restless().train()
    before = {name: id(buffer) for name, buffer in model.named_buffers()}
    values, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()

    def failing(module: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        module(batch)
        raise ValueError("no such thing")

    with pytest.raises(ValueError, match="no such thing"):
        ConvexityMonitor(failing).step(model, torch.randn(4, 6))
    assert {name: id(buffer) for name, buffer in model.named_buffers()} == before
    torch.set_rng_state(random)
    assert all(torch.equal(values[name], value) for name, value in model.state_dict().items())


def test_gradients_are_recorded_under_no_grad_and_grads_are_left_alone() -> None:
    model = mlp(0)
    x, y = torch.randn(5, 3), torch.randint(3, (5,))
    functional.cross_entropy(model(x), y).backward()
    kept = [p.grad.clone() for p in model.parameters()]
    monitor = ConvexityMonitor(nn.CrossEntropyLoss())
    with torch.no_grad():
        monitor.step(model, (x, y))
    assert np.isfinite(monitor.result().curvatures).all()
    assert all(torch.equal(g, p.grad) for g, p in zip(kept, model.parameters(), strict=True))


# ---- kinks crossed, every, extras, sinks ----------------------------------------------------------


@pytest.mark.parametrize("as_landscape", [False, True])
def test_kinks_crossed_are_signs_that_changed(as_landscape: bool) -> None:
    model = mlp(3).double()
    x, y = batch_for((3,), 20)
    source: Any = Landscape(model, x.numpy(), y.numpy(), loss="cross_entropy")
    options: dict[str, Any] = {} if as_landscape else {"batch": (x, y)}
    monitor = ConvexityMonitor(
        source if as_landscape else nn.CrossEntropyLoss(), crossings=True, **options
    )
    sides = []
    for _ in range(4):
        monitor.step(model)
        with torch.no_grad():
            first = model[0](x)
            second = model[2](model[1](first))
            sides.append(torch.cat([first.reshape(-1), second.reshape(-1)]) > 0)
            for p in model.parameters():
                p.add_(0.2 * torch.randn_like(p))
    expected = [int((a != b).sum()) for a, b in pairwise(sides)]
    found = monitor.result().crossed
    assert np.isnan(found[0])
    assert found[1:].tolist() == expected
    assert max(expected) > 0


def test_every_times_and_numbers_of_steps() -> None:
    model = mlp(0)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    told: list[tuple[int, dict[str, float]]] = []
    monitor = ConvexityMonitor(
        nn.CrossEntropyLoss(), every=3, rate=optimiser,
        watch={"norm": lambda module: float(sum((p.detach() ** 2).sum() for p in module.parameters()))},
        sink=lambda step, numbers: told.append((step, dict(numbers))),
    )  # fmt: skip
    batch = torch.randn(6, 3), torch.randint(3, (6,))
    for step in range(8):
        optimiser.param_groups[0]["lr"] = 0.5 if step < 4 else 0.25
        monitor.step(model, batch)
    found = monitor.result()
    assert found.steps.tolist() == [0, 3, 6]
    assert found.times.tolist() == [0.0, 1.5, 2.5]
    norm = sum(float((p.detach() ** 2).sum()) for p in model.parameters())
    np.testing.assert_allclose(found.watched_values("norm"), [norm] * 3, rtol=1e-6)
    assert [step for step, _ in told] == [0, 3, 6]
    assert told[1][1]["normalised_second_derivative"] == found.curvatures[1]
    assert told[0][1].keys() == {"loss", "squared_gradient", "normalised_second_derivative", "norm"}
    assert 0.0 < found.share <= 1.0
    with pytest.raises(InputError, match="expected one of norm"):
        found.watched_values("nothing")


class Writer:
    """What a sink needs of a SummaryWriter."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, int]] = []

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.rows.append((name, value, step))


def test_tensorboard_sink_names_the_curves() -> None:
    writer = Writer()
    monitor = ConvexityMonitor(
        nn.CrossEntropyLoss(), sink=rs.tensorboard_sink(writer, prefix="run")
    )
    monitor.step(mlp(0), (torch.randn(6, 3), torch.randint(3, (6,))))
    found = monitor.result()
    assert ("run/loss", found.losses[0], 0) in writer.rows
    assert ("run/normalised_second_derivative", found.curvatures[0], 0) in writer.rows


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_files_hold_the_curve(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra [tensorboard] is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        monitor = ConvexityMonitor(nn.CrossEntropyLoss(), sink=rs.tensorboard_sink(writer))
        model = mlp(0)
        for _ in range(3):
            monitor.step(model, (torch.randn(6, 3), torch.randint(3, (6,))))
    events = EventAccumulator(str(tmp_path)).Reload()
    rows = events.Scalars("convexity/normalised_second_derivative")
    assert [row.step for row in rows] == [0, 1, 2]
    np.testing.assert_allclose([row.value for row in rows], monitor.result().curvatures, rtol=1e-6)


# ---- what the README and Lightning's users do -----------------------------------------------------


def examples() -> Iterator[tuple[str, str]]:
    text = README.read_text(encoding="utf-8")
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        if "ConvexityMonitor" in code:
            yield ("lightning" if "lightning" in code else "loop"), code


def test_the_readmes_three_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = dict(examples())["loop"]
    lines = [line for line in code.splitlines() if "monitor" in line.split("#")[0]]
    assert len([line for line in lines if "import" not in line and "print" not in line]) <= 3
    scope: dict[str, Any] = {}
    exec(code, scope)
    found = scope["trajectory"]
    assert isinstance(found, Trajectory)
    assert found.onset is not None
    assert Trajectory.load(tmp_path / "run.nc").onset == found.onset


@pytest.mark.filterwarnings("ignore")
def test_the_readmes_lightning_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lightning", reason="the extra [lightning] is not installed")
    monkeypatch.chdir(tmp_path)
    code = dict(examples())["lightning"]
    scope: dict[str, Any] = {}
    exec(code, scope)
    watched = [p.detach().clone() for p in scope["module"].parameters()]
    assert len(scope["monitor"].result().steps) > 1
    unplugged = code.replace("callbacks=[ConvexityCallback(monitor)]", "callbacks=[]")
    assert unplugged != code
    scope = {}
    exec(re.sub(r"print\(.*monitor.*", "", unplugged), scope)
    for one, other in zip(watched, scope["module"].parameters(), strict=True):
        assert torch.equal(one, other)


def test_lightning_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib
    import sys

    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.delitem(sys.modules, "reluscape.monitor.lightning", raising=False)
    with pytest.raises(InputError, match=r"pip install 'reluscape\[lightning\]'"):
        importlib.import_module("reluscape.monitor.lightning")


def test_tensorboard_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"pip install 'reluscape\[tensorboard\]'"):
        rs.tensorboard_sink(tmp_path)


# ---- what a trajectory says -----------------------------------------------------------------------


def by_hand(
    losses: list[float],
    curvatures: list[float],
    squares: list[float] | None = None,
    rate: float = 0.1,
) -> Trajectory:
    count = len(losses)
    return Trajectory(
        steps=10 * np.arange(count), times=rate * np.arange(count), losses=np.array(losses),
        squared_gradients=np.array(squares or [1.0] * count), curvatures=np.array(curvatures),
        crossed=np.full(count, np.nan), in_region=np.full(count, np.nan),
        in_sharp_region=np.full(count, np.nan), extras=(), watched=np.zeros((count, 0)),
        weight_decay=0.0, batch="own", share=0.5,
    )  # fmt: skip


def test_onset_fraction_and_percentile_by_hand() -> None:
    found = by_hand([5.0, 4.0, 3.0, 2.0, 1.0], [3.0, -1.0, 2.0, 4.0, 6.0])
    assert found.start == 2
    assert found.onset == 20
    assert found.loss_fraction == pytest.approx((3.0 - 1.0) / (5.0 - 1.0))
    assert found.percentile(0) == 2.0
    assert found.percentile(50) == 4.0
    assert found.percentile() == pytest.approx(2.0 + 0.2 * 2.0)  # linear between ranks 0 and 1
    assert "from step 20 on: 50.0 %" in found.summary()


def test_all_none_and_undefined_by_hand() -> None:
    whole = by_hand([2.0, 1.0], [1.0, 2.0])
    assert (whole.onset, whole.loss_fraction) == (0, 1.0)
    never = by_hand([2.0, 1.0], [1.0, -2.0])
    assert (never.onset, never.loss_fraction) == (None, 0.0)
    assert np.isnan(never.percentile())
    assert "no convex phase" in never.summary()
    zero = by_hand([2.0, 1.5, 1.0], [1.0, 0.0, 1.0])
    assert zero.onset == 20  # zero is not positive
    unknown = by_hand([2.0, 1.5, 1.0], [1.0, np.nan, 1.0])
    assert unknown.onset == 20
    flat = by_hand([1.0, 1.0], [1.0, 1.0])
    assert np.isnan(flat.loss_fraction)
    assert "the loss did not fall" in flat.summary()
    assert "did not fall" not in by_hand([1.0], [1.0]).summary()
    assert "nan" not in flat.summary()
    with pytest.raises(InputError, match="between 0 and 100"):
        flat.percentile(101)


def test_a_loss_that_rises_has_no_fall() -> None:
    """Descent on a quadratic with a step too large: it is convex all along, and diverges."""
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(0)).double()
    model = nn.Linear(6, 1).double()
    monitor = ConvexityMonitor(nn.MSELoss(), batch=(x, x[:, :1]))
    for _ in range(8):
        monitor.step(model)
        slopes = torch.autograd.grad(
            functional.mse_loss(model(x), x[:, :1]), list(model.parameters())
        )
        with torch.no_grad():
            for parameter, slope in zip(model.parameters(), slopes, strict=True):
                parameter.sub_(slope, alpha=5.0)
    found = monitor.result()
    assert found.losses[-1] > 10.0 * found.losses[0]
    assert found.onset == 0
    assert np.isnan(found.loss_fraction)
    assert "from step 0 on; the loss did not fall" in found.summary()
    assert " % " not in found.summary().splitlines()[1]
    assert np.isnan(by_hand([1.0, 2.0], [1.0, -1.0]).loss_fraction)


def test_stationary_records_neither_end_nor_begin_a_convex_phase() -> None:
    """Without a gradient there is no curvature along it, as where a run has converged exactly."""
    nan = np.nan
    squares = [4.0, 0.0, 2.0, 1.0, 0.0, 0.0]
    run = by_hand([6.0, 5.0, 4.0, 3.0, 2.0, 2.0], [-1.0, nan, 2.0, 4.0, nan, nan], squares)
    assert run.stationary.tolist() == [False, True, False, False, True, True]
    assert run.onset == 20
    assert run.loss_fraction == pytest.approx(0.5)
    assert run.percentile(50) == 3.0
    assert "gradient zero" in run.summary()
    assert ": 3 records, first at step 10" in run.summary()
    decay = run.decay()
    assert decay.observed.tolist() == [2.0, 1.0]
    assert decay.rate == 2.0
    with pytest.raises(InputError, match="gradient is zero at record 1"):
        run.decay(1)
    ended = by_hand([3.0, 2.0, 2.0], [1.0, -1.0, nan], [1.0, 1.0, 0.0])
    assert ended.onset is None
    never = by_hand([2.0, 2.0], [nan, nan], [0.0, 0.0])
    assert never.onset is None
    assert "the gradient is zero throughout" in never.summary()
    diverged = by_hand([2.0, 2.0], [1.0, nan], [1.0, np.inf])
    assert diverged.onset is None


def test_a_run_to_a_stationary_point_is_convex_to_its_end() -> None:
    """|W|^2 with steps of 1/2: the second record is at its minimum."""
    model = nn.Linear(2, 1, bias=False).double()
    monitor = ConvexityMonitor(lambda module, batch: (module.weight**2).sum())
    for _ in range(3):
        monitor.step(model, torch.zeros(1))
        with torch.no_grad():
            model.weight.sub_(2.0 * model.weight, alpha=0.5)
    found = monitor.result()
    assert found.squared_gradients[1:].tolist() == [0.0, 0.0]
    assert (found.onset, found.loss_fraction) == (0, 1.0)


def test_decay_is_exact_on_a_quadratic_under_its_flow() -> None:
    """l = c/2 |W|^2: g = cW and H = cI, the second derivative is 2c, and |g|^2 falls as exp(-2ct)."""
    rate, curvature = 0.05, 3.0
    model = nn.Linear(4, 1, bias=False).double()
    start = model.weight.detach().clone()
    monitor = ConvexityMonitor(
        lambda module, batch: curvature / 2 * (module.weight**2).sum(),
        batch=torch.zeros(1),
        rate=rate,
    )
    for step in range(6):
        with torch.no_grad():
            model.weight.copy_(start * np.exp(-curvature * rate * step))
        monitor.step(model)
    decay = monitor.result().decay()
    expected = decay.observed[0] * np.exp(-2 * curvature * rate * np.arange(6))
    for values in (decay.observed, decay.bound, decay.flow):
        np.testing.assert_allclose(values, expected, rtol=1e-10)
    assert decay.rate == pytest.approx(2 * curvature)
    assert decay.kept == 1.0


def test_decays_bound_takes_the_least_rate_so_far_and_the_flow_their_integral() -> None:
    found = by_hand([3.0, 2.0, 1.0], [4.0, 2.0, 6.0], [8.0, 6.0, 4.0], rate=0.5).decay()
    np.testing.assert_allclose(found.bound, 8.0 * np.exp([0.0, -2.0 * 0.5, -2.0 * 1.0]))
    np.testing.assert_allclose(found.flow, 8.0 * np.exp([0.0, -3.0 * 0.5, -1.5 - 4.0 * 0.5]))
    assert found.kept == pytest.approx(1 / 3)  # only the start: 6 > 8/e, 4 > 8/e^2
    assert found.rate == pytest.approx(2.0)


def test_decay_beyond_what_floats_hold() -> None:
    """C t = 1000, the end of which no float holds; and the same upwards."""
    still = by_hand([2.0] * 1001, [20.0] * 1001, [3.0] * 1001, rate=0.05).decay()
    assert still.rate == 20.0
    assert still.kept == pytest.approx(1 / 1001)
    assert still.bound[-1] == 0.0
    lengths = np.exp(-20.0 * 0.05 * np.arange(700))  # the longest that floats do hold
    fall = by_hand([2.0] * 700, [20.0] * 700, lengths.tolist(), rate=0.05).decay()
    assert fall.kept == 1.0
    rising = by_hand([2.0] * 1001, [-20.0] * 1001, [3.0] * 1001, rate=0.05).decay(0)
    assert (rising.rate, rising.kept) == (-20.0, 1.0)
    tiny = by_hand([2.0, 1.0], [7500.0, 7500.0], [1e20, 1e-307], rate=0.1).decay()
    assert tiny.kept == 1.0  # exp(-750) = 2e-326 is no float; times 1e20 it is one


def test_decay_of_a_phase_and_what_it_needs() -> None:
    found = by_hand([3.0, 2.0, 1.0], [-4.0, 2.0, 6.0], [8.0, 6.0, 4.0])
    assert found.decay().observed.tolist() == [6.0, 4.0]
    assert found.decay(0).observed.tolist() == [8.0, 6.0, 4.0]
    assert (np.diff(found.decay(0).bound) > 0).all()
    assert np.isnan(found.decay(2).rate)
    with pytest.raises(InputError, match="between 0 and 2"):
        found.decay(3)
    with pytest.raises(InputError, match="no convex phase"):
        by_hand([3.0, 2.0], [1.0, -1.0]).decay()
    with pytest.raises(InputError, match="expected step sizes"):
        by_hand([3.0, 2.0], [1.0, 1.0], rate=np.nan).decay()


def test_trajectories_are_saved_loaded_and_drawn(tmp_path: Path) -> None:
    found = by_hand([5.0, 4.0, 3.0], [-30.0, 2.0, 4.0])
    again = Trajectory.load(found.save(tmp_path / "run.nc"))
    np.testing.assert_array_equal(again.curvatures, found.curvatures)
    assert (again.onset, again.extras, again.batch) == (10, (), "own")
    figure = found.plot()
    assert list(figure.data[0].y) == [5.0, 4.0, 3.0]
    assert list(figure.data[1].y) == [-10.0, 2.0, 4.0]  # clipped as in the paper
    assert figure.data[1].yaxis == "y2"
    assert {shape.x0 for shape in figure.layout.shapes} == {10.0}
    assert figure.layout.yaxis.type == "log"
    below = by_hand([1.0, -1.0, -2.0], [1.0, 2.0, 4.0]).plot()
    assert below.layout.yaxis.type != "log"  # which would leave out what is negative
    decay = found.decay()
    assert len(decay.plot().data) == 3
    assert Decay.load(decay.save(tmp_path / "decay.nc")).kept == decay.kept
    assert repr(found).startswith("Trajectory(steps=[0, 10, 20]")


# ---- checkpoints ----------------------------------------------------------------------------------


def test_checkpoints_are_a_trajectory(tmp_path: Path) -> None:
    model = mlp(0)
    x, y = batch_for((3,), 12)
    landscape = Landscape(model, x.numpy(), y.numpy(), loss="cross_entropy")
    monitor = ConvexityMonitor(landscape, crossings=True)
    for step in (0, 9, 10, 100):
        save_file(model.state_dict(), tmp_path / f"epoch1-step{step}.safetensors")
        monitor.step(model)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * torch.randn_like(p))
    expected, told = monitor.result(), []
    found = trajectory_of(
        tmp_path, landscape, progress=lambda text, done: told.append((text, done))
    )
    assert found.steps.tolist() == [0, 9, 10, 100]  # by number, not by name
    for name in ("losses", "squared_gradients", "curvatures", "crossed"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-12)
    assert ("reading epoch1-step10.safetensors", 0.5) in told
    timed = trajectory_of(tmp_path, landscape, rate=0.1)
    np.testing.assert_allclose(timed.times, [0.0, 0.9, 1.0, 10.0])
    assert np.isnan(found.times[1:]).all()


def test_a_stopped_reading_keeps_the_checkpoints_so_far(tmp_path: Path) -> None:
    model = mlp(0)
    x, y = batch_for((3,), 12)
    landscape = Landscape(model, x.numpy(), y.numpy(), loss="cross_entropy")
    for step in range(4):
        save_file(model.state_dict(), tmp_path / f"{step}.safetensors")

    def stopping(at: str) -> Callable[[str, float], None]:
        def progress(text: str, done: float) -> None:
            if text == at:
                raise Stop

        return progress

    found = trajectory_of(tmp_path, landscape, progress=stopping("reading 2.safetensors"))
    assert found.steps.tolist() == [0, 1]
    assert found.skipped == ("2.safetensors and 1 later: interrupted before",)
    with pytest.raises(Stop):
        trajectory_of(tmp_path, landscape, progress=stopping("reading 0.safetensors"))


def test_checkpoints_may_be_a_list(tmp_path: Path) -> None:
    model = mlp(0)
    x, y = batch_for((3,), 12)
    landscape = Landscape(model, x.numpy(), y.numpy(), loss="cross_entropy")
    losses = []
    for step in (0, 100):
        save_file(model.state_dict(), tmp_path / f"epoch1-step{step}.safetensors")
        losses.append(
            landscape.at(torch.cat([p.detach().ravel() for p in model.parameters()])).loss()
        )
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1)
    files = [tmp_path / f"epoch1-step{step}.safetensors" for step in (100, 0)]
    some = trajectory_of(files, landscape, crossings=False)
    assert some.steps.tolist() == [0, 1]
    np.testing.assert_allclose(some.losses, losses[::-1], rtol=1e-12)


def test_checkpoints_that_are_none(tmp_path: Path) -> None:
    model = mlp(0)
    landscape = Landscape(model, np.ones((2, 3)), np.array([0, 1]), loss="cross_entropy")
    with pytest.raises(InputError, match="is none"):
        trajectory_of(tmp_path / "missing", landscape)
    with pytest.raises(InputError, match="it has none"):
        trajectory_of(tmp_path, landscape)
    with pytest.raises(InputError, match="at least one"):
        trajectory_of([], landscape)
    with pytest.raises(InputError, match="is no file"):
        trajectory_of([tmp_path / "missing.pt"], landscape)
    with pytest.raises(InputError, match="rate must be"):
        trajectory_of(tmp_path, landscape, rate=0.0)
    save_file(nn.Linear(2, 2).state_dict(), tmp_path / "other-1.safetensors")
    with pytest.raises(InputError, match="does not fit"):
        trajectory_of(tmp_path, landscape)
    (tmp_path / "other-1.safetensors").unlink()
    for name in ("best", "last"):
        save_file(model.state_dict(), tmp_path / f"{name}.safetensors")
    with pytest.raises(InputError, match=r"as step-100.pt; .* has best.safetensors, last.saf"):
        trajectory_of(tmp_path, landscape)


@pytest.mark.parametrize(
    ("names", "steps", "left_out"),
    [
        ("step1 step2 step9 step10 step11 last", [1, 2, 9, 10, 11], {"last": "no number"}),
        ("epoch=9-val_loss=0.25 epoch=10-val_loss=0.3 best", [9, 10], {"best": "no number"}),
        ("e1-s5 e1-s10 e2-s5 e10-s1", [0, 1, 2, 3], {}),
        ("3 20 20-best best-20", [3, 20], {"20-best": "numbers of 20", "best-20": "numbers of 20"}),
        ("v2-8 v2-9 v2-10", [8, 9, 10], {}),
        ("1 99999999999999999999", [0, 1], {}),
    ],
)
def test_a_folders_order_is_that_of_its_numbers(
    tmp_path: Path, names: str, steps: list[int], left_out: dict[str, str]
) -> None:
    model = mlp(0)
    x, y = batch_for((3,), 12)
    landscape = Landscape(model, x.numpy(), y.numpy(), loss="cross_entropy")
    losses = []
    for name in names.split():
        save_file(model.state_dict(), tmp_path / f"{name}.safetensors")
        if name not in left_out:
            theta = torch.cat([p.detach().ravel() for p in model.parameters()])
            losses.append(landscape.at(theta).loss())
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1.1)
    found = trajectory_of(tmp_path, landscape)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-9)
    assert found.steps.tolist() == steps
    told = dict(line.split(": ") for line in found.skipped)
    assert told.keys() == {f"{name}.safetensors" for name in left_out}
    for name, why in left_out.items():
        assert why in told[f"{name}.safetensors"]


def test_a_rate_needs_numbers_that_grow(tmp_path: Path) -> None:
    model = mlp(0)
    landscape = Landscape(model, np.ones((2, 3)), np.array([0, 1]), loss="cross_entropy")
    for name in ("epoch1-step5", "epoch2-step5"):
        save_file(model.state_dict(), tmp_path / f"{name}.safetensors")
    with pytest.raises(InputError, match=r"epoch2-step5\.safetensors comes after epoch1"):
        trajectory_of(tmp_path, landscape, rate=0.1)


def test_diverged_checkpoints_are_named(tmp_path: Path) -> None:
    """One with a NaN is left out; one at which the loss overflows has no finite loss."""
    model = mlp(0)
    x, y = batch_for((3,), 12)
    landscape = Landscape(model, x.numpy(), y.numpy(), loss="cross_entropy")
    for step, factor in enumerate((1.0, 1.0, 1e200, np.nan)):
        state = {name: factor * one.double() for name, one in model.state_dict().items()}
        save_file(state, tmp_path / f"{step}.safetensors")
    found = trajectory_of(tmp_path, landscape)
    assert found.steps.tolist() == [0, 1, 2]
    assert np.isfinite(found.losses).tolist() == [True, True, False]
    assert "NaN or infinite" in found.skipped[0]
    assert found.onset is None
    assert "not finite: 1 record, first at step 2" in found.summary()


# ---- flaws and mistakes ---------------------------------------------------------------------------


def test_zero_and_infinite_gradients_are_recorded_and_named() -> None:
    model = nn.Linear(2, 1, bias=False).double()
    factors = iter([1.0, 0.0, float("inf"), 1.0])
    monitor = ConvexityMonitor(lambda module, batch: batch[0] * (module.weight**2).sum())
    nn.init.constant_(model.weight, 1.0)
    for factor in factors:
        monitor.step(model, torch.tensor([factor]).double())
    found = monitor.result()
    assert np.isnan(found.curvatures).tolist() == [False, True, True, False]
    assert found.curvatures[0] == pytest.approx(4.0)
    assert found.onset == 3
    text = found.summary()
    assert "gradient zero, so that nothing is said of convexity: 1 record, first at step 1" in text
    assert "not finite: 1 record, first at step 2" in text


def test_a_loss_that_is_linear_in_the_parameters_has_no_curvature() -> None:
    monitor = ConvexityMonitor(
        lambda module, batch: module.weight.sum(), batch=torch.ones(1), weight_decay=0.5
    )
    model = nn.Linear(2, 1, bias=False)
    monitor.step(model)
    assert monitor.result().curvatures.tolist() == [1.0]  # 2 lambda


class Once(torch.autograd.Function):
    """A square without a second derivative."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> torch.Tensor:
        return 2 * ctx.saved_tensors[0] * slope


class Hidden(torch.autograd.Function):
    """A square whose backward pass autograd cannot see."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> torch.Tensor:
        return (2 * ctx.saved_tensors[0] * slope).detach()


class Cube(torch.autograd.Function):
    """A cube that autograd can differentiate twice."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> torch.Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * slope


def test_functions_of_the_users_own() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, 2.0)
    monitor = ConvexityMonitor(
        lambda module, batch: Cube.apply(module.weight).sum() + torch.floor(module.weight).sum(),
        batch=torch.ones(1),
    )
    monitor.step(model)
    assert monitor.result().curvatures[0] == pytest.approx(2 * 6 * 2.0)  # 2 l'' of w^3


@pytest.mark.parametrize("function", [Once, Hidden])
@pytest.mark.parametrize("shared", [False, True])
def test_functions_without_a_second_derivative_are_refused(
    function: type[torch.autograd.Function], shared: bool
) -> None:
    model, x = mlp(0), torch.randn(4, 3)

    def loss(module: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        out = module(batch)
        return function.apply(out).square().sum() + (out.sum() if shared else 0.0)

    with pytest.raises(AnalysisError, match="no second derivative"):
        ConvexityMonitor(loss).step(model, x)


def test_checkpoints_are_seen_through_or_refused() -> None:
    model = mlp(0).double()
    x, y = batch_for((3,))
    found = []
    for options in ({}, {"use_reentrant": False}, {"use_reentrant": True}):

        def loss(module: nn.Module, batch: torch.Tensor, options: Any = options) -> torch.Tensor:
            start = batch.requires_grad_()
            inner = checkpoint(module[:3], start, **options) if options else module[:3](start)
            return functional.cross_entropy(module[3:](inner), y)

        monitor = ConvexityMonitor(loss)
        if options.get("use_reentrant"):
            with pytest.raises(AnalysisError, match="use_reentrant=False"):
                monitor.step(model, x)
        else:
            monitor.step(model, x)
            found.append(monitor.result().curvatures[0])
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def test_backward_lets_go_of_the_graph_as_losses_do() -> None:
    model = mlp(0)
    loss = functional.cross_entropy(model(torch.randn(4, 3)), torch.randint(3, (4,)))
    ConvexityMonitor(nn.CrossEntropyLoss()).backward(model, loss)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_callers_mistakes_are_told() -> None:
    x, y = torch.randn(4, 3), torch.randint(3, (4,))
    monitor = ConvexityMonitor(nn.CrossEntropyLoss())
    with pytest.raises(InputError, match="nothing was recorded"):
        monitor.result()
    with pytest.raises(InputError, match="expected a batch"):
        monitor.step(mlp(0))
    with pytest.raises(InputError, match=r"samples; received a tensor of shape \(0, 3\)"):
        monitor.step(mlp(0), (x[:0], y[:0]))
    with pytest.raises(InputError, match="pair"):
        monitor.step(mlp(0), x)
    with pytest.raises(InputError, match=r"torch\.nn\.Module"):
        monitor.step([1], (x, y))
    with pytest.raises(InputError, match="it has none"):
        monitor.step(nn.ReLU(), (x, y))
    monitor.step(mlp(0), (x, y))
    with pytest.raises(InputError, match="must keep number and shapes"):
        monitor.step(nn.Linear(3, 3), (x, y))
    with pytest.raises(InputError, match="one number"):
        ConvexityMonitor(nn.CrossEntropyLoss(reduction="none")).step(mlp(0), (x, y))
    with pytest.raises(InputError, match="does not"):
        ConvexityMonitor(lambda module, batch: torch.ones(())).step(mlp(0), x)
    with pytest.raises(AnalysisError, match="no second derivative"):
        ConvexityMonitor(lambda module, batch: Once.apply(module(batch)).square().sum()).step(
            mlp(0), x
        )
    with pytest.raises(InputError, match="make a landscape of this model"):
        ConvexityMonitor(Landscape(mlp(0), x.numpy(), y.numpy(), loss="cross_entropy")).step(
            convnet(0)
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every must be"),
        ({"weight_decay": -1.0}, "weight_decay must be"),
        ({"crossings": True}, "counted on one batch"),
        ({"sink": 3}, "sink must be"),
        ({"loss": "squared"}, "loss must be"),
        ({"rate": "fast"}, "rate must be"),
        ({"watch": {"norm": 3}}, "watch must have"),
    ],
)
def test_options_are_checked_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ConvexityMonitor(**({"loss": nn.MSELoss()} | options))


def test_backward_is_for_the_steps_own_batch() -> None:
    batch = torch.randn(4, 3), torch.randint(3, (4,))
    monitor = ConvexityMonitor(nn.CrossEntropyLoss(), batch=batch)
    with pytest.raises(InputError, match="use step"):
        monitor.backward(mlp(0), torch.zeros(()))


def test_a_landscape_brings_its_own_data() -> None:
    landscape = Landscape(mlp(0), np.ones((2, 3)), np.array([0, 1]), loss="cross_entropy")
    with pytest.raises(InputError, match="drop batch and weight_decay"):
        ConvexityMonitor(landscape, weight_decay=0.1)


def test_a_fixed_batch_that_changes_is_told() -> None:
    sizes = iter([4, 5])
    monitor = ConvexityMonitor(
        lambda module, batch: module(torch.ones(next(sizes), 3)).square().sum(),
        batch=torch.ones(1), crossings=True,
    )  # fmt: skip
    model = mlp(0)
    monitor.step(model)
    with pytest.raises(InputError, match="the model or the batch has changed"):
        monitor.step(model)


# ---- on a GPU -------------------------------------------------------------------------------------

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@needs_cuda
def test_cuda_generators_are_left_alone() -> None:
    model = Restless().cuda().train()
    batch = torch.randn(8, 6, device="cuda"), torch.randint(3, (8,), device="cuda")
    before = torch.cuda.get_rng_state()
    monitor = ConvexityMonitor(nn.CrossEntropyLoss(), batch=batch, crossings=True)
    monitor.step(model)
    assert torch.equal(before, torch.cuda.get_rng_state())
    assert np.isfinite(monitor.result().curvatures).all()


@needs_cuda
@pytest.mark.parametrize("case", CASES)
def test_cuda_gives_the_cpus_record(case: str) -> None:
    make, shape = CASES[case]
    model = make(0).double()
    batch = batch_for(shape)
    there = tuple(one.cuda() for one in batch)
    found = []
    for device, rows in (("cpu", batch), ("cuda", there)):
        monitor = ConvexityMonitor(nn.CrossEntropyLoss(), weight_decay=0.1)
        monitor.step(copy.deepcopy(model).to(device), rows)
        found.append(monitor.result())
    for name in ("losses", "squared_gradients", "curvatures"):
        here, other = (getattr(one, name) for one in found)
        np.testing.assert_allclose(other, here, rtol=1e-8, atol=1e-10)


def trained_on_cuda(monitor: ConvexityMonitor | None, place: str) -> dict[str, torch.Tensor]:
    """Weights, buffers and the random state of a convolutional net with batch norm and dropout."""
    torch.manual_seed(3)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()]
    dense = [nn.Linear(36, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)]
    model = nn.Sequential(*layers, *dense).cuda().train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(8):
        batch = torch.randn(8, 1, 8, 8).cuda(), torch.randint(3, (8,)).cuda()
        if monitor is not None and place == "step":
            monitor.step(model, batch)
        optimiser.zero_grad()
        loss = functional.cross_entropy(model(batch[0]), batch[1])
        if monitor is not None and place == "backward":
            monitor.backward(model, loss)
        else:
            loss.backward()
        optimiser.step()
    return model.state_dict() | {"random": torch.cuda.get_rng_state()}


@needs_cuda
@pytest.mark.parametrize("place", ["step", "backward"])
def test_the_monitored_runs_weights_on_cuda_are_the_unmonitored_ones(place: str) -> None:
    monitor = ConvexityMonitor(nn.CrossEntropyLoss())
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        plain, watched = trained_on_cuda(None, place), trained_on_cuda(monitor, place)
    for name, value in plain.items():
        assert torch.equal(value, watched[name]), name
    assert np.isfinite(monitor.result().curvatures).all()


class Writes(nn.Module):
    """Writes into its input, fills a buffer that is empty, and has two buffers of one memory."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 1)
        self.register_buffer("late", None)
        both = torch.arange(4.0)
        self.register_buffer("whole", both)
        self.register_buffer("front", both[:2])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.whole += 1.0
        self.late = x.detach().mean()
        value: torch.Tensor = self.line(x.mul_(2.0)) * self.front.sum()
        return value


def test_what_a_model_writes_is_undone() -> None:
    torch.manual_seed(0)
    model, inputs, targets = Writes(), torch.randn(5, 3), torch.zeros(5, 1)
    before = inputs.clone()
    monitor = ConvexityMonitor(nn.MSELoss())
    monitor.step(model, (inputs, targets))
    assert torch.equal(inputs, before)
    assert model.late is None
    assert model.whole.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert model.front.data_ptr() == model.whole.data_ptr()
    with torch.no_grad():
        wanted = nn.functional.mse_loss(model(inputs), targets).item()
    assert monitor.result().losses[0] == pytest.approx(wanted)


def test_layers_may_be_frozen_and_freed_during_a_run() -> None:
    torch.manual_seed(0)
    model, batch = (
        nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)),
        (torch.randn(6, 3), torch.randn(6, 3)),
    )
    monitor = ConvexityMonitor(nn.MSELoss())
    landscape = ConvexityMonitor(Landscape(model, *(one.numpy() for one in batch)))
    for frozen in (False, True):
        model[0].requires_grad_(not frozen)
        monitor.step(model, batch)
        landscape.step(model)
    both, first = monitor.result().squared_gradients, landscape.result().squared_gradients
    assert both[1] < both[0]
    assert first[1] < first[0]


def test_a_sink_that_fails_loses_no_count() -> None:
    def fails(step: int, numbers: Any) -> None:
        if step == 1:
            raise OSError("disk full")

    model, batch = nn.Linear(2, 1), (torch.ones(3, 2), torch.ones(3, 1))
    monitor = ConvexityMonitor(nn.MSELoss(), sink=fails)
    for step in range(3):
        if step == 1:
            with pytest.raises(OSError, match="disk full"):
                monitor.step(model, batch)
        else:
            monitor.step(model, batch)
    assert monitor.result().steps.tolist() == [0, 1, 2]


def test_kinks_of_prelu_are_counted_and_none_is_not_zero() -> None:
    batch = (torch.tensor([[1.0], [2.0]]), torch.zeros(2, 1))
    for layer, crossed in ((nn.PReLU(), 2.0), (nn.Tanh(), float("nan"))):
        model = nn.Sequential(nn.Linear(1, 1, bias=False), layer)
        monitor = ConvexityMonitor(nn.MSELoss(), batch=batch, crossings=True)
        for weight in (1.0, -1.0):
            nn.init.constant_(model[0].weight, weight)
            monitor.step(model)
        np.testing.assert_array_equal(monitor.result().crossed, [np.nan, crossed])


def test_sparse_gradients_are_those_of_the_dense_layer() -> None:
    found = []
    for sparse in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(10, 4, sparse=sparse), nn.Flatten(), nn.Linear(8, 1))
        monitor = ConvexityMonitor(nn.MSELoss())
        monitor.step(model, (torch.tensor([[1, 2], [3, 3]]), torch.ones(2, 1)))
        found.append(monitor.result().curvatures[0])
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_lazy_layers_are_to_be_run_first() -> None:
    with pytest.raises(InputError, match="without a shape yet: run it once"):
        ConvexityMonitor(nn.MSELoss()).step(nn.LazyLinear(1), (torch.ones(2, 2), torch.ones(2, 1)))
