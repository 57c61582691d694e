"""Studies: an experiment run thousands of times, in one file, on one machine or on a cluster."""

from reluscape.study.standing import Standing
from reluscape.study.study import Study

__all__ = ["Standing", "Study"]
