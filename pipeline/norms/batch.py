"""Layers that normalise by statistics of the batch, and the moments they share.

Every one is a torch `_BatchNorm` (running_mean, running_var, num_batches_tracked, weight, bias), counts its statistics
over the rows of all ranks, and answers `normdoctor.sites.StatisticsLayer`: what it gives for x by given statistics, and
what by the batch's own, as in training. Evaluation and recalibration ask nothing else.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline import distributed
from pipeline.normdoctor.moments import moments, normalize


def pooled(mean: Tensor, variance: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Moments of the union of the ranks' rows from each rank's own (law of total variance; Chan et al. 1979).

    Of one set, (C,), (C,) and (), or of G sets at once, (G, C), (G, C) and (G,). Differences of means, never
    E[x^2] - E[x]^2, which cancels in float32.
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
    """What batch-statistics layers share. A subclass gives its formula in `given`, and `in_training` if that differs.

    In a world of several ranks (and with `sync`) the statistics cover the union of the ranks' rows, weighted by their
    number: ranks may hold different numbers of rows, or none. Equal to one big batch (tests/pipeline/test_norms.py).
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float
    by_moments_alone = False
    """Whether `by_batch(x)` is `given(x, mean, variance)` by the moments of x, and nothing else."""
    slot: int | None = None
    """The body slot whose rows alone this layer sees (per_person, mvc); None: the number of the call tells."""

    def __init__(self, channels: int, momentum: float, eps: float, sync: bool = True) -> None:
        super().__init__(channels, eps=eps, momentum=momentum)
        self.sync = sync

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2 or x.shape[1] != self.num_features:
            raise ValueError(f"{type(self).__name__} takes (B, {self.num_features}, ...), got {tuple(x.shape)}")

    @property
    def frozen(self) -> bool:
        """Whether training uses the running statistics."""
        return False

    @property
    def over_ranks(self) -> bool:
        """Whether statistics are those of several ranks together."""
        return self.sync and distributed.world_size() > 1

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, ...) normalised by the batch's statistics in training, by the running ones in evaluation."""
        self._check_input_dim(x)
        if not self.training:
            return self.given(x, self.running_mean, self.running_var)
        mean, variance, count = moments(x)
        if self.over_ranks:
            mean, variance, count = pooled(mean, variance, count)
        if count < 2:
            return self.too_few(x, int(count))
        y = self.in_training(x, mean, variance)
        self.remember(mean, variance * (count / (count - 1)))
        return y

    def given(self, x: Tensor, mean_C: Tensor, variance_C: Tensor) -> Tensor:
        """This layer's output for x (B, C, ...) by these statistics."""
        return normalize(x, mean_C, variance_C, self.weight, self.bias, self.eps)

    def in_training(self, x: Tensor, mean_C: Tensor, variance_C: Tensor) -> Tensor:
        """This layer's output in training, where these are the batch's statistics."""
        return self.given(x, mean_C, variance_C)

    def by_batch(self, x: Tensor) -> Tensor:
        """The output in training for a batch that this rank holds whole; buffers stay as they are."""
        mean, variance, count = moments(x)
        if count < 2:
            return self.given(x, self.running_mean, self.running_var)
        return self.in_training(x, mean, variance)

    def too_few(self, x: Tensor, count: int) -> Tensor:
        """No rows on any rank (a batch without any body) pass unnoticed; one value has no variance and is refused."""
        if count:
            raise ValueError(
                f"{type(self).__name__} needs 2 values per channel in training, got 1 (input {tuple(x.shape)}); take a "
                "larger train.batch-size, or a norm.kind without batch statistics (gn, ln)"
            )
        return self.given(x, self.running_mean, self.running_var)

    def remember(self, mean_C: Tensor, unbiased_C: Tensor) -> None:
        """Move the running statistics towards these by `momentum`."""
        with torch.no_grad():
            self.running_mean.lerp_(mean_C.to(self.running_mean), self.momentum)
            self.running_var.lerp_(unbiased_C.to(self.running_var), self.momentum)
            self.num_batches_tracked.add_(1)
