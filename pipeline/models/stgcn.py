"""ST-GCN++: graph convolutions with a fixed and a learnt adjacency, multi-scale temporal convolutions, residuals.

Yan et al. 2018 (ST-GCN, arXiv 1801.07455) as modernized by Duan et al. 2022 (ST-GCN++, arXiv 2205.09443).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.kernels import availability
from pipeline.models.graph import SUBSETS, GraphNetwork
from pipeline.models.plan import Plan


class AdaptiveGraphConv(nn.Module):
    """y = sum over subsets k of W_k x (A_k + B_k): A from the bones, B learnt (from zero) and shared by all clips.

    One matrix (W, P) aggregates the messages of all subsets: to joint W from P, which is (V, K).
    """

    fixed_WP: Tensor

    def __init__(self, plan: Plan, a_KVV: Tensor, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.register_buffer("fixed_WP", a_KVV.permute(2, 1, 0).flatten(1).contiguous(), persistent=False)
        self.learnt_WP = nn.Parameter(torch.zeros_like(self.fixed_WP))
        convolution = nn.Conv2d(in_channels, SUBSETS * out_channels, 1)
        # A joint sums K messages: scale the weights as for a layer with K times as many input channels.
        convolution.weight.data /= SUBSETS**0.5
        self.convolution = plan.norm.parametrize(convolution, drop_bias=True)

    def forward(self, x_BCTV: Tensor) -> Tensor:
        """Return features (B, out_channels, T, V), not normalized."""
        # Convolution before aggregation: in channels_last the messages of all subsets are then one matrix product
        # without a copy, and its result is channels_last too.
        y_BCTV = self.convolution(x_BCTV.contiguous(memory_format=torch.channels_last))
        bodies, channels, frames, joints = y_BCTV.shape
        y_RPC = y_BCTV.permute(0, 2, 3, 1).reshape(bodies * frames, joints * SUBSETS, channels // SUBSETS)
        a_WP = self.fixed_WP + self.learnt_WP
        if availability.use_kernels(y_BCTV):
            from pipeline.kernels.graph import aggregate

            y_RWC = aggregate(a_WP, y_RPC)
        else:
            y_RWC = a_WP.expand(y_RPC.shape[0], -1, -1) @ y_RPC  # not len(): the exporter would make it a constant
        return y_RWC.unflatten(0, (bodies, frames)).permute(0, 3, 1, 2)


class StGcn(GraphNetwork):
    """Ten blocks, each with one adjacency for all clips."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan, AdaptiveGraphConv)
