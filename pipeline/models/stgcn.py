"""A spatial-temporal graph network in its modern form: fixed graph plus a learnt rest, temporal branches, skips.

Yan et al. 2018 (ST-GCN, arXiv 1801.07455) with what Duan et al. 2022 (ST-GCN++, arXiv 2205.09443) made of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.kernels import availability
from pipeline.models.graph import SUBSETS, GraphNetwork
from pipeline.models.plan import Plan


class AdaptiveGraph(nn.Module):
    """y = sum over subsets k of W_k x (A_k + B_k): A from the bones, B learnt for all clips (from zero).

    One matrix sends every joint's K messages to all joints at once: to joint W from P, which is (V, K).
    """

    fixed_WP: Tensor

    def __init__(self, plan: Plan, a_KVV: Tensor, inside: int, outside: int) -> None:
        super().__init__()
        self.register_buffer("fixed_WP", a_KVV.permute(2, 1, 0).flatten(1).contiguous(), persistent=False)
        self.learnt_WP = nn.Parameter(torch.zeros_like(self.fixed_WP))
        convolution = nn.Conv2d(inside, SUBSETS * outside, 1)
        # A joint adds up K messages: as small as from a layer that sees K times as many channels.
        convolution.weight.data /= SUBSETS**0.5
        self.convolution = plan.norm.parametrize(convolution, drop_bias=True)

    def forward(self, x_BCTV: Tensor) -> Tensor:
        """Features (B, outside, T, V), not normalised."""
        # Channels first, messages after: in channels_last the messages of all subsets are then one product without a
        # copy, and its result is channels_last too.
        y_BCTV = self.convolution(x_BCTV.contiguous(memory_format=torch.channels_last))
        bodies, channels, frames, joints = y_BCTV.shape
        y_RPC = y_BCTV.permute(0, 2, 3, 1).reshape(bodies * frames, joints * SUBSETS, channels // SUBSETS)
        a_WP = self.fixed_WP + self.learnt_WP
        if availability.takes_kernels(y_BCTV):
            from pipeline.kernels.graph import mix

            y_RWC = mix(a_WP, y_RPC)
        else:
            y_RWC = a_WP.expand(y_RPC.shape[0], -1, -1) @ y_RPC  # not len: an export keeps the number of rows open
        return y_RWC.unflatten(0, (bodies, frames)).permute(0, 3, 1, 2)


class StGcn(GraphNetwork):
    """Ten blocks with one adjacency a block for all clips."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan, AdaptiveGraph)
