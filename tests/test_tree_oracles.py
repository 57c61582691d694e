"""Merge trees against floods, against other programs, and against descents from everywhere."""

from __future__ import annotations

import re
import runpy
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from test_merge_tree import layer, minimax

from reluscape import certify, descend, merge_tree
from reluscape.block import Block
from reluscape.trees.tree import MergeTree

# ---- the loss, and its maximum on segments -----------------------------------------------------------


@dataclass(frozen=True)
class Net:
    """A network `shift + v . relu(W x + b)` of one output, of which W and b are free.

    Points are rows of all weights, then all biases, as in the block.
    """

    features: np.ndarray
    readout: np.ndarray
    target: np.ndarray
    absolute: bool
    bias: bool

    @classmethod
    def of(cls, block: Block) -> Self:
        """Read the module, not the block."""
        landscape = block.landscape
        state = {name: value.numpy() for name, value in landscape.module_at().state_dict().items()}
        bias = "0.bias" in state
        features = np.hstack([landscape.inputs, np.ones((landscape.num_samples, 1))])
        return cls(
            features if bias else landscape.inputs, state["2.weight"][0],
            landscape.targets[:, 0] - state["2.bias"], landscape.loss_name == "l1", bias,
        )  # fmt: skip

    @property
    def size(self) -> int:
        return len(self.readout) * self.features.shape[1]

    def rows(self, points: np.ndarray) -> np.ndarray:
        """Weights of each unit, its bias last (points, units, features)."""
        units, width = len(self.readout), self.features.shape[1]
        if not self.bias:
            return points.reshape(-1, units, width)
        weights = points[:, : units * (width - 1)].reshape(-1, units, width - 1)
        return np.concatenate([weights, points[:, units * (width - 1) :, None]], axis=2)

    def points(self, rows: np.ndarray) -> np.ndarray:
        """The inverse."""
        if not self.bias:
            return rows.reshape(len(rows), -1)
        return np.hstack([rows[:, :, :-1].reshape(len(rows), -1), rows[:, :, -1]])

    def switching(self, points: np.ndarray) -> np.ndarray:
        """Switching values (points, samples, units)."""
        return np.einsum("nf,puf->pnu", self.features, self.rows(points))

    def losses(self, points: np.ndarray) -> np.ndarray:
        gap = np.maximum(self.switching(points), 0.0) @ self.readout - self.target
        return (np.abs(gap) if self.absolute else gap**2).mean(axis=1)

    def highest(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The largest loss on segments, and where: the loss is convex between a segment's kinks."""
        first, last = self.switching(a), self.switching(b)
        with np.errstate(divide="ignore", invalid="ignore"):
            times = (first / (first - last)).reshape(len(a), -1)
        times = np.where((times > 0) & (times < 1), times, 0.0)
        times = np.hstack([times, np.ones((len(a), 1))])
        spots = a[:, None] + times[:, :, None] * (b - a)[:, None]
        values = self.losses(spots.reshape(-1, a.shape[1])).reshape(times.shape)
        best = values.argmax(axis=1)[:, None]
        start = self.losses(a)
        top, at = (
            np.take_along_axis(values, best, 1)[:, 0],
            np.take_along_axis(times, best, 1)[:, 0],
        )
        return np.maximum(top, start), np.where(top >= start, at, 0.0)


@dataclass
class Graph:
    """Points and segments between them; the lowest way between two of the points.

    Its level is attained, so it is never below the barrier, and each segment can only lower it.
    """

    net: Net
    places: np.ndarray
    edges: np.ndarray = field(default_factory=lambda: np.empty((0, 2), dtype=int))
    tops: np.ndarray = field(default_factory=lambda: np.empty(0))
    at: np.ndarray = field(default_factory=lambda: np.empty(0))

    def add(self, edges: np.ndarray) -> None:
        """Add segments between known points; of equal ones one is kept."""
        edges = np.sort(edges[edges[:, 0] != edges[:, 1]], axis=1)
        tops, at = self.net.highest(self.places[edges[:, 0]], self.places[edges[:, 1]])
        every = np.vstack([self.edges, edges])
        self.edges, kept = np.unique(every, axis=0, return_index=True)
        self.tops, self.at = np.r_[self.tops, tops][kept], np.r_[self.at, at][kept]

    @property
    def spanning(self) -> coo_array:
        """The minimum spanning tree; levels are raised by one, as zero is no edge there."""
        count = len(self.places)
        graph = coo_array((self.tops + 1.0, self.edges.T), shape=(count, count))
        return minimum_spanning_tree(graph.tocsr()).tocoo()

    def bottleneck(self, first: int, last: int) -> tuple[float, int]:
        """Level of the lowest way between two points, and its highest segment."""
        tree = self.spanning
        _, before = breadth_first_order(tree.tocsr(), first, directed=False)
        way, here = [], last
        while here != first:
            way.append(sorted((here, int(before[here]))))
            here = int(before[here])
        keys = self.edges[:, 0] * len(self.places) + self.edges[:, 1]
        steps = np.array(way)
        on_way = np.searchsorted(keys, steps[:, 0] * len(self.places) + steps[:, 1])
        highest = on_way[self.tops[on_way].argmax()]
        return float(self.tops[highest]), int(highest)


# ---- two parameters: a flood over a grid, finer and finer where it is held up -------------------------

#: Across the window, of the first grid and of the last one, in steps of the ends; how much finer each is.
FINEST, FIRST, LAST, FINER = 2**30, 2**24, 2**8, 4
#: Steps around the highest segment that are refined; how to get to half of the neighbours.
AROUND = 16
#: Refinements without a fall after which nothing more is to be found.
STALLED = 10
NEXT = [(0, 1), (1, 0), (1, 1), (1, -1)]


@dataclass
class Flood:
    """Squares of grids in a window, with all neighbours joined, diagonals included."""

    graph: Graph
    widths: np.ndarray
    ends: np.ndarray
    known: np.ndarray = field(default_factory=lambda: np.empty((0, 2), dtype=int))

    @classmethod
    def between(cls, net: Net, a: np.ndarray, b: np.ndarray, widths: np.ndarray) -> Self:
        """Over the window from -widths to widths."""
        ends = np.rint((np.stack([a, b]) / widths + 1.0) * (FINEST // 2)).astype(int)
        flood = cls(Graph(net, np.empty((0, 2))), widths, ends)
        flood.refine(np.zeros(2, dtype=int), np.full(2, FINEST), FIRST)
        return flood

    def refine(self, low: np.ndarray, high: np.ndarray, step: int) -> None:
        """Add the grid of a step between two corners; ends in it are joined with their square's."""
        low, high = np.maximum(low, 0), np.minimum(high, FINEST)
        axes = [np.arange(low[k], high[k] + 1, step) for k in range(2)]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        pairs = []
        for i, j in NEXT:
            left = grid[: len(grid) - i, max(-j, 0) : grid.shape[1] - max(j, 0)]
            right = grid[i:, max(j, 0) : grid.shape[1] + min(j, 0)]
            pairs.append(np.stack([left.reshape(-1, 2), right.reshape(-1, 2)], axis=1))
        for end in self.ends:
            if (low <= end).all() and (end <= high).all():
                square = end // step * step + step * np.array(list(product((0, 1), repeat=2)))
                pairs.append(np.stack([np.broadcast_to(end, (4, 2)), square], axis=1))
        self._add(np.concatenate(pairs))

    def _add(self, pairs: np.ndarray) -> None:
        before = self.graph.edges
        self.known, numbers = np.unique(
            np.vstack([self.known, pairs.reshape(-1, 2)]), axis=0, return_inverse=True
        )
        count = len(numbers) - 2 * len(pairs)
        self.graph.edges = numbers[:count][before] if len(before) else before
        self.graph.places = (self.known / (FINEST // 2) - 1.0) * self.widths
        self.graph.add(numbers[count:].reshape(-1, 2))

    def level(self) -> float:
        """The barrier between the ends: refine where the lowest way is highest, until that is tiny."""
        refined: dict[tuple[int, ...], int] = {}
        levels: list[float] = []
        while True:
            first, last = [np.flatnonzero((self.known == end).all(axis=1))[0] for end in self.ends]
            level, edge = self.graph.bottleneck(int(first), int(last))
            levels.append(level)
            corners = self.known[self.graph.edges[edge]]
            length = int(np.abs(corners[1] - corners[0]).max())
            key = tuple(corners.ravel().tolist())
            step = refined.get(key, 1 << (length - 1).bit_length()) // FINER
            if step < LAST or levels[-1] > min(levels[:-STALLED], default=np.inf) - 1e-7:
                return level
            refined[key] = step
            middle = corners.min(axis=0) // step * step
            self.refine(middle - AROUND * step, middle + (AROUND + FINER) * step, step)


def flooded(tree: MergeTree, net: Net, minimum: int) -> float:
    """The barrier to the global minimum, in a window around the way that is to be checked.

    Steps are alike in what units put out. Two units without biases have flat valleys as high as the
    barrier, in which one takes over from the other, along a diagonal: one of the grid's own.
    """
    ends = tree.minima[0], tree.minima[minimum]
    found = tree.barrier(*ends)
    sizes = np.repeat(np.abs(net.readout), net.features.shape[1])
    outputs = np.abs(found.beads * sizes).max(axis=1)
    width = 1.5 * outputs.max()
    if len(net.readout) > 1:
        valley = outputs[found.losses.argmax()]
        width = valley * 2.0 ** np.ceil(np.log2(width / valley))
    return Flood.between(net, *ends, width / sizes).level()


ONE_UNIT = {"samples": 8, "inputs": 1, "units": 1}
TWO_UNITS = {"samples": 10, "inputs": 1, "units": 2, "bias": False, "signs": [1.0, 1.0]}
QUICK = [
    *({**ONE_UNIT, "seed": seed, "loss": "squared"} for seed in (5, 12)),
    *({**ONE_UNIT, "seed": seed, "loss": "l1"} for seed in (3, 10)),
    {**TWO_UNITS, "seed": 8, "loss": "squared"},
    {**TWO_UNITS, "seed": 8, "loss": "l1"},
]
LONG = [
    *(
        {**ONE_UNIT, "seed": seed, "loss": "squared"}
        for seed in (3, 6, 9, 10, 11, 13, 15, 16, 19, 22)
    ),
    *({**ONE_UNIT, "seed": seed, "loss": "l1"} for seed in (5, 6, 8, 11, 12, 19, 20, 22)),
    *({**TWO_UNITS, "seed": seed, "loss": "squared"} for seed in (4, 15, 17)),
]


@pytest.mark.parametrize(
    "case", [*QUICK, *(pytest.param(case, marks=pytest.mark.slow) for case in LONG)]
)
def test_a_flood_over_a_grid_goes_over_the_same_barriers(case: dict[str, Any]) -> None:
    block = layer(**case)
    tree, net = merge_tree(block), Net.of(block)
    np.testing.assert_allclose(net.losses(tree.minima), tree.losses, atol=1e-12)
    assert len(tree.losses) > 1
    for k in range(1, len(tree.losses)):
        level = tree.barrier(tree.minima[0], tree.minima[k]).level
        assert flooded(tree, net, k) == pytest.approx(level, abs=1e-6)


# ---- up to six parameters: cells by linear programs, and descents from everywhere ----------------------

SMALL = [
    *((4, 1, 2, seed, loss) for seed in range(20) for loss in ("squared", "l1")),
    *((4, 2, 1, seed, loss) for seed in range(5) for loss in ("squared", "l1")),
    *((3, 2, 2, seed, loss) for seed in range(3) for loss in ("squared", "l1")),
    *((2, 1, 3, seed, loss) for seed in range(3) for loss in ("squared", "l1")),
]


@pytest.mark.parametrize(
    "case", [*SMALL[::8], *(pytest.param(c, marks=pytest.mark.slow) for c in SMALL)]
)
def test_a_minimax_search_over_programs_finds_the_same_basins(
    case: tuple[int, int, int, int, str],
) -> None:
    *sizes, loss = case
    block = layer(*sizes, loss=loss)
    tree = merge_tree(block, tolerance=1e-6)
    births, deaths = minimax(block)
    np.testing.assert_allclose(tree.losses, births, atol=1e-6)
    np.testing.assert_allclose(np.sort(tree.deaths[1:]), np.sort(deaths), atol=1e-6)


def gauss_newton(net: Net, points: np.ndarray, steps: int, rng: np.random.Generator) -> np.ndarray:
    """Descend squared losses from many points at once: to the cell's own minimum, or as far as it falls.

    Where that does not lower the loss, a random step is tried: so points go on at kinks.
    """
    shares = np.r_[0.5 ** np.arange(12), 0.0]
    for step in range(steps):
        active = net.switching(points) > 0
        design = active[..., None] * (net.readout[:, None] * net.features[:, None, :])
        design = design.reshape(len(points), len(net.target), -1)
        goals = net.points(
            (np.linalg.pinv(design, rcond=1e-10) @ net.target).reshape(
                len(points), *active.shape[2:], -1
            )
        )
        ways = goals - points
        if step % 3 == 2:
            size = (
                10.0 ** -rng.integers(0, 6, size=(len(points), 1)) * np.abs(points).max(1)[:, None]
            )
            ways = size * rng.normal(size=points.shape)
        tried = points[:, None] + shares[:, None] * ways[:, None]
        losses = net.losses(tried.reshape(-1, net.size)).reshape(len(points), -1)
        points = np.take_along_axis(tried, losses.argmin(axis=1)[:, None, None], 1)[:, 0]
    return points


def slopes(net: Net, points: np.ndarray) -> np.ndarray:
    """Length of the gradient of squared losses, by differences (points,); large at kinks."""
    step = 1e-6
    found = [
        (net.losses(points + step * way) - net.losses(points - step * way)) / (2 * step)
        for way in np.eye(net.size)
    ]
    return np.linalg.norm(found, axis=0)


def bends(net: Net, points: np.ndarray) -> np.ndarray:
    """Least eigenvalue of squared losses' second derivative in the points' cells (points,)."""
    active = net.switching(points) > 0
    design = active[..., None] * (net.readout[:, None] * net.features[:, None, :])
    values = np.linalg.svd(design.reshape(len(points), len(net.target), -1), compute_uv=False)
    return 2.0 * values[:, -1] ** 2 / len(net.target)


STARTS = [
    {"samples": 20, "inputs": 1, "units": 2, "seed": 5, "signs": [1.0, -1.0]},
    {"samples": 12, "inputs": 2, "units": 2, "seed": 1, "signs": [1.0, -1.0]},
    {"samples": 12, "inputs": 2, "units": 2, "seed": 6, "signs": [1.0, -1.0]},
    {"samples": 14, "inputs": 1, "units": 3, "seed": 6, "signs": [1.0, -1.0, 1.0]},
]


@pytest.mark.parametrize("case", STARTS)
def test_thousands_of_descents_find_nothing_that_is_not_in_the_tree(case: dict[str, Any]) -> None:
    block, rng = layer(**case), np.random.default_rng(0)
    tree, net = merge_tree(block), Net.of(block)
    ends = gauss_newton(net, 2.0 * rng.normal(size=(1000, net.size)), 40, rng)
    losses = net.losses(ends)
    assert losses.min() >= tree.losses[0] - 1e-12
    inside = np.abs(net.switching(ends)).min(axis=(1, 2)) > 1e-5
    still = ends[inside & (slopes(net, ends) < 1e-7) & (bends(net, ends) > 1e-6)]
    assert len(still) > 20  # these are strict minima
    apart = np.abs(net.losses(still)[:, None] - tree.losses).min(axis=1)
    assert apart.max() < 1e-9
    _, some = np.unique(losses.round(9), return_index=True)
    for end in ends[some[:25]]:
        level = net.losses(end[None])[0]
        below = np.flatnonzero(tree.losses <= level + 1e-9)
        assert any(tree.barrier(end, tree.minima[k]).level <= level + 1e-9 for k in below[::-1])


ABSOLUTE = [
    {"samples": 10, "inputs": 1, "units": 2, "seed": 5},
    {"samples": 12, "inputs": 1, "units": 2, "seed": 1},
    {"samples": 7, "inputs": 2, "units": 2, "seed": 3},
    {"samples": 8, "inputs": 1, "units": 3, "seed": 6},
]


@pytest.mark.parametrize("case", ABSOLUTE)
def test_certified_ends_of_vertex_descents_are_minima_of_the_tree(case: dict[str, Any]) -> None:
    block, rng = layer(**case, loss="l1"), np.random.default_rng(0)
    tree, strict = merge_tree(block), 0
    for _ in range(4):
        end = descend(block, 2.0 * rng.normal(size=block.size))
        assert end.loss >= tree.losses[0] - 1e-12
        below = np.flatnonzero(tree.losses <= end.loss + 1e-9)
        levels = [tree.barrier(end.theta, tree.minima[k]).level for k in below]
        reached = below[np.array(levels) <= end.loss + 1e-9]
        assert len(reached)
        if end.certificate.claim == "strict_local_minimum":
            strict += 1
            np.testing.assert_allclose(tree.losses[reached], end.loss, atol=1e-9)
    assert strict > 0


@pytest.mark.parametrize("case", [*STARTS, *({**case, "loss": "l1"} for case in ABSOLUTE)])
def test_nothing_is_shown_to_fall_at_a_minimum(case: dict[str, Any]) -> None:
    block = layer(**case)
    tree = merge_tree(block)
    claims = [certify(block, theta).claim for theta in tree.minima[:12]]
    assert not {"not_stationary", "saddle"} & set(claims), claims


# ---- what the docs say -------------------------------------------------------------------------------

DOCS = Path(__file__).parents[1] / "docs"


def test_the_example_of_the_docs_runs_as_it_stands() -> None:
    page = (DOCS / "tree.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/tree.md", "exec"), names)
    net = Net.of(names["landscape"].block(0))
    np.testing.assert_allclose(net.losses(names["tree"].minima), names["tree"].losses, atol=1e-12)


@pytest.fixture(scope="module")
def study() -> dict[str, Any]:
    """What makes the tables of the docs."""
    return runpy.run_path(str(DOCS / "tree_study.py"))


@pytest.mark.parametrize(
    ("units", "draws"), [(2, 2), pytest.param(2, 30, marks=pytest.mark.slow),
                         pytest.param(3, 30, marks=pytest.mark.slow)]
)  # fmt: skip
def test_no_string_is_lower_than_the_barrier(study: dict[str, Any], units: int, draws: int) -> None:
    rows = list(study["strings"](8, units, draws, calls=5 if draws > 2 else 2))
    assert len(rows) >= draws // 2
    for row in rows:
        assert row["exact"] - 1e-9 <= row["found"] <= row["straight"]


def test_the_docs_show_all_figures_and_the_example_they_are_of(study: dict[str, Any]) -> None:
    page = (DOCS / "tree.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"!\[[^\]]+\]\((figures/[^)]+)\)", page))
    assert shown == {f"figures/{file.name}" for file in (DOCS / "figures").glob("tree-*")}
    assert all("<svg" in (DOCS / name).read_text(encoding="utf-8")[:200] for name in shown)
    names: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0], names)
    own = merge_tree(study["example"]().block(0))
    np.testing.assert_array_equal(own.losses, names["tree"].losses)


def test_every_row_of_the_tables_can_be_made(study: dict[str, Any]) -> None:
    claims = study["certificates"](2, "squared", 1)
    assert claims["minima"] == claims["local_minimum"] + claims["strict_local_minimum"]
    drawn = study["shares_of_bad"]([study["minima"](4, units, 1) for units in (1, 2, 3, 4)])
    assert [trace.name for trace in drawn.data] == ["1 unit", "2 units", "3 units", "4 units"]
    few = study["minima"](6, 2, 3)
    assert few["cells"] == 144
    assert 0.0 <= few["bad"] < 1.0
    ends = study["training"](6, 2, "l1", 2, 4, 300)
    for name in ("starts", "gradient descent", "Adam", "vertex descent"):
        assert 0.0 <= ends[name] <= 1.0
