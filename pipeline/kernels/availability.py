"""When a GPU computes by kernels of our own, in Triton: those of `pipeline.kernels`.

Beside each stand torch's operations that say the same. Triton comes with torch's build for a GPU, so a module of
kernels is loaded where it is first used.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

LARGE = 2**24  # elements, 320 bodies of 64 channels, 32 frames, 25 joints
BFLOAT16 = (8, 0)  # compute capability from which on a GPU has it


def takes_kernels(x: Tensor) -> bool:
    """Whether our kernels take features x: many (B, C, T, V) in channels_last and bfloat16 or float16, on a GPU.

    Few wait for the launching of kernels, not for the kernels, and ours are more than torch's and slower to launch. Not
    in what torch compiles, which fuses its own operations with what is around them.
    """
    return (
        x.is_cuda
        and x.dim() == 4
        and x.dtype in (torch.bfloat16, torch.float16)
        and x.numel() >= LARGE
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_compiling()
        and not hindrance()
    )


@cache
def hindrance() -> str:
    """Why there can be no kernels of our own on this GPU, found out by making a small one; empty if there can.

    Triton builds what launches a kernel with a C compiler and Python's headers, which an image may lack.
    """
    if find_spec("triton") is None:
        return "Triton is not installed"
    try:
        if torch.cuda.get_device_capability() < BFLOAT16:
            return "this GPU has no bfloat16"
        from pipeline.kernels.graph import mix

        mix(torch.ones(1, 1, device="cuda"), torch.ones(1, 1, 1, device="cuda", dtype=torch.bfloat16))
    except Exception as error:  # of the compiler, of Triton, of the driver: torch's operations need none of them
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""
