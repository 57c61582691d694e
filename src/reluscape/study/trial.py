"""One trial of a study: its parameters, its seed and what came of it.

A trial's seed is drawn from `SeedSequence(seed, spawn_key=(repetition, *words of the parameters'
hash))`: it depends on nothing but the study's seed, the parameters and the repetition, so neither the
order of the trials nor the number of workers nor an interruption can change a result.

NumPy is loaded where it is used: reading a study's standing does without.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from reluscape.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Record = dict[str, float | int | bool | None]
Parameters = Mapping[str, Any]
Experiment = Callable[[dict[str, Any], int], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Trial:
    """What to run: parameters (as canonical JSON), repetition and the seed that belongs to them."""

    parameters: str
    repetition: int
    seed: int

    @classmethod
    def of(cls, parameters: str, repetition: int, study_seed: int) -> Trial:
        """The trial of this repetition, with its own seed below 2^63."""
        import numpy as np

        words = np.frombuffer(hashlib.sha256(parameters.encode()).digest()[:8], dtype=">u4")
        sequence = np.random.SeedSequence(
            study_seed, spawn_key=(repetition, *(int(word) for word in words))
        )
        return cls(parameters, repetition, int(sequence.generate_state(1, np.uint64)[0] >> 1))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a trial.

    Attributes:
        trial: The trial.
        status: "done", "failed" (it raised, or returned no record) or "lost" (its worker died).
        record: Its numbers by name.
        arrays: Its arrays by name.
        error: The traceback, or what was wrong with the record.
        seconds: Time that it ran.
        host: Machine that it ran on.
        environment: Versions of Python and packages, as JSON.
    """

    trial: Trial
    status: str
    record: Record = field(default_factory=dict)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    error: str | None = None
    seconds: float = 0.0
    host: str = ""
    environment: str = "{}"


def canonical(parameters: Parameters) -> str:
    """Parameters as JSON with sorted keys: their identity.

    Raises:
        InputError: Not a mapping of names to plain values.
    """
    try:
        names = all(isinstance(name, str) for name in parameters)
        text = json.dumps(dict(parameters), sort_keys=True, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"parameters must map names to finite numbers, texts, booleans or lists: {error}"
        ) from error
    if not names:
        raise InputError(
            f"parameters must have texts as names; received {sorted(map(repr, parameters))}"
        )
    return text


def _plain(value: Any) -> Any:
    """NumPy numbers and arrays in parameters as Python's own."""
    import numpy as np

    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"received a {type(value).__name__}")
