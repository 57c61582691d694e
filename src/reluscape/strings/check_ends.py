"""`verify` of what a connection joins: whether its path begins and ends at given models."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

from reluscape.landscape import Landscape
from reluscape.strings.buffers import numbers_of
from reluscape.strings.connection import Connection
from reluscape.strings.ends import outputs_apart

__all__ = ["begins_at", "why_other_end"]

Floats = NDArray[np.float64]


def begins_at(found: Connection, landscape: Landscape, model: nn.Module) -> bool:
    """Whether the path begins at a model, with its running statistics."""
    pairs = _pairs(found, landscape, 0, model)
    return all(_same(begin, one) for begin, one in pairs)


def why_other_end(found: Connection, landscape: Landscape, model: nn.Module) -> str:
    """Why the path does not end at a model, or at its hidden units permuted; empty where it does."""
    pairs = _pairs(found, landscape, found.num_beads - 1, model)
    if not found.matched:
        if not all(_same(end, one) for end, one in pairs):
            return "it ends at other weights: give --weights in the order of connect"
        return ""
    if not all(_same(np.sort(end, None), np.sort(one, None)) for end, one in pairs):
        return "it ends at other weights, whatever the order of their units"
    state = landscape.state_of(found.module(landscape, found.num_beads - 1))
    apart = outputs_apart(landscape, state, model)
    return f"the model that it ends at has other outputs, by {apart:.2g}" if apart else ""


def _pairs(
    found: Connection, landscape: Landscape, bead: int, model: nn.Module
) -> list[tuple[Floats, Floats]]:
    """Parameters and buffers of a bead, each beside a model's."""
    state, given = (landscape.state_of(one) for one in (found.module(landscape, bead), model))
    return [(numbers_of(state[name]), numbers_of(given[name])) for name in given]


def _same(one: Floats, other: Floats) -> bool:
    """Whether arrays are equal; NaN is equal to NaN."""
    return np.array_equal(one, other, equal_nan=True)
