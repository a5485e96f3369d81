"""Batch normalization: per rank or over all ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline import distributed
from pipeline.kernels import availability
from pipeline.normdoctor.moments import moments
from pipeline.norms.batch import BatchStatistics, pool_over_ranks
from pipeline.norms.kind import Kind

if TYPE_CHECKING:
    from pipeline.norms import NormConfig


class BatchNorm(BatchStatistics):
    """y = (x - mean) / sqrt(var + eps) * weight + bias over all dimensions but C, on any rank, any device.

    Ioffe & Szegedy 2015, arXiv 1502.03167; over ranks Peng et al. 2018, arXiv 1711.07240. Over ranks it
    equals nn.SyncBatchNorm, which rejects CPU tensors. On one rank it runs torch's kernel, or ours on a GPU.
    """

    by_moments_alone = True

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x (B, C, ...) by torch's kernels or ours; with several ranks, by torch's between the exchanges."""
        self._check_input_dim(x)
        if not self.training or (not self.synchronizes and x.numel() > x.shape[1]):
            return self.by_kernels(x) if self.training and availability.use_kernels(x) else _BatchNorm.forward(self, x)
        if not self.synchronizes:
            return super().forward(x)
        mean, variance, count = pool_over_ranks(*_own_moments(x))
        if count < 2:
            return self.handle_too_few_values(x, int(count))
        self.update_running_statistics(mean, variance * (count / (count - 1)))
        y: Tensor = _OverRanks.apply(x, self.weight, self.bias, mean, variance, count, self.eps)
        return y

    def by_kernels(self, x: Tensor) -> Tensor:
        """Return the output in training for a batch that this rank holds whole, by our kernel."""
        from pipeline.kernels.norm import batch_norm

        self.num_batches_tracked.add_(1)
        return batch_norm(x, self.weight, self.bias, self.running_mean, self.running_var, self.momentum, self.eps)

    @property
    def is_watched(self) -> bool:
        """Return whether something waits for `forward`: a hook, or an evaluation that replaces it."""
        hooks = self._forward_hooks or self._forward_pre_hooks or self._backward_hooks
        return "forward" in self.__dict__ or bool(hooks)

    def pools(self, x: Tensor) -> bool:
        """Return whether `pooled` computes what this layer, a 2x2 max-pool and a ReLU do, and the layer has no hook.

        Evaluation by other statistics replaces `forward`, and hooks wait for its output.
        """
        differentiates = torch.is_grad_enabled() and x.requires_grad
        return availability.pools_on_cpu(x) and not self.is_watched and (self.training or not differentiates)

    def pooled(self, x: Tensor) -> Tensor:
        """Return relu(max_pool2d(self(x), 2)) in one pass over x (B, C, T, V), where `pools` holds."""
        from pipeline.kernels import pooled_norm

        if not self.training:
            return pooled_norm.by_moments(x, self.weight, self.bias, self.running_mean, self.running_var, self.eps)
        ranks = pooled_norm.Ranks(_pool_narrow, _total_narrow) if self.synchronizes else pooled_norm.ALONE
        y, mean, variance, count = pooled_norm.by_own_moments(x, self.weight, self.bias, self.eps, ranks)
        self.update_running_statistics(mean, variance * (count / (count - 1)))
        return y

    def normalize_by(self, x: Tensor, mean_C: Tensor, variance_C: Tensor) -> Tensor:
        """Return the output for x (B, C, ...) by these statistics, without gradient through them."""
        mean_C, variance_C = mean_C.to(self.running_mean), variance_C.to(self.running_var)
        return nn.functional.batch_norm(x, mean_C, variance_C, self.weight, self.bias, False, 0.0, self.eps)

    def normalize_by_batch(self, x: Tensor) -> Tensor:
        """Return the output in training for a batch that this rank holds whole; buffers do not change."""
        if x.numel() < 2 * self.num_features:
            return self.normalize_by(x, self.running_mean, self.running_var)
        return nn.functional.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)


def _own_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the `moments` of this rank's rows by torch's kernel, without gradient."""
    with torch.no_grad():
        if not len(x):
            return moments(x)
        wide = torch.promote_types(x.dtype, torch.float32)
        mean, variance = torch.batch_norm_update_stats(x, None, None, 0.0)
        count = torch.tensor(x.numel() // x.shape[1], dtype=wide, device=x.device)
        return mean.to(wide), variance.to(wide), count


# In float32, as in `forward`: a rank without rows takes that way, and both must exchange the same tensors.
def _pool_narrow(mean: Tensor, variance: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean, variance, count = pool_over_ranks(mean.float(), variance.float(), count.float())
    return mean.double(), variance.double(), count.double()


def _total_narrow(sums: Tensor) -> Tensor:
    return distributed.total(sums.float()).double()


class _OverRanks(torch.autograd.Function):
    """Normalization by statistics of all ranks' rows, with the gradient through them.

    dx = w / s (dy - mean dy - xhat mean(dy xhat)), the means over all ranks (Ioffe & Szegedy 2015, section 3). Torch's
    kernel for given statistics computes the first term and both sums; the rest is linear in x.
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
            # level + slope x by the same kernel: one pass, and sums of the same precision as above.
            nought = torch.zeros_like(mean)
            through.sub_(nn.functional.batch_norm(x, nought, nought + 1, slope, level, False, 0.0, 0.0))
        return through, sum_hat, plain, None, None, None, None


def _layer(channels: int, config: NormConfig) -> nn.Module:
    if config.sync and torch.cuda.is_available() and distributed.world_size() > 1:
        return nn.SyncBatchNorm(channels, eps=config.eps, momentum=config.momentum)
    return BatchNorm(channels, config.momentum, config.eps, config.sync)


# On several GPUs both are nn.SyncBatchNorm (with norm.sync); on several CPU ranks the equivalent BatchNorm.
BN = Kind(
    _layer,
    ("momentum", "eps", "sync"),
    batch_statistics=True,
    centres=True,
    title="batch normalization (Ioffe & Szegedy 2015, arXiv 1502.03167)",
)
SYNC_BN = Kind(
    _layer,
    ("momentum", "eps", "sync"),
    batch_statistics=True,
    centres=True,
    synchronized=True,
    title="batch normalization that requires statistics over all ranks",
)
