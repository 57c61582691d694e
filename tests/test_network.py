"""Reading modules: the chain found is the module, and what cannot be read says why."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from reluscape.errors import InputError, UnsupportedModelError
from reluscape.network import Affine, Network, Reading, Rectifier, Scale, read_network

N = 7


def points(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(N, *shape, generator=generator, dtype=torch.float64)


def prepared(module, seed=0):
    """Float64, eval mode, every parameter and running statistic drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(torch.randn(value.shape, generator=generator, dtype=torch.float64))
        for name, value in module.named_buffers():
            draw = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            value.copy_(draw.exp() if name.endswith("running_var") else draw)
    return module


def read_back(module, inputs) -> Reading:
    """Reads and compares with the module's own output, relative to its largest value."""
    reading = read_network(module, inputs)
    with torch.no_grad():
        expected = module(inputs.clone()).numpy().reshape(len(inputs), -1)
    error = np.abs(reading.network(reading.features) - expected).max()
    assert error <= 1e-12 * max(1.0, np.abs(expected).max())
    assert reading.network.num_outputs == expected.shape[1]
    assert reading.features.shape == (len(inputs), reading.network.num_inputs)
    return reading


class Apply(nn.Module):
    """A Linear followed by any function, in a forward of its own."""

    def __init__(self, function, width=4):
        super().__init__()
        self.fc = nn.Linear(4, width)
        self.function = function

    def forward(self, x):
        return self.function(self.fc(x))


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


# --- What can be read ----------------------------------------------------------------------------


@st.composite
def chains(draw):
    """A nested Sequential of every readable layer, and the widths of its Linear layers."""
    widths = draw(st.lists(st.integers(1, 6), min_size=2, max_size=5))
    blocks: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers: list[nn.Module] = [nn.Linear(inputs, outputs, bias=draw(st.booleans()))]
        extras = draw(st.lists(st.sampled_from(sorted(EXTRAS)), max_size=3))
        layers += [EXTRAS[extra](outputs) for extra in extras]
        blocks.append(nn.Sequential(*layers) if draw(st.booleans()) else layers[0])
        blocks += layers[1:] if blocks[-1] is layers[0] else []
    return nn.Sequential(*blocks), widths


EXTRAS = {
    "relu": lambda width: nn.ReLU(),
    "relu in place": lambda width: nn.ReLU(inplace=True),
    "leaky": lambda width: nn.LeakyReLU(0.2),
    "batch norm": nn.BatchNorm1d,
    "plain batch norm": lambda width: nn.BatchNorm1d(width, affine=False),
    "dropout": lambda width: nn.Dropout(0.5),
    "identity": lambda width: nn.Identity(),
    "flatten": lambda width: nn.Flatten(),
    "functional": lambda width: Function(F.relu),
}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(chains(), st.integers(0, 10**6))
def test_random_chains_are_read_back(chain, seed):
    module, widths = chain
    reading = read_back(prepared(module, seed), points(widths[0], seed=seed))
    assert reading.opaque == ()
    assert reading.reason is None
    assert [layer.weight.shape for layer in reading.network.affine] == [
        (after, before) for before, after in pairwise(widths)
    ]


def test_names_are_the_modules_own():
    module = prepared(nn.Sequential(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), nn.Linear(3, 2)))
    network = read_back(module, points(4)).network
    assert network.names == ("0.0", "1")
    for layer in network.affine:
        own = module.get_submodule(layer.name)
        np.testing.assert_array_equal(layer.weight, own.weight.detach().numpy())
        np.testing.assert_array_equal(layer.bias, own.bias.detach().numpy())


def test_an_attribute_called_model_keeps_its_name():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = nn.Sequential(nn.Linear(4, 2))

        def forward(self, x):
            return self.model(x)

    assert read_back(prepared(Wrapper()), points(4)).network.names == ("model.0",)


def test_a_linear_alone_has_the_empty_name():
    module = prepared(nn.Linear(4, 2, bias=False))
    network = read_back(module, points(4)).network
    assert network.names == ("",)
    assert module.get_submodule(network.names[0]) is module
    assert network.affine[0].bias is None


def test_a_subclass_of_linear_that_keeps_its_forward_is_read():
    class Named(nn.Linear):
        pass

    assert read_back(prepared(nn.Sequential(Named(4, 2))), points(4)).network.names == ("0",)


def test_batch_norm_is_folded_as_derived():
    module = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1, eps=1.0)).double().eval()
    norm = module[1]
    norm.running_mean[:], norm.running_var[:] = 5.0, 3.0
    norm.weight.data[:], norm.bias.data[:] = 4.0, 1.0
    # (x - 5) / sqrt(3 + 1) * 4 + 1 = 2 x - 9
    scale = read_back(module, points(1)).network.layers[1]
    assert isinstance(scale, Scale)
    np.testing.assert_allclose([scale.scale[0], scale.shift[0]], [2.0, -9.0], rtol=1e-15)


SAME = {
    "view": lambda x: x.view(x.size(0), -1),
    "reshape": lambda x: torch.reshape(x, (x.shape[0], 2, 2)).flatten(1),
    "flatten": lambda x: torch.flatten(x, start_dim=1),
    "unsqueeze": lambda x: x.unsqueeze(1).squeeze(1),
    "slices": lambda x: x[:, None, :][:, 0],
    "copies": lambda x: x.contiguous().clone().double().to(torch.float64),
    "dropout off": lambda x: F.dropout(x, 0.5, training=False),
    "dropout of nothing": lambda x: F.dropout(x, 0.0),
}
RECTIFIED = {
    "F.relu": (F.relu, 0.0),
    "torch.relu": (torch.relu, 0.0),
    "method": (lambda x: x.relu(), 0.0),
    "in place": (lambda x: F.relu(x, inplace=True), 0.0),
    "method in place": (lambda x: x.relu_(), 0.0),
    "leaky": (F.leaky_relu, 0.01),
    "leaky, named": (lambda x: F.leaky_relu(x, negative_slope=0.3), 0.3),
    "leaky, third": (lambda x: F.leaky_relu(x, 0.25, True), 0.25),
}


@pytest.mark.parametrize("name", SAME)
def test_reshapes_and_copies_are_the_identity(name):
    reading = read_back(prepared(nn.Sequential(Apply(SAME[name]), nn.Linear(4, 2))), points(4))
    assert [type(layer) for layer in reading.network.layers] == [Affine, Affine]


@pytest.mark.parametrize("name", RECTIFIED)
def test_functional_rectifiers(name):
    function, slope = RECTIFIED[name]
    reading = read_back(prepared(nn.Sequential(Apply(function), nn.Linear(4, 2))), points(4))
    assert isinstance(reading.network.layers[1], Rectifier)
    assert reading.network.layers[1].slope == slope
    assert reading.opaque == ()


@pytest.mark.parametrize(
    "last", [lambda x: x.squeeze(), lambda x: x.squeeze(-1), lambda x: x[:, 0], lambda x: x[..., 0]]
)
def test_outputs_of_shape_n(last):
    module = prepared(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1), Function(last)))
    assert read_back(module, points(4)).network.num_outputs == 1


def test_inputs_may_be_flattened_first():
    module = prepared(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)))
    reading = read_back(module, points(3, 4))
    assert reading.opaque == ()
    np.testing.assert_array_equal(reading.features, points(3, 4).numpy().reshape(N, 12))


def test_optional_arguments_keep_their_defaults():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, x, mask=None, scale: float = 1.0):
            if mask is not None:
                x = x * mask * scale
            return self.fc(x)

    assert read_back(prepared(Masked()), points(4)).opaque == ()


# --- Black-box bodies ----------------------------------------------------------------------------


def test_head_of_a_convnet():
    body = [nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    head = [nn.Linear(12, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.3), nn.Linear(5, 4)]
    module = prepared(nn.Sequential(*body, *head))
    images = points(1, 6, 6)
    reading = read_back(module, images)
    assert reading.network.names == ("5", "9")
    assert reading.opaque == ("0", "1", "2", "3")
    assert "'3' (MaxPool2d)" in reading.reason
    with torch.no_grad():
        np.testing.assert_allclose(reading.features, module[:5](images).numpy(), rtol=1e-14)


# The encoder's eval-mode fast path is a different kernel from its training path.
def test_head_of_a_transformer():
    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.head = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))

        def forward(self, tokens):
            return self.head(self.encoder(tokens).mean(dim=1))

    module = prepared(Classifier())
    tokens = points(5, 8)
    reading = read_back(module, tokens)
    assert reading.network.names == ("head.0", "head.2")
    assert reading.opaque == ("encoder", "mean")
    assert "mean() in the forward of Classifier" in reading.reason
    with torch.no_grad():
        features = module.encoder(tokens).mean(dim=1).numpy()
    np.testing.assert_allclose(reading.features, features, rtol=1e-12, atol=1e-14)


def test_head_of_an_embedding_with_integer_inputs():
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(5, 3), nn.Linear(3, 2)

        def forward(self, words):
            return self.head(self.words(words).mean(dim=1))

    module = prepared(Bag())
    assert read_back(module, torch.arange(2 * N).reshape(N, 2) % 5).opaque == ("words", "mean")
    with pytest.raises(InputError, match=r"'words' \(Embedding\).*shape that the model") as caught:
        read_network(module, points(2))
    assert "float32" not in str(caught.value)


def test_only_the_tail_after_a_residual_addition_is_read():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))

        def forward(self, x):
            h = F.relu(self.a(x))
            return self.d(F.relu(self.c(h + self.b(h))))

    reading = read_back(prepared(Residual()), points(4))
    assert reading.network.names == ("c", "d")
    assert reading.opaque == ("a", "relu", "b", "add")
    assert "add() in the forward of Residual joins two branches" in reading.reason


def test_a_layer_used_twice_is_not_read():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.last(F.relu(self.shared(F.relu(self.shared(x)))))

    reading = read_back(prepared(Twice()), points(4))
    assert reading.network.names == ("last",)
    assert "'shared' (Linear) shares its weights: they are used 2 times" in reading.reason


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_two_layers_with_one_parameter_are_not_read(name):
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    setattr(module[2], name, getattr(module[0], name))
    reading = read_back(prepared(module), points(4))
    assert reading.network.names == ("4",)
    assert "'2' (Linear) shares its weights" in reading.reason


def test_a_weight_used_again_in_a_function_is_not_read():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.last = nn.Linear(4, 6), nn.Linear(4, 1)

        def forward(self, x):
            return self.last(F.linear(F.relu(self.up(x)), self.up.weight.t()))

    reading = read_back(prepared(Tied()), points(4))
    assert reading.network.names == ("last",)
    assert "linear() in the forward of Tied" in reading.reason


def test_asking_for_a_weights_shape_is_no_second_use():
    class Asks(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 1)

        def forward(self, x):
            return self.last(self.first(x).relu().view(-1, self.first.weight.shape[0]))

    assert read_back(prepared(Asks()), points(4)).network.names == ("first", "last")


def test_an_intermediate_value_used_twice_ends_the_tail():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            h = self.a(x)
            h.relu_()  # its result is dropped, yet it changes h
            return self.b(h)

    reading = read_back(prepared(Gate()), points(4))
    assert reading.network.names == ("b",)
    assert "'a' (Linear) has an output that is used 2 times" in reading.reason


def test_a_linear_on_tokens_belongs_to_the_body():
    module = prepared(nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(10, 1)))
    reading = read_back(module, points(5, 3))
    assert reading.network.names == ("3",)
    assert reading.opaque == ("0", "1")
    assert "'0' (Linear) is applied to a tensor of shape (7, 5, 3)" in reading.reason


def test_tokens_as_rows_belong_to_the_body():
    mixed = Apply(lambda x: x.view(-1, 12), 4)
    module = prepared(nn.Sequential(Function(lambda x: x.view(-1, 4)), mixed, nn.Linear(12, 1)))
    reading = read_back(module, points(3, 4))
    assert reading.network.names == ("2",)
    assert "does not keep one row per sample" in reading.reason


def test_batch_norm_over_positions_belongs_to_the_body():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(4, 6), nn.BatchNorm1d(2), nn.Linear(6, 1)

        def forward(self, x):
            return self.b(self.norm(self.a(x).view(-1, 2, 3)).flatten(1))

    reading = read_back(prepared(Positions()), points(4))
    assert reading.network.names == ("b",)
    assert "'norm' (BatchNorm1d) is applied to a tensor of shape (7, 2, 3)" in reading.reason


def test_layers_before_the_first_linear_belong_to_the_body():
    module = prepared(nn.Sequential(nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)))
    reading = read_back(module, points(4))
    assert reading.opaque == ("0", "1")
    assert "before the first Linear" in reading.reason


def test_an_untraceable_submodule_is_one_black_box_and_its_siblings_are_read():
    class Switch(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x):
            h = self.inner(x)
            return h if h.sum() > 0 else -h

    class Body(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.switch = nn.Linear(4, 4), Switch()

        def forward(self, x):
            return self.switch(self.before(x))

    module = prepared(nn.Sequential(Body(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)))
    reading = read_back(module, points(4))
    assert reading.network.names == ("1", "3")
    assert reading.opaque == ("0.before", "0.switch")
    assert "'0.switch' (Switch) has a forward that cannot be traced" in reading.reason
    assert "control flow" in reading.reason


def test_a_function_of_math_belongs_to_the_body():
    """As in attention, which divides by the root of a width that the trace does not know."""

    class Divided(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            entering = self.first(x)
            return self.last(torch.relu(entering / math.sqrt(entering.shape[1])))

    module, inputs = prepared(Divided()), points(3)
    assert read_back(module, inputs).network.names == ("last",)


def test_a_parameter_touched_by_a_failed_trace_can_still_be_used():
    class Owner(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.last = nn.Parameter(torch.ones(4)), nn.Linear(4, 1)
            self.branch = Branch(self)

        def forward(self, x):
            return self.last(self.branch(x) * self.scale)

    class Branch(nn.Module):
        def __init__(self, owner):
            super().__init__()
            object.__setattr__(self, "owner", owner)

        def forward(self, x):
            y = x * self.owner.scale
            return y if y.sum() > 0 else -y

    assert read_back(prepared(Owner()), points(4)).opaque == ("scale", "branch", "mul")


def test_a_computed_weight_belongs_to_the_body():
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    reading = read_back(nn.Sequential(normed, nn.ReLU(), nn.Linear(3, 1)).double(), points(4))
    assert reading.network.names == ("2",)
    assert "computed from other parameters" in reading.reason


# --- What cannot be read -------------------------------------------------------------------------


def control_flow(x):
    return x if x.sum() > 0 else -x


REFUSED = {
    "softmax": (nn.Softmax(1), ["'1' (Softmax)", "give logits"]),
    "log-softmax": (nn.LogSoftmax(1), ["'1' (LogSoftmax)", "give logits"]),
    "functional softmax": (Function(lambda x: x.softmax(1)), ["softmax()", "give logits"]),
    "functional log": (Function(lambda x: F.log_softmax(x, 1)), ["log_softmax()", "give logits"]),
    "sigmoid": (nn.Sigmoid(), ["'1' (Sigmoid)", "end the model with Linear and ReLU layers"]),
    "tanh": (nn.Tanh(), ["'1' (Tanh)"]),
    "gelu": (nn.GELU(), ["'1' (GELU)"]),
    "relu6": (nn.ReLU6(), ["'1' (ReLU6)"]),
    "prelu": (nn.PReLU(), ["'1' (PReLU)"]),
    "functional tanh": (Function(torch.tanh), ["tanh() in the forward of Function"]),
    "batch statistics": (
        nn.BatchNorm1d(4, track_running_stats=False),
        ["'1' (BatchNorm1d)", "depends on the whole batch", "track_running_stats=True"],
    ),
    "control flow": (Function(control_flow), ["'1' (Function)", "control flow"]),
    "cast": (Function(lambda x: x.float()), ["float()", "torch.float32", "float64"]),
    "permutation": (Function(lambda x: x[:, [1, 0, 2, 3]]), ["getitem()"]),
    "reversal": (Function(lambda x: x.flip(1)), ["flip()"]),
    "addition": (Function(lambda x: x + x.relu()), ["add()", "residual"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_unreadable_end_names_itself_and_what_still_works(name):
    end, fragments = REFUSED[name]
    with pytest.raises(UnsupportedModelError) as caught:
        read_network(prepared(nn.Sequential(nn.Linear(4, 4), end)), points(4))
    message = str(caught.value)
    for fragment in [*fragments, "sampled tier (loss and gradient of a Landscape, their survey)"]:
        assert fragment in message
    assert "\n" not in message


def test_a_softmax_alone():
    with pytest.raises(UnsupportedModelError, match=r"the model itself \(Softmax\).*give logits"):
        read_network(nn.Softmax(1), points(4))


@pytest.mark.parametrize("module", [nn.ReLU(), nn.Identity(), Function(lambda x: x)])
def test_a_module_without_linear(module):
    with pytest.raises(UnsupportedModelError, match="without any Linear"):
        read_network(nn.Sequential(module), points(4))


def test_control_flow_in_the_outermost_forward():
    with pytest.raises(UnsupportedModelError) as caught:
        read_network(prepared(Apply(control_flow)), points(4))
    for fragment in ["Apply", "data-dependent control flow", "submodule", "sampled tier"]:
        assert fragment in str(caught.value)


def test_a_forward_with_two_inputs():
    class Two(nn.Module):
        def forward(self, x, y):
            return x + y

    with pytest.raises(UnsupportedModelError, match="missing 1 required positional argument"):
        read_network(Two(), points(4))


def test_active_functional_dropout():
    with pytest.raises(UnsupportedModelError, match=r"dropout.*training=self\.training"):
        read_network(prepared(Apply(F.dropout)), points(4))


def test_dropout_left_in_training_mode():
    module = prepared(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)))
    module[1].train()
    with pytest.raises(UnsupportedModelError, match=r"'1' \(Dropout\).*eval mode"):
        read_network(module, points(4))


def test_a_random_layer_in_the_body():
    module = prepared(nn.Sequential(nn.RReLU(), nn.Linear(4, 1)))
    module[0].train()
    torch.manual_seed(0)
    with pytest.raises(UnsupportedModelError, match=r"deterministic.*two runs on the same inputs"):
        read_network(module, points(4))


def test_a_random_function_hidden_from_the_trace():
    noise = Function(lambda x: x + torch.randn(x.shape, dtype=torch.float64))
    module = prepared(nn.Sequential(Opaque(noise), nn.Linear(4, 1)))
    torch.manual_seed(0)
    with pytest.raises(UnsupportedModelError, match="deterministic"):
        read_network(module, points(4))


def test_a_layer_that_is_not_called_every_time():
    class Alternating(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls, self.a, self.b = 0, nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x):
            self.calls += 1
            return self.a(x) if self.calls % 2 else self.b(x)

    with pytest.raises(UnsupportedModelError, match="does the same on every run"):
        read_network(prepared(Alternating()), points(4))


class Opaque(nn.Module):
    """Hides a module from tracing behind a branch on its values."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) if bool((x == x).all()) else x


def test_a_hook_that_changes_the_output_fails_the_read_back():
    module = prepared(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1)))
    module[0].register_forward_hook(lambda layer, arguments, output: output + 1e-6)
    with pytest.raises(UnsupportedModelError, match=r"reproduce.*hooks.*sampled tier"):
        read_network(module, points(4))


def test_a_relative_change_of_1e_10_fails_the_read_back():
    module = prepared(nn.Linear(4, 1))
    module.register_forward_hook(lambda layer, arguments, output: output * (1 + 1e-10))
    with pytest.raises(UnsupportedModelError, match="reproduce"):
        read_network(nn.Sequential(module), points(4))


def cancelling(error: float = 0.0) -> nn.Sequential:
    """Two units of some 1e4 whose outputs, times 1e4, cancel to some ten.

    Batch norm divides where the reading multiplies: rounding errors of some 1e-16 * 1e8.
    """
    module = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2), nn.ReLU(), nn.Linear(2, 1))
    module = module.double().eval()
    with torch.no_grad():
        module[0].weight.copy_(torch.full((2, 4), 1e3) + torch.tensor([[0.0], [1e-3 / 3]]))
        module[0].bias.fill_(1e4 / 3)
        module[1].running_var.fill_(3.0)
        module[3].weight.copy_(torch.tensor([[1e4 / 7, -1e4 / 7]]))
        module[3].bias.fill_(1.0)
    if error:
        module[3].register_forward_hook(lambda layer, arguments, output: output + error)
    return module


def test_terms_that_cancel_are_read_back_to_their_rounding_errors():
    """The reading may differ from the output by what rounding explains, and by no more."""
    inputs = points(4)
    network = read_network(cancelling(), inputs).network
    with torch.no_grad():
        expected = cancelling()(inputs).numpy()
    differences = np.abs(network(inputs.numpy()) - expected)
    assert differences.max() > 1e-12 * max(1.0, np.abs(expected).max())
    assert (differences <= 2 * network.rounding_bounds(inputs.numpy())).all()
    with pytest.raises(UnsupportedModelError, match="reproduce"):
        read_network(nn.Sequential(cancelling(1e-5)), inputs)


@pytest.mark.parametrize(
    ("function", "received"),
    [
        (lambda x: (x, x), "a tuple"),
        (lambda x: [x], "a list"),
        (lambda x: {"logits": x}, "a dict"),
        (lambda x: x.view(-1), r"shape \(28,\) for N = 7"),
        (lambda x: x.t(), r"shape \(4, 7\)"),
        (lambda x: x.sum(), r"shape \(\)"),
        (lambda x: x[:, None], r"shape \(7, 1, 4\)"),
    ],
)
def test_outputs_of_the_wrong_kind(function, received):
    with pytest.raises(UnsupportedModelError, match=f"one tensor of shape.*received {received}"):
        read_network(prepared(Apply(function)), points(4))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(value):
    module = prepared(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1)))
    module[1].weight.data[0, 2] = value
    with pytest.raises(InputError, match=r"1 NaN or infinite of 4 in parameter '1\.weight'"):
        read_network(module, points(4))


def test_outputs_that_are_not_finite():
    module = prepared(nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2)))
    module[1].running_mean[0] = float("nan")
    with pytest.raises(InputError, match="finite outputs"):
        read_network(module, points(4))


def test_a_lazy_layer_without_weights():
    with pytest.raises(InputError, match=r"lazy layer's empty parameter '0\.weight'"):
        read_network(nn.Sequential(nn.LazyLinear(3)), points(4))


def test_a_wrong_feature_count_names_the_layer():
    module = prepared(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    with pytest.raises(InputError, match=r"shape \(7, 6\).*'0' \(Linear\).*takes 4 features"):
        read_network(module, points(6))


@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.Linear(4, 2), (4,)), (nn.Conv1d(1, 1, 2), (1, 4))]
)
def test_a_cast_that_breaks_float64(layer, shape):
    module = prepared(nn.Sequential(Function(lambda x: x.float()), layer, nn.Linear(2, 2)))
    with pytest.raises(InputError, match=r"'1' \(\w+\).*remove casts to float32"):
        read_network(module, points(*shape))


# --- Immutability --------------------------------------------------------------------------------


def test_the_module_and_the_inputs_are_left_unchanged():
    module = prepared(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3), nn.BatchNorm1d(3)))
    inputs = points(4)
    before, kept = copy.deepcopy(module.state_dict()), inputs.clone()
    read_network(module, inputs)
    after = module.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(inputs, kept)
    assert not any(layer._forward_pre_hooks for layer in module.modules())
    assert all(value.grad is None for value in module.parameters())


def test_a_reading_does_not_follow_the_module():
    module = prepared(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))
    inputs = points(4)
    reading = read_network(module, inputs)
    before = reading.network(reading.features)
    with torch.no_grad():
        inputs.zero_()
        for value in module.parameters():
            value.zero_()
    np.testing.assert_array_equal(reading.network(reading.features), before)


def test_arrays_are_read_only_and_own_copies():
    weight = np.ones((2, 3))
    layer = Affine(weight, np.zeros(2), "a")
    weight[0, 0] = 9.0
    assert layer.weight[0, 0] == 1.0
    reading = Reading(Network((layer,)), np.ones((1, 3)), (), None)
    scale = Scale(np.ones(2), np.ones(2), "s")
    for array in (layer.weight, layer.bias, reading.features, scale.scale, scale.shift):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1.0
    with pytest.raises(AttributeError):
        layer.weight = weight


def test_representations_take_one_line():
    module = prepared(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2)))
    reading = read_network(module, points(4))
    assert repr(reading.network) == "Network(4 -> 3 -> 2, 4 layers)"
    assert repr(reading.network.affine[0]) == "Affine('0', 4 -> 3, bias=True)"
    assert repr(reading.network.layers[1]) == "Scale('1', 3)"
    assert "\n" not in repr(reading)
