"""`cell_minimum`: whether an activation cell holds a genuine minimum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reluscape.block import Block
from reluscape.errors import InputError, UnsupportedModelError
from reluscape.landscape import Landscape
from reluscape.minima.blocks import block_minimum, settled
from reluscape.minima.check import block_distance, checked, unit_distance
from reluscape.minima.closed import Closed
from reluscape.minima.depth import LEFT_OPEN, depth_left
from reluscape.minima.frozen_cell import FrozenCell
from reluscape.minima.lower import with_lower_loss
from reluscape.minima.programs import NEAREST, Programs
from reluscape.minima.readouts import readout_minimum
from reluscape.minima.result import SIGNS, CellMinimum, Infeasibility, Signs
from reluscape.minima.signs import Watch, Witness, roots_of, search
from reluscape.minima.told import SAME, loss_size
from reluscape.minima.units import Leaf, Units, samples_of
from reluscape.nearby import in_theta_order
from reluscape.network import Affine, Rectifier
from reluscape.progress import Progress
from reluscape.tolerances import TOLERANCES
from reluscape.validation import check_theta, check_told
from reluscape.validation import check_whole as check_whole_number

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

#: Margin of a closed form's minimum from which it is beyond rounding.
CLEAR = 1e-10


def cell_minimum(
    landscape_or_block: Landscape | Block,
    theta: ArrayLike | None = None,
    *,
    signs: Signs = "free",
    search: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> CellMinimum:
    """Find out whether the loss attains its minimum over an activation cell inside it.

    With the pattern of a point frozen the loss is a convex function of what is asked about, on the whole
    space. The cell holds a **genuine** minimum if some minimiser of that function lies in the open cell;
    that one is a local minimum of the network's loss, and without one the cell holds no differentiable
    local minimum.

    Of a **landscape** (one hidden layer, one output, squared loss) it asks about the first layer and the
    output weights z together; an output bias is held fixed. The loss is `1/N sum (f_i - y_i)^2` with
    `f_i = sum_j D_ij R_j . x_i`, D the frozen slopes, and convex in `R_j = z_j w_j`. Minimisers are
    inside the cell if for each unit j there is a sign s_j with `s_j R_j . x_i > 0` where unit j is active
    on sample i, and `< 0` where it is not. The signs that are allowed decide the answer: those that the
    published tables allow are "uniform"; the question about the cell itself is "free", because z may
    change its sign without crossing a kink.

    Of a **block** it asks about that layer alone, in a network of any depth with any number of outputs,
    for squared, L1 and cross-entropy loss; the cell is then that of the hidden kinks, not of the L1
    loss's residuals.

    Args:
        landscape_or_block: Without weight decay.
        theta: The point whose cell it is; default: the model's own. Kinks that are zero there count as
            negative (`active` says how many).
        signs: Signs that the output weights may have: "free" any, "given" the point's own, "uniform" all
            positive or all negative. Does not apply to a block.
        search: How many descents look for a lower loss where a minimum is found of which it is not known
            whether it is a bad one; without any, only a bad minimum beside a perfect fit is called one.
        seed: Of the search.
        progress: Told what is being done and the fraction done (NaN: nobody knows). Where it raises
            `reluscape.progress.Stop`, the answer is left open.

    Returns:
        The answer with what shows it: weights inside the cell at which the gradient vanishes, or for each
        part of the sign choices a Farkas vector (`Infeasibility`). `verify` checks both without a solver.
        `genuine` is None where the search over signs is given up or stopped, or rounding leaves it
        open. A minimum is bad only where weights of lower loss are found, which are returned.

    Cost:
        Independent inputs (rank X = the number of distinct ones): O(N K) and one Cholesky factor of their
        Gram matrix for each data set; else singular value decompositions of N x rank X for each pattern,
        and linear programs in as many variables as the minimisers leave free. Over free signs up to 2^K
        parts, few in practice. A block: one decomposition of (N outputs) x (units rank X). The search:
        up to 300 forward and backward passes for each descent, some 40 ms for 2,000 samples and 10 units.

    Guarantees:
        A positive answer rests on a forward and a backward pass: same pattern, gradient zero within the
        rounding bounds of its terms. A negative one leaves a minimiser at most `margin` of its length,
        which is rounding. `kind` is computed in float64 (numerical rank) and not part of the proof.

    Raises:
        InputError: Weight decay, an unknown convention, output weights of zero under "given", a theta of
            the wrong shape.
        UnsupportedModelError: A landscape with other than one hidden layer or one output.

    Source:
        Liu, Understanding global loss landscape of one-hidden-layer ReLU networks, part 2, sections II
        and IV; the sign conventions, the closed form and blocks are ours.

    Example:
        >>> import numpy as np
        >>> from torch import nn
        >>> import reluscape as rs
        >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
        >>> _ = [nn.init.constant_(p, 0.5) for p in model.parameters()]
        >>> landscape = rs.Landscape(model, np.array([[1.0], [2.0]]), np.array([1.0, 1.0]))
        >>> found = rs.cell_minimum(landscape)  # f = R x with R = 0.6 fits best, and R > 0 is the cell
        >>> found.genuine, found.kind, round(found.loss, 6)
        (True, 'unique', 0.1)
        >>> rs.verify(found, landscape).valid
        True
    """
    if signs not in SIGNS:
        raise InputError(f"signs must be one of {', '.join(SIGNS)}; received {signs!r}")
    check_told(progress, "progress")
    starts = check_whole_number(search, "search", 0)
    seed = check_whole_number(seed, "seed", 0)
    if isinstance(landscape_or_block, Landscape):
        landscape = landscape_or_block
        start = landscape.theta if theta is None else check_theta(theta, landscape.size)
        found = _of_landscape(landscape, start, signs, progress)
        return with_lower_loss(found, landscape, starts, seed)
    if isinstance(landscape_or_block, Block):
        block = landscape_or_block
        return with_lower_loss(_of_block(block, block.check(theta), progress), block, starts, seed)
    raise InputError(
        f"cell_minimum needs a Landscape or a Block; received {type(landscape_or_block).__name__}"
    )


def _of_block(block: Block, start: Floats, progress: Progress | None) -> CellMinimum:
    """One layer, by units where a single rectifier and output follow it."""
    if block.landscape.weight_decay > 0:
        raise InputError(
            "cell_minimum needs a landscape without weight decay; received"
            f" weight_decay={block.landscape.weight_decay:g}"
        )
    found = readout_minimum(block, start, progress) or block_minimum(block, start, progress)
    return _sound(found, block.landscape)


def _of_landscape(
    landscape: Landscape, start: Floats, signs: Signs, progress: Progress | None
) -> CellMinimum:
    """The first layer and the output weights of a one-hidden-layer network."""
    places = _Places.of(landscape)
    units, _ = places.units(start)
    if signs == "given" and not units.outputs.all():
        zero = ", ".join(map(str, np.flatnonzero(units.outputs == 0)))
        raise InputError(
            f"signs='given' needs output weights that are not zero; received zero for unit {zero}:"
            " use signs='free'"
        )
    watch = Watch(progress)
    route = Closed.of(units) or Programs.of(units, free=signs == "free", watch=watch)
    found = _answer(landscape, start, signs, places, route, watch)
    if found.genuine is None and isinstance(route, Programs) and found.method == NEAREST:
        found = _answer(landscape, start, signs, places, replace(route, near=False), watch)
    return found


def _answer(
    landscape: Landscape,
    start: Floats,
    signs: Signs,
    places: _Places,
    route: Closed | Programs,
    watch: Watch,
) -> CellMinimum:
    """What one route finds, as far as the check accepts it."""
    units, active = places.units(start)
    witness, leaves, parts = search(roots_of(signs, units.outputs), route.test, watch)
    theta = None if witness is None else places.theta(start, witness, units.samples.sizes)
    infeasibility = places.infeasibility(leaves, units) if leaves else None
    margin = places.margin(start, theta, infeasibility)
    genuine = True if theta is not None else False if margin <= LEFT_OPEN else None
    found = CellMinimum(
        genuine=genuine,
        kind=units.kind(route.rank),
        loss=places.loss_of(units.plain(route.squares) + units.rest),
        bad=None,
        theta=theta,
        signs=None if witness is None else witness.signs,
        method=route.method(witness, leaves, parts),
        infeasibility=infeasibility,
        margin=margin,
        convention=signs,
        layer=None,
        objective=landscape.loss_name,
        start=start,
        active=active,
    )
    judged = _judged(found, places, units)
    if judged.genuine is False and not route.clear:
        return checked(judged, landscape)
    return _sound(judged, landscape)


def _sound(found: CellMinimum, landscape: Landscape) -> CellMinimum:
    """The answer as far as `verify` will accept it, with a reason where it is open.

    Closed forms solve their equations to the last bits, and a network without a minimum comes with the
    margin that `verify` computes: these are not gone through twice. Minimisers that a program has found
    far out are settled where they do not pass.
    """
    if found.genuine is None:
        return replace(found, reason=_why_open(found))
    solved = found.method == "closed form" and (not found.genuine or found.margin > CLEAR)
    if solved or (found.layer is None and not found.genuine):
        return found
    first = checked(found, landscape)
    if first.genuine or not found.genuine or found.objective not in ("squared", "half_squared"):
        return first
    again = _settled(found, landscape)
    return first if again is None else checked(again, landscape)


def _settled(found: CellMinimum, landscape: Landscape) -> CellMinimum | None:
    """The minimum at weights whose residuals are as small as their rounding lets them be."""
    assert found.theta is not None
    name = landscape.layers[0] if found.layer is None else found.layer
    places = slice(None) if found.layer is not None else landscape.positions(name)
    whole = landscape.theta
    whole[landscape.positions(name) if found.layer is not None else slice(None)] = found.theta
    block, theta = landscape.at(whole).block(name), found.theta.copy()
    moved = settled(block, theta[places])
    if moved is None:
        return None
    theta[places] = moved
    cell = FrozenCell.of(block, block.pattern(block.theta))
    margin = (
        unit_distance(block, moved) if found.layer is None else block_distance(block, moved, cell)
    )
    return replace(found, theta=theta, margin=margin)


def _why_open(found: CellMinimum) -> str:
    """What is missing for an answer."""
    if found.infeasibility is None:
        many = "there are too many sign choices, or " if found.layer is None else ""
        return f"{many}it was stopped"
    if found.margin > LEFT_OPEN:
        return (
            f"its proof leaves minimisers inside {found.margin:.2g} of their length, not rounding"
        )
    return f"its proof is silent beyond {found.reach:.2g} times the length of a known minimiser"


def _judged(found: CellMinimum, places: _Places, units: Units) -> CellMinimum:
    """Say whether the minimum is a bad one, if it can be said."""
    if found.genuine is None:
        return found
    above = found.loss - places.loss_of(units.rest)
    if not found.genuine or above <= places.loss_of(units.negligible):
        return replace(found, bad=False)
    better = places.fitted(found.start, units)
    loss = float("nan") if better is None else places.loss(better)
    if better is None or not loss < found.loss - SAME * loss_size(places.block):
        return found
    return replace(found, bad=True, better=better, better_loss=loss)


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the parts of a one-hidden-layer network are among its landscape's parameters.

    Attributes:
        landscape: The landscape.
        block: Its first layer.
        weights: Of the first layer's units, the bias last (units, params).
        outputs: Of the output weights (units,).
        bias: Of the output bias (1,), or empty.
    """

    landscape: Landscape
    block: Block
    weights: Indices
    outputs: Indices
    bias: Indices

    @classmethod
    def of(cls, landscape: Landscape) -> _Places:
        """Find them, or say what the landscape lacks."""
        check_whole(landscape)
        block = landscape.block(0)
        first, last = (landscape.positions(name) for name in landscape.layers)
        units = block.piecewise.width
        inputs = block.piecewise.features.shape[1]
        weights = first[: units * inputs].reshape(units, inputs)
        if block.piecewise.bias:
            weights = np.hstack([weights, first[units * inputs :, None]])
        return cls(landscape, block, weights, last[:units], last[units:])

    def units(self, start: Floats) -> tuple[Units, int]:
        """The cell of a point, and the number of kinks that are zero there."""
        samples, piecewise = samples_of(self.landscape), self.block.piecewise
        values = self.block.kinks(start[self.weights_in_order])
        values = values.reshape(piecewise.num_samples, -1)
        targets = np.asarray(piecewise.targets, dtype=np.float64)[:, 0]
        means, rest = samples.means(targets - start[self.bias].sum())
        bounds = piecewise.rounding_bounds(start[self.weights_in_order], TOLERANCES.rounding)[0]
        active = (np.abs(values).ravel() <= bounds).reshape(values.shape)[samples.group >= 0]
        units = Units(
            samples=samples,
            targets=means,
            rest=rest,
            pattern=values[samples.rows] > 0,
            weights=start[self.weights] * samples.sizes,
            outputs=start[self.outputs],
            slope=piecewise.slopes[0],
        )
        return units, int(active.sum())

    @property
    def weights_in_order(self) -> Indices:
        """The first layer's parameters as its block has them."""
        return self.landscape.positions(self.landscape.layers[0])

    def theta(self, start: Floats, witness: Witness, sizes: Floats) -> Floats:
        """The landscape's parameters at a witness; output weights keep their sizes."""
        theta = start.copy()
        amounts = np.abs(start[self.outputs])
        theta[self.outputs] = witness.signs * np.where(amounts > 0, amounts, 1.0)
        theta[self.weights] = witness.weights / sizes / theta[self.outputs][:, None]
        return theta

    def fitted(self, start: Floats, units: Units) -> Floats | None:
        """Weights that fit every distinct input's mean target, where these are independent."""
        count = len(units.outputs)
        everywhere = replace(units, pattern=np.ones_like(units.pattern))
        closed = Closed.of(everywhere)
        if closed is None or count < 2:
            return None
        signs = np.where(np.arange(count) % 2, -1, 1).astype(np.int8)
        return self.theta(start, closed.witness(signs), units.samples.sizes)

    def loss(self, theta: Floats) -> float:
        """The loss at any of the landscape's parameters."""
        piecewise = self.block.piecewise
        values = self.block.kinks(theta[self.weights_in_order]).reshape(piecewise.num_samples, -1)
        hidden = np.where(values > 0, values, piecewise.slopes[0] * values)
        outputs = hidden @ theta[self.outputs] + theta[self.bias].sum()
        return self.loss_of(float(((outputs - np.asarray(piecewise.targets)[:, 0]) ** 2).sum()))

    def loss_of(self, squares: float) -> float:
        """The loss with this sum of squared residuals."""
        factor = 0.5 if self.landscape.loss_name == "half_squared" else 1.0
        return factor * squares / self.landscape.num_samples

    def infeasibility(self, leaves: Sequence[Leaf], units: Units) -> Infeasibility:
        """The leaves for all samples, in the block's own columns."""
        samples, count, bias = units.samples, len(units.outputs), self.block.piecewise.bias
        part, kink, weight = [], [], []
        for number, leaf in enumerate(leaves):
            rows, columns = np.nonzero(leaf.weights)
            part.append(np.full(len(rows), number))
            kink.append(samples.rows[rows] * count + columns)
            weight.append(leaf.weights[rows, columns])
        return Infeasibility(
            signs=np.array([leaf.signs for leaf in leaves], dtype=np.int8),
            outputs=np.array([samples.spread(leaf.outputs / samples.counts) for leaf in leaves]),
            directions=np.array(
                [in_theta_order(leaf.directions / samples.sizes, bias=bias) for leaf in leaves]
            ),
            part=np.concatenate(part),
            kink=np.concatenate(kink),
            weight=np.concatenate(weight),
            turns=np.array(
                [leaf.turns for leaf in leaves if leaf.turns is not None], dtype=np.int64
            ),
        )

    def margin(
        self, start: Floats, theta: Floats | None, infeasibility: Infeasibility | None
    ) -> float:
        """`CellMinimum.margin`."""
        if theta is not None:
            return unit_distance(self.block, theta[self.weights_in_order])
        if infeasibility is None:
            return float("nan")
        pattern = self.block.pattern(start[self.weights_in_order])
        return depth_left(
            infeasibility, FrozenCell.of(self.block, pattern).summed(start[self.bias])
        ).depth


def check_whole(landscape: Landscape) -> None:
    """Refuse landscapes that are not convex in R on a cell."""
    if landscape.loss_name not in ("squared", "half_squared") or landscape.weight_decay > 0:
        raise InputError(
            "cell_minimum of a whole landscape needs loss='squared' or 'half_squared' and no weight"
            f" decay; received loss={landscape.loss_name!r} and"
            f" weight_decay={landscape.weight_decay:g}: pass a block instead, landscape.block(0)"
        )
    network = None if landscape.reading is None else landscape.reading.network
    kinds = [] if network is None else [type(layer) for layer in network.layers]
    whole = landscape.reading is not None and not landscape.reading.opaque
    if kinds != [Affine, Rectifier, Affine] or not whole or landscape.targets.shape[1] != 1:
        raise UnsupportedModelError(
            "cell_minimum of a whole landscape needs one hidden layer, Linear, ReLU, Linear, and one"
            f" output; received layers {', '.join(map(repr, landscape.layers)) or 'none'} and"
            f" {landscape.targets.shape[1]} outputs: pass a block instead, landscape.block(layer)"
        )
