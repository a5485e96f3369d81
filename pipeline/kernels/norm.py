"""Batch norm in training of features x (B, C, T, V) in channels_last: a matrix of R = B T V rows and C columns.

Forward and backward each take one reduction and one map; the matrix is read or written eight times in all. Torch's own
kernels for this memory order take 1.5 to 2.3 times as long (`python tests/bench/gpu.py --part kernels`). The order of
summation is fixed, so two runs give the same bits.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable
from triton import language as tl

TILE = 4096  # elements per tile
MAX_CHANNELS = 64  # channels of a tile
PARTS = 512  # thread blocks that share a sum over rows: four per multiprocessor of a large GPU
WARPS = {"num_warps": 8}
PARTS_TILE = {"ROWS": 256, "CHANNELS": 16}  # a tile of the sum over parts

# The number of bodies changes from batch to batch: do not compile a kernel for each number.
any_size_jit = triton.jit(do_not_specialize=["rows", "span", "parts"])


@triton.jit
def _channels(CHANNELS: tl.constexpr):
    """Channels of this thread block."""
    return tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)


@triton.jit
def _tile(first, last, channels, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Offsets of ROWS rows from `first`, in this block's channels, and the mask of rows before `last`."""
    row_R = first + tl.arange(0, ROWS)
    c_C = _channels(CHANNELS)
    return row_R.to(tl.int64)[:, None] * channels + c_C[None, :], (row_R < last)[:, None] & (c_C < channels)[None, :]


@triton.jit
def _load_columns(of_C, channels, CHANNELS: tl.constexpr):
    """Load this block's values of a vector over channels, (1, CHANNELS) in float32."""
    c_C = _channels(CHANNELS)
    return tl.load(of_C + c_C, mask=c_C < channels, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _store_columns(of_C, value_C, channels, CHANNELS: tl.constexpr):
    """Store this block's values of a vector over channels."""
    c_C = _channels(CHANNELS)
    tl.store(of_C + c_C, value_C, mask=c_C < channels)


@any_size_jit
def _moments(x, mean_PC, m2_PC, rows, channels, span, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Mean and sum of squared deviations (M2) of one part of the rows: Welford 1962 along each row of the tile.

    The rows of the tile are then pooled (Chan et al. 1979); E[x^2] - E[x]^2 would cancel.
    """
    part = tl.program_id(0)
    first, last = part * span, tl.minimum(part * span + span, rows)
    mean = tl.zeros([ROWS, CHANNELS], tl.float32)
    m2 = tl.zeros([ROWS, CHANNELS], tl.float32)
    count = tl.zeros([ROWS, 1], tl.float32)
    for start in range(first, last, ROWS):
        at, there = _tile(start, last, channels, ROWS, CHANNELS)
        value = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
        count += (start + tl.arange(0, ROWS) < last).to(tl.float32)[:, None]
        off = tl.where(there, value - mean, 0.0)
        mean += off * (1 / tl.maximum(count, 1.0))
        m2 += off * (value - mean)
    level_C = tl.sum(count * mean, 0) / tl.sum(count)
    away = mean - level_C[None, :]
    _store_columns(mean_PC + part * channels, level_C, channels, CHANNELS)
    _store_columns(m2_PC + part * channels, tl.sum(m2 + count * away * away, 0), channels, CHANNELS)


@any_size_jit
def _pooled(
    mean_PC, m2_PC, mean_C, variance_C, running_mean_C, running_var_C, momentum, rows, channels, span, parts,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Mean and biased variance of all rows from the parts (Chan et al. 1979); update the running statistics."""
    level = tl.zeros([ROWS, CHANNELS], tl.float32)
    for start in range(0, parts, ROWS):
        at, there = _tile(start, parts, channels, ROWS, CHANNELS)
        count = tl.minimum(rows - (start + tl.arange(0, ROWS)) * span, span).to(tl.float32)[:, None]
        level += tl.load(mean_PC + at, mask=there, other=0.0) * count
    mean = tl.sum(level, 0) / rows
    m2 = tl.zeros([ROWS, CHANNELS], tl.float32)
    for start in range(0, parts, ROWS):
        at, there = _tile(start, parts, channels, ROWS, CHANNELS)
        count = tl.minimum(rows - (start + tl.arange(0, ROWS)) * span, span).to(tl.float32)[:, None]
        away = tl.where(there, tl.load(mean_PC + at, mask=there, other=0.0) - mean[None, :], 0.0)
        m2 += tl.load(m2_PC + at, mask=there, other=0.0) + count * away * away
    squares = tl.sum(m2, 0)
    _store_columns(mean_C, mean, channels, CHANNELS)
    _store_columns(variance_C, squares / rows, channels, CHANNELS)
    old_mean = tl.sum(_load_columns(running_mean_C, channels, CHANNELS), 0)
    old_var = tl.sum(_load_columns(running_var_C, channels, CHANNELS), 0)
    _store_columns(running_mean_C, old_mean + momentum * (mean - old_mean), channels, CHANNELS)
    _store_columns(running_var_C, old_var + momentum * (squares / (rows - 1) - old_var), channels, CHANNELS)


@any_size_jit
def _normalized(
    x, y, mean_C, variance_C, weight_C, bias_C, rows, channels, eps, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias."""
    at, there = _tile(tl.program_id(0) * ROWS, rows, channels, ROWS, CHANNELS)
    scale = _load_columns(weight_C, channels, CHANNELS) / tl.sqrt(_load_columns(variance_C, channels, CHANNELS) + eps)
    centred = tl.load(x + at, mask=there, other=0.0).to(tl.float32) - _load_columns(mean_C, channels, CHANNELS)
    tl.store(y + at, centred * scale + _load_columns(bias_C, channels, CHANNELS), mask=there)


@any_size_jit
def _gradient_sums(
    dy, x, mean_C, plain_PC, centred_PC, rows, channels, span, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Sums of dy and of dy (x - mean) over one part of the rows."""
    part = tl.program_id(0)
    first, last = part * span, tl.minimum(part * span + span, rows)
    mean = _load_columns(mean_C, channels, CHANNELS)
    plain = tl.zeros([ROWS, CHANNELS], tl.float32)
    centred = tl.zeros([ROWS, CHANNELS], tl.float32)
    for start in range(first, last, ROWS):
        at, there = _tile(start, last, channels, ROWS, CHANNELS)
        gradient = tl.load(dy + at, mask=there, other=0.0).to(tl.float32)
        value = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
        plain += gradient
        centred += gradient * (value - mean)
    _store_columns(plain_PC + part * channels, tl.sum(plain, 0), channels, CHANNELS)
    _store_columns(centred_PC + part * channels, tl.sum(centred, 0), channels, CHANNELS)


@any_size_jit
def _parameter_gradients(
    plain_PC, centred_PC, variance_C, shift_C, scale_C, channels, eps, parts,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Gradients of shift and scale (sums of dy and of dy xhat over all rows) from the sums of the parts."""
    plain = tl.zeros([ROWS, CHANNELS], tl.float32)
    centred = tl.zeros([ROWS, CHANNELS], tl.float32)
    for start in range(0, parts, ROWS):
        at, there = _tile(start, parts, channels, ROWS, CHANNELS)
        plain += tl.load(plain_PC + at, mask=there, other=0.0)
        centred += tl.load(centred_PC + at, mask=there, other=0.0)
    deviation = tl.sqrt(tl.sum(_load_columns(variance_C, channels, CHANNELS), 0) + eps)
    _store_columns(shift_C, tl.sum(plain, 0), channels, CHANNELS)
    _store_columns(scale_C, tl.sum(centred, 0) / deviation, channels, CHANNELS)


@any_size_jit
def _gradient(
    dy, x, dx, mean_C, variance_C, weight_C, shift_C, scale_C, rows, channels, eps,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """dx = weight / s (dy - mean dy - xhat mean(dy xhat)), s = sqrt(variance + eps) (Ioffe & Szegedy 2015, sec. 3)."""
    at, there = _tile(tl.program_id(0) * ROWS, rows, channels, ROWS, CHANNELS)
    inverse = 1 / tl.sqrt(_load_columns(variance_C, channels, CHANNELS) + eps)
    level = _load_columns(shift_C, channels, CHANNELS) / rows
    slope = _load_columns(scale_C, channels, CHANNELS) / rows * inverse
    gradient = tl.load(dy + at, mask=there, other=0.0).to(tl.float32)
    centred = tl.load(x + at, mask=there, other=0.0).to(tl.float32) - _load_columns(mean_C, channels, CHANNELS)
    through = _load_columns(weight_C, channels, CHANNELS) * inverse * (gradient - level - centred * slope)
    tl.store(dx + at, through, mask=there)


class _BatchNorm(torch.autograd.Function):
    """Normalization by the batch's own moments, with the gradient through them."""

    @staticmethod
    def forward(
        context: Any, x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, *how: float
    ) -> Tensor:
        momentum, eps = how
        channels, rows, tile, blocks, parts, span = _launch_sizes(x)
        mean_PC, m2_PC = _empty(x, parts, channels), _empty(x, parts, channels)
        mean_C, variance_C = _empty(x, channels), _empty(x, channels)
        y = torch.empty_like(x)
        _moments[parts, blocks](x, mean_PC, m2_PC, rows, channels, span, **tile)
        _pooled[1, triton.cdiv(channels, PARTS_TILE["CHANNELS"])](
            mean_PC, m2_PC, mean_C, variance_C, running_mean, running_var, momentum, rows, channels, span, parts,
            **PARTS_TILE,
        )  # fmt: skip
        _normalized[triton.cdiv(rows, tile["ROWS"]), blocks](
            x, y, mean_C, variance_C, weight, bias, rows, channels, eps, **tile
        )
        context.save_for_backward(x, weight, mean_C, variance_C)
        context.eps = eps
        return y

    @staticmethod
    @once_differentiable
    def backward(context: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean_C, variance_C = context.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        channels, rows, tile, blocks, parts, span = _launch_sizes(x)
        plain_PC, centred_PC = _empty(x, parts, channels), _empty(x, parts, channels)
        shift_C, scale_C = torch.empty_like(weight), torch.empty_like(weight)
        dx = torch.empty_like(x)
        _gradient_sums[parts, blocks](dy, x, mean_C, plain_PC, centred_PC, rows, channels, span, **tile)
        _parameter_gradients[1, triton.cdiv(channels, PARTS_TILE["CHANNELS"])](
            plain_PC, centred_PC, variance_C, shift_C, scale_C, channels, context.eps, parts, **PARTS_TILE
        )
        _gradient[triton.cdiv(rows, tile["ROWS"]), blocks](
            dy, x, dx, mean_C, variance_C, weight, shift_C, scale_C, rows, channels, context.eps, **tile
        )
        return dx, scale_C, shift_C, None, None, None, None


def _empty(x: Tensor, *shape: int) -> Tensor:
    return x.new_empty(shape, dtype=torch.float32)


def _launch_sizes(x: Tensor) -> tuple[int, int, dict[str, int], int, int, int]:
    """Return channels, rows, tile sizes, tiles per row, parts of a sum over rows, and rows per part."""
    channels = x.shape[1]
    rows = x.numel() // channels
    wide = min(MAX_CHANNELS, triton.next_power_of_2(channels))
    high = TILE // wide
    span = triton.cdiv(triton.cdiv(rows, PARTS), high) * high
    tile = {"ROWS": high, "CHANNELS": wide} | WARPS
    return channels, rows, tile, triton.cdiv(channels, wide), triton.cdiv(rows, span), span


def batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float, eps: float
) -> Tensor:
    """Normalize x by its own moments and update the running statistics in place. A second derivative is an error.

    Args:
        x: (B, C, T, V) in channels_last, with at least 2 values per channel.
        weight: Scale (C,).
        bias: Shift (C,).
        running_mean: (C,), moved towards the batch's mean by `momentum`.
        running_var: (C,), moved towards the batch's unbiased variance by `momentum`.
        momentum: Weight of this batch.
        eps: Added to the variance.

    Returns:
        Tensor like x, in x's type; moments, sums and arithmetic are in float32.
    """
    y: Tensor = _BatchNorm.apply(x, weight, bias, running_mean, running_var, momentum, eps)
    return y
