"""Bounds on a whole network's derivatives near a point, from its layers' norms alone.

Along a unit direction in the space of all parameters, layer l becomes `W_l + t D_l`, `b_l + t e_l` with
`||D_l||, ||e_l|| <= 1`. So with the switches frozen, every derivative of every sample's output is at
most that of the scalar recursion

    h_0 = ||x||,   z_l(t) = (||W_l|| + t) h_{l-1}(t) + ||b_l|| + t,   h_l = max(1, |slope|) z_l

whose Taylor coefficients at t = r bound the derivatives everywhere within distance r.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reluscape.landscape import Landscape
from reluscape.network import Affine, Rectifier

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Majorant:
    """Bounds within a radius of the point.

    Attributes:
        hessian_lipschitz: Lipschitz constant of the loss's Hessian with frozen switches.
        kink_speed: Largest change of any switching value or residual per unit of theta.
    """

    hessian_lipschitz: float
    kink_speed: float

    @classmethod
    def within(cls, landscape: Landscape, radius: float) -> Majorant:
        """Bounds for a network that is read completely, without batch norm."""
        assert landscape.reading is not None
        features = landscape.reading.features
        size = np.zeros((4, len(features)))
        size[0] = np.linalg.norm(features, axis=1)
        speed = 0.0
        for layer in landscape.reading.network.layers:
            if isinstance(layer, Affine):
                size = _through(layer, size, radius)
                speed = max(speed, float(size[1].max()))
            elif isinstance(layer, Rectifier):
                size = size * max(1.0, abs(layer.slope))
        first, second, third = size[1], 2.0 * size[2], 6.0 * size[3]
        return cls(float(_of_loss(landscape, first, second, third, radius).mean()), speed)


def _through(layer: Affine, size: Floats, radius: float) -> Floats:
    """Taylor coefficients at t = radius behind one affine layer."""
    weight = float(np.linalg.norm(layer.weight, ord=2)) + radius
    out = weight * size
    out[1:] += size[:-1]
    if layer.bias is not None:
        out[0] += float(np.linalg.norm(layer.bias)) + radius
        out[1] += 1.0
    return np.asarray(out)


def _of_loss(
    landscape: Landscape, first: Floats, second: Floats, third: Floats, radius: float
) -> Floats:
    """Third derivatives of the samples' losses from those of their outputs."""
    outputs = landscape.outputs()
    if landscape.loss_name == "l1":
        return np.asarray(np.sqrt(outputs.shape[1]) * third)
    if landscape.loss_name == "cross_entropy":
        # gradient, Hessian and third derivative of log-sum-exp are at most sqrt(2), 1 and 1
        return np.asarray(np.sqrt(2.0) * third + 3.0 * first * second + first**3)
    residual = np.linalg.norm(outputs - landscape.targets, axis=1) + radius * first
    scale = 2.0 if landscape.loss_name == "squared" else 1.0
    return np.asarray(scale * (3.0 * first * second + residual * third))
