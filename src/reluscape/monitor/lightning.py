"""A monitor as a Lightning callback (extra `[lightning]`)."""

from __future__ import annotations

from typing import Any

from reluscape.errors import InputError
from reluscape.monitor.monitor import ConvexityMonitor

try:
    from lightning.pytorch import Callback
except ImportError as missing:
    raise InputError(
        f"Lightning is missing ({missing}): pip install 'reluscape[lightning]'"
    ) from missing


class ConvexityCallback(Callback):
    """Calls `monitor.step` with the module and the batch before every training step.

        monitor = ConvexityMonitor(lambda module, batch: cross_entropy(module(batch[0]), batch[1]))
        Trainer(callbacks=[ConvexityCallback(monitor)]).fit(module, batches)
        print(monitor.result().summary())

    Args:
        monitor: The monitor; its loss receives the `LightningModule`.
    """

    def __init__(self, monitor: ConvexityMonitor) -> None:
        super().__init__()
        self.monitor = monitor

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the weights that this step starts from."""
        self.monitor.step(pl_module, batch)
