"""What was degenerate about a descent, in sentences: units, inputs, samples, ties, rays.

Each function looks at one kind of degeneracy and tells it with numbers and indices, which count from
zero. All together cost a few forward and backward passes and, for inputs and samples that occur twice, a
sort; no solver is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reluscape.block import Block
from reluscape.descent.result import Descent, Status
from reluscape.network import Affine, Rectifier
from reluscape.network_output import NetworkOutput
from reluscape.piecewise import Piecewise
from reluscape.tolerances import TOLERANCES

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]

#: Indices that a sentence lists.
LISTED = 6
#: Rows and columns that differ by less than this share of their size are the same.
SAME = 1e-13
#: A fall below this share of the loss at the start is rounding.
ROUNDING = 1e-12


def causes_of(
    function: Block | NetworkOutput,
    start: Floats,
    descent: Descent,
    *,
    enough: int,
    shifts: int,
    given_up: int,
) -> tuple[str, ...]:
    """Everything degenerate that a descent met; nothing for an ordinary one.

    Args:
        function: What was lowered.
        start: Where the descent began.
        descent: The descent.
        enough: Independent directions: as many kinks make a vertex.
        shifts: How often kinks were shifted on the way.
        given_up: Pivots taken to ends that were given up.
    """
    found: list[str] = []
    if isinstance(function, Block):
        piecewise = function.piecewise
        found += inputs_told(piecewise, enough // max(1, piecewise.width))
        found += samples_told(piecewise)
        found += units_told(function, start, descent.theta, enough)
        around = function
    else:
        around = function.around(start)
    found += plateau_told(around, start, descent)
    found += ties_told(descent, enough, shifts)
    if given_up:
        found += [
            f"{_count(given_up, 'pivot')} led to ends that were neither shown to be minima nor left,"
            " and are not part of the path"
        ]
    if isinstance(function, NetworkOutput) and descent.status == Status.unbounded:
        found += [ray_told(function, descent)]
    if descent.status in (Status.undecided, Status.stalled):
        found += [f"the certificate of the end: {descent.certificate.reason}"]
    return tuple(found)


# ---- inputs and samples --------------------------------------------------------------------------


def inputs_told(piecewise: Piecewise, rank: int) -> Iterator[str]:
    """Inputs of the layer that leave directions of its weights without any effect."""
    columns, samples = piecewise.features, piecewise.num_samples
    wanted = columns.shape[1] + piecewise.bias
    zero = np.asarray(~columns.any(axis=0))
    if zero.any():
        yield f"{_named(zero, 'input')} of the layer {_are(zero)} zero on all samples"
    if samples > 1:
        wide = np.abs(columns).max(axis=0, initial=0.0)
        constant = ~zero & (np.abs(columns - columns[0]).max(axis=0, initial=0.0) <= SAME * wide)
        if piecewise.bias and constant.any():
            told = f"{_named(constant, 'input')} of the layer {_are(constant)} constant"
            yield f"{told}, as the bias's input is"
        for group in _multiples(columns, ~zero & ~(constant & piecewise.bias)):
            apart = np.abs(columns[:, group] - columns[:, group[:1]]).max()
            equal = apart <= SAME * wide[group[0]]
            how = "equal" if equal else "multiples of each other"
            yield f"inputs {_listed(group)} of the layer are {how} on all samples"
    if rank < wanted:
        few = (
            f" (there {_are(samples)} only {_count(samples, 'sample')})" if samples < wanted else ""
        )
        moot = piecewise.width * (wanted - rank)
        bias = " and bias" if piecewise.bias else ""
        yield (
            f"the layer's inputs{bias} span {rank} of {wanted} directions{few}:"
            f" {_count(moot, 'direction')} of its weights {'changes' if moot == 1 else 'change'} nothing"
        )


def samples_told(piecewise: Piecewise) -> Iterator[str]:
    """Samples whose kinks coincide, or never move."""
    rows = piecewise.features
    moving = np.asarray(rows.any(axis=1) | piecewise.bias)
    if not moving.all():
        yield (
            f"{_named(~moving, 'sample')} {_have(~moving)} inputs of zero, and the layer has no bias:"
            " no kink of theirs moves"
        )
    owners = np.flatnonzero(moving)
    number = _numbered(rows[owners])
    counts = np.bincount(number)
    twice = counts[number] > 1
    if twice.any():
        targets = np.asarray(piecewise.targets)[owners]
        first = np.unique(number, return_index=True)[1]
        other = (targets != targets[first[number]]).any(axis=1)
        kinds, differ = int((counts > 1).sum()), len(np.unique(number[other]))
        effect = "units switch" if piecewise.slopes else "residuals move"
        yield (
            f"{twice.sum()} samples ({_listed(owners[twice])}) have the same inputs as others, in"
            f" {_count(kinds, 'group')}, {differ} with different targets: their {effect} together"
        )


def _multiples(columns: Floats, among: Bools) -> Iterator[Indices]:
    """Groups of columns that are multiples of each other."""
    places = np.flatnonzero(among)
    rows = columns[:, places].T
    heads = rows[np.arange(len(rows)), np.abs(rows).argmax(axis=1)]
    number = _numbered(rows / heads[:, None])
    for group in np.flatnonzero(np.bincount(number) > 1):
        yield places[number == group]


def _numbered(rows: Floats) -> Indices:
    """The same number for rows that are the same to rounding, in the order of their first ones.

    Rows whose products with one random vector differ are different; the others are neighbours in the
    order of these products, and are compared entry by entry.
    """
    products = rows @ np.random.default_rng(0).normal(size=rows.shape[1])
    order = np.argsort(products, kind="stable")
    ordered = rows[order]
    apart = np.abs(np.diff(ordered, axis=0)).max(axis=1, initial=0.0)
    new = np.append(True, apart > SAME * np.abs(ordered[1:]).max(axis=1, initial=0.0))[: len(rows)]
    found = np.empty(len(rows), dtype=np.intp)
    found[order] = np.cumsum(new) - 1
    first = np.unique(found, return_index=True)[1]
    return np.argsort(np.argsort(first))[found]


# ---- units ---------------------------------------------------------------------------------------


def units_told(block: Block, start: Floats, end: Floats, enough: int) -> Iterator[str]:
    """Units that are zero, dead or unread at the start and at the end."""
    piecewise = block.piecewise
    before, after = _Units.at(piecewise, start), _Units.at(piecewise, end)
    for level, group in enumerate(piecewise.groups[: len(piecewise.slopes)]):
        of = f" of {group.label}"
        unread = _unread(piecewise, level)
        if unread.any():
            yield f"{_named(unread, 'unit')}{of} {_are(unread)} multiplied by zero in all that follows"
        if piecewise.slopes[level] == 0.0:
            own = level == 0 and _is_diagonal(piecewise)
            effect = "so its weights move nothing" if own else "so nothing passes through it"
            for units, when in _when(before.dead[level], after.dead[level], "comes alive"):
                yield (
                    f"{_named(units, 'unit')}{of} {_are(units)} dead {when}: negative on all samples,"
                    f" {_plural(units, effect)}"
                )
        if level:
            continue
        many = piecewise.num_samples * piecewise.width > enough  # fewer are independent
        first, last = (at.zero & (at.weightless | many) for at in (before, after))
        for units, when in _when(first, last, "moves on"):
            seen = before if when.startswith("at the start") else after
            which = "weights and biases are" if seen.weightless[units].all() else "values are"
            owner = "its" if units.sum() == 1 else "their"
            yield (
                f"{_named(units, 'unit')}{of} {_are(units)} zero {when}: all {owner} {which} zero,"
                f" and so are all {owner} kinks at once"
            )


@dataclass(frozen=True, slots=True, eq=False)
class _Units:
    """Degenerate units at one point.

    Attributes:
        dead: For every rectifier, which of its units are negative on all samples.
        zero: Which units of the first rectifier are zero on all samples.
        weightless: Which of them have weights and biases that are all zero.
    """

    dead: list[Bools]
    zero: Bools
    weightless: Bools

    @classmethod
    def at(cls, piecewise: Piecewise, theta: Floats) -> _Units:
        """Look at all switching values at a point."""
        values, bounds = _values(piecewise, theta)
        groups = piecewise.groups[: len(piecewise.slopes)]
        parts = [slice(group.start, group.stop) for group in groups]
        dead = [
            np.asarray((values[part] < -bounds[part]).reshape(-1, group.units).all(axis=0))
            for part, group in zip(parts, groups, strict=True)
        ]
        if not groups:
            return cls(dead, np.zeros(0, np.bool_), np.zeros(0, np.bool_))
        near = np.abs(values[parts[0]]) <= bounds[parts[0]]
        zero = np.asarray(near.reshape(-1, groups[0].units).all(axis=0))
        weight, bias = piecewise.unpack(theta)
        weightless = ~weight.any(axis=1) if bias is None else ~weight.any(axis=1) & (bias == 0)
        own = _is_diagonal(piecewise)
        return cls(dead, zero, np.asarray(weightless) if own else np.zeros_like(zero))


def _when(before: Bools, after: Bools, leaves: str) -> Iterator[tuple[Bools, str]]:
    """Units of which something holds, by whether it does at the start, at the end, or at both."""
    cases = (
        (before & after, "at the start and at the end"),
        (before & ~after, "at the start ({})"),
        (after & ~before, "at the end"),
    )
    for units, when in cases:
        if units.any():
            verb = leaves if units.sum() == 1 else _stem(leaves)
            pronoun = "it" if units.sum() == 1 else "they"
            yield units, when.format(f"{pronoun} {verb}")


def _unread(piecewise: Piecewise, level: int) -> Bools:
    """Units whose outputs the next map multiplies by zero."""
    step = piecewise.maps[level + 1]
    width = step.width_after(piecewise.groups[level].units)
    back = step.absolute().adjoint(np.ones((1, width)))
    return np.asarray(np.broadcast_to(back, (1, piecewise.groups[level].units))[0] == 0)


def _is_diagonal(piecewise: Piecewise) -> bool:
    """Whether the units of the first rectifier are the layer's own, one for one."""
    matrix = piecewise.maps[0].matrix
    return matrix is None or matrix.ndim == 1


def _values(piecewise: Piecewise, theta: Floats) -> tuple[Floats, Floats]:
    """Switching values and bounds on their rounding errors."""
    return (
        piecewise.forward(theta)[0],
        piecewise.rounding_bounds(theta, TOLERANCES.rounding)[0],
    )


# ---- the path and its end ------------------------------------------------------------------------


def plateau_told(block: Block, start: Floats, descent: Descent) -> Iterator[str]:
    """Whether nothing depended on the layer at the start, and whether it was left."""
    if not _is_cut_off(block.piecewise, start):
        return
    what = "layer's weights" if descent.quantity == "loss" else "inputs"
    fell = descent.losses[0] - descent.losses[-1] > ROUNDING * abs(descent.losses[0])
    left = "it was left" if fell else "it was not left"
    yield f"the start was on a plateau: nothing depended on the {what} there; {left}"


def _is_cut_off(piecewise: Piecewise, theta: Floats) -> bool:
    """Whether no way leads from a weight to an output; units that are zero count as open."""
    values, bounds = _values(piecewise, theta)
    open_units = piecewise.activations(values >= -bounds)
    last = piecewise.maps[-1]
    units = (
        piecewise.groups[len(piecewise.slopes) - 1].units if piecewise.slopes else piecewise.width
    )
    back = last.absolute().adjoint(np.ones((piecewise.num_samples, last.width_after(units))))
    for step, active in zip(piecewise.maps[-2::-1], open_units[::-1], strict=True):
        back = step.absolute().adjoint(back * np.abs(active))
    return not piecewise.assemble(back, np.abs(piecewise.features)).any()


def ties_told(descent: Descent, enough: int, shifts: int) -> Iterator[str]:
    """More kinks at zero than a vertex needs, steps without length, and what was done about them."""
    active = len(descent.certificate.active_kinks)
    if active > enough > 0 and descent.status != Status.unbounded:
        yield (
            f"at the end {active} kinks are zero where {enough} are enough for a vertex:"
            f" {_count(active - enough, 'tie')}"
        )
    idle = int((descent.step_lengths == 0).sum())
    if shifts:
        told = f"; {idle} of {_count(descent.num_pivots, 'pivot')} had no length" if idle else ""
        times = "once" if shifts == 1 else f"{shifts} times"
        yield f"ties on the way: kinks were shifted {times} to break them{told}"


def ray_told(function: NetworkOutput, descent: Descent) -> str:
    """Where an output falls forever: along which inputs, with which units on."""
    direction = descent.certificate.direction
    assert direction is not None
    rate = function.loss(descent.theta + direction) - function.loss(descent.theta)
    on, units, where = 0, 0, []
    hidden, label = descent.theta[None], ""
    for part in function.layers:
        if isinstance(part, Rectifier):
            these = np.flatnonzero(hidden[0] > 0)
            on, units = on + len(these), units + hidden.shape[1]
            where += [f"{_listed(these)} of layer {label}"] if len(these) else []
        label = part.name if isinstance(part, Affine) else label
        hidden = part(hidden)
    still = (
        f" with {on} of {_count(units, 'unit')} on ({'; '.join(where)})"
        if on
        else " with no unit on"
    )
    inputs = [f"{'+' if direction[j] > 0 else '-'}{j}" for j in np.flatnonzero(direction)]
    return (
        f"the output falls forever, by {-rate:.6g} for every unit of length, along the direction of"
        f" {'input' if len(inputs) == 1 else 'inputs'} {_joined(inputs)}{still}; no bound is in its way"
    )


# ---- words ---------------------------------------------------------------------------------------


def _named(which: Bools, noun: str) -> str:
    """Units or inputs with their numbers: `unit 3`, `2 units (3, 5)`."""
    places = np.flatnonzero(which)
    if len(places) == 1:
        return f"{noun} {places[0]}"
    return f"{len(places)} {noun}s ({_listed(places)})"


def _listed(places: Indices) -> str:
    """Numbers, long lists cut."""
    return _joined([str(place) for place in places])


def _joined(words: Sequence[str]) -> str:
    """Words in a row, long lists cut: `3, 5, 8 and 12 more`."""
    if len(words) > LISTED + 1:
        return f"{', '.join(words[:LISTED])} and {len(words) - LISTED} more"
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _count(amount: int, noun: str) -> str:
    """An amount with its noun."""
    return f"{amount} {noun}{'' if amount == 1 else 's'}"


def _are(which: Bools | int) -> str:
    """Is or are."""
    return "is" if np.sum(which) == 1 else "are"


def _have(which: Bools) -> str:
    """Has or have."""
    return "has" if which.sum() == 1 else "have"


def _plural(which: Bools, clause: str) -> str:
    """A clause on one unit, or on several."""
    if which.sum() == 1:
        return clause
    return clause.replace("its", "their").replace("through it", "through them")


def _stem(verb: str) -> str:
    """A verb of a third person for several: `comes alive`, `come alive`."""
    first, _, rest = verb.partition(" ")
    return f"{first.removesuffix('s')} {rest}"
