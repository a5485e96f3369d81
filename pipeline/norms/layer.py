"""Layer normalization over the channels of each frame and joint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from pipeline.norms.kind import Kind

if TYPE_CHECKING:
    from pipeline.norms import NormConfig


class ChannelLayerNorm(nn.LayerNorm):
    """LayerNorm over C at each (t, v): y = (x - mean_C) / sqrt(var_C + eps) * weight + bias.

    Ba et al. 2016, arXiv 1607.06450.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x (B, C, ...)."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def _layer(channels: int, config: NormConfig) -> nn.Module:
    return ChannelLayerNorm(channels, eps=config.eps)


LN = Kind(
    _layer,
    ("eps",),
    title="layer norm over the channels of each frame and joint (Ba et al. 2016, arXiv 1607.06450)",
)
