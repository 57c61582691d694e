"""State dicts from weights files; no code of a file is ever run."""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from reluscape.errors import InputError

__all__ = ["keeps_order", "read_state", "write_state"]

_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt")
_WRAPPERS = ("state_dict", "model_state_dict")
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and torch.compile


#: Key of a .safetensors file's metadata under which `write_state` keeps the order of its tensors.
_ORDER = "order"


def keeps_order(path: Path) -> bool:
    """Whether the tensors of the file come in the order of the model's definition."""
    return not _is_safetensors(path) or bool(_read_safetensors(path)[1])


def write_state(path: Path, state: Mapping[str, NDArray[Any]]) -> None:
    """Write tensors to a ``.safetensors`` file together with their order, which the format drops.

    Shapes and types are kept, those of single numbers (a batch norm's counter, of shape ()) too.
    """
    tensors = {name: np.asarray(values, order="C") for name, values in state.items()}
    path.write_bytes(save(tensors, metadata={_ORDER: json.dumps(list(state))}))


def read_state(path: Path, masks: Collection[str] = ()) -> dict[str, torch.Tensor]:
    """Read names and tensors from a weights file without running code from it.

    Args:
        path: ``.safetensors``, or ``.pt``/``.pth``/``.ckpt`` holding a state dict, which may sit
            under the key "state_dict" or "model_state_dict". Prefixes that DataParallel and
            torch.compile add are dropped.
        masks: Names of tensors whose entries may be infinite or NaN.

    Returns:
        Float64 tensors in the order of the file, finite but for masks; integers and booleans (counters,
        indices) stay what they are.

    Raises:
        InputError: no such file, damaged, pickled objects, or tensors that are no weights.
    """
    if path.is_dir():
        raise InputError(f"expected a weights file, got the folder {path}: name a file in it")
    if not path.exists():
        raise InputError(f"{path} does not exist: check the name and the current folder")
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(
            f"expected weights in a {', '.join(_SUFFIXES)} file, got {path}: "
            "save model.state_dict() with torch.save or safetensors"
        )
    content = _read_safetensors(path)[0] if _is_safetensors(path) else _unpickle(path)
    if not isinstance(content, Mapping):
        raise InputError(
            f"{path} holds a {type(content).__name__}; expected a state dict: "
            "save model.state_dict()"
        )
    for wrapper in _WRAPPERS:
        content = content[wrapper] if isinstance(content.get(wrapper), Mapping) else content
    for prefix in _PREFIXES:
        if content and all(str(name).startswith(prefix) for name in content):
            content = {str(name).removeprefix(prefix): tensor for name, tensor in content.items()}
    if not content:
        raise InputError(f"{path} holds no tensors: save model.state_dict()")
    state = {str(name): _as_double(path, str(name), value) for name, value in content.items()}
    for name, tensor in state.items():
        bad = 0 if name in masks else int((~torch.isfinite(tensor)).sum())
        if bad:
            raise InputError(
                f"{path}: {name} holds {bad} values that are NaN or infinite: "
                "the training diverged; use weights from before"
            )
    return state


def _is_safetensors(path: Path) -> bool:
    return path.suffix.lower() == ".safetensors"


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], bool]:
    """The tensors, and whether they come in an order that was written with them."""
    try:
        with safe_open(path, framework="pt") as file:
            content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            order = json.loads((file.metadata() or {}).get(_ORDER, "null"))
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        text = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path} is not a complete .safetensors file ({text}): save it again"
        ) from error
    if isinstance(order, list) and sorted(map(str, order)) == sorted(content):
        return {name: content[name] for name in order}, True
    return content, False


def _unpickle(path: Path) -> object:
    """The content of a ``.pt`` file without running any code from it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on foreign pickle protocols: refused or read below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(_why_refused(path, error)) from error
    # On damaged bytes the unpickler fails wherever it happens to stand, with any exception.
    except Exception as error:
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise InputError(
            f"{path} is not a complete PyTorch file ({reason[0][:120]}): "
            "save model.state_dict() again"
        ) from error


def _why_refused(path: Path, error: pickle.UnpicklingError) -> str:
    if path.read_bytes()[:1] not in (b"P", b"\x80"):
        return f"{path} is not a PyTorch file: save model.state_dict() with torch.save"
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    what = f" ({found.group(1)})" if found else ""
    return (
        f"{path} holds pickled objects{what}, which are never loaded: "
        "save model.state_dict() instead of the model"
    )


def _as_double(path: Path, name: str, value: object) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        raise InputError(
            f"{path} holds a {type(value).__name__} under {name!r}; expected only tensors: "
            "save model.state_dict() alone"
        )
    dense = value.layout == torch.strided and not value.is_quantized
    if dense and not value.is_floating_point() and not value.is_complex():
        return value
    if not dense or value.is_complex():
        raise InputError(
            f"{path}: {name} is {value.dtype}, {value.layout}; expected dense float weights"
        )
    return value.detach().to(torch.float64).clone()
