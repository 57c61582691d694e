"""Passes through a network with the rounding errors of every value, and the switches they leave open.

A switching value is zero to rounding where float64 cannot tell its sign: two ways of adding up the same
terms may give either. The point then belongs to several pieces at once, or cannot be told from one that
does, and what is said of its piece has to hold on each of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from reluscape.network import Affine, Network, Rectifier, Scale
from reluscape.tolerances import TOLERANCES

if TYPE_CHECKING:
    from reluscape.landscape import Landscape

__all__ = ["Passed", "Rounded", "active_kinks", "forward", "kinks_at", "product", "through"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
EPS = float(np.finfo(np.float64).eps)
#: Changes of the weights, each with its opposite, that are tried on rectifiers that are not read.
CHANGES = 2
#: Values and bounds on their errors.
Rounded = tuple[Floats, Floats]


class Passed(NamedTuple):
    """A layer and what enters it.

    Attributes:
        layer: The layer.
        values: (samples, width).
        errors: Bounds on their errors, to first order.
        unsettled: Of a rectifier, which values may have another sign than here, exactly or as another
            evaluation in float64 rounds them; False everywhere else.
    """

    layer: Affine | Scale | Rectifier
    values: Floats
    errors: Floats
    unsettled: Bools


def forward(network: Network, features: Floats) -> Iterator[Passed]:
    """Every layer with the values that enter it.

    A value that is zero whatever small change the weights undergo is settled: that of a sample of zeros
    behind a layer without biases, or of units that all are off.
    """
    values, errors, still = features, np.zeros_like(features), features == 0.0
    for layer in network.layers:
        unsettled = np.zeros(values.shape, dtype=np.bool_)
        if isinstance(layer, Rectifier) and layer.slope != 1.0:
            # either evaluation is off by its error at most
            unsettled = (np.abs(values) <= 2.0 * errors) & ~still
        yield Passed(layer, values, errors, unsettled)
        still = _still(layer, values, unsettled, still)
        values, errors = through(layer, values, errors)


def _still(
    layer: Affine | Scale | Rectifier, values: Floats, unsettled: Bools, still: Bools
) -> Bools:
    """Which values behind a layer are zero at all weights nearby."""
    if isinstance(layer, Rectifier):
        off = (values <= 0) & ~unsettled & (layer.slope == 0.0)
        return np.asarray(still | off)
    if isinstance(layer, Affine) and layer.bias is None:
        return np.repeat(still.all(axis=1, keepdims=True), len(layer.weight), axis=1)
    return np.zeros((len(values), layer.sizes(values[:1]).shape[1]), dtype=np.bool_)


def through(layer: Affine | Scale | Rectifier, values: Floats, errors: Floats) -> Rounded:
    """A layer's outputs and bounds on their errors (Higham, section 3.3: running error analysis)."""
    if isinstance(layer, Rectifier):
        return layer(values), layer.sizes(errors)
    additions = layer.weight.shape[1] + 2 if isinstance(layer, Affine) else 2
    fresh = additions * EPS * layer.sizes(np.abs(values))
    factor = np.abs(layer.weight).T if isinstance(layer, Affine) else np.abs(layer.scale)
    passed = errors @ factor if isinstance(layer, Affine) else errors * factor
    return layer(values), passed + fresh


def product(left: Rounded, right: Rounded) -> Rounded:
    """The product of numbers that are known up to errors."""
    (a, da), (b, db) = left, right
    return a * b, da * (np.abs(b) + db) + np.abs(a) * db


def active_kinks(network: Network, features: Floats) -> int:
    """Number of switching values whose sign rounding leaves open.

    Those that no small change of the weights moves do not count. Rectifiers one behind the other, as
    far as they bend anything, have their kinks in common.
    """
    count, first = 0, True
    for layer, _, _, unsettled in forward(network, features):
        if isinstance(layer, Rectifier):
            count += int(unsettled.sum()) * first
            first = first and layer.slope == 1.0
        else:
            first = True
    return count


def kinks_at(landscape: Landscape) -> tuple[int, bool]:
    """Number of active kinks of a module, and whether it is read completely, so that these are all."""
    reading = landscape.reading
    if reading is None:
        return _switched(landscape), False
    active = active_kinks(reading.network, reading.features)
    return (max(active, _switched(landscape)), False) if reading.opaque else (active, True)


def _switched(landscape: Landscape) -> int:
    """Number of rectifiers' inputs that change side when the weights change in their last digits.

    Of `nn.ReLU`, `nn.LeakyReLU` and their functions, wherever in the module. Those that stay exactly zero
    do not count.
    """
    from reluscape.monitor.along_gradient import Sides  # whose package imports what uses this

    theta, rng = landscape.theta, np.random.default_rng(0)
    typical = float(np.sqrt(np.mean(theta**2))) or 1.0  # a weight of zero has no last digit
    digits = TOLERANCES.rounding * EPS * np.maximum(np.abs(theta), typical)

    def sides(at: Floats) -> torch.Tensor:
        module = landscape.module_at(at)
        device = next(module.parameters()).device
        with torch.no_grad(), Sides() as seen:
            module(torch.from_numpy(landscape.inputs).to(device))
        pattern: torch.Tensor = seen.pattern()
        return pattern

    here = sides(theta)
    switched = torch.zeros_like(here)
    for _ in range(CHANGES):
        change = digits * rng.choice([-1.0, 1.0], len(theta))
        switched |= (sides(theta + change) != here) | (sides(theta - change) != here)
    return int(switched.sum())
