"""The page of `reluscape convexity`: the survey's section on one model."""

from __future__ import annotations

from reluscape import __version__
from reluscape.convex import Convexity
from reluscape.landscape import Landscape
from reluscape.report.findings import ConvexitySurvey, DataSummary, ModelSurvey, Survey
from reluscape.report.page import TIERS, fill
from reluscape.report.section import Section
from reluscape.report.sections import convexity

SAMPLED = "observed at the checkpoints; nothing is proved of what lies between them"
#: The result, beside the page.
FILE = "convexity.nc"


def render_convexity(
    found: Convexity,
    landscape: Landscape,
    names: tuple[str, str],
    options: tuple[str, str],
    seed: int,
    run: Section | None = None,
) -> str:
    """The page as a text: one HTML file with everything inside; all texts are escaped.

    Args:
        found: What was found.
        landscape: The model that it was found of.
        names: What to call the model, and name of the data.
        options: Command-line options of the model, and those of the data, in the page's folder.
        seed: Seed of Lanczos.
        run: What is said of a run's checkpoints, if there are any.
    """
    model = ModelSurvey(names[0], options=options[0], convexity=ConvexitySurvey.of(found, FILE))
    about = DataSummary(names[1], landscape.num_samples, options=options[1])
    decay = found.weight_decay
    survey = Survey(about, found.objective, decay, seed=seed, models=(model,), version=__version__)
    section = convexity.section(survey)
    assert section is not None
    return fill(
        "convexity.html.j2",
        sections=[section] if run is None else [run, section],
        run=run,
        survey=survey,
        found=found,
        params=landscape.size,
        tiers={"certified": TIERS["certified"]} | ({} if run is None else {"sampled": SAMPLED}),
    )
