"""What a paper's file says: its experiments, their published numbers, and how ours compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from scipy.stats import t as student

from reluscape.intervals import Z95
from reluscape.study import Study
from reluscape.study.trial import Experiment as Function

Scale = Literal["smoke", "small", "paper"]
SCALES: tuple[Scale, ...] = ("smoke", "small", "paper")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One published number beside ours.

    Attributes:
        quantity: What it is.
        published: The published value; None where the paper gives none.
        published_error: Standard error of the published value, from its own sampling; 0 if unknown.
        ours: Our value.
        low: Lower end of our 95 % interval; NaN where there are too few runs for one.
        high: Upper end.
        trials: Number of runs behind ours.
        comparable: Whether ours was run at the published size; if not, nothing can agree.
        unit: Unit of all of these.
        note: What to know about the comparison.
    """

    quantity: str
    published: float | None
    published_error: float
    ours: float
    low: float
    high: float
    trials: int
    unit: str = ""
    note: str = ""
    comparable: bool = True

    @property
    def interval(self) -> tuple[float, float] | None:
        """Our 95 % interval, None where there are too few runs for one."""
        return (self.low, self.high) if np.isfinite([self.low, self.high]).all() else None

    @property
    def remarks(self) -> tuple[str, ...]:
        """What to know about the comparison, and whether it lacks an interval."""
        runs = "1 run" if self.trials == 1 else f"{self.trials} runs"
        untold = f"{runs}: no 95 % interval." if self.interval is None and self.trials else ""
        return tuple(text for text in (self.note, untold) if text)

    @property
    def agrees(self) -> bool | None:
        """Whether the difference is within 1.96 standard errors, both samplings counted.

        So it is wherever our interval, which may be lopsided, holds the published number. Without an
        interval only the published number's error counts; None where nothing is published for this size.
        """
        if self.published is None or not self.comparable:
            return None
        low, high = self.interval or (self.ours, self.ours)
        if low <= self.published <= high:
            return True
        error = np.hypot((high - low) / (2 * Z95), self.published_error)
        return bool(abs(self.ours - self.published) <= Z95 * error)


@dataclass(frozen=True, slots=True)
class PaperFigure:
    """A figure of ours beside a description of the published one."""

    key: str
    caption: str
    published: str
    figure: go.Figure


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment of a paper.

    Attributes:
        key: Short name; its study is the file `<paper>-<key>.sqlite`.
        title: Heading.
        protocol: What is run, one paragraph each, with every choice that the paper leaves open.
        function: The trial, for `Study`.
        points: Parameters for a scale, and for a number of runs where one is asked for.
        compare: Published numbers beside ours.
        figures: The figures.
    """

    key: str
    title: str
    protocol: tuple[str, ...]
    function: Function
    points: Callable[[Scale, int | None], Sequence[dict[str, Any]]]
    compare: Callable[[Study], tuple[Comparison, ...]]
    figures: Callable[[Study], tuple[PaperFigure, ...]]


@dataclass(frozen=True, slots=True)
class Paper:
    """A paper.

    Attributes:
        key: Its name on the command line.
        citation: Author and title.
        experiments: Its experiments.
        notes: What else to tell with its table, such as which experiments are left out.
        with_data: The paper with those that need data, from a folder; None where none do.
    """

    key: str
    citation: str
    experiments: tuple[Experiment, ...]
    notes: tuple[str, ...] = ()
    with_data: Callable[[Path], Paper] | None = None


def over_draws(values: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Mean over independent repetitions of a whole experiment, and what one repetition scatters.

    Args:
        values: One number per repetition, shape (draws,).

    Returns:
        (mean, low, high, scatter): the 95 % interval of the mean by Student's t, NaN for one
        repetition, and the standard deviation of a single one, which is the standard error of a paper
        that made one.
    """
    mean, count = float(values.mean()), len(values)
    if count < 2:
        return mean, float("nan"), float("nan"), 0.0
    scatter = float(values.std(ddof=1))
    half = float(student.ppf(0.975, count - 1)) * scatter / count**0.5
    return mean, mean - half, mean + half, scatter
