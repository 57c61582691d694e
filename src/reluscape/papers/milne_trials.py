"""The trials of `reproduce milne` on images: a monitored training run of LeNet-5 or of a ResNet-22."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from reluscape.errors import AnalysisError
from reluscape.monitor import ConvexityMonitor
from reluscape.papers.liu_data import Bytes
from reluscape.papers.milne_data import checked

#: Mean and standard deviation of the training pixels in [0, 1], by channel.
MOMENTS = {
    "mnist": ((0.1307,), (0.3081,)),
    "cifar": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}
BATCH = 128


def training_run(parameters: dict[str, Any], seed: int) -> dict[str, Any]:
    """Train a network by stochastic gradient descent, and monitor it.

    Args:
        parameters: `source` ("mnist" or "cifar"), `folder` and `sha256` of the images, `scaling` of the
            pixels ("standardised", or "unit" for [0, 1]), `width` of the ResNet's first stage, `samples`
            (the first so many training images), `epochs`, `rate`, `late` (share of the epochs after
            which the rate is a fifth), `decay`, `every`.
        seed: Of initial weights and of the order of the images.

    Returns:
        `accuracy` on the test images (%), `percentile` (10th, of the normalised second derivative in the
        convex phase), `fraction` of the loss's fall in that phase, `onset` (a step; -1 for none),
        `negative` (share of the records that are not convex), `steps`; and the arrays `step`, `loss`,
        `squared_gradient`, `curvature`, all of the monitor's records.

    Cost: on one core some 40 s for an epoch of LeNet-5 on 60,000 images with every step recorded.
    """
    source = parameters["source"]
    training, testing = checked(parameters["folder"], source, parameters["sha256"])
    images, labels = tensors(*training, source, parameters["scaling"], parameters["samples"])
    torch.manual_seed(seed)
    model = lenet5() if source == "mnist" else resnet22(parameters["width"])
    monitor = ConvexityMonitor(
        nn.CrossEntropyLoss(), every=parameters["every"], weight_decay=parameters["decay"]
    )
    epochs = parameters["epochs"]
    late = math.ceil(parameters["late"] * epochs)
    for epoch in range(epochs):
        rate = parameters["rate"] / (5.0 if epoch >= late else 1.0)
        _epoch(model, images, labels, rate, parameters["decay"], monitor)
    trajectory = monitor.result()
    return {
        "accuracy": accuracy(model, *tensors(*testing, source, parameters["scaling"])),
        "percentile": trajectory.percentile(),
        "fraction": trajectory.loss_fraction,
        "onset": -1 if trajectory.onset is None else trajectory.onset,
        "negative": float(np.mean(~(trajectory.curvatures > 0))),
        "steps": epochs * math.ceil(len(images) / BATCH),
        "step": trajectory.steps,
        "loss": trajectory.losses,
        "squared_gradient": trajectory.squared_gradients,
        "curvature": trajectory.curvatures,
    }


def tensors(
    images: Bytes, labels: Bytes, source: str, scaling: str, samples: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (samples, channels, height, width) in float32, and labels."""
    pixels = torch.from_numpy(np.ascontiguousarray(images[:samples])).float() / 255.0
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    if scaling == "standardised":
        mean, deviation = (torch.tensor(one)[:, None, None] for one in MOMENTS[source])
        pixels = (pixels - mean) / deviation
    return pixels, torch.from_numpy(labels[:samples].astype(np.int64))


def _epoch(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    rate: float,
    decay: float,
    monitor: ConvexityMonitor,
) -> None:
    """One pass over the images in random order; each record is about the step's own batch."""
    optimiser = torch.optim.SGD(model.parameters(), lr=rate, weight_decay=decay)
    model.train()
    for rows in torch.split(torch.randperm(len(images)), BATCH):
        optimiser.zero_grad()
        loss = functional.cross_entropy(model(images[rows]), labels[rows])
        if not torch.isfinite(loss):
            raise AnalysisError(f"the training loss became {float(loss.detach())} at rate {rate:g}")
        monitor.backward(model, loss)
        optimiser.step()


def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of images whose class is the one with the largest output, in percent."""
    model.eval()
    with torch.no_grad():
        parts = (torch.split(whole, 500) for whole in (images, labels))
        right = [(model(x).argmax(dim=1) == y).sum() for x, y in zip(*parts, strict=True)]
    return 100.0 * float(torch.stack(right).sum()) / len(labels)


def lenet5() -> nn.Sequential:
    """LeNet-5 with ReLU and maximum pooling for 28 x 28 pixels: 61,706 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


class Residual(nn.Module):
    """Two 3 x 3 convolutions with batch norm, and a shortcut, projected where shapes change."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Sum of both, rectified."""
        return functional.relu(self.body(x) + self.shortcut(x))


def resnet22(width: int) -> nn.Sequential:
    """Three stages of three blocks: 22 layers with weights, the two projections among them."""
    widths = (width, width, 2 * width, 4 * width)
    blocks: list[nn.Module] = []
    for stage, (inputs, outputs) in enumerate(pairwise(widths)):
        blocks += [Residual(inputs, outputs, 2 if stage else 1)]
        blocks += [Residual(outputs, outputs, 1) for _ in range(2)]
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), *blocks,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10),
    )  # fmt: skip
