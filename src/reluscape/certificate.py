"""Certificates: what a claim about a point means, and the file that carries it.

At a point of a block, let a_1..a_k be the normals of the active kinks (those that are zero there) in
the adjacent cell on whose side all of them are negative, and `g = sum_k mu_k a_k + rest` its
gradient. Where the normals are independent (the linear independence kink qualification, LIKQ), the
loss is to first order separable in bent edge coordinates, one per active kink, and a kink's two
**slopes** say how the loss changes on its negative and on its positive side:

    not_stationary        rest != 0, or along some kink the loss falls on one side and rises on the other
    saddle                stationary, but some kink has a negative slope (on both sides, or beside a zero)
    strict_local_minimum  rest = 0, all slopes > 0, and the loss is strictly convex on what remains
    local_minimum         rest = 0, all slopes >= 0 (strictness fails or is not shown)
    plateau               the loss is constant around the point
    undecided             a needed sign lies within float64's margin, or LIKQ fails

Where LIKQ fails, a minimum is shown by weights between which and their slope jumps the loss cannot fall
(`cells`), the directions split by the sides of concave kinks (`sides`), concave kinks paid for by convex
ones (`shares`), or the kinks of one unit taken together along the rays of its cells; samples that are
fitted exactly, and that nothing pulls at, may be left out of the loss. A descent is shown by a direction
along which the loss falls in all patterns of the active kinks.

For all layers at once the claims rest on the gradient and Hessian at a differentiable point. A
certificate never says more than its `claim`; `verify` recomputes all of it from the network and data.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from reluscape import __version__
from reluscape.errors import InputError
from reluscape.landscape import Landscape
from reluscape.results import Result, write_then_rename
from reluscape.tolerances import TOLERANCES

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]

Claim = Literal[
    "strict_local_minimum", "local_minimum", "not_stationary", "saddle", "plateau", "undecided"
]
CLAIMS: tuple[Claim, ...] = (
    "strict_local_minimum",
    "local_minimum",
    "not_stationary",
    "saddle",
    "plateau",
    "undecided",
)
MINIMA = ("strict_local_minimum", "local_minimum", "plateau")

#: What a certificate is about: one layer; all layers, by gradient and Hessian; or all layers, on the
#: evidence of one layer's block.
SCOPES = ("block", "landscape", "landscape_by_block")

FORMAT = 1

_SENTENCES = {
    "strict_local_minimum": "a strict local minimum",
    "local_minimum": "a local minimum",
    "not_stationary": "not stationary: the loss still falls",
    "saddle": "a saddle: stationary, but the loss falls along some edge",
    "plateau": "on a plateau: the loss is constant around it",
    "undecided": "undecided",
}


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Certificate(Result):
    """A claim about one point, with what is needed to check it without a solver.

    Attributes:
        claim: One of the six claims of the module's docstring.
        tier: "exact" (rational arithmetic) or "certified" (float64 with margins).
        margin: The smallest number that the claim rests on, past float64's error: the slope of the
            descent direction per unit step, or the least slope or eigenvalue at a minimum; 0 where
            the claim rests on none.
        direction: Unit descent direction, shape (params,), for not_stationary and saddle, else None.
        reason: One sentence: why this claim.
        arithmetic: "float64" or "rational".
        scope: "block", "landscape" (all layers at once, by gradient and Hessian) or
            "landscape_by_block" (all layers at once, on the evidence of one layer's block).
        layer: The block's layer, or the one that gives the evidence.
        loss: Name of the loss.
        weight_decay: Its lambda.
        theta: The certified point, shape (params,).
        radius: An exact point with the claimed property lies within this distance of `theta` (of
            `exact_theta` where there is one); 0 where that point itself has it, in float64 up to the
            rounding of its active kinks.
        moved: Distance from the point that was asked about; above zero when the point was re-solved
            from its active set.
        pattern: The kinks' signs as packed bits in hexadecimal, active kinks as negative.
        num_kinks: Number of kinks.
        active_kinks: Numbers of the active kinks, shape (k,).
        multipliers: mu, shape (k,).
        slopes: Slopes into the negative and the positive side of each active kink, shape (k, 2).
        cells: At a minimum with dependent active normals, for each part of the directions weights u
            with `gradient + sum u_k a_k = 0`, shape (parts, k): 0 <= u_k where kink k may be negative,
            and u_k <= C_k where it may be positive, C_k its slope jump plus the bends of the deeper
            kinks times their weights (Farkas); else shape (0, k).
        sides: The kinks' sides in each part, a text of k signs "+", "-" or "0" for both; ">" and "^" are
            "+" and "0" where float64 takes u_k to be exactly C_k, which directions without a slope ask
            for; rational arithmetic sees that for itself and asks of them what "+" and "0" do. In a
            single part, "*" is "0" for kinks of one unit each that ask for no bounds: together the terms
            of a unit's are non-negative along all rays of its cells (`fans.py`).
        shares: Where one part has kinks beyond their bounds, relations `sum_i r_i a_i = 0` with `r_q < 0`
            that make others pay for kink q (`shares.py`), as rows (q, i, r_i), ascending; else (0, 3).
        gradient_norm: Length of the adjacent cell's gradient.
        rest_norm: Length of its part outside the span of the active normals.
        curvature: Smallest eigenvalue of the Hessian that the claim uses, or None.
        exact_theta: The exact point as fractions, for rational arithmetic, else ().
        exact_multipliers: The exact multipliers as fractions, likewise.
        network_hash: SHA-256 of all parameters and buffers by name.
        data_hash: SHA-256 of inputs and targets.
        version: Version of reluscape that wrote it.
        format: Version of the file format.
        digest: SHA-256 of all other fields.
    """

    claim: str
    tier: str
    margin: float
    direction: Floats | None
    reason: str
    arithmetic: str
    scope: str
    layer: str
    loss: str
    weight_decay: float
    theta: Floats
    moved: float
    radius: float
    pattern: str
    num_kinks: int
    active_kinks: Indices
    multipliers: Floats
    slopes: Floats
    cells: Floats
    sides: tuple[str, ...]
    shares: Floats
    gradient_norm: float
    rest_norm: float
    curvature: float | None
    exact_theta: tuple[str, ...]
    exact_multipliers: tuple[str, ...]
    network_hash: str
    data_hash: str
    version: str = __version__
    format: int = FORMAT
    digest: str = ""

    def signed(self) -> Self:
        """Return the certificate with its digest filled in."""
        return replace(self, digest=digest_of(self))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the certificate as JSON, whole or not at all, and return the path."""
        target = Path(path)
        text = json.dumps(to_json(self), indent=1, allow_nan=False)
        write_then_rename(
            target, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8")
        )
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a certificate from JSON.

        Raises:
            InputError: A missing, truncated or foreign file, or a field of the wrong type.
        """
        try:
            record = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(
                f"expected a certificate in JSON; could not read {str(path)!r}: {error}"
            ) from error
        return cls(**fields_from_json(record))

    def sentence(self) -> str:
        """The claim in words."""
        what = f"layer {self.layer!r}" if self.scope == "block" else "the whole network"
        return f"{what}: {_SENTENCES[self.claim]}"

    def summary(self) -> str:
        """Claim, reason and the numbers it rests on, in a few lines."""
        lines = [
            f"{self.sentence()} ({self.tier}, {self.arithmetic})",
            f"  because {self.reason}",
            (
                f"  gradient norm {self.gradient_norm:.3g}, active kinks {len(self.active_kinks)}"
                f" of {self.num_kinks}, margin {self.margin:.3g}"
            ),
        ]
        if self.moved:
            lines.append(
                f"  certified at the re-solved point, {self.moved:.3g} away from the given one"
            )
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """The slopes on both sides of every active kink, or their weights where they are dependent."""
        figure = go.Figure()
        for side, name in enumerate(("negative side", "positive side") if self.slopes.size else ()):
            figure.add_scatter(
                x=np.arange(len(self.slopes)), y=self.slopes[:, side], mode="markers", name=name
            )
        for part, weights in enumerate(self.cells):
            figure.add_scatter(
                x=np.arange(len(weights)), y=weights, mode="markers", name=f"part {part + 1}"
            )
        if not figure.data:
            figure.add_annotation(text="the claim rests on no active kink's slope", showarrow=False)
        what = "weight of the kink" if len(self.cells) else "slope of the loss"
        return figure.update_layout(xaxis_title="active kink", yaxis_title=what)


@dataclass(frozen=True, slots=True)
class Verification:
    """Outcome of `verify`: whether the certificate holds, and why or why not."""

    valid: bool
    reason: str

    def summary(self) -> str:
        """One line."""
        return f"{'valid' if self.valid else 'rejected'}: {self.reason}"


# ---- what the claims mean ------------------------------------------------------------------------


def claim_of_slopes(
    signs: Sequence[tuple[int | None, int | None]], *, strict: bool, constant: bool
) -> Claim:
    """Return the claim at a point with independent active normals and rest = 0.

    Args:
        signs: For each active kink the signs (-1, 0, 1, or None within the margin) of its slopes. A
            kink with one undecided slope may be one along which the loss just falls, so a saddle, which
            is stationary, is not claimed beside it.
        strict: Whether strictness has been shown, given that no slope is negative.
        constant: Whether the loss is constant around the point.
    """
    if any({-1, 1} == set(pair) for pair in signs):
        return "not_stationary"
    if any(None in pair and set(pair) != {None, 0} for pair in signs):
        return "undecided"
    if any(-1 in pair for pair in signs):
        return "saddle"
    if any(None in pair for pair in signs):
        return "undecided"
    if constant:
        return "plateau"
    return "strict_local_minimum" if strict else "local_minimum"


def sign(value: Any, error: Any) -> int | None:
    """Sign of a number known up to `error`: -1, 0 or 1, or None where the error hides it.

    An error of exactly zero means that the number is exact.
    """
    if value > error:
        return 1
    if value < -error:
        return -1
    return 0 if error == 0 and value == 0 else None


def strictly_curved(
    signs: Sequence[tuple[int | None, int | None]],
    definite: Callable[[Sequence[int]], tuple[bool, float]],
) -> tuple[bool, float]:
    """Whether a minimum is strict by its curvature, and the smallest eigenvalue seen.

    Where all slopes are positive, the loss must be strictly convex on the subspace on which all
    active kinks stay zero. A kink with a zero slope may be left on that side for free: then the
    curvature must do it there, in every combination of such sides.

    Args:
        signs: As for `claim_of_slopes`, none negative.
        definite: Given for each kink its side (-1, 1, or 0 to stay on it), says whether the Hessian
            of that cell is positive definite on the directions that keep the 0-kinks at zero.
    """
    free = [k for k, pair in enumerate(signs) if 0 in pair]
    if len(free) > TOLERANCES.max_active:
        return False, float("nan")
    smallest = float("inf")
    choices = [
        [side for side, slope in zip((-1, 1), signs[k], strict=True) if slope == 0] for k in free
    ]
    for sides in product(*choices):
        plan = [0] * len(signs)
        for k, side in zip(free, sides, strict=True):
            plan[k] = side
        holds, value = definite(plan)
        smallest = min(smallest, value)
        if not holds:
            return False, smallest
    return True, smallest


# ---- hashes and files ----------------------------------------------------------------------------


def hash_network(landscape: Landscape) -> str:
    """SHA-256 of all parameters and buffers, names, shapes and bytes."""
    return _hash([(name, np.asarray(value)) for name, value in landscape.state().items()])


def hash_data(landscape: Landscape) -> str:
    """SHA-256 of inputs and targets."""
    return _hash([("inputs", landscape.inputs), ("targets", landscape.targets)])


def _hash(arrays: Sequence[tuple[str, NDArray[Any]]]) -> str:
    state = hashlib.sha256()
    for name, array in arrays:
        state.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()


def digest_of(certificate: Certificate) -> str:
    """SHA-256 of every field but the digest itself."""
    record = {key: value for key, value in to_json(certificate).items() if key != "digest"}
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def pack_pattern(pattern: Bools) -> str:
    """Bits as hexadecimal, eight to a byte, most significant first."""
    return np.packbits(pattern).tobytes().hex()


def unpack_pattern(text: str, count: int) -> Bools:
    """Inverse of `pack_pattern`; raises InputError for text of another length."""
    try:
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8))
    except ValueError as error:
        raise InputError("pattern must be hexadecimal") from error
    if len(bits) != 8 * ((count + 7) // 8) or bits[count:].any():
        raise InputError(f"pattern must hold {count} bits; received {len(bits)}")
    if text != np.packbits(bits).tobytes().hex():
        raise InputError("pattern must be hexadecimal in lower case without spaces")
    return bits[:count].astype(np.bool_)


#: Sides 0 and 1 with this much more are those of kinks whose weights are exactly at their ceilings.
AT_CEILING = 2
#: Stands for both sides of kinks that are taken together with others of their unit (`fans.py`).
IN_FAN = 4
_SIGNS = "0+^>*-"


def pack_sides(sides: NDArray[np.signedinteger[Any]]) -> tuple[str, ...]:
    """Rows of 1, -1, 0, 3 and 2 for kinks at their ceilings, and 4 for those of fans, as "+-0>^*"."""
    return tuple("".join(_SIGNS[side] for side in row) for row in sides.tolist())


def unpack_sides(texts: Sequence[str], count: int) -> NDArray[np.int8]:
    """Inverse of `pack_sides`; raises InputError for texts of another length or other signs."""
    if any(len(text) != count or set(text) - set(_SIGNS) for text in texts):
        raise InputError(f"sides must be texts of {count} signs '+', '-', '0', '>', '^' or '*'")
    values = [[_SIGNS.index(sign) for sign in text] for text in texts]
    found = np.array(values, dtype=np.int8).reshape(len(texts), count)
    found[found == _SIGNS.index("-")] = -1
    return found


def split_sides(sides: NDArray[np.int8]) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
    """Sides 1, -1 and 0, and which kinks are at their ceilings."""
    top = (sides >= AT_CEILING) & (sides != IN_FAN)
    return np.where(sides == IN_FAN, 0, sides - AT_CEILING * top).astype(np.int8), top


def pack_shares(relations: Floats | None) -> Floats:
    """The entries of the relations' rows that are not zero."""
    if relations is None:
        return np.empty((0, 3))
    rows, columns = np.nonzero(relations)
    return np.column_stack([rows, columns, relations[rows, columns]])


def unpack_shares(shares: Floats, count: int) -> Floats:
    """Inverse of `pack_shares`; raises InputError for anything that it would not write."""
    places = shares[:, :2]
    if not ((places >= 0) & (places < count) & (places == np.floor(places))).all():
        raise InputError("shares must name active kinks by their places")
    rows, columns = places.astype(np.intp).T
    found = np.zeros((count, count))
    found[rows, columns] = shares[:, 2]
    if not np.array_equal(pack_shares(found), shares):
        raise InputError("shares must be in ascending order, each once and not zero")
    if not (np.diag(found)[rows] < 0).all():
        raise InputError("shares must pay for a positive amount")
    return found


def cover_all(sides: NDArray[np.int8]) -> bool:
    """Whether the parts are the leaves of a tree that splits by one kink at each node: they cover all."""
    if len(sides) == 1:
        return not sides.any()
    splits = np.flatnonzero((sides != 0).all(axis=0) & (sides.max(axis=0, initial=0) > 0))
    for kink in splits[:1].tolist():
        halves = [sides[sides[:, kink] == side] for side in (1, -1)]
        rests = [np.delete(half, kink, axis=1) for half in halves]
        return all(cover_all(rest) for rest in rests)
    return False


def to_json(certificate: Certificate) -> dict[str, Any]:
    """The certificate as plain JSON values; floats keep all their digits."""
    record = {f.name: getattr(certificate, f.name) for f in fields(certificate)}
    return {
        k: v.tolist() if isinstance(v, np.ndarray) else list(v) if isinstance(v, tuple) else v
        for k, v in record.items()
    }


def fields_from_json(record: Any) -> dict[str, Any]:
    """Fields of a certificate from JSON values, each checked for its type."""
    names = {f.name for f in fields(Certificate)}
    if not isinstance(record, dict) or set(record) != names:
        raise InputError(
            "expected a certificate's fields; the file lacks some or has others: write it with"
            " Certificate.save"
        )
    try:
        values = {f.name: _typed(str(f.type), record[f.name]) for f in fields(Certificate)}
        values["slopes"] = values["slopes"].reshape(-1, 2)
        count = len(values["active_kinks"])
        values["cells"] = values["cells"].reshape(-1 if count else 0, count)
        values["shares"] = values["shares"].reshape(-1, 3)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(
            "certificate fields must have the types that Certificate.save writes; received"
            f" otherwise: {error}"
        ) from error
    if values["claim"] not in CLAIMS:
        raise InputError(f"claim must be one of {', '.join(CLAIMS)}; received {values['claim']!r}")
    return values


def _typed(kind: str, value: Any) -> Any:
    """A JSON value as the type that a field's annotation names; raises TypeError otherwise."""
    if value is None and kind.endswith("| None"):
        return None
    if kind == "str" and isinstance(value, str):
        return value
    if kind == "int" and type(value) is int:
        return value
    if kind.startswith("float") and type(value) in (int, float):
        return float(value)
    if kind.startswith("tuple") and isinstance(value, list):
        return tuple(_typed("str", entry) for entry in value)
    if kind.startswith("Floats") and isinstance(value, list):
        rows = [_typed("Floats", entry) if isinstance(entry, list) else entry for entry in value]
        return np.array(rows, dtype=np.float64)
    if kind == "Indices" and isinstance(value, list):
        return np.array([_typed("int", entry) for entry in value], dtype=np.intp)
    raise TypeError(f"expected {kind}, received {type(value).__name__}")
