"""Cost of Block.gradient, kinks and pattern against plain PyTorch on the same network.

The unit is one forward and backward pass of the network in float64, for the same loss, with
respect to all its parameters, in the same process with the same number of threads. Each block is
that of the first layer, the most expensive one. The repeats of all candidates are interleaved, so
that a slow spell of the machine touches all of them, and medians are compared.

One thread is the default, because with several the thread pools of PyTorch and NumPy wait for each
other on a busy machine, which makes PyTorch look slower than it is and the ratios too good.

    python benchmarks/landscape.py
    python benchmarks/landscape.py --json landscape.json --samples 200 2000 --threads 2
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import nn
from torch.nn import functional as F

from reluscape.landscape import Landscape

GOAL = 1.5
CASES = {"20-64-32-1": "squared", "64-16-16-10": "cross_entropy"}
SECONDS_PER_CASE = 3.0


def network(widths: list[int], seed: int) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs, dtype=torch.float64), nn.ReLU()]
    module = nn.Sequential(*layers[:-1])
    with torch.no_grad():
        for value in module.parameters():
            draw = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            value.copy_(draw / value.shape[-1] ** 0.5)
    return module


def problem(widths: list[int], loss: str, samples: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(samples)
    inputs = generator.standard_normal((samples, widths[0]))
    if loss == "cross_entropy":
        return inputs, generator.integers(widths[-1], size=samples)
    return inputs, generator.standard_normal((samples, widths[-1]))


def plain_pass(module: nn.Module, inputs: np.ndarray, targets: np.ndarray) -> Callable[[], float]:
    """Forward and backward of the mean loss over all parameters, as a training loop does it."""
    x, y = torch.from_numpy(inputs), torch.from_numpy(targets)
    parameters = list(module.parameters())

    def run() -> float:
        outputs = module(x)
        if y.dtype == torch.int64:
            value = F.cross_entropy(outputs, y)
        else:
            value = (outputs - y).square().sum() / len(y)
        torch.autograd.grad(value, parameters)
        return value.item()

    return run


def medians(candidates: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Median seconds of each candidate over interleaved repeats, at least seven of each."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for run in candidates.values():
        run()
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or len(times["torch"]) < 7:
        for name, run in candidates.items():
            before = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - before)
    return {name: median(values) for name, values in times.items()}


def measure(shape: str, loss: str, samples: int, seconds: float) -> dict[str, object]:
    widths = [int(width) for width in shape.split("-")]
    module = network(widths, seed=0)
    inputs, targets = problem(widths, loss, samples)
    block = Landscape(module, inputs, targets, loss=loss).block(0)
    plain = plain_pass(module, inputs, targets)
    if not np.isclose(block.loss(), plain(), rtol=1e-10):
        raise SystemExit(f"{shape}: the block and PyTorch disagree about the loss")
    # theta is passed each time, so that nothing can be remembered from the call before
    theta = block.theta.copy()
    taken = medians(
        {
            "torch": plain,
            "gradient": lambda: block.gradient(theta),
            "kinks": lambda: block.kinks(theta),
            "pattern": lambda: block.pattern(theta),
        },
        seconds,
    )
    ratios = {name: taken[name] / taken["torch"] for name in ("gradient", "kinks", "pattern")}
    return {
        "network": shape,
        "loss": loss,
        "samples": samples,
        "torch_seconds": taken["torch"],
        "ratios": ratios,
    }


def table(rows: list[dict]) -> str:
    lines = [
        f"{'network':13}{'N':>7}{'torch ms':>10}{'gradient':>10}{'kinks':>8}{'pattern':>9}  goal"
    ]
    for row in rows:
        ratios = row["ratios"]
        met = all(ratio <= GOAL for ratio in ratios.values())
        lines.append(
            f"{row['network']:13}{row['samples']:7d}{1000 * row['torch_seconds']:10.3f}"
            f"{ratios['gradient']:10.2f}{ratios['kinks']:8.2f}{ratios['pattern']:9.2f}"
            f"  <= {GOAL} {'met' if met else 'MISSED'}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the numbers here")
    parser.add_argument("--samples", type=int, nargs="+", default=[200, 2000, 20000])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=SECONDS_PER_CASE, help="per row")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with threadpool_limits(options.threads):
        rows = [
            measure(shape, loss, samples, options.seconds)
            for shape, loss in CASES.items()
            for samples in options.samples
        ]
    print("Time in units of one float64 PyTorch forward+backward of the same network and loss")
    print(f"({options.threads} thread(s), PyTorch {torch.__version__}, {platform.machine()})")
    print(table(rows))
    if options.json is not None:
        facts = {"threads": options.threads, "torch": torch.__version__, "goal": GOAL}
        options.json.write_text(json.dumps({**facts, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
