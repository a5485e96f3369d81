"""Batch norm, 2x2 max-pool and ReLU in one pass over features in channels_last on a CPU, compiled by Numba.

The plain way reads or writes the features about ten times per step. Batch norm is monotone in each channel, so its
maximum over a window comes from the largest or, where the scale is negative, the smallest value. One pass finds these
values and the moments; normalization and ReLU then touch a quarter of the elements. Backward, both sums of batch norm's
gradient need the chosen values only, and one pass writes the gradient of all. `plain` is the formula in torch's words.

Features x (B, C, T, V) are (B, T, V, C) in memory; Numba sees float32, or the bits of bf16 as 16-bit words. Sums over
two frames of a body are float32, all beyond is float64 in a fixed order: the bits do not depend on threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload
from torch import Tensor
from torch.autograd.function import once_differentiable

WINDOW = 2
Pool = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
Total = Callable[[Tensor], Tensor]


class Ranks(NamedTuple):
    """Pooling of moments and sums over ranks."""

    moments: Pool
    """Mean, biased variance and count of this rank's values -> those of all ranks'."""
    total: Total
    """Tensor -> its sum over all ranks."""


ALONE = Ranks(lambda mean, variance, count: (mean, variance, count), lambda sums: sums)


def plain(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    """Return relu(max_pool2d(batch_norm(x))) for given moments, the formula that this module computes."""
    y = torch.nn.functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)
    return torch.relu(torch.max_pool2d(y, WINDOW))


def by_own_moments(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, ranks: Ranks = ALONE
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the output, and the mean, biased variance and count of the values of all ranks, which it normalizes by.

    Args:
        x: Features (B, C, T, V) for which `availability.pools_on_cpu` holds.
        weight: Scale (C,).
        bias: Shift (C,).
        eps: Constant added to the variance.
        ranks: How moments and sums are pooled.
    """
    result: tuple[Tensor, Tensor, Tensor, Tensor] = _PooledNorm.apply(x, weight, bias, eps, ranks)
    return result


def by_moments(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    """Return the output for given mean and variance, (C,) each; without gradient."""
    chosen, _, _ = _choose(x, weight)
    scale = weight.double() * torch.rsqrt(variance.double() + eps)
    return _finish(chosen, scale, bias.double() - mean.double() * scale)


class _PooledNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, ranks: Ranks
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        chosen, where, (mean, variance) = _choose(x, weight)
        count = torch.tensor(float(x.numel() // x.shape[1]), dtype=torch.float64)
        mean, variance, count = ranks.moments(mean, variance, count)
        inverse = torch.rsqrt(variance + eps)
        scale = weight.double() * inverse
        y = _finish(chosen, scale, bias.double() - mean * scale)
        context.arrays, context.ranks = (chosen, where), ranks
        context.save_for_backward(x, y, weight, mean, inverse, count)
        context.mark_non_differentiable(mean, variance, count)
        return y, mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(context: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """dx = scale (d - mean d - xhat mean(d xhat)), d: dy where it is chosen and above 0 (Ioffe & Szegedy 2015)."""
        x, y, weight, mean, inverse, count = context.saved_tensors
        chosen, where = context.arrays
        dy_words, y_words = _words(dy.to(x.dtype).contiguous(memory_format=torch.channels_last)), _words(y)
        level = mean.float().numpy()
        sums = np.empty((len(x), 2, x.shape[1]))
        _in_parts(len(x), _gradient_sums, dy_words, y_words, chosen, level, sums)
        plain_sum, centred_sum = torch.from_numpy(sums.sum(0))
        sum_hat = centred_sum * inverse
        over_all = context.ranks.total(torch.stack([plain_sum, sum_hat])) / count
        scale = weight.double() * inverse
        shift, slope = scale * over_all[0], scale * inverse * over_all[1]
        dx = torch.empty_like(x)
        each = [value.float().numpy() for value in (scale, shift, slope)]
        _in_parts(len(x), _gradient, _words(x), dy_words, y_words, where, level, *each, _words(dx))
        return dx, sum_hat.to(weight), plain_sum.to(weight), None, None


def _words(x: Tensor) -> np.ndarray:
    """Return features in channels_last as (B, T, V, C), without a copy; bits as uint16 instead of bf16."""
    rows = x.detach().permute(0, 2, 3, 1)
    words: np.ndarray = (rows.view(torch.uint16) if x.dtype is torch.bfloat16 else rows).numpy()
    return words


def _choose(x: Tensor, weight: Tensor) -> tuple[np.ndarray, np.ndarray, tuple[Tensor, Tensor]]:
    """Return the value that each window's maximum comes from, its place 0 to 3, and the moments of all values."""
    words = _words(x)
    bodies, frames, joints, channels = words.shape
    shape = (bodies, frames // WINDOW, joints // WINDOW, channels)
    chosen, where = np.empty(shape, words.dtype), np.empty(shape, np.uint8)
    sums = np.empty((bodies, 2, channels))
    # Sums of differences from some value of the channel: E[x^2] - E[x]^2 would cancel where the mean is large.
    pivot = x.detach()[0, :, 0, 0].float().numpy()
    sign = np.where(weight.detach().float().numpy() < 0, np.float32(-1), np.float32(1))
    _in_parts(bodies, _choices, words, pivot, sign, chosen, where, sums)
    off, squares = torch.from_numpy(sums.sum(0)) / (bodies * frames * joints)
    return chosen, where, (torch.from_numpy(pivot) + off, squares - off * off)


def _finish(chosen: np.ndarray, scale: Tensor, shift: Tensor) -> Tensor:
    """Return relu(scale * chosen + shift) as a tensor (B, C, T, V) in channels_last."""
    words = np.empty_like(chosen)
    _in_parts(len(chosen), _outputs, chosen, scale.detach().float().numpy(), shift.detach().float().numpy(), words)
    y = torch.from_numpy(words)
    return (y.view(torch.bfloat16) if words.dtype == np.uint16 else y).permute(0, 3, 1, 2)


def _in_parts(rows: int, loop: Callable[..., None], *arrays: np.ndarray) -> None:
    """Run `loop(*arrays, first, last)` over the rows, on as many threads as torch has."""
    parts = min(torch.get_num_threads(), rows)
    if parts <= 1:
        loop(*arrays, 0, rows)
        return
    bounds = [rows * part // parts for part in range(parts + 1)]
    waiting = [_threads(os.getpid()).submit(loop, *arrays, *bounds[part : part + 2]) for part in range(1, parts)]
    loop(*arrays, *bounds[:2])
    for one in waiting:
        one.result()


@cache
def _threads(process: int) -> ThreadPoolExecutor:
    """Return the threads of a process; a forked one has none of its parent's."""
    return ThreadPoolExecutor(os.cpu_count(), f"skelnorm-{process}")


@intrinsic
def _float_of(context: Any, bits: Any) -> Any:
    """Take 32 bits for a float32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@intrinsic
def _bits_of(context: Any, value: Any) -> Any:
    """Take a float32 for its 32 bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


def _wide(word):  # type: ignore[no-untyped-def]
    """Return an element as float32; a 16-bit word is the upper half of one."""
    raise NotImplementedError  # compiled code alone calls it


@overload(_wide)
def _wide_of(word):  # type: ignore[no-untyped-def]
    if word == types.uint16:
        return lambda word: _float_of(np.uint32(word) << np.uint32(16))
    return lambda word: word


def _narrow(value, array):  # type: ignore[no-untyped-def]
    """Return a float32 as an element of the array; the nearest 16-bit word, ties to even, where it holds words."""
    raise NotImplementedError  # compiled code alone calls it


@overload(_narrow)
def _narrow_of(value, array):  # type: ignore[no-untyped-def]
    if array.dtype != types.uint16:
        return lambda value, array: value

    def nearest(value, array):  # type: ignore[no-untyped-def]
        bits = _bits_of(value)
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        return np.uint16(rounded) if value == value else np.uint16(0x7FC0)  # NaN stays NaN

    return nearest


# "contract" lets a product and a sum round once; the loops over channels are the ones that the compiler vectorizes.
compiled = njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")


@compiled
def _choices(x, pivot, sign, chosen, where, sums, first, last):  # type: ignore[no-untyped-def]
    """Fill in `_choose` for the bodies from first to last."""
    _, frames, joints, channels = x.shape
    rows, columns = chosen.shape[1:3]
    plain_sum, squares = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for b in range(first, last):
        sums[b] = 0.0
        for row in range((frames + 1) // 2):
            plain_sum[:] = 0.0
            squares[:] = 0.0
            t = 2 * row
            for column in range(columns if row < rows else 0):
                v = 2 * column
                for c in range(channels):
                    x0, x1 = _wide(x[b, t, v, c]), _wide(x[b, t, v + 1, c])
                    x2, x3 = _wide(x[b, t + 1, v, c]), _wide(x[b, t + 1, v + 1, c])
                    o0, o1, o2, o3 = x0 - pivot[c], x1 - pivot[c], x2 - pivot[c], x3 - pivot[c]
                    plain_sum[c] += (o0 + o1) + (o2 + o3)
                    squares[c] += (o0 * o0 + o1 * o1) + (o2 * o2 + o3 * o3)
                    y0, y1, y2, y3 = x0 * sign[c], x1 * sign[c], x2 * sign[c], x3 * sign[c]
                    above, below = max(y0, y1), max(y2, y3)
                    at_above = np.uint8(1) if y1 > y0 else np.uint8(0)
                    at_below = np.uint8(3) if y3 > y2 else np.uint8(2)
                    where[b, row, column, c] = at_below if below > above else at_above
                    chosen[b, row, column, c] = _narrow(max(above, below) * sign[c], chosen)
            # Frames and joints that fill no window count in the moments alone.
            for frame in range(t, min(t + 2, frames)):
                for v in range(2 * columns if row < rows else 0, joints):
                    for c in range(channels):
                        off = _wide(x[b, frame, v, c]) - pivot[c]
                        plain_sum[c] += off
                        squares[c] += off * off
            for c in range(channels):
                sums[b, 0, c] += plain_sum[c]
                sums[b, 1, c] += squares[c]


@compiled
def _outputs(chosen, scale, shift, y, first, last):  # type: ignore[no-untyped-def]
    """Fill in `_finish` for the bodies from first to last."""
    _, rows, columns, channels = chosen.shape
    for b in range(first, last):
        for row in range(rows):
            for column in range(columns):
                for c in range(channels):
                    value = _wide(chosen[b, row, column, c]) * scale[c] + shift[c]
                    y[b, row, column, c] = _narrow(np.float32(0) if value <= np.float32(0) else value, y)  # NaN passes


@compiled
def _gradient_sums(dy, y, chosen, mean, sums, first, last):  # type: ignore[no-untyped-def]
    """Sums of d and of d (x - mean) over each body; d is dy where y is above 0."""
    _, rows, columns, channels = chosen.shape
    plain_sum, centred = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for b in range(first, last):
        sums[b] = 0.0
        for row in range(rows):
            plain_sum[:] = 0.0
            centred[:] = 0.0
            for column in range(columns):
                for c in range(channels):
                    d = _wide(dy[b, row, column, c]) if y[b, row, column, c] != 0 else np.float32(0)
                    plain_sum[c] += d
                    centred[c] += d * (_wide(chosen[b, row, column, c]) - mean[c])
            for c in range(channels):
                sums[b, 0, c] += plain_sum[c]
                sums[b, 1, c] += centred[c]


@compiled
def _gradient(x, dy, y, where, mean, scale, shift, slope, dx, first, last):  # type: ignore[no-untyped-def]
    """dx = scale d - shift - slope (x - mean), d being 0 where x was not chosen."""
    _, frames, joints, channels = x.shape
    rows, columns = where.shape[1:3]
    d, nought = np.empty(channels, np.float32), np.float32(0)
    for b in range(first, last):
        for row in range(rows):
            for column in range(columns):
                for c in range(channels):
                    d[c] = scale[c] * _wide(dy[b, row, column, c]) if y[b, row, column, c] != 0 else nought
                for place in range(4):
                    t, v = 2 * row + place // 2, 2 * column + place % 2
                    for c in range(channels):
                        through = d[c] if where[b, row, column, c] == place else nought
                        dx[b, t, v, c] = _narrow(through - shift[c] - slope[c] * (_wide(x[b, t, v, c]) - mean[c]), dx)
        for t in range(frames):
            for v in range(2 * columns if t < 2 * rows else 0, joints):
                for c in range(channels):
                    dx[b, t, v, c] = _narrow(-shift[c] - slope[c] * (_wide(x[b, t, v, c]) - mean[c]), dx)
