"""A study's records as files and figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from reluscape.errors import InputError
from reluscape.intervals import mean_interval
from reluscape.results import write_then_rename
from reluscape.study.store import COLUMNS

if TYPE_CHECKING:
    import pandas as pd


def export(records: pd.DataFrame, path: Path) -> Path:
    """Write records to .csv or .parquet, whole or not at all."""
    if path.suffix == ".csv":
        write_then_rename(path, lambda temporary: records.to_csv(temporary, index=False))
        return path
    if path.suffix != ".parquet":
        raise InputError(f"expected a file name ending in .csv or .parquet; received {path.name!r}")
    try:
        write_then_rename(path, lambda temporary: records.to_parquet(temporary, index=False))
    except ImportError as error:
        raise InputError(
            "writing parquet needs pyarrow: pip install 'reluscape[parquet]', or export to .csv"
        ) from error
    except (
        TypeError,
        ValueError,
        NotImplementedError,
    ) as error:  # pyarrow's, for columns of objects
        raise InputError(
            f"parquet has no type for a column of different kinds of values; export to .csv: {error}"
        ) from error
    return path


def plot(records: pd.DataFrame, parameters: list[str], y: str | None, x: str | None) -> go.Figure:
    """Mean and interval of `y` at every value of `x`, or the histogram of `y`.

    Args:
        records: What `Study.records` returns.
        parameters: Which of its columns are parameters.
        y: Name of a number; default: the first.
        x: Name of a parameter; default: the first with several values.
    """
    numbers = [
        str(name)
        for name in records.columns
        if name not in (*COLUMNS, *parameters) and records[name].notna().any()
    ]
    if not numbers:
        raise InputError("the study has no records with numbers to plot yet")
    y = numbers[0] if y is None else y
    varied = [name for name in parameters if records[name].astype(str).nunique() > 1]
    x = varied[0] if x is None and varied else x
    for name, known in ((y, numbers), (x, parameters)):
        if name is not None and name not in known:
            raise InputError(
                f"expected one of {', '.join(known) or 'no parameters'}; received {name!r}"
            )
    values = records[y].astype(float)
    finite = np.isfinite(values)
    if not finite.any():
        raise InputError(f"expected finite numbers to plot; {y!r} has none: give another with --y")
    left_out = int(np.isinf(values).sum())
    note = f"; {left_out} infinite left out" if left_out else ""
    if x is None:
        return _histogram(values[finite].to_numpy(), y, note)
    return _curve(records[x][finite], values[finite], note)


def _histogram(values: np.ndarray, name: str, note: str) -> go.Figure:
    mean, low, high = mean_interval(values)
    figure = go.Figure(go.Histogram(x=values, nbinsx=40, name=name))
    figure.add_vline(x=mean, line_dash="dash")
    title = f"{len(values)} trials, mean {mean:.4g}<br>95 % interval {low:.4g} to {high:.4g}{note}"
    return figure.update_layout(title=title, xaxis_title=name, yaxis_title="trials", bargap=0.02)


def _curve(places: pd.Series, values: pd.Series, note: str) -> go.Figure:
    plain = places.astype(object).map(
        lambda place: place if isinstance(place, int | float | str) else str(place)
    )
    intervals = {
        place: mean_interval(part.to_numpy()) for place, part in values.groupby(plain, sort=True)
    }
    mean, low, high = np.array([*intervals.values()]).reshape(-1, 3).T
    bars = {"type": "data", "array": high - mean, "arrayminus": mean - low}
    figure = go.Figure(
        go.Scatter(x=[*intervals], y=mean, error_y=bars, mode="lines+markers", name=values.name)
    )
    return figure.update_layout(
        title=f"{values.name} against {places.name}<br>mean with 95 % interval{note}",
        xaxis_title=places.name,
        yaxis_title=values.name,
    )
