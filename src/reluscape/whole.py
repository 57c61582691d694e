"""What prover and checker both ask of a point of the whole landscape."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.arithmetic import eigenvalue_margin
from reluscape.exactly import rest_is_zero
from reluscape.integers import outputs_span_at_most
from reluscape.landscape import Landscape
from reluscape.majorant import Majorant
from reluscape.nearby import (
    CURVATURES,
    column_sizes,
    distance_to_stationary,
    in_theta_order,
    radius_of,
    scales_of,
)
from reluscape.network import Affine, Rectifier
from reluscape.point import Point
from reluscape.symmetry import flat_dimension, is_plain
from reluscape.tolerances import TOLERANCES

Floats = NDArray[np.float64]


def is_differentiable(landscape: Landscape) -> bool:
    """Whether the whole network is readable and no kink is within rounding of zero."""
    reading = landscape.reading
    if reading is None or reading.opaque:
        return False
    first = landscape.block(0)
    values = first.kinks()
    bounds = first.piecewise.rounding_bounds(first.theta, TOLERANCES.rounding)[0]
    return bool((np.abs(values) > bounds).all())


def gradient_of(landscape: Landscape) -> Floats:
    """Gradient over all parameters: the blocks' own, autograd's for batch norm's parameters."""
    gradient = landscape.gradient()
    for name in landscape.layers:
        gradient[landscape.positions(name)] = landscape.block(name).gradient()
    return gradient


def gradient_norm(landscape: Landscape) -> float:
    """Length of the gradient over all parameters."""
    return float(np.linalg.norm(gradient_of(landscape)))


def all_layers_rest(landscape: Landscape) -> bool:
    """Whether every layer is readable and its gradient lies in the span of its active normals."""
    if landscape.reading is None or landscape.reading.opaque or not is_plain(landscape):
        return False
    blocks = [landscape.block(name) for name in landscape.layers]
    return all(Point.at(block, block.theta).is_stationary for block in blocks)


def gradient_errors(landscape: Landscape) -> Floats:
    """Bounds on the gradient's rounding errors: the blocks', and the largest one for batch norm."""
    errors = np.full(landscape.size, -1.0)
    for name in landscape.layers:
        block = landscape.block(name)
        errors[landscape.positions(name)] = block.piecewise.rounding_bounds(
            block.theta, TOLERANCES.rounding
        )[2]
    errors[errors < 0] = errors.max(initial=0.0)
    return errors


def gradient_error(landscape: Landscape) -> float:
    """Bound on the rounding error of the gradient's length."""
    return float(np.linalg.norm(gradient_errors(landscape)))


def stationary_radius(landscape: Landscape, hessian: Floats) -> float | None:
    """Radius within which an exact stationary point is proved, or None.

    Newton's method from the point converges to one within 2 eta (Kantorovich) when
    `L eta / m <= 1/2`: eta the Newton step's length, m the least curvature in absolute value, L the
    Lipschitz constant of the Hessian, and no kink in between. Flat directions must be explained by
    structure; the argument then holds across them.
    """
    if not is_plain(landscape):
        return None
    flat = flat_dimension(landscape)
    values, vectors = np.linalg.eigh(hessian)
    curved = np.abs(values) > eigenvalue_margin(values)
    if curved.sum() != len(values) - flat:
        return None
    if flat == len(values):
        return 0.0
    error = np.abs(vectors.T) @ gradient_errors(landscape)
    step = (np.abs(vectors.T @ gradient_of(landscape)) + error)[curved] / values[curved]
    radius = 2.0 * float(np.linalg.norm(step))
    bounds = Majorant.within(landscape, radius)
    least = float(np.abs(values[curved]).min()) - eigenvalue_margin(values)
    if bounds.hessian_lipschitz * radius > least:
        return None
    first = landscape.block(0)
    limits = first.piecewise.rounding_bounds(first.theta, TOLERANCES.rounding)[0]
    clear = np.abs(first.kinks()) - limits > bounds.kink_speed * radius
    return radius if clear.all() else None


def is_stationary(landscape: Landscape, hessian: Floats) -> bool:
    """Whether the gradient vanishes here (to the last bit) or at a proved point nearby."""
    return not gradient_of(landscape).any() or stationary_radius(landscape, hessian) is not None


def convex_in_products(landscape: Landscape) -> bool:
    """Whether the loss is convex in the products R_j = z_j w_j, and theta maps openly onto them.

    One hidden layer, one affine output, no weight decay, all output weights nonzero: then a
    differentiable stationary point is a minimum over its whole cell in R, hence a local minimum in
    theta. A rectifier behind the output would turn the bias's derivative away from one.
    """
    if not is_plain(landscape) or landscape.weight_decay > 0 or landscape.reading is None:
        return False
    affine = landscape.reading.network.affine
    hidden = len(landscape.block(0).kink_groups) - (landscape.loss_name == "l1")
    return (
        len(affine) == 2
        and not isinstance(landscape.reading.network.layers[-1], Rectifier)
        and hidden == 1
        and len(affine[1].weight) == 1
        and bool((affine[1].weight != 0).all())
    )


def products_radius(landscape: Landscape) -> float | None:
    """Radius within which an exact minimum is proved by convexity in the products, or None.

    With the output weights held fixed the loss is convex in the first layer and the output's bias, and
    quadratic where it is not L1. A stationary point there has a vanishing derivative by every product
    (no output weight is zero), hence one by the output weights too.
    """
    if not convex_in_products(landscape) or landscape.loss_name == "cross_entropy":
        return None
    block, layers = landscape.block(0), landscape.layers
    bias = landscape.positions(layers[1])[landscape.block(1).piecewise.features.shape[1] :]
    pattern, free = block.pattern(), np.concatenate([landscape.positions(layers[0]), bias])
    if landscape.loss_name == "l1":
        none = np.empty(0, dtype=np.intp)
        above = int(pattern[block.kink_groups[-1].start :].sum())
        balanced = len(bias) == 0 or 2 * above == landscape.num_samples
        exact = rest_is_zero(landscape, layers[0], pattern, none, 0)
        return 0.0 if balanced and exact else None
    if len(free) > TOLERANCES.max_dense:
        return None
    piecewise = block.piecewise
    rows = piecewise.outer(
        piecewise.output_jacobian(pattern)[:, 0], np.arange(len(piecewise.features))
    )
    rows = np.hstack([rows, np.ones((len(rows), len(bias)))])
    sizes = in_theta_order(
        column_sizes(np.abs(rows)[:, :, None], np.ones((len(rows), 1))), bias=False
    )
    scales = scales_of(sizes, landscape.loss_name, len(rows), 0.0)
    factor = CURVATURES[landscape.loss_name] / landscape.num_samples
    rows = rows * scales
    distance = distance_to_stationary(
        factor * rows.T @ rows,
        scales * gradient_of(landscape)[free],
        scales * gradient_errors(landscape)[free],
        scales,
        np.eye(len(free)),
        lambda curved: outputs_span_at_most(
            landscape,
            layers[0],
            pattern,
            np.empty(0, dtype=np.intp),
            curved,
            shifted=len(bias) > 0,
        ),
    )
    at_zero = np.empty(0, dtype=np.intp)
    return radius_of(
        distance,
        quadratic=True,
        sway=0.0,
        clearance=piecewise.clearance(block.theta, pattern, at_zero)[0],
        scale=1.0 + float(np.linalg.norm(landscape.theta)),
    )


def output_is_constant(landscape: Landscape) -> bool:
    """Whether a layer dead on all samples, with no bias behind it, makes the output constant nearby."""
    if not is_plain(landscape) or landscape.weight_decay > 0 or landscape.reading is None:
        return False
    pattern = landscape.block(0).pattern()
    groups = list(landscape.block(0).kink_groups)
    affine = [layer for layer in landscape.reading.network.layers if isinstance(layer, Affine)]
    for group in groups:
        behind = (
            affine[1 + [layer.name for layer in affine].index(group.label.removeprefix("layer ")) :]
            if group.label != "residual"
            else []
        )
        dead = not pattern[group.start : group.stop].any()
        if (
            group.label != "residual"
            and dead
            and _is_relu(landscape, groups.index(group))
            and all(layer.bias is None for layer in behind)
        ):
            return True
    return False


def _is_relu(landscape: Landscape, level: int) -> bool:
    """Whether the rectifier at `level` of the first block is a plain ReLU."""
    return landscape.block(0).piecewise.slopes[level] == 0.0


def is_minimum_up_to_symmetry(landscape: Landscape, eigenvalues: NDArray[np.floating[Any]]) -> bool:
    """Whether the Hessian is positive on all but the flat directions that structure explains.

    Then the critical points form a manifold through the point, the loss is constant along it and
    rises across it (Morse-Bott), so the point is a local minimum, not a strict one.
    """
    if not is_plain(landscape) or landscape.weight_decay > 0:
        return False
    flat = flat_dimension(landscape)
    return bool((eigenvalues > eigenvalue_margin(eigenvalues)).sum() == len(eigenvalues) - flat)
