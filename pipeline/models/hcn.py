"""HCN, the co-occurrence network: joints become channels, so that each convolution sees all joints at once.

Li et al. 2018 (arXiv 1804.06055), with the published sizes at width 1. A norm and an activation follow every
convolution; the paper has no norms and activates only some convolutions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.data import BODIES
from pipeline.data.streams import Stream, motion
from pipeline.models.bodies import PERSONS, SlotNorms
from pipeline.models.plan import Plan

CONV1, CONV2, CONV3, CONV4, CONV5, CONV6, FC7 = 64, 32, 32, 64, 128, 256, 256  # output channels of the layers
HALVINGS = 4


class Branch(nn.Module):
    """One input branch (positions or motion): features of each joint, then of all joints together."""

    def __init__(self, plan: Plan, in_channels: int) -> None:
        super().__init__()
        conv1, conv2, conv3, conv4 = map(plan.channels, (CONV1, CONV2, CONV3, CONV4))
        convolutions = (
            nn.Conv2d(in_channels, conv1, 1),
            nn.Conv2d(conv1, conv2, (3, 1), padding=(1, 0)),
            nn.Conv2d(plan.joints, conv3, 3, padding=1),
            nn.Conv2d(conv3, conv4, 3, padding=1),
        )
        self.convolutions = nn.ModuleList(map(plan.norm.parametrize, convolutions))
        self.norms = nn.ModuleList(
            SlotNorms(plan.norm, channels, plan.persons) for channels in (conv1, conv2, conv3, conv4)
        )
        self.activation = plan.norm.activation()
        self.dropout = nn.Dropout2d(plan.dropout)

    def forward(self, x_BCTV: Tensor, slot: int) -> Tensor:
        """Return features (B, 64, T // 4, 8) of x_BCTV at width 1; the last axis held the channels of a joint."""
        norms: Any = self.norms
        for stage in range(2):
            x_BCTV = self.activation(norms[stage](self.convolutions[stage](x_BCTV), slot))
        y = x_BCTV.transpose(1, 3)  # (B, V, T, C)
        for stage in range(2, 4):
            y = norms[stage].pooled(self.convolutions[stage](y), slot, (2, 2), self.activation)
        dropped: Tensor = self.dropout(y)
        return dropped


class Hcn(nn.Module):
    """Two branches (positions, motion), two convolutions over both; maximum over bodies; linear 256, norm, ReLU, K."""

    LAYERS = (
        ("input_norm", "branches"),
        ("convolutions.0", "norms.0"),
        ("convolutions.1", "norms.1"),
        ("hidden", "hidden_norm"),
        ("classify",),
    )

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        least = 2**HALVINGS
        if plan.frames < least:
            raise ValueError(f"hcn halves frames {HALVINGS} times: it needs {least}, got input.frames {plan.frames}")
        self.persons, self.mask_max = plan.persons, plan.mask_max
        self.stream = Stream(plan.stream, plan.bones, plan.joints, plan.coordinates)
        self.input_norm = plan.norm.input(self.stream.channels, plan.joints, BODIES)
        self.branches = nn.ModuleList(Branch(plan, self.stream.channels) for _ in range(2))
        conv4, conv5, conv6 = map(plan.channels, (CONV4, CONV5, CONV6))
        self.convolutions = nn.ModuleList(
            plan.norm.parametrize(nn.Conv2d(a, b, 3, padding=1)) for a, b in ((2 * conv4, conv5), (conv5, conv6))
        )
        self.norms = nn.ModuleList(SlotNorms(plan.norm, channels, plan.persons) for channels in (conv5, conv6))
        self.drop_channels = nn.Dropout2d(plan.dropout)
        hidden = plan.channels(FC7)
        # The axis of conv2's channels must survive four halvings, whatever the width.
        self.columns = max(1, plan.channels(CONV2) // least)
        self.hidden = plan.norm.parametrize(nn.Linear(conv6 * (plan.frames // least) * self.columns, hidden))
        self.hidden_norm = plan.norm(hidden)
        self.activation = plan.norm.activation()
        self.dropout = nn.Dropout(plan.dropout)
        self.classify = nn.Linear(hidden, plan.classes)

    def trunk(self, x_BCTV: Tensor, slot: int) -> Tensor:
        """Return features of B bodies, (B, 256, T // 16, 2) at width 1, of positions and motion in (B, 2 C, T, V)."""
        parts = zip(self.branches, x_BCTV.chunk(2, dim=1), strict=True)
        y = torch.cat([branch(part, slot) for branch, part in parts], dim=1)
        norms: Iterable[Any] = self.norms
        for convolution, norm in zip(self.convolutions, norms, strict=True):
            window = (2, min(2, y.shape[-1]))  # a narrow network keeps its last column
            y = self.drop_channels(norm.pooled(convolution(y), slot, window, self.activation))
        return y

    def forward(self, x_NCTVM: Tensor, present_NMT: Tensor, bodies: int | None = None) -> Tensor:
        """Return logits (N, K).

        Args:
            x_NCTVM: Coordinates in metres.
            present_NMT: Frames in which each body was tracked.
            bodies: Number of bodies that are present in any frame, where the host knows it; then the pass never waits
                for the device.
        """
        absent_N1TVM = x_NCTVM[:, :1].isnan()
        x_NCTVM = self.stream(x_NCTVM, present_NMT)
        if self.input_norm is not None:
            x_NCTVM = self.input_norm(x_NCTVM, present_NMT)
        both = torch.cat([x_NCTVM, motion(x_NCTVM, present_NMT, absent_N1TVM)], dim=1)
        present_NM = present_NMT.any(dim=-1)
        features = PERSONS[self.persons](self.trunk, both, present_NM, self.mask_max, bodies=bodies)
        hidden = self.activation(self.hidden_norm(self.hidden(features.flatten(1))))
        logits: Tensor = self.classify(self.dropout(hidden))
        return logits
