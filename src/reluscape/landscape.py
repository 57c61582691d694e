"""A model with its data and loss: the landscape over all parameters, and its blocks.

`Landscape` holds any PyTorch module and evaluates it through PyTorch, in float64 and eval mode, on
its own copy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn
from torch.func import functional_call

from reluscape.block import Block
from reluscape.errors import InputError, UnsupportedModelError
from reluscape.losses import make_loss
from reluscape.network import Reading, read_network
from reluscape.network.chain import Chain, read_chains
from reluscape.validation import (
    as_array,
    check_decay,
    check_inputs,
    check_kind,
    check_targets,
    check_theta,
    is_index,
    private_copy,
    tied_names,
)
from reluscape.watching import Watched

if TYPE_CHECKING:
    pass

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class MovedBuffer(nn.Parameter):
    """A buffer as a coordinate: it changes along a path, is not trained and does not decay."""


class Landscape:
    """The loss of a model on its data, as a function of all its parameters.

    `l(theta) = loss(model_theta(inputs), targets) + weight_decay / 2 ||theta||^2`

    The model is copied, converted to float64 and evaluated in eval mode (batch norm with its running
    statistics, no dropout); the user's module is never modified.

    Args:
        model: Any PyTorch module that maps `inputs` to one row of outputs per sample.
        inputs: Samples, shape (samples, ...); NumPy or torch, converted to float64 (integer inputs
            stay integer for a model with an embedding).
        targets: Class indices (samples,) for cross_entropy, else numbers (samples, outputs); a
            vector is accepted for one output.
        loss: "squared" `1/N sum ||.||^2`, "half_squared" `1/2N sum ||.||^2`, "l1" `1/N sum |.|` or
            "cross_entropy" (mean).
        weight_decay: lambda >= 0, on all parameters, biases included (PyTorch's convention).
        device: Where the module is evaluated; results are NumPy float64 in any case.

    Attributes:
        theta: All parameters, flat, in `model.parameters()` order, shape (params,).
        size: Number of parameters.
        layers: Names of the affine layers that can be analysed as blocks, in order of execution.
        reading: The network as it was read, or None where no tail of the model is readable.
        unreadable: Why not, or None.

    Raises:
        InputError: NaN or infinite values, empty data, mismatched lengths, wrong feature count,
            labels out of range, or a model whose output changes from call to call.

    Example:
        >>> import numpy as np
        >>> from torch import nn
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(layer.weight, 2.0)
        >>> Landscape(layer, np.array([[1.0], [2.0]]), np.array([1.0, 1.0])).loss()
        5.0
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: ArrayLike | torch.Tensor,
        targets: ArrayLike | torch.Tensor,
        *,
        loss: str = "squared",
        weight_decay: float = 0.0,
        device: str = "cpu",
    ) -> None:
        self._loss = make_loss(loss)
        self.weight_decay = check_decay(weight_decay)
        self._given = private_copy(model, device)  # never run: a forward may keep or change things
        self._module = copy.deepcopy(self._given)
        watched = Watched(_state(model))
        self._inputs = check_inputs(inputs, self._module).to(device)
        self._tied = tied_names(self._module)
        self._parameters = {name: p.detach() for name, p in self._module.named_parameters()}
        if not self._parameters:
            raise InputError(
                "model must have parameters to have a landscape; received one with none"
            )
        self._moved = {
            name for name, p in self._module.named_parameters() if isinstance(p, MovedBuffer)
        }
        with watched:
            outputs = self._probe()
        if watched.seen:
            raise InputError(
                "model must read its parameters and buffers from its own modules, so that a copy has its"
                f" own; the forward of a copy read {min(watched.seen)!r} of the model that was given: a"
                " function that was made with that model, such as a hook, holds it"
            )
        self.targets = check_targets(loss, as_array(targets), outputs.shape)
        self._torch_targets = torch.from_numpy(self.targets).to(device)
        self.reading: Reading | None = None
        self.unreadable: str | None = None
        try:
            self.reading = read_network(self._module, self._inputs)
        except UnsupportedModelError as error:
            self.unreadable = str(error)
        self.layers: tuple[str, ...] = () if self.reading is None else self.reading.network.names

    @property
    def loss_name(self) -> str:
        """Name of the loss."""
        return self._loss.name

    @property
    def num_samples(self) -> int:
        """Number of samples."""
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        """Number of outputs per sample."""
        return int(self._evaluate(self._parameters).shape[1])

    @property
    def inputs(self) -> NDArray[Any]:
        """The inputs as the model receives them."""
        return np.asarray(self._inputs.cpu().numpy())

    @property
    def theta(self) -> Floats:
        """All parameters in `model.parameters()` order, a fresh array of shape (params,)."""
        return np.concatenate([p.cpu().numpy().ravel() for p in self._parameters.values()])

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self._parameters.values())

    @property
    def moved(self) -> Bools:
        """Which coordinates are buffers (params,): on paths of models that differ in some, else none."""
        named = self._parameters.items()
        return np.concatenate([np.full(p.numel(), name in self._moved) for name, p in named])

    def state(self) -> dict[str, Floats]:
        """Parameters and buffers by name, for hashing and saving."""
        return {
            name: value.detach().cpu().numpy() for name, value in self._given.state_dict().items()
        }

    def module_at(self, theta: ArrayLike | None = None) -> nn.Module:
        """Return a float64 eval-mode copy of the model with `theta` loaded."""
        module = copy.deepcopy(self._given)
        with torch.no_grad():
            values = self._split(theta)
            for name, parameter in module.named_parameters():
                parameter.copy_(values[name])
        return module

    def of_samples(self, rows: NDArray[np.int64]) -> Landscape:
        """The same model on some of the samples, by their numbers in the order that is given."""
        return Landscape(
            self.module_at(), self.inputs[rows], self.targets[rows], loss=self.loss_name,
            weight_decay=self.weight_decay, device=str(self._inputs.device),
        )  # fmt: skip

    def at(self, theta: ArrayLike) -> Landscape:
        """Return the same landscape with its model moved to `theta`."""
        return Landscape(
            self.module_at(theta),
            self._inputs,
            self.targets,
            loss=self.loss_name,
            weight_decay=self.weight_decay,
            device=str(self._inputs.device),
        )

    @cached_property
    def chains(self) -> tuple[Chain, ...]:
        """The model's end as chains: of `reading`, and with convolutions and pooling where it has any."""
        return read_chains(self.reading, self.module_at().cpu(), self._inputs.cpu())

    def loss(self, theta: ArrayLike | None = None) -> float:
        """Loss at `theta` (default: the model's own parameters), weight decay included."""
        with torch.no_grad():
            return float(self._objective(self._split(theta)))

    def outputs(self) -> Floats:
        """The model's outputs on the data, shape (samples, outputs)."""
        with torch.no_grad():
            return np.asarray(self._evaluate(self._parameters).cpu().numpy())

    def gradient(self, theta: ArrayLike | None = None) -> Floats:
        """Gradient by autograd, shape (params,).

        At a kink this is PyTorch's choice (`relu'(0) = 0`, `sign(0) = 0`), which need not belong to
        any adjacent cell: use `certify` for statements about such points.
        """
        parameters = {name: p.clone().requires_grad_() for name, p in self._split(theta).items()}
        gradients = torch.autograd.grad(
            self._objective(parameters),
            list(parameters.values()),
            allow_unused=True,
            materialize_grads=True,
        )
        return np.concatenate([g.cpu().numpy().ravel() for g in gradients])

    def hessian(self, theta: ArrayLike | None = None) -> Floats:
        """Dense Hessian with frozen switches by autograd, shape (params, params).

        Cost: params double backward passes; meant for up to some 2000 parameters.
        """
        flat, objective = self.flat_objective(theta)
        matrix = torch.autograd.functional.hessian(objective, flat, vectorize=True)  # type: ignore[no-untyped-call]
        return np.asarray(matrix.cpu().numpy())

    def flat_objective(
        self, theta: ArrayLike | None = None, rows: slice = slice(None)
    ) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
        """The flat parameter tensor and the loss as a differentiable function of it.

        With `rows`, the share of those samples in the loss: over all samples, shares sum to the loss.
        """
        flat = torch.cat([p.reshape(-1) for p in self._split(theta).values()])
        share = len(self._inputs[rows]) / len(self._inputs)
        return flat, lambda vector: share * self._objective(self._split_tensor(vector), rows)

    def outputs_of(self, vector: torch.Tensor) -> torch.Tensor:
        """The outputs (samples, outputs) at a flat parameter tensor, differentiable by it."""
        return self._evaluate(self._split_tensor(vector))

    def state_of(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """Copies of a model's parameters and buffers as this landscape's copy of it has them.

        Raises:
            InputError: A model with other names or shapes than this landscape's.
        """
        check_kind(model)
        own, found = _state(self._given), _state(model)
        if [(n, v.shape) for n, v in own.items()] != [(n, v.shape) for n, v in found.items()]:
            raise InputError(
                f"expected a model with the landscape's parameters and buffers, {_shapes(own)};"
                f" received {_shapes(found)}: make a landscape of this model"
            )
        return {
            name: value.detach().to(own[name].device, own[name].dtype, copy=True)
            for name, value in found.items()
        }

    def loss_of(self, state: dict[str, torch.Tensor]) -> torch.Tensor:
        """The loss, weight decay included, at a state; differentiable by its tensors."""
        return self._objective(state)

    def block(self, layer: int | str) -> Block:
        """Return the block of one affine layer.

        Args:
            layer: Name of a module, or index among `layers` (negative from the end).

        Raises:
            InputError: No such layer.
            UnsupportedModelError: The network is not readable from that layer on.
        """
        if self.reading is None:
            raise UnsupportedModelError(str(self.unreadable))
        name = self._layer_name(layer)
        return Block.of(self, self.reading, name)

    # ---- private -----------------------------------------------------------------------------

    def _layer_name(self, layer: int | str) -> str:
        """Resolve an index or a name to a name in `layers`."""
        if isinstance(layer, str):
            if layer in self.layers:
                return layer
            self._refuse_unread(layer)
            hint = (
                f" (read as a black box: {', '.join(self.reading.opaque)})"
                if self.reading and self.reading.opaque
                else ""
            )
            raise InputError(
                f"layer must be one of {', '.join(map(repr, self.layers))}; received"
                f" {layer!r}{hint}"
            )
        if not is_index(layer) or not -len(self.layers) <= layer < len(self.layers):
            raise InputError(
                f"layer must be an index in 0..{len(self.layers) - 1} or one of"
                f" {', '.join(map(repr, self.layers))}; received {layer!r}"
            )
        return self.layers[layer]

    def _refuse_unread(self, layer: str) -> None:
        """Say why an affine layer of the model cannot be a block."""
        known = isinstance(dict(self._module.named_modules()).get(layer), nn.Linear)
        if known and self.reading is not None and self.reading.reason is not None:
            raise UnsupportedModelError(
                f"layer {layer!r} must be followed by affine and ReLU layers only;"
                f" {self.reading.reason}: the layers {', '.join(map(repr, self.layers))} can be"
                " analysed exactly, and the sampled tier (loss and gradient) takes any module"
            )

    def positions(self, name: str) -> NDArray[np.intp]:
        """Positions of a layer's weight (row-major) and bias inside `theta`."""
        offsets, start = {}, 0
        for key, parameter in self._parameters.items():
            offsets[key] = np.arange(start, start + parameter.numel())
            start += parameter.numel()
        prefix = f"{name}." if name else ""
        keys = [f"{prefix}weight", f"{prefix}bias"]
        if keys[0] not in offsets:
            raise UnsupportedModelError(
                f"layer {name!r} must own its weight; received a tied or re-parametrised one: untie"
                " it or call torch.nn.utils.parametrize.remove_parametrizations first"
            )
        return np.concatenate([offsets[key] for key in keys if key in offsets])

    def has_parameters(self, name: str) -> bool:
        """Whether a module of the model has parameters."""
        return any(True for _ in dict(self._module.named_modules())[name].parameters())

    def is_shared(self, name: str) -> bool:
        """Whether the layer's weight or bias also belongs to another module."""
        modules = dict(self._module.named_modules())
        own = {id(p) for p in modules[name].parameters(recurse=False)}
        uses = [id(p) for m in modules.values() for p in m.parameters(recurse=False)]
        return any(uses.count(key) > 1 for key in own)

    def _split(self, theta: ArrayLike | None) -> dict[str, torch.Tensor]:
        """Parameters by name, from a flat vector or the model's own."""
        if theta is None:
            return self._parameters
        vector = check_theta(theta, self.size)
        return self._split_tensor(torch.tensor(vector, device=self._inputs.device))

    def _split_tensor(self, vector: torch.Tensor) -> dict[str, torch.Tensor]:
        """Cut a flat tensor into the parameters' shapes."""
        sizes = [p.numel() for p in self._parameters.values()]
        parts = zip(self._parameters.items(), torch.split(vector, sizes), strict=True)
        return {name: part.view(p.shape) for (name, p), part in parts}

    def _evaluate(
        self, parameters: dict[str, torch.Tensor], rows: slice = slice(None)
    ) -> torch.Tensor:
        """Outputs as a (samples, outputs) tensor."""
        inputs = self._inputs[rows]
        still = {name: parameters[name].detach().clone() for name in self._moved}
        tied = {name: parameters[first] for name, first in self._tied.items()}
        outputs: torch.Tensor = functional_call(
            self._module, parameters | still | tied, (inputs,), tie_weights=False
        )
        return outputs.reshape(len(inputs), -1)

    def _objective(
        self, parameters: dict[str, torch.Tensor], rows: slice = slice(None)
    ) -> torch.Tensor:
        """The loss as a torch scalar, as if there were only these samples."""
        outputs, targets = self._evaluate(parameters, rows), self._torch_targets[rows]
        if self.loss_name == "cross_entropy":
            value = _cross_entropy(outputs, targets)
        elif self.loss_name == "l1":
            value = (outputs - targets).abs().sum() / len(outputs)
        else:
            scale = 1.0 if self.loss_name == "squared" else 0.5
            value = scale * ((outputs - targets) ** 2).sum() / len(outputs)
        if self.weight_decay:
            decaying = [name for name in self._parameters if name not in self._moved]
            squares = [(parameters[name] ** 2).sum() for name in decaying]
            value = value + 0.5 * self.weight_decay * sum(squares)
        return value

    def _probe(self) -> Floats:
        """Evaluate twice; refuse what is not one finite row of outputs per sample, twice the same."""
        with torch.no_grad():
            try:
                first, second = (self._module(self._inputs) for _ in range(2))
            except (RuntimeError, TypeError, ValueError, IndexError) as error:
                shape = tuple(self._inputs.shape[1:])
                line = (
                    str(error).strip().splitlines()[0]
                    if str(error).strip()
                    else type(error).__name__
                )
                raise InputError(
                    f"model must accept inputs of shape (samples, {', '.join(map(str, shape))});"
                    f" its forward failed with: {line}"
                ) from error
        if (
            not isinstance(first, torch.Tensor)
            or first.ndim == 0
            or len(first) != len(self._inputs)
        ):
            received = (
                tuple(first.shape) if isinstance(first, torch.Tensor) else type(first).__name__
            )
            raise InputError(
                f"model must return one row of outputs per sample ({len(self._inputs)} rows);"
                f" received {received}"
            )
        if first.ndim > 2:
            raise InputError(
                "model must return outputs of shape (samples, outputs); received"
                f" {tuple(first.shape)}: flatten or pool them first"
            )
        if not torch.isfinite(first).all():
            raise InputError(
                "model must give finite outputs on the data; received NaN or infinite values: check"
                " weights and the scale of the inputs"
            )
        if not torch.equal(first, second):
            raise InputError(
                "model must be deterministic in eval mode; two evaluations differ: remove random"
                " layers from forward"
            )
        return np.asarray(first.reshape(len(self._inputs), -1).to(torch.float64).cpu().numpy())

    def __repr__(self) -> str:
        """One line: sizes, loss and layers."""
        return (
            f"Landscape({self.size} parameters, {self.num_samples} samples,"
            f" loss={self.loss_name!r}, layers={list(self.layers)})"
        )


def check_landscape(given: object, asking: str) -> None:
    """Refuse what is no landscape, such as a block of one.

    Args:
        given: What was given.
        asking: Name of the function that needs a landscape.
    """
    if not isinstance(given, Landscape):
        raise InputError(
            f"{asking} needs a Landscape, all layers at once; received {type(given).__name__}"
        )


def _state(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name; shared ones once."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _shapes(state: dict[str, torch.Tensor]) -> str:
    """Names and shapes in words."""
    return ", ".join(f"{name} {tuple(value.shape)}" for name, value in state.items())


def _cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean of `log(1 + sum_{j != y} exp(f_j - f_y))`.

    The usual form subtracts nearly equal numbers where a class is certain, so that its gradient is
    lost in rounding long before it vanishes.
    """
    own = targets[:, None]
    others = (outputs - outputs.gather(1, own)).scatter(1, own, -torch.inf)
    margins = torch.logsumexp(others, dim=1)
    return nn.functional.softplus(margins, threshold=50.0).mean()  # beyond, log(1 + e^m) is m
