"""Tiny networks whose verdict is derived by hand; the derivation stands next to each.

Conventions. The block is the first layer unless `layer` says otherwise; `layer=None` is the whole
network. r is a residual, output minus target, or for cross-entropy (two logits, the second held at
zero) the probability of class 0 minus its indicator: either way the derivative of a sample's loss
in its first output is a positive multiple of r. Slopes are given as (up, down) of a kink's value t,
without the positive factor that the loss puts in front of all of them.

`claims` is what float64 may answer, `exact` what rational arithmetic may: the two differ only where
a sign is zero through cancellation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from oracles import sequential
from torch import nn

STRICT, LOCAL, SADDLE = "strict_local_minimum", "local_minimum", "saddle"
MOVING, PLATEAU, UNDECIDED = "not_stationary", "plateau", "undecided"
MINIMUM = frozenset({STRICT, LOCAL})
LOSSES = ("squared", "half_squared", "l1", "cross_entropy")
SMOOTH = ("squared", "half_squared", "cross_entropy")

Rows = Sequence[Sequence[float]]
Layers = Sequence[tuple[Rows, Sequence[float] | None]]


@dataclass(frozen=True)
class Problem:
    """A network, its data and loss, and the claims that are right for it."""

    name: str
    layers: Layers
    inputs: np.ndarray
    targets: np.ndarray
    loss: str
    claims: frozenset[str]
    active: int | None = None
    layer: int | None = 0
    slope: float = 0.0
    decay: float = 0.0
    exact: frozenset[str] = frozenset()

    @property
    def decided(self) -> frozenset[str]:
        """What rational arithmetic may answer."""
        return self.exact or self.claims

    def module(self) -> nn.Sequential:
        """Build the network in float64."""
        weights = [np.array(weight, dtype=float) for weight, _ in self.layers]
        biases = [None if bias is None else np.array(bias, dtype=float) for _, bias in self.layers]
        return sequential(weights, biases, self.slope)


def problem(
    name: str,
    layers: Layers,
    inputs: Sequence[object],
    targets: np.ndarray,
    loss: str,
    *claims: str,
) -> Problem:
    """Build a problem on one-feature samples unless `inputs` has rows."""
    samples = np.array(inputs, dtype=float).reshape(len(inputs), -1)
    return Problem(f"{name}-{loss}", layers, samples, targets, loss, frozenset(claims))


def refine(base: Problem, **changes: object) -> Problem:
    """Return the problem with some fields replaced."""
    fields = {name: getattr(base, name) for name in base.__dataclass_fields__}
    return Problem(**{**fields, **changes})


def tie(base: Problem) -> Problem:
    """Allow float64 to be undecided: a slope is zero because terms cancel."""
    return refine(base, claims=base.claims | {UNDECIDED}, exact=base.claims)


def facing(loss: str, outputs: Sequence[float], signs: Sequence[float]) -> np.ndarray:
    """Return targets for which r has the given signs (and these values, for squared losses)."""
    if loss == "cross_entropy":
        return np.array([1 if sign > 0 else 0 for sign in signs])
    return (np.array(outputs, dtype=float) - np.array(signs, dtype=float))[:, None]


def head(loss: str, row: Sequence[float], bias: float | None = None) -> tuple[Rows, list | None]:
    """Return an output layer: one output, or for cross-entropy a second logit held at zero."""
    if loss == "cross_entropy":
        return [row, [0.0] * len(row)], None if bias is None else [bias, 0.0]
    return [row], None if bias is None else [bias]


# --- no active kink ------------------------------------------------------------------------------


def smooth_points() -> list[Problem]:
    """f = relu(w x + b) + c at differentiable points: the gradient and the Hessian decide."""
    found = []
    for loss in LOSSES:
        bare = [([[1.0]], None), head(loss, [1.0], -1.0)]
        biased = [([[1.0]], [0.0]), head(loss, [1.0], -1.0)]
        dead = [([[-1.0]], None), head(loss, [1.0], -1.0)]
        one = facing(loss, [0], [1])
        # two samples x = 1 with r = +1 and -1 (or p - 1 and p, p = 1/2): the gradient cancels.
        both = facing(loss, [0, 0], [1, -1])
        found += [
            problem("slope", bare, [1], one, loss, MOVING),  # df/dw = r = 1
            problem("dead", dead, [1], one, loss, PLATEAU),  # relu(-1) = 0 around w = -1
            # the loss in w is sum r^2 (strictly convex), or |r| twice with opposite signs: flat.
            problem("cancel", bare, [1, 1], both, loss, PLATEAU if loss == "l1" else STRICT),
            # with a bias only w + b matters: constant along (1, -1).
            problem("ridge", biased, [1, 1], both, loss, PLATEAU if loss == "l1" else LOCAL),
        ]
        # a second unit, dead on the only x: flat in its weight, a minimum in the other's.
        two = [([[1.0], [-1.0]], None), head(loss, [1.0, 1.0], -1.0)]
        flat = PLATEAU if loss == "l1" else LOCAL
        found.append(problem("dead unit", two, [1, 1], both, loss, flat))
        # without bias, x = 0 gives a kink value that is 0 for every w: not a kink of the block.
        still = [*both, both[0]]
        found.append(
            problem(
                "constant kink", bare, [1, 1, 0], np.array(still), loss,
                PLATEAU if loss == "l1" else STRICT,
            )
        )  # fmt: skip
    return [refine(item, active=0) for item in found]


def decayed() -> list[Problem]:
    """Weight decay 1: adds w^2 / 2 to the loss, so every minimum is strict."""
    found = []
    for loss in ("squared", "half_squared"):
        factor = 2.0 if loss == "squared" else 1.0
        # factor (w - y) + w = 0 at w = 1 for y = 1 + 1 / factor.
        still = [([[1.0]], None), head(loss, [1.0])]
        y = np.array([[1.0 + 1.0 / factor]])
        found.append(refine(problem("decayed", still, [1], y, loss, STRICT), active=0))
    for loss in LOSSES:
        dead = [([[-1.0]], None), head(loss, [1.0])]
        zero = [([[0.0]], None), head(loss, [1.0])]
        up, down = facing(loss, [0], [1]), facing(loss, [0], [-1])
        found += [
            # the data pull nowhere, the decay pulls w to 0.
            refine(problem("decayed dead", dead, [1], up, loss, MOVING), active=0),
            # at w = 0 the decay has no slope: (r, 0); below 0 it alone raises the loss.
            refine(problem("decayed zero up", zero, [1], up, loss, STRICT), active=1),
            refine(problem("decayed zero down", zero, [1], down, loss, SADDLE), active=1),
        ]
    return [refine(item, decay=1.0) for item in found]


# --- hidden kinks --------------------------------------------------------------------------------


def hinge(loss: str) -> Layers:
    """f = relu(4 - relu(w x)) at w = 1.

    x = 4 is on the second layer's kink (output 0), x = 1 is at output 3. Moving w by dw changes the
    sum of losses by r1 relu(-4 dw) - r2 dw: slopes for dw < 0 and dw > 0 are 4 r1 + r2 and -r2.
    """
    return [([[1.0]], None), ([[-1.0]], [4.0]), head(loss, [1.0])]


# (r1, r2): slopes 3 and 1; 5 and -1; -3 and -1
HINGE_SIGNS = {STRICT: (1, -1), MOVING: (1, 1), SADDLE: (-1, 1)}


def combine(first: str, second: str) -> str:
    """Return the claim for a sum of two hinges in separate coordinates."""
    for claim in (MOVING, SADDLE):
        if claim in (first, second):
            return claim
    return STRICT


def hinges() -> list[Problem]:
    """One kink and one parameter; two of each; one sample; each sample twice."""
    found = []
    for loss in LOSSES:
        for claim, signs in HINGE_SIGNS.items():
            targets = facing(loss, [0, 3], signs)
            one = problem(f"hinge {claim}", hinge(loss), [4, 1], targets, loss, claim)
            found.append(refine(one, active=1))
            # each sample twice: the same loss, but the two kinks coincide, so LIKQ fails.
            again = np.concatenate([targets, targets])
            double = problem(
                f"double hinge {claim}", hinge(loss), [4, 1, 4, 1], again, loss, claim, UNDECIDED
            )
            found.append(refine(double, active=2))
            for other, more in HINGE_SIGNS.items():
                # two inputs, samples on the axes: the sum of a hinge in w1 and a hinge in w2.
                layers = [([[1.0, 1.0]], None), *hinge(loss)[1:]]
                samples = [[4, 0], [1, 0], [0, 4], [0, 1]]
                targets = facing(loss, [0, 3, 0, 3], [*signs, *more])
                both = combine(claim, other)
                pair = problem(f"hinges {claim} {other}", layers, samples, targets, loss, both)
                found.append(refine(pair, active=2))
        # x = 4 alone: slopes 4 r1 and 0, and for dw > 0 the loss is constant.
        for name, sign, claim in (("rise", 1, LOCAL), ("fall", -1, SADDLE)):
            alone = problem(
                f"hinge {name}", hinge(loss), [4], facing(loss, [0], [sign]), loss, claim
            )
            found.append(refine(alone, active=1))
    return found


def leaky_hinges() -> list[Problem]:
    """The hinge with slope 1/2 on the far side: slopes 4 r1 + r2 and -2 r1 - r2."""
    found = []
    for loss in ("squared", "half_squared"):
        for signs, claim in (
            ((1, -3), STRICT),  # 1 and 1
            ((-1, 3), SADDLE),  # -1 and -1
            ((1, 1), MOVING),  # 5 and -3
        ):
            targets = facing(loss, [0, 3], signs)
            leaky = problem(f"leaky hinge {claim}", hinge(loss), [4, 1], targets, loss, claim)
            found.append(refine(leaky, active=1, slope=0.5))
    return found


def valleys() -> list[Problem]:
    """f = relu(w x + b) at w = 1, b = 0: x = 0 is on the kink t = b, and w is free along it.

    The others have z = x > 0. rest = sum r x = 0; with S = sum of their r the slopes in t = b are
    r0 + S and -S.
    """
    found = []
    for loss in ("squared", "half_squared"):
        layers = [([[1.0]], [0.0]), head(loss, [1.0])]
        for signs, claim in (
            ((2, -2, 1), STRICT),  # S = -1: slopes 1 and 1; the w-direction is curved
            ((0, -2, 1), MOVING),  # -1 and 1
            ((-2, 2, -1), SADDLE),  # S = 1: -1 and -1
            ((2, -2, 2), MOVING),  # rest = -2 + 4
        ):
            targets = facing(loss, [0, 1, 2], signs)
            name = f"valley {claim} {signs[-1]}"
            found.append(problem(name, layers, [0, 1, 2], targets, loss, claim))
        # only x = 0 and x = 1, r1 = 0: slopes r0 and 0; for b < 0 moving w the other way costs none
        targets = facing(loss, [0, 1], [1, 0])
        found.append(tie(problem("valley flat", layers, [0, 1], targets, loss, LOCAL)))
    # l1 with outputs relu and 3 relu: a sample pulls by s = +-1 +- 3. At x = 0, 1, 2: s = 4, -4, 2:
    # rest = -4 + 2 * 2 = 0, S = -2: slopes 2 and 2, constant along w. Negated: -2 and -2.
    wide = [([[1.0]], [0.0]), ([[1.0], [3.0]], None)]
    signs = np.array([[1, 1], [-1, -1], [-1, 1]])
    outputs = np.array([[0, 0], [1, 3], [2, 6]])
    found += [
        problem("valley rise", wide, [0, 1, 2], outputs - signs, "l1", LOCAL),
        problem("valley fall", wide, [0, 1, 2], outputs + signs, "l1", SADDLE),
    ]
    # cross-entropy with logit relu - 1: two samples x = 1 with both labels, p = 1/2, cancel: S = 0.
    # Slopes r0 and 0; with the kink's sample off, w + b is all that matters: flat.
    layers = [([[1.0]], [0.0]), head("cross_entropy", [1.0], -1.0)]
    for signs, claim in (((1, 1, -1), LOCAL), ((-1, 1, -1), SADDLE), ((1, 1, 1), MOVING)):
        targets = facing("cross_entropy", [0, 0, 0], signs)
        cell = problem(f"valley {claim}", layers, [0, 1, 1], targets, "cross_entropy", claim)
        found.append(cell if claim == MOVING else tie(cell))
    return [refine(item, active=1) for item in found]


def zero_units() -> list[Problem]:
    """A unit with all weights zero is on the kink of every sample: slopes (r v, 0) for each."""
    found = []
    for loss in LOSSES:
        bare = [([[0.0]], None), head(loss, [1.0])]
        biased = [([[0.0]], [0.0]), head(loss, [1.0])]
        pair = [([[0.0], [0.0]], None), head(loss, [1.0, -1.0])]
        up, down = facing(loss, [0], [1]), facing(loss, [0], [-1])
        rises, mixed = facing(loss, [0, 0], [1, 1]), facing(loss, [0, 0], [1, -1])
        found += [
            refine(problem("zero unit up", bare, [1], up, loss, LOCAL), active=1),
            refine(problem("zero unit down", bare, [1], down, loss, SADDLE), active=1),
            refine(problem("zero unit bias up", biased, [1], up, loss, LOCAL), active=1),
            refine(problem("zero unit bias down", biased, [1], down, loss, SADDLE), active=1),
            # two samples, two parameters: normals (1, 1) and (2, 1)
            refine(problem("zero unit p up", biased, [1, 2], rises, loss, LOCAL), active=2),
            refine(problem("zero unit p mixed", biased, [1, 2], mixed, loss, SADDLE), active=2),
            # two units, output weights 1 and -1: slopes (1, 0) and (-1, 0)
            refine(problem("zero pair", pair, [1], up, loss, SADDLE), active=2),
            # x = 1 and x = -1 share the kink w = 0: slopes r1 up and r2 down, but LIKQ fails.
            refine(
                problem("opposite up", bare, [1, -1], rises, loss, STRICT, LOCAL, UNDECIDED),
                active=2,
            ),
            refine(
                problem("opposite mixed", bare, [1, -1], mixed, loss, MOVING, UNDECIDED), active=2
            ),
        ]
        # beside a unit that fits x = 1 exactly (or balances both labels) the zero unit has r = 0 in
        # sum: nothing falls, and nothing rises along its weight's negative side.
        fit = [([[1.0], [0.0]], None), head(loss, [1.0, 1.0], -1.0)]
        if loss in ("squared", "half_squared"):
            exact = problem("zero unit fitted", fit, [1], facing(loss, [0], [0]), loss, LOCAL)
            found.append(refine(tie(exact), active=1))
    return found


def bent() -> list[Problem]:
    """Kinks of one sample on two consecutive layers, where forgetting the bend gives a wrong claim.

    x = 1; A = relu(wA), B = wB; z = g A + B - 1; q = a A - B + 10; f = 2 relu(z) + q - 9, at
    wA = 0, wB = 1: tA = wA and t = z are both 0. In bent coordinates B' = t - g relu(tA), so
    f' = 2 relu(t) - t + (a + g) relu(tA): slopes of t are (1, 1), of tA (a + g, 0).
    With t's normal frozen at its current side (A off), f' would read a instead of a + g.
    """
    found = []
    for loss in LOSSES:
        for a, g, claim in ((-1.0, 2.0, LOCAL), (1.0, -2.0, SADDLE)):
            layers = [
                ([[0.0], [1.0]], None),
                ([[g, 1.0], [a, -1.0]], [-1.0, 10.0]),
                head(loss, [2.0, 1.0], -9.0),
            ]
            targets = facing(loss, [0], [1])
            found.append(
                refine(problem(f"bent {claim}", layers, [1], targets, loss, claim), active=2)
            )
    return found


# --- residual kinks of the l1 loss ---------------------------------------------------------------


def lines() -> list[Problem]:
    """Least absolute deviations: f = w x + b, convex, so never a saddle."""
    single, line = [([[1.0]], None)], [([[1.0]], [0.0])]

    def at(
        name: str, layers: Layers, x: Sequence[float], r: Sequence[int], *claims: str
    ) -> Problem:
        return problem(name, layers, x, facing("l1", x, r), "l1", *claims)

    return [
        # x = 2 fitted, x = 1 or 3 below its target: slopes 2 - 1, 2 + 1; 2 - 3, 2 + 3
        refine(at("line", single, [2, 1], [0, -1], STRICT), active=1),
        refine(at("line outweighed", single, [2, 3], [0, -1], MOVING), active=1),
        # normals (-1, 1) and (1, 1); (0, 1) is half their sum: slopes 1 +- 1/2 twice
        refine(at("line p", line, [-1, 1, 0], [0, 0, 1], STRICT), active=2),
        # (3, 1) = 2 (1, 1) - (-1, 1): slopes 1 - 2 and 1 + 2
        refine(at("line p outweighed", line, [-1, 1, 3], [0, 0, 1], MOVING), active=2),
        # a third sample on top of x = 1 with r = -1: slopes 1 - 1 and 1 + 1, constant along the tie
        tie(refine(at("line p tie", line, [-1, 1, 1], [0, 0, -1], LOCAL), active=2)),
        # one residual of two parameters: (1, 1) is not a multiple of (2, 1), rest is not zero
        refine(at("line short", line, [2, 1], [0, -1], MOVING), active=1),
        # a fitted sample alone: |t|, constant along its kink
        refine(at("line alone", line, [2], [0], LOCAL), active=1),
        # the same sample twice, both fitted: coincident kinks
        refine(at("line twice", single, [1, 1], [0, 0], STRICT, LOCAL, UNDECIDED), active=2),
    ]  # fmt: skip


def mixed() -> list[Problem]:
    """A hidden and a residual kink: f = relu(w x + b), w = 1, b = 0; t1 = b, t2 = w + b.

    x = 0 is on the hidden kink, x = 1 fitted; x = 1/2 has f = t1 / 2 + t2 / 2.
    Slopes of t1: (s1 + s3 / 2, -s3 / 2), of t2: 1 +- s3 / 2.
    """
    layers = [([[1.0]], [0.0]), ([[1.0]], None)]

    def at(name: str, samples: Sequence[float], signs: Sequence[int], claim: str) -> Problem:
        targets = facing("l1", samples, signs)
        return refine(problem(name, layers, samples, targets, "l1", claim), active=2)

    return [
        tie(at("mixed up", [0, 1], [1, 0], LOCAL)),  # (1, 0), (1, 1)
        tie(at("mixed down", [0, 1], [-1, 0], SADDLE)),  # (-1, 0), (1, 1)
        at("mixed strict", [0, 1, 0.5], [1, 0, -1], STRICT),  # (1/2, 1/2), (1/2, 3/2)
        at("mixed saddle", [0, 1, 0.5], [-1, 0, 1], SADDLE),  # (-1/2, -1/2), (3/2, 1/2)
        at("mixed slope", [0, 1, 0.5], [1, 0, 1], MOVING),  # (3/2, -1/2)
    ]


# --- signs that only rational arithmetic can decide ----------------------------------------------


def hard() -> list[Problem]:
    """Slopes that are zero through cancellation, or the last bit of float64 away from zero."""
    found = []
    single = [([[1.0]], None)]
    tiny = 2.0**-54
    # least absolute deviations through x = 1; the others lie below their targets by 1 (or 2), and
    # pull with the sum of their x: slopes 1 - sum and 1 + sum.
    for name, x, claim in (
        ("tie", [0.5, 0.25, 0.25], LOCAL),
        ("tie above", [0.5, 0.5 - tiny], STRICT),
        ("tie below", [0.5, 0.5 + 2 * tiny], MOVING),
    ):
        samples = [1.0, *x]
        targets = np.array([1.0, *([2.0] * len(x))])[:, None]
        found.append(problem(f"line {name}", single, samples, targets, "l1", claim))
    # the hinge with r2 = 0 or one bit: slopes 4 r1 + r2 and -r2.
    above, below = math.nextafter(3.0, 4.0), math.nextafter(3.0, 2.0)
    for r1, y2, claims in (
        (1.0, 3.0, MINIMUM),  # 4 and 0; for dw > 0 the second sample's curvature decides
        (1.0, above, {STRICT}),
        (1.0, below, {MOVING}),
        (-1.0, 3.0, {SADDLE}),
        (-1.0, above, {MOVING}),
        (-1.0, below, {SADDLE}),
    ):
        targets = np.array([[-r1], [y2]])
        name = f"hinge {r1:+g} {(y2 > 3) - (y2 < 3):+d}"
        for loss in ("squared", "half_squared"):
            found.append(problem(name, hinge(loss), [4, 1], targets, loss, *claims))
    return [refine(tie(item), active=1) for item in found]


# --- the whole network ---------------------------------------------------------------------------


def whole() -> list[Problem]:
    """All layers at once."""
    found = []
    for loss in LOSSES:
        # f = v relu(w x + b) + c at w = v = c = 0, b = 1 with x = +-1 and r = -+1: the gradient is
        # sum r in v and c, zero; the Hessian in (w, v) is off-diagonal, sum r x = -2: a saddle.
        layers = [([[0.0]], [1.0]), head(loss, [0.0], 0.0)]
        targets = facing(loss, [0, 0], [-1, 1])
        found += [
            problem("product saddle", layers, [1, -1], targets, loss, SADDLE),
            problem("product slope", layers, [1, -1], facing(loss, [0, 0], [1, 1]), loss, MOVING),
        ]
        # dead hidden unit without output bias: the output is 0 all around.
        dead = [([[-1.0]], None), head(loss, [1.0])]
        found.append(problem("all dead", dead, [1], facing(loss, [0], [1]), loss, PLATEAU))
        # relu(w) v at w = 0, v = 1 with r > 0: a local minimum at a kink; r < 0: it falls in w > 0
        kink = [([[0.0]], None), head(loss, [1.0])]
        up, down = facing(loss, [0], [1]), facing(loss, [0], [-1])
        found += [
            problem("kink up", kink, [1], up, loss, LOCAL, UNDECIDED),
            problem("kink down", kink, [1], down, loss, MOVING, SADDLE),
            problem("kink slope", hinge(loss), [4, 1], facing(loss, [0, 3], (1, 1)), loss, MOVING),
        ]
    for loss in ("squared", "half_squared"):
        # f = v relu(w x): exact fit, or r = +1 and -1 at the same x; constant along w v = const.
        pair = [([[1.0]], None), head(loss, [1.0])]
        chain = [([[1.0]], None), ([[1.0]], None), head(loss, [1.0])]
        line = [([[1.0]], [0.5])]
        found += [
            problem("product fit", pair, [1], np.array([[1.0]]), loss, LOCAL),
            problem("product balance", pair, [1, 1], np.array([[0.0], [2.0]]), loss, LOCAL),
            # f = w1 w2 w3: the Hessian has rank 1 and two rescalings make its null space.
            problem("chain fit", chain, [1], np.array([[1.0]]), loss, LOCAL),
            # no hidden layer: ordinary least squares through two points.
            problem("least squares", line, [1, 3], np.array([[1.5], [3.5]]), loss, STRICT),
            problem("least squares short", line, [1], np.array([[1.5]]), loss, LOCAL, UNDECIDED),
        ]
        # with decay 1 at v = w = 1: factor r + 1 = 0, so r = -1 / factor; the Hessian is
        # [[factor + 1, factor + factor r], ...] = [[3, 1], [1, 3]] or [[2, 0], [0, 2]].
        factor = 2.0 if loss == "squared" else 1.0
        decayed_fit = problem(
            "product decayed", pair, [1], np.array([[1.0 + 1.0 / factor]]), loss, STRICT
        )
        found.append(refine(decayed_fit, decay=1.0))
    # r = 0 at zero weights: f = c fits; (w, v) moves nothing to second order, but w v x does to
    # fourth: a minimum, though the Hessian alone cannot tell.
    flat = [([[0.0]], [1.0]), ([[0.0]], [0.0])]
    found.append(
        problem("fitted flat", flat, [1, -1], np.zeros((2, 1)), "squared", LOCAL, UNDECIDED)
    )
    return [refine(item, layer=None, name=f"whole {item.name}") for item in found]


BLOCKS = [
    *smooth_points(), *decayed(), *hinges(), *leaky_hinges(), *valleys(), *zero_units(), *bent(),
    *lines(), *mixed(),
]  # fmt: skip
HARD = hard()
WHOLE = whole()
PROBLEMS = [*BLOCKS, *HARD, *WHOLE]
