"""NORMS: name -> factory. The only place that names a normalization layer.

A factory takes the number of channels and the settings, and returns a module over x of shape (B, C) or (B, C, T, V).
To add a norm: write it here, name it in NORMS; the tests are parametrised over the dictionary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline import distributed


@dataclass(frozen=True)
class NormConfig:
    """What is between convolution and ReLU, and which bodies share its statistics."""

    kind: str = "bn"
    """Name in NORMS."""
    persons: str = "masked"
    """Which bodies share a call: a name in PERSONS (pipeline/models/bodies.py)."""
    momentum: float = 0.1
    """Weight of the newest batch in the running statistics, in (0, 1] (torch's convention; 1 - Keras's)."""
    eps: float = 1e-5
    """Added to the variance."""
    groups: int = 8
    """Groups of channels (gn only)."""
    sync: bool = True
    """BatchNorm statistics over all ranks (False: each rank its own, and rank 0's are saved)."""

    def __post_init__(self) -> None:
        if self.kind not in NORMS:
            raise ValueError(f"norm.kind {self.kind!r} is unknown; choose one of {', '.join(NORMS)}")
        if not 0 < self.momentum <= 1:
            raise ValueError(
                f"norm.momentum {self.momentum} is outside (0, 1]; at 0 the running statistics would stay at their "
                "initial values for ever"
            )


Norm = Callable[[int], nn.Module]


class BatchNorm(_BatchNorm):
    """BatchNorm over all dimensions but C (Ioffe & Szegedy 2015, arXiv 1502.03167), on any rank, any device.

    In a world of several ranks the statistics cover the union of the ranks' rows, weighted by their number: ranks may
    hold different numbers of rows, or none. Equal to one big batch (tests/pipeline/test_norms.py). This is the
    CPU twin of nn.SyncBatchNorm, which refuses CPU tensors.
    """

    def __init__(self, channels: int, momentum: float, eps: float, sync: bool = True) -> None:
        super().__init__(channels, eps=eps, momentum=momentum)
        self.sync = sync

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"BatchNorm takes (B, C, ...), got {tuple(x.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.sync and distributed.world_size() > 1):
            return super().forward(x)
        mean, variance, count = pooled(*moments(x))
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            assert self.momentum is not None
            unbiased = variance * (count / (count - 1).clamp(min=1))
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)
            self.num_batches_tracked.add_(1)
        return normalize(x, mean, variance, self.weight, self.bias, self.eps)


def moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), biased variance (C,) and number of values per channel () of x (B, C, ...); zeros for no rows."""
    axes = [0, *range(2, x.dim())]
    count = torch.tensor(x.numel() // x.shape[1], dtype=x.dtype, device=x.device)
    mean = x.sum(axes) / count.clamp(min=1)
    spread = (x - _per_channel(mean, x)).square().sum(axes) / count.clamp(min=1)
    return mean, spread, count


def pooled(mean_C: Tensor, variance_C: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Moments of the union of the ranks' rows from each rank's own (law of total variance; Chan et al. 1979).

    Differences of means, never E[x^2] - E[x]^2, which cancels in float32.
    """
    stacked = distributed.stack_over_ranks(torch.cat([mean_C, variance_C, count.reshape(1)]))
    means, variances, counts = stacked[:, : len(mean_C)], stacked[:, len(mean_C) : -1], stacked[:, -1:]
    share = counts / counts.sum().clamp(min=1)
    mean = (share * means).sum(0)
    variance = (share * (variances + (means - mean).square())).sum(0)
    return mean, variance, counts.sum()


def normalize(
    x: Tensor, mean_C: Tensor, variance_C: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias, per channel of x (B, C, ...)."""
    scale = torch.rsqrt(variance_C.to(x.dtype) + eps)
    if weight is not None:
        scale = scale * weight
    y = (x - _per_channel(mean_C, x)) * _per_channel(scale, x)
    return y if bias is None else y + _per_channel(bias, x)


def _per_channel(v_C: Tensor, x: Tensor) -> Tensor:
    return v_C.to(x.dtype).reshape(1, -1, *[1] * (x.dim() - 2))


def _none(channels: int, config: NormConfig) -> nn.Module:
    return nn.Identity()


def _bn(channels: int, config: NormConfig) -> nn.Module:
    if config.sync and torch.cuda.is_available() and distributed.world_size() > 1:
        return nn.SyncBatchNorm(channels, eps=config.eps, momentum=config.momentum)
    return BatchNorm(channels, config.momentum, config.eps, config.sync)


def _gn(channels: int, config: NormConfig) -> nn.Module:
    if channels % config.groups:
        raise ValueError(f"norm.groups {config.groups} does not divide {channels} channels")
    return nn.GroupNorm(config.groups, channels, eps=config.eps)


def _gn1(channels: int, config: NormConfig) -> nn.Module:
    return nn.GroupNorm(1, channels, eps=config.eps)


NORMS: dict[str, Callable[[int, NormConfig], nn.Module]] = {
    "none": _none,
    "bn": _bn,  # arXiv 1502.03167; over ranks arXiv 1711.07240
    "gn": _gn,  # Wu & He 2018, arXiv 1803.08494
    "gn1": _gn1,  # the "LayerNorm" over all of C, T, V; arXiv 1607.06450
}


def norm_factory(config: NormConfig) -> Norm:
    """The settings, bound: a function from a number of channels to a fresh layer."""
    return lambda channels: NORMS[config.kind](channels, config)


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Every layer of a model that normalises by statistics of the batch, by its first name; reused layers once."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)}
