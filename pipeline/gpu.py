"""When a GPU computes by kernels of our own, in Triton: those of norms/kernels.py and models/kernels.py.

Beside each stand torch's operations that say the same. Triton comes with torch's build for a GPU, so a module of
kernels is loaded where it is first used.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

TRITON = find_spec("triton") is not None
LARGE = 2**24  # elements, 320 bodies of 64 channels, 32 frames, 25 joints


def takes_kernels(x: Tensor) -> bool:
    """Whether our kernels take features x: many (B, C, T, V) in channels_last and bfloat16 or float16, on a GPU.

    Few wait for the launching of kernels, not for the kernels, and Triton's take longer to launch than torch's: a step
    of `stgcn` with 64 clips 71 ms instead of 49 (H200). Not in what torch compiles, which fuses its own operations with
    what is around them.
    """
    return (
        TRITON
        and x.is_cuda
        and x.dim() == 4
        and x.numel() >= LARGE
        and x.dtype in (torch.bfloat16, torch.float16)
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_compiling()
    )
