"""Instance normalization over the frames and joints of each row and channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.normdoctor.moments import per_channel
from pipeline.norms.kind import Kind

if TYPE_CHECKING:
    from pipeline.norms import NormConfig


def instance_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each row and channel of x (B, C, ...), with size 1 for the other axes.

    A row of (B, C) has one value per channel: its mean is itself and its variance 0.
    """
    axes = list(range(2, x.dim()))
    if not axes:
        return x, torch.zeros_like(x)
    mean = x.mean(axes, keepdim=True)
    return mean, (x - mean).square().mean(axes, keepdim=True)


class InstanceNorm(nn.InstanceNorm2d):
    """y = (x - mean_TV) / sqrt(var_TV + eps) * weight + bias for each row and channel.

    Ulyanov et al. 2016, arXiv 1607.08022. On (B, C) only weight and bias.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x (B, C, T, V)."""
        if x.dim() == 2 or x.shape[0] == 0:  # not len(x): the exporter would make it a constant
            return x * per_channel(self.weight, x) + per_channel(self.bias, x)
        return super().forward(x)


def _layer(channels: int, config: NormConfig) -> nn.Module:
    return InstanceNorm(channels, eps=config.eps, affine=True)


IN = Kind(
    _layer,
    ("eps",),
    centres=True,
    title="instance normalization (Ulyanov et al. 2016, arXiv 1607.08022)",
)
