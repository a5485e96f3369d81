"""CTR-GCN, channel-wise topology refinement: each clip and each channel has an adjacency of its own.

Chen et al. 2021 (CTR-GCN, arXiv 2107.12213, sections 3.2 to 3.4).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.models.graph import SUBSETS, GraphNetwork
from pipeline.models.plan import Plan

MIN_RELATIONS = 8
REDUCTION = 8


class RefinedGraphConv(nn.Module):
    """y = sum over k of (A_k + alpha_k Q_k(x)) applied to W_k x, channel by channel.

    A is learnt, starts at the skeleton's adjacency and is shared by all clips. Q_k = M_k tanh(theta_k(x)_v -
    phi_k(x)_w) relates pairs of joints of one clip, by features averaged over time. alpha starts at 0.
    """

    def __init__(self, plan: Plan, a_KVV: Tensor, in_channels: int, out_channels: int) -> None:
        super().__init__()
        relations = max(MIN_RELATIONS, in_channels // REDUCTION)
        self.shared_KVV = nn.Parameter(a_KVV.clone())
        self.alpha_K111 = nn.Parameter(torch.zeros(SUBSETS, 1, 1, 1))
        self.theta = nn.Conv1d(in_channels, SUBSETS * relations, 1)
        self.phi = nn.Conv1d(in_channels, SUBSETS * relations, 1)
        self.refine = nn.Conv2d(SUBSETS * relations, SUBSETS * out_channels, 1, groups=SUBSETS)
        self.value = plan.norm.parametrize(nn.Conv2d(in_channels, SUBSETS * out_channels, 1))

    def topology(self, x_BCTV: Tensor) -> Tensor:
        """Return the adjacency (B, K, out_channels, V, V) from joint v to joint w of each subset and channel."""
        # theta and phi are linear, so the mean over time may come first, which is T times less work.
        x_BCV = x_BCTV.mean(dim=2)
        pair_BRVV = torch.tanh(self.theta(x_BCV).unsqueeze(-1) - self.phi(x_BCV).unsqueeze(-2))
        pair_BKRP = pair_BRVV.unflatten(1, (SUBSETS, -1)).flatten(3)  # P: pairs of joints
        # alpha scales the weights of M instead of its output, which is larger.
        weight, bias = self.refine.parameters()
        weight_KCR = self.alpha_K111[..., 0] * weight.reshape(SUBSETS, -1, pair_BKRP.shape[2])
        offset_KC1 = self.alpha_K111[..., 0] * bias.reshape(SUBSETS, -1, 1)
        a_BKCP = weight_KCR @ pair_BKRP + (offset_KC1 + self.shared_KVV.flatten(1).unsqueeze(1))
        return a_BKCP.unflatten(-1, pair_BRVV.shape[-2:])

    def forward(self, x_BCTV: Tensor) -> Tensor:
        """Return features (B, out_channels, T, V), not normalized."""
        value_BKCTV = self.value(x_BCTV).unflatten(1, (SUBSETS, -1))
        y_BCTV = torch.einsum("bkctv,bkcvw->bctw", value_BKCTV, self.topology(x_BCTV))
        # One copy here instead of one in front of each convolution, forward and backward: 2 to 12 % of a step.
        return y_BCTV.contiguous(memory_format=torch.channels_last)


class CtrGcn(GraphNetwork):
    """Ten blocks with an adjacency per clip and channel."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan, RefinedGraphConv)
