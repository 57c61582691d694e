"""Genuine minima of activation cells."""

from reluscape.minima.find import cell_minimum
from reluscape.minima.result import CellMinimum, Infeasibility

__all__ = ["CellMinimum", "Infeasibility", "cell_minimum"]
