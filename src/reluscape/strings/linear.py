"""`linear_path`: a path between two linear networks that nowhere rises above the higher of its ends."""

from __future__ import annotations

from itertools import pairwise
from time import perf_counter

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reluscape.errors import InputError, UnsupportedModelError
from reluscape.landscape import Landscape
from reluscape.network import Affine
from reluscape.strings.connection import Connection
from reluscape.strings.factors import State, joined
from reluscape.strings.finishing import Work, finish
from reluscape.strings.judging import Beads, Judge
from reluscape.strings.surface import Surface
from reluscape.strings.training import Schedule
from reluscape.validation import check_theta

Floats = NDArray[np.float64]

#: What rounding may add to the higher end's loss, relative to it or to the loss of zero parameters.
MARGIN = 1e-9


def linear_path(landscape: Landscape, theta_a: ArrayLike, theta_b: ArrayLike) -> Connection:
    """A path between two linear networks on which the loss stays at or below the higher of its ends.

    The outputs are `W_K ... W_1 x + b`, and the loss is convex in the product and b. From both ends all
    hidden biases go into the last layer's, and factors move one at a time such that the product stays the
    same, until all but one are equal; that one then goes straight, and the product with it. So the loss
    is constant but for one segment, on which it is convex. Every segment is then proved by itself
    (`path_maximum`).

    Args:
        landscape: Linear layers only, without weight decay.
        theta_a: Start, shape (params,); exactly the first bead.
        theta_b: End, shape (params,); exactly the last.

    Returns:
        The path. `level` is the loss of the higher end, and 1e-9 of it for rounding (or of the loss of
        zero parameters, if that is larger). Status "not_found" where a hidden layer is not wider than
        the narrower of inputs and outputs: of equal width, level sets need not be connected (`a b x` with
        targets x has the two branches of `a b = 1`), and there is no such construction.

    Cost: of the order of 3 K n beads for K layers and n = min(inputs, outputs), and a proof for each.

    Raises:
        InputError: Points of the wrong shape; weight decay; a last layer without bias behind others.
        UnsupportedModelError: Anything but linear layers, or layers that share their weights.

    Source: Freeman and Bruna, theorem 2.4, with wider layers and another path: theirs misses its own end.
    """
    began = perf_counter()
    ends = [check_theta(theta, landscape.size) for theta in (theta_a, theta_b)]
    _check_linear(landscape)
    surface = Surface(landscape, None)
    highest = max(landscape.loss(theta) for theta in ends)
    level = highest + MARGIN * max(highest, landscape.loss(np.zeros(landscape.size)))
    narrow = _narrow(landscape)
    beads = ends if narrow else _beads(landscape, *ends)
    tried = [f"no path is constructed: {narrow}"] if narrow else ["a path for linear networks"]
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
        if len(layer.weight) <= least:
            return (
                f"layer {layer.name!r} has {len(layer.weight)} units, not more than the {least} of the"
                " narrower end"
            )
    return ""


def _beads(landscape: Landscape, first: Floats, last: Floats) -> list[Floats]:
    """The points of the path."""
    networks = [_layers(landscape, theta) for theta in (first, last)]
    weights = [[layer.weight for layer in layers] for layers in networks]
    tall = len(weights[0][-1]) > weights[0][0].shape[1]
    states = joined(*([_transposed(state) if tall else state for state in weights]))
    beads = [first]
    for layers, part in zip(networks, states, strict=True):
        biases = _gathered(layers)
        beads += [_theta(landscape, _transposed(s) if tall else s, biases) for s in part]
    return _distinct([*beads, last])


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
    """Points without those that are the same as the one before; the ends stay."""
    return [beads[0], *(b for a, b in pairwise(beads) if not np.array_equal(a, b))]
