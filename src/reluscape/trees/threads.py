"""Compiled functions side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

#: Into how many parts each thread's share is cut.
PARTS = 4


class Here(Executor):
    """Runs functions at once in the thread that asks: with one thread, nothing runs beside it."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """What the function returns or raises."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future

    def map(self, fn: Callable[..., Any], *iterables: Iterable[Any], **_: Any) -> Iterator[Any]:
        """What the function returns, one after the other as they are asked for."""
        return map(fn, *iterables)


@dataclass(frozen=True, slots=True)
class Threads:
    """Runs functions that let others run beside them.

    Attributes:
        pool: Where they run.
        count: How many side by side.
    """

    pool: Executor
    count: int

    @classmethod
    @contextmanager
    def start(cls, count: int) -> Iterator[Threads]:
        """So many threads; where an error stops the work, what has not begun is left."""
        with Here() if count == 1 else ThreadPoolExecutor(count) as pool:
            try:
                yield cls(pool, count)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def cut(self, count: int, parts: int = 1) -> list[tuple[int, int]]:
        """Beginnings and ends of parts of a range, so many for each thread."""
        ends = [count * k // (parts * self.count) for k in range(parts * self.count + 1)]
        return list(pairwise(ends))

    def over(self, count: int, work: Callable[..., Any], *told: Any, least: int = 1) -> list[Any]:
        """What `work(start, stop, *told)` returns for parts of a range, in order.

        Where threads would have fewer than `least` each, which is not worth their waiting for each other,
        this one does all.
        """
        if count < least * self.count:
            return [work(0, count, *told)]
        return self.each(work, [(*part, *told) for part in self.cut(count, PARTS)])

    def each(self, work: Callable[..., Any], told: list[tuple[Any, ...]]) -> list[Any]:
        """What `work` returns for each of these, in order."""
        found, left = [None] * len(told), iter(range(len(told)))

        def go_on() -> None:
            for place in left:  # the next one that no thread has taken
                found[place] = work(*told[place])

        # one task for each thread: handing out every part would cost as much as a small part
        tasks = [self.pool.submit(go_on) for _ in range(min(self.count, len(told)))]
        for task in tasks:
            task.result()
        return found
