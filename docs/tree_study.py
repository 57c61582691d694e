"""What merge trees teach: the numbers and figures of docs/tree.md.

python docs/tree_study.py                         # all tables, several minutes
python docs/tree_study.py --only minima --draws 5
python docs/tree_study.py --only figures          # in docs/figures/, by Playwright and Chromium
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import plotly.graph_objects as go
import torch
from torch import nn

from reluscape import (
    Landscape,
    MergeTree,
    Schedule,
    certify,
    connect,
    descend,
    merge_tree,
    path_maximum,
)
from reluscape.report.charts import COLOURS, figure, x_axis, y_axis
from reluscape.trees.figures import disconnectivity, networks, persistence

#: Losses that differ by less are equal, in the loss of zero weights.
ALIKE = 1e-6
#: Draws of data, starts for each, and steps, of each loss.
TRAINING = {"squared": (12, 50, 4000), "l1": (6, 15, 3000)}
#: Samples and units of the tables of minima, with at most so many cells.
SAMPLES, UNITS, MAX_CELLS = (6, 8, 12, 24), (1, 2, 3, 4), 400_000
#: Where the figures are, and their width.
FIGURES, WIDTH = Path(__file__).parent / "figures", 720


def student(samples: int, units: int, seed: int, loss: str = "squared") -> Landscape:
    """Noisy samples of two units with output weights 1 and -1, for units with such weights in turn."""
    rng = np.random.default_rng(seed)
    inputs = rng.uniform(-1.0, 1.0, size=(samples, 1))
    slopes, kinks = rng.choice([-2.0, 2.0], size=2), rng.uniform(-0.7, 0.7, size=2)
    hidden = np.maximum(slopes * (inputs - kinks), 0.0)
    targets = hidden @ np.array([[1.0], [-1.0]]) + 0.1 * rng.normal(size=(samples, 1))
    model = nn.Sequential(nn.Linear(1, units), nn.ReLU(), nn.Linear(units, 1)).double()
    with torch.no_grad():
        model[2].weight.copy_(torch.tensor([[(-1.0) ** k for k in range(units)]]))
        model[2].bias.zero_()
    return Landscape(model, inputs, targets, loss=loss)


def first_layer_alone(landscape: Landscape) -> Landscape:
    """The same network with an output layer that is no parameter."""
    model = landscape.module_at()
    for name in ("weight", "bias"):
        value = getattr(model[2], name).detach().clone()
        delattr(model[2], name)
        model[2].register_buffer(name, value)
    return Landscape(model, landscape.inputs, landscape.targets, loss=landscape.loss_name)


# ---- how many minima are bad ------------------------------------------------------------------------


def minima(samples: int, units: int, draws: int) -> dict[str, Any]:
    """Means over draws of data."""
    trees = [merge_tree(student(samples, units, seed).block(0)) for seed in range(draws)]
    unit = np.array([tree.layer.zero_loss for tree in trees])
    bad = [
        tree.losses > tree.losses[0] + ALIKE * one for tree, one in zip(trees, unit, strict=True)
    ]
    barriers = [
        ((tree.deaths - tree.losses)[own] / one)
        for tree, own, one in zip(trees, bad, unit, strict=True)
    ]
    return {
        "samples": samples, "units": units, "draws": draws, "cells": trees[0].num_cells,
        "minima": float(np.mean([len(tree.losses) for tree in trees])),
        "bad": float(np.mean([own.mean() for own in bad])),
        "some_bad": float(np.mean([own.any() for own in bad])),
        "global_loss": float(np.mean([tree.losses[0] for tree in trees] / unit)),
        "highest": float(np.mean([own.max(initial=0.0) for own in barriers])),
    }  # fmt: skip


# ---- what the block certificate says of them --------------------------------------------------------


def certificates(units: int, loss: str, draws: int) -> dict[str, Any]:
    """Claims of `certify` at the minima of trees of 4 to 10 samples."""
    claims: Counter[str] = Counter()
    for samples in (4, 6, 8, 10):
        for seed in range(draws):
            block = student(samples, units, seed, loss).block(0)
            claims.update(certify(block, theta).claim for theta in merge_tree(block).minima)
    return {"units": units, "loss": loss, "draws": draws, "minima": claims.total(), **claims}


# ---- where training ends -------------------------------------------------------------------------------


def gradients(landscape: Landscape, thetas: np.ndarray) -> np.ndarray:
    """By the first layer alone, of many points at once."""
    x, y, units = landscape.inputs[:, 0], landscape.targets[:, 0], thetas.shape[1] // 2
    signs = (-1.0) ** np.arange(units)
    values = thetas[:, None, :units] * x[:, None] + thetas[:, None, units:]
    gap = np.maximum(values, 0.0) @ signs - y
    outer = np.sign(gap) if landscape.loss_name == "l1" else 2.0 * gap
    moved = outer[:, :, None] * (values > 0) * signs / len(y)
    return np.hstack([np.einsum("snk,n->sk", moved, x), moved.sum(axis=1)])


def trained(landscape: Landscape, starts: np.ndarray, method: str, steps: int) -> np.ndarray:
    """Ends of gradient descent or Adam, with rates that fall to zero."""
    thetas, first, second = starts.copy(), np.zeros_like(starts), np.zeros_like(starts)
    for step in range(1, steps + 1):
        slope = gradients(landscape, thetas)
        rate = 1.0 - step / (steps + 1)
        if method == "gradient descent":
            thetas -= 0.1 * rate * slope
            continue
        first += 0.1 * (slope - first)
        second += 0.001 * (slope**2 - second)
        scaled = np.sqrt(second / (1 - 0.999**step)) + 1e-8
        thetas -= 0.03 * rate * first / (1 - 0.9**step) / scaled
    return thetas


def in_global_basin(tree: MergeTree, theta: np.ndarray) -> bool:
    """Whether the global minimum can be reached from there without rising."""
    level = tree.layer.value(theta) + ALIKE * tree.layer.zero_loss
    return tree.barrier(theta, tree.minima[0]).level <= level


def training(
    samples: int, units: int, loss: str, draws: int, starts: int, steps: int
) -> dict[str, Any]:
    """Shares of the starts and of the ends from which nothing has to rise, means over draws of data."""
    methods = ["gradient descent", "Adam"] + ["vertex descent"] * (loss == "l1")
    shares: dict[str, list[float]] = {name: [] for name in ["starts", *methods]}
    for seed in range(draws):
        landscape = student(samples, units, seed, loss)
        block, rng = landscape.block(0), np.random.default_rng(1000 + seed)
        tree, begin = merge_tree(block), rng.normal(size=(starts, 2 * units))
        for name in shares:
            if name == "starts":
                ends = begin
            elif name == "vertex descent":
                ends = np.array([descend(block, one).theta for one in begin])
            else:
                ends = trained(landscape, begin, name, steps)
            shares[name].append(float(np.mean([in_global_basin(tree, end) for end in ends])))
    means = {name: float(np.mean(own)) for name, own in shares.items()}
    return {"samples": samples, "units": units, "loss": loss, "draws": draws, **means}


# ---- what strings find ------------------------------------------------------------------------------


def found_barrier(
    landscape: Landscape, ends: tuple[np.ndarray, np.ndarray], calls: int, steps: int
) -> tuple[float, float]:
    """The lowest maximum of the strings that `connect` finds at falling levels, and the line's."""
    alone = first_layer_alone(landscape)

    def maximum(beads: np.ndarray) -> float:
        return max(path_maximum(alone, a, b, relative_gap=1e-9).upper for a, b in pairwise(beads))

    floor = max(alone.loss(end) for end in ends)
    straight = best = maximum(np.stack(ends))
    low = floor
    for _ in range(calls):
        if best - low <= 1e-3 * (best - floor):
            break
        level = 0.5 * (low + best)
        string = connect(alone, *ends, level, max_depth=4, schedule=Schedule(max_steps=steps))
        best = min(best, maximum(string.beads))
        low = low if best <= level * (1 + 1e-3) else level
    return best, straight


def strings(
    samples: int, units: int, draws: int, calls: int = 5, steps: int = 100
) -> Iterator[dict[str, Any]]:
    """The barrier from the worst minimum of each draw to the global one, exact and found."""
    for seed in range(draws):
        landscape = student(samples, units, seed)
        tree = merge_tree(landscape.block(0))
        if len(tree.losses) == 1:
            continue
        worst = int(np.argmax(tree.deaths[1:] - tree.losses[1:])) + 1
        exact = tree.barrier(tree.minima[0], tree.minima[worst]).level
        found, straight = found_barrier(
            landscape, (tree.minima[0], tree.minima[worst]), calls, steps
        )
        height = exact - tree.losses[worst]
        yield {
            "samples": samples, "units": units, "seed": seed, "exact": exact, "height": height,
            "found": found, "straight": straight, "zero": tree.layer.zero_loss,
        }  # fmt: skip


# ---- figures ----------------------------------------------------------------------------------------


def example() -> Landscape:
    """The one of the page."""
    rng = np.random.default_rng(3)
    x = rng.uniform(-1, 1, size=(10, 1))
    y = np.maximum(2 * x - 0.6, 0) - np.maximum(-2 * x - 0.4, 0) + 0.1 * rng.normal(size=(10, 1))
    model = student(10, 2, 0).module_at()
    return Landscape(model, x, y)


def sizes() -> Iterator[tuple[int, int]]:
    """Samples and units of the tables."""
    for samples in SAMPLES:
        for units in UNITS:
            if (2 * samples) ** units < MAX_CELLS:
                yield samples, units


def shares_of_bad(rows: list[dict[str, Any]]) -> go.Figure:
    """The share of bad minima over the samples, a line for each number of units."""
    traces = []
    for place, units in enumerate(UNITS):
        own = [row for row in rows if row["units"] == units]
        name = f"{units} unit" + "s" * (units > 1)
        traces.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": name,
                "x": [row["samples"] for row in own], "y": [100.0 * row["bad"] for row in own],
                "line": {"color": COLOURS[place], "width": 1.8}, "marker": {"size": 7},
            }
        )  # fmt: skip
    across = x_axis("samples") | {"type": "log", "tickvals": list(SAMPLES)}
    up = y_axis("share of bad minima") | {"range": [0, 100], "ticksuffix": " %"}
    return figure(traces, {"xaxis": across, "yaxis": up}, 340, len(traces))


def write_figures(rows: list[dict[str, Any]], folder: Path = FIGURES) -> None:
    """Write the page's figures as SVG."""
    from playwright.sync_api import sync_playwright

    folder.mkdir(exist_ok=True)
    tree = merge_tree(example().block(0))
    drawn = {
        "tree-branches": disconnectivity(tree),
        "tree-persistence": persistence(tree),
        "tree-networks": networks(tree),
        "tree-bad": shares_of_bad(rows),
    }
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        page = browser.new_page()
        for name, one in drawn.items():
            page.set_content(one.to_html(include_plotlyjs=True))
            size = {"format": "svg", "width": WIDTH, "height": one.layout.height}
            ask = "size => Plotly.toImage(document.querySelector('.js-plotly-plot'), size)"
            text = unquote(page.evaluate(ask, size).partition(",")[2])
            own = re.findall(
                r'id="defs-(\w+)"|\btrace([0-9a-f]{6})\b', text
            )  # drawn anew each time
            for name_drawn in {"".join(one) for one in own}:
                text = text.replace(name_drawn, "")
            (folder / f"{name}.svg").write_text(text + "\n", encoding="utf-8")
        browser.close()


def main() -> None:
    """Print the tables' rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", choices=("minima", "training", "strings", "certificates", "figures")
    )
    parser.add_argument("--draws", type=int, default=20, help="of data, for the minima")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []

    def tell(row: dict[str, Any]) -> None:
        rows.append(row)
        print(
            *(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()),
            flush=True,
        )

    if options.only in (None, "minima", "figures"):
        for samples, units in sizes():
            tell(minima(samples, units, options.draws))
    if options.only == "figures":
        write_figures(rows)
    if options.only in (None, "certificates"):
        for loss in ("squared", "l1"):
            for units in (2, 3):
                tell(certificates(units, loss, options.draws))
    if options.only in (None, "training"):
        for loss, counts in TRAINING.items():
            for units in (1, 2, 3):
                tell(training(10, units, loss, *counts))
    if options.only in (None, "strings"):
        for units in (2, 3):
            for row in strings(8, units, 30):
                tell(row)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
