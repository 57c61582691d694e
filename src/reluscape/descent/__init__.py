"""Vertex descent: exact descent of piecewise-affine functions to certified local minima."""

from reluscape.descent.forecast import Forecast, Forecaster, forecast_losses
from reluscape.descent.loop import descend
from reluscape.descent.phases import Phases
from reluscape.descent.polish import Polish, polish
from reluscape.descent.result import Descent, Status

__all__ = [
    "Descent",
    "Forecast",
    "Forecaster",
    "Phases",
    "Polish",
    "Status",
    "descend",
    "forecast_losses",
    "polish",
]
