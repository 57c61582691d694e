"""Several models of one shape, the level that strings between them shall stay below, and the strings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from reluscape.crossing import cells_crossed
from reluscape.errors import InputError
from reluscape.landscape import Landscape
from reluscape.progress import Progress, Stop
from reluscape.strings.connecting import connect
from reluscape.strings.connection import Connection
from reluscape.strings.ends import read_end
from reluscape.strings.pair import Pair
from reluscape.strings.spanning import SpanningTree, spanning_tree
from reluscape.strings.usual import flat, usual_level

__all__ = ["Models"]

DEFAULT = (
    "the worst model's {kind} plus a tenth of what the straight line rises above it, and at least 1.1"
    " times the worst model's"
)


@dataclass(frozen=True, slots=True)
class Models:
    """Models of one shape on their data.

    Attributes:
        names: What they are called.
        modules: The models.
        landscape: Of the first one.
        kind: What is held below the level: "loss" or "error_rate".
        values: It at each of them.
        level: What strings shall stay below.
        why: Where the level comes from.
    """

    names: tuple[str, ...]
    modules: tuple[nn.Module, ...]
    landscape: Landscape
    kind: str
    values: tuple[float, ...]
    level: float
    why: str

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        modules: Sequence[nn.Module],
        landscape: Landscape,
        *,
        kind: str = "loss",
        level: float | None = None,
        match_units: bool = False,
    ) -> Models:
        """With a level, or the usual one, for units as they are or matched.

        Raises:
            InputError: Models of different shapes or forwards, with other buffers that cannot move along
                a path, with a batch norm that is used twice, or above the level.
        """
        for name, module in zip(names, modules, strict=True):
            try:
                landscape.state_of(module)
            except InputError as error:
                raise InputError(
                    f"{name} is no model of the shape of {names[0]}: {error}"
                ) from error
            read_end(landscape, module, name)
        metric = None if kind == "loss" else kind
        usual, values = usual_level(landscape, modules, metric, match_units=match_units)
        said, worst = kind.replace("_", " "), max(range(len(values)), key=values.__getitem__)
        if level is not None and not level >= values[worst]:
            raise InputError(
                f"expected a level of at least the {said} of all models; received {level:g}, and"
                f" {names[worst]} has {values[worst]:.6g}: raise --level, or train further"
            )
        why = DEFAULT.format(kind=said) if level is None else "as asked"
        chosen = usual if level is None else level
        return cls(tuple(names), tuple(modules), landscape, kind, values, chosen, why)

    @property
    def metric(self) -> str | None:
        """As `connect` takes it."""
        return None if self.kind == "loss" else self.kind

    def pair(self, a: int, b: int, match_units: bool) -> Pair:
        """Two of them on the landscape of the first."""
        ends = self.modules[a], self.modules[b]
        return Pair.of(self.landscape, *ends, metric=self.metric, match_units=match_units)

    def join(self, a: int, b: int, progress: Progress, **search: Any) -> Connection:
        """The string between two of them."""
        ends = self.modules[a], self.modules[b]
        options = {"metric": self.metric, "progress": progress} | search
        return connect(self.landscape, *ends, self.level, **options)

    def cells(self, found: Connection, progress: Progress) -> int | None:
        """Activation cells on a string; None where they cannot be counted, or after Ctrl-C."""
        if found.buffers.shape[1]:  # other statistics at each point: no cells of one network
            return None
        count, segments = 1, found.num_beads - 1
        try:
            for k in range(segments):
                progress("counting cells", k / segments)
                count += cells_crossed(self.landscape, found.beads[k], found.beads[k + 1]) - 1
        except (InputError, Stop):
            return None
        return count

    def tree(self, found: Mapping[tuple[int, int], Connection]) -> SpanningTree:
        """The tree of the lowest strings, given one for each pair in the order of `combinations`."""
        strings = iter(found.values())
        thetas = [flat(self.landscape, module) for module in self.modules]
        return spanning_tree(self.landscape, thetas, join=lambda *_: next(strings))
