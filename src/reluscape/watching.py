"""Which tensors a forward pass looks at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

__all__ = ["Watched"]

#: What a tensor is, whatever its numbers.
FORM = ("shape", "dtype", "device", "layout", "ndim")


class Watched(TorchFunctionMode):
    """Sees which tensors PyTorch's functions and methods are called with.

    Args:
        tensors: By name.

    Attributes:
        seen: Names of those that were looked at.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self._names = {id(tensor): name for name, tensor in tensors.items()}
        self.seen: set[str] = set()

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Note what is given to a function, and call it."""
        leaves = _pytree.tree_leaves((args, kwargs))
        if getattr(getattr(func, "__self__", None), "__name__", "") not in FORM:
            self.seen |= {self._names[id(leaf)] for leaf in leaves if id(leaf) in self._names}
        return func(*args, **(kwargs or {}))
