"""Two arithmetics behind one set of operations: float64 with margins, and exact rationals.

Rational numbers are python-flint's `fmpq` in NumPy object arrays; a float is taken as the exact
rational that it is. All decisions about signs and ranks go through these classes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from reluscape.errors import InputError
from reluscape.tolerances import TOLERANCES

Array = NDArray[Any]

#: Binary digits after the point that rationals which are solved for again need: four times float64's.
DIGITS = 256
#: Midpoints of balls below two to the minus this are written as zero.
SMALLEST = 10_000


class Evaluating(Protocol):
    """What evaluating a network needs of a number system."""

    @property
    def exact(self) -> bool:
        """Whether every sign is decided exactly."""

    def array(self, values: Array) -> Array:
        """Numbers of this system from float64 values."""

    def exp(self, values: Array) -> Array:
        """Exponentials, or balls that enclose them."""


class Float64:
    """Floating point with the tolerances of `tolerances.py`."""

    name = "float64"
    exact = False

    def array(self, values: Array) -> Array:
        """Numbers of this system from float64 values."""
        return np.asarray(values, dtype=np.float64)

    def floats(self, values: Array) -> NDArray[np.float64]:
        """Nearest float64 values."""
        return np.asarray(values, dtype=np.float64)

    def precision(self) -> AbstractContextManager[None]:
        """Nothing to set up."""
        return nullcontext()

    def exp(self, values: Array) -> Array:
        """Exponentials."""
        return np.asarray(np.exp(values))

    def independent(self, rows: Array) -> bool:
        """Whether the rows, scaled to length one, have singular values above the tolerance."""
        if len(rows) == 0:
            return True
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        if len(rows) > rows.shape[1] or (lengths == 0).any():
            return False
        return bool(np.linalg.svd(rows / lengths, compute_uv=False).min() > TOLERANCES.independence)

    def complement(self, rows: Array) -> Array:
        """An orthonormal basis of the rows' null space: by QR, or by SVD where they are dependent."""
        if len(rows) == 0:
            return np.eye(rows.shape[1])
        if self.independent(rows):
            full = np.linalg.qr(rows.T, mode="complete")[0]
            return np.asarray(full[:, len(rows) :])
        return np.asarray(np.linalg.svd(rows)[2][self.rank(rows) :].T)

    def rank(self, rows: Array) -> int:
        """Number of independent rows, to the tolerance of `independent`."""
        if len(rows) == 0:
            return 0
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        scaled = rows / np.where(lengths > 0, lengths, 1.0)
        singular = np.linalg.svd(scaled, compute_uv=False)
        return int((singular > TOLERANCES.independence * max(1.0, singular[0])).sum())

    def multipliers(self, rows: Array, vector: Array) -> Array:
        """Least squares through QR."""
        if len(rows) == 0:
            return np.empty(0)
        q, r = np.linalg.qr(rows.T)
        return np.asarray(np.linalg.solve(r, q.T @ vector))

    def smallest_eigenvalue(self, matrix: Array) -> tuple[bool, float]:
        """Smallest eigenvalue; positive definite when it exceeds the eigensolver's backward error."""
        if len(matrix) == 0:
            return True, float("inf")
        values = np.linalg.eigvalsh(matrix)
        return bool(values[0] > eigenvalue_margin(values)), float(values[0])


def left_inverse(normals: NDArray[np.float64]) -> NDArray[np.float64]:
    """A map from a gradient in the normals' span to multipliers that write it, shape (k, params).

    Directions that the normals, scaled to length one, span only below the tolerance of `independent`
    are none.
    """
    if len(normals) == 0:
        return np.empty(normals.shape)
    lengths = np.linalg.norm(normals, axis=1)[:, None]
    lengths[lengths == 0] = 1.0
    scaled = np.linalg.pinv((normals / lengths).T, rcond=TOLERANCES.independence)
    return np.asarray(scaled / lengths)


def left_inverse_sizes(normals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Absolute values of `left_inverse`."""
    return rounded_sizes(left_inverse(normals))


def meeting_point(
    normals: NDArray[np.float64], values: NDArray[np.float64], errors: NDArray[np.float64]
) -> tuple[float, Callable[[NDArray[np.float64]], NDArray[np.float64]]]:
    """How far the nearest point is at which kinks of these values are exactly zero.

    With L the left inverse of the normals, that point is `L^T z` away, |z| at most the values and errors.

    Returns:
        A bound on its distance; and a function that bounds, kink by kink, by how much others with given
        normals a change on the way there, `|a L^T| |z|`: far less where they are like active ones.
    """
    inverse, off = left_inverse(normals), np.abs(values) + errors

    def changes(others: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.abs(others @ inverse.T) @ off)

    return float(np.linalg.norm(off @ rounded_sizes(inverse))), changes


def rounded_sizes(inverse: NDArray[np.float64]) -> NDArray[np.float64]:
    """Absolute values of a `left_inverse`, those that are its rounding noise zero.

    Parameters that a multiplier does not depend on must not lend it their error.
    """
    sizes = np.abs(inverse)
    noise = len(sizes) * 4 * np.finfo(float).eps
    sizes[sizes <= noise * sizes.max(axis=1, keepdims=True, initial=0.0)] = 0.0
    return sizes


def split_errors(
    multipliers: NDArray[np.float64], normals: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Bounds on the rounding errors of a sum of normals with these multipliers, entry by entry."""
    noise = TOLERANCES.rounding * len(multipliers) * float(np.finfo(np.float64).eps)
    return np.asarray(noise * (np.abs(multipliers) @ np.abs(normals)))


def multiplier_errors(
    multipliers: NDArray[np.float64],
    normals: NDArray[np.float64],
    normal_errors: NDArray[np.float64],
    gradient: NDArray[np.float64],
    gradient_error: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Bounds on the errors of multipliers that split a gradient along independent normals.

    With a left inverse L of the normals, the exact ones differ by L times what the computed ones leave,
    and times the rounding errors of that: of the gradient, of the sum and of the normals themselves.
    """
    inverse = left_inverse(normals)
    errors = gradient_error + split_errors(multipliers, normals)
    errors = errors + np.abs(multipliers) @ normal_errors
    left = gradient - multipliers @ normals
    return np.asarray(np.abs(inverse @ left) + np.abs(inverse) @ errors)


def spanned_by_structure(
    normals: NDArray[np.float64],
    kept: NDArray[np.bool_],
    gradient: NDArray[np.float64],
    errors: NDArray[np.float64],
) -> bool:
    """Whether a gradient in the normals' span lies in that of some of them, by its exact zeros.

    Entries without a term are exactly zero. Where the kept normals vanish there too, and the others are
    as many directions as they have there, a combination of all that vanishes there is one of the kept.
    """
    zero = (gradient == 0) & (errors == 0)
    if zero.all():
        return True
    numbers = Float64()
    if normals[kept][:, zero].any():
        return False
    beside = numbers.rank(normals[:, zero]) if zero.any() else 0
    return numbers.rank(normals[kept]) + beside == numbers.rank(normals)


def eigenvalue_margin(values: NDArray[np.floating[Any]]) -> float:
    """Backward error of a symmetric eigensolver for a matrix with these eigenvalues.

    Below the square root of the smallest normal number, products have underflowed.
    """
    largest = float(np.abs(values).max(initial=0.0))
    noise = TOLERANCES.eigenvalue * len(values) * float(np.finfo(float).eps) * largest
    return float(noise + float(np.finfo(float).tiny) ** 0.5)


class Rational:
    """Exact rationals through python-flint.

    Raises:
        InputError: python-flint is not installed.
    """

    name = "rational"
    exact = True

    def __init__(self) -> None:
        self._flint = _flint()

    def array(self, values: Array) -> Array:
        """The exact rationals that the floats are."""
        floats = np.asarray(values, dtype=np.float64)
        out = np.empty(floats.shape, dtype=object)
        out.ravel()[:] = [
            self._flint.fmpq(*value.as_integer_ratio()) for value in floats.ravel().tolist()
        ]
        return out

    def precision(self) -> AbstractContextManager[None]:
        """Context in which balls (see `exp`) carry 256 bits."""
        context: AbstractContextManager[None] = self._flint.ctx.workprec(256)
        return context

    def exp(self, values: Array) -> Array:
        """Balls that enclose the exponentials of rationals; the exponential of 0 is exactly 1."""
        out = np.empty(values.shape, dtype=object)
        out.ravel()[:] = [self._flint.arb(value).exp() for value in values.ravel()]
        return out

    def texts(self, values: Array) -> tuple[str, ...]:
        """Rationals as "p/q"; balls by their midpoints."""
        return tuple(f"{int(v.p)}/{int(v.q)}" for v in map(self._rational, values.ravel()))

    def parse(self, texts: tuple[str, ...]) -> Array:
        """Rationals from "p/q" texts; raises InputError for anything else."""
        out = np.empty(len(texts), dtype=object)
        try:
            out[:] = [self._flint.fmpq(*map(int, text.split("/"))) for text in texts]
        except (ValueError, TypeError, ZeroDivisionError) as error:
            raise InputError(f"exact numbers must be written as 'p/q': {error}") from error
        return out

    def whole(self, vector: Array) -> tuple[Any, Any]:
        """A vector as a matrix of one row of integers, and what they are divided by, for `product`."""
        row, divisor = self._matrix(vector[None]).numer_denom()
        return row, divisor

    def product(self, one: tuple[Any, Any], other: tuple[Any, Any]) -> Any:
        """Of two vectors of integers: many times as fast as a sum of rationals in lowest terms."""
        total = (one[0] * other[0].transpose())[0, 0]
        return self._flint.fmpq(total, one[1] * other[1])

    def shortened(self, values: Array) -> Array:
        """Rationals without what is beyond `DIGITS` binary digits after the point."""
        whole, out = 2**DIGITS, np.empty(np.shape(values), dtype=object)
        out.ravel()[:] = [self._flint.fmpq((v * whole).floor(), whole) for v in values.ravel()]
        return out

    def floats(self, values: Array) -> NDArray[np.float64]:
        """Nearest float64 values; of balls, their midpoints'."""
        flat = [self._float(value) for value in np.asarray(values, dtype=object).ravel()]
        return np.array(flat, dtype=np.float64).reshape(np.shape(values))

    def _float(self, value: Any) -> float:
        if isinstance(value, self._flint.arb):
            return float(value.mid())
        return int(value.p) / int(value.q)  # Python divides big integers with correct rounding

    def unit(self, vector: Array) -> NDArray[np.float64]:
        """Direction of a vector of any size, of length one in float64."""
        largest = max((abs(value) for value in vector), key=self._mid)
        scaled = self.floats(vector / self._mid(largest))
        return np.asarray(scaled / np.linalg.norm(scaled))

    def _mid(self, value: Any) -> Any:
        """A ball's midpoint; a rational as it is."""
        return value.mid() if isinstance(value, self._flint.arb) else value

    def independent_rank(self, rows: Array) -> int:
        """Exact rank."""
        return int(self._matrix(rows).rank()) if len(rows) else 0

    def independent(self, rows: Array) -> bool:
        """Exact rank."""
        return len(rows) == 0 or bool(self._matrix(rows).rank() == len(rows))

    def complement(self, rows: Array) -> Array:
        """Null space from the reduced row echelon form."""
        size = rows.shape[1]
        if len(rows) == 0:
            return self.array(np.eye(size))
        reduced, pivots = self._reduced(rows)
        free = [j for j in range(size) if j not in pivots]
        basis = self.array(np.zeros((size, len(free))))
        for column, j in enumerate(free):
            basis[j, column] = self._flint.fmpq(1)
            basis[pivots, column] = -reduced[: len(pivots), j]
        return basis

    def multipliers(self, rows: Array, vector: Array) -> Array:
        """Normal equations over a maximal independent set of the rows, the others zero.

        A vector of balls gives balls, which enclose the multipliers. Columns of a matrix are vectors.
        """
        mu = self.array(np.zeros((len(rows), *vector.shape[1:])))
        if len(rows) == 0:
            return mu
        chosen = self.independent_rows(rows)
        mu[chosen] = self.inverse(rows[chosen] @ rows[chosen].T) @ (rows[chosen] @ vector)
        return mu

    def independent_rows(self, rows: Array) -> list[int]:
        """A maximal independent set of the rows, each by its place."""
        return self._reduced(rows.T)[1] if len(rows) else []

    def inverse(self, matrix: Array) -> Array:
        """Inverse of a nonsingular rational matrix."""
        inverse = np.empty(matrix.shape, dtype=object)
        inverse.ravel()[:] = self._matrix(matrix).inv().entries()
        return inverse

    def row_basis(self, rows: Array) -> Array:
        """Independent rows with the same span."""
        reduced, pivots = self._reduced(rows)
        return reduced[: len(pivots)]

    def solve(self, matrix: Array, right: Array) -> Array:
        """A solution of a consistent system, free variables zero.

        Raises:
            InputError: The system has no solution.
        """
        reduced, pivots = self._reduced(np.hstack([matrix, right[:, None]]))
        if matrix.shape[1] in pivots:
            raise InputError("linear system must be consistent; received one without a solution")
        solution = self.array(np.zeros(matrix.shape[1]))
        solution[pivots] = reduced[: len(pivots), -1]
        return solution

    def smallest_eigenvalue(self, matrix: Array) -> tuple[bool, float]:
        """Positive definiteness by the exact signs of Gaussian pivots; the eigenvalue in float64.

        Zero stands for a positive one that is within the eigensolver's backward error.
        """
        if len(matrix) == 0:
            return True, float("inf")
        definite, values = self.is_definite(matrix), np.linalg.eigvalsh(self.floats(matrix))
        told = not definite or values[0] > eigenvalue_margin(values)
        return definite, float(values[0]) if told else 0.0

    def is_definite(self, matrix: Array) -> bool:
        """Whether Gaussian elimination shows only positive pivots, for certain where they are balls."""
        rest = matrix.copy()
        for k in range(len(rest)):
            if not rest[k, k] > 0:
                return False
            rest[k + 1 :, k:] = rest[k + 1 :, k:] - np.outer(
                rest[k + 1 :, k] / rest[k, k], rest[k, k:]
            )
        return True

    def ball(self, radius: float) -> Any:
        """The ball of this radius around zero."""
        return self._flint.arb(0, radius)

    def upper(self, value: Any) -> float:
        """A float above the value, a rational or a ball."""
        return float(self._flint.arb(value).upper()) * (1.0 + 2.0**-50)

    def _rational(self, value: Any) -> Any:
        """A rational as it is; a ball's midpoint, which is a dyadic rational."""
        if isinstance(value, self._flint.arb):
            mantissa, exponent = value.mid().man_exp()
            if exponent < -SMALLEST:
                return self._flint.fmpq(0)
            return self._flint.fmpq(int(mantissa)) * self._flint.fmpq(2) ** int(exponent)
        return value

    def _matrix(self, rows: Array) -> Any:
        return self._flint.fmpq_mat(*rows.shape, rows.ravel().tolist())

    def _reduced(self, rows: Array) -> tuple[Array, list[int]]:
        """Reduced row echelon form and its pivot columns."""
        matrix, rank = self._matrix(rows).rref()
        reduced = np.empty(rows.shape, dtype=object)
        reduced.ravel()[:] = matrix.entries()
        return reduced, [int(np.flatnonzero(reduced[row] != 0)[0]) for row in range(rank)]


def arithmetic_called(name: str) -> Float64 | Rational:
    """Return the arithmetic called "float64" or "rational"."""
    if name == "float64":
        return Float64()
    if name == "rational":
        return Rational()
    raise InputError(f"arithmetic must be 'float64' or 'rational'; received {name!r}")


def _flint() -> ModuleType:
    """Import python-flint, or say how to install it."""
    try:
        import flint
    except ModuleNotFoundError as error:
        raise InputError(
            "rational arithmetic needs python-flint: pip install 'reluscape[rational]'"
        ) from error
    module: ModuleType = flint
    return module
