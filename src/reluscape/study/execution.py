"""Running trials: in this process, in local processes, or on a Dask cluster.

Every local worker is an executor of its own (joblib's loky) with one process and one trial at a time.
When a process dies, the trial that it ran is known, and no other trial has to be run again. A trial
that raises is an outcome, never run again. One whose worker died is run again at the end, alone, so
that it has all the memory and the blame is certain; after `LOSSES` deaths it is an outcome "lost".

A Dask task costs some milliseconds, so short trials share one. If its worker dies all of them are run
again alone, and none has the blame yet.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Future
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import lru_cache
from itertools import islice
from multiprocessing import resource_tracker
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from joblib import wrap_non_picklable_objects
from joblib.externals.loky import ProcessPoolExecutor

from reluscape.errors import AnalysisError, InputError, ReluscapeError
from reluscape.study.code import code_version, name_of
from reluscape.study.running import THREADS, is_single_threaded, run_trial, single_threaded
from reluscape.study.trial import Experiment, Outcome, Trial

#: Deaths of its worker after which a trial counts as lost.
LOSSES = 3

#: Seconds that trials sent together are to take, and those after which they make room for others.
MOMENT = 0.05
LONG = 0.5

#: What a worker keeps to its end.
_FOREVER = ExitStack()

#: Seconds that a Dask scheduler may take to answer.
CONNECTING = 10.0

#: Seconds without any worker after which a Dask cluster is given up.
PATIENCE = 60.0


class Lost(Exception):
    """The worker of a trial died."""


class Engine(Protocol):
    """What runs trials elsewhere."""

    width: int  #: calls under way
    together: int  #: trials in a call, at most

    def submit(self, *call: Any) -> Future[list[Outcome]]:
        """Start a call."""

    def result(self, future: Future[list[Outcome]]) -> list[Outcome]:
        """What a finished call returned; raises `Lost`."""

    def check(self) -> None:
        """Raise where nothing can arrive any more."""

    def close(self) -> None:
        """Stop everything at once."""


def outcomes(
    function: Experiment,
    trials: Iterable[Trial],
    *,
    code: str,
    jobs: int = 1,
    dask: str | None = None,
) -> Generator[Outcome, None, None]:
    """Yield every trial's outcome as it arrives.

    Args:
        function: The experiment.
        trials: What to run; taken in as workers become free, so it may be long.
        code: The function's code version, which every worker must have.
        jobs: Local processes; 1 runs in this one.
        dask: Address of a Dask scheduler, instead of local processes.
    """
    if jobs == 1 and dask is None:
        with single_threaded():
            yield from (run_trial(function, trial) for trial in trials)
        return
    blob = _pickled(function)
    with closing(_Processes(jobs) if dask is None else _Cluster(dask)) as engine:
        yield from _all(engine, (_run, blob, code), iter(trials))


def _all(engine: Engine, call: tuple[Any, ...], trials: Iterator[Trial]) -> Iterator[Outcome]:
    """Keep the engine busy until every trial has its outcome."""
    finished: SimpleQueue[Future[list[Outcome]]] = SimpleQueue()
    under_way: dict[Future[list[Outcome]], list[Trial]] = {}
    waiting = _Waiting(trials, engine.together)

    def start(batch: list[Trial]) -> None:
        future = engine.submit(*call, *batch)
        under_way[future] = batch
        future.add_done_callback(finished.put)

    while True:
        while len(under_way) < engine.width and (batch := waiting.batch()):
            start(batch)
        if not under_way and (batch := waiting.alone()):
            start(batch)
        if not under_way:
            return
        future = _next(finished, engine)
        batch = under_way.pop(future)
        try:
            arrived = engine.result(future)
        except Lost:
            yield from waiting.lost(batch)
        else:
            waiting.arrived(batch, arrived)
            yield from arrived


class _Waiting:
    """Trials still to be run, in batches of those that together take a moment."""

    def __init__(self, trials: Iterator[Trial], together: int) -> None:
        self._trials = trials
        self._together = together
        self._returned: deque[Trial] = deque()
        self._alone: deque[Trial] = deque()
        self._losses: Counter[Trial] = Counter()
        self._recent: deque[float] = deque(maxlen=100)

    def batch(self) -> list[Trial]:
        """The next trials; one until it is known how long they take."""
        longest = max(self._recent, default=MOMENT)
        size = max(1, min(self._together, int(MOMENT / (longest + 1e-9))))
        again = [self._returned.popleft() for _ in range(min(size, len(self._returned)))]
        return [*again, *islice(self._trials, size - len(again))]

    def alone(self) -> list[Trial]:
        """One trial whose worker died."""
        return [self._alone.popleft()] if self._alone else []

    def arrived(self, batch: list[Trial], outcomes: list[Outcome]) -> None:
        """Learn how long trials take, and take back those that a slow batch did not come to."""
        self._recent.extend(outcome.seconds for outcome in outcomes)
        self._returned.extend(batch[len(outcomes) :])

    def lost(self, batch: list[Trial]) -> Iterator[Outcome]:
        """Put trials back whose worker died, or give up one that was to blame too often."""
        if len(batch) == 1:
            self._losses.update(batch)
        for trial in batch:
            if self._losses[trial] < LOSSES:
                self._alone.append(trial)
            else:
                why = "its worker died (killed, or out of memory)"
                yield Outcome(trial, "lost", error=f"{why}, each of {LOSSES} times")


def _next(finished: SimpleQueue[Future[list[Outcome]]], engine: Engine) -> Future[list[Outcome]]:
    """The next finished call, however long it takes, as long as one can come."""
    while True:
        try:
            return finished.get(timeout=2.0)
        except Empty:
            engine.check()


# ---- in a worker -------------------------------------------------------------------------------------


def _run(blob: bytes, code: str, *trials: Trial) -> list[Outcome]:
    """Run trials of a pickled function: the first, and the others as long as that is a short time."""
    if not is_single_threaded():  # setting the limits takes longer than a short trial
        _FOREVER.enter_context(single_threaded())
    with _LOADING:
        function = _unpickled(blob, code)
    found: list[Outcome] = []
    start = time.perf_counter()
    for trial in trials:
        found.append(run_trial(function, trial))
        if time.perf_counter() - start > LONG:
            break
    return found


#: Python 3.11 cannot parse in several threads at once, which a Dask worker has.
_LOADING = threading.Lock()


@lru_cache(maxsize=4)
def _unpickled(blob: bytes, code: str) -> Experiment:
    """The function, once per process; a worker with other code would give other records."""
    try:
        function: Experiment = pickle.loads(blob)
    except Exception as error:  # unpickling imports and runs the user's modules
        raise InputError(
            f"a worker on {socket.gethostname()} cannot load the experiment: {error}; install its"
            " module there, or start the worker with the module's folder in PYTHONPATH"
        ) from error
    # what was defined in the session itself travels as code, so that it cannot differ
    if function.__module__ != "__main__" and (found := code_version(function)) != code:
        raise InputError(
            f"a worker on {socket.gethostname()} has other code of {name_of(function)}: {found}, not"
            f" {code}; bring it up to date and start it anew"
        )
    return function


def _become_worker(parent: int) -> None:
    """Prepare a local worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets Ctrl-C too and ends its workers
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when its parent has gone, which loky's workers would outlive."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


# ---- engines -----------------------------------------------------------------------------------------


class _Processes:
    """Local processes."""

    #: So that the trial is known whose process dies.
    together = 1

    def __init__(self, jobs: int) -> None:
        self.width = jobs
        self._idle: list[Any] = []
        self._busy: dict[Future[list[Outcome]], Any] = {}

    def submit(self, *call: Any) -> Future[list[Outcome]]:
        while True:
            executor = self._idle.pop() if self._idle else self._started()
            try:
                with _ctrl_c_held():
                    future: Future[list[Outcome]] = executor.submit(*call)
                    self._busy[future] = executor
                    return future
            except BrokenExecutor:  # it died without a trial
                executor.shutdown(kill_workers=True)

    def result(self, future: Future[list[Outcome]]) -> list[Outcome]:
        executor = self._busy.pop(future)
        try:
            outcomes = future.result()
        except BrokenExecutor as error:
            executor.shutdown(kill_workers=True)
            raise Lost from error
        except Exception:
            self._idle.append(executor)
            raise
        self._idle.append(executor)
        return outcomes

    def check(self) -> None:
        """Every death is told by loky itself."""

    def close(self) -> None:
        for executor in (*self._idle, *self._busy.values()):
            executor.shutdown(kill_workers=True)

    def _started(self) -> Any:
        resource_tracker.ensure_running()  # started later, it would let the held Ctrl-C through
        return ProcessPoolExecutor(
            max_workers=1,
            initializer=_become_worker,
            initargs=(os.getpid(),),
            env=dict.fromkeys(THREADS, "1"),
        )


@contextmanager
def _ctrl_c_held() -> Iterator[None]:
    """Hold Ctrl-C back: a worker that starts now inherits this, and cannot stumble in its imports."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Cluster:
    """A Dask cluster. Its scheduler runs a trial again by itself when a worker dies, a few times."""

    #: Trials under way: enough for many workers, few enough that they are sent in a moment.
    width = 500

    #: Trials in a task: enough that its cost is small for each, few enough to arrive as they are done.
    together = 50

    def __init__(self, address: str) -> None:
        try:
            from distributed import Client, KilledWorker
        except ModuleNotFoundError as error:
            raise InputError("--dask needs distributed: pip install 'reluscape[dask]'") from error
        self._address = address
        self._lost = KilledWorker
        connect: Any = Client  # mypy knows no types of it
        try:
            _reach(address)
            self._client = connect(address, timeout=CONNECTING, set_as_default=False)
        except Exception as error:  # whatever answers there may say anything
            why = " ".join(f"{type(error).__name__}: {error}".split())
            raise InputError(
                f"expected a Dask scheduler at {address!r} (start one with 'dask scheduler' and workers"
                f" with 'dask worker {address} --nthreads 1'): {why}"
            ) from error
        # what it logs of a lost connection is told by one error of ours
        self._log = logging.getLogger("distributed.client")
        self._log_level = self._log.level
        self._log.setLevel(logging.CRITICAL)
        self._executor = self._client.get_executor(pure=False)
        self._seen = time.monotonic()

    def submit(self, *call: Any) -> Future[list[Outcome]]:
        future: Future[list[Outcome]] = self._executor.submit(*call)
        return future

    def result(self, future: Future[list[Outcome]]) -> list[Outcome]:
        try:
            return future.result()
        except self._lost as error:
            raise Lost from error
        except ReluscapeError:
            raise
        except CancelledError as error:
            raise self._gone() from error
        except Exception as error:  # such as workers without reluscape
            raise AnalysisError(
                f"the Dask cluster at {self._address} cannot run trials: {error}"
            ) from error

    def check(self) -> None:
        try:
            workers = self._client.nthreads()
        except Exception as error:  # distributed has many for a connection that is gone
            raise self._gone() from error
        if workers:
            self._seen = time.monotonic()
        elif time.monotonic() - self._seen > PATIENCE:
            raise AnalysisError(
                f"the Dask scheduler at {self._address} had no worker for {PATIENCE:.0f} s: start some"
                f" with 'dask worker {self._address} --nthreads 1' and run the same command again;"
                " trials committed so far are intact"
            )

    def close(self) -> None:
        # what goes wrong in leaving a scheduler that has gone would hide why we leave: distributed
        # itself stumbles there, now and then, over futures that end while it reconnects
        with suppress(Exception):
            self._executor.shutdown(wait=False)
        with suppress(Exception):
            self._client.close(timeout=5)
        self._log.setLevel(self._log_level)

    def _gone(self) -> AnalysisError:
        return AnalysisError(
            f"the connection to the Dask scheduler at {self._address} was lost: run the same command"
            " again when it is back; trials committed so far are intact"
        )


def _reach(address: str) -> None:
    """Talk to a scheduler; a `Client` that finds none would leave its thread running."""
    from distributed import utils

    dask: Any = utils  # mypy knows no types of it
    runner = dask.LoopRunner()
    runner.start()
    try:
        # limited, because something else may accept the connection and then say nothing
        dask.sync(runner.loop, _greet, address, callback_timeout=CONNECTING)
    finally:
        runner.stop()


async def _greet(address: str) -> None:
    """Ask who is there; a worker would leave a `Client` in pieces."""
    from distributed import core

    dask: Any = core
    comm = await dask.connect(address, timeout=CONNECTING)
    try:
        found = (await dask.send_recv(comm, op="identity"))["type"]
    finally:
        comm.abort()
    if found != "Scheduler":
        raise ValueError(f"a {found} answers there")


def _pickled(function: Experiment) -> bytes:
    """The function for other processes: by its name, or as code if defined in the session."""
    try:
        return pickle.dumps(wrap_non_picklable_objects(function, keep_wrapper=False))
    except Exception as error:  # whatever the function refers to may refuse
        raise InputError(
            f"expected an experiment that can be pickled; {name_of(function)} cannot: {error}"
        ) from error
