"""The co-occurrence network: joints become channels, so that each convolution sees all of them at once.

Li et al. 2018 (HCN, arXiv 1804.06055), with the published sizes at width 1. A norm and an activation follow every
convolution, where the paper, which has no norm, activates only some.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.data import BODIES
from pipeline.data.streams import Stream, motion
from pipeline.models.bodies import PERSONS, SlotNorms
from pipeline.models.plan import Plan

POINT, COORDINATES, TOGETHER, PAIRED, FIFTH, SIXTH, HIDDEN = 64, 32, 32, 64, 128, 256, 256
HALVINGS = 4


class Branch(nn.Module):
    """Positions or motion of a body: features of each joint, then of all joints together."""

    def __init__(self, plan: Plan, inside: int) -> None:
        super().__init__()
        point, coordinates, together, paired = map(plan.channels, (POINT, COORDINATES, TOGETHER, PAIRED))
        convolutions = (
            nn.Conv2d(inside, point, 1),
            nn.Conv2d(point, coordinates, (3, 1), padding=(1, 0)),
            nn.Conv2d(plan.joints, together, 3, padding=1),
            nn.Conv2d(together, paired, 3, padding=1),
        )
        self.convolutions = nn.ModuleList(map(plan.norm.parametrize, convolutions))
        self.norms = nn.ModuleList(
            SlotNorms(plan.norm, channels, plan.persons) for channels in (point, coordinates, together, paired)
        )
        self.activation = plan.norm.activation()
        self.dropout = nn.Dropout2d(plan.dropout)

    def forward(self, x_BCTV: Tensor, slot: int) -> Tensor:
        """Features (B, 64, T/4, 8): the last axis was the channels of a joint."""
        for stage in range(2):
            x_BCTV = self.activation(self.norms[stage](self.convolutions[stage](x_BCTV), slot))
        y = x_BCTV.transpose(1, 3)  # (B, V, T, C)
        for stage in range(2, 4):
            y = torch.max_pool2d(self.activation(self.norms[stage](self.convolutions[stage](y), slot)), 2)
        dropped: Tensor = self.dropout(y)
        return dropped


class Hcn(nn.Module):
    """Two branches (positions, motion), two convolutions over both; max over bodies; linear 256, norm, ReLU, K."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        least = 2**HALVINGS
        if plan.frames < least:
            raise ValueError(f"hcn halves frames {HALVINGS} times: it needs {least}, got input.frames {plan.frames}")
        self.persons, self.mask_max = plan.persons, plan.mask_max
        self.stream = Stream(plan.stream, plan.bones, plan.joints)
        self.input_norm = plan.norm.input(self.stream.channels, plan.joints, BODIES)
        self.branches = nn.ModuleList(Branch(plan, self.stream.channels) for _ in range(2))
        paired, fifth, sixth = map(plan.channels, (PAIRED, FIFTH, SIXTH))
        self.convolutions = nn.ModuleList(
            plan.norm.parametrize(nn.Conv2d(a, b, 3, padding=1)) for a, b in ((2 * paired, fifth), (fifth, sixth))
        )
        self.norms = nn.ModuleList(SlotNorms(plan.norm, channels, plan.persons) for channels in (fifth, sixth))
        self.drop_channels = nn.Dropout2d(plan.dropout)
        hidden = plan.channels(HIDDEN)
        # The coordinates' axis must survive four halvings, whatever the width.
        self.columns = max(1, plan.channels(COORDINATES) // least)
        self.hidden = plan.norm.parametrize(nn.Linear(sixth * (plan.frames // least) * self.columns, hidden))
        self.hidden_norm = plan.norm(hidden)
        self.activation = plan.norm.activation()
        self.dropout = nn.Dropout(plan.dropout)
        self.classify = nn.Linear(hidden, plan.classes)

    def trunk(self, x_BCTV: Tensor, slot: int) -> Tensor:
        """Features of B bodies, (B, 256, T/16, 2), from positions and motion in (B, 2 C, T, V)."""
        parts = zip(self.branches, x_BCTV.chunk(2, dim=1), strict=True)
        y = torch.cat([branch(part, slot) for branch, part in parts], dim=1)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            y = self.activation(norm(convolution(y), slot))
            y = self.drop_channels(torch.max_pool2d(y, (2, min(2, y.shape[-1]))))
        return y

    def forward(self, x_NCTVM: Tensor, present_NMT: Tensor) -> Tensor:
        """Logits (N, K) of clips x_NCTVM in metres; present_NMT says in which frames a body was tracked."""
        x_NCTVM = self.stream(x_NCTVM, present_NMT)
        if self.input_norm is not None:
            x_NCTVM = self.input_norm(x_NCTVM, present_NMT)
        both = torch.cat([x_NCTVM, motion(x_NCTVM, present_NMT)], dim=1)
        features = PERSONS[self.persons](self.trunk, both, present_NMT.any(dim=-1), self.mask_max)
        hidden = self.activation(self.hidden_norm(self.hidden(features.flatten(1))))
        logits: Tensor = self.classify(self.dropout(hidden))
        return logits
