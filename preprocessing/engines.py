"""Where the work runs: processes or threads of this machine, or tasks of an existing Ray cluster.

Processes are the fastest: each clip needs so many short calls of Python that threads spend most of their time waiting
for each other. Ray is imported here and nowhere else in preprocessing, and only when it is asked for.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from preprocessing import exits

Task = TypeVar("Task")
Answer = TypeVar("Answer")

WINDOW = 3  # tasks under way per worker, so that results waiting for their turn stay few
ATTEMPTS = 3  # of a task whose worker died on a cluster
LARGE = 31 << 20  # bytes, just below the C library's own largest


class EngineError(RuntimeError):
    """The engine cannot be used; one line for the user."""


class WorkerDied(EngineError):
    """A worker ended again and again before its task did."""

    exit_code = exits.WORKER


def processes(
    work: Callable[[Task], Answer], tasks: Iterable[Task], workers: int, address: str = ""
) -> Iterator[Answer]:
    """`work` of every task, in the order of the tasks, a bounded number of them under way at once."""
    # Forked, so that the compiled code is there already: a new interpreter would load it for longer than most builds
    # take. The caller has no thread of its own that could hold a lock just then.
    context = multiprocessing.get_context("fork")
    # Else every worker's garbage collector walks again and again over all that the build knows, the more the longer.
    gc.freeze()
    try:
        yield from _in_turn(ProcessPoolExecutor(workers, context, _wake), work, tasks, workers)
    except BrokenProcessPool:
        raise WorkerDied("a worker process was killed, by lack of memory perhaps; try fewer --workers") from None
    finally:
        gc.unfreeze()


def _wake() -> None:
    """A worker leaves signals to the build, and ends when that does, however it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    # The C library hands memory back after each clip and fetches it anew for the next, which took a fifth of the time,
    # until it has seen a block as large as this freed.
    bytearray(LARGE)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def threads(work: Callable[[Task], Answer], tasks: Iterable[Task], workers: int, address: str = "") -> Iterator[Answer]:
    """The same by threads of this process, where a process of one's own is not to be had."""
    yield from _in_turn(ThreadPoolExecutor(workers), work, tasks, workers)


def _in_turn(pool: Executor, work: Callable[[Task], Answer], tasks: Iterable[Task], workers: int) -> Iterator[Answer]:
    pending: deque[Future[Answer]] = deque()
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
        knock(address)
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


def knock(address: str) -> None:
    """ConnectionError where nobody listens at a cluster's host:port: Ray itself would go on trying for minutes.

    `auto` is what Ray takes it for: RAY_ADDRESS, or what was started here last, of which a file tells for ever.
    """
    if address == "auto":
        from ray._private.services import canonicalize_bootstrap_address  # noqa: PLC0415 - Ray is loaded on demand

        address = canonicalize_bootstrap_address(address) or ""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:
            raise ConnectionError(f"{address}: {error}") from None


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


Engine = Callable[..., Iterator[Any]]
ENGINES: dict[str, Engine] = {"processes": processes, "threads": threads, "ray": ray_tasks}
