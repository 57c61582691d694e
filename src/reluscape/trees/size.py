"""How large a merge tree is and how long it will take, before it is begun."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from reluscape.arithmetic import arithmetic_called
from reluscape.block import Block
from reluscape.results import Result
from reluscape.trees.layer import Layer
from reluscape.trees.problem import Problem
from reluscape.trees.products import table_of
from reluscape.trees.proofs import Proofs
from reluscape.trees.stubborn import Stubborn
from reluscape.trees.sweep import Table
from reluscape.trees.values import SHARE, Chunk, swept

#: Cells and facets that are timed in so many places, from few to many, until that takes so many seconds.
PLACES, FEW, MANY, TIMED = 12, 64, 4096, 0.03
#: Runs of so many, in which are counted those that float64 does not decide; fewer where these are slow:
#: what it takes is that of so many seconds.
RUNS, RUN, COUNTED = 4000, 16, 0.25
#: Of those, how many are timed.
STUBBORN = 12
#: Seconds for joining a cell or facet, and bytes for what a ray puts out at a sample, if that is needed
#: in rational arithmetic.
JOINED, WHOLE = 1.5e-7, 60
#: Seconds, and bytes at most, for finding a unit's cells: for what a ray puts out at a sample, and for
#: a ray of a facet.
FOUND, FINDING = (9e-8, 8e-7), (30, 170)
#: Seconds for a cell or facet in rational arithmetic, and bytes for one and for what a ray puts out at a
#: sample.
EXACTLY, EXACT_BYTES = 2.5e-4, 500
#: Cells and facets that can be numbered.
LARGEST = 2**53


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class TreeSize(Result):
    """What a merge tree takes.

    Attributes:
        num_cells: Cells of the layer, exactly.
        num_facets: Facets between them, exactly.
        unit_cells: Cells of one unit.
        seconds: About how long one thread will take, from some of the cells and facets.
        bytes: About how much memory at most, with that for finding a unit's cells, which `tree_size`
            takes, too: less where units act alike.
    """

    num_cells: int
    num_facets: int
    unit_cells: int
    seconds: float
    bytes: int

    def summary(self) -> str:
        """The sizes in a sentence."""
        return (
            f"{self.num_cells:,} cells and {self.num_facets:,} facets: about {self.seconds:.2g} s on one"
            f" core once compiled, and {max(1, round(self.bytes / 2**20)):,} MiB"
        )

    def plot(self) -> go.Figure:
        """Cells and facets as bars."""
        from reluscape.report.charts import Series, bars

        counts = [self.num_cells, self.num_facets]
        return bars([Series("", np.array(["cells", "facets"]), np.array(counts))], "", "how many")


def tree_size(block: Block, *, arithmetic: str = "float64") -> TreeSize:
    """Count a layer's cells, and estimate what `merge_tree` will take for them.

    The time is that of cells and facets in some places; and that of some which float64 does not decide,
    whose share is counted in many more places: they are few, and a thousand times as slow. About half to
    twice of what it will be. In rational arithmetic it follows from the numbers of cells and facets.

    Args:
        block: The layer, as for `merge_tree`.
        arithmetic: That of the tree, "float64" or "rational".

    Cost: that of the cells of one unit, and a second or two.

    Raises:
        InputError: As `merge_tree`, but for `max_cells`.
        AnalysisError: As `merge_tree`.
        UnsupportedModelError: As `merge_tree`.

    Example:
        >>> import numpy as np
        >>> from reluscape import Landscape
        >>> from reluscape.train import mlp
        >>> x = np.linspace(-1, 1, 20)[:, None]
        >>> size = tree_size(Landscape(mlp((1, 2, 1), seed=0), x, x**2).block(0))
        >>> size.num_cells, size.num_facets
        (1600, 3200)
    """
    exact = arithmetic_called(arithmetic).exact
    problem = Problem.of(Layer.of(block), None, exact=exact)
    return _exact_size(problem) if exact else size_of(problem)


def _exact_size(problem: Problem) -> TreeSize:
    """The size of a problem's tree in rational arithmetic."""
    cells, facets = problem.num_cells, problem.num_facets
    total = EXACT_BYTES * (cells + facets + problem.columns.size)
    return TreeSize(cells, facets, problem.shape[1], EXACTLY * (cells + facets), total)


def size_of(problem: Problem) -> TreeSize:
    """The size of a problem's tree."""
    cells, facets = problem.num_cells, problem.num_facets
    counts = {"cells": cells, "facets": facets}
    if cells + facets > LARGEST:  # the first cells must do
        counts = {"cells": cells + facets}
    table = table_of(problem)
    paces = {kind: _pace(problem, table, kind, count) for kind, count in counts.items()}
    seen = [_seen(problem, table, kind, count, paces[kind]) for kind, count in counts.items()]
    undecided = sum(one.undecided for one in seen)
    seconds = sum(count * (paces[kind] + JOINED) for kind, count in counts.items())
    seconds += _slow(problem, table, [code for one in seen for code in one.codes], undecided)
    found = np.array([problem.columns.size, len(problem.facet_rays)])
    seconds += float(found @ FOUND)
    products = problem.columns.shape[1] ** 2 if problem.holds_products else 0
    numbers = 6 * cells + 2 * facets + products
    basis = problem.proof_words - problem.sign_words
    proofs = basis * problem.proof_kind.itemsize * (cells + facets)
    signs = round(8 * (1 + problem.sign_words) * sum(one.signed for one in seen))
    chunk = 8 * problem.proof_words * min(SHARE, cells + facets)  # at work, before it is kept
    rays = min(problem.columns.shape[1], round(undecided * problem.most_rays))
    columns = WHOLE * rays * len(problem.columns)
    total = 8 * (numbers + problem.columns.size) + proofs + signs + chunk + columns
    return TreeSize(cells, facets, problem.shape[1], seconds, max(total, int(found @ FINDING)))


class Seen(NamedTuple):
    """What was counted in many places, as of all.

    Attributes:
        codes: Those that float64 does not decide, each with its kind.
        undecided: About how many there are.
        signed: About how many proofs have signs.
    """

    codes: list[tuple[str, int]]
    undecided: float
    signed: float


def _pace(problem: Problem, table: Table, kind: str, count: int) -> float:
    """Seconds that float64 takes for a cell or facet: the mean over places of the faster of two times."""
    size = FEW
    while True:
        parts, seconds = _parts(kind, count, PLACES, size), 0.0
        for part in parts:
            seconds += min(_time(problem, table, part) for _ in range(2))
        tried = sum(part.stop - part.start for part in parts)
        if seconds >= TIMED or size >= MANY or tried == count:
            return seconds / max(tried, 1)
        size *= 4


def _time(problem: Problem, table: Table, part: Chunk) -> float:
    sums, start = np.empty(part.stop - part.start), perf_counter()
    swept(problem, table, part, sums)
    return perf_counter() - start


def _seen(problem: Problem, table: Table, kind: str, count: int, pace: float) -> Seen:
    """What float64 does not decide, and proofs with signs."""
    runs = int(np.clip(COUNTED / max(RUN * pace, COUNTED / RUNS), PLACES, RUNS))
    parts, codes, signed = _parts(kind, count, runs, RUN), list[tuple[str, int]](), 0
    for part in parts:
        sums = np.empty(part.stop - part.start)
        words = swept(problem, table, part, sums)
        codes += [(kind, part.start + place) for place in np.flatnonzero(sums < 0).tolist()]
        signed += len(Proofs.kept(problem, words[np.isfinite(sums)]).signs)
    share = count / max(sum(part.stop - part.start for part in parts), 1)
    return Seen(codes, len(codes) * share, signed * share)


def _slow(problem: Problem, table: Table, codes: list[tuple[str, int]], undecided: float) -> float:
    """Seconds in rational arithmetic, where what a ray puts out is found once."""
    if not codes:
        return 0.0
    stubborn, times = Stubborn(problem, table), []
    stubborn.solve(*codes[0])  # what is seldom needed is loaded
    some, before = codes[:: -(-len(codes) // STUBBORN)], stubborn.known
    for _ in range(2):
        start = perf_counter()
        for code in some:
            stubborn.solve(*code)
        times.append(perf_counter() - start)
    often = undecided / len(some)
    rays = float(max(stubborn.known - before, 1))
    first = min(often, problem.columns.shape[1] / rays) * max(times[0] - times[1], 0.0)
    return float(often * times[1] + first)


def _parts(kind: str, count: int, places: int, size: int) -> list[Chunk]:
    """Runs of cells or facets, one somewhere in each of equal shares; all, if these are as many."""
    count = min(count, LARGEST)
    if count <= places * size:
        return [Chunk(kind, 0, count)]
    share = count // places
    shifts = np.random.default_rng(0).integers(0, share - size + 1, size=places)
    starts = [place * share + shift for place, shift in enumerate(shifts.tolist())]
    return [Chunk(kind, start, start + size) for start in starts]
