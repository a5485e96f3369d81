"""The only door to torch.distributed: join the ranks, know one's place among them, add exactly.

A program without ranks is a world of one, so that callers need no second path: `wrap` and `total` then return their
argument unchanged, `gathered` and `stack_over_ranks` a copy with a first axis of length 1.
"""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline import launcher
from pipeline.nodes import Node

# A rank that died is noticed at once (its connection resets); one that computes for ever and never joins a collective,
# after this time; one that is silent, by `launcher.launch`.
TIMEOUT = timedelta(minutes=10)

_beats: tuple[Any, int] | None = None  # one counter per rank of this machine, and the place of this rank


def count_beats(counters: Any, local: int) -> None:
    """Count the beats of this rank from now on, in its place among the `counters` of this machine."""
    global _beats
    _beats = counters, local


def beat() -> None:
    """Count a sign of life of this rank, for its launcher.

    Beats stand in front of what ranks do together: the rank that others wait for has counted less than they have.
    """
    if _beats is not None:
        counters, rank = _beats
        counters[rank] += 1


def join(store: str | dist.Store = "env://") -> torch.device:
    """Join the process group if a launcher started this process; return the device of this rank.

    Args:
        store: Where the ranks find each other, as a store or as torch's `init_method`; by default that of torchrun.
    """
    local = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if launcher.launched() and not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        number, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        beat()
        how = {"init_method": store} if isinstance(store, str) else {"store": store}
        dist.init_process_group(backend, **how, timeout=TIMEOUT, rank=number, world_size=ranks)
    return device


def meet(store: Path, rank: int, ranks: int) -> torch.device:
    """Join the ranks of this machine through a new file, so that no port is open; return the device of this rank."""
    _stay_on_loopback()
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
    return join(f"file://{store}")


def meet_nodes(node: Node, local: int, ranks: int) -> torch.device:
    """Join the ranks of all nodes through the store of node 0; return the device of this rank.

    Args:
        node: This machine.
        local: Place of this rank among those of this machine.
        ranks: Number of ranks per machine.
    """
    if node.host.startswith("127."):
        _stay_on_loopback()
    place = {"RANK": node.number * ranks + local, "LOCAL_RANK": local, "WORLD_SIZE": node.count * ranks}
    os.environ.update({name: str(number) for name, number in place.items()})
    return join(dist.TCPStore(node.host, node.port, is_master=False, timeout=TIMEOUT))


def _stay_on_loopback() -> None:
    """Keep gloo's connections on loopback, as long as nothing else is set."""
    if not torch.cuda.is_available():
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")


def serve(node: Node, listener: socket.socket) -> dist.Store:
    """Hold the store of all nodes in this process, which outlives the ranks."""
    return dist.TCPStore(
        node.host, node.port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
    )


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
    beat()
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
    beat()
    x = x.clone()
    dist.all_reduce(x)
    return x


def gathered(x: Tensor) -> Tensor:
    """Return every rank's `x`, stacked to (world, *x.shape), without gradient."""
    stacked = x.new_empty(world_size(), *x.shape)
    if world_size() == 1:
        return stacked.copy_(x[None])
    beat()
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
