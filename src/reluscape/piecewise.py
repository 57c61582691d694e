"""The piecewise-affine protocol that every exact analysis of a block shares.

A block is the parameter vector theta of one affine layer, all else fixed. Its part of the network is

    z = X~ W^T,  u_1 = A_0 z,  h_1 = rho_1(u_1),  u_2 = A_1 h_1,  ...,  f = A_m h_m

with the layer's inputs X~ = [X, 1] (samples, inputs + 1), fixed affine maps A_j and rectifiers rho_j.
The **kinks** are all entries of u_1, ..., u_m and, for the L1 loss, of the residual f - y. They are
numbered group by group, sample-major inside a group. With the pattern (the kinks' signs) frozen, each
switching value is affine in theta, `a_t . theta + c_t`, with normal `a_t = v (x) x~_i`, where v is the
unit's vector pulled back through the frozen activations of sample i.

Products through the frozen network come forward (`rates`: of all switching values along a direction)
and in reverse (`normals`: of chosen kinks; `gradient`: of the loss).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reluscape.affine import AffineMap
from reluscape.errors import InputError
from reluscape.losses import L1Loss, Loss, SquaredLoss
from reluscape.nearby import column_sizes, in_theta_order, scales_of

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class KinkGroup:
    """The kinks of one rectifier, or the residuals: numbers `start .. stop`, `units` per sample."""

    label: str
    start: int
    stop: int
    units: int


@dataclass(frozen=True, slots=True)
class CellLoss:
    """The loss on one cell: `constant + linear . theta + 1/2 theta^T hessian theta`.

    Attributes:
        constant: Value of the quadratic (or affine) map at theta = 0.
        linear: Gradient at theta = 0, shape (params,).
        hessian: Constant Hessian, shape (params, params); None where the loss is affine.
    """

    constant: float
    linear: Floats
    hessian: Floats | None

    def __call__(self, theta: Floats) -> float:
        """Value at `theta`, right for any theta in the closed cell."""
        bend = 0.0 if self.hessian is None else 0.5 * float(theta @ self.hessian @ theta)
        return self.constant + float(self.linear @ theta) + bend


@dataclass(frozen=True, slots=True)
class Piecewise:
    """One block as a continuous piecewise function of its parameters.

    Attributes:
        features: The layer's inputs, shape (samples, inputs).
        magnitudes: Sums of absolute terms behind each feature, which carry its rounding error.
        width: Number of units of the layer.
        bias: Whether the layer has a bias.
        maps: The maps A_0..A_m.
        slopes: Slopes of the m rectifiers on their negative side.
        labels: One label per kink group, for messages.
        loss: The loss.
        targets: Targets as `check_targets` returns them.
        weight_decay: lambda of `lambda/2 ||theta||^2`.
        other_decay: The part of the decay that belongs to parameters outside the block.
        depth_terms: Longest chain of additions behind a switching value, for rounding bounds.
    """

    features: Floats
    magnitudes: Floats
    width: int
    bias: bool
    maps: tuple[AffineMap, ...]
    slopes: tuple[float, ...]
    labels: tuple[str, ...]
    loss: Loss
    targets: NDArray[Any]
    weight_decay: float
    other_decay: float
    depth_terms: int

    # ---- sizes -------------------------------------------------------------------------------

    @property
    def num_samples(self) -> int:
        """Number of samples."""
        return len(self.features)

    @property
    def num_params(self) -> int:
        """Number of parameters of the block."""
        return self.width * (int(self.features.shape[1]) + self.bias)

    @property
    def has_residuals(self) -> bool:
        """Whether residuals are kinks (L1 loss)."""
        return isinstance(self.loss, L1Loss)

    @property
    def groups(self) -> tuple[KinkGroup, ...]:
        """Kink groups in order: one per rectifier, then the residuals for the L1 loss."""
        width, start, groups = self.width, 0, []
        for label, step in zip(self.labels, self.maps, strict=True):
            width = step.width_after(width)
            stop = start + self.num_samples * width
            groups.append(KinkGroup(label, start, stop, width))
            start = stop
        return tuple(groups if self.has_residuals else groups[:-1])

    @property
    def num_kinks(self) -> int:
        """Number of kinks."""
        groups = self.groups
        return groups[-1].stop if groups else 0

    def sample_of(self, kinks: Indices) -> Indices:
        """Sample that each kink belongs to."""
        samples = np.zeros(len(kinks), dtype=np.intp)
        for _, group, rows in self._by_group(kinks):
            samples[rows] = (kinks[rows] - group.start) // group.units
        return samples

    def level_of(self, kinks: Indices) -> Indices:
        """Index of the group that each kink belongs to (deeper is larger)."""
        levels = np.zeros(len(kinks), dtype=np.intp)
        for level, _, rows in self._by_group(kinks):
            levels[rows] = level
        return levels

    def _by_group(self, kinks: Indices) -> Iterator[tuple[int, KinkGroup, Indices]]:
        """Yield (level, group, positions in `kinks`) for each group that occurs."""
        for level, group in enumerate(self.groups):
            rows = np.flatnonzero((kinks >= group.start) & (kinks < group.stop))
            if rows.size:
                yield level, group, rows

    # ---- parameters --------------------------------------------------------------------------

    def unpack(self, theta: Floats) -> tuple[Floats, Floats | None]:
        """Split theta into the weight (units, inputs) and the bias (units,) or None."""
        weight = theta[: self.width * self.features.shape[1]].reshape(self.width, -1)
        return weight, theta[weight.size :] if self.bias else None

    def outer(self, units: Floats, rows: Indices, features: Floats | None = None) -> Floats:
        """Flatten `units[k] (x) x~_{rows[k]}` into theta's order, shape (k, params)."""
        features = self.features if features is None else features
        weight = (units[:, :, None] * features[rows][:, None, :]).reshape(
            len(rows), self.width * features.shape[1]
        )
        return np.hstack([weight, units]) if self.bias else weight

    # ---- forward -----------------------------------------------------------------------------

    def forward(self, theta: Floats) -> tuple[Floats, Floats]:
        """Return all switching values (kinks,) and the outputs (samples, outputs) at theta."""
        weight, bias = self.unpack(theta)
        values = np.empty(self.num_kinks)
        hidden = self.features @ weight.T
        if bias is not None:
            hidden += bias
        for step, slope, group in zip(self.maps, self.slopes, self.groups, strict=False):
            before = values[group.start : group.stop].reshape(-1, group.units)
            before[:] = step(hidden)
            hidden = (
                np.maximum(before, 0.0)
                if slope == 0.0
                else np.where(before > 0, before, slope * before)
            )
        outputs = self.maps[-1](hidden)
        if self.has_residuals:
            values[self.groups[-1].start :] = (outputs - self.targets).ravel()
        return values, outputs

    def outputs(self, theta: Floats) -> Floats:
        """Return the network's outputs at theta, shape (samples, outputs), without keeping kinks."""
        weight, bias = self.unpack(theta)
        hidden = self.features @ weight.T
        if bias is not None:
            hidden += bias
        for step, slope in zip(self.maps, self.slopes, strict=False):
            before = step(hidden)
            hidden = (
                np.maximum(before, 0.0)
                if slope == 0.0
                else np.where(before > 0, before, slope * before)
            )
        return self.maps[-1](hidden)

    def value(self, theta: Floats) -> float:
        """Loss at theta, weight decay of all parameters included."""
        decay = 0.5 * self.weight_decay * float(theta @ theta) + self.other_decay
        return self.loss.value(self.outputs(theta), self.targets) + decay

    def activations(self, pattern: Bools) -> list[Floats]:
        """Slopes of the rectifiers' units under `pattern`, one (samples, units) array each."""
        return [
            np.where(pattern[group.start : group.stop].reshape(-1, group.units), 1.0, slope)
            for group, slope in zip(self.groups, self.slopes, strict=False)
        ]

    def frozen(
        self, pattern: Bools, theta: Floats, *, linear: bool = False
    ) -> tuple[Floats, Floats]:
        """Switching values and outputs of the frozen network, affine in theta.

        With `linear`, the shifts, the fixed biases and the targets are left out: the rates of change
        along the direction `theta`.
        """
        weight, bias = self.unpack(theta)
        values = np.empty(self.num_kinks)
        hidden = self.features @ weight.T
        if bias is not None:
            hidden += bias
        for step, active, group in zip(
            self.maps, self.activations(pattern), self.groups, strict=False
        ):
            before = step.linear(hidden) if linear else step(hidden)
            values[group.start : group.stop] = before.ravel()
            hidden = before * active
        outputs = self.maps[-1].linear(hidden) if linear else self.maps[-1](hidden)
        if self.has_residuals:
            values[self.groups[-1].start :] = (
                outputs if linear else outputs - self.targets
            ).ravel()
        return values, outputs

    def rates(self, pattern: Bools, direction: Floats) -> Floats:
        """Rates of all switching values along `direction` with the pattern frozen, shape (kinks,)."""
        return self.frozen(pattern, direction, linear=True)[0]

    # ---- reverse -----------------------------------------------------------------------------

    def output_slope(self, pattern: Bools, outputs: Floats) -> Floats:
        """Derivative of the loss by the outputs; the L1 loss takes its signs from the pattern."""
        if not self.has_residuals:
            return self.loss.slope(outputs, self.targets)
        signs = pattern[self.groups[-1].start :].reshape(outputs.shape)
        return np.where(signs, 1.0, -1.0) / self.num_samples

    def sensitivities(self, pattern: Bools, output_slope: Floats) -> list[Floats]:
        """Derivatives of the loss by z and by each rectifier's outputs, [z, h_1, ..., h_m]."""
        back = [self.maps[-1].adjoint(output_slope)]
        for step, active in zip(self.maps[-2::-1], self.activations(pattern)[::-1], strict=True):
            back.append(step.adjoint(back[-1] * active))
        return back[::-1]

    def assemble(self, units: Floats, features: Floats | None = None) -> Floats:
        """Sum `units_i (x) x~_i` over the samples, in theta's order."""
        weight = (units.T @ (self.features if features is None else features)).ravel()
        return np.concatenate([weight, units.sum(axis=0)]) if self.bias else weight

    def gradient(self, theta: Floats, pattern: Bools | None = None) -> Floats:
        """Gradient at theta of the loss on the cell of `pattern` (default: theta's own)."""
        if pattern is None:
            values, outputs = self.forward(theta)
            pattern = values > 0
        else:
            outputs = self.frozen(pattern, theta)[1]
        units = self.sensitivities(pattern, self.output_slope(pattern, outputs))[0]
        gradient = self.assemble(units)
        return gradient + self.weight_decay * theta if self.weight_decay else gradient

    def pull_back(self, kinks: Indices, pattern: Bools, *, absolute: bool = False) -> Floats:
        """Derivative of each kink by its sample's z with the pattern frozen, shape (k, width).

        With `absolute`, the sums of absolute terms behind them, which carry their rounding errors.
        """
        pulled = np.zeros((len(kinks), self.width))
        for level, group, rows in self._by_group(kinks):
            sample, unit = np.divmod(kinks[rows] - group.start, group.units)
            vectors = np.zeros((len(rows), group.units))
            vectors[np.arange(len(rows)), unit] = 1.0
            for below in range(level, -1, -1):
                step = self.maps[below].absolute() if absolute else self.maps[below]
                vectors = step.adjoint(vectors)
                if below:
                    active = self._active_rows(pattern, below - 1, sample)
                    vectors = vectors * (np.abs(active) if absolute else active)
            pulled[rows] = vectors
        return pulled

    def _active_rows(self, pattern: Bools, level: int, samples: Indices) -> Floats:
        """Activation slopes of the rectifier at `level` for the given samples."""
        group = self.groups[level]
        signs = pattern[group.start : group.stop].reshape(-1, group.units)[samples]
        return np.where(signs, 1.0, self.slopes[level])

    def normals(self, kinks: Indices, pattern: Bools) -> Floats:
        """Normals a_t of the chosen kinks in the cell of `pattern`, shape (k, params)."""
        return self.outer(self.pull_back(kinks, pattern), self.sample_of(kinks))

    def normal_errors(self, kinks: Indices, pattern: Bools, factor: float) -> Floats:
        """Bounds on the rounding errors of `normals`, as those of `rounding_bounds`."""
        units = self.pull_back(kinks, pattern, absolute=True)
        unit = factor * self.depth_terms * float(np.finfo(np.float64).eps)
        return unit * self.outer(units, self.sample_of(kinks), self.magnitudes)

    def push(self, kinks: Indices, pattern: Bools) -> list[Floats | None]:
        """Derivatives of deeper switching values by each hidden kink's own output.

        Returns:
            For every level 1..m (m is the outputs' level) an array (k, units) with row k filled for
            the kinks that lie above that level and zero elsewhere; entry 0 is None.
        """
        samples, levels = self.sample_of(kinks), self.level_of(kinks)
        pushed: list[Floats | None] = [None]
        hidden = np.zeros((len(kinks), self.maps[0].width_after(self.width)))
        for level in range(len(self.slopes)):
            start = self.groups[level].start
            here = np.flatnonzero(levels == level)
            hidden[here, (kinks[here] - start) % self.groups[level].units] = 1.0
            before = self.maps[level + 1].linear(hidden)
            pushed.append(before)
            last = level + 1 == len(self.slopes)
            hidden = before if last else before * self._active_rows(pattern, level + 1, samples)
        return pushed

    # ---- the loss on a cell ------------------------------------------------------------------

    def output_jacobian(self, pattern: Bools) -> Floats:
        """Derivative G_i of each sample's outputs by its z, shape (samples, outputs, width)."""
        outputs = self.maps[-1].width_after(
            self.groups[len(self.slopes) - 1].units if self.slopes else self.width
        )
        back = np.broadcast_to(np.eye(outputs), (self.num_samples, outputs, outputs))
        back = self._adjoint_samples(self.maps[-1], back)
        for step, active in zip(self.maps[-2::-1], self.activations(pattern)[::-1], strict=True):
            back = self._adjoint_samples(step, back * active[:, None, :])
        return back

    @staticmethod
    def _adjoint_samples(step: AffineMap, stack: Floats) -> Floats:
        """Apply M^T to the last axis of a (samples, outputs, units) stack."""
        flat = step.adjoint(stack.reshape(-1, stack.shape[-1]))
        return flat.reshape(*stack.shape[:-1], -1)

    def hessian(
        self,
        theta: Floats,
        pattern: Bools,
        basis: Floats | None = None,
    ) -> Floats:
        """Hessian of the loss on the cell, in the columns of `basis` if given.

        Cost: O(samples * outputs * params^2) time; blocks of samples keep memory at O(params^2).
        """
        curvature = self.loss.curvature(self.frozen(pattern, theta)[1])
        jacobian = self.output_jacobian(pattern)
        size = self.num_params if basis is None else basis.shape[1]
        total = np.zeros((size, size))
        block = max(1, int(2e7 // (self.num_params * max(1, jacobian.shape[1]))))
        for start in range(0, self.num_samples, block):
            rows = np.arange(start, min(start + block, self.num_samples))
            part = jacobian[rows]
            flat = self.outer(part.reshape(-1, self.width), np.repeat(rows, part.shape[1]))
            flat = flat if basis is None else flat @ basis
            stack = flat.reshape(len(rows), part.shape[1], size)
            bent = np.matmul(curvature[rows], stack).reshape(-1, size)
            total += flat.T @ bent
        if self.weight_decay:
            total += self.weight_decay * (np.eye(size) if basis is None else basis.T @ basis)
        return total

    def scales(self, pattern: Bools) -> Floats:
        """Units for the parameters in which their effects on the outputs are alike (`scales_of`)."""
        units = self.maps[-1].width_after(
            self.groups[len(self.slopes) - 1].units if self.slopes else self.width
        )
        back = np.broadcast_to(np.eye(units), (self.num_samples, units, units))
        back = self._adjoint_samples(self.maps[-1].absolute(), back)
        for step, active in zip(self.maps[-2::-1], self.activations(pattern)[::-1], strict=True):
            back = self._adjoint_samples(step.absolute(), back * np.abs(active)[:, None, :])
        inputs = self.magnitudes
        if self.bias:
            inputs = np.hstack([inputs, np.ones((self.num_samples, 1))])
        sizes = in_theta_order(column_sizes(back, inputs), bias=self.bias)
        return scales_of(sizes, self.loss.name, self.num_samples, self.weight_decay)

    def sway(self, pattern: Bools) -> float:
        """Largest change of any sample's outputs per unit of theta, on the cell."""
        lengths = np.sqrt((self.features**2).sum(axis=1) + self.bias)
        return float((np.linalg.norm(self.output_jacobian(pattern), axis=(1, 2)) * lengths).max())

    def distances(self, theta: Floats, pattern: Bools) -> Floats:
        """Distances from theta to all kinks of its cell, infinite for constant ones, shape (kinks,)."""
        distances = np.abs(self.frozen(pattern, theta)[0])
        step = max(1, int(2e7 // self.width))
        lengths = np.sqrt((self.features**2).sum(axis=1) + self.bias)
        for start in range(0, self.num_kinks, step):
            kinks = np.arange(start, min(start + step, self.num_kinks))
            norms = np.linalg.norm(self.pull_back(kinks, pattern), axis=1)
            norms *= lengths[self.sample_of(kinks)]
            with np.errstate(divide="ignore", invalid="ignore"):
                distances[kinks] = np.where(norms > 0, distances[kinks] / norms, np.inf)
        return distances

    def clearance(self, theta: Floats, pattern: Bools, ignored: Indices) -> tuple[float, int]:
        """Distance from theta to the nearest kink of its cell, and that kink.

        Kinks in `ignored` and constant ones do not count; (infinity, -1) when none is left.
        """
        distances = self.distances(theta, pattern)
        distances[ignored] = np.inf
        if not np.isfinite(distances).any():
            return np.inf, -1
        nearest = int(np.argmin(distances))
        return float(distances[nearest]), nearest

    def hessian_trace(self, theta: Floats, pattern: Bools) -> float:
        """Trace of the data part of the Hessian, a bound on its norm; O(samples) memory."""
        curvature = self.loss.curvature(self.frozen(pattern, theta)[1])
        jacobian = self.output_jacobian(pattern)
        lengths = (self.features**2).sum(axis=1) + self.bias
        inner = np.matmul(curvature, jacobian)
        return float((lengths * (inner * jacobian).sum(axis=(1, 2))).sum())

    def restrict(self, pattern: Bools) -> CellLoss:
        """Return the loss on the cell of `pattern` as an explicit affine or quadratic map."""
        zero = np.zeros(self.num_params)
        outputs = self.frozen(pattern, zero)[1]
        linear = self.gradient(zero, pattern)
        if isinstance(self.loss, SquaredLoss):
            constant = self.loss.value(outputs, self.targets) + self.other_decay
            return CellLoss(constant, linear, self.hessian(zero, pattern))
        if not self.has_residuals:
            raise InputError(
                "the cross-entropy is convex on a cell but neither affine nor quadratic: use"
                " 'squared', 'half_squared' or 'l1'"
            )
        residuals = outputs - np.asarray(self.targets, dtype=np.float64)
        constant = float((self.output_slope(pattern, outputs) * residuals).sum()) + self.other_decay
        decay = self.weight_decay * np.eye(len(zero)) if self.weight_decay else None
        return CellLoss(constant, linear, decay)

    # ---- rounding bounds ---------------------------------------------------------------------

    def rounding_bounds(
        self, theta: Floats, factor: float, *, widest: bool = False
    ) -> tuple[Floats, list[Floats], Floats]:
        """Bounds on the float64 rounding errors of switching values, sensitivities and gradient.

        Each computed number is a sum of products; its error is at most `factor * n * eps` times the
        sum of the absolute values of its terms, with n the longest chain of additions (Higham,
        Accuracy and Stability of Numerical Algorithms, section 3.1). A bound of exactly zero means
        that the number is zero by structure, not by cancellation.

        The gradient is that of the adjacent cell on whose side all kinks within their bounds are
        negative, or, with `widest`, that of any adjacent cell.

        Returns:
            Arrays like `forward`'s values (kinks,), `sensitivities` and `gradient` (params,).
        """
        unit = factor * self.depth_terms * float(np.finfo(np.float64).eps)
        values, outputs = self.forward(theta)
        weight, bias = self.unpack(np.abs(theta))
        hidden = self.magnitudes @ weight.T
        if bias is not None:
            hidden += bias
        bounds = np.empty(self.num_kinks)
        masks = []
        for step, slope, group in zip(self.maps, self.slopes, self.groups, strict=False):
            sizes = step.absolute()(hidden)
            bounds[group.start : group.stop] = unit * sizes.ravel()
            before = values[group.start : group.stop].reshape(sizes.shape)
            # a kink within its bound may let its magnitude through
            through = np.where(before < -unit * sizes, abs(slope), max(1.0, abs(slope)))
            hidden = sizes * through
            one_sided = np.where(before > unit * sizes, 1.0, abs(slope))
            masks.append(through if widest else one_sided)
        sizes = self.maps[-1].absolute()(hidden)
        if self.has_residuals:
            bounds[self.groups[-1].start :] = unit * (sizes + np.abs(self.targets)).ravel()
        return bounds, *self._slope_bounds(theta, outputs, unit * sizes, masks, unit)

    def _slope_bounds(
        self, theta: Floats, outputs: Floats, errors: Floats, masks: list[Floats], unit: float
    ) -> tuple[list[Floats], Floats]:
        """Bounds on the errors of `sensitivities` and of the gradient, recursively in absolute values."""
        slope = np.abs(self.loss.slope(outputs, self.targets))
        back = [
            self.maps[-1].absolute().adjoint(self.loss.slope_error(outputs, errors) + unit * slope)
        ]
        for step, mask in zip(self.maps[-2::-1], masks[::-1], strict=True):
            back.append(step.absolute().adjoint(back[-1] * mask))
        gradient = self.assemble(back[-1], self.magnitudes) + unit * self.weight_decay * np.abs(
            theta
        )
        return back[::-1], gradient
