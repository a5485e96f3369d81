"""A spatial-temporal graph network in its modern form: fixed graph plus a learnt rest, temporal branches, skips.

Yan et al. 2018 (ST-GCN, arXiv 1801.07455) with what Duan et al. 2022 (ST-GCN++, arXiv 2205.09443) made of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.models.graph import SUBSETS, GraphNetwork
from pipeline.models.plan import Plan


class AdaptiveGraph(nn.Module):
    """y = sum over subsets k of W_k x (A_k + B_k): A from the bones, B learnt for all clips (from zero)."""

    fixed_KVV: Tensor

    def __init__(self, plan: Plan, a_KVV: Tensor, inside: int, outside: int) -> None:
        super().__init__()
        self.register_buffer("fixed_KVV", a_KVV.clone(), persistent=False)
        self.learnt_KVV = nn.Parameter(torch.zeros_like(a_KVV))
        self.convolution = plan.norm.weighted(nn.Conv2d(SUBSETS * inside, outside, 1))

    def forward(self, x_BCTV: Tensor) -> Tensor:
        """Features (B, outside, T, V), not normalised."""
        # Messages first, channels after: a block never has fewer channels behind it than in front.
        a_KVV = self.fixed_KVV + self.learnt_KVV
        y_BCTV: Tensor = self.convolution(torch.cat([x_BCTV @ a_VV for a_VV in a_KVV], dim=1))
        return y_BCTV


class StGcn(GraphNetwork):
    """Ten blocks with one adjacency a block for all clips."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan, AdaptiveGraph)
