"""Dynamic tanh: a learnt squashing function instead of statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.normdoctor.moments import per_channel
from pipeline.norms.kind import Kind

if TYPE_CHECKING:
    from pipeline.norms import NormConfig


class DynamicTanh(nn.Module):
    """y = tanh(alpha * x) * weight + bias: no statistics; alpha is one learnt number (initially 0.5).

    Zhu et al. 2025, arXiv 2503.10622.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(0.5))
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Squash x (B, C, ...)."""
        return torch.tanh(self.alpha * x) * per_channel(self.weight, x) + per_channel(self.bias, x)


def _layer(channels: int, config: NormConfig) -> nn.Module:
    return DynamicTanh(channels)


DYT = Kind(
    _layer,
    title="dynamic tanh (Zhu et al. 2025, arXiv 2503.10622)",
)
