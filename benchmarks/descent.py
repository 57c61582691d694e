"""Cost of a pivot of vertex descent against its floor, and of its path against first-kink steps.

The floor of a pivot is one forward-mode product over all samples (the rates of all switching values
along a direction) and one rank-one update of a p x p matrix, both through BLAS, measured in the same
process with the same number of threads. The goal is a ratio of at most 3.

    python benchmarks/descent.py
    python benchmarks/descent.py --json descent.json --pivots 500
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from scipy.linalg.blas import dger
from threadpoolctl import threadpool_limits
from torch import nn

from reluscape import Landscape, descend
from reluscape.landscape import Block

GOAL = 3.0
CASES = {"p=100": (19, 5, 1000), "p=336": (20, 16, 1000), "p=1040": (64, 16, 1797)}


def block(inputs: int, units: int, samples: int) -> Block:
    """First layer of a network with one output, on standard normal inputs."""
    generator = torch.Generator().manual_seed(0)
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Linear(inputs, units), nn.ReLU(), nn.Linear(units, 1)).double()
    with torch.no_grad():
        for value in model.parameters():
            draw = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            value.copy_(draw / value.shape[-1] ** 0.5)
    x = rng.standard_normal((samples, inputs))
    return Landscape(model, x, np.sin(x[:, :1] + x[:, 1:2] ** 2), loss="l1").block(0)


def seconds(work: Callable[[], object], repeats: int = 30) -> float:
    """Median time of one call."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return median(times)


def measure(name: str, pivots: int) -> dict[str, float]:
    """Time per pivot after the first vertex, and its floor."""
    subject = block(*CASES[name])
    size = subject.size
    first = descend(subject, max_pivots=size + 8)
    start = time.perf_counter()
    again = descend(subject, first.theta, max_pivots=size + 8)
    middle = time.perf_counter()
    whole = descend(subject, first.theta, max_pivots=size + 8 + pivots)
    end = time.perf_counter()
    taken = whole.num_pivots - again.num_pivots
    per_pivot = ((end - middle) - (middle - start)) / max(1, taken)
    rng = np.random.default_rng(1)
    direction, pattern = rng.standard_normal(size), subject.pattern()
    matrix = np.asfortranarray(rng.standard_normal((size, size)))
    column, row = rng.standard_normal(size), rng.standard_normal(size)
    product = seconds(lambda: subject.piecewise.rates(pattern, direction))
    update = seconds(lambda: dger(1e-9, column, row, a=matrix, overwrite_a=1))
    floor = product + update
    return {
        "p": size, "pivots": taken, "milliseconds": 1e3 * per_pivot, "floor": 1e3 * floor,
        "product": 1e3 * product, "update": 1e3 * update, "ratio": per_pivot / floor,
    }  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pivots", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = {}
    print(f"{'':8} {'pivots':>7} {'ms':>8} {'floor':>8} {'ratio':>6}   goal {GOAL}")
    with threadpool_limits(options.threads):
        torch.set_num_threads(options.threads)
        for name in CASES:
            found = results[name] = measure(name, options.pivots)
            print(
                f"{name:8} {found['pivots']:7.0f} {found['milliseconds']:8.3f} {found['floor']:8.3f}"
                f" {found['ratio']:6.2f}"
            )
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
