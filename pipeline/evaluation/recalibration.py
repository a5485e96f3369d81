"""Recalibration: replace running statistics by those of the population, nothing retrained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipeline import distributed
from pipeline.data.clips import Batch, Clips
from pipeline.data.order import epoch_batches
from pipeline.data.prefetch import prefetch
from pipeline.normdoctor.collector import population, union
from pipeline.normdoctor.moments import Moments
from pipeline.normdoctor.sites import batch_norms


def recalibrate(model: nn.Module, clips: Clips, index_N: Tensor, frames: int, size: int) -> list[str]:
    """Replace the running statistics of every batch norm by the population's over clips `index_N`.

    One joint set per layer, over all its calls (as many as a buffer can hold), the same buffers on every rank. The rows
    that training normalized are counted, absent bodies included where they were. After Wu & Johnson 2021,
    arXiv 2105.07576, section 3.

    Args:
        model: Changed in place; its mode stays.
        clips: The data.
        index_N: Clips to compute the statistics on, shared out over the ranks.
        frames: Frames per clip.
        size: Clips per batch, as in training.

    Returns:
        Layers that are called more than once per forward pass: a joint set is a mixture that need not fit their calls
        (the doctor's `reuse`).
    """
    was_training = model.training
    model.eval()
    positions = epoch_batches(torch.arange(len(index_N)), clips.label_N, size, seed=0, epoch=0, order="once")
    mine = positions[distributed.rank() :: distributed.world_size()]

    def make(position: Tensor) -> Batch:
        return clips.batch(index_N[position], frames)

    def forward(model: nn.Module, batch: Batch) -> None:
        model(batch.x_NCTVM, batch.present_NMT)

    table = population(forward, model, prefetch(make, mine, clips.workers))
    seen = union(table)
    layers: dict[str, Any] = batch_norms(model)
    reused = []
    for name, layer in layers.items():
        if layer.running_mean is None:
            continue
        calls = sum(site == name for site, _ in table)
        whole, calls = union_over_ranks(seen.get(name), calls, layer.running_mean)
        if calls > 1:
            reused.append(name)
        if whole.count:
            layer.running_mean.copy_(whole.mean_C)
            layer.running_var.copy_(whole.variance_C)
    model.train(was_training)
    return reused


def union_over_ranks(own: Moments | None, calls: int, like_C: Tensor) -> tuple[Moments, int]:
    """Merge every rank's moments of one layer, in float64.

    Args:
        own: This rank's moments; None where it saw no rows.
        calls: Calls of the layer that this rank saw.
        like_C: A tensor on the layer's device with as many channels.

    Returns:
        The union, and the largest number of calls that any rank saw.
    """
    zero_C = torch.zeros_like(like_C, dtype=torch.float64)
    own = own or Moments(zero_C, zero_C, 0.0)
    row = torch.cat([own.mean_C, own.variance_C, zero_C.new_tensor([own.count, calls])])
    ranks = distributed.stack_over_ranks(row)
    size = len(like_C)
    whole = Moments(zero_C, zero_C, 0.0)
    for rank in ranks:
        whole = whole.merge(Moments(rank[:size], rank[size:-2], float(rank[-2])))
    return whole, int(ranks[:, -1].max())
