"""Convexity along a training run: the monitor for any loop, and what it recorded."""

from reluscape.monitor.membership import data_bound
from reluscape.monitor.monitor import ConvexityMonitor
from reluscape.monitor.trajectory import Decay, Trajectory

__all__ = ["ConvexityMonitor", "Decay", "Trajectory", "data_bound"]
