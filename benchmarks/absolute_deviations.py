"""Least absolute deviations by `descend` against quantreg's Barrodale-Roberts code and HiGHS.

The loss `mean |y - x w - b|` of a linear layer is convex, and its minimum that of a linear program. The
objectives of all three must agree to 1e-9, relatively, and `descend` (with the set-up of its landscape
and the certificate of its end) take at most 3 times as long as `br` of the package pinball-qr, which is
Koenker's Fortran code. All have an intercept: a bias here, a column of ones there. `descend` starts from
PyTorch's random weights; `br` includes its package's checks of the inputs. Repeats are interleaved and
medians compared. HiGHS solves the dual program once; its time is for orientation.

    python benchmarks/absolute_deviations.py
    python benchmarks/absolute_deviations.py --json deviations.json --repeats 9
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog
from threadpoolctl import threadpool_limits

from reluscape import Landscape, certify, descend

try:
    from pinball.linear.solvers.br import BRSolver
except ImportError:
    print("absolute_deviations: left out; it needs pinball-qr: pip install 'reluscape[peers]'")
    raise SystemExit(0) from None

Floats = NDArray[np.float64]

GOAL = 3.0
EQUAL = 1e-9
SIZES = ((10_000, 4), (1_000, 100), (10_000, 50))


def data(samples: int, columns: int) -> tuple[Floats, Floats]:
    """A linear model with heavy-tailed noise (Student's t with 3 degrees of freedom)."""
    rng = np.random.default_rng(samples + columns)
    x = rng.standard_normal((samples, columns))
    return x, x @ rng.standard_normal(columns) + rng.standard_t(3, samples)


def with_ones(x: Floats) -> Floats:
    return np.hstack([x, np.ones((len(x), 1))])


def by_descent(x: Floats, y: Floats) -> dict[str, Any]:
    """Coefficients, and the seconds of set-up, descent and, done once more, the certificate."""
    torch.manual_seed(0)
    model = torch.nn.Linear(x.shape[1], 1, dtype=torch.float64)
    start = time.perf_counter()
    block = Landscape(model, x, y[:, None], loss="l1").block(0)
    ready = time.perf_counter()
    descent = descend(block)
    end = time.perf_counter()
    certify(block, descent.theta)
    return {
        "coefficients": descent.theta, "seconds": end - start, "set_up": ready - start,
        "certificate": time.perf_counter() - end, "pivots": descent.num_pivots,
        "status": descent.status,
    }  # fmt: skip


def by_br(x: Floats, y: Floats) -> dict[str, Any]:
    start = time.perf_counter()
    found = BRSolver().solve(with_ones(x), y, 0.5)
    return {"coefficients": found.coefficients, "seconds": time.perf_counter() - start}


def by_highs(x: Floats, y: Floats) -> dict[str, Any]:
    """The dual: maximise y . d with X^T d = 0 and |d| <= 1; its multipliers are the coefficients."""
    start = time.perf_counter()
    inputs = with_ones(x)
    found = linprog(-y, A_eq=inputs.T, b_eq=np.zeros(inputs.shape[1]), bounds=(-1, 1))
    return {"coefficients": -found.eqlin.marginals, "seconds": time.perf_counter() - start}


def objective(x: Floats, y: Floats, coefficients: Floats) -> float:
    return float(np.abs(y - with_ones(x) @ coefficients).mean())


def measure(samples: int, columns: int, repeats: int) -> dict[str, Any]:
    """Medians of one size."""
    x, y = data(samples, columns)
    methods: dict[str, Callable[[Floats, Floats], dict[str, Any]]] = {
        "descent": by_descent,
        "br": by_br,
    }
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in methods}
    by_descent(x[:50], y[:50])  # compiles the kernel
    for _ in range(repeats):
        for name, method in methods.items():
            runs[name].append(method(x, y))
    runs["highs"] = [by_highs(x, y)]
    found = {name: median(run["seconds"] for run in done) for name, done in runs.items()}
    loss = {name: objective(x, y, done[0]["coefficients"]) for name, done in runs.items()}
    descent = runs["descent"]
    return {
        "samples": samples, "columns": columns, "pivots": descent[0]["pivots"],
        "status": descent[0]["status"], "objective": loss["descent"],
        "to_br": loss["descent"] / loss["br"] - 1, "to_highs": loss["descent"] / loss["highs"] - 1,
        "seconds": found["descent"], "set_up": median(run["set_up"] for run in descent),
        "certificate": median(run["certificate"] for run in descent), "br": found["br"],
        "highs": found["highs"],
        "ratio": median(
            a["seconds"] / b["seconds"] for a, b in zip(descent, runs["br"], strict=True)
        ),
    }  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = []
    print(
        f"{'size':>12} {'pivots':>6} {'to br':>9} {'to HiGHS':>9} {'seconds':>8} {'set-up':>7}"
        f" {'certif.':>7} {'br':>7} {'HiGHS':>7} {'ratio':>6}   goals {EQUAL:g}, {GOAL:g}"
    )
    with threadpool_limits(1):
        torch.set_num_threads(1)
        for size in SIZES:
            found = measure(*size, options.repeats)
            results.append(found)
            print(
                f"{'{:,} x {}'.format(*size):>12} {found['pivots']:6d} {found['to_br']:9.1e}"
                f" {found['to_highs']:9.1e} {found['seconds']:8.4f} {found['set_up']:7.4f}"
                f" {found['certificate']:7.4f} {found['br']:7.4f} {found['highs']:7.3f}"
                f" {found['ratio']:6.2f}   {found['status']}"
            )
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
