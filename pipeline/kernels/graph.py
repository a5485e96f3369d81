"""y = A z for each row of z (R, P, C), one small matrix A (W, P) for all: messages between the joints of a body.

As a batch of products this is what torch has no fast kernel for: 25 joints are no multiple of what a GPU's matrix units
and loads take. Here the sides of A are filled up to powers of two on the chip, and z and y pass through memory once: a
quarter of the time (`python tests/bench/gpu.py --part kernels`).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable
from triton import language as tl

PARTS = 2048  # blocks of threads that share the rows
SUMS = 528  # blocks of threads that share a sum over rows
WIDEST = 64  # channels that a block of threads holds at a time
LEAST = 16  # side of the smallest matrix that the matrix units take
EXACT = tl.constexpr("ieee")  # float32 stays it


@triton.jit
def _matrix(HEIGHT: tl.constexpr, WIDTH: tl.constexpr, height, width, down, right):  # noqa: N803
    """Where a matrix of height x width lies, its steps down and to the right, and which of HEIGHT x WIDTH is there."""
    i_H, j_W = tl.arange(0, HEIGHT), tl.arange(0, WIDTH)
    there = (i_H < height)[:, None] & (j_W < width)[None, :]
    return i_H[:, None] * down + j_W[None, :] * right, there


@triton.jit(do_not_specialize=["rows", "span"])
def _mixed(
    a, z, y, rows, channels, span, down, right, inside, outside,
    INSIDE: tl.constexpr, OUTSIDE: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """y (R, outside, C) = A (outside, inside) z (R, inside, C), some rows and some channels of it."""
    at, there = _matrix(OUTSIDE, INSIDE, outside, inside, down, right)
    a_tile = tl.load(a + at, mask=there, other=0.0)
    start = tl.program_id(1) * CHANNELS
    from_z, in_z = _matrix(INSIDE, CHANNELS, inside, channels - start, channels, 1)
    into_y, in_y = _matrix(OUTSIDE, CHANNELS, outside, channels - start, channels, 1)
    first = tl.program_id(0) * span
    for row in range(first, tl.minimum(first + span, rows)):
        far = tl.cast(row, tl.int64) * channels
        z_tile = tl.load(z + far * inside + start + from_z, mask=in_z, other=0.0)
        tl.store(y + far * outside + start + into_y, tl.dot(a_tile, z_tile, input_precision=EXACT), mask=in_y)


@triton.jit(do_not_specialize=["rows", "span"])
def _sums(
    dy, z, da, rows, channels, span, inside, outside,
    INSIDE: tl.constexpr, OUTSIDE: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """dA (outside, inside) = sum of dy z^T over some rows and all channels."""
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
        total = tl.dot(y_tile, tl.trans(z_tile), total, input_precision=EXACT)
    into, there = _matrix(OUTSIDE, INSIDE, outside, inside, inside, 1)
    tl.store(da + tl.program_id(0) * outside * inside + into, total, mask=there)


class _Mix(torch.autograd.Function):
    """A z, with the gradients of both."""

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
        outside, span = len(a_WP), triton.cdiv(rows, SUMS)
        sums_SWP = a_WP.new_empty(triton.cdiv(rows, span), outside, inside, dtype=torch.float32)
        _sums[(len(sums_SWP),)](dy_RWC, z_RPC, sums_SWP, rows, channels, span, inside, outside,
                                **_sides(inside, outside, channels))  # fmt: skip
        return sums_SWP.sum(0), _product(a_WP.T, dy_RWC)


def _sides(inside: int, outside: int, channels: int) -> dict[str, int]:
    """Of the tiles: powers of two."""
    wide = min(WIDEST, channels)
    sides = {"INSIDE": inside, "OUTSIDE": outside, "CHANNELS": wide}
    return {name: max(LEAST, triton.next_power_of_2(side)) for name, side in sides.items()}


def _product(a_WP: Tensor, z_RPC: Tensor) -> Tensor:
    (rows, inside, channels), outside = z_RPC.shape, len(a_WP)
    y_RWC = z_RPC.new_empty(rows, outside, channels)
    sides, span = _sides(inside, outside, channels), triton.cdiv(rows, PARTS)
    _mixed[triton.cdiv(rows, span), triton.cdiv(channels, sides["CHANNELS"])](
        a_WP, z_RPC, y_RWC, rows, channels, span, *a_WP.stride(), inside, outside, **sides
    )
    return y_RWC


def mix(a_WP: Tensor, z_RPC: Tensor) -> Tensor:
    """A z (R, W, C) in z's type; sums in float32. z (R, P, C) is contiguous; R is 1 or more.

    A (W, P) is rounded to z's type. A second derivative is an error.
    """
    y_RWC: Tensor = _Mix.apply(a_WP, z_RPC)
    return y_RWC
