"""Vertex descent: exact descent of piecewise-affine functions to certified local minima."""

from reluscape.descent.loop import descend
from reluscape.descent.polish import Polish, polish
from reluscape.descent.result import Descent, Status

__all__ = ["Descent", "Polish", "Status", "descend", "polish"]
