"""Exact descent from a trained model's weights, one layer or all in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reluscape.certificate import MINIMA, Certificate
from reluscape.descent.loop import certified_end, descend
from reluscape.descent.result import Descent
from reluscape.landscape import Landscape

Floats = NDArray[np.float64]
Progress = Callable[[str, float], None]

#: A sweep over the layers that lowers the loss by a smaller share ends the descent.
GAIN = 1e-9


@dataclass(frozen=True, slots=True)
class Polish:
    """Weights after exact descent.

    Attributes:
        landscape: The landscape at the end; `landscape.theta` are the weights, all layers.
        start: Loss before.
        loss: Loss after.
        sweeps: Number of sweeps over the layers.
        descents: The last descent of every layer, by name.
        certificates: What every layer's block is at the end, by name.
    """

    landscape: Landscape
    start: float
    loss: float
    sweeps: int
    descents: dict[str, Descent]
    certificates: dict[str, Certificate]

    @property
    def certified(self) -> bool:
        """Whether every layer ends at a certified minimum of its block."""
        return all(certificate.claim in MINIMA for certificate in self.certificates.values())

    def summary(self) -> str:
        """Loss before and after, and what every layer is at."""
        fall = 1.0 - self.loss / self.start if self.start else 0.0
        lines = [f"loss {self.start:.6g} -> {self.loss:.6g} ({fall:.2%} lower)"]
        for name, certificate in self.certificates.items():
            descent = self.descents[name]
            how = f"last descent: {descent.num_pivots} pivots, {descent.status}"
            lines.append(f"  {certificate.sentence()} ({how})")
        return "\n".join(lines)


def polish(
    landscape: Landscape,
    layers: Sequence[str | int] | None = None,
    *,
    max_pivots: int | None = None,
    max_sweeps: int = 100,
    seed: int = 0,
    progress: Progress | None = None,
) -> Polish:
    """Descend the L1 loss layer by layer until no layer's descent lowers it any more.

    Args:
        landscape: Loss "l1", without weight decay.
        layers: Names or indices; default: all layers in turn, from the first to the last.
        max_pivots: Largest number of pivots of one layer's descent.
        max_sweeps: Largest number of sweeps over the layers.
        seed: Of the descents.
        progress: Told what is being done.

    Returns:
        The weights and what every layer's block is there. With several layers the end is a minimum of
        every block, each with all others fixed, which need not be one of all layers at once.

    Raises:
        InputError: What `descend` raises.
    """
    names = [
        landscape.block(layer).layer for layer in (landscape.layers if layers is None else layers)
    ]
    start = loss = landscape.loss()
    descents: dict[str, Descent] = {}
    sweeps, here = 0, landscape
    while sweeps < max_sweeps:
        sweeps += 1
        before = loss
        for name in names:
            block = here.block(name)
            found = descend(
                block, max_pivots=max_pivots, seed=seed, progress=_named(progress, name)
            )
            descents[name] = found
            if found.loss < loss:
                theta = here.theta
                theta[here.positions(name)] = found.theta
                here, loss = here.at(theta), found.loss
        if len(names) == 1 or not loss < before * (1.0 - GAIN):
            break
    blocks = [here.block(name) for name in names]  # certificates are about the final weights
    certificates = {block.layer: certified_end(block, block.theta) for block in blocks}
    return Polish(here, start, here.loss(), sweeps, descents, certificates)


def _named(progress: Progress | None, name: str) -> Progress | None:
    """The same progress with the layer's name before it."""
    if progress is None:
        return None
    return lambda what, fraction: progress(f"layer {name!r}, {what}", fraction)
