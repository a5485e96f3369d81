"""Batch normalization whose statistics are frozen after some updates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from pipeline.norms.batch import BatchStatistics
from pipeline.norms.kind import Kind

if TYPE_CHECKING:
    from pipeline.norms import NormConfig


class FrozenBatchNorm(BatchStatistics):
    """BatchNorm by its running statistics in training too; scale and shift are not trained.

    He et al. 2016's detectors, arXiv 1512.03385, A; for the last epochs Wu & Johnson 2021, arXiv 2105.07576, 3.3.
    During the first `after` updates it is a BatchNorm, so that there are statistics to freeze. With 0 it expects a
    state that is loaded from `bn` (same names); without one it is nearly the identity.
    """

    def __init__(self, channels: int, momentum: float, eps: float, sync: bool, after: int) -> None:
        super().__init__(channels, momentum, eps, sync)
        self.after = after
        self.weight.requires_grad_(False)
        self.bias.requires_grad_(False)

    @property
    def frozen(self) -> bool:
        """Return whether training already uses the running statistics."""
        return self.after == 0 or int(self.num_batches_tracked) >= self.after

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x (B, C, ...)."""
        if self.training and not self.frozen:
            return super().forward(x)
        self._check_input_dim(x)
        return self.normalize_by(x, self.running_mean, self.running_var)


def _layer(channels: int, config: NormConfig) -> nn.Module:
    return FrozenBatchNorm(channels, config.momentum, config.eps, config.sync, config.freeze_after)


# centres: until it is frozen; after that it must have the layers of the bn whose state it loads.
FROZEN_BN = Kind(
    _layer,
    ("momentum", "eps", "sync", "freeze_after"),
    centres=True,
    title="batch normalization whose statistics stop after some updates",
)
