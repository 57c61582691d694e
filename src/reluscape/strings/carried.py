"""Buffers that differ between models: coordinates of the path beside the parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from reluscape.errors import InputError
from reluscape.landscape import Landscape, MovedBuffer
from reluscape.strings.buffers import (
    State,
    flat_buffers,
    is_in_script,
    numbers_of,
    other_buffers,
    places_of,
)

__all__ = ["Carried", "check_buffers", "with_module"]

Floats = NDArray[np.float64]


def with_module(landscape: Landscape, module: nn.Module) -> Landscape:
    """The landscape of another module on the same data."""
    return Landscape(
        module,
        landscape.inputs,
        landscape.targets,
        loss=landscape.loss_name,
        weight_decay=landscape.weight_decay,
        device=str(landscape.flat_objective()[0].device),
    )


def check_buffers(landscapes: Sequence[Landscape], state: State, name: str) -> None:
    """Refuse a model whose buffers differ from the first landscape's where they cannot move along a path.

    Args:
        landscapes: Of the model, on all data that outputs are judged on.
        state: That of the model.
        name: What it is called.
    """
    read, unread = other_buffers(landscapes, state)
    module = landscapes[0].module_at()
    own = dict(module.named_buffers())
    for key in sorted(read | unread):
        if state[key].layout != torch.strided or own[key].layout != torch.strided:
            why = "are sparse"
        elif key in unread and not _is_held(state[key]):
            why = "are not held by float64"
        elif key in unread:
            continue
        elif not (_is_finite(state[key]) and _is_finite(own[key])):
            why = "are no finite floating point numbers"
        elif is_in_script(module, key):
            why = "are those of compiled code"
        elif key not in module.state_dict():
            why = "are left out by state dicts, in which the models of a path are kept"
        else:
            continue
        depends = ", which forward reads," if key in read else ""
        raise InputError(
            f"{name} must have the landscape's buffers where these cannot move along a path; received"
            f" others in {key!r}{depends} and they {why}: give both models the same"
        )


def _is_finite(buffer: torch.Tensor) -> bool:
    """Whether it holds finite floating point numbers."""
    values = numbers_of(buffer)
    return values.dtype.kind == "f" and bool(np.isfinite(values).all())


def _is_held(buffer: torch.Tensor) -> bool:
    """Whether float64 holds its numbers."""
    values = numbers_of(buffer)
    held = values.real.astype(np.float64).astype(values.dtype)
    return np.array_equal(values, held, equal_nan=True)


@dataclass(frozen=True)
class Carried:
    """A landscape whose coordinates are parameters and some floating point buffers.

    A path between models that differ in these is a path of both: beads get the buffers on the straight
    segment that they are put into, training leaves them, and segments move them linearly.

    Attributes:
        landscape: The landscape of parameters.
        wide: That of both; the same where no buffer is among them.
        names: Of these buffers, in the order of the wide landscape's coordinates.
    """

    landscape: Landscape
    wide: Landscape
    names: tuple[str, ...]

    @classmethod
    def between(cls, landscapes: Sequence[Landscape], states: Iterable[State | None]) -> Carried:
        """With the buffers in which models differ from the first landscape, where outputs read them.

        Args:
            landscapes: Of the model, on all data that outputs are judged on.
            states: Of the models, each of which `check_buffers` lets pass; None for one of parameters.
        """
        given = [state for state in states if state is not None]
        names = {name for one in given for name in other_buffers(landscapes, one)[0]}
        return cls.of(landscapes[0], names)

    @classmethod
    def of(cls, landscape: Landscape, names: Iterable[str]) -> Carried:
        """With these buffers."""
        wide = over_buffers(landscape, frozenset(names))
        parameters = wide.module_at().named_parameters()
        moved = tuple(name for name, p in parameters if isinstance(p, MovedBuffer))
        return cls(landscape, wide, moved)

    def on(self, other: Landscape) -> Landscape:
        """Another landscape of the same model, over the same coordinates.

        Raises:
            InputError: It has other buffers beside those among the coordinates.
        """
        read, _ = other_buffers([other], other.state_of(self.landscape.module_at()))
        for name in sorted(read - {*self.names}):
            raise InputError(
                "metric's model must have the landscape's buffers, running statistics of batch norms"
                f" aside; received others in {name!r}: give both the same"
            )
        return over_buffers(other, frozenset(self.names))

    def joined(self, thetas: Floats, buffers: Floats) -> Floats:
        """Points (points, wide) from parameters (points, params) and all buffers (points, buffers)."""
        found, moved = np.empty((len(thetas), self.wide.size)), self.wide.moved
        found[:, ~moved] = thetas
        places = places_of(self.landscape.module_at())
        found[:, moved] = np.hstack(
            [np.zeros((len(thetas), 0)), *(buffers[:, places[name]] for name in self.names)]
        )
        return found

    def at(self, theta: Floats, state: State | None) -> Floats:
        """The point (wide,) of a model."""
        row = flat_buffers(self.landscape, state)
        return np.asarray(self.joined(theta[None], row[None])[0])

    def thetas(self, points: Floats) -> Floats:
        """Parameters of points, (points, params)."""
        return np.ascontiguousarray(points[:, ~self.wide.moved])


def over_buffers(landscape: Landscape, names: frozenset[str]) -> Landscape:
    """The landscape with some buffers among its coordinates.

    Raises:
        InputError: The model does not run with these as parameters.
    """
    if not names:
        return landscape
    module = landscape.module_at()
    try:
        for name, buffer in list(module.named_buffers()):  # in the same order everywhere
            if name in names:
                _move(module, buffer)
        wide = with_module(landscape, module)
        wide.loss()
    except Exception as error:  # forward may do anything with its module's buffers
        line = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise InputError(
            f"both models must have the same buffers {', '.join(sorted(names))}: they differ there, and"
            f" the model does not run with these among the coordinates of a path ({line})"
        ) from error
    return wide


def _move(module: nn.Module, buffer: torch.Tensor) -> None:
    """Put a coordinate in the place of a buffer, wherever it is used."""
    moved = MovedBuffer(buffer.detach().clone())
    for part in module.modules():
        own = part.named_buffers(recurse=False, remove_duplicate=False)
        for key in [key for key, one in own if one is buffer]:
            delattr(part, key)
            part.register_parameter(key, moved)
