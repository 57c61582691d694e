"""The trials of `reproduce freeman` on polynomials: pairs of small networks joined at one level."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.landscape import Landscape
from reluscape.papers.freeman_nets import Batch, is_weight, landscape, train_to, trained_ends
from reluscape.papers.freeman_strings import Rules, String, sample_strings
from reluscape.strings.connecting import connect
from reluscape.strings.connection import Connection
from reluscape.strings.maximum import path_maximum
from reluscape.strings.training import Schedule

Floats = NDArray[np.float64]

#: Positions on a segment in the scripts: 0, 0.01, ..., 0.99.
POSITIONS = np.arange(100) / 100.0
#: Steps that `connect` gives a bead.
OWN_STEPS = 3_000


def pairs_at_level(parameters: dict[str, Any], seed: int) -> dict[str, Any]:
    """Train pairs of 1-4-4-1 networks to a level and look for paths below it.

    Args:
        parameters: `task` ("quadratic" or "cubic"), `network` (see `network`), `level` on the mean
            absolute error, `runs` (pairs), `samples` (points evenly spaced in [0, 1]), `rate` (Adam's),
            `accept`, `alpha` and `always` (of `Rules`), and `own` (of how many pairs `connect` is
            asked, too).
        seed: Of initial weights.

    Returns:
        For the scripts' search `beads`, `length` and `length_all` (pairs,), lengths over weights and
        over weights and biases, NaN where no path was found; `proved`, of the paths accepted by the
        scripts, the highest certified (ReLU) or densely sampled (sigmoid) maximum over the level
        (pairs,). For `connect` `own_beads`, `own_length`, `own_length_all`, and the share of pairs
        whose verdict is proved. `straight` (pairs,): the straight line's highest value over the level.
        `redrawn`: networks that did not reach the level and were left out; with many of them there are
        fewer pairs.
    """
    batch = Batch(landscape(*(parameters[name] for name in ("task", "network", "samples"))))
    level, rate = parameters["level"], parameters["rate"]
    train = partial(train_to, batch, rate=rate)
    ends, redrawn = trained_ends(batch, 2 * parameters["runs"], level, rate, seed)
    rules = Rules(parameters["alpha"], parameters["accept"], parameters["always"])
    firsts, lasts = ends[::2], ends[1::2]
    strings = sample_strings(firsts, lasts, level, rules, train, partial(on_grid, batch))
    weights = is_weight(batch.landscape)
    found: dict[str, Any] = {
        "redrawn": redrawn,
        "straight": on_grid(batch, firsts, lasts) / level,
        "beads": _over(strings, lambda one: len(one.beads)),
        "length": _over(strings, lambda one: one.normalised_length(weights)),
        "length_all": _over(strings, lambda one: one.normalised_length(weights | True)),
    }
    found["connected"] = float(np.isfinite(found["beads"]).mean())
    count = min(parameters["own"], len(strings))
    if count:
        found |= _by_connect(batch.landscape, firsts[:count], lasts[:count], level, strings[:count])
    return found


def on_grid(batch: Batch, starts: Floats, stops: Floats) -> Floats:
    """The highest of the scripts' 100 values on each segment (segments,)."""
    return np.asarray(batch.along(starts, stops, POSITIONS).max(axis=1))


def proved_height(own: Landscape, string: String) -> float:
    """The highest value on a string: a certified bound where there is one, else a dense grid's."""
    steps = zip(string.beads[:-1], string.beads[1:], strict=True)
    peaks = [path_maximum(own, a, b) for a, b in steps]
    return max(p.lower if p.tier == "sampled" else p.upper for p in peaks)


def _by_connect(
    own: Landscape, firsts: Floats, lasts: Floats, level: float, strings: list[String]
) -> dict[str, Any]:
    """The library's search at the level itself, and how high the scripts' paths really are."""
    schedule = Schedule(max_steps=OWN_STEPS)
    ours = [
        connect(own, a, b, level, schedule=schedule) for a, b in zip(firsts, lasts, strict=True)
    ]
    return {
        "own_beads": _joined(ours, lambda one: one.num_beads),
        "own_length": _joined(ours, lambda one: one.normalized_length_weights),
        "own_length_all": _joined(ours, lambda one: one.normalized_length),
        "own_connected": float(np.mean([one.status == "connected" for one in ours])),
        "own_proved": float(np.mean([one.tier != "sampled" for one in ours])),
        "proved": _over(strings, lambda one: proved_height(own, one) / level),
    }


def _joined(ours: list[Connection], measure: Callable[[Connection], float]) -> Floats:
    """A measure of the connected, NaN for the others (pairs,)."""
    return np.array([float(measure(c)) if c.status == "connected" else np.nan for c in ours])


def _over(strings: list[String], measure: Callable[[String], float]) -> Floats:
    """A measure of the strings that connect, NaN for the others (pairs,)."""
    return np.array([float(measure(one)) if one.connected else np.nan for one in strings])
