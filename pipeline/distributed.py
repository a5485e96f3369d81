"""The only door to torch.distributed: start ranks, know one's place among them, add exactly.

A program without ranks is a world of one, so that callers need no second path: `wrap` and `total` then return their
argument unchanged, `gathered` and `stack_over_ranks` a copy with a first axis of length 1.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from preprocessing import exits, lifetime

# A rank that died is noticed at once (its connection resets); a rank that hangs, after this time.
TIMEOUT = timedelta(minutes=10)


PASSED_ON = (exits.USAGE, exits.NON_FINITE, exits.INTEGRITY, exits.NO_SPACE)


class RankDied(exits.Fault):
    """A rank ended with an error; the message names it. `exit_code` is the rank's where it is one of ours."""

    def __init__(self, message: str, code: int = exits.WORKER) -> None:
        super().__init__(message)
        self.exit_code = code if code in PASSED_ON else exits.WORKER


def launch(entry: Callable[..., None], arguments: tuple[Any, ...], ranks: int) -> None:
    """Run `entry(*arguments)` in `ranks` processes of this machine through torch's elastic launcher.

    The rendezvous listens on loopback. Raises RankDied when a rank fails, KeyboardInterrupt when the launcher gets
    SIGINT or SIGTERM.
    """
    # The store that agent and ranks share by default can hang a restart over gloo (pytorch#135712).
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // ranks)))
    if not torch.cuda.is_available():
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # It prints a table and a traceback of its own for an error that the rank has reported in one line.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=str(os.getpid()),
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        monitor_interval=0.1,
    )
    try:
        elastic_launch(config, _run_rank)(entry, *arguments)
    except ChildFailedError as error:
        rank, failure = root_failure(error.failures)
        words = f"rank {rank} ended with exit code {failure.exitcode}; its message stands above"
        raise RankDied(words, failure.exitcode) from None
    except SignalException:
        raise KeyboardInterrupt from None


def root_failure(failures: Mapping[int, Any]) -> tuple[int, Any]:
    """Return the rank that failed first, and its failure, from those of all ranks by rank.

    A rank that aborted comes last: gloo and NCCL abort ranks that wait for a dead one, and the launcher may notice both
    at the same time.
    """
    own = {rank: failure for rank, failure in failures.items() if failure.exitcode != -signal.SIGABRT}
    return min((own or failures).items(), key=lambda item: item[1].timestamp)


def _run_rank(entry: Callable[..., None], *arguments: Any) -> None:
    lifetime.interrupt_once()
    entry(*arguments)


def launched() -> bool:
    """Return whether this process is one rank of a launcher (ours or torchrun)."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def join() -> torch.device:
    """Join the process group if a launcher started this process; return the device of this rank."""
    local = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if launched() and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
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
