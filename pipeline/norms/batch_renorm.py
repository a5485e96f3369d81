"""Batch renormalization: batch statistics, corrected towards the running ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.normdoctor.moments import normalize, per_channel
from pipeline.norms.batch import BatchStatistics
from pipeline.norms.kind import Kind

if TYPE_CHECKING:
    from pipeline.norms import NormConfig


class BatchRenorm(BatchStatistics):
    """y = ((x - mean_B) / s_B * r + d) * weight + bias in training: within the bounds, the output in evaluation.

    r = clip(s_B / s, 1/r_max, r_max), d = clip((mean_B - mean) / s, -d_max, d_max), no gradient through either, where
    s = sqrt(var + eps). Ioffe 2017, arXiv 1702.03275. r_max and d_max grow linearly from 1 and 0 (plain BatchNorm)
    to their settings over the first `steps` updates, as in the paper; the running variance, not its root, is averaged.
    """

    def __init__(
        self, channels: int, momentum: float, eps: float, sync: bool, r_max: float, d_max: float, steps: int
    ) -> None:
        super().__init__(channels, momentum, eps, sync)
        self.r_max, self.d_max, self.steps = r_max, d_max, steps

    def training_output(self, x: Tensor, mean_C: Tensor, variance_C: Tensor) -> Tensor:
        """Normalize by the batch, then correct towards the running statistics within the bounds."""
        with torch.no_grad():
            grown = (self.num_batches_tracked.to(mean_C) / max(1, self.steps)).clamp(max=1)
            r_max, d_max = 1 + (self.r_max - 1) * grown, self.d_max * grown
            s = torch.sqrt(self.running_var.to(mean_C) + self.eps)
            r = (torch.sqrt(variance_C + self.eps) / s).clamp(1 / r_max, r_max)
            d = ((mean_C - self.running_mean.to(mean_C)) / s).clamp(-d_max, d_max)
        plain = normalize(x, mean_C, variance_C, r, d, self.eps)
        return plain * per_channel(self.weight, x) + per_channel(self.bias, x)


def _layer(channels: int, config: NormConfig) -> nn.Module:
    bounds = config.renorm_r, config.renorm_d, config.renorm_steps
    return BatchRenorm(channels, config.momentum, config.eps, config.sync, *bounds)


BATCH_RENORM = Kind(
    _layer,
    ("momentum", "eps", "sync", "renorm_r", "renorm_d", "renorm_steps"),
    batch_statistics=True,
    title="batch renormalization (Ioffe 2017, arXiv 1702.03275)",
)
