"""Vertex descent: exact descent of piecewise-affine functions to certified local minima."""

from reluscape.descent.loop import descend
from reluscape.descent.result import Descent, Status

__all__ = ["Descent", "Status", "descend"]
