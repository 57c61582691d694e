"""What the figures of a merge tree show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_merge_tree import layer

from reluscape import MergeTree, merge_tree
from reluscape.report.branches import Grown, tree_section
from reluscape.trees.figures import disconnectivity, distinct, persistence


@pytest.fixture(scope="module")
def tree() -> MergeTree:
    return merge_tree(layer(9, 1, 3, 3, signs=[1.0, 1.0, -1.0]))


def test_the_persistence_is_the_barrier_above_each_minimum(tree: MergeTree) -> None:
    (dots,) = persistence(tree).data
    np.testing.assert_array_equal(dots.x, tree.losses[1:])
    np.testing.assert_allclose(dots.y, tree.deaths[1:] - tree.losses[1:], rtol=1e-12)


def test_the_axis_around_a_single_loss_begins_at_zero(tree: MergeTree) -> None:
    losses = np.full(len(tree.losses), 0.5)
    shown = replace(tree, births=losses, deaths=losses + 0.25)
    assert persistence(shown).layout.xaxis.range == (0.0, 1.0)
    assert persistence(tree).layout.xaxis.range != (0.0, 2.0 * float(tree.births.max()))


def test_levels_are_logarithmic_where_losses_differ_by_factors(tree: MergeTree) -> None:
    def kind(losses: np.ndarray) -> str | None:
        shown = replace(
            tree, losses=losses, births=losses, deaths=losses + (tree.deaths - tree.births)
        )
        return disconnectivity(shown).layout.yaxis.type

    steps = np.linspace(0.0, 1.0, len(tree.losses))
    assert kind(1e-3 * (1.0 + 999.0 * steps)) == "log"
    assert kind(1.0 + steps) is None
    assert kind(steps) is None
    assert kind(1e-30 + steps) is None


def test_dots_of_many_minima_stand_apart_on_a_phone(tree: MergeTree) -> None:
    many = merge_tree(layer(12, 1, 3, 2, signs=[1.0, 1.0, -1.0]))
    assert len(many.losses) > 2 * len(tree.losses)
    for shown in (tree, many):
        lines, dots = disconnectivity(shown).data
        assert dots.marker.size[1:].sum() < 320
        assert dots.marker.size[0] == 7
        assert 0.5 <= lines.line.width < 0.25 * dots.marker.size.min()


@pytest.mark.parametrize(
    ("worst", "top", "told"),
    [
        (0.49711, 0.49719, "the worst 0.4971. All are joined at 0.4972."),
        (0.4, 0.6, "the worst 0.400. All are joined at 0.600."),
        (0.5, 0.5 + 1e-9, "the worst 0.5000000. All are joined at 0.5000000."),
    ],
)
def test_the_worst_loss_and_the_highest_level_are_told_apart(
    tree: MergeTree, worst: float, top: float, told: str
) -> None:
    losses, deaths = np.linspace(0.1, worst, len(tree.losses)), tree.deaths.copy()
    deaths[1:] = top
    about = Grown("0", "data", "", "", "", "", 0)
    shown = replace(tree, losses=losses, births=losses, deaths=deaths)
    assert tree_section([(shown, about)]).verdict.endswith(told)


def test_one_of_all_that_are_exchanges_is_distinct(tree: MergeTree) -> None:
    assert len(distinct(tree)) == round(float((1.0 / tree.multiplicity).sum())) < len(tree.losses)
    again = np.array([1, 2, 2, 1, 2, 2])
    rows = slice(0, len(again))
    alike = replace(tree, losses=np.zeros(6), multiplicity=again, minima=tree.minima[rows])
    assert distinct(alike) == [0, 1, 3, 4]


def test_a_page_with_the_global_minimum_alone_tells_of_no_worse_one(tree: MergeTree) -> None:
    below = float(tree.losses[0]) * 1.001
    part = merge_tree(layer(9, 1, 3, 3, signs=[1.0, 1.0, -1.0]), below=below)
    assert len(part.losses) == tree.multiplicity[0] < len(tree.losses)
    about = Grown("0", "data", "", "", "", "", 0)
    assert "none is worse." in tree_section([(part, about)]).verdict
    assert "are worse, the worst" in tree_section([(tree, about)]).verdict


def test_minima_that_join_none_below_a_level_have_no_persistence(tree: MergeTree) -> None:
    below = float(tree.losses[0]) + 1e-6 * tree.layer.zero_loss
    part = merge_tree(layer(9, 1, 3, 3, signs=[1.0, 1.0, -1.0]), below=below)
    assert len(part.losses) > 1
    assert np.isinf(part.deaths).all()
    about = Grown("0", "data", "", "", "", "", 0)
    assert [figure.key for figure in tree_section([(part, about)]).figures] == [
        "branches",
        "networks",
    ]
