"""Check a connection against its landscape: everything that it states is computed again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reluscape.certificate import Verification
from reluscape.check_block import RejectedError, require
from reluscape.landscape import Landscape
from reluscape.strings.connection import Connection, path_lengths
from reluscape.strings.ends import has_statistics, on_own_statistics
from reluscape.strings.judging import TIERS, Judge, Segment
from reluscape.strings.surface import Metric, Surface

Floats = NDArray[np.float64]

#: Relative rounding error forgiven of losses and lengths that are computed again, perhaps elsewhere.
ROUNDING = 1e-9


def check_connection(
    found: Connection, landscape: Landscape, metric: str | Metric | None = None
) -> Verification:
    """Whether a connection's numbers and its verdict come out again.

    Every segment's maximum is found anew: proved where it was proved, on the same grid where it was
    looked at. `seconds`, `gradients`, `tried` and how the string was found are told, not proved.

    Args:
        found: The connection.
        landscape: Whose loss it is about; for kind "other loss" that other one.
        metric: For another kind, the metric.
    """
    try:
        _check_form(found, landscape)
        surface = _surface(found, landscape, metric)
        _check_numbers(found, surface)
        segments = _check_segments(found, Judge(surface, found.level, 1e-3))
        _check_verdict(found, segments)
    except RejectedError as rejection:
        return Verification(False, str(rejection))
    claim = found.summary().splitlines()[0]
    return Verification(True, f"recomputed from network and data: {claim}")


def _check_form(found: Connection, landscape: Landscape) -> None:
    """The arrays fit together and to the landscape."""
    beads = found.beads
    form = beads.ndim == 2 and len(beads) >= 2 and beads.shape[1] == landscape.size
    require(form, f"its beads do not have the landscape's {landscape.size} parameters")
    require(bool(np.isfinite(beads).all()), "its beads are not finite")
    require(
        found.values.shape == found.depths.shape == (len(beads),), "not one value for each bead"
    )
    parts = (found.lower, found.upper, found.positions, np.array(found.tiers), found.curve)
    require(all(len(part) == len(beads) - 1 for part in parts), "not one bound for each segment")
    require(found.curve.ndim == 2 and found.curve.shape[1] >= 2, "its curve is none")
    require(set(found.tiers) <= set(TIERS), "an unknown tier")
    require(found.objective == landscape.loss_name, f"it is about the loss {found.objective!r}")
    decay = found.weight_decay == landscape.weight_decay
    require(decay, f"it is about the weight decay {found.weight_decay!r}")
    require(found.status in ("connected", "not_found"), f"unknown status {found.status!r}")
    inside = (found.positions >= 0.0) & (found.positions <= 1.0)
    require(bool(inside.all()), "a position lies outside of its segment")


def _surface(found: Connection, landscape: Landscape, metric: str | Metric | None) -> Surface:
    """What the values are of."""
    told = metric is not None or found.kind in ("loss", "other loss")
    require(told, f"it is about {found.kind!r}: tell what that is by metric")
    floating = found.buffers.ndim == 2 and found.buffers.shape[1] > 0
    if not floating:
        return Surface(landscape, metric)
    require(found.kind != "other loss", "running statistics of other data are not known here")
    require(has_statistics(landscape), "the landscape's model keeps no running statistics")
    return Surface(on_own_statistics(landscape), metric, floating=True)


def _check_numbers(found: Connection, surface: Surface) -> None:
    """Values at beads and along curves, and the lengths."""
    _same(found.values, surface.values(found.beads), "the value at a bead")
    times = np.linspace(0.0, 1.0, found.curve.shape[1])
    along = surface.along(found.beads[:-1], found.beads[1:], times)
    _same(found.curve, along, "its curve")
    times = np.linspace(0.0, 1.0, len(found.straight))
    along = surface.along(found.beads[:1], found.beads[-1:], times)[0]
    _same(found.straight, along, "the straight line's curve")
    lengths = path_lengths(surface.landscape, found.beads)
    stated = (found.normalized_length, found.normalized_length_weights)
    _same(np.array(stated), np.array(lengths), "its length")


def _check_segments(found: Connection, judge: Judge) -> list[Segment]:
    """Maxima of the segments, which lie within the stated bounds."""
    segments = []
    for k, (a, b) in enumerate(zip(found.beads[:-1], found.beads[1:], strict=True)):
        low, high = float(found.lower[k]), float(found.upper[k])
        at = judge.surface.values((a + found.positions[k] * (b - a))[None])[0]
        require(low <= at + _slack(at), f"segment {k} does not rise to its lower bound")
        proved = judge.prove(a, b, found.level)
        segments.append(proved)
        require(high >= proved.lower - _slack(proved.lower), f"segment {k} rises above its bound")
        weaker = TIERS.index(found.tiers[k]) > TIERS.index(proved.tier)
        require(not weaker, f"segment {k} is {proved.tier}, not {found.tiers[k]}")
        bounded = found.tiers[k] == "sampled" or high + _slack(high) >= min(
            proved.upper, found.level
        )
        require(bounded, f"the bound of segment {k} is not proved")
    return segments


def _check_verdict(found: Connection, segments: list[Segment]) -> None:
    """The verdict, the tier and the maximum follow from the segments."""
    weakest = min(found.tiers, key=TIERS.index)
    require(found.tier == weakest, f"its tier is {weakest}, not {found.tier}")
    heights = np.where(np.array(found.tiers) == "sampled", found.lower, found.upper)
    require(found.maximum == heights.max(), "its maximum is not that of its segments")
    below = all(one.below(found.level) for one in segments)
    if found.status == "connected":
        require(found.maximum <= found.level, "its maximum is above the level")
        require(below, "a segment is not below the level")


def _same(stated: Floats, computed: Floats, what: str) -> None:
    """Equal but for rounding."""
    scale = float(np.abs(computed).max(initial=0.0))
    equal = np.allclose(stated, computed, rtol=ROUNDING, atol=ROUNDING * scale)
    require(bool(equal), f"{what} is another than the landscape gives")


def _slack(value: float) -> float:
    """Rounding of a value."""
    return ROUNDING * abs(value)
