"""The caller's models, data and options, checked once at the edge; inside, nothing re-checks."""

from __future__ import annotations

import copy
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn
from torch.nn.parameter import is_lazy

from reluscape.errors import InputError

Floats = NDArray[np.float64]

#: Largest magnitude of data and parameters: beyond, squares of products leave float64's range.
LARGEST = 1e50
#: Smallest size of a column of inputs that is not zero: weights that undo it are no larger than that.
SMALLEST = 1.0 / LARGEST


def tied_names(module: nn.Module) -> dict[str, str]:
    """Further names of parameters that several modules own, and the name that each goes by.

    A module that is there twice has one name: PyTorch's own tying exchanges its parameters twice and
    does not put them back.
    """
    first: dict[int, str] = {}
    found: dict[str, str] = {}
    for prefix, part in module.named_modules():
        for own, parameter in part._parameters.items():
            if parameter is not None:
                name = f"{prefix}.{own}" if prefix else own
                known = first.setdefault(id(parameter), name)
                if known != name:
                    found[name] = known
    return found


def check_theta(theta: ArrayLike, size: int) -> Floats:
    """Return `theta` as a finite float64 vector with `size` entries, or raise InputError."""
    vector = as_array(theta, "theta").astype(np.float64)
    if vector.shape != (size,):
        raise InputError(f"theta must have shape ({size},); received {vector.shape}")
    if not np.isfinite(vector).all():
        raise InputError(
            f"theta must be finite; received {int((~np.isfinite(vector)).sum())} NaN or infinite"
            " entries"
        )
    return np.ascontiguousarray(vector)


def is_index(layer: object) -> TypeGuard[int]:
    """Whether a value can index a sequence; booleans cannot."""
    return isinstance(layer, (int, np.integer)) and not isinstance(layer, bool)


def check_whole(value: object, name: str, least: int) -> int:
    """Return a whole number of at least `least`, or raise InputError."""
    if not is_index(value) or value < least:
        raise InputError(f"{name} must be a whole number of at least {least}; received {value!r}")
    return int(value)


def check_told(value: object, name: str) -> None:
    """Refuse what cannot be called where a function or None is expected."""
    if value is not None and not callable(value):
        raise InputError(f"{name} must be a function or None; received {value!r}")


def check_share(value: object, name: str) -> float:
    """Return a number between 0 and 1, or raise InputError."""
    if not _is_number(value) or not 0.0 <= value <= 1.0:
        raise InputError(f"{name} must be between 0 and 1; received {value!r}")
    return float(value)


def _is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a real number; booleans are none."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def check_number(value: object, name: str, least: float = -np.inf) -> float:
    """Return a finite number that is at least another, or raise InputError."""
    if not _is_number(value) or not np.isfinite(value) or value < least:
        bound = f" >= {least:g}" if np.isfinite(least) else ""
        raise InputError(f"{name} must be a finite number{bound}; received {value!r}")
    return float(value)


def check_decay(weight_decay: float) -> float:
    """Return the decay as a float >= 0, or raise InputError."""
    return check_number(weight_decay, "weight_decay", 0.0)


def private_copy(model: nn.Module, device: str) -> nn.Module:
    """A float64 eval-mode copy of the model, with finite parameters, on `device`."""
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model must be a torch.nn.Module; received {type(model).__name__}: pass the module"
            " itself, not its class or weights"
        )
    check_kind(model)
    module = copied(model).double().eval().to(device)
    for name, parameter in module.named_parameters():
        if not torch.isfinite(parameter).all():
            raise InputError(
                f"parameters must be finite; received NaN or infinite values in {name!r}: training"
                " diverged, use an earlier checkpoint"
            )
        check_sizes(parameter.detach().cpu().numpy(), f"parameters in {name!r}")
    return module


def check_kind(model: nn.Module) -> None:
    """Refuse modules whose parameters cannot be given from outside."""
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            "model must be a module of Python code; received one that torch.jit has compiled as a whole:"
            " give the module that was compiled"
        )
    if isinstance(model, nn.DataParallel):
        raise InputError("model must be a single module; received a DataParallel: give its .module")
    tensors = (*model.named_parameters(), *model.named_buffers())
    lazy = [name for name, tensor in tensors if is_lazy(tensor)]
    if lazy:
        raise InputError(
            f"model must have all of its parameters and buffers; {lazy[0]!r} is not initialised yet: run"
            " the module once on some data"
        )


def copied(model: nn.Module) -> nn.Module:
    """A deep copy; PyTorch has none of a module that keeps the result of a computation."""
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if isinstance(value, torch.Tensor) and value.grad_fn is not None:
                place = f"{name}.{attribute}" if name else attribute
                raise InputError(
                    f"the model cannot be copied: {place!r} is computed from other tensors, as by"
                    " torch.nn.utils.prune and weight_norm: call prune.remove or remove_weight_norm first"
                )
    return copy.deepcopy(model)


def as_array(values: ArrayLike | torch.Tensor, what: str = "data") -> NDArray[Any]:
    """NumPy view of an array-like or tensor."""
    if isinstance(values, torch.Tensor):
        tensor = values.detach().cpu()
        tensor = tensor.double() if tensor.is_floating_point() else tensor
        array: NDArray[Any] = np.asarray(tensor.numpy())
    else:
        try:
            array = np.asarray(values)
        except ValueError as error:
            raise InputError(f"{what} must be a rectangular array of numbers; {error}") from error
    if array.dtype.kind not in "fiub":
        raise InputError(
            f"{what} must be real numbers; received dtype {array.dtype}: convert it to float64"
        )
    return array


def check_inputs(inputs: ArrayLike | torch.Tensor, module: nn.Module) -> torch.Tensor:
    """Inputs as a tensor: float64, or integers for a model with an embedding."""
    array = as_array(inputs)
    if array.ndim < 2 or array.size == 0:
        raise InputError(
            "inputs must have shape (samples, features) with at least one of each; received"
            f" {array.shape}"
        )
    tokens = array.dtype.kind in "iu" and any(isinstance(m, nn.Embedding) for m in module.modules())
    values = array.astype(np.int64 if tokens else np.float64)
    if not np.isfinite(values).all():
        bad = np.argwhere(~np.isfinite(values))[0]
        raise InputError(
            f"inputs must be finite; received NaN or infinite values, first at sample {bad[0]},"
            f" feature {bad[1]}: remove or impute them"
        )
    check_sizes(values, "inputs")
    return torch.from_numpy(values)


def check_columns(inputs: NDArray[Any]) -> None:
    """Refuse columns that are not zero but so small that weights which undo them would overflow."""
    sizes = np.abs(inputs).max(axis=0).ravel()
    tiny = np.flatnonzero((sizes > 0) & (sizes < SMALLEST))
    if len(tiny):
        raise InputError(
            f"columns of inputs must be zero or at least {SMALLEST:.0e} in size; received"
            f" {sizes[tiny[0]]:.3g}, first in column {tiny[0]}: rescale them"
        )


def check_sizes(values: NDArray[Any], what: str) -> None:
    """Refuse numbers whose products would overflow."""
    largest = float(np.abs(values).max(initial=0.0))
    if largest > LARGEST:
        raise InputError(
            f"{what} must be at most {LARGEST:.0e} in size; received {largest:.3g}: rescale them"
        )


def check_targets(name: str, targets: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """Return `targets` in the form that the loss needs.

    Args:
        name: The loss.
        targets: Class indices (samples,) for cross_entropy, otherwise numbers of the outputs' shape
            (a vector is accepted for a single output).
        shape: Shape (samples, outputs) of the network's outputs.

    Returns:
        int64 indices of shape (samples,) or float64 of shape (samples, outputs).

    Raises:
        InputError: Wrong shape, NaN or infinite values, or labels outside the outputs.
    """
    samples, outputs = shape
    if targets.ndim == 0:
        raise InputError("targets must have one row per sample; received a single number")
    if len(targets) != samples:
        raise InputError(
            f"inputs and targets must have one row per sample; received {samples} inputs and"
            f" {len(targets)} targets"
        )
    if name == "cross_entropy":
        return _check_labels(targets, outputs)
    if targets.dtype.kind not in "fiub":
        raise InputError(
            f"targets must be real numbers for loss {name!r}; received dtype {targets.dtype}"
        )
    values = targets.astype(np.float64).reshape(samples, -1)
    if values.shape != shape:
        raise InputError(
            f"targets must have shape {shape} like the network's outputs for loss {name!r};"
            f" received {targets.shape}: encode class labels as one-hot or ±1, or use loss"
            " 'cross_entropy'"
        )
    if not np.isfinite(values).all():
        raise InputError(
            f"targets must be finite; received {int((~np.isfinite(values)).sum())} NaN or infinite"
            " values: remove or impute those samples"
        )
    check_sizes(values, "targets")
    return values


def _check_labels(targets: NDArray[Any], outputs: int) -> NDArray[np.int64]:
    """Return class indices as int64, or raise InputError."""
    if outputs < 2:
        raise InputError(
            "cross_entropy needs a network with at least 2 outputs (one logit per class); received"
            " 1: use 'squared' with ±1 targets"
        )
    labels = targets.reshape(len(targets), -1)
    if labels.shape[1] != 1:
        raise InputError(
            "cross_entropy needs one class index per sample; received targets of shape"
            f" {targets.shape}: pass targets.argmax(1)"
        )
    flat = labels[:, 0]
    if flat.dtype.kind not in "iub" and not (
        flat.dtype.kind == "f" and np.array_equal(flat, np.floor(flat))
    ):
        raise InputError(
            f"cross_entropy needs integer class indices; received dtype {targets.dtype}"
        )
    if flat.min() < 0 or flat.max() >= outputs:
        raise InputError(
            f"class indices must lie in 0..{outputs - 1} for {outputs} outputs; received"
            f" {flat.min()}..{flat.max()}: map the labels to 0..{outputs - 1}"
        )
    return flat.astype(np.int64)
