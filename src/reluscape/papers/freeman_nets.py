"""The small networks of `reproduce freeman` on polynomials, many of them at once."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from reluscape.errors import AnalysisError
from reluscape.landscape import Landscape
from reluscape.strings.training import Adam

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: The published targets, on [0, 1], by their coefficients from the constant on.
POLYNOMIALS = {"quadratic": (0.1, 0.25, 0.5), "cubic": (0.0, 3.0, -10.0, 8.0)}
#: Steps that an end or a bead gets, and times that initial weights are drawn for all ends.
STEPS, DRAWS = 20_000, 4
#: A network whose best loss has not fallen by this share in so many steps is given up: a ReLU network
#: that puts out a constant stays there for ever.
FALL, PATIENCE = 1e-4, 2_000


class Batch:
    """Losses and gradients of one network at many parameters, as products of batches of matrices.

    For networks this small the batching of whole modules (`torch.func.vmap`) takes most of the time.

    Args:
        own: The landscape, of a sequence of linear layers and activations with one output.
    """

    def __init__(self, own: Landscape) -> None:
        self.landscape = own
        self._layers = list(own.module_at().children())
        self._inputs = torch.from_numpy(np.ascontiguousarray(own.inputs.T))
        self._targets = torch.from_numpy(own.targets.ravel().copy())

    def losses(self, rows: torch.Tensor) -> torch.Tensor:
        """The mean absolute error at each row of (models, params)."""
        values = self._inputs.expand(len(rows), *self._inputs.shape)
        at = 0
        for layer in self._layers:
            if isinstance(layer, nn.Linear):
                shape = (len(rows), *layer.weight.shape)
                size = layer.weight.numel()
                values = torch.bmm(rows[:, at : at + size].reshape(shape), values)
                at += size
                if layer.bias is not None:
                    values = values + rows[:, at : at + shape[1], None]
                    at += shape[1]
            else:
                values = layer(values)
        return (values[:, 0] - self._targets).abs().mean(dim=1)

    def slopes(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses (models,) and gradients (models, params)."""
        leaf = rows.detach().requires_grad_()
        losses = self.losses(leaf)
        (gradients,) = torch.autograd.grad(losses.sum(), leaf)
        return losses.detach(), gradients

    def along(self, starts: Floats, stops: Floats, positions: Floats) -> Floats:
        """Losses on straight segments (segments, positions)."""
        points = starts[:, None] + positions[:, None] * (stops - starts)[:, None]
        with torch.no_grad():
            return np.stack([self.losses(torch.from_numpy(one)).numpy() for one in points])


def network(task: str, name: str) -> nn.Sequential:
    """The network of a task.

    "relu" is the draft's, with biases and a linear output; "sigmoid" the same with sigmoids, which is
    that of the cubic script; "bare" that of the quadratic script: sigmoids, on the output as well,
    and no biases.
    """
    bias = name != "bare"
    act = nn.ReLU if name == "relu" else nn.Sigmoid
    layers: list[nn.Module] = [nn.Linear(1, 4, bias), act(), nn.Linear(4, 4, bias), act()]
    layers += [nn.Linear(4, 1, bias)] + ([nn.Sigmoid()] if name == "bare" else [])
    return nn.Sequential(*layers).double()


def landscape(task: str, name: str, samples: int) -> Landscape:
    """The mean absolute error of a network on a polynomial."""
    inputs = ((np.arange(samples) + 0.5) / samples)[:, None]
    targets = np.polynomial.polynomial.polyval(inputs, POLYNOMIALS[task])
    return Landscape(network(task, name), inputs, targets, loss="l1")


def is_weight(own: Landscape) -> Bools:
    """Which parameters are weights rather than biases (params,)."""
    named = own.module_at().named_parameters()
    return np.concatenate([np.full(p.numel(), not name.endswith("bias")) for name, p in named])


def trained_ends(
    batch: Batch, count: int, level: float, rate: float, seed: int
) -> tuple[Floats, int]:
    """Networks below a level (count, params), and how many did not get there and were drawn again.

    Weights start uniform in [-1, 1] and biases standard normal, as in the scripts. There are fewer
    networks, an even number, where so many draws of as many do not yield more.
    """
    rng = np.random.default_rng(seed)
    weights = is_weight(batch.landscape)
    found, failed = np.empty((0, len(weights))), 0
    for _ in range(DRAWS):
        shape = (count, len(weights))
        starts = np.where(weights, rng.uniform(-1.0, 1.0, shape), rng.normal(size=shape))
        ends, reached = train_to(batch, starts, level, rate=rate)
        found, failed = np.concatenate([found, ends[reached]]), failed + int((~reached).sum())
        if len(found) >= count:
            break
    kept = min(count, len(found) // 2 * 2)
    if not kept:
        raise AnalysisError(f"of {count * DRAWS} networks {len(found)} reached the level {level:g}")
    return found[:kept], failed


def train_to(batch: Batch, starts: Floats, goal: float, rate: float) -> tuple[Floats, Bools]:
    """Adam with all samples from each row of (models, params) until its loss is below the goal."""
    rows = torch.from_numpy(starts.copy())
    ends, reached = starts.copy(), np.zeros(len(starts), dtype=bool)
    active = np.arange(len(starts))
    adam = Adam((len(rows), rows.shape[1]), rate, rows.device)
    best = torch.full((len(rows),), torch.inf, dtype=torch.float64)
    marked = best
    for step in range(STEPS):
        losses, gradients = batch.slopes(rows)
        best = torch.minimum(best, losses)
        done = losses < goal
        leaving = done.clone()
        if step % PATIENCE == 0:
            leaving |= best > (1.0 - FALL) * marked
            marked = best
        if leaving.any():
            ends[active[leaving.numpy()]] = rows[leaving].numpy()
            reached[active[done.numpy()]] = True
            kept = torch.nonzero(~leaving)[:, 0]
            active, rows, gradients = active[kept.numpy()], rows[kept], gradients[kept]
            best, marked = best[kept], marked[kept]
            adam.keep(kept)
            if not len(active):
                break
        rows = rows - adam.step(gradients)
    ends[active] = rows.numpy()
    return ends, reached
