"""Minima at dependent kinks some of which are concave: each is paid for by convex ones (`adjacent.py`).

With `p_k = max(t_k, 0)` and `n_k = max(-t_k, 0)`, weights u that write the gradient make the loss

    f'(d) = sum_k (C_k - u_k) p_k + u_k n_k,    C_k = s_k + sum_q c_qk u_q.

Let `sum_i r_i a_i = 0` be a relation between the normals in which kink q has `r_q = -m < 0`. It carries
over to the kinks' rates with what their bends add: `sum_i r_i t_i + sum_k b_k p_k = 0`, `b = -r c`. So

    m p_q <= sum_{i != q} max(r_i, 0) p_i + max(-r_i, 0) n_i + sum_k max(b_k, 0) p_k.

and a negative coefficient of p_q may be raised by m where those of the others fall by their shares. If
all coefficients are then non-negative, the loss falls in no direction. In geometry, a zonotope spanned by
the concave kinks lies in one spanned by the convex ones, each generator split among generators
(Sadraddini and Tedrake 2019). That is sufficient, not necessary; at a unit whose hundreds of kinks are
all zero it does where splitting the directions would take thousands of parts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, hstack, vstack

from reluscape.errors import AnalysisError
from reluscape.singular import svd
from reluscape.solvers import LinearProgram, Solution
from reluscape.tolerances import TOLERANCES

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
Bools = NDArray[np.bool_]

#: Convex kinks that are tried first for each concave one, and added in each further round.
NEAREST = 32
#: Rounds in which the linear program's prices bring in more of them.
ROUNDS = 12
#: Rows for relations in the largest program, half a minute's.
LARGEST = 10**4
#: Least margin, as a share of the kinks' jumps, worth correcting.
LEAST = 1e-6
#: Margin asked of kinks that bend others, relative to that of the others.
BENT = 1e-2
#: Times that weights and relations are moved to hold exactly: twice for rounding, more where signs turn.
REFITS = 4
#: Prices above this share of the largest are not zero.
FLAT = 1e-4
#: Weights below this share of the jumps are rounding errors of zero.
ZERO = 1e-11
#: Shares below this part of a relation are dropped.
TINY = 1e-7


@dataclass(frozen=True, slots=True)
class Shares:
    """Weights u (k,) and relations (k, k): row q is zero or a relation with `r_qq < 0`."""

    weights: Floats
    relations: Floats


def find_shares(normals: Floats, gradient: Floats, jumps: Floats, bends: Floats) -> Shares | None:
    """Weights and relations that leave all coefficients positive but for rounding, or None.

    Args:
        normals: a, shape (k, params), dependent.
        gradient: g, in their span.
        jumps: s.
        bends: c.

    Returns:
        What the best linear program over ever more pairs of kinks gives; None where kinks cannot be paid
        for, which does not mean that the loss falls.
    """
    market = _Market.of(normals, gradient, jumps, bends)
    rows = len(market.concave) * (market.reduced.shape[1] + len(market.bent))
    if not 0 < rows <= LARGEST or not len(market.convex):
        return None
    pairs = market.nearest()
    for _ in range(ROUNDS):
        solution = market.solve(pairs)
        if solution is None:
            return None
        if solution.point[-1] > LEAST:
            return market.shares(pairs, solution.point)
        flat = market.flat(solution) if solution.point[-1] > -LEAST else np.zeros(0)
        more = market.priced(pairs, solution.multipliers)
        if flat.any():
            market.zero |= flat.astype(np.bool_)
        elif more.any():
            pairs = pairs | more
        else:
            return None
    return None


@dataclass(slots=True)
class _Market:
    """The linear program, its kinks scaled so that normals have length one.

    Attributes:
        normals: Unit normals (k, params).
        lengths: Lengths before.
        scale: Mean size of the jumps, by which all of the loss is divided.
        gradient: g.
        jumps: s, per unit of a scaled rate.
        bends: c, between scaled rates.
        weights: Weights that write the gradient; those of kinks in no relation are the only ones.
        loose: Kinks that are in relations with others.
        reduced: Normals in the span of those (k, dims).
        rest: What of the gradient they must write, in the same span (dims,).
        shape: The same with directions scaled so that they are alike, of length one; zero beyond.
        concave: Kinks to be paid for.
        convex: Kinks that may pay.
        low: Margins asked of the coefficients of n, per unit of the program's own.
        high: The same for p. Kinks in no relation have their weights, and so no margin to choose, but for
            what their bends leave.
        bent: Kinks that bend others that are in relations.
        zero: Kinks whose negative sides are flat, so that their weights are zero and they pay on their
            positive sides only (a dead unit's).
    """

    normals: Floats
    lengths: Floats
    scale: float
    gradient: Floats
    jumps: Floats
    bends: Floats
    weights: Floats
    loose: Bools
    reduced: Floats
    rest: Floats
    shape: Floats
    concave: Indices = field(init=False)
    convex: Indices = field(init=False)
    low: Floats = field(init=False)
    high: Floats = field(init=False)
    bent: Indices = field(init=False)
    zero: Bools = field(init=False)

    @classmethod
    def of(cls, normals: Floats, gradient: Floats, jumps: Floats, bends: Floats) -> _Market:
        """Scale the kinks and find those that are in relations with others."""
        lengths = np.linalg.norm(normals, axis=1)
        lengths[lengths == 0] = 1.0
        unit = normals / lengths[:, None]
        loose = (_spanned(unit)[0] ** 2).sum(axis=1) < 1.0 - TOLERANCES.independence
        shape = np.zeros((len(unit), 0))
        reduced, rest = shape, np.zeros(0)
        if loose.any():
            found, axes = _spanned(unit[loose])
            shape = np.zeros((len(unit), len(axes)))
            sizes = np.linalg.norm(found, axis=1)[:, None]
            shape[loose] = found / np.where(sizes > 0, sizes, 1.0)
            reduced = unit @ axes.T
        scale = float(np.abs(jumps * lengths).mean()) or 1.0
        weights = np.linalg.lstsq(unit.T, -gradient / scale, rcond=None)[0]
        zero = ~loose & (np.abs(weights) <= ZERO)
        weights[zero] = 0.0
        if loose.any():
            rest = axes @ (gradient / scale + weights[~loose] @ unit[~loose])
        market = cls(
            unit, lengths, scale, gradient / scale, jumps * lengths / scale,
            bends * lengths / lengths[:, None], weights, loose, reduced, rest, shape,
        )  # fmt: skip
        ceilings = market.jumps + market.bends.T @ np.where(loose, 0.0, weights)
        market.concave = np.flatnonzero(loose & (ceilings < 0))
        market.convex = np.flatnonzero(loose & (ceilings > 0))
        market.zero = zero
        bent = market.bends[loose].any(axis=0)
        market.bent = np.flatnonzero(bent)
        market.low = np.where(loose, np.abs(ceilings), 0.0)
        market.high = np.where(loose | ~bent, market.low, BENT * np.abs(ceilings))
        return market

    def nearest(self) -> Bools:
        """For each concave kink (rows) the convex ones (columns) whose normals are most parallel."""
        alike = np.abs(self.shape[self.concave] @ self.shape[self.convex].T)
        return _largest(alike, np.ones(alike.shape, dtype=np.bool_))

    def solve(self, pairs: Bools) -> Solution | None:
        """The program over some pairs (concave, convex); None where the solver gives up.

        Variables: u (k), shares and their negative parts (one each per pair), amounts m (one per
        concave kink), b (one per concave and bending kink), the margin. Rows: u writes the gradient; the
        relations; b is at least what the relations push; coefficients of p, and of n.
        """
        k, q = len(self.normals), len(self.concave)
        rows, columns = np.nonzero(pairs)
        payers, dims, pushed = self.convex[columns], self.reduced.shape[1], q * len(self.bent)
        signed = hstack([self._blocks(rows, payers), -self._blocks(rows, payers)])
        own = self._blocks(np.arange(q), self.concave)
        push = self._pushes(rows, payers)
        push = hstack([push, -push, -self._pushes(np.arange(q), self.concave), _eye(pushed)])
        none = _zeros
        gains = _picks(self.concave, k)
        each = len(rows)
        low = csr_array(np.where(self.zero, 0.0, -self.low)[:, None])
        high = csr_array(-self.high[:, None])
        matrix = vstack(
            [
                hstack([csr_array(self.reduced.T * self.loose), none(dims, 2 * each + q + pushed + 1)]),
                hstack([none(q * dims, k), signed, -own, none(q * dims, pushed + 1)]),
                hstack([none(pushed, k), push, none(pushed, 1)]),
                hstack(
                    [
                        csr_array(self.bends.T - np.eye(k)), -_picks(payers, k), none(k, each), gains,
                        -_picks(np.tile(self.bent, q), k), high,
                    ]
                ),
                hstack([_eye(k), none(k, each), -_picks(payers, k), none(k, q + pushed), low]),
            ]
        ).tocsr()  # fmt: skip
        ceilings = np.where(self.high > 0, -self.jumps, -np.inf)
        floors = np.where(self.loose, 0.0, -np.inf)
        lower = np.concatenate([-self.rest, np.zeros(q * dims + pushed), ceilings, floors])
        upper = np.full(len(lower), np.inf)
        upper[: dims + q * dims] = lower[: dims + q * dims]
        least = np.zeros(matrix.shape[1])
        least[:k] = least[-1] = -np.inf
        box = np.full(matrix.shape[1], np.inf)
        box[-1] = 1.0
        least[:k][~self.loose] = box[:k][~self.loose] = self.weights[~self.loose]
        least[:k][self.zero] = box[:k][self.zero] = 0.0
        box[k + each : k + 2 * each][self.zero[payers]] = 0.0
        program = LinearProgram(matrix, lower, box, upper, least=least, interior=True)
        objective = np.zeros(matrix.shape[1])
        objective[-1] = -1.0
        try:
            solution = program.minimise(objective)
        except AnalysisError:
            return None
        return solution if solution.status == "optimal" else None

    def flat(self, solution: Solution) -> Bools:
        """Kinks whose weights the program cannot raise above zero."""
        prices = solution.multipliers[-len(self.normals) :]
        found: Bools = (prices > FLAT * prices.max(initial=0.0)) & ~self.zero & (self.low > 0)
        return found

    def priced(self, pairs: Bools, prices: Floats) -> Bools:
        """Pairs that the program's prices make worth adding."""
        k, q = len(self.normals), len(self.concave)
        dims = self.reduced.shape[1]
        pushed = q * len(self.bent)
        worth = prices[dims : dims + q * dims].reshape(q, dims) @ self.reduced[self.convex].T
        cost = prices[dims + q * dims + pushed :].reshape(2, k)[:, self.convex]
        back = np.where(self.zero[self.convex], -np.inf, -worth - cost[1])
        gain = np.maximum(worth - cost[0], back)
        return _largest(gain, (gain > TOLERANCES.interior * np.abs(worth).max()) & ~pairs)

    def shares(self, pairs: Bools, point: Floats) -> Shares:
        """The solution's weights and relations, these corrected, in the kinks' own units."""
        k, q = len(self.normals), len(self.concave)
        rows, columns = np.nonzero(pairs)
        each = len(rows)
        relations = np.zeros((k, k))
        relations[self.concave[rows], self.convex[columns]] = (
            point[k : k + each] - point[k + each : k + 2 * each]
        )
        amounts = point[k + 2 * each : k + 2 * each + q]
        relations[self.concave, self.concave] = -amounts
        relations[np.abs(relations) <= TINY * np.abs(relations).max(axis=1, keepdims=True)] = 0.0
        relations *= self.scale / self.lengths
        for kink in self.concave:
            self._correct(relations[kink], kink)
        weights, kept = point[:k].copy(), ~self.zero
        for _ in range(REFITS):
            gap = self.gradient + weights[kept] @ self.normals[kept]
            weights[kept] -= np.linalg.lstsq(self.normals[kept].T, gap, rcond=None)[0]
        weights[~kept | (np.abs(weights) <= ZERO)] = 0.0
        return Shares(weights * self.scale / self.lengths, relations)

    def _correct(self, relation: Floats, kink: int) -> None:
        """Make a relation hold by moving its own shares; those that may not be negative stay positive."""
        for _ in range(REFITS):
            there = np.flatnonzero(relation)
            rows = self.normals[there] * self.lengths[there, None]
            gap = relation[there] @ rows
            relation[there] -= np.linalg.lstsq(rows.T, gap, rcond=None)[0]
            wrong = self.zero & (relation < 0)
            wrong[kink] = False
            relation[wrong] = 0.0

    def _blocks(self, rows: Indices, kinks: Indices) -> csr_array:
        """Reduced normals as columns, that of `kinks[j]` in the equations of relation `rows[j]`."""
        dims = self.reduced.shape[1]
        places = (rows[:, None] * dims + np.arange(dims)).ravel()
        columns = np.repeat(np.arange(len(kinks)), dims)
        shape = (len(self.concave) * dims, len(kinks))
        return csr_array((self.reduced[kinks].ravel(), (places, columns)), shape=shape)

    def _pushes(self, rows: Indices, kinks: Indices) -> csr_array:
        """What a unit of `kinks[j]` in relation `rows[j]` pushes along every bending kink."""
        count = len(self.bent)
        places = (rows[:, None] * count + np.arange(count)).ravel()
        columns = np.repeat(np.arange(len(kinks)), count)
        values = self.bends[np.ix_(kinks, self.bent)].ravel()
        found = coo_array((values, (places, columns)), (len(self.concave) * count, len(kinks)))
        return csr_array(found)


def _spanned(rows: Floats) -> tuple[Floats, Floats]:
    """Left singular vectors, and right ones that span the rows."""
    left, values, right = svd(rows)
    rank = int((values > TOLERANCES.independence * max(1.0, values[0])).sum())
    return left[:, :rank], right[:rank]


def _largest(values: Floats, among: Bools) -> Bools:
    """The largest few of each row."""
    values = np.where(among, values, -np.inf)
    count = min(NEAREST, values.shape[1])
    places = np.argpartition(-values, count - 1, axis=1)[:, :count]
    found = np.zeros(values.shape, dtype=np.bool_)
    np.put_along_axis(found, places, True, axis=1)
    return found & among


def _picks(kinks: Indices, count: int) -> csr_array:
    """Columns that are unit vectors."""
    ones = np.ones(len(kinks))
    return csr_array((ones, (kinks, np.arange(len(kinks)))), shape=(count, len(kinks)))


def _eye(count: int) -> csr_array:
    """The identity."""
    return _picks(np.arange(count), count)


def _zeros(rows: int, columns: int) -> csr_array:
    """Nothing."""
    return csr_array((rows, columns))
