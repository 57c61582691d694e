"""How the fields of a survey's records that are variables of its file are declared."""

from __future__ import annotations

from dataclasses import field
from typing import Any

import numpy as np

__all__ = ["a_number", "a_series", "no_values"]


def a_number(about: str, units: str = "1") -> Any:
    """A field that holds one number, or None."""
    return field(default=None, metadata={"long_name": about, "units": units})


def a_series(axis: str | tuple[str, ...], about: str, units: str = "1") -> dict[str, Any]:
    """What is told of a field that holds an array."""
    return {
        "dims": (axis,) if isinstance(axis, str) else axis,
        "long_name": about,
        "units": units,
    }


def no_values() -> np.ndarray:
    """An array that was not computed."""
    return np.zeros(0)
