"""Root-mean-square normalization over the channels of each frame and joint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from pipeline.norms.kind import Kind

if TYPE_CHECKING:
    from pipeline.norms import NormConfig


class ChannelRMSNorm(nn.RMSNorm):
    """RMSNorm over C at each (t, v): y = x / sqrt(mean_C(x^2) + eps) * weight.

    Zhang & Sennrich 2019, arXiv 1910.07467.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x (B, C, ...)."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def _layer(channels: int, config: NormConfig) -> nn.Module:
    return ChannelRMSNorm(channels, eps=config.eps)


RMS = Kind(
    _layer,
    ("eps",),
    title="root-mean-square norm over channels (Zhang & Sennrich 2019, arXiv 1910.07467)",
)
