"""Experiments for the tests of studies, in a module that workers can import."""

import asyncio
import os
import signal
import time
from pathlib import Path

import numpy as np

#: Trials that run in this process now.
RUNNING = []

VALUES = {
    "nan": float("nan"),
    "inf": -float("inf"),
    "tiny": 5e-324,
    "third": 1 / 3,
    "minus_zero": -0.0,
    "large": 2**63 - 1,
    "none": None,
    "true": True,
    "np_bool": np.bool_(False),
    "np_int": np.uint8(200),
    "np_float": np.float32(0.1),
    "scalar_array": np.array(1.5),
}
ARRAYS = {
    "floats": np.array([[np.nan, np.inf], [-0.0, 1 / 3]]),
    "floats_0": np.arange(3.0),
    "single": np.array([0.1], dtype=np.float32),
    "empty": np.empty((0, 3)),
    "bools": np.array([True, False]),
    "bytes": np.arange(-3, 3, dtype=np.int8),
    "unsigned": np.array([2**64 - 1], dtype=np.uint64),
    "big_endian": np.arange(3, dtype=">i4"),
    "strided": np.arange(12)[::5],
    "two words": np.arange(2),
}


def dice(parameters, seed):
    """The mean of some throws."""
    rng = np.random.default_rng(seed)
    return {"mean": rng.integers(1, parameters.get("sides", 6), endpoint=True, size=10).mean()}


def other_dice(parameters, seed):
    return dice(parameters, seed + 1)


def trivial(parameters, seed):
    return {"x": seed / 2**63}


def short(parameters, seed):
    """20 ms; every third point has arrays, and a few trials fail by themselves."""
    time.sleep(parameters.get("seconds", 0.02))
    rng = np.random.default_rng(seed)
    if rng.random() < 0.05:
        raise ValueError(f"no luck with {seed}")
    record = {"product": float((rng.standard_normal((40, 40)) @ rng.standard_normal(40)).sum())}
    if parameters.get("point", 0) % 3 == 0:
        record["draw"] = rng.standard_normal(20)
        record["signs"] = rng.standard_normal(5) > 0
    return record


def everything(parameters, seed):
    return {**VALUES, **ARRAYS}


def returned(parameters, seed):
    """Things that are no record."""
    return {
        "number": 3,
        "list": {"x": [1, 2]},
        "text": {"x": "1"},
        "complex": {"x": 1j},
        "huge": {"x": 2**63},
        "name": {1: 2},
        "objects": {"x": np.array([None, "a"])},
        "half": {"x": np.zeros(2, dtype=np.float16)},
        "masked": {"x": np.ma.masked_array([1, 2], mask=[True, False])},
        "slash": {"a/b": np.zeros(2)},
    }[parameters["what"]]


def raises(parameters, seed):
    if parameters["what"] == "exit":
        raise SystemExit(3)
    if parameters["what"] == "stop":
        raise KeyboardInterrupt
    if parameters["what"] == "cancelled":
        raise asyncio.CancelledError
    if parameters["what"] == "lines":
        raise ValueError("one\n\n  two")
    if parameters["what"] == "surrogate":
        raise ValueError("\udce4\n\x00")
    raise KeyError(parameters["what"])


def big(parameters, seed):
    return {"x": seed / 2**63, "array": np.random.default_rng(seed).standard_normal(20_000)}


def pid(parameters, seed):
    time.sleep(parameters["seconds"])
    return {"pid": os.getpid()}


def wait(parameters, seed):
    """The first trial that comes takes long; the others no time."""
    if parameters["point"] == 0:
        time.sleep(parameters["seconds"])
    return {"x": seed / 2**63}


def lethal(parameters, seed):
    """Kills its process as often as the parameter says; counted by files."""
    for death in range(parameters.get("deaths", 0)):
        mark = Path(parameters["folder"], f"{death}-{seed}")
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return dice(parameters, seed)


def threads(parameters, seed):
    from threadpoolctl import threadpool_info

    most = max(pool["num_threads"] for pool in threadpool_info())
    return {"threads": most, "openmp": int(os.environ["OMP_NUM_THREADS"])}


def alone(parameters, seed):
    """How many trials run in this process at once."""
    RUNNING.append(seed)
    time.sleep(0.02)
    count = len(RUNNING)
    RUNNING.remove(seed)
    return {"running": count, "process": os.getpid()}


ECHOED = {}


class Unpicklable:
    """Refuses to travel."""

    def __reduce__(self):
        raise TypeError("stays here")

    def method(self, parameters, seed):
        return {"x": 1}


def echo(parameters, seed):
    """Whatever a test has put there."""
    return ECHOED
