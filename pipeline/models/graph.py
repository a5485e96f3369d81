"""Shared parts of graph networks: adjacency, multi-scale temporal convolution, block, and the stack of ten blocks.

Shapes: B bodies, C channels, T frames, V joints; slot: the body slot whose statistics the norms use (bodies.py).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.data import BODIES
from pipeline.data.streams import Stream
from pipeline.models.bodies import PERSONS, SlotNorms, mean_over_bodies
from pipeline.models.plan import Bones, Plan

SUBSETS = 3
# Published channels of the ten blocks, and the stride in time of each (Yan et al. 2018, section 3.6).
BLOCKS = ((64, 1), (64, 1), (64, 1), (64, 1), (128, 2), (128, 1), (128, 1), (256, 2), (256, 1), (256, 1))
BRANCHES = 4
DILATIONS = (1, 2)
KERNEL = 5


def adjacency(bones: Bones, joints: int) -> Tensor:
    """Return the normalized adjacency A_KVV from joint v to joint w in subset k: w itself, w's parent, w's children.

    x_BCTV @ A[k] passes messages: each joint receives the mean of its subset, so columns sum to 1 (to 0 if the subset
    is empty). This is the "spatial configuration" of Yan et al. 2018 (ST-GCN, arXiv 1801.07455, section 3.3) with the
    root of the bones as centre of gravity.

    Raises:
        ValueError: There are no bones, or a bone names an unknown joint.
    """
    if not bones:
        raise ValueError("graph networks need bones, and this data file has none: give the array file an entry bones")
    a_KVV = torch.zeros(SUBSETS, joints, joints)
    a_KVV[0] = torch.eye(joints)
    for parent, child in bones:
        if not (0 <= parent < joints and 0 <= child < joints) or parent == child:
            raise ValueError(f"invalid bone ({parent}, {child}): joints must be 0 to {joints - 1}, and differ")
        a_KVV[1, parent, child] = 1
        a_KVV[2, child, parent] = 1
    return a_KVV / a_KVV.sum(dim=1, keepdim=True).clamp(min=1)


class ConvNorm(nn.Module):
    """A 1x1 convolution with a stride in time, and the norm behind it."""

    def __init__(self, plan: Plan, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.convolution = plan.norm.parametrize(
            nn.Conv2d(in_channels, out_channels, 1, stride=(stride, 1)), drop_bias=True
        )
        self.norms = SlotNorms(plan.norm, out_channels, plan.persons)

    def forward(self, x_BCTV: Tensor, slot: int) -> Tensor:
        """Return normalized features, not yet activated."""
        y_BCTV: Tensor = self.norms(self.convolution(x_BCTV), slot)
        return y_BCTV


def _dilated(channels: int, stride: int, dilation: int) -> nn.Conv2d:
    """Return a convolution over KERNEL frames that are `dilation` apart."""
    padding = (KERNEL // 2 * dilation, 0)
    return nn.Conv2d(channels, channels, (KERNEL, 1), stride=(stride, 1), padding=padding, dilation=(dilation, 1))


class MultiScaleTemporalConv(nn.Module):
    """Multi-scale temporal convolution of four branches: two dilated convolutions, a max-pool and a 1x1 convolution.

    Liu et al. 2020 (MS-G3D, arXiv 2003.14111, section 3.4) as trimmed by Chen et al. 2021 (CTR-GCN, arXiv 2107.12213,
    section 3.5). One convolution holds the bottlenecks of the first three branches, and one norm follows all four.
    """

    def __init__(self, plan: Plan, channels: int, stride: int) -> None:
        super().__init__()
        part = channels // BRANCHES
        self.bottleneck = ConvNorm(plan, channels, (BRANCHES - 1) * part)
        self.activation = plan.norm.activation()
        self.dilated = nn.ModuleList(
            plan.norm.parametrize(_dilated(part, stride, dilation), drop_bias=True) for dilation in DILATIONS
        )
        self.max_pool = nn.MaxPool2d((3, 1), stride=(stride, 1), padding=(1, 0))
        self.frame = plan.norm.parametrize(nn.Conv2d(channels, part, 1, stride=(stride, 1)), drop_bias=True)
        self.norms = SlotNorms(plan.norm, channels, plan.persons)

    def forward(self, x_BCTV: Tensor, slot: int) -> Tensor:
        """Return features (B, C, ceil(T / stride), V), normalized, not yet activated."""
        *first_two, third = self.activation(self.bottleneck(x_BCTV, slot)).chunk(BRANCHES - 1, dim=1)
        branches = [branch(part) for branch, part in zip(self.dilated, first_two, strict=True)]
        y_BCTV: Tensor = self.norms(torch.cat([*branches, self.max_pool(third), self.frame(x_BCTV)], dim=1), slot)
        return y_BCTV


class GraphBlock(nn.Module):
    """Graph convolution, temporal convolution and skip connections: act(temporal(act(norm(spatial(x)) + x')) + x'')."""

    def __init__(
        self, plan: Plan, spatial: nn.Module, in_channels: int, out_channels: int, stride: int, skip: bool
    ) -> None:
        super().__init__()
        self.spatial = spatial
        self.norms = SlotNorms(plan.norm, out_channels, plan.persons)
        self.temporal = MultiScaleTemporalConv(plan, out_channels, stride)
        self.activation = plan.norm.activation()
        self.fit = ConvNorm(plan, in_channels, out_channels) if in_channels != out_channels else None
        same = in_channels == out_channels and stride == 1
        self.skip = skip
        self.around = ConvNorm(plan, in_channels, out_channels, stride) if skip and not same else None

    def forward(self, x_BCTV: Tensor, slot: int) -> Tensor:
        """Return features (B, out_channels, ceil(T / stride), V)."""
        inner = self.norms(self.spatial(x_BCTV), slot)
        inner = self.activation(inner + (x_BCTV if self.fit is None else self.fit(x_BCTV, slot)))
        y_BCTV = self.temporal(inner, slot)
        if self.skip:
            y_BCTV = y_BCTV + (x_BCTV if self.around is None else self.around(x_BCTV, slot))
        activated: Tensor = self.activation(y_BCTV)
        return activated


class GraphNetwork(nn.Module):
    """Ten blocks over the skeleton's graph; mean over joints and frames, mean over bodies, one linear layer.

    `spatial` makes a block's graph convolution: plan, adjacency, input channels, output channels -> module over x_BCTV.
    """

    LAYERS = (("input_norm", "blocks.0"), *((f"blocks.{place}",) for place in range(1, len(BLOCKS))), ("classify",))

    def __init__(self, plan: Plan, spatial: Callable[[Plan, Tensor, int, int], nn.Module]) -> None:
        super().__init__()
        self.persons, self.mask_max = plan.persons, plan.mask_max
        self.stream = Stream(plan.stream, plan.bones, plan.joints, plan.coordinates)
        self.input_norm = plan.norm.input(self.stream.channels, plan.joints, BODIES)
        a_KVV = adjacency(plan.bones, plan.joints)
        blocks: list[nn.Module] = []
        in_channels = self.stream.channels
        for published, stride in BLOCKS:
            out_channels = plan.channels(published, 8 * BRANCHES)
            convolution = spatial(plan, a_KVV, in_channels, out_channels)
            blocks.append(GraphBlock(plan, convolution, in_channels, out_channels, stride, skip=bool(blocks)))
            in_channels = out_channels
        self.blocks = nn.ModuleList(blocks)
        self.dropout = nn.Dropout(plan.dropout)
        self.classify = nn.Linear(in_channels, plan.classes)

    def trunk(self, x_BCTV: Tensor, slot: int) -> Tensor:
        """Return features of B bodies, (B, C)."""
        for block in self.blocks:
            x_BCTV = block(x_BCTV, slot)
        return x_BCTV.mean(dim=(2, 3))

    def forward(self, x_NCTVM: Tensor, present_NMT: Tensor, bodies: int | None = None) -> Tensor:
        """Return logits (N, K).

        Args:
            x_NCTVM: Coordinates in metres.
            present_NMT: Frames in which each body was tracked.
            bodies: Number of bodies that are present in any frame, where the host knows it; then the pass never waits
                for the device.
        """
        x_NCTVM = self.stream(x_NCTVM, present_NMT)
        if self.input_norm is not None:
            x_NCTVM = self.input_norm(x_NCTVM, present_NMT)
        present_NM = present_NMT.any(dim=-1)
        features = PERSONS[self.persons](
            self.trunk, x_NCTVM, present_NM, self.mask_max, mean_over_bodies, bodies=bodies
        )
        logits: Tensor = self.classify(self.dropout(features))
        return logits
