"""Where a study stands: what `study show` answers, within a second for 100,000 trials.

A run keeps a tally in the store: what was counted over all trials up to some row. Whoever asks while
the run goes on, or after it was killed, counts only the rows after that. NumPy is not used, because
loading it takes as long as all the rest.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reluscape.errors import InputError
from reluscape.study.store import Store

#: Trials of a run after which its tally is written again.
COUNTED_EVERY = 1000

#: Rows that are read together.
COUNTED_AT_ONCE = 1000

#: Words of an error's text that tell its kind, and kinds that are told apart by them.
WORDS = 8
KINDS = 200

#: Count, mean, sum of squared differences from it, least and largest.
Moments = tuple[int, float, float, float, float]


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
        errors: The commonest kinds of errors with their counts, at most five. A kind is the exception
            with the first words of its text, up to a word that has a digit.
        kinds: Number of kinds of errors.
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
    kinds: int
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
        if self.kinds > len(self.errors):
            lines.append(f"  and {self.kinds - len(self.errors)} more kinds of errors")
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
    tally = _counted(store)
    errors = Counter(tally["errors"])
    columns = tally["columns"].items()
    return Standing(
        path=store.path,
        function=plan.function,
        seed=plan.seed,
        planned=plan.repetitions * len(plan.points),
        **{status: tally["counts"].get(status, 0) for status in ("done", "failed", "lost")},
        seconds=tally["seconds"],
        errors=tuple(errors.most_common(5)),
        kinds=len(errors),
        missing=len(store.without_arrays()),
        statistics=tuple((name, *_described(moments)) for name, moments in columns),
    )


def count(store: Store) -> None:
    """Keep what has been counted, so that who asks next counts only what comes later."""
    store.write_tally(_counted(store))


def _counted(store: Store) -> dict[str, Any]:
    """The store's tally brought up to date."""
    tally = store.tally() or {"last": 0, "counts": {}, "seconds": 0.0, "errors": {}, "columns": {}}
    # many records are read as one text, which is several times as fast as one by one
    chunk = (
        "SELECT max(id), total(seconds), group_concat(status), group_concat(record)"
        " FROM (SELECT * FROM trials WHERE id > ? ORDER BY id LIMIT ?)"
    )
    failures = "SELECT error FROM trials WHERE id > ? AND id <= ? AND error IS NOT NULL ORDER BY id"
    while (found := store.query(chunk, tally["last"], COUNTED_AT_ONCE)[0])[0] is not None:
        last, seconds, statuses, records = found
        tally["counts"] = Counter(tally["counts"]) + Counter(statuses.split(","))
        tally["seconds"] += seconds
        for (error,) in store.query(failures, tally["last"], last):
            _count_error(tally["errors"], error)
        for name, values in _columns(records).items():
            tally["columns"][name] = _merged(tally["columns"].get(name), _moments(values))
        tally["last"] = last
    return tally


def _count_error(errors: dict[str, int], text: str) -> None:
    """Count an error with those of its kind."""
    exception, colon, said = text.strip().splitlines()[-1].partition(": ")
    words = said.split()
    first = next((i for i, word in enumerate(words) if re.search(r"\d", word)), WORDS)
    kept = words[: min(first, WORDS)]
    kind = " ".join([f"{exception}{colon.strip()}", *kept, *(["..."] if kept != words else [])])
    if kind not in errors and len(errors) >= KINDS:
        kind = f"{exception}: ..."
    errors[kind] = errors.get(kind, 0) + 1


def _columns(records: str) -> dict[str, list[float]]:
    """Every number of some records by name, without the non-finite, which they hold as text."""
    columns: dict[str, list[float]] = {}
    for record in json.loads(f"[{records}]"):
        for name, value in record.items():
            if isinstance(value, int | float):
                columns.setdefault(name, []).append(float(value))
    return columns


def _moments(values: list[float]) -> Moments:
    """What is kept of some values; infinite or NaN where a sum overflows."""
    mean = sum(values) / len(values)
    squares = sum((value - mean) * (value - mean) for value in values)
    return len(values), mean, squares, min(values), max(values)


def _merged(one: Moments | None, other: Moments) -> Moments:
    """The moments of both together."""
    if one is None:
        return other
    (n, mean, squares, least, largest), (m, mean_2, squares_2, least_2, largest_2) = one, other
    gap, total = mean_2 - mean, n + m
    return (
        total,
        mean + gap * (m / total),
        squares + squares_2 + gap * gap * (n * (m / total)),
        min(least, least_2),
        max(largest, largest_2),
    )


def _described(moments: Moments) -> tuple[int, float, float, float, float]:
    """Count, mean, standard deviation, least and largest."""
    count, mean, squares, least, largest = moments
    return count, mean, (squares / (count - 1)) ** 0.5 if count > 1 else 0.0, least, largest
