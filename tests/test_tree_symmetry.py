"""How many minima exchanges of units make of each, counted without any use of symmetry."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from reluscape import Landscape, MergeTree, merge_tree, verify


def landscape(x: Any, y: Any, readouts: Any, loss: str = "squared", bias: bool = True) -> Landscape:
    """A layer with these output weights (units, outputs) and no output bias."""
    inputs = np.asarray(x, dtype=float).reshape(len(x), -1)
    weights = np.asarray(readouts, dtype=float).reshape(len(readouts), -1)
    model = nn.Sequential(
        nn.Linear(inputs.shape[1], len(weights), bias=bias),
        nn.ReLU(),
        nn.Linear(len(weights), weights.shape[1], bias=False),
    ).double()
    with torch.no_grad():
        model[2].weight.copy_(torch.from_numpy(weights.T.copy()))
    return Landscape(model, inputs, np.asarray(y, dtype=float).reshape(len(x), -1), loss=loss)


def exchanges(weights: np.ndarray) -> list[np.ndarray]:
    """Orders of the units that only exchange those whose output weights are positive multiples."""
    units = weights.shape[1]
    alike = np.zeros((units, units), dtype=bool)
    for j, k in product(range(units), repeat=2):
        one, other = weights[:, j], weights[:, k]
        cosine = one @ other / np.sqrt((one @ one) * (other @ other))
        alike[j, k] = cosine > 1 - 1e-15
    orders = map(np.array, permutations(range(units)))
    return [order for order in orders if alike[np.arange(units), order].all()]


def images(tree: MergeTree, minimum: int) -> int:
    """To how many minima of the tree exchanges take one without rising, by barriers."""
    sizes = np.linalg.norm(tree.weights, axis=0)
    rows = tree.layer.unpack(tree.minima[minimum]) * sizes[:, None]
    rise = 1e-9 * tree.layer.zero_loss
    equal = np.flatnonzero(np.abs(tree.losses - tree.losses[minimum]) <= rise).tolist()
    rise += tree.losses[minimum]
    found = set()
    for order in exchanges(tree.weights):
        image = tree.layer.pack(rows[order] / sizes[:, None])
        found |= {k for k in equal if tree.barrier(image, tree.minima[k]).level <= rise}
    return len(found)


RNG = np.random.default_rng(5)
DRAWN = RNG.uniform(-1.0, 1.0, size=(7, 1))
NOISY = np.sin(4.0 * DRAWN) + 0.3 * RNG.normal(size=DRAWN.shape)
WHOLE = [[-2.0], [-1.0], [0.0], [1.0], [3.0]]
CASES: list[dict[str, Any]] = [
    {"x": DRAWN, "y": NOISY, "readouts": [1.0, 1.0]},
    {"x": DRAWN[:6], "y": NOISY[:6], "readouts": [1.0, -0.5, 2.0]},
    {"x": DRAWN[:6], "y": NOISY[:6], "readouts": [1.0, 3.0, 0.1], "loss": "l1"},
    {"x": WHOLE[1:], "y": [2.0, 0.0, 1.0, 4.0], "readouts": [1.0, 1.0, 1.0]},
    {"x": WHOLE[:3], "y": [1.0, -1.0, 1.0], "readouts": [1.0, 1.0, -1.0, -1.0]},
    {"x": WHOLE[:3], "y": [1.0, 0.0, 1.0], "readouts": [1.0, 1.0, 1.0]},
    {"x": WHOLE[:2], "y": [1.0, 2.0], "readouts": [2.0, 1.0, 1.0]},
    {"x": [[0.0], [0.0], [1.0], [-1.0]], "y": [0.0, 2.0, -1.0, 1.0], "readouts": [1.0, 1.0]},
    {"x": RNG.normal(size=(4, 2)), "y": RNG.normal(size=4), "readouts": [1.0, 1.0], "bias": False},
    {
        "x": WHOLE, "y": RNG.integers(-3, 4, size=(5, 2)),
        "readouts": [[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]],
    },
]  # fmt: skip


@pytest.mark.parametrize(
    ("case", "arithmetic"),
    [
        (case, arithmetic)
        for arithmetic in ("float64", "rational")
        for k, case in enumerate(CASES)
        if (k, arithmetic) != (2, "rational")  # seven seconds
    ],
)
def test_multiplicity_counts_the_minima_that_exchanges_get_to(
    case: dict[str, Any], arithmetic: str
) -> None:
    if arithmetic == "rational":
        pytest.importorskip("flint", reason="rational arithmetic needs python-flint")
    subject = landscape(**case)
    tree = merge_tree(subject.block(0), arithmetic=arithmetic)
    found = [images(tree, k) for k in range(len(tree.losses))]
    assert tree.multiplicity.tolist() == found
    told = verify(tree, subject)
    assert told.valid, told.reason


def test_the_cases_have_minima_of_many_kinds() -> None:
    counts = np.concatenate([merge_tree(landscape(**case).block(0)).multiplicity for case in CASES])
    assert {1, 2, 6} <= set(counts.tolist())


def test_units_between_others_that_act_alike_are_exchanged() -> None:
    """Directions that float64 takes as one, of which the first and the third are one exactly."""
    pytest.importorskip("flint", reason="rational arithmetic needs python-flint")
    near = np.nextafter(0.3, 1.0)
    readouts = [[0.1, 0.3], [0.1, near], [0.2, 0.6]]
    y = np.outer([3.0, 0.0, 1.0, 2.0, 6.0], [1.0, 3.0])
    subject = landscape([-1.0, 0.0, 1.0, 2.0, 3.0], y, readouts)
    tree = merge_tree(subject.block(0), arithmetic="rational")
    lasting = np.flatnonzero(tree.deaths - tree.losses > 1e-9)
    assert len(lasting) == 12  # each of two ways to fit, for six orders of the units
    assert [images_by(tree, k, [0, 2]) for k in lasting] == [2] * 12
    assert tree.multiplicity.tolist() == [2] * len(tree.losses)
    assert verify(tree, subject).valid


def images_by(tree: MergeTree, minimum: int, pair: list[int]) -> int:
    """As `images`, of one exchange of two units."""
    sizes = np.linalg.norm(tree.weights, axis=0)
    rows = tree.layer.unpack(tree.minima[minimum]) * sizes[:, None]
    rows[pair] = rows[pair[::-1]]
    image = tree.layer.pack(rows / sizes[:, None])
    return 1 + (tree.barrier(image, tree.minima[minimum]).level > tree.losses[minimum] + 1e-14)


@pytest.mark.parametrize("arithmetic", ["float64", "rational"])
def test_verify_counts_for_itself(arithmetic: str) -> None:
    if arithmetic == "rational":
        pytest.importorskip("flint", reason="rational arithmetic needs python-flint")
    subject = landscape(**CASES[0])
    tree = merge_tree(subject.block(0), arithmetic=arithmetic)
    for minimum in range(len(tree.losses)):
        for other in (-1, 1):
            forged = tree.multiplicity.copy()
            forged[minimum] += other
            told = verify(replace(tree, multiplicity=forged), subject)
            assert not told.valid
            assert f"minimum {minimum} has another number of exchanges" in told.reason
