"""Ghost batch normalization: statistics over small parts of the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline import distributed
from pipeline.normdoctor.moments import moments
from pipeline.norms.batch import BatchStatistics, pool_over_ranks
from pipeline.norms.kind import Kind

if TYPE_CHECKING:
    from pipeline.norms import NormConfig


class GhostBatchNorm(BatchStatistics):
    """BatchNorm in training over parts of the batch of at least `size` rows each.

    Hoffer et al. 2017, arXiv 1705.08741. Parts are consecutive rows of the whole batch over all ranks. Their sizes
    differ by at most one; a batch smaller than `size` is one part. The running statistics follow the mean of the parts'
    means and variances, weighted by their numbers of values.
    """

    def __init__(self, channels: int, momentum: float, eps: float, sync: bool, size: int) -> None:
        super().__init__(channels, momentum, eps, sync)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x (B, C, ...), in training part by part."""
        self._check_input_dim(x)
        if not self.training:
            return self.normalize_by(x, self.running_mean, self.running_var)
        rows = [len(x)]
        if self.synchronizes:
            rows = distributed.stack_over_ranks(torch.tensor(float(len(x)), device=x.device)).long().tolist()
        total, before = sum(rows), sum(rows[: distributed.rank()]) if self.synchronizes else 0
        parts = self.parts(x, total, before)
        mean, variance, count = (torch.stack(each) for each in zip(*map(moments, parts), strict=True))
        values = min(part.numel() for part in parts) // self.num_features  # known without a wait for the device
        if self.synchronizes:
            mean, variance, count = pool_over_ranks(mean, variance, count)
            values = int(count.min())
        if values < 2:
            return self.handle_too_few_values(x, values)
        share = (count / count.sum()).unsqueeze(1)
        unbiased = variance * (count / (count - 1)).unsqueeze(1)
        self.update_running_statistics((share * mean).sum(0), (share * unbiased).sum(0))
        return torch.cat([self.normalize_by(*part) for part in zip(parts, mean, variance, strict=True)])

    def normalize_by_batch(self, x: Tensor) -> Tensor:
        """Return the output in training for a batch that this rank holds whole; buffers do not change."""
        parts = self.parts(x, len(x), 0)
        return torch.cat([self.normalize_by(part, *moments(part)[:2]) for part in parts])

    def parts(self, x: Tensor, total: int, before: int) -> list[Tensor]:
        """Return the rows of x in each part of a batch of `total` rows, `before` of which lower ranks hold."""
        count = max(1, total // self.size)
        edges = [min(max(part * total // count - before, 0), len(x)) for part in range(count + 1)]
        return [x[low:high] for low, high in zip(edges, edges[1:], strict=False)]


def _layer(channels: int, config: NormConfig) -> nn.Module:
    return GhostBatchNorm(channels, config.momentum, config.eps, config.sync, config.ghost)


GHOST_BN = Kind(
    _layer,
    ("momentum", "eps", "sync", "ghost"),
    batch_statistics=True,
    centres=True,
    title="batch normalization over parts of the batch (Hoffer et al. 2017, arXiv 1705.08741)",
)
