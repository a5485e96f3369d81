"""The package's door to torch.distributed: sums and statistics over all ranks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .collector import SiteMoments
from .moments import Moments

# A tensor -> every rank's, stacked to (world, ...), the same on all ranks.
Gather = Callable[[Tensor], Tensor]


def are_several() -> bool:
    """Return whether this process is one of several ranks."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gathered(x: Tensor) -> Tensor:
    """Return every rank's x, stacked to (world, *x.shape), without gradient."""
    if not are_several():
        return x.unsqueeze(0)
    stacked = x.new_empty(dist.get_world_size(), *x.shape)
    dist.all_gather(list(stacked), x.contiguous())
    return stacked


class SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over all ranks, differentiable."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        """Return the sum, the same on every rank."""
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        """Return the sum of all ranks' gradients: each rank's result holds every rank's x."""
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def merged(own: Moments | None, like_C: Tensor, gather: Gather = gathered) -> Moments:
    """Return the union of every rank's moments, in float64, the same on all ranks.

    Args:
        own: This rank's; None where it saw no rows.
        like_C: A tensor with as many channels, on the device that ranks exchange tensors on.
        gather: How to collect the ranks' tensors.
    """
    zero_C = torch.zeros_like(like_C, dtype=torch.float64)
    own = own or Moments(zero_C, zero_C, 0.0)
    row = torch.cat([own.mean_C.to(zero_C), own.variance_C.to(zero_C), zero_C.new_tensor([own.count, own.averaged])])
    size, ranks = len(like_C), gather(row)
    whole = Moments(zero_C, zero_C, 0.0, bool(ranks[:, -1].any()))
    for rank in ranks:
        whole = whole.merge(Moments(rank[:size], rank[size:-2], float(rank[-2])))
    return whole


def merged_sites(
    table: SiteMoments, channels: dict[str, Tensor], gather: Gather = gathered
) -> tuple[SiteMoments, dict[str, int]]:
    """Return the union of every rank's table of call sites, and the largest number of calls of each layer.

    Args:
        table: This rank's statistics.
        channels: Layer -> a tensor with one value per channel (C,), the same layers in the same order on every rank.
        gather: How to collect the ranks' tensors.
    """
    calls: Counter[str] = Counter()
    for name, call in table:
        calls[name] = max(calls[name], call + 1)
    device = next((tensor.device for tensor in channels.values()), None)
    own = torch.tensor([float(calls[name]) for name in channels], device=device)
    most = gather(own).amax(0).long().tolist() if channels else []
    whole = {}
    for (name, like_C), count in zip(channels.items(), most, strict=True):
        for call in range(count):
            whole[name, call] = merged(table.get((name, call)), like_C, gather)
    return {site: found for site, found in whole.items() if found.count}, dict(zip(channels, most, strict=True))


def all_have(batches: Iterable[Any], device: torch.device | None) -> Iterable[tuple[Any, bool]]:
    """Yield (batch, whether every rank has one), until no rank has any more."""
    rest = iter(batches)
    while True:
        batch = next(rest, rest)
        have = gathered(torch.tensor([float(batch is not rest)], device=device))
        if not bool(have.any()):
            return
        if batch is not rest:
            yield batch, bool(have.all())
