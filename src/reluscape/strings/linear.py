"""`linear_path`: a path between two linear networks that nowhere rises above the higher of its ends."""

from __future__ import annotations

from itertools import pairwise
from time import perf_counter

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reluscape.errors import InputError, UnsupportedModelError
from reluscape.landscape import Landscape, check_landscape
from reluscape.network import Affine
from reluscape.strings.connection import Connection
from reluscape.strings.factors import State, joined
from reluscape.strings.finishing import Work, finish
from reluscape.strings.judging import Beads, Judge
from reluscape.strings.scaling import rescaled
from reluscape.strings.surface import Surface
from reluscape.strings.training import Schedule
from reluscape.validation import check_theta

Floats = NDArray[np.float64]

#: Why ends are not joined beside a layer of as many units as the narrower of inputs and outputs.
OPPOSITE = (
    "beside layer {!r}, of {} units as the narrower end, the ends are of opposite orientation, which no"
    " path changes while the product of all weights keeps its rank"
)
#: What rounding may add to the higher end's loss, relative to it or to the loss of zero parameters.
MARGIN = 1e-9


def linear_path(landscape: Landscape, theta_a: ArrayLike, theta_b: ArrayLike) -> Connection:
    """A path between two linear networks on which the loss stays at or below the higher of its ends.

    The outputs are `W_K ... W_1 x + b`, and the loss is convex in the product and b. From both ends all
    hidden biases go into the last layer's, and factors move such that the product stays the same, until
    all but one are equal; that one then goes straight, and the product with it. So the loss is constant
    but for one segment, on which it is convex. Every segment is then proved by itself (`path_maximum`).

    Beside a layer of exactly n = min(inputs, outputs) units the factors become equal only up to a
    positive number, and the product keeps the sign of a determinant. Then the last factor first goes
    down, and the number goes to 1 in steps there, on which the product rises a little and falls back.

    Args:
        landscape: Linear layers only, without weight decay.
        theta_a: Start, shape (params,); exactly the first bead.
        theta_b: End, shape (params,); exactly the last.

    Returns:
        The path. `level` is the loss of the higher end, and 1e-9 of it for rounding (or of the loss of
        zero parameters, if that is larger). Where no path is constructed it is the straight line, and
        `tried` says why: a hidden layer has fewer than n units; or it has n, both products have rank n,
        and the ends are of opposite orientation there. Then a path has to pass through products of lower
        rank, which may all lie above the level (`a b x` with targets x has the two branches of
        `a b = 1`), and none is looked for: "not_found" if the straight line rises above the level.

    Cost: of the order of 3 K n beads for K layers, 4 n^2 more for each layer of n units and up to some
    hundreds for its positive number, and a proof for each.

    Raises:
        InputError: Points of the wrong shape; weight decay; a last layer without bias behind others.
        UnsupportedModelError: Anything but linear layers, or layers that share their weights.

    Source: Freeman and Bruna, proposition 2.2, which takes layers of equal width for wide enough, and
    whose path misses its own end.
    """
    check_landscape(landscape, "linear_path")
    began = perf_counter()
    ends = [check_theta(theta, landscape.size) for theta in (theta_a, theta_b)]
    _check_linear(landscape)
    surface = Surface(landscape, None)
    highest = max(landscape.loss(theta) for theta in ends)
    level = highest + MARGIN * max(highest, landscape.loss(np.zeros(landscape.size)))
    why = _narrow(landscape)
    room = 0.5 * (highest + level)
    beads, why = (ends, why) if why else _beads(landscape, (ends[0], ends[1]), room)
    tried = [
        f"the straight line; no path is constructed: {why}" if why else "a path for linear networks"
    ]
    work = Work(
        surface=surface,
        judge=Judge(surface, level, MARGIN),
        beads=Beads(beads, [0, *[1] * (len(beads) - 2), 0]),
        goal=level,
        schedule=Schedule(),
        tried=tried,
    )
    work.judge.examine(work.beads)
    return finish(work, "linear", began)


def _check_linear(landscape: Landscape) -> None:
    """Refuse what is no chain of linear layers, and weight decay."""
    reading = landscape.reading
    if reading is None or reading.opaque:
        why = landscape.unreadable if reading is None else reading.reason
        raise UnsupportedModelError(f"linear_path needs linear layers only; {why}: use connect")
    for layer in reading.network.layers:
        if not isinstance(layer, Affine):
            raise UnsupportedModelError(
                f"linear_path needs linear layers only; received {layer!r}: use connect"
            )
        if landscape.is_shared(layer.name):
            raise UnsupportedModelError(
                f"layers must own their weights; {layer.name!r} shares them: use connect"
            )
    if landscape.weight_decay:
        raise InputError(
            "linear_path needs a loss without weight decay, which changes where the product of the"
            f" weights does not; received weight_decay={landscape.weight_decay}: use connect"
        )
    layers = reading.network.affine
    if layers[-1].bias is None and any(layer.bias is not None for layer in layers):
        raise InputError(
            "the last layer must have a bias where others have one, which it takes over: use connect"
        )


def _narrow(landscape: Landscape) -> str:
    """Which hidden layer is too narrow for the construction, in words; empty if none is."""
    assert landscape.reading is not None
    network = landscape.reading.network
    least = min(network.num_inputs, network.num_outputs)
    for layer in network.affine[:-1]:
        if len(layer.weight) < least:
            return (
                f"layer {layer.name!r} has {len(layer.weight)} units, fewer than the {least} of the"
                " narrower end"
            )
    return ""


def _beads(
    landscape: Landscape, ends: tuple[Floats, Floats], level: float
) -> tuple[list[Floats], str]:
    """The points of the path, or the ends and why there is none."""
    first, last = ends
    networks = [_layers(landscape, theta) for theta in ends]
    weights = [[layer.weight for layer in layers] for layers in networks]
    tall = len(weights[0][-1]) > weights[0][0].shape[1]
    states = joined(*([_transposed(state) if tall else state for state in weights]))
    names = [layer.name for layer in (networks[0][::-1] if tall else networks[0])]
    if states.opposite:
        layer = networks[0][len(names) - 1 - states.opposite if tall else states.opposite - 1]
        return [first, last], OPPOSITE.format(layer.name, len(layer.weight))
    parts = [
        [_theta(landscape, _transposed(s) if tall else s, _gathered(layers)) for s in part]
        for layers, part in zip(networks, (states.begin, states.end), strict=True)
    ]
    sizes = [factor.size for factor in states.begin[0]]
    weighed = [landscape.positions(n)[:size] for n, size in zip(names, sizes, strict=True)]
    free = np.union1d(weighed[0], landscape.positions(networks[0][-1].name)[weights[0][-1].size :])
    between = rescaled(landscape, parts[0][-1], parts[1][0], weighed, free, states.scales, level)
    if between is None:
        return [first, last], "the factors differ by numbers that take too many steps"
    return _distinct([first, *parts[0], *between, *parts[1], last]), ""


def _layers(landscape: Landscape, theta: Floats) -> tuple[Affine, ...]:
    """The linear layers at a point."""
    reading = landscape.at(theta).reading
    assert reading is not None
    return reading.network.affine


def _transposed(state: State) -> State:
    """Factors of the transposed product."""
    return [factor.T for factor in reversed(state)]


def _gathered(layers: tuple[Affine, ...]) -> list[Floats | None]:
    """Biases of the same function that are zero in all layers but the last."""
    total = np.zeros(layers[0].weight.shape[1])
    for layer in layers:
        total = layer(total)
    biases = [None if layer.bias is None else np.zeros(len(layer.bias)) for layer in layers]
    return [*biases[:-1], None if biases[-1] is None else total]


def _theta(landscape: Landscape, state: State, biases: list[Floats | None]) -> Floats:
    """Parameters of factors and biases."""
    assert landscape.reading is not None
    theta = landscape.theta
    for name, weight, bias in zip(landscape.reading.network.names, state, biases, strict=True):
        parts = [weight.ravel()] + ([] if bias is None else [bias])
        theta[landscape.positions(name)] = np.concatenate(parts)
    return theta


def _distinct(beads: list[Floats]) -> list[Floats]:
    """Points without inner ones that are the same as the one before or the last; the ends stay."""
    first, last = beads[0], beads[-1]
    inner = [b for a, b in pairwise(beads[:-1]) if not np.array_equal(a, b)]
    while inner and np.array_equal(inner[-1], last):
        inner.pop()
    return [first, *inner, last]
