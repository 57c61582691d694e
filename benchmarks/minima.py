"""Genuine minima of cells by `cell_minimum` against the published linear program.

The published test (Liu, part 2, section IV) writes the minimisers as `R* = A^+ y + (I - A^+ A) c` and
asks a linear program over c in R^{K p} whether one lies in the cell; it is implemented here, with free
bounds and a margin to be maximised, because strict inequalities need one. Both answer the same question
for the same given signs of the output weights. `cell_minimum` is timed on the points after the first,
since what depends on the data alone is computed once for a data set; the first is shown, too. All on one
thread.

Inputs are random by default, in the sizes of the paper's tables. --mnist FILE.npz takes the inputs `x`
and labels `y` of a file instead for the first case, and --full FILE.npz decides the cell of a network on
all images of its two smallest labels, where no closed form applies.

    python benchmarks/minima.py
    python benchmarks/minima.py --json minima.json --limit 60
"""

import argparse
import json
import resource
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import nn

from reluscape import CellMinimum, Landscape, cell_minimum, verify
from reluscape.solvers import LinearProgram

Floats = NDArray[np.float64]

UNITS = 10
POINTS = 20
#: Margins below this are no margins: the solver's tolerance is 1e-9.
MARGIN = 1e-7
GOALS = {"200 x 784": 1000, "200 x 1024": 1000, "2000 x 3": 20}


def data(samples: int, inputs: int) -> tuple[Floats, Floats]:
    """Two classes of Gaussians in few dimensions, sparse grey levels in many."""
    rng = np.random.default_rng(samples + inputs)
    y = np.where(np.arange(samples) % 2, 1.0, -1.0)
    x = rng.standard_normal((samples, inputs))
    if inputs > 100:
        return np.clip(x, 0.0, 3.0) / 3.0 * (rng.random((samples, inputs)) < 0.25), y
    x[:, 0] += y
    return x, y


def images(path: Path) -> tuple[Floats, Floats]:
    """Images of a file's two smallest labels, with labels of -1 and 1."""
    with np.load(path) as file:
        x, y = file["x"], file["y"]
    labels = np.unique(y)[:2]
    chosen = np.isin(y, labels)
    x = x[chosen].reshape(int(chosen.sum()), -1)
    return x / 255.0, np.where(y[chosen] == labels[0], 1.0, -1.0)


def landscape_of(x: Floats, y: Floats, units: int = UNITS) -> Landscape:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(x.shape[1], units), nn.ReLU(), nn.Linear(units, 1)).double()
    return Landscape(model, x, y[:, None])


def points(landscape: Landscape, bias: float, count: int) -> list[Floats]:
    """Gaussian weights with one bias; output weights of random signs."""
    first, last = (landscape.positions(name) for name in landscape.layers)
    units = (len(last) - 1) if len(last) > 1 else 1
    found = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        theta = np.zeros(landscape.size)
        theta[first] = rng.standard_normal(len(first))
        theta[first[len(first) - units :]] = bias
        theta[last[:units]] = rng.choice([-1.0, 1.0], units)
        found.append(theta)
    return found


def published(landscape: Landscape, theta: Floats) -> bool:
    """The program over c, with the point's own signs."""
    first, last = (landscape.positions(name) for name in landscape.layers)
    x = np.hstack([landscape.inputs, np.ones((landscape.num_samples, 1))])
    units = len(last) - 1
    inputs = x.shape[1] - 1
    weights = np.hstack([
        theta[first][: units * inputs].reshape(units, inputs), theta[first][units * inputs :, None]
    ])  # fmt: skip
    pattern = x @ weights.T > 0
    matrix = np.hstack([pattern[:, [j]] * x for j in range(units)])
    inverse = np.linalg.pinv(matrix)
    start = inverse @ landscape.targets[:, 0]
    rows, ends = [], []
    for j in range(units):
        turned = (np.sign(theta[last[j]]) * np.where(pattern[:, j], 1.0, -1.0))[:, None] * x
        turned /= np.linalg.norm(x, axis=1)[:, None]
        part = slice(j * x.shape[1], (j + 1) * x.shape[1])
        moved = -(turned @ inverse[part]) @ matrix
        moved[:, part] += turned
        rows.append(np.hstack([moved, -np.ones((len(x), 1))]))
        ends.append(-(turned @ start[part]))
    size = matrix.shape[1]
    box = np.append(np.full(size, np.inf), 1.0)
    least = np.full(size + 1, -np.inf)
    program = LinearProgram(np.vstack(rows), np.concatenate(ends), box, least=least)
    solution = program.minimise(np.append(np.zeros(size), -1.0))
    return solution.status == "optimal" and float(solution.point[-1]) > MARGIN


def timed(landscape: Landscape, thetas: list[Floats]) -> tuple[list[CellMinimum], list[float]]:
    """Answers and seconds of `cell_minimum`."""
    answers, seconds = [], []
    for theta in thetas:
        began = time.perf_counter()
        answers.append(cell_minimum(landscape, theta, signs="given"))
        seconds.append(time.perf_counter() - began)
    return answers, seconds


def measure(name: str, x: Floats, y: Floats, bias: float, limit: float) -> dict[str, Any]:
    """One row of the comparison; the published program for as many points as the limit allows."""
    landscape = landscape_of(x, y)
    thetas = points(landscape, bias, POINTS)
    answers, seconds = timed(landscape, thetas)
    spent, same = [], []
    for theta, answer in zip(thetas, answers, strict=True):
        began = time.perf_counter()
        same.append(published(landscape, theta) == answer.genuine)
        spent.append(time.perf_counter() - began)
        if sum(spent) > limit:
            break
    return {
        "case": name, "bias": bias, "genuine": sum(bool(a.genuine) for a in answers), "points": POINTS,
        "first": seconds[0], "seconds": median(seconds[1:]), "published": median(spent),
        "compared": len(spent), "same": sum(same), "ratio": median(spent) / median(seconds[1:]),
        "goal": GOALS[name],
    }  # fmt: skip


def growth() -> list[dict[str, Any]]:
    """Milliseconds a point as samples, units and inputs grow, with fitted exponents."""
    found = []
    for name, cases in (
        ("samples", [(n, 3, 10) for n in (500, 1000, 2000, 4000)]),
        ("units", [(1000, 3, k) for k in (5, 10, 20, 40)]),
        ("inputs", [(1000, d, 10) for d in (3, 6, 12, 24)]),
        ("samples, independent", [(n, 1024, 10) for n in (100, 200, 400, 800)]),
    ):
        sizes, times = [], []
        for samples, inputs, units in cases:
            landscape = landscape_of(*data(samples, inputs), units)
            seconds = timed(landscape, points(landscape, 0.0, 6))[1]
            sizes.append({"samples": samples, "units": units, "inputs": inputs}[name.split(",")[0]])
            times.append(median(seconds[1:]))
        slope = float(np.polyfit(np.log(sizes), np.log(times), 1)[0])
        found.append({"grows": name, "sizes": sizes, "seconds": times, "exponent": slope})
    return found


def full(path: Path, bias: float) -> dict[str, Any]:
    """All images of two labels: no closed form; with the proof's check."""
    x, y = images(path)
    landscape = landscape_of(x, y)
    began = time.perf_counter()
    answer = cell_minimum(landscape, points(landscape, bias, 1)[0], signs="given")
    seconds = time.perf_counter() - began
    verdict = verify(answer, landscape)
    return {
        "case": f"{len(x)} x {x.shape[1]}", "bias": bias, "seconds": seconds, "genuine": answer.genuine,
        "kind": answer.kind, "method": answer.method, "margin": answer.margin,
        "verified": verdict.valid, "verify_seconds": time.perf_counter() - began - seconds,
        "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }  # fmt: skip


def show(row: dict[str, Any]) -> None:
    print(
        f"{row['case']:12} {row['bias']:5g} {row['genuine']:4} of {row['points']}"
        f" {1e3 * row['first']:9.1f} {1e3 * row['seconds']:9.2f} {1e3 * row['published']:12.0f}"
        f" {row['ratio']:9.0f} {row['goal']:6} {row['same']:5} of {row['compared']}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--limit", type=float, default=20.0, help="seconds of the published program"
    )
    parser.add_argument("--mnist", type=Path, help="FILE.npz with x and y, for 200 x 784")
    parser.add_argument("--full", type=Path, help="FILE.npz with x and y: all of its two labels")
    options = parser.parse_args()
    rows: dict[str, Any] = {"against": []}
    cases = [
        ("200 x 784", *(images(options.mnist) if options.mnist else data(200, 784)), 0.0),
        ("200 x 1024", *data(200, 1024), 0.0),
        ("2000 x 3", *data(2000, 3), 3.0),
        ("2000 x 3", *data(2000, 3), 0.0),
    ]
    with threadpool_limits(1):
        print(
            f"{'samples x d':12} {'bias':>5} {'genuine':>10} {'first ms':>9} {'ms':>9}"
            f" {'published ms':>12} {'ratio':>9} {'goal':>6} {'same':>10}"
        )
        for case in cases:
            rows["against"].append(measure(*case, options.limit))
            show(rows["against"][-1])
        rows["growth"] = growth()
        for row in rows["growth"]:
            told = ", ".join(f"{1e3 * s:.1f}" for s in row["seconds"])
            print(f"{row['grows']} {row['sizes']}: {told} ms, exponent {row['exponent']:.2f}")
        if options.full:
            rows["full"] = [full(options.full, bias) for bias in (3.0, 0.0, -3.0)]
            print(*rows["full"], sep="\n")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
