"""Normalization of the coordinates themselves, before the first convolution, as the graph networks do (`data_bn`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.norms.bn import BatchNorm

INPUTS = ("none", "c", "c_masked", "vc", "vc_masked", "mvc", "mvc_masked")


class InputBatchNorm(BatchNorm):
    """BatchNorm over rows whose number the data decide: a lone row goes by the running statistics."""

    by_moments_alone = False

    def too_few(self, x: Tensor, count: int) -> Tensor:
        """By the running statistics, which stay as they are."""
        return self.given(x, self.running_mean, self.running_var)


class InputNorm(nn.Module):
    """BatchNorm1d of coordinates over clips and frames.

    vc: each of each joint, one set of V*C channels for all body slots (Yan et al. 2018, ST-GCN, arXiv 1801.07455);
    mvc: a set a slot (Chen et al. 2021, CTR-GCN, arXiv 2107.12213). c: each over all joints, C channels: streams come
    to one scale, but a joint that hardly moves is not blown up to the spread of a hand, its noise and its body's size
    with it. Masked: bodies and frames that are absent weigh nothing and stay zero; otherwise the zeros that stand for
    them are data like any other.
    """

    def __init__(
        self, features: int, bodies: int, per_slot: bool, masked: bool, momentum: float, eps: float, sync: bool
    ) -> None:
        """`features`: C, or V*C."""
        super().__init__()
        self.features, self.masked = features, masked
        layers = [InputBatchNorm(features, momentum, eps, sync) for _ in range(bodies if per_slot else 1)]
        for slot, layer in enumerate(layers if per_slot else []):
            layer.slot = slot
        self.layers = nn.ModuleList(layers)

    def forward(self, x_NCTVM: Tensor, present_NMT: Tensor) -> Tensor:
        """x_NCTVM normalised, in the same shape."""
        x_NMTVC = x_NCTVM.permute(0, 4, 2, 3, 1)
        step = x_NMTVC.shape[1] // len(self.layers)
        one = self._present if self.masked else self._all
        parts = [
            one(layer, x_NMTVC[:, slot : slot + step], present_NMT[:, slot : slot + step])
            for slot, layer in enumerate(self.layers)
        ]
        return torch.cat(parts, dim=1).permute(0, 4, 2, 3, 1)

    def _all(self, layer: nn.Module, x_NMTVC: Tensor, present_NMT: Tensor) -> Tensor:
        x_BTVC = x_NMTVC.flatten(0, 1)
        x_BRD = x_BTVC.reshape(x_BTVC.shape[0], -1, self.features)  # no len(): an export would take it for a constant
        return layer(x_BRD.transpose(1, 2)).transpose(1, 2).reshape(x_NMTVC.shape)

    def _present(self, layer: nn.Module, x_NMTVC: Tensor, present_NMT: Tensor) -> Tensor:
        there = present_NMT.nonzero(as_tuple=True)  # once: a GPU is waited for each time
        rows_RVC = x_NMTVC[there]
        y_RVC = layer(rows_RVC.reshape(-1, self.features)).reshape(rows_RVC.shape)
        return y_RVC.new_zeros(x_NMTVC.shape).index_put(there, y_RVC)
