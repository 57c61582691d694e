"""The page of an exact descent: what it removed, along which paths, and the weights it leaves."""

from __future__ import annotations

import shlex

import numpy as np

from reluscape.certificate import Certificate
from reluscape.descent.polish import Ending, Leg, Polish
from reluscape.descent.result import MEANING, Status
from reluscape.report.about import About
from reluscape.report.charts import Series, trails
from reluscape.report.page import TIERS, fill
from reluscape.report.paths import paths_section
from reluscape.report.section import Cell, Figure, Section, Table
from reluscape.report.wording import (
    NONE,
    count,
    listed,
    number,
    several,
    share,
    tally,
    verdict_phrase,
)

RESULT_COLUMNS = (
    "layer",
    "removed",
    "now",
    "pivots",
    "descents",
    "loss before",
    "loss after",
    "certificate",
)
#: Layers whose paths are drawn: those that removed most.
DRAWN = 4
#: Fewest pivots of a descent that is drawn.
SHORT = 5
#: The loss spans this factor or more where its axis is logarithmic.
SPAN = 3.0
#: A fall below this share of the loss at the start is rounding.
ROUNDING = 1e-12
ENDINGS = {
    Ending.settled: "no layer's descent lowers the loss any more",
    Ending.max_pivots: "a layer's last descent used up the pivots that were allowed",
    Ending.max_sweeps: "the sweeps that were allowed are used up",
    Ending.interrupted: "it was interrupted",
    Ending.failed: "an error stopped it",
}


def render_polish(polish: Polish, about: About) -> str:
    """The page as a text: one HTML file with everything inside; all texts are escaped."""
    return fill(
        "descent.html.j2",
        sections=polish_sections(polish, about),
        polish=polish,
        about=about,
        overall=_verdict(polish),
        incomplete={
            Ending.interrupted: "The descent was interrupted.",
            Ending.failed: f"An error stopped the descent: {polish.failure}.",
        }.get(Ending(polish.ending), ""),
        tiers=TIERS,
    )


def polish_sections(polish: Polish, about: About) -> tuple[Section, ...]:
    """The sections in the order of the page; that on paths only where a descent took a step."""
    drawn = _drawn(polish)
    paths = (paths_section(drawn, about),) if drawn else ()
    return (_removed(polish, about), *paths, _weights(polish, about))


# ---- what was removed ----------------------------------------------------------------------------


def _removed(polish: Polish, about: About) -> Section:
    certified = [(layer, polish.certificates[layer]) for layer in polish.certificates]
    return Section(
        key="removed",
        title="What exact descent removed",
        verdict=_falls(polish, about),
        figures=_loss_figure(polish, about),
        tables=(_results(polish, about), _causes(polish, about)),
        method=(
            "The loss is the mean over samples of the absolute error, 1/N Σ|·|. With all other "
            "layers held fixed it is a continuous, piecewise-affine function of one layer's "
            "parameters. The descent goes along an edge of its pieces, past kinks as long as the "
            "loss keeps falling" + (", " if about.rule == "long_step" else " (here: to the first one), ")
            + "from vertex to vertex, until no edge falls. That is a pivot each; no step size is "
            "chosen and the loss never rises.",
            f"The layers were taken in turn, {several(polish.sweeps, 'sweep')} in all. It ended "
            f"because {ENDINGS[Ending(polish.ending)]}. A layer's minimum is one with all other "
            "layers held fixed: it need not be one of all layers at once, nor the lowest. Where "
            "other layers moved after a layer's last descent, its certificate tells what has "
            "become of it.",
            *(
                f"Layer {about.label(layer)}: {certificate.reason}"
                for layer, certificate in certified
                if certificate.reason
            ),
        ),
        check=(
            "Each certificate holds the claim, the point and the numbers that prove it. verify "
            "recomputes them from the raw weights and data and calls no solver; run it in the "
            "folder of this page. One that is undecided claims nothing; after an interruption there "
            "are none, and going on makes them.",
        ),
        commands=tuple(
            _command("verify", about.files[layer], about=about)
            for layer, _ in certified
            if layer in about.files
        ),
    )  # fmt: skip


def _command(verb: str, *arguments: str, about: About) -> str:
    """A command on the polished weights, to be run in the page's folder."""
    start = shlex.join(["reluscape", verb, *arguments, "--weights", about.weights])
    return f"{start} {about.options}".strip()


def _verdict(polish: Polish) -> str:
    """What was removed, and where every layer is now, in one sentence."""
    work = f"{several(polish.num_pivots, 'pivot')} over {several(len(polish.layers), 'layer')}"
    if polish.start == 0:
        fell = "The loss was 0 from the start, and there was nothing to remove"
    elif not polish.fall > ROUNDING:
        fell = f"Exact descent removed nothing of the loss, {number(polish.start)}, in {work}"
    else:
        before, after = _apart(polish.start, polish.loss)
        fell = (
            f"Exact descent lowered the loss from {before} to {after}, {share(polish.fall)} lower, "
            f"in {work}"
        )
        if polish.legs[-1].status == Status.perfect_fit:
            fell += "; it is now zero to rounding, and no loss is lower"
    if not polish.certificates:
        return f"{fell}; no layer has a certificate."
    found = [_phrase(certificate) for certificate in polish.certificates.values()]
    where = "the layer is now" if len(found) == 1 else "layer by layer it is now"
    return f"{fell}; {where}, with all else held fixed: {tally(found)}."


def _apart(start: float, loss: float) -> tuple[str, str]:
    """Two losses in three digits, or where those are the same in one more than tells them apart.

    What differs from the twelfth digit on is rounding.
    """
    for digits in range(3, 12):
        if number(start, digits) != number(loss, digits):
            digits += digits > 3
            return number(start, digits), number(loss, digits)
    return number(start), number(loss)


def _falls(polish: Polish, about: About) -> str:
    """What each layer's descents removed, and why it ended there."""
    told = [
        f"layer {about.label(layer)} {number(_removed_by(polish, layer))}"
        for layer in polish.layers
    ]
    why = ENDINGS[Ending(polish.ending)]
    return f"Removed by the descents of {listed(told)}. It ended because {why}."


def _removed_by(polish: Polish, layer: str) -> float:
    """Fall of the loss in all descents of a layer, rounding aside."""
    fall = sum(_fall(leg) for leg in polish.legs_of(layer))
    return fall if polish.start and fall > ROUNDING * polish.start else 0.0


def _fall(leg: Leg) -> float:
    """What one descent removed."""
    return float(leg.losses[0] - leg.losses[-1])


def _phrase(certificate: Certificate) -> str:
    """A certificate's claim with its tier."""
    phrase = verdict_phrase(certificate)
    return phrase if certificate.claim == "undecided" else f"{phrase} ({certificate.tier})"


def _loss_figure(polish: Polish, about: About) -> tuple[Figure, ...]:
    """The loss along all descents, a colour for each layer; none where nothing was removed."""
    if not any(_removed_by(polish, layer) for layer in polish.layers):
        return ()
    lines: dict[str, list[np.ndarray]] = {layer: [] for layer in polish.layers}
    before = 0
    for leg in polish.legs:
        places = before + np.arange(leg.num_pivots + 1)
        gap = np.full((2, 1), np.nan)
        lines[leg.layer] += [np.stack([places, leg.losses]), gap]
        before += leg.num_pivots
    series = [
        Series(f"layer {about.label(layer)}", *np.hstack(parts))
        for layer, parts in lines.items()
        if parts
    ]
    values = np.concatenate([leg.losses for leg in polish.legs])
    positive = values[values > 0]
    log = bool(positive.max(initial=0.0) > SPAN * positive.min(initial=np.inf))
    scale = ", on a logarithmic axis" if log else ""
    caption = (
        f"The loss along all descents, one after the other{scale}. The colour says which layer "
        "moves; the others stand still meanwhile."
    )
    return (Figure("descent-loss", caption, trails(series, "pivot", "loss", log=log)),)


def _results(polish: Polish, about: About) -> Table:
    rows = [_result(polish, about, layer) for layer in polish.layers]
    return Table("Every layer at the end", RESULT_COLUMNS, tuple(rows))


def _result(polish: Polish, about: About, layer: str) -> tuple[Cell, ...]:
    legs, certificate = polish.legs_of(layer), polish.certificates.get(layer)
    file = about.files.get(layer, "") if certificate else ""
    tier = certificate.tier if certificate and certificate.claim != "undecided" else ""
    ends = _apart(legs[0].losses[0], legs[-1].losses[-1]) if legs else (NONE, NONE)
    return (
        Cell(f"layer {about.label(layer)}"),
        Cell(number(_removed_by(polish, layer)), numeric=True),
        Cell(verdict_phrase(certificate), tier=tier),
        Cell(count(sum(leg.num_pivots for leg in legs)), numeric=True),
        Cell(count(len(legs)), numeric=True),
        *(Cell(end, numeric=True) for end in ends),
        Cell("JSON", file=file) if file else Cell(NONE),
    )


def _causes(polish: Polish, about: About) -> Table:
    """How each layer's last descent ended, and what it met that is degenerate."""
    rows = []
    for layer in polish.layers:
        legs = polish.legs_of(layer)
        if legs:
            status = legs[-1].status
            met = "; ".join(legs[-1].causes) or "nothing degenerate"
            why = (Cell(status.replace("_", " ")), Cell(MEANING[Status(status)]), Cell(met))
        else:
            why = (Cell(NONE), Cell("none was begun"), Cell(NONE))
        rows.append((Cell(f"layer {about.label(layer)}"), *why))
    caption = "How each layer's last descent ended, when the other layers stood as they did then"
    return Table(caption, ("layer", "status", "meaning and remedy", "what it met"), tuple(rows))


def _drawn(polish: Polish) -> list[Leg]:
    """The descent of each layer that removed most, of at most four layers, in the layers' order."""
    best = [
        max(polish.legs_of(layer), key=_fall)
        for layer in polish.layers
        if _removed_by(polish, layer)
    ]
    shown = sorted(best, key=_fall, reverse=True)[:DRAWN]
    return [leg for leg in best if leg in shown and leg.num_pivots >= SHORT]


# ---- the weights ---------------------------------------------------------------------------------


def _weights(polish: Polish, about: About) -> Section:
    change = polish.loss_float32 - polish.loss
    told = (
        f"{about.weights} holds the weights in float64, where the loss is {number(polish.loss, 6)}; "
        f"in a float32 module it is {number(polish.loss_float32, 6)}."
    )
    rows = tuple(
        (Cell(name), Cell(number(loss, digits), numeric=True))
        for name, loss, digits in (
            ("before, float64", polish.start, 9),
            ("after, float64, as the certificates have it", polish.loss, 9),
            ("after, weights and inputs rounded to float32", polish.loss_float32, 9),
            ("change by the rounding", change, 3),
        )
    )
    return Section(
        key="weights",
        title="The weights",
        verdict=told,
        tables=(Table("The loss in both precisions", ("weights", "loss"), rows),),
        method=(
            "The file has the names and buffers of the module, so that load_state_dict takes it. A "
            "module in float32 rounds each weight to about seven digits. The active kinks are then "
            "no longer exactly zero, and the end is near the certified point but not at it: the "
            "certificates speak of the float64 weights. module.double() before loading keeps them.",
            "All losses are with the module in evaluation mode, on the samples given: "
            f"{count(about.num_samples)} of {about.data}.",
        ),
        check=(
            "The first command lists the tensors. The second goes on from these weights: where the "
            "descent has ended, it finds nothing more to lower.",
        ),
        commands=(
            "python -c \"from safetensors.torch import load_file; "
            f"print({{k: v.shape for k, v in load_file({about.weights!r}).items()}})\"",
            _command("descend", "--layers", "all", "--out", "again", about=about),
        ),
    )  # fmt: skip
