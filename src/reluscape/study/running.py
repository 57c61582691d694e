"""Running one trial in any process, on one thread."""

from __future__ import annotations

import json
import os
import platform
import re
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from signal import SIG_IGN, SIGINT, getsignal
from threading import Lock, current_thread, local, main_thread
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from reluscape import __version__
from reluscape.study.trial import Experiment, Outcome, Record, Trial

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


def run_trial(function: Experiment, trial: Trial) -> Outcome:
    """Run one trial on one thread; whatever the function raises becomes a "failed" outcome.

    Except a `KeyboardInterrupt` where Ctrl-C is one: the main thread of a process that heeds it.
    """
    with _TURN, single_threaded():
        start = time.perf_counter()
        try:
            found = function(json.loads(trial.parameters), trial.seed)
            record, arrays = _split(found)
            status, error = "done", None
        except BaseException as failure:  # the function may raise or end anything
            if _is_ctrl_c(failure):
                raise
            status, record, arrays = "failed", {}, {}
            error = _told(failure)
        seconds = time.perf_counter() - start
        return Outcome(
            trial, status, record, arrays, error, seconds, socket.gethostname(), _environment()
        )


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


def _is_ctrl_c(failure: BaseException) -> bool:
    """Whether this may be the user's wish to stop; local workers ignore the signal."""
    heeded = current_thread() is main_thread() and getsignal(SIGINT) is not SIG_IGN
    return isinstance(failure, KeyboardInterrupt) and heeded


def _told(failure: BaseException) -> str:
    """The traceback below this module; its last line names the exception and says all of its text."""
    lines = traceback.format_exception(type(failure), failure, failure.__traceback__)
    last = "".join(traceback.format_exception_only(failure))
    text = "".join(line for line in lines if __file__ not in line).removesuffix(last)
    text = f"{text}{' '.join(last.split())}"
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
