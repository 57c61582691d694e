"""Compiled functions side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

#: Into how many parts each thread's share is cut.
PARTS = 4


@dataclass(frozen=True, slots=True)
class Threads:
    """Runs functions that let others run beside them.

    Attributes:
        pool: Where they run.
        count: How many side by side.
    """

    pool: ThreadPoolExecutor
    count: int

    @classmethod
    @contextmanager
    def start(cls, count: int) -> Iterator[Threads]:
        """So many threads; where an error stops the work, what has not begun is left."""
        with ThreadPoolExecutor(count) as pool:
            try:
                yield cls(pool, count)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def over(self, count: int, work: Callable[..., Any], *told: Any) -> list[Any]:
        """What `work(start, stop, *told)` returns for parts of a range, in order."""
        parts = PARTS * self.count
        ends = [count * k // parts for k in range(parts + 1)]
        return list(self.pool.map(lambda *part: work(*part, *told), ends[:-1], ends[1:]))
