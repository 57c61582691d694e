"""Studies: records, seeds, resumption, forks, refusals, files and figures."""

import errno
import functools
import importlib.util
import json
import math
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import experiments
import numpy as np
import pandas as pd
import pytest

from reluscape import Study
from reluscape.errors import InputError
from reluscape.study import standing
from reluscape.study import study as study_module
from reluscape.study.code import code_version, name_of
from reluscape.study.trial import Trial, canonical

GRID = {"sides": [2, 6, 20], "unused": "text"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs.sqlite"


@pytest.fixture(scope="module")
def dice_digest(tmp_path_factory):
    study = Study(tmp_path_factory.mktemp("dice") / "runs.sqlite")
    study.run(experiments.dice, GRID, trials=4)
    return study.digest()


def one(study):
    (row,) = study.records().to_dict("records")
    return row


def module(folder, text, name="drifting"):
    """A module from a file, as a fresh process would import it."""
    file = folder / f"{name}.py"
    file.write_text(text)
    spec = importlib.util.spec_from_file_location(name, file)
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found
    spec.loader.exec_module(found)
    return found


# ---- results -----------------------------------------------------------------------------------


def test_a_study_has_a_record_for_every_point_and_repetition(path):
    standing = Study(path).run(experiments.dice, GRID, trials=4)
    records = Study(path).records()
    assert (standing.planned, standing.done, standing.complete) == (12, 12, True)
    assert sorted(zip(records["sides"], records["repetition"], strict=True)) == [
        (sides, repetition) for sides in (2, 6, 20) for repetition in range(4)
    ]
    for row in records.to_dict("records"):
        parameters = {"sides": row["sides"], "unused": "text"}
        assert row["mean"] == experiments.dice(parameters, row["seed"])["mean"]
        assert row["seconds"] >= 0
        assert row["host"]
        assert row["code"] == code_version(experiments.dice)
        assert json.loads(row["versions"])["numpy"] == np.__version__


def test_seeds_are_those_of_numpys_seed_sequences(path):
    Study(path).run(experiments.dice, GRID, trials=4, seed=7)
    records = Study(path).records()
    assert records["seed"].nunique() == 12
    for row in records.to_dict("records"):
        trial = Trial.of(canonical({"unused": "text", "sides": row["sides"]}), row["repetition"], 7)
        assert row["seed"] == trial.seed < 2**63
    # pinned: another rule for seeds would make every stored study a different one
    assert Trial.of("{}", 0, 0).seed == 6519670528555300737
    assert Trial.of('{"a": 1}', 3, 5).seed == 3507897306093566173


@pytest.mark.parametrize("first", [0, 2])
def test_records_do_not_depend_on_processes_or_order(path, dice_digest, first):
    points = [{"unused": "text", "sides": sides} for sides in (20, 2, 6)]
    study = Study(path)
    if first:
        study.run(experiments.dice, points, trials=first)
    study.run(experiments.dice, points[::-1], trials=4, jobs=1 if first else 2)
    assert study.digest() == dice_digest


def test_trials_run_on_one_thread_and_leave_the_process_as_it_was(path):
    from threadpoolctl import threadpool_info, threadpool_limits

    with threadpool_limits(2):
        before = threadpool_info()
        for jobs in (1, 2):
            study = Study(path.with_name(f"{jobs}.sqlite"))
            study.run(experiments.threads, trials=3, jobs=jobs)
            assert (study.records()["threads"] == 1).all()
            assert (study.records()["openmp"] == 1).all()
        assert threadpool_info() == before


def test_numbas_threads_are_limited_without_its_variable(monkeypatch, path):
    """The variable must not change while numba is loaded: it would refuse to compile."""

    class Numba:
        threads = 2

        def get_num_threads(self):
            return self.threads

        def set_num_threads(self, number):
            self.threads = number

    numba = Numba()
    monkeypatch.setitem(sys.modules, "numba", numba)
    monkeypatch.setenv("NUMBA_NUM_THREADS", "2")

    def look(parameters, seed):
        threads, variable = sys.modules["numba"].threads, os.environ["NUMBA_NUM_THREADS"]
        return {"threads": threads, "variable": int(variable)}

    Study(path).run(look)
    assert Study(path).records()[["threads", "variable"]].to_numpy().tolist() == [[1, 2]]
    assert numba.threads == 2


def test_every_kind_of_number_and_array_is_kept_bit_for_bit(path):
    study = Study(path)
    study.run(experiments.everything)
    row = one(study)
    for name, value in experiments.VALUES.items():
        found, expected = row[name], value
        if expected is None or math.isnan(expected):
            assert found is None or math.isnan(found)
        else:
            assert found == expected
            assert math.copysign(1, found) == math.copysign(1, expected)
    for name, array in experiments.ARRAYS.items():
        ((parameters, found),) = study.arrays(name)
        assert parameters == {}
        assert found.dtype == array.dtype
        assert found.shape == array.shape
        assert found.tobytes() == array.tobytes()
    assert list(study.arrays("absent")) == []
    assert study.standing().summary().count("\n") == 2 + 9  # what is finite has statistics


def test_a_digest_tells_numbers_apart_that_print_alike(path, monkeypatch):
    digests = set()
    for number, record in enumerate(
        ({"x": 1}, {"x": 1.0}, {"x": True}, {"x": 0.0}, {"x": -0.0}, {"x": None},
         {"x": math.nan}, {"x": np.zeros(2)}, {"x": -np.zeros(2)}, {"x": np.zeros(2, np.float32)})
    ):  # fmt: skip
        study = Study(path.with_name(f"{number}.sqlite"))
        monkeypatch.setattr(experiments, "ECHOED", record)
        study.run(experiments.echo)
        digests.add(study.digest())
    assert len(digests) == 10


# ---- failing trials ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "what",
    ["number", "list", "text", "complex", "huge", "name", "objects", "half", "masked", "slash"],
)
def test_what_is_no_record_fails_the_trial_and_says_why(path, what):
    standing = Study(path).run(experiments.returned, [{"what": what}])
    assert (standing.done, standing.failed, standing.complete) == (0, 1, True)
    ((error, times),) = standing.errors
    assert times == 1
    assert error.startswith("TypeError: ")
    assert error in standing.summary()


# in this process "stop" would be Ctrl-C
@pytest.mark.parametrize(("jobs", "more"), [(1, ()), (2, ("stop",))])
def test_a_trial_that_raises_is_stored_and_not_run_again(path, jobs, more):
    kinds = ("exit", "cancelled", "lines", "surrogate", "key", *more)
    points = [{"what": what} for what in kinds]
    study = Study(path)
    standing = study.run(experiments.raises, points, jobs=jobs)
    assert standing.failed == len(points)
    assert standing.kinds == len(points)
    if len(points) <= 5:  # of more, five are told: with two processes any of them
        assert ("ValueError: one two", 1) in standing.errors
    before = study.records()
    errors = dict(zip(before["what"], before["error"], strict=True))
    assert "KeyError: 'key'" in errors["key"]
    assert "experiments.py" in errors["key"]
    assert "running.py" not in errors["key"]
    assert "SystemExit: 3" in errors["exit"]
    assert "CancelledError" in errors["cancelled"]
    assert all(errors[kind].endswith("KeyboardInterrupt") for kind in more)
    assert r"\udce4" in errors["surrogate"]
    study.run(experiments.raises, points, jobs=jobs)
    assert study.records().equals(before)


def test_failed_trials_run_again_where_that_is_asked_for(path, tmp_path):
    mark = tmp_path / "mark"

    def mended(parameters, seed):
        if parameters["a"] == 1 and not Path(parameters["mark"]).exists():
            raise OSError("not yet")
        return {"x": 1}

    study = Study(path)
    assert study.run(mended, {"a": [1, 2], "mark": str(mark)}).failed == 1
    mark.touch()
    assert study.run(mended, {"a": [1, 2], "mark": str(mark)}).failed == 1
    assert study.run(mended, {"a": [1, 2], "mark": str(mark)}, retry=True).done == 2


# ---- going on ----------------------------------------------------------------------------------


def test_finished_trials_are_not_run_again_and_more_can_be_added(path, dice_digest):
    study, ran = Study(path), []
    for trials in (1, 3, 3, 2, 4):
        study.run(experiments.dice, GRID, trials=trials, progress=lambda *told: ran.append(told))
    assert len(ran) == 12
    assert ran[-1] == ("trial 12 of 12", 1.0)
    assert study.digest() == dice_digest
    standing = study.run(experiments.dice, GRID, trials=2)
    assert (standing.planned, standing.done) == (12, 12)


def test_resume_needs_nothing_but_the_file(path, dice_digest):
    study = Study(path)

    class StopError(Exception):
        pass

    def stop(*_):
        raise StopError

    with pytest.raises(StopError):
        study.run(experiments.dice, GRID, trials=4, progress=stop)
    assert study.standing().done == 1
    before = list(sys.path)
    assert study.resume().done == 12
    assert sys.path == before
    assert study.digest() == dice_digest


def test_resuming_what_cannot_be_found_is_refused(path):
    with pytest.raises(InputError, match="found none at"):
        Study(path).resume()

    def inner(parameters, seed):
        return {}

    Study(path).run(inner)
    with pytest.raises(InputError, match="module:function"):
        Study(path).resume()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "its seed is 0, now it is 1"),
        ({"function": experiments.other_dice}, "its function is experiments:dice, now it is"),
        ({"points": {"sides": [2, 6, 7]}}, "1 no longer asked for, 1 new"),
        ({"points": {"sides": [2, 6, 20, 30]}}, "0 no longer asked for, 1 new"),
        ({"points": {"sides": [2.0, 6, 20]}}, "1 no longer asked for, 1 new"),
    ],
)
def test_a_changed_plan_is_refused_and_a_fork_takes_it(path, change, said):
    study = Study(path)
    study.run(experiments.dice, {"sides": [2, 6, 20]}, trials=2)
    before = study.digest()
    plan = {"function": experiments.dice, "points": {"sides": [2, 6, 20]}, **change}
    with pytest.raises(InputError, match=said) as caught:
        study.run(**plan, trials=2)
    assert "--fork" in str(caught.value)
    assert "\n" not in str(caught.value)
    standing = study.run(**plan, trials=2, fork=True)
    assert standing.path.name == "runs-fork1.sqlite"
    assert standing.complete
    assert study.run(**plan, trials=3, fork=True).path == standing.path
    assert study.digest() == before
    fresh = Study(path.with_name("fresh.sqlite"))
    fresh.run(**plan, trials=3)
    assert Study(standing.path).digest() == fresh.digest()


def test_a_fork_runs_only_what_is_new_and_copies_arrays(path):
    study, ran = Study(path), []
    study.run(experiments.short, {"point": [0, 1]}, trials=2)
    plan = {"points": {"point": [0, 1, 2]}, "trials": 2}
    standing = study.run(
        experiments.short, **plan, fork=True, progress=lambda *told: ran.append(told)
    )
    assert len(ran) == 2
    fresh = Study(path.with_name("fresh.sqlite"))
    fresh.run(experiments.short, **plan)
    assert Study(standing.path).digest() == fresh.digest()


def test_a_fork_takes_over_from_every_earlier_file_whatever_is_whole(path):
    """The first file has points 0 and 1, its fork 2 and 3; of one of each the arrays are gone."""
    ran = []

    def run(*points, trials=2):
        ran.clear()
        return Study(path).run(
            experiments.short, {"point": list(points)}, trials=trials, fork=True,
            progress=lambda *told: ran.append(told),
        )  # fmt: skip

    run(0, 1)
    first_fork = run(2, 3).path
    assert len(ran) == 4
    for file in (path, first_fork):
        next(Path(f"{file}.arrays").iterdir()).unlink()
    last = run(0, 1, 2, 3, trials=1).path
    assert last.name == "runs-fork2.sqlite"
    run(0, 1, 2, 3)  # more trials of the same fork are taken over too
    assert Study(last).standing().missing == 0
    fresh = Study(path.with_name("fresh.sqlite"))
    fresh.run(experiments.short, {"point": [0, 1, 2, 3]}, trials=2)
    assert Study(last).digest() == fresh.digest()
    run(0, 1, 2, 3, 4)
    assert len(ran) == 2


def test_changed_code_is_refused_and_forked(path, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "drifting", None)
    text = "def f(parameters, seed):\n    return {'x': %s}\n"
    Study(path).run(module(tmp_path, text % 1).f)
    with pytest.raises(InputError, match="its code is"):
        Study(path).run(module(tmp_path, text % 22).f)
    fork = Study(path).run(module(tmp_path, text % 22).f, fork=True)
    assert one(Study(fork.path))["x"] == 22
    again = Study(path).run(module(tmp_path, text % 333).f, fork=True)
    assert again.path.name == "runs-fork2.sqlite"
    assert Study(path).run(module(tmp_path, text % 22).f, fork=True).path == fork.path
    assert Study(path).run(module(tmp_path, text % 1).f, fork=True).path == path


def test_code_is_what_the_file_imports_from_beside_itself(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "drifting", None)
    files = {"near.py": "import far.inner", "far/inner.py": "x = 1", "aside.py": "x = 1"}
    (tmp_path / "far").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    text = "import json\ndef f(parameters, seed):\n    from near import far\n    return {}\n"
    experiment = module(tmp_path, text).f
    before = code_version(experiment)
    (tmp_path / "aside.py").write_text("x = 2")
    assert code_version(experiment) == before
    versions = {before}
    for name in ("near.py", "far/inner.py", "far/new.py"):
        (tmp_path / name).write_text("import far\nx = 22")
        versions.add(code_version(experiment))
    assert len(versions) == 4


def test_code_of_a_package_is_all_its_modules():
    from reluscape.study.running import run_trial

    assert code_version(run_trial) == code_version(name_of)
    assert code_version(experiments.dice) == code_version(experiments.short)
    assert code_version(experiments.dice) != code_version(run_trial)


# ---- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "points",
    [
        [], [{"a": 1}, {"a": 1}], {"a": [1, 1]}, {"a": []}, [{"a": math.nan}], {"a": math.inf},
        [{1: 2}], [{1: 2, "a": 3}], {"a": 1j}, {"a": {1, 2}}, [{"a": np.array([np.nan])}],
    ],
)  # fmt: skip
def test_points_that_cannot_be_told_apart_or_stored_are_refused(path, points):
    with pytest.raises(InputError):
        Study(path).run(experiments.trivial, points)
    assert not path.exists()


def test_integers_floats_and_booleans_are_different_parameters(path):
    study = Study(path)
    points = [{"a": value} for value in (1, 1.0, True, "1", None, [1, 2], np.int64(3))]
    study.run(experiments.trivial, points)
    assert study.records()["seed"].nunique() == 7
    with pytest.raises(InputError, match="different"):
        Study(path).run(experiments.trivial, [{"a": 3}, {"a": np.int64(3)}])
    with pytest.raises(InputError, match="different"):
        Study(path).run(experiments.trivial, [{"a": (1,)}, {"a": [1]}])


@pytest.mark.parametrize("options", [{"trials": 0}, {"seed": -1}, {"jobs": 0}, {"jobs": -2}])
def test_counts_out_of_range_are_refused(path, options):
    with pytest.raises(InputError, match="at least"):
        Study(path).run(experiments.trivial, **options)


def binding(value):
    def closure(parameters, seed):
        return {"x": value}

    def default(parameters, seed, value=value):
        return {"x": value}

    return closure, default


@pytest.mark.parametrize(
    "function",
    [
        functools.partial(experiments.dice, {}),
        lambda parameters, seed: {"x": 1},
        *binding(3),
        experiments.Unpicklable().method,
    ],
)
def test_functions_that_bind_values_are_refused_because_nothing_would_record_them(path, function):
    with pytest.raises(InputError, match="bound values nothing would record"):
        Study(path).run(function)
    assert not path.exists()


def test_functions_without_a_file_are_told_apart_by_all_they_do():
    def made(text):
        space = {"__name__": "no_such_module"}
        exec(f"import numpy as np\ndef f(parameters, seed):\n    {text}", space)
        return code_version(space["f"])

    texts = ["return {'x': np.sin(1)}", "return {'x': np.cos(1)}", "return {'x': (lambda: 1)()}"]
    versions = [made(text) for text in texts]
    assert versions == [made(text) for text in texts]
    assert len(set(versions)) == 3


def test_what_cannot_be_pickled_is_refused_where_it_would_have_to_travel(path):
    session = {"__name__": "__main__", "stays": experiments.Unpicklable()}
    exec("def fixed(parameters, seed):\n    return {'x': int(stays is None)}", session)
    with pytest.raises(InputError, match="can be pickled"):
        Study(path).run(session["fixed"], jobs=2)
    assert Study(path).run(session["fixed"]).done == 1


def test_a_module_that_workers_cannot_import_is_one_clear_error(path, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "drifting", None)
    found = module(tmp_path, "def f(parameters, seed):\n    return {'x': 1}\n")
    with pytest.raises(InputError, match=r"cannot load.*drifting.*PYTHONPATH") as caught:
        Study(path).run(found.f, trials=3, jobs=2)
    assert "\n" not in str(caught.value)


def test_code_that_changes_under_a_running_study_is_refused(path, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "drifting", None)
    found = module(tmp_path, "def f(parameters, seed):\n    return {'x': 1}\n")

    def edit(*_):
        (tmp_path / "drifting.py").write_text("def f(parameters, seed):\n    return {'x': 22}\n")

    assert Study(path).run(found.f, trials=2).done == 2
    before = code_version(found.f)
    edit()
    from reluscape.study.execution import outcomes

    with pytest.raises(InputError, match="other code of drifting:f"):
        next(outcomes(found.f, iter([Trial.of("{}", 0, 0)]), code=before, jobs=2))


# ---- files -------------------------------------------------------------------------------------


def test_an_absent_or_empty_study_says_so(path):
    for ask in (Study(path).standing, Study(path).records, Study(path).digest):
        with pytest.raises(InputError, match="found none"):
            ask()
    path.touch()
    with pytest.raises(InputError, match="no plan yet"):
        Study(path).standing()
    assert Study(path).run(experiments.trivial, fork=True).path == path
    assert Study(path).standing().done == 1


def test_a_study_without_records_can_be_read_and_exported(path, tmp_path):
    def stop(parameters, seed):
        raise KeyboardInterrupt

    study = Study(path)
    with pytest.raises(KeyboardInterrupt):
        study.run(stop, {"a": [1, 2]})
    assert "2 to run" in study.standing().summary()
    assert study.records().empty
    assert pd.read_csv(study.export(tmp_path / "out.csv")).columns.tolist()[:2] == [
        "a",
        "repetition",
    ]
    assert pd.read_parquet(study.export(tmp_path / "out.parquet")).empty
    with pytest.raises(InputError, match="no records"):
        study.plot()


def damaged(path, kind):
    Study(path).run(experiments.trivial, trials=300)
    if kind == "text":
        path.write_text("name,value\n" * 100)
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "scribbled":
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * 12000)
    elif kind == "other":
        path.unlink()
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE t (x)")
        connection.close()
    elif kind == "format":
        connection = sqlite3.connect(path)
        with connection:
            connection.execute("UPDATE study SET value = '99' WHERE name = 'format'")
        connection.close()
    elif kind == "folder":
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize("kind", ["text", "truncated", "scribbled", "other", "format", "folder"])
def test_what_is_no_study_file_is_one_line_and_left_as_it_is(path, kind):
    damaged(path, kind)
    before = path.read_bytes() if path.is_file() else None
    for ask in (
        Study(path).standing,
        Study(path).records,
        lambda: Study(path).run(experiments.trivial, trials=301),
    ):
        with pytest.raises(InputError) as caught:
            ask()
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
    assert before is None or path.read_bytes() == before


@pytest.mark.parametrize("kind", ["missing", "truncated", "text", "one bit"])
def test_damaged_arrays_are_one_line_and_do_not_hide_the_records(path, kind):
    study = Study(path)
    study.run(experiments.short, {"point": 0})
    (file,) = Path(f"{path}.arrays").iterdir()
    whole = file.read_bytes()
    flipped = whole[:-100] + bytes([whole[-100] ^ 4]) + whole[-99:]
    content = {
        "text": b"no NetCDF",
        "truncated": whole[:-200],
        "missing": None,
        "one bit": flipped,
    }[kind]
    file.unlink() if content is None else file.write_bytes(content)
    for ask in (study.digest, lambda: list(study.arrays("draw"))):
        with pytest.raises(InputError, match="could not read them") as caught:
            ask()
        assert "\n" not in str(caught.value)
    assert len(study.records()) == 1


def test_a_trial_whose_arrays_are_gone_is_told_of_and_run_again(path):
    study = Study(path)
    study.run(experiments.short, {"point": [0, 1]}, trials=2)
    before = study.digest()
    next(Path(f"{path}.arrays").iterdir()).unlink()
    standing = study.run(experiments.short, {"point": [0, 1]}, trials=2)
    assert (standing.done, standing.missing) == (4, 1)
    assert "1 done without their file of arrays: --retry" in standing.summary()
    assert study.resume(retry=True).missing == 0
    assert study.digest() == before


@pytest.mark.parametrize("kind", ["exchanged", "one bit", "cut"])
def test_arrays_that_are_not_those_written_are_made_again(path, kind):
    study = Study(path)
    study.run(experiments.short, {"point": [0, 1]}, trials=2)
    before = study.digest()
    one, other = sorted(Path(f"{path}.arrays").iterdir())[:2]
    first, second = one.read_bytes(), other.read_bytes()
    assert first != second
    if kind == "exchanged":
        one.write_bytes(second)
        other.write_bytes(first)
    else:
        half = len(first) // 2
        rest = bytes([first[half] ^ 1]) + first[half + 1 :] if kind == "one bit" else b""
        one.write_bytes(first[:half] + rest)
    with pytest.raises(InputError, match="its digest does not match"):
        study.digest()
    study.resume(retry=True)
    assert study.digest() == before


def test_no_row_is_committed_before_its_arrays_are_on_the_disk(path, monkeypatch):
    def fail(descriptor):
        assert os.fstat(descriptor).st_size > 0
        raise OSError(errno.EIO, "disk I/O error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError, match=r"disk I/O error.*intact"):
        Study(path).run(experiments.short, {"point": 0})
    assert Study(path).standing().done == 0
    assert not list(Path(f"{path}.arrays").iterdir())


def test_reading_leaves_no_files(path):
    study = Study(path)
    study.run(experiments.trivial)
    for ask in (study.standing, study.records, study.digest):
        ask()
    assert {file.name for file in path.parent.iterdir()} == {path.name, f"{path.name}.lock"}


def test_a_link_to_a_study_is_the_same_study(path, tmp_path):
    Study(path).run(experiments.short, {"point": 0})
    link = tmp_path / "link.sqlite"
    link.symlink_to(path)
    assert Study(link).digest() == Study(path).digest()
    Study(link).run(experiments.short, {"point": 0}, trials=5)
    assert Study(path).standing().planned == 5


# ---- tables and figures ------------------------------------------------------------------------


def test_names_that_clash_are_told_apart(path, tmp_path):
    def clash(parameters, seed):
        return {"seed": 1.5, "status": 2, "a": 3, "b": 4}

    study = Study(path)
    study.run(clash, {"a": [10, 20], "error": 5})
    records = study.records()
    assert records["a"].tolist() == [10, 20]
    assert records["record.a"].tolist() == [3, 3]
    assert records["record.seed"].tolist() == [1.5, 1.5]
    assert records["record.status"].tolist() == [2, 2]
    assert records["parameters.error"].tolist() == [5, 5]
    assert records["status"].tolist() == ["done", "done"]
    assert records["error"].isna().all()
    assert records.columns.is_unique
    figure = study.plot(y="record.a")
    assert list(figure.data[0].x) == [10, 20]
    assert pd.read_csv(study.export(tmp_path / "out.csv"))["record.a"].tolist() == [3, 3]


def test_exports_hold_the_records(path, tmp_path):
    study = Study(path)
    study.run(experiments.short, {"point": [0, 1], "seconds": 0}, trials=30)
    records = study.records()
    csv = pd.read_csv(study.export(tmp_path / "out.csv"))
    parquet = pd.read_parquet(study.export(tmp_path / "out.parquet"))
    assert (records["status"] == "failed").any()
    for found in (csv, parquet):
        np.testing.assert_allclose(found["product"], records["product"], rtol=1e-15)
        assert found["error"].isna().tolist() == records["error"].isna().tolist()
        assert found["seed"].tolist() == records["seed"].tolist()
    with pytest.raises(InputError, match=r"\.csv or \.parquet"):
        study.export(tmp_path / "out.xlsx")


def test_columns_that_parquet_has_no_type_for_are_one_clear_error(path, tmp_path):
    study = Study(path)
    study.run(experiments.trivial, [{"a": 1}, {"a": "b"}, {"a": [1, 2]}])
    assert len(pd.read_csv(study.export(tmp_path / "out.csv"))) == 3
    with pytest.raises(InputError, match=r"\.csv") as caught:
        study.export(tmp_path / "out.parquet")
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.glob("*out*")] == ["out.csv"]


def test_plots_are_means_with_intervals_or_a_histogram(path):
    study = Study(path)
    study.run(experiments.dice, GRID, trials=5)
    curve = study.plot()
    assert list(curve.data[0].x) == [2, 6, 20]
    means = study.records().groupby("sides")["mean"].mean()
    np.testing.assert_allclose(curve.data[0].y, means)
    single = Study(path.with_name("single.sqlite"))
    single.run(experiments.dice, trials=5)
    assert len(single.plot(y="mean").data[0].x) == 5
    for wrong in ({"y": "median"}, {"x": "mean"}):
        with pytest.raises(InputError, match="expected one of"):
            study.plot(**wrong)


@pytest.mark.parametrize("value", [math.nan, math.inf, None, True])
def test_a_plot_of_odd_numbers_fails_by_itself_or_works(path, value, monkeypatch):
    def odd(parameters, seed):
        return {"x": experiments.ECHOED["x"] if parameters["a"] == 1 else 0.5}

    monkeypatch.setattr(experiments, "ECHOED", {"x": value})
    study = Study(path)
    study.run(odd, {"a": [1, 2]}, trials=3)
    assert 2 in study.plot().data[0].x


@pytest.mark.parametrize("points", [{}, {"a": [1, 2]}])
def test_a_plot_without_finite_numbers_is_one_clear_error(path, points, monkeypatch):
    monkeypatch.setattr(experiments, "ECHOED", {"x": math.inf})
    study = Study(path)
    study.run(experiments.echo, points)
    with pytest.raises(InputError, match="'x' has none"):
        study.plot()


def test_parameters_of_several_kinds_can_be_plotted_against(path):
    study = Study(path)
    study.run(experiments.trivial, [{"a": 1}, {"a": "b"}, {"a": [1, 2]}, {}], trials=3)
    assert len(study.plot().data[0].x) >= 3


def test_statistics_are_those_of_numpy(path):
    def far(parameters, seed):
        return {"x": 1e9 + seed % 97, "sparse": None if seed % 2 else 2, "odd": math.inf}

    study = Study(path)
    rows = study.run(far, trials=50).statistics
    (name, count, mean, deviation, least, largest) = rows[0]
    x = study.records()["x"].to_numpy()
    assert (name, count, least, largest) == ("x", 50, x.min(), x.max())
    np.testing.assert_allclose([mean, deviation], [x.mean(), x.std(ddof=1)], rtol=1e-12)
    assert [row[0] for row in rows] == ["x", "sparse"]
    assert rows[1][1] == (study.records()["seed"] % 2 == 0).sum()


def test_a_standing_is_that_of_all_trials_wherever_the_last_count_ended(path, monkeypatch):
    """Runs that are cut off before, between and after counts; then with and without the tally."""
    monkeypatch.setattr(study_module, "COUNTED_EVERY", 7)
    study, points = Study(path), {"what": ["key", "number"]}
    for trials, commits in ((2, 4), (5, 3), (12, 9), (12, 5)):
        left = [None] * commits

        def stop(*_, left=left):
            left.pop()
            if not left:
                raise KeyboardInterrupt

        with suppress(KeyboardInterrupt):
            study.run(experiments.returned, points, trials=trials, progress=stop)
        assert study.standing().failed == len(study.records())
    ended = study.run(experiments.returned, points, trials=12)
    assert (ended.failed, [times for _, times in ended.errors]) == (24, [12, 12])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM study WHERE name = 'tally'")
    assert study.standing() == replace(ended, seconds=pytest.approx(ended.seconds))


def test_only_what_came_after_the_last_count_is_read(path, monkeypatch):
    """A run of 100,000 trials that was killed is to be shown in less than a second."""
    monkeypatch.setattr(study_module, "COUNTED_EVERY", 10)
    monkeypatch.setattr(standing, "COUNTED_AT_ONCE", 5)
    read = []
    columns = standing._columns
    monkeypatch.setattr(standing, "_columns", lambda texts: read.append(texts) or columns(texts))

    def stop(_, done):
        if done == 0.93:
            read.clear()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Study(path).run(experiments.trivial, trials=100, progress=stop)
    found = Study(path).standing()
    assert [len(json.loads(f"[{texts}]")) for texts in read] == [3]
    x = Study(path).records()["x"]
    (name, count, *values) = found.statistics[0]
    assert (name, count) == ("x", 93)
    np.testing.assert_allclose(values, [x.mean(), x.std(ddof=1), x.min(), x.max()], rtol=1e-12)


def test_errors_are_counted_by_kind(path, monkeypatch):
    """The exception with the first words of its text, whatever numbers or long tails follow."""
    monkeypatch.setattr(standing, "KINDS", 8)

    def fails(parameters, seed):
        kind = parameters["kind"]
        if kind == 0:
            raise ValueError(f"no luck with {seed}: none at all")
        if kind == 1:
            raise OSError("one two three four five six seven eight nine")
        raise KeyError("abcdefghijkl"[kind])

    found = Study(path).run(fails, {"kind": list(range(12))}, trials=3)
    assert found.errors[0] == ("KeyError: ...", 12)
    assert ("ValueError: no luck with ...", 3) in found.errors
    assert ("OSError: one two three four five six seven eight ...", 3) in found.errors
    assert found.kinds == 9
    assert "and 4 more kinds of errors" in found.summary()


# ---- size --------------------------------------------------------------------------------------

SIZE = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import experiments
from reluscape import Study
study = Study(sys.argv[2])
for trials in (1000, int(sys.argv[3])):
    study.run(experiments.trivial, trials=trials)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def growth(path, trials):
    """Megabytes that a process grows by between 1,000 trials and many."""
    command = [sys.executable, "-c", SIZE, str(Path(__file__).parent), str(path), str(trials)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return (int(out[1]) - int(out[0])) / 1024


@pytest.mark.parametrize("trials", [5_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_memory_stays_flat_and_the_standing_comes_at_once(path, trials):
    assert growth(path, trials) < 10
    before = time.perf_counter()
    assert f"{trials} done" in Study(path).standing().summary()
    assert time.perf_counter() - before < 1.0
