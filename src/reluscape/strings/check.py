"""`verify` of a connection: its path measured again, from nothing but beads, network and data."""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from reluscape.certificate import Verification
from reluscape.check_block import RejectedError, require
from reluscape.digits import rounded_up
from reluscape.landscape import Landscape
from reluscape.strings.carried import with_module
from reluscape.strings.check_statistics import widened
from reluscape.strings.check_values import SAME, TIERS, String
from reluscape.strings.connection import Connection
from reluscape.strings.ends import NORMED, has_statistics, on_own_statistics
from reluscape.strings.judging import COARSE
from reluscape.strings.surface import Metric, suited

__all__ = ["check_connection"]

Floats = NDArray[np.float64]


def check_connection(
    found: Connection,
    landscape: Landscape,
    metric: str | Metric | Landscape | None = None,
) -> Verification:
    """Measure a path again: values, lengths, and the maximum of every segment.

    Values come from single forward passes, not from the batches of the search; bounds of tier "exact"
    and "certified" from `path_maximum` of each segment, asked for no more than is stated. A sampled
    segment is looked at on a grid of 257 points, and searched beside the highest, if it is said to be
    below the level, and else at the 33 of its curve. Values that are stated to have been seen are
    computed again where they are said to lie; that of the straight line, whose place is not told, may be
    up to a thousandth above what is proved of a certified line, and no more than rounding above others.
    What is told, not proved: `method`, `depths` but for the ends, `gradients`, `losses`, `seconds`,
    `unbatched`, `seed`, `tried`, and for `matched` units `unmatched_lower`. A statement that was made
    weaker, such as a higher level, is still true.

    Args:
        found: The connection.
        landscape: That of the search.
        metric: As `connect` was given it; needed where it was a function or another landscape. That may
            stand for both landscapes where models have no running statistics.

    Cost: 33 losses for each segment, and as much as it took to prove its maximum.
    """
    judge, trained_on = landscape, landscape
    if isinstance(metric, Landscape):
        judge, metric = metric, None
    metric = metric if callable(metric) else None
    try:
        with suited(landscape):
            _shapes(found, judge)
            _measures(found, judge)
            string = String.of(*widened(found, judge, trained_on), metric)
            string.check_values()
            _check_models(found, judge, trained_on, string)
            string.check_segments()
            string.check_straight()
    except RejectedError as rejection:
        return Verification(False, str(rejection))
    except (TypeError, ValueError, IndexError, AttributeError) as error:  # a field of another type
        return Verification(False, f"it is not an answer of connect: {error}")
    return Verification(True, f"recomputed from network and data: {sentence(found)}")


def sentence(found: Connection) -> str:
    """What is stated of the path."""
    how = "on a grid, which proves nothing" if found.tier == "sampled" else found.tier
    if found.status == "connected" and found.tier == "sampled":
        return (
            f"connected as far as a grid shows, which proves nothing: {found.kind} rises to"
            f" {found.maximum:.6g}, level {found.level:.6g}"
        )
    if found.status == "connected":
        return (
            f"connected: {found.kind} at most {rounded_up(found.maximum):.6g} ({how}), level"
            f" {found.level:.6g}"
        )
    return (
        f"this path rises to {found.highest:.6g} ({how}); none below level"
        f" {found.level:.6g} was found, which does not show that there is none"
    )


# ---- shapes ------------------------------------------------------------------------------------


def _shapes(found: Connection, landscape: Landscape) -> None:
    """Everything is an array or a number of the kind that it has to be."""
    require(
        found.beads.ndim == 2 and len(found.beads) >= 2 and found.beads.shape[1] == landscape.size,
        f"its beads are no path of models with {landscape.size} parameters",
    )
    require(bool(np.isfinite(found.beads).all()), "its beads hold NaN or infinite numbers")
    count, points = len(found.beads), COARSE + 2
    expected = {
        "values": (count,), "depths": (count,), "lower": (count - 1,), "upper": (count - 1,),
        "positions": (count - 1,), "curve": (count - 1, points), "straight": (points,),
    }  # fmt: skip
    for name, shape in expected.items():
        require(getattr(found, name).shape == shape, f"its {name} are not one for each")
    buffers = sum(buffer.numel() for buffer in landscape.module_at().buffers())
    fitting = found.buffers.shape in ((count, 0), (count, buffers))
    require(fitting, "its buffers do not fit")
    require(len(found.tiers) == count - 1, "it does not tell all of its segments")
    require({*found.tiers, found.straight_tier} <= set(TIERS), "it has an unknown tier")
    require(bool(((found.positions >= 0) & (found.positions <= 1)).all()), "its positions are none")
    ends = found.depths[[0, -1]]
    require(not ends.any() and bool((found.depths >= 0).all()), "its depths are none")
    counted = (found.gradients, found.losses, found.seconds, found.seed)
    require(all(number >= 0 for number in counted), "its counts are none")
    require(math.isfinite(found.level), "its level is none")
    same = found.objective == landscape.loss_name
    require(same, f"it is about the loss {found.objective!r}, not {landscape.loss_name!r}")
    decay = landscape.weight_decay
    same = found.weight_decay == decay
    require(same, f"it is about weight decay {found.weight_decay!r}, not {decay!r}")


# ---- what follows from them --------------------------------------------------------------------


def _measures(found: Connection, landscape: Landscape) -> None:
    """Maximum, tier, status and lengths."""
    tier = min(found.tiers, key=TIERS.index)
    require(found.tier == tier, f"its tier is {tier!r}")
    bounded = [one != "sampled" for one in found.tiers]
    heights = np.where(bounded, found.upper, found.lower)
    require(found.maximum == heights.max(), f"its maximum is {heights.max():.6g}")
    require(found.status in ("connected", "not_found"), f"unknown status {found.status!r}")
    below = found.maximum <= found.level
    require(below or found.status == "not_found", "its maximum is above its level")
    missed = found.status == "connected" or not (below and all(bounded))
    require(missed, "it is connected, and says that no path was found")
    before = isinstance(found.matched, bool) and found.matched != math.isnan(found.unmatched_lower)
    require(before, "whether its units were matched is told in two ways")
    names = [(name, p.numel()) for name, p in landscape.module_at().named_parameters()]
    biased = np.repeat([name.split(".")[-1].find("bias") >= 0 for name, _ in names],
                       [size for _, size in names])  # fmt: skip
    whole, weights = _length(found.beads), _length(found.beads[:, ~biased])
    require(_near(found.normalized_length, whole), f"its normalised length is {whole:.6g}")
    near = _near(found.normalized_length_weights, weights)
    require(near, f"its normalised length without biases is {weights:.6g}")


def _near(stated: float, value: float) -> bool:
    return stated == value or abs(stated - value) <= SAME * value


def _length(beads: Floats) -> float:
    """Length of a path over the distance of its ends."""
    steps = [float(np.linalg.norm(b - a)) for a, b in itertools.pairwise(beads)]
    distance, length = float(np.linalg.norm(beads[-1] - beads[0])), math.fsum(steps)
    if distance > 0.0:
        return length / distance
    return math.inf if length > 0.0 else 1.0


def _check_models(
    found: Connection, judge: Landscape, trained_on: Landscape, string: String
) -> None:
    """Each bead as a model of its own has the value that is stated of it.

    The ends of a path along which running statistics change have that with those of the data, and with
    their own are not above the level of a connected path.
    """
    floating = bool(found.buffers.shape[1]) and has_statistics(trained_on)
    for k in np.flatnonzero(np.isfinite(string.values)).tolist():
        own, end = with_module(judge, found.module(judge, k)), k in (0, found.num_beads - 1)
        value = string.height_on(own, found.beads[k])
        if floating and end:
            below = found.status != "connected" or value <= found.level
            require(below, f"with its own buffers bead {k} is above the level: {value:.6g}")
            if judge is not trained_on:
                continue
            value = string.height_on(on_own_statistics(own), found.beads[k])
        require(
            string.is_same(float(found.values[k]), value, NORMED if floating else 0.0),
            f"the model of bead {k} has another value: {value:.6g}",
        )
