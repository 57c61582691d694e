"""What the convexity monitor costs, as ratios measured in one run.

    python benchmarks/monitor.py [--repeats 9] [--threads 1] [--json PATH]

For each model: the time of a training step with `monitor.step` over that of a plain one, at every step
and at each tenth, and the same with `monitor.backward`; the peak of memory over that of plain training;
and, where curvlinops is installed, the time of a product of the Hessian with a vector over that of its
product, in float64, and of a record's loss, gradient and `g^T H g` over that of its product, in float32.
What is compared takes turns, so that what else the machine does hits both; ratios are those of medians.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from reluscape import ConvexityMonitor, Landscape
from reluscape.hessian import HessianProduct
from reluscape.monitor.along_gradient import along_gradient
from reluscape.papers.milne_trials import lenet5, resnet22

#: What the monitor may cost.
LIMITS = {
    "step": 3.5,
    "every=10": 1.3,
    "memory": 2.0,
    "hessian-vector product": 1.2,
}


def mlp() -> nn.Module:
    hidden = [nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(512, 10))


SHAPES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP 784-512-512-10": (mlp, (128, 1, 28, 28)),
    "LeNet-5": (lenet5, (128, 1, 28, 28)),
    "ResNet-22, width 4": (lambda: resnet22(4), (32, 3, 32, 32)),
}


class Loop:
    """Training steps on one batch, with a monitor or without."""

    def __init__(
        self, name: str, every: int | None, *, shared: bool = False, larger: int = 1
    ) -> None:
        make, (samples, *sizes) = SHAPES[name]
        shape = (larger * samples, *sizes)
        torch.manual_seed(0)
        self.model = make()
        self.batch = torch.randn(*shape), torch.randint(10, shape[:1])
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=1e-4)
        self.monitor = every and ConvexityMonitor(nn.CrossEntropyLoss(), every=every)
        self.shared = shared

    def step(self) -> None:
        """One step."""
        if self.monitor and not self.shared:
            self.monitor.step(self.model, self.batch)
        self.optimiser.zero_grad()
        loss = functional.cross_entropy(self.model(self.batch[0]), self.batch[1])
        if self.monitor and self.shared:
            self.monitor.backward(self.model, loss)
        else:
            loss.backward()
        self.optimiser.step()


def seconds(work: Callable[[], Any]) -> float:
    """CPU time of a call: what other processes take does not count."""
    start = time.process_time()
    work()
    return time.process_time() - start


def ratios(works: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median times, taken in turns, over that of the first."""
    for work in works.values():
        work()
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            found[name].append(seconds(work))
    medians = {name: median(values) for name, values in found.items()}
    first = next(iter(medians.values()))
    return {name: value / first for name, value in medians.items()}


def ten(loop: Loop) -> Callable[[], None]:
    """Ten steps."""

    def work() -> None:
        for _ in range(10):
            loop.step()

    return work


def steps(name: str, repeats: int) -> dict[str, float]:
    """Ten steps with each way of monitoring over ten plain ones."""
    loops = {
        "plain": Loop(name, None),
        "step": Loop(name, 1),
        "every=10": Loop(name, 10),
        "step, by backward": Loop(name, 1, shared=True),
        "every=10, by backward": Loop(name, 10, shared=True),
    }
    return ratios({key: ten(loop) for key, loop in loops.items()}, repeats)


# ---- memory -------------------------------------------------------------------------------------


#: Batches that many times larger, so that PyTorch's own memory does not count.
LARGER = 8


def memory(name: str) -> float:
    """Peak of memory of monitored steps over that of plain ones, model, data and gradients included."""
    peaks = [peak(name, every) for every in (None, 1)]
    return peaks[1] / peaks[0]


def peak(name: str, every: int | None) -> int:
    """Peak of the resident set beyond what there is before the model, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=tell_peak, args=(name, every, theirs))
    process.start()
    found = int(ours.recv())
    process.join()
    return found


def tell_peak(name: str, every: int | None, pipe: Any) -> None:
    """Send the peak; a tiny loop first loads what PyTorch loads late."""
    torch.set_num_threads(1)
    torch.autograd.grad(
        nn.Linear(2, 1)(torch.ones(1, 2)).sum(), nn.Linear(2, 1).weight, allow_unused=True
    )
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before = resident("VmRSS")
    loop = Loop(name, every, larger=LARGER)
    for _ in range(3):
        loop.step()
    pipe.send(resident("VmHWM") - before)


def resident(key: str) -> int:
    """An entry of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])


# ---- products with the Hessian ------------------------------------------------------------------


def products(name: str, repeats: int) -> dict[str, float | None]:
    """Times over those of curvlinops' products; None without it."""
    try:
        import curvlinops  # noqa: F401
    except ImportError:
        return {"hessian-vector product": None, "record over a product": None}
    return {
        "hessian-vector product": product(name, repeats),
        "record over a product": record(name, repeats),
    }


def product(name: str, repeats: int) -> float:
    """Of the Hessian and a vector, as `HessianProduct` forms it from the graph that it keeps."""
    loop = Loop(name, None)
    loop.model.double().eval()
    x, y = loop.batch
    ours = HessianProduct(Landscape(loop.model, x.double(), y, loss="cross_entropy"))
    vector = torch.randn(ours.size).double()
    theirs = operator(loop.model, (x.double(), y))
    works = {"theirs": lambda: theirs @ vector, "ours": lambda: ours(vector.numpy())}
    return ratios(works, repeats)["ours"]


def record(name: str, repeats: int) -> float:
    """Of loss, gradient and `g^T H g`, the model's forward pass included."""
    loop = Loop(name, None)
    loop.model.eval()
    parameters = list(loop.model.parameters())
    vector = torch.randn(sum(p.numel() for p in parameters))
    theirs = operator(loop.model, loop.batch)

    def ours() -> None:
        loss = functional.cross_entropy(loop.model(loop.batch[0]), loop.batch[1])
        along_gradient(loss, parameters)

    return ratios({"theirs": lambda: theirs @ vector, "ours": ours}, repeats)["ours"]


def operator(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> Any:
    """The Hessian of curvlinops; it refuses batch norm in train mode."""
    from curvlinops import HessianLinearOperator

    return HessianLinearOperator(
        model, nn.CrossEntropyLoss(), list(model.parameters()), [batch], check_deterministic=False
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results: dict[str, dict[str, float | None]] = {}
    for name in SHAPES:
        found: dict[str, float | None] = dict(steps(name, options.repeats))
        found["memory"] = memory(name)
        found |= products(name, options.repeats)
        results[name] = found
        print(f"\n{name}")
        for key, value in found.items():
            limit = LIMITS.get(key)
            told = "" if limit is None else f"   at most {limit:g}"
            print(f"  {key:26} {'-' if value is None else f'{value:.2f}':>6}{told}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
