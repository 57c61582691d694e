"""Studies under kills, Ctrl-C, full disks and read-only media: nothing committed is ever lost."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import experiments
import pytest

from reluscape import Study
from reluscape.errors import InputError

HERE = Path(__file__).parent
POINTS = {"point": [0, 1, 2, 4]}  # the first has arrays

RUN = """
import sys
import experiments
from reluscape import Study
path, name, points, trials, jobs = sys.argv[1:]
print("ready", flush=True)
tell = lambda *told: print(*told, flush=True)
function = getattr(experiments, name)
Study(path).run(function, eval(points), trials=int(trials), jobs=int(jobs), progress=tell)
"""


def start(path, function="short", points=POINTS, *, trials=1, jobs=1):
    """A process that runs a study and prints every commit."""
    return subprocess.Popen(
        [sys.executable, "-c", RUN, *map(str, (path, function, points, trials, jobs))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HERE)},
        start_new_session=True,
    )


def kill(process):
    process.kill()
    process.communicate()


def children(of):
    """Processes whose parent is `of`, without those that have ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = stat.parent.name, stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(rest[1]) == of and rest[0] != "Z":
            found.append(int(pid))
    return found


def workers(of):
    """loky's worker processes of a process."""
    return [
        pid for pid in children(of) if b"popen_loky" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def runs(pid):
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs.sqlite"


def committed(path):
    """Trials with an outcome, in a file that may not be there yet."""
    try:
        standing = Study(path).standing()
    except InputError:  # no file, or no plan in it
        return 0
    return standing.done + standing.failed


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The digest of a run that nothing interrupted."""
    study = Study(tmp_path_factory.mktemp("whole") / "runs.sqlite")
    study.run(experiments.short, POINTS, trials=30)
    return study.digest()


# ---- kills -------------------------------------------------------------------------------------


def test_killed_at_10_random_moments_a_study_ends_like_an_uninterrupted_one(path, whole):
    moments, done = random.Random(1), [0]
    for number in range(10):
        process = start(path, trials=30, jobs=2 if number == 7 else 1)
        for _ in range(1 + number % 2):  # every other time after the first commit
            process.stdout.readline()
        time.sleep(moments.uniform(0, 0.15))
        kill(process)
        done.append(committed(path))
    assert done == sorted(done)
    assert 0 < done[-1] < 120
    Study(path).run(experiments.short, POINTS, trials=30)
    assert Study(path).digest() == whole
    assert not list(Path(f"{path}.arrays").glob(".*"))


CUT_OFF = """
import os, signal, sys
import experiments
from reluscape import Study
files = []
def hook(event, arguments):
    if event in ("os.link", "os.rename") and "fork1" in str(arguments):
        files.append(arguments)
        if len(files) == 10:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
Study(sys.argv[1]).run(experiments.short, {"point": [0, 1, 3]}, trials=20, fork=True)
"""


def test_a_fork_killed_while_it_takes_over_trials_takes_over_all_of_them_next_time(path):
    Study(path).run(experiments.short, {"point": [0, 3]}, trials=20)
    cut = subprocess.run(
        [sys.executable, "-c", CUT_OFF, str(path)], env={**os.environ, "PYTHONPATH": str(HERE)}
    )
    assert cut.returncode == -signal.SIGKILL
    ran = []
    standing = Study(path).run(
        experiments.short, {"point": [0, 1, 3]}, trials=20, fork=True,
        progress=lambda *told: ran.append(told),
    )  # fmt: skip
    assert standing.path.name == "runs-fork1.sqlite"
    assert len(ran) == 20
    fresh = Study(path.with_name("fresh.sqlite"))
    fresh.run(experiments.short, {"point": [0, 1, 3]}, trials=20)
    assert Study(standing.path).digest() == fresh.digest()


def test_workers_end_soon_after_their_parent_is_killed(path):
    process = start(path, "wait", {"point": [0, 1, 2], "seconds": 60}, jobs=2)
    for _ in range(3):  # "ready", then the two short trials
        process.stdout.readline()
    left = workers(process.pid)
    assert len(left) == 2
    kill(process)
    until(lambda: not any(map(runs, left)), seconds=5)
    assert Study(path).standing().done == 2


def test_killed_workers_cost_nothing(path, whole):
    """Whatever a worker does when it is killed, its trial is run again."""
    kills = []

    def murder(*_):
        alive = workers(os.getpid())
        if len(kills) < 3 and alive:
            kills.append(alive[-1])
            os.kill(alive[-1], signal.SIGKILL)

    standing = Study(path).run(experiments.short, POINTS, trials=30, jobs=2, progress=murder)
    assert len(kills) == 3
    assert standing.lost == 0
    assert Study(path).digest() == whole
    assert workers(os.getpid()) == []


def test_a_trial_that_kills_its_worker_is_tried_three_times_and_stops_no_other(path, tmp_path):
    points = [{"deaths": deaths, "folder": str(tmp_path)} for deaths in (0, 1, 3)]
    study = Study(path)
    standing = study.run(experiments.lethal, points, jobs=2)
    assert (standing.done, standing.failed, standing.lost) == (2, 0, 1)
    assert "1 lost" in standing.summary()
    records = study.records().set_index("deaths")
    assert records.loc[3, "status"] == "lost"
    assert "each of 3 times" in records.loc[3, "error"]
    # asked again with leave to try, it gets through, still in a process of its own
    assert study.run(experiments.lethal, points, jobs=2, retry=True).done == 3


def test_ctrl_c_ends_at_once_with_everything_committed(path):
    process = start(path, "wait", {"point": [0, 1, 2], "seconds": 60}, jobs=2)
    until(lambda: len(workers(process.pid)) == 2)
    time.sleep(0.1)
    for worker in workers(process.pid):  # in the midst of its imports: it must not stumble
        os.kill(worker, signal.SIGINT)
    for _ in range(3):
        process.stdout.readline()
    left = workers(process.pid)
    before = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=10)
    assert time.monotonic() - before < 3
    assert told.rstrip().endswith("KeyboardInterrupt")
    assert told.count("Traceback") == 1
    assert not any(map(runs, left))
    assert Study(path).standing().done == 2


def test_a_failure_of_the_progress_leaves_no_workers(path):
    def fail(*_):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        Study(path).run(experiments.short, POINTS, trials=5, jobs=2, progress=fail)
    assert workers(os.getpid()) == []
    assert Study(path).standing().done == 1


# ---- several processes -------------------------------------------------------------------------


def test_while_a_long_trial_runs_others_are_committed_and_can_be_read_but_not_run(path):
    points = {"point": [1, 2, 3, 0, 4, 5, 6, 7], "seconds": 60}
    process = start(path, "wait", points, jobs=2)
    try:
        until(lambda: committed(path) == 7, seconds=20)
        assert len(Study(path).records()) == 7
        link = path.with_name("link.sqlite")
        link.symlink_to(path)
        for place, jobs in ((path, 1), (path, 2), (link, 1)):
            with pytest.raises(InputError, match="another process is running the study") as caught:
                Study(place).run(experiments.wait, points, jobs=jobs)
            assert "\n" not in str(caught.value)
    finally:
        kill(process)


def test_processes_that_start_together_never_spoil_the_file(path):
    """Some run, the others are refused; once all have ended the study goes on."""
    together = [start(path, trials=5) for _ in range(3)]
    told = [process.communicate(timeout=60)[1] for process in together]
    assert any(process.returncode == 0 for process in together)
    for process, text in zip(together, told, strict=True):
        assert process.returncode == 0 or "another process is running the study" in text
    Study(path).run(experiments.short, POINTS, trials=5)
    plain = Study(path.with_name("plain.sqlite"))
    plain.run(experiments.short, POINTS, trials=5)
    assert Study(path).digest() == plain.digest()


# ---- media -------------------------------------------------------------------------------------

MOUNTED = """
import subprocess, sys
from pathlib import Path
import experiments
from reluscape import Study
from reluscape.errors import InputError

def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)

def refused(call, *words):
    try:
        call()
    except InputError as error:
        told = str(error)
        assert "\\n" not in told and all(word in told for word in words), told
        return told
    raise AssertionError("not refused")

folder = Path(sys.argv[1])
plain = Study(folder.parent / "plain.sqlite")
path = folder / "runs.sqlite"
"""

FULL = """
function, trials, jobs = getattr(experiments, sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
mount("-t", "tmpfs", "-o", f"size={sys.argv[5]}", "tmpfs", str(folder))
run = lambda: Study(path).run(function, trials=trials, jobs=jobs)
refused(run, "make room", "intact")
done = Study(path).standing().done
assert 0 < done < trials, done
digest = Study(path).digest()
assert len(list(Study(path).arrays("array"))) in (0, done)
assert not list(folder.glob("*/.*"))
refused(run, "make room", "intact")  # still full: still the same answer, and nothing lost
assert Study(path).digest() == digest and Study(path).standing().done >= done
mount("-o", "remount,size=100m", str(folder))
run()
plain.run(function, trials=trials)
assert Study(path).digest() == plain.digest()
"""

READ_ONLY = """
def look(trials):
    before = sorted(folder.iterdir())
    mount("-o", "remount,ro", str(folder))
    refused(lambda: Study(path).run(experiments.short, {"point": [0, 1]}, trials=9), "writable")
    refused(lambda: Study(folder / "new.sqlite").run(experiments.trivial), "writable")
    digest = Study(path).digest()
    assert Study(path).standing().done == len(Study(path).records()) == trials
    Study(path).export(folder.parent / "out.csv")
    assert len(list(Study(path).arrays("draw"))) in (2, 3)
    mount("-o", "remount,rw", str(folder))
    assert sorted(folder.iterdir()) == before
    assert Study(path).digest() == digest

mount("-t", "tmpfs", "tmpfs", str(folder))
Study(path).run(experiments.short, {"point": [0, 1]}, trials=2)
look(4)
code = "import experiments, os; from reluscape import Study; Study(%r).run(experiments.short," \\
    " {'point': [0, 1]}, trials=3, progress=lambda *_: os._exit(9))" % str(path)
assert subprocess.run([sys.executable, "-c", code]).returncode == 9
assert Path(f"{path}-wal").stat().st_size  # its last commits are in the log still
look(5)
for study in (plain, Study(path)):
    study.run(experiments.short, {"point": [0, 1]}, trials=4)
assert Study(path).digest() == plain.digest()
"""

WITHOUT_SHARED_MEMORY = """
import os
mount("-t", "tmpfs", "tmpfs", str(folder))
code = "import experiments, os; from reluscape import Study; Study(%r).run(experiments.trivial," \\
    " trials=3, progress=lambda *_: os._exit(9))" % str(path)
assert subprocess.run([sys.executable, "-c", code]).returncode == 9
os.unlink(f"{path}-shm")
mount("-o", "remount,ro", str(folder))
refused(Study(path).standing, "runs.sqlite-wal", "copy both")
"""


@pytest.fixture(scope="module")
def may_mount(tmp_path_factory):
    """A command line that lets the rest of it mount, in a name space of its own."""
    probe = ["sh", "-c", f"mount -t tmpfs tmpfs {tmp_path_factory.mktemp('probe')}"]
    ways = (["unshare", "-m"], ["unshare", "-rm"], ["sudo", "-n", "-E", "unshare", "-m"])
    told = ""
    for way in ways:
        try:
            tried = subprocess.run([*way, *probe], capture_output=True, text=True)
        except FileNotFoundError as error:
            told = str(error)
            continue
        if tried.returncode == 0:
            return way
        told = tried.stderr
    return pytest.skip(f"no file system may be mounted here: {told}")


def mounted(may_mount, tmp_path, script, *arguments):
    folder = tmp_path / "mounted"
    folder.mkdir()
    command = [*may_mount, sys.executable, "-c", MOUNTED + script, str(folder), *arguments]
    tried = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(HERE)}
    )
    assert tried.returncode == 0, tried.stderr


@pytest.mark.parametrize(
    ("function", "trials", "jobs", "size"),
    [("trivial", "3000", "1", "400k"), ("big", "12", "2", "1m")],
)
def test_a_full_disk_is_one_line_and_the_study_goes_on_once_there_is_room(
    may_mount, tmp_path, function, trials, jobs, size
):
    mounted(may_mount, tmp_path, FULL, function, trials, jobs, size)


def test_a_read_only_medium_can_be_read_and_is_not_written(may_mount, tmp_path):
    mounted(may_mount, tmp_path, READ_ONLY)


def test_a_log_that_cannot_be_read_is_not_passed_over(may_mount, tmp_path):
    mounted(may_mount, tmp_path, WITHOUT_SHARED_MEMORY)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_without_leave_to_write_is_one_line(path):
    Study(path).run(experiments.trivial)
    path.chmod(0o444)
    path.parent.chmod(0o555)
    try:
        with pytest.raises(InputError, match="writable"):
            Study(path).run(experiments.trivial, trials=2)
        assert Study(path).standing().done == 1
    finally:
        path.parent.chmod(0o755)
