"""Where the work runs: threads of this machine. The parser frees the GIL."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Task = TypeVar("Task")
Answer = TypeVar("Answer")

WINDOW = 8  # tasks under way per worker, so that results waiting for their turn stay few


def threads(work: Callable[[Task], Answer], tasks: Iterable[Task], workers: int) -> Iterator[Answer]:
    """`work` of every task, in the order of the tasks, a bounded number of them under way at once."""
    pending: deque[Future[Answer]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for task in tasks:
            pending.append(pool.submit(work, task))
            if len(pending) >= WINDOW * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
