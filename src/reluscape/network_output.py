"""A network's scalar output as a piecewise-affine function of its input.

Its exact analysis is that of a layer's L1 loss: the input x is the weight of a layer that sees one sample
with the single input 1, the bounds are more units of the network (`fences.py`), and the loss is the
distance of the output from a floor below it. Around a point that is the output up to a constant, so what
`certify` and `verify` say of the loss they say of the output.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from reluscape.block import Block
from reluscape.errors import InputError, UnsupportedModelError
from reluscape.fences import Layers, above, fenced, fences_of, lifted, normal_form
from reluscape.landscape import Landscape
from reluscape.network import Affine, Network, Rectifier, Scale, read_network
from reluscape.validation import LARGEST, as_array, check_theta, private_copy

Floats = NDArray[np.float64]

#: Name of the layer whose weights are the input.
INPUT = "input"
#: Inputs on which the reading is checked against the module.
PROBES = 4


@dataclass(frozen=True, slots=True, eq=False, init=False)
class NetworkOutput:
    """The output f(x) of a network over a box, to be lowered by `descend`.

    `f(x) = W_L rho(... rho(W_1 x + b_1) ...) + b_L`,   lower <= x <= upper

    f is continuous and piecewise affine in the input x, which here is called theta, as in all other
    functions of this package: `descend(NetworkOutput(model, lower=0, upper=1), x)` ends at a certified
    local minimum of f over the box, or finds a ray along which f falls forever. For the maximum, negate
    the model's last layer.

    Args:
        model: A module with one output, all of it readable as affine and ReLU layers (batch norm in eval
            mode, LeakyReLU, reshapes included). It is copied and never modified.
        lower: Lower bounds: a number for all inputs, or an array of the input's shape; -inf for none.
        upper: Upper bounds, likewise, with inf for none. An input with lower = upper stays fixed.

    Attributes:
        layers: The network as it was read.
        shape: Shape of the model's input without the samples' axis; theta is flat, row-major.
        lower: Lower bounds, shape (size,), read-only.
        upper: Upper bounds, shape (size,), read-only.
        theta: The middle of the box, and zero moved into the box where a side is infinite; read-only.

    Cost:
        Two runs of the model on four inputs; what `certify` does then is a few passes of one sample.

    Guarantees:
        The network read gives the module's output within 1e-12 max(1, |f|) at four points of the box.
        A local minimum that `certify` claims is one of f over the box, whatever the penalty's size.

    Raises:
        InputError: More than one output, bounds that are NaN, crossed or of the wrong shape, or a model
            that does not run on inputs of that shape.
        UnsupportedModelError: A part of the model is not readable as affine and ReLU layers.

    Source:
        Hinz, "Deep ReLU Simplex": its second kind of function. The penalty is an exact one (Nocedal and
        Wright, Numerical Optimization, section 17.2) with the multipliers' bound known beforehand.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
        >>> _ = nn.init.constant_(model[0].weight, 2.0), nn.init.constant_(model[0].bias, 1.0)
        >>> NetworkOutput(model, lower=-0.25, upper=1.0).loss([0.5])
        2.0
    """

    layers: Layers = field(repr=False)
    shape: tuple[int, ...]
    lower: Floats = field(repr=False)
    upper: Floats = field(repr=False)
    theta: Floats = field(repr=False)

    def __init__(self, model: nn.Module, *, lower: ArrayLike, upper: ArrayLike) -> None:
        module = private_copy(model, "cpu")
        low, high = _bounds(lower, upper)
        shape = low.shape or _guessed_shape(module)
        low, high = (np.broadcast_to(side, shape).ravel().copy() for side in (low, high))
        middle = np.clip(0.0, low, high)
        closed = np.isfinite(low) & np.isfinite(high)
        middle[closed] = np.clip(low[closed] / 2 + high[closed] / 2, low[closed], high[closed])
        layers = _read(module, shape, _probes(middle, low, high))
        for array in (low, high, middle):
            array.setflags(write=False)
        for name, value in zip(
            ("layers", "shape", "lower", "upper", "theta"),
            (layers, shape, low, high, middle),
            strict=True,
        ):
            object.__setattr__(self, name, value)

    @property
    def size(self) -> int:
        """Number of inputs."""
        return len(self.theta)

    @property
    def is_affine(self) -> bool:
        """Whether the network has no rectifier."""
        return not any(isinstance(part, Rectifier) for part in self.layers)

    def loss(self, theta: ArrayLike | None = None) -> float:
        """The output at theta, in the box or not (default: the middle)."""
        point = self.theta if theta is None else check_theta(theta, self.size)
        return float(Network(self.layers)(point[None])[0, 0])

    def gradient(self, theta: ArrayLike | None = None) -> Floats:
        """Gradient of the output on the cell of theta, shape (size,); at a kink, on its negative side."""
        hidden = (self.theta if theta is None else check_theta(theta, self.size))[None]
        factors = []
        for part in self.layers:
            if isinstance(part, Rectifier):
                factors.append(np.where(hidden > 0, 1.0, part.slope))
            hidden = part(hidden)
        back = np.ones((1, 1))
        for part in reversed(self.layers):
            if isinstance(part, Affine):
                back = back @ part.weight
            else:
                back = back * (part.scale if isinstance(part, Scale) else factors.pop())
        return np.asarray(back[0])

    def check(self, theta: ArrayLike | None) -> Floats:
        """Return `theta` as a float64 vector in the box, or the middle of the box.

        Raises:
            InputError: Another shape, or a point outside.
        """
        if theta is None:
            return self.theta
        point = check_theta(theta, self.size)
        outside = np.flatnonzero((point < self.lower) | (point > self.upper))
        if len(outside):
            worst = int(outside[0])
            raise InputError(
                f"theta must lie in the box; received {point[worst]:.17g} for input {worst}, whose"
                f" bounds are {self.lower[worst]:.17g} and {self.upper[worst]:.17g}: clip it with"
                " np.clip"
            )
        return point

    def inside(self, theta: Floats) -> Floats:
        """The point of the box that is next to theta."""
        return np.clip(theta, self.lower, self.upper)

    def inward(self, theta: Floats, direction: Floats) -> Floats:
        """A direction without its parts that lead out of the box at theta; the output falls no less."""
        blocked = ((theta <= self.lower) & (direction < 0)) | (
            (theta >= self.upper) & (direction > 0)
        )
        return np.where(blocked, 0.0, direction)

    def around(self, theta: ArrayLike | None = None) -> Block:
        """A layer's L1 loss that is the output over the box, up to a constant, around theta.

        Its parameters are theta, its one sample's residual is the output above a floor that follows
        from theta, and it rises outside the box.
        """
        floor = self.floor(self.check(theta))
        layers = lifted(self.layers, floor)
        layers = fenced(layers, fences_of(layers, self.lower, self.upper))
        module = _module(layers, self.theta)
        one = np.ones((1, 1))
        return Landscape(module, one, -floor * one, loss="l1").block(INPUT)

    def falls_forever(self, theta: ArrayLike, direction: ArrayLike) -> bool:
        """Whether the output falls without end along `theta + t direction`, t >= 0, within the box.

        Decided in exact arithmetic: no unit switches on the way, and the output's rate is negative.
        False where a unit still switches, even if the output falls forever behind it.
        Cost: two passes in fractions.
        """
        point, way = self.check(theta), check_theta(direction, self.size)
        if np.isfinite(self.lower[way < 0]).any() or np.isfinite(self.upper[way > 0]).any():
            return False
        value, rate = _exact(point), _exact(way)
        for part in self.layers:
            if isinstance(part, Affine):
                weight = _exact(part.weight)
                value, rate = weight @ value, weight @ rate
                value = value if part.bias is None else value + _exact(part.bias)
            elif isinstance(part, Scale):
                scale = _exact(part.scale)
                value, rate = value * scale + _exact(part.shift), rate * scale
            else:
                if ((value > 0) & (rate < 0)).any() or ((value < 0) & (rate > 0)).any():
                    return False
                slope = _exact(np.where((value > 0) | (rate > 0), 1.0, part.slope))
                value, rate = value * slope, rate * slope
        return bool(rate[0] < 0)

    def floor(self, theta: Floats) -> float:
        """A power of two that stays above minus the output around theta, rounding errors included."""
        sizes = np.abs(theta)[None]
        for part in self.layers:
            sizes = part.sizes(sizes)
        return above(max(2.0 * abs(self.loss(theta)), 2.0**-20 * float(sizes[0, 0])))

    def __repr__(self) -> str:
        """One line: inputs, layers and bounds."""
        closed = int((np.isfinite(self.lower) & np.isfinite(self.upper)).sum())
        count = sum(isinstance(part, Affine) for part in self.layers)
        return f"NetworkOutput({self.size} inputs, {closed} bounded on both sides, {count} layers)"


def _exact(values: Floats) -> NDArray[Any]:
    """The exact rationals that the floats are."""
    found = np.empty(values.shape, dtype=object)
    found.ravel()[:] = [Fraction(value) for value in values.ravel().tolist()]
    return found


# ---- bounds --------------------------------------------------------------------------------------


def _bounds(lower: ArrayLike, upper: ArrayLike) -> tuple[Floats, Floats]:
    """Both bounds as arrays of one shape, or raise InputError."""
    low, high = as_array(lower, "lower"), as_array(upper, "upper")
    try:
        low, high = np.broadcast_arrays(low.astype(np.float64), high.astype(np.float64))
    except ValueError:
        raise InputError(
            f"lower and upper must have the input's shape, or be numbers; received {low.shape} and"
            f" {high.shape}"
        ) from None
    for name, side in (("lower", low), ("upper", high)):
        if np.isnan(side).any():
            raise InputError(
                f"{name} must not be NaN; received {int(np.isnan(side).sum())} NaN of {side.size}"
                " values: use inf for no bound"
            )
        if (np.abs(side[np.isfinite(side)]) > LARGEST).any():
            raise InputError(f"{name} must be at most {LARGEST:.0e} in size, or infinite: use inf")
    crossed = np.argwhere((low > high) | (low == np.inf) | (high == -np.inf))
    if low.size == 0:
        raise InputError(f"lower and upper must bound at least one input; received {low.shape}")
    if len(crossed):
        place = tuple(crossed[0].tolist())
        where = f" at {place}" if place else ""
        raise InputError(
            f"lower must be finite or -inf and not above upper, finite or inf; received"
            f" {low[place]:g} and {high[place]:g}{where}: swap them"
        )
    return low, high


def _guessed_shape(module: nn.Module) -> tuple[int, ...]:
    """Shape of the input where the bounds are two numbers: that of the first layer that has one."""
    for part in module.modules():
        for name in ("in_features", "num_features"):
            if isinstance(getattr(part, name, None), int):
                return (getattr(part, name),)
    raise InputError(
        "lower or upper must have the input's shape for a model without a Linear layer; received two"
        " numbers: pass np.full(shape, lower)"
    )


def _probes(middle: Floats, low: Floats, high: Floats) -> Floats:
    """Points of the box."""
    rng = np.random.default_rng(0)
    points = np.clip(middle + rng.normal(size=(PROBES, len(middle))), low, high)
    closed = np.isfinite(low) & np.isfinite(high)
    share = rng.uniform(size=(PROBES, len(middle)))[:, closed]
    points[:, closed] = (1.0 - share) * low[closed] + share * high[closed]
    points[0] = middle
    return np.asarray(points)


# ---- modules in and out --------------------------------------------------------------------------


def _read(module: nn.Module, shape: tuple[int, ...], probes: Floats) -> Layers:
    """The whole module as layers of a flat input, or raise what stands in the way."""
    size = probes.shape[1]
    identity = _linear(Affine(np.eye(size), None, INPUT))
    parts: list[tuple[str, nn.Module]] = [(INPUT, identity), ("model", module)]
    if len(shape) > 1:
        parts.insert(1, ("shape", nn.Unflatten(1, shape)))
    whole = nn.Sequential(OrderedDict(parts)).eval()
    _check_outputs(whole, torch.from_numpy(probes), shape)
    reading = read_network(whole, torch.from_numpy(probes))
    first, *layers = reading.network.layers
    if reading.opaque or first.name != INPUT:
        raise UnsupportedModelError(
            "expected a model that is readable as affine and ReLU layers from its input to its output;"
            f" {reading.reason or 'its first layers are not'}: cut them off and bound their outputs"
        )
    return normal_form([_renamed(part) for part in layers], size)


def _check_outputs(whole: nn.Module, probes: torch.Tensor, shape: tuple[int, ...]) -> None:
    """Refuse a model that does not run on the inputs, or gives more than one number for each."""
    try:
        with torch.no_grad():
            found = whole(probes)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"model must accept inputs of shape (samples, {', '.join(map(str, shape))}), as the bounds"
            f" say; its forward failed with: {line}"
        ) from error
    if not isinstance(found, torch.Tensor) or found.ndim == 0 or len(found) != len(probes):
        what = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise InputError(f"model must return one number per sample; received {what}")
    outputs = found[0].numel()
    if outputs != 1:
        raise InputError(
            f"model must have one output to be lowered; received {outputs}: append a Linear layer that"
            " picks one, or the difference of two"
        )
    if not torch.isfinite(found).all():
        raise InputError(
            "model must give finite outputs in the box; received NaN or infinite values: check weights"
            " and bounds"
        )


def _renamed(part: Affine | Scale | Rectifier) -> Affine | Scale | Rectifier:
    """A layer under its name in the user's module."""
    name = part.name.removeprefix("model").removeprefix(".")
    if isinstance(part, Affine):
        return Affine(part.weight, part.bias, name)
    return Scale(part.scale, part.shift, name) if isinstance(part, Scale) else part


def _module(layers: Sequence[Affine | Scale | Rectifier], theta: Floats) -> nn.Module:
    """The network behind a layer with one input, whose weights are theta."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts[INPUT] = _linear(Affine(theta[:, None], None, INPUT))
    for place, part in enumerate(layers):
        if isinstance(part, Rectifier):
            made: nn.Module = nn.LeakyReLU(part.slope) if part.slope else nn.ReLU()
            parts[f"rectifier_{place}"] = made
        else:
            made = _linear(part if isinstance(part, Affine) else _diagonal(part))
            name = part.name.replace(".", "_") or "layer"
            parts[name if name not in parts else f"{name}_{place}"] = made
    return nn.Sequential(parts)


def _diagonal(part: Scale) -> Affine:
    """A scale as an affine layer."""
    return Affine(np.diag(part.scale), part.shift, part.name)


def _linear(part: Affine) -> nn.Linear:
    """An affine layer as a module."""
    outputs, inputs = part.weight.shape
    layer: nn.Linear = nn.utils.skip_init(  # type: ignore[no-untyped-call]
        nn.Linear, inputs, outputs, bias=part.bias is not None, dtype=torch.float64
    )
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(part.weight))
        if part.bias is not None:
            layer.bias.copy_(torch.tensor(part.bias))
    return layer
