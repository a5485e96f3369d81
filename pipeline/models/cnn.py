"""A small CNN: three convolutions over (T, V), the maximum over two bodies, two linear layers."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from pipeline.data import BODIES
from pipeline.data.streams import Stream
from pipeline.models.bodies import PERSONS, SlotNorms
from pipeline.models.plan import Plan

WIDTHS = (32, 64, 128)
HIDDEN = 512


class Cnn(nn.Module):
    """Three times (3x3 convolution, norm, ReLU, 2x2 max-pool) per body; maximum over bodies; linear 512, norm, ReLU, K.

    Some norms replace the ReLU by an activation of their own, and some standardize the weights in front of them.
    """

    LAYERS = (
        ("input_norm", "convolutions.0", "norms.0"),
        ("convolutions.1", "norms.1"),
        ("convolutions.2", "norms.2"),
        ("hidden", "hidden_norm"),
        ("classify",),
    )

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        frames, joints, norm = plan.frames, plan.joints, plan.norm
        least = 2 ** len(WIDTHS)
        if frames < least:
            raise ValueError(f"cnn halves frames {len(WIDTHS)} times: it needs {least}, got input.frames {frames}")
        self.persons, self.mask_max = plan.persons, plan.mask_max
        self.stream = Stream(plan.stream, plan.bones, joints, plan.coordinates)
        self.input_norm = norm.input(self.stream.channels, joints, BODIES)
        widths = [plan.channels(width) for width in WIDTHS]
        self.convolutions = nn.ModuleList(
            norm.parametrize(nn.Conv2d(a, b, kernel_size=3, padding=1))
            for a, b in pairwise((self.stream.channels, *widths))
        )
        self.norms = nn.ModuleList(SlotNorms(norm, width, plan.persons) for width in widths)
        hidden = plan.channels(HIDDEN)
        self.hidden = norm.parametrize(nn.Linear(widths[-1] * (frames // least) * max(1, joints // least), hidden))
        self.hidden_norm = norm(hidden)
        self.activation = norm.activation()
        self.dropout = nn.Dropout(plan.dropout)
        self.classify = nn.Linear(hidden, plan.classes)

    def trunk(self, x_BCTV: Tensor, slot: int) -> Tensor:
        """Return features of B bodies, (B, 128, T // 8, max(1, V // 8)) at width 1."""
        norms: Iterable[Any] = self.norms
        for convolution, norm in zip(self.convolutions, norms, strict=True):
            window = (2, min(2, x_BCTV.shape[-1]))  # a skeleton of few joints keeps its last one
            x_BCTV = norm.pooled(convolution(x_BCTV), slot, window, self.activation)
        return x_BCTV

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
        features = PERSONS[self.persons](self.trunk, x_NCTVM, present_NM, self.mask_max, bodies=bodies)
        hidden = self.activation(self.hidden_norm(self.hidden(features.flatten(1))))
        logits: Tensor = self.classify(self.dropout(hidden))
        return logits
