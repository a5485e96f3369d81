"""`BatchStatistics`: base class of the layers that normalize by statistics of the batch.

Each is a torch `_BatchNorm` (running_mean, running_var, num_batches_tracked, weight, bias) with statistics over the
rows of all ranks. Each implements `normdoctor.sites.StatisticsLayer`: the output by given statistics, and the output by
the batch's own. Evaluation and recalibration need nothing else.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline import distributed
from pipeline.normdoctor.moments import moments, normalize


def pool_over_ranks(mean: Tensor, variance: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the moments of all ranks' rows from this rank's (law of total variance; Chan et al. 1979).

    E[x^2] - E[x]^2 would cancel in float32; differences of means do not.

    Args:
        mean: (C,), or (G, C) for G sets at once.
        variance: Biased; like mean.
        count: Values per channel, () or (G,).
    """
    stacked = distributed.stack_over_ranks(torch.cat([mean, variance, count.unsqueeze(-1)], dim=-1))
    channels = mean.shape[-1]
    means, variances, counts = stacked[..., :channels], stacked[..., channels:-1], stacked[..., -1:]
    total = counts.sum(0)
    share = counts / total.clamp(min=1)
    mean = (share * means).sum(0)
    variance = (share * (variances + (means - mean).square())).sum(0)
    return mean, variance, total.squeeze(-1)


class BatchStatistics(_BatchNorm):
    """Base class. A subclass defines its formula in `normalize_by`, and `training_output` if training differs.

    With several ranks (and `sync`) the statistics cover the rows of all ranks, as in one big batch: ranks may hold
    different numbers of rows, or none.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float
    by_moments_alone = False
    """True if `normalize_by_batch(x)` equals `normalize_by(x, mean, variance)` by the moments of x."""
    slot: int | None = None
    """The body slot whose rows alone reach this layer (per_person, mvc). None: the number of the call is the slot."""

    def __init__(self, channels: int, momentum: float, eps: float, sync: bool = True) -> None:
        super().__init__(channels, eps=eps, momentum=momentum)
        self.sync = sync

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2 or x.shape[1] != self.num_features:
            raise ValueError(f"{type(self).__name__} takes (B, {self.num_features}, ...), got {tuple(x.shape)}")

    @property
    def frozen(self) -> bool:
        """Return whether training uses the running statistics."""
        return False

    @property
    def synchronizes(self) -> bool:
        """Return whether statistics cover several ranks."""
        return self.sync and distributed.world_size() > 1

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x (B, C, ...) by the batch's statistics in training, by the running ones in evaluation."""
        self._check_input_dim(x)
        if not self.training:
            return self.normalize_by(x, self.running_mean, self.running_var)
        mean, variance, count = moments(x)
        values = x.numel() // self.num_features  # known without a wait for the device
        if self.synchronizes:
            mean, variance, count = pool_over_ranks(mean, variance, count)
            values = int(count)
        if values < 2:
            return self.handle_too_few_values(x, values)
        y = self.training_output(x, mean, variance)
        self.update_running_statistics(mean, variance * (count / (count - 1)))
        return y

    def normalize_by(self, x: Tensor, mean_C: Tensor, variance_C: Tensor) -> Tensor:
        """Return the output for x (B, C, ...) by these statistics."""
        return normalize(x, mean_C, variance_C, self.weight, self.bias, self.eps)

    def training_output(self, x: Tensor, mean_C: Tensor, variance_C: Tensor) -> Tensor:
        """Return the output in training, given the batch's statistics."""
        return self.normalize_by(x, mean_C, variance_C)

    def normalize_by_batch(self, x: Tensor) -> Tensor:
        """Return the output in training for a batch that this rank holds whole; buffers do not change."""
        mean, variance, count = moments(x)
        if count < 2:
            return self.normalize_by(x, self.running_mean, self.running_var)
        return self.training_output(x, mean, variance)

    def handle_too_few_values(self, x: Tensor, count: int) -> Tensor:
        """Accept a batch without rows (no clip has a body); reject one value per channel, which has no variance."""
        if count:
            raise ValueError(
                f"{type(self).__name__} needs 2 values per channel in training, got 1 (input {tuple(x.shape)}); take a "
                "larger train.batch-size, or a norm.kind without batch statistics (gn, ln)"
            )
        return self.normalize_by(x, self.running_mean, self.running_var)

    def update_running_statistics(self, mean_C: Tensor, unbiased_C: Tensor) -> None:
        """Move the running statistics towards these by `momentum`."""
        with torch.no_grad():
            self.running_mean.lerp_(mean_C.to(self.running_mean), self.momentum)
            self.running_var.lerp_(unbiased_C.to(self.running_var), self.momentum)
            self.num_batches_tracked.add_(1)
