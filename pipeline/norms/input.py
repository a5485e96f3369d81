"""Normalization of the coordinates themselves, before the first convolution, as the graph networks do (`data_bn`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.norms.batch import BatchNorm

INPUTS = ("none", "vc", "vc_masked", "mvc", "mvc_masked")


class InputBatchNorm(BatchNorm):
    """BatchNorm over rows whose number the data decide: a lone row goes by the running statistics."""

    def too_few(self, x: Tensor, count: int) -> Tensor:
        """By the running statistics, which stay as they are."""
        return self.given(x, self.running_mean, self.running_var)


class InputNorm(nn.Module):
    """BatchNorm1d of each coordinate of each joint over clips and frames.

    vc: one set of V*C channels for all body slots (Yan et al. 2018, ST-GCN, arXiv 1801.07455); mvc: a set a slot
    (Chen et al. 2021, CTR-GCN, arXiv 2107.12213). Masked: bodies and frames that are absent weigh nothing and stay
    zero; otherwise the zeros that stand for them are data like any other.
    """

    def __init__(
        self, channels: int, bodies: int, per_slot: bool, masked: bool, momentum: float, eps: float, sync: bool
    ) -> None:
        super().__init__()
        self.masked = masked
        layers = [InputBatchNorm(channels, momentum, eps, sync) for _ in range(bodies if per_slot else 1)]
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

    @staticmethod
    def _all(layer: nn.Module, x_NMTVC: Tensor, present_NMT: Tensor) -> Tensor:
        x_BDT = x_NMTVC.flatten(3).flatten(0, 1).transpose(1, 2)
        return layer(x_BDT).transpose(1, 2).reshape(x_NMTVC.shape)

    @staticmethod
    def _present(layer: nn.Module, x_NMTVC: Tensor, present_NMT: Tensor) -> Tensor:
        rows_RVC = x_NMTVC[present_NMT]
        y_RVC = layer(rows_RVC.flatten(1)).reshape(rows_RVC.shape)
        return y_RVC.new_zeros(x_NMTVC.shape).index_put((present_NMT,), y_RVC)
