"""`Norm`: a kind of norm bound to its settings, which is what a model receives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from pipeline.norms.input import InputNorm
from pipeline.norms.kind import Kind
from pipeline.norms.weights import standardize

if TYPE_CHECKING:
    from pipeline.norms import NormConfig


@dataclass(frozen=True)
class Norm:
    """A kind bound to its settings. A model asks it for layers, so it never names a norm."""

    kind: Kind
    config: NormConfig

    def __call__(self, channels: int) -> nn.Module:
        """Return a new layer over x (B, C) or (B, C, T, V)."""
        return self.kind.layer(channels, self.config)

    def activation(self) -> nn.Module:
        """Return the module behind the layer: ReLU, or the identity if the kind has an activation of its own."""
        return nn.Identity() if self.kind.activates else nn.ReLU()

    def parametrize(self, layer: nn.Module, drop_bias: bool = False) -> nn.Module:
        """Return the convolution or linear layer in front of the norm with its weights as the kind wants them.

        Args:
            layer: Convolution or linear layer; it is changed in place.
            drop_bias: Remove the bias if the norm subtracts it again (Ioffe & Szegedy 2015, section 3.2). Adding biases
                and summing their zero gradients took 11 of the 96 ms of a step of `stgcn` (H200).
        """
        if drop_bias and self.kind.centres:
            layer.register_parameter("bias", None)
        return layer if self.kind.weights is None else standardize(layer, self.kind.weights)

    def input(self, channels: int, joints: int, bodies: int) -> InputNorm | None:
        """Return the norm of the coordinates x_NCTVM, or None if `norm.input` is none."""
        name, config = self.config.input, self.config
        if name == "none":
            return None
        features = channels if name.startswith("c") else channels * joints
        per_slot, masked = name.startswith("mvc"), name.endswith("masked")
        return InputNorm(features, bodies, per_slot, masked, config.momentum, config.eps, config.sync)
