"""Cells of one unit's weight space enumerated a second, on one core.

Normal samples and a column of ones. `formula` is the number of cells in general position; `seconds` are
CPU seconds of `enumerate_cells` after compilation, interior points and their check included, the median
of several runs; `facets` those of finding all pairs of neighbours. The goal is 20,000 cells a second at
4 parameters (3 inputs and the bias) and 100 samples. The rows `grid` are points of a grid, where many
hyperplanes meet in one ray.

    python benchmarks/cells.py
    python benchmarks/cells.py --repeats 5 --json cells.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from reluscape import count_cells, enumerate_cells

GOAL = 20_000
#: Parameters and samples.
NORMAL = ((2, 100), (2, 1000), (3, 100), (3, 400), (4, 50), (4, 100), (5, 40), (8, 16))
#: Inputs and points a side.
GRIDS = ((2, 10), (3, 4))


def normal(params: int, samples: int) -> np.ndarray:
    """Normal inputs and ones."""
    inputs = np.random.default_rng(0).normal(size=(samples, params - 1))
    return np.hstack([inputs, np.ones((samples, 1))])


def grid(inputs: int, side: int) -> np.ndarray:
    """Points of a grid and ones."""
    return np.array([[*point, 1.0] for point in product(range(side), repeat=inputs)])


def seconds(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Median CPU time of a call, and what it returned."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        found = work()
        times.append(time.process_time() - start)
    return median(times), found


def measure(name: str, features: np.ndarray, repeats: int) -> dict[str, Any]:
    """One row of the table."""
    spent, cells = seconds(lambda: enumerate_cells(features), repeats)
    facets, contacts = seconds(cells.contacts, repeats)
    return {
        "name": name, "params": features.shape[1], "samples": len(features), "cells": len(cells),
        "formula": count_cells(*features.shape), "seconds": spent, "per_second": len(cells) / spent,
        "margin": float(cells.margins.min()), "facets": len(contacts.kinks), "facets_seconds": facets,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    subjects = [("normal", normal(*shape)) for shape in NORMAL]
    subjects += [("grid", grid(*shape)) for shape in GRIDS]
    rows = []
    with threadpool_limits(1):
        enumerate_cells(grid(2, 3)).contacts()  # compiles or loads the kernels
        print(
            f"{'':6} {'params':>6} {'samples':>7} {'cells':>8} {'formula':>8} {'seconds':>8}"
            f" {'cells/s':>9} {'least margin':>12} {'facets':>8} {'seconds':>8}   goal {GOAL} cells/s"
        )
        for name, features in subjects:
            row = measure(name, features, options.repeats)
            rows.append(row)
            print(
                f"{name:6} {row['params']:6} {row['samples']:7} {row['cells']:8} {row['formula']:8}"
                f" {row['seconds']:8.3f} {row['per_second']:9.0f} {row['margin']:12.1e}"
                f" {row['facets']:8} {row['facets_seconds']:8.3f}"
            )
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
