"""Eigenvalues, trace and density of the frozen-switch Hessian, each with its uncertainty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from numpy.typing import ArrayLike, NDArray

from reluscape.errors import AnalysisError, InputError
from reluscape.hessian import HessianProduct, extreme, forms_whole
from reluscape.kinks import kinks_at
from reluscape.landscape import Landscape, check_landscape
from reluscape.results import Result
from reluscape.tolerances import TOLERANCES
from reluscape.validation import check_whole

__all__ = ["Spectrum", "spectrum"]

Floats = NDArray[np.float64]
EPS = float(np.finfo(np.float64).eps)

#: Points of the density's grid, and how far it reaches beyond the outermost nodes, over their range.
POINTS, BEYOND = 1000, 0.05
#: Products that the trace takes: a third for its large part, a third for what is left (Hutch++).
TRACE_PRODUCTS = 99


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Spectrum(Result):
    """The spectrum of the Hessian with frozen switches, weight decay included.

    Attributes:
        eigenvalues: Ascending: all of them (params,) for method "dense"; for "lanczos" at most k from
            each end, those that converged.
        errors: Dense: bound on the eigensolver's error. Lanczos: residuals |H v - value v|; an
            eigenvalue is that near, but another may have been missed between two that are shown.
        trace: Sum of all eigenvalues; by random vectors for "lanczos" (Hutch++).
        trace_error: Dense: rounding. Lanczos: one standard error.
        grid: Where the density is given (1000,).
        density: Eigenvalues per unit of the axis as a share of all, smoothed by a Gaussian (1000,); its
            integral is 1. Estimated by stochastic Lanczos quadrature for "lanczos".
        density_error: One standard error over the random vectors (1000,); zero for "dense".
        bandwidth: Standard deviation of the Gaussian.
        method: "dense" or "lanczos".
        size: Number of parameters.
        kinks_checked: Whether no kink is active at the point, to rounding; False where the network is not
            read completely, so that kinks other than those of `nn.ReLU`, `nn.LeakyReLU` and their
            functions may be.
        weight_decay: lambda.
        objective: The landscape's loss.
        seed: Of the random vectors.
    """

    eigenvalues: Floats
    errors: Floats
    trace: float
    trace_error: float
    grid: Floats
    density: Floats
    density_error: Floats
    bandwidth: float
    method: str
    size: int
    kinks_checked: bool
    weight_decay: float
    objective: str
    seed: int

    def summary(self) -> str:
        """Both ends of the spectrum and the trace, with their uncertainties."""
        low, high = self.eigenvalues[0], self.eigenvalues[-1]
        known = "within" if self.method == "dense" else "residual"
        lines = [
            f"Hessian of {self.size} parameters with frozen switches ({self.method})",
            f"  smallest eigenvalue: {low:.6g} ({known} {self.errors[0]:.1g})",
            f"  largest eigenvalue: {high:.6g} ({known} {self.errors[-1]:.1g})",
            f"  trace: {self.trace:.6g} ± {self.trace_error:.1g}",
        ]
        if not self.kinks_checked:
            lines.append(
                "  the model is not read completely: kinks other than rectifiers' may be active"
            )
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """The density with one standard error, and the eigenvalues below it."""
        figure = go.Figure()
        for edge, fill in ((-1, None), (1, "tonexty")):
            height = np.maximum(self.density + edge * self.density_error, 0.0)
            style: dict[str, Any] = {"line_width": 0, "showlegend": False, "fill": fill}
            figure.add_scatter(x=self.grid, y=height, mode="lines", **style)
        figure.add_scatter(x=self.grid, y=self.density, mode="lines", name="density")
        zero = np.zeros(len(self.eigenvalues))
        figure.add_scatter(x=self.eigenvalues, y=zero, mode="markers", name="eigenvalues")
        return figure.update_layout(xaxis_title="eigenvalue", yaxis_title="density")


def spectrum(
    landscape: Landscape,
    theta: ArrayLike | None = None,
    *,
    k: int = 10,
    seed: int = 0,
    probes: int = 10,
    steps: int = 80,
    max_dense: int = TOLERANCES.max_dense,
) -> Spectrum:
    """Compute eigenvalues, trace and density of the frozen-switch Hessian.

    From the whole matrix where it is small; else eigenvalues by Lanczos (ARPACK), trace and density by
    hessian-eigenthings (`pip install reluscape[spectrum]`), all from products with vectors in float64.

    Args:
        landscape: Any module, any loss but L1.
        theta: All parameters, shape (params,); default: the model's own.
        k: Eigenvalues from each end.
        seed: Of all random vectors.
        probes: Random vectors of the density.
        steps: Lanczos steps for each of them, which resolve about range / steps.
        max_dense: Up to so many parameters, or three times k, the whole Hessian is formed.

    Returns:
        Cost beyond `max_dense`: `probes * steps` products for the density, 99 for the trace, some
        hundreds for the eigenvalues; each is one backward pass, or three passes where the samples do not
        fit into memory at once.

    Raises:
        InputError: The Hessian says nothing: the loss is L1, affine on every piece, or kinks are active
            at the point, so that the loss has another Hessian on each side. Or the extra is missing.
        AnalysisError: The Hessian is not finite.

    Example:
        >>> import numpy as np
        >>> from torch import nn
        >>> line = nn.Linear(1, 1, bias=False)
        >>> found = spectrum(Landscape(line, np.array([[1.0], [3.0]]), [0.0, 0.0]))
        >>> found.eigenvalues, found.trace  # 2 (1 + 9) / 2
        (array([10.]), 10.0)

    References: Ubaru, Chen and Saad (2017), stochastic Lanczos quadrature; Meyer, Musco, Musco and
    Woodruff (2021), Hutch++.
    """
    check_landscape(landscape, "spectrum")
    for name, value, least in (("k", k, 1), ("seed", seed, 0), ("probes", probes, 2),
                               ("steps", steps, 2), ("max_dense", max_dense, 0)):  # fmt: skip
        check_whole(value, name, least)
    here = landscape if theta is None else landscape.at(theta)
    checked = _check_smooth(here)
    product = HessianProduct(here)
    dense = forms_whole(here.size, k, max_dense)
    found = _dense(product, steps) if dense else _sampled(product, k, seed, probes, steps)
    return Spectrum(
        **found,
        method="dense" if dense else "lanczos",
        size=here.size,
        kinks_checked=checked,
        weight_decay=here.weight_decay,
        objective=here.loss_name,
        seed=seed,
    )


def _check_smooth(here: Landscape) -> bool:
    """Refuse where the Hessian says nothing; whether all kinks are known to be inactive."""
    if here.loss_name == "l1":
        raise InputError(
            "expected a loss with curvature; an L1 loss is affine on every piece, so that the zeros of"
            " its Hessian say nothing about flatness: use certify or descend, or another loss"
        )
    active, checked = kinks_at(here)
    if active:
        raise InputError(
            f"expected a point where the loss is smooth; received one with {active} kinks that are zero"
            " to rounding, where each side has a Hessian of its own: use certify, or move the weights"
        )
    return checked


def _dense(product: HessianProduct, steps: int) -> dict[str, Any]:
    """Everything from the whole matrix."""
    matrix = product.dense()
    if not np.isfinite(matrix).all():
        raise AnalysisError("expected a finite Hessian; received NaN or infinite values")
    values: Floats = np.asarray(np.linalg.eigvalsh(matrix), dtype=np.float64)
    error = TOLERANCES.eigenvalue * len(values) * EPS * np.abs(values).max()
    nodes, weights = values[None], np.full((1, len(values)), 1.0 / len(values))
    return {
        "eigenvalues": values,
        "errors": np.full(len(values), error),
        "trace": float(matrix.trace()),
        "trace_error": float(len(values) * EPS * np.abs(matrix.diagonal()).sum()),
        **_density(nodes, weights, steps),
    }


def _sampled(product: HessianProduct, k: int, seed: int, probes: int, steps: int) -> dict[str, Any]:
    """Eigenvalues at both ends, and trace and density from random vectors."""
    try:
        from hessian_eigenthings import LambdaOperator, hutch_plus_plus, spectral_density
    except ImportError as error:
        raise InputError(
            f"spectrum of {product.size} parameters needs hessian-eigenthings: pip install"
            " 'reluscape[spectrum]', or raise max_dense to form the whole Hessian"
        ) from error
    operator = LambdaOperator(
        lambda v: torch.from_numpy(product(v.numpy())), product.size, dtype=torch.float64
    )
    runs = spectral_density(
        operator,
        num_runs=probes,
        lanczos_steps=min(steps, product.size),
        num_grid_points=2,
        seed=seed,
    )
    nodes, weights = runs.raw_eigenvalues.numpy(), runs.raw_weights.numpy()
    low, high = float(np.nanmin(nodes)), float(np.nanmax(nodes))
    ends = [
        extreme(product, k, "SA", high, seed)[:2],
        extreme(product, k, "LA", low, seed)[:2],
    ]
    values, errors = (np.concatenate(parts) for parts in zip(*ends, strict=True))
    order = np.argsort(values, kind="stable")  # equal ones at both ends differ by rounding
    trace = hutch_plus_plus(operator, num_matvecs=TRACE_PRODUCTS, seed=seed)
    return {
        "eigenvalues": values[order],
        "errors": errors[order],
        "trace": float(trace.estimate),
        "trace_error": float(trace.stderr),
        **_density(np.where(np.isnan(nodes), 0.0, nodes), weights, steps),
    }


def _density(nodes: Floats, weights: Floats, steps: int) -> dict[str, Any]:
    """Mean and standard error over runs of weights at nodes, both (runs, nodes), as a smooth density."""
    low, high = float(nodes.min()), float(nodes.max())
    size = max(abs(low), abs(high)) or 1.0  # zeros alone have no unit of their own
    spread = max(high - low, 1e-9 * size, 1e-290)  # of which a thousandth's inverse is finite
    width = spread / steps
    grid = np.linspace(low - BEYOND * spread, high + BEYOND * spread, POINTS)
    curves = np.stack([
        np.exp(-0.5 * ((grid[:, None] - run) / width) ** 2) @ weight
        for run, weight in zip(nodes, weights, strict=True)
    ]) / (width * np.sqrt(2.0 * np.pi))  # fmt: skip
    several = len(curves) > 1
    error = curves.std(axis=0, ddof=1) / len(curves) ** 0.5 if several else np.zeros(POINTS)
    return {
        "grid": grid,
        "density": curves.mean(axis=0),
        "density_error": error,
        "bandwidth": float(width),
    }
