"""Message aggregation of a graph convolution: y = A z for each row of z (R, P, C), with one small matrix A (W, P).

Torch has no fast kernel for this batched product: 25 joints are not a multiple of the tiles of a GPU's matrix units.
Here A is padded to powers of two on the chip, and z and y pass through memory once, in a quarter of the time
(`python tests/bench/gpu.py --part kernels`).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable
from triton import language as tl

ROW_BLOCKS = 2048  # thread blocks that share the rows
SUM_BLOCKS = 528  # thread blocks that share a sum over rows
MAX_CHANNELS = 64  # channels per tile
MIN_SIDE = 16  # smallest side of a tile of the matrix units
FLOAT32 = tl.constexpr("ieee")  # no TF32 for float32 inputs


@triton.jit
def _matrix(HEIGHT: tl.constexpr, WIDTH: tl.constexpr, height, width, down, right):  # noqa: N803
    """Offsets of a HEIGHT x WIDTH tile with strides `down` and `right`, and the mask of its height x width elements."""
    i_H, j_W = tl.arange(0, HEIGHT), tl.arange(0, WIDTH)
    there = (i_H < height)[:, None] & (j_W < width)[None, :]
    return i_H[:, None] * down + j_W[None, :] * right, there


@triton.jit(do_not_specialize=["rows", "span"])
def _aggregate(
    a, z, y, rows, channels, span, down, right, inside, outside,
    INSIDE: tl.constexpr, OUTSIDE: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """y (R, outside, C) = A (outside, inside) z (R, inside, C), for `span` rows and CHANNELS channels."""
    at, there = _matrix(OUTSIDE, INSIDE, outside, inside, down, right)
    a_tile = tl.load(a + at, mask=there, other=0.0)
    start = tl.program_id(1) * CHANNELS
    from_z, in_z = _matrix(INSIDE, CHANNELS, inside, channels - start, channels, 1)
    into_y, in_y = _matrix(OUTSIDE, CHANNELS, outside, channels - start, channels, 1)
    first = tl.program_id(0) * span
    for row in range(first, tl.minimum(first + span, rows)):
        far = tl.cast(row, tl.int64) * channels
        z_tile = tl.load(z + far * inside + start + from_z, mask=in_z, other=0.0)
        tl.store(y + far * outside + start + into_y, tl.dot(a_tile, z_tile, input_precision=FLOAT32), mask=in_y)


@triton.jit(do_not_specialize=["rows", "span"])
def _sums(
    dy, z, da, rows, channels, span, inside, outside,
    INSIDE: tl.constexpr, OUTSIDE: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """dA (outside, inside) = sum of dy z^T over `span` rows and all channels."""
    total = tl.zeros([OUTSIDE, INSIDE], tl.float32)
    blocks = tl.cdiv(channels, CHANNELS)
    first = tl.program_id(0) * span * blocks
    last = tl.minimum(first + span * blocks, rows * blocks)
    for step in range(first, last):
        start = (step % blocks) * CHANNELS
        far = tl.cast(step // blocks, tl.int64) * channels
        from_z, in_z = _matrix(INSIDE, CHANNELS, inside, channels - start, channels, 1)
        from_y, in_y = _matrix(OUTSIDE, CHANNELS, outside, channels - start, channels, 1)
        z_tile = tl.load(z + far * inside + start + from_z, mask=in_z, other=0.0)
        y_tile = tl.load(dy + far * outside + start + from_y, mask=in_y, other=0.0)
        total = tl.dot(y_tile, tl.trans(z_tile), total, input_precision=FLOAT32)
    into, there = _matrix(OUTSIDE, INSIDE, outside, inside, inside, 1)
    tl.store(da + tl.program_id(0) * outside * inside + into, total, mask=there)


class _Aggregate(torch.autograd.Function):
    """A z, with the gradients of A and z."""

    @staticmethod
    def forward(context: Any, a_WP: Tensor, z_RPC: Tensor) -> Tensor:
        a_WP = a_WP.to(z_RPC.dtype)
        context.save_for_backward(a_WP, z_RPC)
        return _product(a_WP, z_RPC)

    @staticmethod
    @once_differentiable
    def backward(context: Any, dy_RWC: Tensor) -> tuple[Tensor, Tensor]:
        a_WP, z_RPC = context.saved_tensors
        dy_RWC = dy_RWC.contiguous()
        rows, inside, channels = z_RPC.shape
        outside, span = len(a_WP), triton.cdiv(rows, SUM_BLOCKS)
        sums_SWP = a_WP.new_empty(triton.cdiv(rows, span), outside, inside, dtype=torch.float32)
        _sums[(len(sums_SWP),)](dy_RWC, z_RPC, sums_SWP, rows, channels, span, inside, outside,
                                **_sides(inside, outside, channels))  # fmt: skip
        return sums_SWP.sum(0), _product(a_WP.T, dy_RWC)


def _sides(inside: int, outside: int, channels: int) -> dict[str, int]:
    """Sides of the tiles, powers of two."""
    wide = min(MAX_CHANNELS, channels)
    sides = {"INSIDE": inside, "OUTSIDE": outside, "CHANNELS": wide}
    return {name: max(MIN_SIDE, triton.next_power_of_2(side)) for name, side in sides.items()}


def _product(a_WP: Tensor, z_RPC: Tensor) -> Tensor:
    (rows, inside, channels), outside = z_RPC.shape, len(a_WP)
    y_RWC = z_RPC.new_empty(rows, outside, channels)
    sides, span = _sides(inside, outside, channels), triton.cdiv(rows, ROW_BLOCKS)
    _aggregate[triton.cdiv(rows, span), triton.cdiv(channels, sides["CHANNELS"])](
        a_WP, z_RPC, y_RWC, rows, channels, span, *a_WP.stride(), inside, outside, **sides
    )
    return y_RWC


def aggregate(a_WP: Tensor, z_RPC: Tensor) -> Tensor:
    """Return A z (R, W, C) in z's type, with sums in float32. A second derivative is an error.

    Args:
        a_WP: Matrix A, rounded to z's type.
        z_RPC: Contiguous, with at least one row.
    """
    y_RWC: Tensor = _Aggregate.apply(a_WP, z_RPC)
    return y_RWC
