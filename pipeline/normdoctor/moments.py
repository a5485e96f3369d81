"""Mean and variance per channel: computed, merged, compared, and applied to a layer's input.

The precision of the doctor and of recalibration is decided here. A batch's moments are computed in float32 at least
(a bfloat16 sum loses its small terms), or in the type that a `Precision` names. Variances come from differences of
means, never from E[x^2] - E[x]^2, which cancels in float32.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

# Variances below this are rounding errors: they are raised to it before a division or a logarithm.
VARIANCE_FLOOR = 1e-12
# Distances beyond which two sets of statistics do not describe the same distribution, as medians over channels
# (measured on reused layers: shifts of .76 to 1.04, ratios of 2.0 to 2.2; with one call per pass: below .1).
SHIFT_LIMIT, RATIO_LIMIT = 0.25, 2.0
# Upper limit of a reported variance ratio.
MAX_RATIO = 1e6


def wide(x: Tensor) -> Tensor:
    """Return x in float32 at least."""
    return x.to(wide_dtype(x))


def wide_dtype(x: Tensor) -> torch.dtype:
    """Return the type in which x is summed: float32, or its own where that is wider."""
    return torch.promote_types(x.dtype, torch.float32)


def per_channel(v_C: Tensor, x: Tensor) -> Tensor:
    """Return one value per channel, in the shape and type that broadcasts over x (B, C, ...)."""
    return v_C.to(x.dtype).reshape(1, -1, *[1] * (x.dim() - 2))


def moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), biased variance (C,) and number of values per channel () of x (B, C, ...), in float32 at least.

    Zeros where x has no rows.
    """
    x = wide(x)
    axes = [0, *range(2, x.dim())]
    count = x.new_full(
        (), x.numel() // x.shape[1]
    )  # filled on the device: a tensor from a number would be copied to it
    mean = x.sum(axes) / count.clamp(min=1)
    variance = (x - per_channel(mean, x)).square().sum(axes) / count.clamp(min=1)
    return mean, variance, count


def normalize(
    x: Tensor, mean_C: Tensor, variance_C: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias, per channel of x (B, C, ...)."""
    wide_x = wide(x)
    scale = torch.rsqrt(variance_C.to(wide_x.dtype) + eps)
    if weight is not None:
        scale = scale * weight
    y = (wide_x - per_channel(mean_C, wide_x)) * per_channel(scale, wide_x)
    return (y if bias is None else y + per_channel(bias, wide_x)).to(x.dtype)


class Precision(NamedTuple):
    """Number types of a pass over batches; None: that of the input, float32 at least."""

    computed: torch.dtype | None
    """In which the moments of one batch are computed."""
    kept: torch.dtype | None
    """In which the batches' moments are merged."""


# Statistics that are written into buffers or stand in for them (recalibration): float64 throughout.
EXACT = Precision(torch.float64, torch.float64)
# Statistics that are compared (the doctor): batches in the layer's own precision, merged in float64.
MEASURED = Precision(None, torch.float64)
# Statistics that are looked at in passing during training: no conversion at all.
PASSING = Precision(None, None)


@dataclass(frozen=True)
class Moments:
    """Population statistics of one call site: mean, biased variance, and how many values per channel they cover."""

    mean_C: Tensor
    variance_C: Tensor
    count: float
    averaged: bool = False
    """True if the variance is the mean of the samples' own: then means that differ add nothing to it."""

    @classmethod
    def of(cls, x: Tensor, precision: Precision = MEASURED) -> Moments:
        """Moments of x (B, C, ...), without gradient."""
        x = x.detach()
        mean, variance, count = moments(x if precision.computed is None else x.to(precision.computed))
        kept = precision.kept or mean.dtype
        return cls(mean.to(kept), variance.to(kept), float(count))

    @classmethod
    def of_instances(cls, x: Tensor, precision: Precision = MEASURED) -> Moments:
        """Mean over the rows of x (B, C, ...) of each row's own mean and variance, without gradient.

        Rows of one value have none of their own: nodes (N, C) of graphs are taken as one instance.
        """
        if x.dim() < 3:
            return replace(cls.of(x, precision), averaged=True)
        x = x.detach()
        x = wide(x if precision.computed is None else x.to(precision.computed)).flatten(2)
        kept = precision.kept or x.dtype
        mean, variance = x.mean(-1).mean(0), x.var(-1, correction=0).mean(0)
        return cls(mean.to(kept), variance.to(kept), float(x.shape[0] * x.shape[2]), averaged=True)

    def merge(self, other: Moments) -> Moments:
        """Moments of the union (law of total variance; Chan et al. 1979). Those of nothing are neutral."""
        count = self.count + other.count
        if count == 0:
            return self
        a, b = self.count / count, other.count / count
        mean = a * self.mean_C + b * other.mean_C
        variance = a * self.variance_C + b * other.variance_C
        if not self.averaged:
            variance = variance + a * b * (self.mean_C - other.mean_C).square()
        return Moments(mean, variance, count, self.averaged)

    @property
    def finite(self) -> bool:
        """True if every number is finite."""
        return bool(torch.isfinite(self.mean_C).all() and torch.isfinite(self.variance_C).all())


def mean_shift(a: Moments, b: Moments) -> float:
    """Median over channels of |mean a - mean b|, in pooled standard deviations."""
    pooled = ((a.variance_C + b.variance_C.to(a.variance_C)) / 2).clamp(min=VARIANCE_FLOOR).sqrt()
    return ((a.mean_C - b.mean_C.to(a.mean_C)).abs() / pooled).median().item()


def variance_ratio(a: Moments, b: Moments) -> float:
    """Median over channels of the ratio of variances, larger over smaller, at most MAX_RATIO."""
    return _log_ratio_C(a, b).abs().median().exp().clamp(max=MAX_RATIO).item()


class Distance(NamedTuple):
    """Distance between two sets of statistics."""

    shift: float
    """`mean_shift`."""
    ratio: float
    """`variance_ratio`."""

    @property
    def beyond_limit(self) -> bool:
        """True if the two do not describe the same distribution."""
        return self.shift > SHIFT_LIMIT or self.ratio > RATIO_LIMIT


def distance(a: Moments, b: Moments) -> Distance:
    """Compare two sets of statistics."""
    return Distance(mean_shift(a, b), variance_ratio(a, b))


def log_variance_ratio(a: Moments, b: Moments) -> float:
    """Median over channels of log(variance a / variance b)."""
    return _log_ratio_C(a, b).median().item()


def _log_ratio_C(a: Moments, b: Moments) -> Tensor:
    floored_a, floored_b = (m.variance_C.to(a.variance_C).clamp(min=VARIANCE_FLOOR) for m in (a, b))
    return floored_a.log() - floored_b.log()
