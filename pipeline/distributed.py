"""The only door to torch.distributed: start ranks, know one's place among them, add exactly.

A program without ranks is a world of one, so that callers need no second path: `wrap` and `total` then return their
argument unchanged, `gathered` and `stack_over_ranks` a copy with a first axis of length 1.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from preprocessing import exits, lifetime

# A rank that died is noticed at once (its connection resets); a rank that hangs, after this time.
TIMEOUT = timedelta(minutes=10)
# Seconds that the other ranks have to end by themselves after one has failed, and to end once they are told to.
GRACE, LAST_GRACE = 5.0, 30.0


PASSED_ON = (exits.USAGE, exits.NON_FINITE, exits.INTEGRITY, exits.NO_SPACE)


class RankDied(exits.Fault):
    """A rank ended with an error; the message names it. `exit_code` is the rank's where it is one of ours."""

    def __init__(self, message: str, code: int = exits.WORKER) -> None:
        super().__init__(message)
        self.exit_code = code if code in PASSED_ON else exits.WORKER


def launch(entry: Callable[..., None], arguments: tuple[Any, ...], ranks: int) -> None:
    """Run `entry(*arguments)` in `ranks` new processes of this machine.

    The ranks find each other through a file, so that no port is open; gloo's connections stay on loopback.

    Raises:
        RankDied: A rank failed. The message names the first one that did; the others are ended.
        KeyboardInterrupt: This process got SIGINT or SIGTERM; the ranks are interrupted and have ended.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // ranks)))
    if not torch.cuda.is_available():
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="skelnorm-ranks-") as name, _terminated_as_interrupted():
        folder = Path(name)
        processes = [
            context.Process(target=_run_rank, args=(rank, ranks, folder, entry, arguments), name=f"rank {rank}")
            for rank in range(ranks)
        ]
        try:
            for process in processes:
                process.start()
            _wait_for_failure(processes)
            failed = {rank: process.exitcode for rank, process in enumerate(processes) if process.exitcode}
            if failed:
                rank = root_failure(failed, _times_of_failure(folder))
                words = f"rank {rank} ended with exit code {failed[rank]}; its message stands above"
                raise RankDied(words, failed[rank])
        finally:
            _end(processes, signal.SIGINT if isinstance(sys.exception(), KeyboardInterrupt) else signal.SIGTERM)


def _wait_for_failure(processes: Sequence[BaseProcess]) -> None:
    """Return once all have ended; after a failure, once all have or GRACE is over.

    A process is noticed to have ended some time after its connections are reset. So the rank that waited for it may be
    noticed first, and only the exit codes of all tell which one failed.
    """
    deadline = None
    while running := [process.sentinel for process in processes if process.exitcode is None]:
        if deadline is None and any(process.exitcode for process in processes):
            deadline = time.monotonic() + GRACE
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            return
        multiprocessing.connection.wait(running, left)


def _end(processes: Sequence[BaseProcess], how: signal.Signals) -> None:
    """Send a signal to the processes that still run, and kill those that do not end in time."""
    running = [process for process in processes if process.pid is not None and process.exitcode is None]
    for process in running:
        os.kill(process.pid or 0, how)
    deadline = time.monotonic() + LAST_GRACE
    for process in running:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.exitcode is None:
            process.kill()
            process.join()


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def root_failure(failed: Mapping[int, int], times: Mapping[int, int]) -> int:
    """Return the rank that failed first.

    A rank that died without a word (killed, crashed) comes before those that raised an error, which may be that of a
    lost connection. A rank that aborted comes last: gloo and NCCL abort ranks that wait for a dead one.

    Args:
        failed: Rank -> its exit code, negative for a signal.
        times: Rank -> time at which it raised an error; absent where it died without a word.
    """

    def place(rank: int) -> tuple[int, int]:
        if rank in times:
            return 1, times[rank]
        return 2 if failed[rank] == -signal.SIGABRT else 0, 0

    return min(failed, key=place)


def _times_of_failure(folder: Path) -> dict[int, int]:
    return {int(path.suffix[1:]): int(path.read_text()) for path in folder.glob("failed.*")}


def _run_rank(rank: int, ranks: int, folder: Path, entry: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    lifetime.interrupt_once()
    lifetime.end_with_parent()
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
    try:
        join(f"file://{folder / 'store'}")
        entry(*arguments)
    except BaseException:
        (folder / f"failed.{rank}").write_text(str(time.monotonic_ns()))
        raise


def launched() -> bool:
    """Return whether this process is one rank of a launcher (ours or torchrun)."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def join(store: str = "env://") -> torch.device:
    """Join the process group if a launcher started this process; return the device of this rank.

    Args:
        store: Where the ranks find each other, as torch's `init_method`; by default as torchrun says.
    """
    local = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if launched() and not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        number, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        dist.init_process_group(backend, store, timeout=TIMEOUT, rank=number, world_size=ranks)
    return device


def leave() -> None:
    """End the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """Return the number of this rank, 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of ranks, 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def wrap(model: nn.Module, device: torch.device, same_buffers: bool) -> nn.Module:
    """Wrap the model in DistributedDataParallel; return it unchanged in a world of one.

    `same_buffers`: every rank computes the same buffers, so that rank 0 need not send its own before each step.
    """
    if world_size() == 1:
        return model
    ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(
        model, device_ids=ids, forward_sync_buffers=not same_buffers, gradient_as_bucket_view=True
    )


# Up to this many values latency dominates: one all-gather and a local sum replace the two exchanges of a reduction.
FEW = 4096


def total(x: Tensor) -> Tensor:
    """Return the sum of a tensor over the ranks, without gradient; the same bits on every rank."""
    if world_size() == 1:
        return x
    if x.numel() <= FEW:
        return gathered(x).sum(0)
    x = x.clone()
    dist.all_reduce(x)
    return x


def gathered(x: Tensor) -> Tensor:
    """Return every rank's `x`, stacked to (world, *x.shape), without gradient."""
    stacked = x.new_empty(world_size(), *x.shape)
    if world_size() == 1:
        return stacked.copy_(x[None])
    dist.all_gather(list(stacked), x.contiguous())
    return stacked


class _Stacked(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return gathered(x)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        # Every rank's result holds every rank's x, so the gradient of x is the sum of all ranks' gradients of its row.
        return total(gradients[0])[rank()]


def stack_over_ranks(x: Tensor) -> Tensor:
    """Return every rank's `x`, stacked to (world, *x.shape), the same on all ranks and differentiable."""
    result: Tensor = _Stacked.apply(x)
    return result
