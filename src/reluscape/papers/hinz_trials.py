"""The trials of `reproduce hinz`: random instances descended by both rules, and training runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from reluscape.block import Block
from reluscape.certificate import MINIMA
from reluscape.data import load_data
from reluscape.descent import Descent, descend
from reluscape.descent.forecast import Forecast, forecast_losses
from reluscape.descent.phases import Phases, running_mean
from reluscape.landscape import Landscape
from reluscape.train import mlp

Floats = NDArray[np.float64]

#: The published protocol.
SAMPLES, RANGE, START = 500, 3.0, 20.0
#: Rules of `descend`; Hinz's is the first.
RULES = ("first_kink", "long_step")
#: Shares of a path from which its end is forecast.
FRACTIONS = (0.1, 0.25, 0.5, 0.75, 0.9)
#: Ours, and what it has to beat: the last value seen, and least-squares fits of c + a exp(-rate k).
PREDICTORS = ("forecast", "last value", "fit to all", "fit to the last half", "fit to the last 40")
#: Places along the path at which the way to the next kink is measured, and in how many directions.
PLACES, DIRECTIONS = (0.1, 0.25, 0.5, 0.75, 1.0), 40
#: Points kept of a path.
KEPT = 500


def instance(widths: Sequence[int], layer: int, seed: int) -> Block:
    """A random network's layer with random data and a random start.

    Other layers are uniform in [-1, 1], inputs and targets in [-3, 3], the start in [-20, 20].
    """
    rng = np.random.default_rng(seed)
    model = mlp(widths, seed=0)
    linear = [module for module in model if isinstance(module, nn.Linear)]
    with torch.no_grad():
        for place, module in enumerate(linear):
            size = START if place == layer else 1.0
            for part in module.parameters():
                part.copy_(torch.from_numpy(rng.uniform(-size, size, tuple(part.shape))))
    inputs = rng.uniform(-RANGE, RANGE, (SAMPLES, widths[0]))
    targets = rng.uniform(-RANGE, RANGE, (SAMPLES, widths[-1]))
    return Landscape(model, inputs, targets, loss="l1").block(layer)


def descents(parameters: dict[str, Any], seed: int) -> dict[str, Any]:
    """One instance descended by both rules from the same start.

    Args:
        parameters: `widths`, `layer`, `instance` (its number) and `runs` (1).
        seed: Of the instance.

    Returns:
        For both rules the pivots, the end and its loss; for the published one the phases. Arrays, for
        both rules: `errors_<rule>` (predictors, fractions), relative errors of the forecast final loss,
        and `covered_<rule>` (fractions,), whether the interval holds it. For the published rule:
        `path` (4, points), pivot, loss, running mean and distance to the end; `split` (1,), the pivot at
        which the exponential phase ends, NaN where nothing follows it; and `clearances` (places,).
    """
    block = instance(parameters["widths"], parameters["layer"], seed)
    found: dict[str, Any] = {"plateau_start": not block.gradient().any()}
    for rule in RULES:
        descent = descend(block, rule=rule)
        found |= {
            f"pivots_{rule}": descent.num_pivots,
            f"loss_{rule}": descent.loss,
            f"certified_{rule}": descent.certificate.claim in MINIMA,
            f"plateau_{rule}": descent.status == "plateau",
            f"undecided_{rule}": descent.status == "undecided",
        }
        moved = descent.losses[-1] < descent.losses[0]
        if moved:
            errors, covered = forecast_errors(descent)
            found |= {f"errors_{rule}": errors, f"covered_{rule}": covered}
        if moved and rule == RULES[0]:
            phases = descent.phases()
            split = phases.split if phases.split < phases.last else np.nan
            found |= _phases(phases) | {"split": np.array([split])}
            found |= {"path": _path(descent), "clearances": clearances(descent, block)}
    return found


def forecast_errors(descent: Descent) -> tuple[Floats, Floats]:
    """Relative errors of the final loss by every predictor, and whether our interval holds it."""
    end = descent.loss
    errors, covered = np.empty((len(PREDICTORS), len(FRACTIONS))), np.empty(len(FRACTIONS))
    for place, fraction in enumerate(FRACTIONS):
        forecast = descent.forecast(fraction)
        seen = descent.losses[: forecast.seen]
        guesses = np.array([forecast.loss, seen[-1], *fits(seen)])
        errors[:, place] = np.abs(guesses - end) / end if end > 0 else np.nan
        covered[place] = _holds(forecast, end)
    return errors, covered


def _holds(forecast: Forecast, end: float) -> float:
    """Whether the interval holds the end, rounding aside."""
    low, high = forecast.interval
    slack = 1e-12 * (1.0 + abs(end))
    return float(low - slack <= end <= high + slack)


def fits(seen: Floats, ahead: float = np.inf) -> list[float]:
    """What exponential fits to all, to the last half and to the last 40 values foretell."""
    lengths = (len(seen), max(len(seen) // 2, 4), 40)
    return [fitted(seen[-length:], ahead) for length in lengths]


def fitted(values: Floats, ahead: float = np.inf) -> float:
    """Least-squares fit of c + a exp(-rate k) to the values, `ahead` places after the last of them.

    The rate is searched on a grid from 0.05 to 50 per stretch of values; the result is clipped to
    [0, last value].
    """
    count, last = len(values), float(values[-1])
    if count < 4:
        return last
    rates = np.geomspace(0.05, 50.0, 80)[:, None] / count
    curves = np.exp(-rates * np.arange(count))
    centred = curves - curves.mean(axis=1, keepdims=True)
    rest = values - values.mean()
    slopes = centred @ rest / (centred**2).sum(axis=1)
    squares = ((rest - slopes[:, None] * centred) ** 2).sum(axis=1)
    best = int(np.argmin(squares))
    level = values.mean() - slopes[best] * curves[best].mean()
    tail = slopes[best] * np.exp(-rates[best, 0] * (count - 1 + ahead))
    return float(np.clip(level + tail, 0.0, last))


def _phases(phases: Phases) -> dict[str, Any]:
    """Where the phases are and their rates, as numbers of the record."""
    length = max(phases.last - phases.first, 1)
    found: dict[str, Any] = {"exponential_share": (phases.split - phases.first) / length}
    for row, name in enumerate(("loss", "step", "distance")):
        for column, phase in enumerate(("exponential", "fine")):
            found[f"{phase}_{name}"] = float(phases.rates[row, column])
            found[f"{phase}_{name}_falls"] = float(phases.intervals[row, column, 0] > 0)
    return found


def _path(descent: Descent) -> Floats:
    """Pivot, loss, running mean of the step lengths and distance to the end at some 500 pivots."""
    kept = np.unique(np.linspace(1, descent.num_pivots, KEPT).astype(int))
    points = descent.vertices[np.minimum(kept // descent.stride, len(descent.vertices) - 1)]
    distances = np.linalg.norm(points - descent.theta, axis=1)
    means = running_mean(descent.step_lengths)
    return np.stack([kept, descent.losses[kept], means[kept - 1], distances])


def clearances(descent: Descent, block: Block) -> Floats:
    """Median way from a vertex to the next kink at five places along the path: short means dense."""
    return descent.density(block, shares=PLACES, num_directions=DIRECTIONS).medians


# ---- training runs ------------------------------------------------------------------------------


def training(parameters: dict[str, Any], seed: int) -> dict[str, Any]:
    """A run of stochastic gradient descent, its last epoch's mean loss forecast on the way.

    Args:
        parameters: `data`, `rate`, `epochs`, `instance` and `runs` (1).
        seed: Of weights and batches.

    Returns:
        `errors_sgd` (predictors, fractions), `covered_sgd` (fractions,), and the final level. Every
        predictor is told how many steps are still to come. The last value and the fits are those of the
        same block means that the forecast is made of.
    """
    losses, steps = _trained(parameters["data"], parameters["rate"], parameters["epochs"], seed)
    end = float(losses[-steps:].mean())
    errors, covered = np.empty((len(PREDICTORS), len(FRACTIONS))), np.empty(len(FRACTIONS))
    for place, fraction in enumerate(FRACTIONS):
        seen = losses[: int(np.ceil(fraction * len(losses)))]
        ahead = len(losses) - len(seen) - steps // 2  # to the middle of the last epoch
        forecast = forecast_losses(seen, horizon=max(ahead, 0))
        size = -(-len(seen) // 64)
        blocks = seen[len(seen) % size :].reshape(-1, size).mean(axis=1)
        guesses = np.array([forecast.loss, blocks[-1], *fits(blocks, max(ahead, 0) / size)])
        errors[:, place] = np.abs(guesses - end) / end
        covered[place] = _holds(forecast, end)
    return {"end": end, "steps": len(losses), "errors_sgd": errors, "covered_sgd": covered}


def _trained(name: str, rate: float, epochs: int, seed: int) -> tuple[Floats, int]:
    """Minibatch losses of plain stochastic gradient descent, and the steps of an epoch."""
    data = load_data(name, standardise=True)
    inputs, labels = torch.from_numpy(data.inputs), torch.from_numpy(data.targets)
    model = mlp((inputs.shape[1], 16, 16, int(labels.max()) + 1), seed=seed % 2**31)
    generator = torch.Generator().manual_seed(seed % 2**31)
    optimiser = torch.optim.SGD(model.parameters(), lr=rate)
    losses, steps = [], -(-len(inputs) // 32)
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(inputs), generator=generator), 32):
            loss = nn.functional.cross_entropy(model(inputs[batch]), labels[batch])
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            losses.append(float(loss.detach()))
    return np.array(losses), steps
