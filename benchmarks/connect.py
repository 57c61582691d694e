"""What strings of models cost, as ratios measured in one run.

    python benchmarks/connect.py [--pairs 5] [--steps 60] [--json PATH]

1. Beads of a depth trained as one batch against one at a time: time of the same steps of the same beads,
   while all of their segments are open. On the pairs of 2, beads start along the straight line between
   the two models; on other networks, around one model. Where one bead alone keeps the
   processor busy there is little to gain: for the largest network the time of its matrix products is
   given too, as the bound that a batch could not pass.
2. To a certified connection of the same pairs below the same level: gradients and seconds of the greedy
   and the constrained strings, of a quadratic Bezier curve (one and eight positions a step) and of a
   nudged elastic band. A search that ends without a connection counts as infinitely dear. Compiled code
   is warm, and methods take turns. At the end of each level stands whether greedy strings are as cheap
   as the best other.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from reluscape import Connection, Landscape, Schedule, connect
from reluscape.strings.surface import Surface
from reluscape.strings.training import train_below
from reluscape.train import mlp

#: How much faster a batch shall be.
GOAL = 3.0
LARGEST = "convnet, 100 images"

X = np.linspace(0.0, 1.0, 30)[:, None]
CUBIC = 8 * X**3 - 10 * X**2 + 3 * X


def convnet() -> nn.Module:
    first = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), *first, nn.Flatten(), nn.Linear(36, 10))


def larger_convnet() -> nn.Module:
    first = [nn.Conv2d(1, 8, 5), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(8, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*first, *second, nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10))


def images(count: int) -> Landscape:
    """Random images of the size of MNIST's, on the larger of the two convolutional networks."""
    rng = np.random.default_rng(0)
    inputs, labels = rng.random((count, 1, 28, 28)), rng.integers(0, 10, count)
    return Landscape(larger_convnet(), inputs, labels, loss="cross_entropy")


def products(count: int) -> None:
    """The products with matrices in one gradient of the larger network's convolutions, nothing else."""
    for filters, weights, places, inner in ((8, 25, 576, False), (16, 200, 64, True)):
        kernel = torch.ones(filters, weights, dtype=torch.float64)
        patches = torch.ones(weights, places * count, dtype=torch.float64)
        slopes = kernel @ patches
        slopes @ patches.T
        if inner:
            kernel.T @ slopes


def digits(model: nn.Module, count: int) -> Landscape:
    inputs, labels = load_digits(return_X_y=True)
    return Landscape(model, inputs[:count] / 16.0, labels[:count], loss="cross_entropy")


def subjects() -> dict[str, Landscape]:
    return {
        "1-4-4-1, 30 samples": Landscape(mlp((1, 4, 4, 1), seed=0), X, CUBIC),
        "64-16-10, 100 digits": digits(mlp((64, 16, 10), seed=0), 100),
        "convnet, 100 digits": digits(convnet(), 100),
        LARGEST: images(100),
    }


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def batches(steps: int, repeats: int) -> list[dict[str, Any]]:
    """Time of training beads one at a time over that of one batch."""
    counts, rows = (8, 16, 32), []
    landscape, a, b = pairs(1, 0.03)[0]
    for beads in counts:
        starts = a + np.linspace(0.0, 1.0, beads + 2)[1:-1, None] * (b - a)
        row = {"model": "pairs, 1-8-8-1", "beads": beads}
        rows.append(row | faster("pairs", landscape, starts, steps, repeats))
    for name, landscape in subjects().items():
        for beads in counts:
            noise = np.random.default_rng(0).normal(size=(beads, landscape.size))
            starts = landscape.theta + 0.01 * noise
            row = {"model": name, "beads": beads}
            rows.append(row | faster(name, landscape, starts, steps, repeats))
    return rows


def faster(
    name: str, landscape: Landscape, starts: np.ndarray, steps: int, repeats: int
) -> dict[str, float]:
    """How many times, and for the largest network the bound on it; the ways take turns."""
    steps = max(1, steps // 20) if name == LARGEST else steps
    schedule = Schedule(max_steps=steps)
    together, alone = Surface(landscape), Surface(landscape, batched=False)

    def batch() -> None:
        train_below(together, starts, -1.0, schedule)

    def single() -> None:
        for one in starts:
            train_below(alone, one[None], -1.0, schedule)

    def least() -> None:
        for _ in range(len(starts) * steps):
            products(100)

    batch()
    works = [single, batch, *[least] * (name == LARGEST)]
    turns = [[seconds(work) for work in works] for _ in range(repeats)]
    first, *others = (median(times) for times in zip(*turns, strict=True))
    return dict(zip(("speedup", "bound"), (first / one for one in others), strict=False))


def pairs(count: int, level: float) -> list[tuple[Landscape, np.ndarray, np.ndarray]]:
    """Networks on the cubic, trained to just below the level from different seeds."""
    landscape = Landscape(mlp((1, 8, 8, 1), seed=0), X, CUBIC)
    found: list[np.ndarray] = []
    seed = 0
    while len(found) < 2 * count:
        starts = np.stack([_theta(seed + k) for k in range(8)])
        trained = train_below(Surface(landscape), starts, 0.95 * level, Schedule(max_steps=3000))
        found += list(trained.thetas[trained.reached])
        seed += 8
    return [(landscape, found[2 * k], found[2 * k + 1]) for k in range(count)]


def _theta(seed: int) -> np.ndarray:
    return np.concatenate(
        [p.detach().numpy().ravel() for p in mlp((1, 8, 8, 1), seed=seed).parameters()]
    )


def methods(
    landscape: Landscape, a: np.ndarray, b: np.ndarray, level: float
) -> dict[str, Connection]:
    """One connection by each method; all may take thousands of gradients, several times what it takes."""
    long, wide, few = (Schedule(max_steps=steps) for steps in (4_000, 500, 300))
    return {
        "greedy": connect(landscape, a, b, level),
        "constrained": connect(landscape, a, b, level, method="constrained", schedule=few),
        "bezier, 1 position": connect(landscape, a, b, level, method="bezier", schedule=long),
        "bezier, 8 positions": connect(landscape, a, b, level, method="bezier", draws=8, schedule=wide),
        "band": connect(landscape, a, b, level, method="band", schedule=few),
    }  # fmt: skip


def comparison(count: int, level: float) -> list[dict[str, Any]]:
    """Medians over pairs whose straight line is above the level."""
    found: dict[str, list[Connection]] = {}
    for landscape, a, b in pairs(count, level):
        for name, one in methods(landscape, a, b, level).items():
            found.setdefault(name, []).append(one)
    rows = []
    for name, several in found.items():
        joined = [one.status == "connected" for one in several]
        row = {"method": name, "level": level, "pairs": count, "connected": sum(joined)}
        for what in ("gradients", "losses", "seconds", "normalized_length", "num_beads"):
            values = [
                float(getattr(one, what)) if good else math.inf
                for one, good in zip(several, joined, strict=True)
            ]
            row[what] = median(values)
        rows.append(row)
    return rows


def verdict(row: dict[str, Any]) -> str:
    """What falls short of the goal, and whether any batch could reach it."""
    if row["speedup"] >= GOAL:
        return ""
    bound = row.get("bound", math.inf)
    return f"  below {GOAL:g}" + (f", and so is any: at most {bound:.1f}" if bound < GOAL else "")


def against_the_rest(rows: list[dict[str, Any]]) -> str:
    """Greedy strings beside the cheapest Bezier curve or band."""
    told = []
    for what in ("gradients", "seconds"):
        own, best = rows[0][what], min(row[what] for row in rows[2:])
        met = "met" if own <= best else "NOT MET"
        told.append(f"{what} {own:.4g}, the best curve or band {best:.4g}: {met}")
    return f"level {rows[0]['level']:g}: greedy at most the best of the others: {'; '.join(told)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"batches over one at a time, goal {GOAL:g}")
    speed = batches(options.steps, options.repeats)
    for row in speed:
        print(
            f"{row['model']:24} {row['beads']:3} beads: {row['speedup']:6.1f} times{verdict(row)}"
        )
    comparison(1, 0.03)  # compiles
    costs = []
    for level in (0.03, 0.01):
        rows = comparison(options.pairs, level)
        costs += rows
        for row in rows:
            print(
                f"level {row['level']:g} {row['method']:20} {row['connected']}/{row['pairs']} connected,"
                f" medians: {row['gradients']:8.0f} gradients, {row['losses']:8.0f} losses,"
                f" {row['seconds']:6.2f} s, length {row['normalized_length']:.2f},"
                f" {row['num_beads']:.0f} beads"
            )
        print(against_the_rest(rows))
    if options.json:
        options.json.write_text(json.dumps({"speed": speed, "costs": costs}, indent=1))


if __name__ == "__main__":
    main()
