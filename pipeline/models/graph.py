"""What graph networks share: the skeleton's adjacency, the temporal branches, the block and the stack of ten blocks.

Shapes: B bodies, C channels, T frames, V joints; slot: whose statistics the norms use (bodies.py).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.data import BODIES
from pipeline.data.streams import Stream
from pipeline.models.bodies import PERSONS, SlotNorms, average
from pipeline.models.plan import Bones, Plan

SUBSETS = 3
# Published channels of the ten blocks, and the stride in time of each (Yan et al. 2018, section 3.6).
BLOCKS = ((64, 1), (64, 1), (64, 1), (64, 1), (128, 2), (128, 1), (128, 1), (256, 2), (256, 1), (256, 1))
BRANCHES = 4
DILATIONS = (1, 2)
KERNEL = 5


def adjacency(bones: Bones, joints: int) -> Tensor:
    """A_KVV: from joint v to joint w in subset k: itself, w's parent, w's children. x_BCTV @ A[k] passes messages.

    Each joint receives the mean of its subset (columns sum to 1, or to 0 where the subset is empty). The "spatial
    configuration" of Yan et al. 2018 (ST-GCN, arXiv 1801.07455, section 3.3) with the root of the bones as centre of
    gravity. ValueError for bones that are missing or name other joints.
    """
    if not bones:
        raise ValueError("graph networks need bones, and this data file has none: give the array file an entry bones")
    a_KVV = torch.zeros(SUBSETS, joints, joints)
    a_KVV[0] = torch.eye(joints)
    for parent, child in bones:
        if not (0 <= parent < joints and 0 <= child < joints) or parent == child:
            raise ValueError(f"bone ({parent}, {child}) is none between {joints} joints")
        a_KVV[1, parent, child] = 1
        a_KVV[2, child, parent] = 1
    return a_KVV / a_KVV.sum(dim=1, keepdim=True).clamp(min=1)


class Convolved(nn.Module):
    """A convolution over time, and the norm behind it."""

    def __init__(self, plan: Plan, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        self.convolution = plan.norm.parametrize(nn.Conv2d(inside, outside, 1, stride=(stride, 1)), drop_bias=True)
        self.norms = SlotNorms(plan.norm, outside, plan.persons)

    def forward(self, x_BCTV: Tensor, slot: int) -> Tensor:
        """Normalised features, not yet activated."""
        y_BCTV: Tensor = self.norms(self.convolution(x_BCTV), slot)
        return y_BCTV


def _dilated(channels: int, stride: int, dilation: int) -> nn.Conv2d:
    """Return a convolution over KERNEL frames that are `dilation` apart."""
    padding = (KERNEL // 2 * dilation, 0)
    return nn.Conv2d(channels, channels, (KERNEL, 1), stride=(stride, 1), padding=padding, dilation=(dilation, 1))


class TemporalBranches(nn.Module):
    """Four views of time side by side: two dilated convolutions, a maximum, and the frame itself.

    Liu et al. 2020 (MS-G3D, arXiv 2003.14111, section 3.4) as trimmed by Chen et al. 2021 (CTR-GCN, arXiv 2107.12213,
    section 3.5). The three branches' bottlenecks are one convolution, and the four results share one norm.
    """

    def __init__(self, plan: Plan, channels: int, stride: int) -> None:
        super().__init__()
        part = channels // BRANCHES
        self.bottleneck = Convolved(plan, channels, (BRANCHES - 1) * part)
        self.activation = plan.norm.activation()
        self.dilated = nn.ModuleList(
            plan.norm.parametrize(_dilated(part, stride, dilation), drop_bias=True) for dilation in DILATIONS
        )
        self.highest = nn.MaxPool2d((3, 1), stride=(stride, 1), padding=(1, 0))
        self.frame = plan.norm.parametrize(nn.Conv2d(channels, part, 1, stride=(stride, 1)), drop_bias=True)
        self.norms = SlotNorms(plan.norm, channels, plan.persons)

    def forward(self, x_BCTV: Tensor, slot: int) -> Tensor:
        """Features (B, C, ceil(T / stride), V), normalised, not yet activated."""
        *parts, last = self.activation(self.bottleneck(x_BCTV, slot)).chunk(BRANCHES - 1, dim=1)
        views = [branch(part) for branch, part in zip(self.dilated, parts, strict=True)]
        y_BCTV: Tensor = self.norms(torch.cat([*views, self.highest(last), self.frame(x_BCTV)], dim=1), slot)
        return y_BCTV


class Block(nn.Module):
    """Over the joints, over time, and past both: act(temporal(act(norm(spatial(x)) + x')) + x'')."""

    def __init__(self, plan: Plan, spatial: nn.Module, inside: int, outside: int, stride: int, skip: bool) -> None:
        super().__init__()
        self.spatial = spatial
        self.norms = SlotNorms(plan.norm, outside, plan.persons)
        self.temporal = TemporalBranches(plan, outside, stride)
        self.activation = plan.norm.activation()
        self.fit = Convolved(plan, inside, outside) if inside != outside else None
        same = inside == outside and stride == 1
        self.skip = skip
        self.around = Convolved(plan, inside, outside, stride) if skip and not same else None

    def forward(self, x_BCTV: Tensor, slot: int) -> Tensor:
        """Features (B, outside, ceil(T / stride), V)."""
        inner = self.norms(self.spatial(x_BCTV), slot)
        inner = self.activation(inner + (x_BCTV if self.fit is None else self.fit(x_BCTV, slot)))
        y_BCTV = self.temporal(inner, slot)
        if self.skip:
            y_BCTV = y_BCTV + (x_BCTV if self.around is None else self.around(x_BCTV, slot))
        activated: Tensor = self.activation(y_BCTV)
        return activated


class GraphNetwork(nn.Module):
    """Ten blocks over the skeleton's graph; mean over joints and frames, mean over bodies, one linear layer.

    `spatial` makes what a block does over the joints: adjacency, channels in, channels out -> module over x_BCTV.
    """

    def __init__(self, plan: Plan, spatial: Callable[[Plan, Tensor, int, int], nn.Module]) -> None:
        super().__init__()
        self.persons, self.mask_max = plan.persons, plan.mask_max
        self.stream = Stream(plan.stream, plan.bones, plan.joints)
        self.input_norm = plan.norm.input(self.stream.channels, plan.joints, BODIES)
        a_KVV = adjacency(plan.bones, plan.joints)
        blocks: list[nn.Module] = []
        inside = self.stream.channels
        for published, stride in BLOCKS:
            outside = plan.channels(published, 8 * BRANCHES)
            blocks.append(
                Block(plan, spatial(plan, a_KVV, inside, outside), inside, outside, stride, skip=bool(blocks))
            )
            inside = outside
        self.blocks = nn.ModuleList(blocks)
        self.dropout = nn.Dropout(plan.dropout)
        self.classify = nn.Linear(inside, plan.classes)

    def trunk(self, x_BCTV: Tensor, slot: int) -> Tensor:
        """Features of B bodies, (B, C)."""
        for block in self.blocks:
            x_BCTV = block(x_BCTV, slot)
        return x_BCTV.mean(dim=(2, 3))

    def forward(self, x_NCTVM: Tensor, present_NMT: Tensor) -> Tensor:
        """Logits (N, K) of clips x_NCTVM in metres; present_NMT says in which frames a body was tracked."""
        x_NCTVM = self.stream(x_NCTVM, present_NMT)
        if self.input_norm is not None:
            x_NCTVM = self.input_norm(x_NCTVM, present_NMT)
        features = PERSONS[self.persons](self.trunk, x_NCTVM, present_NMT.any(dim=-1), self.mask_max, average)
        logits: Tensor = self.classify(self.dropout(features))
        return logits
