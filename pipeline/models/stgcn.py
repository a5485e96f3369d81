"""A spatial-temporal graph network in its modern form: fixed graph plus a learnt rest, temporal branches, skips.

Yan et al. 2018 (ST-GCN, arXiv 1801.07455) with what Duan et al. 2022 (ST-GCN++, arXiv 2205.09443) made of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline import gpu
from pipeline.models.graph import SUBSETS, GraphNetwork
from pipeline.models.plan import Plan


class AdaptiveGraph(nn.Module):
    """y = sum over subsets k of W_k x (A_k + B_k): A from the bones, B learnt for all clips (from zero)."""

    fixed_KVV: Tensor

    def __init__(self, plan: Plan, a_KVV: Tensor, inside: int, outside: int) -> None:
        super().__init__()
        self.register_buffer("fixed_KVV", a_KVV.clone(), persistent=False)
        self.learnt_KVV = nn.Parameter(torch.zeros_like(a_KVV))
        self.convolution = plan.norm.in_front(nn.Conv2d(SUBSETS * inside, outside, 1))

    def forward(self, x_BCTV: Tensor) -> Tensor:
        """Features (B, outside, T, V), not normalised."""
        # Channels first, messages after: in channels_last the messages of all subsets are then one product without a
        # copy, and its result is channels_last too.
        weight: Tensor = self.convolution.weight  # type: ignore[assignment]
        bias_C: Tensor | None = self.convolution.bias  # type: ignore[assignment]
        weight_KCI11 = weight.unflatten(1, (SUBSETS, -1)).transpose(0, 1)
        x_BCTV = x_BCTV.contiguous(memory_format=torch.channels_last)
        y_BCTV = nn.functional.conv2d(x_BCTV, weight_KCI11.flatten(0, 1))
        bodies, _, frames, joints = y_BCTV.shape
        y_RPC = y_BCTV.permute(0, 2, 3, 1).reshape(bodies * frames, joints * SUBSETS, len(weight))  # P: (V, K)
        a_VP = (self.fixed_KVV + self.learnt_KVV).permute(2, 1, 0).flatten(1)
        if gpu.takes_kernels(y_BCTV):
            from pipeline.models.kernels import mix

            y_RVC = mix(a_VP, y_RPC)
        else:
            y_RVC = a_VP.expand(y_RPC.shape[0], -1, -1) @ y_RPC
        if bias_C is not None:
            y_RVC = y_RVC + bias_C.to(y_RVC)
        return y_RVC.unflatten(0, (bodies, frames)).permute(0, 3, 1, 2)


class StGcn(GraphNetwork):
    """Ten blocks with one adjacency a block for all clips."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan, AdaptiveGraph)
