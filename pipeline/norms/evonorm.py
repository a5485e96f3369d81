"""EvoNorm-B0 and EvoNorm-S0: normalization and activation in one formula."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.normdoctor.moments import per_channel
from pipeline.norms.batch import BatchStatistics
from pipeline.norms.group import checked_groups
from pipeline.norms.instance import instance_moments
from pipeline.norms.kind import Kind

if TYPE_CHECKING:
    from pipeline.norms import NormConfig


class EvoNormB0(BatchStatistics):
    """y = x / max(sqrt(var_B + eps), v * x + sqrt(var_instance + eps)) * weight + bias; norm and activation in one.

    Liu et al. 2020, arXiv 2004.02967, table 2; only the batch variance is used.
    """

    def __init__(self, channels: int, momentum: float, eps: float, sync: bool = True) -> None:
        super().__init__(channels, momentum, eps, sync)
        self.v = nn.Parameter(torch.ones(channels))

    def normalize_by(self, x: Tensor, mean_C: Tensor, variance_C: Tensor) -> Tensor:
        """Return the formula's value with this batch variance."""
        by_batch = per_channel(torch.sqrt(variance_C + self.eps), x)
        by_instance = per_channel(self.v, x) * x + torch.sqrt(instance_moments(x)[1] + self.eps)
        return x / torch.maximum(by_batch, by_instance) * per_channel(self.weight, x) + per_channel(self.bias, x)


class EvoNormS0(nn.Module):
    """y = x * sigmoid(v * x) / sqrt(var_group + eps) * weight + bias; norm and activation in one.

    The variance is that of a row's C / groups channels over T and V. Liu et al. 2020, arXiv 2004.02967, table 2.
    """

    def __init__(self, channels: int, groups: int, eps: float) -> None:
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.v = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize and activate x (B, C, ...)."""
        _, variance = instance_moments(x.unflatten(1, (self.groups, -1)).flatten(2))
        spread = torch.sqrt(variance + self.eps).expand(-1, -1, x.shape[1] // self.groups).flatten(1)
        y = x * torch.sigmoid(per_channel(self.v, x) * x) / spread.reshape(*spread.shape, *[1] * (x.dim() - 2))
        return y * per_channel(self.weight, x) + per_channel(self.bias, x)


def _b0(channels: int, config: NormConfig) -> nn.Module:
    return EvoNormB0(channels, config.momentum, config.eps, config.sync)


def _s0(channels: int, config: NormConfig) -> nn.Module:
    return EvoNormS0(channels, checked_groups(channels, config), config.eps)


EVONORM_B0 = Kind(
    _b0,
    ("momentum", "eps", "sync"),
    batch_statistics=True,
    activates=True,
    title="EvoNorm-B0 (Liu et al. 2020, arXiv 2004.02967)",
)
EVONORM_S0 = Kind(
    _s0,
    ("groups", "eps"),
    activates=True,
    title="EvoNorm-S0 (Liu et al. 2020, arXiv 2004.02967)",
)
