"""Which weight decays and losses put minimisers where the loss is piecewise strongly convex.

A global minimiser has at most the loss M of zero weights, so that its loss without decay is at most
`M - lambda s / 2` with `s = |theta|^2`. The layers' squared norms `|V_k|^2` sum to at most `c + s`, where
c layers hand on the constant 1 (see `reluscape.curvature`). Two consequences:

- The largest eigenvalue of C is at most `H ((c + s) / (H + 1))^((H - 1) / 2)`: x^T C x is the second
  derivative of a product of H + 1 numbers, a symmetric form, largest where all of them are equal (Banach
  1938). So every global minimiser lies in the sharp region, and in that of the bound with the data, if
  for all s

      k g^2 r^2 H^2 ((c + s) / (H + 1))^(H - 1) (M - lambda s / 2)^q < lambda^2,

  where the mean slope E of the loss l is `sqrt(k l^q)`, and g the factor of rectifiers and of
  layers without parameters. For the latter
  region r may be the root mean square of the samples' lengths. The paper's own condition puts M for the
  loss, 2 M / lambda for s, and `H (H + 1) max_k |V_k|^(H - 1)` for the eigenvalue.

- Without biases, the output is homogeneous in each layer, so that at a local minimum other than zero
  `lambda |W_k|_F^2 = -mean s_n . f_n` for every k; hence `lambda <= A_ij` for any two layers, and
  `lambda <= E r g prod |W_k|` over any H - 1 layers. So *inside all of these regions no point but zero is
  a local minimum*, and none exists below the loss at which the last line cannot hold. This takes no
  derivative across kinks, since scaling a layer crosses none, and holds for linear networks as for
  rectifiers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from reluscape.curvature import Chain
from reluscape.losses import Loss

__all__ = [
    "Setting",
    "covering_decay",
    "paper_decay",
    "settings_of",
    "smallest_minimum",
    "worst_product",
]

Floats = NDArray[np.float64]

#: Raises a root's few rounding errors to the safe side.
SAFE: Final = 1.0 + 1e-12


@dataclass(frozen=True, slots=True)
class Setting:
    """The numbers of the conditions above.

    Attributes:
        hidden: H.
        constants: c.
        reach: `r g`.
        factor: k.
        power: q.
        zero: M, the loss of zero weights.
    """

    hidden: int
    constants: int
    reach: float
    factor: float
    power: int
    zero: float


def settings_of(chain: Chain, features: Floats, loss: Loss, zero: float) -> tuple[Setting, ...]:
    """Settings of a network and its data: with the longest sample, the paper's; with the typical one.

    For the second, r is the root mean square of the samples' lengths, by Cauchy and Schwarz, and the
    cross-entropy's slopes have `|s|^2 <= 2 (1 - p)^2 <= 2 (1 - p)`.
    """
    lengths = chain.lengths(features)
    gain = float(np.prod(chain.gains)) * chain.fixed
    size, power = {"half_squared": (2.0, 1), "squared": (4.0, 1), "cross_entropy": (2.0, 2)}[
        loss.name
    ]
    longest = gain * float(lengths.max())
    typical = gain * float(np.sqrt((lengths**2).mean())) * SAFE
    return (
        Setting(chain.hidden, chain.constants, longest, size, power, zero),
        Setting(chain.hidden, chain.constants, typical, size, 1, zero),
    )


def covering_decay(setting: Setting) -> float:
    """The weight decay above which all global minimisers lie in the region of the data's bound."""
    h = setting.hidden
    scale = setting.factor * (setting.reach * h) ** 2 / (h + 1) ** max(h - 1, 0)
    return _root(setting, lambda decay: scale * worst_product(setting, decay))


def paper_decay(setting: Setting) -> float:
    """The weight decay above which all global minimisers lie in the paper's region."""
    h, m = setting.hidden, setting.zero
    scale = setting.factor * (setting.reach * h * (h + 1)) ** 2 * m**setting.power
    constant = float(setting.constants > 0)
    return _root(setting, lambda decay: scale * (constant + 2.0 * m / decay) ** (h - 1))


def worst_product(setting: Setting, decay: float) -> float:
    """The largest of `(M - lambda s / 2)^q (c + s)^(H - 1)` over s between 0 and 2 M / lambda.

    It is attained at `s = ((H - 1) 2 M / lambda - q c) / (q + H - 1)`, or at 0 if that is negative.
    """
    h, q, c = setting.hidden, setting.power, setting.constants
    s = max(0.0, ((h - 1) * 2.0 * setting.zero / decay - q * c) / (q + h - 1))
    return float((setting.zero - decay * s / 2.0) ** q * (c + s) ** (h - 1))


def smallest_minimum(setting: Setting, decay: float) -> float:
    """The loss below which no local minimum but zero exists, of a network without biases.

    The squared norms of all layers are equal there, `s / (H + 1)`, so that the loss M solves
    `k r^2 g^2 (H + 1)^(1 - H) max_s (M - lambda s / 2)^q s^(H - 1) = lambda^2`.
    """
    h, q = setting.hidden, setting.power
    scale = setting.factor * setting.reach**2 / (h + 1) ** (h - 1)
    if scale == 0.0 or decay == 0.0:
        return math.inf if decay > 0 else 0.0
    whole = q + h - 1
    share = (q / whole) ** q * (2.0 * (h - 1) / (decay * whole)) ** (h - 1)
    return float((decay**2 / (scale * share)) ** (1.0 / whole) / SAFE)


def _root(setting: Setting, demand: Callable[[float], float]) -> float:
    """The lambda at which a demand, which falls with lambda, is lambda^2."""
    if not setting.hidden or not setting.zero or not setting.reach:
        return 0.0

    def excess(logarithm: float) -> float:
        return math.log(demand(math.exp(logarithm))) - 2.0 * logarithm

    low, high = -1.0, 1.0
    while excess(low) < 0:
        low *= 2.0
    while excess(high) > 0:
        high *= 2.0
    return math.exp(float(brentq(excess, low, high, xtol=1e-14))) * SAFE
