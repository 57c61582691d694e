"""A monitor's records as TensorBoard curves (extra `[tensorboard]`)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from reluscape.errors import InputError
from reluscape.monitor.monitor import Sink

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def tensorboard_sink(
    writer: SummaryWriter | str | os.PathLike[str], *, prefix: str = "convexity"
) -> Sink:
    """A sink that writes every number of a record as the scalar `prefix/name`.

    Args:
        writer: A `SummaryWriter`, or the folder for a new one.
        prefix: First part of the curves' names.

    Raises:
        InputError: A folder is given and TensorBoard is not installed.
    """
    target = _writer(writer) if isinstance(writer, (str, os.PathLike)) else writer

    def tell(step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            target.add_scalar(f"{prefix}/{name}", value, step)

    return tell


def _writer(folder: str | os.PathLike[str]) -> SummaryWriter:
    """A new writer; TensorBoard is imported only here."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            f"TensorBoard is missing ({error}): pip install 'reluscape[tensorboard]'"
        ) from error
    return SummaryWriter(os.fspath(folder))
