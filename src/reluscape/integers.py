"""Exact ranks of what a block's outputs and kinks depend on, in Python's integers.

A float is an integer times a power of two, so the derivatives of a frozen network are integer matrices
up to powers of two, which leave ranks alone. That a rank is at most r is proved modulo primes: every
minor of order r + 1 is an integer below Hadamard's bound, so it vanishes where it does so modulo primes
whose product exceeds the bound.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import gcd, lcm, log2
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.arithmetic import Float64
from reluscape.frozen import FrozenBlock, merge_rectifiers
from reluscape.landscape import Landscape
from reluscape.network import Affine, Rectifier, Scale

Array = NDArray[Any]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]

#: Largest number of multiplications of integers in an evaluation, some seconds.
MAX_PRODUCTS = 2 * 10**7

#: Largest number of multiplications modulo primes in the proof of one rank, some ten seconds.
MAX_ELIMINATION = 2 * 10**9


@dataclass(frozen=True, slots=True)
class Dyadic:
    """Numbers `whole * 2^exponent` with Python's integers in an object array and exponent <= 0."""

    whole: Array
    exponent: int

    @classmethod
    def of(cls, values: Array) -> Dyadic:
        """The exact numbers that the floats are."""
        parts = [
            value.as_integer_ratio() for value in np.asarray(values, np.float64).ravel().tolist()
        ]
        exponent = -max((below.bit_length() - 1 for _, below in parts), default=0)
        whole = np.empty(np.shape(values), dtype=object)
        whole.ravel()[:] = [above * ((1 << -exponent) // below) for above, below in parts]
        return cls(whole, exponent)

    def at(self, exponent: int) -> Array:
        """The integers at an exponent that is not larger."""
        return np.asarray(self.whole * (1 << (self.exponent - exponent)))

    def __add__(self, other: Dyadic) -> Dyadic:
        """Sum, with broadcasting."""
        exponent = min(self.exponent, other.exponent)
        return Dyadic(self.at(exponent) + other.at(exponent), exponent)


def _through(part: Affine | Scale | Rectifier, h: Dyadic, on: Array) -> Dyadic:
    """Rows `h` (..., units, columns) behind a layer, the last column taking its shift.

    Args:
        part: The layer.
        h: What comes in.
        on: Which units of a rectifier are on their positive side, (..., units).
    """
    if isinstance(part, Rectifier):
        slopes = Dyadic.of(np.array([part.slope, 1.0]))
        return Dyadic(
            h.whole * slopes.whole[on.astype(np.intp)][..., None], h.exponent + slopes.exponent
        )
    if isinstance(part, Scale):
        scale, shift = Dyadic.of(part.scale), part.shift
        moved = Dyadic(h.whole * scale.whole[:, None], h.exponent + scale.exponent)
    else:
        weight = Dyadic.of(part.weight)
        shift = np.zeros(len(part.weight)) if part.bias is None else part.bias
        moved = Dyadic(np.matmul(weight.whole, h.whole), h.exponent + weight.exponent)
    columns = np.zeros((len(shift), h.whole.shape[-1]))
    columns[:, -1] = shift
    return moved + Dyadic.of(columns)


@dataclass(frozen=True, slots=True)
class Forms:
    """Some kinks and outputs of a frozen block as exact affine forms of theta, up to factors.

    Row r is `units[r] (x) x~_i` for the sample `i = owners[r]`, and its constant.

    Attributes:
        units: Integers (rows, width).
        owners: Samples (rows,).
        inputs: The layer's inputs x~, a column of ones for the bias included, (samples, columns).
        constants: Constant terms (rows,), at the scale of the rows.
    """

    units: Array
    owners: Indices
    inputs: Array
    constants: Array

    def matrix(self) -> Array:
        """The forms' gradients, shape (rows, params)."""
        wide = self.units[:, :, None] * self.inputs[self.owners][:, None, :]
        return np.asarray(wide.reshape(len(self.units), self.units.shape[1] * self.inputs.shape[1]))


class FrozenForms:
    """Exact affine forms of one block with its pattern frozen.

    Args:
        landscape: The landscape.
        layer: Name of the layer.
        pattern: Signs of the block's kinks, active ones negative.
    """

    def __init__(self, landscape: Landscape, layer: str, pattern: Bools) -> None:
        reading = landscape.reading
        assert reading is not None
        self._block = FrozenBlock(landscape, layer, Float64())
        self._bits = self._block.bits_of(pattern)
        self._loss, self._targets = landscape.loss_name, landscape.targets
        layers = reading.network.layers
        names = [part.name if isinstance(part, Affine) else None for part in layers]
        self._before = layers[: names.index(layer)]
        self._behind = merge_rectifiers(layers[names.index(layer) + 1 :])
        self._features = reading.features

    @property
    def features(self) -> Array:
        """The layer's inputs in float64."""
        return self._block.features

    @property
    def width(self) -> int:
        """Number of the layer's units."""
        return self._block.width

    @property
    def bias(self) -> bool:
        """Whether the layer has a bias."""
        return self._block.bias

    @property
    def num_params(self) -> int:
        """Number of the layer's parameters."""
        return self.width * (int(self.features.shape[1]) + self.bias)

    def levels(self, kinks: Indices) -> tuple[Indices, Indices]:
        """Samples of kinks and the rectifiers that they belong to, by depth; residuals come last."""
        samples, switches = self._block.place(kinks)
        ends = np.cumsum(self._block.widths)
        return samples, np.asarray(np.searchsorted(ends, switches, side="right"))

    def residuals(self, kinks: Indices) -> Bools:
        """Which kinks are residuals."""
        return np.asarray(self._block.place(kinks)[1] >= self._block.switches)

    def fitted(self, kinks: Indices) -> Indices:
        """Samples all of whose residuals are among some kinks."""
        samples = self._block.place(kinks[self.residuals(kinks)])[0]
        return np.asarray(np.flatnonzero(np.bincount(samples) == self._block.outputs))

    def work(self) -> int:
        """Number of products of integers behind the forms of all outputs."""
        block = self._block
        depth = [block.width, *block.widths, block.outputs]
        inputs = [part.weight.size for part in self._before if isinstance(part, Affine)]
        behind = sum((block.width + 1) * a * b for a, b in pairwise(depth))
        each = behind + sum(inputs) + block.features.shape[1] * block.width
        return len(block.features) * int(each)

    def outputs_and(self, active: Indices) -> Forms:
        """Forms of all outputs (for the cross-entropy of logits' differences) and the active kinks."""
        samples = np.arange(len(self._block.features))
        *_, last = self._levels(samples)
        rows = last.whole
        if self._loss == "cross_entropy":
            rows = rows[:, :-1] - rows[:, -1:]
        kinks = self.kinks(active)
        units = rows[:, :, :-1].reshape(-1, self._block.width)
        owners = np.repeat(samples, rows.shape[1])
        inputs = self._inputs(samples).whole
        kink_owners = self._block.place(active)[0]
        constants = np.zeros(len(units) + len(active), dtype=np.intp).astype(object)
        return Forms(
            np.vstack([units, kinks.units]), np.append(owners, kink_owners), inputs, constants
        )

    def residuals_of_all(self) -> Forms:
        """Forms of all outputs less their targets, with their constants."""
        samples = np.arange(len(self._block.features))
        *_, last = self._levels(samples)
        columns = np.zeros(last.whole.shape)
        columns[:, :, -1] = -self._targets
        rows, inputs = (last + Dyadic.of(columns)).whole, self._inputs(samples)
        rows = rows.reshape(-1, rows.shape[2])
        owners = np.repeat(samples, self._block.outputs)
        constants = rows[:, -1] * (1 << -inputs.exponent)
        return Forms(rows[:, :-1], owners, inputs.whole, constants)

    def gradient(self, silent: Indices) -> Array:
        """Gradient of the L1 loss, up to a factor, a row of integers (1, params).

        Without the samples `silent`.
        """
        samples = np.arange(len(self._block.features))
        *_, last = self._levels(samples)
        signs = np.where(self._bits[:, -self._block.outputs :], 1, -1).astype(object)
        signs[silent] = 0
        units = (last.whole[:, :, :-1] * signs[:, :, None]).sum(axis=1)
        return np.asarray((units.T @ self._inputs(samples).whole).reshape(1, -1))

    def inputs_from_commonest(self) -> Array:
        """All samples' inputs as integers, of every column the commonest value taken off.

        Beside a bias that is a change of parameters. Then parameters with a term in few samples' forms
        are plain in standardised columns, too.
        """
        inputs = self._inputs(np.arange(len(self._block.features))).whole
        if self._block.bias:
            for column in inputs.T[:-1]:
                column -= Counter(column.tolist()).most_common(1)[0][0]
        return np.asarray(inputs)

    def sums(self, inputs: Array, slopes: Mapping[int, Fraction]) -> Array:
        """The L1 loss's gradient up to a factor, of others the numbers of its terms (width, columns).

        Args:
            inputs: From `inputs_from_commonest`.
            slopes: Slopes of the L1 loss to put in the place of 1 or -1, for some residuals.
        """
        *_, last = self._levels(np.arange(len(inputs)))
        rows = last.whole[:, :, :-1]
        if self._loss == "l1":
            common = lcm(*(slope.denominator for slope in slopes.values()))
            signs = np.where(self._bits[:, -self._block.outputs :], common, -common).astype(object)
            places = self._block.place(np.array([*slopes], dtype=np.intp))
            for sample, switch, slope in zip(*places, slopes.values(), strict=True):
                signs[sample, switch - self._block.switches] = int(slope * common)
            units = (rows * signs[:, :, None]).sum(axis=1)
        else:
            units = rows.astype(bool).any(axis=1).astype(np.intp).astype(object)
            inputs = inputs.astype(bool).astype(np.intp).astype(object)
        return np.asarray(units.T @ inputs)

    def kinks(self, kinks: Indices) -> Forms:
        """Forms of some kinks, with their constants; the samples are those of the kinks, in order."""
        samples, switches = self._block.place(kinks)
        levels = list(self._levels(samples))
        if self._block.residuals:
            columns = np.zeros((len(samples), self._block.outputs, self._block.width + 1))
            columns[:, :, -1] = -self._targets[samples]
            levels[-1] = levels[-1] + Dyadic.of(columns)
        inputs, start = self._inputs(samples), 0
        units = np.zeros((len(kinks), self._block.width), dtype=object)
        constants = np.zeros(len(kinks), dtype=object)
        for level in levels:
            stop = start + level.whole.shape[1]
            here = np.flatnonzero((switches >= start) & (switches < stop))
            rows = level.whole[here, switches[here] - start]
            units[here], constants[here] = rows[:, :-1], rows[:, -1] * (1 << -inputs.exponent)
            start = stop
        return Forms(units, np.arange(len(kinks)), inputs.whole, constants)

    def _levels(self, samples: Indices) -> Iterator[Dyadic]:
        """Every rectifier's inputs and the outputs, as `[J, c]` with value `J z + c`."""
        width = self._block.width
        start = np.broadcast_to(np.eye(width, width + 1), (len(samples), width, width + 1))
        h, column = Dyadic.of(start), 0
        for part in self._behind:
            on = self._bits[samples][:, column : column + h.whole.shape[1]]
            if isinstance(part, Rectifier):
                yield h
                column += h.whole.shape[1]
            h = _through(part, h, on)
        yield h

    def _inputs(self, samples: Indices) -> Dyadic:
        """The layer's inputs with a column of ones for its bias."""
        h = Dyadic.of(self._features[samples][:, :, None])
        for part in self._before:
            h = _through(part, h, np.asarray(h.whole[:, :, 0] > 0, dtype=np.bool_))
        if not self._block.bias:
            return Dyadic(h.whole[:, :, 0], h.exponent)
        ones = np.full((len(samples), 1), 1 << -h.exponent, dtype=object)
        return Dyadic(np.hstack([h.whole[:, :, 0], ones]), h.exponent)


# ---- what provers and checkers ask --------------------------------------------------------------------


def outputs_span_at_most(
    landscape: Landscape,
    layer: str,
    pattern: Bools,
    active: Indices,
    limit: int,
    *,
    shifted: bool = False,
) -> bool:
    """Whether outputs and active kinks of a cell change along `limit` directions of theta at most.

    For the cross-entropy, outputs count up to a shift of all logits. All directions that change none
    of them are then exactly flat. False also where that is too long to prove.

    Args:
        landscape: The landscape.
        layer: Name of the block's layer.
        pattern: Signs of its kinks, active ones negative.
        active: Its active kinks.
        limit: The number of directions.
        shifted: Count a parameter more, added to every output.
    """
    frozen = FrozenForms(landscape, layer, pattern)
    if frozen.work() > MAX_PRODUCTS:
        return False
    forms = frozen.outputs_and(active)
    if _count_rows(forms, shifted) <= limit or _count_by_groups(forms) + shifted <= limit:
        return True
    entries = len(forms.units) * forms.units.shape[1] * forms.inputs.shape[1]
    if entries * (limit + 1) > MAX_ELIMINATION:
        return False
    ones = np.ones((len(forms.units), int(shifted)), dtype=np.intp).astype(object)
    return rank_at_most(np.hstack([forms.matrix(), ones]), limit)


def kinks_meet(
    landscape: Landscape, layer: str, pattern: Bools, active: Indices, rank: int
) -> bool:
    """Whether the active kinks are exactly zero at one point together, their normals of this rank.

    By Rouche and Capelli: normals and constants side by side have no larger rank than the normals.
    With dependent normals, kinks that are zero to rounding may lie next to each other instead.
    """
    forms = FrozenForms(landscape, layer, pattern).kinks(active)
    return rank_at_most(np.hstack([forms.matrix(), forms.constants[:, None]]), rank)


def _count_rows(forms: Forms, shifted: bool = False) -> int:
    """Bound on the rank by rows: of each sample no more than its rows, nor than what moves them."""
    fed = np.asarray(forms.inputs.astype(bool).any(axis=1))
    alive = forms.units.astype(bool) & fed[forms.owners][:, None]
    rows = np.bincount(forms.owners, alive.any(axis=1) | shifted, len(forms.inputs))
    units = _alive(alive, forms).sum(axis=1)
    return int(np.minimum(rows, units + int(shifted)).sum())


def _count_by_groups(forms: Forms) -> int:
    """Bound on the rank: units live on the same samples S contribute rank(units) rank(inputs on S).

    It sees dead units, inputs that are zero or dependent where a unit is live, and the last layer's
    constant derivatives.
    """
    alive = _alive(forms.units.astype(bool), forms)
    total = 0
    for column in sorted({tuple(column) for column in alive.T.tolist()}):
        live = np.array(column, dtype=np.bool_)
        group = (alive == live[:, None]).all(axis=0)
        units = rank_bound(forms.units[live[forms.owners]][:, group])
        total += units * rank_bound(forms.inputs[live]) if units else 0
    return total


def _alive(rows: Bools, forms: Forms) -> Bools:
    """Whether any row of a sample moves with a unit, shape (samples, units)."""
    alive = np.zeros((len(forms.inputs), rows.shape[1]), dtype=np.bool_)
    np.logical_or.at(alive, forms.owners, rows)
    return alive


# ---- ranks of integer matrices ------------------------------------------------------------------------


def rank_bound(matrix: Array) -> int:
    """The exact rank, or where that is too long to prove, the number of different rows or columns."""
    small = _essential(matrix)
    least = int(min(small.shape))
    if small.size * least > MAX_ELIMINATION:
        return least
    rank = _rank_modulo(small, next(_primes()), least)
    return rank if rank_at_most(small, rank) else least


def rank_at_most(matrix: Array, limit: int) -> bool:
    """Whether the exact rank is at most `limit`; False also where that is too long to prove."""
    small = _essential(matrix)
    if min(small.shape) <= limit:
        return True
    bits = min(hadamard_bits(small, limit + 1), hadamard_bits(small.T, limit + 1))
    if small.size * (limit + 1) * (bits / 30 + 1) > MAX_ELIMINATION:
        return False
    proved = 0.0
    for prime in _primes():
        if _rank_modulo(small, prime, limit) > limit:
            return False
        proved += log2(prime)
        if proved > bits:
            return True
    return False


def dependent_rows(rows: Array) -> tuple[Bools, int]:
    """Which rows of integers may be in a relation, shape (rows,), and a lower bound of their rank.

    Both modulo a prime, where no rows are independent that are not so exactly.
    """
    prime, (count, columns) = next(_primes()), rows.shape
    wide = np.hstack([(rows % prime).astype(np.int64), np.eye(count, dtype=np.int64)])
    rank = _eliminated(wide, columns, prime, count)
    return np.asarray(wide[rank:, columns:].any(axis=0)), rank


def _essential(matrix: Array) -> Array:
    """Different rows and columns that are not zero, without common factors."""
    return _different(_different(matrix).T).T


def _different(rows: Array) -> Array:
    """Different rows up to factors, none zero, kept in order."""
    found: dict[tuple[Any, ...], None] = {}
    for row in rows.tolist():
        common = gcd(*row)
        if common:
            lead = next(entry for entry in row if entry)
            common = common if lead > 0 else -common
            found[tuple(entry // common for entry in row)] = None
    return np.array(list(found), dtype=object).reshape(len(found), rows.shape[1])


def hadamard_bits(rows: Array, order: int) -> float:
    """Logarithm to base 2 of a bound on all minors of this order: the longest rows' lengths."""
    squares = sorted((int((row * row).sum()) for row in rows), reverse=True)
    return float(sum(square.bit_length() / 2 for square in squares[:order]))


def _rank_modulo(matrix: Array, prime: int, limit: int) -> int:
    """Rank modulo a prime, never above the exact one; `limit + 1` where it is larger than `limit`."""
    rows = (matrix % prime).astype(np.int64)
    return _eliminated(rows, rows.shape[1], prime, limit)


def _eliminated(rows: NDArray[np.int64], columns: int, prime: int, limit: int) -> int:
    """Bring the first columns to echelon form modulo a prime, in place, and return their rank."""
    rank = 0
    for column in range(columns):
        pivots = np.flatnonzero(rows[rank:, column])
        if not pivots.size:
            continue
        if rank == limit:
            return limit + 1
        rows[[rank, rank + pivots[0]]] = rows[[rank + pivots[0], rank]]
        inverse = pow(int(rows[rank, column]), -1, prime)
        below = rank + 1 + np.flatnonzero(rows[rank + 1 :, column])
        factors = rows[below, column] * inverse % prime
        step = factors[:, None] * rows[rank, column:] % prime
        rows[below, column:] = (rows[below, column:] - step) % prime
        rank += 1
        if rank == len(rows):
            break
    return rank


def _primes() -> Iterator[int]:
    """Primes from 2^31 downwards: products of remainders fit into 64 bits."""
    for number in range(2**31 - 1, 2**30, -2):
        if _is_prime(number, (2, 3, 5, 7)):
            yield number


def _is_prime(number: int, bases: Sequence[int]) -> bool:
    """Miller and Rabin's test; these four bases decide below 3 215 031 751."""
    odd = number - 1
    twos = (odd & -odd).bit_length() - 1
    odd >>= twos
    for base in bases:
        power = pow(base, odd, number)
        if power in (1, number - 1):
            continue
        if all((power := power * power % number) != number - 1 for _ in range(twos - 1)):
            return False
    return True
