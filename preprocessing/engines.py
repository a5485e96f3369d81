"""Engines that run work units: processes or threads on this machine, or tasks on an existing Ray cluster.

Processes are fastest: each clip takes many short Python calls, so threads mostly wait for the interpreter lock. Ray is
imported only here in preprocessing, and only on request.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from preprocessing import exits
from preprocessing.lifetime import end_with_parent

Task = TypeVar("Task")
Answer = TypeVar("Answer")

WINDOW = 3  # tasks in flight per worker, which bounds the results that wait for their turn
ATTEMPTS = 3  # of a task whose worker died on a cluster
LARGE = 31 << 20  # bytes, just below the largest threshold of the C library


class EngineError(exits.Fault):
    """The engine cannot be used; the message has one line."""


class WorkerDied(EngineError):
    """A worker died before it finished its task, on a cluster several times."""

    exit_code = exits.WORKER


def processes(
    work: Callable[[Task], Answer], tasks: Iterable[Task], workers: int, address: str = ""
) -> Iterator[Answer]:
    """Run `work` on every task in worker processes; yield the results in the order of the tasks.

    Args:
        work: Function to run; it must be picklable.
        tasks: Its arguments, consumed lazily: a bounded number of tasks is in flight at once.
        workers: Number of processes.
        address: Unused; engines have the same arguments.

    Raises:
        WorkerDied: A process was killed.
    """
    # Forked, so that the compiled code is loaded already: a new interpreter would take longer to load it than most
    # builds take. The caller has no thread that could hold a lock during the fork.
    context = multiprocessing.get_context("fork")
    # Freeze the heap: otherwise each worker's garbage collector rescans the parent's objects.
    gc.freeze()
    try:
        yield from _in_turn(ProcessPoolExecutor(workers, context, _start_worker), work, tasks, workers)
    except BrokenProcessPool:
        raise WorkerDied("a worker process was killed, perhaps because memory ran out; try fewer --workers") from None
    finally:
        gc.unfreeze()


def _start_worker() -> None:
    """Workers ignore SIGINT and exit when the parent process exits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()
    # The C library would return memory after each clip and request it again for the next: a fifth of the time. Freeing
    # one block of this size raises its threshold.
    bytearray(LARGE)


def threads(work: Callable[[Task], Answer], tasks: Iterable[Task], workers: int, address: str = "") -> Iterator[Answer]:
    """Run `work` on every task in threads of this process, for systems that forbid new processes. See `processes`."""
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
    """Run `work` on every task on a Ray cluster whose nodes see the sources under the same paths.

    Args:
        work: Function to run; it must be picklable.
        tasks: Its arguments.
        workers: Unused: as many tasks run at once as the cluster has CPUs.
        address: Address of the cluster; `auto` finds the cluster of this machine.

    Raises:
        EngineError: Ray is not installed, or there is no cluster at the address.
        WorkerDied: A task died `ATTEMPTS` times.
    """
    try:
        import ray  # noqa: PLC0415 - the one door, opened on demand
        from ray.exceptions import RayError
    except ImportError:
        raise EngineError("--engine ray needs Ray: pip install 'ray[default]'") from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        knock(address)
        # Ship this package, so that workers run the same code.
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
    """Raise ConnectionError if nothing listens at a cluster's host:port; Ray itself would retry for minutes.

    `auto` means what it means to Ray: RAY_ADDRESS, or the cluster that was started last on this machine.
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
