"""The store of a study: one SQLite file, and a folder of NetCDF files for arrays beside it.

Every finished trial is one committed row (write-ahead log, so a killed process leaves the rows that it
had committed and nothing else). Arrays are written under a temporary name, brought to the disk and
renamed before their row is committed, so a row never refers to half a file. Should a power cut take
back the new name, which is not waited for, the file is missing and `--retry` runs its trial again.
A file's name, which its row holds, ends in the digest of its content: what was cut, changed or exchanged
is told from what was written, and `--retry` runs its trial again, too.
Trials still to be run have no row.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reluscape.errors import DamagedStudyError, InputError
from reluscape.study.trial import Outcome, Record, Trial

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 2

#: What SQLite says of a file that was cut or written over.
DAMAGED = ("malformed", "not a database")

#: Columns that every trial has beside its parameters and its record.
COLUMNS = (
    "repetition", "seed", "status", "arrays", "error", "seconds", "host", "code", "versions",
)  # fmt: skip

_SCHEMA = """
CREATE TABLE study (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE points (id INTEGER PRIMARY KEY, parameters TEXT NOT NULL UNIQUE);
CREATE TABLE environments (id INTEGER PRIMARY KEY, versions TEXT NOT NULL UNIQUE);
CREATE TABLE trials (
    id INTEGER PRIMARY KEY, point INTEGER NOT NULL REFERENCES points(id),
    repetition INTEGER NOT NULL, seed INTEGER NOT NULL, status TEXT NOT NULL,
    record TEXT NOT NULL, arrays TEXT, error TEXT, seconds REAL NOT NULL, host TEXT NOT NULL,
    code TEXT NOT NULL, environment INTEGER NOT NULL REFERENCES environments(id),
    UNIQUE (point, repetition)
);
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a study runs.

    Attributes:
        function: `module:name` of the experiment.
        code: Hash of the code behind it.
        seed: Seed of the study.
        points: Parameters as canonical JSON, in the order given.
        repetitions: Trials per point.
    """

    function: str
    code: str
    seed: int
    points: tuple[str, ...]
    repetitions: int

    def difference(self, other: Plan) -> str:
        """What keeps `other` from being continued as this plan, or "" where nothing does."""
        found = []
        for what in ("function", "code", "seed"):
            mine, theirs = getattr(self, what), getattr(other, what)
            if mine != theirs:
                found.append(f"its {what} is {mine}, now it is {theirs}")
        gone, new = set(self.points) - set(other.points), set(other.points) - set(self.points)
        if gone or new:
            example = min(new or gone)
            found.append(
                f"its parameters differ ({len(gone)} no longer asked for, {len(new)} new, such as"
                f" {example})"
            )
        return "; ".join(found)


def files_of(path: Path) -> list[Path]:
    """All that there is of a store: its file, then its log, its folder of arrays and its lock."""
    real = path.resolve()
    parts = (f"{real.name}{part}" for part in ("", "-wal", "-shm", ".arrays", ".lock"))
    return [file for file in map(real.with_name, parts) if file.exists()]


class NoPlanError(InputError):
    """No study is in the file yet, or there is no file."""


class Store:
    """An open study file.

    Args:
        path: The SQLite file; created if `writable` and absent.
        writable: Open for writing, which only one process may do at a time.
    """

    def __init__(self, path: Path, *, writable: bool) -> None:
        self.path = path
        real = path.resolve()  # one lock and one folder, whatever links lead to the file
        self.folder = real.with_name(f"{real.name}.arrays")
        with ExitStack() as stack, _explained(path):
            if writable:
                if real.exists() and not real.is_file():
                    raise InputError(f"expected a study file; {path} is a folder or a device")
                real.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(_locked(real))
                connection = sqlite3.connect(real, timeout=30.0)
                self._connection = stack.enter_context(closing(connection))
            elif path.is_file():
                self._connection = stack.enter_context(closing(_connect_reading(real)))
            else:
                raise NoPlanError(f"expected a study file, found none at {path}")
            new = not _has_tables(self._connection, path)
            if new and not writable:
                raise NoPlanError(f"{path} has no plan yet: run it")
            if writable:
                _prepare(self._connection, new=new)
            self._open = stack.pop_all()

    def close(self) -> None:
        """Close the file and let others write."""
        self._open.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- the plan ----------------------------------------------------------------------------

    def plan(self) -> Plan | None:
        """The plan, or None in a new file."""
        found = dict(self.query("SELECT name, value FROM study"))
        if not found:
            return None
        points = tuple(row[0] for row in self.query("SELECT parameters FROM points ORDER BY id"))
        return Plan(
            found["function"], found["code"], int(found["seed"]), points, int(found["trials"])
        )

    def write_plan(self, plan: Plan, earlier: Iterable[Store] = ()) -> None:
        """Store a plan, new or with more repetitions than before; a run begins.

        The trials of earlier stores that hold for the plan are committed with it: cut off in the midst
        of taking over, a store is as it was before, and the next run takes over again.
        """
        with _explained(self.path), self._connection as connection:
            values = {
                "format": str(FORMAT),
                "function": plan.function,
                "code": plan.code,
                "seed": str(plan.seed),
                "trials": str(plan.repetitions),
            }
            connection.executemany("INSERT OR REPLACE INTO study VALUES (?, ?)", values.items())
            connection.executemany(
                "INSERT OR IGNORE INTO points (parameters) VALUES (?)",
                ((point,) for point in plan.points),
            )
            for other in earlier:
                for row in self._lacking(other, plan):
                    _insert(connection, row)

    def write_tally(self, tally: dict[str, Any]) -> None:
        """Keep what was counted over the trials so far."""
        with _explained(self.path), self._connection as connection:
            values = ("tally", json.dumps(tally))
            connection.execute("INSERT OR REPLACE INTO study VALUES (?, ?)", values)

    def tally(self) -> dict[str, Any] | None:
        """What was last counted; None where nothing was, or trials have been deleted since."""
        found = self.query("SELECT value FROM study WHERE name = 'tally'")
        return json.loads(found[0][0]) if found else None

    # ---- trials ------------------------------------------------------------------------------

    def waiting(self, plan: Plan) -> tuple[int, Iterator[Trial]]:
        """Number of trials of the plan without a row, and those trials, repetition by repetition."""
        place = {point: number for number, point in enumerate(plan.points)}
        width = len(plan.points)
        waits = bytearray(b"\1") * (plan.repetitions * width)
        known = "SELECT parameters, repetition FROM trials JOIN points ON points.id = point"
        with _explained(self.path):
            for point, repetition in self._connection.execute(known):
                if point in place and repetition < plan.repetitions:
                    waits[repetition * width + place[point]] = 0
        trials = (
            Trial.of(plan.points[number % width], number // width, plan.seed)
            for number, waiting in enumerate(waits)
            if waiting
        )
        return waits.count(1), trials

    def add(self, outcomes: Iterable[Outcome], code: str) -> None:
        """Commit outcomes together, the arrays of each before its row."""
        with _explained(self.path), self._connection as connection:
            for outcome in outcomes:
                trial = outcome.trial
                row = {
                    "parameters": trial.parameters,
                    "repetition": trial.repetition,
                    "seed": trial.seed,
                    "status": outcome.status,
                    "record": encoded(outcome.record),
                    "arrays": self._write_arrays(outcome) if outcome.arrays else None,
                    "error": outcome.error,
                    "seconds": outcome.seconds,
                    "host": outcome.host,
                    "code": code,
                    "versions": outcome.environment,
                }
                _insert(connection, row)

    def forget_unfinished(self) -> None:
        """Delete trials that failed, were lost or lack their arrays, so that they run again."""
        incomplete = self.without_arrays(read=True)
        with _explained(self.path), self._connection as connection:
            connection.execute("DELETE FROM trials WHERE status != 'done'")
            connection.executemany("DELETE FROM trials WHERE id = ?", incomplete)
            connection.execute("DELETE FROM study WHERE name = 'tally'")  # it counts them

    def _lacking(self, other: Store, plan: Plan) -> Iterator[dict[str, Any]]:
        """Rows of another store that hold for `plan` and that this one lacks, their arrays with them.

        A row whose file of arrays is gone is left out: its trial runs again.
        """
        known = "SELECT parameters, repetition FROM trials JOIN points ON points.id = point"
        wanted, here = set(plan.points), set(self.query(known))
        for row in other.rows():
            key = (row["parameters"], row["repetition"])
            if key[0] not in wanted or key in here or row["code"] != plan.code:
                continue
            name = row["arrays"]
            holds = Trial.of(*key, plan.seed).seed == row["seed"]
            if holds and (name is None or _take(other.folder / name, self.folder / name)):
                yield row

    def rows(self) -> Iterator[dict[str, Any]]:
        """All trials, by parameters and repetition."""
        with _explained(self.path):
            cursor = self._connection.execute(
                "SELECT parameters, repetition, seed, status, record, arrays, error, seconds, host,"
                " code, versions FROM trials JOIN points ON points.id = point"
                " JOIN environments ON environments.id = environment"
                " ORDER BY parameters, repetition"
            )
            names = [column[0] for column in cursor.description]
            for row in cursor:
                yield dict(zip(names, row, strict=True))

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows of a reading statement."""
        with _explained(self.path):
            return self._connection.execute(sql, values).fetchall()

    # ---- arrays ------------------------------------------------------------------------------

    def arrays(self, name: str | None) -> dict[str, NDArray[Any]]:
        """Arrays in the file called `name` in the store's folder, by name; none without a file."""
        if name is None:
            return {}
        import h5netcdf

        with h5netcdf.File(BytesIO(self._content(name)), "r") as file:
            return {
                key: file.variables[key][...].astype(file.variables[key].attrs["dtype"])
                for key in sorted(file.variables)
            }

    def _content(self, name: str) -> bytes:
        """What was written to a file of arrays, or raises that it is gone or another."""
        path, error = self.folder / name, None
        try:
            content = path.read_bytes()
        except OSError as found:
            error, why = found, str(found)
        else:
            if name.endswith(_ending(content)):
                return content
            why = "its digest does not match: it was cut, changed or exchanged after it was written"
        raise DamagedStudyError(
            f"expected the arrays of a trial in {path}; could not read them: {why}. Restore the"
            " file, or run the study with --retry (retry=True)"
        ) from error

    def _is_whole(self, name: str) -> bool:
        """Whether a file of arrays is as it was written."""
        try:
            self._content(name)
        except DamagedStudyError:
            return False
        return True

    def without_arrays(self, *, read: bool = False) -> list[tuple[int]]:
        """Ids of the trials whose file of arrays is gone; with `read`, or not as it was written."""
        rows = self.query("SELECT id, arrays FROM trials WHERE arrays IS NOT NULL")
        with _explained(self.path):
            there = set(os.listdir(self.folder)) if rows and self.folder.is_dir() else set()
        return [
            (number,)
            for number, name in rows
            if name not in there or (read and not self._is_whole(name))
        ]

    def _write_arrays(self, outcome: Outcome) -> str:
        """Write a trial's arrays, whole or not at all, and return the file's name."""
        trial = outcome.trial
        point = hashlib.sha256(trial.parameters.encode()).hexdigest()[:16]
        content = _netcdf(outcome.arrays, trial.parameters)
        name = f"{point}-{trial.repetition}{_ending(content)}"
        _write_through(self.folder / name, content)
        return name

    def sweep(self) -> None:
        """Remove what a killed process left under temporary names."""
        for path in self.folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)


def _insert(connection: sqlite3.Connection, row: dict[str, Any]) -> None:
    """Write a trial's row; its parameters are among the points already."""
    connection.execute("INSERT OR IGNORE INTO environments (versions) VALUES (:versions)", row)
    connection.execute(
        "INSERT INTO trials (point, environment, repetition, seed, status, record, arrays, error,"
        " seconds, host, code) SELECT points.id, environments.id, :repetition, :seed, :status,"
        " :record, :arrays, :error, :seconds, :host, :code FROM points, environments"
        " WHERE parameters = :parameters AND versions = :versions",
        row,
    )


def encoded(record: Record) -> str:
    """A record as JSON; what JSON has no numbers for, as text."""
    plain = {
        name: repr(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in record.items()
    }
    return json.dumps(plain)


def decoded(text: str) -> Record:
    """Inverse of `encoded`."""
    found = json.loads(text)
    return {k: float(v) if isinstance(v, str) else v for k, v in found.items()}


def _take(source: Path, target: Path) -> bool:
    """Give a file of arrays, which is never changed, a second name; whether there is such a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.unlink(missing_ok=True)  # left by a run that was cut off before its rows
        target.hardlink_to(source)
    except FileNotFoundError:
        return False
    except OSError:  # another file system, or one without links
        _write_through(target, source.read_bytes())
    return True


def _write_through(target: Path, content: bytes) -> None:
    """Write a file to the disk itself and rename it: no power cut may leave a row with half a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _ending(content: bytes) -> str:
    """How the name of a file with this content ends."""
    return f"-{hashlib.sha256(content).hexdigest()[:32]}.nc"


def _netcdf(arrays: dict[str, NDArray[Any]], parameters: str) -> bytes:
    """A NetCDF file in memory, so that no full disk can surprise HDF5 halfway."""
    import h5netcdf

    content = BytesIO()
    with h5netcdf.File(content, "w") as file:
        file.attrs["parameters"] = parameters
        for name, array in arrays.items():
            # no array's name has an @, so none is taken for a dimension's coordinates
            dimensions = tuple(f"{name}@{axis}" for axis in range(array.ndim))
            file.dimensions.update(zip(dimensions, array.shape, strict=True))
            data = array.astype("int8") if array.dtype == bool else array
            file.create_variable(name, dimensions, data=data).attrs["dtype"] = array.dtype.str
    return content.getvalue()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep all other processes from writing the file; the system ends this with the process."""
    from filelock import FileLock, Timeout

    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        if not os.path.lexists(lock.lock_file):  # not even made, as in /proc
            raise InputError(
                f"no file can be made at {path}: give a folder that can be written"
            ) from error
        raise InputError(
            f"another process is running the study {path}: wait for it, or stop it and run the same"
            " command again"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _connect_reading(path: Path) -> sqlite3.Connection:
    """Open the file for reading, on a read-only medium too, where there can be no write-ahead log.

    The connection may write, because one that may not leaves the log's files behind when it closes.
    """
    uri = path.as_uri()
    connection = sqlite3.connect(f"{uri}?mode=rw", uri=True, timeout=30.0)
    try:
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        connection.close()
        log = path.with_name(f"{path.name}-wal")
        if log.is_file() and log.stat().st_size:
            raise InputError(
                f"{path} has trials in {log.name} that cannot be read from a read-only medium: copy"
                " both to a folder that can be written"
            ) from None
        return sqlite3.connect(f"{uri}?immutable=1", uri=True)
    except BaseException:
        connection.close()
        raise
    return connection


def _has_tables(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the file is a study with its tables, not a new one; refuses all others."""
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    if not tables:
        return False
    if not {"study", "points", "trials", "environments"} <= tables:
        raise InputError(f"expected a study file; {path} is an SQLite file with other tables")
    found = connection.execute("SELECT value FROM study WHERE name = 'format'").fetchone()
    if found is not None and found[0] != str(FORMAT):
        raise InputError(f"expected a study of format {FORMAT}; {path} has format {found[0]}")
    return True


def _prepare(connection: sqlite3.Connection, *, new: bool) -> None:
    """Commit through a write-ahead log, and make the tables of a new file."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")  # a power cut costs commits, never the file
    if new:
        with connection:
            connection.executescript(f"BEGIN; {_SCHEMA} COMMIT;")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """The failures of the file and its medium as one line that says how to go on."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        why = getattr(error, "strerror", None) or str(error)
        kind = DamagedStudyError if any(word in why for word in DAMAGED) else InputError
        raise kind(f"{path}: {why}: {_mend(why)}") from error


def _mend(why: str) -> str:
    """What to do about a failure."""
    again = "then run the same command again; trials committed so far are intact"
    advice = {
        ("full", "No space", "disk I/O", "quota"): f"make room, {again}",
        ("readonly", "ead-only", "ermi"): f"make it and its folder writable, {again}",
        ("not a database",): "give a study file, or a new name",
        ("malformed",): "the file is damaged, restore it from a copy",
        ("unable to open",): "give a folder that exists and can be written",
    }
    return next(
        (text for keys, text in advice.items() if any(key in why for key in keys)),
        f"mend that, {again}",
    )
