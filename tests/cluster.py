"""A real Dask scheduler and workers on loopback, for tests and benchmarks."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).parent


class Cluster:
    """`dask scheduler` and `dask worker` processes on free ports; workers may be killed.

    With `reviving` another worker is started for each that has died. Dask's nanny may not: by its
    code it leaves a worker dead that dies while it counts as starting, and the scheduler may give it
    a task by then.
    """

    def __init__(self, workers=2, *, threads=1, path=HERE, reviving=False, allowed_failures=3):
        self.folder = tempfile.TemporaryDirectory()
        self.path = path
        self.settings = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": str(allowed_failures)}
        self.workers = []
        self.scheduler = None
        self.start_scheduler()
        for _ in range(workers):
            self.add_worker(threads=threads)
        self.closing = threading.Event()
        self.reviver = threading.Thread(target=self._revive, args=(threads,))
        if reviving:
            self.reviver.start()

    def _revive(self, threads):
        while not self.closing.wait(0.1):
            for worker in [worker for worker in self.workers if worker.poll() is not None]:
                self.workers.remove(worker)
                self.add_worker(threads=threads)

    def _dask(self, *arguments):
        paths = [str(self.path)] if self.path else []
        environment = {**os.environ, **self.settings, "PYTHONPATH": os.pathsep.join(paths)}
        with Path(self.folder.name, "log.txt").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dask", *arguments],
                stdout=log,
                stderr=log,
                cwd=self.folder.name,
                env=environment,
                start_new_session=True,
            )

    def start_scheduler(self):
        file = Path(self.folder.name, "scheduler.json")
        file.unlink(missing_ok=True)
        self.scheduler = self._dask(
            *("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"),
            *("--scheduler-file", str(file)),
        )
        deadline = time.monotonic() + 60
        while not file.is_file() or not file.read_text().strip():
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)
        self.address = json.loads(file.read_text())["address"]

    def add_worker(self, *, threads=1):
        self.workers.append(
            self._dask(
                *("worker", self.address, "--host", "127.0.0.1", "--no-dashboard"),
                *("--nthreads", str(threads), "--no-nanny"),
                *("--local-directory", self.folder.name, "--death-timeout", "60"),
            )
        )

    def log(self):
        return Path(self.folder.name, "log.txt").read_text()

    def close(self):
        """Workers first: they would wait for a scheduler that has gone."""
        self.closing.set()
        if self.reviver.ident:
            self.reviver.join()
        for processes in (self.workers, [self.scheduler]):
            for process in processes:
                process.terminate()
            for process in processes:
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self.folder.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
