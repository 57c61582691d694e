"""Many points of a landscape at once: what a string of models is trained on and judged by."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from reluscape.errors import InputError
from reluscape.landscape import Landscape
from reluscape.train import one_thread

Floats = NDArray[np.float64]
#: A number to stay below, from outputs (samples, outputs) and targets as the landscape holds them.
Metric = Callable[[Floats, NDArray[np.generic]], float]

#: Parameters and activations up to which one thread is faster than several.
SMALL = 2**19
#: Numbers that one batch of points may hold at once: on a CPU what stays below the memory that malloc
#: keeps between two steps, elsewhere 512 MB in float64.
LARGEST_BATCH = {"cpu": 2**22, "other": 2**26}
#: Numbers of a block just below the size, 32 MB, from which glibc always asks the system for memory.
KEPT = 2**22 - 2**12


def error_rate(outputs: Floats, targets: NDArray[np.generic]) -> float:
    """Share of samples whose largest output is not that of their class index; NaN is none."""
    if targets.ndim > 1:
        raise InputError(
            "error_rate needs class indices as targets, those of loss 'cross_entropy'; received"
            f" targets of shape {targets.shape}: give metric a function of outputs and targets"
        )
    wrong = outputs.argmax(axis=1) != targets
    return float((wrong | np.isnan(outputs).any(axis=1)).mean())


class Surface:
    """The loss, its gradient and the judged value at the rows of a matrix of parameters.

    All rows are evaluated as one batch (`torch.func.vmap`), in parts where memory asks for it. A model
    that cannot be batched is evaluated row by row, and `unbatched` says why.

    Args:
        landscape: Whose loss beads are trained on.
        metric: What is held below the level: None for that loss, "error_rate", a function of outputs
            and targets, or another landscape of the same model (such as one of test data).
        batched: False evaluates row by row.
        seed: Of the order in which `batches` go through the samples.
        judged: In place of the judge's loss as a function of flat parameters.
        floating: Whether running statistics follow the parameters.

    Attributes:
        judge: The landscape whose loss is judged, or whose outputs a metric is of.
        kind: "loss", "other loss", or the metric's name.
        unbatched: Why rows are evaluated one by one; empty where they are not.
        still: Coordinates that are not trained: buffers that move along.
        small: Whether one thread is faster than several.
        gradients: Gradients evaluated so far, one for each row.
        losses: Values evaluated so far without a gradient, one for each row.
    """

    def __init__(
        self,
        landscape: Landscape,
        metric: str | Metric | Landscape | None = None,
        *,
        batched: bool = True,
        seed: int = 0,
        judged: Callable[[torch.Tensor], torch.Tensor] | None = None,
        floating: bool = False,
    ) -> None:
        self.landscape = landscape
        self.judge = metric if isinstance(metric, Landscape) else landscape
        self._metric, self.kind = _read_metric(metric)
        if self.judge.size != landscape.size:
            raise InputError(
                f"metric must be a landscape of the same model, with {landscape.size} parameters;"
                f" received one with {self.judge.size}"
            )
        self.gradients = self.losses = 0
        self.device = landscape.flat_objective()[0].device
        self.still = torch.from_numpy(np.flatnonzero(landscape.moved)).to(self.device)
        self._objective = landscape.flat_objective()[1]
        self._seed = seed
        self._floating = floating
        self._judged = judged or self._judged_by()
        work = _work(landscape)
        self.small = work <= SMALL
        on_cpu = self.device.type == "cpu"
        self._rows = max(1, LARGEST_BATCH["cpu" if on_cpu else "other"] // work)
        if on_cpu:
            _keep_freed_memory()
        self.unbatched = "asked for" if not batched else self._why_unbatched()

    @property
    def trains_on_judged(self) -> bool:
        """Whether the judged value is the loss that beads are trained on."""
        return self._metric is None and self.judge is self.landscape

    @property
    def is_loss(self) -> bool:
        """Whether the judged value is the judge's loss as `Landscape.loss` gives it."""
        return self._metric is None and not self._floating

    def values(self, thetas: Floats) -> Floats:
        """The judged value at each row of (points, params), shape (points,)."""
        self.losses += len(thetas)
        with torch.no_grad():
            found = self._map(self._judged, self._tensor(thetas))
        if self._metric is None:
            return np.asarray(found.cpu().numpy())
        outputs = found.cpu().numpy()
        return np.array([_one(self._metric(one, self.judge.targets)) for one in outputs])

    def along(self, starts: Floats, stops: Floats, positions: Floats) -> Floats:
        """The judged value on straight segments, shape (segments, positions)."""
        steps = positions[:, None, None] * (stops - starts) + starts
        points = steps.transpose(1, 0, 2).reshape(-1, starts.shape[1])
        parts = range(0, len(points), self._rows)
        found = [self.values(points[at : at + self._rows]) for at in parts]
        return np.concatenate(found).reshape(len(starts), len(positions))

    def slopes(
        self, thetas: torch.Tensor, rows: slice = slice(None)
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss and its gradient at each row: (points,) and (points, params).

        With `rows`, one of `batches`, the loss of those samples alone.
        """
        self.gradients += len(thetas)
        objective = self._objective_of(rows)
        parts = torch.split(thetas, 1 if self.unbatched else self._rows)
        found = [self._slopes(objective, part) for part in parts]
        losses, gradients = (torch.cat(one) for one in zip(*found, strict=True))
        return losses, gradients

    def batches(self, size: int | None) -> list[slice]:
        """Cut the samples, in an order drawn once, into parts of a size; one part of all for None.

        A sample that is left alone goes with those before: batch norm needs two.
        """
        count = self.landscape.num_samples
        if size is None or size >= count:
            return [slice(None)]
        if size == 1:
            self._check_one()
        starts = list(range(0, count - (size > 1), size))
        return [slice(*ends) for ends in pairwise([*starts, count])]

    # ---- private -----------------------------------------------------------------------------

    @cached_property
    def _shuffled(self) -> Landscape:
        """The landscape with its samples in another order."""
        own = self.landscape
        order = np.random.default_rng(self._seed).permutation(own.num_samples)
        return own.of_samples(order)

    def _check_one(self) -> None:
        """Refuse batches of one sample where a batch norm has one value of each channel then."""
        try:
            self.landscape.of_samples(np.zeros(1, dtype=np.int64))
        except InputError as error:
            raise InputError(
                f"batch_size must be at least 2 with batch norm; received 1: {error}"
            ) from error

    def _slopes(
        self, objective: Callable[[torch.Tensor], torch.Tensor], thetas: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses and gradients of one part, freed before the next is taken; NaN is no slope."""
        leaf = thetas.detach().requires_grad_()
        losses = self._map(objective, leaf)
        (gradients,) = torch.autograd.grad(losses.sum(), leaf)
        return losses.detach(), torch.nan_to_num(gradients, 0.0, 0.0, 0.0)

    def _tensor(self, thetas: Floats) -> torch.Tensor:
        return torch.tensor(thetas, device=self.device)  # forward may write into it

    def _objective_of(self, rows: slice) -> Callable[[torch.Tensor], torch.Tensor]:
        """The mean loss of some samples, weight decay included."""
        if rows == slice(None):
            return self._objective
        _, shared = self._shuffled.flat_objective(rows=rows)
        count = self.landscape.num_samples
        share = len(range(*rows.indices(count))) / count
        return lambda vector: shared(vector) / share

    def _judged_by(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """The judge's loss, or its outputs where a metric is made of them."""
        if self._metric is not None:
            return self.judge.outputs_of
        return self._objective if self.judge is self.landscape else self.judge.flat_objective()[1]

    def _map(
        self, function: Callable[[torch.Tensor], torch.Tensor], thetas: torch.Tensor
    ) -> torch.Tensor:
        """A function of one row at all rows."""
        if self.unbatched or len(thetas) == 1:  # one row alone is quicker without vmap
            return torch.stack([function(row) for row in thetas])
        chunk = self._rows if self._rows < len(thetas) else None
        mapped: torch.Tensor = torch.func.vmap(function, chunk_size=chunk)(thetas)
        return mapped

    def _why_unbatched(self) -> str:
        """Try two rows as a batch; what PyTorch says against it."""
        self.unbatched = ""
        rows = self._tensor(np.tile(self.landscape.theta, (2, 1)))
        counted = self.gradients
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # a missing batching rule only warns, and is slow
                self.slopes(rows)
                with torch.no_grad():
                    self._map(self._judged, rows)
        except (RuntimeError, ValueError, TypeError, UserWarning) as error:
            return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        finally:
            self.gradients = counted
        return ""


def _read_metric(metric: str | Metric | Landscape | None) -> tuple[Metric | None, str]:
    """The function of outputs and targets, if it is one, and what the judged value is called."""
    if metric is None:
        return None, "loss"
    if isinstance(metric, Landscape):
        return None, "other loss"
    if metric == "error_rate":
        return error_rate, "error_rate"
    if callable(metric):
        return metric, getattr(metric, "__name__", type(metric).__name__)
    raise InputError(
        "metric must be None, 'error_rate', a function of outputs and targets, or a Landscape;"
        f" received {metric!r}"
    )


def _one(value: object) -> float:
    """What a metric has returned."""
    if np.ndim(value):  # type: ignore[arg-type]
        raise InputError(f"metric must return one number; received {value!r:.80}")
    return float(value)  # type: ignore[arg-type]


@contextmanager
def suited(landscape: Landscape) -> Iterator[None]:
    """As many of PyTorch's threads as are fastest: where there is little to do, they wait for each other.

    On a machine with other work a pass of a small batch norm takes thirty times as long in two threads.
    Parts that torch.compile has wrapped run as they are written: compiled ones do not tell hooks.
    """
    parts = landscape.module_at().modules()
    compiled = any(type(part).__name__ == "OptimizedModule" for part in parts)
    small = _work(landscape) <= SMALL
    with (
        torch.compiler.set_stance("force_eager") if compiled else nullcontext(),
        one_thread() if small else nullcontext(),
    ):
        yield


def _work(landscape: Landscape) -> int:
    """Parameters and activations of one evaluation."""
    return landscape.size + _activations(landscape)


def _activations(landscape: Landscape) -> int:
    """Numbers that the model's layers put out on the data, in one forward pass."""
    counted = 0

    def count(module: nn.Module, inputs: object, output: object) -> None:
        nonlocal counted
        counted += output.numel() if isinstance(output, torch.Tensor) else 0

    model = landscape.module_at()
    hooks = [
        part.register_forward_hook(count)
        for part in model.modules()
        if not (list(part.children()) or isinstance(part, torch.jit.ScriptModule))
    ]
    try:
        with torch.no_grad():
            model(torch.as_tensor(landscape.inputs, device=landscape.flat_objective()[0].device))
    finally:
        for hook in hooks:
            hook.remove()
    return counted


def _keep_freed_memory() -> None:
    """Let malloc hand out again what a step has freed.

    glibc gives large blocks back to the system, so that every step pays for fresh pages: up to half the
    time of a batch. Freeing one block of the largest size that it may keep raises its limits to 32 MB
    for a block and 64 MB in all (mallopt(3), "dynamic mmap threshold"). Other systems take no notice.
    """
    torch.empty(KEPT, dtype=torch.float64)


def grid(count: int) -> Floats:
    """Positions inside a segment, its ends left out."""
    return np.asarray(np.linspace(0.0, 1.0, count + 2)[1:-1])
