"""How convex the loss is on the piece that a point stands in: certified bounds beside the exact value."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from reluscape.coverage import covering_decay, paper_decay, settings_of, smallest_minimum
from reluscape.curvature import chain_of, curvature_bounds
from reluscape.digits import rounded_down, rounded_up
from reluscape.errors import AnalysisError, InputError, UnsupportedModelError
from reluscape.hessian import HessianProduct, LeastEigenvalue, least_eigenvalue
from reluscape.hessian_error import entries_error, entries_estimate
from reluscape.kinks import kinks_at
from reluscape.landscape import Landscape, check_landscape
from reluscape.losses import make_loss
from reluscape.network import Rectifier, Scale
from reluscape.results import Result
from reluscape.tolerances import TOLERANCES
from reluscape.unfolded import unfolded
from reluscape.validation import check_whole

__all__ = ["Convexity", "convexity", "curvature_bounds", "why_unbounded"]

Floats = NDArray[np.float64]
NAN = float("nan")
#: The four numbers, weakest first, and what they are called.
NAMES = {
    "paper_bound": "paper's bound",
    "sharp_bound": "sharper bound",
    "data_bound": "data's bound",
    "exact": "exact value",
}


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Convexity(Result):
    """Lower bounds on the smallest eigenvalue of the frozen-switch Hessian, and that eigenvalue.

    A positive one means that near the point the loss with its weight decay is strongly convex, with that
    constant, on the piece of parameter space on which no switch changes: `paper_bound <= sharp_bound <=
    data_bound <= exact`, the last within `error`. The bounds are certified: rounding errors are on their
    safe side, to first order. Whether the piece holds a minimum is another question (`cell_minimum`).

    At active kinks several pieces meet. The bounds hold on each of them. The exact value is that of
    one choice of the kinks' signs, which need not even be a piece's, and decides nothing.

    Attributes:
        paper_bound: Milne's, as extended in `reluscape.curvature`; NaN, like the next two, where the
            network is not read completely, see `reason`.
        sharp_bound: With the norms of all layers.
        data_bound: With each sample's activations and slopes.
        exact: The smallest eigenvalue: for method "dense" within `error`; for "lanczos" never below it
            but for rounding, an estimate from above and not certified.
        error: Dense: bound on the eigensolver's error and on that of the Hessian's entries, to first
            order; the latter an estimate where the network is not read completely. Lanczos: the
            residual |H v - exact v|, and both.
        method: "dense" or "lanczos".
        in_region: Whether the point lies in the paper's region U(lambda, 0), where `paper_bound > 0`;
            None without a bound.
        in_sharp_region: The same for `sharp_bound`.
        in_data_region: The same for `data_bound`.
        covering_decay: Weight decay above which every global minimiser lies in the region of
            `data_bound`, from the targets and the samples' lengths alone; NaN without bounds.
        paper_covering_decay: The paper's, for its own region.
        lowest_minimum: No local minimum other than zero weights has a loss (with decay) below this, of a
            network without biases; infinite where there is none at all, NaN where that does not
            apply. Where it does, the regions hold none.
        linear: Whether no rectifier bends anything: then there is one piece only.
        biased: Whether a layer has a bias; None where the network is not read.
        hidden_layers: H, where the parameters of a batch norm count as a layer; -1 where the network is
            not read.
        active_kinks: Switching values that are zero to rounding at the point; where the network is not
            read completely, those of `nn.ReLU`, `nn.LeakyReLU` and their functions that a change of the
            weights in their last digits switches.
        kinks_checked: Whether these are all kinks; False where the network is not read completely.
        weight_decay: lambda.
        loss: The loss at the point, with its decay.
        objective: The landscape's loss, "squared" and so on.
        theta: The point, shape (params,).
        direction: v of length one with `v^T H v = exact`: by one product with the Hessian `verify` sees
            that no more than `exact` is the smallest eigenvalue, shape (params,).
        reason: Why there are no bounds; empty where there are.
    """

    paper_bound: float
    sharp_bound: float
    data_bound: float
    exact: float
    error: float
    method: str
    in_region: bool | None
    in_sharp_region: bool | None
    in_data_region: bool | None
    covering_decay: float
    paper_covering_decay: float
    lowest_minimum: float
    linear: bool
    biased: bool | None
    hidden_layers: int
    active_kinks: int
    kinks_checked: bool
    weight_decay: float
    loss: float
    objective: str
    theta: Floats
    direction: Floats
    reason: str = ""

    @property
    def is_convex(self) -> bool | None:
        """Whether the loss is strongly convex at the point with its switches frozen; None if undecided.

        Decided by a certified bound, or by the exact value: its sign if it is larger than the error. A
        negative Rayleigh quotient shows that it is not, a positive one of Lanczos shows nothing. At
        active kinks only the bound decides, then for all pieces that meet there.
        """
        if self.in_data_region:
            return True
        if self.active_kinks > 0:
            return None
        if self.exact < -self.error:
            return False
        return True if self.method == "dense" and self.exact > self.error else None

    def summary(self) -> str:
        """The verdict, the four numbers, and what they are known to imply."""
        return "\n".join([self.sentence(), *(f"  {line}" for line in self.details())])

    def sentence(self) -> str:
        """Whether the loss is convex here, in one line."""
        where = "everywhere on its one piece" if self.linear and not self.hidden_layers else "here"
        if self.is_convex is None:
            return (
                "undecided: whether the loss is strongly convex at this point, its switches frozen"
            )
        told = "strongly convex" if self.is_convex else "not convex"
        return f"with its switches frozen, the loss is {told} {where}"

    def details(self) -> list[str]:
        """Further lines of the summary."""
        return [*self._numbers(), *self.remarks()]

    def _numbers(self) -> list[str]:
        lines = []
        for name, label in NAMES.items():
            value = getattr(self, name)
            if not math.isnan(value):
                exact = name == "exact"
                shown, note = (value, self._how()) if exact else (rounded_down(value), "certified")
                lines.append(f"{label}: {shown:.6g} ({note})")
        return lines

    def _how(self) -> str:
        if self.method == "dense":
            return f"within {self.error:.1g}"
        return f"Lanczos, an estimate from above; residual {self.error:.1g}"

    def remarks(self) -> list[str]:
        """What else is known, a sentence each."""
        lines = [f"no bounds: {self.reason}"] if self.reason else []
        if not self.reason and self.hidden_layers:
            data, paper = map(rounded_up, (self.covering_decay, self.paper_covering_decay))
            lines.append(
                f"above a weight decay of {data:.6g} (here {self.weight_decay:.6g}) all global minimisers"
                f" lie where the data's bound is positive, above {paper:.6g} where the paper's is"
            )
        if not math.isnan(self.lowest_minimum):
            lines += self._without_biases()
        if self.active_kinks > 0:
            lines.append(self._about_kinks())
        if not self.kinks_checked:
            lines.append(
                "the model is not read completely: kinks other than rectifiers' may be active"
            )
        return lines

    def _about_kinks(self) -> str:
        kinks = "1 kink is" if self.active_kinks == 1 else f"{self.active_kinks} kinks are"
        held = "" if self.reason else "the bounds hold on every piece that meets here, "
        return (
            f"{kinks} zero to rounding: {held}the exact value is that of one choice of their signs"
        )

    def _without_biases(self) -> list[str]:
        what = "critical point" if self.linear else "local minimum"
        if math.isinf(self.lowest_minimum):
            return [f"without biases, there is no {what} but zero"]
        least = rounded_down(self.lowest_minimum)
        lines = [f"without biases, no {what} but zero has a loss below {least:.6g}"]
        if self.in_data_region:
            lines.append(f"nor is there one in these regions: unless zero, this point is no {what}")
        return lines

    def plot(self) -> go.Figure:
        """How far each number lies below the weight decay, on a logarithmic axis."""
        shown = [(label, self.weight_decay - getattr(self, name)) for name, label in NAMES.items()]
        shown = [(label, gap) for label, gap in shown if gap > 0]
        figure = go.Figure(
            go.Scatter(x=[gap for _, gap in shown], y=[label for label, _ in shown], mode="markers")
        )
        if self.weight_decay > 0:
            figure.add_vline(x=self.weight_decay, line_dash="dash")
        title = "weight decay minus eigenvalue; left of the dashed line convex"
        return figure.update_xaxes(type="log", title=title)


def convexity(
    landscape: Landscape,
    theta: ArrayLike | None = None,
    *,
    seed: int = 0,
    max_dense: int = TOLERANCES.max_dense,
) -> Convexity:
    """Bound and compute the smallest eigenvalue of the frozen-switch Hessian.

    The three bounds need a network that is read completely as affine layers, batch norms in eval mode and
    rectifiers; the exact value takes any module. See `reluscape.curvature` and `reluscape.coverage` for
    the mathematics.

    Args:
        landscape: Any loss but L1.
        theta: All parameters, shape (params,); default: the model's own.
        seed: Of the vector that Lanczos starts from.
        max_dense: Up to so many parameters the whole Hessian is formed; beyond, Lanczos takes over.

    Returns:
        The numbers side by side. Cost: singular values of the layers and a few passes; for the whole
        Hessian as many second backward passes as parameters, for Lanczos some hundreds.

    Raises:
        InputError: An L1 loss, whose curvature is that of its weight decay alone: its kinks bend it,
            and `certify` and `descend` take those. A point of the wrong shape.
        AnalysisError: Lanczos does not converge, or the Hessian is not finite.

    Example:
        >>> import numpy as np
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
        >>> x = np.array([[1.0]])  # l = (w v - 1)^2 / 2 + (w^2 + v^2) / 2, residual -1/4 here
        >>> at = Landscape(net, x, x, loss="half_squared", weight_decay=1.0)
        >>> found = convexity(at, [1.0, 0.75])
        >>> round(found.paper_bound, 6), round(found.sharp_bound, 6)
        (0.5, 0.75)

    Reference: Milne, Piecewise strong convexity of neural networks (2019), Lemma 3 and Theorem 4.
    """
    check_landscape(landscape, "convexity")
    check_whole(seed, "seed", 0)
    check_whole(max_dense, "max_dense", 0)
    if landscape.loss_name == "l1":
        raise InputError(
            "expected a loss with curvature; an L1 loss is affine on every piece, so that its Hessian is"
            " that of the weight decay and says nothing of its kinks: use certify, or another loss"
        )
    here = landscape if theta is None else landscape.at(theta)
    reason = why_unbounded(here)
    least = _least(here, not reason, seed, max_dense)
    known = _NO_BOUNDS if reason else _bounded(here)
    active, checked = kinks_at(here)
    return Convexity(
        exact=least.value,
        error=least.error,
        method=least.method,
        active_kinks=active,
        kinks_checked=checked,
        weight_decay=here.weight_decay,
        loss=here.loss(),
        objective=here.loss_name,
        theta=here.theta,
        direction=least.direction,
        reason=reason,
        **known,
    )


def why_unbounded(landscape: Landscape) -> str:
    """Why a network's curvature cannot be bounded by its layers' norms; empty where it can."""
    reading = landscape.reading
    if reading is None:
        return str(landscape.unreadable)
    names = [layer.name for layer in reading.network.layers if not isinstance(layer, Rectifier)]
    shared = [name for name in names if landscape.is_shared(name)]
    if shared or len(set(names)) < len(names):
        return f"layers share weights: {', '.join(map(repr, shared or names))}"
    free = {layer.name for layer in reading.network.layers if isinstance(layer, Scale)}
    free -= {name for name in free if landscape.has_parameters(name)}
    try:
        read = sum(len(landscape.positions(name)) for name in names if name not in free)
    except UnsupportedModelError as error:
        return str(error)
    if read < landscape.size:
        before = f": {reading.reason}" if reading.reason else ""
        return f"{landscape.size - read} parameters lie outside the affine layers that are read{before}"
    return ""


_NO_BOUNDS: dict[str, Any] = {
    **dict.fromkeys(("paper_bound", "sharp_bound", "data_bound"), NAN),
    **dict.fromkeys(("in_region", "in_sharp_region", "in_data_region", "biased"), None),
    **dict.fromkeys(("covering_decay", "paper_covering_decay", "lowest_minimum"), NAN),
    **{"linear": False, "hidden_layers": -1},
}


def _bounded(here: Landscape) -> dict[str, Any]:
    """The bounds and what follows from them, by the names of the result's fields."""
    assert here.reading is not None
    found, features = unfolded(here), here.reading.features
    network, loss, decay = found.network, make_loss(here.loss_name), here.weight_decay
    chain = chain_of(network, found.movable)
    bounds = curvature_bounds(network, features, here.targets, loss, decay, chain)
    zero = loss.value(found.outputs_at_zero(len(features)), here.targets)
    settings = settings_of(chain, features, loss, zero)
    homogeneous = chain.hidden > 0 and not chain.biased
    return {
        "paper_bound": bounds.paper,
        "sharp_bound": bounds.sharp,
        "data_bound": bounds.data,
        "in_region": bounds.paper > 0,
        "in_sharp_region": bounds.sharp > 0,
        "in_data_region": bounds.data > 0,
        "covering_decay": min(map(covering_decay, settings)),
        "paper_covering_decay": paper_decay(settings[0]),
        "lowest_minimum": max(smallest_minimum(one, decay) for one in settings)
        if homogeneous and decay
        else NAN,
        "linear": chain.linear,
        "biased": chain.biased,
        "hidden_layers": chain.hidden,
    }


def _least(here: Landscape, read: bool, seed: int, max_dense: int) -> LeastEigenvalue:
    """The smallest eigenvalue; a Hessian that is not finite is told as such."""
    product = HessianProduct(here)
    least = least_eigenvalue(product, seed=seed, max_dense=max_dense)
    if not math.isfinite(least.value):
        raise AnalysisError("expected a finite Hessian; received NaN or infinite values")
    if read:
        entries = entries_error(here, unfolded(here).network, product.batch)
    else:
        entries = entries_estimate(here, least.direction, product.batch)
    return replace(least, error=least.error + entries)
