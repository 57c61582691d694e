"""The frozen-switch Hessian of any module: its products with vectors, and its smallest eigenvalue.

PyTorch's second derivative of a rectifier is zero on either side, and at zero it takes the side below:
differentiating twice gives the Hessian with all switches frozen, which is the loss's own wherever no
kink is active.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigsh
from torch import nn

from reluscape.errors import AnalysisError
from reluscape.landscape import Landscape
from reluscape.tolerances import TOLERANCES

__all__ = ["HessianProduct", "LeastEigenvalue", "extreme", "forms_whole", "least_eigenvalue"]

Floats = NDArray[np.float64]

#: Numbers that the graph of one batch may hold: 400 MB, twice that while a product is formed.
MAX_VALUES = 50_000_000
#: Columns of a dense Hessian that are formed at once.
COLUMNS = 32
#: Residual of an eigenvalue, over the Hessian's norm, at which Lanczos ends, and the one that it settles
#: for: an eigenvalue is within its square over the gap to the next one, where there is a gap.
RESIDUALS = (1e-9, 1e-5)
#: Vectors that Lanczos keeps, at least, and for each eigenvalue.
VECTORS, EACH = 48, 3


class Objective(Protocol):
    """A function of one flat vector that is a sum over samples."""

    @property
    def size(self) -> int:
        """Length of the vector."""

    @property
    def num_samples(self) -> int:
        """Number of samples."""

    def flat_objective(
        self, theta: Floats | None = None, rows: slice = slice(None)
    ) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
        """A vector, by default its own, and some samples' share as a function of such."""


class HessianProduct:
    """`v -> H v` by a second backward pass, samples in batches that fit into memory.

    One batch keeps its graph, so that a product costs one backward pass; several are run anew each time.

    Args:
        subject: A landscape, of any module and any loss.
        batch: Samples in a batch; of a landscape by default as many as fit.
        theta: Where; by default at its own parameters.

    Attributes:
        size: Number of parameters.
        batch: Samples in a batch.
        count: Products formed so far.
    """

    def __init__(
        self, subject: Objective, batch: int | None = None, theta: Floats | None = None
    ) -> None:
        self._subject, self._theta, self.size, self.count = subject, theta, subject.size, 0
        if batch is None:
            assert isinstance(subject, Landscape)
            batch = max(1, MAX_VALUES // _values_per_sample(subject))
        self.batch = batch
        starts = range(0, subject.num_samples, batch)
        self._rows = [slice(start, start + batch) for start in starts]
        self._kept = self._gradient(self._rows[0]) if len(self._rows) == 1 else None

    def __call__(self, vector: Floats) -> Floats:
        """The product with one vector, shape (params,)."""
        return self.matrix(vector.reshape(1, -1)).ravel()

    def matrix(self, rows: Floats) -> Floats:
        """The products with several vectors, shape (vectors, params) as they are."""
        self.count += len(rows)
        total = np.zeros(rows.shape)
        for part in self._rows:
            flat, slope = self._gradient(part) if self._kept is None else self._kept
            if slope.requires_grad:
                total += self._product(flat, slope, rows)
        return total

    def dense(self) -> Floats:
        """The whole matrix, symmetric."""
        eye = np.eye(self.size)
        parts = [self.matrix(eye[at : at + COLUMNS]) for at in range(0, self.size, COLUMNS)]
        matrix = np.concatenate(parts)
        return np.asarray((matrix + matrix.T) / 2.0)

    def _gradient(self, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """The parameters and the gradient of some samples' share, as a function of them."""
        flat, objective = self._subject.flat_objective(self._theta, rows)
        flat = flat.detach().requires_grad_()
        (slope,) = torch.autograd.grad(objective(flat), flat, create_graph=True)
        return flat, slope

    def _product(self, flat: torch.Tensor, slope: torch.Tensor, rows: Floats) -> Floats:
        """Products with the Hessian of some samples' share."""
        vectors = torch.from_numpy(np.ascontiguousarray(rows)).to(flat.device)
        several = len(rows) > 1
        (found,) = torch.autograd.grad(
            slope, flat, vectors if several else vectors[0], retain_graph=True,
            is_grads_batched=several,
        )  # fmt: skip
        return np.asarray(found.cpu().numpy()).reshape(rows.shape)


@dataclass(frozen=True, slots=True)
class LeastEigenvalue:
    """The smallest eigenvalue of a symmetric matrix, and how well it is known.

    Attributes:
        value: The eigenvalue, or a Rayleigh quotient, which is never below it but for rounding.
        error: Dense: a bound on the eigensolver's error. Lanczos: the residual |H v - value v| and
            rounding; *some* eigenvalue is that near, and nothing proves that it is the smallest.
        method: How it was found.
        products: Products with vectors that were formed.
        direction: v, of length one, with `v^T H v = value`, shape (params,).
    """

    value: float
    error: float
    method: Literal["dense", "lanczos"]
    products: int
    direction: Floats


def forms_whole(size: int, count: int, max_dense: int) -> bool:
    """Whether the whole matrix is formed: if it is small, or no larger than what Lanczos would keep."""
    return size <= max(max_dense, EACH * count)


def least_eigenvalue(
    product: HessianProduct, *, seed: int = 0, max_dense: int = TOLERANCES.max_dense
) -> LeastEigenvalue:
    """The smallest eigenvalue, from the whole matrix if it is small, else by Lanczos.

    Raises:
        AnalysisError: Lanczos does not converge.
    """
    if forms_whole(product.size, 1, max_dense):
        values, vectors = np.linalg.eigh(product.dense())
        error = TOLERANCES.eigenvalue * product.size * np.finfo(float).eps * np.abs(values).max()
        least = np.ascontiguousarray(vectors[:, 0])
        return LeastEigenvalue(float(values[0]), float(error), "dense", product.count, least)
    top = float(extreme(product, 1, "LA", 0.0, seed, (1e-2,))[0][0])
    values, residuals, vectors = extreme(product, 1, "SA", top, seed, RESIDUALS)
    largest = max(abs(top), abs(float(values[0])))
    rounding = TOLERANCES.eigenvalue * product.size * np.finfo(float).eps * largest
    error = float(residuals[0]) + rounding
    return LeastEigenvalue(float(values[0]), error, "lanczos", product.count, vectors[:, 0])


def extreme(
    product: HessianProduct,
    count: int,
    end: Literal["LA", "SA"],
    shift: float,
    seed: int,
    tolerances: tuple[float, ...] = RESIDUALS,
) -> tuple[Floats, Floats, Floats]:
    """Eigenvalues at one end in ascending order, residuals |H v - value v|, shape (found,) each, and v.

    The v are columns of length one, shape (params, found). To the first of the tolerances that all reach;
    else those that reach the last one. ARPACK measures residuals by the eigenvalue itself, so none of
    `H - shift` should be nearly zero.

    Raises:
        AnalysisError: None converges, or ARPACK gives up.
    """
    operator = LinearOperator(
        (product.size,) * 2, matvec=lambda v: product(v.ravel()) - shift * v.ravel(), dtype=float
    )
    start = np.random.default_rng(seed).normal(size=product.size)
    vectors = np.empty((product.size, 0))
    size = float(np.linalg.norm(operator.matvec(start)) / np.linalg.norm(start))
    if size <= TOLERANCES.eigenvalue * product.size * np.finfo(float).eps * abs(shift):
        # H is `shift` times the identity, and ARPACK has nothing to start from
        vectors, tolerances = np.linalg.qr(np.eye(product.size, count) + start[:, None])[0], ()
    for tolerance in tolerances:
        try:
            vectors = eigsh(
                operator, count, which=end, v0=start, tol=tolerance,
                ncv=min(max(VECTORS, EACH * count), product.size), maxiter=100,
            )[1]  # fmt: skip
            break
        except ArpackNoConvergence as partial:
            vectors = partial.eigenvectors
        except ArpackError as error:
            raise AnalysisError(
                f"expected eigenvalues at an end of the Hessian; Lanczos ended with: {error}: take"
                " another seed, or raise max_dense to form the whole Hessian"
            ) from error
    if not vectors.shape[1]:
        raise AnalysisError(
            f"expected eigenvalues at an end of the Hessian; Lanczos has not converged to"
            f" {tolerances[-1]:g} of its norm in {product.count} products: use fewer parameters"
        )
    images = product.matrix(np.ascontiguousarray(vectors.T))
    values = np.einsum("pk,kp->k", vectors, images)
    residuals = np.linalg.norm(images - values[:, None] * vectors.T, axis=1)
    order = np.argsort(values)
    return values[order], residuals[order], vectors[:, order]


def _values_per_sample(landscape: Landscape) -> int:
    """Numbers that the layers put out for one sample, and its inputs."""
    module, sizes = landscape.module_at(), [landscape.inputs[0].size]

    def note(_: nn.Module, inputs: Any, outputs: Any) -> None:
        if isinstance(outputs, torch.Tensor):
            sizes.append(outputs.numel())

    for part in module.modules():
        part.register_forward_hook(note)
    device = next(module.parameters()).device
    with torch.no_grad():
        module(torch.from_numpy(landscape.inputs[:1]).to(device))
    return sum(sizes)
