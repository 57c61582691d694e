"""Bounds on a network's inputs as more units of the same network: an exact penalty.

For an input x_j with a bound l (u = l - x_j) or h (u = x_j - h) the penalty is `J relu(u)` with J above
the largest slope `sum_paths |W_L| ... |W_1|` of the output in x_j. Then all local minima of the penalised
output lie in the box, and they are the local minima of the output over the box: outside, moving x_j back
gains more than the output can lose.

The units join the network's first rectifier, of slope s on its negative side, and

    J relu(u) = c (rho(u) - s u),   c a power of two with sign(c) = sign(1 - s), |c (1 - s)| >= J,

where the linear term comes from a unit that stays on its positive side next to the box. Powers of two
make the two terms cancel exactly inside the box. Through deeper rectifiers the sum is carried by one unit
that is 1 inside the box and larger outside. An input with l = h has one kink, and a slope on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import frexp, ldexp

import numpy as np
from numpy.typing import NDArray

from reluscape.frozen import merge_rectifiers
from reluscape.network import Affine, Rectifier, Scale

Floats = NDArray[np.float64]
Layers = tuple[Affine | Scale | Rectifier, ...]

#: Beyond rounding errors of a product of matrices of absolute values.
ABOVE = 1.0 + 2.0**-20


@dataclass(frozen=True, slots=True)
class Fence:
    """A unit `u = side (bound - x_j)` that is positive outside, with `weight rho(u) - slope u`.

    Attributes:
        place: The input j.
        side: 1 for a lower bound, -1 for an upper one.
        bound: The bound.
        weight: A power of two, or minus one.
        slope: Coefficient of the linear term; 0 for none.
    """

    place: int
    side: float
    bound: float
    weight: float
    slope: float


def above(value: float) -> float:
    """A power of two above a number >= 0; 1 for 0."""
    return ldexp(1.0, frexp(value * ABOVE)[1]) if value > 0 else 1.0


def normal_form(layers: Sequence[Affine | Scale | Rectifier], inputs: int) -> Layers:
    """The same network that begins and ends with an affine layer, without rectifiers of slope one."""
    parts = [
        part
        for part in merge_rectifiers(layers)
        if not (isinstance(part, Rectifier) and part.slope == 1.0)
    ]
    if not parts or isinstance(parts[0], Rectifier):
        parts.insert(0, Affine(np.eye(inputs), None, "identity"))
    if isinstance(parts[-1], Rectifier):
        parts.append(Affine(np.eye(_width_after(parts)), None, "identity"))
    return tuple(parts)


def steepest(layers: Layers) -> Floats:
    """Bounds on the size of the output's derivative by every input, shape (inputs,)."""
    back = np.ones((1, 1))
    for part in reversed(layers):
        if isinstance(part, Affine):
            back = back @ np.abs(part.weight)
        elif isinstance(part, Scale):
            back = back * np.abs(part.scale)
        else:
            back = back * max(1.0, abs(part.slope))
    return np.asarray(back[0])


def fences_of(layers: Layers, lower: Floats, upper: Floats, *, steep: float = 1.0) -> list[Fence]:
    """A fence for every finite bound, or one for both where they are equal.

    Args:
        layers: The network in normal form.
        lower: Lower bounds (inputs,), maybe infinite.
        upper: Upper bounds.
        steep: A power of two by which the penalties are steeper than need be.
    """
    rho = next((part.slope for part in layers if isinstance(part, Rectifier)), 0.0)
    slopes = steepest(layers)
    largest = float(slopes.max(initial=0.0))
    fences = []
    for place, (low, high) in enumerate(zip(lower.tolist(), upper.tolist(), strict=True)):
        jump = steep * above(float(slopes[place]) or largest)
        equal = low == high
        weight = above((2.0 if equal else 1.0) * jump / abs(1.0 - rho)) * np.sign(1.0 - rho)
        slope = weight * rho + (jump if equal else 0.0)
        if np.isfinite(low):
            fences.append(Fence(place, 1.0, low, float(weight), float(slope)))
        if np.isfinite(high) and not equal:
            fences.append(Fence(place, -1.0, high, float(weight), float(slope)))
    return fences


def lifted(layers: Layers, height: float) -> Layers:
    """The same network with a rectifier: an affine output that stays above `-height` passes one."""
    if any(isinstance(part, Rectifier) for part in layers):
        return layers
    up = Affine(np.eye(1), np.array([height]), "lift")
    return (*layers, up, Rectifier(0.0, "lift"), Affine(np.eye(1), np.array([-height]), "output"))


def fenced(layers: Layers, fences: Sequence[Fence], *, first: bool = False) -> Layers:
    """The network with fences.

    Args:
        layers: The network in normal form, with a rectifier.
        fences: The fences.
        first: Put their units before the network's own, else after them.
    """
    if not fences:
        return layers
    split = next(k for k, part in enumerate(layers) if isinstance(part, Rectifier))
    before, after = [*map(_dense, layers[:split])], layers[split:]
    inputs = before[0].weight.shape[1]
    built: list[Affine | Scale | Rectifier] = []
    carried = np.eye(inputs)
    for k, own in enumerate(before):
        rows, shift = (carried, np.zeros(inputs)) if k + 1 < len(before) else _units(fences, inputs)
        built.append(_beside(rows, shift, own, shared=k == 0, first=first))
    largest = max(abs(fence.weight) for fence in fences)
    row, shift = _sum_of(fences, largest)
    for k, part in enumerate(after):
        if isinstance(part, Rectifier):
            built.append(part)
        elif k + 1 < len(after):
            built.append(_beside(row, shift, _dense(part), first=first))
            row, shift = np.ones((1, 1)), np.zeros(1)
        else:
            built.append(_added(largest * row, largest * (shift - 1.0), _dense(part), first=first))
    return tuple(built)


def _units(fences: Sequence[Fence], inputs: int) -> tuple[Floats, Floats]:
    """Rows and shifts of the fences' units and, each behind its own, of those for linear terms."""
    largest = max(abs(fence.weight) for fence in fences)
    rows, shifts = [], []
    for fence in fences:
        row = np.zeros(inputs)
        row[fence.place] = -fence.side
        rows.append(row)
        shifts.append(fence.side * fence.bound)
        if fence.slope:
            share = abs(fence.slope) / largest
            rows.append(-share * row)
            shifts.append(1.0 - share * shifts[-1])
    return np.array(rows), np.array(shifts)


def _sum_of(fences: Sequence[Fence], largest: float) -> tuple[Floats, Floats]:
    """Row and shift of `1 + penalty / largest` behind the first rectifier."""
    row: list[float] = []
    shift = 1.0
    for fence in fences:
        row.append(fence.weight / largest)
        if fence.slope:
            row.append(float(np.sign(fence.slope)))
            shift -= row[-1]
    return np.array([row]), np.array([shift])


def _beside(
    rows: Floats, shift: Floats, part: Affine, *, shared: bool = False, first: bool
) -> Affine:
    """A layer with more units, of inputs of their own or of the `shared` ones."""
    own = np.zeros(len(part.weight)) if part.bias is None else part.bias
    more, weight = rows, part.weight
    if not shared:
        beside = np.zeros((len(rows), weight.shape[1])), np.zeros((len(weight), rows.shape[1]))
        more = np.hstack([rows, beside[0]] if first else [beside[0], rows])
        weight = np.hstack([beside[1], weight] if first else [weight, beside[1]])
    parts = [(more, shift), (weight, own)] if first else [(weight, own), (more, shift)]
    return Affine(
        np.vstack([p[0] for p in parts]), np.concatenate([p[1] for p in parts]), part.name
    )


def _added(row: Floats, shift: Floats, part: Affine, *, first: bool) -> Affine:
    """The last layer with a row of more inputs."""
    own = np.zeros(1) if part.bias is None else part.bias
    weight = np.hstack([row, part.weight] if first else [part.weight, row])
    return Affine(weight, own + shift, part.name)


def _dense(part: Affine | Scale | Rectifier) -> Affine:
    """A scale as an affine layer."""
    if isinstance(part, Scale):
        return Affine(np.diag(part.scale), part.shift, part.name)
    assert isinstance(part, Affine)
    return part


def _width_after(layers: Sequence[Affine | Scale | Rectifier]) -> int:
    """Number of outputs of the last affine or scale layer."""
    return next(
        len(part.weight) if isinstance(part, Affine) else len(part.scale)
        for part in reversed(layers)
        if not isinstance(part, Rectifier)
    )
