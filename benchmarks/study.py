"""What a study costs beside its experiment: time per trial, memory, and seconds until it answers.

The baseline is a plain Python loop that calls the same trivial experiment with the same seeds and
keeps its records in a list, in the same run. Dask's workers are two processes on this machine, so
that scheduler, workers and client share its cores.

    python benchmarks/study.py
    python benchmarks/study.py --json study.json --trials 1000 --many 10000
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from reluscape import Study
from reluscape.study.trial import Trial

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))  # the experiment and the cluster are those of the tests

from cluster import Cluster  # noqa: E402
from experiments import trivial  # noqa: E402

GOAL_OVERHEAD = 5e-3
GOAL_SHOW = 1.0

MEMORY = """
import os, resource, sys
from reluscape import Study
def numbers(parameters, seed):
    return {"a": 1.5, "b": seed % 7, "c": seed % 11 / 3, "d": seed / 2**60, "e": seed / 2**63}
def told(_, done):
    if sys.argv[3] == "killed" and done > 0.999:
        os._exit(0)
Study(sys.argv[1]).run(numbers, trials=int(sys.argv[2]), progress=told)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def loop_seconds(trials: int) -> float:
    """The baseline."""
    start = time.perf_counter()
    records = []
    for repetition in range(trials):
        trial = Trial.of("{}", repetition, 0)
        records.append(trivial(json.loads(trial.parameters), trial.seed))
    return time.perf_counter() - start


def study_seconds(folder: Path, name: str, trials: int, **options: object) -> tuple[float, str]:
    """Time of a whole run, starting its workers included, and the digest of its records."""
    study = Study(folder / f"{name}.sqlite")
    start = time.perf_counter()
    study.run(trivial, trials=trials, **options)
    return time.perf_counter() - start, study.digest()


def overheads(folder: Path, trials: int) -> list[dict[str, object]]:
    """Seconds per trial over the plain loop, for every way to run."""
    plain = loop_seconds(trials)
    ways = {
        f"jobs={jobs}": study_seconds(folder, f"jobs{jobs}", trials, jobs=jobs) for jobs in (1, 2)
    }
    if find_spec("distributed") is None:
        print("dask: left out, because distributed is not installed")
    else:
        with Cluster(workers=2) as cluster:
            ways["dask, 2 workers"] = study_seconds(folder, "dask", trials, dask=cluster.address)
    if len({digest for _, digest in ways.values()}) > 1:
        raise SystemExit("the ways to run disagree about the records")
    return [
        {
            "way": name,
            "seconds": seconds,
            "loop_seconds": plain,
            "overhead_per_trial": (seconds - plain) / trials,
            "within_goal": (seconds - plain) / trials < GOAL_OVERHEAD,
        }
        for name, (seconds, _) in ways.items()
    ]


def peak(file: Path, trials: int, end: str = "ended") -> int:
    """Peak memory in bytes of a process that runs a study of five numbers a trial; 0 if killed."""
    command = [sys.executable, "-c", MEMORY, str(file), str(trials), end]
    paths = {"PYTHONPATH": str(TESTS)}
    told = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, **paths}
    )
    return int(told.stdout or 0)


def shown(file: Path) -> float:
    """Seconds of the whole command `study show`, the median of three."""
    command = [sys.executable, "-m", "reluscape", "study", "show", str(file)]
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[1]


def sizes(folder: Path, few: int, many: int) -> dict[str, object]:
    """Memory at two sizes, and the time of `study show` at the larger, the run ended or killed."""
    ended, killed = folder / "ended.sqlite", folder / "killed.sqlite"
    memory = {few: peak(folder / "few.sqlite", few), many: peak(ended, many)}
    peak(killed, many, "killed")
    seconds = {"ended": shown(ended), "killed": shown(killed)}
    return {"peak_bytes": memory, "show_seconds": seconds, "trials": many}


def table(rows: list[dict], size: dict) -> str:
    lines = [
        f"{'way':18}{'loop ms':>9}{'study ms':>10}{'overhead ms':>13}  goal {GOAL_OVERHEAD * 1e3:g}"
    ]
    for row in rows:
        scale = row["overhead_per_trial"] / (row["seconds"] - row["loop_seconds"]) * 1e3
        lines.append(
            f"{row['way']:18}{row['loop_seconds'] * scale:9.3f}{row['seconds'] * scale:10.3f}"
            f"{row['overhead_per_trial'] * 1e3:13.3f}  {'yes' if row['within_goal'] else 'NO'}"
        )
    few, many = size["peak_bytes"].items()
    lines.append(
        f"peak memory: {few[1] / 2**20:.0f} MiB at {few[0]} trials, {many[1] / 2**20:.0f} MiB at"
        f" {many[0]}"
    )
    lines += [
        f"study show, {size['trials']} trials, run {end}: {seconds:.2f} s  (goal {GOAL_SHOW:g} s)"
        for end, seconds in size["show_seconds"].items()
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--many", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows = overheads(Path(name), arguments.trials)
        size = sizes(Path(name), arguments.trials, arguments.many)
    print(f"{arguments.trials} trivial trials, per trial")
    print(table(rows, size))
    if arguments.json:
        machine = {"python": platform.python_version(), "machine": platform.platform()}
        machine["cores"] = os.cpu_count()
        arguments.json.write_text(
            json.dumps({"machine": machine, "overheads": rows, "sizes": size}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
