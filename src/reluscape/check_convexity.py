"""`verify` of a convexity: everything recomputed from network and data, without a solver."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from reluscape.certificate import Verification
from reluscape.check_block import RejectedError, require
from reluscape.check_coverage import covers, no_minimum_below
from reluscape.check_curvature import (
    EPS,
    Passes,
    absolute,
    excesses,
    passes_of,
    second_derivative,
)
from reluscape.convex import Convexity, why_unbounded
from reluscape.digits import rounded_down
from reluscape.errors import AnalysisError, InputError
from reluscape.kinks import kinks_at
from reluscape.landscape import Landscape
from reluscape.network import Rectifier
from reluscape.tolerances import TOLERANCES
from reluscape.unfolded import unfolded

Floats = NDArray[np.float64]

#: Relative difference of numbers that are the same: what is stated is raised to its safe side by less.
SAME = 1e-9
#: Smallest normal number: below it products lose digits, or all of them.
TINY = float(np.finfo(np.float64).tiny)
#: Multiplications that a whole Hessian may take to be formed again: about ten seconds.
MAX_WORK = 1e10
#: Largest Hessian that is formed again: half a gigabyte, and some seconds to factor.
MAX_SIZE = 8000
#: Samples whose graph PyTorch keeps at once.
SAMPLES = 256


def check_convexity(found: Convexity, landscape: Landscape) -> Verification:
    """Check what `convexity` stated by one product with the Hessian, and the bounds by their definition.

    Proved, to rounding: the smallest eigenvalue is at least `data_bound`, since that is recomputed from
    weights and data, and at most `exact`, since the direction has that curvature. For method "dense" also
    that it is not below `exact` by more than `error`: the Hessian less that is positive definite, by a
    Cholesky factorisation, where forming the Hessian takes few enough multiplications. Otherwise, and for
    Lanczos, that no direction has a smaller curvature is told.
    """
    try:
        here = _subject(found, landscape)
        proved = _eigenvalue(found, here, _lower(found, here))
    except RejectedError as rejection:
        return Verification(False, str(rejection))
    except (TypeError, ValueError, IndexError, AttributeError) as error:  # a field of another type
        return Verification(False, f"it is not an answer of convexity: {error}")
    return Verification(True, f"recomputed from network and data: {_told(found, proved)}")


def check_found(found: Convexity, landscape: Landscape) -> None:
    """Check before it is told to anybody.

    Raises:
        AnalysisError: It is rejected.
    """
    verdict = check_convexity(found, landscape)
    if not verdict.valid:
        raise AnalysisError(
            f"expected an answer that passes its check; {verdict.reason}: another seed may help"
        )


def _told(found: Convexity, proved: bool) -> str:
    """What was proved, and what is only told."""
    upper = f"{found.exact:.6g} ({'within' if proved else 'or less'}"
    upper += f" {found.error:.1g})" if proved else ")"
    least = "" if found.reason else f", at least {rounded_down(found.data_bound):.6g}"
    verdict = found.sentence()
    if found.is_convex and not found.in_data_region and not proved:
        verdict = "that the loss is strongly convex here is told, not proved"
    return f"{verdict}; its smallest curvature is {upper}{least}"


def _subject(found: Convexity, landscape: Landscape) -> Landscape:
    """The landscape at the result's point; both are about the same loss."""
    loss, decay = landscape.loss_name, landscape.weight_decay
    require(found.objective == loss, f"it is about the loss {found.objective!r}, not {loss!r}")
    same = found.weight_decay == decay
    require(same, f"it is about weight decay {found.weight_decay!r}, not {decay!r}")
    require(loss != "l1", "there is no curvature of an L1 loss")
    for name in ("theta", "direction"):
        value = getattr(found, name)
        fits = isinstance(value, np.ndarray) and value.shape == (landscape.size,)
        require(fits and bool(np.isfinite(value).all()), f"its {name} is none of this")
    here = landscape.at(found.theta)
    value = here.loss()
    near = abs(found.loss - value) <= SAME * max(abs(value), EPS)
    require(near, f"its loss is {value:.6g}")
    return here


# ---- from below: the bounds --------------------------------------------------------------------


def _lower(found: Convexity, here: Landscape) -> Passes | None:
    """The bounds and what follows from them, and what they were checked with; or that there are none."""
    why = why_unbounded(here)
    require(found.reason == why, f"there are {'no bounds: ' + why if why else 'bounds'}")
    active, checked = kinks_at(here)
    require(found.kinks_checked == checked, f"its kinks_checked is {checked}")
    if why:
        _nothing(found)
        require(found.active_kinks == active, f"{active} kinks are zero to rounding")
        return None
    assert here.reading is not None
    read, features = unfolded(here), np.asarray(here.reading.features)
    passes, widest = (
        passes_of(read, features, here.targets, here.loss_name, most) for most in (False, True)
    )
    _bounds(found, passes, widest)
    hidden, biased = len(passes.moving) - 1, any(one is not None for one in passes.biases)
    bends = any(isinstance(one, Rectifier) and one.slope != 1.0 for one in read.network.layers)
    facts = {"hidden_layers": hidden, "biased": biased, "linear": not bends}
    for name, value in facts.items():
        require(getattr(found, name) == value, f"its {name} is {value}")
    least, most = passes.zeros
    require(least <= found.active_kinks <= most, f"{least} to {most} kinks are zero to rounding")
    _coverage(found, passes, features, here.loss(np.zeros(here.size)))
    return passes


def _nothing(found: Convexity) -> None:
    """Without bounds nothing is said that follows from them."""
    numbers = ("paper_bound", "sharp_bound", "data_bound", "covering_decay",
               "paper_covering_decay", "lowest_minimum")  # fmt: skip
    for name in numbers:
        require(math.isnan(getattr(found, name)), f"its {name} has no reason")
    for name in ("in_region", "in_sharp_region", "in_data_region", "biased"):
        require(getattr(found, name) is None, f"its {name} has no reason")
    require(found.hidden_layers == -1, "its hidden_layers has no reason")
    require(not found.linear, "its network is not known to be linear")


def _bounds(found: Convexity, passes: Passes, widest: Passes) -> None:
    """The three numbers by their definition, their order, and the regions.

    Between those for the fewest switching values that count as zero and for the most.
    """
    exact, sizes, most = excesses(passes), _sizes(passes), excesses(widest)
    stated = (found.paper_bound, found.sharp_bound, found.data_bound)
    for (name, excess), bound in zip(exact.items(), stated, strict=True):
        value = found.weight_decay - excess
        rounding = (
            SAME * excess + 4 * passes.additions * EPS * (sizes[name] + found.weight_decay) + TINY
        )
        low = found.weight_decay - most[name]
        if name == "data":  # the sharper bound holds, too
            low, value = max(low, stated[1]), max(value, stated[1])
        near = low - rounding <= bound <= value + rounding
        require(near, f"its {name}_bound is {value:.6g}")
    ordered = stated[0] <= stated[1] <= stated[2] <= found.exact + abs(found.error)
    require(ordered or found.active_kinks > 0, "its bounds are in another order")
    regions = (found.in_region, found.in_sharp_region, found.in_data_region)
    for region, bound in zip(regions, stated, strict=True):
        require(region == (bound > 0), "it lies in other regions than its bounds say")


def _sizes(passes: Passes) -> dict[str, float]:
    """What the rounding errors of the three excesses are in proportion to.

    The outputs' errors change probabilities, and with them slopes, in proportion to these.
    """
    sizes = absolute(passes, passing=True)
    found, more = excesses(sizes), sizes.softened() - 1.0
    if not more:
        return found
    slopes = excesses(replace(sizes, given=np.abs(passes.slopes())))
    return {name: size + more * slopes[name] for name, size in found.items()}


def _coverage(found: Convexity, passes: Passes, features: Floats, zero: float) -> None:
    """The weight decays that cover minimisers, and the loss below which there are none."""
    covers(found.covering_decay, found.paper_covering_decay, passes, features, zero)
    applies = len(passes.moving) > 1 and not found.biased and found.weight_decay > 0
    if not applies:
        require(math.isnan(found.lowest_minimum), "its lowest_minimum has no reason")
        return
    no_minimum_below(found.lowest_minimum, found.weight_decay, passes, features)


# ---- from above: the eigenvalue ----------------------------------------------------------------

Product = Callable[[Floats], Floats]


def _eigenvalue(found: Convexity, here: Landscape, passes: Passes | None) -> bool:
    """The direction has that curvature and that residual; whether no smaller one was proved."""
    known = found.method in ("dense", "lanczos")
    require(known, f"the eigenvalue was found by no known method: {found.method!r}")
    require(found.error >= 0.0 and math.isfinite(found.exact), "its numbers are none")
    v = found.direction
    require(abs(float(v @ v) - 1.0) <= SAME, "its direction is not of length one")
    product, slack = _product(here, passes)
    image = product(v)
    value = float(v @ image)
    require(abs(value - found.exact) <= slack, f"its direction has curvature {value:.6g}")
    residual = float(np.linalg.norm(image - found.exact * v))
    allowed = found.error + 2.0 * slack
    require(residual <= allowed, f"its direction is off an eigenvector by {residual:.2g}")
    if found.method == "lanczos" or math.isinf(found.error) or not _repeatable(here):
        return False
    _smallest(found, product, slack)
    return True


def _repeatable(here: Landscape) -> bool:
    """Whether the whole Hessian is formed again."""
    return here.size <= MAX_SIZE and float(here.size) ** 2 * here.num_samples <= MAX_WORK


def _smallest(found: Convexity, product: Product, slack: float) -> None:
    """No eigenvalue is smaller than stated: what is left is positive definite.

    A larger error than need be is a weaker claim, and as true.
    """
    size = found.direction.size
    hessian = np.array([product(row) for row in np.eye(size)])
    hessian = 0.5 * (hessian + hessian.T)
    largest = float(np.linalg.norm(hessian))
    rounding = TOLERANCES.eigenvalue * size * EPS * largest
    shift = found.exact - found.error - 2.0 * (slack + rounding) - TINY
    try:
        np.linalg.cholesky(hessian - shift * np.eye(size))
    except np.linalg.LinAlgError:
        raise RejectedError("an eigenvalue is smaller than it says") from None


def _product(here: Landscape, passes: Passes | None) -> tuple[Product, float]:
    """Products with the Hessian, and what rounding may add to their lengths for unit vectors.

    In NumPy; PyTorch differentiates what is not read, and where a switching value is zero to rounding:
    there the sign that it computes is that which was frozen.
    """
    rounding = 0.0 if passes is None else _rounding(here, passes)
    if passes is not None and not passes.zeros[1]:
        return ByHand.of(here, passes), rounding
    image = _by_pytorch(here, np.random.default_rng(0).normal(size=here.size))
    typical = float(np.linalg.norm(image))
    return lambda v: _by_pytorch(here, v), TOLERANCES.independence * typical + rounding


def _rounding(here: Landscape, passes: Passes) -> float:
    """By how much rounding may change the Hessian: the sums of absolute terms are its own of others."""
    sizes = absolute(passes)
    sums = replace(ByHand.of(here, passes), passes=sizes)(np.ones(here.size))  # of each row
    return passes.additions * EPS * sizes.softened() * float(sums.max())  # no eigenvalue is larger


@dataclass(frozen=True, slots=True)
class ByHand:
    """Products with the Hessian, weight decay included, by `second_derivative`."""

    passes: Passes
    places: tuple[NDArray[np.intp], ...]
    decay: float

    @classmethod
    def of(cls, here: Landscape, passes: Passes) -> ByHand:
        """Of a network that is read completely; fixed layers have no places in theta."""
        none = np.zeros(0, dtype=np.intp)
        parts = zip(unfolded(here).network.affine, passes.movable, strict=True)
        places = tuple(here.positions(one.name) if moves else none for one, moves in parts)
        return cls(passes, places, here.weight_decay)

    def __call__(self, vector: Floats) -> Floats:
        """The Hessian times a vector."""
        moves = [self._move(k, vector[place]) for k, place in enumerate(self.places)]
        found = self.decay * vector
        for k, (change, shift) in enumerate(second_derivative(self.passes, moves)):
            if self.passes.movable[k]:
                flat = np.diag(change) if self.passes.diagonal[k] else change.ravel()
                found[self.places[k]] += np.concatenate([flat, *([] if shift is None else [shift])])
        return found

    def _move(self, k: int, part: Floats) -> tuple[Floats, Floats | None]:
        """X_k and x_k."""
        weight, bias = self.passes.weights[k], self.passes.biases[k]
        if not self.passes.movable[k]:
            return np.zeros_like(weight), None
        size = len(weight) if self.passes.diagonal[k] else weight.size
        flat = part[:size]
        change = np.diag(flat) if self.passes.diagonal[k] else flat.reshape(weight.shape)
        return change, None if bias is None else part[size:]


def _by_pytorch(here: Landscape, vector: Floats) -> Floats:
    """The same by PyTorch's own function, some samples at a time."""
    found = np.zeros(here.size)
    for start in range(0, here.num_samples, SAMPLES):
        flat, objective = here.flat_objective(rows=slice(start, start + SAMPLES))
        moved = torch.from_numpy(vector).to(flat.device)
        try:
            found += torch.autograd.functional.vhp(objective, flat, moved)[1].cpu().numpy()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            text = str(error).splitlines()[0][:120]
            raise InputError(f"the model has no second derivative: {text}") from error
    return found
