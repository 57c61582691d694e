"""Cost of vertex descent: against its floor and the published scheme, its growth, and real data.

Four parts, every number measured in one run:

- `pivot`: CPU time per pivot after the first vertex, of the descent's own loop: the kernel, the checks of
  every batch and rebuilds, without the certificate at the end. Its floor is one forward-mode product over
  all samples (the rates along a direction: a matrix product for each layer and its mask, samples side by
  side, results in arrays that are there already) and one rank-one update of a p x p matrix, all plain
  BLAS; the arrays are the floor's own and hot in the cache. Both are timed in turn, several times; told
  are the medians. The goal is a ratio of at most 3.
- `published`: from the same start to a minimum by the published scheme (`published_scheme.py`: first-kink
  steps, a fresh inverse for every flip; it certifies nothing) and by ours, certificate included.
- `growth`: time, pivots and memory against parameters, samples and depth, with fitted exponents.
- `digits`: the digits below 5 against the rest, a 64-16-1 network trained by Adam on the L1 loss, its
  first layer then descended to the end on raw pixels, constant columns and all.

    python benchmarks/descent.py
    python benchmarks/descent.py --parts pivot growth --json descent.json
"""

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import published_scheme
import torch
from scipy.linalg.blas import dger
from threadpoolctl import threadpool_limits
from torch import nn

from reluscape import Descent, Landscape, descend
from reluscape.block import Block
from reluscape.certificate import MINIMA
from reluscape.data import load_data
from reluscape.descent import batches, loop, path
from reluscape.descent.path import BATCH
from reluscape.descent.problem import Problem
from reluscape.train import mlp, train

GOAL = 3.0
RULES = ("long_step", "first_kink")
SAMPLES = 500
#: Widths and number of seeds of the comparison with the published scheme.
PUBLISHED = (((4, 5, 4, 3, 2, 1), 5), ((19, 5, 4, 3, 2, 1), 3))
#: Inputs, hidden widths and samples; seeds of each.
GROWTH = {
    "params": {20 * units: (19, [units], 1000) for units in (2, 4, 8, 16)},
    "samples": {samples: (19, [5], samples) for samples in (250, 500, 1000, 2000, 4000)},
    "layers": {depth: (19, [5] * depth, 500) for depth in (1, 2, 3, 4, 5)},
}
SEEDS = 3
#: Passes of Adam over the digits.
EPOCHS = 280
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


def seconds(work: Callable[[], object], repeats: int = 9, calls: int = 50) -> float:
    """Median CPU time of one call."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        for _ in range(calls):
            work()
        times.append((time.process_time() - start) / calls)
    return median(times)


def pivoting(subject: Block, pivots: int) -> tuple[float, int, int]:
    """CPU seconds of the batches after the first vertex, their pivots, and the rebuilds among them."""
    problem = Problem.of(subject.piecewise)
    way = path.Path(subject, problem, subject.theta, subject.size + BATCH + pivots, None)
    before, rebuilt = batches._batch, batches._rebuilt
    marks: list[tuple[float, int]] = []
    rebuilds: list[int] = []

    def mark() -> None:
        if way.first_vertex >= 0:
            marks.append((time.process_time(), len(way.lengths)))

    def batch(*args: Any, **options: Any) -> int:
        mark()
        return before(*args, **options)

    def rebuild(*args: Any) -> Any:
        rebuilds.append(len(way.lengths))
        return rebuilt(*args)

    batches._batch, batches._rebuilt = batch, rebuild
    try:
        batches.follow(problem, way, first=False, rng=np.random.default_rng(0))
    finally:
        batches._batch, batches._rebuilt = before, rebuilt
    mark()
    (start, first), (end, last) = marks[0], marks[-1]
    return end - start, last - first, sum(at >= first for at in rebuilds)


def floor_of(inputs: int, units: int, samples: int) -> tuple[float, float]:
    """CPU seconds of the forward product of a `block`, and of the rank-one update."""
    rng = np.random.default_rng(1)
    features = np.ascontiguousarray(rng.standard_normal((samples, inputs + 1)).T)
    direction, weights = rng.standard_normal((units, inputs + 1)), rng.standard_normal((1, units))
    mask = (rng.random((units, samples)) > 0.5).astype(np.float64)
    hidden, outputs = np.empty((units, samples)), np.empty((1, samples))

    def product() -> None:
        np.dot(direction, features, out=hidden)
        np.multiply(hidden, mask, out=hidden)
        np.dot(weights, hidden, out=outputs)

    size = direction.size
    matrix = np.asfortranarray(rng.standard_normal((size, size)))
    column, row = rng.standard_normal(size), rng.standard_normal(size)
    return seconds(product), seconds(lambda: dger(1e-9, column, row, a=matrix, overwrite_a=1))


def measure(name: str, pivots: int, repeats: int) -> dict[str, Any]:
    """Time per pivot after the first vertex, and its floor, measured in turn."""
    subject = block(*CASES[name])
    rows, rebuilds, taken = [], 0, 0
    for _ in range(repeats):
        spent, taken, rebuilds = pivoting(subject, pivots)
        rows.append((spent / max(1, taken), *floor_of(*CASES[name])))
    ratios = [each / (product + update) for each, product, update in rows]
    each, product, update = (median(column) for column in zip(*rows, strict=True))
    found: dict[str, Any] = {
        "p": subject.size, "pivots": taken, "rebuilds": rebuilds, "milliseconds": 1e3 * each,
        "floor": 1e3 * (product + update), "product": 1e3 * product, "update": 1e3 * update,
        "ratio": median(ratios), "ratios": ratios,
    }  # fmt: skip
    if not min(row[0] for row in rows) > 0:  # too few pivots for the clock
        found |= {"milliseconds": None, "ratio": None}
    return found


def pivot(options: argparse.Namespace) -> dict[str, Any]:
    """CPU time per pivot against its floor."""
    results = {}
    print(
        f"{'':8} {'pivots':>7} {'rebuilds':>8} {'ms CPU':>8} {'floor':>8} {'(product':>9} {'update)':>8}"
        f" {'ratio':>6}   goal {GOAL:g}, medians of {options.repeats}"
    )
    for name in CASES:
        found = results[name] = measure(name, options.pivots, options.repeats)
        floors = f"{found['floor']:8.4f} {found['product']:9.4f} {found['update']:8.4f}"
        ratio = "not measured: too few pivots for the clock"
        if found["ratio"] is not None:
            low, high = min(found["ratios"]), max(found["ratios"])
            ratio = f"{found['ratio']:6.2f}   {low:.2f} to {high:.2f}"
        milliseconds = found["milliseconds"]
        each = "-" if milliseconds is None else f"{milliseconds:.4f}"
        print(f"{name:8} {found['pivots']:7} {found['rebuilds']:8} {each:>8} {floors} {ratio}")
    return results


# ---- the published scheme -----------------------------------------------------------------------


def instance(widths: Sequence[int], seed: int) -> tuple[Block, published_scheme.Problem]:
    """The published experiment's block: other layers in [-1, 1], data in [-3, 3], start in [-20, 20]."""
    rng = np.random.default_rng(seed)
    model = mlp(widths, seed=0)
    layers = [module for module in model if isinstance(module, nn.Linear)]
    with torch.no_grad():
        for place, layer in enumerate(layers):
            for part in layer.parameters():
                size = 1.0 if place else 20.0
                part.copy_(torch.from_numpy(rng.uniform(-size, size, tuple(part.shape))))
    inputs = rng.uniform(-3, 3, (SAMPLES, widths[0]))
    targets = rng.uniform(-3, 3, (SAMPLES, widths[-1]))
    weights, biases = (
        [getattr(m, name).detach().numpy().copy() for m in layers[1:]]
        for name in ("weight", "bias")
    )
    problem = published_scheme.Problem(
        np.hstack([inputs, np.ones((SAMPLES, 1))]), targets, weights, biases
    )
    return Landscape(model, inputs, targets, loss="l1").block(0), problem


def compare(widths: Sequence[int], seed: int, cap: float) -> dict[str, Any]:
    """One instance descended by the published scheme and by both of our rules."""
    subject, problem = instance(widths, seed)
    units = widths[1]
    weight, bias = np.split(subject.theta, [units * widths[0]])
    start = np.hstack([weight.reshape(units, -1), bias[:, None]]).ravel()
    row: dict[str, Any] = {"seed": seed, "p": subject.size}
    run = published_scheme.descend(problem, start, cap=cap)
    row["published"] = {
        "seconds": run.total, "pivots": run.pivots, "flips": run.flips, "outcome": run.outcome,
        "loss": problem.loss(run.theta), "rose": bool(np.diff(run.losses).max(initial=0.0) > 1e-9),
    }  # fmt: skip
    for rule in RULES:
        with certifying() as parts:
            seconds, descent = timed(lambda rule=rule: descend(subject, rule=rule))
        certified = descent.certificate.claim in MINIMA
        row[rule] = {
            "seconds": seconds, "pivots": descent.num_pivots, "outcome": descent.status,
            "loss": descent.loss, "certified": certified, "certifying": sum(parts),
        }  # fmt: skip
    return row


@contextmanager
def certifying() -> Iterator[list[float]]:
    """Seconds of every certification and search for a way out during descents."""
    seconds: list[float] = []

    def timed_call(work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return work(*args, **options)
            finally:
                seconds.append(time.perf_counter() - start)

        return call

    before = path.certify, loop.way_out
    path.certify, loop.way_out = map(timed_call, before)
    try:
        yield seconds
    finally:
        path.certify, loop.way_out = before


def timed(work: Callable[[], Descent]) -> tuple[float, Descent]:
    """Seconds of a call, and its result."""
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def published(options: argparse.Namespace) -> dict[str, Any]:
    """Total times of the published scheme and of ours."""
    results: dict[str, Any] = {}
    for widths, seeds in PUBLISHED:
        rows = [compare(widths, seed, options.cap) for seed in range(seeds)]
        results[f"p={rows[0]['p']}"] = {"runs": rows, "ratios": ratios(rows)}
        print(
            f"\np={rows[0]['p']} ({'-'.join(map(str, widths))}, {SAMPLES} samples);"
            f" published: at most {options.cap:g} s"
        )
        print(f"{'seed':>4} {'':10} {'seconds':>8} {'pivots':>7} {'ms/pivot':>8} {'loss':>9}   end")
        for row in rows:
            for name in ("published", *RULES):
                found = row[name]
                each = 1e3 * found["seconds"] / max(1, found["pivots"])
                more = f", {found['flips']} inverses" if name == "published" else ""
                more += ", loss rose" if found.get("rose") else ""
                if name != "published":
                    more += f", {found['certifying']:.2f} s of it certifying"
                print(
                    f"{row['seed'] if name == 'published' else '':>4} {name:10} {found['seconds']:8.2f}"
                    f" {found['pivots']:7} {each:8.2f} {found['loss']:9.5f}   {found['outcome']}{more}"
                )
        for rule, found in results[f"p={rows[0]['p']}"]["ratios"].items():
            ended, runs, every, each = (found[key] for key in ("ended", "runs", "all", "per_pivot"))
            both = f"{found['both']:.0f}" if ended else "-"
            print(
                f"published / {rule}, medians: {both} times the time where both ended at a minimum"
                f" ({ended} of {runs} runs);\n  at least {every:.0f} over the {found['moving']} runs that"
                f" leave their start (broken off: time until then); {each:.1f} times per pivot"
            )
    return results


def ratios(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Medians of the published scheme's time over ours, run by run."""
    found = {}
    moving = [row for row in rows if row["published"]["pivots"] > 0]
    for rule in RULES:
        quotient = {
            row["seed"]: row["published"]["seconds"] / row[rule]["seconds"] for row in moving
        }
        ended = [
            row for row in moving
            if row["published"]["outcome"] == "minimum" and row[rule]["certified"]
        ]  # fmt: skip
        each = [
            quotient[row["seed"]] * row[rule]["pivots"] / row["published"]["pivots"]
            for row in moving
        ]
        found[rule] = {
            "runs": len(rows), "moving": len(moving), "ended": len(ended),
            "all": median(quotient.values()),
            "both": median(quotient[row["seed"]] for row in ended) if ended else float("nan"),
            "per_pivot": median(each),
        }  # fmt: skip
    return found


# ---- growth -------------------------------------------------------------------------------------


def growing(inputs: int, hidden: Sequence[int], samples: int, seed: int) -> Block:
    """First layer of a network of variance-preserving weights."""
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = mlp((inputs, *hidden, 1), seed=seed)
    with torch.no_grad():
        for value in model.parameters():
            draw = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            value.copy_(draw * (2.0 / value.shape[-1]) ** 0.5 if value.ndim > 1 else 0.1 * draw)
    x = rng.standard_normal((samples, inputs))
    return Landscape(model, x, np.sin(x[:, :1] + x[:, 1:2] ** 2), loss="l1").block(0)


def peak(shape: tuple[int, Sequence[int], int]) -> tuple[int, int]:
    """Largest resident set of a descent beyond what a small one leaves, and the path's part, in bytes.

    Measured in a process of its own, over the pivots to the first vertex and 64 more.
    """
    told = json.dumps(shape)
    command = [sys.executable, __file__, "--peak", told]
    return tuple(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))


def print_peak(shape: tuple[int, Sequence[int], int]) -> None:
    """What `peak` reads."""

    def resident(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])

    with threadpool_limits(1):
        torch.set_num_threads(1)
        subject = growing(*shape, seed=0)
        descend(growing(2, [2], 30, seed=0))
        before = resident("VmRSS")
        descent = descend(subject, max_pivots=subject.size + 64)
    print(json.dumps([resident("VmHWM") - before, descent.vertices.nbytes]))


def growth(options: argparse.Namespace) -> dict[str, Any]:
    """Time, pivots and memory against parameters, samples and depth."""
    results: dict[str, Any] = {}
    for name, shapes in GROWTH.items():
        print(
            f"\n{name:10} {'p':>5} {'kinks':>7} {'seconds':>8} {'pivots':>7} {'ms/pivot':>8}"
            f" {'MB':>6}  ends"
        )
        rows = []
        for value, shape in shapes.items():
            runs = [
                timed(lambda k=k, shape=shape: descend(growing(*shape, seed=k)))
                for k in range(SEEDS)
            ]
            subject = growing(*shape, seed=0)
            kinks = len(subject.kinks())
            memory, path = peak(shape)
            row = {
                name: value, "p": subject.size, "kinks": kinks,
                "seconds": median(seconds for seconds, _ in runs),
                "pivots": median(descent.num_pivots for _, descent in runs),
                "ms/pivot": median(1e3 * s / max(1, d.num_pivots) for s, d in runs),
                "bytes": memory, "path": path, "p^2 + kinks": subject.size**2 + kinks,
                "ends": Counter(descent.status for _, descent in runs),
            }  # fmt: skip
            rows.append(row)
            ends = ", ".join(f"{count} {end}" for end, count in row["ends"].items())
            print(
                f"{value:10} {row['p']:5} {kinks:7} {row['seconds']:8.2f} {row['pivots']:7.0f}"
                f" {row['ms/pivot']:8.3f} {memory / 2**20:6.1f}  {ends}"
            )
        fits = {
            key: exponent(rows, name, key) for key in ("seconds", "pivots", "ms/pivot", "bytes")
        }
        fits["bytes against p^2 + kinks"] = exponent(rows, "p^2 + kinks", "bytes")
        results[name] = {"rows": rows, "exponents": fits}
        told = ", ".join(f"{key} {fit[0]:.2f} ± {fit[1]:.2f}" for key, fit in fits.items())
        print(f"  exponents (log-log least squares ± standard error): {told}")
    return results


def exponent(rows: Sequence[dict[str, Any]], by: str, what: str) -> tuple[float, float]:
    """Slope of log `what` against log `by`, and its standard error."""
    x, y = (np.log([row[key] for row in rows]) for key in (by, what))
    x = x - x.mean()
    slope = float(x @ y / (x @ x))
    rest = y - y.mean() - slope * x
    return slope, float((rest @ rest / max(1, len(x) - 2) / (x @ x)) ** 0.5)


# ---- digits -------------------------------------------------------------------------------------


def digits(options: argparse.Namespace) -> dict[str, Any]:
    """The first layer of a trained network, descended to the end."""
    results: dict[str, Any] = {}
    for scaling in options.pixels:
        data = load_data("digits", standardise=scaling == "standardised")
        inputs = data.inputs if scaling == "standardised" else data.inputs / 16
        targets = np.where(data.targets < 5, 1.0, -1.0)[:, None]
        model = mlp((64, 16, 1), seed=0)
        start = time.perf_counter()
        training = train(
            model, inputs, targets, loss="l1", epochs=EPOCHS, batch_size=128, rate=3e-3, seed=0
        )
        trained = time.perf_counter() - start
        subject = Landscape(model, inputs, targets, loss="l1").block(0)
        with certifying() as parts:
            seconds, descent = timed(lambda subject=subject: descend(subject))
        results[scaling] = {
            "p": subject.size, "samples": len(inputs), "steps": training.steps, "training": trained,
            "before": subject.loss(), "after": descent.loss, "pivots": descent.num_pivots,
            "seconds": seconds, "status": descent.status, "claim": descent.certificate.claim,
            "reason": descent.certificate.reason, "certifying": sum(parts),
        }  # fmt: skip
        fall = 1.0 - descent.loss / subject.loss()
        print(
            f"\ndigits 64-16-1, {scaling} pixels, p={subject.size}, {len(inputs)} samples: Adam"
            f" ({training.steps} steps, {trained:.0f} s) {subject.loss():.6f} -> {descent.loss:.6f}"
            f" ({fall:.1%} lower)\n  {descent.num_pivots} pivots, {seconds:.0f} s,"
            f" {1e3 * seconds / descent.num_pivots:.2f} ms each; {descent.status}, certificate"
            f" {descent.certificate.claim!r}; {sum(parts):.1f} s of it certifying"
            f" ({sum(parts) / seconds:.1%})\n  {descent.certificate.reason}"
        )
    return results


PARTS = {"pivot": pivot, "published": published, "growth": growth, "digits": digits}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--pivots", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5, help="of the part pivot")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--cap", type=float, default=100.0, help="of the published scheme, in seconds"
    )
    parser.add_argument("--pixels", nargs="+", choices=("raw", "standardised"), default=["raw"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print_peak(options.peak)
        return
    results = {}
    with threadpool_limits(options.threads):
        torch.set_num_threads(options.threads)
        for rule in RULES:
            descend(growing(2, [2], 30, seed=0), rule=rule)  # compiles or loads the kernel
        for part in options.parts:
            results[part] = PARTS[part](options)
            if options.json:
                options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
