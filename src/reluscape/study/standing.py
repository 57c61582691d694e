"""Where a study stands: what `study show` answers, within a second for 100,000 trials.

NumPy is not used, because loading it takes as long as all the rest.
"""

from __future__ import annotations

import json
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reluscape.errors import InputError
from reluscape.study.store import Store


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a study stands.

    Attributes:
        path: Its file.
        function: `module:name` of its experiment.
        seed: Its seed.
        planned: Number of trials it is to have.
        done: Number of trials with a record.
        failed: Number of trials that raised.
        lost: Number of trials whose worker died every time.
        seconds: Time that all trials took, added up.
        errors: The commonest errors' last lines with their counts, at most five.
        missing: Number of trials with a record whose file of arrays is gone.
        statistics: For every number of the records: name, count, mean, standard deviation, least and
            largest value.
    """

    path: Path
    function: str
    seed: int
    planned: int
    done: int
    failed: int
    lost: int
    seconds: float
    errors: tuple[tuple[str, int], ...]
    missing: int
    statistics: tuple[tuple[str, int, float, float, float, float], ...]

    @property
    def complete(self) -> bool:
        """Whether every planned trial has an outcome."""
        return self.done + self.failed + self.lost == self.planned

    def summary(self) -> str:
        """Counts, errors and statistics in a few lines."""
        waiting = self.planned - self.done - self.failed - self.lost
        counts = [f"{self.done} done"]
        counts += [f"{n} {word}" for n, word in ((self.failed, "failed"), (self.lost, "lost")) if n]
        counts += [f"{waiting} to run"] if waiting else []
        lines = [
            f"{self.path}: {self.function}, seed {self.seed}",
            f"  {self.planned} trials: {', '.join(counts)}; {self.seconds:.3g} s of work",
        ]
        lines += [f"  {count} x {error}" for error, count in self.errors]
        if self.missing:
            lines.append(
                f"  {self.missing} done without their file of arrays: --retry runs them again"
            )
        if self.statistics:
            names = max(len(row[0]) for row in self.statistics)
            lines.append(
                f"  {'':{names}}  {'count':>8} {'mean':>12} {'sd':>12} {'min':>12} {'max':>12}"
            )
        for name, count, *values in self.statistics:
            numbers = " ".join(f"{value:12.6g}" for value in values)
            lines.append(f"  {name:{names}}  {count:8d} {numbers}")
        return "\n".join(lines)


def standing_of(store: Store) -> Standing:
    """Where the study in an open store stands."""
    plan = store.plan()
    if plan is None:
        raise InputError(f"{store.path} has no plan yet: run it")
    counted = store.conclusion() or _counted(store)
    errors, statistics = (tuple(map(tuple, counted.pop(name))) for name in ("errors", "statistics"))
    return Standing(
        path=store.path,
        function=plan.function,
        seed=plan.seed,
        planned=plan.repetitions * len(plan.points),
        missing=len(store.without_arrays()),
        errors=errors,
        statistics=statistics,
        **counted,
    )


def conclude(store: Store) -> Standing:
    """Where the study stands at the end of a run, kept in the store until the next run begins."""
    store.write_conclusion(_counted(store))
    return standing_of(store)


def _counted(store: Store) -> dict[str, Any]:
    """The fields of a `Standing` that take a look at every trial, as JSON has them."""
    counts = dict(store.query("SELECT status, count(*) FROM trials GROUP BY status"))
    errors = store.query(
        "SELECT error, count(*) AS times FROM trials WHERE error IS NOT NULL GROUP BY error"
        " ORDER BY times DESC LIMIT 5"
    )
    return {
        **{status: counts.get(status, 0) for status in ("done", "failed", "lost")},
        "seconds": store.query("SELECT total(seconds) FROM trials")[0][0],
        "errors": [[text.strip().splitlines()[-1], times] for text, times in errors],
        "statistics": [[name, *_described(column)] for name, column in _columns(store).items()],
    }


def _columns(store: Store) -> dict[str, array[float]]:
    """Every number of the records by name, without the non-finite, which they hold as text."""
    columns: dict[str, array[float]] = {}
    # a thousand records are read as one JSON text, which is several times as fast as one by one
    for (texts,) in store.query("SELECT group_concat(record) FROM trials GROUP BY id / 1000"):
        for record in json.loads(f"[{texts}]"):
            for name, value in record.items():
                if isinstance(value, int | float):
                    columns.setdefault(name, array("d")).append(value)
    return columns


def _described(values: array[float]) -> tuple[int, float, float, float, float]:
    """Count, mean, standard deviation, least and largest; infinite or NaN where a sum overflows."""
    count = len(values)
    mean = sum(values) / count
    squares = sum((value - mean) * (value - mean) for value in values)
    deviation = (squares / (count - 1)) ** 0.5 if count > 1 else 0.0
    return count, mean, deviation, min(values), max(values)
