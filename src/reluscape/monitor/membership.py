"""Whether weights lie in the paper's region U(lambda, 0) and in the sharper one, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from reluscape.curvature import Chain, chain_of, curvature_bounds, norm_excesses
from reluscape.errors import InputError
from reluscape.landscape import Landscape
from reluscape.losses import make_loss
from reluscape.network import Affine, Network, Scale
from reluscape.strings.ends import with_state
from reluscape.unfolded import unfolded

Floats = NDArray[np.float64]
#: One or zero, or NaN where it is not known: in the paper's region, and in the sharper one.
Inside = tuple[float, float]
UNKNOWN: Inside = (math.nan, math.nan)
#: What they are called.
REGIONS = ("in_region", "in_sharp_region")


class Membership:
    """Membership of weights in the regions of `reluscape.convexity` by norms and the loss alone.

    The bounds fall as norms grow. So the longest images so far of one vector per layer, from below, and
    Frobenius norms, from above, decide nearly always, at the cost of a product with two vectors per
    layer; where they leave it open, singular values do. Either way the answer is that of the norms.

    Args:
        landscape: Whose network, data and weight decay the regions are about.

    Attributes:
        reason: Why nothing can be said of it; empty where something can.
    """

    def __init__(self, landscape: Landscape) -> None:
        self.reason = _why_none(landscape)
        if self.reason:
            return
        assert landscape.reading is not None
        if any(isinstance(layer, Scale) for layer in landscape.reading.network.layers):
            self.reason = "batch norm, whose statistics move with every step"
            return
        self._loss, self._decay = landscape.loss_name, landscape.weight_decay
        self._network = landscape.reading.network
        self._chain = chain_of(self._network)
        self._longest = float(self._chain.lengths(landscape.reading.features).max())
        drawn = np.random.default_rng(0)
        self._seen: list[Floats] = [
            drawn.normal(size=(one.weight.shape[1],)) for one in self._network.affine
        ]

    def __call__(self, model: nn.Module, loss: float) -> Inside:
        """At a model's weights, where the loss with its weight decay is known."""
        if self.reason or not math.isfinite(loss):
            return UNKNOWN
        state = {
            name: one.detach().cpu().numpy().astype(np.float64, copy=False)
            for name, one in model.named_parameters()
        }
        squares = sum(float(np.vdot(one, one)) for one in state.values())
        slope = self._mean_slope(max(0.0, loss - 0.5 * self._decay * squares))
        if not self._chain.hidden:
            return (float(self._decay > 0),) * 2
        network = self._with(state)
        low, high = self._below(network), _above(network, self._chain)
        least, most = (norm_excesses(one, self._longest, slope) for one in (low, high))
        if any(a < self._decay <= b for a, b in zip(least, most, strict=True)):
            least = norm_excesses(chain_of(network), self._longest, slope)
        return float(least[0] < self._decay), float(least[1] < self._decay)

    def _mean_slope(self, loss: float) -> float:
        """E, from the loss alone."""
        if self._loss == "cross_entropy":
            return math.sqrt(2.0) * min(1.0, loss)
        return math.sqrt((2.0 if self._loss == "half_squared" else 4.0) * loss)

    def _with(self, state: Mapping[str, Floats]) -> Network:
        """The network with other weights."""

        def moved(layer: Affine) -> Affine:
            prefix = f"{layer.name}." if layer.name else ""
            bias = None if layer.bias is None else state[f"{prefix}bias"]
            return replace(layer, weight=state[f"{prefix}weight"], bias=bias)

        layers = self._network.layers
        return Network(tuple(moved(one) if isinstance(one, Affine) else one for one in layers))

    def _below(self, network: Network) -> Chain:
        """Norms that are certainly no larger: lengths of images of unit vectors."""
        plain, carried = [], []
        for k, layer in enumerate(network.affine):
            image = layer.weight @ (self._seen[k] / (np.linalg.norm(self._seen[k]) or 1.0))
            plain.append(float(np.linalg.norm(image)))
            if plain[-1]:
                self._seen[k] = np.asarray(layer.weight.T @ image)
            carried.append(max(plain[-1], _constant(layer, k, self._chain)))
        return replace(self._chain, plain=np.array(plain), carried=np.array(carried))


def data_bound(landscape: Landscape) -> Callable[[nn.Module], float]:
    """A function for `watch` of a monitor: the bound of `reluscape.convexity` by each sample's values.

    It is `Convexity.data_bound` at a model's weights and running statistics, on the landscape's data:
    where it is positive, they lie in the largest of the three regions. Batch norm may be there.

        watch = {"data's bound": data_bound(landscape)}
        trajectory = trajectory_of("checkpoints/", landscape, watch=watch)
        inside = trajectory.watched_values("data's bound") > 0.0

    Args:
        landscape: Whose data, loss and weight decay the bound is about.

    Cost: the network is read, and three passes over all data are made in NumPy; 20 ms for 400 parameters
    and 200 samples, 0.2 s for 5000 and 2000. Monitor each so many steps only.

    Raises:
        InputError: There is no bound for this landscape.
    """
    if reason := _why_none(landscape):
        raise InputError(f"there is no bound on the curvature: {reason}")
    loss, decay = make_loss(landscape.loss_name), landscape.weight_decay

    def bound(model: nn.Module) -> float:
        here = with_state(landscape, landscape.state_of(model))
        assert here.reading is not None
        plain = unfolded(here)
        chain, features = chain_of(plain.network, plain.movable), here.reading.features
        return curvature_bounds(plain.network, features, here.targets, loss, decay, chain).data

    return bound


def _why_none(landscape: Landscape) -> str:
    """Why nothing bounds the curvature; empty where something does."""
    from reluscape.convex import why_unbounded  # which imports what draws

    return "an L1 loss" if landscape.loss_name == "l1" else why_unbounded(landscape)


def _above(network: Network, chain: Chain) -> Chain:
    """Norms that are certainly no smaller: Frobenius norms."""
    plain = [float(np.linalg.norm(layer.weight)) for layer in network.affine]
    extra = [_constant(layer, k, chain) for k, layer in enumerate(network.affine)]
    return replace(chain, plain=np.array(plain), carried=np.hypot(plain, extra))


def _constant(layer: Affine, k: int, chain: Chain) -> float:
    """Length of the column that the constant enters by, where there is one."""
    last = chain.constants if chain.biased else -1
    bias = 0.0 if layer.bias is None else float(np.linalg.norm(layer.bias))
    return 0.0 if k > last else math.hypot(bias, float(k < last))
