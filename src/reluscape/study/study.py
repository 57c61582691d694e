"""`Study`: run an experiment many times, keep every result, go on after anything."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from itertools import product, takewhile
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reluscape.errors import InputError, OtherStudyError
from reluscape.study.code import code_version, load_function, name_of
from reluscape.study.standing import COUNTED_EVERY, Standing, count, standing_of
from reluscape.study.store import COLUMNS, NoPlanError, Plan, Store, decoded
from reluscape.study.trial import Experiment, Parameters, canonical

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from numpy.typing import NDArray

Progress = Callable[[str, float], None]


class Study:
    """Thousands of trials of one experiment in one file, resumable after anything.

    An experiment is a picklable function `f(parameters, seed)` without side effects that returns a
    mapping of names to numbers, and to arrays where it has any. Trial (point, repetition) always gets
    the same seed (`SeedSequence` spawned by the parameters' hash and the repetition) and runs with one
    thread, so the records do not depend on the order of the trials, the number of workers or an
    interruption.

    Args:
        path: The SQLite file. Arrays lie in the folder `<path>.arrays` beside it, as NetCDF.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> def throw(parameters, seed):
        ...     rng = np.random.default_rng(seed)
        ...     return {"mean": rng.integers(1, parameters["sides"], endpoint=True, size=10).mean()}
        >>> study = Study(Path(tempfile.mkdtemp()) / "dice.sqlite")
        >>> study.run(throw, {"sides": [6, 20]}, trials=50).done
        100
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        """The file."""
        return f"Study({str(self.path)!r})"

    # ---- running -----------------------------------------------------------------------------

    def run(
        self,
        function: Experiment,
        points: Parameters | Sequence[Parameters] | None = None,
        *,
        trials: int = 1,
        seed: int = 0,
        jobs: int = 1,
        dask: str | None = None,
        fork: bool = False,
        retry: bool = False,
        progress: Progress | None = None,
    ) -> Standing:
        """Run what the study lacks; called again after any interruption, it goes on.

        Args:
            function: The experiment.
            points: A list of parameter mappings; or one mapping whose lists span a grid.
            trials: Trials per point. More than before adds trials, fewer leaves the others alone.
            seed: Seed of the study.
            jobs: Local processes (1: this one, which a trial that crashes takes with it; -1: one per
                core). A trial whose process dies is run again, three times in all.
            dask: Address of a Dask scheduler, instead of local processes; needs `[dask]`.
            fork: Where parameters, seed or code differ from the file's: go on in a new file beside it
                (its path is in the result), which takes over the trials that are still valid from it
                and from earlier forks; all of them or, cut off, none, and then the next time.
            retry: Run failed and lost trials again, and those whose file of arrays is gone
                or changed.
            progress: Told what is being done and the fraction done.

        Returns:
            Where the study then stands. A trial that raises is counted, not raised, `SystemExit` and the
            like included; but a `KeyboardInterrupt` in this process ends the run as Ctrl-C does, because
            nothing tells the two apart. In another process it is the trial's own failure.

        Cost:
            One or two milliseconds per trial beside the experiment, with Dask too, where short trials
            share a task (long ones cost it about five; `benchmarks/study.py` measures this), and some 16
            for the file of a trial that has arrays. Memory does not grow with trials.

        Raises:
            InputError: Other parameters, seed or code than the file's without `fork` (the code is the
                experiment's own file or package, with what that imports from the same folder); a
                function that binds values which nothing records (lambda, closure, method); another
                process running the study; a full disk, a read-only or damaged file; no such scheduler;
                workers that lack the experiment or have other code of it.
            AnalysisError: The Dask cluster went away. All trials committed so far are intact, always.
        """
        plan = _plan(function, points, trials, seed)
        jobs = workers(jobs)
        if dask is not None and not dask.strip():
            raise InputError("expected the address of a Dask scheduler, such as tcp://host:8786")
        path = self._fork_for(plan) if fork else self.path
        with Store(path, writable=True) as store:
            self._begin(store, plan)
            if retry:
                store.forget_unfinished()
            store.sweep()
            _fill(store, plan, function, jobs=jobs, dask=dask, progress=progress)
            return standing_of(store)

    def forked(
        self,
        function: Experiment,
        points: Parameters | Sequence[Parameters] | None = None,
        *,
        trials: int = 1,
        seed: int = 0,
    ) -> Study:
        """The study that `run` with `fork` works on: this file or one beside it."""
        return Study(self._fork_for(_plan(function, points, trials, seed)))

    def resume(self, **options: Any) -> Standing:
        """Go on with the stored plan; `options` are those of `run` but points, trials and seed.

        Raises:
            InputError: No such study, or its function cannot be imported by name.
        """
        with Store(self.path, writable=False) as store:
            plan = store.plan()
        if plan is None:
            raise InputError(f"{self.path} has no plan yet: run it")
        points = [json.loads(point) for point in plan.points]
        function = load_function(plan.function)
        return self.run(function, points, trials=plan.repetitions, seed=plan.seed, **options)

    def _fork_for(self, plan: Plan) -> Path:
        """The file itself or the first fork beside it that has this plan, or none yet."""
        for path in _forks(self.path):
            known = None
            with suppress(NoPlanError), Store(path, writable=False) as store:
                known = store.plan()
            if known is None or not known.difference(plan):
                return path
        raise AssertionError("unreachable")

    def _begin(self, store: Store, plan: Plan) -> None:
        """Write the plan; a fork takes over what is valid of the files that it comes from."""
        known = store.plan()
        if known is not None:
            if why := known.difference(plan):
                raise OtherStudyError(
                    f"{store.path} holds another study: {why}. Use --fork (fork=True) to start a new"
                    " file beside it, which takes over the trials that are still valid, or give"
                    " another name"
                )
            plan = replace(plan, repetitions=max(plan.repetitions, known.repetitions))
        with ExitStack() as opened:
            # a fork that goes on unchanged has taken over already
            forks = _forks(self.path) if plan != known else iter(())
            earlier = [
                opened.enter_context(Store(path, writable=False))
                for path in takewhile(lambda path: path != store.path, forks)
            ]
            same = [o for o in earlier if (held := o.plan()) and held.function == plan.function]
            store.write_plan(plan, reversed(same))  # the newest file gives first

    # ---- reading -----------------------------------------------------------------------------

    def standing(self) -> Standing:
        """Counts, errors and statistics over all records; under a second for 100,000 trials."""
        with Store(self.path, writable=False) as store:
            return standing_of(store)

    def records(self) -> pd.DataFrame:
        """One row per trial: parameters, repetition, seed, status, the record, seconds and so on.

        A parameter called like one of the columns that every trial has is `parameters.<name>`; a number
        of the record called like a column or a parameter is `record.<name>`.
        """
        import pandas as pd

        parameters = self._parameters()
        rows: list[dict[str, Any]] = []
        numbers: dict[str, None] = {}
        for row in self._rows():
            values, record = json.loads(row.pop("parameters")), decoded(row.pop("record"))
            named = {
                f"record.{name}" if name in row or name in parameters else name: value
                for name, value in record.items()
            }
            numbers |= dict.fromkeys(named)
            rows.append({**{parameters[name]: values[name] for name in values}, **named, **row})
        columns = [*parameters.values(), *COLUMNS[:3], *numbers, *COLUMNS[3:]]
        return pd.DataFrame(rows, columns=columns)

    def arrays(self, name: str) -> Iterator[tuple[dict[str, Any], NDArray[Any]]]:
        """Parameters and the array called `name`, for every trial that has it.

        Raises:
            InputError: A missing or damaged file of arrays.
        """
        with Store(self.path, writable=False) as store:
            for row in store.rows():
                found = store.arrays(row["arrays"])
                if name in found:
                    yield json.loads(row["parameters"]), found[name]

    def digest(self) -> str:
        """SHA-256 of the content: parameters, seeds, status, records and arrays, bit for bit."""
        state = hashlib.sha256()
        with Store(self.path, writable=False) as store:
            for row in store.rows():
                names = ("parameters", "repetition", "seed", "status", "record")
                state.update(json.dumps([row[name] for name in names]).encode())
                for name, array in store.arrays(row["arrays"]).items():
                    state.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
                    state.update(array.tobytes())
        return state.hexdigest()

    def export(self, path: str | os.PathLike[str]) -> Path:
        """Write `records()` to a .csv or .parquet file (the latter needs `[parquet]`)."""
        from reluscape.study.export import export

        return export(self.records(), Path(path))

    def plot(self, y: str | None = None, x: str | None = None) -> go.Figure:
        """Number `y` of the records against parameter `x` (mean and 95 % interval), or its histogram.

        Args:
            y: Name of a number in the records; default: the first.
            x: Name of a parameter; default: the first with several values, else a histogram.
        """
        from reluscape.study.export import plot

        return plot(self.records(), [*self._parameters().values()], y, x)

    def _parameters(self) -> dict[str, str]:
        """Names of the parameters and of their columns."""
        with Store(self.path, writable=False) as store:
            plan = store.plan()
        points = plan.points if plan else ()
        names = dict.fromkeys(name for point in points for name in json.loads(point))
        return {name: f"parameters.{name}" if name in COLUMNS else name for name in names}

    def _rows(self) -> Iterator[dict[str, Any]]:
        with Store(self.path, writable=False) as store:
            yield from store.rows()


# ---- private -----------------------------------------------------------------------------------------


def _plan(
    function: Experiment, points: Parameters | Sequence[Parameters] | None, trials: int, seed: int
) -> Plan:
    """The checked plan."""
    if trials < 1 or seed < 0:
        raise InputError(f"trials must be at least 1 and seed 0; received {trials} and {seed}")
    points = {} if points is None else points
    listed = _grid(points) if isinstance(points, Mapping) else list(points)
    texts = [canonical(point) for point in listed]
    if not texts:
        raise InputError("expected at least one mapping of parameters; received none")
    if twice := _repeated(texts):
        raise InputError(f"points must be different parameter mappings; received {twice} twice")
    return Plan(name_of(function), code_version(function), seed, tuple(texts), trials)


def _grid(points: Parameters) -> list[dict[str, Any]]:
    """Every combination of the values that are lists."""
    axes = [value if isinstance(value, list | tuple) else [value] for value in points.values()]
    for name, values in zip(points, axes, strict=True):
        if twice := _repeated([canonical({name: value}) for value in values]):
            raise InputError(f"expected different values of a parameter; received {twice} twice")
    return [dict(zip(points, values, strict=True)) for values in product(*axes)]


def _repeated(texts: list[str]) -> str:
    """The commonest text, if it is there more than once."""
    commonest = Counter(texts).most_common(1)
    return commonest[0][0] if commonest and commonest[0][1] > 1 else ""


def workers(jobs: int) -> int:
    """A number of workers; -1 is one per core."""
    if not isinstance(jobs, Integral) or isinstance(jobs, bool) or (jobs < 1 and jobs != -1):
        raise InputError(
            f"jobs must be a whole number of at least 1, or -1 for one per core; received {jobs!r}"
        )
    return (os.cpu_count() or 1) if jobs == -1 else int(jobs)


def _forks(path: Path) -> Iterator[Path]:
    """The file and its forks' names: runs.sqlite, runs-fork1.sqlite, ..."""
    yield path
    number = 1
    while True:
        yield path.with_name(f"{path.stem}-fork{number}{path.suffix}")
        number += 1


def _fill(
    store: Store,
    plan: Plan,
    function: Experiment,
    *,
    jobs: int,
    dask: str | None,
    progress: Progress | None,
) -> None:
    """Run and commit what is waiting."""
    total = plan.repetitions * len(plan.points)
    from reluscape.study.execution import outcomes  # joblib is half the time of `study show`

    waiting, trials = store.waiting(plan)
    done = total - waiting
    count(store)
    if waiting == 0:
        return
    # closed at once after an error, so that no worker goes on
    with closing(outcomes(function, trials, code=plan.code, jobs=jobs, dask=dask)) as arriving:
        for outcome in arriving:
            store.add([outcome], plan.code)
            done += 1
            if done % COUNTED_EVERY == 0:
                count(store)
            if progress is not None:
                progress(f"trial {done} of {total}", done / total)
    count(store)
