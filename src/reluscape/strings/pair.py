"""Two models on their landscape: the ends of a string, over all coordinates in which they differ."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from reluscape.errors import InputError
from reluscape.landscape import Landscape
from reluscape.strings.buffers import State, flat_buffers, module_of
from reluscape.strings.carried import Carried, check_buffers
from reluscape.strings.connection import Connection, path_lengths
from reluscape.strings.ends import (
    End,
    Model,
    Statistics,
    has_statistics,
    landscape_of_end,
    on_own_statistics,
    outputs_off,
    own_value,
    read_end,
    statistics_between,
)
from reluscape.strings.judging import Beads, Judge
from reluscape.strings.keeping import Unfinished
from reluscape.strings.matching import match_units as units_matched
from reluscape.strings.surface import Metric, Surface

__all__ = ["Pair", "matched"]

Floats = NDArray[np.float64]

#: Levels by no more than this share above an end's value may be within its rounding errors.
NEAR = 1e-3
#: Relative difference of values that are computed in batches of other sizes.
SAME = 1e-9


@dataclass(frozen=True)
class Pair:
    """The ends on their landscape.

    Attributes:
        ends: Both models, parameters and buffers.
        metric: As given.
        carried: The landscape over parameters and the buffers that move.
        points: Both ends on it (2, wide).
    """

    ends: tuple[Model, Model]
    metric: str | Metric | Landscape | None
    carried: Carried
    points: Floats

    @classmethod
    def of(
        cls,
        landscape: Landscape,
        theta_a: End,
        theta_b: End,
        *,
        metric: str | Metric | Landscape | None,
        match_units: bool,
    ) -> Pair:
        """Both models; the second one's units matched, if so asked.

        Raises:
            InputError: As `connect` says.
        """
        first, last = (
            read_end(landscape, theta_a, "theta_a"),
            read_end(landscape, theta_b, "theta_b"),
        )
        if match_units:
            last = matched(landscape, first, last)
        landscapes = [landscape]
        if isinstance(metric, Landscape) and metric.size == landscape.size:
            metric.state_of(landscape.module_at())
            landscapes.append(metric)
            for name, end in (("theta_a", first), ("theta_b", last)):
                if end.state is not None:
                    check_buffers(landscapes, end.state, name)
        carried = Carried.between(landscapes, [first.state, last.state])
        points = np.stack([carried.at(end.theta, end.state) for end in (first, last)])
        return cls((first, last), metric, carried, points)

    @property
    def landscape(self) -> Landscape:
        """Of the parameters."""
        return self.carried.landscape

    @property
    def floating(self) -> bool:
        """Whether running statistics change along the path."""
        given = any(end.state is not None for end in self.ends)
        return given and has_statistics(self.landscape)

    def remarks(self) -> list[str]:
        """What becomes of buffers, in sentences."""
        found = []
        if self.floating:
            found.append(
                "between the ends, running statistics are those of the data at each model; the ends keep"
                " their own"
            )
        if self.carried.names:
            found.append(
                f"buffers in which the ends differ move along with the weights, and are not trained:"
                f" {', '.join(self.carried.names)}"
            )
        return found

    def surface(self, batched: bool, seed: int) -> Surface:
        """What the string lies on."""
        metric = self.metric
        if isinstance(metric, Landscape) and metric.size == self.landscape.size:
            metric = self.carried.on(metric)
        return self._surface(self.carried.wide, metric, batched, seed)

    def _surface(
        self,
        landscape: Landscape,
        metric: str | Metric | Landscape | None,
        batched: bool,
        seed: int,
    ) -> Surface:
        """A landscape as it is judged, batch norms by the data's own statistics."""
        if not self.floating:
            return Surface(landscape, metric, batched=batched, seed=seed)
        judged = Statistics(landscape).loss_on(metric) if isinstance(metric, Landscape) else None
        own = on_own_statistics(landscape)
        return Surface(own, metric, batched=batched, seed=seed, judged=judged, floating=True)

    def check_level(self, judge: Judge) -> float:
        """The higher end's value; ends that are above the level, or not proved below it, are refused."""
        surface, level = judge.surface, judge.level
        values = surface.values(self.points)
        self._check_models(surface)
        named = zip(("theta_a", "theta_b"), self.ends, self.points, values, strict=True)
        for name, end, point, value in named:
            top = float(value)
            if self.floating:
                top = max(top, own_value(self.landscape, end, self.metric))
            if judge.proves and level < (1.0 + NEAR) * top:
                top = max(top, judge.prove(point, point, level).upper)
            if not top <= level:
                raise InputError(
                    f"level must be at least the {surface.kind} of both ends, rounding errors included;"
                    f" received {level!r}, and {name} has {top!r}: raise it or train further"
                )
        return float(values.max())

    def _check_models(self, surface: Surface) -> None:
        """Refuse ends whose numbers, put in the landscape's model by their names, make another model.

        So it is where forward reads parameters or buffers from a list or a view of its own.
        """
        for name, end, point in zip(("theta_a", "theta_b"), self.ends, self.points, strict=True):
            own = landscape_of_end(self.landscape, end)
            judged = self.metric
            if isinstance(judged, Landscape):
                judged = landscape_of_end(judged, end)
            other = self._surface(own, judged, False, 0)
            apart = outputs_off(surface.landscape, point, other.landscape)
            if not apart and isinstance(judged, Landscape):
                value = float(surface.values(point[None])[0])
                right = float(other.values(end.theta[None])[0])
                apart = (
                    0.0 if np.isclose(value, right, rtol=SAME, atol=SAME) else abs(value - right)
                )
            if apart:
                raise InputError(
                    f"{name} must be a model whose outputs follow from its parameters and buffers by"
                    f" their names; received one whose outputs differ by {apart:.2g} where these are"
                    " given from outside: its forward reads them from elsewhere, such as a list, a view"
                    " or compiled code, or not for all data"
                )

    # ---- strings between them --------------------------------------------------------------------

    def first_beads(self, start: Connection | Unfinished | None) -> Beads:
        """The string to begin with."""
        first, last = self.points
        if start is None:
            return Beads([first, last], [0, 0])
        points = self._points_of(start)
        _check_string(start, points, len(first))
        if not self.has_ends(start):
            raise InputError(
                "start must have the given ends; received a connection between other models"
            )
        return Beads([first, *points[1:-1], last], [int(depth) for depth in start.depths])

    def has_ends(self, start: Connection | Unfinished) -> bool:
        """Whether a string lies between the two."""
        return np.array_equal(self._points_of(start)[[0, -1]], self.points)

    def has_values(self, found: Connection) -> bool:
        """Whether a string between the two has the values that it states: on other data it has not."""
        values = self.surface(True, 0).values(self._points_of(found))
        near = np.allclose(values, found.values, rtol=SAME, atol=0.0)
        return near and np.array_equal(found.buffers[[0, -1]], self._buffers(self.points))

    def told(self, found: Connection) -> Connection:
        """A string's parameters and buffers apart, as they are told."""
        thetas = self.carried.thetas(found.beads)
        length, length_weights = path_lengths(self.landscape, thetas)
        return replace(
            found,
            beads=thetas,
            buffers=self._buffers(found.beads),
            normalized_length=length,
            normalized_length_weights=length_weights,
        )

    def point_of(self, end: Model) -> Floats:
        """A model as a point of the wide landscape."""
        return self.carried.at(end.theta, end.state)

    def _points_of(self, start: Connection | Unfinished) -> Floats:
        """The points of a string on the wide landscape, or what it has where these do not fit."""
        beads = np.asarray(start.beads)
        if isinstance(start, Unfinished) or not self.carried.names:
            return beads
        own = np.tile(flat_buffers(self.landscape), (len(beads), 1))
        buffers = start.buffers if start.buffers.shape == own.shape else own
        fits = beads.ndim == 2 and beads.shape[1] == self.landscape.size
        return self.carried.joined(beads, buffers) if fits else beads

    def _buffers(self, points: Floats) -> Floats:
        """Buffers of a string (beads, buffers); no columns where all have the landscape's."""
        own = flat_buffers(self.landscape)
        ends = [flat_buffers(self.landscape, end.state) for end in self.ends]
        if not self.floating and all(one.tobytes() == own.tobytes() for one in ends):
            return np.zeros((len(points), 0))
        between: list[State] = [
            dict(self.carried.wide.module_at(point).named_parameters()) for point in points[1:-1]
        ]
        if self.floating:
            estimated = statistics_between(self.carried.wide, points)
            between = [a | b for a, b in zip(between, estimated, strict=True)]
        rows = [flat_buffers(self.landscape, state) for state in between]
        return np.stack([ends[0], *rows, ends[1]])


def _check_string(start: Connection | Unfinished, points: Floats, size: int) -> None:
    """Refuse a string that was put together wrongly."""
    depths = np.asarray(start.depths)
    fits = points.ndim == 2 and len(points) >= 2 and points.shape[1] == size
    if not fits or not np.isfinite(points).all():
        raise InputError(
            f"start must have finite beads of shape (2 or more, {size}); received shape {points.shape}"
            f"{' with NaN or infinite entries' * fits}"
        )
    whole = depths.dtype.kind in "iu" and depths.shape == points.shape[:1]
    if not whole or depths.min() < 0:
        raise InputError(
            f"start must have a depth of at least 0 for each of its {len(points)} beads; received"
            f" {depths!r}"
        )


def matched(landscape: Landscape, first: Model, last: Model) -> Model:
    """The second model with its hidden units in the order of the first one's."""
    if last.state is None:
        return Model(units_matched(landscape, first.theta, last.theta).theta, None)
    buffers = flat_buffers(landscape, last.state)
    found = units_matched(landscape, first.theta, last.theta, buffers=buffers)
    return Model(found.theta, landscape.state_of(module_of(landscape, found.theta, found.buffers)))
