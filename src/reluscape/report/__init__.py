"""From the results of a survey to one self-contained HTML page.

:mod:`findings` holds the results, :mod:`sections` has one file per section of the page, and
:func:`render` puts the page together. To add a section, add a file there.
"""

from reluscape.report.findings import (
    ConvexitySurvey,
    DataSummary,
    LayerSurvey,
    MinimumSurvey,
    ModelSurvey,
    Survey,
    Verdict,
    load_survey,
)
from reluscape.report.page import build_sections, render
from reluscape.report.section import Cell, Figure, Section, Table

__all__ = [
    "Cell",
    "ConvexitySurvey",
    "DataSummary",
    "Figure",
    "LayerSurvey",
    "MinimumSurvey",
    "ModelSurvey",
    "Section",
    "Survey",
    "Table",
    "Verdict",
    "build_sections",
    "load_survey",
    "render",
]
