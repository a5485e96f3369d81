"""Normalization of the coordinates before the first convolution (`data_bn` of the graph networks)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline import distributed
from pipeline.normdoctor.moments import normalize
from pipeline.norms.bn import BatchNorm


class InputBatchNorm(BatchNorm):
    """BatchNorm over present rows: a single row, which has no variance, is normalized by the running statistics."""

    by_moments_alone = False

    def handle_too_few_values(self, x: Tensor, count: int) -> Tensor:
        """Normalize by the running statistics, which do not change."""
        return self.normalize_by(x, self.running_mean, self.running_var)

    def weighted(self, x_RVD: Tensor, present_R11: Tensor) -> Tensor:
        """Return the output in training for rows of which some are absent, which become zero.

        What `forward` makes of the present rows, up to rounding. No shape depends on how many they are, so the host
        does not wait for their number.

        Args:
            x_RVD: Rows of V values per channel.
            present_R11: 1 for a present row, else 0.
        """
        count = present_R11.sum() * x_RVD.shape[1]
        mean_D = (x_RVD * present_R11).sum((0, 1)) / count.clamp(min=1)
        variance_D = ((x_RVD - mean_D).square() * present_R11).sum((0, 1)) / count.clamp(min=1)
        enough = count > 1
        with torch.no_grad():
            unbiased_D = variance_D * count / (count - 1).clamp(min=1)
            for running, new in ((self.running_mean, mean_D), (self.running_var, unbiased_D)):
                running.copy_(torch.where(enough, running.lerp(new.to(running), self.momentum), running))
            self.num_batches_tracked.add_(enough)
        mean_D = torch.where(enough, mean_D, self.running_mean)
        variance_D = torch.where(enough, variance_D, self.running_var)
        y_BD = normalize(x_RVD.flatten(0, 1), mean_D, variance_D, self.weight, self.bias, self.eps)
        return y_BD.reshape(x_RVD.shape) * present_R11


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
        self.is_static = False
        """Weight absent frames by zero in training instead of leaving them out: shapes then do not change."""
        layers = [InputBatchNorm(features, momentum, eps, sync) for _ in range(bodies if per_slot else 1)]
        for slot, layer in enumerate(layers if per_slot else []):
            layer.slot = slot
        self.layers = nn.ModuleList(layers)

    def forward(self, x_NCTVM: Tensor, present_NMT: Tensor) -> Tensor:
        """Normalize x_NCTVM by the frames in present_NMT (if masked) or by all."""
        x_NMTVC = x_NCTVM.permute(0, 4, 2, 3, 1)
        step = x_NMTVC.shape[1] // len(self.layers)
        layers: Iterable[Any] = self.layers
        call = self._present if self.masked else self._all
        parts = [
            call(layer, x_NMTVC[:, slot : slot + step], present_NMT[:, slot : slot + step])
            for slot, layer in enumerate(layers)
        ]
        return torch.cat(parts, dim=1).permute(0, 4, 2, 3, 1)

    def _all(self, layer: InputBatchNorm, x_NMTVC: Tensor, present_NMT: Tensor) -> Tensor:
        x_BTVC = x_NMTVC.flatten(0, 1)
        x_BRD = x_BTVC.reshape(x_BTVC.shape[0], -1, self.features)  # not len(): the exporter would make it a constant
        y_BRD: Tensor = layer(x_BRD.transpose(1, 2)).transpose(1, 2)
        return y_BRD.reshape(x_NMTVC.shape)

    def _present(self, layer: InputBatchNorm, x_NMTVC: Tensor, present_NMT: Tensor) -> Tensor:
        if self.is_static and layer.training and not layer.is_watched and distributed.world_size() == 1:
            x_RVD = x_NMTVC.reshape(present_NMT.numel(), -1, self.features)
            return layer.weighted(x_RVD, present_NMT.reshape(-1, 1, 1).to(x_RVD.dtype)).reshape(x_NMTVC.shape)
        present = present_NMT.nonzero(as_tuple=True)  # once: each call waits for the GPU
        rows_RVC = x_NMTVC[present]
        y_RVC: Tensor = layer(rows_RVC.reshape(-1, self.features)).reshape(rows_RVC.shape)
        return y_RVC.new_zeros(x_NMTVC.shape).index_put(present, y_RVC)


def keep_shapes(model: nn.Module) -> None:
    """Let the masked norms of the coordinates weight absent frames by zero, so that no shape depends on them."""
    for module in model.modules():
        if isinstance(module, InputNorm):
            module.is_static = True
