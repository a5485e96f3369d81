"""Batch-instance normalization: a learnt mixture of batch and instance statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.normdoctor.moments import normalize, per_channel
from pipeline.norms.batch import BatchStatistics
from pipeline.norms.instance import instance_moments
from pipeline.norms.kind import Kind

if TYPE_CHECKING:
    from pipeline.norms import NormConfig


class BatchInstanceNorm(BatchStatistics):
    """y = (rho * BN(x) + (1 - rho) * IN(x)) * weight + bias, rho in [0, 1] learnt per channel (initially 1: BatchNorm).

    Nam & Kim 2018, arXiv 1805.07925. The paper projects rho after each step. Here the formula clamps it with a
    straight-through gradient, so that rho can return. On (B, C) IN(x) is 0: one value is its own mean.
    """

    def __init__(self, channels: int, momentum: float, eps: float, sync: bool = True) -> None:
        super().__init__(channels, momentum, eps, sync)
        self.rho = nn.Parameter(torch.ones(channels))

    def normalize_by(self, x: Tensor, mean_C: Tensor, variance_C: Tensor) -> Tensor:
        """Return the mixture, with the BatchNorm part by these statistics."""
        by_batch = normalize(x, mean_C, variance_C, None, None, self.eps)
        mean, variance = instance_moments(x)
        by_instance = (x - mean) * torch.rsqrt(variance + self.eps)
        rho = per_channel(self.rho + (self.rho.clamp(0, 1) - self.rho).detach(), x)
        mixture = rho * by_batch + (1 - rho) * by_instance
        return mixture * per_channel(self.weight, x) + per_channel(self.bias, x)


def _layer(channels: int, config: NormConfig) -> nn.Module:
    return BatchInstanceNorm(channels, config.momentum, config.eps, config.sync)


BIN = Kind(
    _layer,
    ("momentum", "eps", "sync"),
    batch_statistics=True,
    centres=True,
    title="learnt mixture of batch and instance norm (Nam & Kim 2018, arXiv 1805.07925)",
)
