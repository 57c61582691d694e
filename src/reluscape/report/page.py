"""A survey as one HTML page that needs nothing but itself."""

import importlib
import pkgutil
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from reluscape.report import sections
from reluscape.report.findings import ModelSurvey, Survey
from reluscape.report.section import Figure, Section
from reluscape.report.strings import verdict
from reluscape.report.wording import (
    number,
    several,
    share,
    tally,
    verdict_phrase,
    verdict_sentence,
)

TIERS = {
    "exact": "decided by enumeration or exact rational arithmetic",
    "certified": "proved in float64 with stated margins and checked independently",
    "sampled": "observed along random draws; a bound or an estimate, not a proof",
}


def section_modules() -> tuple[ModuleType, ...]:
    """The files of :mod:`reluscape.report.sections`, in the order of their ``ORDER``."""
    names = sorted(module.name for module in pkgutil.iter_modules(sections.__path__))
    modules = (importlib.import_module(f"{sections.__name__}.{name}") for name in names)
    return tuple(sorted(modules, key=lambda module: module.ORDER))


def build_sections(survey: Survey) -> tuple[Section, ...]:
    """Every section's content for these results, in the order of the page, without empty ones."""
    found = (module.section(survey) for module in section_modules())
    return tuple(section for section in found if section is not None)


def render(survey: Survey) -> str:
    """The page as a text: one HTML file with its style, its scripts and Plotly inside.

    Equal surveys give equal pages, byte for byte. All texts from the survey are escaped, and the
    page's own policy forbids it any request.
    """
    return fill(
        "survey.html.j2",
        sections=build_sections(survey),
        survey=survey,
        overall=[
            *((model.name, overall(model)) for model in survey.models),
            *_between(survey),
        ],
        tiers=TIERS,
    )


def fill(template: str, *, sections: Sequence[Section], **values: Any) -> str:
    """A page of sections from a template that extends `page.html.j2`."""
    plotly = Markup(get_plotlyjs().replace("</script", "<\\/script"))
    return _environment().get_template(template).render(sections=sections, plotly=plotly, **values)


@cache
def _environment() -> Environment:
    """Where the templates are; it keeps those that it has compiled."""
    environment = Environment(
        loader=PackageLoader("reluscape.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure_json"] = figure_json
    return environment


def figure_json(figure: Figure) -> Markup:
    """A figure's data for a script element; no character in it can end that element."""
    text = figure.figure.to_json().replace("<", "\\u003c")
    return Markup(text)


def overall(model: ModelSurvey) -> str:
    """The paragraph on one model that opens the page."""
    if model.num_params is None:
        return "The survey was interrupted before this model was ready; nothing is known of it."
    parts = [_whole(model), _layers(model), _lowered(model), _units(model), _nearest(model)]
    return " ".join(part for part in parts if part)


def _between(survey: Survey) -> list[tuple[str, str]]:
    """The paragraph on what joins two models."""
    pair = survey.pair
    if pair is None or not pair.strings:
        return []
    how = "With their hidden units matched: " if pair.best.matched else ""
    return [(" and ".join(pair.names), f"{how}{verdict(pair.best)}")]


def _whole(model: ModelSurvey) -> str:
    state = f"The loss is {number(model.loss)}" if model.loss is not None else ""
    if model.verdict is not None:
        return f"{verdict_sentence(model.verdict)} {state}." if state else ""
    why = model.unreadable or model.opaque_reason
    no_verdict = "There is no certificate for the whole network" + (f": {why}" if why else "")
    norm = f", with gradient norm {number(model.gradient_norm)}" if state else ""
    return f"{no_verdict.rstrip('.')}. {state}{norm}." if state else f"{no_verdict.rstrip('.')}."


def _layers(model: ModelSurvey) -> str:
    decided = [layer.verdict for layer in model.layers if layer.verdict is not None]
    if not decided:
        return ""
    standing = tally([verdict_phrase(verdict) for verdict in decided])
    if len(decided) == 1:
        return f"Its one analysed layer, with all else held fixed: {standing}."
    return f"Its layers, taken one at a time with all else held fixed: {standing}."


def _lowered(model: ModelSurvey) -> str:
    falls = [layer.descent_fall for layer in model.layers if layer.descent_fall is not None]
    if not falls:
        return ""
    if not max(falls) > 0:
        return "Exact descent of any one layer removes nothing more."
    return f"Exact descent of a single layer still removes {share(max(falls))} of the loss."


def _units(model: ModelSurvey) -> str:
    hidden = [layer.activity for layer in model.layers if layer.activity.size]
    if not hidden:
        return ""
    total = sum(activity.size for activity in hidden)
    dead = sum(int((activity == 0).sum()) for activity in hidden)
    always = sum(int((activity == 1).sum()) for activity in hidden)
    return (
        f"Of {several(total, 'hidden unit')}, {share(dead / total)} are dead on every sample and "
        f"{share(always / total)} always active."
    )


def _nearest(model: ModelSurvey) -> str:
    found = [at.nearest_distance for at in model.layers if at.nearest_distance is not None]
    if not found or min(found) == float("inf"):
        return ""
    if min(found) == 0:
        return "It stands on a kink: at least one switching value is exactly zero there."
    return f"The nearest kink of any one layer is {number(min(found))} away in its parameters."
