"""Exact claims about all layers at trained points, against autograd and mpmath.

The oracle trains with torch, and finds the exact stationary point by Newton's method on a loss that
is written out in mpmath sample by sample, with derivatives from differences at 60 digits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import mpmath
import numpy as np
import pytest
import torch
from nets import dense, sample
from torch import nn
from torch.func import functional_call
from torch.nn import functional

import reluscape as rs
from reluscape.certificate import MINIMA


def objective_of(
    model: nn.Sequential, features: np.ndarray, targets: np.ndarray, loss: str, decay: float
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The loss with weight decay as a function of the flat parameters, in torch."""
    shapes = {name: p.shape for name, p in model.named_parameters()}

    def objective(theta: torch.Tensor) -> torch.Tensor:
        parts = torch.split(theta, [shape.numel() for shape in shapes.values()])
        values = {n: part.reshape(s) for (n, s), part in zip(shapes.items(), parts, strict=True)}
        outputs = functional_call(model, values, (torch.from_numpy(features),))
        if loss == "cross_entropy":
            value = functional.cross_entropy(outputs, torch.from_numpy(targets))
        else:
            gaps = outputs - torch.from_numpy(targets)
            total = gaps.abs().sum() if loss == "l1" else (gaps**2).sum()
            value = total / len(features) / (2 if loss == "half_squared" else 1)
        return value + decay / 2 * (theta @ theta)

    return objective


def newton(objective: Callable[[torch.Tensor], torch.Tensor], theta: np.ndarray) -> np.ndarray:
    """A few steps of Newton's method, each cut to length one, across flat directions."""
    for _ in range(30):
        point = torch.from_numpy(theta).requires_grad_()
        slope = torch.autograd.grad(objective(point), point)[0].numpy()
        bend = torch.autograd.functional.hessian(objective, torch.from_numpy(theta)).numpy()
        if np.abs(slope).max() < 1e-17:
            break
        step = np.linalg.pinv(bend, rcond=1e-11, hermitian=True) @ slope
        theta = theta - step / max(1.0, float(np.linalg.norm(step)))
    return theta


def minimised(objective: Callable[[torch.Tensor], torch.Tensor], theta: np.ndarray) -> np.ndarray:
    """Where L-BFGS stops."""
    point = torch.from_numpy(theta.copy()).requires_grad_()
    optimiser = torch.optim.LBFGS(
        [point],
        max_iter=300,
        tolerance_grad=1e-9,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        value = objective(point)
        value.backward()
        return value

    optimiser.step(closure)
    return point.detach().numpy()


def trained(
    widths: tuple[int, ...], loss: str, decay: float, seed: int, *, descend: bool
) -> rs.Landscape:
    model = dense(widths, seed=seed)
    data = sample(16, widths[0], widths[-1], loss, seed=seed + 100)
    objective = objective_of(model, *data, loss, decay)
    landscape = rs.Landscape(model, *data, loss=loss, weight_decay=decay)
    theta = minimised(objective, landscape.theta) if descend else landscape.theta
    return landscape.at(newton(objective, theta))


STRICT, LOCAL, SADDLE = "strict_local_minimum", "local_minimum", "saddle"

# widths, loss, weight decay, seed, L-BFGS before Newton's method, what autograd's eigenvalues say
CASES = [
    ((2, 1, 2), "squared", 0.01, 3, True, STRICT),
    ((2, 2, 2), "half_squared", 0.01, 7, True, STRICT),
    ((2, 1, 2), "cross_entropy", 0.01, 0, True, STRICT),
    ((2, 1, 2), "squared", 0.01, 5, False, SADDLE),
    ((2, 1, 2), "half_squared", 0.0, 6, False, SADDLE),
    ((2, 1, 2), "squared", 0.0, 0, True, LOCAL),
    ((2, 2, 1, 2), "half_squared", 0.0, 1, True, LOCAL),
    ((2, 1, 2), "cross_entropy", 0.0, 0, True, LOCAL),
    ((2, 2, 1, 2), "cross_entropy", 0.0, 3, True, LOCAL),
]
NAMES = ["-".join(map(str, [*widths, loss, decay])) for widths, loss, decay, *_ in CASES]


@cache
def claimed(case: int) -> tuple[rs.Landscape, rs.Certificate]:
    widths, loss, decay, seed, descend, _ = CASES[case]
    landscape = trained(widths, loss, decay, seed, descend=descend)
    return landscape, rs.certify(landscape, arithmetic="rational")


def mp_loss(landscape: rs.Landscape, theta: list[mpmath.mpf]) -> mpmath.mpf:
    """The loss of Linear, ReLU, ..., Linear, sample by sample."""
    shapes = [tuple(p.shape) for p in landscape.module_at().parameters()]
    total, count = mpmath.mpf(0), landscape.num_samples
    for row, target in zip(landscape.inputs, landscape.targets, strict=True):
        values, start = [mpmath.mpf(float(x)) for x in row], 0
        for k in range(0, len(shapes), 2):
            units, inputs = shapes[k]
            bias = theta[start + units * inputs :]
            values = [
                bias[a] + mpmath.fdot(theta[start + a * inputs : start + (a + 1) * inputs], values)
                for a in range(units)
            ]
            start += units * inputs + units
            if k + 2 < len(shapes):
                values = [max(value, mpmath.mpf(0)) for value in values]
        if landscape.loss_name == "cross_entropy":
            total += mpmath.log(mpmath.fsum(mpmath.exp(v - values[target]) for v in values))
        else:
            scale = 1 if landscape.loss_name == "squared" else mpmath.mpf(1) / 2
            gaps = zip(values, target, strict=True)
            total += scale * mpmath.fsum((v - mpmath.mpf(float(y))) ** 2 for v, y in gaps)
    decay = mpmath.mpf(landscape.weight_decay) / 2 * mpmath.fdot(theta, theta)
    return total / count + decay


def distance_to_stationary(landscape: rs.Landscape) -> float:
    """Length of Newton's way to the stationary point, until it is found to 40 digits."""
    inverse = np.linalg.pinv(landscape.hessian(), rcond=1e-10, hermitian=True)
    with mpmath.workdps(80):
        start = [mpmath.mpf(value) for value in landscape.theta.tolist()]
        theta, tiny = list(start), mpmath.mpf(10) ** -25
        for _ in range(12):
            slope = []
            for k in range(len(theta)):
                sides = [[*theta[:k], theta[k] + s * tiny, *theta[k + 1 :]] for s in (1, -1)]
                up, down = (mp_loss(landscape, side) for side in sides)
                slope.append((up - down) / (2 * tiny))
            size = max(map(abs, slope))
            if size < mpmath.mpf(10) ** -40:
                return float(mpmath.norm([a - b for a, b in zip(theta, start, strict=True)]))
            step = inverse @ np.array([float(s / size) for s in slope])
            theta = [t - size * mpmath.mpf(s) for t, s in zip(theta, step.tolist(), strict=True)]
    raise AssertionError("Newton's method did not converge")


@pytest.mark.parametrize("case", range(len(CASES)), ids=NAMES)
def test_trained_points_are_decided_as_by_eigenvalues(case: int) -> None:
    landscape, certificate = claimed(case)
    assert certificate.claim == CASES[case][-1] == rs.certify(landscape).claim
    assert certificate.tier == "exact"
    assert certificate.curvature == pytest.approx(
        np.linalg.eigvalsh(landscape.hessian())[0], abs=1e-9
    )
    outcome = rs.verify(certificate, landscape)
    assert outcome.valid, outcome.reason
    bend = np.linalg.eigvalsh(landscape.at(certificate.theta).hessian())
    if certificate.claim == STRICT:
        assert 0 < certificate.margin <= bend[0]
    elif certificate.claim == LOCAL:
        assert bend[0] > -1e-12
    else:
        assert bend[0] < -certificate.margin / 2 < 0


@pytest.mark.parametrize("case", range(len(CASES)), ids=NAMES)
def test_the_stationary_point_lies_within_the_radius(case: int) -> None:
    landscape, certificate = claimed(case)
    distance = distance_to_stationary(landscape.at(certificate.theta))
    assert distance < 1e-12
    if certificate.claim in MINIMA:
        assert distance <= certificate.radius < 1e-12


def separable(seed: int, scale: float) -> rs.Landscape:
    """Two units, one per class: x1 > 0 and x1 < 0, with outputs that grow with the scale."""
    rng = np.random.default_rng(seed)
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    with torch.no_grad():
        for part, weight in ((model[0], [[1.0, 0.0], [-1.0, 0.0]]), (model[2], np.eye(2))):
            part.weight.copy_(scale**0.5 * torch.tensor(weight))
            part.bias.zero_()
    labels = rng.integers(0, 2, size=8)
    features = rng.normal(size=(8, 2))
    features[:, 0] = np.where(labels == 0, 1.0, -1.0) * rng.uniform(1.0, 2.0, size=8)
    return rs.Landscape(model, features, labels, loss="cross_entropy")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scale", [1.0, 30.0, 400.0, 900.0])
def test_separable_data_have_no_minimum(seed: int, scale: float) -> None:
    landscape = separable(seed, scale)
    certificate = rs.certify(landscape, arithmetic="rational")
    assert certificate.claim == "not_stationary"
    assert rs.verify(certificate, landscape).valid


CHANGES = [
    (0, {"radius": 0.0}),
    (0, {"radius": 1.0}),
    (0, {"margin": 10.0}),
    (0, {"margin": 0.0}),
    (0, {"curvature": 10.0}),
    (0, {"curvature": None}),
    (0, {"gradient_norm": 1.0, "rest_norm": 1.0}),
    (0, {"claim": LOCAL}),
    (3, {"radius": 1e-15}),
    (3, {"margin": 10.0}),
    (3, {"curvature": -10.0}),
    (3, {"claim": STRICT, "direction": None}),
    (5, {"radius": 0.0}),
    (5, {"margin": 1e-3}),
    (5, {"claim": STRICT}),
    (7, {"claim": "plateau", "curvature": None}),
    (7, {"claim": "not_stationary"}),
]


@pytest.mark.parametrize(("case", "change"), CHANGES)
def test_a_changed_certificate_is_rejected(case: int, change: dict) -> None:
    landscape, certificate = claimed(case)
    assert not rs.verify(replace(certificate, **change).signed(), landscape).valid


def test_a_changed_slope_is_rejected() -> None:
    landscape = separable(0, 720.0)
    certificate = rs.certify(landscape, arithmetic="rational")
    assert (certificate.claim, certificate.scope) == ("not_stationary", "landscape")
    assert certificate.margin > 0
    for change in (
        {"margin": 2 * certificate.margin},
        {"margin": 0.0},
        {"direction": -certificate.direction},
        {"direction": 2 * certificate.direction},
        {"direction": certificate.direction[:2]},
        {"direction": None},
        {"curvature": 1.0},
    ):
        assert not rs.verify(replace(certificate, **change).signed(), landscape).valid


@pytest.mark.parametrize("arithmetic", ["float64", "rational"])
@pytest.mark.parametrize(
    ("kink", "values"),
    [
        # v relu(w x + b) + c fits at b = 1, w = v = c = 0, where its Hessian is singular
        (False, (0.0, 1.0, 0.0, 0.0)),
        # v relu(w x) at w = 0, v = 1: the kink is active, and the loss rises for w > 0
        (True, (0.0, 1.0)),
    ],
    ids=["smooth", "kink"],
)
def test_an_undecided_certificate_tells_the_truth(
    arithmetic: str, kink: bool, values: tuple[float, ...]
) -> None:
    model = nn.Sequential(
        nn.Linear(1, 1, bias=not kink), nn.ReLU(), nn.Linear(1, 1, bias=not kink)
    ).double()
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), values, strict=True):
            parameter.fill_(value)
    landscape = rs.Landscape(model, [[1.0], [-1.0]], [[-float(kink)], [0.0]])
    certificate = rs.certify(landscape, arithmetic=arithmetic)
    assert certificate.claim == "undecided"
    assert rs.verify(certificate, landscape).valid
    flipped = f"{int(certificate.pattern, 16) ^ 0x80:02x}"
    for change in (
        {"gradient_norm": certificate.gradient_norm + 1.0},
        {"rest_norm": certificate.rest_norm + 1.0},
        {"gradient_norm": 5.0, "rest_norm": 5.0},
        {"curvature": 1.0},
        {"pattern": flipped},
        {"active_kinks": np.array([1])},
    ):
        assert not rs.verify(replace(certificate, **change).signed(), landscape).valid, change
