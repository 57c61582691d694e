"""The trials of `reproduce liu`: cells of Gaussian data and of images, descents inside a cell, chords.

Numbers of equations and sections are those of B. Liu, Understanding global loss landscape of
one-hidden-layer ReLU networks, part 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.landscape import Landscape
from reluscape.minima.check import check_minimum
from reluscape.minima.find import cell_minimum
from reluscape.minima.result import Signs
from reluscape.papers.liu_data import cell_images, pair_of
from reluscape.train import mlp

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: Columns of the array `draws`: genuine under the three conventions (1, 0; NaN where it was not decided),
#: whether the minimisers are many, the largest gap and the share of active states.
COLUMNS = ("uniform", "given", "free", "continuous", "gap", "active")
#: The conventions, in the same order.
CONVENTIONS: tuple[Signs, ...] = ("uniform", "given", "free")
#: The paper's gradient descent (section V-A).
STEP, THRESHOLD = 1e-6, 1e-3
#: What becomes of such a run.
CROSSED, TRAPPED, LIMIT = 0, 1, 2
#: Fitted values this close to zero (targets are 1 or -1) may be rounding, and exclude nothing.
CLEAR = 1e-6
#: Singular values below this share of the largest are zero.
RANK = 1e-10


# ---- Gaussian data: tables I to III ----------------------------------------------------------------


def gaussian(parameters: dict[str, Any], seed: int) -> dict[str, Any]:
    """Cells of random weights on one set of Gaussian samples (section IV).

    Half of the samples have label 1 and mean 1 on the first axis, half -1 and -1; covariances are one.
    The weights are standard normal with the bias's among them, and the bias is then added to it.

    Args:
        parameters: `features`, `units`, `samples`, `bias`, `dataset` (number of the data set), `runs`
            (draws of the weights), `programs` (of how many of them signs that are given are asked about)
            and `search` (of how many free ones).
        seed: Of weights and output weights.

    Returns:
        `draws` (runs, `COLUMNS`); how many answers under free signs were given up, and how many answers
        a check without a solver did not accept.

    Cost: a least-squares problem of samples x units (features + 1) per draw, and what `cell_minimum`
    takes: 40 ms with 10 units, 2,000 samples and 3 features; with 50, 400 and 10 a second for given and
        half a minute for free signs.
    """
    features, units, bias = (parameters[name] for name in ("features", "units", "bias"))
    inputs, labels = samples_of(features, parameters["samples"], parameters["dataset"])
    landscape = _landscape(units, inputs, labels)
    rng = np.random.default_rng(seed)
    rows, given_up, unverified = [], 0, 0
    for number in range(parameters["runs"]):
        weights, outputs = draw(rng, units, features, bias)
        least = LeastSquares.of(inputs, labels, weights)
        ruled_out = least.ruled_out(outputs)
        given, free = number < parameters["programs"], number < parameters["search"]
        asked: dict[Signs, bool] = {"uniform": True, "given": given, "free": free}
        genuine, rejected = decide(landscape, theta_of(weights, outputs), ruled_out, asked)
        unverified += rejected
        given_up += int(asked["free"] and np.isnan(genuine[2]))
        rows.append([*genuine, least.continuous, least.gap, least.pattern.mean()])
    found = np.array(rows, dtype=np.float64)
    return {"given_up": given_up, "unverified": unverified, "draws": found}


@lru_cache(maxsize=2)
def samples_of(features: int, samples: int, dataset: int) -> tuple[Floats, Floats]:
    """A Gaussian data set: inputs (samples, features) and labels (samples,)."""
    rng = np.random.default_rng([2020, features, samples, dataset])
    labels = np.where(np.arange(samples) < samples // 2, 1.0, -1.0)
    inputs = rng.normal(size=(samples, features))
    inputs[:, 0] += labels
    return inputs, labels


def draw(rng: np.random.Generator, units: int, features: int, bias: float) -> tuple[Floats, Floats]:
    """Weights (units, features + 1) with the bias last, and output weights (units,)."""
    weights = rng.normal(size=(units, features + 1))
    weights[:, -1] += bias
    return weights, rng.normal(size=units)


def theta_of(weights: Floats, outputs: Floats) -> Floats:
    """The landscape's parameters; the output bias is zero."""
    return np.concatenate([weights[:, :-1].ravel(), weights[:, -1], outputs, [0.0]])


def augmented(inputs: Floats) -> Floats:
    """Inputs with a column of ones for the bias."""
    return np.hstack([inputs, np.ones((len(inputs), 1))])


def _landscape(units: int, inputs: Floats, labels: Floats) -> Landscape:
    """The paper's network and loss (1)."""
    return Landscape(mlp((inputs.shape[1], units, 1), seed=0), inputs, labels[:, None])


class LeastSquares:
    """The minimiser of least norm `R* = A^+ y` of a cell's loss (3).

    Attributes:
        pattern: Active states I (samples, units).
        fitted: `A R*` (samples,), the same for all minimisers.
        continuous: Whether there are other minimisers: rank A below units x (features + 1).
        gap: The paper's P_g (18): the largest, over units, share of samples that lie between the cell
            and `w* = R*_j`, which is to say that their activation (6) by R*_j is another than by w_j.
    """

    def __init__(self, rows: Floats, labels: Floats, weights: Floats) -> None:
        self.pattern: Bools = rows @ weights.T > 0
        alive = self.pattern.any(axis=0)
        derivatives = (self.pattern[:, alive, None] * rows[:, None, :]).reshape(len(rows), -1)
        best, rank = np.zeros(weights.shape), 0
        if alive.any():
            found, _, found_rank, _ = np.linalg.lstsq(derivatives, labels, rcond=RANK)
            rank = int(found_rank)
            best[alive] = found.reshape(-1, rows.shape[1])
        self.fitted: Floats = derivatives @ best[alive].ravel()
        self.continuous = bool(rank < weights.size)
        beyond = (rows @ best.T > 0) != self.pattern
        self.gap = float(beyond.mean(axis=0).max())

    @classmethod
    def of(cls, inputs: Floats, labels: Floats, weights: Floats) -> LeastSquares:
        """Solve it for inputs without the column of ones."""
        return cls(augmented(inputs), labels, weights)

    def ruled_out(self, outputs: Floats) -> tuple[bool, bool, bool]:
        """What the fitted values alone rule out: uniform, given and free signs.

        All minimisers have the same fitted values, and inside the cell every active unit contributes
        with the sign of its output weight: some active unit's must be that of the fitted value.
        """
        sign = np.where(np.abs(self.fitted) > CLEAR, np.sign(self.fitted), 0.0)
        sign *= self.pattern.any(axis=1)
        uniform = bool((sign > 0).any() and (sign < 0).any())
        with_ = (self.pattern & (np.sign(outputs) == sign[:, None])).any(axis=1)
        alone = self.pattern & (self.pattern.sum(axis=1) == 1)[:, None]
        plus, minus = ((alone & (sign == side)[:, None]).any(axis=0) for side in (1.0, -1.0))
        return uniform, bool((~with_ & (sign != 0)).any()), bool((plus & minus).any())


def decide(
    landscape: Landscape,
    theta: Floats,
    ruled_out: tuple[bool, bool, bool],
    asked: Mapping[Signs, bool],
) -> tuple[tuple[float, float, float], int]:
    """Whether the cell holds a genuine minimum under each convention: 1, 0, or NaN for undecided.

    Also how many of the answers `check_minimum` does not accept, which recomputes them without a solver.

    Signs that are uniform or given are among the free ones, so one answer can settle another. What is not
    asked stays undecided also where it would be known, so that the decided draws are a fair sample.
    """
    known, rejected = dict.fromkeys(CONVENTIONS, np.nan), 0
    out = dict(zip(CONVENTIONS, ruled_out, strict=True))
    for name in reversed(CONVENTIONS):
        if not asked[name]:
            continue
        if out[name] or known["free"] == 0.0:
            known[name] = 0.0
            continue
        found = cell_minimum(landscape, theta, signs=name)
        known[name] = np.nan if found.genuine is None else float(found.genuine)
        rejected += not check_minimum(found, landscape).valid
    if asked["free"] and 1.0 in known.values():
        known["free"] = 1.0
    return (known["uniform"], known["given"], known["free"]), rejected


# ---- images: tables IV and V -----------------------------------------------------------------------


def images(parameters: dict[str, Any], seed: int) -> dict[str, Any]:
    """Cells of random weights on 100 images of each of two classes, and descents from there (section V).

    Args:
        parameters: `source` ("mnist" or "cifar"), `folder`, `sha256` of the images, `units`, `bias`,
            `runs` and `steps` (of a descent, at most).
        seed: Of weights and output weights.

    Returns:
        `draws` (runs, `COLUMNS`), gaps NaN; how many answers are `unverified`; `ends` (runs, 2): what
        became of each descent, and after how many steps.
    """
    inputs, labels = pair_of(parameters["folder"], parameters["source"], parameters["sha256"])
    units = parameters["units"]
    landscape = _landscape(units, inputs, labels)
    rng = np.random.default_rng(seed)
    drawn = [
        draw(rng, units, inputs.shape[1], parameters["bias"]) for _ in range(parameters["runs"])
    ]
    rows, asked = augmented(inputs), dict.fromkeys(CONVENTIONS, True)
    values = np.stack([rows @ weights.T for weights, _ in drawn])
    draws, unverified = [], 0
    for (weights, outputs), here in zip(drawn, values, strict=True):
        genuine, rejected = decide(landscape, theta_of(weights, outputs), (False,) * 3, asked)
        unverified += rejected
        draws.append([*genuine, len(inputs) < weights.size, np.nan, (here > 0).mean()])
    outputs = np.stack([one for _, one in drawn])
    ends = descend_in_cell(rows @ rows.T, labels, values, outputs, parameters["steps"])
    found = np.array(draws, dtype=np.float64)
    return {"unverified": unverified, "draws": found, "ends": ends}


def descend_in_cell(
    products: Floats, labels: Floats, values: Floats, outputs: Floats, steps: int
) -> Floats:
    """The paper's gradient descent from many points at once, until a kink is crossed (23, 24).

    The weights move in the span of the inputs only, so that their switching values `V_j = X w_j` tell
    all: with `P = (2/N) (residual) I`, of shape (samples, units), and the pattern I of the start,

        dL/dw_j = z_j X^T P_j,   V_j <- V_j - step z_j X X^T P_j,   z_j <- z_j - step P_j . V_j.

    Args:
        products: `X X^T` with the bias's column of ones in X (samples, samples).
        labels: y (samples,).
        values: V at the start (runs, samples, units).
        outputs: z at the start (runs, units).
        steps: After which a run is given up.

    Returns:
        What became of each run, `CROSSED`, `TRAPPED` (the gradient by all weights is shorter than
        `THRESHOLD`, inside the cell) or `LIMIT`, and the steps it took; shape (runs, 2).

    Cost: samples^2 x units products per step and run that has not ended.
    """
    ends = np.full((len(values), 2), float(LIMIT))
    ends[:, 1] = steps
    going = np.arange(len(values))
    pattern, scale = values > 0, 2.0 / len(labels)
    for step in range(steps + 1):
        hidden = np.where(pattern, values, 0.0)
        residual = np.einsum("rnk,rk->rn", hidden, outputs) - labels
        pulls = scale * residual[:, :, None] * pattern
        moves = products @ pulls
        slopes = np.einsum("rnk,rnk->rk", pulls, values)
        square = np.einsum("rnk,rnk->rk", pulls, moves)
        still = np.sqrt((outputs**2 * square + slopes**2).sum(axis=1)) < THRESHOLD
        values = values - STEP * outputs[:, None, :] * moves
        crossed = ((values > 0) != pattern).any(axis=(1, 2)) & ~still
        ends[going[still]] = TRAPPED, step
        if step == steps:
            break
        ends[going[crossed]] = CROSSED, step + 1
        stays = ~(still | crossed)
        outputs = (outputs - STEP * slopes)[stays]
        going, values, pattern = going[stays], values[stays], pattern[stays]
        if not going.size:
            break
    return ends


# ---- chords: table VI ------------------------------------------------------------------------------


def chords(parameters: dict[str, Any], seed: int) -> dict[str, Any]:
    """Longest chords of one unit's cells at random weights (section VI).

    Args:
        parameters: `source` ("gaussian", "mnist" or "cifar"), `samples`, `dataset` and `runs` (weight
            vectors, with the bias among them, uniform in [-1/2, 1/2]); for Gaussian data `features`, for
            images `folder` and `sha256`.
        seed: Of weights and directions.

    Returns:
        `chords` (runs, 2): the longest of 10 d chords, and the same over the weight vector's length;
        infinite where a chord is open on a side. The directions are uniform in a cube, and all weight
        vectors of a trial share them.

    Cost: 10 d x d x samples products, and 10 d x samples for each weight vector.
    """
    if parameters["source"] == "gaussian":
        inputs = samples_of(parameters["features"], parameters["samples"], parameters["dataset"])[0]
    else:
        inputs = cell_images(parameters["folder"], parameters["source"], parameters["sha256"])
        inputs = inputs[: parameters["samples"]]
    rows = augmented(inputs)
    rng = np.random.default_rng(seed)
    weights = rng.uniform(-0.5, 0.5, (parameters["runs"], rows.shape[1]))
    directions = rng.uniform(-1.0, 1.0, (10 * inputs.shape[1], rows.shape[1]))
    longest = longest_chords(rows, weights, directions)
    return {"chords": np.stack([longest, longest / np.linalg.norm(weights, axis=1)], axis=1)}


def longest_chords(rows: Floats, weights: Floats, directions: Floats) -> Floats:
    """The longest chord through each weight vector, over the directions; shape (weights,).

    A unit direction d meets sample i after `-w.x_i / d.x_i`, and the other way where that is negative.
    So a chord is 1/max + 1/|min| over i of the inverse; infinite where one of them has the other sign.
    """
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    turned = -1.0 / (weights @ rows.T)
    longest = np.zeros(len(weights))
    for start in range(0, len(directions), BLOCK):
        rates = directions[start : start + BLOCK] @ rows.T
        for number, one in enumerate(turned):
            inverse = rates * one
            ahead, behind = inverse.max(axis=1), -inverse.min(axis=1)
            if min(ahead.min(), behind.min()) <= 0.0:
                longest[number] = np.inf
            else:
                longest[number] = max(longest[number], float((1.0 / ahead + 1.0 / behind).max()))
    return longest


#: Directions taken together, so that the work fits the processor's cache.
BLOCK = 200
