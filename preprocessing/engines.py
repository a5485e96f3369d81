"""Where the work runs: threads of this machine, or tasks of an existing Ray cluster. The parser frees the GIL.

Ray is imported here and nowhere else in preprocessing, and only when it is asked for.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Task = TypeVar("Task")
Answer = TypeVar("Answer")

WINDOW = 3  # tasks under way per worker, so that results waiting for their turn stay few
ATTEMPTS = 3  # of a task whose worker died


class EngineError(RuntimeError):
    """The engine cannot be used; one line for the user."""


class WorkerDied(EngineError):
    """A worker ended again and again before its task did."""


def threads(work: Callable[[Task], Answer], tasks: Iterable[Task], workers: int, address: str = "") -> Iterator[Answer]:
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


def ray_tasks(work: Callable[[Task], Answer], tasks: Iterable[Task], workers: int, address: str) -> Iterator[Answer]:
    """The same on the Ray cluster at `address`, whose nodes must see the sources under the same paths.

    `workers` counts for nothing: as many tasks run as the cluster has CPUs. A task whose worker dies runs again.
    """
    try:
        import ray  # noqa: PLC0415 - the one door, opened on demand
        from ray.exceptions import RayError
    except ImportError:
        raise EngineError("--engine ray needs Ray: pip install 'ray[default]'") from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        _knock(address)
        # Workers import this very package, wherever they run.
        ray.init(
            address=address, runtime_env={"py_modules": [_package()]}, log_to_driver=False, logging_level=logging.ERROR
        )
    except (ConnectionError, ValueError, RuntimeError, RayError) as error:
        reason = str(error).splitlines()[0]
        raise EngineError(f"no Ray cluster at {address} ({reason}); start one with ray start --head") from None
    try:
        yield from _in_order(ray, work, tasks)
    except RayError as error:
        raise WorkerDied(f"a task died {ATTEMPTS} times on the cluster: {str(error).splitlines()[0]}") from None
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """ConnectionError where nobody listens at host:port: Ray itself would go on trying for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:
            raise ConnectionError(str(error)) from None


def _in_order(ray: Any, work: Callable[[Task], Answer], tasks: Iterable[Task]) -> Iterator[Answer]:
    remote = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(_call)
    shared = ray.put(work)
    pending: deque[Any] = deque()
    for task in tasks:
        pending.append(remote.remote(shared, task))
        if len(pending) >= WINDOW * max(int(ray.cluster_resources().get("CPU", 1)), 1):
            yield ray.get(pending.popleft())
    while pending:
        yield ray.get(pending.popleft())


def _call(work: Callable[[Task], Answer], task: Task) -> Answer:
    return work(task)


def _package() -> str:
    return os.path.dirname(os.path.abspath(__file__))


ENGINES: dict[str, Callable[..., Iterator[Any]]] = {"threads": threads, "ray": ray_tasks}
