"""Activation cells against linear programs over autograd's normals, bisection and sampling."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
import torch
from nets import LOSSES, Layer, dense, sample
from scipy.optimize import linprog
from torch import nn

from reluscape.cell import Cell, Chord, Facets
from reluscape.errors import InputError
from reluscape.landscape import Landscape
from reluscape.polyhedron import find_facets


@dataclass(frozen=True)
class Case:
    """A layer, the package's block of it, and the cell's half-spaces as autograd sees them."""

    layer: Layer
    cell: Cell

    @property
    def theta(self) -> np.ndarray:
        return self.layer.theta

    def half_spaces(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Unit inward normals, slacks at theta, and numbers of the kinks that are not constant."""
        normals, values = self.layer.normals(self.theta), self.layer.kinks(self.theta)
        lengths = np.linalg.norm(normals, axis=1)
        moving = np.flatnonzero(lengths > 1e-12)
        scale = np.sign(values[moving]) / lengths[moving]
        return normals[moving] * scale[:, None], values[moving] * scale, moving


@cache
def case(
    widths=(2, 3, 2, 1), *, position=0, loss="squared", bias=True, slope=0.0, seed=0, count=5
) -> Case:
    inputs, targets = sample(count, widths[0], widths[-1], loss, seed=seed)
    module = dense(widths, seed=seed, bias=bias, slope=slope)
    return of(Layer(module, position, inputs, targets, loss))


def of(layer: Layer) -> Case:
    block = Landscape(layer.module, layer.inputs, layer.targets, loss=layer.loss).block(layer.name)
    return Case(layer, block.cell())


def repeated(given: Case, rows: list[int]) -> Case:
    """The same case on chosen samples, with repetitions."""
    layer = given.layer
    return of(replace(layer, inputs=layer.inputs[rows], targets=layer.targets[rows]))


def depths(given: Case) -> np.ndarray:
    """For each moving kink, how deep its hyperplane reaches into all others (at most 1).

    The margin is maximised by a linear program in the displacement from theta; kinks with the same
    hyperplane as the one asked about are left out.
    """
    normals, slacks, _ = given.half_spaces()
    return depths_of(normals, slacks)


def depths_of(normals: np.ndarray, slacks: np.ndarray) -> np.ndarray:
    """The same for unit normals and the slacks of some interior point."""
    found = np.empty(len(normals))
    for row in range(len(normals)):
        others = ~twins(normals, slacks, row)
        size = normals.shape[1]
        answer = linprog(
            np.append(np.zeros(size), -1.0),
            A_ub=np.hstack([-normals[others], np.ones((others.sum(), 1))]),
            b_ub=slacks[others],
            A_eq=np.append(normals[row], 0.0)[None],
            b_eq=-slacks[row : row + 1],
            bounds=[(None, None)] * size + [(None, 1.0)],
        )
        assert answer.status == 0, answer.message
        found[row] = -answer.fun
    return found


def twins(normals: np.ndarray, slacks: np.ndarray, row: int) -> np.ndarray:
    """Half-spaces that are the same as number `row`, itself included."""
    gap = np.abs(normals - normals[row]).max(axis=1) + np.abs(slacks - slacks[row])
    return gap < 1e-9


def facets_by_force(given: Case) -> set[int]:
    """Numbers of the kinks that are facets; of coincident ones the first."""
    normals, slacks, kinks = given.half_spaces()
    depth = depths(given)
    assert not ((np.abs(depth) > 1e-9) & (np.abs(depth) < 1e-6)).any(), "too close to call"
    rows = np.flatnonzero(depth > 1e-6)
    return {int(kinks[np.flatnonzero(twins(normals, slacks, row))[0]]) for row in rows}


def beyond(given: Case, witness: np.ndarray, normal: np.ndarray, step: float) -> np.ndarray:
    """Torch's pattern a small step outside the facet."""
    return given.layer.pattern(witness - step * normal)


PLANS = [
    {"widths": (2, 3, 1)},
    {"widths": (2, 3, 1), "bias": False},
    {"widths": (2, 3, 2)},
    {"widths": (2, 3, 2, 2)},
    {"widths": (2, 3, 2, 2), "bias": False},
    {"widths": (2, 3, 2, 2), "slope": 0.25},
    {"widths": (2, 3, 2, 2), "position": 2},
    {"widths": (2, 3, 2, 2), "position": 2, "bias": False},
    {"widths": (2, 3, 2, 2, 2), "position": 2, "slope": 0.1},
    {"widths": (2, 2, 2, 2, 2)},
    {"widths": (3, 3, 2), "position": 2},
]


def plans(losses=("squared", "l1")) -> list:
    """Every plan with each loss, except one logit and last layers without kinks."""
    return [
        pytest.param({**plan, "loss": loss, "seed": number}, id=f"{number}-{loss}")
        for number, plan in enumerate(PLANS)
        for loss in losses
        if (loss != "cross_entropy" or plan["widths"][-1] > 1)
        and (loss == "l1" or plan.get("position", 0) < 2 * len(plan["widths"]) - 4)
    ]


@pytest.mark.parametrize("plan", plans(LOSSES))
def test_facets_are_those_of_brute_force(plan):
    given = case(**plan)
    facets = given.cell.facets()
    assert set(facets.kinks.tolist()) == facets_by_force(given)
    assert len(set(facets.kinks.tolist())) == len(facets.kinks)


@pytest.mark.parametrize("plan", plans())
def test_facet_normals_are_autograds_and_witnesses_lie_on_their_facet_alone(plan):
    given = case(**plan)
    facets = given.cell.facets()
    normals, slacks, kinks = given.half_spaces()
    place = {int(kink): row for row, kink in enumerate(kinks)}
    for normal, offset, kink, witness in zip(
        facets.normals, facets.offsets, facets.kinks, facets.witnesses, strict=True
    ):
        row = place[int(kink)]
        np.testing.assert_allclose(normal, normals[row], atol=1e-12)
        assert normal @ given.theta + offset == pytest.approx(slacks[row], abs=1e-12)
        assert normal @ witness + offset == pytest.approx(0.0, abs=1e-9 * (1 + abs(offset)))
        slack = normals @ (witness - given.theta) + slacks
        others = ~twins(normals, slacks, row)
        assert (slack[others] > 1e-12).all()


@pytest.mark.parametrize("plan", plans())
def test_crossing_a_facet_flips_its_kink_alone_and_neighbour_agrees(plan):
    given = case(**plan)
    facets = given.cell.facets()
    normals, slacks, kinks = given.half_spaces()
    for normal, kink, witness in zip(facets.normals, facets.kinks, facets.witnesses, strict=True):
        row = int(np.flatnonzero(kinks == kink)[0])
        others = ~twins(normals, slacks, row)
        room = (normals[others] @ (witness - given.theta) + slacks[others]).min(initial=1.0)
        if room < 1e-5:
            continue
        seen = beyond(given, witness, normal, 1e-3 * room)
        flipped = np.flatnonzero(seen != given.cell.pattern)
        assert kink in flipped
        assert set(flipped) <= set(kinks[~others])
        if given.layer.module[0].bias is not None:  # the generic case
            np.testing.assert_array_equal(flipped, [kink])
        other = given.cell.neighbour(int(kink))
        np.testing.assert_array_equal(other.pattern, seen)


def test_bias_free_first_layer_kinks_of_parallel_samples_coincide():
    layer = case((2, 3, 1), bias=False, count=4).layer
    inputs = np.vstack([layer.inputs, 3.0 * layer.inputs, 0.7 * layer.inputs])
    given = of(replace(layer, inputs=inputs, targets=np.tile(layer.targets, (3, 1))))
    facets = given.cell.facets()
    assert set(facets.kinks.tolist()) == facets_by_force(given)
    assert (facets.kinks < 4 * 3).all()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("position", [0, 2])
def test_duplicate_samples_give_one_facet_and_flip_together(position, seed):
    single = case((2, 3, 2, 1), position=position, seed=seed, count=4)
    double = repeated(single, [0, 1, 2, 3, 0, 1, 2, 3, 2])
    facets = double.cell.facets()
    assert len(facets.kinks) == len(single.cell.facets().kinks)
    assert set(facets.kinks.tolist()) == facets_by_force(double)
    normals, slacks, kinks = double.half_spaces()
    for kink in facets.kinks:
        row = int(np.flatnonzero(kinks == kink)[0])
        other = double.cell.neighbour(int(kink))
        flipped = np.flatnonzero(other.pattern != double.cell.pattern)
        assert len(flipped) in (2, 3)
        np.testing.assert_array_equal(flipped, kinks[twins(normals, slacks, row)])
        witness = facets.witnesses[facets.kinks == kink][0]
        np.testing.assert_array_equal(other.pattern, beyond(double, witness, normals[row], 1e-7))


def dead_sample() -> Case:
    """Sample 0 switches off both hidden units: its second-layer kinks are the biases, constant."""
    module = dense((2, 2, 2, 1), seed=3)
    with torch.no_grad():
        module[0].weight.copy_(torch.eye(2))
        module[0].bias.zero_()
        module[2].bias.copy_(torch.tensor([0.5, -0.25]))
    inputs = np.array([[-1.0, -2.0], [1.0, 0.5], [0.5, -1.0], [2.0, 1.0]])
    return of(Layer(module, 0, inputs, np.ones((4, 1)), "squared"))


def test_constant_kinks_bound_nothing():
    given = dead_sample()
    start = given.cell.block.kink_groups[1].start
    np.testing.assert_array_equal(given.layer.kinks(given.theta)[start : start + 2], [0.5, -0.25])
    facets = given.cell.facets()
    assert set(facets.kinks.tolist()) == facets_by_force(given)
    assert not set(facets.kinks.tolist()) & {start, start + 1}
    for constant in (start, start + 1):
        with pytest.raises(InputError, match="must bound the cell"):
            given.cell.neighbour(constant)


def test_a_constant_kink_of_the_wrong_sign_makes_the_cell_empty():
    given = dead_sample()
    pattern = given.cell.pattern.copy()
    pattern[given.cell.block.kink_groups[1].start] ^= True
    impossible = Cell(given.cell.block, pattern, given.theta)
    for ask in (impossible.facets, impossible.chebyshev_ball):
        with pytest.raises(InputError, match="interior"):
            ask()


def test_neighbour_across_a_unit_that_wakes_settles_kinks_that_were_zero():
    """Without later biases a silent unit leaves the layer after it at exactly zero."""
    module = nn.Sequential(
        nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1)
    ).double()
    with torch.no_grad():
        module[0].weight.fill_(-1.0)
        module[0].bias.zero_()
        module[2].weight.copy_(torch.tensor([[1.0], [-1.0]]))
    given = of(Layer(module, 0, np.array([[1.0]]), np.array([[1.0]]), "squared"))
    np.testing.assert_array_equal(given.layer.kinks(given.theta), [-1.0, 0.0, 0.0])
    other = given.cell.neighbour(0)
    np.testing.assert_array_equal(other.pattern, [True, True, False])


@pytest.mark.parametrize("position", [0, 2])
def test_neighbour_of_a_kink_that_is_no_facet_raises(position):
    given = case((2, 3, 2, 1), position=position, seed=8, count=8)
    _, _, kinks = given.half_spaces()
    rest = set(range(given.cell.block.num_kinks)) - set(kinks[depths(given) > 1e-6].tolist())
    assert rest
    for kink in sorted(rest)[:6]:
        with pytest.raises(InputError, match=rf"kink {kink} .* does not"):
            given.cell.neighbour(kink)


@pytest.mark.parametrize("kink", [-1, 10**6])
def test_neighbour_of_a_kink_that_does_not_exist_raises(kink):
    with pytest.raises(InputError, match="kink must lie in 0"):
        case().cell.neighbour(kink)


@pytest.mark.parametrize("plan", plans())
def test_neighbours_are_cells_in_their_own_right(plan):
    given = case(**plan)
    for kink in given.cell.facets().kinks[:4]:
        other = given.cell.neighbour(int(kink))
        back = other.facets()
        assert kink in back.kinks
        assert other.contains(other.reference)
        assert other.nearest_kink() == other.nearest_kink(other.reference)
        center, radius = other.chebyshev_ball()
        assert radius > 0
        np.testing.assert_array_equal(given.layer.pattern(center), other.pattern)
        np.testing.assert_array_equal(other.neighbour(int(kink)).pattern, given.cell.pattern)


@pytest.mark.parametrize("loss", ["squared", "l1"])
@pytest.mark.parametrize("bias", [True, False])
def test_witnesses_of_a_neighbours_facets_lie_on_one_facet_only(loss, bias):
    given = case((2, 3, 1), loss=loss, bias=bias, seed=4)
    other = given.cell.neighbour(int(given.cell.facets().kinks[0]))
    facets = other.facets()
    slack = facets.witnesses @ facets.normals.T + facets.offsets
    np.testing.assert_allclose(np.diag(slack), 0.0, atol=1e-9)
    np.fill_diagonal(slack, np.inf)
    assert (slack > 1e-12).all()


@pytest.mark.parametrize("position", [0, 2, 4])
def test_contains_is_the_pattern_with_its_boundary(position):
    given = case((2, 3, 2, 1), position=position, loss="l1", seed=2)
    rng = np.random.default_rng(0)
    inside = 0
    for scale in np.repeat([0.01, 0.1, 1.0], 40):
        point = given.theta + scale * rng.normal(size=given.theta.size)
        agrees = bool((given.layer.pattern(point) == given.cell.pattern).all())
        inside += agrees
        assert given.cell.contains(point) == agrees
    assert 0 < inside < 120
    assert given.cell.contains(given.theta)


def test_contains_takes_the_boundary_in():
    module = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1)).double()
    with torch.no_grad():
        module[0].weight.fill_(2.0)
    given = of(Layer(module, 0, np.array([[1.0]]), np.array([[0.0]]), "squared"))
    assert given.cell.contains([0.0])
    assert given.cell.contains([5.0])
    assert not given.cell.contains([-1e-300])


@pytest.mark.parametrize("bad", [[0.0], np.zeros((2, 2)), "nan"])
def test_contains_refuses_what_is_no_theta(bad):
    given = case()
    theta = np.full(given.theta.size, np.nan) if isinstance(bad, str) else bad
    with pytest.raises(InputError, match="theta must"):
        given.cell.contains(theta)


def ball_by_scipy(given: Case, box: float | None) -> float:
    """Radius of the largest ball in the cell, whole within the box if there is one."""
    normals, slacks, _ = given.half_spaces()
    offsets = slacks - normals @ given.theta
    size = normals.shape[1]
    if box is not None:
        normals = np.vstack([normals, np.eye(size), -np.eye(size)])
        offsets = np.append(offsets, np.full(2 * size, box))
    answer = linprog(
        np.append(np.zeros(size), -1.0),
        A_ub=np.hstack([-normals, np.ones((len(normals), 1))]),
        b_ub=offsets,
        bounds=[(None, None)] * size + [(0.0, None)],
    )
    if answer.status == 3:
        return np.inf
    assert answer.status == 0, answer.message
    return -answer.fun


@pytest.mark.parametrize("plan", plans())
@pytest.mark.parametrize("box", [None, 5.0])
def test_chebyshev_ball_is_scipys_and_lies_in_the_cell(plan, box):
    given = case(**plan)
    center, radius = given.cell.chebyshev_ball(box=box)
    expected = ball_by_scipy(given, box)
    assert radius == pytest.approx(expected, rel=1e-6)
    np.testing.assert_array_equal(given.layer.pattern(center), given.cell.pattern)
    if box is not None:
        assert np.abs(center).max() + radius <= box + 1e-6
    if np.isfinite(radius):
        rng = np.random.default_rng(1)
        for _ in range(40):
            step = rng.normal(size=len(center))
            point = center + (1 - 1e-6) * radius * step / np.linalg.norm(step)
            np.testing.assert_array_equal(given.layer.pattern(point), given.cell.pattern)


@pytest.mark.parametrize("bias", [True, False])
def test_cells_of_a_single_hidden_layer_are_cones_with_an_infinite_ball(bias):
    given = case((2, 3, 1), bias=bias)
    center, radius = given.cell.chebyshev_ball()
    assert radius == np.inf
    assert np.isfinite(center).all()
    assert np.isfinite(given.cell.chebyshev_ball(box=2.0)[1])


def test_some_cells_of_deeper_networks_are_bounded():
    found = [
        case((2, 2, 2, 1), loss="l1", position=2, seed=seed, count=12).cell.chebyshev_ball()[1]
        for seed in range(6)
    ]
    assert np.isfinite(found).any()
    assert min(found) > 0


def first_change(given: Case, direction: np.ndarray) -> float:
    """Distance along the ray to the first change of torch's pattern: kinks' times, then bisection."""
    step = 1e-3
    while (given.layer.pattern(given.theta + step * direction) == given.cell.pattern).all():
        step *= 1.3
        if step > 1e7:
            return np.inf
    low, high = 0.0, step
    while high - low > 1e-13 * (1 + high):
        middle = 0.5 * (low + high)
        same = (given.layer.pattern(given.theta + middle * direction) == given.cell.pattern).all()
        low, high = (middle, high) if same else (low, middle)
    return low


CHORDS = plans()[::2]


@pytest.mark.parametrize("plan", CHORDS)
def test_chord_lengths_are_those_of_bisection(plan):
    given = case(**plan)
    rng = np.random.default_rng(5)
    directions = rng.normal(size=(6, given.theta.size))
    chord = given.cell.chord(given.theta, 7.0 * directions)
    units = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    expected = np.array([first_change(given, u) + first_change(given, -u) for u in units])
    np.testing.assert_allclose(chord.length, expected, rtol=1e-8, atol=1e-11)
    np.testing.assert_allclose(chord.angle, expected / np.linalg.norm(given.theta), rtol=1e-8)
    assert chord.open_fraction == np.isinf(expected).mean()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("scale", [1e-3, 4.0, 1e5])
def test_chord_angles_do_not_change_when_a_cones_weights_are_scaled(bias, scale):
    given = case((2, 3, 1), bias=bias, seed=6, count=3)
    directions = np.random.default_rng(7).normal(size=(20, given.theta.size))
    here = given.cell.chord(given.theta, directions)
    there = given.cell.chord(scale * given.theta, directions)
    np.testing.assert_allclose(there.angle, here.angle, rtol=1e-9)
    np.testing.assert_allclose(there.length, scale * here.length, rtol=1e-9)
    assert here.open_fraction < 1


def test_chord_by_hand():
    """One unit w x with w = 2: the cell is w >= 0, so the chord is open above and 2 long below."""
    module = nn.Sequential(nn.Linear(2, 1, bias=False), nn.ReLU(), nn.Linear(1, 1)).double()
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[2.0, 3.0]]))
    inputs = np.array([[1.0, 0.0], [-1.0, 1.0]])  # cell: 0 < w1 < w2
    cell = of(Layer(module, 0, inputs, np.zeros((2, 1)), "squared")).cell
    chord = cell.chord([2.0, 3.0], [[1.0, 0.0], [0.0, -4.0], [1.0, 1.0]])
    np.testing.assert_allclose(chord.length, [3.0, np.inf, np.inf])
    np.testing.assert_allclose(chord.angle, [3.0 / 13**0.5, np.inf, np.inf])
    assert chord.open_fraction == pytest.approx(2 / 3)
    assert chord.mean_length == pytest.approx(3.0)


def test_mean_chord_without_closed_chords_is_nan():
    chord = Chord(np.array([np.inf]), np.array([np.inf]), 1.0)
    assert np.isnan(chord.mean_length)


@pytest.mark.parametrize(
    "directions", [np.zeros((1, 13)), np.zeros((2, 4)), np.full((1, 9), np.nan), np.ones((1, 1, 9))]
)
def test_bad_directions_raise(directions):
    given = case()
    with pytest.raises(InputError, match="directions must"):
        given.cell.chord(given.theta, directions)


def test_questions_about_a_point_outside_the_cell_raise():
    given = case(position=2)
    outside = -10.0 * given.theta
    assert not given.cell.contains(outside)
    with pytest.raises(InputError, match="theta must lie in the cell"):
        given.cell.chord(outside, np.ones((1, outside.size)))
    with pytest.raises(InputError, match="theta must lie in the cell"):
        given.cell.nearest_kink(outside)
    with pytest.raises(InputError, match="theta must lie in the cell"):
        given.cell.num_facets_seen(outside, 10, seed=0)


@pytest.mark.parametrize("plan", plans())
def test_nearest_kink_is_the_least_distance_over_all_kinks(plan):
    given = case(**plan)
    _, slacks, kinks = given.half_spaces()
    distance, kink = given.cell.nearest_kink()
    assert distance == pytest.approx(slacks.min(), rel=1e-10)
    assert kink == kinks[slacks.argmin()]
    assert kink in given.cell.facets().kinks
    rng = np.random.default_rng(2)
    for _ in range(30):
        step = rng.normal(size=given.theta.size)
        point = given.theta + (1 - 1e-9) * distance * step / np.linalg.norm(step)
        np.testing.assert_array_equal(given.layer.pattern(point), given.cell.pattern)
    row = slacks.argmin()
    normal = given.half_spaces()[0][row]
    outside = given.layer.pattern(given.theta - (1 + 1e-6) * distance * normal)
    assert outside[kink] != given.cell.pattern[kink]


@pytest.mark.parametrize("plan", plans())
def test_rays_see_no_more_facets_than_there_are(plan):
    given = case(**plan)
    total = len(given.cell.facets().kinks)
    seen = given.cell.num_facets_seen(given.theta, 400, seed=3)
    assert 0 < seen <= total
    assert given.cell.num_facets_seen(given.theta, 400, seed=3) == seen
    assert given.cell.num_facets_seen(given.theta, 0, seed=3) == 0


@pytest.mark.parametrize("seed", range(4))
def test_rays_count_coincident_kinks_once(seed):
    layer = case((2, 3, 1), bias=False, count=4, seed=seed).layer
    inputs = np.vstack([layer.inputs, 3.0 * layer.inputs, 0.7 * layer.inputs])
    given = of(replace(layer, inputs=inputs, targets=np.tile(layer.targets, (3, 1))))
    seen = given.cell.num_facets_seen(given.theta, 300, seed=0)
    assert seen <= len(given.cell.facets().kinks)


def test_a_cell_without_kinks_is_the_whole_space():
    given = case((2, 3, 2), position=2, loss="squared")
    assert given.cell.pattern.shape == (0,)
    facets = given.cell.facets()
    assert facets.normals.shape == facets.witnesses.shape == (0, given.theta.size)
    assert facets.kinks.shape == facets.offsets.shape == (0,)
    assert given.cell.nearest_kink() == (np.inf, -1)
    chord = given.cell.chord(given.theta, np.eye(given.theta.size))
    assert np.isinf(chord.length).all()
    assert chord.open_fraction == 1.0
    assert given.cell.num_facets_seen(given.theta, 20, seed=0) == 0
    assert given.cell.chebyshev_ball()[1] == np.inf
    center, radius = given.cell.chebyshev_ball(box=3.0)
    assert radius == pytest.approx(3.0)
    assert np.abs(center).max() + radius <= 3.0 + 1e-9
    assert given.cell.contains(100.0 * given.theta)
    with pytest.raises(InputError, match="kink must lie in"):
        given.cell.neighbour(0)


def test_an_impossible_pattern_raises():
    module = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1)).double()
    layer = Layer(module, 0, np.array([[1.0], [2.0]]), np.zeros((2, 1)), "squared")
    given = of(layer)
    impossible = Cell(given.cell.block, np.array([True, False]), np.array([0.0]))
    for ask in (impossible.facets, impossible.chebyshev_ball):
        with pytest.raises(InputError, match="interior"):
            ask()


@pytest.mark.parametrize("position", [0, 2])
def test_bounded_cells_far_from_their_reference_are_found(position):
    """The reference is only a point of the closed cell: a corner does as well."""
    given = case((2, 2, 2, 1), position=position, loss="l1", seed=1, count=12)
    facets = given.cell.facets()
    for witness in facets.witnesses:
        moved = Cell(given.cell.block, given.cell.pattern, witness)
        assert set(moved.facets().kinks.tolist()) == set(facets.kinks.tolist())
        assert moved.chebyshev_ball()[1] == pytest.approx(given.cell.chebyshev_ball()[1], rel=1e-6)


def polyhedron(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit rows from small integers, offsets and an interior point: many rows meet in corners."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(2, 5))
    rows = rng.integers(-2, 3, size=(int(rng.integers(size, 12)), size)).astype(float)
    offsets = (rng.integers(0, 2, size=len(rows)) * rng.integers(0, 3, size=len(rows))).astype(
        float
    )
    inside = rng.integers(-2, 4, size=size).astype(float)
    lengths = np.linalg.norm(rows, axis=1)
    keep = (lengths > 0) & (rows @ inside + offsets > 1e-9)
    return rows[keep] / lengths[keep, None], offsets[keep] / lengths[keep], inside


@pytest.mark.parametrize("start", range(0, 120, 40))
def test_irredundant_rows_where_many_meet_in_a_corner(start):
    for seed in range(start, start + 40):
        rows, offsets, inside = polyhedron(seed)
        slacks = rows @ inside + offsets
        first = [r for r in range(len(rows)) if twins(rows, slacks, r).argmax() == r]
        rows, offsets, slacks = rows[first], offsets[first], slacks[first]
        depth = depths_of(rows, slacks)
        assert not ((np.abs(depth) > 1e-9) & (np.abs(depth) < 1e-6)).any()
        found, points = find_facets(rows, offsets, inside)
        np.testing.assert_array_equal(found, np.flatnonzero(depth > 1e-6), err_msg=str(seed))
        slack = points @ rows.T + offsets
        own = (np.arange(len(found)), found)
        np.testing.assert_allclose(slack[own], 0.0, atol=1e-8)
        slack[own] = np.inf
        assert (slack > 1e-9).all(), seed


@pytest.mark.parametrize(
    "plan",
    [
        {"widths": (1, 3, 2, 2), "loss": "l1", "bias": False, "seed": 692541, "count": 6},
        {"widths": (2, 2, 1, 2), "loss": "l1", "bias": False, "seed": 214010, "count": 6},
        {"widths": (3, 3, 4, 2), "position": 2, "seed": 104985, "count": 7},
        {"widths": (2, 1, 4, 2, 2), "position": 2, "slope": 0.2, "seed": 502653, "count": 2},
        {"widths": (3, 3, 2), "loss": "l1", "slope": 0.2, "seed": 807739, "count": 3},
    ],
    ids=["unit wakes", "unit wakes 2", "ray through a corner", "leaky corner", "stalled program"],
)  # fmt: skip
def test_neighbours_that_random_search_found_hard(plan):
    given = case(**plan)
    for kink in given.cell.facets().kinks[:6]:
        other = given.cell.neighbour(int(kink))
        np.testing.assert_array_equal(given.layer.pattern(other.reference), other.pattern)
        facets = other.facets()
        assert kink in facets.kinks
        slack = facets.witnesses @ facets.normals.T + facets.offsets
        np.fill_diagonal(slack, np.inf)
        assert (slack > 0).all()
        np.testing.assert_array_equal(other.neighbour(int(kink)).pattern, given.cell.pattern)


def test_small_and_large_data_have_the_same_facets():
    """Scaling inputs by s and a bias-free first layer by 1/s changes no switching value."""
    layer = case((2, 3, 2, 1), bias=False, seed=9).layer
    expected = set(of(layer).cell.facets().kinks.tolist())
    for scale in (1e-3, 1e3):
        scaled = dense((2, 3, 2, 1), seed=9, bias=False)
        with torch.no_grad():
            scaled[0].weight.mul_(1.0 / scale)
        given = of(replace(layer, module=scaled, inputs=scale * layer.inputs))
        assert set(given.cell.facets().kinks.tolist()) == expected


def test_results_describe_themselves():
    given = case(seed=2)
    facets = given.cell.facets()
    chord = given.cell.chord(given.theta, np.eye(given.theta.size))
    assert "\n" not in repr(facets)
    assert "\n" not in repr(chord)
    assert isinstance(facets, Facets)
    (histogram,) = facets.plot().data
    np.testing.assert_array_equal(histogram.x, facets.kinks)
    (histogram,) = chord.plot().data
    np.testing.assert_array_equal(histogram.x, chord.length[np.isfinite(chord.length)])
