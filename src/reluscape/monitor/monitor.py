"""`ConvexityMonitor`: how convex the loss is along its gradient, step by step in any training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from reluscape.errors import InputError
from reluscape.landscape import Landscape
from reluscape.monitor.along_gradient import AlongGradient, Sides, along_gradient, free, undisturbed
from reluscape.monitor.membership import REGIONS, UNKNOWN, Inside, Membership
from reluscape.monitor.trajectory import Trajectory
from reluscape.validation import check_decay, check_told, check_whole

#: What a sink receives at every record: the step, and numbers by name.
Sink = Callable[[int, Mapping[str, float]], None]
#: A loss of a model on a batch.
Objective = Callable[[nn.Module, Any], torch.Tensor]


@dataclass(slots=True)
class _Records:
    """What has been recorded so far."""

    steps: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    found: list[AlongGradient] = field(default_factory=list)
    crossed: list[float] = field(default_factory=list)
    inside: list[Inside] = field(default_factory=list)
    watched: list[list[float]] = field(default_factory=list)


class ConvexityMonitor:
    """Records the second derivative of the loss along its own gradient while a model is trained.

    At the weights W of each recorded step, with g gradient and H Hessian (switches of the rectifiers
    frozen, as autograd has it) of the loss with its weight decay, it records

        gamma = l(W) + lambda / 2 |W|^2,   |g|^2,   gamma'' / |g|^2 = 2 g^T H g / |g|^2

    (Milne, section 4), by one backward pass and a sweep forward through the loss's operations. Call
    `step` once per training step, before the forward pass or before `optimizer.step()`: the record is
    about the weights that the step starts from.

        monitor = ConvexityMonitor(loss)              # loss(model, batch) -> scalar tensor
        for batch in batches:
            monitor.step(model, batch)                # anything else stays as it is
            ...
        print(monitor.result().summary())

    The run is not disturbed: `.grad`, running statistics, `requires_grad` and the random generators (of
    the CPU and the model's CUDA devices) are as before, so its weights are the same bit for bit. (On
    CUDA: where the run itself is deterministic.) Forward hooks of the model run once more. Any module
    whose operations PyTorch can differentiate twice will do. In train mode, batch norm uses the batch's
    statistics and differentiates through them; before the forward pass, dropout draws the masks that
    the step will draw.

    Args:
        loss: A function `loss(model, batch)` that returns a scalar tensor; a criterion
            `criterion(outputs, targets)` as an `nn.Module`, for batches `(inputs, targets)`; or a
            `Landscape`: then the loss is that on its data, in float64 and eval mode, at the model's
            weights and running statistics, and where its network is read completely each record says
            whether the weights lie in the paper's region U(lambda, 0) and in the sharper one.
        every: Record each so many steps, the first included.
        batch: A fixed batch for all records, instead of each step's own. Kinks crossed are counted only
            with one, or with a landscape.
        weight_decay: lambda >= 0 of the optimizer, on all parameters that require a gradient. 0 where the
            loss contains it; a landscape has its own.
        rate: Size of a step, or the optimizer that has it (the first group's `lr`): what
            `Trajectory.decay` measures time in.
        crossings: Whether to count kinks crossed between records (of `nn.ReLU`, `nn.LeakyReLU`,
            `nn.PReLU` and the functions; NaN in a model without any). With dropout in train mode masks
            count as well.
        watch: Further numbers by name, each a function of the model, such as
            `{"data's bound": data_bound(landscape)}`, positive in the largest region.
        sink: Told of every record, such as `tensorboard_sink(writer)`.

    Cost of a record: two training steps' arithmetic where nearly all is affine maps, convolutions and
    batch norm, up to twice that elsewhere, and some 0.1 ms for each operation of other kinds; with
    `backward` a training step's less. Steps between cost nothing.

    Example:
        >>> model = nn.Linear(1, 1, bias=False).double()
        >>> monitor = ConvexityMonitor(nn.MSELoss())
        >>> batch = torch.tensor([[1.0], [2.0]]).double(), torch.zeros(2, 1).double()
        >>> monitor.step(model, batch)
        >>> print(monitor.result().curvatures.round(9))  # H = 5, so 2 g H g / g^2 = 10
        [10.]
    """

    def __init__(
        self,
        loss: Objective | nn.Module | Landscape,
        *,
        every: int = 1,
        batch: Any = None,
        weight_decay: float = 0.0,
        rate: float | torch.optim.Optimizer | None = None,
        crossings: bool = False,
        watch: Mapping[str, Callable[[nn.Module], float]] | None = None,
        sink: Sink | None = None,
    ) -> None:
        if not callable(loss) and not isinstance(loss, Landscape):
            raise InputError(
                "loss must be a function of model and batch, a criterion or a Landscape; received"
                f" {loss!r}"
            )
        self.every = check_whole(every, "every", 1)
        self.weight_decay = check_decay(weight_decay)
        self._landscape = loss if isinstance(loss, Landscape) else None
        if self._landscape is not None:
            if batch is not None or weight_decay:
                raise InputError(
                    "a landscape has its own data and weight decay: drop batch and weight_decay"
                )
            self.weight_decay = self._landscape.weight_decay
        if crossings and batch is None and self._landscape is None:
            raise InputError(
                "crossings are counted on one batch: give batch=, or a Landscape as loss"
            )
        check_told(sink, "sink")
        self._membership = Membership(loss) if isinstance(loss, Landscape) else None
        self._objective: Objective = (
            loss if not isinstance(loss, (nn.Module, Landscape)) else _criterion(loss)
        )
        self._batch = batch
        self._rate = _checked_rate(rate)
        self._crossings = crossings
        self._watch = _checked_watch(watch)
        self._sink = sink
        self._records = _Records()
        self._shapes: tuple[torch.Size, ...] | None = None
        self._pattern: torch.Tensor | None = None
        self._calls, self._steps, self._time, self._spent = 0, 0, 0.0, 0.0
        self._began: float | None = None
        self._ended = 0.0

    def step(self, model: nn.Module, batch: Any = None, *, number: int | None = None) -> None:
        """Record the model's present weights, if it is this step's turn.

        Args:
            model: The model that is trained; the same at every step.
            batch: The step's batch, as `loss` of the constructor takes it; not needed with a fixed one.
            number: Number of the step, no less than the next (default: the next).

        Raises:
            InputError: No batch, an empty one, a model of other shapes than before, a loss that is no
                scalar or does not depend on the parameters.
            AnalysisError: An operation without a second derivative.
        """
        with self._counted(number) as due:
            if due:
                self._record(_plain(model), *self._look(_plain(model), batch))

    def backward(self, model: nn.Module, loss: torch.Tensor) -> None:
        """In place of `loss.backward()`: leave the same gradients, and record if it is this step's turn.

        The cheapest way to record a step's own batch, because forward and backward pass serve both.
        Parameters' `.grad` are added to as `backward` does; other leaves, and hooks on the accumulation
        of gradients (as of DistributedDataParallel), are left out at recorded steps: use `step` there.

        Args:
            model: The model that is trained.
            loss: The step's loss, a scalar; what the monitor's own loss would give.

        Raises:
            InputError: The monitor has a fixed batch or a landscape, or as `step`.
            AnalysisError: An operation without a second derivative.
        """
        if self._source() != "own":
            raise InputError(
                "backward records the step's own loss: use step, or give no batch or landscape"
            )
        with self._counted(None) as due:
            if not due:
                loss.backward()  # type: ignore[no-untyped-call]
                return
            plain = _plain(model)
            self._check_model(plain)
            trained = _trained(plain)
            keep = partial(_accumulate, trained)
            found = along_gradient(loss, trained, self.weight_decay, keep=keep)
            free(loss, trained)
            self._record(plain, found, None)

    def result(self) -> Trajectory:
        """What was recorded so far.

        Raises:
            InputError: Nothing was.
        """
        kept = self._records
        if not kept.steps:
            raise InputError(
                "nothing was recorded: call step(model, batch) in the training loop first"
            )
        return Trajectory(
            steps=np.array(kept.steps, dtype=np.int64),
            times=np.array(kept.times),
            losses=np.array([one.loss for one in kept.found]),
            squared_gradients=np.array([one.squared_gradient for one in kept.found]),
            curvatures=np.array([one.curvature for one in kept.found]),
            crossed=np.array(kept.crossed),
            in_region=np.array([one[0] for one in kept.inside]),
            in_sharp_region=np.array([one[1] for one in kept.inside]),
            extras=tuple(self._watch),
            watched=np.array(kept.watched).reshape(len(kept.steps), len(self._watch)),
            weight_decay=self.weight_decay,
            batch=self._source(),
            share=self._spent / max(self._ended - (self._began or 0.0), 1e-12),
        )

    # ---- private -----------------------------------------------------------------------------

    def _source(self) -> str:
        """What the records are about."""
        if self._landscape is not None:
            return "landscape"
        return "own" if self._batch is None else "fixed"

    @contextmanager
    def _counted(self, number: int | None) -> Iterator[bool]:
        """One step: whether it is to be recorded, and what it takes."""
        begin = perf_counter()
        self._began = begin if self._began is None else self._began
        if number is not None:
            self._steps = check_whole(number, "number", self._steps)
        try:
            yield self._calls % self.every == 0
        finally:
            self._calls += 1
            self._steps += 1
            self._time += self._step_size()
            self._ended = perf_counter()
            self._spent += self._ended - begin

    def _look(self, model: nn.Module, batch: Any) -> tuple[AlongGradient, torch.Tensor | None]:
        """Evaluate, and on which sides of the kinks the batch lies."""
        self._check_model(model)
        if self._landscape is not None:
            return self._on_landscape(model, self._landscape)
        return self._on_batch(model, batch)

    def _record(self, model: nn.Module, found: AlongGradient, pattern: torch.Tensor | None) -> None:
        """Keep and tell."""
        crossed = self._crossed(pattern)
        inside = UNKNOWN if self._membership is None else self._membership(model, found.loss)
        watched = [float(look(model)) for look in self._watch.values()]
        kept = self._records
        kept.steps.append(self._steps)
        kept.times.append(self._time)
        kept.found.append(found)
        kept.crossed.append(crossed)
        kept.inside.append(inside)
        kept.watched.append(watched)
        if self._sink is not None:
            numbers = {
                "loss": found.loss,
                "squared_gradient": found.squared_gradient,
                "normalised_second_derivative": found.curvature,
            }
            told = dict(zip(("kinks_crossed", *REGIONS), (crossed, *inside), strict=True))
            numbers |= {name: value for name, value in told.items() if not np.isnan(value)}
            self._sink(self._steps, numbers | dict(zip(self._watch, watched, strict=True)))

    def _on_batch(self, model: nn.Module, batch: Any) -> tuple[AlongGradient, torch.Tensor | None]:
        """The model itself, undisturbed."""
        chosen = batch if self._batch is None else self._batch
        _check_batch(chosen)
        sides = Sides() if self._crossings else None
        with undisturbed(model, list(_tensors(chosen))):
            if sides is None:
                value = self._objective(model, chosen)
            else:
                with sides:
                    value = self._objective(model, chosen)
            found = along_gradient(value, _trained(model), self.weight_decay)
        return found, None if sides is None else sides.pattern()

    def _on_landscape(
        self, model: nn.Module, landscape: Landscape
    ) -> tuple[AlongGradient, torch.Tensor | None]:
        """The landscape's own copy of the model, with this one's weights and running statistics."""
        state = landscape.state_of(model)
        trained = [name for name, p in model.named_parameters() if p.requires_grad]
        leaves = [state[name].requires_grad_() for name in trained]
        sides = Sides() if self._crossings else None
        with torch.inference_mode(False), torch.enable_grad():
            if sides is None:
                value = landscape.loss_of(state)
            else:
                with sides:
                    value = landscape.loss_of(state)
            found = along_gradient(value, leaves)
        return found, None if sides is None else sides.pattern()

    def _crossed(self, pattern: torch.Tensor | None) -> float:
        """Kinks whose side changed since the last record; NaN at the first and where none are counted."""
        before, self._pattern = self._pattern, pattern
        if pattern is None or before is None or not len(pattern):
            return float("nan")
        if pattern.shape != before.shape:
            raise InputError(
                f"expected {len(before)} rectified values on the batch as before; received"
                f" {len(pattern)}: the model or the batch has changed"
            )
        return float((pattern != before).sum())

    def _check_model(self, model: nn.Module) -> None:
        """Refuse a model without parameters to train, and another one than before."""
        if not isinstance(model, nn.Module):
            raise InputError(f"model must be a torch.nn.Module; received {type(model).__name__}")
        if any(is_lazy(p) for p in model.parameters()):
            raise InputError("the model has parameters without a shape yet: run it once before")
        if not _trained(model):
            raise InputError("model must have parameters that require a gradient; it has none")
        shapes = tuple(p.shape for p in model.parameters())
        if self._shapes is not None and shapes != self._shapes:
            raise InputError(
                f"the model's parameters must keep number and shapes; they were {_told(self._shapes)} and"
                f" are {_told(shapes)}: use another monitor for another model"
            )
        self._shapes = shapes

    def _step_size(self) -> float:
        """Size of the step that is being made."""
        if isinstance(self._rate, torch.optim.Optimizer):
            return float(self._rate.param_groups[0]["lr"])
        return float("nan") if self._rate is None else float(self._rate)


def _checked_rate(
    rate: float | torch.optim.Optimizer | None,
) -> float | torch.optim.Optimizer | None:
    """A size of steps, or what has it."""
    if rate is None or isinstance(rate, torch.optim.Optimizer):
        return rate
    if isinstance(rate, (int, float)) and np.isfinite(rate) and rate >= 0:
        return float(rate)
    raise InputError(f"rate must be a number of at least 0 or an optimizer; received {rate!r}")


def _checked_watch(
    watch: Mapping[str, Callable[[nn.Module], float]] | None,
) -> dict[str, Callable[[nn.Module], float]]:
    """Names and functions."""
    if watch is None:
        return {}
    if not isinstance(watch, Mapping) or not all(map(callable, watch.values())):
        raise InputError(
            f"watch must have a function of the model by each name; received {watch!r}"
        )
    return dict(watch)


def _criterion(criterion: nn.Module | Landscape) -> Objective:
    """A criterion of outputs and targets as a loss of model and batch."""

    def objective(model: nn.Module, batch: Any) -> torch.Tensor:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise InputError(
                "with a criterion the batch must be a pair (inputs, targets); received"
                f" {type(batch).__name__}: give a function loss(model, batch) instead"
            )
        value: torch.Tensor = criterion(model(batch[0]), batch[1])  # type: ignore[operator]
        return value

    return objective


def _plain(model: nn.Module) -> nn.Module:
    """The module inside `torch.compile`, whose kernels have no second derivative."""
    inside: nn.Module = getattr(model, "_orig_mod", model)
    return inside


def _trained(model: nn.Module) -> Sequence[nn.Parameter]:
    """Parameters that require a gradient."""
    return [p for p in model.parameters() if p.requires_grad]


def _accumulate(parameters: Sequence[torch.Tensor], slopes: Sequence[torch.Tensor | None]) -> None:
    """What `backward` does to `.grad`."""
    for parameter, slope in zip(parameters, slopes, strict=True):
        if slope is None:
            continue
        if parameter.grad is None:
            parameter.grad = slope.clone()
        else:
            parameter.grad += slope


def _check_batch(batch: Any) -> None:
    """Refuse none and an empty one."""
    if batch is None:
        raise InputError("expected a batch: call step(model, batch), or give the monitor batch=")
    empty = [tuple(one.shape) for one in _tensors(batch) if one.ndim and len(one) == 0]
    if empty:
        raise InputError(f"the batch must have samples; received a tensor of shape {empty[0]}")


def _tensors(batch: Any) -> Iterator[torch.Tensor]:
    """The tensors of a nested batch."""
    if isinstance(batch, torch.Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for one in batch.values():
            yield from _tensors(one)
    elif isinstance(batch, (tuple, list)):
        for one in batch:
            yield from _tensors(one)


def _told(shapes: Sequence[torch.Size]) -> str:
    """Shapes in words."""
    return ", ".join(str(tuple(shape)) for shape in shapes)
