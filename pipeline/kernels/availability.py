"""Conditions under which the kernels of `pipeline.kernels` replace torch operations.

Triton comes only with torch's GPU builds, and Numba takes half a second to load, so a module of kernels is imported
where it is first used.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

MIN_ELEMENTS = 2**24  # about 330 bodies of 64 channels, 32 frames, 25 joints
MIN_CAPABILITY = (8, 0)  # lowest compute capability with bfloat16


def use_kernels(x: Tensor) -> bool:
    """Return whether our kernels process features x: large, (B, C, T, V), channels_last, bfloat16 or float16, on a GPU.

    Small batches are launch-bound, and our kernels are more and slower to launch than torch's. Compiled code keeps
    torch's operations, which the compiler fuses with their neighbours.
    """
    return (
        x.is_cuda
        and x.dim() == 4
        and x.dtype in (torch.bfloat16, torch.float16)
        and x.numel() >= MIN_ELEMENTS
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_compiling()
        and not unavailable_reason()
    )


def pools_on_cpu(x: Tensor) -> bool:
    """Return whether `pooled_norm` processes features x: (B, C, T, V), channels_last, bf16 or fp32, on a CPU.

    Compiled code keeps torch's operations, which the compiler fuses with their neighbours.
    """
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.bfloat16, torch.float32)
        and x.dim() == 4
        and min(x.shape[2:]) >= 2
        and x.numel() > x.shape[1]
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_compiling()
    )


@cache
def unavailable_reason() -> str:
    """Return the reason why our kernels cannot run on this GPU, found by running a small one; empty if they can.

    Triton compiles its launcher with a C compiler and Python's headers, which a container image may lack.
    """
    if find_spec("triton") is None:
        return "Triton is not installed"
    try:
        if torch.cuda.get_device_capability() < MIN_CAPABILITY:
            return "this GPU has no bfloat16"
        from pipeline.kernels.graph import aggregate

        aggregate(torch.ones(1, 1, device="cuda"), torch.ones(1, 1, 1, device="cuda", dtype=torch.bfloat16))
    except Exception as error:  # compiler, Triton or driver: torch's operations need none of them
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""
