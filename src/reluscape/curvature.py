"""Lower bounds on the curvature of a network's loss, from norms of its layers alone.

The network has L = H + 1 affine layers `z_k = W_k h_(k-1) + b_k` and, between them, rectifiers with
frozen switches, `h_k = D_k z_k`. Move all parameters along X, `theta + t X`: the output is a product of
matrices, and its second derivative replaces two of them,

    f'' = 2 sum_(i<j) W_L D ... X_j ... D X_i h_(i-1),

where X_i h stands for `X_i h + x_i` if layer i has a bias. A loss that is convex in the outputs, with
slope s_n for sample n, weight decay lambda and N samples, has along X the second derivative

    1/N sum_n [f'_n^T S_n f'_n + s_n . f''_n] + lambda |X|^2,   S_n >= 0.

With the spectral norms |W_k|, so that `|X_i h + x_i| <= |X_i|_F |(h, 1)|`, it is at least
`(lambda - e) |X|^2`, where e is any of

    data   the largest eigenvalue of A,    A_ij = mean_n |g_jn| |(h_(i-1), 1)_n| prod_(i<k<j) |W_k|
           or, if it is smaller and takes few enough multiplications, the spectral norm of B with
           B_vu = |mean_n M_nvu g_jn (h_(i-1), 1)_n^T|, where M_n = D W_(j-1) ... W_(i+1) D goes from
           the units u behind layer i to the units v before layer j,
    sharp  r E times that of C,            C_ij = prod_(k<i) |V_k| prod_(k>i, k!=j) |W_k|,
    paper  r E H (H + 1) max_k |V_k|^(H - 1),

A and C symmetric with zero diagonal; `g_j` is the derivative of the sample's loss by z_j, and
`r = max_n |(a_n, 1)|`. The ones are there only if a bias is: a layer before the last one with a bias
hands on the constant as well, `V_k = [[W_k, b_k], [0, 1]]`; for that last one `V_k = [W_k, b_k]`, and
behind it `V_k = W_k`. Behind X_i nothing is left of the constant, hence W_k there. E bounds the mean of
|s_n|:

    half_squared   sqrt(2 l)       (the paper's, by Cauchy and Schwarz)
    squared        2 sqrt(l)
    cross_entropy  sqrt(2) min(1, l)   since |softmax - e_y| <= sqrt(2) (1 - p_y) and 1 - p <= -log p

A layer without parameters, as the statistics of batch norm (see `reluscape.unfolded`), is diagonal; it is
among the k of these products, and counts as a factor |V_k| in `paper`. A rectifier of slope a counts as
a factor max(1, |a|). Milne (Piecewise strong convexity of neural networks, 2019) has `paper` for one
output, no biases and half the squared loss (Lemma 3); outputs and biases in any number, batch norm, the
cross-entropy, `sharp` and `data` are extensions.

Where switching values are zero to rounding, pieces meet, each with a Hessian of its own. The outputs and
norms are the same on all of them; in A the most counts that the unsettled switches can make of D. So the
bounds hold on each of these pieces, and by continuity near the point as far as they are positive.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.kinks import Passed, Rounded, forward, product, through
from reluscape.layer_pairs import Chain, by_samples, rows_of
from reluscape.losses import CrossEntropyLoss, Loss
from reluscape.network import Affine, Network, Rectifier
from reluscape.tolerances import TOLERANCES

__all__ = [
    "Chain",
    "CurvatureBounds",
    "chain_of",
    "curvature_bounds",
    "norm_excesses",
]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class CurvatureBounds:
    """Lower bounds on the smallest eigenvalue of the frozen-switch Hessian, weight decay included.

    Attributes:
        paper: The published bound, extended as the module says.
        sharp: With the norms of all layers instead of the largest one; at least `paper`.
        data: With the activations and slopes of every sample; at least `sharp`.
    """

    paper: float
    sharp: float
    data: float


def chain_of(network: Network, movable: Sequence[bool] | None = None) -> Chain:
    """Norms of a network's layers by singular values, raised by their rounding.

    Args:
        network: Affine layers and rectifiers; batch norm is `unfolded`.
        movable: Which of the affine layers have parameters (default: all).
    """
    affine = network.affine
    moving = np.ones(len(affine), dtype=np.bool_) if movable is None else np.array(movable)
    last = max((k for k, layer in enumerate(affine) if layer.bias is not None), default=-1)
    plain = [_norm(layer.weight) for layer in affine]
    carried = [_norm(_augmented(layer, k, last)) for k, layer in enumerate(affine)]
    slopes: list[tuple[float, ...]] = []
    for layer in network.layers:
        if isinstance(layer, Affine):
            slopes.append(())
        else:
            assert isinstance(layer, Rectifier)
            slopes[-1] = (*slopes[-1], layer.slope)
    constants = int(moving[: max(last, 0)].sum())
    return Chain(np.array(plain), np.array(carried), tuple(slopes), constants, last >= 0, moving)


def curvature_bounds(
    network: Network,
    features: Floats,
    targets: NDArray[Any],
    loss: Loss,
    weight_decay: float,
    chain: Chain | None = None,
) -> CurvatureBounds:
    """The three bounds at the network's weights.

    `paper <= sharp <= data <= smallest eigenvalue`: norms, activations and slopes are raised by their
    rounding errors, to first order, before they enter.

    Args:
        network: Affine layers and rectifiers; batch norm is `unfolded`.
        features: Inputs of the first layer, (samples, inputs).
        targets: As the loss takes them.
        loss: Any but the L1 loss, which has no curvature.
        weight_decay: lambda.
        chain: The network's norms, with the layers that are fixed if there are any.

    Cost: singular values of all layers, and three passes forward and backward in NumPy.
    """
    chain = chain_of(network) if chain is None else chain
    depth = chain.hidden
    if not depth:
        return CurvatureBounds(weight_decay, weight_decay, weight_decay)
    passed = list(forward(network, features))
    outputs, errors = through(*passed[-1][:3])
    slope = len(outputs) * loss.slope(outputs, targets)
    slope_errors = len(outputs) * loss.slope_error(outputs, errors) + 4 * EPS * np.abs(slope)
    gradients = _backward(passed, slope, slope_errors)
    masks = list(_masks(passed))
    weights = [layer.weight for layer in network.affine]
    mean = _mean_slope(loss, outputs, targets, rows_of(slope, slope_errors))
    inputs = [_with_constant(layer, h, e) for layer, h, e in _affine(passed)]
    excess = (
        *norm_excesses(chain, float(chain.lengths(features).max()), mean),
        _largest_eigenvalue(by_samples(chain, inputs, gradients, masks, weights)),
    )
    paper, sharp, data = (_below(weight_decay, one, len(features)) for one in excess)
    return CurvatureBounds(paper, max(paper, sharp), max(paper, sharp, data))


def norm_excesses(chain: Chain, longest: float, mean: float) -> tuple[float, float]:
    """The e of `paper` and of `sharp`; both grow with every norm.

    Args:
        chain: The norms.
        longest: r.
        mean: E.
    """
    depth, reach = chain.hidden, longest * mean * float(np.prod(chain.gains))
    widest = float(chain.carried[chain.movable].max()) ** (depth - 1)
    return (
        reach * chain.fixed * depth * (depth + 1) * widest,
        reach * _largest_eigenvalue(_by_norms(chain)),
    )


# ---- passes through the network ----------------------------------------------------------------


def _backward(passed: Sequence[Passed], slope: Floats, errors: Floats) -> list[Rounded]:
    """g_j of each affine layer j, first to last, (samples, units), and bounds on the errors."""
    found: list[Rounded] = []
    for at in reversed(passed):
        if isinstance(at.layer, Rectifier):
            slope, errors = product((slope, errors), _factor(at))
            continue
        assert isinstance(at.layer, Affine)
        found.append((slope, errors))
        size, additions = np.abs(at.layer.weight), len(at.layer.weight) + 2
        errors = (errors + additions * EPS * np.abs(slope)) @ size
        slope = slope @ at.layer.weight
    return found[::-1]


def _factor(at: Passed) -> Rounded:
    """A rectifier's slopes: where a switch is unsettled, the middle of both and how far they are off."""
    assert isinstance(at.layer, Rectifier)
    low = at.layer.slope
    factor = np.where(at.values > 0, 1.0, low)
    spread = np.where(at.unsettled, abs(1.0 - low) / 2.0 * (1.0 + 4 * EPS), 0.0)
    return np.where(at.unsettled, (1.0 + low) / 2.0, factor), spread


def _masks(passed: Sequence[Passed]) -> Iterator[Rounded]:
    """D_n behind each affine layer as rows (samples, units), and how far it may be off."""
    mask: Rounded | None = None
    for at in passed:
        if isinstance(at.layer, Affine):
            if mask is not None:
                yield mask
            shape = len(at.values), len(at.layer.weight)
            mask = np.ones(shape), np.zeros(shape)
        elif isinstance(at.layer, Rectifier):
            assert mask is not None
            mask = product(mask, _factor(at))
    assert mask is not None
    yield mask


def _affine(passed: Sequence[Passed]) -> Iterator[tuple[Affine, Floats, Floats]]:
    """The affine layers among those passed."""
    for layer, values, errors, _ in passed:
        if isinstance(layer, Affine):
            yield layer, values, errors


def _with_constant(layer: Affine, values: Floats, errors: Floats) -> Rounded:
    """A layer's inputs, with the constant 1 behind them if it has a bias."""
    if layer.bias is None:
        return values, errors
    ones, zeros = np.ones((len(values), 1)), np.zeros((len(values), 1))
    return np.hstack([values, ones]), np.hstack([errors, zeros])


# ---- the three bounds --------------------------------------------------------------------------


def _mean_slope(loss: Loss, outputs: Floats, targets: NDArray[Any], slopes: Floats) -> float:
    """E, the published way from the loss to the mean of |s_n|."""
    if isinstance(loss, CrossEntropyLoss):  # a loss that is rounding is no bound, the slopes are
        return max(math.sqrt(2.0) * min(1.0, loss.value(outputs, targets)), float(slopes.mean()))
    return float(np.sqrt((slopes**2).mean()))


def _by_norms(chain: Chain) -> Floats:
    """C, of the layers with parameters."""
    layers = len(chain.plain)
    matrix = np.zeros((layers, layers))
    for i in range(layers):
        for j in range(i + 1, layers):
            between = np.prod(chain.plain[i + 1 : j]) * np.prod(chain.plain[j + 1 :])
            matrix[i, j] = matrix[j, i] = np.prod(chain.carried[:i]) * between
    return matrix[np.ix_(chain.movable, chain.movable)]


def _largest_eigenvalue(matrix: Floats) -> float:
    return float(np.linalg.eigvalsh(matrix)[-1])


def _below(weight_decay: float, excess: float, samples: int) -> float:
    """`weight_decay - excess`, lowered by the rounding of means, products and an eigenvalue."""
    if excess == 0.0:  # nothing was rounded
        return weight_decay
    return math.nextafter(weight_decay - excess * (1.0 + (samples + 100) * EPS), -math.inf)


# ---- norms -------------------------------------------------------------------------------------


def _augmented(layer: Affine, k: int, last: int) -> Floats:
    """V_k of layer k, where `last` is the last layer with a bias."""
    if k > last:
        return layer.weight
    bias = np.zeros(len(layer.weight)) if layer.bias is None else layer.bias
    matrix = np.column_stack([layer.weight, bias])
    if k == last:
        return matrix
    return np.vstack([matrix, np.append(np.zeros(layer.weight.shape[1]), 1.0)])


def _norm(matrix: Floats) -> float:
    """Spectral norm, raised by the backward error of singular values."""
    raised = 1.0 + TOLERANCES.eigenvalue * sum(matrix.shape) * EPS
    return float(np.linalg.norm(matrix, 2)) * raised
