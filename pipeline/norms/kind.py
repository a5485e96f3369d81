"""`Kind`: how the layer of one norm is made, and the facts about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from pipeline.norms.weights import WeightStandardization

if TYPE_CHECKING:
    from pipeline.norms import NormConfig


@dataclass(frozen=True)
class Kind:
    """One entry of NORMS: how its layer is made, and the facts about it that other code needs."""

    layer: Callable[[int, NormConfig], nn.Module]
    """Number of channels, settings -> layer over x (B, C) or (B, C, T, V)."""
    settings: tuple[str, ...] = ()
    """Fields of NormConfig that have an effect on this kind; the others are ignored."""
    batch_statistics: bool = False
    """In training the output of a row depends on the other rows of the batch (with default settings)."""
    activates: bool = False
    """The layer's formula contains the activation: no ReLU follows."""
    weights: type[WeightStandardization] | None = None
    """Standardization of the weights of the convolution or linear layer in front."""
    centres: bool = False
    """The layer subtracts the mean of each channel: a bias in front of it has no effect."""
    synchronized: bool = False
    """Statistics always cover all ranks: `norm.sync` off is an error. On one rank the kind equals another."""
    title: str = ""
    """Its name in the literature, and the source of its formula."""

    @property
    def running_statistics(self) -> bool:
        """Return whether the layer keeps running statistics, so that momentum and recalibration matter."""
        return "momentum" in self.settings

    @property
    def takes_groups(self) -> bool:
        """Return whether the layer divides its channels into `norm.groups` groups."""
        return "groups" in self.settings
