"""Models from weights files and factories."""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file, save_model
from torch import nn

from reluscape.errors import InputError
from reluscape.landscape import Landscape
from reluscape.models import InferredMLP, load_model, num_outputs, takes_flat_inputs
from reluscape.network import read_network
from reluscape.weights import read_state, write_state


def network(*widths: int, seed: int = 0) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b, dtype=torch.float64), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(generator=generator)
    return model


def rows(width: int, count: int = 7) -> torch.Tensor:
    return torch.randn(
        count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(9)
    )


def saved(path: Path, state: object) -> Path:
    if path.suffix == ".safetensors":
        save_file({name: t.contiguous() for name, t in state.items()}, path)  # type: ignore[attr-defined]
    else:
        torch.save(state, path)
    return path


def renamed(model: nn.Sequential, *names: str) -> OrderedDict[str, torch.Tensor]:
    linear = [layer for layer in model if isinstance(layer, nn.Linear)]
    return OrderedDict(
        (f"{name}.{part}", getattr(layer, part).detach())
        for name, layer in zip(names, linear, strict=True)
        for part in ("weight", "bias")
    )


def same(loaded: nn.Module, original: nn.Module, width: int) -> None:
    x = rows(width)
    with torch.no_grad():
        np.testing.assert_array_equal(loaded(x), original.double().eval()(x))
    assert not loaded.training


def refusal(weights: Path | None, factory: str | None = None) -> str:
    with pytest.raises(InputError) as caught:
        load_model(weights, factory)
    text = str(caught.value)
    assert "\n" not in text
    return text


# --- inference from a state dict ----------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_plain_network_keeps_names_and_outputs(tmp_path: Path, suffix: str) -> None:
    model = network(4, 6, 6, 6, 6, 6, 6, 3)  # twelve places: 10 sorts before 2 as text
    loaded = load_model(saved(tmp_path / f"a{suffix}", model.state_dict()), None)
    same(loaded, model, 4)
    assert isinstance(loaded, InferredMLP)
    assert loaded.widths == (4, 6, 6, 6, 6, 6, 6, 3)
    assert set(loaded.state_dict()) == set(model.state_dict())
    assert read_network(loaded, rows(4)).network.names == ("0", "2", "4", "6", "8", "10", "12")


@settings(max_examples=40, deadline=None)
@given(
    widths=st.lists(st.integers(1, 5), min_size=2, max_size=7),
    prefix=st.sampled_from(["fc", "net.", "blocks.lin_", "a.b.c"]),
    bias=st.booleans(),
)
def test_any_numbered_names(
    tmp_path_factory: pytest.TempPathFactory, widths: list[int], prefix: str, bias: bool
) -> None:
    folder, model = tmp_path_factory.mktemp("m"), network(*widths)
    state = renamed(model, *[f"{prefix}{k * 7}" for k in range(len(widths) - 1)])
    if not bias:
        state = OrderedDict((k, v) for k, v in state.items() if k.endswith("weight"))
        for layer in model[::2]:
            layer.bias.data.zero_()  # type: ignore[operator, union-attr]
    for suffix in (".pt", ".safetensors"):
        same(load_model(saved(folder / f"a{suffix}", state), None), model, widths[0])


def test_names_reach_the_reading(tmp_path: Path) -> None:
    state = renamed(network(3, 4, 2), "net.fc1", "net.fc2")
    loaded = load_model(saved(tmp_path / "a.pt", state), None)
    assert read_network(loaded, rows(3)).network.names == ("net.fc1", "net.fc2")


def test_bare_linear(tmp_path: Path) -> None:
    model = network(3, 2)
    same(load_model(saved(tmp_path / "a.pt", model[0].state_dict()), None), model, 3)


def test_shapes_order_named_layers(tmp_path: Path) -> None:
    model = network(5, 4, 4, 4, 2)
    state = renamed(model, "stem", "hidden1", "hidden2", "head")
    same(load_model(saved(tmp_path / "a.safetensors", state), None), model, 5)
    shuffled = OrderedDict(reversed(state.items()))
    same(load_model(saved(tmp_path / "a.pt", shuffled), None), model, 5)


def test_order_that_shapes_cannot_tell(tmp_path: Path) -> None:
    state = renamed(network(4, 4, 4), "encode", "decode")
    assert "more than one order" in refusal(saved(tmp_path / "a.safetensors", state))
    same(load_model(saved(tmp_path / "a.pt", state), None), network(4, 4, 4), 4)


def test_shapes_that_do_not_chain(tmp_path: Path) -> None:
    state = {"fc1.weight": torch.ones(3, 2), "fc2.weight": torch.ones(2, 4)}
    assert "fc1 2->3, fc2 4->2 do not follow" in refusal(saved(tmp_path / "a.safetensors", state))


def test_touching_layers_of_a_sequential(tmp_path: Path) -> None:
    state = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).state_dict()
    assert "layers 0 and 1 of a Sequential touch" in refusal(saved(tmp_path / "a.pt", state))
    listed = renamed(network(3, 4, 2), "layers.0", "layers.1")  # as of a ModuleList
    same(load_model(saved(tmp_path / "b.pt", listed), None), network(3, 4, 2), 3)


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_wrappers_and_prefixes(tmp_path: Path, wrapper: str, prefix: str) -> None:
    model = network(3, 4, 2)
    state = {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}
    loaded = load_model(saved(tmp_path / "a.pt", {"epoch": 3, wrapper: state}), None)
    same(loaded, model, 3)
    assert list(loaded.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_low_precision_is_widened_exactly(tmp_path: Path, dtype: torch.dtype, suffix: str) -> None:
    model = network(3, 4, 2).to(dtype)
    loaded = load_model(saved(tmp_path / f"a{suffix}", model.state_dict()), None)
    assert all(p.dtype == torch.float64 for p in loaded.parameters())
    same(loaded, model, 3)


def batch_norm(width: int) -> nn.BatchNorm1d:
    layer = nn.BatchNorm1d(width, dtype=torch.float64)
    generator = torch.Generator().manual_seed(width)
    with torch.no_grad():
        for tensor in (*layer.parameters(), layer.running_mean):
            tensor.normal_(generator=generator)  # type: ignore[union-attr]
        layer.running_var.uniform_(0.5, 2, generator=generator)  # type: ignore[union-attr]
    return layer


def lin(a: int, b: int) -> nn.Module:
    return network(a, b)[0]


NORMED: dict[str, Callable[[], nn.Sequential]] = {
    "before ReLU": lambda: nn.Sequential(
        lin(3, 4), batch_norm(4), nn.ReLU(), lin(4, 5), batch_norm(5), nn.ReLU(), lin(5, 2)
    ),
    "after ReLU": lambda: nn.Sequential(lin(3, 4), nn.ReLU(), batch_norm(4), lin(4, 2)),
    "first and last": lambda: nn.Sequential(
        batch_norm(3), lin(3, 4), nn.ReLU(), lin(4, 2), batch_norm(2)
    ),
}


@pytest.mark.parametrize("place", NORMED)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_batch_norm_placed_by_the_numbering(tmp_path: Path, place: str, suffix: str) -> None:
    model = NORMED[place]()
    same(load_model(saved(tmp_path / f"a{suffix}", model.state_dict()), None), model, 3)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([lin(3, 4), nn.Dropout(), batch_norm(4), nn.ReLU(), lin(4, 2)], "before or after"),
        ([lin(3, 4), nn.ReLU(), nn.Dropout(), batch_norm(4), lin(4, 2)], "before or after"),
        ([lin(3, 4), batch_norm(4), lin(4, 2)], "before or after"),
        ([lin(3, 4), nn.ReLU(), batch_norm(4)], "before or after"),
        ([batch_norm(3), nn.ReLU(), lin(3, 4)], "before or after"),
    ],
)
def test_batch_norm_in_doubt(tmp_path: Path, layers: list[nn.Module], expected: str) -> None:
    text = refusal(saved(tmp_path / "a.pt", nn.Sequential(*layers).state_dict()))
    assert expected in text
    assert "--model module:factory" in text


def test_named_batch_norm_is_in_doubt(tmp_path: Path) -> None:
    named = OrderedDict(fc1=lin(3, 4), bn1=batch_norm(4), relu=nn.ReLU(), fc2=lin(4, 2))
    state = nn.Sequential(named).state_dict()
    assert "no place in a Sequential" in refusal(saved(tmp_path / "a.pt", state))


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (nn.Conv2d(1, 2, 3).state_dict(), "'linear' has weight (2, 1, 3, 3)"),
        (nn.LayerNorm(3).state_dict(), "not a plain network"),
        ({"a.weight": torch.ones(2, 3), "a.bias": torch.ones(3)}, "bias of 'a' does not fit"),
        ({"a.weight": torch.ones(2, 0)}, "not a plain network"),
        ({"a.weight": torch.ones(2, 3, dtype=torch.int32)}, "a.weight is torch.int32"),
        ({"a.weight": torch.ones(2, 3, dtype=torch.complex64)}, "torch.complex64"),
        ({"a.weight": torch.tensor([[1.0, float("nan")]])}, "a.weight holds 1 values"),
        ({"a.weight": torch.eye(3).to_sparse()}, "expected dense"),
        ({"a.weight": torch.ones(2, 3), "epoch": 3}, "holds a int under 'epoch'"),
        ({"forward.weight": torch.ones(2, 3)}, "names that PyTorch reserves"),
        (batch_norm(3).state_dict(), "no Linear layer"),
        ({}, "holds no tensors"),
        ([torch.ones(2)], "holds a list; expected a state dict"),
        (torch.ones(2), "holds a Tensor; expected a state dict"),
    ],
)
def test_states_that_are_no_plain_network(tmp_path: Path, state: object, expected: str) -> None:
    assert expected in refusal(saved(tmp_path / "a.pt", state))


# --- damaged and dangerous files ----------------------------------------------------------------


class Danger:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    torch.save(network(3, 2), tmp_path / "module.pt")
    text = refusal(tmp_path / "module.pt")
    assert "pickled objects" in text
    assert "save model.state_dict() instead of the model" in text
    torch.save({"a.weight": Danger(tmp_path / "ran")}, tmp_path / "evil.pt")
    assert "pickled objects" in refusal(tmp_path / "evil.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Danger(tmp_path / "ran"), protocol=2))
    assert "pickled objects" in refusal(tmp_path / "raw.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 4, 40, 0.5, 0.99])
def test_truncated_files(tmp_path: Path, suffix: str, keep: float) -> None:
    path = saved(tmp_path / f"a{suffix}", network(3, 4, 2).state_dict())
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    assert "not a complete" in refusal(path)


def test_garbage_files(tmp_path: Path) -> None:
    for suffix in (".pt", ".safetensors"):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(b"this is a text, not weights")
        assert str(path) in refusal(path)
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as archive:
        archive.writestr("hello", "world")
    assert "not a complete PyTorch file" in refusal(tmp_path / "b.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_damaged_bytes_never_escape_as_another_error(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"a{suffix}", network(3, 4, 2).state_dict())
    good, rng = path.read_bytes(), np.random.default_rng(0)
    header, messages = min(len(good), 900), []
    for _ in range(150):
        bad = bytearray(good)
        bad[rng.integers(header)] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(bad))
        try:
            load_model(path, None)
        except InputError as error:
            messages.append(str(error))
    assert len(messages) > 20
    assert not any("\n" in message for message in messages)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "no.pt")
    (tmp_path / "folder.pt").mkdir()
    assert "got the folder" in refusal(tmp_path / "folder.pt")
    (tmp_path / "weights.bin").write_bytes(b"")
    assert "expected weights in a .safetensors" in refusal(tmp_path / "weights.bin")
    assert "got neither" in refusal(None)


# --- factories ----------------------------------------------------------------------------------


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    text = """
import torch
from torch import nn
def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
ready = small()
class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.bn = nn.BatchNorm1d(2)
    def forward(self, x):
        return self.bn(self.fc(x))
class Chosen(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.register_buffer("place", torch.tensor([2, 0]))
        self.register_buffer("mask", torch.tensor([True, False]))
    def forward(self, x):
        return self.fc(x[:, self.place] * self.mask)
class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 3)
        self.again, self.last.weight = self.first, self.first.weight
        self.register_buffer("far", torch.full((2,), -torch.inf))
    def forward(self, x):
        return self.last(self.again(self.first(x)))
def wrong(): return 3
def two(x, y): return small()
"""
    (tmp_path / "model_factories_of_test.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    return "model_factories_of_test"


def test_factory_kinds(code: str) -> None:
    with torch.random.fork_rng():
        small, ready = load_model(None, f"{code}:small"), load_model(None, f"{code}:ready")
        own = load_model(None, f"{code}:Own")
    same(small, ready, 3)
    assert all(p.dtype == torch.float64 for p in own.parameters())
    import sys

    module = sys.modules[code]
    assert module.ready is not ready
    assert next(module.ready.parameters()).dtype == torch.float32


def test_factory_refusals(code: str) -> None:
    assert "must give a torch.nn.Module, got int" in refusal(None, f"{code}:wrong")
    assert "missing 2 required positional arguments" in refusal(None, f"{code}:two")
    assert "expected module:factory" in refusal(None, "no colon")
    assert "has no attribute 'absent'" in refusal(None, f"{code}:absent")


def test_weights_load_into_the_factory_model(code: str, tmp_path: Path) -> None:
    original = load_model(None, f"{code}:small")
    with torch.no_grad():
        for p in original.parameters():
            p.mul_(1 + 1e-12)  # lost if the weights went through float32
    path = saved(tmp_path / "a.pt", original.state_dict())
    same(load_model(path, f"{code}:small"), original, 3)


def test_old_batch_norm_files_lack_the_counter(code: str, tmp_path: Path) -> None:
    state = {"fc.weight": torch.ones(2, 3), "fc.bias": torch.ones(2)}
    state |= {
        f"bn.{part}": torch.ones(2) for part in ("weight", "bias", "running_mean", "running_var")
    }
    loaded = load_model(saved(tmp_path / "a.pt", state), f"{code}:Own")
    np.testing.assert_allclose(loaded(torch.zeros(1, 3).double()).detach(), [[1.0, 1.0]])


def test_tensors_that_are_one_come_back_from_one_name(code: str, tmp_path: Path) -> None:
    """As `save_model` of safetensors keeps one of their names alone; and with a mask of -inf."""
    original = load_model(None, f"{code}:Tied")
    with torch.no_grad():
        original.first.weight.copy_(torch.arange(9.0).view(3, 3))
    save_model(original, str(tmp_path / "a.safetensors"))
    assert len(load_file(tmp_path / "a.safetensors")) < len(original.state_dict())
    loaded = load_model(tmp_path / "a.safetensors", f"{code}:Tied")
    same(loaded, original, 3)
    assert loaded.last.weight is loaded.first.weight
    state = original.state_dict() | {"first.bias": torch.tensor([0.0, torch.inf, 0.0])}
    refused = refusal(saved(tmp_path / "b.pt", state), f"{code}:Tied")
    assert "first.bias holds 1 values that are NaN or infinite" in refused


def test_weights_that_do_not_fit(code: str, tmp_path: Path) -> None:
    state = {"0.weight": torch.ones(5, 3), "0.bias": torch.ones(4), "x.bias": torch.ones(2)}
    text = refusal(saved(tmp_path / "a.pt", state), f"{code}:small")
    assert "missing: 2.bias, 2.weight" in text
    assert "unexpected: x.bias" in text
    assert "of another shape: 0.weight (5, 3) for (4, 3)" in text


# --- fitting data -------------------------------------------------------------------------------


def test_num_outputs(tmp_path: Path) -> None:
    inferred = load_model(saved(tmp_path / "a.pt", network(3, 4, 2).state_dict()), None)
    assert num_outputs(inferred, np.zeros((5, 3))) == 2
    with pytest.raises(InputError, match=r"takes 3 features but the data has shape \(4,\)"):
        num_outputs(inferred, np.zeros((5, 4)))
    with pytest.raises(InputError, match="does not run on inputs of shape"):
        num_outputs(network(3, 4, 2), np.zeros((5, 4)))
    squeezed = nn.Sequential(*network(3, 1), nn.Flatten(0))
    assert num_outputs(squeezed, np.zeros((5, 3))) == 1
    with pytest.raises(InputError, match="one row of outputs per sample"):
        num_outputs(nn.Sequential(nn.Flatten(0)), np.zeros((5, 3)))


def test_takes_flat_inputs() -> None:
    images = np.zeros((2, 3, 4))
    assert takes_flat_inputs(network(12, 2), images)
    assert not takes_flat_inputs(network(4, 2), images)
    assert not takes_flat_inputs(network(12, 2), images.reshape(2, 12))
    assert not takes_flat_inputs(nn.Sequential(nn.Conv1d(3, 2, 2), *network(12, 2)), images)


def test_the_order_of_layers_survives_a_safetensors_file(tmp_path: Path) -> None:
    """Two square layers: without the order that was written, either could come first."""
    rng = np.random.default_rng(0)
    shapes = {"second.weight": (4, 4), "second.bias": (4,), "a_first.weight": (4, 4)}
    state = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    write_state(tmp_path / "w.safetensors", state)
    model = load_model(tmp_path / "w.safetensors", None)
    inputs = rng.normal(size=(5, 4))
    hidden = np.maximum(inputs @ state["second.weight"].T + state["second.bias"], 0.0)
    expected = hidden @ state["a_first.weight"].T
    np.testing.assert_allclose(model(torch.from_numpy(inputs)).detach().numpy(), expected)


def test_written_tensors_keep_shapes_and_types(tmp_path: Path) -> None:
    """A single number, none at all, transposed ones, indices and masks."""
    state = {
        "counter": np.array(3),
        "empty": np.empty((0, 4)),
        "turned": np.arange(6.0).reshape(2, 3).T,
        "place": np.arange(4),
        "mask": np.array([True, False]),
    }
    write_state(tmp_path / "w.safetensors", state)
    loaded = {
        name: tensor.numpy() for name, tensor in read_state(tmp_path / "w.safetensors").items()
    }
    assert list(loaded) == list(state)
    for name, values in state.items():
        assert (loaded[name].shape, loaded[name].dtype) == (values.shape, values.dtype)
        np.testing.assert_array_equal(loaded[name], values)


@pytest.mark.parametrize("place", NORMED)
def test_a_landscapes_weights_come_back_with_batch_norm(tmp_path: Path, place: str) -> None:
    model = NORMED[place]()
    write_state(tmp_path / "w.safetensors", Landscape(model, rows(3), rows(2)).state())
    same(load_model(tmp_path / "w.safetensors", None), model, 3)


def test_buffers_that_are_no_weights_come_back(code: str, tmp_path: Path) -> None:
    """Indices and a mask of a user's module; weights in their place are refused."""
    chosen = load_model(None, f"{code}:Chosen")
    write_state(tmp_path / "w.safetensors", Landscape(chosen, rows(3), rows(2)).state())
    same(load_model(tmp_path / "w.safetensors", f"{code}:Chosen"), chosen, 3)
    state = chosen.state_dict() | {"place": torch.ones(2)}
    text = refusal(saved(tmp_path / "w.pt", state), f"{code}:Chosen")
    assert "of another type: place torch.float64 for torch.int64" in text
