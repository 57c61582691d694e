"""One trial of a study: its seed, its run in any process, and the code that it stands for.

A trial's seed is drawn from `SeedSequence(seed, spawn_key=(repetition, *words of the parameters'
hash))`: it depends on nothing but the study's seed, the parameters and the repetition, so neither the
order of the trials nor the number of workers nor an interruption can change a result.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import os
import platform
import re
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Lock, local
from types import CodeType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from reluscape import __version__
from reluscape.errors import InputError

Record = dict[str, float | int | bool | None]
Parameters = Mapping[str, Any]
Experiment = Callable[[dict[str, Any], int], Mapping[str, Any]]

#: Packages whose versions a trial records, where they are installed.
PACKAGES = ("numpy", "scipy", "torch", "numba", "scikit-learn", "highspy", "daqp")

#: What tells libraries how many threads to start; local workers get them before they load any.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")

#: Kinds of NumPy's numbers that a record may hold, and what NetCDF has no type for.
_KINDS = "biuf"
_NOT_IN_NETCDF = (np.dtype(np.float16), np.dtype(np.longdouble))

#: Trials of one process run one at a time: libraries have global random states and thread pools.
_TURN = Lock()

#: Whether this thread is inside `single_threaded`; OpenMP keeps its limit per thread.
_this = local()


@dataclass(frozen=True, slots=True)
class Trial:
    """What to run: parameters (as canonical JSON), repetition and the seed that belongs to them."""

    parameters: str
    repetition: int
    seed: int

    @classmethod
    def of(cls, parameters: str, repetition: int, study_seed: int) -> Trial:
        """The trial of this repetition, with its own seed below 2^63."""
        words = np.frombuffer(hashlib.sha256(parameters.encode()).digest()[:8], dtype=">u4")
        sequence = np.random.SeedSequence(
            study_seed, spawn_key=(repetition, *(int(word) for word in words))
        )
        return cls(parameters, repetition, int(sequence.generate_state(1, np.uint64)[0] >> 1))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a trial.

    Attributes:
        trial: The trial.
        status: "done", "failed" (it raised, or returned no record) or "lost" (its worker died).
        record: Its numbers by name.
        arrays: Its arrays by name.
        error: The traceback, or what was wrong with the record.
        seconds: Time that it ran.
        host: Machine that it ran on.
        environment: Versions of Python and packages, as JSON.
    """

    trial: Trial
    status: str
    record: Record = field(default_factory=dict)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    error: str | None = None
    seconds: float = 0.0
    host: str = ""
    environment: str = "{}"


def run_trial(function: Experiment, trial: Trial) -> Outcome:
    """Run one trial on one thread; whatever the function raises becomes a "failed" outcome."""
    with _TURN, single_threaded():
        start = time.perf_counter()
        try:
            found = function(json.loads(trial.parameters), trial.seed)
            record, arrays = _split(found)
            status, error = "done", None
        except (Exception, SystemExit) as failure:  # the function may raise or end anything
            status, record, arrays = "failed", {}, {}
            error = _told(failure)
        seconds = time.perf_counter() - start
        return Outcome(
            trial, status, record, arrays, error, seconds, socket.gethostname(), _environment()
        )


def canonical(parameters: Parameters) -> str:
    """Parameters as JSON with sorted keys: their identity.

    Raises:
        InputError: Not a mapping of names to plain values.
    """
    try:
        names = all(isinstance(name, str) for name in parameters)
        text = json.dumps(dict(parameters), sort_keys=True, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"parameters must map names to finite numbers, texts, booleans or lists: {error}"
        ) from error
    if not names:
        raise InputError(
            f"parameters must have texts as names; received {sorted(map(repr, parameters))}"
        )
    return text


def code_version(function: Experiment) -> str:
    """Hash of the code behind a function: its package's sources, or its own file or text.

    A change anywhere in the package of the function counts, because it may change the result.
    """
    module = sys.modules.get(function.__module__)
    file = getattr(module, "__file__", None)
    package = function.__module__.partition(".")[0]
    found = importlib.util.find_spec(package) if package not in ("", "__main__") else None
    if found is not None and found.submodule_search_locations:
        roots = [Path(root) for root in found.submodule_search_locations]
        files = sorted(path for root in roots for path in root.rglob("*.py"))
        sources = [path.read_bytes() for path in files]
    elif file is not None and Path(file).is_file():
        sources = [Path(file).read_bytes()]
    else:
        sources = [_text_of(function)]
    digest = hashlib.sha256(b"\0".join(hashlib.sha256(source).digest() for source in sources))
    return f"{__version__}+{digest.hexdigest()[:16]}"


def name_of(function: Experiment) -> str:
    """`module:qualified.name` of a function.

    Raises:
        InputError: A `functools.partial`, closure, method or lambda: two of them with different bound
            values would have one name, and pass for the same experiment.
    """
    name = getattr(function, "__qualname__", "")
    local = "<locals>" in name and getattr(function, "__defaults__", None)
    binds = getattr(function, "__closure__", None) or getattr(function, "__self__", None) or local
    if not name or binds or name.endswith("<lambda>"):
        kind = type(function).__name__ if not name else f"lambda, closure or method {name!r}"
        raise InputError(
            f"expected a plain function; received a {kind}, whose bound values nothing would record: put"
            " them into the parameters of a function with a name"
        )
    return f"{function.__module__}:{function.__qualname__}"


def _text_of(function: Experiment) -> bytes:
    """Source of a function defined in a session, or its byte code."""
    try:
        return inspect.getsource(function).encode()
    except (OSError, TypeError):
        return _code_of(function.__code__).encode()


def _code_of(code: CodeType) -> str:
    """Byte code with names and constants, those of inner functions included; no addresses."""
    inner = [_code_of(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return repr((code.co_code.hex(), code.co_names, inner))


def _split(found: Any) -> tuple[Record, dict[str, NDArray[Any]]]:
    """Numbers and arrays of what a function returned."""
    if not isinstance(found, Mapping):
        raise TypeError(
            "a trial must return a mapping of names to numbers and arrays; received"
            f" {type(found).__name__}"
        )
    record: Record = {}
    arrays: dict[str, NDArray[Any]] = {}
    for name, value in found.items():
        if not isinstance(name, str):
            raise TypeError(f"a record's names must be texts; received {name!r}")
        if isinstance(value, np.ndarray) and value.ndim:
            arrays[name] = _array(name, value)
        elif value is None or isinstance(value, bool | int | float | np.generic | np.ndarray):
            record[name] = _number(name, value)
        else:
            raise TypeError(
                f"{name!r} must be a number or an array; received {type(value).__name__}"
            )
    return record, arrays


def _array(name: str, value: NDArray[Any]) -> NDArray[Any]:
    """An array that a file can hold bit for bit."""
    if not re.fullmatch(r"\w+([ .+-]*\w+)*", name):
        raise TypeError(f"an array's name must be words of letters and digits; received {name!r}")
    if value.dtype.kind not in _KINDS or value.dtype in _NOT_IN_NETCDF:
        raise TypeError(
            f"array {name!r} must hold integers, booleans, float32 or float64; received {value.dtype}"
        )
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"array {name!r} is masked, which would be lost; return its filled() values"
        )
    return value


def _number(name: str, value: Any) -> float | int | bool | None:
    """A number as Python's own, of the same value."""
    plain = value.item() if isinstance(value, np.generic | np.ndarray) else value
    if plain is not None and not isinstance(plain, bool | int | float):
        raise TypeError(f"{name!r} must be a real number; received {plain!r}")
    if isinstance(plain, int) and abs(plain) >= 2**63:
        raise TypeError(f"{name!r} must be below 2^63 in size; received {plain}")
    return plain


def _plain(value: Any) -> Any:
    """NumPy numbers and arrays in parameters as Python's own."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"received a {type(value).__name__}")


def _told(failure: BaseException) -> str:
    """The traceback below this module."""
    lines = traceback.format_exception(type(failure), failure, failure.__traceback__)
    text = "".join(line for line in lines if __file__ not in line).strip()
    return text.encode(errors="backslashreplace").decode()  # SQLite takes nothing but Unicode


@cache
def _environment() -> str:
    """Versions of what is installed, as JSON."""
    found = {"python": platform.python_version(), "reluscape": __version__}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return json.dumps(found, sort_keys=True)


def is_single_threaded() -> bool:
    """Whether this thread runs inside `single_threaded`."""
    return getattr(_this, "limited", False)


@contextmanager
def single_threaded() -> Iterator[None]:
    """One thread in every numerical library: sums then have one order, whatever the machine.

    Workers run side by side, so more threads would only get in each other's way. The variables are
    for libraries that a trial itself loads.
    """
    if is_single_threaded():
        yield
        return
    before = {name: os.environ.get(name) for name in THREADS}
    pools = [sys.modules[name] for name in ("torch", "numba") if name in sys.modules]
    threads = [pool.get_num_threads() for pool in pools]
    os.environ.update(dict.fromkeys(_changeable(), "1"))
    for pool in pools:
        pool.set_num_threads(1)
    _this.limited = True
    try:
        with threadpool_limits(1):
            yield
    finally:
        _this.limited = False
        for pool, number in zip(pools, threads, strict=True):
            pool.set_num_threads(number)
        for name in _changeable():
            value = before[name]
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _changeable() -> tuple[str, ...]:
    """The variables in `THREADS`, but numba's once it is loaded: it refuses a change from then on."""
    return THREADS[:-1] if "numba" in sys.modules else THREADS
