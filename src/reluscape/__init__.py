"""reluscape: exact, certified answers about the loss landscapes of ReLU networks."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Landscape": "landscape",
    "Block": "block",
    "NetworkOutput": "network_output",
    "Cell": "cell",
    "Facets": "cell",
    "Chord": "cell",
    "Contacts": "arrangement",
    "UnitCells": "arrangement",
    "cells_crossed": "crossing",
    "count_cells": "arrangement",
    "enumerate_cells": "arrangement",
    "Certificate": "certificate",
    "Verification": "certificate",
    "verify": "verification",
    "certify": "proof",
    "descend": "descent",
    "Descent": "descent",
    "Forecast": "descent",
    "Forecaster": "descent",
    "forecast_losses": "descent",
    "Phases": "descent",
    "polish": "descent",
    "Polish": "descent",
    "expected_minimum_probability": "gaussian",
    "MinimumProbability": "gaussian",
    "cell_minimum": "minima.find",
    "CellMinimum": "minima.result",
    "convexity": "convex",
    "Convexity": "convex",
    "spectrum": "spectra",
    "Spectrum": "spectra",
    "ConvexityMonitor": "monitor",
    "Decay": "monitor",
    "Trajectory": "monitor",
    "tensorboard_sink": "monitor.tensorboard",
    "trajectory_of": "monitor.checkpoints",
    "Connection": "strings.connection",
    "Schedule": "strings.training",
    "Unfinished": "strings.keeping",
    "SpanningTree": "strings.spanning",
    "connect": "strings.connecting",
    "linear_path": "strings.linear",
    "match_units": "strings.matching",
    "MatchedUnits": "strings.matching",
    "path_maximum": "strings.maximum",
    "spanning_tree": "strings.spanning",
    "PathMaximum": "strings.maximum",
    "merge_tree": "trees.tree",
    "MergeTree": "trees.result",
    "Barrier": "trees.barrier",
    "tree_size": "trees.size",
    "TreeSize": "trees.size",
    "Study": "study",
    "AnalysisError": "errors",
    "InputError": "errors",
    "ReluscapeError": "errors",
    "UnsupportedModelError": "errors",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that `reluscape --help` needs no torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'reluscape' has no attribute {name!r}")
    return getattr(import_module(f"reluscape.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """Public names."""
    return [*__all__, "__version__"]
