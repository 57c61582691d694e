"""Membership in the regions along a run, beside `convexity` at each of its points."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from test_convexity import Convolutional, case
from torch import nn

import reluscape as rs
from reluscape.errors import InputError
from reluscape.monitor import data_bound, membership
from reluscape.monitor.membership import REGIONS, Membership


def scaled(model: nn.Module, size: float) -> nn.Module:
    """The same model with shrunk or grown weights."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(size)
    return model


def test_each_record_says_what_convexity_says_of_its_weights() -> None:
    seen = set()
    for seed in range(11):
        one = case(seed)
        landscape = one.landscape()
        monitor = rs.ConvexityMonitor(landscape)
        expected = []
        for _ in range(6):
            monitor.step(one.model)
            found = rs.convexity(one.landscape(), max_dense=10**6)
            expected.append([float(found.in_region), float(found.in_sharp_region)])
            scaled(one.model, 0.6)
        run = monitor.result()
        assert np.column_stack([run.in_region, run.in_sharp_region]).tolist() == expected
        seen |= {tuple(row) for row in expected}
    assert seen == {(0.0, 0.0), (0.0, 1.0), (1.0, 1.0)}


def test_singular_values_are_asked_only_where_estimates_leave_it_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    one = case(10)  # three hidden layers; it enters both regions
    inside = Membership(one.landscape())
    chain_of = membership.chain_of

    def counted(network: object) -> object:
        asked.append(network)
        return chain_of(network)  # type: ignore[arg-type]

    monkeypatch.setattr(membership, "chain_of", counted)
    for _ in range(150):
        inside(scaled(one.model, 0.98), one.landscape().loss())
    assert 0 < len(asked) < 50


def test_a_sink_and_a_summary_tell_of_it() -> None:
    told: list[Mapping[str, float]] = []
    one = case(0)
    monitor = rs.ConvexityMonitor(one.landscape(), sink=lambda step, numbers: told.append(numbers))
    monitor.step(one.model)
    monitor.step(scaled(one.model, 0.01))
    run = monitor.result()
    for name in REGIONS:
        assert [one[name] for one in told] == getattr(run, name).tolist()
    assert "records in the region of certified convexity:" in run.summary()


def test_it_is_unknown_without_bounds() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 1, 4, 4)), rng.normal(size=(5, 2))
    model = Convolutional()
    convolved = rs.Landscape(model, x, y, weight_decay=0.1)
    assert "outside the affine layers" in Membership(convolved).reason
    layer = nn.Linear(2, 1)
    absolute = rs.Landscape(layer, [[1.0, 2.0]], [1.0], loss="l1")
    assert "L1" in Membership(absolute).reason
    norm = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))
    moved = rs.Landscape(norm, [[1.0, 2.0]], [1.0])
    assert "statistics" in Membership(moved).reason
    runs = []
    for landscape, module in ((convolved, model), (absolute, layer), (moved, norm)):
        told: list[Mapping[str, float]] = []
        monitor = rs.ConvexityMonitor(
            landscape, sink=lambda step, numbers, kept=told: kept.append(numbers)
        )
        monitor.step(module)
        runs.append(monitor.result())
        assert not set(REGIONS) & set(told[0])
    criterion = rs.ConvexityMonitor(nn.MSELoss())
    criterion.step(layer, (torch.ones(1, 2), torch.ones(1, 1)))
    for run in (*runs, criterion.result()):
        assert np.isnan(run.in_region).all()
        assert np.isnan(run.in_sharp_region).all()
        assert "certified convexity" not in run.summary()


def test_one_layer_is_inside_with_any_decay() -> None:
    layer = nn.Linear(2, 1)
    for decay in (0.0, 0.1):
        landscape = rs.Landscape(layer, [[1.0, 2.0]], [1.0], weight_decay=decay)
        monitor = rs.ConvexityMonitor(landscape)
        monitor.step(layer)
        assert monitor.result().in_region.tolist() == [float(decay > 0)]


def test_the_datas_bound_is_watched_with_batch_norm_in_train_mode() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 3)), rng.normal(size=(30, 1))
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    normed = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))
    for model in (scaled(plain, 3.0), scaled(normed, 3.0)):
        landscape = rs.Landscape(model, x, y, weight_decay=0.9)
        monitor = rs.ConvexityMonitor(landscape, watch={"bound": data_bound(landscape)})
        expected = []
        for _ in range(9):
            model.train()
            model(torch.from_numpy(x).float())  # moves the statistics
            monitor.step(model)
            assert model.training
            found = rs.convexity(rs.Landscape(model, x, y, weight_decay=0.9))
            expected.append(found.data_bound)
            scaled(model, 0.7)
        told = monitor.result().watched_values("bound")
        np.testing.assert_allclose(told, expected, rtol=1e-9)
        assert told[0] < 0.0 < told[-1]


def test_the_datas_bound_of_a_model_with_a_buffer_that_state_dicts_leave_out() -> None:
    x, y = np.array([[1.0, 2.0], [0.5, -1.0]]), np.array([[1.0], [0.0]])
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    model.register_buffer("place", torch.ones(2), persistent=False)
    landscape = rs.Landscape(model, x, y)
    assert data_bound(landscape)(model) == pytest.approx(rs.convexity(landscape).data_bound)


def test_a_bound_that_there_is_not_is_refused() -> None:
    absolute = rs.Landscape(nn.Linear(2, 1), [[1.0, 2.0]], [1.0], loss="l1")
    with pytest.raises(InputError, match="no bound on the curvature: an L1 loss"):
        data_bound(absolute)
