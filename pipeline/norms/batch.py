"""Layers that normalise by statistics of the batch, and the moments they share.

Every one is a torch `_BatchNorm` (running_mean, running_var, num_batches_tracked, weight, bias), counts its statistics
over the rows of all ranks, and answers `normdoctor.sites.StatisticsLayer`: what it gives for x by given statistics, and
what by the batch's own, as in training. Evaluation and recalibration ask nothing else.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline import distributed
from pipeline.kernels import availability
from pipeline.normdoctor.moments import moments, normalize, per_channel


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


def instance_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each row and channel of x (B, C, ...), with ones for the other axes.

    A row of (B, C) has one value a channel: its mean is itself and its variance 0.
    """
    axes = list(range(2, x.dim()))
    if not axes:
        return x, torch.zeros_like(x)
    mean = x.mean(axes, keepdim=True)
    return mean, (x - mean).square().mean(axes, keepdim=True)


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


class BatchNorm(BatchStatistics):
    """y = (x - mean) / sqrt(var + eps) * weight + bias over all dimensions but C, on any rank, any device.

    Ioffe & Szegedy 2015, arXiv 1502.03167; over ranks Peng et al. 2018, arXiv 1711.07240. This is the CPU twin of
    nn.SyncBatchNorm, which refuses CPU tensors; alone it is torch's own kernel, or on a GPU ours.
    """

    by_moments_alone = True

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, ...) normalised; by torch's kernels or ours, over several ranks by torch's between the exchanges."""
        self._check_input_dim(x)
        if not self.training or (not self.over_ranks and x.numel() > x.shape[1]):
            return (
                self.by_kernels(x) if self.training and availability.takes_kernels(x) else _BatchNorm.forward(self, x)
            )
        if not self.over_ranks:
            return super().forward(x)
        mean, variance, count = pooled(*_own_moments(x))
        if count < 2:
            return self.too_few(x, int(count))
        self.remember(mean, variance * (count / (count - 1)))
        y: Tensor = _OverRanks.apply(x, self.weight, self.bias, mean, variance, count, self.eps)
        return y

    def by_kernels(self, x: Tensor) -> Tensor:
        """The output in training for a batch that this rank holds whole, by our kernel."""
        from pipeline.kernels.norm import batch_norm

        self.num_batches_tracked.add_(1)
        return batch_norm(x, self.weight, self.bias, self.running_mean, self.running_var, self.momentum, self.eps)

    def given(self, x: Tensor, mean_C: Tensor, variance_C: Tensor) -> Tensor:
        """This layer's output for x (B, C, ...) by these statistics, through which no gradient flows."""
        mean_C, variance_C = mean_C.to(self.running_mean), variance_C.to(self.running_var)
        return nn.functional.batch_norm(x, mean_C, variance_C, self.weight, self.bias, False, 0.0, self.eps)

    def by_batch(self, x: Tensor) -> Tensor:
        """The output in training for a batch that this rank holds whole; buffers stay as they are."""
        if x.numel() < 2 * self.num_features:
            return self.given(x, self.running_mean, self.running_var)
        return nn.functional.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)


def _own_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`moments` of this rank's rows by torch's kernel, without gradient."""
    with torch.no_grad():
        if not len(x):
            return moments(x)
        wide = torch.promote_types(x.dtype, torch.float32)
        mean, variance = torch.batch_norm_update_stats(x, None, None, 0.0)
        count = torch.tensor(x.numel() // x.shape[1], dtype=wide, device=x.device)
        return mean.to(wide), variance.to(wide), count


class _OverRanks(torch.autograd.Function):
    """Normalise by statistics of all ranks' rows, with the gradient that flows through them.

    dx = w / s (dy - mean dy - xhat mean(dy xhat)), the means over all ranks (Ioffe & Szegedy 2015, section 3). Torch's
    kernel for given statistics has the first term and both sums; the rest is linear in x.
    """

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor, *given: Any) -> Tensor:
        mean, variance, count, context.eps = given
        context.save_for_backward(x, weight, mean, variance, count)
        return nn.functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, context.eps)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, count = context.saved_tensors
        # In the memory order of x: the kernel is slow where the two differ.
        order = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        grad = gradients[0].contiguous(memory_format=order if x.dim() == 4 else torch.contiguous_format)
        through, sum_hat, plain = grad, torch.zeros_like(weight), torch.zeros_like(weight)
        if len(x):
            through, sum_hat, plain = torch.ops.aten.native_batch_norm_backward(
                grad, x, weight, mean, variance, None, None, False, context.eps, [True, True, True]
            )
        scale = torch.rsqrt(variance + context.eps)
        all_plain, all_hat = distributed.total(torch.stack([plain, sum_hat])) / count
        slope = weight * scale * scale * all_hat
        level = weight * scale * all_plain - slope * mean
        if len(x):
            # level + slope x by the kernel too: one pass, and its sums are as wide as those above.
            nought = torch.zeros_like(mean)
            through.sub_(nn.functional.batch_norm(x, nought, nought + 1, slope, level, False, 0.0, 0.0))
        return through, sum_hat, plain, None, None, None, None


class GhostBatchNorm(BatchStatistics):
    """BatchNorm in training over parts of the batch of `size` rows each, as if the batch were that small.

    Hoffer et al. 2017, arXiv 1705.08741. Parts are consecutive rows of the whole batch over all ranks, never fewer
    than `size` (one part when the batch is smaller), sizes differing by one at most. The running statistics follow the
    mean of the parts' means and variances.
    """

    def __init__(self, channels: int, momentum: float, eps: float, sync: bool, size: int) -> None:
        super().__init__(channels, momentum, eps, sync)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, ...) normalised part by part in training."""
        self._check_input_dim(x)
        if not self.training:
            return self.given(x, self.running_mean, self.running_var)
        rows = [len(x)]
        if self.over_ranks:
            rows = distributed.stack_over_ranks(torch.tensor(float(len(x)), device=x.device)).long().tolist()
        total, before = sum(rows), sum(rows[: distributed.rank()]) if self.over_ranks else 0
        parts = self.parts(x, total, before)
        mean, variance, count = (torch.stack(each) for each in zip(*map(moments, parts), strict=True))
        if self.over_ranks:
            mean, variance, count = pooled(mean, variance, count)
        if count.min() < 2:
            return self.too_few(x, int(count.min()))
        share = (count / count.sum()).unsqueeze(1)
        unbiased = variance * (count / (count - 1)).unsqueeze(1)
        self.remember((share * mean).sum(0), (share * unbiased).sum(0))
        return torch.cat([self.given(*part) for part in zip(parts, mean, variance, strict=True)])

    def by_batch(self, x: Tensor) -> Tensor:
        """The output in training for a batch that this rank holds whole; buffers stay as they are."""
        parts = self.parts(x, len(x), 0)
        return torch.cat([self.given(part, *moments(part)[:2]) for part in parts])

    def parts(self, x: Tensor, total: int, before: int) -> list[Tensor]:
        """The rows of x in each part of a batch of `total` rows, `before` of which lower ranks hold."""
        count = max(1, total // self.size)
        edges = [min(max(part * total // count - before, 0), len(x)) for part in range(count + 1)]
        return [x[low:high] for low, high in zip(edges, edges[1:], strict=False)]


class BatchRenorm(BatchStatistics):
    """In training y = ((x - mean_B) / s_B * r + d) * weight + bias, which is what the running statistics would give.

    r = clip(s_B / s, 1/r_max, r_max), d = clip((mean_B - mean) / s, -d_max, d_max), no gradient through either, where
    s = sqrt(var + eps). Ioffe 2017, arXiv 1702.03275. r_max and d_max grow linearly from 1 and 0 (plain BatchNorm)
    to their settings over the first `steps` updates, as in the paper; the running variance, not its root, is averaged.
    """

    def __init__(
        self, channels: int, momentum: float, eps: float, sync: bool, r_max: float, d_max: float, steps: int
    ) -> None:
        super().__init__(channels, momentum, eps, sync)
        self.r_max, self.d_max, self.steps = r_max, d_max, steps

    def in_training(self, x: Tensor, mean_C: Tensor, variance_C: Tensor) -> Tensor:
        """Normalised by the batch, then corrected towards the running statistics within the bounds."""
        with torch.no_grad():
            grown = (self.num_batches_tracked.to(mean_C) / max(1, self.steps)).clamp(max=1)
            r_max, d_max = 1 + (self.r_max - 1) * grown, self.d_max * grown
            s = torch.sqrt(self.running_var.to(mean_C) + self.eps)
            r = (torch.sqrt(variance_C + self.eps) / s).clamp(1 / r_max, r_max)
            d = ((mean_C - self.running_mean.to(mean_C)) / s).clamp(-d_max, d_max)
        plain = normalize(x, mean_C, variance_C, r, d, self.eps)
        return plain * per_channel(self.weight, x) + per_channel(self.bias, x)


class FrozenBatchNorm(BatchStatistics):
    """BatchNorm by its running statistics, in training too; scale and shift are not trained.

    He et al. 2016's detectors, arXiv 1512.03385, A; for the last epochs Wu & Johnson 2021, arXiv 2105.07576, 3.3. The
    first `after` updates it is a BatchNorm, so that it has statistics to freeze; with 0 it expects a state that was
    loaded from `bn` (same names), and from scratch it is the identity.
    """

    def __init__(self, channels: int, momentum: float, eps: float, sync: bool, after: int) -> None:
        super().__init__(channels, momentum, eps, sync)
        self.after = after
        self.weight.requires_grad_(False)
        self.bias.requires_grad_(False)

    @property
    def frozen(self) -> bool:
        """Whether training uses the running statistics by now."""
        return self.after == 0 or int(self.num_batches_tracked) >= self.after

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, ...) normalised."""
        if self.training and not self.frozen:
            return super().forward(x)
        self._check_input_dim(x)
        return self.given(x, self.running_mean, self.running_var)


class BatchInstanceNorm(BatchStatistics):
    """y = (rho * BN(x) + (1 - rho) * IN(x)) * weight + bias, rho in [0, 1] learnt per channel (from 1: BatchNorm).

    Nam & Kim 2018, arXiv 1805.07925. The paper projects rho after each step; here the projection is in the formula and
    its gradient passes straight through, so that rho can come back. On (B, C) IN(x) is 0, one value being its own mean.
    """

    def __init__(self, channels: int, momentum: float, eps: float, sync: bool = True) -> None:
        super().__init__(channels, momentum, eps, sync)
        self.rho = nn.Parameter(torch.ones(channels))

    def given(self, x: Tensor, mean_C: Tensor, variance_C: Tensor) -> Tensor:
        """The mixture, its BatchNorm part by these statistics."""
        by_batch = normalize(x, mean_C, variance_C, None, None, self.eps)
        mean, variance = instance_moments(x)
        by_instance = (x - mean) * torch.rsqrt(variance + self.eps)
        rho = per_channel(self.rho + (self.rho.clamp(0, 1) - self.rho).detach(), x)
        mixture = rho * by_batch + (1 - rho) * by_instance
        return mixture * per_channel(self.weight, x) + per_channel(self.bias, x)


class EvoNormB0(BatchStatistics):
    """y = x / max(sqrt(var_B + eps), v * x + sqrt(var_instance + eps)) * weight + bias; norm and activation in one.

    Liu et al. 2020, arXiv 2004.02967, table 2; only the batch variance is used.
    """

    def __init__(self, channels: int, momentum: float, eps: float, sync: bool = True) -> None:
        super().__init__(channels, momentum, eps, sync)
        self.v = nn.Parameter(torch.ones(channels))

    def given(self, x: Tensor, mean_C: Tensor, variance_C: Tensor) -> Tensor:
        """The formula with this batch variance."""
        by_batch = per_channel(torch.sqrt(variance_C + self.eps), x)
        by_instance = per_channel(self.v, x) * x + torch.sqrt(instance_moments(x)[1] + self.eps)
        return x / torch.maximum(by_batch, by_instance) * per_channel(self.weight, x) + per_channel(self.bias, x)
