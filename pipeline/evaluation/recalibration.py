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
from pipeline.normdoctor.forms import filled
from pipeline.normdoctor.ranks import merged_sites
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

    layers: dict[str, Any] = {
        name: layer for name, layer in batch_norms(model).items() if layer.running_mean is not None
    }
    channels = {name: layer.running_mean for name, layer in layers.items()}
    table, calls = merged_sites(
        population(forward, model, prefetch(make, mine, clips.workers)), channels, distributed.gathered
    )
    filled(layers, {(name, 0): whole for name, whole in union(table).items()})
    model.train(was_training)
    return [name for name, count in calls.items() if count > 1]
