"""The trials of `reproduce freeman` on images and text: pairs of networks joined below a test value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from reluscape.papers.freeman_strings import Rules, sample_strings
from reluscape.papers.freeman_text import WORDS, generated_text
from reluscape.papers.milne_data import checked
from reluscape.papers.milne_trials import accuracy, tensors

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: Positions on a segment in the scripts: 0, 0.05, ..., 0.95.
POSITIONS = np.arange(20) / 20.0
#: Training samples in one step.
BATCH = 100


@dataclass(slots=True)
class Task:
    """A network, how it is trained, and what is held below a level.

    Attributes:
        model: Its parameters are overwritten all the time.
        loss: The training loss of the model on these rows of the training data.
        value: The model's test value: error in percent, or perplexity.
        count: Training rows.
    """

    model: nn.Module
    loss: Callable[[torch.Tensor], torch.Tensor]
    value: Callable[[], float]
    count: int

    def at(self, theta: Floats) -> None:
        """Put parameters into the model."""
        vector_to_parameters(torch.from_numpy(theta).float(), self.model.parameters())

    def value_at(self, theta: Floats) -> float:
        """The test value at some parameters."""
        self.at(theta)
        self.model.eval()
        with torch.no_grad():
            return self.value()


def pair_at_level(parameters: dict[str, Any], seed: int) -> dict[str, Any]:
    """Train two networks of different seeds until their test value is below a level, and join them.

    Args:
        parameters: `task` ("mnist", "cifar" or "language"), `level`, `pair` (its number), `samples`
            (training rows), `tests` (test rows), `rate` (Adam's), `every` (steps between looks at the
            test value), `steps` (at most, of one network), `accept` and `alpha` of `Rules`; `folder`
            and `sha256` of the images.
        seed: Of initial weights and the order of samples.

    Returns:
        `beads` (1,), `length` and `length_all` (1,), over weights and over all parameters; NaN where no
        path was found. `straight`: the highest value on the straight line; `ends` (2,): both values.

    Cost: one training of `steps` steps for every bead at most.
    """
    torch.manual_seed(seed)
    task = _TASKS[parameters["task"]](parameters)
    level = parameters["level"]
    ends, reached = [], []
    for _ in range(2):
        _reset(task.model)
        start = parameters_to_vector(task.model.parameters()).detach().double().numpy()
        end, is_there = train_one(task, start, level, parameters)
        ends.append(end)
        reached.append(is_there)
    found: dict[str, Any] = {
        "ends": np.array([task.value_at(end) for end in ends]),
        "straight": float(highest(task, ends[0][None], ends[1][None])[0]),
        "reached": float(np.mean(reached)),
    }
    joined = _join(task, ends, level, parameters) if all(reached) else {}
    nothing = {name: np.array([np.nan]) for name in ("beads", "length", "length_all")}
    return found | nothing | joined


def _join(
    task: Task, ends: list[Floats], level: float, parameters: dict[str, Any]
) -> dict[str, Floats]:
    """A string between both; empty where none was found."""

    def train(starts: Floats, goal: float) -> tuple[Floats, Bools]:
        found = [train_one(task, start, goal, parameters) for start in starts]
        return np.stack([end for end, _ in found]), np.array([there for _, there in found])

    rules = Rules(parameters["alpha"], parameters["accept"], max_depth=parameters["depth"])
    (string,) = sample_strings(
        ends[0][None], ends[1][None], level, rules, train,
        lambda starts, stops: highest(task, starts, stops),
    )  # fmt: skip
    if not string.connected:
        return {}
    weights = np.concatenate([
        np.full(p.numel(), "bias" not in name) for name, p in task.model.named_parameters()
    ])  # fmt: skip
    return {
        "beads": np.array([float(len(string.beads))]),
        "length": np.array([string.normalised_length(weights)]),
        "length_all": np.array([string.normalised_length(weights | True)]),
    }


def train_one(
    task: Task, start: Floats, goal: float, parameters: dict[str, Any]
) -> tuple[Floats, bool]:
    """Adam on batches until the test value is below the goal; float32, looked at now and then."""
    task.at(start)
    optimiser = torch.optim.Adam(task.model.parameters(), lr=parameters["rate"])
    done, orders = 0, torch.randperm(task.count)
    while done < parameters["steps"]:
        task.model.train()
        for _ in range(parameters["every"]):
            if len(orders) < BATCH:
                orders = torch.randperm(task.count)
            rows, orders = orders[:BATCH], orders[BATCH:]
            optimiser.zero_grad()
            torch.autograd.backward(task.loss(rows))
            optimiser.step()
        done += parameters["every"]
        end = parameters_to_vector(task.model.parameters()).detach().double().numpy()
        if task.value_at(end) < goal:
            return end, True
    return end, False


def highest(task: Task, starts: Floats, stops: Floats) -> Floats:
    """The highest of the scripts' 20 values on each segment."""
    segments = zip(starts, stops, strict=True)
    return np.array([max(task.value_at(a + t * (b - a)) for t in POSITIONS) for a, b in segments])


def _reset(model: nn.Module) -> None:
    """New initial weights."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.LSTM | nn.Embedding):
            module.reset_parameters()


def _images(parameters: dict[str, Any]) -> Task:
    """A convolutional network of the published kind, narrower."""
    source = parameters["task"]
    training, testing = checked(parameters["folder"], source, parameters["sha256"])
    images, labels = tensors(*training, source, "standardised", parameters["samples"])
    tests = tensors(*testing, source, "standardised", parameters["tests"])
    model = convnet(images.shape[1], images.shape[2])
    return Task(
        model,
        lambda rows: functional.cross_entropy(model(images[rows]), labels[rows]),
        lambda: 100.0 - accuracy(model, *tests),
        len(images),
    )


def convnet(channels: int, side: int) -> nn.Sequential:
    """Two 5 x 5 convolutions with pooling and two linear layers; a quarter to a sixteenth as wide."""
    return nn.Sequential(
        nn.Conv2d(channels, 8, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(16 * (side // 4) ** 2, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


class Language(nn.Module):
    """Next-word prediction by two layers of LSTM."""

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.lstm = nn.LSTM(width, width, 2, batch_first=True)
        self.head = nn.Linear(width, words)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """Scores of the next word at every place (sentences, places, words)."""
        scores: torch.Tensor = self.head(self.lstm(self.embedding(words))[0])
        return scores


def _language(parameters: dict[str, Any]) -> Task:
    """A small language model on generated text, a stand-in for the Penn Treebank."""
    text = torch.from_numpy(generated_text(parameters["samples"] + parameters["tests"]))
    known, tests = text[: parameters["samples"]], text[parameters["samples"] :]
    model = Language(WORDS, 24)

    def loss(sentences: torch.Tensor) -> torch.Tensor:
        scores = model(sentences[:, :-1]).flatten(0, 1)
        return functional.cross_entropy(scores, sentences[:, 1:].flatten())

    return Task(model, lambda rows: loss(known[rows]), lambda: float(loss(tests).exp()), len(known))


_TASKS = {"mnist": _images, "cifar": _images, "language": _language}
