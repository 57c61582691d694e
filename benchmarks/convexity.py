"""How far curvature bounds lie below the curvature, and what they and it cost.

Random ReLU networks with H hidden layers of 8 units on 50 normal samples of 4 inputs, target the sine of
the first input, half the squared loss, weight decay 0.01; as PyTorch initialises them, and after 300
steps of gradient descent. The excess of a bound is how far it lies below the weight decay, over how far
the smallest eigenvalue does: 1 is exact. `decay` is the paper's weight decay that covers all global
minimisers over ours. Then times on a network of 64-32-16-10 units and 1797 samples, over that of one
gradient: all three bounds, a Hessian-vector product, and the smallest eigenvalue by Lanczos.

    python benchmarks/convexity.py
    python benchmarks/convexity.py --networks 10 --json convexity.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from reluscape import Convexity, Landscape, convexity
from reluscape.curvature import curvature_bounds
from reluscape.hessian import HessianProduct, least_eigenvalue
from reluscape.losses import make_loss
from reluscape.train import mlp

DECAY, RATE, STEPS = 0.01, 0.05, 300
BOUNDS = ("paper_bound", "sharp_bound", "data_bound")


def landscape(hidden: int, seed: int) -> Landscape:
    """A random network and its data."""
    x = np.random.default_rng(seed).normal(size=(50, 4))
    model = mlp((4, *[8] * hidden, 1), seed=seed)
    return Landscape(model, x, np.sin(x[:, 0]), loss="half_squared", weight_decay=DECAY)


def trained(start: Landscape) -> np.ndarray:
    """Weights after gradient descent."""
    theta = start.theta
    for _ in range(STEPS):
        theta = theta - RATE * start.gradient(theta)
    return theta


def excesses(found: Convexity) -> list[float]:
    """How far each bound lies below the weight decay, over how far the eigenvalue does."""
    return [(DECAY - getattr(found, name)) / (DECAY - found.exact) for name in BOUNDS]


def measure(hidden: int, networks: int) -> list[dict[str, Any]]:
    """Median excesses of one depth, at the start and after training."""
    starts = [landscape(hidden, seed) for seed in range(networks)]
    rows = []
    for when in ("start", "trained"):
        found = [convexity(one, trained(one) if when == "trained" else None) for one in starts]
        medians = np.median([excesses(one) for one in found], axis=0)
        decays = np.median([one.paper_covering_decay / one.covering_decay for one in found])
        rows.append(
            {"hidden": hidden, "when": when, **dict(zip(BOUNDS, medians.tolist(), strict=True))}
            | {"decay": float(decays)}
        )
    return rows


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """Median wall time of a call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def costs() -> dict[str, float]:
    """Times over that of one gradient."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(1797, 64)), rng.integers(0, 10, 1797)
    model = mlp((64, 32, 16, 10), seed=0)
    here = Landscape(model, x, y, loss="cross_entropy", weight_decay=DECAY)
    assert here.reading is not None
    network, features, loss = here.reading.network, here.reading.features, make_loss(here.loss_name)
    product = HessianProduct(here)
    vector = rng.normal(size=here.size)
    unit = seconds(here.gradient, 20)
    bounds = seconds(lambda: curvature_bounds(network, features, here.targets, loss, DECAY), 20)
    once = seconds(lambda: product(vector), 20)
    least = seconds(lambda: least_eigenvalue(HessianProduct(here), max_dense=0), 1)
    return {"bounds": bounds / unit, "product": once / unit, "eigenvalue": least / unit}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", type=int, default=40)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with threadpool_limits(1):
        print(f"{'H':>2} {'':8} {'paper':>9} {'sharper':>9} {'data':>9} {'decay':>7}   medians")
        for hidden in (1, 2, 3, 4):
            for row in measure(hidden, options.networks):
                rows.append(row)
                values = " ".join(f"{row[name]:9.2f}" for name in BOUNDS)
                print(f"{hidden:2} {row['when']:8} {values} {row['decay']:7.1f}")
        spent = costs()
    print("over one gradient: " + ", ".join(f"{name} {value:.2f}" for name, value in spent.items()))
    if options.json:
        options.json.write_text(json.dumps({"excess": rows, "cost": spent}, indent=1) + "\n")


if __name__ == "__main__":
    main()
