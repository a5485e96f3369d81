"""Filter response normalization with its thresholded linear unit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.normdoctor.moments import per_channel
from pipeline.norms.kind import Kind

if TYPE_CHECKING:
    from pipeline.norms import NormConfig


class FilterResponseNorm(nn.Module):
    """y = max(x / sqrt(mean_TV(x^2) + eps) * weight + bias, tau): filter response norm and its thresholded linear unit.

    Singh & Krishnan 2020, arXiv 1911.09737. Nothing is centred, so tau, learnt per channel (initially 0:
    ReLU), replaces the activation. On (B, C) only weight, bias and tau.
    """

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.tau = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize and activate x (B, C, ...)."""
        if x.dim() > 2:
            x = x * torch.rsqrt(x.square().mean(list(range(2, x.dim())), keepdim=True) + self.eps)
        return torch.maximum(x * per_channel(self.weight, x) + per_channel(self.bias, x), per_channel(self.tau, x))


def _layer(channels: int, config: NormConfig) -> nn.Module:
    return FilterResponseNorm(channels, config.eps)


FRN_TLU = Kind(
    _layer,
    ("eps",),
    activates=True,
    title="filter response norm with its thresholded unit (Singh & Krishnan 2019, arXiv 1911.09737)",
)
