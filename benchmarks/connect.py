"""What strings of models cost, as ratios measured in one run.

    python benchmarks/connect.py [--pairs 5] [--steps 60] [--json PATH]

1. Beads of a depth trained as one batch against one at a time: time of the same steps of the same beads.
2. To a certified connection of the same pairs below the same level: gradients and seconds of the greedy
   and the constrained strings, of a quadratic Bezier curve (one and eight positions a step) and of a
   nudged elastic band. A search that ends without a connection counts as infinitely dear. Compiled code
   is warm, and methods take turns.
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

#: How much faster a batch shall be at eight beads.
GOAL = 3.0

X = np.linspace(0.0, 1.0, 30)[:, None]
CUBIC = 8 * X**3 - 10 * X**2 + 3 * X


def convnet() -> nn.Module:
    first = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), *first, nn.Flatten(), nn.Linear(36, 10))


def digits(model: nn.Module, count: int) -> Landscape:
    inputs, labels = load_digits(return_X_y=True)
    return Landscape(model, inputs[:count] / 16.0, labels[:count], loss="cross_entropy")


def subjects() -> dict[str, Landscape]:
    return {
        "1-4-4-1, 30 samples": Landscape(mlp((1, 4, 4, 1), seed=0), X, CUBIC),
        "64-16-10, 100 digits": digits(mlp((64, 16, 10), seed=0), 100),
        "convnet, 100 digits": digits(convnet(), 100),
    }


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def batches(steps: int, repeats: int) -> list[dict[str, Any]]:
    """Time of training beads one at a time over that of one batch."""
    rows = []
    schedule = Schedule(max_steps=steps)
    for name, landscape in subjects().items():
        together, alone = Surface(landscape), Surface(landscape, batched=False)
        for beads in (8, 16, 32):
            noise = np.random.default_rng(0).normal(size=(beads, landscape.size))
            starts = landscape.theta + 0.01 * noise

            def batch(starts: np.ndarray = starts, surface: Surface = together) -> None:
                train_below(surface, starts, -1.0, schedule)

            def single(starts: np.ndarray = starts, surface: Surface = alone) -> None:
                for one in starts:
                    train_below(surface, one[None], -1.0, schedule)

            batch()
            times = [(seconds(single), seconds(batch)) for _ in range(repeats)]
            ratio = median(one for one, _ in times) / median(all_ for _, all_ in times)
            rows.append({"model": name, "beads": beads, "speedup": ratio})
    return rows


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    speed = batches(options.steps, options.repeats)
    for row in speed:
        verdict = "" if row["speedup"] >= GOAL else f"  below {GOAL:g}"
        print(f"{row['model']:24} {row['beads']:3} beads: {row['speedup']:6.1f} times{verdict}")
    comparison(1, 0.03)  # compiles
    costs = [row for level in (0.03, 0.01) for row in comparison(options.pairs, level)]
    for row in costs:
        print(
            f"level {row['level']:g} {row['method']:20} {row['connected']}/{row['pairs']} connected,"
            f" medians: {row['gradients']:8.0f} gradients, {row['losses']:8.0f} losses,"
            f" {row['seconds']:6.2f} s, length {row['normalized_length']:.2f},"
            f" {row['num_beads']:.0f} beads"
        )
    if options.json:
        options.json.write_text(json.dumps({"speed": speed, "costs": costs}, indent=1))


if __name__ == "__main__":
    main()
