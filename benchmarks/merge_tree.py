"""What a merge tree costs: small problems a second, threads, and time and memory from 10^3 to 10^7 cells.

Normal inputs and targets, output weights of random signs; for threads, of signs in turn, too, which make
many minima. Compiled code is warm.

1. Least squares problems, one for each cell and each facet: problems a CPU second of the sweep
   against `scipy.optimize.nnls` on a sample of the same cells. That one gets each problem as small as it
   can be made, as many rows as variables, and only its own calls are timed. `difference` is the largest
   between the losses of both, relative to the loss of zero weights.
2. Two threads over one, wall time, medians of runs that take turns and the least over the least: of the
   sweep, and of the whole call. `serial` is the share of the call's CPU time that its own thread takes,
   which no other thread can: with the sweep's ratio it says what a machine with nothing else to do would
   make of the whole. Where other processes run, ratios are theirs as well.
3. The whole call as cells grow, each size in a process of its own: CPU seconds, microseconds and bytes
   for each cell. `bytes` are peak resident memory above that before the call (Linux alone tells it);
   below 10^5 cells these are mostly what is there whatever the size, and left out. The same of the
   absolute loss.

At the end stands what was asked for, beside what was found.

    python benchmarks/merge_tree.py
    python benchmarks/merge_tree.py --most 1e6 --json merge_tree.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import nnls
from threadpoolctl import threadpool_limits
from torch import nn

from reluscape import Landscape, count_cells, merge_tree
from reluscape.block import Block
from reluscape.trees.layer import Layer
from reluscape.trees.problem import Problem
from reluscape.trees.products import table_of
from reluscape.trees.threads import Threads
from reluscape.trees.values import Chunk, least_values, solve_chunk


class Shape(NamedTuple):
    """Samples, inputs and units of a layer."""

    samples: int
    inputs: int
    units: int

    def __str__(self) -> str:
        return f"d={self.inputs} K={self.units} N={self.samples}"


#: Problems a second on one core that are asked for.
GOALS = {Shape(50, 1, 2): 30_000, Shape(15, 2, 2): 10_000, Shape(30, 1, 3): None}
#: How much faster two threads shall be, and the whole call.
THREADS = 1.8
THREADED = (Shape(500, 1, 2), Shape(32, 2, 2), Shape(50, 1, 3))
GROWING = (
    *(Shape(n, 1, 2) for n in (16, 50, 158, 500, 1581)),
    *(Shape(n, 2, 2) for n in (6, 10, 18, 32, 56)),
    *(Shape(n, 1, 3) for n in (5, 11, 23, 50, 107)),
)
ABSOLUTE = (Shape(40, 1, 2), Shape(158, 1, 2), Shape(32, 2, 2), Shape(40, 1, 3), Shape(107, 1, 3))
#: By how much a cell may cost more among 10^6 than elsewhere, seconds for 10^6, and bytes for 10^7.
GROWTH, MINUTES, MEMORY = 1.5, 300.0, 8e9
#: Cells that the other solver is given, and those below which memory is not told.
SAMPLE, SEEN = 2_000, 50_000


def block(shape: Shape, turns: bool = False, loss: str = "squared") -> Block:
    """The first layer of a random network; output weights of signs in turn make many minima."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(shape.inputs, shape.units), nn.ReLU(), nn.Linear(shape.units, 1)
    )
    signs = rng.choice([-1.0, 1.0], size=(1, shape.units))
    if turns:
        signs[0] = (-1.0) ** np.arange(shape.units)
    model[2].weight.data = torch.from_numpy(signs * rng.uniform(0.5, 2.0, size=signs.shape))
    data = rng.normal(size=(shape.samples, shape.inputs)), rng.normal(size=(shape.samples, 1))
    return Landscape(model.double(), *data, loss=loss).block(0)


def seconds(work: Callable[[], Any], clock: Callable[[], float] = time.process_time) -> float:
    """Time of a call."""
    start = clock()
    work()
    return clock() - start


def resident(what: str) -> int:
    """Bytes of this process: "VmRSS" now, "VmHWM" at most since `forget`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(what))


def forget() -> None:
    """Begin anew with the most memory."""
    Path("/proc/self/clear_refs").write_text("5")


def small_problem(problem: Problem, cell: int) -> tuple[np.ndarray, np.ndarray, float]:
    """A cell's problem as a square system, and what no solution takes from its least square."""
    units, cells, _ = problem.shape
    columns = []
    for unit in range(units):
        own = cell // cells ** (units - 1 - unit) % cells
        rays = problem.rays[problem.starts[own] : problem.starts[own + 1]]
        columns.append(problem.columns[:, rays] * problem.units.readouts[unit])
    design, target = np.hstack(columns), problem.layer.residual[:, 0]
    basis, upper = np.linalg.qr(design)
    inside = basis.T @ target
    return upper, inside, float(target @ target - inside @ inside)


def against_nnls(shape: Shape, repeats: int) -> dict[str, Any]:
    """Problems a second of the sweep and of the other solver."""
    problem = Problem.of(Layer.of(block(shape)), None)
    table = table_of(problem)
    with Threads.start(1) as one:
        solved = least_values(problem, table, one).solved
        spent = median(seconds(lambda: least_values(problem, table, one)) for _ in range(repeats))
    cells = np.random.default_rng(1).choice(problem.num_cells, SAMPLE).tolist()
    given = [small_problem(problem, cell) for cell in cells]
    found: list[float] = []

    def other() -> None:
        found[:] = [nnls(left, right)[1] ** 2 for left, right, _ in given]

    others = median(seconds(other) for _ in range(repeats))
    sums = np.array(found) + [rest for _, _, rest in given]
    own = [solve_chunk(problem, table, Chunk("cells", cell, cell + 1)).sums[0] for cell in cells]
    apart = np.nanmax(np.abs(np.array(own) - sums)) * problem.layer.scale / problem.layer.zero_loss
    return {
        "shape": str(shape), "problems": solved, "per_second": solved / spent,
        "nnls_per_second": SAMPLE / others, "ratio": solved / spent * others / SAMPLE,
        "difference": float(apart), "goal": GOALS[shape],
    }  # fmt: skip


def threads(shape: Shape, turns: bool, repeats: int) -> dict[str, Any]:
    """Time of one thread over that of two."""
    own = block(shape, turns)
    problem = Problem.of(Layer.of(own), None)
    table = table_of(problem)

    def sweep(jobs: int) -> None:
        with Threads.start(jobs) as those:
            least_values(problem, table, those)

    works: dict[str, Callable[[int], Any]] = {
        "sweep": sweep,
        "whole": lambda jobs: merge_tree(own, jobs=jobs),
    }
    minima = len(merge_tree(own).losses)
    told = f"{shape}, {minima} minima"
    row: dict[str, Any] = {"shape": told, "cells": problem.num_cells, "minima": minima}
    for name, work in works.items():
        times: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(repeats):
            for jobs, spent in times.items():
                spent.append(seconds(lambda work=work, jobs=jobs: work(jobs), time.perf_counter))
        row[name] = median(times[1]) / median(times[2])
        row[f"{name}_least"] = min(times[1]) / min(times[2])
    row["serial"] = median(serial_share(lambda: works["whole"](2)) for _ in range(repeats))
    row["whole_idle"] = 1 / (row["serial"] + (1 - row["serial"]) / row["sweep_least"])
    return row


def serial_share(work: Callable[[], Any]) -> float:
    """Share of a call's CPU time that its own thread takes, beside those that it starts."""
    own, whole = time.thread_time(), time.process_time()
    work()
    return (time.thread_time() - own) / (time.process_time() - whole)


def alone(shape: Shape, loss: str) -> dict[str, Any]:
    """What one tree takes; for a process of its own."""
    merge_tree(
        block(Shape(5, shape.inputs, shape.units), loss=loss)
    )  # compiles or loads the kernels
    own = block(shape, loss=loss)
    forget()
    before, began = resident("VmRSS"), time.process_time()
    tree = merge_tree(own)
    spent = [time.process_time() - began]
    peak = resident("VmHWM") - before
    spent += [seconds(lambda: merge_tree(own)) for _ in range(4 if tree.num_cells < 2e5 else 0)]
    return {
        "shape": str(shape), "loss": loss, "cells": tree.num_cells, "facets": tree.num_facets,
        "problems": tree.num_solved, "minima": len(tree.losses), "failed": tree.num_failed,
        "seconds": median(spent), "microseconds_per_cell": 1e6 * median(spent) / tree.num_cells,
        "bytes_per_cell": peak / tree.num_cells if tree.num_cells > SEEN else None,
    }  # fmt: skip


def in_a_process(shape: Shape, loss: str) -> dict[str, Any]:
    """The same, from that process."""
    command = [sys.executable, __file__, "--alone", *map(str, shape), loss]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    row: dict[str, Any] = json.loads(run.stdout)
    return row


def verdicts(rows: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What was asked for, beside what was found."""
    told: list[tuple[str, str, str, bool]] = []
    for row in rows["solver"]:
        if row["goal"] is not None:
            found, goal = row["per_second"], row["goal"]
            what = f"problems a second of one core, {row['shape']}"
            told.append((what, f"{found:,.0f}", f"at least {goal:,}", found >= goal))
    for row in rows["threads"]:
        for name in ("sweep", "whole"):
            best = max(row[name], row[f"{name}_least"])
            what = f"two threads over one, {name}, {row['shape']}"
            told.append((what, f"{best:.2f}", f"at least {THREADS}", best >= THREADS))
        what, best = f"the same by serial share and sweep, {row['shape']}", row["whole_idle"]
        told.append((what, f"{best:.2f}", f"at least {THREADS}", best >= THREADS))
    for family in ("d=1 K=2", "d=2 K=2", "d=1 K=3"):
        own = [
            row
            for row in rows["growth"]
            if row["loss"] == "squared" and row["shape"].startswith(family)
        ]
        large = [row for row in own if 9e5 < row["cells"] < 2e6]
        if large:
            least = min(own, key=lambda row: row["microseconds_per_cell"])
            ratio = large[0]["microseconds_per_cell"] / least["microseconds_per_cell"]
            what = f"cost of a cell among {large[0]['cells']:,} over the least, {family}"
            told.append((what, f"{ratio:.2f}", f"at most {GROWTH}", ratio <= GROWTH))
    for row in rows["growth"]:
        if row["cells"] > 9e5:
            scale = row["cells"] / 1e6
            what = f"seconds for {row['cells']:,} cells, {row['shape']}, {row['loss']}"
            most = MINUTES * scale
            told.append(
                (what, f"{row['seconds']:.1f}", f"at most {most:,.0f}", row["seconds"] <= most)
            )
        if row["cells"] > 9e6 and row["bytes_per_cell"] is not None:
            peak = row["bytes_per_cell"] * row["cells"]
            what = f"bytes for {row['cells']:,} cells, {row['shape']}, {row['loss']}"
            told.append((what, f"{peak:.2g}", f"at most {MEMORY:.0g}", peak <= MEMORY))
    return [
        f"{what:68} {found:>10}   {goal:20} {'met' if met else 'NOT MET'}"
        for what, found, goal, met in told
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--most", type=float, default=1.1e7, help="cells of the largest tree")
    parser.add_argument("--alone", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: dict[str, list[dict[str, Any]]] = {"solver": [], "threads": [], "growth": []}
    with threadpool_limits(1):
        if options.alone:
            *sizes, loss = options.alone
            print(json.dumps(alone(Shape(*map(int, sizes)), loss)))
            return
        print(f"{'problems':18} {'solved':>9} {'a second':>10} {'nnls':>8} {'ratio':>6} difference")
        for shape in GOALS:
            row = against_nnls(shape, options.repeats)
            rows["solver"].append(row)
            goal = "" if row["goal"] is None else f"  goal {row['goal']:,}"
            print(
                f"{row['shape']:18} {row['problems']:9,} {row['per_second']:10,.0f}"
                f" {row['nnls_per_second']:8,.0f} {row['ratio']:6.1f} {row['difference']:10.1e}{goal}"
            )
        for shape, turns in product(THREADED, (False, True)):
            row = threads(shape, turns, options.repeats)
            rows["threads"].append(row)
            print(
                f"two threads over one, {row['shape']}, {row['cells']:,} cells: sweep"
                f" {row['sweep']:.2f} times (least {row['sweep_least']:.2f}), whole {row['whole']:.2f}"
                f" (least {row['whole_least']:.2f}); serial {row['serial']:.3f}, which makes"
                f" {row['whole_idle']:.2f}"
            )
    print(
        f"{'tree':18} {'loss':7} {'cells':>11} {'facets':>11} {'seconds':>8} {'us/cell':>8}"
        f" {'bytes/cell':>10}"
    )
    trees = [*product(GROWING, ["squared"]), *product(ABSOLUTE, ["l1"])]
    for shape, loss in trees:
        if count_cells(shape.samples, shape.inputs + 1) ** shape.units > options.most:
            continue
        row = in_a_process(shape, loss)
        rows["growth"].append(row)
        memory = "" if row["bytes_per_cell"] is None else f"{row['bytes_per_cell']:.0f}"
        print(
            f"{row['shape']:18} {loss:7} {row['cells']:11,} {row['facets']:11,} {row['seconds']:8.3f}"
            f" {row['microseconds_per_cell']:8.2f} {memory:>10}",
            flush=True,
        )
    print()
    for line in verdicts(rows):
        print(line)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
