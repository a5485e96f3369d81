"""Make batches in threads before they are asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Asked = TypeVar("Asked")
Made = TypeVar("Made")


def prefetch(make: Callable[[Asked], Made], asked: Iterable[Asked], workers: int) -> Iterator[Made]:
    """Yield make(one) for each one, in order.

    Args:
        make: A function that may run in a thread.
        asked: What to make.
        workers: Threads, each at most two items ahead. 0: make each item when it is asked for.
    """
    if not workers:
        yield from map(make, asked)
        return
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for one in asked:
            waiting.append(pool.submit(make, one))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
