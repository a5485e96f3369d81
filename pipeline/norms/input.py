"""Normalization of the coordinates before the first convolution (`data_bn` of the graph networks)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.norms.bn import BatchNorm


class InputBatchNorm(BatchNorm):
    """BatchNorm over present rows: a single row, which has no variance, is normalized by the running statistics."""

    by_moments_alone = False

    def handle_too_few_values(self, x: Tensor, count: int) -> Tensor:
        """Normalize by the running statistics, which do not change."""
        return self.normalize_by(x, self.running_mean, self.running_var)


class InputNorm(nn.Module):
    """BatchNorm1d of coordinates over clips and frames.

    vc: V*C channels, one per joint and coordinate, shared by all body slots (Yan et al. 2018, ST-GCN, arXiv
    1801.07455). mvc: the same per body slot (Chen et al. 2021, CTR-GCN, arXiv 2107.12213). c: C channels over all
    joints: streams get one scale, but the noise of a joint that hardly moves is not amplified to the spread of a hand.
    Masked: absent bodies and frames do not enter the statistics and stay zero; otherwise their zeros count as data.
    """

    def __init__(
        self, features: int, bodies: int, per_slot: bool, masked: bool, momentum: float, eps: float, sync: bool
    ) -> None:
        """Make one BatchNorm over `features` (C, or V*C) channels, or one per body slot."""
        super().__init__()
        self.features, self.masked = features, masked
        layers = [InputBatchNorm(features, momentum, eps, sync) for _ in range(bodies if per_slot else 1)]
        for slot, layer in enumerate(layers if per_slot else []):
            layer.slot = slot
        self.layers = nn.ModuleList(layers)

    def forward(self, x_NCTVM: Tensor, present_NMT: Tensor) -> Tensor:
        """Normalize x_NCTVM by the frames in present_NMT (if masked) or by all."""
        x_NMTVC = x_NCTVM.permute(0, 4, 2, 3, 1)
        step = x_NMTVC.shape[1] // len(self.layers)
        normalize = self._present if self.masked else self._all
        parts = [
            normalize(layer, x_NMTVC[:, slot : slot + step], present_NMT[:, slot : slot + step])
            for slot, layer in enumerate(self.layers)
        ]
        return torch.cat(parts, dim=1).permute(0, 4, 2, 3, 1)

    def _all(self, layer: nn.Module, x_NMTVC: Tensor, present_NMT: Tensor) -> Tensor:
        x_BTVC = x_NMTVC.flatten(0, 1)
        x_BRD = x_BTVC.reshape(x_BTVC.shape[0], -1, self.features)  # not len(): the exporter would make it a constant
        return layer(x_BRD.transpose(1, 2)).transpose(1, 2).reshape(x_NMTVC.shape)

    def _present(self, layer: nn.Module, x_NMTVC: Tensor, present_NMT: Tensor) -> Tensor:
        present = present_NMT.nonzero(as_tuple=True)  # once: each call waits for the GPU
        rows_RVC = x_NMTVC[present]
        y_RVC = layer(rows_RVC.reshape(-1, self.features)).reshape(rows_RVC.shape)
        return y_RVC.new_zeros(x_NMTVC.shape).index_put(present, y_RVC)
