"""Layers whose output for one row depends on that row alone: training and evaluation are one function.

Over x (B, C, T, V) and (B, C). Where a formula averages over T and V, a row of (B, C) leaves it nothing to average:
those layers then only scale and shift, as normalising one value by itself would erase it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.normdoctor.moments import per_channel
from pipeline.norms.batch import instance_moments


class ChannelLayerNorm(nn.LayerNorm):
    """LayerNorm over C at each (t, v): y = (x - mean_C) / sqrt(var_C + eps) * weight + bias.

    Ba et al. 2016, arXiv 1607.06450.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, ...) normalised."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class ChannelRMSNorm(nn.RMSNorm):
    """RMSNorm over C at each (t, v): y = x / sqrt(mean_C(x^2) + eps) * weight.

    Zhang & Sennrich 2019, arXiv 1910.07467.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, ...) normalised."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class InstanceNorm(nn.InstanceNorm2d):
    """y = (x - mean_TV) / sqrt(var_TV + eps) * weight + bias for each row and channel.

    Ulyanov et al. 2016, arXiv 1607.08022. On (B, C) only weight and bias.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, T, V) normalised."""
        if x.dim() == 2 or x.shape[0] == 0:  # not len(x), which an exporter takes for a constant
            return x * per_channel(self.weight, x) + per_channel(self.bias, x)
        return super().forward(x)


class FilterResponseNorm(nn.Module):
    """y = max(x / sqrt(mean_TV(x^2) + eps) * weight + bias, tau): filter response norm and its thresholded linear unit.

    Singh & Krishnan 2020, arXiv 1911.09737. Nothing is centred, so tau, learnt per channel (from 0: ReLU), replaces the
    activation. On (B, C) only weight, bias and tau.
    """

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.tau = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, ...) normalised and activated."""
        if x.dim() > 2:
            x = x * torch.rsqrt(x.square().mean(list(range(2, x.dim())), keepdim=True) + self.eps)
        return torch.maximum(x * per_channel(self.weight, x) + per_channel(self.bias, x), per_channel(self.tau, x))


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
        """x (B, C, ...) normalised and activated."""
        _, variance = instance_moments(x.unflatten(1, (self.groups, -1)).flatten(2))
        spread = torch.sqrt(variance + self.eps).expand(-1, -1, x.shape[1] // self.groups).flatten(1)
        y = x * torch.sigmoid(per_channel(self.v, x) * x) / spread.reshape(*spread.shape, *[1] * (x.dim() - 2))
        return y * per_channel(self.weight, x) + per_channel(self.bias, x)


class DynamicTanh(nn.Module):
    """y = tanh(alpha * x) * weight + bias: no statistics at all, alpha one learnt number (from 0.5).

    Zhu et al. 2025, arXiv 2503.10622.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(0.5))
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, ...) squashed."""
        return torch.tanh(self.alpha * x) * per_channel(self.weight, x) + per_channel(self.bias, x)
