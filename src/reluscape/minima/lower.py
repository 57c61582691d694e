"""Whether a genuine minimum is a bad one: descents from drawn weights, in search of a lower loss.

What is found is an upper bound on the least loss, attained at weights that are kept; that nothing lower
is found proves nothing. Inputs are whitened, `[X, 1] = C B` with `C^T C = samples`, so that neither the
size nor the correlation of their columns matters, and weights `w = q B^+` are drawn and descended in q.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from reluscape.block import Block
from reluscape.landscape import Landscape
from reluscape.minima.result import CellMinimum
from reluscape.minima.told import SAME, loss_size
from reluscape.minima.units import RANK, row_space
from reluscape.nearby import in_theta_order
from reluscape.piecewise import Piecewise

Floats = NDArray[np.float64]

#: Steps of L-BFGS from each start, and the pairs that it remembers.
STEPS, PAIRS = 300, 30
#: Evaluations of the loss that all steps of a start may take: this many multiplications' worth, about a
#: second, but never fewer than `LEAST`.
WORK, LEAST = 2e9, 30
#: Size of the move away from a point, relative to each unit's weights.
AWAY = 1.0


def with_lower_loss(
    found: CellMinimum, subject: Landscape | Block, starts: int, seed: int
) -> CellMinimum:
    """Call a genuine minimum bad if a descent from one of several starts ends lower.

    Starts are drawn, and moved away from the point that was asked about, in turn: so they are the same
    whatever signs were allowed. All of them are descended, and the lowest end is kept: the loss there is
    `better_loss`, evaluated at the weights as they are kept.

    Args:
        found: The answer; returned as it is unless it is a minimum of which nothing is known.
        subject: What it is about.
        starts: How many descents.
        seed: Of the starts.

    Cost: `STEPS` forward and backward passes for each start, fewer where a pass is long (`WORK`).
    """
    if not found.genuine or found.bad is not None or not starts:
        return found
    rng = np.random.default_rng(seed)
    with threadpool_limits(1, user_api="blas"):  # so that the end depends on the seed alone
        search = _of_block(subject) if isinstance(subject, Block) else _of_landscape(subject, found)
        ends = [search.end(search.start(found.start, number, rng)) for number in range(starts)]
    losses = [subject.loss(end) for end in ends]
    least = int(np.argmin(losses))
    first = subject if isinstance(subject, Block) else subject.block(0)
    if not losses[least] < found.loss - SAME * loss_size(first):
        return found
    return replace(found, bad=True, better=ends[least], better_loss=losses[least])


@dataclass(frozen=True, slots=True)
class _Inputs:
    """Whitened inputs of a layer.

    Attributes:
        scores: C (samples, rank).
        back: A unit's weights by its q (inputs + bias, rank).
        forth: A unit's q by its weights (rank, inputs + bias).
    """

    scores: Floats
    back: Floats
    forth: Floats

    @classmethod
    def of(cls, piecewise: Piecewise) -> _Inputs:
        """Take the row space, of scores whose mean square is one."""
        features, scores, back, forth = row_space(piecewise)
        scale = len(features) ** 0.5
        return cls(scale * scores, scale * back, forth.T / scale)


@dataclass(frozen=True, slots=True)
class _Search:
    """A loss as a function of a layer's q, and of what else may move.

    Attributes:
        inputs: Of the layer.
        width: Its units.
        loss: Loss and gradient at (q, others), flat.
        others: What else belongs to q as drawn (units, rank), flat.
        coordinates: q and others, flat, of parameters.
        theta: Parameters of those.
        work: Multiplications of an evaluation.
    """

    inputs: _Inputs
    width: int
    loss: Callable[[Floats], tuple[float, Floats]]
    others: Callable[[Floats], Floats]
    coordinates: Callable[[Floats], Floats]
    theta: Callable[[Floats], Floats]
    work: float

    def start(self, point: Floats, number: int, rng: np.random.Generator) -> Floats:
        """Drawn weights, or every other time the point with its layer moved."""
        drawn = rng.normal(size=(self.width, self.inputs.scores.shape[1]))
        if number % 2 == 0:
            return np.concatenate([drawn.ravel(), self.others(drawn)])
        start = self.coordinates(point)
        layer = start[: drawn.size].reshape(drawn.shape)
        layer += AWAY * np.sqrt((layer**2).mean(axis=1, keepdims=True)) * drawn
        return start

    def end(self, start: Floats) -> Floats:
        """Where L-BFGS ends, as parameters; at kinks, where it may halt, that is as good as any."""
        passes = int(np.clip(WORK / self.work, LEAST, 2 * STEPS))
        options = {"maxiter": STEPS, "maxfun": passes, "maxcor": PAIRS, "ftol": 1e-12, "gtol": 1e-9}
        found = minimize(self.loss, start, jac=True, method="L-BFGS-B", options=options)
        return self.theta(found.x)


def _of_block(block: Block) -> _Search:
    """One layer; drawn weights have the size of its own."""
    inputs = _Inputs.of(block.piecewise)
    rank = inputs.scores.shape[1]
    white = replace(block.piecewise, features=inputs.scores, bias=False)
    units = block.num_kinks // block.num_samples

    def coordinates(theta: Floats) -> Floats:
        weight, bias = block.piecewise.unpack(theta)
        rows = weight if bias is None else np.hstack([weight, bias[:, None]])
        return np.asarray((rows @ inputs.forth.T).ravel())

    def back(q: Floats) -> Floats:
        return in_theta_order(q.reshape(-1, rank) @ inputs.back.T, bias=block.piecewise.bias)

    return _Search(
        inputs=inputs,
        width=white.width,
        loss=lambda q: (white.value(q), white.gradient(q)),
        others=lambda _: np.empty(0),
        coordinates=coordinates,
        theta=back,
        work=6.0 * block.num_samples * (white.num_params + units**2),
    )


def _of_landscape(landscape: Landscape, found: CellMinimum) -> _Search:
    """First layer and output weights; to drawn weights belong those outputs that fit best."""
    block, positions = landscape.block(0), landscape.positions
    first, last = positions(landscape.layers[0]), positions(landscape.layers[1])
    layer, width = _of_block(block), block.piecewise.width
    scores, slope = layer.inputs.scores, block.piecewise.slopes[0]
    size, rank = width * scores.shape[1], scores.shape[1]
    wanted = landscape.targets - found.start[last[width:]].sum()
    piecewise = block.piecewise

    def hidden(q: Floats) -> tuple[Floats, Floats]:
        values = scores @ q.reshape(width, rank).T
        active = np.where(values > 0, 1.0, slope)
        return values * active, active

    def loss(point: Floats) -> tuple[float, Floats]:
        q, outputs = point[:size], point[size:]
        units, active = hidden(q)
        fitted = units @ outputs[:, None]
        pull = piecewise.loss.slope(fitted, wanted)
        layers = (active * pull * outputs).T @ scores, units.T @ pull
        return piecewise.loss.value(fitted, wanted), np.concatenate([x.ravel() for x in layers])

    def fitting(q: Floats) -> Floats:
        return np.asarray(np.linalg.lstsq(hidden(q.ravel())[0], wanted, rcond=RANK)[0].ravel())

    def theta(point: Floats) -> Floats:
        whole = found.start.copy()
        whole[first], whole[last[:width]] = layer.theta(point[:size]), point[size:]
        return whole

    return _Search(
        inputs=layer.inputs,
        width=width,
        loss=loss,
        others=fitting,
        coordinates=lambda at: np.append(layer.coordinates(at[first]), at[last[:width]]),
        theta=theta,
        work=6.0 * landscape.num_samples * size,
    )
